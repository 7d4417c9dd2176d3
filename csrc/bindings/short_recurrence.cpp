// CG, MINRES and BiCGSTAB on the CPU for Python. Vectors are NumPy's and are used in place; the operators are
// handles of linear_maps.cpp, a caller's function among them.
#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/krylov_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/short_recurrence.hpp"

namespace py = pybind11;
namespace sr = aitken::short_recurrence;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way

// Every key must be known: a misspelt option is an error, not a default.
sr::options to_options(const py::dict& given) {
    sr::options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = py::str(key_object);
        if (key == "method") {
            const auto name = value.cast<std::string>();
            if (name == "cg")
                o.method = sr::method::cg;
            else if (name == "minres")
                o.method = sr::method::minres;
            else if (name == "bicgstab")
                o.method = sr::method::bicgstab;
            else
                throw std::invalid_argument("`method` is \"" + name + "\"");
        } else if (key == "recycle")
            o.recycle = value.cast<bool>();
        else if (key == "rtol")
            o.rtol = value.cast<double>();
        else if (key == "atol")
            o.atol = value.cast<double>();
        else if (key == "maxiter")
            o.max_iterations = value.cast<index>();
        else if (key == "shift")
            o.shift = value.cast<double>();
        else if (key == "recycle_dim")
            o.recycle_dim = value.cast<int>();
        else if (key == "window")
            o.window = value.cast<int>();
        else if (key == "zero_start")
            o.zero_start = value.cast<bool>();
        else if (key == "report_x")
            o.report_x = value.cast<bool>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    if (o.recycle && (o.method == sr::method::bicgstab || o.recycle_dim < 1 || o.window < 1))
        throw std::invalid_argument("`recycle` needs cg or minres, and `recycle_dim`, `window` >= 1");
    return o;
}

py::dict to_dict(const sr::report& r) {
    py::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["nit"] = r.iterations;
    d["matvecs"] = r.matvecs;
    d["precond_applies"] = r.precond_applies;
    d["residual"] = r.residual;
    d["norm_b"] = r.norm_b;
    d["target"] = r.target;
    d["recycled"] = r.recycled;
    d["kept"] = r.kept;
    d["residuals"] = py::array_t<double>(static_cast<index>(r.history.size()), r.history.data());
    d["launches"] = r.counts.launches;
    d["reads"] = r.counts.reads;
    return d;
}

// callback(iteration, residual, target, x or None) -> stop; x is the callback's own copy.
template <class S>
aitken::krylov::monitor<S> to_monitor(const py::object& callback, index n) {
    if (callback.is_none()) return {};
    return [callback, n](const aitken::krylov::step<S>& s) {
        const py::gil_scoped_acquire gil;
        const py::object x = s.x == nullptr ? py::object(py::none()) : py::object(py::array_t<S>(n, s.x));
        return callback(s.iteration, s.residual, s.target, x).template cast<bool>();
    };
}

template <class S>
void check_vector(const py::array_t<S>& a, index n, const char* name) {
    if (a.ndim() != 1 || a.shape(0) != n || (n > 1 && a.strides(0) != sizeof(S)))
        throw std::invalid_argument(std::string("`") + name + "` must be contiguous, of length " +
                                    std::to_string(n));
}

template <class S>
py::dict solve(aitken::linear_map<S>& matrix, aitken::linear_map<S>* inverse, const py::array_t<S>& b,
               py::array_t<S> x, const py::dict& options, const py::object& u, const py::object& c,
               bool same_matrix, const py::object& callback) {
    const index n = matrix.size();
    check_vector(b, n, "b");
    check_vector(x, n, "x0");
    if (inverse != nullptr && inverse->size() != n)
        throw std::invalid_argument("`M` must have the size of `A`");
    const sr::options o = to_options(options);
    auto kept = aitken::bindings::to_space<S>(u, c, "recycle", n);
    const auto monitor = to_monitor<S>(callback, n);
    aitken::interrupt signals = aitken::bindings::python_signals();
    sr::report report;
    {
        S* const to = x.mutable_data();
        const py::gil_scoped_release release;
        report = aitken::cpu::short_recurrence::solve<S>(matrix, inverse, {b.data(), n}, {to, n}, o, kept,
                                                         same_matrix, signals, monitor);
    }
    py::dict result = to_dict(report);
    result["U"] = aitken::bindings::to_array(std::move(kept.u), n);
    result["C"] = aitken::bindings::to_array(std::move(kept.c), n);
    return result;
}

template <class S>
void bind_scalar(py::module_& m) {
    using py::arg;
    m.def("short_recurrence_solve", &solve<S>, arg("A"), arg("M").none(true), arg("b").noconvert(),
          arg("x").noconvert(), arg("options"), arg("U"), arg("C"), arg("same_matrix"), arg("callback"),
          "Solves A x = b from x, in place; gives the report and the new space U, C.");
}

}  // namespace

void bind_short_recurrence(py::module_& m) {
    bind_scalar<double>(m);
    bind_scalar<std::complex<double>>(m);
}
