// SOR and SSOR-CG on CUDA devices for Python: a first argument (device, stream, allocate) and arrays as
// addresses, as in krylov_cuda.cpp. python/aitken/linalg/_relaxation_cuda.py makes them from CuPy arrays,
// which it has checked and keeps alive.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/device_convert.hpp"
#include "bindings/relaxation_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/relaxation_cuda.hpp"

namespace py = pybind11;
namespace relaxation = aitken::relaxation;
namespace on_device = aitken::cuda::relaxation;
using aitken::bindings::array_1d;
using aitken::bindings::array_rows;
using aitken::bindings::pattern_of;
using aitken::bindings::pointer;
using aitken::bindings::vector_of;

namespace {

using aitken::index;
using permutation = py::array_t<std::int32_t, py::array::c_style>;

// run(context, matrix, order, rows, b, x, signals, monitor) without the interpreter's lock.
template <class Run>
py::dict solve(const py::tuple& where, const array_1d& indptr, const array_1d& indices, const array_1d& data,
               const array_1d& b, const array_1d& x, const std::string& order, const permutation& rows,
               const py::object& callback, Run run) {
    const auto context = aitken::bindings::to_context(where);
    const aitken::cuda::krylov::matrix a{pattern_of(indptr, indices), std::get<1>(indices),
                                         pointer<const double>(std::get<0>(data))};
    const index n = a.pattern.rows;
    if (std::get<1>(data) != a.nnz)
        throw std::invalid_argument("`A` must have a value for each of its " + std::to_string(a.nnz) +
                                    " entries");
    const auto vb = vector_of(b, n, "b"), vx = vector_of(x, n, "x0");
    std::optional<relaxation::order> kind;
    if (order != "auto") kind = aitken::bindings::to_order(order);
    const std::vector<std::int32_t> list(rows.data(), rows.data() + rows.size());
    const auto monitor = aitken::bindings::to_relaxation_monitor<double>(callback, n);
    aitken::interrupt signals = aitken::bindings::python_signals();
    on_device::solved solved;
    {
        const py::gil_scoped_release release;
        solved = run(context, a, kind, list, vb, vx, signals, monitor);
    }
    py::dict d = aitken::bindings::to_dict(solved.report);
    d["order"] = aitken::bindings::order_name(solved.order);
    d["stencil"] = solved.stencil;
    return d;
}

py::dict sor(const py::tuple& where, const array_1d& indptr, const array_1d& indices, const array_1d& data,
             const array_1d& b, const array_1d& x, const std::string& order, const permutation& rows,
             double shift, const py::dict& options, const py::object& callback) {
    const auto o = aitken::bindings::to_sor_options(options);
    return solve(where, indptr, indices, data, b, x, order, rows, callback,
                 [&](const auto& context, const auto& a, auto kind, const auto& list, auto vb, auto vx,
                     auto& signals, const auto& monitor) {
                     return on_device::sor(context, a, kind, list, vb, vx, shift, o, signals, monitor);
                 });
}

py::dict ssor_cg(const py::tuple& where, const array_1d& indptr, const array_1d& indices,
                 const array_1d& data, const array_1d& b, const array_1d& x, const std::string& order,
                 const permutation& rows, double shift, const py::dict& options, const py::object& callback) {
    const auto o = aitken::bindings::to_ssor_options(options);
    return solve(where, indptr, indices, data, b, x, order, rows, callback,
                 [&](const auto& context, const auto& a, auto kind, const auto& list, auto vb, auto vx,
                     auto& signals, const auto& monitor) {
                     return on_device::ssor_cg(context, a, kind, list, vb, vx, shift, o, signals, monitor);
                 });
}

py::dict sor_batch(const py::tuple& where, const array_1d& indptr, const array_1d& indices,
                   const array_rows& data, const array_rows& b, const array_rows& x,
                   const std::optional<array_1d>& shifts, const array_1d& omegas, const py::dict& options,
                   std::size_t room) {
    const auto context = aitken::bindings::to_context(where);
    relaxation::batch_problem problem;
    problem.a = pattern_of(indptr, indices);
    const index n = problem.a.rows, nnz = std::get<1>(indices);
    const auto [b_address, count, b_cols] = b;
    const auto [x_address, x_rows, x_cols] = x;
    const auto [values, value_rows, value_cols] = data;
    if (count < 0 || b_cols != n) throw std::invalid_argument("`B` must have a row per system");
    if (x_rows != count || x_cols != n) throw std::invalid_argument("`x0` must have the shape of `B`");
    if (value_cols != nnz || (value_rows != -1 && value_rows != count))
        throw std::invalid_argument("`A` must have " + std::to_string(nnz) + " values per system");
    problem.values = pointer<const double>(values);
    problem.value_stride = value_rows == -1 ? 0 : nnz;
    if (shifts) problem.shifts = vector_of(*shifts, count, "shift").data;
    problem.omegas = vector_of(omegas, count, "omega").data;
    problem.b = {pointer<const double>(b_address), count, n, n};
    problem.x = {pointer<double>(x_address), count, n, n};
    const relaxation::batch_options o = aitken::bindings::to_batch_options(options);
    aitken::interrupt signals = aitken::bindings::python_signals();
    relaxation::batch_report report;
    {
        const py::gil_scoped_release release;
        report = on_device::sor_batch(context, problem, nnz, o, room, signals);
    }
    return aitken::bindings::to_dict(report);
}

}  // namespace

void bind_relaxation_cuda(py::module_& m) {
    using py::arg;
    m.def("sor", &sor, arg("where"), arg("indptr"), arg("indices"), arg("data"), arg("b"), arg("x"),
          arg("order"), arg("rows"), arg("shift"), arg("options"), arg("callback"),
          "Solves (A + shift I) x = b by SOR from x, in place; gives the report with the order used. `order` "
          "may be \"auto\".");
    m.def("ssor_cg", &ssor_cg, arg("where"), arg("indptr"), arg("indices"), arg("data"), arg("b"), arg("x"),
          arg("order"), arg("rows"), arg("shift"), arg("options"), arg("callback"),
          "The same by CG with SSOR as preconditioner.");
    m.def("sor_batch", &sor_batch, arg("where"), arg("indptr"), arg("indices"), arg("data"), arg("b"),
          arg("x"), arg("shifts"), arg("omegas"), arg("options"), arg("room"),
          "Solves (A_k + shift_k I) x_k = b_k from x_k for every row k, in place; gives the report. `room`: "
          "bytes of device memory for systems of more than 1472 rows.");
}
