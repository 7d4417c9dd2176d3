#include "cuda/backend.hpp"

#include <cuda_runtime_api.h>

#include <mutex>
#include <stdexcept>
#include <vector>

#include "core/error.hpp"
#include "cuda/vector_blocks.hpp"

namespace aitken::cuda {

void check(int code, const char* call) {
    if (code == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // thrown here; it must not surface again in a later call
    throw cuda_error(call, code, cudaGetErrorString(static_cast<cudaError_t>(code)));
}

namespace {

cudaStream_t handle(void* stream) { return static_cast<cudaStream_t>(stream); }

// Page-locked blocks outlive the solve: locking pages costs more than a small solve. They are never given
// back, since the driver may be gone before static destructors run.
class landing_pool {
public:
    double* take(std::size_t doubles) {
        {
            const std::lock_guard lock(mutex_);
            if (!free_.empty()) {
                double* block = free_.back();
                free_.pop_back();
                return block;
            }
        }
        void* block = nullptr;
        check(cudaHostAlloc(&block, doubles * sizeof(double), cudaHostAllocPortable), "cudaHostAlloc");
        return static_cast<double*>(block);
    }
    void give(double* block) noexcept {
        try {
            const std::lock_guard lock(mutex_);
            free_.push_back(block);
        } catch (...) {  // no memory for the list: the block is lost, 512 bytes
        }
    }

private:
    std::mutex mutex_;
    std::vector<double*> free_;
};

landing_pool& landings() {
    static auto* pool = new landing_pool;
    return *pool;
}

}  // namespace

device_scope::device_scope(int device) {
    check(cudaGetDevice(&outer_), "cudaGetDevice");
    if (outer_ == device) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
}

device_scope::~device_scope() {
    if (changed_) static_cast<void>(cudaSetDevice(outer_));
}

backend::backend(const device_context& context, interrupt& signals)
    : context_(context), device_(context.device), signals_(signals) {
    scalars_ = allocate<double>(max_scalars);
    check(cudaMemsetAsync(scalars_.data, 0, max_scalars * sizeof(double), handle(context_.stream)),
          "cudaMemsetAsync");
    landing_ = landings().take(max_scalars);
}

backend::~backend() { landings().give(landing_); }

scalar_ref backend::scalar() {
    if (used_scalars_ == max_scalars) throw std::length_error("a solver asked for too many device scalars");
    return scalar_ref(scalars_.data + used_scalars_++);
}

std::size_t backend::shared_limit() const {
    int bytes = 0;
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, context_.device),
          "cudaDeviceGetAttribute");
    return static_cast<std::size_t>(bytes);
}

void backend::fill(vec<double> x, double value) {
    launch(map_pass(fill_with<double>{x.data, value}, x.size));
}

void backend::copy(vec<const double> from, vec<double> to) {
    ++counts_.launches;
    check(cudaMemcpyAsync(to.data, from.data, sizeof(double) * static_cast<std::size_t>(from.size),
                          cudaMemcpyDeviceToDevice, handle(context_.stream)),
          "cudaMemcpyAsync");
}

void backend::dot(vec<const double> x, vec<const double> y, scalar_ref out) {
    launch(vector_pass(dot_product(x.data, y.data, out.address(), x.size)));
}

void backend::upload_bytes(const void* host, void* to, std::size_t bytes) {
    ++counts_.uploads;
    // From pageable memory: the runtime has taken the bytes when this returns.
    check(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, handle(context_.stream)),
          "cudaMemcpyAsync");
}

void backend::download_bytes(const void* from, void* host, std::size_t bytes) {
    ++counts_.reads;
    check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, handle(context_.stream)),
          "cudaMemcpyAsync");
    wait();
}

void backend::read_many(std::span<const scalar_ref> refs, double* out) {
    // All of them: 512 bytes cost what 8 do, and no kernel has to gather.
    download_bytes(scalars_.data, landing_, max_scalars * sizeof(double));
    for (const scalar_ref& r : refs) *out++ = landing_[r.address() - scalars_.data];
}

void backend::wait() { check(cudaStreamSynchronize(handle(context_.stream)), "cudaStreamSynchronize"); }

static_assert(Backend<backend>);

}  // namespace aitken::cuda
