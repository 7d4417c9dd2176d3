// The CPU backend: host memory, level-1 work in fixed-order loops. The kernels that matter are in
// cpu/<stem>.cpp; vectors here have n + m entries where those touch n m.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <span>

#include "core/backend.hpp"
#include "cpu/threads.hpp"

namespace aitken::cpu {

class backend {
public:
    static constexpr int check_every = 1;        // a read is free
    static constexpr double sparse_pays = 0.12;  // a gathered entry takes about ten times a streamed one

    explicit backend(interrupt& signals) : signals_(signals) {}

    template <class T>
    vec<T> allocate(index n) {
        // 64-byte aligned, so that vector loads of whole rows do not straddle cache lines.
        void* p = ::operator new(sizeof(T) * static_cast<std::size_t>(std::max<index>(n, 1)), alignment);
        blocks_.emplace_back(p);
        return {static_cast<T*>(p), n};
    }
    scalar_ref scalar() { return scalar_ref(&scalars_.emplace_back(0.0)); }

    void fill(vec<double> x, double value) {
        launched();
        std::fill_n(x.data, x.size, value);
    }
    void copy(vec<const double> from, vec<double> to) {
        launched();
        std::copy_n(from.data, from.size, to.data);
    }
    void dot(vec<const double> x, vec<const double> y, scalar_ref out) {
        launched();
        double sum = 0;
        for (index i = 0; i < x.size; ++i) sum += x[i] * y[i];
        *out.address() = sum;
    }
    template <class T>
    void upload(const T* host, vec<T> to) {
        ++counts_.uploads;
        std::copy_n(host, to.size, to.data);
    }
    template <class T>
    void download(vec<const T> from, T* host) {
        ++counts_.reads;
        std::copy_n(from.data, from.size, host);
    }
    void read_many(std::span<const scalar_ref> refs, double* out) {
        ++counts_.reads;
        for (const scalar_ref& r : refs) *out++ = *r.address();
    }

    template <class F>
    void host_chunks(index count, F&& fn) {
        parallel_chunks(count, fn);
    }

    void launched() { ++counts_.launches; }
    traffic& counts() { return counts_; }
    interrupt& interrupts() { return signals_; }

private:
    static constexpr std::align_val_t alignment{64};
    struct release {
        void operator()(void* p) const { ::operator delete(p, alignment); }
    };

    std::deque<std::unique_ptr<void, release>> blocks_;
    std::deque<double> scalars_;  // a deque: addresses stay
    interrupt& signals_;
    traffic counts_;
};

static_assert(Backend<backend>);

}  // namespace aitken::cpu
