// Relaxation of many systems of one pattern for Python: one call, whatever their number.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "bindings/relaxation_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/relaxation.hpp"

namespace py = pybind11;
namespace relaxation = aitken::relaxation;

namespace {

using aitken::index;

template <class T>
using array = py::array_t<T, py::array::c_style>;

// indptr and indices have been checked, and rows are sorted. x is the starts, then the solutions.
py::dict sor_batch(const array<index>& indptr, const array<std::int32_t>& indices, const array<double>& data,
                   const array<double>& b, array<double> x, const py::object& shifts,
                   const array<double>& omegas, const py::dict& options) {
    const index n = indptr.size() - 1, nnz = indices.size();
    if (b.ndim() != 2 || b.shape(1) != n) throw std::invalid_argument("`B` must have a row per system");
    const index count = b.shape(0);
    if (x.ndim() != 2 || x.shape(0) != count || x.shape(1) != n)
        throw std::invalid_argument("`x0` must have the shape of `B`");
    const bool shared = data.ndim() == 1;
    if (data.shape(data.ndim() - 1) != nnz || (!shared && data.shape(0) != count))
        throw std::invalid_argument("`A` must have " + std::to_string(nnz) + " values per system");
    array<double> raised;
    if (!shifts.is_none()) raised = py::cast<array<double>>(shifts);
    if ((!shifts.is_none() && raised.size() != count) || omegas.size() != count)
        throw std::invalid_argument("`shift` and `omega` must have an entry per system");

    relaxation::batch_problem problem;
    problem.a = {n, n, indptr.data(), indices.data()};
    problem.values = data.data();
    problem.value_stride = shared ? 0 : nnz;
    problem.shifts = shifts.is_none() ? nullptr : raised.data();
    problem.omegas = omegas.data();
    problem.b = {b.data(), count, n, n};
    problem.x = {x.mutable_data(), count, n, n};
    const relaxation::batch_options o = aitken::bindings::to_batch_options(options);
    aitken::interrupt signals = aitken::bindings::python_signals();
    relaxation::batch_report report;
    {
        const py::gil_scoped_release release;
        report = aitken::cpu::relaxation::sor_batch(problem, o, signals);
    }
    return aitken::bindings::to_dict(report);
}

}  // namespace

void bind_relaxation_batch(py::module_& m) {
    using py::arg;
    m.def("sor_batch", &sor_batch, arg("indptr").noconvert(), arg("indices").noconvert(),
          arg("data").noconvert(), arg("b").noconvert(), arg("x").noconvert(), arg("shifts").none(true),
          arg("omegas").noconvert(), arg("options"),
          "Solves (A_k + shift_k I) x_k = b_k from x_k for every row k, in place; gives the report.");
}
