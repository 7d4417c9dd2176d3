// The CUDA kernels of matrix completion, run on the CPU as block programs: half sweeps against normal
// equations solved by plain loops, every function of the kernel set against the CPU kernels, and whole
// completions, with launches and host reads counted.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "completion_cases.hpp"
#include "core/api/completion.hpp"
#include "cpu/backend.hpp"
#include "cpu/completion_kernels.hpp"
#include "cuda/completion_kernels.hpp"

namespace aitken::tests {
namespace {

using als::inner;
using als::loss;
using als::side;
template <class T>
using block_kernels = cuda::als_kernels<block_backend, T>;
template <class T>
using cpu_kernels = cpu::completion::als_kernels<cpu::backend, T>;

static_assert(drivers::completion::AlsKernels<block_kernels<float>>);
static_assert(drivers::completion::AlsKernels<block_kernels<double>>);

template <class T>
cuda::completion::stored<T> stored_of(const entry_list<T>& e) {
    return {e.view(), e.nnz()};
}
template <class T>
cuda::completion::problem<T> problem_of(const als_case<T>& c, bool held = true) {
    cuda::completion::problem<T> p{stored_of(c.rows), stored_of(c.columns), {}};
    if (held) p.holdout = stored_of(c.holdout);
    return p;
}

// Factors as callers have them: biases apart.
template <class T>
struct split_factor {
    std::vector<T> values, bias;
    index rows;
    int rank;

    // From rows of rank numbers, with biases one more.
    split_factor(const std::vector<T>& whole, index rows_, int columns, bool with_bias)
        : rows(rows_), rank(columns - with_bias) {
        for (index i = 0; i < rows; ++i) {
            const auto from = whole.begin() + i * columns;
            if (with_bias) bias.push_back(*from);
            values.insert(values.end(), from + with_bias, from + columns);
        }
    }
    matrix<T> view() { return {values.data(), rows, rank, rank}; }
    vec<T> biases() { return {bias.data(), static_cast<index>(bias.size())}; }
    double at(index i, int c) const {
        if (!bias.empty() && c == 0) return static_cast<double>(bias[static_cast<std::size_t>(i)]);
        const auto at = static_cast<std::size_t>(i * rank + c - !bias.empty());
        return static_cast<double>(values[at]);
    }
};

template <class T>
als::half_report block_sweep(const entry_list<T>& e, split_factor<T> fixed, split_factor<T>& x,
                             const als::half_options& o, traffic* counts = nullptr, unsigned seed = 1) {
    interrupt signals;
    block_backend be(signals, seed);
    const auto report = cuda::half_sweep_of<block_backend, T>(be, stored_of(e), fixed.view(), fixed.biases(),
                                                              x.view(), x.biases(), o);
    if (counts) *counts = be.counts();
    return report;
}

template <class T>
void sweep_like_plain_loops(const entry_list<T>& e, int k, const als::half_options& o, double tol,
                            const std::string& what) {
    const std::vector<T> fixed = random_factor<T>(e.cols, k, 11);
    const plain_sweep expected = solve_plainly(e, fixed, k, o, e.weights);
    split_factor<T> x(random_factor<T>(e.rows, k, 12), e.rows, k, o.bias);
    const auto report = block_sweep(e, split_factor<T>(fixed, e.cols, k, o.bias), x, o);
    double scale = 0, worst = 0;
    for (index i = 0; i < e.rows; ++i)
        for (int c = 0; c < k; ++c) {
            const double want = expected.x[static_cast<std::size_t>(i * k + c)];
            scale = std::max(scale, std::abs(want));
            const double gap = std::abs(x.at(i, c) - want);
            worst = gap <= worst ? worst : gap;
        }
    CHECK(worst <= tol * scale);
    double size = 0;
    for (const T v : e.values) size += static_cast<double>(v) * static_cast<double>(v);
    CHECK(std::abs(report.squared_error - expected.error) <= tol * size);
    if (!(worst <= tol * scale) || !(std::abs(report.squared_error - expected.error) <= tol * size))
        check::fail(what.c_str(), 0,
                    "k " + std::to_string(k) + ": worst " + std::to_string(worst) + " of " +
                        std::to_string(scale) + ", error " + std::to_string(report.squared_error) + " vs " +
                        std::to_string(expected.error));
}

// Both sides of every kernel's capacity, of a tile and of a pack.
template <class T>
void exact_solves(double tol) {
    std::vector<int> sizes{1,  2,  3,  4,  5,  8,  15, 16,  17,  31,  32,
                           33, 40, 57, 63, 64, 65, 97, 120, 121, 136, 137};
    if (std::is_same_v<T, float>) sizes.insert(sizes.end(), {200, 248, 249});
    for (const int k : sizes) {
        const bool large = k > 64;
        const index rows = large ? 4 : 12, cols = std::max(60, k + 20);
        std::vector<index> degrees = mixed_degrees(rows, cols, static_cast<unsigned>(k));
        for (const bool weighted : {false, true}) {
            const auto e = random_entries<T>(degrees, cols, weighted, 3);
            // Beyond the largest solver: conjugate gradients, to what rounding and the condition leave.
            const bool direct = cuda::with_solver<T>(k, [](auto) {});
            const double allowed = direct ? tol : std::is_same_v<T, float> ? 1e-2 : 1e-7;
            als::half_options o;
            o.lam = 2;
            sweep_like_plain_loops(e, k, o, allowed, "plain");
            o.bias = weighted && k > 1;
            o.lam_by_degree = weighted;
            o.background = !weighted;
            sweep_like_plain_loops(e, k, o, allowed, weighted ? "biases" : "background");
        }
    }
}
TEST(completion_blocks_solve_rows_f64) { exact_solves<double>(1e-10); }
TEST(completion_blocks_solve_rows_f32) { exact_solves<float>(2e-4); }

// Rows of more than 4096 entries are cut into parts, which batches of any size put together.
TEST(completion_blocks_cut_long_rows) {
    const std::vector<index> degrees{30, 4096, 4097, 0, 9000, 300, 8193};
    const auto e = random_entries<double>(degrees, 9000, true, 4);
    for (const int k : {1, 10, 33}) {
        als::half_options o;
        o.lam = 0.5;
        o.bias = k == 10;
        sweep_like_plain_loops(e, k, o, 1e-9, "long rows");
    }
    traffic counts, alone;
    const std::vector<double> fixed = random_factor<double>(9000, 10, 5);
    split_factor<double> x(random_factor<double>(7, 10, 6), 7, 10, false), y = x;
    block_sweep(e, split_factor<double>(fixed, 9000, 10, false), x, {}, &counts);
    const auto shorter = random_entries<double>({30, 4096, 0}, 9000, true, 4);
    y.rows = 3;
    block_sweep(shorter, split_factor<double>(fixed, 9000, 10, false), y, {}, &alone);
    CHECK(counts.launches == alone.launches + 2);
}

TEST(completion_blocks_bins_hold_every_row_once) {
    std::mt19937 random(3);
    for (const index slots : {1, 7, 300, 100000}) {
        std::vector<index> begin{0};
        for (int i = 0; i < 400; ++i) {
            const index kinds[] = {0, 1, 32, 33, 256, 257, 4096, 4097, 40000, 3000000};
            begin.push_back(begin.back() + kinds[random() % 10]);
        }
        const cuda::row_bins bins(begin, slots);
        std::set<std::int32_t> rows;
        const auto degree = [&](std::int32_t row) { return begin[row + 1] - begin[row]; };
        const auto bin = [](index d) { return d > 4096 ? 0 : d > 256 ? 1 : d > 32 ? 2 : 3; };
        for (std::size_t i = 0; i < bins.whole.size(); ++i) {
            const cuda::row_piece& p = bins.whole[i];
            CHECK(rows.insert(p.row).second);
            CHECK(p.first == begin[p.row] && p.last == begin[p.row + 1]);
            CHECK((static_cast<index>(i) < bins.long_rows) == (degree(p.row) > 4096));
            CHECK((static_cast<index>(i) < bins.up_to_some) == (degree(p.row) > 32));
            CHECK(i == 0 || bin(degree(bins.whole[i - 1].row)) <= bin(degree(p.row)));
        }
        CHECK(rows.size() == begin.size() - 1);
        index parts = 0, sums = 0;
        for (const auto& b : bins.batches) {
            CHECK(b.first_part == parts && b.first_row == sums && b.rows > 0);
            CHECK(b.parts <= std::max<index>(slots, 256) && b.parts <= bins.slots);
            index slot = 0;
            for (index r = b.first_row; r < b.first_row + b.rows; ++r) {
                const cuda::row_piece& sum = bins.sums[static_cast<std::size_t>(r)];
                CHECK(sum.first == slot && sum.row == bins.whole[static_cast<std::size_t>(r)].row);
                CHECK(sum.last - sum.first <= cuda::row_bins::most_parts);
                index at = begin[sum.row];
                for (; slot < sum.last; ++slot) {
                    const cuda::row_piece& p = bins.parts[static_cast<std::size_t>(b.first_part + slot)];
                    CHECK(p.row == sum.row && p.slot == slot && p.first == at && p.last > p.first);
                    at = p.last;
                }
                CHECK(at == begin[sum.row + 1]);
            }
            CHECK(slot == b.parts);
            parts += b.parts;
            sums += b.rows;
        }
        CHECK(sums == bins.long_rows && parts == static_cast<index>(bins.parts.size()));
    }
}

// Columns that depend on others, and rows with fewer entries than unknowns: solved again with a larger ridge,
// as often as on the CPU and with the same result where it is determined.
template <class T>
void degenerate_rows() {
    const auto e = random_entries<T>({3, 25, 0, 1, 40, 7}, 60, false, 8);
    for (const int k : {5, 20, 40, 70}) {
        std::vector<T> fixed = random_factor<T>(e.cols, k, 9);
        for (index j = 0; j < e.cols; ++j)
            fixed[static_cast<std::size_t>(j * k + k - 1)] = fixed[static_cast<std::size_t>(j * k)];
        als::half_options o;
        split_factor<T> from(fixed, e.cols, k, false), x(random_factor<T>(e.rows, k, 10), e.rows, k, false),
            same = x;
        const auto there = block_sweep(e, from, x, o);
        interrupt signals;
        const auto here = cpu::completion::half_sweep<T>(e.view(), from.view(), from.biases(), same.view(),
                                                         same.biases(), o, 1, signals);
        CHECK(there.retries > 0 && there.retries == here.retries);
        for (const T value : x.values) CHECK(std::isfinite(value));
        // Fits are determined where solutions are not.
        for (index i = 0; i < e.rows; ++i)
            for (index p = e.indptr[i]; p < e.indptr[i + 1]; ++p) {
                double one = 0, other = 0;
                for (int c = 0; c < k; ++c) {
                    const auto v = static_cast<double>(fixed[static_cast<std::size_t>(e.indices[p] * k + c)]);
                    one += x.at(i, c) * v;
                    other += same.at(i, c) * v;
                }
                CHECK_NEAR(one, other, (std::is_same_v<T, float>) ? 1e-3 : 1e-6);
            }
    }
}
TEST(completion_blocks_degenerate_rows) {
    degenerate_rows<double>();
    degenerate_rows<float>();
}

// What cannot be solved: weights or factors of zero give 0, numbers that are none stay none.
TEST(completion_blocks_rows_without_weight) {
    auto e = random_entries<double>({6, 9, 0, 12}, 30, true, 2);
    for (index p = e.indptr[1]; p < e.indptr[2]; ++p) e.weights[static_cast<std::size_t>(p)] = 0;
    for (const inner solver : {inner::exact, inner::cg})
        for (const double lam : {0.0, 0.3}) {
            als::half_options o;
            o.lam = lam;
            o.solver = solver;
            o.inner_maxiter = 200;
            o.inner_tol = 1e-13;
            const std::vector<double> fixed = random_factor<double>(30, 4, 3);
            split_factor<double> from(fixed, 30, 4, false), x(std::vector<double>(16, 0.0), 4, 4, false);
            const auto report = block_sweep(e, from, x, o);
            for (int c = 0; c < 4; ++c) CHECK(x.at(1, c) == 0 && x.at(2, c) == 0 && x.at(0, c) != 0);
            CHECK(report.retries == 0 && std::isfinite(report.squared_error));
            split_factor<double> none(std::vector<double>(30 * 4, 0.0), 30, 4, false);
            block_sweep(e, none, x, o);
            for (const double value : x.values) CHECK(std::isfinite(value));
        }
    auto bad = e;
    bad.values[2] = std::numeric_limits<double>::quiet_NaN();
    split_factor<double> from(random_factor<double>(30, 4, 3), 30, 4, false),
        x(std::vector<double>(16, 0.0), 4, 4, false);
    CHECK(!std::isfinite(block_sweep(bad, from, x, {}).squared_error));
    CHECK(std::isnan(x.at(0, 0)) && std::isfinite(x.at(3, 0)));
}

// Conjugate gradients like the CPU's: rows that one tile of entries holds and rows of many, a thread a column
// and several columns a thread.
template <class T>
void iterative_solves(double tol) {
    for (const int k : {1, 4, 7, 24, 64, 65, 100, 124, 128, 130, 300, 700}) {
        const index cols = k > 200 ? 60 : 400;
        std::vector<index> degrees{0, 1, 12, 25, 26, 27, 32, 33, 60};
        if (k <= 200) degrees.insert(degrees.end(), {130, 400});
        const auto e = random_entries<T>(degrees, cols, true, 5);
        for (const int steps : {1, 3, 8})
            for (const bool bias : {false, true}) {
                if (bias && k == 1) continue;
                als::half_options o;
                o.bias = bias;
                o.background = !bias && steps == 3;
                o.lam = 20;
                o.solver = inner::cg;
                o.inner_maxiter = steps;
                o.inner_tol = steps == 8 ? 0.1 : 0;
                split_factor<T> from(random_factor<T>(cols, k, 9), cols, k, bias),
                    x(random_factor<T>(e.rows, k, 10), e.rows, k, bias), same = x;
                const auto there = block_sweep(e, from, x, o);
                interrupt signals;
                const auto here = cpu::completion::half_sweep<T>(e.view(), from.view(), from.biases(),
                                                                 same.view(), same.biases(), o, 1, signals);
                if (k > 8)  // else rounding tells when all is solved
                    CHECK(there.inner_iterations == here.inner_iterations);
                CHECK_NEAR(there.squared_error, here.squared_error, tol * std::abs(here.squared_error));
                double scale = 0, worst = 0;
                for (index i = 0; i < e.rows; ++i)
                    for (int c = 0; c < k; ++c) {
                        scale = std::max(scale, std::abs(same.at(i, c)));
                        const double gap = std::abs(x.at(i, c) - same.at(i, c));
                        worst = gap <= worst ? worst : gap;
                    }
                CHECK_NEAR(worst, 0, tol * scale);
            }
    }
}
TEST(completion_blocks_iterate_like_the_cpu_f64) { iterative_solves<double>(1e-9); }
TEST(completion_blocks_iterate_like_the_cpu_f32) { iterative_solves<float>(1e-3); }

// With enough steps, the solution of the normal equations; so also where no exact solver is large enough.
TEST(completion_blocks_iterate_to_the_solution) {
    const auto e = random_entries<double>({0, 5, 90, 250, 31}, 300, true, 6);
    for (const int k : {9, 40, 137, 200}) {
        als::half_options o;
        o.lam = 5;
        o.solver = k > 136 ? inner::exact : inner::cg;
        o.inner_maxiter = 300;
        o.inner_tol = 1e-13;
        sweep_like_plain_loops(e, k, o, 1e-8, "cg");
    }
}

// Every function against the CPU's, with columns beyond the rank that hold nothing of use.
template <class T>
void functions_like_the_cpu(double tol) {
    struct shape {
        index rows, cols;
        int rank;
        bool bias, weighted;
    };
    for (const shape& c :
         {shape{1, 1, 1, false, false}, shape{40, 37, 3, false, true}, shape{70, 45, 6, true, false},
          shape{33, 90, 20, true, true}, shape{1300, 24, 4, false, false}}) {
        const als_case<T> data(c.rows == 1 ? std::vector<index>{1} : mixed_degrees(c.rows, c.cols, 1), c.cols,
                               c.weighted, 2);
        interrupt signals;
        block_backend be(signals, 3);
        cpu::backend here(signals);
        const int capacity = c.rank + 3;
        block_kernels<T> kernels(be, problem_of(data), capacity, c.bias);
        cpu_kernels<T> expected(here, data.problem(), capacity, c.bias);
        kernels.set_rank(c.rank);
        expected.set_rank(c.rank);
        const bool sweeps = c.rows < 1000;
        near_results(als_exercise<block_backend, block_kernels<T>>(be, kernels, c.bias, 7).run(sweeps),
                     als_exercise<cpu::backend, cpu_kernels<T>>(here, expected, c.bias, 7).run(sweeps), tol,
                     std::to_string(c.rows) + " x " + std::to_string(c.cols));
    }
}
TEST(completion_blocks_functions_like_the_cpu_f64) { functions_like_the_cpu<double>(1e-9); }
TEST(completion_blocks_functions_like_the_cpu_f32) { functions_like_the_cpu<float>(2e-3); }

TEST(completion_blocks_ignore_columns_beyond_the_rank) {
    const als_case<double> data(mixed_degrees(30, 28, 1), 28, true, 2);
    als_results first;
    for (const double filler : {0.0, std::numeric_limits<double>::quiet_NaN()}) {
        interrupt signals;
        block_backend be(signals, 3);
        block_kernels<double> kernels(be, problem_of(data), 9, true);
        kernels.set_rank(5);
        for (const side s : {side::rows, side::columns}) {
            const matrix<double> f = kernels.stored(s);
            const std::vector<double> numbers = random_factor<double>(f.rows, 6, 4);
            std::fill_n(f.data, f.rows * f.ld, filler);
            for (index i = 0; i < f.rows; ++i) std::copy_n(numbers.data() + i * 6, 6, f.row(i));
        }
        als_results got;
        const scalar_ref sums[3] = {be.scalar(), be.scalar(), be.scalar()};
        for (const inner solver : {inner::exact, inner::cg}) {
            als::half_options o;
            o.bias = true;
            o.lam = 0.1;
            o.solver = solver;
            kernels.prepare(side::rows, o);
            kernels.half_sweep(side::rows, o, sums[0], sums[1], sums[2]);
            kernels.squared_error(false, o, sums[1]);
            for (const scalar_ref s : sums) got["sums"].push_back(read(be, s)[0]);
        }
        if (first.empty())
            first = got;
        else
            CHECK(got == first);
    }
}

// --- whole completions ---------------------------------------------------------------------------

template <class T>
struct solved {
    als::report report;
    std::vector<double> fit;  // at every place
};
template <class T, class Run>
solved<T> solve(const als_case<T>& data, int rank, bool bias, Run run) {
    const int k = rank + bias;
    split_factor<T> u(random_factor<T>(data.rows.rows, k, 21), data.rows.rows, k, bias),
        v(random_factor<T>(data.rows.cols, k, 22), data.rows.cols, k, bias);
    solved<T> out;
    out.report = run(als::factors<T>{u.view(), v.view(), u.biases(), v.biases()});
    for (index i = 0; i < data.rows.rows; ++i)
        for (index j = 0; j < data.rows.cols; ++j) {
            double sum = bias ? u.at(i, 0) + v.at(j, 0) : 0;
            for (int c = bias; c < k; ++c) sum += u.at(i, c) * v.at(j, c);
            out.fit.push_back(sum);
        }
    return out;
}

struct whole_case {
    std::string name;
    als::options options;
    int rank;
    bool bias, weighted, held;
};
std::vector<whole_case> whole_cases() {
    std::vector<whole_case> all;
    const auto add = [&](const std::string& name, int rank, bool bias, bool weighted, bool held,
                         auto change) {
        als::options o;
        o.max_sweeps = 6;
        o.half.bias = bias;
        o.half.lam = 0.5;
        change(o);
        all.push_back({name, o, rank, bias, weighted, held});
    };
    add("given", 3, false, false, false, [](auto&) {});
    add("ratings", 4, true, true, true, [](auto& o) { o.begin = als::start::random; });
    add("cg", 5, true, false, true, [](auto& o) {
        o.begin = als::start::random;
        o.half.solver = inner::cg;
        o.half.lam_by_degree = true;
    });
    add("qcg", 4, false, true, false, [](auto& o) {
        o.begin = als::start::random;
        o.half.solver = inner::qcg;
    });
    add("spectral", 3, false, false, true, [](auto& o) {
        o.begin = als::start::spectral;
        o.half.lam = 0;
        o.balance = true;
    });
    add("spectral by degree", 2, false, false, false, [](auto& o) {
        o.begin = als::start::spectral;
        o.by_degree = true;
        o.lam_path = {0.5, 0.2};
        o.half.lam = 0;
        o.balance = true;
    });
    add("increment", 3, false, false, false, [](auto& o) {
        o.begin = als::start::increment;
        o.per_rank = 2;
        o.max_sweeps = 8;
        o.half.lam = 0;
        o.balance = true;
    });
    add("huber", 3, true, true, false, [](auto& o) { o.half.kind = loss::huber; });
    add("l1", 2, false, false, false, [](auto& o) { o.half.kind = loss::l1; });
    add("background", 3, false, true, true, [](auto& o) {
        o.begin = als::start::random;
        o.half.background = true;
    });
    return all;
}

template <class T>
void completions_like_the_cpu(double tol) {
    stand_in::load_eigen();
    for (const whole_case& c : whole_cases()) {
        std::vector<index> degrees(48, 14);
        for (std::size_t i = 0; i < degrees.size(); ++i) degrees[i] += static_cast<index>(i % 9);
        degrees[7] = 0;
        const als_case<T> data(degrees, 36, c.weighted, 3);
        interrupt signals;
        const auto here = solve(data, c.rank, c.bias, [&](const als::factors<T>& f) {
            return cpu::completion::complete<T>(data.problem(c.held), c.options, f, signals, {});
        });
        solved<T> first;
        for (const unsigned seed : {1u, 9u}) {
            const auto there = solve(data, c.rank, c.bias, [&](const als::factors<T>& f) {
                block_backend be(signals, seed);
                return cuda::complete_matrix<block_backend, T>(be, problem_of(data, c.held), c.options, f,
                                                               {});
            });
            CHECK(there.report.sweeps == here.report.sweeps && there.report.rank == here.report.rank);
            CHECK(there.report.status == here.report.status && there.report.retries == here.report.retries);
            CHECK_NEAR(there.report.rmse_train, here.report.rmse_train, tol * here.report.rmse_train);
            CHECK_NEAR(there.report.loss, here.report.loss, tol * here.report.loss);
            if (c.held)
                CHECK_NEAR(there.report.rmse_holdout, here.report.rmse_holdout,
                           tol * here.report.rmse_holdout);
            double scale = 0, worst = 0;
            for (std::size_t i = 0; i < here.fit.size(); ++i) {
                scale = std::max(scale, std::abs(here.fit[i]));
                const double gap = std::abs(here.fit[i] - there.fit[i]);
                worst = gap <= worst ? worst : gap;
            }
            CHECK_NEAR(worst, 0, tol * scale);
            if (!(worst <= tol * scale)) check::fail(c.name.c_str(), 0, "differs");
            if (seed == 1u)
                first = there;
            else
                CHECK(first.fit == there.fit);  // bits do not depend on the order of threads
        }
    }
}
TEST(completion_blocks_complete_like_the_cpu_f64) { completions_like_the_cpu<double>(1e-7); }
TEST(completion_blocks_complete_like_the_cpu_f32) { completions_like_the_cpu<float>(2e-2); }

TEST(completion_blocks_errors_and_predictions) {
    const auto e = random_entries<double>(mixed_degrees(50, 40, 1), 40, true, 4);
    for (const bool bias : {false, true})
        for (const int k : {2, 7, 33}) {
            split_factor<double> u(random_factor<double>(50, k, 1), 50, k, bias),
                v(random_factor<double>(40, k, 2), 40, k, bias);
            const als::factors<const double> f{u.view(), v.view(), u.biases(), v.biases()};
            interrupt signals;
            block_backend be(signals);
            std::vector<std::int32_t> rows;
            for (index i = 0; i < e.rows; ++i)
                rows.insert(rows.end(), static_cast<std::size_t>(e.indptr[i + 1] - e.indptr[i]),
                            static_cast<std::int32_t>(i));
            std::vector<double> fit(rows.size());
            cuda::predict_into<block_backend, double>(be, f, rows.data(), e.indices.data(),
                                                      {fit.data(), e.nnz()});
            double error = 0;
            for (std::size_t p = 0; p < rows.size(); ++p) {
                double want = bias ? u.at(rows[p], 0) + v.at(e.indices[p], 0) : 0;
                for (int c = bias; c < k; ++c) want += u.at(rows[p], c) * v.at(e.indices[p], c);
                CHECK_NEAR(fit[p], want, 1e-12);
                error += e.weights[p] * (e.values[p] - want) * (e.values[p] - want);
            }
            const double got = cuda::squared_error_of<block_backend, double>(be, stored_of(e), f);
            CHECK_NEAR(got, error, 1e-11 * error);
        }
}

// Launches and reads a sweep, from runs of two lengths.
TEST(completion_blocks_launches_and_reads) {
    stand_in::load_eigen();
    const als_case<double> data(mixed_degrees(60, 50, 3), 50, true, 4);
    const auto per_sweep = [&](bool held, auto change) {
        traffic counts[2];
        for (const int run : {0, 1}) {
            als::options o;
            o.tol = 0;
            o.half.lam = 0.3;
            o.finalize = false;
            o.max_sweeps = run == 0 ? 2 : 6;
            o.patience = 100;
            change(o);
            interrupt signals;
            block_backend be(signals);
            const auto done = solve(data, 3, o.half.bias, [&](const als::factors<double>& f) {
                return cuda::complete_matrix<block_backend, double>(be, problem_of(data, held), o, f, {});
            });
            CHECK(done.report.sweeps == o.max_sweeps);
            counts[run] = be.counts();
        }
        return std::pair{static_cast<double>(counts[1].launches - counts[0].launches) / 4,
                         static_cast<double>(counts[1].reads - counts[0].reads) / 4};
    };
    using pair = std::pair<double, double>;
    // Two half sweeps and what is saved.
    CHECK(per_sweep(false, [](auto&) {}) == pair{2 * 2 + 2, 1});
    CHECK(per_sweep(false, [](auto& o) { o.half.bias = true; }) == pair{2 * 3 + 2, 1});
    CHECK(per_sweep(false, [](auto& o) { o.half.solver = inner::cg; }) == pair{2 * 3 + 2, 1});
    // Eigenvectors: a Gram matrix, a read and a copy more for each half.
    CHECK(per_sweep(false, [](auto& o) { o.half.solver = inner::qcg; }) == pair{2 * 6 + 2, 3});
    // Balance: a Gram matrix and two products for each half. With lam = 0 the error of a double is known.
    CHECK(per_sweep(false, [](auto& o) { o.balance = true; }) == pair{2 * 2 + 2 + 2 * 4, 3});
    // Weights of each half, the median residual, and the loss.
    CHECK(per_sweep(false, [](auto& o) { o.half.kind = loss::huber; }) == pair{2 * 3 + 2 + 1 + 2, 3});
}

TEST(completion_blocks_bad_input) {
    const als_case<double> data(mixed_degrees(12, 10, 3), 10, true, 4);
    interrupt signals;
    block_backend be(signals);
    const auto make = [&](const cuda::completion::problem<double>& p, int rank) {
        block_kernels<double> kernels(be, p, rank, false);
    };
    make(problem_of(data), 3);
    auto p = problem_of(data);
    ++p.columns.nnz;
    CHECK_THROWS(make(p, 3), std::invalid_argument);
    als_case<double> broken = data;
    broken.columns.indices[3] = 12;
    CHECK_THROWS(make(problem_of(broken), 3), std::invalid_argument);
    broken = data;
    broken.holdout.indices[0] = -1;
    CHECK_THROWS(make(problem_of(broken), 3), std::invalid_argument);
    broken = data;
    std::swap(broken.rows.indptr[3], broken.rows.indptr[4]);
    CHECK_THROWS(make(problem_of(broken), 3), std::invalid_argument);
    make(problem_of(data), 720);
    CHECK_THROWS(make(problem_of(data), 740), std::invalid_argument);
    for (const auto& change :
         std::vector<void (*)(als::half_options&)>{[](als::half_options& o) { o.nonneg = true; },
                                                   [](als::half_options& o) { o.solver = inner::sketch; },
                                                   [](als::half_options& o) { o.solver = inner::lowprec; }}) {
        als::half_options o;
        change(o);
        split_factor<double> from(random_factor<double>(10, 3, 1), 10, 3, false),
            x(random_factor<double>(12, 3, 1), 12, 3, false);
        CHECK_THROWS(block_sweep(data.rows, from, x, o), std::invalid_argument);
    }
}

TEST(completion_blocks_no_rows) {
    entry_list<double> none;
    none.cols = 5;
    split_factor<double> from(random_factor<double>(5, 3, 1), 5, 3, false),
        x(std::vector<double>{}, 0, 3, false);
    const auto report = block_sweep(none, from, x, {});
    CHECK(report.squared_error == 0 && report.retries == 0 && report.inner_iterations == 0);
    entry_list<double> bare;  // rows, none with an entry
    bare.rows = 4;
    bare.cols = 5;
    bare.indptr.assign(5, 0);
    split_factor<double> y(random_factor<double>(4, 3, 2), 4, 3, false);
    CHECK(block_sweep(bare, from, y, {}).squared_error == 0);
    for (const double value : y.values) CHECK(value == 0);
}

}  // namespace
}  // namespace aitken::tests
