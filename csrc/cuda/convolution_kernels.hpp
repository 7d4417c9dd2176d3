// The direction network over the block programs of cuda/convolution_blocks.hpp. `Be` launches them:
// cuda/backend.hpp on a GPU, csrc/tests/block_backend.hpp by loops on the CPU.
//
// Launches of an application: one a layer and 3 (to read the residual, to halve the grid, to come back). No
// read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/api/convolution_cuda.hpp"
#include "cuda/convolution_blocks.hpp"
#include "cuda/vector_blocks.hpp"

namespace aitken::cuda {

// On one box, with the fields it needs: two of 32 B a cell and two on the box of half the side.
template <class Be>
class network_kernels {
public:
    using weights = aitken::convolution::direction_weights;

    network_kernels(Be& be, const weights& w, const std::array<index, 3>& n)
        : be_(be), ndim_(w.ndim), down_(w.down), coarse_(w.coarse), up_(w.up), n_(n) {
        check(w);
        std::array<index, 3> even = n, half = n;
        for (std::size_t a = static_cast<std::size_t>(3 - ndim_); a < 3; ++a) {
            half[a] = (n[a] + 1) / 2;
            even[a] = 2 * half[a];
        }
        fine_box_ = bordered(even);
        coarse_box_ = bordered(half);
        input_ = zeros<float>(size(fine_box_));
        for (auto& f : fine_) f = zeros<std::uint32_t>(size(fine_box_) * 8);
        for (auto& f : half_) f = zeros<std::uint32_t>(size(coarse_box_) * 8);
        for (std::size_t k = 0; k < w.layers.size(); ++k) put(w, k);
    }

    index cells() const { return n_[0] * n_[1] * n_[2]; }
    index launches() const { return static_cast<index>(layers_.size()) + 3; }

    // z = f(r); cell (i0, i1, i2) at i0 plane + i1 row + i2. All in the backend's memory; z may be r.
    template <class T>
    void apply(const T* r, T* z, const cpu::convolution::cell_layout& at, const double* keep) {
        if (ndim_ == 3)
            run<3>(r, z, at, keep);
        else
            run<2>(r, z, at, keep);
    }

private:
    struct layer {
        const std::uint32_t* halves = nullptr;  // of a layer 16 -> 16, in fragments
        const float* weights = nullptr;         // of the first and the last
        const float* bias = nullptr;
    };

    void check(const weights& w) const {
        if (ndim_ != 2 && ndim_ != 3)
            throw std::invalid_argument("`ndim` must be 2 or 3, got " + std::to_string(ndim_));
        if (down_ < 0 || coarse_ < 1 || up_ < 1)
            throw std::invalid_argument("`down` must be at least 0, `coarse` and `up` at least 1");
        if (static_cast<index>(w.layers.size()) != w.expected_layers())
            throw std::invalid_argument("`layers` has " + std::to_string(w.layers.size()) + " entries; " +
                                        std::to_string(w.expected_layers()) + " needed");
        for (const index side : n_)
            if (side < 1) throw std::invalid_argument("`shape` has a side of " + std::to_string(side));
        if (ndim_ == 2 && n_[0] != 1)
            throw std::invalid_argument("a network of two dimensions was given " + std::to_string(n_[0]) +
                                        " planes");
        for (std::size_t k = 0; k < w.layers.size(); ++k) {
            const index in = k == 0 ? 1 : conv_channels, out = k + 1 == w.layers.size() ? 1 : conv_channels;
            const index near = k + 1 == w.layers.size() ? 1 : taps();
            if (static_cast<index>(w.layers[k].weights.size()) != in * out * near ||
                static_cast<index>(w.layers[k].bias.size()) != out)
                throw std::invalid_argument("layer " + std::to_string(k) + " of `layers` has the wrong size");
        }
    }
    int taps() const { return ndim_ == 3 ? 27 : 9; }

    conv_box bordered(const std::array<index, 3>& n) const {
        conv_box b{{n[0], n[1], n[2]}, n[2] + 2, (n[1] + 2) * (n[2] + 2), 0};
        b.first = (ndim_ == 3 ? b.plane : 0) + b.row + 1;
        return b;
    }
    index size(const conv_box& b) const { return (b.n[0] + (ndim_ == 3 ? 2 : 0)) * b.plane; }

    // Of numbers of 4 B.
    template <class T>
    T* zeros(index count) {
        const vec<std::uint32_t> out = be_.template allocate<std::uint32_t>(count);
        be_.launch(map_pass(fill_with<std::uint32_t>{out.data, 0}, count));
        return reinterpret_cast<T*>(out.data);
    }
    template <class T>
    const T* uploaded(const std::vector<T>& host) {
        const vec<T> there = be_.template allocate<T>(static_cast<index>(host.size()));
        be_.upload(host.data(), there);
        return there.data;
    }

    void put(const weights& w, std::size_t k) {
        const auto& given = w.layers[k];
        layer& to = layers_.emplace_back();
        to.bias = uploaded(given.bias);
        if (k + 1 == w.layers.size()) {
            to.weights = uploaded(given.weights);
            return;
        }
        if (k == 0) {
            std::vector<float> by_tap(given.weights.size());
            for (int o = 0; o < conv_channels; ++o)
                for (int tap = 0; tap < taps(); ++tap)
                    by_tap[static_cast<std::size_t>(tap * conv_channels + o)] =
                        given.weights[static_cast<std::size_t>(o * taps() + tap)];
            to.weights = uploaded(by_tap);
            return;
        }
        std::vector<std::uint32_t> words(static_cast<std::size_t>(taps() * conv_tap_words));
        for (int o = 0; o < conv_channels; ++o)
            for (int c = 0; c < conv_channels; ++c)
                for (int tap = 0; tap < taps(); ++tap) {
                    const float x =
                        given.weights[static_cast<std::size_t>((o * conv_channels + c) * taps() + tap)];
                    words[static_cast<std::size_t>(conv_weight_word(tap, c, o))] |= conv_half(x)
                                                                                    << (c % 2 ? 16 : 0);
                }
        to.halves = uploaded(words);
    }

    template <int Dim>
    void inner(const layer& l, const conv_box& box, const std::uint32_t* x, std::uint32_t* y, bool residual) {
        convolve<Dim> p;
        p.box = box;
        p.x = x;
        p.weights = l.halves;
        p.bias = l.bias;
        p.residual = residual ? y : nullptr;
        p.y = y;
        p.rectify = true;
        be_.launch(p);
    }

    // As cpu/convolution.cpp, one field to write and one to read of each size.
    template <int Dim, class T>
    void run(const T* r, T* z, const cpu::convolution::cell_layout& at, const double* keep) {
        std::uint32_t *const a = fine_[1], *const b = fine_[0], *const h = half_[0], *const t = half_[1];
        const layer* l = layers_.data();
        be_.launch(
            map_pass(conv_read<T>{r, at.row, at.plane, keep, n_[1], n_[2], fine_box_, input_}, cells()));
        be_.launch(map_pass(conv_first<Dim>{fine_box_, input_, l->weights, l->bias, b}, fine_box_.cells()));
        inner<Dim>(*++l, fine_box_, b, a, false);
        inner<Dim>(*++l, fine_box_, a, b, false);
        for (int s = 0; s < down_; ++s) {
            inner<Dim>(*++l, fine_box_, b, a, true);
            inner<Dim>(*++l, fine_box_, a, b, false);
        }
        be_.launch(map_pass(conv_pool<Dim>{fine_box_, coarse_box_, b, h}, 8 * coarse_box_.cells()));
        for (int s = 0; s < coarse_; ++s) {
            inner<Dim>(*++l, coarse_box_, h, t, false);
            inner<Dim>(*++l, coarse_box_, t, h, true);
        }
        be_.launch(map_pass(conv_spread<Dim>{fine_box_, coarse_box_, h, b}, 8 * fine_box_.cells()));
        for (int s = 0; s < up_; ++s) {
            inner<Dim>(*++l, fine_box_, b, a, false);
            inner<Dim>(*++l, fine_box_, a, b, true);
        }
        ++l;
        be_.launch(
            map_pass(conv_last<T>{fine_box_, b, l->weights, l->bias, z, at.row, at.plane, keep, n_[1], n_[2]},
                     cells()));
    }

    Be& be_;
    int ndim_, down_, coarse_, up_;
    std::array<index, 3> n_;
    conv_box fine_box_, coarse_box_;
    float* input_ = nullptr;
    std::uint32_t *fine_[2] = {}, *half_[2] = {};
    std::vector<layer> layers_;
};

template <class Be, class T>
void apply_network_on(Be& be, const aitken::convolution::direction_weights& w, const std::array<index, 3>& n,
                      const T* r, T* z, index count, const double* keep) {
    network_kernels<Be> net(be, w, n);
    for (index k = 0; k < count; ++k) {
        be.interrupts().poll();
        net.apply(r + k * net.cells(), z + k * net.cells(), {n[2], n[1] * n[2]}, keep);
    }
}

}  // namespace aitken::cuda
