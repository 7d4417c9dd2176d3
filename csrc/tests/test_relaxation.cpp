// Sweeps on the CPU: the layout against its definition, the kernels of every instruction set against loops
// over the rows, the solvers' bits at several thread counts, and what the drivers launch and read.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string_view>
#include <tuple>
#include <vector>

#include "check.hpp"
#include "core/api/relaxation.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/sweep_kernels.hpp"
#include "relaxation_cases.hpp"
#include "sparse/sweep.hpp"

using namespace aitken;
using namespace aitken::tests;

namespace {

using aitken::index;  // not the C library's
using aitken::relaxation::direction;
using rows_list = std::vector<std::int32_t>;

rows_list shuffled(index n, unsigned seed) {
    rows_list rows = ascending(n);
    std::shuffle(rows.begin(), rows.end(), std::mt19937(seed));
    return rows;
}

// Unsymmetric rows, a chain, a grid, a matrix with full rows and columns, one without couplings.
std::vector<sparse_case> cases() {
    std::vector<sparse_case> all;
    for (const index n : {1, 7, 8, 9, 33, 150}) all.push_back(sorted_rows(n, 1));
    all.push_back(box(1, 1, 41, 2.5, {0, 0, -1}, {0, 0, -0.5}));
    all.push_back(five_points(13, 17));
    all.push_back(box(3, 5, 9, 7, {-1, -0.5, -1.25}, {-0.75, -1, -1}));
    std::vector<std::map<std::int32_t, double>> arrow(60), loose(21);
    std::mt19937 random(4);
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (std::int32_t i = 0; i < 60; ++i) {
        arrow[i][i] = 70 + uniform(random);
        for (const std::int32_t k : {0, 31, 59})
            if (i != k) arrow[i][k] = uniform(random), arrow[k][i] = uniform(random);
    }
    for (std::int32_t i = 0; i < 21; ++i) loose[i][i] = 1.5 + uniform(random);
    all.push_back(from_rows(arrow, 1));
    all.push_back(from_rows(loose, 1));
    return all;
}

// Calls body(case, order of the rows, the layout of that order).
template <class Body>
void each_layout(Body body) {
    unsigned seed = 0;
    for (const sparse_case& a : cases()) {
        body(a, ascending(a.n()), make_sweep_layout(a.pattern.view()));
        for (int k = 0; k < 3; ++k) {
            const rows_list rows = shuffled(a.n(), ++seed);
            body(a, rows, make_sweep_layout(a.pattern.view(), rows));
        }
    }
}

template <class Body>
void each_level(Body body) {
    for (const std::string_view level : cpu::simd_levels()) body(cpu::simd_for(level), level != "base");
}

// a * b + c as the instruction set does it.
double multiply_add(bool fused, double a, double b, double c) {
    if (fused) return std::fma(a, b, c);
    const volatile double product = a * b;
    return product + c;
}

// A matrix with one order of its rows, as loops see it.
class plain_rows {
public:
    plain_rows(const sparse_case& a, const rows_list& order, bool fused)
        : a_(a), order_(order), turn_(order.size()), fused_(fused) {
        for (std::size_t k = 0; k < order.size(); ++k) turn_[order[k]] = static_cast<std::int32_t>(k);
    }
    double diagonal(std::int32_t i) const {
        for (index p = a_.pattern.indptr[i]; p < a_.pattern.indptr[i + 1]; ++p)
            if (a_.pattern.indices[p] == i) return a_.values[p];
        return 0;
    }
    double inverse(std::int32_t i) const { return 1.0 / diagonal(i); }
    // sum + the entries of row i in the order of their columns: of rows swept before it, or of those after.
    double add(std::int32_t i, bool earlier, const numbers& x, double sum) const {
        for (index p = a_.pattern.indptr[i]; p < a_.pattern.indptr[i + 1]; ++p) {
            const std::int32_t j = a_.pattern.indices[p];
            if (j != i && (turn_[j] < turn_[i]) == earlier) sum = fma(a_.values[p], x[j], sum);
        }
        return sum;
    }
    double fma(double a, double b, double c) const { return multiply_add(fused_, a, b, c); }

    template <class Row>
    void walk(bool backward, Row row) const {
        for (std::size_t k = 0; k < order_.size(); ++k) row(order_[backward ? order_.size() - 1 - k : k]);
    }

private:
    const sparse_case& a_;
    const rows_list& order_;
    rows_list turn_;
    bool fused_;
};

struct ordered {
    const cpu::sweep_matrix& m;
    numbers in(const numbers& natural) const {
        numbers out(natural.size());
        m.gather(natural.data(), out.data());
        return out;
    }
    numbers out(const numbers& places) const {
        numbers natural(places.size());
        m.scatter(places.data(), natural.data());
        return natural;
    }
};

bool same_bits(const numbers& a, const numbers& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}
bool near(double a, double b) { return std::fabs(a - b) <= 1e-12 * (std::fabs(a) + std::fabs(b)); }

// Calls body(table, plain rows, matrix, its pointers) for each case, order and instruction set.
template <class Body>
void each_kernel(Body body) {
    each_layout([&](const sparse_case& a, const rows_list& rows, const sweep_layout& layout) {
        cpu::sweep_matrix m(layout);
        m.update(a.values.data());
        m.set_shift(0);
        const aitken_sweep pointers = m.pointers();
        each_level([&](const aitken_simd_table& t, bool fused) {
            body(t, plain_rows(a, rows, fused), m, pointers, layout.slices.slices());
        });
    });
}

TEST(sweep_layout_holds_every_entry_once) {
    each_layout([](const sparse_case& a, const rows_list&, const sweep_layout& f) {
        const sliced_pattern& s = f.slices;
        CHECK(s.nnz + a.n() == a.nnz());
        std::vector<int> seen(static_cast<std::size_t>(a.nnz()), 0);
        for (index slice = 0; slice < s.slices(); ++slice) {
            const index first = s.row_begin[slice], rows = s.row_begin[slice + 1] - first;
            CHECK(rows >= 1 && rows <= sliced_pattern::height);
            CHECK(s.begin[slice] <= f.middle[slice] && f.middle[slice] <= s.begin[slice + 1]);
            for (index q = s.begin[slice]; q < s.begin[slice + 1]; ++q)
                for (int lane = 0; lane < sliced_pattern::height; ++lane) {
                    const index at = q * sliced_pattern::height + lane, p = s.source[at];
                    CHECK((p >= 0) == ((s.lanes[q] >> lane & 1) == 1));
                    if (p < 0) continue;
                    CHECK(lane < rows);
                    ++seen[p];
                    const std::int32_t i = f.order.rows[first + lane];
                    CHECK(p >= a.pattern.indptr[i] && p < a.pattern.indptr[i + 1]);
                    CHECK(s.columns[at] == f.place[a.pattern.indices[p]]);
                    CHECK(s.run[q] < 0 || s.run[q] + lane == s.columns[at]);
                    CHECK(f.slot[p] == static_cast<std::uint32_t>(at));
                }
        }
        for (index k = 0; k < f.n; ++k) {
            const index p = f.diagonal[k];
            CHECK(f.place[f.order.rows[k]] == k);
            CHECK(p >= 0 && a.pattern.indices[p] == f.order.rows[k] && f.slot[p] == sweep_layout::no_slot);
            ++seen[p];
        }
        CHECK(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
    });
}

TEST(sweep_layout_keeps_the_order_of_a_row) {
    each_layout([](const sparse_case& a, const rows_list& rows, const sweep_layout& f) {
        rows_list turn(rows.size());
        for (std::size_t k = 0; k < rows.size(); ++k) turn[rows[k]] = static_cast<std::int32_t>(k);
        const sliced_pattern& s = f.slices;
        for (index slice = 0; slice < s.slices(); ++slice)
            for (index lane = 0; lane < s.row_begin[slice + 1] - s.row_begin[slice]; ++lane) {
                const std::int32_t i = f.order.rows[s.row_begin[slice] + lane];
                std::vector<index> expected[2], found[2];
                for (index p = a.pattern.indptr[i]; p < a.pattern.indptr[i + 1]; ++p)
                    if (a.pattern.indices[p] != i)
                        expected[turn[a.pattern.indices[p]] < turn[i] ? 0 : 1].push_back(p);
                for (index q = s.begin[slice]; q < s.begin[slice + 1]; ++q)
                    if (const index p = s.source[q * sliced_pattern::height + lane]; p >= 0)
                        found[q < f.middle[slice] ? 0 : 1].push_back(p);
                CHECK(found[0] == expected[0] && found[1] == expected[1]);
            }
    });
}

TEST(sweep_layout_respects_the_levels) {
    each_layout([](const sparse_case& a, const rows_list& rows, const sweep_layout& f) {
        const index n = a.n();
        rows_list turn(rows.size());
        for (index k = 0; k < n; ++k) turn[rows[k]] = static_cast<std::int32_t>(k);
        // The longest chain of coupled rows before each row, over either triangle, by the definition.
        std::vector<index> level(static_cast<std::size_t>(n), 0), place_level(level.size());
        for (const std::int32_t i : rows)
            for (index j = 0; j < n; ++j)
                if (turn[j] < turn[i]) {
                    const auto coupled = [&](index r, index c) {
                        const auto first = a.pattern.indices.begin() + a.pattern.indptr[r],
                                   last = a.pattern.indices.begin() + a.pattern.indptr[r + 1];
                        return std::binary_search(first, last, static_cast<std::int32_t>(c));
                    };
                    if (coupled(i, j) || coupled(j, i)) level[i] = std::max(level[i], level[j] + 1);
                }
        CHECK(f.levels() == *std::max_element(level.begin(), level.end()) + 1);
        CHECK(static_cast<index>(f.slices.group_begin.size()) == f.levels() + 1);
        for (index l = 0; l < f.levels(); ++l) {
            for (index k = f.order.starts[l]; k < f.order.starts[l + 1]; ++k) {
                CHECK(level[f.order.rows[k]] == l);
                CHECK(k == f.order.starts[l] || turn[f.order.rows[k - 1]] < turn[f.order.rows[k]]);
            }
            // No slice straddles two levels.
            CHECK(f.slices.row_begin[f.slices.group_begin[l]] == f.order.starts[l]);
            CHECK(f.slices.row_begin[f.slices.group_begin[l + 1]] == f.order.starts[l + 1]);
        }
    });
}

TEST(sweeps_have_the_bits_of_a_loop_over_the_rows) {
    each_kernel([](const aitken_simd_table& t, const plain_rows& a, const cpu::sweep_matrix& m,
                   const aitken_sweep& pointers, index slices) {
        const index n = m.size();
        const ordered places{m};
        const numbers b = random_numbers(n, 3);
        numbers x = random_numbers(n, 5), q(static_cast<std::size_t>(n), 0.0);
        numbers fast_x = places.in(x), fast_q = q;
        const numbers fast_b = places.in(b);
        for (const auto& [backward, fresh, omega] :
             {std::tuple{false, true, 1.3}, std::tuple{false, false, 1.3}, std::tuple{true, true, 0.7},
              std::tuple{true, false, 1.9}, std::tuple{false, true, 1.0}}) {
            double before = 0, change = 0;
            const double rest = 1 / omega - 1;
            a.walk(backward, [&](std::int32_t i) {
                const double lower = a.add(i, true, x, 0.0), sum = a.add(i, false, x, lower);
                const double later = backward ? lower : sum - lower;
                const double step = omega * a.fma(b[i] - sum, a.inverse(i), -x[i]);
                if (!fresh) before += (q[i] - later) * (q[i] - later);
                change += step * step;
                q[i] = a.fma(rest * a.diagonal(i), step, later);
                x[i] += step;
            });
            double sums[2] = {0.25, 0.5};
            (backward ? t.sweep_backward : t.sweep_forward)(&pointers, fast_b.data(), omega, fresh,
                                                            fast_x.data(), fast_q.data(), 0, slices, sums);
            CHECK(same_bits(places.out(fast_x), x));
            CHECK(same_bits(places.out(fast_q), q));
            CHECK(near(sums[0], before + 0.25) && near(sums[1], change + 0.5));
        }
    });
}

TEST(half_solves_have_the_bits_of_a_loop_over_the_rows) {
    each_kernel([](const aitken_simd_table& t, const plain_rows& a, const cpu::sweep_matrix& m,
                   const aitken_sweep& pointers, index slices) {
        const index n = m.size();
        const ordered places{m};
        const double omega = 1.45, beta = 0.375;
        const numbers c = random_numbers(n, 11), r = random_numbers(n, 13);
        numbers v(c.size()), p = random_numbers(n, 17), s(c.size()), w(c.size());
        double size = 0, product = 0, norm = 0;
        numbers fast(c.size()), fast_p = places.in(p), fast_s(c.size());
        double sum = 0;

        a.walk(false, [&](std::int32_t i) {
            v[i] = (c[i] - a.add(i, true, v, 0.0)) * (omega * a.inverse(i));
            size += v[i] * v[i] * a.diagonal(i);
        });
        t.sweep_lower(&pointers, omega, places.in(c).data(), fast.data(), 0, slices, &sum);
        CHECK(same_bits(places.out(fast), v));
        CHECK(near(sum, size));

        a.walk(true, [&](std::int32_t i) {
            p[i] = a.fma(a.diagonal(i), r[i], beta * p[i]);
            s[i] = (p[i] - a.add(i, false, s, 0.0)) * (omega * a.inverse(i));
        });
        t.sweep_direction(&pointers, omega, beta, places.in(r).data(), fast_p.data(), fast_s.data(), 0,
                          slices);
        CHECK(same_bits(places.out(fast_p), p));
        CHECK(same_bits(places.out(fast_s), s));

        a.walk(false, [&](std::int32_t i) {
            // along - (excess * d) * up: fused where the compiler of that instruction set may not be.
            const double right = p[i] - (2 / omega - 1) * a.diagonal(i) * s[i];
            w[i] = (right - a.add(i, true, w, 0.0)) * (omega * a.inverse(i));
            product += p[i] * (s[i] + w[i]);
        });
        sum = 0;
        t.sweep_image(&pointers, omega, fast_p.data(), fast_s.data(), fast.data(), 0, slices, &sum);
        const numbers image = places.out(fast);
        for (index i = 0; i < n; ++i) CHECK_NEAR(image[i], w[i], 1e-13 * (1 + std::fabs(w[i])));
        CHECK_NEAR(sum, product, 1e-12 * (1 + std::fabs(product)) * static_cast<double>(n));

        a.walk(false, [&](std::int32_t i) {
            const double y = a.fma(1 / omega * a.diagonal(i), v[i], a.add(i, true, v, 0.0));
            norm += y * y;
        });
        sum = 0;
        t.sweep_lower_norm(&pointers, omega, places.in(v).data(), 0, slices, &sum);
        CHECK(near(sum, norm));
        // N v = c.
        double length2 = 0;
        for (const double entry : c) length2 += entry * entry;
        CHECK(near(norm, length2));
    });
}

TEST(residuals_have_the_bits_of_a_loop_over_the_rows) {
    each_kernel([](const aitken_simd_table& t, const plain_rows& a, const cpu::sweep_matrix& m,
                   const aitken_sweep& pointers, index slices) {
        const ordered places{m};
        const numbers b = random_numbers(m.size(), 19), x = random_numbers(m.size(), 23);
        numbers r(b.size()), image(b.size());
        double norm = 0;
        a.walk(false, [&](std::int32_t i) {
            image[i] = a.fma(a.diagonal(i), x[i], a.add(i, false, x, a.add(i, true, x, 0.0)));
            r[i] = b[i] - image[i];
            norm += r[i] * r[i];
        });
        numbers fast(b.size());
        double sum = 0, again = 0;
        const numbers from = places.in(b), at = places.in(x);
        t.sweep_residual(&pointers, from.data(), at.data(), fast.data(), 0, slices, &sum);
        CHECK(same_bits(places.out(fast), r));
        CHECK(near(sum, norm));
        t.sweep_residual(&pointers, from.data(), at.data(), nullptr, 0, slices, &again);
        CHECK(again == sum);
        t.sweep_residual(&pointers, nullptr, at.data(), fast.data(), 0, slices, &again);
        CHECK(same_bits(places.out(fast), image));
    });
}

TEST(relaxation_bits_do_not_depend_on_the_threads) {
    // Levels of hundreds of rows in the box's natural order, of half the rows in red-black: threads share
    // them.
    const sparse_case grids[] = {five_points(260, 300), box(42, 42, 42, 6.5, {-1, -1, -1}, {-1, -1, -1})};
    for (const sparse_case& a : grids)
        for (const auto order :
             {relaxation::order::natural, relaxation::order::redblack, relaxation::order::blocks}) {
            interrupt quiet;
            const auto sweeper =
                cpu::relaxation::make_sweeper(a.pattern.view(), a.values.data(), order, {}, quiet);
            const numbers b = random_numbers(a.n(), 29);
            numbers first[3];
            double residual[3] = {};
            for (int threads = 1; threads <= 3; ++threads) {
                int part = 0;
                const auto compare = [&](const numbers& x, const relaxation::report& r) {
                    if (threads == 1) first[part] = x, residual[part] = r.residual;
                    CHECK(same_bits(x, first[part]) && r.residual == residual[part]);
                    ++part;
                };
                interrupt signals;
                for (const direction sweep : {direction::forward, direction::symmetric}) {
                    relaxation::sor_options o;
                    o.sweep = sweep;
                    o.omega = 1.7;
                    o.max_sweeps = 9;
                    o.n_threads = threads;
                    numbers x(b.size(), 0.0);
                    const auto r = sweeper->sor({b.data(), a.n()}, {x.data(), a.n()}, 0, o, signals, {});
                    CHECK(r.iterations == 9);
                    compare(x, r);
                }
                relaxation::ssor_options o;
                o.omega = 1.5;
                o.max_iterations = 6;
                o.n_threads = threads;
                numbers x(b.size(), 0.0);
                const auto r = sweeper->ssor_cg({b.data(), a.n()}, {x.data(), a.n()}, 0.5, o, signals, {});
                CHECK(r.iterations > 0);
                compare(x, r);
            }
        }
}

TEST(relaxation_launches_and_reads) {
    const sparse_case a = five_points(20, 21);
    interrupt quiet;
    const auto sweeper = cpu::relaxation::make_sweeper(a.pattern.view(), a.values.data(),
                                                       relaxation::order::natural, {}, quiet);
    const numbers b = random_numbers(a.n(), 31);
    const auto sor = [&](index sweeps) {
        relaxation::sor_options o;
        o.rtol = 0;
        o.max_sweeps = sweeps;
        numbers x(b.size(), 0.0);
        interrupt signals;
        return sweeper->sor({b.data(), a.n()}, {x.data(), a.n()}, 0, o, signals, {});
    };
    const auto cg = [&](index iterations) {
        relaxation::ssor_options o;
        o.rtol = 0;
        o.max_iterations = iterations;
        numbers x(b.size(), 0.0);
        interrupt signals;
        return sweeper->ssor_cg({b.data(), a.n()}, {x.data(), a.n()}, 0, o, signals, {});
    };
    // Between two lengths of a run nothing but sweeps happens: no product, one launch, one read each.
    const auto few = sor(20), many = sor(60);
    CHECK(few.iterations == 20 && many.iterations == 60);
    CHECK(many.counts.launches - few.counts.launches == 40);
    CHECK(many.counts.reads - few.counts.reads == 40);
    CHECK(many.matvecs == few.matvecs);
    // The norm is looked at once per factor of ten at most.
    const auto shorter = cg(4), longer = cg(8);
    CHECK(shorter.iterations == 4 && longer.iterations == 8);
    CHECK(longer.matvecs == shorter.matvecs);
    const long looks = (longer.counts.launches - shorter.counts.launches) - 4 * 3;
    CHECK(looks >= 0 && looks <= 4);
    CHECK(longer.counts.reads - shorter.counts.reads == 4 + looks);
}

}  // namespace
