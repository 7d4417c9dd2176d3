// The CUDA kernels of batches of transport problems, run on the CPU as block programs: answers against the
// CPU's, certificates by plain loops, faults problem by problem, launches and reads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/ot_batch.hpp"
#include "cuda/ot_batch_kernels.hpp"
#include "ot_batch_cases.hpp"

namespace aitken::tests {
namespace {

namespace ot = aitken::ot;
using doubles = std::vector<double>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

template <class T>
using batch = std::vector<batch_case<T>>;

template <class T>
std::vector<ot::batch_problem<T>> views(batch<T>& all, bool with_plan = true) {
    std::vector<ot::batch_problem<T>> out;
    for (auto& p : all) {
        p.clear();
        out.push_back(p.view(with_plan));
    }
    return out;
}
struct run_of_blocks {
    std::vector<ot::batch_report> reports;
    traffic counts, by_driver;
};
template <class T>
run_of_blocks solve_there(const std::vector<ot::batch_problem<T>>& problems, const ot::options& o,
                          unsigned seed = 1, std::size_t shared = 160 * 1024) {
    interrupt signals;
    block_backend be(signals, seed);
    be.limit_shared(shared);
    run_of_blocks out;
    const auto fresh = [&](auto&& fn) {
        block_backend own(signals, seed + 1);
        fn(own);
        out.by_driver.launches += own.counts().launches;
        out.by_driver.reads += own.counts().reads;
    };
    out.reports = cuda::solve_batch<T>(be, fresh, problems, o, 1e-9);
    out.counts = be.counts();
    return out;
}
template <class T>
std::vector<ot::batch_report> solve_here(const std::vector<ot::batch_problem<T>>& problems,
                                         const ot::options& o) {
    interrupt signals;
    return cpu::ot::solve_batch<T>(problems, o, 1e-9, signals);
}
template <class T>
ot::options to(double tol) {
    ot::options o;
    o.tol = tol;
    return o;
}
template <class T>
constexpr double usual_tol = sizeof(T) == 8 ? 1e-9 : 1e-6;

// Both solutions within the tolerance are within some multiple of it of each other, but for potentials at eps
// so small that parts hardly exchange mass.
template <class T>
void same_answers(batch<T>& left, batch<T>& right, const ot::options& o) {
    const auto there = solve_there<T>(views(left), o, 3).reports;
    const auto here = solve_here<T>(views(right), o);
    for (std::size_t k = 0; k < left.size(); ++k) {
        auto& p = left[k];
        const std::string name =
            std::to_string(p.n) + "x" + std::to_string(p.m) + " at reg " + std::to_string(p.reg) + ": ";
        const auto expect = [&](bool ok, const std::string& what) {
            check::that(ok, __FILE__, __LINE__, (name + what).c_str());
        };
        expect(there[k].status == status::converged && here[k].status == status::converged, "converged");
        expect(there[k].err <= o.tol, "error " + std::to_string(there[k].err));
        if (sizeof(T) == 8) {
            const double err = p.error(o.rho_a, o.rho_b);
            expect(std::fabs(err - there[k].err) <= 0.05 * o.tol + 1e-13,
                   "certificate " + std::to_string(err / o.tol));
        }
        const double slack = 20 * o.tol * std::max(1.0, here[k].range);
        expect(std::fabs(there[k].value - here[k].value) <= slack, "value");
        expect(std::fabs(there[k].linear - here[k].linear) <= slack, "linear value");
        expect(std::fabs(there[k].mass - here[k].mass) <= slack, "mass");
        expect(std::fabs(there[k].range - here[k].range) <= 1e-15 * here[k].range, "range");
        expect(std::fabs(there[k].mass_a - here[k].mass_a) <= 1e-14 * here[k].mass_a &&
                   std::fabs(there[k].mass_b - here[k].mass_b) <= 1e-14 * here[k].mass_b,
               "masses of weights");
        double apart = 0;
        for (std::size_t e = 0; e < p.plan.size(); ++e)
            apart += std::fabs(static_cast<double>(p.plan[e]) - static_cast<double>(right[k].plan[e]));
        expect(apart <= 2000 * o.tol, "plans " + std::to_string(apart));
        bool finite = true;
        for (double e : p.f) finite = finite && std::isfinite(e);
        for (double e : p.g) finite = finite && std::isfinite(e);
        expect(finite, "finite potentials");
    }
}

// Sizes on both sides of every class, of a row of threads and of the shapes that none holds.
const index shapes[][2] = {{1, 1},    {1, 9},    {9, 1},    {2, 2},    {5, 160},   {161, 5},   {17, 31},
                           {32, 32},  {32, 33},  {33, 32},  {64, 64},  {64, 65},   {65, 64},   {16, 256},
                           {20, 257}, {24, 500}, {500, 24}, {100, 90}, {110, 111}, {111, 111}, {12, 520}};

template <class T>
void ragged(std::initializer_list<double> regs) {
    batch<T> left;
    unsigned seed = 1;
    for (double reg : regs)
        for (const auto& s : shapes)
            left.emplace_back(s[0], s[1], reg, seed % 2 ? cost_kind::random : cost_kind::clouds, seed),
                ++seed;
    batch<T> right = left;
    same_answers(left, right, to<T>(usual_tol<T>));
}
TEST(ot_batch_blocks_ragged_f64) { ragged<double>({0.1, 0.01, 1e-3}); }
TEST(ot_batch_blocks_ragged_f32) { ragged<float>({0.05, 5e-3}); }

// eps so small that plans are all but permutations and supports fall apart.
TEST(ot_batch_blocks_tiny_eps) {
    batch<double> left;
    for (unsigned seed = 1; seed <= 3; ++seed)
        for (double reg : {2e-4, 2e-5})
            for (cost_kind kind : {cost_kind::random, cost_kind::clouds}) {
                left.emplace_back(64, 64, reg, kind, seed);
                left.emplace_back(30, 40, reg, kind, seed + 10);
                left.emplace_back(80, 70, 1e-3, kind, seed + 20);
                if (kind == cost_kind::random)  // a permutation
                    for (std::size_t k = left.size() - 3; k < left.size(); ++k) left[k].uniform = true;
            }
    for (auto& p : left)
        if (p.uniform) p.a.assign(p.a.size(), 1.0 / p.n), p.b.assign(p.b.size(), 1.0 / p.m);
    batch<double> right = left;
    same_answers(left, right, to<double>(1e-9));
}

// Bins without mass, bins of 1e-30 of it, forbidden pairs, weights of other masses and none, long costs.
TEST(ot_batch_blocks_awkward_weights_and_pairs) {
    batch<double> left;
    const index sizes[][2] = {{7, 5}, {31, 33}, {64, 60}, {100, 70}, {20, 400}, {130, 120}};
    unsigned seed = 40;
    for (const auto& s : sizes)
        for (int kind = 0; kind < 5; ++kind) {
            batch_case<double> p(s[0], s[1], kind % 2 ? 0.02 : 2e-3, cost_kind::clouds, ++seed);
            const auto some = static_cast<std::size_t>(p.n / 3), other = static_cast<std::size_t>(p.m / 2);
            if (kind == 0) p.a[0] = p.a[some] = p.b[other] = p.b.back() = 0;
            if (kind == 1) p.a[some] = 1e-30, p.b[other] = 1e-20, p.b[0] = 1e-15;
            if (kind == 2) {
                for (index i = 0; i < p.n; ++i)
                    for (index j = 0; j < p.m; ++j)
                        if ((i * 7 + j * 3) % 5 == 0) p.at(i, j) = infinity;
                p.a[some] = 0;
                for (index j = 0; j < p.m; ++j) p.at(static_cast<index>(some), j) = j == 1 ? 0.5 : infinity;
            }
            if (kind == 3)
                for (double& c : p.cost) c = 1e3 * c - 5e2;
            if (kind == 3) p.reg *= 1e3;
            batch_case<double>::scale(p.a, kind == 4 ? 3.25 : 1.0);
            batch_case<double>::scale(p.b, kind == 4 ? 3.25 : 1.0);
            left.push_back(p);
        }
    batch<double> right = left;
    ot::options o = to<double>(1e-9);
    same_answers(left, right, o);
    // Potentials of empty bins are the c-transform, as on the CPU.
    for (std::size_t k = 0; k < left.size(); k += 5) {
        CHECK_NEAR(left[k].f[0] - right[k].f[0], 0.0, 1e-6);
        CHECK_NEAR(left[k].g.back() - right[k].g.back(), 0.0, 1e-6);
    }
}

// A bad problem has the CPU's words for it and changes no bit of the others, in a block and by the driver.
TEST(ot_batch_blocks_bad_input_is_flagged) {
    for (index size : {20, 60, 120}) {
        batch<double> good;
        for (unsigned k = 0; k < 3; ++k) good.emplace_back(size, size + 5, 0.02, cost_kind::clouds, 60 + k);
        batch<double> mixed = good;
        const auto spoil = [&](auto&& change) {
            batch_case<double> p(size, size - 1, 0.02, cost_kind::clouds, 70),
                q(size - 1, size, 0.02, cost_kind::random, 71);
            change(p);
            change(q);
            mixed.push_back(p);
            mixed.push_back(q);
        };
        spoil([](auto& p) { p.a[3] = -0.25; });
        spoil([](auto& p) { p.b[2] = nan; });
        spoil([](auto& p) { p.b[2] = infinity; });
        spoil([](auto& p) { p.a.assign(p.a.size(), 0.0); });
        spoil([](auto& p) { p.b.assign(p.b.size(), 0.0); });
        spoil([](auto& p) { p.a[0] += 0.5; });
        spoil([](auto& p) { p.at(4, 1) = nan; });
        spoil([](auto& p) { p.at(4, 1) = -infinity; });
        spoil([](auto& p) { p.reg = 0; });
        spoil([](auto& p) { p.reg = nan; });
        spoil([](auto& p) {
            for (index j = 0; j < p.m; ++j) p.at(5, j) = infinity;
        });
        spoil([](auto& p) {
            for (index i = 0; i < p.n; ++i) p.at(i, 6) = infinity;
        });
        spoil([](auto& p) {  // all pairs of a row but those with bins without mass
            p.b[1] = 0;
            batch_case<double>::scale(p.b, 1.0);
            for (index j = 0; j < p.m; ++j)
                if (j != 1) p.at(2, j) = infinity;
        });
        batch<double> right = mixed;
        const ot::options o = to<double>(1e-9);
        const auto there = solve_there<double>(views(mixed), o).reports;
        const auto here = solve_here<double>(views(right), o);
        solve_there<double>(views(good), o);
        for (std::size_t k = 0; k < mixed.size(); ++k) {
            if (k < good.size()) {
                CHECK(there[k].status == status::converged && mixed[k].plan == good[k].plan);
                CHECK(mixed[k].f == good[k].f && mixed[k].g == good[k].g);
                continue;
            }
            CHECK(there[k].status == status::bad_input && here[k].status == status::bad_input);
            // A block adds weights in another order, so the last digit of masses may differ.
            const auto words = [](const std::string& text) {
                return text.substr(0, text.find("; they sum"));
            };
            check::that(words(there[k].detail) == words(here[k].detail), __FILE__, __LINE__,
                        (there[k].detail + " | " + here[k].detail).c_str());
            CHECK(std::isnan(there[k].value) && std::isnan(there[k].err) && std::isnan(there[k].linear));
            for (double e : mixed[k].f) CHECK(std::isnan(e));
            for (double e : mixed[k].g) CHECK(std::isnan(e));
            for (double e : mixed[k].plan) CHECK(e == 0);
        }
    }
}

TEST(ot_batch_blocks_give_the_same_bits_in_any_order) {
    batch<double> one;
    for (index size : {9, 32, 50, 64, 90, 110})
        for (double reg : {0.05, 1e-3}) one.emplace_back(size, size + 1, reg, cost_kind::random, 80);
    batch<double> two = one;
    const ot::options o = to<double>(1e-9);
    const auto first = solve_there<double>(views(one), o, 5).reports;
    const auto second = solve_there<double>(views(two), o, 99).reports;
    for (std::size_t k = 0; k < one.size(); ++k) {
        CHECK(one[k].f == two[k].f && one[k].g == two[k].g && one[k].plan == two[k].plan);
        CHECK(first[k].value == second[k].value && first[k].err == second[k].err);
    }
}

// However many problems there are: one upload, a launch per class, one read. Plans that nobody wants are not
// written.
TEST(ot_batch_blocks_traffic) {
    for (index copies : {1, 40}) {
        batch<double> all;
        for (unsigned k = 0; k < copies; ++k)
            for (index size : {10, 50, 90}) all.emplace_back(size, size, 0.05, cost_kind::random, k);
        const auto run = solve_there<double>(views(all, false), to<double>(1e-9));
        for (const auto& r : run.reports) CHECK(r.status == status::converged);
        CHECK(run.counts.uploads == 1 && run.counts.reads == 1 && run.counts.launches == 3);
        CHECK(run.by_driver.launches == 0);
        for (const auto& p : all)
            for (double e : p.plan) CHECK(e == -7);
    }
    CHECK(solve_there<double>({}, to<double>(1e-9)).counts.launches == 0);
}

// A device with little shared memory leaves the larger problems to the driver; so does method = sns.
TEST(ot_batch_blocks_what_does_not_fit_goes_to_the_driver) {
    batch<double> left, right;
    for (index size : {30, 50, 90}) left.emplace_back(size, size + 4, 0.01, cost_kind::clouds, 90);
    right = left;
    ot::options o = to<double>(1e-9);
    const auto expected = solve_here<double>(views(right), o);
    index before = 0;
    for (std::size_t shared : {std::size_t{160} << 10, std::size_t{99} << 10, std::size_t{48} << 10}) {
        const auto run = solve_there<double>(views(left), o, 2, shared);
        for (std::size_t k = 0; k < left.size(); ++k) {
            CHECK(run.reports[k].status == status::converged);
            CHECK_NEAR(run.reports[k].value, expected[k].value, 2e-8);
            CHECK_NEAR(left[k].f[3], right[k].f[3], 1e-6);
        }
        CHECK(run.by_driver.launches >= before);
        if (shared < (std::size_t{160} << 10)) CHECK(run.by_driver.launches > before);
        before = run.by_driver.launches;
    }
    o.method = ot::method::sns;
    o.reg = 0.01;
    const auto sns = solve_there<double>(views(left), o);
    CHECK(sns.counts.launches == 0);
    for (const auto& r : sns.reports) CHECK(r.used == ot::method::sns);
}

TEST(ot_batch_blocks_methods_budget_and_warm_starts) {
    for (index size : {30, 60, 100}) {
        batch<double> all;
        for (unsigned k = 0; k < 3; ++k) all.emplace_back(size, size + 2, 0.02, cost_kind::clouds, 95 + k);
        batch<double> right = all;
        ot::options o = to<double>(1e-10);
        const auto expected = solve_here<double>(views(right), o);
        for (auto method : {ot::method::automatic, ot::method::newton, ot::method::sinkhorn}) {
            o.method = method;
            const auto run = solve_there<double>(views(all), o);
            for (std::size_t k = 0; k < all.size(); ++k) {
                CHECK(run.reports[k].status == status::converged);
                CHECK_NEAR(run.reports[k].value, expected[k].value, 1e-9);
                CHECK((run.reports[k].nit_newton == 0) ==
                      (run.reports[k].used == ot::method::sinkhorn || run.reports[k].err == 0));
                if (method == ot::method::sinkhorn) CHECK(run.reports[k].nit_newton == 0);
            }
            // On from the solution of a cost a little different: fewer steps.
            auto warm = o;
            warm.warm = true;
            std::vector<ot::batch_problem<double>> again;
            for (auto& p : all) {
                for (index i = 0; i < p.n; ++i) p.at(i, i) += 1e-5;
                again.push_back(p.view());
            }
            const auto next = solve_there<double>(again, warm);
            for (std::size_t k = 0; k < all.size(); ++k) {
                CHECK(next.reports[k].status == status::converged);
                CHECK(all[k].error() <= o.tol);
                CHECK(next.reports[k].nit_sinkhorn + next.reports[k].nit_newton <
                      run.reports[k].nit_sinkhorn + run.reports[k].nit_newton);
                for (index i = 0; i < all[k].n; ++i) all[k].at(i, i) -= 1e-5;
            }
        }
        o.method = ot::method::newton;
        o.max_iterations = 5;
        const auto cut = solve_there<double>(views(all), o);
        for (std::size_t k = 0; k < all.size(); ++k) {
            CHECK(cut.reports[k].status == status::max_iterations);
            CHECK(cut.reports[k].detail == "the iteration budget is spent");
            CHECK(cut.reports[k].nit_sinkhorn + cut.reports[k].nit_newton <= 6);
            CHECK(cut.reports[k].err > o.tol);
            CHECK_NEAR(cut.reports[k].err, all[k].error(), 1e-9);
        }
    }
}

// Beyond 64 rows Newton steps are the driver's, so CG counts are, too.
TEST(ot_batch_blocks_cg_counts) {
    for (unsigned seed : {1u, 2u, 3u}) {
        batch<double> left;
        left.emplace_back(100, 110, 1e-3, cost_kind::clouds, seed);
        left.emplace_back(90, 75, 2e-3, cost_kind::clouds, seed);
        batch<double> right = left;
        ot::options o = to<double>(1e-9);
        o.linear_solver = ot::linear_solver::jacobi;
        const auto there = solve_there<double>(views(left), o).reports;
        const auto here = solve_here<double>(views(right), o);
        for (std::size_t k = 0; k < left.size(); ++k) {
            const double count = static_cast<double>(here[k].nit_cg);
            CHECK(count > 30);
            CHECK_NEAR(static_cast<double>(there[k].nit_cg), count, 0.25 * count);
        }
    }
}

// Soft marginals: the fixed point by plain loops, any masses, few Newton steps where Sinkhorn needs hundreds.
TEST(ot_batch_blocks_unbalanced) {
    const double sides[][2] = {{0.5, 0.5},      {0.05, 2.0}, {infinity, 1.0},
                               {3.0, infinity}, {1e4, 1e4},  {1e8, 1e9}};
    for (const auto& rho : sides) {
        batch<double> all;
        unsigned seed = 200;
        for (index size : {1, 12, 40, 64, 90})
            for (double reg : {0.02, 1e-3}) {
                all.emplace_back(size, size + 7, reg, cost_kind::clouds, ++seed);
                all.emplace_back(size + 7, size, reg, cost_kind::random, ++seed);
                batch_case<double>::scale(all.back().a, 1.7);
                if (size > 1) all.back().a[1] = all.back().b[0] = 0;
                if (rho[0] > 1e3 || rho[1] > 1e3) batch_case<double>::scale(all.back().b, 1.2);
            }
        ot::options o = to<double>(1e-10);
        o.rho_a = rho[0];
        o.rho_b = rho[1];
        const auto run = solve_there<double>(views(all), o);
        for (std::size_t k = 0; k < all.size(); ++k) {
            const auto& r = run.reports[k];
            const std::string name =
                std::to_string(all[k].n) + "x" + std::to_string(all[k].m) + " rho " + std::to_string(rho[0]) +
                " " + std::to_string(rho[1]) + " reg " + std::to_string(all[k].reg) + " status " +
                std::to_string(static_cast<int>(r.status)) + " err " + std::to_string(r.err * 1e10) +
                "e-10, newton " + std::to_string(r.nit_newton) + " sinkhorn " +
                std::to_string(r.nit_sinkhorn);
            check::that(r.status == status::converged && r.err <= o.tol, __FILE__, __LINE__, name.c_str());
            // Potentials grow with rho where masses differ, and their own rounding with them.
            double size = 0;
            for (double e : all[k].f)
                if (std::isfinite(e)) size = std::max(size, std::fabs(e));
            const double rounding = 1e-15 * size / all[k].reg;
            check::that(all[k].error(rho[0], rho[1]) <= 1.2 * o.tol + rounding, __FILE__, __LINE__,
                        (name + " recomputed").c_str());
            check::that(r.nit_newton <= 25, __FILE__, __LINE__, name.c_str());
        }
    }
}

// In a block and by the driver: the same solution, whose value is that of the primal problem.
TEST(ot_batch_blocks_unbalanced_like_the_driver) {
    const double sides[][2] = {{0.3, 0.3}, {0.1, 5.0}, {infinity, 0.5}, {0.7, infinity}};
    for (const auto& rho : sides) {
        batch<double> left;
        unsigned seed = 300;
        for (index size : {5, 30, 60, 85}) {
            left.emplace_back(size, size + 3, 0.02, cost_kind::clouds, ++seed);
            left.emplace_back(size + 4, size, 0.004, cost_kind::random, ++seed);
            batch_case<double>::scale(left.back().a, 0.6);
            for (auto* p : {&left[left.size() - 2], &left.back()}) p->b[1] = p->a[2] = 0;
        }
        batch<double> right = left, cpu = left;
        ot::options o = to<double>(1e-11);
        o.rho_a = rho[0];
        o.rho_b = rho[1];
        solve_here<double>(views(cpu), o);
        const auto there = solve_there<double>(views(left), o).reports;
        const auto by_driver = solve_there<double>(views(right), o, 4, 0);
        CHECK(by_driver.counts.launches == 0);
        for (std::size_t k = 0; k < left.size(); ++k) {
            const auto &l = there[k], &r = by_driver.reports[k];
            const auto& p = left[k];
            CHECK(l.status == status::converged && r.status == status::converged);
            CHECK_NEAR(l.value, r.value, 1e-9);
            CHECK_NEAR(l.linear, r.linear, 1e-9);
            CHECK_NEAR(l.mass, r.mass, 1e-9);
            for (const auto* q : {&left[k], &right[k]}) {  // damped where a bin has no mass, too
                for (std::size_t i = 0; i < p.f.size(); ++i) CHECK_NEAR(q->f[i], cpu[k].f[i], 1e-7);
                for (std::size_t j = 0; j < p.g.size(); ++j) CHECK_NEAR(q->g[j], cpu[k].g[j], 1e-7);
            }
            for (std::size_t e = 0; e < p.plan.size(); ++e) CHECK_NEAR(p.plan[e], right[k].plan[e], 1e-9);
            // <C, P> + reg KL(P | a b^T) + rho_a KL(P 1 | a) + rho_b KL(P^T 1 | b)
            const auto divergence = [](double x, double of) {
                return x > 0 ? x * std::log(x / of) - x + of : of;
            };
            doubles rows(p.a.size(), 0.0), cols(p.b.size(), 0.0);
            double primal = l.linear;
            for (index i = 0; i < p.n; ++i)
                for (index j = 0; j < p.m; ++j) {
                    const double e = p.plan[static_cast<std::size_t>(i * p.m + j)];
                    rows[i] += e;
                    cols[j] += e;
                    primal += p.reg * divergence(e, p.a[i] * p.b[j]);
                }
            for (index i = 0; i < p.n; ++i)
                if (rho[0] < infinity) primal += rho[0] * divergence(rows[i], p.a[i]);
            for (index j = 0; j < p.m; ++j)
                if (rho[1] < infinity) primal += rho[1] * divergence(cols[j], p.b[j]);
            CHECK_NEAR(l.value, primal, 1e-8);
        }
    }
}

// The same numbers, infinities included.
void near(const doubles& left, const doubles& right, double tol) {
    for (std::size_t k = 0; k < left.size(); ++k)
        CHECK(left[k] == right[k] || std::fabs(left[k] - right[k]) <= tol);
}

// Soft bins with mass that the cost isolates send nothing and cost their price; in a block and by the driver,
// cold and warm.
TEST(ot_batch_blocks_soft_bins_that_the_cost_isolates) {
    const double sides[][2] = {{0.5, 0.5}, {0.1, infinity}, {infinity, 0.7}};
    for (const auto& rho : sides) {
        batch<double> left;
        unsigned seed = 400;
        for (index size : {7, 40, 90, 120})
            for (index more : {3, 0}) {
                batch_case<double> p(size + more, size + 3 - more, 0.02, cost_kind::clouds, ++seed);
                if (rho[0] < infinity) {
                    for (index j = 0; j < p.m; ++j) p.at(2, j) = infinity;
                    p.b[4] = 0;  // all that row 3 may reach
                    for (index j = 0; j < p.m; ++j)
                        if (j != 4) p.at(3, j) = infinity;
                }
                if (rho[1] < infinity)
                    for (index i = 0; i < p.n; ++i) p.at(i, 1) = infinity;
                left.push_back(p);
            }
        batch<double> right = left;
        ot::options o = to<double>(1e-11);
        o.rho_a = rho[0];
        o.rho_b = rho[1];
        const auto expected = solve_here<double>(views(right), o);
        for (std::size_t shared : {std::size_t{160} << 10, std::size_t{0}}) {
            const auto cold = solve_there<double>(views(left), o, 1, shared).reports;
            std::vector<ot::batch_problem<double>> again;
            for (auto& p : left) again.push_back(p.view());
            auto warm = o;
            warm.warm = true;
            batch<double> solved = left;
            const auto next = solve_there<double>(again, warm, 1, shared).reports;
            for (std::size_t k = 0; k < left.size(); ++k) {
                CHECK(expected[k].status == status::converged);
                for (const auto* r : {&cold[k], &next[k]}) {
                    CHECK(r->status == status::converged);
                    CHECK_NEAR(r->value, expected[k].value, 1e-9);
                    CHECK_NEAR(r->linear, expected[k].linear, 1e-9);
                    CHECK_NEAR(r->mass, expected[k].mass, 1e-9);
                    CHECK_NEAR(r->mass_a, expected[k].mass_a, 1e-14);
                    CHECK_NEAR(r->mass_b, expected[k].mass_b, 1e-14);
                }
                CHECK(next[k].nit_sinkhorn + next[k].nit_newton <= 11);
                for (const auto* p : {&solved[k], &left[k]}) {
                    near(p->plan, right[k].plan, 1e-9);
                    near(p->f, right[k].f, 1e-7);
                    near(p->g, right[k].g, 1e-7);
                }
                CHECK(rho[0] == infinity || (left[k].f[2] == infinity && std::isfinite(left[k].f[4])));
                CHECK(rho[1] == infinity || left[k].g[1] == infinity);
            }
        }
    }
}

// What is left of a soft problem may still be none, and a hard side stays hard: the CPU's words.
TEST(ot_batch_blocks_isolated_bins_that_are_faults) {
    const double sides[][2] = {{0.5, 0.5}, {0.5, infinity}, {infinity, 0.5}};
    for (const auto& rho : sides) {
        batch<double> left;
        for (index size : {9, 50, 120}) {
            batch_case<double> p(size, size + 2, 0.02, cost_kind::clouds, 77), q = p, r = p;
            for (index i = 0; i < p.n; ++i)
                for (index j = 0; j < p.m; ++j) p.at(i, j) = infinity;
            for (index i = 0; i < p.n; ++i) q.at(i, 6) = infinity;
            for (index j = 0; j < p.m; ++j) q.at(5, j) = r.at(4, j) = infinity;
            left.insert(left.end(), {p, q, r});
        }
        batch<double> right = left;
        ot::options o = to<double>(1e-9);
        o.rho_a = rho[0];
        o.rho_b = rho[1];
        const auto there = solve_there<double>(views(left), o).reports;
        const auto here = solve_here<double>(views(right), o);
        for (std::size_t k = 0; k < left.size(); ++k) {
            CHECK(there[k].status == here[k].status && there[k].detail == here[k].detail);
            const bool fault = k % 3 == 0 || (k % 3 == 1 && rho[0] + rho[1] == infinity) ||
                               (k % 3 == 2 && rho[0] == infinity);
            CHECK((there[k].status == status::bad_input) == fault);
            if (!fault) continue;
            CHECK(std::isnan(there[k].value));
            for (double e : left[k].f) CHECK(std::isnan(e));
            for (double e : left[k].plan) CHECK(e == 0);
        }
    }
}

// A constant far larger than what costs differ in changes no digit of the plan: that of the costs less the
// smallest, which are exact. Cold, then warm from the solution; in a block and by the driver.
template <class T>
void common_parts(std::initializer_list<double> constants, double tol) {
    const index sizes[][2] = {{1, 1}, {1, 6}, {9, 6}, {30, 33}, {64, 60}, {90, 100}};
    for (double constant : constants) {
        batch<T> left, plain;
        unsigned seed = 500;
        for (const auto& s : sizes) {
            ++seed;
            batch_case<T> p(s[0], s[1], 0.02, seed % 2 ? cost_kind::clouds : cost_kind::random, seed);
            if (p.n > 5) {
                p.a[0] = p.b[2] = 0;  // the first bin of a side has none
                p.at(3, 4) = static_cast<T>(infinity);
                for (auto* w : {&p.a, &p.b}) batch_case<T>::scale(*w, 1.0);
            }
            T least = static_cast<T>(infinity);
            for (index i = 0; i < p.n; ++i)
                for (index j = 0; j < p.m; ++j) {
                    p.at(i, j) = static_cast<T>(p.at(i, j) + constant);
                    least = std::min(least, p.at(i, j));
                }
            left.push_back(p);
            for (index i = 0; i < p.n; ++i)
                for (index j = 0; j < p.m; ++j) p.at(i, j) -= least;
            plain.push_back(p);
        }
        const ot::options o = to<T>(tol);
        const auto expected = solve_here<T>(views(plain), o);
        batch<T> other = left;
        const auto here = solve_here<T>(views(other), o);
        // Potentials as large as the constant carry its rounding.
        const double rounding = 4e-16 * std::fabs(constant);
        for (std::size_t shared : {std::size_t{160} << 10, std::size_t{0}}) {
            const auto first = solve_there<T>(views(left), o, 1, shared);
            std::vector<ot::batch_problem<T>> again;
            batch<T> solved = left;
            for (auto& p : solved) again.push_back(p.view());
            auto warm = o;
            warm.warm = true;
            const auto second = solve_there<T>(again, warm, 1, shared);
            const auto &cold = first.reports, &next = second.reports;
            for (const auto* run : {&first, &second})  // no block gives up
                CHECK((run->by_driver.launches == 0) == (shared > 0));
            for (std::size_t k = 0; k < left.size(); ++k) {
                const double offset =
                    static_cast<double>(left[k].at(0, 0)) - static_cast<double>(plain[k].at(0, 0));
                CHECK(here[k].offset == offset);
                for (const auto* r : {&cold[k], &next[k]}) {
                    CHECK(r->status == status::converged && r->offset == offset);
                    CHECK_NEAR(r->value, expected[k].value + offset, 20 * tol + rounding);
                    CHECK_NEAR(r->linear, expected[k].linear + offset, 20 * tol + rounding);
                    CHECK(r->range == expected[k].range);
                }
                CHECK(next[k].nit_sinkhorn + next[k].nit_newton <= 21);
                for (const auto* p : {&left[k], &solved[k]}) {
                    double apart = 0;
                    for (std::size_t e = 0; e < p->plan.size(); ++e)
                        apart += std::fabs(static_cast<double>(p->plan[e] - plain[k].plan[e]));
                    CHECK(apart <= 100 * tol);
                    for (std::size_t i = 0; i < p->f.size(); ++i)
                        CHECK_NEAR(p->f[i], plain[k].f[i] + 0.5 * offset, 1000 * tol + rounding);
                    for (std::size_t j = 0; j < p->g.size(); ++j)
                        CHECK_NEAR(p->g[j], plain[k].g[j] + 0.5 * offset, 1000 * tol + rounding);
                }
            }
        }
    }
}
TEST(ot_batch_blocks_common_part_of_costs_f64) { common_parts<double>({1e8, -2e7}, 1e-9); }
TEST(ot_batch_blocks_common_part_of_costs_f32) { common_parts<float>({5e3, -300}, 1e-6); }

// Nothing is taken off where costs are near 0, nor from soft problems, whose mass it would change.
TEST(ot_batch_blocks_costs_that_keep_their_common_part) {
    for (bool soft : {false, true}) {
        batch<double> left;
        for (index size : {20, 120}) left.emplace_back(size, size, 0.05, cost_kind::clouds, 88);
        for (auto& p : left)
            for (double& c : p.cost) c += soft ? 200 : 20;
        batch<double> right = left;
        ot::options o = to<double>(1e-9);
        if (soft) o.rho_a = o.rho_b = 100;
        const auto there = solve_there<double>(views(left), o).reports;
        const auto here = solve_here<double>(views(right), o);
        for (std::size_t k = 0; k < left.size(); ++k) {
            CHECK(there[k].status == status::converged && there[k].offset == 0 && here[k].offset == 0);
            CHECK_NEAR(there[k].value, here[k].value, 1e-6);
        }
    }
}

}  // namespace
}  // namespace aitken::tests
