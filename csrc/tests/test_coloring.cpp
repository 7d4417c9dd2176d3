// Colourings, the orders they give and the recognition of stencils, against definitions checked entry by
// entry.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "sparse/coloring.hpp"
#include "sparse/pattern.hpp"
#include "sparse/stencil.hpp"

using namespace aitken;

namespace {

using std::int32_t;

struct csr {
    sparse_pattern pattern;
    std::vector<double> values;

    pattern_view view() const { return pattern.view(); }
};

csr from_dense(const std::vector<std::vector<double>>& rows) {
    csr a;
    a.pattern.rows = a.pattern.cols = static_cast<index>(rows.size());
    for (const auto& row : rows) {
        for (std::size_t j = 0; j < row.size(); ++j) {
            if (row[j] == 0) continue;
            a.pattern.indices.push_back(static_cast<int32_t>(j));
            a.values.push_back(row[j]);
        }
        a.pattern.indptr.push_back(a.pattern.nnz());
    }
    return a;
}

// The undirected edges as a pattern, each stored on one side only: the lower, upper or a mixed triangle.
sparse_pattern from_edges(int32_t n, const std::vector<std::pair<int32_t, int32_t>>& edges, bool diagonal) {
    sparse_pattern a;
    a.rows = a.cols = n;
    for (int32_t i = 0; i < n; ++i) {
        std::set<int32_t> row;
        if (diagonal) row.insert(i);
        for (const auto& [u, v] : edges)
            if (u == i) row.insert(v);
        a.indices.insert(a.indices.end(), row.begin(), row.end());
        a.indptr.push_back(a.nnz());
    }
    return a;
}

std::vector<std::set<int32_t>> neighbours(const pattern_view& a) {
    std::vector<std::set<int32_t>> near(static_cast<std::size_t>(a.rows));
    for (int32_t i = 0; i < a.rows; ++i)
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            if (a.indices[p] != i) {
                near[i].insert(a.indices[p]);
                near[a.indices[p]].insert(i);
            }
    return near;
}

sparse_pattern random_pattern(int32_t n, int entries, unsigned seed) {
    std::mt19937 g(seed);
    std::vector<std::pair<int32_t, int32_t>> edges;
    for (int k = 0; k < entries; ++k)
        edges.emplace_back(static_cast<int32_t>(g() % n), static_cast<int32_t>(g() % n));
    return from_edges(n, edges, seed % 2 == 0);
}

bool is_permutation_of_rows(std::vector<int32_t> rows, index n) {
    std::sort(rows.begin(), rows.end());
    std::vector<int32_t> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return rows == all;
}

csr from_stencil(const grid_stencil& s) {
    std::vector<std::vector<double>> rows;
    const index n = s.size(), stride[3] = {s.extent[1] * s.extent[2], s.extent[2], 1};
    for (index i = 0; i < n; ++i) {
        std::vector<double> row(static_cast<std::size_t>(n), 0.0);
        row[i] = s.center;
        for (int k = 0; k < 3; ++k) {
            const index at = i / stride[k] % s.extent[k];
            if (at > 0) row[i - stride[k]] = s.before[k];
            if (at + 1 < s.extent[k]) row[i + stride[k]] = s.after[k];
        }
        rows.push_back(row);
    }
    return from_dense(rows);
}

bool same(const grid_stencil& a, const grid_stencil& b) {
    bool equal = a.center == b.center;
    for (int k = 0; k < 3; ++k)
        equal = equal && a.extent[k] == b.extent[k] && a.before[k] == b.before[k] && a.after[k] == b.after[k];
    return equal;
}

}  // namespace

TEST(greedy_colors_are_the_smallest_free) {
    for (unsigned seed = 0; seed < 12; ++seed) {
        const sparse_pattern a = random_pattern(60, 20 + 25 * static_cast<int>(seed), seed);
        const coloring c = greedy_colors(a.view());
        const auto near = neighbours(a.view());
        int most = -1;
        for (int32_t i = 0; i < a.rows; ++i) {
            std::set<int32_t> taken;
            for (const int32_t j : near[i])
                if (j < i) taken.insert(c.color[j]);
            int32_t smallest = 0;
            while (taken.count(smallest)) ++smallest;
            CHECK(c.color[i] == smallest);
            most = std::max(most, c.color[i]);
        }
        CHECK(c.colors == most + 1);
    }
}

TEST(colors_depend_on_the_graph_alone) {
    // The same graph from its lower, its upper and both triangles, with and without a diagonal.
    std::mt19937 g(5);
    std::vector<std::pair<int32_t, int32_t>> lower, upper, both;
    for (int k = 0; k < 150; ++k) {
        const auto i = static_cast<int32_t>(g() % 50), j = static_cast<int32_t>(g() % 50);
        if (i == j) continue;
        lower.emplace_back(std::max(i, j), std::min(i, j));
        upper.emplace_back(std::min(i, j), std::max(i, j));
    }
    both = lower;
    both.insert(both.end(), upper.begin(), upper.end());
    const sparse_pattern reference = from_edges(50, both, false);
    for (const auto* edges : {&lower, &upper, &both})
        for (const bool diagonal : {false, true}) {
            const sparse_pattern a = from_edges(50, *edges, diagonal);
            CHECK(greedy_colors(a.view()).color == greedy_colors(reference.view()).color);
            CHECK(two_colors(a.view()).color == two_colors(reference.view()).color);
            CHECK(rows_by_cluster(a.view(), 7) == rows_by_cluster(reference.view(), 7));
        }
}

TEST(two_colors_by_component) {
    // A path 1-4-2, a lone row 0 and a square 3-5-6-7, edges stored on either side.
    const sparse_pattern a = from_edges(8, {{1, 4}, {2, 4}, {3, 5}, {6, 5}, {6, 7}, {3, 7}}, true);
    const coloring c = two_colors(a.view());
    CHECK(c.colors == 2);
    CHECK(c.color == (std::vector<int32_t>{0, 0, 0, 0, 1, 1, 0, 1}));
    CHECK(rows_by_color(c) == (std::vector<int32_t>{0, 1, 2, 3, 6, 4, 5, 7}));
}

TEST(two_colors_of_cycles) {
    for (int32_t n = 3; n <= 12; ++n) {
        std::vector<std::pair<int32_t, int32_t>> edges;
        for (int32_t i = 0; i < n; ++i) edges.emplace_back(i, (i + 1) % n);
        const coloring c = two_colors(from_edges(n, edges, true).view());
        CHECK(c.colors == (n % 2 == 0 ? 2 : 0));
        if (c.colors == 2)
            for (int32_t i = 0; i < n; ++i) CHECK(c.color[i] == i % 2);
        else
            CHECK(c.color.empty());
    }
    // An odd cycle in the last component spoils it all.
    CHECK(two_colors(from_edges(6, {{0, 1}, {3, 4}, {4, 5}, {5, 3}}, false).view()).colors == 0);
}

TEST(colors_of_nothing_and_of_a_diagonal) {
    const sparse_pattern none, diagonal = from_edges(5, {}, true);
    CHECK(two_colors(none.view()).colors == 0);
    CHECK(greedy_colors(none.view()).colors == 0);
    CHECK(rows_by_cluster(none.view(), 3).empty());
    CHECK(two_colors(diagonal.view()).colors == 1);
    CHECK(greedy_colors(diagonal.view()).colors == 1);
    CHECK(greedy_colors(diagonal.view()).color == std::vector<int32_t>(5, 0));
    CHECK(rows_by_color(greedy_colors(diagonal.view())) == (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(rows_by_color_sorts_stably) {
    const coloring c{3, {2, 0, 1, 0, 2, 1, 0}};
    CHECK(rows_by_color(c) == (std::vector<int32_t>{1, 3, 6, 2, 5, 0, 4}));
}

TEST(clusters_of_one_follow_a_narrow_order) {
    // Clusters of one row: the order itself by colours. A shuffled path has the path's bandwidth again.
    const int32_t n = 40;
    std::vector<int32_t> name(static_cast<std::size_t>(n));
    std::iota(name.begin(), name.end(), 0);
    std::shuffle(name.begin(), name.end(), std::mt19937(3));
    std::vector<std::pair<int32_t, int32_t>> edges;
    for (int32_t i = 0; i + 1 < n; ++i) edges.emplace_back(name[i], name[i + 1]);
    const sparse_pattern path = from_edges(n, edges, false);
    // One cluster: the reverse Cuthill-McKee order, from one end of the path to the other.
    const std::vector<int32_t> order = rows_by_cluster(path.view(), n);
    std::vector<int32_t> backward(name.rbegin(), name.rend());
    CHECK(order == name || order == backward);
    // Singletons: each second row of it, then the others.
    const std::vector<int32_t> single = rows_by_cluster(path.view(), 1);
    for (int32_t k = 0; k < n; ++k) CHECK(single[k] == order[2 * (k % 20) + k / 20]);
}

TEST(clusters_are_contiguous_and_uncoupled_within_a_color) {
    for (unsigned seed = 0; seed < 6; ++seed)
        for (const index size : {1, 4, 9, 200}) {
            const sparse_pattern a = random_pattern(97, 140, seed);
            const auto rows = rows_by_cluster(a.view(), size);
            CHECK(is_permutation_of_rows(rows, a.rows));
            CHECK(rows == rows_by_cluster(a.view(), size));
            const auto order = rows_by_cluster(a.view(), a.rows);
            std::vector<index> place(97);
            for (index k = 0; k < a.rows; ++k) place[order[k]] = k;
            // Rebuild the colour of every cluster from the graph and compare the order with the definition.
            const index clusters = (a.rows + size - 1) / size;
            std::vector<int32_t> color(static_cast<std::size_t>(clusters), 0);
            const auto near = neighbours(a.view());
            for (index c = 0; c < clusters; ++c) {
                std::set<int32_t> taken;
                for (index k = c * size; k < std::min<index>(a.rows, (c + 1) * size); ++k)
                    for (const int32_t j : near[order[k]])
                        if (place[j] / size < c) taken.insert(color[place[j] / size]);
                while (taken.count(color[c])) ++color[c];
            }
            std::vector<int32_t> expected(order);
            std::stable_sort(expected.begin(), expected.end(), [&](int32_t i, int32_t j) {
                return color[place[i] / size] < color[place[j] / size];
            });
            CHECK(rows == expected);
        }
    CHECK_THROWS(rows_by_cluster(random_pattern(5, 5, 0).view(), 0), std::invalid_argument);
}

TEST(stencils_are_found) {
    const grid_stencil cases[] = {
        {{1, 1, 1}, 3.0, {0, 0, 0}, {0, 0, 0}},
        {{1, 1, 2}, 2.0, {0, 0, -1}, {0, 0, -1}},
        {{1, 1, 17}, 2.0, {0, 0, -1.5}, {0, 0, -0.5}},
        {{1, 1, 9}, 2.0, {0, 0, -1}, {0, 0, 0}},  // nothing stored on one side
        {{1, 5, 7}, 4.0, {0, -1, -1}, {0, -1, -1}},
        {{1, 2, 2}, 4.0, {0, -1, -2}, {0, -3, -4}},
        {{1, 7, 2}, 9.0, {0, -1, -2}, {0, -3, -4}},
        {{1, 4, 6}, 4.0, {0, -0.25, -3}, {0, -0.5, 1}},
        {{1, 4, 6}, 4.0, {0, -0.25, 0}, {0, -0.5, 0}},  // uncoupled along the last axis
        {{1, 4, 6}, 4.0, {0, 0, -1}, {0, -0.5, 0}},
        {{3, 4, 5}, 6.0, {-1, -1, -1}, {-1, -1, -1}},
        {{2, 2, 2}, 6.0, {-1, -2, -3}, {-4, -5, -6}},
        {{5, 2, 3}, -6.0, {-1, -2, -3}, {-4, 5, -6}},
    };
    for (const grid_stencil& s : cases) {
        const csr a = from_stencil(s);
        const auto found = find_stencil(a.view(), a.values.data());
        CHECK(found.has_value());
        if (found) CHECK(same(*found, s));
    }
}

TEST(stencils_with_extents_of_one_have_fewer_axes) {
    const csr plane = from_stencil({{4, 1, 6}, 4.0, {-1, 0, -3}, {-2, 0, -5}});
    const auto found = find_stencil(plane.view(), plane.values.data());
    CHECK(found && same(*found, {{1, 4, 6}, 4.0, {0, -1, -3}, {0, -2, -5}}));
    const csr line = from_stencil({{6, 1, 1}, 4.0, {-1, 0, 0}, {-2, 0, 0}});
    const auto row = find_stencil(line.view(), line.values.data());
    CHECK(row && same(*row, {{1, 1, 6}, 4.0, {0, 0, -1}, {0, 0, -2}}));
    const csr diagonal = from_stencil({{1, 1, 6}, 4.0, {0, 0, 0}, {0, 0, 0}});
    const auto points = find_stencil(diagonal.view(), diagonal.values.data());
    CHECK(points && same(*points, {{1, 1, 6}, 4.0, {0, 0, 0}, {0, 0, 0}}));
}

TEST(stencils_spoilt_in_one_entry_are_not_found) {
    const grid_stencil cases[] = {{{1, 1, 8}, 2.0, {0, 0, -1}, {0, 0, -1}},
                                  {{1, 4, 5}, 4.0, {0, -1, -1}, {0, -1, -1}},
                                  {{3, 3, 4}, 6.0, {-1, -1, -1}, {-1, -1, -1}}};
    for (const grid_stencil& s : cases) {
        const csr a = from_stencil(s);
        const index n = a.pattern.rows, nnz = a.pattern.nnz();
        for (index p = 0; p < nnz; ++p) {
            csr changed = a;
            changed.values[p] *= 1 + 1e-15;
            CHECK(!find_stencil(changed.view(), changed.values.data()));
            changed.values[p] = std::numeric_limits<double>::quiet_NaN();
            CHECK(!find_stencil(changed.view(), changed.values.data()));
            csr missing = a;
            missing.pattern.indices.erase(missing.pattern.indices.begin() + p);
            missing.values.erase(missing.values.begin() + p);
            for (index i = 0; i <= n; ++i)
                if (missing.pattern.indptr[i] > p) --missing.pattern.indptr[i];
            CHECK(!find_stencil(missing.view(), missing.values.data()));
        }
        // One entry too many, at every place without one.
        for (index i = 0; i < n; ++i)
            for (int32_t j = 0; j < n; ++j) {
                csr more = a;
                const auto begin = more.pattern.indices.begin() + more.pattern.indptr[i];
                const auto end = more.pattern.indices.begin() + more.pattern.indptr[i + 1];
                const auto at = std::lower_bound(begin, end, j);
                if (at != end && *at == j) continue;
                more.values.insert(more.values.begin() + (at - more.pattern.indices.begin()), -1.0);
                more.pattern.indices.insert(at, j);
                for (index k = i + 1; k <= n; ++k) ++more.pattern.indptr[k];
                CHECK(!find_stencil(more.view(), more.values.data()));
            }
    }
}

TEST(matrices_without_a_grid_are_no_stencils) {
    const sparse_pattern none;
    CHECK(!find_stencil(none.view(), nullptr));
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const csr one = from_dense({{nan}});
    CHECK(!find_stencil(one.view(), one.values.data()));
    const csr no_diagonal = from_dense({{0, 1}, {1, 0}});
    CHECK(!find_stencil(no_diagonal.view(), no_diagonal.values.data()));
    // A grid whose lines are joined, a ring, four axes, five points on a line.
    for (const index n : {12, 16, 24})
        for (const std::vector<index>& offsets :
             {std::vector<index>{1, 4}, {1, n - 1}, {1, 2, 4, 8}, {1, 2}, {1, 5}, {2, 3}}) {
            std::vector<std::vector<double>> rows(static_cast<std::size_t>(n),
                                                  std::vector<double>(static_cast<std::size_t>(n), 0.0));
            for (index i = 0; i < n; ++i) {
                rows[i][i] = 4;
                for (const index d : offsets) {
                    if (i >= d) rows[i][i - d] = -1;
                    if (i + d < n) rows[i][i + d] = -1;
                }
            }
            const csr a = from_dense(rows);
            CHECK(!find_stencil(a.view(), a.values.data()));
        }
}
