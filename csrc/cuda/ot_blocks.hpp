// The kernels of the transport solver as block programs; semantics are those of cpu/ot_kernels.hpp.
//
// All passes over the n x m matrix are tile_pass: a block reads strips of 32 x 256 tiles once, coalesced,
// and leaves partial results per row and column tile and per column and row strip. finish_pass adds them
// in order and applies what the kernel is for. So there are no floating-point atomics, and bits depend on
// the shape alone, not on the GPU.
//
// Bytes below: s = n m sizeof(T), the size of K (of C where K is recomputed: then each entry also costs one
// exp). Partials add 8 n m / 256 bytes by rows and at most 8 * 64 m by columns (twice that for log-sum-exp).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/api/ot.hpp"
#include "core/views.hpp"
#include "cuda/program.hpp"
#include "cuda/vector_blocks.hpp"

namespace aitken::cuda {

// --- the entries of K ----------------------------------------------------------------------------

// exp with the CPU's rules: exactly 0 where the result would be denormal in T, rounded to T.
template <class T>
AITKEN_HD double entry_exp(double z) {
    constexpr double low = sizeof(T) == 8 ? -708.0 : -87.336544;
    return z < low ? 0.0 : static_cast<double>(static_cast<T>(std::exp(z)));
}

// K as an exponential pass left it.
template <class T>
struct stored_entries {
    using column = nothing;
    struct row {
        const T* k;
    };
    matrix<const T> kernel;

    AITKEN_HD column column_at(index) const { return {}; }
    AITKEN_HD row row_at(index i) const { return {kernel.row(i)}; }
    AITKEN_HD double at(const row& r, column, index j) const { return static_cast<double>(r.k[j]); }
};

// --- the costs -----------------------------------------------------------------------------------
// A source gives a row, a column (both to stay in registers) and the cost at their crossing.

// C in memory.
template <class T>
struct cost_entries {
    using value = T;
    using column = nothing;
    struct row {
        const T* c;
    };
    matrix<const T> cost;

    index rows() const { return cost.rows; }
    index cols() const { return cost.cols; }
    cost_entries below(index first, index count) const {
        return {{cost.row(first), count, cost.cols, cost.ld}};
    }
    AITKEN_HD column column_at(index) const { return {}; }
    AITKEN_HD row row_at(index i) const { return {cost.row(i)}; }
    AITKEN_HD double at(row r, column, index j) const { return static_cast<double>(r.c[j]); }
};

// C between the points of two clouds, never stored: differences of coordinates in double, so that a point is
// at distance exactly 0 of itself. Up to D coordinates lie in registers; D = 0: any number, read for every
// pair (8 d bytes of each cloud, mostly from the first cache). 2 d flops a pair, cityblock 3 d.
template <int D>
struct point_entries {
    using value = double;
    struct point {
        double at[D];
    };
    struct pointer {
        const double* at;
    };
    using column = std::conditional_t<(D > 0), point, pointer>;
    using row = column;
    matrix<const double> x, y;
    aitken::ot::metric metric;

    index rows() const { return x.rows; }
    index cols() const { return y.rows; }
    point_entries below(index first, index count) const {
        return {{x.row(first), count, x.cols, x.ld}, y, metric};
    }
    AITKEN_HD column column_at(index j) const { return take(y, j); }
    AITKEN_HD row row_at(index i) const { return take(x, i); }
    AITKEN_HD double at(const row& r, const column& c, index) const {
        double sum = 0;
        const int d = D > 0 ? D : static_cast<int>(x.cols);
        AITKEN_UNROLL
        for (int k = 0; k < d; ++k) {
            const double apart = r.at[k] - c.at[k];
            sum += metric == aitken::ot::metric::cityblock ? std::fabs(apart) : apart * apart;
        }
        return metric == aitken::ot::metric::euclidean ? std::sqrt(sum) : sum;
    }
    // d cost / d (coordinate k of the row's point), 0 where it does not exist.
    AITKEN_HD double slope(index i, index j, int k) const {
        const double apart = x.row(i)[k] - y.row(j)[k];
        if (metric == aitken::ot::metric::sqeuclidean) return 2.0 * apart;
        if (metric == aitken::ot::metric::cityblock) return apart > 0 ? 1.0 : apart < 0 ? -1.0 : 0.0;
        const double far = at(row_at(i), column_at(j), j);
        return far > 0 ? apart / far : 0.0;
    }

private:
    AITKEN_HD static column take(const matrix<const double>& cloud, index i) {
        if constexpr (D > 0) {
            point p;
            AITKEN_UNROLL
            for (int k = 0; k < D; ++k) p.at[k] = k < cloud.cols ? cloud.row(i)[k] : 0.0;
            return p;
        } else {
            return {cloud.row(i)};
        }
    }
};

// K recomputed from C at the potentials x, y; rounded to Value.
template <class Source, class Value = typename Source::value>
struct computed_entries {
    struct column {
        typename Source::column c;
        double y;
    };
    struct row {
        typename Source::row c;
        double x;
    };
    Source cost;
    const double *x, *y;
    double inv_eps;

    AITKEN_HD column column_at(index j) const { return {cost.column_at(j), y[j]}; }
    AITKEN_HD row row_at(index i) const { return {cost.row_at(i), x[i]}; }
    AITKEN_HD double at(const row& r, const column& c, index j) const {
        return entry_exp<Value>((c.y + r.x - cost.at(r.c, c.c, j)) * inv_eps);
    }
};

// A weight vector formed on the fly: a, a b, a / c or a b / c, with 0 where c is not positive.
struct factors {
    const double* a;
    const double* b;
    const double* over;

    AITKEN_HD double at(index i) const {
        double w = a[i];
        if (b) w *= b[i];
        if (over) w = over[i] > 0 ? w / over[i] : 0.0;
        return w;
    }
};

// --- tiles ---------------------------------------------------------------------------------------

// How an n x m matrix is cut. At most 64 strips, so that column partials stay O(m); where the shape allows,
// 1056 blocks (8 for each of 132 multiprocessors), whatever the GPU, so that bits do not depend on it.
struct tiling {
    static constexpr int rows = 32, cols = 256;
    index n, m, col_tiles, groups, strips, per_strip;

    tiling(index n_, index m_) : n(n_), m(m_), col_tiles(blocks_for(m_, cols)), groups(blocks_for(n_, rows)) {
        index wanted = blocks_for(1056, col_tiles > 0 ? col_tiles : 1);
        if (wanted > 64) wanted = 64;
        per_strip = blocks_for(groups, wanted);
        if (per_strip < 1) per_strip = 1;
        strips = blocks_for(groups, per_strip);
    }
    index blocks() const { return col_tiles * strips; }
    index row_parts() const { return col_tiles * n; }
    index col_parts() const { return strips * m; }
};

// One read of the matrix with row and column reductions.
//
// Eight warps of 32 lanes: warp w takes rows w, w + 8, .. of a group of 32, lane l the columns l, l + 32, ..
// of 256. So a thread has 4 x 8 entries, 4 row and 8 column accumulators in registers; the latter last
// for the whole strip. Column tiles run fastest over the blocks.
//
// Op: `by_rows`, `by_cols`; row_acc, col_acc with zero_row/zero_col and combine; weights of rows and columns;
// visit(entry, row weight, column weight, i, j, row_acc&, col_acc&).
template <class Entries, class Op>
struct tile_pass {
    using row_acc = typename Op::row_acc;
    using col_acc = typename Op::col_acc;
    static constexpr int threads = 256, lanes = 32, warps = 8;
    static constexpr int thread_rows = tiling::rows / warps, thread_cols = tiling::cols / lanes;
    static constexpr int segments = threads / tiling::rows;  // threads that share a row's reduction
    static constexpr int steps = Op::by_rows ? 3 : 1;
    static constexpr int closings = Op::by_cols ? 2 : 0;

    struct row_space {
        row_acc of[tiling::rows][lanes + 1];  // one more than a warp: no bank conflicts
        row_acc segment[tiling::rows][segments];
    };
    union shared {  // the columns' part comes after the last row is done
        row_space row;
        col_acc col[Op::by_cols ? warps : 1][tiling::cols];
    };
    struct local {
        typename Entries::column column[thread_cols];
        double weight[thread_cols];
        col_acc acc[thread_cols];
    };

    Entries entries;
    Op op;
    tiling tiles;
    row_acc* row_part;  // [column tile][row]
    col_acc* col_part;  // [strip][column]

    index blocks() const { return tiles.blocks(); }

    AITKEN_HD index strip(place at) const { return at.block / tiles.col_tiles; }
    AITKEN_HD index col_tile(place at) const { return at.block % tiles.col_tiles; }
    AITKEN_HD index first_col(place at) const { return col_tile(at) * tiling::cols; }
    AITKEN_HD index group(place at, index round) const { return strip(at) * tiles.per_strip + round; }

    AITKEN_HD void open(local& mine, place at) const {
        const index j0 = first_col(at) + at.thread % lanes;
        AITKEN_UNROLL
        for (int q = 0; q < thread_cols; ++q) {
            const index j = j0 + q * lanes;
            mine.acc[q] = op.zero_col();
            mine.weight[q] = 0;
            if (j >= tiles.m) continue;
            mine.column[q] = entries.column_at(j);
            mine.weight[q] = op.col_weight(j);
        }
    }

    AITKEN_HD index rounds(place at) const {
        const index left = tiles.groups - strip(at) * tiles.per_strip;
        return left < tiles.per_strip ? left : tiles.per_strip;
    }

    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const int t = at.thread;
        if constexpr (Step == 0) {
            const int lane = t % lanes, warp = t / lanes;
            const index j0 = first_col(at) + lane;
            AITKEN_UNROLL
            for (int g = 0; g < thread_rows; ++g) {
                const int in_group = warp + g * warps;
                const index i = group(at, round) * tiling::rows + in_group;
                row_acc sum = op.zero_row();
                if (i < tiles.n) {
                    const auto row = entries.row_at(i);
                    const double weight = op.row_weight(i);
                    double e[thread_cols];
                    // All loads of a row before the first use (and store) of one.
                    AITKEN_UNROLL
                    for (int q = 0; q < thread_cols; ++q) {
                        const index j = j0 + q * lanes;
                        e[q] = j < tiles.m ? entries.at(row, mine.column[q], j) : 0.0;
                    }
                    AITKEN_UNROLL
                    for (int q = 0; q < thread_cols; ++q)
                        if (const index j = j0 + q * lanes; j < tiles.m)
                            op.visit(e[q], weight, mine.weight[q], i, j, sum, mine.acc[q]);
                }
                if constexpr (Op::by_rows) s.row.of[in_group][lane] = sum;
            }
        } else if constexpr (Step == 1) {
            const int r = t / segments, first = t % segments * (lanes / segments);
            row_acc sum = s.row.of[r][first];
            for (int l = 1; l < lanes / segments; ++l) op.combine(sum, s.row.of[r][first + l]);
            s.row.segment[r][t % segments] = sum;
        } else {
            const index i = group(at, round) * tiling::rows + t;
            if (t >= tiling::rows || i >= tiles.n) return;
            row_acc sum = s.row.segment[t][0];
            for (int k = 1; k < segments; ++k) op.combine(sum, s.row.segment[t][k]);
            row_part[col_tile(at) * tiles.n + i] = sum;
        }
    }

    template <int Phase>
    AITKEN_HD void close(shared& s, local& mine, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            AITKEN_UNROLL
            for (int q = 0; q < thread_cols; ++q) s.col[t / lanes][t % lanes + q * lanes] = mine.acc[q];
        } else {
            const index j = first_col(at) + t;
            if (j >= tiles.m) return;
            col_acc sum = s.col[0][t];
            for (int w = 1; w < warps; ++w) op.combine(sum, s.col[w][t]);
            col_part[strip(at) * tiles.m + j] = sum;
        }
    }
};

// Adds `parts` partials of each item in order and hands the total to then(item, total). 32 items a block,
// eight slices of the parts each. Reads 8 parts bytes per item.
template <class Sum, class Then>
struct finish_pass : straight {
    using acc = typename Sum::acc;
    static constexpr int threads = 256, items = 32, slices = threads / items;
    static constexpr int closings = 2;
    struct shared {
        acc part[slices][items];
    };
    Sum sum;
    Then then;
    const acc* parts;
    index n_parts, count;

    finish_pass(Sum sum_, Then then_, const acc* parts_, index n_parts_, index count_)
        : sum(sum_), then(then_), parts(parts_), n_parts(n_parts_), count(count_) {}
    index blocks() const { return blocks_for(count, items); }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int item = at.thread % items, slice = at.thread / items;
        const index i = at.block * items + item;
        if (i >= count) return;
        if constexpr (Phase == 0) {
            acc total = sum.zero();
            for (index p = slice; p < n_parts; p += slices) sum.combine(total, parts[p * count + i]);
            s.part[slice][item] = total;
        } else if (slice == 0) {
            acc total = s.part[0][item];
            for (int k = 1; k < slices; ++k) sum.combine(total, s.part[k][item]);
            then(i, total);
        }
    }
};

// --- what tile_pass may compute ------------------------------------------------------------------

struct plain_sum {
    using acc = double;
    AITKEN_HD double zero() const { return 0.0; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
};

// Sums: rows get sum_j e_ij w_j, columns sum_i e_ij w_i, either or both. 2 or 4 n m flops, s bytes.
template <bool Rows, bool Cols>
struct weighted_sums {
    static constexpr bool by_rows = Rows, by_cols = Cols;
    using row_acc = double;
    using col_acc = double;
    factors of_rows, of_cols;

    AITKEN_HD double zero_row() const { return 0.0; }
    AITKEN_HD double zero_col() const { return 0.0; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
    AITKEN_HD double row_weight(index i) const { return Cols ? of_rows.at(i) : 0.0; }
    AITKEN_HD double col_weight(index j) const { return Rows ? of_cols.at(j) : 0.0; }
    AITKEN_HD void visit(double e, double u, double v, index, index, double& row, double& col) const {
        if constexpr (Rows) row += e * v;
        if constexpr (Cols) col += e * u;
    }
};

// Stores the entries (unless kernel is null), with their row and column sums. Reads s, writes s bytes, n m
// exp.
template <class T, bool Rows, bool Cols>
struct store_entries {
    static constexpr bool by_rows = Rows, by_cols = Cols;
    using row_acc = double;
    using col_acc = double;
    matrix<T> kernel;

    AITKEN_HD double zero_row() const { return 0.0; }
    AITKEN_HD double zero_col() const { return 0.0; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
    AITKEN_HD double row_weight(index) const { return 0.0; }
    AITKEN_HD double col_weight(index) const { return 0.0; }
    AITKEN_HD void visit(double e, double, double, index i, index j, double& row, double& col) const {
        if (kernel.data) kernel.row(i)[j] = static_cast<T>(e);
        if constexpr (Rows) row += e;
        if constexpr (Cols) col += e;
    }
};

// sum_j e_ij v_j C_ij; entries of 0 count 0 where C is +inf. Reads K and C, 3 n m flops.
template <class Source>
struct weighted_cost {
    static constexpr bool by_rows = true, by_cols = false;
    using row_acc = double;
    using col_acc = nothing;
    Source cost;
    const double* v;

    AITKEN_HD double zero_row() const { return 0.0; }
    AITKEN_HD nothing zero_col() const { return {}; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
    AITKEN_HD void combine(nothing&, nothing) const {}
    AITKEN_HD double row_weight(index) const { return 0.0; }
    AITKEN_HD double col_weight(index j) const { return v[j]; }
    AITKEN_HD void visit(double e, double, double v_j, index i, index j, double& row, nothing&) const {
        if (e != 0) row += e * v_j * cost.at(cost.row_at(i), cost.column_at(j), j);
    }
};

// sum_j e_ij dC_ij / d(coordinate k of point i).
template <class Source>
struct pulled_rows {
    static constexpr bool by_rows = true, by_cols = false;
    using row_acc = double;
    using col_acc = nothing;
    Source cost;
    int k;

    AITKEN_HD double zero_row() const { return 0.0; }
    AITKEN_HD nothing zero_col() const { return {}; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
    AITKEN_HD void combine(nothing&, nothing) const {}
    AITKEN_HD double row_weight(index) const { return 0.0; }
    AITKEN_HD double col_weight(index) const { return 0.0; }
    AITKEN_HD void visit(double e, double, double, index i, index j, double& row, nothing&) const {
        if (e != 0) row += e * cost.slope(i, j, k);
    }
};

// The mass that limits would drop: per column, entries up to its limit; per row, those above their column's
// limit and up to the row's. s bytes, 3 n m flops.
template <bool ByRows>
struct dropped_mass {
    static constexpr bool by_rows = ByRows, by_cols = !ByRows;
    using row_acc = double;
    using col_acc = double;
    const double *u, *v, *row_limit, *col_limit;

    AITKEN_HD double zero_row() const { return 0.0; }
    AITKEN_HD double zero_col() const { return 0.0; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
    AITKEN_HD double row_weight(index i) const { return u[i]; }
    AITKEN_HD double col_weight(index j) const { return v[j]; }
    AITKEN_HD void visit(double e, double u_i, double v_j, index i, index j, double& row, double& col) const {
        const double p = e * u_i * v_j;
        if constexpr (ByRows)
            row += p > col_limit[j] && p <= row_limit[i] ? p : 0.0;
        else
            col += p <= col_limit[j] ? p : 0.0;
    }
};

// sum exp((z - peak) inv_eps) beside its running peak: one read of C, one exp per entry.
struct peak_sum {
    double peak, sum;
};
struct log_sums {
    using acc = peak_sum;
    double inv_eps;

    AITKEN_HD peak_sum zero() const { return {-infinity, 0.0}; }
    AITKEN_HD void add(peak_sum& a, double z) const {
        if (!(z > -infinity)) {
            if (z != z) a.peak = z;  // NaN stays visible to the end
            return;
        }
        const double e = std::exp(-std::fabs(z - a.peak) * inv_eps);
        if (z > a.peak) {
            a.sum = a.sum * e + 1.0;
            a.peak = z;
        } else {
            a.sum += e;
        }
    }
    AITKEN_HD void combine(peak_sum& a, peak_sum b) const {
        if (b.peak > a.peak) {
            const peak_sum swap = a;
            a = b;
            b = swap;
        }
        if (b.peak != b.peak)
            a.peak = b.peak;
        else if (b.peak > -infinity)
            a.sum += b.sum * std::exp((b.peak - a.peak) * inv_eps);
    }
};
// Over entries of C, z = potential - C. 8 bytes of weights aside, s bytes and n m exp.
template <bool ByRows>
struct log_sum_exp {
    static constexpr bool by_rows = ByRows, by_cols = !ByRows;
    using row_acc = peak_sum;
    using col_acc = peak_sum;
    log_sums sums;
    const double* potential;

    AITKEN_HD peak_sum zero_row() const { return sums.zero(); }
    AITKEN_HD peak_sum zero_col() const { return sums.zero(); }
    AITKEN_HD void combine(peak_sum& a, peak_sum b) const { sums.combine(a, b); }
    AITKEN_HD double row_weight(index i) const { return ByRows ? 0.0 : potential[i]; }
    AITKEN_HD double col_weight(index j) const { return ByRows ? potential[j] : 0.0; }
    AITKEN_HD void visit(double c, double x, double y, index, index, peak_sum& row, peak_sum& col) const {
        if constexpr (ByRows)
            sums.add(row, y - c);
        else
            sums.add(col, x - c);
    }
};

// What a pass over C tells: per row the finite range, the number of finite entries, NaN and infinities; per
// column the number of finite entries. s bytes.
struct row_facts {
    double lo, hi;
    int finite, flags;  // flags: 1 NaN, 2 -inf, 4 +inf
};
struct row_facts_sum {
    using acc = row_facts;
    AITKEN_HD row_facts zero() const { return {infinity, -infinity, 0, 0}; }
    AITKEN_HD void combine(row_facts& a, row_facts b) const {
        a.lo = smaller(a.lo, b.lo);
        a.hi = larger(a.hi, b.hi);
        a.finite += b.finite;
        a.flags |= b.flags;
    }
};
struct int_sum {
    using acc = int;
    AITKEN_HD int zero() const { return 0; }
    AITKEN_HD void combine(int& a, int b) const { a += b; }
};
struct inspect_entries {
    static constexpr bool by_rows = true, by_cols = true;
    using row_acc = row_facts;
    using col_acc = int;

    AITKEN_HD row_facts zero_row() const { return row_facts_sum{}.zero(); }
    AITKEN_HD int zero_col() const { return 0; }
    AITKEN_HD void combine(row_facts& a, row_facts b) const { row_facts_sum{}.combine(a, b); }
    AITKEN_HD void combine(int& a, int b) const { a += b; }
    AITKEN_HD double row_weight(index) const { return 0.0; }
    AITKEN_HD double col_weight(index) const { return 0.0; }
    AITKEN_HD void visit(double c, double, double, index, index, row_facts& row, int& col) const {
        if (c != c) row.flags |= 1;
        if (c == -infinity) row.flags |= 2;
        if (c == infinity) row.flags |= 4;
        if (!(c > -infinity && c < infinity)) return;
        row.lo = smaller(row.lo, c);
        row.hi = larger(row.hi, c);
        ++row.finite;
        ++col;
    }
};

// --- what finish_pass may do with a total --------------------------------------------------------

// out = scale total (scale null: 1).
struct store_scaled {
    const double* scale;
    double* out;
    AITKEN_HD void operator()(index i, double total) const { out[i] = scale ? scale[i] * total : total; }
};

// r = u (K v); u = a / (K v) where that is a positive number, else the row waits for log-sum-exp. Damped:
// u (a / r)^damping.
struct scale_rows {
    const double* a;
    double *u, *r;
    double damping;
    AITKEN_HD void operator()(index i, double total) const {
        r[i] = u[i] * total;
        const double scaled = damping == 1 ? a[i] / total : u[i] * std::pow(a[i] / r[i], damping);
        if (scaled > 0 && scaled < infinity) u[i] = scaled;
    }
};

// v^2 total / c: the columns' side of a Schur product.
struct schur_weights {
    const double *v, *c;
    double* out;
    AITKEN_HD void operator()(index j, double total) const {
        out[j] = c[j] > 0 ? v[j] * v[j] * total / c[j] : 0.0;
    }
};

// q -= u total.
struct subtract_scaled {
    const double* u;
    double* q;
    AITKEN_HD void operator()(index i, double total) const { q[i] -= u[i] * total; }
};

// (g - v total) / c.
struct solve_columns {
    const double *gy, *v, *c;
    double* out;
    AITKEN_HD void operator()(index j, double total) const {
        out[j] = c[j] > 0 ? (gy[j] - v[j] * total) / c[j] : 0.0;
    }
};

// eps (log mass - log sum) - peak, mass 1 where there is none given; -inf for empty bins and rows.
struct close_log_sum {
    double eps;
    const double* mass;
    double* out;
    AITKEN_HD void operator()(index i, peak_sum total) const {
        const double weight = mass ? mass[i] : 1.0;
        out[i] = weight > 0 && total.peak > -infinity ? eps * std::log(weight / total.sum) - total.peak
                                                      : -infinity;
    }
};

template <class A>
struct store_total {
    A* out;
    AITKEN_HD void operator()(index i, A total) const { out[i] = total; }
};

// --- selection of entries ------------------------------------------------------------------------

inline constexpr int histogram_bins = 1 << 13;

// Counts of the scaled entries whose bit pattern starts with `prefix`, by their next 13 bits; `counts` starts
// at 0. A histogram per block in shared memory, then integer atomics. s bytes.
template <class Entries>
struct histogram_pass {
    static constexpr int threads = 256, lanes = 32, warps = 8;
    static constexpr int steps = 2, closings = 2;
    struct shared {
        int bins[histogram_bins];
    };
    struct local {
        int in_first;  // most entries of a concentrated plan are 0: not worth an atomic each
    };
    Entries entries;
    const double *row_weight, *col_weight;
    tiling tiles;
    std::uint64_t prefix;
    int shift;
    int* counts;

    index blocks() const { return tiles.blocks(); }
    AITKEN_HD void open(local& mine, place) const { mine.in_first = 0; }
    AITKEN_HD index rounds(place at) const {
        const index left = tiles.groups - at.block / tiles.col_tiles * tiles.per_strip;
        return left < tiles.per_strip ? left : tiles.per_strip;
    }

    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        if constexpr (Step == 0) {
            if (round > 0) return;
            for (int b = at.thread; b < histogram_bins; b += threads) s.bins[b] = 0;
        } else {
            const index first_row = (at.block / tiles.col_tiles * tiles.per_strip + round) * tiling::rows;
            const index first_col = at.block % tiles.col_tiles * tiling::cols + at.thread % lanes;
            constexpr std::uint64_t mask = histogram_bins - 1;
            const int above = shift + std::countr_zero(static_cast<unsigned>(histogram_bins));
            for (int r = at.thread / lanes; r < tiling::rows && first_row + r < tiles.n; r += warps) {
                const auto row = entries.row_at(first_row + r);
                const double weight = row_weight[first_row + r];
                for (int q = 0; q < tiling::cols && first_col + q < tiles.m; q += lanes) {
                    const index j = first_col + q;
                    const double p = entries.at(row, entries.column_at(j), j) * weight * col_weight[j];
                    const auto bits = std::bit_cast<std::uint64_t>(p);
                    if (bits >> above != prefix) continue;
                    const int bin = static_cast<int>((bits >> shift) & mask);
                    if (bin == 0)
                        ++mine.in_first;
                    else
                        atomic_add(&s.bins[bin], 1);
                }
            }
        }
    }
    template <int Phase>
    AITKEN_HD void close(shared& s, local& mine, place at) const {
        if constexpr (Phase == 0) {
            if (mine.in_first) atomic_add(&s.bins[0], mine.in_first);
        } else {
            for (int b = at.thread; b < histogram_bins; b += threads)
                if (s.bins[b]) atomic_add(&counts[b], s.bins[b]);
        }
    }
};

// The rule of drivers::ot::keep_rule on scaled entries.
struct keep_test {
    const double *row_weight, *col_weight, *row_limit, *col_limit;
    bool use_max;

    AITKEN_HD bool operator()(double e, index i, index j) const {
        const double p = e * row_weight[i] * col_weight[j];
        const double limit =
            use_max ? larger(row_limit[i], col_limit[j]) : smaller(row_limit[i], col_limit[j]);
        return p > limit;
    }
};

// Threshold compaction of one 32 x 256 tile: count it (Fill = false), then write columns and values in order
// (Fill = true; the offsets of the tile's rows are known then). Reads s bytes each time.
template <class Entries, bool Fill>
struct compact_pass : straight {
    static constexpr int threads = 256, lanes = 32, warps = 8;
    static constexpr int segments = threads / tiling::rows, width = tiling::cols / segments;
    static constexpr int closings = 3;
    struct shared {
        unsigned char kept[tiling::rows][tiling::cols];
        int in_segment[tiling::rows][segments];
    };
    Entries entries;
    keep_test keep;
    tiling tiles;
    const double *u, *v;
    int* tile_count;     // [column tile][row]: counts, then offsets within the row
    const index* start;  // of every row in the output
    int* columns;
    double* values;

    compact_pass(Entries entries_, keep_test keep_, tiling tiles_, const double* u_, const double* v_,
                 int* tile_count_, const index* start_, int* columns_, double* values_)
        : entries(entries_),
          keep(keep_),
          tiles(tiles_),
          u(u_),
          v(v_),
          tile_count(tile_count_),
          start(start_),
          columns(columns_),
          values(values_) {}
    index blocks() const { return tiles.groups * tiles.col_tiles; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int t = at.thread;
        const index tile = at.block % tiles.col_tiles;
        const index first_row = at.block / tiles.col_tiles * tiling::rows, first_col = tile * tiling::cols;
        if constexpr (Phase == 0) {
            for (int r = t / lanes; r < tiling::rows; r += warps) {
                const index i = first_row + r;
                for (int q = t % lanes; q < tiling::cols; q += lanes) {
                    const index j = first_col + q;
                    s.kept[r][q] = i < tiles.n && j < tiles.m &&
                                   keep(entries.at(entries.row_at(i), entries.column_at(j), j), i, j);
                }
            }
        } else if constexpr (Phase == 1) {
            const int r = t / segments, k = t % segments;
            int count = 0;
            for (int q = k * width; q < (k + 1) * width; ++q) count += s.kept[r][q];
            s.in_segment[r][k] = count;
        } else if constexpr (!Fill) {
            if (t >= tiling::rows || first_row + t >= tiles.n) return;
            int count = 0;
            for (int k = 0; k < segments; ++k) count += s.in_segment[t][k];
            tile_count[tile * tiles.n + first_row + t] = count;
        } else {
            const int r = t / segments, k = t % segments;
            const index i = first_row + r;
            if (i >= tiles.n || s.in_segment[r][k] == 0) return;
            index to = start[i] + tile_count[tile * tiles.n + i];
            for (int b = 0; b < k; ++b) to += s.in_segment[r][b];
            const auto row = entries.row_at(i);
            for (int q = k * width; q < (k + 1) * width; ++q) {
                if (!s.kept[r][q]) continue;
                const index j = first_col + q;
                columns[to] = static_cast<int>(j);
                values[to] = entries.at(row, entries.column_at(j), j) * u[i] * v[j];
                ++to;
            }
        }
    }
};

// Counts per tile become offsets within the row; totals per row beside them. 8 bytes per row and tile.
struct row_offsets {
    int* tile_count;
    index col_tiles, n;
    int* total;
    AITKEN_HD void operator()(index i) const {
        int sum = 0;
        for (index t = 0; t < col_tiles; ++t) {
            const int count = tile_count[t * n + i];
            tile_count[t * n + i] = sum;
            sum += count;
        }
        total[i] = sum;
    }
};

// The largest entry of each listed row (by e v) or column (by e u v), the first of equals. A block per line;
// column lines read a sector per entry, which is fine for the few that a rule leaves empty.
template <class Entries>
struct largest_pass : straight {
    static constexpr int threads = 256;
    static constexpr int closings = 9;  // 1 + log2(threads)
    struct best {
        double value;
        index at;
    };
    struct shared {
        best of[threads];
    };
    Entries entries;
    const double *u, *v;
    index n, m, count;
    bool rows;
    const int* lines;
    int* where;
    double* mass;

    largest_pass(Entries entries_, const double* u_, const double* v_, index n_, index m_, index count_,
                 bool rows_, const int* lines_, int* where_, double* mass_)
        : entries(entries_),
          u(u_),
          v(v_),
          n(n_),
          m(m_),
          count(count_),
          rows(rows_),
          lines(lines_),
          where(where_),
          mass(mass_) {}
    index blocks() const { return count; }

    AITKEN_HD double entry(index i, index j) const {
        return entries.at(entries.row_at(i), entries.column_at(j), j);
    }
    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int t = at.thread;
        const index line = lines[at.block];
        if constexpr (Phase == 0) {
            best mine{-1.0, 0};
            const index length = rows ? m : n;
            for (index k = t; k < length; k += threads) {
                const double p = rows ? entry(line, k) * v[k] : entry(k, line) * u[k] * v[line];
                if (p > mine.value) mine = {p, k};
            }
            s.of[t] = mine;
        } else {
            constexpr int half = threads >> Phase;
            if (t >= half) return;
            const best a = s.of[t], b = s.of[t + half];
            const best winner = b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
            s.of[t] = winner;
            if constexpr (half == 1) {
                where[at.block] = static_cast<int>(winner.at);
                mass[at.block] = rows ? entry(line, winner.at) * u[line] * v[winner.at] : winner.value;
            }
        }
    }
};

// --- vectors -------------------------------------------------------------------------------------
// O(n + m): the bytes of the named vectors, read and written once.

// Bins below 1e-14 of the mass move by Sinkhorn scalings alone: their Newton equation is round-off.
AITKEN_HD bool active(double mass) { return mass > 1e-14; }

// out = a b (b null: 1).
struct product_of {
    const double *a, *b;
    double* out;
    AITKEN_HD void operator()(index i) const { out[i] = b ? a[i] * b[i] : a[i]; }
};

// Over n rows, then m columns.
struct mask_bins {
    const double *a, *b;
    double *x, *y;
    index n;
    bool reset;  // potentials of bins with mass become 0
    AITKEN_HD void operator()(index k) const {
        const index i = k < n ? k : k - n;
        double& potential = k < n ? x[i] : y[i];
        if (!((k < n ? a[i] : b[i]) > 0))
            potential = -infinity;
        else if (reset)
            potential = 0.0;
    }
};
struct absorb_scalings {
    double eps;
    double *u, *v, *x, *y;
    index n;
    AITKEN_HD void operator()(index k) const {
        const index i = k < n ? k : k - n;
        double& scaling = k < n ? u[i] : v[i];
        if (scaling == 1.0) return;
        (k < n ? x : y)[i] += eps * std::log(scaling);
        scaling = 1.0;
    }
};
// A column of a row-major matrix.
struct spread_column {
    const double* from;
    double* to;
    index ld;
    AITKEN_HD void operator()(index i) const { to[i * ld] = from[i]; }
};
struct trial_steps {
    double alpha;
    const double *dx, *dy;
    double *p, *q;
    index n;
    AITKEN_HD void operator()(index k) const {
        const index i = k < n ? k : k - n;
        (k < n ? p : q)[i] = std::expm1(alpha * (k < n ? dx : dy)[i]);
    }
};
struct accept_steps {
    const double *p, *q;
    double *u, *v;
    index n;
    AITKEN_HD void operator()(index k) const {
        const index i = k < n ? k : k - n;
        (k < n ? u : v)[i] *= 1.0 + (k < n ? p : q)[i];
    }
};
struct limits_of_mass {
    double theta;
    const double *r, *c;
    double *row_limit, *col_limit;
    index n, m;
    AITKEN_HD void operator()(index k) const {
        if (k < n)
            row_limit[k] = theta * r[k] / static_cast<double>(m);
        else
            col_limit[k - n] = theta * c[k - n] / static_cast<double>(n);
    }
};
struct inverse_root {
    const double* s;
    double* out;
    AITKEN_HD void operator()(index i) const { out[i] = s[i] > 0 ? 1.0 / std::sqrt(s[i]) : 0.0; }
};
struct start_bisection {
    double delta;
    double *safe, *probe;
    AITKEN_HD void operator()(index i) const {
        safe[i] = 0.0;
        probe[i] = delta;
    }
};
struct bisection_step {
    double delta, move;
    const double* dropped;
    double *safe, *probe;
    AITKEN_HD void operator()(index i) const {
        const bool fits = dropped[i] <= delta;
        if (fits) safe[i] = larger(safe[i], probe[i]);
        probe[i] = smaller(delta, fits ? probe[i] / move : probe[i] * move);
    }
};
// Closes a Schur product: w = r p - u sum(parts) on active rows, else 0; p.w.
struct close_schur : sum_reduction {
    const double *a, *u, *r, *p, *parts;
    double *w, *pw;
    index n_parts, count;
    close_schur(const double* a_, const double* u_, const double* r_, const double* p_, const double* parts_,
                double* w_, double* pw_, index n_parts_, index n)
        : a(a_), u(u_), r(r_), p(p_), parts(parts_), w(w_), pw(pw_), n_parts(n_parts_), count(n) {}
    template <int>
    AITKEN_HD void visit(index i, const double*, double& sum) const {
        double product = 0;
        for (index k = 0; k < n_parts; ++k) product += parts[k * count + i];
        const double value = active(a[i]) ? r[i] * p[i] - u[i] * product : 0.0;
        w[i] = value;
        sum += p[i] * value;
    }
    AITKEN_HD void finish(const double* total) const { *pw = total[0]; }
};

// g_x = a - r, g_y = b - c, ||g||_1.
struct gradient_norm : sum_reduction {
    const double *a, *b, *r, *c;
    double *gx, *gy, *err;
    index n, count;
    gradient_norm(const double* a_, const double* b_, const double* r_, const double* c_, double* gx_,
                  double* gy_, double* err_, index n_, index m_)
        : a(a_), b(b_), r(r_), c(c_), gx(gx_), gy(gy_), err(err_), n(n_), count(n_ + m_) {}
    template <int>
    AITKEN_HD void visit(index k, const double*, double& sum) const {
        const index i = k < n ? k : k - n;
        const double g = k < n ? a[i] - r[i] : b[i] - c[i];
        (k < n ? gx : gy)[i] = g;
        sum += std::fabs(g);
    }
    AITKEN_HD void finish(const double* total) const { *err = total[0]; }
};

// d += alpha p, res -= alpha w with alpha = rz / pw (0 where pw <= 0); res.res.
struct cg_step : sum_reduction {
    const double *rz, *pw, *p, *w;
    double *d, *res, *res2;
    index count;
    cg_step(const double* rz_, const double* pw_, const double* p_, const double* w_, double* d_,
            double* res_, double* res2_, index n)
        : rz(rz_), pw(pw_), p(p_), w(w_), d(d_), res(res_), res2(res2_), count(n) {}
    template <int>
    AITKEN_HD void visit(index i, const double*, double& sum) const {
        const double alpha = *pw > 0 ? *rz / *pw : 0.0;
        d[i] += alpha * p[i];
        const double left = res[i] - alpha * w[i];
        res[i] = left;
        sum += left * left;
    }
    AITKEN_HD void finish(const double* total) const { *res2 = total[0]; }
};

// z = res / r (r null: z as it is) on active rows, 0 elsewhere; res.z.
struct cg_precondition : sum_reduction {
    const double *a, *res, *r;
    double *z, *rz;
    index count;
    cg_precondition(const double* a_, const double* res_, const double* r_, double* z_, double* rz_, index n)
        : a(a_), res(res_), r(r_), z(z_), rz(rz_), count(n) {}
    template <int>
    AITKEN_HD void visit(index i, const double*, double& sum) const {
        const double value = active(a[i]) ? (r ? res[i] / r[i] : z[i]) : 0.0;
        z[i] = value;
        sum += res[i] * value;
    }
    AITKEN_HD void finish(const double* total) const { *rz = total[0]; }
};

// p = z + (rz_new / rz) p, then rz = rz_new.
struct cg_turn {
    using acc = nothing;
    static constexpr int stages = 1;
    static constexpr bool map_last = false;
    const double *rz_new, *z;
    double *rz, *p;
    index count;
    AITKEN_HD nothing zero() const { return {}; }
    AITKEN_HD void combine(nothing&, nothing) const {}
    template <int>
    AITKEN_HD void visit(index i, const nothing*, nothing&) const {
        const double beta = *rz > 0 ? *rz_new / *rz : 0.0;
        p[i] = z[i] + beta * p[i];
    }
    AITKEN_HD void finish(const nothing*) const { *rz = *rz_new; }
};

// Where S 1 = 0, q must sum to 0 over active rows: the rest is taken off in proportion to r. d = 0, res = q,
// z = p = res / r; res.z and res.res.
struct cg_begin {
    struct acc {
        double s, t;
    };
    static constexpr int stages = 2;
    static constexpr bool map_last = false;
    const double *a, *r;
    double *q, *d, *res, *z, *p, *rz, *res2;
    index count;
    bool singular;
    AITKEN_HD acc zero() const { return {0.0, 0.0}; }
    AITKEN_HD void combine(acc& x, acc y) const {
        x.s += y.s;
        x.t += y.t;
    }
    template <int Stage>
    AITKEN_HD void visit(index i, const acc* total, acc& sum) const {
        if constexpr (Stage == 0) {
            if (!active(a[i])) return;
            sum.s += q[i];
            sum.t += r[i];
        } else {
            const double share = singular && total[0].t > 0 ? total[0].s / total[0].t : 0.0;
            const double left = active(a[i]) ? q[i] - share * r[i] : q[i];
            const double scaled = active(a[i]) ? left / r[i] : 0.0;
            q[i] = res[i] = left;
            d[i] = 0.0;
            z[i] = p[i] = scaled;
            sum.s += left * scaled;
            sum.t += left * left;
        }
    }
    AITKEN_HD void finish(const acc* total) const {
        *rz = total[1].s;
        *res2 = total[1].t;
    }
};

// v *= b / c, c = b. Columns with a sum of 0 or not finite are left alone and counted; max |log v|. Damped:
// by (b / c)^damping.
struct rescale_columns {
    struct acc {
        double bad, lo, hi;
    };
    static constexpr int stages = 1;
    static constexpr bool map_last = false;
    const double* b;
    double *c, *v, *bad, *log_v;
    index count;
    double damping, least;
    AITKEN_HD acc zero() const { return {0.0, 1.0, 1.0}; }
    AITKEN_HD void combine(acc& x, acc y) const {
        x.bad += y.bad;
        x.lo = smaller(x.lo, y.lo);
        x.hi = larger(x.hi, y.hi);
    }
    template <int>
    AITKEN_HD void visit(index j, const acc*, acc& sum) const {
        if (!(b[j] > 0)) {
            c[j] = 0;
            return;
        }
        if (damping != 1 && b[j] < least && c[j] < least) return;
        const double factor = damping == 1 ? b[j] / c[j] : std::pow(b[j] / c[j], damping);
        const double scaled = v[j] * factor;
        if (!(scaled > 0 && scaled < infinity)) {
            sum.bad += 1.0;
            return;
        }
        v[j] = scaled;
        c[j] = damping == 1 ? b[j] : c[j] * factor;
        sum.lo = smaller(sum.lo, scaled);
        sum.hi = larger(sum.hi, scaled);
    }
    AITKEN_HD void finish(const acc* total) const {
        *bad = total[0].bad;
        *log_v = larger(std::log(total[0].hi), -std::log(total[0].lo));
    }
};

// q = a - r on active rows; ||a - r||_1, max |log(r / a)| (inf for an empty row), max |log u|.
struct measure_rows {
    struct acc {
        double sum, lo, hi, u_lo, u_hi;
    };
    static constexpr int stages = 1;
    static constexpr bool map_last = false;
    const double *a, *r, *u;
    double *q, *err, *gate, *log_u;
    index count;
    double least;  // 0 where rows are hard
    AITKEN_HD acc zero() const { return {0.0, 1.0, 1.0, 1.0, 1.0}; }
    AITKEN_HD void combine(acc& x, acc y) const {
        x.sum += y.sum;
        x.lo = smaller(x.lo, y.lo);
        x.hi = larger(x.hi, y.hi);
        x.u_lo = smaller(x.u_lo, y.u_lo);
        x.u_hi = larger(x.u_hi, y.u_hi);
    }
    template <int>
    AITKEN_HD void visit(index i, const acc*, acc& mine) const {
        const double g = a[i] - r[i];
        mine.sum += std::fabs(g);
        q[i] = active(a[i]) ? g : 0.0;
        if (!(a[i] > 0) || (a[i] < least && r[i] < least)) return;
        mine.u_lo = smaller(mine.u_lo, u[i]);
        mine.u_hi = larger(mine.u_hi, u[i]);
        const double ratio = r[i] / a[i];
        if (!(ratio > 0 && ratio < infinity)) {
            mine.lo = 0;
        } else if (active(a[i])) {
            mine.lo = smaller(mine.lo, ratio);
            mine.hi = larger(mine.hi, ratio);
        }
    }
    AITKEN_HD void finish(const acc* total) const {
        *err = total[0].sum;
        *gate = larger(std::log(total[0].hi), -std::log(total[0].lo));
        *log_u = larger(std::log(total[0].u_hi), -std::log(total[0].u_lo));
    }
};

// g.d and the reach of the step; d shifted along (1, -1), where that changes nothing, so that max d_x = max
// d_y.
struct step_slope {
    struct acc {
        double s, top_x, top_y, low_x, low_y;
    };
    static constexpr int stages = 2;
    static constexpr bool map_last = true;
    const double *gx, *gy;
    double *dx, *dy, *slope, *reach;
    index n, count;
    bool singular;
    double row_weight, col_weight;  // eps / rho
    AITKEN_HD acc zero() const { return {0.0, -infinity, -infinity, infinity, infinity}; }
    AITKEN_HD void combine(acc& x, acc y) const {
        x.s += y.s;
        x.top_x = larger(x.top_x, y.top_x);
        x.top_y = larger(x.top_y, y.top_y);
        x.low_x = smaller(x.low_x, y.low_x);
        x.low_y = smaller(x.low_y, y.low_y);
    }
    AITKEN_HD double shift(const acc& total) const {
        return singular ? 0.5 * (total.top_y - total.top_x) : 0.0;
    }
    template <int Stage>
    AITKEN_HD void visit(index k, const acc* total, acc& mine) const {
        const index j = k - n;
        if constexpr (Stage == 1) {
            if (k < n)
                dx[k] += shift(total[0]);
            else
                dy[j] -= shift(total[0]);
        } else if (k < n) {
            mine.s += gx[k] * dx[k];
            mine.top_x = larger(mine.top_x, dx[k]);
            mine.low_x = smaller(mine.low_x, dx[k]);
        } else {
            mine.s += gy[j] * dy[j];
            mine.top_y = larger(mine.top_y, dy[j]);
            mine.low_y = smaller(mine.low_y, dy[j]);
        }
    }
    AITKEN_HD void finish(const acc* total) const {
        const acc& t = total[0];
        *slope = t.s;
        const double plan = larger((t.top_x + t.top_y) / 30.0,
                                   larger(-(t.low_x + shift(t)) / 300.0, -(t.low_y - shift(t)) / 300.0));
        *reach = larger(plan, larger(-row_weight * t.low_x / 30.0, -col_weight * t.low_y / 30.0));
    }
};

// drop = sum P (expm1(t) - t), the rounding it may carry, and the L1 error after the step. Soft marginals add
// rho/eps sum h (expm1(-s) + s), s = eps/rho alpha d, to the drop.
struct trial_measure {
    struct acc {
        double sum, size, after, widest;
    };
    static constexpr int stages = 1;
    static constexpr bool map_last = false;
    double alpha;
    const double *a, *b, *r, *c, *dx, *dy, *p, *q, *pq, *ptp;
    double *drop, *noise, *err;
    index n, count;
    double row_weight, col_weight;  // eps / rho
    AITKEN_HD acc zero() const { return {0.0, 0.0, 0.0, 0.0}; }
    AITKEN_HD void combine(acc& x, acc y) const {
        x.sum += y.sum;
        x.size += y.size;
        x.after += y.after;
        x.widest = larger(x.widest, y.widest);
    }
    AITKEN_HD static double expm1_minus(double t, double expm1_t) {
        if (std::fabs(t) > 1e-2) return expm1_t - t;
        return t * t * (0.5 + t * (1.0 / 6 + t * (1.0 / 24 + t * (1.0 / 120 + t * (1.0 / 720)))));
    }
    // A target after a step t of its scaled potential, and what its curvature takes from the dual's gain.
    struct target {
        double after, curve;
    };
    AITKEN_HD static target target_after(double h, double w, double t) {
        if (w == 0) return {h, 0.0};
        const double change = std::expm1(-w * t);
        return {h + h * change, h / w * expm1_minus(-w * t, change)};
    }
    template <int>
    AITKEN_HD void visit(index k, const acc*, acc& mine) const {
        mine.widest = larger(mine.widest, std::fabs(alpha * (k < n ? dx[k] : dy[k - n])));
        if (k < n) {
            const double own = r[k] * expm1_minus(alpha * dx[k], p[k]), cross = p[k] * pq[k];
            const target aim = target_after(a[k], row_weight, alpha * dx[k]);
            mine.sum += own + cross + aim.curve;
            mine.size += own + std::fabs(cross) + aim.curve;
            mine.after += std::fabs(aim.after - (1.0 + p[k]) * (r[k] + pq[k]));
        } else {
            const index j = k - n;
            const double own = c[j] * expm1_minus(alpha * dy[j], q[j]);
            const target aim = target_after(b[j], col_weight, alpha * dy[j]);
            mine.sum += own + aim.curve;
            mine.size += own + aim.curve;
            mine.after += std::fabs(aim.after - (1.0 + q[j]) * (c[j] + ptp[j]));
        }
    }
    AITKEN_HD void finish(const acc* total) const {
        *drop = total[0].sum;
        *noise = 16 * std::numeric_limits<double>::epsilon() * (1.0 + total[0].widest) * total[0].size;
        *err = total[0].after;
    }
};

// The targets of soft marginals, h = weight exp(w (log(weight / scaling) - potential / eps) + shift), w = eps
// / rho; with `recentre` also the shift that gives the plan and both targets one mass (see
// cpu/ot_kernels.hpp).
struct aim_targets {
    struct acc {
        double rows, cols;
    };
    static constexpr int stages = 2;
    static constexpr bool map_last = true;
    double eps, log_mass, row_weight, col_weight;
    const double *a, *b, *x, *y, *u;
    double *v, *c, *h_a, *h_b, *gauge;
    index n, count;
    bool recentre;
    AITKEN_HD acc zero() const { return {0.0, 0.0}; }
    AITKEN_HD void combine(acc& s, acc t) const {
        s.rows += t.rows;
        s.cols += t.cols;
    }
    AITKEN_HD static double target(double weight, double scaling, double potential, double w, double shift) {
        if (!(weight > 0)) return 0.0;
        return weight * std::exp(w > 0 ? w * (std::log(weight / scaling) - potential) + shift : shift);
    }
    // log of the masses' ratio; 0 where nothing is to be made equal.
    AITKEN_HD double apart(const acc& total) const {
        const double ratio = std::log(total.rows / total.cols);
        return recentre && ratio > -infinity && ratio < infinity ? ratio : 0.0;
    }
    AITKEN_HD double q() const { return row_weight * col_weight + row_weight + col_weight; }
    AITKEN_HD double both(const acc& total) const { return apart(total) * col_weight / q(); }
    AITKEN_HD double own(const acc& total) const { return apart(total) * (1 + col_weight) / q(); }
    template <int Stage>
    AITKEN_HD void visit(index k, const acc* total, acc& mine) const {
        const index j = k - n;
        if constexpr (Stage == 0) {
            const double shift = *gauge / eps;
            if (k < n)
                mine.rows += h_a[k] = target(a[k], u[k], x[k] / eps, row_weight,
                                             -(1 + row_weight) * log_mass - row_weight * shift);
            else
                mine.cols += h_b[j] =
                    target(b[j], v[j], y[j] / eps, col_weight, -log_mass + col_weight * shift);
        } else if (recentre) {
            if (k < n) {
                h_a[k] *= std::exp(-row_weight * own(total[0]));
            } else {
                const double grow = std::exp(both(total[0]));
                h_b[j] *= std::exp(col_weight * (own(total[0]) - both(total[0])));
                v[j] *= grow;
                c[j] *= grow;
            }
        }
    }
    AITKEN_HD void finish(const acc* total) const {
        if (recentre) *gauge += eps * own(total[0]);
    }
};

// The diagonal of H with soft marginals: r + eps/rho_a h_a, then c + eps/rho_b h_b.
struct soft_diagonal {
    const double *r, *c, *h_a, *h_b;
    double *dr, *dc;
    double row_weight, col_weight;
    index n;
    AITKEN_HD void operator()(index k) const {
        if (k < n)
            dr[k] = r[k] + row_weight * h_a[k];
        else
            dc[k - n] = c[k - n] + col_weight * h_b[k - n];
    }
};

// Closes inspect_entries: smallest and largest finite cost, flags, first row and column without one (-1:
// none).
struct inspect_totals {
    struct acc {
        double lo, hi;
        index empty_row, empty_col;
        int flags;
    };
    static constexpr int stages = 1, results = 5;
    static constexpr bool map_last = false;
    static constexpr index none = std::numeric_limits<index>::max();
    const row_facts* row;
    const int* col;
    double* out[results];
    index n, count;
    AITKEN_HD acc zero() const { return {infinity, -infinity, none, none, 0}; }
    AITKEN_HD void combine(acc& x, const acc& y) const {
        x.lo = smaller(x.lo, y.lo);
        x.hi = larger(x.hi, y.hi);
        if (y.empty_row < x.empty_row) x.empty_row = y.empty_row;
        if (y.empty_col < x.empty_col) x.empty_col = y.empty_col;
        x.flags |= y.flags;
    }
    template <int>
    AITKEN_HD void visit(index k, const acc*, acc& mine) const {
        if (k >= n) {
            if (col[k - n] == 0 && k - n < mine.empty_col) mine.empty_col = k - n;
            return;
        }
        mine.lo = smaller(mine.lo, row[k].lo);
        mine.hi = larger(mine.hi, row[k].hi);
        mine.flags |= row[k].flags;
        if (row[k].finite == 0 && k < mine.empty_row) mine.empty_row = k;
    }
    AITKEN_HD void finish(const acc* total) const {
        *out[0] = total->lo;
        *out[1] = total->hi;
        *out[2] = total->flags;
        *out[3] = total->empty_row == none ? -1.0 : static_cast<double>(total->empty_row);
        *out[4] = total->empty_col == none ? -1.0 : static_cast<double>(total->empty_col);
    }
};

}  // namespace aitken::cuda
