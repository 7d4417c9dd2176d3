// Sparsity patterns in compressed rows. The same arrays read as compressed columns are the transpose,
// so one type serves CSR and CSC. Pointers are 64-bit, indices 32-bit (SciPy's usual pair).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/views.hpp"

namespace aitken {

struct sparse_pattern {
    index rows = 0, cols = 0;
    std::vector<index> indptr{0};
    std::vector<std::int32_t> indices;

    pattern_view view() const { return {rows, cols, indptr.data(), indices.data()}; }
    index nnz() const { return static_cast<index>(indices.size()); }
};

// Throws std::invalid_argument naming `name` and the row: sizes beyond 32 bits, indptr that does not
// start at 0 or decreases, an index out of range, an index twice in one row. Rows need not be sorted.
void check_pattern(const pattern_view& a, const std::string& name);

// The functions below expect a checked pattern. Where `source` is given it receives, for every entry of
// the result, the position in the input it came from: values follow as out[p] = in[source[p]].

// Rows of the result are sorted.
sparse_pattern transpose(const pattern_view& a, std::vector<index>* source = nullptr);

// Entries with column >= row (> row without `diagonal`), in the order of the input.
sparse_pattern upper_triangle(const pattern_view& a, bool diagonal = true,
                              std::vector<index>* source = nullptr);

// Upper triangle of P A P^T, row k being old row perm[k]; `a` holds one triangle (or a mix) of a symmetric A.
sparse_pattern permute_symmetric(const pattern_view& a, const std::vector<std::int32_t>& perm,
                                 std::vector<index>* source = nullptr);

// Both triangles without the diagonal, rows sorted: the graph of a symmetric matrix of which `a` holds one
// triangle. Throws std::invalid_argument when (i, j) and (j, i) are both there.
sparse_pattern symmetric_graph(const pattern_view& a, const std::string& name);

// inverse[perm[k]] = k; throws std::invalid_argument when `perm` is no permutation of 0..n-1.
std::vector<std::int32_t> inverse_permutation(const std::vector<std::int32_t>& perm, index n,
                                              const std::string& name);

}  // namespace aitken
