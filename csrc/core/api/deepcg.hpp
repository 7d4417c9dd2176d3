// Conjugate directions that a model proposes: what bindings may ask for.
//
// A is symmetric positive definite, or semidefinite with null vectors that every map here projects out. A
// model is any map z = f(r), taken as a guess of the direction of A^-1 r; only in form::pcg must it be
// linear, symmetric and definite. Everything is double precision.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/api/multigrid.hpp"
#include "core/backend.hpp"
#include "core/interrupt.hpp"
#include "core/linear_map.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::deepcg {

enum class form {
    pcg,       // preconditioned CG; its beta (Polak, Ribiere) forgives a model that is a little inexact
    robust,    // per step the best correction in the span of f(r), r and the last steps: safe with any model
    published  // one direction per step, made conjugate to the last ones; no safety beyond honest statuses
};

struct options {
    deepcg::form form = form::robust;
    int n_previous = 2;            // earlier steps that a new one is made conjugate to (not pcg)
    bool enrich = true;            // robust: r itself is a second direction of every step
    double rtol = 1e-5, atol = 0;  // ||b - A x||_2 <= max(rtol ||b||_2, atol)
    index max_iterations = 1000;
    index recompute = 50;  // steps between two residuals from scratch

    // When the model is given up for the fallback, beside breakdowns and unusable outputs.
    int window = 0;  // steps that a judgement needs; 0: the speed of the model is not judged
    bool fast_fallback =
        false;                // it needs few steps: give up what would need more than window / 3 further ones
    bool zero_start = false;  // the given x is zero: no product for its residual
    bool report_x = false;    // the monitor wants the iterate, not only the norm
    int n_threads = 0;        // 0: the library's default
};

struct report {
    aitken::status status = aitken::status::converged;
    std::string detail;  // one clause on what ended it, empty when converged
    index iterations = 0;
    index matvecs = 0;
    index model_applies = 0, fallback_applies = 0;
    index replaced = 0;        // outputs of the model that could not be used
    index fallback_step = -1;  // iterations done when the model was given up; -1: it was not
    std::string given_up;      // why
    double residual = 0;       // ||b - A x||_2, recomputed
    double norm_b = 0, target = 0;
    std::vector<double> history;  // ||r||_2 of the recurrence: at the start, then after every iteration
    traffic counts;
};

struct step {
    index iteration;
    double residual, target;
    const double* x;  // null unless report_x
};
using monitor = std::function<bool(const step&)>;  // true: stop

}  // namespace aitken::deepcg

namespace aitken::cpu::deepcg {

namespace api = aitken::deepcg;

// The maps of one solve. All work on vectors of the same length with `guard` zeros before and behind.
struct maps {
    linear_map<double>* matrix = nullptr;
    linear_map<double>* model = nullptr;     // null: the identity
    linear_map<double>* fallback = nullptr;  // null: none, unless plain_fallback
    bool plain_fallback = false;             // the fallback is the identity
    index guard = 0;
    std::function<double(const double* x, double* y)> apply_dot{};  // y = A x, returns x'y; may be empty
    std::function<void(double*)> project{};  // takes null vectors of A out; empty: A has none
};

// Solves A x = b from the x given. b and x need no guards.
api::report solve(const maps& maps, vec<const double> b, vec<double> x, const api::options& options,
                  interrupt& signals, const api::monitor& monitor);

// A model on a grid: a cycle, or a map on vectors of all cells or of FLUID cells alone, as its size says.
// Neither: the identity.
struct grid_model {
    multigrid::cycle* cycle = nullptr;  // further workers get clones
    linear_map<double>* plain = nullptr;
};
struct grid_problem {
    std::shared_ptr<const multigrid::poisson_grid> grid;
    grid_model model, fallback;
    bool has_fallback = false;
    bool compact = false;    // vectors of FLUID cells alone
    bool parallel = true;    // the maps may be applied from several threads at the same time
    matrix<const double> b;  // a right-hand side per row
    matrix<double> x;        // starts, then solutions
};
struct grid_report {
    api::report solve;
    double removed = 0;  // 2-norm of the means of b on singular components, which no A x has
};

// Each right-hand side for itself, several of them on a worker each; the bits are those of a solve alone.
// b is taken without what was removed, and x has no such means. The monitor, which sees padded vectors, is
// for a single right-hand side.
std::vector<grid_report> solve_grid(const grid_problem& problem, const api::options& options,
                                    interrupt& signals, const api::monitor& monitor);

// A cycle as a map on vectors of all cells, or of FLUID cells alone. `lend` gives a cycle for one
// application at a time.
class plain_cycle final : public linear_map<double> {
public:
    plain_cycle(std::shared_ptr<const multigrid::poisson_grid> grid, bool compact,
                std::function<void(const std::function<void(multigrid::cycle&)>&)> lend);
    index size() const override;
    using linear_map<double>::apply;
    void apply(tall<const double> x, tall<double> y) override;
    void apply_adjoint(tall<const double> x, tall<double> y) override { apply(x, y); }  // it is symmetric

private:
    std::shared_ptr<const multigrid::poisson_grid> grid_;
    bool compact_;
    std::function<void(const std::function<void(multigrid::cycle&)>&)> lend_;
};

}  // namespace aitken::cpu::deepcg
