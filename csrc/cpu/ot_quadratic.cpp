// Quadratic, k-sparse and exact transport on the CPU: the passes over the cost, and the drivers over them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/api/ot_quadratic.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "drivers/ot_quadratic.hpp"
#include "drivers/ot_simplex.hpp"
#include "drivers/ot_topk.hpp"
#include "sparse/pattern.hpp"

namespace aitken::cpu::ot {

using namespace aitken::ot;
using drivers::ot::host_csr;

namespace {

template <class T>
index select_below(const T* c, const double* y, double shift, index n, std::int32_t* idx) {
    if constexpr (std::is_same_v<T, double>)
        return simd().select_below_f64(c, y, shift, n, idx);
    else
        return simd().select_below_f32(c, y, shift, n, idx);
}

// Pairs with x_i + y_j > C_ij: n m sizeof(T) bytes read, 2 n m flops; 12 bytes written per pair.
template <class T>
class support_kernels {
public:
    support_kernels(backend& be, matrix<const T> cost) : be_(be), cost_(cost) {}

    bool gather(vec<const double> x, vec<const double> y, index most, host_csr& list) {
        be_.launched();
        const index n = cost_.rows, m = cost_.cols;
        const row_chunks chunks(n, m);
        parts_.resize(static_cast<std::size_t>(chunks.count));
        list.rows = n;
        list.cols = m;
        list.indptr.assign(static_cast<std::size_t>(n + 1), 0);
        std::atomic<index> total{0};
        parallel_chunks(chunks.count, [&](index chunk, int worker) {
            if (worker == 0 && n * m >= index{1} << 20) be_.interrupts().poll();
            part& mine = parts_[chunk];
            mine.indices.clear();
            mine.values.clear();
            std::vector<std::int32_t> found(static_cast<std::size_t>(m));
            for (index i = chunks.first(chunk); i < chunks.last(chunk); ++i) {
                if (total.load(std::memory_order_relaxed) > most) return;
                const T* c = cost_.row(i);
                const index count = select_below(c, y.data, x[i], m, found.data());
                list.indptr[i + 1] = count;
                mine.indices.insert(mine.indices.end(), found.data(), found.data() + count);
                for (index k = 0; k < count; ++k) mine.values.push_back(c[found[k]]);
                total += count;
            }
        });
        if (total > most) return false;
        std::partial_sum(list.indptr.begin(), list.indptr.end(), list.indptr.begin());
        list.indices.resize(static_cast<std::size_t>(list.indptr[n]));
        list.values.resize(list.indices.size());
        parallel_chunks(chunks.count, [&](index chunk) {
            const index at = list.indptr[chunks.first(chunk)];
            std::copy(parts_[chunk].indices.begin(), parts_[chunk].indices.end(), list.indices.begin() + at);
            std::copy(parts_[chunk].values.begin(), parts_[chunk].values.end(), list.values.begin() + at);
        });
        return true;
    }

    // Of every row the pairs that exceed the potentials by most: those at least half as far beyond `least` as
    // the worst, at most `per_row`. Reads C once, rows that have any twice.
    void worst(vec<const double> x, vec<const double> y, double least, index per_row, host_csr& list) {
        be_.launched();
        const index n = cost_.rows, m = cost_.cols;
        const row_chunks chunks(n, m);
        std::vector<std::vector<std::pair<std::int32_t, double>>> rows(static_cast<std::size_t>(n));
        parallel_chunks(chunks.count, [&](index chunk, int worker) {
            if (worker == 0 && n * m >= index{1} << 20) be_.interrupts().poll();
            std::vector<std::int32_t> found(static_cast<std::size_t>(m));
            for (index i = chunks.first(chunk); i < chunks.last(chunk); ++i) {
                const T* c = cost_.row(i);
                const double top = x[i] + rows_of<T>::max(c, y.data, m);
                if (!(top > least)) continue;
                const index count =
                    select_below(c, y.data, x[i] - std::max(least, 0.5 * top), m, found.data());
                auto& mine = rows[i];
                for (index k = 0; k < count; ++k)
                    mine.push_back({found[k], static_cast<double>(c[found[k]])});
                if (count <= per_row) continue;
                const auto beyond = [&](const auto& p, const auto& q) {
                    return y[p.first] - p.second > y[q.first] - q.second;
                };
                std::nth_element(mine.begin(), mine.begin() + per_row, mine.end(), beyond);
                mine.resize(static_cast<std::size_t>(per_row));
            }
        });
        list = {n, m, {0}, {}, {}};
        for (const auto& row : rows) {
            for (const auto& [j, c] : row) {
                list.indices.push_back(j);
                list.values.push_back(c);
            }
            list.indptr.push_back(list.nnz());
        }
    }

private:
    struct part {
        std::vector<std::int32_t> indices;
        std::vector<double> values;
    };
    backend& be_;
    matrix<const T> cost_;
    std::vector<part> parts_;
};

static_assert(drivers::ot::SupportKernels<support_kernels<double>>);
static_assert(drivers::ot::SupportKernels<support_kernels<float>>);

// The k largest s_i = x_i - C_ji of every constrained column j (a row of the cost here) and what they take.
template <class T>
class topk_kernels {
public:
    topk_kernels(backend& be, const problem<T>& p, double gamma, index k, bool semidual)
        : be_(be),
          cost_(p.cost),
          b_(p.a),
          weights_(p.b),
          gamma_(gamma),
          semidual_(semidual),
          m_(p.cost.rows),
          n_(p.cost.cols),
          k_(std::min(k, n_)),
          chunks_(m_, n_),
          kth_(static_cast<std::size_t>(m_), -infinity),
          last_(static_cast<std::size_t>(n_), 0.0),
          partial_(static_cast<std::size_t>(chunks_.count * n_)),
          sums_(static_cast<std::size_t>(chunks_.count)),
          work_(static_cast<std::size_t>(chunks_.count)) {}

    double evaluate(vec<const double> x, vec<const double> y, vec<double> gx, vec<double> gy) {
        be_.launched();
        const double drop = since_last(x);
        parallel_chunks(chunks_.count, [&](index chunk, int worker) {
            if (worker == 0 && n_ * m_ >= index{1} << 20) be_.interrupts().poll();
            double* grad = partial_.data() + chunk * n_;
            std::fill_n(grad, n_, 0.0);
            double sum = 0;
            for (index j = chunks_.first(chunk); j < chunks_.last(chunk); ++j) {
                scratch& w = work_[chunk];
                choose(j, x, drop, w);
                if (y.size > 0) {
                    double column = 0;
                    for (const entry& e : w.top) {
                        const double t = std::max(0.0, e.s + y[j]) / gamma_;
                        grad[e.i] += t;
                        column += t;
                        sum += 0.5 * gamma_ * t * t;
                    }
                    gy[j] = column - b_[j];
                    sum -= b_[j] * y[j];
                } else {
                    const double theta = project(b_[j], w.top);
                    for (const entry& e : w.top) {
                        const double t = std::max(0.0, e.s - theta) / gamma_;
                        grad[e.i] += t;
                        sum += e.s * t - 0.5 * gamma_ * t * t;
                    }
                }
            }
            sums_[chunk] = sum;
        });
        double total = 0;
        for (index c = 0; c < chunks_.count; ++c) total += sums_[c];
        for (index i = 0; i < n_; ++i) {
            double sum = 0;
            for (index c = 0; c < chunks_.count; ++c) sum += partial_[c * n_ + i];
            gx[i] = weights_[i] > 0 ? sum - weights_[i] : 0.0;
            if (weights_[i] > 0) total -= weights_[i] * x[i];
        }
        return total;
    }

    // T^T by rows. y: the columns' potentials, in where they are unknowns of their own, else out.
    void plan(vec<const double> x, vec<double> y, topk_report& report) {
        const double drop = since_last(x);
        report.plan.indptr.assign(1, 0);
        scratch w;
        for (index j = 0; j < m_; ++j) {
            choose(j, x, drop, w);
            if (semidual_) y[j] = -project(b_[j], w.top);
            std::sort(w.top.begin(), w.top.end(), [](const entry& u, const entry& v) { return u.i < v.i; });
            for (const entry& e : w.top) {
                const double t = (e.s + y[j]) / gamma_;
                if (!(t > 0)) continue;
                report.plan.indices.push_back(e.i);
                report.plan.values.push_back(t);
                report.linear += t * static_cast<double>(cost_.row(j)[e.i]);
                report.square += t * t;
            }
            report.plan.indptr.push_back(static_cast<index>(report.plan.indices.size()));
        }
    }

private:
    struct entry {
        double s;
        std::int32_t i;
        bool operator<(const entry& o) const { return s != o.s ? s > o.s : i < o.i; }  // ties: lowest index
    };
    struct scratch {
        std::vector<entry> top;
        std::vector<std::int32_t> found;
    };

    // By how much an entry can have fallen since the k-th largest were noted.
    double since_last(vec<const double> x) {
        double drop = infinity;
        for (index i = 0; i < n_; ++i) {
            if (x[i] > -infinity) drop = std::min(drop, x[i] - last_[i]);
            last_[i] = x[i] > -infinity ? x[i] : 0.0;
        }
        return drop - 1e-13 * std::abs(drop);
    }

    // The k largest of column j, largest first.
    void choose(index j, vec<const double> x, double drop, scratch& w) {
        const T* c = cost_.row(j);
        w.found.resize(static_cast<std::size_t>(n_));
        const double floor = kth_[j] + drop;
        const double below = floor - 1e-13 * std::abs(floor);
        index count = kth_[j] > -infinity ? select_below(c, x.data, -below, n_, w.found.data()) : 0;
        if (count < k_) count = select_below(c, x.data, infinity, n_, w.found.data());
        w.top.clear();
        for (index k = 0; k < count; ++k) {
            const std::int32_t i = w.found[k];
            const double s = x[i] - static_cast<double>(c[i]);
            if (s > -infinity) w.top.push_back({s, i});
        }
        if (static_cast<index>(w.top.size()) > k_) {
            std::nth_element(w.top.begin(), w.top.begin() + k_ - 1, w.top.end());
            w.top.resize(static_cast<std::size_t>(k_));
        }
        std::sort(w.top.begin(), w.top.end());
        kth_[j] = static_cast<index>(w.top.size()) == k_ ? w.top.back().s : -infinity;
    }

    // theta with sum max(0, s - theta) = gamma mass over entries sorted from the largest.
    double project(double mass, const std::vector<entry>& top) const {
        double sum = 0, theta = 0;
        for (std::size_t k = 0; k < top.size(); ++k) {
            sum += top[k].s;
            const double next = (sum - gamma_ * mass) / static_cast<double>(k + 1);
            if (k > 0 && top[k].s <= theta) break;
            theta = next;
        }
        return theta;
    }

    backend& be_;
    matrix<const T> cost_;
    vec<const double> b_, weights_;
    double gamma_;
    bool semidual_;
    index m_, n_, k_;
    row_chunks chunks_;
    std::vector<double> kth_, last_, partial_, sums_;
    std::vector<scratch> work_;
};

// min_j (C_ij - y_j) of every row, min_i (C_ij - x_i) of every column. Reads C once each.
template <class T>
void row_minima(matrix<const T> cost, vec<const double> y, vec<double> x) {
    const row_chunks chunks(cost.rows, cost.cols);
    parallel_chunks(chunks.count, [&](index chunk) {
        for (index i = chunks.first(chunk); i < chunks.last(chunk); ++i)
            x[i] = -rows_of<T>::max(cost.row(i), y.data, cost.cols);
    });
}
template <class T>
void column_minima(matrix<const T> cost, vec<const double> x, vec<double> y) {
    const index m = cost.cols;
    const row_chunks chunks(cost.rows, m);
    std::vector<double> top(static_cast<std::size_t>(chunks.count * m), -infinity);
    parallel_chunks(chunks.count, [&](index chunk) {
        for (index i = chunks.first(chunk); i < chunks.last(chunk); ++i)
            if (x[i] > -infinity) rows_of<T>::col_max(cost.row(i), x[i], m, top.data() + chunk * m);
    });
    for (index j = 0; j < m; ++j) {
        double best = top[j];
        for (index c = 1; c < chunks.count; ++c) best = std::max(best, top[c * m + j]);
        y[j] = -best;
    }
}

}  // namespace

template <class T>
quadratic_report solve_quadratic(const problem<T>& p, const quadratic_options& options, vec<double> x,
                                 vec<double> y, interrupt& signals, const quadratic_monitor& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    support_kernels<T> kernels(be, p.cost);
    std::vector<double> zeros(static_cast<std::size_t>(p.cost.rows), 0.0),
        minima(static_cast<std::size_t>(p.cost.cols));
    column_minima<T>(p.cost, {zeros.data(), p.cost.rows}, {minima.data(), p.cost.cols});
    drivers::ot::quadratic_solver solver(be, kernels, p.a.data, p.b.data, p.cost.rows, p.cost.cols, p.range,
                                         options, monitor);
    return solver.run(x, y, minima);
}

double solve_support(const pattern_view& pattern, vec<const double> w, vec<const double> z, vec<double> p,
                     vec<double> q, interrupt& signals) {
    const index n = pattern.rows, m = pattern.cols, order = n + m;
    check_pattern(pattern, "indices");
    host_csr support{n,
                     m,
                     {pattern.indptr, pattern.indptr + n + 1},
                     {pattern.indices, pattern.indices + pattern.nnz()},
                     std::vector<double>(static_cast<std::size_t>(pattern.nnz()), 1.0)};
    std::vector<double> degree(static_cast<std::size_t>(order), 0.0), rhs(degree), d(degree), rest(degree),
        z_(degree), dir(degree), image(degree);
    for (index i = 0; i < n; ++i)
        for (index e = support.indptr[i]; e < support.indptr[i + 1]; ++e) {
            degree[i] += 1;
            degree[n + support.indices[e]] += 1;
        }
    std::copy_n(w.data, n, rhs.data());
    std::copy_n(z.data, m, rhs.data() + n);
    for (index v = 0; v < order; ++v)
        if (degree[v] == 0) rhs[v] = 0;  // no entries: nothing moves
    const auto multiply = [&](const std::vector<double>& v, std::vector<double>& out) {
        for (index k = 0; k < order; ++k) out[k] = degree[k] * v[k];
        for (index i = 0; i < n; ++i)
            for (index e = support.indptr[i]; e < support.indptr[i + 1]; ++e) {
                const index j = n + support.indices[e];
                out[i] += v[j];
                out[j] += v[i];
            }
    };
    drivers::ot::plan_factor factor;
    bool factored = false;
    if (support.nnz() <= 64 * order) {
        factor.count(support);
        factored = factor.flops() <= 2e10 &&
                   factor.factorise(support, degree.data(), degree.data() + n, 1e-9, signals);
    }
    // CG preconditioned by the factor of (1 + 1e-9) diag + off-diagonal, or by the diagonal: the system is
    // singular but consistent.
    const auto precondition = [&] {
        if (factored) {
            z_ = rest;
            factor.solve(z_.data());
        }
        double sum = 0;
        for (index k = 0; k < order; ++k) {
            if (degree[k] == 0)
                z_[k] = 0;
            else if (!factored)
                z_[k] = rest[k] / degree[k];
            sum += rest[k] * z_[k];
        }
        return sum;
    };
    double scale = 0, size = 0;
    for (const double v : rhs) scale = std::max(scale, std::abs(v));
    rest = rhs;
    double rz = precondition();
    dir = z_;
    size = scale;
    for (index it = 0; it < 10 * order + 100 && size > 1e-14 * scale; ++it) {
        signals.poll();
        multiply(dir, image);
        double curvature = 0;
        for (index k = 0; k < order; ++k) curvature += dir[k] * image[k];
        if (!(curvature > 0)) break;
        const double alpha = rz / curvature;
        size = 0;
        for (index k = 0; k < order; ++k) {
            d[k] += alpha * dir[k];
            rest[k] -= alpha * image[k];
            size = std::max(size, std::abs(rest[k]));
        }
        const double next = precondition();
        if (!(next > 0)) break;
        for (index k = 0; k < order; ++k) dir[k] = z_[k] + next / rz * dir[k];
        rz = next;
    }
    // Over every component the null vector (1, -1) is taken off.
    std::vector<index> label(static_cast<std::size_t>(order));
    std::iota(label.begin(), label.end(), index{0});
    const auto find = [&](index v) {
        while (label[v] != v) v = label[v] = label[label[v]];
        return v;
    };
    for (index i = 0; i < n; ++i)
        for (index e = support.indptr[i]; e < support.indptr[i + 1]; ++e)
            label[find(i)] = find(n + support.indices[e]);
    std::vector<double> excess(static_cast<std::size_t>(order), 0.0), members(excess);
    for (index k = 0; k < order; ++k) {
        excess[find(k)] += k < n ? d[k] : -d[k];
        members[find(k)] += 1;
    }
    for (index k = 0; k < order; ++k) d[k] -= (k < n ? 1.0 : -1.0) * excess[find(k)] / members[find(k)];
    multiply(d, image);
    size = 0;
    for (index k = 0; k < order; ++k) size = std::max(size, std::abs(rhs[k] - image[k]));
    std::copy_n(d.data(), n, p.data);
    std::copy_n(d.data() + n, m, q.data);
    return scale > 0 ? size / scale : 0.0;
}

namespace {}  // namespace

template <class T>
topk_report solve_topk(const problem<T>& p, const topk_options& options, vec<double> x, vec<double> y,
                       interrupt& signals, const topk_monitor& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    topk_kernels<T> kernels(be, p, options.gamma, options.k, options.semidual);
    drivers::ot::topk_solver solver(be, kernels, p.b.data, p.a.data, p.cost.cols, p.cost.rows, p.range,
                                    options, monitor);
    return solver.run(x, y);
}

template <class T>
exact_report solve_exact(const problem<T>& p, const exact_options& options, vec<double> x, vec<double> y,
                         interrupt& signals) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    support_kernels<T> kernels(be, p.cost);
    const index n = p.cost.rows, m = p.cost.cols;
    exact_report out;
    const cost_facts facts = inspect(p.cost, 0);
    const double largest = std::max(std::abs(facts.smallest), std::abs(facts.largest));
    // In place of a forbidden pair: dearer than any detour around it.
    const double forbidden = 4.0 * static_cast<double>(n + m) * std::max(largest, 1e-300);
    const auto cost = [&](index i, index j) {
        const double c = static_cast<double>(p.cost.row(i)[j]);
        return c < infinity ? c : forbidden;
    };
    const auto feasible_dual = [&] {  // from x alone
        column_minima<T>(p.cost, x, y);
        row_minima<T>(p.cost, y, x);
        out.n_pass += 2;
    };
    feasible_dual();
    host_csr list;
    const index fewest = 4 * (n + m), most = 24 * (n + m);
    double slack = options.slack > 0 ? options.slack : 1e-3 * largest, high = infinity, low = 0;
    std::vector<double> raised(static_cast<std::size_t>(n));
    bool fits = false;
    for (int k = 0; k < 24; ++k) {
        for (index i = 0; i < n; ++i) raised[i] = x[i] + slack;
        ++out.n_pass;
        signals.poll();
        fits = kernels.gather({raised.data(), n}, y, std::max(most, index{1}), list);
        if (fits && (list.nnz() >= std::min(fewest, n * m) || k >= 12)) break;
        (fits ? low : high) = slack;
        slack = high < infinity ? 0.5 * (low + high) : 4 * slack;
    }
    // Ties (repeated points) can leave no slack whose pairs are few: then some of every row.
    if (!fits) kernels.worst({raised.data(), n}, y, 0.0, 16, list);
    drivers::ot::transport_simplex simplex(p.a.data, p.b.data, n, m, cost);
    for (index i = 0; i < n; ++i)
        for (index e = list.indptr[i]; e < list.indptr[i + 1]; ++e)
            simplex.pairs.push_back({list.values[e], static_cast<std::int32_t>(i), list.indices[e]});
    std::vector<double> reduced;
    for (const auto& q : simplex.pairs) reduced.push_back(q.cost - x[q.row] - y[q.col]);
    std::vector<std::size_t> order(simplex.pairs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t s, std::size_t t) { return reduced[s] < reduced[t]; });
    simplex.start(order);

    const index budget = options.max_pivots > 0
                             ? options.max_pivots
                             : static_cast<index>(static_cast<double>(50 * (n + m) + 10000) *
                                                  std::log2(static_cast<double>(n + m) + 2));
    for (bool first = true;; first = false) {
        const index before = simplex.pivots();
        const double tolerance = options.tolerance * std::max(largest, simplex.widest());
        if (!simplex.optimise(tolerance, budget, [&] { signals.poll(); })) {
            out.status = status::max_iterations;
            out.detail = "the budget of pivots is spent";
            break;
        }
        simplex.refresh();
        for (index i = 0; i < n; ++i) x[i] = simplex.x(i);
        for (index j = 0; j < m; ++j) y[j] = simplex.y(j);
        ++out.n_pass;
        signals.poll();
        kernels.worst(x, y, 4 * tolerance, 4, list);
        if (list.nnz() == 0) break;
        // The pairs added last gave no pivot: what is left is rounding. The first round may well need none.
        if (!first && simplex.pivots() == before) break;
        for (index i = 0; i < n; ++i)
            for (index e = list.indptr[i]; e < list.indptr[i + 1]; ++e)
                simplex.pairs.push_back({list.values[e], static_cast<std::int32_t>(i), list.indices[e]});
    }
    out.n_pivots = simplex.pivots();
    out.n_priced = static_cast<index>(simplex.pairs.size());
    for (index i = 0; i < n; ++i) x[i] = simplex.x(i);
    feasible_dual();
    for (index i = 0; i < n; ++i) out.lower_bound += p.a[i] * x[i];
    for (index j = 0; j < m; ++j) out.lower_bound += p.b[j] * y[j];
    // The plan by rows, with its cost and marginal error.
    std::vector<std::vector<std::pair<std::int32_t, double>>> rows(static_cast<std::size_t>(n));
    std::vector<double> r(static_cast<std::size_t>(n), 0.0), c(static_cast<std::size_t>(m), 0.0);
    double stuck = 0;
    simplex.each_arc([&](index i, index j, double f) {
        if (!(f > 0)) return;
        if (static_cast<double>(p.cost.row(i)[j]) == infinity) {
            stuck += f;
            return;
        }
        rows[i].push_back({static_cast<std::int32_t>(j), f});
    });
    out.plan.indptr.assign(1, 0);
    for (index i = 0; i < n; ++i) {
        std::sort(rows[i].begin(), rows[i].end());
        for (const auto& [j, f] : rows[i]) {
            out.plan.indices.push_back(j);
            out.plan.values.push_back(f);
            out.value += f * static_cast<double>(p.cost.row(i)[j]);
            r[i] += f;
            c[j] += f;
        }
        out.plan.indptr.push_back(static_cast<index>(out.plan.indices.size()));
    }
    for (index i = 0; i < n; ++i) out.err += std::abs(p.a[i] - r[i]);
    for (index j = 0; j < m; ++j) out.err += std::abs(p.b[j] - c[j]);
    if (stuck > 1e-12) {
        out.status = status::locally_infeasible;
        out.detail = "every plan with these weights uses a forbidden pair";
    }
    return out;
}

template <class T>
void hard_transform(matrix<const T> cost, bool transposed, vec<const double> potential, vec<double> out,
                    int n_threads) {
    const thread_scope threads(n_threads);
    if (transposed)
        column_minima<T>(cost, potential, out);
    else
        row_minima<T>(cost, potential, out);
}

#define AITKEN_OT_SPARSE_PLANS(T)                                                                           \
    template quadratic_report solve_quadratic<T>(const problem<T>&, const quadratic_options&, vec<double>,  \
                                                 vec<double>, interrupt&, const quadratic_monitor&);        \
    template topk_report solve_topk<T>(const problem<T>&, const topk_options&, vec<double>, vec<double>,    \
                                       interrupt&, const topk_monitor&);                                    \
    template exact_report solve_exact<T>(const problem<T>&, const exact_options&, vec<double>, vec<double>, \
                                         interrupt&);                                                       \
    template void hard_transform<T>(matrix<const T>, bool, vec<const double>, vec<double>, int);
AITKEN_OT_SPARSE_PLANS(double)
AITKEN_OT_SPARSE_PLANS(float)
#undef AITKEN_OT_SPARSE_PLANS

}  // namespace aitken::cpu::ot
