// Transport problems of awkward shapes, and one comparison of two kernel sets over all their functions:
// block programs against CPU kernels (test_ot_blocks.cpp), GPU against block programs
// (cuda/test_ot_device.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/api/ot.hpp"
#include "drivers/ot.hpp"

namespace aitken::tests {

using doubles = std::vector<double>;
using results = std::vector<doubles>;

template <class T>
struct ot_case {
    index n, m, ld;
    bool stored;
    std::string name;
    std::vector<T> cost;     // n x ld, padding NaN: it must never be read
    doubles a, b, x, y;      // weights and potentials
    doubles u, v, r, c;      // positive vectors of rows, cols, rows, cols
    doubles p, q, g_x, g_y;  // signed ones
    double eps = 0.05;
};

// A tenth of the bins have no mass, some 1e-16 of it, and a tenth of the pairs is forbidden; one row and one
// column altogether.
template <class T>
ot_case<T> awkward(index n, index m, index padding, bool stored, unsigned seed) {
    std::mt19937 random(seed);
    const auto unit = [&] { return std::uniform_real_distribution<double>(0.0, 1.0)(random); };
    ot_case<T> k;
    k.n = n;
    k.m = m;
    k.ld = m + padding;
    k.stored = stored;
    k.name = std::to_string(n) + "x" + std::to_string(m) + (stored ? " stored f" : " recomputed f") +
             std::to_string(8 * sizeof(T));
    k.cost.assign(static_cast<std::size_t>(n * k.ld), std::numeric_limits<T>::quiet_NaN());
    constexpr T forbidden = std::numeric_limits<T>::infinity();
    for (index i = 0; i < n; ++i)
        for (index j = 0; j < m; ++j)
            k.cost[i * k.ld + j] = n * m > 30 && unit() < 0.1 ? forbidden : static_cast<T>(unit());
    if (n > 20 && m > 4) {
        for (index j = 0; j < m; ++j) k.cost[(n - 2) * k.ld + j] = forbidden;
        for (index i = 0; i < n; ++i) k.cost[i * k.ld + m - 2] = forbidden;
    }
    const auto weights = [&](index size) {
        doubles w(static_cast<std::size_t>(size));
        double sum = 0;
        for (double& e : w) {
            const double kind = unit();
            sum += e = size < 4 ? 1.0 : kind < 0.1 ? 0.0 : kind < 0.15 ? 1e-16 : 0.1 + unit();
        }
        for (double& e : w) e /= sum;
        return w;
    };
    const auto uniform = [&](index size, double low, double high) {
        doubles w(static_cast<std::size_t>(size));
        for (double& e : w) e = low + (high - low) * unit();
        return w;
    };
    k.a = weights(n);
    k.b = weights(m);
    k.x = uniform(n, -0.1, 0.1);
    k.y = uniform(m, -0.1, 0.1);
    for (index i = 0; i < n; ++i)
        if (k.a[i] == 0) k.x[i] = -std::numeric_limits<double>::infinity();
    for (index j = 0; j < m; ++j)
        if (k.b[j] == 0) k.y[j] = -std::numeric_limits<double>::infinity();
    k.u = uniform(n, 0.5, 2.0);
    k.v = uniform(m, 0.5, 2.0);
    k.r = uniform(n, 0.01, 1.0);
    k.c = uniform(m, 0.01, 1.0);
    if (m > 5) k.c[3] = 0;
    k.p = uniform(n, -1.0, 1.0);
    k.q = uniform(m, -1.0, 1.0);
    k.g_x = uniform(n, -1.0, 1.0);
    k.g_y = uniform(m, -1.0, 1.0);
    return k;
}

// The shapes: below, at and across a tile of 32 x 256, several strips of one and of two groups of rows, and
// one row or column.
template <class T, class F>
void each_case(F&& run) {
    unsigned seed = 7;
    const index shapes[][3] = {{1, 1, 0},    {1, 7, 3},    {9, 1, 0},    {33, 5, 2},
                               {32, 256, 0}, {70, 300, 5}, {597, 43, 1}, {2100, 9, 0}};
    for (const auto& s : shapes)
        for (bool stored : {true, false}) run(awkward<T>(s[0], s[1], s[2], stored, ++seed));
}

// One kernel set with its memory and a problem in it.
template <class Be, template <class> class Kernels, class T>
class side {
public:
    side(Be& be_, const ot_case<T>& k)
        : be(be_),
          cost_{put(k.cost).data, k.n, k.m, k.ld},
          a_(put(k.a)),
          b_(put(k.b)),
          plan_(make_plan(k)),
          kernels(be, aitken::ot::problem<T>{cost_, a_, b_, 1.0, plan_}) {
        for (scalar_ref& s : scalars) s = be.scalar();
    }

    template <class V>
    vec<V> put(const std::vector<V>& host) {
        const vec<V> to = be.template allocate<V>(static_cast<index>(host.size()));
        write(host, to);
        return to;
    }
    template <class V>
    std::vector<V> get(vec<V> from) {
        std::vector<V> host(static_cast<std::size_t>(from.size));
        be.download(vec<const V>(from), host.data());
        return host;
    }
    vec<double> rows() { return be.template allocate<double>(cost_.rows); }
    vec<double> cols() { return be.template allocate<double>(cost_.cols); }
    doubles read(int count) {
        doubles out(static_cast<std::size_t>(count));
        be.read_many(std::span<const scalar_ref>(scalars, static_cast<std::size_t>(count)), out.data());
        return out;
    }

    matrix<const T> cost() const { return cost_; }
    vec<const double> a() const { return a_; }
    vec<const double> b() const { return b_; }

    // The stored kernel, padding included, so that it can be made equal on two sides.
    std::vector<T> plan() { return get(vec<T>{plan_.data, plan_.rows * plan_.ld}); }
    void set_plan(const std::vector<T>& host) { write(host, {plan_.data, static_cast<index>(host.size())}); }

    Be& be;

private:
    template <class V>
    void write(const std::vector<V>& host, vec<V> to) {
        if constexpr (requires { be.upload(host.data(), to); })
            be.upload(host.data(), to);
        else  // the CPU backend uploads doubles alone
            std::copy(host.begin(), host.end(), to.data);
    }
    matrix<T> make_plan(const ot_case<T>& k) {
        if (!k.stored) return {};
        constexpr index padding = 3;
        const vec<T> room = put(std::vector<T>(static_cast<std::size_t>(k.n * (k.m + padding)), T(-7)));
        return {room.data, k.n, k.m, k.m + padding};
    }
    matrix<const T> cost_;
    vec<const double> a_, b_;
    matrix<T> plan_;

public:
    Kernels<T> kernels;
    scalar_ref scalars[6];
};

inline void compare(const doubles& left, const doubles& right, double tol, const std::string& what) {
    CHECK(left.size() == right.size());
    double size = 0, worst = 0;
    std::size_t where = 0;
    for (double e : right)
        if (std::isfinite(e)) size = std::max(size, std::fabs(e));
    for (std::size_t i = 0; i < left.size(); ++i) {
        const bool same = left[i] == right[i] || (std::isnan(left[i]) && std::isnan(right[i]));
        const double apart = same ? 0.0 : std::fabs(left[i] - right[i]);
        if (!(apart <= worst)) worst = apart, where = i;
    }
    check::that(
        worst <= tol * size, __FILE__, __LINE__,
        (what + " differs by " + std::to_string(worst / size) + " at " + std::to_string(where) + ": " +
         (left.empty() ? "" : std::to_string(left[where]) + " vs " + std::to_string(right[where])))
            .c_str());
}

// Every function of the kernel concept on both sides from the same inputs. `tol`: relative to the largest
// entry of each result. With `exact`, entries are equal bits on both sides wherever they come from.
template <class Left, class Right, class T>
void compare_kernels(Left& left, Right& right, const ot_case<T>& k, double tol, bool exact) {
    const auto same = [&](const char* what, auto&& run, double within) {
        const std::vector<doubles> l = run(left), r = run(right);
        for (std::size_t i = 0; i < l.size(); ++i)
            compare(l[i], r[i], within, k.name + " " + what + " result " + std::to_string(i));
    };
    constexpr double vector_tol = 1e-12;

    same(
        "zero_potentials",
        [&](auto& s) {
            const auto x = s.rows(), y = s.cols();
            s.kernels.zero_potentials(x, y);
            return results{s.get(x), s.get(y)};
        },
        0);
    same(
        "mask_potentials",
        [&](auto& s) {
            const auto x = s.put(k.p), y = s.put(k.q);
            s.kernels.mask_potentials(x, y);
            return results{s.get(x), s.get(y)};
        },
        0);
    for (bool weighted : {true, false}) {
        same(
            "log_sum_exp_rows",
            [&](auto& s) {
                const auto out = s.rows();
                s.kernels.log_sum_exp_rows(k.eps, s.put(k.y), weighted, out);
                return results{s.get(out)};
            },
            tol);
        same(
            "log_sum_exp_cols",
            [&](auto& s) {
                const auto out = s.cols();
                s.kernels.log_sum_exp_cols(k.eps, s.put(k.x), weighted, out);
                return results{s.get(out)};
            },
            tol);
    }
    same(
        "scale_rows_pass",
        [&](auto& s) {
            const auto x = s.rows(), r = s.rows(), c = s.cols();
            s.kernels.scale_rows_pass(k.eps, x, s.put(k.y), c);
            s.kernels.row_sums(s.put(doubles(k.u.size(), 1.0)), s.put(doubles(k.v.size(), 1.0)), r);
            return results{s.get(x), s.get(c), s.get(r)};
        },
        tol);
    same(
        "exp_pass",
        [&](auto& s) {
            const auto r = s.rows(), c = s.cols();
            s.kernels.exp_pass(k.eps, s.put(k.x), s.put(k.y), r, c);
            return results{s.get(r), s.get(c)};
        },
        tol);
    if (k.stored) {
        const std::vector<T> l = left.plan(), r = right.plan();
        const index ld = static_cast<index>(l.size()) / k.n;
        doubles of_l, of_r;
        for (index i = 0; i < k.n; ++i)
            for (index j = 0; j < ld; ++j) {
                const index e = i * ld + j;
                if (j < k.m)
                    of_l.push_back(l[e]), of_r.push_back(r[e]);
                else
                    CHECK(l[e] == T(-7) && r[e] == T(-7));  // nobody writes between the rows
            }
        compare(of_l, of_r, tol, k.name + " stored kernel");
        right.set_plan(l);
    }

    same(
        "cost_of_plan",
        [&](auto& s) {
            s.kernels.cost_of_plan(s.put(k.u), s.put(k.v), s.scalars[0]);
            return results{s.read(1)};
        },
        tol);
    same(
        "sinkhorn_sweep",
        [&](auto& s) {
            const auto u = s.put(k.u), r = s.rows(), c = s.cols();
            s.kernels.sinkhorn_sweep(u, s.put(k.v), r, c);
            return results{s.get(u), s.get(r), s.get(c)};
        },
        tol);
    same(
        "row_sums and col_sums",
        [&](auto& s) {
            const auto r = s.rows(), c = s.cols();
            s.kernels.row_sums(s.put(k.u), s.put(k.v), r);
            s.kernels.col_sums(s.put(k.u), s.put(k.v), c);
            return results{s.get(r), s.get(c)};
        },
        tol);
    same(
        "schur_product",
        [&](auto& s) {
            const auto w = s.rows();
            s.kernels.schur_product(s.put(k.u), s.put(k.v), s.put(k.r), s.put(k.c), s.put(k.p), w,
                                    s.scalars[0]);
            return results{s.get(w), s.read(1)};
        },
        10 * tol);
    same(
        "schur_rhs",
        [&](auto& s) {
            const auto q = s.put(k.g_x);
            s.kernels.schur_rhs(s.put(k.u), s.put(k.v), s.put(k.c), s.put(k.g_y), q);
            return results{s.get(q)};
        },
        10 * tol);
    same(
        "schur_columns",
        [&](auto& s) {
            const auto dy = s.cols();
            s.kernels.schur_columns(s.put(k.u), s.put(k.v), s.put(k.p), s.put(k.c), s.put(k.g_y), dy);
            return results{s.get(dy)};
        },
        10 * tol);
    same(
        "trial",
        [&](auto& s) {
            const auto pq = s.rows(), ptp = s.cols();
            s.kernels.trial(s.put(k.u), s.put(k.v), s.put(k.p), s.put(k.q), pq, ptp);
            return results{s.get(pq), s.get(ptp)};
        },
        10 * tol);
    same(
        "plan_times",
        [&](auto& s) {
            const auto rows = s.rows(), cols = s.cols();
            s.kernels.plan_times(s.put(k.u), s.put(k.v), s.put(k.q), rows);
            s.kernels.plan_t_times(s.put(k.u), s.put(k.v), s.put(k.p), cols);
            return results{s.get(rows), s.get(cols)};
        },
        10 * tol);

    // Limits near the entries themselves, so that every branch is taken.
    const doubles row_limit(k.u.size(), 0.3), col_limit(k.v.size(), 0.2);
    if (exact)
        for (bool by_rows : {true, false})
            same(
                "mass_dropped",
                [&](auto& s) {
                    const auto out = by_rows ? s.rows() : s.cols();
                    s.kernels.mass_dropped(s.put(k.u), s.put(k.v), s.put(row_limit), s.put(col_limit),
                                           by_rows, out);
                    return results{s.get(out)};
                },
                tol);
    if (exact) compare_selection(left, right, k, same);

    same(
        "mass_limits",
        [&](auto& s) {
            const auto r = s.rows(), c = s.cols();
            s.kernels.mass_limits(0.01, s.put(k.r), s.put(k.c), r, c);
            return results{s.get(r), s.get(c)};
        },
        0);
    same(
        "inverse_roots",
        [&](auto& s) {
            const auto out = s.cols();
            s.kernels.inverse_roots(s.put(k.c), out);
            return results{s.get(out)};
        },
        0);
    same(
        "bisection",
        [&](auto& s) {
            const auto safe = s.rows(), probe = s.rows();
            s.kernels.bisect_start(0.4, safe, probe);
            results out{s.get(safe), s.get(probe)};
            for (int step = 0; step < 3; ++step) s.kernels.bisect_step(0.4, s.put(k.r), step, safe, probe);
            out.push_back(s.get(safe));
            out.push_back(s.get(probe));
            return out;
        },
        0);
    same(
        "scale_columns",
        [&](auto& s) {
            const auto c = s.put(k.c), v = s.put(k.v);
            s.kernels.scale_columns(c, v, s.scalars[0], s.scalars[1]);
            return results{s.get(c), s.get(v), s.read(2)};
        },
        vector_tol);
    for (bool vanishing : {false, true})
        same(
            "row_errors",
            [&](auto& s) {
                doubles r = k.r;
                if (vanishing) r[0] = 0;
                const auto q = s.rows();
                s.kernels.row_errors(s.put(r), s.put(k.u), q, s.scalars[0], s.scalars[1], s.scalars[2]);
                return results{s.get(q), s.read(3)};
            },
            vector_tol);
    same(
        "gradient",
        [&](auto& s) {
            const auto gx = s.rows(), gy = s.cols();
            s.kernels.gradient(s.put(k.r), s.put(k.c), gx, gy, s.scalars[0]);
            return results{s.get(gx), s.get(gy), s.read(1)};
        },
        vector_tol);
    same(
        "absorb",
        [&](auto& s) {
            const auto u = s.put(k.u), v = s.put(k.v), x = s.put(k.x), y = s.put(k.y);
            s.kernels.absorb(k.eps, u, v, x, y);
            return results{s.get(u), s.get(v), s.get(x), s.get(y)};
        },
        vector_tol);
    same(
        "cg_start",
        [&](auto& s) {
            const auto q = s.put(k.g_x), d = s.rows(), res = s.rows(), z = s.rows(), p = s.rows();
            s.kernels.cg_start(q, s.put(k.r), d, res, z, p, s.scalars[0], s.scalars[1]);
            return results{s.get(q), s.get(d), s.get(res), s.get(z), s.get(p), s.read(2)};
        },
        vector_tol);
    same(
        "cg_update to cg_direction",
        [&](auto& s) {
            const auto d = s.put(k.u), res = s.put(k.g_x), z = s.put(k.p), p = s.put(k.r);
            const auto w = s.put(k.p);
            s.be.dot(s.put(k.u), s.put(k.u), s.scalars[0]);  // rz
            s.be.dot(s.put(k.r), s.put(k.u), s.scalars[1]);  // pw
            s.kernels.cg_update(s.scalars[0], s.scalars[1], p, w, d, res, s.scalars[2]);
            results out{s.get(d), s.get(res), s.read(3)};
            s.kernels.cg_close(res, z, s.scalars[3]);
            out.push_back(s.get(z));
            s.kernels.cg_jacobi(res, s.put(k.r), z, s.scalars[4]);
            out.push_back(s.get(z));
            s.kernels.cg_direction(s.scalars[4], s.scalars[0], z, p);
            out.push_back(s.get(p));
            out.push_back(s.read(5));
            return out;
        },
        vector_tol);
    same(
        "slope",
        [&](auto& s) {
            const auto dx = s.put(k.p), dy = s.put(k.q);
            s.kernels.slope(s.put(k.g_x), s.put(k.g_y), dx, dy, s.scalars[0], s.scalars[1]);
            return results{s.get(dx), s.get(dy), s.read(2)};
        },
        vector_tol);
    for (double alpha : {1.0, 1e-3})
        same(
            "trial_scalings to accept",
            [&](auto& s) {
                const auto dx = s.put(k.p), dy = s.put(k.q), p = s.rows(), q = s.cols(), u = s.put(k.u),
                           v = s.put(k.v);
                s.kernels.trial_scalings(alpha, dx, dy, p, q);
                s.kernels.trial_sums(alpha, s.put(k.r), s.put(k.c), dx, dy, p, q, s.put(k.g_x), s.put(k.g_y),
                                     s.scalars[0], s.scalars[1], s.scalars[2]);
                s.kernels.accept(p, q, u, v);
                return results{s.get(p), s.get(q), s.read(3), s.get(u), s.get(v)};
            },
            vector_tol);
}

// Selections must agree exactly: they are decisions, and their values products of the same three factors.
template <class Left, class Right, class T, class Same>
void compare_selection(Left& left, Right& right, const ot_case<T>& k, Same&& same) {
    const auto limits = [&](double row, double col) {
        return std::pair{doubles(k.u.size(), row), doubles(k.v.size(), col)};
    };
    for (bool scaled : {false, true})
        for (const auto& [row, col] : {limits(0.3, 0.2), limits(1e9, 1e9), limits(0.0, -1.0)})
            for (bool use_max : {false, true})
                same(
                    "compact",
                    [&](auto& s) {
                        drivers::ot::keep_rule rule{{}, {}, s.put(row), s.put(col), use_max};
                        if (scaled) rule.row_scale = s.put(k.r), rule.col_scale = s.put(k.c);
                        drivers::ot::host_csr out;
                        const bool fits = s.kernels.compact(s.put(k.u), s.put(k.v), rule, k.n * k.m, out);
                        CHECK(fits && out.rows == k.n && out.cols == k.m);
                        const index most = out.nnz() - 1;
                        drivers::ot::host_csr none;
                        // One entry too many; entries of lonely columns are not counted, so leave those
                        // cases.
                        doubles refused;
                        if (col[0] < 1 && most > k.n + k.m)
                            refused.push_back(
                                s.kernels.compact(s.put(k.u), s.put(k.v), rule, most - k.m, none));
                        return results{doubles(out.indptr.begin(), out.indptr.end()),
                                       doubles(out.indices.begin(), out.indices.end()), out.values, refused};
                    },
                    0);
    const auto find = [&](auto& s) {  // radix selection of the n-th largest, as the driver does it
        drivers::ot::keep_rule rule{s.put(k.r), s.put(k.c), {}, {}, false};
        const vec<int> histogram = s.be.template allocate<int>(1 << 13);
        std::vector<doubles> out;
        std::uint64_t prefix = 0;
        index count = k.n;
        int shift = 50;
        for (int pass = 0; pass < 3; ++pass, shift -= 13) {
            s.kernels.histogram(rule, s.put(k.u), s.put(k.v), shift, prefix, histogram);
            const std::vector<int> bins = s.get(histogram);
            out.emplace_back(bins.begin(), bins.end());
            index bucket = (1 << 13) - 1;
            for (; bucket > 0 && count > bins[bucket]; --bucket) count -= bins[bucket];
            prefix = prefix << 13 | static_cast<std::uint64_t>(bucket);
        }
        return out;
    };
    same("histogram", find, 0);
    static_cast<void>(left);
    static_cast<void>(right);
}

// The functions that soft marginals change, after compare_kernels (K is set): with both sides soft, one, and
// prices so high that the shift of x against y is free.
template <class Left, class Right, class T>
void compare_soft_kernels(Left& left, Right& right, const ot_case<T>& k, double tol) {
    const auto same = [&](const char* what, auto&& run, double within) {
        const std::vector<doubles> l = run(left), r = run(right);
        for (std::size_t i = 0; i < l.size(); ++i)
            compare(l[i], r[i], within, k.name + " soft " + what + " result " + std::to_string(i));
    };
    constexpr double vector_tol = 1e-12;
    struct weights {
        double row, col;
    };
    for (const weights w : {weights{0.3, 2.0}, weights{0.0, 0.5}, weights{0.7, 0.0}, weights{1e-4, 1e-4}}) {
        const auto soften = [&](auto& s, double gauge) {
            drivers::ot::soft_marginals soft;
            soft.row = s.rows();
            soft.col = s.cols();
            soft.gauge = s.put(doubles{gauge});
            soft.row_weight = w.row;
            soft.col_weight = w.col;
            soft.log_mass = 0.1;
            soft.singular = std::max(w.row, w.col) < 1e-3;
            s.kernels.soften(soft);
            return soft;
        };
        for (bool recentre : {false, true})
            same(
                "targets and soft_diagonals",
                [&](auto& s) {
                    const auto soft = soften(s, 0.02);
                    const auto v = s.put(k.v), c = s.put(k.c), dr = s.rows(), dc = s.cols();
                    s.kernels.targets(k.eps, s.put(k.x), s.put(k.y), s.put(k.u), v, c, recentre);
                    s.kernels.soft_diagonals(s.put(k.r), c, dr, dc);
                    return results{s.get(soft.row), s.get(soft.col), s.get(soft.gauge), s.get(v),
                                   s.get(c),        s.get(dr),       s.get(dc)};
                },
                1e-11);  // the gauge is a mass's logarithm over a weight
        same(
            "scalings",
            [&](auto& s) {
                soften(s, 0.0);
                const auto u = s.put(k.u), v = s.put(k.v), r = s.rows(), c = s.cols();
                s.kernels.targets(k.eps, s.put(k.x), s.put(k.y), u, v, c, false);
                s.kernels.sinkhorn_sweep(u, v, r, c);
                s.kernels.scale_columns(c, v, s.scalars[0], s.scalars[1]);
                return results{s.get(u), s.get(r), s.get(c), s.get(v), s.read(2)};
            },
            10 * tol);
        same(
            "measures",
            [&](auto& s) {
                soften(s, 0.0);
                const auto u = s.put(k.u), v = s.put(k.v), c = s.put(k.c), q = s.rows(), gx = s.rows(),
                           gy = s.cols();
                s.kernels.targets(k.eps, s.put(k.x), s.put(k.y), u, v, c, false);
                s.kernels.row_errors(s.put(k.r), u, q, s.scalars[0], s.scalars[1], s.scalars[2]);
                s.kernels.gradient(s.put(k.r), c, gx, gy, s.scalars[3]);
                return results{s.get(q), s.get(gx), s.get(gy), s.read(4)};
            },
            vector_tol);
        same(
            "cg_start to cg_jacobi",
            [&](auto& s) {
                soften(s, 0.0);
                const auto v = s.put(k.v), c = s.put(k.c), q = s.put(k.g_x), d = s.rows(), res = s.rows(),
                           z = s.rows(), p = s.rows();
                s.kernels.targets(k.eps, s.put(k.x), s.put(k.y), s.put(k.u), v, c, false);
                s.kernels.cg_start(q, s.put(k.r), d, res, z, p, s.scalars[0], s.scalars[1]);
                results out{s.get(q), s.get(res), s.get(z), s.get(p)};
                s.kernels.cg_jacobi(s.put(k.g_x), s.put(k.r), z, s.scalars[2]);
                out.push_back(s.get(z));
                out.push_back(s.read(3));
                return out;
            },
            vector_tol);
        for (double alpha : {1.0, 1e-3})
            same(
                "slope and trial_sums",
                [&](auto& s) {
                    soften(s, 0.0);
                    const auto v = s.put(k.v), c = s.put(k.c), dx = s.put(k.p), dy = s.put(k.q), p = s.rows(),
                               q = s.cols();
                    s.kernels.targets(k.eps, s.put(k.x), s.put(k.y), s.put(k.u), v, c, false);
                    s.kernels.slope(s.put(k.g_x), s.put(k.g_y), dx, dy, s.scalars[0], s.scalars[1]);
                    s.kernels.trial_scalings(alpha, dx, dy, p, q);
                    s.kernels.trial_sums(alpha, s.put(k.r), c, dx, dy, p, q, s.put(k.g_x), s.put(k.g_y),
                                         s.scalars[2], s.scalars[3], s.scalars[4]);
                    return results{s.get(dx), s.get(dy), s.read(5)};
                },
                vector_tol);
    }
}

// --- whole problems ------------------------------------------------------------------------------

struct instance {
    index n, m;
    doubles cost, a, b;
    double range;
};

// Uniform random costs: the linear assignment problem.
inline instance assignment(index n) {
    std::mt19937 random(11);
    std::uniform_real_distribution<double> unit(0.0, 1.0);
    instance p{n, n, doubles(n * n), doubles(n, 1.0 / n), doubles(n, 1.0 / n), 1.0};
    for (double& c : p.cost) c = unit(random);
    return p;
}
// Two clouds of points in the plane, squared distances, unequal weights, one empty bin.
inline instance clouds(index n, index m) {
    std::mt19937 random(12);
    std::normal_distribution<double> normal;
    doubles x(2 * n), y(2 * m);
    for (double& e : x) e = normal(random);
    for (double& e : y) e = normal(random) + 0.5;
    instance p{n, m, doubles(n * m), doubles(n), doubles(m), 0.0};
    double largest = 0;
    for (index i = 0; i < n; ++i)
        for (index j = 0; j < m; ++j)
            largest = std::max(largest, p.cost[i * m + j] = std::pow(x[2 * i] - y[2 * j], 2) +
                                                            std::pow(x[2 * i + 1] - y[2 * j + 1], 2));
    for (double& c : p.cost) c /= largest;
    p.range = 1.0;
    for (doubles* w : {&p.a, &p.b}) {
        double sum = 0;
        for (double& e : *w) sum += e = 0.5 + std::fabs(normal(random));
        for (double& e : *w) e /= sum;
    }
    p.a[1] += p.a[0];
    p.a[0] = 0;
    return p;
}

// The plan from the potentials, plain loops: its marginal error and cost.
inline std::pair<double, double> certificate(const instance& p, const doubles& x, const doubles& y,
                                             double reg) {
    doubles r(p.n, 0.0), c(p.m, 0.0);
    double linear = 0, err = 0;
    for (index i = 0; i < p.n; ++i)
        for (index j = 0; j < p.m; ++j) {
            const double e = std::exp((x[i] + y[j] - p.cost[i * p.m + j]) / reg);
            r[i] += e;
            c[j] += e;
            linear += e * p.cost[i * p.m + j];
        }
    for (index i = 0; i < p.n; ++i) err += std::fabs(r[i] - p.a[i]);
    for (index j = 0; j < p.m; ++j) err += std::fabs(c[j] - p.b[j]);
    return {err, linear};
}

// The unbalanced problem: error of the potentials over the mass of their plan, and that mass, by plain loops.
inline std::pair<double, double> soft_certificate(const instance& p, const doubles& x, const doubles& y,
                                                  double gauge, const aitken::ot::options& o) {
    doubles r(p.n, 0.0), c(p.m, 0.0);
    double mass = 0, err = 0;
    for (index i = 0; i < p.n; ++i)
        for (index j = 0; j < p.m; ++j) {
            const double e = std::exp((x[i] + y[j] - p.cost[i * p.m + j]) / o.reg);
            r[i] += e;
            c[j] += e;
            mass += e;
        }
    const auto wanted = [&](double weight, double potential, double rho) {
        return weight > 0 ? weight * std::exp(-(potential - o.reg * std::log(weight)) / rho) : 0.0;
    };
    for (index i = 0; i < p.n; ++i) err += std::fabs(r[i] - wanted(p.a[i], x[i] + gauge, o.rho_a));
    for (index j = 0; j < p.m; ++j) err += std::fabs(c[j] - wanted(p.b[j], y[j] - gauge, o.rho_b));
    return {err / mass, mass};
}

inline aitken::ot::options settings(double reg, aitken::ot::method method, aitken::ot::linear_solver solver,
                                    double tol = 1e-9) {
    aitken::ot::options o;
    o.reg = reg;
    o.tol = tol;
    o.method = method;
    o.linear_solver = solver;
    return o;
}

}  // namespace aitken::tests
