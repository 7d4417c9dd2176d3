// Where a call runs on a GPU, and arrays there as addresses; shared by the bindings of the CUDA module.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include "core/api/device_context.hpp"
#include "core/api/krylov_cuda.hpp"

namespace aitken::bindings {

using address = std::uintptr_t;

// From (device, stream, allocate); allocate(bytes) gives an address.
inline cuda::device_context to_context(const pybind11::tuple& where) {
    const pybind11::object allocate = where[2];
    return {where[0].cast<int>(), reinterpret_cast<void*>(where[1].cast<address>()),
            [allocate](std::size_t bytes) {
                const pybind11::gil_scoped_acquire gil;
                return reinterpret_cast<void*>(allocate(bytes).cast<address>());
            }};
}

using array_1d = std::tuple<address, index>;           // a vector's length
using array_rows = std::tuple<address, index, index>;  // rows and columns, contiguous

template <class T>
T* pointer(address a) {
    return reinterpret_cast<T*>(a);
}
inline vec<double> vector_of(const array_1d& v, index n, const char* name) {
    if (std::get<1>(v) != n)
        throw std::invalid_argument(std::string("`") + name + "` must have length " + std::to_string(n));
    return {pointer<double>(std::get<0>(v)), n};
}
// Square; checked by those who follow it.
inline pattern_view pattern_of(const array_1d& indptr, const array_1d& indices) {
    const index n = std::get<1>(indptr) - 1;
    if (n < 0) throw std::invalid_argument("`indptr` must not be empty");
    return {n, n, pointer<const index>(std::get<0>(indptr)),
            pointer<const std::int32_t>(std::get<0>(indices))};
}

}  // namespace aitken::bindings
