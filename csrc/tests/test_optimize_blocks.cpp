// The CUDA kernels of batches of constrained problems, run on the CPU as block programs: KKT systems at
// awkward sizes and whole solves, against the CPU's functions.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/optimize_batch.hpp"
#include "cuda/optimize_kernels.hpp"
#include "optimize_cases.hpp"

namespace aitken::tests {
namespace {

void systems_like_the_cpu(int n, int m, unsigned seed) {
    kkt_case here(n, m, n + m > 60 ? 5 : 9, seed), there = here;
    cpu::optimize::solve_kkt(here.view(), 0.1, 1);
    interrupt signals;
    block_backend be(signals, seed + 1);
    cuda::solve_kkt_batch(be, there.view(), 0.1);
    CHECK(be.counts().launches == 1);
    CHECK(there.attempts == here.attempts);
    CHECK(there.shift == here.shift);
    CHECK(there.regular == here.regular);
    for (index k = 0; k < here.count; ++k) {
        CHECK(here.attempts[static_cast<std::size_t>(k)] > 0);
        const double scale = here.largest_answer(k);
        for (int i = 0; i < n; ++i) CHECK_NEAR(there.dx_of(k)[i], here.dx_of(k)[i], 1e-9 * scale);
        for (int i = 0; i < m; ++i) CHECK_NEAR(there.dlam_of(k)[i], here.dlam_of(k)[i], 1e-9 * scale);
    }
}

// Both sides of each kernel's capacity and of a warp, without rows, and with as many as there are variables.
TEST(optimize_blocks_solve_kkt_systems) {
    const int sizes[][2] = {{1, 0},   {1, 1},   {2, 0},   {2, 1},   {3, 2},   {4, 2},   {5, 5},
                            {10, 2},  {17, 14}, {31, 0},  {20, 12}, {20, 13}, {33, 0},  {40, 24},
                            {40, 25}, {60, 5},  {70, 26}, {70, 27}, {97, 0},  {90, 30}, {100, 28}};
    unsigned seed = 1;
    for (const auto& s : sizes) systems_like_the_cpu(s[0], s[1], seed++);
}

TEST(optimize_blocks_give_the_same_bits_in_any_order) {
    for (const int n : {6, 40, 80, 100}) {
        kkt_case one(n, n / 4, 4, 3), two = one;
        interrupt signals;
        block_backend first(signals, 5), second(signals, 99);
        cuda::solve_kkt_batch(first, one.view(), 0.1);
        cuda::solve_kkt_batch(second, two.view(), 0.1);
        CHECK(one.dx == two.dx);
        CHECK(one.dlam == two.dlam);
        CHECK(one.shift == two.shift);
    }
}

// NaN leads to no answer, in its own system alone.
TEST(optimize_blocks_nan_stays_in_its_system) {
    kkt_case c(5, 2, 6, 11), whole = c;
    c.h[5 * 5 * 3 + 7] = std::nan("");
    interrupt signals;
    block_backend be(signals);
    cuda::solve_kkt_batch(be, c.view(), 0.1);
    cuda::solve_kkt_batch(be, whole.view(), 0.1);
    for (index k = 0; k < c.count; ++k) {
        const auto at = static_cast<std::size_t>(k);
        CHECK((c.attempts[at] > 0) == (k != 3));
        if (k == 3) continue;
        for (int i = 0; i < 5; ++i) CHECK(c.dx_of(k)[i] == whole.dx_of(k)[i]);
    }
}

// Whole solves: the same rounds over the kernel set and over the CPU's functions.
struct block_engine {
    block_backend& be;
    cuda::batch_kernels<block_backend> kernels;

    block_engine(block_backend& b, const optimize::batch_problems& p, const optimize::batch_options& o)
        : be(b), kernels(b, p, o) {}
    void begin(const double* x, const double* lam) { kernels.begin(x, lam); }
    void points(const std::int32_t* which, index count, double* out) { kernels.points(which, count, out); }
    void hessian_points(const std::int32_t* which, index count, double* x, double* v) {
        kernels.hessian_points(which, count, x, v);
    }
    void judge(const optimize::batch_values& v, std::uint8_t* next) { kernels.judge(v, next); }
    void direct(const optimize::batch_values& v, const std::int32_t* rows, index count, const double* h,
                std::uint8_t* next) {
        kernels.direct(v, rows, count, h, next);
    }
    void conclude(const optimize::batch_values& v, int status) { kernels.conclude(v, status); }
};

TEST(optimize_blocks_solve_problems_like_the_cpu) {
    for (const auto judge : {optimize::globalization::automatic, optimize::globalization::merit}) {
        optimize::batch_options o;
        o.judge = judge;
        circle_batch here(37), there(37);
        cpu_engine expected(here.problems(), o);
        here.solve(expected);
        interrupt signals;
        block_backend be(signals, 7);
        block_engine engine(be, there.problems(), o);
        there.solve(engine);
        CHECK(here.rounds == there.rounds);
        for (index k = 0; k < here.count; ++k) {
            CHECK(here.status(k) == (k == here.broken ? 4 : 0));
            CHECK(there.status(k) == here.status(k));
            CHECK(there.iterations(k) == here.iterations(k));
            for (int j = 0; k != here.broken && j < 3; ++j) CHECK_NEAR(there.x(k)[j], here.x(k)[j], 1e-9);
        }
    }
}

}  // namespace
}  // namespace aitken::tests
