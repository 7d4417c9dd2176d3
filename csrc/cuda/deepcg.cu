// The kernels of the flexible conjugate directions: every block program that cuda/deepcg_kernels.hpp
// launches.
#include "cuda/deepcg_blocks.hpp"

#include "cuda/launch.cuh"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)
#define AITKEN_LAUNCH_SUMS(Op, ...) \
    AITKEN_LAUNCH(long_pass<Op>);   \
    AITKEN_LAUNCH(long_totals<Op, __VA_ARGS__>)

AITKEN_LAUNCH_SUMS(dot_sums, keep_sums<1>);
AITKEN_LAUNCH_SUMS(apply_grid_sums, keep_sums<1>);
AITKEN_LAUNCH_SUMS(residual_sums, keep_sums<1>);
AITKEN_LAUNCH_SUMS(energy_sums, keep_energy);
AITKEN_LAUNCH_SUMS(length_sums, keep_length);
AITKEN_LAUNCH(long_totals<length_sums, keep_peak>);
AITKEN_LAUNCH_SUMS(advance_residual, keep_sums<1>);
AITKEN_LAUNCH_SUMS(pair_sums, keep_sums<2>);
AITKEN_LAUNCH_SUMS(project_sums, keep_products);
AITKEN_LAUNCH_SUMS(subtract_sums, keep_subtracted);
AITKEN_LAUNCH_SUMS(measure_sums, keep_measure);
AITKEN_LAUNCH_SUMS(take_step, keep_sums<2>);
AITKEN_LAUNCH(long_pass<round_to_single>);
AITKEN_LAUNCH(long_pass<advance_iterate>);
AITKEN_LAUNCH(long_pass<turn_direction>);
AITKEN_LAUNCH(long_pass<scale_to_unit>);
AITKEN_LAUNCH(long_pass<adopt_output>);

}  // namespace aitken::cuda
