// The direction network on CUDA devices.
#include "core/api/convolution_cuda.hpp"

#include "cuda/backend.hpp"
#include "cuda/convolution_kernels.hpp"

namespace aitken::cuda::convolution {

template <class T>
void apply_network(const device_context& where, const api::direction_weights& w,
                   const std::array<index, 3>& n, const T* r, T* z, index count, const double* keep,
                   interrupt& signals) {
    backend be(where, signals);
    apply_network_on(be, w, n, r, z, count, keep);
}

template void apply_network<float>(const device_context&, const api::direction_weights&,
                                   const std::array<index, 3>&, const float*, float*, index, const double*,
                                   interrupt&);
template void apply_network<double>(const device_context&, const api::direction_weights&,
                                    const std::array<index, 3>&, const double*, double*, index, const double*,
                                    interrupt&);

}  // namespace aitken::cuda::convolution
