#include "sparse/panel_kernels.hpp"

#include <stdlib.h>
#include <string.h>

// GNU vector extensions keep the register tile explicit; other compilers get scalar tiles (W = 1).
#if defined(__GNUC__) || defined(__clang__)
#define AITKEN_INLINE inline __attribute__((always_inline))
#define AITKEN_UNROLL _Pragma("GCC unroll 8")
#define AITKEN_RESTRICT __restrict__
#define AITKEN_VECTORS 1
#else
#define AITKEN_INLINE inline
#define AITKEN_UNROLL
#define AITKEN_RESTRICT
#define AITKEN_VECTORS 0
#endif

#if AITKEN_VECTORS && defined(__x86_64__) && defined(__linux__)
#define AITKEN_X86_LEVELS 1
#else
#define AITKEN_X86_LEVELS 0
#endif

namespace aitken {

namespace {

template <int W>
struct lanes;
template <>
struct lanes<1> {
    typedef double type;
    typedef double loose;
};
#if AITKEN_VECTORS
template <>
struct lanes<2> {
    typedef double type __attribute__((vector_size(16)));
    typedef double loose __attribute__((vector_size(16), aligned(8), may_alias));
};
template <>
struct lanes<4> {
    typedef double type __attribute__((vector_size(32)));
    typedef double loose __attribute__((vector_size(32), aligned(8), may_alias));
};
template <>
struct lanes<8> {
    typedef double type __attribute__((vector_size(64)));
    typedef double loose __attribute__((vector_size(64), aligned(8), may_alias));
};
#endif

// One register tile: k * MV * W * NR multiply-adds for k * (MV * W + NR) loads. SIGN: -1 subtracts from C,
// +1 stores the product.
template <int W, int MV, int NR, int SIGN>
AITKEN_INLINE void tile(const double* AITKEN_RESTRICT a, index lda, const double* AITKEN_RESTRICT b, index k,
                        double* AITKEN_RESTRICT c, index ldc, index m, index n) {
    typedef typename lanes<W>::type V;
    typedef typename lanes<W>::loose U;
    V acc[NR][MV];
    AITKEN_UNROLL
    for (int j = 0; j < NR; ++j) AITKEN_UNROLL
    for (int i = 0; i < MV; ++i) acc[j][i] = V{};
    for (index p = 0; p < k; ++p) {
        V x[MV];
        AITKEN_UNROLL
        for (int i = 0; i < MV; ++i) x[i] = *reinterpret_cast<const U*>(a + p * lda + i * W);
        AITKEN_UNROLL
        for (int j = 0; j < NR; ++j) {
            const double y = b[p * NR + j];
            AITKEN_UNROLL
            for (int i = 0; i < MV; ++i) acc[j][i] += x[i] * y;
        }
    }
    if (m >= MV * W && n >= NR) {
        AITKEN_UNROLL
        for (int j = 0; j < NR; ++j) AITKEN_UNROLL
        for (int i = 0; i < MV; ++i) {
            U* to = reinterpret_cast<U*>(c + j * ldc + i * W);
            if (SIGN < 0)
                *to = *to - acc[j][i];
            else
                *to = acc[j][i];
        }
        return;
    }
    double edge[NR][MV * W];
    AITKEN_UNROLL
    for (int j = 0; j < NR; ++j) AITKEN_UNROLL
    for (int i = 0; i < MV; ++i) *reinterpret_cast<U*>(&edge[j][i * W]) = acc[j][i];
    const index rows = m < MV * W ? m : MV * W, cols = n < NR ? n : NR;
    for (index j = 0; j < cols; ++j)
        for (index i = 0; i < rows; ++i) {
            if (SIGN < 0)
                c[j * ldc + i] -= edge[j][i];
            else
                c[j * ldc + i] = edge[j][i];
        }
}

template <int W, int MV, int NR>
AITKEN_INLINE void update_packed(const double* a, index tile_stride, const double* b, index block_stride,
                                 index k, double* c, index ldc, index m, index n) {
    constexpr index mr = MV * W;
    for (index i = 0; i < m; i += mr)
        for (index j = 0; j < n && j < i + mr; j += NR)
            tile<W, MV, NR, -1>(a + i / mr * tile_stride, mr, b + j / NR * block_stride, k, c + j * ldc + i,
                                ldc, m - i, n - j);
}

template <int W, int MV, int NR, int SIGN>
AITKEN_INLINE void strided(const double* a, index lda, const double* b, index k, double* c, index ldc,
                           index m, index n) {
    constexpr index mr = MV * W;
    index i = 0;
    for (; i + mr <= m; i += mr) tile<W, MV, NR, SIGN>(a + i, lda, b, k, c + i, ldc, m - i, n);
    for (; i < m; i += W) tile<W, 1, NR, SIGN>(a + i, lda, b, k, c + i, ldc, m - i, n);
}

// N columns of W rows in registers: N (N - 1) / 2 multiply-adds per row for N loads and stores.
template <int W, int N>
AITKEN_INLINE void solve_right_n(double* c, index ldc, index m, const double* l, const double* inverse_d) {
    typedef typename lanes<W>::type V;
    typedef typename lanes<W>::loose U;
    index r = 0;
    for (; r + W <= m; r += W) {
        V y[N];
        AITKEN_UNROLL
        for (int j = 0; j < N; ++j) y[j] = *reinterpret_cast<const U*>(c + j * ldc + r);
        AITKEN_UNROLL
        for (int i = 0; i < N; ++i) AITKEN_UNROLL
        for (int j = i + 1; j < N; ++j) y[j] -= y[i] * l[j * 8 + i];
        AITKEN_UNROLL
        for (int j = 0; j < N; ++j) *reinterpret_cast<U*>(c + j * ldc + r) = y[j] * inverse_d[j];
    }
    for (; r < m; ++r) {
        double y[N];
        AITKEN_UNROLL
        for (int j = 0; j < N; ++j) y[j] = c[j * ldc + r];
        AITKEN_UNROLL
        for (int i = 0; i < N; ++i) AITKEN_UNROLL
        for (int j = i + 1; j < N; ++j) y[j] -= y[i] * l[j * 8 + i];
        AITKEN_UNROLL
        for (int j = 0; j < N; ++j) c[j * ldc + r] = y[j] * inverse_d[j];
    }
}

template <int W>
AITKEN_INLINE void solve_right(double* c, index ldc, index m, index n, const double* l,
                               const double* inverse_d) {
    switch (n) {
        case 1:
            return solve_right_n<W, 1>(c, ldc, m, l, inverse_d);
        case 2:
            return solve_right_n<W, 2>(c, ldc, m, l, inverse_d);
        case 3:
            return solve_right_n<W, 3>(c, ldc, m, l, inverse_d);
        case 4:
            return solve_right_n<W, 4>(c, ldc, m, l, inverse_d);
        case 5:
            return solve_right_n<W, 5>(c, ldc, m, l, inverse_d);
        case 6:
            return solve_right_n<W, 6>(c, ldc, m, l, inverse_d);
        case 7:
            return solve_right_n<W, 7>(c, ldc, m, l, inverse_d);
        case 8:
            return solve_right_n<W, 8>(c, ldc, m, l, inverse_d);
        default:
            return;
    }
}

// Bound by reading A once: 8 bytes per multiply-add. t is touched once per 4 columns.
template <int W>
AITKEN_INLINE void gemv(const double* AITKEN_RESTRICT a, index lda, index m, index k,
                        const double* AITKEN_RESTRICT x, double* AITKEN_RESTRICT t) {
    typedef typename lanes<W>::type V;
    typedef typename lanes<W>::loose U;
    for (index i = 0; i < m; ++i) t[i] = 0;
    index j = 0;
    for (; j + 4 <= k; j += 4) {
        const double *a0 = a + j * lda, *a1 = a0 + lda, *a2 = a1 + lda, *a3 = a2 + lda;
        const double x0 = x[j], x1 = x[j + 1], x2 = x[j + 2], x3 = x[j + 3];
        index i = 0;
        for (; i + W <= m; i += W) {
            V s = *reinterpret_cast<const U*>(t + i);
            s += *reinterpret_cast<const U*>(a0 + i) * x0;
            s += *reinterpret_cast<const U*>(a1 + i) * x1;
            s += *reinterpret_cast<const U*>(a2 + i) * x2;
            s += *reinterpret_cast<const U*>(a3 + i) * x3;
            *reinterpret_cast<U*>(t + i) = s;
        }
        for (; i < m; ++i) t[i] += a0[i] * x0 + a1[i] * x1 + a2[i] * x2 + a3[i] * x3;
    }
    for (; j < k; ++j) {
        const double* a0 = a + j * lda;
        const double x0 = x[j];
        for (index i = 0; i < m; ++i) t[i] += a0[i] * x0;
    }
}

template <int W, int N>
AITKEN_INLINE void dots(const double* AITKEN_RESTRICT a, index lda, index m, const double* AITKEN_RESTRICT x,
                        double* AITKEN_RESTRICT y) {
    typedef typename lanes<W>::type V;
    typedef typename lanes<W>::loose U;
    V s[N];
    AITKEN_UNROLL
    for (int j = 0; j < N; ++j) s[j] = V{};
    index i = 0;
    for (; i + W <= m; i += W) {
        const V v = *reinterpret_cast<const U*>(x + i);
        AITKEN_UNROLL
        for (int j = 0; j < N; ++j) s[j] += *reinterpret_cast<const U*>(a + j * lda + i) * v;
    }
    for (int j = 0; j < N; ++j) {
        double parts[W];
        *reinterpret_cast<U*>(parts) = s[j];
        double sum = 0;
        for (int w = 0; w < W; ++w) sum += parts[w];
        for (index r = i; r < m; ++r) sum += a[j * lda + r] * x[r];
        y[j] -= sum;
    }
}

template <int W>
AITKEN_INLINE void gemv_t(const double* a, index lda, index m, index k, const double* x, double* y) {
    index j = 0;
    for (; j + 4 <= k; j += 4) dots<W, 4>(a + j * lda, lda, m, x, y + j);
    for (; j < k; ++j) dots<W, 1>(a + j * lda, lda, m, x, y + j);
}

// N columns at a time: one number of A serves 8 vectors.
template <int W, int N>
AITKEN_INLINE void gemv8_columns(const double* AITKEN_RESTRICT a, index lda, index m,
                                 const double* AITKEN_RESTRICT x, double* AITKEN_RESTRICT t) {
    typedef typename lanes<W>::type V;
    typedef typename lanes<W>::loose U;
    for (index i = 0; i < m; ++i) AITKEN_UNROLL
    for (int r = 0; r < 8 / W; ++r) {
        V s = *reinterpret_cast<const U*>(t + i * 8 + r * W);
        AITKEN_UNROLL
        for (int j = 0; j < N; ++j) s += *reinterpret_cast<const U*>(x + j * 8 + r * W) * a[j * lda + i];
        *reinterpret_cast<U*>(t + i * 8 + r * W) = s;
    }
}

template <int W>
AITKEN_INLINE void gemv8(const double* a, index lda, index m, index k, const double* x, double* t) {
    for (index i = 0; i < 8 * m; ++i) t[i] = 0;
    index j = 0;
    for (; j + 4 <= k; j += 4) gemv8_columns<W, 4>(a + j * lda, lda, m, x + j * 8, t);
    for (; j < k; ++j) gemv8_columns<W, 1>(a + j * lda, lda, m, x + j * 8, t);
}

template <int W, int N>
AITKEN_INLINE void gemv8_t_columns(const double* AITKEN_RESTRICT a, index lda, index m,
                                   const double* AITKEN_RESTRICT x, double* AITKEN_RESTRICT y) {
    typedef typename lanes<W>::type V;
    typedef typename lanes<W>::loose U;
    constexpr int R = 8 / W;
    V s[N][R];
    AITKEN_UNROLL
    for (int j = 0; j < N; ++j) AITKEN_UNROLL
    for (int r = 0; r < R; ++r) s[j][r] = V{};
    for (index i = 0; i < m; ++i) AITKEN_UNROLL
    for (int r = 0; r < R; ++r) {
        const V v = *reinterpret_cast<const U*>(x + i * 8 + r * W);
        AITKEN_UNROLL
        for (int j = 0; j < N; ++j) s[j][r] += v * a[j * lda + i];
    }
    AITKEN_UNROLL
    for (int j = 0; j < N; ++j) AITKEN_UNROLL
    for (int r = 0; r < R; ++r) {
        U* to = reinterpret_cast<U*>(y + j * 8 + r * W);
        *to = *to - s[j][r];
    }
}

template <int W>
AITKEN_INLINE void gemv8_t(const double* a, index lda, index m, index k, const double* x, double* y) {
    index j = 0;
    for (; j + 2 <= k; j += 2) gemv8_t_columns<W, 2>(a + j * lda, lda, m, x, y + j * 8);
    for (; j < k; ++j) gemv8_t_columns<W, 1>(a + j * lda, lda, m, x, y + j * 8);
}

// The entry points of one level; the templates above are inlined into them and leave no symbols.
#define AITKEN_PANEL_LEVEL(NAME, ATTRIBUTE, W, MV, NR)                                                       \
    ATTRIBUTE void update_packed_##NAME(const double* a, index ts, const double* b, index bs, index k,       \
                                        double* c, index ldc, index m, index n) {                            \
        update_packed<W, MV, NR>(a, ts, b, bs, k, c, ldc, m, n);                                             \
    }                                                                                                        \
    ATTRIBUTE void update_##NAME(const double* a, index lda, const double* b, index k, double* c, index ldc, \
                                 index m, index n) {                                                         \
        strided<W, MV, NR, -1>(a, lda, b, k, c, ldc, m, n);                                                  \
    }                                                                                                        \
    ATTRIBUTE void product_##NAME(const double* a, index lda, const double* b, index k, double* t,           \
                                  index ldt, index m, index n) {                                             \
        strided<W, MV, NR, 1>(a, lda, b, k, t, ldt, m, n);                                                   \
    }                                                                                                        \
    ATTRIBUTE void solve_right_##NAME(double* c, index ldc, index m, index n, const double* l,               \
                                      const double* d) {                                                     \
        solve_right<W>(c, ldc, m, n, l, d);                                                                  \
    }                                                                                                        \
    ATTRIBUTE void gemv_##NAME(const double* a, index lda, index m, index k, const double* x, double* t) {   \
        gemv<W>(a, lda, m, k, x, t);                                                                         \
    }                                                                                                        \
    ATTRIBUTE void gemv_t_##NAME(const double* a, index lda, index m, index k, const double* x, double* y) { \
        gemv_t<W>(a, lda, m, k, x, y);                                                                       \
    }                                                                                                        \
    ATTRIBUTE void gemv8_##NAME(const double* a, index lda, index m, index k, const double* x, double* t) {  \
        gemv8<W>(a, lda, m, k, x, t);                                                                        \
    }                                                                                                        \
    ATTRIBUTE void gemv8_t_##NAME(const double* a, index lda, index m, index k, const double* x,             \
                                  double* y) {                                                               \
        gemv8_t<W>(a, lda, m, k, x, y);                                                                      \
    }                                                                                                        \
    constexpr panel_kernels table_##NAME = {                                                                 \
        #NAME,          MV * (W),           NR,          update_packed_##NAME, update_##NAME,                \
        product_##NAME, solve_right_##NAME, gemv_##NAME, gemv_t_##NAME,        gemv8_##NAME,                 \
        gemv8_t_##NAME};

#if AITKEN_VECTORS
AITKEN_PANEL_LEVEL(base, , 2, 2, 4)
#else
AITKEN_PANEL_LEVEL(base, , 1, 4, 4)
#endif

#if AITKEN_X86_LEVELS
// Same sets as x86-64-v3 / v4, spelled out: every GCC and clang that speaks C++20 takes these names.
#define AITKEN_V3 __attribute__((target("avx2,fma,bmi,bmi2")))
#define AITKEN_V4 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx512cd,avx2,fma,bmi,bmi2")))
AITKEN_PANEL_LEVEL(v3, AITKEN_V3, 4, 3, 4)
AITKEN_PANEL_LEVEL(v4, AITKEN_V4, 8, 3, 8)
#endif

const panel_kernels& choose() {
    const char* wish = getenv("AITKEN_SIMD");
    if (wish) {
        if (const panel_kernels* k = find_panel_kernels(wish)) return *k;
    }
    if (const panel_kernels* k = find_panel_kernels("v4")) return *k;
    if (const panel_kernels* k = find_panel_kernels("v3")) return *k;
    return table_base;
}

}  // namespace

const panel_kernels* find_panel_kernels(const char* level) {
    if (strcmp(level, "base") == 0) return &table_base;
#if AITKEN_X86_LEVELS
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    if (strcmp(level, "v3") == 0 && v3) return &table_v3;
    if (strcmp(level, "v4") == 0 && v3 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd"))
        return &table_v4;
#endif
    return nullptr;
}

const panel_kernels& default_panel_kernels() {
    static const panel_kernels& chosen = choose();
    return chosen;
}

}  // namespace aitken
