// The CUDA kernels of the Krylov solvers, run on the CPU as block programs: every function of the kernel set
// against the CPU kernels or plain loops, then whole solves and chains in lockstep, with launches, uploads
// and host reads counted.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/krylov.hpp"
#include "core/api/linear_maps.hpp"
#include "core/api/sequence.hpp"
#include "cpu/backend.hpp"
#include "cpu/krylov_kernels.hpp"
#include "cuda/krylov_kernels.hpp"
#include "krylov_cases.hpp"
#include "lapack_stand_in.hpp"

namespace aitken::tests {
namespace {

template <class B>
using block_kernels = cuda::krylov_kernels<block_backend, B>;
static_assert(drivers::krylov::KrylovKernels<block_kernels<double>, double, double>);
static_assert(drivers::krylov::KrylovKernels<block_kernels<float>, double, float>);

constexpr index sizes[] = {1, 2, 31, 33, 255, 257, 700, 1500};
template <class B>
constexpr double stored_tol = sizeof(B) == 8 ? 1e-13 : 2e-6;

// --- the pieces -----------------------------------------------------------------------------------

TEST(krylov_strips_cover_every_row_once) {
    for (index n : {1, 31, 32, 511, 512, 513, 1025, 6400, 131072, 131073, 1000000, 50000001}) {
        const cuda::row_strips s(n);
        CHECK(s.count >= 1 && s.count <= 256 && s.rows % 32 == 0);
        CHECK(s.begin(0) == 0 && s.end(s.count - 1) == n && s.begin(s.count - 1) < n);
        for (index k = 1; k < s.count; ++k)
            if (s.begin(k) != s.end(k - 1)) CHECK(false);
    }
}

// Rows without entries, one row longer than a chunk, several matrices on one pattern.
TEST(krylov_blocks_multiply_by_sparse_rows) {
    for (index n : sizes) {
        for (bool long_row : {false, true}) {
            sparse_case a = random_rows(n, long_row ? 5000 : 0, 3);
            interrupt signals;
            block_backend be(signals, static_cast<unsigned>(n));
            const numbers x = random_numbers(3 * n, 7);
            const std::vector<float> xf(x.begin(), x.end());
            cuda::csr_products<block_backend> products(be, a.rows(), 2);
            products.set(0, a.system(0));
            products.set(1, a.system(1));
            const auto y = be.allocate<double>(3 * n);
            const auto yf = be.allocate<float>(n);
            products.apply(std::vector<cuda::vector_task<double>>{
                {1, x.data(), y.data}, {0, x.data() + n, y.data + n}, {1, x.data() + 2 * n, y.data + 2 * n}});
            products.apply(std::vector<cuda::vector_task<float>>{{0, xf.data(), yf.data}});
            for (int k = 0; k < 3; ++k)
                near_all(y.data + k * n, product(a, k == 1 ? 0 : 1, x.data() + k * n), 1e-13, "csr");
            const numbers rounded(xf.begin(), xf.begin() + n);
            near_all(numbers(yf.data, yf.data + n).data(), product(a, 0, rounded.data()), 1e-6, "csr float");
        }
    }
}

TEST(krylov_blocks_find_equal_matrices) {
    sparse_case a = random_rows(300, 0, 4);
    numbers same(a.system(0), a.system(0) + a.nnz());
    interrupt signals;
    block_backend be(signals);
    numbers last = same, zero = same;
    last.back() += 1e-16 * last.back() + 1e-12;
    zero[5] = 0.0;
    numbers minus = zero;
    minus[5] = -0.0;
    const auto bits = [](const double* v) { return reinterpret_cast<const std::uint64_t*>(v); };
    const std::vector<cuda::value_pair> pairs{{bits(a.system(0)), bits(same.data())},
                                              {bits(a.system(0)), bits(a.system(1))},
                                              {bits(same.data()), bits(last.data())},
                                              {bits(zero.data()), bits(minus.data())}};
    const auto differ = be.allocate<int>(4);
    be.launch(cuda::map_pass(cuda::fill_with<int>{differ.data, 0}, 4));
    be.launch(cuda::count_differences(pairs.data(), 4, a.nnz(), differ.data));
    CHECK(differ[0] == 0 && differ[1] > 0 && differ[2] > 0 && differ[3] > 0);
}

// --- the kernel set against the CPU's --------------------------------------------------------------

template <class B>
struct tall_numbers {
    index n, ld;
    std::vector<B> values;
    tall_numbers(index rows, index cols, unsigned seed) : n(rows), ld(rows + 3) {
        const numbers r = random_numbers(ld * cols, seed);
        values.assign(r.begin(), r.end());
    }
    tall<B> first(index cols) { return {values.data(), n, cols, ld}; }
};

// Orthonormal columns, so that coefficients mean something.
template <class B>
tall_numbers<B> orthonormal(index n, index cols, unsigned seed) {
    tall_numbers<double> q(n, cols, seed);
    for (index j = 0; j < cols; ++j) {
        double* v = q.first(cols).col(j);
        for (int pass = 0; pass < 2; ++pass)
            for (index k = 0; k < j; ++k) {
                const double* u = q.first(cols).col(k);
                double h = 0;
                for (index i = 0; i < n; ++i) h += u[i] * v[i];
                for (index i = 0; i < n; ++i) v[i] -= h * u[i];
            }
        double length = 0;
        for (index i = 0; i < n; ++i) length += v[i] * v[i];
        for (index i = 0; i < n; ++i) v[i] /= std::sqrt(length);
    }
    tall_numbers<B> out(n, cols, seed);
    for (index e = 0; e < q.ld * cols; ++e) out.values[e] = static_cast<B>(q.values[e]);
    return out;
}

// Both kernel sets over one matrix; the CPU's own map of it.
template <class B>
struct both {
    sparse_case a;
    interrupt signals;
    block_backend there{signals, 11};
    cpu::backend here{signals};
    cpu::map_ptr<double> map;
    block_kernels<B> blocks;
    cpu::krylov_kernels<double, B> host;
    explicit both(index n, int lanes = 4)
        : a(random_rows(n, 0, 1)),
          map(cpu::make_csr<double>(a.pattern.view(), a.system(0))),
          blocks(there, a.rows(), lanes, nullptr),
          host(here, *map, nullptr) {
        for (int lane = 0; lane < lanes; ++lane) blocks.set_matrix(lane, a.system(0), true, "");
    }
};

struct expansion {
    index c, v;
    double along;  // share of w inside the span
};

template <class B>
void expand_like_the_cpu(aitken::krylov::ortho how) {
    using task = drivers::krylov::expand_task<double, B>;
    // Many lanes with different counts, among them none at all, and more columns than a round.
    const std::vector<expansion> lanes{{0, 0, 0},     {0, 1, 0.3},        {3, 0, 0.9}, {7, 30, 0.99999},
                                       {20, 41, 0.5}, {0, 33, 0.9999999}, {31, 1, 0},  {5, 300, 0.999}};
    for (index n : {400, 701, 1500}) {
        both<B> k(n);
        std::vector<tall_numbers<B>> one, other;
        std::vector<numbers> w, w_other, columns, columns_other;
        for (const expansion& e : lanes) {
            one.push_back(orthonormal<B>(n, e.c + e.v + 1, static_cast<unsigned>(17 + e.c)));
            numbers x = random_numbers(n, 23), inside(static_cast<std::size_t>(n), 0.0);
            for (index j = 0; j < e.c + e.v; ++j)
                for (index i = 0; i < n; ++i)
                    inside[i] += one.back().first(e.c + e.v).col(j)[i] * (j % 3 - 0.7);
            for (index i = 0; i < n; ++i) x[i] = (1 - e.along) * x[i] + e.along * inside[i];
            w.push_back(x);
            columns.emplace_back(static_cast<std::size_t>(e.c + e.v + 2),
                                 std::numeric_limits<double>::quiet_NaN());
        }
        other = one;
        w_other = w;
        columns_other = columns;
        std::vector<task> left, right;
        for (std::size_t q = 0; q < lanes.size(); ++q) {
            const auto make = [&](std::vector<tall_numbers<B>>& t, std::vector<numbers>& x,
                                  std::vector<numbers>& c) {
                const tall<B> all = t[q].first(lanes[q].c + lanes[q].v + 1);
                return task{all.first(lanes[q].c),
                            all.from(lanes[q].c).first(lanes[q].v),
                            {x[q].data(), n},
                            c[q].data()};
            };
            left.push_back(make(one, w, columns));
            right.push_back(make(other, w_other, columns_other));
        }
        const traffic before = k.there.counts();
        k.blocks.expand(left, how);
        CHECK(k.there.counts().launches - before.launches == 5);
        CHECK(k.there.counts().uploads - before.uploads == 1 && k.there.counts().reads == before.reads);
        k.host.expand(right, how == aitken::krylov::ortho::mgs ? aitken::krylov::ortho::cgs2 : how);
        for (std::size_t q = 0; q < lanes.size(); ++q) {
            const std::string what = "expand, lane " + std::to_string(q) + ", n " + std::to_string(n);
            const index count = lanes[q].c + lanes[q].v;
            const double size = std::max(1.0, columns_other[q][count + 1]);
            // What is left of a vector that nearly vanishes is known to the rounding of the whole.
            const double rest = 1e-14 * size / columns_other[q][count];
            for (double& c : columns[q]) c /= size;
            for (double& c : columns_other[q]) c /= size;
            near_all(columns[q].data(), columns_other[q], stored_tol<B>, what + ", column");
            near_all(w[q].data(), w_other[q], stored_tol<B> + 30 * rest, what + ", w");
            const B* appended = one[q].first(count + 1).col(count);
            for (index i = 0; i < n; ++i) CHECK(appended[i] == static_cast<B>(w[q][i]));
        }
    }
}
TEST(krylov_blocks_expand_f64) { expand_like_the_cpu<double>(aitken::krylov::ortho::automatic); }
TEST(krylov_blocks_expand_f32) { expand_like_the_cpu<float>(aitken::krylov::ortho::automatic); }
TEST(krylov_blocks_expand_twice) { expand_like_the_cpu<double>(aitken::krylov::ortho::cgs2); }
TEST(krylov_blocks_expand_mgs_as_cgs2) { expand_like_the_cpu<double>(aitken::krylov::ortho::mgs); }

// A vector inside the span appends zeros, one with NaN stays visible, and neither touches other lanes.
TEST(krylov_blocks_expand_vanishing_and_broken_vectors) {
    const index n = 640;
    both<double> k(n);
    std::vector<tall_numbers<double>> q;
    for (unsigned lane = 0; lane < 3; ++lane) q.push_back(orthonormal<double>(n, 6, 3 + lane));
    numbers inside(q[0].values.begin() + q[0].ld, q[0].values.begin() + q[0].ld + n),
        broken = random_numbers(n, 1), good = random_numbers(n, 2);
    broken[n - 1] = std::numeric_limits<double>::quiet_NaN();
    double columns[3][8] = {};
    std::vector<drivers::krylov::expand_task<double, double>> tasks;
    numbers* const w[3] = {&inside, &broken, &good};
    for (int lane = 0; lane < 3; ++lane)
        tasks.push_back(
            {q[lane].first(2), q[lane].first(6).from(2).first(3), {w[lane]->data(), n}, columns[lane]});
    k.blocks.expand(tasks, aitken::krylov::ortho::automatic);
    CHECK(columns[0][5] <= 1e-14 * columns[0][6]);
    CHECK_NEAR(columns[0][1], 1.0, 1e-14);
    for (double x : inside) CHECK(x == 0.0);
    CHECK(std::isnan(columns[1][5]) && std::isnan(columns[1][6]));
    double length = 0;
    for (double x : good) length += x * x;
    CHECK_NEAR(length, 1.0, 1e-13);
}

template <class B>
void tall_products_like_the_cpu() {
    using namespace drivers::krylov;
    for (index n : sizes) {
        both<B> k(n);
        const std::vector<std::pair<index, index>> shapes{{1, 1},   {3, 5}, {32, 33},
                                                          {41, 20}, {0, 4}, {70, 1}};
        std::vector<tall_numbers<B>> x, y;
        for (std::size_t q = 0; q < shapes.size(); ++q) {
            x.emplace_back(n, shapes[q].first, static_cast<unsigned>(40 + q));
            y.emplace_back(n, shapes[q].second, static_cast<unsigned>(50 + q));
        }
        // Gram matrices into parts of larger ones.
        std::vector<numbers> g, g_host;
        std::vector<gram_task<double, B>> gram, gram_host;
        for (std::size_t q = 0; q < shapes.size(); ++q) {
            const auto [p, r] = shapes[q];
            g.emplace_back(static_cast<std::size_t>((p + 2) * r), -7.0);
            g_host.push_back(g.back());
        }
        for (std::size_t q = 0; q < shapes.size(); ++q) {
            const auto [p, r] = shapes[q];
            gram.push_back({x[q].first(p), y[q].first(r), g[q].data(), p + 2});
            gram_host.push_back({x[q].first(p), y[q].first(r), g_host[q].data(), p + 2});
        }
        traffic before = k.there.counts();
        k.blocks.gram(gram);
        CHECK(k.there.counts().launches - before.launches == 2 && k.there.counts().reads - before.reads == 1);
        k.host.gram(gram_host);
        for (std::size_t q = 0; q < shapes.size(); ++q)
            near_all(g[q].data(), g_host[q], 1e-13 * static_cast<double>(n), "gram");
        before = k.there.counts();
        k.blocks.gram({});
        CHECK(k.there.counts().launches == before.launches && k.there.counts().reads == before.reads);

        // Projections, one of them of nothing but the length.
        const numbers w = random_numbers(n, 9);
        std::vector<numbers> h, h_host;
        std::vector<double> norm(shapes.size(), -1), norm_host = norm;
        std::vector<project_task<double, B>> project, project_host;
        for (const auto& s : shapes) h.emplace_back(static_cast<std::size_t>(s.first), -7.0);
        h_host = h;
        for (std::size_t q = 0; q < shapes.size(); ++q) {
            const tall<const B> span = x[q].first(shapes[q].first);
            project.push_back({span, {w.data(), n}, h[q].data(), &norm[q]});
            project_host.push_back({span, {w.data(), n}, h_host[q].data(), &norm_host[q]});
        }
        k.blocks.project(project);
        k.host.project(project_host);
        for (std::size_t q = 0; q < shapes.size(); ++q) {
            near_all(h[q].data(), h_host[q], 1e-13 * static_cast<double>(n), "project");
            CHECK_NEAR(norm[q], norm_host[q], 1e-13 * (1 + norm_host[q]));
        }

        // Combinations and mixtures; two of them follow each other in the same result.
        const numbers c = random_numbers(70 * 40, 5);
        numbers sum = random_numbers(n, 6), sum_host = sum, fresh(static_cast<std::size_t>(n), NAN),
                fresh_host = fresh;
        const auto combine = [&](auto& kernels, numbers& added, numbers& made) {
            const std::vector<combine_task<double, B>> tasks{
                {x[3].first(41), c.data(), {made.data(), n}, false},
                {x[1].first(3), c.data() + 50, {added.data(), n}, true},
                {x[5].first(70), c.data() + 60, {made.data(), n}, true},
                {x[4].first(0), c.data(), {added.data(), n}, true}};
            kernels.combine(tasks);
        };
        before = k.there.counts();
        combine(k.blocks, sum, fresh);
        CHECK(k.there.counts().launches - before.launches == 2 && k.there.counts().reads == before.reads);
        combine(k.host, sum_host, fresh_host);
        near_all(sum.data(), sum_host, 1e-13 * 10, "combine, added");
        near_all(fresh.data(), fresh_host, 1e-13 * 100, "combine");
        tall_numbers<B> z(n, 20, 60), t(n, 9, 61), z_host = z, t_host = t;
        const auto mix = [&](auto& kernels, tall_numbers<B>& big, tall_numbers<B>& small) {
            const std::vector<mix_task<double, B>> tasks{
                {x[3].first(41), c.data(), 45, big.first(20), false},
                {x[2].first(32), c.data() + 7, 40, small.first(9), false},
                {y[1].first(5), c.data() + 3, 5, big.first(20), true},
                {x[5].first(70), c.data() + 1, 70, small.first(9), true},
            };
            kernels.mix(tasks);
        };
        before = k.there.counts();
        mix(k.blocks, z, t);
        CHECK(k.there.counts().launches - before.launches == 2 && k.there.counts().reads == before.reads);
        mix(k.host, z_host, t_host);
        near_tall(z.first(20), z_host.first(20), stored_tol<B> * 100, "mix");
        near_tall(t.first(9), t_host.first(9), stored_tol<B> * 100, "mix, small");

        // Vectors.
        std::vector<B> to(static_cast<std::size_t>(n), B(-1)), to_host = to;
        numbers from = random_numbers(n, 3), from_host = from, also(static_cast<std::size_t>(n), NAN),
                also_host = also, back = also, back_host = also;
        const auto store = [&](auto& kernels, std::vector<B>& b, numbers& f, numbers& a) {
            const std::vector<store_task<double, B>> tasks{{{f.data(), n}, 0.37, b.data(), {a.data(), n}}};
            kernels.store(tasks);
            const std::vector<store_task<double, B>> in_place{{{f.data(), n}, -2.0, b.data(), {f.data(), n}}};
            kernels.store(in_place);
            kernels.add(vec<const double>{f.data(), n}, vec<double>{a.data(), n});
        };
        store(k.blocks, to, from, also);
        store(k.host, to_host, from_host, also_host);
        k.blocks.load(to.data(), {back.data(), n});
        k.host.load(to_host.data(), {back_host.data(), n});
        near_all(from.data(), from_host, 1e-15, "store in place");
        near_all(also.data(), also_host, 1e-15, "add");
        near_all(back.data(), back_host, 1e-15, "load");
        k.blocks.clear({back.data(), n});
        near_all(back.data(), numbers(static_cast<std::size_t>(n), 0.0), 0, "clear");

        // Residuals.
        const numbers b = random_numbers(n, 8);
        numbers r(static_cast<std::size_t>(n), NAN), r_host = r;
        double length = -1, length_host = -1;
        const std::vector<residual_task<double>> res{
            {1, {b.data(), n}, {w.data(), n}, {r.data(), n}, &length}};
        const std::vector<residual_task<double>> res_host{
            {0, {b.data(), n}, {w.data(), n}, {r_host.data(), n}, &length_host}};
        k.blocks.residual(res);
        k.host.residual(res_host);
        near_all(r.data(), r_host, 1e-13, "residual");
        CHECK_NEAR(length, length_host, 1e-13 * (1 + length_host));
    }
}
TEST(krylov_blocks_tall_products_f64) { tall_products_like_the_cpu<double>(); }
TEST(krylov_blocks_tall_products_f32) { tall_products_like_the_cpu<float>(); }

// --- preconditioners --------------------------------------------------------------------------------

using kind = aitken::sequence::preconditioner;

cpu::map_ptr<double> on_the_cpu(kind which, const sparse_case& a, int system, index block) {
    const auto p = a.pattern.view();
    const double* v = a.system(system);
    if (which == kind::jacobi) return cpu::make_jacobi<double>(p, v);
    if (which == kind::chebyshev) return cpu::make_chebyshev<double>(p, v, 4, 0, 0, 30);
    if (which == kind::ilu0) return cpu::make_ilu0<double>(p, v, false);
    std::vector<index> starts;
    for (index i = 0; i < p.rows; i += block) starts.push_back(i);
    starts.push_back(p.rows);
    return cpu::make_block_jacobi<double>(p, v, starts);
}

template <class B>
void preconditioner_like_the_cpu(kind which, const sparse_case& a, index block = 64) {
    const index n = a.n();
    const int lanes = 3;
    interrupt signals;
    block_backend be(signals, 5);
    const auto inverse = cuda::make_inverse(be, which, a.rows(), a.pattern.view(), lanes, block);
    block_kernels<B> kernels(be, a.rows(), lanes, inverse.get());
    const auto check_lane = [&](int lane, int system) {
        const auto host = on_the_cpu(which, a, system, block);
        const numbers x = random_numbers(4 * n, 31);
        const auto y = be.allocate<double>(n);
        const std::vector<drivers::krylov::apply_task<double>> one{{lane, {x.data(), n}, y}};
        kernels.apply_inverse(one);
        numbers expected(static_cast<std::size_t>(n));
        host->apply(x.data(), expected.data());
        near_all(y.data, expected, 1e-12, "inverse, lane " + std::to_string(lane));
        // More columns than there are lanes.
        const std::vector<B> xs(x.begin(), x.end());
        const auto ys = be.allocate<B>(4 * n);
        const std::vector<drivers::krylov::apply_columns_task<B>> four{
            {lane, {xs.data(), n, 4, n}, {ys.data, n, 4, n}}};
        kernels.apply_inverse_columns(four);
        for (int j = 0; j < 4; ++j) {
            const numbers rounded(xs.begin() + j * n, xs.begin() + (j + 1) * n);
            host->apply(rounded.data(), expected.data());
            const numbers got(ys.data + j * n, ys.data + (j + 1) * n);
            near_all(got.data(), expected, sizeof(B) == 8 ? 1e-12 : 5e-6, "inverse of columns");
        }
    };
    kernels.set_matrix(0, a.system(0), true, "");
    kernels.set_matrix(2, a.system(1), true, "");
    check_lane(0, 0);
    check_lane(2, 1);
    kernels.set_matrix(1, a.system(0), true, "");  // never used
    kernels.set_matrix(1, a.system(2), true, "");
    kernels.set_matrix(2, a.system(2), true, "");
    kernels.set_matrix(0, a.system(1), false, "");  // keeps its preconditioner
    check_lane(1, 2);
    check_lane(2, 2);
    check_lane(0, 0);
}
TEST(krylov_blocks_jacobi) {
    for (index n : sizes) preconditioner_like_the_cpu<double>(kind::jacobi, random_rows(n, 0, 3));
    preconditioner_like_the_cpu<float>(kind::jacobi, random_rows(300, 0, 3));
}
TEST(krylov_blocks_block_jacobi) {
    for (index n : {1, 2, 33, 257, 700}) {
        preconditioner_like_the_cpu<double>(kind::block_jacobi, random_rows(n, 0, 3), 7);
        preconditioner_like_the_cpu<double>(kind::block_jacobi, random_rows(n, 0, 3), 64);
    }
    preconditioner_like_the_cpu<double>(kind::block_jacobi, random_rows(300, 0, 3), 300);
    preconditioner_like_the_cpu<float>(kind::block_jacobi, convection(17, 13, 3), 20);
    // Blocks that need row exchanges: the diagonal is small beside what is next to it.
    std::vector<std::map<std::int32_t, double>> rows(90);
    for (std::int32_t i = 0; i < 90; ++i) rows[i] = {{i, 1e-9}, {i ^ 1, 2.0}, {(i + 31) % 90, 0.2}};
    preconditioner_like_the_cpu<double>(kind::block_jacobi, from_rows(rows, 3), 45);
}
TEST(krylov_blocks_chebyshev) {
    for (index n : {1, 2, 33, 257, 700})
        preconditioner_like_the_cpu<double>(kind::chebyshev, random_rows(n, 0, 3));
    preconditioner_like_the_cpu<double>(kind::chebyshev, convection(40, 30, 3));
    preconditioner_like_the_cpu<float>(kind::chebyshev, convection(17, 13, 3));
}
TEST(krylov_blocks_ilu0) {
    for (index n : sizes) preconditioner_like_the_cpu<double>(kind::ilu0, random_rows(n, 0, 3));
    preconditioner_like_the_cpu<double>(kind::ilu0, convection(40, 30, 3));
    preconditioner_like_the_cpu<float>(kind::ilu0, convection(17, 13, 3));
}

// Levels of many rows are shared among blocks, between narrow ones that are not.
TEST(krylov_blocks_ilu0_of_wide_levels) {
    const index wide = cuda::ilu0_inverse<block_backend>::wide, n = 2 * wide + 300 + 11;
    // Rows 0 .. wide + 10 stand alone; the next wide rows need one of them each; the rest forms a chain.
    std::vector<std::map<std::int32_t, double>> rows(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i) {
        rows[i][static_cast<std::int32_t>(i)] = 4.0;
        const index first = wide + 11;
        const index with = i < first ? -1 : i < first + wide ? i - first : i - 1;
        if (with >= 0) {
            rows[i][static_cast<std::int32_t>(with)] = -1.0;
            rows[with][static_cast<std::int32_t>(i)] = -0.5;
        }
    }
    const sparse_case a = from_rows(rows, 3);
    preconditioner_like_the_cpu<double>(kind::ilu0, a);
    interrupt signals;
    block_backend be(signals);
    cuda::ilu0_inverse<block_backend> inverse(be, a.pattern.view(), 1);
    inverse.refresh({{0, a.system(0)}});
    const numbers x = random_numbers(n, 1);
    const auto y = be.allocate<double>(n);
    const long before = be.counts().launches;
    inverse.apply(std::vector<cuda::vector_task<double>>{{0, x.data(), y.data}});
    CHECK(be.counts().launches - before == 5);  // wide, wide, narrow of both triangles, wide, wide
}

TEST(krylov_blocks_preconditioners_name_what_is_wrong) {
    for (kind which : {kind::jacobi, kind::block_jacobi, kind::ilu0, kind::chebyshev}) {
        sparse_case a = convection(20, 20, 3);
        for (index p = a.pattern.indptr[123]; p < a.pattern.indptr[124]; ++p) a.values[2 * a.nnz() + p] = 0.0;
        interrupt signals;
        block_backend be(signals);
        const auto inverse = cuda::make_inverse(be, which, a.rows(), a.pattern.view(), 2, 50);
        block_kernels<double> kernels(be, a.rows(), 2, inverse.get());
        const numbers x = random_numbers(400, 1);
        const auto y = be.allocate<double>(400);
        const std::vector<drivers::krylov::apply_task<double>> task{{0, {x.data(), 400}, y}};
        kernels.set_matrix(0, a.system(1), true, "system 1: ");
        kernels.set_matrix(1, a.system(2), true, "system 2: ");
        std::string text;
        try {
            kernels.apply_inverse(task);
        } catch (const std::invalid_argument& error) {
            text = error.what();
        }
        CHECK(text.starts_with("system 2: `A`: "));
        CHECK(text.find(which == kind::block_jacobi ? "rows 100 to 149 is singular" : "row 123") !=
              std::string::npos);
    }
    interrupt signals;
    block_backend be(signals);
    const sparse_case a = convection(5, 5, 1);
    CHECK_THROWS(cuda::make_inverse(be, kind::ssor, a.rows(), a.pattern.view(), 1, 50),
                 std::invalid_argument);
    CHECK_THROWS(cuda::make_inverse(be, kind::block_jacobi, a.rows(), a.pattern.view(), 1, 2000),
                 std::invalid_argument);
}

// --- whole solves -------------------------------------------------------------------------------------

struct solved {
    aitken::krylov::report report;
    numbers x;
    aitken::krylov::space<double> kept;
};

solved here(const sparse_case& a, int system, const numbers& b, kind which, const aitken::krylov::options& o,
            aitken::krylov::space<double> kept, bool same) {
    solved s{{}, numbers(b.size(), 0.0), std::move(kept)};
    aitken::krylov::space<double> outer;
    interrupt signals;
    const auto map = cpu::make_csr<double>(a.pattern.view(), a.system(system));
    const auto inverse = which == kind::none ? nullptr : on_the_cpu(which, a, system, 64);
    const auto n = static_cast<index>(b.size());
    s.report = cpu::krylov::solve<double>(*map, inverse.get(), {b.data(), n}, {s.x.data(), n}, o, s.kept,
                                          same, outer, signals, {});
    return s;
}
solved there(const sparse_case& a, int system, const numbers& b, kind which, const aitken::krylov::options& o,
             aitken::krylov::space<double> kept, bool same) {
    solved s{{}, numbers(b.size(), 0.0), std::move(kept)};
    aitken::krylov::space<double> outer;
    interrupt signals;
    block_backend be(signals);
    const auto n = static_cast<index>(b.size());
    const auto run = o.basis == aitken::krylov::basis::single ? &cuda::solve_one<block_backend, float>
                                                              : &cuda::solve_one<block_backend, double>;
    s.report = run(be, a.rows(), a.nnz(), a.system(system), which, 64, {b.data(), n}, {s.x.data(), n}, o,
                   s.kept, same, outer, {});
    return s;
}

void same_answer(const sparse_case& a, int system, const numbers& b, const solved& l, const solved& r,
                 double tol, const std::string& what) {
    check::that(l.report.status == status::converged && r.report.status == status::converged, __FILE__,
                __LINE__, what.c_str());
    const long apart = static_cast<long>(l.report.iterations - r.report.iterations);
    check::that(apart >= -1 && apart <= 1, __FILE__, __LINE__,
                (what + ": " + std::to_string(l.report.iterations) + " and " +
                 std::to_string(r.report.iterations) + " iterations")
                    .c_str());
    near_all(l.x.data(), r.x, tol, what);
    const numbers ax = product(a, system, l.x.data());
    double residual = 0, norm = 0;
    for (std::size_t i = 0; i < b.size(); ++i) {
        residual += (b[i] - ax[i]) * (b[i] - ax[i]);
        norm += b[i] * b[i];
    }
    CHECK(std::sqrt(residual) <= 1.0000001 * l.report.target);
    CHECK_NEAR(l.report.residual, std::sqrt(residual), 1e-11 * std::sqrt(norm));
}

TEST(krylov_blocks_solve_like_the_cpu) {
    stand_in::load_lapack();
    const sparse_case a = convection(31, 29, 3);
    const numbers b = random_numbers(a.n(), 77);
    aitken::krylov::options base;
    base.rtol = 1e-11;
    base.restart = 30;
    base.recycle = 8;
    const auto run = [&](const std::string& what, kind which, auto&& change, double tol = 1e-9) {
        aitken::krylov::options o = base;
        change(o);
        solved l = there(a, 0, b, which, o, {}, false), r = here(a, 0, b, which, o, {}, false);
        same_answer(a, 0, b, l, r, tol, what);
        CHECK(l.kept.vectors() == r.kept.vectors());
        // The next system starts from what was learned.
        const numbers b2 = random_numbers(a.n(), 78);
        const solved l2 = there(a, 1, b2, which, o, l.kept, false),
                     r2 = here(a, 1, b2, which, o, r.kept, false);
        same_answer(a, 1, b2, l2, r2, tol, what + ", next");
        CHECK(l2.report.recycled == r2.report.recycled);
        if (o.recycle > 0) CHECK(l2.report.recycled > 0);
    };
    using namespace aitken::krylov;
    run("plain", kind::none, [](auto&) {});
    run("ilu", kind::ilu0, [](auto&) {});
    run("gmres", kind::jacobi, [](auto& o) { o.recycle = 0; });
    run("left", kind::ilu0, [](auto& o) { o.side = side::left; });
    run("flexible", kind::block_jacobi, [](auto& o) { o.side = side::flexible; });
    run("transformed", kind::ilu0, [](auto& o) { o.carry = carry::transformed; });
    run("singular", kind::jacobi, [](auto& o) { o.select = selection::singular; });
    run("gcrot", kind::chebyshev, [](auto& o) {
        o.select = selection::truncate_oldest;
        o.steps_beside = true;
        o.restart = 12;
    });
    run("lgmres", kind::jacobi, [](auto& o) {
        o.recycle = 0;
        o.outer = 3;
    });
    run("twice", kind::ilu0, [](auto& o) { o.ortho = ortho::cgs2; });
    run("single", kind::ilu0, [](auto& o) { o.basis = basis::single; }, 1e-8);
}

TEST(krylov_blocks_statuses) {
    stand_in::load_lapack();
    const sparse_case a = convection(20, 20, 1);
    numbers b = random_numbers(400, 1);
    aitken::krylov::options o;
    o.rtol = 1e-12;
    o.max_iterations = 13;
    CHECK(there(a, 0, b, kind::none, o, {}, false).report.status == status::max_iterations);
    CHECK(there(a, 0, b, kind::none, o, {}, false).report.iterations == 13);
    CHECK(there(a, 0, numbers(400, 0.0), kind::none, o, {}, false).report.status == status::converged);
    b[17] = std::numeric_limits<double>::quiet_NaN();
    CHECK(there(a, 0, b, kind::none, o, {}, false).report.status == status::nonfinite);
    // Patterns that lead outside are found before a kernel follows them.
    interrupt signals;
    block_backend be(signals);
    sparse_case bad = a;
    bad.pattern.indices[9] = 400;
    CHECK_THROWS(cuda::checked_pattern(be, bad.rows(), bad.nnz()), std::invalid_argument);
    bad = a;
    std::swap(bad.pattern.indptr[4], bad.pattern.indptr[9]);
    CHECK_THROWS(cuda::checked_pattern(be, bad.rows(), bad.nnz()), std::invalid_argument);
    CHECK_THROWS(cuda::checked_pattern(be, a.rows(), a.nnz() - 1), std::invalid_argument);
}

// --- chains in lockstep -------------------------------------------------------------------------------

struct chained {
    std::map<index, aitken::sequence::record> records;
    numbers x;
    traffic counts;
};

struct family {
    sparse_case a;
    numbers b;
    std::vector<std::vector<index>> chains;
    aitken::sequence::options options;
    bool one_matrix = false;
    numbers params;

    aitken::sequence::systems<double> systems() const {
        aitken::sequence::systems<double> s;
        s.pattern = a.pattern.view();
        s.data = a.values.data();
        s.b = b.data();
        s.count = static_cast<index>(b.size()) / a.n();
        s.one_matrix = one_matrix;
        if (!params.empty()) {
            s.params = params.data();
            s.n_params = static_cast<index>(params.size()) / s.count;
        }
        return s;
    }
};

chained chains_here(const family& f) {
    chained out{{}, numbers(f.b.size(), NAN), {}};
    const auto systems = f.systems();
    for (const auto& chain : f.chains) {
        aitken::krylov::space<double> kept;
        interrupt signals;
        cpu::sequence::run_chain<double>(systems, chain, f.options, out.x.data(), kept, signals,
                                         [&](index i, const aitken::sequence::record& r) {
                                             out.records[i] = r;
                                             return false;
                                         });
    }
    return out;
}
chained chains_there(const family& f, std::size_t memory, unsigned seed = 1) {
    chained out{{}, numbers(f.b.size(), NAN), {}};
    const auto systems = f.systems();
    aitken::krylov::space<double> kept;
    interrupt signals;
    block_backend be(signals, seed);
    std::vector<std::span<const index>> spans(f.chains.begin(), f.chains.end());
    const auto run = f.options.krylov.basis == aitken::krylov::basis::single
                         ? &cuda::run_chains<block_backend, float>
                         : &cuda::run_chains<block_backend, double>;
    run(be, systems, f.a.nnz(), spans, f.options, out.x.data(), kept, memory,
        [&](index i, const aitken::sequence::record& r) {
            out.records[i] = r;
            return false;
        });
    out.counts = be.counts();
    return out;
}
constexpr std::size_t plenty = std::size_t{1} << 40;

family slowly_varying(index nx, index ny, int count, std::vector<std::vector<index>> chains) {
    family f{convection(nx, ny, count), {}, std::move(chains), {}, false, {}};
    f.b = random_numbers(nx * ny * count, 5);
    for (index i = 1; i < count; ++i)  // near each other, as solutions of a sequence are
        for (index k = 0; k < nx * ny; ++k)
            f.b[i * nx * ny + k] = f.b[k] + 0.05 * static_cast<double>(i) * f.b[i * nx * ny + k];
    f.options.krylov.rtol = 1e-11;
    f.options.krylov.restart = 25;
    f.options.krylov.recycle = 6;
    f.options.project = 3;
    return f;
}

void same_chains(const family& f, const std::string& what, double tol = 1e-10) {
    const chained cpu = chains_here(f), gpu = chains_there(f, plenty), again = chains_there(f, plenty, 99),
                  alone = chains_there(f, 1);
    CHECK(gpu.records.size() == cpu.records.size());
    for (const auto& [i, r] : cpu.records) {
        const auto found = gpu.records.find(i);
        if (found == gpu.records.end()) {
            CHECK(false);
            continue;
        }
        const auto& g = found->second;
        const std::string text = what + ", system " + std::to_string(i) + ": " + std::to_string(g.nit) +
                                 " and " + std::to_string(r.nit) + " iterations";
        check::that(g.nit == r.nit, __FILE__, __LINE__, text.c_str());
        check::that(g.status == status::converged && r.status == status::converged, __FILE__, __LINE__,
                    text.c_str());
        check::that(g.recycled == r.recycled && g.projected == r.projected && g.carried == r.carried,
                    __FILE__, __LINE__, text.c_str());
        CHECK(alone.records.at(i).nit == g.nit);
    }
    near_all(gpu.x.data(), cpu.x, tol, what);
    // Bits depend on neither the order of threads nor how many chains advance together.
    CHECK(std::memcmp(gpu.x.data(), again.x.data(), sizeof(double) * gpu.x.size()) == 0);
    CHECK(std::memcmp(gpu.x.data(), alone.x.data(), sizeof(double) * gpu.x.size()) == 0);
    CHECK(alone.counts.launches > gpu.counts.launches);
}

TEST(krylov_blocks_chains_like_the_cpu) {
    stand_in::load_lapack();
    const std::vector<std::vector<index>> chains{{0, 3, 5, 8}, {1}, {}, {9, 2, 4}, {6, 7}};
    family f = slowly_varying(23, 21, 10, chains);
    same_chains(f, "ilu0");
    f.options.preconditioner = kind::jacobi;
    same_chains(f, "jacobi");
    f.options.preconditioner = kind::block_jacobi;
    f.options.block = 21;
    same_chains(f, "block-jacobi");
    f.options.preconditioner = kind::chebyshev;
    same_chains(f, "chebyshev");
    f.options.preconditioner = kind::none;
    f.options.recycle = false;
    f.options.project = 0;
    same_chains(f, "none, nothing carried");
}
TEST(krylov_blocks_chains_with_parameters_and_kept_preconditioners) {
    stand_in::load_lapack();
    // The first chain costs no iteration, which must not count as the best of the lane's next one.
    family f = slowly_varying(19, 18, 12, {{0}, {1, 2, 3, 4, 5}, {6, 7, 8, 9, 10, 11}});
    std::fill_n(f.b.begin(), f.a.n(), 0.0);
    f.params = random_numbers(24, 2);
    f.options.keep_preconditioner = 1.5;
    same_chains(f, "kept preconditioners");
}
TEST(krylov_blocks_chains_of_one_matrix) {
    stand_in::load_lapack();
    // Long enough that starts come from more solutions than where matrices differ.
    family f = slowly_varying(19, 18, 9, {{0, 1, 2, 3, 4, 5}, {6, 7}, {8}});
    f.one_matrix = true;
    // C is kept as it is: one pass leaves it orthonormal to 1e-8 here, and counts would follow its rounding.
    f.options.krylov.ortho = aitken::krylov::ortho::cgs2;
    same_chains(f, "one matrix");
    // The same by equal values.
    f.one_matrix = false;
    for (int s = 1; s < 9; ++s)
        std::copy_n(f.a.values.begin(), f.a.nnz(), f.a.values.begin() + s * f.a.nnz());
    same_chains(f, "equal matrices");
}
TEST(krylov_blocks_chains_in_single_precision) {
    stand_in::load_lapack();
    family f = slowly_varying(19, 18, 6, {{0, 1, 2}, {3, 4, 5}});
    f.options.krylov.basis = aitken::krylov::basis::single;
    f.options.krylov.rtol = 1e-9;
    const chained cpu = chains_here(f), gpu = chains_there(f, plenty);
    near_all(gpu.x.data(), cpu.x, 1e-7, "single");
    for (const auto& [i, r] : cpu.records) {
        CHECK(gpu.records.at(i).status == status::converged);
        CHECK(std::abs(gpu.records.at(i).nit - r.nit) <= 2);
    }
}
TEST(krylov_blocks_chains_name_the_bad_system) {
    family f = slowly_varying(12, 12, 4, {{0, 1}, {2, 3}});
    for (index p = f.a.pattern.indptr[30]; p < f.a.pattern.indptr[31]; ++p) f.a.values[3 * f.a.nnz() + p] = 0;
    std::string text;
    stand_in::load_lapack();
    try {
        chains_there(f, plenty);
    } catch (const std::invalid_argument& error) {
        text = error.what();
    }
    CHECK(text == "system 3: `A`: zero or non-finite pivot in row 30");
}

// --- what a GPU would be asked for ------------------------------------------------------------------------

// Eight equal lanes cost one lane's launches and reads in their steps.
TEST(krylov_blocks_traffic_of_steps) {
    stand_in::load_lapack();
    for (const kind which : {kind::none, kind::ilu0}) {
        std::vector<long> launches, reads, uploads;
        for (int lanes : {1, 8}) {
            std::vector<std::vector<index>> chains;
            for (index k = 0; k < lanes; ++k) chains.push_back({k});
            family f = slowly_varying(20, 20, lanes, chains);
            f.options.preconditioner = which;
            f.options.project = 0;
            f.options.krylov.recycle = 0;
            f.options.krylov.restart = 200;
            f.options.krylov.rtol = 1e-30;
            f.options.krylov.watch_stagnation = false;
            long now[2][3] = {};
            for (int more : {0, 1}) {
                f.options.krylov.max_iterations = 20 + 40 * more;
                const traffic t = chains_there(f, plenty).counts;
                now[more][0] = t.launches;
                now[more][1] = t.reads;
                now[more][2] = t.uploads;
            }
            launches.push_back(now[1][0] - now[0][0]);
            reads.push_back(now[1][1] - now[0][1]);
            uploads.push_back(now[1][2] - now[0][2]);
        }
        // 40 steps: product, preconditioner and five of expand; a read every ten.
        const bool has = which != kind::none;
        CHECK(launches[0] == 40 * (has ? 7 : 6) && launches[1] == launches[0]);
        CHECK(reads[0] == 4 && reads[1] == 4);
        CHECK(uploads[0] == 40 * (has ? 1 : 2) && uploads[1] == uploads[0]);
    }
}

// The memory asked for is what the bound on lanes counts with.
TEST(krylov_blocks_memory_of_lanes) {
    stand_in::load_lapack();
    for (const kind which : {kind::none, kind::ilu0, kind::block_jacobi, kind::chebyshev}) {
        family f = slowly_varying(40, 40, 8, {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}});
        f.options.preconditioner = which;
        f.options.krylov.max_iterations = 1;
        const auto taken = [&](int lanes) {
            const auto systems = f.systems();
            std::vector<std::span<const index>> spans(f.chains.begin(), f.chains.end());
            interrupt signals;
            block_backend be(signals);
            aitken::krylov::space<double> kept;
            numbers x(f.b.size());
            const double each = cuda::lane_bytes(f.options, f.a.n(), f.a.nnz(), sizeof(double));
            cuda::run_chains<block_backend, double>(
                be, systems, f.a.nnz(), spans, f.options, x.data(), kept,
                static_cast<std::size_t>(each * (lanes + 0.5)),
                [](index, const aitken::sequence::record&) { return false; });
            return static_cast<double>(be.bytes());
        };
        const double each = (taken(7) - taken(3)) / 4;
        const double counted = cuda::lane_bytes(f.options, f.a.n(), f.a.nnz(), sizeof(double));
        check::that(each <= 1.15 * counted && each >= 0.85 * counted, __FILE__, __LINE__,
                    (std::to_string(each) + " bytes, counted " + std::to_string(counted)).c_str());
    }
}

// --- the stand-in itself
// -------------------------------------------------------------------------------------

template <class S>
void eigenvectors_hold() {
    stand_in::load_lapack();
    for (int n : {1, 2, 3, 10, 41}) {
        dense::small_matrix<S> a(n, n), copy;
        const numbers r = random_numbers(2 * n * n, static_cast<unsigned>(n));
        for (int e = 0; e < n * n; ++e) {
            if constexpr (dense::is_complex<S>)
                a.values[e] = {r[e], r[n * n + e]};
            else
                a.values[e] = r[e];
        }
        copy = a;
        std::vector<std::complex<double>> w(static_cast<std::size_t>(n));
        dense::small_matrix<S> v(n, n);
        CHECK(dense::lapack().geev(n, copy.values.data(), n, w.data(), v.values.data(), n) == 0);
        for (int k = 0; k < n; ++k) {
            const bool pair = !dense::is_complex<S> && w[k].imag() != 0;
            double length = 0;
            for (int i = 0; i < n; ++i) {
                const auto x = [&](int row) -> std::complex<double> {
                    if constexpr (!dense::is_complex<S>)
                        if (pair) return {v(row, k), v(row, k + 1)};
                    return v(row, k);
                };
                std::complex<double> sum = 0;
                for (int j = 0; j < n; ++j) sum += a(i, j) * x(j);
                CHECK(std::abs(sum - w[k] * x(i)) < 1e-12 * n);
                length += std::norm(x(i));
            }
            CHECK_NEAR(length, 1.0, 1e-12);
            if (pair) {
                CHECK(w[k].imag() > 0 && w[k + 1] == std::conj(w[k]));
                ++k;
            }
        }
    }
}
TEST(lapack_stand_in_eigenvectors) {
    eigenvectors_hold<double>();
    eigenvectors_hold<std::complex<double>>();
}

}  // namespace
}  // namespace aitken::tests
