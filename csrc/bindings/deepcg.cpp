// Flexible conjugate directions on the CPU for Python. Vectors are NumPy's and x is used in place; operators
// and models are handles of linear_maps.cpp, a caller's function among them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/deepcg_convert.hpp"
#include "bindings/grid_handle.hpp"
#include "bindings/signals.hpp"
#include "core/api/deepcg.hpp"

namespace py = pybind11;
namespace dcg = aitken::deepcg;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way
using map = aitken::linear_map<double>;
using vector = py::array_t<double, py::array::c_style>;

// callback(iteration, residual, target, x or None) -> stop; x is the callback's own copy.
dcg::monitor to_monitor(const py::object& callback, index n) {
    if (callback.is_none()) return {};
    return [callback, n](const dcg::step& s) {
        const py::gil_scoped_acquire gil;
        const py::object x = s.x == nullptr ? py::object(py::none()) : py::object(vector(n, s.x));
        return callback(s.iteration, s.residual, s.target, x).cast<bool>();
    };
}

void check_vector(const vector& a, index n, const char* name) {
    if (a.ndim() != 1 || a.shape(0) != n)
        throw std::invalid_argument(std::string("`") + name + "` must be a vector of length " +
                                    std::to_string(n));
}

py::dict solve(map& matrix, map* model, map* fallback, bool plain_fallback, const vector& b, vector& x,
               const py::dict& options, const py::object& callback) {
    const index n = matrix.size();
    check_vector(b, n, "b");
    check_vector(x, n, "x0");
    for (const map* m : {model, fallback})
        if (m != nullptr && m->size() != n) throw std::invalid_argument("`model` must have the size of `A`");
    const dcg::options o = aitken::bindings::to_deepcg_options(options);
    const auto monitor = to_monitor(callback, n);
    aitken::interrupt signals = aitken::bindings::python_signals();
    aitken::cpu::deepcg::maps maps;
    maps.matrix = &matrix;
    maps.model = model;
    maps.fallback = fallback;
    maps.plain_fallback = plain_fallback;
    dcg::report report;
    {
        const aitken::vec<double> to{x.mutable_data(), n};
        const aitken::vec<const double> from{b.data(), n};
        const py::gil_scoped_release release;
        report = aitken::cpu::deepcg::solve(maps, from, to, o, signals, monitor);
    }
    return aitken::bindings::to_dict(report);
}

using aitken::bindings::cycle_handle;
using aitken::cpu::deepcg::grid_model;

// A model of Python's: a cycle, a map, or None for the identity. Of a cycle a copy with vectors of its own is
// used where Python runs during the solve, which may use the one that everybody sees; else that one itself.
class grid_model_owner {
public:
    grid_model_owner(const py::object& given, bool copy) {
        if (given.is_none()) return;
        if (!py::isinstance<cycle_handle>(given)) {
            plain_ = py::cast<map*>(given);
            return;
        }
        auto& handle = py::cast<cycle_handle&>(given);
        if (copy)
            cycle_ = handle.clone();
        else
            shared_ = &handle;
    }
    grid_model get() const { return {cycle_.get(), plain_}; }
    cycle_handle* shared() const { return shared_; }

private:
    std::unique_ptr<aitken::cpu::multigrid::cycle> cycle_;
    cycle_handle* shared_ = nullptr;
    map* plain_ = nullptr;
};

// b and x: a right-hand side and a start per row, of all cells or of FLUID cells alone.
py::list solve_grid(const aitken::bindings::grid_handle& grid, const py::object& model,
                    const py::object& fallback, bool has_fallback, bool parallel, const vector& b, vector& x,
                    bool compact, const py::dict& options, const py::object& callback) {
    const index n = grid.length(compact);
    if (b.ndim() != 2 || b.shape(1) != n || x.ndim() != 2 || x.shape(1) != n || x.shape(0) != b.shape(0))
        throw std::invalid_argument("`b` and `x0` must have rows of " + std::to_string(n) + " numbers");
    const grid_model_owner first(model, !parallel || !callback.is_none()), second(fallback, true);
    const dcg::options o = aitken::bindings::to_deepcg_options(options);
    dcg::monitor monitor;
    if (!callback.is_none()) {
        const auto& cells = *grid.grid();
        monitor = [&callback, &cells, n, compact](const dcg::step& s) {
            const py::gil_scoped_acquire gil;
            py::object seen = py::none();
            if (s.x != nullptr) {
                vector shown(n);
                cells.gather(s.x, compact, shown.mutable_data());
                seen = shown;
            }
            return callback(s.iteration, s.residual, s.target, seen).cast<bool>();
        };
    }
    aitken::interrupt signals = aitken::bindings::python_signals();
    aitken::cpu::deepcg::grid_problem problem;
    problem.grid = grid.grid();
    problem.model = first.get();
    problem.fallback = second.get();
    problem.has_fallback = has_fallback;
    problem.compact = compact;
    problem.parallel = parallel;
    problem.b = {b.data(), b.shape(0), n, n};
    problem.x = {x.mutable_data(), x.shape(0), n, n};
    std::vector<aitken::cpu::deepcg::grid_report> reports;
    const auto run = [&] {
        if (grid.length(compact) != n) throw std::runtime_error("the grid has changed since `b` was checked");
        reports = aitken::cpu::deepcg::solve_grid(problem, o, signals, monitor);
    };
    if (first.shared() != nullptr)
        first.shared()->use([&](const auto&, auto& cycle) {
            problem.model.cycle = &cycle;
            run();
        });
    else
        grid.read([&](const auto&) { run(); });
    py::list out;
    for (const auto& r : reports) {
        py::dict d = aitken::bindings::to_dict(r.solve);
        d["removed"] = r.removed;
        out.append(d);
    }
    return out;
}

std::shared_ptr<map> cycle_map(std::shared_ptr<aitken::bindings::cycle_handle> cycle, bool compact) {
    const auto grid = cycle->grid()->grid();
    return std::make_shared<aitken::cpu::deepcg::plain_cycle>(
        grid, compact, [cycle](const std::function<void(aitken::cpu::multigrid::cycle&)>& fn) {
            const py::gil_scoped_acquire gil;  // native solvers come without it, and `use` lets it go
            cycle->use([&](const auto&, auto& own) { fn(own); });
        });
}

}  // namespace

void bind_deepcg(py::module_& m) {
    using py::arg;
    m.def("deepcg_solve", &solve, arg("A"), arg("model").none(true), arg("fallback").none(true),
          arg("plain_fallback"), arg("b").noconvert(), arg("x").noconvert(), arg("options"), arg("callback"),
          "Solves A x = b from x, in place; gives the report.");
    m.def("deepcg_solve_grid", &solve_grid, arg("grid"), arg("model"), arg("fallback"), arg("has_fallback"),
          arg("parallel"), arg("b").noconvert(), arg("x").noconvert(), arg("compact"), arg("options"),
          arg("callback"), "The same on a grid, for each row of b; gives the reports.");
    m.def("cycle_map", &cycle_map, arg("cycle"), arg("compact"),
          "A multigrid cycle as a map on plain vectors.");
}
