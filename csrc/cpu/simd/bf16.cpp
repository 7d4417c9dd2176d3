// Rows of convolutional networks in bfloat16 for AVX512_BF16: products of pairs of channels are summed in
// float, 64 flops an instruction. Compiled with flags of its own and asked for by name, never by level.
#include "cpu/simd/inline.hpp"
#include "cpu/simd/table.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#if !defined(__AVX512BF16__) || !defined(__AVX512VL__)
#error "compile this file with -march=x86-64-v4 -mavx512bf16"
#endif
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

namespace {
namespace bf16 {

typedef uint16_t half;

struct halves {
    typedef __m512 v;
    static constexpr int width = 16;
    AITKEN_INLINE static v set(float x) { return _mm512_set1_ps(x); }
    AITKEN_INLINE static v load(const float* p) { return _mm512_loadu_ps(p); }
    AITKEN_INLINE static v load(const half* p) {
        const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
    }
    AITKEN_INLINE static void store(half* p, v x) {
        const __m256bh rounded = _mm512_cvtneps_pbh(x);
        __builtin_memcpy(p, &rounded, sizeof rounded);
    }
    AITKEN_INLINE static v fma(v a, v b, v c) { return _mm512_fmadd_ps(a, b, c); }
    AITKEN_INLINE static v greater(v a, v b) { return _mm512_max_ps(a, b); }
    AITKEN_INLINE static __m128 sums(v a, v b, v c, v d) {
        const v ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
        const v cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
        const v all = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);
        const __m256 two = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
        return _mm256_castps256_ps128(two) + _mm256_extractf128_ps(two, 1);
    }
    AITKEN_INLINE static void sum4(v a, v b, v c, v d, float* out) { _mm_storeu_ps(out, sums(a, b, c, d)); }
    AITKEN_INLINE static float sum(v x) { return _mm_cvtss_f32(sums(x, x, x, x)); }
};

#include "cpu/simd/convolution.inc"

AITKEN_INLINE __m512bh pairs(const half* p) {
    __m512bh x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
}
AITKEN_INLINE __m512bh pair(const half* p) {
    int32_t two;
    __builtin_memcpy(&two, p, sizeof two);
    const __m512i x = _mm512_set1_epi32(two);
    __m512bh out;
    __builtin_memcpy(&out, &x, sizeof out);
    return out;
}

struct inner {
    const half* const* x;
    int rows;
    const half* weights;
    const float* bias;
    bool rectify;
    const half* residual;
    half* y;

    template <int X>
    AITKEN_INLINE void run(int64_t j) const {
        constexpr int C = conv_channels;
        __m512 sum[X];
#pragma GCC unroll 32
        for (int p = 0; p < X; ++p) sum[p] = _mm512_loadu_ps(bias);
        const half* w = weights;
        for (int r = 0; r < rows; ++r) {
            const half* from = x[r] + (j - 1) * C;
            for (int c = 0; c < C; c += 2, w += 6 * C) {
                const __m512bh of[3] = {pairs(w), pairs(w + 2 * C), pairs(w + 4 * C)};
#pragma GCC unroll 32
                for (int p = 0; p < X + 2; ++p) {
                    const __m512bh two = pair(from + p * C + c);
#pragma GCC unroll 3
                    for (int d = 0; d < 3; ++d)
                        if (p >= d && p - d < X) sum[p - d] = _mm512_dpbf16_ps(sum[p - d], two, of[d]);
                }
            }
        }
#pragma GCC unroll 32
        for (int p = 0; p < X; ++p)
            conv_store<halves>(sum[p], rectify, residual ? residual + (j + p) * C : nullptr, y + (j + p) * C);
    }
};

// Per cell: 96 flops a row and channel of the input, 32 B each way.
void inner_row(const void* const* x, int rows, const void* weights, const float* bias, int rectify,
               const void* residual, int64_t n, void* y) {
    const half* from[9];
    for (int r = 0; r < rows; ++r) from[r] = static_cast<const half*>(x[r]);
    conv_tiles<halves>(n, inner{from, rows, static_cast<const half*>(weights), bias, rectify != 0,
                                static_cast<const half*>(residual), static_cast<half*>(y)});
}

}  // namespace bf16
}  // namespace

const aitken_convolution aitken_simd_bf16 = {bf16::conv_first_row<bf16::halves, bf16::half>, bf16::inner_row,
                                             bf16::conv_pool_rows<bf16::halves, bf16::half>,
                                             bf16::conv_spread_row<bf16::halves, bf16::half>,
                                             bf16::conv_last_row<bf16::halves, bf16::half>};
#endif
