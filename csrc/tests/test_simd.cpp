// Every row kernel at every level this machine supports, against a plain scalar loop in long double.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "cpu/simd/dispatch.hpp"

namespace {

using aitken::cpu::simd_for;
using aitken::cpu::simd_levels;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double eps = std::numeric_limits<double>::epsilon();
const int sizes[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 597};

// splitmix64: the tests need scattered numbers, not good ones.
struct random_source {
    std::uint64_t state;
    std::uint64_t bits() {
        std::uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    double uniform(double low, double high) {
        return low + (high - low) * (static_cast<double>(bits() >> 11) * 0x1p-53);
    }
};

// n elements that start `skew` elements past an aligned address, between guards that must stay untouched.
template <class T>
class guarded {
public:
    guarded(std::int64_t n, int skew) : data_(static_cast<std::size_t>(n + 40), guard), n_(n), skew_(skew) {}
    T* get() { return data_.data() + 16 + skew_; }
    T& operator[](std::int64_t j) { return get()[j]; }
    void fill(random_source& rng, double low, double high) {
        for (std::int64_t j = 0; j < n_; ++j) get()[j] = static_cast<T>(rng.uniform(low, high));
    }
    bool intact() const {
        const std::int64_t first = 16 + skew_, size = static_cast<std::int64_t>(data_.size());
        for (std::int64_t i = 0; i < size; ++i)
            if ((i < first || i >= first + n_) && data_[static_cast<std::size_t>(i)] != guard) return false;
        return true;
    }

private:
    static constexpr T guard = static_cast<T>(-12345);
    std::vector<T> data_;
    std::int64_t n_;
    int skew_;
};

template <class Body>
void each_level(Body body) {
    for (std::string_view level : simd_levels()) body(simd_for(level));
}

template <class Body>
void each_case(Body body) {
    each_level([&](const aitken_simd_table& t) {
        for (int n : sizes)
            for (int skew : {0, 1, 3}) body(t, n, skew);
    });
}

// The table's two precisions under one name.
auto row_max(const aitken_simd_table& t, double) { return t.row_max_f64; }
auto row_max(const aitken_simd_table& t, float) { return t.row_max_f32; }
auto row_exp(const aitken_simd_table& t, double) { return t.row_exp_f64; }
auto row_exp(const aitken_simd_table& t, float) { return t.row_exp_f32; }
auto col_max(const aitken_simd_table& t, double) { return t.col_max_f64; }
auto col_max(const aitken_simd_table& t, float) { return t.col_max_f32; }
auto dot(const aitken_simd_table& t, double) { return t.dot_f64; }
auto dot(const aitken_simd_table& t, float) { return t.dot_f32; }
auto axpy(const aitken_simd_table& t, double) { return t.axpy_f64; }
auto axpy(const aitken_simd_table& t, float) { return t.axpy_f32; }
auto dot_axpy(const aitken_simd_table& t, double) { return t.dot_axpy_f64; }
auto dot_axpy(const aitken_simd_table& t, float) { return t.dot_axpy_f32; }
auto weighted_cost(const aitken_simd_table& t, double) { return t.weighted_cost_f64; }
auto weighted_cost(const aitken_simd_table& t, float) { return t.weighted_cost_f32; }
auto select(const aitken_simd_table& t, double) { return t.select_f64; }
auto select(const aitken_simd_table& t, float) { return t.select_f32; }
auto select_below(const aitken_simd_table& t, double) { return t.select_below_f64; }
auto select_below(const aitken_simd_table& t, float) { return t.select_below_f32; }
auto gram(const aitken_simd_table& t, double) { return t.gram_f64; }
auto gram(const aitken_simd_table& t, float) { return t.gram_f32; }
auto update(const aitken_simd_table& t, double) { return t.update_f64; }
auto update(const aitken_simd_table& t, float) { return t.update_f32; }
auto mix(const aitken_simd_table& t, double) { return t.mix_f64; }
auto mix(const aitken_simd_table& t, float) { return t.mix_f32; }

bool same_bits(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }
bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Error of `value` in units of the spacing of doubles at the exact result.
double ulp_error(double value, double z) {
    const long double exact = expl(static_cast<long double>(z));
    const double nearest = static_cast<double>(exact);
    const double spacing = std::nextafter(std::fabs(nearest), inf) - std::fabs(nearest);
    return static_cast<double>(fabsl(static_cast<long double>(value) - exact) / spacing);
}

template <class T>
double rounded_exp(double z) {
    if (!(z >= (sizeof(T) == 4 ? -87.336544 : -708.0)) && !std::isnan(z)) return 0;
    return static_cast<double>(static_cast<T>(std::exp(z)));
}

}  // namespace

TEST(simd_exp_ulp) {
    std::vector<double> z;
    random_source rng{1};
    for (int i = 0; i < 1000000; ++i) z.push_back(rng.uniform(-708, 709.78));
    for (int i = 0; i < 700000; ++i) z.push_back(rng.uniform(-1, 1));
    for (int i = 0; i < 200000; ++i) z.push_back(std::ldexp(rng.uniform(-1, 1), -(i % 70)));
    // Where the reduction changes interval, at halves and thirty-seconds of ln 2, and its neighbours.
    for (int m = -32000; m <= 32000; ++m) {
        const double edge = m * (0.6931471805599453 / 32);
        if (edge < -707.9 || edge > 709.7) continue;
        for (double x : {edge, std::nextafter(edge, inf), std::nextafter(edge, -inf)}) z.push_back(x);
    }
    for (double x : {-708.0, 709.78, 709.782712893383, 0.0, -0.0, 5e-324, -5e-324, 1e-300}) z.push_back(x);
    CHECK(z.size() >= 1900000);
    std::vector<double> e(z.size());
    each_level([&](const aitken_simd_table& t) {
        t.exp_n(z.data(), e.data(), static_cast<std::int64_t>(z.size()));
        double worst = 0, at = 0;
        for (std::size_t i = 0; i < z.size(); ++i) {
            const double error = std::isfinite(e[i]) ? ulp_error(e[i], z[i]) : inf;
            if (error > worst) worst = error, at = z[i];
        }
        std::printf("  exp %-4s: %.3f ulp at most, at %.17g (%zu points)\n", t.level, worst, at, z.size());
        CHECK(worst <= 2.0);
    });
}

TEST(simd_exp_limits) {
    const struct {
        double z, e;
    } cases[] = {{-inf, 0},
                 {inf, inf},
                 {not_a_number, not_a_number},
                 {-708.0000000000001, 0},
                 {-708.5, 0},
                 {-745.2, 0},
                 {-1e300, 0},
                 {709.7827128933841, inf},
                 {710, inf},
                 {1e300, inf},
                 {0.0, 1},
                 {-0.0, 1},
                 {-709, 0},
                 {800, inf},
                 {-not_a_number, not_a_number},
                 {std::nan("0xfff"), not_a_number}};
    constexpr int n = sizeof cases / sizeof cases[0];
    each_level([&](const aitken_simd_table& t) {
        for (int first = 0; first < n; ++first) {  // every value in every lane, and in the tail
            double e[n], rotated[n];
            for (int i = 0; i < n; ++i) rotated[i] = cases[(first + i) % n].z;
            for (int count : {1, 3, 7, n}) {
                t.exp_n(rotated, e, count);
                for (int i = 0; i < count; ++i) CHECK(same(e[i], cases[(first + i) % n].e));
            }
            t.exp_n(rotated, rotated, n);  // in place
            for (int i = 0; i < n; ++i) CHECK(same(rotated[i], e[i]));
        }
        double lowest = -708, tiny = 0;
        t.exp_n(&lowest, &tiny, 1);
        CHECK(tiny >= std::numeric_limits<double>::min());
    });
}

template <class T>
void test_row_max() {
    each_case([](const aitken_simd_table& t, int n, int skew) {
        random_source rng{static_cast<std::uint64_t>(n)};
        guarded<T> c(n, skew);
        guarded<double> y(n, skew);
        c.fill(rng, 0, 5);
        y.fill(rng, -3, 3);
        for (int j = 0; j < n; j += 5) y[j] = -inf;
        for (int j = 1; j < n; j += 7) c[j] = static_cast<T>(inf);
        const auto reference = [&] {
            double top = -inf;
            for (int j = 0; j < n; ++j) {
                const double x = y[j] - static_cast<double>(c[j]);
                top = std::isnan(x) || std::isnan(top) ? not_a_number : std::max(top, x);
            }
            return top;
        };
        const auto kernel = [&] { return row_max(t, T{})(c.get(), y.get(), n); };
        CHECK(same(kernel(), reference()));
        for (int j = 0; j < n; ++j) {  // the largest, then a NaN, in each place
            const double keep = y[j];
            y[j] = 100;
            CHECK(same(kernel(), reference()));
            y[j] = not_a_number;
            CHECK(std::isnan(kernel()));
            y[j] = keep;
        }
        for (int j = 0; j < n; ++j) y[j] = -inf;
        CHECK(kernel() == -inf);
    });
}
TEST(simd_row_max_f64) { test_row_max<double>(); }
TEST(simd_row_max_f32) { test_row_max<float>(); }

template <class T>
void test_row_exp() {
    each_case([](const aitken_simd_table& t, int n, int skew) {
        random_source rng{static_cast<std::uint64_t>(n) + 7};
        guarded<T> c(n, skew), out(n, skew);
        guarded<double> y(n, (skew + 1) % 4);
        c.fill(rng, 0, 1);
        y.fill(rng, -1, 1);
        for (int j = 0; j < n; j += 9) y[j] = -inf;
        for (int j = 4; j < n; j += 11) c[j] = static_cast<T>(inf);
        for (int j = 5; j < n; j += 13) y[j] = -7.35;  // float results among the smallest
        for (const double shift : {0.25, -inf}) {
            const double inv_eps = 12.5;
            const double sum = row_exp(t, T{})(c.get(), y.get(), shift, inv_eps, n, out.get());
            long double expected_sum = 0;
            double stored_sum = 0;
            for (int j = 0; j < n; ++j) {
                const double z = (y[j] + shift - static_cast<double>(c[j])) * inv_eps;
                const double expected = rounded_exp<T>(z);
                if (expected == 0) CHECK(out[j] == 0);
                // The exponent is rounded with its factor, before and after.
                const double unit = sizeof(T) == 4 ? 6e-8 : (3 + 1.5 * std::fabs(z)) * eps;
                if (expected > 0) CHECK_NEAR(static_cast<double>(out[j]), expected, unit * expected);
                CHECK(out[j] == 0 || out[j] >= std::numeric_limits<T>::min());
                expected_sum += static_cast<long double>(out[j]);
                stored_sum += static_cast<double>(out[j]);
            }
            CHECK_NEAR(sum, static_cast<double>(expected_sum), 64 * eps * stored_sum);
        }
        CHECK(out.intact());
        if (n > 0) {
            y[n - 1] = not_a_number;
            c[n - 1] = 0;
            CHECK(std::isnan(row_exp(t, T{})(c.get(), y.get(), 0, 1, n, out.get())));
            CHECK(std::isnan(out[n - 1]));
        }
    });
}
TEST(simd_row_exp_f64) { test_row_exp<double>(); }
TEST(simd_row_exp_f32) { test_row_exp<float>(); }

template <class T>
void test_col_max() {
    each_case([](const aitken_simd_table& t, int n, int skew) {
        random_source rng{static_cast<std::uint64_t>(n) + 3};
        guarded<T> c(n, skew);
        guarded<double> acc(n, skew);
        c.fill(rng, -1, 1);
        acc.fill(rng, -1, 1);
        for (int j = 0; j < n; j += 5) acc[j] = -inf;
        for (int j = 1; j < n; j += 6) c[j] = static_cast<T>(inf);
        for (int j = 2; j < n; j += 8) acc[j] = not_a_number;
        for (int j = 3; j < n; j += 8) c[j] = static_cast<T>(not_a_number);
        std::vector<double> expected;
        for (int j = 0; j < n; ++j) {
            const double x = 0.125 - static_cast<double>(c[j]);
            expected.push_back(std::isnan(x) || std::isnan(acc[j]) ? not_a_number : std::max(x, acc[j]));
        }
        col_max(t, T{})(c.get(), 0.125, n, acc.get());
        for (int j = 0; j < n; ++j) CHECK(same(acc[j], expected[static_cast<std::size_t>(j)]));
        CHECK(acc.intact());
    });
}
TEST(simd_col_max_f64) { test_col_max<double>(); }
TEST(simd_col_max_f32) { test_col_max<float>(); }

// dot, axpy and both at once: right, and of the same bits however the rows are grouped.
template <class T>
void test_products() {
    each_case([](const aitken_simd_table& t, int n, int skew) {
        random_source rng{static_cast<std::uint64_t>(n) + 11};
        std::vector<guarded<T>> k;
        for (int r = 0; r < 4; ++r) k.emplace_back(n, (skew + r) % 4).fill(rng, -1, 1);
        guarded<double> v(n, skew), start(n, skew);
        v.fill(rng, -1, 1);
        start.fill(rng, -1, 1);
        const T* rows[4] = {k[0].get(), k[1].get(), k[2].get(), k[3].get()};
        const double w[4] = {0.5, -1.75, 3.1, 0.3};
        double single[4];
        guarded<double> one_by_one = start;
        for (int r = 0; r < 4; ++r) {
            dot(t, T{})(rows + r, 1, v.get(), n, single + r);
            axpy(t, T{})(rows + r, 1, w + r, n, one_by_one.get());
            long double exact = 0, size = 0;
            for (int j = 0; j < n; ++j) {
                const long double product = static_cast<long double>(k[r][j]) * v[j];
                exact += product;
                size += fabsl(product);
            }
            CHECK_NEAR(single[r], static_cast<double>(exact), static_cast<double>(n * eps * size));
        }
        for (int count = 1; count <= 4; ++count) {
            double out[4] = {-7, -7, -7, -7}, both[4] = {-7, -7, -7, -7};
            guarded<double> acc = start, acc_both = start;
            dot(t, T{})(rows, count, v.get(), n, out);
            axpy(t, T{})(rows, count, w, n, acc.get());
            dot_axpy(t, T{})(rows, count, v.get(), w, n, both, acc_both.get());
            for (int r = 0; r < 4; ++r) {
                CHECK(same_bits(out[r], r < count ? single[r] : -7));
                CHECK(same_bits(both[r], out[r]));
            }
            for (int j = 0; j < n; ++j) {
                long double exact = start[j], size = std::fabs(start[j]);
                for (int r = 0; r < count; ++r) {
                    const long double product = static_cast<long double>(k[r][j]) * w[r];
                    exact += product;
                    size += fabsl(product);
                }
                CHECK_NEAR(acc[j], static_cast<double>(exact), static_cast<double>(5 * eps * size));
                CHECK(same_bits(acc_both[j], acc[j]));
                if (count == 4) CHECK(same_bits(acc[j], one_by_one[j]));
            }
            CHECK(acc.intact() && acc_both.intact());
        }
        if (n > 0) {
            k[1][n - 1] = static_cast<T>(inf);
            v[n - 1] = 2;
            double out[4];
            dot(t, T{})(rows, 4, v.get(), n, out);
            CHECK(std::isfinite(out[0]) && out[1] == inf && std::isfinite(out[2]));
            v[0] = not_a_number;
            dot(t, T{})(rows, 4, v.get(), n, out);
            CHECK(std::isnan(out[0]) && std::isnan(out[3]));
        }
    });
}
TEST(simd_dot_axpy_f64) { test_products<double>(); }
TEST(simd_dot_axpy_f32) { test_products<float>(); }

template <class T>
void test_weighted_cost() {
    each_case([](const aitken_simd_table& t, int n, int skew) {
        random_source rng{static_cast<std::uint64_t>(n) + 13};
        guarded<T> k(n, skew), c(n, (skew + 1) % 4);
        guarded<double> v(n, skew);
        k.fill(rng, 0, 1);
        c.fill(rng, 0, 1);
        v.fill(rng, 0, 1);
        for (int j = 0; j < n; j += 3) k[j] = 0, c[j] = static_cast<T>(inf);
        for (int j = 0; j < n; j += 6) v[j] = inf;
        long double exact = 0;
        for (int j = 0; j < n; ++j)
            if (k[j] != 0) exact += static_cast<long double>(k[j]) * v[j] * static_cast<long double>(c[j]);
        const double sum = weighted_cost(t, T{})(k.get(), v.get(), c.get(), n);
        CHECK_NEAR(sum, static_cast<double>(exact), static_cast<double>(n * eps * exact));
        if (n > 0) {
            k[n - 1] = 1, v[n - 1] = 1, c[n - 1] = static_cast<T>(inf);
            CHECK(weighted_cost(t, T{})(k.get(), v.get(), c.get(), n) == inf);
        }
    });
}
TEST(simd_weighted_cost_f64) { test_weighted_cost<double>(); }
TEST(simd_weighted_cost_f32) { test_weighted_cost<float>(); }

template <class T>
void test_select() {
    each_case([](const aitken_simd_table& t, int n, int skew) {
        random_source rng{static_cast<std::uint64_t>(n) + 17};
        guarded<T> k(n, skew);
        guarded<double> v(n, skew), col(n, (skew + 3) % 4);
        k.fill(rng, 0, 1);
        v.fill(rng, 0, 1);
        col.fill(rng, 0, 1);
        for (int j = 0; j < n; j += 10) v[j] = not_a_number;
        for (int j = 3; j < n; j += 10) col[j] = inf;
        for (int j = 4; j < n; j += 10) col[j] = -inf;
        for (const double row_limit : {-inf, -1.0, 0.1, 0.6, 0.95, inf})
            for (const int use_max : {0, 1}) {
                guarded<std::int32_t> idx(n, skew);
                std::vector<std::int32_t> expected;
                for (int j = 0; j < n; ++j) {
                    const double p = static_cast<double>(k[j]) * 1.25 * v[j];
                    const double limit = use_max ? std::max(row_limit, col[j]) : std::min(row_limit, col[j]);
                    if (p > limit) expected.push_back(j);
                }
                const std::int64_t count =
                    select(t, T{})(k.get(), 1.25, v.get(), row_limit, col.get(), use_max, n, idx.get());
                CHECK(count == static_cast<std::int64_t>(expected.size()));
                CHECK(std::equal(expected.begin(), expected.end(), idx.get()));
                CHECK(idx.intact());
            }
    });
}
TEST(simd_select_f64) { test_select<double>(); }
TEST(simd_select_f32) { test_select<float>(); }

template <class T>
void test_select_below() {
    each_case([](const aitken_simd_table& t, int n, int skew) {
        random_source rng{static_cast<std::uint64_t>(n) + 23};
        guarded<T> c(n, skew);
        guarded<double> y(n, (skew + 1) % 4);
        c.fill(rng, 0, 1);
        y.fill(rng, 0, 1);
        for (int j = 0; j < n; j += 10) y[j] = not_a_number;
        for (int j = 3; j < n; j += 10) y[j] = -inf;
        for (int j = 4; j < n; j += 10) c[j] = static_cast<T>(inf);
        for (const double shift : {-inf, -2.0, -0.3, 0.0, 0.4, inf}) {
            guarded<std::int32_t> idx(n, skew);
            std::vector<std::int32_t> expected;
            for (int j = 0; j < n; ++j)
                if (y[j] + shift > static_cast<double>(c[j])) expected.push_back(j);
            const std::int64_t count = select_below(t, T{})(c.get(), y.get(), shift, n, idx.get());
            CHECK(count == static_cast<std::int64_t>(expected.size()));
            CHECK(std::equal(expected.begin(), expected.end(), idx.get()));
            CHECK(idx.intact());
        }
    });
}
TEST(simd_select_below_f64) { test_select_below<double>(); }
TEST(simd_select_below_f32) { test_select_below<float>(); }

TEST(simd_bits_do_not_depend_on_alignment) {
    each_level([](const aitken_simd_table& t) {
        for (int n : sizes) {
            double first = 0, first_max = 0;
            for (int skew = 0; skew < 8; ++skew) {
                random_source rng{static_cast<std::uint64_t>(n) + 23};
                guarded<double> c(n, skew), y(n, 7 - skew), out(n, skew);
                c.fill(rng, 0, 1);
                y.fill(rng, -1, 1);
                const double sum = t.row_exp_f64(c.get(), y.get(), 0.5, 3.0, n, out.get());
                const double* row = out.get();
                double product = 0;
                t.dot_f64(&row, 1, y.get(), n, &product);
                if (skew == 0) first = sum, first_max = product;
                CHECK(same_bits(sum, first) && same_bits(product, first_max));
            }
        }
    });
}

TEST(simd_dispatch) {
    const auto levels = simd_levels();
    CHECK(!levels.empty() && levels[0] == "base");
    for (std::string_view level : levels) CHECK(simd_for(level).level == level);
    CHECK(simd_for("").level == levels.back());
    CHECK_THROWS(simd_for("avx2"), std::invalid_argument);
    CHECK_THROWS(simd_for("V3"), std::invalid_argument);
    for (std::string_view level : {"base", "v3", "v4"})
        if (std::find(levels.begin(), levels.end(), level) == levels.end())
            CHECK_THROWS(simd_for(level), std::invalid_argument);
    try {
        simd_for("v5");
    } catch (const std::invalid_argument& e) {
        const std::string what = e.what();
        CHECK(what.find("\"v5\"") != std::string::npos && what.find("base") != std::string::npos);
    }
    // The environment decides at the first call, which in this program may only be here.
    const char* request = std::getenv("AITKEN_SIMD");
    const std::string_view asked = request && *request ? std::string_view(request) : levels.back();
    if (std::find(levels.begin(), levels.end(), asked) != levels.end())
        CHECK(aitken::cpu::simd().level == asked);
    else
        CHECK_THROWS(aitken::cpu::simd(), std::invalid_argument);
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
    // An independent opinion on the CPU.
    const std::string_view best = __builtin_cpu_supports("x86-64-v4")   ? "v4"
                                  : __builtin_cpu_supports("x86-64-v3") ? "v3"
                                                                        : "base";
    CHECK(levels.back() == best);
#endif
}

namespace {

// Columns of n numbers, `ld` = n + 5 apart, inside guards.
template <class T>
struct tall_guarded {
    std::int64_t n, k, ld;
    guarded<T> data;
    tall_guarded(std::int64_t rows, std::int64_t columns, int skew, random_source& rng)
        : n(rows), k(columns), ld(rows + 5), data(ld * columns, skew) {
        data.fill(rng, -1, 1);
    }
    T at(std::int64_t i, std::int64_t j) { return data[i + j * ld]; }
};

template <class T>
void check_tall() {
    random_source rng{23};
    each_case([&](const aitken_simd_table& t, int n, int skew) {
        for (int kx : {0, 1, 2, 3, 4, 7, 8, 9, 17})
            for (int k : {1, 2, 3, 4, 5, 6, 7, 13}) {
                if (n > 70 && kx != 9) continue;
                tall_guarded<T> x(n, kx, skew, rng);
                tall_guarded<double> y(n, k, skew, rng), z(n, k, skew, rng), p(kx, k, skew, rng),
                    out(kx, k, skew, rng);
                tall_guarded<double> sums = out, updated = z, mixed = z, accumulated = z;
                std::vector<double> panel(static_cast<std::size_t>(AITKEN_MIX_ROWS * kx));
                gram(t, T())(x.data.get(), x.ld, kx, y.data.get(), y.ld, k, n, 64, sums.data.get(), sums.ld);
                update(t, T())(x.data.get(), x.ld, kx, p.data.get(), p.ld, n, 64, updated.data.get(), z.ld,
                               k);
                mix(t, T())(x.data.get(), x.ld, kx, p.data.get(), p.ld, n, mixed.data.get(), z.ld, k, 0,
                            panel.data());
                mix(t, T())(x.data.get(), x.ld, kx, p.data.get(), p.ld, n, accumulated.data.get(), z.ld, k, 1,
                            panel.data());
                double worst = 0, worst_sum = 0;
                bool kept = true;
                for (int j = 0; j < k; ++j) {
                    for (int i = 0; i < kx; ++i) {
                        long double sum = out.at(i, j);
                        for (int r = 0; r < n; ++r)
                            sum +=
                                static_cast<long double>(x.at(r, i)) * static_cast<long double>(y.at(r, j));
                        worst_sum = std::max(worst_sum, std::fabs(sums.at(i, j) - static_cast<double>(sum)));
                    }
                    for (int r = 0; r < n; ++r) {
                        long double sum = 0;
                        for (int i = 0; i < kx; ++i)
                            sum +=
                                static_cast<long double>(x.at(r, i)) * static_cast<long double>(p.at(i, j));
                        const double product = static_cast<double>(sum),
                                     total = static_cast<double>(sum + z.at(r, j));
                        worst = std::max(worst, std::fabs(mixed.at(r, j) - product));
                        worst = std::max(worst, std::fabs(updated.at(r, j) - total));
                        worst = std::max(worst, std::fabs(accumulated.at(r, j) - total));
                    }
                    for (std::int64_t r = n; r < z.ld; ++r)
                        kept = kept && mixed.at(r, j) == z.at(r, j) && updated.at(r, j) == z.at(r, j) &&
                               accumulated.at(r, j) == z.at(r, j);
                    for (std::int64_t i = kx; i < out.ld; ++i) kept = kept && sums.at(i, j) == out.at(i, j);
                }
                CHECK(worst_sum <= eps * (n + 2));
                CHECK(worst <= eps * (kx + 2) * 2);
                CHECK(kept);
                CHECK(sums.data.intact() && updated.data.intact() && mixed.data.intact() &&
                      accumulated.data.intact());
            }
    });
}

}  // namespace

TEST(simd_tall) {
    check_tall<double>();
    check_tall<float>();
}
