// CG, MINRES and BiCGSTAB on the CPU: instantiates the driver over the CPU kernels.
#include <complex>

#include "core/api/short_recurrence.hpp"
#include "cpu/backend.hpp"
#include "cpu/short_recurrence_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/short_recurrence.hpp"

namespace aitken::cpu::short_recurrence {

static_assert(drivers::short_recurrence::ShortRecurrenceKernels<short_recurrence_kernels<double>, double>);
static_assert(drivers::short_recurrence::ShortRecurrenceKernels<
              short_recurrence_kernels<std::complex<double>>, std::complex<double>>);

template <class S>
api::report solve(linear_map<S>& matrix, linear_map<S>* inverse, vec<const S> b, vec<S> x,
                  const api::options& options, aitken::krylov::space<S>& kept, bool same_matrix,
                  interrupt& signals, const aitken::krylov::monitor<S>& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    short_recurrence_kernels<S> kernels(be, matrix, inverse, options.shift);
    drivers::short_recurrence::solver<S, backend, short_recurrence_kernels<S>> solver(be, kernels, b.size,
                                                                                      options, monitor);
    if (!same_matrix) kept.c.clear();  // even if this system asks for no work
    return solver.run(b, x, kept, same_matrix);
}

#define AITKEN_INSTANTIATE(S)                                                                             \
    template api::report solve(linear_map<S>&, linear_map<S>*, vec<const S>, vec<S>, const api::options&, \
                               aitken::krylov::space<S>&, bool, interrupt&,                               \
                               const aitken::krylov::monitor<S>&);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(std::complex<double>)
#undef AITKEN_INSTANTIATE

}  // namespace aitken::cpu::short_recurrence
