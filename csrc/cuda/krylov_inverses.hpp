// Sparse products and preconditioners for many lanes over block programs. The pattern is one, the values are
// each lane's own; set-up that depends on the pattern alone is done on the host, everything with values on
// the device, for all lanes at once: a batch's factors would cost more to send than to make.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/sequence.hpp"
#include "core/philox.hpp"
#include "cuda/krylov_blocks.hpp"
#include "drivers/chebyshev.hpp"
#include "sparse/levels.hpp"
#include "sparse/pattern.hpp"

namespace aitken::cuda {

// A host array in new device memory.
template <class T, class Be>
vec<T> sent(Be& be, const std::vector<T>& host) {
    const vec<T> there = be.template allocate<T>(static_cast<index>(host.size()));
    if (!host.empty()) be.upload(host.data(), there);
    return there;
}

// The tasks of a kernel call in device memory; a list that is there already is not sent again.
template <class Task>
class task_list {
public:
    template <class Be>
    const Task* send(Be& be, const std::vector<Task>& tasks) {
        const auto count = static_cast<index>(tasks.size());
        if constexpr (std::equality_comparable<Task>)
            if (tasks == here_) return there_.data;
        if (there_.size < count) there_ = be.template allocate<Task>(std::max<index>(count, 2 * there_.size));
        be.upload(tasks.data(), there_.slice(0, count));
        here_ = tasks;
        return there_.data;
    }

private:
    std::vector<Task> here_;
    vec<Task> there_;
};

template <class V>
bool operator==(const vector_task<V>& a, const vector_task<V>& b) {
    return a.lane == b.lane && a.x == b.x && a.y == b.y;
}

// y = A x with the matrix of each task's lane: one launch, and one upload for a list not sent before.
template <class Be>
class csr_products {
public:
    csr_products(Be& be, const device_rows& a, int lanes)
        : be_(be),
          a_(a),
          here_(static_cast<std::size_t>(lanes), nullptr),
          there_(be.template allocate<const double*>(lanes)) {}

    void set(int lane, const double* values) {
        here_[static_cast<std::size_t>(lane)] = values;
        current_ = false;
    }
    const double* values(int lane) const { return here_[static_cast<std::size_t>(lane)]; }
    const device_rows& rows() const { return a_; }

    template <class V>
    void apply(const std::vector<vector_task<V>>& tasks) {
        if (tasks.empty()) return;
        if (!current_) be_.upload(here_.data(), there_);
        current_ = true;
        be_.launch(
            csr_pass<V>(a_, there_.data, list<V>().send(be_, tasks), static_cast<index>(tasks.size())));
    }

private:
    template <class V>
    task_list<vector_task<V>>& list() {
        if constexpr (std::same_as<V, double>)
            return double_list_;
        else
            return float_list_;
    }
    Be& be_;
    device_rows a_;
    std::vector<const double*> here_;
    vec<const double*> there_;
    bool current_ = false;
    task_list<vector_task<double>> double_list_;
    task_list<vector_task<float>> float_list_;
};

// M^-1 of every lane. y = M^-1 x: x and y do not overlap.
template <class Be>
class inverse {
public:
    virtual ~inverse() = default;

    virtual void apply(const std::vector<vector_task<double>>& tasks) = 0;
    virtual void apply(const std::vector<vector_task<float>>& tasks) = 0;

    // New values for some lanes. One read: the first row of each without an inverse, or n.
    virtual std::vector<int> refresh(const std::vector<refresh_task>& tasks) = 0;
    // What is wrong with that row.
    virtual std::string complaint(int row) const = 0;

protected:
    explicit inverse(Be& be) : be_(be) {}

    std::vector<int> unusable(const std::vector<refresh_task>& tasks, index n, const double* numbers) {
        const auto count = static_cast<index>(tasks.size());
        if (rows_.size < count) rows_ = be_.template allocate<int>(count);
        be_.launch(first_unusable(refreshed_.send(be_, tasks), count, n, numbers, rows_.data));
        std::vector<int> rows(tasks.size());
        be_.download(vec<const int>(rows_.slice(0, count)), rows.data());
        return rows;
    }

    Be& be_;
    task_list<refresh_task> refreshed_;

private:
    vec<int> rows_;
};

inline std::string row_text(int row) { return "row " + std::to_string(row); }

// Place of the diagonal entry of every row.
inline std::vector<index> diagonal_positions(const pattern_view& a) {
    std::vector<index> position(static_cast<std::size_t>(a.rows), -1);
    for (index i = 0; i < a.rows; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            if (a.indices[p] == i) position[static_cast<std::size_t>(i)] = p;
        if (position[static_cast<std::size_t>(i)] < 0)
            throw std::invalid_argument("`A`: row " + std::to_string(i) + " has no entry on the diagonal");
    }
    return position;
}

// D^-1: 1 launch to apply, 2 launches and a read to refresh.
template <class Be>
class jacobi_inverse final : public inverse<Be> {
public:
    jacobi_inverse(Be& be, const pattern_view& a, int lanes)
        : inverse<Be>(be),
          n_(a.rows),
          position_(sent(be, diagonal_positions(a))),
          inverse_(be.template allocate<double>(n_ * lanes)) {}

    void apply(const std::vector<vector_task<double>>& tasks) override { run(double_list_, tasks); }
    void apply(const std::vector<vector_task<float>>& tasks) override { run(float_list_, tasks); }
    std::vector<int> refresh(const std::vector<refresh_task>& tasks) override {
        this->be_.launch(row_map(
            invert_diagonals{this->refreshed_.send(this->be_, tasks), position_.data, n_, inverse_.data}, n_,
            static_cast<index>(tasks.size())));
        return this->unusable(tasks, n_, inverse_.data);
    }
    std::string complaint(int row) const override {
        return "the diagonal of " + row_text(row) + " is zero or has no inverse";
    }

private:
    template <class V>
    void run(task_list<vector_task<V>>& list, const std::vector<vector_task<V>>& tasks) {
        this->be_.launch(row_map(scale_by_inverse<V>{list.send(this->be_, tasks), inverse_.data, n_}, n_,
                                 static_cast<index>(tasks.size())));
    }
    index n_;
    vec<index> position_;
    vec<double> inverse_;
    task_list<vector_task<double>> double_list_;
    task_list<vector_task<float>> float_list_;
};

// Dense inverses of diagonal blocks, made on the device: an inverse is one coalesced product to apply, where
// two triangular solves would be 2 m dependent steps. 1 launch to apply, 3 and a read to refresh.
template <class Be>
class block_inverse final : public inverse<Be> {
public:
    block_inverse(Be& be, const device_rows& a, int lanes, index size)
        : inverse<Be>(be), a_(a), parts_{a.n, std::min(size, std::max<index>(a.n, 1))} {
        if (size < 1 || size > invert_blocks::largest)
            throw std::invalid_argument("`block` must be in 1.." + std::to_string(invert_blocks::largest) +
                                        " on a GPU, got " + std::to_string(size));
        dense_ = be.template allocate<double>(parts_.stored() * lanes);
        pivots_ = be.template allocate<double>(a.n * lanes);
    }
    void apply(const std::vector<vector_task<double>>& tasks) override { run(double_list_, tasks); }
    void apply(const std::vector<vector_task<float>>& tasks) override { run(float_list_, tasks); }
    std::vector<int> refresh(const std::vector<refresh_task>& tasks) override {
        const auto count = static_cast<index>(tasks.size());
        const refresh_task* const list = this->refreshed_.send(this->be_, tasks);
        this->be_.launch(row_map(clear_and_fill_blocks{list, parts_, a_, dense_.data}, a_.n, count));
        this->be_.launch(invert_blocks{list, count, parts_, dense_.data, pivots_.data});
        return this->unusable(tasks, a_.n, pivots_.data);
    }
    std::string complaint(int row) const override {
        const index first = row / parts_.size * parts_.size;
        return "the diagonal block of rows " + std::to_string(first) + " to " +
               std::to_string(first + parts_.rows(row / parts_.size) - 1) + " is singular (found at " +
               row_text(row) + ")";
    }

private:
    template <class V>
    void run(task_list<vector_task<V>>& list, const std::vector<vector_task<V>>& tasks) {
        this->be_.launch(row_map(multiply_blocks<V>{list.send(this->be_, tasks), parts_, dense_.data}, a_.n,
                                 static_cast<index>(tasks.size())));
    }
    device_rows a_;
    diagonal_blocks parts_;
    vec<double> dense_, pivots_;
    task_list<vector_task<double>> double_list_;
    task_list<vector_task<float>> float_list_;
};

// Polynomial of degree 4 in D^-1 A on [hi / 30, hi], hi as on the CPU (cpu/preconditioners.cpp). 9 launches
// to apply (for up to `lanes` vectors), 29 and two reads to refresh.
template <class Be>
class chebyshev_inverse final : public inverse<Be> {
public:
    chebyshev_inverse(Be& be, const device_rows& a, const pattern_view& host, int lanes)
        : inverse<Be>(be),
          n_(a.n),
          lanes_(lanes),
          matrix_(be, a, lanes),
          position_(sent(be, diagonal_positions(host))),
          inverse_(be.template allocate<double>(n_ * lanes)),
          factors_(be.template allocate<double>(per_lane * lanes)),
          work_(be.template allocate<double>(3 * n_ * lanes)),
          host_factors_(static_cast<std::size_t>(per_lane * lanes), 0.0) {}

    void apply(const std::vector<vector_task<double>>& tasks) override { run(double_list_, tasks); }
    void apply(const std::vector<vector_task<float>>& tasks) override { run(float_list_, tasks); }

    std::vector<int> refresh(const std::vector<refresh_task>& tasks) override {
        Be& be = this->be_;
        const auto count = static_cast<index>(tasks.size());
        const refresh_task* const list = this->refreshed_.send(be, tasks);
        be.launch(row_map(invert_diagonals{list, position_.data, n_, inverse_.data}, n_, count));
        std::vector<int> bad = this->unusable(tasks, n_, inverse_.data);
        if (std::any_of(bad.begin(), bad.end(), [this](int row) { return row < n_; })) return bad;

        for (const refresh_task& t : tasks) matrix_.set(t.lane, t.values);
        const row_strips strips(n_);
        if (part_.size == 0) {
            part_ = be.template allocate<double>(3 * strips.count * lanes_);
            std::vector<double> random(static_cast<std::size_t>(n_));
            const philox_stream stream{0x6368656279ull, 0, 0, 0};
            for (index i = 0; i < n_; ++i)
                random[static_cast<std::size_t>(i)] = stream.uniform(static_cast<std::uint32_t>(i)) - 0.5;
            start_ = sent(be, random);
        }
        const auto part = [&](index k) { return part_.data + k * strips.count * lanes_; };
        be.launch(row_map(power_start{start_.data, shape()}, n_, count));
        for (int k = 0; k < power_steps; ++k) {
            if (k + 1 == power_steps) be.launch(strip_pass(power_length{shape()}, strips, count, part(0)));
            matrix_.apply(inner(tasks));
            be.launch(row_map(power_step{list, shape()}, n_, count));
        }
        be.launch(strip_pass(power_length{shape()}, strips, count, part(1)));
        be.launch(strip_pass(row_bound{list, matrix_.rows(), inverse_.data}, strips, count, part(2)));
        std::vector<double> seen(static_cast<std::size_t>(part_.size));
        be.download(vec<const double>(part_), seen.data());
        for (index t = 0; t < count; ++t) {
            double before = 0, after = 0, bound = 0;
            for (index s = 0; s < strips.count; ++s) {
                const auto of = [&](index k) {
                    return seen[static_cast<std::size_t>(k * strips.count * lanes_ + s * count + t)];
                };
                before += of(0);
                after += of(1);
                bound = larger(bound, of(2));
            }
            const double growth = std::sqrt(after / before);
            const double hi = std::isfinite(growth) ? std::min(1.1 * growth, bound) : bound, lo = hi / 30;
            if (!(std::isfinite(hi) && hi > lo))
                throw std::invalid_argument("`A`: no interval for the Chebyshev polynomial: lo = " +
                                            std::to_string(lo) + ", hi = " + std::to_string(hi));
            double* factor = host_factors_.data() + tasks[static_cast<std::size_t>(t)].lane * per_lane;
            const auto steps = drivers::chebyshev_steps(lo, hi, degree + 1);
            *factor++ = steps[0].step;
            for (std::size_t k = 1; k < steps.size(); ++k) {
                *factor++ = steps[k].momentum;
                *factor++ = steps[k].step;
            }
        }
        be.upload(static_cast<const double*>(host_factors_.data()), factors_);
        return bad;
    }
    std::string complaint(int row) const override {
        return "the diagonal of " + row_text(row) + " is zero or has no inverse";
    }

private:
    static constexpr int degree = 4, per_lane = 1 + 2 * degree, power_steps = 12;

    polynomial shape() const { return {n_, per_lane, factors_.data, inverse_.data, work_.data}; }
    template <class Task>
    std::vector<vector_task<double>> inner(const std::vector<Task>& tasks) const {
        std::vector<vector_task<double>> products;
        for (std::size_t k = 0; k < tasks.size(); ++k)
            products.push_back(
                {tasks[k].lane, shape().d(static_cast<index>(k)), shape().ad(static_cast<index>(k))});
        return products;
    }
    template <class V>
    void run(task_list<vector_task<V>>& list, const std::vector<vector_task<V>>& all) {
        for (std::size_t first = 0; first < all.size(); first += static_cast<std::size_t>(lanes_)) {
            const std::size_t last = std::min(all.size(), first + static_cast<std::size_t>(lanes_));
            const std::vector<vector_task<V>> tasks(all.begin() + static_cast<std::ptrdiff_t>(first),
                                                    all.begin() + static_cast<std::ptrdiff_t>(last));
            const auto count = static_cast<index>(tasks.size());
            const vector_task<V>* const there = list.send(this->be_, tasks);
            this->be_.launch(row_map(polynomial_start<V>{there, shape()}, n_, count));
            for (int k = 0; k < degree; ++k) {
                matrix_.apply(inner(tasks));
                this->be_.launch(row_map(polynomial_step<V>{there, shape(), k}, n_, count));
            }
        }
    }
    index n_;
    int lanes_;
    csr_products<Be> matrix_;
    vec<index> position_;
    vec<double> inverse_, factors_, work_, part_, start_;
    std::vector<double> host_factors_;
    task_list<vector_task<double>> double_list_;
    task_list<vector_task<float>> float_list_;
};

// ILU(0): levels on the host, elimination on the device for all lanes at once. Sending the values there and
// the factors back would take longer than the elimination, whose depth is that of the solves made with it.
//
// A block per lane walks runs of narrow levels; a level of `wide` rows or more has a launch of its own. With
// narrow levels alone: 1 launch to apply, 4 and a read to refresh.
template <class Be>
class ilu0_inverse final : public inverse<Be> {
public:
    static constexpr index wide = 4096;

    ilu0_inverse(Be& be, const pattern_view& a, int lanes) : inverse<Be>(be), nnz_(a.nnz()) {
        static_cast<void>(diagonal_positions(a));
        const factor_layout made = make_factor_layout(a, coupling::full);
        const level_order& order = made.order;
        f_.n = a.rows;
        f_.levels = order.levels();
        f_.n_lower = made.lower.nnz();
        f_.n_upper = made.upper.nnz();
        f_.starts = sent(be, order.starts).data;
        f_.row = sent(be, order.rows).data;
        f_.lower = sent(be, made.lower.indptr).data;
        f_.upper = sent(be, made.upper.indptr).data;
        f_.lower_place = sent(be, made.lower.indices).data;
        f_.upper_place = sent(be, made.upper.indices).data;
        const auto by_rows = [&](std::vector<std::int32_t> places) {
            for (std::int32_t& p : places) p = order.rows[static_cast<std::size_t>(p)];
            return sent(be, places).data;
        };
        f_.lower_row = by_rows(made.lower.indices);
        f_.upper_row = by_rows(made.upper.indices);
        f_.numbers = be.template allocate<double>(f_.stored() * lanes).data;
        pivots_ = be.template allocate<double>(f_.n * lanes);

        // The layout counts places in slices; here factors are compressed rows, the diagonal behind them.
        std::vector<index> number(static_cast<std::size_t>(made.size), -1), target;
        for (index p = 0; p < f_.n_lower; ++p) number[made.lower_slot[static_cast<std::size_t>(p)]] = p;
        for (index p = 0; p < f_.n_upper; ++p)
            number[made.upper_slot[static_cast<std::size_t>(p)]] = f_.n_lower + p;
        for (index k = 0; k < f_.n; ++k)
            number[static_cast<std::size_t>(made.diagonal_begin + k)] = f_.n_lower + f_.n_upper + k;
        for (const std::uint32_t slot : made.slot) target.push_back(number[slot]);
        target_ = sent(be, target);

        for (index level = 0; level < f_.levels; ++level) add_round(elimination_, order, level, level);
        solution_ = elimination_;
        for (index level = f_.levels - 1; level >= 0; --level)
            add_round(solution_, order, level, 2 * f_.levels - 1 - level);
    }

    void apply(const std::vector<vector_task<double>>& tasks) override { run(double_list_, tasks); }
    void apply(const std::vector<vector_task<float>>& tasks) override { run(float_list_, tasks); }
    std::vector<int> refresh(const std::vector<refresh_task>& tasks) override {
        const auto count = static_cast<index>(tasks.size());
        const refresh_task* const list = this->refreshed_.send(this->be_, tasks);
        this->be_.launch(row_map(load_factors{list, f_, target_.data}, nnz_, count));
        for (const level_walk& walk : elimination_) this->be_.launch(eliminate_levels{list, count, f_, walk});
        this->be_.launch(row_map(pivots_by_row{list, f_, pivots_.data}, f_.n, count));
        return this->unusable(tasks, f_.n, pivots_.data);
    }
    std::string complaint(int row) const override { return "zero or non-finite pivot in " + row_text(row); }

private:
    template <class V>
    void run(task_list<vector_task<V>>& list, const std::vector<vector_task<V>>& tasks) {
        const vector_task<V>* const there = list.send(this->be_, tasks);
        for (const level_walk& walk : solution_)
            this->be_.launch(solve_levels<V>{there, static_cast<index>(tasks.size()), f_, walk});
    }
    static void add_round(std::vector<level_walk>& walks, const level_order& order, index level,
                          index round) {
        const index rows =
            order.starts[static_cast<std::size_t>(level) + 1] - order.starts[static_cast<std::size_t>(level)];
        if (rows >= wide)
            walks.push_back({round, 1, blocks_for(rows, eliminate_levels::threads)});
        else if (walks.empty() || walks.back().wide > 1)
            walks.push_back({round, 1, 1});
        else
            ++walks.back().count;
    }

    index nnz_;
    level_factors f_{};
    vec<index> target_;
    vec<double> pivots_;
    std::vector<level_walk> elimination_, solution_;
    task_list<vector_task<double>> double_list_;
    task_list<vector_task<float>> float_list_;
};

// Null for none. `host` is the pattern in host memory, checked.
template <class Be>
std::unique_ptr<inverse<Be>> make_inverse(Be& be, aitken::sequence::preconditioner kind, const device_rows& a,
                                          const pattern_view& host, int lanes, index block) {
    using enum aitken::sequence::preconditioner;
    switch (kind) {
        case none:
            return nullptr;
        case jacobi:
            return std::make_unique<jacobi_inverse<Be>>(be, host, lanes);
        case block_jacobi:
            return std::make_unique<block_inverse<Be>>(be, a, lanes, block);
        case chebyshev:
            return std::make_unique<chebyshev_inverse<Be>>(be, a, host, lanes);
        case ilu0:
            return std::make_unique<ilu0_inverse<Be>>(be, host, lanes);
        default:
            throw std::invalid_argument(
                "`M` must be None, \"jacobi\", \"block-jacobi\", \"chebyshev\" or \"ilu0\" on a GPU");
    }
}

}  // namespace aitken::cuda
