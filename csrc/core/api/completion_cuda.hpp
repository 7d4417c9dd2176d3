// Matrix completion on CUDA devices: core/api/completion.hpp with arrays in device memory, plus where to run.
#pragma once

#include <cstdint>

#include "core/api/completion.hpp"
#include "core/api/device_context.hpp"

namespace aitken::cuda::completion {

namespace api = aitken::completion;

// Entries by rows in device memory, whose number the host cannot see. The pattern is checked: indptr on the
// host, indices by a kernel.
template <class T>
struct stored {
    api::observed<T> entries;
    index nnz = 0;
};
template <class T>
struct problem {
    stored<T> rows, columns;  // the same entries twice
    stored<T> holdout;        // none where its entries.a.rows = 0
};

// As cpu::completion::complete. The exact solver keeps the matrix of a row in registers up to rank + bias =
// 248 (float) or 136 (double) and is conjugate gradients to rounding beyond. `nonneg`, inner::sketch and
// inner::lowprec are for the CPU alone: std::invalid_argument, as for an indptr or index that leads outside
// and for more columns than shared memory holds vectors of (some 700).
template <class T>
api::report complete(const device_context& where, const problem<T>&, const api::options&,
                     const api::factors<T>&, interrupt&, const api::monitor&);

// As cpu::completion::half_sweep.
template <class T>
api::half_report half_sweep(const device_context& where, const stored<T>& rows, matrix<const T> fixed,
                            vec<const T> fixed_bias, matrix<T> x, vec<T> x_bias, const api::half_options&,
                            interrupt&);

// As cpu::completion::squared_error.
template <class T>
double squared_error(const device_context& where, const stored<T>& rows, const api::factors<const T>&,
                     interrupt&);

// As cpu::completion::predict: indices in range, in device memory.
template <class T>
void predict(const device_context& where, const api::factors<const T>&, const std::int32_t* rows,
             const std::int32_t* cols, vec<T> out, interrupt&);

}  // namespace aitken::cuda::completion
