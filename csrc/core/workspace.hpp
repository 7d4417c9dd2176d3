// Vectors of a solve, cut once from one block of a backend's memory.
//
//   workspace w(block, bytes);
//   const auto r = w.take<double>(n), z = w.take<double>(n);
//
// Only addresses are computed, so the block may be device memory. Nothing is freed singly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>

#include "core/views.hpp"

namespace aitken {

class workspace {
public:
    static constexpr std::size_t alignment = 64;  // a cache line, and the widest SIMD load

    workspace(void* block, std::size_t bytes)
        : begin_(reinterpret_cast<std::uintptr_t>(block)), end_(begin_ + bytes), next_(begin_) {}

    // Bytes to reserve for one `take<T>(n)` wherever the block starts. Throws std::bad_alloc if that
    // is no size at all.
    template <class T>
    static std::size_t bytes_for(index n) {
        constexpr auto most = (std::numeric_limits<std::size_t>::max() / 2 - alignment) / sizeof(T);
        if (n < 0 || static_cast<std::size_t>(n) > most) throw std::bad_alloc();
        return static_cast<std::size_t>(n) * sizeof(T) + alignment - 1;
    }

    // The next n elements, aligned, contents undefined. Throws std::bad_alloc when the block is spent;
    // the workspace is then as before.
    template <class T>
    vec<T> take(index n) {
        static_assert(alignof(T) <= alignment);
        const std::size_t need = bytes_for<T>(n) - (alignment - 1);
        const std::uintptr_t start = (next_ + alignment - 1) / alignment * alignment;
        if (start > end_ || need > end_ - start) throw std::bad_alloc();
        next_ = start + need;
        return {reinterpret_cast<T*>(start), n};
    }

    std::size_t used() const { return next_ - begin_; }
    std::size_t capacity() const { return end_ - begin_; }
    void reset() { next_ = begin_; }  // hands out the same addresses again

private:
    std::uintptr_t begin_, end_, next_;
};

}  // namespace aitken
