// When an iteration stops: tolerance, budget, stagnation, NaN. One home for every driver.
#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken {

// "The error did not fall by `factor` within `window` steps." NaN counts as no improvement.
class stagnation_watch {
public:
    explicit stagnation_watch(int window = 20, double factor = 10.0) : window_(window), factor_(factor) {}

    // Call once per step; true from the step on at which the window ran out.
    bool stalled(double err) {
        if (err * factor_ <= mark_ || first_) {
            first_ = false;
            mark_ = err;
            since_ = 0;
        } else {
            ++since_;
        }
        return since_ >= window_;
    }

    void restart() { first_ = true; }

private:
    int window_, since_ = 0;
    double factor_, mark_ = std::numeric_limits<double>::infinity();
    bool first_ = true;
};

class stop_test {
public:
    // Recurrences aim a little below the tolerance: the certificate recomputed at the end gets no slack.
    static constexpr double aim_factor = 0.99;

    stop_test(double tol, index maxiter, int window = 20, double factor = 10.0)
        : tol_(tol), maxiter_(maxiter), watch_(window, factor) {}

    double aim() const { return aim_factor * tol_; }
    index steps() const { return steps_; }
    bool certified(double err) const { return err <= tol_; }  // false for NaN

    // After a step that left the error `err`: how the iteration ends, or nothing while it goes on.
    std::optional<status> after_step(double err) {
        ++steps_;
        if (!std::isfinite(err)) return status::nonfinite;
        const bool stalled = watch_.stalled(err);
        if (err <= aim()) return status::converged;
        if (steps_ >= maxiter_) return status::max_iterations;
        if (stalled) return status::stagnated;
        return std::nullopt;
    }

private:
    double tol_;
    index maxiter_, steps_ = 0;
    stagnation_watch watch_;
};

}  // namespace aitken
