// Batches of small constrained problems on the CPU: a problem after the other in chunks of 32, so that the
// bits of none depend on the threads or on its place.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/api/optimize_batch.hpp"
#include "cpu/threads.hpp"
#include "dense/batched_ldlt.hpp"
#include "drivers/optimize_batch.hpp"

namespace aitken::optimize {

batch_layout layout_of(int n, int m) { return drivers::optimize_batch::layout(n, m); }

}  // namespace aitken::optimize

namespace aitken::cpu::optimize {

namespace {

using drivers::optimize_batch::problem;
using drivers::optimize_batch::values;

constexpr index chunk_size = 32;
// Problems that are worth waking threads for (some 5 us, and much more where processors are shared) with
// about a microsecond each; fewer are left in most rounds of a batch.
constexpr index worth_threads = 512;

template <class F>
void for_each(index count, int n_threads, F&& each) {
    const thread_scope threads(count < worth_threads ? 1 : n_threads);
    parallel_chunks((count + chunk_size - 1) / chunk_size,
                    [&](index chunk) {
                        const index last = std::min(count, (chunk + 1) * chunk_size);
                        for (index k = chunk * chunk_size; k < last; ++k) each(k);
                    },
                    chunk_schedule::dynamic);
}

// Per thread and kept, as a call is a few microseconds a problem.
struct room {
    std::vector<double> numbers;
    std::vector<std::int32_t> pivots;

    static room& of(index size) {
        thread_local room mine;
        const auto needed = static_cast<std::size_t>(dense::kkt_workspace(size));
        if (mine.numbers.size() < needed) mine.numbers.resize(needed);
        if (mine.pivots.size() < static_cast<std::size_t>(size))
            mine.pivots.resize(static_cast<std::size_t>(size));
        return mine;
    }
};

values row_of(const api::batch_problems& p, const api::batch_values& v, index row) {
    return {v.f + row, v.gradient + row * p.n, v.c + row * p.m, v.jacobian + row * p.m * p.n};
}

}  // namespace

void batch_begin(const api::batch_problems& p, const double* starts, const double* lam,
                 const api::batch_options& options) {
    for_each(p.count, options.n_threads,
             [&](index k) { problem(p, k, options).begin(starts + k * p.n, lam ? lam + k * p.m : nullptr); });
}

void batch_points(const api::batch_problems& p, const std::int32_t* which, index count, double* out) {
    const api::batch_options options;
    for (index k = 0; k < count; ++k)
        std::copy_n(problem(p, which[k], options).next_point(), p.n, out + k * p.n);
}

void batch_hessian_points(const api::batch_problems& p, const std::int32_t* which, index count, double* x,
                          double* v) {
    const api::batch_options options;
    for (index k = 0; k < count; ++k) {
        const problem mine(p, which[k], options);
        std::copy_n(mine.point(), p.n, x + k * p.n);
        for (int i = 0; i < p.m; ++i) v[k * p.m + i] = mine.multiplier(i);
    }
}

void batch_judge(const api::batch_problems& p, const api::batch_values& v, const api::batch_options& options,
                 std::uint8_t* next, interrupt& signals) {
    signals.poll();
    for_each(v.count, options.n_threads, [&](index k) {
        next[k] = static_cast<std::uint8_t>(problem(p, v.problem[k], options).judge(row_of(p, v, k)));
    });
}

void batch_direct(const api::batch_problems& p, const api::batch_values& v, const std::int32_t* rows,
                  index count, const double* hessian, const api::batch_options& options, std::uint8_t* next,
                  interrupt& signals) {
    signals.poll();
    const index square = index{p.n} * p.n;
    for_each(count, options.n_threads, [&](index k) {
        const index row = rows[k];
        const problem mine(p, v.problem[row], options);
        const values u = row_of(p, v, row);
        const double* const h = hessian ? hessian + k * square : nullptr;
        room& work = room::of(p.n + p.m);
        mine.prepare(u);
        dense::kkt_shift shift{0, mine.regular(), 0};
        const bool good = dense::solve_kkt(mine.matrix(u, h), mine.rx(), mine.rc(), mine.rs(), options.xi,
                                           mine.last_shift(), shift, mine.answer_x(), mine.answer_lam(),
                                           work.numbers.data(), work.pivots.data());
        next[row] = static_cast<std::uint8_t>(mine.finish(u, h, shift.t, good));
    });
}

void batch_conclude(const api::batch_problems& p, const api::batch_values& v,
                    const api::batch_options& options, int status_of_others) {
    std::vector<index> row(static_cast<std::size_t>(p.count), -1);
    for (index k = 0; k < v.count; ++k) row[static_cast<std::size_t>(v.problem[k])] = k;
    for_each(p.count, options.n_threads, [&](index k) {
        const index mine = row[static_cast<std::size_t>(k)];
        const values u = mine < 0 ? values{} : row_of(p, v, mine);
        problem(p, k, options).conclude(mine < 0 ? nullptr : &u, status_of_others);
    });
}

void solve_kkt(const api::kkt_systems& k, double xi, int n_threads) {
    const int n = k.n, m = k.m;
    for_each(k.count, n_threads, [&](index i) {
        room& work = room::of(n + m);
        const dense::kkt_matrix matrix{
            n, m, k.h + i * n * n, 1, k.d + i * n, k.j + i * m * n, nullptr, k.sigma + i * m};
        dense::kkt_shift shift{0, k.regular[i], 0};
        const bool good =
            dense::solve_kkt(matrix, k.rx + i * n, k.rc + i * m, k.rs + i * m, xi, k.shift[i], shift,
                             k.dx + i * n, k.dlam + i * m, work.numbers.data(), work.pivots.data());
        k.shift[i] = shift.t;
        k.regular[i] = shift.regular;
        k.attempts[i] = good ? shift.attempts : -shift.attempts;
    });
}

void solve_symmetric(index count, int n, const double* a, double* rhs, std::int32_t* inertia, int n_threads) {
    for_each(count, n_threads, [&](index i) {
        room& work = room::of(n);
        double *const factor = work.numbers.data(), *const inverse = factor + index{n} * n;
        std::copy_n(a + i * n * n, index{n} * n, factor);
        const dense::inertia in =
            dense::ldlt_factor(factor, n, n, work.pivots.data(), inverse, inverse + 2 * n);
        dense::ldlt_solve(factor, n, n, work.pivots.data(), inverse, rhs + i * n);
        inertia[3 * i] = in.positive;
        inertia[3 * i + 1] = in.negative;
        inertia[3 * i + 2] = in.zero;
    });
}

}  // namespace aitken::cpu::optimize
