// Dense kernels on column-major panels for the sparse factorisation, compiled for several instruction sets
// inside one object: plain pointers, internal linkage, chosen once per process (AITKEN_SIMD=base|v3|v4
// lowers it).
//
// "B blocks" hold k rows of nr consecutive numbers (unused columns are zero). Reads of A in whole vectors may
// run up to mr - 1 numbers past its last row; the caller owns that memory. Nothing is written past m and n.
#pragma once

#include "core/views.hpp"

namespace aitken {

struct panel_kernels {
    const char* level;  // "base", "v3" or "v4"
    int mr, nr;         // register tile: mr rows (a multiple of the vector length) times nr columns; nr <= 8

    // C[m x n] -= A B, tiles that lie above C's diagonal left out. A is packed: tile i (mr rows) at
    // a + i * tile_stride, column p of it at + p * mr. Block j of B at b + j * block_stride.
    void (*update_packed)(const double* a, index tile_stride, const double* b, index block_stride, index k,
                          double* c, index ldc, index m, index n);

    // C[m x n] -= A B with A column-major and one block of B, n <= nr.
    void (*update)(const double* a, index lda, const double* b, index k, double* c, index ldc, index m,
                   index n);

    // T[m x n] = A B, otherwise as `update`.
    void (*product)(const double* a, index lda, const double* b, index k, double* t, index ldt, index m,
                    index n);

    // Rows of C[m x n], n <= nr: solve X diag(d) L^T = C in place. l: unit lower, l[i * 8 + j] = L(i, j);
    // inverse_d[j] = 1 / d[j].
    void (*solve_right)(double* c, index ldc, index m, index n, const double* l, const double* inverse_d);

    // t[m] = A x and y[k] -= A^T x.
    void (*gemv)(const double* a, index lda, index m, index k, const double* x, double* t);
    void (*gemv_t)(const double* a, index lda, index m, index k, const double* x, double* y);

    // The same for 8 interleaved vectors: element i of vector r at x[i * 8 + r].
    void (*gemv8)(const double* a, index lda, index m, index k, const double* x, double* t);
    void (*gemv8_t)(const double* a, index lda, index m, index k, const double* x, double* y);
};

// The best level of this CPU, or the one AITKEN_SIMD asks for when the CPU has it.
const panel_kernels& default_panel_kernels();

// "base", "v3", "v4"; null when this CPU or build lacks it.
const panel_kernels* find_panel_kernels(const char* level);

}  // namespace aitken
