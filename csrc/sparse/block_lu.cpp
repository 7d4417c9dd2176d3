#include "sparse/block_lu.hpp"

#include <complex>
#include <utility>

#include "sparse/scalar.hpp"

namespace aitken {

namespace {

template <class S>
void subtract_multiple(S* y, const S* x, S alpha, index n) {
    for (index i = 0; i < n; ++i) y[i] -= times(alpha, x[i]);
}

// sum_i conj(x_i) y_i in four partial sums, whose order depends on n alone.
template <class S>
S dot(const S* x, const S* y, index n) {
    S s0{}, s1{}, s2{}, s3{};
    index i = 0;
    for (; i + 4 <= n; i += 4) {
        s0 += times(conjugate(x[i]), y[i]);
        s1 += times(conjugate(x[i + 1]), y[i + 1]);
        s2 += times(conjugate(x[i + 2]), y[i + 2]);
        s3 += times(conjugate(x[i + 3]), y[i + 3]);
    }
    for (; i < n; ++i) s0 += times(conjugate(x[i]), y[i]);
    return (s0 + s1) + (s2 + s3);
}

}  // namespace

template <class S>
index lu_factor(S* a, index n, std::int32_t* pivots) {
    for (index k = 0; k < n; ++k) {
        S* const column = a + k * n;
        index best = k;
        for (index i = k + 1; i < n; ++i)
            if (square(column[i]) > square(column[best])) best = i;
        pivots[k] = static_cast<std::int32_t>(best);
        if (best != k)
            for (index j = 0; j < n; ++j) std::swap(a[k + j * n], a[best + j * n]);
        const S inverse_pivot = inverse(column[k]);
        if (!finite(inverse_pivot) || inverse_pivot == S{}) return k;
        column[k] = inverse_pivot;
        for (index i = k + 1; i < n; ++i) column[i] = times(column[i], inverse_pivot);
        for (index j = k + 1; j < n; ++j)
            subtract_multiple(a + k + 1 + j * n, column + k + 1, a[k + j * n], n - k - 1);
    }
    return -1;
}

template <class S>
void lu_solve(const S* lu, index n, const std::int32_t* pivots, S* x) {
    for (index k = 0; k < n; ++k) std::swap(x[k], x[pivots[k]]);
    for (index k = 0; k < n; ++k) subtract_multiple(x + k + 1, lu + k + 1 + k * n, x[k], n - k - 1);
    for (index k = n - 1; k >= 0; --k) {
        x[k] = times(x[k], lu[k + k * n]);
        subtract_multiple(x, lu + k * n, x[k], k);
    }
}

template <class S>
void lu_solve_adjoint(const S* lu, index n, const std::int32_t* pivots, S* x) {
    for (index k = 0; k < n; ++k) x[k] = times(x[k] - dot(lu + k * n, x, k), conjugate(lu[k + k * n]));
    for (index k = n - 1; k >= 0; --k) x[k] -= dot(lu + k + 1 + k * n, x + k + 1, n - k - 1);
    for (index k = n - 1; k >= 0; --k) std::swap(x[k], x[pivots[k]]);
}

#define AITKEN_INSTANTIATE(S)                                            \
    template index lu_factor<S>(S*, index, std::int32_t*);               \
    template void lu_solve<S>(const S*, index, const std::int32_t*, S*); \
    template void lu_solve_adjoint<S>(const S*, index, const std::int32_t*, S*);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(std::complex<double>)
#undef AITKEN_INSTANTIATE

}  // namespace aitken
