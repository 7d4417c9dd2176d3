// Batches of transport problems on the CPU for Python: lists of NumPy arrays, used in place.
#include "core/api/ot_batch.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/ot_batch_convert.hpp"
#include "bindings/ot_convert.hpp"

namespace py = pybind11;
namespace ot = aitken::ot;

namespace {

using aitken::index;

// Item k of a list as an array of T with `ndim` dimensions and contiguous rows, which no conversion made.
template <class T>
py::array_t<T> array_at(const py::list& list, index k, int ndim, const char* name) {
    const py::object item = list[static_cast<std::size_t>(k)];
    const auto refuse = [&] {
        throw std::invalid_argument(std::string("`") + name + "[" + std::to_string(k) +
                                    "]` must be an array of the common dtype with contiguous rows");
    };
    if (!py::isinstance<py::array_t<T>>(item)) refuse();
    auto a = py::reinterpret_borrow<py::array_t<T>>(item);
    if (a.ndim() != ndim || (a.shape(ndim - 1) > 1 && a.strides(ndim - 1) != sizeof(T)) ||
        (ndim == 2 && a.strides(0) % index(sizeof(T)) != 0))
        refuse();
    return a;
}

aitken::vec<const double> weights_at(const py::list& list, index k, index size, const char* name) {
    if (list[static_cast<std::size_t>(k)].is_none()) return {};
    const auto a = array_at<double>(list, k, 1, name);
    if (a.shape(0) != size)
        throw std::invalid_argument(std::string("`") + name + "[" + std::to_string(k) +
                                    "]` must have length " + std::to_string(size));
    return {a.data(), size};
}
aitken::vec<double> potentials_at(const py::list& list, index k, index size, const char* name) {
    auto a = array_at<double>(list, k, 1, name);
    if (a.shape(0) != size)
        throw std::invalid_argument(std::string("`") + name + "[" + std::to_string(k) +
                                    "]` must have length " + std::to_string(size));
    return {a.mutable_data(), size};
}

template <class T>
py::dict solve(const py::list& costs, const py::list& a, const py::list& b,
               const py::array_t<double, py::array::c_style>& reg, const py::list& f, const py::list& g,
               const py::object& plans, const py::dict& options, double loose) {
    const index count = static_cast<index>(costs.size());
    for (const py::list* list : {&a, &b, &f, &g})
        if (static_cast<index>(list->size()) != count)
            throw std::invalid_argument("the lists of a batch must be of one length");
    if (reg.ndim() != 1 || reg.shape(0) != count)
        throw std::invalid_argument("`reg` must have one entry each");
    std::vector<ot::batch_problem<T>> problems(costs.size());
    for (index k = 0; k < count; ++k) {
        auto& p = problems[static_cast<std::size_t>(k)];
        const auto c = array_at<T>(costs, k, 2, "M");
        p.cost = {c.data(), c.shape(0), c.shape(1), c.strides(0) / index(sizeof(T))};
        p.reg = reg.data()[k];
        p.a = weights_at(a, k, p.cost.rows, "a");
        p.b = weights_at(b, k, p.cost.cols, "b");
        p.f = potentials_at(f, k, p.cost.rows, "f");
        p.g = potentials_at(g, k, p.cost.cols, "g");
        if (plans.is_none()) continue;
        auto plan = array_at<T>(plans.cast<py::list>(), k, 2, "plan");
        p.plan = {plan.mutable_data(), plan.shape(0), plan.shape(1), plan.strides(0) / index(sizeof(T))};
        if (p.plan.rows != p.cost.rows || p.plan.cols != p.cost.cols)
            throw std::invalid_argument("`plan` must hold arrays of the costs' shapes");
    }
    const ot::options o = aitken::bindings::to_options(options);
    aitken::interrupt signals = aitken::bindings::python_signals();
    std::vector<ot::batch_report> reports;
    {
        const py::gil_scoped_release release;
        reports = aitken::cpu::ot::solve_batch<T>(problems, o, loose, signals);
    }
    return aitken::bindings::to_dict(reports);
}

}  // namespace

void bind_ot_batch(py::module_& m) {
    using py::arg;
    m.def(
        "ot_solve_batch",
        [](const py::list& costs, const py::list& a, const py::list& b,
           const py::array_t<double, py::array::c_style>& reg, const py::list& f, const py::list& g,
           const py::object& plans, const py::dict& options, double loose) {
            const bool single = costs.size() > 0 && py::isinstance<py::array_t<float>>(costs[0]);
            return single ? solve<float>(costs, a, b, reg, f, g, plans, options, loose)
                          : solve<double>(costs, a, b, reg, f, g, plans, options, loose);
        },
        arg("M"), arg("a"), arg("b"), arg("reg").noconvert(), arg("f"), arg("g"), arg("plan"), arg("options"),
        arg("loose"),
        "Solves problems of any sizes, all costs of the dtype of the first; the arrays of f, g (in: start, "
        "out: "
        "solution) and plan are written in place. Returns an array per field of the reports.");
}
