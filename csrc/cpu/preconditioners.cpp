// Preconditioners on the CPU: symbolic and numeric parts come from sparse/, here they are run and applied.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/linear_maps.hpp"
#include "core/philox.hpp"
#include "cpu/sliced_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/chebyshev.hpp"
#include "sparse/block_lu.hpp"
#include "sparse/ic.hpp"
#include "sparse/ilu.hpp"
#include "sparse/levels.hpp"
#include "sparse/scalar.hpp"
#include "sparse/schwarz.hpp"

namespace aitken::cpu {
namespace {

constexpr index chunk_rows = 8192;  // of loops over n: below this one thread is faster
constexpr index wide_level = 4096;  // rows of a level that are worth several threads in a factorisation
constexpr int power_steps = 12;     // of the estimate behind Chebyshev
constexpr double power_safety = 1.1;
constexpr int most_shifts = 12;  // of IC(0)
constexpr double first_shift = 1e-3;

std::string row_text(index row) { return "row " + std::to_string(row); }

[[noreturn]] void bad_values(const std::string& what) { throw std::invalid_argument("`A`: " + what); }

void check_square(const pattern_view& a) {
    if (a.rows != a.cols)
        bad_values("shape (" + std::to_string(a.rows) + ", " + std::to_string(a.cols) + ") is not square");
}

template <class S>
void check_shapes(index n, tall<const S> x, tall<S> y) {
    if (x.rows != n || y.rows != n || x.cols != y.cols)
        throw std::invalid_argument("`x` has shape (" + std::to_string(x.rows) + ", " +
                                    std::to_string(x.cols) + "), `y` (" + std::to_string(y.rows) + ", " +
                                    std::to_string(y.cols) + "); " + std::to_string(n) + " rows are needed");
}

// Vectors lent to one call at a time, so that a map may be applied from several threads.
template <class S>
class scratch_pool {
public:
    class lease {
    public:
        lease(scratch_pool& pool, index size) : pool_(pool) {
            {
                const std::lock_guard lock(pool_.mutex_);
                if (!pool_.idle_.empty()) {
                    block_ = std::move(pool_.idle_.back());
                    pool_.idle_.pop_back();
                }
            }
            if (static_cast<index>(block_.size()) < size) block_.resize(static_cast<std::size_t>(size));
        }
        ~lease() {
            const std::lock_guard lock(pool_.mutex_);
            try {
                pool_.idle_.push_back(std::move(block_));
            } catch (...) {  // no room to remember it: it is freed
            }
        }
        lease(const lease&) = delete;
        lease& operator=(const lease&) = delete;
        S* data() { return block_.data(); }

    private:
        scratch_pool& pool_;
        aligned_vector<S> block_;
    };

    lease take(index size) { return lease(*this, size); }

private:
    std::mutex mutex_;
    std::vector<aligned_vector<S>> idle_;
};

// Entry of the diagonal in every row; throws for a row without one.
std::vector<index> find_diagonal(const pattern_view& a) {
    std::vector<index> position(static_cast<std::size_t>(a.rows), -1);
    for (index i = 0; i < a.rows; ++i) {
        for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
            if (a.indices[p] == i) position[i] = p;
        if (position[i] < 0) bad_values(row_text(i) + " has no entry on the diagonal");
    }
    return position;
}

template <class S>
void invert_diagonal(const std::vector<index>& position, const S* values, aligned_vector<S>& out) {
    const auto n = static_cast<index>(position.size());
    out.resize(position.size());
    for (index i = 0; i < n; ++i) {
        out[i] = inverse(values[position[i]]);
        if (!finite(out[i])) bad_values("the diagonal of " + row_text(i) + " is zero or has no inverse");
    }
}

// A map that can be out of order between a failed update and the next.
template <class Base, class S>
class checked_map : public Base {
public:
    using Base::apply;
    index size() const final { return n_; }
    void apply(tall<const S> x, tall<S> y) final {
        begin(x, y);
        run(x, y, false);
    }
    void apply_adjoint(tall<const S> x, tall<S> y) final {
        begin(x, y);
        run(x, y, true);
    }
    void update(const S* values) final {
        ready_ = false;
        refresh(values);
        ready_ = true;
    }

protected:
    explicit checked_map(const pattern_view& a) : n_(a.rows) { check_square(a); }
    virtual void run(tall<const S> x, tall<S> y, bool adjoint) = 0;
    virtual void refresh(const S* values) = 0;
    const index n_;

private:
    void begin(tall<const S> x, tall<S> y) const {
        if (!ready_)
            throw std::logic_error("the last update failed; update with values that can be factored");
        check_shapes(n_, x, y);
    }
    bool ready_ = false;
};

// ---- Jacobi
// ------------------------------------------------------------------------------------------------

template <class S>
class jacobi_map final : public checked_map<matrix_map<S>, S> {
public:
    explicit jacobi_map(const pattern_view& a)
        : checked_map<matrix_map<S>, S>(a), position_(find_diagonal(a)) {}

protected:
    using checked_map<matrix_map<S>, S>::n_;
    void refresh(const S* values) override { invert_diagonal(position_, values, inverse_); }

    // 24 B and one flop per row (double).
    void run(tall<const S> x, tall<S> y, bool adjoint) override {
        const index chunks = (n_ + chunk_rows - 1) / chunk_rows;
        parallel_chunks(chunks * x.cols, [&](index chunk) {
            const S* from = x.col(chunk / chunks);
            S* to = y.col(chunk / chunks);
            const index first = chunk % chunks * chunk_rows, last = std::min(n_, first + chunk_rows);
            if (is_complex<S> && adjoint)
                for (index i = first; i < last; ++i) to[i] = times(from[i], conjugate(inverse_[i]));
            else
                for (index i = first; i < last; ++i) to[i] = times(from[i], inverse_[i]);
        });
    }

private:
    std::vector<index> position_;
    aligned_vector<S> inverse_;
};

// ---- block Jacobi
// ------------------------------------------------------------------------------------------

template <class S>
class block_jacobi_map final : public checked_map<matrix_map<S>, S> {
public:
    block_jacobi_map(const pattern_view& a, const std::vector<index>& starts)
        : checked_map<matrix_map<S>, S>(a), starts_(starts) {
        check_starts(starts_, n_, "blocks");
        offset_.assign(starts_.size(), 0);
        entries_.assign(starts_.size(), 0);
        for (index b = 0; b < blocks(); ++b) {
            const index first = starts_[b], m = starts_[b + 1] - first;
            offset_[b + 1] = offset_[b] + m * m;
            for (index i = first; i < first + m; ++i)
                for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
                    if (a.indices[p] >= first && a.indices[p] < first + m)
                        copies_.push_back({p, offset_[b] + (i - first) + (a.indices[p] - first) * m});
            entries_[b + 1] = static_cast<index>(copies_.size());
        }
        factors_.resize(static_cast<std::size_t>(offset_.back()));
        pivots_.resize(static_cast<std::size_t>(n_));
    }

protected:
    using checked_map<matrix_map<S>, S>::n_;

    // 2/3 m^3 flops per block of m rows.
    void refresh(const S* values) override {
        std::vector<index> bad(static_cast<std::size_t>(blocks()), -1);
        parallel_chunks(blocks(), [&](index b) {
            std::fill(factors_.begin() + offset_[b], factors_.begin() + offset_[b + 1], S{});
            for (index e = entries_[b]; e < entries_[b + 1]; ++e)
                factors_[copies_[e].to] = values[copies_[e].from];
            bad[b] = lu_factor(factors_.data() + offset_[b], starts_[b + 1] - starts_[b],
                               pivots_.data() + starts_[b]);
        });
        for (index b = 0; b < blocks(); ++b)
            if (bad[b] >= 0)
                bad_values("the diagonal block of rows " + std::to_string(starts_[b]) + " to " +
                           std::to_string(starts_[b + 1] - 1) + " is singular (found at " +
                           row_text(starts_[b] + bad[b]) + ")");
    }

    // 8 m + 16 B and 2 m flops per row of a block of m rows (double).
    void run(tall<const S> x, tall<S> y, bool adjoint) override {
        const index group = 8, chunks = (blocks() + group - 1) / group;
        parallel_chunks(chunks * x.cols, [&](index chunk) {
            const S* from = x.col(chunk / chunks);
            S* to = y.col(chunk / chunks);
            const index first = chunk % chunks * group, last = std::min(blocks(), first + group);
            std::copy(from + starts_[first], from + starts_[last], to + starts_[first]);
            for (index b = first; b < last; ++b)
                (adjoint ? lu_solve_adjoint<S> : lu_solve<S>)(factors_.data() + offset_[b],
                                                              starts_[b + 1] - starts_[b],
                                                              pivots_.data() + starts_[b], to + starts_[b]);
        });
    }

private:
    struct copy {
        index from, to;
    };
    index blocks() const { return static_cast<index>(starts_.size()) - 1; }

    std::vector<index> starts_, offset_, entries_;
    std::vector<copy> copies_;
    aligned_vector<S> factors_;
    std::vector<std::int32_t> pivots_;
};

// ---- triangular factors
// --------------------------------------------------------------------------------------

// The operator P^T (A^-1 + U)^-1 M (B^-1 + L)^-1 P, where the diagonal matrices A, M, B are `after`,
// `middle`, `before` (none: the identity) and P sorts rows by levels. `after` is mirrored as the slices of U
// are.
template <class S>
class triangular_factors {
public:
    explicit triangular_factors(factor_layout made)
        : layout(std::move(made)), buffer(static_cast<std::size_t>(layout.size), S{}) {}

    const factor_layout layout;
    aligned_vector<S> buffer;  // load() and the factorisations write here
    aligned_vector<S> before, middle, after;

    void changed() { adjoint_current_ = false; }  // call after writing any of the above

    // Reads 8 B of values, and 5 B of places per eight of them (double, whole runs), and does 2 flops per
    // entry of L and U; 40 B per row for the permutations. work: n numbers. y may be x.
    void solve(const S* x, S* y, S* work) const {
        permute(x, work);
        sliced_solve(layout.lower_slices, buffer.data(), data(before), work, work);
        mirror(middle, work);
        sliced_solve(layout.upper_slices, buffer.data() + layout.upper_begin, data(after), work, work);
        permute_back(work, y);
    }

    void solve_adjoint(const S* x, S* y, S* work) {
        const adjoint_factors& f = transposed();
        permute(x, work);
        sliced_solve(f.layout.lower_slices, f.lower.data(), data(f.before), work, work);
        mirror(f.middle, work);
        sliced_solve(f.layout.upper_slices, f.upper.data(), data(f.after), work, work);
        permute_back(work, y);
    }

private:
    struct adjoint_factors {
        adjoint_layout layout;
        aligned_vector<S> lower, upper, before, middle, after;
    };

    static const S* data(const aligned_vector<S>& v) { return v.empty() ? nullptr : v.data(); }

    void permute(const S* x, S* work) const {
        const std::int32_t* rows = layout.order.rows.data();
        for (index k = 0; k < layout.n; ++k) work[k] = x[rows[k]];
    }
    void permute_back(const S* work, S* y) const {
        const std::int32_t* rows = layout.order.rows.data();
        for (index k = 0; k < layout.n; ++k) y[rows[k]] = work[layout.n - 1 - k];
    }
    void mirror(const aligned_vector<S>& by, S* work) const {
        for (std::size_t k = 0; k < by.size(); ++k) work[k] = times(work[k], by[k]);
        std::reverse(work, work + layout.n);
    }

    // Made when first asked for, refilled when the numbers have changed.
    const adjoint_factors& transposed() {
        const std::lock_guard lock(mutex_);
        if (adjoint_current_) return *adjoint_;
        if (!adjoint_) {
            adjoint_ = std::make_unique<adjoint_factors>();
            adjoint_->layout = make_adjoint_layout(layout);
        }
        const auto fill = [this](const std::vector<std::uint32_t>& source, aligned_vector<S>& out) {
            out.resize(source.size());
            for (std::size_t p = 0; p < source.size(); ++p)
                out[p] = source[p] == factor_layout::no_slot ? S{} : conjugate(buffer[source[p]]);
        };
        const auto conjugates = [](const aligned_vector<S>& from, aligned_vector<S>& to) {
            to.resize(from.size());
            std::transform(from.begin(), from.end(), to.begin(), [](S s) { return conjugate(s); });
        };
        fill(adjoint_->layout.lower_source, adjoint_->lower);
        fill(adjoint_->layout.upper_source, adjoint_->upper);
        conjugates(after, adjoint_->before);
        conjugates(middle, adjoint_->middle);
        conjugates(before, adjoint_->after);
        std::reverse(adjoint_->before.begin(), adjoint_->before.end());
        std::reverse(adjoint_->after.begin(), adjoint_->after.end());
        adjoint_current_ = true;
        return *adjoint_;
    }

    std::mutex mutex_;
    std::unique_ptr<adjoint_factors> adjoint_;
    bool adjoint_current_ = false;
};

// ILU(0) of one matrix: the symbolic part once, then one pass per set of values.
template <class S>
class ilu0_factors {
public:
    ilu0_factors(const pattern_view& a, bool modified)
        : factors(make_factor_layout(a, coupling::full)), plan_(factors.layout, modified) {
        factors.after.resize(static_cast<std::size_t>(a.rows));
    }

    // The row of a zero or non-finite pivot, or -1.
    index factor(const S* values) {
        const factor_layout& layout = factors.layout;
        layout.load(values, factors.buffer.data());
        index done = 0;  // narrow levels are collected and run in one go
        for (index l = 0; l < layout.order.levels(); ++l) {
            const index first = layout.order.starts[l], rows = layout.order.starts[l + 1] - first;
            if (rows < wide_level) continue;
            plan_.eliminate(done, first, factors.buffer.data(), factors.after.data());
            const index chunk = wide_level / 4;
            parallel_chunks((rows + chunk - 1) / chunk, [&](index c) {
                plan_.eliminate(first + c * chunk, std::min(first + rows, first + (c + 1) * chunk),
                                factors.buffer.data(), factors.after.data());
            });
            done = first + rows;
        }
        plan_.eliminate(done, layout.n, factors.buffer.data(), factors.after.data());
        factors.changed();
        const index bad = first_bad_pivot(factors.after.data(), layout.n);
        return bad < 0 ? -1 : layout.row(bad);
    }

    triangular_factors<S> factors;

private:
    ilu0_plan plan_;
};

// A map whose apply is a pair of triangular solves.
template <class Base, class S>
class factored_map : public checked_map<Base, S> {
protected:
    using checked_map<Base, S>::checked_map;
    using checked_map<Base, S>::n_;
    virtual triangular_factors<S>& factors() = 0;

    void run(tall<const S> x, tall<S> y, bool adjoint) final {
        triangular_factors<S>& f = factors();
        parallel_chunks(x.cols, [&](index j) {
            auto work = scratch_.take(n_);
            if (adjoint)
                f.solve_adjoint(x.col(j), y.col(j), work.data());
            else
                f.solve(x.col(j), y.col(j), work.data());
        });
    }

private:
    scratch_pool<S> scratch_;
};

template <class S>
class ilu0_map final : public factored_map<matrix_map<S>, S> {
public:
    ilu0_map(const pattern_view& a, bool modified) : factored_map<matrix_map<S>, S>(a), ilu_(a, modified) {}

protected:
    triangular_factors<S>& factors() override { return ilu_.factors; }
    void refresh(const S* values) override {
        const index bad = ilu_.factor(values);
        if (bad >= 0) bad_values("zero or non-finite pivot in " + row_text(bad) + " of ILU(0)");
    }

private:
    ilu0_factors<S> ilu_;
};

template <class S>
class ilut_of final : public factored_map<ilut_map<S>, S> {
public:
    ilut_of(const pattern_view& a, double drop, index fill)
        : factored_map<ilut_map<S>, S>(a), drop_(drop), fill_(fill) {
        pattern_.rows = pattern_.cols = a.rows;
        pattern_.indptr.assign(a.indptr, a.indptr + a.rows + 1);
        pattern_.indices.assign(a.indices, a.indices + a.nnz());
    }
    index nnz() const override { return nnz_; }

protected:
    using factored_map<ilut_map<S>, S>::n_;
    triangular_factors<S>& factors() override { return *factors_; }
    void refresh(const S* values) override {
        const incomplete_factors<S> made = ilut(pattern_.view(), values, drop_, fill_);
        nnz_ = made.pattern.nnz();
        factors_ =
            std::make_unique<triangular_factors<S>>(make_factor_layout(made.pattern.view(), coupling::full));
        triangular_factors<S>& f = *factors_;
        f.layout.load(made.values.data(), f.buffer.data());
        f.after.resize(static_cast<std::size_t>(n_));
        for (index k = 0; k < n_; ++k) f.after[n_ - 1 - k] = inverse(f.buffer[f.layout.diagonal_begin + k]);
    }

private:
    double drop_;
    index fill_, nnz_ = 0;
    sparse_pattern pattern_;
    std::unique_ptr<triangular_factors<S>> factors_;
};

template <class S>
class ic0_map final : public factored_map<ic_map<S>, S> {
public:
    ic0_map(const pattern_view& a, double modified)
        : factored_map<ic_map<S>, S>(a),
          factors_(make_factor_layout(a, coupling::lower)),
          plan_(factors_.layout, modified) {
        factors_.after.resize(static_cast<std::size_t>(a.rows));
    }
    double shift() const override { return shift_; }

protected:
    triangular_factors<S>& factors() override { return factors_; }
    void refresh(const S* values) override {
        const factor_layout& layout = factors_.layout;
        index bad = -1;
        for (int attempt = 0; attempt <= most_shifts; ++attempt) {
            shift_ = attempt == 0 ? 0.0 : std::ldexp(first_shift, attempt - 1);
            layout.load(values, factors_.buffer.data());
            if (attempt == 0) check_diagonal();
            bad = plan_.factor(shift_, factors_.buffer.data(), factors_.after.data());
            if (bad < 0) break;
        }
        if (bad >= 0)
            bad_values("the pivot of " + row_text(layout.row(bad)) +
                       " of IC(0) is not positive, even with the diagonal times 1 + " +
                       std::to_string(shift_));
        factors_.changed();
    }

private:
    void check_diagonal() const {  // no shift helps here; the first such row of the matrix is named
        const factor_layout& layout = factors_.layout;
        for (index i = 0; i < layout.n; ++i) {
            const double d = real_part(factors_.buffer[layout.diagonal_begin + layout.place[i]]);
            if (!(d > 0))
                bad_values("the diagonal of " + row_text(i) + " is not positive, which IC(0) needs");
        }
    }

    triangular_factors<S> factors_;
    ic0_plan plan_;
    double shift_ = 0;
};

// M = (D/w + L) (D/w)^-1 (D/w + U) w / (2 - w): L and U are A's own, omega enters through the scales.
template <class S>
class ssor_of final : public factored_map<ssor_map<S>, S> {
public:
    ssor_of(const pattern_view& a, double omega)
        : factored_map<ssor_map<S>, S>(a), factors_(make_factor_layout(a, coupling::full)) {
        find_diagonal(a);
        check_omega(omega);
        omega_ = omega;
        const auto n = static_cast<std::size_t>(a.rows);
        inverse_.resize(n);
        factors_.before.resize(n);
        factors_.middle.resize(n);
        factors_.after.resize(n);
    }
    double omega() const override { return omega_; }
    void set_omega(double omega) override {
        check_omega(omega);
        omega_ = omega;
        scaled_ = false;
    }

protected:
    using factored_map<ssor_map<S>, S>::n_;
    triangular_factors<S>& factors() override {
        const std::lock_guard lock(mutex_);
        if (!scaled_) set_scales();
        return factors_;
    }
    void refresh(const S* values) override {
        const factor_layout& layout = factors_.layout;
        layout.load(values, factors_.buffer.data());
        for (index i = 0; i < n_; ++i) {
            const index k = layout.place[i];
            inverse_[k] = inverse(factors_.buffer[layout.diagonal_begin + k]);
            if (!finite(inverse_[k]))
                bad_values("the diagonal of " + row_text(i) + " is zero or has no inverse");
        }
        scaled_ = false;
    }

private:
    static void check_omega(double omega) {
        if (!(omega > 0 && omega < 2))
            throw std::invalid_argument("`omega` must lie between 0 and 2, got " + std::to_string(omega));
    }
    void set_scales() {
        const double middle = (2 - omega_) / (omega_ * omega_);
        const S* d = factors_.buffer.data() + factors_.layout.diagonal_begin;
        for (index k = 0; k < n_; ++k) {
            factors_.before[k] = factors_.after[n_ - 1 - k] = times(inverse_[k], omega_);
            factors_.middle[k] = times(d[k], middle);
        }
        factors_.changed();
        scaled_ = true;
    }

    std::mutex mutex_;
    triangular_factors<S> factors_;
    aligned_vector<S> inverse_;  // of the diagonal, in the order of the levels
    double omega_ = 1;
    bool scaled_ = false;  // the scales are those of omega_: made by the next application
};

// ---- Chebyshev
// -----------------------------------------------------------------------------------------------

template <class S>
class chebyshev_of final : public checked_map<chebyshev_map<S>, S> {
public:
    chebyshev_of(const pattern_view& a, const S* values, int degree, double lo, double hi, double ratio)
        : checked_map<chebyshev_map<S>, S>(a),
          position_(find_diagonal(a)),
          matrix_(make_csr<S>(a, values)),
          degree_(degree),
          given_lo_(lo),
          given_hi_(hi),
          ratio_(ratio) {
        indptr_.assign(a.indptr, a.indptr + a.rows + 1);
        if (degree < 0) throw std::invalid_argument("`degree` must be >= 0, got " + std::to_string(degree));
        if (hi > 0 && !(lo < hi))
            throw std::invalid_argument("`lo` must be below `hi`, got " + std::to_string(lo) + " and " +
                                        std::to_string(hi));
        if (lo <= 0 && !(ratio > 1))
            throw std::invalid_argument("`ratio` must be above 1, got " + std::to_string(ratio));
    }
    double lo() const override { return lo_; }
    double hi() const override { return hi_; }

protected:
    using checked_map<chebyshev_map<S>, S>::n_;

    void refresh(const S* values) override {
        invert_diagonal(position_, values, inverse_);
        matrix_->update(values);
        hi_ = given_hi_ > 0 ? given_hi_ : std::min(power_safety * spectral_radius(), gershgorin(values));
        lo_ = given_lo_ > 0 ? given_lo_ : hi_ / ratio_;
        if (n_ > 0 && !(std::isfinite(hi_) && hi_ > lo_))
            bad_values("no interval for the Chebyshev polynomial: lo = " + std::to_string(lo_) +
                       ", hi = " + std::to_string(hi_));
        steps_ = drivers::chebyshev_steps(lo_, hi_, degree_ + 1);
    }

    // `degree` products with A and 9 n flops beside each.
    void run(tall<const S> x, tall<S> y, bool adjoint) override {
        // The matrix makes its adjoint when first asked for it.
        const auto alone = adjoint ? std::unique_lock(mutex_) : std::unique_lock<std::mutex>();
        auto scratch = pool_.take(3 * n_);
        S *const r = scratch.data(), *const d = r + n_, *const ad = d + n_;
        for (index j = 0; j < x.cols; ++j) {
            const S* b = x.col(j);
            S* z = y.col(j);
            for (index i = 0; i < n_; ++i) {
                r[i] = times(b[i], jacobi(i, adjoint));
                z[i] = d[i] = times(r[i], steps_[0].step);
            }
            for (std::size_t k = 1; k < steps_.size(); ++k) {
                const auto [keep, step] = steps_[k];
                const tall<const S> from{d, n_, 1, n_};
                if (adjoint)
                    matrix_->apply_adjoint(from, {ad, n_, 1, n_});
                else
                    matrix_->apply(from, {ad, n_, 1, n_});
                for (index i = 0; i < n_; ++i) {
                    r[i] -= times(ad[i], jacobi(i, adjoint));
                    d[i] = times(d[i], keep) + times(r[i], step);
                    z[i] += d[i];
                }
            }
        }
    }

private:
    S jacobi(index i, bool adjoint) const { return adjoint ? conjugate(inverse_[i]) : inverse_[i]; }

    // Of D^-1 A, from below: growth of a fixed random vector in the last of a few steps.
    double spectral_radius() {
        auto scratch = pool_.take(2 * n_);
        S *const v = scratch.data(), *const av = v + n_;
        const philox_stream numbers{0x6368656279ull, 0, 0, 0};
        for (index i = 0; i < n_; ++i) v[i] = S{numbers.uniform(static_cast<std::uint32_t>(i)) - 0.5};
        double growth = 0;
        for (int k = 0; k < power_steps; ++k) {
            double before = 0, after = 0;
            for (index i = 0; i < n_; ++i) before += square(v[i]);
            const double shrink = 1.0 / std::sqrt(before);
            for (index i = 0; i < n_; ++i) v[i] = times(v[i], shrink);
            matrix_->apply(v, av);
            for (index i = 0; i < n_; ++i) {
                v[i] = times(av[i], inverse_[i]);
                after += square(v[i]);
            }
            growth = std::sqrt(after);
            if (!(growth > 0)) break;
        }
        return growth;
    }

    double gershgorin(const S* values) const {
        double largest = 0;
        for (index i = 0; i < n_; ++i) {
            double sum = 0;
            for (index p = indptr_[i]; p < indptr_[i + 1]; ++p) sum += std::abs(values[p]);
            largest = std::max(largest, sum * std::abs(inverse_[i]));
        }
        return largest;
    }

    std::vector<index> position_, indptr_;
    map_ptr<S> matrix_;
    int degree_;
    double given_lo_, given_hi_, ratio_, lo_ = 0, hi_ = 0;
    std::vector<drivers::relaxation_step> steps_;  // one more than the degree
    aligned_vector<S> inverse_;
    scratch_pool<S> pool_;
    std::mutex mutex_;
};

// ---- restricted additive Schwarz
// -----------------------------------------------------------------------------

template <class S>
class schwarz_map final : public checked_map<matrix_map<S>, S> {
public:
    schwarz_map(const pattern_view& a, const std::vector<index>& starts, int overlap, bool exact)
        : checked_map<matrix_map<S>, S>(a) {
        check_starts(starts, n_, "blocks");
        if (overlap < 0)
            throw std::invalid_argument("`overlap` must be >= 0, got " + std::to_string(overlap));
        for (subdomain& made : make_subdomains(a, starts, overlap)) {
            part& p = parts_.emplace_back();
            p.domain = std::move(made);
            const auto m = static_cast<std::size_t>(p.domain.rows.size());
            largest_ = std::max(largest_, static_cast<index>(m));
            if (exact) {
                p.dense.resize(m * m);
                p.pivots.resize(m);
            } else {
                p.ilu = std::make_unique<ilu0_factors<S>>(p.domain.pattern.view(), false);
                p.values.resize(p.domain.source.size());
            }
        }
    }

protected:
    using checked_map<matrix_map<S>, S>::n_;

    void refresh(const S* values) override {
        std::vector<index> bad(parts_.size(), -1);
        parallel_chunks(static_cast<index>(parts_.size()), [&](index s) {
            part& p = parts_[s];
            const sparse_pattern& pattern = p.domain.pattern;
            if (p.ilu) {
                for (std::size_t e = 0; e < p.values.size(); ++e) p.values[e] = values[p.domain.source[e]];
                bad[s] = p.ilu->factor(p.values.data());
            } else {
                std::fill(p.dense.begin(), p.dense.end(), S{});
                for (index i = 0; i < pattern.rows; ++i)
                    for (index e = pattern.indptr[i]; e < pattern.indptr[i + 1]; ++e)
                        p.dense[i + pattern.indices[e] * pattern.rows] = values[p.domain.source[e]];
                bad[s] = lu_factor(p.dense.data(), pattern.rows, p.pivots.data());
            }
        });
        for (std::size_t s = 0; s < parts_.size(); ++s)
            if (bad[s] >= 0)
                bad_values("zero or non-finite pivot in " + row_text(parts_[s].domain.rows[bad[s]]) +
                           " of subdomain " + std::to_string(s));
    }

    void run(tall<const S> x, tall<S> y, bool adjoint) override {
        const auto parts = static_cast<index>(parts_.size());
        if (adjoint) {  // subdomains write into each other's rows: columns alone are independent
            parallel_chunks(x.cols, [&](index j) {
                auto scratch = pool_.take(3 * largest_);
                std::fill(y.col(j), y.col(j) + n_, S{});
                for (part& p : parts_) {
                    const subdomain& d = p.domain;
                    S *const own = scratch.data(), *const solved = own + largest_;
                    const auto m = static_cast<index>(d.rows.size());
                    for (index k = 0; k < m; ++k)
                        own[k] = k >= d.own_begin && k < d.own_end ? x.col(j)[d.rows[k]] : S{};
                    p.solve(own, solved, solved + largest_, true);
                    for (index k = 0; k < m; ++k) y.col(j)[d.rows[k]] += solved[k];
                }
            });
            return;
        }
        parallel_chunks(parts * x.cols, [&](index chunk) {
            const index j = chunk / parts;
            part& p = parts_[chunk % parts];
            const subdomain& d = p.domain;
            auto scratch = pool_.take(3 * largest_);
            S *const local = scratch.data(), *const solved = local + largest_;
            const auto m = static_cast<index>(d.rows.size());
            for (index k = 0; k < m; ++k) local[k] = x.col(j)[d.rows[k]];
            p.solve(local, solved, solved + largest_, false);
            for (index k = d.own_begin; k < d.own_end; ++k) y.col(j)[d.rows[k]] = solved[k];
        });
    }

private:
    struct part {
        subdomain domain;
        std::unique_ptr<ilu0_factors<S>> ilu;  // null: dense
        std::vector<S> values;
        aligned_vector<S> dense;
        std::vector<std::int32_t> pivots;

        void solve(const S* x, S* y, S* work, bool adjoint) {
            const auto m = static_cast<index>(domain.rows.size());
            if (ilu && adjoint) {
                ilu->factors.solve_adjoint(x, y, work);
            } else if (ilu) {
                ilu->factors.solve(x, y, work);
            } else {
                std::copy(x, x + m, y);
                (adjoint ? lu_solve_adjoint<S> : lu_solve<S>)(dense.data(), m, pivots.data(), y);
            }
        }
    };

    std::vector<part> parts_;
    index largest_ = 0;
    scratch_pool<S> pool_;
};

// ---- a real map on complex vectors
// ---------------------------------------------------------------------------

class complex_map final : public linear_map<std::complex<double>> {
public:
    explicit complex_map(std::shared_ptr<linear_map<double>> real) : real_(std::move(real)) {}
    index size() const override { return real_->size(); }
    bool varies() const override { return real_->varies(); }
    void apply(tall<const std::complex<double>> x, tall<std::complex<double>> y) override {
        run(x, y, false);
    }
    void apply_adjoint(tall<const std::complex<double>> x, tall<std::complex<double>> y) override {
        run(x, y, true);
    }

private:
    void run(tall<const std::complex<double>> x, tall<std::complex<double>> y, bool adjoint) {
        const index n = size();
        check_shapes(n, x, y);
        auto scratch = pool_.take(4 * n);
        const tall<double> in{scratch.data(), n, 2, n}, out{scratch.data() + 2 * n, n, 2, n};
        for (index j = 0; j < x.cols; ++j) {
            for (index i = 0; i < n; ++i) {
                in.col(0)[i] = x.col(j)[i].real();
                in.col(1)[i] = x.col(j)[i].imag();
            }
            if (adjoint)
                real_->apply_adjoint(in, out);
            else
                real_->apply(in, out);
            for (index i = 0; i < n; ++i) y.col(j)[i] = {out.col(0)[i], out.col(1)[i]};
        }
    }

    std::shared_ptr<linear_map<double>> real_;
    scratch_pool<double> pool_;
};

// Makers hand out maps that hold values.
template <class Map, class S, class... Arguments>
std::shared_ptr<Map> make_with(const S* values, Arguments&&... arguments) {
    auto map = std::make_shared<Map>(std::forward<Arguments>(arguments)...);
    map->update(values);
    return map;
}

}  // namespace

template <class I, class S>
csr_facts inspect_csr(const raw_csr<I, S>& a, const std::string& name, const std::string& unit) {
    const auto fail = [&name](const std::string& what) {
        throw std::invalid_argument("`" + name + "`: " + what);
    };
    const auto str = [](index i) { return std::to_string(i); };
    constexpr index limit = std::numeric_limits<std::int32_t>::max();
    if (a.rows < 0 || a.cols < 0 || a.rows >= limit || a.cols >= limit)
        fail("shape (" + str(a.rows) + ", " + str(a.cols) + ") is negative or beyond 32-bit indices");
    if (a.n_indptr != a.rows + 1)
        fail("indptr has length " + str(a.n_indptr) + "; " + str(a.rows + 1) + " is needed");
    if (a.indptr[0] != 0) fail("indptr[0] must be 0, got " + str(a.indptr[0]) + " (" + unit + " 0)");
    csr_facts facts;
    std::vector<index> seen;  // last row that used a column; made for the first row that is not sorted
    for (index i = 0; i < a.rows; ++i) {
        const index first = a.indptr[i], last = a.indptr[i + 1];
        if (last < first)
            fail("indptr decreases at " + unit + " " + str(i) + " (" + str(first) + " to " + str(last) + ")");
        if (last > a.n_indices || (a.data && last > a.n_data))
            fail(unit + " " + str(i) + " ends at entry " + str(last) + ", but indices has length " +
                 str(a.n_indices) + (a.data ? " and data " + str(a.n_data) : ""));
        bool sorted = true;
        index before = -1;
        for (index p = first; p < last; ++p) {
            const auto j = static_cast<index>(a.indices[p]);
            if (j < 0 || j >= a.cols)
                fail("index " + str(j) + " in " + unit + " " + str(i) + " is outside 0.." + str(a.cols - 1));
            sorted = sorted && j > before;
            before = j;
            if (a.data && !finite(a.data[p]))
                fail("non-finite value in " + unit + " " + str(i) + ", at index " + str(j));
        }
        if (sorted) continue;
        facts.sorted = false;
        if (!facts.unique) continue;
        if (seen.empty()) seen.assign(static_cast<std::size_t>(a.cols), -1);
        for (index p = first; p < last; ++p) {
            index& last_use = seen[static_cast<std::size_t>(a.indices[p])];
            facts.unique = facts.unique && last_use != i;
            last_use = i;
        }
    }
    return facts;
}

template <class S>
map_ptr<S> make_jacobi(const pattern_view& a, const S* values) {
    return make_with<jacobi_map<S>>(values, a);
}

template <class S>
map_ptr<S> make_block_jacobi(const pattern_view& a, const S* values, const std::vector<index>& starts) {
    return make_with<block_jacobi_map<S>>(values, a, starts);
}

template <class S>
std::shared_ptr<ssor_map<S>> make_ssor(const pattern_view& a, const S* values, double omega) {
    return make_with<ssor_of<S>>(values, a, omega);
}

template <class S>
map_ptr<S> make_ilu0(const pattern_view& a, const S* values, bool modified) {
    return make_with<ilu0_map<S>>(values, a, modified);
}

template <class S>
std::shared_ptr<ilut_map<S>> make_ilut(const pattern_view& a, const S* values, double drop, index fill) {
    if (!(drop >= 0) || fill < 0)
        throw std::invalid_argument("`drop` and `fill` must be >= 0, got " + std::to_string(drop) + " and " +
                                    std::to_string(fill));
    return make_with<ilut_of<S>>(values, a, drop, fill);
}

template <class S>
std::shared_ptr<ic_map<S>> make_ic0(const pattern_view& a, const S* values, double modified) {
    return make_with<ic0_map<S>>(values, a, modified);
}

template <class S>
std::shared_ptr<chebyshev_map<S>> make_chebyshev(const pattern_view& a, const S* values, int degree,
                                                 double lo, double hi, double ratio) {
    return make_with<chebyshev_of<S>>(values, a, values, degree, lo, hi, ratio);
}

template <class S>
map_ptr<S> make_schwarz(const pattern_view& a, const S* values, const std::vector<index>& starts, int overlap,
                        bool exact) {
    return make_with<schwarz_map<S>>(values, a, starts, overlap, exact);
}

std::shared_ptr<linear_map<std::complex<double>>> make_complex(std::shared_ptr<linear_map<double>> real) {
    return std::make_shared<complex_map>(std::move(real));
}

#define AITKEN_INSTANTIATE(S)                                                                                \
    template csr_facts inspect_csr(const raw_csr<std::int32_t, S>&, const std::string&, const std::string&); \
    template csr_facts inspect_csr(const raw_csr<std::int64_t, S>&, const std::string&, const std::string&); \
    template map_ptr<S> make_jacobi(const pattern_view&, const S*);                                          \
    template map_ptr<S> make_block_jacobi(const pattern_view&, const S*, const std::vector<index>&);         \
    template std::shared_ptr<ssor_map<S>> make_ssor(const pattern_view&, const S*, double);                  \
    template map_ptr<S> make_ilu0(const pattern_view&, const S*, bool);                                      \
    template std::shared_ptr<ilut_map<S>> make_ilut(const pattern_view&, const S*, double, index);           \
    template std::shared_ptr<ic_map<S>> make_ic0(const pattern_view&, const S*, double);                     \
    template std::shared_ptr<chebyshev_map<S>> make_chebyshev(const pattern_view&, const S*, int, double,    \
                                                              double, double);                               \
    template map_ptr<S> make_schwarz(const pattern_view&, const S*, const std::vector<index>&, int, bool);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(std::complex<double>)
#undef AITKEN_INSTANTIATE

}  // namespace aitken::cpu
