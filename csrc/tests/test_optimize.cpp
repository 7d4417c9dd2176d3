// Factorisations of symmetric indefinite systems: inertia of matrices whose inertia is known, solutions,
// refinement, regularisation, refusals and Ctrl-C.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/api/optimize.hpp"
#include "dense/lapack_table.hpp"
#include "lapack_stand_in.hpp"

namespace {

using aitken::index;
using aitken::interrupt;
namespace opt = aitken::optimize;
using numbers = std::vector<double>;

// Bunch-Kaufman of a lower triangle, unblocked, with LAPACK's storage: the package borrows the real one.
void dsytrf(char*, int* size, double* values, int* ld, int* pivots, double* work, int* lwork, int* info) {
    *info = 0;
    *work = 1;
    if (*lwork == -1) return;
    const int n = *size, stride = *ld;
    const double growth = (1 + std::sqrt(17.0)) / 8;
    const auto a = [&](int i, int j) -> double& {
        return values[i + static_cast<std::ptrdiff_t>(j) * stride];
    };
    for (int k = 0; k < n;) {
        int row = k, p = k, order = 1;
        double column_max = 0, row_max = 0;
        for (int i = k + 1; i < n; ++i)
            if (std::abs(a(i, k)) > column_max) column_max = std::abs(a(i, k)), row = i;
        const double pivot = std::abs(a(k, k));
        if (std::max(pivot, column_max) == 0) {
            if (*info == 0) *info = k + 1;
            pivots[k] = k + 1;
            ++k;
            continue;
        }
        if (pivot < growth * column_max) {
            for (int j = k; j < row; ++j) row_max = std::max(row_max, std::abs(a(row, j)));
            for (int i = row + 1; i < n; ++i) row_max = std::max(row_max, std::abs(a(i, row)));
            if (pivot < growth * column_max * (column_max / row_max)) {
                p = row;
                if (std::abs(a(row, row)) < growth * row_max) order = 2;
            }
        }
        const int last = k + order - 1;
        if (p != last) {
            for (int i = p + 1; i < n; ++i) std::swap(a(i, last), a(i, p));
            for (int i = last + 1; i < p; ++i) std::swap(a(i, last), a(p, i));
            std::swap(a(last, last), a(p, p));
            if (order == 2) std::swap(a(k + 1, k), a(p, k));
        }
        for (int j = last + 1; j < n; ++j) {
            double w0 = a(j, k) / a(k, k), w1 = 0;
            if (order == 2) {
                const double det = a(k, k) * a(k + 1, k + 1) - a(k + 1, k) * a(k + 1, k);
                w0 = (a(k + 1, k + 1) * a(j, k) - a(k + 1, k) * a(j, k + 1)) / det;
                w1 = (a(k, k) * a(j, k + 1) - a(k + 1, k) * a(j, k)) / det;
            }
            for (int i = j; i < n; ++i) a(i, j) -= a(i, k) * w0 + (order == 2 ? a(i, k + 1) * w1 : 0.0);
            a(j, k) = w0;
            if (order == 2) a(j, k + 1) = w1;
        }
        for (int i = k; i <= last; ++i) pivots[i] = order == 1 ? p + 1 : -(p + 1);
        k += order;
    }
}

void dsytrs(char*, int* size, int*, double* values, int* ld, int* pivots, double* b, int*, int* info) {
    *info = 0;
    const int n = *size, stride = *ld;
    const auto a = [&](int i, int j) { return values[i + static_cast<std::ptrdiff_t>(j) * stride]; };
    for (int k = 0; k < n;) {
        const int order = pivots[k] > 0 ? 1 : 2, last = k + order - 1;
        std::swap(b[last], b[std::abs(pivots[k]) - 1]);
        for (int i = last + 1; i < n; ++i)
            for (int j = k; j <= last; ++j) b[i] -= a(i, j) * b[j];
        if (order == 1) {
            b[k] /= a(k, k);
        } else {
            const double det = a(k, k) * a(k + 1, k + 1) - a(k + 1, k) * a(k + 1, k);
            const double x = (a(k + 1, k + 1) * b[k] - a(k + 1, k) * b[k + 1]) / det;
            b[k + 1] = (a(k, k) * b[k + 1] - a(k + 1, k) * b[k]) / det;
            b[k] = x;
        }
        k += order;
    }
    for (int k = n - 1; k >= 0;) {
        const int order = pivots[k] > 0 ? 1 : 2;
        for (int j = k - order + 1; j <= k; ++j)
            for (int i = k + 1; i < n; ++i) b[j] -= a(i, j) * b[i];
        std::swap(b[k], b[std::abs(pivots[k]) - 1]);
        k -= order;
    }
}

std::unique_ptr<opt::factorization> make_dense(index n) {
    static const bool loaded = [] {
        aitken::tests::stand_in::load_lapack();
        auto& table = aitken::dense::lapack();
        table.load("dsytrf", reinterpret_cast<void*>(&dsytrf),
                   "void (char *, int *, double *, int *, int *, double *, int *, int *)");
        table.load("dsytrs", reinterpret_cast<void*>(&dsytrs),
                   "void (char *, int *, int *, double *, int *, int *, double *, int *, int *)");
        return true;
    }();
    static_cast<void>(loaded);
    return opt::make_dense(n);
}

// A dense symmetric matrix and the lower triangle of it by rows: entries that are zero are left out, the
// diagonal is not.
struct matrix {
    explicit matrix(index size) : n(size), a(static_cast<std::size_t>(size * size)) {}

    double& operator()(index i, index j) { return a[static_cast<std::size_t>(i * n + j)]; }
    double operator()(index i, index j) const { return a[static_cast<std::size_t>(i * n + j)]; }
    void set(index i, index j, double v) { (*this)(i, j) = (*this)(j, i) = v; }

    void compress() {
        indptr.assign(1, 0);
        indices.clear();
        values.clear();
        for (index i = 0; i < n; ++i) {
            for (index j = 0; j <= i; ++j)
                if (i == j || (*this)(i, j) != 0) {
                    indices.push_back(static_cast<std::int32_t>(j));
                    values.push_back((*this)(i, j));
                }
            indptr.push_back(static_cast<index>(indices.size()));
        }
    }
    aitken::pattern_view pattern() const { return {n, n, indptr.data(), indices.data()}; }

    // Largest entry of b - A x, relative to that of b.
    double residual(const numbers& x, const numbers& b) const {
        double worst = 0, scale = 0;
        for (index i = 0; i < n; ++i) {
            double r = b[static_cast<std::size_t>(i)];
            scale = std::max(scale, std::abs(r));
            for (index j = 0; j < n; ++j) r -= (*this)(i, j) * x[static_cast<std::size_t>(j)];
            worst = std::max(worst, std::abs(r));
        }
        return worst / scale;
    }

    index n;
    numbers a;
    std::vector<index> indptr;
    std::vector<std::int32_t> indices;
    numbers values;
};

// [[H, J'], [J, -e]] with H tridiagonal and J of one or three entries a row: n positive, m negative.
matrix saddle(index n, index m, double e, unsigned seed, double decades = 0) {
    std::mt19937 gen(seed);
    std::uniform_real_distribution<double> unit(-1, 1);
    matrix k(n + m);
    for (index i = 0; i < n; ++i) {
        k.set(i, i, 3 + unit(gen));
        if (i + 1 < n) k.set(i, i + 1, unit(gen));
    }
    for (index i = 0; i < m; ++i) {
        k.set(n + i, i, 2 + unit(gen));
        if (i + 2 < n && i % 2 == 0) k.set(n + i, n - 1 - i / 2, unit(gen));
        k.set(n + i, n + i, -e);
    }
    numbers s(static_cast<std::size_t>(n + m));
    for (double& v : s) v = std::pow(10.0, decades * unit(gen));
    for (index i = 0; i < k.n; ++i)
        for (index j = 0; j < k.n; ++j)
            k(i, j) *= s[static_cast<std::size_t>(i)] * s[static_cast<std::size_t>(j)];
    k.compress();
    return k;
}

numbers right_side(index n, unsigned seed = 5) {
    std::mt19937 gen(seed);
    std::normal_distribution<double> normal;
    numbers b(static_cast<std::size_t>(n));
    for (double& v : b) v = normal(gen);
    return b;
}

void check_inertia(const opt::inertia& found, index positive, index negative, index zero = 0) {
    CHECK(found.finite);
    CHECK(found.positive == positive);
    CHECK(found.negative == negative);
    CHECK(found.zero == zero);
}

opt::inertia factor_dense(opt::factorization& f, const matrix& k, index n_primal = 0) {
    interrupt quiet;
    return f.factor(k.a.data(), n_primal, 0.0, quiet);
}

TEST(dense_inertia_of_known_matrices) {
    matrix one(1);
    one(0, 0) = -3;
    check_inertia(factor_dense(*make_dense(1), one), 0, 1);
    one(0, 0) = 0;
    check_inertia(factor_dense(*make_dense(1), one), 0, 0, 1);
    // A zero diagonal: nothing but a pivot of order two will do.
    matrix swap(2);
    swap.set(0, 1, 1e-7);
    check_inertia(factor_dense(*make_dense(2), swap), 1, 1);
    // Four such pairs, interleaved.
    matrix pairs(8);
    for (index i = 0; i < 4; ++i) pairs.set(i, 7 - i, i % 2 ? -2.0 : 5.0);
    check_inertia(factor_dense(*make_dense(8), pairs), 4, 4);
    // Diagonal, with signs.
    matrix diagonal(5);
    for (index i = 0; i < 5; ++i) diagonal(i, i) = i < 2 ? -1.0 - i : std::pow(10.0, static_cast<double>(i));
    check_inertia(factor_dense(*make_dense(5), diagonal), 3, 2);
    // v v' has one eigenvalue that is not zero.
    matrix rank_one(3);
    for (index i = 0; i < 3; ++i)
        for (index j = 0; j < 3; ++j) rank_one(i, j) = (i + 1.0) * (j + 1.0);
    check_inertia(factor_dense(*make_dense(3), rank_one), 1, 0, 2);
    // -J J' of a pair of equal rows: one negative pivot is lost.
    matrix dependent(4);
    dependent.set(0, 0, 1);
    dependent.set(1, 1, 1);
    for (index i = 2; i < 4; ++i) dependent.set(i, 0, 1), dependent.set(i, 1, 2);
    check_inertia(factor_dense(*make_dense(4), dependent), 2, 1, 1);
}

TEST(dense_inertia_of_congruent_matrices) {
    // L D L' has the inertia of D, whatever the unit triangle and however badly it is scaled.
    std::mt19937 gen(7);
    std::uniform_real_distribution<double> unit(-1, 1);
    for (const index n : {2, 7, 33, 90}) {
        const index negative = n / 3;
        matrix l(n), k(n);
        numbers s(static_cast<std::size_t>(n));
        for (double& v : s) v = std::pow(10.0, 4 * unit(gen));
        for (index i = 0; i < n; ++i)
            for (index j = 0; j <= i; ++j) l(i, j) = i == j ? 1.0 : unit(gen) / std::sqrt(double(n));
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < n; ++j)
                for (index p = 0; p <= std::min(i, j); ++p)
                    k(i, j) += s[static_cast<std::size_t>(i)] * l(i, p) * (p < negative ? -1.0 : 1.0) *
                               l(j, p) * s[static_cast<std::size_t>(j)];
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < i; ++j) k.set(i, j, k(i, j));
        check_inertia(factor_dense(*make_dense(n), k), n - negative, negative);
    }
}

TEST(dense_solves_what_it_factored) {
    for (const double decades : {0.0, 3.0})
        for (const index m : {0, 1, 12}) {
            const matrix k = saddle(40, m, 0.0, 3, decades);
            const auto f = make_dense(k.n);
            check_inertia(factor_dense(*f, k, 40), 40, m);
            const numbers b = right_side(k.n);
            numbers x(b.size());
            const opt::solution s = f->solve(b.data(), x.data(), 1e-13, 5);
            CHECK_NEAR(s.residual, k.residual(x, b), 1e-10);
            CHECK(s.residual <= (decades > 0 ? 1e-7 : 1e-13));
            CHECK(f->size() == k.n);
            CHECK(f->flops() > 0);
        }
}

TEST(dense_is_scaled_by_powers_of_two_alone) {
    // The same matrix in other units, powers of two, gives the same bits in those units.
    matrix k = saddle(12, 4, 0.0, 11);
    const auto f = make_dense(16);
    factor_dense(*f, k, 12);
    numbers b = right_side(16), x(16), y(16);
    f->solve(b.data(), x.data(), 0.0, 0);
    numbers s(16);
    for (index i = 0; i < 16; ++i)
        s[static_cast<std::size_t>(i)] = std::ldexp(1.0, static_cast<int>(i % 5) * 8 - 16);
    for (index i = 0; i < 16; ++i) {
        b[static_cast<std::size_t>(i)] *= s[static_cast<std::size_t>(i)];
        for (index j = 0; j < 16; ++j)
            k(i, j) *= s[static_cast<std::size_t>(i)] * s[static_cast<std::size_t>(j)];
    }
    check_inertia(factor_dense(*f, k, 12), 12, 4);
    f->solve(b.data(), y.data(), 0.0, 0);
    for (std::size_t i = 0; i < 16; ++i) CHECK_NEAR(y[i] * s[i], x[i], 1e-12 * (1 + std::abs(x[i])));
}

TEST(sparse_inertia_and_solution) {
    interrupt quiet;
    for (const double decades : {0.0, 2.0})
        for (const index m : {0, 1, 60})
            for (const double e : {0.0, 0.5}) {
                const matrix k = saddle(150, m, e, 4, decades);
                const auto f = opt::make_sparse(k.pattern());
                CHECK(f->size() == k.n);
                CHECK(f->nnz() >= k.n);
                check_inertia(f->factor(k.values.data(), 150, 1e-9, quiet), 150, m);
                const numbers b = right_side(k.n);
                numbers x(b.size());
                const opt::solution s = f->solve(b.data(), x.data(), 1e-12, 8);
                CHECK_NEAR(s.residual, k.residual(x, b), 1e-9);
                CHECK(s.residual <= (decades > 0 ? 1e-8 : 1e-12));
            }
}

TEST(sparse_refinement_takes_the_shift_out_again) {
    interrupt quiet;
    const matrix k = saddle(100, 30, 0.0, 9);
    const auto f = opt::make_sparse(k.pattern());
    const numbers b = right_side(130);
    numbers x(130);
    double before = 1;
    for (const double shift : {1e-3, 1e-6}) {
        check_inertia(f->factor(k.values.data(), 100, shift, quiet), 100, 30);
        const double plain = f->solve(b.data(), x.data(), 0.0, 0).residual;
        CHECK_NEAR(plain, k.residual(x, b), 1e-12);
        CHECK(plain > 0.01 * shift);  // the shift is felt,
        CHECK(plain < before);        // and a smaller one less
        before = plain;
        const opt::solution refined = f->solve(b.data(), x.data(), 1e-13, 20);
        CHECK(refined.residual <= 1e-13);
        CHECK_NEAR(refined.residual, k.residual(x, b), 1e-13);
        CHECK(refined.steps >= 1);
        CHECK(refined.steps < 20);
    }
}

TEST(sparse_saddle_without_any_diagonal) {
    // [[0, I], [I, 0]]: every pivot is zero until the shift gives it a sign.
    interrupt quiet;
    matrix k(8);
    for (index i = 0; i < 4; ++i) k.set(i, 4 + i, 1.0);
    k.compress();
    const auto f = opt::make_sparse(k.pattern());
    check_inertia(f->factor(k.values.data(), 4, 1e-4, quiet), 4, 4);
    const numbers b = right_side(8);
    numbers x(8);
    CHECK(f->solve(b.data(), x.data(), 1e-12, 20).residual <= 1e-6);
    CHECK(k.residual(x, b) <= 1e-6);
}

TEST(sparse_shift_gives_dependent_rows_their_sign) {
    // The same row twice: its second pivot is what the shift makes of zero, and rows are negative.
    interrupt quiet;
    matrix k(6);
    for (index i = 0; i < 4; ++i) {
        k.set(i, i, 2.0);
        k.set(4, i, 1.0);
        k.set(5, i, 1.0);
    }
    k.compress();
    const auto f = opt::make_sparse(k.pattern());
    check_inertia(f->factor(k.values.data(), 4, 1e-6, quiet), 4, 2);
    numbers b(6, 1.0), x(6);
    CHECK(f->solve(b.data(), x.data(), 1e-12, 20).residual <= 1e-10);  // consistent
    b[5] = 2.0;
    CHECK(f->solve(b.data(), x.data(), 1e-12, 20).residual > 0.1);  // and not
}

TEST(a_right_side_of_zero_and_values_that_are_copied) {
    interrupt quiet;
    matrix k = saddle(20, 5, 0.1, 2);
    const auto dense = make_dense(25);
    const auto sparse = opt::make_sparse(k.pattern());
    dense->factor(k.a.data(), 20, 0.0, quiet);
    sparse->factor(k.values.data(), 20, 1e-9, quiet);
    const matrix kept = k;
    k.a.assign(k.a.size(), 0.0);  // refinement must not look at the caller's memory
    k.values.assign(k.values.size(), 0.0);
    const numbers b = right_side(25), none(25, 0.0);
    for (opt::factorization* f : {dense.get(), sparse.get()}) {
        numbers x(25, 7.0);
        CHECK(f->solve(none.data(), x.data(), 1e-12, 3).residual == 0);
        for (const double v : x) CHECK(v == 0.0);
        CHECK(f->solve(b.data(), x.data(), 1e-13, 5).residual <= 1e-12);
        CHECK(kept.residual(x, b) <= 1e-12);
    }
}

TEST(numbers_that_are_not_finite_are_said) {
    interrupt quiet;
    const double nan = std::numeric_limits<double>::quiet_NaN(),
                 inf = std::numeric_limits<double>::infinity();
    for (const double bad : {nan, inf, -inf}) {
        matrix k = saddle(20, 5, 0.1, 2);
        const auto dense = make_dense(25);
        const auto sparse = opt::make_sparse(k.pattern());
        numbers values = k.values, x(25);
        values[3] = bad;
        k.a[30] = bad;
        CHECK(!dense->factor(k.a.data(), 20, 0.0, quiet).finite);
        CHECK(!sparse->factor(values.data(), 20, 1e-9, quiet).finite);
        CHECK_THROWS(dense->solve(x.data(), x.data(), 0.0, 0), std::logic_error);
        CHECK_THROWS(sparse->solve(x.data(), x.data(), 0.0, 0), std::logic_error);
        check_inertia(sparse->factor(k.values.data(), 20, 1e-9, quiet), 20, 5);  // good as new
    }
}

TEST(what_cannot_be_factored_is_refused) {
    numbers x(3);
    CHECK_THROWS(make_dense(3)->solve(x.data(), x.data(), 0.0, 0), std::logic_error);
    const std::vector<index> starts{0, 2, 3};
    const std::vector<std::int32_t> upper{0, 1, 1}, gap{0, 0};
    CHECK_THROWS(opt::make_sparse({2, 2, starts.data(), upper.data()}), std::invalid_argument);
    const std::vector<index> short_starts{0, 1, 2};
    CHECK_THROWS(opt::make_sparse({2, 2, short_starts.data(), gap.data()}), std::invalid_argument);
    // Exactly singular: said, and not solved.
    matrix k(2);
    const auto f = make_dense(2);
    check_inertia(factor_dense(*f, k), 0, 0, 2);
    CHECK_THROWS(f->solve(x.data(), x.data(), 0.0, 0), std::logic_error);
}

TEST(empty_matrices) {
    interrupt quiet;
    double none = 0;
    const auto dense = make_dense(0);
    check_inertia(dense->factor(&none, 0, 0.0, quiet), 0, 0);
    CHECK(dense->solve(&none, &none, 0.0, 3).residual == 0);
    const index start = 0;
    const auto sparse = opt::make_sparse({0, 0, &start, nullptr});
    check_inertia(sparse->factor(&none, 0, 1e-9, quiet), 0, 0);
}

// Lower triangle of the Laplacian of a grid with k points a side in three dimensions.
matrix grid(index k) {
    matrix a(0);
    a.n = k * k * k;
    a.indptr.push_back(0);
    for (index i = 0; i < a.n; ++i) {
        const index x = i % k, y = i / k % k, z = i / (k * k);
        const auto put = [&](index j, double v) {
            a.indices.push_back(static_cast<std::int32_t>(j));
            a.values.push_back(v);
        };
        if (z > 0) put(i - k * k, -1);
        if (y > 0) put(i - k, -1);
        if (x > 0) put(i - 1, -1);
        put(i, 6.5);
        a.indptr.push_back(static_cast<index>(a.indices.size()));
    }
    return a;
}

TEST(ctrl_c_reaches_a_large_factorisation) {
    const matrix a = grid(34);
    const auto f = opt::make_sparse(a.pattern());
    // Looks come every 50 ms where there are supernodes between; how long one takes is the machine's affair.
    int looks = 0;
    interrupt watching([&] { return ++looks < 0; });
    const auto begin = std::chrono::steady_clock::now();
    check_inertia(f->factor(a.values.data(), a.n, 1e-9, watching), a.n, 0);
    CHECK(looks >= 1 || std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(500));
    // A signal that came before: the first look ends it, and nothing half done can be used.
    interrupt pending([] { return true; });
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    CHECK_THROWS(f->factor(a.values.data(), a.n, 1e-9, pending), aitken::interrupted);
    const numbers b(static_cast<std::size_t>(a.n), 1.0);
    numbers x(b);
    CHECK_THROWS(f->solve(b.data(), x.data(), 0.0, 0), std::logic_error);
    interrupt quiet;
    check_inertia(f->factor(a.values.data(), a.n, 1e-9, quiet), a.n, 0);
    CHECK(f->solve(b.data(), x.data(), 1e-12, 3).residual <= 1e-12);
    // Before a dense factorisation there is a look too.
    matrix k(60);
    for (index i = 0; i < 60; ++i) k.set(i, i, 1.0);
    interrupt late([] { return true; });
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    CHECK_THROWS(make_dense(60)->factor(k.a.data(), 60, 0.0, late), aitken::interrupted);
}

}  // namespace
