// Matrices that are one stencil with constant coefficients on a box of grid points.
#pragma once

#include <optional>

#include "core/views.hpp"

namespace aitken {

// Point (i, j, k) is row (i * extent[1] + j) * extent[2] + k; leading extents are 1 in fewer dimensions.
// Neighbours outside of the box do not exist.
struct grid_stencil {
    index extent[3] = {1, 1, 1};
    double center = 0;
    double before[3] = {0, 0, 0}, after[3] = {0, 0, 0};  // coefficients of the neighbours along each axis

    index size() const { return extent[0] * extent[1] * extent[2]; }
};

// The stencil of a matrix, or nothing where it is none (a row whose entries differ, a neighbour that is
// missing or wraps around). Rows sorted. Costs one pass over the entries at most.
std::optional<grid_stencil> find_stencil(const pattern_view& a, const double* values);

}  // namespace aitken
