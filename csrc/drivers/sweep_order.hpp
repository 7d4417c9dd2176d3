// The permutation that rows are swept in, by the name of an order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "core/api/relaxation.hpp"
#include "core/views.hpp"
#include "sparse/coloring.hpp"

namespace aitken {

// Empty: as they are. `rows` is the permutation of order::given. Throws std::invalid_argument for red-black
// where the graph has an odd cycle.
inline std::vector<std::int32_t> sweep_rows(const pattern_view& a, relaxation::order order,
                                            const std::vector<std::int32_t>& rows) {
    // Larger clusters keep more of the natural order's convergence; about half of them run side by side.
    const index cluster = std::max<index>(256, (a.rows + 31) / 32);
    switch (order) {
        case relaxation::order::natural:
            return {};
        case relaxation::order::redblack: {
            const coloring c = two_colors(a);
            if (c.colors == 0 && a.rows > 0)
                throw std::invalid_argument("`order` is \"redblack\", but the graph of `A` has an odd cycle");
            return rows_by_color(c);
        }
        case relaxation::order::multicolor:
            return rows_by_color(greedy_colors(a));
        case relaxation::order::blocks:
            return rows_by_cluster(a, cluster);
        case relaxation::order::given:
            break;
    }
    return rows;
}

}  // namespace aitken
