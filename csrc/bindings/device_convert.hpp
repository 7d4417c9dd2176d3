// Where a call runs on a GPU, and arrays there as addresses; shared by the bindings of the CUDA module.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>

#include "core/api/device_context.hpp"

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

}  // namespace aitken::bindings
