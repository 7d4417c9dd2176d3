// The kernels of matrix completion, one thread: Gram matrices over listed rows (Gflop/s, k (k + 1) flops an
// entry), Cholesky solves of a group of systems (us a system), conjugate gradients from a fresh row (ns an
// entry and pass over the rows; 3 steps are 4 passes). Rows are drawn at random from a factor of 2.7 MiB in
// single precision, as the columns of a large rating matrix are. The ceiling is the rate of multiply-adds on
// registers.
//
//   completion [--level base|v3|v4]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cpu/simd/dispatch.hpp"

namespace {

using index = std::int64_t;

template <class Body>
double seconds(Body body) {
    using clock = std::chrono::steady_clock;
    body();
    double best = 1e30, spent = 0;
    for (int repeat = 0; repeat < 3 || spent < 0.1; ++repeat) {
        const auto start = clock::now();
        body();
        const double took = std::chrono::duration<double>(clock::now() - start).count();
        best = std::min(best, took);
        spent += took;
    }
    return best;
}

#define ENTRY(table, name)                       \
    ([&] {                                       \
        if constexpr (std::is_same_v<T, double>) \
            return (table).name##_f64;           \
        else                                     \
            return (table).name##_f32;           \
    }())

// Numbers aligned to a cache line.
template <class T>
class numbers {
public:
    explicit numbers(index n) : kept_(static_cast<std::size_t>(n) + 64 / sizeof(T)) {
        const auto at = reinterpret_cast<std::uintptr_t>(kept_.data());
        begin_ = kept_.data() + (64 - at % 64) % 64 / sizeof(T);
    }
    numbers(const numbers&) = delete;
    numbers& operator=(const numbers&) = delete;
    T* data() { return begin_; }
    T& operator[](index i) { return begin_[i]; }

private:
    std::vector<T> kept_;
    T* begin_;
};

constexpr index factor_rows = 10677, entries = 1 << 17;

template <class T>
void run(const aitken_simd_table& table, index k) {
    const index ld = (k + AITKEN_ROW_PAD - 1) / AITKEN_ROW_PAD * AITKEN_ROW_PAD;
    std::mt19937_64 g(1);
    std::normal_distribution<double> normal;
    numbers<T> v(factor_rows * ld), w(entries), c(entries), gram(ld * ld), b(ld),
        panel(AITKEN_GRAM_ROWS * ld);
    numbers<T> x(ld), work(4 * ld);
    for (index i = 0; i < factor_rows; ++i)
        for (index r = 0; r < k; ++r) v[i * ld + r] = static_cast<T>(normal(g));
    std::vector<std::int32_t> idx(entries);
    for (index j = 0; j < entries; ++j) {
        idx[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(g() % factor_rows);
        w[j] = 1;
        c[j] = static_cast<T>(normal(g));
    }
    const char* const type = std::is_same_v<T, double> ? "f64" : "f32";
    const auto over_lists = [&](index d, auto body) {
        return seconds([&] {
                   for (index at = 0; at + d <= entries; at += d) body(at);
               }) /
               static_cast<double>(entries / d * d);
    };
    const double kd = static_cast<double>(k);
    double rate[3], cg[2];
    int which = 0;
    for (const index d : {100, 1000}) {
        rate[which] = kd * (kd + 1) / 1e9 / over_lists(d, [&](index at) {
                          ENTRY(table, rows_gram)(v.data(), ld, idx.data() + at, nullptr, c.data() + at, d, k,
                                                  gram.data(), ld, b.data(), panel.data());
                      });
        cg[which++] = 1e9 / 4 * over_lists(d, [&](index at) {
                          double sums[2];
                          std::fill_n(x.data(), ld, T{0});
                          ENTRY(table, rows_cg)(v.data(), ld, idx.data() + at, nullptr, c.data() + at, d, k,
                                                1.0, nullptr, 0, 3, 0.0, x.data(), work.data(), sums);
                      });
    }
    rate[2] = kd * (kd + 1) / 1e9 / over_lists(100, [&](index at) {
                  ENTRY(table, rows_gram)(v.data(), ld, idx.data() + at, w.data() + at, c.data() + at, 100, k,
                                          gram.data(), ld, b.data(), panel.data());
              });

    // Systems of their own for many groups, as a half sweep forms them.
    const index lanes = std::is_same_v<T, double> ? AITKEN_SPD_LANES_F64 : AITKEN_SPD_LANES_F32;
    const index stride = k * ld;
    numbers<T> systems(lanes * stride), right(lanes * ld), solutions(lanes * ld), scratch(AITKEN_SPD_WORK(k));
    for (index l = 0; l < lanes; ++l)
        for (index r = 0; r < k; ++r) {
            right[l * ld + r] = static_cast<T>(normal(g));
            for (index col = r; col < k; ++col)
                systems[l * stride + r * ld + col] = static_cast<T>(r == col ? 4 * kd : normal(g));
        }
    const int rounds = k <= 32 ? 64 : 4;
    const double solve =
        seconds([&] {
            for (int i = 0; i < rounds; ++i)
                if (ENTRY(table, spd_solve)(systems.data(), ld, stride, right.data(), ld, lanes, k, T{0},
                                            solutions.data(), ld, scratch.data()) != 0)
                    throw std::runtime_error("a system was found singular");
        }) /
        rounds / static_cast<double>(lanes) * 1e6;
    numbers<T> one(stride);
    const double factor = seconds([&] {
                              for (int i = 0; i < rounds; ++i) {
                                  std::copy_n(systems.data(), stride, one.data());
                                  if (ENTRY(table, spd_factor)(one.data(), ld, k, T{0}) == 0)
                                      throw std::runtime_error("a system was found singular");
                              }
                          }) /
                          rounds * 1e6;
    const double apply = seconds([&] {
                             for (int i = 0; i < 64; ++i)
                                 ENTRY(table, spd_apply)(one.data(), ld, k, right.data(), solutions.data());
                         }) /
                         64 * 1e6;
    std::printf("%-5s %-4s %4lld %9.1f %9.1f %9.1f %9.3f %9.3f %9.3f %9.2f %9.2f\n", table.level, type,
                static_cast<long long>(k), rate[0], rate[1], rate[2], solve, factor, apply, cg[0], cg[1]);
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
    auto levels = aitken::cpu::simd_levels();
    for (int i = 1; i < argc; i += 2) {
        const std::string option = argv[i];
        if (option != "--level" || i + 1 == argc) throw std::invalid_argument("unknown option " + option);
        levels = {aitken::cpu::simd_for(argv[i + 1]).level};
    }
    std::printf("%-5s %-4s %4s %9s %9s %9s %9s %9s %9s %9s %9s\n", "", "", "", "gram", "Gflop/s", "weighted",
                "solve", "factor", "apply", "cg, ns", "a pass");
    std::printf("%-5s %-4s %4s %9s %9s %9s %9s %9s %9s %9s %9s\n", "level", "type", "k", "d = 100", "1000",
                "100", "us", "us", "us", "d = 100", "1000");
    for (const auto level : levels)
        for (const index k : {8, 10, 16, 32, 50, 64, 100, 128}) {
            run<float>(aitken::cpu::simd_for(level), k);
            run<double>(aitken::cpu::simd_for(level), k);
        }
    return 0;
} catch (const std::exception& e) {
    std::fprintf(stderr, "completion: %s\n", e.what());
    return 2;
}
