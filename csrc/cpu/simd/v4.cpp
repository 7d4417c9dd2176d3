// The row kernels for x86-64-v4: eight doubles per vector in AVX-512 F, DQ, BW, CD and VL.
#include "cpu/simd/inline.hpp"
#include "cpu/simd/table.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with -march=x86-64-v4"
#endif
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own _mm512_undefined_pd
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

namespace {
namespace v4 {

typedef __m512d vd;
typedef __mmask8 vm;

constexpr int width = 8;
constexpr int dot_unroll = 4;
constexpr int block = 4;
constexpr int mix_columns = 6;
constexpr bool masks_are_free = true;

struct whole {};
struct part {
    __mmask8 lanes;
    AITKEN_INLINE_LAMBDA explicit part(int64_t n) : lanes(static_cast<__mmask8>((1u << n) - 1u)) {}
};

AITKEN_INLINE vd set(double x) { return _mm512_set1_pd(x); }
AITKEN_INLINE vd load(const double* p, whole) { return _mm512_loadu_pd(p); }
AITKEN_INLINE vd load(const double* p, part w) { return _mm512_maskz_loadu_pd(w.lanes, p); }
AITKEN_INLINE vd load(const float* p, whole) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
AITKEN_INLINE vd load(const float* p, part w) { return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(w.lanes, p)); }
AITKEN_INLINE void store(double* p, vd x, whole) { _mm512_storeu_pd(p, x); }
AITKEN_INLINE void store(double* p, vd x, part w) { _mm512_mask_storeu_pd(p, w.lanes, x); }
AITKEN_INLINE void store(float* p, vd x, whole) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x)); }
AITKEN_INLINE void store(float* p, vd x, part w) { _mm256_mask_storeu_ps(p, w.lanes, _mm512_cvtpd_ps(x)); }
AITKEN_INLINE vd keep(vd x, whole, double) { return x; }
AITKEN_INLINE vd keep(vd x, part w, double fill) { return _mm512_mask_blend_pd(w.lanes, set(fill), x); }
AITKEN_INLINE vd load_lanes(const double* p, unsigned lanes) {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
}
AITKEN_INLINE void store_lanes(double* p, vd x, unsigned lanes) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lanes), x);
}
AITKEN_INLINE vd gather(const double* x, const int32_t* at, unsigned lanes) {
    const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    return _mm512_mask_i32gather_pd(_mm512_setzero_pd(), static_cast<__mmask8>(lanes), numbers, x, 8);
}
AITKEN_INLINE vd even(vd x) { return _mm512_movedup_pd(x); }
AITKEN_INLINE vd odd(vd x) { return _mm512_permute_pd(x, 0xff); }
AITKEN_INLINE vd swapped(vd x) { return _mm512_permute_pd(x, 0x55); }
AITKEN_INLINE vd rounded_as(const double*, vd x) { return x; }
AITKEN_INLINE vd rounded_as(const float*, vd x) { return _mm512_cvtps_pd(_mm512_cvtpd_ps(x)); }

AITKEN_INLINE vd fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
AITKEN_INLINE vd vmin(vd a, vd b) { return _mm512_min_pd(a, b); }
AITKEN_INLINE vd vmax(vd a, vd b) { return _mm512_max_pd(a, b); }
AITKEN_INLINE vd vmax_nan(vd a, vd b) {
    return _mm512_mask_max_pd(a, _mm512_cmp_pd_mask(a, a, _CMP_ORD_Q), a, b);
}
AITKEN_INLINE vd zero_unless(vm m, vd x) { return _mm512_maskz_mov_pd(m, x); }
AITKEN_INLINE vm gt(vd a, vd b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
AITKEN_INLINE vm unordered(vd a, vd b) { return _mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q); }
AITKEN_INLINE vm nonzero(vd x) { return _mm512_cmp_pd_mask(x, set(0.0), _CMP_NEQ_UQ); }
AITKEN_INLINE bool any(vm m) { return m != 0; }

AITKEN_INLINE double horizontal_sum(vd x) {
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}
AITKEN_INLINE double horizontal_max(vd x) {
    const __m256d four = _mm256_max_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    const __m128d pair = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(pair, _mm_unpackhi_pd(pair, pair)));
}

AITKEN_INLINE __m256i lane_numbers(int64_t j) {
    const __m256i first = _mm256_set1_epi32(static_cast<int>(j));
    return _mm256_add_epi32(first, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
// Compressed in a register and stored whole, because compressing into memory is microcoded on Zen 4: eight
// entries are written though fewer may count, and as at most j are before them, j + 8 <= n are in the room.
AITKEN_INLINE int64_t emit(vm m, int64_t j, int32_t* idx, whole) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(idx), _mm256_maskz_compress_epi32(m, lane_numbers(j)));
    return __builtin_popcount(m);
}
AITKEN_INLINE int64_t emit(vm m, int64_t j, int32_t* idx, part) {
    _mm256_mask_compressstoreu_epi32(idx, m, lane_numbers(j));
    return __builtin_popcount(m);
}

// exp(z) = 2^(i/16) 2^m (1 + p(r)), z = (m + i/16) ln2 + r, |r| <= ln2 / 32. Adding 1.5 2^48 rounds z / ln2
// to sixteenths, k = m + i/16, and leaves i in the four low bits, where the two-register permutation looks
// for it; scalef takes the floor of k by itself, overflows to inf and, masked, writes the 0 below `low`. The
// minimax polynomial of degree 6 (relative error 1.2e-17) has its first coefficient held at 1.
AITKEN_INLINE vd power(vd t, vd k, vd r, vm kept) {
    const vd table_low = _mm512_setr_pd(0x1.0000000000000p+0, 0x1.0b5586cf9890fp+0, 0x1.172b83c7d517bp+0,
                                        0x1.2387a6e756238p+0, 0x1.306fe0a31b715p+0, 0x1.3dea64c123422p+0,
                                        0x1.4bfdad5362a27p+0, 0x1.5ab07dd485429p+0);
    const vd table_high = _mm512_setr_pd(0x1.6a09e667f3bcdp+0, 0x1.7a11473eb0187p+0, 0x1.8ace5422aa0dbp+0,
                                         0x1.9c49182a3f090p+0, 0x1.ae89f995ad3adp+0, 0x1.c199bdd85529cp+0,
                                         0x1.d5818dcfba487p+0, 0x1.ea4afa2a490dap+0);
    vd q = set(0x1.6c14c6ce3c41cp-10);
    q = fma(q, r, set(0x1.11123aae4ca30p-7));
    q = fma(q, r, set(0x1.55555558fccafp-5));
    q = fma(q, r, set(0x1.555555548f894p-3));
    q = fma(q, r, set(0x1.fffffffffffb9p-2));
    const vd p = fma(_mm512_mul_pd(r, r), q, r);
    const vd root = _mm512_permutex2var_pd(table_low, _mm512_castpd_si512(t), table_high);
    const vd mantissa = fma(root, p, root);
    return _mm512_maskz_scalef_pd(kept, mantissa, k);
}
AITKEN_INLINE vd exp_above(vd z, vd low) {
    const vd x = vmin(set(710.0), z), magic = set(0x1.8p48);
    const vd t = fma(x, set(0x1.71547652b82fep+0), magic), k = _mm512_sub_pd(t, magic);
    const vd r = _mm512_fnmadd_pd(k, set(0x1.62e42fefa39efp-1), x);
    return power(t, k, _mm512_fnmadd_pd(k, set(0x1.abc9e3b39803fp-56), r),
                 _mm512_cmp_pd_mask(z, low, _CMP_NLT_UQ));
}
// 2^z: what is left of z is exact.
AITKEN_INLINE vd exp2_above(vd z, vd low) {
    const vd x = vmin(set(1024.25), z), magic = set(0x1.8p48);
    const vd t = _mm512_add_pd(x, magic), k = _mm512_sub_pd(t, magic);
    return power(t, k, _mm512_mul_pd(_mm512_sub_pd(x, k), set(0x1.62e42fefa39efp-1)),
                 _mm512_cmp_pd_mask(z, low, _CMP_NLT_UQ));
}

// What completion.inc is written over.
template <class T>
struct pack;

template <>
struct pack<float> {
    typedef __m512 v;
    static constexpr int width = 16, strip = 8, wide = 3, held = 8, spd_columns = 4;
    AITKEN_INLINE static v set(float x) { return _mm512_set1_ps(x); }
    AITKEN_INLINE static v load(const float* p) { return _mm512_loadu_ps(p); }
    AITKEN_INLINE static void store(float* p, v x) { _mm512_storeu_ps(p, x); }
    AITKEN_INLINE static v fma(v a, v b, v c) { return _mm512_fmadd_ps(a, b, c); }
    AITKEN_INLINE static v fnma(v a, v b, v c) { return _mm512_fnmadd_ps(a, b, c); }
    AITKEN_INLINE static v root(v x) { return _mm512_sqrt_ps(x); }
    AITKEN_INLINE static v greater(v a, v b) { return _mm512_max_ps(a, b); }
    AITKEN_INLINE static unsigned above_and_finite(v a, v b) {
        const __mmask16 above = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
        return _mm512_mask_cmp_ps_mask(above, a, set(__builtin_inff()), _CMP_LT_OQ);
    }
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

template <>
struct pack<double> {
    typedef __m512d v;
    static constexpr int width = 8, strip = 8, wide = 3, held = 8, spd_columns = 4;
    AITKEN_INLINE static v set(double x) { return _mm512_set1_pd(x); }
    AITKEN_INLINE static v load(const double* p) { return _mm512_loadu_pd(p); }
    AITKEN_INLINE static void store(double* p, v x) { _mm512_storeu_pd(p, x); }
    AITKEN_INLINE static v fma(v a, v b, v c) { return _mm512_fmadd_pd(a, b, c); }
    AITKEN_INLINE static v fnma(v a, v b, v c) { return _mm512_fnmadd_pd(a, b, c); }
    AITKEN_INLINE static v root(v x) { return _mm512_sqrt_pd(x); }
    AITKEN_INLINE static v greater(v a, v b) { return _mm512_max_pd(a, b); }
    AITKEN_INLINE static unsigned above_and_finite(v a, v b) {
        const __mmask8 above = _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ);
        return _mm512_mask_cmp_pd_mask(above, a, set(__builtin_inf()), _CMP_LT_OQ);
    }
    AITKEN_INLINE static __m256d sums(v a, v b, v c, v d) {
        const v ab = _mm512_unpacklo_pd(a, b) + _mm512_unpackhi_pd(a, b);
        const v cd = _mm512_unpacklo_pd(c, d) + _mm512_unpackhi_pd(c, d);
        const __m256d two = _mm512_castpd512_pd256(ab) + _mm512_extractf64x4_pd(ab, 1);
        const __m256d others = _mm512_castpd512_pd256(cd) + _mm512_extractf64x4_pd(cd, 1);
        return _mm256_permute2f128_pd(two, others, 0x20) + _mm256_permute2f128_pd(two, others, 0x31);
    }
    AITKEN_INLINE static void sum4(v a, v b, v c, v d, double* out) {
        _mm256_storeu_pd(out, sums(a, b, c, d));
    }
    AITKEN_INLINE static double sum(v x) { return _mm256_cvtsd_f64(sums(x, x, x, x)); }
};

#include "cpu/simd/kernels.inc"

}  // namespace v4
}  // namespace

const aitken_simd_table aitken_simd_v4 = AITKEN_SIMD_TABLE_OF(v4, "v4");
#endif
