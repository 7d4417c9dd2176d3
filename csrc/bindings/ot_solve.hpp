// One solve, and one linear solve with the Hessian, for Python: over a matrix of costs as over points.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/ot_arrays.hpp"
#include "bindings/ot_convert.hpp"
#include "core/api/ot.hpp"

namespace aitken::bindings {

// The array that the plan is written into, if there is one.
template <class T>
matrix<T> plan_storage(const py::object& plan, aitken::index rows, aitken::index cols) {
    if (plan.is_none()) return {};
    auto storage = plan.cast<py::array_t<T>>();
    const matrix<T> v = view(storage, "plan");
    if (storage.ptr() != plan.ptr() || v.rows != rows || v.cols != cols)
        throw std::invalid_argument("`plan` must be an array of the cost's shape and dtype");
    return v;
}

template <class Problem>
py::dict solve_problem(const Problem& problem, doubles& x, doubles& y, const py::dict& options,
                       const py::object& callback) {
    const ot::options o = to_options(options);
    const auto vx = mutable_vec(x, problem.a.size, "x"), vy = mutable_vec(y, problem.b.size, "y");
    interrupt signals = python_signals();
    const ot::monitor monitor = to_monitor(callback);
    ot::report report;
    {
        const py::gil_scoped_release release;
        report = cpu::ot::solve(problem, o, vx, vy, signals, monitor);
    }
    return to_dict(report);
}

template <class Problem>
py::dict solve_adjoint(const Problem& problem, const doubles& x, const doubles& y, const doubles& w,
                       const doubles& z, doubles& p, doubles& q, const py::dict& options) {
    const aitken::index n = problem.a.size, m = problem.b.size;
    const ot::options o = to_options(options);
    const auto vx = const_vec(x, n, "x"), vw = const_vec(w, n, "w");
    const auto vy = const_vec(y, m, "y"), vz = const_vec(z, m, "z");
    const auto vp = mutable_vec(p, n, "p"), vq = mutable_vec(q, m, "q");
    interrupt signals = python_signals();
    ot::adjoint_report report;
    {
        const py::gil_scoped_release release;
        report = cpu::ot::adjoint(problem, o, vx, vy, vw, vz, vp, vq, signals);
    }
    return to_dict(report);
}

}  // namespace aitken::bindings
