// Options and layout of batches of constrained problems; shared by the bindings of both modules.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "core/api/optimize_batch.hpp"

namespace aitken::bindings {

inline optimize::batch_options to_batch_run(const pybind11::dict& d) {
    optimize::batch_options o;
    o.tol = d["tol"].cast<double>();
    o.constr_tol = d["constr_tol"].cast<double>();
    o.eta1 = d["eta1"].cast<double>();
    o.eta2 = d["eta2"].cast<double>();
    o.nu = d["nu"].cast<double>();
    o.beta = d["beta"].cast<double>();
    o.xi = d["xi"].cast<double>();
    o.mu = d["mu"].cast<double>();
    o.maxiter = d["maxiter"].cast<int>();
    o.given_multipliers = d["given_multipliers"].cast<bool>();
    const auto judge = d["globalization"].cast<std::string>();
    o.judge = judge == "merit"    ? optimize::globalization::merit
              : judge == "filter" ? optimize::globalization::filter
                                  : optimize::globalization::automatic;
    o.n_threads = d["n_threads"].cast<int>();
    return o;
}

inline pybind11::dict to_dict(const optimize::batch_layout& l) {
    pybind11::dict d;
    d["numbers"] = l.numbers;
    d["tags"] = l.tags;
    d["x"] = l.x;
    d["lam"] = l.lam;
    d["z_lo"] = l.z_lo;
    d["z_up"] = l.z_up;
    d["fun"] = l.fun;
    d["kkt"] = l.kkt;
    d["violation"] = l.violation;
    d["eta1"] = l.eta1;
    d["eta2"] = l.eta2;
    d["status"] = l.status;
    d["nit"] = l.nit;
    d["nfev"] = l.nfev;
    d["nhev"] = l.nhev;
    d["fallbacks"] = l.fallbacks;
    d["restarts"] = l.restarts;
    return d;
}

}  // namespace aitken::bindings
