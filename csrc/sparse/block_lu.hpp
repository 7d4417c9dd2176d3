// Dense LU with partial pivoting of blocks of some hundred rows, column-major, without BLAS.
#pragma once

#include <cstdint>

#include "core/views.hpp"

namespace aitken {

// Factors a[i + j * n] in place; pivots[k] is the row exchanged with row k, the diagonal holds inverse
// pivots. Returns the first column without a usable pivot (zero, not finite, or with an overflowing inverse),
// or -1. 2/3 n^3 flops.
template <class S>
index lu_factor(S* a, index n, std::int32_t* pivots);

// x := A^-1 x, or A^-H x. One read of the factors, 2 n^2 flops.
template <class S>
void lu_solve(const S* lu, index n, const std::int32_t* pivots, S* x);
template <class S>
void lu_solve_adjoint(const S* lu, index n, const std::int32_t* pivots, S* x);

}  // namespace aitken
