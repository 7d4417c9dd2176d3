// The kernels of the direction network: every block program that cuda/convolution_kernels.hpp launches.
#include "cuda/convolution_blocks.hpp"

#include "cuda/launch.cuh"
#include "cuda/vector_blocks.hpp"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

#define AITKEN_NETWORK(Dim)                   \
    AITKEN_LAUNCH(convolve<Dim>);             \
    AITKEN_LAUNCH(map_pass<conv_first<Dim>>); \
    AITKEN_LAUNCH(map_pass<conv_pool<Dim>>);  \
    AITKEN_LAUNCH(map_pass<conv_spread<Dim>>)
AITKEN_NETWORK(2);
AITKEN_NETWORK(3);
AITKEN_LAUNCH(map_pass<conv_read<float>>);
AITKEN_LAUNCH(map_pass<conv_read<double>>);
AITKEN_LAUNCH(map_pass<conv_last<float>>);
AITKEN_LAUNCH(map_pass<conv_last<double>>);
AITKEN_LAUNCH(map_pass<fill_with<std::uint32_t>>);

}  // namespace aitken::cuda
