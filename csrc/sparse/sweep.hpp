// A matrix laid out for sweeps: rows in the order of the levels of a sweep, off-diagonal entries in slices.
//
// Sweeping rows in a given order relaxes row i with the newest values of the rows before it. The level of a
// row is the length of the longest chain of coupled rows before it, so rows of one level are relaxed at the
// same time, and the sweep over the levels does what the serial sweep does. The entries of a row are summed
// in the order of their columns, those of rows swept earlier first where the order is not the natural one:
// the bits are those of the serial sweep.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/views.hpp"
#include "sparse/levels.hpp"
#include "sparse/sliced.hpp"

namespace aitken {

// Places are rows in the order of the levels; slices are of places. Slice columns begin[s] .. middle[s] hold
// entries of rows swept earlier, middle[s] .. begin[s + 1] those of rows swept later.
struct sweep_layout {
    static constexpr std::uint32_t no_slot = 0xffffffffu;

    index n = 0;
    level_order order;                // rows[k]: the row at place k; starts: places of each level
    std::vector<std::int32_t> place;  // place[order.rows[k]] = k
    sliced_pattern slices;            // no columns across; groups are the levels
    std::vector<index> middle;        // per slice
    std::vector<std::uint32_t> slot;  // of every entry of A among the slice values; diagonal: no_slot
    std::vector<index> diagonal;      // entry of A on the diagonal, by place; -1: none

    index levels() const { return order.levels(); }
};

// `rows`: the sweep's order, a permutation; empty: 0 .. n - 1. Rows of `a` are sorted. Throws
// std::length_error where there would be more than 2^32 - 1 slice values.
// `poll` is called now and then.
sweep_layout make_sweep_layout(const pattern_view& a, const std::vector<std::int32_t>& rows = {},
                               const std::function<void()>& poll = {});

}  // namespace aitken
