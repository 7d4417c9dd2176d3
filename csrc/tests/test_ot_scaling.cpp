// Panels at every level this machine supports against plain loops, the decisions of the accelerated iteration
// on a scripted problem, and pairs whose answers may depend on nothing but themselves.
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/api/ot_scaling.hpp"
#include "cpu/ot_scaling_kernels.hpp"
#include "cpu/simd/dispatch.hpp"
#include "drivers/ot_scaling.hpp"

namespace aitken::tests {
namespace {

using cpu::simd_for;
using cpu::simd_levels;

constexpr int lanes = AITKEN_LANES, memory = AITKEN_MEMORY, strip = AITKEN_STRIP;
constexpr double inf = std::numeric_limits<double>::infinity();
using numbers = std::vector<double>;

numbers random_numbers(std::size_t count, unsigned seed, double low = 0.1, double high = 1.0) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> pick(low, high);
    numbers out(count);
    for (double& x : out) x = pick(random);
    return out;
}

TEST(ot_scaling_logarithms) {
    for (const auto level : simd_levels()) {
        const auto& table = simd_for(level);
        numbers z = random_numbers(1003, 1, -700.0, 700.0);
        for (std::size_t i = 0; i < z.size(); ++i) z[i] = i % 2 ? std::exp(z[i]) : 1.0 + 1e-4 * z[i] / 700.0;
        for (const std::size_t n : {0u, 1u, 2u, 3u, 7u, 8u, 31u, 1003u}) {
            numbers e(n + 1, -5.0);
            table.log_n(z.data(), e.data(), static_cast<std::int64_t>(n));
            for (std::size_t i = 0; i < n; ++i)
                CHECK_NEAR(e[i], std::log(z[i]), 1e-18 + 2.3e-16 * std::fabs(std::log(z[i])));
            CHECK(e[n] == -5.0);
        }
        numbers odd{inf, std::nan(""), 1.0};
        table.log_n(odd.data(), odd.data(), 3);
        CHECK(std::isnan(odd[0]) && std::isnan(odd[1]) && odd[2] == 0.0);
    }
}

TEST(ot_scaling_products) {
    for (const auto level : simd_levels())
        for (const int rows : {1, 3, 11, 12, 13, 30})
            for (const int depth : {1, 2, 17}) {
                const numbers a = random_numbers(static_cast<std::size_t>(rows * depth), 2);
                numbers packed(static_cast<std::size_t>((rows + strip - 1) / strip * strip * depth), 0.0);
                for (int i = 0; i < rows; ++i)
                    for (int k = 0; k < depth; ++k)
                        packed[static_cast<std::size_t>((i / strip * depth + k) * strip + i % strip)] =
                            a[static_cast<std::size_t>(i * depth + k)];
                const int ldx = lanes + 3, ldy = 2 * lanes + 1;
                const numbers x = random_numbers(static_cast<std::size_t>(depth * ldx), 3);
                numbers over = random_numbers(static_cast<std::size_t>(rows * ldy), 4);
                over[0] = 0.0;
                for (const bool divided : {false, true}) {
                    numbers y(static_cast<std::size_t>(rows * ldy + 1), -7.0);
                    simd_for(level).panel_multiply(packed.data(), rows, depth, x.data(), ldx,
                                                   divided ? over.data() : nullptr, y.data(), ldy);
                    for (int i = 0; i < rows; ++i)
                        for (int l = 0; l < ldy; ++l) {
                            const auto at = static_cast<std::size_t>(i * ldy + l);
                            if (l >= lanes) {
                                CHECK(y[at] == -7.0);
                                continue;
                            }
                            double sum = 0;
                            for (int k = 0; k < depth; ++k)
                                sum += a[static_cast<std::size_t>(i * depth + k)] *
                                       x[static_cast<std::size_t>(k * ldx + l)];
                            const double expected = divided ? over[at] / sum : sum;
                            CHECK_NEAR(y[at], expected, 1e-14 * std::fabs(expected));
                        }
                    CHECK(y.back() == -7.0);
                }
            }
}

// One step of every elementwise kernel against loops over single lanes.
TEST(ot_scaling_elementwise) {
    const std::size_t n = 9, size = n * lanes;
    for (const auto level : simd_levels()) {
        const auto& table = simd_for(level);
        numbers a = random_numbers(size, 5), x = random_numbers(size, 6, -3, 3);
        const numbers u = random_numbers(size, 7), w = random_numbers(size, 8);
        a[5] = 0.0;
        x[5] = cpu::no_scaling;
        numbers f(size), err(lanes, 0.25), norm2(lanes, 0.5);
        table.panel_residual(a.data(), x.data(), u.data(), w.data(), n, f.data(), err.data(), norm2.data());
        for (std::size_t l = 0; l < lanes; ++l) {
            double e = 0.25, s = 0.5;
            for (std::size_t i = l; i < size; i += lanes) {
                const double expected = a[i] > 0 ? std::log(a[i] / w[i]) - x[i] : 0.0;
                CHECK_NEAR(f[i], expected, 1e-14);
                e += std::fabs(u[i] * w[i] - a[i]);
                s += a[i] * expected * expected;
            }
            CHECK_NEAR(err[l], e, 1e-13);
            CHECK_NEAR(norm2[l], s, 1e-12);
        }

        numbers last_x = random_numbers(size, 9, -3, 3);
        last_x[5] = cpu::no_scaling;  // a bin without mass stays one
        const numbers last_f = random_numbers(size, 10, -3, 3);
        numbers use(lanes, 1.0), back(lanes, 0.0);
        use[2] = 0.0;
        back[7] = 1.0;
        std::vector<float> past(2 * size * memory);
        float *const changes = past.data(), *const images = changes + size * memory;
        for (std::size_t i = 0; i < size * memory; ++i) {
            changes[i] = static_cast<float>(std::sin(static_cast<double>(i)));
            images[i] = static_cast<float>(std::cos(static_cast<double>(i)));
        }
        numbers gram(memory * lanes, 0.0), rhs(memory * lanes, 0.0);
        std::vector<std::int32_t> slots(lanes, 3);
        slots[1] = 0;
        slots[9] = memory - 1;
        numbers newest(size);
        table.panel_remember(a.data(), x.data(), last_x.data(), f.data(), last_f.data(), use.data(), n,
                             slots.data(), changes, images, newest.data(), gram.data(), rhs.data());
        for (std::size_t l = 0; l < lanes; ++l)
            for (std::size_t j = 0; j < memory; ++j) {
                const auto slot = static_cast<std::size_t>(slots[l]);
                double g = 0, b = 0;
                for (std::size_t i = 0; i < n; ++i) {
                    const std::size_t at = i * lanes + l, past = (i * memory + j) * lanes + l;
                    const float change = l == 2 ? 0.0f : static_cast<float>(f[at] - last_f[at]);
                    const double now = changes[(i * memory + slot) * lanes + l];
                    if (j == slot) {
                        CHECK_NEAR(changes[past], change, 1e-6);
                        CHECK_NEAR(images[past], l == 2 ? 0.0 : x[at] - last_x[at] + f[at] - last_f[at],
                                   1e-5);
                    }
                    g += a[at] * changes[past] * now;
                    b += a[at] * changes[past] * f[at];
                }
                CHECK_NEAR(gram[j * lanes + l], g, 1e-12);
                CHECK_NEAR(rhs[j * lanes + l], b, 1e-12);
            }

        const numbers theta = random_numbers(memory * lanes, 11, -1, 1);
        numbers next = last_x;
        const double reach = 1.5;
        table.panel_advance(x.data(), f.data(), last_f.data(), back.data(), n, images, theta.data(), reach,
                            next.data());
        for (std::size_t i = 0; i < size; ++i) {
            const std::size_t l = i % lanes, row = i / lanes;
            double step = f[i];
            for (std::size_t j = 0; j < memory; ++j)
                step -= theta[j * lanes + l] * images[(row * memory + j) * lanes + l];
            const double expected =
                l == 7 ? last_x[i] + last_f[i] : x[i] + std::fmax(-reach, std::fmin(reach, step));
            CHECK_NEAR(next[i], expected, 1e-13 + 1e-16 * std::fabs(expected));
        }
    }
}

// A positive definite system per lane, some of whose unknowns are not there.
TEST(ot_scaling_combination) {
    for (const auto level : simd_levels()) {
        numbers gram(memory * memory * lanes, 0.0), rhs(memory * lanes, 0.0), theta(memory * lanes);
        const numbers vectors = random_numbers(memory * 20 * lanes, 12, -1, 1);
        const auto there = [](int j, int l) { return l != 4 || j % 2 == 0; };
        for (int l = 0; l < lanes; ++l)
            for (int j = 0; j < memory; ++j) {
                if (there(j, l)) rhs[static_cast<std::size_t>(j * lanes + l)] = std::cos(j + l);
                for (int k = 0; k < memory; ++k)
                    for (int i = 0; i < 20; ++i)
                        if (there(j, l) && there(k, l))
                            gram[static_cast<std::size_t>((j * memory + k) * lanes + l)] +=
                                1e-9 * vectors[static_cast<std::size_t>((j * 20 + i) * lanes + l)] *
                                vectors[static_cast<std::size_t>((k * 20 + i) * lanes + l)];
            }
        simd_for(level).panel_combination(gram.data(), rhs.data(), 1e-10, theta.data());
        for (int l = 0; l < lanes; ++l)
            for (int j = 0; j < memory; ++j) {
                const double own = theta[static_cast<std::size_t>(j * lanes + l)];
                if (!there(j, l)) {
                    CHECK(own == 0.0);
                    continue;
                }
                double sum = 1e-10 * gram[static_cast<std::size_t>((j * memory + j) * lanes + l)] * own;
                for (int k = 0; k < memory; ++k)
                    sum += gram[static_cast<std::size_t>((j * memory + k) * lanes + l)] *
                           theta[static_cast<std::size_t>(k * lanes + l)];
                CHECK_NEAR(sum, rhs[static_cast<std::size_t>(j * lanes + l)], 1e-9);
            }
    }
}

TEST(ot_scaling_course) {
    using drivers::ot::scaling_course;
    using drivers::ot::verdict;
    ot::scaling_options options;
    options.tol = 1e-6;
    scaling_course course;
    const auto judge = [&](double err, double norm) {
        const verdict what = course.judge(err, norm, options);
        course.remembers(what);
        return what;
    };
    CHECK(judge(1.0, 1.0) == verdict::go_on);  // the first point has nothing before it
    CHECK(judge(1.0, 2.9) == verdict::go_on);
    CHECK(judge(1.0, 3.1) == verdict::go_back);  // what is remembered misled it
    CHECK(judge(1.0, 3.1) == verdict::go_on);    // nothing is remembered: there is no way back
    CHECK(judge(1.0, 0.5) == verdict::go_on);
    CHECK(judge(inf, inf) == verdict::go_back);
    CHECK(judge(inf, inf) == verdict::given_up);
    CHECK(judge(1e-7, 1.0) == verdict::converged);
    CHECK(course.nit() == 8);

    scaling_course slow;
    int forgotten = 0, iterations = 0;
    for (verdict what = verdict::go_on; what != verdict::given_up; ++iterations) {
        what = slow.judge(1.0, 1.0, options);
        slow.remembers(what);
        forgotten += what == verdict::forget;
        CHECK(iterations < 1000);
        if (iterations >= 1000) break;
    }
    CHECK(forgotten == 4);
}

// What solve_lanes asks of its kernels, and when: problem p takes p + 1 iterations, odd ones are hopeless.
struct scripted_lanes {
    explicit scripted_lanes(int count) : now(static_cast<std::size_t>(count), -1), steps(now.size(), 0) {}
    int lanes() const { return static_cast<int>(now.size()); }
    void start(int lane, index problem) {
        now[static_cast<std::size_t>(lane)] = problem;
        steps[static_cast<std::size_t>(lane)] = 0;
    }
    void idle(int lane) { now[static_cast<std::size_t>(lane)] = -1; }
    void evaluate(std::span<double> err, std::span<double> norm2) {
        for (std::size_t l = 0; l < now.size(); ++l) {
            const bool done = now[l] >= 0 && ++steps[l] > now[l];
            err[l] = done ? (now[l] % 2 ? inf : 0.0) : 1.0;
            norm2[l] = err[l];
            evaluations += now[l] >= 0;
        }
    }
    void remember(std::span<const int>, std::span<const double> use, std::span<const double>) {
        for (const double u : use) CHECK(u == 0.0 || u == 1.0);
    }
    void advance(std::span<const double>) {}
    void finish(int lane, index problem, index nit, double err) {
        CHECK(now[static_cast<std::size_t>(lane)] == problem && nit == problem + 1 && err == 0.0);
        finished.push_back(problem);
    }
    void flush() { ++flushed; }
    void keep(std::span<index> problems) {
        std::vector<index> from;
        for (std::size_t l = 0; l < problems.size(); ++l) {
            CHECK(problems[l] == now[l]);
            if (problems[l] >= 0) from.push_back(static_cast<index>(l));
        }
        for (std::size_t l = 0; l < from.size(); ++l) {
            const auto source = static_cast<std::size_t>(from[l]);
            now[l] = now[source];
            steps[l] = steps[source];
            problems[l] = from[l];
        }
        now.resize(from.size());
        steps.resize(from.size());
    }
    std::vector<index> now, steps, finished;
    long evaluations = 0;
    int flushed = 0;
};

TEST(ot_scaling_lanes_are_refilled) {
    scripted_lanes k(4);
    index next = 0;
    std::vector<index> failed;
    drivers::ot::solve_lanes(
        k, {}, memory, [&] { return next < 20 ? next++ : index{-1}; },
        [&](index problem, double, index) { failed.push_back(problem); }, [] {});
    CHECK(k.finished.size() == 10 && failed.size() == 10 && k.flushed == 1);
    for (const index p : k.finished) CHECK(p % 2 == 0);
    for (const index p : failed) CHECK(p % 2 == 1);
    // A hopeless one is taken back once where something is remembered: from its third iteration on.
    CHECK(k.evaluations == 20 * 21 / 2 + 9);
}

// Bits of a pair do not follow from which others are solved with it, or from the threads.
TEST(ot_scaling_pairs_alone_and_together) {
    const index n = 30, m = 23, count = 70;
    const numbers cost = random_numbers(static_cast<std::size_t>(n * m), 13, 0, 1);
    numbers a = random_numbers(static_cast<std::size_t>(count * n), 14, 0.01, 1);
    numbers b = random_numbers(static_cast<std::size_t>(count * m), 15, 0.01, 1);
    const auto scale = [&](numbers& h, index length) {
        for (index i = 0; i < count; ++i) {
            double sum = 0;
            for (index k = 0; k < length; ++k) sum += h[static_cast<std::size_t>(i * length + k)];
            for (index k = 0; k < length; ++k) h[static_cast<std::size_t>(i * length + k)] /= sum;
        }
    };
    scale(a, n);
    scale(b, m);
    const auto solve = [&](std::vector<std::int64_t> which, int threads) {
        std::vector<std::int64_t> second(which);
        for (auto& j : second)
            if (j < 0) j = 0;
        const auto size = static_cast<index>(which.size());
        numbers value(which.size()), linear(which.size()), err(which.size()), x(which.size() * n),
            y(which.size() * m);
        std::vector<std::int64_t> nit(which.size());
        std::vector<std::int32_t> status(which.size());
        ot::scaling_options options;
        options.reg = 0.05;
        options.n_threads = threads;
        interrupt signals;
        cpu::ot::solve_pairs(
            {{cost.data(), n, m, m}},
            {{a.data(), count, n, n}, {b.data(), count, m, m}, {which.data(), size}, {second.data(), size}},
            options,
            {{value.data(), size},
             {linear.data(), size},
             {err.data(), size},
             {nit.data(), size},
             {status.data(), size},
             {x.data(), size, n, n},
             {y.data(), size, m, m}},
            signals);
        for (std::size_t k = 0; k < which.size(); ++k) {
            if (which[k] < 0) {
                CHECK(status[k] == 9 && std::isnan(value[k]));
                continue;
            }
            CHECK(status[k] == 0 && err[k] <= options.tol);
            // The certificate and <C, P> from the returned scalings.
            double gap = 0, total = 0;
            numbers column(static_cast<std::size_t>(m), 0.0);
            for (index i = 0; i < n; ++i) {
                double row = 0;
                for (index j = 0; j < m; ++j) {
                    const double c = cost[static_cast<std::size_t>(i * m + j)];
                    const double p = std::exp(x[k * n + static_cast<std::size_t>(i)] +
                                              y[k * m + static_cast<std::size_t>(j)] - c / options.reg);
                    row += p;
                    column[static_cast<std::size_t>(j)] += p;
                    total += c * p;
                }
                gap += std::fabs(row - a[static_cast<std::size_t>(which[k] * n + i)]);
            }
            for (index j = 0; j < m; ++j)
                gap += std::fabs(column[static_cast<std::size_t>(j)] -
                                 b[static_cast<std::size_t>(second[k] * m + j)]);
            CHECK_NEAR(gap, err[k], 1e-13);
            CHECK_NEAR(total, linear[k], 1e-13);
        }
        return linear;
    };
    std::vector<std::int64_t> all;
    for (index k = 0; k < count; ++k) all.push_back(k == 5 ? -1 : k);
    const numbers together = solve(all, 1), threaded = solve(all, 3);
    for (const std::int64_t k : {0, 17, 69}) CHECK(solve({k}, 1)[0] == together[static_cast<std::size_t>(k)]);
    for (std::size_t k = 0; k < together.size(); ++k)
        CHECK(together[k] == threaded[k] || (k == 5 && std::isnan(threaded[k])));
}

}  // namespace
}  // namespace aitken::tests
