// The row kernels for x86-64-v3: four doubles per vector in AVX2 and FMA.
#include "cpu/simd/inline.hpp"
#include "cpu/simd/table.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -march=x86-64-v3"
#endif
#include <immintrin.h>

namespace {
namespace v3 {

typedef __m256d vd;

constexpr int width = 4;
constexpr int dot_unroll = 3;
constexpr int block = 3;
constexpr int mix_columns = 4;
constexpr bool masks_are_free = false;

// A comparison: all bits of a lane set or clear. A class, because __m256d already means numbers.
struct vm {
    __m256d bits;
};
AITKEN_INLINE vm operator|(vm a, vm b) { return {_mm256_or_pd(a.bits, b.bits)}; }

struct whole {};
struct part {
    int n;
    __m256i doubles;
    __m128i floats;
    AITKEN_INLINE_LAMBDA explicit part(int64_t count)
        : n(static_cast<int>(count)),
          doubles(_mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3))),
          floats(_mm_cmpgt_epi32(_mm_set1_epi32(n), _mm_setr_epi32(0, 1, 2, 3))) {}
};

AITKEN_INLINE vd set(double x) { return _mm256_set1_pd(x); }
AITKEN_INLINE vd load(const double* p, whole) { return _mm256_loadu_pd(p); }
AITKEN_INLINE vd load(const double* p, part w) { return _mm256_maskload_pd(p, w.doubles); }
AITKEN_INLINE vd load(const float* p, whole) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
AITKEN_INLINE vd load(const float* p, part w) { return _mm256_cvtps_pd(_mm_maskload_ps(p, w.floats)); }
AITKEN_INLINE void store(double* p, vd x, whole) { _mm256_storeu_pd(p, x); }
AITKEN_INLINE void store(double* p, vd x, part w) { _mm256_maskstore_pd(p, w.doubles, x); }
AITKEN_INLINE void store(float* p, vd x, whole) { _mm_storeu_ps(p, _mm256_cvtpd_ps(x)); }
AITKEN_INLINE void store(float* p, vd x, part w) { _mm_maskstore_ps(p, w.floats, _mm256_cvtpd_ps(x)); }
AITKEN_INLINE vd keep(vd x, whole, double) { return x; }
AITKEN_INLINE vd keep(vd x, part w, double fill) {
    return _mm256_blendv_pd(set(fill), x, _mm256_castsi256_pd(w.doubles));
}
AITKEN_INLINE __m256i lane_mask(unsigned lanes) {
    const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8);
    return _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(static_cast<int64_t>(lanes)), bit), bit);
}
AITKEN_INLINE vd load_lanes(const double* p, unsigned lanes) {
    return _mm256_maskload_pd(p, lane_mask(lanes));
}
AITKEN_INLINE void store_lanes(double* p, vd x, unsigned lanes) {
    _mm256_maskstore_pd(p, lane_mask(lanes), x);
}
AITKEN_INLINE vd gather(const double* x, const int32_t* at, unsigned lanes) {
    const __m128i numbers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_mask_i32gather_pd(_mm256_setzero_pd(), x, numbers, _mm256_castsi256_pd(lane_mask(lanes)),
                                    8);
}
AITKEN_INLINE vd even(vd x) { return _mm256_movedup_pd(x); }
AITKEN_INLINE vd odd(vd x) { return _mm256_permute_pd(x, 0xf); }
AITKEN_INLINE vd swapped(vd x) { return _mm256_permute_pd(x, 0x5); }
AITKEN_INLINE vd rounded_as(const double*, vd x) { return x; }
AITKEN_INLINE vd rounded_as(const float*, vd x) { return _mm256_cvtps_pd(_mm256_cvtpd_ps(x)); }

AITKEN_INLINE vd fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
AITKEN_INLINE vd vmin(vd a, vd b) { return _mm256_min_pd(a, b); }
AITKEN_INLINE vd vmax(vd a, vd b) { return _mm256_max_pd(a, b); }
AITKEN_INLINE vd vmax_nan(vd a, vd b) {
    return _mm256_blendv_pd(_mm256_max_pd(a, b), a, _mm256_cmp_pd(a, a, _CMP_UNORD_Q));
}
AITKEN_INLINE vd zero_unless(vm m, vd x) { return _mm256_and_pd(m.bits, x); }
AITKEN_INLINE vm gt(vd a, vd b) { return {_mm256_cmp_pd(a, b, _CMP_GT_OQ)}; }
AITKEN_INLINE vm unordered(vd a, vd b) { return {_mm256_cmp_pd(a, b, _CMP_UNORD_Q)}; }
AITKEN_INLINE vm nonzero(vd x) { return {_mm256_cmp_pd(x, set(0.0), _CMP_NEQ_UQ)}; }
AITKEN_INLINE bool any(vm m) { return _mm256_movemask_pd(m.bits) != 0; }

AITKEN_INLINE double horizontal_sum(vd x) {
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}
AITKEN_INLINE double horizontal_max(vd x) {
    const __m128d pair = _mm_max_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_max_sd(pair, _mm_unpackhi_pd(pair, pair)));
}

// For each mask of four lanes, the set lanes in ascending order, one per byte.
static const uint32_t set_lanes[16] = {0x00000000, 0x00000000, 0x00000001, 0x00000100, 0x00000002, 0x00000200,
                                       0x00000201, 0x00020100, 0x00000003, 0x00000300, 0x00000301, 0x00030100,
                                       0x00000302, 0x00030200, 0x00030201, 0x03020100};

// Writes four entries though fewer may count: at most j are before them, so j + 4 <= n are in the room.
AITKEN_INLINE int64_t emit(vm m, int64_t j, int32_t* idx, whole) {
    const int bits = _mm256_movemask_pd(m.bits);
    const __m128i lanes = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(static_cast<int>(set_lanes[bits])));
    const __m128i columns = _mm_add_epi32(lanes, _mm_set1_epi32(static_cast<int>(j)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(idx), columns);
    return __builtin_popcount(static_cast<unsigned>(bits));
}
AITKEN_INLINE int64_t emit(vm m, int64_t j, int32_t* idx, part) {
    int64_t count = 0;
    for (unsigned bits = static_cast<unsigned>(_mm256_movemask_pd(m.bits)); bits != 0; bits &= bits - 1)
        idx[count++] = static_cast<int32_t>(j) + __builtin_ctz(bits);
    return count;
}

// The method of base.cpp with a fused multiply-add, so that ln2 keeps its full head.
AITKEN_INLINE vd power(vd t, vd r, __m256d kept) {
    // Even and odd powers apart: two chains half as long.
    const vd r2 = _mm256_mul_pd(r, r);
    vd odd = fma(r2, set(0x1.ad7f756a42354p-26), set(0x1.71df253d542b7p-19));
    vd even = fma(r2, set(0x1.28ad6896bc50ap-22), set(0x1.a0199a16ef885p-16));
    odd = fma(r2, odd, set(0x1.a01a012a687b7p-13));
    even = fma(r2, even, set(0x1.6c16c1842667bp-10));
    odd = fma(r2, odd, set(0x1.1111111127b9ep-7));
    even = fma(r2, even, set(0x1.555555555088cp-5));
    odd = fma(r2, odd, set(0x1.55555555554fap-3));
    even = fma(r2, even, set(0x1.000000000000ap-1));
    const vd p = fma(r2, fma(odd, r, even), r);
    const vd half_power = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(t), 52));
    const vd half = fma(half_power, p, half_power);
    return _mm256_and_pd(kept, _mm256_add_pd(half, half));
}
AITKEN_INLINE vd exp_above(vd z, vd low) {
    const vd x = vmin(set(710.0), z), magic = set(0x1.8p52 + 1022.0);
    const vd t = fma(x, set(0x1.71547652b82fep+0), magic), k = _mm256_sub_pd(t, magic);
    const vd r = _mm256_fnmadd_pd(k, set(0x1.62e42fefa39efp-1), x);
    return power(t, _mm256_fnmadd_pd(k, set(0x1.abc9e3b39803fp-56), r), _mm256_cmp_pd(z, low, _CMP_NLT_UQ));
}
// 2^z: what is left of z is exact.
AITKEN_INLINE vd exp2_above(vd z, vd low) {
    const vd x = vmin(set(1024.25), z), magic = set(0x1.8p52 + 1022.0);
    const vd t = _mm256_add_pd(x, magic), rest = _mm256_sub_pd(x, _mm256_sub_pd(t, magic));
    return power(t, _mm256_mul_pd(rest, set(0x1.62e42fefa39efp-1)), _mm256_cmp_pd(z, low, _CMP_NLT_UQ));
}

// What completion.inc is written over.
template <class T>
struct pack;

template <>
struct pack<float> {
    typedef __m256 v;
    static constexpr int width = 8, strip = 4, wide = 3, held = 8, spd_columns = 2;
    AITKEN_INLINE static v set(float x) { return _mm256_set1_ps(x); }
    AITKEN_INLINE static v load(const float* p) { return _mm256_loadu_ps(p); }
    AITKEN_INLINE static void store(float* p, v x) { _mm256_storeu_ps(p, x); }
    AITKEN_INLINE static v fma(v a, v b, v c) { return _mm256_fmadd_ps(a, b, c); }
    AITKEN_INLINE static v fnma(v a, v b, v c) { return _mm256_fnmadd_ps(a, b, c); }
    AITKEN_INLINE static v root(v x) { return _mm256_sqrt_ps(x); }
    AITKEN_INLINE static v greater(v a, v b) { return _mm256_max_ps(a, b); }
    AITKEN_INLINE static unsigned above_and_finite(v a, v b) {
        const v finite = _mm256_cmp_ps(a, set(__builtin_inff()), _CMP_LT_OQ);
        return static_cast<unsigned>(
            _mm256_movemask_ps(_mm256_and_ps(finite, _mm256_cmp_ps(a, b, _CMP_GT_OQ))));
    }
    AITKEN_INLINE static __m128 sums(v a, v b, v c, v d) {
        const v ab = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
        const v cd = _mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d);
        const v all = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
        return _mm256_castps256_ps128(all) + _mm256_extractf128_ps(all, 1);
    }
    AITKEN_INLINE static void sum4(v a, v b, v c, v d, float* out) { _mm_storeu_ps(out, sums(a, b, c, d)); }
    AITKEN_INLINE static float sum(v x) { return _mm_cvtss_f32(sums(x, x, x, x)); }
};

template <>
struct pack<double> {
    typedef __m256d v;
    static constexpr int width = 4, strip = 4, wide = 3, held = 8, spd_columns = 2;
    AITKEN_INLINE static v set(double x) { return _mm256_set1_pd(x); }
    AITKEN_INLINE static v load(const double* p) { return _mm256_loadu_pd(p); }
    AITKEN_INLINE static void store(double* p, v x) { _mm256_storeu_pd(p, x); }
    AITKEN_INLINE static v fma(v a, v b, v c) { return _mm256_fmadd_pd(a, b, c); }
    AITKEN_INLINE static v fnma(v a, v b, v c) { return _mm256_fnmadd_pd(a, b, c); }
    AITKEN_INLINE static v root(v x) { return _mm256_sqrt_pd(x); }
    AITKEN_INLINE static v greater(v a, v b) { return _mm256_max_pd(a, b); }
    AITKEN_INLINE static unsigned above_and_finite(v a, v b) {
        const v finite = _mm256_cmp_pd(a, set(__builtin_inf()), _CMP_LT_OQ);
        return static_cast<unsigned>(
            _mm256_movemask_pd(_mm256_and_pd(finite, _mm256_cmp_pd(a, b, _CMP_GT_OQ))));
    }
    AITKEN_INLINE static v sums(v a, v b, v c, v d) {
        const v ab = _mm256_unpacklo_pd(a, b) + _mm256_unpackhi_pd(a, b);
        const v cd = _mm256_unpacklo_pd(c, d) + _mm256_unpackhi_pd(c, d);
        return _mm256_permute2f128_pd(ab, cd, 0x20) + _mm256_permute2f128_pd(ab, cd, 0x31);
    }
    AITKEN_INLINE static void sum4(v a, v b, v c, v d, double* out) {
        _mm256_storeu_pd(out, sums(a, b, c, d));
    }
    AITKEN_INLINE static double sum(v x) { return _mm256_cvtsd_f64(sums(x, x, x, x)); }
};

#include "cpu/simd/kernels.inc"

}  // namespace v3
}  // namespace

const aitken_simd_table aitken_simd_v3 = AITKEN_SIMD_TABLE_OF(v3, "v3");
#endif
