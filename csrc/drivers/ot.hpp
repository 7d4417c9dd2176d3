// Sinkhorn-Newton for entropic optimal transport, written once for every backend.
//
// State. P = diag(u) K diag(v) with K = exp((x + y - C)/eps) kept (or recomputed tile by tile) at the
// base potentials x, y. Scalings absorb every update, so between two rebuilds of K no step needs an
// exponential of size n m: a Sinkhorn iteration, a Newton trial and a product are one sweep over K.
//
// Notation of the comments: r = P1, c = P^T 1, g = (a - r, b - c) the gradient, H = [diag(r) P; P^T diag(c)]
// the scaled Hessian, S = diag(r) - P diag(1/c) P^T its Schur complement in x.
//
// Unbalanced problems (finite rho) put h_a = a exp(-f / rho_a), h_b = b exp(-g / rho_b), f = x - eps log a,
// g = y - eps log b, in the place of a and b: g = (h_a - r, h_b - c), and H gains diag(eps/rho_a h_a,
// eps/rho_b h_b). No direction is then free, so nothing is projected; the plan has no fixed mass. It is kept
// near mass 1 by a factor exp(-log_mass_), and a common shift of x against y is kept apart (`gauge`):
//     x = x_kept + gauge + eps log_mass,  y = y_kept - gauge.
//
// Cost in sweeps (n m entries of K read once): Sinkhorn iteration 1; Newton step 4 + 2 per CG iteration.
// Launches and host reads per step are asserted by csrc/tests/test_ot_counts.cpp.
#pragma once

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/api/ot.hpp"
#include "core/backend.hpp"
#include "core/stop.hpp"
#include "drivers/ot_sparse.hpp"
#include "sparse/pattern.hpp"

namespace aitken::drivers::ot {

using namespace aitken::ot;

// Compaction of the plan: entry (i, j) is kept iff  P_ij row_scale_i col_scale_j  exceeds the smaller (or
// the larger) of the limits of its row and column, or if its row or column would stay empty without it.
struct keep_rule {
    vec<const double> row_scale, col_scale;  // empty: 1
    vec<const double> row_limit, col_limit;
    bool use_max = false;
};

// What stands in the place of the weights in an unbalanced problem. The default is the balanced one.
struct soft_marginals {
    vec<double> row, col;                   // h_a, h_b, for a plan of mass 1
    double row_weight = 0, col_weight = 0;  // eps / rho; 0: h is a (or b) times exp(-log_mass)
    double log_mass = 0;
    vec<double> gauge;     // one number, where the backend computes
    bool singular = true;  // H (1, -1) = 0

    // Soft bins with less mass than this, wanted and had, take no part: entries of K may have been lost.
    static constexpr double least = 1e-30;
};

// The fused passes a backend must bring; drivers/ot.hpp calls nothing else. `rows`/`cols` are vectors of
// length n/m in its memory, s a scalar there; r and c stand for row and column sums of P = diag(u) K diag(v).
// s bytes below: n m sizeof(T), the size of K (of C where K is recomputed).
template <class K>
concept OtKernels =
    requires(K& k, double t, vec<double> rows, vec<double> cols, vec<const double> in_rows,
             vec<const double> in_cols, vec<int> counts, scalar_ref s, const keep_rule& rule, host_csr& csr,
             index count, bool flag, int shift, std::uint64_t prefix, const soft_marginals& soft) {
        // Exponential passes: read C, write K (2 s bytes, n m exp).
        k.exp_pass(t, in_rows, in_cols, rows, cols);  // K at (x, y); r, c
        k.scale_rows_pass(t, rows, in_cols, cols);    // x from y by log-sum-exp, K there; c
        k.log_sum_exp_rows(t, in_cols, flag, rows);   // x from y (K untouched)
        k.log_sum_exp_cols(t, in_rows, flag, cols);   // y from x (K untouched)
        k.cost_of_plan(in_rows, in_cols, s);          // <C, P>
        // Sweeps: read K once (s bytes, 2 or 4 n m flops); schur_product twice.
        k.sinkhorn_sweep(rows, in_cols, rows, cols);                            // r; u = a / (K v); c
        k.row_sums(in_rows, in_cols, rows);                                     // r
        k.col_sums(in_rows, in_cols, cols);                                     // c
        k.schur_product(in_rows, in_cols, in_rows, in_cols, in_rows, rows, s);  // w = S p, s = p.w
        k.schur_rhs(in_rows, in_cols, in_cols, in_cols, rows);                  // q -= P(g_y / c)
        k.schur_columns(in_rows, in_cols, in_rows, in_cols, in_cols, cols);     // d_y = (g_y - P^T d_x) / c
        k.trial(in_rows, in_cols, in_rows, in_cols, rows, cols);                // P q and P^T p
        k.mass_dropped(in_rows, in_cols, in_rows, in_cols, flag, rows);
        k.histogram(rule, in_rows, in_cols, shift, prefix, counts);
        { k.compact(in_rows, in_cols, rule, count, csr) } -> std::same_as<bool>;  // false: more than `count`
        // Vector kernels, O(n + m), fused so that a step costs few launches.
        { k.stored() } -> std::same_as<bool>;  // K is kept, not recomputed
        k.zero_potentials(rows, cols);         // 0, and -inf for bins without mass
        k.mask_potentials(rows, cols);
        k.absorb(t, rows, cols, rows, cols);            // x += eps log u, y += eps log v, u = v = 1
        k.scale_columns(cols, cols, s, s);              // v *= b / c, c = b; columns left alone, max |log v|
        k.row_errors(in_rows, in_rows, rows, s, s, s);  // q = a - r; ||q||_1, max |log(r/a)|, max |log u|
        k.gradient(in_rows, in_cols, rows, cols, s);    // g_x, g_y, ||g||_1
        k.cg_start(rows, in_rows, rows, rows, rows, rows, s, s);
        k.cg_update(s, s, in_rows, in_rows, rows, rows, s);
        k.cg_jacobi(in_rows, in_rows, rows, s);
        k.cg_close(in_rows, rows, s);
        k.cg_direction(s, s, in_rows, rows);
        k.slope(in_rows, in_cols, rows, cols, s, s);
        k.trial_scalings(t, in_rows, in_cols, rows, cols);
        k.trial_sums(t, in_rows, in_cols, in_rows, in_cols, in_rows, in_cols, in_rows, in_cols, s, s, s);
        k.accept(in_rows, in_cols, rows, cols);
        k.mass_limits(t, in_rows, in_cols, rows, cols);
        k.inverse_roots(in_rows, rows);
        k.bisect_start(t, rows, rows);
        k.bisect_step(t, in_rows, shift, rows, rows);
        // Unbalanced problems alone.
        k.soften(soft);  // from here on: marginals, damped scalings, no projection
        { k.row_weights() } -> std::same_as<vec<const double>>;     // a
        { k.col_weights() } -> std::same_as<vec<const double>>;     // b
        k.targets(t, in_rows, in_cols, in_rows, cols, cols, flag);  // h_a, h_b; masses made equal
        k.soft_diagonals(in_rows, in_cols, rows, cols);             // r + eps/rho_a h_a, c + eps/rho_b h_b
    };

namespace detail {

using clock = std::chrono::steady_clock;

inline constexpr int histogram_bits = 13;  // buckets of one selection pass: 2^13
inline constexpr double absorb_limit = 30.0;
inline constexpr int most_lost = 100;  // looks in a row that find sums of NaN or inf
inline constexpr double armijo = 1e-4;
inline constexpr int max_halvings = 40;
// Below this eps / rho, H (1, -1) is 0 to rounding, and the shift that equals masses does its work.
inline constexpr double free_shift = 1e-8;

// log sum exp over values, one of them finite; -inf where none is.
inline double log_sum(const std::vector<double>& z) {
    double peak = -std::numeric_limits<double>::infinity(), sum = 0;
    for (double e : z) peak = std::max(peak, e);
    if (!std::isfinite(peak)) return peak;
    for (double e : z) sum += std::exp(e - peak);
    return peak + std::log(sum);
}

}  // namespace detail

template <Backend B, OtKernels K>
class solver {
public:
    // `range`: largest minus smallest finite cost, the unit of the eps stages.
    solver(B& be, K& kernels, index n, index m, double range, const options& options, const monitor& monitor)
        : be_(be),
          k_(kernels),
          opt_(options),
          monitor_(monitor),
          n_(n),
          m_(m),
          range_(range),
          start_(detail::clock::now()),
          solver_(options.linear_solver),
          stage_start_(options.stage_start),
          stage_factor_(options.stage_factor),
          stage_tol_(options.stage_tol) {
        for (auto* p :
             {&u_, &r_, &gx_, &dx_, &res_, &z_, &p_, &w_, &trial_p_, &trial_r_, &row_limit_, &row_scale_})
            *p = be_.template allocate<double>(n_);
        for (auto* p : {&v_, &c_, &gy_, &dy_, &trial_q_, &trial_c_, &col_limit_, &col_scale_})
            *p = be_.template allocate<double>(m_);
        for (auto* s : {&err_, &gate_, &log_u_, &log_v_, &bad_, &rz_, &rz_new_, &pw_, &res2_, &slope_,
                        &reach_, &drop_, &noise_, &linear_, &start2_})
            *s = be_.scalar();
        if (soft()) {
            soft_.row = be_.template allocate<double>(n_);
            soft_.col = be_.template allocate<double>(m_);
            soft_.gauge = be_.template allocate<double>(1);
            dr_ = be_.template allocate<double>(n_);
            dc_ = be_.template allocate<double>(m_);
            be_.fill(soft_.gauge, 0.0);
        } else {
            dr_ = r_;
            dc_ = c_;
        }
        host_.resize(static_cast<std::size_t>(n_ + m_));
    }

    // Solves from the potentials in x, y (options.warm) or from zero; leaves the solution there, K (the
    // plan) at it, and the recomputed certificate in the report.
    report run(vec<double> x, vec<double> y) {
        x_ = x;
        y_ = y;
        if (opt_.warm)
            k_.mask_potentials(x_, y_);
        else
            k_.zero_potentials(x_, y_);
        be_.fill(gy_, 0.0);
        out_.used = opt_.method == method::automatic ? method::newton : opt_.method;
        out_.used_solver = solver_ == linear_solver::hybrid ? linear_solver::hybrid : linear_solver::jacobi;
        bool solved = opt_.symmetric && !soft() && opt_.method == method::automatic && symmetric(opt_.reg);
        if (solved || out_.status != status::converged) {
            out_.used = method::sinkhorn;
            certify(opt_.reg, solved);
            out_.counts = be_.counts();
            return std::move(out_);
        }
        if (opt_.symmetric && !opt_.warm) k_.zero_potentials(x_, y_);
        switch (out_.used) {
            case method::sinkhorn:
                solved = sinkhorn(opt_.reg, goal(), false);
                break;
            case method::sns:
                solved = sns(opt_.reg);
                break;
            default:
                solved = staged(opt_.reg);
        }
        certify(opt_.reg, solved);
        out_.counts = be_.counts();
        return std::move(out_);
    }

    // H [p; q] = [w; z] at the potentials x, y, with sum(w) = sum(z).
    adjoint_report adjoint(vec<double> x, vec<double> y, vec<const double> w, vec<const double> z,
                           vec<double> p, vec<double> q) {
        x_ = x;
        y_ = y;
        eps_ = opt_.reg;
        k_.mask_potentials(x_, y_);
        reset_scalings();
        k_.exp_pass(opt_.reg, x_, y_, r_, c_);
        if (soft()) {  // at the solution h_a = r, h_b = c
            be_.copy(r_, soft_.row);
            be_.copy(c_, soft_.col);
            soften(opt_.reg);
            k_.soft_diagonals(r_, c_, dr_, dc_);
        }
        be_.copy(w, gx_);
        be_.copy(z, gy_);
        k_.schur_rhs(u_, v_, dc_, gy_, gx_);
        adjoint_report out;
        last_err_ = opt_.tol;
        out.nit_cg = schur_cg(inner_aim * opt_.tol, opt_.max_iterations);
        // The residual is recomputed, since that of the recurrence drifts: res = g_x - S d_x.
        k_.schur_product(u_, v_, dr_, dc_, dx_, w_, pw_);
        be_.copy(gx_, res_);
        k_.cg_update(pw_, pw_, p_, w_, z_, res_, res2_);  // pw / pw: a step of length 1
        const auto [res2, start2] = read(be_, res2_, start2_);
        out.residual = start2 == 0 ? 0.0 : std::sqrt(res2 / start2);
        out.status = out.residual <= opt_.tol            ? status::converged
                     : !std::isfinite(out.residual)      ? status::nonfinite
                     : out.nit_cg >= opt_.max_iterations ? status::max_iterations
                                                         : status::stagnated;
        k_.schur_columns(u_, v_, dx_, dc_, gy_, dy_);
        be_.copy(dx_, p);
        be_.copy(dy_, q);
        return out;
    }

private:
    bool soft() const { return std::isfinite(opt_.rho_a) || std::isfinite(opt_.rho_b); }
    double goal() const { return inner_aim * opt_.tol * unit_; }
    index iterations() const { return out_.nit_sinkhorn + out_.nit_newton; }
    bool out_of_budget() const { return iterations() >= opt_.max_iterations; }

    bool give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
        return false;
    }

    bool note(step_kind kind, double eps, double err, int cg, double alpha, index kept) {
        be_.interrupts().poll();
        if (!opt_.record && !monitor_) return true;
        const double now = std::chrono::duration<double>(detail::clock::now() - start_).count();
        const step line{kind, eps, err, cg, alpha, kept, now};
        if (opt_.record) out_.history.push_back(line);
        if (monitor_ && monitor_(line))
            return give_up(status::stopped_by_callback, "the callback asked to stop");
        return true;
    }

    // --- the state: x, y, K, u, v ---

    void reset_scalings() {
        be_.fill(u_, 1.0);
        be_.fill(v_, 1.0);
    }

    // An exact Sinkhorn iteration from y alone, by log-sum-exp: x, K there, v = b / c. One exp pass.
    void restart(double eps) {
        be_.interrupts().poll();
        if (soft()) return soft_restart(eps, false);
        reset_scalings();
        eps_ = eps;
        k_.scale_rows_pass(eps, x_, y_, c_);
        k_.scale_columns(c_, v_, bad_, log_v_);
        ++out_.n_exp;
        ++out_.nit_sinkhorn;
    }

    // Exp-free Sinkhorn iteration. One sweep.
    void scale() {
        be_.interrupts().poll();
        k_.sinkhorn_sweep(u_, v_, r_, c_);
        k_.scale_columns(c_, v_, bad_, log_v_);
        aim(true);
        ++out_.nit_sinkhorn;
    }

    // Into the potentials, at the eps the scalings belong to.
    void absorb() { k_.absorb(eps_, u_, v_, x_, y_); }

    struct state {
        double err, gate, log_u, log_v, bad;
        bool finite() const { return std::isfinite(err); }
        // Sums of 0 or inf, or scalings so large that entries of K may have been lost.
        bool worn() const {
            return !finite() || bad > 0 || std::isinf(gate) || log_u > detail::absorb_limit ||
                   log_v > detail::absorb_limit;
        }
    };
    state look() {
        const auto [err, gate, log_u, log_v, bad] = read(be_, err_, gate_, log_u_, log_v_, bad_);
        last_err_ = err;
        last_gate_ = gate;
        lost_ = std::isfinite(err) ? 0 : lost_ + 1;
        return {err, gate, log_u, log_v, bad};
    }

    // Exponents beyond all numbers do not come back: the sums stay not finite whatever is rebuilt.
    bool lost() {
        return lost_ >= detail::most_lost && !give_up(status::nonfinite, "sums of the plan are not finite");
    }

    // Moves the scalings into x, y and rebuilds K there; where sums vanished, both updates by log-sum-exp.
    void refresh(double eps, const state& now) {
        absorb();
        const bool vanished = !now.finite() || now.bad > 0 || std::isinf(now.gate);
        if (soft()) return soft_restart(eps, vanished);
        if (vanished) {
            k_.log_sum_exp_cols(eps, x_, true, y_);
            ++out_.n_exp;
        }
        restart(eps);
    }

    // --- unbalanced problems ---

    // Targets of the current potentials. `recentre`, after an update of the columns: also the common shifts
    // of x and of y at which r, c, h_a and h_b have one mass. That is the maximum of the dual along
    // them; columns stay exact.
    void aim(bool recentre) {
        if (soft()) k_.targets(eps_, x_, y_, u_, v_, c_, recentre);
    }

    void soften(double eps) {
        soft_.row_weight = eps / opt_.rho_a;
        soft_.col_weight = eps / opt_.rho_b;
        soft_.log_mass = log_mass_;
        soft_.singular = std::max(soft_.row_weight, soft_.col_weight) < detail::free_shift;
        k_.soften(soft_);
    }

    // The damped iteration from y alone (`from_rows`: y from x before), all of it in logarithms, since masses
    // may be of any size; then the plan is given mass 1. Two exp passes (three).
    void soft_restart(double eps, bool from_rows) {
        constexpr double inf = std::numeric_limits<double>::infinity();
        be_.interrupts().poll();
        if (log_a_.empty()) take_weights();
        double gauge = 0;
        be_.download(vec<const double>(soft_.gauge), &gauge);
        const double wa = eps / opt_.rho_a, wb = eps / opt_.rho_b, q = wa * wb + wa + wb;
        std::vector<double> x(log_a_.size()), y(log_b_.size()), z(log_a_.size(), -inf);
        if (from_rows) {
            k_.log_sum_exp_cols(eps, x_, false, y_);
            ++out_.n_exp;
        }
        be_.download(vec<const double>(y_), y.data());
        const double before = eps_ > 0 ? eps_ : opt_.warm ? eps : 0.0;  // of y; 0 before the first: g = 0
        std::vector<double> h(y.size(), -inf);                          // log h_b
        for (std::size_t j = 0; j < y.size(); ++j) {
            if (log_b_[j] == -inf || !std::isfinite(y[j])) {
                y[j] = -inf;
                continue;
            }
            if (from_rows)
                y[j] = eps * log_b_[j] + ((y[j] - eps * log_mass_) + wb * gauge) / (1 + wb);
            else
                y[j] += (eps - before) * log_b_[j];
            h[j] = log_b_[j] + wb * (log_b_[j] - (y[j] - gauge) / eps);
        }
        // Shifts common to all of y belong to the gauge: they may be far larger than what the plan sees.
        const double cols = detail::log_sum(h);
        double mean = 0;
        for (std::size_t j = 0; j < y.size(); ++j)
            if (h[j] > -inf && std::isfinite(cols)) mean += std::exp(h[j] - cols) * y[j];
        gauge -= mean;
        for (double& e : y) e -= mean;
        be_.upload(y.data(), y_);
        k_.log_sum_exp_rows(eps, y_, false, x_);
        be_.download(vec<const double>(x_), x.data());
        for (std::size_t i = 0; i < x.size(); ++i) {
            const double raw = x[i];  // -eps log of the row sum without x
            x[i] = log_a_[i] > -inf && raw > -inf ? eps * log_a_[i] + (raw - wa * gauge) / (1 + wa) : -inf;
            if (x[i] > -inf) z[i] = (x[i] - raw) / eps;
        }
        const double rows = detail::log_sum(z);  // log mass of the plan and of h_a
        const double apart = cols - rows;        // log mass of h_b, less that
        if (std::isfinite(rows) && std::isfinite(apart)) {
            const double both = apart * wa / q;
            log_mass_ = rows + both;
            gauge -= eps * apart / q;
            for (double& e : y) e += eps * both;
        }
        for (double& e : x) e -= eps * log_mass_;
        be_.upload(x.data(), x_);
        be_.upload(y.data(), y_);
        be_.fill(soft_.gauge, gauge);
        reset_scalings();
        eps_ = eps;
        soften(eps);
        k_.exp_pass(eps, x_, y_, r_, c_);
        aim(false);
        k_.scale_columns(c_, v_, bad_, log_v_);
        aim(true);
        out_.n_exp += 2;
        ++out_.nit_sinkhorn;
    }

    // Logarithms of the weights on the host, -inf for bins without mass.
    void take_weights() {
        log_a_.resize(static_cast<std::size_t>(n_));
        log_b_.resize(static_cast<std::size_t>(m_));
        be_.download(k_.row_weights(), log_a_.data());
        be_.download(k_.col_weights(), log_b_.data());
        for (auto* w : {&log_a_, &log_b_})
            for (double& e : *w) e = e > 0 ? std::log(e) : -std::numeric_limits<double>::infinity();
    }

    // Potentials of the bins that took no part: they follow from the others. Two exp passes, if there are
    // any.
    void extend_negligible() {
        const auto extend = [&](double weight, const std::vector<double>& log_weight, vec<double> target,
                                vec<double> potential, double shift, auto&& transform) {
            if (!(weight > 0)) return;
            std::vector<double> h(log_weight.size()), own(h), raw(h);
            be_.download(vec<const double>(target), h.data());
            const auto left_out = [&](std::size_t i) {
                return log_weight[i] > -std::numeric_limits<double>::infinity() &&
                       h[i] < soft_marginals::least;
            };
            bool any = false;
            for (std::size_t i = 0; i < h.size() && !any; ++i) any = left_out(i);
            if (!any) return;
            be_.download(vec<const double>(potential), own.data());
            transform(raw.data());
            ++out_.n_exp;
            for (std::size_t i = 0; i < h.size(); ++i)
                if (left_out(i) && std::isfinite(raw[i]))
                    own[i] = eps_ * log_weight[i] + (raw[i] + weight * shift) / (1 + weight);
            be_.upload(own.data(), potential);
        };
        double gauge = 0;
        be_.download(vec<const double>(soft_.gauge), &gauge);
        // raw: -eps log sum exp at the kept potentials; less eps log_mass on the side that x does not hold.
        const double unit = eps_ * log_mass_;
        extend(soft_.row_weight, log_a_, soft_.row, x_, -(gauge + unit) - unit / soft_.row_weight,
               [&](double* raw) {
                   k_.log_sum_exp_rows(eps_, y_, false, trial_p_);
                   be_.download(vec<const double>(trial_p_), raw);
               });
        extend(soft_.col_weight, log_b_, soft_.col, y_, gauge - unit / soft_.col_weight, [&](double* raw) {
            k_.log_sum_exp_cols(eps_, x_, false, trial_q_);
            be_.download(vec<const double>(trial_q_), raw);
        });
    }

    // Potentials, kernel and sums of the plan as it is, not of mass 1.
    void restore_mass() {
        extend_negligible();
        const double unit = std::exp(log_mass_);
        out_.mass *= unit;
        out_.linear *= unit;
        be_.download(vec<const double>(soft_.gauge), &out_.gauge);
        if (log_mass_ == 0) return;
        be_.download(vec<const double>(x_), host_.data());
        for (index i = 0; i < n_; ++i) host_[i] += eps_ * log_mass_;
        be_.upload(host_.data(), x_);
        if (!k_.stored()) return;
        k_.exp_pass(eps_, x_, y_, r_, c_);
        ++out_.n_exp;
    }

    // --- Sinkhorn ---

    // Sinkhorn iterations until the row error is at most tol; the columns are exact after each. One sweep
    // and, every check_every iterations, one host read. With `impatient`, also returns (true) as soon as
    // Newton steps are predicted to be cheaper.
    bool sinkhorn(double eps, double tol, bool impatient) {
        double past = std::numeric_limits<double>::infinity();
        index past_at = 0;
        restart(eps);
        for (index it = 1;; ++it) {
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            k_.sinkhorn_sweep(u_, v_, r_, c_);
            const bool check = it % B::check_every == 0;
            if (check) k_.row_errors(r_, u_, gx_, err_, gate_, log_u_);  // of the state before the sweep
            k_.scale_columns(c_, v_, bad_, log_v_);
            aim(true);
            ++out_.nit_sinkhorn;
            if (!check) continue;
            const state now = look();
            if (!note(step_kind::sinkhorn, eps, now.err, 0, 1.0, 0)) return false;
            if (now.err <= tol && now.bad == 0) return true;
            if (lost()) return false;
            if (now.worn() && !out_of_budget()) refresh(eps, now);
            if (impatient && it - past_at >= 5) {
                if (newton_is_cheaper(now.err, past, it - past_at, tol)) return true;
                past = now.err;
                past_at = it;
            }
        }
    }

    // C symmetric and a = b: x = y solves  x = T(x), T the Sinkhorn update, and the averaged x <- (x +
    // T(x))/2 is u <- u sqrt(a / r). Its derivative is half that of 1 - D^-1 P, with eigenvalues in [0, 1/2]
    // where K is positive semi-definite: the error halves whatever eps. False where it does not: another K.
    // One sweep per iteration and the sums of the rows to the host and back.
    bool symmetric(double eps) {
        constexpr index patience = 10;
        if (log_a_.empty()) take_weights();
        std::vector<double> x(log_a_.size()), r(x.size()), u(x.size());
        if (!opt_.warm) {  // exact where K = I
            for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.5 * eps * log_a_[i];
            be_.upload(x.data(), x_);
        } else {
            be_.download(vec<const double>(x_), x.data());
        }
        double past = std::numeric_limits<double>::infinity();
        bool fresh = true;  // K at x, x is still to be made
        for (index it = 0; !out_of_budget(); ++it) {
            if (fresh) {
                be_.upload(x.data(), y_);
                reset_scalings();
                eps_ = eps;
                k_.exp_pass(eps, x_, y_, r_, c_);
                ++out_.n_exp;
                std::fill(u.begin(), u.end(), 1.0);
            } else {
                k_.row_sums(u_, v_, r_);
            }
            ++out_.nit_sinkhorn;
            be_.download(vec<const double>(r_), r.data());
            double err = 0, worn = 0;
            for (std::size_t i = 0; i < x.size(); ++i) {
                if (x[i] == -std::numeric_limits<double>::infinity()) continue;
                const double a = std::exp(log_a_[i]), next = u[i] * std::sqrt(a / r[i]);
                if (!(next > 0 && std::isfinite(next))) return false;
                err += 2.0 * std::fabs(a - r[i]);
                u[i] = next;
                worn = std::max(worn, std::fabs(std::log(next)));
            }
            if (!note(step_kind::sinkhorn, eps, err, 0, 1.0, 0)) return false;
            if (err <= goal()) return true;
            if (it > 0 && it % patience == 0) {
                if (!(err < 0.1 * past)) return false;
                past = err;
            }
            be_.upload(u.data(), u_);
            be_.upload(u.data(), v_);
            fresh = worn > detail::absorb_limit;
            if (fresh) {
                absorb();
                be_.download(vec<const double>(x_), x.data());
            }
        }
        return give_up(status::max_iterations, "the iteration budget is spent");
    }

    // In sweeps: the Sinkhorn iterations left at the measured contraction, against four Newton steps whose
    // CG needs about the square root of that many iterations.
    static bool newton_is_cheaper(double err, double past, index apart, double tol) {
        if (!std::isfinite(past)) return false;
        const double rho = std::pow(err / past, 1.0 / static_cast<double>(apart));
        if (!(rho < 1)) return true;
        const double left = std::log(tol / err) / std::log(rho);
        return left > 4.0 * (4.0 + 2.0 * std::min(60.0, std::sqrt(left)));
    }

    // --- Newton ---

    // Large eps: Sinkhorn for as long as it wins. Else, or then: Newton along decreasing eps, every stage
    // warmed up by a few Sinkhorn iterations and solved to stage_tol, the last to tol.
    bool staged(double target) {
        const bool solved = attempt(target);
        if (!solved && !kept_x_.empty() &&
            (eps_ != target || !(last_err_ <= kept_err_))) {  // the better of two
            be_.upload(kept_x_.data(), x_);
            be_.upload(kept_y_.data(), y_);
            reset_scalings();
            eps_ = target;
        }
        return solved;
    }

    bool attempt(double target) {
        const bool mild = target >= 2e-3 * range_;
        if (opt_.method == method::automatic && (mild || opt_.warm)) {
            if (!sinkhorn(target, goal(), true)) return false;
            if (last_err_ <= goal()) {
                out_.used = method::sinkhorn;
                return true;
            }
            if (opt_.warm || last_gate_ < opt_.gate) {
                if (newton(target, goal())) return true;
                if (!start_over()) return false;
            }
        } else if (opt_.warm) {
            restart(target);
            if (newton(target, goal())) return true;
            if (!start_over()) return false;
        }
        return scaled(target) || (start_over() && scaled(target));
    }

    bool scaled(double target) {
        if (opt_.eps_scaling)
            for (double eps = stage_start_ * range_; eps > target; eps *= stage_factor_) {
                warm_up(eps, opt_.stage_warmup);
                if (!newton(eps, stage_tol_)) return false;
                absorb();  // potentials, not scalings, carry over to another eps
            }
        warm_up(target, opt_.eps_scaling ? opt_.stage_warmup : opt_.warmup);
        return newton(target, goal());
    }

    // A start from which Newton steps lead nowhere is dropped. Once: eps then falls from the range by halves,
    // and every stage is solved, so that an entry that is to grow is never below rounding beside its row.
    // What there was is kept, since it may be all that rounding allows.
    bool start_over() {
        if (out_.status != status::stagnated || !opt_.eps_scaling || started_over_) return false;
        if (soft() && last_err_ < 1e-4) return false;
        if (!soft()) {
            absorb();
            kept_x_.resize(static_cast<std::size_t>(n_));
            kept_y_.resize(static_cast<std::size_t>(m_));
            be_.download(vec<const double>(x_), kept_x_.data());
            be_.download(vec<const double>(y_), kept_y_.data());
            kept_err_ = last_err_;
        }
        out_.status = status::converged;
        out_.detail.clear();
        stage_start_ = 1.0;
        stage_factor_ = 0.5;
        stage_tol_ = std::max(goal(), 1e-12);
        started_over_ = true;
        k_.zero_potentials(x_, y_);
        return true;
    }

    void warm_up(double eps, int count) {
        dense_stage_ = false;
        restart(eps);
        for (int s = 1; s < count; ++s) {
            k_.row_sums(u_, v_, r_);
            k_.row_errors(r_, u_, gx_, err_, gate_, log_u_);
            if (out_of_budget() || (eps > opt_.reg && look().err <= stage_tol_)) return;
            scale();
        }
    }

    // Newton steps at one eps until the row error is at most tol. The columns are exact at every look.
    bool newton(double eps, double tol) {
        int gated = 0;
        double weight = 1;
        stagnation_watch watch;
        for (;;) {
            k_.row_sums(u_, v_, r_);
            k_.row_errors(r_, u_, gx_, err_, gate_, log_u_);
            const state now = look();
            if (now.err <= tol && now.bad == 0) return true;
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            if (lost()) return false;
            if (now.worn()) {
                if (!note(step_kind::sinkhorn, eps, now.err, 0, 1.0, 0)) return false;
                refresh(eps, now);
                continue;
            }
            if (now.gate >= opt_.gate && gated < 40) {  // some bin is far off: only scaling is safe there
                ++gated;
                if (!note(step_kind::sinkhorn, eps, now.err, 0, 1.0, 0)) return false;
                scale();
                continue;
            }
            if (watch.stalled(now.err, weight))
                return give_up(status::stagnated, "20 Newton steps did not reduce the error tenfold");
            kept_ = 0;
            const index cg = direction(now.err);
            const double alpha = line_search(now.err);
            // Damped steps raise the dual without lowering the error yet: they count a tenth.
            weight = alpha > 0 && alpha < 0.5 ? 0.1 : 1.0;
            ++out_.nit_newton;
            out_.nit_cg += cg;
            if (!note(step_kind::newton, eps, now.err, static_cast<int>(cg), alpha, kept_)) return false;
            aim(false);
            scale();  // polish: restores exact columns and every tiny row
            --out_.nit_sinkhorn;
        }
    }

    // (d_x, d_y) with H d ~ (g_x, 0). Returns the CG iterations it took.
    index direction(double err) {
        const double rtol = std::min(0.1, 0.1 * std::sqrt(err));
        index cg = 0;
        if (soft()) k_.soft_diagonals(r_, c_, dr_, dc_);
        if (solver_ == linear_solver::direct && direct(err)) return 0;
        if (sparse_operator(rtol, cg)) return cg;
        if (solver_ == linear_solver::hybrid) renew_factor(err);
        cg = schur_cg(rtol, opt_.cg_max);
        k_.schur_columns(u_, v_, dx_, dc_, gy_, dy_);
        return cg;
    }

    // At small eps nearly all of P is negligible: the plan truncated to the accuracy the step asks for then
    // serves as the operator, and CG costs no sweep. One sweep to truncate; false where too much is left.
    bool sparse_operator(double rtol, index& cg) {
        const double pays = B::sparse_pays * static_cast<double>(n_) * static_cast<double>(m_);
        const index most =
            k_.stored() ? static_cast<index>(pays) : std::min(most_entries(), static_cast<index>(pays));
        if (most == 0 || dense_stage_ || opt_.linear_solver != linear_solver::automatic) return false;
        k_.mass_limits(1e-3 * rtol, r_, c_, row_limit_, col_limit_);
        if (!k_.compact(u_, v_, {{}, {}, row_limit_, col_limit_, false}, most, plan_)) {
            dense_stage_ = true;
            return false;
        }
        note_plan();
        host_.resize(2 * (n_ + m_) + n_);
        double *r = host_.data(), *c = r + n_, *g = c + m_, *dx = g + n_, *dy = dx + n_;
        be_.download(vec<const double>(dr_), r);
        be_.download(vec<const double>(dc_), c);
        be_.download(vec<const double>(gx_), g);
        sparse_schur::settings set;
        set.rtol = rtol;
        set.theta = opt_.theta;
        set.per_row = opt_.per_row;
        set.max_iterations = opt_.cg_max;
        set.jacobi_budget = opt_.jacobi_budget;
        set.most_fill = 12.0 * static_cast<double>(n_ + m_);
        set.most_flops = 40.0 * set.most_fill;
        set.singular = soft_.singular;
        const auto done = sparse_.solve(be_, plan_, r, c, g, set, factor_, dx, dy);
        if (done.factored > 0) note_factor();
        cg = done.iterations;
        be_.upload(dx, dx_);
        be_.upload(dy, dy_);
        return true;
    }

    // Preconditioned CG on S d_x = g_x, S from K. Two sweeps per iteration; a host read every check_every
    // iterations, and with the sparse factor two per iteration, since that is on the host.
    index schur_cg(double rtol, index budget) {
        bool sparse = solver_ == linear_solver::hybrid && factor_.ready();
        k_.cg_start(gx_, dr_, dx_, res_, z_, p_, rz_, start2_);
        const double start2 = read(be_, start2_)[0];
        if (!(start2 > 0)) return 0;
        const double stop2 = rtol * rtol * start2;  // may underflow to 0: then the budget ends the loop
        if (sparse) restart_cg();
        for (index it = 1;; ++it) {
            k_.schur_product(u_, v_, dr_, dc_, p_, w_, pw_);
            k_.cg_update(rz_, pw_, p_, w_, dx_, res_, res2_);
            if (sparse || it % B::check_every == 0 || it >= budget) {
                be_.interrupts().poll();
                const auto [res2, pw] = read(be_, res2_, pw_);
                if (!(res2 > stop2) || !(pw > 0) || it >= budget) return it;
                if (solver_ == linear_solver::automatic && it >= opt_.jacobi_budget) {
                    // Jacobi is too slow on this plan: a sparse factor from here on.
                    solver_ = linear_solver::hybrid;
                    sparse = renew_factor(last_err_);
                    if (sparse) {
                        restart_cg();
                        continue;
                    }
                }
            }
            if (sparse)
                precondition(rz_new_);
            else
                k_.cg_jacobi(res_, dr_, z_, rz_new_);
            k_.cg_direction(rz_new_, rz_, z_, p_);
        }
    }

    // z = (T^{-1} [res; 0])_x on the host; rz = res . z.
    void precondition(scalar_ref rz) {
        be_.download(vec<const double>(res_), host_.data());
        std::fill_n(host_.begin() + n_, m_, 0.0);
        factor_.solve(host_.data());
        be_.upload(host_.data(), z_);
        k_.cg_close(res_, z_, rz);
    }
    void restart_cg() {
        precondition(rz_);
        be_.copy(z_, p_);
    }

    // --- the sparse plan ---

    // The rule of options.sparsify; false where it keeps more than `most` entries.
    bool keep_by_rule(double err, index most) {
        keep_rule rule{{}, {}, row_limit_, col_limit_, false};
        if (opt_.sparsify == sparsify::ssns) {
            ssns_limits(opt_.ssns_nu * err);
            rule.use_max = true;
        } else {
            k_.mass_limits(opt_.theta, r_, c_, row_limit_, col_limit_);
        }
        return k_.compact(u_, v_, rule, most, plan_);
    }

    // SSNS: the largest limits whose dropped mass stays below delta in each column, then in each row of what
    // is left. Bisection of the exponent, no sort: 2 x 12 sweeps.
    void ssns_limits(double delta) {
        constexpr int steps = 12;
        be_.fill(row_limit_, 0.0);
        k_.bisect_start(delta, col_limit_, trial_q_);
        for (int b = 0; b < steps; ++b) {
            k_.mass_dropped(u_, v_, row_limit_, trial_q_, false, trial_c_);
            k_.bisect_step(delta, trial_c_, b, col_limit_, trial_q_);
        }
        k_.bisect_start(delta, row_limit_, trial_p_);
        for (int b = 0; b < steps; ++b) {
            k_.mass_dropped(u_, v_, trial_p_, col_limit_, true, trial_r_);
            k_.bisect_step(delta, trial_r_, b, row_limit_, trial_p_);
        }
    }

    // The `count` largest entries of P_ij row_scale_i col_scale_j (ties with the last included), by radix
    // selection on the bits of the double: 3 sweeps resolve 28 bits of mantissa.
    void keep_largest(index count, vec<const double> row_scale, vec<const double> col_scale) {
        constexpr int bits = detail::histogram_bits;
        keep_rule rule{row_scale, col_scale, row_limit_, col_limit_, false};
        if (histogram_.size == 0) histogram_ = be_.template allocate<int>(index{1} << bits);
        std::vector<int> counts(static_cast<std::size_t>(histogram_.size));
        std::uint64_t prefix = 0;
        int shift = 63 - bits;  // the sign bit is always 0
        for (int pass = 0; pass < 3; ++pass, shift -= bits) {
            k_.histogram(rule, u_, v_, shift, prefix, histogram_);
            be_.download(vec<const int>(histogram_), counts.data());
            index bucket = histogram_.size - 1;
            for (; bucket > 0 && count > counts[bucket]; --bucket) count -= counts[bucket];
            prefix = prefix << bits | static_cast<std::uint64_t>(bucket);
        }
        const double limit = std::nextafter(std::bit_cast<double>(prefix << (shift + bits)), 0.0);
        be_.fill(row_limit_, limit);
        be_.fill(col_limit_, limit);
        k_.compact(u_, v_, rule, n_ * m_, plan_);
    }

    // A factor of the plan truncated by the rule of options.sparsify and thinned to an affordable fill.
    bool renew_factor(double err) {
        if (opt_.sparsify == sparsify::topk || !keep_by_rule(err, most_entries())) {
            k_.inverse_roots(r_, row_scale_);
            k_.inverse_roots(c_, col_scale_);
            keep_largest(static_cast<index>(opt_.per_row * static_cast<double>(n_ + m_)), row_scale_,
                         col_scale_);
        }
        note_plan();
        be_.download(vec<const double>(dr_), host_.data());
        be_.download(vec<const double>(dc_), host_.data() + n_);
        const host_csr thin = thin_for_factor(plan_, host_.data(), host_.data() + n_, 0.0, opt_.per_row,
                                              40.0 * static_cast<double>(n_ + m_), most_flops(), factor_);
        const bool ok =
            factor_.factorise(thin, host_.data(), host_.data() + n_, factor_shift, be_.interrupts());
        note_factor();
        return ok;
    }

    void note_plan() { kept_ = out_.kept = plan_.nnz(); }
    void note_factor() {
        ++out_.n_factor;
        out_.fill = factor_.fill();
        out_.used_solver = solver_ == linear_solver::direct ? linear_solver::direct : linear_solver::hybrid;
    }

    // T d = (g_x, 0) with the truncated plan as it is and a shift that vanishes with the error. False where
    // that is not worth it (too dense, too much fill by the symbolic count): CG then takes the step.
    bool direct(double err) {
        if (opt_.sparsify == sparsify::topk) {
            be_.fill(row_scale_, 1.0);
            be_.fill(col_scale_, 1.0);
            keep_largest(density_count(), row_scale_, col_scale_);
        } else if (!keep_by_rule(err, most_entries())) {
            return false;
        }
        note_plan();
        factor_.count(plan_);
        if (factor_.flops() > most_flops()) return false;
        const double shift = opt_.sparsify == sparsify::ssns ? opt_.ssns_mu * err : 1e-3 * std::min(1.0, err);
        be_.download(vec<const double>(dr_), host_.data());
        be_.download(vec<const double>(dc_), host_.data() + n_);
        const bool ok = factor_.factorise(plan_, host_.data(), host_.data() + n_, shift, be_.interrupts());
        note_factor();
        if (!ok) return false;
        be_.download(vec<const double>(gx_), host_.data());
        be_.download(vec<const double>(gy_), host_.data() + n_);
        factor_.solve(host_.data());
        be_.upload(host_.data(), dx_);
        be_.upload(host_.data() + n_, dy_);
        return true;
    }

    // Where a plan feeds a factor, or K is not stored, it stays O(n + m).
    index most_entries() const { return 64 * (n_ + m_); }

    // A factorisation may cost 20 products with S (80 n m flops), or what 10^8 flops cost if that is more.
    double most_flops() const {
        return std::max(1e8, 80.0 * static_cast<double>(n_) * static_cast<double>(m_));
    }

    index density_count() const {
        const double per_entry =
            opt_.density > 0 ? opt_.density : 8.0 / static_cast<double>(std::min(n_, m_));
        return static_cast<index>(std::ceil(per_entry * static_cast<double>(n_) * static_cast<double>(m_)));
    }

    // --- line search ---

    // Armijo on a difference free of cancellation. With p = expm1(alpha d_x), q = expm1(alpha d_y) the step
    // makes the plan diag(1+p) P diag(1+q), so that with t_ij = alpha (d_x_i + d_y_j)
    //     sum P (expm1(t) - t) = r.(p - alpha d_x) + c.(q - alpha d_y) + p.(P q):
    // one sweep, and no exponential of size n m. Unbalanced: also the rho/eps sum h (expm1(-s) + s), s =
    // eps/rho alpha d, of either side, which is what the targets curve. Below its own rounding the difference
    // says nothing; then the error must not grow. Returns the accepted alpha, 0 for none (the polish is then
    // the step).
    double line_search(double err) {
        k_.slope(gx_, gy_, dx_, dy_, slope_, reach_);
        const auto [slope, reach] = read(be_, slope_, reach_);
        if (!(slope > 0) || !std::isfinite(reach)) return 0.0;
        double alpha = reach > 1.0 ? 1.0 / reach : 1.0;
        for (int halving = 0; halving < detail::max_halvings; ++halving, alpha *= 0.5) {
            ++out_.n_trials;
            k_.trial_scalings(alpha, dx_, dy_, trial_p_, trial_q_);
            k_.trial(u_, v_, trial_p_, trial_q_, trial_r_, trial_c_);
            k_.trial_sums(alpha, r_, c_, dx_, dy_, trial_p_, trial_q_, trial_r_, trial_c_, drop_, noise_,
                          err_);
            const auto [drop, noise, after] = read(be_, drop_, noise_, err_);
            const double allowed = (1.0 - detail::armijo) * alpha * slope;
            if (drop <= allowed || (drop <= allowed + noise && after <= err)) {
                k_.accept(trial_p_, trial_q_, u_, v_);
                return alpha;
            }
        }
        return 0.0;
    }

    // --- SNS as published ---

    // `warmup` Sinkhorn iterations at the target eps, then Newton steps: the Hessian with all but the
    // ceil(density n m) largest plan entries dropped (exact diagonal), plain CG, Armijo. No polish.
    bool sns(double eps) {
        restart(eps);
        while (out_.nit_sinkhorn < opt_.warmup && !out_of_budget()) {
            k_.sinkhorn_sweep(u_, v_, r_, c_);
            k_.row_errors(r_, u_, gx_, err_, gate_, log_u_);
            k_.scale_columns(c_, v_, bad_, log_v_);
            ++out_.nit_sinkhorn;
            const state now = look();
            if (!note(step_kind::sinkhorn, eps, now.err, 0, 1.0, 0)) return false;
            if (now.worn() && !out_of_budget()) refresh(eps, now);
        }
        be_.fill(row_scale_, 1.0);
        be_.fill(col_scale_, 1.0);
        stagnation_watch watch(60);  // its error wanders: rounding alone makes it 19 steps or 57
        double weight = 1;
        for (;;) {
            k_.row_sums(u_, v_, r_);
            k_.col_sums(u_, v_, c_);
            k_.row_errors(r_, u_, gx_, err_, gate_, log_u_);
            k_.gradient(r_, c_, gx_, gy_, err_);
            const state now = look();
            if (!now.finite()) return give_up(status::nonfinite, "a marginal sum is not finite");
            if (now.err <= goal()) return true;
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            if (watch.stalled(now.err, weight))
                return give_up(status::stagnated, "60 Newton steps did not reduce the error tenfold");
            if (now.log_u > detail::absorb_limit) {
                absorb();
                k_.exp_pass(eps, x_, y_, r_, c_);
                ++out_.n_exp;
            }
            keep_largest(density_count(), row_scale_, col_scale_);
            note_plan();
            const index cg = sparse_cg(now.err);
            const double alpha = line_search(now.err);
            ++out_.nit_newton;
            out_.nit_cg += cg;
            if (!note(step_kind::newton, eps, now.err, static_cast<int>(cg), alpha, kept_)) return false;
            if (alpha == 0.0) return give_up(status::stagnated, "the line search found no ascent");
            weight = alpha < 0.5 ? 0.1 : 1.0;
        }
    }

    // Plain CG on [diag(r) Ps; Ps^T diag(c)] d = g, on the host where the sparse plan is. Returns iterations.
    index sparse_cg(double err) {
        const index order = n_ + m_;
        std::vector<index> source;
        const sparse_pattern by_column = transpose(plan_.pattern(), &source);
        std::vector<double> diagonal(order), residual(order), d(order, 0.0), p, w(order);
        be_.download(vec<const double>(r_), diagonal.data());
        be_.download(vec<const double>(c_), diagonal.data() + n_);
        be_.download(vec<const double>(gx_), residual.data());
        be_.download(vec<const double>(gy_), residual.data() + n_);
        const auto dot = [](const std::vector<double>& s, const std::vector<double>& t) {
            double sum = 0;
            for (std::size_t i = 0; i < s.size(); ++i) sum += s[i] * t[i];
            return sum;
        };
        p = residual;
        double rho = dot(residual, residual);
        const double rtol = std::min(1e-2, err);
        const double stop = rtol * rtol * rho;
        index it = 0;
        for (; it < 10 * order && rho > stop; ++it) {
            if (it % 64 == 0) be_.interrupts().poll();
            for (index i = 0; i < n_; ++i) {
                double sum = diagonal[i] * p[i];
                for (index e = plan_.indptr[i]; e < plan_.indptr[i + 1]; ++e)
                    sum += plan_.values[e] * p[n_ + plan_.indices[e]];
                w[i] = sum;
            }
            for (index j = 0; j < m_; ++j) {
                double sum = diagonal[n_ + j] * p[n_ + j];
                for (index e = by_column.indptr[j]; e < by_column.indptr[j + 1]; ++e)
                    sum += plan_.values[source[e]] * p[by_column.indices[e]];
                w[n_ + j] = sum;
            }
            const double pw = dot(p, w);
            if (!(pw > 0)) break;
            const double alpha = rho / pw;
            for (index i = 0; i < order; ++i) {
                d[i] += alpha * p[i];
                residual[i] -= alpha * w[i];
            }
            const double next = dot(residual, residual);
            for (index i = 0; i < order; ++i) p[i] = residual[i] + next / rho * p[i];
            rho = next;
        }
        be_.upload(d.data(), dx_);
        be_.upload(d.data() + n_, dy_);
        return it;
    }

    // --- the end ---

    // K at the absorbed potentials is the plan; its marginal error, recomputed, is the certificate. A solve
    // that thought itself done and is not goes on from there.
    void certify(double eps, bool solved) {
        absorb();
        if (eps_ != eps) {  // stopped inside a stage: its potentials need an exact iteration at the target
            restart(eps);
            --out_.nit_sinkhorn;
        }
        for (int attempt = 0;; ++attempt) {
            absorb();
            k_.exp_pass(eps, x_, y_, r_, c_);
            ++out_.n_exp;
            aim(false);
            k_.gradient(r_, c_, gx_, gy_, err_);
            if (soft()) {
                be_.fill(res_, 1.0);
                be_.dot(res_, r_, pw_);
                const auto [err, mass] = read(be_, err_, pw_);
                unit_ = mass;
                out_.err = err / mass;
            } else {
                out_.err = read(be_, err_)[0];
            }
            if (!solved || out_.err <= opt_.tol) break;
            if (attempt == 2 || out_.used == method::sns) {
                solved =
                    give_up(status::stagnated, "the recomputed marginal error stays above the tolerance");
                break;
            }
            be_.fill(gy_, 0.0);
            k_.scale_columns(c_, v_, bad_, log_v_);
            aim(true);
            if (out_of_budget()) {
                solved = give_up(status::max_iterations, "the iteration budget is spent");
                break;
            }
            solved = out_.used == method::sinkhorn ? sinkhorn(eps, 0.5 * goal(), false)
                                                   : newton(eps, 0.5 * goal());
        }
        if (out_.status != status::stopped_by_callback && out_.err <= opt_.tol) {
            out_.status = status::converged;
            out_.detail.clear();
        }
        be_.fill(res_, 1.0);
        be_.dot(res_, r_, pw_);
        k_.cost_of_plan(u_, v_, linear_);
        const auto [linear, mass] = read(be_, linear_, pw_);
        out_.linear = linear;
        out_.mass = mass;
        if (soft()) restore_mass();
        if (!std::isfinite(out_.err) && out_.status != status::stopped_by_callback)
            give_up(status::nonfinite, "a marginal sum is not finite");
    }

    B& be_;
    K& k_;
    const options& opt_;
    const monitor& monitor_;
    index n_, m_;
    double range_;
    double eps_ = 0;                  // of K and the scalings
    double unit_ = 1, log_mass_ = 0;  // mass of the kept plan; log mass of the plan over it
    soft_marginals soft_;
    std::vector<double> log_a_, log_b_;
    detail::clock::time_point start_;
    linear_solver solver_;
    double stage_start_, stage_factor_, stage_tol_;  // of eps scaling, as it stands
    std::vector<double> kept_x_, kept_y_;            // potentials before a second start, and their error
    double kept_err_ = 0;
    bool started_over_ = false;
    report out_;
    double last_err_ = std::numeric_limits<double>::infinity(), last_gate_ = last_err_;
    int lost_ = 0;  // looks since the last finite error

    vec<double> x_, y_;
    vec<double> u_, r_, gx_, dx_, res_, z_, p_, w_, trial_p_, trial_r_, row_limit_, row_scale_;
    vec<double> v_, c_, gy_, dy_, trial_q_, trial_c_, col_limit_, col_scale_;
    vec<double> dr_, dc_;  // the diagonal of H: r and c where balanced
    vec<int> histogram_;
    scalar_ref err_, gate_, log_u_, log_v_, bad_, rz_, rz_new_, pw_, res2_, start2_, slope_, reach_, drop_,
        noise_, linear_;

    host_csr plan_;
    plan_factor factor_;
    sparse_schur sparse_;
    bool dense_stage_ = false;  // at this eps the plan is too dense for sparse_operator
    index kept_ = 0;
    std::vector<double> host_;
};

}  // namespace aitken::drivers::ot
