// Reports of a batch of transport problems as arrays; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/ot_convert.hpp"
#include "core/api/ot_batch.hpp"

namespace aitken::bindings {

// One array per field, an entry per problem; `detail`: a list of clauses.
inline py::dict to_dict(const std::vector<ot::batch_report>& reports) {
    const auto size = static_cast<py::ssize_t>(reports.size());
    py::dict d;
    const auto column = [&]<class V>(const char* name, V, auto&& get) {
        py::array_t<V> values(size);
        for (py::ssize_t k = 0; k < size; ++k)
            values.mutable_data()[k] = static_cast<V>(get(reports[static_cast<std::size_t>(k)]));
        d[name] = values;
    };
    const auto count = [&](const char* name, auto&& get) { column(name, std::int64_t{}, get); };
    const auto number = [&](const char* name, auto&& get) { column(name, double{}, get); };
    count("status", [](const ot::batch_report& r) { return static_cast<int>(r.status); });
    count("nit_sinkhorn", [](const ot::batch_report& r) { return r.nit_sinkhorn; });
    count("nit_newton", [](const ot::batch_report& r) { return r.nit_newton; });
    count("nit_cg", [](const ot::batch_report& r) { return r.nit_cg; });
    count("n_exp", [](const ot::batch_report& r) { return r.n_exp; });
    number("err", [](const ot::batch_report& r) { return r.err; });
    number("value", [](const ot::batch_report& r) { return r.value; });
    number("value_linear", [](const ot::batch_report& r) { return r.linear; });
    number("mass", [](const ot::batch_report& r) { return r.mass; });
    number("mass_a", [](const ot::batch_report& r) { return r.mass_a; });
    number("mass_b", [](const ot::batch_report& r) { return r.mass_b; });
    number("offset", [](const ot::batch_report& r) { return r.offset; });
    number("range", [](const ot::batch_report& r) { return r.range; });
    py::list details, methods, solvers;
    for (const ot::batch_report& r : reports) {
        details.append(r.detail);
        methods.append(name_of(r.used));
        solvers.append(name_of(r.used_solver));
    }
    d["detail"] = details;
    d["method"] = methods;
    d["linear_solver"] = solvers;
    return d;
}

}  // namespace aitken::bindings
