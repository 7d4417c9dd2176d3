// Sparse rows in slices of eight, so that eight rows are summed at once by one vector register.
//
// A slice is a list of slice columns of eight lanes, one lane per row. Entries that lie on one diagonal of
// the (permuted) matrix are put into one slice column: their column numbers are then consecutive, and the
// kernel loads eight neighbours of x instead of gathering them. Stencils on grids, in natural order or in the
// order of their levels, consist almost wholly of such runs. What is on no diagonal of its neighbours is
// gathered; the far end of a row much longer than its neighbours is laid across the lanes instead of along
// one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "core/views.hpp"
#include "sparse/pattern.hpp"

namespace aitken {

struct sliced_pattern {
    static constexpr int height = 8;
    static constexpr std::int32_t gathered = -1;  // values of run below 0
    static constexpr std::int32_t across = -2;

    index rows = 0, cols = 0, nnz = 0;
    std::vector<index> row_begin{
        0};  // slices + 1: slice s holds rows row_begin[s] .. row_begin[s + 1], at most 8
    std::vector<index> begin{0};        // slices + 1: its slice columns are begin[s] .. begin[s + 1]
    std::vector<index> group_begin{0};  // groups + 1: slices of each group (one group where none were given)
    index widest_group = 0;             // in rows
    // Per slice column. r >= 0: lane l has column number r + l, where it holds an entry. `gathered`: the
    // lanes' numbers are in `columns`. across - k: all lanes belong to row k of the slice, numbers in
    // `columns`.
    std::vector<std::int32_t> run;
    std::vector<std::uint8_t> lanes;    // per slice column: bit l set where lane l holds an entry
    std::vector<std::int32_t> columns;  // 8 per slice column; padded lanes hold a valid number
    std::vector<index> source;  // 8 per slice column: entry of the compressed rows; -1: padding, value 0

    index slices() const { return static_cast<index>(row_begin.size()) - 1; }
    index stored() const { return static_cast<index>(run.size()) * height; }
};

// `groups` (ascending, from 0 to a.rows) are rows that no slice may straddle, e.g. levels; empty: none.
// Entries of a row keep no particular order. Costs a sort of each slice's entries. A run is used by four
// lanes or more (by every row of a shorter slice), and rows are cut where padding would cost more than it
// saves: stored() <= 4 nnz + 11 rows however irregular the rows are, 2 nnz + 11 rows without short slices.
sliced_pattern make_sliced(const pattern_view& a, const std::vector<index>& groups = {});

// The compressed rows that a sliced pattern was made from.
sparse_pattern compressed_rows(const sliced_pattern& pattern);

// Storage of slice values that starts at a cache line: a slice column of doubles is then one line, not two.
template <class S>
struct line_allocator {
    using value_type = S;
    line_allocator() = default;
    template <class Other>
    line_allocator(const line_allocator<Other>&) {}
    S* allocate(std::size_t n) {
        return static_cast<S*>(::operator new(n * sizeof(S), std::align_val_t{64}));
    }
    void deallocate(S* p, std::size_t) { ::operator delete(p, std::align_val_t{64}); }
    bool operator==(const line_allocator&) const { return true; }
};
template <class S>
using slice_values = std::vector<S, line_allocator<S>>;

// values_out[p] = values[source[p]], 0 where that is padding.
template <class S>
void fill_sliced(const sliced_pattern& pattern, const S* values, S* values_out);

}  // namespace aitken
