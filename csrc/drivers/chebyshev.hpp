// Chebyshev's iteration as steps x+ = x + momentum (x - x-) + step D^-1 (b - A x): what a grid's smoother and
// the preconditioner of the same name share. After `degree` steps the error has gone through the polynomial
// of that degree that is smallest on [lower, upper] and 1 at 0; below `lower` it is positive and below 1.
#pragma once

#include <vector>

namespace aitken::drivers {

struct relaxation_step {
    double momentum, step;
};

inline std::vector<relaxation_step> chebyshev_steps(double lower, double upper, int degree) {
    const double middle = 0.5 * (upper + lower), half = 0.5 * (upper - lower), sigma = middle / half;
    std::vector<relaxation_step> out;
    double rho = 1 / sigma;
    for (int s = 0; s < degree; ++s) {
        if (s == 0) {
            out.push_back({0.0, 1 / middle});
        } else {
            const double next = 1 / (2 * sigma - rho);
            out.push_back({next * rho, 2 * next / half});
            rho = next;
        }
    }
    return out;
}

}  // namespace aitken::drivers
