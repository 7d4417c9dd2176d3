// Matrix completion on CUDA devices for Python: the functions of completion.cpp, one for each type of
// numbers, with a first argument (device, stream, allocate) and arrays as addresses: a vector is (address,
// length), a matrix (address, rows, columns), entries (indptr, indices, values, weights or None).
// python/aitken/completion/_cuda_calls.py makes them from CuPy arrays, which it has checked and keeps alive.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings/completion_convert.hpp"
#include "bindings/device_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/completion_cuda.hpp"

namespace py = pybind11;
namespace api = aitken::completion;
namespace on_device = aitken::cuda::completion;
using aitken::bindings::array_1d;
using aitken::bindings::array_rows;
using aitken::bindings::pointer;

namespace {

using aitken::index;

void check_shape(bool right, const char* name) {
    if (!right)
        throw std::invalid_argument(std::string("`") + name + "` does not have the shape of its partners");
}
template <class T>
on_device::stored<T> to_entries(const py::tuple& t, index cols, const char* name) {
    if (t.size() != 4) throw std::invalid_argument(std::string("`") + name + "` must have four parts");
    const auto indptr = t[0].cast<array_1d>(), indices = t[1].cast<array_1d>(),
               values = t[2].cast<array_1d>();
    const index nnz = std::get<1>(indices);
    bool right = std::get<1>(indptr) >= 1 && std::get<1>(values) == nnz;
    on_device::stored<T> s;
    s.nnz = nnz;
    s.entries.a = {std::get<1>(indptr) - 1, cols, pointer<const index>(std::get<0>(indptr)),
                   pointer<const std::int32_t>(std::get<0>(indices))};
    s.entries.values = pointer<const T>(std::get<0>(values));
    if (!t[3].is_none()) {
        const auto weights = t[3].cast<array_1d>();
        right = right && std::get<1>(weights) == nnz;
        s.entries.weights = pointer<const T>(std::get<0>(weights));
    }
    if (!right) throw std::invalid_argument(std::string("`") + name + "` is not a matrix in compressed rows");
    return s;
}
template <class T>
aitken::matrix<T> to_matrix(const array_rows& m) {
    const auto [at, rows, cols] = m;
    return {pointer<T>(at), rows, cols, cols};
}
template <class T>
aitken::vec<T> to_vec(const array_1d& v) {
    return {pointer<T>(std::get<0>(v)), std::get<1>(v)};
}
template <class T>
api::factors<T> to_factors(const array_rows& u, const array_rows& v, const array_1d& a, const array_1d& b) {
    const api::factors<T> f{to_matrix<T>(u), to_matrix<T>(v), to_vec<T>(a), to_vec<T>(b)};
    check_shape(f.u.cols == f.v.cols && f.u.cols >= 1, "u");
    check_shape((f.a.size == f.u.rows && f.b.size == f.v.rows) || (f.a.size == 0 && f.b.size == 0), "a");
    return f;
}

template <class T>
py::dict complete(const py::tuple& where, const py::tuple& rows, const py::tuple& columns,
                  const py::object& holdout, const array_rows& u, const array_rows& v, const array_1d& a,
                  const array_1d& b, const py::dict& options, const py::object& callback) {
    const auto context = aitken::bindings::to_context(where);
    const api::factors<T> f = to_factors<T>(u, v, a, b);
    on_device::problem<T> problem{
        to_entries<T>(rows, f.v.rows, "rows"), to_entries<T>(columns, f.u.rows, "columns"), {}};
    if (!holdout.is_none()) problem.holdout = to_entries<T>(holdout.cast<py::tuple>(), f.v.rows, "holdout");
    const api::options o = aitken::bindings::to_completion_options(options);
    check_shape(problem.rows.entries.a.rows == f.u.rows && problem.columns.entries.a.rows == f.v.rows &&
                    problem.rows.nnz == problem.columns.nnz,
                "rows");
    check_shape(holdout.is_none() || problem.holdout.entries.a.rows == f.u.rows, "holdout");
    check_shape(f.a.size == (o.half.bias ? f.u.rows : 0), "a");
    const auto monitor = aitken::bindings::to_completion_monitor(callback);
    aitken::interrupt signals = aitken::bindings::python_signals();
    api::report report;
    {
        const py::gil_scoped_release release;
        report = on_device::complete<T>(context, problem, o, f, signals, monitor);
    }
    return aitken::bindings::to_dict(report);
}

template <class T>
py::dict half_sweep(const py::tuple& where, const py::tuple& rows, const array_rows& fixed,
                    const array_1d& fixed_bias, const array_rows& x, const array_1d& x_bias,
                    const py::dict& options) {
    const auto context = aitken::bindings::to_context(where);
    const auto from = to_matrix<const T>(fixed);
    const auto to = to_matrix<T>(x);
    const auto given = to_entries<T>(rows, from.rows, "rows");
    int n_threads = 0;  // means nothing here
    const api::half_options o = aitken::bindings::to_half_options(options, &n_threads);
    check_shape(to.rows == given.entries.a.rows && to.cols == from.cols && to.cols >= 1, "x");
    const auto bias = to_vec<T>(x_bias);
    const auto from_bias = to_vec<const T>(fixed_bias);
    check_shape(bias.size == (o.bias ? to.rows : 0) && from_bias.size == (o.bias ? from.rows : 0), "x_bias");
    aitken::interrupt signals = aitken::bindings::python_signals();
    api::half_report report;
    {
        const py::gil_scoped_release release;
        report = on_device::half_sweep<T>(context, given, from, from_bias, to, bias, o, signals);
    }
    return aitken::bindings::to_dict(report);
}

template <class T>
double squared_error(const py::tuple& where, const py::tuple& rows, const array_rows& u, const array_rows& v,
                     const array_1d& a, const array_1d& b) {
    const auto context = aitken::bindings::to_context(where);
    const auto f = to_factors<const T>(u, v, a, b);
    const auto given = to_entries<T>(rows, f.v.rows, "rows");
    check_shape(given.entries.a.rows == f.u.rows, "rows");
    aitken::interrupt signals = aitken::bindings::python_signals();
    const py::gil_scoped_release release;
    return on_device::squared_error<T>(context, given, f, signals);
}

template <class T>
void predict(const py::tuple& where, const array_rows& u, const array_rows& v, const array_1d& a,
             const array_1d& b, const array_1d& rows, const array_1d& cols, const array_1d& out) {
    const auto context = aitken::bindings::to_context(where);
    const auto f = to_factors<const T>(u, v, a, b);
    check_shape(std::get<1>(rows) == std::get<1>(cols) && std::get<1>(rows) == std::get<1>(out), "rows");
    aitken::interrupt signals = aitken::bindings::python_signals();
    const py::gil_scoped_release release;
    on_device::predict<T>(context, f, pointer<const std::int32_t>(std::get<0>(rows)),
                          pointer<const std::int32_t>(std::get<0>(cols)), to_vec<T>(out), signals);
}

template <class T>
void bind_for(py::module_& m, const std::string& suffix) {
    using py::arg;
    m.def(("complete_matrix_" + suffix).c_str(), &complete<T>, arg("where"), arg("rows"), arg("columns"),
          arg("holdout"), arg("u"), arg("v"), arg("a"), arg("b"), arg("options"), arg("callback"),
          "Completes a matrix from the factors given, in place; gives the report.");
    m.def(("als_half_sweep_" + suffix).c_str(), &half_sweep<T>, arg("where"), arg("rows"), arg("fixed"),
          arg("fixed_bias"), arg("x"), arg("x_bias"), arg("options"),
          "Solves for every row of x with the other factor fixed, in place; gives the report.");
    m.def(("completion_error_" + suffix).c_str(), &squared_error<T>, arg("where"), arg("rows"), arg("u"),
          arg("v"), arg("a"), arg("b"), "sum w (m - fit)^2 over entries.");
    m.def(("predict_entries_" + suffix).c_str(), &predict<T>, arg("where"), arg("u"), arg("v"), arg("a"),
          arg("b"), arg("rows"), arg("cols"), arg("out"), "The fit at given places, into out.");
}

}  // namespace

void bind_completion_cuda(py::module_& m) {
    bind_for<double>(m, "f64");
    bind_for<float>(m, "f32");
}
