// Matrix completion on a device: every kernel against its block program on the host, then whole completions
// against the CPU. Exit status 77 where there is no device.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "completion_cases.hpp"
#include "core/api/completion.hpp"
#include "core/api/completion_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/completion_kernels.hpp"
#include "device.hpp"

namespace aitken::tests {
namespace {

using als::inner;

template <class T>
cuda::completion::stored<T> put(device& gpu, const entry_list<T>& e) {
    als::observed<T> there{
        {e.rows, e.cols, gpu.put(e.indptr).data, gpu.put(e.indices).data}, gpu.put(e.values).data, nullptr};
    if (!e.weights.empty()) there.weights = gpu.put(e.weights).data;
    return {there, e.nnz()};
}
template <class T>
cuda::completion::problem<T> put(device& gpu, const als_case<T>& c) {
    return {put(gpu, c.rows), put(gpu, c.columns), put(gpu, c.holdout)};
}
template <class T>
cuda::completion::stored<T> on_host(const entry_list<T>& e) {
    return {e.view(), e.nnz()};
}

// The device contracts products and sums, and adds in the same order.
template <class T>
void functions_like_block_programs(double tol) {
    struct shape {
        index rows, cols;
        int rank;
        bool bias, weighted;
    };
    for (const shape& c : {shape{1, 1, 1, false, false}, shape{300, 37, 3, false, true},
                           shape{70, 900, 20, true, true}, shape{60, 200, 50, false, false},
                           shape{90, 300, 100, true, false}, shape{40, 300, 130, false, true}}) {
        const als_case<T> data(c.rows == 1 ? std::vector<index>{1} : mixed_degrees(c.rows, c.cols, 1), c.cols,
                               c.weighted, 2);
        interrupt signals;
        block_backend host(signals);
        device gpu;
        cuda::backend be(gpu.context(), signals);
        const cuda::completion::problem<T> here{on_host(data.rows), on_host(data.columns),
                                                on_host(data.holdout)};
        cuda::als_kernels<block_backend, T> expected(host, here, c.rank, c.bias);
        cuda::als_kernels<cuda::backend, T> kernels(be, put(gpu, data), c.rank, c.bias);
        near_results(als_exercise(be, kernels, c.bias, 7).run(true),
                     als_exercise(host, expected, c.bias, 7).run(true), tol,
                     std::to_string(c.rows) + " x " + std::to_string(c.cols));
    }
}
TEST(device_kernels_of_completion_match_block_programs_f64) { functions_like_block_programs<double>(1e-9); }
TEST(device_kernels_of_completion_match_block_programs_f32) { functions_like_block_programs<float>(2e-3); }

// The largest solvers, and rows that are cut into parts.
template <class T>
void large_rows(double tol) {
    const auto e = random_entries<T>({30, 4097, 0, 9000, 300}, 9000, true, 4);
    for (const int k : {10, 120, std::is_same_v<T, float> ? 248 : 136}) {
        als::half_options o;
        o.lam = 3;
        const std::vector<T> fixed = random_factor<T>(e.cols, k, 11);
        const plain_sweep expected = solve_plainly(e, fixed, k, o, e.weights);
        device gpu;
        interrupt signals;
        const auto x = gpu.put(random_factor<T>(e.rows, k, 12));
        const matrix<const T> from{gpu.put(fixed).data, e.cols, k, k};
        const auto report = cuda::completion::half_sweep<T>(gpu.context(), put(gpu, e), from, {},
                                                            {x.data, e.rows, k, k}, {}, o, signals);
        const std::vector<T> got = gpu.get(x);
        double scale = 0, worst = 0;
        for (std::size_t i = 0; i < got.size(); ++i) {
            scale = std::max(scale, std::abs(expected.x[i]));
            const double gap = std::abs(static_cast<double>(got[i]) - expected.x[i]);
            worst = gap <= worst ? worst : gap;
        }
        CHECK_NEAR(worst, 0, tol * scale);
        CHECK_NEAR(report.squared_error, expected.error, 10 * tol * std::abs(expected.error));
    }
}
TEST(device_kernels_of_completion_large_rows) {
    large_rows<double>(1e-9);
    large_rows<float>(1e-3);
}

TEST(device_completions) {
    stand_in::load_eigen();
    std::vector<index> degrees(3000, 60);
    for (std::size_t i = 0; i < degrees.size(); ++i) degrees[i] += static_cast<index>(i % 200);
    const als_case<double> data(degrees, 800, false, 3);
    for (const auto begin : {als::start::random, als::start::spectral, als::start::increment})
        for (const inner solver : {inner::exact, inner::cg, inner::qcg}) {
            als::options o;
            o.begin = begin;
            o.half.solver = solver;
            o.half.lam = begin == als::start::random ? 0.5 : 0;
            o.balance = o.half.lam == 0;
            o.half.bias = begin == als::start::random;
            o.max_sweeps = 8;
            o.per_rank = 2;
            constexpr int rank = 6;
            als::report report;
            std::vector<double> u(3000 * rank, 0.0), v(800 * rank, 0.0), a(o.half.bias ? 3000 : 0),
                b(o.half.bias ? 800 : 0);
            auto u_here = u, v_here = v, a_here = a, b_here = b;
            const auto factors = [&](auto& uu, auto& vv, auto& aa, auto& bb) {
                return als::factors<double>{{uu.data(), 3000, rank, rank},
                                            {vv.data(), 800, rank, rank},
                                            {aa.data(), static_cast<index>(aa.size())},
                                            {bb.data(), static_cast<index>(bb.size())}};
            };
            interrupt signals;
            const auto expected = cpu::completion::complete<double>(
                data.problem(), o, factors(u_here, v_here, a_here, b_here), signals, {});
            std::vector<double> first;
            for (int run = 0; run < 2; ++run) {
                device gpu;
                const auto us = gpu.put(u), vs = gpu.put(v), as = gpu.put(a), bs = gpu.put(b);
                report = cuda::completion::complete<double>(
                    gpu.context(), put(gpu, data), o,
                    {{us.data, 3000, rank, rank}, {vs.data, 800, rank, rank}, as, bs}, signals, {});
                const std::vector<double> got = gpu.get(us);
                if (run == 0)
                    first = got;
                else
                    CHECK(first == got);  // the same bits
            }
            CHECK(report.status == expected.status && report.rank == expected.rank);
            CHECK_NEAR(report.rmse_train, expected.rmse_train, 1e-5 * expected.rmse_train);
            CHECK_NEAR(report.rmse_holdout, expected.rmse_holdout, 1e-4 * expected.rmse_holdout);
            std::printf("start %d, inner %d: rmse %.6f, %ld launches, %ld reads\n", static_cast<int>(begin),
                        static_cast<int>(solver), report.rmse_train, report.counts.launches,
                        report.counts.reads);
        }
}

TEST(device_errors_of_completion) {
    const als_case<float> data(mixed_degrees(12, 10, 3), 10, true, 4);
    device gpu;
    interrupt signals;
    auto p = put(gpu, data);
    als::half_options o;
    o.solver = inner::lowprec;
    const auto x = gpu.put(random_factor<float>(12, 3, 1)), from = gpu.put(random_factor<float>(10, 3, 2));
    const auto sweep = [&] {
        return cuda::completion::half_sweep<float>(gpu.context(), p.rows, {from.data, 10, 3, 3}, {},
                                                   {x.data, 12, 3, 3}, {}, o, signals);
    };
    CHECK_THROWS(sweep(), std::invalid_argument);
    o.solver = inner::exact;
    CHECK(std::isfinite(sweep().squared_error));
    --p.rows.nnz;
    CHECK_THROWS(sweep(), std::invalid_argument);
}

}  // namespace
}  // namespace aitken::tests
