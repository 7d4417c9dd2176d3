// Options, history and reports of the transport solver between Python and C++; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/signals.hpp"
#include "core/api/ot.hpp"

namespace aitken::bindings {

namespace py = pybind11;

// Every key must be known: a misspelt option is an error, not a default.
inline ot::options to_options(const py::dict& given) {
    ot::options o;
    const auto choice = [](const std::string& key, const std::string& value, auto... pairs) {
        for (const auto& [name, result] : {pairs...})
            if (value == name) return result;
        throw std::invalid_argument("`" + key + "` is \"" + value + "\"");
    };
    using std::pair;
    for (const auto& [key_object, value] : given) {
        const std::string key = py::str(key_object);
        if (key == "reg")
            o.reg = value.cast<double>();
        else if (key == "tol")
            o.tol = value.cast<double>();
        else if (key == "rho_a")
            o.rho_a = value.cast<double>();
        else if (key == "rho_b")
            o.rho_b = value.cast<double>();
        else if (key == "method")
            o.method = choice(key, value.cast<std::string>(), pair{"auto", ot::method::automatic},
                              pair{"newton", ot::method::newton}, pair{"sns", ot::method::sns},
                              pair{"sinkhorn", ot::method::sinkhorn});
        else if (key == "linear_solver")
            o.linear_solver =
                choice(key, value.cast<std::string>(), pair{"auto", ot::linear_solver::automatic},
                       pair{"jacobi", ot::linear_solver::jacobi}, pair{"hybrid", ot::linear_solver::hybrid},
                       pair{"direct", ot::linear_solver::direct});
        else if (key == "sparsify")
            o.sparsify = choice(key, value.cast<std::string>(), pair{"mass", ot::sparsify::mass},
                                pair{"topk", ot::sparsify::topk}, pair{"ssns", ot::sparsify::ssns});
        else if (key == "maxiter")
            o.max_iterations = value.cast<index>();
        else if (key == "warm")
            o.warm = value.cast<bool>();
        else if (key == "symmetric")
            o.symmetric = value.cast<bool>();
        else if (key == "eps_scaling")
            o.eps_scaling = value.cast<bool>();
        else if (key == "stage_factor")
            o.stage_factor = value.cast<double>();
        else if (key == "stage_start")
            o.stage_start = value.cast<double>();
        else if (key == "stage_warmup")
            o.stage_warmup = value.cast<int>();
        else if (key == "stage_tol")
            o.stage_tol = value.cast<double>();
        else if (key == "gate")
            o.gate = value.cast<double>();
        else if (key == "theta")
            o.theta = value.cast<double>();
        else if (key == "per_row")
            o.per_row = value.cast<double>();
        else if (key == "jacobi_budget")
            o.jacobi_budget = value.cast<int>();
        else if (key == "cg_max")
            o.cg_max = value.cast<int>();
        else if (key == "warmup")
            o.warmup = value.cast<int>();
        else if (key == "lam")
            o.density = value.cast<double>();
        else if (key == "ssns_nu")
            o.ssns_nu = value.cast<double>();
        else if (key == "ssns_mu")
            o.ssns_mu = value.cast<double>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

inline const char* name_of(ot::method m) {
    switch (m) {
        case ot::method::newton:
            return "newton";
        case ot::method::sns:
            return "sns";
        case ot::method::sinkhorn:
            return "sinkhorn";
        default:
            return "auto";
    }
}
inline const char* name_of(ot::linear_solver s) {
    switch (s) {
        case ot::linear_solver::jacobi:
            return "jacobi";
        case ot::linear_solver::hybrid:
            return "hybrid";
        case ot::linear_solver::direct:
            return "direct";
        default:
            return "auto";
    }
}

inline py::dict to_dict(const ot::step& s) {
    py::dict d;
    d["kind"] = s.kind == ot::step_kind::newton ? "newton" : "sinkhorn";
    d["eps"] = s.eps;
    d["err"] = s.err;
    d["n_cg"] = s.cg;
    d["alpha"] = s.alpha;
    d["nnz"] = s.kept;
    d["time"] = s.seconds;
    return d;
}

inline py::dict to_dict(const ot::report& r) {
    py::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["err"] = r.err;
    d["value_linear"] = r.linear;
    d["mass"] = r.mass;
    d["gauge"] = r.gauge;
    d["nit_sinkhorn"] = r.nit_sinkhorn;
    d["nit_newton"] = r.nit_newton;
    d["nit_cg"] = r.nit_cg;
    d["n_exp"] = r.n_exp;
    d["n_factor"] = r.n_factor;
    d["n_trials"] = r.n_trials;
    d["nnz"] = r.kept;
    d["fill"] = r.fill;
    d["method"] = name_of(r.used);
    d["linear_solver"] = name_of(r.used_solver);
    d["launches"] = r.counts.launches;
    d["reads"] = r.counts.reads;
    py::list history;
    for (const ot::step& s : r.history) history.append(to_dict(s));
    d["history"] = history;
    return d;
}

inline py::dict to_dict(const ot::adjoint_report& r) {
    py::dict d;
    d["status"] = static_cast<int>(r.status);
    d["residual"] = r.residual;
    d["nit_cg"] = r.nit_cg;
    return d;
}

inline py::dict to_dict(const ot::cost_facts& facts) {
    py::dict d;
    d["smallest"] = facts.smallest;
    d["largest"] = facts.largest;
    d["has_nan"] = facts.has_nan;
    d["has_negative_inf"] = facts.has_negative_inf;
    d["has_forbidden"] = facts.has_forbidden;
    d["empty_row"] = facts.empty_row;
    d["empty_col"] = facts.empty_col;
    return d;
}

// The callback takes one step as a dict and returns true to stop; it runs with the GIL.
inline ot::monitor to_monitor(const py::object& callback) {
    if (callback.is_none()) return {};
    return [callback](const ot::step& s) {
        const py::gil_scoped_acquire gil;
        return callback(to_dict(s)).cast<bool>();
    };
}

}  // namespace aitken::bindings
