// The row kernels for any CPU: two doubles per vector in GCC/Clang vector extensions (SSE2 on x86-64, NEON on
// arm64), one CPU feature assumed only where the compiler says it is on.
#include "cpu/simd/inline.hpp"
#include "cpu/simd/table.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace {
namespace base {

typedef double vd __attribute__((vector_size(16)));
typedef int64_t vm __attribute__((vector_size(16)));
typedef double vd_anywhere __attribute__((vector_size(16), aligned(8), may_alias));

constexpr int width = 2;
constexpr int dot_unroll = 3;
constexpr int block = 3;
constexpr int mix_columns = 4;
constexpr bool masks_are_free = false;

struct whole {};
struct part {  // one lane: the only count between 0 and 2
    AITKEN_INLINE_LAMBDA explicit part(int64_t) {}
};

AITKEN_INLINE vd set(double x) { return vd{x, x}; }
AITKEN_INLINE vd load(const double* p, whole) { return *reinterpret_cast<const vd_anywhere*>(p); }
AITKEN_INLINE vd load(const double* p, part) { return vd{p[0], 0.0}; }
AITKEN_INLINE vd load(const float* p, whole) { return vd{p[0], p[1]}; }
AITKEN_INLINE vd load(const float* p, part) { return vd{p[0], 0.0}; }
AITKEN_INLINE void store(double* p, vd x, whole) { *reinterpret_cast<vd_anywhere*>(p) = x; }
AITKEN_INLINE void store(double* p, vd x, part) { p[0] = x[0]; }
AITKEN_INLINE void store(float* p, vd x, whole) {
    p[0] = static_cast<float>(x[0]);
    p[1] = static_cast<float>(x[1]);
}
AITKEN_INLINE void store(float* p, vd x, part) { p[0] = static_cast<float>(x[0]); }
AITKEN_INLINE vd keep(vd x, whole, double) { return x; }
AITKEN_INLINE vd keep(vd x, part, double fill) { return vd{x[0], fill}; }
AITKEN_INLINE vd load_lanes(const double* p, unsigned lanes) {
    return vd{lanes & 1u ? p[0] : 0.0, lanes & 2u ? p[1] : 0.0};
}
AITKEN_INLINE void store_lanes(double* p, vd x, unsigned lanes) {
    if (lanes & 1u) p[0] = x[0];
    if (lanes & 2u) p[1] = x[1];
}
AITKEN_INLINE vd gather(const double* x, const int32_t* at, unsigned lanes) {
    return vd{lanes & 1u ? x[at[0]] : 0.0, lanes & 2u ? x[at[1]] : 0.0};
}
AITKEN_INLINE vd even(vd x) { return vd{x[0], x[0]}; }
AITKEN_INLINE vd odd(vd x) { return vd{x[1], x[1]}; }
AITKEN_INLINE vd swapped(vd x) { return vd{x[1], x[0]}; }
AITKEN_INLINE vd rounded_as(const double*, vd x) { return x; }

#if defined(__FP_FAST_FMA)
AITKEN_INLINE vd fma(vd a, vd b, vd c) {
    return vd{__builtin_fma(a[0], b[0], c[0]), __builtin_fma(a[1], b[1], c[1])};
}
#else
AITKEN_INLINE vd fma(vd a, vd b, vd c) { return a * b + c; }
#endif

#if defined(__SSE2__)
AITKEN_INLINE vd vmin(vd a, vd b) { return _mm_min_pd(a, b); }
AITKEN_INLINE vd vmax(vd a, vd b) { return _mm_max_pd(a, b); }
AITKEN_INLINE vm unordered(vd a, vd b) { return reinterpret_cast<vm>(_mm_cmpunord_pd(a, b)); }
AITKEN_INLINE vd rounded_as(const float*, vd x) { return _mm_cvtps_pd(_mm_cvtpd_ps(x)); }
#else
AITKEN_INLINE vd vmin(vd a, vd b) { return a < b ? a : b; }
AITKEN_INLINE vd vmax(vd a, vd b) { return a > b ? a : b; }
AITKEN_INLINE vm unordered(vd a, vd b) { return (a != a) | (b != b); }
AITKEN_INLINE vd rounded_as(const float*, vd x) {
    float low = static_cast<float>(x[0]), high = static_cast<float>(x[1]);
    __asm__("" : "+m"(low), "+m"(high));  // GCC 12 vectorises the way there and back, then drops both
    return vd{low, high};
}
#endif
AITKEN_INLINE vd zero_unless(vm m, vd x) { return reinterpret_cast<vd>(m & reinterpret_cast<vm>(x)); }
AITKEN_INLINE vm gt(vd a, vd b) { return a > b; }
AITKEN_INLINE vm nonzero(vd x) { return x != set(0.0); }
AITKEN_INLINE bool any(vm m) { return (m[0] | m[1]) != 0; }
AITKEN_INLINE vd vmax_nan(vd a, vd b) {
    const vm nan = unordered(a, a);
    return reinterpret_cast<vd>((nan & reinterpret_cast<vm>(a)) | (~nan & reinterpret_cast<vm>(vmax(a, b))));
}
AITKEN_INLINE double horizontal_sum(vd x) { return x[0] + x[1]; }
AITKEN_INLINE double horizontal_max(vd x) { return x[0] > x[1] ? x[0] : x[1]; }

AITKEN_INLINE int64_t emit(vm m, int64_t j, int32_t* idx, whole) {
    idx[0] = static_cast<int32_t>(j) + (m[0] == 0);  // the one chosen, or the first of two
    if ((m[0] & m[1]) == 0) return 1;
    idx[1] = static_cast<int32_t>(j) + 1;
    return 2;
}
AITKEN_INLINE int64_t emit(vm, int64_t j, int32_t* idx, part) {
    idx[0] = static_cast<int32_t>(j);
    return 1;
}

// exp(z) = 2^k (1 + p(r)), z = k ln2 + r, |r| <= ln2 / 2, k rounded by adding 1.5 2^52; p is a minimax
// polynomial of degree 11 (relative error 3.7e-18) with its first coefficient held at 1. The constant added
// also carries the bias of 2^(k-1), so that shifting the sum's bits makes that power; doubling at the end
// overflows to inf by itself. ln2 has 42 bits in its head: k times it is exact without a fused multiply-add.
AITKEN_INLINE vd power(vd t, vd r, vm below) {
    // Even and odd powers apart: two chains half as long.
    const vd r2 = r * r;
    vd odd = fma(r2, set(0x1.ad7f756a42354p-26), set(0x1.71df253d542b7p-19));
    vd even = fma(r2, set(0x1.28ad6896bc50ap-22), set(0x1.a0199a16ef885p-16));
    odd = fma(r2, odd, set(0x1.a01a012a687b7p-13));
    even = fma(r2, even, set(0x1.6c16c1842667bp-10));
    odd = fma(r2, odd, set(0x1.1111111127b9ep-7));
    even = fma(r2, even, set(0x1.555555555088cp-5));
    odd = fma(r2, odd, set(0x1.55555555554fap-3));
    even = fma(r2, even, set(0x1.000000000000ap-1));
    const vd p = fma(r2, fma(odd, r, even), r);
    const vd half_power = reinterpret_cast<vd>(reinterpret_cast<vm>(t) << 52);
    const vd half = fma(half_power, p, half_power);
    return zero_unless(~below, half + half);
}
AITKEN_INLINE vd exp_above(vd z, vd low) {
    const vd x = vmin(set(710.0), z), magic = set(0x1.8p52 + 1022.0);
    const vd t = fma(x, set(0x1.71547652b82fep+0), magic), k = t - magic;
    const vd r = fma(k, set(-0x1.62e42fefa3800p-1), x);
    return power(t, fma(k, set(-0x1.ef35793c76730p-45), r), z < low);
}
// 2^z: what is left of z is exact.
AITKEN_INLINE vd exp2_above(vd z, vd low) {
    const vd x = vmin(set(1024.25), z), magic = set(0x1.8p52 + 1022.0);
    const vd t = x + magic, rest = x - (t - magic);
    return power(t, rest * set(0x1.62e42fefa39efp-1), z < low);
}

// What completion.inc is written over.
typedef float vf __attribute__((vector_size(16)));
typedef float vf_anywhere __attribute__((vector_size(16), aligned(4), may_alias));

template <class T>
struct pack;

template <>
struct pack<float> {
    typedef vf v;
    static constexpr int width = 4, strip = 4, wide = 2, held = 8, spd_columns = 2;
    AITKEN_INLINE static v set(float x) { return v{x, x, x, x}; }
    AITKEN_INLINE static v load(const float* p) { return *reinterpret_cast<const vf_anywhere*>(p); }
    AITKEN_INLINE static void store(float* p, v x) { *reinterpret_cast<vf_anywhere*>(p) = x; }
#if defined(__FP_FAST_FMAF)
    AITKEN_INLINE static v fma(v a, v b, v c) {
        return v{__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]),
                 __builtin_fmaf(a[2], b[2], c[2]), __builtin_fmaf(a[3], b[3], c[3])};
    }
#else
    AITKEN_INLINE static v fma(v a, v b, v c) { return a * b + c; }
#endif
    AITKEN_INLINE static v fnma(v a, v b, v c) { return fma(-a, b, c); }
#if defined(__SSE2__)
    AITKEN_INLINE static v root(v x) { return _mm_sqrt_ps(x); }
#else
    AITKEN_INLINE static v root(v x) {
        return v{__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]), __builtin_sqrtf(x[3])};
    }
#endif
    AITKEN_INLINE static v greater(v a, v b) { return a > b ? a : b; }
    AITKEN_INLINE static unsigned above_and_finite(v a, v b) {
        unsigned lanes = 0;
#pragma GCC unroll 4
        for (int l = 0; l < width; ++l)
            lanes |= static_cast<unsigned>(a[l] > b[l] && a[l] < __builtin_inff()) << l;
        return lanes;
    }
    AITKEN_INLINE static v sums(v a, v b, v c, v d) {
        const v ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
        const v cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
        return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    }
    AITKEN_INLINE static void sum4(v a, v b, v c, v d, float* out) { store(out, sums(a, b, c, d)); }
    AITKEN_INLINE static float sum(v x) { return sums(x, x, x, x)[0]; }
};

template <>
struct pack<double> {
    typedef vd v;
    static constexpr int width = 2, strip = 2, wide = 2, held = 8, spd_columns = 2;
    AITKEN_INLINE static v set(double x) { return v{x, x}; }
    AITKEN_INLINE static v load(const double* p) { return *reinterpret_cast<const vd_anywhere*>(p); }
    AITKEN_INLINE static void store(double* p, v x) { *reinterpret_cast<vd_anywhere*>(p) = x; }
    AITKEN_INLINE static v fma(v a, v b, v c) { return base::fma(a, b, c); }
    AITKEN_INLINE static v fnma(v a, v b, v c) { return base::fma(-a, b, c); }
#if defined(__SSE2__)
    AITKEN_INLINE static v root(v x) { return _mm_sqrt_pd(x); }
#else
    AITKEN_INLINE static v root(v x) { return v{__builtin_sqrt(x[0]), __builtin_sqrt(x[1])}; }
#endif
    AITKEN_INLINE static v greater(v a, v b) { return a > b ? a : b; }
    AITKEN_INLINE static unsigned above_and_finite(v a, v b) {
        unsigned lanes = 0;
#pragma GCC unroll 2
        for (int l = 0; l < width; ++l)
            lanes |= static_cast<unsigned>(a[l] > b[l] && a[l] < __builtin_inf()) << l;
        return lanes;
    }
    AITKEN_INLINE static void sum4(v a, v b, v c, v d, double* out) {
        store(out, __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3));
        store(out + 2, __builtin_shufflevector(c, d, 0, 2) + __builtin_shufflevector(c, d, 1, 3));
    }
    AITKEN_INLINE static double sum(v x) { return x[0] + x[1]; }
};

#include "cpu/simd/kernels.inc"

}  // namespace base
}  // namespace

const aitken_simd_table aitken_simd_base = AITKEN_SIMD_TABLE_OF(base, "base");
