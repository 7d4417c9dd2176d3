// The module aitken._core: every CPU solver.
#include <pybind11/pybind11.h>

#include "bindings/translate.hpp"

void bind_runtime(pybind11::module_&);
void bind_linear_maps(pybind11::module_&);
void bind_ot(pybind11::module_&);
void bind_ot_points(pybind11::module_&);
void bind_ot_scaling(pybind11::module_&);
void bind_ot_quadratic(pybind11::module_&);
void bind_ot_batch(pybind11::module_&);
void bind_short_recurrence(pybind11::module_&);
void bind_krylov(pybind11::module_&);
void bind_sequence(pybind11::module_&);
void bind_tune(pybind11::module_&);
void bind_relaxation(pybind11::module_&);
void bind_relaxation_batch(pybind11::module_&);
void bind_completion(pybind11::module_&);
void bind_optimize(pybind11::module_&);
void bind_optimize_sketch(pybind11::module_&);
void bind_optimize_batch(pybind11::module_&);
void bind_multigrid(pybind11::module_&);
void bind_deepcg(pybind11::module_&);
void bind_convolution(pybind11::module_&);

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.doc() = "Native solvers on the CPU.";
    aitken::bindings::register_translators();
    bind_runtime(m);
    bind_linear_maps(m);
    bind_ot(m);
    bind_ot_points(m);
    bind_ot_scaling(m);
    bind_ot_quadratic(m);
    bind_ot_batch(m);
    bind_short_recurrence(m);
    bind_krylov(m);
    bind_sequence(m);
    bind_tune(m);
    bind_relaxation(m);
    bind_relaxation_batch(m);
    bind_completion(m);
    bind_optimize(m);
    bind_optimize_sketch(m);
    bind_optimize_batch(m);
    bind_multigrid(m);
    bind_deepcg(m);
    bind_convolution(m);
}
