// Regularised semi-smooth Newton for quadratically regularised transport.
//
// State: potentials x, y. The plan P = max(0, x + y - C) / gamma is sparse, so only pairs that are, or soon
// may be, in it are kept: a list of candidates in CSR form, found in one pass over C and good for as long as
// the potentials stay below those it was made for. Everything else here costs O(candidates).
//
// Notation: r = P1, c = P^T 1, g = (a - r, b - c), A the indicator of the plan's entries,
// H = [diag(A1) A; A^T diag(A^T 1)]; a step solves (H + shift) d = gamma g. The shift is needed: the support
// is often disconnected, with a null vector per component.
//
// Cost of a step: the sparse factorisation (or CG), a few sweeps over the candidates (12 bytes and about 6
// flops each), and a pass over C (n m sizeof(T) bytes, 2 n m flops) where the step leaves the candidates.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/api/ot_quadratic.hpp"
#include "core/backend.hpp"
#include "core/stop.hpp"
#include "drivers/ot_sparse.hpp"

namespace aitken::drivers::ot {

using namespace aitken::ot;

// What a backend must bring: all pairs with x_i + y_j > C_ij, values = C_ij; false where there are more than
// `most` (the list is then undefined).
template <class K>
concept SupportKernels =
    requires(K& k, vec<const double> x, vec<const double> y, index most, host_csr& list) {
        { k.gather(x, y, most, list) } -> std::same_as<bool>;
    };

namespace detail {

inline constexpr index list_entries_per_chunk = 16384;
inline constexpr index most_list_chunks = 8;

}  // namespace detail

// fn(chunk, first row, last row) over rows of a list, in parts fixed by its size.
template <Backend B, class F>
index each_list_chunk(B& be, const host_csr& list, F&& fn) {
    const index chunks =
        std::clamp<index>(list.nnz() / detail::list_entries_per_chunk, 1, detail::most_list_chunks);
    be.host_chunks(chunks, [&](index chunk) {
        fn(chunk, list.rows * chunk / chunks, list.rows * (chunk + 1) / chunks);
    });
    return chunks;
}

template <Backend B, SupportKernels K>
class quadratic_solver {
public:
    quadratic_solver(B& be, K& kernels, const double* a, const double* b, index n, index m, double range,
                     const quadratic_options& options, const quadratic_monitor& monitor)
        : be_(be), k_(kernels), a_(a), b_(b), n_(n), m_(m), range_(range), opt_(options), monitor_(monitor) {
        for (auto* v : {&gx_, &dx_, &top_x_, &r_, &count_r_}) v->resize(n_);
        for (auto* v : {&gy_, &dy_, &top_y_, &c_, &count_c_}) v->resize(m_);
        rhs_.resize(n_ + m_);
    }

    // From the potentials in x, y (options.warm) or from nothing; leaves the solution there.
    quadratic_report run(vec<double> x, vec<double> y, const std::vector<double>& column_minima) {
        x_ = x;
        y_ = y;
        double gamma = opt_.gamma;
        if (!opt_.warm) {
            const double first = opt_.stage_start * range_ * static_cast<double>(std::min(n_, m_));
            while (gamma < first) gamma /= opt_.stage_factor;
            for (index i = 0; i < n_; ++i) x_[i] = 0;
        }
        for (index i = 0; i < n_; ++i)
            if (!(a_[i] > 0)) x_[i] = -infinity;
        for (index j = 0; j < m_; ++j)
            if (!(b_[j] > 0)) y_[j] = -infinity;
        if (!opt_.warm) first_columns(gamma, column_minima);
        first_spread_ = spread_of_rows();
        bool solved = true;
        // gamma is a power of the factor away from its target, to rounding.
        for (; solved && gamma > 1.5 * opt_.gamma; gamma *= opt_.stage_factor)
            solved = newton(gamma, opt_.stage_tol);
        if (solved) newton(opt_.gamma, inner_aim * opt_.tol);
        certify();
        return std::move(out_);
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    static constexpr double armijo = 1e-4, flat = 0.3;  // a step ends where the slope is within `flat` of 0
    static constexpr int most_trials = 60;

    bool give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
        return false;
    }

    // y for x = 0: each column's cheapest pairs, enough to carry its mass were they all alike, but no more
    // than fit.
    void first_columns(double gamma, const std::vector<double>& minima) {
        for (double share = 1; share > 1e-9; share *= 0.5) {
            for (index j = 0; j < m_; ++j)
                if (b_[j] > 0) y_[j] = minima[j] + share * gamma * b_[j];
            ++out_.n_pass;
            if (!k_.gather(x_, y_, most_listed(), list_)) continue;
            break;
        }
        list_ = {};
    }

    // --- candidates ---

    index most_listed() const { return std::max({index{1} << 20, 64 * (n_ + m_), 6 * nnz_, n_ * m_ / 16}); }

    // Whether every pair of the plan at (x + alpha dx, y + alpha dy), 0 <= alpha <= reach, is in the list.
    bool covers(double reach) const {
        if (list_.rows == 0) return false;
        double up_x = -infinity, up_y = -infinity;
        for (index i = 0; i < n_; ++i)
            if (a_[i] > 0) up_x = std::max(up_x, x_[i] + std::max(0.0, reach * dx_[i]) - top_x_[i]);
        for (index j = 0; j < m_; ++j)
            if (b_[j] > 0) up_y = std::max(up_y, y_[j] + std::max(0.0, reach * dy_[j]) - top_y_[j]);
        return up_x + up_y <= 0;
    }

    // Makes the list cover steps up to `reach`, or as far as memory allows: returns how far.
    double cover(double reach) {
        if (covers(reach)) return reach;
        const index most = most_listed();
        for (int halved = 0; halved < 60; ++halved, reach *= 0.5) {
            // Room to move on, so that the next small steps need no pass.
            const double margin = halved == 0 ? margin_ : 0.0;
            for (index i = 0; i < n_; ++i) top_x_[i] = x_[i] + std::max(0.0, reach * dx_[i]);
            for (index j = 0; j < m_; ++j) top_y_[j] = y_[j] + std::max(0.0, reach * dy_[j]) + margin;
            ++out_.n_pass;
            be_.interrupts().poll();
            if (k_.gather({top_x_.data(), n_}, {top_y_.data(), m_}, most, list_)) {
                // Half as many candidates again as there are entries is what the margin aims at.
                margin_ *= list_.nnz() > 3 * nnz_ + n_ + m_ ? 0.5 : list_.nnz() < 2 * nnz_ ? 2.0 : 1.0;
                return reach;
            }
        }
        list_ = {};
        return 0;
    }

    // --- the plan on the list ---

    // r, c, g, the counts of entries, and the L1 error.
    double look(double gamma) {
        const double inverse = 1.0 / gamma;
        part_.assign(static_cast<std::size_t>(2 * detail::most_list_chunks * m_), 0.0);
        const index chunks = each_list_chunk(be_, list_, [&](index chunk, index first, index last) {
            double* sums = part_.data() + 2 * chunk * m_;
            double* counts = sums + m_;
            for (index i = first; i < last; ++i) {
                double sum = 0, count = 0;
                for (index e = list_.indptr[i]; e < list_.indptr[i + 1]; ++e) {
                    const std::int32_t j = list_.indices[e];
                    const double s = x_[i] + y_[j] - list_.values[e];
                    if (!(s > 0)) continue;
                    sum += s * inverse;
                    count += 1;
                    sums[j] += s * inverse;
                    counts[j] += 1;
                }
                r_[i] = sum;
                count_r_[i] = count;
            }
        });
        double err = 0;
        nnz_ = 0;
        for (index i = 0; i < n_; ++i) {
            gx_[i] = a_[i] - r_[i];
            err += std::abs(gx_[i]);
            nnz_ += static_cast<index>(count_r_[i]);
        }
        for (index j = 0; j < m_; ++j) {
            c_[j] = count_c_[j] = 0;
            for (index k = 0; k < chunks; ++k) {
                c_[j] += part_[2 * k * m_ + j];
                count_c_[j] += part_[(2 * k + 1) * m_ + j];
            }
            gy_[j] = b_[j] - c_[j];
            err += std::abs(gy_[j]);
        }
        return err;
    }

    struct trial_result {
        double slope;   // of the dual along d, at alpha
        double defect;  // alpha slope(0) - [f(z + alpha d) - f(z)], a sum of non-negative terms
    };

    // Free of cancellation: of each pair only what its own bend takes off is added up.
    trial_result trial(double gamma, double alpha, double slope) {
        double slopes[detail::most_list_chunks] = {}, defects[detail::most_list_chunks] = {};
        const index chunks = each_list_chunk(be_, list_, [&](index chunk, index first, index last) {
            double fall = 0, bend = 0;
            for (index i = first; i < last; ++i)
                for (index e = list_.indptr[i]; e < list_.indptr[i + 1]; ++e) {
                    const std::int32_t j = list_.indices[e];
                    const double s = x_[i] + y_[j] - list_.values[e];
                    const double rate = dx_[i] + dy_[j], t = alpha * rate, after = s + t;
                    if (s > 0) {
                        if (after > 0) {
                            fall += t * rate;
                            bend += t * t;
                        } else {
                            fall -= s * rate;
                            bend -= s * (s + 2 * t);
                        }
                    } else if (after > 0) {
                        fall += after * rate;
                        bend += after * after;
                    }
                }
            slopes[chunk] = fall;
            defects[chunk] = bend;
        });
        trial_result out{slope, 0};
        for (index k = 0; k < chunks; ++k) {
            out.slope -= slopes[k] / gamma;
            out.defect += 0.5 * defects[k] / gamma;
        }
        ++out_.n_trials;
        return out;
    }

    // A step length at which the dual has risen and its slope is near 0: regula falsi on the slope, which
    // falls with alpha and is piecewise linear. 0: none found.
    double line_search(double gamma, double slope, double reach) {
        double low = 0, low_slope = slope, high = 0, high_slope = 0, best = 0;
        double alpha = reach;
        for (int k = 0; k < most_trials; ++k) {
            const trial_result t = trial(gamma, alpha, slope);
            const bool rises = t.defect <= (1 - armijo) * alpha * slope;
            if (rises &&
                (t.slope >= 0 ? t.slope <= flat * slope || alpha == reach : -t.slope <= flat * slope))
                return alpha;
            if (rises && t.slope > 0) {
                low = best = alpha;
                low_slope = t.slope;
            } else {
                high = alpha;
                high_slope = std::min(t.slope, 0.0);
                if (rises) best = alpha;
            }
            const double width = high - low;
            double share = low_slope / (low_slope - high_slope);  // of the secant's root
            if (k % 3 == 2) share = 0.5;                          // one end may stay put for long
            alpha = low + width * std::clamp(share, 0.02, 0.98);
            if (width <= 1e-14 * high) break;
        }
        return best;
    }

    // --- directions ---

    // (H + shift) d = gamma g: by LDL^T where its flops are few, else by CG on the Schur complement.
    bool direction(double gamma, double err) {
        const double shift = opt_.shift * std::min(1.0, err);
        support_.rows = n_;
        support_.cols = m_;
        support_.indptr.assign(1, 0);
        support_.indices.clear();
        for (index i = 0; i < n_; ++i) {
            for (index e = list_.indptr[i]; e < list_.indptr[i + 1]; ++e)
                if (x_[i] + y_[list_.indices[e]] - list_.values[e] > 0)
                    support_.indices.push_back(list_.indices[e]);
            support_.indptr.push_back(support_.nnz());
        }
        support_.values.assign(support_.indices.size(), 1.0);
        for (index i = 0; i < n_; ++i) count_r_[i] += shift;
        for (index j = 0; j < m_; ++j) count_c_[j] += shift;
        cg_ = 0;
        const double nnz = static_cast<double>(support_.nnz() + n_ + m_);
        if (support_.nnz() <= densest_factor * (n_ + m_)) {
            factor_.count(support_);
            if (factor_.flops() <= factor_budget * nnz &&
                factor_.factorise(support_, count_r_.data(), count_c_.data(), 0.0, be_.interrupts())) {
                ++out_.n_factor;
                std::transform(gx_.begin(), gx_.end(), rhs_.begin(), [&](double g) { return gamma * g; });
                std::transform(gy_.begin(), gy_.end(), rhs_.begin() + n_,
                               [&](double g) { return gamma * g; });
                factor_.solve(rhs_.data());
                std::copy_n(rhs_.begin(), n_, dx_.begin());
                std::copy_n(rhs_.begin() + n_, m_, dy_.begin());
                return finish_direction();
            }
        }
        // d_x of the Schur complement's system, then d_y = (gamma g_y - A^T d_x) / c.
        for (index j = 0; j < m_; ++j) dy_[j] = gamma * gy_[j] / count_c_[j];
        for (index i = 0; i < n_; ++i) {
            double sum = 0;
            for (index e = support_.indptr[i]; e < support_.indptr[i + 1]; ++e)
                sum += dy_[support_.indices[e]];
            rhs_[i] = gamma * gx_[i] - sum;
        }
        sparse_schur::settings set;
        set.rtol = std::clamp(0.1 * err, 1e-10, 1e-2);
        set.most_fill = 40.0 * static_cast<double>(n_ + m_);
        set.most_flops = factor_budget * nnz;
        set.max_iterations = 1000;
        set.singular = false;
        preconditioner_.reset();
        rest_.resize(m_);
        const auto solved = schur_.solve(be_, support_, count_r_.data(), count_c_.data(), rhs_.data(), set,
                                         preconditioner_, dx_.data(), rest_.data());
        cg_ = solved.iterations;
        out_.nit_cg += cg_;
        out_.n_factor += solved.factored;
        for (index j = 0; j < m_; ++j) dy_[j] += rest_[j];
        return finish_direction();
    }

    // Bins without mass stay where they are. False where the numbers are of no use.
    bool finish_direction() {
        double sum = 0;
        for (index i = 0; i < n_; ++i) sum += dx_[i] = a_[i] > 0 ? dx_[i] : 0.0;
        for (index j = 0; j < m_; ++j) sum += dy_[j] = b_[j] > 0 ? dy_[j] : 0.0;
        return std::isfinite(sum);
    }

    // --- Newton ---

    bool newton(double gamma, double tol) {
        stagnation_watch watch(40, 2.0);
        std::fill(dx_.begin(), dx_.end(), 0.0);
        std::fill(dy_.begin(), dy_.end(), 0.0);
        margin_ = margin_ > 0 ? margin_ : 0.1 * gamma / static_cast<double>(std::max(n_, m_));
        if (cover(1.0) == 0) return give_up(status::breakdown, "the plan does not fit in memory");
        for (;;) {
            const double err = look(gamma);
            if (!std::isfinite(err)) return give_up(status::nonfinite, "the potentials are not finite");
            be_.interrupts().poll();
            if (err <= tol) return true;
            if (out_.nit >= opt_.max_iterations)
                return give_up(status::max_iterations, "the iteration budget is spent");
            if (watch.stalled(err)) return give_up(status::stagnated, "the error did not halve in 40 steps");
            if (unbounded(gamma))
                return give_up(status::diverged,
                               "the potentials grow without bound: no plan with these weights avoids the "
                               "forbidden pairs");
            if (!direction(gamma, err)) return give_up(status::breakdown, "the Newton system was singular");
            double slope = 0, up_x = 0, up_y = 0;
            for (index i = 0; i < n_; ++i) slope += gx_[i] * dx_[i], up_x = std::max(up_x, dx_[i]);
            for (index j = 0; j < m_; ++j) slope += gy_[j] * dy_[j], up_y = std::max(up_y, dy_[j]);
            if (!(slope > 0)) return give_up(status::stagnated, "no direction of ascent is left");
            // At first steps may be far longer than the cost is wide; nothing is learned beyond that.
            const double wide = 2 * (range_ + gamma * heaviest());
            const double reach = cover(up_x + up_y > wide ? wide / (up_x + up_y) : 1.0);
            const double alpha = reach > 0 ? line_search(gamma, slope, reach) : 0.0;
            out_.history.push_back({gamma, err, cg_, nnz_, alpha, seconds()});
            ++out_.nit;
            if (!(alpha > 0)) return give_up(status::stagnated, "no step length raises the dual");
            for (index i = 0; i < n_; ++i) x_[i] += alpha * dx_[i];
            for (index j = 0; j < m_; ++j) y_[j] += alpha * dy_[j];
            if (monitor_ && monitor_(out_.history.back()))
                return give_up(status::stopped_by_callback, "the callback asked to stop");
        }
    }

    double heaviest() const {
        return std::max(*std::max_element(a_, a_ + n_), *std::max_element(b_, b_ + m_));
    }

    // Feasible problems have optimal potentials within (n + m) (range + gamma max P) of each other; a start
    // may be anywhere.
    bool unbounded(double gamma) const {
        const double most = 4.0 * static_cast<double>(n_ + m_) * (range_ + gamma * heaviest());
        return spread_of_rows() > std::max(most, 2.0 * first_spread_);
    }
    double spread_of_rows() const {
        double lo = infinity, hi = -infinity;
        for (index i = 0; i < n_; ++i)
            if (a_[i] > 0) lo = std::min(lo, x_[i]), hi = std::max(hi, x_[i]);
        return hi - lo;
    }

    // The plan and its error from the potentials alone, by a pass of its own.
    void certify() {
        ++out_.n_pass;
        k_.gather(x_, y_, n_ * m_, list_);
        out_.err = look(opt_.gamma);
        sparse_plan& plan = out_.plan;
        plan.indptr.assign(1, 0);
        const double inverse = 1.0 / opt_.gamma;
        for (index i = 0; i < n_; ++i) {
            for (index e = list_.indptr[i]; e < list_.indptr[i + 1]; ++e) {
                const double p = (x_[i] + y_[list_.indices[e]] - list_.values[e]) * inverse;
                if (!(p > 0)) continue;
                plan.indices.push_back(list_.indices[e]);
                plan.values.push_back(p);
                out_.linear += p * list_.values[e];
                out_.square += p * p;
            }
            plan.indptr.push_back(static_cast<index>(plan.indices.size()));
        }
        if (!std::isfinite(out_.err)) {
            if (out_.status == status::converged) give_up(status::nonfinite, "the plan is not finite");
        } else if (out_.err <= opt_.tol && out_.status != status::stopped_by_callback) {
            out_.status = status::converged;
            out_.detail.clear();
        } else if (out_.status == status::converged) {
            give_up(status::stagnated, "the recomputed error is above the tolerance");
        }
    }

    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

    static constexpr index densest_factor = 24;    // entries per row and column; beyond, no fill is counted
    static constexpr double factor_budget = 4000;  // flops of a factor / entries: about 300 CG iterations

    B& be_;
    K& k_;
    const double *a_, *b_;
    index n_, m_;
    double range_;
    const quadratic_options& opt_;
    const quadratic_monitor& monitor_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    quadratic_report out_;
    vec<double> x_, y_;
    std::vector<double> gx_, gy_, dx_, dy_, r_, c_, count_r_, count_c_, rhs_, rest_, part_;
    std::vector<double> top_x_, top_y_;  // the list has every pair with top_x + top_y > C
    host_csr list_, support_;            // values of the list: costs
    double margin_ = 0, first_spread_ = 0;
    index nnz_ = 0, cg_ = 0;
    plan_factor factor_, preconditioner_;
    sparse_schur schur_;
};

}  // namespace aitken::drivers::ot
