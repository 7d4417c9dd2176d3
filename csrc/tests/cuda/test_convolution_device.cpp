// The direction network on a device, where layers run on tensor cores, against its block programs on the host
// and against the CPU. Exit status 77 where there is no device.
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "convolution_cases.hpp"
#include "core/api/convolution.hpp"
#include "core/api/convolution_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/convolution_kernels.hpp"
#include "device.hpp"

namespace aitken::tests {
namespace {

using aitken::convolution::precision;
namespace conv = cpu::convolution;
using shape = std::array<index, 3>;

void network_like_its_twin(int ndim, int down, int coarse, int up, const shape& n, bool twin, unsigned seed) {
    const auto w = random_network(ndim, down, coarse, up, seed);
    const index cells = n[0] * n[1] * n[2];
    std::mt19937 g(seed);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(cells)));
    std::vector<float> r(static_cast<std::size_t>(2 * cells)), z(r.size()), expected(r.size());
    std::vector<double> keep(static_cast<std::size_t>(cells));
    for (float& x : r) x = normal(g);
    for (double& k : keep) k = g() % 7 > 0;
    keep[0] = 1;
    interrupt signals;
    device gpu;
    const auto in = gpu.put(r);
    const auto out = gpu.put(z);
    cuda::convolution::apply_network<float>(gpu.context(), w, n, in.data, out.data, 2, gpu.put(keep).data,
                                            signals);
    z = gpu.get(out);
    if (twin) {
        block_backend host(signals, seed);
        cuda::apply_network_on(host, w, n, r.data(), expected.data(), 2, keep.data());
        CHECK(distance(z, expected) < 0.01);  // sums in another order now and then round to the other side
    }
    const auto net = conv::make_network(conv::pack_weights(w, precision::f32), n);
    conv::apply_network(*net, r.data(), expected.data(), 2, keep.data(), 0, signals);
    CHECK(distance(z, expected) < 0.04);
    for (std::size_t i = 0; i < z.size(); ++i) CHECK(keep[i % keep.size()] != 0 || z[i] == 0);
}

}  // namespace

TEST(network_on_a_device) {
    network_like_its_twin(2, 1, 3, 2, {1, 20, 37}, true, 1);
    network_like_its_twin(3, 1, 1, 1, {3, 9, 18}, true, 2);
    network_like_its_twin(3, 0, 1, 1, {1, 1, 1}, true, 3);
    network_like_its_twin(3, 1, 3, 2, {40, 33, 50}, false, 4);
    network_like_its_twin(2, 1, 3, 2, {1, 300, 211}, false, 5);
}

}  // namespace aitken::tests
