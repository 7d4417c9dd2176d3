// Sweeps on the CPU: the kernels of drivers/relaxation.hpp over a matrix laid out for sweeps. Vectors have
// their entries in the order of the levels.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/backend.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "drivers/relaxation.hpp"
#include "sparse/scalar.hpp"
#include "sparse/sweep.hpp"

namespace aitken::cpu {

// A layout with the numbers of one matrix A + shift I.
class sweep_matrix {
public:
    explicit sweep_matrix(sweep_layout layout) : layout_(std::move(layout)) {
        const auto n = static_cast<std::size_t>(layout_.n);
        values_.assign(static_cast<std::size_t>(layout_.slices.stored()), 0.0);
        for (auto* v : {&own_, &diagonal_, &inverse_}) v->resize(n);
        plan();
    }

    // 12 B per entry; the diagonal counts from the next set_shift on.
    void update(const double* values) {
        const auto nnz = static_cast<index>(layout_.slot.size());
        for (index p = 0; p < nnz; ++p)
            if (layout_.slot[p] != sweep_layout::no_slot) values_[layout_.slot[p]] = values[p];
        for (index k = 0; k < layout_.n; ++k)
            own_[k] = layout_.diagonal[k] < 0 ? 0.0 : values[layout_.diagonal[k]];
        shift_ = unset;
    }
    // Throws std::invalid_argument naming the row of a diagonal entry that has no inverse.
    void set_shift(double shift) {
        if (shift == shift_) return;
        shift_ = unset;
        set_diagonal(shift);
        shift_ = shift;
    }

    const sweep_layout& layout() const { return layout_; }
    index size() const { return layout_.n; }
    const double* values() const { return values_.data(); }
    const double* diagonal() const { return diagonal_.data(); }
    const double* inverse() const { return inverse_.data(); }
    aitken_sweep pointers() const {
        const sliced_pattern& s = layout_.slices;
        return {{s.row_begin.data(), s.begin.data(), s.run.data(), s.lanes.data(), s.columns.data()},
                layout_.middle.data(),
                values_.data(),
                diagonal_.data(),
                inverse_.data()};
    }

    void gather(const double* natural, double* ordered) const {
        for (index k = 0; k < layout_.n; ++k) ordered[k] = natural[layout_.order.rows[k]];
    }
    void scatter(const double* ordered, double* natural) const {
        for (index k = 0; k < layout_.n; ++k) natural[layout_.order.rows[k]] = ordered[k];
    }

    // Wide levels are cut into pieces that know nothing of each other, for several threads: piece k holds
    // the slices border(k) .. border(k + 1), level l the pieces first_piece(l) .. first_piece(l + 1). A
    // matrix with narrow levels is one piece.
    index steps() const { return static_cast<index>(first_piece_.size()) - 1; }
    index first_piece(index step) const { return first_piece_[static_cast<std::size_t>(step)]; }
    index border(index piece) const { return border_[static_cast<std::size_t>(piece)]; }
    index pieces() const { return static_cast<index>(border_.size()) - 1; }

private:
    void plan() {
        const std::vector<index>& groups = layout_.slices.group_begin;
        const bool wide = layout_.n >= 65536 && layout_.n >= 2048 * layout_.levels();
        first_piece_ = border_ = {0};
        if (!wide) {
            border_.push_back(layout_.slices.slices());
            first_piece_.push_back(1);
            return;
        }
        for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
            for (index s = groups[g]; s < groups[g + 1]; s += piece)
                border_.push_back(std::min(s + piece, groups[g + 1]));
            first_piece_.push_back(pieces());
        }
    }
    void set_diagonal(double shift) {
        index bad = layout_.n;  // the first such row of the matrix is named
        for (index k = 0; k < layout_.n; ++k) {
            diagonal_[k] = own_[k] + shift;
            inverse_[k] = 1.0 / diagonal_[k];
            if (!(std::isfinite(inverse_[k]) && std::isfinite(diagonal_[k])))
                bad = std::min<index>(bad, layout_.order.rows[k]);
        }
        if (bad < layout_.n)
            throw std::invalid_argument("the diagonal of row " + std::to_string(bad) +
                                        " is zero or has no inverse");
    }

    static constexpr index piece = 64;  // slices: less would cost one thread more than it gains two
    static constexpr double unset = std::numeric_limits<double>::quiet_NaN();

    sweep_layout layout_;
    aligned_vector<double> values_, own_, diagonal_, inverse_;
    double shift_ = unset;  // what the diagonal was made with
    std::vector<index> first_piece_, border_;
};

class sweep_kernels {
    using direction = aitken::relaxation::direction;

public:
    sweep_kernels(backend& be, const sweep_matrix& matrix)
        : be_(be), matrix_(matrix), m_(matrix.pointers()), unused_(be.scalar()) {}

    void residual(vec<const double> b, vec<const double> x, scalar_ref norm2) {
        look(b.data, x.data, nullptr, norm2);
    }
    void residual_vector(vec<const double> b, vec<const double> x, vec<double> r, scalar_ref norm2) {
        look(b.data, x.data, r.data, norm2);
    }
    // y = A x.
    void multiply(const double* x, double* y) { look(nullptr, x, y, unused_); }

    void sweep(direction half, double omega, bool fresh, vec<const double> b, vec<double> x,
               scalar_ref before2, scalar_ref change2) {
        if (left_.size() == 0) left_.assign(static_cast<std::size_t>(x.size), 0.0);
        const auto pass = half == direction::forward ? simd().sweep_forward : simd().sweep_backward;
        const auto total = in_order<2>(half == direction::forward, [&](index first, index last, double* s) {
            pass(&m_, b.data, omega, fresh, x.data, left_.data(), first, last, s);
        });
        *before2.address() = total[0];
        *change2.address() = total[1];
    }

    void lower_solve(double omega, vec<const double> c, vec<double> v, scalar_ref size) {
        put(in_order<1>(true,
                        [&](index first, index last, double* s) {
                            simd().sweep_lower(&m_, omega, c.data, v.data, first, last, s);
                        }),
            size);
    }
    void direction_step(double omega, double beta, const double* r, double* p, double* t) {
        in_order<1>(false, [&](index first, index last, double*) {
            simd().sweep_direction(&m_, omega, beta, r, p, t, first, last);
        });
    }
    void direction_of(double omega, scalar_ref num, scalar_ref den, vec<const double> r, vec<double> p,
                      vec<double> t) {
        direction_step(omega, *num.address() / *den.address(), r.data, p.data, t.data);
    }
    void image(double omega, vec<const double> p, vec<const double> t, vec<double> w, scalar_ref product) {
        put(in_order<1>(true,
                        [&](index first, index last, double* s) {
                            simd().sweep_image(&m_, omega, p.data, t.data, w.data, first, last, s);
                        }),
            product);
    }
    void lower_norm(double omega, vec<const double> r, scalar_ref norm2) {
        put(anywhere([&](index first, index last, double* s) {
                simd().sweep_lower_norm(&m_, omega, r.data, first, last, s);
            }),
            norm2);
    }
    void advance(scalar_ref num, scalar_ref den, vec<const double> t, vec<const double> w, vec<double> x,
                 vec<double> r, scalar_ref size) {
        const double f = *den.address() > 0 ? *num.address() / *den.address() : 0.0;
        constexpr index chunk = 16384;
        be_.launched();
        const index chunks = std::max<index>((x.size + chunk - 1) / chunk, 1);
        partial_.assign(static_cast<std::size_t>(chunks), {});
        const auto work = [&](index c) {
            const index i = c * chunk, n = std::min(chunk, x.size - i);
            simd().sweep_advance(f, t.data + i, w.data + i, m_.diagonal + i, n, x.data + i, r.data + i,
                                 partial_[static_cast<std::size_t>(c)].data());
        };
        if (x.size < 2 * chunk)
            for (index c = 0; c < chunks; ++c) work(c);
        else
            parallel_chunks(chunks, work);
        *size.address() = total(1)[0];
    }

private:
    void look(const double* b, const double* x, double* r, scalar_ref norm2) {
        put(anywhere([&](index first, index last, double* s) {
                simd().sweep_residual(&m_, b, x, r, first, last, s);
            }),
            norm2);
    }
    static void put(const std::array<double, 2>& sums, scalar_ref out) { *out.address() = sums[0]; }

    // fn(first, last, sums) on pieces of the slices, from 32768 rows on by several threads.
    template <class Fn>
    std::array<double, 2> anywhere(Fn fn) {
        constexpr index chunk = 512;
        be_.launched();
        const index slices = matrix_.layout().slices.slices();
        const index chunks = (slices + chunk - 1) / chunk;
        partial_.assign(static_cast<std::size_t>(std::max<index>(chunks, 1)), {});
        const auto work = [&](index c) {
            fn(c * chunk, std::min((c + 1) * chunk, slices), partial_[static_cast<std::size_t>(c)].data());
        };
        if (matrix_.size() < 32768)
            for (index c = 0; c < chunks; ++c) work(c);
        else
            parallel_chunks(chunks, work);
        return total(1);
    }

    // The same level by level, from the first or from the last.
    template <int Sums, class Fn>
    std::array<double, 2> in_order(bool forward, Fn fn) {
        be_.launched();
        const sweep_matrix& m = matrix_;
        partial_.assign(static_cast<std::size_t>(m.pieces()), {});
        const auto walk = [&](index step, int worker, int workers) {
            if (!forward) step = m.steps() - 1 - step;
            const index first = m.first_piece(step), count = m.first_piece(step + 1) - first;
            const index end = first + count * (worker + 1) / workers;
            for (index p = first + count * worker / workers; p < end; ++p)
                fn(m.border(p), m.border(p + 1), partial_[static_cast<std::size_t>(p)].data());
        };
        if (m.pieces() == 1)
            walk(0, 0, 1);
        else
            parallel_steps(m.steps(), walk);
        return total(Sums);
    }

    // The partial sums, added in their order.
    std::array<double, 2> total(int sums) const {
        std::array<double, 2> out{};
        for (const auto& p : partial_)
            for (int j = 0; j < sums; ++j) out[j] += p[j];
        return out;
    }

    backend& be_;
    const sweep_matrix& matrix_;
    aitken_sweep m_;
    scalar_ref unused_;            // the norm of a product, which nobody asks for
    aligned_vector<double> left_;  // what a sweep leaves for the next one to find its residual from
    std::vector<std::array<double, 2>> partial_;
};

}  // namespace aitken::cpu
