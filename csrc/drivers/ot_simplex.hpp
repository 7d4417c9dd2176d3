// Network simplex for transport from a good start: the end game of exact_ot, where an entropic solution has
// told which pairs matter.
//
// Basis: a spanning tree over rows and columns, strongly feasible (every arc without flow leads from a row up
// to a column, so degenerate pivots cannot cycle). Pivots take the cheapest of a block of the pairs that are
// priced; a pass over the whole cost adds the pairs that the potentials x + y > C show to be wanted, until
// there are none. Then the tree's potentials are feasible for the dual and the plan is optimal.
//
// Cost of a pivot: the cycle, and the part of the tree that changes sides. Of a pass: n m sizeof(T) bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/views.hpp"
#include "drivers/ot_sparse.hpp"

namespace aitken::drivers::ot {

// Rows are nodes 0 .. n - 1, columns n .. n + m - 1. Weights must be positive. `cost(i, j)` is finite: the
// caller puts a large number in place of forbidden pairs.
template <class Cost>
class transport_simplex {
public:
    transport_simplex(const double* a, const double* b, index n, index m, Cost cost)
        : a_(a), b_(b), n_(n), m_(m), cost_(std::move(cost)) {
        const auto nodes = static_cast<std::size_t>(n_ + m_);
        for (auto* v : {&parent_, &depth_, &child_, &next_, &previous_}) v->assign(nodes, -1);
        for (auto* v : {&flow_, &arc_cost_, &potential_}) v->assign(nodes, 0.0);
    }

    struct pair {
        double cost;
        std::int32_t row, col;
    };
    std::vector<pair> pairs;  // that are priced

    index pivots() const { return pivots_; }
    // Sign +1 for rows: x_i + y_j = C_ij on the tree.
    double x(index i) const { return potential_[i]; }
    double y(index j) const { return potential_[n_ + j]; }
    double widest() const {
        double top = 0;
        for (const double v : potential_) top = std::max(top, std::abs(v));
        return top;
    }
    template <class F>
    void each_arc(F&& fn) const {
        for (std::int32_t v = 0; v < n_ + m_; ++v) {
            if (parent_[v] < 0) continue;
            const auto [i, j] = ends(v);
            fn(i, j, flow_[v]);
        }
    }

    // A basis from the pairs in the order given: each takes what its row and column have left; what is left
    // in the end goes along any pair.
    void start(const std::vector<std::size_t>& order) {
        std::vector<double> left_a(a_, a_ + n_), left_b(b_, b_ + m_);
        const double nothing = 1e-15;
        std::vector<std::vector<std::pair<std::int32_t, double>>> arcs(static_cast<std::size_t>(n_));
        const auto ship = [&](std::int32_t i, std::int32_t j) {
            const double f = std::min(left_a[i], left_b[j]);
            arcs[i].push_back({j, f});
            left_a[i] = left_a[i] <= left_b[j] ? 0.0 : left_a[i] - f;
            left_b[j] = left_b[j] - f <= nothing * b_[j] ? 0.0 : left_b[j] - f;
            if (left_a[i] <= nothing * a_[i]) left_a[i] = 0;
        };
        for (const std::size_t k : order) {
            const pair& p = pairs[k];
            if (left_a[p.row] > 0 && left_b[p.col] > 0) ship(p.row, p.col);
        }
        std::int32_t j = 0;
        for (std::int32_t i = 0; i < n_; ++i)
            while (left_a[i] > 0) {
                while (j < m_ && !(left_b[j] > 0)) ++j;
                if (j == m_) break;  // rounding
                ship(i, j);
            }
        span(arcs, order);
    }

    // Prices `pairs` until none improves. False: the budget is spent.
    template <class Poll>
    bool optimise(double tolerance, index most_pivots, Poll&& poll) {
        const std::size_t count = pairs.size();
        const std::size_t block =
            std::max<std::size_t>(32, static_cast<std::size_t>(std::sqrt(static_cast<double>(count))));
        std::size_t at = 0, since = 0;
        while (since < count) {
            double best = -tolerance;
            std::size_t chosen = count;
            const std::size_t todo = std::min(block, count - since);
            for (std::size_t k = 0; k < todo; ++k) {
                const pair& p = pairs[at];
                const double reduced = p.cost - potential_[p.row] - potential_[n_ + p.col];
                if (reduced < best) best = reduced, chosen = at;
                if (++at == count) at = 0;
            }
            since += todo;
            if (chosen == count) continue;
            since = 0;
            if (pivots_ >= most_pivots) return false;
            if (pivots_ % 64 == 0) poll();
            pivot(pairs[chosen]);
        }
        return true;
    }

    // Potentials and flows anew from the tree and the weights: those of the pivots have gathered rounding.
    void refresh() {
        const std::vector<std::int32_t> order = top_down();
        for (const std::int32_t v : order)
            if (parent_[v] >= 0) potential_[v] = arc_cost_[v] - potential_[parent_[v]];
        std::vector<double> surplus(order.size());
        for (std::int32_t v = 0; v < n_ + m_; ++v) surplus[v] = v < n_ ? a_[v] : -b_[v - n_];
        for (std::size_t k = order.size(); k-- > 0;) {
            const std::int32_t v = order[k];
            if (parent_[v] < 0) continue;
            // A column's arc keeps its (tiny) flow where the weights say none: the tree stays strongly
            // feasible.
            const double f = v < n_ ? surplus[v] : -surplus[v];
            flow_[v] = f > 0 ? f : v < n_ ? 0.0 : flow_[v];
            surplus[parent_[v]] += surplus[v];
        }
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    using node = std::int32_t;

    std::pair<node, node> ends(node v) const {
        const node p = parent_[v];
        return v < n_ ? std::pair<node, node>{v, p - static_cast<node>(n_)}
                      : std::pair<node, node>{p, v - static_cast<node>(n_)};
    }

    void hang(node v, node below) {
        parent_[v] = below;
        next_[v] = child_[below];
        previous_[v] = -1;
        if (child_[below] >= 0) previous_[child_[below]] = v;
        child_[below] = v;
    }
    void cut(node v) {
        if (previous_[v] >= 0)
            next_[previous_[v]] = next_[v];
        else
            child_[parent_[v]] = next_[v];
        if (next_[v] >= 0) previous_[next_[v]] = previous_[v];
        parent_[v] = next_[v] = previous_[v] = -1;
    }

    std::vector<node> top_down() const {
        std::vector<node> order{root_};
        order.reserve(parent_.size());
        for (std::size_t k = 0; k < order.size(); ++k)
            for (node c = child_[order[k]]; c >= 0; c = next_[c]) order.push_back(c);
        return order;
    }

    // Hangs the forest of arcs with flow into one tree rooted at a column: a component joins by an arc
    // without flow from one of its rows to a column that is in already, pairs of low order first.
    void span(const std::vector<std::vector<std::pair<node, double>>>& arcs,
              const std::vector<std::size_t>& order) {
        const node n = static_cast<node>(n_), nodes = static_cast<node>(n_ + m_);
        std::vector<std::vector<std::pair<node, double>>> graph(static_cast<std::size_t>(nodes));
        for (node i = 0; i < n; ++i)
            for (const auto& [j, f] : arcs[i]) {
                graph[i].push_back({n + j, f});
                graph[n + j].push_back({i, f});
            }
        std::vector<std::vector<std::pair<std::size_t, node>>> wanted(static_cast<std::size_t>(m_));
        for (std::size_t k = 0; k < order.size(); ++k)
            wanted[pairs[order[k]].col].push_back({k, pairs[order[k]].row});
        std::vector<char> in(static_cast<std::size_t>(nodes), 0);
        std::priority_queue<std::tuple<std::size_t, node, node>,
                            std::vector<std::tuple<std::size_t, node, node>>, std::greater<>>
            queue;
        const auto add_component = [&](node top) {
            std::vector<node> found{top};
            in[top] = 1;
            for (std::size_t k = 0; k < found.size(); ++k) {
                const node v = found[k];
                if (v >= n)
                    for (const auto& [rank, i] : wanted[v - n])
                        if (!in[i]) queue.push({rank, i, v});
                for (const auto& [w, f] : graph[v]) {
                    if (in[w]) continue;
                    in[w] = 1;
                    hang(w, v);
                    flow_[w] = f;
                    arc_cost_[w] = w < n ? cost_(w, v - n) : cost_(v, w - n);
                    found.push_back(w);
                }
            }
        };
        root_ = n;
        add_component(root_);
        node next_row = 0;
        for (;;) {
            node row = -1, col = -1;
            while (!queue.empty() && row < 0) {
                const auto [rank, i, v] = queue.top();
                queue.pop();
                if (!in[i]) row = i, col = v;
            }
            if (row < 0) {
                while (next_row < n && in[next_row]) ++next_row;
                if (next_row == n) break;
                row = next_row;
                double best = infinity;
                for (node j = 0; j < m_; ++j)
                    if (in[n + j] && cost_(row, j) < best) best = cost_(row, j), col = n + j;
            }
            hang(row, col);
            flow_[row] = 0;
            arc_cost_[row] = cost_(row, col - n);
            add_component(row);
        }
        // Columns that rounding has left without any arc: they hang from the first row.
        for (node j = 0; j < m_; ++j)
            if (!in[n + j]) {
                hang(n + j, 0);
                arc_cost_[n + j] = cost_(0, j);
                flow_[n + j] = b_[j];
            }
        for (const node v : top_down()) {
            depth_[v] = parent_[v] < 0 ? 0 : depth_[parent_[v]] + 1;
            potential_[v] = parent_[v] < 0 ? 0.0 : arc_cost_[v] - potential_[parent_[v]];
        }
    }

    void pivot(const pair& entering) {
        ++pivots_;
        const node row = entering.row, col = static_cast<node>(n_) + entering.col;
        node u = row, w = col;
        while (u != w) {
            if (depth_[u] >= depth_[w])
                u = parent_[u];
            else
                w = parent_[w];
        }
        const node apex = u;
        // Flow falls on arcs that leave a row towards the apex on the row's side, and on those that enter a
        // column from it on the other; of ties, the last one met on the way round from the apex leaves.
        // Flows that are equal but for rounding are ties: else an arc without flow could lead the wrong way.
        double most = infinity;
        node out = -1;
        bool row_side = true;
        for (node v = row; v != apex; v = parent_[v])
            if (v < n_) most = std::min(most, flow_[v]);
        for (node v = col; v != apex; v = parent_[v])
            if (v >= n_) most = std::min(most, flow_[v]);
        for (node v = row; v != apex && out < 0; v = parent_[v])
            if (v < n_ && nothing_left(flow_[v], most)) out = v;
        for (node v = col; v != apex; v = parent_[v])
            if (v >= n_ && nothing_left(flow_[v], most)) out = v, row_side = false;
        for (node v = row; v != apex; v = parent_[v]) change(v, v < n_ ? -most : most);
        for (node v = col; v != apex; v = parent_[v]) change(v, v >= n_ ? -most : most);
        // The part below `out` is hung anew from the entering arc: the path up to `out` turns round.
        const node top = row_side ? row : col, below = row_side ? col : row;
        node v = top, above = below;
        double flow = most, cost = entering.cost;
        for (;;) {
            const node p = parent_[v];
            const double f = flow_[v], c = arc_cost_[v];
            cut(v);
            hang(v, above);
            flow_[v] = flow;
            arc_cost_[v] = cost;
            if (v == out) break;
            flow = f;
            cost = c;
            above = v;
            v = p;
        }
        const double reduced = entering.cost - potential_[row] - potential_[col];
        const double on_rows = top < n_ ? reduced : -reduced;
        stack_.assign(1, top);
        while (!stack_.empty()) {
            const node s = stack_.back();
            stack_.pop_back();
            depth_[s] = depth_[parent_[s]] + 1;
            potential_[s] += s < n_ ? on_rows : -on_rows;
            for (node c = child_[s]; c >= 0; c = next_[c]) stack_.push_back(c);
        }
    }

    void change(node v, double by) { flow_[v] = by < 0 && nothing_left(flow_[v], -by) ? 0.0 : flow_[v] + by; }
    // Whether rounding alone tells `flow` less `taken` from 0.
    static bool nothing_left(double flow, double taken) { return flow - taken <= 1e-15 * (flow + taken); }

    const double *a_, *b_;
    index n_, m_;
    Cost cost_;
    node root_ = 0;
    std::vector<node> parent_, depth_, child_, next_, previous_, stack_;
    std::vector<double> flow_, arc_cost_, potential_;  // of the arc to the parent
    index pivots_ = 0;
};

}  // namespace aitken::drivers::ot
