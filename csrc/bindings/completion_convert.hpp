// Options and reports of matrix completion between Python and C++; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "core/api/completion.hpp"

namespace aitken::bindings {

namespace completion_names {

template <class E>
E pick(const std::string& option, const std::string& name,
       std::initializer_list<std::pair<const char*, E>> known) {
    for (const auto& [text, value] : known)
        if (name == text) return value;
    throw std::invalid_argument("`" + option + "` is \"" + name + "\"");
}

// Takes one option of a half sweep; false where the key is not one.
inline bool half_option(completion::half_options& o, const std::string& key, const pybind11::handle& value) {
    using completion::inner;
    using completion::loss;
    if (key == "lam")
        o.lam = value.cast<double>();
    else if (key == "lam_by_degree")
        o.lam_by_degree = value.cast<bool>();
    else if (key == "bias")
        o.bias = value.cast<bool>();
    else if (key == "nonneg")
        o.nonneg = value.cast<bool>();
    else if (key == "background")
        o.background = value.cast<bool>();
    else if (key == "loss")
        o.kind = pick<loss>(key, value.cast<std::string>(),
                            {{"linear", loss::linear}, {"huber", loss::huber}, {"l1", loss::l1}});
    else if (key == "delta")
        o.delta = value.cast<double>();
    else if (key == "inner")
        o.solver = pick<inner>(key, value.cast<std::string>(),
                               {{"exact", inner::exact},
                                {"cg", inner::cg},
                                {"qcg", inner::qcg},
                                {"sketch", inner::sketch},
                                {"lowprec", inner::lowprec}});
    else if (key == "inner_maxiter")
        o.inner_maxiter = value.cast<int>();
    else if (key == "inner_tol")
        o.inner_tol = value.cast<double>();
    else if (key == "sketch_factor")
        o.sketch_factor = value.cast<int>();
    else if (key == "first_row")
        o.first_row = value.cast<index>();
    else if (key == "sweep")
        o.sweep = value.cast<std::uint32_t>();
    else if (key == "seed")
        o.seed = value.cast<std::uint64_t>();
    else
        return false;
    return true;
}

}  // namespace completion_names

// Every key must be known: a misspelt option is an error, not a default.
inline completion::half_options to_half_options(const pybind11::dict& given, int* n_threads) {
    completion::half_options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        if (key == "n_threads")
            *n_threads = value.cast<int>();
        else if (!completion_names::half_option(o, key, value))
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

inline completion::options to_completion_options(const pybind11::dict& given) {
    using completion::start;
    completion::options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        if (key == "init")
            o.begin = completion_names::pick<start>(key, value.cast<std::string>(),
                                                    {{"given", start::given},
                                                     {"random", start::random},
                                                     {"spectral", start::spectral},
                                                     {"rank_increment", start::increment}});
        else if (key == "by_degree")
            o.by_degree = value.cast<bool>();
        else if (key == "clip")
            o.clip = value.cast<bool>();
        else if (key == "per_rank")
            o.per_rank = value.cast<int>();
        else if (key == "from_rank")
            o.from_rank = value.cast<int>();
        else if (key == "maxiter")
            o.max_sweeps = value.cast<index>();
        else if (key == "lam_path")
            o.lam_path = value.cast<std::vector<double>>();
        else if (key == "tol")
            o.tol = value.cast<double>();
        else if (key == "atol_rmse")
            o.atol = value.cast<double>();
        else if (key == "finalize")
            o.finalize = value.cast<bool>();
        else if (key == "patience")
            o.patience = value.cast<index>();
        else if (key == "auto_delta")
            o.auto_delta = value.cast<bool>();
        else if (key == "constant")
            o.constant = value.cast<double>();
        else if (key == "weight")
            o.weight = value.cast<double>();
        else if (key == "balance")
            o.balance = value.cast<bool>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else if (!completion_names::half_option(o.half, key, value))
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

inline const char* ending_name(completion::ending why) {
    switch (why) {
        case completion::ending::tolerance:
            return "tolerance";
        case completion::ending::floor:
            return "floor";
        case completion::ending::holdout:
            return "holdout";
        case completion::ending::sweeps:
            return "sweeps";
        case completion::ending::callback:
            return "callback";
        case completion::ending::nonfinite:
            break;
    }
    return "nonfinite";
}

inline pybind11::dict to_dict(const completion::report& r) {
    const auto array = [](const auto& v) { return pybind11::array(static_cast<index>(v.size()), v.data()); };
    pybind11::dict d, history;
    d["status"] = static_cast<int>(r.status);
    d["ending"] = ending_name(r.why);
    d["nit"] = r.sweeps;
    d["rank"] = r.rank;
    d["n_pivot_retries"] = r.retries;
    d["rmse_train"] = r.rmse_train;
    d["rmse_holdout"] = r.rmse_holdout;
    d["loss"] = r.loss;
    d["delta"] = r.delta;
    history["rmse_train"] = array(r.history_train);
    history["rmse_holdout"] = array(r.history_holdout);
    history["lam"] = array(r.history_lam);
    history["time"] = array(r.history_seconds);
    history["inner_iterations"] = array(r.history_inner);
    history["rank"] = array(r.history_rank);
    d["history"] = history;
    d["launches"] = r.counts.launches;
    d["reads"] = r.counts.reads;
    return d;
}

inline pybind11::dict to_dict(const completion::half_report& r) {
    pybind11::dict d;
    d["squared_error"] = r.squared_error;
    d["inner_iterations"] = r.inner_iterations;
    d["n_pivot_retries"] = r.retries;
    return d;
}

// callback(sweep, rank, lam, rmse_train, rmse_holdout) -> stop
inline completion::monitor to_completion_monitor(const pybind11::object& callback) {
    if (callback.is_none()) return {};
    return [callback](const completion::step& s) {
        const pybind11::gil_scoped_acquire gil;
        return callback(s.sweep, s.rank, s.lam, s.rmse_train, s.rmse_holdout).cast<bool>();
    };
}

}  // namespace aitken::bindings
