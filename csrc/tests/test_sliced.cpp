// Sliced rows, their products and level-ordered solves, and the matrix map, against plain loops over
// compressed rows.
#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "core/api/linear_maps.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/sliced_kernels.hpp"
#include "cpu/threads.hpp"
#include "sparse/pattern.hpp"
#include "sparse/sliced.hpp"

using namespace aitken;

namespace {

using std::int32_t;
using complex = std::complex<double>;
constexpr int height = sliced_pattern::height;

sparse_pattern from_rows(index cols, const std::vector<std::vector<int32_t>>& rows) {
    sparse_pattern a;
    a.rows = static_cast<index>(rows.size());
    a.cols = cols;
    for (const auto& row : rows) {
        a.indices.insert(a.indices.end(), row.begin(), row.end());
        a.indptr.push_back(static_cast<index>(a.indices.size()));
    }
    return a;
}

// Offsets of a stencil on an nx by ny by nz grid in natural order.
sparse_pattern grid(int nx, int ny, int nz) {
    std::vector<std::vector<int32_t>> rows;
    for (int z = 0; z < nz; ++z)
        for (int y = 0; y < ny; ++y)
            for (int x = 0; x < nx; ++x) {
                const int i = (z * ny + y) * nx + x;
                std::vector<int32_t> row;
                if (z > 0) row.push_back(i - nx * ny);
                if (y > 0) row.push_back(i - nx);
                if (x > 0) row.push_back(i - 1);
                row.push_back(i);
                if (x + 1 < nx) row.push_back(i + 1);
                if (y + 1 < ny) row.push_back(i + nx);
                if (z + 1 < nz) row.push_back(i + nx * ny);
                rows.push_back(row);
            }
    return from_rows(index{nx} * ny * nz, rows);
}

// Rows of scattered, unsorted columns; some are empty, some long.
sparse_pattern scattered(index n, index cols, index longest, unsigned seed) {
    std::mt19937 g(seed);
    std::vector<std::vector<int32_t>> rows(static_cast<std::size_t>(n));
    for (auto& row : rows) {
        const unsigned kind = g() % 16;
        const index count = kind == 0 ? 0 : kind == 1 ? longest : static_cast<index>(g() % 6);
        std::set<int32_t> seen;
        for (index k = 0; k < std::min(count, cols); ++k) {
            const int32_t c = static_cast<int32_t>(g() % static_cast<unsigned>(cols));
            if (seen.insert(c).second) row.push_back(c);
        }
    }
    return from_rows(cols, rows);
}

sparse_pattern arrow(index n) {  // first row and column, and the diagonal, full
    std::vector<std::vector<int32_t>> rows(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i) {
        if (i == 0) {
            for (index j = n; j-- > 0;) rows[0].push_back(static_cast<int32_t>(j));
        } else {
            rows[i] = {static_cast<int32_t>(i), 0};
        }
    }
    return from_rows(n, rows);
}

std::vector<sparse_pattern> cases() {
    std::vector<sparse_pattern> all;
    all.push_back(from_rows(5, {}));
    all.push_back(from_rows(1, {{0}}));
    all.push_back(from_rows(3, {{}, {}, {}}));
    all.push_back(from_rows(40, {{39, 0, 7}}));
    all.push_back(from_rows(3, {{0, 1, 2}, {2, 1, 0}, {1, 0, 2}}));
    for (int n : {1, 2, 7, 8, 9, 23}) all.push_back(grid(n, 3, 1));
    all.push_back(grid(5, 6, 7));
    all.push_back(grid(16, 9, 4));
    for (index n : {5, 64, 301}) all.push_back(arrow(n));
    all.push_back(scattered(200, 150, 90, 1));
    all.push_back(scattered(77, 400, 300, 2));
    all.push_back(scattered(1000, 1000, 40, 3));
    return all;
}

template <class S>
S number(std::mt19937& g) {
    std::uniform_real_distribution<double> u(-1, 1);
    if constexpr (std::is_same_v<S, complex>) {
        const double re = u(g);
        return {re, u(g)};
    } else {
        return u(g);
    }
}

template <class S>
std::vector<S> numbers(index n, unsigned seed) {
    std::mt19937 g(seed);
    std::vector<S> out(static_cast<std::size_t>(n));
    for (S& x : out) x = number<S>(g);
    return out;
}

double conjugate(double x) { return x; }
complex conjugate(complex x) { return std::conj(x); }

template <class S>
std::vector<S> plain_product(const sparse_pattern& a, const std::vector<S>& v, const S* x) {
    std::vector<S> y(static_cast<std::size_t>(a.rows), S(0));
    for (index i = 0; i < a.rows; ++i)
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) y[i] += v[p] * x[a.indices[p]];
    return y;
}

template <class S>
double difference(const std::vector<S>& a, const S* b) {
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double d = std::abs(a[i] - b[i]);
        worst = d <= worst ? worst : d;  // keeps a NaN
        if (std::isnan(d)) return d;
    }
    return worst;
}

bool same_bits(double a, double b) {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}
bool same_bits(complex a, complex b) {
    return same_bits(a.real(), b.real()) && same_bits(a.imag(), b.imag());
}

template <class S>
bool same_bits(const std::vector<S>& a, const S* b) {
    return std::equal(a.begin(), a.end(), b, [](S x, S y) { return same_bits(x, y); });
}

aitken_sliced pointers(const sliced_pattern& a) {
    return {a.row_begin.data(), a.begin.data(), a.run.data(), a.lanes.data(), a.columns.data()};
}

// A lower triangle in the order of its levels: groups, and off-diagonal rows that read earlier groups alone.
struct levelled {
    sparse_pattern strict;
    std::vector<index> groups;
};

levelled level_order(const sparse_pattern& a) {
    const index n = a.rows;
    std::vector<index> level(static_cast<std::size_t>(n), 0), order(static_cast<std::size_t>(n)), at(order);
    index levels = 0;
    for (index i = 0; i < n; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            if (a.indices[p] < i) level[i] = std::max(level[i], level[a.indices[p]] + 1);
        levels = std::max(levels, level[i] + 1);
        order[i] = i;
    }
    std::stable_sort(order.begin(), order.end(), [&](index x, index y) { return level[x] < level[y]; });
    for (index k = 0; k < n; ++k) at[order[k]] = k;
    levelled out;
    out.groups.assign(static_cast<std::size_t>(levels) + 1, 0);
    std::vector<std::vector<int32_t>> rows(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i) {
        ++out.groups[level[i] + 1];
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            if (a.indices[p] < i) rows[at[i]].push_back(static_cast<int32_t>(at[a.indices[p]]));
    }
    for (index l = 0; l < levels; ++l) out.groups[l + 1] += out.groups[l];
    out.strict = from_rows(n, rows);
    return out;
}

template <class S>
std::vector<S> plain_solve(const sparse_pattern& a, const std::vector<S>& v, const S* scale, const S* b) {
    std::vector<S> y(static_cast<std::size_t>(a.rows));
    for (index i = 0; i < a.rows; ++i) {
        S sum = b[i];
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) sum -= v[p] * y[a.indices[p]];
        y[i] = scale ? sum * scale[i] : sum;
    }
    return y;
}

class thread_count {  // restores the default
public:
    explicit thread_count(int n) { cpu::set_num_threads(n); }
    ~thread_count() { cpu::set_num_threads(0); }
};

template <class S>
void check_products() {
    unsigned seed = 10;
    for (const sparse_pattern& a : cases()) {
        const sliced_pattern sliced = make_sliced(a.view());
        const std::vector<S> v = numbers<S>(a.nnz(), ++seed), x = numbers<S>(a.cols, seed + 100);
        std::vector<S> stored(static_cast<std::size_t>(sliced.stored())),
            y(static_cast<std::size_t>(a.rows), S(7));
        fill_sliced(sliced, v.data(), stored.data());
        cpu::sliced_multiply(sliced, stored.data(), x.data(), y.data());
        CHECK(difference(plain_product(a, v, x.data()), y.data()) < 1e-13);
    }
}

template <class S>
void check_solves() {
    unsigned seed = 40;
    for (const sparse_pattern& a : {grid(23, 17, 1), grid(7, 6, 5), arrow(65), scattered(300, 300, 60, 4)}) {
        const levelled l = level_order(a);
        const index n = a.rows;
        const sliced_pattern sliced = make_sliced(l.strict.view(), l.groups);
        std::vector<S> v = numbers<S>(l.strict.nnz(), ++seed);
        for (S& x : v) x *= 0.2;
        const std::vector<S> b = numbers<S>(n, seed + 100), scale = numbers<S>(n, seed + 200);
        std::vector<S> stored(static_cast<std::size_t>(sliced.stored()));
        fill_sliced(sliced, v.data(), stored.data());
        for (const S* s : {scale.data(), static_cast<const S*>(nullptr)}) {
            const std::vector<S> expected = plain_solve(l.strict, v, s, b.data());
            double size = 1;
            for (const S& e : expected) size = std::max(size, std::abs(e));
            // What y held before must not matter, not even a NaN.
            std::vector<S> y(static_cast<std::size_t>(n), S(std::numeric_limits<double>::quiet_NaN()));
            cpu::sliced_solve(sliced, stored.data(), s, b.data(), y.data());
            CHECK(difference(expected, y.data()) < 1e-13 * size);
            std::vector<S> in_place = b;
            cpu::sliced_solve(sliced, stored.data(), s, in_place.data(), in_place.data());
            CHECK(same_bits(in_place, y.data()));
        }
    }
}

const double* parts(const double* x) { return x; }
double* parts(double* x) { return x; }
const double* parts(const complex* x) { return reinterpret_cast<const double*>(x); }
double* parts(complex* x) { return reinterpret_cast<double*>(x); }
auto multiply(const aitken_simd_table& t, double) { return t.sliced_multiply; }
auto multiply(const aitken_simd_table& t, complex) { return t.sliced_multiply_pairs; }
auto solve(const aitken_simd_table& t, double) { return t.sliced_solve; }
auto solve(const aitken_simd_table& t, complex) { return t.sliced_solve_pairs; }

template <class S>
void check_products_at_levels() {
    for (const sparse_pattern& a : cases()) {
        const sliced_pattern sliced = make_sliced(a.view());
        const aitken_sliced p = pointers(sliced);
        const std::vector<S> v = numbers<S>(a.nnz(), 5), x = numbers<S>(a.cols, 6);
        const std::vector<S> expected = plain_product(a, v, x.data());
        std::vector<S> stored(static_cast<std::size_t>(sliced.stored()));
        fill_sliced(sliced, v.data(), stored.data());
        for (std::string_view level : cpu::simd_levels()) {
            const auto product = multiply(cpu::simd_for(level), S());
            std::vector<S> y(static_cast<std::size_t>(a.rows) + 1, 7.0), alone(y);
            product(&p, parts(stored.data()), parts(x.data()), parts(y.data()), 0, sliced.slices());
            CHECK(difference(expected, y.data()) < 1e-13);
            CHECK(y.back() == S(7));
            for (index s = sliced.slices(); s-- > 0;)
                product(&p, parts(stored.data()), parts(x.data()), parts(alone.data()), s, s + 1);
            CHECK(same_bits(alone, y.data()));
        }
    }
}

template <class S>
void check_solves_at_levels() {
    for (const sparse_pattern& a : {grid(19, 14, 2), scattered(300, 300, 60, 4)}) {
        const levelled l = level_order(a);
        const index n = l.strict.rows;
        const sliced_pattern sliced = make_sliced(l.strict.view(), l.groups);
        const aitken_sliced p = pointers(sliced);
        std::vector<S> v = numbers<S>(l.strict.nnz(), 1), stored(static_cast<std::size_t>(sliced.stored()));
        for (S& x : v) x *= 0.1;
        fill_sliced(sliced, v.data(), stored.data());
        const std::vector<S> b = numbers<S>(n, 2), scale = numbers<S>(n, 3);
        const std::vector<S> expected = plain_solve(l.strict, v, scale.data(), b.data());
        for (std::string_view level : cpu::simd_levels()) {
            std::vector<S> y(static_cast<std::size_t>(n) + 1, 7.0);
            solve(cpu::simd_for(level), S())(&p, parts(stored.data()), parts(scale.data()), parts(b.data()),
                                             parts(y.data()), 0, sliced.slices());
            CHECK(difference(expected, y.data()) < 1e-12);
            CHECK(y.back() == S(7));
        }
    }
}

template <class S>
void check_map() {
    unsigned seed = 70;
    for (const sparse_pattern& a : {grid(9, 8, 1), grid(4, 5, 6), arrow(50), scattered(130, 130, 70, 5)}) {
        const index n = a.rows;
        std::vector<S> v = numbers<S>(a.nnz(), ++seed);
        const auto map = cpu::make_csr(a.view(), v.data());
        const std::vector<S> x = numbers<S>(3 * (n + 2), seed + 100);
        CHECK(map->size() == n);
        for (int pass = 0; pass < 2; ++pass) {
            if (pass == 1) {
                v = numbers<S>(a.nnz(), seed + 300);
                map->update(v.data());
            }
            std::vector<S> y(static_cast<std::size_t>(3 * (n + 1)), S(9));
            map->apply(tall<const S>{x.data(), n, 3, n + 2}, tall<S>{y.data(), n, 3, n + 1});
            for (index j = 0; j < 3; ++j) {
                CHECK(difference(plain_product(a, v, x.data() + j * (n + 2)), y.data() + j * (n + 1)) <
                      1e-13);
                CHECK(y[j * (n + 1) + n] == S(9));
                std::vector<S> alone(static_cast<std::size_t>(n));
                map->apply(x.data() + j * (n + 2), alone.data());
                CHECK(same_bits(alone, y.data() + j * (n + 1)));
            }
            map->apply_adjoint(tall<const S>{x.data(), n, 3, n + 2}, tall<S>{y.data(), n, 3, n + 1});
            for (index j = 0; j < 3; ++j) {
                std::vector<S> expected(static_cast<std::size_t>(n), S(0));
                for (index i = 0; i < n; ++i)
                    for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
                        expected[a.indices[p]] += conjugate(v[p]) * x[j * (n + 2) + i];
                CHECK(difference(expected, y.data() + j * (n + 1)) < 1e-13);
            }
        }
    }
}

}  // namespace

TEST(sliced_holds_every_entry_once) {
    for (const sparse_pattern& a : cases()) {
        const sliced_pattern s = make_sliced(a.view());
        CHECK(s.rows == a.rows && s.cols == a.cols && s.nnz == a.nnz());
        CHECK(s.row_begin.back() == a.rows);
        CHECK(s.begin.back() == static_cast<index>(s.run.size()) && s.lanes.size() == s.run.size());
        std::vector<int> seen(static_cast<std::size_t>(a.nnz()), 0);
        bool right = true;
        for (index slice = 0; slice < s.slices(); ++slice) {
            const index first = s.row_begin[slice], rows = s.row_begin[slice + 1] - first;
            right = right && rows >= 1 && rows <= height;
            for (index q = s.begin[slice]; q < s.begin[slice + 1]; ++q)
                for (int lane = 0; lane < height; ++lane) {
                    const index at = q * height + lane, entry = s.source[at];
                    right = right && ((s.lanes[q] >> lane & 1) == (entry >= 0));
                    right = right && s.columns[at] >= 0 && (a.cols == 0 || s.columns[at] < a.cols);
                    if (entry < 0) continue;
                    ++seen[entry];
                    const index row =
                        first +
                        (s.run[q] <= sliced_pattern::across ? sliced_pattern::across - s.run[q] : lane);
                    right =
                        right && row < first + rows && a.indptr[row] <= entry && entry < a.indptr[row + 1];
                    right = right && s.columns[at] == a.indices[entry];
                    if (s.run[q] >= 0) right = right && s.columns[at] == s.run[q] + lane;
                }
        }
        CHECK(right);
        CHECK(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
        const sparse_pattern back = compressed_rows(s);
        CHECK(back.indptr == a.indptr && back.indices == a.indices);
    }
}

TEST(sliced_padding_is_bounded) {
    for (const sparse_pattern& a : cases()) {
        const sliced_pattern s = make_sliced(a.view());
        CHECK(s.stored() <= 4 * a.nnz() + 11 * a.rows);
    }
    const sparse_pattern dense_row = arrow(4000);
    CHECK(make_sliced(dense_row.view()).stored() < 3 * dense_row.nnz());
    const sparse_pattern stencil = grid(80, 80, 1);
    const sliced_pattern s = make_sliced(stencil.view());
    CHECK(s.stored() <= stencil.nnz() * 11 / 10);
    const auto runs = std::count_if(s.run.begin(), s.run.end(), [](int32_t r) { return r >= 0; });
    CHECK(runs * 100 > static_cast<std::ptrdiff_t>(s.run.size()) * 95);
}

TEST(sliced_groups_are_not_straddled) {
    const levelled l = level_order(grid(30, 20, 1));
    const sliced_pattern s = make_sliced(l.strict.view(), l.groups);
    CHECK(s.group_begin.size() == l.groups.size());
    bool right = true;
    index widest = 0;
    for (std::size_t g = 0; g < l.groups.size(); ++g)
        right = right && s.row_begin[s.group_begin[g]] == l.groups[g];
    for (std::size_t g = 0; g + 1 < l.groups.size(); ++g)
        widest = std::max(widest, l.groups[g + 1] - l.groups[g]);
    CHECK(right);
    CHECK(s.widest_group == widest);
    // Anti-diagonals of a grid in natural order: their neighbours are runs.
    const auto runs = std::count_if(s.run.begin(), s.run.end(), [](int32_t r) { return r >= 0; });
    CHECK(runs * 100 > static_cast<std::ptrdiff_t>(s.run.size()) * 90);
}

TEST(sliced_product) {
    check_products<double>();
    check_products<complex>();
}

TEST(sliced_product_levels) {
    check_products_at_levels<double>();
    check_products_at_levels<complex>();
}

// What no entry of a row refers to must not reach it, be it infinite or no number.
TEST(sliced_padding_reads_nothing) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const sparse_pattern& a : {grid(9, 8, 1), scattered(100, 100, 30, 6), arrow(40)}) {
        const sliced_pattern sliced = make_sliced(a.view());
        const aitken_sliced p = pointers(sliced);
        std::vector<double> v(static_cast<std::size_t>(a.nnz()), 1.0),
            x(static_cast<std::size_t>(a.cols), 1.0);
        for (index j = 3; j < a.cols; j += 5) x[j] = nan;
        const std::vector<double> expected = plain_product(a, v, x.data());
        std::vector<double> stored(static_cast<std::size_t>(sliced.stored())),
            y(static_cast<std::size_t>(a.rows));
        fill_sliced(sliced, v.data(), stored.data());
        const auto agrees = [&] {
            for (index i = 0; i < a.rows; ++i)
                if (std::isnan(expected[i]) != std::isnan(y[i])) return false;
            return true;
        };
        CHECK(std::any_of(expected.begin(), expected.end(), [](double e) { return !std::isnan(e); }));
        for (std::string_view level : cpu::simd_levels()) {
            cpu::simd_for(level).sliced_multiply(&p, stored.data(), x.data(), y.data(), 0, sliced.slices());
            CHECK(agrees());
        }
    }
}

TEST(sliced_solve_in_level_order) {
    check_solves<double>();
    check_solves<complex>();
}

TEST(sliced_solve_levels) {
    check_solves_at_levels<double>();
    check_solves_at_levels<complex>();
}

TEST(sliced_bits_for_any_thread_count) {
    const sparse_pattern a = scattered(50000, 50000, 80, 7);
    const sliced_pattern sliced = make_sliced(a.view());
    const std::vector<double> v = numbers<double>(a.nnz(), 1), x = numbers<double>(a.cols, 2);
    std::vector<double> stored(static_cast<std::size_t>(sliced.stored()));
    fill_sliced(sliced, v.data(), stored.data());
    // Two groups, each wide enough to be shared.
    std::vector<std::vector<int32_t>> rows(40000);
    for (int32_t i = 20000; i < 40000; ++i) rows[i] = {i - 20000, (7 * i) % 20000};
    for (int32_t i = 20000; i < 40000; ++i)
        if (rows[i][0] == rows[i][1]) rows[i].pop_back();
    const sparse_pattern lower = from_rows(40000, rows);
    const sliced_pattern solver = make_sliced(lower.view(), {0, 20000, 40000});
    const std::vector<double> w = numbers<double>(lower.nnz(), 3), b = numbers<double>(40000, 4);
    std::vector<double> solver_values(static_cast<std::size_t>(solver.stored()));
    fill_sliced(solver, w.data(), solver_values.data());
    const double* no_scale = nullptr;
    std::vector<double> first, first_solution;
    for (int threads : {1, 2, 3}) {
        const thread_count set(threads);
        std::vector<double> y(50000), z(40000);
        cpu::sliced_multiply(sliced, stored.data(), x.data(), y.data());
        cpu::sliced_solve(solver, solver_values.data(), no_scale, b.data(), z.data());
        if (threads == 1) {
            CHECK(difference(plain_product(a, v, x.data()), y.data()) < 1e-12);
            CHECK(difference(plain_solve(lower, w, no_scale, b.data()), z.data()) < 1e-12);
            first = y;
            first_solution = z;
        }
        CHECK(same_bits(first, y.data()));
        CHECK(same_bits(first_solution, z.data()));
    }
}

TEST(csr_map) {
    check_map<double>();
    check_map<complex>();
}
