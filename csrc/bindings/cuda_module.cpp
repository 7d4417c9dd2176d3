// The module aitken._cuda: the GPU solvers. It imports without a driver and then says what is missing.
#include <pybind11/pybind11.h>

#include "bindings/translate.hpp"
#include "core/api/runtime.hpp"

void bind_runtime(pybind11::module_&);
void bind_ot_cuda(pybind11::module_&);
void bind_krylov_cuda(pybind11::module_&);
void bind_relaxation_cuda(pybind11::module_&);
void bind_completion_cuda(pybind11::module_&);
void bind_optimize_cuda(pybind11::module_&);
void bind_deepcg_cuda(pybind11::module_&);

PYBIND11_MODULE(_cuda, m, pybind11::mod_gil_not_used()) {
    m.doc() = "Native solvers on CUDA devices.";
    aitken::bindings::register_translators();
    bind_runtime(m);
    m.def(
        "device_status",
        [] {
            const auto facts = aitken::runtime::cuda_devices();
            return pybind11::make_tuple(facts.count, facts.code, facts.text);
        },
        "(devices, error code, text); code 0 is success.");
    bind_ot_cuda(m);
    bind_krylov_cuda(m);
    bind_relaxation_cuda(m);
    bind_completion_cuda(m);
    bind_optimize_cuda(m);
    bind_deepcg_cuda(m);
}
