// Entropic transport on the CPU: instantiates the driver over the CPU kernels.
#include <cmath>
#include <limits>
#include <vector>

#include "core/api/ot.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/ot.hpp"

namespace aitken::cpu::ot {

using namespace aitken::ot;

static_assert(drivers::ot::OtKernels<ot_kernels<double>>);
static_assert(drivers::ot::OtKernels<ot_kernels<float>>);

namespace {

// Kernels that recompute P from given potentials, with unit scalings.
template <class T>
struct recomputed {
    recomputed(matrix<const T> cost, double reg, vec<const double> x, vec<const double> y,
               vec<const double> a = {}, vec<const double> b = {})
        : be(signals),
          kernels(be, problem<T>{cost, a, b, 0.0, {}}),
          u(be.allocate<double>(cost.rows)),
          v(be.allocate<double>(cost.cols)) {
        be.fill(u, 1.0);
        be.fill(v, 1.0);
        kernels.set_base(reg, x, y);
    }
    interrupt signals;
    backend be;
    ot_kernels<T> kernels;
    vec<double> u, v;
};

}  // namespace

template <class T>
report solve(const problem<T>& problem, const options& options, vec<double> x, vec<double> y,
             interrupt& signals, const monitor& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    ot_kernels<T> kernels(be, problem);
    drivers::ot::solver solver(be, kernels, problem.cost.rows, problem.cost.cols, problem.range, options,
                               monitor);
    return solver.run(x, y);
}

template <class T>
adjoint_report adjoint(const problem<T>& problem, const options& options, vec<const double> x,
                       vec<const double> y, vec<const double> w, vec<const double> z, vec<double> p,
                       vec<double> q, interrupt& signals) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    ot_kernels<T> kernels(be, problem);
    const vec<double> own_x = be.allocate<double>(x.size), own_y = be.allocate<double>(y.size);
    be.copy(x, own_x);
    be.copy(y, own_y);
    const monitor silent;
    drivers::ot::solver solver(be, kernels, problem.cost.rows, problem.cost.cols, problem.range, options,
                               silent);
    return solver.adjoint(own_x, own_y, w, z, p, q);
}

template <class T>
void plan_times(matrix<const T> cost, double reg, vec<const double> x, vec<const double> y, bool transposed,
                vec<const double> v, vec<double> out, int n_threads) {
    const thread_scope threads(n_threads);
    recomputed<T> plan(cost, reg, x, y);
    if (transposed)
        plan.kernels.plan_t_times(plan.u, plan.v, v, out);
    else
        plan.kernels.plan_times(plan.u, plan.v, v, out);
}

template <class T>
void plan_rows(matrix<const T> cost, double reg, vec<const double> x, vec<const double> y, index first,
               matrix<T> out, int n_threads) {
    const thread_scope threads(n_threads);
    const row_chunks chunks(out.rows, cost.cols);  // a few rows of few entries are not worth a team
    parallel_chunks(chunks.count, [&](index chunk) {
        for (index i = chunks.first(chunk); i < chunks.last(chunk); ++i)
            rows_of<T>::exp(cost.row(first + i), y.data, x[first + i], 1.0 / reg, cost.cols, out.row(i));
    });
}

template <class T>
void c_transform(matrix<const T> cost, double reg, bool transposed, vec<const double> potential,
                 vec<double> out, int n_threads) {
    const thread_scope threads(n_threads);
    interrupt signals;
    backend be(signals);
    ot_kernels<T> kernels(be, problem<T>{cost, {}, {}, 0.0, {}});
    if (transposed)
        kernels.log_sum_exp_cols(reg, potential, false, out);
    else
        kernels.log_sum_exp_rows(reg, potential, false, out);
}

template <class T>
sparse_plan compress(matrix<const T> cost, double reg, vec<const double> x, vec<const double> y,
                     vec<const double> a, vec<const double> b, double drop, int n_threads) {
    const thread_scope threads(n_threads);
    recomputed<T> plan(cost, reg, x, y, a, b);
    const vec<double> row_limit = plan.be.template allocate<double>(cost.rows);
    const vec<double> col_limit = plan.be.template allocate<double>(cost.cols);
    plan.kernels.mass_limits(drop, a, b, row_limit, col_limit);
    drivers::ot::host_csr kept;
    plan.kernels.compact(plan.u, plan.v, {{}, {}, row_limit, col_limit, false}, cost.rows * cost.cols, kept);
    return {std::move(kept.indptr), std::move(kept.indices), std::move(kept.values)};
}

template <class T>
cost_facts inspect(matrix<const T> cost, int n_threads) {
    const thread_scope threads(n_threads);
    const index n = cost.rows, m = cost.cols;
    const row_chunks chunks(n, m);
    struct part {
        double lo = infinity, hi = -infinity;
        bool nan = false, negative_inf = false, forbidden = false;
        index empty_row = -1;
    };
    std::vector<part> parts(chunks.count);
    std::vector<char> seen(chunks.count * m, 0);  // columns with a finite entry, per chunk
    parallel_chunks(chunks.count, [&](index chunk) {
        part& mine = parts[chunk];
        char* column = seen.data() + chunk * m;
        bool all_seen = false;
        for (index i = chunks.first(chunk); i < chunks.last(chunk); ++i) {
            const T* c = cost.row(i);
            // Fast path: a row whose finiteness is proved by x * 0 == 0 summing to 0 needs no branches.
            T lo = c[0], hi = c[0], zeros = 0;
            for (index j = 0; j < m; ++j) {
                lo = c[j] < lo ? c[j] : lo;
                hi = c[j] > hi ? c[j] : hi;
                zeros += c[j] * T(0);
            }
            if (zeros == 0) {
                mine.lo = std::min<double>(mine.lo, lo);
                mine.hi = std::max<double>(mine.hi, hi);
                if (!all_seen) std::fill_n(column, m, char(1));
                all_seen = true;
                continue;
            }
            bool finite_entry = false;
            for (index j = 0; j < m; ++j) {
                mine.nan |= std::isnan(c[j]);
                mine.negative_inf |= c[j] == -std::numeric_limits<T>::infinity();
                mine.forbidden |= c[j] == std::numeric_limits<T>::infinity();
                if (!std::isfinite(c[j])) continue;
                finite_entry = true;
                column[j] = 1;
                mine.lo = std::min<double>(mine.lo, c[j]);
                mine.hi = std::max<double>(mine.hi, c[j]);
            }
            if (!finite_entry && mine.empty_row < 0) mine.empty_row = i;
        }
    });
    cost_facts facts;
    facts.smallest = infinity;
    facts.largest = -infinity;
    for (const part& p : parts) {
        facts.smallest = std::min(facts.smallest, p.lo);
        facts.largest = std::max(facts.largest, p.hi);
        facts.has_nan |= p.nan;
        facts.has_negative_inf |= p.negative_inf;
        facts.has_forbidden |= p.forbidden;
        if (facts.empty_row < 0) facts.empty_row = p.empty_row;
    }
    for (index j = 0; j < m && facts.empty_col < 0; ++j) {
        bool any = false;
        for (index c = 0; c < chunks.count; ++c) any |= seen[c * m + j] != 0;
        if (!any) facts.empty_col = j;
    }
    return facts;
}

#define AITKEN_INSTANTIATE(T)                                                                                \
    template report solve(const problem<T>&, const options&, vec<double>, vec<double>, interrupt&,           \
                          const monitor&);                                                                   \
    template adjoint_report adjoint(const problem<T>&, const options&, vec<const double>, vec<const double>, \
                                    vec<const double>, vec<const double>, vec<double>, vec<double>,          \
                                    interrupt&);                                                             \
    template void plan_times(matrix<const T>, double, vec<const double>, vec<const double>, bool,            \
                             vec<const double>, vec<double>, int);                                           \
    template void plan_rows(matrix<const T>, double, vec<const double>, vec<const double>, index, matrix<T>, \
                            int);                                                                            \
    template void c_transform(matrix<const T>, double, bool, vec<const double>, vec<double>, int);           \
    template sparse_plan compress(matrix<const T>, double, vec<const double>, vec<const double>,             \
                                  vec<const double>, vec<const double>, double, int);                        \
    template cost_facts inspect(matrix<const T>, int);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(float)
#undef AITKEN_INSTANTIATE

}  // namespace aitken::cpu::ot
