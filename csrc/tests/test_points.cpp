// Row kernels that form costs between points, at every level this machine supports, against plain loops.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "cpu/simd/dispatch.hpp"

namespace {

using aitken::cpu::simd_for;
using aitken::cpu::simd_levels;
using numbers = std::vector<double>;

constexpr double guard = -12345.0;

double cost_of(int metric, const numbers& x, const numbers& planes, std::int64_t ld, std::int64_t j) {
    double sum = 0;
    for (std::size_t k = 0; k < x.size(); ++k) {
        const double apart = x[k] - planes[k * static_cast<std::size_t>(ld) + static_cast<std::size_t>(j)];
        sum += metric == 2 ? std::fabs(apart) : apart * apart;
    }
    return metric == 1 ? std::sqrt(sum) : sum;
}
bool close(double got, double want, double scale) { return std::fabs(got - want) <= 1e-13 * scale; }

void check_level(const aitken_simd_table& t, int metric, std::int64_t d, std::int64_t n) {
    std::mt19937 random(static_cast<unsigned>(100 * d + n));
    std::normal_distribution<double> normal;
    const auto draw = [&](std::int64_t size) {
        numbers v(static_cast<std::size_t>(size));
        for (double& e : v) e = normal(random);
        return v;
    };
    const std::int64_t first = 3, ld = first + n + 2;
    numbers planes = draw(d * ld), x = draw(d);
    const numbers y = draw(n), v = draw(n);
    if (n > 1)  // the point itself is among them
        for (std::int64_t k = 0; k < d; ++k) planes[static_cast<std::size_t>(k * ld + first + 1)] = x[k];
    const aitken_points p{planes.data(), ld, d, metric};
    constexpr double shift = 0.3, inv_eps = 1.7, weight = -0.6;

    numbers cost(n), kernel(n), pull(d, 0.5);
    double sum = 0, dot = 0, size = 1e-300, top = -HUGE_VAL;
    for (std::int64_t j = 0; j < n; ++j) {
        cost[j] = cost_of(metric, x, planes, ld, first + j);
        kernel[j] = std::exp((y[j] + shift - cost[j]) * inv_eps);
        sum += kernel[j];
        dot += kernel[j] * v[j];
        size += kernel[j] * (1 + std::fabs(v[j]));
        top = std::max(top, y[j] - cost[j]);
        for (std::int64_t k = 0; k < d; ++k) {
            const double apart = x[k] - planes[static_cast<std::size_t>(k * ld + first + j)];
            const double slope = metric == 0   ? 2 * apart
                                 : metric == 2 ? static_cast<double>((apart > 0) - (apart < 0))
                                 : cost[j] > 0 ? apart / cost[j]
                                               : 0.0;
            pull[k] += v[j] * slope;
        }
    }
    numbers out(n + 1, guard), acc(n + 1, 0.25);
    const auto kept = [&] {
        for (std::int64_t j = 0; j < n; ++j) CHECK(close(out[j], kernel[j], 4 * kernel[j]));
        CHECK(out[n] == guard);
    };
    CHECK(close(t.points_exp(&p, x.data(), y.data(), shift, inv_eps, first, n, out.data()), sum, size));
    kept();
    std::fill(out.begin(), out.end(), guard);
    CHECK(close(t.points_exp_dot(&p, x.data(), y.data(), shift, inv_eps, first, n, v.data(), out.data()), dot,
                size));
    kept();
    CHECK(close(t.points_dot(&p, x.data(), y.data(), shift, inv_eps, first, n, v.data()), dot, size));
    CHECK(close(
        t.points_dot_axpy(&p, x.data(), y.data(), shift, inv_eps, first, n, v.data(), weight, acc.data()),
        dot, size));
    for (std::int64_t j = 0; j < n; ++j) CHECK(close(acc[j], 0.25 + weight * kernel[j], 1 + kernel[j]));
    CHECK(acc[n] == 0.25);
    const double most = t.points_max(&p, x.data(), y.data(), first, n);
    CHECK(n == 0 ? most == top : close(most, top, 1 + std::fabs(top)));
    std::fill(out.begin(), out.end(), guard);
    t.points_cost(&p, x.data(), first, n, out.data());
    for (std::int64_t j = 0; j < n; ++j) CHECK(close(out[j], cost[j], cost[j]));
    if (n > 1) CHECK(out[1] == 0.0);
    CHECK(out[n] == guard);
    numbers sums(d, 0.5);
    t.points_pull(&p, x.data(), v.data(), first, n, sums.data());
    for (std::int64_t k = 0; k < d; ++k) CHECK(close(sums[k], pull[k], 10.0 * static_cast<double>(n + 1)));
}

TEST(points_rows_match_plain_loops) {
    for (const auto level : simd_levels())
        for (int metric = 0; metric < 3; ++metric)
            for (const std::int64_t d : {1, 2, 3, 7})
                for (const std::int64_t n : {0, 1, 2, 3, 7, 8, 15, 31, 33, 64, 100, 597})
                    check_level(simd_for(level), metric, d, n);
}

// A column of no mass, or a row, is exactly 0; so is what would be denormal.
TEST(points_rows_are_zero_without_mass) {
    const numbers planes{0.0, 1.0, 2.0, 3.0, 4.0}, x{0.5};
    const aitken_points p{planes.data(), 5, 1, 0};
    for (const auto level : simd_levels()) {
        const aitken_simd_table& t = simd_for(level);
        numbers y{0.0, -HUGE_VAL, 0.0, -709.0, 0.0}, out(5, guard);
        t.points_exp(&p, x.data(), y.data(), 0.0, 1.0, 0, 5, out.data());
        CHECK(out[0] > 0 && out[1] == 0.0 && out[2] > 0 && out[3] == 0.0);
        CHECK(t.points_exp(&p, x.data(), y.data(), -HUGE_VAL, 1.0, 0, 5, out.data()) == 0.0);
    }
}

}  // namespace
