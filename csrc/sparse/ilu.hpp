// Incomplete LU factorisations: ILU(0) as a list of updates made once per pattern and streamed for every new
// set of values, and ILUT, whose pattern follows the values.
#pragma once

#include <cstdint>
#include <vector>

#include "core/views.hpp"
#include "sparse/levels.hpp"
#include "sparse/pattern.hpp"

namespace aitken {

// What elimination does on the pattern of A: for each row, in the order of the levels, its entries of L and
// for each of them the pairs (entry of U, entry of the row) to update. Rows of one level may be eliminated at
// the same time. Where the rows are so full that the list would outgrow the matrix (more than 16 updates per
// entry) it is not kept: elimination then finds its targets anew.
class ilu0_plan {
public:
    // modified: fill outside the pattern is added to the row's diagonal, so that row sums are A's. The layout
    // must outlive the plan.
    ilu0_plan(const factor_layout& layout, bool modified);

    // Places first .. last of the buffer that layout.load() filled: L without its unit diagonal, U, and
    // beside it the inverse pivots, mirrored as the slices of U are. Reads 8 B of plan and does 2 flops per
    // update; pivots are not checked.
    template <class S>
    void eliminate(index first, index last, S* buffer, S* inverse_pivots) const;

    bool listed() const { return listed_; }

private:
    struct update {
        std::uint32_t factor, target;  // buffer[target] -= l * buffer[factor]
    };
    struct step {  // one entry of L
        std::uint32_t slot;
        std::int32_t pivot;  // its mirrored place
    };

    template <class Step, class Update>
    void visit(index i, std::vector<std::uint32_t>& here, Step&& on_step, Update&& on_update) const;

    const factor_layout* layout_;
    bool modified_, listed_ = true;
    std::vector<index> row_;    // steps of place k: row_[k] .. row_[k + 1]
    std::vector<step> steps_;   // ascending pivots inside a row
    std::vector<index> first_;  // updates of step s: first_[s] .. first_[s + 1]
    std::vector<update> updates_;
};

// First place whose inverse pivot (mirrored) is not finite (zero, NaN or overflown pivot), or -1.
template <class S>
index first_bad_pivot(const S* inverse_pivots, index n);

// L (unit diagonal left out), D and U in one pattern, rows sorted.
template <class S>
struct incomplete_factors {
    sparse_pattern pattern;
    std::vector<S> values;
};

// Saad's ILUT. An entry of row i, before it is divided by its pivot, is dropped below drop * ||a_i||_2; then
// at most `fill` more entries than A's row has are kept in each of L and U, the largest. Throws
// std::invalid_argument naming the row of a zero or non-finite pivot.
template <class S>
incomplete_factors<S> ilut(const pattern_view& a, const S* values, double drop, index fill);

}  // namespace aitken
