// The kernels of SOR and SSOR-CG: every block program that cuda/relaxation_kernels.hpp launches.
#include "cuda/relaxation_blocks.hpp"

#include "cuda/launch.cuh"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

AITKEN_LAUNCH(sor_systems<32, 128>);
AITKEN_LAUNCH(sor_systems<64, 512>);
AITKEN_LAUNCH(sor_systems<128, 1472>);
AITKEN_LAUNCH(sor_systems<256, 0>);
AITKEN_LAUNCH(sweep_pass<relax_rows<sliced_matrix>>);
AITKEN_LAUNCH(sweep_pass<residual_squares<sliced_matrix>>);
AITKEN_LAUNCH(sweep_pass<relax_rows<stencil_matrix>>);
AITKEN_LAUNCH(sweep_pass<residual_squares<stencil_matrix>>);
AITKEN_LAUNCH(sweep_pass<lower_rows<sliced_matrix>>);
AITKEN_LAUNCH(sweep_pass<direction_rows<sliced_matrix>>);
AITKEN_LAUNCH(sweep_pass<image_rows<sliced_matrix>>);
AITKEN_LAUNCH(sweep_pass<advance_rows<sliced_matrix>>);
AITKEN_LAUNCH(sweep_pass<lower_squares<sliced_matrix>>);
AITKEN_LAUNCH(vector_pass<total_sums>);
AITKEN_LAUNCH(map_pass<gather_places>);
AITKEN_LAUNCH(map_pass<scatter_places>);
AITKEN_LAUNCH(map_pass<load_slots>);
AITKEN_LAUNCH(map_pass<load_diagonal>);

}  // namespace aitken::cuda
