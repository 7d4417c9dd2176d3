// The kernels of drivers/ot_scaling.hpp on the CPU. Products are those of packed matrices with panels (rows
// of 16 numbers, cpu/simd/gemm.inc). A lane's numbers depend on no other lane, so that neither the panel a
// problem lands in nor the number of threads changes its bits.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/api/ot_scaling.hpp"
#include "cpu/backend.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "drivers/ot_scaling.hpp"

namespace aitken::cpu {

inline constexpr int panel_lanes = AITKEN_LANES, panel_memory = AITKEN_MEMORY;
inline constexpr double no_scaling = -1e9;   // logarithm of the scaling of a bin without mass
inline constexpr double gram_shift = 1e-10;  // of the unit diagonal, beyond the rounding of the past
inline constexpr double longest_step = 8.0;  // of a logarithm
inline constexpr double exponents = 708.0;   // K underflows below exp(-exponents)
inline constexpr double negligible = 60.0;   // entries of P below exp(-negligible) are nothing

// A matrix in strips of AITKEN_STRIP rows (table.hpp).
class packed_matrix {
public:
    template <class Entry>
    packed_matrix(index rows, index depth, Entry&& entry) : rows_(rows), depth_(depth) {
        memory_ = std::make_unique<backend>(silent_);
        const index strips = (rows + AITKEN_STRIP - 1) / AITKEN_STRIP;
        data_ = memory_->allocate<double>(strips * AITKEN_STRIP * depth);
        std::fill_n(data_.data, data_.size, 0.0);
        for (index i = 0; i < rows; ++i)
            for (index k = 0; k < depth; ++k) strip(i)[k * AITKEN_STRIP + i % AITKEN_STRIP] = entry(i, k);
    }
    index rows() const { return rows_; }
    index depth() const { return depth_; }
    // Rows from `row`, a multiple of AITKEN_STRIP; count < 0: all that follow.
    void multiply(const double* x, index ldx, const double* over, double* y, index ldy, index row = 0,
                  index count = -1) const {
        simd().panel_multiply(strip(row), count < 0 ? rows_ - row : count, depth_, x, ldx,
                              over ? over + row * ldy : nullptr, y + row * ldy, ldy);
    }

private:
    double* strip(index row) const { return data_.data + row / AITKEN_STRIP * AITKEN_STRIP * depth_; }

    index rows_, depth_;
    interrupt silent_;
    std::unique_ptr<backend> memory_;
    vec<double> data_;
};

// K = exp(-(C - shift) / reg), one matrix per axis of the problem.
class shared_kernel {
public:
    // `with_costs`: cost_times is to be called.
    shared_kernel(const std::vector<matrix<const double>>& axes, double reg, bool with_costs) {
        for (const auto& c : axes) {
            double least = std::numeric_limits<double>::infinity(), most = -least;
            bool symmetric = c.rows == c.cols;
            for (index i = 0; i < c.rows; ++i)
                for (index j = 0; j < c.cols; ++j) {
                    least = std::min(least, c.row(i)[j]);
                    most = std::max(most, c.row(i)[j]);
                    symmetric = symmetric && (j >= i || c.row(i)[j] == c.row(j)[i]);
                }
            const auto entry = [&](index i, index j) {
                const double e = (least - c.row(i)[j]) / reg;
                return e < -exponents ? 0.0 : std::exp(e);
            };
            forward_.push_back(std::make_shared<packed_matrix>(c.rows, c.cols, entry));
            backward_.push_back(symmetric
                                    ? forward_.back()
                                    : std::make_shared<packed_matrix>(
                                          c.cols, c.rows, [&](index j, index i) { return entry(i, j); }));
            if (with_costs)
                weighted_.push_back(std::make_shared<packed_matrix>(
                    c.rows, c.cols, [&](index i, index j) { return (c.row(i)[j] - least) * entry(i, j); }));
            rows_ *= c.rows;
            cols_ *= c.cols;
            widest_ *= std::max(c.rows, c.cols);
            shift_ += least;
            range_ += most - least;
        }
    }
    index rows() const { return rows_; }
    index cols() const { return cols_; }
    double shift() const { return shift_; }
    double range() const { return range_; }
    index scratch() const { return forward_.size() > 1 ? 2 * widest_ * panel_lanes : 0; }
    const std::vector<std::shared_ptr<packed_matrix>>& matrices() const { return forward_; }

    // Panels: y = K x, or over / (K x).
    void times(std::span<const double* const> x, const double* const* over, double* const* y,
               double* scratch) const {
        apply(forward_, x, over, y, scratch);
    }
    void transposed_times(std::span<const double* const> x, const double* const* over, double* const* y,
                          double* scratch) const {
        apply(backward_, x, over, y, scratch);
    }
    // y = ((C - shift) o K) x; `part` is another panel of rows() rows.
    void cost_times(const double* x, double* y, double* part, double* scratch) const {
        std::fill_n(y, rows_ * panel_lanes, 0.0);
        for (std::size_t a = 0; a < forward_.size(); ++a) {
            auto mixed = forward_;
            mixed[a] = weighted_[a];
            apply(mixed, {&x, 1}, nullptr, &part, scratch);
            for (index i = 0; i < rows_ * panel_lanes; ++i) y[i] += part[i];
        }
    }

private:
    using list = std::vector<std::shared_ptr<packed_matrix>>;

    static void apply(const list& matrices, std::span<const double* const> x, const double* const* over,
                      double* const* y, double* scratch) {
        if (matrices.size() == 1) {  // a strip meets all panels while it is in the first cache
            const packed_matrix& k = *matrices[0];
            for (index row = 0; row < k.rows(); row += AITKEN_STRIP)
                for (std::size_t p = 0; p < x.size(); ++p)
                    k.multiply(x[p], panel_lanes, over ? over[p] : nullptr, y[p], panel_lanes, row,
                               std::min<index>(AITKEN_STRIP, k.rows() - row));
            return;
        }
        for (std::size_t p = 0; p < x.size(); ++p)
            along_axes(matrices, x[p], over ? over[p] : nullptr, y[p], scratch);
    }
    static void along_axes(const list& matrices, const double* x, const double* over, double* y,
                           double* scratch) {
        index outer = 1, inner = 1, widest = 1;
        for (const auto& k : matrices) {
            inner *= k->depth();
            widest *= std::max(k->rows(), k->depth());
        }
        const double* from = x;
        for (std::size_t a = 0; a < matrices.size(); ++a) {
            const packed_matrix& k = *matrices[a];
            inner /= k.depth();
            const bool last = a + 1 == matrices.size();
            double* const to = last ? y : scratch + (a % 2) * widest * panel_lanes;
            for (index o = 0; o < outer; ++o)
                for (index q = 0; q < inner; ++q) {
                    const index out = (o * k.rows() * inner + q) * panel_lanes;
                    k.multiply(from + (o * k.depth() * inner + q) * panel_lanes, inner * panel_lanes,
                               last && over ? over + out : nullptr, to + out, inner * panel_lanes);
                }
            outer *= k.rows();
            from = to;
        }
    }

    list forward_, backward_, weighted_;
    index rows_ = 1, cols_ = 1, widest_ = 1;
    double shift_ = 0, range_ = 0;
};

// sum_i a_i log a_i per row.
inline std::vector<double> entropies(matrix<const double> a, int n_threads) {
    const thread_scope threads(n_threads);
    std::vector<double> out(static_cast<std::size_t>(a.rows));
    parallel_chunks(a.rows, [&](index i) {
        double sum = 0;
        for (index k = 0; k < a.cols; ++k)
            if (a.row(i)[k] > 0) sum += a.row(i)[k] * std::log(a.row(i)[k]);
        out[static_cast<std::size_t>(i)] = sum;
    });
    return out;
}

// Pairs in lanes: the panels of one thread.
class pair_lanes {
public:
    pair_lanes(const shared_kernel& kernel, const aitken::ot::scaling_pairs& pairs,
               const aitken::ot::scaling_results& results, std::span<const double> entropy_a,
               std::span<const double> entropy_b, double reg, int panels)
        : be_(silent_),
          kernel_(kernel),
          pairs_(pairs),
          results_(results),
          entropy_a_(entropy_a),
          entropy_b_(entropy_b),
          reg_(reg),
          n_(kernel.rows()),
          m_(kernel.cols()) {
        for (int p = 0; p < panels; ++p) panels_.emplace_back(be_, n_, m_);
        scratch_ = be_.allocate<double>(kernel.scratch()).data;
        for (double** field : {&staged_a_, &staged_x_, &staged_u_, &product_, &part_}) *field = numbers(n_);
        for (double** field : {&staged_b_, &staged_v_, &log_v_}) *field = numbers(m_);
    }

    int lanes() const { return static_cast<int>(panels_.size()) * panel_lanes; }
    std::int64_t products() const { return products_; }
    // Problems whose answer lies where K is no longer exp(-C / reg).
    const std::vector<index>& out_of_range() const { return out_of_range_; }

    void start(int lane, index problem) {
        panel& p = panel_of(lane);
        const int l = lane % panel_lanes;
        const double* a = pairs_.a.row(pairs_.first[problem]);
        const double* b = pairs_.b.row(pairs_.second[problem]);
        for (index i = 0; i < n_; ++i) {
            p.a[i * panel_lanes + l] = a[i];
            p.last_x[i * panel_lanes + l] = a[i] > 0 ? 0.0 : no_scaling;
            p.last_f[i * panel_lanes + l] = 0;
        }
        for (index j = 0; j < m_; ++j) p.b[j * panel_lanes + l] = b[j];
    }
    void idle(int lane) {
        panel& p = panel_of(lane);
        const int l = lane % panel_lanes;
        for (index i = 0; i < n_; ++i) {
            p.a[i * panel_lanes + l] = p.last_f[i * panel_lanes + l] = 0;
            p.last_x[i * panel_lanes + l] = no_scaling;
        }
        for (index j = 0; j < m_; ++j) p.b[j * panel_lanes + l] = 0;
    }

    // 4 n m flops per lane, an exponential and a logarithm per bin.
    void evaluate(std::span<double> err, std::span<double> norm2) {
        std::vector<const double*> u, v, b;
        std::vector<double*> to_v, to_w;
        for (panel& p : panels_) {
            simd().exp_n(p.x, p.u, n_ * panel_lanes);
            u.push_back(p.u);
            v.push_back(p.v);
            b.push_back(p.b);
            to_v.push_back(p.v);
            to_w.push_back(p.w);
        }
        kernel_.transposed_times(u, b.data(), to_v.data(), scratch_);
        kernel_.times(v, nullptr, to_w.data(), scratch_);
        products_ += 2 * static_cast<std::int64_t>(panels_.size());
        std::fill(err.begin(), err.end(), 0.0);
        std::fill(norm2.begin(), norm2.end(), 0.0);
        for (std::size_t k = 0; k < panels_.size(); ++k) {
            const panel& p = panels_[k];
            simd().panel_residual(p.a, p.x, p.u, p.w, n_, p.f, err.data() + k * panel_lanes,
                                  norm2.data() + k * panel_lanes);
        }
    }

    void remember(std::span<const int> slots, std::span<const double> use, std::span<const double> forget) {
        std::array<double, panel_memory * panel_lanes> row;
        for (std::size_t k = 0; k < panels_.size(); ++k) {
            const panel& p = panels_[k];
            const int* slot = slots.data() + k * panel_lanes;
            row.fill(0.0);
            std::fill_n(p.rhs, panel_memory * panel_lanes, 0.0);
            simd().panel_remember(p.a, p.x, p.last_x, p.f, p.last_f, use.data() + k * panel_lanes, n_, slot,
                                  p.past, p.past + n_ * panel_memory * panel_lanes, p.w, row.data(), p.rhs);
            for (int j = 0; j < panel_memory; ++j)
                for (int l = 0; l < panel_lanes; ++l)
                    p.gram[(slot[l] * panel_memory + j) * panel_lanes + l] =
                        p.gram[(j * panel_memory + slot[l]) * panel_lanes + l] = row[j * panel_lanes + l];
            // What has no diagonal counts as not there.
            for (int l = 0; l < panel_lanes; ++l)
                if (forget[k * panel_lanes + l] != 0)
                    for (int j = 0; j < panel_memory; ++j)
                        p.gram[(j * panel_memory + j) * panel_lanes + l] = 0;
            simd().panel_combination(p.gram, p.rhs, gram_shift, p.theta);
        }
    }
    void advance(std::span<const double> back) {
        for (std::size_t k = 0; k < panels_.size(); ++k) {
            panel& p = panels_[k];
            simd().panel_advance(p.x, p.f, p.last_f, back.data() + k * panel_lanes, n_,
                                 p.past + n_ * panel_memory * panel_lanes, p.theta, longest_step, p.last_x);
            std::swap(p.x, p.last_x);
            std::swap(p.f, p.last_f);
        }
    }

    // Sixteen answers share the product that their costs take.
    void finish(int lane, index problem, index nit, double err) {
        const panel& p = panel_of(lane);
        const int l = lane % panel_lanes;
        const auto s = static_cast<index>(staged_.size());
        for (index i = 0; i < n_; ++i) {
            staged_a_[i * panel_lanes + s] = p.a[i * panel_lanes + l];
            staged_x_[i * panel_lanes + s] = p.x[i * panel_lanes + l];
            staged_u_[i * panel_lanes + s] = p.u[i * panel_lanes + l];
        }
        for (index j = 0; j < m_; ++j) {
            staged_b_[j * panel_lanes + s] = p.b[j * panel_lanes + l];
            staged_v_[j * panel_lanes + s] = p.v[j * panel_lanes + l];
        }
        staged_.push_back(problem);
        results_.err[problem] = err;
        results_.nit[problem] = nit;
        if (staged_.size() == panel_lanes) flush();
    }
    void flush() {
        if (staged_.empty()) return;
        kernel_.cost_times(staged_v_, product_, part_, scratch_);
        ++products_;
        simd().log_n(staged_v_, log_v_, m_ * panel_lanes);
        for (std::size_t s = 0; s < staged_.size(); ++s) answer(staged_[s], static_cast<index>(s));
        staged_.clear();
    }

    void keep(std::span<index> problems) {
        const std::size_t lanes = problems.size();
        const auto busy = static_cast<std::size_t>(
            std::count_if(problems.begin(), problems.end(), [](index p) { return p >= 0; }));
        const std::size_t left = std::max<std::size_t>(1, (busy + panel_lanes - 1) / panel_lanes);
        if (left == panels_.size()) return;
        std::vector<index> from(lanes);
        for (std::size_t l = 0; l < lanes; ++l) from[l] = static_cast<index>(l);
        std::size_t source = left * panel_lanes;
        for (std::size_t l = 0; l < left * panel_lanes; ++l) {
            if (problems[l] >= 0) continue;
            while (source < lanes && problems[source] < 0) ++source;
            if (source == lanes) break;
            move(static_cast<int>(source), static_cast<int>(l));
            from[l] = static_cast<index>(source++);
        }
        std::copy(from.begin(), from.end(), problems.begin());
        panels_.resize(left);
    }

private:
    struct panel {
        panel() = default;
        panel(backend& be, index n, index m) {
            for (double** field : {&a, &x, &last_x, &f, &last_f, &u, &w}) *field = zeros<double>(be, n);
            for (double** field : {&b, &v}) *field = zeros<double>(be, m);
            past = zeros<float>(be, 2 * n * panel_memory);
            gram = zeros<double>(be, panel_memory * panel_memory);
            rhs = zeros<double>(be, panel_memory);
            theta = zeros<double>(be, panel_memory);
        }
        template <class T>
        static T* zeros(backend& be, index rows) {
            const vec<T> v = be.allocate<T>(rows * panel_lanes);
            std::fill_n(v.data, v.size, T(0));
            return v.data;
        }
        double *a, *b, *x, *last_x, *f, *last_f, *u, *v, *w, *gram, *rhs, *theta;
        float* past;  // changes, then images
    };

    panel& panel_of(int lane) { return panels_[static_cast<std::size_t>(lane / panel_lanes)]; }
    double* numbers(index rows) { return panel::zeros<double>(be_, rows); }

    void move(int from, int to) {
        const panel& p = panel_of(from);
        const panel& q = panel_of(to);
        const int s = from % panel_lanes, t = to % panel_lanes;
        const auto copy = [&](const auto* source, auto* target, index rows) {
            for (index i = 0; i < rows; ++i) target[i * panel_lanes + t] = source[i * panel_lanes + s];
        };
        copy(p.a, q.a, n_);
        copy(p.b, q.b, m_);
        copy(p.x, q.x, n_);
        copy(p.last_x, q.last_x, n_);
        copy(p.last_f, q.last_f, n_);
        copy(p.past, q.past, 2 * n_ * panel_memory);
        copy(p.gram, q.gram, index{panel_memory} * panel_memory);
    }

    void answer(index problem, index s) {
        double top_x = no_scaling, top_y = no_scaling, dual = 0, linear = 0;
        for (index i = 0; i < n_; ++i) {
            const index at = i * panel_lanes + s;
            if (!(staged_a_[at] > 0)) continue;
            top_x = std::max(top_x, staged_x_[at]);
            dual += staged_a_[at] * staged_x_[at];
            linear += staged_u_[at] * product_[at];
        }
        for (index j = 0; j < m_; ++j) {
            const index at = j * panel_lanes + s;
            if (!(staged_b_[at] > 0)) continue;
            top_y = std::max(top_y, log_v_[at]);
            dual += staged_b_[at] * log_v_[at];
        }
        if (kernel_.range() / reg_ > exponents - negligible && top_x + top_y > exponents - negligible) {
            out_of_range_.push_back(problem);
            return;
        }
        const auto i = static_cast<std::size_t>(pairs_.first[problem]);
        const auto j = static_cast<std::size_t>(pairs_.second[problem]);
        results_.value[problem] = reg_ * (dual - entropy_a_[i] - entropy_b_[j]) + kernel_.shift();
        results_.linear[problem] = linear + kernel_.shift();
        results_.status[problem] = static_cast<int>(status::converged);
        if (results_.x.data)
            for (index k = 0; k < n_; ++k) results_.x.row(problem)[k] = staged_x_[k * panel_lanes + s];
        if (results_.y.data)
            for (index k = 0; k < m_; ++k)
                results_.y.row(problem)[k] = staged_b_[k * panel_lanes + s] > 0
                                                 ? log_v_[k * panel_lanes + s] + kernel_.shift() / reg_
                                                 : no_scaling;
    }

    interrupt silent_;
    backend be_;
    const shared_kernel& kernel_;
    const aitken::ot::scaling_pairs& pairs_;
    const aitken::ot::scaling_results& results_;
    std::span<const double> entropy_a_, entropy_b_;
    double reg_;
    index n_, m_;
    std::vector<panel> panels_;
    std::vector<index> staged_, out_of_range_;
    double *scratch_, *staged_a_, *staged_b_, *staged_x_, *staged_u_, *staged_v_, *log_v_, *product_, *part_;
    std::int64_t products_ = 0;
};
static_assert(drivers::ot::LaneKernels<pair_lanes>);

// One problem over `rows` rows of 16: elementwise work in chunks whose sums are added in order.
class wide_memory {
public:
    wide_memory(backend& be, index rows) : rows_(rows) {
        for (double** field : {&weight, &x, &last_x, &f, &last_f})
            *field = zeros<double>(be, rows * panel_lanes);
        newest_ = zeros<double>(be, rows * panel_lanes);
        past_ = zeros<float>(be, 2 * rows * panel_memory * panel_lanes);
        images_ = past_ + rows * panel_memory * panel_lanes;
    }
    template <class T>
    static T* zeros(backend& be, index count) {
        const vec<T> v = be.allocate<T>(count);
        std::fill_n(v.data, v.size, T(0));
        return v.data;
    }
    // each(first, last) of chunks of the numbers.
    template <class F>
    static void for_chunks(index count, F&& each) {
        constexpr index size = chunk_rows * panel_lanes;
        parallel_chunks((count + size - 1) / size,
                        [&](index c) { each(c * size, std::min(count, (c + 1) * size)); });
    }

    void remember(int slot, bool use, bool forget) {
        const index chunks = (rows_ + chunk_rows - 1) / chunk_rows;
        constexpr int size = panel_memory * panel_lanes;
        std::vector<double> sums(static_cast<std::size_t>(chunks * 2 * size), 0.0);
        std::array<double, panel_lanes> used;
        used.fill(use ? 1.0 : 0.0);
        std::array<std::int32_t, panel_lanes> slots;
        slots.fill(slot);
        parallel_chunks(chunks, [&](index c) {
            const index first = c * chunk_rows, at = first * panel_lanes;
            double* const mine = sums.data() + c * 2 * size;
            simd().panel_remember(weight + at, x + at, last_x + at, f + at, last_f + at, used.data(),
                                  std::min<index>(chunk_rows, rows_ - first), slots.data(),
                                  past_ + at * panel_memory, images_ + at * panel_memory, newest_ + at, mine,
                                  mine + size);
        });
        for (int j = 0; j < panel_memory; ++j) {
            double g = 0, b = 0;
            for (index c = 0; c < chunks; ++c)
                for (int l = 0; l < panel_lanes; ++l) {
                    g += sums[static_cast<std::size_t>(c * 2 * size + j * panel_lanes + l)];
                    b += sums[static_cast<std::size_t>(c * 2 * size + size + j * panel_lanes + l)];
                }
            for (int l = 0; l < panel_lanes; ++l) {
                gram_[static_cast<std::size_t>((slot * panel_memory + j) * panel_lanes + l)] = g;
                gram_[static_cast<std::size_t>((j * panel_memory + slot) * panel_lanes + l)] = g;
                rhs_[static_cast<std::size_t>(j * panel_lanes + l)] = b;
            }
        }
        if (forget) gram_.fill(0.0);
        simd().panel_combination(gram_.data(), rhs_.data(), gram_shift, theta_.data());
    }
    void advance(bool back) {
        std::array<double, panel_lanes> returns;
        returns.fill(back ? 1.0 : 0.0);
        parallel_chunks((rows_ + chunk_rows - 1) / chunk_rows, [&](index c) {
            const index first = c * chunk_rows, at = first * panel_lanes;
            simd().panel_advance(x + at, f + at, last_f + at, returns.data(),
                                 std::min<index>(chunk_rows, rows_ - first), images_ + at * panel_memory,
                                 theta_.data(), longest_step, last_x + at);
        });
        std::swap(x, last_x);
        std::swap(f, last_f);
    }

    double *weight, *x, *last_x, *f, *last_f;

private:
    static constexpr index chunk_rows = 128;

    index rows_;
    double* newest_;
    float *past_, *images_;  // one piece: changes, then images
    std::array<double, panel_memory * panel_memory * panel_lanes> gram_{};
    std::array<double, panel_memory * panel_lanes> rhs_{}, theta_{};
};

}  // namespace aitken::cpu
