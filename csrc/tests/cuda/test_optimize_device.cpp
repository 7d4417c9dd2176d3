// Batches of constrained problems on a device: KKT systems against the CPU, at both sides of each capacity.
// Exit status 77 where there is no device.
#include <cmath>
#include <cstdint>
#include <vector>

#include "check.hpp"
#include "core/api/optimize_batch.hpp"
#include "core/api/optimize_batch_cuda.hpp"
#include "device.hpp"
#include "optimize_cases.hpp"

namespace aitken::tests {
namespace {

void systems_like_the_cpu(int n, int m, index count) {
    kkt_case c(n, m, count, static_cast<unsigned>(n + m)), before = c;
    device gpu;
    interrupt signals;
    const auto dx = gpu.put(before.dx), dlam = gpu.put(before.dlam), shift = gpu.put(before.shift),
               regular = gpu.put(before.regular);
    const auto attempts = gpu.put(before.attempts);
    const optimize::kkt_systems there{count,
                                      n,
                                      m,
                                      gpu.put(before.h).data,
                                      gpu.put(before.d).data,
                                      gpu.put(before.j).data,
                                      gpu.put(before.sigma).data,
                                      gpu.put(before.rx).data,
                                      gpu.put(before.rc).data,
                                      gpu.put(before.rs).data,
                                      dx.data,
                                      dlam.data,
                                      shift.data,
                                      regular.data,
                                      attempts.data};
    cuda::optimize::solve_kkt(gpu.context(), there, 0.1, signals);
    cpu::optimize::solve_kkt(c.view(), 0.1, 1);
    CHECK(gpu.get(shift) == c.shift);
    CHECK(gpu.get(regular) == c.regular);
    CHECK(gpu.get(attempts) == c.attempts);
    const std::vector<double> x = gpu.get(dx), lam = gpu.get(dlam);
    for (index k = 0; k < count; ++k) {
        const double tol = 1e-8 * c.largest_answer(k);
        for (int i = 0; i < n; ++i) CHECK_NEAR(x[static_cast<std::size_t>(k * n + i)], c.dx_of(k)[i], tol);
        for (int i = 0; i < m; ++i)
            CHECK_NEAR(lam[static_cast<std::size_t>(k * m + i)], c.dlam_of(k)[i], tol);
    }
}

TEST(device_kkt_systems_of_batches) {
    const int sizes[][2] = {{1, 1},   {4, 2},   {20, 12}, {20, 13}, {40, 24},
                            {40, 25}, {70, 26}, {70, 27}, {100, 28}};
    for (const auto& s : sizes) systems_like_the_cpu(s[0], s[1], 200);
    systems_like_the_cpu(4, 2, 20000);
}

}  // namespace
}  // namespace aitken::tests
