// Options of multigrid cycles from Python; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "core/api/multigrid.hpp"

namespace aitken::bindings {

inline multigrid::learned_weights to_weights(const pybind11::dict& d) {
    multigrid::learned_weights w;
    w.ndim = pybind11::cast<int>(d["ndim"]);
    const auto list = [&](const char* name) {
        const auto a =
            pybind11::cast<pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>>(
                d[name]);
        return std::vector<float>(a.data(), a.data() + a.size());
    };
    w.omega = pybind11::cast<std::vector<double>>(d["omega"]);
    w.w1 = list("W1");
    w.b1 = list("b1");
    w.w2 = list("W2");
    w.b2 = list("b2");
    w.w3 = list("W3");
    w.b3 = list("b3");
    return w;
}

// `learned`: a dict of weights, or None.
inline multigrid::cycle_options to_cycle_options(int visits, const std::string& smoother,
                                                 const std::vector<double>& omega, int degree,
                                                 double lower_ratio, const pybind11::object& learned) {
    multigrid::cycle_options o;
    o.visits = visits;
    if (smoother == "chebyshev")
        o.kind = multigrid::smoother::chebyshev;
    else if (smoother != "jacobi")
        throw pybind11::value_error("`smoother` must be \"jacobi\" or \"chebyshev\", got \"" + smoother +
                                    "\"");
    o.omega = omega;
    o.degree = degree;
    o.lower_ratio = lower_ratio;
    if (!learned.is_none()) o.learned = to_weights(pybind11::cast<pybind11::dict>(learned));
    return o;
}

}  // namespace aitken::bindings
