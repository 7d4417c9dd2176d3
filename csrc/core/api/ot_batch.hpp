// Many transport problems at once: of one size or of many, each with its own cost, weights and
// regularisation, its own status, and no influence on the others. `<backend>::ot::solve_batch` below exists
// for float and double costs.
#pragma once

#include <string>
#include <vector>

#include "core/api/ot.hpp"
#include "core/interrupt.hpp"
#include "core/views.hpp"

namespace aitken::ot {

// Arrays live where the backend computes; the caller's are not checked, the solver does it. Potentials are
// those of the plan P_ij = a_i b_j exp((f_i + g_j - C_ij) / reg) for weights of mass 1, in the gauge
// a.f = b.g where the problem is balanced; finite also where a bin has no mass.
template <class T>
struct batch_problem {
    matrix<const T> cost;    // +inf: a forbidden pair
    vec<const double> a, b;  // weights of any mass; no data: uniform with mass 1
    double reg = 0;
    vec<double> f, g;  // start where options.warm, and solution
    matrix<T> plan;    // of mass 1 (balanced); no data: not wanted
};

// A problem that cannot be solved has status bad_input, a detail that names what is wrong, NaN for its
// numbers and zeros for its plan.
struct batch_report : report {
    double mass_a = 1, mass_b = 1;  // of the weights as given
    double range = 0;               // largest minus smallest finite cost
    double offset = 0;  // taken off every cost while solving: their common part, where it is large
    double value = 0;  // <C, P> + reg KL(P | a b^T) + prices of the marginals, by duality; mass 1 if balanced
};

}  // namespace aitken::ot

namespace aitken::cpu::ot {

// One problem per thread, largest first; those of 2^20 entries and more one after another on all threads.
// `loose`: relative difference of masses that is rounding. `options.reg` counts nothing.
template <class T>
std::vector<aitken::ot::batch_report> solve_batch(const std::vector<aitken::ot::batch_problem<T>>& problems,
                                                  const aitken::ot::options& options, double loose,
                                                  interrupt& signals);

}  // namespace aitken::cpu::ot
