// The Krylov solvers on CUDA devices: core/api/krylov.hpp and core/api/sequence.hpp with arrays in device
// memory, plus where to run. Real matrices in compressed rows; GCRO-DR and its family.
#pragma once

#include <cstddef>
#include <span>

#include "core/api/device_context.hpp"
#include "core/api/krylov.hpp"
#include "core/api/sequence.hpp"

namespace aitken::cuda::krylov {

// A square matrix in device memory. The pattern is checked on the host before anything follows it.
struct matrix {
    pattern_view pattern;
    index nnz = 0;
    const double* values = nullptr;
};
// Of the kinds of core/api/sequence.hpp: none, jacobi, block_jacobi (`block` rows), chebyshev, ilu0.
struct preconditioner {
    aitken::sequence::preconditioner kind = aitken::sequence::preconditioner::none;
    index block = 64;
};

// As cpu::krylov::solve, b and x in device memory; `kept` and `outer` are in host memory. The monitor's x is
// a device address.
aitken::krylov::report solve(const device_context& where, const matrix& a, const preconditioner& inverse,
                             vec<const double> b, vec<double> x, const aitken::krylov::options& options,
                             aitken::krylov::space<double>& kept, bool same_matrix,
                             aitken::krylov::space<double>& outer, interrupt& signals,
                             const aitken::krylov::monitor<double>& monitor);

}  // namespace aitken::cuda::krylov

namespace aitken::cuda::sequence {

// As cpu::sequence::run_chain for all chains at once, which advance in lockstep, as many at a time as
// `memory` bytes of device memory allow. Everything in `systems` but `params` is in device memory, as is x.
// `kept` serves a single chain.
void run_chains(const device_context& where, const aitken::sequence::systems<double>& systems, index nnz,
                std::span<const std::span<const index>> chains, const aitken::sequence::options& options,
                double* x, aitken::krylov::space<double>& kept, std::size_t memory, interrupt& signals,
                const aitken::sequence::monitor& monitor);

}  // namespace aitken::cuda::sequence
