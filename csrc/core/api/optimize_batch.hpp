// Many small constrained problems at once: the steps of sketched_newton_batch that no user function is part
// of.
//
// Each problem: min f(x), lower <= c(x) <= upper, xl <= x <= xu, with n variables and m rows. What is known
// of a problem between calls is a record of numbers and one of tags; the caller owns both and looks at them
// through batch_layout only. A round of the caller is: batch_points, the user's functions there, batch_judge,
// then batch_direct for those that ask for it. A problem never sees another, nor its place among them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/interrupt.hpp"
#include "core/views.hpp"

namespace aitken::optimize {

// What a problem waits for; batch_judge and batch_direct say it.
enum class wanted : std::uint8_t {
    trial = 0,    // f, c, g, J at its next point
    solve = 1,    // batch_direct without a Hessian
    hessian = 2,  // batch_direct with one
    nothing = 3   // it has ended
};

// What judges steps first: the exact augmented Lagrangian or the filter. automatic: the former, but for
// problems with log barriers the latter.
enum class globalization { automatic, merit, filter };

struct batch_options {
    double tol = 1e-6, constr_tol = 1e-6;  // batch_judge: on kkt and constr_violation of the problem unscaled
    double eta1 = 1, eta2 = 0.1, nu = 1.5, beta = 0.1, xi = 0.1, mu = 0.1;
    int maxiter = 200;
    bool given_multipliers = false;  // lam of the record is the start
    globalization judge = globalization::automatic;
    int n_threads = 0;
};

// Where the answer is in a record of numbers (offset) and of tags.
struct batch_layout {
    int n = 0, m = 0;
    index numbers = 0, tags = 0;  // sizes of the records
    index x = 0, lam = 0, z_lo = 0, z_up = 0;
    index fun = 0, kkt = 0, violation = 0, eta1 = 0, eta2 = 0;  // numbers
    index status = 0, nit = 0, nfev = 0, nhev = 0, fallbacks = 0,
          restarts = 0;  // tags; status < 0: under way
};
batch_layout layout_of(int n, int m);

// Bounds are one row per problem, or one for all where the stride is 0.
struct batch_problems {
    index count = 0;
    int n = 0, m = 0;
    const double *xl = nullptr, *xu = nullptr, *lower = nullptr, *upper = nullptr;
    index x_stride = 0, c_stride = 0;
    double* numbers = nullptr;
    std::int32_t* tags = nullptr;
};

// What the user's functions gave for some problems, a row each; problem[k] is the problem of row k. jacobian
// and c are not looked at where m = 0.
struct batch_values {
    index count = 0;
    const std::int32_t* problem = nullptr;
    const double *f = nullptr, *gradient = nullptr, *c = nullptr, *jacobian = nullptr;
};

// Systems K z = b of n + m unknowns, count of them, dense: h (n x n), j (m x n), and
//   K = [[h + diag(d) + t I, j'], [j, -diag(e)]],  b = (-rx, -rc - e' rs)
// with e = regular + e', e' = 1 / (sigma + t) for sigma >= 0 and 0 for sigma = -1. A d_j < 0 or a sigma = -2
// takes the unknown out: its answer is 0. t >= 0 and regular are the first of the rule in
// dense/batched_ldlt.hpp with which K has n positive and m negative eigenvalues; shift: the last t of each on
// entry, t on return.
struct kkt_systems {
    index count = 0;
    int n = 0, m = 0;
    const double *h = nullptr, *d = nullptr, *j = nullptr, *sigma = nullptr;
    const double *rx = nullptr, *rc = nullptr, *rs = nullptr;
    double *dx = nullptr, *dlam = nullptr, *shift = nullptr, *regular = nullptr;
    std::int32_t* attempts = nullptr;  // factorisations; negative where no t did
};

}  // namespace aitken::optimize

namespace aitken::cpu::optimize {

namespace api = aitken::optimize;

// Records from starts (count x n); lam (count x m) may be null.
void batch_begin(const api::batch_problems&, const double* starts, const double* lam,
                 const api::batch_options&);

// out: the next point of each problem listed, a row each.
void batch_points(const api::batch_problems&, const std::int32_t* problem, index count, double* out);

// The points where Hessians of f + sum v_i c_i are due, and v: a row for each problem listed.
void batch_hessian_points(const api::batch_problems&, const std::int32_t* problem, index count, double* x,
                          double* v);

// Takes the values at the points into the records: next[k] is what the problem of row k waits for.
void batch_judge(const api::batch_problems&, const api::batch_values&, const api::batch_options&,
                 std::uint8_t* next, interrupt&);

// Solves for the problems in rows rows[0 .. count) of the values: hessian (count x n x n), or null for those
// that wait for a solve without. next is as for batch_judge, by row of the values.
void batch_direct(const api::batch_problems&, const api::batch_values&, const std::int32_t* rows, index count,
                  const double* hessian, const api::batch_options&, std::uint8_t* next, interrupt&);

// Ends every problem: those that have not ended get the status given, multipliers become those of the problem
// unscaled, and the certificates of the problems in the values, which are at their x, are taken anew.
void batch_conclude(const api::batch_problems&, const api::batch_values&, const api::batch_options&,
                    int status_of_others);

void solve_kkt(const api::kkt_systems&, double xi, int n_threads);

// L D L' of count symmetric n x n matrices (lower triangles by rows), each with diagonal pivoting, in place
// of rhs (count x n): the solutions. inertia (count x 3): positive, negative and zero pivots.
void solve_symmetric(index count, int n, const double* a, double* rhs, std::int32_t* inertia, int n_threads);

}  // namespace aitken::cpu::optimize
