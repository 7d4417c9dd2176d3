// GCRO-DR and its family on the CPU for Python. Vectors are NumPy's and are used in place; the operators are
// handles of linear_maps.cpp, a caller's function among them.
#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <complex>
#include <string>
#include <utility>
#include <vector>

#include "bindings/krylov_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/krylov.hpp"

namespace py = pybind11;
namespace krylov = aitken::krylov;
using aitken::bindings::python_signals;
using aitken::bindings::to_array;
using aitken::bindings::to_dict;
using aitken::bindings::to_krylov_options;
using aitken::bindings::to_space;

namespace {

using aitken::index;

template <class S>
using columns = py::array_t<S, py::array::f_style>;

// callback(iteration, residual, target, x or None) -> stop; x is a view of the iterate, after cycles only.
template <class S>
krylov::monitor<S> to_monitor(const py::object& callback, index n, bool every_step) {
    if (callback.is_none()) return {};
    return [callback, n, every_step](const krylov::step<S>& s) {
        if (!s.cycle_end && !every_step) return false;
        const py::gil_scoped_acquire gil;
        py::object x = py::none();
        if (s.cycle_end) x = py::array_t<S>(n, s.x);  // a copy: the caller may keep it
        return callback(s.iteration, s.residual, s.target, x).template cast<bool>();
    };
}

template <class S>
void check_length(const py::array_t<S>& a, index n, const char* name) {
    if (a.ndim() != 1 || a.shape(0) != n || (n > 1 && a.strides(0) != sizeof(S)))
        throw std::invalid_argument(std::string("`") + name + "` must be contiguous, of length " +
                                    std::to_string(n));
}

template <class S>
py::dict solve(aitken::linear_map<S>& matrix, aitken::linear_map<S>* inverse, const py::array_t<S>& b,
               py::array_t<S> x, const py::dict& options, const py::object& u, const py::object& c,
               bool same_matrix, const py::object& outer_u, const py::object& outer_c,
               const py::object& callback, bool every_step) {
    const index n = matrix.size();
    check_length(b, n, "b");
    check_length(x, n, "x0");
    if (inverse != nullptr && inverse->size() != n)
        throw std::invalid_argument("`M` must have the size of `A`");
    const krylov::options o = to_krylov_options(options);
    auto kept = to_space<S>(u, c, "recycle", n), outer = to_space<S>(outer_u, outer_c, "outer_v", n);
    const auto monitor = to_monitor<S>(callback, n, every_step);
    aitken::interrupt signals = python_signals();
    krylov::report report;
    {
        const py::gil_scoped_release release;
        report = aitken::cpu::krylov::solve<S>(matrix, inverse, {b.data(), n}, {x.mutable_data(), n}, o, kept,
                                               same_matrix, outer, signals, monitor);
    }
    py::dict result = to_dict(report);
    result["U"] = to_array(std::move(kept.u), n);
    result["C"] = to_array(std::move(kept.c), n);
    result["outer_u"] = to_array(std::move(outer.u), n);
    result["outer_c"] = to_array(std::move(outer.c), n);
    return result;
}

template <class S>
using many_columns = std::vector<krylov::report>(aitken::linear_map<S>&, aitken::linear_map<S>*,
                                                 aitken::tall<const S>, aitken::tall<S>,
                                                 const krylov::options&, krylov::space<S>&, bool,
                                                 aitken::interrupt&);

template <class S, many_columns<S>* Solve>
py::dict solve_columns(aitken::linear_map<S>& matrix, aitken::linear_map<S>* inverse, const columns<S>& b,
                       columns<S> x, const py::dict& options, const py::object& u, const py::object& c,
                       bool same_matrix) {
    const index n = matrix.size();
    if (b.ndim() != 2 || b.shape(0) != n || x.ndim() != 2 || x.shape(0) != n || x.shape(1) != b.shape(1))
        throw std::invalid_argument("`b` and `x0` must have " + std::to_string(n) + " rows and equal shapes");
    if (inverse != nullptr && inverse->size() != n)
        throw std::invalid_argument("`M` must have the size of `A`");
    const krylov::options o = to_krylov_options(options);
    auto kept = to_space<S>(u, c, "recycle", n);
    aitken::interrupt signals = python_signals();
    std::vector<krylov::report> reports;
    {
        const index s = b.shape(1);
        S* const to = x.mutable_data();
        const py::gil_scoped_release release;
        reports = Solve(matrix, inverse, {b.data(), n, s, n}, {to, n, s, n}, o, kept, same_matrix, signals);
    }
    py::dict result;
    py::list list;
    for (const auto& r : reports) list.append(to_dict(r));
    result["columns"] = list;
    result["U"] = to_array(std::move(kept.u), n);
    result["C"] = to_array(std::move(kept.c), n);
    return result;
}

template <class S>
void bind_scalar(py::module_& m) {
    using py::arg;
    m.def("krylov_solve", &solve<S>, arg("A"), arg("M").none(true), arg("b").noconvert(),
          arg("x").noconvert(), arg("options"), arg("U"), arg("C"), arg("same_matrix"), arg("outer_u"),
          arg("outer_c"), arg("callback"), arg("every_step"),
          "Solves A x = b from x, in place; gives the report, the new space U, C and outer vectors.");
    m.def("krylov_solve_columns", &solve_columns<S, &aitken::cpu::krylov::solve_columns<S>>, arg("A"),
          arg("M").none(true), arg("b").noconvert(), arg("x").noconvert(), arg("options"), arg("U"), arg("C"),
          arg("same_matrix"), "Several right-hand sides in lockstep, one product with A for all.");
    m.def("krylov_solve_block", &solve_columns<S, &aitken::cpu::krylov::solve_block<S>>, arg("A"),
          arg("M").none(true), arg("b").noconvert(), arg("x").noconvert(), arg("options"), arg("U"), arg("C"),
          arg("same_matrix"), "Several right-hand sides in one block Krylov space.");
}

}  // namespace

void bind_krylov(py::module_& m) {
    bind_scalar<double>(m);
    bind_scalar<std::complex<double>>(m);
}
