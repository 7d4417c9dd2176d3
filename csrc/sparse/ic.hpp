// Incomplete Cholesky IC(0) in the form L D L^H, as a list of updates made once per pattern.
#pragma once

#include <cstdint>
#include <vector>

#include "core/views.hpp"
#include "sparse/levels.hpp"

namespace aitken {

// Column by column: what the elimination of a pivot does to the pairs of rows coupled to it. As for ILU(0)
// the list is kept only where it has at most 16 updates per entry.
class ic0_plan {
public:
    // The layout must have been made with coupling::lower, and outlive the plan. modified: this share of the
    // fill outside the pattern is taken off both diagonals it belongs to; with 1 row sums are A's.
    ic0_plan(const factor_layout& layout, double modified);

    // In the buffer that layout.load() filled, with diagonals multiplied by 1 + shift: L without its unit
    // diagonal, D L^H, the pivots, and beside it the inverse pivots, mirrored as the slices of U are. Returns
    // the first place whose pivot is not positive and finite (then the rest is not computed), or -1. 12 B of
    // plan and 2 flops per update.
    template <class S>
    index factor(double shift, S* buffer, S* inverse_pivots) const;

    bool listed() const { return listed_; }

private:
    struct entry {  // (i, k): L(i, k) and conj of L(i, k) d_k
        std::uint32_t lower, upper;
    };
    struct update {  // buffer[target] -= L(i, k) * conj(L(j, k)) d_k, or the share of it: `fill` in target
        std::uint32_t lower, upper, target;
    };
    static constexpr std::uint32_t fill = std::uint32_t{1} << 31;

    template <class Update>
    void visit(index k, Update&& on_update) const;

    const factor_layout* layout_;
    double modified_;
    bool listed_ = true;
    std::vector<index> first_;    // updates of column k
    std::vector<entry> entries_;  // of column k: as the entries of row k of the upper triangle
    std::vector<update> updates_;
};

}  // namespace aitken
