#include "sparse/ldlt.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

namespace aitken {

namespace {

using std::int32_t;

constexpr int32_t max_width = 96;   // columns of a panel: enough to reuse a packed block, few enough for L2
constexpr index batch_depth = 128;  // columns of A gathered before one dense update

std::size_t size(index n) { return static_cast<std::size_t>(n); }

}  // namespace

void ldlt::aligned_buffer::reserve(std::size_t count) {
    if (count <= capacity) return;
    release();
    data = static_cast<double*>(::operator new(count * sizeof(double), std::align_val_t{64}));
    capacity = count;
}

void ldlt::aligned_buffer::release() {
    if (data) ::operator delete(data, std::align_val_t{64});
    data = nullptr;
    capacity = 0;
}

// ---- stage 1: ordering, elimination tree, column counts --------------------------------------------------

void ldlt::count_only(index n, const index* indptr, const int32_t* indices, const ldlt_options& options) {
    counted_ = analyzed_ = factored_ = false;
    const pattern_view pattern{n, n, indptr, indices};
    check_pattern(pattern, "pattern");
    n_ = n;
    kernels_ = options.kernels ? options.kernels : &default_panel_kernels();
    if (n > 0)
        indptr_.assign(indptr, indptr + n + 1);
    else
        indptr_.assign(1, 0);
    indices_.assign(indices, indices + pattern.nnz());
    graph_ = symmetric_graph(pattern, "pattern");

    std::vector<int32_t> inverse;
    if (options.order == ordering::given) {
        inverse = inverse_permutation(options.perm, n, "perm");
        perm_ = options.perm;
    } else {
        perm_ = options.order == ordering::amd ? amd_order(graph_.view(), options.amd) : natural_order(n);
        inverse = inverse_permutation(perm_, n, "perm");
    }

    // Postorder the columns: supernodes become ranges and the counting below needs it.
    std::vector<int32_t> parent;
    eliminate_tree(inverse, parent);
    std::vector<int32_t> child(size(n), -1), sibling(size(n), -1), label(size(n)), stack;
    for (int32_t j = static_cast<int32_t>(n) - 1; j >= 0; --j) {
        if (parent[j] < 0) continue;
        sibling[j] = child[parent[j]];
        child[parent[j]] = j;
    }
    int32_t next = 0;
    for (int32_t root = 0; root < n; ++root) {
        if (parent[root] >= 0) continue;
        stack.push_back(root);
        while (!stack.empty()) {
            const int32_t j = stack.back();
            if (child[j] >= 0) {
                stack.push_back(child[j]);
                child[j] = sibling[child[j]];
            } else {
                stack.pop_back();
                label[j] = next++;
            }
        }
    }
    parent_.assign(size(n), -1);
    std::vector<int32_t> ordered(size(n));
    for (index j = 0; j < n; ++j) {
        ordered[label[j]] = perm_[j];
        if (parent[j] >= 0) parent_[label[j]] = label[parent[j]];
    }
    perm_.swap(ordered);
    for (index k = 0; k < n; ++k) inverse[perm_[k]] = static_cast<int32_t>(k);

    count_columns(inverse);
    nnz_l_ = 0;
    flops_ = 0;
    for (index j = 0; j < n; ++j) {
        nnz_l_ += counts_[j];
        const double m = counts_[j] - 1;
        flops_ += m * (m + 2);
    }
    counted_ = true;
}

// Liu's algorithm with path compression over the rows of the permuted matrix.
void ldlt::eliminate_tree(const std::vector<int32_t>& inverse, std::vector<int32_t>& parent) const {
    parent.assign(size(n_), -1);
    std::vector<int32_t> ancestor(size(n_), -1);
    for (int32_t i = 0; i < n_; ++i) {
        const int32_t v = perm_[i];
        for (index p = graph_.indptr[v]; p < graph_.indptr[v + 1]; ++p) {
            int32_t j = inverse[graph_.indices[p]];
            while (j >= 0 && j < i) {
                const int32_t up = ancestor[j];
                ancestor[j] = i;
                if (up < 0) parent[j] = i;
                j = up;
            }
        }
    }
}

// Column counts by the skeleton algorithm (Gilbert, Ng & Peyton 1994): a column is a leaf of row subtree i
// when its first descendant was not seen by row i yet; overlaps are taken back at the least common ancestor.
void ldlt::count_columns(const std::vector<int32_t>& inverse) {
    const auto n = static_cast<int32_t>(n_);
    std::vector<int32_t> first(size(n), -1), max_first(size(n), -1), previous_leaf(size(n), -1);
    std::vector<int32_t> root(size(n));
    counts_.assign(size(n), 0);
    for (int32_t j = 0; j < n; ++j) {
        if (first[j] < 0) {
            first[j] = j;
            counts_[j] = 1;  // leaf of the tree
        }
        if (parent_[j] >= 0 && first[parent_[j]] < 0) first[parent_[j]] = first[j];
    }
    std::iota(root.begin(), root.end(), 0);
    for (int32_t j = 0; j < n; ++j) {
        if (parent_[j] >= 0) --counts_[parent_[j]];
        const int32_t v = perm_[j];
        for (index p = graph_.indptr[v]; p < graph_.indptr[v + 1]; ++p) {
            const int32_t i = inverse[graph_.indices[p]];
            if (i <= j || first[j] <= max_first[i]) continue;
            max_first[i] = first[j];
            ++counts_[j];
            const int32_t leaf = previous_leaf[i];
            previous_leaf[i] = j;
            if (leaf < 0) continue;
            int32_t common = leaf;
            while (root[common] != common) common = root[common];
            for (int32_t k = leaf; k != common;) {
                const int32_t up = root[k];
                root[k] = common;
                k = up;
            }
            --counts_[common];
        }
        if (parent_[j] >= 0) root[j] = parent_[j];
    }
    for (int32_t j = 0; j < n; ++j)
        if (parent_[j] >= 0) counts_[parent_[j]] += counts_[j];
}

// ---- stage 2: supernodes, row structure, memory ----------------------------------------------------------

// Groups columns into supernodes, merges a child into its parent where few stored zeros result, and renumbers
// the columns so that every supernode is a range. On return supernode s has size[s] columns, below[s] rows
// under them and parent super_parent[s].
void ldlt::merge_supernodes(std::vector<int32_t>& size_out, std::vector<int32_t>& below_out,
                            std::vector<int32_t>& super_parent) {
    const auto n = static_cast<int32_t>(n_);
    std::vector<int32_t> first;  // of every strict supernode
    std::vector<int32_t> super(size(n));
    for (int32_t j = 0; j < n; ++j) {
        const bool joins = j > 0 && parent_[j - 1] == j && counts_[j - 1] == counts_[j] + 1;
        if (!joins) first.push_back(j);
        super[j] = static_cast<int32_t>(first.size()) - 1;
    }
    const auto ns = static_cast<int32_t>(first.size());
    std::vector<int32_t> width(size(ns)), below(size(ns)), up(size(ns)), into(size(ns)), child(size(ns), -1),
        sibling(size(ns), -1);
    std::vector<double> exact(size(ns));  // entries that are not relaxed zeros
    for (int32_t s = 0; s < ns; ++s) {
        const int32_t last = (s + 1 < ns ? first[s + 1] : n) - 1;
        width[s] = last - first[s] + 1;
        below[s] = counts_[last] - 1;
        up[s] = parent_[last] >= 0 ? super[parent_[last]] : -1;
        into[s] = s;
        const double k = width[s], m = below[s];
        exact[s] = k * (k + 1) / 2 + k * m;
    }
    for (int32_t s = 0; s < ns; ++s) {  // ascending: the last child, the likeliest to fit, comes first
        if (up[s] < 0) continue;
        sibling[s] = child[up[s]];
        child[up[s]] = s;
    }
    // Narrow panels cost more in overhead and indexing than in arithmetic, so they may hold more zeros.
    const auto fits = [&](int32_t c, int32_t p) {
        const double k = static_cast<double>(width[c]) + width[p], m = below[p];
        const double stored = k * (k + 1) / 2 + k * m, zeros = stored - exact[c] - exact[p];
        const double share = k <= 4 ? 0.5 : k <= 16 ? 0.3 : k <= 48 ? 0.12 : 0.05;
        return zeros <= share * stored;
    };
    for (int32_t p = 0; p < ns; ++p) {
        for (int32_t c = child[p]; c >= 0; c = sibling[c]) {
            if (!fits(c, p)) continue;
            width[p] += width[c];
            exact[p] += exact[c];
            into[c] = p;
        }
    }
    // `into` points upwards: resolve from the top down.
    for (int32_t s = ns - 1; s >= 0; --s) into[s] = into[into[s]];
    std::vector<int32_t> merged(size(ns), -1);
    size_out.clear();
    below_out.clear();
    for (int32_t s = 0; s < ns; ++s) {
        if (into[s] != s) continue;
        merged[s] = static_cast<int32_t>(size_out.size());
        size_out.push_back(width[s]);
        below_out.push_back(below[s]);
    }
    super_parent.assign(size_out.size(), -1);
    std::vector<int32_t> next(size_out.size());
    for (int32_t s = 0, column = 0; s < ns; ++s) {
        if (into[s] != s) continue;
        if (up[s] >= 0) super_parent[merged[s]] = merged[into[up[s]]];
        next[merged[s]] = column;
        column += width[s];
    }
    std::vector<int32_t> ordered(size(n));
    for (int32_t j = 0; j < n; ++j) ordered[next[merged[into[super[j]]]]++] = perm_[j];
    perm_.swap(ordered);
}

void ldlt::symbolic() {
    if (!counted_) throw std::logic_error("ldlt::symbolic needs count_only first");
    if (analyzed_) return;
    const auto n = static_cast<int32_t>(n_);
    std::vector<int32_t> width, below, up;
    merge_supernodes(width, below, up);
    const auto ns = static_cast<int32_t>(width.size());
    std::vector<int32_t> inverse = inverse_permutation(perm_, n_, "perm");

    // Row lists: own columns, then every row i whose subtree passes through; i ascending sorts them.
    std::vector<int32_t> super(size(n)), mark(size(ns), -1);
    std::vector<index> list(size(ns) + 1, 0), end(size(ns));
    for (int32_t s = 0; s < ns; ++s) list[s + 1] = list[s] + width[s] + below[s];
    row_list_.resize(size(list[ns]));
    for (int32_t s = 0, column = 0; s < ns; ++s) {
        end[s] = list[s];
        for (int32_t k = 0; k < width[s]; ++k, ++column) {
            super[column] = s;
            row_list_[end[s]++] = column;
        }
    }
    for (int32_t i = 0; i < n; ++i) {
        const int32_t v = perm_[i], stop = super[i];
        mark[stop] = i;
        for (index p = graph_.indptr[v]; p < graph_.indptr[v + 1]; ++p) {
            const int32_t k = inverse[graph_.indices[p]];
            if (k >= i) continue;
            for (int32_t s = super[k]; mark[s] != i; s = up[s]) {
                mark[s] = i;
                row_list_[end[s]++] = i;
            }
        }
    }
    for (int32_t s = 0; s < ns; ++s)
        if (end[s] != list[s + 1])
            throw std::logic_error("ldlt::symbolic: row structure and counts disagree");

    // Wide supernodes are split into panels; every panel's rows are a suffix of the supernode's list.
    panels_.clear();
    panel_of_.resize(size(n));
    n_values_ = 0;
    max_rows_ = 0;
    for (int32_t s = 0, column = 0; s < ns; ++s) {
        const int32_t parts = (width[s] + max_width - 1) / max_width;
        int32_t step = (width[s] + parts - 1) / parts;
        if (parts > 1) step = (step + 7) / 8 * 8;
        for (int32_t done = 0; done < width[s]; done += step) {
            panel j;
            j.first = column + done;
            j.width = std::min(step, width[s] - done);
            j.n_rows = width[s] + below[s] - done;
            j.ld = j.n_rows >= 64 ? (j.n_rows + 7) / 8 * 8 : j.n_rows;
            j.rows = list[s] + done;
            j.values = n_values_;
            n_values_ += static_cast<index>(j.ld) * j.width;
            if (j.n_rows >= 64) n_values_ = (n_values_ + 7) / 8 * 8;
            max_rows_ = std::max(max_rows_, j.n_rows);
            std::fill_n(panel_of_.begin() + j.first, j.width, static_cast<int32_t>(panels_.size()));
            panels_.push_back(j);
        }
        column += width[s];
    }
    place_entries(inverse);

    const index mr = kernels_->mr, nr = kernels_->nr, np = n_panels();
    tile_stride_ = batch_depth * mr;
    block_stride_ = batch_depth * nr;
    tile_offset_.resize(size(max_rows_));
    for (index i = 0; i < max_rows_; ++i) tile_offset_[i] = i / mr * tile_stride_ + i % mr;
    const index padding = 64;  // whole-vector reads run past the last row
    values_.reserve(size(n_values_ + padding));
    std::fill_n(values_.data, n_values_ + padding, 0.0);
    batch_a_.reserve(size((max_rows_ + mr - 1) / mr * tile_stride_));
    batch_b_.reserve(size((max_width + nr - 1) / nr * block_stride_));
    small_b_.reserve(size(max_width * nr));
    product_.reserve(size((max_rows_ + padding) * nr));
    work_.reserve(size((max_rows_ + padding) * 8));
    rhs_.reserve(size(n_ * 8));
    d_.assign(size(n), 0.0);
    inverse_d_.assign(size(n), 0.0);
    head_.resize(size(np));
    link_.resize(size(np));
    position_.resize(size(np));
    local_.resize(size(n));
    relative_.resize(size(max_rows_));
    analyzed_ = true;
}

// Sorts the caller's entries by panel and finds their place in it.
void ldlt::place_entries(const std::vector<int32_t>& inverse) {
    const index nnz = static_cast<index>(indices_.size()), np = n_panels();
    entry_ptr_.assign(size(np) + 1, 0);
    entry_source_.resize(size(nnz));
    entry_target_.resize(size(nnz));
    const auto column = [&](index i, index p) { return std::min(inverse[i], inverse[indices_[p]]); };
    for (index i = 0; i < n_; ++i)
        for (index p = indptr_[i]; p < indptr_[i + 1]; ++p) ++entry_ptr_[panel_of_[column(i, p)] + 1];
    for (index j = 0; j < np; ++j) entry_ptr_[j + 1] += entry_ptr_[j];
    std::vector<index> next(entry_ptr_.begin(), entry_ptr_.end() - 1);
    for (index i = 0; i < n_; ++i) {
        for (index p = indptr_[i]; p < indptr_[i + 1]; ++p) {
            const int32_t c = column(i, p);
            const index q = next[panel_of_[c]]++;
            entry_source_[q] = p;
            // Row and column for now, packed; the panel's own row map resolves them below.
            entry_target_[q] = static_cast<index>(std::max(inverse[i], inverse[indices_[p]])) << 32 | c;
        }
    }
    local_.resize(size(n_));
    for (index id = 0; id < np; ++id) {
        const panel& j = panels_[id];
        if (entry_ptr_[id] == entry_ptr_[id + 1]) continue;
        const int32_t* rows = row_list_.data() + j.rows;
        for (int32_t i = 0; i < j.n_rows; ++i) local_[rows[i]] = i;
        for (index q = entry_ptr_[id]; q < entry_ptr_[id + 1]; ++q) {
            const index row = entry_target_[q] >> 32, c = entry_target_[q] & 0xffffffff;
            entry_target_[q] = local_[row] + (c - j.first) * j.ld;
        }
    }
}

bool ldlt::same_pattern(index n, const index* indptr, const int32_t* indices) const {
    if (!counted_ || n != n_) return false;
    if (n == 0) return true;
    return std::equal(indptr_.begin(), indptr_.end(), indptr) &&
           std::equal(indices_.begin(), indices_.end(), indices);
}

// ---- stage 3: numbers ------------------------------------------------------------------------------------

factor_result ldlt::factor(const double* values, const factor_options& options, interrupt* stop) {
    if (!counted_) throw std::logic_error("ldlt::factor needs analyze first");
    if (!analyzed_) symbolic();
    factored_ = false;
    factor_result result;
    std::fill(head_.begin(), head_.end(), -1);
    const index np = n_panels();
    for (index id = 0; id < np; ++id) {
        if (stop) stop->poll();
        const panel& j = panels_[id];
        const int32_t* rows = row_list_.data() + j.rows;
        load_panel(j, id, values);
        if (head_[id] >= 0)
            for (int32_t i = 0; i < j.n_rows; ++i) local_[rows[i]] = i;
        // head_[id] lists the earlier panels with a row among these columns; position_ is that row in each.
        for (int32_t source = head_[id], next; source >= 0; source = next) {
            next = link_[source];
            const panel& from = panels_[source];
            apply(from, position_[source], j);
            const int32_t* its_rows = row_list_.data() + from.rows;
            int32_t p = position_[source];
            while (p < from.n_rows && its_rows[p] < j.first + j.width) ++p;
            position_[source] = p;
            if (p < from.n_rows) {
                const int32_t to = panel_of_[its_rows[p]];
                link_[source] = head_[to];
                head_[to] = source;
            }
        }
        if (batch_ > 0) flush(j);
        if (!factor_panel(j, options, result)) return result;
        if (j.n_rows > j.width) {
            const int32_t to = panel_of_[rows[j.width]];
            position_[id] = j.width;
            link_[id] = head_[to];
            head_[to] = static_cast<int32_t>(id);
        }
    }
    result.ok = factored_ = true;
    return result;
}

void ldlt::load_panel(const panel& j, index id, const double* values) {
    double* c = values_.data + j.values;
    std::fill_n(c, static_cast<index>(j.ld) * j.width, 0.0);
    for (index q = entry_ptr_[id]; q < entry_ptr_[id + 1]; ++q)
        c[entry_target_[q]] += values[entry_source_[q]];
}

// Subtracts what `source` contributes to `target`: L D L_t^T with L the m rows of `source` from `position`
// on and L_t the first nc of them, those among the target's columns. Three ways, cheapest first:
//   few numbers: loops; many that fill the target well: gathered into one dense update with others;
//   else: a dense product that is scattered.
void ldlt::apply(const panel& source, int32_t position, const panel& target) {
    const int32_t* rows = row_list_.data() + source.rows + position;
    const int32_t m = source.n_rows - position, k = source.width;
    const int32_t past = target.first + target.width;
    int32_t nc = 1;
    while (nc < m && rows[nc] < past) ++nc;
    const int32_t lo = local_[rows[0]];
    const bool contiguous = local_[rows[m - 1]] - lo == m - 1;
    const double* l = values_.data + source.values + position;
    const double* d = d_.data() + source.first;
    double* c = values_.data + target.values;
    const index ld = target.ld, lds = source.ld;

    const double products = static_cast<double>(m) * nc * k;
    if (products > 256 && target.width >= 4) {
        // In units of one multiply-add at full speed; a scattered number costs about as much as 24 of them.
        const double padded = static_cast<double>(target.n_rows) * ((target.width + 7) & ~7);
        const double dense = k * (padded + 12.0 * target.n_rows + 4.0 * m);
        const double scattered = products * (contiguous ? 1.5 : 2.0) +
                                 static_cast<double>(m) * nc * (contiguous ? 8.0 : 24.0) + 500.0;
        if (dense < scattered) return append_to_batch(source, position, m, nc, contiguous, target);
    }
    int32_t* rel = relative_.data();
    for (int32_t i = 0; i < m; ++i) rel[i] = local_[rows[i]];

    if (k <= 2 || products <= 256) {
        for (int32_t j = 0; j < nc; ++j) {
            double* to = c + static_cast<index>(rel[j]) * ld;
            for (int32_t p = 0; p < k; ++p) {
                const double* from = l + p * lds;
                const double w = from[j] * d[p];
                if (contiguous) {
                    double* run = to + lo;
                    for (int32_t i = j; i < m; ++i) run[i] -= from[i] * w;
                } else {
                    for (int32_t i = j; i < m; ++i) to[rel[i]] -= from[i] * w;
                }
            }
        }
        return;
    }
    const int32_t nr = kernels_->nr;
    double *b = small_b_.data, *t = product_.data;
    for (int32_t j0 = 0; j0 < nc; j0 += nr) {
        const int32_t nb = std::min(nr, nc - j0);
        for (int32_t p = 0; p < k; ++p) {
            const double* from = l + p * lds + j0;
            for (int32_t j = 0; j < nb; ++j) b[p * nr + j] = from[j] * d[p];
            for (int32_t j = nb; j < nr; ++j) b[p * nr + j] = 0;
        }
        const index ldt = m - j0;
        kernels_->product(l + j0, lds, b, k, t, ldt, m - j0, nb);
        for (int32_t j = 0; j < nb; ++j) {
            double* to = c + static_cast<index>(rel[j0 + j]) * ld;
            const double* from = t + j * ldt - j0;
            if (contiguous) {
                double* run = to + lo;
                for (int32_t i = j0 + j; i < m; ++i) run[i] -= from[i];
            } else {
                for (int32_t i = j0 + j; i < m; ++i) to[rel[i]] -= from[i];
            }
        }
    }
}

// Copies columns of the source, spread over the target's rows, behind those gathered so far.
void ldlt::append_to_batch(const panel& source, int32_t position, int32_t m, int32_t nc, bool contiguous,
                           const panel& target) {
    const int32_t* rows = row_list_.data() + source.rows + position;
    const int32_t mr = kernels_->mr, nr = kernels_->nr;
    const index lo = local_[rows[0]], tiles = (target.n_rows + mr - 1) / mr;
    const index blocks = (target.width + nr - 1) / nr;
    const bool whole = contiguous && m == target.n_rows;
    for (int32_t done = 0; done < source.width;) {
        const auto depth = static_cast<int32_t>(std::min<index>(source.width - done, batch_depth - batch_));
        const double* l = values_.data + source.values + position + static_cast<index>(done) * source.ld;
        const double* d = d_.data() + source.first + done;
        double* a = batch_a_.data + batch_ * mr;
        if (whole) {
            for (index t = 0; t < tiles; ++t) {
                const index count = std::min<index>(mr, m - t * mr);
                for (int32_t p = 0; p < depth; ++p) {
                    double* to = a + t * tile_stride_ + p * mr;
                    const double* from = l + p * static_cast<index>(source.ld) + t * mr;
                    if (count == mr) {
                        std::memcpy(to, from, size(mr) * sizeof(double));
                    } else {
                        for (index i = 0; i < count; ++i) to[i] = from[i];
                        for (index i = count; i < mr; ++i) to[i] = 0;
                    }
                }
            }
        } else {
            for (index t = 0; t < tiles; ++t) std::fill_n(a + t * tile_stride_, depth * mr, 0.0);
            for (int32_t i = 0; i < m; ++i) relative_[i] = local_[rows[i]];
            for (int32_t p = 0; p < depth; ++p) {
                double* to = a + p * mr;
                const double* from = l + p * static_cast<index>(source.ld);
                if (contiguous)
                    for (int32_t i = 0; i < m; ++i) to[tile_offset_[lo + i]] = from[i];
                else
                    for (int32_t i = 0; i < m; ++i) to[tile_offset_[relative_[i]]] = from[i];
            }
        }
        double* b = batch_b_.data + batch_ * nr;
        for (index t = 0; t < blocks; ++t) std::fill_n(b + t * block_stride_, depth * nr, 0.0);
        for (int32_t j = 0; j < nc; ++j) {
            const int32_t at = local_[rows[j]];
            double* to = b + at / nr * block_stride_ + at % nr;
            for (int32_t p = 0; p < depth; ++p) to[p * nr] = l[j + p * static_cast<index>(source.ld)] * d[p];
        }
        batch_ += depth;
        done += depth;
        if (batch_ == batch_depth) flush(target);
    }
}

void ldlt::flush(const panel& target) {
    kernels_->update_packed(batch_a_.data, tile_stride_, batch_b_.data, block_stride_, batch_,
                            values_.data + target.values, target.ld, target.n_rows, target.width);
    batch_ = 0;
}

// Dense LDL^T of the panel, nr columns at a time: update by the panel's earlier columns, factor the diagonal
// block, solve for the rows below.
bool ldlt::factor_panel(const panel& j, const factor_options& options, factor_result& result) {
    double* c = values_.data + j.values;
    const index ld = j.ld;
    const int32_t nr = kernels_->nr;
    double l[64];
    for (int32_t at = 0; at < j.width; at += nr) {
        const int32_t nb = std::min(nr, j.width - at);
        double* block = c + at * ld + at;
        if (at > 0) {
            double* b = small_b_.data;
            for (int32_t p = 0; p < at; ++p) {
                const double* from = c + p * ld + at;
                const double d = d_[j.first + p];
                for (int32_t q = 0; q < nb; ++q) b[p * nr + q] = from[q] * d;
                for (int32_t q = nb; q < nr; ++q) b[p * nr + q] = 0;
            }
            kernels_->update(c + at, ld, b, at, block, ld, j.n_rows - at, nb);
        }
        if (!factor_block(block, ld, nb, j.first + at, options, result)) return false;
        if (j.n_rows == at + nb) continue;
        for (int32_t q = 0; q < nb; ++q)
            for (int32_t p = 0; p < q; ++p) l[q * 8 + p] = block[p * ld + q];
        kernels_->solve_right(block + nb, ld, j.n_rows - at - nb, nb, l, inverse_d_.data() + j.first + at);
    }
    return true;
}

// Diagonal block of at most 8 columns: pivots are judged here and nowhere else.
bool ldlt::factor_block(double* c, index ld, int n, index column, const factor_options& options,
                        factor_result& result) {
    for (int j = 0; j < n; ++j) {
        double d = c[j * ld + j];
        const index original = perm_[column + j];
        if (!std::isfinite(d)) {
            result.nonfinite = true;
            result.first_bad = original;
            return false;
        }
        if (std::fabs(d) <= options.pivot_floor)
            ++result.zero;
        else
            ++(d > 0 ? result.positive : result.negative);
        int sign = options.signs ? options.signs[original] : 0;
        const double judged = sign == 0 ? std::fabs(d) : sign * d;
        if (!(judged > options.pivot_floor)) {
            if (result.first_bad < 0 || options.pivot_value == 0) result.first_bad = original;
            if (options.pivot_value == 0) return false;
            if (sign == 0) sign = d < 0 ? -1 : 1;
            d = sign * options.pivot_value;
            ++result.n_regularised;
        }
        const double magnitude = std::fabs(d);
        result.max_pivot = std::max(result.max_pivot, magnitude);
        result.min_pivot = column + j == 0 ? magnitude : std::min(result.min_pivot, magnitude);
        const double inverse = 1 / d;
        d_[column + j] = d;
        inverse_d_[column + j] = inverse;
        for (int i = j + 1; i < n; ++i) {
            const double y = c[j * ld + i];  // = L(i, j) d
            const double lij = y * inverse;
            // Columns j + 1 .. i of row i; L(q, j) of the rows q <= i is final by now.
            c[j * ld + i] = lij;
            for (int q = j + 1; q <= i; ++q) c[q * ld + i] -= y * c[j * ld + q];
        }
    }
    return true;
}

// ---- solves ----------------------------------------------------------------------------------------------

// x is in the permuted order. Each pass reads L once: 8 bytes per multiply-add.
void ldlt::solve_panels(double* x) {
    double* t = work_.data;
    const index np = n_panels();
    for (index id = 0; id < np; ++id) {
        const panel& j = panels_[id];
        const double* l = values_.data + j.values;
        const int32_t* rows = row_list_.data() + j.rows;
        double* own = x + j.first;
        for (int32_t p = 0; p + 1 < j.width; ++p)
            for (int32_t i = p + 1; i < j.width; ++i) own[i] -= l[p * static_cast<index>(j.ld) + i] * own[p];
        const int32_t m = j.n_rows - j.width;
        if (m == 0) continue;
        if (j.width == 1) {
            for (int32_t i = 1; i <= m; ++i) x[rows[i]] -= l[i] * own[0];
            continue;
        }
        kernels_->gemv(l + j.width, j.ld, m, j.width, own, t);
        for (int32_t i = 0; i < m; ++i) x[rows[j.width + i]] -= t[i];
    }
    for (index k = 0; k < n_; ++k) x[k] /= d_[k];
    for (index id = np - 1; id >= 0; --id) {
        const panel& j = panels_[id];
        const double* l = values_.data + j.values;
        const int32_t* rows = row_list_.data() + j.rows;
        double* own = x + j.first;
        const int32_t m = j.n_rows - j.width;
        if (j.width == 1) {
            double sum = 0;
            for (int32_t i = 1; i <= m; ++i) sum += l[i] * x[rows[i]];
            own[0] -= sum;
            continue;
        }
        if (m > 0) {
            for (int32_t i = 0; i < m; ++i) t[i] = x[rows[j.width + i]];
            kernels_->gemv_t(l + j.width, j.ld, m, j.width, t, own);
        }
        for (int32_t p = j.width - 2; p >= 0; --p) {
            double sum = 0;
            for (int32_t i = p + 1; i < j.width; ++i) sum += l[p * static_cast<index>(j.ld) + i] * own[i];
            own[p] -= sum;
        }
    }
}

// The same for 8 interleaved vectors.
void ldlt::solve_panels8(double* x) {
    double* t = work_.data;
    const index np = n_panels();
    for (index id = 0; id < np; ++id) {
        const panel& j = panels_[id];
        const double* l = values_.data + j.values;
        const int32_t* rows = row_list_.data() + j.rows;
        double* own = x + static_cast<index>(j.first) * 8;
        for (int32_t p = 0; p + 1 < j.width; ++p)
            for (int32_t i = p + 1; i < j.width; ++i)
                for (int r = 0; r < 8; ++r)
                    own[i * 8 + r] -= l[p * static_cast<index>(j.ld) + i] * own[p * 8 + r];
        const int32_t m = j.n_rows - j.width;
        if (m == 0) continue;
        kernels_->gemv8(l + j.width, j.ld, m, j.width, own, t);
        for (int32_t i = 0; i < m; ++i)
            for (int r = 0; r < 8; ++r) x[static_cast<index>(rows[j.width + i]) * 8 + r] -= t[i * 8 + r];
    }
    for (index k = 0; k < n_; ++k)
        for (int r = 0; r < 8; ++r) x[k * 8 + r] /= d_[k];
    for (index id = np - 1; id >= 0; --id) {
        const panel& j = panels_[id];
        const double* l = values_.data + j.values;
        const int32_t* rows = row_list_.data() + j.rows;
        double* own = x + static_cast<index>(j.first) * 8;
        const int32_t m = j.n_rows - j.width;
        if (m > 0) {
            for (int32_t i = 0; i < m; ++i)
                for (int r = 0; r < 8; ++r) t[i * 8 + r] = x[static_cast<index>(rows[j.width + i]) * 8 + r];
            kernels_->gemv8_t(l + j.width, j.ld, m, j.width, t, own);
        }
        for (int32_t p = j.width - 2; p >= 0; --p)
            for (int32_t i = p + 1; i < j.width; ++i)
                for (int r = 0; r < 8; ++r)
                    own[p * 8 + r] -= l[p * static_cast<index>(j.ld) + i] * own[i * 8 + r];
    }
}

void ldlt::solve(const double* b, double* x) {
    if (!factored_) throw std::logic_error("ldlt::solve needs a successful factor first");
    double* y = rhs_.data;
    for (index k = 0; k < n_; ++k) y[k] = b[perm_[k]];
    solve_panels(y);
    for (index k = 0; k < n_; ++k) x[perm_[k]] = y[k];
}

void ldlt::solve(const double* b, index ldb, double* x, index ldx, index n_rhs) {
    if (!factored_) throw std::logic_error("ldlt::solve needs a successful factor first");
    double* y = rhs_.data;
    for (index at = 0; at < n_rhs; at += 8) {
        const index count = std::min<index>(8, n_rhs - at);
        if (count == 1) {
            solve(b + at * ldb, x + at * ldx);
            continue;
        }
        for (index k = 0; k < n_; ++k)
            for (index r = 0; r < 8; ++r) y[k * 8 + r] = r < count ? b[(at + r) * ldb + perm_[k]] : 0.0;
        solve_panels8(y);
        for (index k = 0; k < n_; ++k)
            for (index r = 0; r < count; ++r) x[(at + r) * ldx + perm_[k]] = y[k * 8 + r];
    }
}

refine_result ldlt::refine(const double* values, const double* b, double* x) {
    if (!factored_) throw std::logic_error("ldlt::refine needs a successful factor first");
    refine_result result;
    double* r = rhs_.data + n_;  // rhs_ holds 8 vectors; solve() below uses the first
    std::copy(b, b + n_, r);
    for (index i = 0; i < n_; ++i) {
        for (index p = indptr_[i]; p < indptr_[i + 1]; ++p) {
            const index j = indices_[p];
            r[i] -= values[p] * x[j];
            if (j != i) r[j] -= values[p] * x[i];
        }
    }
    const auto grow = [](double& most, double v) {
        if (!(std::fabs(v) <= most)) most = std::fabs(v);  // a NaN gets in
    };
    for (index i = 0; i < n_; ++i) grow(result.residual, r[i]);
    solve(r, r);
    for (index i = 0; i < n_; ++i) {
        grow(result.correction, r[i]);
        x[i] += r[i];
    }
    return result;
}

}  // namespace aitken
