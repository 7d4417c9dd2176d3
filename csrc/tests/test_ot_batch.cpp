// Batches of transport problems: the driver's own answers, faults flagged alone, bits of any thread count.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/api/ot_batch.hpp"

using namespace aitken;

namespace {

// Problems of growing size with costs from a small recurrence, their arrays kept here.
struct made_batch {
    explicit made_batch(int count) {
        unsigned state = 1;
        const auto next = [&] {
            state = state * 1664525u + 1013904223u;
            return static_cast<double>(state >> 8) / (1 << 24);
        };
        for (int k = 0; k < count; ++k) {
            const index n = 3 + 2 * k, m = 4 + k;
            sizes.push_back({n, m});
            costs.emplace_back(n * m);
            for (double& c : costs.back()) c = next();
            f.emplace_back(n, 0.0);
            g.emplace_back(m, 0.0);
            plans.emplace_back(n * m);
        }
    }
    std::vector<ot::batch_report> solve(int threads) {
        std::vector<ot::batch_problem<double>> problems;
        for (std::size_t k = 0; k < costs.size(); ++k) {
            const auto [n, m] = sizes[k];
            problems.push_back({{costs[k].data(), n, m, m},
                                {},
                                {},
                                reg,
                                {f[k].data(), n},
                                {g[k].data(), m},
                                {plans[k].data(), n, m, m}});
        }
        ot::options options;
        options.n_threads = threads;
        interrupt signals;
        return cpu::ot::solve_batch(problems, options, 1e-9, signals);
    }
    struct size {
        index n, m;
    };
    double reg = 0.02;
    std::vector<size> sizes;
    std::vector<std::vector<double>> costs, f, g, plans;
};

}  // namespace

TEST(ot_batch_meets_its_certificates) {
    made_batch batch(12);
    const auto reports = batch.solve(2);
    for (std::size_t k = 0; k < reports.size(); ++k) {
        const auto [n, m] = batch.sizes[k];
        double err = 0, linear = 0, entropy = 0;
        for (index j = 0; j < m; ++j) {
            double sum = 0;
            for (index i = 0; i < n; ++i) sum += batch.plans[k][i * m + j];
            err += std::abs(sum - 1.0 / static_cast<double>(m));
        }
        for (index i = 0; i < n; ++i) {
            double sum = 0;
            for (index j = 0; j < m; ++j) {
                const double p = batch.plans[k][i * m + j];
                sum += p;
                linear += p * batch.costs[k][i * m + j];
                if (p > 0) entropy += p * std::log(p * static_cast<double>(n * m));
            }
            err += std::abs(sum - 1.0 / static_cast<double>(n));
        }
        CHECK(reports[k].status == status::converged);
        CHECK(err <= 1e-9);
        CHECK(std::abs(reports[k].linear - linear) <= 1e-12);
        CHECK(std::abs(reports[k].value - (linear + batch.reg * entropy)) <= 1e-9);
        CHECK(reports[k].history.empty());
    }
}

TEST(ot_batch_bits_are_those_of_one_thread) {
    made_batch one(20), two(20);
    one.solve(1);
    two.solve(2);
    CHECK(one.plans == two.plans);
    CHECK(one.f == two.f);
    CHECK(one.g == two.g);
}

TEST(ot_batch_flags_the_bad_one) {
    made_batch clean(5), spoilt(5);
    clean.solve(2);
    spoilt.costs[3][1] = std::numeric_limits<double>::quiet_NaN();
    const auto reports = spoilt.solve(2);
    for (std::size_t k = 0; k < 5; ++k) {
        CHECK((reports[k].status == status::bad_input) == (k == 3));
        if (k != 3) CHECK(spoilt.plans[k] == clean.plans[k]);
    }
    CHECK(reports[3].detail == "`M` contains NaN");
    CHECK(std::isnan(reports[3].value));
}
