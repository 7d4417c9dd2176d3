// The transport solver on a device: every kernel against its block program on the host, then whole solves
// against the CPU backend. Exit status 77 where there is no device. Meant to run under compute-sanitizer too.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/ot_batch_cuda.hpp"
#include "core/api/ot_cuda.hpp"
#include "core/error.hpp"
#include "cuda/backend.hpp"
#include "cuda/ot_batch_kernels.hpp"
#include "cuda/ot_kernels.hpp"
#include "device.hpp"
#include "ot_batch_cases.hpp"
#include "ot_cases.hpp"

namespace aitken::tests {
namespace {

namespace ot = aitken::ot;

template <class T>
using host_kernels = cuda::ot_kernels<block_backend, T>;
template <class T>
using device_kernels = cuda::ot_kernels<cuda::backend, T>;

template <class T>
void kernels_match() {
    each_case<T>([&](const ot_case<T>& k) {
        interrupt signals;
        block_backend host(signals);
        device gpu;
        cuda::backend be(gpu.context(), signals);
        side<block_backend, host_kernels, T> left(host, k);
        side<cuda::backend, device_kernels, T> right(be, k);
        // The two exponentials may differ in the last bit, and with it selections from recomputed entries.
        compare_kernels(left, right, k, sizeof(T) == 8 ? 1e-12 : 4e-7, k.stored);
    });
}
TEST(device_kernels_match_block_programs_f64) { kernels_match<double>(); }
TEST(device_kernels_match_block_programs_f32) { kernels_match<float>(); }

TEST(device_inspect_and_plan_rows) {
    ot_case<double> k = awkward<double>(70, 300, 5, false, 4);
    k.cost[2 * k.ld + 9] = std::numeric_limits<double>::quiet_NaN();
    interrupt signals;
    block_backend host(signals);
    device gpu;
    const matrix<const double> on_host{k.cost.data(), k.n, k.m, k.ld};
    const matrix<const double> there{gpu.put(k.cost).data, k.n, k.m, k.ld};
    const ot::cost_facts l = cuda::inspect(host, on_host),
                         r = cuda::ot::inspect<double>(gpu.context(), there);
    CHECK(l.smallest == r.smallest && l.largest == r.largest && l.has_nan && r.has_nan);
    CHECK(l.has_forbidden == r.has_forbidden && l.has_negative_inf == r.has_negative_inf);
    CHECK(l.empty_row == r.empty_row && l.empty_col == r.empty_col);

    k = awkward<double>(70, 300, 5, false, 4);
    const matrix<const double> cost{gpu.put(k.cost).data, k.n, k.m, k.ld};
    const vec<double> room = gpu.put(doubles(static_cast<std::size_t>(20 * k.m), -1.0));
    cuda::ot::plan_rows<double>(gpu.context(), cost, k.eps, gpu.put(k.x), gpu.put(k.y), 30,
                                {room.data, 20, k.m, k.m});
    doubles expected(static_cast<std::size_t>(20 * k.m));
    for (index i = 0; i < 20; ++i)
        for (index j = 0; j < k.m; ++j)
            expected[i * k.m + j] =
                cuda::entry_exp<double>((k.y[j] + k.x[30 + i] - k.cost[(30 + i) * k.ld + j]) * (1.0 / k.eps));
    compare(gpu.get(room), expected, 1e-13, "plan rows");
}

struct answer {
    ot::report report;
    doubles x, y;
};
template <class T>
answer solve_there(const instance& p, const ot::options& o, bool stored) {
    device gpu;
    ot::problem<T> problem;
    problem.cost = {gpu.put(std::vector<T>(p.cost.begin(), p.cost.end())).data, p.n, p.m, p.m};
    problem.a = gpu.put(p.a);
    problem.b = gpu.put(p.b);
    problem.range = p.range;
    if (stored) problem.plan = {gpu.put(std::vector<T>(p.cost.size())).data, p.n, p.m, p.m};
    const vec<double> x = gpu.put(doubles(static_cast<std::size_t>(p.n))),
                      y = gpu.put(doubles(static_cast<std::size_t>(p.m)));
    interrupt signals;
    answer out{cuda::ot::solve<T>(gpu.context(), problem, o, x, y, signals, {}), {}, {}};
    out.x = gpu.get(x);
    out.y = gpu.get(y);
    return out;
}
template <class T>
void solves(const instance& p, const ot::options& o, bool stored, const std::string& what) {
    std::vector<T> cost(p.cost.begin(), p.cost.end());
    const ot::problem<T> here{
        {cost.data(), p.n, p.m, p.m}, {p.a.data(), p.n}, {p.b.data(), p.m}, p.range, {}};
    doubles x(static_cast<std::size_t>(p.n)), y(static_cast<std::size_t>(p.m));
    interrupt signals;
    const ot::report cpu = cpu::ot::solve<T>(here, o, {x.data(), p.n}, {y.data(), p.m}, signals, {});
    const answer gpu = solve_there<T>(p, o, stored), again = solve_there<T>(p, o, stored);
    check::that(gpu.report.status == status::converged, __FILE__, __LINE__,
                (what + ": " + gpu.report.detail).c_str());
    CHECK_NEAR(gpu.report.linear, cpu.linear, sizeof(T) == 8 ? 1e-8 : 1e-4);
    const auto [err, linear] = certificate(p, gpu.x, gpu.y, o.reg);
    CHECK(err <= (sizeof(T) == 8 ? 1.01 * o.tol + 1e-13 : o.tol + 1e-4));
    CHECK_NEAR(linear, cpu.linear, sizeof(T) == 8 ? 1e-8 : 1e-4);
    CHECK(gpu.x == again.x && gpu.y == again.y);  // no atomics on floating-point numbers: the same bits
    std::printf("%s: %ld launches, %ld reads, %ld Sinkhorn, %ld Newton, %ld CG, error %.2e\n", what.c_str(),
                gpu.report.counts.launches, gpu.report.counts.reads,
                static_cast<long>(gpu.report.nit_sinkhorn), static_cast<long>(gpu.report.nit_newton),
                static_cast<long>(gpu.report.nit_cg), err);
}
TEST(device_solves) {
    using enum ot::linear_solver;
    solves<double>(assignment(60), settings(1.0 / 1200, ot::method::newton, automatic), true, "assignment");
    solves<double>(assignment(60), settings(1.0 / 1200, ot::method::newton, hybrid), false,
                   "assignment hybrid");
    solves<double>(clouds(70, 50), settings(1e-3, ot::method::automatic, automatic), true, "clouds");
    solves<double>(clouds(70, 50), settings(0.05, ot::method::sinkhorn, automatic), true, "sinkhorn");
    solves<float>(clouds(70, 50), settings(1e-2, ot::method::automatic, automatic, 1e-6), true,
                  "float clouds");
    solves<float>(clouds(70, 50), settings(1e-2, ot::method::automatic, automatic, 1e-6), false,
                  "float recomputed");
}

// Ragged batches of every size class and beyond, against the block programs on the host; a bad problem.
template <class T>
struct device_batch {
    std::vector<ot::batch_report> reports;
    std::vector<doubles> f, g;
    std::vector<std::vector<T>> plan;
};
template <class T>
device_batch<T> solve_batch_there(std::vector<batch_case<T>>& all, const ot::options& o) {
    device gpu;
    std::vector<ot::batch_problem<T>> problems;
    for (auto& p : all) {
        p.clear();
        ot::batch_problem<T> q;
        q.cost = {gpu.put(p.cost).data, p.n, p.m, p.ld};
        q.a = gpu.put(p.a);
        q.b = gpu.put(p.b);
        q.reg = p.reg;
        q.f = gpu.put(p.f);
        q.g = gpu.put(p.g);
        q.plan = {gpu.put(p.plan).data, p.n, p.m, p.m};
        problems.push_back(q);
    }
    interrupt signals;
    device_batch<T> out;
    out.reports = cuda::ot::solve_batch<T>(gpu.context(), problems, o, 1e-9, signals);
    for (const auto& q : problems) {
        out.f.push_back(gpu.get(q.f));
        out.g.push_back(gpu.get(q.g));
        out.plan.push_back(gpu.get(vec<T>{q.plan.data, q.plan.rows * q.plan.cols}));
    }
    return out;
}
template <class T>
void batches(double tol, double rho) {
    std::vector<batch_case<T>> all;
    unsigned seed = 0;
    for (index size : {1, 13, 32, 40, 64, 75, 110, 130})
        for (double reg : {0.05, sizeof(T) == 8 ? 1e-3 : 5e-3})
            all.emplace_back(size, size + 1, reg, seed % 2 ? cost_kind::random : cost_kind::clouds, seed),
                ++seed;
    all[5].a[3] = -1;
    ot::options o;
    o.tol = tol;
    o.rho_a = o.rho_b = rho;
    const device_batch<T> one = solve_batch_there(all, o), two = solve_batch_there(all, o);
    std::vector<ot::batch_problem<T>> here;
    for (auto& p : all) here.push_back(p.view());
    interrupt signals;
    block_backend be(signals);
    const auto fresh = [&](auto&& fn) {
        block_backend own(signals);
        fn(own);
    };
    const auto expected = cuda::solve_batch<T>(be, fresh, here, o, 1e-9);
    for (std::size_t k = 0; k < all.size(); ++k) {
        CHECK(one.reports[k].status == (k == 5 ? status::bad_input : status::converged));
        CHECK(one.reports[k].detail == expected[k].detail);
        if (k == 5) continue;
        CHECK(one.reports[k].err <= tol);
        CHECK_NEAR(one.reports[k].value, expected[k].value, 20 * tol);
        CHECK_NEAR(one.reports[k].linear, expected[k].linear, 20 * tol);
        all[k].f = one.f[k];
        all[k].g = one.g[k];
        if (sizeof(T) == 8) CHECK(all[k].error(rho, rho) <= 1.05 * tol + 1e-13);
        CHECK(one.f[k] == two.f[k] && one.g[k] == two.g[k] && one.plan[k] == two.plan[k]);
    }
}
TEST(device_solves_batches) {
    batches<double>(1e-9, infinity);
    batches<float>(1e-6, infinity);
    batches<double>(1e-9, 0.5);
}

// Clouds of points against the CPU, few and many coordinates.
TEST(device_solves_points) {
    std::mt19937 random(4);
    std::uniform_real_distribution<double> unit(0.0, 1.0);
    const index n = 300, m = 270;
    for (index d : {2, 5})
        for (ot::metric metric : {ot::metric::sqeuclidean, ot::metric::euclidean, ot::metric::cityblock}) {
            doubles x(static_cast<std::size_t>(n * d)), y(static_cast<std::size_t>(m * d));
            for (double& e : x) e = unit(random);
            for (double& e : y) e = unit(random) + 0.3;
            const doubles a(n, 1.0 / n), b(m, 1.0 / m);
            const ot::point_cost cost{metric, {x.data(), n, d, d}, {y.data(), m, d, d}};
            ot::options o = settings(0.02, ot::method::automatic, ot::linear_solver::automatic);
            interrupt signals;
            doubles f(n), g(m), pull(x.size());
            const ot::report here = cpu::ot::solve({cost, {a.data(), n}, {b.data(), m}, 3.0, {}, false}, o,
                                                   {f.data(), n}, {g.data(), m}, signals, {});
            device gpu;
            const ot::point_cost there{metric, {gpu.put(x).data, n, d, d}, {gpu.put(y).data, m, d, d}};
            const vec<double> vf = gpu.put(doubles(n)), vg = gpu.put(doubles(m));
            const ot::report r = cuda::ot::solve(
                gpu.context(), {there, gpu.put(a), gpu.put(b), 3.0, {}, false}, o, vf, vg, signals, {});
            CHECK(here.status == status::converged && r.status == status::converged && r.err <= 1e-9);
            CHECK_NEAR(r.linear, here.linear, 1e-8);
            const vec<double> out = gpu.put(doubles(pull.size()));
            cuda::ot::plan_pull(gpu.context(), there, o.reg, gpu.put(f), gpu.put(g), {out.data, n, d, d},
                                signals);
            cpu::ot::plan_pull(cost, o.reg, {f.data(), n}, {g.data(), m}, {pull.data(), n, d, d}, signals, 0);
            compare(gpu.get(out), pull, 1e-10, "gradient for points");
        }
}

TEST(device_errors_name_call_code_and_text) {
    cuda::device_context nowhere;
    nowhere.device = 9999;
    interrupt signals;
    try {
        cuda::backend be(nowhere, signals);
        CHECK(false);
    } catch (const cuda_error& error) {
        CHECK(error.call() == "cudaSetDevice" && error.code() == cudaErrorInvalidDevice);
        CHECK(error.text() == cudaGetErrorString(cudaErrorInvalidDevice));
    }
    CHECK(cudaGetLastError() == cudaSuccess);  // and leaves nothing for the next call to trip over
}

}  // namespace
}  // namespace aitken::tests
