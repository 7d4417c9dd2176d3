// Padded vectors of a grid's level on the CPU: memory with zeros around, and walks over rows.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "drivers/multigrid.hpp"

namespace aitken::cpu {

using drivers::multigrid::level_shape;

// An array for one padded vector, with its guards; all zero at first.
template <class T>
class padded {
public:
    padded() = default;
    explicit padded(const level_shape& s) {
        // The first cell is aligned to a cache line.
        const index front = (s.guard() + 63) / 64 * 64, all = front + s.size() + s.guard();
        block_.reset(static_cast<T*>(::operator new(sizeof(T) * static_cast<std::size_t>(all), line)));
        std::fill_n(block_.get(), all, T(0));
        first_ = block_.get() + front;
        bytes_ = all * static_cast<index>(sizeof(T));
    }
    T* data() { return first_; }
    const T* data() const { return first_; }
    T& operator[](index i) { return first_[i]; }
    const T& operator[](index i) const { return first_[i]; }
    index bytes() const { return bytes_; }

private:
    static constexpr std::align_val_t line{64};
    struct release {
        void operator()(T* p) const { ::operator delete(p, line); }
    };
    std::unique_ptr<T, release> block_;
    T* first_ = nullptr;
    index bytes_ = 0;
};

inline void set_distances(aitken_grid_span& at, const level_shape& s, const std::array<bool, 3>& periodic,
                          int axis, index position) {
    const index stride = axis == 0 ? s.plane : axis == 1 ? s.row : 1;
    const index across = (s.n[axis] - 1) * stride;
    // Beyond the box lie zeros.
    at.lo[axis] = position == 0 && periodic[axis] ? across : -stride;
    at.hi[axis] = position == s.n[axis] - 1 && periodic[axis] ? -across : stride;
}

// Calls fn(span) for spans that cover rows first .. last - 1; where nothing wraps around that is one span,
// pads included.
template <class Fn>
void for_spans(const level_shape& s, const std::array<bool, 3>& periodic, index first, index last, Fn&& fn) {
    aitken_grid_span at;
    if (!periodic[0] && !periodic[1] && !periodic[2]) {
        for (int a = 0; a < 3; ++a) set_distances(at, s, periodic, a, 0);
        at.first = s.row_begin(first);
        at.last = s.row_begin(last - 1) + s.n[2];
        return fn(at);
    }
    for (index r = first; r < last; ++r) {
        set_distances(at, s, periodic, 0, r / s.n[1]);
        set_distances(at, s, periodic, 1, r % s.n[1]);
        const index begin = s.row_begin(r);
        const index ends = periodic[2] ? 1 : 0;
        const auto part = [&](index from, index to) {
            if (from >= to) return;
            at.first = begin + from;
            at.last = begin + to;
            fn(at);
        };
        if (ends > 0) {
            set_distances(at, s, periodic, 2, 0);
            part(0, 1);
        }
        at.lo[2] = -1;
        at.hi[2] = 1;
        part(ends, s.n[2] - ends);
        if (ends > 0 && s.n[2] > 1) {
            set_distances(at, s, periodic, 2, s.n[2] - 1);
            part(s.n[2] - 1, s.n[2]);
        }
    }
}

// Calls fn(first row, last row) for shares of the rows that depend on the shape alone.
template <class Fn>
void for_row_chunks(const level_shape& s, Fn&& fn) {
    constexpr index cells_of_chunk = 16384;
    const index rows = s.rows();
    const index share = std::max<index>(cells_of_chunk / s.row, 1), chunks = (rows + share - 1) / share;
    const auto run = [&](index chunk) { fn(chunk * share, std::min((chunk + 1) * share, rows)); };
    if (chunks < 3) {  // too little for a second thread
        for (index chunk = 0; chunk < chunks; ++chunk) run(chunk);
        return;
    }
    parallel_chunks(chunks, run);
}

// Adds in an order that depends on the shape alone.
inline double padded_dot(const level_shape& s, const double* x, const double* y) {
    constexpr index share = 16384, group = 64;
    const index n = s.size(), chunks = (n + share - 1) / share;
    double sum = 0;
    for (index g = 0; g < chunks; g += group) {
        std::array<double, group> partial{};
        const index here = std::min(group, chunks - g);
        parallel_chunks(here, [&](index k) {
            const double* row = x + (g + k) * share;
            simd().dot_f64(&row, 1, y + (g + k) * share, std::min(share, n - (g + k) * share), &partial[k]);
        });
        for (index k = 0; k < here; ++k) sum += partial[k];
    }
    return sum;
}

}  // namespace aitken::cpu
