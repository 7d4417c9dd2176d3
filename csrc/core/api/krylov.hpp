// GCRO-DR and its family (GMRES, LGMRES, GCROT): what the bindings may ask for.
//
// S is double or std::complex<double>: the type of vectors and of all arithmetic. Operators are linear maps
// on host vectors (core/linear_map.hpp), so a sparse matrix and a caller's function are solved by one driver.
#pragma once

#include <functional>
#include <vector>

#include "core/backend.hpp"
#include "core/interrupt.hpp"
#include "core/linear_map.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::krylov {

// Which operator the Krylov space is built with: A M^-1, M^-1 A, or A M_j^-1 with an M that may vary.
enum class side { right, left, flexible };
// Where the recycled vectors live: in the space of solutions, or in that of t = M x (right side alone).
enum class carry { solution, transformed };
enum class ortho { automatic, cgs2, mgs };  // automatic: a second pass where the first cancels nine tenths
enum class basis { full, single };          // how V, U, C and Z are stored
// What is kept at the end of a cycle: harmonic Ritz vectors by target, right singular vectors of the smallest
// singular values, or (GCROT) the cycle's correction, making room by dropping the oldest or the least useful.
enum class selection {
    smallest_magnitude,
    largest_magnitude,
    smallest_real,
    largest_real,
    smallest_imaginary,
    largest_imaginary,
    singular,
    truncate_oldest,
    truncate_smallest
};

struct options {
    int restart = 40;  // basis vectors of a cycle, those recycled included
    int recycle = 20;  // vectors kept from cycle to cycle and from system to system
    bool keep = true;  // the space is wanted when the solve is over; false spares its last update
    // Steps of a cycle are restart - (vectors held) for deflated restarting; with this, restart + (room
    // left).
    bool steps_beside = false;
    int outer = 0;                 // LGMRES: corrections of earlier cycles appended to each cycle
    bool outer_first = false;      // ... before the Krylov vectors instead of after them
    double rtol = 1e-5, atol = 0;  // ||b - A x||_2 <= max(rtol ||b||_2, atol)
    index max_iterations = 10000;  // products with A inside cycles
    index max_cycles = -1;         // -1: no limit
    krylov::side side = krylov::side::right;
    krylov::carry carry = krylov::carry::solution;
    krylov::selection select = krylov::selection::smallest_magnitude;
    krylov::ortho ortho = krylov::ortho::automatic;
    krylov::basis basis = krylov::basis::full;
    bool adaptive = false;   // on stagnation, once: restart doubled, recycle to at most a quarter of that
    double inner_rtol = -1;  // >= 0: end a cycle when it has reduced the residual by this
    bool watch_stagnation = true;
    int n_threads = 0;
};

// What a monitor is told: after every product with A (cycle_end false, x absent) and after every cycle.
template <class S>
struct step {
    index iteration;
    double residual;  // estimate inside a cycle (left side: of the preconditioned residual), true after it
    double target;
    bool cycle_end;
    const S* x;  // after a cycle: the iterate
};
template <class S>
using monitor = std::function<bool(const step<S>&)>;  // true: stop

struct report {
    aitken::status status = aitken::status::converged;
    index iterations = 0, cycles = 0;
    index matvecs = 0, precond_applies = 0;
    double residual = 0;  // ||b - A x||_2, recomputed
    double norm_b = 0, target = 0;
    int recycled = 0;  // vectors of the incoming space that were used
    int kept = 0;      // vectors of the outgoing space
    bool adapted = false;
    std::vector<double> history;  // residual at the start, then one estimate per iteration
    traffic counts;
};

// The vectors carried from system to system; columns of n. C = A U for the matrix it was made with.
template <class S>
struct space {
    index n = 0;
    std::vector<S> u, c;
    int vectors() const { return n > 0 ? static_cast<int>(static_cast<index>(u.size()) / n) : 0; }
    bool has_image() const { return !u.empty() && c.size() == u.size(); }
};

}  // namespace aitken::krylov

namespace aitken::cpu::krylov {

namespace api = aitken::krylov;

// Solves A x = b from the x given. `inverse` may be null (identity). `kept` comes in with the space to start
// from (its C is trusted only where `same_matrix`) and leaves with the new one; `outer` likewise holds the
// corrections of LGMRES (u) and their images (c).
template <class S>
api::report solve(linear_map<S>& matrix, linear_map<S>* inverse, vec<const S> b, vec<S> x,
                  const api::options& options, api::space<S>& kept, bool same_matrix, api::space<S>& outer,
                  interrupt& signals, const api::monitor<S>& monitor);

// Several right-hand sides (columns of B) advanced together, one product with A for all (pseudo-block).
// Each column has its own Krylov space; `kept` is used by all and leaves as the first column's.
template <class S>
std::vector<api::report> solve_columns(linear_map<S>& matrix, linear_map<S>* inverse, tall<const S> b,
                                       tall<S> x, const api::options& options, api::space<S>& kept,
                                       bool same_matrix, interrupt& signals);

// Several right-hand sides in one block Krylov space: a cycle of restart vectors serves them all. Iterations
// are products with A for the whole block; the first report counts the products that columns share. Of the
// options `outer`, `steps_beside`, `inner_rtol` and the truncating selections are refused.
template <class S>
std::vector<api::report> solve_block(linear_map<S>& matrix, linear_map<S>* inverse, tall<const S> b,
                                     tall<S> x, const api::options& options, api::space<S>& kept,
                                     bool same_matrix, interrupt& signals);

}  // namespace aitken::cpu::krylov
