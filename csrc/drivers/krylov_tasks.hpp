// What the Krylov drivers ask of a kernel set: lists of tasks, one or two per system under way.
#pragma once

#include <concepts>
#include <span>

#include "core/api/krylov.hpp"
#include "core/views.hpp"

namespace aitken::drivers::krylov {

namespace api = aitken::krylov;

// One kernel call works on a list of tasks, one or two per lane. Pointers are into the backend's memory
// except where "host" is said; what is written to the host is there when the call returns (one read).

template <class S>
struct apply_task {  // y = Op x with the lane's operator
    int lane;
    vec<const S> x;
    vec<S> y;
};
template <class B>
struct apply_columns_task {
    int lane;
    tall<const B> x;
    tall<B> y;
};
template <class S>
struct residual_task {  // r = b - A x; host: ||r||
    int lane;
    vec<const S> b, x;
    vec<S> r;
    double* norm;
};
// One Arnoldi step: w -= [C V][C V]^H w, appended normalised to V and left so in w. The column receives the
// coefficients (c.cols, then v.cols of them), then ||w|| afterwards and before; 0 is appended where the
// first is at most 1e-14 of the second. 4 n (c.cols + v.cols) flops, two reads of the basis per pass.
template <class S, class B>
struct expand_task {
    tall<const B> c;
    tall<B> v;  // the columns there are; the next one follows them in memory
    vec<S> w;
    S* column;
};
template <class S, class B>
struct combine_task {  // y = X c, or y += X c
    tall<const B> x;
    const S* c;  // host
    vec<S> y;
    bool accumulate;
};
template <class S, class B>
struct project_task {  // host: h = X^H w, ||w||
    tall<const B> x;
    vec<const S> w;
    S* h;
    double* norm;
};
template <class S, class B>
struct gram_task {  // host: out[i + j * ld] = x_i^H y_j
    tall<const B> x, y;
    S* out;
    index ld;
};
template <class S, class B>
struct mix_task {  // Z = X P, or Z += X P
    tall<const B> x;
    const S* p;  // host
    index ld;
    tall<B> z;
    bool accumulate;
};
template <class S, class B>
struct store_task {  // to = alpha from; also: the same in full precision, where given (may be from)
    vec<const S> from;
    double alpha;
    B* to;
    vec<S> also;
};

template <class K, class S, class B>
concept KrylovKernels =
    requires(K& k, std::span<const apply_task<S>> apply, std::span<const apply_columns_task<B>> columns,
             std::span<const residual_task<S>> residuals, std::span<const expand_task<S, B>> expand,
             std::span<const combine_task<S, B>> combine, std::span<const project_task<S, B>> project,
             std::span<const gram_task<S, B>> gram, std::span<const mix_task<S, B>> mix,
             std::span<const store_task<S, B>> store, const B* from, vec<S> x, api::ortho ortho) {
        { k.has_inverse() } -> std::convertible_to<bool>;
        k.apply_matrix(apply);
        k.apply_inverse(apply);
        k.apply_matrix_columns(columns);
        k.apply_inverse_columns(columns);
        k.residual(residuals);
        k.expand(expand, ortho);
        k.combine(combine);
        k.project(project);
        k.gram(gram);
        k.mix(mix);
        k.store(store);
        k.load(from, x);            // x = the stored column
        k.add(vec<const S>(x), x);  // second += first
        k.clear(x);                 // x = 0
    };

}  // namespace aitken::drivers::krylov
