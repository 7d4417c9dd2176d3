// Factorisations of the Newton systems of constrained minimisation for Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include "bindings/signals.hpp"
#include "core/api/linear_maps.hpp"
#include "core/api/optimize.hpp"

namespace py = pybind11;
namespace opt = aitken::optimize;

namespace {

using aitken::index;
using array = py::array_t<double, py::array::c_style>;

// A factorisation in the hands of several Python threads: one at a time.
class factor_handle {
public:
    static std::unique_ptr<factor_handle> dense(index n) {
        if (n < 0) throw std::invalid_argument("`n` is " + std::to_string(n) + "; at least 0 is needed");
        return std::unique_ptr<factor_handle>(new factor_handle(opt::make_dense(n), n * n));
    }
    static std::unique_ptr<factor_handle> sparse(
        index n, const py::array_t<std::int64_t, py::array::c_style>& indptr,
        const py::array_t<std::int32_t, py::array::c_style>& indices) {
        const aitken::cpu::raw_csr<std::int32_t, double> given{
            n, n, indptr.data(), indptr.size(), indices.data(), indices.size(), nullptr, indices.size()};
        const auto facts = aitken::cpu::inspect_csr(given, "pattern", "row");
        if (!facts.unique) throw std::invalid_argument("`pattern` has an entry twice");
        const py::gil_scoped_release release;
        return std::unique_ptr<factor_handle>(new factor_handle(
            opt::make_sparse({n, n, indptr.data(), indices.data()}), static_cast<index>(indices.size())));
    }

    index size() const { return factor_->size(); }
    index nnz() const { return factor_->nnz(); }
    double flops() const { return factor_->flops(); }

    py::tuple factor(const array& values, index n_primal, double shift) {
        if (values.size() != n_values_)
            throw std::invalid_argument("`values` has " + std::to_string(values.size()) + " numbers; " +
                                        std::to_string(n_values_) + " are needed");
        const double* data = values.data();
        aitken::interrupt signals = aitken::bindings::python_signals();
        opt::inertia found;
        {
            const py::gil_scoped_release release;
            const std::lock_guard lock(mutex_);
            found = factor_->factor(data, n_primal, shift, signals);
        }
        return py::make_tuple(found.positive, found.negative, found.zero, found.finite);
    }

    py::tuple solve(const array& b, double rtol, int max_steps) {
        if (b.ndim() != 1 || b.shape(0) != size())
            throw std::invalid_argument("`b` must be a vector of length " + std::to_string(size()));
        array x(size());
        double* out = x.mutable_data();
        const double* in = b.data();
        opt::solution found;
        {
            const py::gil_scoped_release release;
            const std::lock_guard lock(mutex_);
            found = factor_->solve(in, out, rtol, max_steps);
        }
        return py::make_tuple(x, found.residual, found.steps);
    }

private:
    factor_handle(std::unique_ptr<opt::factorization> factor, index n_values)
        : factor_(std::move(factor)), n_values_(n_values) {}

    std::unique_ptr<opt::factorization> factor_;
    index n_values_;
    std::mutex mutex_;
};

}  // namespace

void bind_optimize(py::module_& m) {
    py::class_<factor_handle>(m, "IndefiniteFactor")
        .def_static("dense", &factor_handle::dense, py::arg("n"))
        .def_static("sparse", &factor_handle::sparse, py::arg("n"), py::arg("indptr"), py::arg("indices"))
        .def_property_readonly("size", &factor_handle::size)
        .def_property_readonly("nnz", &factor_handle::nnz)
        .def_property_readonly("flops", &factor_handle::flops)
        .def("factor", &factor_handle::factor, py::arg("values"), py::arg("n_primal"), py::arg("shift"))
        .def("solve", &factor_handle::solve, py::arg("b"), py::arg("rtol"), py::arg("max_steps"));
}
