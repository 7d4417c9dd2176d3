// What tests on a device share: the device, or exit status 77 where there is none.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/api/device_context.hpp"
#include "core/api/runtime.hpp"
#include "core/views.hpp"
#include "cuda/backend.hpp"

namespace aitken::tests {

// Before any test runs: they all need a device.
[[maybe_unused]] inline const bool have_device = [] {
    const auto facts = runtime::cuda_devices();
    if (facts.code == 0 && facts.count > 0) return true;
    std::printf("no CUDA device: error %d, %s\n", facts.code, facts.text.c_str());
    std::exit(77);
}();

// A stream of its own, and memory freed at the end.
class device {
public:
    device() {
        cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
        context_.stream = stream_;
        context_.allocate = [this](std::size_t bytes) {
            void* p = nullptr;
            cuda::check(cudaMalloc(&p, bytes), "cudaMalloc");
            blocks_.push_back(p);
            return p;
        };
    }
    ~device() {
        cudaStreamSynchronize(stream_);
        for (void* p : blocks_) cudaFree(p);
        cudaStreamDestroy(stream_);
    }
    device(const device&) = delete;
    device& operator=(const device&) = delete;

    const cuda::device_context& context() const { return context_; }
    template <class V>
    vec<V> put(const std::vector<V>& host) {
        auto* to = static_cast<V*>(context_.allocate(host.size() * sizeof(V)));
        cuda::check(
            cudaMemcpyAsync(to, host.data(), host.size() * sizeof(V), cudaMemcpyHostToDevice, stream_),
            "cudaMemcpyAsync");
        return {to, static_cast<index>(host.size())};
    }
    template <class V>
    std::vector<V> get(vec<V> from) {
        std::vector<V> host(static_cast<std::size_t>(from.size));
        cuda::check(
            cudaMemcpyAsync(host.data(), from.data, host.size() * sizeof(V), cudaMemcpyDeviceToHost, stream_),
            "cudaMemcpyAsync");
        cuda::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
        return host;
    }

private:
    cudaStream_t stream_ = nullptr;
    cuda::device_context context_;
    std::vector<void*> blocks_;
};

}  // namespace aitken::tests
