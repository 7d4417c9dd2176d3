// Sketch-and-project: answers against the solutions that systems were made from, one step of full width,
// continued solves, the same bits for every thread count, what is counted, how each solve can end; and
// CountSketch against the matrix it stands for.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.hpp"
#include "core/api/optimize_sketch.hpp"
#include "core/error.hpp"
#include "core/philox.hpp"

namespace {

using namespace aitken;
namespace sk = aitken::optimize_sketch;
using aitken::index;
using numbers = std::vector<double>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
const sk::method every_method[] = {sk::method::gaussian, sk::method::kaczmarz, sk::method::block_gaussian,
                                   sk::method::countsketch, sk::method::block_kaczmarz};

// A symmetric indefinite matrix, well conditioned: signs on the diagonal and small numbers beside it, of
// which `keep` in a hundred are there. Dense and as compressed rows.
struct system {
    index n;
    numbers dense, values, b, truth;
    std::vector<index> indptr{0};
    std::vector<std::int32_t> indices;

    explicit system(index size, index keep = 100, std::uint64_t seed = 1) : n(size), dense(size * size, 0.0) {
        const philox_stream stream{seed, 7, 0, 0};
        const double scale = 0.8 / std::sqrt(static_cast<double>(n));
        for (index i = 0; i < n; ++i) {
            dense[i * n + i] = i % 3 == 0 ? -2.0 : 2.0;
            for (index j = 0; j < i; ++j) {
                const auto e = static_cast<std::uint32_t>(i * n + j);
                if (100 * stream.uniform(e + 1000000) > static_cast<double>(keep)) continue;
                dense[i * n + j] = dense[j * n + i] = scale * stream.normal(e);
            }
        }
        for (index i = 0; i < n; ++i) truth.push_back(std::cos(static_cast<double>(i)));
        finish();
    }
    void finish() {
        indptr.assign(1, 0);
        indices.clear();
        values.clear();
        b.assign(static_cast<std::size_t>(n), 0.0);
        for (index i = 0; i < n; ++i) {
            for (index j = 0; j < n; ++j) {
                b[i] += dense[i * n + j] * truth[j];
                if (dense[i * n + j] == 0) continue;
                indices.push_back(static_cast<std::int32_t>(j));
                values.push_back(dense[i * n + j]);
            }
            indptr.push_back(static_cast<index>(indices.size()));
        }
    }
    sk::any_matrix matrix(bool sparse) const {
        sk::any_matrix k;
        if (!sparse) {
            k.dense = {dense.data(), n, n, n};
        } else {
            k.a = {n, n, indptr.data(), indices.data()};
            k.values = values.data();
        }
        return k;
    }
    double residual(const numbers& z) const {
        double sum = 0;
        for (index i = 0; i < n; ++i) {
            double r = -b[i];
            for (index j = 0; j < n; ++j)
                if (dense[i * n + j] != 0) r += dense[i * n + j] * z[j];
            sum += r * r;
        }
        return std::sqrt(sum);
    }
};

sk::options basic(sk::method method, index block) {
    sk::options o;
    o.method = method;
    o.block = block;
    o.rtol = 1e-8;
    o.seed = 5;
    return o;
}

sk::report solve(const system& s, bool sparse, const sk::options& o, numbers& z) {
    interrupt none;
    if (z.empty()) z.assign(static_cast<std::size_t>(s.n), 0.0);
    return cpu::optimize_sketch::project(s.matrix(sparse), {s.b.data(), s.n}, {z.data(), s.n}, o, none);
}

TEST(sketch_every_method_solves) {
    for (const sk::method method : every_method)
        for (const bool sparse : {false, true})
            for (const index n : {1, 5, 37}) {
                const system s(n, sparse ? 40 : 100);
                numbers z;
                const sk::report r = solve(s, sparse, basic(method, std::min<index>(n, 9)), z);
                CHECK(r.status == status::converged);
                CHECK_NEAR(r.residual, s.residual(z), 1e-12 * r.norm_b);
                CHECK(r.residual <= 1e-8 * r.norm_b);
                for (index i = 0; i < n; ++i) CHECK_NEAR(z[i], s.truth[i], 1e-6);
            }
}

TEST(sketch_of_full_width_is_exact_in_one_step) {
    const system s(40);
    numbers z;
    const sk::report r = solve(s, false, basic(sk::method::block_gaussian, 40), z);
    CHECK(r.status == status::converged);
    CHECK(r.steps <= 2);  // the Gram matrix squares the condition of W
}

TEST(sketch_dense_and_sparse_take_the_same_steps) {
    const system s(37, 30);
    for (const sk::method method : every_method) {
        sk::options o = basic(method, 8);
        o.max_steps = 20;
        o.rtol = 0;
        numbers dense, sparse;
        solve(s, false, o, dense);
        solve(s, true, o, sparse);
        for (index i = 0; i < s.n; ++i) CHECK_NEAR(dense[i], sparse[i], 1e-12);
    }
}

TEST(sketch_seeds_matter) {
    const system s(37);
    for (const sk::method method : every_method) {
        sk::options o = basic(method, 8);
        o.max_steps = 3;
        o.rtol = 0;
        numbers one, other;
        solve(s, false, o, one);
        o.seed = 6;
        solve(s, false, o, other);
        CHECK(one != other);
    }
}

TEST(sketch_goes_on_where_it_stopped) {
    const system s(30);
    for (const sk::method method : {sk::method::kaczmarz, sk::method::gaussian, sk::method::countsketch}) {
        sk::options o = basic(method, 6);
        o.rtol = 0;
        o.max_steps = 240;
        numbers whole, parts;
        solve(s, false, o, whole);
        o.max_steps = 120;
        solve(s, false, o, parts);
        o.first_step = 120;
        solve(s, false, o, parts);
        for (index i = 0; i < s.n; ++i) CHECK_NEAR(whole[i], parts[i], 1e-11);
        if (method == sk::method::kaczmarz) CHECK(whole == parts);
    }
}

TEST(sketch_bits_do_not_depend_on_threads) {
    const system s(601, 60);  // large enough for each kernel to start threads
    for (const sk::method method : every_method)
        for (const bool sparse : {false, true}) {
            sk::options o = basic(method, 500);
            o.max_steps = method == sk::method::kaczmarz ? 5000 : 6;
            o.rtol = 0;
            numbers one, four;
            o.n_threads = 1;
            const sk::report first = solve(s, sparse, o, one);
            o.n_threads = 4;
            const sk::report second = solve(s, sparse, o, four);
            CHECK(one == four);
            CHECK(first.residual == second.residual && first.flops == second.flops);
        }
}

TEST(sketch_counts_flops) {
    const system s(40);
    const double n = 40, nnz = 1600;
    for (const index steps : {160, 320}) {
        sk::options o = basic(sk::method::kaczmarz, 1);
        o.rtol = 0;
        o.max_steps = steps;
        numbers z;
        const sk::report r = solve(s, false, o, z);
        // Norms of the rows, the first residual, one every 4 N steps and one at the end.
        const double looks = 1 + static_cast<double>(steps) / 160 + 1;
        CHECK_NEAR(r.flops, 2 * nnz * (1 + looks) + 4 * n * static_cast<double>(steps), 0);
    }
    sk::options o = basic(sk::method::gaussian, 1);
    o.rtol = 0;
    o.max_steps = 100;
    numbers z;
    // Two products per step, the Gram number and its root, and some vectors.
    CHECK_NEAR(solve(s, false, o, z).flops, 2 * nnz * 2 + 100 * (4 * nnz + 10 * n + 1.0 / 3), 1e-6);
}

TEST(sketch_launches_and_reads_of_a_step) {
    const system s(40);
    const auto per_step = [&](sk::method method, long launches, long reads) {
        traffic counts[2];
        for (const index steps : {20, 40}) {
            sk::options o = basic(method, method == sk::method::gaussian ? 1 : 8);
            o.rtol = 0;
            o.max_steps = steps;
            numbers z;
            counts[steps / 20 - 1] = solve(s, false, o, z).counts;
        }
        CHECK(counts[1].launches - counts[0].launches == 20 * launches);
        CHECK(counts[1].reads - counts[0].reads == 20 * reads);
    };
    per_step(sk::method::gaussian, 5, 1);
    per_step(sk::method::block_gaussian, 5, 1);
    per_step(sk::method::countsketch, 5, 1);
}

TEST(sketch_budget_of_flops_ends_a_solve) {
    const system s(40);
    for (const sk::method method : every_method) {
        sk::options o = basic(method, 8);
        o.rtol = 1e-300;
        o.max_flops = 3e5;
        numbers z;
        const sk::report r = solve(s, false, o, z);
        CHECK(r.status == status::max_iterations);
        CHECK(r.flops >= 3e5 && r.flops < 7e5);
    }
}

TEST(sketch_skips_rows_of_zeros) {
    system s(20);
    for (const index i : {0, 7, 19}) {
        for (index j = 0; j < s.n; ++j) s.dense[i * s.n + j] = s.dense[j * s.n + i] = 0;
        s.truth[i] = 0;
    }
    s.finish();
    for (const sk::method method : every_method)
        for (const bool sparse : {false, true}) {
            numbers z;
            const sk::report r = solve(s, sparse, basic(method, 6), z);
            CHECK(r.status == status::converged);
            CHECK(z[7] == 0);
        }
}

TEST(sketch_inconsistent_systems_use_up_their_steps) {
    system s(10);
    for (index j = 0; j < s.n; ++j) s.dense[3 * s.n + j] = s.dense[j * s.n + 3] = 0;
    s.finish();
    s.b[3] = 1;
    for (const sk::method method : every_method) {
        sk::options o = basic(method, 4);
        o.max_steps = 2000;
        numbers z;
        const sk::report r = solve(s, false, o, z);
        CHECK(r.status == status::max_iterations);
        CHECK(r.residual >= 1 - 1e-12);
        CHECK_NEAR(r.residual, s.residual(z), 1e-9);
    }
}

TEST(sketch_matrix_of_zeros_breaks_down) {
    system s(6);
    std::fill(s.dense.begin(), s.dense.end(), 0.0);
    s.finish();
    s.b.assign(6, 1.0);
    for (const sk::method method : every_method) {
        numbers z(6, 2.0);
        const sk::report r = solve(s, false, basic(method, 2), z);
        CHECK(r.status == status::breakdown);
        CHECK(z == numbers(6, 2.0));
    }
}

TEST(sketch_zero_right_side_and_good_start) {
    system s(8);
    const numbers right = s.b;
    for (const sk::method method : every_method) {
        s.b.assign(8, 0.0);
        numbers z(8, 1.0);
        CHECK(solve(s, false, basic(method, 2), z).status == status::converged);
        CHECK(z == numbers(8, 0.0));
        s.b = right;
        z = s.truth;
        const sk::report r = solve(s, false, basic(method, 2), z);
        CHECK(r.status == status::converged && r.steps == 0);
        CHECK(z == s.truth);
    }
}

TEST(sketch_numbers_that_are_not_finite) {
    for (const sk::method method : every_method)
        for (const int where : {0, 1, 2})
            for (const double bad : {nan, std::numeric_limits<double>::infinity()}) {
                system s(8);
                numbers z(8, 0.5);
                (where == 0 ? s.dense[17] : where == 1 ? s.b[3] : z[2]) = bad;
                const numbers before = z;
                const sk::report r = solve(s, false, basic(method, 2), z);
                CHECK(r.status == status::nonfinite);
                for (index i = 0; i < 8; ++i) CHECK_NEAR(z[i], before[i], 0);
            }
}

TEST(sketch_wrong_sizes_throw) {
    const system s(8);
    numbers z;
    CHECK_THROWS(solve(s, false, basic(sk::method::block_gaussian, 9), z), std::invalid_argument);
    CHECK_THROWS(solve(s, false, basic(sk::method::countsketch, 0), z), std::invalid_argument);
    z.assign(8, 0.0);
    interrupt none;
    CHECK_THROWS(cpu::optimize_sketch::project(s.matrix(false), {s.b.data(), 7}, {z.data(), 8},
                                               basic(sk::method::kaczmarz, 1), none),
                 std::invalid_argument);
}

TEST(sketch_looks_for_signals) {
    const system s(200);
    for (const sk::method method : every_method) {
        sk::options o = basic(method, 16);
        o.rtol = 0;
        o.max_steps = std::numeric_limits<index>::max();
        numbers z(200, 0.0);
        interrupt pending([] { return true; });
        CHECK_THROWS(
            cpu::optimize_sketch::project(s.matrix(false), {s.b.data(), 200}, {z.data(), 200}, o, pending),
            interrupted);
    }
}

TEST(sketch_count_sketch_is_its_map) {
    const index rows = 700, cols = 13, k = 20;
    const philox_stream stream{3, 9, 0, 0};
    numbers dense(rows * cols);
    std::vector<index> indptr{0};
    std::vector<std::int32_t> indices;
    numbers values;
    for (index i = 0; i < rows; ++i) {
        for (index j = 0; j < cols; ++j) {
            const auto e = static_cast<std::uint32_t>(i * cols + j);
            double& w = dense[i * cols + j];
            w = stream.uniform(e + 100000) < 0.3 ? stream.normal(e) : 0.0;
            if (w == 0) continue;
            indices.push_back(static_cast<std::int32_t>(j));
            values.push_back(w);
        }
        indptr.push_back(static_cast<index>(indices.size()));
    }
    std::vector<std::int32_t> bucket(rows);
    numbers sign(rows), wanted(k * cols, 0.0);
    cpu::optimize_sketch::count_sketch_map(rows, k, 11, 2, bucket.data(), sign.data());
    for (index i = 0; i < rows; ++i) {
        CHECK(bucket[i] >= 0 && bucket[i] < k && std::fabs(sign[i]) == 1);
        for (index j = 0; j < cols; ++j) wanted[bucket[i] * cols + j] += sign[i] * dense[i * cols + j];
    }
    sk::any_matrix as_dense, as_rows;
    as_dense.dense = {dense.data(), rows, cols, cols};
    as_rows.a = {rows, cols, indptr.data(), indices.data()};
    as_rows.values = values.data();
    for (const sk::any_matrix* w : {&as_dense, &as_rows}) {
        numbers first(k * cols, nan), second(k * cols, nan);
        cpu::optimize_sketch::count_sketch(*w, 11, 2, {first.data(), k, cols, cols}, 1);
        cpu::optimize_sketch::count_sketch(*w, 11, 2, {second.data(), k, cols, cols}, 4);
        CHECK(first == second);
        for (index e = 0; e < k * cols; ++e) CHECK_NEAR(first[e], wanted[e], 1e-12);
        cpu::optimize_sketch::count_sketch(*w, 11, 3, {second.data(), k, cols, cols}, 1);
        CHECK(first != second);
    }
}

}  // namespace
