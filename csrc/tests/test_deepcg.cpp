// Flexible conjugate directions: equal to plain CG where they must be, safe with models of no use, how each
// solve can end, the same bits for every thread count, batches on grids, and launches and reads per iteration
// on a backend whose memory the host cannot touch.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/api/deepcg.hpp"
#include "counting_backend.hpp"
#include "cpu/deepcg_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/deepcg.hpp"

namespace {

using namespace aitken;
using namespace aitken::deepcg;
using aitken::index;
using tests::counting_backend;
using numbers = std::vector<double>;

// Numbers in (-1, 1) from a multiplicative recurrence: the same on every machine.
numbers some_vector(index n, std::uint32_t seed) {
    numbers x;
    std::uint32_t state = seed * 2654435761u + 12345u;
    for (index i = 0; i < n; ++i) {
        state = state * 1664525u + 1013904223u;
        x.push_back(2.0 * (state >> 8) / double(1u << 24) - 1.0);
    }
    return x;
}
double dot(const numbers& x, const numbers& y) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
}
double norm(const numbers& x) { return std::sqrt(dot(x, x)); }

// Any function of a vector as a map.
class function final : public linear_map<double> {
public:
    function(index n, std::function<void(const double*, double*)> fn) : n_(n), fn_(std::move(fn)) {}
    using linear_map<double>::apply;
    index size() const override { return n_; }
    void apply(tall<const double> x, tall<double> y) override {
        ++calls;
        for (index j = 0; j < x.cols; ++j) fn_(x.col(j), y.col(j));
    }
    long calls = 0;

private:
    index n_;
    std::function<void(const double*, double*)> fn_;
};

// Five-point Laplacian on an m by m grid, plus a shift.
function laplacian(index m, double shift = 0) {
    return function(m * m, [m, shift](const double* x, double* y) {
        for (index i = 0; i < m; ++i)
            for (index j = 0; j < m; ++j) {
                const double* v = x + i * m + j;
                double sum = (4.0 + shift) * *v;
                if (j + 1 < m) sum -= v[1];
                if (j > 0) sum -= v[-1];
                if (i + 1 < m) sum -= v[m];
                if (i > 0) sum -= v[-m];
                y[i * m + j] = sum;
            }
    });
}
// Damped Jacobi sweeps from zero: linear, symmetric, definite, and far better than nothing.
function sweeps(linear_map<double>& a, int count) {
    return function(a.size(), [&a, count](const double* r, double* z) {
        numbers image(static_cast<std::size_t>(a.size()));
        std::fill_n(z, a.size(), 0.0);
        for (int s = 0; s < count; ++s) {
            a.apply(z, image.data());
            for (index i = 0; i < a.size(); ++i) z[i] += 0.2 * (r[i] - image[i]);
        }
    });
}
function noise(index n) {
    return function(n, [n, state = std::uint32_t{1}](const double*, double* z) mutable {
        for (index i = 0; i < n; ++i) {  // one stream for all vectors, or they would be related
            state = state * 1664525u + 1013904223u;
            z[i] = 2.0 * (state >> 8) / double(1u << 24) - 1.0;
        }
    });
}
function constant(index n, double value) {
    return function(n, [n, value](const double*, double* z) { std::fill_n(z, n, value); });
}

report solve(const cpu::deepcg::maps& maps, const numbers& b, numbers& x, const options& o,
             const monitor& monitor = {}) {
    interrupt signals;
    const index n = static_cast<index>(b.size());
    return cpu::deepcg::solve(maps, {b.data(), n}, {x.data(), n}, o, signals, monitor);
}
double true_residual(linear_map<double>& a, const numbers& x, const numbers& b) {
    numbers r(b.size());
    a.apply(x.data(), r.data());
    for (std::size_t i = 0; i < r.size(); ++i) r[i] = b[i] - r[i];
    return norm(r);
}

// The iterates of textbook CG.
std::vector<numbers> plain_cg(linear_map<double>& a, const numbers& b, int steps) {
    std::vector<numbers> out;
    numbers x(b.size(), 0.0), r = b, p = b, q(b.size());
    double rr = dot(r, r);
    for (int k = 0; k < steps; ++k) {
        a.apply(p.data(), q.data());
        const double alpha = rr / dot(p, q);
        for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] += alpha * p[i];
            r[i] -= alpha * q[i];
        }
        const double next = dot(r, r);
        for (std::size_t i = 0; i < x.size(); ++i) p[i] = r[i] + next / rr * p[i];
        rr = next;
        out.push_back(x);
    }
    return out;
}

TEST(deepcg_identity_is_cg) {
    const index m = 31, n = m * m;
    function a = laplacian(m), copy(n, [](const double* r, double* z) { std::copy_n(r, 31 * 31, z); });
    const numbers b = some_vector(n, 1);
    const auto expected = plain_cg(a, b, 50);
    for (const form how : {form::pcg, form::robust, form::published})
        for (linear_map<double>* model :
             {static_cast<linear_map<double>*>(nullptr), static_cast<linear_map<double>*>(&copy)})
            for (const bool enrich : {false, true}) {
                options o;
                o.form = how;
                o.enrich = enrich;
                o.n_previous = how == form::robust ? 1 : 2;
                o.rtol = 0;
                o.max_iterations = 50;
                o.zero_start = o.report_x = true;
                numbers x(b.size(), 0.0);
                double worst = 0;
                const report r = solve({&a, model}, b, x, o, [&](const step& s) {
                    const numbers& wanted = expected[static_cast<std::size_t>(s.iteration - 1)];
                    for (index i = 0; i < n; ++i) worst = std::max(worst, std::abs(s.x[i] - wanted[i]));
                    return false;
                });
                CHECK(r.iterations == 50);
                CHECK(r.status == status::max_iterations);
                CHECK(worst <= 1e-10);
                CHECK(r.replaced == 0);
            }
}

TEST(deepcg_answers) {
    const index m = 40, n = m * m;
    function a = laplacian(m), inverse = sweeps(a, 4), wild = noise(n);
    const numbers b = some_vector(n, 3);
    for (const form how : {form::pcg, form::robust, form::published})
        for (const bool zero : {true, false})
            for (const int previous : {0, 1, 2, 7}) {
                if (how == form::published && previous == 0) continue;
                options o;
                o.form = how;
                o.n_previous = previous;
                o.rtol = 1e-8;
                o.max_iterations = 4000;
                o.zero_start = zero;
                numbers x = zero ? numbers(b.size(), 0.0) : some_vector(n, 4);
                const report r = solve({&a, &inverse}, b, x, o);
                CHECK(r.status == status::converged);
                const double left = true_residual(a, x, b);
                CHECK(left <= 1e-8 * norm(b));
                CHECK_NEAR(r.residual, left, 1e-3 * left);
                CHECK(r.history.size() == static_cast<std::size_t>(r.iterations + 1));
                CHECK(r.model_applies >= r.iterations);
                CHECK(r.detail.empty());
            }
    // With as many steps kept as unknowns, any directions end in as many steps.
    function tiny = laplacian(4), any = noise(16);
    options o;
    o.enrich = false;
    o.n_previous = 16;
    o.rtol = 1e-10;
    o.zero_start = true;
    numbers x(16, 0.0);
    const report r = solve({&tiny, &any}, some_vector(16, 8), x, o);
    CHECK(r.status == status::converged);
    CHECK(r.iterations <= 17);
}

TEST(deepcg_models_of_no_use) {
    const index m = 40, n = m * m;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    function a = laplacian(m), good = sweeps(a, 6);
    const numbers b = some_vector(n, 5);
    const auto run = [&](linear_map<double>* model, form how, linear_map<double>* fallback, int window,
                         bool enrich = true) {
        options o;
        o.form = how;
        o.rtol = 1e-6;
        o.window = window;
        o.enrich = enrich;
        o.zero_start = true;
        numbers x(b.size(), 0.0);
        cpu::deepcg::maps maps{&a, model, fallback};
        const report r = solve(maps, b, x, o);
        CHECK(r.status == status::converged);
        CHECK(true_residual(a, x, b) <= 1e-6 * norm(b));
        return r;
    };
    const index cg = run(nullptr, form::pcg, nullptr, 0).iterations;
    const index alone = run(&good, form::pcg, nullptr, 0).iterations;
    CHECK(alone < cg / 2);
    for (int kind = 0; kind < 5; ++kind) {
        function model = kind == 0   ? constant(n, nan)
                         : kind == 1 ? constant(n, 0)
                         : kind == 2 ? constant(n, 1e300)
                         : kind == 3 ? noise(n)
                                     : function(n, [&good, n](const double* r, double* z) {
                                           good.apply(r, z);
                                           for (index i = 0; i < n; ++i) z[i] *= -1e-200;
                                       });
        const report safe = run(&model, form::robust, nullptr, 15);
        CHECK(safe.fallback_step == -1);
        CHECK(static_cast<double>(safe.iterations) <= 1.2 * static_cast<double>(cg));
        CHECK(safe.replaced == (kind < 2 ? safe.iterations : 0));
        const report saved = run(&model, form::robust, &good, 15);
        CHECK(saved.iterations <= alone + 20);
        CHECK(saved.fallback_step == (kind < 2 ? 3 : kind < 4 ? 15 : -1));
        CHECK(saved.given_up.empty() == (kind == 4));
        CHECK(saved.fallback_applies == (kind == 4 ? 0 : saved.iterations - saved.fallback_step));
    }
    // Without the residual among the directions, what cannot be used is replaced by it.
    function zero = constant(n, 0);
    CHECK(run(&zero, form::robust, nullptr, 0, false).iterations == cg);
    // In pcg form a model that breaks down is given up as well.
    function broken = constant(n, nan);
    const report r = run(&broken, form::pcg, &good, 0);
    CHECK(r.fallback_step == 0);
    CHECK(r.iterations == alone);
    // Too slow for a fast fallback, though it reduces the error: the identity.
    function copy(n, [n](const double* from, double* to) { std::copy_n(from, n, to); });
    options o;
    o.rtol = 1e-6;
    o.window = 10;
    o.fast_fallback = o.zero_start = true;
    numbers x(b.size(), 0.0);
    CHECK(solve({&a, &copy, &good}, b, x, o).fallback_step == 10);
    // The identity as fallback.
    cpu::deepcg::maps plain{&a, &broken};
    plain.plain_fallback = true;
    std::fill(x.begin(), x.end(), 0.0);
    const report back = solve(plain, b, x, o);
    CHECK(back.status == status::converged);
    CHECK(back.fallback_step == 3);
    CHECK(back.fallback_applies == 0 || back.status == status::converged);
}

TEST(deepcg_endings) {
    const index m = 20, n = m * m;
    function a = laplacian(m), indefinite = laplacian(m, -3), none = constant(n, 0);
    function poisoned = constant(n, std::numeric_limits<double>::quiet_NaN());
    const numbers b = some_vector(n, 5);
    const auto run = [&](linear_map<double>& matrix, linear_map<double>* model, form how, options o,
                         const monitor& monitor = {}) {
        o.form = how;
        o.zero_start = true;
        numbers x(b.size(), 0.0);
        const report r = solve({&matrix, model}, b, x, o, monitor);
        for (const double v : x) CHECK(std::isfinite(v));
        return r;
    };
    for (const form how : {form::pcg, form::robust, form::published}) {
        options o;
        CHECK(run(indefinite, nullptr, how, o).status == status::not_positive_definite);
        CHECK(run(poisoned, nullptr, how, o).status == status::nonfinite);
        o.max_iterations = 3;
        const report few = run(a, nullptr, how, o);
        CHECK(few.status == status::max_iterations);
        CHECK(few.iterations == 3);
        CHECK(run(a, nullptr, how, o, [](const step& s) { return s.iteration == 2; }).status ==
              status::stopped_by_callback);
        o.max_iterations = 100000;
        o.rtol = 1e-17;
        if (how == form::published) continue;  // goes on until the budget is spent
        const report most = run(a, nullptr, how, o);
        CHECK(most.status == status::stagnated);
        CHECK(most.iterations < 2000);
        CHECK(most.residual <= 1e-13 * norm(b));
    }
    options o;
    CHECK(run(a, &none, form::published, o).status == status::breakdown);
    CHECK(run(a, &poisoned, form::published, o).status == status::nonfinite);
    CHECK(run(a, &none, form::pcg, o).status == status::breakdown);
    // b = 0.
    numbers x(b.size(), 1.0);
    const report zero = solve({&a, nullptr}, numbers(b.size(), 0.0), x, o);
    CHECK(zero.status == status::converged);
    CHECK(zero.iterations == 0);
    CHECK(norm(x) == 0);
    // A pending signal ends the solve between two steps.
    interrupt pressed([] { return true; });
    o.max_iterations = 1000000;
    o.rtol = 0;
    o.recompute = 1000000;
    function slow(n, [&a](const double* r, double* z) {
        for (int k = 0; k < 2000; ++k) a.apply(r, z);
    });
    CHECK_THROWS(cpu::deepcg::solve({&a, &slow}, {b.data(), n}, {x.data(), n}, o, pressed, {}), interrupted);
}

TEST(deepcg_bits_do_not_depend_on_threads) {
    const index m = 300, n = m * m;
    function a = laplacian(m), inverse = sweeps(a, 2);
    const numbers b = some_vector(n, 9);
    for (const form how : {form::pcg, form::robust, form::published}) {
        std::vector<numbers> answers;
        for (const int threads : {1, 2, 3}) {
            options o;
            o.form = how;
            o.n_threads = threads;
            o.max_iterations = 12;
            o.rtol = 0;
            numbers x = some_vector(n, 10);
            solve({&a, &inverse}, b, x, o);
            answers.push_back(std::move(x));
        }
        CHECK(answers[0] == answers[1]);
        CHECK(answers[0] == answers[2]);
    }
}

// ---- grids
// --------------------------------------------------------------------------------------------------

TEST(deepcg_batch_on_a_grid) {
    namespace mg = multigrid;
    mg::box box;
    box.ndim = 2;
    box.n = {1, 37, 40};
    std::vector<std::uint8_t> flags(37 * 40, mg::fluid);
    for (index i = 10; i < 20; ++i)
        for (index j = 12; j < 30; ++j) flags[i * 40 + j] = mg::solid;
    for (index i = 13; i < 16; ++i)
        for (index j = 15; j < 20; ++j) flags[i * 40 + j] = mg::fluid;  // enclosed
    mg::coefficients given;
    given.flags = flags.data();
    for (int a : {1, 2}) given.open[a] = {true, true};
    const auto grid = cpu::multigrid::make_grid(box);
    grid->update(given);
    CHECK(grid->singular_components() == 1);
    const auto cycle = cpu::multigrid::make_cycle(grid, {});
    for (const bool compact : {false, true}) {
        const index n = compact ? grid->n_fluid() : box.cells(), count = 7;
        function wild = noise(n);
        for (const bool with_cycle : {true, false}) {
            const numbers b = some_vector(n * count, 2);
            options o;
            o.rtol = 1e-7;
            o.form = with_cycle ? form::pcg : form::robust;
            o.window = with_cycle ? 0 : 15;
            o.zero_start = true;
            std::vector<numbers> answers;
            for (const int threads : {1, 3}) {
                numbers x(b.size(), 0.0);
                cpu::deepcg::grid_problem p;
                p.grid = grid;
                if (with_cycle)
                    p.model.cycle = cycle.get();
                else
                    p.model.plain = &wild;
                p.has_fallback = !with_cycle;
                p.fallback.cycle = with_cycle ? nullptr : cycle.get();
                p.compact = compact;
                p.parallel = with_cycle;
                p.b = {b.data(), count, n, n};
                p.x = {x.data(), count, n, n};
                o.n_threads = threads;
                interrupt signals;
                const auto reports = cpu::deepcg::solve_grid(p, o, signals, {});
                CHECK(reports.size() == 7);
                for (const auto& r : reports) {
                    CHECK(r.solve.status == status::converged);
                    CHECK(r.solve.iterations <= (with_cycle ? 9 : 26));
                    CHECK(r.solve.residual <= 1e-7 * r.solve.norm_b);
                    CHECK(r.removed > 0);
                    CHECK((r.solve.fallback_step == 15) == !with_cycle);
                }
                if (with_cycle) answers.push_back(std::move(x));
            }
            if (with_cycle) CHECK(answers[0] == answers[1]);
        }
    }
}

// ---- launches and reads -----------------------------------------------------------------------------------

// The CPU kernels with the device open while one runs.
class device_kernels {
public:
    device_kernels(counting_backend& be, const cpu::deepcg::maps& maps) : be_(be), kernels_(be, maps) {}
    bool has_model() const { return kernels_.has_model(); }
    bool has_fallback() const { return kernels_.has_fallback(); }
    void use_fallback() { kernels_.use_fallback(); }
    tall<double> guarded(index n, index columns) {
        const vec<double> block = be_.allocate<double>(n * columns);
        const counting_backend::kernel_scope inside(be_);
        std::fill_n(block.data, block.size, 0.0);
        return {block.data, n, columns, n};
    }

#define AITKEN_FORWARD(name)                                                                \
    template <class... Args>                                                                \
        requires requires(cpu::deepcg_kernels& k, const Args&... args) { k.name(args...); } \
    void name(const Args&... args) {                                                        \
        const counting_backend::kernel_scope inside(be_);                                   \
        kernels_.name(args...);                                                             \
    }
    AITKEN_FORWARD(apply)
    AITKEN_FORWARD(apply_dot)
    AITKEN_FORWARD(model)
    AITKEN_FORWARD(dot)
    AITKEN_FORWARD(residual)
    AITKEN_FORWARD(energy)
    AITKEN_FORWARD(cg_residual)
    AITKEN_FORWARD(cg_advance)
    AITKEN_FORWARD(pair)
    AITKEN_FORWARD(turn)
    AITKEN_FORWARD(move)
    AITKEN_FORWARD(normalise)
    AITKEN_FORWARD(inspect)
    AITKEN_FORWARD(adopt)
    AITKEN_FORWARD(project)
    AITKEN_FORWARD(subtract)
    AITKEN_FORWARD(measure)
    AITKEN_FORWARD(step)
#undef AITKEN_FORWARD

private:
    counting_backend& be_;
    cpu::deepcg_kernels kernels_;
};

report solve_on_device(const cpu::deepcg::maps& maps, const numbers& b, numbers& x, const options& o,
                       const monitor& monitor = {}) {
    interrupt signals;
    counting_backend be(signals);
    const index n = static_cast<index>(b.size());
    const vec<double> db = be.allocate<double>(n), dx = be.allocate<double>(n);
    be.upload(b.data(), db);
    be.upload(x.data(), dx);
    device_kernels kernels(be, maps);
    drivers::deepcg::solver<counting_backend, device_kernels> driver(be, kernels, n, o, monitor);
    be.counts() = {};
    const report out = driver.run(db, dx);
    be.download(vec<const double>(dx), x.data());
    return out;
}

// By how much the counts of 30 iterations exceed those of 20, and the same bits as on the CPU.
void check_traffic(const cpu::deepcg::maps& maps, options o, long launches, long products,
                   bool watched = false) {
    const numbers b = some_vector(maps.matrix->size(), 2);
    traffic counts[2];
    index matvecs[2];
    const monitor silent, watch = [](const step&) { return false; };
    for (int k = 0; k < 2; ++k) {
        o.max_iterations = 20 + 10 * k;
        o.rtol = 0;
        o.zero_start = true;
        numbers x(b.size(), 0.0), y = x;
        const report r = solve_on_device(maps, b, x, o, watched ? watch : silent);
        CHECK(r.iterations == o.max_iterations);
        counts[k] = r.counts;
        matvecs[k] = r.matvecs;
        solve(maps, b, y, o);
        CHECK(x == y);
    }
    CHECK(counts[1].launches - counts[0].launches == 10 * launches);
    CHECK(counts[1].reads - counts[0].reads == 10);
    CHECK(counts[1].uploads == 0);
    CHECK(matvecs[1] - matvecs[0] == 10 * products);
}

TEST(deepcg_launches_and_reads) {
    const index m = 40;
    function a = laplacian(m), inverse = sweeps(a, 1);
    const cpu::deepcg::maps maps{&a, &inverse};
    options o;
    o.form = form::pcg;  // a launch for the model, one per product, and the passes that the driver states
    check_traffic(maps, o, 4 + 2, 1);
    check_traffic(maps, o, 5 + 2, 1, true);
    o.form = form::robust;
    check_traffic(maps, o, 10 + 3, 2);
    o.enrich = false;
    check_traffic(maps, o, 7 + 2, 1);
    o.form = form::published;
    check_traffic(maps, o, 6 + 3, 2);
}

}  // namespace
