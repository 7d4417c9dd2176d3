// One problem of a batch: what happens to its record between the calls of the user's functions. Plain code
// for one thread, on host and device; the KKT systems come between prepare() and finish().
//
// With slacks s for the rows that are no equations, log barriers and mu -> 0:
//   min f - mu sum log gaps(x, s)   subject to   c_i(x) = lower_i  or  c_i(x) - s_i = 0.
// Steps are judged by the exact augmented Lagrangian of this problem, whose eta1 and eta2 follow from the
// test on its slope; where it cuts steps short or finds no descent, a filter takes over until mu changes,
// with second-order corrections and a restoration of feasibility. Problems with barriers begin with the
// filter (measured over 57 small problems: half the evaluations, as many solved). What fails starts again.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/api/optimize_batch.hpp"
#include "core/philox.hpp"
#include "core/status.hpp"
#include "dense/batched_ldlt.hpp"

namespace aitken::drivers::optimize_batch {

namespace api = aitken::optimize;
using api::wanted;

AITKEN_HD double larger(double a, double b) { return a < b ? b : a; }
AITKEN_HD double smaller(double a, double b) { return b < a ? b : a; }
// False for NaN too.
AITKEN_HD bool finite(double v) { return std::fabs(v) <= std::numeric_limits<double>::max(); }

// Numbers of a record after its vectors.
enum number : int {
    scale_f,  // of f
    barrier,  // mu
    eta1,
    eta2,
    shift,  // the last t > 0
    alpha,
    alpha_max,   // what the bounds allow
    alpha_z,     // the same for bound multipliers
    merit,       // at the current point
    slope,       // of the merit function along the step
    objective,   // scaled
    logarithms,  // sum of logs of gaps
    theta,       // ||r||_1
    phi_slope,   // of f - mu logarithms along the step
    theta_low,   // filter: below it f-type steps; above theta_high no point is taken
    theta_high,
    goal,     // restoration: ||r||_1 to get below
    squares,  // restoration: ||r||_2^2 at the current point
    kkt,
    violation,
    value,  // f, unscaled
    numbers
};
enum tag : int {
    status_tag,  // < 0: under way
    phase_tag,
    kind_tag,
    nit_tag,
    nfev_tag,
    nhev_tag,
    filter_tag,     // 1: the filter judges
    entries_tag,    // of the filter
    small_tag,      // steps in a row that the merit function cut short
    still_tag,      // steps in a row that moved nothing
    corrected_tag,  // this step has had its second-order correction
    fallbacks_tag,  // times that the filter or a restoration took over
    restarts_tag,
    tags
};
enum class phase : int { start, line, correction, restore, resume };
enum class kind : int { newton, multipliers, correction, feasibility };

inline constexpr int filter_size = 8;
// Steps that the merit function would cut below this share go to the filter.
inline constexpr double merit_least = 1.0 / 300;
inline constexpr double small_share = 0.03;  // three steps in a row below it: the filter
inline constexpr double theta_growth = 1e2;  // of what the first point of a filter has
inline constexpr double alpha_least = 1e-6, gamma = 1e-5, gap_least = 1e-20, row_relaxation = 1e-8;
inline constexpr int most_restarts = 4, trials_per_iteration = 12;

// Places of vectors in a record.
struct places {
    int n, m;
    AITKEN_HD index x() const { return 0; }
    AITKEN_HD index s() const { return n; }
    AITKEN_HD index lam() const { return s() + m; }
    AITKEN_HD index zl() const { return lam() + m; }
    AITKEN_HD index zu() const { return zl() + n; }
    AITKEN_HD index yl() const { return zu() + n; }
    AITKEN_HD index yu() const { return yl() + m; }
    AITKEN_HD index dx() const { return yu() + m; }  // step
    AITKEN_HD index ds() const { return dx() + n; }
    AITKEN_HD index dlam() const { return ds() + m; }
    AITKEN_HD index px() const { return dlam() + m; }  // correction, or answer of another system
    AITKEN_HD index plam() const { return px() + n; }
    AITKEN_HD index xt() const { return plam() + m; }  // next point
    AITKEN_HD index st() const { return xt() + n; }
    AITKEN_HD index x0() const { return st() + m; }
    AITKEN_HD index scale_c() const { return x0() + n; }
    AITKEN_HD index d() const { return scale_c() + m; }  // the system
    AITKEN_HD index sigma() const { return d() + n; }
    AITKEN_HD index rx() const { return sigma() + m; }
    AITKEN_HD index rc() const { return rx() + n; }
    AITKEN_HD index rs() const { return rc() + m; }
    AITKEN_HD index filter() const { return rs() + m; }
    AITKEN_HD index scalars() const { return filter() + 2 * filter_size; }
    AITKEN_HD index size() const { return scalars() + numbers; }
};

inline api::batch_layout layout(int n, int m) {
    const places p{n, m};
    api::batch_layout l;
    l.n = n;
    l.m = m;
    l.numbers = p.size();
    l.tags = tags;
    l.x = p.x();
    l.lam = p.lam();
    l.z_lo = p.zl();
    l.z_up = p.zu();
    l.fun = p.scalars() + value;
    l.kkt = p.scalars() + kkt;
    l.violation = p.scalars() + violation;
    l.eta1 = p.scalars() + eta1;
    l.eta2 = p.scalars() + eta2;
    l.status = status_tag;
    l.nit = nit_tag;
    l.nfev = nfev_tag;
    l.nhev = nhev_tag;
    l.fallbacks = fallbacks_tag;
    l.restarts = restarts_tag;
    return l;
}

// The user's values at a point; null where there are none.
struct values {
    const double *f = nullptr, *g = nullptr, *c = nullptr, *j = nullptr;
};

class problem {
public:
    AITKEN_HD problem(const api::batch_problems& all, index which, const api::batch_options& options)
        : o_(options),
          p_{all.n, all.m},
          n_(all.n),
          m_(all.m),
          a_(all.numbers + which * p_.size()),
          t_(all.tags + which * tags),
          v_(a_ + p_.scalars()),
          xl_(all.xl + which * all.x_stride),
          xu_(all.xu + which * all.x_stride),
          lo_(all.lower + which * all.c_stride),
          up_(all.upper + which * all.c_stride),
          x_(a_ + p_.x()),
          s_(a_ + p_.s()),
          lam_(a_ + p_.lam()),
          zl_(a_ + p_.zl()),
          zu_(a_ + p_.zu()),
          yl_(a_ + p_.yl()),
          yu_(a_ + p_.yu()),
          dx_(a_ + p_.dx()),
          ds_(a_ + p_.ds()),
          dlam_(a_ + p_.dlam()),
          px_(a_ + p_.px()),
          plam_(a_ + p_.plam()),
          xt_(a_ + p_.xt()),
          st_(a_ + p_.st()),
          sc_(a_ + p_.scale_c()),
          d_(a_ + p_.d()),
          sigma_(a_ + p_.sigma()),
          rx_(a_ + p_.rx()),
          rc_(a_ + p_.rc()),
          rs_(a_ + p_.rs()) {}

    AITKEN_HD void begin(const double* start, const double* lam) const {
        for (index i = 0; i < p_.size(); ++i) a_[i] = 0;
        for (int i = 0; i < tags; ++i) t_[i] = 0;
        t_[status_tag] = -1;
        for (int i = 0; i < n_; ++i) a_[p_.x0() + i] = start[i];
        for (int i = 0; i < m_; ++i) lam_[i] = lam ? lam[i] : 0;  // scaled once the scales are known
        v_[kkt] = v_[violation] = v_[value] = std::numeric_limits<double>::quiet_NaN();
        v_[eta1] = o_.eta1;
        v_[eta2] = o_.eta2;
        go_to_start(0);
    }
    // After the end: multipliers unscaled. u: the values at x, or null where the certificate is of this x.
    AITKEN_HD void conclude(const values* u, int status_of_others) const {
        if (t_[status_tag] < 0) t_[status_tag] = status_of_others;
        if (!(v_[scale_f] > 0)) {  // not even the start could be evaluated
            for (int j = 0; j < n_; ++j) x_[j] = a_[p_.x0() + j];
            v_[scale_f] = 1;
            for (int i = 0; i < m_; ++i) sc_[i] = 1;
        }
        if (u) certify(*u);
        for (int j = 0; j < n_; ++j) {
            zl_[j] /= v_[scale_f];
            zu_[j] /= v_[scale_f];
        }
        for (int i = 0; i < m_; ++i) lam_[i] = multiplier(i);
    }
    AITKEN_HD const double* next_point() const { return xt_; }
    AITKEN_HD const double* point() const { return x_; }
    AITKEN_HD double multiplier(int i) const { return lam_[i] * sc_[i] / v_[scale_f]; }
    AITKEN_HD double f_scale() const { return v_[scale_f]; }
    AITKEN_HD kind pending() const { return static_cast<kind>(t_[kind_tag]); }

    // The values at the next point.
    AITKEN_HD wanted judge(const values& u) const {
        ++t_[nfev_tag];
        const bool good = all_finite(u);
        switch (static_cast<phase>(t_[phase_tag])) {
            case phase::start:
                return good ? started(u) : end(status::nonfinite);
            case phase::line:
                return step_judged(u, good);
            case phase::correction:
                return correction_judged(u, good);
            case phase::restore:
                return restoration_judged(u, good);
            case phase::resume:
                take_residual(u, s_);
                return ask(kind::feasibility);
        }
        return end(status::breakdown);
    }

    // The system that is pending, in terms of dense::kkt_matrix but for h.
    AITKEN_HD void prepare(const values& u) const {
        const kind what = pending();
        const double mu = v_[barrier];
        if (what == kind::newton) {
            gradient_of_lagrangian(u, lam_, rx_);
            for (int j = 0; j < n_; ++j) {
                d_[j] = fixed(j) ? -1 : 0;
                if (has(xl_[j])) {
                    rx_[j] -= mu / gap(x_[j] - xl_[j]);
                    if (!fixed(j)) d_[j] += zl_[j] / gap(x_[j] - xl_[j]);
                }
                if (has(xu_[j])) {
                    rx_[j] += mu / gap(xu_[j] - x_[j]);
                    if (!fixed(j)) d_[j] += zu_[j] / gap(xu_[j] - x_[j]);
                }
                if (fixed(j)) rx_[j] = 0;
            }
            take_residual(u, s_);
            for (int i = 0; i < m_; ++i) {
                rs_[i] = 0;
                sigma_[i] = row_kind(i);
                if (sigma_[i] < 0) continue;
                rs_[i] = -lam_[i];
                if (has(lo_[i])) {
                    rs_[i] -= mu / gap(s_[i] - low(i));
                    sigma_[i] += yl_[i] / gap(s_[i] - low(i));
                }
                if (has(up_[i])) {
                    rs_[i] += mu / gap(high(i) - s_[i]);
                    sigma_[i] += yu_[i] / gap(high(i) - s_[i]);
                }
            }
            return;
        }
        // Multipliers: min ||grad f - zl + zu + J' lam||^2 + ||yl - yu + lam||^2. Otherwise the least step,
        // in the measure of the gaps, that makes the residual at the point vanish to first order.
        const bool estimate = what == kind::multipliers;
        const double* const x = what == kind::correction ? xt_ : x_;
        const double* const s = what == kind::correction ? st_ : s_;
        if (!estimate) take_residual(u, s);
        for (int j = 0; j < n_; ++j) {
            rx_[j] = estimate ? v_[scale_f] * u.g[j] - zl_[j] + zu_[j] : 0;
            d_[j] = fixed(j) ? -1 : estimate ? 1 : 1 / weight(x[j], xl_[j], xu_[j]);
            if (fixed(j)) rx_[j] = 0;
        }
        for (int i = 0; i < m_; ++i) {
            sigma_[i] = row_kind(i);
            rs_[i] = 0;
            if (estimate) rc_[i] = 0;
            if (sigma_[i] < 0) continue;
            sigma_[i] = estimate ? 1 : 1 / weight(s[i], low(i), high(i));
            if (estimate) rs_[i] = yu_[i] - yl_[i];
        }
    }
    AITKEN_HD dense::kkt_matrix matrix(const values& u, const double* h) const {
        return {n_, m_, pending() == kind::newton ? h : nullptr, v_[scale_f], d_, u.j, sc_, sigma_};
    }
    // Of restoration more: where rows depend on each other, its steps must stay short.
    AITKEN_HD double regular() const {
        return pending() == kind::feasibility ? 1e-8 : dense::kkt_shift::first_regular;
    }
    AITKEN_HD const double* rx() const { return rx_; }
    AITKEN_HD const double* rc() const { return rc_; }
    AITKEN_HD const double* rs() const { return rs_; }
    AITKEN_HD double last_shift() const { return v_[shift]; }
    AITKEN_HD double* answer_x() const { return pending() == kind::newton ? dx_ : px_; }
    AITKEN_HD double* answer_lam() const { return pending() == kind::newton ? dlam_ : plam_; }

    // The answer is in place; t: its shift; good: there is one.
    AITKEN_HD wanted finish(const values& u, const double* h, double t, bool good) const {
        switch (pending()) {
            case kind::newton:
                ++t_[nhev_tag];
                return direction_found(u, h, t, good);
            case kind::multipliers:
                return multipliers_found(good);
            case kind::correction:
                return correction_found(good);
            case kind::feasibility:
                return restoration_found(good);
        }
        return end(status::breakdown);
    }

private:
    AITKEN_HD static bool has(double bound) { return finite(bound); }
    AITKEN_HD static double gap(double g) { return g > gap_least ? g : gap_least; }
    AITKEN_HD bool fixed(int j) const { return xl_[j] == xu_[j]; }
    AITKEN_HD double row_kind(int i) const {
        return lo_[i] == up_[i] ? -1 : has(lo_[i]) || has(up_[i]) ? 0 : -2;
    }
    AITKEN_HD bool equation(int i) const { return lo_[i] == up_[i]; }
    AITKEN_HD bool idle(int i) const { return !has(lo_[i]) && !has(up_[i]); }
    // Limits of slacks: scaled, and wider by a share of the tolerance so that they have an inside.
    AITKEN_HD double room(double limit) const {
        return smaller(row_relaxation, 0.1 * o_.constr_tol) * larger(1, std::fabs(limit));
    }
    AITKEN_HD double low(int i) const { return sc_[i] * (lo_[i] - (has(lo_[i]) ? room(lo_[i]) : 0)); }
    AITKEN_HD double high(int i) const { return sc_[i] * (up_[i] + (has(up_[i]) ? room(up_[i]) : 0)); }
    AITKEN_HD static double weight(double at, double lower, double upper) {
        double g = 1;
        if (has(lower)) g = smaller(g, gap(at - lower));
        if (has(upper)) g = smaller(g, gap(upper - at));
        return larger(g * g, 1e-16);
    }
    AITKEN_HD double tau() const { return larger(0.99, 1 - v_[barrier]); }

    AITKEN_HD wanted end(status how) const {
        t_[status_tag] = static_cast<int>(how);
        return wanted::nothing;
    }
    AITKEN_HD wanted ask(kind what) const {
        t_[kind_tag] = static_cast<int>(what);
        return what == kind::newton ? wanted::hessian : wanted::solve;
    }
    AITKEN_HD wanted look(phase what) const {
        t_[phase_tag] = static_cast<int>(what);
        return wanted::trial;
    }

    AITKEN_HD bool all_finite(const values& u) const {
        double sum = std::fabs(u.f[0]);
        for (int i = 0; i < n_; ++i) sum += std::fabs(u.g[i]);
        for (int i = 0; i < m_; ++i) sum += std::fabs(u.c[i]);
        for (int i = 0; i < n_ * m_; ++i) sum += std::fabs(u.j[i]);
        return finite(sum);
    }

    // ---- starts ----

    // Next: the start moved into its bounds. The first restart is from the current point with lam = 0, the
    // second from the first start, two more from points around it.
    AITKEN_HD void go_to_start(int restart) const {
        const philox_stream draw{20230714, 7, 0, static_cast<std::uint32_t>(restart)};
        for (int j = 0; j < n_; ++j) {
            double x = restart == 1 ? x_[j] : a_[p_.x0() + j];
            if (restart > 2) {
                const double far = restart == 3 ? 0.1 : 1;
                x += far * (1 + std::fabs(x)) * (2 * draw.uniform(static_cast<std::uint32_t>(j)) - 1);
            }
            xt_[j] = fixed(j) ? xl_[j] : inside(x, xl_[j], xu_[j]);
        }
        t_[phase_tag] = static_cast<int>(phase::start);
        t_[filter_tag] = t_[entries_tag] = t_[small_tag] = t_[still_tag] = t_[corrected_tag] = 0;
        v_[shift] = 0;
    }
    AITKEN_HD static double inside(double x, double lower, double upper) {
        const double width = upper - lower;
        if (has(lower)) {
            double push = 1e-2 * larger(1, std::fabs(lower));
            if (has(upper)) push = smaller(push, 1e-2 * width);
            x = larger(x, lower + push);
        }
        if (has(upper)) {
            double push = 1e-2 * larger(1, std::fabs(upper));
            if (has(lower)) push = smaller(push, 1e-2 * width);
            x = smaller(x, upper - push);
        }
        return x;
    }
    AITKEN_HD wanted started(const values& u) const {
        const bool first = t_[restarts_tag] == 0;
        if (first) {
            double top = 0;
            for (int j = 0; j < n_; ++j) top = larger(top, std::fabs(u.g[j]));
            v_[scale_f] = top > 100 ? larger(100 / top, 1e-8) : 1;
            for (int i = 0; i < m_; ++i) {
                double most = 0;
                for (int j = 0; j < n_; ++j) most = larger(most, std::fabs(u.j[index{i} * n_ + j]));
                sc_[i] = most > 100 ? larger(100 / most, 1e-8) : 1;
                lam_[i] *= v_[scale_f] / sc_[i];
            }
        }
        const bool estimate = first ? !o_.given_multipliers : t_[restarts_tag] > 1;
        bool limits = false;
        for (int j = 0; j < n_; ++j) limits = limits || (!fixed(j) && (has(xl_[j]) || has(xu_[j])));
        for (int i = 0; i < m_; ++i) limits = limits || (!equation(i) && !idle(i));
        v_[barrier] = limits ? o_.mu : 0;
        v_[eta1] = o_.eta1;
        v_[eta2] = o_.eta2;
        t_[filter_tag] = filter_first();
        for (int j = 0; j < n_; ++j) {
            x_[j] = xt_[j];
            zl_[j] = first_multiplier(x_[j] - xl_[j]);
            zu_[j] = first_multiplier(xu_[j] - x_[j]);
            if (fixed(j)) zl_[j] = zu_[j] = 0;
        }
        for (int i = 0; i < m_; ++i) {
            s_[i] = yl_[i] = yu_[i] = 0;
            if (t_[restarts_tag] > 0) lam_[i] = 0;
            if (equation(i) || idle(i)) continue;
            s_[i] = inside(sc_[i] * u.c[i], low(i), high(i));
            yl_[i] = first_multiplier(s_[i] - low(i));
            yu_[i] = first_multiplier(high(i) - s_[i]);
        }
        v_[theta_low] = -1;
        v_[objective] = v_[scale_f] * u.f[0];
        if (m_ > 0 && estimate) return ask(kind::multipliers);
        return arrived(u);
    }
    AITKEN_HD double first_multiplier(double g) const {
        return finite(g) ? smaller(larger(v_[barrier] / gap(g), 1e-8), 1e3) : 0;
    }
    AITKEN_HD wanted multipliers_found(bool good) const {
        double top = 0;
        for (int i = 0; i < m_; ++i) top = larger(top, std::fabs(plam_[i]));
        if (good && top <= 1e3)
            for (int i = 0; i < m_; ++i) lam_[i] = plam_[i];
        return ask(kind::newton);
    }

    // ---- at an accepted point ----

    AITKEN_HD void gradient_of_lagrangian(const values& u, const double* lam, double* out) const {
        for (int j = 0; j < n_; ++j) out[j] = v_[scale_f] * u.g[j];
        for (int i = 0; i < m_; ++i) {
            const double l = sc_[i] * lam[i];
            const double* const row = u.j + index{i} * n_;
            for (int j = 0; j < n_; ++j) out[j] += l * row[j];
        }
    }
    AITKEN_HD double residual(const values& u, const double* s, int i) const {
        return idle(i) ? 0 : equation(i) ? sc_[i] * (u.c[i] - lo_[i]) : sc_[i] * u.c[i] - s[i];
    }
    AITKEN_HD void take_residual(const values& u, const double* s) const {
        for (int i = 0; i < m_; ++i) rc_[i] = residual(u, s, i);
    }
    // Logs of products, taken before these leave the range: a log is the cost of twenty products.
    struct log_sum {
        double product = 1, sum = 0;
        AITKEN_HD void take(double g) {
            if (!has(g)) return;
            if (g > 1e90) {
                sum += std::log(g);
                return;
            }
            product *= gap(g);
            if (product < 1e-200 || product > 1e200) {
                sum += std::log(product);
                product = 1;
            }
        }
        AITKEN_HD double total() const { return sum + std::log(product); }
    };
    AITKEN_HD double sum_of_logs(const double* x, const double* s) const {
        if (v_[barrier] == 0) return 0;
        log_sum logs;
        for (int j = 0; j < n_; ++j) {
            if (fixed(j)) continue;
            logs.take(x[j] - xl_[j]);
            logs.take(xu_[j] - x[j]);
        }
        for (int i = 0; i < m_; ++i) {
            if (equation(i) || idle(i)) continue;
            logs.take(s[i] - low(i));
            logs.take(high(i) - s[i]);
        }
        return logs.total();
    }

    struct extent {
        double low = std::numeric_limits<double>::infinity(), high = 0;
        AITKEN_HD void take(double product) {
            low = smaller(low, product);
            high = larger(high, product);
        }
        AITKEN_HD double from(double mu) const {
            return high == 0 && low > high ? 0 : larger(high - mu, mu - low);
        }
    };

    // The certificate, all of it unscaled, from the values at x and the multipliers alone: kkt is the largest
    // of |g + J' lam - z_lo + z_up| and of |multiplier| x gap over all bounds and sides of rows, over s_d. A
    // multiplier that presses against a side that is not there is an error of its own size. rx_: grad L,
    // scaled.
    AITKEN_HD void certify(const values& u) const {
        const double inverse = 1 / v_[scale_f];
        gradient_of_lagrangian(u, lam_, rx_);
        double gradient = 0, loose = 0, beyond = 0, total = 0;
        int count = 0;
        for (int j = 0; j < n_; ++j) {
            if (fixed(j)) {
                // Its bound's multiplier is whatever the gradient needs.
                zl_[j] = larger(rx_[j], 0);
                zu_[j] = larger(-rx_[j], 0);
                continue;
            }
            const double error = std::fabs(rx_[j] - zl_[j] + zu_[j]);
            gradient = error <= gradient ? gradient : error;  // NaN stays
            if (has(xl_[j])) {
                loose = larger(loose, zl_[j] * (x_[j] - xl_[j]));
                beyond = larger(beyond, xl_[j] - x_[j]);
                total += zl_[j];
                ++count;
            }
            if (has(xu_[j])) {
                loose = larger(loose, zu_[j] * (xu_[j] - x_[j]));
                beyond = larger(beyond, x_[j] - xu_[j]);
                total += zu_[j];
                ++count;
            }
        }
        gradient *= inverse;
        loose *= inverse;
        total *= inverse;
        for (int i = 0; i < m_; ++i) {
            if (idle(i)) continue;
            const double l = multiplier(i), over = larger(lo_[i] - u.c[i], u.c[i] - up_[i]);
            total += std::fabs(l);
            ++count;
            beyond = over <= beyond ? beyond : over;
            if (equation(i)) continue;
            const double side = l > 0 ? up_[i] - u.c[i] : u.c[i] - lo_[i];
            loose = larger(loose, has(side) ? std::fabs(l * side) : std::fabs(l));
        }
        v_[kkt] = larger(loose, gradient) / (larger(100, total / larger(1, count)) / 100);
        v_[violation] = beyond;
        v_[value] = u.f[0];
    }

    // What comes next: the end, or a step, for which the barrier parameter falls as far as the point allows.
    AITKEN_HD wanted arrived(const values& u) const {
        certify(u);
        v_[objective] = v_[scale_f] * u.f[0];
        if (v_[kkt] <= o_.tol && v_[violation] <= o_.constr_tol) return end(status::converged);
        if (t_[nit_tag] >= o_.maxiter) return end(status::max_iterations);
        if (!(v_[objective] > -1e20)) return end(status::diverged);
        if (v_[barrier] > 0) lower_barrier(u);
        return ask(kind::newton);
    }
    // rx_ holds grad L.
    AITKEN_HD void lower_barrier(const values& u) const {
        double dual = 0, primal = 0, all = 0, of_bounds = 0;
        int rows = 0, bounds = 0;
        extent products;
        const auto bound = [&](double limit, double room_left, double multiplier) {
            if (!has(limit)) return;
            products.take(room_left * multiplier);
            of_bounds += multiplier;
            ++bounds;
        };
        for (int j = 0; j < n_; ++j) {
            if (fixed(j)) continue;
            dual = larger(dual, std::fabs(rx_[j] - zl_[j] + zu_[j]));
            bound(xl_[j], x_[j] - xl_[j], zl_[j]);
            bound(xu_[j], xu_[j] - x_[j], zu_[j]);
        }
        for (int i = 0; i < m_; ++i) {
            if (idle(i)) continue;
            ++rows;
            all += std::fabs(lam_[i]);
            primal = larger(primal, std::fabs(residual(u, s_, i)));
            if (equation(i)) continue;
            dual = larger(dual, std::fabs(-lam_[i] - yl_[i] + yu_[i]));
            bound(lo_[i], s_[i] - low(i), yl_[i]);
            bound(up_[i], high(i) - s_[i], yu_[i]);
        }
        const double share = larger(100, of_bounds / larger(1, bounds)) / 100;
        const double total = larger(100, (all + of_bounds) / larger(1, rows + bounds)) / 100;
        const double least = larger(1e-13, 0.05 * smaller(o_.tol * v_[scale_f], o_.constr_tol));
        while (v_[barrier] > least) {
            const double mu = v_[barrier];
            if (!(larger(larger(dual / total, primal), products.from(mu) / share) <= 10 * mu)) break;
            v_[barrier] = larger(least, smaller(0.2 * mu, mu * std::sqrt(mu)));
            new_barrier();
        }
    }
    // What was learned for the last barrier parameter is void.
    AITKEN_HD void new_barrier() const {
        t_[filter_tag] = filter_first();
        t_[entries_tag] = t_[small_tag] = 0;
        v_[theta_low] = -1;
        v_[eta1] = o_.eta1;
        v_[eta2] = o_.eta2;
    }

    // ---- direction ----

    AITKEN_HD static double longest(double room_left, double change, double share) {
        return change < 0 ? smaller(1, -share * room_left / change) : 1;
    }
    AITKEN_HD wanted direction_found(const values& u, const double* h, double t, bool good) const {
        if (!good) return failed();
        if (t > 0) v_[shift] = t;
        const double mu = v_[barrier], share = tau(), sf = v_[scale_f];
        double a = 1, az = 1, gd = 0, rl = 0, ra = 0, gw = 0, squares_of_all = 0, theta_now = 0, ld = 0;
        double lr = 0, rr = 0, gg = 0;
        for (int i = 0; i < m_; ++i) {
            double jd = 0;
            const double* const row = u.j + index{i} * n_;
            for (int j = 0; j < n_; ++j) jd += row[j] * dx_[j];
            jd *= sc_[i];
            ds_[i] = 0;
            if (idle(i)) continue;
            double w = 0;
            if (!equation(i)) {
                ds_[i] = (dlam_[i] - rs_[i]) / (sigma_[i] + t);
                double primal_curvature = 0;
                if (has(lo_[i])) {
                    const double g = gap(s_[i] - low(i));
                    a = smaller(a, longest(g, ds_[i], share));
                    az = smaller(az, longest(yl_[i], mu / g - yl_[i] - yl_[i] / g * ds_[i], share));
                    primal_curvature += mu / (g * g);
                }
                if (has(up_[i])) {
                    const double g = gap(high(i) - s_[i]);
                    a = smaller(a, longest(g, -ds_[i], share));
                    az = smaller(az, longest(yu_[i], mu / g - yu_[i] + yu_[i] / g * ds_[i], share));
                    primal_curvature += mu / (g * g);
                }
                w = primal_curvature * ds_[i] - dlam_[i];
            }
            gd += rs_[i] * ds_[i];
            gw += rs_[i] * w;
            gg += rs_[i] * rs_[i];
            rl += rc_[i] * dlam_[i];
            ra += rc_[i] * (jd - ds_[i]);
            rr += rc_[i] * rc_[i];
            lr += lam_[i] * rc_[i];
            ld += lam_[i] * (jd - ds_[i]);
            theta_now += std::fabs(rc_[i]);
        }
        for (int j = 0; j < n_; ++j) {
            if (fixed(j)) continue;
            double w = 0;
            const double* const row = h + index{j} * n_;
            for (int k = 0; k < n_; ++k) w += row[k] * dx_[k];
            w *= sf;
            for (int i = 0; i < m_; ++i)
                if (!idle(i)) w += sc_[i] * u.j[index{i} * n_ + j] * dlam_[i];
            if (has(xl_[j])) {
                const double g = gap(x_[j] - xl_[j]);
                a = smaller(a, longest(g, dx_[j], share));
                az = smaller(az, longest(zl_[j], mu / g - zl_[j] - zl_[j] / g * dx_[j], share));
                w += mu / (g * g) * dx_[j];
            }
            if (has(xu_[j])) {
                const double g = gap(xu_[j] - x_[j]);
                a = smaller(a, longest(g, -dx_[j], share));
                az = smaller(az, longest(zu_[j], mu / g - zu_[j] + zu_[j] / g * dx_[j], share));
                w += mu / (g * g) * dx_[j];
            }
            gd += rx_[j] * dx_[j];
            gw += rx_[j] * w;
            gg += rx_[j] * rx_[j];
        }
        squares_of_all = gg + rr;
        v_[alpha] = v_[alpha_max] = a;
        v_[alpha_z] = az;
        v_[theta] = theta_now;
        v_[phi_slope] = gd - ld;
        v_[logarithms] = sum_of_logs(x_, s_);
        t_[corrected_tag] = 0;
        if (v_[theta_low] < 0) {
            v_[theta_low] = 1e-4 * larger(1, theta_now);
            v_[theta_high] = theta_growth * larger(1, theta_now);
        }
        if (t_[filter_tag] == 0) {
            // The test on the slope; all three parts are known, so raising eta1 and lowering eta2 costs
            // nothing.
            const auto slope_of = [&] { return gd + rl + v_[eta1] * ra + v_[eta2] * gw; };
            double along = slope_of();
            for (int k = 0; k < 60 && !(along <= -0.5 * v_[eta2] * squares_of_all); ++k) {
                if (v_[eta1] > 1e8 || v_[eta2] < 1e-8) break;
                v_[eta1] *= o_.nu * o_.nu;
                v_[eta2] /= o_.nu;
                along = slope_of();
            }
            v_[slope] = along;
            v_[merit] = v_[objective] - mu * v_[logarithms] + lr + 0.5 * v_[eta1] * rr + 0.5 * v_[eta2] * gg;
            if (!(along <= -0.5 * v_[eta2] * squares_of_all)) use_filter();
        }
        go_along();
        return look(phase::line);
    }
    // Of starts 1, 2 and 4 the other one.
    AITKEN_HD bool filter_first() const {
        const bool first = o_.judge == api::globalization::filter ||
                           (o_.judge == api::globalization::automatic && v_[barrier] > 0);
        const int k = t_[restarts_tag];
        return first != (k == 1 || k == 2 || k == 4);
    }
    AITKEN_HD void use_filter() const {
        t_[filter_tag] = 1;
        t_[entries_tag] = 0;
        ++t_[fallbacks_tag];
    }
    AITKEN_HD void go_along() const {
        for (int j = 0; j < n_; ++j) xt_[j] = x_[j] + v_[alpha] * dx_[j];
        for (int i = 0; i < m_; ++i) st_[i] = s_[i] + v_[alpha] * ds_[i];
    }

    // ---- line search ----

    AITKEN_HD double merit_at(const values& u) const {
        const double mu = v_[barrier];
        double lr = 0, rr = 0, gg = 0;
        for (int j = 0; j < n_; ++j) px_[j] = v_[scale_f] * u.g[j];
        for (int i = 0; i < m_; ++i) {
            if (idle(i)) continue;
            const double r = residual(u, st_, i), l = lam_[i] + v_[alpha] * dlam_[i];
            const double* const row = u.j + index{i} * n_;
            lr += l * r;
            rr += r * r;
            for (int j = 0; j < n_; ++j) px_[j] += sc_[i] * l * row[j];
            if (equation(i)) continue;
            double e = -l;
            if (has(lo_[i])) e -= mu / gap(st_[i] - low(i));
            if (has(up_[i])) e += mu / gap(high(i) - st_[i]);
            gg += e * e;
        }
        for (int j = 0; j < n_; ++j) {
            if (fixed(j)) continue;
            double e = px_[j];
            if (has(xl_[j])) e -= mu / gap(xt_[j] - xl_[j]);
            if (has(xu_[j])) e += mu / gap(xu_[j] - xt_[j]);
            gg += e * e;
        }
        return v_[scale_f] * u.f[0] - mu * sum_of_logs(xt_, st_) + lr + 0.5 * v_[eta1] * rr +
               0.5 * v_[eta2] * gg;
    }
    AITKEN_HD double theta_at(const values& u) const {
        double sum = 0;
        for (int i = 0; i < m_; ++i) sum += std::fabs(residual(u, st_, i));
        return sum;
    }
    AITKEN_HD double phi_at(const values& u) const {
        return v_[scale_f] * u.f[0] - v_[barrier] * sum_of_logs(xt_, st_);
    }
    AITKEN_HD double phi_now() const { return v_[objective] - v_[barrier] * v_[logarithms]; }

    AITKEN_HD bool passes_filter(double theta_new, double phi_new) const {
        if (!(theta_new <= v_[theta_high])) return false;
        const double* const f = a_ + p_.filter();
        for (int k = 0; k < t_[entries_tag]; ++k)
            if (theta_new >= f[2 * k] && phi_new >= f[2 * k + 1]) return false;
        return true;
    }
    // Points with more of both than this one are out. Of a full filter the entry of the largest theta goes.
    AITKEN_HD void add_to_filter(double theta_now, double phi_value) const {
        double* const f = a_ + p_.filter();
        int k = t_[entries_tag];
        if (k == filter_size) {
            k = 0;
            for (int q = 1; q < filter_size; ++q)
                if (f[2 * q] > f[2 * k]) k = q;
        } else {
            ++t_[entries_tag];
        }
        f[2 * k] = (1 - gamma) * theta_now;
        f[2 * k + 1] = phi_value - gamma * theta_now;
    }
    // As Waechter and Biegler 2006, section 2.3.
    AITKEN_HD bool filter_takes(const values& u, double step) const {
        const double theta_new = theta_at(u), phi_new = phi_at(u), phi = phi_now(), m = v_[phi_slope];
        const double slack = 10 * std::numeric_limits<double>::epsilon() * larger(1, std::fabs(phi));
        if (!finite(theta_new) || !finite(phi_new) || !passes_filter(theta_new, phi_new)) return false;
        const bool f_type =
            m < 0 && v_[theta] <= v_[theta_low] && step * std::pow(-m, 2.3) > std::pow(v_[theta], 1.1);
        if (f_type) return phi_new <= phi + 1e-4 * step * m + slack;
        if (!(theta_new <= (1 - gamma) * v_[theta] || phi_new <= phi - gamma * v_[theta] + slack))
            return false;
        add_to_filter(v_[theta], phi);
        return true;
    }

    AITKEN_HD wanted step_judged(const values& u, bool good) const {
        if (t_[nfev_tag] > trials_per_iteration * (o_.maxiter + 10)) return end(status::max_iterations);
        bool taken = false;
        if (good && t_[filter_tag] == 0) {
            const double m = merit_at(u);
            taken = finite(m) && m <= v_[merit] + v_[alpha] * o_.beta * v_[slope] +
                                          10 * std::numeric_limits<double>::epsilon() * std::fabs(v_[merit]);
        } else if (good) {
            taken = filter_takes(u, v_[alpha]);
        }
        if (taken) return accept(u);
        if (good && t_[filter_tag] == 1 && t_[corrected_tag] == 0 && v_[alpha] == v_[alpha_max] && m_ > 0 &&
            theta_at(u) >= v_[theta]) {
            t_[corrected_tag] = 1;
            return ask(kind::correction);
        }
        return shorten(good);
    }
    AITKEN_HD wanted shorten(bool good) const {
        t_[corrected_tag] = 1;
        v_[alpha] *= 0.5;
        const bool cut =
            good && t_[filter_tag] == 0 && t_[restarts_tag] == 0 && v_[alpha] < merit_least * v_[alpha_max];
        if (cut || v_[alpha] < alpha_least * v_[alpha_max]) {
            if (!good) return failed();
            if (t_[filter_tag] == 0) {
                use_filter();
                t_[corrected_tag] = 0;
                v_[alpha] = v_[alpha_max];
            } else if (m_ > 0 && v_[theta] > 0.01 * o_.constr_tol) {
                return restoration_begins();
            } else {
                return failed();
            }
        }
        go_along();
        return look(phase::line);
    }
    AITKEN_HD wanted correction_found(bool good) const {
        if (!good) return shorten(true);
        double a = 1;
        const double share = tau();
        for (int i = 0; i < m_; ++i) {
            if (equation(i) || idle(i)) continue;
            const double step = plam_[i] / sigma_[i];
            if (has(lo_[i])) a = smaller(a, longest(gap(st_[i] - low(i)), step, share));
            if (has(up_[i])) a = smaller(a, longest(gap(high(i) - st_[i]), -step, share));
        }
        for (int j = 0; j < n_; ++j) {
            if (fixed(j)) continue;
            if (has(xl_[j])) a = smaller(a, longest(gap(xt_[j] - xl_[j]), px_[j], share));
            if (has(xu_[j])) a = smaller(a, longest(gap(xu_[j] - xt_[j]), -px_[j], share));
        }
        for (int j = 0; j < n_; ++j) xt_[j] += a * px_[j];
        for (int i = 0; i < m_; ++i)
            if (!equation(i) && !idle(i)) st_[i] += a * plam_[i] / sigma_[i];
        return look(phase::correction);
    }
    AITKEN_HD wanted correction_judged(const values& u, bool good) const {
        if (good && filter_takes(u, v_[alpha])) return accept(u);
        return shorten(true);
    }

    AITKEN_HD wanted accept(const values& u) const {
        const double mu = v_[barrier], az = v_[alpha_z];
        double moved = 0;
        for (int j = 0; j < n_; ++j) {
            if (!fixed(j)) {
                if (has(xl_[j]))
                    zl_[j] = next_multiplier(zl_[j], x_[j] - xl_[j], xt_[j] - xl_[j], dx_[j], mu, az);
                if (has(xu_[j]))
                    zu_[j] = next_multiplier(zu_[j], xu_[j] - x_[j], xu_[j] - xt_[j], -dx_[j], mu, az);
            }
            moved = larger(moved, std::fabs(xt_[j] - x_[j]) / (1 + std::fabs(x_[j])));
            x_[j] = xt_[j];
        }
        for (int i = 0; i < m_; ++i) {
            if (idle(i)) continue;
            if (!equation(i)) {
                if (has(lo_[i]))
                    yl_[i] = next_multiplier(yl_[i], s_[i] - low(i), st_[i] - low(i), ds_[i], mu, az);
                if (has(up_[i]))
                    yu_[i] = next_multiplier(yu_[i], high(i) - s_[i], high(i) - st_[i], -ds_[i], mu, az);
                s_[i] = st_[i];
            }
            lam_[i] += v_[alpha] * dlam_[i];
        }
        ++t_[nit_tag];
        if (t_[filter_tag] == 0) {
            t_[small_tag] = v_[alpha] < small_share * v_[alpha_max] ? t_[small_tag] + 1 : 0;
            if (t_[small_tag] >= 3) use_filter();
        }
        t_[still_tag] = moved <= 1e-15 ? t_[still_tag] + 1 : 0;
        const wanted next = arrived(u);
        if (next == wanted::hessian && (t_[still_tag] >= 5 || late())) return failed();
        return next;
    }
    // After a step, kept within a factor 1e10 of mu / gap.
    AITKEN_HD static double next_multiplier(double z, double before, double after, double change, double mu,
                                            double step) {
        const double g = gap(before), next = z + step * (mu / g - z - z / g * change),
                     middle = mu / gap(after);
        return larger(smaller(next, 1e10 * middle), 1e-10 * middle);
    }

    // ---- restoration of feasibility ----

    AITKEN_HD wanted restoration_begins() const {
        ++t_[fallbacks_tag];
        add_to_filter(v_[theta], phi_now());
        v_[goal] = 0.9 * v_[theta];
        t_[small_tag] = 0;
        for (int j = 0; j < n_; ++j) xt_[j] = x_[j];
        return look(phase::resume);
    }
    AITKEN_HD wanted restoration_found(bool good) const {
        double top = 0, a = 1, size = 0;
        v_[squares] = 0;
        for (int i = 0; i < m_; ++i) v_[squares] += rc_[i] * rc_[i];
        const double share = 0.995;
        for (int j = 0; j < n_; ++j) {
            dx_[j] = px_[j];
            top = larger(top, std::fabs(dx_[j]));
            size = larger(size, std::fabs(x_[j]));
        }
        for (int i = 0; i < m_; ++i) ds_[i] = equation(i) || idle(i) ? 0 : plam_[i] / sigma_[i];
        if (!good || !(top > 1e-13 * (1 + size))) return failed();
        a = smaller(a, 10 * (1 + size) / top);
        for (int j = 0; j < n_; ++j) {
            if (fixed(j)) continue;
            if (has(xl_[j])) a = smaller(a, longest(gap(x_[j] - xl_[j]), dx_[j], share));
            if (has(xu_[j])) a = smaller(a, longest(gap(xu_[j] - x_[j]), -dx_[j], share));
        }
        for (int i = 0; i < m_; ++i) {
            if (equation(i) || idle(i)) continue;
            if (has(lo_[i])) a = smaller(a, longest(gap(s_[i] - low(i)), ds_[i], share));
            if (has(up_[i])) a = smaller(a, longest(gap(high(i) - s_[i]), -ds_[i], share));
        }
        v_[alpha] = v_[alpha_max] = a;
        go_along();
        return look(phase::restore);
    }
    AITKEN_HD wanted restoration_judged(const values& u, bool good) const {
        double sum = 0, theta_new = 0;
        if (good)
            for (int i = 0; i < m_; ++i) {
                const double r = residual(u, st_, i);
                sum += r * r;
                theta_new += std::fabs(r);
            }
        if (!good || !(sum <= (1 - 1e-4 * v_[alpha]) * v_[squares])) {
            v_[alpha] *= 0.5;
            if (v_[alpha] < alpha_least * v_[alpha_max]) return failed();
            go_along();
            return look(phase::restore);
        }
        t_[small_tag] = sum > 0.999 * v_[squares] ? t_[small_tag] + 1 : 0;
        if (t_[small_tag] >= 5) return failed();  // ||r|| has a stationary point near
        for (int j = 0; j < n_; ++j) x_[j] = xt_[j];
        for (int i = 0; i < m_; ++i) s_[i] = st_[i];
        ++t_[nit_tag];
        v_[objective] = v_[scale_f] * u.f[0];
        if (t_[nit_tag] >= o_.maxiter) return arrived(u);
        const bool near = theta_new <= 0.1 * o_.constr_tol;
        if (theta_new <= v_[goal] && (near || passes_filter(theta_new, phi_at(u)))) {
            if (near) t_[entries_tag] = 0;
            for (int j = 0; j < n_; ++j) {
                if (has(xl_[j]) && !fixed(j)) zl_[j] = first_multiplier(x_[j] - xl_[j]);
                if (has(xu_[j]) && !fixed(j)) zu_[j] = first_multiplier(xu_[j] - x_[j]);
            }
            for (int i = 0; i < m_; ++i) {
                if (equation(i) || idle(i)) continue;
                yl_[i] = first_multiplier(s_[i] - low(i));
                yu_[i] = first_multiplier(high(i) - s_[i]);
            }
            return ask(kind::multipliers);
        }
        take_residual(u, s_);
        return ask(kind::feasibility);
    }

    // ---- failures ----

    // Half of the iterations are for the first start.
    AITKEN_HD bool late() const { return t_[restarts_tag] == 0 && 2 * t_[nit_tag] == o_.maxiter; }

    // Another start, if one is left. lam = 0 here is of no use where feasibility failed, or after a long way.
    AITKEN_HD wanted failed() const {
        const bool infeasible = !(v_[violation] <= o_.constr_tol);
        const auto now = static_cast<phase>(t_[phase_tag]);
        const bool restoring = now == phase::restore || now == phase::resume;
        int next = t_[restarts_tag] + 1;
        if (next == 1 && (restoring || late())) next = 2;
        if (next > most_restarts) return end(infeasible ? status::locally_infeasible : status::stagnated);
        t_[restarts_tag] = next;
        go_to_start(next);
        return wanted::trial;
    }

    const api::batch_options& o_;
    places p_;
    int n_, m_;
    double* a_;
    std::int32_t* t_;
    double* v_;
    const double *xl_, *xu_, *lo_, *up_;
    double *x_, *s_, *lam_, *zl_, *zu_, *yl_, *yu_, *dx_, *ds_, *dlam_, *px_, *plam_, *xt_, *st_, *sc_;
    double *d_, *sigma_, *rx_, *rc_, *rs_;
};

}  // namespace aitken::drivers::optimize_batch
