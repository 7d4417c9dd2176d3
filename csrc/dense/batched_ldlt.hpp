// L D L' of small dense symmetric indefinite matrices with diagonal pivoting (Bunch and Kaufman 1977): D has
// blocks of one and two rows, whose signs are the inertia. Then KKT systems, shifted until theirs is right.
//
// For one matrix and one thread, on host and device; nothing is allocated. Lower triangles by rows, ld apart.
// Of N rows: N^3 / 3 flops to factor in place, 2 N^2 to solve; everything stays in the first two caches up to
// N = 128 (two triangles, 264 KB at most, 1 KB at N = 8).
#pragma once

#include <cmath>
#include <cstdint>

#include "core/views.hpp"

namespace aitken::dense {

struct inertia {
    int positive = 0, negative = 0, zero = 0;
};

namespace ldlt {

// (1 + sqrt 17) / 8: bounds the growth over two steps of one row by that over one of two.
inline constexpr double threshold = 0.6403882032022076;
inline constexpr double tiny = 1e-280;  // a pivot below is zero: its reciprocal would overflow

AITKEN_HD void swap_numbers(double& a, double& b) {
    const double t = a;
    a = b;
    b = t;
}

// Rows and columns p and q, k <= p < q, of the triangle that begins at row k.
AITKEN_HD void exchange(double* a, int n, index ld, int k, int p, int q) {
    for (int j = k; j < p; ++j) swap_numbers(a[p * ld + j], a[q * ld + j]);
    swap_numbers(a[p * ld + p], a[q * ld + q]);
    for (int i = p + 1; i < q; ++i) swap_numbers(a[i * ld + p], a[q * ld + i]);
    for (int i = q + 1; i < n; ++i) swap_numbers(a[i * ld + p], a[i * ld + q]);
}

AITKEN_HD void count_sign(double d, inertia& in) {
    if (d > tiny)
        ++in.positive;
    else if (d < -tiny)
        ++in.negative;
    else
        ++in.zero;  // NaN as well
}

// Of a block [a b; b c].
AITKEN_HD void count_signs(double a, double b, double c, inertia& in) {
    const double det = (a / b) * (c / b) - 1;  // over b^2, which may overflow
    if (det < 0) {
        ++in.positive;
        ++in.negative;
    } else {
        count_sign(det > 0 ? a : 0, in);
        count_sign(det > 0 ? c : 0, in);
    }
}

// Which rows the pivot of step k is made of: `row` comes to its last place, `rows` are eliminated.
struct choice {
    int row, rows;
};
AITKEN_HD choice choose(const double* a, int n, index ld, int k) {
    const double diagonal = std::fabs(a[k * ld + k]);
    double column = 0;
    int r = k;
    for (int i = k + 1; i < n; ++i)
        if (const double v = std::fabs(a[i * ld + k]); v > column) {
            column = v;
            r = i;
        }
    if (diagonal >= threshold * column) return {k, 1};
    double across = 0;
    for (int j = k; j < r; ++j)
        if (const double v = std::fabs(a[r * ld + j]); v > across) across = v;
    for (int i = r + 1; i < n; ++i)
        if (const double v = std::fabs(a[i * ld + r]); v > across) across = v;
    if (diagonal * across >= threshold * column * column) return {k, 1};
    if (std::fabs(a[r * ld + r]) >= threshold * across) return {r, 1};
    return {r, 2};
}

}  // namespace ldlt

// A = P L D L' P' in place. pivot[k]: the row that came to k, or for blocks of two, k and k + 1, -1 - the row
// that came to k + 1. work: 2 n numbers.
AITKEN_HD inertia ldlt_factor(double* a, int n, index ld, std::int32_t* pivot, double* work) {
    inertia in;
    double *const u = work, *const v = work + n;
    for (int k = 0; k < n;) {
        const ldlt::choice c = ldlt::choose(a, n, ld, k);
        const int last = k + c.rows - 1;
        if (c.row != last) ldlt::exchange(a, n, ld, k, last, c.row);
        if (c.rows == 1) {
            pivot[k] = c.row;
            const double d = a[k * ld + k];
            ldlt::count_sign(d, in);
            if (std::fabs(d) > ldlt::tiny) {
                const double inverse = 1 / d;
                for (int i = k + 1; i < n; ++i) u[i] = a[i * ld + k];
                for (int i = k + 1; i < n; ++i) {
                    const double l = u[i] * inverse;
                    double* const row = a + i * ld;
                    for (int j = k + 1; j <= i; ++j) row[j] -= l * u[j];
                    row[k] = l;
                }
            } else {
                for (int i = k + 1; i < n; ++i) a[i * ld + k] = 0;
            }
        } else {
            pivot[k] = pivot[k + 1] = -1 - c.row;
            const double d11 = a[k * ld + k], d21 = a[last * ld + k], d22 = a[last * ld + last];
            ldlt::count_signs(d11, d21, d22, in);
            const double p = d11 / d21, q = d22 / d21, scale = 1 / (d21 * (p * q - 1));
            for (int i = k + 2; i < n; ++i) {
                u[i] = a[i * ld + k];
                v[i] = a[i * ld + last];
            }
            for (int i = k + 2; i < n; ++i) {
                double* const row = a + i * ld;
                const double l1 = scale * (q * u[i] - v[i]), l2 = scale * (p * v[i] - u[i]);
                for (int j = k + 2; j <= i; ++j) row[j] -= l1 * u[j] + l2 * v[j];
                row[k] = l1;
                row[last] = l2;
            }
        }
        k += c.rows;
    }
    return in;
}

// A x = b in place from the factor. A zero pivot leaves 0 in its place.
AITKEN_HD void ldlt_solve(const double* a, int n, index ld, const std::int32_t* pivot, double* b) {
    for (int k = 0; k < n;) {
        if (pivot[k] >= 0) {
            if (pivot[k] != k) ldlt::swap_numbers(b[k], b[pivot[k]]);
            for (int i = k + 1; i < n; ++i) b[i] -= a[i * ld + k] * b[k];
            const double d = a[k * ld + k];
            b[k] = std::fabs(d) > ldlt::tiny ? b[k] / d : 0;
            ++k;
        } else {
            const int row = -1 - pivot[k];
            if (row != k + 1) ldlt::swap_numbers(b[k + 1], b[row]);
            for (int i = k + 2; i < n; ++i) b[i] -= a[i * ld + k] * b[k] + a[i * ld + k + 1] * b[k + 1];
            const double d21 = a[(k + 1) * ld + k], p = a[k * ld + k] / d21, q = a[(k + 1) * ld + k + 1] / d21;
            const double scale = 1 / (d21 * (p * q - 1)), b1 = b[k], b2 = b[k + 1];
            b[k] = scale * (q * b1 - b2);
            b[k + 1] = scale * (p * b2 - b1);
            k += 2;
        }
    }
    for (int k = n - 1; k >= 0;) {
        if (pivot[k] >= 0) {
            double sum = b[k];
            for (int i = k + 1; i < n; ++i) sum -= a[i * ld + k] * b[i];
            b[k] = sum;
            if (pivot[k] != k) ldlt::swap_numbers(b[k], b[pivot[k]]);
            --k;
        } else {
            double s1 = b[k - 1], s2 = b[k];
            for (int i = k + 1; i < n; ++i) {
                s1 -= a[i * ld + k - 1] * b[i];
                s2 -= a[i * ld + k] * b[i];
            }
            b[k - 1] = s1;
            b[k] = s2;
            if (const int row = -1 - pivot[k]; row != k) ldlt::swap_numbers(b[k], b[row]);
            k -= 2;
        }
    }
}

// --- KKT systems ------------------------------------------------------------------------------------

// As optimize::kkt_systems, of one problem. h may be null (0) and comes with a factor, rows of j as well (null:
// 1). Of h the mean of both triangles counts.
struct kkt_matrix {
    int n = 0, m = 0;
    const double* h = nullptr;
    double h_scale = 1;
    const double* d = nullptr;
    const double* j = nullptr;
    const double* j_scale = nullptr;
    const double* sigma = nullptr;

    AITKEN_HD double entry(int row, int column) const {
        return h ? h_scale * 0.5 * (h[row * n + column] + h[column * n + row]) : 0;
    }
    AITKEN_HD bool held(int column) const { return d[column] < 0; }
    AITKEN_HD bool empty(int row) const { return sigma[row] == -2; }
    AITKEN_HD double jacobian(int row, int column) const {
        return (j_scale ? j_scale[row] : 1) * j[index{row} * n + column];
    }
    AITKEN_HD double elasticity(int row, double t) const {
        return sigma[row] >= 0 ? 1 / (sigma[row] + t) : 0;
    }
    // The entry (row, column), column <= row < n + m, of K without t and regular.
    AITKEN_HD double plain(int row, int column) const {
        if (row < n) {
            if (held(row) || held(column)) return row == column ? 1 : 0;
            return entry(row, column) + (row == column ? d[row] : 0);
        }
        if (column >= n) return 0;  // the diagonal comes with t
        return empty(row - n) || held(column) ? 0 : jacobian(row - n, column);
    }
    AITKEN_HD double diagonal(int row, double plain_value, double t, double regular) const {
        if (row < n) return held(row) ? 1 : plain_value + t;
        return empty(row - n) ? -1 : -(regular + elasticity(row - n, t));
    }
    AITKEN_HD double right(int row, const double* rx, const double* rc, const double* rs, double t) const {
        if (row < n) return held(row) ? 0 : -rx[row];
        const int i = row - n;
        return empty(i) ? 0 : -rc[i] - elasticity(i, t) * rs[i];
    }
};

// The rule of the shift: t = 0, then max(xi, last / 3), then four times as much; with too few negative pivots
// the rows of j depend on each other, and their block is made more negative too.
struct kkt_shift {
    static constexpr double first_regular = 1e-10, second_regular = 1e-8, most = 1e20;
    double t = 0, regular = first_regular;
    int attempts = 0;

    AITKEN_HD bool next(const inertia& in, int m, double xi, double last, double largest_j) {
        if (in.negative < m || in.zero > 0) {
            const double more = second_regular * (largest_j > 1 ? largest_j : 1);
            if (more > regular) regular = more;
        }
        t = t > 0 ? 4 * t : (last / 3 > xi ? last / 3 : xi);
        return t <= most;
    }
};

// Numbers of workspace for N unknowns: the matrix, its factor, right-hand side, solution, residual, two columns.
constexpr index kkt_workspace(index n) { return 2 * n * n + 5 * n; }

// dx (n) and dlam (m) of the system with the first shift that does; once refined. False where none does.
AITKEN_HD bool solve_kkt(const kkt_matrix& k, const double* rx, const double* rc, const double* rs, double xi,
                         double last, kkt_shift& shift, double* dx, double* dlam, double* work,
                         std::int32_t* pivot) {
    const int n = k.n, size = k.n + k.m;
    double *const plain = work, *const factor = plain + index{size} * size;
    double *const b = factor + index{size} * size, *const z = b + size, *const r = z + size,
                  *const columns = r + size;
    double largest_j = 0;
    for (int i = 0; i < size; ++i)
        for (int j = 0; j <= i; ++j) {
            const double v = k.plain(i, j);
            plain[index{i} * size + j] = v;
            if (i >= n && std::fabs(v) > largest_j) largest_j = std::fabs(v);
        }
    for (;;) {
        for (int i = 0; i < size; ++i) {
            for (int j = 0; j < i; ++j) factor[index{i} * size + j] = plain[index{i} * size + j];
            factor[index{i} * size + i] =
                k.diagonal(i, plain[index{i} * size + i], shift.t, shift.regular);
        }
        ++shift.attempts;
        const inertia in = ldlt_factor(factor, size, size, pivot, columns);
        if (in.positive == n && in.negative == k.m) break;
        if (!shift.next(in, k.m, xi, last, largest_j)) return false;
    }
    for (int i = 0; i < size; ++i) z[i] = b[i] = k.right(i, rx, rc, rs, shift.t);
    ldlt_solve(factor, size, size, pivot, z);
    for (int i = 0; i < size; ++i) r[i] = b[i];
    for (int i = 0; i < size; ++i) {
        const double* const row = plain + index{i} * size;
        double sum = k.diagonal(i, row[i], shift.t, shift.regular) * z[i];
        for (int j = 0; j < i; ++j) {
            sum += row[j] * z[j];
            r[j] -= row[j] * z[i];
        }
        r[i] -= sum;
    }
    ldlt_solve(factor, size, size, pivot, r);
    bool finite = true;
    for (int i = 0; i < size; ++i) {
        z[i] += r[i];
        finite = finite && std::fabs(z[i]) < 1e300;
    }
    for (int i = 0; i < n; ++i) dx[i] = k.held(i) ? 0 : z[i];
    for (int i = 0; i < k.m; ++i) dlam[i] = k.empty(i) ? 0 : z[n + i];
    return finite;
}

}  // namespace aitken::dense
