// Systems for the tests of the relaxation kernels, and SOR as it is defined, row after row.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "core/api/krylov_cuda.hpp"
#include "core/api/relaxation.hpp"
#include "drivers/sweep_order.hpp"
#include "krylov_cases.hpp"

namespace aitken::tests {

// Diagonally dominant, rows sorted, no symmetry, up to nine entries a row.
inline sparse_case sorted_rows(index n, int systems) {
    std::mt19937 random(static_cast<unsigned>(n) + 7);
    std::vector<std::map<std::int32_t, double>> rows(static_cast<std::size_t>(n));
    std::uniform_int_distribution<std::int32_t> column(0, static_cast<std::int32_t>(n - 1));
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        for (int k = static_cast<int>(random() % 9); k > 0; --k) rows[i][column(random)] = uniform(random);
        double sum = 0.1;
        for (const auto& [j, v] : rows[i]) sum += std::fabs(v);
        rows[i][static_cast<std::int32_t>(i)] = sum;
    }
    return from_rows(rows, systems);
}

// Neighbours along three axes with coefficients of their own, as find_stencil knows them.
inline sparse_case box(index n0, index n1, index n2, double center, const double (&before)[3],
                       const double (&after)[3]) {
    const index extent[3] = {n0, n1, n2}, stride[3] = {n1 * n2, n2, 1};
    std::vector<std::map<std::int32_t, double>> rows(static_cast<std::size_t>(n0 * n1 * n2));
    for (index i = 0; i < n0 * n1 * n2; ++i) {
        auto& row = rows[static_cast<std::size_t>(i)];
        row[static_cast<std::int32_t>(i)] = center;
        for (int axis = 0; axis < 3; ++axis) {
            const index at = i / stride[axis] % extent[axis];
            if (at > 0) row[static_cast<std::int32_t>(i - stride[axis])] = before[axis];
            if (at + 1 < extent[axis]) row[static_cast<std::int32_t>(i + stride[axis])] = after[axis];
        }
    }
    return from_rows(rows, 1);
}
inline sparse_case five_points(index nx, index ny) { return box(1, nx, ny, 4, {-1, -1, -1}, {-1, -1, -1}); }

inline double length(const numbers& x) {
    double sum = 0;
    for (double v : x) sum += v * v;
    return std::sqrt(sum);
}

// b - (A + shift I) x.
inline numbers residual_of(const sparse_case& a, int system, double shift, const double* b, const double* x) {
    numbers r = product(a, system, x);
    for (index i = 0; i < a.n(); ++i) r[i] = b[i] - r[i] - shift * x[i];
    return r;
}

// One sweep over the rows in the order given, or against it.
inline void serial_sweep(const sparse_case& a, int system, double shift,
                         const std::vector<std::int32_t>& order, double omega, const double* b, numbers& x,
                         bool backward) {
    const index n = a.n();
    for (index k = 0; k < n; ++k) {
        const std::int32_t i = order[static_cast<std::size_t>(backward ? n - 1 - k : k)];
        double sum = b[i], d = shift;
        for (index p = a.pattern.indptr[i]; p < a.pattern.indptr[i + 1]; ++p)
            if (a.pattern.indices[p] == i)
                d += a.system(system)[p];
            else
                sum -= a.system(system)[p] * x[static_cast<std::size_t>(a.pattern.indices[p])];
        x[static_cast<std::size_t>(i)] += omega * (sum / d - x[static_cast<std::size_t>(i)]);
    }
}
inline void serial_sweeps(const sparse_case& a, int system, double shift,
                          const std::vector<std::int32_t>& order, double omega,
                          relaxation::direction direction, const double* b, numbers& x) {
    if (direction != relaxation::direction::backward)
        serial_sweep(a, system, shift, order, omega, b, x, false);
    if (direction != relaxation::direction::forward) serial_sweep(a, system, shift, order, omega, b, x, true);
}

inline std::vector<std::int32_t> ascending(index n) {
    std::vector<std::int32_t> rows(static_cast<std::size_t>(n));
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
}

// The first sweep after which the residual is within the target, and the x after it and after one more.
struct serial_solve {
    index iterations = 0;
    double target = 0;
    numbers x, next;
};
inline serial_solve solve_serially(const sparse_case& a, int system, double shift,
                                   const std::vector<std::int32_t>& order, double omega,
                                   relaxation::direction direction, double rtol, bool to_r0, const double* b,
                                   const numbers& start, index most) {
    serial_solve out;
    out.x = start;
    const auto residual = [&] { return length(residual_of(a, system, shift, b, out.x.data())); };
    out.target = rtol * (to_r0 ? residual() : length(numbers(b, b + a.n())));
    while (residual() > out.target && out.iterations < most) {
        serial_sweeps(a, system, shift, order, omega, direction, b, out.x);
        ++out.iterations;
    }
    out.next = out.x;
    serial_sweeps(a, system, shift, order, omega, direction, b, out.next);
    return out;
}

inline cuda::krylov::matrix as_matrix(const sparse_case& a, int system = 0) {
    return {a.pattern.view(), a.nnz(), a.system(system)};
}

}  // namespace aitken::tests
