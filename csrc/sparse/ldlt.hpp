// Sparse LDL^T of a symmetric matrix, D diagonal with entries of either sign (no pivoting: meant for definite
// and quasi-definite matrices, or any whose pivots are regularised). Left-looking over supernode panels.
//
// Three stages, each reused by the next:
//   count_only()  ordering, elimination tree, column counts: nnz_l() and flops() before any fill is stored
//   symbolic()    supernodes, row structure, memory            (analyze() = count_only() + symbolic())
//   factor()      numbers; the same pattern again allocates nothing
// An instance is used by one thread at a time; instances share no mutable state. Results depend on the
// matrix, the options and the SIMD level alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "core/interrupt.hpp"
#include "core/views.hpp"
#include "sparse/amd.hpp"
#include "sparse/panel_kernels.hpp"
#include "sparse/pattern.hpp"

namespace aitken {

enum class ordering { amd, natural, given };

struct ldlt_options {
    ordering order = ordering::amd;
    std::vector<std::int32_t> perm;  // for ordering::given: perm[k] is eliminated k-th
    amd_options amd;
    const panel_kernels* kernels = nullptr;  // null: default_panel_kernels()
};

struct factor_options {
    // A pivot d is bad when |d| <= pivot_floor, or, where signs are given, when sign * d <= pivot_floor.
    double pivot_floor = 0.0;
    // Bad pivots become sign * pivot_value (the pivot's own sign where none is given; 0 counts as +).
    // With pivot_value = 0 the first bad pivot ends the factorisation.
    double pivot_value = 0.0;
    // Null, or n entries in the caller's numbering: +1, -1, or 0 = either sign.
    const std::int8_t* signs = nullptr;
};

struct factor_result {
    bool ok = false;
    // Of the pivots as they were found, before replacement; zero: |d| <= pivot_floor. Once a pivot has been
    // replaced the later ones belong to the regularised matrix.
    index positive = 0, negative = 0, zero = 0;
    index n_regularised = 0;
    index first_bad = -1;    // first column (caller's numbering) that was regularised or ended the run
    bool nonfinite = false;  // that column's pivot was NaN or Inf
    double min_pivot = 0, max_pivot = 0;  // magnitudes in D, after replacement
};

struct refine_result {
    double residual = 0;    // max-norm of b - A x before the step
    double correction = 0;  // max-norm of the step
};

class ldlt {
public:
    // The pattern of one triangle (or of a mix: each off-diagonal pair once), rows in any order, diagonal
    // entries optional. Throws std::invalid_argument for a malformed pattern or permutation.
    void count_only(index n, const index* indptr, const std::int32_t* indices,
                    const ldlt_options& options = {});
    void symbolic();
    void analyze(index n, const index* indptr, const std::int32_t* indices,
                 const ldlt_options& options = {}) {
        count_only(n, indptr, indices, options);
        symbolic();
    }

    index n() const { return n_; }
    index nnz_l() const { return nnz_l_; }   // exact, with the unit diagonal
    double flops() const { return flops_; }  // sum over columns of m (m + 2), m = entries below the diagonal
    index nnz_stored() const { return n_values_; }  // numbers kept, with relaxed zeros and padding
    index n_panels() const { return static_cast<index>(panels_.size()); }
    const std::vector<std::int32_t>& permutation() const { return perm_; }
    const std::vector<double>& pivots() const { return d_; }  // D, in the order of permutation()

    // True when the arrays equal those analyzed (then factor() alone is enough for new values).
    bool same_pattern(index n, const index* indptr, const std::int32_t* indices) const;

    // values[p] belongs to indices[p]. Throws std::logic_error without an analysis and `interrupted` on
    // Ctrl-C (the old factor is lost then). Polls once per panel.
    factor_result factor(const double* values, const factor_options& options = {}, interrupt* stop = nullptr);

    // A x = b; x may be b. Throws std::logic_error unless the last factor() was ok.
    void solve(const double* b, double* x);
    // n_rhs column vectors, vector k at b + k * ldb; 8 at a time share one pass over L.
    void solve(const double* b, index ldb, double* x, index ldx, index n_rhs);

    // One step of iterative refinement, x += A^-1 (b - A x), with the caller's values of A (not those that
    // were regularised). Repeat while the residual falls.
    refine_result refine(const double* values, const double* b, double* x);

private:
    struct panel {
        std::int32_t first, width, n_rows, ld;  // columns first .. first + width; rows start with these
        index rows;                             // into row_list_
        index values;                           // into values_
    };

    struct aligned_buffer {  // 64-byte aligned, contents undefined
        aligned_buffer() = default;
        aligned_buffer(const aligned_buffer&) = delete;
        aligned_buffer& operator=(const aligned_buffer&) = delete;
        ~aligned_buffer() { release(); }
        void reserve(std::size_t count);
        void release();
        double* data = nullptr;
        std::size_t capacity = 0;
    };

    void eliminate_tree(const std::vector<std::int32_t>& inverse, std::vector<std::int32_t>& parent) const;
    void count_columns(const std::vector<std::int32_t>& inverse);
    void merge_supernodes(std::vector<std::int32_t>& size, std::vector<std::int32_t>& below,
                          std::vector<std::int32_t>& super_parent);
    void place_entries(const std::vector<std::int32_t>& inverse);
    void load_panel(const panel& j, index id, const double* values);
    void apply(const panel& source, std::int32_t position, const panel& target);
    void append_to_batch(const panel& source, std::int32_t position, std::int32_t m, std::int32_t nc,
                         bool contiguous, const panel& target);
    void flush(const panel& target);
    bool factor_panel(const panel& j, const factor_options& options, factor_result& result);
    bool factor_block(double* c, index ld, int n, index column, const factor_options& options,
                      factor_result& result);
    void solve_panels(double* x);
    void solve_panels8(double* x);

    index n_ = 0, nnz_l_ = 0, n_values_ = 0;
    double flops_ = 0;
    bool counted_ = false, analyzed_ = false, factored_ = false;
    const panel_kernels* kernels_ = nullptr;

    std::vector<index> indptr_;  // the caller's pattern
    std::vector<std::int32_t> indices_;
    sparse_pattern graph_;
    std::vector<std::int32_t> perm_, parent_, counts_;

    std::vector<panel> panels_;
    std::vector<std::int32_t> row_list_, panel_of_;  // panel_of_[column]
    std::vector<index> entry_ptr_, entry_source_;    // per panel: value p goes to entry_target_ in the panel
    std::vector<index> entry_target_;
    aligned_buffer values_;
    std::vector<double> d_, inverse_d_;

    std::vector<std::int32_t> head_, link_, position_, local_, relative_;
    std::vector<index> tile_offset_;
    aligned_buffer batch_a_, batch_b_, product_, small_b_, work_, rhs_;
    index batch_ = 0, tile_stride_ = 0, block_stride_ = 0;
    std::int32_t max_rows_ = 0;
};

}  // namespace aitken
