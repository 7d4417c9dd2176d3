// Block programs over vectors that any system may use: maps, and reductions by one block.
#pragma once

#include <type_traits>

#include "core/views.hpp"
#include "cuda/program.hpp"

namespace aitken::cuda {

// f(i) for 0 <= i < count, a thread per element.
template <class F>
struct map_pass : straight {
    static constexpr int threads = 256;
    static constexpr int closings = 1;
    struct shared {};
    F f;
    index count;

    map_pass(F f_, index count_) : f(f_), count(count_) {}
    index blocks() const { return blocks_for(count, threads); }

    template <int>
    AITKEN_HD void close(shared&, local&, place at) const {
        const index i = at.block * threads + at.thread;
        if (i < count) f(i);
    }
};

// Reductions over a vector by one block, in an order fixed by the length: a thread takes every 1024th
// element, then a tree. O(n) work beside sweeps of O(n m), so one block is enough.
//
// Op: `acc`, its `zero()` and `combine(acc&, acc)`; `stages` rounds of visit<stage>(i, totals, acc&), each
// reduced into totals[stage] before the next begins; finish(totals) by one thread at the end. With
// `map_last` the last stage only writes and reduces nothing.
template <class Op>
struct vector_pass : straight {
    using acc = typename Op::acc;
    static constexpr int threads = 1024;
    static constexpr int levels = std::is_empty_v<acc> ? 0 : 10;
    static constexpr int per_stage = levels + 1;
    static constexpr int closings = Op::stages * per_stage - (Op::map_last ? levels : 0) + 1;
    struct shared {
        acc part[threads];
        acc total[Op::stages];
    };
    Op op;

    explicit vector_pass(const Op& op_) : op(op_) {}
    index blocks() const { return 1; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        constexpr int stage = Phase / per_stage, level = Phase % per_stage;
        const int t = at.thread;
        if constexpr (Phase == closings - 1) {
            if (t == 0) op.finish(s.total);
        } else if constexpr (level == 0) {
            acc mine = op.zero();
            for (index i = t; i < op.count; i += threads) op.template visit<stage>(i, s.total, mine);
            if constexpr (levels > 0 && !(Op::map_last && stage == Op::stages - 1)) s.part[t] = mine;
        } else {
            constexpr int half = threads >> level;
            if (t < half) {
                acc sum = s.part[t];
                op.combine(sum, s.part[t + half]);
                s.part[t] = sum;
                if constexpr (half == 1) s.total[stage] = sum;
            }
        }
    }
};

template <class V>
struct fill_with {
    V* x;
    V value;
    AITKEN_HD void operator()(index i) const { x[i] = value; }
};

// One sum: what a vector_pass Op of that kind shares.
struct sum_reduction {
    using acc = double;
    static constexpr int stages = 1;
    static constexpr bool map_last = false;
    AITKEN_HD double zero() const { return 0.0; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
};

// x.y (y null: the sum of x).
struct dot_product : sum_reduction {
    const double *x, *y;
    double* out;
    index count;
    dot_product(const double* x_, const double* y_, double* out_, index n)
        : x(x_), y(y_), out(out_), count(n) {}
    template <int>
    AITKEN_HD void visit(index i, const double*, double& sum) const {
        sum += y ? x[i] * y[i] : x[i];
    }
    AITKEN_HD void finish(const double* total) const { *out = total[0]; }
};

}  // namespace aitken::cuda
