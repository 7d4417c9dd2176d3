// The Poisson operator of a grid and its multigrid cycle for Python. The Python side has checked its input;
// what could break memory is checked again in grid_handle.hpp.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/grid_handle.hpp"
#include "bindings/multigrid_convert.hpp"

namespace py = pybind11;

namespace {

using aitken::bindings::cycle_handle;
using aitken::bindings::dense_array;
using aitken::bindings::grid_handle;
using aitken::bindings::padded_room;
using vector = dense_array<double>;
namespace mg = aitken::multigrid;
using grid_type = aitken::cpu::multigrid::poisson_grid;

// y = fn(x) with both on padded vectors.
template <class Fn>
void through(const grid_type& grid, bool compact, const double* x, double* y, Fn&& fn) {
    padded_room from(grid), to(grid);
    grid.scatter(x, compact, from.data());
    fn(from.data(), to.data());
    grid.gather(to.data(), compact, y);
}

}  // namespace

void bind_multigrid(py::module_& m) {
    py::class_<grid_handle, std::shared_ptr<grid_handle>>(m, "PoissonGrid")
        .def(py::init<int, const std::array<aitken::index, 3>&, const std::array<bool, 3>&,
                      const std::array<double, 3>&, bool>(),
             py::arg("ndim"), py::arg("shape"), py::arg("periodic"), py::arg("scale"), py::arg("variable"))
        .def("update", &grid_handle::update, py::arg("flags"), py::arg("faces"), py::arg("open"),
             py::arg("shift"))
        .def_property_readonly("n_fluid", [](const grid_handle& g) { return g.grid()->n_fluid(); })
        .def_property_readonly("n_components", [](const grid_handle& g) { return g.grid()->components(); })
        .def_property_readonly("n_singular",
                               [](const grid_handle& g) { return g.grid()->singular_components(); })
        .def(
            "apply",
            [](const grid_handle& g, const vector& x, vector& y, bool compact) {
                const double* from = x.data();
                double* to = y.mutable_data();
                const auto n_x = x.size(), n_y = y.size();
                g.read([&](const grid_type& grid) {
                    g.check(n_x, compact, "x");
                    g.check(n_y, compact, "y");
                    through(grid, compact, from, to, [&](const double* a, double* b) { grid.apply(a, b); });
                });
            },
            py::arg("x"), py::arg("y"), py::arg("compact"))
        .def(
            "project",
            [](const grid_handle& g, const vector& x, vector& y, bool compact) {
                const double* from = x.data();
                double* to = y.mutable_data();
                const auto n_x = x.size(), n_y = y.size();
                return g.read([&](const grid_type& grid) {
                    g.check(n_x, compact, "x");
                    g.check(n_y, compact, "y");
                    padded_room room(grid);
                    grid.scatter(from, compact, room.data());
                    const double taken = grid.project(room.data());
                    grid.gather(room.data(), compact, to);
                    return taken;
                });
            },
            py::arg("x"), py::arg("y"), py::arg("compact"))
        .def(
            "diagonal",
            [](const grid_handle& g, bool compact) {
                const auto values = g.read([&](const grid_type& grid) {
                    std::vector<double> out(static_cast<std::size_t>(g.length(compact)));
                    padded_room room(grid);
                    grid.diagonal(room.data());
                    grid.gather(room.data(), compact, out.data());
                    return out;
                });
                return vector(static_cast<aitken::index>(values.size()), values.data());
            },
            py::arg("compact"))
        .def("labels", [](const grid_handle& g) {
            dense_array<std::int32_t> out(g.length(false));
            std::int32_t* to = out.mutable_data();
            g.read([&](const grid_type& grid) { grid.component_labels(to); });
            return out;
        });

    py::class_<cycle_handle, std::shared_ptr<cycle_handle>>(m, "MultigridCycle")
        .def(py::init([](std::shared_ptr<grid_handle> grid, int visits, const std::string& smoother,
                         const std::vector<double>& omega, int degree, double lower_ratio,
                         const py::object& learned) {
                 const auto o = aitken::bindings::to_cycle_options(visits, smoother, omega, degree,
                                                                   lower_ratio, learned);
                 return std::make_shared<cycle_handle>(std::move(grid), o);
             }),
             py::arg("grid"), py::arg("visits"), py::arg("smoother"), py::arg("omega"), py::arg("degree"),
             py::arg("lower_ratio"), py::arg("learned"))
        .def("update", &cycle_handle::update)
        .def(
            "apply",
            [](cycle_handle& c, const vector& x, vector& y, bool compact) {
                const double* from = x.data();
                double* to = y.mutable_data();
                const auto n_x = x.size(), n_y = y.size();
                c.use([&](const grid_type& grid, aitken::cpu::multigrid::cycle& cycle) {
                    c.grid()->check(n_x, compact, "x");
                    c.grid()->check(n_y, compact, "y");
                    through(grid, compact, from, to, [&](double* a, double* b) {
                        grid.project(a);  // symmetric: means come off both sides
                        cycle.apply(a, b);
                    });
                });
            },
            py::arg("x"), py::arg("y"), py::arg("compact"))
        .def_property_readonly(
            "levels",
            [](cycle_handle& c) {
                return c.use([](const auto&, const auto& cycle) { return cycle.levels(); });
            })
        .def_property_readonly("bytes",
                               [](cycle_handle& c) {
                                   return c.use([](const auto&, const auto& cycle) { return cycle.bytes(); });
                               })
        .def(
            "field",
            [](cycle_handle& c, int level, int which) {
                const auto values = c.use([&](const auto&, const auto& cycle) {
                    if (level < 0 || level >= cycle.levels() || which < 0 || which > 2)
                        throw std::invalid_argument("no such field");
                    return cycle.field(level, which);
                });
                return dense_array<float>(static_cast<aitken::index>(values.size()), values.data());
            },
            py::arg("level"), py::arg("which"));
}
