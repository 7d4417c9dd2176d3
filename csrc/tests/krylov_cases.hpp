// Sparse systems for the tests of the Krylov kernels, and comparisons of what comes out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/views.hpp"
#include "cuda/krylov_blocks.hpp"
#include "sparse/pattern.hpp"

namespace aitken::tests {

using numbers = std::vector<double>;

// Several matrices on one pattern.
struct sparse_case {
    sparse_pattern pattern;
    numbers values;

    index n() const { return pattern.rows; }
    index nnz() const { return pattern.nnz(); }
    const double* system(int k) const { return values.data() + k * nnz(); }
    cuda::device_rows rows() const { return {n(), pattern.indptr.data(), pattern.indices.data()}; }
};

inline numbers random_numbers(index count, unsigned seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> uniform(-1, 1);
    numbers x(static_cast<std::size_t>(count));
    for (double& v : x) v = uniform(random);
    return x;
}

// System s has the numbers given, changed by some 5 s per cent off the diagonal.
inline sparse_case from_rows(const std::vector<std::map<std::int32_t, double>>& rows, int systems) {
    sparse_case a;
    a.pattern.rows = a.pattern.cols = static_cast<index>(rows.size());
    numbers first;
    std::vector<char> diagonal;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        for (const auto& [j, v] : rows[i]) {
            a.pattern.indices.push_back(j);
            first.push_back(v);
            diagonal.push_back(static_cast<std::size_t>(j) == i);
        }
        a.pattern.indptr.push_back(static_cast<index>(first.size()));
    }
    for (int s = 0; s < systems; ++s) {
        const numbers change =
            random_numbers(static_cast<index>(first.size()), 100u + static_cast<unsigned>(s));
        for (std::size_t e = 0; e < first.size(); ++e)
            a.values.push_back(first[e] * (diagonal[e] ? 1 + 0.01 * s : 1 + 0.05 * s * change[e]));
    }
    return a;
}

// Diagonally dominant with up to nine entries a row, in no order of columns; one row may be long.
inline sparse_case random_rows(index n, index longest, int systems) {
    std::mt19937 random(static_cast<unsigned>(n));
    std::vector<std::map<std::int32_t, double>> rows(static_cast<std::size_t>(n));
    std::uniform_int_distribution<std::int32_t> column(0, static_cast<std::int32_t>(n - 1));
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (auto& row : rows)
        for (int k = static_cast<int>(random() % 9); k > 0; --k) row[column(random)] = uniform(random);
    for (index k = 0; k < std::min(longest, n); ++k)
        rows[n / 2][static_cast<std::int32_t>(k)] = uniform(random) / static_cast<double>(n);
    for (index i = 0; i < n; ++i) {
        double sum = 1;
        for (const auto& [j, v] : rows[i]) sum += std::fabs(v);
        rows[i][static_cast<std::int32_t>(i)] = sum;
    }
    sparse_case a = from_rows(rows, systems);
    for (index i = 0; i < n; ++i) {  // rows need not be sorted
        const index first = a.pattern.indptr[i], count = a.pattern.indptr[i + 1] - first;
        const index turn = count > 0 ? static_cast<index>(random() % static_cast<unsigned>(count)) : 0;
        std::rotate(a.pattern.indices.begin() + first, a.pattern.indices.begin() + first + turn,
                    a.pattern.indices.begin() + first + count);
        for (int s = 0; s < systems; ++s) {
            double* const v = a.values.data() + s * a.nnz() + first;
            std::rotate(v, v + turn, v + count);
        }
    }
    return a;
}

// Convection and diffusion on a grid: nonsymmetric, and slow enough to restart.
inline sparse_case convection(index nx, index ny, int systems) {
    std::vector<std::map<std::int32_t, double>> rows(static_cast<std::size_t>(nx * ny));
    for (index y = 0; y < ny; ++y)
        for (index x = 0; x < nx; ++x) {
            auto& row = rows[y * nx + x];
            const auto at = [nx](index i, index j) { return static_cast<std::int32_t>(j * nx + i); };
            row[at(x, y)] = 4.02;
            if (x > 0) row[at(x - 1, y)] = -1.3;
            if (x + 1 < nx) row[at(x + 1, y)] = -0.7;
            if (y > 0) row[at(x, y - 1)] = -1.1;
            if (y + 1 < ny) row[at(x, y + 1)] = -0.9;
        }
    return from_rows(rows, systems);
}

inline numbers product(const sparse_case& a, int system, const double* x) {
    numbers y(static_cast<std::size_t>(a.n()), 0.0);
    for (index i = 0; i < a.n(); ++i)
        for (index p = a.pattern.indptr[i]; p < a.pattern.indptr[i + 1]; ++p)
            y[i] += a.system(system)[p] * x[a.pattern.indices[p]];
    return y;
}

// Within tol of the largest number expected (or 1).
inline void near_all(const double* got, const numbers& expected, double tol, const std::string& what) {
    double size = 1, worst = 0;
    std::size_t at = 0;
    for (double v : expected) size = std::max(size, std::fabs(v));
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double gap = std::fabs(got[i] - expected[i]);
        if (!(gap <= worst)) {
            worst = gap;
            at = i;
            if (std::isnan(gap)) break;
        }
    }
    if (worst <= tol * size) return check::that(true, __FILE__, __LINE__, "");
    check::that(
        false, __FILE__, __LINE__,
        (what + ": " + std::to_string(got[at]) + " at " + std::to_string(at) + ", expected " +
         std::to_string(expected[at]) + ", apart by " + std::to_string(worst / size / tol) + " tolerances")
            .c_str());
}

template <class B>
void near_tall(tall<B> got, tall<B> expected, double tol, const std::string& what) {
    for (index j = 0; j < got.cols; ++j)
        near_all(numbers(got.col(j), got.col(j) + got.rows).data(),
                 numbers(expected.col(j), expected.col(j) + expected.rows), tol, what);
}

}  // namespace aitken::tests
