// Matrices, preconditioners and callers' functions as handles for Python. The Python side has checked kinds
// and dtypes; what could break memory is checked again here.
#include "bindings/linear_maps.hpp"

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace {

namespace py = pybind11;
namespace cpu = aitken::cpu;
using aitken::index;  // here, where POSIX's ::index does not get in the way
using aitken::linear_map;
using aitken::tall;
using aitken::bindings::callback_map;
using aitken::bindings::checked_pattern;
using aitken::bindings::matrix_handle;

template <class T>
using flat = py::array_t<T, py::array::c_style>;

template <class T>
void check_flat(const flat<T>& a, const std::string& name) {
    if (a.ndim() != 1) throw std::invalid_argument("`" + name + "` must be one-dimensional");
}

// ---- patterns
// ----------------------------------------------------------------------------------------------

template <class I, class S>
checked_pattern make_pattern(index rows, index cols, const flat<index>& indptr, const flat<I>& indices,
                             const S* data, index n_data, const std::string& name, const std::string& unit) {
    check_flat(indptr, name);
    check_flat(indices, name);
    checked_pattern p;
    p.rows = rows;
    p.cols = cols;
    cpu::raw_csr<I, S> raw;
    raw.rows = rows;
    raw.cols = cols;
    raw.indptr = indptr.data();
    raw.n_indptr = indptr.size();
    raw.indices = indices.data();
    raw.n_indices = indices.size();
    raw.data = data;
    raw.n_data = n_data;
    const py::gil_scoped_release release;
    p.facts = cpu::inspect_csr(raw, name, unit);
    p.indptr.assign(raw.indptr, raw.indptr + raw.n_indptr);
    p.indices.resize(static_cast<std::size_t>(p.indptr.back()));
    for (std::size_t e = 0; e < p.indices.size(); ++e)
        p.indices[e] = static_cast<std::int32_t>(raw.indices[e]);
    return p;
}

template <class I, class S>
checked_pattern csr_pattern(index rows, index cols, const flat<index>& indptr, const flat<I>& indices,
                            const flat<S>& data, const std::string& name, const std::string& unit) {
    check_flat(data, name);
    return make_pattern<I, S>(rows, cols, indptr, indices, data.data(), data.size(), name, unit);
}

template <class I>
checked_pattern csr_structure(index rows, index cols, const flat<index>& indptr, const flat<I>& indices,
                              const py::none&, const std::string& name, const std::string& unit) {
    return make_pattern<I, double>(rows, cols, indptr, indices, nullptr, 0, name, unit);
}

template <class I>
bool matches(const checked_pattern& p, const flat<index>& indptr, const flat<I>& indices) {
    if (indptr.ndim() != 1 || indices.ndim() != 1 || indptr.size() != static_cast<index>(p.indptr.size()) ||
        indices.size() < p.nnz())
        return false;
    const index* const starts = indptr.data();
    const I* const columns = indices.data();
    const py::gil_scoped_release release;
    return std::equal(p.indptr.begin(), p.indptr.end(), starts) &&
           std::equal(p.indices.begin(), p.indices.end(), columns);
}

// ---- maps
// ----------------------------------------------------------------------------------------------------

// One column, or several that are contiguous each.
template <class S, class Array>
auto to_tall(Array& a, index n, const char* name) {
    const index size = sizeof(S);
    const index cols = a.ndim() == 2 ? a.shape(1) : 1;
    const bool contiguous = n <= 1 || a.strides(0) == size;
    const bool apart = a.ndim() < 2 || cols <= 1 || (a.strides(1) % size == 0 && a.strides(1) >= n * size);
    if ((a.ndim() != 1 && a.ndim() != 2) || a.shape(0) != n || !contiguous || !apart)
        throw std::invalid_argument(std::string("`") + name + "` must have " + std::to_string(n) +
                                    " rows and contiguous columns");
    const index ld = a.ndim() == 2 && cols > 1 ? a.strides(1) / size : n;
    if constexpr (std::is_const_v<Array>)
        return tall<const S>{a.data(), n, cols, ld};
    else
        return tall<S>{a.mutable_data(), n, cols, ld};
}

template <class S>
void apply(linear_map<S>& map, const py::array_t<S>& x, py::array_t<S> y, bool adjoint) {
    const auto from = to_tall<S>(x, map.size(), "x");
    const auto to = to_tall<S>(y, map.size(), "y");
    if (from.cols != to.cols) throw std::invalid_argument("`x` and `y` must have equally many columns");
    const S *const x_end = from.data + from.ld * from.cols, *const y_end = to.data + to.ld * to.cols;
    if (from.data < y_end && to.data < x_end && from.rows * from.cols > 0)
        throw std::invalid_argument("`x` and `y` must not overlap");
    const py::gil_scoped_release release;
    if (adjoint)
        map.apply_adjoint(from, to);
    else
        map.apply(from, to);
}

template <class S>
void update(matrix_handle<S>& map, const flat<S>& data) {
    if (data.ndim() != 1 || data.size() != map.nnz())
        throw std::invalid_argument("`data` must have length " + std::to_string(map.nnz()) + ", got " +
                                    std::to_string(data.size()));
    const S* const values = data.data();
    const py::gil_scoped_release release;
    map.update(values);
}

// Makes a map without the GIL; `make` gets the pattern and the values.
template <class S, class Make>
std::shared_ptr<matrix_handle<S>> handle(const checked_pattern& pattern, const flat<S>& data, Make&& make) {
    if (!pattern.facts.unique)
        throw std::invalid_argument("`pattern` has a column twice in a row; sum duplicates first");
    if (pattern.rows != pattern.cols) throw std::invalid_argument("`pattern` must be square");
    if (data.ndim() != 1 || data.size() != pattern.nnz())
        throw std::invalid_argument("`data` must have length " + std::to_string(pattern.nnz()) + ", got " +
                                    std::to_string(data.size()));
    const S* const values = data.data();
    const py::gil_scoped_release release;
    return std::make_shared<matrix_handle<S>>(make(pattern.view(), values), pattern.nnz());
}

std::vector<index> to_starts(const flat<index>& starts) {
    if (starts.ndim() != 1) throw std::invalid_argument("`starts` must be one-dimensional");
    return {starts.data(), starts.data() + starts.size()};
}

py::object make_callback(index n, const py::object& apply, const py::object& adjoint, bool varies,
                         const std::string& name, bool is_complex) {
    if (n < 0) throw std::invalid_argument("`n` must be >= 0, got " + std::to_string(n));
    if (is_complex)
        return py::cast(
            std::make_shared<callback_map<std::complex<double>>>(n, apply, adjoint, varies, name));
    return py::cast(std::make_shared<callback_map<double>>(n, apply, adjoint, varies, name));
}

template <class S>
void bind_scalar(py::module_& m, const char* map_name, const char* matrix_name, const char* callback_name) {
    using py::arg;
    using handle_type = matrix_handle<S>;
    // No docstrings on the classes: the stub describes them.
    py::class_<linear_map<S>, std::shared_ptr<linear_map<S>>>(m, map_name)
        .def_property_readonly("size", &linear_map<S>::size)
        .def_property_readonly("varies", &linear_map<S>::varies)
        .def(
            "apply",
            [](linear_map<S>& map, const py::array_t<S>& x, py::array_t<S> y) { apply(map, x, y, false); },
            arg("x").noconvert(), arg("y").noconvert())
        .def(
            "apply_adjoint",
            [](linear_map<S>& map, const py::array_t<S>& x, py::array_t<S> y) { apply(map, x, y, true); },
            arg("x").noconvert(), arg("y").noconvert());
    py::class_<callback_map<S>, linear_map<S>, std::shared_ptr<callback_map<S>>>(m, callback_name);
    py::class_<handle_type, linear_map<S>, std::shared_ptr<handle_type>>(m, matrix_name)
        .def_property_readonly("nnz", &handle_type::nnz)
        .def("update", &update<S>, arg("data").noconvert())
        .def_property_readonly(
            "shift",
            [](handle_type& h) { return h.template as<cpu::ic_map<S>>([](auto& k) { return k.shift(); }); })
        .def_property_readonly(
            "fill",
            [](handle_type& h) { return h.template as<cpu::ilut_map<S>>([](auto& k) { return k.nnz(); }); })
        .def_property_readonly("interval",
                               [](handle_type& h) {
                                   return h.template as<cpu::chebyshev_map<S>>(
                                       [](auto& k) { return py::make_tuple(k.lo(), k.hi()); });
                               })
        .def_property(
            "omega",
            [](handle_type& h) { return h.template as<cpu::ssor_map<S>>([](auto& k) { return k.omega(); }); },
            [](handle_type& h, double omega) {
                h.template as<cpu::ssor_map<S>>([omega](auto& k) { k.set_omega(omega); });
            });

    m.def(
        "csr_map",
        [](const checked_pattern& p, const flat<S>& data) {
            return handle<S>(p, data, [](const auto& a, const S* v) { return cpu::make_csr<S>(a, v); });
        },
        arg("pattern"), arg("data").noconvert(), "y = A x.");
    m.def(
        "jacobi_map",
        [](const checked_pattern& p, const flat<S>& data) {
            return handle<S>(p, data, [](const auto& a, const S* v) { return cpu::make_jacobi<S>(a, v); });
        },
        arg("pattern"), arg("data").noconvert(), "Inverse diagonal.");
    m.def(
        "block_jacobi_map",
        [](const checked_pattern& p, const flat<S>& data, const flat<index>& starts) {
            return handle<S>(p, data, [cut = to_starts(starts)](const auto& a, const S* v) {
                return cpu::make_block_jacobi<S>(a, v, cut);
            });
        },
        arg("pattern"), arg("data").noconvert(), arg("starts").noconvert(), "Inverse diagonal blocks.");
    m.def(
        "ssor_map",
        [](const checked_pattern& p, const flat<S>& data, double omega) {
            return handle<S>(p, data,
                             [omega](const auto& a, const S* v) { return cpu::make_ssor<S>(a, v, omega); });
        },
        arg("pattern"), arg("data").noconvert(), arg("omega"), "Symmetric SOR.");
    m.def(
        "ilu0_map",
        [](const checked_pattern& p, const flat<S>& data, bool modified) {
            return handle<S>(
                p, data, [modified](const auto& a, const S* v) { return cpu::make_ilu0<S>(a, v, modified); });
        },
        arg("pattern"), arg("data").noconvert(), arg("modified"), "Incomplete LU without fill.");
    m.def(
        "ilut_map",
        [](const checked_pattern& p, const flat<S>& data, double drop, index fill) {
            return handle<S>(p, data, [drop, fill](const auto& a, const S* v) {
                return cpu::make_ilut<S>(a, v, drop, fill);
            });
        },
        arg("pattern"), arg("data").noconvert(), arg("drop"), arg("fill"), "Incomplete LU by thresholds.");
    m.def(
        "ic0_map",
        [](const checked_pattern& p, const flat<S>& data, double modified) {
            return handle<S>(
                p, data, [modified](const auto& a, const S* v) { return cpu::make_ic0<S>(a, v, modified); });
        },
        arg("pattern"), arg("data").noconvert(), arg("modified"), "Incomplete Cholesky without fill.");
    m.def(
        "chebyshev_map",
        [](const checked_pattern& p, const flat<S>& data, int degree, double lo, double hi, double ratio) {
            return handle<S>(p, data, [=](const auto& a, const S* v) {
                return cpu::make_chebyshev<S>(a, v, degree, lo, hi, ratio);
            });
        },
        arg("pattern"), arg("data").noconvert(), arg("degree"), arg("lo"), arg("hi"), arg("ratio"),
        "Chebyshev polynomial in the matrix scaled by its diagonal.");
    m.def(
        "schwarz_map",
        [](const checked_pattern& p, const flat<S>& data, const flat<index>& starts, int overlap,
           bool exact) {
            return handle<S>(p, data, [=, cut = to_starts(starts)](const auto& a, const S* v) {
                return cpu::make_schwarz<S>(a, v, cut, overlap, exact);
            });
        },
        arg("pattern"), arg("data").noconvert(), arg("starts").noconvert(), arg("overlap"), arg("exact"),
        "Restricted additive Schwarz.");
}

template <class I, class S>
void bind_csr_pattern(py::module_& m) {
    using py::arg;
    m.def(
        "csr_pattern", &csr_pattern<I, S>, arg("rows"), arg("cols"), arg("indptr").noconvert(),
        arg("indices").noconvert(), arg("data").noconvert(), arg("name"), arg("unit"),
        "A checked copy of compressed rows; ValueError naming `name` and the row where they are malformed.");
}
template <class I>
void bind_csr_structure(py::module_& m) {
    using py::arg;
    m.def("csr_pattern", &csr_structure<I>, arg("rows"), arg("cols"), arg("indptr").noconvert(),
          arg("indices").noconvert(), arg("data"), arg("name"), arg("unit"), "Without values (data=None).");
}

}  // namespace

void bind_linear_maps(py::module_& m) {
    using py::arg;
    py::class_<checked_pattern>(m, "CsrPattern")
        .def_readonly("rows", &checked_pattern::rows)
        .def_readonly("cols", &checked_pattern::cols)
        .def_property_readonly("nnz", &checked_pattern::nnz)
        .def_property_readonly("sorted", [](const checked_pattern& p) { return p.facts.sorted; })
        .def_property_readonly("unique", [](const checked_pattern& p) { return p.facts.unique; })
        .def("matches", &matches<std::int32_t>, arg("indptr").noconvert(), arg("indices").noconvert())
        .def("matches", &matches<std::int64_t>, arg("indptr").noconvert(), arg("indices").noconvert());
    bind_csr_pattern<std::int32_t, double>(m);
    bind_csr_pattern<std::int64_t, double>(m);
    bind_csr_pattern<std::int32_t, std::complex<double>>(m);
    bind_csr_pattern<std::int64_t, std::complex<double>>(m);
    bind_csr_structure<std::int32_t>(m);
    bind_csr_structure<std::int64_t>(m);
    bind_scalar<double>(m, "LinearMapF64", "MatrixMapF64", "CallbackMapF64");
    bind_scalar<std::complex<double>>(m, "LinearMapC128", "MatrixMapC128", "CallbackMapC128");
    m.def("callback_map", &make_callback, arg("n"), arg("apply"), arg("adjoint"), arg("varies"), arg("name"),
          arg("is_complex"), "A Python function of a vector as a map; adjoint may be None.");
    m.def(
        "complex_map",
        [](const std::shared_ptr<linear_map<double>>& real) {
            if (!real) throw py::type_error("`real` must be a map, not None");
            return cpu::make_complex(real);
        },
        arg("real"), "A real map on complex vectors.");
}
