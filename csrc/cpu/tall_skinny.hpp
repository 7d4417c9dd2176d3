// Products with tall matrices (n rows, at most some hundred columns): what Krylov methods spend their time
// on.
//
// B is how the tall matrix is stored: double, float, or complex of either; S, double or complex<double>, is
// what is computed with. Rows are cut into chunks by n alone and partial sums added in chunk order, so bits
// do not depend on the thread count. Conjugation is on the left argument: project and gram give X^H Y.
#pragma once

#include <complex>

#include "core/views.hpp"

namespace aitken::cpu {

// h[0 .. c.cols) = C^H w, then V^H w; returns ||w||^2. One read of C, V and w.
template <class B, class S>
double project(tall<const B> c, tall<const B> v, vec<const S> w, S* h);

// w -= C h[0 .. c.cols) + V h[c.cols ..); returns the new ||w||^2. One read of C, V; one read and write of w.
template <class B, class S>
double deflate(tall<const B> c, tall<const B> v, const S* h, vec<S> w);

// y += alpha X c.
template <class B, class S>
void combine(tall<const B> x, const S* c, S alpha, vec<S> y);

// out[i + j * ldo] = x_i^H y_j. 2 n x.cols y.cols flops (complex: four times that).
template <class B, class S>
void gram(tall<const B> x, tall<const B> y, S* out, index ldo);

// Z = X P, or Z += X P: P is x.cols by z.cols, column-major. Z overlaps no part of X.
template <class B, class S>
void mix(tall<const B> x, const S* p, index ldp, tall<B> z, bool accumulate);

// to = alpha * from, converted.
template <class From, class To, class S>
void scale_copy(vec<const From> from, S alpha, vec<To> to);

// Norms of the columns.
template <class B>
void column_norms(tall<const B> x, double* norms);

}  // namespace aitken::cpu
