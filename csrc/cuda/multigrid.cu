// The kernels of grids and of their multigrid: every block program that cuda/multigrid_kernels.hpp launches.
#include "cuda/multigrid_blocks.hpp"

#include "cuda/launch.cuh"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

AITKEN_LAUNCH(map_pass<level_pass<pass::scale>>);
AITKEN_LAUNCH(map_pass<level_pass<pass::step>>);
AITKEN_LAUNCH(map_pass<level_pass<pass::prolong_step>>);
AITKEN_LAUNCH(map_pass<level_pass<pass::restrict_const>>);
AITKEN_LAUNCH(map_pass<level_pass<pass::residual>>);
AITKEN_LAUNCH(map_pass<level_pass<pass::restrict_learned>>);
AITKEN_LAUNCH(map_pass<level_pass<pass::prolong_learned>>);
AITKEN_LAUNCH(cycle_tail);
AITKEN_LAUNCH(map_pass<narrow_residual>);
AITKEN_LAUNCH(map_pass<widen_solution>);
AITKEN_LAUNCH(map_pass<apply_grid>);
AITKEN_LAUNCH(map_pass<fill_with<std::uint8_t>>);
AITKEN_LAUNCH(map_pass<fill_with<float>>);
AITKEN_LAUNCH(map_pass<load_kind>);
AITKEN_LAUNCH(map_pass<count_faces>);
AITKEN_LAUNCH(map_pass<load_conductances>);
AITKEN_LAUNCH(map_pass<coarsen_level>);
AITKEN_LAUNCH(map_pass<finish_level>);
AITKEN_LAUNCH(map_pass<open_sides>);
AITKEN_LAUNCH(invert_coarsest);
AITKEN_LAUNCH(map_pass<level_features>);
AITKEN_LAUNCH(map_pass<means_along>);
AITKEN_LAUNCH(learn_fields);
AITKEN_LAUNCH(map_pass<scatter_cells>);
AITKEN_LAUNCH(map_pass<gather_cells>);
AITKEN_LAUNCH(part_sums);
AITKEN_LAUNCH(component_means);
AITKEN_LAUNCH(take_means);

}  // namespace aitken::cuda
