// The kernels of transport between clouds of points: those of cuda/ot.cu that see costs, which here are
// formed from coordinates.
#include "cuda/launch.cuh"
#include "cuda/ot_blocks.hpp"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

#define AITKEN_LAUNCH_POINTS(Source)                                                               \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, weighted_sums<true, false>>);                \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, weighted_sums<false, true>>);                \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, weighted_sums<true, true>>);                 \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, weighted_cost<Source>>);                     \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, pulled_rows<Source>>);                       \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, dropped_mass<true>>);                        \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, dropped_mass<false>>);                       \
    AITKEN_LAUNCH(histogram_pass<computed_entries<Source>>);                                       \
    AITKEN_LAUNCH(compact_pass<computed_entries<Source>, false>);                                  \
    AITKEN_LAUNCH(compact_pass<computed_entries<Source>, true>);                                   \
    AITKEN_LAUNCH(largest_pass<computed_entries<Source>>);                                         \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, store_entries<double, true, true>>);         \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, store_entries<double, false, true>>);        \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source>, store_entries<double, false, false>>);       \
    AITKEN_LAUNCH(tile_pass<computed_entries<Source, float>, store_entries<float, false, false>>); \
    AITKEN_LAUNCH(tile_pass<Source, log_sum_exp<true>>);                                           \
    AITKEN_LAUNCH(tile_pass<Source, log_sum_exp<false>>);                                          \
    AITKEN_LAUNCH(tile_pass<stored_entries<double>, weighted_cost<Source>>);                       \
    AITKEN_LAUNCH(tile_pass<stored_entries<double>, pulled_rows<Source>>)

AITKEN_LAUNCH_POINTS(point_entries<3>);
AITKEN_LAUNCH_POINTS(point_entries<0>);

AITKEN_LAUNCH(map_pass<spread_column>);

}  // namespace aitken::cuda
