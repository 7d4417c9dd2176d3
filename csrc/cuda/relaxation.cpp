// SOR and SSOR-CG on CUDA devices: instantiates the drivers over the CUDA kernels.
#include "core/api/relaxation_cuda.hpp"

#include "cuda/backend.hpp"
#include "cuda/relaxation_kernels.hpp"

namespace aitken::cuda {

static_assert(drivers::relaxation::SorKernels<sweep_kernels<backend, sliced_matrix>>);
static_assert(drivers::relaxation::SorKernels<sweep_kernels<backend, stencil_matrix>>);
static_assert(drivers::relaxation::EisenstatKernels<sweep_kernels<backend, sliced_matrix>>);

namespace relaxation {

solved sor(const device_context& where, const krylov::matrix& a, std::optional<api::order> order,
           const std::vector<std::int32_t>& rows, vec<const double> b, vec<double> x, double shift,
           const api::sor_options& options, interrupt& signals, const api::monitor& monitor) {
    backend be(where, signals);
    return solve_sor(be, a, order, rows, b, x, shift, options, monitor);
}

solved ssor_cg(const device_context& where, const krylov::matrix& a, std::optional<api::order> order,
               const std::vector<std::int32_t>& rows, vec<const double> b, vec<double> x, double shift,
               const api::ssor_options& options, interrupt& signals, const api::monitor& monitor) {
    backend be(where, signals);
    return solve_ssor_cg(be, a, order, rows, b, x, shift, options, monitor);
}

api::batch_report sor_batch(const device_context& where, const api::batch_problem& problem, index nnz,
                            const api::batch_options& options, std::size_t room, interrupt& signals) {
    backend be(where, signals);
    return solve_sor_batch(be, problem, nnz, options, room);
}

}  // namespace relaxation

}  // namespace aitken::cuda
