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

// Column-major matrix with many rows and few columns, `ld` elements from one column to the next.
template <class T>
struct tall {
    T* data = nullptr;
    index rows = 0, cols = 0, ld = 0;

    AITKEN_HD T* col(index j) const { return data + j * ld; }
    AITKEN_HD tall first(index count) const { return {data, rows, count, ld}; }
    AITKEN_HD tall from(index start) const { return {data + start * ld, rows, cols - start, ld}; }
    AITKEN_HD operator tall<const T>() const { return {data, rows, cols, ld}; }
};

// Borrowed pattern: row i holds indices[indptr[i] .. indptr[i + 1]).
struct pattern_view {
    index rows = 0, cols = 0;
    const index* indptr = nullptr;  // rows + 1 entries; may be null when rows = 0
    const std::int32_t* indices = nullptr;

    index nnz() const { return rows > 0 ? indptr[rows] : 0; }
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
