// Batches of small constrained problems on CUDA devices: the kernel set on the caller's device.
#include <stdexcept>
#include <string>

#include "core/api/optimize_batch_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/optimize_kernels.hpp"

namespace aitken::cuda::optimize {

namespace {

constexpr int most_unknowns = 128;

void check_size(int unknowns) {
    if (unknowns > most_unknowns)
        throw std::invalid_argument("a problem has " + std::to_string(unknowns) +
                                    " variables and rows; at most 128 are allowed");
}

}  // namespace

void batch_begin(const device_context& where, const api::batch_problems& p, const double* starts,
                 const double* lam, const api::batch_options& o, interrupt& signals) {
    check_size(p.n + p.m);
    backend be(where, signals);
    batch_kernels(be, p, o).begin(starts, lam);
}

void batch_points(const device_context& where, const api::batch_problems& p, const std::int32_t* problem,
                  index count, double* out, interrupt& signals) {
    backend be(where, signals);
    batch_kernels(be, p, {}).points(problem, count, out);
}

void batch_hessian_points(const device_context& where, const api::batch_problems& p,
                          const std::int32_t* problem, index count, double* x, double* v,
                          interrupt& signals) {
    backend be(where, signals);
    batch_kernels(be, p, {}).hessian_points(problem, count, x, v);
}

void batch_judge(const device_context& where, const api::batch_problems& p, const api::batch_values& v,
                 const api::batch_options& o, std::uint8_t* next, interrupt& signals) {
    signals.poll();
    backend be(where, signals);
    batch_kernels(be, p, o).judge(v, next);
}

void batch_direct(const device_context& where, const api::batch_problems& p, const api::batch_values& v,
                  const std::int32_t* rows, index count, const double* hessian, const api::batch_options& o,
                  std::uint8_t* next, interrupt& signals) {
    check_size(p.n + p.m);
    signals.poll();
    backend be(where, signals);
    batch_kernels(be, p, o).direct(v, rows, count, hessian, next);
}

void batch_conclude(const device_context& where, const api::batch_problems& p, const api::batch_values& v,
                    const api::batch_options& o, int status_of_others, interrupt& signals) {
    backend be(where, signals);
    batch_kernels(be, p, o).conclude(v, status_of_others);
}

void solve_kkt(const device_context& where, const api::kkt_systems& k, double xi, interrupt& signals) {
    check_size(k.n + k.m);
    backend be(where, signals);
    solve_kkt_batch(be, k, xi);
}

}  // namespace aitken::cuda::optimize
