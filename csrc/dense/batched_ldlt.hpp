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
    int positive, negative, zero;
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

// Rows and columns p < q of the lower triangle, the multipliers in its columns before p too.
AITKEN_HD void exchange(double* a, int n, index ld, int p, int q) {
    double *const upper = a + p * ld, *const lower = a + q * ld;
    for (int j = 0; j < p; ++j) swap_numbers(upper[j], lower[j]);
    swap_numbers(upper[p], lower[q]);
    for (int i = p + 1; i < q; ++i) swap_numbers(a[i * ld + p], lower[i]);
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

// The inverses of the blocks of D: of one row [d_k], of two [d_k e_k; e_k d_k+1] with e_k != 0. 0 for a zero
// pivot, so that its unknown is 0.
struct block_inverse {
    double d, e, next;
};
AITKEN_HD double invert(double d) { return std::fabs(d) > ldlt::tiny ? 1 / d : 0; }
AITKEN_HD block_inverse invert(double a, double b, double c) {
    const double p = a / b, q = c / b, scale = 1 / (b * (p * q - 1));
    return {scale * q, -scale, scale * p};
}

// P' A P = L D L' in place of A: L below the diagonal, 0 inside blocks of two. pivot[k]: the row that came to
// k at its step, later steps included in L. inverse: 2 n numbers, d then e as above. work: 2 n numbers.
AITKEN_HD inertia ldlt_factor(double* a, int n, index ld, std::int32_t* pivot, double* inverse,
                              double* work) {
    inertia in{0, 0, 0};
    double *const u = work, *const v = work + n, *const e = inverse + n;
    for (int k = 0; k < n;) {
        const ldlt::choice c = ldlt::choose(a, n, ld, k);
        const int last = k + c.rows - 1;
        pivot[k] = k;
        pivot[last] = c.row;
        if (c.row != last) ldlt::exchange(a, n, ld, last, c.row);
        if (c.rows == 1) {
            const double d = a[k * ld + k], by = invert(d);
            ldlt::count_sign(d, in);
            inverse[k] = by;
            e[k] = 0;
            for (int i = k + 1; i < n; ++i) u[i] = a[i * ld + k];
            for (int i = k + 1; i < n; ++i) {
                const double l = u[i] * by;
                double* const row = a + i * ld;
                row[k] = l;
                for (int j = k + 1; j <= i; ++j) row[j] -= l * u[j];
            }
        } else {
            const double b = a[last * ld + k];
            ldlt::count_signs(a[k * ld + k], b, a[last * ld + last], in);
            const block_inverse by = invert(a[k * ld + k], b, a[last * ld + last]);
            inverse[k] = by.d;
            inverse[last] = by.next;
            e[k] = by.e;
            e[last] = 0;
            a[last * ld + k] = 0;
            for (int i = k + 2; i < n; ++i) {
                u[i] = a[i * ld + k];
                v[i] = a[i * ld + last];
            }
            for (int i = k + 2; i < n; ++i) {
                double* const row = a + i * ld;
                const double l1 = by.d * u[i] + by.e * v[i], l2 = by.e * u[i] + by.next * v[i];
                row[k] = l1;
                row[last] = l2;
                for (int j = k + 2; j <= i; ++j) row[j] -= l1 * u[j] + l2 * v[j];
            }
        }
        k += c.rows;
    }
    return in;
}

// A x = b in place from the factor; rows of L alone are read, each twice.
AITKEN_HD void ldlt_solve(const double* a, int n, index ld, const std::int32_t* pivot, const double* inverse,
                          double* b) {
    const double* const e = inverse + n;
    for (int k = 0; k < n; ++k)
        if (pivot[k] != k) ldlt::swap_numbers(b[k], b[pivot[k]]);
    for (int i = 1; i < n; ++i) {
        const double* const row = a + i * ld;
        double sum = b[i];
        for (int j = 0; j < i; ++j) sum -= row[j] * b[j];
        b[i] = sum;
    }
    for (int k = 0; k < n; ++k) {
        const double mine = b[k];
        b[k] *= inverse[k];
        if (e[k] == 0) continue;
        b[k] += e[k] * b[k + 1];
        b[k + 1] = e[k] * mine + inverse[k + 1] * b[k + 1];
        ++k;
    }
    for (int i = n - 1; i > 0; --i) {
        const double* const row = a + i * ld;
        const double mine = b[i];
        for (int j = 0; j < i; ++j) b[j] -= row[j] * mine;
    }
    for (int k = n - 1; k >= 0; --k)
        if (pivot[k] != k) ldlt::swap_numbers(b[k], b[pivot[k]]);
}

// --- KKT systems ------------------------------------------------------------------------------------

// As optimize::kkt_systems, of one problem. h may be null (0) and comes with a factor, rows of j as well
// (null: 1). Of h the mean of both triangles counts.
struct kkt_matrix {
    int n, m;
    const double* h;
    double h_scale;
    const double *d, *j, *j_scale, *sigma;

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
    double t, regular;
    int attempts;

    AITKEN_HD bool next(const inertia& in, int m, double xi, double last, double largest_j) {
        if (in.negative < m || in.zero > 0) {
            const double more = second_regular * (largest_j > 1 ? largest_j : 1);
            if (more > regular) regular = more;
        }
        t = t > 0 ? 4 * t : (last / 3 > xi ? last / 3 : xi);
        return t <= most;
    }
};

// Numbers of workspace for N unknowns: the matrix, its factor, D, right-hand side, solution, residual, 2
// columns.
constexpr index kkt_workspace(index n) { return 2 * n * n + 7 * n; }

// Largest residual, relative to the largest number on the right, that is not refined.
inline constexpr double refine_above = 1e-15;

// dx (n) and dlam (m) of the system with the first shift that does; once refined. False where none does.
AITKEN_HD bool solve_kkt(const kkt_matrix& k, const double* rx, const double* rc, const double* rs, double xi,
                         double last, kkt_shift& shift, double* dx, double* dlam, double* work,
                         std::int32_t* pivot) {
    const int n = k.n, size = k.n + k.m;
    double *const plain = work, *const factor = plain + index{size} * size;
    double *const b = factor + index{size} * size, *const z = b + size, *const r = z + size,
                  *const columns = r + size, *const inverse = columns + 2 * size;
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
            factor[index{i} * size + i] = k.diagonal(i, plain[index{i} * size + i], shift.t, shift.regular);
        }
        ++shift.attempts;
        const inertia in = ldlt_factor(factor, size, size, pivot, inverse, columns);
        if (in.positive == n && in.negative == k.m) break;
        if (!shift.next(in, k.m, xi, last, largest_j)) return false;
    }
    for (int i = 0; i < size; ++i) z[i] = b[i] = k.right(i, rx, rc, rs, shift.t);
    ldlt_solve(factor, size, size, pivot, inverse, z);
    double top = 0, error = 0;
    for (int i = 0; i < size; ++i) {
        r[i] = b[i];
        top = std::fabs(b[i]) > top ? std::fabs(b[i]) : top;
    }
    for (int i = 0; i < size; ++i) {
        const double* const row = plain + index{i} * size;
        double sum = k.diagonal(i, row[i], shift.t, shift.regular) * z[i];
        for (int j = 0; j < i; ++j) {
            sum += row[j] * z[j];
            r[j] -= row[j] * z[i];
        }
        r[i] -= sum;
    }
    for (int i = 0; i < size; ++i) error = std::fabs(r[i]) > error ? std::fabs(r[i]) : error;
    if (error > refine_above * top) {
        ldlt_solve(factor, size, size, pivot, inverse, r);
        for (int i = 0; i < size; ++i) z[i] += r[i];
    }
    bool finite = true;
    for (int i = 0; i < size; ++i) finite = finite && std::fabs(z[i]) < 1e300;
    for (int i = 0; i < n; ++i) dx[i] = k.held(i) ? 0 : z[i];
    for (int i = 0; i < k.m; ++i) dlam[i] = k.empty(i) ? 0 : z[n + i];
    return finite;
}

}  // namespace aitken::dense
