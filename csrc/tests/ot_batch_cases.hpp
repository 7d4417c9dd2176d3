// Transport problems for batches, with their own memory; shared by test_ot_batch_blocks.cpp and
// cuda/test_ot_device.cpp.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "core/api/ot_batch.hpp"

namespace aitken::tests {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

enum class cost_kind { random, clouds };

// A problem with its own memory; the cost in padded rows, whose padding is NaN.
template <class T>
struct batch_case {
    index n, m, ld;
    double reg;
    std::vector<T> cost, plan;
    std::vector<double> a, b, f, g;
    bool uniform = false;

    batch_case(index n_, index m_, double reg_, cost_kind kind, unsigned seed)
        : n(n_), m(m_), ld(m_ + 3), reg(reg_) {
        std::mt19937 random(seed);
        const auto unit = [&] { return std::uniform_real_distribution<double>(0.0, 1.0)(random); };
        cost.assign(static_cast<std::size_t>(n * ld), std::numeric_limits<T>::quiet_NaN());
        std::vector<double> x(static_cast<std::size_t>(2 * n)), y(static_cast<std::size_t>(2 * m));
        for (double& e : x) e = unit();
        for (double& e : y) e = 0.2 + unit();
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < m; ++j)
                at(i, j) = static_cast<T>(
                    kind == cost_kind::random
                        ? unit()
                        : (std::pow(x[2 * i] - y[2 * j], 2) + std::pow(x[2 * i + 1] - y[2 * j + 1], 2)) / 3);
        for (auto [w, size] : {std::pair{&a, n}, std::pair{&b, m}}) {
            for (index i = 0; i < size; ++i) w->push_back(0.1 + unit());
            scale(*w, 1.0);
        }
        clear();
    }
    T& at(index i, index j) { return cost[static_cast<std::size_t>(i * ld + j)]; }
    static void scale(std::vector<double>& w, double mass) {
        double sum = 0;
        for (double e : w) sum += e;
        for (double& e : w) e *= mass / sum;
    }
    void clear() {
        f.assign(static_cast<std::size_t>(n), 0.0);
        g.assign(static_cast<std::size_t>(m), 0.0);
        plan.assign(static_cast<std::size_t>(n * m), T(-7));
    }
    aitken::ot::batch_problem<T> view(bool with_plan = true) {
        aitken::ot::batch_problem<T> p;
        p.cost = {cost.data(), n, m, ld};
        if (!uniform) p.a = {a.data(), n}, p.b = {b.data(), m};
        p.reg = reg;
        p.f = {f.data(), n};
        p.g = {g.data(), m};
        if (with_plan) p.plan = {plan.data(), n, m, m};
        return p;
    }
    // ||P1 - h_a||_1 + ||P^T 1 - h_b||_1 over the plan's mass, from f and g by plain loops.
    double error(double rho_a = infinity, double rho_b = infinity) {
        const bool soft = rho_a < infinity || rho_b < infinity;
        double mass_a = 0, mass_b = 0, total = 0, err = 0;
        for (double e : a) mass_a += e;
        for (double e : b) mass_b += e;
        if (soft) mass_a = mass_b = 1;
        std::vector<double> r(a.size(), 0.0), c(b.size(), 0.0);
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < m; ++j) {
                if (!(a[i] > 0 && b[j] > 0)) continue;
                const double p = a[i] / mass_a * (b[j] / mass_b) *
                                 std::exp((f[i] + g[j] - static_cast<double>(at(i, j))) / reg);
                r[i] += p;
                c[j] += p;
                total += p;
            }
        for (index i = 0; i < n; ++i) err += std::fabs(r[i] - a[i] / mass_a * std::exp(-f[i] / rho_a));
        for (index j = 0; j < m; ++j) err += std::fabs(c[j] - b[j] / mass_b * std::exp(-g[j] / rho_b));
        return soft ? err / total : err;
    }
};

}  // namespace aitken::tests
