// The CUDA kernels of the direction network, run on the CPU as block programs: a layer with whole numbers
// against plain loops, exactly; whole networks against the CPU's; launches counted.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "convolution_cases.hpp"
#include "core/api/convolution.hpp"
#include "cuda/convolution_kernels.hpp"

namespace aitken::tests {
namespace {

using cuda::conv_box;
using cuda::conv_channels;
namespace conv = cpu::convolution;
using aitken::convolution::precision;
using shape = std::array<index, 3>;

conv_box bordered(int ndim, const shape& n) {
    conv_box b{{n[0], n[1], n[2]}, n[2] + 2, (n[1] + 2) * (n[2] + 2), 0};
    b.first = (ndim == 3 ? b.plane : 0) + b.row + 1;
    return b;
}
index size_of(int ndim, const conv_box& b) { return (b.n[0] + (ndim == 3 ? 2 : 0)) * b.plane; }

float number(const std::vector<std::uint32_t>& x, index cell, int c) {
    const std::uint32_t word = x[static_cast<std::size_t>(cell * 8 + c / 2)];
    return cuda::conv_wide(c % 2 ? word >> 16 : word & 0xffff);
}
void set(std::vector<std::uint32_t>& x, index cell, int c, float value) {
    std::uint32_t& word = x[static_cast<std::size_t>(cell * 8 + c / 2)];
    word = (word & (c % 2 ? 0xffffu : 0xffff0000u)) | cuda::conv_half(value) << (c % 2 ? 16 : 0);
}

// Few enough neighbours count that sums stay whole numbers below 256, which bfloat16 has.
template <int Dim>
void layer_like_plain_loops(const shape& n, bool rectify, bool residual, unsigned seed) {
    constexpr int taps = Dim == 3 ? 27 : 9, C = conv_channels;
    std::mt19937 g(seed);
    const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(g); };
    const conv_box box = bordered(Dim, n);
    const auto words = static_cast<std::size_t>(size_of(Dim, box) * 8);
    std::vector<std::uint32_t> x(words, 0), y(words, 0);
    for (index k = 0; k < box.cells(); ++k)
        for (int c = 0; c < C; ++c) {
            set(x, box.at(k), c, static_cast<float>(draw(-2, 2)));
            set(y, box.at(k), c, static_cast<float>(draw(-20, 20)));
        }
    std::vector<float> weights(static_cast<std::size_t>(C * C * taps)), bias(C);
    for (float& w : weights) w = draw(0, 9) == 0 ? static_cast<float>(draw(-1, 1)) : 0.0f;
    for (float& b : bias) b = static_cast<float>(draw(-9, 9));
    std::vector<std::uint32_t> packed(static_cast<std::size_t>(taps * cuda::conv_tap_words), 0);
    for (int o = 0; o < C; ++o)
        for (int c = 0; c < C; ++c)
            for (int tap = 0; tap < taps; ++tap)
                packed[static_cast<std::size_t>(cuda::conv_weight_word(tap, c, o))] |=
                    cuda::conv_half(weights[static_cast<std::size_t>((o * C + c) * taps + tap)])
                    << (c % 2 ? 16 : 0);

    const auto before = y;
    cuda::convolve<Dim> p;
    p.box = box;
    p.x = x.data();
    p.weights = packed.data();
    p.bias = bias.data();
    p.residual = residual ? y.data() : nullptr;
    p.y = y.data();
    p.rectify = rectify;
    block_runner runner(seed);
    runner.run(p, p.blocks());

    bool exact = true;
    double largest = 0;
    auto expected = before;
    for (index k = 0; k < box.cells(); ++k)
        for (int o = 0; o < C; ++o) {
            float sum = bias[static_cast<std::size_t>(o)];
            for (int c = 0; c < C; ++c)
                for (int tap = 0; tap < taps; ++tap) {
                    const index away = (Dim == 3 ? (tap / 9 - 1) * box.plane : 0) +
                                       (tap / 3 % 3 - 1) * box.row + tap % 3 - 1;
                    sum += weights[static_cast<std::size_t>((o * C + c) * taps + tap)] *
                           number(x, box.at(k) + away, c);
                }
            if (rectify) sum = std::max(sum, 0.0f);
            if (residual) sum += number(before, box.at(k), o);
            largest = std::max(largest, static_cast<double>(std::fabs(sum)));
            set(expected, box.at(k), o, sum);
        }
    for (std::size_t i = 0; i < words; ++i) exact = exact && y[i] == expected[i];
    CHECK(exact);  // the border too
    CHECK(largest > 0 && largest <= 256);
}

template <class T>
void network_like_the_cpus(int ndim, int down, int coarse, int up, const shape& n, unsigned seed) {
    const auto w = random_network(ndim, down, coarse, up, seed);
    const auto cells = static_cast<std::size_t>(n[0] * n[1] * n[2]);
    std::mt19937 g(seed);
    std::normal_distribution<double> normal(0, 1 / std::sqrt(static_cast<double>(cells)));
    std::vector<T> r(cells), z(cells), expected(cells), again(cells);
    std::vector<double> keep(cells);
    for (std::size_t i = 0; i < cells; ++i) {
        r[i] = static_cast<T>(normal(g));
        keep[i] = g() % 7 > 0 || i == 0;
    }
    const conv::cell_layout layout{n[2], n[1] * n[2]};
    conv::make_network(conv::pack_weights(w, precision::f32), n)
        ->apply(r.data(), expected.data(), layout, keep.data());

    interrupt signals;
    block_backend be(signals, seed);
    cuda::network_kernels<block_backend> net(be, w, n);
    be.counts() = {};
    net.apply(r.data(), z.data(), layout, keep.data());
    CHECK(be.counts().launches == net.launches());
    CHECK(net.launches() == w.expected_layers() + 3);
    CHECK(be.counts().reads == 0);
    CHECK(distance(z, expected) < 0.04);
    for (std::size_t i = 0; i < cells; ++i) CHECK(keep[i] != 0 || z[i] == 0);
    net.apply(r.data(), again.data(), layout, keep.data());
    CHECK(again == z);
    if (conv::has_bf16()) {  // which rounds at the same places
        conv::make_network(conv::pack_weights(w, precision::bf16, "v4"), n)
            ->apply(r.data(), expected.data(), layout, keep.data());
        CHECK(distance(z, expected) < 0.01);
    }
}

}  // namespace

TEST(conv_blocks_round_to_bfloat16) {
    CHECK(cuda::conv_half(1.0f) == 0x3f80);
    CHECK(cuda::conv_half(1.0f + 0x1p-8f) == 0x3f80);  // a tie, to even
    CHECK(cuda::conv_half(1.0f + 0x3p-8f) == 0x3f82);
    CHECK(cuda::conv_half(1.0f + 0x1p-8f + 0x1p-20f) == 0x3f81);
    CHECK(cuda::conv_half(-INFINITY) == 0xff80);
    CHECK(std::isnan(cuda::conv_wide(cuda::conv_half(NAN))));
    for (std::uint32_t h = 0; h < 0x10000; ++h)
        if (!std::isnan(cuda::conv_wide(h))) CHECK(cuda::conv_half(cuda::conv_wide(h)) == h);
}

TEST(conv_blocks_fragments_are_permutations) {
    // Every number of A, B and D is held by one lane and register, and the packed weights fill their room.
    std::set<std::pair<int, int>> a, d;
    std::set<int> words;
    for (int lane = 0; lane < 32; ++lane)
        for (int reg = 0; reg < 4; ++reg) {
            a.insert({cuda::conv_fragments::a_cell(lane, reg), cuda::conv_fragments::a_word(lane, reg)});
            d.insert({cuda::conv_fragments::d_cell(lane, reg), cuda::conv_fragments::d_channel(lane, reg)});
        }
    for (int in = 0; in < 16; in += 2)
        for (int out = 0; out < 16; ++out) {
            words.insert(cuda::conv_weight_word(0, in, out));
            CHECK(cuda::conv_weight_word(0, in, out) == cuda::conv_weight_word(0, in + 1, out));
        }
    CHECK(a.size() == 128 && d.size() == 128 && words.size() == 128);
    CHECK(*words.begin() == 0 && *words.rbegin() == 127);
}

TEST(conv_blocks_rows_lie_in_different_banks) {
    // Eight consecutive cells' halves, 16 B each, are in the eight different groups of four banks.
    using tile = cuda::convolve<3>;
    for (int first = 0; first + 8 <= tile::cells; ++first)
        for (const int h : {0, 1}) {
            std::set<int> groups;
            for (int c = 0; c < 8; ++c) groups.insert(tile::spot(first + c, h) / 4 % 8);
            CHECK(groups.size() == 8);
        }
}

TEST(conv_blocks_layer_is_plain_loops) {
    unsigned seed = 1;
    for (const shape& n : {shape{1, 1, 1}, {1, 32, 16}, {1, 33, 17}, {1, 3, 40}, {1, 70, 5}})
        for (const int v : {0, 1, 2, 3}) layer_like_plain_loops<2>(n, v & 1, v & 2, ++seed);
    for (const shape& n : {shape{1, 1, 1}, {4, 8, 16}, {5, 9, 17}, {2, 3, 33}, {9, 1, 2}})
        for (const int v : {1, 3}) layer_like_plain_loops<3>(n, v & 1, v & 2, ++seed);
}

TEST(conv_blocks_network_is_the_cpus) {
    network_like_the_cpus<float>(2, 1, 3, 2, {1, 20, 37}, 1);
    network_like_the_cpus<double>(2, 0, 1, 1, {1, 1, 5}, 2);
    network_like_the_cpus<double>(3, 1, 1, 1, {3, 9, 18}, 3);
    network_like_the_cpus<float>(3, 2, 1, 1, {4, 3, 5}, 4);
}

TEST(conv_blocks_refuse_what_does_not_fit) {
    interrupt signals;
    block_backend be(signals, 1);
    using net = cuda::network_kernels<block_backend>;
    const auto good = random_network(2, 1, 1, 1, 1);
    auto w = good;
    w.layers[1].weights.pop_back();
    CHECK_THROWS(net(be, w, {1, 4, 4}), std::invalid_argument);
    w = good;
    w.layers.pop_back();
    CHECK_THROWS(net(be, w, {1, 4, 4}), std::invalid_argument);
    CHECK_THROWS(net(be, good, {2, 4, 4}), std::invalid_argument);
    CHECK_THROWS(net(be, good, {1, 0, 4}), std::invalid_argument);
}

}  // namespace aitken::tests
