// One half sweep on the CPU: the least-squares problem of every row of a factor, each from its own entries.
//
// Rows go in chunks of about equal work whose bounds the entries fix, and rows with a large share of all work
// are cut into segments whose sums are added in order: bits do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <vector>

#include "core/api/completion.hpp"
#include "core/philox.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "drivers/completion_losses.hpp"

namespace aitken::cpu::completion {

using api::half_options;
using api::inner;
using api::loss;
using api::observed;

// The row kernels of one scalar type (cpu/simd/table.hpp).
template <class T>
struct row_kernels {
    static constexpr bool single = std::is_same_v<T, float>;
    static constexpr int lanes = single ? AITKEN_SPD_LANES_F32 : AITKEN_SPD_LANES_F64;
    const aitken_simd_table& t = simd();

    template <class F32, class F64>
    static auto pick(F32 f32, F64 f64) {
        if constexpr (single)
            return f32;
        else
            return f64;
    }
#define AITKEN_EITHER(name)                                                           \
    std::conditional_t<single, decltype(t.name##_f32), decltype(t.name##_f64)> name = \
        pick(t.name##_f32, t.name##_f64)
    AITKEN_EITHER(rows_gram);
    AITKEN_EITHER(rows_dot);
    AITKEN_EITHER(rows_combine);
    AITKEN_EITHER(rows_apply);
    AITKEN_EITHER(rows_cg);
    AITKEN_EITHER(spd_solve);
    AITKEN_EITHER(spd_factor);
    AITKEN_EITHER(spd_apply);
#undef AITKEN_EITHER
};

inline constexpr index row_pad = AITKEN_ROW_PAD;  // columns of a stored row are a multiple of this
inline index padded(index columns) {
    return std::max<index>(row_pad, (columns + row_pad - 1) / row_pad * row_pad);
}

// Memory for vector loads of whole rows, zero at first.
template <class T>
class aligned_buffer {
public:
    aligned_buffer() = default;
    explicit aligned_buffer(index n) { grow(n); }

    T* data() const { return data_.get(); }
    index size() const { return size_; }
    // At least n numbers; what was there is lost if there were fewer.
    T* grow(index n) {
        if (n > size_) {
            const auto bytes = sizeof(T) * static_cast<std::size_t>(n);
            data_.reset(static_cast<T*>(::operator new(bytes, alignment)));
            std::memset(static_cast<void*>(data_.get()), 0, bytes);
            size_ = n;
        }
        return data_.get();
    }

private:
    static constexpr std::align_val_t alignment{64};
    struct release {
        void operator()(T* p) const { ::operator delete(p, alignment); }
    };
    std::unique_ptr<T, release> data_;
    index size_ = 0;
};

// Four sums side by side: a chain of n additions would take four times as long.
template <class T>
double dot(const T* x, const T* y, index n) {
    double sum[4] = {0, 0, 0, 0};
    index i = 0;
    for (; i + 4 <= n; i += 4)
        for (int l = 0; l < 4; ++l) sum[l] += static_cast<double>(x[i + l]) * static_cast<double>(y[i + l]);
    for (; i < n; ++i) sum[0] += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The fixed side of a half sweep. Rows of v are padded with zeros to ld, a multiple of row_pad, and aligned.
template <class T>
struct fixed_side {
    matrix<const T> v;           // with biases, column 0 is 1
    const T* offset = nullptr;   // what is taken off the value at column j: the biases
    const T* gram = nullptr;     // background: v'v, all of it, rows of v.ld
    const T* vectors = nullptr;  // qcg: eigenvectors of v'v by rows of v.ld, and eigenvalues
    const T* values = nullptr;
    matrix<const float> single;  // lowprec: v in single precision
};

// Which rows go together.
struct row_plan {
    std::vector<index> bounds{
        0};                    // chunk c holds the rows bounds[c] .. bounds[c + 1], but for the heavy ones
    std::vector<index> heavy;  // rows that segments are made of

    static constexpr index segment = 8192;  // entries

    row_plan() = default;
    row_plan(const pattern_view& a, index columns) {
        const index fixed = columns / 3 + 8;  // what a row costs beside its entries, in entries
        const index total = a.nnz() + fixed * a.rows;
        // Neither so small that a chunk is mostly overhead, nor so large that nobody looks for signals.
        const index aim = std::clamp<index>(total / 512, 2048, 65536);
        const index large = std::clamp<index>(total / 64, 4 * segment, 64 * segment);
        index sum = 0;
        for (index i = 0; i < a.rows; ++i) {
            const index d = a.indptr[i + 1] - a.indptr[i];
            if (d > large) {
                heavy.push_back(i);
                continue;
            }
            sum += d + fixed;
            if (sum >= aim) {
                bounds.push_back(i + 1);
                sum = 0;
            }
        }
        if (bounds.back() < a.rows) bounds.push_back(a.rows);
    }
    index chunks() const { return static_cast<index>(bounds.size()) - 1; }
    bool is_heavy(index row) const { return std::binary_search(heavy.begin(), heavy.end(), row); }
};

using aitken::completion::loss_of;
using aitken::completion::touching_weight;

template <class T>
class half_sweep_solver {
    static constexpr double ridge_floor = std::is_same_v<T, float> ? 1e-6 : 1e-12;
    static constexpr index gather_bytes = 256 << 10;  // a row's block that stays in the second cache

public:
    half_sweep_solver(const observed<T>& rows, const row_plan& plan, const fixed_side<T>& fixed,
                      const half_options& options)
        : rows_(rows), plan_(plan), d_(fixed), opt_(options), k_(fixed.v.cols), ld_(padded(fixed.v.cols)) {}

    // Solves for every row of x (of d.v.cols columns, padded as d.v is) from what it holds.
    api::half_report run(matrix<T> x, interrupt& signals) {
        const index chunks = plan_.chunks();
        scratch_.resize(static_cast<std::size_t>(num_threads()));
        std::vector<api::half_report> part(static_cast<std::size_t>(chunks));
        api::half_report all;
        for (const index row : plan_.heavy) {
            signals.poll();
            add(all, solve_heavy(row, x.row(row), signals));
        }
        // So many chunks at a time that the caller's thread can look for signals every 40 to 100 ms.
        index batch = 4;
        for (index first = 0, count; first < chunks; first += count) {
            signals.poll();
            count = std::min(batch, chunks - first);
            const auto begun = std::chrono::steady_clock::now();
            parallel_chunks(
                count,
                [&](index c, int worker) {
                    part[static_cast<std::size_t>(first + c)] =
                        solve_chunk(first + c, x, scratch_[static_cast<std::size_t>(worker)]);
                },
                chunk_schedule::dynamic);
            const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begun;
            if (passed.count() < 0.04) batch *= 2;  // at its end threads wait for each other
            if (passed.count() > 0.1) batch = std::max<index>(batch / 2, num_threads());
        }
        for (const api::half_report& p : part) add(all, p);
        return all;
    }

private:
    // What a thread works in.
    struct scratch {
        aligned_buffer<T> targets, weights, fits, gathered, panel, lanes, small, sketch;
        aligned_buffer<T> gram, right, solution;  // of rows that wait to be solved together
        aligned_buffer<T> factor;
        aligned_buffer<float> gram32, weights32, panel32, right32;
        std::vector<index> group;      // rows whose matrices wait
        std::vector<double> constant;  // sum w c^2 of each
        std::vector<double> ridge;     // what their diagonals were raised by
    };
    // The equations of one row.
    struct equations {
        const std::int32_t* idx;  // null: gathered
        const T* v;
        const T* w;
        const T* c;
        index d;
        double lam;
    };

    static void add(api::half_report& to, const api::half_report& from) {
        to.squared_error += from.squared_error;
        to.inner_iterations += from.inner_iterations;
        to.retries += from.retries;
    }

    equations make_equations(index row, const T* x, scratch& s) {
        const index first = rows_.a.indptr[row], d = rows_.a.indptr[row + 1] - first;
        equations e{rows_.a.indices + first,
                    d_.v.data,
                    nullptr,
                    rows_.values + first,
                    d,
                    opt_.lam_by_degree ? opt_.lam * static_cast<double>(d) : opt_.lam};
        if (rows_.weights != nullptr) e.w = rows_.weights + first;
        if (d_.offset != nullptr) {
            T* c = s.targets.grow(d);
            for (index j = 0; j < d; ++j) c[j] = e.c[j] - d_.offset[e.idx[j]];
            e.c = c;
        }
        if (opt_.kind != loss::linear) {
            T* fit = s.fits.grow(d);
            T* w = s.weights.grow(d);
            kernels_.rows_dot(e.v, d_.v.ld, e.idx, x, d, k_, fit);
            for (index j = 0; j < d; ++j) {
                const double touch =
                    touching_weight(opt_.kind, static_cast<double>(e.c[j] - fit[j]), opt_.delta);
                w[j] = static_cast<T>(e.w == nullptr ? touch : touch * static_cast<double>(e.w[j]));
            }
            e.w = w;
        }
        return e;
    }

    api::half_report solve_chunk(index chunk, matrix<T> x, scratch& s) {
        api::half_report out;
        s.group.clear();
        s.constant.clear();
        s.ridge.clear();
        const index end = plan_.bounds[static_cast<std::size_t>(chunk) + 1];
        for (index row = plan_.bounds[static_cast<std::size_t>(chunk)]; row < end; ++row) {
            if (!plan_.heavy.empty() && plan_.is_heavy(row)) continue;
            const index d = rows_.a.indptr[row + 1] - rows_.a.indptr[row];
            T* xi = x.row(row);
            if (d == 0 || k_ == 0) {
                std::fill_n(xi, x.ld, T(0));
                continue;
            }
            equations e = make_equations(row, xi, s);
            if (opt_.nonneg)
                solve_nonneg(e, xi, s, out);
            else if (opt_.solver == inner::exact || (opt_.solver == inner::sketch && d <= sketch_rows()))
                collect(row, e, s);
            else
                iterate(row, e, xi, s, out);
            if (static_cast<int>(s.group.size()) == row_kernels<T>::lanes) solve_group(x, s, out);
        }
        solve_group(x, s, out);
        return out;
    }

    // ---- exact: K (K + 1) d flops for the matrix, K^3 / 3 for its factor -------------------------------

    index matrix_size() const { return k_ * ld_; }

    void start_matrix(T* g) const {
        if (d_.gram != nullptr)
            std::copy_n(d_.gram, matrix_size(), g);
        else
            std::fill_n(g, matrix_size(), T(0));
    }
    void start_system(T* g, T* b) const {
        start_matrix(g);
        std::fill_n(b, ld_, T(0));
    }
    // A ridge that rounding does not lose keeps the matrix of too few entries regular: with lam = 0 the
    // solution then tends to that of least norm.
    double raise(T* g, double lam, double floor) const {
        double trace = 0;
        for (index r = 0; r < k_; ++r) trace += static_cast<double>(g[r * ld_ + r]);
        double ridge = lam + floor * trace / static_cast<double>(k_);
        if (ridge == 0) ridge = 1;  // the row's equations are 0 = c: its answer 0
        for (index r = 0; r < k_; ++r) g[r * ld_ + r] += static_cast<T>(ridge);
        return ridge;
    }
    double constant_of(const equations& e) const {
        double sum = 0;
        if (e.w == nullptr) return dot(e.c, e.c, e.d);
        for (index j = 0; j < e.d; ++j)
            sum += static_cast<double>(e.w[j]) * static_cast<double>(e.c[j]) * static_cast<double>(e.c[j]);
        return sum;
    }
    T* panel(scratch& s) const { return s.panel.grow(AITKEN_GRAM_ROWS * ld_); }

    void collect(index row, const equations& e, scratch& s) {
        const auto slot = static_cast<index>(s.group.size());
        T* g = s.gram.grow(row_kernels<T>::lanes * matrix_size()) + slot * matrix_size();
        T* b = s.right.grow(row_kernels<T>::lanes * ld_) + slot * ld_;
        start_system(g, b);
        kernels_.rows_gram(e.v, d_.v.ld, e.idx, e.w, e.c, e.d, k_, g, ld_, b, panel(s));
        s.group.push_back(row);
        s.constant.push_back(constant_of(e));
        s.ridge.push_back(raise(g, e.lam, ridge_floor));
    }

    void solve_group(matrix<T> x, scratch& s, api::half_report& out) {
        const auto count = static_cast<index>(s.group.size());
        if (count == 0) return;
        T* g = s.gram.data();
        T* b = s.right.data();
        T* to = s.solution.grow(row_kernels<T>::lanes * ld_);
        T* work = s.lanes.grow(AITKEN_SPD_WORK(k_));
        const std::uint32_t failed = kernels_.spd_solve(g, ld_, matrix_size(), b, ld_, count, k_,
                                                        static_cast<T>(ridge_floor), to, ld_, work);
        for (index l = 0; l < count; ++l) {
            const auto slot = static_cast<std::size_t>(l);
            if (failed >> l & 1u) {
                ++out.retries;
                s.ridge[slot] += solve_again(g + l * matrix_size(), b + l * ld_, to + l * ld_, work);
            }
            T* xi = x.row(s.group[slot]);
            std::copy_n(to + l * ld_, ld_, xi);
            out.squared_error +=
                s.constant[slot] - dot(xi, b + l * ld_, k_) - s.ridge[slot] * dot(xi, xi, k_);
        }
        s.group.clear();
        s.constant.clear();
        s.ridge.clear();
    }

    // With a ridge a thousand and a million times as large; returns what was added.
    double solve_again(T* g, const T* b, T* x, T* work) {
        double added = 0;
        for (const double factor : {1e3, 1e6}) {
            added += raise(g, 0, factor * ridge_floor);
            if (kernels_.spd_solve(g, ld_, matrix_size(), b, ld_, 1, k_, static_cast<T>(ridge_floor), x, ld_,
                                   work) == 0)
                return added;
        }
        std::fill_n(x, k_, std::numeric_limits<T>::quiet_NaN());  // not a matter of rank: the driver will see
        return added;
    }

    // ---- iterative ------------------------------------------------------------------------------------

    index sketch_rows() const { return opt_.sketch_factor * k_; }

    // x' G0 x of the background.
    double background_of(const T* x, scratch& s) const {
        if (d_.gram == nullptr) return 0;
        T* gx = s.fits.grow(k_);
        kernels_.rows_dot(d_.gram, ld_, nullptr, x, k_, k_, gx);
        return dot(x, gx, k_);
    }

    // The error behind a solve that lowered the quadratic by `fallen` from an error of `before` at x0.
    static double error_behind(double before, double fallen, double lam, double norm2_0, double norm2) {
        return before + lam * (norm2_0 - norm2) - fallen;
    }

    void iterate(index row, equations e, T* x, scratch& s, api::half_report& out) {
        const double norm2 = dot(x, x, k_);
        if (opt_.solver == inner::cg) {
            const double background = background_of(x, s);
            gather(e, s);
            double sums[2];
            out.inner_iterations +=
                kernels_.rows_cg(e.v, d_.v.ld, e.idx, e.w, e.c, e.d, k_, e.lam, d_.gram, ld_,
                                 opt_.inner_maxiter, opt_.inner_tol, x, s.small.grow(8 * ld_), sums);
            out.squared_error += error_behind(sums[0] + background, sums[1], e.lam, norm2, dot(x, x, k_));
            return;
        }
        const bool ready = prepare_factor(row, e, s);
        gather(e, s);
        const auto residual = [&](const T* at, T* r) { return residual_of(e, at, r, s); };
        const auto apply = [&](const T* p, T* q) { apply_rows(e, p, q); };
        const auto precondition = [&](const T* r, T* z) { apply_factor(ready, e, r, z, s); };
        conjugate_gradients(e.lam, norm2, x, residual, apply, precondition, s, out);
    }

    // A row's block once into the second cache, where all passes but the first find it.
    void gather(equations& e, scratch& s) const {
        if (e.idx == nullptr || e.d * d_.v.ld * static_cast<index>(sizeof(T)) > gather_bytes) return;
        constexpr index ahead = 8;
        T* to = s.gathered.grow(gather_bytes / static_cast<index>(sizeof(T)));
        for (index j = 0; j < e.d; ++j) {
            if (j + ahead < e.d) {
                const char* next = reinterpret_cast<const char*>(e.v + e.idx[j + ahead] * d_.v.ld);
                for (index at = 0; at < d_.v.ld * static_cast<index>(sizeof(T)); at += 64)
                    prefetch(next + at);
            }
            std::memcpy(to + j * d_.v.ld, e.v + e.idx[j] * d_.v.ld,
                        sizeof(T) * static_cast<std::size_t>(d_.v.ld));
        }
        e.v = to;
        e.idx = nullptr;
    }
    static void prefetch([[maybe_unused]] const char* p) {
#if defined(__GNUC__)
        __builtin_prefetch(p);
#endif
    }

    // r = sum w (c - <v, x>) v - G0 x; returns sum w (c - <v, x>)^2 + x' G0 x. lam is the caller's.
    double residual_of(const equations& e, const T* x, T* r, scratch& s) const {
        std::fill_n(r, ld_, T(0));
        return minus_background(x, r) + add_residual(e, x, r, s.fits);
    }
    double minus_background(const T* x, T* r) const {
        if (d_.gram == nullptr) return 0;
        kernels_.rows_dot(d_.gram, ld_, nullptr, x, k_, k_, r);
        const double square = dot(x, r, k_);
        for (index i = 0; i < k_; ++i) r[i] = -r[i];
        return square;
    }
    double add_residual(const equations& e, const T* x, T* r, aligned_buffer<T>& room) const {
        T* f = room.grow(e.d);
        kernels_.rows_dot(e.v, d_.v.ld, e.idx, x, e.d, k_, f);
        double error = 0;
        for (index j = 0; j < e.d; ++j) {
            const T w = e.w == nullptr ? T(1) : e.w[j], left = e.c[j] - f[j];
            error += static_cast<double>(w) * static_cast<double>(left) * static_cast<double>(left);
            f[j] = w * left;
        }
        kernels_.rows_combine(e.v, d_.v.ld, e.idx, f, e.d, k_, r);
        return error;
    }
    void start_product(const T* p, T* q) const {
        std::fill_n(q, ld_, T(0));
        if (d_.gram != nullptr) kernels_.rows_dot(d_.gram, ld_, nullptr, p, k_, k_, q);
    }
    void apply_rows(const equations& e, const T* p, T* q) const {
        start_product(p, q);
        kernels_.rows_apply(e.v, d_.v.ld, e.idx, e.w, p, e.d, k_, q);
    }

    // Conjugate gradients from x, at least one step, until the preconditioned gradient has fallen by
    // inner_tol.
    template <class Residual, class Apply, class Precondition>
    void conjugate_gradients(double lam, double norm2_0, T* x, Residual&& residual, Apply&& apply,
                             Precondition&& precondition, scratch& s, api::half_report& out) {
        T* r = s.small.grow(8 * ld_);
        T *z = r + ld_, *p = z + ld_, *q = p + ld_;
        std::fill_n(r, 4 * ld_, T(0));
        const double before = residual(x, r);
        for (index i = 0; i < k_; ++i) r[i] -= static_cast<T>(lam) * x[i];
        precondition(r, z);
        double rz = dot(r, z, k_), fallen = 0;
        const double target = opt_.inner_tol * opt_.inner_tol * rz;
        std::copy_n(z, ld_, p);
        for (int step = 0; step < opt_.inner_maxiter && rz > std::numeric_limits<T>::min(); ++step) {
            apply(p, q);
            for (index i = 0; i < k_; ++i) q[i] += static_cast<T>(lam) * p[i];
            const double pq = dot(p, q, k_);
            if (!(pq > 0) || !std::isfinite(rz)) break;
            const double alpha = rz / pq;
            for (index i = 0; i < k_; ++i) {
                x[i] += static_cast<T>(alpha) * p[i];
                r[i] -= static_cast<T>(alpha) * q[i];
            }
            fallen += alpha * rz;
            ++out.inner_iterations;
            precondition(r, z);
            const double next = dot(r, z, k_);
            if (!(next > target)) break;
            for (index i = 0; i < k_; ++i) p[i] = z[i] + static_cast<T>(next / rz) * p[i];
            rz = next;
        }
        out.squared_error += error_behind(before, fallen, lam, norm2_0, dot(x, x, k_));
    }

    // The preconditioner of a row; false where it has none.
    bool prepare_factor(index row, const equations& e, scratch& s) {
        if (opt_.solver == inner::sketch) return factor_sketch(row, e, s);
        if constexpr (!row_kernels<T>::single)
            if (opt_.solver == inner::lowprec) return factor_single(e, s);
        return opt_.solver == inner::qcg;
    }

    // CountSketch: each equation is added, with a random sign, to one of sketch_rows() rows.
    bool factor_sketch(index row, const equations& e, scratch& s) {
        constexpr std::uint32_t purpose = 0x736b6574;
        const index m = sketch_rows();
        T* b = s.sketch.grow(m * ld_);
        std::fill_n(b, m * ld_, T(0));
        const philox_stream stream{opt_.seed, purpose, static_cast<std::uint32_t>(row + opt_.first_row),
                                   opt_.sweep};
        philox_words words{};
        for (index j = 0; j < e.d; ++j) {
            if (j % 4 == 0) words = stream.block(static_cast<std::uint32_t>(j / 4));
            const std::uint32_t word = words.word[j % 4];
            T* to = b + static_cast<index>(
                            (std::uint64_t{word & 0x7fffffffu} * static_cast<std::uint64_t>(m)) >> 31) *
                            ld_;
            const T* from = e.v + (e.idx == nullptr ? j : index{e.idx[j]}) * d_.v.ld;
            T scale = e.w == nullptr ? T(1) : std::sqrt(e.w[j]);
            if (word >> 31) scale = -scale;
            for (index i = 0; i < k_; ++i) to[i] += scale * from[i];
        }
        T* g = s.factor.grow(matrix_size());
        start_matrix(g);
        kernels_.rows_gram(b, ld_, nullptr, nullptr, nullptr, m, k_, g, ld_, nullptr, panel(s));
        raise(g, e.lam, ridge_floor);
        return kernels_.spd_factor(g, ld_, k_, static_cast<T>(ridge_floor)) != 0;
    }

    bool factor_single(const equations& e, scratch& s) {
        const row_kernels<float> single;
        constexpr double floor = 1e-6;
        float* g = s.gram32.grow(matrix_size());
        for (index r = 0; r < matrix_size(); ++r)
            g[r] = d_.gram == nullptr ? 0.0f : static_cast<float>(d_.gram[r]);
        const float* w = nullptr;
        if (e.w != nullptr) {
            float* copy = s.weights32.grow(e.d);
            for (index j = 0; j < e.d; ++j) copy[j] = static_cast<float>(e.w[j]);
            w = copy;
        }
        single.rows_gram(d_.single.data, d_.single.ld, e.idx, w, nullptr, e.d, k_, g, ld_, nullptr,
                         s.panel32.grow(AITKEN_GRAM_ROWS * ld_));
        double trace = 0;
        for (index r = 0; r < k_; ++r) trace += static_cast<double>(g[r * ld_ + r]);
        for (index r = 0; r < k_; ++r)
            g[r * ld_ + r] += static_cast<float>(e.lam + floor * trace / static_cast<double>(k_));
        return single.spd_factor(g, ld_, k_, static_cast<float>(floor)) != 0;
    }

    void apply_factor(bool ready, const equations& e, const T* r, T* z, scratch& s) const {
        if (!ready) {
            std::copy_n(r, ld_, z);
            return;
        }
        if (opt_.solver == inner::qcg) {
            apply_basis(e, r, z, s);
        } else if (opt_.solver == inner::lowprec) {
            const row_kernels<float> single;
            float* small = s.right32.grow(2 * ld_);
            for (index i = 0; i < k_; ++i) small[i] = static_cast<float>(r[i]);
            single.spd_apply(s.gram32.data(), ld_, k_, small, small + ld_);
            for (index i = 0; i < k_; ++i) z[i] = static_cast<T>(small[ld_ + i]);
        } else {
            kernels_.spd_apply(s.factor.data(), ld_, k_, r, z);
        }
    }

    // (share v'v + lam I)^-1 r, share being that of the fixed rows which this one sees.
    void apply_basis(const equations& e, const T* r, T* z, scratch& s) const {
        double weight = static_cast<double>(e.d);
        if (e.w != nullptr) {
            weight = 0;
            for (index j = 0; j < e.d; ++j) weight += static_cast<double>(e.w[j]);
        }
        const double share = weight / static_cast<double>(d_.v.rows) + (d_.gram != nullptr ? 1.0 : 0.0);
        T* f = s.small.data() + 4 * ld_;
        kernels_.rows_dot(d_.vectors, ld_, nullptr, r, k_, k_, f);
        const double smallest = ridge_floor * share * static_cast<double>(d_.values[k_ - 1]);
        for (index i = 0; i < k_; ++i) {
            const double value = share * static_cast<double>(d_.values[i]) + e.lam;
            f[i] = static_cast<T>(static_cast<double>(f[i]) / std::max(value, smallest));
        }
        std::fill_n(z, ld_, T(0));
        kernels_.rows_combine(d_.vectors, ld_, nullptr, f, k_, k_, z);
    }

    // ---- nonnegative: cyclic coordinate descent on the row's quadratic, 2 K^2 flops a pass -------------

    void solve_nonneg(const equations& e, T* x, scratch& s, api::half_report& out) {
        T* g = s.gram.grow(row_kernels<T>::lanes * matrix_size());
        T* b = s.right.grow(row_kernels<T>::lanes * ld_);
        start_system(g, b);
        kernels_.rows_gram(e.v, d_.v.ld, e.idx, e.w, e.c, e.d, k_, g, ld_, b, panel(s));
        descend(constant_of(e), e.lam, g, b, x, s, out);
    }
    void descend(double constant, double lam, T* g, const T* b, T* x, scratch& s, api::half_report& out) {
        const double ridge = raise(g, lam, ridge_floor);
        for (index r = 0; r < k_; ++r)
            for (index c = 0; c < r; ++c) g[r * ld_ + c] = g[c * ld_ + r];
        T* left = s.small.grow(8 * ld_);  // b - G x
        for (index i = 0; i < k_; ++i) x[i] = std::max(x[i], T(0));
        kernels_.rows_dot(g, ld_, nullptr, x, k_, k_, left);
        for (index i = 0; i < k_; ++i) left[i] = b[i] - left[i];
        for (int pass = 0; pass < opt_.inner_maxiter; ++pass) {
            double moved = 0, size = 0;
            for (index i = 0; i < k_; ++i) {
                const T* row = g + i * ld_;
                if (!(row[i] > T(0))) continue;
                const T next = std::max(x[i] + left[i] / row[i], T(0)), step = next - x[i];
                size = std::max(size, static_cast<double>(next));
                if (step == T(0)) continue;
                x[i] = next;
                for (index j = 0; j < k_; ++j) left[j] -= step * row[j];
                moved = std::max(moved, std::abs(static_cast<double>(step)));
            }
            ++out.inner_iterations;
            if (!(moved > ridge_floor * size)) break;
        }
        // x'(G + ridge) x = x'(b - left)
        out.squared_error += constant - dot(x, b, k_) - dot(x, left, k_) - ridge * dot(x, x, k_);
    }

    // ---- rows with a large share of the work: all threads at once on segments ---------------------------

    api::half_report solve_heavy(index row, T* x, interrupt& signals) {
        api::half_report out;
        scratch& s = scratch_.front();
        const equations e = make_equations(row, x, s);
        const index parts = (e.d + row_plan::segment - 1) / row_plan::segment;
        const auto part_of = [&](index p) {
            equations cut = e;
            const index first = p * row_plan::segment;
            cut.idx += first;
            cut.c += first;
            if (cut.w != nullptr) cut.w += first;
            cut.d = std::min(row_plan::segment, e.d - first);
            return cut;
        };
        if (opt_.nonneg || opt_.solver == inner::exact || opt_.solver == inner::sketch ||
            opt_.solver == inner::lowprec) {
            // A matrix of this many entries costs what a few iterations would.
            T* g = s.gram.grow(row_kernels<T>::lanes * matrix_size());
            T* b = s.right.grow(row_kernels<T>::lanes * ld_);
            start_system(g, b);
            constexpr index together = 32;  // segments whose sums are kept until they are added up
            std::vector<aligned_buffer<T>> sums(static_cast<std::size_t>(std::min(together, parts)));
            const index size = matrix_size() + ld_;
            for (index first = 0; first < parts; first += together) {
                signals.poll();
                const index count = std::min(together, parts - first);
                parallel_chunks(count, [&](index p, int worker) {
                    T* mine = sums[static_cast<std::size_t>(p)].grow(size);
                    std::fill_n(mine, size, T(0));
                    const equations cut = part_of(first + p);
                    kernels_.rows_gram(cut.v, d_.v.ld, cut.idx, cut.w, cut.c, cut.d, k_, mine, ld_,
                                       mine + matrix_size(),
                                       panel(scratch_[static_cast<std::size_t>(worker)]));
                });
                for (index p = 0; p < count; ++p) {
                    const T* sum = sums[static_cast<std::size_t>(p)].data();
                    for (index i = 0; i < matrix_size(); ++i) g[i] += sum[i];
                    for (index i = 0; i < k_; ++i) b[i] += sum[matrix_size() + i];
                }
            }
            if (opt_.nonneg) {
                descend(constant_of(e), e.lam, g, b, x, s, out);
                return out;
            }
            s.group.assign(1, 0);
            s.constant.assign(1, constant_of(e));
            s.ridge.assign(1, raise(g, e.lam, ridge_floor));
            solve_group({x, 1, k_, ld_}, s, out);
            return out;
        }
        std::vector<aligned_buffer<T>> sums(static_cast<std::size_t>(parts));
        std::vector<double> errors(static_cast<std::size_t>(parts));
        // to += what each segment leaves in its own vector.
        const auto over_segments = [&](T* to, auto&& body) {
            signals.poll();
            parallel_chunks(parts, [&](index p, int worker) {
                T* mine = sums[static_cast<std::size_t>(p)].grow(ld_);
                std::fill_n(mine, ld_, T(0));
                body(p, part_of(p), mine, scratch_[static_cast<std::size_t>(worker)]);
            });
            for (const aligned_buffer<T>& sum : sums)
                for (index i = 0; i < k_; ++i) to[i] += sum.data()[i];
        };
        const auto residual = [&](const T* at, T* r) {
            std::fill_n(r, ld_, T(0));
            double error = minus_background(at, r);
            over_segments(r, [&](index p, const equations& cut, T* to, scratch& mine) {
                errors[static_cast<std::size_t>(p)] = add_residual(cut, at, to, mine.sketch);
            });
            for (const double x_error : errors) error += x_error;
            return error;
        };
        const auto apply = [&](const T* p, T* q) {
            start_product(p, q);
            over_segments(q, [&](index, const equations& cut, T* to, scratch&) {
                kernels_.rows_apply(cut.v, d_.v.ld, cut.idx, cut.w, p, cut.d, k_, to);
            });
        };
        const auto precondition = [&](const T* r, T* z) {
            apply_factor(opt_.solver == inner::qcg, e, r, z, s);
        };
        conjugate_gradients(e.lam, dot(x, x, k_), x, residual, apply, precondition, s, out);
        return out;
    }

    const observed<T>& rows_;
    const row_plan& plan_;
    const fixed_side<T>& d_;
    const half_options& opt_;
    const row_kernels<T> kernels_;
    index k_, ld_;
    std::vector<scratch> scratch_;
};

}  // namespace aitken::cpu::completion
