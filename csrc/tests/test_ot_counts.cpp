// What the transport driver asks of a GPU: launches and host reads per Sinkhorn iteration, CG iteration and
// Newton step, each measured as the difference of two runs that differ by a budget. And that its answers do
// not depend on looking at the error every tenth iteration only.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "counting_backend.hpp"
#include "ot_cases.hpp"

namespace {

using namespace aitken::ot;
using aitken::index;
using aitken::matrix;
using aitken::traffic;
using aitken::vec;
using aitken::tests::counting_backend;
using aitken::tests::counting_kernels;

// A problem in locked device memory, solved there.
template <class T>
struct device_problem {
    device_problem(index n, index m, unsigned seed) : be(signals), n(n), m(m) {
        std::mt19937 random(seed);
        std::uniform_real_distribution<double> unit(0.0, 1.0);
        for (index e = 0; e < n * m; ++e) cost.push_back(static_cast<T>(unit(random)));
        const auto weights = [&](index size) {
            std::vector<double> w;
            for (index i = 0; i < size; ++i) w.push_back(0.5 + unit(random));
            double sum = 0;
            for (double e : w) sum += e;
            for (double& e : w) e /= sum;
            return w;
        };
        a = weights(n);
        b = weights(m);
    }
    device_problem(const device_problem&) = delete;

    template <class V>
    vec<V> put(const std::vector<V>& host) {
        const vec<V> to = be.template allocate<V>(static_cast<index>(host.size()));
        be.upload(host.data(), to);
        return to;
    }
    std::vector<double> get(vec<double> from) {
        std::vector<double> host(static_cast<std::size_t>(from.size));
        be.download(vec<const double>(from), host.data());
        return host;
    }
    problem<T> on_device(bool stored) {
        const vec<T> k = stored ? be.template allocate<T>(n * m) : vec<T>{};
        return {{put(cost).data, n, m, m}, put(a), put(b), 1.0, {k.data, n, m, m}};
    }

    // Error of the returned potentials for soft marginals, over the mass of the plan.
    double soft_certificate(const options& o, double gauge) const {
        const aitken::tests::instance p{n, m, {cost.begin(), cost.end()}, a, b, 1.0};
        return aitken::tests::soft_certificate(p, x, y, gauge, o).first;
    }

    report solve(const options& o, bool stored = true) {
        counting_kernels<T> kernels(be, on_device(stored));
        const vec<double> dx = be.template allocate<double>(n), dy = be.template allocate<double>(m);
        be.counts() = {};
        const monitor silent;
        report out = aitken::drivers::ot::solver(be, kernels, n, m, 1.0, o, silent).run(dx, dy);
        x = get(dx);
        y = get(dy);
        return out;
    }

    // One Hessian system at the potentials x, y, by at most `budget` CG iterations.
    std::pair<adjoint_report, traffic> adjoint(const options& o, const std::vector<double>& w,
                                               const std::vector<double>& z) {
        counting_kernels<T> kernels(be, on_device(true));
        const vec<double> dx = put(x), dy = put(y), p = be.template allocate<double>(n),
                          q = be.template allocate<double>(m);
        const vec<double> dw = put(w), dz = put(z);
        be.counts() = {};
        const monitor silent;
        aitken::drivers::ot::solver driver(be, kernels, n, m, 1.0, o, silent);
        const adjoint_report out = driver.adjoint(dx, dy, dw, dz, p, q);
        return {out, be.counts()};
    }

    // ||P1 - a||_1 + ||P^T 1 - b||_1 from the returned potentials, by plain loops.
    double certificate(double eps) const {
        std::vector<double> r(a.size(), 0.0), c(b.size(), 0.0);
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < m; ++j) {
                const double p = std::exp((x[i] + y[j] - cost[i * m + j]) / eps);
                r[i] += p;
                c[j] += p;
            }
        double err = 0;
        for (index i = 0; i < n; ++i) err += std::fabs(r[i] - a[i]);
        for (index j = 0; j < m; ++j) err += std::fabs(c[j] - b[j]);
        return err;
    }

    aitken::interrupt signals;
    counting_backend be;
    index n, m;
    std::vector<T> cost;
    std::vector<double> a, b, x, y;
};

options with(double reg, double tol, method m, linear_solver s = linear_solver::jacobi) {
    options o;
    o.reg = reg;
    o.tol = tol;
    o.method = m;
    o.linear_solver = s;
    return o;
}

template <class T>
void every_method_meets_its_tolerance(double tol) {
    for (const bool stored : {true, false})
        for (const method m : {method::automatic, method::newton, method::sinkhorn, method::sns})
            for (const linear_solver s : {linear_solver::automatic, linear_solver::jacobi,
                                          linear_solver::hybrid, linear_solver::direct}) {
                if (s != linear_solver::automatic && (m == method::sinkhorn || m == method::sns)) continue;
                device_problem<T> p(43, 37, 5);
                options o = with(0.02, tol, m, s);
                o.density = 1.0;  // sns: the whole Hessian
                const report r = p.solve(o, stored);
                CHECK(r.status == aitken::status::converged);
                CHECK(r.err <= tol);
                CHECK_NEAR(r.err, p.certificate(0.02), 0.05 * tol + 1e-14);
                CHECK_NEAR(r.mass, 1.0, tol);
            }
}

TEST(counts_lagged_looks_still_converge_f64) { every_method_meets_its_tolerance<double>(1e-9); }
TEST(counts_lagged_looks_still_converge_f32) { every_method_meets_its_tolerance<float>(1e-6); }

TEST(counts_unbalanced_meets_its_tolerance) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    for (const bool stored : {true, false})
        for (const method m : {method::automatic, method::newton, method::sinkhorn})
            for (const linear_solver s : {linear_solver::automatic, linear_solver::jacobi,
                                          linear_solver::hybrid, linear_solver::direct})
                for (const auto& [rho_a, rho_b] : {std::pair{0.5, 0.5}, {inf, 0.2}, {0.01, inf}}) {
                    device_problem<double> p(43, 37, 5);
                    for (double& e : p.b) e *= 2;
                    options o = with(0.02, 1e-9, m, s);
                    o.rho_a = rho_a;
                    o.rho_b = rho_b;
                    const report r = p.solve(o, stored);
                    CHECK(r.status == aitken::status::converged);
                    CHECK(r.err <= o.tol);
                    CHECK(p.soft_certificate(o, r.gauge) <= 1.05 * o.tol + 1e-13);
                }
}

// A sweep and a column scaling per iteration; every tenth also measures the rows and is looked at once.
TEST(counts_sinkhorn_iteration) {
    const auto run = [](index budget) {
        device_problem<double> p(60, 50, 1);
        options o = with(0.5, 1e-300, method::sinkhorn);
        o.max_iterations = budget;
        return p.solve(o);
    };
    const report few = run(101), many = run(401);
    CHECK(few.nit_sinkhorn == 101 && many.nit_sinkhorn == 401);
    CHECK(many.n_exp == few.n_exp);
    CHECK(many.counts.launches - few.counts.launches == 2 * 300 + 30);
    CHECK(many.counts.reads - few.counts.reads == 30);
    CHECK(many.counts.uploads == few.counts.uploads);
}

// schur_product, cg_update, cg_jacobi, cg_direction; one look in ten. Nothing is uploaded.
TEST(counts_cg_iteration) {
    const auto run = [](index budget) {
        device_problem<double> p(60, 50, 2);
        p.solve(with(2e-3, 1e-9, method::newton));
        std::mt19937 random(3);
        std::uniform_real_distribution<double> unit(0.0, 1.0);
        std::vector<double> w(60), z(50);
        double sum_w = 0, sum_z = 0;
        for (double& e : w) sum_w += e = unit(random);
        for (double& e : z) sum_z += e = unit(random);
        for (double& e : w) e /= sum_w;
        for (double& e : z) e /= sum_z;
        options o = with(2e-3, 1e-100, method::newton);
        o.max_iterations = budget;
        return p.adjoint(o, w, z);
    };
    const auto [few, few_counts] = run(20);
    const auto [many, many_counts] = run(50);
    CHECK(few.nit_cg == 20 && many.nit_cg == 50);
    CHECK(many_counts.launches - few_counts.launches == 4 * 30);
    CHECK(many_counts.reads - few_counts.reads == 3);
    CHECK(many_counts.uploads == few_counts.uploads);
}

// As above, and the targets.
TEST(counts_unbalanced_sinkhorn_iteration) {
    const auto run = [](index budget) {
        device_problem<double> p(60, 50, 1);
        options o = with(0.5, 1e-300, method::sinkhorn);
        o.rho_a = o.rho_b = 0.3;
        o.max_iterations = budget;
        return p.solve(o);
    };
    const report few = run(101), many = run(401);
    CHECK(few.nit_sinkhorn == 101 && many.nit_sinkhorn == 401);
    CHECK(many.n_exp == few.n_exp);
    CHECK(many.counts.launches - few.counts.launches == 3 * 300 + 30);
    CHECK(many.counts.reads - few.counts.reads == 30);
    CHECK(many.counts.uploads == few.counts.uploads);
}

struct newton_steps {
    report first, last;
    index steps, cg, trials, factors;
    traffic counts;
};

// Two runs whose budgets differ by Newton steps of the last eps.
newton_steps difference(linear_solver s, double rho = std::numeric_limits<double>::infinity()) {
    const auto run = [s, rho](index budget) {
        device_problem<double> p(60, 50, 4);
        options o = with(2e-3, 1e-13, method::newton, s);
        o.rho_a = o.rho_b = rho;
        o.max_iterations = budget;
        return p.solve(o);
    };
    const report full = run(10000);
    newton_steps d{run(full.nit_sinkhorn + full.nit_newton - 3),
                   run(full.nit_sinkhorn + full.nit_newton - 1),
                   0,
                   0,
                   0,
                   0,
                   {}};
    d.steps = d.last.nit_newton - d.first.nit_newton;
    d.cg = d.last.nit_cg - d.first.nit_cg;
    d.trials = d.last.n_trials - d.first.n_trials;
    d.factors = d.last.n_factor - d.first.n_factor;
    d.counts = {d.last.counts.launches - d.first.counts.launches, d.last.counts.reads - d.first.counts.reads,
                d.last.counts.uploads - d.first.counts.uploads};
    CHECK(d.steps == 2);
    CHECK(d.last.nit_sinkhorn == d.first.nit_sinkhorn);
    CHECK(d.last.n_exp == d.first.n_exp);  // Newton steps take no exponential of size n m
    CHECK(d.trials >= 2);
    return d;
}

// Per step: row_sums and row_errors, cg_start, schur_columns, slope, accept, and two for the polish; 3 per
// trial; 4 per CG iteration less the two after its last. Looks: at the error, the start of CG, the slope, one
// per trial and one per ten CG iterations.
TEST(counts_newton_step_jacobi) {
    const newton_steps d = difference(linear_solver::jacobi);
    CHECK(d.cg > 0 && d.cg % counting_backend::check_every == 0);
    CHECK(d.counts.launches == (8 - 2) * d.steps + 3 * d.trials + 4 * d.cg);
    CHECK(d.counts.reads == 3 * d.steps + d.trials + d.cg / counting_backend::check_every);
    CHECK(d.counts.uploads == 0);
    CHECK(d.counts.reads <= 12 * d.steps + d.cg / counting_backend::check_every);
}

// As above, and soft_diagonals, the targets after the step and after its polish.
TEST(counts_newton_step_unbalanced) {
    const newton_steps d = difference(linear_solver::jacobi, 0.2);
    CHECK(d.cg > 0 && d.cg % counting_backend::check_every == 0);
    CHECK(d.counts.launches == (11 - 2) * d.steps + 3 * d.trials + 4 * d.cg);
    CHECK(d.counts.reads == 3 * d.steps + d.trials + d.cg / counting_backend::check_every);
    CHECK(d.counts.uploads == 0);
}

// As above, and the sparse plan: mass_limits and compact (one read), r and c to the host (two), the factor's
// solves there: residual down and result up per CG iteration, cg_close instead of cg_jacobi.
TEST(counts_newton_step_hybrid) {
    const newton_steps d = difference(linear_solver::hybrid);
    CHECK(d.factors == d.steps);
    CHECK(d.cg >= d.steps);
    CHECK(d.counts.launches == (12 - 2) * d.steps + 3 * d.trials + 4 * d.cg);
    CHECK(d.counts.reads == 6 * d.steps + d.trials + 2 * d.cg);
    CHECK(d.counts.uploads == d.cg);
}

// No CG: the plan, r, c, g_x, g_y down, the direction up.
TEST(counts_newton_step_direct) {
    const newton_steps d = difference(linear_solver::direct);
    CHECK(d.factors == d.steps && d.cg == 0);
    CHECK(d.counts.launches == 8 * d.steps + 3 * d.trials);
    CHECK(d.counts.reads == 7 * d.steps + d.trials);
    CHECK(d.counts.uploads == 2 * d.steps);
}

// A whole solve of an easy problem stays within a handful of looks: what a GPU waits for.
TEST(counts_whole_solve) {
    device_problem<double> p(60, 50, 6);
    const report r = p.solve(with(0.5, 1e-9, method::automatic, linear_solver::automatic));
    CHECK(r.status == aitken::status::converged);
    CHECK(r.n_exp == 2);  // the first kernel and the certificate
    CHECK(r.counts.reads <= r.nit_sinkhorn / counting_backend::check_every + 4);
    CHECK(r.counts.uploads == 0);
}

}  // namespace
