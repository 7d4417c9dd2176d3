// Many transport problems that share one kernel, and the barycentres over it: the plain C++ surface that
// bindings call. With K = exp(-C / reg) no iteration needs an exponential of size n m:
//
//   P = diag(u) K diag(v),   v = b / (K^T u),   u <- a / (K v) accelerated.
//
// A cost is a sum over axes: C_ij = sum_k C_k[i_k, j_k], and K then the product of small matrices, one axis
// after the other. One axis is any matrix.
#pragma once

#include <cstdint>
#include <vector>

#include "core/interrupt.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::ot {

struct scaling_options {
    double reg = 0;
    double tol = 1e-9;            // on ||P1 - a||_1 + ||P^T 1 - b||_1, mass 1
    index max_iterations = 1000;  // before a problem is handed to the general solver, or given up
    bool hand_over = true;        // dense costs: solve what is left by cpu::ot::solve
    int n_threads = 0;
};

// Problem k is between rows first[k] of a and second[k] of b: non-negative rows of mass 1. A negative number
// in first[k]: the problem is not one, and gets status bad_input and NaN.
struct scaling_pairs {
    matrix<const double> a, b;
    vec<const std::int64_t> first, second;
};

// By problem; x and y, the scalings' logarithms (-1e9 where there is no mass), only where they have data.
struct scaling_results {
    vec<double> value;   // <C, P> + reg KL(P | a b^T), by duality
    vec<double> linear;  // <C, P>
    vec<double> err;     // of the returned scalings; the columns are exact
    vec<std::int64_t> nit;
    vec<std::int32_t> status;
    matrix<double> x, y;
};

struct scaling_counts {
    std::int64_t handed_over = 0;  // problems that the general solver took
    std::int64_t products = 0;     // panels of 16 problems multiplied by K or its transpose
};

struct barycenter_report {
    aitken::status status = status::converged;
    double err = 0;  // sum_s w_s ||P_s 1 - p||_1; the other marginals are exact
    index nit = 0;
};

struct grid_report {
    aitken::status status = status::converged;
    double err = 0, value = 0, linear = 0;
    index nit = 0;
    bool logarithms = false;  // solved in the log domain
};

}  // namespace aitken::ot

namespace aitken::cpu::ot {

aitken::ot::scaling_counts solve_pairs(const std::vector<matrix<const double>>& axes,
                                       const aitken::ot::scaling_pairs& pairs,
                                       const aitken::ot::scaling_options& options,
                                       const aitken::ot::scaling_results& results, interrupt& signals);

// One problem on a grid; a, b, x and y run over it, the last axis fastest. Costs are square and symmetric.
aitken::ot::grid_report solve_grid(const std::vector<matrix<const double>>& axes, vec<const double> a,
                                   vec<const double> b, const aitken::ot::scaling_options& options,
                                   vec<double> x, vec<double> y, interrupt& signals);

// out = log (K exp(t)) over a grid, by log-sum-exp along one axis after the other.
void grid_log_sum_exp(const std::vector<matrix<const double>>& axes, double reg, vec<const double> t,
                      vec<double> out, int n_threads);

// p minimises sum_s weights_s OT_reg(a_s, p), rows a_s. x: logarithms of the scalings on p's side, a row per
// measure; start and solution.
aitken::ot::barycenter_report barycenter(matrix<const double> cost, matrix<const double> a,
                                         vec<const double> weights,
                                         const aitken::ot::scaling_options& options, matrix<double> x,
                                         vec<double> p, interrupt& signals);

}  // namespace aitken::cpu::ot
