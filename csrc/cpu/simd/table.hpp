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

    // Scales in place: k[j] *= s * v[j].
    void (*scale_f64)(double* k, double s, const double* v, int64_t n);
    void (*scale_f32)(float* k, double s, const double* v, int64_t n);

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
};

#define AITKEN_MIX_ROWS 32  // most rows of a panel at any level

extern "C" {
extern const aitken_simd_table aitken_simd_base;
#if defined(__x86_64__) || defined(_M_X64)
extern const aitken_simd_table aitken_simd_v3;
extern const aitken_simd_table aitken_simd_v4;
#endif
}
