// The kernels of batches of transport problems: every block program that cuda/ot_batch_kernels.hpp adds to
// those of cuda/ot.cu.
#include "cuda/launch.cuh"
#include "cuda/ot_batch_kernels.hpp"

namespace aitken::cuda {

#define AITKEN_LAUNCH(...) template void launch(const __VA_ARGS__&, index, void*)
#define AITKEN_LAUNCH_PRECISION(T)              \
    AITKEN_LAUNCH(small_class_0<T>);            \
    AITKEN_LAUNCH(small_class_1<T>);            \
    AITKEN_LAUNCH(small_class_2<T>);            \
    AITKEN_LAUNCH(map_pass<refuse_problem<T>>); \
    AITKEN_LAUNCH(map_pass<shift_costs<T>>)

AITKEN_LAUNCH_PRECISION(double);
AITKEN_LAUNCH_PRECISION(float);

}  // namespace aitken::cuda
