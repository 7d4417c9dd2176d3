// Kernels of sketch-and-project, and CountSketch. Bits depend on the numbers and the SIMD level alone.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/linear_maps.hpp"
#include "core/api/optimize_sketch.hpp"
#include "core/philox.hpp"
#include "cpu/backend.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/tall_skinny.hpp"
#include "cpu/threads.hpp"
#include "drivers/optimize_sketch.hpp"

namespace aitken::cpu::optimize_sketch {
namespace {

constexpr std::uint32_t column_numbers = 0x736b636f, row_numbers = 0x736b726f, block_numbers = 0x736b626c,
                        sign_numbers = 0x736b7369, bucket_numbers = 0x736b6275;
constexpr index serial_entries = index{1} << 18;  // below that a second thread costs more than it brings

index padded(index k) { return (k + AITKEN_ROW_PAD - 1) / AITKEN_ROW_PAD * AITKEN_ROW_PAD; }

philox_stream stream(std::uint64_t seed, std::uint32_t purpose, std::uint64_t step) {
    return {seed, purpose, static_cast<std::uint32_t>(step >> 32), static_cast<std::uint32_t>(step)};
}

// Row of a sketch with k rows, and sign, from one block of bits.
struct place {
    std::int32_t bucket;
    double sign;
};
place hashed(const philox_words& w, index k) {
    return {static_cast<std::int32_t>(std::uint64_t{w.word[0]} * static_cast<std::uint64_t>(k) >> 32),
            (w.word[1] & 1) != 0 ? 1.0 : -1.0};
}

// body(first, last) for pieces of 0 .. n, by threads where `entries` are worth it.
template <class Body>
void in_pieces(index n, index piece, index entries, Body body) {
    const index count = (n + piece - 1) / piece;
    const auto run = [&](index k) { body(k * piece, std::min((k + 1) * piece, n)); };
    if (entries < serial_entries) {
        for (index k = 0; k < count; ++k) run(k);
    } else {
        parallel_chunks(count, run);
    }
}

// out[k] = <row(k), x> for first <= k < last: four rows at a time, x is read once for them.
template <class Row>
void dot_rows(index first, index last, Row row, const double* x, index n, double* out) {
    for (index k = first; k < last; k += 4) {
        const int taken = static_cast<int>(std::min<index>(4, last - k));
        std::array<const double*, 4> rows{};
        for (int j = 0; j < taken; ++j) rows[static_cast<std::size_t>(j)] = row(k + j);
        simd().dot_f64(rows.data(), taken, x, n, out + k);
    }
}

// acc += sum_k weight(k) row(k), 0 <= k < count.
template <class Row, class Weight>
void add_rows(index count, Row row, Weight weight, index n, double* acc) {
    for (index k = 0; k < count; k += 4) {
        const int taken = static_cast<int>(std::min<index>(4, count - k));
        std::array<const double*, 4> rows{};
        std::array<double, 4> weights{};
        for (int j = 0; j < taken; ++j) {
            rows[static_cast<std::size_t>(j)] = row(k + j);
            weights[static_cast<std::size_t>(j)] = weight(k + j);
        }
        simd().axpy_f64(rows.data(), taken, weights.data(), n, acc);
    }
}

// Which rows go to which of k buckets, ascending within each: a counting sort.
struct buckets {
    std::vector<index> begin, member;
    std::vector<double> sign;  // of a row

    template <class Draw>
    buckets(index rows, index k, Draw draw)
        : begin(static_cast<std::size_t>(k) + 1, 0),
          member(static_cast<std::size_t>(rows)),
          sign(static_cast<std::size_t>(rows)),
          bucket(static_cast<std::size_t>(rows)) {
        in_pieces(rows, 4096, rows, [&](index first, index last) {
            for (index i = first; i < last; ++i) {
                const place p = draw(i);
                bucket[i] = p.bucket;
                sign[i] = p.sign;
            }
        });
        for (index i = 0; i < rows; ++i) ++begin[bucket[i] + 1];
        for (index j = 0; j < k; ++j) begin[j + 1] += begin[j];
        std::vector<index> next(begin.begin(), begin.end() - 1);
        for (index i = 0; i < rows; ++i) member[next[bucket[i]]++] = i;
    }
    std::vector<std::int32_t> bucket;
};

// out = sum of the signed rows of a bucket.
void add_bucket(const api::any_matrix& w, const buckets& s, index j, double* out) {
    std::fill_n(out, w.cols(), 0.0);
    const index* member = s.member.data() + s.begin[j];
    const index count = s.begin[j + 1] - s.begin[j];
    if (w.is_dense())
        return add_rows(
            count, [&](index k) { return w.dense.row(member[k]); },
            [&](index k) { return s.sign[member[k]]; }, w.cols(), out);
    for (index k = 0; k < count; ++k) {
        const index i = member[k];
        for (index p = w.a.indptr[i]; p < w.a.indptr[i + 1]; ++p)
            out[w.a.indices[p]] += s.sign[i] * w.values[p];
    }
}

class sketch_kernels {
public:
    sketch_kernels(backend& be, const api::any_matrix& k, const api::options& options)
        : be_(be), k_(k), opt_(options), n_(k.rows()), q_(options.block), ldg_(padded(options.block)) {
        if (!k_.is_dense()) map_ = make_csr<double>(k_.a, k_.values);
        gram_ = zeros(q_ * ldg_);
        kept_ = be_.template allocate<double>(q_ * ldg_);
        small_ = zeros(ldg_);
        if (opt_.method == api::method::kaczmarz) return;
        w_ = {be_.template allocate<double>(n_ * q_).data, n_, q_, n_};
        if (opt_.method == api::method::gaussian || opt_.method == api::method::block_gaussian)
            s_ = {be_.template allocate<double>(n_ * q_).data, n_, q_, n_};
    }

    index nnz() const { return k_.nnz(); }

    // nnz(K) entries, 2 flops each; r is written once.
    void residual(vec<const double> b, vec<const double> z, vec<double> r, scalar_ref norm2) {
        be_.launched();
        product(z, r);
        double sum = 0;
        for (index i = 0; i < n_; ++i) {
            r[i] -= b[i];
            sum += r[i] * r[i];
        }
        *norm2.address() = sum;
    }

    void multiply(vec<const double> x, vec<double> y) {
        be_.launched();
        product(x, y);
    }

    // ---- columns ----------------------------------------------------------------------------------------

    // Gaussian: q products with K as one, 2 q nnz(K) flops. CountSketch: every entry of K is added once.
    void draw(std::uint64_t step) {
        be_.launched();
        if (opt_.method == api::method::countsketch) {
            const philox_stream numbers = stream(opt_.seed, sign_numbers, step);
            hash_.emplace(n_, q_,
                          [&](index i) { return hashed(numbers.block(static_cast<std::uint32_t>(i)), q_); });
            // K is symmetric: column j of K S is the signed sum of the rows in bucket j.
            in_pieces(q_, 1, nnz(), [&](index j, index) { add_bucket(k_, *hash_, j, w_.col(j)); });
            return;
        }
        const philox_stream numbers = stream(opt_.seed, column_numbers, step);
        in_pieces(n_ * q_, 2048, 8 * n_ * q_, [&](index first, index last) {
            for (index e = first; e < last; ++e) s_.data[e] = numbers.normal(static_cast<std::uint32_t>(e));
        });
        if (q_ == 1) return product({s_.data, n_}, {w_.data, n_});
        if (!k_.is_dense()) return map_->apply(tall<const double>(s_), w_);
        const tall<const double> k{k_.dense.data, n_, n_, k_.dense.ld};
        in_pieces(q_, 32, n_ * n_ * q_, [&](index first, index last) {
            mix<double, double>(k, s_.col(first), s_.ld, {w_.col(first), n_, last - first, n_}, false);
        });
    }

    bool factor(double ridge, double larger) { return factor_columns(gram_, ridge, larger); }

    // d = W (W'W)^-1 S' r: 4 N q + 2 q^2 flops, N q entries of S and twice of W.
    void correction(vec<const double> r, vec<double> d) {
        be_.launched();
        if (opt_.method == api::method::countsketch) {
            const buckets& s = *hash_;
            std::fill_n(small_.data, q_, 0.0);
            for (index i = 0; i < n_; ++i) small_[s.bucket[i]] += s.sign[i] * r[i];
        } else {
            cpu::project<double, double>(tall<const double>{}, s_, r, small_.data);
        }
        simd().spd_apply_f64(gram_.data, ldg_, q_, small_.data, small_.data);
        std::fill_n(d.data, n_, 0.0);
        combine<double, double>(w_, small_.data, 1.0, d);
    }

    void subtract(vec<const double> d, vec<const double> e, vec<double> z, vec<double> r, scalar_ref norm2) {
        be_.launched();
        double sum = 0;
        for (index i = 0; i < n_; ++i) {
            z[i] -= d[i];
            r[i] -= e[i];
            sum += r[i] * r[i];
        }
        *norm2.address() = sum;
    }

    // ---- rows -------------------------------------------------------------------------------------------

    index prepare_rows() {
        inverse_.assign(static_cast<std::size_t>(n_), 0.0);
        in_pieces(n_, 64, nnz(), [&](index first, index last) {
            for (index i = first; i < last; ++i) {
                double norm2 = 0;
                const auto [data, columns, count] = row(i);
                static_cast<void>(columns);
                for (index p = 0; p < count; ++p) norm2 += data[p] * data[p];
                inverse_[i] = norm2 > 0 ? 1 / norm2 : 0;
            }
        });
        usable_.clear();
        for (index i = 0; i < n_; ++i)
            if (inverse_[i] > 0) usable_.push_back(i);
        return static_cast<index>(usable_.size());
    }

    // Serial: each step needs the iterate of the one before. 4 flops per entry of the rows met; the next row
    // is asked for while this one is worked on.
    index sweep(std::uint64_t step, index count, vec<const double> b, vec<double> z) {
        be_.launched();
        const auto chosen = [&](std::uint64_t t) {
            const double u = stream(opt_.seed, row_numbers, t).uniform(0);
            return usable_[static_cast<std::size_t>(u * static_cast<double>(usable_.size()))];
        };
        index entries = 0, i = chosen(step);
        for (index t = 0; t < count; ++t) {
            const index next = chosen(step + static_cast<std::uint64_t>(t) + 1);
            prefetch(next);
            const auto [data, columns, length] = row(i);
            entries += length;
            if (columns == nullptr) {
                double product = 0;
                simd().dot_f64(&data, 1, z.data, n_, &product);
                const double weight = (b[i] - product) * inverse_[i];
                simd().axpy_f64(&data, 1, &weight, n_, z.data);
            } else {
                double product = 0;
                for (index p = 0; p < length; ++p) product += data[p] * z[columns[p]];
                const double weight = (b[i] - product) * inverse_[i];
                for (index p = 0; p < length; ++p) z[columns[p]] += weight * data[p];
            }
            i = next;
        }
        return entries;
    }

    // ---- mixed rows -------------------------------------------------------------------------------------

    // A = H D K / sqrt(P) and c = H D b / sqrt(P): D signs, H the Hadamard matrix of order P, rows of zeros
    // behind those of K. N P log2 P flops in passes over strips of columns that stay in the cache.
    index prepare_mixed(vec<const double> b) {
        index size = 1;
        while (size < n_) size *= 2;
        mixed_ = {be_.template allocate<double>(size * n_).data, size, n_, n_};
        mixed_b_ = be_.template allocate<double>(size);
        std::fill_n(mixed_.data, size * n_, 0.0);
        std::fill_n(mixed_b_.data, size, 0.0);
        const philox_stream numbers = stream(opt_.seed, sign_numbers, ~std::uint64_t{0});
        const double scale = 1 / std::sqrt(static_cast<double>(size));
        in_pieces(n_, 256, nnz(), [&](index first, index last) {
            for (index i = first; i < last; ++i) {
                const double sign = scale * hashed(numbers.block(static_cast<std::uint32_t>(i)), 1).sign;
                const auto [data, columns, count] = row(i);
                for (index p = 0; p < count; ++p) mixed_.row(i)[columns ? columns[p] : p] = sign * data[p];
                mixed_b_[i] = sign * b[i];
            }
        });
        constexpr index strip = 64;
        in_pieces(n_, strip, n_ * size,
                  [&](index first, index last) { hadamard(mixed_.data + first, size, n_, last - first); });
        hadamard(mixed_b_.data, size, 1, 1);
        order_.resize(static_cast<std::size_t>(size));
        std::iota(order_.begin(), order_.end(), index{0});
        return size;
    }

    bool add_block(std::uint64_t step, double ridge, double larger) {
        be_.launched();
        const philox_stream numbers = stream(opt_.seed, block_numbers, step);
        const index size = mixed_.rows;
        block made{std::vector<index>(static_cast<std::size_t>(q_)), zeros(q_ * ldg_)};
        for (index k = 0; k < q_; ++k) {
            const double u = numbers.uniform(static_cast<std::uint32_t>(k));
            std::swap(order_[k], order_[k + static_cast<index>(u * static_cast<double>(size - k))]);
            made.rows[k] = order_[k];
            std::copy_n(mixed_.row(order_[k]), n_, w_.col(k));
        }
        if (!factor_columns(made.factor, ridge, larger)) return false;
        blocks_.push_back(std::move(made));
        return true;
    }

    // 4 N q + 2 q^2 flops, the block's rows read twice.
    void block_correction(index id, vec<const double> z, vec<double> w, scalar_ref norm2) {
        be_.launched();
        const block& part = blocks_[static_cast<std::size_t>(id)];
        const auto at = [&](index k) { return mixed_.row(part.rows[k]); };
        in_pieces(q_, 16, n_ * q_,
                  [&](index first, index last) { dot_rows(first, last, at, z.data, n_, small_.data); });
        double sum = 0;
        for (index k = 0; k < q_; ++k) {
            small_[k] -= mixed_b_[part.rows[k]];
            sum += small_[k] * small_[k];
        }
        *norm2.address() = sum;
        simd().spd_apply_f64(part.factor.data, ldg_, q_, small_.data, small_.data);
        constexpr index strip = 512;
        in_pieces(n_, strip, n_ * q_, [&](index first, index last) {
            std::fill(w.data + first, w.data + last, 0.0);
            add_rows(
                q_, [&](index k) { return at(k) + first; }, [&](index k) { return small_[k]; }, last - first,
                w.data + first);
        });
    }

    void momentum(vec<const double> w, double zeta, double eta, vec<double> v, vec<double> z) {
        be_.launched();
        for (index i = 0; i < n_; ++i) {
            v[i] = zeta * (v[i] + w[i]);
            z[i] -= w[i] + eta * v[i];
        }
    }

private:
    struct block {
        std::vector<index> rows;
        vec<double> factor;
    };
    struct row_view {
        const double* data;
        const std::int32_t* columns;  // null: all of them
        index count;
    };

    row_view row(index i) const {
        if (k_.is_dense()) return {k_.dense.row(i), nullptr, n_};
        const index begin = k_.a.indptr[i];
        return {k_.values + begin, k_.a.indices + begin, k_.a.indptr[i + 1] - begin};
    }

    void prefetch([[maybe_unused]] index i) const {
#if defined(__GNUC__)
        const row_view next = row(i);
        for (index p = 0; p < std::min<index>(next.count, 64); p += 8) __builtin_prefetch(next.data + p);
        if (next.columns != nullptr) __builtin_prefetch(next.columns);
#endif
    }

    vec<double> zeros(index count) {
        const vec<double> v = be_.template allocate<double>(count);
        std::fill_n(v.data, count, 0.0);
        return v;
    }

    void product(vec<const double> x, vec<double> y) {
        if (!k_.is_dense()) return map_->apply(x.data, y.data);
        in_pieces(n_, 64, n_ * n_, [&](index first, index last) {
            dot_rows(first, last, [&](index i) { return k_.dense.row(i); }, x.data, n_, y.data);
        });
    }

    // The upper triangle of W'W, N q (q + 1) flops, with a ridge, then its factor; W is w_.
    bool factor_columns(vec<double> g, double ridge, double larger) {
        be_.launched();
        constexpr index piece = 32;
        in_pieces(q_, piece, n_ * q_ * q_, [&](index first, index last) {
            gram<double, double>(tall<const double>(w_).from(first), {w_.col(first), n_, last - first, n_},
                                 g.data + first * ldg_ + first, ldg_);
        });
        double trace = 0;
        for (index j = 0; j < q_; ++j) trace += g[j * ldg_ + j];
        if (!(trace > 0) || !std::isfinite(trace)) return false;
        std::copy_n(g.data, q_ * ldg_, kept_.data);
        for (const double share : {ridge, larger}) {
            if (share != ridge) std::copy_n(kept_.data, q_ * ldg_, g.data);
            for (index j = 0; j < q_; ++j) g[j * ldg_ + j] += share * trace / static_cast<double>(q_);
            if (simd().spd_factor_f64(g.data, ldg_, q_, 0.0) != 0) return true;
        }
        return false;
    }

    // x = H x for `cols` columns side by side, `size` rows `ld` apart.
    static void hadamard(double* x, index size, index ld, index cols) {
        for (index half = 1; half < size; half *= 2)
            for (index start = 0; start < size; start += 2 * half)
                for (index i = start; i < start + half; ++i) {
                    double *up = x + i * ld, *down = x + (i + half) * ld;
                    for (index j = 0; j < cols; ++j) {
                        const double sum = up[j] + down[j];
                        down[j] = up[j] - down[j];
                        up[j] = sum;
                    }
                }
    }

    backend& be_;
    const api::any_matrix& k_;
    const api::options& opt_;
    const index n_, q_, ldg_;
    map_ptr<double> map_;
    tall<double> s_, w_;
    vec<double> gram_, kept_, small_;
    std::optional<buckets> hash_;  // of the last CountSketch
    std::vector<double> inverse_;  // 1 / ||row||^2, 0 for a row of zeros
    std::vector<index> usable_, order_;
    matrix<double> mixed_;
    vec<double> mixed_b_;
    std::vector<block> blocks_;
};

}  // namespace

api::report project(const api::any_matrix& k, vec<const double> b, vec<double> z, const api::options& given,
                    interrupt& signals) {
    const index n = k.rows();
    if (k.cols() != n || b.size != n || z.size != n)
        throw std::invalid_argument("`b` and `z` must fit a square `K`");
    if (n > 0 && (given.block < 1 || given.block > n))
        throw std::invalid_argument("`block` is " + std::to_string(given.block) + "; 1 to " +
                                    std::to_string(n) + " is allowed");
    api::options options = given;
    if (options.method == api::method::gaussian || options.method == api::method::kaczmarz) options.block = 1;
    const thread_scope threads(options.n_threads);
    backend be(signals);
    sketch_kernels kernels(be, k, options);
    return drivers::optimize_sketch::projector(be, kernels, options).run(b, z);
}

void count_sketch(const api::any_matrix& w, std::uint64_t seed, std::uint64_t draw, matrix<double> out,
                  int n_threads) {
    const thread_scope threads(n_threads);
    const philox_stream numbers = stream(seed, bucket_numbers, draw);
    const buckets s(w.rows(), out.rows,
                    [&](index i) { return hashed(numbers.block(static_cast<std::uint32_t>(i)), out.rows); });
    // nnz(W) entries read once, rows of `out` written once.
    in_pieces(out.rows, 16, w.nnz(), [&](index first, index last) {
        for (index j = first; j < last; ++j) add_bucket(w, s, j, out.row(j));
    });
}

void count_sketch_map(index rows, index k, std::uint64_t seed, std::uint64_t draw, std::int32_t* bucket,
                      double* sign) {
    const philox_stream numbers = stream(seed, bucket_numbers, draw);
    for (index i = 0; i < rows; ++i) {
        const place p = hashed(numbers.block(static_cast<std::uint32_t>(i)), k);
        bucket[i] = p.bucket;
        sign[i] = p.sign;
    }
}

}  // namespace aitken::cpu::optimize_sketch
