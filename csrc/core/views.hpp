// Non-owning views of arrays. Plain data, usable on host and device; `index` is 64-bit everywhere.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define AITKEN_HD __host__ __device__ __forceinline__
#else
#define AITKEN_HD inline
#endif

namespace aitken {

using index = std::int64_t;

// Contiguous vector in the memory of whichever backend made it.
template <class T>
struct vec {
    T* data = nullptr;
    index size = 0;

    AITKEN_HD T& operator[](index i) const { return data[i]; }
    AITKEN_HD operator vec<const T>() const { return {data, size}; }
    AITKEN_HD vec slice(index first, index count) const { return {data + first, count}; }
};

// Row-major matrix, `ld` elements from one row to the next.
template <class T>
struct matrix {
    T* data = nullptr;
    index rows = 0, cols = 0, ld = 0;

    AITKEN_HD T* row(index i) const { return data + i * ld; }
    AITKEN_HD operator matrix<const T>() const { return {data, rows, cols, ld}; }
};

// One number that lives in a backend's memory. Drivers pass it on; only a backend may look inside,
// so that every read by the host is a visible `read_many`.
class scalar_ref {
public:
    scalar_ref() = default;
    explicit scalar_ref(double* address) : address_(address) {}
    double* address() const { return address_; }  // for kernels of the owning backend only

private:
    double* address_ = nullptr;
};

}  // namespace aitken
