// The Krylov solvers' kernels: every block program that cuda/krylov_kernels.hpp launches.
#include "cuda/krylov_blocks.hpp"
#include "cuda/launch.cuh"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

#define AITKEN_LAUNCH_STORED(B)                  \
    AITKEN_LAUNCH(csr_pass<B>);                  \
    AITKEN_LAUNCH(basis_dots<B, false>);         \
    AITKEN_LAUNCH(basis_dots<B, true>);          \
    AITKEN_LAUNCH(basis_subtract<B, false>);     \
    AITKEN_LAUNCH(basis_subtract<B, true>);      \
    AITKEN_LAUNCH(basis_append<B>);              \
    AITKEN_LAUNCH(gram_pass<B>);                 \
    AITKEN_LAUNCH(mix_pass<B, B, 8>);            \
    AITKEN_LAUNCH(mix_pass<B, double, 1>);       \
    AITKEN_LAUNCH(row_map<store_rows<B>>);       \
    AITKEN_LAUNCH(map_pass<load_vector<B>>);     \
    AITKEN_LAUNCH(row_map<scale_by_inverse<B>>); \
    AITKEN_LAUNCH(row_map<multiply_blocks<B>>);  \
    AITKEN_LAUNCH(row_map<polynomial_start<B>>); \
    AITKEN_LAUNCH(row_map<polynomial_step<B>>);  \
    AITKEN_LAUNCH(solve_levels<B>)

AITKEN_LAUNCH_STORED(double);
AITKEN_LAUNCH_STORED(float);

AITKEN_LAUNCH(strip_pass<subtract_from_rhs>);
AITKEN_LAUNCH(map_pass<sum_over_strips>);
AITKEN_LAUNCH(count_differences);
AITKEN_LAUNCH(row_map<add_rows>);
AITKEN_LAUNCH(first_unusable);
AITKEN_LAUNCH(row_map<invert_diagonals>);
AITKEN_LAUNCH(row_map<clear_and_fill_blocks>);
AITKEN_LAUNCH(invert_blocks);
AITKEN_LAUNCH(row_map<power_start>);
AITKEN_LAUNCH(row_map<power_step>);
AITKEN_LAUNCH(strip_pass<power_length>);
AITKEN_LAUNCH(strip_pass<row_bound>);
AITKEN_LAUNCH(row_map<load_factors>);
AITKEN_LAUNCH(eliminate_levels);
AITKEN_LAUNCH(row_map<pivots_by_row>);

}  // namespace aitken::cuda
