// Products and level-ordered triangular solves with sliced rows. Bits do not depend on the thread count.
#pragma once

#include <algorithm>
#include <complex>

#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "sparse/sliced.hpp"

namespace aitken::cpu {

namespace sliced_detail {

inline aitken_sliced pointers(const sliced_pattern& a) {
    return {a.row_begin.data(), a.begin.data(), a.run.data(), a.lanes.data(), a.columns.data()};
}

inline const double* parts(const std::complex<double>* x) { return reinterpret_cast<const double*>(x); }
inline double* parts(std::complex<double>* x) { return reinterpret_cast<double*>(x); }

inline void multiply(const sliced_pattern& a, const double* values, const double* x, double* y, index first,
                     index last) {
    const aitken_sliced p = pointers(a);
    simd().sliced_multiply(&p, values, x, y, first, last);
}

inline void multiply(const sliced_pattern& a, const std::complex<double>* values,
                     const std::complex<double>* x, std::complex<double>* y, index first, index last) {
    const aitken_sliced p = pointers(a);
    simd().sliced_multiply_pairs(&p, parts(values), parts(x), parts(y), first, last);
}

inline void solve(const sliced_pattern& a, const double* values, const double* scale, const double* b,
                  double* y, index first, index last) {
    const aitken_sliced p = pointers(a);
    simd().sliced_solve(&p, values, scale, b, y, first, last);
}

inline void solve(const sliced_pattern& a, const std::complex<double>* values,
                  const std::complex<double>* scale, const std::complex<double>* b, std::complex<double>* y,
                  index first, index last) {
    const aitken_sliced p = pointers(a);
    simd().sliced_solve_pairs(&p, parts(values), parts(scale), parts(b), parts(y), first, last);
}

// Runs body(first, last) on pieces of the slices first .. last that are worth a thread's while.
template <class Body>
void pieces(index first, index last, Body body) {
    constexpr index piece = 512;
    parallel_chunks((last - first + piece - 1) / piece, [&](index chunk) {
        const index start = first + chunk * piece;
        body(start, std::min(start + piece, last));
    });
}

}  // namespace sliced_detail

// y = A x on the slices first .. last, by this thread alone. S is double or complex<double>.
template <class S>
void sliced_multiply(const sliced_pattern& a, const S* values, const S* x, S* y, index first, index last) {
    sliced_detail::multiply(a, values, x, y, first, last);
}

// y = A x; threads from 32768 rows on.
template <class S>
void sliced_multiply(const sliced_pattern& a, const S* values, const S* x, S* y) {
    if (a.rows < 32768) return sliced_detail::multiply(a, values, x, y, 0, a.slices());
    sliced_detail::pieces(0, a.slices(), [&](index first, index last) {
        sliced_detail::multiply(a, values, x, y, first, last);
    });
}

// Slice after slice y_i = (b_i - sum_j a_ij y_j) scale_i (scale null: 1). Rows read rows of earlier groups
// alone; b == y is allowed. A group of 16384 rows or more is shared among threads.
template <class S>
void sliced_solve(const sliced_pattern& a, const S* values, const S* scale, const S* b, S* y) {
    constexpr index wide = 16384;
    if (a.widest_group < wide) return sliced_detail::solve(a, values, scale, b, y, 0, a.slices());
    for (std::size_t g = 0; g + 1 < a.group_begin.size(); ++g) {
        const index first = a.group_begin[g], last = a.group_begin[g + 1];
        if (first == last) continue;
        if (a.row_begin[last] - a.row_begin[first] < wide)
            sliced_detail::solve(a, values, scale, b, y, first, last);
        else
            sliced_detail::pieces(first, last, [&](index from, index to) {
                sliced_detail::solve(a, values, scale, b, y, from, to);
            });
    }
}

}  // namespace aitken::cpu
