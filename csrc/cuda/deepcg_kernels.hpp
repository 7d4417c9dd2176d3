// The kernel set of drivers/deepcg.hpp over block programs, and whole solves over any backend. `Be` as in
// cuda/multigrid_kernels.hpp. A pass with sums is two launches, one without is one:
//
//   pcg        7 launches an iteration and those of the model, with sparse matrices 8; 1 read
//   robust     13, with `enrich` 20 and two products; 1 read
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/deepcg_cuda.hpp"
#include "cuda/deepcg_blocks.hpp"
#include "cuda/krylov_inverses.hpp"
#include "cuda/krylov_kernels.hpp"
#include "cuda/multigrid_kernels.hpp"
#include "drivers/deepcg.hpp"

namespace aitken::cuda {

// A backend whose vectors and scalars serve one solve after the other: restart() takes them back.
template <class Be>
class reusing_backend {
public:
    static constexpr int check_every = Be::check_every;
    static constexpr double sparse_pays = Be::sparse_pays;

    explicit reusing_backend(Be& be) : be_(be) {}

    void restart() {
        for (auto& [size, list] : vectors_) list.used = 0;
        used_scalars_ = 0;
    }
    template <class T>
    vec<T> allocate(index n) {
        if constexpr (std::same_as<T, double>) {
            auto& [all, used] = vectors_[n];
            if (used == all.size()) all.push_back(be_.template allocate<double>(n));
            return all[used++];
        } else {
            return be_.template allocate<T>(n);
        }
    }
    scalar_ref scalar() {
        if (used_scalars_ == scalars_.size()) scalars_.push_back(be_.scalar());
        return scalars_[used_scalars_++];
    }

    void fill(vec<double> x, double value) { be_.fill(x, value); }
    void copy(vec<const double> from, vec<double> to) { be_.copy(from, to); }
    void dot(vec<const double> x, vec<const double> y, scalar_ref out) { be_.dot(x, y, out); }
    template <class T>
    void upload(const T* host, vec<T> to) {
        be_.upload(host, to);
    }
    template <class T>
    void download(vec<const T> from, T* host) {
        be_.download(from, host);
    }
    void read_many(std::span<const scalar_ref> refs, double* out) { be_.read_many(refs, out); }
    template <class F>
    void host_chunks(index count, F&& run) {
        be_.host_chunks(count, std::forward<F>(run));
    }
    template <BlockProgram P>
    void launch(const P& program) {
        be_.launch(program);
    }
    traffic& counts() { return be_.counts(); }
    interrupt& interrupts() { return be_.interrupts(); }

private:
    struct stock {
        std::vector<vec<double>> all;
        std::size_t used = 0;
    };
    Be& be_;
    std::map<index, stock> vectors_;
    std::vector<scalar_ref> scalars_;
    std::size_t used_scalars_ = 0;
};

// A map on the driver's vectors.
class device_map {
public:
    virtual ~device_map() = default;
    virtual void apply(vec<const double> x, vec<double> y) = 0;
};

// The maps of a solve.
struct device_maps {
    device_map* matrix = nullptr;
    device_map* model = nullptr;     // null: the identity
    device_map* fallback = nullptr;  // null: none, unless plain_fallback
    bool plain_fallback = false;
    index guard = 0;
    std::function<void(vec<const double>, vec<double>, scalar_ref)> apply_dot;  // may be empty
    std::function<void(double*)> project;                                       // likewise
};

template <class Be>
class deepcg_kernels {
    using candidate = drivers::deepcg::candidate;

public:
    deepcg_kernels(Be& be, const device_maps& maps) : be_(be), maps_(maps), model_(maps.model) {}

    // --- the operators ---

    tall<double> guarded(index n, index columns) {
        const index pitch = n + maps_.guard, all = maps_.guard + columns * pitch;
        const vec<double> block = be_.template allocate<double>(all);
        be_.fill(block, 0.0);
        return {block.data + maps_.guard, n, columns, pitch};
    }
    void apply(vec<const double> v, vec<double> w) { maps_.matrix->apply(v, w); }
    bool has_model() const { return model_ != nullptr; }
    void model(vec<const double> r, vec<double> z) {
        model_->apply(r, z);
        if (maps_.project) maps_.project(z.data);
    }
    bool has_fallback() const { return maps_.fallback != nullptr || maps_.plain_fallback; }
    void use_fallback() { model_ = maps_.fallback; }

    // --- conjugate gradients ---

    void dot(vec<const double> x, vec<const double> y, scalar_ref out) {
        sums(dot_sums(x.data, y.data), x.size, keep_sums<1>{{out.address()}});
    }
    void residual(vec<const double> b, vec<double> r, scalar_ref norm2) {
        sums(residual_sums(b.data, r.data), r.size, keep_sums<1>{{norm2.address()}});
    }
    void apply_dot(vec<const double> p, vec<double> q, scalar_ref pq) {
        if (maps_.apply_dot) return maps_.apply_dot(p, q, pq);
        apply(p, q);
        dot(p, q, pq);
    }
    void energy(vec<const double> p, vec<const double> q, scalar_ref pq, scalar_ref size) {
        sums(energy_sums(p.data, q.data), p.size, keep_energy{pq.address(), size.address()});
    }
    void cg_residual(scalar_ref rz, scalar_ref pq, vec<const double> q, vec<double> r, scalar_ref norm2) {
        sums(advance_residual({rz.address(), pq.address()}, q.data, r.data), r.size,
             keep_sums<1>{{norm2.address()}});
    }
    void cg_advance(scalar_ref rz, scalar_ref pq, vec<const double> p, vec<double> x) {
        run_map(be_, advance_iterate{{rz.address(), pq.address()}, p.data, x.data}, x.size);
    }
    void pair(vec<const double> z, vec<const double> r, vec<const double> q, scalar_ref rz, scalar_ref zq) {
        sums(pair_sums(z.data, r.data, q.data), z.size, keep_sums<2>{{rz.address(), zq.address()}});
    }
    void turn(scalar_ref zq, scalar_ref pq, vec<const double> z, vec<double> p) {
        turn(zq, zq, pq, z, p, nullptr);
    }
    void move(scalar_ref rz, scalar_ref pq, scalar_ref zq, vec<const double> z, vec<double> p,
              vec<double> x) {
        turn(rz, zq, pq, z, p, x.data);
    }

    // --- directions from a small space ---

    void normalise(scalar_ref rr, vec<const double> r, vec<double> u) {
        run_map(be_, scale_to_unit{rr.address(), r.data, u.data}, u.size);
    }
    void inspect(vec<const double> z, scalar_ref peak) {
        sums(length_sums(z.data), z.size, keep_peak{peak.address()});
    }
    void adopt(scalar_ref peak, vec<const double> u, vec<double> z) {
        run_map(be_, adopt_output{peak.address(), u.data, z.data}, z.size);
    }
    void project(tall<const double> images, vec<const double> z, vec<double> h, scalar_ref norm2) {
        for (index first = 0; first == 0 || first < images.cols; first += columns_of_pass) {
            const index count = std::min<index>(columns_of_pass, images.cols - first);
            sums(project_sums(images.from(first).first(count), z.data), z.size,
                 keep_products{static_cast<int>(count), h.data + first,
                               first == 0 ? norm2.address() : nullptr});
        }
    }
    void subtract(tall<const double> steps, vec<const double> energies, vec<double> h, vec<double> z,
                  scalar_ref norm2) {
        for (index first = 0; first == 0 || first < steps.cols; first += columns_of_pass) {
            const index count = std::min<index>(columns_of_pass, steps.cols - first);
            sums(subtract_sums(steps.from(first).first(count), energies.data + first, h.data + first, z.data),
                 z.size,
                 keep_subtracted{static_cast<int>(count), energies.data + first, h.data + first,
                                 norm2.address()});
        }
    }
    void measure(vec<const double> d, vec<const double> image, vec<const double> r, const candidate& c) {
        sums(measure_sums(d.data, image.data, r.data), d.size,
             keep_measure{c.before.address(), c.after.address(), c.energy.address(), c.size.address(),
                          c.usable.address(), c.slope.address(), c.gain.address()});
    }
    void step(const candidate& c, vec<const double> d, vec<const double> image, vec<double> y,
              vec<double> y_image, vec<double> x, vec<double> r, scalar_ref rr, scalar_ref energy) {
        step({c.slope.address(), c.usable.address(), nullptr, nullptr, nullptr}, d, image, {}, {}, y, y_image,
             x, r, rr, energy);
    }
    void step(const candidate& c, vec<const double> d, vec<const double> image, const candidate& other,
              vec<const double> e, vec<const double> e_image, scalar_ref part, vec<double> y,
              vec<double> y_image, vec<double> x, vec<double> r, scalar_ref rr, scalar_ref energy) {
        step({c.slope.address(), c.usable.address(), other.slope.address(), other.usable.address(),
              part.address()},
             d, image, e, e_image, y, y_image, x, r, rr, energy);
    }

    void round(vec<double> x) { run_map(be_, round_to_single{x.data}, x.size); }

private:
    template <class Op, class Finish>
    void sums(const Op& op, index n, const Finish& finish) {
        run_sums(be_, part_, op, n, finish);
    }
    void turn(scalar_ref rz, scalar_ref zq, scalar_ref pq, vec<const double> z, vec<double> p, double* x) {
        run_map(be_,
                turn_direction{{rz.address(), pq.address()}, {zq.address(), pq.address()}, z.data, p.data, x},
                p.size);
    }
    void step(const step_choice& choice, vec<const double> d, vec<const double> image, vec<const double> e,
              vec<const double> e_image, vec<double> y, vec<double> y_image, vec<double> x, vec<double> r,
              scalar_ref rr, scalar_ref energy) {
        sums(
            take_step(choice, d.data, image.data, e.data, e_image.data, y.data, y_image.data, x.data, r.data),
            x.size, keep_sums<2>{{rr.address(), energy.address()}});
    }

    Be& be_;
    device_maps maps_;
    device_map* model_;
    vec<double> part_;
};

// --- maps ----------------------------------------------------------------------------------------

template <class Be>
class grid_map final : public device_map {
public:
    explicit grid_map(device_grid<Be>& grid) : grid_(grid) {}
    void apply(vec<const double> x, vec<double> y) override { grid_.apply(x.data, y.data); }

private:
    device_grid<Be>& grid_;
};

template <class Be>
class cycle_map final : public device_map {
public:
    cycle_map(Be& be, device_grid<Be>& grid, const aitken::multigrid::cycle_options& options)
        : cycle_(be, grid, options) {}
    void apply(vec<const double> r, vec<double> z) override { cycle_.apply(r.data, z.data); }

private:
    device_cycle<Be> cycle_;
};

// A caller's function, on a grid of all its cells: 2 launches.
template <class Be>
class called_map final : public device_map {
public:
    called_map(Be& be, const deepcg::function& f, device_grid<Be>* grid) : be_(be), f_(f), grid_(grid) {}
    void apply(vec<const double> r, vec<double> z) override {
        if (grid_ != nullptr)
            grid_->gather(r.data, false, f_.from);
        else
            be_.copy(r, {f_.from, r.size});
        f_.run();
        if (grid_ != nullptr)
            grid_->scatter(f_.to, false, z.data);
        else
            be_.copy({f_.to, z.size}, z);
    }

private:
    Be& be_;
    const deepcg::function& f_;
    device_grid<Be>* grid_;
};

template <class Be>
class rows_map final : public device_map {
public:
    rows_map(Be& be, const device_rows& a, const double* values) : products_(be, a, 1) {
        products_.set(0, values);
    }
    void apply(vec<const double> x, vec<double> y) override {
        products_.apply(std::vector<vector_task<double>>{{0, x.data, y.data}});
    }

private:
    csr_products<Be> products_;
};

// D^-1 of a matrix.
template <class Be>
class diagonal_map final : public device_map {
public:
    diagonal_map(Be& be, const pattern_view& pattern, const double* values) : inverse_(be, pattern, 1) {
        const int bad = inverse_.refresh({{0, values}})[0];
        if (bad < pattern.rows) throw std::invalid_argument("`A`: " + inverse_.complaint(bad));
    }
    void apply(vec<const double> x, vec<double> y) override {
        inverse_.apply(std::vector<vector_task<double>>{{0, x.data, y.data}});
    }

private:
    jacobi_inverse<Be> inverse_;
};

// --- whole solves over any backend ----------------------------------------------------------------

// The residual once more, after x was changed.
template <class Be, class K>
void certify(Be& be, K& kernels, vec<const double> b, vec<const double> x, bool single,
             aitken::deepcg::report& report) {
    const vec<double> image{kernels.guarded(x.size, 1).data, x.size};
    const scalar_ref square = be.scalar();
    kernels.apply(x, image);
    kernels.residual(b, image, square);
    report.residual = std::sqrt(read(be, square)[0]);
    if (report.status != status::converged || report.residual <= report.target) return;
    report.status = status::stagnated;
    report.detail =
        single ? "rounding the answer to float32" : "means on enclosed components are taken off the answer";
}

template <class Be>
std::vector<cpu::deepcg::grid_report> solve_on_grid(Be& be, const deepcg::grid_problem& problem,
                                                    const aitken::deepcg::options& options,
                                                    const aitken::deepcg::monitor& monitor) {
    using backend_type = reusing_backend<Be>;
    using kernels_type = deepcg_kernels<backend_type>;
    std::vector<cpu::deepcg::grid_report> out;
    if (problem.b.rows == 0) return out;

    device_grid<Be> grid(be, problem.grid->shape());
    grid.update(*problem.grid);
    const auto map_of = [&](const deepcg::model& m) -> std::unique_ptr<device_map> {
        if (m.jacobi) throw std::invalid_argument("`model` \"jacobi\" is for matrices on a GPU");
        if (m.cycle != nullptr) return std::make_unique<cycle_map<Be>>(be, grid, *m.cycle);
        if (m.call != nullptr) return std::make_unique<called_map<Be>>(be, *m.call, &grid);
        return nullptr;
    };
    grid_map<Be> matrix(grid);
    const auto model = map_of(problem.model);
    const auto fallback = problem.has_fallback ? map_of(problem.fallback) : nullptr;
    device_maps maps;
    maps.matrix = &matrix;
    maps.model = model.get();
    maps.fallback = fallback.get();
    maps.plain_fallback = problem.has_fallback && fallback == nullptr;
    maps.guard = grid.guard();
    maps.apply_dot = [&](vec<const double> x, vec<double> y, scalar_ref dot) {
        grid.apply_dot(x.data, y.data, dot.address());
    };
    if (grid.singular()) maps.project = [&](double* v) { grid.project(v); };

    backend_type reused(be);
    const index n = grid.size();
    for (index row = 0; row < problem.b.rows; ++row) {
        const traffic before = be.counts();
        reused.restart();
        kernels_type kernels(reused, maps);
        const vec<double> b{kernels.guarded(n, 1).data, n}, x{kernels.guarded(n, 1).data, n};
        grid.scatter(problem.b.row(row), problem.compact, b.data);
        grid.scatter(problem.x.row(row), problem.compact, x.data);
        cpu::deepcg::grid_report& report = out.emplace_back();
        report.removed = grid.project_measured(b.data);
        grid.project(x.data);
        report.solve =
            drivers::deepcg::solver<backend_type, kernels_type>(reused, kernels, n, options, monitor)
                .run(b, x);
        if (grid.singular()) grid.project(x.data);  // means that rounding left in x
        if (problem.single) kernels.round(x);
        if (grid.singular() || problem.single) certify(reused, kernels, b, x, problem.single, report.solve);
        grid.gather(x.data, problem.compact, problem.x.row(row));
        report.solve.counts.launches = be.counts().launches - before.launches;
        report.solve.counts.reads = be.counts().reads - before.reads;
        report.solve.counts.uploads = be.counts().uploads - before.uploads;
    }
    return out;
}

template <class Be>
aitken::deepcg::report solve_with_matrix(Be& be, const deepcg::matrix_problem& problem,
                                         const aitken::deepcg::options& options,
                                         const aitken::deepcg::monitor& monitor) {
    const pattern_view& given = problem.a.pattern;
    const device_rows rows{given.rows, given.indptr, given.indices};
    const sparse_pattern host = checked_pattern(be, rows, problem.a.nnz);
    rows_map<Be> matrix(be, rows, problem.a.values);
    const auto map_of = [&](const deepcg::model& m) -> std::unique_ptr<device_map> {
        if (m.cycle != nullptr) throw std::invalid_argument("`model` needs a grid");
        if (m.jacobi) return std::make_unique<diagonal_map<Be>>(be, host.view(), problem.a.values);
        if (m.call != nullptr) return std::make_unique<called_map<Be>>(be, *m.call, nullptr);
        return nullptr;
    };
    const auto model = map_of(problem.model);
    const auto fallback = problem.has_fallback ? map_of(problem.fallback) : nullptr;
    device_maps maps;
    maps.matrix = &matrix;
    maps.model = model.get();
    maps.fallback = fallback.get();
    maps.plain_fallback = problem.has_fallback && fallback == nullptr;
    deepcg_kernels<Be> kernels(be, maps);
    aitken::deepcg::report report =
        drivers::deepcg::solver<Be, deepcg_kernels<Be>>(be, kernels, rows.n, options, monitor)
            .run(problem.b, problem.x);
    if (problem.single) {
        kernels.round(problem.x);
        certify(be, kernels, problem.b, problem.x, true, report);
    }
    return report;
}

}  // namespace aitken::cuda
