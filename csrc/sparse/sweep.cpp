#include "sparse/sweep.hpp"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace aitken {
namespace {

constexpr int height = sliced_pattern::height;

struct entry {
    index column;  // a place
    index source;
};

// Cuts rows into slices whose columns take the entries of each row in the order given.
class ordered_slices {
public:
    explicit ordered_slices(sliced_pattern& out) : out_(out) {}

    void begin_slice(index first, index rows) {
        first_ = first;
        rows_ = rows;
    }
    // Lays out one list of entries per row.
    void add(const std::vector<entry> (&lists)[height]) {
        std::size_t head[height] = {};
        const index enough = std::min<index>(rows_, height / 2);
        const auto left = [&](int lane) { return lane < rows_ && head[lane] < lists[lane].size(); };
        const auto diagonal = [&](int lane, std::size_t k) { return lists[lane][k].column - first_ - lane; };
        for (;;) {
            // The diagonal that most rows come to next; one that some row comes to later waits for it.
            index best = 0, best_count = 0;
            bool any = false;
            for (int lane = 0; lane < rows_; ++lane) {
                if (!left(lane)) continue;
                any = true;
                const index d = diagonal(lane, head[lane]);
                index count = 0;
                bool early = false;
                for (int other = 0; other < rows_; ++other) {
                    if (!left(other)) continue;
                    if (diagonal(other, head[other]) == d)
                        ++count;
                    else
                        for (std::size_t k = head[other] + 1; k < lists[other].size() && k <= head[other] + 8;
                             ++k)
                            early = early || diagonal(other, k) == d;
                }
                if (!early && count > best_count) best = d, best_count = count;
            }
            if (!any) return;
            const bool run = rows_ > 1 && best_count >= enough && first_ + best >= 0;
            open_column(run ? static_cast<std::int32_t>(first_ + best) : sliced_pattern::gathered);
            for (int lane = 0; lane < rows_; ++lane) {
                if (!left(lane) || (run && diagonal(lane, head[lane]) != best)) continue;
                put(lane, lists[lane][head[lane]++]);
            }
        }
    }

private:
    void open_column(std::int32_t run) {
        out_.run.push_back(run);
        out_.lanes.push_back(0);
        out_.columns.resize(out_.columns.size() + height, 0);
        out_.source.resize(out_.source.size() + height, -1);
    }
    void put(int lane, const entry& e) {
        const std::size_t at = out_.source.size() - height + static_cast<std::size_t>(lane);
        out_.lanes.back() = static_cast<std::uint8_t>(out_.lanes.back() | (1u << lane));
        out_.columns[at] = static_cast<std::int32_t>(e.column);
        out_.source[at] = e.source;
    }

    sliced_pattern& out_;
    index first_ = 0, rows_ = 0;
};

// P A P^T without a particular order of the entries.
sparse_pattern permuted(const pattern_view& a, const std::vector<std::int32_t>& rows,
                        const std::vector<std::int32_t>& place) {
    sparse_pattern out;
    out.rows = out.cols = a.rows;
    out.indptr.reserve(static_cast<std::size_t>(a.rows) + 1);
    out.indices.reserve(static_cast<std::size_t>(a.nnz()));
    for (const std::int32_t i : rows) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) out.indices.push_back(place[a.indices[p]]);
        out.indptr.push_back(out.nnz());
    }
    return out;
}

}  // namespace

sweep_layout make_sweep_layout(const pattern_view& a, const std::vector<std::int32_t>& rows,
                               const std::function<void()>& poll) {
    sweep_layout f;
    const index n = f.n = a.rows;
    std::vector<std::int32_t> turn;  // turn[i]: when row i is swept; empty: i
    if (rows.empty()) {
        f.order = order_by_levels(a, coupling::full);
    } else {
        turn = inverse_permutation(rows, n, "order");
        f.order = order_by_levels(permuted(a, rows, turn).view(), coupling::full);
        for (std::int32_t& k : f.order.rows) k = rows[static_cast<std::size_t>(k)];
    }
    f.place = inverse_permutation(f.order.rows, n, "order");
    f.diagonal.assign(static_cast<std::size_t>(n), -1);

    sliced_pattern& out = f.slices;
    out.rows = out.cols = n;
    ordered_slices build(out);
    std::vector<entry> earlier[height], later[height];
    for (index level = 0; level < f.order.levels(); ++level) {
        const index end = f.order.starts[level + 1];
        for (index first = f.order.starts[level]; first < end; first += height) {
            const index count = std::min<index>(height, end - first);
            if (poll && out.slices() % 1024 == 0) poll();
            for (int lane = 0; lane < height; ++lane) {
                earlier[lane].clear();
                later[lane].clear();
            }
            for (index k = first; k < first + count; ++k) {
                const std::int32_t i = f.order.rows[k];
                for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
                    const std::int32_t j = a.indices[p];
                    if (i == j) {
                        f.diagonal[k] = p;
                        continue;
                    }
                    const bool before = turn.empty() ? j < i : turn[j] < turn[i];
                    (before ? earlier : later)[k - first].push_back({f.place[j], p});
                    ++out.nnz;
                }
            }
            build.begin_slice(first, count);
            build.add(earlier);
            f.middle.push_back(static_cast<index>(out.run.size()));
            build.add(later);
            out.row_begin.push_back(first + count);
            out.begin.push_back(static_cast<index>(out.run.size()));
        }
        out.group_begin.push_back(out.slices());
        out.widest_group = std::max(out.widest_group, end - f.order.starts[level]);
    }
    if (out.stored() >= static_cast<index>(sweep_layout::no_slot))
        throw std::length_error("`A`: its slices would hold " + std::to_string(out.stored()) +
                                " numbers, more than 2^32 - 1");
    f.slot.assign(static_cast<std::size_t>(a.nnz()), sweep_layout::no_slot);
    for (index p = 0; p < out.stored(); ++p)
        if (out.source[p] >= 0) f.slot[out.source[p]] = static_cast<std::uint32_t>(p);
    return f;
}

}  // namespace aitken
