// The direction network on CUDA devices: core/api/convolution.hpp with arrays in device memory, plus where to
// run. Fields and weights between layers are bfloat16, sums float, on tensor cores.
#pragma once

#include <array>

#include "core/api/convolution.hpp"
#include "core/api/device_context.hpp"
#include "core/interrupt.hpp"

namespace aitken::cuda::convolution {

namespace api = aitken::convolution;

// z = f(r) for `count` residuals of norm 1 one after the other, each a full grid in C order; 0 where keep is
// 0 (null: everywhere). r, z and keep are in device memory, weights on the host. Throws std::invalid_argument
// as cpu::convolution::pack_weights and make_network.
template <class T>
void apply_network(const device_context& where, const api::direction_weights&, const std::array<index, 3>& n,
                   const T* r, T* z, index count, const double* keep, interrupt&);

}  // namespace aitken::cuda::convolution
