// Options and reports of the flexible conjugate directions between Python and C++; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "core/api/deepcg.hpp"

namespace aitken::bindings {

inline deepcg::form to_form(const std::string& name) {
    if (name == "pcg") return deepcg::form::pcg;
    if (name == "robust") return deepcg::form::robust;
    if (name == "published") return deepcg::form::published;
    throw std::invalid_argument("`method` is \"" + name + "\"");
}

// Every key must be known: a misspelt option is an error, not a default.
inline deepcg::options to_deepcg_options(const pybind11::dict& given) {
    deepcg::options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        if (key == "method")
            o.form = to_form(value.cast<std::string>());
        else if (key == "n_previous")
            o.n_previous = value.cast<int>();
        else if (key == "enrich")
            o.enrich = value.cast<bool>();
        else if (key == "rtol")
            o.rtol = value.cast<double>();
        else if (key == "atol")
            o.atol = value.cast<double>();
        else if (key == "maxiter")
            o.max_iterations = value.cast<index>();
        else if (key == "recompute")
            o.recompute = value.cast<index>();
        else if (key == "window")
            o.window = value.cast<int>();
        else if (key == "fast_fallback")
            o.fast_fallback = value.cast<bool>();
        else if (key == "zero_start")
            o.zero_start = value.cast<bool>();
        else if (key == "report_x")
            o.report_x = value.cast<bool>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    if (o.n_previous < 0 || o.recompute < 1 || o.window < 0)
        throw std::invalid_argument("`n_previous` and `window` must be >= 0, `recompute` >= 1");
    return o;
}

inline pybind11::dict to_dict(const deepcg::report& r) {
    pybind11::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["nit"] = r.iterations;
    d["matvecs"] = r.matvecs;
    d["n_model"] = r.model_applies;
    d["n_fallback"] = r.fallback_applies;
    d["n_replaced"] = r.replaced;
    d["fallback_step"] = r.fallback_step;
    d["given_up"] = r.given_up;
    d["residual"] = r.residual;
    d["norm_b"] = r.norm_b;
    d["target"] = r.target;
    d["residuals"] = pybind11::array_t<double>(static_cast<index>(r.history.size()), r.history.data());
    d["launches"] = r.counts.launches;
    d["reads"] = r.counts.reads;
    return d;
}

}  // namespace aitken::bindings
