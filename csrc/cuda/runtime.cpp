// Which devices the CUDA runtime sees.
#include <cuda_runtime_api.h>

#include "core/api/runtime.hpp"

namespace aitken::runtime {

device_facts cuda_devices() {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess) return {count, 0, ""};
    static_cast<void>(cudaGetLastError());  // the error is reported here; it must not surface in a later call
    return {0, static_cast<int>(code), cudaGetErrorString(code)};
}

}  // namespace aitken::runtime
