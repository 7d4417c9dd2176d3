// Fill-reducing ordering of a symmetric matrix: approximate minimum degree
// (Amestoy, Davis & Duff, SIAM J. Matrix Anal. Appl. 17 (1996) 886-905), our own implementation, with an
// approximate-fill ranking of the pivots (in the spirit of Rothberg & Eisenstat 1998) as the default.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse/pattern.hpp"

namespace aitken {

enum class pivot_rank {
    degree,  // approximate external degree, as published
    // Pairs among the neighbours less those already in a common element, per eliminated row. Measured against
    // `degree`: 4 to 15 % less fill on grids, within 2 % on bipartite supports, up to 40 % slower.
    fill,
};

struct amd_options {
    pivot_rank rank = pivot_rank::fill;
    bool aggressive = true;  // absorb elements that became subsets of the newest one
    // Rows with more than max(16, dense * sqrt(n)) neighbours are ordered last; negative: none is.
    double dense = 10.0;
};

struct amd_stats {
    index n_dense = 0;           // rows postponed
    index n_supervariables = 0;  // pivots chosen; the rest followed by indistinguishability
    index n_collections = 0;     // garbage collections of the quotient graph
};

// `graph` is a symmetric_graph(): both triangles, no diagonal, no duplicates. Returns perm with perm[k] the
// k-th row to eliminate, in a postorder of the assembly tree. Deterministic; O(n + nnz) extra memory.
std::vector<std::int32_t> amd_order(const pattern_view& graph, const amd_options& options = {},
                                    amd_stats* stats = nullptr);

std::vector<std::int32_t> natural_order(index n);

}  // namespace aitken
