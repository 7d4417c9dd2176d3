#include "sparse/coloring.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>

#include "sparse/pattern.hpp"

namespace aitken {

namespace {

using std::int32_t;

// A + A^T without the diagonal: rows sorted, every neighbour once.
sparse_pattern graph_of(const pattern_view& a) {
    const sparse_pattern columns = transpose(a), rows = transpose(columns.view());
    sparse_pattern g;
    g.rows = g.cols = a.rows;
    g.indptr.reserve(static_cast<std::size_t>(a.rows) + 1);
    g.indices.reserve(columns.indices.size());
    for (index i = 0; i < a.rows; ++i) {
        const auto first = static_cast<std::ptrdiff_t>(g.indices.size());
        std::set_union(rows.indices.begin() + rows.indptr[i], rows.indices.begin() + rows.indptr[i + 1],
                       columns.indices.begin() + columns.indptr[i],
                       columns.indices.begin() + columns.indptr[i + 1], std::back_inserter(g.indices));
        const auto self = std::find(g.indices.begin() + first, g.indices.end(), static_cast<int32_t>(i));
        if (self != g.indices.end()) g.indices.erase(self);
        g.indptr.push_back(g.nnz());
    }
    return g;
}

coloring color_greedily(const sparse_pattern& graph) {
    coloring c;
    c.color.assign(static_cast<std::size_t>(graph.rows), -1);
    std::vector<index> taken_by;  // the last row that saw the colour on a neighbour
    for (index i = 0; i < graph.rows; ++i) {
        for (index p = graph.indptr[i]; p < graph.indptr[i + 1] && graph.indices[p] < i; ++p)
            taken_by[c.color[graph.indices[p]]] = i;
        const auto free = std::find_if(taken_by.begin(), taken_by.end(), [i](index by) { return by != i; });
        c.color[i] = static_cast<int32_t>(free - taken_by.begin());
        if (free == taken_by.end()) taken_by.push_back(-1);
    }
    c.colors = static_cast<int>(taken_by.size());
    return c;
}

// Breadth-first levels within one component after the other.
class cuthill_mckee {
public:
    explicit cuthill_mckee(const sparse_pattern& graph)
        : graph_(graph), seen_by_(static_cast<std::size_t>(graph.rows), 0) {}

    // The order, reversed: neighbours of a row follow it by degree, then by number.
    std::vector<int32_t> reversed() {
        std::vector<int32_t> order;
        order.reserve(seen_by_.size());
        std::vector<char> placed(seen_by_.size(), 0);
        for (int32_t first = 0; first < graph_.rows; ++first) {
            if (placed[first]) continue;
            std::size_t next = order.size();
            order.push_back(peripheral(first));
            placed[order.back()] = 1;
            for (; next < order.size(); ++next) {
                const auto begin = static_cast<std::ptrdiff_t>(order.size());
                for (index p = graph_.indptr[order[next]]; p < graph_.indptr[order[next] + 1]; ++p) {
                    const int32_t j = graph_.indices[p];
                    if (placed[j]) continue;
                    placed[j] = 1;
                    order.push_back(j);
                }
                std::stable_sort(order.begin() + begin, order.end(),
                                 [this](int32_t i, int32_t j) { return degree(i) < degree(j); });
            }
        }
        std::reverse(order.begin(), order.end());
        return order;
    }

private:
    index degree(int32_t i) const { return graph_.indptr[i + 1] - graph_.indptr[i]; }

    // A row far from all others of its component: the row of least degree and number in the deepest level is
    // the next start for as long as the depth grows.
    int32_t peripheral(int32_t start) {
        for (index depth = -1;;) {
            const index reached = search(start);
            if (reached <= depth) return start;
            depth = reached;
            int32_t best = queue_[last_level_];
            for (std::size_t k = last_level_; k < queue_.size(); ++k)
                if (degree(queue_[k]) < degree(best) ||
                    (degree(queue_[k]) == degree(best) && queue_[k] < best))
                    best = queue_[k];
            start = best;
        }
    }

    // Fills queue_ with the component of `start`, level after level; gives the number of the last one.
    index search(int32_t start) {
        ++searches_;
        queue_.assign(1, start);
        seen_by_[start] = searches_;
        last_level_ = 0;
        for (index level = 0;; ++level) {
            const std::size_t end = queue_.size();
            for (std::size_t k = last_level_; k < end; ++k)
                for (index p = graph_.indptr[queue_[k]]; p < graph_.indptr[queue_[k] + 1]; ++p)
                    if (seen_by_[graph_.indices[p]] != searches_) {
                        seen_by_[graph_.indices[p]] = searches_;
                        queue_.push_back(graph_.indices[p]);
                    }
            if (queue_.size() == end) return level;
            last_level_ = end;
        }
    }

    const sparse_pattern& graph_;
    std::vector<index> seen_by_;  // number of the search that saw a row last
    index searches_ = 0;
    std::vector<int32_t> queue_;
    std::size_t last_level_ = 0;  // where it begins in queue_
};

}  // namespace

coloring two_colors(const pattern_view& a) {
    const sparse_pattern graph = graph_of(a);
    coloring c;
    c.color.assign(static_cast<std::size_t>(a.rows), -1);
    std::vector<int32_t> queue;
    for (int32_t first = 0; first < a.rows; ++first) {
        if (c.color[first] >= 0) continue;
        c.color[first] = 0;
        queue.assign(1, first);
        for (std::size_t k = 0; k < queue.size(); ++k) {
            const int32_t i = queue[k];
            for (index p = graph.indptr[i]; p < graph.indptr[i + 1]; ++p) {
                const int32_t j = graph.indices[p];
                if (c.color[j] == c.color[i]) return {};
                if (c.color[j] >= 0) continue;
                c.color[j] = 1 - c.color[i];
                c.colors = 2;
                queue.push_back(j);
            }
        }
    }
    if (a.rows > 0) c.colors = std::max(c.colors, 1);
    return c;
}

coloring greedy_colors(const pattern_view& a) { return color_greedily(graph_of(a)); }

std::vector<int32_t> rows_by_color(const coloring& c) {
    std::vector<index> next(static_cast<std::size_t>(c.colors) + 1, 0);
    for (const int32_t k : c.color) ++next[k + 1];
    std::partial_sum(next.begin(), next.end(), next.begin());
    std::vector<int32_t> rows(c.color.size());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[next[c.color[i]]++] = static_cast<int32_t>(i);
    return rows;
}

std::vector<int32_t> rows_by_cluster(const pattern_view& a, index size) {
    if (size < 1) throw std::invalid_argument("`size` must be at least 1; got " + std::to_string(size));
    const sparse_pattern graph = graph_of(a);
    const std::vector<int32_t> order = cuthill_mckee(graph).reversed();
    const auto n = static_cast<index>(order.size());
    std::vector<int32_t> cluster(order.size());
    for (index k = 0; k < n; ++k) cluster[order[k]] = static_cast<int32_t>(k / size);

    sparse_pattern clusters;  // coupled clusters of smaller number, sorted: what greedy colours look at
    clusters.rows = clusters.cols = (n + size - 1) / size;
    std::vector<int32_t> near;
    for (index c = 0; c < clusters.rows; ++c) {
        near.clear();
        for (index k = c * size; k < std::min(n, (c + 1) * size); ++k)
            for (index p = graph.indptr[order[k]]; p < graph.indptr[order[k] + 1]; ++p)
                if (cluster[graph.indices[p]] < c) near.push_back(cluster[graph.indices[p]]);
        std::sort(near.begin(), near.end());
        clusters.indices.insert(clusters.indices.end(), near.begin(), std::unique(near.begin(), near.end()));
        clusters.indptr.push_back(clusters.nnz());
    }
    std::vector<int32_t> rows;
    rows.reserve(order.size());
    for (const index c : rows_by_color(color_greedily(clusters)))
        rows.insert(rows.end(), order.begin() + c * size, order.begin() + std::min(n, (c + 1) * size));
    return rows;
}

}  // namespace aitken
