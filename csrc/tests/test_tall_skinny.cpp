// Products with tall matrices against plain loops in long double, for every storage type.
#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include "check.hpp"
#include "cpu/tall_skinny.hpp"
#include "cpu/threads.hpp"

using namespace aitken;

namespace {

template <class T>
constexpr bool is_complex = !std::is_floating_point_v<T>;
template <class B>
using scalar_of = std::conditional_t<is_complex<B>, std::complex<double>, double>;
template <class B>
using exact_of = std::conditional_t<is_complex<B>, std::complex<long double>, long double>;

template <class B>
double unit() {  // rounding unit of what is stored
    return sizeof(B) == (is_complex<B> ? 8 : 4) ? 0x1p-24 : 0x1p-53;
}

// n by k inside a larger array: `ld` exceeds n, and what lies between the columns must survive.
template <class B>
struct columns {
    index n, k, ld;
    std::vector<B> data;

    columns(index n_, index k_, unsigned seed)
        : n(n_), k(k_), ld(n_ + 3), data(static_cast<std::size_t>(ld * k_)) {
        std::mt19937 g(seed);
        std::uniform_real_distribution<double> u(-1, 1);
        for (B& x : data) {
            if constexpr (is_complex<B>) {
                const double re = u(g);
                x = B(scalar_of<B>(re, u(g)));
            } else {
                x = static_cast<B>(u(g));
            }
        }
    }
    tall<const B> view() const { return {data.data(), n, k, ld}; }
    tall<B> view() { return {data.data(), n, k, ld}; }
    vec<const B> column() const { return {data.data(), n}; }
    vec<B> column() { return {data.data(), n}; }
    B at(index i, index j) const { return data[i + j * ld]; }
};

template <class B>
exact_of<B> exact(B x) {
    return exact_of<B>(x);
}
long double adjoint(long double x) { return x; }
std::complex<long double> adjoint(std::complex<long double> x) { return std::conj(x); }

template <class A, class B>
exact_of<A> exact_dot(const columns<A>& x, index i, const columns<B>& y, index j) {
    exact_of<A> sum = 0;
    for (index r = 0; r < x.n; ++r) sum += adjoint(exact(x.at(r, i))) * exact(y.at(r, j));
    return sum;
}

template <class X, class Y>
double distance(X x, Y y) {
    return static_cast<double>(std::abs(exact(x) - exact(y)));
}

template <class B>
bool gaps_untouched(const columns<B>& now, const columns<B>& before) {
    for (index j = 0; j < now.k; ++j)
        for (index i = now.n; i < now.ld; ++i)
            if (now.at(i, j) != before.at(i, j)) return false;
    return true;
}

const index sizes[] = {0, 1, 2, 3, 7, 8, 9, 31, 65, 255, 256, 257, 511, 512, 513, 1031, 8192, 8193, 9000};

template <class Body>
void each_size(Body body) {
    unsigned seed = 1;
    for (index n : sizes)
        for (index a : {0, 1, 3, 4, 9})
            for (index b : {0, 1, 2, 5, 8, 17}) {
                if (n > 1000 && a != 3) continue;
                body(n, a, b, seed += 7);
            }
}

template <class B>
void check_project() {
    using S = scalar_of<B>;
    each_size([](index n, index a, index b, unsigned seed) {
        const columns<B> c(n, a, seed), v(n, b, seed + 1);
        const columns<S> w(n, 1, seed + 2);
        std::vector<S> h(static_cast<std::size_t>(a + b) + 1, S(77));
        const double norm = cpu::project(c.view(), v.view(), w.column(), h.data());
        const double bound = 1e-16 * (10 + n);
        CHECK(distance(norm, exact_dot(w, 0, w, 0)) <= 4 * bound);
        double worst = 0;
        for (index j = 0; j < a; ++j) worst = std::max(worst, distance(h[j], S(exact_dot(c, j, w, 0))));
        for (index j = 0; j < b; ++j) worst = std::max(worst, distance(h[a + j], S(exact_dot(v, j, w, 0))));
        CHECK(worst <= bound);
        CHECK(h.back() == S(77));
    });
}

template <class B>
void check_deflate() {
    using S = scalar_of<B>;
    each_size([](index n, index a, index b, unsigned seed) {
        const columns<B> c(n, a, seed), v(n, b, seed + 1);
        const columns<S> h(a + b, 1, seed + 3), before(n, 1, seed + 2);
        columns<S> w = before, y = before;
        const double norm = cpu::deflate(c.view(), v.view(), h.data.data(), w.column());
        const S alpha = h.data[0];
        cpu::combine(v.view(), h.data.data() + a, alpha, y.column());
        double worst = 0, worst_y = 0;
        for (index i = 0; i < n; ++i) {
            exact_of<S> x = exact(before.at(i, 0)), sum = 0;
            for (index j = 0; j < a; ++j) x -= exact(c.at(i, j)) * exact(h.at(j, 0));
            for (index j = 0; j < b; ++j) x -= exact(v.at(i, j)) * exact(h.at(a + j, 0));
            for (index j = 0; j < b; ++j) sum += exact(v.at(i, j)) * exact(h.at(a + j, 0));
            worst = std::max(worst, distance(w.at(i, 0), S(x)));
            worst_y = std::max(worst_y, distance(y.at(i, 0), S(exact(before.at(i, 0)) + exact(alpha) * sum)));
        }
        CHECK(worst <= 1e-15 * (4 + a + b));
        CHECK(worst_y <= 1e-15 * (4 + b));
        CHECK(distance(norm, exact_dot(w, 0, w, 0)) <= 1e-16 * (10 + n) * (1 + a + b) * (1 + a + b));
        CHECK(gaps_untouched(w, before) && gaps_untouched(y, before));
    });
}

template <class B>
void check_gram() {
    using S = scalar_of<B>;
    each_size([](index n, index a, index b, unsigned seed) {
        const columns<B> x(n, a, seed), y(n, b, seed + 1);
        const index ldo = a + 2;
        std::vector<S> out(static_cast<std::size_t>(ldo * b), S(77));
        cpu::gram(x.view(), y.view(), out.data(), ldo);
        double worst = 0;
        bool kept = true;
        for (index j = 0; j < b; ++j) {
            for (index i = 0; i < a; ++i)
                worst = std::max(worst, distance(out[i + j * ldo], S(exact_dot(x, i, y, j))));
            kept = kept && out[a + j * ldo] == S(77) && out[a + 1 + j * ldo] == S(77);
        }
        CHECK(worst <= 1e-16 * (10 + n));
        CHECK(kept);
    });
}

template <class B>
void check_mix() {
    using S = scalar_of<B>;
    each_size([](index n, index a, index b, unsigned seed) {
        const columns<B> x(n, a, seed), before(n, b, seed + 1);
        const columns<S> p(a, b, seed + 2);
        for (bool accumulate : {false, true}) {
            columns<B> z = before;
            cpu::mix(x.view(), p.data.data(), p.ld, z.view(), accumulate);
            double worst = 0;
            for (index i = 0; i < n; ++i)
                for (index j = 0; j < b; ++j) {
                    exact_of<B> sum = accumulate ? exact(before.at(i, j)) : exact_of<B>(0);
                    for (index k = 0; k < a; ++k) sum += exact(x.at(i, k)) * exact_of<B>(p.at(k, j));
                    worst = std::max(worst, distance(S(z.at(i, j)), S(sum)));
                }
            CHECK(worst <= unit<B>() * 4 * (4 + a));
            CHECK(gaps_untouched(z, before));
        }
    });
}

template <class B>
void check_many_columns() {  // more than one scratch panel
    using S = scalar_of<B>;
    const columns<B> x(700, 5, 1), y(700, 67, 2);
    const columns<S> p(5, 67, 3);
    columns<B> z(700, 67, 4);
    std::vector<S> out(5 * 67);
    cpu::gram(x.view(), y.view(), out.data(), 5);
    cpu::mix(x.view(), p.data.data(), p.ld, z.view(), false);
    double worst = 0, worst_mix = 0;
    for (index j = 0; j < 67; ++j) {
        for (index i = 0; i < 5; ++i)
            worst = std::max(worst, distance(out[i + 5 * j], S(exact_dot(x, i, y, j))));
        for (index i = 0; i < 700; ++i) {
            exact_of<B> sum = 0;
            for (index k = 0; k < 5; ++k) sum += exact(x.at(i, k)) * exact_of<B>(p.at(k, j));
            worst_mix = std::max(worst_mix, distance(S(z.at(i, j)), S(sum)));
        }
    }
    CHECK(worst <= 1e-13);
    CHECK(worst_mix <= 40 * unit<B>());
}

template <class From, class To>
void check_scale_copy() {
    using S = scalar_of<From>;
    for (index n : sizes) {
        const columns<From> x(n, 1, 5);
        const columns<To> before(n, 1, 6);
        const columns<S> alphas(2, 1, 7);
        for (const S alpha : {S(1), alphas.data[0]}) {
            columns<To> y = before;
            cpu::scale_copy(x.column(), alpha, y.column());
            double worst = 0;
            for (index i = 0; i < n; ++i)
                worst = std::max(worst, distance(S(y.at(i, 0)), S(exact(alpha) * exact(S(x.at(i, 0))))));
            CHECK(worst <= 4 * unit<To>());
            CHECK(gaps_untouched(y, before));
            if (std::is_same_v<From, To> && alpha == S(1))
                for (index i = 0; i < n; ++i) CHECK(To(x.at(i, 0)) == y.at(i, 0));
        }
    }
}

template <class B>
void check_norms() {
    for (index n : sizes) {
        const columns<B> x(n, 4, 8);
        double norms[5] = {9, 9, 9, 9, 9};
        cpu::column_norms(x.view(), norms);
        for (index j = 0; j < 4; ++j)
            CHECK_NEAR(norms[j], std::sqrt(static_cast<double>(std::abs(exact_dot(x, j, x, j)))),
                       1e-16 * (20 + n));
        CHECK(norms[4] == 9);
    }
}

std::uint64_t bits(double x) { return std::bit_cast<std::uint64_t>(x); }

// Every number that the products leave, as bits.
template <class B>
std::vector<std::uint64_t> everything(int threads) {
    using S = scalar_of<B>;
    cpu::set_num_threads(threads);
    const index n = 50001;
    const columns<B> c(n, 3, 1), v(n, 9, 2);
    columns<S> w(n, 1, 3);
    columns<B> z(n, 5, 4);
    const columns<S> p(9, 5, 5);
    std::vector<S> h(12), g(27);
    std::vector<double> norms(9);
    std::vector<std::uint64_t> out{bits(cpu::project(c.view(), v.view(), vec<const S>(w.column()), h.data())),
                                   bits(cpu::deflate(c.view(), v.view(), h.data(), w.column()))};
    cpu::gram(c.view(), v.view(), g.data(), 3);
    cpu::mix(v.view(), p.data.data(), p.ld, z.view(), true);
    cpu::column_norms(v.view(), norms.data());
    cpu::combine(v.view(), h.data(), S(0.25), w.column());
    cpu::scale_copy(vec<const S>(w.column()), S(3), z.column());
    cpu::set_num_threads(0);
    for (const auto* values : {&h, &g, &w.data})
        for (const S& x : *values) out.insert(out.end(), {bits(std::real(x)), bits(std::imag(x))});
    for (const B& x : z.data) out.insert(out.end(), {bits(std::real(x)), bits(std::imag(x))});
    for (double x : norms) out.push_back(bits(x));
    return out;
}

template <class B>
void check_threads() {
    const auto one = everything<B>(1);
    CHECK(one.size() > 100000);
    CHECK(everything<B>(2) == one);
    CHECK(everything<B>(3) == one);
}

}  // namespace

TEST(tall_project) {
    check_project<double>();
    check_project<float>();
    check_project<std::complex<double>>();
    check_project<std::complex<float>>();
}

TEST(tall_deflate_and_combine) {
    check_deflate<double>();
    check_deflate<float>();
    check_deflate<std::complex<double>>();
    check_deflate<std::complex<float>>();
}

TEST(tall_gram) {
    check_gram<double>();
    check_gram<float>();
    check_gram<std::complex<double>>();
    check_gram<std::complex<float>>();
}

TEST(tall_mix) {
    check_mix<double>();
    check_mix<float>();
    check_mix<std::complex<double>>();
    check_mix<std::complex<float>>();
}

TEST(tall_many_columns) {
    check_many_columns<double>();
    check_many_columns<float>();
    check_many_columns<std::complex<double>>();
    check_many_columns<std::complex<float>>();
}

TEST(tall_scale_copy) {
    check_scale_copy<double, double>();
    check_scale_copy<double, float>();
    check_scale_copy<float, double>();
    check_scale_copy<float, float>();
    check_scale_copy<std::complex<double>, std::complex<double>>();
    check_scale_copy<std::complex<double>, std::complex<float>>();
    check_scale_copy<std::complex<float>, std::complex<double>>();
    check_scale_copy<std::complex<float>, std::complex<float>>();
}

TEST(tall_column_norms) {
    check_norms<double>();
    check_norms<float>();
    check_norms<std::complex<double>>();
    check_norms<std::complex<float>>();
}

TEST(tall_bits_for_any_thread_count) {
    check_threads<double>();
    check_threads<float>();
    check_threads<std::complex<double>>();
    check_threads<std::complex<float>>();
}
