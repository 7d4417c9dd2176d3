// How the two exceptions of core/error.hpp reach Python; the standard ones pybind11 knows.
#pragma once

#include <pybind11/pybind11.h>

#include "core/error.hpp"

namespace aitken::bindings {

inline void register_translators() {
    // Local to this module: another extension may have types of the same name.
    pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const interrupted&) {
            // The hook ran the signal handlers, so the handler's own exception may be set already.
            if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
        } catch (const cuda_error& error) {
            const auto type = pybind11::module_::import("aitken._errors").attr("CudaError");
            pybind11::set_error(type, pybind11::make_tuple(error.call(), error.code(), error.text()));
        }
    });
}

}  // namespace aitken::bindings
