// Convolutional networks at every level this machine supports, against plain loops in double precision.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/api/convolution.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"

namespace {

using aitken::index;
namespace api = aitken::convolution;
namespace cpu = aitken::cpu;
namespace conv = aitken::cpu::convolution;

constexpr index C = api::channels;
constexpr float guard = -12345;

std::vector<float> drawn(std::mt19937& g, index n, double size) {
    std::normal_distribution<float> normal(0, static_cast<float>(size));
    std::vector<float> out(static_cast<std::size_t>(n));
    for (float& x : out) x = normal(g);
    return out;
}

// What is in memory as bfloat16, as float and back, ties to even.
std::uint16_t halved(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float whole(std::uint16_t x) {
    const std::uint32_t bits = std::uint32_t{x} << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
struct as_float {
    using number = float;
    static float in(float x) { return x; }
    static float out(float x) { return x; }
    static constexpr double tolerance = 2e-6;
};
struct as_half {
    using number = std::uint16_t;
    static number in(float x) { return halved(x); }
    static float out(number x) { return whole(x); }
    static constexpr double tolerance = 5e-3;  // 2^-8 of what is stored, and of what was multiplied
};

// Rows of cells between guards: x[r] at the first cell, with a readable one on each side.
template <class F>
struct rows_of_cells {
    std::vector<std::vector<typename F::number>> kept;
    std::vector<void*> at;
    rows_of_cells(std::mt19937& g, int rows, index n, double size) {
        for (int r = 0; r < rows; ++r) {
            const auto values = drawn(g, (n + 2) * C, size);
            auto& row = kept.emplace_back(values.size() + 32);
            for (auto& x : row) x = F::in(guard);
            for (std::size_t i = 0; i < values.size(); ++i) row[16 + i] = F::in(values[i]);
        }
        for (auto& row : kept) at.push_back(row.data() + 16 + C);
    }
    double operator()(int r, index cell, index c) const {
        return F::out(kept[static_cast<std::size_t>(r)][static_cast<std::size_t>(16 + (cell + 1) * C + c)]);
    }
    // Nothing outside the cells 0 .. n - 1 differs from `before`.
    bool kept_beside(const rows_of_cells& before, index n) const {
        for (std::size_t r = 0; r < kept.size(); ++r)
            for (std::size_t i = 0; i < kept[r].size(); ++i) {
                const bool inside = i >= 16 + C && i < static_cast<std::size_t>(16 + C + n * C);
                if (!inside && kept[r][i] != before.kept[r][i]) return false;
            }
        return true;
    }
};

const index widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 40, 47, 48, 49, 64, 97};

template <class F>
void check_rows(const aitken_convolution& k) {
    std::mt19937 g(7);
    for (const index n : widths)
        for (const int rows : {3, 9})
            for (const int variant : {0, 1, 2, 3}) {
                const bool rectify = variant & 1, residual = variant & 2;
                const rows_of_cells<F> x(g, rows, n, 1);
                rows_of_cells<F> y(g, 1, n, 1);
                const auto before = y;
                const auto given = drawn(g, rows * 3 * C * C, 0.1), bias = drawn(g, C, 0.5);
                std::vector<typename F::number> w(given.size());
                const auto place = [&](index r, index c, index d, index o) -> std::size_t {
                    return static_cast<std::size_t>(sizeof(typename F::number) == 2
                                                        ? (((r * C / 2 + c / 2) * 3 + d) * C + o) * 2 + c % 2
                                                        : ((r * C + c) * 3 + d) * C + o);
                };
                for (std::size_t i = 0; i < w.size(); ++i) w[i] = F::in(given[i]);
                k.inner_row(x.at.data(), rows, w.data(), bias.data(), rectify, residual ? y.at[0] : nullptr,
                            n, y.at[0]);
                double worst = 0;
                for (index j = 0; j < n; ++j)
                    for (index o = 0; o < C; ++o) {
                        double sum = bias[static_cast<std::size_t>(o)], size = std::fabs(sum);
                        for (int r = 0; r < rows; ++r)
                            for (index c = 0; c < C; ++c)
                                for (index d = 0; d < 3; ++d) {
                                    const double term = F::out(w[place(r, c, d, o)]) * x(r, j + d - 1, c);
                                    sum += term;
                                    size += std::fabs(term);
                                }
                        if (rectify) sum = std::max(sum, 0.0);
                        if (residual) sum += before(0, j, o);
                        worst = std::max(worst, std::fabs(sum - y(0, j, o)) / (size + std::fabs(sum)));
                    }
                CHECK(worst < F::tolerance);
                CHECK(y.kept_beside(before, n));
            }
}

template <class F>
void check_other_rows(const aitken_convolution& k) {
    std::mt19937 g(8);
    for (const index n : widths) {
        const auto weights = drawn(g, 9 * 3 * C, 0.3), bias = drawn(g, C, 0.5);
        rows_of_cells<F> y(g, 1, n, 1);
        auto before = y;
        std::vector<std::vector<float>> grid;
        std::vector<const float*> input;
        for (int r = 0; r < 9; ++r) grid.push_back(drawn(g, n + 2, 1));
        for (const auto& row : grid) input.push_back(row.data());
        k.first_row(input.data(), 9, weights.data(), bias.data(), n, y.at[0]);
        double worst = 0;
        for (index j = 0; j < n; ++j)
            for (index o = 0; o < C; ++o) {
                double sum = bias[static_cast<std::size_t>(o)], size = std::fabs(sum);
                for (index r = 0; r < 9; ++r)
                    for (index d = 0; d < 3; ++d) {
                        const double term =
                            static_cast<double>(weights[static_cast<std::size_t>((r * 3 + d) * C + o)]) *
                            grid[static_cast<std::size_t>(r)][static_cast<std::size_t>(j + d)];
                        sum += term;
                        size += std::fabs(term);
                    }
                worst = std::max(worst, std::fabs(sum - y(0, j, o)) / size);
            }
        CHECK(worst < F::tolerance);
        CHECK(y.kept_beside(before, n));

        for (const int rows : {2, 4}) {
            rows_of_cells<F> fine(g, rows, 2 * n, 1), coarse(g, 1, n, 1);
            before = coarse;
            k.pool_rows(fine.at.data(), rows, n, coarse.at[0]);
            worst = 0;
            for (index j = 0; j < n; ++j)
                for (index c = 0; c < C; ++c) {
                    double sum = 0;
                    for (int r = 0; r < rows; ++r) sum += fine(r, 2 * j, c) + fine(r, 2 * j + 1, c);
                    worst = std::max(worst, std::fabs(sum / (2 * rows) - coarse(0, j, c)));
                }
            CHECK(worst < 4 * F::tolerance);
            CHECK(coarse.kept_beside(before, n));
            const auto old = fine;
            k.spread_row(coarse.at[0], n, fine.at.data(), rows);
            worst = 0;
            for (int r = 0; r < rows; ++r)
                for (index j = 0; j < 2 * n; ++j)
                    for (index c = 0; c < C; ++c)
                        worst =
                            std::max(worst, std::fabs(old(r, j, c) + coarse(0, j / 2, c) - fine(r, j, c)));
            CHECK(worst < 6 * F::tolerance);
            CHECK(fine.kept_beside(old, 2 * n));
        }

        std::vector<float> out(static_cast<std::size_t>(n + 1), guard);
        k.last_row(y.at[0], weights.data(), 0.25f, n, out.data());
        worst = 0;
        for (index j = 0; j < n; ++j) {
            double sum = 0.25;
            for (index c = 0; c < C; ++c) sum += y(0, j, c) * weights[static_cast<std::size_t>(c)];
            worst = std::max(worst, std::fabs(sum - out[static_cast<std::size_t>(j)]));
        }
        CHECK(worst < 1e-5);
        CHECK(out.back() == guard);
    }
}

api::direction_weights direction(std::mt19937& g, int ndim, int down, int coarse, int up) {
    api::direction_weights w{ndim, down, coarse, up, {}};
    const index taps = ndim == 3 ? 27 : 9, last = w.expected_layers() - 1;
    for (index k = 0; k <= last; ++k) {
        const index in = k == 0 ? 1 : C, out = k == last ? 1 : C, near = k == last ? 1 : taps;
        w.layers.push_back(
            {drawn(g, in * out * near, std::sqrt(1.2 / static_cast<double>(in * near))), drawn(g, out, 0.1)});
    }
    return w;
}

// One field of a network in double precision: channels of full grids.
struct plain_field {
    std::array<index, 3> n{};
    std::vector<std::vector<double>> at;
    double get(index c, index i0, index i1, index i2) const {
        if (i0 < 0 || i1 < 0 || i2 < 0 || i0 >= n[0] || i1 >= n[1] || i2 >= n[2]) return 0;
        return at[static_cast<std::size_t>(c)][static_cast<std::size_t>((i0 * n[1] + i1) * n[2] + i2)];
    }
};
plain_field make_field(std::array<index, 3> n, index channels) {
    plain_field f;
    f.n = n;
    f.at.assign(static_cast<std::size_t>(channels),
                std::vector<double>(static_cast<std::size_t>(n[0] * n[1] * n[2])));
    return f;
}
template <class F>
plain_field each_cell(std::array<index, 3> n, index channels, F&& f) {
    plain_field out = make_field(n, channels);
    for (index c = 0; c < channels; ++c)
        for (index i0 = 0; i0 < n[0]; ++i0)
            for (index i1 = 0; i1 < n[1]; ++i1)
                for (index i2 = 0; i2 < n[2]; ++i2)
                    out.at[static_cast<std::size_t>(c)]
                          [static_cast<std::size_t>((i0 * n[1] + i1) * n[2] + i2)] = f(c, i0, i1, i2);
    return out;
}
plain_field convolved(const plain_field& x, const api::layer& layer, int ndim) {
    const auto in = static_cast<index>(x.at.size()), out = static_cast<index>(layer.bias.size());
    const index near = static_cast<index>(layer.weights.size()) / (in * out);
    return each_cell(x.n, out, [&](index o, index i0, index i1, index i2) {
        double sum = layer.bias[static_cast<std::size_t>(o)];
        for (index c = 0; c < in; ++c)
            for (index t = 0; t < near; ++t) {
                const double w = layer.weights[static_cast<std::size_t>((o * in + c) * near + t)];
                if (near == 1)
                    sum += w * x.get(c, i0, i1, i2);
                else
                    sum += w * x.get(c, i0 + (ndim == 3 ? t / 9 - 1 : 0), i1 + t / 3 % 3 - 1, i2 + t % 3 - 1);
            }
        return sum;
    });
}

plain_field plain_network(const api::direction_weights& w, const plain_field& r) {
    std::size_t k = 0;
    const auto layer = [&](const plain_field& x) { return convolved(x, w.layers[k++], w.ndim); };
    const auto relu = [](plain_field x) {
        for (auto& plane : x.at)
            for (double& v : plane) v = std::max(v, 0.0);
        return x;
    };
    const auto plus = [](plain_field x, const plain_field& y) {
        for (std::size_t c = 0; c < x.at.size(); ++c)
            for (std::size_t i = 0; i < x.at[c].size(); ++i) x.at[c][i] += y.at[c][i];
        return x;
    };
    const index z = w.ndim == 3 ? 2 : 1;
    std::array<index, 3> half{}, even{};
    for (std::size_t a = 0; a < 3; ++a) {
        half[a] = a == 0 && z == 1 ? 1 : (r.n[a] + 1) / 2;
        even[a] = a == 0 && z == 1 ? 1 : 2 * half[a];
    }
    const auto padded =
        each_cell(even, 1, [&](index c, index i0, index i1, index i2) { return r.get(c, i0, i1, i2); });
    plain_field a = relu(layer(layer(padded)));
    plain_field b = relu(layer(a));
    for (int s = 0; s < w.down; ++s) {
        a = plus(relu(layer(b)), a);
        b = relu(layer(a));
    }
    plain_field h = each_cell(half, C, [&](index c, index i0, index i1, index i2) {
        double sum = 0;
        for (index p = 0; p < z; ++p)
            for (index q = 0; q < 2; ++q)
                for (index s = 0; s < 2; ++s) sum += b.get(c, z * i0 + p, 2 * i1 + q, 2 * i2 + s);
        return sum / static_cast<double>(4 * z);
    });
    for (int s = 0; s < w.coarse; ++s) h = plus(relu(layer(relu(layer(h)))), h);
    plain_field v = plus(
        each_cell(even, C,
                  [&](index c, index i0, index i1, index i2) { return h.get(c, i0 / z, i1 / 2, i2 / 2); }),
        b);
    for (int s = 0; s < w.up; ++s) v = plus(relu(layer(relu(layer(v)))), v);
    return layer(v);
}

struct network_case {
    int ndim, down, coarse, up;
    std::array<index, 3> n;
};
const network_case network_cases[] = {
    {2, 1, 3, 2, {1, 1, 1}}, {2, 1, 1, 1, {1, 5, 9}},  {2, 0, 1, 1, {1, 3, 8}},  {2, 2, 2, 2, {1, 6, 33}},
    {3, 1, 3, 2, {1, 1, 1}}, {3, 1, 1, 1, {3, 2, 11}}, {3, 0, 2, 1, {1, 7, 26}}, {3, 2, 1, 2, {4, 3, 5}}};

template <class Check>
void each_network(Check&& check) {
    std::mt19937 g(9);
    for (const auto& c : network_cases) {
        const auto w = direction(g, c.ndim, c.down, c.coarse, c.up);
        const index cells = c.n[0] * c.n[1] * c.n[2];
        const auto values = drawn(g, cells, 1 / std::sqrt(static_cast<double>(cells)));
        check(c, w, values);
    }
}

}  // namespace

TEST(convolution_rows_are_plain_loops) {
    for (const auto level : cpu::simd_levels()) {
        check_rows<as_float>(cpu::simd_for(level).convolution);
        check_other_rows<as_float>(cpu::simd_for(level).convolution);
    }
}

TEST(convolution_rows_in_bfloat16) {
    CHECK(conv::has_bf16() == cpu::simd_has_bf16());
#if defined(__x86_64__) || defined(_M_X64)
    if (!conv::has_bf16()) return;
    check_rows<as_half>(aitken_simd_bf16);
    check_other_rows<as_half>(aitken_simd_bf16);
#endif
}

TEST(convolution_rows_keep_nan) {
    using aitken::index;
    for (const auto level : cpu::simd_levels()) {
        std::mt19937 g(3);
        rows_of_cells<as_float> x(g, 3, 5, 1), y(g, 1, 5, 1);
        x.kept[1][16 + 3 * C] = std::numeric_limits<float>::quiet_NaN();  // of cell 2
        const auto w = drawn(g, 3 * 3 * C * C, 0.1), bias = drawn(g, C, 1);
        cpu::simd_for(level).convolution.inner_row(x.at.data(), 3, w.data(), bias.data(), 1, nullptr, 5,
                                                   y.at[0]);
        for (index j = 0; j < 5; ++j)
            for (index o = 0; o < C; ++o) CHECK(std::isnan(y(0, j, o)) == (j >= 1 && j <= 3));
    }
}

TEST(networks_are_their_layers_one_by_one) {
    using aitken::index;
    each_network([](const network_case& c, const api::direction_weights& w,
                    const std::vector<float>& values) {
        plain_field r = make_field(c.n, 1);
        r.at[0].assign(values.begin(), values.end());
        const plain_field expected = plain_network(w, r);
        double size = 0;
        for (const double x : expected.at[0]) size = std::max(size, std::fabs(x));
        for (const auto level : cpu::simd_levels()) {
            const auto net =
                conv::make_network(conv::pack_weights(w, api::precision::f32, std::string(level)), c.n);
            std::vector<double> in(values.begin(), values.end()), z(in.size());
            net->apply(in.data(), z.data(), {c.n[2], c.n[1] * c.n[2]}, nullptr);
            double worst = 0;
            for (index i0 = 0; i0 < c.n[0]; ++i0)
                for (index i1 = 0; i1 < c.n[1]; ++i1)
                    for (index i2 = 0; i2 < c.n[2]; ++i2)
                        worst = std::max(
                            worst, std::fabs(z[static_cast<std::size_t>((i0 * c.n[1] + i1) * c.n[2] + i2)] -
                                             expected.get(0, i0, i1, i2)));
            CHECK(worst < 1e-5 * size);
        }
    });
}

TEST(networks_do_not_depend_on_threads_or_history) {
    const int before = cpu::requested_threads();
    each_network(
        [](const network_case& c, const api::direction_weights& w, const std::vector<float>& values) {
            for (const auto precision : {api::precision::f32, api::precision::bf16}) {
                if (precision == api::precision::bf16 && !conv::has_bf16()) continue;
                const auto packed =
                    conv::pack_weights(w, precision, precision == api::precision::bf16 ? "v4" : "");
                const auto net = conv::make_network(packed, c.n);
                const conv::cell_layout layout{c.n[2], c.n[1] * c.n[2]};
                std::vector<float> first(values.size()), again(values.size());
                cpu::set_num_threads(1);
                net->apply(values.data(), first.data(), layout, nullptr);
                std::vector<float> huge(values.size(), std::numeric_limits<float>::infinity());
                net->apply(huge.data(), huge.data(), layout, nullptr);
                for (const int threads : {1, 2, 5}) {
                    cpu::set_num_threads(threads);
                    net->clone()->apply(values.data(), again.data(), layout, nullptr);
                    CHECK(again == first);
                    net->apply(values.data(), again.data(), layout, nullptr);
                    CHECK(again == first);
                }
            }
        });
    cpu::set_num_threads(before);
}

TEST(network_map_works_on_padded_vectors) {
    namespace mg = aitken::multigrid;
    std::mt19937 g(5);
    mg::box box;
    box.ndim = 2;
    box.n = {1, 9, 14};
    const std::shared_ptr<cpu::multigrid::poisson_grid> grid = cpu::multigrid::make_grid(box);
    std::vector<std::uint8_t> flags(static_cast<std::size_t>(box.cells()), mg::fluid);
    const auto update = [&](std::size_t solid) {
        flags.assign(flags.size(), mg::fluid);
        for (std::size_t i = solid; i < solid + 4; ++i) flags[i] = mg::solid;
        mg::coefficients c;
        c.flags = flags.data();
        c.open[1] = c.open[2] = {true, true};
        grid->update(c);
    };
    update(20);
    const auto packed = conv::pack_weights(direction(g, 2, 1, 1, 1), api::precision::f32);
    const std::shared_ptr<conv::network> net = conv::make_network(packed, box.n);
    const auto map = conv::make_network_map(net, grid);
    CHECK(map->size() == grid->size());
    CHECK(map->varies());
    for (const std::size_t solid : {20, 51}) {
        update(solid);
        std::vector<double> full(flags.size()), expected(flags.size()), found(flags.size());
        std::normal_distribution<double> normal(0, 0.1);
        for (std::size_t i = 0; i < full.size(); ++i) full[i] = flags[i] == mg::fluid ? normal(g) : 0;
        net->apply(full.data(), expected.data(), {14, 9 * 14}, nullptr);
        const auto room = static_cast<std::size_t>(grid->size() + 2 * grid->guard());
        std::vector<double> r(room), z(room);
        grid->scatter(full.data(), false, r.data() + grid->guard());
        map->apply(r.data() + grid->guard(), z.data() + grid->guard());
        grid->gather(z.data() + grid->guard(), false, found.data());
        double sum = 0, kept = 0;
        for (std::size_t i = 0; i < full.size(); ++i) {
            CHECK(found[i] == (flags[i] == mg::fluid ? expected[i] : 0.0));
            sum += std::fabs(found[i]);
        }
        for (const double x : z) kept += std::fabs(x);
        CHECK(sum > 0);
        CHECK_NEAR(kept, sum, 1e-12 * sum);  // nothing in pads and guards
    }
    box.n = {1, 9, 13};
    CHECK_THROWS(conv::make_network_map(net, cpu::multigrid::make_grid(box)), std::invalid_argument);
}

TEST(networks_refuse_what_does_not_fit) {
    std::mt19937 g(4);
    const auto good = direction(g, 2, 1, 1, 1);
    const auto pack = [](const api::direction_weights& w) {
        return conv::pack_weights(w, api::precision::f32);
    };
    auto w = good;
    w.layers[2].weights.pop_back();
    CHECK_THROWS(pack(w), std::invalid_argument);
    w = good;
    w.layers.back().bias.push_back(0);
    CHECK_THROWS(pack(w), std::invalid_argument);
    w = good;
    w.layers.pop_back();
    CHECK_THROWS(pack(w), std::invalid_argument);
    w = good;
    w.coarse = 0;
    CHECK_THROWS(pack(w), std::invalid_argument);
    w = good;
    w.ndim = 4;
    CHECK_THROWS(pack(w), std::invalid_argument);
    CHECK_THROWS(conv::make_network(pack(good), {2, 4, 4}), std::invalid_argument);
    CHECK_THROWS(conv::make_network(pack(good), {1, 0, 4}), std::invalid_argument);
    CHECK_THROWS(conv::pack_weights(good, api::precision::bf16, "base"), std::invalid_argument);
    aitken::multigrid::learned_weights learned;
    CHECK_THROWS(conv::geometry_network(learned), std::invalid_argument);
}

TEST(geometry_fields_are_plain_loops) {
    using aitken::index;
    std::mt19937 g(6);
    for (const int ndim : {2, 3})
        for (std::array<index, 3> n :
             {std::array<index, 3>{1, 1, 1}, {3, 5, 7}, {1, 17, 33}, {2, 1, 16}, {5, 40, 18}, {4, 33, 1}}) {
            if (ndim == 2) n = {1, n[0] * n[1], n[2]};
            const index taps = ndim == 3 ? 27 : 9, cells = n[0] * n[1] * n[2];
            aitken::multigrid::learned_weights w;
            w.ndim = ndim;
            w.w1 = drawn(g, C * 4 * taps, 0.2), w.b1 = drawn(g, C, 0.2), w.w2 = drawn(g, C * C, 0.3);
            w.b2 = drawn(g, C, 0.2), w.w3 = drawn(g, 3 * C, 0.3), w.b3 = drawn(g, 3, 0.2);
            plain_field x = make_field(n, 4);
            std::vector<std::vector<float>> features;
            for (auto& plane : x.at) {
                features.push_back(drawn(g, cells, 1));
                plane.assign(features.back().begin(), features.back().end());
            }
            const auto relu = [](plain_field f) {
                for (auto& plane : f.at)
                    for (double& v : plane) v = std::max(v, 0.0);
                return f;
            };
            const auto expected =
                convolved(relu(convolved(relu(convolved(x, {w.w1, w.b1}, ndim)), {w.w2, w.b2}, ndim)),
                          {w.w3, w.b3}, ndim);
            for (const auto level : cpu::simd_levels())
                for (const int threads : {1, 3}) {
                    const conv::geometry_network net(w, std::string(level));
                    conv::geometry_scratch scratch;
                    std::vector<std::vector<float>> out(
                        3, std::vector<float>(static_cast<std::size_t>(cells + 1), guard));
                    conv::geometry_fields(
                        net, n,
                        {features[0].data(), features[1].data(), features[2].data(), features[3].data()},
                        {out[0].data(), out[1].data(), out[2].data()}, scratch, threads);
                    double worst = 0;
                    for (std::size_t k = 0; k < 3; ++k) {
                        for (std::size_t i = 0; i < static_cast<std::size_t>(cells); ++i)
                            worst = std::max(worst, std::fabs(out[k][i] - expected.at[k][i]));
                        CHECK(out[k].back() == guard);
                    }
                    CHECK(worst < 2e-5);
                }
        }
}
