// Triangular factors in the order of their levels.
//
// The level of a row is the length of the longest chain of rows that it depends on, so rows of one level are
// independent of each other. A symmetric permutation that puts rows in the order of their levels (and of
// their numbers inside a level) keeps every triangle a triangle: whatever is coupled keeps its relative
// order. An incomplete factorisation of the permuted matrix is therefore the permuted factorisation of the
// matrix.
#pragma once

#include <cstdint>
#include <vector>

#include "core/views.hpp"
#include "sparse/pattern.hpp"
#include "sparse/scalar.hpp"
#include "sparse/sliced.hpp"

namespace aitken {

struct level_order {
    std::vector<std::int32_t> rows;  // rows[k] is the k-th in the order of the levels
    std::vector<index> starts;       // levels + 1: level l holds places starts[l] .. starts[l + 1]

    index levels() const { return static_cast<index>(starts.size()) - 1; }
};

// Which entries couple two rows: all, or those below the diagonal alone (the rest of A is not looked at).
enum class coupling { full, lower };

// Levels with respect to both triangles, so that one order serves the solves with L, U and their transposes.
level_order order_by_levels(const pattern_view& a, coupling use);

// Where the numbers of L, D and U go: one buffer with the slices of L, the slices of U and the n diagonal
// numbers. Rows are in the order of the levels, in U's slices in the mirrored order (place k is row n - 1 - k
// there, and the same for columns), so that both are solved from the first slice to the last. Padding is
// never written: a buffer that starts as zeros stays right. With coupling::lower the upper triangle is the
// transpose of the lower one.
struct factor_layout {
    static constexpr std::uint32_t no_slot = 0xffffffffu;

    index n = 0;
    level_order order;
    std::vector<std::int32_t> place;                    // place[order.rows[k]] = k
    sparse_pattern lower, upper;                        // strict triangles of P A P^T, rows sorted
    std::vector<std::uint32_t> lower_slot, upper_slot;  // of their entries
    sliced_pattern lower_slices, upper_slices;          // the latter mirrored
    std::vector<std::uint32_t> slot;                    // of every entry of A; no_slot: not used
    index upper_begin = 0, diagonal_begin = 0, size = 0;

    template <class S>
    void load(const S* values, S* buffer) const {
        for (index i = 0; i < n; ++i) buffer[diagonal_begin + i] = S{};
        const auto nnz = static_cast<index>(slot.size());
        for (index p = 0; p < nnz; ++p)
            if (slot[p] != no_slot) buffer[slot[p]] = values[p];
    }
    // The row of A at this place.
    index row(index k) const { return order.rows[k]; }
};

// Throws std::length_error where the numbers would be more than 2^32 - 1.
factor_layout make_factor_layout(const pattern_view& a, coupling use);

// U^H and L^H as lower and (mirrored) upper slices, with the slot that each of their numbers is the conjugate
// of (no_slot: padding).
struct adjoint_layout {
    sliced_pattern lower_slices, upper_slices;
    std::vector<std::uint32_t> lower_source, upper_source;
};
adjoint_layout make_adjoint_layout(const factor_layout& layout);

}  // namespace aitken
