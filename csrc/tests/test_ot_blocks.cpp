// The CUDA kernels of the transport solver, run on the CPU as block programs: every function of the kernel
// set against the CPU kernels, then whole solves, with launches and host reads counted.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "ot_cases.hpp"

namespace aitken::tests {
namespace {

namespace ot = aitken::ot;

template <class T>
using block_kernels = cuda::ot_kernels<block_backend, T>;
template <class T>
constexpr double kernel_tol =
    sizeof(T) == 8 ? 1e-12 : 4e-7;  // entries are rounded to T, then summed in double

// --- the runner itself ---------------------------------------------------------------------------

// A program whose threads read their neighbour's word: right only with a barrier between.
template <bool Barrier>
struct shift_program : cuda::straight {
    static constexpr int threads = 64;
    static constexpr int closings = Barrier ? 2 : 1;
    struct shared {
        double word[threads];
    };
    double* out;
    explicit shift_program(double* out_) : out(out_) {}
    template <int Phase>
    void close(shared& s, local&, cuda::place at) const {
        if constexpr (Phase == 0) s.word[at.thread] = at.thread;
        if constexpr (Phase == closings - 1) out[at.thread] = s.word[(at.thread + 1) % threads];
    }
};

TEST(block_runner_exposes_a_missing_barrier) {
    block_runner runner;
    std::vector<double> with(64, -1), without(64, -1);
    runner.run(shift_program<true>(with.data()), 1);
    runner.run(shift_program<false>(without.data()), 1);
    int unwritten = 0;
    for (int t = 0; t < 64; ++t) {
        CHECK(with[t] == (t + 1) % 64);
        unwritten += std::isnan(without[t]);
    }
    CHECK(unwritten > 0);
}

TEST(tiling_covers_every_shape_once) {
    for (index n : {1, 31, 32, 33, 2000, 2047, 100000})
        for (index m : {1, 255, 256, 257, 2000, 100000}) {
            const cuda::tiling t(n, m);
            CHECK(t.strips >= 1 && t.strips <= 64 && t.col_tiles * 256 >= m && (t.col_tiles - 1) * 256 < m);
            CHECK(t.strips * t.per_strip >= t.groups && (t.strips - 1) * t.per_strip < t.groups);
        }
    CHECK(cuda::tiling(2000, 2000).blocks() >= 2 * 132);  // two blocks for every multiprocessor of an H100
}

// --- kernels -------------------------------------------------------------------------------------

template <class T>
void against_cpu() {
    unsigned seed = 0;
    each_case<T>([&](const ot_case<T>& k) {
        interrupt signals;
        block_backend blocks(signals, ++seed);
        cpu::backend host(signals);
        side<block_backend, block_kernels, T> left(blocks, k);
        side<cpu::backend, cpu::ot_kernels, T> right(host, k);
        // Recomputed entries differ in the last bit between two exponentials, so selections may.
        compare_kernels(left, right, k, kernel_tol<T>, k.stored);
        compare_soft_kernels(left, right, k, kernel_tol<T>);
    });
}
TEST(ot_blocks_match_cpu_kernels_f64) { against_cpu<double>(); }
TEST(ot_blocks_match_cpu_kernels_f32) { against_cpu<float>(); }

// Selections with a recomputed kernel, against loops over the same entries.
template <class T>
void recomputed_selection() {
    unsigned seed = 100;
    each_case<T>([&](const ot_case<T>& k) {
        if (k.stored) return;
        interrupt signals;
        block_backend blocks(signals, ++seed);
        side<block_backend, block_kernels, T> s(blocks, k);
        const auto r = s.rows(), c = s.cols();
        s.kernels.exp_pass(k.eps, s.put(k.x), s.put(k.y), r, c);
        const auto entry = [&](index i, index j) {
            const double z = (k.y[j] + k.x[i] - static_cast<double>(k.cost[i * k.ld + j])) * (1.0 / k.eps);
            return cuda::entry_exp<T>(z) * k.u[i] * k.v[j];
        };
        const doubles row_limit(k.u.size(), 0.3), col_limit(k.v.size(), 0.2);
        drivers::ot::host_csr out;
        s.kernels.compact(s.put(k.u), s.put(k.v), {{}, {}, s.put(row_limit), s.put(col_limit), false},
                          k.n * k.m, out);
        doubles dropped_rows(k.u.size(), 0.0), dropped_cols(k.v.size(), 0.0);
        std::map<std::uint64_t, int> bins;
        index expected = 0;
        std::vector<char> has_col(k.v.size(), 0);
        std::vector<std::map<index, double>> plan(k.u.size());
        for (index i = 0; i < k.n; ++i) {
            index best = 0;
            for (index j = 0; j < k.m; ++j) {
                const double p = entry(i, j);
                if (p > 0.2) plan[i][j] = p;
                if (p / k.u[i] > entry(i, best) / k.u[i]) best = j;
                if (p > col_limit[j] && p <= row_limit[i]) dropped_rows[i] += p;
                if (p <= col_limit[j]) dropped_cols[j] += p;
                ++bins[std::bit_cast<std::uint64_t>(p) >> 50];
            }
            if (plan[i].empty() && k.a[i] > 0) plan[i][best] = entry(i, best);
            for (const auto& e : plan[i]) has_col[e.first] = 1;
        }
        for (index j = 0; j < k.m; ++j) {
            if (has_col[j] || k.b[j] == 0) continue;
            index best = 0;
            for (index i = 1; i < k.n; ++i)
                if (entry(i, j) > entry(best, j)) best = i;
            plan[best][j] = entry(best, j);
        }
        for (index i = 0; i < k.n; ++i) {
            expected += static_cast<index>(plan[i].size());
            for (index e = out.indptr[i]; e < out.indptr[i + 1]; ++e) {
                const auto found = plan[i].find(out.indices[e]);
                CHECK(found != plan[i].end() && found->second == out.values[e]);
            }
        }
        CHECK(out.nnz() == expected);
        for (bool by_rows : {true, false}) {
            const auto mass = by_rows ? s.rows() : s.cols();
            s.kernels.mass_dropped(s.put(k.u), s.put(k.v), s.put(row_limit), s.put(col_limit), by_rows, mass);
            compare(s.get(mass), by_rows ? dropped_rows : dropped_cols, 1e-12, k.name + " mass dropped");
        }
        const vec<int> histogram = blocks.allocate<int>(1 << 13);
        s.kernels.histogram({}, s.put(k.u), s.put(k.v), 50, 0, histogram);
        const std::vector<int> counted = s.get(histogram);
        for (int b = 0; b < 1 << 13; ++b)
            if (counted[b] != 0 || bins.count(b)) CHECK(counted[b] == bins[b]);
    });
}
TEST(ot_blocks_select_from_recomputed_entries_f64) { recomputed_selection<double>(); }
TEST(ot_blocks_select_from_recomputed_entries_f32) { recomputed_selection<float>(); }

// Of equal largest entries the first is taken, also where a later thread meets an earlier one.
TEST(ot_blocks_largest_entry_of_equals) {
    for (bool rows : {true, false}) {
        ot_case<double> k = awkward<double>(rows ? 3 : 600, rows ? 600 : 3, 0, true, 1);
        for (index i = 0; i < k.n; ++i)
            for (index j = 0; j < k.m; ++j) {
                const index along = rows ? j : i;
                k.cost[i * k.m + j] = along == 2 || along == 256 || along == 513 ? 0.0 : 0.5;
            }
        const doubles x(k.u.size(), 0.0), y(k.v.size(), 0.0), u(k.u.size(), 1.0), v(k.v.size(), 1.0);
        const doubles row_limit(k.u.size(), rows ? 1e9 : 0.0), col_limit(k.v.size(), rows ? 0.0 : 1e9);
        k.a.assign(k.u.size(), 1.0 / static_cast<double>(k.n));
        k.b.assign(k.v.size(), 1.0 / static_cast<double>(k.m));
        interrupt signals;
        block_backend blocks(signals, 5);
        side<block_backend, block_kernels, double> s(blocks, k);
        const auto r = s.rows(), c = s.cols();
        s.kernels.exp_pass(k.eps, s.put(x), s.put(y), r, c);
        drivers::ot::host_csr out;
        s.kernels.compact(s.put(u), s.put(v), {{}, {}, s.put(row_limit), s.put(col_limit), true}, k.n * k.m,
                          out);
        for (index line = 0; line < 3; ++line) {
            if (rows)
                CHECK(out.indices[out.indptr[line]] == 2);
            else
                CHECK(out.indices[out.indptr[2] + line] == line);
        }
    }
}

// Row sums of many tiles take the other way to close a Schur product.
TEST(ot_blocks_schur_product_of_many_tiles) {
    const ot_case<float> k = awkward<float>(1400, 24300, 0, true, 5);
    CHECK(cuda::tiling(k.n, k.m).row_parts() > index{1} << 17);
    interrupt signals;
    block_backend blocks(signals);
    cpu::backend host(signals);
    side<block_backend, block_kernels, float> left(blocks, k);
    side<cpu::backend, cpu::ot_kernels, float> right(host, k);
    const auto run = [&](auto& s) {
        const auto r = s.rows(), c = s.cols(), w = s.rows();
        s.kernels.exp_pass(k.eps, s.put(k.x), s.put(k.y), r, c);
        s.kernels.schur_product(s.put(k.u), s.put(k.v), s.put(k.r), s.put(k.c), s.put(k.p), w, s.scalars[0]);
        return std::pair{s.get(w), s.read(1)};
    };
    const auto l = run(left), r = run(right);
    compare(l.first, r.first, 4e-6, "schur product");
    compare(l.second, r.second, 4e-6, "its quadratic form");
}

template <class T>
void passes_without_a_solver() {
    unsigned seed = 200;
    each_case<T>([&](ot_case<T> k) {
        interrupt signals;
        block_backend blocks(signals, ++seed);
        side<block_backend, block_kernels, T> s(blocks, k);
        const matrix<const T> cost{k.cost.data(), k.n, k.m, k.ld};
        const vec<const double> x{k.x.data(), k.n}, y{k.y.data(), k.m};

        const index first = k.n / 3, rows = k.n - first;
        const std::size_t size = static_cast<std::size_t>(rows * k.m);
        const vec<T> room = blocks.allocate<T>(rows * k.m);
        cuda::plan_rows(blocks, cuda::cost_entries<T>{s.cost()}, k.eps, vec<const double>(s.put(k.x)),
                        s.put(k.y), first, matrix<T>{room.data, rows, k.m, k.m});
        std::vector<T> expected(size);
        cpu::ot::plan_rows<T>(cost, k.eps, x, y, first, {expected.data(), rows, k.m, k.m}, 1);
        const std::vector<T> got = s.get(room);
        compare(doubles(got.begin(), got.end()), doubles(expected.begin(), expected.end()), kernel_tol<T>,
                k.name + " plan rows");

        const auto same_facts = [&](const ot::cost_facts& l, const ot::cost_facts& r) {
            CHECK(l.smallest == r.smallest && l.largest == r.largest && l.has_nan == r.has_nan);
            CHECK(l.has_negative_inf == r.has_negative_inf && l.has_forbidden == r.has_forbidden);
            CHECK(l.empty_row == r.empty_row && l.empty_col == r.empty_col);
        };
        same_facts(cuda::inspect(blocks, s.cost()), cpu::ot::inspect<T>(cost, 1));
        k.cost[(k.n - 1) * k.ld] = std::numeric_limits<T>::quiet_NaN();
        k.cost[k.m / 2] = -std::numeric_limits<T>::infinity();
        block_backend fresh(signals, seed);
        const matrix<const T> marred{k.cost.data(), k.n, k.m, k.ld};
        same_facts(cuda::inspect(fresh, marred), cpu::ot::inspect<T>(marred, 1));
    });
}
TEST(ot_blocks_plan_rows_and_inspect_f64) { passes_without_a_solver<double>(); }
TEST(ot_blocks_plan_rows_and_inspect_f32) { passes_without_a_solver<float>(); }

TEST(ot_blocks_compress) {
    ot_case<double> k = awkward<double>(70, 300, 5, false, 3);
    const matrix<const double> cost{k.cost.data(), k.n, k.m, k.ld};
    interrupt signals;
    block_backend blocks(signals);
    const vec<const double> x{k.x.data(), k.n}, y{k.y.data(), k.m}, a{k.a.data(), k.n}, b{k.b.data(), k.m};
    const auto got = cuda::compress(blocks, cuda::cost_entries<double>{cost}, k.eps, x, y, a, b, 1e-3);
    const auto expected = cpu::ot::compress<double>(cost, k.eps, x, y, a, b, 1e-3, 1);
    CHECK(got.indptr == expected.indptr && got.indices == expected.indices && got.indices.size() > 100);
    compare(got.values, expected.values, 1e-13, "compressed plan");
}

// --- whole solves --------------------------------------------------------------------------------

struct solution {
    ot::report report;
    doubles x, y;
};

template <class T>
struct as_problem {
    as_problem(const instance& p, bool stored)
        : cost(p.cost.begin(), p.cost.end()), plan(stored ? cost.size() : 0) {
        problem.cost = {cost.data(), p.n, p.m, p.m};
        problem.a = {p.a.data(), p.n};
        problem.b = {p.b.data(), p.m};
        problem.range = p.range;
        if (stored) problem.plan = {plan.data(), p.n, p.m, p.m};
    }
    std::vector<T> cost, plan;
    ot::problem<T> problem;
};

template <class T>
solution on_cpu(const instance& p, const ot::options& o, bool stored) {
    as_problem<T> given(p, stored);
    solution s{{}, doubles(p.n), doubles(p.m)};
    interrupt signals;
    s.report = cpu::ot::solve<T>(given.problem, o, {s.x.data(), p.n}, {s.y.data(), p.m}, signals, {});
    return s;
}
template <class T>
solution on_blocks(const instance& p, const ot::options& o, bool stored,
                   const std::function<void(const ot::step&, const traffic&)>& watch = {}) {
    as_problem<T> given(p, stored);
    solution s{{}, doubles(p.n), doubles(p.m)};
    interrupt signals;
    block_backend be(signals);
    cuda::ot_kernels<block_backend, T> kernels(be, given.problem);
    const ot::monitor monitor = [&](const ot::step& step) {
        if (watch) watch(step, be.counts());
        return false;
    };
    drivers::ot::solver solver(be, kernels, p.n, p.m, p.range, o, monitor);
    s.report = solver.run({s.x.data(), p.n}, {s.y.data(), p.m});
    return s;
}

template <class T>
void same_solution(const instance& p, const ot::options& o, bool stored, const char* what) {
    const solution gpu = on_blocks<T>(p, o, stored), cpu = on_cpu<T>(p, o, stored);
    const double value_tol = sizeof(T) == 8 ? 1e-8 : 1e-4;
    check::that(gpu.report.status == status::converged && cpu.report.status == status::converged, __FILE__,
                __LINE__, (std::string(what) + ": " + gpu.report.detail + " / " + cpu.report.detail).c_str());
    CHECK(gpu.report.err <= o.tol);
    CHECK_NEAR(gpu.report.linear, cpu.report.linear, value_tol);
    const auto [err, linear] = certificate(p, gpu.x, gpu.y, o.reg);
    CHECK(err <= (sizeof(T) == 8 ? 1.01 * o.tol + 1e-13 : o.tol + 1e-4));
    CHECK_NEAR(linear, gpu.report.linear, value_tol);
}

TEST(ot_blocks_solve_the_assignment_problem) {
    const instance p = assignment(60);
    using enum ot::linear_solver;
    same_solution<double>(p, settings(1.0 / 1200, ot::method::newton, automatic), true, "newton auto");
    same_solution<double>(p, settings(1.0 / 1200, ot::method::newton, jacobi), false,
                          "newton jacobi, recomputed");
    same_solution<double>(p, settings(1.0 / 1200, ot::method::newton, hybrid), true, "newton hybrid");
    same_solution<double>(p, settings(1.0 / 1200, ot::method::newton, direct), true, "newton direct");
    ot::options o = settings(1.0 / 1200, ot::method::newton, direct);
    o.sparsify = ot::sparsify::ssns;
    same_solution<double>(p, o, true, "ssns");
    same_solution<double>(p, settings(0.1, ot::method::sinkhorn, automatic), true, "sinkhorn");
}
TEST(ot_blocks_solve_clouds) {
    const instance p = clouds(70, 50);
    using enum ot::linear_solver;
    same_solution<double>(p, settings(1e-3, ot::method::automatic, automatic), true, "auto");
    same_solution<double>(p, settings(1e-3, ot::method::automatic, automatic), false, "auto, recomputed");
    same_solution<double>(p, settings(1e-3, ot::method::automatic, hybrid), true, "hybrid");
    same_solution<float>(p, settings(1e-2, ot::method::automatic, automatic, 1e-6), true, "float");
    same_solution<float>(p, settings(1e-2, ot::method::automatic, automatic, 1e-6), false,
                         "float, recomputed");
}
TEST(ot_blocks_solve_sns) {
    const instance p = assignment(60);
    ot::options o = settings(1.0 / 1200, ot::method::sns, ot::linear_solver::automatic, 1e-8);
    o.warmup = 700;
    o.density = 2.0 / 60;
    same_solution<double>(p, o, true, "sns");
}

TEST(ot_blocks_solve_unbalanced) {
    instance p = clouds(70, 50);
    for (double& e : p.b) e *= 3;
    using enum ot::linear_solver;
    constexpr double inf = std::numeric_limits<double>::infinity();
    const double prices[][2] = {{0.5, 0.5}, {inf, 0.1}, {0.02, inf}, {1e9, 1e9}};
    for (const auto& [rho_a, rho_b] : prices)
        for (const auto linear_solver : {automatic, jacobi, hybrid, direct})
            for (const auto method : {ot::method::automatic, ot::method::newton, ot::method::sinkhorn})
                for (bool stored : {true, false}) {
                    if (method == ot::method::sinkhorn && linear_solver != automatic) continue;
                    ot::options o =
                        settings(method == ot::method::sinkhorn ? 0.05 : 5e-3, method, linear_solver, 1e-9);
                    o.rho_a = rho_a;
                    o.rho_b = rho_b;
                    const solution gpu = on_blocks<double>(p, o, stored), cpu = on_cpu<double>(p, o, stored);
                    for (const solution* s : {&gpu, &cpu}) {
                        CHECK(s->report.status == status::converged && s->report.err <= o.tol);
                        const auto [err, mass] = soft_certificate(p, s->x, s->y, s->report.gauge, o);
                        // Potentials of size rho keep fewer digits of what the plan sees.
                        CHECK(err <= (rho_a == 1e9 ? 1e-6 : 1.01 * o.tol + 1e-13));
                        CHECK_NEAR(mass, s->report.mass, 1e-12 * mass);
                    }
                    CHECK_NEAR(gpu.report.linear, cpu.report.linear, 1e-8 * cpu.report.linear);
                }
}

TEST(ot_blocks_adjoint) {
    const instance p = clouds(70, 50);
    const ot::options solve_options =
        settings(1e-2, ot::method::automatic, ot::linear_solver::automatic, 1e-12);
    const solution s = on_cpu<double>(p, solve_options, true);
    doubles w(p.n), z(p.m), p_got(p.n), q_got(p.m);
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    double sum_w = 0, sum_z = 0;
    for (index i = 0; i < p.n; ++i) sum_w += w[i] = p.a[i] * normal(random);
    for (index j = 0; j < p.m; ++j) sum_z += z[j] = p.b[j] * normal(random);
    for (index j = 0; j < p.m; ++j) z[j] += (sum_w - sum_z) * p.b[j];
    for (bool stored : {true, false}) {
        as_problem<double> given(p, stored);
        ot::options o;
        o.reg = 1e-2;
        o.tol = 1e-10;
        interrupt signals;
        block_backend be(signals);
        cuda::ot_kernels<block_backend, double> kernels(be, given.problem);
        const ot::monitor silent;
        drivers::ot::solver solver(be, kernels, p.n, p.m, p.range, o, silent);
        doubles x = s.x, y = s.y;
        const auto report = solver.adjoint({x.data(), p.n}, {y.data(), p.m}, {w.data(), p.n}, {z.data(), p.m},
                                           {p_got.data(), p.n}, {q_got.data(), p.m});
        CHECK(report.status == status::converged && report.residual <= 1e-10);
        // H [p; q] = [w; z], by plain loops.
        doubles left(p.n, 0.0), right(p.m, 0.0);
        for (index i = 0; i < p.n; ++i)
            for (index j = 0; j < p.m; ++j) {
                const double e = std::exp((s.x[i] + s.y[j] - p.cost[i * p.m + j]) / o.reg);
                left[i] += e * (p_got[i] + q_got[j]);
                right[j] += e * (p_got[i] + q_got[j]);
            }
        compare(left, w, 1e-8, "adjoint rows");
        compare(right, z, 1e-8, "adjoint columns");
    }
}

// --- what a GPU would be asked for ---------------------------------------------------------------

TEST(ot_blocks_traffic_of_newton_steps) {
    const instance p = clouds(70, 50);
    long newton_steps = 0;
    traffic before;
    bool was_newton = false;
    double eps = 0;
    on_blocks<double>(
        p, settings(1e-3, ot::method::newton, ot::linear_solver::jacobi), true,
        [&](const ot::step& step, const traffic& now) {
            // Between two Newton steps of a stage whose first trial was accepted.
            if (was_newton && step.kind == ot::step_kind::newton && step.eps == eps && step.alpha == 1.0) {
                ++newton_steps;
                const long launches = now.launches - before.launches, reads = now.reads - before.reads;
                CHECK(launches <= 16 + 7 * step.cg);
                CHECK(launches >= 7 * step.cg);
                CHECK(reads <= 4 + (step.cg + 9) / 10);
                CHECK(now.uploads == before.uploads);
            }
            was_newton = step.kind == ot::step_kind::newton;
            eps = step.eps;
            before = now;
        });
    CHECK(newton_steps >= 5);
}

TEST(ot_blocks_traffic_of_sinkhorn) {
    const instance p = clouds(70, 50);
    traffic before;
    long looks = 0;
    const solution s =
        on_blocks<double>(p, settings(0.05, ot::method::sinkhorn, ot::linear_solver::automatic), true,
                          [&](const ot::step&, const traffic& now) {
                              if (looks++ > 0) {
                                  CHECK(now.launches - before.launches <= 10 * 5 + 1);
                                  CHECK(now.reads - before.reads == 1);
                              }
                              before = now;
                          });
    CHECK(looks >= 3);
    CHECK(s.report.counts.reads <= s.report.nit_sinkhorn / 10 + 5);
}

TEST(ot_blocks_traffic_of_compaction) {
    const ot_case<double> k = awkward<double>(70, 300, 5, true, 9);
    interrupt signals;
    block_backend be(signals);
    side<block_backend, block_kernels, double> s(be, k);
    const auto r = s.rows(), c = s.cols();
    s.kernels.exp_pass(k.eps, s.put(k.x), s.put(k.y), r, c);
    const auto u = s.put(k.u), v = s.put(k.v), rows = s.put(doubles(70, -1.0)),
               cols = s.put(doubles(300, -1.0));
    drivers::ot::host_csr out;
    for (int repeat = 0; repeat < 2; ++repeat) {  // the first time it also looks up which bins have mass
        const traffic before = be.counts();
        CHECK(s.kernels.compact(u, v, {{}, {}, rows, cols, false}, k.n * k.m, out));
        CHECK(out.nnz() == k.n * k.m);
        CHECK(be.counts().launches - before.launches == 5);
        CHECK(be.counts().reads - before.reads == (repeat == 0 ? 5 : 3));
        CHECK(be.counts().uploads - before.uploads == 1);
    }
}

}  // namespace
}  // namespace aitken::tests
