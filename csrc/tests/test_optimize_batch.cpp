// Batches of small constrained problems on the CPU: L D L' with its inertia, shifted KKT systems against
// plain residuals, and whole solves against an answer in closed form.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/api/optimize_batch.hpp"
#include "optimize_cases.hpp"

namespace aitken::tests {
namespace {

// Q' D Q with a known number of negative D, from random reflections.
std::vector<double> with_inertia(int n, int negative, std::mt19937& random) {
    std::normal_distribution<double> normal;
    std::vector<double> a(static_cast<std::size_t>(n * n), 0.0), v(static_cast<std::size_t>(n));
    for (int i = 0; i < n; ++i)
        a[static_cast<std::size_t>(i * n + i)] = (i < negative ? -1 : 1) * (0.5 + std::fabs(normal(random)));
    for (int turn = 0; turn < 3; ++turn) {
        double norm = 0;
        for (double& x : v) {
            x = normal(random);
            norm += x * x;
        }
        for (int side = 0; side < 2; ++side)
            for (int i = 0; i < n; ++i) {
                const auto at = [&](int k) -> double& {
                    return a[static_cast<std::size_t>(side == 0 ? i * n + k : k * n + i)];
                };
                double dot = 0;
                for (int k = 0; k < n; ++k) dot += at(k) * v[static_cast<std::size_t>(k)];
                for (int k = 0; k < n; ++k) at(k) -= 2 * dot / norm * v[static_cast<std::size_t>(k)];
            }
    }
    return a;
}

TEST(optimize_ldlt_has_the_inertia_and_solves) {
    std::mt19937 random(4);
    std::normal_distribution<double> normal;
    for (const int n : {1, 2, 3, 7, 16, 33, 64, 128})
        for (const int negative : {0, n / 3, n / 2, n}) {
            const std::vector<double> a = with_inertia(n, negative, random);
            std::vector<double> b(static_cast<std::size_t>(n)), x;
            for (double& v : b) v = normal(random);
            x = b;
            std::int32_t in[3];
            cpu::optimize::solve_symmetric(1, n, a.data(), x.data(), in, 1);
            CHECK(in[0] == n - negative && in[1] == negative && in[2] == 0);
            for (int i = 0; i < n; ++i) {
                double sum = 0;
                for (int k = 0; k < n; ++k)
                    sum += a[static_cast<std::size_t>(i * n + k)] * x[static_cast<std::size_t>(k)];
                CHECK_NEAR(sum, b[static_cast<std::size_t>(i)], 1e-12 * n);
            }
        }
}

TEST(optimize_ldlt_counts_zero_pivots) {
    const double a[9] = {0, 0, 0, 0, 2, 0, 0, 0, -1};
    double x[3] = {5, 4, 3};
    std::int32_t in[3];
    cpu::optimize::solve_symmetric(1, 3, a, x, in, 1);
    CHECK(in[0] == 1 && in[1] == 1 && in[2] == 1);
    CHECK(x[0] == 0 && x[1] == 2 && x[2] == -3);
    const double pair[4] = {0, 0, 3, 0};  // one block of two rows; the upper triangle is not read
    double y[2] = {6, 9};
    cpu::optimize::solve_symmetric(1, 2, pair, y, in, 1);
    CHECK(in[0] == 1 && in[1] == 1 && y[0] == 3 && y[1] == 2);
}

// K z = b by the definition, with the shift that came back.
TEST(optimize_kkt_systems_solve_their_equations) {
    for (const auto& [n, m] : {std::pair{1, 0}, {3, 1}, {6, 5}, {12, 7}, {60, 40}}) {
        kkt_case c(n, m, 12, static_cast<unsigned>(n));
        cpu::optimize::solve_kkt(c.view(), 0.1, 2);
        for (index k = 0; k < c.count; ++k) {
            const auto at = static_cast<std::size_t>(k);
            CHECK(c.attempts[at] >= 1);
            const double t = c.shift[at], *const dx = c.dx_of(k), *const dlam = c.dlam_of(k);
            const auto held = [&](int q) { return c.d[static_cast<std::size_t>(k * n + q)] < 0; };
            const double tol = 1e-9 * c.largest_answer(k) * (n + m) * (1 + t);
            for (int q = 0; q < n; ++q) {
                if (held(q)) {
                    CHECK(dx[q] == 0);
                    continue;
                }
                double sum = c.rx[static_cast<std::size_t>(k * n + q)] +
                             (c.d[static_cast<std::size_t>(k * n + q)] + t) * dx[q];
                for (int r = 0; r < n; ++r) sum += c.h[static_cast<std::size_t>((k * n + q) * n + r)] * dx[r];
                for (int i = 0; i < m; ++i)
                    sum += c.j[static_cast<std::size_t>((k * m + i) * n + q)] * dlam[i];
                CHECK_NEAR(sum, 0, tol);
            }
            for (int i = 0; i < m; ++i) {
                const auto row = static_cast<std::size_t>(k * m + i);
                const double s = c.sigma[row];
                if (s == -2) {
                    CHECK(dlam[i] == 0);
                    continue;
                }
                const double e = s >= 0 ? 1 / (s + t) : 0;
                double sum = c.rc[row] + e * c.rs[row] - (c.regular[at] + e) * dlam[i];
                for (int q = 0; q < n; ++q)
                    sum += c.j[row * static_cast<std::size_t>(n) + static_cast<std::size_t>(q)] * dx[q];
                CHECK_NEAR(sum, 0, tol);
            }
        }
    }
}

// The first shift is a third of the last, at least xi; definite systems have none.
TEST(optimize_kkt_shift_follows_its_rule) {
    kkt_case c(4, 1, 2, 8);
    std::fill(c.d.begin(), c.d.end(), 0.0);
    std::fill(c.sigma.begin(), c.sigma.end(), -1.0);
    for (index k = 0; k < 2; ++k)
        for (int a = 0; a < 4; ++a)
            for (int b = 0; b < 4; ++b)
                c.h[static_cast<std::size_t>(k * 16 + a * 4 + b)] = a != b ? 0 : k == 0 ? 1 : -1;
    c.shift = {3.0, 3.0};
    cpu::optimize::solve_kkt(c.view(), 0.1, 1);
    CHECK(c.shift[0] == 0 && c.attempts[0] == 1);
    CHECK(c.shift[1] == 4.0 && c.attempts[1] == 3);  // 0, 1 (singular), 4
}

TEST(optimize_batch_finds_the_nearest_points) {
    for (const auto judge : {optimize::globalization::automatic, optimize::globalization::merit,
                             optimize::globalization::filter}) {
        optimize::batch_options o;
        o.judge = judge;
        circle_batch batch(200);
        cpu_engine engine(batch.problems(), o);
        batch.solve(engine);
        for (index k = 0; k < batch.count; ++k) {
            CHECK(batch.status(k) == (k == batch.broken ? 4 : 0));
            if (k == batch.broken) continue;
            CHECK(batch.kkt(k) <= o.tol);
            double q[3], norm = 0;
            for (int i = 0; i < 3; ++i) {
                q[i] = batch.p[static_cast<std::size_t>(3 * k + i)];
                if (i == 2) q[i] = std::max(q[i], 0.0);
                norm += q[i] * q[i];
            }
            for (int i = 0; i < 3; ++i) CHECK_NEAR(batch.x(k)[i], q[i] / std::sqrt(norm), 2e-3);
        }
    }
}

}  // namespace
}  // namespace aitken::tests
