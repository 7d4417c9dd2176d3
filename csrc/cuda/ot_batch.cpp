// Batches of transport problems on CUDA devices.
#include <cstddef>
#include <utility>
#include <vector>

#include "core/api/ot_batch_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/ot_batch_kernels.hpp"

namespace aitken::cuda::ot {

namespace {

// Hands the caller's memory out again for problem after problem, which one stream works on in order.
class recycled_memory {
public:
    explicit recycled_memory(const device_context& outer) : outer_(outer) {}

    void start_over() { taken_ = 0; }
    void* take(std::size_t bytes) {
        for (std::size_t k = taken_; k < blocks_.size(); ++k) {
            if (blocks_[k].second < bytes) continue;
            std::swap(blocks_[k], blocks_[taken_]);
            return blocks_[taken_++].first;
        }
        blocks_.emplace_back(outer_.allocate(bytes), bytes);
        std::swap(blocks_.back(), blocks_[taken_]);
        return blocks_[taken_++].first;
    }

private:
    const device_context& outer_;
    std::vector<std::pair<void*, std::size_t>> blocks_;  // the first taken_ are in use
    std::size_t taken_ = 0;
};

}  // namespace

template <class T>
std::vector<aitken::ot::batch_report> solve_batch(const device_context& where,
                                                  const std::vector<aitken::ot::batch_problem<T>>& problems,
                                                  const aitken::ot::options& options, double loose,
                                                  interrupt& signals) {
    backend be(where, signals);
    recycled_memory memory(where);
    device_context own = where;
    own.allocate = [&](std::size_t bytes) { return memory.take(bytes); };
    const auto fresh = [&](auto&& fn) {
        memory.start_over();
        backend one(own, signals);
        fn(one);
    };
    return cuda::solve_batch<T>(be, fresh, problems, options, loose);
}

#define AITKEN_INSTANTIATE(T)                                                                                \
    template std::vector<aitken::ot::batch_report> solve_batch(                                              \
        const device_context&, const std::vector<aitken::ot::batch_problem<T>>&, const aitken::ot::options&, \
        double, interrupt&);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(float)
#undef AITKEN_INSTANTIATE

}  // namespace aitken::cuda::ot
