// What Krylov methods spend their time on: products with tall matrices and with sparse ones, one thread
// unless OMP_NUM_THREADS says otherwise. GB/s and GFlop/s by the bytes and flops their comments state, and
// the share of the ceiling that binds, measured in this run: bandwidth of a triad from memory, of a plain
// read of as many bytes in cache, or the multiply-add rate of the registers.
//
//   krylov [--json FILE]
#include <algorithm>
#include <chrono>
#include <complex>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "core/workspace.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/sliced_kernels.hpp"
#include "cpu/tall_skinny.hpp"
#include "cpu/threads.hpp"
#include "sparse/sliced.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace aitken;
using aitken::index;

template <class Body>
double seconds(Body body) {
    using clock = std::chrono::steady_clock;
    body();
    int calls = 1;  // per measurement, so that one lasts 20 microseconds or more
    for (;; calls *= 2) {
        const auto start = clock::now();
        for (int c = 0; c < calls; ++c) body();
        if (std::chrono::duration<double>(clock::now() - start).count() > 2e-5) break;
    }
    double best = 1e30, spent = 0;
    for (int repeat = 0; repeat < 5 || spent < 0.15; ++repeat) {
        const auto start = clock::now();
        for (int c = 0; c < calls; ++c) body();
        const double took = std::chrono::duration<double>(clock::now() - start).count();
        best = std::min(best, took / calls);
        spent += took;
    }
    return best;
}

volatile double sink;

// Flops per second of multiply-adds on registers, at the level the kernels run.
#if defined(__x86_64__)
__attribute__((noipa, target("avx512f"))) double multiply_adds_v4(long rounds) {
    __m512d s[16];
    for (int i = 0; i < 16; ++i) s[i] = _mm512_set1_pd(i);
    const __m512d a = _mm512_set1_pd(0.5), b = _mm512_set1_pd(1.0);
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) s[i] = _mm512_fmadd_pd(s[i], a, b);
    double sum = 0;
    for (int i = 0; i < 16; ++i) sum += s[i][0];
    return sum;
}
__attribute__((noipa, target("avx2,fma"))) double multiply_adds_v3(long rounds) {
    __m256d s[12];
    for (int i = 0; i < 12; ++i) s[i] = _mm256_set1_pd(i);
    const __m256d a = _mm256_set1_pd(0.5), b = _mm256_set1_pd(1.0);
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 12
        for (int i = 0; i < 12; ++i) s[i] = _mm256_fmadd_pd(s[i], a, b);
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += s[i][0];
    return sum;
}
#endif
__attribute__((noipa)) double multiply_adds_base(long rounds) {
    typedef double pair __attribute__((vector_size(16)));
    pair s[12];
    for (int i = 0; i < 12; ++i) s[i] = pair{1.0 * i, 1};
    const pair a = {0.5, 0.5}, b = {1, 1};
    for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 12
        for (int i = 0; i < 12; ++i) s[i] = s[i] * a + b;
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += s[i][0];
    return sum;
}

double peak_flops() {
    constexpr long rounds = 20000;
    const std::string level = cpu::simd().level;
#if defined(__x86_64__)
    if (level == "v4") return 16 * 16.0 * rounds / seconds([] { sink = multiply_adds_v4(rounds); });
    if (level == "v3") return 12 * 8.0 * rounds / seconds([] { sink = multiply_adds_v3(rounds); });
#endif
    return 12 * 4.0 * rounds / seconds([] { sink = multiply_adds_base(rounds); });
}

// Bytes per second of z = x + s y from memory, 24 bytes an element.
double triad() {
    const index n = index{1} << 23;
    std::vector<double> x(n, 1), y(n, 2), z(n, 0);
    const double took = seconds([&] {
        cpu::parallel_chunks(64, [&](index c) {
            for (index i = c * (n / 64); i < (c + 1) * (n / 64); ++i) z[i] = x[i] + 3 * y[i];
        });
        sink = z[n / 2];
    });
    return 24.0 * n / took;
}

// Bytes per second of reading `bytes` bytes over and over, by the kernel that reads the fewest streams.
double read_rate(double bytes) {
    const index n = std::max<index>(static_cast<index>(bytes / 8), 64), part = 512;
    std::vector<double> x(n, 1), ones(part, 1);
    const double took = seconds([&] {
        double sum = 0;
        const double* row[1];
        for (index i = 0; i + part <= n; i += part) {
            row[0] = x.data() + i;
            double s = 0;
            cpu::simd().dot_f64(row, 1, ones.data(), part, &s);
            sum += s;
        }
        sink = sum;
    });
    return 8.0 * (n / part * part) / took;
}

struct row {
    std::string kernel, type, size;
    double seconds, bytes, flops, floor;  // floor: seconds the ceiling allows
};

struct ceilings {
    double triad, flops;
    double bytes_per_second(double footprint) const { return footprint > 1e8 ? triad : read_rate(footprint); }
};

// Storage that starts at a cache line, as a workspace hands it out.
template <class T>
class buffer {
public:
    explicit buffer(index n, T value = T()) : block_(workspace::bytes_for<T>(n)) {
        part_ = workspace(block_.data(), block_.size()).template take<T>(n);
        std::fill(begin(), end(), value);
    }
    T* data() { return part_.data; }
    T* begin() { return part_.data; }
    T* end() { return part_.data + part_.size; }

private:
    std::vector<unsigned char> block_;
    vec<T> part_;
};

unsigned long long state = 1;
double uniform() {
    return static_cast<double>((state = state * 6364136223846793005ULL + 1442695040888963407ULL) >> 11) /
               4503599627370496.0 -
           1;
}

template <class B>
void fill(buffer<B>& x) {
    for (B& e : x) {
        if constexpr (std::is_floating_point_v<B>) {
            e = static_cast<B>(uniform());
        } else {
            const double re = uniform();
            e = B(static_cast<typename B::value_type>(re), static_cast<typename B::value_type>(uniform()));
        }
    }
}

template <class B>
void tall_kernels(const char* type, index n, const ceilings& limit, std::vector<row>& out) {
    constexpr bool complex = !std::is_floating_point_v<B>;
    using S = std::conditional_t<complex, std::complex<double>, double>;
    const index k = 10, m = 20, made = 10, all = k + m;
    buffer<B> columns(n * all), z(n * made);
    buffer<S> w(n), h(all), p(all * made), g(all * all);
    fill(columns);
    fill(w);
    fill(p);
    const tall<const B> c{columns.data(), n, k, n}, v{columns.data() + k * n, n, m, n},
        x{columns.data(), n, all, n};
    const double entry = sizeof(B), entries = static_cast<double>(n) * all,
                 vector = static_cast<double>(n) * sizeof(S);
    const double flop = complex ? 8 : 2, rate = limit.bytes_per_second(entries * entry);
    const std::string size = std::to_string(n) + " x " + std::to_string(all);
    const auto add = [&](const char* kernel, double bytes, double flops, auto body) {
        out.push_back(
            {kernel, type, size, seconds(body), bytes, flops, std::max(bytes / rate, flops / limit.flops)});
    };
    add("project", entries * entry + vector, flop * entries,
        [&] { cpu::project(c, v, vec<const S>{w.data(), n}, h.data()); });
    for (S& e : h) e *= 1e-9;
    add("deflate", entries * entry + 2 * vector, flop * entries,
        [&] { cpu::deflate(c, v, h.data(), vec<S>{w.data(), n}); });
    add("combine", entries * entry + 2 * vector, flop * entries,
        [&] { cpu::combine(x, h.data(), S(1), vec<S>{w.data(), n}); });
    add("gram", entries * entry, flop * entries * all, [&] { cpu::gram(x, x, g.data(), all); });
    add("mix", entries * entry + static_cast<double>(n) * made * entry, flop * entries * made,
        [&] { cpu::mix(x, p.data(), all, tall<B>{z.data(), n, made, n}, false); });
}

sparse_pattern grid(index nx, index ny, index nz, bool lower_in_level_order, std::vector<index>* groups) {
    const index n = nx * ny * nz, levels = nx + ny + nz - 2;
    std::vector<index> order(n), at(n);
    if (lower_in_level_order) {
        groups->assign(levels + 1, 0);
        for (index i = 0; i < n; ++i) ++(*groups)[i % nx + i / nx % ny + i / (nx * ny) + 1];
        for (index l = 0; l < levels; ++l) (*groups)[l + 1] += (*groups)[l];
        std::vector<index> next(*groups);
        for (index i = 0; i < n; ++i) at[i] = next[i % nx + i / nx % ny + i / (nx * ny)]++;
    } else {
        for (index i = 0; i < n; ++i) at[i] = i;
    }
    for (index i = 0; i < n; ++i) order[at[i]] = i;
    sparse_pattern a;
    a.rows = a.cols = n;
    for (index r = 0; r < n; ++r) {
        const index i = order[r], x = i % nx, y = i / nx % ny, z = i / (nx * ny);
        const auto put = [&](bool there, index j) {
            if (there) a.indices.push_back(static_cast<std::int32_t>(at[j]));
        };
        put(z > 0, i - nx * ny);
        put(y > 0, i - nx);
        put(x > 0, i - 1);
        if (!lower_in_level_order) {
            put(true, i);
            put(x + 1 < nx, i + 1);
            put(y + 1 < ny, i + nx);
            put(z + 1 < nz, i + nx * ny);
        }
        a.indptr.push_back(a.nnz());
    }
    return a;
}

template <class S>
void sparse_kernels(const char* type, index nx, index ny, index nz, const ceilings& limit,
                    std::vector<row>& out) {
    const std::string size = (nz > 1 ? "7-point " : "5-point ") + std::to_string(nx * ny * nz);
    for (const bool solve : {false, true}) {
        std::vector<index> groups;
        const sparse_pattern a = grid(nx, ny, nz, solve, &groups);
        const sliced_pattern sliced = make_sliced(a.view(), groups);
        buffer<S> values(a.nnz(), S(0.1)), stored(sliced.stored()), x(a.rows), y(a.rows),
            scale(a.rows, S(0.5));
        fill(x);
        fill_sliced(sliced, values.data(), stored.data());
        const double rows = static_cast<double>(a.rows), slices = static_cast<double>(sliced.slices());
        const double bytes =
            sliced.stored() * (sizeof(S) + 5.0 / 8) + 16 * slices + (solve ? 3 : 2) * rows * sizeof(S);
        const double flops = (std::is_floating_point_v<S> ? 2.0 : 8.0) * a.nnz();
        const double floor = bytes / limit.bytes_per_second(bytes);
        if (solve)
            out.push_back({"sliced_solve", type, size, seconds([&] {
                               cpu::sliced_solve(sliced, stored.data(), scale.data(), x.data(), y.data());
                           }),
                           bytes, flops, floor});
        else
            out.push_back({"sliced_multiply", type, size,
                           seconds([&] { cpu::sliced_multiply(sliced, stored.data(), x.data(), y.data()); }),
                           bytes, flops, floor});
    }
}

}  // namespace

int main(int argc, char** argv) {
    const ceilings limit{triad(), peak_flops() * cpu::num_threads()};
    std::vector<row> rows;
    for (aitken::index n : {6400, 1000000}) {
        tall_kernels<double>("f64", n, limit, rows);
        tall_kernels<float>("f32", n, limit, rows);
        tall_kernels<std::complex<double>>("c128", n, limit, rows);
        tall_kernels<std::complex<float>>("c64", n, limit, rows);
    }
    sparse_kernels<double>("f64", 80, 80, 1, limit, rows);
    sparse_kernels<double>("f64", 20, 20, 16, limit, rows);
    sparse_kernels<std::complex<double>>("c128", 80, 80, 1, limit, rows);
    sparse_kernels<double>("f64", 1500, 1500, 1, limit, rows);
    sparse_kernels<double>("f64", 120, 120, 120, limit, rows);
    std::printf("SIMD %s, %d thread(s), triad %.1f GB/s, %.1f GFlop/s\n", cpu::simd().level,
                cpu::num_threads(), limit.triad * 1e-9, limit.flops * 1e-9);
    std::printf("%-16s %4s %17s %10s %8s %8s %7s\n", "kernel", "type", "size", "us", "GB/s", "GFlop/s",
                "floor");
    for (const row& r : rows)
        std::printf("%-16s %4s %17s %10.2f %8.1f %8.1f %6.0f%%\n", r.kernel.c_str(), r.type.c_str(),
                    r.size.c_str(), r.seconds * 1e6, r.bytes / r.seconds * 1e-9, r.flops / r.seconds * 1e-9,
                    100 * r.floor / r.seconds);
    if (argc == 3 && std::strcmp(argv[1], "--json") == 0) {
        std::FILE* f = std::fopen(argv[2], "w");
        if (!f) return std::perror(argv[2]), 1;
        std::fprintf(
            f, "{\"simd\": \"%s\", \"threads\": %d, \"triad\": %.4e, \"peak_flops\": %.4e, \"kernels\": [",
            cpu::simd().level, cpu::num_threads(), limit.triad, limit.flops);
        for (std::size_t i = 0; i < rows.size(); ++i)
            std::fprintf(f,
                         "%s\n {\"kernel\": \"%s\", \"type\": \"%s\", \"size\": \"%s\", \"seconds\": %.6e, "
                         "\"bytes\": %.0f, \"flops\": %.0f, \"floor_seconds\": %.6e}",
                         i ? "," : "", rows[i].kernel.c_str(), rows[i].type.c_str(), rows[i].size.c_str(),
                         rows[i].seconds, rows[i].bytes, rows[i].flops, rows[i].floor);
        std::fprintf(f, "\n]}\n");
        std::fclose(f);
    }
    return 0;
}
