// Transport with sparse plans on the CPU for Python: quadratic, k-sparse and exact.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/ot_arrays.hpp"
#include "bindings/signals.hpp"
#include "core/api/ot_quadratic.hpp"

namespace py = pybind11;
namespace ot = aitken::ot;
using aitken::bindings::const_vec;
using aitken::bindings::const_view;
using aitken::bindings::doubles;
using aitken::bindings::mutable_vec;
using aitken::bindings::python_signals;
using aitken::bindings::to_csr;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way

// Every key must be known: a misspelt option is an error, not a default.
template <class F>
void each_option(const py::dict& given, F&& set) {
    for (const auto& [key, value] : given) {
        const std::string name = py::str(key);
        if (!set(name, value)) throw std::invalid_argument("unknown option `" + name + "`");
    }
}
template <class V, class Handle>
bool assign(V& to, const Handle& value) {
    to = value.template cast<V>();
    return true;
}

// A step goes to the callback as a dict; true stops. It runs with the GIL.
template <class Step>
std::function<bool(const Step&)> to_monitor(const py::object& callback, py::dict (*convert)(const Step&)) {
    if (callback.is_none()) return {};
    return [callback, convert](const Step& s) {
        const py::gil_scoped_acquire gil;
        return callback(convert(s)).template cast<bool>();
    };
}
template <class Steps, class Step>
py::list to_list(const Steps& steps, py::dict (*convert)(const Step&)) {
    py::list out;
    for (const Step& s : steps) out.append(convert(s));
    return out;
}

py::dict quadratic_step(const ot::quadratic_step& s) {
    py::dict d;
    d["gamma"] = s.gamma;
    d["err"] = s.err;
    d["n_cg"] = s.n_cg;
    d["alpha"] = s.alpha;
    d["nnz"] = s.nnz;
    d["time"] = s.seconds;
    return d;
}
py::dict topk_step(const ot::topk_step& s) {
    py::dict d;
    d["value"] = s.value;
    d["err"] = s.err;
    d["alpha"] = s.alpha;
    d["time"] = s.seconds;
    return d;
}

template <class T>
ot::problem<T> to_problem(const py::array_t<T>& cost, const doubles& a, const doubles& b, double range) {
    ot::problem<T> p{const_view(cost, "M"), {}, {}, range, {}};
    p.a = const_vec(a, p.cost.rows, "a");
    p.b = const_vec(b, p.cost.cols, "b");
    return p;
}

template <class T>
py::dict quadratic(const py::array_t<T>& cost, const doubles& a, const doubles& b, double range, doubles x,
                   doubles y, const py::dict& options, const py::object& callback) {
    const ot::problem<T> p = to_problem(cost, a, b, range);
    ot::quadratic_options o;
    each_option(options, [&](const std::string& key, const py::handle& value) {
        return key == "gamma"       ? assign(o.gamma, value)
               : key == "tol"       ? assign(o.tol, value)
               : key == "maxiter"   ? assign(o.max_iterations, value)
               : key == "warm"      ? assign(o.warm, value)
               : key == "n_threads" ? assign(o.n_threads, value)
                                    : false;
    });
    const auto vx = mutable_vec(x, p.cost.rows, "x"), vy = mutable_vec(y, p.cost.cols, "y");
    aitken::interrupt signals = python_signals();
    const ot::quadratic_monitor monitor = to_monitor(callback, quadratic_step);
    ot::quadratic_report r;
    {
        const py::gil_scoped_release release;
        r = aitken::cpu::ot::solve_quadratic<T>(p, o, vx, vy, signals, monitor);
    }
    py::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["err"] = r.err;
    d["value_linear"] = r.linear;
    d["square"] = r.square;
    d["nit"] = r.nit;
    d["nit_cg"] = r.nit_cg;
    d["n_factor"] = r.n_factor;
    d["n_pass"] = r.n_pass;
    d["n_trials"] = r.n_trials;
    d["history"] = to_list(r.history, quadratic_step);
    d["plan"] = to_csr(std::move(r.plan));
    return d;
}

template <class T>
py::dict topk(const py::array_t<T>& cost, const doubles& a, const doubles& b, double range, doubles x,
              doubles y, const py::dict& options, const py::object& callback) {
    const ot::problem<T> p = to_problem(cost, a, b, range);
    ot::topk_options o;
    each_option(options, [&](const std::string& key, const py::handle& value) {
        return key == "gamma"       ? assign(o.gamma, value)
               : key == "k"         ? assign(o.k, value)
               : key == "tol"       ? assign(o.tol, value)
               : key == "ftol"      ? assign(o.ftol, value)
               : key == "maxiter"   ? assign(o.max_iterations, value)
               : key == "semidual"  ? assign(o.semidual, value)
               : key == "n_threads" ? assign(o.n_threads, value)
                                    : false;
    });
    const auto vx = mutable_vec(x, p.cost.cols, "x"), vy = mutable_vec(y, p.cost.rows, "y");
    aitken::interrupt signals = python_signals();
    const ot::topk_monitor monitor = to_monitor(callback, topk_step);
    ot::topk_report r;
    {
        const py::gil_scoped_release release;
        r = aitken::cpu::ot::solve_topk<T>(p, o, vx, vy, signals, monitor);
    }
    py::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["err"] = r.err;
    d["value"] = r.value;
    d["value_linear"] = r.linear;
    d["square"] = r.square;
    d["nit"] = r.nit;
    d["n_eval"] = r.n_eval;
    d["history"] = to_list(r.history, topk_step);
    d["plan"] = to_csr(std::move(r.plan));
    return d;
}

template <class T>
py::dict exact(const py::array_t<T>& cost, const doubles& a, const doubles& b, doubles x, doubles y,
               const py::dict& options) {
    const ot::problem<T> p = to_problem(cost, a, b, 0.0);
    ot::exact_options o;
    each_option(options, [&](const std::string& key, const py::handle& value) {
        return key == "slack"       ? assign(o.slack, value)
               : key == "maxiter"   ? assign(o.max_pivots, value)
               : key == "n_threads" ? assign(o.n_threads, value)
                                    : false;
    });
    const auto vx = mutable_vec(x, p.cost.rows, "x"), vy = mutable_vec(y, p.cost.cols, "y");
    aitken::interrupt signals = python_signals();
    ot::exact_report r;
    {
        const py::gil_scoped_release release;
        r = aitken::cpu::ot::solve_exact<T>(p, o, vx, vy, signals);
    }
    py::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["value"] = r.value;
    d["lower_bound"] = r.lower_bound;
    d["err"] = r.err;
    d["n_pivots"] = r.n_pivots;
    d["n_pass"] = r.n_pass;
    d["n_priced"] = r.n_priced;
    d["plan"] = to_csr(std::move(r.plan));
    return d;
}

template <class T>
void hard_transform(const py::array_t<T>& cost, bool transposed, const doubles& potential, doubles out,
                    int n_threads) {
    const auto c = const_view(cost, "M");
    const auto vp = const_vec(potential, transposed ? c.rows : c.cols, "potential");
    const auto vo = mutable_vec(out, transposed ? c.cols : c.rows, "out");
    const py::gil_scoped_release release;
    aitken::cpu::ot::hard_transform<T>(c, transposed, vp, vo, n_threads);
}

double support(const py::array_t<index, py::array::c_style>& indptr,
               const py::array_t<std::int32_t, py::array::c_style>& indices, const doubles& w,
               const doubles& z, doubles p, doubles q) {
    const index n = w.size(), m = z.size();
    if (indptr.size() != n + 1 || indptr.data()[n] != indices.size())
        throw std::invalid_argument("`indptr` and `indices` do not fit `w` and `z`");
    const aitken::pattern_view pattern{n, m, indptr.data(), indices.data()};
    const auto vw = const_vec(w, n, "w"), vz = const_vec(z, m, "z");
    const auto vp = mutable_vec(p, n, "p"), vq = mutable_vec(q, m, "q");
    aitken::interrupt signals = python_signals();
    const py::gil_scoped_release release;
    return aitken::cpu::ot::solve_support(pattern, vw, vz, vp, vq, signals);
}

template <class T>
void bind_precision(py::module_& m) {
    using py::arg;
    m.def("ot_quadratic", &quadratic<T>, arg("M").noconvert(), arg("a").noconvert(), arg("b").noconvert(),
          arg("range"), arg("x").noconvert(), arg("y").noconvert(), arg("options"), arg("callback"),
          "Quadratically regularised transport; x and y (in: start, out: solution) are written in place.");
    m.def("ot_topk", &topk<T>, arg("M").noconvert(), arg("a").noconvert(), arg("b").noconvert(), arg("range"),
          arg("x").noconvert(), arg("y").noconvert(), arg("options"), arg("callback"),
          "At most k entries per row of M, whose weights are a; x belongs to its columns, y to its rows.");
    m.def("ot_exact", &exact<T>, arg("M").noconvert(), arg("a").noconvert(), arg("b").noconvert(),
          arg("x").noconvert(), arg("y").noconvert(), arg("options"),
          "Network simplex from near the potentials x, y; positive weights.");
    m.def("ot_hard_transform", &hard_transform<T>, arg("M").noconvert(), arg("transposed"),
          arg("potential").noconvert(), arg("out").noconvert(), arg("n_threads"),
          "min over columns (transposed: over rows) of M - potential.");
}

}  // namespace

void bind_ot_quadratic(py::module_& m) {
    using py::arg;
    bind_precision<double>(m);
    bind_precision<float>(m);
    m.def("ot_support", &support, arg("indptr").noconvert(), arg("indices").noconvert(), arg("w").noconvert(),
          arg("z").noconvert(), arg("p").noconvert(), arg("q").noconvert(),
          "Least-norm solution of [diag(A1) A; A^T diag(A^T 1)] [p; q] = [w; z]; returns its residual.");
}
