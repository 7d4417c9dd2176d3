// The CUDA kernels of grids, multigrid cycles and conjugate directions, run on the CPU as block programs:
// against the CPU kernels on awkward grids, and whole solves with launches and host reads counted.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/deepcg.hpp"
#include "core/api/linear_maps.hpp"
#include "cuda/deepcg_kernels.hpp"
#include "deepcg_cases.hpp"

namespace aitken::tests {
namespace {

using multigrid_cases::awkward_cases;
using multigrid_cases::ends;
using multigrid_cases::grid_case;
using multigrid_cases::make_case;
namespace dcg = aitken::deepcg;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

static_assert(Backend<cuda::reusing_backend<block_backend>>);
static_assert(drivers::deepcg::DeepcgKernels<cuda::deepcg_kernels<block_backend>>);
static_assert(drivers::multigrid::CycleKernels<cuda::cycle_kernels<cuda::device_cycle<block_backend>>>);

double length(const numbers& v) {
    double sum = 0;
    for (double x : v) sum += x * x;
    return std::sqrt(sum);
}
double distance(numbers a, const numbers& b) {
    CHECK(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
    return length(a);
}

void close_off(grid_case& c) {
    std::replace(c.flags.begin(), c.flags.end(), std::uint8_t{multigrid::dirichlet},
                 std::uint8_t{multigrid::solid});
}

// Everything solid; anisotropic; one fluid cell; two enclosed halls, one of more than a part; many pockets.
std::vector<grid_case> further_cases() {
    std::vector<grid_case> out;
    out.push_back(make_case(2, {1, 6, 7}, ends::open, false, 0.1, 1));
    std::fill(out.back().flags.begin(), out.back().flags.end(), multigrid::solid);
    out.push_back(make_case(3, {9, 8, 10}, ends::mixed, true, 0.1, 2));
    out.back().box.scale = {1.0, 3.0, 40.0};
    out.push_back(make_case(2, {1, 9, 9}, ends::open, false, 0.1, 3));
    std::fill(out.back().flags.begin(), out.back().flags.end(), multigrid::solid);
    out.back().flags[40] = multigrid::fluid;
    out.push_back(make_case(2, {1, 90, 101}, ends::closed, false, 0.0, 4));
    out.back().flags.assign(90 * 101, multigrid::fluid);
    for (index i = 0; i < 90; ++i) out.back().flags[i * 101 + 50] = multigrid::solid;
    out.push_back(make_case(2, {1, 40, 37}, ends::periodic, false, 0.55, 5));
    close_off(out.back());
    out.push_back(make_case(3, {20, 22, 19}, ends::mixed, false, 0.2, 6));
    out.push_back(make_case(3, {18, 12, 21}, ends::open, true, 0.1, 7));
    out.push_back(make_case(2, {1, 65, 33}, ends::open, false, 0.1, 8));
    // Enclosed, and held by a shift alone; a small one, too.
    for (const bool variable : {false, true})
        for (const double shift : {0.4, 1e-7}) {
            out.push_back(make_case(2, {1, 23, 18}, ends::closed, variable, 0.35, 9));
            close_off(out.back());
            out.back().shift = shift;
        }
    return out;
}
std::vector<grid_case> all_cases() {
    std::vector<grid_case> out = awkward_cases();
    for (grid_case& c : further_cases()) out.push_back(std::move(c));
    return out;
}
std::string name_of(const grid_case& c) {
    return std::to_string(c.box.n[0]) + "x" + std::to_string(c.box.n[1]) + "x" + std::to_string(c.box.n[2]) +
           (c.box.variable ? " variable" : "") + (c.box.periodic[1] || c.box.periodic[2] ? " periodic" : "");
}

// --- the operator --------------------------------------------------------------------------------

TEST(cuda_grid_operator_like_the_cpu) {
    for (const grid_case& c : all_cases()) {
        const auto host = host_grid_of(c);
        interrupt signals;
        block_backend be(signals, 5);
        cuda::device_grid<block_backend> grid(be, host->shape());
        grid.update(*host);
        padded_vectors<block_backend> at(be, *host);
        const numbers x = normal_numbers(c.box.cells(), 3);
        double* const from = at.put(x);
        double* const to = at.fresh();
        numbers here = at.host_block(x), image = at.host_block(numbers(x.size(), 0.0));
        const double dot = host->apply_dot(here.data() + host->guard(), image.data() + host->guard());
        const double scale = 1 + length(at.cells(image));
        grid.apply(from, to);
        CHECK(at.clean(to));
        CHECK_NEAR(distance(at.get(to), at.cells(image)), 0.0, 1e-14 * scale);
        double* const again = at.fresh();
        const scalar_ref out = be.scalar();
        const long before = be.counts().launches;
        grid.apply_dot(from, again, out.address());
        CHECK(be.counts().launches == before + 2);
        CHECK(at.get(again) == at.get(to));
        CHECK_NEAR(*out.address(), dot, 1e-13 * scale * (1 + length(x)));

        // Means, with what was taken.
        const double taken = host->project(here.data() + host->guard());
        CHECK_NEAR(grid.project_measured(from), taken, 1e-13 * (1 + length(x)));
        CHECK(grid.singular() == (host->singular_components() > 0));
        CHECK(at.clean(from));
        CHECK_NEAR(distance(at.get(from), at.cells(here)), 0.0, 1e-13 * (1 + length(x)));

        // Both forms of vectors.
        for (const bool compact : {false, true}) {
            const numbers plain = normal_numbers(grid.length(compact), 6);
            if (plain.empty()) continue;
            const auto there = be.allocate<double>(static_cast<index>(plain.size()));
            be.upload(plain.data(), there);
            double* const room = at.fresh();
            grid.scatter(there.data, compact, room);
            numbers expected = at.host_block(numbers(x.size(), 0.0));
            host->scatter(plain.data(), compact, expected.data() + host->guard());
            CHECK(at.block(room) == expected);
            numbers back(plain.size()), host_back(plain.size());
            be.fill(there, nan);
            grid.gather(room, compact, there.data);
            be.download(vec<const double>(there), back.data());
            host->gather(expected.data() + host->guard(), compact, host_back.data());
            CHECK(back == host_back);
        }
    }
}

// --- cycles --------------------------------------------------------------------------------------

numbers host_cycle(const cpu::multigrid::poisson_grid& host, cpu::multigrid::cycle& cycle,
                   const padded_vectors<block_backend>& at, const numbers& r) {
    numbers from = at.host_block(r), to(from.size(), 0.0);
    cycle.apply(from.data() + host.guard(), to.data() + host.guard());
    return at.cells(to);
}

// Every kind of cycle with its levels shared out in every way between kernels of their own and one block.
TEST(cuda_cycles_like_the_cpu) {
    for (const grid_case& c : all_cases()) {
        const auto host = host_grid_of(c);
        const index cells = c.box.cells();
        int kind = 0;
        for (const auto& options : cycle_kinds(c.box.ndim)) {
            const auto cycle = cpu::multigrid::make_cycle(host, options);
            for (const index small : {index{0}, cells / 5, cells}) {
                interrupt signals;
                block_backend be(signals, static_cast<unsigned>(small + kind));
                cuda::device_grid<block_backend> grid(be, host->shape());
                grid.update(*host);
                padded_vectors<block_backend> at(be, *host);
                cuda::device_cycle<block_backend> there(be, grid, options, small);
                CHECK(there.levels().count() == cycle->levels());
                double* const z = at.fresh();
                numbers last;
                for (const unsigned seed : {1u, 2u, 1u}) {
                    numbers r = normal_numbers(cells, seed);
                    double* const from = at.put(r);
                    grid.project(from);
                    r = at.get(from);
                    const numbers expected = host_cycle(*host, *cycle, at, r);
                    there.apply(from, z);
                    CHECK(at.clean(z));
                    grid.project(z);
                    const numbers got = at.get(z);
                    const double off = distance(got, expected), size = length(expected);
                    // Fields at their bounds magnify the rounding of what they are made of.
                    if (!(off <= (kind == 7 ? 1e-4 : 1e-5) * size))
                        check::fail(__FILE__, __LINE__,
                                    name_of(c) + ", kind " + std::to_string(kind) + ", small " +
                                        std::to_string(small) + ": off by " + std::to_string(off / size));
                    if (seed == 1 && !last.empty()) CHECK(got == last);  // nothing is left of other cycles
                    if (seed == 1) last = got;
                }
            }
            ++kind;
        }
    }
}

// Fields of the network, level by level.
TEST(cuda_learned_fields_like_the_cpu) {
    for (const grid_case& c : all_cases()) {
        if (c.box.ndim < 2) continue;
        const auto host = host_grid_of(c);
        for (const float size : {0.3f, 2.0f}) {
            multigrid::cycle_options options;
            options.learned = weights_of(c.box.ndim, size, 9);
            const auto cycle = cpu::multigrid::make_cycle(host, options);
            interrupt signals;
            block_backend be(signals, 3);
            cuda::device_grid<block_backend> grid(be, host->shape());
            grid.update(*host);
            cuda::device_cycle<block_backend> there(be, grid, options);
            for (int l = 0; l + 1 < there.levels().count(); ++l) {
                const cuda::grid_level& v = there.levels().at(l);
                int which = 0;
                for (const float* field : {v.phi, v.constant, v.linear}) {
                    const std::vector<float> expected = cycle->field(l, which++);
                    CHECK(static_cast<int>(expected.size()) == v.at.cells());
                    double off = 0;
                    for (int k = 0; k < v.at.cells(); ++k)
                        off = std::max<double>(off, std::fabs(expected[static_cast<std::size_t>(k)] -
                                                              field[v.at.position(v.at.of_cell(k))]));
                    CHECK_NEAR(off, 0.0, size < 1 ? 2e-5 : 2e-3);
                }
            }
        }
    }
}

// Other obstacles on the same levels, and back: the same bits, and no more memory.
TEST(cuda_cycle_updates) {
    for (const bool variable : {false, true})
        for (const int ndim : {2, 3}) {
            const std::array<index, 3> n{ndim == 3 ? 11 : 1, 13, 12};
            grid_case one = make_case(ndim, n, ends::closed, variable, 0.2, 4);
            grid_case two = make_case(ndim, n, ends::closed, variable, 0.5, 5);
            for (auto* c : {&one, &two}) close_off(*c);
            two.shift = 0.2;
            const auto host = host_grid_of(two);
            for (const auto& options : cycle_kinds(ndim)) {
                interrupt signals;
                block_backend be(signals);
                cuda::device_grid<block_backend> grid(be, host->shape());
                padded_vectors<block_backend> at(be, *host);
                host->update(one.coefficients());
                grid.update(*host);
                cuda::device_cycle<block_backend> there(be, grid, options, 40);
                const numbers r = normal_numbers(one.box.cells(), 8);
                double *const first = at.put(r), *const z = at.fresh();
                there.apply(first, z);
                const numbers expected = at.get(z);
                host->update(two.coefficients());
                double *const other = at.put(r), *const y = at.fresh();
                std::size_t bytes = 0;
                for (int round = 0; round < 2; ++round) {
                    host->update(two.coefficients());
                    grid.update(*host);
                    there.update();
                    there.apply(other, y);
                    const auto cycle = cpu::multigrid::make_cycle(host, options);
                    const numbers answer = host_cycle(*host, *cycle, at, at.get(other));
                    CHECK_NEAR(distance(at.get(y), answer), 0.0, 1e-5 * length(answer));
                    host->update(one.coefficients());
                    grid.update(*host);
                    there.update();
                    there.apply(first, z);
                    CHECK(at.get(z) == expected);
                    if (round == 0) bytes = be.bytes();
                }
                CHECK(be.bytes() == bytes);
            }
        }
}

// A learned cycle keeps its fields to itself: a plain one on the same grid does not see them.
TEST(cuda_cycles_share_a_grid) {
    for (const bool variable : {false, true}) {
        const grid_case c = make_case(2, {1, 20, 23}, ends::open, variable, 0.1, 6);
        const auto host = host_grid_of(c);
        interrupt signals;
        block_backend be(signals);
        cuda::device_grid<block_backend> grid(be, host->shape());
        grid.update(*host);
        padded_vectors<block_backend> at(be, *host);
        multigrid::cycle_options plain, learned;
        learned.learned = weights_of(2, 0.5f, 7);
        cuda::device_cycle<block_backend> first(be, grid, plain), second(be, grid, learned);
        const numbers r = at.get(at.put(normal_numbers(c.box.cells(), 2)));
        double *const from = at.put(r), *const z = at.fresh();
        for (const auto& [options, cycle] : {std::pair{&plain, &first}, std::pair{&learned, &second}}) {
            cycle->apply(from, z);
            const auto own = cpu::multigrid::make_cycle(host, *options);
            const numbers expected = host_cycle(*host, *own, at, r);
            CHECK_NEAR(distance(at.get(z), expected), 0.0, 1e-5 * length(expected));
        }
    }
}

// A visit of a level costs seven launches with three sweeps on either side (the correction comes with the
// first sweep after it), all small levels one, the way in and out four.
TEST(cuda_cycle_launches) {
    const grid_case c = make_case(2, {1, 64, 64}, ends::open, false, 0.1, 2);
    const auto host = host_grid_of(c);
    const auto launches = [&](const multigrid::cycle_options& options, index small) {
        interrupt signals;
        block_backend be(signals);
        cuda::device_grid<block_backend> grid(be, host->shape());
        grid.update(*host);
        padded_vectors<block_backend> at(be, *host);
        cuda::device_cycle<block_backend> there(be, grid, options, small);
        double *const r = at.put(normal_numbers(4096, 1)), *const z = at.fresh();
        const traffic before = be.counts();
        there.apply(r, z);
        CHECK(be.counts().reads == before.reads && be.counts().uploads == before.uploads);
        return be.counts().launches - before.launches;
    };
    multigrid::cycle_options w;
    w.kind = multigrid::smoother::chebyshev;
    CHECK(launches(w, 4096) == 4 + 1);
    CHECK(launches(w, 1024) == 4 + 7 + 1);
    CHECK(launches(w, 256) == 4 + 3 * 7 + 2);
    CHECK(launches(w, 16) == 4 + (1 + 2 + 4 + 8) * 7 + 8);
    multigrid::cycle_options v = w;
    v.visits = 1;
    CHECK(launches(v, 16) == 4 + 4 * 7 + 4 / 4);
    multigrid::cycle_options jacobi;
    CHECK(launches(jacobi, 1024) == 4 + 5 + 1);
    multigrid::cycle_options learned;
    learned.learned = weights_of(2, 0.5f, 1);
    CHECK(launches(learned, 1024) == 4 + 7 + 1);
    CHECK(launches(learned, 256) == 4 + 2 * 7 + 1);
    // Levels: two launches each, and the dense inverse.
    interrupt signals;
    block_backend be(signals);
    cuda::device_grid<block_backend> grid(be, host->shape());
    grid.update(*host);
    cuda::device_cycle<block_backend> there(be, grid, w);
    const traffic before = be.counts();
    there.update();
    CHECK(be.counts().launches - before.launches == 2 * 4 + 1 && be.counts().reads == before.reads);
}

TEST(cuda_cycle_of_any_size) {
    const grid_case c = make_case(2, {1, 24, 20}, ends::open, false, 0.1, 3);
    const auto host = host_grid_of(c);
    interrupt signals;
    block_backend be(signals);
    cuda::device_grid<block_backend> grid(be, host->shape());
    grid.update(*host);
    padded_vectors<block_backend> at(be, *host);
    cuda::device_cycle<block_backend> there(be, grid, {});
    const numbers x = normal_numbers(c.box.cells(), 1);
    double* const z = at.fresh();
    there.apply(at.put(x), z);
    const numbers expected = at.get(z);
    for (const double factor : {1e-300, 1e-200, 1e200, 1e300}) {
        numbers scaled = x;
        for (double& v : scaled) v *= factor;
        there.apply(at.put(scaled), z);
        numbers got = at.get(z);
        for (double& v : got) v /= factor;
        CHECK_NEAR(distance(got, expected), 0.0, 1e-5 * length(expected));
    }
    there.apply(at.fresh(), z);
    CHECK(length(at.get(z)) == 0);
    numbers bad = x;
    for (std::size_t i = 0; i < bad.size(); ++i)
        if (c.flags[i] == multigrid::fluid) bad[i] = i % 2 == 0 ? nan : bad[i];
    there.apply(at.put(bad), z);
    CHECK(std::isnan(length(at.get(z))));
    CHECK(at.block(z)[0] == 0);
    multigrid::cycle_options o;
    o.visits = 4;
    CHECK_THROWS(cuda::device_cycle<block_backend>(be, grid, o), std::invalid_argument);
    o.visits = 2;
    o.learned = weights_of(3, 0.1f, 1);
    CHECK_THROWS(cuda::device_cycle<block_backend>(be, grid, o), std::invalid_argument);
    o.learned = weights_of(2, 0.1f, 1);
    o.learned.w2.pop_back();
    CHECK_THROWS(cuda::device_cycle<block_backend>(be, grid, o), std::invalid_argument);
}

// --- whole solves --------------------------------------------------------------------------------

// A model of plain vectors for both sides.
class host_function final : public linear_map<double> {
public:
    host_function(index n, std::function<void(const double*, double*)> f) : n_(n), f_(std::move(f)) {}
    using linear_map<double>::apply;
    index size() const override { return n_; }
    void apply(tall<const double> x, tall<double> y) override {
        for (index j = 0; j < x.cols; ++j) f_(x.col(j), y.col(j));
    }

private:
    index n_;
    std::function<void(const double*, double*)> f_;
};

enum class kind { cycle, learned, identity, rough, useless, broken };

struct pair_of_solves {
    std::vector<cpu::deepcg::grid_report> here, there;
    numbers x_here, x_there;
    traffic counts;
};

// The same problem on the CPU and over the block programs.
pair_of_solves solve_both(const grid_case& c, kind what, const dcg::options& o, index rows = 1,
                          bool compact = false, bool fallback = false, double start = 0,
                          const dcg::monitor& monitor = {}) {
    const auto host = host_grid_of(c);
    const index n = compact ? host->n_fluid() : c.box.cells();
    const numbers b = normal_numbers(rows * n, 5);
    pair_of_solves out;
    out.x_here = normal_numbers(rows * n, 6);
    for (double& v : out.x_here) v *= start;
    out.x_there = out.x_here;
    multigrid::cycle_options cycle;
    cycle.kind = multigrid::smoother::chebyshev;
    if (what == kind::learned) {
        cycle = {};
        cycle.learned = weights_of(c.box.ndim, 0.2f, 2);
    }
    int calls = 0;
    const index cells = c.box.cells();
    const std::function<void(const double*, double*)> f = [&](const double* r, double* z) {
        ++calls;
        for (index i = 0; i < cells; ++i)
            z[i] = what == kind::rough     ? r[i] * (2 + std::sin(0.7 * static_cast<double>(i)))
                   : what == kind::useless ? std::cos(0.1 * static_cast<double>(i * i) + 1.3 * calls * calls)
                   : calls % 3 == 1        ? r[i]
                   : calls % 3 == 2        ? 0.0
                                           : nan;
    };
    host_function plain(cells, f);
    const bool called = what == kind::rough || what == kind::useless || what == kind::broken;
    const auto own = cpu::multigrid::make_cycle(host, cycle);
    multigrid::cycle_options second;
    const auto second_here = cpu::multigrid::make_cycle(host, second);

    interrupt signals;
    cpu::deepcg::grid_problem here;
    here.grid = host;
    if (called)
        here.model.plain = &plain;
    else if (what != kind::identity)
        here.model.cycle = own.get();
    here.has_fallback = fallback;
    if (fallback) here.fallback.cycle = second_here.get();
    here.compact = compact;
    here.parallel = false;
    here.b = {b.data(), rows, n, n};
    here.x = {out.x_here.data(), rows, n, n};
    out.here = cpu::deepcg::solve_grid(here, o, signals, monitor);

    calls = 0;
    block_backend be(signals, 4);
    const auto r = be.allocate<double>(cells), z = be.allocate<double>(cells);
    const cuda::deepcg::function function{r.data, z.data, [&] { f(r.data, z.data); }};
    cuda::deepcg::grid_problem there;
    there.grid = host.get();
    if (called)
        there.model.call = &function;
    else if (what != kind::identity)
        there.model.cycle = &cycle;
    there.has_fallback = fallback;
    if (fallback) there.fallback.cycle = &second;
    there.compact = compact;
    there.b = here.b;
    there.x = {out.x_there.data(), rows, n, n};
    out.there = cuda::solve_on_grid(be, there, o, monitor);
    out.counts = be.counts();
    return out;
}

// Iteration counts, statuses and counters equal; answers and histories near.
void compare(const pair_of_solves& p, const std::string& name, double tolerance) {
    CHECK(p.here.size() == p.there.size());
    for (std::size_t k = 0; k < p.here.size(); ++k) {
        const dcg::report &a = p.here[k].solve, &b = p.there[k].solve;
        const bool same = a.status == b.status && a.iterations == b.iterations && a.matvecs == b.matvecs &&
                          a.model_applies == b.model_applies && a.fallback_applies == b.fallback_applies &&
                          a.replaced == b.replaced && a.fallback_step == b.fallback_step &&
                          a.detail == b.detail && a.given_up == b.given_up;
        if (!same)
            check::fail(__FILE__, __LINE__,
                        name + ": status " + std::to_string(static_cast<int>(a.status)) + ", " +
                            std::to_string(static_cast<int>(b.status)) + "; iterations " +
                            std::to_string(a.iterations) + ", " + std::to_string(b.iterations) +
                            "; matvecs " + std::to_string(a.matvecs) + ", " + std::to_string(b.matvecs) +
                            "; replaced " + std::to_string(a.replaced) + ", " + std::to_string(b.replaced) +
                            "; " + a.detail + "; " + b.detail);
        CHECK(same);
        CHECK_NEAR(p.here[k].removed, p.there[k].removed, 1e-11 * (1 + p.here[k].removed));
        CHECK_NEAR(a.norm_b, b.norm_b, 1e-12 * a.norm_b);
        CHECK_NEAR(a.target, b.target, 1e-12 * a.target);
        CHECK_NEAR(a.residual, b.residual, 2e-2 * a.residual + 1e-12 * a.norm_b);
    }
    CHECK_NEAR(distance(p.x_there, p.x_here), 0.0, tolerance * (1e-30 + length(p.x_here)));
}

std::vector<grid_case> solve_cases() {
    std::vector<grid_case> out;
    out.push_back(make_case(2, {1, 30, 27}, ends::open, false, 0.15, 11));
    out.push_back(make_case(2, {1, 24, 24}, ends::closed, false, 0.3, 12));
    out.push_back(make_case(2, {1, 21, 33}, ends::mixed, true, 0.1, 13));
    out.push_back(make_case(3, {12, 13, 9}, ends::mixed, false, 0.2, 14));
    out.push_back(make_case(3, {10, 8, 11}, ends::open, true, 0.2, 15));
    return out;
}

TEST(cuda_deepcg_with_cycles_like_the_cpu) {
    for (const grid_case& c : solve_cases())
        for (const kind what : {kind::cycle, kind::learned})
            for (const dcg::form form : {dcg::form::pcg, dcg::form::robust, dcg::form::published})
                for (const bool compact : {false, true}) {
                    dcg::options o;
                    o.form = form;
                    o.rtol = 1e-7;
                    const pair_of_solves p = solve_both(c, what, o, 2, compact, false, compact ? 1.0 : 0.0);
                    compare(p, name_of(c), 1e-5);
                    CHECK(p.there[0].solve.status == status::converged);
                }
}

TEST(cuda_deepcg_with_functions_like_the_cpu) {
    for (const grid_case& c : solve_cases())
        for (const kind what : {kind::identity, kind::rough, kind::useless, kind::broken})
            for (const bool enrich : {true, false})
                for (const int previous : {0, 2, 9}) {
                    dcg::options o;
                    o.n_previous = previous;
                    o.enrich = enrich;
                    o.rtol = 1e-5;
                    o.max_iterations = 60;
                    const pair_of_solves p = solve_both(c, what, o);
                    compare(p,
                            name_of(c) + ", model " + std::to_string(static_cast<int>(what)) + ", previous " +
                                std::to_string(previous) + (enrich ? ", enriched" : ""),
                            1e-5);
                    if (what == kind::broken) CHECK(p.there[0].solve.replaced > 0);
                }
}

TEST(cuda_deepcg_falls_back_like_the_cpu) {
    int fell = 0;
    for (const grid_case& c : solve_cases())
        for (const kind what : {kind::useless, kind::broken, kind::rough}) {
            dcg::options o;
            o.rtol = 1e-8;
            o.window = 5;
            o.fast_fallback = true;
            const pair_of_solves p = solve_both(c, what, o, 2, false, true);
            compare(p, name_of(c), 1e-6);
            fell += p.there[0].solve.fallback_step >= 0;
        }
    CHECK(fell >= 10);
}

TEST(cuda_deepcg_ends_like_the_cpu) {
    const grid_case c = solve_cases()[1];
    dcg::options o;
    o.form = dcg::form::pcg;
    o.max_iterations = 3;
    o.rtol = 1e-12;
    compare(solve_both(c, kind::identity, o), "budget", 1e-9);
    o.max_iterations = 500;
    o.recompute = 7;
    compare(solve_both(c, kind::identity, o), "recompute", 1e-7);
    o.recompute = 50;
    o.report_x = true;
    std::vector<numbers> seen;
    const index size = host_grid_of(c)->size();
    const pair_of_solves p = solve_both(c, kind::cycle, o, 1, false, false, 0, [&](const dcg::step& s) {
        seen.emplace_back(s.x, s.x + size);
        return s.iteration == 4;
    });
    compare(p, "callback", 1e-5);
    CHECK(seen.size() == 8 && p.there[0].solve.status == status::stopped_by_callback);
    for (std::size_t k = 0; k < 4; ++k)
        CHECK_NEAR(distance(seen[k + 4], seen[k]), 0.0, 1e-5 * length(seen[k]));
    // Nothing to solve.
    grid_case none = make_case(2, {1, 6, 6}, ends::open, false, 0.1, 1);
    std::fill(none.flags.begin(), none.flags.end(), multigrid::solid);
    compare(solve_both(none, kind::cycle, o), "all solid", 0);
}

// Answers in single precision are certified as they are.
TEST(cuda_deepcg_rounds_to_single) {
    const grid_case c = solve_cases()[0];
    const auto host = host_grid_of(c);
    const index n = c.box.cells();
    const numbers b = normal_numbers(n, 3);
    multigrid::cycle_options cycle;
    for (const double rtol : {1e-4, 1e-9}) {
        interrupt signals;
        block_backend be(signals);
        numbers x(b.size(), 0.0);
        cuda::deepcg::grid_problem p;
        p.grid = host.get();
        p.model.cycle = &cycle;
        p.single = true;
        p.b = {b.data(), 1, n, n};
        p.x = {x.data(), 1, n, n};
        dcg::options o;
        o.form = dcg::form::pcg;
        o.rtol = rtol;
        const auto report = cuda::solve_on_grid(be, p, o, {})[0].solve;
        for (const double v : x) CHECK(v == static_cast<double>(static_cast<float>(v)));
        padded_vectors<block_backend> at(be, *host);
        numbers from = at.host_block(x), image(from.size(), 0.0);
        host->apply(from.data() + host->guard(), image.data() + host->guard());
        CHECK_NEAR(report.residual, distance(at.cells(image), at.cells(at.host_block(b))), 1e-12);
        CHECK(report.status == (rtol > 1e-6 ? status::converged : status::stagnated));
    }
}

// A right-hand side's bits do not depend on those before it, nor on the order of threads; memory is used
// again.
TEST(cuda_deepcg_right_hand_sides) {
    const grid_case c = solve_cases()[3];
    const auto host = host_grid_of(c);
    const index n = c.box.cells(), rows = 5;
    const numbers b = normal_numbers(rows * n, 3);
    multigrid::cycle_options cycle;
    std::size_t first_bytes = 0;
    numbers all;
    for (const index count : {rows, index{1}}) {
        interrupt signals;
        block_backend be(signals, static_cast<unsigned>(count));
        numbers x(static_cast<std::size_t>(count * n), 0.0);
        cuda::deepcg::grid_problem p;
        p.grid = host.get();
        p.model.cycle = &cycle;
        p.b = {b.data() + (rows - count) * n, count, n, n};
        p.x = {x.data(), count, n, n};
        dcg::options o;
        o.n_previous = 3;
        const auto reports = cuda::solve_on_grid(be, p, o, {});
        for (const auto& r : reports) CHECK(r.solve.status == status::converged);
        if (count == rows) {
            all = x;
            first_bytes = be.bytes();
        } else {
            CHECK(std::equal(x.begin(), x.end(), all.begin() + (rows - 1) * n));
            CHECK(be.bytes() == first_bytes);
        }
    }
}

// Per iteration beside the model: pcg 7 launches; robust 13, enriched 20; a read each.
TEST(cuda_deepcg_launches_and_reads) {
    const grid_case c = make_case(2, {1, 40, 40}, ends::open, false, 0.1, 2);
    const auto per_step = [&](dcg::form form, bool enrich, kind what) {
        const auto counts_at = [&](index steps) {
            dcg::options o;
            o.form = form;
            o.enrich = enrich;
            o.rtol = 1e-14;
            o.max_iterations = steps;
            o.recompute = 1000;
            o.zero_start = true;
            return solve_both(c, what, o).counts;
        };
        const traffic few = counts_at(4), more = counts_at(7);
        return std::pair{(more.launches - few.launches) / 3.0, (more.reads - few.reads) / 3.0};
    };
    CHECK(per_step(dcg::form::pcg, false, kind::cycle) == std::pair(7.0 + 5, 1.0));
    CHECK(per_step(dcg::form::pcg, false, kind::identity) == std::pair(7.0, 1.0));
    CHECK(per_step(dcg::form::robust, false, kind::cycle) == std::pair(13.0 + 5, 1.0));
    CHECK(per_step(dcg::form::robust, true, kind::cycle) == std::pair(20.0 + 5, 1.0));
}

// --- matrices ------------------------------------------------------------------------------------

TEST(cuda_deepcg_with_matrices_like_the_cpu) {
    // Five points by hand: a matrix that no grid tells of.
    const index m = 23, n = m * m;
    sparse_pattern a;
    a.rows = a.cols = n;
    a.indptr = {0};
    numbers values;
    for (index i = 0; i < n; ++i) {
        const auto add = [&](index j, double v) {
            a.indices.push_back(static_cast<std::int32_t>(j));
            values.push_back(v);
        };
        if (i >= m) add(i - m, -1);
        if (i % m > 0) add(i - 1, -1);
        add(i, 4 + 0.5 * std::sin(static_cast<double>(i)));
        if (i % m < m - 1) add(i + 1, -1);
        if (i + m < n) add(i + m, -1);
        a.indptr.push_back(static_cast<index>(values.size()));
    }
    const numbers b = normal_numbers(n, 4);
    const std::function<void(const double*, double*)> f = [&](const double* r, double* z) {
        for (index i = 0; i < n; ++i) z[i] = r[i] * (2 + std::sin(0.7 * static_cast<double>(i)));
    };
    host_function matrix(n,
                         [&](const double* x, double* y) {
                             for (index i = 0; i < n; ++i) {
                                 y[i] = 0;
                                 for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
                                     y[i] += values[p] * x[a.indices[p]];
                             }
                         }),
        jacobi(n,
               [&](const double* x, double* y) {
                   for (index i = 0; i < n; ++i) y[i] = x[i] / (4 + 0.5 * std::sin(static_cast<double>(i)));
               }),
        rough(n, f);
    for (const int which : {0, 1, 2})
        for (const dcg::form form : {dcg::form::pcg, dcg::form::robust}) {
            if (which == 2 && form == dcg::form::pcg) continue;
            interrupt signals;
            dcg::options o;
            o.form = form;
            o.rtol = 1e-8;
            cpu::deepcg::maps maps;
            maps.matrix = &matrix;
            maps.model = which == 0 ? nullptr : which == 1 ? &jacobi : &rough;
            pair_of_solves p;
            p.x_here.assign(static_cast<std::size_t>(n), 0.0);
            p.x_there = p.x_here;
            p.here.push_back({cpu::deepcg::solve(maps, {b.data(), n}, {p.x_here.data(), n}, o, signals, {})});
            block_backend be(signals, 9);
            const auto r = be.allocate<double>(n), z = be.allocate<double>(n);
            const cuda::deepcg::function function{r.data, z.data, [&] { f(r.data, z.data); }};
            cuda::deepcg::matrix_problem problem;
            problem.a = {a.view(), static_cast<index>(values.size()), values.data()};
            problem.model.jacobi = which == 1;
            problem.model.call = which == 2 ? &function : nullptr;
            problem.b = {b.data(), n};
            problem.x = {p.x_there.data(), n};
            p.there.push_back({cuda::solve_with_matrix(be, problem, o, {})});
            compare(p, "matrix", 1e-9);
            CHECK(p.there[0].solve.status == status::converged);
        }
    interrupt signals;
    block_backend be(signals);
    cuda::deepcg::matrix_problem problem;
    values[0] = 0;
    numbers x(b.size(), 0.0);
    problem.a = {a.view(), static_cast<index>(values.size()), values.data()};
    problem.b = {b.data(), n};
    problem.x = {x.data(), n};
    problem.model.jacobi = true;
    CHECK_THROWS(cuda::solve_with_matrix(be, problem, {}, {}), std::invalid_argument);
    multigrid::cycle_options cycle;
    problem.model = {&cycle, false, nullptr};
    CHECK_THROWS(cuda::solve_with_matrix(be, problem, {}, {}), std::invalid_argument);
}

}  // namespace
}  // namespace aitken::tests
