// When an iteration stops: what it aims at, and when it has stalled. One home for every driver.
#pragma once

#include <limits>

namespace aitken {

// Recurrences aim a little below the tolerance: the certificate recomputed at the end gets no slack.
inline constexpr double inner_aim = 0.99;

// "The error did not fall by `factor` within `window` steps." NaN counts as no improvement.
class stagnation_watch {
public:
    explicit stagnation_watch(int window = 20, double factor = 10.0) : window_(window), factor_(factor) {}

    // Call once per step; true from the step on at which the window ran out. A step of weight w < 1 uses
    // up w of the window (one that makes progress which the error does not show yet).
    bool stalled(double err, double weight = 1.0) {
        if (err * factor_ <= mark_ || first_) {
            first_ = false;
            mark_ = err;
            used_ = 0;
        } else {
            used_ += weight;
        }
        return used_ >= window_;
    }

    void restart() { first_ = true; }

private:
    int window_;
    double used_ = 0, factor_, mark_ = std::numeric_limits<double>::infinity();
    bool first_ = true;
};

}  // namespace aitken
