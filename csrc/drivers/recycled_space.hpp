// The space that GCRO-DR carries: its images under a new operator, and which vectors are kept at the end of a
// cycle. Shared by the drivers of single and of block Krylov spaces.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "core/api/krylov.hpp"
#include "core/backend.hpp"
#include "dense/small.hpp"
#include "drivers/krylov_tasks.hpp"

namespace aitken::drivers::krylov {

// P with (A P)^H (A P) = I for as many columns of A as are independent, given A's Gram matrix. B: how A is
// stored.
template <class S, class B>
int independent_columns(const dense::small_matrix<S>& gram, dense::small_matrix<S>& p) {
    constexpr double drop = sizeof(B) == sizeof(S) ? 1e-7 : 1e-3;
    const int k = gram.rows;
    dense::small_matrix<S> scaled = gram;
    std::vector<double> d(static_cast<std::size_t>(k));
    for (int j = 0; j < k; ++j) {
        const double length2 = std::real(gram(j, j));
        d[j] = length2 > 0 && std::isfinite(length2) ? 1 / std::sqrt(length2) : 0;
    }
    for (int j = 0; j < k; ++j)
        for (int i = 0; i < k; ++i) scaled(i, j) = d[i] > 0 && d[j] > 0 ? gram(i, j) * (d[i] * d[j]) : S(0);
    const auto f = dense::factor_gram(std::move(scaled), drop);
    p = dense::inverse_combination(f);
    for (int j = 0; j < p.cols; ++j)
        for (int i = 0; i < k; ++i) p(i, j) *= d[i];
    return f.rank;
}

// What a system carries: Op U = C with orthonormal C.
template <class B>
struct recycled_space {
    int id = 0;  // the lane whose operators Op is made of
    tall<B> c, u, spare_c, spare_u;
    int kk = 0;
    bool has_image = false;
};

template <class B, class Be>
tall<B> new_tall(Be& be, index rows, index columns) {
    // 64-byte columns, so that no vector load straddles a cache line.
    const index ld = (rows + 15) / 16 * 16;
    return {be.template allocate<B>(ld * columns).data, rows, columns, ld};
}

// Columns to and from the host, through the full-precision vector w.
template <class S, class B, class Be, class K>
void put_column(Be& be, K& k, const S* host, vec<S> w, B* to) {
    be.upload(host, w);
    const store_task<S, B> task{w, 1.0, to, {}};
    k.store(std::span<const store_task<S, B>>(&task, 1));
}
template <class S, class B, class Be, class K>
void get_column(Be& be, K& k, const B* from, vec<S> w, S* host) {
    k.load(from, w);
    be.download(vec<const S>(w), host);
}
template <class S, class B, class Be, class K>
void put_space(Be& be, K& k, const api::space<S>& from, int room, vec<S> w, recycled_space<B>& to) {
    const auto finite = [](const S& x) { return std::isfinite(std::abs(x)); };
    to.kk = 0;
    to.has_image = from.has_image();
    for (int j = std::max(0, from.vectors() - room); j < from.vectors(); ++j) {  // the newest
        const S* const u = from.u.data() + j * w.size;
        if (!std::all_of(u, u + w.size, finite)) continue;
        put_column(be, k, u, w, to.u.col(to.kk));
        if (to.has_image) put_column(be, k, from.c.data() + j * w.size, w, to.c.col(to.kk));
        ++to.kk;
    }
}
template <class S, class B, class Be, class K>
void get_space(Be& be, K& k, const recycled_space<B>& from, vec<S> w, api::space<S>& to) {
    to.n = w.size;
    to.u.resize(static_cast<std::size_t>(w.size * from.kk));
    to.c.resize(from.has_image ? to.u.size() : 0);
    for (int j = 0; j < from.kk; ++j) {
        get_column(be, k, from.u.col(j), w, to.u.data() + j * w.size);
        if (from.has_image) get_column(be, k, from.c.col(j), w, to.c.data() + j * w.size);
    }
}

// Whether U and corrections are parts of x, or of t with x = M^-1 t.
inline bool in_solution_space(const api::options& o, bool has_inverse) {
    return o.side != api::side::right || o.carry == api::carry::solution || !has_inverse;
}
// Whether the directions Z = M^-1 V have to be kept: M varies, or U is to be made of them.
inline bool keeps_directions(const api::options& o, bool has_inverse) {
    return has_inverse && o.side != api::side::left &&
           (o.side == api::side::flexible || (o.recycle > 0 && o.carry == api::carry::solution));
}

enum class image { matrix, matrix_of_inverse, inverse_of_matrix };  // Op: A, A M^-1, M^-1 A

inline image image_of(const api::options& o, bool has_inverse) {
    if (!has_inverse) return image::matrix;
    if (o.side == api::side::left) return image::inverse_of_matrix;
    return in_solution_space(o, true) ? image::matrix : image::matrix_of_inverse;
}

// One pass of Cholesky QR over C, and U alike, where C is farther than `above` from orthonormal; dependent
// directions are dropped. 2 n k^2 flops to look, 4 n k^2 to change.
template <class S, class B, class K>
void orthonormalise(K& k, std::span<recycled_space<B>* const> list, double above) {
    std::vector<dense::small_matrix<S>> grams, combinations(list.size());
    for (recycled_space<B>* s : list) grams.emplace_back(s->kk, s->kk);
    std::vector<gram_task<S, B>> tasks;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const auto c = list[i]->c.first(list[i]->kk);
        if (c.cols > 0) tasks.push_back({c, c, grams[i].values.data(), c.cols});
    }
    if (tasks.empty()) return;
    k.gram(tasks);
    std::vector<mix_task<S, B>> mixes;
    for (std::size_t i = 0; i < list.size(); ++i) {
        recycled_space<B>* s = list[i];
        bool near = above > 0;
        for (int b = 0; b < s->kk; ++b)
            for (int a = 0; a < s->kk; ++a)
                near = near && std::abs(grams[i](a, b) - S(a == b ? 1.0 : 0.0)) <= above;
        if (near) continue;
        const int q = independent_columns<S, B>(grams[i], combinations[i]);
        const auto& p = combinations[i];
        mixes.push_back({s->c.first(s->kk), p.values.data(), p.rows, s->spare_c.first(q), false});
        mixes.push_back({s->u.first(s->kk), p.values.data(), p.rows, s->spare_u.first(q), false});
        std::swap(s->c, s->spare_c);
        std::swap(s->u, s->spare_u);
        s->kk = q;
    }
    if (!mixes.empty()) k.mix(mixes);
}

// C = Op U orthonormal for a new matrix: Cholesky QR twice.
template <class S, class B, class K>
void renew_images(K& k, std::span<recycled_space<B>* const> list, image op) {
    std::vector<apply_columns_task<B>> first, second;
    for (recycled_space<B>* s : list) {
        const bool two = op != image::matrix;
        first.push_back({s->id, s->u.first(s->kk), two ? s->spare_c.first(s->kk) : s->c.first(s->kk)});
        if (two) second.push_back({s->id, s->spare_c.first(s->kk), s->c.first(s->kk)});
    }
    if (op == image::matrix_of_inverse)
        k.apply_inverse_columns(first);
    else
        k.apply_matrix_columns(first);
    if (op == image::matrix_of_inverse) k.apply_matrix_columns(second);
    if (op == image::inverse_of_matrix) k.apply_inverse_columns(second);
    for (int pass = 0; pass < 2; ++pass) orthonormalise<S, B>(k, list, 0.0);
    for (recycled_space<B>* s : list) s->has_image = true;
}

// A cycle at its end: Op [U Z] = [C V] [[1, B], [0, H]], where the cycle's rotations turn H into R.
template <class S, class B>
struct cycle_view {
    const recycled_space<B>& space;
    tall<const B> v, z;
    bool z_is_v;  // Z holds V's first columns
    const dense::small_matrix<S>&h, &r, &b;
};

// What the selection has to know of the vectors themselves: with That = [U D, Z] and What = [C V], What^H
// That (harmonic) or That^H That (singular), and U^H U.
template <class S>
struct cycle_grams {
    dense::small_matrix<S> mixed, norms;
};

template <class S, class B>
void ask_grams(const cycle_view<S, B>& cycle, bool singular, cycle_grams<S>& out,
               std::vector<gram_task<S, B>>& tasks) {
    const int kk = cycle.space.kk, steps = static_cast<int>(cycle.z.cols);
    const int rows = kk + (singular ? steps : static_cast<int>(cycle.v.cols));
    out.mixed = dense::small_matrix<S>(rows, kk + steps);
    out.norms = dense::small_matrix<S>(kk, kk);
    S* const g = out.mixed.values.data();
    S* const right = g + index(kk) * rows;  // below Z
    const tall<const B> u = cycle.space.u.first(kk), c = cycle.space.c.first(kk), v = cycle.v, z = cycle.z;
    if (kk > 0 && singular) tasks.push_back({u, u, out.norms.values.data(), kk});
    for (int q = 0; q < kk && !singular; ++q) {  // D needs the diagonal alone
        const tall<const B> column{u.col(q), u.rows, 1, u.ld};
        tasks.push_back({column, column, &out.norms(q, q), 1});
    }
    if (singular) {
        if (kk > 0) {
            tasks.push_back({u, z, right, rows});
            tasks.push_back({z, u, g + kk, rows});
        }
        tasks.push_back({z, z, right + kk, rows});
        return;
    }
    if (kk > 0) {
        tasks.push_back({c, u, g, rows});
        tasks.push_back({v, u, g + kk, rows});
    }
    // Without a U there are the harmonic Ritz vectors of H, whatever M is.
    if (cycle.z_is_v || kk == 0) {
        for (int q = 0; q < steps; ++q) out.mixed(kk + q, kk + q) = S(1);  // V^H V, C^H V = 0
        return;
    }
    if (kk > 0) tasks.push_back({c, z, right, rows});
    tasks.push_back({v, z, right + kk, rows});
}

template <class S>
struct space_update {  // U_new = [U Z] t, C_new = [C V] w
    dense::small_matrix<S> t, w;
};

// `count` combinations of [U Z] by Ritz value or singular value, one more where `room` allows it and a
// complex pair asks for it. rotate(x) applies the cycle's rotations to the rows of V. A last column with
// which R is singular is left out.
template <class S, class B, class Rotate>
space_update<S> deflated_space(const cycle_view<S, B>& cycle, api::selection target, int count, int room,
                               cycle_grams<S>& grams, Rotate&& rotate) {
    using small = dense::small_matrix<S>;
    const bool singular = target == api::selection::singular;
    small& gram = grams.mixed;
    const small &norms = grams.norms, &b_rows = cycle.b, &h = cycle.h;
    const int kk = cycle.space.kk, steps = static_cast<int>(cycle.z.cols);
    int j = steps;
    if (!(std::abs(cycle.r(j - 1, j - 1)) > 0)) --j;
    const int p = kk + j;
    if (p == 0) return {};
    std::vector<double> d(static_cast<std::size_t>(kk));
    for (int q = 0; q < kk; ++q) d[q] = 1 / std::sqrt(std::real(norms(q, q)));
    if (singular)
        for (int a = 0; a < kk; ++a)
            for (int q = 0; q < kk; ++q) gram(a, q) = norms(a, q) * d[a];
    for (int q = 0; q < kk; ++q)
        for (int a = 0; a < gram.rows; ++a) gram(a, q) *= d[q];
    if (singular)
        for (int a = 0; a < kk; ++a)
            for (int q = kk; q < gram.cols; ++q)
                gram(a, q) *= d[a], gram(q, a) = dense::conjugate(gram(a, q));

    // G = [[D, B], [0, H]] = Q R, where the rotations of the cycle are Q's lower part.
    small r(p, p);
    for (int q = 0; q < kk; ++q) r(q, q) = d[q];
    for (int q = 0; q < j; ++q) {
        std::copy_n(b_rows.col(q), kk, r.col(kk + q));
        std::copy_n(cycle.r.col(q), q + 1, r.col(kk + q) + kk);
    }
    // Harmonic: R y = theta Q^H N y. Singular: R^H R y = sigma^2 T y. Both as X y = mu y, mu = 1 / theta.
    small x(p, p);
    for (int q = 0; q < p; ++q) {
        if (singular) {
            std::copy_n(gram.col(q), p, x.col(q));
            for (int a = 0; a < p; ++a) {  // R^-H
                for (int b = 0; b < a; ++b) x(a, q) -= dense::conjugate(r(b, a)) * x(b, q);
                x(a, q) /= dense::conjugate(r(a, a));
            }
        } else {
            S* column = gram.col(q);
            rotate(column + kk);
            std::copy_n(column, p, x.col(q));
        }
        dense::solve_upper(r, p, x.col(q));
    }
    small y = dense::leading_eigenvectors(std::move(x), count, room, [target](std::complex<double> mu) {
        const std::complex<double> theta = 1.0 / mu;
        switch (target) {
            case api::selection::largest_magnitude:
                return std::abs(theta);
            case api::selection::smallest_real:
                return -theta.real();
            case api::selection::largest_real:
                return theta.real();
            case api::selection::smallest_imaginary:
                return -std::abs(theta.imag());
            case api::selection::largest_imaginary:
                return std::abs(theta.imag());
            default:
                return std::abs(mu);
        }
    });
    if (y.cols == 0) return {};
    y = dense::factor_pivoted(y, 1e-13).q;
    const int rows = static_cast<int>(cycle.v.cols);
    small gy(kk + rows, y.cols);
    for (int q = 0; q < y.cols; ++q) {
        for (int a = 0; a < kk; ++a) gy(a, q) = d[a] * y(a, q);
        for (int k = 0; k < j; ++k) {
            const S factor = y(kk + k, q);
            for (int a = 0; a < kk; ++a) gy(a, q) += b_rows(a, k) * factor;
            for (int a = 0; a < rows; ++a) gy(kk + a, q) += h(a, k) * factor;
        }
    }
    auto f = dense::factor_pivoted(gy, 1e-13);
    const small t = dense::product(y, dense::inverse_combination(f));
    space_update<S> u{small(kk + steps, t.cols), std::move(f.q)};
    for (int q = 0; q < t.cols; ++q)
        for (int a = 0; a < p; ++a) u.t(a, q) = t(a, q) * (a < kk ? d[a] : 1.0);
    return u;
}

// The products that make U_new and C_new in the spare columns; `adopt` then takes them over.
template <class S, class B>
void ask_update(const cycle_view<S, B>& cycle, const space_update<S>& update,
                std::vector<mix_task<S, B>>& mixes) {
    const recycled_space<B>& s = cycle.space;
    const int k = update.t.cols, kk = s.kk;
    if (k == 0) return;
    const S *t = update.t.values.data(), *w = update.w.values.data();
    if (kk > 0) {
        mixes.push_back({s.u.first(kk), t, update.t.rows, s.spare_u.first(k), false});
        mixes.push_back({s.c.first(kk), w, update.w.rows, s.spare_c.first(k), false});
    }
    mixes.push_back({cycle.z, t + kk, update.t.rows, s.spare_u.first(k), kk > 0});
    mixes.push_back({cycle.v, w + kk, update.w.rows, s.spare_c.first(k), kk > 0});
}
template <class S, class B>
void adopt(recycled_space<B>& s, const space_update<S>& update) {
    if (update.t.cols == 0) return;
    std::swap(s.u, s.spare_u);
    std::swap(s.c, s.spare_c);
    s.kk = update.t.cols;
    s.has_image = true;
}

}  // namespace aitken::drivers::krylov
