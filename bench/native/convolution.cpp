// Convolutional networks on one thread: Gflop/s of the layer 16 -> 16 alone, of a whole direction network,
// and of the network of a multigrid level, at every level of instructions and in bfloat16. The ceiling is
// that of independent products of matrices in registers, measured here: two vectors of a panel times one
// number each.
//
//   convolution [--level base|v3|v4|bf16]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/api/convolution.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"

namespace {

using aitken::index;
namespace api = aitken::convolution;
namespace cpu = aitken::cpu;

template <class Body>
double seconds(Body body) {
    using clock = std::chrono::steady_clock;
    body();
    double best = 1e30, spent = 0;
    for (int repeat = 0; repeat < 3 || spent < 0.4; ++repeat) {
        const auto start = clock::now();
        body();
        const double took = std::chrono::duration<double>(clock::now() - start).count();
        best = std::min(best, took);
        spent += took;
    }
    return best;
}

// ---- The ceiling -----------------------------------------------------------------------------------------

volatile float sink;

#if defined(__x86_64__)
__attribute__((noipa, target("avx512f"))) float multiply_adds_v4(long rounds) {
    typedef float v __attribute__((vector_size(64)));
    v s[16], a, b;
    for (int i = 0; i < 16; ++i) s[i] = v{} + static_cast<float>(i);
    a = v{} + 0.5f, b = v{} + 1.0f;
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) s[i] = s[i] * a + b;
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += s[i][0];
    return sum;
}
__attribute__((noipa, target("avx2,fma"))) float multiply_adds_v3(long rounds) {
    typedef float v __attribute__((vector_size(32)));
    v s[12], a, b;
    for (int i = 0; i < 12; ++i) s[i] = v{} + static_cast<float>(i);
    a = v{} + 0.5f, b = v{} + 1.0f;
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 12
        for (int i = 0; i < 12; ++i) s[i] = s[i] * a + b;
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += s[i][0];
    return sum;
}
#endif
__attribute__((noipa)) float multiply_adds_base(long rounds) {
    typedef float v __attribute__((vector_size(16)));
    v s[12];
    for (int i = 0; i < 12; ++i) s[i] = v{} + static_cast<float>(i);
    const v a = v{} + 0.5f, b = v{} + 1.0f;
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 12
        for (int i = 0; i < 12; ++i) s[i] = s[i] * a + b;
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += s[i][0];
    return sum;
}

double ceiling(const std::string& level) {
    constexpr long rounds = 200000;
#if defined(__x86_64__)
    if (level == "v4" || level == "bf16")
        return 16 * 32.0 * rounds / 1e9 / seconds([] { sink = multiply_adds_v4(rounds); });
    if (level == "v3") return 12 * 16.0 * rounds / 1e9 / seconds([] { sink = multiply_adds_v3(rounds); });
#endif
    return 12 * 8.0 * rounds / 1e9 / seconds([] { sink = multiply_adds_base(rounds); });
}

// ---- What is measured ------------------------------------------------------------------------------------

std::vector<float> drawn(index n, double size) {
    static std::mt19937 g(1);
    std::normal_distribution<float> normal(0, static_cast<float>(size));
    std::vector<float> out(static_cast<std::size_t>(n));
    for (float& x : out) x = normal(g);
    return out;
}

api::direction_weights direction(int ndim, int down, int coarse, int up) {
    api::direction_weights w{ndim, down, coarse, up, {}};
    const index taps = ndim == 3 ? 27 : 9, last = w.expected_layers() - 1;
    for (index k = 0; k <= last; ++k) {
        const index in = k == 0 ? 1 : api::channels, out = k == last ? 1 : api::channels;
        const index n = in * out * (k == last ? 1 : taps);
        w.layers.push_back({drawn(n, 0.05), drawn(out, 0.1)});
    }
    return w;
}

// One layer over a box with its halo, rows in the cache as a network has them.
double layer_rate(const aitken_convolution& kernels, int ndim, std::array<index, 3> n, index size) {
    const index c = api::channels * size, row = (n[2] + 2) * c, plane = (n[1] + 2) * row;
    const index planes = ndim == 3 ? n[0] + 2 : 1;
    std::vector<char> x(static_cast<std::size_t>(planes * plane) + 64), y(x.size());
    std::vector<char> w(static_cast<std::size_t>((ndim == 3 ? 27 : 9) * 256 * size) + 64);
    const auto aligned = [](std::vector<char>& v) {
        const auto at = reinterpret_cast<std::uintptr_t>(v.data());
        return v.data() + (64 - at % 64) % 64;
    };
    char *from = aligned(x) + (ndim == 3 ? plane : 0) + row + c, *to = aligned(y) + (from - aligned(x));
    const auto bias = drawn(16, 0.1);
    const double sec = seconds([&] {
        for (index i0 = 0; i0 < n[0]; ++i0)
            for (index i1 = 0; i1 < n[1]; ++i1) {
                const void* rows[9];
                int count = 0;
                for (index p = ndim == 3 ? -1 : 0; p <= (ndim == 3 ? 1 : 0); ++p)
                    for (index d = -1; d <= 1; ++d) rows[count++] = from + (i0 + p) * plane + (i1 + d) * row;
                kernels.inner_row(rows, count, aligned(w), bias.data(), 1, nullptr, n[2],
                                  to + i0 * plane + i1 * row);
            }
    });
    return static_cast<double>(n[0] * n[1] * n[2]) * (ndim == 3 ? 27 : 9) * 512 / sec / 1e9;
}

double network_rate(const std::string& level, int ndim, std::array<index, 3> n) {
    const bool half = level == "bf16";
    const auto weights = cpu::convolution::pack_weights(
        direction(ndim, 1, 3, 2), half ? api::precision::bf16 : api::precision::f32, half ? "v4" : level);
    const auto net = cpu::convolution::make_network(weights, n);
    auto r = drawn(n[0] * n[1] * n[2], 1e-3);
    const double sec = seconds([&] {
        net->apply(r.data(), r.data(), {n[2], n[1] * n[2]}, nullptr);
        std::fill(r.begin(), r.end(), 1e-3f);
    });
    return net->flops() / sec / 1e9;
}

double geometry_rate(const std::string& level, int ndim, std::array<index, 3> n) {
    const index taps = ndim == 3 ? 27 : 9, cells = n[0] * n[1] * n[2];
    aitken::multigrid::learned_weights w;
    w.ndim = ndim;
    w.w1 = drawn(16 * 4 * taps, 0.1), w.b1 = drawn(16, 0.1), w.w2 = drawn(256, 0.1), w.b2 = drawn(16, 0.1);
    w.w3 = drawn(48, 0.1), w.b3 = drawn(3, 0.1);
    const cpu::convolution::geometry_network net(w, level);
    cpu::convolution::geometry_scratch scratch;
    const auto x = drawn(cells, 1);
    std::vector<float> out(static_cast<std::size_t>(3 * cells));
    const double sec = seconds([&] {
        cpu::convolution::geometry_fields(net, n, {x.data(), x.data(), x.data(), x.data()},
                                          {out.data(), out.data() + cells, out.data() + 2 * cells}, scratch);
    });
    return static_cast<double>(cells) * static_cast<double>(taps * 128 + 608) / sec / 1e9;
}

void run(const std::string& level) {
    const bool half = level == "bf16";
#if defined(__x86_64__) || defined(_M_X64)
    const aitken_convolution& kernels = half ? aitken_simd_bf16 : cpu::simd_for(level).convolution;
#else
    const aitken_convolution& kernels = cpu::simd_for(level).convolution;
#endif
    std::printf("%-5s %9.1f", level.c_str(), ceiling(level));
    const index size = half ? 2 : 4;
    std::printf(" %9.1f %9.1f %9.1f", layer_rate(kernels, 3, {32, 32, 32}, size),
                layer_rate(kernels, 3, {64, 64, 64}, size), layer_rate(kernels, 2, {1, 512, 512}, size));
    std::printf(" %9.1f %9.1f", network_rate(level, 3, {64, 64, 64}), network_rate(level, 2, {1, 512, 512}));
    if (!half)
        std::printf(" %9.1f %9.1f", geometry_rate(level, 3, {64, 64, 64}),
                    geometry_rate(level, 2, {1, 512, 512}));
    std::printf("\n");
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
    std::vector<std::string> levels;
    for (const auto level : cpu::simd_levels()) levels.emplace_back(level);
    if (cpu::convolution::has_bf16()) levels.emplace_back("bf16");
    for (int i = 1; i < argc; i += 2) {
        const std::string option = argv[i];
        if (option != "--level" || i + 1 == argc) throw std::invalid_argument("unknown option " + option);
        levels = {argv[i + 1]};
    }
    cpu::set_num_threads(1);
    std::printf("%-5s %9s %29s %19s %19s\n", "", "", "layer 16 -> 16, Gflop/s", "network", "geometry");
    std::printf("%-5s %9s %9s %9s %9s %9s %9s %9s %9s\n", "level", "ceiling", "32^3", "64^3", "512^2", "64^3",
                "512^2", "64^3", "512^2");
    for (const auto& level : levels) run(level);
    return 0;
} catch (const std::exception& e) {
    std::fprintf(stderr, "convolution: %s\n", e.what());
    return 2;
}
