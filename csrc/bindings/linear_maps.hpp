// Linear maps behind Python handles: matrices and preconditioners with what Python needs around them, and a
// caller's function as a map. Bindings of solvers take handles as linear_map<S>&, None as a null pointer.
#pragma once

#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/linear_maps.hpp"

namespace aitken::bindings {

namespace py = pybind11;

// Compressed rows that were found right, kept so that nobody can change them afterwards.
struct checked_pattern {
    index rows = 0, cols = 0;
    std::vector<index> indptr;
    std::vector<std::int32_t> indices;
    cpu::csr_facts facts;

    pattern_view view() const { return {rows, cols, indptr.data(), indices.data()}; }
    index nnz() const { return static_cast<index>(indices.size()); }
};

// A map made from a matrix, safe in the hands of several Python threads: an update waits for those that
// apply.
template <class S>
class matrix_handle final : public linear_map<S> {
public:
    matrix_handle(std::shared_ptr<matrix_map<S>> map, index nnz) : map_(std::move(map)), nnz_(nnz) {}

    index size() const override { return map_->size(); }
    bool varies() const override { return map_->varies(); }
    void apply(tall<const S> x, tall<S> y) override {
        const std::shared_lock lock(mutex_);
        map_->apply(x, y);
    }
    void apply_adjoint(tall<const S> x, tall<S> y) override {
        const std::unique_lock lock(mutex_);  // the adjoint is made when first asked for
        map_->apply_adjoint(x, y);
    }
    void update(const S* values) {
        const std::unique_lock lock(mutex_);
        map_->update(values);
    }
    index nnz() const { return nnz_; }

    // Runs fn on the map as the kind that has the property asked for.
    template <class Kind, class Fn>
    auto as(Fn&& fn) {
        auto* kind = dynamic_cast<Kind*>(map_.get());
        if (kind == nullptr) throw py::attribute_error("this map has no such property");
        const std::unique_lock lock(mutex_);
        return fn(*kind);
    }

private:
    std::shared_ptr<matrix_map<S>> map_;
    index nnz_;
    std::shared_mutex mutex_;
};

// A Python function of a vector of length n, and one for the adjoint or None. Each call gets an array of its
// own. `name` is the parameter that messages speak of.
template <class S>
class callback_map final : public linear_map<S> {
public:
    callback_map(index n, py::object apply, py::object adjoint, bool varies, std::string name)
        : n_(n),
          apply_(std::move(apply)),
          adjoint_(std::move(adjoint)),
          varies_(varies),
          name_(std::move(name)) {}
    ~callback_map() override {
        const py::gil_scoped_acquire gil;
        apply_ = py::object();
        adjoint_ = py::object();
    }
    callback_map(const callback_map&) = delete;
    callback_map& operator=(const callback_map&) = delete;

    index size() const override { return n_; }
    bool varies() const override { return varies_; }
    void apply(tall<const S> x, tall<S> y) override { call(apply_, x, y); }
    void apply_adjoint(tall<const S> x, tall<S> y) override {
        if (adjoint_.is_none()) throw std::logic_error("`" + name_ + "` has no adjoint (rmatvec)");
        call(adjoint_, x, y);
    }

private:
    void call(const py::object& function, tall<const S> x, tall<S> y) const {
        if (x.rows != n_ || y.rows != n_ || x.cols != y.cols)
            throw std::invalid_argument("`" + name_ + "` is applied to vectors of length " +
                                        std::to_string(x.rows) + ", not " + std::to_string(n_));
        const py::gil_scoped_acquire gil;
        for (index j = 0; j < x.cols; ++j) {
            const py::object given = function(py::array_t<S>(n_, x.col(j)));
            const py::array any = py::array::ensure(given);
            if (!any) {
                PyErr_Clear();
                throw py::type_error("`" + name_ + "` returned a " +
                                     py::str(py::type::of(given).attr("__name__")).cast<std::string>() +
                                     ", not an array");
            }
            const bool vector = any.ndim() == 1 || (any.ndim() == 2 && any.shape(1) == 1);
            if (!vector || any.shape(0) != n_)
                throw py::value_error("`" + name_ + "` returned shape " +
                                      py::str(py::tuple(any.attr("shape"))).cast<std::string>() + "; (" +
                                      std::to_string(n_) + ",) is needed");
            const char kind = any.dtype().kind();
            const bool numeric = kind == 'f' || kind == 'i' || kind == 'u' || kind == 'b';
            if (!numeric && !(kind == 'c' && std::is_same_v<S, std::complex<double>>))
                throw py::type_error("`" + name_ + "` returned dtype " +
                                     py::str(any.dtype()).cast<std::string>() +
                                     (kind == 'c' ? " where the system is real" : ""));
            const auto result = py::array_t<S, py::array::c_style | py::array::forcecast>::ensure(any);
            if (!result) throw py::error_already_set();
            std::copy(result.data(), result.data() + n_, y.col(j));
        }
    }

    index n_;
    py::object apply_, adjoint_;
    bool varies_;
    std::string name_;
};

}  // namespace aitken::bindings
