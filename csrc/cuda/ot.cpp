// Entropic transport on CUDA devices: instantiates the driver over the CUDA kernels.
#include "drivers/ot.hpp"
#include "core/api/ot_cuda.hpp"
#include "cuda/backend.hpp"
#include "cuda/ot_kernels.hpp"

namespace aitken::cuda::ot {

using namespace aitken::ot;

static_assert(drivers::ot::OtKernels<ot_kernels<backend, double>>);
static_assert(drivers::ot::OtKernels<ot_kernels<backend, float>>);

template <class T>
report solve(const device_context& where, const problem<T>& problem, const options& options, vec<double> x,
             vec<double> y, interrupt& signals, const monitor& monitor) {
    backend be(where, signals);
    ot_kernels<backend, T> kernels(be, problem);
    drivers::ot::solver solver(be, kernels, problem.cost.rows, problem.cost.cols, problem.range, options,
                               monitor);
    return solver.run(x, y);
}

template <class T>
adjoint_report adjoint(const device_context& where, const problem<T>& problem, const options& options,
                       vec<const double> x, vec<const double> y, vec<const double> w, vec<const double> z,
                       vec<double> p, vec<double> q, interrupt& signals) {
    backend be(where, signals);
    ot_kernels<backend, T> kernels(be, problem);
    const vec<double> own_x = be.allocate<double>(x.size), own_y = be.allocate<double>(y.size);
    be.copy(x, own_x);
    be.copy(y, own_y);
    const monitor silent;
    drivers::ot::solver solver(be, kernels, problem.cost.rows, problem.cost.cols, problem.range, options,
                               silent);
    return solver.adjoint(own_x, own_y, w, z, p, q);
}

template <class T>
void plan_times(const device_context& where, matrix<const T> cost, double reg, vec<const double> x,
                vec<const double> y, bool transposed, vec<const double> v, vec<double> out) {
    interrupt signals;
    backend be(where, signals);
    recomputed_plan<backend, cost_entries<T>> plan(be, {cost}, reg, x, y);
    if (transposed)
        plan.kernels.plan_t_times(plan.u, plan.v, v, out);
    else
        plan.kernels.plan_times(plan.u, plan.v, v, out);
}

template <class T>
void plan_rows(const device_context& where, matrix<const T> cost, double reg, vec<const double> x,
               vec<const double> y, index first, matrix<T> out) {
    interrupt signals;
    backend be(where, signals);
    cuda::plan_rows(be, cost_entries<T>{cost}, reg, x, y, first, out);
}

template <class T>
void c_transform(const device_context& where, matrix<const T> cost, double reg, bool transposed,
                 vec<const double> potential, vec<double> out) {
    interrupt signals;
    backend be(where, signals);
    ot_kernels<backend, T> kernels(be, problem<T>{cost, {}, {}, 0.0, {}});
    if (transposed)
        kernels.log_sum_exp_cols(reg, potential, false, out);
    else
        kernels.log_sum_exp_rows(reg, potential, false, out);
}

template <class T>
sparse_plan compress(const device_context& where, matrix<const T> cost, double reg, vec<const double> x,
                     vec<const double> y, vec<const double> a, vec<const double> b, double drop) {
    interrupt signals;
    backend be(where, signals);
    return cuda::compress(be, cost_entries<T>{cost}, reg, x, y, a, b, drop);
}

template <class T>
cost_facts inspect(const device_context& where, matrix<const T> cost) {
    interrupt signals;
    backend be(where, signals);
    return cuda::inspect(be, cost);
}

#define AITKEN_INSTANTIATE(T)                                                                          \
    template report solve(const device_context&, const problem<T>&, const options&, vec<double>,       \
                          vec<double>, interrupt&, const monitor&);                                    \
    template adjoint_report adjoint(const device_context&, const problem<T>&, const options&,          \
                                    vec<const double>, vec<const double>, vec<const double>,           \
                                    vec<const double>, vec<double>, vec<double>, interrupt&);          \
    template void plan_times(const device_context&, matrix<const T>, double, vec<const double>,        \
                             vec<const double>, bool, vec<const double>, vec<double>);                 \
    template void plan_rows(const device_context&, matrix<const T>, double, vec<const double>,         \
                            vec<const double>, index, matrix<T>);                                      \
    template void c_transform(const device_context&, matrix<const T>, double, bool, vec<const double>, \
                              vec<double>);                                                            \
    template sparse_plan compress(const device_context&, matrix<const T>, double, vec<const double>,   \
                                  vec<const double>, vec<const double>, vec<const double>, double);    \
    template cost_facts inspect(const device_context&, matrix<const T>);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(float)
#undef AITKEN_INSTANTIATE

}  // namespace aitken::cuda::ot
