// Flexible conjugate directions on the CPU: instantiates the driver over the CPU kernels, and runs it on
// grids.
#include "core/api/deepcg.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <utility>

#include "cpu/backend.hpp"
#include "cpu/deepcg_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/deepcg.hpp"

namespace aitken::cpu::deepcg {
namespace {

// A padded vector of a grid, zero at first.
class padded {
public:
    explicit padded(const multigrid::poisson_grid& grid)
        : block_(static_cast<std::size_t>(grid.size() + 2 * grid.guard()), 0.0),
          first_(grid.guard()),
          size_(grid.size()) {}
    double* data() { return block_.data() + first_; }
    vec<double> view() { return {data(), size_}; }

private:
    std::vector<double> block_;
    index first_, size_;
};

// A map on vectors of cells, applied to padded ones.
class padded_map final : public linear_map<double> {
public:
    padded_map(const multigrid::poisson_grid& grid, linear_map<double>& plain)
        : grid_(grid), plain_(plain), compact_(plain.size() == grid.n_fluid()) {
        if (!compact_ && plain.size() != grid.shape().cells())
            throw std::invalid_argument("`model` must work on all cells, or on the fluid ones");
        x_.resize(static_cast<std::size_t>(plain.size()));
        y_.resize(x_.size());
    }
    using linear_map<double>::apply;
    index size() const override { return grid_.size(); }
    void apply(tall<const double> x, tall<double> y) override {
        for (index j = 0; j < x.cols; ++j) {
            grid_.gather(x.col(j), compact_, x_.data());
            plain_.apply(x_.data(), y_.data());
            grid_.scatter(y_.data(), compact_, y.col(j));
        }
    }

private:
    const multigrid::poisson_grid& grid_;
    linear_map<double>& plain_;
    bool compact_;
    std::vector<double> x_, y_;
};

// What one worker owns: its maps and vectors, used for one right-hand side after the other.
class grid_worker {
public:
    grid_worker(const grid_problem& problem, bool first)
        : problem_(problem),
          grid_(*problem.grid),
          matrix_(multigrid::make_grid_map(problem.grid)),
          b_(grid_),
          x_(grid_) {
        maps_.matrix = matrix_.get();
        maps_.model = own(problem.model, first);
        maps_.fallback = problem.has_fallback ? own(problem.fallback, first) : nullptr;
        maps_.plain_fallback = problem.has_fallback && maps_.fallback == nullptr;
        maps_.guard = grid_.guard();
        maps_.apply_dot = [this](const double* x, double* y) { return grid_.apply_dot(x, y); };
        if (grid_.singular_components() > 0) maps_.project = [this](double* v) { grid_.project(v); };
    }
    grid_worker(const grid_worker&) = delete;
    grid_worker& operator=(const grid_worker&) = delete;

    grid_report solve(index row, const api::options& options, interrupt& signals,
                      const api::monitor& monitor) {
        grid_report out;
        grid_.scatter(problem_.b.row(row), problem_.compact, b_.data());
        grid_.scatter(problem_.x.row(row), problem_.compact, x_.data());
        if (maps_.project) {
            out.removed = grid_.project(b_.data());
            grid_.project(x_.data());
        }
        out.solve = deepcg::solve(maps_, b_.view(), x_.view(), options, signals, monitor);
        if (maps_.project) certify(out.solve);
        grid_.gather(x_.data(), problem_.compact, problem_.x.row(row));
        return out;
    }

private:
    linear_map<double>* own(const grid_model& model, bool first) {
        if (model.cycle != nullptr) {
            if (first) return model.cycle;
            return owned_.emplace_back(model.cycle->clone()).get();
        }
        if (model.plain == nullptr) return nullptr;
        return owned_.emplace_back(std::make_unique<padded_map>(grid_, *model.plain)).get();
    }
    // The residual once more, as the means that rounding left in x are taken off.
    void certify(api::report& report) {
        grid_.project(x_.data());
        padded image(grid_);
        grid_.apply(x_.data(), image.data());
        double sum = 0;
        for (index i = 0; i < grid_.size(); ++i) {
            const double r = b_.data()[i] - image.data()[i];
            sum += r * r;
        }
        report.residual = std::sqrt(sum);
        if (report.status == status::converged && !(report.residual <= report.target)) {
            report.status = status::stagnated;
            report.detail = "means on enclosed components are taken off the answer";
        }
    }

    const grid_problem& problem_;
    const multigrid::poisson_grid& grid_;
    std::unique_ptr<linear_map<double>> matrix_;
    std::vector<std::unique_ptr<linear_map<double>>> owned_;
    padded b_, x_;
    maps maps_;
};

}  // namespace

api::report solve(const maps& maps, vec<const double> b, vec<double> x, const api::options& options,
                  interrupt& signals, const api::monitor& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    deepcg_kernels kernels(be, maps);
    drivers::deepcg::solver<backend, deepcg_kernels> solver(be, kernels, b.size, options, monitor);
    if (maps.guard == 0) return solver.run(b, x);
    const vec<double> inside{kernels.guarded(x.size, 1).data, x.size};
    std::copy_n(x.data, x.size, inside.data);
    api::report out = solver.run(b, inside);
    std::copy_n(inside.data, x.size, x.data);
    return out;
}

std::vector<grid_report> solve_grid(const grid_problem& problem, const api::options& options,
                                    interrupt& signals, const api::monitor& monitor) {
    const thread_scope threads(options.n_threads);
    const index count = problem.b.rows;
    std::vector<grid_report> out(static_cast<std::size_t>(count));
    const index workers = problem.parallel ? std::min<index>(count, num_threads()) : 1;
    if (workers <= 1) {
        if (count == 0) return out;
        grid_worker worker(problem, true);
        for (index row = 0; row < count; ++row) out[row] = worker.solve(row, options, signals, monitor);
        return out;
    }
    api::options own = options;
    own.n_threads = 0;
    std::vector<std::unique_ptr<grid_worker>> team;
    for (index w = 0; w < workers; ++w) team.push_back(std::make_unique<grid_worker>(problem, w == 0));
    // Only the caller's thread may ask whether a signal is pending; the others see what it found.
    std::atomic<bool> stop{false};
    const auto caller_asks = [&] {
        try {
            signals.poll();
        } catch (const interrupted&) {
            stop = true;
        }
        return stop.load();
    };
    std::vector<interrupt> asks;
    for (index w = 0; w < workers; ++w)
        asks.push_back(w == 0 ? interrupt(caller_asks) : interrupt([&stop] { return stop.load(); }));
    parallel_chunks(
        count, [&](index row, int worker) { out[row] = team[worker]->solve(row, own, asks[worker], {}); },
        chunk_schedule::dynamic);
    return out;
}

plain_cycle::plain_cycle(std::shared_ptr<const multigrid::poisson_grid> grid, bool compact,
                         std::function<void(const std::function<void(multigrid::cycle&)>&)> lend)
    : grid_(std::move(grid)), compact_(compact), lend_(std::move(lend)) {}

index plain_cycle::size() const { return compact_ ? grid_->n_fluid() : grid_->shape().cells(); }

void plain_cycle::apply(tall<const double> x, tall<double> y) {
    lend_([&](multigrid::cycle& cycle) {
        if (x.rows != size()) throw std::runtime_error("the grid has changed since its model was made");
        padded from(*grid_), to(*grid_);
        for (index j = 0; j < x.cols; ++j) {
            grid_->scatter(x.col(j), compact_, from.data());
            grid_->project(from.data());
            cycle.apply(from.data(), to.data());
            grid_->gather(to.data(), compact_, y.col(j));
        }
    });
}

}  // namespace aitken::cpu::deepcg
