#include "core/api/optimize.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <exception>
#include <future>
#include <limits>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "dense/lapack_table.hpp"
#include "sparse/ldlt.hpp"

namespace aitken::optimize {
namespace {

constexpr int scaling_rounds = 3;
constexpr index polled_order = 800;  // 20 ms of LAPACK

double max_norm(const std::vector<double>& x) {
    double largest = 0;
    for (const double v : x) {
        if (!std::isfinite(v)) return std::numeric_limits<double>::infinity();
        largest = std::max(largest, std::abs(v));
    }
    return largest;
}

// Powers of two that bring the largest entry of every row near 1: no rounding in scaled entries.
// `row_maxima(s, out)` gives the largest |s_i K_ij s_j| of every row.
template <class RowMaxima>
void equilibrate(std::vector<double>& s, std::vector<double>& work, RowMaxima&& row_maxima) {
    std::fill(s.begin(), s.end(), 1.0);
    for (int round = 0; round < scaling_rounds; ++round) {
        row_maxima(s, work);
        for (std::size_t i = 0; i < s.size(); ++i)
            if (work[i] > 0 && std::isfinite(work[i]))
                s[i] = std::ldexp(s[i], -static_cast<int>(std::lround(0.5 * std::log2(work[i]))));
    }
}

// What both factorisations share: refinement against the matrix as it was given.
class refined : public factorization {
public:
    index size() const override { return n_; }

    solution solve(const double* b, double* x, double rtol, int max_steps) override {
        if (!factored_) throw std::logic_error("no matrix has been factored");
        const std::size_t n = static_cast<std::size_t>(n_);
        double scale = 0;
        for (std::size_t i = 0; i < n; ++i) scale = std::max(scale, std::abs(b[i]));
        solution result;
        if (scale == 0) {
            std::fill_n(x, n, 0.0);
            return result;
        }
        apply_inverse(b, x);
        best_.assign(x, x + n);
        residual(b, x, r_.data());
        double error = max_norm(r_) / scale;
        result.residual = error;
        while (result.steps < max_steps && result.residual > rtol && std::isfinite(error)) {
            apply_inverse(r_.data(), step_.data());
            for (std::size_t i = 0; i < n; ++i) x[i] += step_[i];
            residual(b, x, r_.data());
            error = max_norm(r_) / scale;
            ++result.steps;
            if (!(error < result.residual)) break;
            const bool slow = error > 0.5 * result.residual;
            result.residual = error;
            best_.assign(x, x + n);
            if (slow) break;
        }
        std::copy(best_.begin(), best_.end(), x);
        return result;
    }

protected:
    explicit refined(index n)
        : n_(n), s_(n), scratch_(n), r_(n), step_(n), best_(static_cast<std::size_t>(n)) {}

    virtual void apply_factor(const double* b, double* x) = 0;                     // of the scaled matrix
    virtual void residual(const double* b, const double* x, double* r) const = 0;  // r = b - K x

    void apply_inverse(const double* b, double* x) {
        for (index i = 0; i < n_; ++i) scratch_[i] = s_[i] * b[i];
        apply_factor(scratch_.data(), x);
        for (index i = 0; i < n_; ++i) x[i] *= s_[i];
    }

    index n_;
    bool factored_ = false;
    std::vector<double> s_, scratch_;

private:
    std::vector<double> r_, step_, best_;
};

class dense_ldlt final : public refined {
public:
    explicit dense_ldlt(index n)
        : refined(n), k_(static_cast<std::size_t>(n) * n), l_(k_.size()), pivots_(n) {}

    double flops() const override { return static_cast<double>(n_) * n_ * n_ / 3; }
    index nnz() const override { return n_ * (n_ + 1) / 2; }

    // 8 n^2 bytes in, n^3 / 3 flops.
    inertia factor(const double* values, index, double, interrupt& stop) override {
        factored_ = false;
        inertia found;
        if (n_ == 0) return factored_ = true, found;
        std::memcpy(k_.data(), values, k_.size() * sizeof(double));
        if (!std::isfinite(max_norm(k_))) return found.finite = false, found;
        equilibrate(s_, scratch_, [&](const std::vector<double>& s, std::vector<double>& out) {
            for (index i = 0; i < n_; ++i) {
                const double* row = k_.data() + i * n_;
                double largest = 0;
                for (index j = 0; j < n_; ++j) largest = std::max(largest, std::abs(row[j]) * s[j]);
                out[i] = largest * s[i];
            }
        });
        for (index i = 0; i < n_; ++i)
            for (index j = 0; j < n_; ++j) l_[i * n_ + j] = s_[i] * k_[i * n_ + j] * s_[j];
        stop.poll();
        // A zero pivot: the inertia says so, and nothing can be solved.
        const bool regular = factor_scaled(stop);
        found = count();
        factored_ = regular;
        return found;
    }

protected:
    void apply_factor(const double* b, double* x) override {
        if (n_ == 0) return;
        std::copy_n(b, n_, x);
        dense::lapack().sytrs('L', n_, 1, l_.data(), n_, pivots_, x, n_);
    }
    void residual(const double* b, const double* x, double* r) const override {
        for (index i = 0; i < n_; ++i) {
            const double* row = k_.data() + i * n_;
            double sum = b[i];
            for (index j = 0; j < n_; ++j) sum -= row[j] * x[j];
            r[i] = sum;
        }
    }

private:
    // LAPACK's factorisation in place, true without a zero pivot. A large one runs beside this thread, which
    // goes on polling; after an interrupt it is left to end by itself with arrays of its own.
    bool factor_scaled(interrupt& stop) {
        const auto run = [n = n_](std::vector<double>& l, std::vector<index>& pivots) {
            return dense::lapack().sytrf('L', n, l.data(), n, pivots) == 0;
        };
        if (n_ <= polled_order) return run(l_, pivots_);
        struct job {
            std::vector<double> l;
            std::vector<index> pivots;
            std::promise<bool> regular;
        };
        const auto shared = std::make_shared<job>();
        shared->l.swap(l_);
        shared->pivots.swap(pivots_);
        std::future<bool> done = shared->regular.get_future();
        std::thread([shared, run] {
            try {
                shared->regular.set_value(run(shared->l, shared->pivots));
            } catch (...) {
                shared->regular.set_exception(std::current_exception());
            }
        }).detach();
        try {
            while (done.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) stop.poll();
        } catch (...) {
            l_.resize(static_cast<std::size_t>(n_) * n_);
            pivots_.resize(static_cast<std::size_t>(n_));
            throw;
        }
        const bool regular = done.get();
        l_.swap(shared->l);
        pivots_.swap(shared->pivots);
        return regular;
    }

    // Signs of D, whose 2 x 2 blocks LAPACK marks by a pair of equal negative pivots.
    inertia count() const {
        inertia found;
        const double tiny = 10 * static_cast<double>(n_) * std::numeric_limits<double>::epsilon();
        const auto add = [&](double d) {
            if (!(std::abs(d) > tiny))
                ++found.zero;
            else if (d > 0)
                ++found.positive;
            else
                ++found.negative;
        };
        for (index i = 0; i < n_; ++i) {
            const double a = l_[i * n_ + i];
            if (pivots_[i] > 0 || i + 1 == n_) {
                add(a);
                continue;
            }
            const double b = l_[i * n_ + i + 1], c = l_[(i + 1) * n_ + i + 1];  // column-major, lower
            const double half = 0.5 * (a + c), root = std::hypot(0.5 * (a - c), b);
            const double large = half >= 0 ? half + root : half - root;
            add(large);
            add(large == 0 ? 0 : (a * c - b * b) / large);
            ++i;
        }
        return found;
    }

    std::vector<double> k_, l_;
    std::vector<index> pivots_;
};

class sparse_ldlt final : public refined {
public:
    explicit sparse_ldlt(const pattern_view& lower)
        : refined(lower.rows),
          indptr_(lower.indptr, lower.indptr + lower.rows + 1),
          indices_(lower.indices, lower.indices + lower.nnz()),
          values_(indices_.size()),
          scaled_(indices_.size()),
          diagonal_(static_cast<std::size_t>(lower.rows), -1) {
        for (index i = 0; i < n_; ++i)
            for (index p = indptr_[i]; p < indptr_[i + 1]; ++p) {
                if (indices_[p] > i)
                    throw std::invalid_argument("the pattern has an entry above the diagonal");
                if (indices_[p] == i) diagonal_[i] = p;
            }
        for (index i = 0; i < n_; ++i)
            if (diagonal_[i] < 0) throw std::invalid_argument("the pattern lacks a diagonal entry");
        ldlt_.analyze(n_, indptr_.data(), indices_.data());
    }

    double flops() const override { return ldlt_.flops(); }
    index nnz() const override { return ldlt_.nnz_l(); }

    inertia factor(const double* values, index n_primal, double shift, interrupt& stop) override {
        factored_ = false;
        inertia found;
        std::copy_n(values, values_.size(), values_.begin());
        if (!std::isfinite(max_norm(values_))) return found.finite = false, found;
        equilibrate(s_, scratch_, [&](const std::vector<double>& s, std::vector<double>& out) {
            std::fill(out.begin(), out.end(), 0.0);
            for (index i = 0; i < n_; ++i)
                for (index p = indptr_[i]; p < indptr_[i + 1]; ++p) {
                    const std::int32_t j = indices_[p];
                    const double size = std::abs(values_[p]) * s[i] * s[j];
                    out[i] = std::max(out[i], size);
                    out[j] = std::max(out[j], size);
                }
        });
        for (index i = 0; i < n_; ++i)
            for (index p = indptr_[i]; p < indptr_[i + 1]; ++p)
                scaled_[p] = s_[i] * values_[p] * s_[indices_[p]];
        for (index i = 0; i < n_; ++i) scaled_[diagonal_[i]] += i < n_primal ? shift : -shift;
        factor_options options;
        options.pivot_floor = 1e-3 * shift;
        options.pivot_value = shift;
        const factor_result result = ldlt_.factor(scaled_.data(), options, &stop);
        found.positive = result.positive;
        found.negative = result.negative;
        found.zero = result.zero;
        found.finite = !result.nonfinite;
        factored_ = result.ok;
        return found;
    }

protected:
    void apply_factor(const double* b, double* x) override { ldlt_.solve(b, x); }
    // 12 bytes and 4 flops per stored entry.
    void residual(const double* b, const double* x, double* r) const override {
        std::copy_n(b, n_, r);
        for (index i = 0; i < n_; ++i) {
            double sum = 0;
            for (index p = indptr_[i]; p < indptr_[i + 1]; ++p) {
                const std::int32_t j = indices_[p];
                sum += values_[p] * x[j];
                if (j != i) r[j] -= values_[p] * x[i];
            }
            r[i] -= sum;
        }
    }

private:
    std::vector<index> indptr_;
    std::vector<std::int32_t> indices_;
    std::vector<double> values_, scaled_;
    std::vector<index> diagonal_;
    ldlt ldlt_;
};

}  // namespace

std::unique_ptr<factorization> make_dense(index n) { return std::make_unique<dense_ldlt>(n); }

std::unique_ptr<factorization> make_sparse(const pattern_view& lower) {
    return std::make_unique<sparse_ldlt>(lower);
}

}  // namespace aitken::optimize
