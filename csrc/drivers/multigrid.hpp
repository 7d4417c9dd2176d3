// A multigrid cycle for the Poisson operator of a grid, written once for every backend.
//
// Coarse levels are made of the conductances of faces alone. Where an axis is halved, the conductance between
// two coarse cells is half the sum of those across their interface, for their centres are twice as far apart:
// what the coarse grid's own discretisation has for constant coefficients (the Galerkin product of constant
// transfers has twice as much: that halving is what lets constant transfers work). Walls stay walls at any
// width. The last cell of an odd side is as narrow as what it is made of.
//
// The cycle is symmetric: sweeps before the correction come back in reverse order after it, restriction is
// the transpose of prolongation. Per level and visit: products nu - 1 before (nu on a second visit), 1 for
// the residual, nu after. Launches per visit: 2 nu + 1; a backend may do all levels from some one on in one.
// Asserted by csrc/tests/test_multigrid.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/multigrid.hpp"
#include "core/views.hpp"
#include "drivers/chebyshev.hpp"

namespace aitken::drivers::multigrid {

using namespace aitken::multigrid;

inline constexpr index coarsest_side = 4;

// The box of one level and how its padded vectors lie.
struct level_shape {
    std::array<index, 3> n{1, 1, 1};
    index row = 2, plane = 4;        // from one row, and one plane, to the next
    std::array<bool, 3> halved{};    // towards the next level
    std::array<int, 3> times{};      // halved so far
    std::array<double, 3> weight{};  // conductance of a face where all is fluid and has conductance 1
    bool last = false;

    index rows() const { return n[0] * n[1]; }
    index size() const { return n[0] * plane; }
    index guard() const { return plane + row + 1; }
    index cells() const { return n[0] * n[1] * n[2]; }
    index row_begin(index r) const { return r / n[1] * plane + r % n[1] * row; }
};

inline level_shape lay_out(std::array<index, 3> n) {
    level_shape s;
    s.n = n;
    s.row = n[2] + 1;
    s.plane = (n[1] + 1) * s.row;
    return s;
}

// A level, and what sums of the finer one's conductances are multiplied by.
struct level_plan : level_shape {
    std::array<std::vector<double>, 3> width;     // of cells along each axis, in finest cells
    std::array<std::vector<double>, 3> face;      // of the lower face of cell i: shorter or longer ways
    std::array<std::vector<double>, 3> exterior;  // towards p = 0, half a finest cell beyond the cell
};

// At least half of what the children have: no factor may fall by more than a half from level to level, or
// corrections would be more than twice too long and a W-cycle not definite. Only narrow cells at odd ends
// come to that.
inline void set_exterior(level_plan& p, const level_plan* finer) {
    for (std::size_t a = 0; a < 3; ++a) {
        p.exterior[a].clear();
        for (std::size_t i = 0; i < p.width[a].size(); ++i) {
            double factor = 1 / (0.5 * p.width[a][i] + 0.5);
            if (finer != nullptr) {
                const std::vector<double>& of = finer->exterior[a];
                const std::size_t first = finer->halved[a] ? 2 * i : i,
                                  last = finer->halved[a] ? first + 2 : i + 1;
                for (std::size_t c = first; c < std::min(last, of.size()); ++c)
                    factor = std::max(factor, 0.5 * of[c]);
            }
            p.exterior[a].push_back(factor);
        }
    }
}

// Axes are halved while they have more than `coarsest_side` cells and are coupled at least half as strongly
// as the strongest such axis; the last cell of an odd side has one child.
inline std::vector<level_plan> plan_levels(const box& b) {
    std::vector<level_plan> out(1);
    static_cast<level_shape&>(out[0]) = lay_out(b.n);
    for (std::size_t a = 0; a < 3; ++a) {
        out[0].weight[a] = b.scale[a];
        out[0].width[a].assign(static_cast<std::size_t>(b.n[a]), 1.0);
    }
    set_exterior(out[0], nullptr);
    for (;;) {
        level_plan& fine = out.back();
        double strongest = 0;
        for (int a = 0; a < 3; ++a)
            if (fine.n[a] > coarsest_side) strongest = std::max(strongest, fine.weight[a]);
        if (strongest == 0) {
            fine.last = true;
            return out;
        }
        double children = 1;
        std::array<index, 3> n = fine.n;
        for (int a = 0; a < 3; ++a) {
            fine.halved[a] = fine.n[a] > coarsest_side && fine.weight[a] >= 0.5 * strongest;
            if (!fine.halved[a]) continue;
            n[a] = (fine.n[a] + 1) / 2;
            children *= 2;
        }
        level_plan coarse;
        static_cast<level_shape&>(coarse) = lay_out(n);
        for (std::size_t a = 0; a < 3; ++a) {
            coarse.times[a] = fine.times[a] + (fine.halved[a] ? 1 : 0);
            coarse.weight[a] = fine.weight[a] * (fine.halved[a] ? 0.25 * children : children);
            const auto& from = fine.width[a];
            auto &to = coarse.width[a], &face = coarse.face[a];
            if (!fine.halved[a]) {
                to = from;
                face.assign(from.size(), 1.0);
                continue;
            }
            for (std::size_t i = 0; i < from.size(); i += 2)
                to.push_back(from[i] + (i + 1 < from.size() ? from[i + 1] : 0.0));
            for (std::size_t i = 0; i < to.size(); ++i) {
                const double before = i == 0 ? to.back() : to[i - 1];
                const double finer = i == 0 ? from.back() : from[2 * i - 1];
                face.push_back(std::max(0.5, (finer + from[2 * i]) / (before + to[i])));
            }
        }
        set_exterior(coarse, &fine);
        out.push_back(std::move(coarse));
    }
}

struct smoothing {
    std::vector<relaxation_step> before, after;
};

// A sweep multiplies the error's part of eigenvalue t of D^-1 A, 0 < t <= 2, by 1 - omega t.
inline void check_omegas(const std::vector<double>& omega) {
    if (omega.empty() || omega.size() > 8)
        throw std::invalid_argument("`omega` has " + std::to_string(omega.size()) +
                                    " numbers; 1 to 8 needed");
    constexpr int looks = 4000;
    for (int j = 1; j <= looks; ++j) {
        double q = 1;
        for (const double w : omega) q *= 1 - w * (2.0 * j / looks);
        if (!(std::fabs(q) < 1))
            throw std::invalid_argument(
                "`omega` gives no convergent smoother: |prod(1 - omega t)| must be below 1 for 0 < t <= 2");
    }
}

inline smoothing plan_smoothing(const cycle_options& o, int ndim) {
    smoothing out;
    if (o.learned.ndim == 0 && o.kind == smoother::chebyshev) {
        if (o.degree < 1 || o.degree > 8)
            throw std::invalid_argument("`degree` must be from 1 to 8, got " + std::to_string(o.degree));
        if (!(o.lower_ratio > 1) || !std::isfinite(o.lower_ratio))
            throw std::invalid_argument("`lower_ratio` must be above 1, got " +
                                        std::to_string(o.lower_ratio));
        // Gershgorin: d_i is at least the sum of row i's other entries. A lower bound would not be safe.
        constexpr double upper = 2;
        out.before = out.after = chebyshev_steps(upper / o.lower_ratio, upper, o.degree);
        return out;
    }
    std::vector<double> omega = o.learned.ndim > 0 ? o.learned.omega : o.omega;
    if (omega.empty()) omega.assign(2, ndim == 3 ? 0.857 : 0.8);
    check_omegas(omega);
    for (const double w : omega) {
        out.before.push_back({0, w});
        out.after.insert(out.after.begin(), {0, w});
    }
    return out;
}

// Every level has its right-hand side, its iterate, and room for another iterate.
template <class K>
concept CycleKernels = requires(K& k, int l, double a, double b, double c, bool keep) {
    { k.coarsest() } -> std::convertible_to<int>;  // the level from which solve_from does all
    k.solve_from(l, keep);                         // keep: from the iterate there, else from zero
    k.scale(l, c);                                 // x = c D^-1 b, x- = 0
    k.step(l, a, b);                               // x+ = x + a (x - x-) + b D^-1 (b - A x)
    k.restrict_residual(l);                        // b of the next level
    k.prolong(l);                                  // x += P (x of the next level)
};

template <CycleKernels K>
class cycle_driver {
public:
    cycle_driver(K& kernels, const smoothing& smoothing, int visits)
        : k_(kernels), s_(smoothing), visits_(visits) {}

    // One cycle on the finest level's right-hand side, from zero.
    void run() { visit(0, false); }

    void visit(int l, bool keep) {
        if (l >= k_.coarsest()) return k_.solve_from(l, keep);
        smooth(l, s_.before, keep);
        k_.restrict_residual(l);
        // What solves a level exactly has no use for a second visit.
        const int visits = l + 1 >= k_.coarsest() ? 1 : visits_;
        for (int v = 0; v < visits; ++v) visit(l + 1, v > 0);
        k_.prolong(l);
        smooth(l, s_.after, true);
    }

private:
    void smooth(int l, const std::vector<relaxation_step>& steps, bool keep) {
        std::size_t s = 0;
        if (!keep) {
            k_.scale(l, steps[0].step);
            s = 1;
        }
        for (; s < steps.size(); ++s) k_.step(l, steps[s].momentum, steps[s].step);
    }

    K& k_;
    const smoothing& s_;
    int visits_;
};

}  // namespace aitken::drivers::multigrid
