// Preconditioners against dense constructions from their definitions, and their bits across thread counts.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/api/linear_maps.hpp"
#include "cpu/threads.hpp"
#include "sparse/block_lu.hpp"
#include "sparse/ic.hpp"
#include "sparse/ilu.hpp"
#include "sparse/levels.hpp"
#include "sparse/pattern.hpp"
#include "sparse/scalar.hpp"

using namespace aitken;

namespace {

using complex = std::complex<double>;

template <class S>
struct csr {
    sparse_pattern pattern;
    std::vector<S> values;
};

struct random_numbers {
    std::mt19937_64 engine;
    std::uniform_real_distribution<double> uniform{-1, 1};
    explicit random_numbers(unsigned seed) : engine(seed) {}
    double real() { return uniform(engine); }
    template <class S>
    S number() {
        if constexpr (is_complex<S>)
            return {real(), real()};
        else
            return real();
    }
};

// Dense, column-major.
template <class S>
struct dense_matrix {
    index n;
    std::vector<S> a;
    explicit dense_matrix(index size) : n(size), a(static_cast<std::size_t>(size * size), S{}) {}
    S& operator()(index i, index j) { return a[i + j * n]; }
    const S& operator()(index i, index j) const { return a[i + j * n]; }
};

template <class S>
dense_matrix<S> dense(const csr<S>& m) {
    dense_matrix<S> d(m.pattern.rows);
    for (index i = 0; i < d.n; ++i)
        for (index p = m.pattern.indptr[i]; p < m.pattern.indptr[i + 1]; ++p)
            d(i, m.pattern.indices[p]) = m.values[p];
    return d;
}

// Random rows in random order, diagonally dominant; Hermitian where asked.
template <class S>
csr<S> random_matrix(index n, int per_row, unsigned seed, bool hermitian = false, double dominance = 1.0) {
    random_numbers r(seed);
    dense_matrix<S> d(n);
    std::set<std::pair<index, index>> used;
    for (index i = 0; i < n; ++i) {
        used.insert({i, i});
        for (int k = 0; k < per_row; ++k) {
            const index j = static_cast<index>(r.engine() % static_cast<std::uint64_t>(n));
            if (i == j) continue;
            d(i, j) = r.number<S>();
            used.insert({i, j});
            if (hermitian) {
                d(j, i) = conjugate(d(i, j));
                used.insert({j, i});
            }
        }
    }
    for (index i = 0; i < n; ++i) {
        double sum = 0;
        for (index j = 0; j < n; ++j) sum += i == j ? 0.0 : std::abs(d(i, j));
        d(i, i) = S(dominance * sum + 0.5);
    }
    csr<S> m;
    m.pattern.rows = m.pattern.cols = n;
    m.pattern.indptr.assign(1, 0);
    for (index i = 0; i < n; ++i) {
        std::vector<std::int32_t> columns;
        for (auto e = used.lower_bound({i, 0}); e != used.end() && e->first == i; ++e)
            columns.push_back(static_cast<std::int32_t>(e->second));
        std::shuffle(columns.begin(), columns.end(), r.engine);
        for (const std::int32_t j : columns) {
            m.pattern.indices.push_back(j);
            m.values.push_back(d(i, j));
        }
        m.pattern.indptr.push_back(m.pattern.nnz());
    }
    return m;
}

template <class S>
std::vector<S> random_vector(index n, unsigned seed) {
    random_numbers r(seed);
    std::vector<S> x(static_cast<std::size_t>(n));
    for (S& v : x) v = r.number<S>();
    return x;
}

template <class S>
std::vector<S> apply(linear_map<S>& map, const std::vector<S>& x, bool adjoint = false) {
    std::vector<S> y(x.size());
    const index n = map.size(), cols = static_cast<index>(x.size()) / n;
    if (adjoint)
        map.apply_adjoint({x.data(), n, cols, n}, {y.data(), n, cols, n});
    else
        map.apply({x.data(), n, cols, n}, {y.data(), n, cols, n});
    return y;
}

template <class S>
std::vector<S> times_vector(const dense_matrix<S>& m, const std::vector<S>& x, bool adjoint = false) {
    std::vector<S> y(x.size(), S{});
    for (index i = 0; i < m.n; ++i)
        for (index j = 0; j < m.n; ++j) y[i] += adjoint ? conjugate(m(j, i)) * x[j] : m(i, j) * x[j];
    return y;
}

template <class S>
double distance(const std::vector<S>& x, const std::vector<S>& y) {
    double worst = 0, size = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        worst = std::max(worst, std::abs(x[i] - y[i]));
        size = std::max(size, std::abs(y[i]));
    }
    return worst / size;
}

// M (M^-1 x) = x and the same for the adjoint, M dense.
template <class S>
void check_inverts(linear_map<S>& map, const dense_matrix<S>& m) {
    const auto x = random_vector<S>(m.n, 5);
    for (const bool adjoint : {false, true})
        CHECK(distance(times_vector(m, apply(map, x, adjoint), adjoint), x) < 1e-11);
}

// L U of elimination that ignores fill: the textbook loop. A Hermitian product takes the real part of the
// fill.
template <class S>
dense_matrix<S> ilu0_product(const csr<S>& a, bool modified, bool hermitian = false) {
    dense_matrix<S> f = dense(a), pattern(f.n);
    for (index i = 0; i < f.n; ++i)
        for (index p = a.pattern.indptr[i]; p < a.pattern.indptr[i + 1]; ++p)
            pattern(i, a.pattern.indices[p]) = S(1);
    for (index i = 0; i < f.n; ++i) {
        for (index k = 0; k < i; ++k) {
            if (pattern(i, k) == S{}) continue;
            f(i, k) /= f(k, k);
            for (index j = k + 1; j < f.n; ++j) {
                if (pattern(k, j) == S{}) continue;
                if (pattern(i, j) != S{})
                    f(i, j) -= f(i, k) * f(k, j);
                else if (modified)
                    f(i, i) -= hermitian ? S(real_part(f(i, k) * f(k, j))) : f(i, k) * f(k, j);
            }
        }
    }
    dense_matrix<S> product(f.n);
    for (index i = 0; i < f.n; ++i)
        for (index j = 0; j < f.n; ++j)
            for (index k = 0; k <= std::min(i, j); ++k) product(i, j) += (i == k ? S(1) : f(i, k)) * f(k, j);
    return product;
}

template <class S>
dense_matrix<S> ssor_product(const dense_matrix<S>& a, double w) {
    dense_matrix<S> m(a.n);
    for (index i = 0; i < a.n; ++i)
        for (index j = 0; j < a.n; ++j)
            for (index k = 0; k <= std::min(i, j); ++k) {
                const S left = k == i ? a(i, i) / w : a(i, k), right = k == j ? a(j, j) / w : a(k, j);
                m(i, j) += left * (w / a(k, k)) * right * (w / (2 - w));
            }
    return m;
}

template <class S>
void for_every_kind(const csr<S>& a, void (*body)(const char*, matrix_map<S>&, const csr<S>&)) {
    const auto view = a.pattern.view();
    const S* v = a.values.data();
    const index n = a.pattern.rows;
    const std::vector<index> blocks{0, n / 3, n / 3, n - 5, n};
    const std::pair<const char*, cpu::map_ptr<S>> all[] = {
        {"jacobi", cpu::make_jacobi<S>(view, v)},
        {"block Jacobi", cpu::make_block_jacobi<S>(view, v, blocks)},
        {"SSOR", cpu::make_ssor<S>(view, v, 1.3)},
        {"ILU(0)", cpu::make_ilu0<S>(view, v, false)},
        {"modified ILU(0)", cpu::make_ilu0<S>(view, v, true)},
        {"ILUT", cpu::make_ilut<S>(view, v, 1e-2, 3)},
        {"IC(0)", cpu::make_ic0<S>(view, v, false)},
        {"Chebyshev", cpu::make_chebyshev<S>(view, v, 4, 0, 0, 20)},
        {"Schwarz", cpu::make_schwarz<S>(view, v, blocks, 1, false)},
        {"exact Schwarz", cpu::make_schwarz<S>(view, v, blocks, 2, true)},
    };
    for (const auto& [name, map] : all) body(name, *map, a);
}

template <class S>
void check_definitions() {
    const auto a = random_matrix<S>(61, 4, 3);
    const auto view = a.pattern.view();
    const S* v = a.values.data();
    for (const bool modified : {false, true})
        check_inverts<S>(*cpu::make_ilu0<S>(view, v, modified), ilu0_product(a, modified));
    for (const double w : {0.6, 1.0, 1.7}) {
        const auto ssor = cpu::make_ssor<S>(view, v, 1.0);
        ssor->set_omega(w);
        CHECK(ssor->omega() == w);
        check_inverts<S>(*ssor, ssor_product(dense(a), w));
    }
    // Nothing dropped and one block: exact inverses.
    const std::vector<index> whole{0, 61};
    check_inverts<S>(*cpu::make_ilut<S>(view, v, 0.0, 61), dense(a));
    check_inverts<S>(*cpu::make_block_jacobi<S>(view, v, whole), dense(a));
    check_inverts<S>(*cpu::make_schwarz<S>(view, v, whole, 0, true), dense(a));
    check_inverts<S>(*cpu::make_schwarz<S>(view, v, whole, 0, false), ilu0_product(a, false));

    // Rows so full that the plans keep no list.
    const auto full = random_matrix<S>(120, 500, 6, true);
    const factor_layout both = make_factor_layout(full.pattern.view(), coupling::full),
                        half = make_factor_layout(full.pattern.view(), coupling::lower);
    CHECK(!ilu0_plan(both, false).listed() && !ic0_plan(half, false).listed());
    for (const bool modified : {false, true}) {
        const auto f = full.pattern.view();
        check_inverts<S>(*cpu::make_ilu0<S>(f, full.values.data(), modified), ilu0_product(full, modified));
        check_inverts<S>(*cpu::make_ic0<S>(f, full.values.data(), modified),
                         ilu0_product(full, modified, true));
    }

    const auto h = random_matrix<S>(61, 3, 4, true);  // IC(0) = ILU(0) where A is positive definite
    for (const bool modified : {false, true}) {
        const auto ic = cpu::make_ic0<S>(h.pattern.view(), h.values.data(), modified);
        CHECK(ic->shift() == 0.0);
        check_inverts<S>(*ic, ilu0_product(h, modified, true));
    }
}

}  // namespace

TEST(preconditioner_definitions) {
    check_definitions<double>();
    check_definitions<complex>();
}

TEST(preconditioner_adjoints) {
    // <y, M^-1 x> = <M^-H y, x>
    const auto body = []<class S>(const char*, matrix_map<S>& map, const csr<S>& a) {
        const index n = a.pattern.rows;
        const auto x = random_vector<S>(n, 1), y = random_vector<S>(n, 2);
        const auto mx = apply<S>(map, x), my = apply<S>(map, y, true);
        S left{}, right{};
        for (index i = 0; i < n; ++i) {
            left += conjugate(y[i]) * mx[i];
            right += conjugate(my[i]) * x[i];
        }
        CHECK(std::abs(left - right) < 1e-12 * (1 + std::abs(left)));
    };
    for_every_kind<double>(random_matrix<double>(83, 3, 7, true), body);
    for_every_kind<complex>(random_matrix<complex>(83, 3, 7, true), body);
}

TEST(preconditioner_bits) {
    // One column or several, one thread or three, updated or made anew: the same bits.
    const auto body = []<class S>(const char* name, matrix_map<S>& map, const csr<S>& a) {
        const index n = a.pattern.rows;
        const auto x = random_vector<S>(3 * n, 9);
        const std::vector<S> second(x.begin() + n, x.begin() + 2 * n);
        std::vector<S> several, single, adjoint;
        {
            const cpu::thread_scope threads(1);
            several = apply<S>(map, x);
            single = apply<S>(map, second);
            adjoint = apply<S>(map, x, true);
        }
        CHECK(std::equal(single.begin(), single.end(), several.begin() + n));
        const cpu::thread_scope threads(3);
        CHECK(apply<S>(map, x) == several);
        CHECK(apply<S>(map, x, true) == adjoint);
        std::vector<S> other(a.values);
        for (std::size_t p = 0; p < other.size(); ++p) other[p] *= 1.0 + 0.01 * double(p % 7);
        map.update(other.data());
        CHECK(apply<S>(map, x) != several);
        map.update(a.values.data());
        if (!(apply<S>(map, x) == several && apply<S>(map, x, true) == adjoint))
            check::fail(__FILE__, __LINE__, std::string(name) + ": an update is not a fresh start");
    };
    for_every_kind<double>(random_matrix<double>(301, 3, 8, true), body);
    for_every_kind<complex>(random_matrix<complex>(301, 3, 8, true), body);

    // Levels wide enough to be factored and solved by several threads.
    const auto wide = [](int threads) {
        const cpu::thread_scope scope(threads);
        csr<double> a;
        const index n = 60000, half = n / 2;
        a.pattern.rows = a.pattern.cols = n;
        for (index i = 0; i < n; ++i) {  // two levels of 30000 rows
            a.pattern.indices.push_back(static_cast<std::int32_t>(i));
            a.values.push_back(3.0 + 1e-5 * double(i));
            for (index k = 0; k < 3; ++k) {
                a.pattern.indices.push_back(
                    static_cast<std::int32_t>((i * 7 + k) % half + (i < half) * half));
                a.values.push_back(0.3 + 1e-6 * double(i % 100));
            }
            a.pattern.indptr.push_back(a.pattern.nnz());
        }
        const auto map = cpu::make_ilu0<double>(a.pattern.view(), a.values.data(), false);
        return apply<double>(*map, random_vector<double>(n, 3));
    };
    CHECK(wide(1) == wide(3));
}

TEST(preconditioner_shift) {
    // A positive diagonal, but not positive definite: IC(0) shifts, and gives up where twelve are not enough.
    auto a = random_matrix<double>(40, 3, 5, true, 0.45);
    const auto ic = cpu::make_ic0<double>(a.pattern.view(), a.values.data(), false);
    CHECK(ic->shift() >= 1e-3);
    csr<double> shifted = a;
    for (index i = 0; i < 40; ++i)
        for (index p = a.pattern.indptr[i]; p < a.pattern.indptr[i + 1]; ++p)
            if (a.pattern.indices[p] == i) shifted.values[p] *= 1 + ic->shift();
    check_inverts<double>(*ic, ilu0_product(shifted, false));
    const sparse_pattern two{2, 2, {0, 2, 4}, {0, 1, 0, 1}};
    const std::vector<double> hopeless{1, 9, 9, 1}, negative{1, 0, 0, -1};
    CHECK_THROWS(cpu::make_ic0<double>(two.view(), hopeless.data(), false), std::invalid_argument);
    CHECK_THROWS(cpu::make_ic0<double>(two.view(), negative.data(), false), std::invalid_argument);
}

TEST(preconditioner_singular) {
    const sparse_pattern two{2, 2, {0, 2, 4}, {0, 1, 0, 1}};
    const std::vector<double> good{2, 1, 1, 2}, bad_pivot{1, 1, 1, 1}, bad_diagonal{1, 1, 1, 0};
    const std::vector<double> nan{1, 1, 1, std::numeric_limits<double>::quiet_NaN()};
    const auto named = [&](auto make, const std::vector<double>& values) {
        const auto map = make(good.data());
        const std::vector<double> x{1, 2};
        const auto before = apply<double>(*map, x);
        std::string message;
        try {
            map->update(values.data());
        } catch (const std::invalid_argument& e) {
            message = e.what();
        }
        CHECK(message.find("row 1") != std::string::npos);
        CHECK_THROWS(apply<double>(*map, x), std::logic_error);
        map->update(good.data());
        CHECK(apply<double>(*map, x) == before);
    };
    const auto view = two.view();
    for (const auto* v : {&bad_pivot, &nan}) {
        named([&](const double* g) { return cpu::make_ilu0<double>(view, g, false); }, *v);
        named([&](const double* g) { return cpu::make_ilut<double>(view, g, 0, 2); }, *v);
        named([&](const double* g) { return cpu::make_block_jacobi<double>(view, g, {0, 2}); }, *v);
        named([&](const double* g) { return cpu::make_schwarz<double>(view, g, {0, 1, 2}, 1, true); }, *v);
        named([&](const double* g) { return cpu::make_schwarz<double>(view, g, {0, 1, 2}, 1, false); }, *v);
    }
    for (const auto* v : {&bad_diagonal, &nan}) {
        named([&](const double* g) { return cpu::make_jacobi<double>(view, g); }, *v);
        named([&](const double* g) { return cpu::make_ssor<double>(view, g, 1.0); }, *v);
        named([&](const double* g) { return cpu::make_chebyshev<double>(view, g, 2, 0, 0, 30); }, *v);
        named([&](const double* g) { return cpu::make_ic0<double>(view, g, false); }, *v);
    }
    const sparse_pattern hollow{2, 2, {0, 2, 3}, {0, 1, 0}};
    CHECK_THROWS(cpu::make_jacobi<double>(hollow.view(), good.data()), std::invalid_argument);
    // ILU(0) stores the diagonal whether A does or not; here elimination leaves zero there.
    const sparse_pattern lower{2, 2, {0, 1, 2}, {0, 0}};
    CHECK_THROWS(cpu::make_ilu0<double>(lower.view(), good.data(), false), std::invalid_argument);
    CHECK_THROWS(cpu::make_ssor<double>(view, good.data(), 2.0), std::invalid_argument);
    CHECK_THROWS(cpu::make_block_jacobi<double>(view, good.data(), {0, 2, 1, 2}), std::invalid_argument);
    CHECK_THROWS(cpu::make_block_jacobi<double>(view, good.data(), {0, 1}), std::invalid_argument);
}

TEST(preconditioner_empty) {
    const sparse_pattern none;
    const double* v = nullptr;
    for (const auto& map :
         {cpu::make_jacobi<double>(none.view(), v), cpu::make_ilu0<double>(none.view(), v, true),
          cpu::make_block_jacobi<double>(none.view(), v, {0, 0})}) {
        CHECK(map->size() == 0);
        map->apply({nullptr, 0, 1, 0}, {nullptr, 0, 1, 0});
    }
}

TEST(preconditioner_levels) {
    // Levels of a five-point grid are its antidiagonals, and every slice column of the factors is a run.
    const index m = 12, n = m * m;
    sparse_pattern grid;
    grid.rows = grid.cols = n;
    for (index i = 0; i < n; ++i) {
        for (const index j : {i - m, i - 1, i, i + 1, i + m})
            if (j >= 0 && j < n && (std::abs(i - j) != 1 || i / m == j / m))
                grid.indices.push_back(static_cast<std::int32_t>(j));
        grid.indptr.push_back(grid.nnz());
    }
    const factor_layout f = make_factor_layout(grid.view(), coupling::full);
    CHECK(f.order.levels() == 2 * m - 1);
    for (index l = 0; l < f.order.levels(); ++l)
        for (index k = f.order.starts[l]; k < f.order.starts[l + 1]; ++k)
            CHECK(f.row(k) % m + f.row(k) / m == l);
    index runs = 0;
    for (const std::int32_t r : f.lower_slices.run) runs += r >= 0;
    CHECK(2 * runs > static_cast<index>(f.lower_slices.run.size()));
    // With the lower triangle alone the upper is its transpose, whatever A holds there.
    const sparse_pattern one_sided{3, 3, {0, 3, 4, 6}, {0, 1, 2, 1, 0, 2}};
    const factor_layout half = make_factor_layout(one_sided.view(), coupling::lower);
    CHECK(half.lower.nnz() == 1 && half.upper.nnz() == 1 && half.order.levels() == 2);
    CHECK(half.slot[1] == factor_layout::no_slot && half.slot[2] == factor_layout::no_slot);
}

TEST(preconditioner_chebyshev) {
    // On diag(1, 4) with D = I the polynomial's error is T_k of the interval: |1 - t p(t)| <= 1 / T_{d+1}.
    const sparse_pattern a{3, 3, {0, 1, 3, 5}, {0, 1, 2, 1, 2}};
    const std::vector<double> v{1, 1, 0.5, 0.5, 1};  // D^-1 A: eigenvalues 1, 0.5, 1.5
    for (const int degree : {0, 1, 2, 5}) {
        const auto map = cpu::make_chebyshev<double>(a.view(), v.data(), degree, 0.5, 1.5, 0);
        CHECK(map->lo() == 0.5 && map->hi() == 1.5);
        const double t = std::cosh((degree + 1) * std::acosh(2.0));  // T_{d+1}(theta / delta)
        const auto y = apply<double>(*map, {0, 1, 1});               // eigenvector of 1.5
        CHECK_NEAR(std::fabs(1 - 1.5 * y[1]), 1 / t, 1e-14);
        CHECK_NEAR(y[2], y[1], 1e-14);
        const auto z = apply<double>(*map, {0, 1, -1});  // of 0.5
        CHECK_NEAR(std::fabs(1 - 0.5 * z[1]), 1 / t, 1e-14);
    }
    const auto estimated = cpu::make_chebyshev<double>(a.view(), v.data(), 3, 0, 0, 10);
    CHECK_NEAR(estimated->hi(), 1.5, 1e-12);  // Gershgorin is sharp here
    CHECK_NEAR(estimated->lo(), 0.15, 1e-12);
    CHECK_THROWS(cpu::make_chebyshev<double>(a.view(), v.data(), 3, 2, 1, 10), std::invalid_argument);
}

TEST(preconditioner_block_lu) {
    // Needs the exchange of rows; the second is singular in exact arithmetic.
    std::vector<double> a{0, 2, 1, 1, 0, 3, 4, 1, 0};
    std::vector<std::int32_t> pivots(3);
    const dense_matrix<double> original = [&] {
        dense_matrix<double> s(3);
        s.a = a;
        return s;
    }();
    CHECK(lu_factor(a.data(), 3, pivots.data()) == -1);
    for (const bool adjoint : {false, true}) {
        std::vector<double> x{1, -2, 5};
        const std::vector<double> b = times_vector(original, x, adjoint);
        std::vector<double> y(b);
        (adjoint ? lu_solve_adjoint<double> : lu_solve<double>)(a.data(), 3, pivots.data(), y.data());
        CHECK(distance(y, x) < 1e-14);
    }
    std::vector<double> singular{1, 2, 2, 4};
    CHECK(lu_factor(singular.data(), 2, pivots.data()) == 1);
}

TEST(preconditioner_inspect) {
    const std::vector<index> indptr{0, 2, 4};
    const std::vector<std::int32_t> indices{0, 1, 1, 0};
    std::vector<double> data{1, 2, 3, 4};
    using raw = cpu::raw_csr<std::int32_t, double>;
    const raw good{2, 2, indptr.data(), 3, indices.data(), 4, data.data(), 4};
    const auto facts = cpu::inspect_csr(good, "A", "row");
    CHECK(!facts.sorted && facts.unique);
    const auto fails = [&](const raw& a, const char* part) {
        std::string message;
        try {
            cpu::inspect_csr(a, "A", "row");
        } catch (const std::invalid_argument& e) {
            message = e.what();
        }
        CHECK(message.find("`A`") == 0);
        CHECK(message.find(part) != std::string::npos);
    };
    const std::vector<index> late{1, 2, 4}, falling{0, 3, 2}, beyond{0, 2, 9};
    const std::vector<std::int32_t> outside{0, 1, 1, 2}, negative{0, -1, 1, 0}, twice{0, 1, 1, 1};
    raw a = good;
    a.indptr = late.data(), fails(a, "row 0");
    a.indptr = falling.data(), fails(a, "row 1");
    a.indptr = beyond.data(), fails(a, "row 1");
    a = good, a.n_indptr = 2, fails(a, "indptr has length 2");
    a = good, a.n_data = 3, fails(a, "row 1");
    a = good, a.indices = outside.data(), fails(a, "row 1");
    a = good, a.indices = negative.data(), fails(a, "row 0");
    data[2] = std::numeric_limits<double>::infinity();
    fails(good, "row 1");
    a = good, a.data = nullptr, a.indices = twice.data();
    CHECK(!cpu::inspect_csr(a, "A", "row").unique);
}

TEST(preconditioner_real_on_complex) {
    const auto a = random_matrix<double>(30, 3, 2);
    const std::shared_ptr<linear_map<double>> real =
        cpu::make_ilu0<double>(a.pattern.view(), a.values.data(), 0);
    const auto map = cpu::make_complex(real);
    const auto x = random_vector<complex>(60, 3);
    std::vector<double> re(60), im(60);
    for (int i = 0; i < 60; ++i) re[i] = x[i].real(), im[i] = x[i].imag();
    for (const bool adjoint : {false, true}) {
        const auto y = apply<complex>(*map, x, adjoint);
        const auto r = apply<double>(*real, re, adjoint), s = apply<double>(*real, im, adjoint);
        for (int i = 0; i < 60; ++i) CHECK(y[i] == complex(r[i], s[i]));
    }
}
