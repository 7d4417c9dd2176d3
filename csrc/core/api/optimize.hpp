// Symmetric indefinite systems of constrained minimisation, K = [[H, J'], [J, -E]]: factor, inertia, solve.
//
// Rows and columns are brought to a common scale before a matrix is factored, so a pivot is compared with 1.
#pragma once

#include <cstdint>
#include <memory>

#include "core/interrupt.hpp"
#include "core/views.hpp"

namespace aitken::optimize {

struct inertia {
    index positive = 0, negative = 0;
    index zero = 0;      // pivots too small for a sign
    bool finite = true;  // false: NaN or Inf was met, nothing can be solved
};

struct solution {
    double residual = 0;  // ||b - K x||_inf / ||b||_inf with K as it was given
    int steps = 0;        // of iterative refinement
};

// One matrix at a time, used by one thread at a time.
class factorization {
public:
    virtual ~factorization() = default;
    virtual index size() const = 0;
    virtual double flops() const = 0;  // of one factor()
    virtual index nnz() const = 0;     // of the factor

    // `values`: rows * cols numbers of a symmetric dense matrix, or those of the sparse pattern; kept for
    // refinement. A sparse factorisation cannot exchange rows: it adds `shift` to the first n_primal scaled
    // diagonal entries and takes it from the others, and solve() corrects for it.
    virtual inertia factor(const double* values, index n_primal, double shift, interrupt& stop) = 0;

    // K x = b, refined while the residual falls, until it is at most rtol or after max_steps.
    virtual solution solve(const double* b, double* x, double rtol, int max_steps) = 0;
};

// Bunch-Kaufman L D L^T through LAPACK.
std::unique_ptr<factorization> make_dense(index n);

// Supernodal L D L^T, D diagonal, in a fill-reducing order that is found once. The pattern is that of the
// lower triangle by rows, each entry once. Throws std::invalid_argument for anything else.
std::unique_ptr<factorization> make_sparse(const pattern_view& lower);

}  // namespace aitken::optimize
