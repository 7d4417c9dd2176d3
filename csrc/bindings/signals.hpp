// Ctrl-C for native loops called from Python.
#pragma once

#include <pybind11/pybind11.h>

#include "core/interrupt.hpp"

namespace aitken::bindings {

// The hook says true once Python has a signal's exception set.
inline interrupt python_signals() {
    return interrupt([] {
        const pybind11::gil_scoped_acquire gil;
        return PyErr_CheckSignals() != 0;
    });
}

}  // namespace aitken::bindings
