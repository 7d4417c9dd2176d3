// SOR and SSOR-CG on CUDA devices: core/api/relaxation.hpp with arrays in device memory, plus where to run.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/api/device_context.hpp"
#include "core/api/krylov_cuda.hpp"
#include "core/api/relaxation.hpp"

namespace aitken::cuda::relaxation {

namespace api = aitken::relaxation;

struct solved {
    api::report report;
    api::order order = api::order::natural;  // that was used
    bool stencil = false;                    // swept with constant coefficients
};

// As cpu::relaxation::sweeper::sor, b and x in device memory; `rows` is the permutation of order::given, in
// host memory. No order: red-black where the matrix is a stencil or its graph has two colours, else
// multicolour; for symmetric sweeps as in ssor_cg. The pattern is checked on the host; the monitor's x is in
// host memory. Throws std::invalid_argument naming the row of a diagonal entry that is zero, missing or not
// finite.
solved sor(const device_context& where, const krylov::matrix& a, std::optional<api::order> order,
           const std::vector<std::int32_t>& rows, vec<const double> b, vec<double> x, double shift,
           const api::sor_options& options, interrupt& signals, const api::monitor& monitor);

// As cpu::relaxation::sweeper::ssor_cg, in Eisenstat's form alone. No order: natural where its levels have
// 2048 rows in the mean, else blocks. A walk over narrow levels keeps one multiprocessor busy.
solved ssor_cg(const device_context& where, const krylov::matrix& a, std::optional<api::order> order,
               const std::vector<std::int32_t>& rows, vec<const double> b, vec<double> x, double shift,
               const api::ssor_options& options, interrupt& signals, const api::monitor& monitor);

// As cpu::relaxation::sor_batch with everything in the problem in device memory: a block per system, and one
// launch for as many systems as `room` bytes of device memory serve (all of them up to some 1400 rows).
api::batch_report sor_batch(const device_context& where, const api::batch_problem& problem, index nnz,
                            const api::batch_options& options, std::size_t room, interrupt& signals);

}  // namespace aitken::cuda::relaxation
