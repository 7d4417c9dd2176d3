// Transport with at most k entries per column, by its dual: limited-memory BFGS on
//
//   D(x) = a.x - sum_j psi_j(x - c_j),   psi_j(s) = max { s.t - (gamma/2) |t|^2 : t >= 0, sum t = b_j, |t|_0
//   <= k }
//
// or, without the simplex, on D(x, y) = a.x + b.y - sum_j (1 / 2 gamma) |top_k(max(0, s_j + y_j))|^2. The
// dual is concave, with kinks where the k-th and the next entry of a column tie; the line search (weak Wolfe,
// by bisection) is one that works across kinks.
//
// Cost of an evaluation: one pass over C (n m sizeof(T) bytes, 2 n m flops) that picks the few entries of
// each column above what its k-th can have fallen to.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <deque>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/api/ot_quadratic.hpp"
#include "core/backend.hpp"
#include "core/stop.hpp"

namespace aitken::drivers::ot {

using namespace aitken::ot;

// What a backend must bring. evaluate: -D and its gradient at (x, y); y is empty in the semi-dual, where the
// columns' multipliers are left with plan(). plan: T^T by rows, and the columns' potentials.
template <class K>
concept TopkKernels = requires(K& k, vec<const double> x, vec<const double> y, vec<double> gx, vec<double> gy,
                               topk_report& report) {
    { k.evaluate(x, y, gx, gy) } -> std::same_as<double>;
    k.plan(x, gy, report);
};

template <Backend B, TopkKernels K>
class topk_solver {
public:
    topk_solver(B& be, K& kernels, const double* a, const double* b, index n, index m, double range,
                const topk_options& options, const topk_monitor& monitor)
        : be_(be), k_(kernels), a_(a), b_(b), n_(n), m_(m), range_(range), opt_(options), monitor_(monitor) {}

    // x (length n) holds a start; y (length m) is one of the unknowns unless options.semidual. Both are left
    // at the solution.
    topk_report run(vec<double> x, vec<double> y) {
        const index size = opt_.semidual ? n_ : n_ + m_;
        z_.assign(x.data, x.data + n_);
        if (!opt_.semidual) z_.insert(z_.end(), y.data, y.data + m_);
        for (auto* v : {&g_, &d_, &trial_, &trial_g_}) v->assign(static_cast<std::size_t>(size), 0.0);
        iterate();
        std::copy_n(z_.begin(), n_, x.data);
        if (!opt_.semidual) std::copy_n(z_.begin() + n_, m_, y.data);
        k_.plan({z_.data(), n_}, y, out_);
        finish(x, y);
        return std::move(out_);
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    static constexpr std::size_t memory = 10;
    static constexpr int window = 10, most_restarts = 3, most_trials = 60;
    static constexpr double armijo = 1e-4, curvature = 0.9;

    struct pair {
        std::vector<double> s, y;
        double rho;
    };

    double evaluate(const std::vector<double>& z, std::vector<double>& g) {
        be_.interrupts().poll();
        ++out_.n_eval;
        const vec<const double> x{z.data(), n_}, y{z.data() + n_, opt_.semidual ? 0 : m_};
        const vec<double> gx{g.data(), n_}, gy{g.data() + n_, opt_.semidual ? 0 : m_};
        return k_.evaluate(x, y, gx, gy);
    }

    static double dot(const std::vector<double>& u, const std::vector<double>& v) {
        double sum = 0;
        for (std::size_t i = 0; i < u.size(); ++i) sum += u[i] * v[i];
        return sum;
    }
    // The gradient is minus the marginal error.
    double error(const std::vector<double>& g) const {
        double sum = 0;
        for (double v : g) sum += std::abs(v);
        return sum;
    }

    void give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
    }

    void iterate() {
        double value = evaluate(z_, g_);
        std::deque<double> past{value};
        int restarts = 0;
        for (;; ++out_.nit) {
            const double err = error(g_);
            if (!std::isfinite(value + err)) return give_up(status::nonfinite, "the dual is not finite");
            if (err <= inner_aim * opt_.tol) return;
            if (out_.nit >= opt_.max_iterations)
                return give_up(status::max_iterations, "the iteration budget is spent");
            direction();
            const double slope = dot(g_, d_);
            double alpha = slope < 0 ? line_search(value, slope) : 0.0;
            out_.history.push_back({-value, err, alpha, seconds()});
            if (monitor_ && monitor_(out_.history.back()))
                return give_up(status::stopped_by_callback, "the callback asked to stop");
            bool flat = alpha == 0;
            if (!flat) {
                advance();
                value = trial_value_;
                past.push_back(value);
                if (past.size() > window) past.pop_front();
                flat = past.size() == window && past.front() - value <= opt_.ftol * range_;
            }
            if (!flat) continue;
            // The memory may be to blame: without it, from here.
            if (restarts == most_restarts) return give_up(status::stagnated, "the dual has stopped rising");
            ++restarts;
            pairs_.clear();
            past.assign(1, value);
        }
    }

    // d = -H g by the two-loop recursion; the first step moves no potential by more than 1 % of the range.
    void direction() {
        for (std::size_t i = 0; i < d_.size(); ++i) d_[i] = -g_[i];
        if (pairs_.empty()) {
            double top = 0;
            for (double v : g_) top = std::max(top, std::abs(v));
            const double step = 0.01 * range_ / std::max(top, std::numeric_limits<double>::min());
            for (double& v : d_) v *= step;
            return;
        }
        std::vector<double> weight(pairs_.size());
        for (std::size_t k = pairs_.size(); k-- > 0;) {
            weight[k] = pairs_[k].rho * dot(pairs_[k].s, d_);
            for (std::size_t i = 0; i < d_.size(); ++i) d_[i] -= weight[k] * pairs_[k].y[i];
        }
        const pair& last = pairs_.back();
        const double scale = 1.0 / (last.rho * dot(last.y, last.y));
        for (double& v : d_) v *= scale;
        for (std::size_t k = 0; k < pairs_.size(); ++k) {
            const double w = weight[k] - pairs_[k].rho * dot(pairs_[k].y, d_);
            for (std::size_t i = 0; i < d_.size(); ++i) d_[i] += w * pairs_[k].s[i];
        }
    }

    // Leaves the accepted point in trial_, trial_g_, trial_value_. 0: no decrease was found.
    double line_search(double value, double slope) {
        double low = 0, high = 0, alpha = 1;
        for (int k = 0; k < most_trials; ++k) {
            for (std::size_t i = 0; i < z_.size(); ++i) trial_[i] = z_[i] + alpha * d_[i];
            trial_value_ = evaluate(trial_, trial_g_);
            if (!(trial_value_ <= value + armijo * alpha * slope) || !(trial_value_ < value)) {
                high = alpha;
            } else if (dot(trial_g_, d_) < curvature * slope) {
                low = alpha;
            } else {
                return alpha;
            }
            if (high > 0 && high - low <= 1e-15 * high) break;
            alpha = high > 0 ? 0.5 * (low + high) : 2 * alpha;
        }
        if (low == 0) return 0;
        for (std::size_t i = 0; i < z_.size(); ++i) trial_[i] = z_[i] + low * d_[i];
        trial_value_ = evaluate(trial_, trial_g_);
        return low;
    }

    void advance() {
        pair next{std::vector<double>(z_.size()), std::vector<double>(z_.size()), 0};
        for (std::size_t i = 0; i < z_.size(); ++i) {
            next.s[i] = z_[i] > -infinity ? trial_[i] - z_[i] : 0.0;  // bins without mass
            next.y[i] = trial_g_[i] - g_[i];
        }
        const double curved = dot(next.s, next.y);
        if (curved > 1e-14 * std::sqrt(dot(next.s, next.s) * dot(next.y, next.y))) {
            next.rho = 1.0 / curved;
            pairs_.push_back(std::move(next));
            if (pairs_.size() > memory) pairs_.pop_front();
        }
        z_.swap(trial_);
        g_.swap(trial_g_);
    }

    // Certificates from the plan that is returned: marginals, cost and squares.
    void finish(vec<const double> x, vec<const double> y) {
        std::vector<double> rows(static_cast<std::size_t>(n_), 0.0);
        const sparse_plan& plan = out_.plan;
        out_.err = 0;
        double value = 0;
        for (index j = 0; j < m_; ++j) {
            double sum = 0;
            for (index e = plan.indptr[j]; e < plan.indptr[j + 1]; ++e) {
                sum += plan.values[e];
                rows[plan.indices[e]] += plan.values[e];
            }
            out_.err += std::abs(b_[j] - sum);
            value += y[j] * (b_[j] - sum);
        }
        for (index i = 0; i < n_; ++i) {
            out_.err += std::abs(a_[i] - rows[i]);
            if (a_[i] > 0) value += x[i] * (a_[i] - rows[i]);
        }
        if (!std::isfinite(out_.err)) {
            give_up(status::nonfinite, "the plan is not finite");
        } else if (out_.err <= opt_.tol && out_.status != status::stopped_by_callback) {
            out_.status = status::converged;
            out_.detail.clear();
        } else if (out_.status == status::converged) {
            give_up(status::stagnated, "the recomputed error is above the tolerance");
        }
        // D = <C, T> + (gamma / 2) |T|^2 + x.(a - T1) + y.(b - T^T 1).
        out_.value = out_.linear + 0.5 * opt_.gamma * out_.square + value;
    }

    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

    B& be_;
    K& k_;
    const double *a_, *b_;
    index n_, m_;
    double range_;
    const topk_options& opt_;
    const topk_monitor& monitor_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    topk_report out_;
    std::deque<pair> pairs_;
    std::vector<double> z_, g_, d_, trial_, trial_g_;
    double trial_value_ = 0;
};

}  // namespace aitken::drivers::ot
