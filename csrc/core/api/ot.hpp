// Entropic optimal transport: the plain C++ surface that bindings call. Every backend defines the
// functions of `namespace <backend>::ot` below for float and double costs.
//
//   min_P <C, P> + eps sum_ij P_ij log P_ij   s.t.  P 1 = a,  P^T 1 = b,
//   P_ij = exp((x_i + y_j - C_ij) / eps).
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::ot {

enum class method { automatic, newton, sns, sinkhorn };
enum class linear_solver { automatic, jacobi, hybrid, direct };
enum class sparsify { mass, topk, ssns };

struct options {
    double reg = 0;     // eps, in the units of the cost
    double tol = 1e-9;  // on ||P1 - a||_1 + ||P^T 1 - b||_1, total mass 1
    // Finite: the marginal may differ from the weights at the price rho KL(P1 | a), P^T 1 and b alike.
    // Weights then have any mass, and tol bounds ||P1 - h_a||_1 + ||P^T 1 - h_b||_1 for plans of mass 1, with
    // h_a = a exp(-f / rho_a) the marginal that the potential f asks for.
    double rho_a = std::numeric_limits<double>::infinity();
    double rho_b = std::numeric_limits<double>::infinity();
    ot::method method = method::automatic;
    ot::linear_solver linear_solver = linear_solver::automatic;
    ot::sparsify sparsify = sparsify::mass;
    index max_iterations = 10000;  // Sinkhorn iterations plus Newton steps
    bool warm = false;             // x and y hold potentials to start from
    bool symmetric = false;        // the cost is, a = b, and potentials to start from are equal
    bool eps_scaling = true;
    double stage_factor = 0.25;  // eps of a stage / eps of the one before
    double stage_start = 0.05;   // first eps / range of the cost
    int stage_warmup = 3;        // Sinkhorn iterations that open a stage
    double stage_tol = 1e-2;     // L1 error that ends every stage but the last
    double gate = 3.0;           // Newton only where every |log(r_i / a_i)| is below this
    double theta = 1e-2;         // mass rule: at most this share of a row or column is dropped
    double per_row = 2.0;        // preconditioner: at most per_row (n + m) plan entries
    int jacobi_budget = 60;      // CG iterations after which "auto" builds the sparse preconditioner
    int cg_max = 400;
    // Sinkhorn iterations before Newton where eps is not scaled. method = sns, as published: then the
    // ceil(density n m) largest plan entries.
    int warmup = 20;
    double density = 0;
    double ssns_nu = 0.01;  // sparsify = ssns: mass dropped per row and column / L1 error
    double ssns_mu = 1e-3;  // ... and the shift, relative to the diagonal / L1 error
    bool record = true;     // keep a history of the steps
    int n_threads = 0;      // 0: the library's default
};

enum class step_kind { sinkhorn, newton };

// One line of the history.
struct step {
    step_kind kind = step_kind::sinkhorn;
    double eps = 0;      // regularisation of the stage
    double err = 0;      // L1 marginal error before the step
    int cg = 0;          // CG iterations of the step
    double alpha = 1;    // accepted step length
    index kept = 0;      // entries in the sparse plan (0: none was built)
    double seconds = 0;  // since the start
};

struct report {
    aitken::status status = status::converged;
    std::string detail;  // one clause on what ended it, empty when converged
    double err = 0;      // certificate, recomputed from the returned potentials
    double linear = 0;   // <C, P>
    double mass = 0;     // sum P
    double gauge = 0;    // unbalanced: f = x + gauge - eps log a, g = y - gauge - eps log b
    index nit_sinkhorn = 0, nit_newton = 0, nit_cg = 0, n_exp = 0, n_factor = 0, n_trials = 0;
    index kept = 0, fill = 0;  // last sparse plan and its factor
    ot::method used = method::automatic;
    ot::linear_solver used_solver = linear_solver::jacobi;
    std::vector<step> history;
    traffic counts;
};

// Arrays live where the backend computes. The cost may hold +inf (forbidden pairs); weights are
// non-negative with sum 1 each (unbalanced: any). plan: storage for n x m entries (also the solver's
// workspace), or null: then nothing of that size is kept and the kernel is recomputed tile by tile.
template <class T>
struct problem {
    matrix<const T> cost;
    vec<const double> a, b;
    double range = 0;  // largest minus smallest finite cost
    matrix<T> plan;
};

enum class metric { sqeuclidean, euclidean, cityblock };

// Costs between two clouds, rows of x and of y, never stored: C_ij = metric(x_i, y_j).
struct point_cost {
    ot::metric metric = metric::sqeuclidean;
    matrix<const double> x, y;
};

// The same problem over such a cost. `ordered`: both clouds follow a space-filling curve, so that far blocks
// may be passed over.
struct point_problem {
    point_cost cost;
    vec<const double> a, b;
    double range = 0;  // a bound will do
    matrix<double> plan;
    bool ordered = false;
};

// Called before every step with the current line of the history; true: stop here.
using monitor = std::function<bool(const step&)>;

// Weighted linear system of the implicit derivative:  H [p; q] = [w; z],  H = [diag(r) P; P^T diag(c)],
// in the gauge sum p = sum q. Unbalanced: diag((1 + eps / rho_a) r), c alike, and no gauge; the plan of x, y
// should have mass near 1.
struct adjoint_report {
    aitken::status status = status::converged;
    double residual = 0;  // of the Schur complement system in p, relative, 2-norm
    index nit_cg = 0;
};

// What a pass over the cost tells before a solve.
struct cost_facts {
    double smallest = 0, largest = 0;                                       // over finite entries
    bool has_nan = false, has_negative_inf = false, has_forbidden = false;  // forbidden: +inf
    index empty_row = -1, empty_col = -1;  // first row / column with no finite entry, or -1
};

// Sparse plan: the entries above drop * min(a_i / m, b_j / n), rows in CSR form.
struct sparse_plan {
    std::vector<index> indptr;
    std::vector<int> indices;
    std::vector<double> values;
};

}  // namespace aitken::ot

namespace aitken::cpu::ot {

template <class T>
aitken::ot::report solve(const aitken::ot::problem<T>& problem, const aitken::ot::options& options,
                         vec<double> x, vec<double> y, interrupt& signals,
                         const aitken::ot::monitor& monitor);

template <class T>
aitken::ot::adjoint_report adjoint(const aitken::ot::problem<T>& problem, const aitken::ot::options& options,
                                   vec<const double> x, vec<const double> y, vec<const double> w,
                                   vec<const double> z, vec<double> p, vec<double> q, interrupt& signals);

// out = P v (transposed: P^T v) with P recomputed row by row; O(n + m) memory.
template <class T>
void plan_times(matrix<const T> cost, double reg, vec<const double> x, vec<const double> y, bool transposed,
                vec<const double> v, vec<double> out, int n_threads);

// Rows first .. first + out.rows of P.
template <class T>
void plan_rows(matrix<const T> cost, double reg, vec<const double> x, vec<const double> y, index first,
               matrix<T> out, int n_threads);

// f_i = -eps log sum_j exp((y_j - C_ij) / eps) (transposed: g_j from x): the c-transform that
// extends potentials to bins without mass.
template <class T>
void c_transform(matrix<const T> cost, double reg, bool transposed, vec<const double> potential,
                 vec<double> out, int n_threads);

template <class T>
aitken::ot::sparse_plan compress(matrix<const T> cost, double reg, vec<const double> x, vec<const double> y,
                                 vec<const double> a, vec<const double> b, double drop, int n_threads);

template <class T>
aitken::ot::cost_facts inspect(matrix<const T> cost, int n_threads);

// Of points. solve and adjoint order them along a curve themselves; x and y are in the caller's order.
aitken::ot::report solve(const aitken::ot::point_problem& problem, const aitken::ot::options& options,
                         vec<double> x, vec<double> y, interrupt& signals,
                         const aitken::ot::monitor& monitor);
aitken::ot::adjoint_report adjoint(const aitken::ot::point_problem& problem,
                                   const aitken::ot::options& options, vec<const double> x,
                                   vec<const double> y, vec<const double> w, vec<const double> z,
                                   vec<double> p, vec<double> q, interrupt& signals);

// Row c of out = P times row c of v; for P^T exchange the clouds and x with y, here and below.
void plan_times(const aitken::ot::point_cost& cost, double reg, vec<const double> x, vec<const double> y,
                matrix<const double> v, matrix<double> out, interrupt& signals, int n_threads);
template <class T>
void plan_rows(const aitken::ot::point_cost& cost, double reg, vec<const double> x, vec<const double> y,
               index first, matrix<T> out, int n_threads);
// f from y, as above.
void c_transform(const aitken::ot::point_cost& cost, double reg, vec<const double> potential, vec<double> out,
                 interrupt& signals, int n_threads);
// Row i of out = sum_j P_ij dC_ij / dx_i, a derivative that does not exist counted as 0.
void plan_pull(const aitken::ot::point_cost& cost, double reg, vec<const double> x, vec<const double> y,
               matrix<double> out, interrupt& signals, int n_threads);
aitken::ot::sparse_plan compress(const aitken::ot::point_cost& cost, double reg, vec<const double> x,
                                 vec<const double> y, vec<const double> a, vec<const double> b, double drop,
                                 interrupt& signals, int n_threads);

}  // namespace aitken::cpu::ot
