// The transport solver's kernels: every block program that cuda/ot_kernels.hpp launches.
#include "cuda/launch.cuh"
#include "cuda/ot_blocks.hpp"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

// Passes over the matrix, with K stored and recomputed.
#define AITKEN_LAUNCH_ENTRIES(T, Entries)                              \
    AITKEN_LAUNCH(tile_pass<Entries, weighted_sums<true, false>>);     \
    AITKEN_LAUNCH(tile_pass<Entries, weighted_sums<false, true>>);     \
    AITKEN_LAUNCH(tile_pass<Entries, weighted_sums<true, true>>);      \
    AITKEN_LAUNCH(tile_pass<Entries, weighted_cost<cost_entries<T>>>); \
    AITKEN_LAUNCH(tile_pass<Entries, dropped_mass<true>>);             \
    AITKEN_LAUNCH(tile_pass<Entries, dropped_mass<false>>);            \
    AITKEN_LAUNCH(histogram_pass<Entries>);                            \
    AITKEN_LAUNCH(compact_pass<Entries, false>);                       \
    AITKEN_LAUNCH(compact_pass<Entries, true>);                        \
    AITKEN_LAUNCH(largest_pass<Entries>)

#define AITKEN_LAUNCH_PRECISION(T)                                                               \
    AITKEN_LAUNCH_ENTRIES(T, stored_entries<T>);                                                 \
    AITKEN_LAUNCH_ENTRIES(T, computed_entries<cost_entries<T>>);                                 \
    AITKEN_LAUNCH(tile_pass<computed_entries<cost_entries<T>>, store_entries<T, true, true>>);   \
    AITKEN_LAUNCH(tile_pass<computed_entries<cost_entries<T>>, store_entries<T, false, true>>);  \
    AITKEN_LAUNCH(tile_pass<computed_entries<cost_entries<T>>, store_entries<T, false, false>>); \
    AITKEN_LAUNCH(tile_pass<cost_entries<T>, log_sum_exp<true>>);                                \
    AITKEN_LAUNCH(tile_pass<cost_entries<T>, log_sum_exp<false>>);                               \
    AITKEN_LAUNCH(tile_pass<cost_entries<T>, inspect_entries>)

AITKEN_LAUNCH_PRECISION(double);
AITKEN_LAUNCH_PRECISION(float);

AITKEN_LAUNCH(finish_pass<plain_sum, store_scaled>);
AITKEN_LAUNCH(finish_pass<plain_sum, scale_rows>);
AITKEN_LAUNCH(finish_pass<plain_sum, schur_weights>);
AITKEN_LAUNCH(finish_pass<plain_sum, subtract_scaled>);
AITKEN_LAUNCH(finish_pass<plain_sum, solve_columns>);
AITKEN_LAUNCH(finish_pass<log_sums, close_log_sum>);
AITKEN_LAUNCH(finish_pass<row_facts_sum, store_total<row_facts>>);
AITKEN_LAUNCH(finish_pass<int_sum, store_total<int>>);

AITKEN_LAUNCH(map_pass<fill_with<double>>);
AITKEN_LAUNCH(map_pass<fill_with<int>>);
AITKEN_LAUNCH(map_pass<product_of>);
AITKEN_LAUNCH(map_pass<mask_bins>);
AITKEN_LAUNCH(map_pass<absorb_scalings>);
AITKEN_LAUNCH(map_pass<trial_steps>);
AITKEN_LAUNCH(map_pass<accept_steps>);
AITKEN_LAUNCH(map_pass<limits_of_mass>);
AITKEN_LAUNCH(map_pass<inverse_root>);
AITKEN_LAUNCH(map_pass<start_bisection>);
AITKEN_LAUNCH(map_pass<bisection_step>);
AITKEN_LAUNCH(map_pass<soft_diagonal>);
AITKEN_LAUNCH(map_pass<row_offsets>);

AITKEN_LAUNCH(vector_pass<dot_product>);
AITKEN_LAUNCH(vector_pass<close_schur>);
AITKEN_LAUNCH(vector_pass<gradient_norm>);
AITKEN_LAUNCH(vector_pass<cg_step>);
AITKEN_LAUNCH(vector_pass<cg_precondition>);
AITKEN_LAUNCH(vector_pass<cg_turn>);
AITKEN_LAUNCH(vector_pass<cg_begin>);
AITKEN_LAUNCH(vector_pass<rescale_columns>);
AITKEN_LAUNCH(vector_pass<measure_rows>);
AITKEN_LAUNCH(vector_pass<step_slope>);
AITKEN_LAUNCH(vector_pass<trial_measure>);
AITKEN_LAUNCH(vector_pass<aim_targets>);
AITKEN_LAUNCH(vector_pass<inspect_totals>);

}  // namespace aitken::cuda
