// Batches of small constrained problems on CUDA devices: core/api/optimize_batch.hpp with all arrays in
// device memory, plus where to run. Everything is queued on the caller's stream; nothing is waited for.
#pragma once

#include <cstdint>

#include "core/api/device_context.hpp"
#include "core/api/optimize_batch.hpp"

namespace aitken::cuda::optimize {

namespace api = aitken::optimize;

void batch_begin(const device_context&, const api::batch_problems&, const double* starts, const double* lam,
                 const api::batch_options&, interrupt&);
void batch_points(const device_context&, const api::batch_problems&, const std::int32_t* problem, index count,
                  double* out, interrupt&);
void batch_hessian_points(const device_context&, const api::batch_problems&, const std::int32_t* problem,
                          index count, double* x, double* v, interrupt&);
void batch_judge(const device_context&, const api::batch_problems&, const api::batch_values&,
                 const api::batch_options&, std::uint8_t* next, interrupt&);
void batch_direct(const device_context&, const api::batch_problems&, const api::batch_values&,
                  const std::int32_t* rows, index count, const double* hessian, const api::batch_options&,
                  std::uint8_t* next, interrupt&);
void batch_conclude(const device_context&, const api::batch_problems&, const api::batch_values&,
                    const api::batch_options&, int status_of_others, interrupt&);
// n + m <= 128: std::invalid_argument beyond.
void solve_kkt(const device_context&, const api::kkt_systems&, double xi, interrupt&);

}  // namespace aitken::cuda::optimize
