// The AlsKernels of drivers/completion.hpp as block programs. `Be` launches them: cuda/backend.hpp on a GPU,
// csrc/tests/block_backend.hpp by loops on the CPU.
//
// Launches of a half sweep: exact 2 (a block for every row of at most 4096 entries, and the sum of what they
// report), and 2 more for each batch of longer rows, which are cut into parts; conjugate gradients 2 or 3.
// One more with biases (the design), one with a robust loss (the weights), with a background 2, exact 3. No
// read. Rows are launched in bins by their number of entries, the longest first, so that no long one begins
// last.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/api/completion_cuda.hpp"
#include "core/backend.hpp"
#include "cuda/completion_blocks.hpp"
#include "drivers/completion.hpp"

namespace aitken::cuda {

using aitken::completion::half_options;
using aitken::completion::inner;
using aitken::completion::side;

// f(std::type_identity<P>) for the exact solver P of k columns; false where there is none.
template <class T, class F>
bool with_solver(int k, F&& f) {
    if (k <= 16)
        f(std::type_identity<solve_rows<T, 32, 4, 4, 16>>{});
    else if (k <= 32)
        f(std::type_identity<solve_rows<T, 64, 4, 8, 16>>{});
    else if (k <= 64)
        f(std::type_identity<solve_rows<T, 128, 8, 8, 16>>{});
    else if (k <= 120)
        f(std::type_identity<solve_rows<T, 128, 8, 15, 8>>{});
    else if (k <= 136)
        f(std::type_identity<solve_rows<T, 160, 8, 17, 8>>{});
    else if constexpr (std::is_same_v<T, float>) {
        if (k > 248) return false;
        f(std::type_identity<solve_rows<T, 512, 8, 31, 8>>{});
    } else {
        return false;
    }
    return true;
}
template <class T>
using cg_few = cg_rows<T, 64, 2048>;  // up to 64 columns and 32 entries
template <class T>
using cg_many = cg_rows<T, 128, 5120>;

// Rows of one side, as kernels are given them.
struct row_bins {
    static constexpr index few = 32, some = 256, many = 4096;  // entries of a row
    static constexpr index most_parts = 256;                   // of a row
    struct batch {
        index first_part, parts, first_row, rows;
    };
    std::vector<row_piece> whole;  // all rows: more than `many` entries, then `some`, `few`, and the others
    index long_rows = 0;           // the first ones of `whole`
    index up_to_some = 0;          // where rows of at most `few` entries begin
    std::vector<row_piece> parts, sums;  // of long rows; slots count from 0 in each batch
    std::vector<batch> batches;          // each of at most `slots` parts
    index slots = 0;                     // most parts of a batch

    row_bins() = default;
    row_bins(const std::vector<index>& begin, index slots_) {
        const auto rows = static_cast<index>(begin.size()) - 1;
        const auto take = [&](index above, index limit) {
            for (index i = 0; i < rows; ++i) {
                const index d = begin[i + 1] - begin[i];
                if (d > above && d <= limit)
                    whole.push_back({begin[i], begin[i + 1], static_cast<std::int32_t>(i), 0});
            }
            return static_cast<index>(whole.size());
        };
        whole.reserve(static_cast<std::size_t>(rows));
        long_rows = take(many, std::numeric_limits<index>::max());
        take(some, many);
        up_to_some = take(few, some);
        take(-1, few);
        for (index k = 0; k < long_rows; ++k) cut(whole[static_cast<std::size_t>(k)], slots_);
        for (const batch& b : batches) slots = std::max(slots, b.parts);
    }

private:
    void cut(const row_piece& row, index limit) {
        const index d = row.last - row.first;
        const index size = std::max(many, blocks_for(d, most_parts)), count = blocks_for(d, size);
        if (batches.empty() || batches.back().parts + count > std::max(limit, most_parts))
            batches.push_back({static_cast<index>(parts.size()), 0, static_cast<index>(sums.size()), 0});
        batch& b = batches.back();
        sums.push_back({b.parts, b.parts + count, row.row, 0});
        for (index first = row.first; first < row.last; first += size)
            parts.push_back(
                {first, std::min(row.last, first + size), row.row, static_cast<std::int32_t>(b.parts++)});
        ++b.rows;
    }
};

template <class Be, class T>
class als_kernels {
    using stored_type = completion::stored<T>;

public:
    using value = T;

    als_kernels(Be& be, const completion::problem<T>& problem, int rank, bool bias)
        : be_(be), bias_(bias ? 1 : 0), capacity_(rank), rank_(rank), holdout_(problem.holdout) {
        if (!cg_many<T>::fits(rank + bias_))
            throw std::invalid_argument("`rank` is " + std::to_string(rank) +
                                        ", more than shared memory of a GPU has room for");
        const vec<int> bad = be.template allocate<int>(3);
        be.launch(map_pass(fill_with<int>{bad.data, 0}, bad.size));
        take(sides_[0], problem.rows, "rows", bad.data);
        take(sides_[1], problem.columns, "columns", bad.data + 1);
        if (has_holdout()) read_begin(holdout_, "holdout", bad.data + 2);
        const index most = std::max({problem.rows.nnz, problem.columns.nnz, holdout_.nnz});
        part_ = be.template allocate<double>(
            std::max<index>(1, blocks_for(most, entry_pass<T, sum_losses<T>>::per_block)));
        check_columns_and_weights(bad);
    }

    // All stored columns of a factor, the biases first.
    matrix<T> stored(side s) { return at(s).factor; }
    void load_factors(side s, matrix<const T> from, vec<const T> bias) {
        const matrix<T> to = stored(s);
        be_.launch(map_pass(load_factor<T>{from, bias.size > 0 ? bias.data : nullptr, to}, to.rows * to.ld));
    }
    void store_factors(side s, int used, matrix<T> to, vec<T> bias) {
        be_.launch(map_pass(store_factor<T>{stored(s), used, to, bias.size > 0 ? bias.data : nullptr},
                            to.rows * to.cols));
    }

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
        return {be_.template allocate<T>(size(s) * ld).data, size(s), columns, ld};
    }

    void prepare(side s, const half_options& o) {
        const matrix<T>& from = at(drivers::completion::other(s)).factor;
        design_ = {};
        design_.v = from.data;
        design_.rows = from.rows;
        design_.ld = from.ld;
        design_.k = rank_ + bias_;
        if (bias_ == 1) {
            const index most = std::max(sides_[0].factor.rows, sides_[1].factor.rows);
            if (copy_.size == 0) {
                copy_ = be_.template allocate<T>(most * from.ld);
                offset_ = be_.template allocate<T>(most);
            }
            be_.launch(map_pass(copy_design<T>{used(from), copy_.data, offset_.data}, from.rows * from.ld));
            design_.v = copy_.data;
            design_.offset = offset_.data;
        }
        if (o.background) {
            background_ = grown(background_, index{design_.k} * design_.k);
            gram(design(s), background_);
            design_.gram = background_.data;
        }
    }
    matrix<const T> design(side) const { return {design_.v, design_.rows, design_.k, design_.ld}; }
    // 1 launch.
    void set_basis(vec<const double> values, vec<const double> vectors) {
        const index k = design_.k;
        basis_ = grown(basis_, k * (2 * k + 1));
        T *const rows = basis_.data, *const turned = rows + k * k, *const to = turned + k * k;
        be_.launch(map_pass(copy_basis<T>{vectors.data, values.data, k, rows, turned, to}, k * k));
        design_.vectors = rows;
        design_.turned = turned;
        design_.values = to;
    }

    void half_sweep(side s, const half_options& o, scalar_ref error, scalar_ref inner_steps,
                    scalar_ref retries) {
        part& p = at(s);
        refuse(o);
        be_.interrupts().poll();
        if (o.kind != loss::linear) {
            touched_ = grown(touched_, std::max(sides_[0].nnz, sides_[1].nnz));
            over_entries(p.entries, s,
                         touch_loss<T>{p.entries.weights, o.kind, o.delta, touched_.data, p.nnz}, nullptr);
        }
        observed<T> entries = p.entries;
        if (o.kind != loss::linear) entries.weights = touched_.data;
        const row_penalty penalty{o.lam, o.lam_by_degree};
        const bool direct = o.solver == inner::exact;
        if (design_.k > 0 && !(direct && solve_exactly(p, entries, penalty))) {
            als_design<T> d = design_;
            if (o.solver != inner::qcg) d.vectors = nullptr;
            // Where no exact solver is large enough, to what rounding leaves.
            const cg_limits limits = direct
                                         ? cg_limits{2 * design_.k, std::is_same_v<T, float> ? 1e-5 : 1e-12}
                                         : cg_limits{o.inner_maxiter, o.inner_tol};
            solve_by_cg(p, entries, d, penalty, limits);
        }
        const index rows = design_.k > 0 ? p.factor.rows : 0;
        be_.launch(vector_pass(
            outcome_total{p.outcome.data, rows, error.address(), inner_steps.address(), retries.address()}));
    }

    // 2 launches.
    void squared_error(bool holdout, const half_options& o, scalar_ref out) {
        const observed<T>& e = holdout ? holdout_.entries : sides_[0].entries;
        const index nnz = holdout ? holdout_.nnz : sides_[0].nnz;
        over_entries(e, side::rows, sum_losses<T>{e.weights, o.kind, o.delta, nnz}, part_.data);
        sum_parts(blocks_for(nnz, entry_pass<T, sum_losses<T>>::per_block), out.address());
    }
    double weight(bool holdout) const { return weight_[holdout ? 1 : 0]; }
    bool has_holdout() const { return holdout_.entries.a.rows > 0; }
    void sample_residuals(vec<double> out) {
        over_entries(sides_[0].entries, side::rows, sample_entries{sides_[0].nnz, out.data, out.size},
                     nullptr);
    }

    // 2 launches.
    void gram(matrix<const T> p, vec<double> out) {
        const index chunks = gram_parts<T>::chunks_for(p.rows);
        const index size = chunks * gram_parts<T>::tiles(p.cols) * gram_parts<T>::tile * gram_parts<T>::tile;
        tiles_ = grown(tiles_, size);
        be_.launch(gram_parts<T>(p, chunks, tiles_.data));
        be_.launch(map_pass(gram_total{tiles_.data, chunks, p.cols, out.data}, p.cols * p.cols));
    }
    void transform(matrix<const T> p, vec<const double> by, matrix<T> q) {
        const index cleared = p.data == q.data ? std::max(p.cols, q.cols) : q.cols;
        be_.launch(transform_rows<T>(p, by.data, q, cleared));
    }
    void row_norms(matrix<const T> p, vec<double> out) {
        be_.launch(map_pass(row_lengths<T>{p, out.data}, p.rows));
    }
    void clip(matrix<T> p, double most) { be_.launch(map_pass(clip_rows<T>{p, most}, p.rows)); }
    void randomise(matrix<T> p, std::uint64_t seed, double deviation) {
        be_.launch(map_pass(random_rows<T>{p, seed, deviation}, p.rows * p.cols));
    }
    // 1 launch for the entries themselves, 2 for what a fit leaves of them.
    void spread(side s, matrix<const T> x, matrix<T> y, bool by_degree) {
        const part &p = at(s), &o = at(drivers::completion::other(s));
        const T* f = p.entries.values;
        if (rank_ + bias_ > 0 || by_degree) {
            residuals_ = grown(residuals_, std::max(sides_[0].nnz, sides_[1].nnz));
            over_entries(p.entries, s,
                         keep_residuals<T>{by_degree ? degrees(p) : raised_degrees{nullptr, 0}, degrees(o),
                                           residuals_.data, p.nnz},
                         nullptr);
            f = residuals_.data;
        }
        be_.launch(spread_rows<T>(p.entries.a, f, x, y));
    }
    void over_root_degree(side s, matrix<T> p) {
        be_.launch(map_pass(over_root_degrees<T>{p, degrees(at(s))}, p.rows * p.cols));
    }

    // 2 launches.
    void save(int place) {
        copy_of& copy = copies_[place];
        copy.rank = rank_;
        for (int s = 0; s < 2; ++s) {
            const matrix<T>& f = sides_[s].factor;
            copy.factor[s] = grown(copy.factor[s], f.rows * f.ld);
            be_.launch(map_pass(copy_numbers<T>{f.data, copy.factor[s].data}, f.rows * f.ld));
        }
    }
    void load(int place) {
        const copy_of& copy = copies_[place];
        if (copy.factor[0].size == 0) return;
        rank_ = copy.rank;
        for (int s = 0; s < 2; ++s) {
            const matrix<T>& f = sides_[s].factor;
            be_.launch(map_pass(copy_numbers<T>{copy.factor[s].data, f.data}, f.rows * f.ld));
        }
    }

private:
    // Sums of parts take at most about this much, and at least what the parts of one row do.
    static constexpr index room_bytes = index{1} << 28;
    static constexpr int most_threads = 512;

    struct part {
        observed<T> entries;
        index nnz = 0;
        matrix<T> factor{};
        row_bins bins;
        vec<row_piece> whole, parts, sums;
        vec<row_outcome> outcome;
    };
    struct copy_of {
        int rank = 0;
        vec<T> factor[2];
    };

    static index padded(index columns) { return std::max<index>(16, blocks_for(columns, 16) * 16); }
    // Numbers of T that a part of k columns leaves, at most.
    static index part_stride(index k) { return (k + 8) * (k + 16) / 2 + k + 8; }
    part& at(side s) { return sides_[s == side::rows ? 0 : 1]; }
    const part& at(side s) const { return sides_[s == side::rows ? 0 : 1]; }
    static raised_degrees degrees(const part& p) {
        return {p.entries.a.indptr, static_cast<double>(p.nnz) / static_cast<double>(p.factor.rows)};
    }
    matrix<const T> used(const matrix<T>& f) const { return {f.data, f.rows, rank_ + bias_, f.ld}; }

    template <class V>
    vec<V> grown(vec<V> was, index n) {
        return was.size >= n && was.size > 0 ? was : be_.template allocate<V>(std::max<index>(n, 1));
    }
    template <class V>
    vec<V> sent(const std::vector<V>& host) {
        const vec<V> there = be_.template allocate<V>(static_cast<index>(host.size()));
        if (!host.empty()) be_.upload(host.data(), there);
        return there;
    }

    std::vector<index> read_begin(const stored_type& s, const char* name, int* bad) {
        const index rows = s.entries.a.rows;
        std::vector<index> begin(static_cast<std::size_t>(rows) + 1, 0);
        if (rows > 0) be_.download(vec<const index>{s.entries.a.indptr, rows + 1}, begin.data());
        bool right = begin.front() == 0 && begin.back() == s.nnz && rows <= 2147483647;
        for (index i = 0; right && i < rows; ++i) right = begin[i] <= begin[i + 1];
        if (!right)
            throw std::invalid_argument(std::string("`") + name + "` is not a matrix in compressed rows");
        be_.launch(map_pass(check_columns{s.entries.a.indices, s.entries.a.cols, bad}, s.nnz));
        return begin;
    }
    void take(part& p, const stored_type& s, const char* name, int* bad) {
        const index k = capacity_ + bias_, ld = padded(k), rows = s.entries.a.rows;
        p.entries = s.entries;
        p.nnz = s.nnz;
        p.factor = {be_.template allocate<T>(rows * ld).data, rows, k, ld};
        const auto part_bytes = part_stride(k) * static_cast<index>(sizeof(T)) + 8 * most_threads;
        p.bins = row_bins(read_begin(s, name, bad), room_bytes / part_bytes);
        p.whole = sent(p.bins.whole);
        p.parts = sent(p.bins.parts);
        p.sums = sent(p.bins.sums);
        p.outcome = be_.template allocate<row_outcome>(std::max<index>(rows, 1));
    }
    void check_columns_and_weights(vec<int> bad) {
        const scalar_ref sums[2] = {be_.scalar(), be_.scalar()};
        for (int h = 0; h < 2; ++h) {
            const observed<T>& e = h == 1 ? holdout_.entries : sides_[0].entries;
            const index nnz = h == 1 ? holdout_.nnz : sides_[0].nnz;
            weight_[h] = static_cast<double>(nnz);
            if (e.weights) be_.launch(vector_pass(sum_numbers<T>(e.weights, sums[h].address(), nnz)));
        }
        int outside[3];
        be_.download(vec<const int>(bad), outside);
        constexpr const char* names[3] = {"rows", "columns", "holdout"};
        for (int i = 0; i < 3; ++i)
            if (outside[i] != 0)
                throw std::invalid_argument(std::string("`") + names[i] + "` has " +
                                            std::to_string(outside[i]) + " indices out of range");
        if (!sides_[0].entries.weights && !holdout_.entries.weights) return;
        const auto read_sums = read(be_, sums[0], sums[1]);
        if (sides_[0].entries.weights) weight_[0] = read_sums[0];
        if (holdout_.entries.weights) weight_[1] = read_sums[1];
    }

    static void refuse(const half_options& o) {
        if (o.nonneg) throw std::invalid_argument("`nonneg` must be False on a GPU: it runs on the CPU only");
        if (o.solver == inner::sketch || o.solver == inner::lowprec)
            throw std::invalid_argument(
                "`inner` must be \"exact\", \"cg\" or \"qcg\" on a GPU: \"sketch\" and \"lowprec\" run on "
                "the "
                "CPU only");
    }

    // False where no solver is large enough.
    bool solve_exactly(part& p, const observed<T>& entries, const row_penalty& penalty) {
        return with_solver<T>(design_.k, [&]<class P>(std::type_identity<P>) {
            static_assert(P::threads <= most_threads);
            const auto run = [&](const row_piece* pieces, index count, piece_kind kind) {
                P program{};
                program.entries = entries;
                program.design = design_;
                program.pieces = pieces;
                program.count = count;
                program.kind = kind;
                program.penalty = penalty;
                program.background = design_.gram ? padded_.data : nullptr;
                program.parts = {sums_.data, constants_.data, P::part_size(design_.k)};
                program.out = p.factor.data;
                program.ld = p.factor.ld;
                program.outcome = p.outcome.data;
                be_.launch(program);
            };
            if (design_.gram) {
                padded_ = grown(padded_, index{P::columns} * P::columns);
                be_.launch(map_pass(pad_gram<T>{design_.gram, design_.k, P::columns, padded_.data},
                                    index{P::columns} * P::columns));
            }
            if (!p.bins.batches.empty()) {
                sums_ = grown(sums_, p.bins.slots * P::part_size(design_.k));
                constants_ = grown(constants_, p.bins.slots * P::threads);
            }
            for (const row_bins::batch& b : p.bins.batches) {
                run(p.parts.data + b.first_part, b.parts, piece_kind::part);
                run(p.sums.data + b.first_row, b.rows, piece_kind::sum);
            }
            run(p.whole.data + p.bins.long_rows, p.whole.size - p.bins.long_rows, piece_kind::whole);
        });
    }
    void solve_by_cg(part& p, const observed<T>& entries, const als_design<T>& d, const row_penalty& penalty,
                     const cg_limits& limits) {
        const auto run = [&]<class P>(std::type_identity<P>, index first, index last) {
            be_.launch(P{entries, d, p.whole.data + first, last - first, penalty, limits, p.factor.data,
                         p.factor.ld, p.outcome.data});
        };
        const index few = d.k <= 64 ? p.bins.up_to_some : p.whole.size;
        run(std::type_identity<cg_many<T>>{}, 0, few);
        run(std::type_identity<cg_few<T>>{}, few, p.whole.size);
    }

    // Rows of the entries are those of s. `sums`: of each block.
    template <class Op>
    void over_entries(const observed<T>& e, side s, const Op& op, double* sums) {
        const matrix<T>&u = at(s).factor, &v = at(drivers::completion::other(s)).factor;
        be_.launch(entry_pass<T, Op>(e, {u.data, v.data, u.ld, v.ld, rank_ + bias_, bias_ == 1}, op, sums));
    }
    void sum_parts(index count, double* out) {
        be_.launch(vector_pass(sum_numbers<double>(part_.data, out, count)));
    }

    Be& be_;
    int bias_, capacity_, rank_;
    part sides_[2];
    stored_type holdout_;
    als_design<T> design_;
    double weight_[2] = {0, 0};
    vec<T> copy_, offset_, basis_, touched_, residuals_, sums_, padded_;
    vec<double> background_, constants_, part_, tiles_;
    copy_of copies_[2];
};

// --- whole solves over any backend ----------------------------------------------------------------

// As cuda::completion::complete.
template <class Be, class T>
aitken::completion::report complete_matrix(Be& be, const completion::problem<T>& problem,
                                           const aitken::completion::options& options,
                                           const aitken::completion::factors<T>& f,
                                           const aitken::completion::monitor& monitor) {
    als_kernels<Be, T> kernels(be, problem, static_cast<int>(f.u.cols), options.half.bias);
    kernels.load_factors(side::rows, f.u, f.a);
    kernels.load_factors(side::columns, f.v, f.b);
    drivers::completion::als_solver<Be, als_kernels<Be, T>> solver(be, kernels, options, monitor);
    aitken::completion::report report = solver.run();
    kernels.store_factors(side::rows, static_cast<int>(report.rank), f.u, f.a);
    kernels.store_factors(side::columns, static_cast<int>(report.rank), f.v, f.b);
    return report;
}

// A problem with entries by rows alone: those by columns are none.
template <class Be, class T>
completion::problem<T> one_sided(Be& be, const completion::stored<T>& rows, index columns) {
    const vec<index> empty = be.template allocate<index>(columns + 1);
    be.launch(map_pass(fill_with<index>{empty.data, 0}, empty.size));
    completion::problem<T> problem;
    problem.rows = rows;
    problem.columns.entries.a = {columns, rows.entries.a.rows, empty.data, nullptr};
    return problem;
}

// As cuda::completion::half_sweep.
template <class Be, class T>
aitken::completion::half_report half_sweep_of(Be& be, const completion::stored<T>& rows,
                                              matrix<const T> fixed, vec<const T> fixed_bias, matrix<T> x,
                                              vec<T> x_bias, const half_options& options) {
    als_kernels<Be, T> kernels(be, one_sided(be, rows, fixed.rows), static_cast<int>(fixed.cols),
                               options.bias);
    kernels.load_factors(side::rows, x, x_bias);
    kernels.load_factors(side::columns, fixed, fixed_bias);
    const scalar_ref error = be.scalar(), steps = be.scalar(), retries = be.scalar();
    const index m = fixed.cols + 1;
    const vec<double> room = be.template allocate<double>(m * (m + 1));
    drivers::completion::half_sweep(be, kernels, side::rows, options, room, error, steps, retries);
    kernels.store_factors(side::rows, static_cast<int>(fixed.cols), x, x_bias);
    const auto [e, i, r] = read(be, error, steps, retries);
    return {e, static_cast<index>(i), static_cast<index>(r)};
}

// As cuda::completion::squared_error.
template <class Be, class T>
double squared_error_of(Be& be, const completion::stored<T>& rows,
                        const aitken::completion::factors<const T>& f) {
    als_kernels<Be, T> kernels(be, one_sided(be, rows, f.v.rows), static_cast<int>(f.u.cols), f.a.size > 0);
    kernels.load_factors(side::rows, f.u, f.a);
    kernels.load_factors(side::columns, f.v, f.b);
    const scalar_ref error = be.scalar();
    kernels.squared_error(false, half_options{}, error);
    return read(be, error)[0];
}

// As cuda::completion::predict.
template <class Be, class T>
void predict_into(Be& be, const aitken::completion::factors<const T>& f, const std::int32_t* rows,
                  const std::int32_t* columns, vec<T> out) {
    const bool bias = f.a.size > 0;
    be.launch(map_pass(predict_places<T>{f.u, f.v, bias ? f.a.data : nullptr, bias ? f.b.data : nullptr, rows,
                                         columns, out.data},
                       out.size));
}

}  // namespace aitken::cuda
