// Dense matrices of a few dozen rows on the host: what is left of a Krylov cycle once its tall products are
// made. Column-major, in vectors; sizes make these microseconds, so plain loops over columns are enough.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "core/views.hpp"
#include "dense/lapack_table.hpp"

namespace aitken::dense {

template <class S>
inline constexpr bool is_complex = false;
template <class T>
inline constexpr bool is_complex<std::complex<T>> = true;

inline double conjugate(double x) { return x; }
inline std::complex<double> conjugate(const std::complex<double>& x) { return std::conj(x); }
inline double square(double x) { return x * x; }
inline double square(const std::complex<double>& x) { return std::norm(x); }

template <class S>
struct small_matrix {
    int rows = 0, cols = 0;
    std::vector<S> values;

    small_matrix() = default;
    small_matrix(int r, int c) : rows(r), cols(c), values(static_cast<std::size_t>(r) * c, S(0)) {}
    S& operator()(int i, int j) { return values[static_cast<std::size_t>(j) * rows + i]; }
    const S& operator()(int i, int j) const { return values[static_cast<std::size_t>(j) * rows + i]; }
    S* col(int j) { return values.data() + static_cast<std::size_t>(j) * rows; }
    const S* col(int j) const { return values.data() + static_cast<std::size_t>(j) * rows; }
};

// A B by columns of A, so that the inner loop has no reduction.
template <class S>
small_matrix<S> product(const small_matrix<S>& a, const small_matrix<S>& b) {
    small_matrix<S> c(a.rows, b.cols);
    for (int j = 0; j < b.cols; ++j)
        for (int k = 0; k < a.cols; ++k) {
            const S factor = b(k, j);
            if (factor == S(0)) continue;
            const S* from = a.col(k);
            S* to = c.col(j);
            for (int i = 0; i < a.rows; ++i) to[i] += factor * from[i];
        }
    return c;
}

// Solves R X = B for the leading upper triangle of R, B replaced by X.
template <class S>
void solve_upper(const small_matrix<S>& r, int n, S* b) {
    for (int i = n - 1; i >= 0; --i) {
        b[i] /= r(i, i);
        const S* column = r.col(i);
        for (int k = 0; k < i; ++k) b[k] -= b[i] * column[k];
    }
}

// A Pi = Q R with column pivoting, columns whose remainder is at most `drop` times the first one's left out.
template <class S>
struct pivoted_qr {
    int rank = 0;
    std::vector<int> perm;  // column j of Q R is column perm[j] of A
    small_matrix<S> q, r;   // rows x rank, rank x rank
};

template <class S>
pivoted_qr<S> factor_pivoted(const small_matrix<S>& a, double drop) {
    const int m = a.rows, n = a.cols;
    pivoted_qr<S> f;
    f.perm.resize(n);
    std::iota(f.perm.begin(), f.perm.end(), 0);
    small_matrix<S> work = a, r(n, n);
    std::vector<double> norm2(n);
    const auto length2 = [&](int j) {
        double sum = 0;
        for (int i = 0; i < m; ++i) sum += square(work(i, j));
        return sum;
    };
    for (int j = 0; j < n; ++j) norm2[j] = length2(j);
    double first = 0;
    for (int k = 0; k < std::min(m, n); ++k) {
        int best = k;
        for (int j = k + 1; j < n; ++j)
            if (norm2[j] > norm2[best]) best = j;
        if (best != k) {
            std::swap_ranges(work.col(k), work.col(k) + m, work.col(best));
            std::swap_ranges(r.col(k), r.col(k) + n, r.col(best));
            std::swap(norm2[k], norm2[best]);
            std::swap(f.perm[k], f.perm[best]);
        }
        // Once more against the columns before: what cancelled below lost digits.
        for (int p = 0; p < k; ++p) {
            S h(0);
            for (int i = 0; i < m; ++i) h += conjugate(work(i, p)) * work(i, k);
            for (int i = 0; i < m; ++i) work(i, k) -= h * work(i, p);
            r(p, k) += h;
        }
        const double length = std::sqrt(length2(k));
        if (k == 0) first = length;
        if (!(length > drop * first)) break;
        r(k, k) = length;
        for (int i = 0; i < m; ++i) work(i, k) /= length;
        for (int j = k + 1; j < n; ++j) {
            S h(0);
            for (int i = 0; i < m; ++i) h += conjugate(work(i, k)) * work(i, j);
            for (int i = 0; i < m; ++i) work(i, j) -= h * work(i, k);
            r(k, j) = h;
            norm2[j] = length2(j);
        }
        ++f.rank;
    }
    f.q = small_matrix<S>(m, f.rank);
    f.r = small_matrix<S>(f.rank, f.rank);
    for (int j = 0; j < f.rank; ++j) {
        std::copy_n(work.col(j), m, f.q.col(j));
        std::copy_n(r.col(j), f.rank, f.r.col(j));
    }
    return f;
}

// Pi R^-1 of such a factorisation: the combination of A's columns that gives Q.
template <class S>
small_matrix<S> inverse_combination(const pivoted_qr<S>& f) {
    small_matrix<S> p(static_cast<int>(f.perm.size()), f.rank);
    std::vector<S> column(static_cast<std::size_t>(f.rank));
    for (int j = 0; j < f.rank; ++j) {
        std::fill(column.begin(), column.end(), S(0));
        column[j] = S(1);
        solve_upper(f.r, j + 1, column.data());
        for (int i = 0; i <= j; ++i) p(f.perm[i], j) = column[i];
    }
    return p;
}

// Pivoted Cholesky of a Gram matrix, G = (A Pi)^H (A Pi) = R^H R; the same result as a QR of A without Q.
// Squaring costs half the digits: `drop` below about 1e-7 keeps noise.
template <class S>
pivoted_qr<S> factor_gram(small_matrix<S> g, double drop) {
    const int n = g.rows;
    pivoted_qr<S> f;
    f.perm.resize(n);
    std::iota(f.perm.begin(), f.perm.end(), 0);
    small_matrix<S> r(n, n);
    double first = 0;
    for (int k = 0; k < n; ++k) {
        int best = k;
        for (int j = k + 1; j < n; ++j)
            if (std::real(g(j, j)) > std::real(g(best, best))) best = j;
        if (best != k) {
            for (int i = 0; i < n; ++i) std::swap(g(i, k), g(i, best));
            for (int i = 0; i < n; ++i) std::swap(g(k, i), g(best, i));
            for (int i = 0; i < k; ++i) std::swap(r(i, k), r(i, best));
            std::swap(f.perm[k], f.perm[best]);
        }
        const double pivot = std::real(g(k, k));
        if (!(pivot > 0)) break;
        const double length = std::sqrt(pivot);
        if (k == 0) first = length;
        if (!(length > drop * first)) break;
        r(k, k) = length;
        for (int j = k + 1; j < n; ++j) r(k, j) = g(k, j) / length;
        for (int j = k + 1; j < n; ++j)
            for (int i = k + 1; i < n; ++i) g(i, j) -= conjugate(r(k, i)) * r(k, j);
        ++f.rank;
    }
    f.r = small_matrix<S>(f.rank, f.rank);
    for (int j = 0; j < f.rank; ++j) std::copy_n(r.col(j), j + 1, f.r.col(j));
    return f;
}

// Eigenvectors of a general matrix whose eigenvalues score highest: an independent set of columns that spans
// them, real ones for a real matrix. A complex pair gives two columns and stays together; where it would be
// cut by `count` it is kept when `room` allows one column more, and left out otherwise.
// Eigenvalues that are not finite are skipped. Returns no column when the iteration fails.
template <class S, class Score>
small_matrix<S> leading_eigenvectors(small_matrix<S> a, int count, int room, Score&& score) {
    const int n = a.rows;
    std::vector<std::complex<double>> w(static_cast<std::size_t>(n));
    small_matrix<S> v(n, n);
    for (const S& x : a.values)
        if (!std::isfinite(std::abs(x))) return small_matrix<S>(n, 0);
    if (lapack().geev(n, a.values.data(), n, w.data(), v.values.data(), n) != 0) return small_matrix<S>(n, 0);
    struct candidate {
        int column, width;
        double score;
    };
    std::vector<candidate> list;
    for (int i = 0; i < n;) {
        const bool pair = !is_complex<S> && w[i].imag() != 0 && i + 1 < n;
        if (std::isfinite(std::abs(w[i]))) list.push_back({i, pair ? 2 : 1, score(w[i])});
        i += pair ? 2 : 1;
    }
    std::stable_sort(list.begin(), list.end(),
                     [](const candidate& x, const candidate& y) { return x.score > y.score; });
    std::vector<int> columns;
    for (const candidate& c : list) {
        const int used = static_cast<int>(columns.size());
        if (used >= count) break;
        if (used + c.width > std::max(count, room)) continue;
        for (int k = 0; k < c.width; ++k) columns.push_back(c.column + k);
    }
    small_matrix<S> p(n, static_cast<int>(columns.size()));
    for (int j = 0; j < p.cols; ++j) std::copy_n(v.col(columns[j]), n, p.col(j));
    return p;
}

}  // namespace aitken::dense
