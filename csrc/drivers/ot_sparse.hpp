// The sparse side of the transport Newton step, on the host: truncated plans, the preconditioner made of
// one, and the Schur complement system with the truncated plan as its operator.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/interrupt.hpp"
#include "core/views.hpp"
#include "sparse/ldlt.hpp"
#include "sparse/pattern.hpp"

namespace aitken::drivers::ot {

// A sparse plan on the host, rows in CSR form.
struct host_csr {
    index rows = 0, cols = 0;
    std::vector<index> indptr;
    std::vector<std::int32_t> indices;
    std::vector<double> values;

    index nnz() const { return static_cast<index>(indices.size()); }
    pattern_view pattern() const { return {rows, cols, indptr.data(), indices.data()}; }

    // Adds entries (row[k], col[k], value[k]) that are not there yet.
    void insert(const std::vector<index>& row, const std::vector<index>& col,
                const std::vector<double>& value) {
        std::vector<std::size_t> order(row.size());
        for (std::size_t k = 0; k < order.size(); ++k) order[k] = k;
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t s, std::size_t t) { return row[s] < row[t]; });
        host_csr merged{rows, cols, {0}, {}, {}};
        auto next = order.begin();
        for (index i = 0; i < rows; ++i) {
            merged.append(*this, i);
            for (; next != order.end() && row[*next] == i; ++next) {
                merged.indices.push_back(static_cast<std::int32_t>(col[*next]));
                merged.values.push_back(value[*next]);
            }
            merged.indptr.push_back(merged.nnz());
        }
        *this = std::move(merged);
    }

    // The entries for which keep(i, j, value) holds.
    template <class F>
    host_csr filtered(F&& keep) const {
        host_csr out{rows, cols, {0}, {}, {}};
        for (index i = 0; i < rows; ++i) {
            for (index e = indptr[i]; e < indptr[i + 1]; ++e)
                if (keep(i, static_cast<index>(indices[e]), values[e])) {
                    out.indices.push_back(indices[e]);
                    out.values.push_back(values[e]);
                }
            out.indptr.push_back(out.nnz());
        }
        return out;
    }

private:
    void append(const host_csr& from, index i) {
        indices.insert(indices.end(), from.indices.begin() + from.indptr[i],
                       from.indices.begin() + from.indptr[i + 1]);
        values.insert(values.end(), from.values.begin() + from.indptr[i],
                      from.values.begin() + from.indptr[i + 1]);
    }
};

// LDL^T of T = [diag(r) Ps; Ps^T diag(c)] with the diagonal times 1 + shift. T is positive definite because
// what was dropped from P stays on the diagonal.
inline constexpr double factor_shift = 1e-14;  // of a preconditioner: just above rounding

class plan_factor {
public:
    bool ready() const { return ready_; }
    index entries() const { return entries_; }
    index fill() const { return factor_.nnz_l(); }
    double flops() const { return factor_.flops(); }
    void reset() { ready_ = false; }

    // Ordering and fill, before anything is factored.
    void count(const host_csr& plan) {
        const index n = plan.rows, order = plan.rows + plan.cols;
        entries_ = plan.nnz();
        ready_ = false;
        indptr_.assign(1, 0);
        indices_.clear();
        for (index i = 0; i < order; ++i) {  // upper triangle by rows
            indices_.push_back(static_cast<std::int32_t>(i));
            if (i < n)
                for (index e = plan.indptr[i]; e < plan.indptr[i + 1]; ++e)
                    indices_.push_back(static_cast<std::int32_t>(n + plan.indices[e]));
            indptr_.push_back(static_cast<index>(indices_.size()));
        }
        if (!factor_.same_pattern(order, indptr_.data(), indices_.data()))
            factor_.count_only(order, indptr_.data(), indices_.data());
    }

    // The plan of the last count(); r and c of length n and m. False where no factor exists.
    bool factorise(const host_csr& plan, const double* r, const double* c, double shift, interrupt& signals) {
        const index n = plan.rows, order = plan.rows + plan.cols;
        values_.clear();
        for (index i = 0; i < order; ++i) {
            const double d = i < n ? r[i] : c[i - n];
            values_.push_back(d > 0 ? d * (1.0 + shift) : 1.0);  // 1: a bin without mass, decoupled
            if (i < n)
                values_.insert(values_.end(), plan.values.begin() + plan.indptr[i],
                               plan.values.begin() + plan.indptr[i + 1]);
        }
        factor_.symbolic();
        ready_ = factor_.factor(values_.data(), {}, &signals).ok;
        return ready_;
    }

    // v = T^{-1} v, length n + m.
    void solve(double* v) { factor_.solve(v, v); }

private:
    ldlt factor_;
    std::vector<index> indptr_;
    std::vector<std::int32_t> indices_;
    std::vector<double> values_;
    index entries_ = 0;
    bool ready_ = false;
};

// Thins a plan to what a preconditioner needs: the mass rule theta, then at most per_row (n + m) entries by
// P_ij / sqrt(r_i c_j), halved until the factor is affordable. At one entry per row and column the graph is
// nearly a forest, so this ends. Leaves the fill counted. Returns the thinned plan.
inline host_csr thin_for_factor(const host_csr& plan, const double* r, const double* c, double theta,
                                double per_row, double most_fill, double most_flops, plan_factor& factor) {
    const double n = static_cast<double>(plan.rows), m = static_cast<double>(plan.cols);
    host_csr kept =
        plan.filtered([&](index i, index j, double p) { return p > theta * std::min(r[i] / m, c[j] / n); });
    for (;; per_row *= 0.5) {
        const index cap = std::max<index>(1, static_cast<index>(per_row * (n + m)));
        if (kept.nnz() > cap) {
            std::vector<double> weight;
            weight.reserve(kept.values.size());
            for (index i = 0; i < kept.rows; ++i)
                for (index e = kept.indptr[i]; e < kept.indptr[i + 1]; ++e)
                    weight.push_back(kept.values[e] / std::sqrt(r[i] * c[kept.indices[e]]));
            std::vector<double> sorted(weight);
            std::nth_element(sorted.begin(), sorted.begin() + cap, sorted.end(), std::greater<>());
            const double limit = sorted[cap];
            std::size_t at = 0;
            kept = kept.filtered([&](index, index, double) { return weight[at++] > limit; });
        }
        factor.count(kept);
        const bool cheap = static_cast<double>(factor.fill()) <= most_fill && factor.flops() <= most_flops;
        if (cheap || per_row < 0.25) return kept;
    }
}

// Solves S~ d_x = g with S~ = diag(r) - P~ diag(1/c) P~^T, P~ a truncated plan, by CG: Jacobi, or with a
// plan_factor once Jacobi has taken `jacobi_budget` iterations. An iteration reads P~ twice (24 nnz bytes,
// 4 nnz flops). A factor is kept over many systems; it is renewed when it has aged.
class sparse_schur {
public:
    struct outcome {
        index iterations = 0;
        index factored = 0;  // new factors
    };
    struct settings {
        double rtol = 0.1, theta = 1e-2, per_row = 2.0;
        double most_fill = 0, most_flops = 0;  // of a factor
        index max_iterations = 400, jacobi_budget = 60, age_budget = 20;
        bool singular = true;  // S 1 = 0
    };

    // plan, r, c, g stay the caller's; d_x (n) and d_y = -(P~^T d_x)/c (m) are written.
    template <Backend B>
    outcome solve(B& be, const host_csr& plan, const double* r, const double* c, const double* g,
                  const settings& set, plan_factor& factor, double* dx, double* dy) {
        plan_ = &plan;
        r_ = r;
        singular_ = set.singular;
        inverse_c_.resize(plan.cols);
        for (index j = 0; j < plan.cols; ++j) inverse_c_[j] = c[j] > 0 ? 1.0 / c[j] : 0.0;
        chunks_ = std::clamp<index>(plan.nnz() / entries_per_chunk, 1, 8);
        column_parts_.resize(chunks_ * plan.cols);
        const index n = plan.rows;
        for (auto* v : {&residual_, &z_, &p_, &w_}) v->resize(n);
        work_.resize(n + plan.cols);
        t_.resize(plan.cols);
        outcome out;
        std::fill_n(dx, n, 0.0);
        std::copy_n(g, n, residual_.data());
        double norm2 = centre();
        const double stop2 = set.rtol * set.rtol * norm2;
        bool with_factor = factor.ready();
        index since = 0;  // iterations with this preconditioner
        const auto renew = [&] {
            const host_csr thin =
                thin_for_factor(plan, r, c, set.theta, set.per_row, set.most_fill, set.most_flops, factor);
            with_factor = factor.factorise(thin, r, c, factor_shift, be.interrupts());
            ++out.factored;
            since = 0;
        };
        double rz = precondition(with_factor, factor);
        p_ = z_;
        while (norm2 > stop2 && out.iterations < set.max_iterations) {
            if (out.iterations % 16 == 0) be.interrupts().poll();
            const double pw = apply(be);
            if (!(pw > 0)) break;
            const double alpha = rz / pw;
            double size2 = 0;
            norm2 = 0;
            for (index i = 0; i < n; ++i) {
                dx[i] += alpha * p_[i];
                residual_[i] -= alpha * w_[i];
                norm2 += residual_[i] * residual_[i];
                size2 += r_[i] * dx[i] * (r_[i] * dx[i]);
            }
            ++out.iterations;
            ++since;
            // Near-null directions make d_x large; below the rounding of r d_x nothing improves.
            if (norm2 <= std::max(stop2, rounding * rounding * size2)) break;
            // Jacobi is too slow, or the factor has aged: a new factor, and on from here.
            const bool aged =
                with_factor ? since >= set.age_budget && out.factored == 0 : since >= set.jacobi_budget;
            if (aged && out.factored < 2) {
                renew();
                rz = precondition(with_factor, factor);
                p_ = z_;
                continue;
            }
            const double next = precondition(with_factor, factor);
            const double beta = next / rz;
            for (index i = 0; i < n; ++i) p_[i] = z_[i] + beta * p_[i];
            rz = next;
        }
        times_transposed(be, dx);
        for (index j = 0; j < plan.cols; ++j) dy[j] = -t_[j];
        return out;
    }

private:
    static constexpr double rounding = 4 * std::numeric_limits<double>::epsilon();

    // Rows of negligible mass take no part in Newton steps.
    bool active(index i) const { return r_[i] > 1e-14; }

    // Where S 1 = 0 the residual must sum to 0: the rest is taken off in proportion to r, so that tiny rows
    // keep their equations. Returns its squared norm.
    double centre() {
        double sum = 0, mass = 0, norm2 = 0;
        for (index i = 0; i < plan_->rows; ++i)
            if (active(i)) sum += residual_[i], mass += r_[i];
        const double share = singular_ && mass > 0 ? sum / mass : 0.0;
        for (index i = 0; i < plan_->rows; ++i) {
            residual_[i] = active(i) ? residual_[i] - share * r_[i] : 0.0;
            norm2 += residual_[i] * residual_[i];
        }
        return norm2;
    }

    // z = M^{-1} residual; returns residual . z.
    double precondition(bool with_factor, plan_factor& factor) {
        const index n = plan_->rows;
        double rz = 0;
        if (with_factor) {
            std::copy_n(residual_.data(), n, work_.data());
            std::fill(work_.begin() + n, work_.end(), 0.0);
            factor.solve(work_.data());
        }
        for (index i = 0; i < n; ++i) {
            z_[i] = !active(i) ? 0.0 : with_factor ? work_[i] : residual_[i] / r_[i];
            rz += residual_[i] * z_[i];
        }
        return rz;
    }

    // fn(chunk, first row, last row) on the backend's host threads; chunks fixed by the plan's size.
    template <Backend B, class F>
    void each_chunk(B& be, F&& fn) {
        be.host_chunks(chunks_, [&](index chunk) {
            fn(chunk, plan_->rows * chunk / chunks_, plan_->rows * (chunk + 1) / chunks_);
        });
    }

    // t = (P~^T v) / c: rows are scattered into a column buffer per chunk, the buffers added in order.
    template <Backend B>
    void times_transposed(B& be, const double* v) {
        const index m = plan_->cols;
        each_chunk(be, [&](index chunk, index first, index last) {
            double* part = column_parts_.data() + chunk * m;
            std::fill_n(part, m, 0.0);
            for (index i = first; i < last; ++i)
                for (index e = plan_->indptr[i]; e < plan_->indptr[i + 1]; ++e)
                    part[plan_->indices[e]] += plan_->values[e] * v[i];
        });
        for (index j = 0; j < m; ++j) {
            double sum = column_parts_[j];
            for (index k = 1; k < chunks_; ++k) sum += column_parts_[k * m + j];
            t_[j] = sum * inverse_c_[j];
        }
    }

    // w = S~ p; returns p . w.
    template <Backend B>
    double apply(B& be) {
        times_transposed(be, p_.data());
        each_chunk(be, [&](index, index first, index last) {
            for (index i = first; i < last; ++i) {
                double sum = 0;
                for (index e = plan_->indptr[i]; e < plan_->indptr[i + 1]; ++e)
                    sum += plan_->values[e] * t_[plan_->indices[e]];
                w_[i] = active(i) ? r_[i] * p_[i] - sum : 0.0;
            }
        });
        double pw = 0;
        for (index i = 0; i < plan_->rows; ++i) pw += p_[i] * w_[i];
        return pw;
    }

    static constexpr index entries_per_chunk = 16384;

    const host_csr* plan_ = nullptr;
    const double* r_ = nullptr;
    bool singular_ = true;
    index chunks_ = 1;
    std::vector<double> column_parts_, inverse_c_, residual_, z_, p_, w_, t_, work_;
};

}  // namespace aitken::drivers::ot
