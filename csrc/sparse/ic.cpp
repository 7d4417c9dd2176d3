#include "sparse/ic.hpp"

#include <algorithm>
#include <array>
#include <complex>
#include <stdexcept>

namespace aitken {

namespace {

constexpr index most_updates = 16;  // per entry of L, D and L^H

}  // namespace

// The updates that follow the elimination of column k.
template <class Update>
void ic0_plan::visit(index k, Update&& on_update) const {
    const sparse_pattern &lower = layout_->lower, &upper = layout_->upper;
    const auto diagonal = [this](index i) { return static_cast<std::uint32_t>(layout_->diagonal_begin + i); };
    const index first = upper.indptr[k], last = upper.indptr[k + 1];
    for (index q = first; q < last; ++q) {
        const index i = upper.indices[q];
        on_update(update{entries_[q].lower, entries_[q].upper, diagonal(i)});
        // Row i of L beside column k, both ascending.
        auto at = lower.indices.begin() + lower.indptr[i];
        const auto end = lower.indices.begin() + lower.indptr[i + 1];
        for (index r = first; r < q; ++r) {
            const std::int32_t j = upper.indices[r];
            at = std::lower_bound(at, end, j);
            if (at != end && *at == j) {
                const auto slot = layout_->lower_slot[at - lower.indices.begin()];
                on_update(update{entries_[q].lower, entries_[r].upper, slot});
            } else if (modified_ > 0) {
                on_update(update{entries_[q].lower, entries_[r].upper, diagonal(i) | fill});
                on_update(update{entries_[q].lower, entries_[r].upper, diagonal(j) | fill});
            }
        }
    }
}

ic0_plan::ic0_plan(const factor_layout& layout, double modified) : layout_(&layout), modified_(modified) {
    if (layout.diagonal_begin + layout.n >= index{fill})
        throw std::length_error("IC(0): 2^31 entries or more");
    // `upper` is the transpose of `lower`: its row k lists the rows i of column k, ascending.
    const sparse_pattern &lower = layout.lower, &upper = layout.upper;
    entries_.resize(upper.indices.size());
    std::vector<index> next(lower.indptr.begin(), lower.indptr.end() - 1);
    for (index k = 0; k < layout.n; ++k)
        for (index q = upper.indptr[k]; q < upper.indptr[k + 1]; ++q)
            entries_[q] = {layout.lower_slot[next[upper.indices[q]]++], layout.upper_slot[q]};

    const index limit = most_updates * (lower.nnz() + upper.nnz() + layout.n);
    first_.assign(static_cast<std::size_t>(layout.n) + 1, 0);
    for (index k = 0; k < layout.n && listed_; ++k) {
        visit(k, [this](update u) { updates_.push_back(u); });
        first_[k + 1] = static_cast<index>(updates_.size());
        listed_ = first_[k + 1] <= limit;
    }
    if (!listed_) updates_ = {};
}

template <class S>
index ic0_plan::factor(double shift, S* buffer, S* inverse_pivots) const {
    const index n = layout_->n;
    S* const d = buffer + layout_->diagonal_begin;
    const std::array<double, 2> share{1.0, modified_};
    const auto apply = [buffer, share](const update& u) {
        buffer[u.target & ~fill] -= times(times(buffer[u.lower], buffer[u.upper]), share[u.target >> 31]);
    };
    for (index k = 0; k < n; ++k) d[k] = S{real_part(d[k]) * (1.0 + shift)};
    for (index k = 0; k < n; ++k) {
        const double pivot = real_part(d[k]);  // fill taken off a diagonal may have brought an imaginary part
        const double inverse_pivot = 1.0 / pivot;
        if (!(pivot > 0) || !finite(pivot) || !finite(inverse_pivot)) return k;
        d[k] = S{pivot};
        inverse_pivots[n - 1 - k] = S{inverse_pivot};
        for (index q = layout_->upper.indptr[k]; q < layout_->upper.indptr[k + 1]; ++q) {
            const S v = buffer[entries_[q].lower];
            buffer[entries_[q].upper] = conjugate(v);
            buffer[entries_[q].lower] = times(v, inverse_pivot);
        }
        if (listed_)
            for (index u = first_[k]; u < first_[k + 1]; ++u) apply(updates_[u]);
        else
            visit(k, apply);
    }
    return -1;
}

template index ic0_plan::factor<double>(double, double*, double*) const;
template index ic0_plan::factor<std::complex<double>>(double, std::complex<double>*,
                                                      std::complex<double>*) const;

}  // namespace aitken
