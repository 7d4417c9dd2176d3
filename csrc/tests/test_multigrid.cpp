// Grids with obstacles and their multigrid: the operator against its matrix, cycles as matrices (symmetric,
// definite, convergent), what the driver asks of its kernels, and bits.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/api/multigrid.hpp"
#include "cpu/threads.hpp"
#include "drivers/multigrid.hpp"
#include "multigrid_cases.hpp"

using namespace aitken;
using multigrid_cases::awkward_cases;
using multigrid_cases::dense_operator;
using multigrid_cases::ends;
using multigrid_cases::grid_case;
using multigrid_cases::make_case;

namespace {

using grid_pointer = std::shared_ptr<cpu::multigrid::poisson_grid>;

grid_pointer grid_of(const grid_case& c) {
    auto grid = cpu::multigrid::make_grid(c.box);
    grid->update(c.coefficients());
    return grid;
}

class room {
public:
    explicit room(const cpu::multigrid::poisson_grid& g)
        : block_(static_cast<std::size_t>(g.size() + 2 * g.guard()), 0.0), first_(g.guard()) {}
    double* data() { return block_.data() + first_; }
    bool clean(const cpu::multigrid::poisson_grid& g) const {
        return std::all_of(block_.begin(), block_.begin() + first_, [](double v) { return v == 0; }) &&
               std::all_of(block_.begin() + first_ + g.size(), block_.end(), [](double v) { return v == 0; });
    }

private:
    std::vector<double> block_;
    index first_;
};

std::vector<double> through(const cpu::multigrid::poisson_grid& g, linear_map<double>& map,
                            const std::vector<double>& x) {
    room from(g), to(g);
    std::vector<double> y(x.size());
    g.scatter(x.data(), false, from.data());
    map.apply(from.data(), to.data());
    CHECK(from.clean(g) && to.clean(g));
    g.gather(to.data(), false, y.data());
    return y;
}

// The map as a matrix of all cells, column by column.
std::vector<double> as_matrix(const cpu::multigrid::poisson_grid& g, linear_map<double>& map) {
    const index m = g.shape().cells();
    std::vector<double> out(static_cast<std::size_t>(m * m)), e(static_cast<std::size_t>(m), 0.0);
    for (index j = 0; j < m; ++j) {
        e[j] = 1;
        room from(g), to(g);
        g.scatter(e.data(), false, from.data());
        g.project(from.data());
        map.apply(from.data(), to.data());
        std::vector<double> y(static_cast<std::size_t>(m));
        g.gather(to.data(), false, y.data());
        for (index i = 0; i < m; ++i) out[i * m + j] = y[i];
        e[j] = 0;
    }
    return out;
}

std::vector<double> random_vector(index n, unsigned seed) {
    std::mt19937_64 numbers(seed);
    std::normal_distribution<double> normal;
    std::vector<double> out(static_cast<std::size_t>(n));
    for (double& v : out) v = normal(numbers);
    return out;
}

double dot(const std::vector<double>& x, const std::vector<double>& y) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
}

multigrid::learned_weights random_weights(int ndim, double size, unsigned seed) {
    multigrid::learned_weights w;
    w.ndim = ndim;
    w.omega = {1.24, 0.6};
    std::mt19937_64 numbers(seed);
    std::normal_distribution<float> normal(0.0f, static_cast<float>(size));
    const std::size_t taps = ndim == 3 ? 27 : 9;
    const auto fill = [&](std::vector<float>& v, std::size_t n) {
        v.resize(n);
        for (float& x : v) x = normal(numbers);
    };
    fill(w.w1, 16 * 4 * taps);
    fill(w.b1, 16);
    fill(w.w2, 16 * 16);
    fill(w.b2, 16);
    fill(w.w3, 3 * 16);
    fill(w.b3, 3);
    return w;
}

std::vector<multigrid::cycle_options> cycles_for(int ndim) {
    std::vector<multigrid::cycle_options> out(5);
    out[0].visits = 1;
    out[2].kind = multigrid::smoother::chebyshev;
    out[3].kind = multigrid::smoother::chebyshev;
    out[3].visits = 1;
    out[3].degree = 1;
    out[4].omega = {0.7};
    if (ndim > 1) {
        out.emplace_back().learned = random_weights(ndim, 0.5, 3);
        out.emplace_back().learned = random_weights(ndim, 8.0, 4);  // fields that jump between their bounds
    }
    return out;
}

}  // namespace

TEST(multigrid_operator) {
    unsigned seed = 0;
    for (const grid_case& c : awkward_cases()) {
        const auto grid = grid_of(c);
        const auto a = dense_operator(c);
        const index m = c.box.cells();
        const auto x = random_vector(m, ++seed);
        auto map = cpu::multigrid::make_grid_map(grid);
        const auto y = through(*grid, *map, x);
        room d(*grid);
        grid->diagonal(d.data());
        std::vector<double> diagonal(static_cast<std::size_t>(m));
        grid->gather(d.data(), false, diagonal.data());
        for (index i = 0; i < m; ++i) {
            double sum = 0;
            for (index j = 0; j < m; ++j) sum += a[i * m + j] * x[j];
            CHECK_NEAR(y[i], sum, 1e-12);
            CHECK_NEAR(diagonal[i], a[i * m + i], 1e-12);
        }
        // Both forms of vectors, there and back.
        room p(*grid), q(*grid);
        std::vector<double> compact(static_cast<std::size_t>(grid->n_fluid()));
        grid->scatter(x.data(), false, p.data());
        grid->gather(p.data(), true, compact.data());
        grid->scatter(compact.data(), true, q.data());
        CHECK(std::equal(p.data(), p.data() + grid->size(), q.data()));
        CHECK_NEAR(grid->apply_dot(p.data(), q.data()), dot(x, y), 1e-9 * (1 + std::fabs(dot(x, y))));
    }
}

// Components against a flood fill over the matrix.
TEST(multigrid_components) {
    for (const grid_case& c : awkward_cases()) {
        const auto grid = grid_of(c);
        const auto a = dense_operator(c);
        const index m = c.box.cells();
        std::vector<std::int32_t> label(static_cast<std::size_t>(m)), mine(label);
        grid->component_labels(label.data());
        std::fill(mine.begin(), mine.end(), -1);
        index count = 0, singular = 0;
        for (index s = 0; s < m; ++s) {
            const bool fluid = c.flags.empty() || c.flags[s] == multigrid::fluid;
            CHECK((label[s] >= 0) == fluid);
            if (!fluid || mine[s] >= 0) continue;
            std::vector<index> stack{s};
            mine[s] = static_cast<std::int32_t>(count);
            double excess = 0;
            while (!stack.empty()) {
                const index i = stack.back();
                stack.pop_back();
                CHECK(label[i] == label[s]);
                for (index j = 0; j < m; ++j) {
                    excess += a[i * m + j];
                    if (i == j || a[i * m + j] == 0 || mine[j] >= 0) continue;
                    mine[j] = mine[s];
                    stack.push_back(j);
                }
            }
            const bool is_singular = excess < 1e-10;
            CHECK(is_singular == (label[s] < grid->singular_components()));
            singular += is_singular;
            ++count;
        }
        CHECK(count == grid->components());
        CHECK(singular == grid->singular_components());

        room v(*grid);
        const auto x = random_vector(m, 5);
        grid->scatter(x.data(), false, v.data());
        const double taken = grid->project(v.data());
        std::vector<double> y(static_cast<std::size_t>(m));
        grid->gather(v.data(), false, y.data());
        double moved = 0;
        std::map<std::int32_t, double> sums;
        for (index i = 0; i < m; ++i) {
            if (label[i] < 0) continue;
            moved += (x[i] - y[i]) * (x[i] - y[i]);
            if (label[i] < singular)
                sums[label[i]] += y[i];
            else
                CHECK(x[i] == y[i]);
        }
        CHECK_NEAR(std::sqrt(moved), taken, 1e-12 * (1 + taken));
        for (const auto& [which, sum] : sums) CHECK_NEAR(sum, 0.0, 1e-12);
    }
}

// Symmetric to the rounding of its single precision, and definite. A coarse level has at least half the
// energy of what it corrects, so that an exact correction is at most twice too long: eigenvalues of B A are
// below 2 one level above the coarsest, and stay below 2 where each level visits the next twice (2 t - t^2 <=
// 1), or may double from level to level where it does so once.
TEST(multigrid_cycles_are_symmetric_and_definite) {
    for (const grid_case& c : awkward_cases()) {
        const auto grid = grid_of(c);
        const index m = c.box.cells();
        for (const auto& options : cycles_for(c.box.ndim)) {
            const auto cycle = cpu::multigrid::make_cycle(grid, options);
            // What a network may scale corrections by is not bounded so.
            const double bound = options.learned.ndim > 0 ? std::numeric_limits<double>::infinity()
                                 : options.visits == 2    ? 2.002
                                                          : std::pow(2.0, cycle->levels());
            const auto b = as_matrix(*grid, *cycle);
            double largest = 0, skew = 0;
            for (index i = 0; i < m; ++i)
                for (index j = 0; j < m; ++j) {
                    largest = std::max(largest, std::fabs(b[i * m + j]));
                    skew = std::max(skew, std::fabs(b[i * m + j] - b[j * m + i]));
                }
            CHECK_NEAR(skew, 0.0, 3e-6 * largest);
            auto map = cpu::multigrid::make_grid_map(grid);
            for (unsigned seed = 1; seed <= 4; ++seed) {
                room v(*grid);
                const auto start = random_vector(m, seed);
                grid->scatter(start.data(), false, v.data());
                grid->project(v.data());
                std::vector<double> u(static_cast<std::size_t>(m));
                grid->gather(v.data(), false, u.data());
                if (dot(u, u) < 1e-20) continue;
                CHECK(dot(u, through(*grid, *cycle, u)) > 0);
                // Towards the smallest and the largest eigenvalue of B A: power steps of 1 - B A.
                double quotient = 0;
                for (int k = 0; k < 30; ++k) {
                    const auto au = through(*grid, *map, u), bau = through(*grid, *cycle, au);
                    const double energy = dot(u, au);
                    if (energy < 1e-10) break;
                    quotient = dot(au, bau) / energy;
                    CHECK(quotient > 0);
                    CHECK(quotient < bound);
                    for (std::size_t i = 0; i < u.size(); ++i) u[i] -= bau[i];
                    const double size = std::sqrt(dot(u, u));
                    if (size == 0) break;
                    for (double& w : u) w /= size;
                }
            }
        }
    }
}

// A stand-in for kernels: writes down what the driver asks for.
namespace {
struct note_taker {
    int last;
    std::string notes;
    int coarsest() const { return last; }
    void note(char what, int l) { notes.append(1, what).append(std::to_string(l)); }
    void solve_from(int l, bool keep) { note(keep ? 'S' : 's', l); }
    void scale(int l, double) { note('f', l); }
    void step(int l, double, double) { note('j', l); }
    void restrict_residual(int l) { note('r', l); }
    void prolong(int l) { note('p', l); }
};
std::string notes_of(int levels, int visits, const multigrid::cycle_options& options) {
    note_taker k{levels - 1, {}};
    const auto smoothing = drivers::multigrid::plan_smoothing(options, 3);
    drivers::multigrid::cycle_driver<note_taker>(k, smoothing, visits).run();
    return k.notes;
}
}  // namespace

TEST(multigrid_driver_asks_for) {
    const multigrid::cycle_options two;
    CHECK(notes_of(1, 2, two) == "s0");
    CHECK(notes_of(2, 2, two) == "f0j0r0s1p0j0j0");
    CHECK(notes_of(3, 1, two) == "f0j0r0f1j1r1s2p1j1j1p0j0j0");
    // The second visit goes on from what the first has left.
    CHECK(notes_of(3, 2, two) == "f0j0r0f1j1r1s2p1j1j1j1j1r1s2p1j1j1p0j0j0");
    multigrid::cycle_options three;
    three.kind = multigrid::smoother::chebyshev;
    CHECK(notes_of(2, 1, three) == "f0j0j0r0s1p0j0j0j0");
}

TEST(multigrid_plan_of_levels) {
    using drivers::multigrid::plan_levels;
    multigrid::box b;
    b.ndim = 3;
    b.n = {64, 33, 16};
    const auto even = plan_levels(b);
    CHECK(even.size() == 5);
    CHECK((even[1].n == std::array<index, 3>{32, 17, 8}));
    CHECK((even[2].n == std::array<index, 3>{16, 9, 4}));
    CHECK((even[3].n == std::array<index, 3>{8, 5, 4}));
    CHECK((even.back().n == std::array<index, 3>{4, 3, 4}));
    CHECK(even[1].weight[0] == 2.0);  // 2^(d - 2)
    // Only what is strongly coupled is halved, until it is no longer stronger.
    b.n = {64, 64, 64};
    b.scale = {1, 1, 64};
    const auto thin = plan_levels(b);
    CHECK((thin[1].n == std::array<index, 3>{64, 64, 32}));
    CHECK((thin[2].n == std::array<index, 3>{64, 64, 16}));
    CHECK((thin[3].n == std::array<index, 3>{64, 64, 8}));
    CHECK((thin[4].n == std::array<index, 3>{32, 32, 4}));
    CHECK((thin.back().n == std::array<index, 3>{4, 4, 4}));
}

// Cells of odd ends are narrower, and as close to their neighbours as they are.
TEST(multigrid_widths) {
    multigrid::box b;
    b.ndim = 2;
    b.n = {1, 9, 14};
    const auto plan = drivers::multigrid::plan_levels(b);
    CHECK(plan.size() == 3);
    CHECK((plan[1].width[1] == std::vector<double>{2, 2, 2, 2, 1}));
    CHECK((plan[1].face[1] == std::vector<double>{2.0 / 3, 0.5, 0.5, 0.5, 2.0 / 3}));
    CHECK((plan[1].face[2] == std::vector<double>(7, 0.5)));
    CHECK((plan[2].width[1] == std::vector<double>{4, 4, 1}));
    CHECK((plan[2].width[2] == std::vector<double>{4, 4, 4, 2}));
    CHECK((plan[2].exterior[1] == std::vector<double>{0.4, 0.4, 1.0}));
    CHECK((plan[2].face[0] == std::vector<double>{1.0}));
}

TEST(multigrid_refuses) {
    const grid_case c = make_case(2, {1, 8, 8}, ends::open, false, 0.0, 1);
    const auto grid = grid_of(c);
    const auto make = [&](auto&& change) {
        multigrid::cycle_options o;
        change(o);
        return cpu::multigrid::make_cycle(grid, o);
    };
    CHECK_THROWS(make([](auto& o) { o.visits = 0; }), std::invalid_argument);
    CHECK_THROWS(make([](auto& o) { o.omega = {1.0}; }), std::invalid_argument);
    CHECK_THROWS(make([](auto& o) { o.omega = {1.3, 1.3}; }), std::invalid_argument);
    CHECK_THROWS(make([](auto& o) { o.omega = {std::nan("")}; }), std::invalid_argument);
    CHECK_THROWS(make([](auto& o) {
                     o.kind = multigrid::smoother::chebyshev;
                     o.degree = 9;
                 }),
                 std::invalid_argument);
    CHECK_THROWS(make([](auto& o) { o.learned = random_weights(3, 0.1, 1); }), std::invalid_argument);
    grid_case bad = c;
    bad.flags.assign(64, 3);
    CHECK_THROWS(grid->update(bad.coefficients()), std::invalid_argument);
}

// Same bits for any number of threads, for clones, and after updates there and back.
TEST(multigrid_bits) {
    const grid_case c = make_case(3, {40, 36, 33}, ends::mixed, false, 0.15, 7);
    grid_case other = make_case(3, {40, 36, 33}, ends::mixed, false, 0.3, 8);
    const auto grid = grid_of(c);
    const auto x = random_vector(c.box.cells(), 9);
    for (const auto& options : cycles_for(3)) {
        const auto cycle = cpu::multigrid::make_cycle(grid, options);
        std::vector<double> one, clone;
        {
            const cpu::thread_scope scope(1);
            one = through(*grid, *cycle, x);
            clone = through(*grid, *cycle->clone(), x);
        }
        const cpu::thread_scope scope(3);
        CHECK(one == through(*grid, *cycle, x));
        CHECK(one == clone);
        grid->update(other.coefficients());
        cycle->update();
        CHECK(one != through(*grid, *cycle, x));
        grid->update(c.coefficients());
        cycle->update();
        CHECK(one == through(*grid, *cycle, x));
    }
}

// Right-hand sides of any size, and none.
TEST(multigrid_scales) {
    const grid_case c = make_case(2, {1, 24, 20}, ends::open, false, 0.1, 3);
    const auto grid = grid_of(c);
    const auto cycle = cpu::multigrid::make_cycle(grid, {});
    const auto x = random_vector(c.box.cells(), 1);
    const auto z = through(*grid, *cycle, x);
    for (const double factor : {1e-300, 1e-200, 1e200, 1e300}) {
        std::vector<double> scaled = x;
        for (double& v : scaled) v *= factor;
        const auto y = through(*grid, *cycle, scaled);
        for (std::size_t i = 0; i < y.size(); ++i) CHECK_NEAR(y[i] / factor, z[i], 2e-6);
    }
    for (const double v : through(*grid, *cycle, std::vector<double>(x.size(), 0.0))) CHECK(v == 0);
}
