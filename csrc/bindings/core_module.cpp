// The module aitken._core: every CPU solver.
#include <pybind11/pybind11.h>

#include "bindings/translate.hpp"

void bind_runtime(pybind11::module_&);
void bind_ot(pybind11::module_&);

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.doc() = "Native solvers on the CPU.";
    aitken::bindings::register_translators();
    bind_runtime(m);
    bind_ot(m);
}
