// The vector passes of the flexible conjugate directions as block programs; semantics are those of
// drivers/deepcg.hpp.
//
// A pass is cut into strips by its length alone. Its sums are made per strip, then added by one block in the
// order of the strips: two launches, no floating-point atomics, the same bits on every GPU.
#pragma once

#include <cmath>

#include "core/views.hpp"
#include "cuda/multigrid_blocks.hpp"
#include "cuda/program.hpp"
#include "drivers/deepcg.hpp"

namespace aitken::cuda {

// At least 2048 elements a strip, at most 1024 strips: some eight blocks for each multiprocessor of a large
// GPU.
struct long_strips {
    index n, rows, count;

    explicit long_strips(index n_) : n(n_) {
        const index wanted = blocks_for(n_, 2048);
        const index some = wanted > 1024 ? 1024 : wanted < 1 ? 1 : wanted;
        rows = blocks_for(blocks_for(n_ < 1 ? 1 : n_, some), 32) * 32;
        count = n_ > 0 ? blocks_for(n_, rows) : 1;
    }
    AITKEN_HD index begin(index strip) const { return strip * rows; }
    AITKEN_HD index end(index strip) const { return (strip + 1) * rows < n ? (strip + 1) * rows : n; }
};

// What an Op of passes that only add shares. An Op has `sums`, a `state` that begin() makes once per thread
// (coefficients from device scalars), and visit(i, state, sums).
struct adding {
    static AITKEN_HD double combine(int, double a, double b) { return a + b; }
};

// The numbers of one block: combined over its threads. Phases 1 and 2 of three.
template <int Sums, int Threads>
struct block_sums {
    double of[Sums][Threads];
    double segment[Sums][32];

    template <class Op>
    AITKEN_HD void fold(int t) {
        if (t >= 32) return;
        for (int k = 0; k < Sums; ++k) {
            double sum = of[k][t];
            for (int q = t + 32; q < Threads; q += 32) sum = Op::combine(k, sum, of[k][q]);
            segment[k][t] = sum;
        }
    }
    template <class Op>
    AITKEN_HD double total(int k) const {
        double sum = segment[k][0];
        for (int q = 1; q < 32; ++q) sum = Op::combine(k, sum, segment[k][q]);
        return sum;
    }
};

// visit() for every element; part[strip * sums + k].
template <class Op>
struct long_pass : straight {
    static constexpr int threads = 256, sums = Op::sums;
    static constexpr int closings = sums > 0 ? 3 : 1;
    struct nothing_shared {};
    struct shared
        : std::conditional_t<(sums > 0), block_sums<(sums > 0 ? sums : 1), threads>, nothing_shared> {};
    Op op;
    long_strips strips;
    double* part;

    long_pass(Op op_, long_strips strips_, double* part_) : op(op_), strips(strips_), part(part_) {}
    index blocks() const { return strips.count; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            double mine[sums > 0 ? sums : 1] = {};
            const auto state = op.begin();
            for (index i = strips.begin(at.block) + t; i < strips.end(at.block); i += threads)
                op.visit(i, state, mine);
            if constexpr (sums > 0)
                for (int k = 0; k < sums; ++k) s.of[k][t] = mine[k];
        } else if constexpr (Phase == 1) {
            s.template fold<Op>(t);
        } else {
            if (t < sums) part[at.block * sums + t] = s.template total<Op>(t);
        }
    }
};

// The strips' numbers put together; finish(totals) by one thread.
template <class Op, class Finish>
struct long_totals : straight {
    static constexpr int threads = 256, sums = Op::sums, closings = 4;
    struct shared : block_sums<sums, threads> {
        double totals[sums];
    };
    const double* part;
    index strips;
    Finish finish;

    long_totals(const double* part_, index strips_, Finish finish_)
        : part(part_), strips(strips_), finish(finish_) {}
    index blocks() const { return 1; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            for (int k = 0; k < sums; ++k) {
                double mine = 0;  // neutral for sums and for largest magnitudes
                for (index q = t; q < strips; q += threads) mine = Op::combine(k, mine, part[q * sums + k]);
                s.of[k][t] = mine;
            }
        } else if constexpr (Phase == 1) {
            s.template fold<Op>(t);
        } else if constexpr (Phase == 2) {
            if (t < sums) s.totals[t] = s.template total<Op>(t);
        } else {
            if (t == 0) finish(s.totals);
        }
    }
};

// totals[k] to its place; null: nowhere.
template <int Sums>
struct keep_sums {
    double* to[Sums];
    AITKEN_HD void operator()(const double* totals) const {
        for (int k = 0; k < Sums; ++k)
            if (to[k]) *to[k] = totals[k];
    }
};

struct no_state {};

// --- sums ----------------------------------------------------------------------------------------

struct dot_sums : adding {
    static constexpr int sums = 1;
    const double *x, *y;
    dot_sums(const double* x_, const double* y_) : x(x_), y(y_) {}
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&s)[1]) const { s[0] += x[i] * y[i]; }
};

// y = A x on a grid, and x'y.
struct apply_grid_sums : adding {
    static constexpr int sums = 1;
    apply_grid product;
    explicit apply_grid_sums(const apply_grid& p) : product(p) {}
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&s)[1]) const {
        product(i);
        s[0] += product.x[i] * product.y[i];
    }
};

// r = b - r.
struct residual_sums : adding {
    static constexpr int sums = 1;
    const double* b;
    double* r;
    residual_sums(const double* b_, double* r_) : b(b_), r(r_) {}
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&s)[1]) const {
        const double value = b[i] - r[i];
        r[i] = value;
        s[0] += value * value;
    }
};

// p'q, ||p||^2, ||q||^2.
struct energy_sums : adding {
    static constexpr int sums = 3;
    const double *p, *q;
    energy_sums(const double* p_, const double* q_) : p(p_), q(q_) {}
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&s)[3]) const {
        s[0] += p[i] * q[i];
        s[1] += p[i] * p[i];
        s[2] += q[i] * q[i];
    }
};
struct keep_energy {
    double *pq, *size;
    AITKEN_HD void operator()(const double* t) const {
        *pq = t[0];
        *size = std::sqrt(t[1]) * std::sqrt(t[2]);
    }
};

// The 2-norm, or the largest magnitude where squares are no numbers: NaN where an entry is none.
struct length_sums {
    static constexpr int sums = 2;
    const double* v;
    explicit length_sums(const double* v_) : v(v_) {}
    AITKEN_HD no_state begin() const { return {}; }
    static AITKEN_HD double larger_or_nan(double a, double b) { return a != a || b <= a ? a : b; }
    static AITKEN_HD double combine(int k, double a, double b) {
        return k == 0 ? a + b : larger_or_nan(a, b);
    }
    AITKEN_HD void visit(index i, no_state, double (&s)[2]) const {
        s[0] += v[i] * v[i];
        s[1] = larger_or_nan(s[1], std::fabs(v[i]) + 0 * v[i]);  // 0 v is NaN where v is not finite
    }
};
struct keep_length {
    double* norm;
    AITKEN_HD void operator()(const double* t) const {
        const double length = std::sqrt(t[0]);
        *norm = length > 0 && length < infinity ? length : t[1];
    }
};
struct keep_peak {
    double* peak;
    AITKEN_HD void operator()(const double* t) const { *peak = t[1]; }
};

struct round_to_single {
    static constexpr int sums = 0;
    double* x;
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&)[1]) const {
        x[i] = static_cast<double>(static_cast<float>(x[i]));
    }
};

// --- conjugate gradients -------------------------------------------------------------------------

struct quotient {
    const double *above, *below;
    AITKEN_HD double value() const { return *above / *below; }
};

// r -= (rz / pq) q.
struct advance_residual : adding {
    static constexpr int sums = 1;
    quotient alpha;
    const double* q;
    double* r;
    advance_residual(quotient alpha_, const double* q_, double* r_) : alpha(alpha_), q(q_), r(r_) {}
    AITKEN_HD double begin() const { return alpha.value(); }
    AITKEN_HD void visit(index i, double by, double (&s)[1]) const {
        const double value = r[i] - by * q[i];
        r[i] = value;
        s[0] += value * value;
    }
};

// x += (rz / pq) p.
struct advance_iterate {
    static constexpr int sums = 0;
    quotient alpha;
    const double* p;
    double* x;
    AITKEN_HD double begin() const { return alpha.value(); }
    AITKEN_HD void visit(index i, double by, double (&)[1]) const { x[i] += by * p[i]; }
};

struct pair_sums : adding {
    static constexpr int sums = 2;
    const double *z, *r, *q;
    pair_sums(const double* z_, const double* r_, const double* q_) : z(z_), r(r_), q(q_) {}
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&s)[2]) const {
        s[0] += z[i] * r[i];
        s[1] += z[i] * q[i];
    }
};

// p = z - (zq / pq) p, and before that x += (rz / pq) p where there is an x.
struct turn_direction {
    static constexpr int sums = 0;
    quotient alpha, beta;
    const double* z;
    double *p, *x;
    struct state {
        double alpha, beta;
    };
    AITKEN_HD state begin() const { return {x ? alpha.value() : 0.0, -beta.value()}; }
    AITKEN_HD void visit(index i, state by, double (&)[1]) const {
        const double old = p[i];
        if (x) x[i] += by.alpha * old;
        p[i] = z[i] + by.beta * old;
    }
};

// --- directions from a small space ---------------------------------------------------------------

struct scale_to_unit {
    static constexpr int sums = 0;
    const double *rr, *r;
    double* u;
    AITKEN_HD double begin() const { return 1 / std::sqrt(*rr); }
    AITKEN_HD void visit(index i, double by, double (&)[1]) const { u[i] = by * r[i]; }
};

// z /= peak, or z = u where that is no number to divide by.
struct adopt_output {
    static constexpr int sums = 0;
    const double *peak, *u;
    double* z;
    AITKEN_HD double begin() const { return *peak > 0 && *peak < infinity ? *peak : 0.0; }
    AITKEN_HD void visit(index i, double by, double (&)[1]) const { z[i] = by > 0 ? z[i] / by : u[i]; }
};

inline constexpr int columns_of_pass = 7;

// Up to seven columns' products with z, and ||z||^2.
struct project_sums : adding {
    static constexpr int sums = columns_of_pass + 1;
    tall<const double> columns;
    const double* z;
    project_sums(tall<const double> columns_, const double* z_) : columns(columns_), z(z_) {}
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&s)[sums]) const {
        const double value = z[i];
        AITKEN_UNROLL
        for (int j = 0; j < columns_of_pass; ++j)
            if (j < columns.cols) s[j] += columns.col(j)[i] * value;
        s[columns_of_pass] += value * value;
    }
};
struct keep_products {
    int count;
    double *h, *norm2;  // norm2 may be null
    AITKEN_HD void operator()(const double* t) const {
        for (int j = 0; j < count; ++j) h[j] = t[j];
        if (norm2) *norm2 = t[columns_of_pass];
    }
};

// z -= P (h / energies) where energies are not 0.
struct subtract_sums : adding {
    static constexpr int sums = 1;
    tall<const double> columns;
    const double *energies, *h;
    double* z;
    subtract_sums(tall<const double> columns_, const double* energies_, const double* h_, double* z_)
        : columns(columns_), energies(energies_), h(h_), z(z_) {}
    struct state {
        double by[columns_of_pass];
    };
    AITKEN_HD state begin() const {
        state out;
        AITKEN_UNROLL
        for (int j = 0; j < columns_of_pass; ++j)
            out.by[j] = j < columns.cols && energies[j] != 0 ? h[j] / energies[j] : 0.0;
        return out;
    }
    AITKEN_HD void visit(index i, const state& c, double (&s)[1]) const {
        double value = z[i];
        AITKEN_UNROLL
        for (int j = 0; j < columns_of_pass; ++j)
            if (j < columns.cols) value -= c.by[j] * columns.col(j)[i];
        z[i] = value;
        s[0] += value * value;
    }
};

// h becomes the coefficients that were used.
struct keep_subtracted {
    int count;
    const double* energies;
    double *h, *norm2;
    AITKEN_HD void operator()(const double* t) const {
        for (int j = 0; j < count; ++j) h[j] = energies[j] != 0 ? h[j] / energies[j] : 0.0;
        *norm2 = t[0];
    }
};

// d'Ad, ||A d||^2, d'r.
struct measure_sums : adding {
    static constexpr int sums = 3;
    const double *d, *image, *r;
    measure_sums(const double* d_, const double* image_, const double* r_) : d(d_), image(image_), r(r_) {}
    AITKEN_HD no_state begin() const { return {}; }
    AITKEN_HD void visit(index i, no_state, double (&s)[3]) const {
        s[0] += d[i] * image[i];
        s[1] += image[i] * image[i];
        s[2] += d[i] * r[i];
    }
};
struct keep_measure {
    const double *before, *after;
    double *energy, *size, *usable, *slope, *gain;
    AITKEN_HD void operator()(const double* t) const {
        const double length = std::sqrt(*after) * std::sqrt(t[1]);
        const double good = drivers::deepcg::usable_energy(*before, *after, t[0], length);
        *energy = t[0];
        *size = length;
        *usable = good;
        *slope = t[2];
        *gain = good > 0 ? t[2] / good * t[2] : 0.0;
    }
};

// The step from what is known of one or two directions.
struct step_choice {
    const double *slope, *usable;
    const double *slope_e, *usable_e, *part;  // null: there is one direction
    AITKEN_HD drivers::deepcg::pair_step value() const {
        if (!slope_e) return {*usable > 0 ? *slope / *usable : 0.0, 0.0};
        return drivers::deepcg::choose_step(*slope, *usable, *slope_e, *usable_e, *part);
    }
};

// y = first d + second e and the same of their images; x += y, r -= A y; ||r||^2 and y'Ay. What has the
// coefficient 0 may hold anything. y may be d.
struct take_step : adding {
    static constexpr int sums = 2;
    using state = drivers::deepcg::pair_step;
    step_choice choice;
    const double *d, *d_image, *e, *e_image;
    double *y, *y_image, *x, *r;
    take_step(step_choice choice_, const double* d_, const double* d_image_, const double* e_,
              const double* e_image_, double* y_, double* y_image_, double* x_, double* r_)
        : choice(choice_),
          d(d_),
          d_image(d_image_),
          e(e_),
          e_image(e_image_),
          y(y_),
          y_image(y_image_),
          x(x_),
          r(r_) {}
    AITKEN_HD state begin() const { return choice.value(); }
    AITKEN_HD void visit(index i, state c, double (&s)[2]) const {
        double by = 0, image = 0;
        if (c.first != 0) {
            by = c.first * d[i];
            image = c.first * d_image[i];
        }
        if (c.second != 0) {
            by += c.second * e[i];
            image += c.second * e_image[i];
        }
        y[i] = by;
        y_image[i] = image;
        x[i] += by;
        const double rest = r[i] - image;
        r[i] = rest;
        s[0] += rest * rest;
        s[1] += by * image;
    }
};

}  // namespace aitken::cuda
