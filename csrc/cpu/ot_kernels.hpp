// Transport kernels on the CPU. One structure for all: rows in chunks fixed by the shape, four rows at a
// time, each group read (or recomputed) once and used from cache; column sums go to a buffer per chunk
// and are added in chunk order. So bits do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/api/ot.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_sources.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "drivers/ot.hpp"

namespace aitken::cpu {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

// How n rows of m entries are cut: at most 32 chunks (the column buffers stay O(m)), none smaller than
// 16k entries, each a multiple of the group of four.
struct row_chunks {
    static constexpr int group = 4;
    index rows, per_chunk, count;

    row_chunks(index n, index m) : rows(n) {
        const index wanted = std::clamp<index>(n * m / 16384, 1, 32);
        per_chunk = ((n + wanted - 1) / std::max<index>(wanted, 1) + group - 1) / group * group;
        per_chunk = std::max<index>(per_chunk, group);
        count = (n + per_chunk - 1) / per_chunk;
    }
    index first(index chunk) const { return chunk * per_chunk; }
    index last(index chunk) const { return std::min(rows, first(chunk) + per_chunk); }
};

template <class T, class Source>
class source_kernels {
    using row = rows_of<T>;
    static constexpr int group = row_chunks::group;

public:
    source_kernels(backend& be, const typename Source::problem& problem)
        : be_(be),
          cost_(be, problem),
          a_(problem.a),
          b_(problem.b),
          h_a_(problem.a),
          h_b_(problem.b),
          kernel_(problem.plan),
          n_(cost_.rows()),
          m_(cost_.cols()),
          chunks_(n_, m_) {
        base_x_ = be.allocate<double>(n_);
        base_y_ = be.allocate<double>(m_);
        row_in_ = be.allocate<double>(n_);
        col_in_ = be.allocate<double>(m_);
        partial_ = be.allocate<double>(chunks_.count * m_);
        chunk_sum_ = be.allocate<double>(chunks_.count);
        if (!stored() && !Source::computed) scratch_ = be.allocate<T>(chunks_.count * group * m_);
    }

    bool stored() const { return kernel_.data != nullptr; }

    // --- exponential passes: read C, write K (2 n m sizeof(T) bytes), n m exp ---

    void zero_potentials(vec<double> x, vec<double> y) {
        be_.launched();
        std::fill_n(x.data, n_, 0.0);
        std::fill_n(y.data, m_, 0.0);
        mask_potentials(x, y);
    }

    // Bins without mass take no part: their potential is -inf, their row or column of P exactly 0.
    void mask_potentials(vec<double> x, vec<double> y) {
        be_.launched();
        for (index i = 0; i < n_; ++i)
            if (!(a_[i] > 0)) x[i] = -infinity;
        for (index j = 0; j < m_; ++j)
            if (!(b_[j] > 0)) y[j] = -infinity;
    }

    // K = exp((x + y - C)/eps) with its row and column sums.
    void exp_pass(double eps, vec<const double> x, vec<const double> y, vec<double> r, vec<double> c) {
        be_.launched();
        set_base(eps, x, y);
        if constexpr (Source::computed) {
            if (in_blocks()) {
                bound({}, {});
                std::fill_n(row_in_.data, n_, 1.0);
                std::fill_n(col_in_.data, m_, 1.0);
                dot_axpy_blocks(row_in_, col_in_, r);
                add_chunks([&](index j, double sum) { c[j] = sum; });
                return;
            }
        }
        each_chunk([&](index first, index last, double* col, T* scratch) {
            std::fill_n(col, m_, 0.0);
            for (index i = first; i < last; i += group) {
                const int rows = static_cast<int>(std::min<index>(group, last - i));
                T* k[group];
                for (int g = 0; g < rows; ++g) {
                    k[g] = slot(i, g, scratch);
                    r[i + g] = cost_.exp(i + g, base_y_.data, base_x_[i + g], inv_eps_, k[g]);
                }
                row::axpy(k, rows, ones, m_, col);
            }
        });
        add_chunks([&](index j, double sum) { c[j] = sum; });
    }

    // x_i = eps (log a_i - log sum_j exp((y_j - C_ij)/eps)), then K there: row sums are a, c = K^T 1.
    // Two looks at a row of C, the second from cache.
    void scale_rows_pass(double eps, vec<double> x, vec<const double> y, vec<double> c) {
        be_.launched();
        set_base(eps, {}, y);
        if constexpr (Source::computed) {
            if (in_blocks()) {
                scale_rows_blocks(eps, x);
                add_chunks([&](index j, double sum) { c[j] = sum; });
                return;
            }
        }
        each_chunk([&](index first, index last, double* col, T* scratch) {
            std::fill_n(col, m_, 0.0);
            for (index i = first; i < last; i += group) {
                const int rows = static_cast<int>(std::min<index>(group, last - i));
                T* k[group];
                double scale[group];
                for (int g = 0; g < rows; ++g) {
                    k[g] = slot(i, g, scratch);
                    listen();
                    const double peak = a_[i + g] > 0 ? cost_.max(i + g, base_y_.data) : -infinity;
                    if (!(peak > -infinity)) {
                        x[i + g] = base_x_[i + g] = -infinity;
                        std::fill_n(k[g], m_, T(0));
                        scale[g] = 0;
                        continue;
                    }
                    const double sum = cost_.exp(i + g, base_y_.data, -peak, inv_eps_, k[g]);
                    // The stored row is exp(.. - peak): scaled to mass a below by x, here by the factor.
                    scale[g] = a_[i + g] / sum;
                    x[i + g] = base_x_[i + g] = eps * std::log(scale[g]) - peak;
                    if (stored()) scale_row(k[g], scale[g]);
                }
                row::axpy(k, rows, stored() ? ones : scale, m_, col);
            }
        });
        add_chunks([&](index j, double sum) { c[j] = sum; });
    }

    // out_i = eps (log a_i - log sum_j exp((y_j - C_ij)/eps)); without `weighted`, log a_i counts 0.
    void log_sum_exp_rows(double eps, vec<const double> y, bool weighted, vec<double> out) {
        be_.launched();
        const double inv_eps = 1.0 / eps;
        parallel_chunks(chunks_.count, [&](index chunk) {
            std::vector<T> buffer(m_);
            for (index i = chunks_.first(chunk); i < chunks_.last(chunk); ++i) {
                listen();
                const double peak = cost_.max(i, y.data);
                const double sum = cost_.exp(i, y.data, -peak, inv_eps, buffer.data());
                const double mass = weighted ? a_[i] : 1.0;
                out[i] = mass > 0 && peak > -infinity ? eps * std::log(mass / sum) - peak : -infinity;
            }
        });
    }

    // The same over columns: a pass for the maxima, a pass for the sums.
    void log_sum_exp_cols(double eps, vec<const double> x, bool weighted, vec<double> out) {
        be_.launched();
        const double inv_eps = 1.0 / eps;
        each_chunk([&](index first, index last, double* col, T* scratch) {
            std::fill_n(col, m_, -infinity);
            for (index i = first; i < last; ++i) {
                listen();
                row::col_max(cost_.costs(i, scratch), x[i], m_, col);
            }
        });
        for (index j = 0; j < m_; ++j) {
            double peak = -infinity;
            for (index k = 0; k < chunks_.count; ++k) peak = std::max(peak, partial_[k * m_ + j]);
            col_in_[j] = peak > -infinity ? -peak : 0.0;
        }
        each_chunk([&](index first, index last, double* col, T*) {
            std::fill_n(col, m_, 0.0);
            std::vector<T> buffer(m_);
            const T* k[1] = {buffer.data()};
            for (index i = first; i < last; ++i) {
                listen();
                cost_.exp(i, col_in_.data, x[i], inv_eps, buffer.data());
                row::axpy(k, 1, ones, m_, col);
            }
        });
        add_chunks([&](index j, double sum) {
            const double mass = weighted ? b_[j] : 1.0;
            out[j] = mass > 0 && sum > 0 ? eps * std::log(mass / sum) + col_in_[j] : -infinity;
        });
    }

    // s = <C, diag(u) K diag(v)>.
    void cost_of_plan(vec<const double> u, vec<const double> v, scalar_ref s) {
        be_.launched();
        if constexpr (Source::computed) {
            bound(u, v);
            if (in_blocks()) {
                std::fill_n(row_in_.data, n_, 0.0);
                each_block([&](index i, index j, index count, double*) {
                    alignas(64) T k[Source::block], costs[Source::block];
                    cost_.exp(i, j, count, base_y_.data + j, base_x_[i], inv_eps_, k);
                    cost_.costs(i, j, count, costs);
                    row_in_[i] += row::weighted_cost(k, v.data + j, costs, count);
                });
                double total = 0;
                for (index i = 0; i < n_; ++i) total += u[i] * row_in_[i];
                *s.address() = total;
                return;
            }
            each_group_chunk(
                [&](index i, int rows, const T* const* k, double* sum) {
                    const aligned_room<T> costs(m_);
                    for (int g = 0; g < rows; ++g)
                        *sum +=
                            u[i + g] * row::weighted_cost(k[g], v.data, cost_.costs(i + g, costs.data()), m_);
                },
                s);
        } else {
            each_group_chunk(
                [&](index i, int rows, const T* const* k, double* sum) {
                    for (int g = 0; g < rows; ++g)
                        *sum += u[i + g] * row::weighted_cost(k[g], v.data, cost_.costs(i + g, nullptr), m_);
                },
                s);
        }
    }

    // --- sweeps: read K once (n m sizeof(T) bytes) ---

    // One Sinkhorn iteration: r = u (K v); u = a / (K v); c = v (K^T u). 4 n m flops. Damped where the rows
    // are soft: u (h_a / r)^(rho / (rho + eps)), the exact maximiser of the dual in u.
    void sinkhorn_sweep(vec<double> u, vec<const double> v, vec<double> r, vec<double> c) {
        be_.launched();
        bound(u, v);
        const auto scale = [&](index i, double kv) {
            r[i] = u[i] * kv;
            const double scaled =
                row_damping_ == 1 ? h_a_[i] / kv : u[i] * std::pow(h_a_[i] / r[i], row_damping_);
            if (scaled > 0 && scaled < infinity) u[i] = scaled;  // else: a row for log-sum-exp
        };
        if constexpr (Source::computed) {
            if (in_blocks()) {
                sweep_blocks(u, v, scale);
                add_chunks([&](index j, double sum) { c[j] = v[j] * sum; });
                return;
            }
        }
        each_group([&](index i, int rows, const T* const* k, double* col) {
            double kv[group];
            row::dot(k, rows, v.data, m_, kv);
            for (int g = 0; g < rows; ++g) scale(i + g, kv[g]);
            row::axpy(k, rows, u.data + i, m_, col);
        });
        add_chunks([&](index j, double sum) { c[j] = v[j] * sum; });
    }

    // out = P 1. 2 n m flops.
    void row_sums(vec<const double> u, vec<const double> v, vec<double> out) {
        be_.launched();
        bound(u, v);
        dot_rows(u, v, out);
    }

    // out = P^T 1. 2 n m flops.
    void col_sums(vec<const double> u, vec<const double> v, vec<double> out) {
        be_.launched();
        bound(u, v);
        axpy_rows(u);
        add_chunks([&](index j, double sum) { out[j] = v[j] * sum; });
    }

    // w = r p - P((P^T p) / c) and s = p.w, rows without mass left out. Two sweeps, 4 n m flops.
    void schur_product(vec<const double> u, vec<const double> v, vec<const double> r, vec<const double> c,
                       vec<const double> p, vec<double> w, scalar_ref s) {
        be_.launched();
        bound(u, v);
        for (index i = 0; i < n_; ++i) row_in_[i] = u[i] * p[i];
        axpy_rows(row_in_);
        add_chunks([&](index j, double sum) { col_in_[j] = c[j] > 0 ? v[j] * v[j] * sum / c[j] : 0.0; });
        dot_rows(u, col_in_, w);
        double pw = 0;
        for (index i = 0; i < n_; ++i) {
            w[i] = active(i) ? r[i] * p[i] - w[i] : 0.0;
            pw += p[i] * w[i];
        }
        *s.address() = pw;
    }

    // q -= P(g_y / c). One sweep.
    void schur_rhs(vec<const double> u, vec<const double> v, vec<const double> c, vec<const double> gy,
                   vec<double> q) {
        be_.launched();
        bound(u, v);
        for (index j = 0; j < m_; ++j) col_in_[j] = c[j] > 0 ? v[j] * gy[j] / c[j] : 0.0;
        dot_rows(u, col_in_, row_in_);
        for (index i = 0; i < n_; ++i) q[i] -= row_in_[i];
    }

    // d_y = (g_y - P^T d_x) / c. One sweep.
    void schur_columns(vec<const double> u, vec<const double> v, vec<const double> dx, vec<const double> c,
                       vec<const double> gy, vec<double> dy) {
        be_.launched();
        bound(u, v);
        for (index i = 0; i < n_; ++i) row_in_[i] = u[i] * dx[i];
        axpy_rows(row_in_);
        add_chunks([&](index j, double sum) { dy[j] = c[j] > 0 ? (gy[j] - v[j] * sum) / c[j] : 0.0; });
    }

    // (P q)_i and (P^T p)_j in one read of K. 4 n m flops.
    void trial(vec<const double> u, vec<const double> v, vec<const double> p, vec<const double> q,
               vec<double> pq, vec<double> ptp) {
        be_.launched();
        for (index j = 0; j < m_; ++j) col_in_[j] = v[j] * q[j];
        for (index i = 0; i < n_; ++i) row_in_[i] = u[i] * p[i];
        const auto times = [&](index i, int rows, const T* const* k, double* col) {
            row::dot_axpy(k, rows, col_in_.data, row_in_.data + i, m_, pq.data + i, col);
        };
        if constexpr (Source::computed) {
            bound(u, v);
            in_blocks() ? dot_axpy_blocks(row_in_, col_in_, pq) : each_group(times);
        } else {
            each_group(times);
        }
        for (index i = 0; i < n_; ++i) pq[i] *= u[i];
        add_chunks([&](index j, double sum) { ptp[j] = v[j] * sum; });
    }

    // --- sparsification ---

    // theta min(r_i / m, c_j / n): at most the share theta of a row or column is dropped.
    void mass_limits(double theta, vec<const double> r, vec<const double> c, vec<double> row_limit,
                     vec<double> col_limit) {
        be_.launched();
        for (index i = 0; i < n_; ++i) row_limit[i] = theta * r[i] / static_cast<double>(m_);
        for (index j = 0; j < m_; ++j) col_limit[j] = theta * c[j] / static_cast<double>(n_);
    }

    void inverse_roots(vec<const double> s, vec<double> out) {
        be_.launched();
        for (index i = 0; i < s.size; ++i) out[i] = s[i] > 0 ? 1.0 / std::sqrt(s[i]) : 0.0;
    }

    // Mass that limits would drop: per column, the entries up to col_limit; per row, those above their
    // column's limit and up to the row's.
    void mass_dropped(vec<const double> u, vec<const double> v, vec<const double> row_limit,
                      vec<const double> col_limit, bool by_rows, vec<double> out) {
        be_.launched();
        bound(u, v);
        each_group([&](index i, int rows, const T* const* k, double* col) {
            for (int g = 0; g < rows; ++g) {
                double sum = 0;
                for (index j = 0; j < m_; ++j) {
                    const double p = static_cast<double>(k[g][j]) * u[i + g] * v[j];
                    if (by_rows)
                        sum += p > col_limit[j] && p <= row_limit[i + g] ? p : 0.0;
                    else
                        col[j] += p <= col_limit[j] ? p : 0.0;
                }
                if (by_rows) out[i + g] = sum;
            }
        });
        if (!by_rows) add_chunks([&](index j, double sum) { out[j] = sum; });
    }

    // Bisection for the largest limit whose dropped mass is at most delta: limits are delta 2^-e with e
    // from 0 (everything up to delta) to 64, kept as the largest known to be safe and the one on trial.
    void bisect_start(double delta, vec<double> safe, vec<double> probe) {
        be_.launched();
        std::fill_n(safe.data, safe.size, 0.0);
        std::fill_n(probe.data, probe.size, delta);
    }
    void bisect_step(double delta, vec<const double> dropped, int step, vec<double> safe, vec<double> probe) {
        be_.launched();
        const double move = std::exp2(-32.0 * std::exp2(-step));  // 2^-32, 2^-16, ...
        for (index i = 0; i < probe.size; ++i) {
            if (dropped[i] <= delta) safe[i] = std::max(safe[i], probe[i]);
            probe[i] = std::min(delta, dropped[i] <= delta ? probe[i] / move : probe[i] * move);
        }
    }

    // Counts of the scaled entries whose bit pattern starts with `prefix`, by their next 13 bits.
    void histogram(const drivers::ot::keep_rule& rule, vec<const double> u, vec<const double> v, int shift,
                   std::uint64_t prefix, vec<int> counts) {
        be_.launched();
        combine(rule, u, v);
        const std::uint64_t mask = static_cast<std::uint64_t>(counts.size) - 1;
        const int above = shift + std::countr_zero(static_cast<std::uint64_t>(counts.size));
        std::vector<int> local(chunks_.count * counts.size, 0);
        each_group([&](index i, int rows, const T* const* k, double*) {
            int* mine = local.data() + i / chunks_.per_chunk * counts.size;
            for (int g = 0; g < rows; ++g)
                for (index j = 0; j < m_; ++j) {
                    const auto bits = std::bit_cast<std::uint64_t>(static_cast<double>(k[g][j]) *
                                                                   row_in_[i + g] * col_in_[j]);
                    if (bits >> above == prefix) ++mine[(bits >> shift) & mask];
                }
        });
        for (index b = 0; b < counts.size; ++b) {
            counts[b] = 0;
            for (index k = 0; k < chunks_.count; ++k) counts[b] += local[k * counts.size + b];
        }
    }

    // The entries of P that pass the rule, and the largest of every row and column with mass. Gives up and
    // returns false once there are more than `most`.
    bool compact(vec<const double> u, vec<const double> v, const drivers::ot::keep_rule& rule, index most,
                 drivers::ot::host_csr& out) {
        be_.launched();
        combine(rule, u, v);
        if (most < n_ * m_ && sampled_entries(rule) > 1.25 * static_cast<double>(most)) return false;
        std::vector<std::vector<std::int32_t>> columns(chunks_.count);
        std::vector<std::vector<double>> values(chunks_.count);
        std::vector<index> per_row(n_ + 1, 0);
        std::atomic<index> total{0};
        each_chunk([&](index first, index last, double*, T* scratch) {
            const index chunk = first / chunks_.per_chunk;
            std::vector<std::int32_t> idx(m_);
            for (index i = first; i < last && total.load(std::memory_order_relaxed) <= most; ++i) {
                const T* k = load(i, scratch);
                index kept = row::select(k, row_in_[i], col_in_.data, rule.row_limit[i], rule.col_limit.data,
                                         rule.use_max, m_, idx.data());
                if (kept == 0 && a_[i] > 0) {
                    index best = 0;
                    for (index j = 1; j < m_; ++j)
                        if (k[j] * v[j] > k[best] * v[best]) best = j;
                    idx[0] = static_cast<std::int32_t>(best);
                    kept = 1;
                }
                per_row[i + 1] = kept;
                total.fetch_add(kept, std::memory_order_relaxed);
                auto& mine = columns[chunk];
                if (mine.capacity() < mine.size() + kept) {  // grow by an eighth: chunks are large together
                    mine.reserve(mine.size() + mine.size() / 8 + kept + 64);
                    values[chunk].reserve(mine.capacity());
                }
                mine.insert(mine.end(), idx.begin(), idx.begin() + kept);
                for (index e = 0; e < kept; ++e) values[chunk].push_back(k[idx[e]] * u[i] * v[idx[e]]);
            }
        });
        if (total.load() > most) return false;
        for (index i = 0; i < n_; ++i) per_row[i + 1] += per_row[i];
        out.rows = n_;
        out.cols = m_;
        out.indptr = std::move(per_row);
        out.indices.clear();
        out.values.clear();
        out.indices.reserve(out.indptr.back());
        out.values.reserve(out.indptr.back());
        for (index c = 0; c < chunks_.count; ++c) {
            out.indices.insert(out.indices.end(), columns[c].begin(), columns[c].end());
            out.values.insert(out.values.end(), values[c].begin(), values[c].end());
            std::vector<std::int32_t>().swap(columns[c]);
            std::vector<double>().swap(values[c]);
        }
        add_lonely_columns(u, v, out);
        return true;
    }

    // --- vector kernels, O(n + m) ---

    // v *= b / c, c = b. Columns with a sum of 0 or not finite are left alone and counted. Soft columns: by
    // the factor (h_b / c)^(rho / (rho + eps)).
    void scale_columns(vec<double> c, vec<double> v, scalar_ref bad, scalar_ref log_v) {
        be_.launched();
        double count = 0, lo = 1, hi = 1;
        for (index j = 0; j < m_; ++j) {
            if (!(b_[j] > 0)) {
                c[j] = 0;
                continue;
            }
            const bool hard = col_damping_ == 1;
            if (!hard && h_b_[j] < soft_.least && c[j] < soft_.least) continue;
            const double factor = hard ? h_b_[j] / c[j] : std::pow(h_b_[j] / c[j], col_damping_);
            const double s = v[j] * factor;
            if (!(s > 0 && s < infinity)) {
                ++count;
                continue;
            }
            v[j] = s;
            c[j] = hard ? h_b_[j] : c[j] * factor;
            lo = std::min(lo, s);
            hi = std::max(hi, s);
        }
        *bad.address() = count;
        *log_v.address() = std::max(std::log(hi), -std::log(lo));
    }

    // From here on a and b stand for h_a and h_b where the marginals are soft.

    // q = a - r on active rows; err = ||a - r||_1, gate = max |log(r / a)| (inf for an empty row),
    // log_u = max |log u|.
    void row_errors(vec<const double> r, vec<const double> u, vec<double> q, scalar_ref err, scalar_ref gate,
                    scalar_ref log_u) {
        be_.launched();
        double sum = 0, lo = 1, hi = 1, ulo = 1, uhi = 1;
        for (index i = 0; i < n_; ++i) {
            const double g = h_a_[i] - r[i];
            sum += std::abs(g);
            q[i] = active(i) ? g : 0.0;
            if (!(h_a_[i] > 0)) continue;
            if (row_weight_ > 0 && h_a_[i] < soft_.least && r[i] < soft_.least) continue;
            ulo = std::min(ulo, u[i]);
            uhi = std::max(uhi, u[i]);
            const double ratio = r[i] / h_a_[i];
            if (!(ratio > 0 && ratio < infinity)) {
                lo = 0;
            } else if (active(i)) {
                lo = std::min(lo, ratio);
                hi = std::max(hi, ratio);
            }
        }
        *err.address() = sum;
        *gate.address() = std::max(std::log(hi), -std::log(lo));
        *log_u.address() = std::max(std::log(uhi), -std::log(ulo));
    }

    // g_x = a - r, g_y = b - c and err = ||g||_1: the gradient where the columns are not exact.
    void gradient(vec<const double> r, vec<const double> c, vec<double> gx, vec<double> gy, scalar_ref err) {
        be_.launched();
        double sum = 0;
        for (index i = 0; i < n_; ++i) sum += std::abs(gx[i] = h_a_[i] - r[i]);
        for (index j = 0; j < m_; ++j) sum += std::abs(gy[j] = h_b_[j] - c[j]);
        *err.address() = sum;
    }

    // x += eps log u, y += eps log v, u = v = 1.
    void absorb(double eps, vec<double> u, vec<double> v, vec<double> x, vec<double> y) {
        be_.launched();
        for (index i = 0; i < n_; ++i)
            if (u[i] != 1.0) x[i] += eps * std::log(u[i]), u[i] = 1.0;
        for (index j = 0; j < m_; ++j)
            if (v[j] != 1.0) y[j] += eps * std::log(v[j]), v[j] = 1.0;
    }

    // Where S 1 = 0, q must sum to 0: the rest is taken off in proportion to r. d = 0, res = q, z = res / r,
    // p = z; rz = res.z, res2 = res.res.
    void cg_start(vec<double> q, vec<const double> r, vec<double> d, vec<double> res, vec<double> z,
                  vec<double> p, scalar_ref rz, scalar_ref res2) {
        be_.launched();
        double sum = 0, mass = 0;
        for (index i = 0; i < n_; ++i)
            if (active(i)) sum += q[i], mass += r[i];
        const double share = singular_ && mass > 0 ? sum / mass : 0.0;
        double s = 0, t = 0;
        for (index i = 0; i < n_; ++i) {
            if (active(i)) q[i] -= share * r[i];
            d[i] = 0;
            res[i] = q[i];
            z[i] = p[i] = active(i) ? res[i] / r[i] : 0.0;
            s += res[i] * z[i];
            t += res[i] * res[i];
        }
        *rz.address() = s;
        *res2.address() = t;
    }

    // d += alpha p, res -= alpha w with alpha = rz / pw (0 where pw <= 0); res2 = res.res.
    void cg_update(scalar_ref rz, scalar_ref pw, vec<const double> p, vec<const double> w, vec<double> d,
                   vec<double> res, scalar_ref res2) {
        be_.launched();
        const double alpha = *pw.address() > 0 ? *rz.address() / *pw.address() : 0.0;
        double t = 0;
        for (index i = 0; i < n_; ++i) {
            d[i] += alpha * p[i];
            res[i] -= alpha * w[i];
            t += res[i] * res[i];
        }
        *res2.address() = t;
    }

    // z = res / r, rz = res.z.
    void cg_jacobi(vec<const double> res, vec<const double> r, vec<double> z, scalar_ref rz) {
        be_.launched();
        double s = 0;
        for (index i = 0; i < n_; ++i) {
            z[i] = active(i) ? res[i] / r[i] : 0.0;
            s += res[i] * z[i];
        }
        *rz.address() = s;
    }

    // z = 0 outside the active rows, rz = res.z: closes a preconditioner applied elsewhere.
    void cg_close(vec<const double> res, vec<double> z, scalar_ref rz) {
        be_.launched();
        double s = 0;
        for (index i = 0; i < n_; ++i) {
            if (!active(i)) z[i] = 0;
            s += res[i] * z[i];
        }
        *rz.address() = s;
    }

    // p = z + (rz_new / rz) p, rz = rz_new.
    void cg_direction(scalar_ref rz_new, scalar_ref rz, vec<const double> z, vec<double> p) {
        be_.launched();
        const double beta = *rz.address() > 0 ? *rz_new.address() / *rz.address() : 0.0;
        for (index i = 0; i < n_; ++i) p[i] = z[i] + beta * p[i];
        *rz.address() = *rz_new.address();
    }

    // slope = g.d; d shifted along (1, -1), where that changes nothing, so that max d_x = max d_y; reach: the
    // step fits where alpha reach <= 1, i.e. no plan entry or target grows by more than e^30 and no scaling
    // shrinks by more than e^300.
    void slope(vec<const double> gx, vec<const double> gy, vec<double> dx, vec<double> dy, scalar_ref slope,
               scalar_ref reach) {
        be_.launched();
        double s = 0, tx = -infinity, ty = -infinity, bx = infinity, by = infinity;
        for (index i = 0; i < n_; ++i) {
            s += gx[i] * dx[i];
            tx = std::max(tx, dx[i]);
            bx = std::min(bx, dx[i]);
        }
        for (index j = 0; j < m_; ++j) {
            s += gy[j] * dy[j];
            ty = std::max(ty, dy[j]);
            by = std::min(by, dy[j]);
        }
        const double shift = singular_ ? 0.5 * (ty - tx) : 0.0;
        if (singular_) {
            for (index i = 0; i < n_; ++i) dx[i] += shift;
            for (index j = 0; j < m_; ++j) dy[j] -= shift;
        }
        *slope.address() = s;
        const double plan = std::max({(tx + ty) / 30.0, -(bx + shift) / 300.0, -(by - shift) / 300.0});
        *reach.address() = std::max({plan, -row_weight_ * bx / 30.0, -col_weight_ * by / 30.0});
    }

    void trial_scalings(double alpha, vec<const double> dx, vec<const double> dy, vec<double> p,
                        vec<double> q) {
        be_.launched();
        for (index i = 0; i < n_; ++i) p[i] = std::expm1(alpha * dx[i]);
        for (index j = 0; j < m_; ++j) q[j] = std::expm1(alpha * dy[j]);
    }

    // drop = sum P (expm1(t) - t), noise = the rounding it may carry, err = L1 error after the step. Soft
    // marginals add rho/eps sum h (expm1(-s) + s), s = eps/rho alpha d, to the drop.
    void trial_sums(double alpha, vec<const double> r, vec<const double> c, vec<const double> dx,
                    vec<const double> dy, vec<const double> p, vec<const double> q, vec<const double> pq,
                    vec<const double> ptp, scalar_ref drop, scalar_ref noise, scalar_ref err) {
        be_.launched();
        double sum = 0, size = 0, after = 0, widest = 0;
        for (index i = 0; i < n_; ++i) {
            widest = std::max(widest, std::abs(alpha * dx[i]));
            const double own = r[i] * expm1_minus(alpha * dx[i], p[i]), cross = p[i] * pq[i];
            const auto [aim, curve] = target_after(h_a_[i], row_weight_, alpha * dx[i]);
            sum += own + cross + curve;
            size += own + std::abs(cross) + curve;
            after += std::abs(aim - (1.0 + p[i]) * (r[i] + pq[i]));
        }
        for (index j = 0; j < m_; ++j) {
            widest = std::max(widest, std::abs(alpha * dy[j]));
            const double own = c[j] * expm1_minus(alpha * dy[j], q[j]);
            const auto [aim, curve] = target_after(h_b_[j], col_weight_, alpha * dy[j]);
            sum += own + curve;
            size += own + curve;
            after += std::abs(aim - (1.0 + q[j]) * (c[j] + ptp[j]));
        }
        *drop.address() = sum;
        *noise.address() = 16 * std::numeric_limits<double>::epsilon() * (1.0 + widest) * size;
        *err.address() = after;
    }

    // u *= 1 + p, v *= 1 + q.
    void accept(vec<const double> p, vec<const double> q, vec<double> u, vec<double> v) {
        be_.launched();
        for (index i = 0; i < n_; ++i) u[i] *= 1.0 + p[i];
        for (index j = 0; j < m_; ++j) v[j] *= 1.0 + q[j];
    }

    // --- unbalanced problems ---

    vec<const double> row_weights() const { return a_; }
    vec<const double> col_weights() const { return b_; }

    void soften(const drivers::ot::soft_marginals& soft) {
        soft_ = soft;
        h_a_ = soft.row;
        h_b_ = soft.col;
        row_weight_ = soft.row_weight;
        col_weight_ = soft.col_weight;
        row_damping_ = 1.0 / (1.0 + row_weight_);
        col_damping_ = 1.0 / (1.0 + col_weight_);
        singular_ = soft.singular;
    }

    // h_a = a exp(-f / rho_a) and h_b alike, of the potentials x + eps log u, y + eps log v and the gauge,
    // over the mass of the plan. With `recentre` (c = h_b, the masses A of h_a and B of h_b may differ): the
    // plan, c and v times e^s, and the gauge moved by eps t, so that all masses agree: s = (A - B) w_b / q, t
    // = (A - B) (1 + w_b) / q in logarithms, with q = w_a w_b + w_a + w_b and w = eps / rho.
    void targets(double eps, vec<const double> x, vec<const double> y, vec<const double> u, vec<double> v,
                 vec<double> c, bool recentre) {
        be_.launched();
        const double gauge = soft_.gauge[0] / eps, wa = row_weight_, wb = col_weight_;
        const double of_rows = -(1 + wa) * soft_.log_mass - wa * gauge,
                     of_cols = -soft_.log_mass + wb * gauge;
        double rows = 0, cols = 0;
        for (index i = 0; i < n_; ++i) rows += soft_.row[i] = target(a_[i], u[i], x[i] / eps, wa, of_rows);
        for (index j = 0; j < m_; ++j) cols += soft_.col[j] = target(b_[j], v[j], y[j] / eps, wb, of_cols);
        const double apart = std::log(rows / cols);
        if (!recentre || !std::isfinite(apart)) return;
        const double q = wa * wb + wa + wb, both = apart * wb / q, own = apart * (1 + wb) / q;
        const double grow = std::exp(both), row = std::exp(-wa * own), col = std::exp(wb * (own - both));
        for (index i = 0; i < n_; ++i) soft_.row[i] *= row;
        for (index j = 0; j < m_; ++j) soft_.col[j] *= col, v[j] *= grow, c[j] *= grow;
        soft_.gauge[0] += eps * own;
    }

    // The diagonal of H: r + eps/rho_a h_a, c + eps/rho_b h_b.
    void soft_diagonals(vec<const double> r, vec<const double> c, vec<double> dr, vec<double> dc) {
        be_.launched();
        for (index i = 0; i < n_; ++i) dr[i] = r[i] + row_weight_ * h_a_[i];
        for (index j = 0; j < m_; ++j) dc[j] = c[j] + col_weight_ * h_b_[j];
    }

    // --- for the API functions outside the driver ---

    // out = P v.
    void plan_times(vec<const double> u, vec<const double> v, vec<const double> x, vec<double> out) {
        be_.launched();
        bound(u, v);
        for (index j = 0; j < m_; ++j) col_in_[j] = v[j] * x[j];
        dot_rows(u, col_in_, out);
    }
    void plan_t_times(vec<const double> u, vec<const double> v, vec<const double> x, vec<double> out) {
        be_.launched();
        bound(u, v);
        for (index i = 0; i < n_; ++i) row_in_[i] = u[i] * x[i];
        axpy_rows(row_in_);
        add_chunks([&](index j, double sum) { out[j] = v[j] * sum; });
    }
    // K at (x, y) becomes the kernel; nothing is computed where it is not stored.
    void set_base(double eps, vec<const double> x, vec<const double> y) {
        inv_eps_ = 1.0 / eps;
        if (x.data) std::copy_n(x.data, n_, base_x_.data);
        std::copy_n(y.data, m_, base_y_.data);
    }

private:
    static constexpr double ones[group] = {1, 1, 1, 1};

    bool large() const { return n_ * m_ >= index{1} << 20; }
    // Bins below 1e-14 of the mass move by Sinkhorn scalings alone: their Newton equation is round-off.
    bool active(index i) const { return h_a_[i] > 1e-14; }

    // weight exp(w (log(weight / scaling) - potential) + shift), w = eps / rho; hard where w = 0.
    static double target(double weight, double scaling, double potential, double w, double shift) {
        if (!(weight > 0)) return 0.0;
        return weight * std::exp(w > 0 ? w * (std::log(weight / scaling) - potential) + shift : shift);
    }
    // A target after a step t of its scaled potential, and what its curvature takes from the dual's gain.
    static std::pair<double, double> target_after(double h, double w, double t) {
        if (w == 0) return {h, 0.0};
        const double change = std::expm1(-w * t);
        return {h + h * change, h / w * expm1_minus(-w * t, change)};
    }

    static double expm1_minus(double t, double expm1_t) {
        if (std::abs(t) > 1e-2) return expm1_t - t;
        return t * t * (0.5 + t * (1.0 / 6 + t * (1.0 / 24 + t * (1.0 / 120 + t * (1.0 / 720)))));
    }
    void scale_row(T* k, double s) {
        for (index j = 0; j < m_; ++j) k[j] = static_cast<T>(k[j] * s);
    }

    T* slot(index i, int g, T* scratch) { return stored() ? kernel_.row(i + g) : scratch + g * m_; }

    // Row i of K: stored, or recomputed into scratch.
    const T* load(index i, T* scratch) {
        if (stored()) return kernel_.row(i);
        if constexpr (Source::computed) {
            listen();
            for (index b = 0; b < cost_.n_blocks(); ++b) {
                const index j = cost_.first(b), count = cost_.count(b);
                if (cost_.far(i / group, b))
                    std::fill_n(scratch + j, count, T(0));
                else
                    cost_.exp(i, j, count, base_y_.data + j, base_x_[i], inv_eps_, scratch + j);
            }
        } else {
            cost_.exp(i, base_y_.data, base_x_[i], inv_eps_, scratch);
        }
        return scratch;
    }

    // Costs are formed, used and forgotten block by block.
    bool in_blocks() const { return Source::computed && !stored(); }

    // Tells a source of points which blocks the plan diag(u) K diag(v) leaves out.
    void bound(vec<const double> u, vec<const double> v) {
        if constexpr (Source::computed)
            cost_.bound(inv_eps_, base_x_, base_y_, u, v, soft_.row.data != nullptr);
    }

    // fn(first, last, column buffer, scratch of four rows) for every chunk.
    template <class F>
    void each_chunk(F&& fn) {
        parallel_chunks(chunks_.count, [&](index chunk, int worker) {
            // Worker 0 is the calling thread: a pass over a large plan listens for Ctrl-C itself.
            if (worker == 0 && large()) be_.interrupts().poll();
            if constexpr (Source::computed) {
                const aligned_room<T> room(group * m_);
                fn(chunks_.first(chunk), chunks_.last(chunk), partial_.data + chunk * m_, room.data());
            } else {
                fn(chunks_.first(chunk), chunks_.last(chunk), partial_.data + chunk * m_,
                   stored() ? nullptr : scratch_.data + chunk * group * m_);
            }
        });
    }

    // fn(first, last, column buffer), buffers zeroed. Chunks differ in time where far blocks are passed over.
    template <class F>
    void each_part(F&& fn) {
        parallel_chunks(
            chunks_.count,
            [&](index chunk) {
                double* col = partial_.data + chunk * m_;
                std::fill_n(col, m_, 0.0);
                fn(chunks_.first(chunk), chunks_.last(chunk), col);
            },
            chunk_schedule::dynamic);
    }

    // A chunk of a large cloud takes long: the calling thread hears Ctrl-C within its own, and tells the
    // others.
    void listen() {
        if (!Source::computed || !large()) return;
        if (stop_.load(std::memory_order_relaxed)) throw interrupted();
        if (std::this_thread::get_id() != caller_) return;
        try {
            be_.interrupts().poll();
        } catch (...) {
            stop_.store(true, std::memory_order_relaxed);
            throw;
        }
    }

    // fn(i, j, count, column buffer from j on) for every row and near block. The block's coordinates and
    // vectors are read once per chunk and then in cache; kernels make K from them in registers.
    template <class F>
    void each_block(F&& fn) {
        each_part([&](index first, index last, double* col) {
            for (index b = 0; b < cost_.n_blocks(); ++b) {
                listen();
                const index j = cost_.first(b), count = cost_.count(b);
                for (index i = first; i < last; ++i) {
                    if (i % group == 0 && cost_.far(i / group, b))
                        i += group - 1;
                    else
                        fn(i, j, count, col + j);
                }
            }
        });
    }

    // out_i = sum_j K_ij v_j, and sum_i w_i K_ij in the column buffers. One exp per entry, no memory.
    void dot_axpy_blocks(vec<const double> w, vec<const double> v, vec<double> out) {
        std::fill_n(out.data, n_, 0.0);
        each_block([&](index i, index j, index count, double* col) {
            out[i] +=
                cost_.dot_axpy(i, j, count, base_y_.data + j, base_x_[i], inv_eps_, v.data + j, w[i], col);
        });
    }

    // scale(i, (K v)_i) for every row as soon as its sum is known, then the column buffers' sum_i u_i K_ij:
    // one exp per entry. Four rows of K are kept, and used in the same walk along the columns that makes the
    // next four: 8 bytes read and written per entry, and the columns' vectors are met once.
    template <class F>
    void sweep_blocks(vec<const double> u, vec<const double> v, F&& scale) {
        each_part([&](index first, index last, double* col) {
            constexpr index block = Source::block;
            const aligned_room<T> room(group * block * cost_.n_blocks());
            std::vector<char> kept(static_cast<std::size_t>(cost_.n_blocks()), 0);
            for (index i = first; i < last + group; i += group) {
                listen();
                const int rows = static_cast<int>(std::clamp<index>(last - i, 0, group));  // 0: past the end
                double kv[group] = {};
                for (index b = 0; b < cost_.n_blocks(); ++b) {
                    const index j = cost_.first(b), count = cost_.count(b);
                    T* here = room.data() + b * group * block;
                    char& filled = kept[static_cast<std::size_t>(b)];
                    if (filled) {
                        const T* const k[group] = {here, here + block, here + 2 * block, here + 3 * block};
                        row::axpy(k, filled, u.data + i - group, count, col + j);
                    }
                    filled = rows == 0 || cost_.far(i / group, b) ? 0 : static_cast<char>(rows);
                    for (int g = 0; g < filled; ++g)
                        kv[g] += cost_.exp_dot(i + g, j, count, base_y_.data + j, base_x_[i + g], inv_eps_,
                                               v.data + j, here + g * block);
                }
                for (int g = 0; g < rows; ++g) scale(i + g, kv[g]);
            }
        });
    }

    // scale_rows_pass in blocks. For each row the largest exponent first, blocks that cannot hold it passed
    // over; then exponentials but where all are below 1e-20 of that.
    void scale_rows_blocks(double eps, vec<double> x) {
        cost_.bound(inv_eps_, base_y_);
        each_part([&](index first, index last, double* col) {
            constexpr index block = Source::block;
            const aligned_room<T> room(group * block * cost_.n_blocks());
            std::vector<double> reach(static_cast<std::size_t>(cost_.n_blocks()));
            std::vector<index> near;
            for (index i = first; i < last; i += group) {
                listen();
                const int rows = static_cast<int>(std::min<index>(group, last - i));
                index best = 0;
                for (index b = 0; b < cost_.n_blocks(); ++b) {
                    reach[b] = cost_.reach(i / group, b);
                    if (reach[b] > reach[best]) best = b;
                }
                double peak[group], lowest = infinity;
                std::fill_n(peak, group, -infinity);
                const auto look = [&](index b) {
                    const index j = cost_.first(b);
                    lowest = infinity;
                    for (int g = 0; g < rows; ++g) {
                        const double top = cost_.max(i + g, j, cost_.count(b), base_y_.data + j);
                        peak[g] = std::max(peak[g], top);
                        lowest = std::min(lowest, peak[g]);
                    }
                };
                look(best);
                for (index b = 0; b < cost_.n_blocks(); ++b)
                    if (b != best && !(reach[b] < lowest * inv_eps_)) look(b);
                for (int g = 0; g < rows; ++g)
                    if (!(a_[i + g] > 0)) peak[g] = -infinity;
                double sum[group] = {}, scale[group] = {};
                near.clear();
                for (index b = 0; b < cost_.n_blocks(); ++b) {
                    if (reach[b] - lowest * inv_eps_ < Source::negligible) continue;
                    const index j = cost_.first(b), count = cost_.count(b);
                    T* here = room.data() + static_cast<index>(near.size()) * group * block;
                    near.push_back(b);
                    for (int g = 0; g < rows; ++g)
                        if (peak[g] > -infinity)
                            sum[g] += cost_.exp(i + g, j, count, base_y_.data + j, -peak[g], inv_eps_,
                                                here + g * block);
                        else
                            std::fill_n(here + g * block, count, T(0));
                }
                for (int g = 0; g < rows; ++g) {
                    scale[g] = peak[g] > -infinity ? a_[i + g] / sum[g] : 0.0;
                    x[i + g] = peak[g] > -infinity ? eps * std::log(scale[g]) - peak[g] : -infinity;
                    base_x_[i + g] = x[i + g];
                }
                const T* here = room.data();
                for (const index b : near) {
                    const T* const k[group] = {here, here + block, here + 2 * block, here + 3 * block};
                    row::axpy(k, rows, scale, cost_.count(b), col + cost_.first(b));
                    here += group * block;
                }
            }
        });
    }

    // fn(i, rows, K rows, column buffer): groups of up to four rows, column buffers zeroed.
    template <class F>
    void each_group(F&& fn) {
        each_chunk([&](index first, index last, double* col, T* scratch) {
            std::fill_n(col, m_, 0.0);
            for (index i = first; i < last; i += group) {
                const int rows = static_cast<int>(std::min<index>(group, last - i));
                const T* k[group];
                for (int g = 0; g < rows; ++g) k[g] = load(i + g, scratch + (stored() ? 0 : g * m_));
                fn(i, rows, k, col);
            }
        });
    }

    // fn(i, rows, K rows, &sum); s = the sums of the chunks in order.
    template <class F>
    void each_group_chunk(F&& fn, scalar_ref s) {
        std::fill_n(chunk_sum_.data, chunks_.count, 0.0);
        each_group([&](index i, int rows, const T* const* k, double*) {
            fn(i, rows, k, &chunk_sum_[i / chunks_.per_chunk]);
        });
        double total = 0;
        for (index c = 0; c < chunks_.count; ++c) total += chunk_sum_[c];
        *s.address() = total;
    }

    // finish(j, sum over chunks of the column buffers).
    template <class F>
    void add_chunks(F&& finish) {
        for (index j0 = 0; j0 < m_; j0 += 512) {
            const index j1 = std::min(m_, j0 + 512);
            double* total = partial_.data;
            for (index c = 1; c < chunks_.count; ++c)
                for (index j = j0; j < j1; ++j) total[j] += partial_[c * m_ + j];
            for (index j = j0; j < j1; ++j) finish(j, total[j]);
        }
    }

    void dot_rows(vec<const double> u, vec<const double> v, vec<double> out) {
        if constexpr (Source::computed) {
            if (in_blocks()) {
                std::fill_n(out.data, n_, 0.0);
                each_block([&](index i, index j, index count, double*) {
                    out[i] +=
                        u[i] * cost_.dot(i, j, count, base_y_.data + j, base_x_[i], inv_eps_, v.data + j);
                });
                return;
            }
        }
        each_chunk([&](index first, index last, double*, T* scratch) {
            for (index i = first; i < last; i += group) {
                const int rows = static_cast<int>(std::min<index>(group, last - i));
                const T* k[group];
                for (int g = 0; g < rows; ++g) k[g] = load(i + g, scratch + (stored() ? 0 : g * m_));
                row::dot(k, rows, v.data, m_, out.data + i);
                for (int g = 0; g < rows; ++g) out[i + g] *= u[i + g];
            }
        });
    }
    void axpy_rows(vec<const double> w) {
        if constexpr (Source::computed) {
            if (in_blocks()) {
                std::fill_n(col_in_.data, m_, 0.0);
                each_block([&](index i, index j, index count, double* col) {
                    cost_.dot_axpy(i, j, count, base_y_.data + j, base_x_[i], inv_eps_, col_in_.data + j,
                                   w[i], col);
                });
                return;
            }
        }
        each_group([&](index i, int rows, const T* const* k, double* col) {
            row::axpy(k, rows, w.data + i, m_, col);
        });
    }

    // Entries that pass the rule, estimated from every 16th row: a plan far too dense is not worth storing.
    double sampled_entries(const drivers::ot::keep_rule& rule) {
        constexpr index stride = 16;
        std::vector<std::int32_t> idx(m_);
        std::vector<T> buffer(stored() ? 0 : m_);
        index seen = 0, rows = 0;
        for (index i = 0; i < n_; i += stride, ++rows)
            seen += row::select(load(i, buffer.data()), row_in_[i], col_in_.data, rule.row_limit[i],
                                rule.col_limit.data, rule.use_max, m_, idx.data());
        return static_cast<double>(seen) * static_cast<double>(n_) / static_cast<double>(rows);
    }

    void combine(const drivers::ot::keep_rule& rule, vec<const double> u, vec<const double> v) {
        bound(u, v);
        for (index i = 0; i < n_; ++i) row_in_[i] = u[i] * (rule.row_scale.data ? rule.row_scale[i] : 1.0);
        for (index j = 0; j < m_; ++j) col_in_[j] = v[j] * (rule.col_scale.data ? rule.col_scale[j] : 1.0);
    }

    // Columns with mass that the rule left empty get their largest entry.
    void add_lonely_columns(vec<const double> u, vec<const double> v, drivers::ot::host_csr& out) {
        std::vector<char> seen(m_, 0);
        for (std::int32_t j : out.indices) seen[j] = 1;
        std::vector<index> lonely;
        for (index j = 0; j < m_; ++j)
            if (!seen[j] && b_[j] > 0) lonely.push_back(j);
        if (lonely.empty()) return;
        std::vector<double> best(lonely.size(), -1.0);
        std::vector<index> row_of(lonely.size(), 0);
        std::vector<T> buffer(stored() ? 0 : m_);
        for (index i = 0; i < n_; ++i) {
            const T* k = load(i, buffer.data());
            for (std::size_t l = 0; l < lonely.size(); ++l) {
                const double p = k[lonely[l]] * u[i] * v[lonely[l]];
                if (p > best[l]) best[l] = p, row_of[l] = i;
            }
        }
        out.insert(row_of, lonely, best);
    }

    backend& be_;
    Source cost_;
    std::thread::id caller_ = std::this_thread::get_id();
    std::atomic<bool> stop_{false};
    vec<const double> a_, b_;
    vec<const double> h_a_, h_b_;  // what the marginals should be: the weights, or soft targets
    drivers::ot::soft_marginals soft_;
    double row_weight_ = 0, col_weight_ = 0, row_damping_ = 1, col_damping_ = 1;
    bool singular_ = true;
    matrix<T> kernel_;
    index n_, m_;
    row_chunks chunks_;
    double inv_eps_ = 0;
    vec<double> base_x_, base_y_, row_in_, col_in_, partial_, chunk_sum_;
    vec<T> scratch_;
};

template <class T>
using ot_kernels = source_kernels<T, matrix_source<T>>;
using point_kernels = source_kernels<double, point_source>;

}  // namespace aitken::cpu
