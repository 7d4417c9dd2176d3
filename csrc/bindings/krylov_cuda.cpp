// GCRO-DR and batches of systems on CUDA devices for Python: krylov_solve and run_chain of the CPU module
// with a first argument (device, stream, allocate) and arrays as addresses: a vector is (address, length),
// rows are (address, rows, columns), contiguous, with -1 rows for a vector that serves every system.
// python/aitken/linalg/_cuda_calls.py makes them from CuPy arrays, which it has checked and keeps alive.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/device_convert.hpp"
#include "bindings/krylov_convert.hpp"
#include "bindings/sequence_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/krylov_cuda.hpp"

namespace py = pybind11;
namespace krylov = aitken::krylov;
namespace sequence = aitken::sequence;
using aitken::bindings::array_1d;
using aitken::bindings::array_rows;
using aitken::bindings::pattern_of;
using aitken::bindings::pointer;
using aitken::bindings::to_array;
using aitken::bindings::to_space;
using aitken::bindings::vector_of;

namespace {

using aitken::index;
template <class T>
using host_rows = py::array_t<T, py::array::c_style>;

// callback(iteration, residual, target, cycle_end) -> stop.
krylov::monitor<double> to_monitor(const py::object& callback, bool every_step) {
    if (callback.is_none()) return {};
    return [callback, every_step](const krylov::step<double>& s) {
        if (!s.cycle_end && !every_step) return false;
        const py::gil_scoped_acquire gil;
        return callback(s.iteration, s.residual, s.target, s.cycle_end).template cast<bool>();
    };
}

py::dict solve(const py::tuple& where, const array_1d& indptr, const array_1d& indices, const array_1d& data,
               const py::dict& inverse, const array_1d& b, const array_1d& x, const py::dict& options,
               const py::object& u, const py::object& c, bool same_matrix, const py::object& outer_u,
               const py::object& outer_c, const py::object& callback, bool every_step) {
    const auto context = aitken::bindings::to_context(where);
    const aitken::cuda::krylov::matrix a{pattern_of(indptr, indices), std::get<1>(indices),
                                         pointer<const double>(std::get<0>(data))};
    const index n = a.pattern.rows;
    if (std::get<1>(data) != a.nnz)
        throw std::invalid_argument("`A` must have a value for each of its " + std::to_string(a.nnz) +
                                    " entries");
    const auto vb = vector_of(b, n, "b"), vx = vector_of(x, n, "x0");
    const sequence::options kind = aitken::bindings::to_sequence_options(inverse);
    const krylov::options o = aitken::bindings::to_krylov_options(options);
    auto kept = to_space<double>(u, c, "recycle", n),
         outer = to_space<double>(outer_u, outer_c, "outer_v", n);
    const auto monitor = to_monitor(callback, every_step);
    aitken::interrupt signals = aitken::bindings::python_signals();
    krylov::report report;
    {
        const py::gil_scoped_release release;
        report = aitken::cuda::krylov::solve(context, a, {kind.preconditioner, kind.block}, vb, vx, o, kept,
                                             same_matrix, outer, signals, monitor);
    }
    py::dict result = aitken::bindings::to_dict(report);
    result["U"] = to_array(std::move(kept.u), n);
    result["C"] = to_array(std::move(kept.c), n);
    result["outer_u"] = to_array(std::move(outer.u), n);
    result["outer_c"] = to_array(std::move(outer.c), n);
    return result;
}

py::dict run_chains(const py::tuple& where, const array_1d& indptr, const array_1d& indices,
                    const array_rows& data, const array_rows& b, const py::object& params,
                    const std::vector<host_rows<index>>& chains, const py::dict& options, const array_rows& x,
                    const py::object& seed, std::size_t memory, const py::object& progress) {
    const auto context = aitken::bindings::to_context(where);
    sequence::systems<double> systems;
    systems.pattern = pattern_of(indptr, indices);
    const index n = systems.pattern.rows, nnz = std::get<1>(indices);
    const auto [x_address, count, x_cols] = x;
    if (count < 0 || x_cols != n) throw std::invalid_argument("`x` must have a row per system");
    systems.count = count;
    const auto rows_of = [&](const array_rows& given, index cols, const char* name, bool& one) {
        const auto [at, rows, width] = given;
        one = rows == -1;
        if (width != cols || (!one && rows != count))
            throw std::invalid_argument(std::string("`") + name + "` must have a row of " +
                                        std::to_string(cols) + " values per system");
        return pointer<const double>(at);
    };
    systems.data = rows_of(data, nnz, "data", systems.one_matrix);
    systems.b = rows_of(b, n, "b", systems.one_rhs);
    host_rows<double> parameters;
    if (!params.is_none()) {
        parameters = py::cast<host_rows<double>>(params);
        if (parameters.ndim() != 2 || parameters.shape(0) != count)
            throw std::invalid_argument("`params` must have a row per system");
        systems.params = parameters.data();
        systems.n_params = parameters.shape(1);
    }
    std::vector<std::span<const index>> order;
    for (const auto& chain : chains) {
        for (index k = 0; k < chain.size(); ++k)
            if (chain.at(k) < 0 || chain.at(k) >= count)
                throw std::invalid_argument("`chains` names system " + std::to_string(chain.at(k)) + " of " +
                                            std::to_string(count));
        order.emplace_back(chain.data(), static_cast<std::size_t>(chain.size()));
    }
    const sequence::options o = aitken::bindings::to_sequence_options(options);
    krylov::space<double> kept = to_space<double>(seed, py::none(), "recycle", n);
    aitken::bindings::collected results;
    const sequence::monitor monitor = [&](index i, const sequence::record& r) {
        results.add(i, r);
        if (progress.is_none()) return false;
        const py::gil_scoped_acquire gil;
        return progress(i, r.nit, r.residual).template cast<bool>();
    };
    aitken::interrupt signals = aitken::bindings::python_signals();
    {
        const py::gil_scoped_release release;
        aitken::cuda::sequence::run_chains(context, systems, nnz, order, o, pointer<double>(x_address), kept,
                                           memory, signals, monitor);
    }
    py::dict d = results.to_dict();
    d["U"] = chains.size() == 1 ? to_array(std::move(kept.u), n) : py::none();
    return d;
}

}  // namespace

void bind_krylov_cuda(py::module_& m) {
    using py::arg;
    m.def("krylov_solve", &solve, arg("where"), arg("indptr"), arg("indices"), arg("data"), arg("M"),
          arg("b"), arg("x"), arg("options"), arg("U"), arg("C"), arg("same_matrix"), arg("outer_u"),
          arg("outer_c"), arg("callback"), arg("every_step"),
          "Solves A x = b from x, in place; gives the report, the new space U, C and outer vectors in NumPy "
          "arrays. M is {} or the options \"M\" and \"block\" of run_chains.");
    m.def("run_chains", &run_chains, arg("where"), arg("indptr"), arg("indices"), arg("data"), arg("b"),
          arg("params"), arg("chains"), arg("options"), arg("x"), arg("recycle"), arg("memory"),
          arg("progress"),
          "Solves the systems of all chains in lockstep into the rows of x, as many chains at a time as "
          "`memory` bytes hold; gives a record per system.");
}
