// Low-rank matrix completion by alternating minimisation, written once for every backend.
//
// A sweep solves for V with U fixed, then for U with V fixed. Where nothing is penalised the factor just
// found is made orthonormal, its triangle going into the other one: the product stays, scales stay balanced,
// and a factor that loses rank is seen. Launches per sweep: those of two half sweeps (the kernel set's to
// state), with `balance` 4 more; reads 1, with `balance` 2 more, with a holdout or an error that the solves
// do not know well enough 1 more. Asserted by csrc/tests/test_completion.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/api/completion.hpp"
#include "core/backend.hpp"
#include "dense/lapack_table.hpp"
#include "dense/small.hpp"

namespace aitken::drivers::completion {

using namespace aitken::completion;

inline side other(side s) { return s == side::rows ? side::columns : side::rows; }

// Small matrices are row-major doubles in the backend's memory. R stands for the residual m - fit of the
// entries seen, 0 elsewhere.
template <class K>
concept AlsKernels =
    requires(K& k, side s, const half_options& o, matrix<typename K::value> p, vec<const double> small,
             vec<double> out, scalar_ref r, int count, bool flag, double x, std::uint64_t seed) {
        { k.rank() } -> std::same_as<int>;
        k.set_rank(count);  // columns beyond the rank hold anything
        { k.capacity() } -> std::same_as<int>;
        { k.size(s) } -> std::same_as<index>;
        { k.factor(s) } -> std::same_as<matrix<typename K::value>>;        // without the biases
        { k.panel(s, count) } -> std::same_as<matrix<typename K::value>>;  // new memory, a row per row of s

        // Makes the design of a half sweep for s from the other factor; it stays until that one changes.
        k.prepare(s, o);
        { k.design(s) } -> std::same_as<matrix<const typename K::value>>;  // the columns solved for
        k.set_basis(small, small);  // eigenvalues, eigenvectors by rows, of the design's Gram matrix
        // Solves for s. Sum w r^2 (with `background`: over all entries) as the solve knows it, inner
        // iterations, rows that needed a larger ridge.
        k.half_sweep(s, o, r, r, r);

        k.squared_error(flag, o, r);  // of the holdout or the training entries seen; by o.kind
        { k.weight(flag) } -> std::same_as<double>;
        { k.has_holdout() } -> std::same_as<bool>;
        k.sample_residuals(out);  // |r| of entries spread over all

        k.gram(p, out);            // p' p
        k.transform(p, small, p);  // q = p P; q may be p
        k.row_norms(p, out);       // |p_i|
        k.clip(p, x);              // longer rows shortened to x
        k.randomise(p, seed, x);   // N(0, x^2)
        k.spread(s, p, p, flag);   // y = R x for rows, R' x for columns; `flag`: entries over sqrt(degrees)
        k.over_root_degree(s, p);  // p_i / sqrt(entries of row i + the mean of these)
        k.save(count);             // both factors, into one of two places
        k.load(count);
    };

// p' p on the host. 1 launch, 1 read.
template <Backend B, AlsKernels K>
dense::small_matrix<double> gram_on_host(B& be, K& k, matrix<const typename K::value> p, vec<double> room) {
    dense::small_matrix<double> g(static_cast<int>(p.cols), static_cast<int>(p.cols));
    const vec<double> to{room.data, p.cols * p.cols};
    k.gram(p, to);
    be.download(vec<const double>(to), g.values.data());
    return g;
}

// Solves for s with the other factor fixed. `room` has at least m (m + 1) numbers for m columns; it is used
// where rows share a preconditioner alone, which costs 1 read and 2 uploads.
template <Backend B, AlsKernels K>
void half_sweep(B& be, K& k, side s, const half_options& o, vec<double> room, scalar_ref error,
                scalar_ref iterations, scalar_ref retries) {
    k.prepare(s, o);
    if (o.solver == inner::qcg && !o.nonneg) {
        dense::small_matrix<double> g = gram_on_host(be, k, k.design(s), room);
        std::vector<double> values(static_cast<std::size_t>(g.cols));
        if (dense::lapack().syevd('V', 'U', g.cols, g.values.data(), g.rows, values.data()) != 0)
            std::fill(g.values.begin(), g.values.end(), std::numeric_limits<double>::quiet_NaN());
        const vec<double> vectors = room.slice(0, static_cast<index>(g.values.size()));
        const vec<double> to = room.slice(vectors.size, g.cols);
        be.upload(g.values.data(), vectors);  // LAPACK's columns are rows to us
        be.upload(values.data(), to);
        k.set_basis(to, vectors);
    }
    k.half_sweep(s, o, error, iterations, retries);
}

template <Backend B, AlsKernels K>
class als_solver {
    using value = typename K::value;

public:
    als_solver(B& be, K& kernels, const options& options, const monitor& monitor)
        : be_(be), k_(kernels), opt_(options), monitor_(monitor), half_(options.half) {
        for (scalar_ref& s : scalars_) s = be.scalar();
        const auto m = static_cast<index>(std::max(k_.capacity() + 1, most_panel()));
        small_ = be.template allocate<double>(m * (m + 1));
    }

    // From the factors in the kernel set; the solution is there afterwards.
    report run() {
        begun_ = std::chrono::steady_clock::now();
        weight_ = opt_.weight > 0 ? opt_.weight : k_.weight(false);
        error_ = norm2();
        scale_ = std::sqrt(std::max(error_ + opt_.constant, 0.0) / weight_);
        begin();
        if (!ended_) iterate(opt_.max_sweeps, opt_.lam_path, true);
        finish();
        out_.rank = k_.rank();
        out_.counts = be_.counts();
        return std::move(out_);
    }

private:
    static constexpr int oversample = 10, power_steps = 4, pair_panel = 3, pair_steps = 8;
    static constexpr int last_finite = 0, best = 1;  // places to save factors in
    static constexpr double epsilon = std::numeric_limits<value>::epsilon();
    // Relative to the entries: below, rounding and the ridge that keeps matrices regular are all there is.
    static constexpr double noise = std::is_same_v<value, double> ? 1e-11 : 16 * epsilon;

    int most_panel() const {
        return opt_.begin == start::spectral
                   ? static_cast<int>(std::min<index>(
                         {k_.capacity() + oversample, k_.size(side::rows), k_.size(side::columns)}))
                   : pair_panel;
    }

    // ---- starts ---------------------------------------------------------------------------------------

    void begin() {
        switch (opt_.begin) {
            case start::given:
                return;
            case start::random:
                for (const side s : {side::rows, side::columns})
                    k_.randomise(k_.factor(s), half_.seed + (s == side::columns),
                                 1 / std::sqrt(static_cast<double>(k_.rank())));
                return;
            case start::spectral:
                spectral();
                return;
            case start::increment:
                increment();
        }
    }

    // Leading left singular vectors of R by subspace iteration: leaves a panel Y with orthonormal columns and
    // returns the small matrix W of which Y W are the vectors.
    dense::small_matrix<double> leading(matrix<value> x, matrix<value> y, int steps, bool by_degree) {
        k_.spread(side::rows, x, y, by_degree);
        for (int step = 0; step < steps; ++step) {
            orthonormalise(y, nullptr);
            k_.spread(side::columns, y, x, by_degree);
            orthonormalise(x, nullptr);
            k_.spread(side::rows, x, y, by_degree);
            be_.interrupts().poll();
        }
        orthonormalise(y, nullptr);
        k_.spread(side::columns, y, x, by_degree);
        dense::small_matrix<double> w = gram_of(x);
        std::vector<double> values(static_cast<std::size_t>(w.cols));
        if (dense::lapack().syevd('V', 'U', w.cols, w.values.data(), w.rows, values.data()) != 0)
            w = dense::small_matrix<double>(w.rows, w.cols);
        for (int j = 0; j < w.cols / 2; ++j)  // the largest first
            std::swap_ranges(w.col(j), w.col(j) + w.rows, w.col(w.cols - 1 - j));
        return w;
    }

    void spectral() {
        const int rank = k_.capacity(), m = most_panel();
        k_.set_rank(0);  // R is then the entries themselves
        const matrix<value> x = k_.panel(side::columns, m), y = k_.panel(side::rows, m);
        k_.randomise(x, half_.seed, 1.0);
        dense::small_matrix<double> w = leading(x, y, power_steps, opt_.by_degree);
        w.values.resize(static_cast<std::size_t>(w.rows) * rank);
        w.cols = rank;
        k_.set_rank(rank);
        const matrix<value> u = k_.factor(side::rows);
        transform(y, w, u);
        if (opt_.by_degree) {
            k_.over_root_degree(side::rows, u);
            orthonormalise(u, nullptr);
        }
        if (opt_.clip) clip(u);
        k_.randomise(k_.factor(side::columns), half_.seed, 0.0);
    }

    // Rows twice as long as nine tenths of them, and twice as long as in an incoherent factor, are shortened.
    void clip(matrix<value> u) {
        const vec<double> lengths = be_.template allocate<double>(u.rows);
        k_.row_norms(u, lengths);
        std::vector<double> host(static_cast<std::size_t>(u.rows));
        be_.download(vec<const double>(lengths), host.data());
        const std::size_t at = host.size() - 1 - host.size() / 10;
        std::nth_element(host.begin(), host.begin() + static_cast<std::ptrdiff_t>(at), host.end());
        const double even = std::sqrt(static_cast<double>(u.cols) / static_cast<double>(u.rows));
        k_.clip(u, 2 * std::max(even, host[at]));
        orthonormalise(u, nullptr);
    }

    void increment() {
        const int rank = k_.capacity();
        const matrix<value> x = k_.panel(side::columns, pair_panel), y = k_.panel(side::rows, pair_panel);
        k_.set_rank(opt_.from_rank);
        for (int r = opt_.from_rank + 1; r <= rank; ++r) {
            const int m = static_cast<int>(std::min<index>({pair_panel, x.rows, y.rows}));
            const matrix<value> xm{x.data, x.rows, m, x.ld}, ym{y.data, y.rows, m, y.ld};
            k_.randomise(xm, half_.seed + static_cast<std::uint64_t>(r), 1.0);
            dense::small_matrix<double> w = leading(xm, ym, pair_steps, opt_.by_degree);
            w.values.resize(static_cast<std::size_t>(w.rows));
            w.cols = 1;
            k_.set_rank(r);
            const auto column = [r](matrix<value> f) {
                return matrix<value>{f.data + r - 1, f.rows, 1, f.ld};
            };
            transform(ym, w, column(k_.factor(side::rows)));
            if (opt_.by_degree) k_.over_root_degree(side::rows, column(k_.factor(side::rows)));
            k_.randomise(column(k_.factor(side::columns)), half_.seed, 0.0);
            if (r == rank) return;
            index count = opt_.per_rank;
            do {
                iterate(std::min<index>(opt_.max_sweeps, out_.sweeps + count), {}, false);
                if (ended_ || out_.sweeps >= opt_.max_sweeps) return;
                count = 4;
            } while (falls_fast());  // this rank may be all there is
        }
    }

    bool falls_fast() const {
        const std::vector<double>& errors = out_.history_train;
        return errors.size() > 1 && errors.back() < 0.7 * errors[errors.size() - 2];
    }

    // ---- sweeps ---------------------------------------------------------------------------------------

    // Sweeps until `limit` of them are done in all; `last`: or until a stopping rule holds.
    void iterate(index limit, const std::vector<double>& path, bool last) {
        int small_changes = 0;
        if (out_.sweeps == 0) k_.save(last_finite);
        for (index t = 0; out_.sweeps < limit; ++t) {
            be_.interrupts().poll();
            const bool eased = t < static_cast<index>(path.size());
            half_.lam = eased ? path[static_cast<std::size_t>(t)] : opt_.half.lam;
            const double before = rmse_;
            sweep(half_);
            if (!std::isfinite(rmse_)) {
                k_.load(last_finite);
                return end(ending::nonfinite);
            }
            k_.save(last_finite);
            if (k_.has_holdout()) look_at_holdout();
            if (monitor_ && monitor_({out_.sweeps, k_.rank(), half_.lam, rmse_, holdout_}))
                return end(ending::callback);
            if (rmse_ <= std::max(opt_.atol, noise * scale_)) return end(ending::floor);
            if (eased || !last) continue;
            if (k_.has_holdout() && waiting_ >= opt_.patience) {
                k_.load(best);
                return end(ending::holdout);
            }
            small_changes = std::abs(before - rmse_) <= opt_.tol * rmse_ ? small_changes + 1 : 0;
            if (small_changes >= 2) return end(ending::tolerance);
        }
        if (last) end(ending::sweeps);
    }

    void end(ending why) {
        ended_ = true;
        out_.why = why;
    }

    // Both half sweeps, and the training error behind them.
    void sweep(const half_options& given) {
        half_options o = given;
        if (o.kind != loss::linear && opt_.auto_delta) o.delta = delta_of(o.kind);
        half_.delta = o.delta;
        half_.sweep = o.sweep = static_cast<std::uint32_t>(out_.sweeps);
        for (const side s : {side::columns, side::rows}) {
            const bool first = s == side::columns;
            completion::half_sweep(be_, k_, s, o, small_, error_of_, scalars_[first ? 1 : 2],
                                   scalars_[first ? 3 : 4]);
            if (opt_.balance) balance(s);
        }
        const auto [error, inner_v, inner_u, retries_v, retries_u] =
            read(be_, error_of_, scalars_[1], scalars_[2], scalars_[3], scalars_[4]);
        // What remains of a sum of squares after subtraction: only its leading digits, if it fell by much.
        const bool direct = o.solver == inner::exact || o.nonneg;
        const bool known =
            o.kind == loss::linear && (!direct || (std::is_same_v<value, double> && error >= 1e-6 * error_));
        train_error_ = known ? error + opt_.constant : squared_error(false, o);
        rmse_ = train_error_ < 0 ? 0 : std::sqrt(train_error_ / weight_);  // NaN stays
        ++out_.sweeps;
        out_.retries += static_cast<index>(retries_v + retries_u);
        out_.history_train.push_back(rmse_);
        out_.history_lam.push_back(o.lam);
        out_.history_inner.push_back(static_cast<index>(inner_v + inner_u));
        out_.history_rank.push_back(k_.rank());
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begun_;
        out_.history_seconds.push_back(passed.count());
    }

    void forget_sweep() {
        --out_.sweeps;
        out_.history_train.pop_back();
        out_.history_lam.pop_back();
        out_.history_inner.pop_back();
        out_.history_rank.pop_back();
        out_.history_seconds.pop_back();
    }

    void look_at_holdout() {
        holdout_ = std::sqrt(squared_error(true, half_options{}) / k_.weight(true));
        out_.history_holdout.push_back(holdout_);
        if (holdout_ < best_holdout_ * (1 - 1e-4)) {
            waiting_ = 0;
        } else {
            ++waiting_;
        }
        if (holdout_ < best_holdout_) {
            best_holdout_ = holdout_;
            k_.save(best);
        }
    }

    // Half-quadratic losses turn from squares to lines at a multiple of the median residual.
    double delta_of(loss kind) {
        k_.sample_residuals(sample());
        std::vector<double> host(static_cast<std::size_t>(sample_.size));
        be_.download(vec<const double>(sample_), host.data());
        const auto middle = host.begin() + static_cast<std::ptrdiff_t>(host.size() / 2);
        std::nth_element(host.begin(), middle, host.end());
        // 1.345 sigma keeps 95 % efficiency for Gaussian noise, whose median is 0.6745 sigma.
        const double factor = kind == loss::huber ? 1.345 / 0.6745 : 1e-3;
        const double delta = std::max(factor * *middle, noise * scale_);
        return delta > 0 ? delta : 1;
    }
    vec<double> sample() {
        if (sample_.size == 0) sample_ = be_.template allocate<double>(4096);
        return sample_;
    }

    // ---- orthonormal factors --------------------------------------------------------------------------

    dense::small_matrix<double> gram_of(matrix<const value> p) { return gram_on_host(be_, k_, p, small_); }

    void transform(matrix<value> p, const dense::small_matrix<double>& by, matrix<value> q) {
        std::vector<double> rows(by.values.size());
        for (int i = 0; i < by.rows; ++i)
            for (int j = 0; j < by.cols; ++j) rows[static_cast<std::size_t>(i) * by.cols + j] = by(i, j);
        const vec<double> to{small_.data, static_cast<index>(rows.size())};
        be_.upload(rows.data(), to);
        k_.transform(p, vec<const double>(to), q);
    }

    void balance(side s) {
        const side o = other(s);
        dense::small_matrix<double> push;
        orthonormalise(k_.factor(s), &push);
        if (push.values.empty()) return;
        matrix<value> rest = k_.factor(o), into = rest;
        into.cols = push.cols;
        transform(rest, push, into);
        k_.set_rank(push.cols);
    }

    // p = Q T by pivoted Cholesky of its Gram matrix, twice where squaring has cost digits; p becomes Q.
    // `push` is T': what the other factor is multiplied by for the product to stay. Columns that depend on
    // others are lost: Q then has fewer, if the caller can do with that, else they become 0.
    void orthonormalise(matrix<value> p, dense::small_matrix<double>* push) {
        constexpr double dependent = std::is_same_v<value, double> ? 1e-7 : 1e-5;
        for (int pass = 0; pass < 2; ++pass) {
            const dense::small_matrix<double> g = gram_of(p);
            for (const double x : g.values)
                if (!std::isfinite(x)) return;  // the error of the sweep will tell
            const dense::pivoted_qr<double> f = dense::factor_gram(g, dependent);
            if (f.rank == 0) return;
            dense::small_matrix<double> to = dense::inverse_combination(f);
            if (push != nullptr) {
                dense::small_matrix<double> t = product(g, to);
                for (int i = 0; i < f.rank; ++i)
                    for (int j = 0; j < f.rank; ++j) t(f.perm[i], j) = j <= i ? f.r(j, i) : 0.0;
                *push = push->values.empty() ? t : product(*push, t);
            } else if (f.rank < to.rows) {
                dense::small_matrix<double> padded(to.rows, to.rows);
                std::copy(to.values.begin(), to.values.end(), padded.values.begin());
                to = padded;
            }
            matrix<value> q = p;
            q.cols = to.cols;
            transform(p, to, q);
            p = q;
            if (f.r(f.rank - 1, f.rank - 1) > 1e-3 * f.r(0, 0)) return;
        }
    }

    // ---- errors ---------------------------------------------------------------------------------------

    double norm2() {
        const int rank = k_.rank();
        k_.set_rank(0);
        k_.squared_error(false, half_options{}, error_of_);
        k_.set_rank(rank);
        return read(be_, error_of_)[0];
    }

    double squared_error(bool holdout, const half_options& o) {
        k_.squared_error(holdout, o, error_of_);
        double sum = read(be_, error_of_)[0];
        if (opt_.half.background && !holdout) {
            const dense::small_matrix<double> u = gram_of(k_.factor(side::rows));
            const dense::small_matrix<double> v = gram_of(k_.factor(side::columns));
            for (std::size_t i = 0; i < u.values.size(); ++i) sum += u.values[i] * v.values[i];
        }
        return holdout ? sum : sum + opt_.constant;
    }

    void finish() {
        half_.lam = opt_.half.lam;
        const bool settled = out_.why == ending::tolerance || out_.why == ending::sweeps;
        if (settled && holdout_ > best_holdout_) {
            k_.load(best);  // later sweeps fitted what the holdout does not have
        } else if (opt_.finalize && settled && out_.sweeps > 0 && !half_.nonneg &&
                   half_.solver != inner::exact) {
            half_options exact = half_;
            exact.solver = inner::exact;
            k_.save(last_finite);
            sweep(exact);
            if (!std::isfinite(rmse_)) {
                k_.load(last_finite);
                forget_sweep();
            }
        }
        train_error_ = squared_error(false, half_);
        out_.rmse_train = std::sqrt(std::max(train_error_, 0.0) / weight_);
        if (k_.has_holdout())
            out_.rmse_holdout = std::sqrt(squared_error(true, half_options{}) / k_.weight(true));
        out_.delta = half_.delta;
        out_.loss = train_error_;
        switch (out_.why) {
            case ending::sweeps:
                out_.status = status::max_iterations;
                break;
            case ending::callback:
                out_.status = status::stopped_by_callback;
                break;
            case ending::nonfinite:
                out_.status = status::nonfinite;
                break;
            default:
                out_.status = std::isfinite(out_.rmse_train) ? status::converged : status::nonfinite;
        }
    }

    B& be_;
    K& k_;
    const options& opt_;
    const monitor& monitor_;
    half_options half_;
    report out_;
    std::array<scalar_ref, 5> scalars_;
    scalar_ref& error_of_ = scalars_[0];
    vec<double> small_, sample_{};
    std::chrono::steady_clock::time_point begun_;
    bool ended_ = false;
    int waiting_ = 0;
    double weight_ = 1;
    double error_ = 0, scale_ = 1;  // of the entries themselves: sum w m^2, and its root mean
    double train_error_ = 0;
    double rmse_ = std::numeric_limits<double>::infinity();
    double holdout_ = std::numeric_limits<double>::quiet_NaN();
    double best_holdout_ = std::numeric_limits<double>::infinity();
};

}  // namespace aitken::drivers::completion
