// Where a call on a CUDA device runs.
#pragma once

#include <cstddef>
#include <functional>

namespace aitken::cuda {

// `allocate(bytes)` returns device memory, aligned to 256 bytes, that its owner keeps until the call is over
// and frees in the order of the stream; it throws where there is none.
struct device_context {
    int device = 0;
    void* stream = nullptr;  // cudaStream_t
    std::function<void*(std::size_t)> allocate;
};

}  // namespace aitken::cuda
