// Losses that stand for the square of a residual in matrix completion, and the squares that bound them.
#pragma once

#include <cmath>

#include "core/api/completion.hpp"
#include "core/views.hpp"

namespace aitken::completion {

// w of the square that touches the loss from above at r, over w of the entry.
AITKEN_HD double touching_weight(loss kind, double r, double delta) {
    const double size = r < 0 ? -r : r;
    if (kind == loss::huber) return size <= delta ? 1.0 : delta / size;
    if (kind == loss::l1) return 1 / (2 * (size < delta ? delta : size));
    return 1;
}

AITKEN_HD double loss_of(loss kind, double r, double delta) {
    const double size = r < 0 ? -r : r;
    if (kind == loss::huber && size > delta) return 2 * delta * size - delta * delta;
    if (kind == loss::l1) return size >= delta ? size : (size * size / delta + delta) / 2;
    return r * r;
}

}  // namespace aitken::completion
