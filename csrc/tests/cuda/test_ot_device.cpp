// The transport solver on a device: every kernel against its block program on the host, then whole solves
// against the CPU backend. Exit status 77 where there is no device. Meant to run under compute-sanitizer too.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <string>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/ot_cuda.hpp"
#include "core/error.hpp"
#include "cuda/backend.hpp"
#include "cuda/ot_kernels.hpp"
#include "device.hpp"
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
