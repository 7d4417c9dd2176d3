#include "core/api/convolution.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"

namespace aitken::cpu::convolution {
namespace {

using api::channels;
using api::precision;

constexpr index lanes = AITKEN_ROW_PAD;
constexpr index features = 4, fields = 3;  // of the geometry network

index rows_met(int ndim) { return ndim == 3 ? 9 : 3; }

void check_size(const std::vector<float>& given, index expected, const std::string& name) {
    if (static_cast<index>(given.size()) != expected)
        throw std::invalid_argument("`" + name + "` has " + std::to_string(given.size()) + " numbers; " +
                                    std::to_string(expected) + " needed");
}

void check_ndim(int ndim) {
    if (ndim != 2 && ndim != 3)
        throw std::invalid_argument("`ndim` must be 2 or 3, got " + std::to_string(ndim));
}

// (out, in, row, cell) to (row, in, cell, out).
template <class Write>
void reorder(const std::vector<float>& given, index in, index rows, Write&& write) {
    for (index r = 0; r < rows; ++r)
        for (index c = 0; c < in; ++c)
            for (index d = 0; d < 3; ++d)
                for (index o = 0; o < channels; ++o)
                    write(r, c, d, o, given[((o * in + c) * rows + r) * 3 + d]);
}

// The geometry network: chunks of rows of one plane, each with the features of three rows of every plane met.
constexpr index rows_of_chunk = 16;

index staged_row(index n) { return (n + 1 + lanes) / lanes * lanes + lanes; }
index scratch_of_worker(index n) { return (rows_met(3) * features + fields) * staged_row(n); }

}  // namespace

// ---- The network of a multigrid level --------------------------------------------------------------------

geometry_network::geometry_network(const multigrid::api::learned_weights& w, const std::string& level)
    : ndim_(w.ndim), table_(level.empty() ? &simd() : &simd_for(level)) {
    check_ndim(w.ndim);
    const index rows = rows_met(w.ndim);
    check_size(w.w1, channels * features * rows * 3, "W1");
    check_size(w.b1, channels, "b1");
    check_size(w.w2, channels * channels, "W2");
    check_size(w.b2, channels, "b2");
    check_size(w.w3, fields * channels, "W3");
    check_size(w.b3, fields, "b3");
    reorder(w.w1, features, rows, [&](index, index, index, index, float x) { packed_.push_back(x); });
    packed_.insert(packed_.end(), w.b1.begin(), w.b1.end());
    for (index c = 0; c < channels; ++c)
        for (index o = 0; o < channels; ++o) packed_.push_back(w.w2[o * channels + c]);
    packed_.insert(packed_.end(), w.b2.begin(), w.b2.end());
    packed_.insert(packed_.end(), w.w3.begin(), w.w3.end());
    packed_.insert(packed_.end(), w.b3.begin(), w.b3.end());
}

void geometry_scratch::reserve(index longest) {
    const auto need = static_cast<std::size_t>(scratch_of_worker(longest) * num_threads());
    if (rows_.size() < need) rows_.resize(need);
}

void geometry_fields(const geometry_network& network, const std::array<index, 3>& n,
                     const std::array<const float*, 4>& x, const std::array<float*, 3>& out,
                     geometry_scratch& scratch, int n_threads) {
    if (network.ndim_ == 2 && n[0] != 1)
        throw std::invalid_argument("a network of two dimensions was given " + std::to_string(n[0]) +
                                    " planes");
    if (n[0] <= 0 || n[1] <= 0 || n[2] <= 0) return;
    const thread_scope threads(n_threads);
    scratch.reserve(n[2]);
    const index planes = network.ndim_ == 3 ? 3 : 1, stride = staged_row(n[2]);
    const index blocks = (n[1] + rows_of_chunk - 1) / rows_of_chunk;
    parallel_chunks(n[0] * blocks, [&](index chunk, int worker) {
        const index i0 = chunk / blocks, begin = chunk % blocks * rows_of_chunk;
        const index end = std::min(n[1], begin + rows_of_chunk);
        float* const staged = scratch.rows_.data() + worker * scratch_of_worker(n[2]);
        float* result[fields];
        for (index k = 0; k < fields; ++k) result[k] = staged + (3 * planes * features + k) * stride;
        // Row i1 of feature c in plane p, counted from the one before this.
        const auto place = [&](index p, index i1, index c) {
            return staged + (((i1 + 3) % 3 * planes + p) * features + c) * stride;
        };
        const auto stage = [&](index i1) {
            for (index p = 0; p < planes; ++p) {
                const index q = planes == 3 ? i0 + p - 1 : 0;
                const bool inside = q >= 0 && q < n[0] && i1 >= 0 && i1 < n[1];
                for (index c = 0; c < features; ++c) {
                    float* const to = place(p, i1, c);
                    const index cells = inside ? n[2] : 0;
                    to[0] = 0;
                    if (inside) std::copy_n(x[c] + (q * n[1] + i1) * n[2], cells, to + 1);
                    std::fill(to + 1 + cells, to + stride, 0.0f);
                }
            }
        };
        stage(begin - 1);
        stage(begin);
        for (index i1 = begin; i1 < end; ++i1) {
            stage(i1 + 1);
            const float* rows[9 * features];
            for (index p = 0; p < planes; ++p)
                for (index d = 0; d < 3; ++d)
                    for (index c = 0; c < features; ++c)
                        rows[(p * 3 + d) * features + c] = place(p, i1 + d - 1, c);
            network.table_->geometry_row(rows, static_cast<int>(3 * planes), network.packed_.data(), n[2],
                                         result);
            for (index k = 0; k < fields; ++k) std::copy_n(result[k], n[2], out[k] + (i0 * n[1] + i1) * n[2]);
        }
    });
}

// ---- The direction network -------------------------------------------------------------------------------

namespace {

// Numbers on a cache line, as the kernels read whole vectors of them.
template <class N>
class numbers {
public:
    numbers() = default;
    explicit numbers(index n) {
        if (n < 0 || n > std::numeric_limits<index>::max() / 2 / static_cast<index>(sizeof(N)))
            throw std::bad_alloc();
        memory_.reset(::operator new(static_cast<std::size_t>(n) * sizeof(N), std::align_val_t{64}));
        std::memset(memory_.get(), 0, static_cast<std::size_t>(n) * sizeof(N));
        bytes_ = n * static_cast<index>(sizeof(N));
    }
    N* data() const { return static_cast<N*>(memory_.get()); }
    index bytes() const { return bytes_; }

private:
    struct release {
        void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    std::unique_ptr<void, release> memory_;
    index bytes_ = 0;
};

// The nearest bfloat16, ties to even; weights are finite.
std::uint16_t rounded(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct packed_layer {
    numbers<float> weights;
    numbers<std::uint16_t> halves;  // of inner layers with bfloat16, in place of weights
    numbers<float> bias;
};

constexpr index halo = 1;

// Cells of a box with a border of zeros, `width` numbers each. Two dimensions have no planes of zeros.
template <class N>
class bordered {
public:
    bordered() = default;
    bordered(int ndim, const std::array<index, 3>& n, index width)
        : n_(n),
          row_((n[2] + 2 * halo) * width),
          plane_((n[1] + 2 * halo) * row_),
          first_((ndim == 3 ? plane_ : 0) + row_ + width),
          kept_((n[0] + (ndim == 3 ? 2 * halo : 0)) * plane_) {}
    N* row(index i0, index i1) const { return kept_.data() + first_ + i0 * plane_ + i1 * row_; }
    // The row k of all, counted within planes.
    N* row(index k) const { return row(k / n_[1], k % n_[1]); }
    const std::array<index, 3>& extent() const { return n_; }
    index rows() const { return n_[0] * n_[1]; }
    index bytes() const { return kept_.bytes(); }

private:
    std::array<index, 3> n_{};
    index row_ = 0, plane_ = 0, first_ = 0;
    numbers<N> kept_;
};

}  // namespace

class packed_weights {
public:
    packed_weights(const api::direction_weights& w, precision stored, const std::string& level)
        : ndim(w.ndim), down(w.down), coarse(w.coarse), up(w.up), stored(stored) {
        check_ndim(w.ndim);
        if (w.down < 0 || w.coarse < 1 || w.up < 1 || w.down > 64 || w.coarse > 64 || w.up > 64)
            throw std::invalid_argument("`down` must be 0 to 64, `coarse` and `up` 1 to 64; got " +
                                        std::to_string(w.down) + ", " + std::to_string(w.coarse) + ", " +
                                        std::to_string(w.up));
        if (static_cast<index>(w.layers.size()) != w.expected_layers())
            throw std::invalid_argument("`layers` has " + std::to_string(w.layers.size()) + " entries; " +
                                        std::to_string(w.expected_layers()) + " needed");
        const aitken_simd_table& table = level.empty() ? simd() : simd_for(level);
        kernels = &table.convolution;
        if (stored == precision::bf16) {
            if (!simd_has_bf16() || std::string(table.level) != "v4")
                throw std::invalid_argument(
                    "`dtype` is \"bfloat16\", for which this process has no kernels: they need AVX512_BF16 "
                    "and "
                    "SIMD level v4 (here: " +
                    std::string(table.level) + ")");
#if defined(__x86_64__) || defined(_M_X64)
            kernels = &aitken_simd_bf16;
#endif
        }
        const index rows = rows_met(ndim), last = w.expected_layers() - 1;
        for (index k = 0; k <= last; ++k) {
            const api::layer& given = w.layers[static_cast<std::size_t>(k)];
            const std::string number = std::to_string(k);
            const index in = k == 0 ? 1 : channels, out = k == last ? 1 : channels;
            check_size(given.weights, in * out * (k == last ? 1 : 3 * rows), "W" + number);
            check_size(given.bias, out, "b" + number);
            packed_layer& p = layers.emplace_back();
            p.bias = numbers<float>(out);
            std::copy(given.bias.begin(), given.bias.end(), p.bias.data());
            if (stored == precision::bf16 && k > 0 && k < last) {
                p.halves = numbers<std::uint16_t>(static_cast<index>(given.weights.size()));
                reorder(given.weights, in, rows, [&](index r, index c, index d, index o, float x) {
                    p.halves.data()[(((r * in / 2 + c / 2) * 3 + d) * channels + o) * 2 + c % 2] = rounded(x);
                });
                continue;
            }
            p.weights = numbers<float>(static_cast<index>(given.weights.size()));
            if (k == last)
                std::copy(given.weights.begin(), given.weights.end(), p.weights.data());
            else
                reorder(given.weights, in, rows, [&](index r, index c, index d, index o, float x) {
                    p.weights.data()[((r * in + c) * 3 + d) * channels + o] = x;
                });
        }
    }

    int ndim, down, coarse, up;
    precision stored;
    const aitken_convolution* kernels;
    std::vector<packed_layer> layers;
};

std::shared_ptr<const packed_weights> pack_weights(const api::direction_weights& w, precision stored,
                                                   const std::string& level) {
    return std::make_shared<const packed_weights>(w, stored, level);
}

bool has_bf16() { return simd_has_bf16(); }

namespace {

// N: what a number of a field is in memory, float or bfloat16.
//
// A layer is a pass over rows. It may write where its residual lies, so that two fields of each size do; what
// changes the size of the grid is done row by row behind the layer before it.
template <class N>
class network_of final : public network {
public:
    network_of(std::shared_ptr<const packed_weights> weights, const std::array<index, 3>& n)
        : w_(std::move(weights)), k_(*w_->kernels), n_(n) {
        std::array<index, 3> even = n, half = n;
        for (int a = 3 - w_->ndim; a < 3; ++a) {
            half[a] = (n[a] + 1) / 2;
            even[a] = 2 * half[a];
        }
        input_ = bordered<float>(w_->ndim, even, 1);
        for (auto& f : fine_) f = bordered<N>(w_->ndim, even, channels);
        for (auto& f : coarse_) f = bordered<N>(w_->ndim, half, channels);
    }

    const std::array<index, 3>& shape() const override { return n_; }
    precision stored() const override { return w_->stored; }
    index bytes() const override { return input_.bytes() + 2 * fine_[0].bytes() + 2 * coarse_[0].bytes(); }
    double flops() const override {
        const double inner = 2.0 * channels * channels * 3 * static_cast<double>(rows_met(w_->ndim));
        const auto cells = [](const auto& field) {
            return static_cast<double>(field.rows()) * static_cast<double>(field.extent()[2]);
        };
        return cells(fine_[0]) * (inner * (2 + 2 * w_->down + 2 * w_->up) + inner / channels + 2 * channels) +
               cells(coarse_[0]) * inner * 2 * w_->coarse;
    }
    std::unique_ptr<network> clone() const override { return std::make_unique<network_of>(w_, n_); }

    void apply(const double* r, double* z, const cell_layout& at, const double* keep) override {
        run(r, z, at, keep);
    }
    void apply(const float* r, float* z, const cell_layout& at, const double* keep) override {
        run(r, z, at, keep);
    }

private:
    using field = bordered<N>;

    template <class T>
    void run(const T* r, T* z, const cell_layout& at, const double* keep) {
        const field &a = fine_[1], &b = fine_[0], &h = coarse_[0], &t = coarse_[1];
        const packed_layer* layer = w_->layers.data();
        read(r, at, keep);
        first(*layer++, b);
        inner(*layer++, b, a, false);
        inner(*layer++, a, b, false, w_->down == 0);
        for (int s = 1; s <= w_->down; ++s) {
            inner(*layer++, b, a, true);
            inner(*layer++, a, b, false, s == w_->down);
        }
        for (int s = 1; s <= w_->coarse; ++s) {
            inner(*layer++, h, t, false);
            coarse_residual(*layer++, t, h, s == w_->coarse);
        }
        for (int s = 1; s <= w_->up; ++s) {
            inner(*layer++, b, a, false);
            if (s < w_->up) inner(*layer++, a, b, true);
        }
        last(layer[0], layer[1], z, at, keep);
    }

    template <class T>
    void read(const T* r, const cell_layout& at, const double* keep) {
        parallel_chunks(n_[0] * n_[1], [&](index k) {
            const index i0 = k / n_[1], i1 = k % n_[1], from = i0 * at.plane + i1 * at.row;
            float* const to = input_.row(i0, i1);
            for (index j = 0; j < n_[2]; ++j)
                to[j] = keep && keep[from + j] == 0 ? 0.0f : static_cast<float>(r[from + j]);
        });
    }

    // Rows of x around (i0, i1).
    template <class M, class P>
    int around(const bordered<M>& x, index i0, index i1, index shift, P** rows) const {
        int count = 0;
        const index reach = w_->ndim == 3 ? 1 : 0;
        for (index p = -reach; p <= reach; ++p)
            for (index d = -1; d <= 1; ++d) rows[count++] = x.row(i0 + p, i1 + d) + shift;
        return count;
    }

    void first(const packed_layer& layer, const field& y) const {
        parallel_chunks(y.rows(), [&](index k) {
            const float* rows[9];
            const int count = around(input_, k / y.extent()[1], k % y.extent()[1], -1, rows);
            k_.first_row(rows, count, layer.weights.data(), layer.bias.data(), y.extent()[2], y.row(k));
        });
    }

    void inner_row(const packed_layer& layer, const field& x, const field& y, bool residual, index i0,
                   index i1) const {
        const void* rows[9];
        const int count = around(x, i0, i1, 0, rows);
        const void* const weights =
            std::is_same_v<N, float> ? static_cast<const void*>(layer.weights.data()) : layer.halves.data();
        N* const to = y.row(i0, i1);
        k_.inner_row(rows, count, weights, layer.bias.data(), 1, residual ? to : nullptr, y.extent()[2], to);
    }

    // y = relu(conv x) [+ y]; the coarse field's row behind every 2^(d-1) rows where `pool`.
    void inner(const packed_layer& layer, const field& x, const field& y, bool residual, bool pool = false) {
        if (!pool) {
            parallel_chunks(y.rows(), [&](index k) {
                inner_row(layer, x, y, residual, k / y.extent()[1], k % y.extent()[1]);
            });
            return;
        }
        parallel_chunks(coarse_[0].rows(), [&](index k) {
            const void* rows[4];
            const int count = children(k, [&](int c, index i0, index i1) {
                inner_row(layer, x, y, residual, i0, i1);
                rows[c] = y.row(i0, i1);
            });
            k_.pool_rows(rows, count, coarse_[0].extent()[2], coarse_[0].row(k));
        });
    }

    // h = relu(conv t) + h, and where `spread` the finer field += h.
    void coarse_residual(const packed_layer& layer, const field& t, const field& h, bool spread) {
        parallel_chunks(h.rows(), [&](index k) {
            inner_row(layer, t, h, true, k / h.extent()[1], k % h.extent()[1]);
            if (!spread) return;
            void* rows[4];
            const int count = children(k, [&](int c, index i0, index i1) { rows[c] = fine_[0].row(i0, i1); });
            k_.spread_row(h.row(k), h.extent()[2], rows, count);
        });
    }

    // v = relu(conv t) + v in rows of the box, and z = the 16 channels as one. Rows of the input are done
    // with.
    template <class T>
    void last(const packed_layer& layer, const packed_layer& one, T* z, const cell_layout& at,
              const double* keep) {
        parallel_chunks(n_[0] * n_[1], [&](index k) {
            const index i0 = k / n_[1], i1 = k % n_[1], to = i0 * at.plane + i1 * at.row;
            inner_row(layer, fine_[1], fine_[0], true, i0, i1);
            float* const sums = input_.row(i0, i1);
            k_.last_row(fine_[0].row(i0, i1), one.weights.data(), one.bias.data()[0], n_[2], sums);
            for (index j = 0; j < n_[2]; ++j)
                z[to + j] = keep && keep[to + j] == 0 ? T(0) : static_cast<T>(sums[j]);
        });
    }

    // f(c, i0, i1) for the fine rows of the coarse row k; returns how many.
    template <class F>
    int children(index k, F&& f) const {
        const index n1 = coarse_[0].extent()[1], planes = w_->ndim == 3 ? 2 : 1;
        int c = 0;
        for (index p = 0; p < planes; ++p)
            for (index d = 0; d < 2; ++d, ++c) f(c, k / n1 * planes + p, k % n1 * 2 + d);
        return c;
    }

    std::shared_ptr<const packed_weights> w_;
    const aitken_convolution& k_;
    std::array<index, 3> n_;
    bordered<float> input_;
    field fine_[2], coarse_[2];
};

class network_map final : public linear_map<double> {
public:
    network_map(std::shared_ptr<network> net, std::shared_ptr<const multigrid::poisson_grid> grid)
        : net_(std::move(net)), grid_(std::move(grid)) {
        const auto& n = grid_->shape().n;
        if (net_->shape() != n)
            throw std::invalid_argument("the network is one for another box than the grid's");
        layout_ = {n[2] + 1, (n[1] + 1) * (n[2] + 1)};
        keep_.resize(static_cast<std::size_t>(grid_->size()));
        fluid_.assign(static_cast<std::size_t>(grid_->n_fluid()), 1.0);
    }
    index size() const override { return grid_->size(); }
    bool varies() const override { return true; }
    void apply(tall<const double> x, tall<double> y) override {
        look();
        for (index j = 0; j < x.cols; ++j) net_->apply(x.col(j), y.col(j), layout_, keep_.data());
    }

private:
    // Which cells are FLUID, once more after an update.
    void look() {
        if (seen_ == grid_->version()) return;
        fluid_.assign(static_cast<std::size_t>(grid_->n_fluid()), 1.0);
        grid_->scatter(fluid_.data(), true, keep_.data());
        seen_ = grid_->version();
    }

    std::shared_ptr<network> net_;
    std::shared_ptr<const multigrid::poisson_grid> grid_;
    cell_layout layout_;
    std::vector<double> keep_, fluid_;
    long seen_ = -1;
};

}  // namespace

std::unique_ptr<network> make_network(std::shared_ptr<const packed_weights> weights,
                                      const std::array<index, 3>& n) {
    for (const index side : n)
        if (side < 1) throw std::invalid_argument("`shape` has a side of " + std::to_string(side));
    if (weights->ndim == 2 && n[0] != 1)
        throw std::invalid_argument("a network of two dimensions was given " + std::to_string(n[0]) +
                                    " planes");
    if (weights->stored == precision::bf16) return std::make_unique<network_of<std::uint16_t>>(weights, n);
    return std::make_unique<network_of<float>>(weights, n);
}

namespace {

template <class T>
void apply_each(network& net, const T* r, T* z, index count, const double* keep, int n_threads,
                interrupt& signals) {
    const thread_scope threads(n_threads);
    const auto& n = net.shape();
    const index cells = n[0] * n[1] * n[2];
    for (index k = 0; k < count; ++k) {
        signals.poll();
        net.apply(r + k * cells, z + k * cells, {n[2], n[1] * n[2]}, keep);
    }
}

}  // namespace

void apply_network(network& net, const double* r, double* z, index count, const double* keep, int n_threads,
                   interrupt& signals) {
    apply_each(net, r, z, count, keep, n_threads, signals);
}
void apply_network(network& net, const float* r, float* z, index count, const double* keep, int n_threads,
                   interrupt& signals) {
    apply_each(net, r, z, count, keep, n_threads, signals);
}

std::unique_ptr<linear_map<double>> make_network_map(std::shared_ptr<network> net,
                                                     std::shared_ptr<const multigrid::poisson_grid> grid) {
    return std::make_unique<network_map>(std::move(net), std::move(grid));
}

}  // namespace aitken::cpu::convolution
