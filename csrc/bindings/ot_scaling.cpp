// Transport problems that share a kernel, for Python. The Python side has checked shapes, dtypes and values.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/signals.hpp"
#include "core/api/ot_scaling.hpp"

namespace py = pybind11;
namespace ot = aitken::ot;
using aitken::bindings::python_signals;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way
template <class T>
using array = py::array_t<T, py::array::c_style>;
using doubles = array<double>;
using costs = std::vector<aitken::matrix<const double>>;

aitken::matrix<const double> matrix_of(const doubles& a, const char* name) {
    if (a.ndim() != 2) throw std::invalid_argument(std::string("`") + name + "` must be a matrix");
    return {a.data(), a.shape(0), a.shape(1), a.shape(1)};
}
aitken::matrix<double> mutable_matrix(const py::object& given, index rows, index cols, const char* name) {
    if (given.is_none()) return {};
    auto a = given.cast<doubles>();
    if (a.ptr() != given.ptr() || a.ndim() != 2 || a.shape(0) != rows || a.shape(1) != cols)
        throw std::invalid_argument(std::string("`") + name + "` does not have the shape of its partners");
    return {a.mutable_data(), rows, cols, cols};
}
template <class T>
aitken::vec<T> vector_of(array<T>& a, index size, const char* name) {
    if (a.size() != size)
        throw std::invalid_argument(std::string("`") + name + "` must have " + std::to_string(size) +
                                    " elements");
    return {a.mutable_data(), size};
}
template <class T>
aitken::vec<const T> const_vector(const array<T>& a, index size, const char* name) {
    if (a.size() != size)
        throw std::invalid_argument(std::string("`") + name + "` must have " + std::to_string(size) +
                                    " elements");
    return {a.data(), size};
}

struct axis_list {
    explicit axis_list(const py::list& axes) {
        for (const py::handle axis : axes) {
            kept.push_back(axis.cast<doubles>());
            views.push_back(matrix_of(kept.back(), "M"));
            rows *= views.back().rows;
            cols *= views.back().cols;
        }
        if (views.empty()) throw std::invalid_argument("`M` has no axes");
    }
    std::vector<doubles> kept;
    costs views;
    index rows = 1, cols = 1;
};

ot::scaling_options to_scaling_options(const py::dict& given) {
    ot::scaling_options o;
    for (const auto& [name, value] : given) {
        const auto key = name.cast<std::string>();
        if (key == "reg")
            o.reg = value.cast<double>();
        else if (key == "tol")
            o.tol = value.cast<double>();
        else if (key == "maxiter")
            o.max_iterations = value.cast<index>();
        else if (key == "hand_over")
            o.hand_over = value.cast<bool>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

py::dict solve_pairs(const py::list& axes, const doubles& a, const doubles& b,
                     const array<std::int64_t>& first, const array<std::int64_t>& second, doubles value,
                     doubles linear, doubles err, array<std::int64_t> nit, array<std::int32_t> status,
                     const py::object& x, const py::object& y, const py::dict& options) {
    const axis_list c(axes);
    const ot::scaling_options o = to_scaling_options(options);
    const index count = first.size();
    const ot::scaling_pairs pairs{matrix_of(a, "A"), matrix_of(b, "B"), const_vector(first, count, "first"),
                                  const_vector(second, count, "second")};
    if (pairs.a.cols != c.rows || pairs.b.cols != c.cols)
        throw std::invalid_argument("`A` and `B` do not fit the cost");
    for (index k = 0; k < count; ++k)
        if (pairs.first[k] >= pairs.a.rows || pairs.second[k] < 0 || pairs.second[k] >= pairs.b.rows)
            throw std::invalid_argument("`first` or `second` is out of range");
    const ot::scaling_results results{
        vector_of(value, count, "value"),     vector_of(linear, count, "linear"),
        vector_of(err, count, "err"),         vector_of(nit, count, "nit"),
        vector_of(status, count, "status"),   mutable_matrix(x, count, c.rows, "x"),
        mutable_matrix(y, count, c.cols, "y")};
    aitken::interrupt signals = python_signals();
    ot::scaling_counts counts;
    {
        const py::gil_scoped_release release;
        counts = aitken::cpu::ot::solve_pairs(c.views, pairs, o, results, signals);
    }
    py::dict out;
    out["handed_over"] = counts.handed_over;
    out["products"] = counts.products;
    return out;
}

py::dict solve_grid(const py::list& axes, const doubles& a, const doubles& b, doubles x, doubles y,
                    const py::dict& options) {
    const axis_list c(axes);
    const ot::scaling_options o = to_scaling_options(options);
    const auto va = const_vector(a, c.rows, "a"), vb = const_vector(b, c.rows, "b");
    const auto vx = vector_of(x, c.rows, "x"), vy = vector_of(y, c.rows, "y");
    if (c.rows != c.cols) throw std::invalid_argument("`M` must be square on each axis");
    aitken::interrupt signals = python_signals();
    ot::grid_report report;
    {
        const py::gil_scoped_release release;
        report = aitken::cpu::ot::solve_grid(c.views, va, vb, o, vx, vy, signals);
    }
    py::dict out;
    out["status"] = static_cast<int>(report.status);
    out["err"] = report.err;
    out["value"] = report.value;
    out["linear"] = report.linear;
    out["nit"] = report.nit;
    out["logarithms"] = report.logarithms;
    return out;
}

void grid_log(const py::list& axes, double reg, const doubles& t, doubles out, int n_threads) {
    const axis_list c(axes);
    if (c.rows != c.cols) throw std::invalid_argument("`M` must be square on each axis");
    const auto vt = const_vector(t, c.rows, "t");
    const auto vo = vector_of(out, c.rows, "out");
    const py::gil_scoped_release release;
    aitken::cpu::ot::grid_log_sum_exp(c.views, reg, vt, vo, n_threads);
}

py::dict barycenter(const doubles& cost, const doubles& a, const doubles& weights, const py::object& x,
                    doubles p, const py::dict& options) {
    const auto c = matrix_of(cost, "M"), va = matrix_of(a, "A");
    const ot::scaling_options o = to_scaling_options(options);
    if (va.cols != c.cols) throw std::invalid_argument("`A` does not fit the cost");
    const auto vw = const_vector(weights, va.rows, "weights");
    const auto vx = mutable_matrix(x, va.rows, c.rows, "x");
    const auto vp = vector_of(p, c.rows, "p");
    aitken::interrupt signals = python_signals();
    ot::barycenter_report report;
    {
        const py::gil_scoped_release release;
        report = aitken::cpu::ot::barycenter(c, va, vw, o, vx, vp, signals);
    }
    py::dict out;
    out["status"] = static_cast<int>(report.status);
    out["err"] = report.err;
    out["nit"] = report.nit;
    return out;
}

}  // namespace

void bind_ot_scaling(py::module_& m) {
    using py::arg;
    m.def("ot_pairs_solve", &solve_pairs, arg("axes"), arg("A").noconvert(), arg("B").noconvert(),
          arg("first").noconvert(), arg("second").noconvert(), arg("value").noconvert(),
          arg("linear").noconvert(), arg("err").noconvert(), arg("nit").noconvert(),
          arg("status").noconvert(), arg("x"), arg("y"), arg("options"),
          "Solves the problems between rows first[k] of A and second[k] of B; results are written in place.");
    m.def("ot_grid_solve", &solve_grid, arg("axes"), arg("a").noconvert(), arg("b").noconvert(),
          arg("x").noconvert(), arg("y").noconvert(), arg("options"),
          "Solves one problem on a grid; x (in: start) and y, logarithms of scalings, are written in place.");
    m.def("ot_grid_log", &grid_log, arg("axes"), arg("reg"), arg("t").noconvert(), arg("out").noconvert(),
          arg("n_threads"), "out = log(K exp(t)) over a grid, axis by axis.");
    m.def("ot_barycenter", &barycenter, arg("M").noconvert(), arg("A").noconvert(),
          arg("weights").noconvert(), arg("x"), arg("p").noconvert(), arg("options"),
          "Entropic barycentre of the rows of A; x (in: start) and p are written in place.");
}
