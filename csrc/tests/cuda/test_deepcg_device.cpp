// Grids, multigrid cycles and conjugate directions on a device: every kernel against its block program on the
// host, then whole solves against the CPU backend. Exit status 77 where there is no device.
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/deepcg.hpp"
#include "core/api/deepcg_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/deepcg_kernels.hpp"
#include "deepcg_cases.hpp"
#include "device.hpp"

namespace aitken::tests {
namespace {

using multigrid_cases::awkward_cases;
using multigrid_cases::ends;
using multigrid_cases::grid_case;
using multigrid_cases::make_case;
namespace dcg = aitken::deepcg;
using results = std::map<std::string, numbers>;

double length(const numbers& v) {
    double sum = 0;
    for (double x : v) sum += x * x;
    return std::sqrt(sum);
}
double distance(const numbers& a, const numbers& b) {
    CHECK(a.size() == b.size());
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return std::sqrt(sum);
}

// Runs the grid, the cycles and every function of the kernel set on a backend, whatever it is.
template <class Be>
class exercise {
public:
    exercise(Be& be, const grid_case& c) : be_(be), c_(c), host_(host_grid_of(c)), at_(be, *host_) {}

    results run() {
        cuda::device_grid<Be> grid(be_, host_->shape());
        grid.update(*host_);
        double *const x = at_.put(normal_numbers(c_.box.cells(), 1)), *const y = at_.fresh();
        grid.apply(x, y);
        keep("product", y);
        const scalar_ref dot = be_.scalar();
        grid.apply_dot(x, y, dot.address());
        keep("x'Ax", dot);
        out_["taken"] = {grid.project_measured(x)};
        keep("projected", x);
        for (const bool compact : {false, true}) {
            const vec<double> plain = be_.template allocate<double>(grid.length(compact));
            grid.gather(x, compact, plain.data);
            double* const back = at_.fresh();
            grid.scatter(plain.data, compact, back);
            keep(compact ? "compact" : "full", back);
        }
        int kind = 0;
        for (const auto& options : cycle_kinds(c_.box.ndim))
            for (const index small : {index{0}, c_.box.cells() / 6, index{1} << 20}) {
                cuda::device_cycle<Be> cycle(be_, grid, options, small);
                double* const z = at_.fresh();
                cycle.apply(x, z);
                grid.project(z);
                keep("cycle " + std::to_string(kind++), z);
            }
        vectors(grid);
        return std::move(out_);
    }

private:
    void keep(const std::string& name, const double* padded) { out_[name] = at_.get(padded); }
    void keep(const std::string& name, scalar_ref s) { out_[name] = {read(be_, s)[0]}; }

    void vectors(cuda::device_grid<Be>& grid) {
        cuda::grid_map<Be> matrix(grid);
        cuda::device_maps maps;
        maps.matrix = &matrix;
        maps.guard = grid.guard();
        cuda::deepcg_kernels<Be> k(be_, maps);
        const index n = grid.size();
        unsigned seed = 10;
        const auto fresh = [&] { return vec<double>{at_.put(normal_numbers(c_.box.cells(), ++seed)), n}; };
        const auto a = fresh(), b = fresh(), c = fresh(), d = fresh(), e = fresh(), f = fresh();
        std::vector<scalar_ref> s(14);
        for (auto& each : s) each = be_.scalar();
        k.dot(a, b, s[0]);
        k.residual(b, a, s[1]);
        k.energy(a, b, s[2], s[3]);
        k.pair(a, b, c, s[4], s[5]);
        k.cg_residual(s[0], s[1], b, c, s[6]);
        k.cg_advance(s[0], s[1], b, d);
        k.turn(s[5], s[1], b, e);
        k.move(s[0], s[1], s[5], b, e, d);
        k.normalise(s[1], a, f);
        k.inspect(f, s[7]);
        k.adopt(s[7], a, f);
        for (int j = 0; j < 8; ++j) keep("scalar " + std::to_string(j), s[static_cast<std::size_t>(j)]);
        int which = 0;
        for (const auto& v : {a, c, d, e, f}) keep("vector " + std::to_string(which++), v.data);
        const index columns = 9;  // more than a pass has
        const tall<double> steps = k.guarded(n, columns), images = k.guarded(n, columns);
        for (index j = 0; j < columns; ++j) {
            be_.copy(fresh(), {steps.col(j), n});
            k.apply({steps.col(j), n}, {images.col(j), n});
        }
        const vec<double> h = be_.template allocate<double>(columns),
                          energies = be_.template allocate<double>(columns);
        be_.fill(energies, 3.0);
        k.project(images, a, h, s[8]);
        k.subtract(steps, energies, h, a, s[9]);
        k.apply(a, b);
        const drivers::deepcg::candidate first{s[8], s[9], s[10], s[11], s[12], s[13], s[0]};
        k.measure(a, b, c, first);
        keep("conjugate", a.data);
        for (int j = 8; j < 14; ++j) keep("scalar " + std::to_string(j), s[static_cast<std::size_t>(j)]);
        k.step(first, a, b, d, e, f, c, s[1], s[2]);
        keep("step", d.data);
        keep("image", e.data);
        keep("moved", f.data);
        k.round(f);
        keep("rounded", f.data);
    }

    Be& be_;
    const grid_case& c_;
    host_pointer host_;
    padded_vectors<Be> at_;
    results out_;
};

TEST(device_kernels_of_deepcg_match_block_programs) {
    std::vector<grid_case> cases = awkward_cases();
    cases.push_back(make_case(2, {1, 150, 131}, ends::closed, false, 0.3, 3));
    cases.push_back(make_case(3, {21, 30, 26}, ends::mixed, true, 0.2, 4));
    for (const grid_case& c : cases) {
        if (host_grid_of(c)->n_fluid() == 0) continue;  // vectors of length zero are nothing to divide by
        interrupt signals;
        block_backend host(signals);
        device gpu;
        results expected, got;
        expected = exercise<block_backend>(host, c).run();
        {
            cuda::backend be(gpu.context(), signals);
            got = exercise<cuda::backend>(be, c).run();
        }
        CHECK(got.size() == expected.size());
        // The device contracts products and sums; cycles are in single precision.
        for (const auto& [name, values] : expected) {
            const double allowed = name.rfind("cycle", 0) == 0 ? 1e-4 : 1e-10;
            const double off = distance(got[name], values);
            if (!(off <= allowed * (1 + length(values))))
                check::fail(__FILE__, __LINE__, name + ": off by " + std::to_string(off));
        }
    }
}

TEST(device_deepcg_solves) {
    for (const grid_case& c : {make_case(2, {1, 200, 190}, ends::open, false, 0.2, 5),
                               make_case(3, {40, 33, 36}, ends::mixed, false, 0.2, 6),
                               make_case(3, {24, 30, 28}, ends::closed, true, 0.2, 7)})
        for (const dcg::form form : {dcg::form::pcg, dcg::form::robust})
            for (const auto& options : cycle_kinds(c.box.ndim)) {
                const auto host = host_grid_of(c);
                const index n = c.box.cells(), rows = 2;
                const numbers b = normal_numbers(rows * n, 8);
                interrupt signals;
                dcg::options o;
                o.form = form;
                o.rtol = 1e-7;
                numbers here(b.size(), 0.0), there[2];
                cpu::deepcg::grid_problem p;
                p.grid = host;
                const auto cycle = cpu::multigrid::make_cycle(host, options);
                p.model.cycle = cycle.get();
                p.b = {b.data(), rows, n, n};
                p.x = {here.data(), rows, n, n};
                const auto expected = cpu::deepcg::solve_grid(p, o, signals, {});
                std::vector<cpu::deepcg::grid_report> reports;
                for (numbers& x : there) {
                    device gpu;
                    const auto xs = gpu.put(numbers(b.size(), 0.0));
                    cuda::deepcg::grid_problem q;
                    q.grid = host.get();
                    q.model.cycle = &options;
                    q.b = {gpu.put(b).data, rows, n, n};
                    q.x = {xs.data, rows, n, n};
                    reports = cuda::deepcg::solve_grid(gpu.context(), q, o, signals, {});
                    x = gpu.get(xs);
                }
                CHECK(there[0] == there[1]);  // the same bits
                for (std::size_t k = 0; k < reports.size(); ++k) {
                    CHECK(reports[k].solve.status == status::converged);
                    CHECK(std::abs(reports[k].solve.iterations - expected[k].solve.iterations) <= 1);
                    CHECK(reports[k].solve.residual <= reports[k].solve.target);
                }
                CHECK(distance(there[0], here) <= 1e-4 * length(here));
                std::printf("%ld^3 cells: %ld iterations, %ld launches, %ld reads\n",
                            static_cast<long>(std::cbrt(static_cast<double>(n))),
                            static_cast<long>(reports[0].solve.iterations), reports[0].solve.counts.launches,
                            reports[0].solve.counts.reads);
            }
}

}  // namespace
}  // namespace aitken::tests
