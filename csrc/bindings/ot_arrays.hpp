// NumPy arrays of the transport functions as views, and results as arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "core/api/ot.hpp"

namespace aitken::bindings {

namespace py = pybind11;

using doubles = py::array_t<double, py::array::c_style>;

// A matrix whose rows are contiguous, any distance apart.
template <class T>
matrix<const T> const_view(const py::array_t<T>& a, const char* name) {
    constexpr auto item = static_cast<aitken::index>(sizeof(T));
    if (a.ndim() != 2 || (a.shape(1) > 1 && a.strides(1) != item) || a.strides(0) % item != 0)
        throw std::invalid_argument(std::string("`") + name + "` must be a matrix with contiguous rows");
    return {a.data(), a.shape(0), a.shape(1), a.strides(0) / item};
}
template <class T>
matrix<T> view(py::array_t<T>& a, const char* name) {
    const matrix<const T> v = const_view(a, name);
    return {a.mutable_data(), v.rows, v.cols, v.ld};
}
inline vec<const double> const_vec(const doubles& a, aitken::index size, const char* name) {
    if (a.ndim() != 1 || a.shape(0) != size)
        throw std::invalid_argument(std::string("`") + name + "` must have length " + std::to_string(size));
    return {a.data(), size};
}
inline vec<double> mutable_vec(doubles& a, aitken::index size, const char* name) {
    const_vec(a, size, name);
    return {a.mutable_data(), size};
}

// An array over the vector's own memory.
template <class V>
auto own(V&& v) {
    auto* kept = new V(std::move(v));
    const py::capsule owner(kept, [](void* p) { delete static_cast<V*>(p); });
    return py::array_t<typename V::value_type>(static_cast<aitken::index>(kept->size()), kept->data(), owner);
}

inline py::tuple to_csr(ot::sparse_plan&& plan) {
    return py::make_tuple(own(std::move(plan.indptr)), own(std::move(plan.indices)),
                          own(std::move(plan.values)));
}

}  // namespace aitken::bindings
