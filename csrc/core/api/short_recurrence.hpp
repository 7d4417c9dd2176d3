// Krylov methods whose memory does not grow with the iterations: CG and MINRES, both also with a recycled
// space, and BiCGSTAB. What bindings may ask for.
//
// S is double or std::complex<double>; "symmetric" below means Hermitian where S is complex.
#pragma once

#include <string>
#include <vector>

#include "core/api/krylov.hpp"
#include "core/backend.hpp"
#include "core/interrupt.hpp"
#include "core/linear_map.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::short_recurrence {

// cg: A and M symmetric positive definite. minres: A symmetric, M symmetric positive definite.
// bicgstab: any A and M, M on the right.
enum class method { cg, minres, bicgstab };

struct options {
    short_recurrence::method method = method::cg;
    bool recycle = false;          // cg or minres with the space below
    double rtol = 1e-5, atol = 0;  // ||b - A x||_2 <= max(rtol ||b||_2, atol)
    index max_iterations = 1000;
    double shift = 0;         // the system solved is (A - shift I) x = b
    int recycle_dim = 20;     // vectors of the outgoing space
    int window = 20;          // directions (CG), Lanczos vectors (MINRES) from which it is drawn at a time
    bool zero_start = false;  // the given x is zero: no product for its residual
    bool report_x = false;    // the monitor wants the iterate, not only the norm
    int n_threads = 0;        // 0: the library's default
};

struct report {
    aitken::status status = aitken::status::converged;
    std::string detail;  // one clause on what ended it, empty when converged
    index iterations = 0;
    index matvecs = 0, precond_applies = 0;  // those of the recycled space included
    double residual = 0;                     // ||b - A x||_2, recomputed
    double norm_b = 0, target = 0;
    int recycled = 0;             // vectors of the incoming space that were used
    int kept = 0;                 // vectors of the outgoing space
    std::vector<double> history;  // ||r||_2 of the recurrence: at the start, then after every iteration
    traffic counts;
};

}  // namespace aitken::short_recurrence

namespace aitken::cpu::short_recurrence {

namespace api = aitken::short_recurrence;

// Solves A x = b from the x given. `inverse` may be null (identity). With `recycle`, `kept` comes in with the
// space to start from (u; its image c = A u is trusted only where `same_matrix`) and leaves with the new one.
// The monitor is called after every iteration, as at the end of a cycle.
template <class S>
api::report solve(linear_map<S>& matrix, linear_map<S>* inverse, vec<const S> b, vec<S> x,
                  const api::options& options, aitken::krylov::space<S>& kept, bool same_matrix,
                  interrupt& signals, const aitken::krylov::monitor<S>& monitor);

}  // namespace aitken::cpu::short_recurrence
