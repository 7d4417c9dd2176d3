#include "sparse/pattern.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace aitken {

namespace {

[[noreturn]] void fail(const std::string& name, const std::string& what) {
    throw std::invalid_argument("`" + name + "`: " + what);
}

std::string str(index i) { return std::to_string(i); }

}  // namespace

void check_pattern(const pattern_view& a, const std::string& name) {
    constexpr index limit = std::numeric_limits<std::int32_t>::max();
    if (a.rows < 0 || a.cols < 0 || a.rows >= limit || a.cols >= limit)
        fail(name, "shape (" + str(a.rows) + ", " + str(a.cols) + ") is negative or beyond 32-bit indices");
    if (a.rows == 0) return;
    if (!a.indptr) fail(name, "indptr is missing");
    if (a.indptr[0] != 0) fail(name, "indptr[0] must be 0, got " + str(a.indptr[0]));
    for (index i = 0; i < a.rows; ++i)
        if (a.indptr[i + 1] < a.indptr[i])
            fail(name, "indptr decreases at row " + str(i) + " (" + str(a.indptr[i]) + " to " +
                           str(a.indptr[i + 1]) + ")");
    if (a.nnz() > 0 && !a.indices) fail(name, "indices are missing");
    std::vector<index> seen(static_cast<std::size_t>(a.cols), -1);
    for (index i = 0; i < a.rows; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
            const index j = a.indices[p];
            if (j < 0 || j >= a.cols)
                fail(name, "index " + str(j) + " in row " + str(i) + " is outside 0.." + str(a.cols - 1));
            if (seen[j] == i) fail(name, "index " + str(j) + " appears twice in row " + str(i));
            seen[j] = i;
        }
    }
}

sparse_pattern transpose(const pattern_view& a, std::vector<index>* source) {
    sparse_pattern t;
    t.rows = a.cols;
    t.cols = a.rows;
    t.indptr.assign(static_cast<std::size_t>(a.cols) + 1, 0);
    const index nnz = a.nnz();
    t.indices.resize(static_cast<std::size_t>(nnz));
    if (source) source->resize(static_cast<std::size_t>(nnz));
    for (index p = 0; p < nnz; ++p) ++t.indptr[a.indices[p] + 1];
    for (index j = 0; j < a.cols; ++j) t.indptr[j + 1] += t.indptr[j];
    std::vector<index> next(t.indptr.begin(), t.indptr.end() - 1);
    for (index i = 0; i < a.rows; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
            const index q = next[a.indices[p]]++;
            t.indices[q] = static_cast<std::int32_t>(i);
            if (source) (*source)[q] = p;
        }
    }
    return t;
}

sparse_pattern upper_triangle(const pattern_view& a, bool diagonal, std::vector<index>* source) {
    sparse_pattern u;
    u.rows = a.rows;
    u.cols = a.cols;
    u.indptr.assign(static_cast<std::size_t>(a.rows) + 1, 0);
    if (source) source->clear();
    for (index i = 0; i < a.rows; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
            if (a.indices[p] < i + (diagonal ? 0 : 1)) continue;
            u.indices.push_back(a.indices[p]);
            if (source) source->push_back(p);
        }
        u.indptr[i + 1] = static_cast<index>(u.indices.size());
    }
    return u;
}

sparse_pattern permute_symmetric(const pattern_view& a, const std::vector<std::int32_t>& perm,
                                 std::vector<index>* source) {
    const auto inverse = inverse_permutation(perm, a.rows, "perm");
    sparse_pattern lower;  // row = the larger new index; transposing it sorts the rows of the result
    lower.rows = lower.cols = a.rows;
    lower.indptr.assign(static_cast<std::size_t>(a.rows) + 1, 0);
    const index nnz = a.nnz();
    lower.indices.resize(static_cast<std::size_t>(nnz));
    std::vector<index> from(static_cast<std::size_t>(nnz)), position;
    for (index i = 0; i < a.rows; ++i)
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            ++lower.indptr[std::max(inverse[i], inverse[a.indices[p]]) + 1];
    for (index i = 0; i < a.rows; ++i) lower.indptr[i + 1] += lower.indptr[i];
    std::vector<index> next(lower.indptr.begin(), lower.indptr.end() - 1);
    for (index i = 0; i < a.rows; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
            const std::int32_t r = inverse[i], c = inverse[a.indices[p]];
            const index q = next[std::max(r, c)]++;
            lower.indices[q] = std::min(r, c);
            from[q] = p;
        }
    }
    sparse_pattern upper = transpose(lower.view(), source ? &position : nullptr);
    if (source) {
        source->resize(static_cast<std::size_t>(nnz));
        for (index q = 0; q < nnz; ++q) (*source)[q] = from[position[q]];
    }
    return upper;
}

sparse_pattern symmetric_graph(const pattern_view& a, const std::string& name) {
    sparse_pattern g;
    g.rows = g.cols = a.rows;
    const index n = a.rows;
    std::vector<index> count(static_cast<std::size_t>(n) + 1, 0);
    index off_diagonal = 0;
    for (index i = 0; i < n; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
            const index j = a.indices[p];
            if (j == i) continue;
            ++count[i + 1];
            ++count[j + 1];
            ++off_diagonal;
        }
    }
    for (index i = 0; i < n; ++i) count[i + 1] += count[i];
    g.indptr = count;
    g.indices.resize(static_cast<std::size_t>(2 * off_diagonal));
    const sparse_pattern t = transpose(a);
    std::vector<index> next(count);
    // Column v of A and row v of A together are the neighbours of v; walking v upwards sorts every list.
    for (index v = 0; v < n; ++v) {
        const auto v32 = static_cast<std::int32_t>(v);
        for (index p = a.indptr[v]; p < a.indptr[v + 1]; ++p)
            if (a.indices[p] != v) g.indices[next[a.indices[p]]++] = v32;
        for (index p = t.indptr[v]; p < t.indptr[v + 1]; ++p)
            if (t.indices[p] != v) g.indices[next[t.indices[p]]++] = v32;
    }
    for (index v = 0; v < n; ++v)
        for (index p = g.indptr[v] + 1; p < g.indptr[v + 1]; ++p)
            if (g.indices[p] == g.indices[p - 1])
                fail(name, "entries (" + str(g.indices[p]) + ", " + str(v) + ") and (" + str(v) + ", " +
                               str(g.indices[p]) + ") are both given; pass one triangle");
    return g;
}

std::vector<std::int32_t> inverse_permutation(const std::vector<std::int32_t>& perm, index n,
                                              const std::string& name) {
    if (static_cast<index>(perm.size()) != n)
        fail(name, "a permutation of length " + str(n) + " is needed, got length " +
                       str(static_cast<index>(perm.size())));
    std::vector<std::int32_t> inverse(perm.size(), -1);
    for (index k = 0; k < n; ++k) {
        const std::int32_t v = perm[k];
        if (v < 0 || v >= n) fail(name, "entry " + str(v) + " at " + str(k) + " is outside 0.." + str(n - 1));
        if (inverse[v] >= 0)
            fail(name, "entry " + str(v) + " at " + str(k) + " was already at " + str(inverse[v]));
        inverse[v] = static_cast<std::int32_t>(k);
    }
    return inverse;
}

}  // namespace aitken
