// KKT systems and a batch of problems for the native tests of optimize.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "core/api/optimize_batch.hpp"
#include "core/interrupt.hpp"

namespace aitken::tests {

// Random systems: definite and indefinite Hessians, slacks, equations, rows that are none, rows that depend
// on each other, variables that stay.
struct kkt_case {
    index count;
    int n, m;
    std::vector<double> h, d, j, sigma, rx, rc, rs, dx, dlam, shift, regular;
    std::vector<std::int32_t> attempts;

    kkt_case(int n_, int m_, index count_, unsigned seed) : count(count_), n(n_), m(m_) {
        std::mt19937 random(seed);
        std::normal_distribution<double> normal;
        const auto make = [&](index size) {
            std::vector<double> v(static_cast<std::size_t>(size));
            for (double& x : v) x = normal(random);
            return v;
        };
        h = make(count * n * n);
        j = make(count * m * n);
        d = make(count * n);
        sigma = make(count * m);
        rx = make(count * n);
        rc = make(count * m);
        rs = make(count * m);
        for (double& v : d) v = std::fabs(v);
        for (index k = 0; k < count; ++k) {
            double* const mine = h.data() + k * n * n;
            for (int a = 0; a < n; ++a)
                for (int b = 0; b < a; ++b) mine[a * n + b] = mine[b * n + a] = mine[a * n + b];
            if (k % 3 == 0)
                for (int a = 0; a < n; ++a) mine[a * n + a] += 3 * n;
            for (int i = 0; i < m; ++i) {
                double& s = sigma[static_cast<std::size_t>(k * m + i)];
                s = i % 3 == 0 ? -1 : std::fabs(s);
                if (i == 4 && k % 2 == 0) s = -2;
            }
            if (k % 4 == 1 && m > 3)  // row 3 is row 0
                std::copy_n(j.data() + k * m * n, n, j.data() + (k * m + 3) * n);
            if (k % 4 == 2 && n > 4) d[static_cast<std::size_t>(k * n + 2)] = -1;
        }
        dx.assign(rx.size(), std::nan(""));
        dlam.assign(rc.size(), std::nan(""));
        shift.assign(static_cast<std::size_t>(count), 0.0);
        for (index k = 1; k < count; k += 2) shift[static_cast<std::size_t>(k)] = 1.5;
        regular.assign(static_cast<std::size_t>(count), 1e-10);
        attempts.assign(static_cast<std::size_t>(count), 0);
    }
    optimize::kkt_systems view() {
        return {count,          n,         m,         h.data(),  d.data(),    j.data(),     sigma.data(),
                rx.data(),      rc.data(), rs.data(), dx.data(), dlam.data(), shift.data(), regular.data(),
                attempts.data()};
    }
    const double* dx_of(index k) const { return dx.data() + k * n; }
    const double* dlam_of(index k) const { return dlam.data() + k * m; }
    double largest_answer(index k) const {
        double top = 1;
        for (int i = 0; i < n; ++i) top = std::max(top, std::fabs(dx_of(k)[i]));
        for (int i = 0; i < m; ++i) top = std::max(top, std::fabs(dlam_of(k)[i]));
        return top;
    }
};

// The CPU's functions as an engine.
struct cpu_engine {
    optimize::batch_problems p;
    optimize::batch_options o;
    interrupt signals;

    cpu_engine(const optimize::batch_problems& problems, const optimize::batch_options& options)
        : p(problems), o(options) {}
    void begin(const double* x, const double* lam) { cpu::optimize::batch_begin(p, x, lam, o); }
    void points(const std::int32_t* which, index count, double* out) {
        cpu::optimize::batch_points(p, which, count, out);
    }
    void hessian_points(const std::int32_t* which, index count, double* x, double* v) {
        cpu::optimize::batch_hessian_points(p, which, count, x, v);
    }
    void judge(const optimize::batch_values& v, std::uint8_t* next) {
        cpu::optimize::batch_judge(p, v, o, next, signals);
    }
    void direct(const optimize::batch_values& v, const std::int32_t* rows, index count, const double* h,
                std::uint8_t* next) {
        cpu::optimize::batch_direct(p, v, rows, count, h, o, next, signals);
    }
    void conclude(const optimize::batch_values& v, int status) {
        cpu::optimize::batch_conclude(p, v, o, status);
    }
};

// min |x - p|^2 with |x|^2 = 1, x_1 + x_2 <= limit and x_3 >= 0; the answer follows from p alone where the
// limit is loose: p' / |p'|, p' = (p_1, p_2, max(p_3, 0)). p of problem `broken` is NaN.
struct circle_batch {
    index count, broken = 5;
    int rounds = 0;
    std::vector<double> p, start, xl, xu, lower, upper, numbers;
    std::vector<std::int32_t> tags;
    optimize::batch_layout l = optimize::layout_of(3, 2);

    explicit circle_batch(index count_) : count(count_) {
        std::mt19937 random(3);
        std::normal_distribution<double> normal;
        const double inf = std::numeric_limits<double>::infinity();
        for (index k = 0; k < 3 * count; ++k) {
            p.push_back(k / 3 == broken ? std::nan("") : normal(random));
            start.push_back(0.3 + 0.5 * normal(random));
        }
        xl = {-inf, -inf, 0};
        xu = {inf, inf, inf};
        lower = {1, -inf};
        upper = {1, 10};
        numbers.assign(static_cast<std::size_t>(count * l.numbers), std::nan(""));
        tags.assign(static_cast<std::size_t>(count * l.tags), -7);
    }
    optimize::batch_problems problems() {
        optimize::batch_problems b;
        b.count = count;
        b.n = 3;
        b.m = 2;
        b.xl = xl.data();
        b.xu = xu.data();
        b.lower = lower.data();
        b.upper = upper.data();
        b.numbers = numbers.data();
        b.tags = tags.data();
        return b;
    }
    const double* x(index k) const { return numbers.data() + k * l.numbers + l.x; }
    double kkt(index k) const { return numbers[static_cast<std::size_t>(k * l.numbers + l.kkt)]; }
    int status(index k) const { return tags[static_cast<std::size_t>(k * l.tags + l.status)]; }
    int iterations(index k) const { return tags[static_cast<std::size_t>(k * l.tags + l.nit)]; }

    template <class Engine>
    void solve(Engine& engine) {
        engine.begin(start.data(), nullptr);
        std::vector<std::int32_t> active;
        for (index k = 0; k < count; ++k) active.push_back(static_cast<std::int32_t>(k));
        while (!active.empty() && rounds < 500) {
            ++rounds;
            const auto size = static_cast<index>(active.size());
            std::vector<double> at(active.size() * 3), f(active.size()), g(at.size()), c(active.size() * 2),
                j(active.size() * 6);
            engine.points(active.data(), size, at.data());
            for (std::size_t k = 0; k < active.size(); ++k) {
                f[k] = 0;
                double norm = 0;
                for (std::size_t i = 0; i < 3; ++i) {
                    const double x = at[3 * k + i], e = x - p[static_cast<std::size_t>(3 * active[k]) + i];
                    f[k] += e * e;
                    g[3 * k + i] = 2 * e;
                    norm += x * x;
                    j[6 * k + i] = 2 * x;
                    j[6 * k + 3 + i] = i < 2 ? 1 : 0;
                }
                c[2 * k] = norm;
                c[2 * k + 1] = at[3 * k] + at[3 * k + 1];
            }
            const optimize::batch_values v{size, active.data(), f.data(), g.data(), c.data(), j.data()};
            std::vector<std::uint8_t> next(active.size(), 99);
            engine.judge(v, next.data());
            for (const std::uint8_t what : {1, 2}) {
                std::vector<std::int32_t> rows, which;
                for (std::size_t k = 0; k < next.size(); ++k)
                    if (next[k] == what) {
                        rows.push_back(static_cast<std::int32_t>(k));
                        which.push_back(active[k]);
                    }
                const auto some = static_cast<index>(rows.size());
                std::vector<double> hx(rows.size() * 3), hv(rows.size() * 2), h(rows.size() * 9, 0.0);
                if (what == 2 && some > 0) engine.hessian_points(which.data(), some, hx.data(), hv.data());
                for (std::size_t k = 0; k < rows.size(); ++k)
                    for (std::size_t i = 0; i < 3; ++i) h[9 * k + 4 * i] = 2 + 2 * hv[2 * k];
                engine.direct(v, rows.data(), some, what == 2 ? h.data() : nullptr, next.data());
            }
            std::vector<std::int32_t> left;
            for (std::size_t k = 0; k < next.size(); ++k)
                if (next[k] != 3) left.push_back(active[k]);
            active = left;
        }
        const optimize::batch_values none{0, nullptr, nullptr, nullptr, nullptr, nullptr};
        engine.conclude(none, 1);
    }
};

}  // namespace aitken::tests
