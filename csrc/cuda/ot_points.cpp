// Entropic transport between clouds of points on CUDA devices: the driver over kernels that form costs as
// needed.
#include "core/api/ot_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/ot_kernels.hpp"
#include "drivers/ot.hpp"

namespace aitken::cuda::ot {

using namespace aitken::ot;

static_assert(drivers::ot::OtKernels<ot_kernels<backend, double, point_entries<0>>>);
static_assert(drivers::ot::OtKernels<ot_kernels<backend, double, point_entries<3>>>);

namespace {

template <class Source>
ot_kernels<backend, double, Source> kernels_of(backend& be, const Source& source, const point_problem& p) {
    return {be, source, p.a, p.b, p.plan};
}

}  // namespace

report solve(const device_context& where, const point_problem& problem, const options& options, vec<double> x,
             vec<double> y, interrupt& signals, const monitor& monitor) {
    backend be(where, signals);
    return with_points(problem.cost, [&](auto source) {
        auto kernels = kernels_of(be, source, problem);
        return drivers::ot::solver(be, kernels, x.size, y.size, problem.range, options, monitor).run(x, y);
    });
}

adjoint_report adjoint(const device_context& where, const point_problem& problem, const options& options,
                       vec<const double> x, vec<const double> y, vec<const double> w, vec<const double> z,
                       vec<double> p, vec<double> q, interrupt& signals) {
    backend be(where, signals);
    const vec<double> own_x = be.allocate<double>(x.size), own_y = be.allocate<double>(y.size);
    be.copy(x, own_x);
    be.copy(y, own_y);
    return with_points(problem.cost, [&](auto source) {
        auto kernels = kernels_of(be, source, problem);
        const monitor silent;
        drivers::ot::solver solver(be, kernels, x.size, y.size, problem.range, options, silent);
        return solver.adjoint(own_x, own_y, w, z, p, q);
    });
}

void plan_times(const device_context& where, const point_cost& cost, double reg, vec<const double> x,
                vec<const double> y, matrix<const double> v, matrix<double> out, interrupt& signals) {
    backend be(where, signals);
    with_points(cost, [&](auto source) {
        recomputed_plan<backend, decltype(source)> plan(be, source, reg, x, y);
        for (index k = 0; k < v.rows; ++k) {
            signals.poll();
            plan.kernels.plan_times(plan.u, plan.v, {v.row(k), v.cols}, {out.row(k), out.cols});
        }
    });
}

template <class T>
void plan_rows(const device_context& where, const point_cost& cost, double reg, vec<const double> x,
               vec<const double> y, index first, matrix<T> out) {
    interrupt signals;
    backend be(where, signals);
    with_points(cost, [&](auto source) { cuda::plan_rows(be, source, reg, x, y, first, out); });
}

void c_transform(const device_context& where, const point_cost& cost, double reg, vec<const double> potential,
                 vec<double> out, interrupt& signals) {
    backend be(where, signals);
    with_points(cost, [&](auto source) {
        ot_kernels<backend, double, decltype(source)> kernels(be, source, {}, {}, {});
        kernels.log_sum_exp_rows(reg, potential, false, out);
    });
}

void plan_pull(const device_context& where, const point_cost& cost, double reg, vec<const double> x,
               vec<const double> y, matrix<double> out, interrupt& signals) {
    backend be(where, signals);
    with_points(cost, [&](auto source) { cuda::plan_pull(be, source, reg, x, y, out); });
}

sparse_plan compress(const device_context& where, const point_cost& cost, double reg, vec<const double> x,
                     vec<const double> y, vec<const double> a, vec<const double> b, double drop,
                     interrupt& signals) {
    backend be(where, signals);
    return with_points(cost, [&](auto source) { return cuda::compress(be, source, reg, x, y, a, b, drop); });
}

template void plan_rows(const device_context&, const point_cost&, double, vec<const double>,
                        vec<const double>, index, matrix<double>);
template void plan_rows(const device_context&, const point_cost&, double, vec<const double>,
                        vec<const double>, index, matrix<float>);

}  // namespace aitken::cuda::ot
