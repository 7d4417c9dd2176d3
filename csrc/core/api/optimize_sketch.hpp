// Sketch-and-project on symmetric systems K z = b, and CountSketch of tall matrices: what bindings may ask
// for. Double precision; randomness is Philox at (seed, step), so a solve may be continued where it stopped.
//
// One step with a sketch S projects the iterate onto the solutions of S' K z = S' b:
//   z -= W (W'W)^-1 S' (K z - b),  W = K S.
#pragma once

#include <cstdint>
#include <string>

#include "core/backend.hpp"
#include "core/interrupt.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::optimize_sketch {

// A rectangular matrix, dense by rows or compressed rows (then `dense.data` is null).
struct any_matrix {
    matrix<const double> dense;
    pattern_view a;
    const double* values = nullptr;

    bool is_dense() const { return values == nullptr; }
    index rows() const { return is_dense() ? dense.rows : a.rows; }
    index cols() const { return is_dense() ? dense.cols : a.cols; }
    index nnz() const { return is_dense() ? dense.rows * dense.cols : a.nnz(); }
};

enum class method {
    gaussian,        // one column, N(0, 1)
    kaczmarz,        // one row, uniform over those that are not zero
    block_gaussian,  // `block` columns, N(0, 1)
    countsketch,     // `block` columns, one sign in each row
    block_kaczmarz   // `block` rows of the system mixed by a Hadamard transform; factors kept, momentum
};

struct options {
    optimize_sketch::method method = method::gaussian;
    double rtol = 1e-6;  // ||K z - b||_2 <= rtol ||b||_2, recomputed
    index max_steps = 100000;
    double max_flops = 0;  // 0: no limit
    index block = 1;       // columns of S or rows of a block; at most N
    std::uint64_t seed = 0;
    std::uint64_t first_step = 0;  // number of the first step, where an earlier solve is continued
    int n_threads = 0;
};

struct report {
    aitken::status status = aitken::status::converged;
    std::string detail;  // one clause on what ended it, empty when converged
    index steps = 0;
    index blocks = 0;  // block_kaczmarz: how many were factored
    double flops = 0;  // of products, Gram matrices, factors and mixing; numbers drawn are not counted
    double residual = 0, norm_b = 0;  // ||K z - b||_2 recomputed, ||b||_2
    traffic counts;
};

}  // namespace aitken::optimize_sketch

namespace aitken::cpu::optimize_sketch {

namespace api = aitken::optimize_sketch;

// From the z given; the answer stands in its place, the start where NaN or Inf came up. K is taken to be
// symmetric. CSR: as inspect_csr() passes it, no entry twice.
api::report project(const api::any_matrix& k, vec<const double> b, vec<double> z, const api::options&,
                    interrupt&);

// out (k rows, cols of w) = S w, where row i of w goes with a random sign to a random row of out; one pass
// over w. Bits do not depend on the thread count.
void count_sketch(const api::any_matrix& w, std::uint64_t seed, std::uint64_t draw, matrix<double> out,
                  int n_threads);

// S itself: row of `out` and sign of each of `rows` rows.
void count_sketch_map(index rows, index k, std::uint64_t seed, std::uint64_t draw, std::int32_t* bucket,
                      double* sign);

}  // namespace aitken::cpu::optimize_sketch
