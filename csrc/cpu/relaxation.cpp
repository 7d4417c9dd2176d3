// SOR and SSOR-preconditioned CG on the CPU: instantiates the drivers over the CPU kernels.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "core/api/relaxation.hpp"
#include "core/api/short_recurrence.hpp"
#include "core/linear_map.hpp"
#include "cpu/backend.hpp"
#include "cpu/stencil_kernels.hpp"
#include "cpu/sweep_kernels.hpp"
#include "cpu/threads.hpp"
#include "dense/lapack_table.hpp"
#include "dense/small.hpp"
#include "drivers/relaxation.hpp"
#include "drivers/sweep_order.hpp"
#include "sparse/pattern.hpp"
#include "sparse/stencil.hpp"
#include "sparse/sweep.hpp"

namespace aitken::cpu::relaxation {

static_assert(drivers::relaxation::SorKernels<sweep_kernels>);
static_assert(drivers::relaxation::EisenstatKernels<sweep_kernels>);

namespace {

// A and the inverse of M = N D^-1 N' as maps on vectors in the order of the levels.
class product_map final : public linear_map<double> {
public:
    product_map(sweep_kernels& kernels, index n) : kernels_(kernels), n_(n) {}
    using linear_map<double>::apply;
    index size() const override { return n_; }
    void apply(tall<const double> x, tall<double> y) override {
        for (index j = 0; j < x.cols; ++j) kernels_.multiply(x.col(j), y.col(j));
    }

private:
    sweep_kernels& kernels_;
    index n_;
};

class ssor_inverse final : public linear_map<double> {
public:
    ssor_inverse(backend& be, sweep_kernels& kernels, index n, double omega)
        : kernels_(kernels), n_(n), omega_(omega), half_(be.allocate<double>(n)), size_(be.scalar()) {
        scaled_ = be.allocate<double>(n);
        std::fill_n(scaled_.data, n, 0.0);
    }
    using linear_map<double>::apply;
    index size() const override { return n_; }
    void apply(tall<const double> x, tall<double> y) override {
        for (index j = 0; j < x.cols; ++j) {
            kernels_.lower_solve(omega_, {x.col(j), n_}, half_, size_);
            kernels_.direction_step(omega_, 0.0, half_.data, scaled_.data, y.col(j));
        }
    }

private:
    sweep_kernels& kernels_;
    index n_;
    double omega_;
    vec<double> half_, scaled_;
    scalar_ref size_;
};

// In eight lanes, so that additions do not wait for one another.
double inner(const double* a, const double* b, index n) {
    double lanes[8] = {};
    index i = 0;
    for (; i + 8 <= n; i += 8)
        for (index l = 0; l < 8; ++l) lanes[l] += a[i + l] * b[i + l];
    for (; i < n; ++i) lanes[0] += a[i] * b[i];
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// Lanczos on D^-1/2 A D^-1/2 without reorthogonalisation: the extreme Ritz values are what is wanted.
class lanczos {
public:
    lanczos(backend& be, const sweep_matrix& matrix) : matrix_(matrix), kernels_(be, matrix) {
        const index n = matrix.size();
        root_.resize(static_cast<std::size_t>(n));
        for (index k = 0; k < n; ++k) {
            if (!(matrix.diagonal()[k] > 0))
                throw std::invalid_argument("the diagonal of row " +
                                            std::to_string(matrix.layout().order.rows[k]) +
                                            " is not positive, which the estimate of omega needs");
            root_[k] = std::sqrt(matrix.inverse()[k]);
        }
    }

    api::spectrum run(const double* b, int steps, bool with_delta, interrupt& signals) {
        const index n = matrix_.size();
        const auto size = static_cast<std::size_t>(n);
        aligned_vector<double> v(size), older(size), w(size), scaled(size);
        std::copy_n(b, n, v.data());
        double norm = inner(b, b, n);
        if (norm == 0) {
            std::fill(v.begin(), v.end(), 1.0);
            norm = static_cast<double>(n);
        }
        for (double& entry : v) entry /= std::sqrt(norm);
        const double* root = root_.data();
        api::spectrum out;
        double low = 0, high = 0, beta = 0;
        for (int j = 0; j < steps; ++j) {
            signals.poll();
            if (with_delta) basis_.push_back(v);
            for (index k = 0; k < n; ++k) scaled[k] = v[k] * root[k];
            kernels_.multiply(scaled.data(), w.data());
            ++out.products;
            for (index k = 0; k < n; ++k) w[k] = w[k] * root[k] - beta * older[k];
            const double alpha = inner(v.data(), w.data(), n);
            for (index k = 0; k < n; ++k) w[k] -= alpha * v[k];
            const double rest = inner(w.data(), w.data(), n);
            alpha_.push_back(alpha);
            beta_.push_back(beta = std::sqrt(rest));
            const bool exhausted = !(beta > 1e-12 * (std::fabs(alpha) + (j > 0 ? beta_[j - 1] : 0.0)));
            const bool look = exhausted || j + 1 == steps || (j + 1 >= first_look && (j + 1) % 8 == 0);
            if (look) {
                const double was = low;
                std::tie(low, high) = ritz();
                // Lowest Ritz values settle last; one that has moved little in eight steps will do.
                if (exhausted || (was > 0 && std::fabs(was - low) < 0.05 * low)) break;
            }
            std::swap(older, v);
            for (index k = 0; k < n; ++k) v[k] = w[k] / beta;
        }
        constexpr double below_one = 1 - 1e-9;
        out.mu = std::clamp(std::max(1 - low, high - 1), 0.0, below_one);
        out.alpha = low > 0 ? 1 / low : 1e9;
        if (with_delta) out.delta = std::max(0.0, largest_quotient(out));
        return out;
    }

private:
    static constexpr int first_look = 16;

    // The smallest and the largest eigenvalue of the tridiagonal matrix, by bisection.
    std::pair<double, double> ritz() const {
        const std::size_t m = alpha_.size();
        double left = alpha_[0], right = alpha_[0];
        for (std::size_t i = 0; i < m; ++i) {
            const double radius = (i > 0 ? beta_[i - 1] : 0.0) + (i + 1 < m ? beta_[i] : 0.0);
            left = std::min(left, alpha_[i] - radius);
            right = std::max(right, alpha_[i] + radius);
        }
        // How many eigenvalues are below x: the negative pivots of T - x I.
        const auto below = [&](double x) {
            std::size_t count = 0;
            double pivot = 1;
            for (std::size_t i = 0; i < m; ++i) {
                pivot = alpha_[i] - x - (i > 0 ? beta_[i - 1] * beta_[i - 1] / pivot : 0.0);
                if (std::fabs(pivot) < 1e-300) pivot = -1e-300;
                count += pivot < 0;
            }
            return count;
        };
        const auto bisect = [&](std::size_t wanted) {
            double low = left, high = right;
            for (int k = 0; k < 60 && high - low > 1e-15 * (std::fabs(low) + std::fabs(high)); ++k) {
                const double middle = 0.5 * (low + high);
                (below(middle) >= wanted ? high : low) = middle;
            }
            return 0.5 * (low + high);
        };
        return {bisect(1), bisect(m)};
    }
    dense::small_matrix<double> tridiagonal() const {
        const auto m = static_cast<int>(alpha_.size());
        dense::small_matrix<double> t(m, m);
        for (int i = 0; i < m; ++i) {
            t(i, i) = alpha_[i];
            if (i + 1 < m) t(i + 1, i) = t(i, i + 1) = beta_[i];
        }
        return t;
    }

    // max y' (L~ L~' - I / 4) y / y' A~ y on the Krylov space; L~ = D^-1/2 L D^-1/2.
    double largest_quotient(api::spectrum& out) {
        const auto m = static_cast<int>(basis_.size());
        const index n = matrix_.size();
        const auto size = static_cast<std::size_t>(n);
        std::vector<aligned_vector<double>> image;  // L~' v
        for (const auto& v : basis_) {
            image.emplace_back(size);
            upper_product(v, image.back());
            ++out.products;
        }
        dense::small_matrix<double> g(m, m), t(m, m);
        for (int j = 0; j < m; ++j)
            for (int i = j; i < m; ++i)
                g(i, j) = g(j, i) = inner(image[i].data(), image[j].data(), n) - (i == j ? 0.25 : 0.0);
        t = tridiagonal();
        // Cholesky of T, then the symmetric C^-1 G C^-T.
        for (int j = 0; j < m; ++j) {
            for (int k = 0; k < j; ++k)
                for (int i = j; i < m; ++i) t(i, j) -= t(i, k) * t(j, k);
            if (!(t(j, j) > 0)) return 0;
            const double pivot = std::sqrt(t(j, j));
            for (int i = j; i < m; ++i) t(i, j) /= pivot;
        }
        const auto forward = [&](auto&& entry) {
            for (int i = 0; i < m; ++i) {
                for (int k = 0; k < i; ++k) entry(i) -= t(i, k) * entry(k);
                entry(i) /= t(i, i);
            }
        };
        for (int c = 0; c < m; ++c) forward([&](int i) -> double& { return g(i, c); });
        for (int r = 0; r < m; ++r) forward([&](int i) -> double& { return g(r, i); });
        std::vector<double> values(static_cast<std::size_t>(m));
        if (dense::lapack().syevd('N', 'L', m, g.values.data(), m, values.data()) != 0) return 0;
        return values.back();
    }

    // y = D^-1/2 U D^-1/2 v; padding has the value 0 and column 0.
    void upper_product(const aligned_vector<double>& v, aligned_vector<double>& y) const {
        constexpr int height = sliced_pattern::height;
        const sweep_layout& layout = matrix_.layout();
        const sliced_pattern& s = layout.slices;
        aligned_vector<double> scaled(v.size());
        for (index k = 0; k < matrix_.size(); ++k) scaled[k] = v[k] * root_[k];
        for (index slice = 0; slice < s.slices(); ++slice) {
            double sum[height] = {};
            for (index q = layout.middle[slice]; q < s.begin[slice + 1]; ++q) {
                const double* values = matrix_.values() + q * height;
                const std::int32_t* columns = s.columns.data() + q * height;
                for (int lane = 0; lane < height; ++lane) sum[lane] += values[lane] * scaled[columns[lane]];
            }
            const index row = s.row_begin[slice];
            for (index i = row; i < s.row_begin[slice + 1]; ++i) y[i] = sum[i - row] * root_[i];
        }
    }

    const sweep_matrix& matrix_;
    sweep_kernels kernels_;
    aligned_vector<double> root_;  // D^-1/2
    std::vector<double> alpha_, beta_;
    std::vector<aligned_vector<double>> basis_;
};

// What a stencil needs is found in its first row; the layout of other matrices is made when first asked for.
class cpu_sweeper final : public sweeper {
public:
    cpu_sweeper(const pattern_view& a, const double* values, api::order order, std::vector<std::int32_t> rows,
                interrupt& signals)
        : n_(a.rows), order_(order), rows_(std::move(rows)) {
        pattern_.rows = pattern_.cols = a.rows;
        pattern_.indptr.assign(a.indptr, a.indptr + a.rows + 1);
        pattern_.indices.assign(a.indices, a.indices + a.nnz());
        for (auto* v : {&b_, &x_, &shown_}) v->resize(static_cast<std::size_t>(n_));
        take(values, signals);
    }

    index size() const override { return n_; }
    index levels() const override { return stencil_ ? 2 : matrix_ ? matrix_->layout().levels() : 0; }
    bool stencil() const override { return stencil_.has_value(); }

    void update(const double* values) override {
        interrupt none;
        take(values, none);
    }

    api::report sor(vec<const double> b, vec<double> x, double shift, const api::sor_options& options,
                    interrupt& signals, const api::monitor& monitor) override {
        if (stencil_) {
            const thread_scope threads(options.n_threads);
            backend be(signals);
            stencil_kernels kernels(be, *stencil_, shift);
            drivers::relaxation::sor_solver<backend, stencil_kernels> solver(be, kernels, options, monitor);
            return solver.run(b, x);
        }
        return in_order(b, x, shift, options.n_threads, signals, [&](backend& be, vec<double> ordered) {
            sweep_kernels kernels(be, *matrix_);
            const api::monitor natural = in_natural_order(monitor);
            drivers::relaxation::sor_solver<backend, sweep_kernels> solver(be, kernels, options, natural);
            return solver.run(vec<double>{b_.data(), n_}, ordered);
        });
    }

    api::report ssor_cg(vec<const double> b, vec<double> x, double shift, const api::ssor_options& options,
                        interrupt& signals, const api::monitor& monitor) override {
        return in_order(b, x, shift, options.n_threads, signals, [&](backend& be, vec<double> ordered) {
            sweep_kernels kernels(be, *matrix_);
            const api::monitor natural = in_natural_order(monitor);
            if (!options.eisenstat) return plain(be, kernels, ordered, options, signals, natural);
            drivers::relaxation::eisenstat_solver<backend, sweep_kernels> solver(be, kernels, options,
                                                                                 natural);
            return solver.run(vec<double>{b_.data(), n_}, ordered);
        });
    }

    api::spectrum estimate(vec<const double> b, double shift, int steps, bool with_delta, int n_threads,
                           interrupt& signals) override {
        const thread_scope threads(n_threads);
        backend be(signals);
        current(signals).set_shift(shift);
        matrix_->gather(b.data, b_.data());
        return lanczos(be, *matrix_).run(b_.data(), steps, with_delta, signals);
    }

private:
    void take(const double* values, interrupt& signals) {
        if (order_ == api::order::redblack) stencil_ = find_stencil(pattern_.view(), values);
        stale_ = stencil_.has_value();
        if (stencil_)
            values_.assign(values, values + pattern_.nnz());
        else
            layout(signals).update(values);
    }
    sweep_matrix& layout(interrupt& signals) {
        if (!matrix_)
            matrix_ = std::make_unique<sweep_matrix>(make_sweep_layout(
                pattern_.view(), sweep_rows(pattern_.view(), order_, rows_), [&signals] { signals.poll(); }));
        return *matrix_;
    }
    // The layout with the numbers of the last update.
    sweep_matrix& current(interrupt& signals) {
        if (stale_) layout(signals).update(values_.data());
        stale_ = false;
        return *matrix_;
    }

    template <class Solve>
    api::report in_order(vec<const double> b, vec<double> x, double shift, int n_threads, interrupt& signals,
                         Solve solve) {
        const thread_scope threads(n_threads);
        backend be(signals);
        current(signals).set_shift(shift);
        matrix_->gather(b.data, b_.data());
        matrix_->gather(x.data, x_.data());
        const vec<double> ordered{x_.data(), n_};
        api::report report = solve(be, ordered);
        matrix_->scatter(x_.data(), x.data);
        return report;
    }

    api::monitor in_natural_order(const api::monitor& monitor) {
        if (!monitor) return {};
        return [this, &monitor](const api::step& s) {
            if (s.x == nullptr) return monitor(s);
            matrix_->scatter(s.x, shown_.data());
            return monitor({s.iteration, s.residual, s.target, shown_.data()});
        };
    }

    api::report plain(backend& be, sweep_kernels& kernels, vec<double> x, const api::ssor_options& options,
                      interrupt& signals, const api::monitor& monitor) {
        product_map product(kernels, n_);
        ssor_inverse inverse(be, kernels, n_, options.omega);
        aitken::short_recurrence::options o;
        o.rtol = options.rtol;
        o.atol = options.atol;
        o.max_iterations = options.max_iterations;
        o.report_x = options.report_x;
        aitken::krylov::space<double> nothing;
        aitken::krylov::monitor<double> watch;
        if (monitor)
            watch = [&](const aitken::krylov::step<double>& s) {
                return monitor({s.iteration, s.residual, s.target, s.x});
            };
        auto r = cpu::short_recurrence::solve<double>(product, &inverse, {b_.data(), n_}, x, o, nothing,
                                                      false, signals, watch);
        api::report out;
        out.status = r.status;
        out.detail = std::move(r.detail);
        out.iterations = r.iterations;
        out.matvecs = r.matvecs;
        out.residual = r.residual;
        out.norm_b = r.norm_b;
        out.target = r.target;
        out.omega = options.omega;
        out.history = std::move(r.history);
        out.counts = r.counts;
        return out;
    }

    index n_;
    api::order order_;
    std::vector<std::int32_t> rows_;
    sparse_pattern pattern_;
    std::optional<grid_stencil> stencil_;
    std::vector<double> values_;  // of a stencil, in case its layout is asked for
    std::unique_ptr<sweep_matrix> matrix_;
    bool stale_ = false;                    // the layout has not got the last values
    aligned_vector<double> b_, x_, shown_;  // in the order of the levels
};

// Complex sweeps, plainly: vectors come from the driver as pairs of doubles.
class serial_kernels {
    using complex = std::complex<double>;

public:
    serial_kernels(backend& be, const pattern_view& a, const complex* values, double shift)
        : be_(be), a_(a), values_(values), shift_(shift) {
        const auto n = static_cast<std::size_t>(a.rows);
        inverse_.resize(n);
        left_.assign(n, 0.0);
        for (index i = 0; i < a.rows; ++i) {
            complex d = shift;
            for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
                if (a.indices[p] == i) d += values[p];
            inverse_[i] = inverse(d);
            if (!finite(inverse_[i]) || !finite(d))
                throw std::invalid_argument("the diagonal of row " + std::to_string(i) +
                                            " is zero or has no inverse");
        }
    }

    void residual(vec<const double> b, vec<const double> x, scalar_ref norm2) {
        be_.launched();
        double sum = 0;
        const complex *from = numbers(b.data), *at = numbers(x.data);
        for (index i = 0; i < a_.rows; ++i) {
            complex r = from[i] - shift_ * at[i];
            for (index p = a_.indptr[i]; p < a_.indptr[i + 1]; ++p) r -= times(values_[p], at[a_.indices[p]]);
            sum += square(r);
        }
        *norm2.address() = sum;
    }

    void sweep(api::direction half, double omega, bool fresh, vec<const double> b, vec<double> x,
               scalar_ref before2, scalar_ref change2) {
        be_.launched();
        const bool forward = half == api::direction::forward;
        const complex* from = numbers(b.data);
        auto* at = reinterpret_cast<complex*>(x.data);
        double before = 0, change = 0;
        for (index k = 0; k < a_.rows; ++k) {
            const index i = forward ? k : a_.rows - 1 - k;
            complex lower = 0, upper = 0;
            for (index p = a_.indptr[i]; p < a_.indptr[i + 1]; ++p) {
                const index j = a_.indices[p];
                if (j != i) (j < i ? lower : upper) += times(values_[p], at[j]);
            }
            const complex later = forward ? upper : lower;
            const complex step = times(times(from[i] - lower - upper, inverse_[i]) - at[i], omega);
            if (!fresh) before += square(left_[i] - later);
            left_[i] = times(times(step, inverse(inverse_[i])), 1 / omega - 1) + later;
            at[i] += step;
            change += square(step);
        }
        *before2.address() = before;
        *change2.address() = change;
    }

private:
    static const complex* numbers(const double* x) { return reinterpret_cast<const complex*>(x); }

    backend& be_;
    const pattern_view& a_;
    const complex* values_;
    double shift_;
    std::vector<complex> inverse_, left_;
};

}  // namespace

bool is_stencil(const pattern_view& a, const double* values) { return find_stencil(a, values).has_value(); }

api::report sor_serial(const pattern_view& a, const std::complex<double>* values,
                       vec<const std::complex<double>> b, vec<std::complex<double>> x, double shift,
                       const api::sor_options& options, interrupt& signals, const api::monitor& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    serial_kernels kernels(be, a, values, shift);
    drivers::relaxation::sor_solver<backend, serial_kernels> solver(be, kernels, options, monitor);
    return solver.run({reinterpret_cast<const double*>(b.data), 2 * b.size},
                      {reinterpret_cast<double*>(x.data), 2 * x.size});
}

std::unique_ptr<sweeper> make_sweeper(const pattern_view& a, const double* values, api::order order,
                                      const std::vector<std::int32_t>& rows, interrupt& signals) {
    return std::make_unique<cpu_sweeper>(a, values, order, rows, signals);
}

}  // namespace aitken::cpu::relaxation
