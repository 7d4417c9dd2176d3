// A Backend that runs the CUDA kernels' bodies on the CPU and counts as a GPU would: the driver, the CUDA
// kernel set and its block programs work together without a GPU. New memory holds NaN.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "block_runner.hpp"
#include "core/backend.hpp"
#include "cuda/ot_kernels.hpp"

namespace aitken::tests {

class block_backend {
public:
    static constexpr int check_every = 10;
    static constexpr double sparse_pays = 0;

    explicit block_backend(interrupt& signals, unsigned seed = 1) : signals_(signals), runner_(seed) {}

    template <class T>
    vec<T> allocate(index n) {
        const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(n > 0 ? n : 1);
        bytes_ += bytes;
        blocks_.push_back(std::make_unique<unsigned char[]>(bytes));
        std::memset(blocks_.back().get(), 0xFF, bytes);
        return {reinterpret_cast<T*>(blocks_.back().get()), n};
    }
    scalar_ref scalar() {
        const scalar_ref s(allocate<double>(1).data);
        *s.address() = 0;
        return s;
    }

    void fill(vec<double> x, double value) {
        launch(cuda::map_pass(cuda::fill_with<double>{x.data, value}, x.size));
    }
    void copy(vec<const double> from, vec<double> to) {
        ++counts_.launches;
        std::memcpy(to.data, from.data, sizeof(double) * static_cast<std::size_t>(from.size));
    }
    void dot(vec<const double> x, vec<const double> y, scalar_ref out) {
        launch(cuda::vector_pass(cuda::dot_product(x.data, y.data, out.address(), x.size)));
    }
    template <class T>
    void upload(const T* host, vec<T> to) {
        ++counts_.uploads;
        std::memcpy(to.data, host, sizeof(T) * static_cast<std::size_t>(to.size));
    }
    template <class T>
    void download(vec<const T> from, T* host) {
        ++counts_.reads;
        std::memcpy(host, from.data, sizeof(T) * static_cast<std::size_t>(from.size));
    }
    void read_many(std::span<const scalar_ref> refs, double* out) {
        ++counts_.reads;
        for (const scalar_ref& r : refs) *out++ = *r.address();
    }

    template <class F>
    void host_chunks(index count, F&& run) {
        for (index chunk = 0; chunk < count; ++chunk) run(chunk);
    }

    template <cuda::BlockProgram P>
    void launch(const P& program) {
        ++counts_.launches;
        runner_.run(program, program.blocks());
    }

    std::size_t bytes() const { return bytes_; }  // of all memory asked for
    std::size_t shared_limit() const { return shared_limit_; }
    void limit_shared(std::size_t bytes) { shared_limit_ = bytes; }
    traffic& counts() { return counts_; }
    interrupt& interrupts() { return signals_; }

private:
    interrupt& signals_;
    block_runner runner_;
    traffic counts_;
    std::size_t bytes_ = 0, shared_limit_ = 160 * 1024;
    std::vector<std::unique_ptr<unsigned char[]>> blocks_;
};

static_assert(Backend<block_backend>);
static_assert(drivers::ot::OtKernels<cuda::ot_kernels<block_backend, double>>);
static_assert(drivers::ot::OtKernels<cuda::ot_kernels<block_backend, float>>);

}  // namespace aitken::tests
