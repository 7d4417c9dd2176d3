// Flexible conjugate directions on CUDA devices for Python: a first argument (device, stream, allocate) and
// arrays as addresses, as in krylov_cuda.cpp. Grids are handles of the CPU's module, which know the geometry.
// python/aitken/linalg/_deepcg_cuda.py makes the rest from CuPy arrays, which it has checked and keeps alive.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/deepcg_convert.hpp"
#include "bindings/device_convert.hpp"
#include "bindings/grid_handle.hpp"
#include "bindings/multigrid_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/deepcg_cuda.hpp"

namespace py = pybind11;
namespace on_device = aitken::cuda::deepcg;
namespace dcg = aitken::deepcg;
using aitken::bindings::array_1d;
using aitken::bindings::array_rows;
using aitken::bindings::pattern_of;
using aitken::bindings::pointer;
using aitken::bindings::vector_of;

namespace {

using aitken::index;
using host_vector = py::array_t<double, py::array::c_style>;

// None, "jacobi", a tuple of a cycle's options, or (r, z, call) with call() filling z from r, both of length
// n.
class model_owner {
public:
    model_owner(const py::object& given, index n) {
        if (given.is_none()) return;
        if (py::isinstance<py::str>(given)) {
            if (given.cast<std::string>() != "jacobi") throw std::invalid_argument("`model` is unknown");
            jacobi_ = true;
            return;
        }
        const auto parts = py::cast<py::tuple>(given);
        if (parts.size() == 3) {
            function_.from = vector_of(py::cast<array_1d>(parts[0]), n, "r").data;
            function_.to = vector_of(py::cast<array_1d>(parts[1]), n, "z").data;
            const auto call = py::cast<py::function>(parts[2]);
            function_.run = [call] {
                const py::gil_scoped_acquire gil;
                call();
            };
            return;
        }
        cycle_ = aitken::bindings::to_cycle_options(parts[0].cast<int>(), parts[1].cast<std::string>(),
                                                    parts[2].cast<std::vector<double>>(),
                                                    parts[3].cast<int>(), parts[4].cast<double>(), parts[5]);
        has_cycle_ = true;
    }
    on_device::model get() const {
        return {has_cycle_ ? &cycle_ : nullptr, jacobi_, function_.run ? &function_ : nullptr};
    }

private:
    aitken::multigrid::cycle_options cycle_;
    bool has_cycle_ = false, jacobi_ = false;
    on_device::function function_;
};

// callback(iteration, residual, target, x or None) -> stop; `shown` makes the callback's copy of x.
dcg::monitor to_monitor(const py::object& callback, std::function<host_vector(const double*)> shown) {
    if (callback.is_none()) return {};
    return [&callback, shown = std::move(shown)](const dcg::step& s) {
        const py::gil_scoped_acquire gil;
        const py::object x = s.x == nullptr ? py::object(py::none()) : py::object(shown(s.x));
        return callback(s.iteration, s.residual, s.target, x).cast<bool>();
    };
}

py::list solve_grid(const py::tuple& where, const aitken::bindings::grid_handle& grid,
                    const py::object& model, const py::object& fallback, bool has_fallback,
                    const array_rows& b, const array_rows& x, bool compact, bool single,
                    const py::dict& options, const py::object& callback) {
    const auto context = aitken::bindings::to_context(where);
    const index n = grid.length(compact), cells = grid.length(false);
    const auto [b_at, rows, width] = b;
    if (rows < 0 || width != n || std::get<1>(x) != rows || std::get<2>(x) != n)
        throw std::invalid_argument("`b` and `x0` must have rows of " + std::to_string(n) + " numbers");
    const model_owner first(model, cells), second(fallback, cells);
    const dcg::options o = aitken::bindings::to_deepcg_options(options);
    const auto& host = *grid.grid();
    const auto monitor = to_monitor(callback, [&host, n, compact](const double* padded) {
        host_vector out(n);
        host.gather(padded, compact, out.mutable_data());
        return out;
    });
    aitken::interrupt signals = aitken::bindings::python_signals();
    on_device::grid_problem problem;
    problem.grid = &host;
    problem.model = first.get();
    problem.fallback = second.get();
    problem.has_fallback = has_fallback;
    problem.compact = compact;
    problem.single = single;
    problem.b = {pointer<const double>(b_at), rows, n, n};
    problem.x = {pointer<double>(std::get<0>(x)), rows, n, n};
    const auto reports =
        grid.read([&](const auto&) { return on_device::solve_grid(context, problem, o, signals, monitor); });
    py::list out;
    for (const auto& r : reports) {
        py::dict d = aitken::bindings::to_dict(r.solve);
        d["removed"] = r.removed;
        out.append(d);
    }
    return out;
}

py::dict solve(const py::tuple& where, const array_1d& indptr, const array_1d& indices, const array_1d& data,
               const py::object& model, const py::object& fallback, bool has_fallback, const array_1d& b,
               const array_1d& x, bool single, const py::dict& options, const py::object& callback) {
    const auto context = aitken::bindings::to_context(where);
    on_device::matrix_problem problem;
    problem.a = {pattern_of(indptr, indices), std::get<1>(indices), pointer<const double>(std::get<0>(data))};
    const index n = problem.a.pattern.rows;
    if (std::get<1>(data) != problem.a.nnz)
        throw std::invalid_argument("`A` must have a value for each of its " + std::to_string(problem.a.nnz) +
                                    " entries");
    const model_owner first(model, n), second(fallback, n);
    problem.model = first.get();
    problem.fallback = second.get();
    problem.has_fallback = has_fallback;
    problem.single = single;
    problem.b = vector_of(b, n, "b");
    problem.x = vector_of(x, n, "x0");
    const dcg::options o = aitken::bindings::to_deepcg_options(options);
    const auto monitor = to_monitor(callback, [n](const double* at) { return host_vector(n, at); });
    aitken::interrupt signals = aitken::bindings::python_signals();
    dcg::report report;
    {
        const py::gil_scoped_release release;
        report = on_device::solve(context, problem, o, signals, monitor);
    }
    return aitken::bindings::to_dict(report);
}

}  // namespace

void bind_deepcg_cuda(py::module_& m) {
    using py::arg;
    m.def("deepcg_solve_grid", &solve_grid, arg("where"), arg("grid"), arg("model").none(true),
          arg("fallback").none(true), arg("has_fallback"), arg("b"), arg("x"), arg("compact"), arg("single"),
          arg("options"), arg("callback"),
          "Solves A x = b on a grid of the CPU's module for each row of b from x, in place; gives the "
          "reports.");
    m.def("deepcg_solve", &solve, arg("where"), arg("indptr"), arg("indices"), arg("data"),
          arg("model").none(true), arg("fallback").none(true), arg("has_fallback"), arg("b"), arg("x"),
          arg("single"), arg("options"), arg("callback"),
          "The same for a matrix in compressed rows; gives the report.");
}
