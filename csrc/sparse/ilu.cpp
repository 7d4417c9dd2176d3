#include "sparse/ilu.hpp"

#include <algorithm>
#include <complex>
#include <functional>
#include <queue>
#include <stdexcept>
#include <string>

namespace aitken {

namespace {

constexpr index most_updates = 16;  // per entry of L, D and U

}  // namespace

// The elimination of row i: on_step(step) for each entry of L, each followed by its on_update(update).
// `here` has no_slot for every column before and after.
template <class Step, class Update>
void ilu0_plan::visit(index i, std::vector<std::uint32_t>& here, Step&& on_step, Update&& on_update) const {
    const sparse_pattern &lower = layout_->lower, &upper = layout_->upper;
    const auto diagonal = static_cast<std::uint32_t>(layout_->diagonal_begin + i);
    const auto mark = [&](bool set) {
        for (index p = lower.indptr[i]; p < lower.indptr[i + 1]; ++p)
            here[lower.indices[p]] = set ? layout_->lower_slot[p] : factor_layout::no_slot;
        for (index p = upper.indptr[i]; p < upper.indptr[i + 1]; ++p)
            here[upper.indices[p]] = set ? layout_->upper_slot[p] : factor_layout::no_slot;
        here[i] = set ? diagonal : factor_layout::no_slot;
    };
    mark(true);
    for (index p = lower.indptr[i]; p < lower.indptr[i + 1]; ++p) {
        const std::int32_t k = lower.indices[p];
        on_step(step{layout_->lower_slot[p], static_cast<std::int32_t>(layout_->n - 1 - k)});
        for (index q = upper.indptr[k]; q < upper.indptr[k + 1]; ++q) {
            const std::uint32_t target = here[upper.indices[q]];
            if (target != factor_layout::no_slot)
                on_update(update{layout_->upper_slot[q], target});
            else if (modified_)
                on_update(update{layout_->upper_slot[q], diagonal});
        }
    }
    mark(false);
}

ilu0_plan::ilu0_plan(const factor_layout& layout, bool modified) : layout_(&layout), modified_(modified) {
    const index limit = most_updates * (layout.lower.nnz() + layout.upper.nnz() + layout.n);
    row_ = layout.lower.indptr;
    steps_.reserve(layout.lower.indices.size());
    first_.reserve(layout.lower.indices.size() + 1);
    std::vector<std::uint32_t> here(static_cast<std::size_t>(layout.n), factor_layout::no_slot);
    for (index i = 0; i < layout.n && listed_; ++i) {
        visit(
            i, here,
            [this](step s) {
                first_.push_back(static_cast<index>(updates_.size()));
                steps_.push_back(s);
            },
            [this](update u) { updates_.push_back(u); });
        listed_ = static_cast<index>(updates_.size()) <= limit;
    }
    first_.push_back(static_cast<index>(updates_.size()));
    if (listed_) return;
    steps_ = {};
    first_ = {};
    updates_ = {};
}

template <class S>
void ilu0_plan::eliminate(index first, index last, S* buffer, S* inverse_pivots) const {
    const index n = layout_->n, diagonal_begin = layout_->diagonal_begin;
    S l{};
    const auto divide = [&](step s) {
        l = times(buffer[s.slot], inverse_pivots[s.pivot]);
        buffer[s.slot] = l;
    };
    if (!listed_) {
        std::vector<std::uint32_t> here(static_cast<std::size_t>(n), factor_layout::no_slot);
        for (index i = first; i < last; ++i) {
            visit(i, here, divide, [&](update u) { buffer[u.target] -= times(l, buffer[u.factor]); });
            inverse_pivots[n - 1 - i] = inverse(buffer[diagonal_begin + i]);
        }
        return;
    }
    const update* const updates = updates_.data();
    for (index i = first; i < last; ++i) {
        for (index s = row_[i]; s < row_[i + 1]; ++s) {
            divide(steps_[s]);
            for (index u = first_[s]; u < first_[s + 1]; ++u)
                buffer[updates[u].target] -= times(l, buffer[updates[u].factor]);
        }
        inverse_pivots[n - 1 - i] = inverse(buffer[diagonal_begin + i]);
    }
}

template <class S>
index first_bad_pivot(const S* inverse_pivots, index n) {
    for (index i = 0; i < n; ++i)
        if (!finite(inverse_pivots[n - 1 - i])) return i;
    return -1;
}

template <class S>
incomplete_factors<S> ilut(const pattern_view& a, const S* values, double drop, index fill) {
    const index n = a.rows;
    incomplete_factors<S> f;
    f.pattern.rows = f.pattern.cols = n;
    f.pattern.indptr.assign(static_cast<std::size_t>(n) + 1, 0);
    std::vector<index> upper_begin(static_cast<std::size_t>(n));
    std::vector<S> row(static_cast<std::size_t>(n), S{}), inverse_pivot(static_cast<std::size_t>(n));
    std::vector<char> present(static_cast<std::size_t>(n), 0);
    std::vector<std::int32_t> left, right, touched;
    std::priority_queue<std::int32_t, std::vector<std::int32_t>, std::greater<>> pending;

    // The `most` largest of the columns, in ascending order; ties go to the smaller column.
    const auto keep = [&row](std::vector<std::int32_t>& columns, index most) {
        if (static_cast<index>(columns.size()) > most) {
            std::nth_element(columns.begin(), columns.begin() + most, columns.end(),
                             [&row](std::int32_t i, std::int32_t j) {
                                 const double x = square(row[i]), y = square(row[j]);
                                 return x > y || (x == y && i < j);
                             });
            columns.resize(static_cast<std::size_t>(most));
        }
        std::sort(columns.begin(), columns.end());
    };

    for (index i = 0; i < n; ++i) {
        double norm = 0;
        index most_left = fill, most_right = fill;
        touched.clear();
        const auto touch = [&](std::int32_t j) {
            if (present[j]) return;
            present[j] = 1;
            touched.push_back(j);
            if (j < i) pending.push(j);
        };
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
            const std::int32_t j = a.indices[p];
            touch(j);
            row[j] = values[p];
            norm += square(values[p]);
            if (j < i) ++most_left;
            if (j > i) ++most_right;
        }
        touch(static_cast<std::int32_t>(i));
        const double threshold = drop * drop * norm;  // of squares
        left.clear();
        right.clear();
        while (!pending.empty()) {
            const std::int32_t k = pending.top();
            pending.pop();
            if (square(row[k]) < threshold) continue;
            const S l = times(row[k], inverse_pivot[k]);
            if (l == S{}) continue;
            row[k] = l;
            left.push_back(k);
            for (index q = upper_begin[k]; q < f.pattern.indptr[k + 1]; ++q) {
                const std::int32_t j = f.pattern.indices[q];
                touch(j);
                row[j] -= times(l, f.values[q]);
            }
        }
        for (const std::int32_t j : touched)
            if (j > i && square(row[j]) >= threshold && row[j] != S{}) right.push_back(j);
        keep(left, most_left);
        keep(right, most_right);
        inverse_pivot[i] = inverse(row[i]);
        if (!finite(inverse_pivot[i]))
            throw std::invalid_argument("`A`: zero or non-finite pivot in row " + std::to_string(i) +
                                        " of the incomplete LU factorisation");
        const auto store = [&](std::int32_t j) {
            f.pattern.indices.push_back(j);
            f.values.push_back(row[j]);
        };
        for (const std::int32_t j : left) store(j);
        store(static_cast<std::int32_t>(i));
        upper_begin[i] = f.pattern.nnz();
        for (const std::int32_t j : right) store(j);
        f.pattern.indptr[i + 1] = f.pattern.nnz();
        for (const std::int32_t j : touched) {
            row[j] = S{};
            present[j] = 0;
        }
    }
    return f;
}

#define AITKEN_INSTANTIATE(S)                                          \
    template void ilu0_plan::eliminate<S>(index, index, S*, S*) const; \
    template index first_bad_pivot<S>(const S*, index);                \
    template incomplete_factors<S> ilut<S>(const pattern_view&, const S*, double, index);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(std::complex<double>)
#undef AITKEN_INSTANTIATE

}  // namespace aitken
