// The AlsKernels of drivers/completion.hpp on the CPU. Factors are rows of doubles or floats padded with
// zeros to a multiple of 16; with biases, these are column 0. Columns beyond the rank are 0 as well.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <utility>
#include <vector>

#include "core/api/completion.hpp"
#include "core/philox.hpp"
#include "cpu/completion_rows.hpp"
#include "cpu/threads.hpp"
#include "drivers/completion.hpp"

namespace aitken::cpu::completion {

using api::side;

// A copy of a factor with its bias set to 1, and the biases: what the other factor is solved against.
template <class T>
class design_copy {
public:
    // `factor`: all stored columns, `used` of them in use.
    fixed_side<T> make(matrix<const T> factor, index used, bool bias) {
        fixed_side<T> d;
        if (!bias) {
            d.v = {factor.data, factor.rows, used, factor.ld};
            return d;
        }
        T* v = rows_.grow(factor.rows * factor.ld);
        T* offset = offset_.grow(factor.rows);
        parallel_chunks((factor.rows + step - 1) / step, [&](index chunk) {
            for (index i = chunk * step; i < std::min(factor.rows, (chunk + 1) * step); ++i) {
                T* to = v + i * factor.ld;
                std::copy_n(factor.row(i), used, to);
                std::fill(to + used, to + factor.ld, T(0));
                offset[i] = to[0];
                to[0] = T(1);
            }
        });
        d.v = {v, factor.rows, used, factor.ld};
        d.offset = offset;
        return d;
    }

private:
    static constexpr index step = 4096;
    aligned_buffer<T> rows_, offset_;
};

template <class T>
double sum_of_losses(const observed<T>& entries, const fixed_side<T>& d, matrix<const T> x, loss kind,
                     double delta) {
    const row_kernels<T> kernels;
    const row_plan plan(entries.a, 0);
    const index k = d.v.cols, segment = row_plan::segment;
    const auto some = [&](index row, index first, index last, aligned_buffer<T>& room) {
        T* fit = room.grow(segment);
        double sum = 0;
        for (index begin = first; begin < last; begin += segment) {
            const index count = std::min(segment, last - begin);
            const std::int32_t* idx = entries.a.indices + begin;
            std::fill_n(fit, count, T(0));
            if (k > 0) kernels.rows_dot(d.v.data, d.v.ld, idx, x.row(row), count, k, fit);
            for (index j = 0; j < count; ++j) {
                T c = entries.values[begin + j];
                if (d.offset != nullptr) c -= d.offset[idx[j]];
                const double lost =
                    loss_of(kind, static_cast<double>(c) - static_cast<double>(fit[j]), delta);
                sum += entries.weights == nullptr ? lost
                                                  : lost * static_cast<double>(entries.weights[begin + j]);
            }
        }
        return sum;
    };
    std::vector<double> part(static_cast<std::size_t>(plan.chunks()));
    std::vector<aligned_buffer<T>> rooms(static_cast<std::size_t>(num_threads()));
    parallel_chunks(
        plan.chunks(),
        [&](index c, int worker) {
            double sum = 0;
            for (index i = plan.bounds[static_cast<std::size_t>(c)];
                 i < plan.bounds[static_cast<std::size_t>(c) + 1]; ++i)
                if (plan.heavy.empty() || !plan.is_heavy(i))
                    sum += some(i, entries.a.indptr[i], entries.a.indptr[i + 1],
                                rooms[static_cast<std::size_t>(worker)]);
            part[static_cast<std::size_t>(c)] = sum;
        },
        chunk_schedule::dynamic);
    double sum = 0;
    for (const double p : part) sum += p;
    for (const index row : plan.heavy) {
        const index first = entries.a.indptr[row], last = entries.a.indptr[row + 1];
        std::vector<double> cut(static_cast<std::size_t>((last - first + segment - 1) / segment));
        parallel_chunks(static_cast<index>(cut.size()), [&](index p, int worker) {
            cut[static_cast<std::size_t>(p)] =
                some(row, first + p * segment, std::min(last, first + (p + 1) * segment),
                     rooms[static_cast<std::size_t>(worker)]);
        });
        for (const double p : cut) sum += p;
    }
    return sum;
}

// out (cols x cols, row-major) = p'p; p's columns may begin anywhere in a padded row. n cols^2 flops.
template <class T>
void tall_gram(matrix<const T> p, double* out) {
    const row_kernels<T> kernels;
    constexpr index step = 1024, most_groups = 64;
    const index shift = static_cast<index>(reinterpret_cast<std::uintptr_t>(p.data) % 64 / sizeof(T));
    const index k = p.cols + shift, ld = padded(k);
    const index steps = (p.rows + step - 1) / step, groups = std::min(steps, most_groups);
    std::vector<std::vector<double>> sums(static_cast<std::size_t>(groups));
    parallel_chunks(groups, [&](index group) {
        std::vector<double>& sum = sums[static_cast<std::size_t>(group)];
        sum.assign(static_cast<std::size_t>(p.cols * p.cols), 0.0);
        aligned_buffer<T> g(k * ld), panel(AITKEN_GRAM_ROWS * ld);
        for (index s = steps * group / groups; s < steps * (group + 1) / groups; ++s) {
            std::fill_n(g.data(), k * ld, T(0));
            const index first = s * step, count = std::min(step, p.rows - first);
            kernels.rows_gram(p.row(first) - shift, p.ld, nullptr, nullptr, nullptr, count, k, g.data(), ld,
                              nullptr, panel.data());
            for (index r = 0; r < p.cols; ++r)
                for (index c = r; c < p.cols; ++c)
                    sum[static_cast<std::size_t>(r * p.cols + c)] +=
                        static_cast<double>(g.data()[(r + shift) * ld + c + shift]);
        }
    });
    for (index r = 0; r < p.cols; ++r)
        for (index c = r; c < p.cols; ++c) {
            double sum = 0;
            for (const std::vector<double>& part : sums)
                sum += part[static_cast<std::size_t>(r * p.cols + c)];
            out[r * p.cols + c] = out[c * p.cols + r] = sum;
        }
}

template <class Be, class T>
class als_kernels {
public:
    using value = T;

    als_kernels(Be& be, const api::problem<T>& problem, int rank, bool bias)
        : be_(be),
          bias_(bias ? 1 : 0),
          capacity_(rank),
          rank_(rank),
          sides_{{problem.rows, row_plan(problem.rows.a, rank), {}},
                 {problem.columns, row_plan(problem.columns.a, rank), {}}},
          holdout_(problem.holdout) {
        const index ld = padded(rank + bias_);
        for (part& p : sides_)
            p.factor = {p.room.grow(p.entries.a.rows * ld), p.entries.a.rows, rank + bias_, ld};
    }

    // All stored columns of a factor, the biases first.
    matrix<T> stored(side s) { return at(s).factor; }

    int rank() const { return rank_; }
    void set_rank(int rank) { rank_ = rank; }
    int capacity() const { return capacity_; }
    index size(side s) const { return at(s).factor.rows; }
    matrix<T> factor(side s) {
        const matrix<T>& f = at(s).factor;
        return {f.data + bias_, f.rows, rank_, f.ld};
    }
    matrix<T> panel(side s, int columns) {
        const index ld = padded(columns);
        panels_.emplace_back(size(s) * ld);
        return {panels_.back().data(), size(s), columns, ld};
    }

    void prepare(side s, const api::half_options& o) {
        be_.launched();
        design_ = design_of(s);
        if (o.background) {
            const index k = design_.v.cols, ld = design_.v.ld;
            std::vector<double> g(static_cast<std::size_t>(k * k));
            tall_gram(design_.v, g.data());
            T* to = background_.grow(k * ld);
            for (index r = 0; r < k; ++r)
                for (index c = 0; c < k; ++c)
                    to[r * ld + c] = static_cast<T>(g[static_cast<std::size_t>(r * k + c)]);
            design_.gram = to;
        }
        if (o.solver == api::inner::lowprec) make_single();
    }
    matrix<const T> design(side) const { return design_.v; }
    void set_basis(vec<const double> values, vec<const double> vectors) {
        be_.launched();
        const index k = design_.v.cols, ld = design_.v.ld;
        T* to = basis_.grow(k * (ld + 1));
        for (index r = 0; r < k; ++r) {
            for (index c = 0; c < k; ++c) to[r * ld + c] = static_cast<T>(vectors[r * k + c]);
            to[k * ld + r] = static_cast<T>(values[r]);
        }
        design_.vectors = to;
        design_.values = to + k * ld;
    }
    void half_sweep(side s, const api::half_options& o, scalar_ref error, scalar_ref inner,
                    scalar_ref retries) {
        be_.launched();
        part& p = at(s);
        half_sweep_solver<T> solver(p.entries, p.plan, design_, o);
        const api::half_report r = solver.run(p.factor, be_.interrupts());
        *error.address() = r.squared_error;
        *inner.address() = static_cast<double>(r.inner_iterations);
        *retries.address() = static_cast<double>(r.retries);
    }

    void squared_error(bool holdout, const api::half_options& o, scalar_ref out) {
        be_.launched();
        const auto d = design_of(side::rows);
        *out.address() = sum_of_losses<T>(holdout ? holdout_ : at(side::rows).entries, d,
                                          at(side::rows).factor, o.kind, o.delta);
    }
    double weight(bool holdout) const {
        const observed<T>& e = holdout ? holdout_ : at(side::rows).entries;
        if (e.weights == nullptr) return static_cast<double>(e.a.nnz());
        double sum = 0;
        for (index p = 0; p < e.a.nnz(); ++p) sum += static_cast<double>(e.weights[p]);
        return sum;
    }
    bool has_holdout() const { return holdout_.a.rows > 0; }
    void sample_residuals(vec<double> out) {
        be_.launched();
        const observed<T>& e = at(side::rows).entries;
        const auto d = design_of(side::rows);
        for (index t = 0; t < out.size; ++t) {
            const index p = static_cast<index>(static_cast<double>(t) * static_cast<double>(e.a.nnz()) /
                                               static_cast<double>(out.size));
            const index row = std::upper_bound(e.a.indptr, e.a.indptr + e.a.rows + 1, p) - e.a.indptr - 1;
            const index col = e.a.indices[p];
            double c = static_cast<double>(e.values[p]);
            if (d.offset != nullptr) c -= static_cast<double>(d.offset[col]);
            out[t] = std::abs(c - dot(d.v.row(col), at(side::rows).factor.row(row), d.v.cols));
        }
    }

    void gram(matrix<const T> p, vec<double> out) {
        be_.launched();
        tall_gram(p, out.data);
    }
    // 2 n p.cols q.cols flops.
    void transform(matrix<const T> p, vec<const double> by, matrix<T> q) {
        be_.launched();
        const index shift = misalignment(p.data), k = p.cols + shift, ld = padded(q.cols);
        aligned_buffer<T> table(k * ld);
        for (index r = 0; r < p.cols; ++r)
            for (index c = 0; c < q.cols; ++c)
                table.data()[(r + shift) * ld + c] = static_cast<T>(by[r * q.cols + c]);
        over_rows(p.rows, [&](index first, index last) {
            const row_kernels<T> kernels;
            aligned_buffer<T> row(ld);
            for (index i = first; i < last; ++i) {
                std::fill_n(row.data(), ld, T(0));
                kernels.rows_combine(table.data(), ld, nullptr, p.row(i) - shift, k, q.cols, row.data());
                std::copy_n(row.data(), q.cols, q.row(i));
                if (p.data == q.data && p.cols > q.cols)
                    std::fill(q.row(i) + q.cols, q.row(i) + p.cols, T(0));
            }
        });
    }
    void row_norms(matrix<const T> p, vec<double> out) {
        be_.launched();
        over_rows(p.rows, [&](index first, index last) {
            for (index i = first; i < last; ++i) out[i] = std::sqrt(dot(p.row(i), p.row(i), p.cols));
        });
    }
    void clip(matrix<T> p, double most) {
        be_.launched();
        over_rows(p.rows, [&](index first, index last) {
            for (index i = first; i < last; ++i) {
                const double length = std::sqrt(dot(p.row(i), p.row(i), p.cols));
                if (length > most)
                    for (index c = 0; c < p.cols; ++c) p.row(i)[c] *= static_cast<T>(most / length);
            }
        });
    }
    void randomise(matrix<T> p, std::uint64_t seed, double deviation) {
        be_.launched();
        constexpr std::uint32_t purpose = 0x616c7373;
        over_rows(p.rows, [&](index first, index last) {
            for (index i = first; i < last; ++i) {
                const philox_stream numbers{seed, purpose, static_cast<std::uint32_t>(i), 0};
                for (index c = 0; c < p.cols; ++c)
                    p.row(i)[c] =
                        deviation == 0
                            ? T(0)
                            : static_cast<T>(deviation * numbers.normal(static_cast<std::uint32_t>(c)));
            }
        });
    }

    // 2 nnz (rank + y.cols) flops; gathers a row of x and one of the design per entry.
    void spread(side s, matrix<const T> x, matrix<T> y, bool by_degree) {
        be_.launched();
        const part& p = at(s);
        const auto d = design_of(s);
        const index k = d.v.cols, columns = y.cols;
        parallel_chunks(
            p.plan.chunks(),
            [&](index chunk) {
                aligned_buffer<T> f;
                for (index i = p.plan.bounds[static_cast<std::size_t>(chunk)];
                     i < p.plan.bounds[static_cast<std::size_t>(chunk) + 1]; ++i)
                    spread_row(s, i, d, k, x, y.row(i), columns, by_degree, f);
            },
            chunk_schedule::dynamic);
    }
    void over_root_degree(side s, matrix<T> p) {
        be_.launched();
        for (index i = 0; i < p.rows; ++i)
            for (index c = 0; c < p.cols; ++c) p.row(i)[c] *= static_cast<T>(1 / std::sqrt(degree(s, i)));
    }

    void save(int place) {
        be_.launched();
        copy_of& copy = copies_[place];
        copy.rank = rank_;
        for (int s = 0; s < 2; ++s) {
            const matrix<T>& f = sides_[s].factor;
            copy_rows(f.data, copy.factor[s].grow(f.rows * f.ld), f);
        }
    }
    void load(int place) {
        be_.launched();
        const copy_of& copy = copies_[place];
        if (copy.factor[0].data() == nullptr) return;
        rank_ = copy.rank;
        for (int s = 0; s < 2; ++s) copy_rows(copy.factor[s].data(), sides_[s].factor.data, sides_[s].factor);
    }

private:
    struct part {
        observed<T> entries;
        row_plan plan;
        aligned_buffer<T> room;
        matrix<T> factor{};
    };
    struct copy_of {
        int rank = 0;
        aligned_buffer<T> factor[2];
    };

    part& at(side s) { return sides_[s == side::rows ? 0 : 1]; }
    const part& at(side s) const { return sides_[s == side::rows ? 0 : 1]; }
    // Raised by their mean: a row with one entry would else weigh as much as all of a row with thousands.
    double degree(side s, index i) const {
        const pattern_view& a = at(s).entries.a;
        return static_cast<double>(a.indptr[i + 1] - a.indptr[i]) +
               static_cast<double>(a.nnz()) / static_cast<double>(a.rows);
    }

    fixed_side<T> design_of(side s) {
        return copy_.make(at(drivers::completion::other(s)).factor, rank_ + bias_, bias_ == 1);
    }
    void make_single() {
        const matrix<const T> v = design_.v;
        float* to = single_.grow(v.rows * v.ld);
        over_rows(v.rows, [&](index first, index last) {
            for (index i = first * v.ld; i < last * v.ld; ++i) to[i] = static_cast<float>(v.data[i]);
        });
        design_.single = {to, v.rows, v.cols, v.ld};
    }

    void spread_row(side s, index i, const fixed_side<T>& d, index k, matrix<const T> x, T* y, index columns,
                    bool by_degree, aligned_buffer<T>& room) {
        const row_kernels<T> kernels;
        const part& p = at(s);
        const side o = drivers::completion::other(s);
        const index first = p.entries.a.indptr[i], count = p.entries.a.indptr[i + 1] - first;
        const std::int32_t* idx = p.entries.a.indices + first;
        T* f = room.grow(count);
        std::fill_n(f, count, T(0));
        if (k > 0) kernels.rows_dot(d.v.data, d.v.ld, idx, p.factor.row(i), count, k, f);
        for (index j = 0; j < count; ++j) {
            T c = p.entries.values[first + j];
            if (d.offset != nullptr) c -= d.offset[idx[j]];
            f[j] = c - f[j];
            if (by_degree) f[j] *= static_cast<T>(1 / std::sqrt(degree(s, i) * degree(o, idx[j])));
        }
        std::fill_n(y, padded(columns), T(0));
        kernels.rows_combine(x.data, x.ld, idx, f, count, columns, y);
    }

    static void copy_rows(const T* from, T* to, const matrix<T>& like) {
        over_rows(like.rows, [&](index first, index last) {
            std::copy_n(from + first * like.ld, (last - first) * like.ld, to + first * like.ld);
        });
    }
    template <class Body>
    static void over_rows(index rows, Body&& body) {
        constexpr index step = 2048;
        parallel_chunks((rows + step - 1) / step,
                        [&](index c) { body(c * step, std::min(rows, (c + 1) * step)); });
    }
    static index misalignment(const T* p) {
        return static_cast<index>(reinterpret_cast<std::uintptr_t>(p) % 64 / sizeof(T));
    }

    Be& be_;
    index bias_;
    int capacity_, rank_;
    part sides_[2];
    observed<T> holdout_;
    design_copy<T> copy_;
    fixed_side<T> design_;
    aligned_buffer<T> background_, basis_;
    aligned_buffer<float> single_;
    std::deque<aligned_buffer<T>> panels_;
    copy_of copies_[2];
};

}  // namespace aitken::cpu::completion
