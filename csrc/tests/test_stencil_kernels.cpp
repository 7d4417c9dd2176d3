// Red-black sweeps of stencils against a loop over points: every number of axes, extents around the vector
// widths, both directions, the residuals that come with a sweep, bands of lines, instruction sets.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "cpu/backend.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/stencil_kernels.hpp"
#include "cpu/threads.hpp"

namespace aitken {

namespace {

using relaxation::direction;

using numbers = std::vector<double>;

// (b - A x) at a point, from the definition.
double residual_at(const grid_stencil& s, double shift, const numbers& b, const numbers& x, index row) {
    const index stride[3] = {s.extent[1] * s.extent[2], s.extent[2], 1};
    double r = b[row] - (s.center + shift) * x[row];
    for (int k = 0; k < 3; ++k) {
        const index at = row / stride[k] % s.extent[k];
        if (at > 0) r -= s.before[k] * x[row - stride[k]];
        if (at + 1 < s.extent[k]) r -= s.after[k] * x[row + stride[k]];
    }
    return r;
}

double squares(const grid_stencil& s, double shift, const numbers& b, const numbers& x) {
    double sum = 0;
    for (index row = 0; row < s.size(); ++row) sum += std::pow(residual_at(s, shift, b, x, row), 2);
    return sum;
}

void relax(const grid_stencil& s, double shift, double omega, int color, const numbers& b, numbers& x) {
    for (index row = 0; row < s.size(); ++row) {
        const index k = row % s.extent[2], j = row / s.extent[2] % s.extent[1],
                    i = row / s.extent[2] / s.extent[1];
        if ((i + j + k) % 2 == color) x[row] += omega * residual_at(s, shift, b, x, row) / (s.center + shift);
    }
}

numbers random_numbers(index n, unsigned seed) {
    std::mt19937_64 g(seed);
    std::normal_distribution<double> normal;
    numbers v(static_cast<std::size_t>(n));
    for (double& each : v) each = normal(g);
    return v;
}

grid_stencil stencil(index e0, index e1, index e2) {
    return {{e0, e1, e2}, 7.5, {-1.1, -1.2, -0.9}, {-0.8, -1.3, -0.7}};
}

const std::array<index, 3> extents[] = {
    {1, 1, 1},  {1, 1, 2}, {1, 1, 3}, {1, 1, 7}, {1, 1, 8},  {1, 1, 9},   {1, 1, 16}, {1, 1, 17},
    {1, 1, 41}, {1, 2, 1}, {1, 9, 1}, {1, 5, 4}, {1, 4, 15}, {1, 7, 16},  {1, 6, 23}, {2, 1, 1},
    {3, 1, 5},  {2, 2, 2}, {3, 4, 5}, {5, 3, 9}, {4, 6, 18}, {1, 10, 10}, {6, 7, 8},  {9, 2, 3}};

bool same_bits(const numbers& a, const numbers& b) { return a == b; }

}  // namespace

TEST(stencil_sweeps_follow_the_definition) {
    for (const auto& e : extents) {
        const grid_stencil s = stencil(e[0], e[1], e[2]);
        const index n = s.size();
        for (const double shift : {0.0, 0.6})
            for (const direction half : {direction::forward, direction::backward}) {
                interrupt signals;
                cpu::backend be(signals);
                cpu::stencil_kernels kernels(be, s, shift);
                const numbers b = random_numbers(n, 1);
                numbers x = random_numbers(n, 2), y = x;
                const scalar_ref before = be.scalar(), change = be.scalar(), norm2 = be.scalar();
                for (int k = 0; k < 6; ++k) {
                    const double omega = k < 3 ? 1.4 : 1.1;
                    const double was = squares(s, shift, b, y);
                    kernels.residual({b.data(), n}, {x.data(), n}, norm2);
                    CHECK_NEAR(*norm2.address(), was, 1e-12 * was);
                    const numbers old = y;
                    const int first = half == direction::forward ? 0 : 1;
                    relax(s, shift, omega, first, b, y);
                    relax(s, shift, omega, 1 - first, b, y);
                    double moved = 0;
                    for (index i = 0; i < n; ++i) moved += (y[i] - old[i]) * (y[i] - old[i]);
                    kernels.sweep(half, omega, k == 0, {b.data(), n}, {x.data(), n}, before, change);
                    if (k > 0) CHECK_NEAR(*before.address(), was, 1e-11 * was + 1e-25);
                    CHECK_NEAR(*change.address(), moved, 1e-11 * moved + 1e-25);
                    double apart = 0;
                    for (index i = 0; i < n; ++i) apart = std::max(apart, std::fabs(x[i] - y[i]));
                    CHECK(apart < 1e-13);
                }
            }
    }
}

TEST(stencil_sweeps_stay_within_their_vectors) {
    // What lies around x and b is neither read (it is NaN) nor written.
    const double nan = std::numeric_limits<double>::quiet_NaN();
    constexpr index margin = 64;
    for (const auto& e : extents) {
        const grid_stencil s = stencil(e[0], e[1], e[2]);
        const index n = s.size();
        numbers x(static_cast<std::size_t>(n + 2 * margin), nan), b = x;
        const numbers inner = random_numbers(n, 4);
        std::copy(inner.begin(), inner.end(), x.begin() + margin);
        std::copy(inner.begin(), inner.end(), b.begin() + margin);
        interrupt signals;
        cpu::backend be(signals);
        cpu::stencil_kernels kernels(be, s);
        const scalar_ref before = be.scalar(), change = be.scalar();
        for (const direction half : {direction::forward, direction::backward})
            kernels.sweep(half, 1.5, true, {b.data() + margin, n}, {x.data() + margin, n}, before, change);
        CHECK(std::isfinite(*before.address()) && std::isfinite(*change.address()));
        for (index i = 0; i < n; ++i) CHECK(std::isfinite(x[margin + i]));
        for (index i = 0; i < margin; ++i) CHECK(std::isnan(x[i]) && std::isnan(x[margin + n + i]));
    }
}

TEST(stencil_levels_agree) {
    // Every instruction set on the same lines, the second colour alone included.
    for (const auto& e : extents) {
        const grid_stencil s = stencil(e[0], e[1], e[2]);
        const index n = s.size(), lines = e[0] * e[1];
        const numbers zeros(static_cast<std::size_t>(e[2]), 0.0), b = random_numbers(n, 5);
        aitken_stencil a{};
        a.center = s.center;
        a.zeros = zeros.data();
        for (int k = 0; k < 3; ++k) {
            a.extent[k] = s.extent[k];
            a.before[k] = s.before[k];
            a.after[k] = s.after[k];
        }
        for (const auto level : cpu::simd_levels()) {
            const aitken_simd_table& table = cpu::simd_for(level);
            for (const bool together : {true, false})
                for (const int color : {0, 1}) {
                    numbers x = random_numbers(n, 6), y = x;
                    double sums[2] = {0, 0}, expected[2] = {0, 0};
                    const std::int64_t both[4] = {0, lines, 0, lines}, one[4] = {0, lines, 0, 0},
                                       other[4] = {0, 0, 0, lines};
                    if (together) {
                        table.stencil_relax(&a, b.data(), 0.2, color, x.data(), both, sums);
                    } else {
                        table.stencil_relax(&a, b.data(), 0.2, color, x.data(), one, sums);
                        table.stencil_relax(&a, b.data(), 0.2, color, x.data(), other, sums);
                    }
                    for (int c = 0; c < 2; ++c) {
                        const numbers was = y;
                        relax(s, 0, 0.2 * s.center, c == 0 ? color : 1 - color, b, y);
                        for (index i = 0; i < n; ++i) expected[c] += std::pow((y[i] - was[i]) / 0.2, 2);
                    }
                    for (int c = 0; c < 2; ++c) CHECK_NEAR(sums[c], expected[c], 1e-11 * expected[c] + 1e-25);
                    for (index i = 0; i < n; ++i) CHECK_NEAR(x[i], y[i], 1e-13);
                    double norm2 = 0;
                    table.stencil_residual(&a, b.data(), x.data(), 0, lines, &norm2);
                    const double true_norm2 = squares(s, 0, b, y);
                    CHECK_NEAR(norm2, true_norm2, 1e-11 * true_norm2 + 1e-25);
                }
        }
    }
}

TEST(stencil_bits_for_any_thread_count) {
    // Several bands each: lines, and planes that lag by one.
    for (const auto& e : {std::array<index, 3>{1, 700, 131}, {64, 20, 121}, {1, 100000, 3}}) {
        const grid_stencil s = stencil(e[0], e[1], e[2]);
        const index n = s.size();
        const numbers b = random_numbers(n, 7), start = random_numbers(n, 8);
        numbers serial, reference = start;
        std::vector<double> sums;
        for (const int threads : {1, 2, 3, 5}) {
            const cpu::thread_scope scope(threads);
            interrupt signals;
            cpu::backend be(signals);
            cpu::stencil_kernels kernels(be, s, 0.1);
            const scalar_ref before = be.scalar(), change = be.scalar(), norm2 = be.scalar();
            numbers x = start;
            std::vector<double> found;
            bool first = true;
            for (const direction half :
                 {direction::forward, direction::forward, direction::backward, direction::backward}) {
                kernels.sweep(half, 1.3, first, {b.data(), n}, {x.data(), n}, before, change);
                kernels.residual({b.data(), n}, {x.data(), n}, norm2);
                found.insert(found.end(), {*before.address(), *change.address(), *norm2.address()});
                first = false;
            }
            if (threads == 1) {
                serial = x;
                sums = found;
                for (const int color : {0, 1, 0, 1, 1, 0, 1, 0}) relax(s, 0.1, 1.3, color, b, reference);
                double apart = 0;
                for (index i = 0; i < n; ++i) apart = std::max(apart, std::fabs(x[i] - reference[i]));
                CHECK(apart < 1e-13);
            }
            CHECK(same_bits(x, serial));
            CHECK(found == sums);
        }
    }
}

TEST(stencil_center_without_inverse) {
    interrupt signals;
    cpu::backend be(signals);
    const grid_stencil s = stencil(1, 4, 4);
    CHECK_THROWS(cpu::stencil_kernels(be, s, -7.5), std::invalid_argument);
    CHECK_THROWS(cpu::stencil_kernels(be, s, std::numeric_limits<double>::infinity()), std::invalid_argument);
    CHECK_THROWS(cpu::stencil_kernels(be, s, std::numeric_limits<double>::quiet_NaN()),
                 std::invalid_argument);
}

TEST(stencil_solves_with_the_driver) {
    // The counts of the definition, whatever the residuals are found from.
    const grid_stencil s{{1, 30, 27}, 4.0, {0, -1, -1}, {0, -1, -1}};
    const index n = s.size();
    const double shift = 0.05;
    for (const direction half : {direction::forward, direction::backward, direction::symmetric}) {
        interrupt signals;
        cpu::backend be(signals);
        cpu::stencil_kernels kernels(be, s, shift);
        const numbers b = random_numbers(n, 11);
        numbers x(static_cast<std::size_t>(n), 0.0), y = x;
        relaxation::sor_options options;
        options.sweep = half;
        options.omega = half == direction::symmetric ? 1.0 : 1.7;
        options.rtol = 1e-9;
        const relaxation::monitor nobody;
        const relaxation::report report =
            drivers::relaxation::sor_solver<cpu::backend, cpu::stencil_kernels>(be, kernels, options, nobody)
                .run({b.data(), n}, {x.data(), n});
        CHECK(report.status == status::converged);
        const double target = 1e-18 * squares(s, shift, b, y);
        index count = 0;
        while (squares(s, shift, b, y) > target && count < 2000) {
            for (const int color : {0, 1})
                if (half != direction::backward) relax(s, shift, options.omega, color, b, y);
            for (const int color : {1, 0})
                if (half != direction::forward) relax(s, shift, options.omega, color, b, y);
            ++count;
        }
        CHECK(count > 20 && report.iterations == count);
        CHECK(squares(s, shift, b, x) <= target * (1 + 1e-6));
    }
}

}  // namespace aitken
