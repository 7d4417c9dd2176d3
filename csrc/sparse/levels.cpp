#include "sparse/levels.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace aitken {

namespace {

// Slices of an upper triangle with rows and columns in reverse order: entry e becomes entry nnz - 1 - e.
// `source` is brought back to the entries of `a`.
sliced_pattern make_mirrored(const sparse_pattern& a, const std::vector<index>& starts) {
    const index n = a.rows, nnz = a.nnz(), levels = static_cast<index>(starts.size()) - 1;
    sparse_pattern m;
    m.rows = m.cols = n;
    m.indptr.resize(a.indptr.size());
    for (index k = 0; k <= n; ++k) m.indptr[k] = nnz - a.indptr[n - k];
    m.indices.resize(a.indices.size());
    for (index e = 0; e < nnz; ++e) m.indices[e] = static_cast<std::int32_t>(n - 1 - a.indices[nnz - 1 - e]);
    std::vector<index> groups(starts.size());
    for (index l = 0; l <= levels; ++l) groups[l] = n - starts[levels - l];
    sliced_pattern slices = make_sliced(m.view(), groups);
    for (index& e : slices.source)
        if (e >= 0) e = nnz - 1 - e;
    return slices;
}

// slot[e] = first + the place of entry e among the slices.
std::vector<std::uint32_t> slots_of_entries(const sliced_pattern& slices, index nnz, index first) {
    std::vector<std::uint32_t> slot(static_cast<std::size_t>(nnz));
    for (index p = 0; p < slices.stored(); ++p)
        if (slices.source[p] >= 0) slot[slices.source[p]] = static_cast<std::uint32_t>(first + p);
    return slot;
}

}  // namespace

level_order order_by_levels(const pattern_view& a, coupling use) {
    const index n = a.rows;
    std::vector<std::int32_t> level(static_cast<std::size_t>(n), 0);
    std::int32_t deepest = -1;
    for (index i = 0; i < n; ++i) {
        // Rows above i have pushed their levels to row i already where they hold an entry in column i.
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            if (a.indices[p] < i) level[i] = std::max(level[i], level[a.indices[p]] + 1);
        if (use == coupling::full)
            for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
                if (a.indices[p] > i) level[a.indices[p]] = std::max(level[a.indices[p]], level[i] + 1);
        deepest = std::max(deepest, level[i]);
    }
    level_order order;
    order.starts.assign(static_cast<std::size_t>(deepest) + 2, 0);
    for (index i = 0; i < n; ++i) ++order.starts[level[i] + 1];
    for (index l = 0; l <= deepest; ++l) order.starts[l + 1] += order.starts[l];
    order.rows.resize(static_cast<std::size_t>(n));
    std::vector<index> next(order.starts);
    for (index i = 0; i < n; ++i) order.rows[next[level[i]]++] = static_cast<std::int32_t>(i);
    return order;
}

factor_layout make_factor_layout(const pattern_view& a, coupling use) {
    factor_layout f;
    const index n = f.n = a.rows;
    f.order = order_by_levels(a, use);
    f.place = inverse_permutation(f.order.rows, n, "order");
    const auto nnz = static_cast<std::size_t>(a.nnz());
    f.slot.assign(nnz, factor_layout::no_slot);
    f.lower.rows = f.lower.cols = f.upper.rows = f.upper.cols = n;
    f.lower.indptr.assign(static_cast<std::size_t>(n) + 1, 0);
    f.upper.indptr.assign(static_cast<std::size_t>(n) + 1, 0);

    std::vector<index> lower_source, upper_source, diagonal_source(static_cast<std::size_t>(n), -1);
    std::vector<std::pair<std::int32_t, index>> row;
    for (index k = 0; k < n; ++k) {
        const index i = f.order.rows[k];
        row.clear();
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            if (use == coupling::full || a.indices[p] <= i) row.emplace_back(f.place[a.indices[p]], p);
        std::sort(row.begin(), row.end());
        for (const auto& [c, p] : row) {
            if (c == k) {
                diagonal_source[k] = p;
                continue;
            }
            sparse_pattern& part = c < k ? f.lower : f.upper;
            part.indices.push_back(c);
            (c < k ? lower_source : upper_source).push_back(p);
        }
        f.lower.indptr[k + 1] = f.lower.nnz();
        f.upper.indptr[k + 1] = f.upper.nnz();
    }
    if (use == coupling::lower) f.upper = transpose(f.lower.view());

    f.lower_slices = make_sliced(f.lower.view(), f.order.starts);
    f.upper_slices = make_mirrored(f.upper, f.order.starts);
    f.upper_begin = f.lower_slices.stored();
    f.diagonal_begin = f.upper_begin + f.upper_slices.stored();
    f.size = f.diagonal_begin + n;
    if (f.size >= static_cast<index>(factor_layout::no_slot))
        throw std::length_error("`A`: its factors would hold " + std::to_string(f.size) +
                                " numbers, more than 2^32 - 1");
    f.lower_slot = slots_of_entries(f.lower_slices, f.lower.nnz(), 0);
    f.upper_slot = slots_of_entries(f.upper_slices, f.upper.nnz(), f.upper_begin);
    for (std::size_t e = 0; e < lower_source.size(); ++e) f.slot[lower_source[e]] = f.lower_slot[e];
    for (std::size_t e = 0; e < upper_source.size(); ++e) f.slot[upper_source[e]] = f.upper_slot[e];
    for (index k = 0; k < n; ++k)
        if (diagonal_source[k] >= 0)
            f.slot[diagonal_source[k]] = static_cast<std::uint32_t>(f.diagonal_begin + k);
    return f;
}

adjoint_layout make_adjoint_layout(const factor_layout& layout) {
    adjoint_layout result;
    const auto slots = [](const sliced_pattern& slices, const std::vector<index>& from,
                          const std::vector<std::uint32_t>& slot) {
        std::vector<std::uint32_t> source(static_cast<std::size_t>(slices.stored()));
        for (index p = 0; p < slices.stored(); ++p)
            source[p] = slices.source[p] < 0 ? factor_layout::no_slot : slot[from[slices.source[p]]];
        return source;
    };
    std::vector<index> from;
    const sparse_pattern lower = transpose(layout.upper.view(), &from);
    result.lower_slices = make_sliced(lower.view(), layout.order.starts);
    result.lower_source = slots(result.lower_slices, from, layout.upper_slot);
    const sparse_pattern upper = transpose(layout.lower.view(), &from);
    result.upper_slices = make_mirrored(upper, layout.order.starts);
    result.upper_source = slots(result.upper_slices, from, layout.lower_slot);
    return result;
}

}  // namespace aitken
