// Batches of small constrained problems on CUDA devices for Python: the methods of BatchNewton in
// optimize_batch.cpp as functions, with a first argument (device, stream, allocate) and arrays as addresses.
// python/aitken/optimize/_cuda_calls.py makes them from CuPy arrays, which it has checked and keeps alive.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>

#include "bindings/device_convert.hpp"
#include "bindings/optimize_batch_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/optimize_batch_cuda.hpp"

namespace py = pybind11;
namespace api = aitken::optimize;
namespace on_device = aitken::cuda::optimize;
using aitken::bindings::address;
using aitken::bindings::pointer;
using aitken::bindings::to_batch_run;

namespace {

using aitken::index;

// (numbers, tags, count, n, m, xl, xu, lower, upper, rows of bounds, rows of limits)
api::batch_problems to_problems(const py::tuple& t) {
    if (t.size() != 11) throw std::invalid_argument("`batch` must have eleven parts");
    api::batch_problems p;
    p.numbers = pointer<double>(t[0].cast<address>());
    p.tags = pointer<std::int32_t>(t[1].cast<address>());
    p.count = t[2].cast<index>();
    p.n = t[3].cast<int>();
    p.m = t[4].cast<int>();
    p.xl = pointer<const double>(t[5].cast<address>());
    p.xu = pointer<const double>(t[6].cast<address>());
    p.lower = pointer<const double>(t[7].cast<address>());
    p.upper = pointer<const double>(t[8].cast<address>());
    p.x_stride = t[9].cast<index>() == 1 ? 0 : p.n;
    p.c_stride = t[10].cast<index>() == 1 ? 0 : p.m;
    return p;
}
// (problem, count, f, g, c, j)
api::batch_values to_values(const py::tuple& t) {
    if (t.size() != 6) throw std::invalid_argument("`values` must have six parts");
    return {t[1].cast<index>(),
            pointer<const std::int32_t>(t[0].cast<address>()),
            pointer<const double>(t[2].cast<address>()),
            pointer<const double>(t[3].cast<address>()),
            pointer<const double>(t[4].cast<address>()),
            pointer<const double>(t[5].cast<address>())};
}

template <class F>
void run(const py::tuple& where, F&& call) {
    const auto context = aitken::bindings::to_context(where);
    aitken::interrupt signals = aitken::bindings::python_signals();
    const py::gil_scoped_release release;
    call(context, signals);
}

void begin(const py::tuple& where, const py::tuple& batch, address starts, address lam,
           const py::dict& options) {
    const auto p = to_problems(batch);
    const auto o = to_batch_run(options);
    run(where, [&](const auto& context, auto& signals) {
        on_device::batch_begin(context, p, pointer<const double>(starts), pointer<const double>(lam), o,
                               signals);
    });
}
void points(const py::tuple& where, const py::tuple& batch, address problem, index count, address out) {
    const auto p = to_problems(batch);
    run(where, [&](const auto& context, auto& signals) {
        on_device::batch_points(context, p, pointer<const std::int32_t>(problem), count, pointer<double>(out),
                                signals);
    });
}
void hessian_points(const py::tuple& where, const py::tuple& batch, address problem, index count, address x,
                    address v) {
    const auto p = to_problems(batch);
    run(where, [&](const auto& context, auto& signals) {
        on_device::batch_hessian_points(context, p, pointer<const std::int32_t>(problem), count,
                                        pointer<double>(x), pointer<double>(v), signals);
    });
}
void judge(const py::tuple& where, const py::tuple& batch, const py::tuple& values, const py::dict& options,
           address next) {
    const auto p = to_problems(batch);
    const auto v = to_values(values);
    const auto o = to_batch_run(options);
    run(where, [&](const auto& context, auto& signals) {
        on_device::batch_judge(context, p, v, o, pointer<std::uint8_t>(next), signals);
    });
}
void direct(const py::tuple& where, const py::tuple& batch, const py::tuple& values, address rows,
            index count, address hessian, const py::dict& options, address next) {
    const auto p = to_problems(batch);
    const auto v = to_values(values);
    const auto o = to_batch_run(options);
    run(where, [&](const auto& context, auto& signals) {
        on_device::batch_direct(context, p, v, pointer<const std::int32_t>(rows), count,
                                pointer<const double>(hessian), o, pointer<std::uint8_t>(next), signals);
    });
}
void conclude(const py::tuple& where, const py::tuple& batch, const py::tuple& values,
              const py::dict& options, int status_of_others) {
    const auto p = to_problems(batch);
    const auto v = to_values(values);
    const auto o = to_batch_run(options);
    run(where, [&](const auto& context, auto& signals) {
        on_device::batch_conclude(context, p, v, o, status_of_others, signals);
    });
}
// sizes: (count, n, m); arrays: h d j sigma rx rc rs dx dlam shift regular attempts.
void solve_kkt(const py::tuple& where, const py::tuple& sizes, const py::tuple& arrays, double xi) {
    if (sizes.size() != 3 || arrays.size() != 12)
        throw std::invalid_argument("`arrays` must have twelve parts, `sizes` three");
    const auto in = [&](int k) { return pointer<const double>(arrays[k].cast<address>()); };
    const auto out = [&](int k) { return pointer<double>(arrays[k].cast<address>()); };
    const api::kkt_systems k{sizes[0].cast<index>(),
                             sizes[1].cast<int>(),
                             sizes[2].cast<int>(),
                             in(0),
                             in(1),
                             in(2),
                             in(3),
                             in(4),
                             in(5),
                             in(6),
                             out(7),
                             out(8),
                             out(9),
                             out(10),
                             pointer<std::int32_t>(arrays[11].cast<address>())};
    run(where, [&](const auto& context, auto& signals) { on_device::solve_kkt(context, k, xi, signals); });
}

}  // namespace

void bind_optimize_cuda(py::module_& m) {
    using py::arg;
    m.def("batch_begin", &begin, arg("where"), arg("batch"), arg("starts"), arg("lam"), arg("options"),
          "Records from starts; lam may be 0.");
    m.def("batch_points", &points, arg("where"), arg("batch"), arg("problem"), arg("count"), arg("out"),
          "The next points of the problems listed.");
    m.def("batch_hessian_points", &hessian_points, arg("where"), arg("batch"), arg("problem"), arg("count"),
          arg("x"), arg("v"), "Points and multipliers at which Hessians are due.");
    m.def("batch_judge", &judge, arg("where"), arg("batch"), arg("values"), arg("options"), arg("next"),
          "Takes the values at the next points; what each problem then waits for.");
    m.def("batch_direct", &direct, arg("where"), arg("batch"), arg("values"), arg("rows"), arg("count"),
          arg("hessian"), arg("options"), arg("next"), "Solves the KKT systems of the rows listed.");
    m.def("batch_conclude", &conclude, arg("where"), arg("batch"), arg("values"), arg("options"),
          arg("status_of_others"), "Ends every problem.");
    m.def("solve_kkt_batch", &solve_kkt, arg("where"), arg("sizes"), arg("arrays"), arg("xi"),
          "As the CPU's, into dx, dlam, shift, regular and attempts.");
}
