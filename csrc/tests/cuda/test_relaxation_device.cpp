// SOR and SSOR-CG on a device: every kernel against its block program on the host, then whole solves against
// the CPU backend. Exit status 77 where there is no device.
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/relaxation.hpp"
#include "core/api/relaxation_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/relaxation_kernels.hpp"
#include "device.hpp"
#include "relaxation_cases.hpp"

namespace aitken::tests {
namespace {

using aitken::relaxation::direction;
using aitken::relaxation::order;
using results = std::map<std::string, numbers>;

// Runs every function of the kernel set on a backend, whatever it is.
template <class Be>
class exercise {
public:
    exercise(Be& be, const sparse_case& a) : be_(be), a_(a), n_(a.n()) {}

    results run() {
        const pattern_view p = a_.pattern.view();
        for (order how : {order::natural, order::multicolor, order::blocks}) {
            const sweep_layout layout = make_sweep_layout(p, sweep_rows(p, how, {}));
            cuda::sliced_rows<Be> rows(be_, layout, put(a_.values).data, 0.3);
            cuda::sweep_kernels<Be, cuda::sliced_matrix> kernels(be_, rows.matrix(), n_, rows.levels());
            const std::string name = "order " + std::to_string(static_cast<int>(how));
            const auto x = random(1), b = random(2), ordered = fresh();
            rows.gather(x, ordered);
            sweeps(kernels, ordered, b, name);
            rows.scatter(ordered, x);
            keep(name + ", scattered", x);
            halves(kernels, name);
        }
        if (const auto stencil = find_stencil(p, a_.values.data())) {
            const cuda::stencil_matrix m(*stencil, 0.3);
            cuda::sweep_kernels<Be, cuda::stencil_matrix> kernels(be_, m, n_,
                                                                  {m.begin(0), m.begin(1), m.begin(2)});
            sweeps(kernels, random(1), random(2), "stencil");
        }
        for (direction d : {direction::forward, direction::backward, direction::symmetric}) batch(d);
        return std::move(out_);
    }

private:
    template <class T>
    vec<T> put(const std::vector<T>& host) {
        const vec<T> there = be_.template allocate<T>(static_cast<index>(host.size()));
        be_.upload(host.data(), there);
        return there;
    }
    vec<double> random(unsigned seed) { return put(random_numbers(n_, seed)); }
    vec<double> fresh() { return be_.template allocate<double>(n_); }
    void keep(const std::string& name, vec<double> from) {
        numbers host(static_cast<std::size_t>(from.size));
        be_.download(vec<const double>(from), host.data());
        out_[name] = std::move(host);
    }
    void keep(const std::string& name, scalar_ref s) { out_[name] = {read(be_, s)[0]}; }

    template <class Kernels>
    void sweeps(Kernels& kernels, vec<double> x, vec<double> b, const std::string& name) {
        const scalar_ref before = be_.scalar(), change = be_.scalar();
        bool last = true;
        int step = 0;
        for (bool back : {false, false, true, true, false}) {
            kernels.sweep(back ? direction::backward : direction::forward, 1.2, back != last || step == 0, b,
                          x, before, change);
            const std::string what = name + ", sweep " + std::to_string(step++);
            keep(what, x);
            if (back == last && step > 1) keep(what + ", before", before);
            keep(what + ", change", change);
            last = back;
        }
        kernels.residual(b, x, before);
        keep(name + ", residual", before);
    }
    template <class Kernels>
    void halves(Kernels& kernels, const std::string& name) {
        const scalar_ref one = be_.scalar(), two = be_.scalar();
        const auto b = random(3), x = random(4), p = random(5), r = fresh(), v = fresh(), t = fresh(),
                   w = fresh();
        kernels.residual_vector(b, x, r, one);
        keep(name + ", r", r);
        kernels.lower_solve(1.3, r, v, one);
        keep(name + ", v", v);
        keep(name + ", size", one);
        kernels.direction_of(1.3, one, one, v, p, t);
        keep(name + ", p", p);
        keep(name + ", t", t);
        kernels.image(1.3, p, t, w, two);
        keep(name + ", w", w);
        keep(name + ", pq", two);
        kernels.advance(one, two, t, w, x, v, two);
        keep(name + ", x", x);
        keep(name + ", next", v);
        kernels.lower_norm(1.3, v, one);
        keep(name + ", norm", one);
    }
    // A few sweeps of systems of one size, so that every capacity has its turn over the cases.
    void batch(direction d) {
        constexpr index count = 3;
        const auto b = put(random_numbers(count * n_, 6)), x = put(random_numbers(count * n_, 7));
        aitken::relaxation::batch_problem problem;
        problem.a = {n_, n_, put(a_.pattern.indptr).data, put(a_.pattern.indices).data};
        problem.values = put(a_.values).data;
        problem.shifts = put(numbers{0.2, 0.1, 0.7}).data;
        problem.omegas = put(numbers{0.8, 1.0, 1.2}).data;
        problem.b = {b.data, count, n_, n_};
        problem.x = {x.data, count, n_, n_};
        aitken::relaxation::batch_options o;
        o.sweep = d;
        o.rtol = 1e-5;
        o.max_sweeps = 12;
        const auto report = cuda::solve_sor_batch(be_, problem, a_.nnz(), o, 1);
        const std::string name = "batch " + std::to_string(static_cast<int>(d));
        keep(name, x);
        out_[name + ", residual"] = report.residual;
        out_[name + ", target"] = report.target;
        out_[name + ", ends"] = numbers(report.status.begin(), report.status.end());
        out_[name + ", counts"] = numbers(report.iterations.begin(), report.iterations.end());
    }

    Be& be_;
    const sparse_case& a_;
    index n_;
    results out_;
};

TEST(device_kernels_of_relaxation_match_block_programs) {
    for (const sparse_case& a :
         {five_points(9, 11), five_points(20, 21), five_points(37, 39), sorted_rows(1000, 1),
          box(1, 101, 103, 4.5, {0, -1, -0.7}, {0, -1.2, -1}), sorted_rows(5000, 1)}) {
        interrupt signals;
        block_backend host(signals);
        device gpu;
        cuda::backend be(gpu.context(), signals);
        const results expected = exercise<block_backend>(host, a).run();
        results got = exercise<cuda::backend>(be, a).run();
        CHECK(got.size() == expected.size());
        // The device contracts products and sums.
        for (const auto& [name, values] : expected)
            near_all(got[name].data(), values, 1e-11, name + ", n " + std::to_string(a.n()));
    }
}

cuda::krylov::matrix put(device& gpu, const sparse_case& a) {
    return {{a.n(), a.n(), gpu.put(a.pattern.indptr).data, gpu.put(a.pattern.indices).data},
            a.nnz(),
            gpu.put(a.values).data};
}

TEST(device_relaxation_solves) {
    const sparse_case a = five_points(150, 131);
    const numbers b = random_numbers(a.n(), 5), zero(b.size(), 0.0);
    for (order how : {order::natural, order::redblack, order::multicolor, order::blocks}) {
        interrupt quiet;
        const auto sweeper = cpu::relaxation::make_sweeper(a.pattern.view(), a.values.data(), how, {}, quiet);
        interrupt signals;
        for (bool cg : {false, true}) {
            aitken::relaxation::sor_options sor;
            aitken::relaxation::ssor_options ssor;
            sor.omega = 1.9;
            ssor.omega = 1.6;
            sor.rtol = ssor.rtol = 1e-7;
            numbers x = zero, there[2];
            const auto here =
                cg ? sweeper->ssor_cg({b.data(), a.n()}, {x.data(), a.n()}, 0.01, ssor, signals, {})
                   : sweeper->sor({b.data(), a.n()}, {x.data(), a.n()}, 0.01, sor, signals, {});
            cuda::relaxation::solved solved;
            for (numbers& each : there) {
                device gpu;
                const auto xs = gpu.put(zero);
                solved = cg ? cuda::relaxation::ssor_cg(gpu.context(), put(gpu, a), how, {}, gpu.put(b), xs,
                                                        0.01, ssor, signals, {})
                            : cuda::relaxation::sor(gpu.context(), put(gpu, a), how, {}, gpu.put(b), xs, 0.01,
                                                    sor, signals, {});
                each = gpu.get(xs);
            }
            CHECK(solved.report.status == status::converged && here.status == status::converged);
            CHECK(std::abs(solved.report.iterations - here.iterations) <= 1);
            CHECK(length(residual_of(a, 0, 0.01, b.data(), there[0].data())) <=
                  solved.report.target * (1 + 1e-9));
            CHECK(there[0] == there[1]);  // the same bits
            std::printf("%s, order %d: %ld iterations, %ld launches, %ld reads\n", cg ? "ssor-cg" : "sor",
                        static_cast<int>(how), static_cast<long>(solved.report.iterations),
                        solved.report.counts.launches, solved.report.counts.reads);
        }
    }
}

// Many systems, each with a shift and an omega of its own.
TEST(device_relaxation_batch) {
    for (const sparse_case& a : {five_points(10, 10), five_points(50, 40)}) {
        const index n = a.n(), count = n == 100 ? 2000 : 300;
        const numbers b = random_numbers(count * n, 1);
        numbers shifts(random_numbers(count, 2)), omegas(random_numbers(count, 3));
        for (double& s : shifts) s = 0.3 + 0.25 * s;
        for (double& w : omegas) w = 1.5 + 0.3 * w;
        aitken::relaxation::batch_options o;
        o.rtol = 1e-8;
        interrupt signals;
        numbers x(b.size(), 0.0);
        const aitken::relaxation::batch_problem here{
            a.pattern.view(),        a.values.data(),        0, shifts.data(), omegas.data(),
            {b.data(), count, n, n}, {x.data(), count, n, n}};
        const auto expected = cpu::relaxation::sor_batch(here, o, signals);
        for (const std::size_t room : {std::size_t{1} << 20, std::size_t{1} << 30}) {
            device gpu;
            const auto matrix = put(gpu, a);
            const auto xs = gpu.put(numbers(b.size(), 0.0));
            const aitken::relaxation::batch_problem there{
                matrix.pattern,        matrix.values,        0,
                gpu.put(shifts).data,  gpu.put(omegas).data, {gpu.put(b).data, count, n, n},
                {xs.data, count, n, n}};
            const auto report = cuda::relaxation::sor_batch(gpu.context(), there, a.nnz(), o, room, signals);
            const numbers got = gpu.get(xs);
            for (index k = 0; k < count; ++k) {
                CHECK(report.status[k] == 0);
                CHECK(std::abs(report.iterations[k] - expected.iterations[k]) <= 1);
                const numbers r = residual_of(a, 0, shifts[k], b.data() + k * n, got.data() + k * n);
                CHECK(length(r) <= report.target[k] * (1 + 1e-7));
            }
        }
    }
}

}  // namespace
}  // namespace aitken::tests
