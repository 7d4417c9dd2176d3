// Options and reports of the Krylov solvers between Python and C++; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/krylov.hpp"

namespace aitken::bindings {

// Every key must be known: a misspelt option is an error, not a default.
inline krylov::options to_krylov_options(const pybind11::dict& given) {
    using std::pair;
    krylov::options o;
    const auto choice = [](const std::string& key, const std::string& value, auto... pairs) {
        for (const auto& [name, result] : {pairs...})
            if (value == name) return result;
        throw std::invalid_argument("`" + key + "` is \"" + value + "\"");
    };
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        const auto text = [&v = value] { return v.cast<std::string>(); };
        if (key == "restart")
            o.restart = value.cast<int>();
        else if (key == "recycle_dim")
            o.recycle = value.cast<int>();
        else if (key == "keep")
            o.keep = value.cast<bool>();
        else if (key == "steps_beside")
            o.steps_beside = value.cast<bool>();
        else if (key == "outer")
            o.outer = value.cast<int>();
        else if (key == "outer_first")
            o.outer_first = value.cast<bool>();
        else if (key == "rtol")
            o.rtol = value.cast<double>();
        else if (key == "atol")
            o.atol = value.cast<double>();
        else if (key == "inner_rtol")
            o.inner_rtol = value.cast<double>();
        else if (key == "maxiter")
            o.max_iterations = value.cast<index>();
        else if (key == "max_cycles")
            o.max_cycles = value.cast<index>();
        else if (key == "side")
            o.side = choice(key, text(), pair{"right", krylov::side::right}, pair{"left", krylov::side::left},
                            pair{"flexible", krylov::side::flexible});
        else if (key == "carry")
            o.carry = choice(key, text(), pair{"x", krylov::carry::solution},
                             pair{"t", krylov::carry::transformed});
        else if (key == "ortho")
            o.ortho = choice(key, text(), pair{"auto", krylov::ortho::automatic},
                             pair{"cgs2", krylov::ortho::cgs2}, pair{"mgs", krylov::ortho::mgs});
        else if (key == "basis")
            o.basis =
                choice(key, text(), pair{"full", krylov::basis::full}, pair{"single", krylov::basis::single});
        else if (key == "select")
            o.select = choice(
                key, text(), pair{"SM", krylov::selection::smallest_magnitude},
                pair{"LM", krylov::selection::largest_magnitude},
                pair{"SR", krylov::selection::smallest_real}, pair{"LR", krylov::selection::largest_real},
                pair{"SI", krylov::selection::smallest_imaginary},
                pair{"LI", krylov::selection::largest_imaginary}, pair{"sv", krylov::selection::singular},
                pair{"oldest", krylov::selection::truncate_oldest},
                pair{"smallest", krylov::selection::truncate_smallest});
        else if (key == "adaptive")
            o.adaptive = value.cast<bool>();
        else if (key == "watch_stagnation")
            o.watch_stagnation = value.cast<bool>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

inline pybind11::dict to_dict(const krylov::report& r) {
    pybind11::dict d;
    d["status"] = static_cast<int>(r.status);
    d["nit"] = r.iterations;
    d["cycles"] = r.cycles;
    d["matvecs"] = r.matvecs;
    d["precond_applies"] = r.precond_applies;
    d["residual"] = r.residual;
    d["norm_b"] = r.norm_b;
    d["target"] = r.target;
    d["recycled"] = r.recycled;
    d["kept"] = r.kept;
    d["adapted"] = r.adapted;
    d["residuals"] = pybind11::array_t<double>(static_cast<index>(r.history.size()), r.history.data());
    d["launches"] = r.counts.launches;
    d["reads"] = r.counts.reads;
    return d;
}

// Vectors carried from solve to solve, columns of n; None for none.
template <class S>
krylov::space<S> to_space(const pybind11::object& u, const pybind11::object& c, const char* name, index n) {
    krylov::space<S> space;
    space.n = n;
    const auto read = [name, n](const pybind11::object& given) -> std::vector<S> {
        if (given.is_none()) return {};
        const auto array = pybind11::cast<pybind11::array_t<S, pybind11::array::f_style>>(given);
        if (array.ndim() != 2 || array.shape(0) != n)
            throw std::invalid_argument(std::string("`") + name + "` must have vectors of length " +
                                        std::to_string(n));
        return {array.data(), array.data() + array.size()};
    };
    space.u = read(u);
    space.c = read(c);
    return space;
}

template <class S>
pybind11::object to_array(std::vector<S>&& values, index n) {
    if (values.empty()) return pybind11::none();
    auto* kept = new std::vector<S>(std::move(values));
    const pybind11::capsule owner(kept, [](void* p) { delete static_cast<std::vector<S>*>(p); });
    const index k = static_cast<index>(kept->size()) / n, size = sizeof(S);
    return pybind11::array_t<S>({n, k}, {size, n * size}, kept->data(), owner);
}

}  // namespace aitken::bindings
