// Sequences of systems on one sparsity pattern: what the bindings may ask for.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/api/krylov.hpp"
#include "core/api/linear_maps.hpp"
#include "core/interrupt.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::sequence {

enum class method { gcrodr, rcg, direct };
enum class preconditioner { none, jacobi, block_jacobi, ssor, ilu0, ic0, chebyshev, schwarz, ilut };

struct options {
    sequence::method method = sequence::method::gcrodr;
    sequence::preconditioner preconditioner = sequence::preconditioner::ilu0;
    krylov::options krylov;
    index block = 64;     // rows of a block of block Jacobi and Schwarz
    int project = 8;      // earlier solutions whose span the start is taken from, 0: start at 0
    bool recycle = true;  // carry the space from system to system
    bool guard = true;    // stop carrying, and projecting, where it costs more than it saves
    // What the guard takes an iteration with a carried space for, in iterations without one, and what
    // carrying costs once per system beside the products for its vectors.
    double carried_step = 1, carried_once = 0;
    double projected_step = 0.5;  // one earlier solution in the start, in iterations
    // The preconditioner is renewed for each system, or kept while the last solve took at most this many
    // times the iterations of the best one since it was made (0: always renewed).
    double keep_preconditioner = 0;
};

// Systems i = 0 .. count - 1: values at data + i * nnz (every system's own, or `one_matrix`), right-hand
// sides at b + i * n (or `one_rhs`).
template <class S>
struct systems {
    pattern_view pattern;
    const S* data = nullptr;
    const S* b = nullptr;
    bool one_matrix = false, one_rhs = false;
    index count = 0;
    const double* params = nullptr;  // count rows of n_params, for the nearest earlier solutions; may be null
    index n_params = 0;
};

struct record {
    aitken::status status = aitken::status::converged;
    index nit = 0, matvecs = 0;
    double residual = 0, norm_b = 0;
    double start = 0;  // ||b - A x0||_2
    int recycled = 0, projected = 0;
    bool carried = true;  // false: the guard had dropped the space
    double seconds = 0;
};
// Told of each system when it is done, in the order of the chain; true: stop the chain.
using monitor = std::function<bool(index system, const record&)>;

}  // namespace aitken::sequence

namespace aitken::cpu::sequence {

namespace api = aitken::sequence;

// What a sparse factorisation of a matrix with this pattern (made symmetric) would take, counted not made.
struct factor_cost {
    index entries = 0;  // of L
    double flops = 0;   // of L D L^T; L U takes twice that
};
factor_cost count_factor(const pattern_view& a);

// Solves the systems of one chain in its order. x + i * n receives the solution of system i, the
// monitor how it went. `kept` comes in as the space to start from, and leaves as the last one. Serial but for
// the threads of single operations (options.krylov.n_threads), so that several chains can run in threads of
// the caller's.
template <class S>
void run_chain(const api::systems<S>& systems, std::span<const index> chain, const api::options& options,
               S* x, aitken::krylov::space<S>& kept, interrupt& signals, const api::monitor& monitor);

// The same for systems that become known one after the other, with any operators of one size.
template <class S>
class session {
public:
    virtual ~session() = default;
    // x: the start where `start_given` (else taken from earlier solutions); receives the solution.
    virtual api::record solve(linear_map<S>& matrix, linear_map<S>* inverse, vec<const S> b, vec<S> x,
                              std::span<const double> params, bool same_matrix, bool start_given,
                              interrupt& signals, aitken::krylov::report& report) = 0;
    virtual void restart() = 0;  // the next system begins a chain
};
template <class S>
std::unique_ptr<session<S>> make_session(linear_map<S>& matrix, linear_map<S>* inverse,
                                         const api::options& options);

}  // namespace aitken::cpu::sequence
