// SOR and SSOR-CG as block programs. `Be` launches them: cuda/backend.hpp on a GPU,
// csrc/tests/block_backend.hpp by loops on the CPU. Semantics are those of drivers/relaxation.hpp and of
// cpu::relaxation::sor_batch.
//
// A sweep is one launch per walk over levels, and one that adds its sums; a CG iteration is two sweeps and
// two launches more. No upload, no read. A walk is a level of 4096 items or more, or all the smaller ones
// between two such: launches cost more than what is left idle while one block passes them. Set-up is on the
// host, and costs more than some tens of sweeps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/relaxation_cuda.hpp"
#include "cuda/krylov_kernels.hpp"
#include "cuda/relaxation_blocks.hpp"
#include "drivers/relaxation.hpp"
#include "drivers/sweep_order.hpp"
#include "sparse/coloring.hpp"
#include "sparse/stencil.hpp"
#include "sparse/sweep.hpp"

namespace aitken::cuda {

// Levels of these many items (levels + 1 numbers, as from SweptMatrix::begin) cut into walks.
inline std::vector<sweep_walk> make_walks(const std::vector<index>& begin) {
    constexpr index wide = 4096, threads = sweep_pass<relax_rows<sliced_matrix>>::threads;
    std::vector<sweep_walk> walks;
    for (std::size_t level = 0; level + 1 < begin.size(); ++level) {
        const index items = begin[level + 1] - begin[level];
        if (items >= wide)
            walks.push_back({static_cast<index>(level), 1, blocks_for(items, threads), false});
        else if (walks.empty() || walks.back().blocks > 1)
            walks.push_back({static_cast<index>(level), 1, 1, false});
        else
            ++walks.back().count;
    }
    return walks;
}

// The SorKernels and EisenstatKernels of a matrix in device memory. `begin`: its levels, as make_walks takes
// them.
template <class Be, SweptMatrix M>
class sweep_kernels {
    using direction = aitken::relaxation::direction;

public:
    sweep_kernels(Be& be, const M& a, index n, const std::vector<index>& begin)
        : be_(be), a_(a), n_(n), walks_(make_walks(begin)) {
        constexpr index most = 4096;  // blocks: one adds up what they leave
        const index blocks = std::min(most, blocks_for(begin.back(), sweep_pass<relax_rows<M>>::threads));
        flat_ = {{0, static_cast<index>(begin.size()) - 1, blocks, true}};
        index parts = blocks, swept = 0;
        for (const sweep_walk& w : walks_) swept += w.blocks;
        part_ = be.template allocate<sweep_sums>(std::max(parts, swept));
    }
    std::size_t walks() const { return walks_.size(); }

    // 2 launches.
    void residual(vec<const double> b, vec<const double> x, scalar_ref norm2) {
        run(flat_, residual_squares<M>{a_, b.data, x.data, nullptr}, norm2.address());
    }
    // A launch per walk, and 1.
    void sweep(direction half, double omega, bool fresh, vec<const double> b, vec<double> x,
               scalar_ref before2, scalar_ref change2) {
        if (q_.size < n_) q_ = be_.template allocate<double>(n_);
        const bool backward = half == direction::backward;
        run(walks_, relax_rows<M>{a_, b.data, x.data, q_.data, omega, fresh, backward}, before2.address(),
            change2.address());
    }

    void residual_vector(vec<const double> b, vec<const double> x, vec<double> r, scalar_ref norm2) {
        run(flat_, residual_squares<M>{a_, b.data, x.data, r.data}, norm2.address());
    }
    void lower_solve(double omega, vec<const double> c, vec<double> v, scalar_ref size) {
        run(walks_, lower_rows<M>{a_, c.data, v.data, omega}, size.address());
    }
    // A launch per walk.
    void direction_of(double omega, scalar_ref rz, scalar_ref rz_old, vec<const double> r, vec<double> p,
                      vec<double> t) {
        run(walks_, direction_rows<M>{a_, rz.address(), rz_old.address(), r.data, p.data, t.data, omega},
            nullptr);
    }
    void image(double omega, vec<const double> p, vec<const double> t, vec<double> w, scalar_ref pq) {
        run(walks_, image_rows<M>{a_, p.data, t.data, w.data, omega}, pq.address());
    }
    void advance(scalar_ref rz, scalar_ref pq, vec<const double> t, vec<const double> w, vec<double> x,
                 vec<double> r, scalar_ref rz_new) {
        run(flat_, advance_rows<M>{a_, rz.address(), pq.address(), t.data, w.data, x.data, r.data},
            rz_new.address());
    }
    void lower_norm(double omega, vec<const double> r, scalar_ref norm2) {
        run(flat_, lower_squares<M>{a_, r.data, omega}, norm2.address());
    }

private:
    // Sums are added up where there is an address for them.
    template <class Op>
    void run(const std::vector<sweep_walk>& walks, const Op& op, double* before, double* change = nullptr) {
        index parts = 0;
        const auto launch = [&](const sweep_walk& walk) {
            be_.launch(sweep_pass<Op>(op, walk, part_.data + parts));
            parts += walk.blocks;
        };
        if (op.descending())
            std::for_each(walks.rbegin(), walks.rend(), launch);
        else
            std::for_each(walks.begin(), walks.end(), launch);
        if (before) be_.launch(vector_pass(total_sums{part_.data, parts, before, change}));
    }

    Be& be_;
    M a_;
    index n_;
    std::vector<sweep_walk> walks_, flat_;
    vec<double> q_;
    vec<sweep_sums> part_;
};

[[noreturn]] inline void refuse_diagonal(index row) {
    throw std::invalid_argument("the diagonal of row " + std::to_string(row) + " is zero or has no inverse");
}

inline void check_sorted(const pattern_view& a) {
    for (index i = 0; i < a.rows; ++i)
        for (index p = a.indptr[i] + 1; p < a.indptr[i + 1]; ++p)
            if (a.indices[p] <= a.indices[p - 1])
                throw std::invalid_argument("`A`: the entries of row " + std::to_string(i) +
                                            " are not in the order of their columns");
}

// A layout with its numbers in device memory: 9 uploads, 3 launches and a read.
template <class Be>
class sliced_rows {
public:
    sliced_rows(Be& be, const sweep_layout& layout, const double* values, double shift)
        : be_(be), rows_(sent(be, layout.order.rows)) {
        const sliced_pattern& s = layout.slices;
        const vec<double> numbers = be.template allocate<double>(s.stored()),
                          diagonal = be.template allocate<double>(layout.n),
                          inverse = be.template allocate<double>(layout.n);
        be.launch(map_pass(load_slots{values, sent(be, s.source).data, numbers.data}, s.stored()));
        be.launch(map_pass(
            load_diagonal{values, sent(be, layout.diagonal).data, shift, diagonal.data, inverse.data},
            layout.n));
        matrix_.group_begin = sent(be, s.group_begin).data;
        matrix_.row_begin = sent(be, s.row_begin).data;
        matrix_.entries = sent(be, s.begin).data;
        matrix_.middle = sent(be, layout.middle).data;
        matrix_.run = sent(be, s.run).data;
        matrix_.columns = sent(be, s.columns).data;
        matrix_.lanes = sent(be, s.lanes).data;
        matrix_.values = numbers.data;
        matrix_.diagonals = diagonal.data;
        matrix_.inverses = inverse.data;
        check_diagonal(layout, diagonal);
        for (const index group : s.group_begin) levels_.push_back(8 * group);
    }

    const sliced_matrix& matrix() const { return matrix_; }
    const std::vector<index>& levels() const { return levels_; }  // as make_walks takes them

    void gather(vec<const double> natural, vec<double> ordered) {
        be_.launch(map_pass(gather_places{natural.data, rows_.data, ordered.data}, rows_.size));
    }
    void scatter(vec<const double> ordered, vec<double> natural) {
        be_.launch(map_pass(scatter_places{ordered.data, rows_.data, natural.data}, rows_.size));
    }

private:
    void check_diagonal(const sweep_layout& layout, vec<const double> there) {
        std::vector<double> d(static_cast<std::size_t>(layout.n));
        be_.download(there, d.data());
        index bad = layout.n;
        for (index k = 0; k < layout.n; ++k)
            if (!std::isfinite(d[k]) || !std::isfinite(1 / d[k]))
                bad = std::min<index>(bad, layout.order.rows[k]);
        if (bad < layout.n) refuse_diagonal(bad);
    }

    Be& be_;
    vec<std::int32_t> rows_;
    sliced_matrix matrix_{};
    std::vector<index> levels_;
};

// Where the matrix is swept without its entries: as an array of coefficients, in red-black order.
template <class Be>
aitken::relaxation::report solve_stencil(Be& be, const grid_stencil& stencil, double shift,
                                         vec<const double> b, vec<double> x,
                                         const aitken::relaxation::sor_options& options,
                                         const aitken::relaxation::monitor& monitor) {
    const stencil_matrix matrix(stencil, shift);
    if (!std::isfinite(matrix.center) || !std::isfinite(matrix.inverse_center)) refuse_diagonal(0);
    using kernels_type = sweep_kernels<Be, stencil_matrix>;
    kernels_type kernels(be, matrix, stencil.size(), {matrix.begin(0), matrix.begin(1), matrix.begin(2)});
    return drivers::relaxation::sor_solver<Be, kernels_type>(be, kernels, options, monitor).run(b, x);
}

// solve(kernels, b, x, monitor) in the order of the layout, vectors brought there and back.
template <class Be, class Solve>
aitken::relaxation::report solve_in_order(Be& be, const sweep_layout& layout, const double* values,
                                          vec<const double> b, vec<double> x, double shift,
                                          const aitken::relaxation::monitor& monitor, Solve solve) {
    using kernels_type = sweep_kernels<Be, sliced_matrix>;
    sliced_rows<Be> rows(be, layout, values, shift);
    kernels_type kernels(be, rows.matrix(), layout.n, rows.levels());
    const vec<double> b_there = be.template allocate<double>(layout.n),
                      x_there = be.template allocate<double>(layout.n);
    rows.gather(b, b_there);
    rows.gather(x, x_there);
    std::vector<double> shown;
    aitken::relaxation::monitor natural;
    if (monitor)
        natural = [&](const aitken::relaxation::step& s) {
            if (s.x == nullptr) return monitor(s);
            shown.resize(static_cast<std::size_t>(layout.n));
            for (index k = 0; k < layout.n; ++k) shown[layout.order.rows[k]] = s.x[k];
            return monitor({s.iteration, s.residual, s.target, shown.data()});
        };
    aitken::relaxation::report report = solve(kernels, vec<const double>(b_there), x_there, natural);
    rows.scatter(x_there, x);
    return report;
}

template <class Be>
sparse_pattern checked_rows(Be& be, const pattern_view& a, index nnz) {
    sparse_pattern host = checked_pattern(be, device_rows{a.rows, a.indptr, a.indices}, nnz);
    check_sorted(host.view());
    return host;
}

// Where a sweep is followed by one that goes back, colours cost several times the iterations: the natural
// order if its levels keep a device busy, else clusters.
inline aitken::relaxation::order order_to_and_fro(const pattern_view& a) {
    constexpr index wide = 2048;  // rows of a mean level
    const index levels = order_by_levels(a, coupling::full).levels();
    return a.rows / levels >= wide ? aitken::relaxation::order::natural : aitken::relaxation::order::blocks;
}

// As cuda::relaxation::sor, on any backend.
template <class Be>
relaxation::solved solve_sor(Be& be, const krylov::matrix& a, std::optional<aitken::relaxation::order> order,
                             const std::vector<std::int32_t>& rows, vec<const double> b, vec<double> x,
                             double shift, const aitken::relaxation::sor_options& options,
                             const aitken::relaxation::monitor& monitor) {
    using enum aitken::relaxation::order;
    relaxation::solved out;
    const sparse_pattern host = checked_rows(be, a.pattern, a.nnz);
    if (host.rows == 0) return out;
    if (!order && options.sweep == aitken::relaxation::direction::symmetric)
        order = order_to_and_fro(host.view());
    if (!order || *order == redblack) {
        std::vector<double> values(static_cast<std::size_t>(a.nnz));
        be.download(vec<const double>{a.values, a.nnz}, values.data());
        if (const auto stencil = find_stencil(host.view(), values.data())) {
            out.order = redblack;
            out.stencil = true;
            out.report = solve_stencil(be, *stencil, shift, b, x, options, monitor);
            return out;
        }
    }
    out.order = order ? *order : two_colors(host.view()).colors > 0 ? redblack : multicolor;
    const sweep_layout layout = make_sweep_layout(host.view(), sweep_rows(host.view(), out.order, rows));
    out.report = solve_in_order(
        be, layout, a.values, b, x, shift, monitor,
        [&](auto& kernels, vec<const double> b_there, vec<double> x_there,
            const aitken::relaxation::monitor& natural) {
            return drivers::relaxation::sor_solver(be, kernels, options, natural).run(b_there, x_there);
        });
    return out;
}

// As cuda::relaxation::ssor_cg, on any backend.
template <class Be>
relaxation::solved solve_ssor_cg(Be& be, const krylov::matrix& a,
                                 std::optional<aitken::relaxation::order> order,
                                 const std::vector<std::int32_t>& rows, vec<const double> b, vec<double> x,
                                 double shift, const aitken::relaxation::ssor_options& options,
                                 const aitken::relaxation::monitor& monitor) {
    using enum aitken::relaxation::order;
    if (!options.eisenstat) throw std::invalid_argument("`eisenstat` must be True on a GPU");
    relaxation::solved out;
    const sparse_pattern host = checked_rows(be, a.pattern, a.nnz);
    if (host.rows == 0) return out;
    out.order = order ? *order : order_to_and_fro(host.view());
    const sweep_layout layout = make_sweep_layout(host.view(), sweep_rows(host.view(), out.order, rows));
    out.report = solve_in_order(
        be, layout, a.values, b, x, shift, monitor,
        [&](auto& kernels, vec<const double> b_there, vec<double> x_there,
            const aitken::relaxation::monitor& natural) {
            return drivers::relaxation::eisenstat_solver(be, kernels, options, natural).run(b_there, x_there);
        });
    return out;
}

// The pattern of many systems in device memory: 3 uploads.
template <class Be>
wavefronts send_wavefronts(Be& be, const pattern_view& a) {
    if (a.nnz() > 2147483647)
        throw std::length_error("`A` has " + std::to_string(a.nnz()) + " entries, more than 2^31 - 1");
    const level_order order = order_by_levels(a, coupling::full);
    const std::vector<std::int32_t> place = inverse_permutation(order.rows, a.rows, "order");
    const std::vector<std::int32_t> starts(order.starts.begin(), order.starts.end());
    std::vector<swept_row> rows;
    std::vector<std::int32_t> column;
    rows.reserve(order.rows.size());
    column.reserve(static_cast<std::size_t>(a.nnz()));
    for (const std::int32_t i : order.rows) {
        const auto first = static_cast<std::int32_t>(a.indptr[i]),
                   last = static_cast<std::int32_t>(a.indptr[i + 1]);
        std::int32_t lower = first;
        while (lower < last && a.indices[lower] < i) ++lower;
        const bool stored = lower < last && a.indices[lower] == i;
        rows.push_back({i, first, lower, lower + stored, last});
    }
    for (index p = 0; p < a.nnz(); ++p) column.push_back(place[static_cast<std::size_t>(a.indices[p])]);
    return {a.rows, order.levels(), sent(be, starts).data, sent(be, rows).data, sent(be, column).data};
}

// As cuda::relaxation::sor_batch, on any backend: one launch and one read beside the set-up, for systems of
// up to 1472 rows; of larger ones as many at a time as `room` bytes serve. Blocks of one warp (n <= 128) let
// a multiprocessor hold 32 systems.
template <class Be>
aitken::relaxation::batch_report solve_sor_batch(Be& be, const aitken::relaxation::batch_problem& problem,
                                                 index nnz, const aitken::relaxation::batch_options& options,
                                                 std::size_t room) {
    aitken::relaxation::batch_report report;
    const index n = problem.a.rows, count = problem.b.rows;
    const sparse_pattern host = checked_rows(be, problem.a, nnz);
    if (count == 0) return report;
    const wavefronts a = send_wavefronts(be, host.view());
    const vec<swept_system> there = be.template allocate<swept_system>(count);
    const sor_limits limits{options.sweep, options.norm, options.rtol, options.atol, options.max_sweeps};
    const auto all = [&]<int Threads, int Capacity>() {
        be.launch(sor_systems<Threads, Capacity>(problem, 0, count, a, limits, nullptr, there.data));
    };
    if (n <= 128) {
        all.template operator()<32, 128>();
    } else if (n <= 512) {
        all.template operator()<64, 512>();
    } else if (n <= 1472) {
        all.template operator()<128, 1472>();
    } else {
        const index per_system = 4 * n;
        const index together = std::clamp<index>(
            static_cast<index>(room / sizeof(double)) / std::max<index>(per_system, 1), 1, count);
        const vec<double> space = be.template allocate<double>(together * per_system);
        for (index first = 0; first < count; first += together) {
            be.interrupts().poll();
            be.launch(sor_systems<256, 0>(problem, first, std::min(together, count - first), a, limits,
                                          space.data, there.data));
        }
    }
    std::vector<swept_system> here(static_cast<std::size_t>(count));
    be.download(vec<const swept_system>(there), here.data());
    for (const swept_system& s : here) {
        report.status.push_back(s.status);
        report.iterations.push_back(s.iterations);
        report.residual.push_back(s.residual);
        report.target.push_back(s.target);
    }
    return report;
}

}  // namespace aitken::cuda
