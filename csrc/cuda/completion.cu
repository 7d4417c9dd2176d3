// The kernels of matrix completion: every block program that cuda/completion_kernels.hpp launches.
#include "cuda/completion_blocks.hpp"

#include "cuda/launch.cuh"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)

#define AITKEN_COMPLETION(T)                         \
    AITKEN_LAUNCH(solve_rows<T, 32, 4, 4, 16>);      \
    AITKEN_LAUNCH(solve_rows<T, 64, 4, 8, 16>);      \
    AITKEN_LAUNCH(solve_rows<T, 128, 8, 8, 16>);     \
    AITKEN_LAUNCH(solve_rows<T, 128, 8, 15, 8>);     \
    AITKEN_LAUNCH(solve_rows<T, 160, 8, 17, 8>);     \
    AITKEN_LAUNCH(cg_rows<T, 64, 2048>);             \
    AITKEN_LAUNCH(cg_rows<T, 128, 5120>);            \
    AITKEN_LAUNCH(entry_pass<T, sum_losses<T>>);     \
    AITKEN_LAUNCH(entry_pass<T, touch_loss<T>>);     \
    AITKEN_LAUNCH(entry_pass<T, keep_residuals<T>>); \
    AITKEN_LAUNCH(entry_pass<T, sample_entries>);    \
    AITKEN_LAUNCH(spread_rows<T>);                   \
    AITKEN_LAUNCH(gram_parts<T>);                    \
    AITKEN_LAUNCH(transform_rows<T>);                \
    AITKEN_LAUNCH(map_pass<row_lengths<T>>);         \
    AITKEN_LAUNCH(map_pass<clip_rows<T>>);           \
    AITKEN_LAUNCH(map_pass<over_root_degrees<T>>);   \
    AITKEN_LAUNCH(map_pass<random_rows<T>>);         \
    AITKEN_LAUNCH(map_pass<copy_design<T>>);         \
    AITKEN_LAUNCH(map_pass<copy_basis<T>>);          \
    AITKEN_LAUNCH(map_pass<pad_gram<T>>);            \
    AITKEN_LAUNCH(map_pass<copy_numbers<T>>);        \
    AITKEN_LAUNCH(map_pass<predict_places<T>>);      \
    AITKEN_LAUNCH(map_pass<load_factor<T>>);         \
    AITKEN_LAUNCH(map_pass<store_factor<T>>);        \
    AITKEN_LAUNCH(vector_pass<sum_numbers<T>>)
AITKEN_COMPLETION(float);
AITKEN_COMPLETION(double);
AITKEN_LAUNCH(solve_rows<float, 512, 8, 31, 8>);
AITKEN_LAUNCH(vector_pass<outcome_total>);
AITKEN_LAUNCH(map_pass<gram_total>);
AITKEN_LAUNCH(map_pass<check_columns>);
AITKEN_LAUNCH(map_pass<fill_with<index>>);

}  // namespace aitken::cuda
