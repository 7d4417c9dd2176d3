// A square linear map on blocks of host vectors: a matrix, a preconditioner, a caller's function.
#pragma once

#include <complex>
#include <stdexcept>

#include "core/views.hpp"

namespace aitken {

// S is double or std::complex<double>. An instance is used by one thread at a time (it may own scratch).
template <class S>
class linear_map {
public:
    virtual ~linear_map() = default;
    virtual index size() const = 0;

    // Y = Op X, column by column; X and Y do not overlap. Bits of a column do not depend on the others.
    virtual void apply(tall<const S> x, tall<S> y) = 0;
    // Y = Op^H X.
    virtual void apply_adjoint(tall<const S>, tall<S>) {
        throw std::logic_error("this operator has no adjoint");
    }
    // Whether apply may differ from call to call (then a solver stores what it gave: flexible variants).
    virtual bool varies() const { return false; }

    void apply(const S* x, S* y) {
        apply(tall<const S>{x, size(), 1, size()}, tall<S>{y, size(), 1, size()});
    }
};

// A map made from a sparse matrix: what depends on the pattern alone is kept when the values change.
template <class S>
class matrix_map : public linear_map<S> {
public:
    using linear_map<S>::apply;
    // New values of the same pattern, in the order of the entries given first. Throws std::invalid_argument
    // (the message names the row) where the values admit no such map; the map is then unusable until an
    // update succeeds.
    virtual void update(const S* values) = 0;
};

}  // namespace aitken
