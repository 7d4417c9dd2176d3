// Grids that are awkward for the Poisson operator and its multigrid, and plain loops to hold them against.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "core/api/multigrid.hpp"

namespace aitken::multigrid_cases {

struct grid_case {
    multigrid::box box;
    std::vector<std::uint8_t> flags;
    std::array<std::vector<double>, 3> faces;
    std::array<std::array<bool, 2>, 3> open{};
    double shift = 0;

    multigrid::coefficients coefficients() const {
        multigrid::coefficients c;
        c.flags = flags.empty() ? nullptr : flags.data();
        for (std::size_t a = 0; a < 3; ++a) c.faces[a] = faces[a].empty() ? nullptr : faces[a].data();
        c.open = open;
        c.shift = shift;
        return c;
    }
    index number(index i0, index i1, index i2) const { return (i0 * box.n[1] + i1) * box.n[2] + i2; }
};

enum class ends { open, closed, periodic, mixed };

inline grid_case make_case(int ndim, std::array<index, 3> n, ends side, bool variable, double solid,
                           unsigned seed) {
    std::mt19937_64 numbers(seed);
    std::uniform_real_distribution<double> unit(0, 1);
    grid_case c;
    c.box.ndim = ndim;
    c.box.n = n;
    c.box.variable = variable;
    for (int a = 3 - ndim; a < 3; ++a) {
        c.box.periodic[a] = side == ends::periodic || (side == ends::mixed && a == 1);
        c.open[a] = {side == ends::open || (side == ends::mixed && a == 2), side == ends::open};
        c.box.scale[a] = variable ? 1.0 + 0.5 * a : 4.0;
    }
    if (!variable) c.box.scale = {4.0, 4.0, 4.0};
    if (solid > 0) {
        c.flags.resize(static_cast<std::size_t>(c.box.cells()));
        for (auto& f : c.flags) {
            const double u = unit(numbers);
            f = u < solid ? multigrid::solid : u < 1.2 * solid ? multigrid::dirichlet : multigrid::fluid;
        }
    }
    if (!variable) return c;
    for (int a = 3 - ndim; a < 3; ++a) {
        std::array<index, 3> m = n;
        ++m[a];
        auto& f = c.faces[a];
        f.resize(static_cast<std::size_t>(m[0] * m[1] * m[2]));
        for (double& w : f) w = unit(numbers) < 0.1 ? 0.0 : 0.1 + unit(numbers);
        if (!c.box.periodic[a]) continue;
        for (index i0 = 0; i0 < m[0]; ++i0)
            for (index i1 = 0; i1 < m[1]; ++i1)
                for (index i2 = 0; i2 < m[2]; ++i2) {
                    std::array<index, 3> i{i0, i1, i2};
                    if (i[a] != n[a]) continue;
                    std::array<index, 3> first = i;
                    first[a] = 0;
                    f[(i[0] * m[1] + i[1]) * m[2] + i[2]] = f[(first[0] * m[1] + first[1]) * m[2] + first[2]];
                }
    }
    return c;
}

// The matrix, cell by cell.
inline std::vector<double> dense_operator(const grid_case& c) {
    const index m = c.box.cells();
    std::vector<double> a(static_cast<std::size_t>(m * m), 0.0);
    const auto kind = [&](index p) { return c.flags.empty() ? std::uint8_t{0} : c.flags[p]; };
    for (index i0 = 0; i0 < c.box.n[0]; ++i0)
        for (index i1 = 0; i1 < c.box.n[1]; ++i1)
            for (index i2 = 0; i2 < c.box.n[2]; ++i2) {
                const index p = c.number(i0, i1, i2);
                if (kind(p) != multigrid::fluid) continue;
                a[p * m + p] += c.shift;
                for (int axis = 3 - c.box.ndim; axis < 3; ++axis)
                    for (const int up : {0, 1}) {
                        std::array<index, 3> face{i0, i1, i2}, j{i0, i1, i2}, size = c.box.n;
                        face[axis] += up;
                        j[axis] += up == 1 ? 1 : -1;
                        ++size[axis];
                        const double given =
                            c.faces[axis].empty()
                                ? 1.0
                                : c.faces[axis][(face[0] * size[1] + face[1]) * size[2] + face[2]];
                        const double w = given * c.box.scale[axis];
                        if (c.box.periodic[axis]) {
                            if (c.box.n[axis] == 1) continue;
                            j[axis] = (j[axis] + c.box.n[axis]) % c.box.n[axis];
                        } else if (j[axis] < 0 || j[axis] >= c.box.n[axis]) {
                            if (c.open[axis][up]) a[p * m + p] += w;
                            continue;
                        }
                        const index q = c.number(j[0], j[1], j[2]);
                        if (kind(q) == multigrid::solid) continue;
                        a[p * m + p] += w;
                        if (kind(q) == multigrid::fluid) a[p * m + q] -= w;
                    }
            }
    return a;
}

inline std::vector<grid_case> awkward_cases() {
    std::vector<grid_case> out;
    unsigned seed = 1;
    for (const bool variable : {false, true})
        for (const ends side : {ends::open, ends::closed, ends::periodic, ends::mixed}) {
            out.push_back(make_case(2, {1, 9, 14}, side, variable, 0.2, ++seed));
            out.push_back(make_case(2, {1, 1, 13}, side, variable, 0.1, ++seed));
            out.push_back(make_case(2, {1, 17, 1}, side, variable, 0.0, ++seed));
            out.push_back(make_case(2, {1, 16, 8}, side, variable, 0.35, ++seed));
            out.push_back(make_case(3, {5, 6, 7}, side, variable, 0.25, ++seed));
            out.push_back(make_case(3, {8, 2, 6}, side, variable, 0.0, ++seed));
            out.push_back(make_case(3, {9, 1, 5}, side, variable, 0.1, ++seed));
            out.push_back(make_case(1, {1, 1, 21}, side, variable, 0.1, ++seed));
            out.push_back(make_case(3, {2, 3, 2}, side, variable, 1.0, ++seed));
        }
    out.back().shift = 0.3;
    out.front().shift = 0.5;
    return out;
}

}  // namespace aitken::multigrid_cases
