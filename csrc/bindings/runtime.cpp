// Threads, SIMD, LAPACK, Philox and build facts for Python. Part of _core and of _cuda: each module
// has its own copy of the host library.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "core/api/runtime.hpp"

namespace py = pybind11;
namespace rt = aitken::runtime;

namespace {

// Loads what fits and returns {name: why not} for the rest.
py::dict load_lapack(const py::dict& capsules) {
    py::dict refused;
    const auto load = [&](const std::string& name) {
        if (!capsules.contains(name)) return;
        const py::object item = capsules[py::str(name)];
        if (!PyCapsule_CheckExact(item.ptr()))
            throw py::type_error("`capsules[\"" + name + "\"]` is not a capsule");
        const char* signature = PyCapsule_GetName(item.ptr());
        void* address = PyCapsule_GetPointer(item.ptr(), signature);
        if (address == nullptr) throw py::error_already_set();
        try {
            rt::load_lapack(name, address, signature == nullptr ? "" : signature);
        } catch (const std::invalid_argument& error) {
            refused[py::str(name)] = error.what();
        }
    };
    // In the table's own order: its first entry measures the integers of the rest.
    for (const auto& routine : rt::lapack_routines()) load(routine.name);
    return refused;
}

py::dict lapack_info() {
    py::dict routines;
    for (const auto& routine : rt::lapack_routines()) {
        py::dict entry;
        entry["loaded"] = routine.loaded;
        entry["detail"] = routine.detail;
        routines[py::str(routine.name)] = entry;
    }
    py::dict info;
    info["int_bits"] = rt::lapack_int_bits();
    info["routines"] = routines;
    return info;
}

py::dict build_info() {
    const auto facts = rt::build_info();
    py::dict info;
    info["version"] = facts.version;
    info["compiler"] = facts.compiler;
    info["build_type"] = facts.build_type;
    info["openmp"] = facts.openmp;
    info["cuda"] = facts.cuda;
    return info;
}

using draw = void (*)(std::uint64_t, std::uint32_t, std::uint32_t, std::uint32_t, aitken::index, double*);

template <draw Draw>
py::array_t<double> philox(std::uint64_t seed, std::uint32_t purpose, std::uint32_t batch,
                           std::uint32_t iteration, aitken::index n) {
    if (n < 0) throw std::invalid_argument("`n` must be >= 0; got " + std::to_string(n));
    py::array_t<double> out(n);
    double* data = out.mutable_data();
    py::gil_scoped_release release;
    Draw(seed, purpose, batch, iteration, n, data);
    return out;
}

}  // namespace

void bind_runtime(py::module_& m) {
    m.def("simd_level", &rt::simd_level, "Instruction set of the row kernels: 'base', 'v3' or 'v4'.");
    m.def("simd_levels_supported", &rt::simd_levels_supported, "Levels that this CPU runs, weakest first.");
    m.def("set_num_threads", &rt::set_num_threads, py::arg("n"),
          "Threads of native loops; 0 is the default.");
    m.def(
        "get_num_threads",
        [](bool requested) { return requested ? rt::requested_threads() : rt::get_num_threads(); },
        py::kw_only(), py::arg("requested") = false,
        "Threads the next loop would use, or the number last set (0: default).");
    m.def("load_lapack", &load_lapack, py::arg("capsules"),
          "Fill the LAPACK table from {name: capsule}; returns {name: reason} for what was refused.");
    m.def("lapack_info", &lapack_info, "Integer width and, for each routine, whether it is loaded.");
    m.def("build_info", &build_info, "Version, compiler, build type, OpenMP and CUDA.");
    m.def("philox_uniform", &philox<&rt::philox_uniform>, py::arg("seed"), py::arg("purpose"),
          py::arg("batch"), py::arg("iteration"), py::arg("n"),
          "Uniform numbers in (0, 1) at counters (purpose, batch, iteration, 0..n-1).");
    m.def("philox_normal", &philox<&rt::philox_normal>, py::arg("seed"), py::arg("purpose"), py::arg("batch"),
          py::arg("iteration"), py::arg("n"),
          "Standard normal numbers at counters (purpose, batch, iteration, 0..n-1).");
}
