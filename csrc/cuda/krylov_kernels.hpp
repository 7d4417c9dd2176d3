// The kernel set of the Krylov driver over block programs. `Be` launches them: cuda/backend.hpp on a GPU,
// csrc/tests/block_backend.hpp by loops on the CPU. Semantics are those of drivers/krylov.hpp; a call works
// on all its tasks at once, and launches, uploads and reads are stated with every function.
//
// A step of any number of lanes: product 1 launch, preconditioner 1 (Chebyshev 9; ILU(0) one more per wide
// level), storing the direction 1, `expand` 5; uploads: the tasks of `expand` and of the direction stored,
// and of the products where no preconditioner lets them repeat. No read.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/sequence.hpp"
#include "cuda/krylov_inverses.hpp"
#include "drivers/krylov.hpp"
#include "drivers/sequence.hpp"

namespace aitken::cuda {

// B: double or float.
template <class Be, class B>
class krylov_kernels {
    template <class Task>
    using list = std::span<const Task>;
    using S = double;
    using apply_task = drivers::krylov::apply_task<S>;
    using columns_task = drivers::krylov::apply_columns_task<B>;

public:
    // `inverse_of` null: identity; it outlives this object.
    krylov_kernels(Be& be, const device_rows& a, int lanes, inverse<Be>* inverse_of)
        : be_(be), inverse_(inverse_of), matrix_(be, a, lanes), n_(a.n), strips_(a.n) {
        names_.resize(static_cast<std::size_t>(lanes));
    }

    // The lane's matrix. Its preconditioner is made at the next use, with those of other lanes; `name` goes
    // in front of what an error says.
    void set_matrix(int lane, const double* values, bool renew_inverse, std::string name) {
        matrix_.set(lane, values);
        names_[static_cast<std::size_t>(lane)] = std::move(name);
        if (inverse_ == nullptr || !renew_inverse) return;
        const auto old = std::find_if(stale_.begin(), stale_.end(),
                                      [lane](const refresh_task& t) { return t.lane == lane; });
        if (old != stale_.end())
            old->values = values;
        else
            stale_.push_back({lane, values});
    }
    const double* values(int lane) const { return matrix_.values(lane); }

    bool has_inverse() const { return inverse_ != nullptr; }

    void apply_matrix(list<apply_task> tasks) { matrix_.apply(vectors(tasks)); }
    void apply_inverse(list<apply_task> tasks) {
        refresh();
        if (!tasks.empty()) inverse_->apply(vectors(tasks));
    }
    void apply_matrix_columns(list<columns_task> tasks) { matrix_.apply(columns(tasks)); }
    void apply_inverse_columns(list<columns_task> tasks) {
        refresh();
        const auto all = columns(tasks);
        if (!all.empty()) inverse_->apply(all);
    }

    // 3 launches, 1 read.
    void residual(list<drivers::krylov::residual_task<S>> tasks) {
        if (tasks.empty()) return;
        std::vector<vector_task<S>> products;
        std::vector<residual_vectors> differences;
        for (const auto& t : tasks) {
            products.push_back({t.lane, t.x.data, t.r.data});
            differences.push_back({t.b.data, t.r.data});
        }
        matrix_.apply(products);
        const auto count = static_cast<index>(tasks.size());
        double* const part = room(part_, strips_.count * count);
        be_.launch(strip_pass(subtract_from_rhs{differences_.send(be_, differences)}, strips_, count, part));
        const std::vector<double> squares = strip_sums(part, count);
        for (std::size_t k = 0; k < tasks.size(); ++k) *tasks[k].norm = std::sqrt(squares[k]);
    }

    // 1 upload, 5 launches, no read: whether a lane needs the second pass is decided on the device. Modified
    // Gram-Schmidt would be two launches per column; two classical passes are at least as orthogonal.
    void expand(list<drivers::krylov::expand_task<S, B>> tasks, aitken::krylov::ortho how) {
        if (tasks.empty()) return;
        std::vector<basis_task<B>> there;
        index total = 0;
        for (const auto& t : tasks) {
            there.push_back({t.c.data, t.v.data, t.c.ld, t.v.ld, static_cast<int>(t.c.cols),
                             static_cast<int>(t.v.cols), t.w.data, t.column, t.v.col(t.v.cols), total});
            total += t.c.cols + t.v.cols + 1;
        }
        const auto count = static_cast<index>(tasks.size());
        double* const part = room(part_, strips_.count * 2 * (total + count));
        const basis_sums sums{strips_,
                              count,
                              total,
                              part,
                              part + strips_.count * total,
                              part + strips_.count * 2 * total,
                              part + strips_.count * (2 * total + count),
                              how != aitken::krylov::ortho::automatic};
        const basis_task<B>* const at = bases_.send(be_, there);
        be_.launch(basis_dots<B, false>{at, sums});
        be_.launch(basis_subtract<B, false>{at, sums});
        be_.launch(basis_dots<B, true>{at, sums});
        be_.launch(basis_subtract<B, true>{at, sums});
        be_.launch(basis_append<B>(at, sums));
    }

    // 2 uploads, 1 launch (as many as the most tasks that share a y).
    void combine(list<drivers::krylov::combine_task<S, B>> tasks) {
        std::vector<mix_request<S>> all;
        for (const auto& t : tasks)
            all.push_back({t.x, t.c, t.x.cols, {t.y.data, t.y.size, 1, t.y.size}, t.accumulate});
        mix_all<S, 1>(all, to_vectors_);
    }
    // Likewise; accumulating tasks follow those that make their Z.
    void mix(list<drivers::krylov::mix_task<S, B>> tasks) {
        std::vector<mix_request<B>> all;
        for (const auto& t : tasks) all.push_back({t.x, t.p, t.ld, t.z, t.accumulate});
        mix_all<B, 8>(all, to_blocks_);
    }

    // 1 upload, 2 launches, 1 read.
    void project(list<drivers::krylov::project_task<S, B>> tasks) {
        if (tasks.empty()) return;
        std::vector<basis_task<B>> there;
        index total = 0;
        for (const auto& t : tasks) {
            there.push_back({nullptr, t.x.data, 0, t.x.ld, 0, static_cast<int>(t.x.cols),
                             const_cast<double*>(t.w.data), nullptr, nullptr, total});
            total += t.x.cols + 1;
        }
        const auto count = static_cast<index>(tasks.size());
        double* const part = room(part_, strips_.count * total);
        const basis_sums sums{strips_, count, total, part, nullptr, nullptr, nullptr, false};
        be_.launch(basis_dots<B, false>{bases_.send(be_, there), sums});
        const std::vector<double> h = strip_sums(part, total);
        for (std::size_t k = 0; k < tasks.size(); ++k) {
            const auto* const from = h.data() + there[k].at;
            std::copy_n(from, tasks[k].x.cols, tasks[k].h);
            *tasks[k].norm = std::sqrt(from[tasks[k].x.cols]);
        }
    }

    // 1 upload, 2 launches, 1 read.
    void gram(list<drivers::krylov::gram_task<S, B>> tasks) {
        std::vector<gram_task_there<B>> there;
        index total = 0, rows = 0, cols = 0;
        for (const auto& t : tasks) {
            there.push_back({t.x, t.y, total});
            total += t.x.cols * t.y.cols;
            rows = std::max(rows, t.x.cols);
            cols = std::max(cols, t.y.cols);
        }
        if (total == 0) return;
        const auto count = static_cast<index>(tasks.size());
        double* const part = room(part_, strips_.count * total);
        be_.launch(gram_pass<B>{grams_.send(be_, there), strips_, count, total,
                                blocks_for(rows, gram_pass<B>::side), blocks_for(cols, gram_pass<B>::side),
                                part});
        const std::vector<double> sums = strip_sums(part, total);
        for (std::size_t k = 0; k < tasks.size(); ++k)
            for (index j = 0; j < tasks[k].y.cols; ++j)
                std::copy_n(sums.data() + there[k].at + j * tasks[k].x.cols, tasks[k].x.cols,
                            tasks[k].out + j * tasks[k].ld);
    }

    // 1 upload, 1 launch.
    void store(list<drivers::krylov::store_task<S, B>> tasks) {
        if (tasks.empty()) return;
        std::vector<store_vectors<B>> there;
        for (const auto& t : tasks) there.push_back({t.from.data, t.alpha, t.to, t.also.data});
        be_.launch(row_map(store_rows<B>{stores_.send(be_, there)}, n_, static_cast<index>(tasks.size())));
    }

    // 1 launch each.
    void load(const B* from, vec<S> x) { be_.launch(map_pass(load_vector<B>{from, x.data}, n_)); }
    void clear(vec<S> x) { be_.launch(map_pass(fill_with<S>{x.data, 0.0}, x.size)); }
    void add(vec<const S> x, vec<S> y) {
        const std::vector<sum_vectors> one{{x.data, y.data}};
        be_.launch(row_map(add_rows{sums_.send(be_, one)}, n_, 1));
    }

private:
    template <class To>
    struct mix_request {
        tall<const B> x;
        const S* p;  // host
        index ld;
        tall<To> z;
        bool accumulate;
    };

    // At least `size` numbers that last until the next call for them.
    double* room(vec<double>& kept, index size) {
        if (kept.size < size) kept = be_.template allocate<double>(std::max(size, 2 * kept.size));
        return kept.data;
    }

    std::vector<vector_task<S>> vectors(list<apply_task> tasks) const {
        std::vector<vector_task<S>> all;
        for (const auto& t : tasks) all.push_back({t.lane, t.x.data, t.y.data});
        return all;
    }
    std::vector<vector_task<B>> columns(list<columns_task> tasks) const {
        std::vector<vector_task<B>> all;
        for (const auto& t : tasks)
            for (index j = 0; j < t.x.cols; ++j) all.push_back({t.lane, t.x.col(j), t.y.col(j)});
        return all;
    }

    // 1 launch, 1 read.
    std::vector<double> strip_sums(const double* part, index total) {
        double* const out = room(totals_, total);
        be_.launch(map_pass(sum_over_strips{part, total, strips_.count, out}, total));
        std::vector<double> host(static_cast<std::size_t>(total));
        be_.download(vec<const double>{out, total}, host.data());
        return host;
    }

    template <class To, int Columns>
    void mix_all(const std::vector<mix_request<To>>& all, task_list<mix_task_there<B, To>>& sender) {
        if (all.empty()) return;
        // A launch for the first task of every Z, one for the second, ...
        std::map<const To*, std::size_t> seen;
        std::vector<std::vector<std::size_t>> waves;
        for (std::size_t k = 0; k < all.size(); ++k) {
            const std::size_t wave = seen[all[k].z.data]++;
            if (wave == waves.size()) waves.emplace_back();
            waves[wave].push_back(k);
        }
        std::vector<double> numbers;
        for (const auto& m : all)
            for (index j = 0; j < m.z.cols; ++j)
                numbers.insert(numbers.end(), m.p + j * m.ld, m.p + j * m.ld + m.x.cols);
        const auto size = static_cast<index>(numbers.size());
        double* const coefficients = room(coefficients_, size);
        if (size > 0) be_.upload(static_cast<const double*>(numbers.data()), vec<double>{coefficients, size});
        std::vector<index> offset{0};
        for (const auto& m : all) offset.push_back(offset.back() + m.x.cols * m.z.cols);
        std::vector<mix_task_there<B, To>> there;
        for (const auto& wave : waves)
            for (std::size_t k : wave)
                there.push_back({all[k].x, coefficients + offset[k], all[k].z, all[k].accumulate ? 1 : 0});
        const mix_task_there<B, To>* at = sender.send(be_, there);
        for (const auto& wave : waves) {
            index widest = 0;
            for (std::size_t k : wave) widest = std::max(widest, all[k].z.cols);
            be_.launch(mix_pass<B, To, Columns>{at, n_, static_cast<index>(wave.size()),
                                                blocks_for(widest, Columns)});
            at += wave.size();
        }
    }

    void refresh() {
        if (stale_.empty()) return;
        std::vector<refresh_task> tasks;
        tasks.swap(stale_);
        const std::vector<int> bad = inverse_->refresh(tasks);
        for (std::size_t k = 0; k < tasks.size(); ++k)
            if (bad[k] < n_)
                throw std::invalid_argument(names_[static_cast<std::size_t>(tasks[k].lane)] +
                                            "`A`: " + inverse_->complaint(bad[k]));
    }

    Be& be_;
    inverse<Be>* inverse_;
    csr_products<Be> matrix_;
    index n_;
    row_strips strips_;
    std::vector<std::string> names_;
    std::vector<refresh_task> stale_;

    vec<double> part_, totals_, coefficients_;
    task_list<residual_vectors> differences_;
    task_list<basis_task<B>> bases_;
    task_list<gram_task_there<B>> grams_;
    task_list<mix_task_there<B, S>> to_vectors_;
    task_list<mix_task_there<B, B>> to_blocks_;
    task_list<store_vectors<B>> stores_;
    task_list<sum_vectors> sums_;
};

// Chains of systems whose values, right-hand sides and solutions lie in device memory.
template <class Be, class B>
class chain_kernels : public krylov_kernels<Be, B> {
    using systems_type = aitken::sequence::systems<double>;

public:
    // Where two systems that follow each other in a chain have the same matrix is found at once: 2 launches
    // and a read; 16 B per entry.
    chain_kernels(Be& be, const systems_type& systems, index nnz,
                  std::span<const std::span<const index>> chains, const aitken::sequence::options& o,
                  double* x, const device_rows& a, int lanes, inverse<Be>* inverse_of)
        : krylov_kernels<Be, B>(be, a, lanes, inverse_of),
          systems_(systems),
          o_(o),
          x_(x),
          nnz_(nnz),
          lanes_(static_cast<std::size_t>(lanes)),
          matrix_as_(static_cast<std::size_t>(systems.count), -1) {
        compare(be, chains);
    }

    // What a chain's first system gets must not depend on what its lane did before.
    bool open(int id, index system) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        const index before = std::exchange(l.opened, system);
        const index as = matrix_as_[static_cast<std::size_t>(system)];
        if (as == first_of_chain) {
            l.best = -1;
            if (before < 0 || !systems_.one_matrix)
                this->set_matrix(id, values(system), true, "system " + std::to_string(system) + ": ");
            return false;
        }
        if (systems_.one_matrix || system == before || as == before) return true;
        const bool keep = o_.keep_preconditioner > 0 && l.best >= 0 &&
                          static_cast<double>(l.last) <= o_.keep_preconditioner * static_cast<double>(l.best);
        this->set_matrix(id, values(system), !keep, "system " + std::to_string(system) + ": ");
        if (!keep) l.best = -1;
        return false;
    }
    vec<const double> rhs(int, index system) const {
        const index n = systems_.pattern.rows;
        return {systems_.b + (systems_.one_rhs ? 0 : system * n), n};
    }
    vec<double> solution(index system) const {
        const index n = systems_.pattern.rows;
        return {x_ + system * n, n};
    }
    const double* params(index system) const {
        return systems_.params == nullptr ? nullptr : systems_.params + system * systems_.n_params;
    }
    index n_params() const { return systems_.n_params; }
    void told(int id, index iterations) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        l.last = iterations;
        if (l.best < 0 || iterations < l.best) l.best = iterations;
    }

private:
    static constexpr index first_of_chain = -2;
    struct lane {
        index opened = -1, last = 0, best = -1;
    };

    const double* values(index system) const {
        return systems_.data + (systems_.one_matrix ? 0 : system * nnz_);
    }
    void compare(Be& be, std::span<const std::span<const index>> chains) {
        for (const auto& chain : chains)
            if (!chain.empty()) matrix_as_[static_cast<std::size_t>(chain.front())] = first_of_chain;
        if (systems_.one_matrix) return;
        std::vector<value_pair> pairs;
        std::vector<index> before, after;
        for (const auto& chain : chains)
            for (std::size_t k = 1; k < chain.size(); ++k) {
                before.push_back(chain[k - 1]);
                after.push_back(chain[k]);
                pairs.push_back({reinterpret_cast<const std::uint64_t*>(values(chain[k - 1])),
                                 reinterpret_cast<const std::uint64_t*>(values(chain[k]))});
            }
        const auto count = static_cast<index>(pairs.size());
        if (count == 0) return;
        const vec<int> differ = be.template allocate<int>(count);
        be.launch(map_pass(fill_with<int>{differ.data, 0}, count));
        be.launch(count_differences(sent(be, pairs).data, count, nnz_, differ.data));
        std::vector<int> seen(pairs.size());
        be.download(vec<const int>(differ), seen.data());
        for (std::size_t k = 0; k < pairs.size(); ++k)
            if (seen[k] == 0) matrix_as_[static_cast<std::size_t>(after[k])] = before[k];
    }

    const systems_type& systems_;
    const aitken::sequence::options& o_;
    double* x_;
    index nnz_;
    std::vector<lane> lanes_;
    std::vector<index>
        matrix_as_;  // the system before it in its chain, where the matrix is the same, else -1
};

// --- whole solves over any backend ----------------------------------------------------------------

// The pattern in device memory and a copy here, checked: nothing that a kernel reads may lead outside.
template <class Be>
sparse_pattern checked_pattern(Be& be, const device_rows& a, index nnz) {
    sparse_pattern host;
    host.rows = host.cols = a.n;
    host.indptr.resize(static_cast<std::size_t>(a.n) + 1);
    host.indices.resize(static_cast<std::size_t>(nnz));
    be.download(vec<const index>{a.indptr, a.n + 1}, host.indptr.data());
    if (host.indptr.back() != nnz)
        throw std::invalid_argument("`A`: indptr ends at " + std::to_string(host.indptr.back()) +
                                    ", but there are " + std::to_string(nnz) + " entries");
    if (nnz > 0) be.download(vec<const std::int32_t>{a.indices, nnz}, host.indices.data());
    check_pattern(host.view(), "A");
    return host;
}

// One system. As cpu::krylov::solve; the space and the corrections are in host memory.
template <class Be, class B>
aitken::krylov::report solve_one(Be& be, const device_rows& a, index nnz, const double* values,
                                 aitken::sequence::preconditioner kind, index block, vec<const double> b,
                                 vec<double> x, const aitken::krylov::options& o,
                                 aitken::krylov::space<double>& kept, bool same_matrix,
                                 aitken::krylov::space<double>& outer,
                                 const aitken::krylov::monitor<double>& monitor) {
    namespace driver = drivers::krylov;
    const sparse_pattern host = checked_pattern(be, a, nnz);
    const auto inverse_of = make_inverse(be, kind, a, host.view(), 1, block);
    using kernels_type = krylov_kernels<Be, B>;
    kernels_type kernels(be, a, 1, inverse_of.get());
    kernels.set_matrix(0, values, true, "");
    driver::solver<double, B, Be, kernels_type> solver(be, kernels, a.n, o);
    solver.set_space(0, kept);
    if (o.outer > 0) solver.set_outer(0, outer);
    struct {
        driver::problem<double> given;
        bool handed = false;
        aitken::krylov::report result{};
        bool next(int, driver::problem<double>& p) {
            if (handed) return false;
            p = given;
            return handed = true;
        }
        void done(int, const aitken::krylov::report& r) { result = r; }
    } source{{b, x, same_matrix, false}};
    solver.run(source, monitor);
    if (o.recycle > 0) solver.get_space(0, kept);
    if (o.outer > 0) solver.get_outer(0, outer);
    return source.result;
}

// Device memory that a lane of n rows takes, from what drivers/krylov.hpp and drivers/sequence.hpp allocate.
inline double lane_bytes(const aitken::sequence::options& o, index n, index nnz, std::size_t stored) {
    const auto& k = o.krylov;
    const double recycle = k.recycle > 0 ? 4.0 * ((k.adaptive ? 2 : 1) * k.recycle + 1) : 0;
    const double steps = (k.adaptive ? 2 : 1) * k.restart + k.outer + (k.steps_beside ? k.recycle : 0);
    const double start = o.project > 0 ? 3.0 * std::max(o.project, 32) : 0;
    double doubles = 4;
    using enum aitken::sequence::preconditioner;
    if (o.preconditioner == ilu0)
        doubles += 1 + static_cast<double>(nnz) / static_cast<double>(std::max<index>(n, 1));
    if (o.preconditioner == block_jacobi) doubles += 1 + static_cast<double>(o.block);
    if (o.preconditioner == chebyshev) doubles += 4;
    const double columns = 2 * steps + 1 + recycle + 2 * k.outer + start;
    return static_cast<double>(n) * (8 * doubles + static_cast<double>(stored) * columns);
}

// All systems of all chains, as many chains at a time as `memory` bytes allow. Solutions and iteration counts
// do not depend on how many that are. A space to start from, and the last one, where there is one chain.
template <class Be, class B>
void run_chains(Be& be, const aitken::sequence::systems<double>& systems, index nnz,
                std::span<const std::span<const index>> chains, const aitken::sequence::options& o, double* x,
                aitken::krylov::space<double>& kept, std::size_t memory,
                const aitken::sequence::monitor& monitor) {
    const index n = systems.pattern.rows;
    const device_rows a{n, systems.pattern.indptr, systems.pattern.indices};
    if (chains.empty()) return;
    if (o.method != aitken::sequence::method::gcrodr)
        throw std::invalid_argument("`solver` must be \"gcrodr\" on a GPU");
    const double fit = static_cast<double>(memory) / std::max(1.0, lane_bytes(o, n, nnz, sizeof(B)));
    const int lanes = static_cast<int>(
        std::clamp<double>(fit, 1.0, static_cast<double>(std::min<std::size_t>(chains.size(), 4096))));
    const sparse_pattern host = checked_pattern(be, a, nnz);
    const auto inverse_of = make_inverse(be, o.preconditioner, a, host.view(), lanes, o.block);
    using kernels_type = chain_kernels<Be, B>;
    kernels_type kernels(be, systems, nnz, chains, o, x, a, lanes, inverse_of.get());
    drivers::sequence::chain_source<double, B, Be, kernels_type> source(be, kernels, n, chains, o, monitor,
                                                                        lanes);
    drivers::krylov::solver<double, B, Be, kernels_type> solver(be, kernels, n, o.krylov, lanes);
    if (chains.size() == 1 && kept.vectors() > 0) {
        source.seed();
        solver.set_space(0, kept);
    }
    solver.run(source);
    if (chains.size() == 1 && o.krylov.recycle > 0) solver.get_space(0, kept);
}

}  // namespace aitken::cuda
