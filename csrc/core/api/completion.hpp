// Low-rank matrix completion by alternating minimisation: what bindings may ask for.
//
// Known entries m_ij of an n1 x n2 matrix are fitted by <u_i, v_j>, with biases by <u_i, v_j> + a_i + b_j. A
// half sweep fixes one factor and solves a least-squares problem of its own for each row of the other:
//   sum_j w_ij (m_ij - ...)^2 + lam_i (||u_i||^2 + a_i^2), lam_i = lam, or lam times the entries of the row.
// T is float or double and is what values and factors are stored in; sums over all entries are double.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/interrupt.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::completion {

enum class side { rows, columns };  // which factor: u belongs to rows, v to columns

// Entries by rows; with the roles exchanged, the same entries by columns. Indices ascend in a row, none
// twice.
template <class T>
struct observed {
    pattern_view a;
    const T* values = nullptr;
    const T* weights = nullptr;  // null: 1. An entry of weight 0 does not count.
};

// How the problem of one row is solved.
enum class inner {
    exact,    // normal equations by Cholesky
    cg,       // conjugate gradients from the row as it is
    qcg,      // preconditioned by the Gram matrix of the whole fixed factor, for lack of the row's own
    sketch,   // preconditioned by the Gram matrix of a CountSketch of the row's equations
    lowprec,  // preconditioned by the Gram matrix in single precision; for double alone
};

// What stands for the square of a residual r; majorised by squares once a half sweep, at the row as it is.
enum class loss {
    linear,  // r^2
    huber,   // r^2 up to delta, then 2 delta |r| - delta^2
    l1       // |r|, rounded off below delta
};

struct half_options {
    double lam = 0;
    bool lam_by_degree = false;
    bool bias = false;        // solve for a_i together with u_i
    bool nonneg = false;      // u_i >= 0, by coordinate descent; inner is then not looked at
    bool background = false;  // unseen entries count too: target 0, weight 1; no biases then
    loss kind = loss::linear;
    double delta = 0;
    inner solver = inner::exact;
    int inner_maxiter = 3;
    double inner_tol = 0.03;  // on ||gradient|| of a row, relative to that at the row as it is
    int sketch_factor = 4;    // rows of a sketch per unknown
    std::uint64_t seed = 0;
    std::uint32_t sweep = 0;  // tells sketches of one seed apart
    index first_row = 0;      // number of the first row, where rows are a block of more: for sketches
};

struct half_report {
    double squared_error = 0;  // sum w (m - fit)^2 (by `kind`: of the loss) behind it, recomputed
    index inner_iterations = 0;
    index retries = 0;  // rows whose matrix needed a larger ridge
};

// Which columns of a row-major factor hold what: rank columns, n rows. Biases are empty where there are none.
template <class T>
struct factors {
    matrix<T> u, v;
    vec<T> a, b;
};

template <class T>
struct problem {
    observed<T> rows, columns;  // the same entries twice
    observed<T> holdout;        // by rows; none where holdout.a.rows = 0
};

enum class start {
    given,     // the factors as they are
    random,    // N(0, 1 / rank)
    spectral,  // leading singular vectors of the entries, unseen ones taken for 0
    increment  // rank 1, 2, ...: the leading singular pair of the residual joins the factors
};

struct options {
    half_options half;
    start begin = start::given;
    bool by_degree = false;  // spectral starts of entries scaled by the degrees of their row and column
    bool clip = true;        // rows of a spectral start that are much longer than others are shortened
    int per_rank = 8;        // sweeps at each rank of start::increment but the last
    int from_rank = 0;       // columns that start::increment finds in the factors
    index max_sweeps = 100;
    std::vector<double> lam_path;  // lam of the first sweeps
    double tol = 1e-6;             // on the relative change of the training RMSE, twice in a row
    double atol = 0;               // on the training RMSE
    bool finalize = true;          // an exact sweep at the end
    index patience = 3;            // sweeps without a better holdout RMSE
    bool auto_delta = true;        // delta from the median residual, at each sweep
    double constant = 0;           // what the training error has beside the sum over entries
    double weight = 0;             // that the training error is the mean over; 0: of the entries
    bool balance = false;          // keep the fixed factor's columns orthonormal: where nothing is penalised
    int n_threads = 0;
};

enum class ending { tolerance, floor, holdout, sweeps, callback, nonfinite };

struct report {
    aitken::status status = aitken::status::converged;
    ending why = ending::tolerance;
    index sweeps = 0;
    index rank = 0;  // columns in use: fewer than asked for where the factors lost rank
    index retries = 0;
    double rmse_train = 0, rmse_holdout = 0;  // recomputed; weighted
    double loss = 0;                          // the objective without its penalty, recomputed
    double delta = 0;
    std::vector<double> history_train, history_holdout, history_lam, history_seconds;
    std::vector<index> history_inner, history_rank;
    traffic counts;
};

struct step {
    index sweep;
    index rank;
    double lam, rmse_train, rmse_holdout;  // NaN without a holdout
};
using monitor = std::function<bool(const step&)>;  // true: stop

// Entries in coordinate form put into rows, columns ascending.
struct sorted_entries {
    std::vector<index> indptr;
    std::vector<std::int32_t> indices;
    std::vector<index> source;  // which of the given entries each is
    index duplicates = 0;       // entries whose place an earlier one has; all are kept
};

}  // namespace aitken::completion

namespace aitken::cpu::completion {

namespace api = aitken::completion;

// Each from the factors given; the result stands in their place, columns from report.rank on being 0.
template <class T>
api::report complete(const api::problem<T>&, const api::options&, const api::factors<T>&, interrupt&,
                     const api::monitor&);

// One half sweep over a block of rows: x (and its biases) from the fixed factor. Pure: nothing is kept.
template <class T>
api::half_report half_sweep(const api::observed<T>& rows, matrix<const T> fixed, vec<const T> fixed_bias,
                            matrix<T> x, vec<T> x_bias, const api::half_options&, int n_threads, interrupt&);

// sum w (m - fit)^2 over a block of rows.
template <class T>
double squared_error(const api::observed<T>& rows, const api::factors<const T>&, int n_threads);

// out[p] = fit at (rows[p], cols[p]); indices in range.
template <class T>
void predict(const api::factors<const T>&, const std::int32_t* rows, const std::int32_t* cols, vec<T> out,
             int n_threads);

// Throws std::invalid_argument where an index is out of range, naming its position.
api::sorted_entries sort_entries(index n_rows, index n_cols, vec<const std::int64_t> rows,
                                 vec<const std::int64_t> cols);

}  // namespace aitken::cpu::completion
