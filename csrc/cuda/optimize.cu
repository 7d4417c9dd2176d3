// The kernels of batches of constrained problems: every block program that cuda/optimize_kernels.hpp
// launches.
#include "cuda/optimize_blocks.hpp"

#include "cuda/launch.cuh"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

#define AITKEN_SYSTEMS(Source)                        \
    AITKEN_LAUNCH(solve_kkt_systems<Source, 32, 32>); \
    AITKEN_LAUNCH(solve_kkt_systems<Source, 64, 64>); \
    AITKEN_LAUNCH(solve_kkt_systems<Source, 96, 96>); \
    AITKEN_LAUNCH(solve_kkt_systems<Source, 128, 0>)
AITKEN_SYSTEMS(listed_systems);
AITKEN_SYSTEMS(pending_systems);
AITKEN_LAUNCH(map_pass<begin_problems>);
AITKEN_LAUNCH(map_pass<copy_points>);
AITKEN_LAUNCH(map_pass<copy_hessian_points>);
AITKEN_LAUNCH(map_pass<judge_problems>);
AITKEN_LAUNCH(map_pass<prepare_problems>);
AITKEN_LAUNCH(map_pass<finish_problems>);
AITKEN_LAUNCH(map_pass<note_rows>);
AITKEN_LAUNCH(map_pass<conclude_problems>);

}  // namespace aitken::cuda
