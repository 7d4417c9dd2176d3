// Entropic transport on the CPU for Python. Arrays are NumPy's and are used in place; the Python side
// has checked shapes and dtypes, the casts here refuse what it let through.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

#include "bindings/ot_arrays.hpp"
#include "bindings/ot_convert.hpp"
#include "bindings/ot_solve.hpp"
#include "core/api/ot.hpp"

namespace py = pybind11;
namespace ot = aitken::ot;
using aitken::bindings::const_vec;
using aitken::bindings::const_view;
using aitken::bindings::doubles;
using aitken::bindings::mutable_vec;
using aitken::bindings::plan_storage;
using aitken::bindings::solve_adjoint;
using aitken::bindings::solve_problem;
using aitken::bindings::to_csr;
using aitken::bindings::to_dict;
using aitken::bindings::view;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way
template <class T>
ot::problem<T> to_problem(const py::array_t<T>& cost, const doubles& a, const doubles& b, double range,
                          const py::object& plan) {
    ot::problem<T> p{const_view(cost, "M"), {}, {}, range, {}};
    p.a = const_vec(a, p.cost.rows, "a");
    p.b = const_vec(b, p.cost.cols, "b");
    p.plan = plan_storage<T>(plan, p.cost.rows, p.cost.cols);
    return p;
}

template <class T>
py::dict solve(const py::array_t<T>& cost, const doubles& a, const doubles& b, double range, doubles x,
               doubles y, const py::object& plan, const py::dict& options, const py::object& callback) {
    return solve_problem(to_problem(cost, a, b, range, plan), x, y, options, callback);
}

template <class T>
py::dict adjoint(const py::array_t<T>& cost, const doubles& a, const doubles& b, double range,
                 const doubles& x, const doubles& y, const doubles& w, const doubles& z, doubles p_out,
                 doubles q_out, const py::object& plan, const py::dict& options) {
    return solve_adjoint(to_problem(cost, a, b, range, plan), x, y, w, z, p_out, q_out, options);
}

template <class T>
void plan_times(const py::array_t<T>& cost, double reg, const doubles& x, const doubles& y, bool transposed,
                const doubles& v, doubles out, int n_threads) {
    const auto c = const_view(cost, "M");
    const auto vx = const_vec(x, c.rows, "x"), vy = const_vec(y, c.cols, "y");
    const auto vv = const_vec(v, transposed ? c.rows : c.cols, "v");
    const auto vo = mutable_vec(out, transposed ? c.cols : c.rows, "out");
    const py::gil_scoped_release release;
    aitken::cpu::ot::plan_times<T>(c, reg, vx, vy, transposed, vv, vo, n_threads);
}

template <class T>
void plan_rows(const py::array_t<T>& cost, double reg, const doubles& x, const doubles& y, index first,
               py::array_t<T> out, int n_threads) {
    const auto c = const_view(cost, "M");
    const auto vo = view(out, "out");
    if (first < 0 || vo.cols != c.cols || first + vo.rows > c.rows)
        throw std::invalid_argument("`out` does not fit the rows asked for");
    const auto vx = const_vec(x, c.rows, "x"), vy = const_vec(y, c.cols, "y");
    const py::gil_scoped_release release;
    aitken::cpu::ot::plan_rows<T>(c, reg, vx, vy, first, vo, n_threads);
}

template <class T>
void c_transform(const py::array_t<T>& cost, double reg, bool transposed, const doubles& potential,
                 doubles out, int n_threads) {
    const auto c = const_view(cost, "M");
    const auto vp = const_vec(potential, transposed ? c.rows : c.cols, "potential");
    const auto vo = mutable_vec(out, transposed ? c.cols : c.rows, "out");
    const py::gil_scoped_release release;
    aitken::cpu::ot::c_transform<T>(c, reg, transposed, vp, vo, n_threads);
}

template <class T>
py::tuple compress(const py::array_t<T>& cost, double reg, const doubles& x, const doubles& y,
                   const doubles& a, const doubles& b, double drop, int n_threads) {
    const auto c = const_view(cost, "M");
    const auto vx = const_vec(x, c.rows, "x"), va = const_vec(a, c.rows, "a");
    const auto vy = const_vec(y, c.cols, "y"), vb = const_vec(b, c.cols, "b");
    ot::sparse_plan plan;
    {
        const py::gil_scoped_release release;
        plan = aitken::cpu::ot::compress<T>(c, reg, vx, vy, va, vb, drop, n_threads);
    }
    return to_csr(std::move(plan));
}

template <class T>
py::dict inspect(const py::array_t<T>& cost, int n_threads) {
    const auto c = const_view(cost, "M");
    ot::cost_facts facts;
    {
        const py::gil_scoped_release release;
        facts = aitken::cpu::ot::inspect<T>(c, n_threads);
    }
    return to_dict(facts);
}

template <class T>
void bind_precision(py::module_& m) {
    using py::arg;
    m.def("ot_solve", &solve<T>, arg("M").noconvert(), arg("a").noconvert(), arg("b").noconvert(),
          arg("range"), arg("x").noconvert(), arg("y").noconvert(), arg("plan"), arg("options"),
          arg("callback"),
          "Solves one problem; x, y (in: start, out: solution) and plan are written in place.");
    m.def("ot_adjoint", &adjoint<T>, arg("M").noconvert(), arg("a").noconvert(), arg("b").noconvert(),
          arg("range"), arg("x").noconvert(), arg("y").noconvert(), arg("w").noconvert(),
          arg("z").noconvert(), arg("p").noconvert(), arg("q").noconvert(), arg("plan"), arg("options"),
          "Solves H [p; q] = [w; z] with the Hessian at (x, y).");
    m.def("ot_plan_times", &plan_times<T>, arg("M").noconvert(), arg("reg"), arg("x").noconvert(),
          arg("y").noconvert(), arg("transposed"), arg("v").noconvert(), arg("out").noconvert(),
          arg("n_threads"), "out = P v or P^T v, P recomputed row by row.");
    m.def("ot_plan_rows", &plan_rows<T>, arg("M").noconvert(), arg("reg"), arg("x").noconvert(),
          arg("y").noconvert(), arg("first"), arg("out").noconvert(), arg("n_threads"),
          "Rows first .. first + len(out) of P.");
    m.def("ot_c_transform", &c_transform<T>, arg("M").noconvert(), arg("reg"), arg("transposed"),
          arg("potential").noconvert(), arg("out").noconvert(), arg("n_threads"),
          "-reg log-sum-exp of (potential - M)/reg over columns (transposed: over rows).");
    m.def("ot_compress", &compress<T>, arg("M").noconvert(), arg("reg"), arg("x").noconvert(),
          arg("y").noconvert(), arg("a").noconvert(), arg("b").noconvert(), arg("drop"), arg("n_threads"),
          "(indptr, indices, values) of the entries above drop * min(a_i / m, b_j / n).");
    m.def("ot_inspect", &inspect<T>, arg("M").noconvert(), arg("n_threads"),
          "Smallest and largest finite cost, NaN and -inf, first row and column without a finite cost.");
}

}  // namespace

void bind_ot(py::module_& m) {
    bind_precision<double>(m);
    bind_precision<float>(m);
}
