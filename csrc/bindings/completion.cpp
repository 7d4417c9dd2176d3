// Matrix completion on the CPU for Python. Factors are NumPy's and are used in place.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/completion_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/completion.hpp"

namespace py = pybind11;
namespace api = aitken::completion;

namespace {

using aitken::index;
template <class T>
using array = py::array_t<T, py::array::c_style>;
using pointers = array<std::int64_t>;
using indices = array<std::int32_t>;

// Entries by rows as NumPy has them. Held while they are used; indices were checked where they were sorted.
template <class T>
class entries {
public:
    entries(const py::tuple& t, index cols, const char* name) {
        if (t.size() != 4) throw std::invalid_argument(std::string("`") + name + "` must have four parts");
        indptr_ = t[0].cast<pointers>();
        indices_ = t[1].cast<indices>();
        values_ = t[2].cast<array<T>>();
        if (!t[3].is_none()) weights_ = t[3].cast<array<T>>();
        const index rows = indptr_.size() - 1, nnz = indices_.size();
        const std::int64_t* p = indptr_.data();
        bool right = rows >= 0 && p[0] == 0 && p[rows] == nnz && values_.size() == nnz &&
                     (!weights_ || weights_->size() == nnz);
        for (index i = 0; right && i < rows; ++i) right = p[i] <= p[i + 1];
        const std::int32_t* at = indices_.data();
        for (index e = 0; right && e < nnz; ++e) right = at[e] >= 0 && at[e] < cols;
        if (!right)
            throw std::invalid_argument(std::string("`") + name + "` is not a matrix in compressed rows");
        view_.a = {rows, cols, p, at};
        view_.values = values_.data();
        view_.weights = weights_ ? weights_->data() : nullptr;
    }
    const api::observed<T>& view() const { return view_; }

private:
    pointers indptr_;
    indices indices_;
    array<T> values_;
    std::optional<array<T>> weights_;
    api::observed<T> view_;
};

template <class T>
aitken::matrix<T> as_matrix(array<T>& a, const char* name) {
    if (a.ndim() != 2) throw std::invalid_argument(std::string("`") + name + "` must be a matrix");
    return {a.mutable_data(), a.shape(0), a.shape(1), a.shape(1)};
}
template <class T>
aitken::matrix<const T> as_matrix(const array<T>& a, const char* name) {
    if (a.ndim() != 2) throw std::invalid_argument(std::string("`") + name + "` must be a matrix");
    return {a.data(), a.shape(0), a.shape(1), a.shape(1)};
}
void check_shape(bool right, const char* name) {
    if (!right)
        throw std::invalid_argument(std::string("`") + name + "` does not have the shape of its partners");
}

template <class T>
py::dict complete(const py::tuple& rows, const py::tuple& columns, const py::object& holdout, array<T>& u,
                  array<T>& v, array<T>& a, array<T>& b, const py::dict& options,
                  const py::object& callback) {
    const api::factors<T> f{
        as_matrix(u, "u"), as_matrix(v, "v"), {a.mutable_data(), a.size()}, {b.mutable_data(), b.size()}};
    const entries<T> by_rows(rows, f.v.rows, "rows"), by_columns(columns, f.u.rows, "columns");
    std::optional<entries<T>> held;
    if (!holdout.is_none()) held.emplace(holdout.cast<py::tuple>(), f.v.rows, "holdout");
    api::problem<T> problem{by_rows.view(), by_columns.view(), {}};
    if (held) problem.holdout = held->view();
    const api::options o = aitken::bindings::to_completion_options(options);
    check_shape(problem.rows.a.rows == f.u.rows && problem.columns.a.rows == f.v.rows &&
                    problem.rows.a.nnz() == problem.columns.a.nnz(),
                "rows");
    check_shape(!held || problem.holdout.a.rows == f.u.rows, "holdout");
    check_shape(f.u.cols == f.v.cols && f.u.cols >= 1, "u");
    check_shape(a.size() == (o.half.bias ? f.u.rows : 0) && b.size() == (o.half.bias ? f.v.rows : 0), "a");
    const auto monitor = aitken::bindings::to_completion_monitor(callback);
    aitken::interrupt signals = aitken::bindings::python_signals();
    api::report report;
    {
        const py::gil_scoped_release release;
        report = aitken::cpu::completion::complete<T>(problem, o, f, signals, monitor);
    }
    return aitken::bindings::to_dict(report);
}

template <class T>
py::dict half_sweep(const py::tuple& rows, const array<T>& fixed, const array<T>& fixed_bias, array<T>& x,
                    array<T>& x_bias, const py::dict& options) {
    const aitken::matrix<const T> from = as_matrix(fixed, "fixed");
    const aitken::matrix<T> to = as_matrix(x, "x");
    const entries<T> given(rows, from.rows, "rows");
    int n_threads = 0;
    const api::half_options o = aitken::bindings::to_half_options(options, &n_threads);
    check_shape(to.rows == given.view().a.rows && to.cols == from.cols && to.cols >= 1, "x");
    check_shape(x_bias.size() == (o.bias ? to.rows : 0) && fixed_bias.size() == (o.bias ? from.rows : 0),
                "x_bias");
    aitken::interrupt signals = aitken::bindings::python_signals();
    api::half_report report;
    {
        const aitken::vec<T> bias{x_bias.mutable_data(), x_bias.size()};
        const aitken::vec<const T> from_bias{fixed_bias.data(), fixed_bias.size()};
        const py::gil_scoped_release release;
        report = aitken::cpu::completion::half_sweep<T>(given.view(), from, from_bias, to, bias, o, n_threads,
                                                        signals);
    }
    return aitken::bindings::to_dict(report);
}

template <class T>
api::factors<const T> fitted(const array<T>& u, const array<T>& v, const array<T>& a, const array<T>& b) {
    const api::factors<const T> f{
        as_matrix(u, "u"), as_matrix(v, "v"), {a.data(), a.size()}, {b.data(), b.size()}};
    check_shape(f.u.cols == f.v.cols, "u");
    check_shape(a.size() == 0 || (a.size() == f.u.rows && b.size() == f.v.rows), "a");
    return f;
}

template <class T>
double squared_error(const py::tuple& rows, const array<T>& u, const array<T>& v, const array<T>& a,
                     const array<T>& b, int n_threads) {
    const api::factors<const T> f = fitted(u, v, a, b);
    const entries<T> given(rows, f.v.rows, "rows");
    check_shape(given.view().a.rows == f.u.rows, "rows");
    const py::gil_scoped_release release;
    return aitken::cpu::completion::squared_error<T>(given.view(), f, n_threads);
}

template <class T>
array<T> predict(const array<T>& u, const array<T>& v, const array<T>& a, const array<T>& b,
                 const indices& rows, const indices& cols, int n_threads) {
    const api::factors<const T> f = fitted(u, v, a, b);
    check_shape(rows.ndim() == 1 && cols.ndim() == 1 && rows.size() == cols.size(), "rows");
    const auto check = [](const indices& list, index limit, const char* name) {
        for (index p = 0; p < list.size(); ++p)
            if (list.data()[p] < 0 || list.data()[p] >= limit)
                throw std::invalid_argument(std::string("`") + name + "` has the index " +
                                            std::to_string(list.data()[p]) + " at position " +
                                            std::to_string(p) + "; 0 to " + std::to_string(limit - 1) +
                                            " is allowed");
    };
    check(rows, f.u.rows, "rows");
    check(cols, f.v.rows, "cols");
    array<T> out(rows.size());
    const aitken::vec<T> to{out.mutable_data(), out.size()};
    {
        const py::gil_scoped_release release;
        aitken::cpu::completion::predict<T>(f, rows.data(), cols.data(), to, n_threads);
    }
    return out;
}

py::tuple sort_entries(index n_rows, index n_cols, const pointers& rows, const pointers& cols) {
    check_shape(rows.ndim() == 1 && cols.ndim() == 1 && rows.size() == cols.size(), "rows");
    api::sorted_entries s;
    {
        const py::gil_scoped_release release;
        s = aitken::cpu::completion::sort_entries(n_rows, n_cols, {rows.data(), rows.size()},
                                                  {cols.data(), cols.size()});
    }
    const auto copy = [](const auto& v) { return py::array(static_cast<index>(v.size()), v.data()); };
    return py::make_tuple(copy(s.indptr), copy(s.indices), copy(s.source), s.duplicates);
}

template <class T>
void bind_for(py::module_& m) {
    using py::arg;
    m.def("complete_matrix", &complete<T>, arg("rows"), arg("columns"), arg("holdout"), arg("u").noconvert(),
          arg("v").noconvert(), arg("a").noconvert(), arg("b").noconvert(), arg("options"), arg("callback"));
    m.def("als_half_sweep", &half_sweep<T>, arg("rows"), arg("fixed").noconvert(),
          arg("fixed_bias").noconvert(), arg("x").noconvert(), arg("x_bias").noconvert(), arg("options"));
    m.def("completion_error", &squared_error<T>, arg("rows"), arg("u").noconvert(), arg("v").noconvert(),
          arg("a").noconvert(), arg("b").noconvert(), arg("n_threads"));
    m.def("predict_entries", &predict<T>, arg("u").noconvert(), arg("v").noconvert(), arg("a").noconvert(),
          arg("b").noconvert(), arg("rows").noconvert(), arg("cols").noconvert(), arg("n_threads"));
}

}  // namespace

void bind_completion(py::module_& m) {
    bind_for<double>(m);
    bind_for<float>(m);
    m.def("sort_entries", &sort_entries, py::arg("n_rows"), py::arg("n_cols"), py::arg("rows").noconvert(),
          py::arg("cols").noconvert());
}
