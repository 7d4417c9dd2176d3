// The kernels of batches of small constrained problems as block programs: KKT systems, a block each, and the
// functions of drivers/optimize_batch.hpp, a thread for each problem.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>

#include "core/api/optimize_batch.hpp"
#include "cuda/program.hpp"
#include "cuda/vector_blocks.hpp"
#include "dense/batched_ldlt.hpp"
#include "drivers/optimize_batch.hpp"

namespace aitken::cuda {

// --- KKT systems ---------------------------------------------------------------------------------

// One system: what it is made of and where its answer goes.
struct kkt_task {
    dense::kkt_matrix k;
    const double *rx, *rc, *rs;
    double last, regular;
    double *dx, *dlam;
};
// Gives the tasks by number, and is told how each ended.
template <class S>
concept KktSource = requires(const S& s, index i, const kkt_task& task, const dense::kkt_shift& shift) {
    { s.task(i) } -> std::same_as<kkt_task>;
    s.done(task, shift, true);
};

// dense::solve_kkt, a block per system: factors, shifts until the inertia is right, solves, and refines once.
// The packed triangle is in shared memory up to Capacity unknowns; Capacity 0: up to 128, in `room`.
//
// A row of the trailing triangle is one thread's, so a pivot costs N - k steps of 2 or 4 flops and 5 barriers
// (3 where the diagonal does at once); a solve 2 N barriers. Sums run in an order of their own: the shift is
// the CPU's unless a pivot is zero to rounding, the answer its to rounding.
template <class Source, int Threads, int Capacity>
struct solve_kkt_systems {
    static constexpr int threads = Threads, steps = 1, closings = 0;
    static constexpr int most = Capacity > 0 ? Capacity : 128;
    static constexpr index stored = index{most} * (most + 1) / 2;

    enum class stage {
        fill,
        search,
        across,
        decide,
        swap,
        column,
        update,
        check,
        shift,
        begin,
        forward,
        diagonal,
        backward,
        take,
        residual,
        done
    };
    struct shared {
        double a[Capacity > 0 ? stored : 1];
        double u[most], v[most], b[most], r[most], z[most], x[most], inverse[2 * most];
        double part[Threads], other[Threads], of_j[Threads];
        int at[Threads], order[most];
        dense::inertia in;
        dense::kkt_shift shift;
        double largest_j;
        int right;
    };
    struct local {
        kkt_task task;
        stage now;
        int size, k, row, rows, pass;
        double column;
    };

    Source source;
    double xi;
    index first, count;  // tasks first .. first + count
    double* room;

    index blocks() const { return count; }

    AITKEN_HD void open(local& mine, place at) const {
        mine.task = source.task(first + at.block);
        mine.size = mine.task.k.n + mine.task.k.m;
        mine.now = stage::fill;
        mine.pass = mine.k = -1;  // no attempt yet
    }
    AITKEN_HD bool go_on(const local& mine) const { return mine.now != stage::done; }

    template <int>
    AITKEN_HD void step(shared& s, local& mine, place at, index) const {
        double* const a = matrix(s, at);
        const int n = mine.size, t = at.thread;
        switch (mine.now) {
            case stage::fill:
                return fill(s, mine, a, t);
            case stage::search: {
                if (t == 0 && mine.k == 0) s.in = {0, 0, 0};
                double most_here = 0;
                int where = mine.k;
                for (int i = mine.k + 1 + t; i < n; i += Threads)
                    if (const double w = std::fabs(a[entry(i, mine.k)]); w > most_here) {
                        most_here = w;
                        where = i;
                    }
                s.part[t] = most_here;
                s.at[t] = where;
                mine.now = stage::across;
                return;
            }
            case stage::across:
                return look_across(s, mine, a, t);
            case stage::decide: {
                double across = 0;
                const int used = smaller_of(n - mine.k, Threads);
                for (int q = 0; q < used; ++q) across = larger(across, s.other[q]);
                const double diagonal = std::fabs(a[entry(mine.k, mine.k)]);
                mine.rows = 1;
                if (diagonal * across >= dense::ldlt::threshold * mine.column * mine.column)
                    mine.row = mine.k;
                else if (!(std::fabs(a[entry(mine.row, mine.row)]) >= dense::ldlt::threshold * across))
                    mine.rows = 2;
                mine.now = stage::swap;
                return;
            }
            case stage::swap:
                return swap_rows(s, mine, a, t);
            case stage::column:
                return keep_columns(s, mine, a, t);
            case stage::update:
                return update(s, mine, a, t);
            case stage::check: {
                const bool right = s.in.positive == mine.task.k.n && s.in.negative == mine.task.k.m;
                mine.now = right ? stage::begin : stage::shift;
                mine.pass = 0;
                return;
            }
            case stage::shift:
                if (t == 0)
                    s.right = s.shift.next(s.in, mine.task.k.m, xi, mine.task.last, s.largest_j) ? 1 : 0;
                mine.now = stage::fill;
                return;
            case stage::begin: {
                for (int i = t; i < n; i += Threads) {
                    const int from = s.order[i];
                    if (mine.pass == 0) {
                        const double b =
                            mine.task.k.right(from, mine.task.rx, mine.task.rc, mine.task.rs, s.shift.t);
                        s.b[from] = s.z[i] = b;
                    } else {
                        s.z[i] = s.r[from];
                    }
                }
                mine.k = 0;
                mine.now = stage::forward;
                return;
            }
            case stage::forward: {
                for (int i = mine.k + 1 + t; i < n; i += Threads) s.z[i] -= a[entry(i, mine.k)] * s.z[mine.k];
                if (++mine.k >= n - 1) mine.now = stage::diagonal;
                return;
            }
            case stage::diagonal: {
                const double* const e = s.inverse + most;
                for (int k = t; k < n; k += Threads) {
                    if (k > 0 && e[k - 1] != 0) continue;
                    const double one = s.z[k];
                    s.z[k] = s.inverse[k] * one;
                    if (e[k] == 0) continue;
                    const double two = s.z[k + 1];
                    s.z[k] += e[k] * two;
                    s.z[k + 1] = e[k] * one + s.inverse[k + 1] * two;
                }
                mine.k = n - 1;
                mine.now = stage::backward;
                return;
            }
            case stage::backward: {
                for (int j = t; j < mine.k; j += Threads) s.z[j] -= a[entry(mine.k, j)] * s.z[mine.k];
                if (--mine.k <= 0) mine.now = stage::take;
                return;
            }
            case stage::take:
                for (int i = t; i < n; i += Threads) {
                    double& x = s.x[s.order[i]];
                    x = mine.pass == 0 ? s.z[i] : x + s.z[i];
                }
                mine.now = stage::residual;
                return;
            case stage::residual:
                return look_at_answer(s, mine, t);
            case stage::done:
                return;
        }
    }

private:
    AITKEN_HD static int smaller_of(int a, int b) { return a < b ? a : b; }
    AITKEN_HD static index entry(int row, int column) { return index{row} * (row + 1) / 2 + column; }
    AITKEN_HD double* matrix(shared& s, place at) const {
        if constexpr (Capacity > 0) {
            return s.a;
        } else {
            return room + at.block * stored;
        }
    }

    AITKEN_HD void fill(shared& s, local& mine, double* a, int t) const {
        const int n = mine.size;
        const bool again = mine.pass >= 0;
        if (again && s.right == 0) return end(s, mine, t, false);
        const double shift = again ? s.shift.t : 0, regular = again ? s.shift.regular : mine.task.regular;
        double largest = 0;
        for (int i = 0; i < n; ++i)
            for (int j = t; j <= i; j += Threads) {
                double w = mine.task.k.plain(i, j);
                if (i >= mine.task.k.n) largest = larger(largest, std::fabs(w));
                if (i == j) w = mine.task.k.diagonal(i, w, shift, regular);
                a[entry(i, j)] = w;
            }
        s.of_j[t] = largest;
        for (int i = t; i < n; i += Threads) s.order[i] = i;
        mine.k = 0;
        mine.now = stage::search;
    }
    AITKEN_HD void look_across(shared& s, local& mine, const double* a, int t) const {
        const int n = mine.size, k = mine.k, used = smaller_of(n - k, Threads);
        if (k == 0 && t == 0) {
            if (mine.pass < 0) s.shift = {0, mine.task.regular, 0};
            ++s.shift.attempts;
            s.largest_j = 0;
            for (int q = 0; q < Threads; ++q) s.largest_j = larger(s.largest_j, s.of_j[q]);
        }
        mine.column = 0;
        mine.row = k;
        for (int q = 0; q < used; ++q)
            if (s.part[q] > mine.column ||
                (s.part[q] == mine.column && s.part[q] > 0 && s.at[q] < mine.row)) {
                mine.column = s.part[q];
                mine.row = s.at[q];
            }
        mine.rows = 1;
        if (std::fabs(a[entry(k, k)]) >= dense::ldlt::threshold * mine.column) {
            mine.row = k;
            mine.now = stage::swap;
            return;
        }
        double most_here = 0;
        for (int j = k + t; j < n; j += Threads) {
            if (j == mine.row) continue;
            most_here =
                larger(most_here, std::fabs(a[j < mine.row ? entry(mine.row, j) : entry(j, mine.row)]));
        }
        s.other[t] = most_here;
        mine.now = stage::decide;
    }

    AITKEN_HD void swap_rows(shared& s, local& mine, double* a, int t) const {
        const int n = mine.size, p = mine.k + mine.rows - 1, q = mine.row;
        mine.now = stage::column;
        if (p == q) return;
        for (int j = t; j < n; j += Threads) {
            if (j == q) continue;
            if (j == p) {
                dense::ldlt::swap_numbers(a[entry(p, p)], a[entry(q, q)]);
                const int o = s.order[p];
                s.order[p] = s.order[q];
                s.order[q] = o;
            } else {
                dense::ldlt::swap_numbers(a[j < p ? entry(p, j) : entry(j, p)],
                                          a[j < q ? entry(q, j) : entry(j, q)]);
            }
        }
    }
    AITKEN_HD void keep_columns(shared& s, local& mine, double* a, int t) const {
        const int n = mine.size, k = mine.k, last = k + mine.rows - 1;
        for (int i = last + 1 + t; i < n; i += Threads) {
            s.u[i] = a[entry(i, k)];
            if (mine.rows == 2) s.v[i] = a[entry(i, last)];
        }
        mine.now = stage::update;
        if (t != 0) return;
        double* const e = s.inverse + most;
        if (mine.rows == 1) {
            const double d = a[entry(k, k)];
            dense::ldlt::count_sign(d, s.in);
            s.inverse[k] = dense::invert(d);
            e[k] = 0;
        } else {
            const double d = a[entry(k, k)], b = a[entry(last, k)], c = a[entry(last, last)];
            dense::ldlt::count_signs(d, b, c, s.in);
            const dense::block_inverse by = dense::invert(d, b, c);
            s.inverse[k] = by.d;
            s.inverse[last] = by.next;
            e[k] = by.e;
            e[last] = 0;
            a[entry(last, k)] = 0;
        }
    }
    AITKEN_HD void update(shared& s, local& mine, double* a, int t) const {
        const int n = mine.size, k = mine.k, last = k + mine.rows - 1;
        const double d = s.inverse[k], e = s.inverse[most + k], next = mine.rows == 2 ? s.inverse[last] : 0;
        for (int i = last + 1 + t; i < n; i += Threads) {
            double* const row = a + entry(i, 0);
            if (mine.rows == 1) {
                const double l = s.u[i] * d;
                row[k] = l;
                for (int j = last + 1; j <= i; ++j) row[j] -= l * s.u[j];
            } else {
                const double l1 = d * s.u[i] + e * s.v[i], l2 = e * s.u[i] + next * s.v[i];
                row[k] = l1;
                row[last] = l2;
                for (int j = last + 1; j <= i; ++j) row[j] -= l1 * s.u[j] + l2 * s.v[j];
            }
        }
        mine.k = last + 1;
        mine.now = mine.k < n ? stage::search : stage::check;
    }
    // b - K x, and whether it is worth another solve. Two rounds: rows are summed, then looked at by all.
    AITKEN_HD void look_at_answer(shared& s, local& mine, int t) const {
        const int n = mine.size;
        if (mine.pass == 0) {
            for (int i = t; i < n; i += Threads) {
                double sum =
                    mine.task.k.diagonal(i, mine.task.k.plain(i, i), s.shift.t, s.shift.regular) * s.x[i];
                for (int j = 0; j < n; ++j)
                    if (j != i) sum += (j < i ? mine.task.k.plain(i, j) : mine.task.k.plain(j, i)) * s.x[j];
                s.r[i] = s.b[i] - sum;
            }
            mine.pass = 1;
            return;
        }
        if (mine.pass == 1) {
            double top = 0, error = 0;
            for (int i = 0; i < n; ++i) {
                top = larger(top, std::fabs(s.b[i]));
                error = larger(error, std::fabs(s.r[i]));
            }
            mine.pass = 2;
            if (error > dense::refine_above * top) {
                mine.now = stage::begin;
                return;
            }
        }
        end(s, mine, t, true);
    }
    AITKEN_HD void end(shared& s, local& mine, int t, bool right) const {
        bool finite = true;
        const int n = mine.task.k.n;
        if (right) {
            for (int i = 0; i < mine.size; ++i) finite = finite && std::fabs(s.x[i]) < 1e300;
            for (int i = t; i < mine.size; i += Threads) {
                if (i < n)
                    mine.task.dx[i] = mine.task.k.held(i) ? 0 : s.x[i];
                else
                    mine.task.dlam[i - n] = mine.task.k.empty(i - n) ? 0 : s.x[i];
            }
        }
        mine.now = stage::done;
        if (t == 0) source.done(mine.task, s.shift, right && finite);
    }
};

// From arrays as api::kkt_systems has them.
struct listed_systems {
    aitken::optimize::kkt_systems all;

    AITKEN_HD kkt_task task(index i) const {
        const int n = all.n, m = all.m;
        return {{n, m, all.h + i * n * n, 1, all.d + i * n, all.j + i * m * n, nullptr, all.sigma + i * m},
                all.rx + i * n,
                all.rc + i * m,
                all.rs + i * m,
                all.shift[i],
                all.regular[i],
                all.dx + i * n,
                all.dlam + i * m};
    }
    AITKEN_HD void done(const kkt_task& t, const dense::kkt_shift& shift, bool right) const {
        const index i = (t.dx - all.dx) / all.n;
        all.shift[i] = shift.t;
        all.regular[i] = shift.regular;
        all.attempts[i] = right ? shift.attempts : -shift.attempts;
    }
};

// --- problems ------------------------------------------------------------------------------------

// Records, values and options, as every function over problems has them.
struct batch_call {
    aitken::optimize::batch_problems all;
    aitken::optimize::batch_values values;
    aitken::optimize::batch_options options;

    AITKEN_HD drivers::optimize_batch::problem at(index which) const { return {all, which, options}; }
    AITKEN_HD drivers::optimize_batch::values row(index k) const {
        const index n = all.n, m = all.m;
        return {values.f + k, values.gradient + k * n, values.c + k * m, values.jacobian + k * m * n};
    }
};

struct begin_problems {
    batch_call call;
    const double *starts, *lam;
    AITKEN_HD void operator()(index k) const {
        call.at(k).begin(starts + k * call.all.n, lam ? lam + k * call.all.m : nullptr);
    }
};
struct copy_points {
    batch_call call;
    const std::int32_t* which;
    double* out;
    AITKEN_HD void operator()(index k) const {
        const auto mine = call.at(which[k]);
        for (int j = 0; j < call.all.n; ++j) out[k * call.all.n + j] = mine.next_point()[j];
    }
};
struct copy_hessian_points {
    batch_call call;
    const std::int32_t* which;
    double *x, *v;
    AITKEN_HD void operator()(index k) const {
        const auto mine = call.at(which[k]);
        for (int j = 0; j < call.all.n; ++j) x[k * call.all.n + j] = mine.point()[j];
        for (int i = 0; i < call.all.m; ++i) v[k * call.all.m + i] = mine.multiplier(i);
    }
};
struct judge_problems {
    batch_call call;
    std::uint8_t* next;
    AITKEN_HD void operator()(index k) const {
        next[k] = static_cast<std::uint8_t>(call.at(call.values.problem[k]).judge(call.row(k)));
    }
};
// What a solve leaves for finish_problems.
struct kkt_outcome {
    double shift;
    int right;
};
struct prepare_problems {
    batch_call call;
    const std::int32_t* rows;
    AITKEN_HD void operator()(index k) const {
        const index row = rows[k];
        call.at(call.values.problem[row]).prepare(call.row(row));
    }
};
struct finish_problems {
    batch_call call;
    const std::int32_t* rows;
    const double* hessian;
    const kkt_outcome* outcome;
    std::uint8_t* next;
    AITKEN_HD void operator()(index k) const {
        const index row = rows[k], n = call.all.n;
        const double* const h = hessian ? hessian + k * n * n : nullptr;
        next[row] =
            static_cast<std::uint8_t>(call.at(call.values.problem[row])
                                          .finish(call.row(row), h, outcome[call.values.problem[row]].shift,
                                                  outcome[call.values.problem[row]].right != 0));
    }
};
// The systems that the records of problems hold after prepare; outcomes are by problem.
struct pending_systems {
    batch_call call;
    const std::int32_t* rows;
    const double* hessian;
    kkt_outcome* outcome;

    AITKEN_HD kkt_task task(index k) const {
        const index row = rows[k], n = call.all.n;
        const auto mine = call.at(call.values.problem[row]);
        return {mine.matrix(call.row(row), hessian ? hessian + k * n * n : nullptr),
                mine.rx(),
                mine.rc(),
                mine.rs(),
                mine.last_shift(),
                mine.regular(),
                mine.answer_x(),
                mine.answer_lam()};
    }
    AITKEN_HD void done(const kkt_task& t, const dense::kkt_shift& shift, bool right) const {
        const index size = drivers::optimize_batch::places{call.all.n, call.all.m}.size();
        outcome[(t.dx - call.all.numbers) / size] = {shift.t, right ? 1 : 0};
    }
};

struct note_rows {
    const std::int32_t* problem;
    std::int32_t* row;
    AITKEN_HD void operator()(index k) const { row[problem[k]] = static_cast<std::int32_t>(k); }
};
struct conclude_problems {
    batch_call call;
    const std::int32_t* row;  // of each problem among the values, or -1
    int status_of_others;
    AITKEN_HD void operator()(index k) const {
        if (row[k] < 0) return call.at(k).conclude(nullptr, status_of_others);
        const auto u = call.row(row[k]);
        call.at(k).conclude(&u, status_of_others);
    }
};

}  // namespace aitken::cuda
