// Colours of a matrix's graph and the orders of rows they give. The graph is that of A + A^T; all choices are
// made in the order of the rows, so they depend on the pattern alone.
#pragma once

#include <cstdint>
#include <vector>

#include "core/views.hpp"

namespace aitken {

struct coloring {
    int colors = 0;                   // as many as were used; 0: there is none
    std::vector<std::int32_t> color;  // of every row
};

// Two colours, the first row of every component has the first; colors = 0 where that is impossible.
coloring two_colors(const pattern_view& a);

// Every row gets the smallest colour that no neighbour before it has.
coloring greedy_colors(const pattern_view& a);

// Rows by colour, and by number within a colour.
std::vector<std::int32_t> rows_by_color(const coloring& c);

// Contiguous clusters of at most `size` rows of a reverse Cuthill-McKee order, coloured as their graph is
// greedily: rows by the colour of their cluster, by cluster, and as in that order.
std::vector<std::int32_t> rows_by_cluster(const pattern_view& a, index size);

}  // namespace aitken
