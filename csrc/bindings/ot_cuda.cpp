// Entropic transport on CUDA devices for Python: the functions of bindings/ot.cpp with a first argument
// (device, stream, allocate) and arrays as addresses: a matrix is (address, rows, columns, row stride in
// elements, bytes per element), a vector (address, length) of doubles. python/aitken/ot/_cuda_calls.py
// makes them from CuPy arrays, which it has checked and keeps alive.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/device_convert.hpp"
#include "bindings/ot_arrays.hpp"
#include "bindings/ot_batch_convert.hpp"
#include "bindings/ot_convert.hpp"
#include "core/api/ot_batch_cuda.hpp"
#include "core/api/ot_cuda.hpp"

namespace py = pybind11;
namespace ot = aitken::ot;
namespace gpu = aitken::cuda::ot;
using aitken::bindings::address;
using aitken::bindings::python_signals;
using aitken::bindings::to_context;
using aitken::bindings::to_csr;
using aitken::bindings::to_dict;
using aitken::bindings::to_monitor;
using aitken::bindings::to_options;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way
using array_2d = std::tuple<address, index, index, index, index>;
using array_1d = std::tuple<address, index>;

// fn(T{}) for the precision of a matrix.
template <class F>
auto with_precision(const array_2d& m, F&& fn) {
    switch (std::get<4>(m)) {
        case sizeof(double):
            return fn(double{});
        case sizeof(float):
            return fn(float{});
        default:
            throw std::invalid_argument("`M` must hold float32 or float64");
    }
}
template <class T>
aitken::matrix<T> view(const array_2d& m, const char* name) {
    const auto [data, rows, cols, ld, size] = m;
    if (size != sizeof(T))
        throw std::invalid_argument(std::string("`") + name + "` must have the cost's dtype");
    return {reinterpret_cast<T*>(data), rows, cols, ld};
}
aitken::vec<double> view(const array_1d& v, index size, const char* name) {
    const auto [data, length] = v;
    if (length != size)
        throw std::invalid_argument(std::string("`") + name + "` must have length " + std::to_string(size));
    return {reinterpret_cast<double*>(data), size};
}

template <class T>
ot::problem<T> to_problem(const array_2d& cost, const array_1d& a, const array_1d& b, double range,
                          const py::object& plan) {
    ot::problem<T> p{view<T>(cost, "M"), {}, {}, range, {}};
    p.a = view(a, p.cost.rows, "a");
    p.b = view(b, p.cost.cols, "b");
    if (!plan.is_none()) {
        p.plan = view<T>(plan.cast<array_2d>(), "plan");
        if (p.plan.rows != p.cost.rows || p.plan.cols != p.cost.cols)
            throw std::invalid_argument("`plan` must be an array of the cost's shape and dtype");
    }
    return p;
}

py::dict solve(const py::tuple& where, const array_2d& cost, const array_1d& a, const array_1d& b,
               double range, const array_1d& x, const array_1d& y, const py::object& plan,
               const py::dict& options, const py::object& callback) {
    const auto context = to_context(where);
    const ot::options o = to_options(options);
    aitken::interrupt signals = python_signals();
    const ot::monitor monitor = to_monitor(callback);
    const ot::report report = with_precision(cost, [&](auto zero) {
        using T = decltype(zero);
        const ot::problem<T> p = to_problem<T>(cost, a, b, range, plan);
        const auto vx = view(x, p.cost.rows, "x"), vy = view(y, p.cost.cols, "y");
        const py::gil_scoped_release release;
        return gpu::solve<T>(context, p, o, vx, vy, signals, monitor);
    });
    return to_dict(report);
}

py::dict adjoint(const py::tuple& where, const array_2d& cost, const array_1d& a, const array_1d& b,
                 double range, const array_1d& x, const array_1d& y, const array_1d& w, const array_1d& z,
                 const array_1d& p_out, const array_1d& q_out, const py::object& plan,
                 const py::dict& options) {
    const auto context = to_context(where);
    const ot::options o = to_options(options);
    aitken::interrupt signals = python_signals();
    const ot::adjoint_report report = with_precision(cost, [&](auto zero) {
        using T = decltype(zero);
        const ot::problem<T> p = to_problem<T>(cost, a, b, range, plan);
        const index n = p.cost.rows, m = p.cost.cols;
        const auto vx = view(x, n, "x"), vw = view(w, n, "w"), vp = view(p_out, n, "p");
        const auto vy = view(y, m, "y"), vz = view(z, m, "z"), vq = view(q_out, m, "q");
        const py::gil_scoped_release release;
        return gpu::adjoint<T>(context, p, o, vx, vy, vw, vz, vp, vq, signals);
    });
    return to_dict(report);
}

void plan_times(const py::tuple& where, const array_2d& cost, double reg, const array_1d& x,
                const array_1d& y, bool transposed, const array_1d& v, const array_1d& out) {
    const auto context = to_context(where);
    with_precision(cost, [&](auto zero) {
        using T = decltype(zero);
        const aitken::matrix<const T> c = view<T>(cost, "M");
        const auto vx = view(x, c.rows, "x"), vy = view(y, c.cols, "y");
        const auto vv = view(v, transposed ? c.rows : c.cols, "v");
        const auto vo = view(out, transposed ? c.cols : c.rows, "out");
        const py::gil_scoped_release release;
        gpu::plan_times<T>(context, c, reg, vx, vy, transposed, vv, vo);
    });
}

void plan_rows(const py::tuple& where, const array_2d& cost, double reg, const array_1d& x, const array_1d& y,
               index first, const array_2d& out) {
    const auto context = to_context(where);
    with_precision(cost, [&](auto zero) {
        using T = decltype(zero);
        const aitken::matrix<const T> c = view<T>(cost, "M");
        const aitken::matrix<T> vo = view<T>(out, "out");
        if (first < 0 || vo.cols != c.cols || first + vo.rows > c.rows)
            throw std::invalid_argument("`out` does not fit the rows asked for");
        const auto vx = view(x, c.rows, "x"), vy = view(y, c.cols, "y");
        const py::gil_scoped_release release;
        gpu::plan_rows<T>(context, c, reg, vx, vy, first, vo);
    });
}

void c_transform(const py::tuple& where, const array_2d& cost, double reg, bool transposed,
                 const array_1d& potential, const array_1d& out) {
    const auto context = to_context(where);
    with_precision(cost, [&](auto zero) {
        using T = decltype(zero);
        const aitken::matrix<const T> c = view<T>(cost, "M");
        const auto vp = view(potential, transposed ? c.rows : c.cols, "potential");
        const auto vo = view(out, transposed ? c.cols : c.rows, "out");
        const py::gil_scoped_release release;
        gpu::c_transform<T>(context, c, reg, transposed, vp, vo);
    });
}

py::tuple compress(const py::tuple& where, const array_2d& cost, double reg, const array_1d& x,
                   const array_1d& y, const array_1d& a, const array_1d& b, double drop) {
    const auto context = to_context(where);
    ot::sparse_plan plan = with_precision(cost, [&](auto zero) {
        using T = decltype(zero);
        const aitken::matrix<const T> c = view<T>(cost, "M");
        const auto vx = view(x, c.rows, "x"), va = view(a, c.rows, "a");
        const auto vy = view(y, c.cols, "y"), vb = view(b, c.cols, "b");
        const py::gil_scoped_release release;
        return gpu::compress<T>(context, c, reg, vx, vy, va, vb, drop);
    });
    return to_csr(std::move(plan));
}

py::dict inspect(const py::tuple& where, const array_2d& cost) {
    const auto context = to_context(where);
    const ot::cost_facts facts = with_precision(cost, [&](auto zero) {
        using T = decltype(zero);
        const aitken::matrix<const T> c = view<T>(cost, "M");
        const py::gil_scoped_release release;
        return gpu::inspect<T>(context, c);
    });
    return to_dict(facts);
}

// --- clouds of points: float64 matrices ---

ot::point_cost to_cost(const array_2d& x, const array_2d& y, const std::string& metric) {
    ot::point_cost cost{{}, view<double>(x, "X"), view<double>(y, "Y")};
    if (cost.x.cols != cost.y.cols)
        throw std::invalid_argument("`Y` must have as many columns as `X`, " + std::to_string(cost.x.cols));
    if (metric == "sqeuclidean")
        cost.metric = ot::metric::sqeuclidean;
    else if (metric == "euclidean")
        cost.metric = ot::metric::euclidean;
    else if (metric == "cityblock")
        cost.metric = ot::metric::cityblock;
    else
        throw std::invalid_argument("`metric` is \"" + metric + "\"");
    return cost;
}
ot::point_problem to_problem(const array_2d& x, const array_2d& y, const std::string& metric,
                             const array_1d& a, const array_1d& b, double range, const py::object& plan) {
    ot::point_problem p{to_cost(x, y, metric), {}, {}, range, {}, false};
    p.a = view(a, p.cost.x.rows, "a");
    p.b = view(b, p.cost.y.rows, "b");
    if (!plan.is_none()) {
        p.plan = view<double>(plan.cast<array_2d>(), "plan");
        if (p.plan.rows != p.a.size || p.plan.cols != p.b.size)
            throw std::invalid_argument("`plan` must be a float64 array of shape (n, m)");
    }
    return p;
}

py::dict points_solve(const py::tuple& where, const array_2d& X, const array_2d& Y, const std::string& metric,
                      const array_1d& a, const array_1d& b, double range, const array_1d& x,
                      const array_1d& y, const py::object& plan, const py::dict& options,
                      const py::object& callback) {
    const auto context = to_context(where);
    const ot::point_problem p = to_problem(X, Y, metric, a, b, range, plan);
    const ot::options o = to_options(options);
    const auto vx = view(x, p.a.size, "x"), vy = view(y, p.b.size, "y");
    aitken::interrupt signals = python_signals();
    const ot::monitor monitor = to_monitor(callback);
    ot::report report;
    {
        const py::gil_scoped_release release;
        report = gpu::solve(context, p, o, vx, vy, signals, monitor);
    }
    return to_dict(report);
}

py::dict points_adjoint(const py::tuple& where, const array_2d& X, const array_2d& Y,
                        const std::string& metric, const array_1d& a, const array_1d& b, double range,
                        const array_1d& x, const array_1d& y, const array_1d& w, const array_1d& z,
                        const array_1d& p_out, const array_1d& q_out, const py::object& plan,
                        const py::dict& options) {
    const auto context = to_context(where);
    const ot::point_problem p = to_problem(X, Y, metric, a, b, range, plan);
    const index n = p.a.size, m = p.b.size;
    const ot::options o = to_options(options);
    const auto vx = view(x, n, "x"), vw = view(w, n, "w"), vp = view(p_out, n, "p");
    const auto vy = view(y, m, "y"), vz = view(z, m, "z"), vq = view(q_out, m, "q");
    aitken::interrupt signals = python_signals();
    ot::adjoint_report report;
    {
        const py::gil_scoped_release release;
        report = gpu::adjoint(context, p, o, vx, vy, vw, vz, vp, vq, signals);
    }
    return to_dict(report);
}

void points_times(const py::tuple& where, const array_2d& X, const array_2d& Y, const std::string& metric,
                  double reg, const array_1d& x, const array_1d& y, const array_2d& v, const array_2d& out) {
    const auto context = to_context(where);
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vx = view(x, cost.x.rows, "x"), vy = view(y, cost.y.rows, "y");
    const auto vv = view<double>(v, "v"), vo = view<double>(out, "out");
    if (vv.cols != vy.size || vo.cols != vx.size || vv.rows != vo.rows)
        throw std::invalid_argument("`out` does not fit the vectors given");
    aitken::interrupt signals = python_signals();
    const py::gil_scoped_release release;
    gpu::plan_times(context, cost, reg, vx, vy, vv, vo, signals);
}

void points_rows(const py::tuple& where, const array_2d& X, const array_2d& Y, const std::string& metric,
                 double reg, const array_1d& x, const array_1d& y, index first, const array_2d& out) {
    const auto context = to_context(where);
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vx = view(x, cost.x.rows, "x"), vy = view(y, cost.y.rows, "y");
    with_precision(out, [&](auto zero) {
        const auto vo = view<decltype(zero)>(out, "out");
        if (first < 0 || vo.cols != cost.y.rows || first + vo.rows > cost.x.rows)
            throw std::invalid_argument("`out` does not fit the rows asked for");
        const py::gil_scoped_release release;
        gpu::plan_rows(context, cost, reg, vx, vy, first, vo);
    });
}

void points_transform(const py::tuple& where, const array_2d& X, const array_2d& Y, const std::string& metric,
                      double reg, const array_1d& potential, const array_1d& out) {
    const auto context = to_context(where);
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vp = view(potential, cost.y.rows, "potential"), vo = view(out, cost.x.rows, "out");
    aitken::interrupt signals = python_signals();
    const py::gil_scoped_release release;
    gpu::c_transform(context, cost, reg, vp, vo, signals);
}

void points_pull(const py::tuple& where, const array_2d& X, const array_2d& Y, const std::string& metric,
                 double reg, const array_1d& x, const array_1d& y, const array_2d& out) {
    const auto context = to_context(where);
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vx = view(x, cost.x.rows, "x"), vy = view(y, cost.y.rows, "y");
    const auto vo = view<double>(out, "out");
    if (vo.rows != cost.x.rows || vo.cols != cost.x.cols)
        throw std::invalid_argument("`out` must have the shape of `X`");
    aitken::interrupt signals = python_signals();
    const py::gil_scoped_release release;
    gpu::plan_pull(context, cost, reg, vx, vy, vo, signals);
}

py::tuple points_compress(const py::tuple& where, const array_2d& X, const array_2d& Y,
                          const std::string& metric, double reg, const array_1d& x, const array_1d& y,
                          const array_1d& a, const array_1d& b, double drop) {
    const auto context = to_context(where);
    const ot::point_cost cost = to_cost(X, Y, metric);
    const auto vx = view(x, cost.x.rows, "x"), va = view(a, cost.x.rows, "a");
    const auto vy = view(y, cost.y.rows, "y"), vb = view(b, cost.y.rows, "b");
    aitken::interrupt signals = python_signals();
    ot::sparse_plan plan;
    {
        const py::gil_scoped_release release;
        plan = gpu::compress(context, cost, reg, vx, vy, va, vb, drop, signals);
    }
    return to_csr(std::move(plan));
}

// --- batches ---

// Item k of a list of a batch, "name[k]" in messages.
template <class V>
V item(const py::list& list, index k) {
    return list[static_cast<std::size_t>(k)].cast<V>();
}
std::string label(const char* name, index k) { return std::string(name) + "[" + std::to_string(k) + "]"; }

template <class T>
py::dict solve_batch(const aitken::cuda::device_context& context, const py::list& costs, const py::list& a,
                     const py::list& b, const py::array_t<double, py::array::c_style>& reg, const py::list& f,
                     const py::list& g, const py::object& plans, const ot::options& options, double loose) {
    const index count = static_cast<index>(costs.size());
    std::vector<ot::batch_problem<T>> problems(costs.size());
    const auto weights = [&](const py::list& list, index k, index size, const char* name) {
        if (list[static_cast<std::size_t>(k)].is_none()) return aitken::vec<const double>{};
        return aitken::vec<const double>(view(item<array_1d>(list, k), size, label(name, k).c_str()));
    };
    for (index k = 0; k < count; ++k) {
        auto& p = problems[static_cast<std::size_t>(k)];
        p.cost = view<T>(item<array_2d>(costs, k), label("M", k).c_str());
        p.reg = reg.data()[k];
        p.a = weights(a, k, p.cost.rows, "a");
        p.b = weights(b, k, p.cost.cols, "b");
        p.f = view(item<array_1d>(f, k), p.cost.rows, label("f", k).c_str());
        p.g = view(item<array_1d>(g, k), p.cost.cols, label("g", k).c_str());
        if (plans.is_none()) continue;
        p.plan = view<T>(item<array_2d>(plans.cast<py::list>(), k), label("plan", k).c_str());
        if (p.plan.rows != p.cost.rows || p.plan.cols != p.cost.cols)
            throw std::invalid_argument("`plan` must hold arrays of the costs' shapes");
    }
    aitken::interrupt signals = python_signals();
    std::vector<ot::batch_report> reports;
    {
        const py::gil_scoped_release release;
        reports = gpu::solve_batch<T>(context, problems, options, loose, signals);
    }
    return to_dict(reports);
}

}  // namespace

void bind_ot_cuda(py::module_& m) {
    using py::arg;
    m.def("ot_solve", &solve, arg("where"), arg("M"), arg("a"), arg("b"), arg("range"), arg("x"), arg("y"),
          arg("plan"), arg("options"), arg("callback"),
          "Solves one problem; x, y (in: start, out: solution) and plan are written in place.");
    m.def("ot_adjoint", &adjoint, arg("where"), arg("M"), arg("a"), arg("b"), arg("range"), arg("x"),
          arg("y"), arg("w"), arg("z"), arg("p"), arg("q"), arg("plan"), arg("options"),
          "Solves H [p; q] = [w; z] with the Hessian at (x, y).");
    m.def("ot_plan_times", &plan_times, arg("where"), arg("M"), arg("reg"), arg("x"), arg("y"),
          arg("transposed"), arg("v"), arg("out"), "out = P v or P^T v, P recomputed tile by tile.");
    m.def("ot_plan_rows", &plan_rows, arg("where"), arg("M"), arg("reg"), arg("x"), arg("y"), arg("first"),
          arg("out"), "Rows first .. first + len(out) of P.");
    m.def("ot_c_transform", &c_transform, arg("where"), arg("M"), arg("reg"), arg("transposed"),
          arg("potential"), arg("out"),
          "-reg log-sum-exp of (potential - M)/reg over columns (transposed: over rows).");
    m.def("ot_compress", &compress, arg("where"), arg("M"), arg("reg"), arg("x"), arg("y"), arg("a"),
          arg("b"), arg("drop"),
          "(indptr, indices, values) of the entries above drop * min(a_i / m, b_j / n), in NumPy arrays.");
    m.def(
        "ot_inspect", &inspect, arg("where"), arg("M"),
        "Smallest and largest finite cost, NaN and infinities, first row and column without a finite cost.");
    m.def(
        "ot_solve_batch",
        [](const py::tuple& where, const py::list& costs, const py::list& a, const py::list& b,
           const py::array_t<double, py::array::c_style>& reg, const py::list& f, const py::list& g,
           const py::object& plans, const py::dict& options, double loose) {
            for (const py::list* list : {&a, &b, &f, &g})
                if (list->size() != costs.size())
                    throw std::invalid_argument("the lists of a batch must be of one length");
            if (reg.ndim() != 1 || reg.shape(0) != static_cast<py::ssize_t>(costs.size()))
                throw std::invalid_argument("`reg` must have one entry each");
            if (!plans.is_none() && py::len(plans) != costs.size())
                throw std::invalid_argument("`plan` must have one array each");
            if (costs.empty()) return to_dict(std::vector<ot::batch_report>{});
            const auto context = to_context(where);
            const ot::options o = to_options(options);
            return with_precision(item<array_2d>(costs, 0), [&](auto zero) {
                return solve_batch<decltype(zero)>(context, costs, a, b, reg, f, g, plans, o, loose);
            });
        },
        arg("where"), arg("M"), arg("a"), arg("b"), arg("reg").noconvert(), arg("f"), arg("g"), arg("plan"),
        arg("options"), arg("loose"),
        "Solves problems of any sizes, all costs of the dtype of the first; f, g (in: start, out: solution) "
        "and plan are written in place. Returns an array per field of the reports.");

    // The arguments that all calls for points begin with.
    const auto def = [&m](const char* name, auto fn, auto... rest) {
        m.def(name, fn, arg("where"), arg("X"), arg("Y"), arg("metric"), rest...);
    };
    def("ot_points_solve", &points_solve, arg("a"), arg("b"), arg("range"), arg("x"), arg("y"), arg("plan"),
        arg("options"), arg("callback"),
        "Solves one problem; x, y (in: start, out: solution) and plan are written in place.");
    def("ot_points_adjoint", &points_adjoint, arg("a"), arg("b"), arg("range"), arg("x"), arg("y"), arg("w"),
        arg("z"), arg("p"), arg("q"), arg("plan"), arg("options"),
        "Solves H [p; q] = [w; z] with the Hessian at (x, y).");
    def("ot_points_times", &points_times, arg("reg"), arg("x"), arg("y"), arg("v"), arg("out"),
        "out[k] = P v[k].");
    def("ot_points_rows", &points_rows, arg("reg"), arg("x"), arg("y"), arg("first"), arg("out"),
        "Rows first .. first + len(out) of P.");
    def("ot_points_transform", &points_transform, arg("reg"), arg("potential"), arg("out"),
        "-reg log-sum-exp of (potential - cost)/reg over the points of Y.");
    def("ot_points_pull", &points_pull, arg("reg"), arg("x"), arg("y"), arg("out"),
        "out[i] = sum_j P_ij d cost_ij / d X_i.");
    def("ot_points_compress", &points_compress, arg("reg"), arg("x"), arg("y"), arg("a"), arg("b"),
        arg("drop"),
        "(indptr, indices, values) of the entries above drop * min(a_i / m, b_j / n), in NumPy arrays.");
}
