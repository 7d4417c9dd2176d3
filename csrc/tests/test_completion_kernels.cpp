// Kernels over rows of a factor and over small positive definite systems, at every level, against plain loops
// in double: sizes around the vector widths, lists with and without an index, weights, flagged lanes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "check.hpp"
#include "cpu/simd/dispatch.hpp"

namespace aitken {

namespace {

using index = std::int64_t;

#define ENTRY(table, name)                       \
    ([&] {                                       \
        if constexpr (std::is_same_v<T, double>) \
            return (table).name##_f64;           \
        else                                     \
            return (table).name##_f32;           \
    }())

template <class T>
constexpr double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
template <class T>
constexpr index lanes = std::is_same_v<T, double> ? AITKEN_SPD_LANES_F64 : AITKEN_SPD_LANES_F32;

constexpr index ranks[] = {1, 2, 7, 16, 17, 31, 32, 33, 64, 65, 100, 128, 130};
constexpr index degrees[] = {0, 1, 3, 4, 5, 63, 64, 65, 127, 129, 1000};
constexpr index lists[] = {0, 1, 5, 65, 300};  // enough for what does not depend on panels

index padded(index k) { return (k + AITKEN_ROW_PAD - 1) / AITKEN_ROW_PAD * AITKEN_ROW_PAD; }

// 64-byte aligned numbers, zero at first.
template <class T>
class numbers {
public:
    explicit numbers(index n) : kept_(static_cast<std::size_t>(n) + 64 / sizeof(T)) {
        const auto at = reinterpret_cast<std::uintptr_t>(kept_.data());
        offset_ = static_cast<std::size_t>((64 - at % 64) % 64 / sizeof(T));
        size_ = n;
    }
    numbers(const numbers& other) : numbers(other.size_) { std::copy(other.begin(), other.end(), begin()); }
    numbers& operator=(const numbers&) = delete;
    T* data() { return kept_.data() + offset_; }
    const T* data() const { return kept_.data() + offset_; }
    T* begin() { return data(); }
    T* end() { return data() + size_; }
    const T* begin() const { return data(); }
    const T* end() const { return data() + size_; }
    T& operator[](index i) { return data()[i]; }
    T operator[](index i) const { return data()[i]; }
    index size() const { return size_; }

private:
    std::vector<T> kept_;
    std::size_t offset_;
    index size_;
};

template <class T>
bool same_bits(const numbers<T>& a, const numbers<T>& b) {
    return a.size() == b.size() &&
           std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

// A list of d rows out of a factor, the same rows one after the other, and all else that a kernel may ask.
template <class T>
struct list {
    list(index d_, index k_, unsigned seed)
        : d(d_),
          k(k_),
          ld(padded(k_)),
          v((d_ + 5) * ld),
          rows(std::max<index>(d_, 1) * ld),
          w(d_),
          c(d_),
          x(ld) {
        std::mt19937_64 g(seed);
        std::normal_distribution<double> normal;
        std::uniform_real_distribution<double> uniform(0.25, 2);
        for (index i = 0; i < d + 5; ++i)
            for (index r = 0; r < k; ++r) v[i * ld + r] = static_cast<T>(normal(g));
        for (index j = 0; j < d; ++j) {
            w[j] = static_cast<T>(uniform(g));
            c[j] = static_cast<T>(normal(g));
            idx.push_back(static_cast<std::int32_t>((j * 7 + 3) % (d + 5)));
            std::copy_n(v.data() + idx.back() * ld, ld, rows.data() + j * ld);
        }
        for (index r = 0; r < k; ++r) x[r] = static_cast<T>(normal(g));
    }
    double at(index j, index r) const { return static_cast<double>(rows[j * ld + r]); }
    double weight(index j, bool weighted) const { return weighted ? static_cast<double>(w[j]) : 1.0; }
    double product(index j, const T* p) const {
        double sum = 0;
        for (index r = 0; r < k; ++r) sum += at(j, r) * static_cast<double>(p[r]);
        return sum;
    }

    index d, k, ld;
    numbers<T> v, rows, w, c, x;
    std::vector<std::int32_t> idx;
};

template <class T>
bool zero_behind(const numbers<T>& x, index k) {
    return std::all_of(x.begin() + k, x.end(), [](T each) { return each == 0; });
}

// What rounding may do to a sum of n products of numbers around 1.
template <class T>
double slack(index n) {
    return 8 * unit<T> * (8 + static_cast<double>(n));
}

template <class Body>
void at_every_level(Body body) {
    for (const auto level : cpu::simd_levels()) body(cpu::simd_for(level));
}

template <class T>
void check_gram(const aitken_simd_table& table, index d, index k) {
    const list<T> a(d, k, 1);
    const index ld = a.ld;
    for (const bool weighted : {false, true}) {
        const T* const w = weighted ? a.w.data() : nullptr;
        numbers<T> panel(AITKEN_GRAM_ROWS * ld), g(k * ld), b(ld);
        for (index r = 0; r < k; ++r) {
            b[r] = static_cast<T>(r);
            for (index c = r; c < k; ++c) g[r * ld + c] = static_cast<T>(r - c);
        }
        const numbers<T> g_before(g), b_before(b);
        numbers<T> g2(g), b2(b), g3(g), b3(b);
        const auto gram = ENTRY(table, rows_gram);
        gram(a.v.data(), ld, a.idx.data(), w, a.c.data(), d, k, g.data(), ld, b.data(), panel.data());
        gram(a.rows.data(), ld, nullptr, w, a.c.data(), d, k, g2.data(), ld, b2.data(), panel.data());
        gram(a.v.data(), ld, a.idx.data(), w, nullptr, d, k, g3.data(), ld, b3.data(), panel.data());
        CHECK(same_bits(g, g2) && same_bits(b, b2) && same_bits(g, g3) && same_bits(b3, b_before));
        CHECK(zero_behind(b, k));
        double worst = 0;
        for (index r = 0; r < k; ++r) {
            double right = static_cast<double>(r);
            for (index j = 0; j < d; ++j)
                right += a.weight(j, weighted) * static_cast<double>(a.c[j]) * a.at(j, r);
            worst = std::max(worst, std::fabs(right - static_cast<double>(b[r])));
            for (index c = r; c < k; ++c) {
                double sum = static_cast<double>(g_before[r * ld + c]);
                for (index j = 0; j < d; ++j) sum += a.weight(j, weighted) * a.at(j, r) * a.at(j, c);
                worst = std::max(worst, std::fabs(sum - static_cast<double>(g[r * ld + c])));
            }
        }
        CHECK_NEAR(worst, 0, 4 * slack<T>(d + k));  // sums of squares: of size d
    }
}

TEST(completion_gram) {
    at_every_level([](const aitken_simd_table& table) {
        for (const index k : ranks)
            for (const index d : degrees) {
                if (k * d > 64000) continue;
                check_gram<double>(table, d, k);
                check_gram<float>(table, d, k);
            }
        check_gram<float>(table, 1000, 128);
        check_gram<double>(table, 1000, 130);
    });
}

template <class T>
void check_passes(const aitken_simd_table& table, index d, index k) {
    const list<T> a(d, k, 2);
    const index ld = a.ld;
    const double tol = slack<T>(k + d) * std::sqrt(static_cast<double>(k) * static_cast<double>(d + 1));
    numbers<T> s(d), s2(d);
    ENTRY(table, rows_dot)(a.v.data(), ld, a.idx.data(), a.x.data(), d, k, s.data());
    ENTRY(table, rows_dot)(a.rows.data(), ld, nullptr, a.x.data(), d, k, s2.data());
    CHECK(same_bits(s, s2));
    double worst = 0;
    for (index j = 0; j < d; ++j)
        worst = std::max(worst, std::fabs(a.product(j, a.x.data()) - static_cast<double>(s[j])));
    CHECK_NEAR(worst, 0, slack<T>(k));

    numbers<T> q(ld);
    for (index r = 0; r < k; ++r) q[r] = static_cast<T>(1 + r % 3);
    const numbers<T> before(q);
    numbers<T> q2(q);
    ENTRY(table, rows_combine)(a.v.data(), ld, a.idx.data(), a.c.data(), d, k, q.data());
    ENTRY(table, rows_combine)(a.rows.data(), ld, nullptr, a.c.data(), d, k, q2.data());
    CHECK(same_bits(q, q2) && zero_behind(q, k));
    worst = 0;
    for (index r = 0; r < k; ++r) {
        double sum = static_cast<double>(before[r]);
        for (index j = 0; j < d; ++j) sum += static_cast<double>(a.c[j]) * a.at(j, r);
        worst = std::max(worst, std::fabs(sum - static_cast<double>(q[r])));
    }
    CHECK_NEAR(worst, 0, slack<T>(d));

    for (const bool weighted : {false, true}) {
        const T* const w = weighted ? a.w.data() : nullptr;
        numbers<T> y(before), y2(before);
        ENTRY(table, rows_apply)(a.v.data(), ld, a.idx.data(), w, a.x.data(), d, k, y.data());
        ENTRY(table, rows_apply)(a.rows.data(), ld, nullptr, w, a.x.data(), d, k, y2.data());
        CHECK(same_bits(y, y2) && zero_behind(y, k));
        worst = 0;
        for (index r = 0; r < k; ++r) {
            double sum = static_cast<double>(before[r]);
            for (index j = 0; j < d; ++j)
                sum += a.weight(j, weighted) * a.product(j, a.x.data()) * a.at(j, r);
            worst = std::max(worst, std::fabs(sum - static_cast<double>(y[r])));
        }
        CHECK_NEAR(worst, 0, tol);
    }
}

TEST(completion_passes) {
    at_every_level([](const aitken_simd_table& table) {
        for (const index k : ranks)
            for (const index d : degrees) {
                check_passes<double>(table, d, k);
                check_passes<float>(table, d, k);
            }
        check_passes<double>(table, 65, 300);
        check_passes<float>(table, 65, 300);
    });
}

// The matrix that conjugate gradients work on, whole, and the right-hand side at x = 0.
template <class T>
struct normal_equations {
    normal_equations(const list<T>& a, bool weighted, double lam, const numbers<T>* g0)
        : k(a.k), m(static_cast<std::size_t>(k * k)), b(static_cast<std::size_t>(k)) {
        for (index r = 0; r < k; ++r) {
            for (index c = 0; c < k; ++c) {
                double sum = r == c ? lam : 0;
                if (g0) sum += static_cast<double>((*g0)[r * a.ld + c]);
                for (index j = 0; j < a.d; ++j) sum += a.weight(j, weighted) * a.at(j, r) * a.at(j, c);
                m[static_cast<std::size_t>(r * k + c)] = sum;
            }
            for (index j = 0; j < a.d; ++j)
                b[static_cast<std::size_t>(r)] +=
                    a.weight(j, weighted) * static_cast<double>(a.c[j]) * a.at(j, r);
        }
    }
    // x' A x - 2 b' x: the quadratic less a constant.
    template <class Vector>
    double value(const Vector& x) const {
        double sum = 0;
        for (index r = 0; r < k; ++r) {
            double row = -2 * b[static_cast<std::size_t>(r)];
            for (index c = 0; c < k; ++c)
                row += m[static_cast<std::size_t>(r * k + c)] * static_cast<double>(x[c]);
            sum += row * static_cast<double>(x[r]);
        }
        return sum;
    }
    std::vector<double> times(const std::vector<double>& x) const {
        std::vector<double> y(b.size());
        for (std::size_t i = 0; i < b.size(); ++i)
            for (std::size_t j = 0; j < b.size(); ++j) y[i] += m[i * b.size() + j] * x[j];
        return y;
    }
    std::vector<double> residual(const std::vector<double>& x) const {
        std::vector<double> r = times(x);
        for (std::size_t i = 0; i < b.size(); ++i) r[i] = b[i] - r[i];
        return r;
    }

    index k;
    std::vector<double> m, b;
};

double dot(const std::vector<double>& x, const std::vector<double>& y) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
}

template <class T>
std::vector<double> plain_cg(const normal_equations<T>& a, std::vector<double> x, index maxiter, double tol,
                             index& steps) {
    std::vector<double> r = a.residual(x), p = r;
    double rr = dot(r, r);
    const double enough = tol * tol * rr;
    for (steps = 0; steps < maxiter && (steps == 0 || rr > enough) && rr > 1e-200; ++steps) {
        const std::vector<double> q = a.times(p);
        const double alpha = rr / dot(p, q);
        for (std::size_t i = 0; i < q.size(); ++i) x[i] += alpha * p[i], r[i] -= alpha * q[i];
        const double now = dot(r, r);
        for (std::size_t i = 0; i < q.size(); ++i) p[i] = r[i] + now / rr * p[i];
        rr = now;
    }
    return x;
}

template <class T>
void check_cg(const aitken_simd_table& table, index d, index k) {
    const list<T> a(d, k, 3);
    const index ld = a.ld;
    numbers<T> g0(k * ld);
    for (index r = 0; r < k; ++r)
        for (index c = 0; c < k; ++c)
            g0[r * ld + c] = static_cast<T>((r == c ? 3.0 : 0.0) + 0.5 / static_cast<double>(1 + r + c));
    const auto cg = ENTRY(table, rows_cg);
    for (const bool weighted : {false, true}) {
        const T* const w = weighted ? a.w.data() : nullptr;
        const numbers<T>* const more = weighted ? &g0 : nullptr;
        const double lam = 0.5 * static_cast<double>(d) + 1;
        const normal_equations<T> whole(a, weighted, lam, more);
        const auto run = [&](bool listed, index maxiter, double tol, numbers<T>& x, double* sums) {
            numbers<T> work(4 * ld);
            for (T& each : work) each = std::numeric_limits<T>::quiet_NaN();
            return cg(listed ? a.v.data() : a.rows.data(), ld, listed ? a.idx.data() : nullptr, w, a.c.data(),
                      d, k, lam, more ? more->data() : nullptr, ld, maxiter, tol, x.data(), work.data(),
                      sums);
        };
        numbers<T> x(a.x), x2(a.x);
        double sums[2], sums2[2];
        const index steps = run(true, 3, 0, x, sums);
        CHECK(steps == run(false, 3, 0, x2, sums2));
        CHECK(same_bits(x, x2) && sums[0] == sums2[0] && sums[1] == sums2[1]);
        CHECK(zero_behind(x, k));

        double error = 0;
        for (index j = 0; j < d; ++j) {
            const double e = static_cast<double>(a.c[j]) - a.product(j, a.x.data());
            error += a.weight(j, weighted) * e * e;
        }
        const double scale = std::sqrt(static_cast<double>(k));
        CHECK_NEAR(sums[0], error, (1 + error) * slack<T>(k));
        const double fell = whole.value(a.x) - whole.value(x);
        CHECK(fell > 0 && sums[1] > 0);
        CHECK_NEAR(sums[1], fell, (1 + error + std::fabs(fell)) * scale * slack<T>(k));
        index plain_steps = 0;
        const std::vector<double> begin(a.x.begin(), a.x.begin() + k);
        const std::vector<double> expected = plain_cg(whole, begin, steps, 0, plain_steps);
        double worst = 0;
        for (index r = 0; r < k; ++r)
            worst =
                std::max(worst, std::fabs(expected[static_cast<std::size_t>(r)] - static_cast<double>(x[r])));
        CHECK_NEAR(worst, 0, scale * slack<T>(k + d));

        // To a tolerance: as many steps as the plain loop, and the residual is that small.
        const double tol = 1e-2;
        numbers<T> y(a.x);
        const index taken = run(true, 100, tol, y, sums);
        plain_cg(whole, begin, 100, tol, plain_steps);
        CHECK(std::abs(taken - plain_steps) <= 1 && taken >= 1);
        const auto residual = whole.residual(std::vector<double>(y.begin(), y.begin() + k));
        const auto first = whole.residual(begin);
        CHECK(dot(residual, residual) <= 1.1 * tol * tol * dot(first, first));
        // One step at least, whatever is asked.
        numbers<T> z(a.x);
        CHECK(run(true, 0, 10, z, sums) == 1 && !same_bits(z, a.x));
    }
}

TEST(completion_cg) {
    at_every_level([](const aitken_simd_table& table) {
        for (const index k : ranks)
            for (const index d : lists) {
                check_cg<double>(table, d, k);
                check_cg<float>(table, d, k);
            }
        check_cg<float>(table, 1300, 64);  // more than the second cache is trusted with
    });
}

template <class T>
void check_cg_guards(const aitken_simd_table& table) {
    const index k = 33, d = 9;
    list<T> a(d, k, 4);
    const index ld = a.ld;
    const auto cg = ENTRY(table, rows_cg);
    numbers<T> work(4 * ld), x(ld);
    double sums[2];
    const numbers<T> nothing(ld), zero_weights(d), zero_values(d);
    const auto run = [&](const T* w, const T* c, double lam, numbers<T>& at) {
        return cg(a.rows.data(), ld, nullptr, w, c, d, k, lam, nullptr, ld, 5, 1e-3, at.data(), work.data(),
                  sums);
    };
    // The residual is zero at once.
    CHECK(run(nullptr, zero_values.data(), 1, x) == 0 && same_bits(x, nothing));
    CHECK(sums[0] == 0 && sums[1] == 0);
    CHECK(run(zero_weights.data(), a.c.data(), 1, x) == 0 && same_bits(x, nothing));
    // A matrix of zeros.
    numbers<T> start(a.x);
    CHECK(run(zero_weights.data(), a.c.data(), 0, start) == 0 && same_bits(start, a.x));
    CHECK(sums[0] == 0 && sums[1] == 0);
    // A negative one: p' A p < 0 at the first step.
    CHECK(run(zero_weights.data(), a.c.data(), -1, start) == 0 && same_bits(start, a.x));
    // Squares of the residual that underflow, overflow or are NaN.
    numbers<T> tiny(d), huge(d), nan(d);
    for (index j = 0; j < d; ++j) {
        tiny[j] = std::sqrt(std::numeric_limits<T>::min()) / 1000;
        huge[j] = std::numeric_limits<T>::max() / 1000;
    }
    nan[2] = std::numeric_limits<T>::quiet_NaN();
    if constexpr (std::is_same_v<T, double>) {
        CHECK(run(nullptr, tiny.data(), 1, x) == 0 && same_bits(x, nothing));
        CHECK(run(nullptr, huge.data(), 1, x) == 0 && same_bits(x, nothing));
    } else {
        // Squares of floats are doubles: the answer is that of values of size 1, rescaled.
        numbers<T> ones(d), plain(ld), found(ld);
        for (T& each : ones) each = 1;
        CHECK(run(nullptr, ones.data(), 1, plain) == run(nullptr, tiny.data(), 1, found));
        for (index r = 0; r < k; ++r)
            CHECK_NEAR(static_cast<double>(found[r]) / static_cast<double>(tiny[0]),
                       static_cast<double>(plain[r]), 1e-4);
    }
    CHECK(run(nullptr, nan.data(), 1, x) == 0 && same_bits(x, nothing));
    // Solved in one step: a multiple of the identity.
    for (T& each : a.rows) each = 0;
    CHECK(run(nullptr, a.c.data(), 2, start) >= 1);
    for (index r = 0; r < k; ++r) CHECK_NEAR(static_cast<double>(start[r]), 0, 10 * unit<T>);
}

TEST(completion_cg_guards) {
    at_every_level([](const aitken_simd_table& table) {
        check_cg_guards<double>(table);
        check_cg_guards<float>(table);
    });
}

// Matrices I + random Gram matrices, the lower triangle NaN: nobody may look there.
template <class T>
struct systems {
    systems(index count_, index k_)
        : count(count_), k(k_), ld(padded(k_)), stride(k_ * ld + 16), g(count_ * stride), b(count_ * ld) {
        for (T& each : g) each = std::numeric_limits<T>::quiet_NaN();
        for (index l = 0; l < count; ++l) {
            const list<T> a(k + 2, k, static_cast<unsigned>(10 + l));
            for (index r = 0; r < k; ++r) {
                b[l * ld + r] = a.x[r];
                std::fill_n(g.data() + l * stride + r * ld + k, ld - k, T{0});
                for (index c = r; c < k; ++c) {
                    double sum = r == c ? 1 : 0;
                    for (index j = 0; j < a.d; ++j) sum += a.at(j, r) * a.at(j, c) / static_cast<double>(a.d);
                    g[l * stride + r * ld + c] = static_cast<T>(sum);
                }
            }
        }
    }
    double entry(index l, index r, index c) const {
        return static_cast<double>(g[l * stride + std::min(r, c) * ld + std::max(r, c)]);
    }
    // |G x - b|_inf
    double defect(index l, const T* x) const {
        double worst = 0;
        for (index r = 0; r < k; ++r) {
            double sum = -static_cast<double>(b[l * ld + r]);
            for (index c = 0; c < k; ++c) sum += entry(l, r, c) * static_cast<double>(x[c]);
            worst = std::isnan(sum) ? sum : std::max(worst, std::fabs(sum));
        }
        return worst;
    }

    index count, k, ld, stride;
    numbers<T> g, b;
};

template <class T>
void check_solve(const aitken_simd_table& table, index count, index k) {
    const systems<T> a(count, k);
    numbers<T> x(count * a.ld), work(AITKEN_SPD_WORK(k));
    for (T& each : work) each = std::numeric_limits<T>::quiet_NaN();
    const numbers<T> before(a.g);
    const auto solve = [&](const numbers<T>& g, numbers<T>& out) {
        return ENTRY(table, spd_solve)(g.data(), a.ld, a.stride, a.b.data(), a.ld, count, k, unit<T>,
                                       out.data(), a.ld, work.data());
    };
    CHECK(solve(a.g, x) == 0);
    CHECK(same_bits(a.g, before));
    for (index l = 0; l < count; ++l) {
        CHECK_NEAR(a.defect(l, x.data() + l * a.ld), 0, slack<T>(k));
        CHECK(std::all_of(x.data() + l * a.ld + k, x.data() + (l + 1) * a.ld,
                          [](T each) { return each == 0; }));
    }
    numbers<T> again(count * a.ld);
    CHECK(solve(a.g, again) == 0 && same_bits(x, again));

    // Lanes with a NaN, a negative pivot, a singular matrix, zeros and an infinity: flagged, the others' bits
    // kept.
    numbers<T> broken(a.g);
    std::uint32_t expected = 0;
    const auto at = [&](index l, index r, index c) -> T& { return broken[l * a.stride + r * a.ld + c]; };
    for (index l = 1; l < count; l += 2) {
        expected |= std::uint32_t{1} << l;
        switch (l / 2 % 5) {
            case 0:
                at(l, 0, k - 1) = std::numeric_limits<T>::quiet_NaN();
                break;
            case 1:
                at(l, k - 1, k - 1) = -1;
                break;
            case 2:  // a row of zeros but for its neighbour's copy
                for (index r = 0; r < k; ++r)
                    for (index c = r; c < k; ++c) at(l, r, c) = k == 1 ? 0 : 1;
                break;
            case 3:
                for (index r = 0; r < k; ++r)
                    for (index c = r; c < k; ++c) at(l, r, c) = 0;
                break;
            default:
                at(l, k / 2, k / 2) = std::numeric_limits<T>::infinity();
        }
    }
    numbers<T> y(count * a.ld);
    CHECK(solve(broken, y) == expected);
    for (index l = 0; l < count; l += 2)
        CHECK(std::memcmp(x.data() + l * a.ld, y.data() + l * a.ld,
                          static_cast<std::size_t>(a.ld) * sizeof(T)) == 0);
}

TEST(completion_solve) {
    at_every_level([](const aitken_simd_table& table) {
        for (const index k : ranks) {
            check_solve<double>(table, lanes<double>, k);
            check_solve<float>(table, lanes<float>, k);
        }
        for (index count = 1; count <= 16; ++count) {
            if (count <= 8) check_solve<double>(table, count, 10);
            check_solve<float>(table, count, 10);
        }
    });
}

template <class T>
void check_factor(const aitken_simd_table& table, index k) {
    systems<T> a(1, k);
    numbers<T> r(a.g), z(a.ld), same(a.b);
    CHECK(ENTRY(table, spd_factor)(r.data(), a.ld, k, unit<T>) == 1);
    double worst = 0;
    for (index i = 0; i < k; ++i)
        for (index j = i; j < k; ++j) {
            double sum = 0;
            for (index p = 0; p <= i; ++p) {
                const auto left = static_cast<double>(r[p * a.ld + i]),
                           right = static_cast<double>(r[p * a.ld + j]);
                sum += (p == i ? 1 / left : left) * (p == j ? 1 / right : right);
            }
            worst = std::max(worst, std::fabs(sum - a.entry(0, i, j)));
        }
    CHECK_NEAR(worst, 0, slack<T>(k));
    ENTRY(table, spd_apply)(r.data(), a.ld, k, a.b.data(), z.data());
    CHECK_NEAR(a.defect(0, z.data()), 0, slack<T>(k));
    CHECK(zero_behind(z, k));
    ENTRY(table, spd_apply)(r.data(), a.ld, k, same.data(), same.data());
    CHECK(same_bits(same, z));
    for (const T pivot :
         {T{0}, T{-1}, std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
        numbers<T> broken(a.g);
        broken[(k - 1) * a.ld + k - 1] = pivot;
        CHECK(ENTRY(table, spd_factor)(broken.data(), a.ld, k, unit<T>) == 0);
    }
}

TEST(completion_factor) {
    at_every_level([](const aitken_simd_table& table) {
        for (const index k : ranks) {
            check_factor<double>(table, k);
            check_factor<float>(table, k);
        }
    });
}

}  // namespace
}  // namespace aitken
