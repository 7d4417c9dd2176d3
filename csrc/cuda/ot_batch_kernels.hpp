// Batches of transport problems over block programs: core/api/ot_batch.hpp for any backend, so that
// csrc/tests runs it on the CPU. Problems that a block holds are solved by a block each, all of a size class
// in one launch; the others, and those that a block gave up, one after another by drivers/ot.hpp.
//
// Traffic of the former: 1 upload, 1 launch per class that occurs (at most 3), 1 read, however many they are.
// The latter: that of the driver, and up to 11 reads, 8 uploads and 13 launches for input and output.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/api/ot_batch.hpp"
#include "core/backend.hpp"
#include "cuda/ot_kernels.hpp"
#include "cuda/ot_small_blocks.hpp"
#include "drivers/ot.hpp"
#include "drivers/ot_batch_faults.hpp"

namespace aitken::cuda {

// The size classes: up to 32 x 32, 64 x 64 and 110 x 111 entries, longer and narrower ones included. Shared
// memory in float64: 26, 73 and 156 KB.
template <class T>
using small_class_0 = solve_small_problems<T, 64, 1056, 32, 160>;
template <class T>
using small_class_1 = solve_small_problems<T, 256, 4160, 64, 256>;
template <class T>
using small_class_2 = solve_small_problems<T, 512, 12288, 110, 512>;

// NaN for potentials, 0 for the plan of a problem that cannot be solved.
template <class T>
struct refuse_problem {
    double *f, *g;
    matrix<T> plan;
    index n, m;
    AITKEN_HD void operator()(index k) const {
        constexpr double nan = std::numeric_limits<double>::quiet_NaN();
        if (k < n)
            f[k] = nan;
        else if (k < n + m)
            g[k - n] = nan;
        else
            plan.row((k - n - m) / m)[(k - n - m) % m] = T(0);
    }
};

template <class T>
struct shift_costs {
    matrix<const T> from;
    T* to;  // rows without padding
    T by;
    AITKEN_HD void operator()(index k) const { to[k] = from.row(k / from.cols)[k % from.cols] - by; }
};

namespace detail {

namespace faults = drivers::ot::faults;

inline std::string text_of(const small_outcome& o, double reg) {
    switch (static_cast<small_fault>(o.fault)) {
        case small_fault::reg:
            return faults::of_reg(reg);
        case small_fault::weight_a:
            return faults::of_weight("a", o.weight, o.at);
        case small_fault::weight_b:
            return faults::of_weight("b", o.weight, o.at);
        case small_fault::no_mass_a:
            return faults::of_mass("a", o.mass_a);
        case small_fault::no_mass_b:
            return faults::of_mass("b", o.mass_b);
        case small_fault::unequal_masses:
            return faults::of_masses(o.mass_a, o.mass_b);
        case small_fault::nan:
            return faults::has_nan;
        case small_fault::negative_inf:
            return faults::has_negative_inf;
        case small_fault::row_stuck:
            return faults::of_bin("row", o.at);
        case small_fault::column_stuck:
            return faults::of_bin("column", o.at);
        case small_fault::none:
            break;
    }
    switch (static_cast<small_end>(o.end)) {
        case small_end::budget:
            return "the iteration budget is spent";
        case small_end::stalled:
            return "20 Newton steps did not reduce the error tenfold";
        case small_end::certificate:
            return "the recomputed marginal error stays above the tolerance";
        case small_end::not_finite:
            return "a marginal sum is not finite";
        case small_end::handed_over:
        case small_end::none:
            break;
    }
    return "";
}

inline aitken::ot::batch_report report_of(const small_outcome& o, double reg) {
    aitken::ot::batch_report r;
    r.status = static_cast<status>(o.status);
    r.detail = text_of(o, reg);
    r.err = o.err;
    r.linear = o.linear;
    r.mass = o.mass;
    r.value = o.value;
    r.mass_a = o.mass_a;
    r.mass_b = o.mass_b;
    r.range = o.range;
    r.offset = o.offset;
    r.nit_sinkhorn = o.nit_sinkhorn;
    r.nit_newton = o.nit_newton;
    r.nit_cg = o.nit_cg;
    r.n_exp = o.n_exp;
    r.n_trials = o.n_trials;
    r.used = o.newton ? aitken::ot::method::newton : aitken::ot::method::sinkhorn;
    r.used_solver = o.nit_newton > 0 && o.nit_cg == 0 ? aitken::ot::linear_solver::direct
                                                      : aitken::ot::linear_solver::jacobi;
    return r;
}

}  // namespace detail

// `fresh(fn)` calls fn with a backend of its own: a solve takes scalars and memory that only its end gives
// back.
template <class T, class Be, class Fresh>
class batch_solver {
    using problem = aitken::ot::batch_problem<T>;
    using report = aitken::ot::batch_report;

public:
    batch_solver(Be& be, Fresh fresh, const std::vector<problem>& problems,
                 const aitken::ot::options& options, double loose)
        : be_(be), fresh_(std::move(fresh)), all_(problems), opt_(options), loose_(loose) {
        opt_.record = false;
    }

    std::vector<report> run() {
        reports_.resize(all_.size());
        std::vector<index> large = solve_small();
        std::stable_sort(large.begin(), large.end(),
                         [&](index k, index l) { return entries(k) > entries(l); });
        for (index k : large) {
            be_.interrupts().poll();
            reports_[k] = solve_large(all_[k]);
        }
        return std::move(reports_);
    }

private:
    static constexpr double nan = std::numeric_limits<double>::quiet_NaN();

    index entries(index k) const { return all_[k].cost.rows * all_[k].cost.cols; }

    template <class P>
    bool holds(const problem& p) const {
        return sizeof(typename P::shared) <= be_.shared_limit() && P::holds(p.cost.rows, p.cost.cols);
    }
    int class_of(const problem& p) const {
        if (opt_.method == aitken::ot::method::sns) return -1;
        if (holds<small_class_0<T>>(p)) return 0;
        if (holds<small_class_1<T>>(p)) return 1;
        return holds<small_class_2<T>>(p) ? 2 : -1;
    }

    // Returns the problems that are left to the driver.
    std::vector<index> solve_small() {
        std::vector<index> order[3], large;
        for (index k = 0; k < static_cast<index>(all_.size()); ++k) {
            const int c = class_of(all_[k]);
            (c < 0 ? large : order[c]).push_back(k);
        }
        std::vector<small_problem<T>> table;
        for (auto& own : order) {
            // The dearest first: by size, and at equal size by the smaller eps.
            std::stable_sort(own.begin(), own.end(), [&](index k, index l) {
                return entries(k) != entries(l) ? entries(k) > entries(l) : all_[k].reg < all_[l].reg;
            });
            for (index k : own) {
                const problem& p = all_[k];
                table.push_back({p.cost.data, p.a.data, p.b.data, p.f.data, p.g.data, p.plan.data, p.cost.ld,
                                 p.plan.ld, p.reg, static_cast<int>(p.cost.rows),
                                 static_cast<int>(p.cost.cols), static_cast<int>(table.size())});
            }
        }
        if (table.empty()) return large;
        const index count = static_cast<index>(table.size());
        const auto room = be_.template allocate<small_problem<T>>(count);
        const auto outcomes = be_.template allocate<small_outcome>(count);
        be_.upload(static_cast<const small_problem<T>*>(table.data()), room);
        index first[3] = {0, static_cast<index>(order[0].size()), 0};
        first[2] = first[1] + static_cast<index>(order[1].size());
        const auto start = [&]<class P>(std::type_identity<P>, int c) {
            if (order[c].empty()) return;
            P program{};
            program.problems = room.data + first[c];
            program.outcomes = outcomes.data;
            program.set = settings();
            program.count = static_cast<index>(order[c].size());
            be_.launch(program);
        };
        start(std::type_identity<small_class_2<T>>{}, 2);  // the longest solves first
        start(std::type_identity<small_class_1<T>>{}, 1);
        start(std::type_identity<small_class_0<T>>{}, 0);
        std::vector<small_outcome> out(table.size());
        be_.download(vec<const small_outcome>(outcomes), out.data());
        std::size_t at = 0;
        for (const auto& own : order)
            for (index k : own) {
                reports_[k] = detail::report_of(out[at++], all_[k].reg);
                const status s = reports_[k].status;
                if (s == status::stagnated || s == status::nonfinite) large.push_back(k);
            }
        return large;
    }
    small_settings settings() const {
        return {opt_.tol,
                loose_,
                opt_.rho_a,
                opt_.rho_b,
                opt_.stage_factor,
                opt_.stage_start,
                opt_.stage_tol,
                opt_.gate,
                opt_.stage_warmup,
                opt_.warmup,
                opt_.cg_max,
                static_cast<int>(std::min<index>(opt_.max_iterations, std::numeric_limits<int>::max())),
                opt_.method,
                opt_.warm,
                opt_.eps_scaling};
    }

    // --- one problem by the driver ---------------------------------------------------------------

    report solve_large(const problem& p) {
        report out;
        fresh_([&](Be& be) { out = one_problem(be, p, opt_, loose_).solve(); });
        return out;
    }

    class one_problem {
    public:
        one_problem(Be& be, const problem& p, const aitken::ot::options& o, double loose)
            : be_(be),
              p_(p),
              cost_(p.cost),
              opt_(o),
              loose_(loose),
              n_(p.cost.rows),
              m_(p.cost.cols),
              balanced_(!(o.rho_a < infinity || o.rho_b < infinity)) {
            opt_.reg = p.reg;
        }
        report solve() {
            const std::string fault = inspect_input();
            if (fault.empty()) return run();
            out_.status = status::bad_input;
            out_.detail = fault;
            out_.err = out_.linear = out_.mass = out_.value = nan;
            const index entries = p_.plan.data ? n_ * m_ : 0;
            be_.launch(map_pass(refuse_problem<T>{p_.f.data, p_.g.data, p_.plan, n_, m_}, n_ + m_ + entries));
            return std::move(out_);
        }

    private:
        using numbers = std::vector<double>;

        // What makes the problem unsolvable; else the weights are on both sides.
        std::string inspect_input() {
            if (!(p_.reg > 0 && p_.reg < infinity)) return detail::faults::of_reg(p_.reg);
            std::string fault;
            out_.mass_a = take(p_.a, "a", n_, a_, fault);
            out_.mass_b = take(p_.b, "b", m_, b_, fault);
            if (!fault.empty()) return fault;
            if (balanced_ &&
                std::fabs(out_.mass_a - out_.mass_b) > loose_ * std::max(out_.mass_a, out_.mass_b))
                return detail::faults::of_masses(out_.mass_a, out_.mass_b);
            const aitken::ot::cost_facts facts = cuda::inspect(be_, p_.cost);
            if (facts.has_nan) return detail::faults::has_nan;
            if (facts.has_negative_inf) return detail::faults::has_negative_inf;
            out_.range = std::max(0.0, facts.largest - facts.smallest);
            if (opt_.warm) {  // before f and g serve as room
                start_f_ = entropy_form(p_.f, a_);
                start_g_ = entropy_form(p_.g, b_);
            }
            if (facts.has_forbidden) fault = stuck_bins();
            if (fault.empty() && balanced_ && std::fabs(facts.smallest) > far_costs * out_.range)
                take_off(facts.smallest);
            return fault;
        }
        // Solves a shifted copy.
        void take_off(double offset) {
            out_.offset = offset;
            const vec<T> shifted = be_.template allocate<T>(n_ * m_);
            be_.launch(map_pass(shift_costs<T>{p_.cost, shifted.data, static_cast<T>(offset)}, n_ * m_));
            cost_ = {shifted.data, n_, m_, m_};
            if (!opt_.warm) return;
            // A constant of y is free, and as large as the offset it costs digits.
            const double top = *std::max_element(start_g_.begin(), start_g_.end());
            for (double& e : start_g_) e -= top;
        }
        numbers entropy_form(vec<double> potential, const numbers& w) {
            numbers x = get(potential);
            for (std::size_t i = 0; i < x.size(); ++i)
                x[i] = w[i] > 0 ? x[i] + p_.reg * std::log(w[i]) : -infinity;
            return x;
        }
        // The mass, and weights of mass 1 where that is what counts; an earlier fault stays.
        double take(vec<const double> given, const char* name, index size, numbers& w, std::string& fault) {
            w.assign(static_cast<std::size_t>(size), 1.0 / static_cast<double>(size));
            if (!given.data) return 1.0;
            be_.download(given, w.data());
            double mass = 0;
            for (index i = 0; i < size; ++i) {
                if (!(w[i] >= 0 && w[i] < infinity) && fault.empty())
                    fault = detail::faults::of_weight(name, w[i], i);
                mass += w[i];
            }
            if (fault.empty() && !(mass > 0 && mass < infinity)) fault = detail::faults::of_mass(name, mass);
            if (balanced_)
                for (double& e : w) e /= mass;
            return mass;
        }
        vec<double> put(const numbers& host) {
            const vec<double> to = be_.template allocate<double>(static_cast<index>(host.size()));
            be_.upload(static_cast<const double*>(host.data()), to);
            return to;
        }
        numbers get(vec<double> from) {
            numbers host(static_cast<std::size_t>(from.size));
            be_.download(vec<const double>(from), host.data());
            return host;
        }
        ot_kernels<Be, T> passes() { return {be_, aitken::ot::problem<T>{cost_, da_, db_, 0.0, {}}}; }

        // Bins with mass that no bin with mass is in reach of (log-sum-exp over those is -inf): the first of
        // a hard side is a fault; those of a soft side lose their weight, since they send nothing, at a
        // price.
        std::string stuck_bins() {
            const auto reach = [](const numbers& w) {
                numbers z;
                for (double e : w) z.push_back(e > 0 ? 0.0 : -infinity);
                return z;
            };
            ot_kernels<Be, T> kernels = passes();
            kernels.log_sum_exp_rows(1.0, put(reach(b_)), false, p_.f);
            kernels.log_sum_exp_cols(1.0, put(reach(a_)), false, p_.g);
            std::string fault;
            const auto visit = [&](const char* line, double rho, const numbers& reached, numbers& w) {
                for (std::size_t i = 0; i < w.size(); ++i) {
                    if (!(w[i] > 0) || reached[i] > -infinity) continue;
                    if (!(rho < infinity)) {
                        if (fault.empty()) fault = detail::faults::of_bin(line, static_cast<index>(i));
                        continue;
                    }
                    price_ += rho * w[i];
                    w[i] = 0;
                }
            };
            visit("row", opt_.rho_a, get(p_.f), a_);
            visit("column", opt_.rho_b, get(p_.g), b_);
            const auto empty = [](const numbers& w) {
                return std::none_of(w.begin(), w.end(), [](double e) { return e > 0; });
            };
            if (fault.empty() && (empty(a_) || empty(b_))) fault = detail::faults::no_pairs;
            return fault;
        }

        report run() {
            da_ = put(a_);
            db_ = put(b_);
            matrix<T> plan = p_.plan;
            if (!plan.data) plan = {be_.template allocate<T>(n_ * m_).data, n_, m_, m_};
            if (opt_.warm) {
                be_.upload(static_cast<const double*>(start_f_.data()), p_.f);
                be_.upload(static_cast<const double*>(start_g_.data()), p_.g);
            }
            ot_kernels<Be, T> kernels(be_, aitken::ot::problem<T>{cost_, da_, db_, out_.range, plan});
            const aitken::ot::monitor silent;
            static_cast<aitken::ot::report&>(out_) =
                drivers::ot::solver(be_, kernels, n_, m_, out_.range, opt_, silent).run(p_.f, p_.g);
            to_kl_form();
            return std::move(out_);
        }

        // From x, y to f, g in the gauge a.f = b.g where balanced, c-transforms for bins without mass, damped
        // on soft sides; value.
        void to_kl_form() {
            numbers f = get(p_.f), g = get(p_.g);
            const bool empty_a = lacks(a_), empty_b = lacks(b_);
            numbers far_f, far_g;
            if (empty_a || empty_b) {
                ot_kernels<Be, T> kernels = passes();
                const vec<double> x = be_.template allocate<double>(n_),
                                  y = be_.template allocate<double>(m_);
                if (empty_a) {
                    kernels.log_sum_exp_rows(p_.reg, p_.g, false, x);
                    far_f = get(x);
                }
                if (empty_b) {
                    kernels.log_sum_exp_cols(p_.reg, p_.f, false, y);
                    far_g = get(y);
                }
            }
            const double of_a = side(a_, f, far_f, out_.gauge, opt_.rho_a);
            const double of_b = side(b_, g, far_g, -out_.gauge, opt_.rho_b);
            if (balanced_) {
                const double shift = 0.5 * (of_a - of_b), half = 0.5 * out_.offset;
                for (double& e : f) e = e - shift + half;
                for (double& e : g) e = e + shift + half;
            }
            be_.upload(static_cast<const double*>(f.data()), p_.f);
            be_.upload(static_cast<const double*>(g.data()), p_.g);
            const double whole = balanced_ ? 1.0 : out_.mass_a * out_.mass_b;
            out_.value = of_a + of_b + price_ - p_.reg * (out_.mass - whole) + out_.offset;
            out_.linear += out_.offset;
        }
        static bool lacks(const numbers& w) {
            return std::any_of(w.begin(), w.end(), [](double e) { return !(e > 0); });
        }
        // Returns this side's part of the dual value.
        double side(const numbers& w, numbers& q, const numbers& far, double gauge, double rho) const {
            double sum = 0;
            for (std::size_t i = 0; i < w.size(); ++i) {
                if (!(w[i] > 0)) {
                    q[i] = ((far[i] == -infinity ? infinity : far[i]) + gauge) / (1.0 + p_.reg / rho);
                    continue;
                }
                q[i] += gauge - p_.reg * std::log(w[i]);
                sum += rho < infinity ? -rho * w[i] * std::expm1(-q[i] / rho) : w[i] * q[i];
            }
            return sum;
        }

        Be& be_;
        const problem& p_;
        matrix<const T> cost_;  // less the offset
        aitken::ot::options opt_;
        double loose_;
        index n_, m_;
        bool balanced_;
        report out_;
        numbers a_, b_, start_f_, start_g_;
        double price_ = 0;  // of soft bins that no pair reaches
        vec<double> da_, db_;
    };

    Be& be_;
    Fresh fresh_;
    const std::vector<problem>& all_;
    aitken::ot::options opt_;
    double loose_;
    std::vector<report> reports_;
};

template <class T, class Be, class Fresh>
std::vector<aitken::ot::batch_report> solve_batch(Be& be, Fresh fresh,
                                                  const std::vector<aitken::ot::batch_problem<T>>& problems,
                                                  const aitken::ot::options& options, double loose) {
    return batch_solver<T, Be, Fresh>(be, std::move(fresh), problems, options, loose).run();
}

}  // namespace aitken::cuda
