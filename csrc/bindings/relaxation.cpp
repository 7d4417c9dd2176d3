// SOR and SSOR-preconditioned CG on the CPU for Python. Vectors are NumPy's; x is used in place.
#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <complex>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/linear_maps.hpp"
#include "bindings/relaxation_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/relaxation.hpp"

namespace py = pybind11;
namespace relax = aitken::relaxation;

namespace {

using aitken::index;
using vector = py::array_t<double, py::array::c_style>;

template <class S>
void check_vector(const py::array_t<S, py::array::c_style>& a, index n, const char* name) {
    if (a.ndim() != 1 || a.shape(0) != n)
        throw std::invalid_argument(std::string("`") + name + "` must be a vector of length " +
                                    std::to_string(n));
}

// A sweeper in the hands of several Python threads: one at a time.
class sweeper_handle {
public:
    sweeper_handle(const aitken::bindings::checked_pattern& pattern, const vector& data,
                   const std::string& order, const py::array_t<std::int32_t, py::array::c_style>& rows) {
        check_vector(data, pattern.nnz(), "data");
        const std::vector<std::int32_t> list(rows.data(), rows.data() + rows.size());
        const relax::order kind = aitken::bindings::to_order(order);
        const double* values = data.data();
        aitken::interrupt signals = aitken::bindings::python_signals();
        const py::gil_scoped_release release;
        nnz_ = pattern.nnz();
        sweeper_ = aitken::cpu::relaxation::make_sweeper(pattern.view(), values, kind, list, signals);
    }

    index size() const { return sweeper_->size(); }
    index levels() const { return sweeper_->levels(); }
    bool stencil() const { return sweeper_->stencil(); }

    void update(const vector& data) {
        check_vector(data, nnz_, "data");
        const py::gil_scoped_release release;
        const turn mine(*this);
        sweeper_->update(data.data());
    }

    py::dict sor(const vector& b, vector& x, double shift, const py::dict& options,
                 const py::object& callback) {
        const auto o = aitken::bindings::to_sor_options(options);
        return solve(b, x, callback, [&](auto from, auto to, auto& signals, const auto& monitor) {
            return sweeper_->sor(from, to, shift, o, signals, monitor);
        });
    }
    py::dict ssor_cg(const vector& b, vector& x, double shift, const py::dict& options,
                     const py::object& callback) {
        const auto o = aitken::bindings::to_ssor_options(options);
        return solve(b, x, callback, [&](auto from, auto to, auto& signals, const auto& monitor) {
            return sweeper_->ssor_cg(from, to, shift, o, signals, monitor);
        });
    }
    py::dict estimate(const vector& b, double shift, int steps, bool with_delta, int n_threads) {
        check_vector(b, size(), "b");
        aitken::interrupt signals = aitken::bindings::python_signals();
        relax::spectrum s;
        {
            const py::gil_scoped_release release;
            const turn mine(*this);
            s = sweeper_->estimate({b.data(), size()}, shift, steps, with_delta, n_threads, signals);
        }
        py::dict d;
        d["mu"] = s.mu;
        d["alpha"] = s.alpha;
        d["delta"] = s.delta;
        d["products"] = s.products;
        return d;
    }

private:
    // A callback that asks for more of the sweeper that calls it would wait for itself.
    class turn {
    public:
        explicit turn(sweeper_handle& h) : holder_(h.holder_) {
            if (holder_.load() == std::this_thread::get_id())
                throw std::logic_error("`callback` uses the solver that calls it");
            lock_ = std::unique_lock(h.mutex_);
            holder_.store(std::this_thread::get_id());
        }
        ~turn() { holder_.store({}); }
        turn(const turn&) = delete;
        turn& operator=(const turn&) = delete;

    private:
        std::atomic<std::thread::id>& holder_;
        std::unique_lock<std::mutex> lock_;  // released after holder_ is cleared
    };

    template <class Solve>
    py::dict solve(const vector& b, vector& x, const py::object& callback, Solve run) {
        check_vector(b, size(), "b");
        check_vector(x, size(), "x0");
        const auto monitor = aitken::bindings::to_relaxation_monitor<double>(callback, size());
        aitken::interrupt signals = aitken::bindings::python_signals();
        relax::report report;
        {
            const aitken::vec<double> to{x.mutable_data(), size()};
            const aitken::vec<const double> from{b.data(), size()};
            const py::gil_scoped_release release;
            const turn mine(*this);
            report = run(from, to, signals, monitor);
        }
        return aitken::bindings::to_dict(report);
    }

    std::unique_ptr<aitken::cpu::relaxation::sweeper> sweeper_;
    index nnz_ = 0;
    std::mutex mutex_;
    std::atomic<std::thread::id> holder_{};
};

using complex_vector = py::array_t<std::complex<double>, py::array::c_style>;

py::dict sor_complex(const aitken::bindings::checked_pattern& pattern, const complex_vector& data,
                     const complex_vector& b, complex_vector& x, double shift, const py::dict& options,
                     const py::object& callback) {
    const index n = pattern.rows;
    check_vector(data, pattern.nnz(), "data");
    check_vector(b, n, "b");
    check_vector(x, n, "x0");
    const auto o = aitken::bindings::to_sor_options(options);
    const auto monitor = aitken::bindings::to_relaxation_monitor<std::complex<double>>(callback, n);
    aitken::interrupt signals = aitken::bindings::python_signals();
    relax::report report;
    {
        const aitken::vec<std::complex<double>> to{x.mutable_data(), n};
        const py::gil_scoped_release release;
        report = aitken::cpu::relaxation::sor_serial(pattern.view(), data.data(), {b.data(), n}, to, shift, o,
                                                     signals, monitor);
    }
    return aitken::bindings::to_dict(report);
}

}  // namespace

void bind_relaxation(py::module_& m) {
    using py::arg;
    py::class_<sweeper_handle>(m, "Sweeper")
        .def(py::init<const aitken::bindings::checked_pattern&, const vector&, const std::string&,
                      const py::array_t<std::int32_t, py::array::c_style>&>(),
             arg("pattern"), arg("data").noconvert(), arg("order"), arg("rows").noconvert())
        .def_property_readonly("n", &sweeper_handle::size)
        .def_property_readonly("levels", &sweeper_handle::levels)
        .def_property_readonly("stencil", &sweeper_handle::stencil)
        .def("update", &sweeper_handle::update, arg("data").noconvert())
        .def("sor", &sweeper_handle::sor, arg("b").noconvert(), arg("x").noconvert(), arg("shift"),
             arg("options"), arg("callback"))
        .def("ssor_cg", &sweeper_handle::ssor_cg, arg("b").noconvert(), arg("x").noconvert(), arg("shift"),
             arg("options"), arg("callback"))
        .def("estimate", &sweeper_handle::estimate, arg("b").noconvert(), arg("shift"), arg("steps"),
             arg("with_delta"), arg("n_threads"));
    m.def(
        "is_stencil",
        [](const aitken::bindings::checked_pattern& pattern, const vector& data) {
            check_vector(data, pattern.nnz(), "data");
            return aitken::cpu::relaxation::is_stencil(pattern.view(), data.data());
        },
        arg("pattern"), arg("data").noconvert());
    m.def("sor_complex", &sor_complex, arg("pattern"), arg("data").noconvert(), arg("b").noconvert(),
          arg("x").noconvert(), arg("shift"), arg("options"), arg("callback"));
}
