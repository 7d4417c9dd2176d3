// Whole small transport problems, a block each, from the cost to the certificate: the algorithm of
// drivers/ot.hpp with the kernel in shared memory. Notation is that of the driver.
//
// Rows are the shorter side. A sweep over K is two rounds: threads take a part of a row (lanes along rows, an
// odd row length, so no bank conflicts) or of a column, then one adds a line's parts and acts on the sum. The
// Newton system of up to Dense rows is the Schur complement S = diag(r) - P diag(1/c) P^T, a graph Laplacian:
// it is eliminated without a subtraction (pivots are sums of what is left of a row), so supports that all but
// fall apart at small eps cost no accuracy. More rows: CG with the diagonal as preconditioner.
//
// Bytes: C is read from device memory once per exponential pass and twice at the ends, the plan written once
// where it is wanted; all else stays on the multiprocessor. Rounds, each a barrier: a Sinkhorn iteration 4
// and 4 n m flops (2 rounds more at every fourth, which looks at the error), a Newton step 2 n + 16, n^2 m +
// n^3 / 3
// + 10 n m flops and 3 rounds more for each halving; by CG 9 rounds and 4 n m flops per iteration instead of
// 2 n.
//
// Unbalanced sides (rho < infinity) follow targets h = a exp(-f / rho) in place of a. Their bins that no pair
// reaches are the driver's: such a problem is handed over as it came.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/api/ot_batch.hpp"
#include "core/status.hpp"
#include "core/stop.hpp"
#include "cuda/ot_blocks.hpp"
#include "cuda/program.hpp"

namespace aitken::cuda {

// One problem in device memory, as core/api/ot_batch.hpp has it; null weights are uniform, a null plan is not
// wanted.
template <class T>
struct small_problem {
    const T* cost;
    const double *a, *b;
    double *f, *g;
    T* plan;
    index cost_ld, plan_ld;
    double reg;
    int n, m;
    int number;  // of its outcome
};

// What makes a problem unsolvable, in the order in which it is told: a later one only where no earlier is.
enum class small_fault : int {
    none = 0,
    column_stuck,
    row_stuck,
    negative_inf,
    nan,
    unequal_masses,
    no_mass_b,
    weight_b,
    no_mass_a,
    weight_a,
    reg
};
// Why a solve ended short of its tolerance.
enum class small_end : int { none, budget, stalled, certificate, not_finite, handed_over };

// A common part of all costs is taken off beyond so many times their range: potentials as large as that would
// round what they differ in. Costs so near each other differ exactly in their own precision.
inline constexpr double far_costs = 100.0;

struct small_outcome {
    double err, linear, mass, value, mass_a, mass_b, range, offset;
    double weight;               // at fault
    int status, fault, at, end;  // at: the bin that is at fault
    int newton;                  // Newton steps were wanted
    int nit_sinkhorn, nit_newton, nit_cg, n_exp, n_trials;
};

// The part of ot::options that these programs follow.
struct small_settings {
    double tol, loose, rho_a, rho_b;
    double stage_factor, stage_start, stage_tol, gate;
    int stage_warmup, warmup, cg_max, max_iterations;
    aitken::ot::method method;
    bool warm, eps_scaling;
};

template <class T, int Threads, int Entries, int Rows, int Cols>
struct solve_small_problems {
    static constexpr int threads = Threads, steps = 1, closings = 0;
    static constexpr int resident = Threads > 256 ? 1 : 512 / Threads;  // blocks of a multiprocessor
    static constexpr int dense = Rows < 64 ? Rows : 64;                 // rows up to which S is eliminated
    static constexpr int vectors = Threads < 128 ? Threads : 128;       // threads that work on vectors
    static constexpr int groups = 16, quantities = 5;                   // of a reduction
    static constexpr int parts = Threads > Cols ? Threads : Cols;
    static constexpr int check_every = 4;  // Sinkhorn iterations between looks at the error
    static_assert(Rows <= Threads && vectors % groups == 0);

    // Whether a problem fits.
    static bool holds(index n, index m) {
        const index rows = n < m ? n : m, cols = n < m ? m : n;
        return rows <= Rows && cols <= Cols && rows * (cols | 1) <= Entries;
    }

    enum class stage : int {
        load,
        inspect,
        judge_input,
        begin,
        absorb,
        row_peak,  // x from y by log-sum-exp, K there
        row_exp,
        row_close,
        row_scale,
        col_peak,  // y from x
        col_exp,
        col_close,
        rows,  // sums over the rows or columns of K, weighted
        cols,
        ask,    // how far the rows are off
        sweep,  // what to do with sums
        look,
        rescale,
        scale_columns,
        gather,
        decide_sinkhorn,
        decide_newton,
        prepare,  // S
        ground,
        form,
        eliminate,
        substitute,
        cg_begin,
        cg_project,
        cg_first,
        cg_columns,
        cg_rows,
        cg_step,
        cg_turn,
        columns_of_step,
        aim,  // the line search
        trial_rows,
        trial_cols,
        judge,
        certify,
        plan,
        plan_rows,
        plan_cols,
        judge_plan,
        values,
        write,
        refuse,
        done
    };
    enum class loop : int { sinkhorn, warm_up, newton, certify };

    struct shared {
        T k[Entries];
        double s[dense * (dense - 1) / 2], ground[dense];
        double x[Rows], u[Rows], r[Rows], h[Rows], dx[Rows], p[Rows], w[Rows], res[Rows];
        double y[Cols], v[Cols], c[Cols], g[Cols], dy[Cols], q[Cols];
        double part[parts], other[parts];
        double sum[quantities][vectors], seg[quantities][groups];
    };
    // The same in all threads but for the first block.
    struct local {
        int row, row_seg, col, col_seg;  // this thread's part of a row and of a column
        stage now, then, after_load, decision;
        loop in;
        int n, m, ld, row_segs, col_segs;
        int source_rows, source_cols, down, across;  // the cost as it lies; a stride of all threads over it
        bool swapped, uneven, impatient, solved, no_stages, last_stage, first, by_sweep, newton;
        unsigned sums;  // bit q: quantity q of a reduction is a sum, else a maximum
        int k, it, past_at, left, gated, halving, attempt, cg;
        const double *row_weight, *col_weight;
        double row_mass, col_mass, row_unit, col_unit;  // raw masses; what weights are divided by
        double rho_rows, rho_cols, eps, next_eps, inv_eps, over_rows, over_cols;  // over: eps / rho
        double reg, range, mass, goal, aim, err, err_sum, gate, past, mark, used, step_weight;
        double alpha, slope, rz, stop2;
        const double *weight1, *weight2;  // of the sums
        T offset;                         // taken off every cost
        int nit_sinkhorn, nit_newton, nit_cg, n_exp, n_trials;
        status outcome;
        small_end reason;
        const small_problem<T>* task;
    };

    const small_problem<T>* problems;
    small_outcome* outcomes;
    small_settings set;
    index count;

    index blocks() const { return count; }

    AITKEN_HD void open(local& mine, place at) const {
        mine.task = problems + at.block;
        const small_problem<T>& t = *mine.task;
        mine.swapped = t.n > t.m;
        mine.n = mine.swapped ? t.m : t.n;
        mine.m = mine.swapped ? t.n : t.m;
        mine.ld = mine.m | 1;
        mine.source_rows = t.n;
        mine.source_cols = t.m;
        mine.down = Threads / t.m;
        mine.across = Threads % t.m;
        mine.row_segs = segments(mine.n);
        mine.col_segs = segments(mine.m);
        mine.row = at.thread % mine.n;
        mine.row_seg = at.thread / mine.n;
        mine.col = at.thread % mine.m;
        mine.col_seg = at.thread / mine.m;
        mine.row_weight = mine.swapped ? t.b : t.a;
        mine.col_weight = mine.swapped ? t.a : t.b;
        mine.rho_rows = mine.swapped ? set.rho_b : set.rho_a;
        mine.rho_cols = mine.swapped ? set.rho_a : set.rho_b;
        mine.uneven = set.rho_a < infinity || set.rho_b < infinity;
        mine.reg = t.reg;
        mine.goal = mine.aim = inner_aim * set.tol;
        mine.nit_sinkhorn = mine.nit_newton = mine.nit_cg = mine.n_exp = mine.n_trials = 0;
        mine.outcome = status::converged;
        mine.reason = small_end::none;
        mine.newton = false;
        mine.attempt = mine.gated = mine.it = mine.past_at = mine.left = mine.cg = 0;
        mine.solved = mine.no_stages = mine.last_stage = mine.impatient = false;
        mine.by_sweep = mine.first = false;
        mine.err = mine.err_sum = mine.gate = mine.past = infinity;
        mine.weight1 = mine.weight2 = nullptr;
        mine.now = t.reg > 0 && t.reg < infinity ? stage::load : stage::refuse;
        mine.after_load = stage::inspect;
        mine.row_mass = mine.col_mass = 1.0;
        mine.range = mine.mass = 0.0;
        mine.offset = T(0);
    }
    AITKEN_HD bool go_on(const local& mine) const { return mine.now != stage::done; }

    template <int>
    AITKEN_HD void step(shared& s, local& mine, place at, index) const {
        const int t = at.thread;
        switch (mine.now) {
            case stage::load:
                return load(s, mine, t);
            case stage::inspect:
                return inspect(s, mine, t);
            case stage::judge_input:
                return judge_input(s, mine, t);
            case stage::begin:
                return begin(s, mine, t);
            case stage::absorb:
                return absorb(s, mine, t);
            case stage::row_peak:
                return row_peak(s, mine, t);
            case stage::row_exp:
                return row_exp(s, mine, t);
            case stage::row_close:
                return row_close(s, mine, t);
            case stage::row_scale:
                return row_scale(s, mine, t);
            case stage::col_peak:
                return col_peak(s, mine, t);
            case stage::col_exp:
                return col_exp(s, mine, t);
            case stage::col_close:
                return col_close(s, mine, t);
            case stage::rows:
                return sum_rows(s, mine, t);
            case stage::cols:
                return sum_cols(s, mine, t);
            case stage::ask:
                return sum_rows_by(mine, s.v, nullptr, stage::look);
            case stage::sweep:
            case stage::look:
                return look(s, mine, t);
            case stage::rescale:
                return rescale(s, mine, t);
            case stage::scale_columns:
                return scale_columns(s, mine, t);
            case stage::gather:
                return gather(s, mine, t);
            case stage::decide_sinkhorn:
                return decide_sinkhorn(s, mine);
            case stage::decide_newton:
                return decide_newton(s, mine);
            case stage::prepare:
                return prepare(s, mine, t);
            case stage::ground:
                return close_ground(s, mine, t);
            case stage::form:
                return form(s, mine, t);
            case stage::eliminate:
                return eliminate(s, mine, t);
            case stage::substitute:
                return substitute(s, mine, t);
            case stage::columns_of_step:
                return columns_of_step(s, mine, t);
            case stage::aim:
                return aim(s, mine, t);
            case stage::trial_rows:
                return trial_rows(s, mine, t);
            case stage::trial_cols:
                return trial_cols(s, mine, t);
            case stage::judge:
                return judge(s, mine, t);
            case stage::certify:
                return certify(mine);
            case stage::plan:
                return plan(s, mine, t);
            case stage::plan_rows:
                return plan_rows(s, mine, t);
            case stage::plan_cols:
                return plan_cols(s, mine, t);
            case stage::judge_plan:
                return judge_plan(s, mine);
            case stage::values:
                return values(s, mine, t);
            case stage::write:
                return write(s, mine, t);
            case stage::refuse:
                return refuse(mine, t, small_fault::reg, 0);
            default:
                break;
        }
        if constexpr (Rows > dense) conjugate_gradients(s, mine, t);
    }

private:
    AITKEN_HD static int segments(int lines) {
        const int fit = Threads / lines;
        return fit < 1 ? 1 : fit > groups ? groups : fit;
    }
    AITKEN_HD static bool finite(double x) { return x - x == 0; }
    // Masses of bins, as the solver sees them.
    AITKEN_HD static double row_mass(const local& mine, int i) {
        return (mine.row_weight ? mine.row_weight[i] : 1.0) / mine.row_unit;
    }
    AITKEN_HD static double col_mass(const local& mine, int j) {
        return (mine.col_weight ? mine.col_weight[j] : 1.0) / mine.col_unit;
    }
    AITKEN_HD static bool row_active(const local& mine, int i) {
        return row_mass(mine, i) > 1e-14 * (mine.uneven ? mine.row_mass : 1.0);
    }
    // (target / sum)^(rho / (rho + eps)): the scaling that makes a sum meet its target.
    AITKEN_HD static double factor(double target, double sum, double over) {
        const double ratio = target / sum;
        return over > 0 ? std::pow(ratio, 1.0 / (1.0 + over)) : ratio;
    }
    // a exp(-f / rho) from the potential x = f + eps log a.
    AITKEN_HD static double target(double mass, double x, double rho, double over) {
        if (!(mass > 0)) return 0.0;
        return over > 0 ? mass * std::exp(over * std::log(mass) - x / rho) : mass;
    }
    AITKEN_HD static int triangle(int i, int j) { return i * (i - 1) / 2 + j; }  // i > j

    // --- reductions ------------------------------------------------------------------------------

    template <class... Q>
    AITKEN_HD static void put(shared& s, int t, Q... values) {
        int q = 0;
        ((s.sum[q++][t] = values), ...);
    }
    AITKEN_HD static void reduce(local& mine, unsigned sums, stage decision) {
        mine.sums = sums;
        mine.decision = decision;
        mine.now = stage::gather;
    }
    AITKEN_HD void gather(shared& s, local& mine, int t) const {
        for (int e = t; e < quantities * groups; e += Threads) {
            const int q = e / groups, g = e % groups;
            double total = s.sum[q][g];
            for (int k = g + groups; k < vectors; k += groups)
                total = (mine.sums >> q & 1) ? total + s.sum[q][k] : larger(total, s.sum[q][k]);
            s.seg[q][g] = total;
        }
        mine.now = mine.decision;
    }
    AITKEN_HD double total(const shared& s, const local& mine, int q) const {
        double all = s.seg[q][0];
        for (int g = 1; g < groups; ++g)
            all = (mine.sums >> q & 1) ? all + s.seg[q][g] : larger(all, s.seg[q][g]);
        return all;
    }

    // --- sums over K -----------------------------------------------------------------------------

    // sum_j K_ij w1_j w2_j for all rows (w2 null: 1), then the stage `then`. Two loads of K per flop pair.
    AITKEN_HD static void sum_rows_by(local& mine, const double* w1, const double* w2, stage then) {
        mine.weight1 = w1;
        mine.weight2 = w2;
        mine.then = then;
        mine.now = stage::rows;
    }
    AITKEN_HD static void sum_cols_by(local& mine, const double* w1, const double* w2, stage then) {
        sum_rows_by(mine, w1, w2, then);
        mine.now = stage::cols;
    }
    // fn(place of the part, first, last) for this thread's part of a row.
    template <class F>
    AITKEN_HD static void my_row(const local& mine, F&& fn) {
        if (mine.row_seg >= mine.row_segs) return;
        fn(mine.row, mine.row_seg * mine.n + mine.row, mine.row_seg * mine.m / mine.row_segs,
           (mine.row_seg + 1) * mine.m / mine.row_segs);
    }
    template <class F>
    AITKEN_HD static void my_cols(const local& mine, int t, F&& fn) {
        if (mine.m > Threads) {
            for (int j = t; j < mine.m; j += Threads) fn(j, j, 0, mine.n);
        } else if (mine.col_seg < mine.col_segs) {
            fn(mine.col, mine.col_seg * mine.m + mine.col, mine.col_seg * mine.n / mine.col_segs,
               (mine.col_seg + 1) * mine.n / mine.col_segs);
        }
    }
    AITKEN_HD void sum_rows(shared& s, local& mine, int) const {
        my_row(mine, [&](int i, int to, int first, int last) {
            const T* const k = s.k + i * mine.ld;
            double sum = 0;
            if (mine.weight2)
                for (int j = first; j < last; ++j)
                    sum += static_cast<double>(k[j]) * (mine.weight1[j] * mine.weight2[j]);
            else
                for (int j = first; j < last; ++j) sum += static_cast<double>(k[j]) * mine.weight1[j];
            s.part[to] = sum;
        });
        mine.now = mine.then;
    }
    AITKEN_HD void sum_cols(shared& s, local& mine, int t) const {
        my_cols(mine, t, [&](int j, int to, int first, int last) {
            double sum = 0;
            for (int i = first; i < last; ++i) {
                const double w = mine.weight2 ? mine.weight1[i] * mine.weight2[i] : mine.weight1[i];
                sum += static_cast<double>(s.k[i * mine.ld + j]) * w;
            }
            s.part[to] = sum;
        });
        mine.now = mine.then;
    }
    AITKEN_HD static double added(const double* part, int line, int lines, int segs) {
        double sum = part[line];
        for (int k = 1; k < segs; ++k) sum += part[k * lines + line];
        return sum;
    }
    AITKEN_HD static double largest(const double* part, int line, int lines, int segs) {
        double top = part[line];
        for (int k = 1; k < segs; ++k) top = larger(top, part[k * lines + line]);
        return top;
    }
    AITKEN_HD static double row_sum(const shared& s, const local& mine, int i) {
        return added(s.part, i, mine.n, mine.row_segs);
    }
    AITKEN_HD static double col_sum(const shared& s, const local& mine, int j) {
        return added(s.part, j, mine.m, mine.m > Threads ? 1 : mine.col_segs);
    }
    // fn(i) for the rows (columns) that this thread has in work on vectors.
    template <class F>
    AITKEN_HD static void each_row(const local& mine, int t, F&& fn) {
        if (t < vectors)
            for (int i = t; i < mine.n; i += vectors) fn(i);
    }
    template <class F>
    AITKEN_HD static void each_col(const local& mine, int t, F&& fn) {
        if (t < vectors)
            for (int j = t; j < mine.m; j += vectors) fn(j);
    }

    // --- input -----------------------------------------------------------------------------------

    // fn(row, column, entry of C less the offset, place in K) over this thread's share of the cost, as it
    // lies.
    template <class F>
    AITKEN_HD static void each_cost(const local& mine, int t, F&& fn) {
        int i = t / mine.source_cols, j = t % mine.source_cols;
        while (i < mine.source_rows) {
            fn(i, j, mine.task->cost[i * mine.task->cost_ld + j] - mine.offset,
               mine.swapped ? j * mine.ld + i : i * mine.ld + j);
            i += mine.down;
            j += mine.across;
            if (j >= mine.source_cols) {
                j -= mine.source_cols;
                ++i;
            }
        }
    }
    AITKEN_HD void load(shared& s, local& mine, int t) const {
        each_cost(mine, t, [&](int, int, T c, int to) { s.k[to] = c; });
        mine.now = mine.after_load;
    }

    // A line of C and its weight, a thread each.
    AITKEN_HD void inspect(shared& s, local& mine, int t) const {
        if (t < vectors) {
            double of_rows = 0, of_cols = 0, low = infinity, high = -infinity, fault = 0;
            const auto accuse = [&](small_fault what, int where) {
                fault = larger(fault, static_cast<int>(what) * 65536.0 + (65535 - where));
            };
            const auto line = [&](bool row, int l) {
                const double *const w = row ? mine.row_weight : mine.col_weight, *const across =
                                                                                     row ? mine.col_weight
                                                                                         : mine.row_weight;
                const double mass = w ? w[l] : 1.0 / (row ? mine.n : mine.m);
                (row ? of_rows : of_cols) += mass;
                const bool first = row != mine.swapped;  // rows of the cost as given, a of the weights
                if (!(mass >= 0 && mass < infinity))
                    accuse(first ? small_fault::weight_a : small_fault::weight_b, l);
                bool reached = false;
                const int length = row ? mine.m : mine.n;
                for (int e = 0; e < length; ++e) {
                    const double c = static_cast<double>(s.k[row ? l * mine.ld + e : e * mine.ld + l]);
                    if (c != c) accuse(small_fault::nan, 0);
                    if (c == -infinity) accuse(small_fault::negative_inf, 0);
                    if (!finite(c)) continue;
                    low = smaller(low, c);
                    high = larger(high, c);
                    reached = reached || !across || across[e] > 0;
                }
                if (mass > 0 && !reached)
                    accuse(first ? small_fault::row_stuck : small_fault::column_stuck, l);
            };
            each_row(mine, t, [&](int i) { line(true, i); });
            each_col(mine, t, [&](int j) { line(false, j); });
            put(s, t, of_rows, of_cols, -low, high, fault);
        }
        reduce(mine, 0b00011, stage::judge_input);
    }

    AITKEN_HD void judge_input(shared& s, local& mine, int t) const {
        const double of_rows = total(s, mine, 0), of_cols = total(s, mine, 1);
        mine.row_mass = of_rows;
        mine.col_mass = of_cols;
        mine.range = larger(0.0, total(s, mine, 3) + total(s, mine, 2));
        const auto seen = static_cast<std::int64_t>(total(s, mine, 4));
        int what = static_cast<int>(seen / 65536), where = static_cast<int>(65535 - seen % 65536);
        const auto instead = [&](small_fault fault) {
            if (what >= static_cast<int>(fault)) return;
            what = static_cast<int>(fault);
            where = 0;
        };
        const double a = mass_a(mine), b = mass_b(mine);
        if (!(a > 0 && a < infinity)) instead(small_fault::no_mass_a);
        if (!(b > 0 && b < infinity)) instead(small_fault::no_mass_b);
        if (!mine.uneven && std::fabs(a - b) > set.loose * larger(a, b)) instead(small_fault::unequal_masses);
        mine.row_unit = !mine.row_weight ? mine.n : mine.uneven ? 1.0 : of_rows;
        mine.col_unit = !mine.col_weight ? mine.m : mine.uneven ? 1.0 : of_cols;
        mine.now = stage::begin;
        const auto fault = static_cast<small_fault>(what);
        if ((fault == small_fault::row_stuck && set.rho_a < infinity) ||
            (fault == small_fault::column_stuck && set.rho_b < infinity))
            return hand_over(mine, t);
        if (fault != small_fault::none) return refuse(mine, t, fault, where);
        const double low = -total(s, mine, 2);
        if (mine.uneven || !(std::fabs(low) > far_costs * mine.range)) return;
        mine.offset = static_cast<T>(low);
        mine.after_load = stage::begin;
        mine.now = stage::load;
    }

    AITKEN_HD static double mass_a(const local& mine) { return mine.swapped ? mine.col_mass : mine.row_mass; }
    AITKEN_HD static double mass_b(const local& mine) { return mine.swapped ? mine.row_mass : mine.col_mass; }

    // To the driver, which takes f and g as they are.
    AITKEN_HD void hand_over(local& mine, int t) const {
        mine.now = stage::done;
        if (t != 0) return;
        small_outcome out{};
        out.status = static_cast<int>(status::stagnated);
        out.end = static_cast<int>(small_end::handed_over);
        outcomes[mine.task->number] = out;
    }
    AITKEN_HD void refuse(local& mine, int t, small_fault what, int where) const {
        constexpr double nan = std::numeric_limits<double>::quiet_NaN();
        const small_problem<T>& task = *mine.task;
        for (int i = t; i < task.n; i += Threads) task.f[i] = nan;
        for (int j = t; j < task.m; j += Threads) task.g[j] = nan;
        if (task.plan)
            each_cost(mine, t, [&](int i, int j, T, int) { task.plan[i * task.plan_ld + j] = T(0); });
        mine.now = stage::done;
        if (t != 0) return;
        small_outcome out{};
        out.err = out.linear = out.mass = out.value = nan;
        out.mass_a = mass_a(mine);
        out.mass_b = mass_b(mine);
        out.range = mine.range;
        if (what == small_fault::weight_a) out.weight = task.a[where];
        if (what == small_fault::weight_b) out.weight = task.b[where];
        out.status = static_cast<int>(status::bad_input);
        out.fault = static_cast<int>(what);
        out.at = where;
        outcomes[task.number] = out;
    }

    // --- the state: x, y, K, u, v ----------------------------------------------------------------

    AITKEN_HD void set_eps(local& mine, double eps) const {
        mine.eps = eps;
        mine.inv_eps = 1.0 / eps;
        mine.over_rows = eps / mine.rho_rows;
        mine.over_cols = eps / mine.rho_cols;
    }

    AITKEN_HD void begin(shared& s, local& mine, int t) const {
        const bool mild = mine.reg >= 2e-3 * mine.range;
        mine.no_stages = !(set.eps_scaling && set.stage_start * mine.range > mine.reg);
        double first = mine.reg;
        if (set.method == aitken::ot::method::sinkhorn ||
            (set.method == aitken::ot::method::automatic && (mild || set.warm))) {
            mine.in = loop::sinkhorn;
            mine.impatient = set.method == aitken::ot::method::automatic;
        } else if (set.warm) {
            mine.in = loop::newton;
            mine.last_stage = true;
        } else {
            mine.in = loop::warm_up;
            first = first_stage(mine);
        }
        set_eps(mine, first);
        if (mine.in == loop::newton) enter_newton(mine);
        const double *const f = mine.swapped ? mine.task->g : mine.task->f, *const g = mine.swapped
                                                                                           ? mine.task->f
                                                                                           : mine.task->g;
        // A constant of y is free, and as large as the offset it costs digits: 0 at the first bin with mass.
        double pin = 0;
        if (set.warm && mine.offset != 0) {
            int j = 0;
            while (!(col_mass(mine, j) > 0)) ++j;
            pin = g[j];
        }
        each_row(mine, t, [&](int i) {
            const double mass = row_mass(mine, i);
            s.x[i] = !(mass > 0) ? -infinity : set.warm ? f[i] + mine.reg * std::log(mass) : 0.0;
            s.u[i] = 1.0;
            s.dx[i] = 0.0;
        });
        each_col(mine, t, [&](int j) {
            const double mass = col_mass(mine, j);
            s.y[j] = !(mass > 0) ? -infinity : set.warm ? g[j] - pin + mine.reg * std::log(mass) : 0.0;
            s.v[j] = 1.0;
            s.g[j] = target(mass, s.y[j], mine.rho_cols, mine.over_cols);
        });
        count_restart(mine);
        mine.now = stage::row_peak;  // K still holds C
    }
    AITKEN_HD static void count_restart(local& mine) {
        mine.by_sweep = false;
        ++mine.n_exp;
        ++mine.nit_sinkhorn;
    }
    // The eps of the next stage and how many Sinkhorn iterations open it.
    AITKEN_HD double first_stage(local& mine) const {
        mine.in = loop::warm_up;
        if (!mine.no_stages) {
            mine.left = set.stage_warmup - 1;
            return set.stage_start * mine.range;
        }
        mine.last_stage = true;
        mine.left = (set.eps_scaling ? set.stage_warmup : set.warmup) - 1;
        return mine.reg;
    }
    AITKEN_HD double next_stage(local& mine) const {
        const double eps = mine.eps * set.stage_factor;
        mine.in = loop::warm_up;
        mine.left = set.stage_warmup - 1;
        if (eps > mine.reg) return eps;
        mine.last_stage = true;
        return mine.reg;
    }

    // Scalings into potentials, at the eps they belong to; K is to be rebuilt at `eps` by way of `next`.
    AITKEN_HD static void rebuild(local& mine, double eps, stage next) {
        mine.next_eps = eps;
        mine.after_load = next;
        mine.now = stage::absorb;
        if (next == stage::col_peak) ++mine.n_exp;
        if (next == stage::plan)
            ++mine.n_exp;
        else
            count_restart(mine);
    }
    AITKEN_HD void absorb(shared& s, local& mine, int t) const {
        const double eps = mine.eps;
        set_eps(mine, mine.next_eps);
        each_row(mine, t, [&](int i) {
            if (s.u[i] != 1.0) s.x[i] += eps * std::log(s.u[i]);
            s.u[i] = 1.0;
            s.h[i] = target(row_mass(mine, i), s.x[i], mine.rho_rows, mine.over_rows);
        });
        each_col(mine, t, [&](int j) {
            if (s.v[j] != 1.0) s.y[j] += eps * std::log(s.v[j]);
            s.v[j] = 1.0;
            s.g[j] = target(col_mass(mine, j), s.y[j], mine.rho_cols, mine.over_cols);
        });
        mine.now = stage::load;
    }

    AITKEN_HD void row_peak(shared& s, local& mine, int) const {
        my_row(mine, [&](int i, int to, int first, int last) {
            double top = -infinity;
            if (row_mass(mine, i) > 0)
                for (int j = first; j < last; ++j)
                    top = larger(top, s.y[j] - static_cast<double>(s.k[i * mine.ld + j]));
            s.part[to] = top;
        });
        mine.now = stage::row_exp;
    }
    AITKEN_HD void row_exp(shared& s, local& mine, int) const {
        my_row(mine, [&](int i, int to, int first, int last) {
            const double top = largest(s.part, i, mine.n, mine.row_segs);
            double sum = 0;
            for (int j = first; j < last; ++j) {
                T& k = s.k[i * mine.ld + j];
                const double e = top > -infinity
                                     ? entry_exp<T>((s.y[j] - static_cast<double>(k) - top) * mine.inv_eps)
                                     : 0.0;
                k = static_cast<T>(e);
                sum += e;
            }
            s.other[to] = sum;
        });
        mine.now = stage::row_close;
    }
    // x from the sum of a row; w its scale.
    AITKEN_HD void row_close(shared& s, local& mine, int t) const {
        each_row(mine, t, [&](int i) {
            const double top = largest(s.part, i, mine.n, mine.row_segs);
            s.w[i] = s.h[i] = 0.0;
            s.x[i] = -infinity;
            if (!(top > -infinity)) return;
            const double sum = added(s.other, i, mine.n, mine.row_segs), mass = row_mass(mine, i);
            if (mine.over_rows > 0) {
                const double mean = std::log(sum) + top * mine.inv_eps;
                const double left = 1.0 / (1.0 + mine.over_rows);
                s.x[i] = mine.eps * (std::log(mass) - left * mean);
                s.w[i] = std::exp(std::log(mass) - left * mean + top * mine.inv_eps);
                s.h[i] = s.w[i] * sum;
            } else {
                s.w[i] = mass / sum;
                s.x[i] = mine.eps * std::log(s.w[i]) - top;
                s.h[i] = mass;
            }
        });
        mine.now = stage::row_scale;
    }
    AITKEN_HD void row_scale(shared& s, local& mine, int) const {
        my_row(mine, [&](int i, int, int first, int last) {
            for (int j = first; j < last; ++j) {
                T& k = s.k[i * mine.ld + j];
                k = static_cast<T>(static_cast<double>(k) * s.w[i]);
            }
        });
        sum_cols_by(mine, s.u, nullptr, stage::scale_columns);
    }

    AITKEN_HD void col_peak(shared& s, local& mine, int t) const {
        my_cols(mine, t, [&](int j, int to, int first, int last) {
            double top = -infinity;
            for (int i = first; i < last; ++i)
                top = larger(top, s.x[i] - static_cast<double>(s.k[i * mine.ld + j]));
            s.part[to] = top;
        });
        mine.now = stage::col_exp;
    }
    AITKEN_HD static int col_parts(const local& mine) { return mine.m > Threads ? 1 : mine.col_segs; }
    AITKEN_HD void col_exp(shared& s, local& mine, int t) const {
        my_cols(mine, t, [&](int j, int to, int first, int last) {
            const double top = largest(s.part, j, mine.m, col_parts(mine));
            double sum = 0;
            if (top > -infinity)
                for (int i = first; i < last; ++i)
                    sum +=
                        std::exp((s.x[i] - static_cast<double>(s.k[i * mine.ld + j]) - top) * mine.inv_eps);
            s.other[to] = sum;
        });
        mine.now = stage::col_close;
    }
    AITKEN_HD void col_close(shared& s, local& mine, int t) const {
        each_col(mine, t, [&](int j) {
            const double top = largest(s.part, j, mine.m, col_parts(mine)), mass = col_mass(mine, j);
            const double sum = added(s.other, j, mine.m, col_parts(mine));
            s.y[j] = -infinity;
            if (!(mass > 0 && top > -infinity)) return;
            const double mean = std::log(sum) + top * mine.inv_eps;
            s.y[j] = mine.eps * (std::log(mass) - mean / (1.0 + mine.over_cols));
            s.g[j] = target(mass, s.y[j], mine.rho_cols, mine.over_cols);
        });
        mine.now = stage::row_peak;  // K still holds C
    }

    // u meets the rows' targets, given r.
    AITKEN_HD static void scale_row(shared& s, const local& mine, int i) {
        const double f = factor(s.h[i], s.r[i], mine.over_rows), scaled = s.u[i] * f;
        if (!(scaled > 0 && scaled < infinity)) return;  // a row for log-sum-exp
        s.u[i] = scaled;
        if (mine.over_rows > 0) s.h[i] = s.r[i] * f;
    }

    // r; the rows' error, max |log(r / h)|, max |log u| and |log v|, mass; in a sweep then the new u.
    AITKEN_HD void look(shared& s, local& mine, int t) const {
        const bool sweep = mine.now == stage::sweep;
        double err = 0, gate = 1, far = 1, mass = 0;
        each_col(mine, t, [&](int j) { far = larger(far, larger(s.v[j], 1.0 / s.v[j])); });
        each_row(mine, t, [&](int i) {
            const double r = s.u[i] * row_sum(s, mine, i), h = s.h[i];
            s.r[i] = r;
            err += std::fabs(h - r);
            mass += r;
            if (!(row_mass(mine, i) > 0)) return;
            far = larger(far, larger(s.u[i], 1.0 / s.u[i]));
            const double ratio = r / h;
            if (!(ratio > 0 && ratio < infinity))
                gate = infinity;
            else if (row_active(mine, i))
                gate = larger(gate, larger(ratio, 1.0 / ratio));
            if (sweep) scale_row(s, mine, i);
        });
        if (t < vectors) {
            put(s, t, err, gate, far);
            s.sum[4][t] = mass;
        }
        if (sweep) {
            ++mine.it;
            ++mine.nit_sinkhorn;
            mine.by_sweep = true;
            return sum_cols_by(mine, s.u, nullptr, stage::scale_columns);
        }
        reduce(mine, 0b11001, stage::decide_newton);
    }
    // The new u from r as it is known; columns follow.
    AITKEN_HD void rescale(shared& s, local& mine, int t) const {
        each_row(mine, t, [&](int i) {
            if (row_mass(mine, i) > 0) scale_row(s, mine, i);
        });
        mine.by_sweep = false;
        sum_cols_by(mine, s.u, nullptr, stage::scale_columns);
    }
    // v meets the columns' targets; counts those that cannot.
    AITKEN_HD void scale_columns(shared& s, local& mine, int t) const {
        double bad = 0;
        each_col(mine, t, [&](int j) {
            s.c[j] = 0;
            if (!(col_mass(mine, j) > 0)) return;
            const double c = s.v[j] * col_sum(s, mine, j), f = factor(s.g[j], c, mine.over_cols);
            const double scaled = s.v[j] * f;
            s.c[j] = c;
            if (!(scaled > 0 && scaled < infinity)) {
                bad += 1;
                return;
            }
            s.v[j] = scaled;
            if (mine.over_cols > 0) s.g[j] = c * f;
            s.c[j] = s.g[j];
        });
        if (t < vectors) s.sum[3][t] = bad;
        switch (mine.in) {
            case loop::sinkhorn:
                if (mine.by_sweep && (mine.it % check_every == 0 || out_of_budget(mine)))
                    return reduce(mine, 0b11001, stage::decide_sinkhorn);
                return sum_rows_by(mine, s.v, nullptr, stage::sweep);
            case loop::certify:
                mine.now = stage::certify;
                return;
            default:
                return sum_rows_by(mine, s.v, nullptr, stage::look);
        }
    }

    AITKEN_HD bool out_of_budget(const local& mine) const {
        return mine.nit_sinkhorn + mine.nit_newton >= set.max_iterations;
    }
    AITKEN_HD static void end(local& mine, status why, small_end reason) {
        mine.outcome = why;
        mine.reason = reason;
        mine.solved = false;
        mine.now = stage::certify;
    }
    AITKEN_HD static void succeed(local& mine) {
        mine.solved = true;
        mine.now = stage::certify;
    }

    // What errors are relative to: mass 1, or that of an unbalanced plan.
    AITKEN_HD static double unit(const local& mine, double mass) {
        return mine.uneven && mass > 0 ? mass : 1.0;
    }
    // Reads what look and scale_columns saw; true where sums of 0 or inf, or scalings so large that entries
    // of K may have been lost, ask for a new kernel, which is then under way.
    struct state {
        double bad;
        bool worn, lost;
    };
    AITKEN_HD state read_look(const shared& s, local& mine) const {
        mine.err_sum = total(s, mine, 0);
        mine.err = mine.err_sum / unit(mine, total(s, mine, 4));
        const double gate = total(s, mine, 1), far = total(s, mine, 2);
        mine.gate = std::log(gate);
        const double bad = total(s, mine, 3);
        const bool lost = !finite(mine.err) || bad > 0 || !(gate < infinity);
        return {bad, lost || !(std::log(far) <= absorb_limit), lost};
    }
    static constexpr double absorb_limit = 30.0;

    // --- Sinkhorn --------------------------------------------------------------------------------

    AITKEN_HD void decide_sinkhorn(shared& s, local& mine) const {
        const state now = read_look(s, mine);
        if (mine.err <= mine.aim && now.bad == 0) return leave_sinkhorn(mine);
        if (out_of_budget(mine)) return end(mine, status::max_iterations, small_end::budget);
        if (now.worn) return rebuild(mine, mine.eps, now.lost ? stage::col_peak : stage::row_peak);
        if (mine.impatient && mine.it - mine.past_at >= 5) {
            if (newton_is_cheaper(mine)) return leave_sinkhorn(mine);
            mine.past = mine.err;
            mine.past_at = mine.it;
        }
        sum_rows_by(mine, s.v, nullptr, stage::sweep);
    }
    // The Sinkhorn iterations left at the measured contraction, against four Newton steps: of the length of
    // 10
    // + n / 2 iterations by elimination, of about the square root of what is left by CG.
    AITKEN_HD bool newton_is_cheaper(const local& mine) const {
        if (!finite(mine.past)) return false;
        const double rho = std::pow(mine.err / mine.past, 1.0 / static_cast<double>(mine.it - mine.past_at));
        if (!(rho < 1)) return true;
        const double left = std::log(mine.aim / mine.err) / std::log(rho);
        const double step =
            mine.n <= dense ? 10.0 + 0.5 * mine.n : 4.0 + 2.0 * smaller(60.0, std::sqrt(left));
        return left > 4.0 * step;
    }
    AITKEN_HD void leave_sinkhorn(local& mine) const {
        if (mine.err <= mine.aim) return succeed(mine);
        mine.newton = true;
        if (set.warm || mine.gate < set.gate) {
            mine.last_stage = true;
            enter_newton(mine);
            return ask_look(mine);
        }
        rebuild(mine, first_stage(mine), stage::row_peak);
    }

    // --- Newton ----------------------------------------------------------------------------------

    AITKEN_HD void enter_newton(local& mine) const {
        mine.in = loop::newton;
        mine.newton = true;
        mine.aim = mine.last_stage ? mine.goal : set.stage_tol;
        mine.gated = 0;
        mine.step_weight = 1;
        mine.first = true;
        mine.mark = infinity;
        mine.used = 0;
    }
    // As stagnation_watch of core/stop.hpp, which is the host's.
    AITKEN_HD static bool stalled(local& mine) {
        if (mine.err * 10.0 <= mine.mark || mine.first) {
            mine.first = false;
            mine.mark = mine.err;
            mine.used = 0;
        } else {
            mine.used += mine.step_weight;
        }
        return mine.used >= 20;
    }
    AITKEN_HD static void ask_look(local& mine) { mine.now = stage::ask; }

    AITKEN_HD void decide_newton(shared& s, local& mine) const {
        const state now = read_look(s, mine);
        if (mine.in == loop::warm_up) {
            if (mine.left > 0 && !out_of_budget(mine) &&
                !(mine.eps > mine.reg && mine.err <= set.stage_tol)) {
                --mine.left;
                if (now.worn) return rebuild(mine, mine.eps, now.lost ? stage::col_peak : stage::row_peak);
                return scale(mine);
            }
            enter_newton(mine);
        }
        if (mine.err <= mine.aim && now.bad == 0) {
            if (mine.last_stage) return succeed(mine);
            const double eps = next_stage(mine);
            return rebuild(mine, eps, stage::row_peak);
        }
        if (out_of_budget(mine)) return end(mine, status::max_iterations, small_end::budget);
        if (now.worn) return rebuild(mine, mine.eps, now.lost ? stage::col_peak : stage::row_peak);
        if (mine.gate >= set.gate && mine.gated < 40) {  // some bin is far off: only scaling is safe there
            ++mine.gated;
            return scale(mine);
        }
        if (stalled(mine)) return end(mine, status::stagnated, small_end::stalled);
        mine.now = stage::prepare;
    }
    AITKEN_HD static void scale(local& mine) {
        ++mine.nit_sinkhorn;
        mine.now = stage::rescale;
    }

    // q = v^2 / (c + (eps / rho) g), the columns' weights in S; res = the gradient in x.
    AITKEN_HD void prepare(shared& s, local& mine, int t) const {
        each_row(mine, t, [&](int i) {
            s.res[i] = row_active(mine, i) ? s.h[i] - s.r[i] : 0.0;
            s.dx[i] = 0.0;
        });
        each_col(mine, t, [&](int j) {
            const double soft = mine.over_cols * s.g[j], c = s.c[j] + soft;
            s.q[j] = c > 0 ? s.v[j] * s.v[j] / c : 0.0;
            s.dy[j] = c > 0 ? s.v[j] * soft / c : 0.0;  // of the ground
        });
        if (Rows > dense && mine.n > dense)
            mine.now = stage::cg_begin;
        else if (mine.over_cols > 0)
            sum_rows_by(mine, s.dy, nullptr, stage::ground);
        else
            mine.now = stage::ground;
    }
    // What holds a row besides the others: soft marginals, and a shift that vanishes with the error, without
    // which parts that hardly exchange mass would move without bound.
    AITKEN_HD void close_ground(shared& s, local& mine, int t) const {
        each_row(mine, t, [&](int i) {
            double held = 1e-3 * smaller(1.0, mine.err) * s.r[i] + mine.over_rows * s.h[i];
            if (mine.over_cols > 0) held += s.u[i] * row_sum(s, mine, i);
            s.ground[i] = row_active(mine, i) ? held : 0.0;
        });
        mine.now = stage::form;
    }
    // s = -S below the diagonal, in tiles of 4 x 4 rows that lie (n + 3) / 4 apart: neighbouring lanes read
    // neighbouring rows. n^2 m / 2 pairs of flops, 9 loads for 16 of them.
    AITKEN_HD void form(shared& s, local& mine, int t) const {
        const int n = mine.n, apart = (n + 3) / 4, tiles = apart * (apart + 1) / 2;
        for (int e = t; e < tiles; e += Threads) {
            int b = static_cast<int>((std::sqrt(8.0 * e + 1.0) - 1.0) * 0.5);
            while (b * (b + 1) / 2 > e) --b;
            while ((b + 1) * (b + 2) / 2 <= e) ++b;
            const int a = e - b * (b + 1) / 2;
            double sum[4][4] = {};
            const T *left[4], *right[4];
            AITKEN_UNROLL
            for (int k = 0; k < 4; ++k) {  // rows beyond the last are read as the last and not stored
                const int i = a + k * apart, j = b + k * apart;
                left[k] = s.k + (i < n ? i : n - 1) * mine.ld;
                right[k] = s.k + (j < n ? j : n - 1) * mine.ld;
            }
            for (int j = 0; j < mine.m; ++j) {
                const double weight = s.q[j];
                double l[4], r[4];
                AITKEN_UNROLL
                for (int k = 0; k < 4; ++k) {
                    l[k] = static_cast<double>(left[k][j]) * weight;
                    r[k] = static_cast<double>(right[k][j]);
                }
                AITKEN_UNROLL
                for (int k = 0; k < 4; ++k) AITKEN_UNROLL
                for (int o = 0; o < 4; ++o) sum[k][o] += l[k] * r[o];
            }
            for (int k = 0; k < 4; ++k)
                for (int o = 0; o < 4; ++o) {
                    const int i = a + k * apart, j = b + o * apart;
                    if (i >= n || j >= n || i == j || (a == b && i < j)) continue;
                    const bool both = row_active(mine, i) && row_active(mine, j);
                    s.s[i > j ? triangle(i, j) : triangle(j, i)] = both ? s.u[i] * s.u[j] * sum[k][o] : 0.0;
                }
        }
        mine.k = 0;
        mine.now = stage::eliminate;
    }
    // Row k leaves the system: pivot, then what it passes on to the rows, their ground and right-hand sides.
    AITKEN_HD void eliminate(shared& s, local& mine, int t) const {
        const int n = mine.n, k = mine.k, left = n - 1 - k;
        double pivot = s.ground[k];
        for (int i = k + 1; i < n; ++i) pivot += s.s[triangle(i, k)];
        const double inverse = pivot > 0 ? 1.0 / pivot : 0.0;
        if (t == 0) s.w[k] = inverse;
        if (left > 0) {
            const int shares = segments(left), share = t / left, i = k + 1 + t % left;
            if (share < shares) {
                double* const row = s.s + triangle(i, 0);
                const double by = row[k] * inverse;
                for (int j = k + 1 + share; j < i; j += shares) row[j] += by * s.s[triangle(j, k)];
                if (share == 0) {
                    s.ground[i] += by * s.ground[k];
                    s.res[i] += by * s.res[k];
                }
            }
            ++mine.k;
            return;
        }
        mine.now = stage::substitute;
    }
    AITKEN_HD void substitute(shared& s, local& mine, int t) const {
        const int k = mine.k;
        const double d = s.res[k] * s.w[k];
        if (t < k) s.res[t] += s.s[triangle(k, t)] * d;
        if (t == 0) s.dx[k] = d;
        if (--mine.k < 0) sum_cols_by(mine, s.u, s.dx, stage::columns_of_step);
    }

    // --- CG where S does not fit -----------------------------------------------------------------
    // S p takes two sweeps; res, p and w as in the driver, z = res / diag(S) where it is needed.

    AITKEN_HD static double cg_diagonal(const shared& s, const local& mine, int i) {
        return s.r[i] + mine.over_rows * s.h[i];
    }
    AITKEN_HD void conjugate_gradients(shared& s, local& mine, int t) const {
        switch (mine.now) {
            case stage::cg_begin: {
                double sum = 0, mass = 0;
                each_row(mine, t, [&](int i) {
                    if (!row_active(mine, i)) return;
                    sum += s.res[i];
                    mass += s.r[i];
                });
                if (t < vectors) put(s, t, sum, mass);
                return reduce(mine, 0b00011, stage::cg_project);
            }
            case stage::cg_project: {  // S 1 = 0 where both sides are hard: the right-hand side is made to
                                       // fit
                const double mass = total(s, mine, 1);
                const double share = mine.uneven || !(mass > 0) ? 0.0 : total(s, mine, 0) / mass;
                double rz = 0, size = 0;
                each_row(mine, t, [&](int i) {
                    s.p[i] = 0.0;
                    if (!row_active(mine, i)) return;
                    s.res[i] -= share * s.r[i];
                    s.p[i] = s.res[i] / cg_diagonal(s, mine, i);
                    rz += s.res[i] * s.p[i];
                    size += s.res[i] * s.res[i];
                });
                if (t < vectors) put(s, t, rz, size);
                return reduce(mine, 0b00011, stage::cg_first);
            }
            case stage::cg_first: {
                mine.rz = total(s, mine, 0);
                const double size = total(s, mine, 1);
                const double rtol = smaller(0.1, 0.1 * std::sqrt(mine.err));
                mine.stop2 = rtol * rtol * size;
                mine.cg = 0;
                if (!(size > 0)) return sum_cols_by(mine, s.u, s.dx, stage::columns_of_step);
                return sum_cols_by(mine, s.u, s.p, stage::cg_columns);
            }
            case stage::cg_columns:
                each_col(mine, t, [&](int j) { s.dy[j] = s.q[j] * col_sum(s, mine, j); });
                return sum_rows_by(mine, s.dy, nullptr, stage::cg_rows);
            case stage::cg_rows: {
                double pw = 0;
                each_row(mine, t, [&](int i) {
                    s.w[i] = row_active(mine, i)
                                 ? cg_diagonal(s, mine, i) * s.p[i] - s.u[i] * row_sum(s, mine, i)
                                 : 0.0;
                    pw += s.p[i] * s.w[i];
                });
                if (t < vectors) put(s, t, pw);
                return reduce(mine, 0b00001, stage::cg_step);
            }
            case stage::cg_step: {
                const double pw = total(s, mine, 0), alpha = pw > 0 ? mine.rz / pw : 0.0;
                double rz = 0, size = 0;
                each_row(mine, t, [&](int i) {
                    if (!row_active(mine, i)) return;
                    s.dx[i] += alpha * s.p[i];
                    s.res[i] -= alpha * s.w[i];
                    rz += s.res[i] * s.res[i] / cg_diagonal(s, mine, i);
                    size += s.res[i] * s.res[i];
                });
                if (t < vectors) put(s, t, rz, size);
                mine.slope = pw;
                return reduce(mine, 0b00011, stage::cg_turn);
            }
            case stage::cg_turn: {
                const double rz = total(s, mine, 0), size = total(s, mine, 1);
                ++mine.cg;
                if (!(size > mine.stop2) || !(mine.slope > 0) || mine.cg >= set.cg_max)
                    return sum_cols_by(mine, s.u, s.dx, stage::columns_of_step);
                const double beta = mine.rz > 0 ? rz / mine.rz : 0.0;
                mine.rz = rz;
                each_row(mine, t, [&](int i) {
                    if (row_active(mine, i)) s.p[i] = s.res[i] / cg_diagonal(s, mine, i) + beta * s.p[i];
                });
                return sum_cols_by(mine, s.u, s.p, stage::cg_columns);
            }
            default:
                return;
        }
    }

    // --- the line search of the driver -----------------------------------------------------------

    // d_y = -(P^T d_x) / (c + (eps / rho) g); slope and extremes of the step.
    AITKEN_HD void columns_of_step(shared& s, local& mine, int t) const {
        double slope = 0, top_x = -infinity, top_y = -infinity, low_x = -infinity, low_y = -infinity;
        each_col(mine, t, [&](int j) {
            const double c = s.c[j] + mine.over_cols * s.g[j];
            const double d = c > 0 ? -s.v[j] * col_sum(s, mine, j) / c : 0.0;
            s.dy[j] = d;
            top_y = larger(top_y, d);
            low_y = larger(low_y, -d);
        });
        each_row(mine, t, [&](int i) {
            const double d = s.dx[i];
            if (row_active(mine, i)) slope += (s.h[i] - s.r[i]) * d;
            top_x = larger(top_x, d);
            low_x = larger(low_x, -d);
        });
        if (t < vectors) put(s, t, slope, top_x, top_y, low_x, low_y);
        mine.nit_cg += mine.cg;
        mine.cg = 0;
        reduce(mine, 0b00001, stage::aim);
    }
    AITKEN_HD void aim(shared& s, local& mine, int t) const {
        mine.slope = total(s, mine, 0);
        const double top_x = total(s, mine, 1), top_y = total(s, mine, 2);
        const double low_x = -total(s, mine, 3), low_y = -total(s, mine, 4);
        // Along (1, -1), where that changes nothing, so that max d_x = max d_y.
        const double shift = mine.uneven ? 0.0 : 0.5 * (top_y - top_x);
        // No entry of the plan grows by more than e^30 or shrinks by more than e^300; no target grows by
        // more.
        const double plan =
            larger((top_x + top_y) / 30.0, larger(-(low_x + shift) / 300.0, -(low_y - shift) / 300.0));
        const double reach =
            larger(plan, larger(-mine.over_rows * low_x / 30.0, -mine.over_cols * low_y / 30.0));
        ++mine.nit_newton;
        if (!(mine.slope > 0) || !finite(reach)) return give_up_step(mine);
        mine.alpha = reach > 1.0 ? 1.0 / reach : 1.0;
        mine.halving = 0;
        each_row(mine, t, [&](int i) { s.dx[i] += shift; });
        each_col(mine, t, [&](int j) { s.dy[j] -= shift; });
        attempt(s, mine, t);
    }
    AITKEN_HD static void give_up_step(local& mine) {  // scaling is the step
        mine.alpha = 0;
        mine.step_weight = 1;
        mine.now = stage::rescale;
    }
    AITKEN_HD void attempt(shared& s, local& mine, int t) const {
        ++mine.n_trials;
        each_row(mine, t, [&](int i) { s.p[i] = std::expm1(mine.alpha * s.dx[i]); });
        each_col(mine, t, [&](int j) { s.q[j] = std::expm1(mine.alpha * s.dy[j]); });
        sum_rows_by(mine, s.v, s.q, stage::trial_rows);
    }
    // What a soft target h adds to the drop: (rho / eps) h (expm1(-s) + s), s = (eps / rho) alpha d.
    AITKEN_HD static double soft_drop(double h, double over, double move) {
        if (!(over > 0)) return 0.0;
        const double s = -over * move;
        return h / over * trial_measure::expm1_minus(s, std::expm1(s));
    }
    AITKEN_HD static double moved_target(double h, double over, double move) {
        return over > 0 ? h * std::exp(-over * move) : h;
    }
    AITKEN_HD void trial_rows(shared& s, local& mine, int t) const {
        double drop = 0, size = 0, after = 0, widest = 0;
        each_row(mine, t, [&](int i) {
            const double move = mine.alpha * s.dx[i], pq = s.u[i] * row_sum(s, mine, i);
            const double own =
                s.r[i] * trial_measure::expm1_minus(move, s.p[i]) + soft_drop(s.h[i], mine.over_rows, move);
            const double cross = s.p[i] * pq;
            s.res[i] = pq;
            drop += own + cross;
            size += own + std::fabs(cross);
            after += std::fabs(moved_target(s.h[i], mine.over_rows, move) - (1.0 + s.p[i]) * (s.r[i] + pq));
            widest = larger(widest, std::fabs(move));
        });
        if (t < vectors) put(s, t, drop, size, after, widest);
        sum_cols_by(mine, s.u, s.p, stage::trial_cols);
    }
    AITKEN_HD void trial_cols(shared& s, local& mine, int t) const {
        each_col(mine, t, [&](int j) {
            const double move = mine.alpha * s.dy[j], ptp = s.v[j] * col_sum(s, mine, j);
            const double own =
                s.c[j] * trial_measure::expm1_minus(move, s.q[j]) + soft_drop(s.g[j], mine.over_cols, move);
            s.sum[0][t] += own;
            s.sum[1][t] += own;
            s.sum[2][t] +=
                std::fabs(moved_target(s.g[j], mine.over_cols, move) - (1.0 + s.q[j]) * (s.c[j] + ptp));
            s.sum[3][t] = larger(s.sum[3][t], std::fabs(move));
        });
        reduce(mine, 0b00111, stage::judge);
    }
    AITKEN_HD void judge(shared& s, local& mine, int t) const {
        const double drop = total(s, mine, 0), after = total(s, mine, 2);
        const double noise =
            16 * std::numeric_limits<double>::epsilon() * (1.0 + total(s, mine, 3)) * total(s, mine, 1);
        const double allowed = (1.0 - 1e-4) * mine.alpha * mine.slope;
        if (!(drop <= allowed || (drop <= allowed + noise && after <= mine.err_sum))) {
            if (++mine.halving == 40) return give_up_step(mine);
            mine.alpha *= 0.5;
            return attempt(s, mine, t);
        }
        // Damped steps raise the dual without lowering the error yet: they count a tenth.
        mine.step_weight = mine.alpha < 0.5 ? 0.1 : 1.0;
        each_row(mine, t, [&](int i) {
            s.u[i] *= 1.0 + s.p[i];
            s.h[i] = moved_target(s.h[i], mine.over_rows, mine.alpha * s.dx[i]);
            s.r[i] = (1.0 + s.p[i]) * (s.r[i] + s.res[i]);
            if (row_mass(mine, i) > 0) scale_row(s, mine, i);
        });
        each_col(mine, t, [&](int j) {
            s.v[j] *= 1.0 + s.q[j];
            s.g[j] = moved_target(s.g[j], mine.over_cols, mine.alpha * s.dy[j]);
        });
        mine.by_sweep = false;
        sum_cols_by(mine, s.u, nullptr, stage::scale_columns);
    }

    // --- the end ---------------------------------------------------------------------------------

    // K at the absorbed potentials is the plan; its error, recomputed, is the certificate.
    AITKEN_HD void certify(local& mine) const {
        if (mine.eps != mine.reg) {  // stopped inside a stage: an exact iteration at the target
            mine.in = loop::certify;
            rebuild(mine, mine.reg, stage::row_peak);
            --mine.nit_sinkhorn;
            return;
        }
        rebuild(mine, mine.reg, stage::plan);
    }
    AITKEN_HD void plan(shared& s, local& mine, int) const {
        my_row(mine, [&](int i, int to, int first, int last) {
            double sum = 0;
            for (int j = first; j < last; ++j) {
                T& k = s.k[i * mine.ld + j];
                const double e = entry_exp<T>((s.y[j] + s.x[i] - static_cast<double>(k)) * mine.inv_eps);
                k = static_cast<T>(e);
                sum += e;
            }
            s.part[to] = sum;
        });
        mine.now = stage::plan_rows;
    }
    AITKEN_HD void plan_rows(shared& s, local& mine, int t) const {
        double err = 0, mass = 0;
        each_row(mine, t, [&](int i) {
            s.r[i] = row_sum(s, mine, i);
            err += std::fabs(s.h[i] - s.r[i]);
            mass += s.r[i];
        });
        if (t < vectors) put(s, t, err, mass);
        sum_cols_by(mine, s.u, nullptr, stage::plan_cols);
    }
    AITKEN_HD void plan_cols(shared& s, local& mine, int t) const {
        each_col(mine, t, [&](int j) {
            s.c[j] = col_sum(s, mine, j);
            s.sum[0][t] += std::fabs(s.g[j] - s.c[j]);
        });
        reduce(mine, 0b00011, stage::judge_plan);
    }
    // A solve that thought itself done and is not goes on from there, twice.
    AITKEN_HD void judge_plan(shared& s, local& mine) const {
        mine.mass = total(s, mine, 1);
        mine.err = total(s, mine, 0) / unit(mine, mine.mass);
        const bool good = mine.err <= set.tol;
        if (mine.solved && !good && ++mine.attempt <= 2) {
            if (out_of_budget(mine)) {
                mine.outcome = status::max_iterations;
                mine.reason = small_end::budget;
                mine.solved = false;
            } else {
                mine.in = mine.newton ? loop::newton : loop::sinkhorn;
                mine.last_stage = true;
                if (mine.newton) enter_newton(mine);
                mine.impatient = false;
                mine.aim = 0.5 * mine.goal;
                mine.by_sweep = false;
                return sum_cols_by(mine, s.u, nullptr, stage::scale_columns);
            }
        } else if (mine.solved && !good) {
            mine.outcome = status::stagnated;
            mine.reason = small_end::certificate;
        }
        if (good) {
            mine.outcome = status::converged;
            mine.reason = small_end::none;
        } else if (!finite(mine.err)) {
            mine.outcome = status::nonfinite;
            mine.reason = small_end::not_finite;
        }
        mine.now = stage::values;
    }

    // <C, P>, the plan, and potentials of the kl form in dx, dy: c-transforms where a bin has no mass, damped
    // on soft sides.
    AITKEN_HD void values(shared& s, local& mine, int t) const {
        double linear = 0;
        each_cost(mine, t, [&](int i, int j, T c, int at) {
            const T e = s.k[at];
            if (e != 0) linear += static_cast<double>(e) * static_cast<double>(c);
            if (mine.task->plan) mine.task->plan[i * mine.task->plan_ld + j] = e;
        });
        s.other[t] = linear;
        // A side's part of the dual value; hard sides are a.f.
        const auto worth = [](double mass, double f, double rho) {
            return rho < infinity ? -rho * mass * std::expm1(-f / rho) : mass * f;
        };
        double of_rows = 0, of_cols = 0;
        each_row(mine, t, [&](int i) {
            const double mass = row_mass(mine, i);
            s.dx[i] = mass > 0 ? s.x[i] - mine.reg * std::log(mass)
                               : transform(s.y, mine, i, true) / (1.0 + mine.over_rows);
            if (mass > 0) of_rows += worth(mass, s.dx[i], mine.rho_rows);
        });
        each_col(mine, t, [&](int j) {
            const double mass = col_mass(mine, j);
            s.dy[j] = mass > 0 ? s.y[j] - mine.reg * std::log(mass)
                               : transform(s.x, mine, j, false) / (1.0 + mine.over_cols);
            if (mass > 0) of_cols += worth(mass, s.dy[j], mine.rho_cols);
        });
        if (t < vectors) put(s, t, of_rows, of_cols);
        reduce(mine, 0b00011, stage::write);
    }
    // -eps log sum exp((potential - C) / eps) along a line of C.
    AITKEN_HD static double transform(const double* potential, const local& mine, int l, bool row) {
        const int length = row ? mine.m : mine.n;
        const auto entry = [&](int e) {
            const int i = row != mine.swapped ? l : e, j = row != mine.swapped ? e : l;
            const T c = mine.task->cost[i * mine.task->cost_ld + j] - mine.offset;
            return potential[e] - static_cast<double>(c);
        };
        double top = -infinity, sum = 0;
        for (int e = 0; e < length; ++e) top = larger(top, entry(e));
        if (!(top > -infinity)) return infinity;
        for (int e = 0; e < length; ++e) sum += std::exp((entry(e) - top) * mine.inv_eps);
        return -top - mine.eps * std::log(sum);
    }
    AITKEN_HD void write(shared& s, local& mine, int t) const {
        const double of_rows = total(s, mine, 0), of_cols = total(s, mine, 1);
        const double shift = mine.uneven ? 0.0 : 0.5 * (of_rows - of_cols);  // the gauge a.f = b.g
        double *const f = mine.swapped ? mine.task->g : mine.task->f, *const g = mine.swapped ? mine.task->f
                                                                                              : mine.task->g;
        const double offset = static_cast<double>(mine.offset);
        each_row(mine, t, [&](int i) { f[i] = s.dx[i] - shift + 0.5 * offset; });
        each_col(mine, t, [&](int j) { g[j] = s.dy[j] + shift + 0.5 * offset; });
        if (t == 0) {
            small_outcome out{};
            for (int k = 0; k < Threads; ++k) out.linear += s.other[k];
            out.linear += offset;
            out.offset = offset;
            out.err = mine.err;
            out.mass = mine.mass;
            out.mass_a = mass_a(mine);
            out.mass_b = mass_b(mine);
            out.range = mine.range;
            const double whole = mine.uneven ? mine.row_mass * mine.col_mass : 1.0;
            out.value = of_rows + of_cols - mine.reg * (mine.mass - whole) + offset;
            out.status = static_cast<int>(mine.outcome);
            out.end = static_cast<int>(mine.reason);
            out.newton = mine.newton ? 1 : 0;
            out.nit_sinkhorn = mine.nit_sinkhorn;
            out.nit_newton = mine.nit_newton;
            out.nit_cg = mine.nit_cg;
            out.n_exp = mine.n_exp;
            out.n_trials = mine.n_trials;
            outcomes[mine.task->number] = out;
        }
        mine.now = stage::done;
    }
};

}  // namespace aitken::cuda
