// The kernels of SOR and SSOR-CG as block programs: whole solves of many small systems, a block each, and the
// passes of drivers/relaxation.hpp over one large system. Semantics are those of that driver.
//
// Relaxing row i with residual w (the newest x) changes x_i by omega w / a_ii. With u the sum over the rows
// swept later, r = q - u is the residual of the x that the next sweep meets, where q = (1 - omega) w + u is
// kept from this sweep and u comes from the next: 16 B a row in place of a product with A.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>

#include "core/api/relaxation.hpp"
#include "core/status.hpp"
#include "core/views.hpp"
#include "cuda/program.hpp"
#include "cuda/vector_blocks.hpp"
#include "sparse/stencil.hpp"

namespace aitken::cuda {

// --- many systems, a block each ------------------------------------------------------------------

// The rows of one pattern in the order of the levels of the natural sweep, in device memory. A row's entries
// are where they are in A, so that systems share all of this and bring their values alone.
struct swept_row {
    std::int32_t row, first, lower, upper,
        last;  // first .. lower, the diagonal if lower < upper, upper .. last

    AITKEN_HD double diagonal(const double* values) const { return lower < upper ? values[lower] : 0; }
};
struct wavefronts {
    index n, levels;
    const std::int32_t* starts;  // levels + 1: places of each level
    const swept_row* rows;       // by place
    const std::int32_t* column;  // of every entry of A: the place of its column
};

struct swept_system {
    double residual, target;
    index iterations;
    int status;
};

struct sor_limits {
    aitken::relaxation::direction sweep;
    aitken::relaxation::reference norm;
    double rtol, atol;
    index max_sweeps;
};

// Solves one system per block, from load to certificate. Rounds are levels (a barrier each), and two more for
// each sum over the rows. x, q, b and the inverse diagonal lie in shared memory for n <= Capacity, in `room`
// (4 n numbers per block) for Capacity 0; values and columns come through the cache: 12 B and 2 flops per
// entry, 28 B a row and sweep. A diagonal that cannot be divided by is status::breakdown at once; right-hand
// sides whose squares leave the range of doubles are status::nonfinite.
template <int Threads, int Capacity>
struct sor_systems {
    static constexpr int threads = Threads, groups = 32, capacity = Capacity;
    static constexpr int steps = 1, closings = 1;
    enum class stage { load, measure, sweep, gather, decide, done };
    struct shared {
        double part[threads], segment[groups];
        double rows[Capacity > 0 ? 4 * Capacity : 1];
    };
    struct local {
        stage now, summed;  // summed: the stage that the sum under way belongs to
        bool measured, fresh, backward, blown, broken;
        status outcome;
        index level, sweeps, passed;
        double omega, shift, sum;
        double norm_b, first, residual, target;
    };

    aitken::relaxation::batch_problem systems;  // in device memory
    index first_system, count;
    wavefronts a;
    sor_limits limits;
    double* room;
    swept_system* out;

    sor_systems(const aitken::relaxation::batch_problem& systems_, index first_, index count_,
                const wavefronts& a_, const sor_limits& limits_, double* room_, swept_system* out_)
        : systems(systems_),
          first_system(first_),
          count(count_),
          a(a_),
          limits(limits_),
          room(room_),
          out(out_) {}
    index blocks() const { return count; }
    AITKEN_HD index system(place at) const { return first_system + at.block; }
    AITKEN_HD const double* values(place at) const {
        return systems.values + system(at) * systems.value_stride;
    }
    // Four arrays by place: x, q, b and 1 / a_ii.
    AITKEN_HD double* memory(shared& s, place at) const {
        if constexpr (Capacity > 0)
            return s.rows;
        else
            return room + at.block * 4 * a.n;
    }

    AITKEN_HD void open(local& mine, place at) const {
        mine.now = stage::load;
        mine.measured = mine.backward = mine.blown = mine.broken = false;
        mine.fresh = true;
        mine.level = mine.sweeps = mine.passed = 0;
        mine.omega = systems.omegas ? systems.omegas[system(at)] : 1;
        mine.shift = systems.shifts ? systems.shifts[system(at)] : 0;
        mine.sum = 0;
    }
    AITKEN_HD bool go_on(const local& mine) const { return mine.now != stage::done; }

    template <int>
    AITKEN_HD void step(shared& s, local& mine, place at, index) const {
        const int t = at.thread;
        switch (mine.now) {
            case stage::load:
                s.part[t] = load(s, mine, at);
                mine.summed = stage::load;
                mine.now = stage::gather;
                break;
            case stage::measure:
                s.part[t] = measure(s, mine, at);
                mine.summed = stage::measure;
                mine.now = stage::gather;
                break;
            case stage::sweep:
                sweep_level(s, mine, at);
                break;
            case stage::gather: {
                if (t < groups) {
                    double sum = s.part[t];
                    for (int k = t + groups; k < threads; k += groups) sum += s.part[k];
                    s.segment[t] = sum;
                }
                mine.now = stage::decide;
                break;
            }
            case stage::decide: {
                double sum = 0;
                for (int g = 0; g < groups; ++g) sum += s.segment[g];
                decide(s, mine, at, sum);
                break;
            }
            case stage::done:
                break;
        }
    }

    template <int>
    AITKEN_HD void close(shared& s, local& mine, place at) const {
        if (at.thread == 0)
            out[system(at)] = {mine.residual, mine.target, mine.passed, static_cast<int>(mine.outcome)};
        const double* const x = memory(s, at);
        double* const to = systems.x.row(system(at));
        for (index k = at.thread; k < a.n; k += threads) to[a.rows[k].row] = x[k];
    }

private:
    static constexpr double blow_up = 1e8, smallest = std::numeric_limits<double>::min();

    // This thread's share of ||b||^2; -infinity if it saw a diagonal that cannot be divided by.
    AITKEN_HD double load(shared& s, const local& mine, place at) const {
        double* const x = memory(s, at);
        double *const b = x + 2 * a.n, *const scale = x + 3 * a.n;
        const double *const v = values(at), *const from = systems.b.row(system(at));
        const double* const start = systems.x.row(system(at));
        double sum = 0;
        for (index k = at.thread; k < a.n; k += threads) {
            const swept_row r = a.rows[k];
            const double d = r.diagonal(v) + mine.shift;
            x[k] = start[r.row];
            b[k] = from[r.row];
            scale[k] = 1 / d;
            sum += b[k] == 0 ? 0 : larger(b[k] * b[k], smallest);  // 0 for zeros alone
            if (!(d - d == 0) || d == 0) sum = -infinity;
        }
        return sum;
    }

    // This thread's share of ||b - A x||^2, as it is defined.
    AITKEN_HD double measure(shared& s, const local& mine, place at) const {
        const double* const x = memory(s, at);
        const double *const b = x + 2 * a.n, *const v = values(at);
        double sum = 0;
        for (index k = at.thread; k < a.n; k += threads) {
            const swept_row r = a.rows[k];
            double r_k = b[k] - mine.shift * x[k];
            for (index e = r.first; e < r.last; ++e) r_k -= v[e] * x[a.column[e]];
            sum += r_k * r_k;
        }
        return sum;
    }

    AITKEN_HD void sweep_level(shared& s, local& mine, place at) const {
        double* const x = memory(s, at);
        double* const q = x + a.n;
        const double *const b = x + 2 * a.n, *const scale = x + 3 * a.n, *const v = values(at);
        const index level = mine.backward ? a.levels - 1 - mine.level : mine.level;
        for (index k = a.starts[level] + at.thread; k < a.starts[level + 1]; k += threads) {
            const swept_row r = a.rows[k];
            double lower = 0, upper = 0;
            for (index e = r.first; e < r.lower; ++e) lower += v[e] * x[a.column[e]];
            for (index e = r.upper; e < r.last; ++e) upper += v[e] * x[a.column[e]];
            const double late = mine.backward ? lower : upper;
            if (!mine.fresh) {
                const double met = q[k] - late;
                mine.sum += met * met;
            }
            const double w = b[k] - lower - upper - (r.diagonal(v) + mine.shift) * x[k];
            q[k] = (1 - mine.omega) * w + late;
            x[k] += mine.omega * scale[k] * w;
        }
        if (++mine.level < a.levels) return;
        mine.level = 0;
        if (limits.sweep == aitken::relaxation::direction::symmetric) {
            mine.backward = !mine.backward;
            if (mine.backward) return;
            mine.passed = ++mine.sweeps;
            mine.now = stage::measure;  // the sweep that follows has not this direction
            return;
        }
        mine.passed = ++mine.sweeps;
        if (mine.fresh) {
            mine.fresh = false;
            mine.now = mine.sweeps < limits.max_sweeps ? stage::sweep : stage::measure;
            return;
        }
        s.part[at.thread] = mine.sum;
        mine.sum = 0;
        mine.summed = stage::sweep;
        mine.now = stage::gather;
    }

    AITKEN_HD void decide(shared& s, local& mine, place at, double sum) const {
        if (mine.summed == stage::load) {
            mine.broken = sum < 0;
            mine.norm_b = mine.broken ? 0 : std::sqrt(sum);
            mine.now = stage::measure;
            return;
        }
        const double norm = std::sqrt(sum);
        if (mine.summed == stage::measure) {
            if (!mine.measured) return begin(s, mine, at, norm);
            return judge(mine, norm);
        }
        // Of the x that this sweep met. What it says is checked on the x there is now.
        mine.blown = grown(mine, norm);
        if (norm <= mine.target) mine.passed = mine.sweeps - 1;
        mine.now = norm <= mine.target || mine.blown || mine.sweeps >= limits.max_sweeps ? stage::measure
                                                                                         : stage::sweep;
    }
    AITKEN_HD static bool grown(const local& mine, double norm) { return !(norm <= blow_up * mine.first); }

    AITKEN_HD void begin(shared& s, local& mine, place at, double norm) const {
        mine.measured = true;
        mine.first = mine.residual = norm;
        const bool to_b = limits.norm == aitken::relaxation::reference::b || mine.broken;
        mine.target = larger(limits.rtol * (to_b ? mine.norm_b : norm), limits.atol);
        mine.backward = limits.sweep == aitken::relaxation::direction::backward;
        if (mine.broken) return finish(mine, status::breakdown);
        if (mine.norm_b == 0) {
            for (index k = at.thread; k < a.n; k += threads) memory(s, at)[k] = 0;
            mine.residual = 0;
            return finish(mine, status::converged);
        }
        if (!(norm - norm == 0) || mine.norm_b < 1e-140) return finish(mine, status::nonfinite);
        if (norm <= mine.target) return finish(mine, status::converged);
        if (limits.max_sweeps <= 0) return finish(mine, status::max_iterations);
        mine.now = stage::sweep;
    }

    // The certificate.
    AITKEN_HD void judge(local& mine, double norm) const {
        mine.residual = norm;
        if (mine.blown || grown(mine, norm)) {
            mine.passed = mine.sweeps;
            return finish(mine, status::diverged);
        }
        if (norm <= mine.target) return finish(mine, status::converged);
        mine.passed = mine.sweeps;
        if (mine.sweeps >= limits.max_sweeps) return finish(mine, status::max_iterations);
        mine.now = stage::sweep;
    }

    AITKEN_HD void finish(local& mine, status how) const {
        mine.outcome = how;
        mine.now = stage::done;
    }
};

// --- one system, the whole device ----------------------------------------------------------------

// Which sums of a row are asked for.
enum class half { both, earlier, later };

// Matrices that one system is swept with. Items are what threads are given, most of them a row; those of a
// level follow each other, and are relaxed at the same time. All pointers are device addresses.
template <class M>
concept SweptMatrix = requires(const M& a, index i, typename M::row& r, const typename M::row& c,
                               const double* x, double& sum) {
    { a.begin(i) } -> std::same_as<index>;   // items of level i: begin(i) .. begin(i + 1)
    { a.find(i, r) } -> std::same_as<bool>;  // false: this item is no row
    { a.place(c) } -> std::same_as<index>;   // of the row's entry in vectors
    { a.diagonal(c) } -> std::same_as<double>;
    { a.inverse(c) } -> std::same_as<double>;
    a.sums(c, x, sum, sum, half::both);  // over the rows that a forward sweep takes earlier, and later
};

// sparse/sweep.hpp: eight threads share a slice, a lane each. 8 B and 2 flops per entry and 4 B more where
// columns are gathered; 5 B per slice column.
struct sliced_matrix {
    struct row {
        index slice, place;
        int lane;
    };
    const index *group_begin, *row_begin, *entries, *middle;
    const std::int32_t *run, *columns;
    const std::uint8_t* lanes;
    const double *values, *diagonals, *inverses;  // by slot, and by place

    AITKEN_HD index begin(index level) const { return 8 * group_begin[level]; }
    AITKEN_HD bool find(index item, row& r) const {
        r.slice = item / 8;
        r.lane = static_cast<int>(item % 8);
        r.place = row_begin[r.slice] + r.lane;
        return r.place < row_begin[r.slice + 1];
    }
    AITKEN_HD index place(const row& r) const { return r.place; }
    AITKEN_HD double diagonal(const row& r) const { return diagonals[r.place]; }
    AITKEN_HD double inverse(const row& r) const { return inverses[r.place]; }
    AITKEN_HD void sums(const row& r, const double* x, double& earlier, double& later, half asked) const {
        const index cut = middle[r.slice];
        earlier = asked == half::later ? 0 : sum(r, x, entries[r.slice], cut);
        later = asked == half::earlier ? 0 : sum(r, x, cut, entries[r.slice + 1]);
    }
    AITKEN_HD double sum(const row& r, const double* x, index from, index to) const {
        double total = 0;
        for (index q = from; q < to; ++q) {
            if ((lanes[q] >> r.lane & 1) == 0) continue;
            const index slot = 8 * q + r.lane;
            total += values[slot] * x[run[q] >= 0 ? run[q] + r.lane : columns[slot]];
        }
        return total;
    }
};

// Constant coefficients on a box of points, in red-black order on vectors in the natural one. Level 0 is the
// colour of the first point. An item is one of two neighbours along the last axis: both colours read all
// cache lines of x, so a row costs 48 B and 13 flops a sweep in three dimensions, no matrix entry among them.
struct stencil_matrix {
    struct row {
        index at[3], place;
    };
    grid_stencil stencil;
    double center, inverse_center;  // with the shift

    stencil_matrix() = default;
    stencil_matrix(const grid_stencil& s, double shift)
        : stencil(s), center(s.center + shift), inverse_center(1 / (s.center + shift)) {}

    AITKEN_HD index pairs() const { return (stencil.extent[2] + 1) / 2; }
    AITKEN_HD index begin(index level) const {
        return level * stencil.extent[0] * stencil.extent[1] * pairs();
    }
    AITKEN_HD bool find(index item, row& r) const {
        const index color = item >= begin(1), in = item - begin(color), line = in / pairs();
        r.at[0] = line / stencil.extent[1];
        r.at[1] = line % stencil.extent[1];
        r.at[2] = 2 * (in % pairs()) + (r.at[0] + r.at[1] + color) % 2;
        r.place = line * stencil.extent[2] + r.at[2];
        return r.at[2] < stencil.extent[2];
    }
    AITKEN_HD index place(const row& r) const { return r.place; }
    AITKEN_HD double diagonal(const row&) const { return center; }
    AITKEN_HD double inverse(const row&) const { return inverse_center; }
    // All neighbours have the other colour.
    AITKEN_HD void sums(const row& r, const double* x, double& earlier, double& later, half) const {
        double sum = 0;
        index stride = 1;
        AITKEN_UNROLL
        for (int axis = 2; axis >= 0; --axis) {
            if (r.at[axis] > 0) sum += stencil.before[axis] * x[r.place - stride];
            if (r.at[axis] + 1 < stencil.extent[axis]) sum += stencil.after[axis] * x[r.place + stride];
            stride *= stencil.extent[axis];
        }
        const bool red = (r.at[0] + r.at[1] + r.at[2]) % 2 == 0;
        earlier = red ? 0 : sum;
        later = red ? sum : 0;
    }
};

static_assert(SweptMatrix<sliced_matrix> && SweptMatrix<stencil_matrix>);

// Squares that a pass over rows adds up.
struct sweep_sums {
    double before, change;
};

// `blocks` blocks on levels first .. first + count: many on a single level, or one on several, with a barrier
// after each. Flat: many on all of them at once, for what has no order.
struct sweep_walk {
    index first, count, blocks;
    bool flat;
};

// One sweep over the levels of a walk; 24 B of vectors a row beside x of the neighbours.
template <class M>
struct relax_rows {
    M a;
    const double* b;
    double *x, *q;
    double omega;
    bool fresh, backward;  // fresh: q is of no use yet

    AITKEN_HD void visit(index item, sweep_sums& sum) const {
        typename M::row r;
        if (!a.find(item, r)) return;
        const index i = a.place(r);
        double earlier, later;
        a.sums(r, x, earlier, later, half::both);
        const double late = backward ? earlier : later, old = x[i];
        if (!fresh) {
            const double met = q[i] - late;
            sum.before += met * met;
        }
        const double w = b[i] - earlier - later - a.diagonal(r) * old;
        const double change = omega * a.inverse(r) * w;
        q[i] = (1 - omega) * w + late;
        x[i] = old + change;
        sum.change += change * change;
    }
    AITKEN_HD bool descending() const { return backward; }
};

// ||b - A x||^2 in `before`, and b - A x unless r is null.
template <class M>
struct residual_squares {
    M a;
    const double *b, *x;
    double* r;

    AITKEN_HD void visit(index item, sweep_sums& sum) const {
        typename M::row row;
        if (!a.find(item, row)) return;
        const index i = a.place(row);
        double earlier, later;
        a.sums(row, x, earlier, later, half::both);
        const double w = b[i] - earlier - later - a.diagonal(row) * x[i];
        if (r) r[i] = w;
        sum.before += w * w;
    }
    AITKEN_HD bool descending() const { return false; }
};

// --- the solves of SSOR-CG, N = D/w + L and N' = D/w + U -----------------------------------------

// v = N^-1 c, v' D v.
template <class M>
struct lower_rows {
    M a;
    const double* c;
    double* v;
    double omega;

    AITKEN_HD void visit(index item, sweep_sums& sum) const {
        typename M::row r;
        if (!a.find(item, r)) return;
        const index i = a.place(r);
        double earlier, later;
        a.sums(r, v, earlier, later, half::earlier);
        const double v_i = (c[i] - earlier) * omega * a.inverse(r);
        v[i] = v_i;
        sum.before += v_i * a.diagonal(r) * v_i;
    }
    AITKEN_HD bool descending() const { return false; }
};

// p = D r + (*rz / *rz_old) p and t = N'^-1 p.
template <class M>
struct direction_rows {
    M a;
    const double *rz, *rz_old, *r;
    double *p, *t;
    double omega;

    AITKEN_HD void visit(index item, sweep_sums&) const {
        typename M::row row;
        if (!a.find(item, row)) return;
        const index i = a.place(row);
        double earlier, later;
        a.sums(row, t, earlier, later, half::later);
        const double p_i = a.diagonal(row) * r[i] + *rz / *rz_old * p[i];
        p[i] = p_i;
        t[i] = (p_i - later) * omega * a.inverse(row);
    }
    AITKEN_HD bool descending() const { return true; }
};

// w = N^-1 (p - (2/w - 1) D t), p' (t + w).
template <class M>
struct image_rows {
    M a;
    const double *p, *t;
    double* w;
    double omega;

    AITKEN_HD void visit(index item, sweep_sums& sum) const {
        typename M::row r;
        if (!a.find(item, r)) return;
        const index i = a.place(r);
        double earlier, later;
        a.sums(r, w, earlier, later, half::earlier);
        const double right = p[i] - (2 / omega - 1) * a.diagonal(r) * t[i];
        const double w_i = (right - earlier) * omega * a.inverse(r);
        w[i] = w_i;
        sum.before += p[i] * (t[i] + w_i);
    }
    AITKEN_HD bool descending() const { return false; }
};

// x += f t, r -= f (t + w), r' D r; f = *rz / *pq, or 0 unless *pq > 0.
template <class M>
struct advance_rows {
    M a;
    const double *rz, *pq, *t, *w;
    double *x, *r;

    AITKEN_HD void visit(index item, sweep_sums& sum) const {
        typename M::row row;
        if (!a.find(item, row)) return;
        const index i = a.place(row);
        const double f = *pq > 0 ? *rz / *pq : 0;
        x[i] += f * t[i];
        const double r_i = r[i] - f * (t[i] + w[i]);
        r[i] = r_i;
        sum.before += r_i * a.diagonal(row) * r_i;
    }
    AITKEN_HD bool descending() const { return false; }
};

// ||N r||^2.
template <class M>
struct lower_squares {
    M a;
    const double* r;
    double omega;

    AITKEN_HD void visit(index item, sweep_sums& sum) const {
        typename M::row row;
        if (!a.find(item, row)) return;
        double earlier, later;
        a.sums(row, r, earlier, later, half::earlier);
        const double n_r = a.diagonal(row) / omega * r[a.place(row)] + earlier;
        sum.before += n_r * n_r;
    }
    AITKEN_HD bool descending() const { return false; }
};

// op.visit(item, sums) for the items of a walk, and the sums of each block in part.
template <class Op>
struct sweep_pass {
    static constexpr int threads = 512, groups = 32;
    static constexpr int steps = 1, closings = 3;
    struct shared {
        sweep_sums sum[threads], segment[groups];
    };
    struct local {
        sweep_sums sum;
    };
    Op op;
    sweep_walk walk;
    sweep_sums* part;

    sweep_pass(const Op& op_, const sweep_walk& walk_, sweep_sums* part_)
        : op(op_), walk(walk_), part(part_) {}
    index blocks() const { return walk.blocks; }

    AITKEN_HD void open(local& mine, place) const { mine.sum = {0, 0}; }
    AITKEN_HD index rounds(place) const { return walk.flat ? 1 : walk.count; }

    template <int>
    AITKEN_HD void step(shared&, local& mine, place at, index round) const {
        const index level = walk.first + (op.descending() ? walk.count - 1 - round : round);
        const index end = op.a.begin(walk.flat ? walk.first + walk.count : level + 1);
        const index stride = walk.blocks * threads;
        for (index k = op.a.begin(level) + at.block * threads + at.thread; k < end; k += stride)
            op.visit(k, mine.sum);
    }
    template <int Phase>
    AITKEN_HD void close(shared& s, local& mine, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            s.sum[t] = mine.sum;
        } else if constexpr (Phase == 1) {
            if (t >= groups) return;
            sweep_sums sum = s.sum[t];
            for (int k = t + groups; k < threads; k += groups) add(sum, s.sum[k]);
            s.segment[t] = sum;
        } else {
            if (t != 0) return;
            sweep_sums sum = s.segment[0];
            for (int g = 1; g < groups; ++g) add(sum, s.segment[g]);
            part[at.block] = sum;
        }
    }
    AITKEN_HD static void add(sweep_sums& a, const sweep_sums& b) {
        a.before += b.before;
        a.change += b.change;
    }
};

// The parts of all walks of a sweep; `change` null where nobody asks.
struct total_sums {
    using acc = sweep_sums;
    static constexpr int stages = 1;
    static constexpr bool map_last = false;
    const sweep_sums* part;
    index count;
    double *before, *change;

    AITKEN_HD sweep_sums zero() const { return {0, 0}; }
    AITKEN_HD void combine(sweep_sums& a, const sweep_sums& b) const {
        a.before += b.before;
        a.change += b.change;
    }
    template <int>
    AITKEN_HD void visit(index i, const sweep_sums*, sweep_sums& sum) const {
        combine(sum, part[i]);
    }
    AITKEN_HD void finish(const sweep_sums* total) const {
        *before = total[0].before;
        if (change) *change = total[0].change;
    }
};

// --- into the order of the sweep, and back -------------------------------------------------------

// to[k] = from[rows[k]], or the other way round.
struct gather_places {
    const double* from;
    const std::int32_t* rows;
    double* to;
    AITKEN_HD void operator()(index k) const { to[k] = from[rows[k]]; }
};
struct scatter_places {
    const double* from;
    const std::int32_t* rows;
    double* to;
    AITKEN_HD void operator()(index k) const { to[rows[k]] = from[k]; }
};
// Slots that hold no entry are -1: 0.
struct load_slots {
    const double* values;
    const index* source;
    double* to;
    AITKEN_HD void operator()(index slot) const { to[slot] = source[slot] < 0 ? 0 : values[source[slot]]; }
};
struct load_diagonal {
    const double* values;
    const index* entry;  // -1: none
    double shift;
    double *diagonal, *inverse;
    AITKEN_HD void operator()(index k) const {
        diagonal[k] = (entry[k] < 0 ? 0 : values[entry[k]]) + shift;
        inverse[k] = 1 / diagonal[k];
    }
};

}  // namespace aitken::cuda
