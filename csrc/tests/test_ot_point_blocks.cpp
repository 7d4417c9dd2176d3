// The CUDA kernels over clouds of points, run on the CPU as block programs: every function of the kernel set
// against the one over the matrix of the same costs, then solves, gradients and plans against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/ot.hpp"
#include "cuda/ot_kernels.hpp"
#include "ot_cases.hpp"

namespace aitken::tests {
namespace {

namespace ot = aitken::ot;

constexpr ot::metric metrics[] = {ot::metric::sqeuclidean, ot::metric::euclidean, ot::metric::cityblock};

// Two clouds in rows further apart than they are long; some points are common to both.
struct two_clouds {
    index n, m, d, ld;
    ot::metric metric;
    doubles x, y, a, b, cost;
    two_clouds(index n_, index m_, index d_, ot::metric metric_, unsigned seed)
        : n(n_), m(m_), d(d_), ld(d_ + 2), metric(metric_) {
        std::mt19937 random(seed);
        std::uniform_real_distribution<double> unit(0.0, 1.0);
        x.assign(static_cast<std::size_t>(n * ld), std::nan(""));
        y.assign(static_cast<std::size_t>(m * ld), std::nan(""));
        for (index i = 0; i < n; ++i)
            for (index k = 0; k < d; ++k) x[i * ld + k] = unit(random);
        for (index j = 0; j < m; ++j)
            for (index k = 0; k < d; ++k) y[j * ld + k] = 0.3 + unit(random);
        for (index k = 0; k < d; ++k) y[k] = x[k];
        for (auto [w, size] : {std::pair{&a, n}, std::pair{&b, m}}) {
            double sum = 0;
            for (index i = 0; i < size; ++i) w->push_back(0.1 + unit(random)), sum += w->back();
            for (double& e : *w) e /= sum;
        }
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < m; ++j) cost.push_back(distance(i, j));
    }
    double distance(index i, index j) const {
        double sum = 0;
        for (index k = 0; k < d; ++k) {
            const double apart = x[i * ld + k] - y[j * ld + k];
            sum += metric == ot::metric::cityblock ? std::fabs(apart) : apart * apart;
        }
        return metric == ot::metric::euclidean ? std::sqrt(sum) : sum;
    }
    double range() const { return *std::max_element(cost.begin(), cost.end()); }
    ot::point_cost view() const { return {metric, {x.data(), n, d, ld}, {y.data(), m, d, ld}}; }
};

template <class F>
void each_cloud(F&& run) {
    unsigned seed = 1;
    const index shapes[][3] = {{1, 1, 1}, {1, 9, 2}, {40, 33, 2}, {33, 300, 3}, {70, 260, 5}, {300, 20, 1}};
    for (const auto& s : shapes)
        for (ot::metric metric : metrics) run(two_clouds(s[0], s[1], s[2], metric, ++seed));
}

// What a kernel set over points and one over the matrix of their costs have in common.
template <class Source>
struct point_side {
    point_side(block_backend& be_, const Source& source, const ot_case<double>& k)
        : be(be_), a(put(k.a)), b(put(k.b)), plan(room(k)), kernels(be, source, a, b, plan), n(k.n), m(k.m) {
        for (scalar_ref& s : scalars) s = be.scalar();
    }
    template <class V>
    vec<V> put(const std::vector<V>& host) {
        const vec<V> to = be.template allocate<V>(static_cast<index>(host.size()));
        be.upload(host.data(), to);
        return to;
    }
    template <class V>
    std::vector<V> get(vec<V> from) {
        std::vector<V> host(static_cast<std::size_t>(from.size));
        be.download(vec<const V>(from), host.data());
        return host;
    }
    matrix<double> room(const ot_case<double>& k) {
        if (!k.stored) return {};
        const vec<double> r = put(doubles(static_cast<std::size_t>(k.n * (k.m + 3)), -7.0));
        return {r.data, k.n, k.m, k.m + 3};
    }
    vec<double> rows() { return be.template allocate<double>(n); }
    vec<double> cols() { return be.template allocate<double>(m); }
    doubles read(int count) {
        doubles out(static_cast<std::size_t>(count));
        be.read_many(std::span<const scalar_ref>(scalars, static_cast<std::size_t>(count)), out.data());
        return out;
    }

    block_backend& be;
    vec<const double> a, b;
    matrix<double> plan;
    cuda::ot_kernels<block_backend, double, Source> kernels;
    index n, m;
    scalar_ref scalars[6];
};

TEST(ot_point_blocks_match_the_matrix_of_their_costs) {
    each_cloud([](const two_clouds& c) {
        for (bool stored : {true, false}) {
            ot_case<double> k = awkward<double>(c.n, c.m, 0, stored, 3);
            k.cost = c.cost;
            k.a = c.a;
            k.b = c.b;
            interrupt signals;
            block_backend left_be(signals, 5), right_be(signals, 6);
            cuda::with_points(c.view(), [&](auto source) {
                point_side left(left_be, source, k);
                point_side right(right_be, cuda::cost_entries<double>{{k.cost.data(), k.n, k.m, k.m}}, k);
                const auto same = [&](const char* what, auto&& run) {
                    const results l = run(left), r = run(right);
                    for (std::size_t i = 0; i < l.size(); ++i)
                        compare(l[i], r[i], 1e-12, k.name + " of points: " + what);
                };
                for (bool weighted : {true, false}) {
                    same("log_sum_exp_rows", [&](auto& s) {
                        const auto out = s.rows();
                        s.kernels.log_sum_exp_rows(k.eps, s.put(k.y), weighted, out);
                        return results{s.get(out)};
                    });
                    same("log_sum_exp_cols", [&](auto& s) {
                        const auto out = s.cols();
                        s.kernels.log_sum_exp_cols(k.eps, s.put(k.x), weighted, out);
                        return results{s.get(out)};
                    });
                }
                same("scale_rows_pass", [&](auto& s) {
                    const auto x = s.rows(), cols = s.cols();
                    s.kernels.scale_rows_pass(k.eps, x, s.put(k.y), cols);
                    return results{s.get(x), s.get(cols)};
                });
                same("exp_pass", [&](auto& s) {
                    const auto r = s.rows(), cols = s.cols();
                    s.kernels.exp_pass(k.eps, s.put(k.x), s.put(k.y), r, cols);
                    return results{s.get(r), s.get(cols)};
                });
                same("cost_of_plan", [&](auto& s) {
                    s.kernels.cost_of_plan(s.put(k.u), s.put(k.v), s.scalars[0]);
                    return results{s.read(1)};
                });
                same("sinkhorn_sweep", [&](auto& s) {
                    const auto u = s.put(k.u), r = s.rows(), cols = s.cols();
                    s.kernels.sinkhorn_sweep(u, s.put(k.v), r, cols);
                    return results{s.get(u), s.get(r), s.get(cols)};
                });
                same("schur_product", [&](auto& s) {
                    const auto w = s.rows();
                    s.kernels.schur_product(s.put(k.u), s.put(k.v), s.put(k.r), s.put(k.c), s.put(k.p), w,
                                            s.scalars[0]);
                    return results{s.get(w), s.read(1)};
                });
                same("trial", [&](auto& s) {
                    const auto pq = s.rows(), ptp = s.cols();
                    s.kernels.trial(s.put(k.u), s.put(k.v), s.put(k.p), s.put(k.q), pq, ptp);
                    return results{s.get(pq), s.get(ptp)};
                });
                same("mass_dropped", [&](auto& s) {
                    const auto mass = s.rows();
                    s.kernels.mass_dropped(s.put(k.u), s.put(k.v), s.put(doubles(k.u.size(), 0.3)),
                                           s.put(doubles(k.v.size(), 0.2)), true, mass);
                    return results{s.get(mass)};
                });
            });
        }
    });
}

ot::options at(double reg, ot::method method) {
    ot::options o;
    o.reg = reg;
    o.method = method;
    return o;
}

// Whole solves, stored and recomputed, small and large dimensions; certificates by plain loops.
TEST(ot_point_blocks_solve_like_the_cpu) {
    unsigned seed = 30;
    for (index d : {2, 3, 6})
        for (ot::metric metric : metrics)
            for (auto method : {ot::method::automatic, ot::method::newton}) {
                const two_clouds c(60, 75, d, metric, ++seed);
                const ot::options o = at(0.02 * c.range(), method);
                interrupt signals;
                const ot::monitor silent;
                doubles x(60), y(75), px(60), py(75), kept(60 * 75);
                const ot::report expected =
                    cpu::ot::solve({c.view(), {c.a.data(), 60}, {c.b.data(), 75}, c.range(), {}, false}, o,
                                   {x.data(), 60}, {y.data(), 75}, signals, silent);
                for (bool stored : {true, false}) {
                    block_backend be(signals, seed);
                    cuda::with_points(c.view(), [&](auto source) {
                        const matrix<double> plan =
                            stored ? matrix<double>{kept.data(), 60, 75, 75} : matrix<double>{};
                        cuda::ot_kernels<block_backend, double, decltype(source)> kernels(
                            be, source, {c.a.data(), 60}, {c.b.data(), 75}, plan);
                        const ot::report got = drivers::ot::solver(be, kernels, 60, 75, c.range(), o, silent)
                                                   .run({px.data(), 60}, {py.data(), 75});
                        CHECK(got.status == status::converged && expected.status == status::converged);
                        CHECK_NEAR(got.linear, expected.linear, 1e-7);
                        const auto [err, linear] =
                            certificate({60, 75, c.cost, c.a, c.b, c.range()}, px, py, o.reg);
                        CHECK(err <= 1.01e-9);
                        CHECK_NEAR(linear, got.linear, 1e-9);
                    });
                }
                if (seed % 2) continue;
                // What is made from the potentials alone: rows, products, c-transforms, gradients, sparse
                // plans.
                block_backend be(signals, seed);
                const vec<const double> vx{x.data(), 60}, vy{y.data(), 75};
                cuda::with_points(c.view(), [&](auto source) {
                    doubles rows(20 * 75), there(20 * 75);
                    cuda::plan_rows(be, source, o.reg, vx, vy, 31, matrix<double>{there.data(), 20, 75, 75});
                    cpu::ot::plan_rows<double>(c.view(), o.reg, vx, vy, 31, {rows.data(), 20, 75, 75}, 1);
                    compare(there, rows, 1e-12, "rows of a plan between points");
                    std::vector<float> single(20 * 75), single_there(20 * 75);
                    cuda::plan_rows(be, source, o.reg, vx, vy, 31,
                                    matrix<float>{single_there.data(), 20, 75, 75});
                    cpu::ot::plan_rows<float>(c.view(), o.reg, vx, vy, 31, {single.data(), 20, 75, 75}, 1);
                    for (std::size_t e = 0; e < single.size(); ++e)
                        CHECK_NEAR(single_there[e], single[e], 1e-7 * single[e] + 1e-37);
                    doubles pull(static_cast<std::size_t>(60 * d)), pulled(pull.size());
                    cuda::plan_pull(be, source, o.reg, vx, vy, matrix<double>{pulled.data(), 60, d, d});
                    cpu::ot::plan_pull(c.view(), o.reg, vx, vy, {pull.data(), 60, d, d}, signals, 1);
                    compare(pulled, pull, 1e-11, "gradient for points");
                    const auto got =
                        cuda::compress(be, source, o.reg, vx, vy, {c.a.data(), 60}, {c.b.data(), 75}, 1e-3);
                    const auto sparse = cpu::ot::compress(c.view(), o.reg, vx, vy, {c.a.data(), 60},
                                                          {c.b.data(), 75}, 1e-3, signals, 1);
                    CHECK(got.indptr == sparse.indptr && got.indices == sparse.indices);
                    compare(got.values, sparse.values, 1e-12, "sparse plan between points");
                });
            }
}

// A point's distance to itself is exactly 0, in any metric and dimension.
TEST(ot_point_blocks_distance_to_itself_is_zero) {
    each_cloud([](const two_clouds& c) {
        cuda::with_points(c.view(), [&](auto source) {
            source.y = source.x;
            for (index i = 0; i < c.n; ++i) CHECK(source.at(source.row_at(i), source.column_at(i), i) == 0);
        });
    });
}

// No array of n x m numbers: memory grows with n + m.
TEST(ot_point_blocks_memory) {
    std::size_t bytes[2];
    for (index s : {0, 1}) {
        const index n = s == 0 ? 300 : 600;
        const two_clouds c(n, n, 3, ot::metric::sqeuclidean, 9);
        interrupt signals;
        block_backend be(signals);
        const ot::monitor silent;
        ot::options o = at(0.5, ot::method::newton);
        o.linear_solver = ot::linear_solver::jacobi;
        o.tol = 1e-6;
        cuda::with_points(c.view(), [&](auto source) {
            cuda::ot_kernels<block_backend, double, decltype(source)> kernels(be, source, {c.a.data(), n},
                                                                              {c.b.data(), n}, {});
            doubles x(static_cast<std::size_t>(n)), y(x);
            drivers::ot::solver(be, kernels, n, n, c.range(), o, silent).run({x.data(), n}, {y.data(), n});
        });
        bytes[s] = be.bytes();
    }
    CHECK(bytes[1] < 3 * bytes[0] && bytes[1] < std::size_t{600} * 600 * 8);
}

}  // namespace
}  // namespace aitken::tests
