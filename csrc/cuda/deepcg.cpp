// Flexible conjugate directions on CUDA devices: instantiates the driver over the CUDA kernels.
#include "core/api/deepcg_cuda.hpp"

#include "cuda/backend.hpp"
#include "cuda/deepcg_kernels.hpp"

namespace aitken::cuda {

static_assert(Backend<reusing_backend<backend>>);
static_assert(drivers::deepcg::DeepcgKernels<deepcg_kernels<reusing_backend<backend>>>);
static_assert(drivers::multigrid::CycleKernels<cycle_kernels<device_cycle<backend>>>);

namespace deepcg {

std::vector<cpu::deepcg::grid_report> solve_grid(const device_context& where, const grid_problem& problem,
                                                 const api::options& options, interrupt& signals,
                                                 const api::monitor& monitor) {
    backend be(where, signals);
    return solve_on_grid(be, problem, options, monitor);
}

api::report solve(const device_context& where, const matrix_problem& problem, const api::options& options,
                  interrupt& signals, const api::monitor& monitor) {
    backend be(where, signals);
    return solve_with_matrix(be, problem, options, monitor);
}

}  // namespace deepcg

}  // namespace aitken::cuda
