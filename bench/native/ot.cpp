// The fused transport passes (K1 exp, K2 products, K3 trial, K4 compaction, K5 log-sum-exp), one thread
// unless OMP_NUM_THREADS says otherwise: ns per entry, GB/s and GFlop/s by the bytes and flops their comments
// state, and the share of the ceiling that binds: bandwidth of a plain read (or copy) of the same size in
// this run, or the bare exponential.
//
//   ot [--json FILE]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/api/ot.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"

namespace {

using namespace aitken;
using aitken::index;

template <class Body>
double seconds(Body body) {
    using clock = std::chrono::steady_clock;
    body();
    double best = 1e30, spent = 0;
    for (int repeat = 0; repeat < 5 || spent < 0.15; ++repeat) {
        const auto start = clock::now();
        body();
        const double took = std::chrono::duration<double>(clock::now() - start).count();
        best = std::min(best, took);
        spent += took;
    }
    return best;
}

struct row {
    std::string pass, type;
    index n;
    double seconds, bytes, flops, floor;  // floor: seconds the ceiling allows
};

template <class T>
void run(index n, const char* type, double exp_ns, std::vector<row>& out) {
    const index m = n;
    interrupt none;
    cpu::backend be(none);
    std::vector<T> cost(n * m), plan(n * m);
    unsigned long long s = 1;
    for (T& c : cost)
        c = static_cast<T>((s = s * 6364136223846793005ULL + 1442695040888963407ULL) >> 11) /
            9007199254740992.0;
    const auto vector = [&](index size, double value) {
        const vec<double> v = be.allocate<double>(size);
        be.fill(v, value);
        return v;
    };
    const auto a = vector(n, 1.0 / n), b = vector(m, 1.0 / m), x = vector(n, 0), y = vector(m, 0),
               u = vector(n, 1), v = vector(m, 1), r = vector(n, 0), c = vector(m, 0), p = vector(n, 1e-3),
               w = vector(n, 0), q = vector(m, 1e-3), rl = vector(n, 0), cl = vector(m, 0), rr = vector(n, 0),
               cc = vector(m, 0);
    const scalar_ref scalar = be.scalar();
    const ot::problem<T> problem{{cost.data(), n, m, m}, a, b, 1.0, {plan.data(), n, m, m}};
    cpu::ot_kernels<T> k(be, problem);
    const double eps = 1e-2, entries = static_cast<double>(n) * m, bytes = entries * sizeof(T);

    const double* ones = q.data;
    const double read = seconds([&] {  // one stream, nothing else: the bandwidth a sweep can have
        double sum[4];
        for (index i = 0; i + 4 <= n; i += 4) {
            const T* rows[4] = {&plan[i * m], &plan[(i + 1) * m], &plan[(i + 2) * m], &plan[(i + 3) * m]};
            cpu::rows_of<T>::dot(rows, 4, ones, m, sum);
        }
    });
    const double copy = seconds([&] { std::memcpy(plan.data(), cost.data(), n * m * sizeof(T)); });
    const double exp_floor = std::max(copy, exp_ns * 1e-9 * entries);
    const auto add = [&](const char* pass, double moved, double flops, double floor, auto body) {
        out.push_back({pass, type, n, seconds(body), moved, flops, floor});
    };
    add("K1 exp_pass", 2 * bytes, 0, exp_floor, [&] { k.exp_pass(eps, x, y, r, c); });
    add("K5 scale_rows_pass", 2 * bytes, 0, exp_floor, [&] { k.scale_rows_pass(eps, x, y, c); });
    add("K5 log_sum_exp_cols", 2 * bytes, 0, std::max(2 * read, exp_ns * 1e-9 * entries),
        [&] { k.log_sum_exp_cols(eps, x, true, y); });
    k.scale_rows_pass(eps, x, y, c);
    k.row_sums(u, v, r);
    k.col_sums(u, v, c);
    add("Sinkhorn sweep", bytes, 4 * entries, read, [&] {
        be.fill(u, 1.0);
        k.sinkhorn_sweep(u, v, rr, cc);
    });
    be.fill(u, 1.0);
    add("K2 row_sums (P v)", bytes, 2 * entries, read, [&] { k.row_sums(u, v, rr); });
    add("K2 schur_product", 2 * bytes, 4 * entries, 2 * read,
        [&] { k.schur_product(u, v, r, c, p, w, scalar); });
    add("K3 trial", bytes, 4 * entries, read, [&] { k.trial(u, v, p, q, rr, cc); });
    k.mass_limits(1e-2, r, c, rl, cl);
    drivers::ot::host_csr sparse;
    add("K4 compact", bytes, 2 * entries, read,
        [&] { k.compact(u, v, {{}, {}, rl, cl, false}, n * m, sparse); });
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<double> z(4096), e(4096);
    for (std::size_t i = 0; i < z.size(); ++i) z[i] = -static_cast<double>(i) / 200;
    const double exp_ns = seconds([&] {
                              for (int i = 0; i < 64; ++i) cpu::simd().exp_n(z.data(), e.data(), 4096);
                          }) /
                          (64 * 4096) * 1e9;
    std::vector<row> rows;
    for (aitken::index n : {500, 2000}) {
        run<double>(n, "f64", exp_ns, rows);
        run<float>(n, "f32", exp_ns, rows);
    }
    std::printf("SIMD %s, %d thread(s), exp %.3f ns\n", cpu::simd().level, cpu::num_threads(), exp_ns);
    std::printf("%-22s %4s %5s %10s %9s %9s %9s %7s\n", "pass", "type", "n", "ms", "ns/entry", "GB/s",
                "GFlop/s", "floor");
    for (const row& r : rows)
        std::printf("%-22s %4s %5lld %10.3f %9.3f %9.1f %9.1f %6.0f%%\n", r.pass.c_str(), r.type.c_str(),
                    static_cast<long long>(r.n), r.seconds * 1e3, r.seconds * 1e9 / (double(r.n) * r.n),
                    r.bytes / r.seconds * 1e-9, r.flops / r.seconds * 1e-9, 100 * r.floor / r.seconds);
    if (argc == 3 && std::strcmp(argv[1], "--json") == 0) {
        std::FILE* f = std::fopen(argv[2], "w");
        if (!f) return std::perror(argv[2]), 1;
        std::fprintf(f, "{\"simd\": \"%s\", \"threads\": %d, \"exp_ns\": %.4f, \"passes\": [",
                     cpu::simd().level, cpu::num_threads(), exp_ns);
        for (std::size_t i = 0; i < rows.size(); ++i)
            std::fprintf(
                f,
                "%s\n {\"pass\": \"%s\", \"type\": \"%s\", \"n\": %lld, \"seconds\": %.6e, \"bytes\": %.0f, "
                "\"flops\": %.0f, \"floor_seconds\": %.6e}",
                i ? "," : "", rows[i].pass.c_str(), rows[i].type.c_str(), static_cast<long long>(rows[i].n),
                rows[i].seconds, rows[i].bytes, rows[i].flops, rows[i].floor);
        std::fprintf(f, "\n]}\n");
        std::fclose(f);
    }
    return 0;
}
