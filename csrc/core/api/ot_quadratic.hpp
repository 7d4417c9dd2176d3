// Transport whose plans are sparse: quadratic regularisation, at most k entries per column, and no
// regularisation at all. The plain C++ surface that bindings call; CPU only. Costs may hold +inf (forbidden
// pairs), weights are non-negative with sum 1 each.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/api/ot.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::ot {

// min <C, P> + (gamma / 2) ||P||^2  s.t.  P 1 = a, P^T 1 = b, P >= 0;  P = max(0, x + y - C) / gamma.
struct quadratic_options {
    double gamma = 0;
    double tol = 1e-9;           // on ||P1 - a||_1 + ||P^T 1 - b||_1, total mass 1
    index max_iterations = 500;  // Newton steps
    bool warm = false;           // x and y hold potentials to start from
    double stage_start = 0.25;   // first gamma / (range of the cost * min(n, m))
    double stage_factor = 0.25;  // gamma of a stage / gamma of the one before
    double stage_tol = 0.1;      // L1 error that ends every stage but the last
    double shift = 1e-3;         // of the Hessian's diagonal, relative to min(1, L1 error)
    int n_threads = 0;
};

// One line of the history.
struct quadratic_step {
    double gamma = 0, err = 0;  // of the stage; L1 marginal error before the step
    index n_cg = 0, nnz = 0;    // CG iterations (0: factored), entries of the plan
    double alpha = 0, seconds = 0;
};
using quadratic_monitor = std::function<bool(const quadratic_step&)>;

struct quadratic_report {
    aitken::status status = status::converged;
    std::string detail;
    double err = 0;                           // recomputed from the potentials by a pass over the cost
    double linear = 0, square = 0;            // <C, P>, ||P||^2
    index nit = 0, nit_cg = 0, n_factor = 0;  // Newton steps, CG iterations in them, factorisations
    index n_pass = 0, n_trials = 0;           // passes over the cost, line-search trials
    sparse_plan plan;
    std::vector<quadratic_step> history;
};

// min <C, T> + (gamma / 2) ||T||^2  s.t.  T 1 = a, T^T 1 = b, T >= 0, at most k entries in a column,
// by its dual in x (columns exact), or in x and y.
struct topk_options {
    double gamma = 0;
    index k = 1;
    double tol = 1e-6;            // on the L1 marginal error, total mass 1
    double ftol = 1e-10;          // on the rise of the dual over `window` iterations / range of the cost
    index max_iterations = 5000;  // L-BFGS iterations
    bool semidual = true;
    bool warm = false;
    int n_threads = 0;
};
struct topk_step {
    double value = 0, err = 0, alpha = 0, seconds = 0;  // dual value and L1 error before the step
};
using topk_monitor = std::function<bool(const topk_step&)>;
struct topk_report {
    aitken::status status = status::converged;
    std::string detail;
    double err = 0, value = 0, linear = 0, square = 0;  // of the returned plan
    index nit = 0, n_eval = 0;
    sparse_plan plan;  // of the transpose: row j is column j of T
    std::vector<topk_step> history;
};

// min <C, P>  s.t.  P 1 = a, P^T 1 = b, P >= 0: network simplex from a basis near (x, y).
struct exact_options {
    double slack = 0;          // pairs with C - x - y at most this are priced first
    double tolerance = 1e-13;  // of a reduced cost, relative to the largest cost or potential
    index max_pivots = 0;      // 0: 50 (n + m) + 10000, times the logarithm of the size
    int n_threads = 0;
};
struct exact_report {
    aitken::status status = status::converged;
    std::string detail;
    double value = 0, lower_bound = 0;  // <C, P>, a.x + b.y of the feasible dual point returned
    double err = 0;
    index n_pivots = 0, n_pass = 0, n_priced = 0;  // pivots, passes over the cost, pairs priced at the end
    sparse_plan plan;
};

}  // namespace aitken::ot

namespace aitken::cpu::ot {

// x, y: in (warm) a start, out the solution; -inf where a bin has no mass.
template <class T>
aitken::ot::quadratic_report solve_quadratic(const aitken::ot::problem<T>& problem,
                                             const aitken::ot::quadratic_options& options, vec<double> x,
                                             vec<double> y, interrupt& signals,
                                             const aitken::ot::quadratic_monitor& monitor);

// The solution of least norm of [diag(A1) A; A^T diag(A^T 1)] [p; q] = [w; z], A the indicator of a pattern;
// w and z have equal sums over every connected component. Returns the relative residual (max-norm).
double solve_support(const pattern_view& pattern, vec<const double> w, vec<const double> z, vec<double> p,
                     vec<double> q, interrupt& signals);

// The cost is transposed here: row j of problem.cost belongs to column j, problem.a are the weights of the
// constrained columns (rows of the cost) and problem.b of the others. x has length cost.cols, y cost.rows.
template <class T>
aitken::ot::topk_report solve_topk(const aitken::ot::problem<T>& problem,
                                   const aitken::ot::topk_options& options, vec<double> x, vec<double> y,
                                   interrupt& signals, const aitken::ot::topk_monitor& monitor);

// x, y: in potentials to start from, out a dual feasible point.
template <class T>
aitken::ot::exact_report solve_exact(const aitken::ot::problem<T>& problem,
                                     const aitken::ot::exact_options& options, vec<double> x, vec<double> y,
                                     interrupt& signals);

// out_i = min_j (C_ij - y_j) (transposed: out_j = min_i (C_ij - x_i)).
template <class T>
void hard_transform(matrix<const T> cost, bool transposed, vec<const double> potential, vec<double> out,
                    int n_threads);

}  // namespace aitken::cpu::ot
