// Chains of systems on one pattern for Python: one call solves a whole chain, without Python in between.
#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/sequence_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/sequence.hpp"

namespace py = pybind11;
namespace sequence = aitken::sequence;
using aitken::bindings::collected;
using aitken::bindings::to_sequence_options;

namespace {

using aitken::index;

template <class T>
using rows = py::array_t<T, py::array::c_style>;

// Signals reach Python's main thread only: in others abort() -> bool, where given, ends a solve under way. It
// outlives what is returned.
aitken::interrupt signals_or(const py::object& abort) {
    return aitken::interrupt([&abort] {
        const py::gil_scoped_acquire gil;
        return PyErr_CheckSignals() != 0 || (!abort.is_none() && abort().cast<bool>());
    });
}

// indptr and indices have been checked. progress(system, nit, residual) -> stop, after every system.
template <class S>
py::dict run_chain(const rows<index>& indptr, const rows<std::int32_t>& indices, const rows<S>& data,
                   const rows<S>& b, const py::object& params, const rows<index>& chain,
                   const py::dict& options, rows<S> x, const py::object& seed, const py::object& progress,
                   const py::object& abort) {
    sequence::systems<S> systems;
    const index n = indptr.size() - 1, nnz = indices.size();
    systems.pattern = {n, n, indptr.data(), indices.data()};
    if (x.ndim() != 2 || x.shape(1) != n) throw std::invalid_argument("`x` must have a row per system");
    systems.count = x.shape(0);
    systems.one_matrix = data.ndim() == 1;
    systems.one_rhs = b.ndim() == 1;
    if (data.shape(data.ndim() - 1) != nnz || (!systems.one_matrix && data.shape(0) != systems.count))
        throw std::invalid_argument("`data` must have a row of " + std::to_string(nnz) +
                                    " values per system");
    if (b.shape(b.ndim() - 1) != n || (!systems.one_rhs && b.shape(0) != systems.count))
        throw std::invalid_argument("`b` must have a row of " + std::to_string(n) + " values per system");
    systems.data = data.data();
    systems.b = b.data();
    rows<double> parameters;
    if (!params.is_none()) {
        parameters = py::cast<rows<double>>(params);
        if (parameters.ndim() != 2 || parameters.shape(0) != systems.count)
            throw std::invalid_argument("`params` must have a row per system");
        systems.params = parameters.data();
        systems.n_params = parameters.shape(1);
    }
    for (index k = 0; k < chain.size(); ++k)
        if (chain.at(k) < 0 || chain.at(k) >= systems.count)
            throw std::invalid_argument("`chain` names system " + std::to_string(chain.at(k)) + " of " +
                                        std::to_string(systems.count));
    const sequence::options o = to_sequence_options(options);
    aitken::krylov::space<S> kept;
    kept.n = n;
    if (!seed.is_none()) {
        const auto u = py::cast<py::array_t<S, py::array::f_style>>(seed);
        if (u.ndim() != 2 || u.shape(0) != n)
            throw std::invalid_argument("`recycle` must have vectors of length " + std::to_string(n));
        kept.u.assign(u.data(), u.data() + u.size());
    }
    collected results;
    const sequence::monitor monitor = [&](index i, const sequence::record& r) {
        results.add(i, r);
        if (progress.is_none()) return false;
        const py::gil_scoped_acquire gil;
        return progress(i, r.nit, r.residual).template cast<bool>();
    };
    aitken::interrupt signals = signals_or(abort);
    {
        S* const to = x.mutable_data();
        const std::span<const index> order(chain.data(), static_cast<std::size_t>(chain.size()));
        const py::gil_scoped_release release;
        aitken::cpu::sequence::run_chain<S>(systems, order, o, to, kept, signals, monitor);
    }
    py::dict d = results.to_dict();
    d["U"] = py::none();
    if (!kept.u.empty()) {
        const index k = static_cast<index>(kept.u.size()) / n, size = sizeof(S);
        d["U"] = py::array_t<S>({n, k}, {size, n * size}, kept.u.data());
    }
    return d;
}

// A session with the operators it was last given kept alive.
template <class S>
class session_handle {
public:
    session_handle(std::shared_ptr<aitken::linear_map<S>> matrix,
                   std::shared_ptr<aitken::linear_map<S>> inverse, const py::dict& options)
        : matrix_(std::move(matrix)), inverse_(std::move(inverse)) {
        session_ =
            aitken::cpu::sequence::make_session<S>(*matrix_, inverse_.get(), to_sequence_options(options));
    }

    py::dict solve(std::shared_ptr<aitken::linear_map<S>> matrix,
                   std::shared_ptr<aitken::linear_map<S>> inverse, const rows<S>& b, rows<S> x,
                   const rows<double>& params, bool same_matrix, bool start_given, const py::object& abort) {
        const index n = matrix->size();
        if (n != matrix_->size() || (inverse == nullptr) != (inverse_ == nullptr) ||
            (inverse != nullptr && inverse->size() != n))
            throw std::invalid_argument("`A` and `M` must have the sizes that the session began with");
        if (b.ndim() != 1 || b.shape(0) != n || x.ndim() != 1 || x.shape(0) != n)
            throw std::invalid_argument("`b` and `x` must have length " + std::to_string(n));
        matrix_ = std::move(matrix);
        inverse_ = std::move(inverse);
        const std::span<const double> where(params.data(), static_cast<std::size_t>(params.size()));
        aitken::interrupt signals = signals_or(abort);
        aitken::krylov::report report;
        sequence::record record;
        {
            S* const to = x.mutable_data();
            const S* const from = b.data();
            const py::gil_scoped_release release;
            record = session_->solve(*matrix_, inverse_.get(), {from, n}, {to, n}, where, same_matrix,
                                     start_given, signals, report);
        }
        py::dict d = aitken::bindings::to_dict(report);
        d["matvecs"] = record.matvecs;
        d["projected"] = record.projected;
        d["carried"] = record.carried;
        return d;
    }
    void restart() { session_->restart(); }

private:
    std::shared_ptr<aitken::linear_map<S>> matrix_, inverse_;
    std::unique_ptr<aitken::cpu::sequence::session<S>> session_;
};

template <class S>
void bind_scalar(py::module_& m, const char* session_name) {
    using py::arg;
    using handle = session_handle<S>;
    using map = std::shared_ptr<aitken::linear_map<S>>;
    py::class_<handle>(m, session_name)
        .def(py::init<map, map, const py::dict&>(), arg("A"), arg("M").none(true), arg("options"))
        .def("solve", &handle::solve, arg("A"), arg("M").none(true), arg("b").noconvert(),
             arg("x").noconvert(), arg("params").noconvert(), arg("same_matrix"), arg("start_given"),
             arg("abort") = py::none())
        .def("restart", &handle::restart);
    m.def("run_chain", &run_chain<S>, arg("indptr").noconvert(), arg("indices").noconvert(),
          arg("data").noconvert(), arg("b").noconvert(), arg("params"), arg("chain").noconvert(),
          arg("options"), arg("x").noconvert(), arg("recycle"), arg("progress"), arg("abort") = py::none(),
          "Solves the systems of one chain in its order into the rows of x; gives a record per system.");
}

}  // namespace

void bind_sequence(py::module_& m) {
    m.def(
        "factor_cost",
        [](const rows<aitken::index>& indptr, const rows<std::int32_t>& indices) {
            const aitken::index n = indptr.size() - 1;
            aitken::cpu::sequence::factor_cost cost;
            {
                const aitken::pattern_view pattern{n, n, indptr.data(), indices.data()};
                const py::gil_scoped_release release;
                cost = aitken::cpu::sequence::count_factor(pattern);
            }
            return py::make_tuple(cost.entries, cost.flops);
        },
        py::arg("indptr").noconvert(), py::arg("indices").noconvert(),
        "Entries of L and flops of a sparse L D L^T of a checked pattern, counted without making it.");
    bind_scalar<double>(m, "Session64");
    bind_scalar<std::complex<double>>(m, "Session128c");
}
