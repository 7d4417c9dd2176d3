// The driver of matrix completion over the CPU kernels, on a backend whose memory is locked outside of
// kernels: what it launches and reads, that it looks at nothing it did not download, and what its rules do.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "check.hpp"
#include "completion_cases.hpp"
#include "counting_backend.hpp"
#include "cpu/completion_kernels.hpp"
#include "drivers/completion.hpp"

using namespace aitken;
using namespace aitken::tests;

namespace {

using aitken::index;  // not the C library's
using als::side;

// cpu::completion::als_kernels with the device open while one runs.
template <class T>
class counting_als {
public:
    using value = T;

    counting_als(counting_backend& be, const als::problem<T>& problem, int rank, bool bias)
        : be_(be), kernels_(be, problem, rank, bias) {}

    matrix<T> stored(side s) { return kernels_.stored(s); }
    int rank() const { return kernels_.rank(); }
    void set_rank(int rank) { kernels_.set_rank(rank); }
    int capacity() const { return kernels_.capacity(); }
    index size(side s) const { return kernels_.size(s); }
    matrix<T> factor(side s) { return kernels_.factor(s); }
    matrix<T> panel(side s, int columns) { return kernels_.panel(s, columns); }
    matrix<const T> design(side s) const { return kernels_.design(s); }
    double weight(bool holdout) const { return kernels_.weight(holdout); }
    bool has_holdout() const { return kernels_.has_holdout(); }

#define AITKEN_FORWARD(name)                                                                    \
    template <class... Args>                                                                    \
        requires requires(cpu::completion::als_kernels<counting_backend, T>& k, Args... args) { \
            k.name(args...);                                                                    \
        }                                                                                       \
    void name(Args... args) {                                                                   \
        const counting_backend::kernel_scope inside(be_);                                       \
        kernels_.name(args...);                                                                 \
    }
    AITKEN_FORWARD(prepare)
    AITKEN_FORWARD(set_basis)
    AITKEN_FORWARD(half_sweep)
    AITKEN_FORWARD(squared_error)
    AITKEN_FORWARD(sample_residuals)
    AITKEN_FORWARD(gram)
    AITKEN_FORWARD(transform)
    AITKEN_FORWARD(row_norms)
    AITKEN_FORWARD(clip)
    AITKEN_FORWARD(randomise)
    AITKEN_FORWARD(spread)
    AITKEN_FORWARD(over_root_degree)
    AITKEN_FORWARD(save)
    AITKEN_FORWARD(load)
#undef AITKEN_FORWARD

private:
    counting_backend& be_;
    cpu::completion::als_kernels<counting_backend, T> kernels_;
};

static_assert(drivers::completion::AlsKernels<counting_als<double>>);
static_assert(drivers::completion::AlsKernels<counting_als<float>>);

struct outcome {
    als::report report;
    traffic counts;
};

template <class T>
outcome run(const als::problem<T>& problem, int rank, const als::options& options,
            const als::monitor& monitor = {}) {
    stand_in::load_eigen();
    interrupt signals;
    counting_backend be(signals);
    counting_als<T> kernels(be, problem, rank, options.half.bias);
    drivers::completion::als_solver<counting_backend, counting_als<T>> solver(be, kernels, options, monitor);
    outcome out;
    out.report = solver.run();
    out.counts = be.counts();
    return out;
}

als::options basic(als::start begin) {
    als::options o;
    o.begin = begin;
    o.tol = 0;
    o.half.lam = 0.2;
    o.max_sweeps = 6;
    o.half.inner_tol = 0;
    return o;
}

// Entries of a matrix of rank 2, without noise.
entry_list<double> exact_entries(index rows, index cols, unsigned seed) {
    entry_list<double> e = random_entries<double>(
        std::vector<index>(static_cast<std::size_t>(rows), cols / 2), cols, false, seed);
    for (index i = 0; i < rows; ++i)
        for (index p = e.indptr[i]; p < e.indptr[i + 1]; ++p) {
            const double x = 0.1 * static_cast<double>(i), y = 0.2 * static_cast<double>(e.indices[p]);
            e.values[p] = std::sin(x) * std::cos(y) + std::cos(2 * x) * std::sin(3 * y + 1);
        }
    return e;
}

TEST(completion_launches_and_reads_of_a_sweep) {
    const als_case<double> data(mixed_degrees(60, 50, 3), 50, true, 4);
    const auto per_sweep = [&](bool held, auto change) {
        traffic counts[2];
        for (const int which : {0, 1}) {
            als::options o = basic(als::start::random);
            o.finalize = false;
            o.max_sweeps = which == 0 ? 2 : 6;
            o.patience = 100;
            change(o);
            const outcome done = run(data.problem(held), 3, o);
            CHECK(done.report.sweeps == o.max_sweeps);
            counts[which] = done.counts;
        }
        return std::pair{static_cast<double>(counts[1].launches - counts[0].launches) / 4,
                         static_cast<double>(counts[1].reads - counts[0].reads) / 4};
    };
    using pair = std::pair<double, double>;
    // Two half sweeps, each with its design, and what is saved.
    CHECK(per_sweep(false, [](auto&) {}) == pair{2 * 2 + 1, 1});
    CHECK(per_sweep(false, [](auto& o) { o.half.solver = als::inner::cg; }) == pair{2 * 2 + 1, 1});
    // Eigenvectors: a Gram matrix and a read, and where they go.
    CHECK(per_sweep(false, [](auto& o) { o.half.solver = als::inner::qcg; }) == pair{2 * 4 + 1, 3});
    // A Gram matrix and two products for each half.
    CHECK(per_sweep(false, [](auto& o) { o.balance = true; }) == pair{2 * (2 + 3) + 1, 3});
    // The median residual, and the loss.
    CHECK(per_sweep(false, [](auto& o) { o.half.kind = als::loss::huber; }) == pair{2 * 2 + 3, 3});
    const auto held = per_sweep(true, [](auto&) {});
    CHECK(held.first <= 2 * 2 + 3 && held.second == 2);
}

TEST(completion_every_start_leaves_device_memory_alone) {
    const als_case<double> data(mixed_degrees(60, 50, 5), 50, false, 6);
    for (const als::start begin : {als::start::random, als::start::spectral, als::start::increment})
        for (const bool bias : {false, true}) {
            als::options o = basic(begin);
            o.half.bias = bias;
            o.by_degree = bias;
            o.patience = 100;
            const outcome done = run(data.problem(), 3, o);
            CHECK(std::isfinite(done.report.rmse_train));
            CHECK(done.report.rmse_train < 2.0);
            CHECK(done.report.why == als::ending::sweeps);
        }
}

TEST(completion_errors_that_solves_know_are_those_recomputed) {
    const als_case<double> data(mixed_degrees(60, 50, 7), 50, true, 8);
    for (const als::inner solver :
         {als::inner::exact, als::inner::cg, als::inner::qcg, als::inner::sketch, als::inner::lowprec})
        for (const bool bias : {false, true}) {
            als::options o = basic(als::start::random);
            o.half.solver = solver;
            o.half.bias = bias;
            o.finalize = false;
            const outcome done = run(data.problem(false), 4, o);
            CHECK_NEAR(done.report.history_train.back(), done.report.rmse_train,
                       1e-10 * done.report.rmse_train);
        }
}

TEST(completion_stops_at_rounding_and_finds_the_rank) {
    const entry_list<double> rows = exact_entries(40, 50, 9), columns = rows.transposed();
    const als::problem<double> problem{rows.view(), columns.view(), {}};
    als::options o = basic(als::start::increment);
    o.half.lam = 0;
    o.balance = true;
    o.max_sweeps = 300;
    const outcome done = run(problem, 6, o);
    CHECK(done.report.why == als::ending::floor);
    CHECK(done.report.status == status::converged);
    CHECK(done.report.rank == 2);
    CHECK(done.report.rmse_train < 1e-10);
}

TEST(completion_returns_the_best_factors_of_the_holdout) {
    // Few entries, noise and hardly a penalty: sweeps past the first few fit the noise.
    const entry_list<double> all = random_entries<double>(std::vector<index>(60, 24), 40, false, 11);
    entry_list<double> train, held_out;
    for (entry_list<double>* part : {&train, &held_out}) {
        part->rows = all.rows;
        part->cols = all.cols;
    }
    for (index i = 0; i < all.rows; ++i) {
        for (index p = all.indptr[i]; p < all.indptr[i + 1]; ++p) {
            entry_list<double>& part = p % 4 == 0 ? held_out : train;
            part.indices.push_back(all.indices[p]);
            part.values.push_back(all.values[p]);
        }
        train.indptr.push_back(train.nnz());
        held_out.indptr.push_back(held_out.nnz());
    }
    const entry_list<double> columns = train.transposed();
    als::options o = basic(als::start::random);
    o.half.lam = 1e-3;
    o.max_sweeps = 200;
    const outcome done = run(als::problem<double>{train.view(), columns.view(), held_out.view()}, 6, o);
    CHECK(done.report.why == als::ending::holdout);
    const std::vector<double>& held = done.report.history_holdout;
    CHECK(done.report.rmse_holdout == *std::min_element(held.begin(), held.end()));
    CHECK(done.report.rmse_holdout < held.back());
}

TEST(completion_monitor_stops) {
    const als_case<double> data(mixed_degrees(60, 50, 12), 50, false, 13);
    std::vector<index> seen;
    const outcome done = run(data.problem(), 3, basic(als::start::spectral), [&](const als::step& s) {
        seen.push_back(s.sweep);
        CHECK(s.rank == 3 && s.lam == 0.2 && std::isfinite(s.rmse_holdout));
        return s.sweep == 2;
    });
    CHECK(seen == std::vector<index>{1, 2});
    CHECK(done.report.status == status::stopped_by_callback);
}

TEST(completion_keeps_the_last_finite_factors) {
    als_case<double> data(mixed_degrees(60, 50, 14), 50, false, 15);
    als::problem<double> problem = data.problem(false);
    als::options o = basic(als::start::random);
    o.lam_path = {0.2, 0.2, std::numeric_limits<double>::quiet_NaN()};
    const outcome done = run(problem, 3, o);
    CHECK(done.report.why == als::ending::nonfinite);
    CHECK(done.report.status == status::nonfinite);
    CHECK(std::isfinite(done.report.rmse_train));
    CHECK_NEAR(done.report.rmse_train, done.report.history_train[1], 1e-10);
}

}  // namespace
