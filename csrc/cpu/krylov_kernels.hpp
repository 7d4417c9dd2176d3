// The Krylov driver's kernels on the CPU: linear maps for the products, tall_skinny for everything else.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "core/linear_map.hpp"
#include "cpu/backend.hpp"
#include "cpu/tall_skinny.hpp"
#include "drivers/krylov.hpp"

namespace aitken::cpu {

template <class S, class B>
class krylov_kernels {
    template <class Task>
    using list = std::span<const Task>;
    using apply_task = drivers::krylov::apply_task<S>;
    using columns_task = drivers::krylov::apply_columns_task<B>;
    using expand_task = drivers::krylov::expand_task<S, B>;

public:
    // All lanes share the operators; `inverse` null: identity. They outlive this object.
    krylov_kernels(backend& be, linear_map<S>& matrix, linear_map<S>* inverse)
        : be_(be), matrix_(&matrix), inverse_(inverse), n_(matrix.size()) {}

    bool has_inverse() const { return inverse_ != nullptr; }
    void set_operators(linear_map<S>& matrix, linear_map<S>* inverse) {
        matrix_ = &matrix;
        inverse_ = inverse;
    }

    void apply_matrix(list<apply_task> tasks) { apply(*matrix_, tasks); }
    void apply_inverse(list<apply_task> tasks) { apply(*inverse_, tasks); }
    void apply_matrix_columns(list<columns_task> tasks) { apply_columns(*matrix_, tasks); }
    void apply_inverse_columns(list<columns_task> tasks) { apply_columns(*inverse_, tasks); }

    void residual(list<drivers::krylov::residual_task<S>> tasks) {
        std::vector<apply_task> products;
        for (const auto& t : tasks) products.push_back({t.lane, t.x, t.r});
        apply(*matrix_, products);
        for (const auto& t : tasks) {
            be_.launched();
            for (index i = 0; i < n_; ++i) t.r[i] = t.b[i] - t.r[i];
            *t.norm = length(cpu::project<B, S>({}, {}, t.r, nullptr), t.r);
        }
    }

    void expand(list<expand_task> tasks, aitken::krylov::ortho how) {
        using aitken::krylov::ortho;
        for (const expand_task& t : tasks) {
            be_.launched();
            const index count = t.c.cols + t.v.cols;
            const double before = orthogonalise(t, how == ortho::mgs);
            double after = length_;
            // A second pass where the first left less than a tenth: "twice is enough".
            if (how == ortho::cgs2 || (how == ortho::automatic && after < 0.1 * before)) {
                again_.assign(t.column, t.column + count);
                orthogonalise(t, false);
                after = length_;
                for (index i = 0; i < count; ++i) t.column[i] += again_[i];
            }
            t.column[count] = after;
            t.column[count + 1] = before;
            const bool something = after > 1e-14 * before;
            const S scale(something ? 1 / after : 0.0);
            cpu::scale_copy<S, S, S>(t.w, scale, t.w);
            cpu::scale_copy<S, B, S>(t.w, S(1), {t.v.col(t.v.cols), n_});
        }
    }

    void combine(list<drivers::krylov::combine_task<S, B>> tasks) {
        for (const auto& t : tasks) {
            be_.launched();
            if (!t.accumulate) std::fill_n(t.y.data, t.y.size, S(0));
            cpu::combine<B, S>(t.x, t.c, S(1), t.y);
        }
    }
    void project(list<drivers::krylov::project_task<S, B>> tasks) {
        ++be_.counts().reads;
        for (const auto& t : tasks) {
            be_.launched();
            *t.norm = length(cpu::project<B, S>(t.x, {}, t.w, t.h), t.w);
        }
    }
    void gram(list<drivers::krylov::gram_task<S, B>> tasks) {
        ++be_.counts().reads;
        for (const auto& t : tasks) {
            be_.launched();
            cpu::gram<B, S>(t.x, t.y, t.out, t.ld);
        }
    }
    void mix(list<drivers::krylov::mix_task<S, B>> tasks) {
        for (const auto& t : tasks) {
            be_.launched();
            cpu::mix<B, S>(t.x, t.p, t.ld, t.z, t.accumulate);
        }
    }
    void store(list<drivers::krylov::store_task<S, B>> tasks) {
        for (const auto& t : tasks) {
            be_.launched();
            cpu::scale_copy<S, B, S>(t.from, S(t.alpha), {t.to, n_});
            if (t.also.data != nullptr) cpu::scale_copy<S, S, S>(t.from, S(t.alpha), t.also);
        }
    }
    void load(const B* from, vec<S> x) {
        be_.launched();
        cpu::scale_copy<B, S, S>({from, n_}, S(1), x);
    }
    void add(vec<const S> x, vec<S> y) {
        be_.launched();
        for (index i = 0; i < n_; ++i) y[i] += x[i];
    }
    void clear(vec<S> x) {
        be_.launched();
        std::fill_n(x.data, x.size, S(0));
    }

private:
    // ||w|| from its square, or anew where squares leave the range of doubles.
    static double length(double square, vec<const S> w) {
        if (square > 1e-280 && square <= std::numeric_limits<double>::max()) return std::sqrt(square);
        double largest = 0, sum = 0;
        for (index i = 0; i < w.size; ++i) {
            const double size = std::abs(w[i]);
            if (!std::isfinite(size)) return size;
            largest = std::max(largest, size);
        }
        if (largest == 0) return 0;
        for (index i = 0; i < w.size; ++i) sum += dense::square(w[i] / largest);
        return largest * std::sqrt(sum);
    }

    // Leaves ||w|| in length_ and returns what it was before.
    double orthogonalise(const expand_task& t, bool one_by_one) {
        if (!one_by_one) {
            const double before2 = cpu::project<B, S>(t.c, t.v, t.w, t.column);
            length_ = std::sqrt(cpu::deflate<B, S>(t.c, t.v, t.column, t.w));
            return std::sqrt(before2);
        }
        double before = -1;
        S* h = t.column;
        for (const tall<const B>& basis : {t.c, tall<const B>(t.v)})
            for (index j = 0; j < basis.cols; ++j, ++h) {
                const tall<const B> one{basis.col(j), basis.rows, 1, basis.ld};
                const double norm2 = cpu::project<B, S>({}, one, t.w, h);
                if (before < 0) before = std::sqrt(norm2);
                length_ = std::sqrt(cpu::deflate<B, S>({}, one, h, t.w));
            }
        return before;
    }

    // Several lanes with one operator are one block, so that the operator is read once.
    void apply(linear_map<S>& op, list<apply_task> tasks) {
        be_.launched();
        const index count = static_cast<index>(tasks.size());
        if (count == 1) {
            op.apply(tasks[0].x.data, tasks[0].y.data);
            return;
        }
        block_.resize(static_cast<std::size_t>(2 * count * n_));
        const tall<S> x{block_.data(), n_, count, n_}, y{block_.data() + count * n_, n_, count, n_};
        for (index k = 0; k < count; ++k) std::copy_n(tasks[k].x.data, n_, x.col(k));
        op.apply(x, y);
        for (index k = 0; k < count; ++k) std::copy_n(y.col(k), n_, tasks[k].y.data);
    }
    void apply_columns(linear_map<S>& op, list<columns_task> tasks) {
        for (const columns_task& t : tasks) {
            be_.launched();
            if constexpr (std::is_same_v<B, S>) {
                op.apply(t.x, t.y);
            } else {
                block_.resize(static_cast<std::size_t>(2 * t.x.cols * n_));
                const tall<S> x{block_.data(), n_, t.x.cols, n_},
                    y{block_.data() + t.x.cols * n_, n_, t.x.cols, n_};
                for (index k = 0; k < t.x.cols; ++k)
                    cpu::scale_copy<B, S, S>({t.x.col(k), n_}, S(1), {x.col(k), n_});
                op.apply(x, y);
                for (index k = 0; k < t.x.cols; ++k)
                    cpu::scale_copy<S, B, S>({y.col(k), n_}, S(1), {t.y.col(k), n_});
            }
        }
    }

    backend& be_;
    linear_map<S>*matrix_, *inverse_;
    index n_;
    double length_ = 0;
    std::vector<S> again_, block_;
};

}  // namespace aitken::cpu
