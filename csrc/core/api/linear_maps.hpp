// Sparse matrices and preconditioners as linear maps on host vectors.
//
// Every maker copies what it needs; matrices are square and have passed inspect_csr() without duplicates,
// rows in any order. S is double or std::complex<double>; definitions in cpu/csr_map.cpp and
// cpu/preconditioners.cpp.
//
// The preconditioners may be applied from several threads at the same time (scratch is lent per call); an
// update must be alone. After a failed update apply throws std::logic_error. All have the adjoint. Bits
// depend on the numbers and the SIMD level alone. Makers and updates throw std::invalid_argument naming the
// row where the values admit no such map.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/linear_map.hpp"
#include "core/views.hpp"

namespace aitken::cpu {

template <class S>
using map_ptr = std::shared_ptr<matrix_map<S>>;

// Compressed rows as a caller gave them; nothing is trusted. I is std::int32_t or std::int64_t.
template <class I, class S>
struct raw_csr {
    index rows = 0, cols = 0;
    const index* indptr = nullptr;
    index n_indptr = 0;  // lengths of the arrays
    const I* indices = nullptr;
    index n_indices = 0;
    const S* data = nullptr;  // null: numbers are not looked at
    index n_data = 0;
};
struct csr_facts {
    bool sorted = true;  // columns ascend strictly in every row
    bool unique = true;  // no column twice in a row
};
// One pass. Throws std::invalid_argument naming `name` and the row (or whatever `unit` calls it): lengths
// that do not fit, indptr that does not start at 0 or decreases, an index out of range, a NaN or Inf.
template <class I, class S>
csr_facts inspect_csr(const raw_csr<I, S>& a, const std::string& name, const std::string& unit);

// y = A x, with A^H.
template <class S>
map_ptr<S> make_csr(const pattern_view& a, const S* values);

// D^-1.
template <class S>
map_ptr<S> make_jacobi(const pattern_view& a, const S* values);

// Dense LU of diagonal blocks; block k holds rows starts[k] .. starts[k + 1].
template <class S>
map_ptr<S> make_block_jacobi(const pattern_view& a, const S* values, const std::vector<index>& starts);

// M = (D/w + L) (D/w)^-1 (D/w + U) w / (2 - w). set_omega costs O(1), and the next application three numbers
// per row more.
template <class S>
class ssor_map : public matrix_map<S> {
public:
    virtual void set_omega(double omega) = 0;
    virtual double omega() const = 0;
};
template <class S>
std::shared_ptr<ssor_map<S>> make_ssor(const pattern_view& a, const S* values, double omega);

// Incomplete LU on the pattern of A; modified: dropped fill is added to the diagonal.
template <class S>
map_ptr<S> make_ilu0(const pattern_view& a, const S* values, bool modified);

// Incomplete LU with a drop tolerance relative to the row's 2-norm and at most `fill` entries per row in each
// of L and U beyond those of A. The pattern of the factors changes with the values.
template <class S>
class ilut_map : public matrix_map<S> {
public:
    virtual index nnz() const = 0;  // of L + U
};
template <class S>
std::shared_ptr<ilut_map<S>> make_ilut(const pattern_view& a, const S* values, double drop, index fill);

// Incomplete Cholesky on the lower triangle of A; modified: the share of dropped fill that is taken off both
// its diagonals. A pivot that is not positive restarts the factorisation
// with a shift of 1e-3 times the diagonal, doubled each time, at most 12 times.
template <class S>
class ic_map : public matrix_map<S> {
public:
    virtual double shift() const = 0;  // what the last update needed, 0 as a rule
};
template <class S>
std::shared_ptr<ic_map<S>> make_ic0(const pattern_view& a, const S* values, double modified);

// Polynomial of the given degree in D^-1 A (Chebyshev on [lo, hi]). hi <= 0: 1.1 times what a few power steps
// from a fixed start find, or the Gershgorin bound where that is less. lo <= 0: hi / ratio.
template <class S>
class chebyshev_map : public matrix_map<S> {
public:
    virtual double lo() const = 0;
    virtual double hi() const = 0;
};
template <class S>
std::shared_ptr<chebyshev_map<S>> make_chebyshev(const pattern_view& a, const S* values, int degree,
                                                 double lo, double hi, double ratio);

// Restricted additive Schwarz: ILU(0) (or dense LU where `exact`) on overlapping subdomains, each
// contributing its own rows alone. starts as in block Jacobi; `overlap` layers of neighbours.
template <class S>
map_ptr<S> make_schwarz(const pattern_view& a, const S* values, const std::vector<index>& starts, int overlap,
                        bool exact);

// A real map on complex vectors: real and imaginary parts one after the other.
std::shared_ptr<linear_map<std::complex<double>>> make_complex(std::shared_ptr<linear_map<double>> real);

}  // namespace aitken::cpu
