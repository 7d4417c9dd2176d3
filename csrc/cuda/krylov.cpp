// GCRO-DR and sequences on CUDA devices: instantiates the drivers over the CUDA kernels.
#include "core/api/krylov_cuda.hpp"

#include "cuda/backend.hpp"
#include "cuda/krylov_kernels.hpp"

namespace aitken::cuda {

static_assert(drivers::krylov::KrylovKernels<krylov_kernels<backend, double>, double, double>);
static_assert(drivers::krylov::KrylovKernels<krylov_kernels<backend, float>, double, float>);
static_assert(drivers::sequence::SequenceKernels<chain_kernels<backend, double>, double>);
static_assert(drivers::sequence::SequenceKernels<chain_kernels<backend, float>, double>);

namespace krylov {

aitken::krylov::report solve(const device_context& where, const matrix& a, const preconditioner& inverse,
                             vec<const double> b, vec<double> x, const aitken::krylov::options& options,
                             aitken::krylov::space<double>& kept, bool same_matrix,
                             aitken::krylov::space<double>& outer, interrupt& signals,
                             const aitken::krylov::monitor<double>& monitor) {
    backend be(where, signals);
    const device_rows rows{a.pattern.rows, a.pattern.indptr, a.pattern.indices};
    const auto run = options.basis == aitken::krylov::basis::single ? &solve_one<backend, float>
                                                                    : &solve_one<backend, double>;
    return run(be, rows, a.nnz, a.values, inverse.kind, inverse.block, b, x, options, kept, same_matrix,
               outer, monitor);
}

}  // namespace krylov

namespace sequence {

void run_chains(const device_context& where, const aitken::sequence::systems<double>& systems, index nnz,
                std::span<const std::span<const index>> chains, const aitken::sequence::options& options,
                double* x, aitken::krylov::space<double>& kept, std::size_t memory, interrupt& signals,
                const aitken::sequence::monitor& monitor) {
    backend be(where, signals);
    const auto run = options.krylov.basis == aitken::krylov::basis::single
                         ? &cuda::run_chains<backend, float>
                         : &cuda::run_chains<backend, double>;
    run(be, systems, nnz, chains, options, x, kept, memory, monitor);
}

}  // namespace sequence

}  // namespace aitken::cuda
