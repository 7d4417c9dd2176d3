// Transport with sparse plans on the CPU: the plan and its certificates against their definitions, at shapes
// that do not fit the vectors, with empty bins and forbidden pairs.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/api/ot_quadratic.hpp"

namespace {

using namespace aitken::ot;
using aitken::index;
using aitken::vec;

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T>
struct instance {
    instance(index rows, index cols, unsigned seed) : n(rows), m(cols), cost(n * m), a(n), b(m), x(n), y(m) {
        std::mt19937_64 random(seed);
        std::uniform_real_distribution<double> unit(0.0, 1.0);
        for (T& c : cost) c = static_cast<T>(unit(random));
        for (auto* w : {&a, &b}) {
            double sum = 0;
            for (double& v : *w) sum += v = 0.1 + unit(random);
            for (double& v : *w) v /= sum;
        }
    }
    problem<T> view() { return {{cost.data(), n, m, m}, {a.data(), n}, {b.data(), m}, 1.0, {}}; }

    index n, m;
    std::vector<T> cost;
    std::vector<double> a, b, x, y;
};

// ||P1 - a||_1 + ||P^T 1 - b||_1, and <C, P>.
template <class T>
std::pair<double, double> measure(const instance<T>& p, const sparse_plan& plan) {
    std::vector<double> r(p.a), c(p.b);
    double paid = 0, err = 0;
    for (index i = 0; i < p.n; ++i)
        for (index e = plan.indptr[i]; e < plan.indptr[i + 1]; ++e) {
            const index j = plan.indices[e];
            r[i] -= plan.values[e];
            c[j] -= plan.values[e];
            paid += plan.values[e] * static_cast<double>(p.cost[i * p.m + j]);
        }
    for (const double v : r) err += std::abs(v);
    for (const double v : c) err += std::abs(v);
    return {err, paid};
}

template <class T>
void test_quadratic() {
    for (const auto& [n, m] : {std::pair<index, index>{1, 1}, {1, 9}, {9, 1}, {17, 33}, {65, 40}})
        for (const double gamma : {0.01, 1.0, 300.0}) {
            instance<T> p(n, m, static_cast<unsigned>(n + m));
            quadratic_options options;
            options.gamma = gamma;
            options.tol = 1e-10;
            aitken::interrupt signals;
            const quadratic_report r = aitken::cpu::ot::solve_quadratic<T>(p.view(), options, {p.x.data(), n},
                                                                           {p.y.data(), m}, signals, {});
            CHECK(r.status == aitken::status::converged);
            const auto [err, paid] = measure(p, r.plan);
            CHECK(err <= 1e-10);
            CHECK(std::abs(err - r.err) <= 1e-14);
            CHECK(std::abs(paid - r.linear) <= 1e-14);
            // The plan is the positive part of x + y - C, no more and no less.
            for (index i = 0; i < n; ++i) {
                index e = r.plan.indptr[i];
                for (index j = 0; j < m; ++j) {
                    const double s = p.x[i] + p.y[j] - static_cast<double>(p.cost[i * m + j]);
                    const bool held = e < r.plan.indptr[i + 1] && r.plan.indices[e] == j;
                    CHECK(held == (s > 0));
                    if (held) CHECK(r.plan.values[e++] == s * (1.0 / gamma));
                }
            }
        }
}
TEST(ot_quadratic_f64) { test_quadratic<double>(); }
TEST(ot_quadratic_f32) { test_quadratic<float>(); }

TEST(ot_quadratic_support_system) {
    // Two components, and a row and a column without entries.
    const std::vector<index> indptr{0, 2, 3, 3, 5};
    const std::vector<std::int32_t> indices{0, 1, 1, 2, 3};
    const aitken::pattern_view pattern{4, 5, indptr.data(), indices.data()};
    const std::vector<double> entries{1.0, -2.0, 0.5, 3.0, 4.0};
    std::vector<double> w(4, 0.0), z(5, 0.0), p(4), q(5), left_w, left_z;
    for (index i = 0; i < 4; ++i)
        for (index e = indptr[i]; e < indptr[i + 1]; ++e) {
            w[i] += entries[e];
            z[indices[e]] += entries[e];
        }
    aitken::interrupt signals;
    const double residual = aitken::cpu::ot::solve_support(pattern, {w.data(), 4}, {z.data(), 5},
                                                           {p.data(), 4}, {q.data(), 5}, signals);
    CHECK(residual <= 1e-12);
    left_w = w;
    left_z = z;
    for (index i = 0; i < 4; ++i)
        for (index e = indptr[i]; e < indptr[i + 1]; ++e) {
            left_w[i] -= p[i] + q[indices[e]];
            left_z[indices[e]] -= p[i] + q[indices[e]];
        }
    for (const double v : left_w) CHECK(std::abs(v) <= 1e-12);
    for (const double v : left_z) CHECK(std::abs(v) <= 1e-12);
    // Least norm: orthogonal to (1, -1) on each component.
    CHECK(std::abs(p[0] + p[1] - q[0] - q[1]) <= 1e-12);
    CHECK(std::abs(p[3] - q[2] - q[3]) <= 1e-12);
    CHECK(p[2] == 0);
    CHECK(q[4] == 0);
}

template <class T>
void test_exact() {
    for (const auto& [n, m] : {std::pair<index, index>{1, 1}, {1, 9}, {9, 1}, {17, 33}, {70, 41}}) {
        instance<T> p(n, m, static_cast<unsigned>(3 * n + m));
        if (n > 9) p.cost[m + 1] = std::numeric_limits<T>::infinity();
        aitken::interrupt signals;
        const exact_report r =
            aitken::cpu::ot::solve_exact<T>(p.view(), {}, {p.x.data(), n}, {p.y.data(), m}, signals);
        CHECK(r.status == aitken::status::converged);
        const auto [err, paid] = measure(p, r.plan);
        CHECK(err <= 1e-13);
        CHECK(std::abs(paid - r.value) <= 1e-14);
        CHECK(static_cast<index>(r.plan.indices.size()) <= n + m - 1);
        double dual = 0, worst = -infinity;
        for (index i = 0; i < n; ++i) dual += p.a[i] * p.x[i];
        for (index j = 0; j < m; ++j) dual += p.b[j] * p.y[j];
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < m; ++j)
                worst = std::max(worst, p.x[i] + p.y[j] - static_cast<double>(p.cost[i * m + j]));
        CHECK(worst <= 1e-13);
        CHECK(std::abs(paid - dual) <= 1e-12);
    }
}
TEST(ot_exact_f64) { test_exact<double>(); }
TEST(ot_exact_f32) { test_exact<float>(); }

TEST(ot_topk_columns_and_bound) {
    instance<double> p(31, 45, 7);  // rows of the cost are the constrained columns
    double last = infinity;
    for (const index k : {1, 2, 4, 45}) {
        topk_options options;
        options.gamma = 1.0;
        options.k = k;
        aitken::interrupt signals;
        std::vector<double> x(45, 0.0), y(31, 0.0);
        const topk_report r = aitken::cpu::ot::solve_topk<double>(p.view(), options, {x.data(), 45},
                                                                  {y.data(), 31}, signals, {});
        for (index j = 0; j < 31; ++j) {
            double sum = 0;
            for (index e = r.plan.indptr[j]; e < r.plan.indptr[j + 1]; ++e) sum += r.plan.values[e];
            CHECK(std::abs(sum - p.a[j]) <= 1e-14);
            CHECK(r.plan.indptr[j + 1] - r.plan.indptr[j] <= k);
        }
        CHECK(std::abs(measure(p, r.plan).first - r.err) <= 1e-13);
        CHECK(r.value < last);  // more entries allowed: cheaper
        last = r.value;
    }
}

}  // namespace
