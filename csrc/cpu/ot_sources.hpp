// Where the transport kernels take the cost from: a matrix in memory, or two clouds of points whose costs are
// formed as they are needed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <type_traits>

#include "core/api/ot.hpp"
#include "cpu/backend.hpp"
#include "cpu/simd/dispatch.hpp"

namespace aitken::cpu {

// The per-ISA table with the precision chosen at compile time.
template <class T>
struct rows_of {
    static constexpr bool f64 = std::is_same_v<T, double>;
    static double max(const T* c, const double* y, index m) {
        if constexpr (f64)
            return simd().row_max_f64(c, y, m);
        else
            return simd().row_max_f32(c, y, m);
    }
    static double exp(const T* c, const double* y, double shift, double inv_eps, index m, T* out) {
        if constexpr (f64)
            return simd().row_exp_f64(c, y, shift, inv_eps, m, out);
        else
            return simd().row_exp_f32(c, y, shift, inv_eps, m, out);
    }
    static void col_max(const T* c, double shift, index m, double* acc) {
        if constexpr (f64)
            simd().col_max_f64(c, shift, m, acc);
        else
            simd().col_max_f32(c, shift, m, acc);
    }
    static void dot(const T* const* k, int rows, const double* v, index m, double* out) {
        if constexpr (f64)
            simd().dot_f64(k, rows, v, m, out);
        else
            simd().dot_f32(k, rows, v, m, out);
    }
    static void axpy(const T* const* k, int rows, const double* w, index m, double* acc) {
        if constexpr (f64)
            simd().axpy_f64(k, rows, w, m, acc);
        else
            simd().axpy_f32(k, rows, w, m, acc);
    }
    static void dot_axpy(const T* const* k, int rows, const double* v, const double* w, index m, double* out,
                         double* acc) {
        if constexpr (f64)
            simd().dot_axpy_f64(k, rows, v, w, m, out, acc);
        else
            simd().dot_axpy_f32(k, rows, v, w, m, out, acc);
    }
    static double weighted_cost(const T* k, const double* v, const T* c, index m) {
        if constexpr (f64)
            return simd().weighted_cost_f64(k, v, c, m);
        else
            return simd().weighted_cost_f32(k, v, c, m);
    }
    static index select(const T* k, double s, const double* v, double row_limit, const double* col_limit,
                        bool use_max, index m, std::int32_t* idx) {
        if constexpr (f64)
            return simd().select_f64(k, s, v, row_limit, col_limit, use_max, m, idx);
        else
            return simd().select_f32(k, s, v, row_limit, col_limit, use_max, m, idx);
    }
};

// Storage on a cache line, for the length of a scope.
template <class T>
class aligned_room {
public:
    explicit aligned_room(index size)
        : data_(static_cast<T*>(::operator new(sizeof(T) * static_cast<std::size_t>(size), alignment))) {}
    ~aligned_room() { ::operator delete(data_, alignment); }
    aligned_room(const aligned_room&) = delete;
    aligned_room& operator=(const aligned_room&) = delete;
    T* data() const { return data_; }

private:
    static constexpr std::align_val_t alignment{64};
    T* data_;
};

// Costs from a matrix.
template <class T>
class matrix_source {
public:
    using problem = aitken::ot::problem<T>;
    static constexpr bool computed = false;

    matrix_source(backend&, const problem& p) : cost_(p.cost) {}
    index rows() const { return cost_.rows; }
    index cols() const { return cost_.cols; }

    // The row kernels of table.hpp over row i.
    double max(index i, const double* y) const { return rows_of<T>::max(cost_.row(i), y, cost_.cols); }
    double exp(index i, const double* y, double shift, double inv_eps, T* out) const {
        return rows_of<T>::exp(cost_.row(i), y, shift, inv_eps, cost_.cols, out);
    }
    // Row i itself; `room` for a row is not needed here.
    const T* costs(index i, T*) const { return cost_.row(i); }

private:
    matrix<const T> cost_;
};

// Costs between points, in blocks of columns that stay in the first cache with the rows of K made from them.
//
// Far blocks. Where both clouds are in the order of a space-filling curve, blocks of columns and groups of
// rows fill small boxes. A block is passed over for a group if in all of it P_ij < 1e-20 min(a_i, b_j),
// bounded from the boxes' distance and the largest potentials of both: together these entries stay below the
// rounding of the sums they would have been added to.
class point_source {
public:
    static constexpr double negligible = -46.0;  // log 1e-20
    using problem = aitken::ot::point_problem;
    static constexpr bool computed = true;
    static constexpr index block = 256;  // coordinates and four vectors: 14 KB for d = 3
    static constexpr index group = 4;

    point_source(backend& be, const problem& p) : metric_(p.cost.metric), x_(p.cost.x), n_(x_.rows) {
        const matrix<const double> y = p.cost.y;
        m_ = y.rows;
        d_ = x_.cols;
        const vec<double> planes = be.allocate<double>(m_ * d_);
        for (index k = 0; k < d_; ++k)
            for (index j = 0; j < m_; ++j) planes[k * m_ + j] = y.row(j)[k];
        columns_ = {planes.data, m_, d_, static_cast<int>(metric_)};
        a_ = p.a;
        b_ = p.b;
        if (!p.ordered || n_ == 0 || m_ == 0) return;
        boxed_ = true;
        groups_ = boxes(be, x_, group);
        blocks_ = boxes(be, y, block);
        row_top_ = be.allocate<double>((n_ + group - 1) / group);
        row_share_ = be.allocate<double>(row_top_.size);
        col_top_ = be.allocate<double>(n_blocks());
        col_share_ = be.allocate<double>(n_blocks());
        const corners all = boxes(be, y, m_);
        const corners low{all.lo, all.lo}, high{all.hi, all.hi};
        widest_ = gap(low, 0, high, 0);
    }

    index rows() const { return n_; }
    index cols() const { return m_; }
    index n_blocks() const { return (m_ + block - 1) / block; }
    index first(index b) const { return b * block; }
    index count(index b) const { return std::min(block, m_ - first(b)); }

    double max(index i, const double* y) const { return simd().points_max(&columns_, x_.row(i), y, 0, m_); }
    double max(index i, index j, index count, const double* y) const {
        return simd().points_max(&columns_, x_.row(i), y, j, count);
    }
    void costs(index i, index j, index count, double* room) const {
        simd().points_cost(&columns_, x_.row(i), j, count, room);
    }
    double exp(index i, const double* y, double shift, double inv_eps, double* out) const {
        return exp(i, 0, m_, y, shift, inv_eps, out);
    }
    const double* costs(index i, double* room) const {
        simd().points_cost(&columns_, x_.row(i), 0, m_, room);
        return room;
    }
    // The points_* kernels of table.hpp over the columns from j on, where y, v, acc and out begin.
    double exp(index i, index j, index count, const double* y, double shift, double inv_eps,
               double* out) const {
        return simd().points_exp(&columns_, x_.row(i), y, shift, inv_eps, j, count, out);
    }
    double exp_dot(index i, index j, index count, const double* y, double shift, double inv_eps,
                   const double* v, double* out) const {
        return simd().points_exp_dot(&columns_, x_.row(i), y, shift, inv_eps, j, count, v, out);
    }
    double dot(index i, index j, index count, const double* y, double shift, double inv_eps,
               const double* v) const {
        return simd().points_dot(&columns_, x_.row(i), y, shift, inv_eps, j, count, v);
    }
    double dot_axpy(index i, index j, index count, const double* y, double shift, double inv_eps,
                    const double* v, double weight, double* acc) const {
        return simd().points_dot_axpy(&columns_, x_.row(i), y, shift, inv_eps, j, count, v, weight, acc);
    }
    void pull(index i, index j, index count, const double* weights, double* sums) const {
        simd().points_pull(&columns_, x_.row(i), weights, j, count, sums);
    }

    // Bounds for `far`, of the plan diag(u) exp((x + y - C)/eps) diag(v); without u, v they are 1. Soft
    // marginals have no weights to measure by: then only what is exactly 0 is far. O(n + m), with a logarithm
    // per scaling that is not 1.
    void bound(double inv_eps, vec<const double> x, vec<const double> y, vec<const double> u,
               vec<const double> v, bool soft) {
        soft_ = soft;
        skipping_ = boxed_ && widest_ * inv_eps > -(soft ? underflow : negligible);
        if (!skipping_) return;
        inv_eps_ = inv_eps;
        if (soft) u = v = {};
        tops(x, u, a_, inv_eps, group, row_top_, row_share_);
        tops(y, v, b_, inv_eps, block, col_top_, col_share_);
    }
    // The same for y alone: reach is what no (y_j - C_ij) / eps of row group g and block b exceeds.
    void bound(double inv_eps, vec<const double> y) {
        skipping_ = boxed_ && widest_ * inv_eps > -negligible;
        if (!skipping_) return;
        inv_eps_ = inv_eps;
        tops(y, {}, b_, inv_eps, block, col_top_, col_share_);
    }
    double reach(index g, index b) const {
        if (!skipping_) return std::numeric_limits<double>::infinity();
        return col_top_[b] - gap(groups_, g, blocks_, b) * inv_eps_;
    }
    // Whether row group g has nothing to do with block b.
    bool far(index g, index b) const {
        if (!skipping_) return false;
        const double cost = gap(groups_, g, blocks_, b) * inv_eps_;
        if (soft_) return row_top_[g] + col_top_[b] - cost < underflow;
        return row_top_[g] + col_share_[b] - cost < negligible &&
               row_share_[g] + col_top_[b] - cost < negligible;
    }

private:
    static constexpr double underflow = -709.0;

    // Lower and upper corners, d numbers each, of `size` points at a time.
    struct corners {
        vec<double> lo, hi;
    };
    static corners boxes(backend& be, matrix<const double> points, index size) {
        const index count = (points.rows + size - 1) / size, d = points.cols;
        const corners c{be.allocate<double>(count * d), be.allocate<double>(count * d)};
        for (index b = 0; b < count; ++b)
            for (index k = 0; k < d; ++k) {
                double lo = points.row(b * size)[k], hi = lo;
                for (index j = b * size; j < std::min(points.rows, (b + 1) * size); ++j) {
                    lo = std::min(lo, points.row(j)[k]);
                    hi = std::max(hi, points.row(j)[k]);
                }
                c.lo[b * d + k] = lo;
                c.hi[b * d + k] = hi;
            }
        return c;
    }
    // The least cost between two boxes, a little less than that for rounding.
    double gap(const corners& s, index i, const corners& t, index j) const {
        const double *s_lo = &s.lo[i * d_], *s_hi = &s.hi[i * d_], *t_lo = &t.lo[j * d_],
                     *t_hi = &t.hi[j * d_];
        double sum = 0;
        for (index k = 0; k < d_; ++k) {
            const double apart = std::max({0.0, s_lo[k] - t_hi[k], t_lo[k] - s_hi[k]});
            sum += metric_ == aitken::ot::metric::cityblock ? apart : apart * apart;
        }
        return (metric_ == aitken::ot::metric::euclidean ? std::sqrt(sum) : sum) * (1 - 1e-12);
    }
    // Per `size` entries: the largest of z = potential / eps + log scaling, and of z - log weight.
    static void tops(vec<const double> potential, vec<const double> scaling, vec<const double> weight,
                     double inv_eps, index size, vec<double> top, vec<double> share) {
        constexpr double none = -std::numeric_limits<double>::infinity();
        for (index g = 0; g < top.size; ++g) {
            double t = none, s = none;
            for (index i = g * size; i < std::min(potential.size, (g + 1) * size); ++i) {
                if (!(weight[i] > 0)) continue;
                double z = potential[i] * inv_eps;
                if (scaling.data && scaling[i] != 1.0) z += std::log(scaling[i]);
                t = std::max(t, z);
                s = std::max(s, z - std::log(weight[i]));
            }
            top[g] = t;
            share[g] = s;
        }
    }

    aitken::ot::metric metric_;
    matrix<const double> x_;
    index n_, m_ = 0, d_ = 0;
    aitken_points columns_{};
    vec<const double> a_, b_;
    bool boxed_ = false, skipping_ = false, soft_ = false;
    double widest_ = 0, inv_eps_ = 0;
    corners groups_, blocks_;
    vec<double> row_top_, row_share_, col_top_, col_share_;
};

}  // namespace aitken::cpu
