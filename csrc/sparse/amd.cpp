#include "sparse/amd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace aitken {

namespace {

using std::int32_t;

// Quotient graph. A node is a variable (not yet eliminated, possibly standing for `weight` indistinguishable
// rows), an element (an eliminated pivot, whose list is the clique it left), or gone (absorbed).
// The list of a variable holds its elements first (n_elements of them), then its variables.
class quotient_graph {
public:
    quotient_graph(const pattern_view& graph, const amd_options& options)
        : n_(static_cast<int32_t>(graph.rows)), options_(options) {
        const auto n = static_cast<std::size_t>(n_);
        const index nnz = graph.nnz();
        // One element of up to n entries is written behind the lists before its parts are released.
        pool_.resize(static_cast<std::size_t>(nnz + nnz / 5 + n_ + 1));
        if (nnz > 0) std::copy(graph.indices, graph.indices + nnz, pool_.begin());
        free_ = nnz;
        start_.resize(n);
        length_.resize(n);
        for (int32_t i = 0; i < n_; ++i) {
            start_[i] = graph.indptr[i];
            length_[i] = static_cast<int32_t>(graph.indptr[i + 1] - graph.indptr[i]);
        }
        degree_ = length_;
        n_elements_.assign(n, 0);
        weight_.assign(n, 1);
        parent_.assign(n, -1);
        kind_.assign(n, variable);
        is_pivot_.assign(n, 0);
        stamp_.assign(n, 1);
        head_.assign(2 * n, -1);
        rank_.assign(n, 0);
        paired_.assign(n, 0.0);
        next_.assign(n, -1);
        prev_.assign(n, -1);
        bucket_.assign(n, -1);
        hash_.assign(n, 0);
    }

    std::vector<int32_t> order(amd_stats& stats) {
        postpone_dense(stats);
        while (n_done_ < n_) {
            const int32_t pivot = take_minimum();
            ++stats.n_supervariables;
            form_element(pivot);
            measure_overlaps(pivot);
            update_degrees(pivot);
            merge_indistinguishable(pivot);
            finish_element(pivot);
        }
        stats.n_collections = n_collections_;
        return postorder();
    }

private:
    enum kind_type : std::uint8_t { variable, element, gone };

    // Bucket of a variable of that external degree; `paired` = 2 * neighbour pairs known to be adjacent.
    // The square root keeps n buckets; half steps tell low scores apart.
    int32_t bucket(int32_t i, int32_t degree, double paired) const {
        if (options_.rank == pivot_rank::degree) return degree;
        const double d = degree, missing = std::max(0.0, d * (d - 1) - paired);
        return static_cast<int32_t>(2 * std::sqrt(missing / (weight_[i] + 1.0)));
    }

    void link(int32_t i, int32_t bucket) {
        const int32_t first = head_[bucket];
        rank_[i] = bucket;
        next_[i] = first;
        prev_[i] = -1;
        if (first >= 0) prev_[first] = i;
        head_[bucket] = i;
    }

    void unlink(int32_t i) {
        if (next_[i] >= 0) prev_[next_[i]] = prev_[i];
        if (prev_[i] >= 0)
            next_[prev_[i]] = next_[i];
        else
            head_[rank_[i]] = next_[i];
    }

    void postpone_dense(amd_stats& stats) {
        int32_t limit = n_;
        if (options_.dense >= 0)
            limit = static_cast<int32_t>(
                std::min<double>(n_, std::max(16.0, options_.dense * std::sqrt(static_cast<double>(n_)))));
        for (int32_t i = 0; i < n_; ++i) {
            if (degree_[i] > limit) {
                weight_[i] = 0;  // invisible to the elimination from here on
                kind_[i] = gone;
                dense_.push_back(i);
                ++n_done_;
            }
        }
        stats.n_dense = static_cast<index>(dense_.size());
        for (int32_t i = 0; i < n_; ++i)
            if (kind_[i] == variable) link(i, bucket(i, degree_[i], 0));
    }

    int32_t take_minimum() {
        while (head_[lowest_] < 0) ++lowest_;
        const int32_t pivot = head_[lowest_];
        unlink(pivot);
        return pivot;
    }

    // Adds variable i to the element being written; a negative weight marks membership.
    void gather(int32_t i) {
        const int32_t w = weight_[i];
        if (w <= 0) return;
        element_size_ += w;
        weight_[i] = -w;
        unlink(i);
        pool_[free_++] = i;
    }

    // Element list = variables of the pivot and of its elements, which it absorbs.
    void form_element(int32_t pivot) {
        pivot_weight_ = weight_[pivot];
        n_done_ += pivot_weight_;
        weight_[pivot] = -pivot_weight_;
        element_size_ = 0;
        index room = length_[pivot];
        for (int32_t k = 0; k < n_elements_[pivot]; ++k) room += length_[pool_[start_[pivot] + k]];
        if (free_ + std::min<index>(room, n_) > static_cast<index>(pool_.size())) collect();
        const index begin = free_, own = start_[pivot];
        if (n_elements_[pivot] == 0) {  // in place
            const index last = own + length_[pivot], saved = free_;
            free_ = own;
            for (index p = own; p < last; ++p) gather(pool_[p]);
            length_[pivot] = static_cast<int32_t>(free_ - own);
            free_ = saved;
        } else {
            const index first_variable = own + n_elements_[pivot], last = own + length_[pivot];
            for (index p = own; p < first_variable; ++p) {
                const int32_t e = pool_[p];
                const index stop = start_[e] + length_[e];
                for (index q = start_[e]; q < stop; ++q) gather(pool_[q]);
                parent_[e] = pivot;
                kind_[e] = gone;
                stamp_[e] = 0;
            }
            for (index p = first_variable; p < last; ++p) gather(pool_[p]);
            start_[pivot] = begin;
            length_[pivot] = static_cast<int32_t>(free_ - begin);
        }
        kind_[pivot] = element;
        is_pivot_[pivot] = 1;
        degree_[pivot] = element_size_;
        n_elements_[pivot] = 0;
    }

    // Compacts the pool: every live list moves to the front, in the order of its position.
    void collect() {
        ++n_collections_;
        std::vector<int32_t> live;
        for (int32_t i = 0; i < n_; ++i)
            if (kind_[i] != gone && length_[i] > 0) live.push_back(i);
        std::sort(live.begin(), live.end(), [&](int32_t a, int32_t b) { return start_[a] < start_[b]; });
        index to = 0;
        for (const int32_t i : live) {
            std::copy(pool_.begin() + start_[i], pool_.begin() + start_[i] + length_[i], pool_.begin() + to);
            start_[i] = to;
            to += length_[i];
        }
        free_ = to;
    }

    // stamp_[e] - tag_ = weight of element e outside the new element, for every e adjacent to it.
    void measure_overlaps(int32_t pivot) {
        if (tag_ > std::numeric_limits<int32_t>::max() - 2 * n_ - 2) {
            for (auto& s : stamp_) s = s != 0;
            tag_ = 2;
        }
        const index first = start_[pivot], last = first + length_[pivot];
        for (index p = first; p < last; ++p) {
            const int32_t i = pool_[p], w = -weight_[i];
            const index stop = start_[i] + n_elements_[i];
            for (index q = start_[i]; q < stop; ++q) {
                const int32_t e = pool_[q];
                if (stamp_[e] >= tag_)
                    stamp_[e] -= w;
                else if (stamp_[e] != 0)
                    stamp_[e] = degree_[e] + tag_ - w;
            }
        }
    }

    // Prunes the lists of the element's variables and bounds their external degrees.
    void update_degrees(int32_t pivot) {
        const index first = start_[pivot], last = first + length_[pivot];
        for (index p = first; p < last; ++p) {
            const int32_t i = pool_[p];
            const index begin = start_[i], elements_end = begin + n_elements_[i], end = begin + length_[i];
            index to = begin;
            std::uint32_t hash = 0;
            index degree = 0;
            double paired = 0;
            for (index q = begin; q < elements_end; ++q) {
                const int32_t e = pool_[q];
                if (stamp_[e] == 0) continue;
                const int32_t outside = stamp_[e] - tag_;
                if (outside > 0 || !options_.aggressive) {
                    degree += outside;
                    const double all = degree_[e] + weight_[i], inside = all - outside;  // weight_[i] < 0
                    paired += all * (all - 1) - inside * (inside - 1);
                    pool_[to++] = e;
                    hash += static_cast<std::uint32_t>(e);
                } else {  // e lies inside the new element
                    parent_[e] = pivot;
                    kind_[e] = gone;
                    stamp_[e] = 0;
                }
            }
            const index kept_end = to;
            for (index q = elements_end; q < end; ++q) {
                const int32_t j = pool_[q], w = weight_[j];
                if (w <= 0) continue;  // in the new element, the pivot, absorbed, or dense
                degree += w;
                pool_[to++] = j;
                hash += static_cast<std::uint32_t>(j);
            }
            // There is room for the new element: i was reached through the pivot or through an element it
            // absorbed, and that entry is gone. The first variable makes way by moving to the end.
            pool_[to++] = pool_[kept_end];
            pool_[kept_end] = pivot;
            n_elements_[i] = static_cast<int32_t>(kept_end - begin + 1);
            length_[i] = static_cast<int32_t>(to - begin);
            if (degree == 0 && length_[i] == 1) {  // mass elimination: i follows the pivot at no further fill
                const int32_t w = -weight_[i];
                parent_[i] = pivot;
                kind_[i] = gone;
                weight_[i] = 0;
                length_[i] = 0;
                pivot_weight_ += w;
                element_size_ -= w;
                n_done_ += w;
                continue;
            }
            degree_[i] = static_cast<int32_t>(std::min<index>(degree_[i], degree));
            paired_[i] = paired;
            const auto slot = static_cast<int32_t>((hash + static_cast<std::uint32_t>(pivot)) %
                                                   static_cast<std::uint32_t>(n_));
            hash_[i] = slot;
            next_[i] = bucket_[slot];
            bucket_[slot] = i;
        }
        tag_ += std::max(degree_[pivot], max_element_) + 1;
        max_element_ = std::max(max_element_, degree_[pivot]);
        degree_[pivot] = element_size_;
    }

    // Variables with equal lists are one supervariable; candidates share a hash bucket.
    void merge_indistinguishable(int32_t pivot) {
        const index first = start_[pivot], last = first + length_[pivot];
        for (index p = first; p < last; ++p) {
            if (weight_[pool_[p]] >= 0) continue;
            int32_t i = bucket_[hash_[pool_[p]]];
            bucket_[hash_[pool_[p]]] = -1;
            for (; i >= 0 && next_[i] >= 0; i = next_[i]) {
                const int32_t length = length_[i], elements = n_elements_[i];
                const int32_t* list = pool_.data() + start_[i];
                for (int32_t k = 0; k < length; ++k) stamp_[list[k]] = tag_;
                int32_t before = i;
                for (int32_t j = next_[i]; j >= 0; j = next_[j]) {
                    bool same = length_[j] == length && n_elements_[j] == elements;
                    const int32_t* other = pool_.data() + start_[j];
                    for (int32_t k = 0; same && k < length; ++k) same = stamp_[other[k]] == tag_;
                    if (same) {
                        parent_[j] = i;
                        kind_[j] = gone;
                        weight_[i] += weight_[j];  // both negative
                        weight_[j] = 0;
                        length_[j] = 0;
                        next_[before] = next_[j];
                    } else {
                        before = j;
                    }
                }
                ++tag_;  // live elements keep a nonzero stamp below the tag
            }
        }
    }

    // Final degrees; variables that stay are written back to the front of the element's list.
    void finish_element(int32_t pivot) {
        const index first = start_[pivot], last = first + length_[pivot];
        index to = first;
        const int32_t left = n_ - n_done_;
        for (index p = first; p < last; ++p) {
            const int32_t i = pool_[p], w = -weight_[i];
            if (w <= 0) continue;
            weight_[i] = w;
            const int32_t degree = std::min(degree_[i] + element_size_ - w, left - w);
            degree_[i] = degree;
            const double shared = element_size_ - w;
            link(i, bucket(i, degree, shared * (shared - 1) + paired_[i]));
            lowest_ = std::min(lowest_, rank_[i]);
            pool_[to++] = i;
        }
        weight_[pivot] = pivot_weight_;
        length_[pivot] = static_cast<int32_t>(to - first);
        if (last == free_) free_ = to;
    }

    // Pivots in postorder of the assembly forest, each followed by the rows it takes along; dense rows last.
    std::vector<int32_t> postorder() {
        std::vector<int32_t>&owner = stamp_, &child = head_, &sibling = next_;
        std::vector<int32_t>&member = bucket_, &chain = prev_;
        std::fill(child.begin(), child.end(), -1);
        std::fill(member.begin(), member.end(), -1);
        for (int32_t i = 0; i < n_; ++i) owner[i] = is_pivot_[i] ? i : -1;
        for (int32_t i = n_ - 1; i >= 0; --i) {
            if (is_pivot_[i]) {
                if (parent_[i] >= 0) {
                    sibling[i] = child[parent_[i]];
                    child[parent_[i]] = i;
                }
                continue;
            }
            int32_t top = i;
            while (top >= 0 && owner[top] < 0) top = parent_[top];
            if (top < 0) continue;  // dense
            const int32_t pivot = owner[top];
            for (int32_t j = i; owner[j] < 0; j = parent_[j]) owner[j] = pivot;
            chain[i] = member[pivot];
            member[pivot] = i;
        }
        std::vector<int32_t> order, stack;
        order.reserve(static_cast<std::size_t>(n_));
        for (int32_t root = 0; root < n_; ++root) {
            if (!is_pivot_[root] || parent_[root] >= 0) continue;
            stack.push_back(root);
            while (!stack.empty()) {
                const int32_t e = stack.back();
                if (child[e] >= 0) {
                    stack.push_back(child[e]);
                    child[e] = sibling[child[e]];
                    continue;
                }
                stack.pop_back();
                order.push_back(e);
                for (int32_t i = member[e]; i >= 0; i = chain[i]) order.push_back(i);
            }
        }
        order.insert(order.end(), dense_.begin(), dense_.end());
        return order;
    }

    int32_t n_, n_done_ = 0, lowest_ = 0, pivot_weight_ = 0, element_size_ = 0, max_element_ = 0;
    int32_t tag_ = 2;
    index free_ = 0, n_collections_ = 0;
    amd_options options_;
    std::vector<int32_t> pool_;
    std::vector<index> start_;
    std::vector<int32_t> length_, n_elements_, degree_, weight_, parent_, stamp_;
    std::vector<std::uint8_t> kind_, is_pivot_;
    std::vector<int32_t> head_, next_, prev_, rank_, bucket_, hash_, dense_;
    std::vector<double> paired_;  // twice the neighbour pairs inside older elements, outside the newest
};

}  // namespace

std::vector<std::int32_t> amd_order(const pattern_view& graph, const amd_options& options, amd_stats* stats) {
    amd_stats own;
    if (graph.rows == 0) return {};
    auto order = quotient_graph(graph, options).order(own);
    if (stats) *stats = own;
    return order;
}

std::vector<std::int32_t> natural_order(index n) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    return order;
}

}  // namespace aitken
