// The CUDA backend: the caller's device, stream and allocator. Compiles with the host compiler alone.
//
// Everything is queued on the caller's stream; nothing synchronises the device or touches the default
// stream unless the caller's is that. Scalars live in one block of device memory, so that reading any
// number of them is one small copy and one wait for the stream.
#pragma once

#include <cstddef>
#include <span>

#include "core/api/device_context.hpp"
#include "core/backend.hpp"
#include "core/workspace.hpp"
#include "cuda/program.hpp"

namespace aitken::cuda {

// Throws cuda_error if `code` is not cudaSuccess.
void check(int code, const char* call);

// Starts `blocks` blocks of a program; defined in cuda/launch.cuh, instantiated in the .cu files.
template <BlockProgram P>
void launch(const P& program, index blocks, void* stream);

// The thread's current device, for the length of a call.
class device_scope {
public:
    explicit device_scope(int device);
    ~device_scope();
    device_scope(const device_scope&) = delete;
    device_scope& operator=(const device_scope&) = delete;

private:
    int outer_ = 0;
    bool changed_ = false;
};

class backend {
public:
    // A read stalls the queue for some 10 us, a Sinkhorn iteration at n = m = 2000 takes about 30: looking at
    // every tenth costs a few per cent and runs at most nine iterations too many.
    static constexpr int check_every = 10;
    // A CG iteration on the host reads its sparse plan at 20 GB/s, a sweep here the whole one at 2 to 3 TB/s,
    // and getting the plan there costs three reads.
    static constexpr double sparse_pays = 0;

    backend(const device_context& context, interrupt& signals);
    ~backend();
    backend(const backend&) = delete;
    backend& operator=(const backend&) = delete;

    template <class T>
    vec<T> allocate(index n) {
        const std::size_t bytes = workspace::bytes_for<T>(n);
        if (bytes >= slab_bytes) return new_block(bytes).template take<T>(n);
        if (bytes > slab_.capacity() - slab_.used()) slab_ = new_block(slab_bytes);
        return slab_.take<T>(n);
    }
    scalar_ref scalar();

    void fill(vec<double> x, double value);
    void copy(vec<const double> from, vec<double> to);
    void dot(vec<const double> x, vec<const double> y, scalar_ref out);

    // Host memory may be reused when upload returns, and is complete when download returns.
    template <class T>
    void upload(const T* host, vec<T> to) {
        upload_bytes(host, to.data, sizeof(T) * static_cast<std::size_t>(to.size));
    }
    template <class T>
    void download(vec<const T> from, T* host) {
        download_bytes(from.data, host, sizeof(T) * static_cast<std::size_t>(from.size));
    }
    void read_many(std::span<const scalar_ref> refs, double* out);

    // Serial: with sparse_pays = 0 no driver has host work worth a thread.
    template <class F>
    void host_chunks(index count, F&& run) {
        for (index chunk = 0; chunk < count; ++chunk) run(chunk);
    }

    template <BlockProgram P>
    void launch(const P& program) {
        const index blocks = program.blocks();
        if (blocks == 0) return;
        ++counts_.launches;
        cuda::launch(program, blocks, context_.stream);
    }

    // Bytes of shared memory that a block may ask for.
    std::size_t shared_limit() const;

    traffic& counts() { return counts_; }
    interrupt& interrupts() { return signals_; }

private:
    static constexpr int max_scalars = 64;
    static constexpr std::size_t slab_bytes = std::size_t{1} << 20;  // the pool is asked once, not per vector

    workspace new_block(std::size_t bytes) { return {context_.allocate(bytes), bytes}; }
    void upload_bytes(const void* host, void* to, std::size_t bytes);
    void download_bytes(const void* from, void* host, std::size_t bytes);
    void wait();

    const device_context& context_;
    device_scope device_;
    interrupt& signals_;
    traffic counts_;
    workspace slab_{nullptr, 0};
    vec<double> scalars_;
    int used_scalars_ = 0;
    double* landing_ = nullptr;  // page-locked room for the scalars
};

}  // namespace aitken::cuda
