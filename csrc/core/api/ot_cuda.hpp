// The transport solver on CUDA devices: core/api/ot.hpp with arrays in device memory, plus where to run.
#pragma once

#include "core/api/device_context.hpp"
#include "core/api/ot.hpp"

// As the functions of aitken::cpu::ot. Results in device memory are complete in the order of the stream;
// whatever is returned by value has been waited for.
namespace aitken::cuda::ot {

template <class T>
aitken::ot::report solve(const device_context& where, const aitken::ot::problem<T>& problem,
                         const aitken::ot::options& options, vec<double> x, vec<double> y, interrupt& signals,
                         const aitken::ot::monitor& monitor);

template <class T>
aitken::ot::adjoint_report adjoint(const device_context& where, const aitken::ot::problem<T>& problem,
                                   const aitken::ot::options& options, vec<const double> x,
                                   vec<const double> y, vec<const double> w, vec<const double> z,
                                   vec<double> p, vec<double> q, interrupt& signals);

template <class T>
void plan_times(const device_context& where, matrix<const T> cost, double reg, vec<const double> x,
                vec<const double> y, bool transposed, vec<const double> v, vec<double> out);

template <class T>
void plan_rows(const device_context& where, matrix<const T> cost, double reg, vec<const double> x,
               vec<const double> y, index first, matrix<T> out);

template <class T>
void c_transform(const device_context& where, matrix<const T> cost, double reg, bool transposed,
                 vec<const double> potential, vec<double> out);

// The plan comes back in host memory.
template <class T>
aitken::ot::sparse_plan compress(const device_context& where, matrix<const T> cost, double reg,
                                 vec<const double> x, vec<const double> y, vec<const double> a,
                                 vec<const double> b, double drop);

template <class T>
aitken::ot::cost_facts inspect(const device_context& where, matrix<const T> cost);

// Of points, in the order they are given in; no n x m array but a plan that is asked for.
aitken::ot::report solve(const device_context& where, const aitken::ot::point_problem& problem,
                         const aitken::ot::options& options, vec<double> x, vec<double> y, interrupt& signals,
                         const aitken::ot::monitor& monitor);
aitken::ot::adjoint_report adjoint(const device_context& where, const aitken::ot::point_problem& problem,
                                   const aitken::ot::options& options, vec<const double> x,
                                   vec<const double> y, vec<const double> w, vec<const double> z,
                                   vec<double> p, vec<double> q, interrupt& signals);
void plan_times(const device_context& where, const aitken::ot::point_cost& cost, double reg,
                vec<const double> x, vec<const double> y, matrix<const double> v, matrix<double> out,
                interrupt& signals);
template <class T>
void plan_rows(const device_context& where, const aitken::ot::point_cost& cost, double reg,
               vec<const double> x, vec<const double> y, index first, matrix<T> out);
void c_transform(const device_context& where, const aitken::ot::point_cost& cost, double reg,
                 vec<const double> potential, vec<double> out, interrupt& signals);
void plan_pull(const device_context& where, const aitken::ot::point_cost& cost, double reg,
               vec<const double> x, vec<const double> y, matrix<double> out, interrupt& signals);
aitken::ot::sparse_plan compress(const device_context& where, const aitken::ot::point_cost& cost, double reg,
                                 vec<const double> x, vec<const double> y, vec<const double> a,
                                 vec<const double> b, double drop, interrupt& signals);

}  // namespace aitken::cuda::ot
