// Tuners for Python. Calls take microseconds and keep the GIL: the tuner's mutex is for free-threaded Python.
#include "core/api/tune.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <utility>

namespace {

namespace py = pybind11;
using aitken::index;
using aitken::tune::method;
using aitken::tune::tuner;

template <class T>
void read(const py::dict& from, const char* name, T& to) {
    if (from.contains(name)) to = from[name].cast<T>();
}

method to_method(const std::string& name) {
    for (const auto& [text, kind] : {std::pair{"gp", method::gp},
                                     {"tsallis", method::tsallis},
                                     {"tsallis-cb", method::tsallis_cb},
                                     {"chebcb", method::chebcb},
                                     {"thompson", method::thompson}})
        if (name == text) return kind;
    throw std::invalid_argument("`method` '" + name + "' is unknown");
}

std::unique_ptr<tuner> make(const std::string& kind, index arms, const py::dict& given) {
    aitken::tune::options o;
    o.kind = to_method(kind);
    o.arms = arms;
    read(given, "has_context", o.has_context);
    read(given, "log_context", o.log_context);
    read(given, "lo", o.lo);
    read(given, "hi", o.hi);
    read(given, "bins", o.bins);
    read(given, "degree", o.degree);
    read(given, "reduced_variance", o.reduced_variance);
    read(given, "discount", o.discount);
    read(given, "cusum", o.cusum);
    read(given, "floor", o.floor);
    read(given, "backstop_factor", o.backstop_factor);
    read(given, "backstop_least", o.backstop_least);
    read(given, "first_arm", o.first_arm);
    read(given, "first_count", o.first_count);
    read(given, "keep", o.keep);
    read(given, "seed", o.seed);
    read(given, "kernel", o.kernel);
    read(given, "amplitude", o.amplitude);
    read(given, "context_length", o.context_length);
    read(given, "noise", o.noise);
    read(given, "noise_floor", o.noise_floor);
    read(given, "explore", o.explore);
    return aitken::tune::make_tuner(o);
}

py::array_t<double> to_array(const std::vector<double>& v) {
    return py::array_t<double>(static_cast<py::ssize_t>(v.size()), v.data());
}

py::tuple stats(const tuner& t) {
    const auto f = t.stats();
    py::dict d;
    d["observations"] = f.observations;
    d["total_cost"] = f.total_cost;
    d["failures"] = f.failures;
    d["clipped"] = f.clipped;
    d["restarts"] = f.restarts;
    d["in_flight"] = f.in_flight;
    d["discarded"] = f.discarded;
    return py::make_tuple(d, f.plays, f.barred);
}

py::dict history(const tuner& t) {
    const auto h = t.history();
    py::dict d;
    d["arm"] = to_array(h.arm);
    d["cost"] = to_array(h.cost);
    d["context"] = to_array(h.context);
    d["failed"] = to_array(h.failed);
    return d;
}

}  // namespace

void bind_tune(py::module_& m) {
    using py::arg;
    py::class_<tuner>(m, "Tuner")
        .def(
            "suggest",
            [](tuner& t, double context, bool keep) {
                const auto s = t.suggest(context, keep);
                return std::pair{s.arm, s.token};
            },
            arg("context"), arg("keep"))
        .def("observe", &tuner::observe, arg("cost"), arg("token"), arg("failed"))
        .def("discard", &tuner::discard, arg("token"))
        .def("replay", &tuner::replay, arg("arm"), arg("context"), arg("cost"))
        .def(
            "probabilities",
            [](const tuner& t, double context) { return to_array(t.probabilities(context)); }, arg("context"))
        .def("best", &tuner::best, arg("context"))
        .def("limit", &tuner::limit)
        .def("stats", &stats)
        .def("history", &history)
        .def("save", &tuner::save)
        .def("restore", &tuner::restore, arg("state"));
    m.def("make_tuner", &make, arg("method"), arg("arms"), arg("options"),
          "A tuner of arms 0 to arms - 1; options by the names of the native ones.");
}
