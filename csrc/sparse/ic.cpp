#include "sparse/ic.hpp"

#include <complex>

namespace aitken {

ic0_plan::ic0_plan(const factor_layout& layout, bool modified)
    : n_(layout.n), diagonal_begin_(layout.diagonal_begin) {
    // `upper` is the transpose of `lower`: its row k lists the rows i of column k, ascending.
    const sparse_pattern &lower = layout.lower, &upper = layout.upper;
    column_ = upper.indptr;
    entries_.resize(upper.indices.size());
    std::vector<index> next(lower.indptr.begin(), lower.indptr.end() - 1);
    for (index k = 0; k < n_; ++k)
        for (index q = upper.indptr[k]; q < upper.indptr[k + 1]; ++q)
            entries_[q] = {layout.lower_slot[next[upper.indices[q]]++], layout.upper_slot[q]};

    first_.assign(static_cast<std::size_t>(n_) + 1, 0);
    const auto find = [&](index i, std::int32_t j) {  // slot of (i, j), j < i
        for (index p = lower.indptr[i]; p < lower.indptr[i + 1]; ++p)
            if (lower.indices[p] == j) return layout.lower_slot[p];
        return factor_layout::no_slot;
    };
    const auto diagonal = [this](index i) { return static_cast<std::uint32_t>(diagonal_begin_ + i); };
    for (index k = 0; k < n_; ++k) {
        for (index q = upper.indptr[k]; q < upper.indptr[k + 1]; ++q) {
            const index i = upper.indices[q];
            updates_.push_back({entries_[q].lower, entries_[q].upper, diagonal(i)});
            for (index r = upper.indptr[k]; r < q; ++r) {
                const std::int32_t j = upper.indices[r];
                const update u{entries_[q].lower, entries_[r].upper, find(i, j)};
                if (u.target != factor_layout::no_slot) {
                    updates_.push_back(u);
                } else if (modified) {
                    updates_.push_back({u.lower, u.upper, diagonal(i)});
                    updates_.push_back({u.lower, u.upper, diagonal(j)});
                }
            }
        }
        first_[k + 1] = static_cast<index>(updates_.size());
    }
}

template <class S>
index ic0_plan::factor(double shift, S* buffer, S* inverse_pivots) const {
    S* const d = buffer + diagonal_begin_;
    for (index k = 0; k < n_; ++k) d[k] = S{real_part(d[k]) * (1.0 + shift)};
    for (index k = 0; k < n_; ++k) {
        const double pivot = real_part(d[k]);  // fill taken off a diagonal may have brought an imaginary part
        const double inverse_pivot = 1.0 / pivot;
        if (!(pivot > 0) || !finite(pivot) || !finite(inverse_pivot)) return k;
        d[k] = S{pivot};
        inverse_pivots[n_ - 1 - k] = S{inverse_pivot};
        for (index q = column_[k]; q < column_[k + 1]; ++q) {
            const S v = buffer[entries_[q].lower];
            buffer[entries_[q].upper] = conjugate(v);
            buffer[entries_[q].lower] = times(v, inverse_pivot);
        }
        for (index u = first_[k]; u < first_[k + 1]; ++u)
            buffer[updates_[u].target] -= times(buffer[updates_[u].lower], buffer[updates_[u].upper]);
    }
    return -1;
}

template index ic0_plan::factor<double>(double, double*, double*) const;
template index ic0_plan::factor<std::complex<double>>(double, std::complex<double>*,
                                                      std::complex<double>*) const;

}  // namespace aitken
