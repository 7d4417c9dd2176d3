// Vector passes of the short recurrences on the CPU. A pass is cut into chunks by its length alone; sums are
// made per chunk in eight lanes and added in chunk order, so bits do not depend on the number of threads.
// Within a chunk work goes by tiles that stay in the first cache: an update and the norm of its result are
// one pass over memory, yet two simple loops.
#pragma once

#include <algorithm>
#include <array>
#include <complex>
#include <cstddef>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/linear_map.hpp"
#include "cpu/backend.hpp"
#include "cpu/tall_skinny.hpp"
#include "cpu/threads.hpp"
#include "dense/lapack_table.hpp"
#include "dense/small.hpp"
#include "drivers/short_recurrence.hpp"

namespace aitken::cpu {

template <class S>
class short_recurrence_kernels {
    static constexpr bool complex = dense::is_complex<S>;
    static constexpr index parts = complex ? 2 : 1;
    using pair = drivers::short_recurrence::scalar_pair;

public:
    // `inverse` may be null.
    short_recurrence_kernels(backend& be, linear_map<S>& matrix, linear_map<S>* inverse, double shift)
        : be_(be), matrix_(matrix), inverse_(inverse), shift_(shift) {}

    // --- the operators ---

    bool preconditioned() const { return inverse_ != nullptr; }
    void apply(vec<const S> v, vec<S> w) { apply_block(column(v), column(w)); }
    void precondition(vec<const S> v, vec<S> w) { precondition_block(column(v), column(w)); }
    void apply_block(tall<const S> x, tall<S> y) {
        be_.launched();
        matrix_.apply(x, y);
        if (shift_ == 0) return;
        be_.launched();
        for (index j = 0; j < x.cols; ++j) {
            const double* from = real(x.col(j));
            double* to = real(y.col(j));
            sweep(x.rows, [=, this](index i, index end) { axpy(-shift_, from, to, i, end); });
        }
    }
    void precondition_block(tall<const S> x, tall<S> y) {
        be_.launched();
        inverse_->apply(x, y);
    }

    // --- conjugate gradients ---

    void dot(vec<const S> x, vec<const S> y, scalar_ref out) {
        be_.launched();
        const double *a = real(x.data), *b = real(y.data);
        put<1>(sweep<1>(x.size, [=](index i, index end, sums<1>& s) { s[0] += inner(a, b, i, end); }), out);
    }
    void residual(vec<const S> b, vec<S> r, scalar_ref norm2) {
        be_.launched();
        const double* from = real(b.data);
        double* to = real(r.data);
        put<1>(sweep<1>(r.size,
                        [=](index first, index end, sums<1>& s) {
                            for (index i = first; i < end; ++i) to[i] = from[i] - to[i];
                            s[0] += inner(to, to, first, end);
                        }),
               norm2);
    }
    void cg_residual(scalar_ref rz, scalar_ref pq, vec<const S> q, vec<S> r, scalar_ref norm2) {
        subtract(value(rz) / value(pq), q, r, norm2);
    }
    void cg_advance(scalar_ref rz, scalar_ref pq, vec<const S> p, vec<S> x) {
        be_.launched();
        const double alpha = value(rz) / value(pq), *from = real(p.data);
        double* to = real(x.data);
        sweep(x.size, [=](index i, index end) { axpy(alpha, from, to, i, end); });
    }
    void cg_direction(scalar_ref rz, scalar_ref rz_old, vec<const S> z, vec<S> p) {
        be_.launched();
        const double beta = value(rz) / value(rz_old), *from = real(z.data);
        double* to = real(p.data);
        sweep(p.size, [=](index first, index end) {
            for (index i = first; i < end; ++i) to[i] = from[i] + beta * to[i];
        });
    }
    void cg_move(scalar_ref rz_old, scalar_ref pq, scalar_ref rz, vec<const S> z, vec<S> p, vec<S> x) {
        be_.launched();
        const double alpha = value(rz_old) / value(pq), beta = value(rz) / value(rz_old),
                     *from = real(z.data);
        double *direction = real(p.data), *to = real(x.data);
        sweep(x.size, [=](index first, index end) {
            axpy(alpha, direction, to, first, end);
            for (index i = first; i < end; ++i) direction[i] = from[i] + beta * direction[i];
        });
    }

    // --- minimal residuals ---

    void scale(double factor, vec<const S> from, vec<S> to) {
        be_.launched();
        const double* a = real(from.data);
        double* b = real(to.data);
        sweep(to.size, [=](index first, index end) {
            for (index i = first; i < end; ++i) b[i] = factor * a[i];
        });
    }
    void lanczos_diagonal(double factor, vec<const S> older, vec<const S> v, vec<S> y, scalar_ref alpha) {
        be_.launched();
        const double *old = real(older.data), *a = real(v.data);
        double* to = real(y.data);
        put<1>(sweep<1>(y.size,
                        [=](index i, index end, sums<1>& s) {
                            axpy(-factor, old, to, i, end);
                            s[0] += inner(a, to, i, end);
                        }),
               alpha);
    }
    void lanczos_next(scalar_ref alpha, double inverse_beta, vec<const S> old, vec<S> y, scalar_ref norm2) {
        subtract(value(alpha) * inverse_beta, old, y, norm2);
    }
    void minres_step(double e, double d, double g, double f, vec<const S> v, vec<const S> w1, vec<const S> w2,
                     vec<S> w, vec<S> x) {
        be_.launched();
        const double *a = real(v.data), *older = real(w1.data), *old = real(w2.data);
        double *now = real(w.data), *to = real(x.data);
        sweep(x.size, [=](index first, index end) {
            for (index i = first; i < end; ++i) now[i] = (a[i] - e * older[i] - d * old[i]) * g;
            axpy(f, now, to, first, end);
        });
    }
    void minres_residual(double keep, double add, vec<const S> v, vec<S> r, scalar_ref norm2) {
        be_.launched();
        const double* from = real(v.data);
        double* to = real(r.data);
        put<1>(sweep<1>(r.size,
                        [=](index first, index end, sums<1>& s) {
                            for (index i = first; i < end; ++i) to[i] = keep * to[i] + add * from[i];
                            s[0] += inner(to, to, first, end);
                        }),
               norm2);
    }

    // --- stabilised biconjugate gradients ---

    void shadow(vec<const S> x, vec<const S> y, pair out) {
        be_.launched();
        const S *a = x.data, *b = y.data;
        put<2>(sweep<2>(x.size, [=](index i, index end, sums<2>& s) { add_inner(a, b, i, end, s.data()); }),
               out.re, out.im);
    }
    void bicg_half(pair rho, pair rv, vec<const S> r, vec<const S> v, vec<S> q, scalar_ref norm2) {
        be_.launched();
        const S alpha = value(rho) / value(rv), *from = r.data, *step = v.data;
        S* to = q.data;
        put<1>(sweep<1>(q.size,
                        [=](index first, index end, sums<1>& s) {
                            for (index i = first / parts; i < end / parts; ++i)
                                to[i] = from[i] - times(alpha, step[i]);
                            s[0] += inner(real(to), real(to), first, end);
                        }),
               norm2);
    }
    void bicg_pair(vec<const S> t, vec<const S> q, pair tq, scalar_ref tt) {
        be_.launched();
        const S *a = t.data, *b = q.data;
        put<3>(sweep<3>(t.size,
                        [=](index i, index end, sums<3>& s) {
                            add_inner(a, b, i, end, s.data());
                            s[2] += inner(real(a), real(a), i, end);
                        }),
               tq.re, tq.im, tt);
    }
    void bicg_residual(pair tq, scalar_ref tt, vec<const S> q, vec<const S> t, vec<const S> shadow, vec<S> r,
                       scalar_ref norm2, pair rho) {
        be_.launched();
        const S omega = value(tq) / value(tt), *from = q.data, *step = t.data, *tilde = shadow.data;
        S* to = r.data;
        put<3>(sweep<3>(r.size,
                        [=](index first, index end, sums<3>& s) {
                            for (index i = first / parts; i < end / parts; ++i)
                                to[i] = from[i] - times(omega, step[i]);
                            add_inner(tilde, to, first, end, s.data());
                            s[2] += inner(real(to), real(to), first, end);
                        }),
               rho.re, rho.im, norm2);
    }
    void bicg_advance(S alpha, vec<const S> p, S omega, vec<const S> q, vec<S> x) {
        be_.launched();
        const S *a = p.data, *b = q.data;
        S* to = x.data;
        sweep(x.size, [=](index first, index end) {
            if (omega == S(0)) {  // q may hold anything
                for (index i = first / parts; i < end / parts; ++i) to[i] += times(alpha, a[i]);
                return;
            }
            for (index i = first / parts; i < end / parts; ++i)
                to[i] += times(alpha, a[i]) + times(omega, b[i]);
        });
    }
    void bicg_direction(S beta, S omega, vec<const S> r, vec<const S> v, vec<S> p) {
        be_.launched();
        const S *a = r.data, *b = v.data;
        S* to = p.data;
        sweep(p.size, [=](index first, index end) {
            for (index i = first / parts; i < end / parts; ++i)
                to[i] = a[i] + times(beta, to[i] - times(omega, b[i]));
        });
    }

    // --- the recycled space ---

    void project(tall<const S> c, vec<const S> w, vec<S> h) {
        be_.launched();
        cpu::project<S, S>(c, tall<const S>{nullptr, c.rows, 0, c.rows}, w, h.data);
    }
    void combine(tall<const S> x, vec<const S> h, double alpha, vec<S> y) {
        be_.launched();
        cpu::combine<S, S>(x, h.data, S(alpha), y);
    }
    void small_step(double e, double d, double g, double f, vec<const S> h, vec<const S> w1, vec<const S> w2,
                    vec<S> w, vec<S> x) {
        minres_step(e, d, g, f, h, w1, w2, w, x);
    }
    void store(double factor, vec<const S> v, tall<S> to, index column) {
        scale(factor, v, {to.col(column), to.rows});
    }
    void gram(tall<const S> x, tall<const S> y, S* out, index ld) {
        be_.launched();
        ++be_.counts().reads;
        cpu::gram<S, S>(x, y, out, ld);
    }
    void mix(tall<const S> x, const S* p, index ld, tall<S> z, bool accumulate) {
        be_.launched();
        ++be_.counts().uploads;
        cpu::mix<S, S>(x, p, ld, z, accumulate);
    }
    // Eigenvalues of a Hermitian matrix, ascending; its orthonormal eigenvectors replace it.
    std::vector<double> eigenvectors(dense::small_matrix<S>& a) const {
        const index m = a.rows;
        std::vector<double> values(static_cast<std::size_t>(m));
        if (m == 0) return values;
        if constexpr (!complex) {
            if (dense::lapack().syevd('V', 'L', m, a.values.data(), m, values.data()) != 0)
                throw std::runtime_error("the eigenvalue iteration of a recycled space failed");
            return values;
        } else {
            std::vector<S> w(values.size());
            dense::small_matrix<S> v(a.rows, a.rows);
            if (dense::lapack().geev(m, a.values.data(), m, w.data(), v.values.data(), m) != 0)
                throw std::runtime_error("the eigenvalue iteration of a recycled space failed");
            std::vector<index> order(values.size());
            std::iota(order.begin(), order.end(), index{0});
            std::stable_sort(order.begin(), order.end(),
                             [&](index i, index j) { return w[i].real() < w[j].real(); });
            for (index j = 0; j < m; ++j) {
                values[j] = w[order[j]].real();
                S* to = a.col(static_cast<int>(j));
                std::copy_n(v.col(static_cast<int>(order[j])), m, to);
                // Vectors of a general solver are orthogonal only as far as their eigenvalues differ.
                for (int pass = 0; pass < 2; ++pass)
                    for (int k = 0; k < j; ++k) {
                        S h(0);
                        for (index i = 0; i < m; ++i) h += std::conj(a.col(k)[i]) * to[i];
                        for (index i = 0; i < m; ++i) to[i] -= h * a.col(k)[i];
                    }
                double length = 0;
                for (index i = 0; i < m; ++i) length += std::norm(to[i]);
                for (index i = 0; i < m; ++i) to[i] /= std::sqrt(length);
            }
            return values;
        }
    }

protected:
    static constexpr index chunk = 16384, tile = 1024;  // in doubles; both even
    template <int N>
    using sums = std::array<double, N>;

    static const double* real(const S* p) { return reinterpret_cast<const double*>(p); }
    static double* real(S* p) { return reinterpret_cast<double*>(p); }
    static tall<const S> column(vec<const S> v) { return {v.data, v.size, 1, v.size}; }
    static tall<S> column(vec<S> v) { return {v.data, v.size, 1, v.size}; }
    static double value(scalar_ref s) { return *s.address(); }
    static S value(const pair& z) {
        if constexpr (complex)
            return {value(z.re), value(z.im)};
        else
            return value(z.re);
    }
    // A product by its four real ones: the library's own would look for infinities.
    static S times(S a, S b) {
        if constexpr (complex)
            return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
        else
            return a * b;
    }

    static void axpy(double alpha, const double* x, double* y, index first, index end) {
        for (index i = first; i < end; ++i) y[i] += alpha * x[i];
    }
    static double inner(const double* x, const double* y, index first, index end) {
        double lanes[8] = {};
        index i = first;
        for (; i + 8 <= end; i += 8)
            for (int k = 0; k < 8; ++k) lanes[k] += x[i + k] * y[i + k];
        for (int k = 0; i < end; ++i, ++k) lanes[k] += x[i] * y[i];
        return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
               ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    }
    // s[0], s[1] += real and imaginary part of x^H y; the range is in doubles.
    static void add_inner(const S* x, const S* y, index first, index end, double* s) {
        s[0] += inner(real(x), real(y), first, end);
        if constexpr (complex) {
            const double *a = real(x), *b = real(y);
            double lanes[4] = {};
            index i = first;
            for (; i + 8 <= end; i += 8)
                for (int k = 0; k < 4; ++k)
                    lanes[k] += a[i + 2 * k] * b[i + 2 * k + 1] - a[i + 2 * k + 1] * b[i + 2 * k];
            for (int k = 0; i < end; i += 2, ++k) lanes[k] += a[i] * b[i + 1] - a[i + 1] * b[i];
            s[1] += (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
        }
    }

    // y -= alpha x, ||y||^2.
    void subtract(double alpha, vec<const S> x, vec<S> y, scalar_ref norm2) {
        be_.launched();
        const double* from = real(x.data);
        double* to = real(y.data);
        put<1>(sweep<1>(y.size,
                        [=](index i, index end, sums<1>& s) {
                            axpy(-alpha, from, to, i, end);
                            s[0] += inner(to, to, i, end);
                        }),
               norm2);
    }

    // body(first, end) over tiles of the 0 .. size * parts doubles of a vector.
    template <class Body>
    static void sweep(index size, Body body) {
        const index count = size * parts;
        parallel_chunks((count + chunk - 1) / chunk, [&](index c) {
            const index end = std::min(count, (c + 1) * chunk);
            for (index i = c * chunk; i < end; i += tile) body(i, std::min(end, i + tile));
        });
    }
    // The same with N sums; body adds its tile's to the third argument.
    template <int N, class Body>
    sums<N> sweep(index size, Body body) {
        const index count = size * parts, chunks = (count + chunk - 1) / chunk;
        partial_.resize(static_cast<std::size_t>(chunks * N));
        parallel_chunks(chunks, [&](index c) {
            const index end = std::min(count, (c + 1) * chunk);
            sums<N> mine{};
            for (index i = c * chunk; i < end; i += tile) body(i, std::min(end, i + tile), mine);
            std::copy(mine.begin(), mine.end(), partial_.begin() + c * N);
        });
        sums<N> total{};
        for (index c = 0; c < chunks; ++c)
            for (int k = 0; k < N; ++k) total[k] += partial_[c * N + k];
        return total;
    }
    template <int N, class... Ref>
    static void put(const sums<N>& values, Ref... out) {
        static_assert(sizeof...(Ref) == N);
        int k = 0;
        ((*out.address() = values[k++]), ...);
    }

    backend& be_;
    linear_map<S>& matrix_;
    linear_map<S>* inverse_;
    double shift_;
    std::vector<double> partial_;
};

}  // namespace aitken::cpu
