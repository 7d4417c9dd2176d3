// Ctrl-C for long native loops: `poll()` is cheap, and asks the hook at most every 50 ms.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "core/error.hpp"

namespace aitken {

class interrupt {
public:
    using hook = std::function<bool()>;  // true: a signal is pending

    interrupt() = default;
    explicit interrupt(hook pending) : pending_(std::move(pending)) {}

    // Throws `interrupted` when a signal is pending. Call from the driver's thread only.
    void poll() {
        if (!pending_) return;
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        if (pending_()) throw interrupted();
    }

private:
    hook pending_;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace aitken
