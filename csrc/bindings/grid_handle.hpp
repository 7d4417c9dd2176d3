// Grids and their multigrid cycles behind Python handles: NumPy arrays stay alive while a grid looks at them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/multigrid.hpp"

namespace aitken::bindings {

namespace py = pybind11;

template <class T>
using dense_array = py::array_t<T, py::array::c_style>;

// Zeros that a padded vector lies in.
class padded_room {
public:
    explicit padded_room(const cpu::multigrid::poisson_grid& grid)
        : block_(static_cast<std::size_t>(grid.size() + 2 * grid.guard()), 0.0), first_(grid.guard()) {}
    double* data() { return block_.data() + first_; }

private:
    std::vector<double> block_;
    index first_;
};

class grid_handle {
public:
    grid_handle(int ndim, const std::array<index, 3>& n, const std::array<bool, 3>& periodic,
                const std::array<double, 3>& scale, bool variable) {
        aitken::multigrid::box b;
        b.ndim = ndim;
        b.n = n;
        b.periodic = periodic;
        b.scale = scale;
        b.variable = variable;
        grid_ = cpu::multigrid::make_grid(b);
    }

    // `faces`: an array or None per axis, `open`: whether p = 0 lies beyond its two ends.
    void update(const py::object& flags, const std::array<py::object, 3>& faces,
                const std::array<std::array<bool, 2>, 3>& open, double shift) {
        const auto& b = grid_->shape();
        aitken::multigrid::coefficients c;
        std::vector<py::object> kept;
        if (!flags.is_none()) {
            const auto array = py::cast<dense_array<std::uint8_t>>(flags);
            if (array.size() != b.cells()) throw std::invalid_argument("`flags` has the wrong size");
            c.flags = array.data();
            kept.push_back(array);
        }
        for (std::size_t a = 0; a < 3; ++a) {
            if (faces[a].is_none()) continue;
            const auto array = py::cast<dense_array<double>>(faces[a]);
            const index wanted = b.cells() / b.n[a] * (b.n[a] + 1);
            if (!b.variable || array.size() != wanted)
                throw std::invalid_argument("`conductance` has the wrong size");
            c.faces[a] = array.data();
            kept.push_back(array);
        }
        c.open = open;
        c.shift = shift;
        if (reads_here())
            throw std::runtime_error(
                "the grid cannot change inside of a solve on it (from a callback or a model)");
        {
            const py::gil_scoped_release release;
            const std::unique_lock lock(mutex_);
            grid_->update(c);
            kept_.swap(kept);  // what was kept goes where the interpreter's lock is held again
        }
    }

    // Fn on the grid while nobody changes it; without the interpreter's lock. Nests.
    template <class Fn>
    auto read(Fn&& fn) const {
        const py::gil_scoped_release release;
        if (reads_here()) return fn(*grid_);
        const std::shared_lock lock(mutex_);
        const reading here(this);
        return fn(*grid_);
    }
    std::shared_ptr<const cpu::multigrid::poisson_grid> grid() const { return grid_; }
    std::shared_mutex& mutex() const { return mutex_; }

    // Vectors of all cells, or of FLUID cells alone.
    index length(bool compact) const { return compact ? grid_->n_fluid() : grid_->shape().cells(); }
    // Only inside of `read` does the answer last.
    void check(index given, bool compact, const char* name) const {
        if (given != length(compact))
            throw std::invalid_argument(std::string("`") + name + "` has " + std::to_string(given) +
                                        " numbers; " + std::to_string(length(compact)) + " are needed");
    }

private:
    // The grids that the calling thread reads, for as long as it does.
    static std::vector<const grid_handle*>& read_by_thread() {
        thread_local std::vector<const grid_handle*> list;
        return list;
    }
    struct reading {
        explicit reading(const grid_handle* grid) { read_by_thread().push_back(grid); }
        ~reading() { read_by_thread().pop_back(); }
        reading(const reading&) = delete;
        reading& operator=(const reading&) = delete;
    };
    bool reads_here() const {
        const auto& list = read_by_thread();
        return std::find(list.begin(), list.end(), this) != list.end();
    }

    std::shared_ptr<cpu::multigrid::poisson_grid> grid_;
    std::vector<py::object> kept_;
    mutable std::shared_mutex mutex_;
};

class cycle_handle {
public:
    cycle_handle(std::shared_ptr<grid_handle> grid, const aitken::multigrid::cycle_options& options)
        : grid_(std::move(grid)),
          cycle_(
              grid_->read([&](const auto&) { return cpu::multigrid::make_cycle(grid_->grid(), options); })) {}

    const std::shared_ptr<grid_handle>& grid() const { return grid_; }
    // Levels as the grid is now.
    void update() {
        grid_->read([&](const auto&) {
            const std::lock_guard mine(mutex_);
            cycle_->update();
        });
    }
    template <class Fn>
    auto use(Fn&& fn) {
        return grid_->read([&](const cpu::multigrid::poisson_grid& grid) {
            const std::lock_guard mine(mutex_);
            cycle_->update();
            return fn(grid, *cycle_);
        });
    }
    // Another with vectors of its own.
    std::unique_ptr<cpu::multigrid::cycle> clone() {
        return use([](const auto&, const cpu::multigrid::cycle& c) { return c.clone(); });
    }

private:
    std::shared_ptr<grid_handle> grid_;
    std::unique_ptr<cpu::multigrid::cycle> cycle_;
    std::mutex mutex_;
};

}  // namespace aitken::bindings
