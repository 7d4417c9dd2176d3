// Hot row kernels, compiled once per instruction set (base.cpp, v3.cpp, v4.cpp) and chosen at import.
//
// Only plain pointers and integers cross this line: the per-ISA files include no STL header and share
// no template, inline function or other weak symbol with the rest, because the linker would keep one
// copy for all and old CPUs would run AVX-512 code (scripts/check_isa_symbols.py verifies it).
//
// Conventions. n is a row length; rows are contiguous. Costs and stored kernels are float or double
// (suffix f32/f64); everything else, and every accumulation, is double. A sum over a row is
// accumulated in a fixed lane pattern, so its bits depend on the instruction set and n alone.
// exp: <= 2 ulp, exactly 0 below -708 (no denormals), +inf above 709.78, NaN stays NaN.
#pragma once

#include <stdint.h>

// The arrays of a sliced pattern (sparse/sliced.hpp).
struct aitken_sliced {
    const int64_t* row_begin;
    const int64_t* begin;
    const int32_t* run;
    const uint8_t* lanes;
    const int32_t* columns;
};

// A matrix laid out for sweeps (sparse/sweep.hpp) with its numbers: those of the slices, the diagonal and its
// inverse.
struct aitken_sweep {
    aitken_sliced slices;
    const int64_t* middle;
    const double* values;
    const double* diagonal;
    const double* inverse;
};

// Systems of one pattern, a system per lane: number k of system l is at k * lanes + l, but for `values` where
// the systems share them. `columns` ascend in a row; diagonal[i] is the entry (i, i), to which shift[l] is
// added. `lanes` is a multiple of 8.
struct aitken_lanes {
    int64_t n, lanes;
    const int64_t* begin;
    const int64_t* diagonal;
    const int32_t* columns;
    const double* values;
    int shared;
    const double* shift;
    const double* kept;    // 1 - omega
    const double* factor;  // 1 / omega - 1
    const double* scale;   // n: omega / a_ii
    const double* b;
    double* x;
    double* q;  // n: (b - A x)_i + the terms of the rows swept after i
};

// A stencil of constant coefficients on a grid (sparse/stencil.hpp); the points of the last axis are a line.
struct aitken_stencil {
    int64_t extent[3];
    double center, before[3], after[3];
    const double* zeros;  // a line of them
};

// Cells first .. last of a padded vector on a grid, with the distances to their neighbours along each axis.
struct aitken_grid_span {
    int64_t first, last;
    int64_t lo[3], hi[3];
};
// A Poisson operator there. With a code per cell (0, or 1 + the number of conducting faces) all conductances
// are `scale`; else w[a][i] is that of the face of cell i to the lower neighbour along a, and `excess` what
// the diagonal has beyond their sum. `inverse` of the diagonal is there without codes, and may be with them.
// w[0] is not looked at where axes = 2.
#define AITKEN_GRID_STENCIL(name, real)      \
    struct name {                            \
        int axes;                            \
        const uint8_t* code;                 \
        real scale, shift;                   \
        const real *w[3], *excess, *inverse; \
    }
AITKEN_GRID_STENCIL(aitken_grid_f64, double);
AITKEN_GRID_STENCIL(aitken_grid_f32, float);

// Points in d dimensions: coordinate k of point j is at[k * ld + j]. metric: 0 squared Euclidean, 1
// Euclidean, 2 cityblock.
struct aitken_points {
    const double* at;
    int64_t ld, d;
    int metric;
};

// Rows of convolutional networks with 16 channels (convolution.inc). Numbers in memory are float, or bfloat16
// in aitken_simd_bf16. A cell is its 16 channels in turn; rows begin at their first cell and have readable
// ones before it and after the last. `rows` is how many of the input meet one of the output: 3, or 9 in three
// dimensions. Weights: row, channel in, three cells, channel out; bfloat16: channels in by twos, of which
// both are beside each other for each channel out. Bits depend on the instruction set alone.
struct aitken_convolution {
    // y = x * weights + bias of one channel, rows of which begin one cell before the first. Float weights.
    void (*first_row)(const float* const* x, int rows, const void* weights, const float* bias, int64_t n,
                      void* y);
    // y = [max(0, .)] (x * weights + bias) [+ residual]; rows of x as above. residual null, or y, or as y.
    void (*inner_row)(const void* const* x, int rows, const void* weights, const float* bias, int rectify,
                      const void* residual, int64_t n, void* y);
    // y = means of two cells of each of 2 or 4 rows.
    void (*pool_rows)(const void* const* x, int rows, int64_t n, void* y);
    // Two cells of each of 2 or 4 rows += x.
    void (*spread_row)(const void* x, int64_t n, void* const* y, int rows);
    // y_j = <weights, x_j> + bias.
    void (*last_row)(const void* x, const float* weights, float bias, int64_t n, float* y);
};

struct aitken_simd_table {
    const char* level;  // "base", "v3" or "v4"

    // e[j] = exp(z[j]). z == e allowed.
    void (*exp_n)(const double* z, double* e, int64_t n);

    // max_j (y[j] - c[j]); -inf where y = -inf or c = +inf; -inf for n = 0. NaN propagates.
    double (*row_max_f64)(const double* c, const double* y, int64_t n);
    double (*row_max_f32)(const float* c, const double* y, int64_t n);

    // out[j] = exp((y[j] + shift - c[j]) * inv_eps); returns sum_j out[j] (of the rounded values).
    // y[j] = -inf, shift = -inf or c[j] = +inf gives an exact 0. The difference is formed in double. The f32
    // form gives 0 from exponent -87.336544 down, where a float would be denormal.
    double (*row_exp_f64)(const double* c, const double* y, double shift, double inv_eps, int64_t n,
                          double* out);
    double (*row_exp_f32)(const float* c, const double* y, double shift, double inv_eps, int64_t n,
                          float* out);

    // The costs c[j] from the point x, d coordinates, to the points first .. first + n; other arrays begin
    // with the first of these. Formed from differences: exactly 0 between equal points. out[j] = k[j] =
    // exp((y[j] + shift - c[j]) * inv_eps) as in row_exp; returns their sum,
    double (*points_exp)(const aitken_points* p, const double* x, const double* y, double shift,
                         double inv_eps, int64_t first, int64_t n, double* out);
    // or sum_j k[j] v[j],
    double (*points_exp_dot)(const aitken_points* p, const double* x, const double* y, double shift,
                             double inv_eps, int64_t first, int64_t n, const double* v, double* out);
    // or that alone, k not stored,
    double (*points_dot)(const aitken_points* p, const double* x, const double* y, double shift,
                         double inv_eps, int64_t first, int64_t n, const double* v);
    // or that with acc[j] += weight k[j].
    double (*points_dot_axpy)(const aitken_points* p, const double* x, const double* y, double shift,
                              double inv_eps, int64_t first, int64_t n, const double* v, double weight,
                              double* acc);
    // max_j (y[j] - c[j]); out[j] = c[j]; sums[k] += sum_j weights[j] dc[j] / dx[k], a derivative that does
    // not exist counted as 0.
    double (*points_max)(const aitken_points* p, const double* x, const double* y, int64_t first, int64_t n);
    void (*points_cost)(const aitken_points* p, const double* x, int64_t first, int64_t n, double* out);
    void (*points_pull)(const aitken_points* p, const double* x, const double* weights, int64_t first,
                        int64_t n, double* sums);

    // acc[j] = max(acc[j], shift - c[j]). NaN propagates.
    void (*col_max_f64)(const double* c, double shift, int64_t n, double* acc);
    void (*col_max_f32)(const float* c, double shift, int64_t n, double* acc);

    // Up to four rows at once (1 <= rows <= 4), so that v and acc are read once per group. The bits do not
    // depend on the grouping, nor on whether dot and axpy are done together. acc overlaps nothing else.
    // dot: out[k] = sum_j k_rows[k][j] * v[j].
    void (*dot_f64)(const double* const* k_rows, int rows, const double* v, int64_t n, double* out);
    void (*dot_f32)(const float* const* k_rows, int rows, const double* v, int64_t n, double* out);
    // axpy: acc[j] += sum_k w[k] * k_rows[k][j].
    void (*axpy_f64)(const double* const* k_rows, int rows, const double* w, int64_t n, double* acc);
    void (*axpy_f32)(const float* const* k_rows, int rows, const double* w, int64_t n, double* acc);
    // Both in one read of the rows.
    void (*dot_axpy_f64)(const double* const* k_rows, int rows, const double* v, const double* w, int64_t n,
                         double* out, double* acc);
    void (*dot_axpy_f32)(const float* const* k_rows, int rows, const double* v, const double* w, int64_t n,
                         double* out, double* acc);

    // sum_j k[j] * v[j] * c[j], entries with k[j] = 0 count 0 (c may be +inf there).
    double (*weighted_cost_f64)(const double* k, const double* v, const double* c, int64_t n);
    double (*weighted_cost_f32)(const float* k, const double* v, const float* c, int64_t n);

    // Threshold selection: writes the columns j, ascending, with
    //   p > min(row_limit, col_limit[j])   (use_max = 0)   or   p > max(...)   (use_max = 1),
    // where p = k[j] * s * v[j], and returns how many. A NaN p is never chosen. idx has room for n entries,
    // and those after the returned count are scratch.
    int64_t (*select_f64)(const double* k, double s, const double* v, double row_limit,
                          const double* col_limit, int use_max, int64_t n, int32_t* idx);
    int64_t (*select_f32)(const float* k, double s, const double* v, double row_limit,
                          const double* col_limit, int use_max, int64_t n, int32_t* idx);
    // The columns j, ascending, with y[j] + shift > c[j]; NaN is never chosen. idx as for select.
    int64_t (*select_below_f64)(const double* c, const double* y, double shift, int64_t n, int32_t* idx);
    int64_t (*select_below_f32)(const float* c, const double* y, double shift, int64_t n, int32_t* idx);

    // Column-major tiles of n rows that the caller keeps within the caches. x is asked for `next` bytes ahead
    // of where it is read: the way from one tile of a column to the next. Bits depend on the instruction set
    // and the sizes alone.
    // out[i + j * ldo] += x_i^T y_j.
    void (*gram_f64)(const double* x, int64_t ldx, int64_t kx, const double* y, int64_t ldy, int64_t ky,
                     int64_t n, int64_t next, double* out, int64_t ldo);
    void (*gram_f32)(const float* x, int64_t ldx, int64_t kx, const double* y, int64_t ldy, int64_t ky,
                     int64_t n, int64_t next, double* out, int64_t ldo);
    // z_c += sum_j p[j + c * ldp] x_j for few columns of z: x is streamed, z stays in the first cache.
    void (*update_f64)(const double* x, int64_t ldx, int64_t kx, const double* p, int64_t ldp, int64_t n,
                       int64_t next, double* z, int64_t ldz, int64_t kz);
    void (*update_f32)(const float* x, int64_t ldx, int64_t kx, const double* p, int64_t ldp, int64_t n,
                       int64_t next, double* z, int64_t ldz, int64_t kz);
    // The same for many columns of z, or z_c = sum_j ... where `accumulate` is 0. panel has room for
    // AITKEN_MIX_ROWS * kx numbers.
    void (*mix_f64)(const double* x, int64_t ldx, int64_t kx, const double* p, int64_t ldp, int64_t n,
                    double* z, int64_t ldz, int64_t kz, int accumulate, double* panel);
    void (*mix_f32)(const float* x, int64_t ldx, int64_t kx, const double* p, int64_t ldp, int64_t n,
                    double* z, int64_t ldz, int64_t kz, int accumulate, double* panel);

    // Slices first .. last of a sparse matrix: y_i = sum_j a_ij x_j. Padding reads nothing of x.
    void (*sliced_multiply)(const aitken_sliced* a, const double* values, const double* x, double* y,
                            int64_t first, int64_t last);
    // Slice after slice: y_i = (b_i - sum_j a_ij y_j) scale_i; scale = null: 1. b == y allowed.
    void (*sliced_solve)(const aitken_sliced* a, const double* values, const double* scale, const double* b,
                         double* y, int64_t first, int64_t last);
    // The same for complex numbers, real and imaginary parts in turn.
    void (*sliced_multiply_pairs)(const aitken_sliced* a, const double* values, const double* x, double* y,
                                  int64_t first, int64_t last);
    void (*sliced_solve_pairs)(const aitken_sliced* a, const double* values, const double* scale,
                               const double* b, double* y, int64_t first, int64_t last);

    // Slices first .. last of a matrix laid out for sweeps; backward ones take them from the last to the
    // first. Sums are added to what is there. A = L + D + U, N = D/w + L, N' = D/w + U.
    // One relaxation of each row: x_i += omega ((b_i - sum_{j != i} a_ij x_j) / a_ii - x_i). sums[1] += the
    // squares of the changes; unless `fresh`, sums[0] += those of b - A x before the sweep, found from what
    // the sweep before left in q.
    void (*sweep_forward)(const aitken_sweep* a, const double* b, double omega, int fresh, double* x,
                          double* q, int64_t first, int64_t last, double* sums);
    void (*sweep_backward)(const aitken_sweep* a, const double* b, double omega, int fresh, double* x,
                           double* q, int64_t first, int64_t last, double* sums);
    // r = b - A x, or A x where b is null; r may be null. sum[0] += |r|^2.
    void (*sweep_residual)(const aitken_sweep* a, const double* b, const double* x, double* r, int64_t first,
                           int64_t last, double* sum);
    // v = N^-1 c; sum[0] += v' D v. v may be c.
    void (*sweep_lower)(const aitken_sweep* a, double omega, const double* c, double* v, int64_t first,
                        int64_t last, double* sum);
    // Backward: p = D r + beta p, t = N'^-1 p.
    void (*sweep_direction)(const aitken_sweep* a, double omega, double beta, const double* r, double* p,
                            double* t, int64_t first, int64_t last);
    // w = N^-1 (p - (2 / omega - 1) D t); sum[0] += p' (t + w).
    void (*sweep_image)(const aitken_sweep* a, double omega, const double* p, const double* t, double* w,
                        int64_t first, int64_t last, double* sum);
    // sum[0] += |N r|^2.
    void (*sweep_lower_norm)(const aitken_sweep* a, double omega, const double* r, int64_t first,
                             int64_t last, double* sum);
    // x += f t, r -= f (t + w), sum[0] += r' D r, for n entries.
    void (*sweep_advance)(double f, const double* t, const double* w, const double* diagonal, int64_t n,
                          double* x, double* r, double* sum);

    // A sweep of all lanes; norm2[l] = ||b - A x||^2 of system l before it.
    void (*lanes_sweep)(const aitken_lanes* systems, int backward, double* norm2);
    // norm2[l] = ||b - A x||^2 of system l as it is.
    void (*lanes_residual)(const aitken_lanes* systems, double* norm2);

    // x_i += weight (b - A x)_i for points of one colour (that of the sum of their coordinates, 0: even) in
    // the lines lines[0] .. lines[1], and behind it for the other one's in lines[2] .. lines[3], where all
    // points see what the first has made of its own. sums[0], sums[1] += the (b - A x)_i^2 that each has met.
    void (*stencil_relax)(const aitken_stencil* stencil, const double* b, double weight, int color, double* x,
                          const int64_t* lines, double* sums);
    // sum[0] += ||b - A x||^2 of the lines first .. last.
    void (*stencil_residual)(const aitken_stencil* stencil, const double* b, const double* x, int64_t first,
                             int64_t last, double* sum);

    // Rows of a factor: row j of a list is v + idx[j] * ldv, or v + j * ldv where idx is null. k numbers
    // followed by zeros up to a multiple of AITKEN_ROW_PAD; ldv is such a multiple, v and all vectors of
    // length k are padded and 64-byte aligned, and the zeros stay. Matrices are k rows, ldg apart, padded
    // alike. Sums are formed in the type itself, in an order fixed by the instruction set and the sizes.
    //
    // g += sum_j w_j v_j v_j', of which the upper triangle is right and the rest unspecified;
    // b += sum_j w_j c_j v_j. w null: 1. c null: b is not touched. panel: AITKEN_GRAM_ROWS * ldg numbers.
    void (*rows_gram_f64)(const double* v, int64_t ldv, const int32_t* idx, const double* w, const double* c,
                          int64_t d, int64_t k, double* g, int64_t ldg, double* b, double* panel);
    void (*rows_gram_f32)(const float* v, int64_t ldv, const int32_t* idx, const float* w, const float* c,
                          int64_t d, int64_t k, float* g, int64_t ldg, float* b, float* panel);
    // s[j] = <v_j, x>
    void (*rows_dot_f64)(const double* v, int64_t ldv, const int32_t* idx, const double* x, int64_t d,
                         int64_t k, double* s);
    void (*rows_dot_f32)(const float* v, int64_t ldv, const int32_t* idx, const float* x, int64_t d,
                         int64_t k, float* s);
    // q += sum_j f_j v_j
    void (*rows_combine_f64)(const double* v, int64_t ldv, const int32_t* idx, const double* f, int64_t d,
                             int64_t k, double* q);
    void (*rows_combine_f32)(const float* v, int64_t ldv, const int32_t* idx, const float* f, int64_t d,
                             int64_t k, float* q);
    // q += sum_j w_j <v_j, p> v_j in one read of the rows. w null: 1.
    void (*rows_apply_f64)(const double* v, int64_t ldv, const int32_t* idx, const double* w, const double* p,
                           int64_t d, int64_t k, double* q);
    void (*rows_apply_f32)(const float* v, int64_t ldv, const int32_t* idx, const float* w, const float* p,
                           int64_t d, int64_t k, float* q);
    // Conjugate gradients on sum_j w_j (c_j - <v_j, x>)^2 + x' G0 x + lam |x|^2 from the x given; g0 is the
    // whole of G0, or null. With r half the negative gradient at x: stops where |r| <= tol |r at the start|
    // or after maxiter steps, of which one is always taken, but for r'r zero, denormal or not finite and for
    // directions p with p' A p not above 0: these leave x as it is. work: 4 * ldv numbers. Returns the steps.
    // sums[0] = sum_j w_j (c_j - <v_j, x>)^2 at the start, sums[1] = by how much the quadratic fell.
    int64_t (*rows_cg_f64)(const double* v, int64_t ldv, const int32_t* idx, const double* w, const double* c,
                           int64_t d, int64_t k, double lam, const double* g0, int64_t ldg, int64_t maxiter,
                           double tol, double* x, double* work, double* sums);
    int64_t (*rows_cg_f32)(const float* v, int64_t ldv, const int32_t* idx, const float* w, const float* c,
                           int64_t d, int64_t k, double lam, const float* g0, int64_t ldg, int64_t maxiter,
                           double tol, float* x, float* work, double* sums);
    // count <= AITKEN_SPD_LANES_F64 or _F32 systems at once by Cholesky: matrix l at g + l * stride (upper
    // triangle), right side at b + l * ldb, solution to x + l * ldx. A pivot at most `lowest` times the
    // largest diagonal entry of its matrix, or not finite, sets bit l of what is returned and leaves that x
    // unspecified. work: AITKEN_SPD_WORK(k) numbers.
    uint32_t (*spd_solve_f64)(const double* g, int64_t ldg, int64_t stride, const double* b, int64_t ldb,
                              int64_t count, int64_t k, double lowest, double* x, int64_t ldx, double* work);
    uint32_t (*spd_solve_f32)(const float* g, int64_t ldg, int64_t stride, const float* b, int64_t ldb,
                              int64_t count, int64_t k, float lowest, float* x, int64_t ldx, float* work);
    // G = R' R in place: R in the upper triangle, 1 / r_ii on the diagonal, the rest unspecified. Returns 0
    // where a pivot does not do.
    int (*spd_factor_f64)(double* g, int64_t ldg, int64_t k, double lowest);
    int (*spd_factor_f32)(float* g, int64_t ldg, int64_t k, float lowest);
    // z = R^-1 R^-T r. z may be r.
    void (*spd_apply_f64)(const double* g, int64_t ldg, int64_t k, const double* r, double* z);
    void (*spd_apply_f32)(const float* g, int64_t ldg, int64_t k, const float* r, float* z);

    aitken_convolution convolution;
    // Fields of n cells from features: x[4 r + c] is row r of feature c, from one cell before the first, and
    // is read up to n + 1 cells rounded up to a multiple of AITKEN_ROW_PAD, as out is written. rows: 3, or 9
    // in three dimensions. weights: 16 channels out of each row, feature and three cells, biases; 16 x 16 by
    // channels in, biases; 3 x 16, biases.
    void (*geometry_row)(const float* const* x, int rows, const float* weights, int64_t n, float* const* out);

    // y = A x.
    void (*grid_apply_f64)(const aitken_grid_f64* a, const aitken_grid_span* at, const double* x, double* y);
    void (*grid_apply_f32)(const aitken_grid_f32* a, const aitken_grid_span* at, const float* x, float* y);
    // r = b - A x; r begins with the first cell of the span.
    void (*grid_residual)(const aitken_grid_f32* a, const aitken_grid_span* at, const float* b,
                          const float* x, float* r);
    // y = x + momentum (x - y) + step D^-1 (b - A x); y is not read where momentum = 0.
    void (*grid_step)(const aitken_grid_f32* a, const aitken_grid_span* at, const float* b, const float* x,
                      float momentum, float step, float* y);
    // x = step D^-1 b.
    void (*grid_scale)(const aitken_grid_f32* a, const aitken_grid_span* at, const float* b, float step,
                       float* x);
    // out += the sums of pairs of a row of n (halved), or the row.
    void (*grid_fold)(const float* r, int64_t n, int halved, float* out);
    // x_i += e of the pair that i is in, where there is an equation: by codes, or by inverses.
    void (*grid_unfold)(const float* e, int64_t n, int halved, const uint8_t* code, const float* inverse,
                        float* x);
    // out += sums over pairs (halved) of constant r, sum = those of linear r, of which the lower and the
    // upper halves are added to `lower` and `upper`. Not halved: a pair is one cell, and the last two stay.
    void (*grid_fold_blend)(const float* r, const float* constant, const float* linear, int64_t n, int halved,
                            float* out, float* sum, float* lower, float* upper);
    // x += constant e of the pair that i is in + linear (m + the lower or upper part) of it.
    void (*grid_unfold_blend)(const float* e, const float* m, const float* lower, const float* upper,
                              int64_t n, int halved, const float* constant, const float* linear, float* x);
    // to = factor * from, with entries below 1e-25 as 0.
    void (*grid_narrow)(const double* from, double factor, int64_t n, float* to);
    void (*grid_widen)(const float* from, double factor, int64_t n, double* to);
    // e[j] = log z[j] for normal z > 0, within 2 ulp where |log z| > 1 and 1e-15 elsewhere; NaN where z is
    // not finite. z == e allowed.
    void (*log_n)(const double* z, double* e, int64_t n);

    // Panels (gemm.inc): rows of AITKEN_LANES doubles, a problem per lane. No lane depends on another.
    // y_i = sum_k a_ik x_k, or over_i / that (0 where over_i = 0). Entry (i, k) of a, which is padded by
    // zeros, at (i / AITKEN_STRIP * depth + k) AITKEN_STRIP + i % AITKEN_STRIP; row k of x at x + k ldx;
    // those of over and y ldy apart.
    void (*panel_multiply)(const double* a, int64_t rows, int64_t depth, const double* x, int64_t ldx,
                           const double* over, double* y, int64_t ldy);
    // f = log(a / w) - x, 0 where a = 0; err += |u w - a|, norm2 += a f^2, per lane.
    void (*panel_residual)(const double* a, const double* x, const double* u, const double* w, int64_t n,
                           double* f, double* err, double* norm2);
    // The past: for each row AITKEN_MEMORY changes of f (changes) and as many of x + f (images), in one piece
    // of memory. Slot slots[l] of lane l is written, with zeros where use = 0; then per lane gram[j] += sum a
    // change_j change_slot, rhs[j] += sum a change_j f. newest: a panel to work in.
    void (*panel_remember)(const double* a, const double* x, const double* last_x, const double* f,
                           const double* last_f, const double* use, int64_t n, const int32_t* slots,
                           float* changes, float* images, double* newest, double* gram, double* rhs);
    // theta = (gram + shift diag(gram))^-1 rhs per lane, with zeros where the diagonal of gram is 0. Number
    // (j, k) of gram, of which the lower triangle is read, is a row of a panel, and so is number j of rhs.
    void (*panel_combination)(const double* gram, const double* rhs, double shift, double* theta);
    // last_x = x + (f - sum_j theta_j image_j cut to +-reach), or last_x + last_f in lanes where back = 1.
    void (*panel_advance)(const double* x, const double* f, const double* last_f, const double* back,
                          int64_t n, const float* images, const double* theta, double reach, double* last_x);
};

#define AITKEN_MIX_ROWS 32  // most rows of a panel at any level
#define AITKEN_ROW_PAD 16
#define AITKEN_LANES 16       // of a panel
#define AITKEN_STRIP 12       // rows of a packed matrix that lie together
#define AITKEN_MEMORY 10      // changes that a lane remembers
#define AITKEN_GRAM_ROWS 256  // most rows of a panel at any level
#define AITKEN_SPD_LANES_F64 8
#define AITKEN_SPD_LANES_F32 16
// Block columns of the upper triangle and a right-hand side, for the most lanes.
#define AITKEN_SPD_WORK(k) ((((k) + 3) / 4 * (((k) + 3) / 4 + 1) / 2 * 16 + ((k) + 3) / 4 * 4) * 16)

extern "C" {
extern const aitken_simd_table aitken_simd_base;
#if defined(__x86_64__) || defined(_M_X64)
extern const aitken_simd_table aitken_simd_v3;
extern const aitken_simd_table aitken_simd_v4;
extern const aitken_convolution aitken_simd_bf16;  // needs AVX512_BF16 besides v4
#endif
}
