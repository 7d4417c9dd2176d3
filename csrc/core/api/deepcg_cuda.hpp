// Conjugate directions that a model proposes, on CUDA devices: core/api/deepcg.hpp with vectors in device
// memory, plus where to run.
#pragma once

#include <functional>
#include <vector>

#include "core/api/deepcg.hpp"
#include "core/api/device_context.hpp"
#include "core/api/krylov_cuda.hpp"
#include "core/api/multigrid.hpp"

namespace aitken::cuda::deepcg {

namespace api = aitken::deepcg;

// A caller's function of plain device vectors, on the stream of the call: it reads `from` and writes `to`.
struct function {
    double* from = nullptr;
    double* to = nullptr;
    std::function<void()> run;
};

// z = f(r). At most one of them; none: the identity.
struct model {
    const aitken::multigrid::cycle_options* cycle = nullptr;  // on a grid
    bool jacobi = false;                                      // of a matrix
    const function* call = nullptr;                           // on a grid: of all cells, in C order
};

struct grid_problem {
    const cpu::multigrid::poisson_grid* grid = nullptr;  // the geometry, in host memory
    deepcg::model model, fallback;
    bool has_fallback = false;
    bool compact = false;    // vectors of FLUID cells alone
    bool single = false;     // answers are rounded to single precision, and certified so
    matrix<const double> b;  // a right-hand side per row
    matrix<double> x;        // starts, then solutions
};

// One right-hand side after the other; levels are made once. The monitor sees padded vectors of host memory.
std::vector<cpu::deepcg::grid_report> solve_grid(const device_context& where, const grid_problem& problem,
                                                 const api::options& options, interrupt& signals,
                                                 const api::monitor& monitor);

// A matrix in compressed rows.
struct matrix_problem {
    krylov::matrix a;
    deepcg::model model, fallback;
    bool has_fallback = false;
    bool single = false;
    vec<const double> b;
    vec<double> x;
};
api::report solve(const device_context& where, const matrix_problem& problem, const api::options& options,
                  interrupt& signals, const api::monitor& monitor);

}  // namespace aitken::cuda::deepcg
