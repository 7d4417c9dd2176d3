// A direction network behind a Python handle.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "core/api/convolution.hpp"

namespace aitken::bindings {

class network_handle {
public:
    explicit network_handle(std::unique_ptr<cpu::convolution::network> network) : net_(std::move(network)) {}

    const cpu::convolution::network& look() const { return *net_; }
    // Fn on the network while nobody else applies it.
    template <class Fn>
    void use(Fn&& fn) {
        const std::lock_guard mine(mutex_);
        fn(*net_);
    }
    // A map on the padded vectors of a grid, with fields of its own.
    std::unique_ptr<linear_map<double>> map(std::shared_ptr<const cpu::multigrid::poisson_grid> grid) const {
        return cpu::convolution::make_network_map(net_->clone(), std::move(grid));
    }

private:
    std::unique_ptr<cpu::convolution::network> net_;
    std::mutex mutex_;
};

}  // namespace aitken::bindings
