// Entropic transport between clouds of points for Python. Clouds are float64 matrices with contiguous rows,
// prepared by python/aitken/ot/_points.py; everything else is as in bindings/ot.cpp.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/ot_arrays.hpp"
#include "bindings/ot_solve.hpp"
#include "core/api/ot.hpp"

namespace py = pybind11;
namespace ot = aitken::ot;
using aitken::bindings::const_vec;
using aitken::bindings::const_view;
using aitken::bindings::doubles;
using aitken::bindings::mutable_vec;
using aitken::bindings::plan_storage;
using aitken::bindings::python_signals;
using aitken::bindings::solve_adjoint;
using aitken::bindings::solve_problem;
using aitken::bindings::to_csr;
using aitken::bindings::view;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way
using rows = py::array_t<double>;

ot::metric to_metric(const std::string& name) {
    if (name == "sqeuclidean") return ot::metric::sqeuclidean;
    if (name == "euclidean") return ot::metric::euclidean;
    if (name == "cityblock") return ot::metric::cityblock;
    throw std::invalid_argument("`metric` is \"" + name + "\"");
}

ot::point_cost to_cost(const rows& x, const rows& y, const std::string& metric) {
    const ot::point_cost cost{to_metric(metric), const_view(x, "X"), const_view(y, "Y")};
    if (cost.x.cols != cost.y.cols)
        throw std::invalid_argument("`Y` must have as many columns as `X`, " + std::to_string(cost.x.cols));
    return cost;
}

ot::point_problem to_problem(const rows& x, const rows& y, const std::string& metric, const doubles& a,
                             const doubles& b, double range, const py::object& plan) {
    ot::point_problem p{to_cost(x, y, metric), {}, {}, range, {}, false};
    p.a = const_vec(a, p.cost.x.rows, "a");
    p.b = const_vec(b, p.cost.y.rows, "b");
    p.plan = plan_storage<double>(plan, p.a.size, p.b.size);
    return p;
}

py::dict solve(const rows& X, const rows& Y, const std::string& metric, const doubles& a, const doubles& b,
               double range, doubles x, doubles y, const py::object& plan, const py::dict& options,
               const py::object& callback) {
    return solve_problem(to_problem(X, Y, metric, a, b, range, plan), x, y, options, callback);
}

py::dict adjoint(const rows& X, const rows& Y, const std::string& metric, const doubles& a, const doubles& b,
                 double range, const doubles& x, const doubles& y, const doubles& w, const doubles& z,
                 doubles p_out, doubles q_out, const py::object& plan, const py::dict& options) {
    return solve_adjoint(to_problem(X, Y, metric, a, b, range, plan), x, y, w, z, p_out, q_out, options);
}

void plan_times(const rows& X, const rows& Y, const std::string& metric, double reg, const doubles& x,
                const doubles& y, const rows& v, rows out, int n_threads) {
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vx = const_vec(x, cost.x.rows, "x"), vy = const_vec(y, cost.y.rows, "y");
    const auto vv = const_view(v, "v");
    const auto vo = view(out, "out");
    if (vv.cols != vy.size || vo.cols != vx.size || vv.rows != vo.rows)
        throw std::invalid_argument("`out` does not fit the vectors given");
    aitken::interrupt signals = python_signals();
    const py::gil_scoped_release release;
    aitken::cpu::ot::plan_times(cost, reg, vx, vy, vv, vo, signals, n_threads);
}

template <class T>
void plan_rows(const rows& X, const rows& Y, const std::string& metric, double reg, const doubles& x,
               const doubles& y, index first, py::array_t<T> out, int n_threads) {
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vo = view(out, "out");
    if (first < 0 || vo.cols != cost.y.rows || first + vo.rows > cost.x.rows)
        throw std::invalid_argument("`out` does not fit the rows asked for");
    const auto vx = const_vec(x, cost.x.rows, "x"), vy = const_vec(y, cost.y.rows, "y");
    const py::gil_scoped_release release;
    aitken::cpu::ot::plan_rows<T>(cost, reg, vx, vy, first, vo, n_threads);
}

void c_transform(const rows& X, const rows& Y, const std::string& metric, double reg,
                 const doubles& potential, doubles out, int n_threads) {
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vp = const_vec(potential, cost.y.rows, "potential");
    const auto vo = mutable_vec(out, cost.x.rows, "out");
    aitken::interrupt signals = python_signals();
    const py::gil_scoped_release release;
    aitken::cpu::ot::c_transform(cost, reg, vp, vo, signals, n_threads);
}

void plan_pull(const rows& X, const rows& Y, const std::string& metric, double reg, const doubles& x,
               const doubles& y, rows out, int n_threads) {
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vx = const_vec(x, cost.x.rows, "x"), vy = const_vec(y, cost.y.rows, "y");
    const auto vo = view(out, "out");
    if (vo.rows != cost.x.rows || vo.cols != cost.x.cols)
        throw std::invalid_argument("`out` must have the shape of `X`");
    aitken::interrupt signals = python_signals();
    const py::gil_scoped_release release;
    aitken::cpu::ot::plan_pull(cost, reg, vx, vy, vo, signals, n_threads);
}

py::tuple compress(const rows& X, const rows& Y, const std::string& metric, double reg, const doubles& x,
                   const doubles& y, const doubles& a, const doubles& b, double drop, int n_threads) {
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vx = const_vec(x, cost.x.rows, "x"), va = const_vec(a, cost.x.rows, "a");
    const auto vy = const_vec(y, cost.y.rows, "y"), vb = const_vec(b, cost.y.rows, "b");
    aitken::interrupt signals = python_signals();
    ot::sparse_plan plan;
    {
        const py::gil_scoped_release release;
        plan = aitken::cpu::ot::compress(cost, reg, vx, vy, va, vb, drop, signals, n_threads);
    }
    return to_csr(std::move(plan));
}

}  // namespace

void bind_ot_points(py::module_& m) {
    using py::arg;
    // The arguments that all calls begin with.
    const auto def = [&m](const char* name, auto fn, auto... rest) {
        m.def(name, fn, arg("X").noconvert(), arg("Y").noconvert(), arg("metric"), rest...);
    };
    def("ot_points_solve", &solve, arg("a").noconvert(), arg("b").noconvert(), arg("range"),
        arg("x").noconvert(), arg("y").noconvert(), arg("plan"), arg("options"), arg("callback"),
        "Solves one problem; x, y (in: start, out: solution) and plan are written in place.");
    def("ot_points_adjoint", &adjoint, arg("a").noconvert(), arg("b").noconvert(), arg("range"),
        arg("x").noconvert(), arg("y").noconvert(), arg("w").noconvert(), arg("z").noconvert(),
        arg("p").noconvert(), arg("q").noconvert(), arg("plan"), arg("options"),
        "Solves H [p; q] = [w; z] with the Hessian at (x, y).");
    def("ot_points_times", &plan_times, arg("reg"), arg("x").noconvert(), arg("y").noconvert(),
        arg("v").noconvert(), arg("out").noconvert(), arg("n_threads"), "out[k] = P v[k].");
    def("ot_points_rows", &plan_rows<double>, arg("reg"), arg("x").noconvert(), arg("y").noconvert(),
        arg("first"), arg("out").noconvert(), arg("n_threads"), "Rows first .. first + len(out) of P.");
    def("ot_points_rows", &plan_rows<float>, arg("reg"), arg("x").noconvert(), arg("y").noconvert(),
        arg("first"), arg("out").noconvert(), arg("n_threads"), "Rows first .. first + len(out) of P.");
    def("ot_points_transform", &c_transform, arg("reg"), arg("potential").noconvert(), arg("out").noconvert(),
        arg("n_threads"), "-reg log-sum-exp of (potential - cost)/reg over the points of Y.");
    def("ot_points_pull", &plan_pull, arg("reg"), arg("x").noconvert(), arg("y").noconvert(),
        arg("out").noconvert(), arg("n_threads"), "out[i] = sum_j P_ij d cost_ij / d X_i.");
    def("ot_points_compress", &compress, arg("reg"), arg("x").noconvert(), arg("y").noconvert(),
        arg("a").noconvert(), arg("b").noconvert(), arg("drop"), arg("n_threads"),
        "(indptr, indices, values) of the entries above drop * min(a_i / m, b_j / n).");
}
