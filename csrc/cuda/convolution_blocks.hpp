// The direction network of core/api/convolution.hpp as block programs: 16 channels of bfloat16, sums in
// float.
//
// Fields lie as on the CPU: cells of 16 channels in turn, 32 B, with a border of zero cells. A layer 16 -> 16
// is a product of matrices, K = 16 channels x 9 or 27 neighbours, on tensor cores (m16n8k16).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/views.hpp"
#include "cuda/program.hpp"

namespace aitken::cuda {

inline constexpr int conv_channels = 16;

AITKEN_HD float conv_wide(std::uint32_t half) {
    const std::uint32_t bits = half << 16;
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
#endif
}
// The nearest bfloat16, ties to even; NaN stays NaN.
AITKEN_HD std::uint32_t conv_half(float x) {
#if defined(__CUDA_ARCH__)
    const std::uint32_t bits = __float_as_uint(x);
#else
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
#endif
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
AITKEN_HD std::uint32_t conv_pair(float low, float high) { return conv_half(low) | conv_half(high) << 16; }

// Half a cell: what one load of 16 B brings.
struct alignas(16) conv_load {
    std::uint32_t x[4];
};

// A box of cells with a border, `words` 32-bit numbers a cell. Two dimensions have n[0] = 1 and no planes of
// zeros; first: where cell (0, 0, 0) lies.
struct conv_box {
    index n[3];
    index row, plane, first;

    AITKEN_HD index rows() const { return n[0] * n[1]; }
    AITKEN_HD index cells() const { return n[0] * n[1] * n[2]; }
    AITKEN_HD index at(index i0, index i1, index i2) const { return first + i0 * plane + i1 * row + i2; }
    // Of cell k of all in C order.
    AITKEN_HD index at(index k) const { return at(k / (n[1] * n[2]), k / n[2] % n[1], k % n[2]); }
};

// ---- Layers 16 -> 16 -------------------------------------------------------------------------------------

// The fragments of mma.m16n8k16, by lane and register; two numbers a register. A is 16 cells by 16 channels
// in, B 16 channels in by 8 out, D 16 cells by 8 channels out.
struct conv_fragments {
    static AITKEN_HD int a_cell(int lane, int reg) { return lane / 4 + reg % 2 * 8; }
    static AITKEN_HD int a_word(int lane, int reg) { return lane % 4 + reg / 2 * 4; }  // of the 8 of a cell
    static AITKEN_HD int d_cell(int lane, int reg) { return lane / 4 + reg / 2 * 8; }
    static AITKEN_HD int d_channel(int lane, int reg) { return lane % 4 * 2 + reg % 2; }
    // The lane and register that hold B[k][n].
    static AITKEN_HD int b_lane(int k, int n) { return n * 4 + k % 8 / 2; }
    static AITKEN_HD int b_reg(int k) { return k / 8; }
};
// Weights of a layer: of each neighbour and lane, the registers (b0, b1) of channels out 0 .. 7 and 8 .. 15.
inline constexpr int conv_tap_words = 32 * 4;
AITKEN_HD int conv_weight_word(int tap, int in, int out) {
    const int lane = conv_fragments::b_lane(in, out % 8);
    return (tap * 32 + lane) * 4 + out / 8 * 2 + conv_fragments::b_reg(in);
}

// y = [max(0, .)] (x * w + bias) [+ residual] on tiles of 4 x 8 x 16 or 32 x 16 cells. A block brings its
// tile with a border to shared memory, 32 B a cell and 1.9 or 1.2 times as many as there are cells; each of
// its 8 warps multiplies rows of 16 cells, four at a time for every fragment of weights. Cell and layer: 32 B
// each way (32 more with a residual) and 13824 or 4608 flops.
//
// The two halves of a cell change places every four cells, so that no two of the eight rows of 16 B which a
// warp reads at once lie in the same banks.
template <int Dim>
struct convolve : straight {
    static constexpr int threads = 256, closings = 2, warps = threads / 32;
    static constexpr int Z = Dim == 3 ? 4 : 1, Y = Dim == 3 ? 8 : 32, X = 16;
    static constexpr int reach = Dim == 3 ? 1 : 0, taps = Dim == 3 ? 27 : 9;
    static constexpr int HY = Y + 2, HX = X + 2, cells = (Z + 2 * reach) * HY * HX;
    static constexpr int rows = Z * Y / warps;  // of 16 cells, of a warp
    static_assert(Z * Y % warps == 0);

    struct shared {
        alignas(16) std::uint32_t x[cells * 8];
        alignas(16) std::uint32_t w[taps * conv_tap_words];
    };

    conv_box box;
    const std::uint32_t *x, *weights;
    const float* bias;
    const std::uint32_t* residual;  // null, or y, or as y
    std::uint32_t* y;
    bool rectify;

    AITKEN_HD index tiles(int axis) const { return (box.n[axis] + side(axis) - 1) / side(axis); }
    static AITKEN_HD int side(int axis) { return axis == 0 ? Z : axis == 1 ? Y : X; }
    index blocks() const { return tiles(0) * tiles(1) * tiles(2); }
    // The first cell of a block's tile along an axis.
    AITKEN_HD index corner(index block, int axis) const {
        const index t2 = tiles(2), t1 = tiles(1);
        return (axis == 2 ? block % t2 : axis == 1 ? block / t2 % t1 : block / t2 / t1) * side(axis);
    }
    // Where word 0 of half h of a cell of the tile is.
    static AITKEN_HD int spot(int cell, int h) { return cell * 8 + (h ^ (cell >> 2 & 1)) * 4; }
    // The cell of the tile, border included, that neighbour `tap` of cell c of row m has.
    static AITKEN_HD int neighbour(int m, int c, int tap) {
        const int z = m / Y, row = m % Y;
        return ((z + (Dim == 3 ? tap / 9 : 0)) * HY + row + tap / 3 % 3) * HX + c + tap % 3;
    }
    static AITKEN_HD int row_of(int warp, int i) { return i * warps + warp; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, cuda::place at) const {
        if constexpr (Phase == 0)
            bring(s, at);
        else
            multiply(s, at);
    }

private:
    AITKEN_HD void bring(shared& s, cuda::place at) const {
        const index z0 = corner(at.block, 0), y0 = corner(at.block, 1), x0 = corner(at.block, 2);
        for (int k = at.thread; k < cells * 2; k += threads) {
            const int cell = k / 2, h = k % 2;
            const index i0 = z0 + cell / (HY * HX) - reach, i1 = y0 + cell / HX % HY - 1;
            const index i2 = x0 + cell % HX - 1;
            conv_load v{};
            // Up to the border, which is there and zero.
            if (i0 <= box.n[0] - 1 + reach && i1 <= box.n[1] && i2 <= box.n[2])
                v = *reinterpret_cast<const conv_load*>(x + box.at(i0, i1, i2) * 8 + h * 4);
            *reinterpret_cast<conv_load*>(s.x + spot(cell, h)) = v;
        }
        for (int k = at.thread; k < taps * 32; k += threads)
            *reinterpret_cast<conv_load*>(s.w + k * 4) = *reinterpret_cast<const conv_load*>(weights + k * 4);
    }

    AITKEN_HD void multiply(const shared& s, cuda::place at) const {
        const int warp = at.thread / 32, lane = at.thread % 32;
        float sum[rows][2][4];  // of 16 cells by 16 channels: registers of two fragments D
        AITKEN_UNROLL
        for (int half = 0; half < 2; ++half) {
            AITKEN_UNROLL
            for (int reg = 0; reg < 4; ++reg) {
                const float b = bias[half * 8 + conv_fragments::d_channel(lane, reg)];
                AITKEN_UNROLL
                for (int i = 0; i < rows; ++i) sum[i][half][reg] = b;
            }
        }
        AITKEN_UNROLL
        for (int tap = 0; tap < taps; ++tap) products(s, warp, lane, tap, sum);
        const index z0 = corner(at.block, 0), y0 = corner(at.block, 1), x0 = corner(at.block, 2);
        AITKEN_UNROLL
        for (int i = 0; i < rows; ++i) {
            const int m = row_of(warp, i);
            const index i0 = z0 + m / Y, i1 = y0 + m % Y;
            if (i0 >= box.n[0] || i1 >= box.n[1]) continue;
            AITKEN_UNROLL
            for (int part = 0; part < 2; ++part) {  // cells 0 .. 7 and 8 .. 15 of the row
                const index i2 = x0 + conv_fragments::d_cell(lane, 2 * part);
                if (i2 >= box.n[2]) continue;
                AITKEN_UNROLL
                for (int half = 0; half < 2; ++half) {
                    const index word = box.at(i0, i1, i2) * 8 + half * 4 + lane % 4;
                    store(sum[i][half][2 * part], sum[i][half][2 * part + 1], word);
                }
            }
        }
    }

    AITKEN_HD void store(float low, float high, index word) const {
        if (rectify) {  // this way round a NaN stays
            low = low < 0 ? 0 : low;
            high = high < 0 ? 0 : high;
        }
        if (residual) {
            const std::uint32_t r = residual[word];
            low += conv_wide(r & 0xffff);
            high += conv_wide(r >> 16);
        }
        y[word] = conv_pair(low, high);
    }

#if defined(__CUDA_ARCH__)
    // The fragments of eight cells by eight channels are read by ldmatrix: lane l gives the address of one of
    // 32 rows of 16 B, row l % 8 of registers l / 8.
    static __device__ __forceinline__ void products(const shared& s, int warp, int lane, int tap,
                                                    float (&sum)[rows][2][4]) {
        const uint4 b = *reinterpret_cast<const uint4*>(s.w + (tap * 32 + lane) * 4);
        AITKEN_UNROLL
        for (int i = 0; i < rows; ++i) {
            const int reg = lane / 8;
            const int cell = neighbour(row_of(warp, i), lane % 8 + reg % 2 * 8, tap);
            const auto address =
                static_cast<std::uint32_t>(__cvta_generic_to_shared(s.x + spot(cell, reg / 2)));
            std::uint32_t a0, a1, a2, a3;
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(a0), "=r"(a1), "=r"(a2), "=r"(a3)
                         : "r"(address));
            multiply_add(sum[i][0], a0, a1, a2, a3, b.x, b.y);
            multiply_add(sum[i][1], a0, a1, a2, a3, b.z, b.w);
        }
    }
    static __device__ __forceinline__ void multiply_add(float (&d)[4], std::uint32_t a0, std::uint32_t a1,
                                                        std::uint32_t a2, std::uint32_t a3, std::uint32_t b0,
                                                        std::uint32_t b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
#else
    // The same sums from the same words of shared memory: A[cell][k] and B[k][n] are read where the lanes
    // that hold them on a device find them.
    static void products(const shared& s, int warp, int lane, int tap, float (&sum)[rows][2][4]) {
        const auto number = [](std::uint32_t word, int k) {
            return conv_wide(k % 2 ? word >> 16 : word & 0xffff);
        };
        for (int i = 0; i < rows; ++i)
            for (int half = 0; half < 2; ++half)
                for (int reg = 0; reg < 4; ++reg) {
                    const int m = conv_fragments::d_cell(lane, reg), n = conv_fragments::d_channel(lane, reg);
                    float total = 0;
                    for (int k = 0; k < 16; ++k) {
                        const int holder = m % 8 * 4 + k % 8 / 2, which = m / 8 + k / 8 * 2;
                        const int cell =
                            neighbour(row_of(warp, i), conv_fragments::a_cell(holder, which), tap);
                        const int word = conv_fragments::a_word(holder, which);
                        const std::uint32_t a = s.x[spot(cell, word / 4) + word % 4];
                        const std::uint32_t b = s.w[(tap * 32 + conv_fragments::b_lane(k, n)) * 4 + half * 2 +
                                                    conv_fragments::b_reg(k)];
                        total += number(a, k) * number(b, k);
                    }
                    sum[i][half][reg] += total;
                }
    }
#endif
};

// ---- What is around them, a thread per cell --------------------------------------------------------------

// The residual into the bordered box; 0 where `keep` is 0.
template <class T>
struct conv_read {
    const T* r;
    index row, plane;
    const double* keep;  // null: everywhere
    index n1, n2;
    conv_box box;
    float* to;

    AITKEN_HD void operator()(index k) const {
        const index i0 = k / (n1 * n2), i1 = k / n2 % n1, i2 = k % n2, from = i0 * plane + i1 * row + i2;
        to[box.at(i0, i1, i2)] = keep && keep[from] == 0 ? 0.0f : static_cast<float>(r[from]);
    }
};

// y = x * w + bias, 1 -> 16; weights: neighbour, channel out. 36 or 108 B read (of which the cache has most),
// 32 B written.
template <int Dim>
struct conv_first {
    conv_box box;
    const float *x, *weights, *bias;
    std::uint32_t* y;

    AITKEN_HD void operator()(index k) const {
        const index here = box.at(k);
        float sum[conv_channels];
        AITKEN_UNROLL
        for (int o = 0; o < conv_channels; ++o) sum[o] = bias[o];
        for (int tap = 0; tap < (Dim == 3 ? 27 : 9); ++tap) {
            const index at =
                here + (Dim == 3 ? (tap / 9 - 1) * box.plane : 0) + (tap / 3 % 3 - 1) * box.row + tap % 3 - 1;
            const float number = x[at];
            AITKEN_UNROLL
            for (int o = 0; o < conv_channels; ++o) sum[o] += weights[tap * conv_channels + o] * number;
        }
        AITKEN_UNROLL
        for (int w = 0; w < 8; ++w) y[here * 8 + w] = conv_pair(sum[2 * w], sum[2 * w + 1]);
    }
};

// Means of 2^d cells; k counts words of the coarse cells.
template <int Dim>
struct conv_pool {
    conv_box fine, coarse;
    const std::uint32_t* x;
    std::uint32_t* y;

    AITKEN_HD void operator()(index k) const {
        const index cell = k / 8, w = k % 8;
        const index i0 = cell / (coarse.n[1] * coarse.n[2]), i1 = cell / coarse.n[2] % coarse.n[1];
        const index i2 = cell % coarse.n[2];
        float low = 0, high = 0;
        AITKEN_UNROLL
        for (int c = 0; c < (1 << Dim); ++c) {
            const std::uint32_t v =
                x[fine.at((Dim == 3 ? 2 * i0 + (c >> 2) : 0), 2 * i1 + (c >> 1 & 1), 2 * i2 + (c & 1)) * 8 +
                  w];
            low += conv_wide(v & 0xffff);
            high += conv_wide(v >> 16);
        }
        constexpr float share = 1.0f / (1 << Dim);
        y[coarse.at(i0, i1, i2) * 8 + w] = conv_pair(low * share, high * share);
    }
};

// y += x of the coarse cell; k counts words of the fine cells.
template <int Dim>
struct conv_spread {
    conv_box fine, coarse;
    const std::uint32_t* x;
    std::uint32_t* y;

    AITKEN_HD void operator()(index k) const {
        const index cell = k / 8, w = k % 8;
        const index i0 = cell / (fine.n[1] * fine.n[2]), i1 = cell / fine.n[2] % fine.n[1],
                    i2 = cell % fine.n[2];
        const std::uint32_t v = x[coarse.at(Dim == 3 ? i0 / 2 : 0, i1 / 2, i2 / 2) * 8 + w];
        std::uint32_t& to = y[fine.at(i0, i1, i2) * 8 + w];
        to = conv_pair(conv_wide(to & 0xffff) + conv_wide(v & 0xffff),
                       conv_wide(to >> 16) + conv_wide(v >> 16));
    }
};

// z = <weights, channels> + bias in the cells of the grid; 0 where `keep` is 0.
template <class T>
struct conv_last {
    conv_box box;
    const std::uint32_t* x;
    const float *weights, *bias;
    T* z;
    index row, plane;
    const double* keep;  // null: everywhere
    index n1, n2;

    AITKEN_HD void operator()(index k) const {
        const index i0 = k / (n1 * n2), i1 = k / n2 % n1, i2 = k % n2, to = i0 * plane + i1 * row + i2;
        const index word = box.at(i0, i1, i2) * 8;
        float sum = bias[0];
        AITKEN_UNROLL
        for (int w = 0; w < 8; ++w) {
            const std::uint32_t v = x[word + w];
            sum += weights[2 * w] * conv_wide(v & 0xffff) + weights[2 * w + 1] * conv_wide(v >> 16);
        }
        z[to] = keep && keep[to] == 0 ? T(0) : static_cast<T>(sum);
    }
};

}  // namespace aitken::cuda
