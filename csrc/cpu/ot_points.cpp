// Entropic transport between clouds of points on the CPU: the driver over kernels that form costs as needed.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "core/api/ot.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "cpu/ot_sources.hpp"
#include "cpu/threads.hpp"
#include "drivers/ot.hpp"

namespace aitken::cpu::ot {

using namespace aitken::ot;

static_assert(drivers::ot::OtKernels<point_kernels>);

namespace {

// Lower and upper corner of both clouds.
std::pair<std::vector<double>, std::vector<double>> extent(const point_cost& cost) {
    const index d = cost.x.cols;
    std::vector<double> lo(d, infinity), hi(d, -infinity);
    for (const matrix<const double>& cloud : {cost.x, cost.y})
        for (index i = 0; i < cloud.rows; ++i)
            for (index k = 0; k < d; ++k) {
                lo[k] = std::min(lo[k], cloud.row(i)[k]);
                hi[k] = std::max(hi[k], cloud.row(i)[k]);
            }
    return {lo, hi};
}

// Points along a Morton curve through the box: neighbours in the order are mostly neighbours in space. Equal
// points stay in their order.
std::vector<index> curve_order(matrix<const double> cloud, const std::vector<double>& lo,
                               const std::vector<double>& hi) {
    const index dimensions = std::min<index>(cloud.cols, 8);
    const int bits = static_cast<int>(std::min<index>(20, 63 / dimensions));
    const double cells = std::exp2(bits);
    std::vector<std::pair<std::uint64_t, index>> keys(cloud.rows);
    for (index i = 0; i < cloud.rows; ++i) {
        std::uint64_t cell[8], code = 0;
        for (index k = 0; k < dimensions; ++k) {
            const double at = hi[k] > lo[k] ? (cloud.row(i)[k] - lo[k]) / (hi[k] - lo[k]) * cells : 0.0;
            cell[k] = static_cast<std::uint64_t>(std::clamp(at, 0.0, cells - 1));
        }
        for (int bit = bits - 1; bit >= 0; --bit)
            for (index k = 0; k < dimensions; ++k) code = code << 1 | (cell[k] >> bit & 1);
        keys[i] = {code, i};
    }
    std::sort(keys.begin(), keys.end());
    std::vector<index> order(cloud.rows);
    for (index i = 0; i < cloud.rows; ++i) order[i] = keys[i].second;
    return order;
}

// A side of a problem in curve order, where far blocks may be passed over, or as given.
class ordered_side {
public:
    ordered_side(matrix<const double> cloud, std::vector<index> order)
        : cloud_(cloud), order_(std::move(order)) {
        if (order_.empty()) return;
        copy_.resize(static_cast<std::size_t>(cloud.rows * cloud.cols));
        for (index i = 0; i < cloud.rows; ++i)
            std::copy_n(cloud.row(order_[i]), cloud.cols, copy_.data() + i * cloud.cols);
        cloud_ = {copy_.data(), cloud.rows, cloud.cols, cloud.cols};
    }
    matrix<const double> cloud() const { return cloud_; }

    // In and out of the order; `room` of the side's length where there is one.
    vec<double> in(vec<const double> given, std::vector<double>& room) const {
        room.assign(given.data, given.data + given.size);
        for (std::size_t i = 0; i < order_.size(); ++i) room[i] = given[order_[i]];
        return {room.data(), given.size};
    }
    void out(vec<const double> ordered, vec<double> to) const {
        for (index i = 0; i < to.size; ++i) to[order_.empty() ? i : order_[i]] = ordered[i];
    }

private:
    matrix<const double> cloud_;
    std::vector<index> order_;
    std::vector<double> copy_;
};

// Both sides, in curve order if that can save anything: K not stored, and dimensions few.
struct ordered_problem {
    ordered_problem(const point_problem& p)
        : ordered(!p.plan.data && p.cost.x.cols <= 16 && p.cost.x.rows * p.cost.y.rows >= index{1} << 20),
          box(ordered ? extent(p.cost) : decltype(box){}),
          rows(p.cost.x, ordered ? curve_order(p.cost.x, box.first, box.second) : std::vector<index>{}),
          cols(p.cost.y, ordered ? curve_order(p.cost.y, box.first, box.second) : std::vector<index>{}),
          problem{{p.cost.metric, rows.cloud(), cols.cloud()},
                  rows.in(p.a, a),
                  cols.in(p.b, b),
                  p.range,
                  p.plan,
                  ordered} {}
    ordered_problem(const ordered_problem&) = delete;
    ordered_problem& operator=(const ordered_problem&) = delete;

    bool ordered;
    std::pair<std::vector<double>, std::vector<double>> box;
    ordered_side rows, cols;
    std::vector<double> a, b;
    point_problem problem;
};

// fn(chunk's first row, its end) in parallel; the calling thread hears Ctrl-C between chunks of about 10^6
// costs.
template <class F>
void row_parts(const point_cost& cost, interrupt& signals, F&& fn) {
    const index n = cost.x.rows, m = cost.y.rows;
    const index size = std::clamp<index>((index{1} << 20) / std::max<index>(m, 1) / 4 * 4, 4, n + 3);
    parallel_chunks((n + size - 1) / size,
                    [&](index chunk, int worker) {
                        if (worker == 0) signals.poll();
                        fn(chunk * size, std::min(n, (chunk + 1) * size));
                    },
                    chunk_schedule::dynamic);
}

}  // namespace

report solve(const point_problem& given, const options& options, vec<double> x, vec<double> y,
             interrupt& signals, const monitor& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    const ordered_problem own(given);
    point_kernels kernels(be, own.problem);
    drivers::ot::solver solver(be, kernels, x.size, y.size, given.range, options, monitor);
    std::vector<double> own_x, own_y;
    const vec<double> vx = own.rows.in(x, own_x), vy = own.cols.in(y, own_y);
    report out = solver.run(vx, vy);
    own.rows.out(vx, x);
    own.cols.out(vy, y);
    return out;
}

adjoint_report adjoint(const point_problem& given, const options& options, vec<const double> x,
                       vec<const double> y, vec<const double> w, vec<const double> z, vec<double> p,
                       vec<double> q, interrupt& signals) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    const ordered_problem own(given);
    point_kernels kernels(be, own.problem);
    const monitor silent;
    drivers::ot::solver solver(be, kernels, x.size, y.size, given.range, options, silent);
    std::vector<double> own_x, own_y, own_w, own_z, own_p(p.size), own_q(q.size);
    const vec<double> vp{own_p.data(), p.size}, vq{own_q.data(), q.size};
    const adjoint_report out = solver.adjoint(own.rows.in(x, own_x), own.cols.in(y, own_y),
                                              own.rows.in(w, own_w), own.cols.in(z, own_z), vp, vq);
    own.rows.out(vp, p);
    own.cols.out(vq, q);
    return out;
}

// One exp and 2 d + 2 k flops per entry: K by blocks of four rows, each used for all k vectors.
void plan_times(const point_cost& cost, double reg, vec<const double> x, vec<const double> y,
                matrix<const double> v, matrix<double> out, interrupt& signals, int n_threads) {
    const thread_scope threads(n_threads);
    backend be(signals);
    const point_source source(be, {cost, {}, {}, 0, {}, false});
    constexpr index group = point_source::group, block = point_source::block;
    row_parts(cost, signals, [&](index first, index last) {
        for (index c = 0; c < v.rows; ++c) std::fill(out.row(c) + first, out.row(c) + last, 0.0);
        alignas(64) double room[group * block];
        for (index b = 0; b < source.n_blocks(); ++b) {
            const index j = source.first(b), count = source.count(b);
            for (index i = first; i < last; i += group) {
                const int rows = static_cast<int>(std::min(group, last - i));
                const double* k[group];
                for (int g = 0; g < rows; ++g) {
                    k[g] = room + g * block;
                    source.exp(i + g, j, count, y.data + j, x[i + g], 1.0 / reg, room + g * block);
                }
                for (index c = 0; c < v.rows; ++c) {
                    double sums[group];
                    rows_of<double>::dot(k, rows, v.row(c) + j, count, sums);
                    for (int g = 0; g < rows; ++g) out.row(c)[i + g] += sums[g];
                }
            }
        }
    });
}

template <class T>
void plan_rows(const point_cost& cost, double reg, vec<const double> x, vec<const double> y, index first,
               matrix<T> out, int n_threads) {
    const thread_scope threads(n_threads);
    interrupt signals;
    backend be(signals);
    const point_source source(be, {cost, {}, {}, 0, {}, false});
    constexpr index block = point_source::block;
    const row_chunks chunks(out.rows, out.cols);
    const auto write_row = [&](index i) {
        alignas(64) double room[block];
        for (index b = 0; b < source.n_blocks(); ++b) {
            const index j = source.first(b), count = source.count(b);
            source.exp(first + i, j, count, y.data + j, x[first + i], 1.0 / reg, room);
            for (index e = 0; e < count; ++e)  // no denormals
                out.row(i)[j + e] = room[e] < std::numeric_limits<T>::min() ? T(0) : static_cast<T>(room[e]);
        }
    };
    parallel_chunks(chunks.count, [&](index chunk) {
        for (index i = chunks.first(chunk); i < chunks.last(chunk); ++i) write_row(i);
    });
}

void c_transform(const point_cost& cost, double reg, vec<const double> potential, vec<double> out,
                 interrupt& signals, int n_threads) {
    const thread_scope threads(n_threads);
    backend be(signals);
    const point_source source(be, {cost, {}, {}, 0, {}, false});
    row_parts(cost, signals, [&](index first, index last) {
        alignas(64) double room[point_source::block];
        for (index i = first; i < last; ++i) {
            const double peak = source.max(i, potential.data);
            double sum = 0;
            for (index b = 0; b < source.n_blocks(); ++b)
                sum += source.exp(i, source.first(b), source.count(b), potential.data + source.first(b),
                                  -peak, 1.0 / reg, room);
            out[i] = peak > -infinity ? -reg * std::log(sum) - peak : -infinity;
        }
    });
}

// Two exps' worth per entry: 2 d + 2 flops to weigh, 3 d (euclidean 5 d) to pull.
void plan_pull(const point_cost& cost, double reg, vec<const double> x, vec<const double> y,
               matrix<double> out, interrupt& signals, int n_threads) {
    const thread_scope threads(n_threads);
    backend be(signals);
    const point_source source(be, {cost, {}, {}, 0, {}, false});
    row_parts(cost, signals, [&](index first, index last) {
        alignas(64) double room[point_source::block];
        for (index i = first; i < last; ++i) std::fill_n(out.row(i), out.cols, 0.0);
        for (index b = 0; b < source.n_blocks(); ++b) {
            const index j = source.first(b), count = source.count(b);
            for (index i = first; i < last; ++i) {
                source.exp(i, j, count, y.data + j, x[i], 1.0 / reg, room);
                source.pull(i, j, count, room, out.row(i));
            }
        }
    });
}

sparse_plan compress(const point_cost& cost, double reg, vec<const double> x, vec<const double> y,
                     vec<const double> a, vec<const double> b, double drop, interrupt& signals,
                     int n_threads) {
    const thread_scope threads(n_threads);
    backend be(signals);
    point_kernels kernels(be, {cost, a, b, 0, {}, false});
    const index n = cost.x.rows, m = cost.y.rows;
    const vec<double> row_limit = be.allocate<double>(n), col_limit = be.allocate<double>(m);
    const vec<double> u = be.allocate<double>(n), v = be.allocate<double>(m);
    be.fill(u, 1.0);
    be.fill(v, 1.0);
    kernels.set_base(reg, x, y);
    kernels.mass_limits(drop, a, b, row_limit, col_limit);
    drivers::ot::host_csr kept;
    kernels.compact(u, v, {{}, {}, row_limit, col_limit, false}, n * m, kept);
    return {std::move(kept.indptr), std::move(kept.indices), std::move(kept.values)};
}

template void plan_rows(const point_cost&, double, vec<const double>, vec<const double>, index,
                        matrix<double>, int);
template void plan_rows(const point_cost&, double, vec<const double>, vec<const double>, index, matrix<float>,
                        int);

}  // namespace aitken::cpu::ot
