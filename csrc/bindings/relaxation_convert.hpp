// Options and reports of SOR and SSOR-CG between Python and C++; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "core/api/relaxation.hpp"

namespace aitken::bindings {

namespace relaxation_names {

inline relaxation::direction to_direction(const std::string& name) {
    if (name == "forward") return relaxation::direction::forward;
    if (name == "backward") return relaxation::direction::backward;
    if (name == "symmetric") return relaxation::direction::symmetric;
    throw std::invalid_argument("`sweep` is \"" + name + "\"");
}
inline relaxation::reference to_reference(const std::string& name) {
    if (name == "b") return relaxation::reference::b;
    if (name == "r0") return relaxation::reference::r0;
    throw std::invalid_argument("`norm_ref` is \"" + name + "\"");
}

}  // namespace relaxation_names

inline relaxation::order to_order(const std::string& name) {
    if (name == "natural") return relaxation::order::natural;
    if (name == "redblack") return relaxation::order::redblack;
    if (name == "multicolor") return relaxation::order::multicolor;
    if (name == "blocks") return relaxation::order::blocks;
    if (name == "given") return relaxation::order::given;
    throw std::invalid_argument("`order` is \"" + name + "\"");
}
inline const char* order_name(relaxation::order order) {
    switch (order) {
        case relaxation::order::natural:
            return "natural";
        case relaxation::order::redblack:
            return "redblack";
        case relaxation::order::multicolor:
            return "multicolor";
        case relaxation::order::blocks:
            return "blocks";
        case relaxation::order::given:
            break;
    }
    return "given";
}

// Every key must be known: a misspelt option is an error, not a default.
inline relaxation::sor_options to_sor_options(const pybind11::dict& given) {
    relaxation::sor_options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        if (key == "sweep")
            o.sweep = relaxation_names::to_direction(value.cast<std::string>());
        else if (key == "omega")
            o.omega = value.cast<double>();
        else if (key == "adaptive")
            o.adaptive = value.cast<bool>();
        else if (key == "rtol")
            o.rtol = value.cast<double>();
        else if (key == "atol")
            o.atol = value.cast<double>();
        else if (key == "norm_ref")
            o.norm = relaxation_names::to_reference(value.cast<std::string>());
        else if (key == "maxiter")
            o.max_sweeps = value.cast<index>();
        else if (key == "check_every")
            o.check_every = value.cast<index>();
        else if (key == "report_x")
            o.report_x = value.cast<bool>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

inline relaxation::ssor_options to_ssor_options(const pybind11::dict& given) {
    relaxation::ssor_options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        if (key == "omega")
            o.omega = value.cast<double>();
        else if (key == "eisenstat")
            o.eisenstat = value.cast<bool>();
        else if (key == "rtol")
            o.rtol = value.cast<double>();
        else if (key == "atol")
            o.atol = value.cast<double>();
        else if (key == "maxiter")
            o.max_iterations = value.cast<index>();
        else if (key == "report_x")
            o.report_x = value.cast<bool>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

inline relaxation::batch_options to_batch_options(const pybind11::dict& given) {
    relaxation::batch_options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        if (key == "sweep")
            o.sweep = relaxation_names::to_direction(value.cast<std::string>());
        else if (key == "norm_ref")
            o.norm = relaxation_names::to_reference(value.cast<std::string>());
        else if (key == "rtol")
            o.rtol = value.cast<double>();
        else if (key == "atol")
            o.atol = value.cast<double>();
        else if (key == "maxiter")
            o.max_sweeps = value.cast<index>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

inline pybind11::dict to_dict(const relaxation::report& r) {
    pybind11::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["nit"] = r.iterations;
    d["sweeps"] = r.sweeps;
    d["matvecs"] = r.matvecs;
    d["residual"] = r.residual;
    d["norm_b"] = r.norm_b;
    d["target"] = r.target;
    d["omega"] = r.omega;
    d["mu"] = r.mu;
    d["residuals"] = pybind11::array_t<double>(static_cast<index>(r.history.size()), r.history.data());
    d["launches"] = r.counts.launches;
    d["reads"] = r.counts.reads;
    return d;
}

inline pybind11::dict to_dict(const relaxation::batch_report& r) {
    const auto array = [](const auto& v) { return pybind11::array(static_cast<index>(v.size()), v.data()); };
    pybind11::dict d;
    d["status"] = array(r.status);
    d["nit"] = array(r.iterations);
    d["residual"] = array(r.residual);
    d["target"] = array(r.target);
    return d;
}

// callback(iteration, residual, target, x or None) -> stop; x is the callback's own copy.
template <class S>
relaxation::monitor to_relaxation_monitor(const pybind11::object& callback, index n) {
    if (callback.is_none()) return {};
    return [callback, n](const relaxation::step& s) {
        const pybind11::gil_scoped_acquire gil;
        const pybind11::object x =
            s.x == nullptr ? pybind11::object(pybind11::none())
                           : pybind11::object(pybind11::array_t<S>(n, reinterpret_cast<const S*>(s.x)));
        return callback(s.iteration, s.residual, s.target, x).template cast<bool>();
    };
}

}  // namespace aitken::bindings
