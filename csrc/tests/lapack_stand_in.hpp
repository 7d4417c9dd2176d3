// A slow, obvious LAPACK for native tests, which run without the process whose LAPACK the package borrows:
// what the Krylov driver asks of dense/lapack_table.hpp, so that it recycles here too.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <string>
#include <vector>

#include "dense/lapack_table.hpp"

namespace aitken::tests::stand_in {

using complex = std::complex<double>;

struct square_matrix {
    int n;
    std::vector<complex> values;
    explicit square_matrix(int n_) : n(n_), values(static_cast<std::size_t>(n_) * n_) {}
    complex& operator()(int i, int j) { return values[static_cast<std::size_t>(j) * n + i]; }
};

// Lower Cholesky factor in place.
inline void dpotrf(char* uplo, int* n, double* a, int* lda, int* info) {
    *info = *uplo == 'L' ? 0 : -1;
    for (int j = 0; j < *n && *info == 0; ++j)
        for (int i = j; i < *n; ++i) {
            double sum = a[i + j * *lda];
            for (int k = 0; k < j; ++k) sum -= a[i + k * *lda] * a[j + k * *lda];
            if (i == j && !(sum > 0)) {
                *info = j + 1;
                return;
            }
            a[i + j * *lda] = i == j ? std::sqrt(sum) : sum / a[j + j * *lda];
        }
}

// A = Q T Q^H by the shifted QR iteration, each step a full set of Givens rotations on the Hessenberg form.
// False where it does not converge.
inline bool schur(square_matrix& t, square_matrix& q) {
    const int n = t.n;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) q(i, j) = i == j ? 1.0 : 0.0;
    // Turns (a, b) in rows p, r into (length, 0).
    struct rotation {
        int p, r;
        double c;
        complex s;
    };
    const auto make = [&](int p, int r, complex a, complex b) {
        const double length = std::hypot(std::abs(a), std::abs(b));
        if (length == 0) return rotation{p, r, 1, 0};
        if (std::abs(a) == 0) return rotation{p, r, 0, std::conj(b) / std::abs(b)};
        return rotation{p, r, std::abs(a) / length, a / std::abs(a) * std::conj(b) / length};
    };
    const auto rows = [&](const rotation& g, int first) {
        for (int j = first; j < n; ++j) {
            const complex x = t(g.p, j), y = t(g.r, j);
            t(g.p, j) = g.c * x + g.s * y;
            t(g.r, j) = -std::conj(g.s) * x + g.c * y;
        }
    };
    const auto columns = [&](square_matrix& m, const rotation& g) {
        for (int i = 0; i < n; ++i) {
            const complex x = m(i, g.p), y = m(i, g.r);
            m(i, g.p) = g.c * x + std::conj(g.s) * y;
            m(i, g.r) = -g.s * x + g.c * y;
        }
    };
    for (int k = 0; k + 2 < n; ++k)
        for (int i = n - 1; i > k + 1; --i) {
            const rotation g = make(i - 1, i, t(i - 1, k), t(i, k));
            rows(g, 0);
            columns(t, g);
            columns(q, g);
        }
    int high = n - 1;
    for (int step = 0; high > 0; ++step) {
        if (step > 60 * n) return false;
        int low = high;
        while (low > 0) {
            const double size = std::abs(t(low - 1, low - 1)) + std::abs(t(low, low));
            if (std::abs(t(low, low - 1)) <= 1e-16 * size) {
                t(low, low - 1) = 0;
                break;
            }
            --low;
        }
        if (low == high) {
            --high;
            step = 0;
            continue;
        }
        // The eigenvalue of the last 2 x 2 block nearest to its corner; now and then a shift off the pattern.
        const complex a = t(high - 1, high - 1), b = t(high - 1, high), c = t(high, high - 1),
                      d = t(high, high);
        const complex half = 0.5 * (a - d), root = std::sqrt(half * half + b * c);
        complex shift = std::abs(half + root) < std::abs(half - root) ? d + half + root : d + half - root;
        if (step % 11 == 10) shift = d + std::abs(c);
        for (int i = low; i <= high; ++i) t(i, i) -= shift;
        std::vector<rotation> turns;
        for (int k = low; k < high; ++k) {
            turns.push_back(make(k, k + 1, t(k, k), t(k + 1, k)));
            rows(turns.back(), k);
            t(k + 1, k) = 0;
        }
        for (const rotation& g : turns) {
            columns(t, g);
            columns(q, g);
        }
        for (int i = low; i <= high; ++i) t(i, i) += shift;
    }
    return true;
}

// Eigenvalues and unit right eigenvectors.
inline bool eigen(square_matrix a, std::vector<complex>& w, square_matrix& v) {
    const int n = a.n;
    square_matrix q(n);
    double size = 0;
    for (const complex& x : a.values) size = std::max(size, std::abs(x));
    if (!schur(a, q)) return false;
    w.resize(static_cast<std::size_t>(n));
    std::vector<complex> x(static_cast<std::size_t>(n));
    for (int k = 0; k < n; ++k) {
        w[k] = a(k, k);
        std::fill(x.begin(), x.end(), complex(0));
        x[k] = 1;
        for (int i = k - 1; i >= 0; --i) {
            complex sum = 0;
            for (int j = i + 1; j <= k; ++j) sum += a(i, j) * x[j];
            complex gap = a(k, k) - a(i, i);
            if (std::abs(gap) < 1e-16 * size) gap = 1e-16 * size;
            x[i] = sum / gap;
        }
        double length = 0;
        for (int i = 0; i < n; ++i) {
            complex sum = 0;
            for (int j = 0; j <= k; ++j) sum += q(i, j) * x[j];
            v(i, k) = sum;
            length += std::norm(sum);
        }
        for (int i = 0; i < n; ++i) v(i, k) /= std::sqrt(length);
    }
    return true;
}

inline void zgeev(char*, char*, int* n, complex* a, int* lda, complex* w, complex*, int*, complex* vr,
                  int* ldvr, complex* work, int* lwork, double*, int* info) {
    *info = 0;
    if (*lwork < 0) {
        *work = 1;
        return;
    }
    square_matrix m(*n), v(*n);
    for (int j = 0; j < *n; ++j)
        for (int i = 0; i < *n; ++i) m(i, j) = a[i + j * *lda];
    std::vector<complex> values;
    if (!eigen(std::move(m), values, v)) {
        *info = 1;
        return;
    }
    for (int j = 0; j < *n; ++j) {
        w[j] = values[j];
        for (int i = 0; i < *n; ++i) vr[i + j * *ldvr] = v(i, j);
    }
}

// Real ones first turned real; then pairs, the one with positive imaginary part standing for both.
inline void dgeev(char*, char*, int* n, double* a, int* lda, double* wr, double* wi, double*, int*,
                  double* vr, int* ldvr, double* work, int* lwork, int* info) {
    *info = 0;
    if (*lwork < 0) {
        *work = 1;
        return;
    }
    square_matrix m(*n), v(*n);
    double size = 0;
    for (int j = 0; j < *n; ++j)
        for (int i = 0; i < *n; ++i) {
            m(i, j) = a[i + j * *lda];
            size = std::max(size, std::abs(m(i, j)));
        }
    std::vector<complex> values;
    if (!eigen(std::move(m), values, v)) {
        *info = 1;
        return;
    }
    int out = 0;
    const auto real = [&](int j) { return std::abs(values[j].imag()) <= 1e-11 * size; };
    for (int j = 0; j < *n; ++j) {
        if (!real(j)) continue;
        int largest = 0;
        for (int i = 1; i < *n; ++i)
            if (std::abs(v(i, j)) > std::abs(v(largest, j))) largest = i;
        const complex turn = std::abs(v(largest, j)) / v(largest, j);
        wr[out] = values[j].real();
        wi[out] = 0;
        for (int i = 0; i < *n; ++i) vr[i + out * *ldvr] = (turn * v(i, j)).real();
        ++out;
    }
    for (int j = 0; j < *n; ++j) {
        if (real(j) || values[j].imag() < 0) continue;
        if (out + 2 > *n) {
            *info = 2;  // the iteration lost a pair
            return;
        }
        wr[out] = wr[out + 1] = values[j].real();
        wi[out] = values[j].imag();
        wi[out + 1] = -values[j].imag();
        for (int i = 0; i < *n; ++i) {
            vr[i + out * *ldvr] = v(i, j).real();
            vr[i + (out + 1) * *ldvr] = v(i, j).imag();
        }
        out += 2;
    }
    if (out != *n) *info = 3;
}

// Puts them into the process-wide table; once is enough.
inline void load_lapack() {
    static const bool loaded = [] {
        const std::string i = "int *, ", d = "double *, ", z = "double_complex *, ", c = "char *, ";
        auto& table = dense::lapack();
        const auto load = [&table](const char* name, auto* routine, std::string arguments) {
            arguments.resize(arguments.size() - 2);  // the last comma
            table.load(name, reinterpret_cast<void*>(routine), "void (" + arguments + ")");
        };
        load("dpotrf", &dpotrf, c + i + d + i + i);
        load("dgeev", &dgeev, c + c + i + d + i + d + d + d + i + d + i + d + i + i);
        load("zgeev", &zgeev, c + c + i + z + i + z + z + i + z + i + z + i + d + i);
        return true;
    }();
    static_cast<void>(loaded);
}

}  // namespace aitken::tests::stand_in
