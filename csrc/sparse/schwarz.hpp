// Overlapping subdomains of a sparse matrix.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/views.hpp"
#include "sparse/pattern.hpp"

namespace aitken {

struct subdomain {
    std::vector<std::int32_t> rows;    // ascending, with the overlap
    index own_begin = 0, own_end = 0;  // rows[own_begin .. own_end) are its own
    sparse_pattern pattern;            // A restricted to `rows`, in local numbers
    std::vector<index> source;         // of its entries: the entry of A
};

// One subdomain per block of rows starts[k] .. starts[k + 1], each with `overlap` layers of the neighbours
// that its rows have entries for. Blocks may be empty.
std::vector<subdomain> make_subdomains(const pattern_view& a, const std::vector<index>& starts, int overlap);

// Throws std::invalid_argument naming `name` unless starts ascends from 0 to n.
void check_starts(const std::vector<index>& starts, index n, const std::string& name);

}  // namespace aitken
