#include "sparse/sliced.hpp"

#include <algorithm>
#include <complex>
#include <cstddef>
#include <utility>

namespace aitken {
namespace {

constexpr int height = sliced_pattern::height;

struct entry {
    index diagonal;  // column - row
    int lane;
    index position;  // in the compressed rows
};

// How many of the longest lanes' entries are laid along the lanes; the rest goes across them, eight entries
// of a row at a time. A column across costs a horizontal sum: counted as one and a half.
index depth_along(const index (&length)[height]) {
    const index longest = *std::max_element(length, length + height);
    index best = longest, best_cost = 2 * longest;
    for (index depth = longest; depth-- > 0;) {
        index across = 0;
        for (index n : length) across += n > depth ? (n - depth + height - 1) / height : 0;
        if (2 * depth + 3 * across < best_cost) best = depth, best_cost = 2 * depth + 3 * across;
    }
    return best;
}

class builder {
public:
    explicit builder(const pattern_view& a) : a_(a) {}

    void add_slice(index first, index last, sliced_pattern& out) {
        const int rows = static_cast<int>(last - first);
        entries_.clear();
        for (index i = first; i < last; ++i)
            for (index p = a_.indptr[i]; p < a_.indptr[i + 1]; ++p)
                entries_.push_back({a_.indices[p] - i, static_cast<int>(i - first), p});
        std::sort(entries_.begin(), entries_.end(), [](const entry& x, const entry& y) {
            return x.diagonal != y.diagonal ? x.diagonal < y.diagonal : x.lane < y.lane;
        });
        for (auto& lane : rest_) lane.clear();
        const std::size_t enough = static_cast<std::size_t>(std::min(rows, height / 2));
        for (std::size_t k = 0, end = 0; k < entries_.size(); k = end) {
            while (end < entries_.size() && entries_[end].diagonal == entries_[k].diagonal) ++end;
            const index start = first + entries_[k].diagonal;
            if (rows > 1 && end - k >= enough && start >= 0) {
                open_column(out, static_cast<std::int32_t>(start));
                for (; k < end; ++k) put(out, entries_[k].lane, entries_[k].position);
            } else {
                for (; k < end; ++k) rest_[entries_[k].lane].push_back(entries_[k].position);
            }
        }
        index length[height];
        for (int lane = 0; lane < height; ++lane) length[lane] = static_cast<index>(rest_[lane].size());
        const index depth = depth_along(length);
        for (index d = 0; d < depth; ++d) {
            open_column(out, sliced_pattern::gathered);
            for (int lane = 0; lane < height; ++lane)
                if (d < length[lane]) put(out, lane, rest_[lane][static_cast<std::size_t>(d)]);
        }
        for (int lane = 0; lane < height; ++lane) {
            for (index d = depth; d < length[lane]; ++d) {
                if ((d - depth) % height == 0) open_column(out, sliced_pattern::across - lane);
                put(out, static_cast<int>((d - depth) % height), rest_[lane][static_cast<std::size_t>(d)]);
            }
        }
        out.row_begin.push_back(last);
        out.begin.push_back(static_cast<index>(out.run.size()));
    }

private:
    static void open_column(sliced_pattern& out, std::int32_t run) {
        out.run.push_back(run);
        out.lanes.push_back(0);
        out.columns.resize(out.columns.size() + height, 0);
        out.source.resize(out.source.size() + height, -1);
    }
    void put(sliced_pattern& out, int lane, index position) const {
        const std::size_t at = out.source.size() - height + static_cast<std::size_t>(lane);
        out.lanes.back() = static_cast<std::uint8_t>(out.lanes.back() | (1u << lane));
        out.columns[at] = a_.indices[position];
        out.source[at] = position;
    }

    const pattern_view a_;
    std::vector<entry> entries_;       // of one slice
    std::vector<index> rest_[height];  // positions on no run, by lane
};

}  // namespace

sliced_pattern make_sliced(const pattern_view& a, const std::vector<index>& groups) {
    sliced_pattern out;
    out.rows = a.rows;
    out.cols = a.cols;
    out.nnz = a.nnz();
    builder build(a);
    const std::vector<index> whole{0, a.rows};
    const std::vector<index>& bounds = groups.empty() ? whole : groups;
    for (std::size_t g = 0; g + 1 < bounds.size(); ++g) {
        for (index i = bounds[g]; i < bounds[g + 1]; i += height)
            build.add_slice(i, std::min(i + height, bounds[g + 1]), out);
        out.group_begin.push_back(out.slices());
        out.widest_group = std::max(out.widest_group, bounds[g + 1] - bounds[g]);
    }
    return out;
}

sparse_pattern compressed_rows(const sliced_pattern& pattern) {
    sparse_pattern out;
    out.rows = pattern.rows;
    out.cols = pattern.cols;
    out.indptr.assign(static_cast<std::size_t>(pattern.rows) + 1, 0);
    out.indices.resize(static_cast<std::size_t>(pattern.nnz));
    for (index s = 0; s < pattern.slices(); ++s) {
        for (index q = pattern.begin[s]; q < pattern.begin[s + 1]; ++q) {
            for (int lane = 0; lane < height; ++lane) {
                const index at = q * height + lane;
                if (pattern.source[at] < 0) continue;
                const int row =
                    pattern.run[q] > sliced_pattern::across ? lane : sliced_pattern::across - pattern.run[q];
                ++out.indptr[pattern.row_begin[s] + row + 1];
                out.indices[pattern.source[at]] = pattern.columns[at];
            }
        }
    }
    for (index i = 0; i < pattern.rows; ++i) out.indptr[i + 1] += out.indptr[i];
    return out;
}

template <class S>
void fill_sliced(const sliced_pattern& pattern, const S* values, S* values_out) {
    const index stored = pattern.stored();
    for (index p = 0; p < stored; ++p)
        values_out[p] = pattern.source[p] < 0 ? S(0) : values[pattern.source[p]];
}

template void fill_sliced(const sliced_pattern&, const double*, double*);
template void fill_sliced(const sliced_pattern&, const std::complex<double>*, std::complex<double>*);

}  // namespace aitken
