// Options and records of sequences between Python and C++; shared by both modules.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/krylov_convert.hpp"
#include "core/api/sequence.hpp"

namespace aitken::bindings {

inline sequence::options to_sequence_options(const pybind11::dict& given) {
    using std::pair;
    sequence::options o;
    pybind11::dict rest;
    for (const auto& [key_object, value] : given) {
        const std::string key = pybind11::str(key_object);
        const auto choice = [&](auto... pairs) {
            const auto text = value.cast<std::string>();
            for (const auto& [name, result] : {pairs...})
                if (text == name) return result;
            throw std::invalid_argument("`" + key + "` is \"" + text + "\"");
        };
        if (key == "method")
            o.method = choice(pair{"gcrodr", sequence::method::gcrodr}, pair{"rcg", sequence::method::rcg},
                              pair{"direct", sequence::method::direct});
        else if (key == "M")
            o.preconditioner = choice(pair{"none", sequence::preconditioner::none},
                                      pair{"jacobi", sequence::preconditioner::jacobi},
                                      pair{"block-jacobi", sequence::preconditioner::block_jacobi},
                                      pair{"ssor", sequence::preconditioner::ssor},
                                      pair{"ilu0", sequence::preconditioner::ilu0},
                                      pair{"ic0", sequence::preconditioner::ic0},
                                      pair{"chebyshev", sequence::preconditioner::chebyshev},
                                      pair{"schwarz", sequence::preconditioner::schwarz},
                                      pair{"ilut", sequence::preconditioner::ilut});
        else if (key == "block")
            o.block = value.cast<index>();
        else if (key == "project")
            o.project = value.cast<int>();
        else if (key == "recycle")
            o.recycle = value.cast<bool>();
        else if (key == "guard")
            o.guard = value.cast<bool>();
        else if (key == "carried_step")
            o.carried_step = value.cast<double>();
        else if (key == "projected_step")
            o.projected_step = value.cast<double>();
        else if (key == "carried_once")
            o.carried_once = value.cast<double>();
        else if (key == "keep_preconditioner")
            o.keep_preconditioner = value.cast<double>();
        else
            rest[key_object] = value;
    }
    o.krylov = to_krylov_options(rest);
    return o;
}

// A column per field of the records, in the order in which systems were done.
struct collected {
    std::vector<index> system, nit, matvecs;
    std::vector<int> status, recycled, projected;
    std::vector<double> residual, norm_b, start, seconds;
    std::vector<bool> carried;

    void add(index i, const sequence::record& r) {
        system.push_back(i);
        nit.push_back(r.nit);
        matvecs.push_back(r.matvecs);
        status.push_back(static_cast<int>(r.status));
        recycled.push_back(r.recycled);
        projected.push_back(r.projected);
        residual.push_back(r.residual);
        norm_b.push_back(r.norm_b);
        start.push_back(r.start);
        seconds.push_back(r.seconds);
        carried.push_back(r.carried);
    }
    pybind11::dict to_dict() const {
        const auto array = [](const auto& v) {
            using T = typename std::decay_t<decltype(v)>::value_type;
            pybind11::array_t<T> a(static_cast<index>(v.size()));
            std::copy(v.begin(), v.end(), a.mutable_data());
            return a;
        };
        pybind11::dict d;
        d["system"] = array(system);
        d["nit"] = array(nit);
        d["matvecs"] = array(matvecs);
        d["status"] = array(status);
        d["recycled"] = array(recycled);
        d["projected"] = array(projected);
        d["residual"] = array(residual);
        d["norm_b"] = array(norm_b);
        d["start"] = array(start);
        d["seconds"] = array(seconds);
        d["carried"] = array(carried);
        return d;
    }
};

}  // namespace aitken::bindings
