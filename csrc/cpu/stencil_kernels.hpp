// Sweeps of a stencil on the CPU: the kernels of drivers/relaxation.hpp in red-black order over vectors as
// they lie, without reading a matrix. A forward sweep relaxes the points whose coordinates have an even sum,
// then the others; a backward sweep the other way round.
//
// Red points meet neighbours that are all old and black ones neighbours that are all new, whoever relaxes
// them and when, so that lines may be shared out in bands; the black lines at their borders wait for all
// bands' red.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "cpu/backend.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "drivers/relaxation.hpp"
#include "sparse/stencil.hpp"

namespace aitken::cpu {

class stencil_kernels {
    using direction = aitken::relaxation::direction;

public:
    // Throws std::invalid_argument where center + shift has no inverse.
    stencil_kernels(backend& be, const grid_stencil& stencil, double shift = 0)
        : be_(be),
          zeros_(static_cast<std::size_t>(stencil.extent[2]), 0.0),
          lines_(stencil.extent[0] * stencil.extent[1]),
          behind_(stencil.extent[0] > 1 ? stencil.extent[1] : 1) {
        s_.center = stencil.center + shift;
        s_.zeros = zeros_.data();
        for (int axis = 0; axis < 3; ++axis) {
            s_.extent[axis] = stencil.extent[axis];
            s_.before[axis] = stencil.before[axis];
            s_.after[axis] = stencil.after[axis];
        }
        if (!std::isfinite(s_.center) || !std::isfinite(1 / s_.center))
            throw std::invalid_argument("the diagonal of row 0 is zero or has no inverse");
        const index wanted = std::max(4 * behind_, (band_points + stencil.extent[2] - 1) / stencil.extent[2]);
        bands_ = std::max<index>(lines_ / wanted, 1);
        sums_.resize(static_cast<std::size_t>(bands_));
    }

    void residual(vec<const double> b, vec<const double> x, scalar_ref norm2) {
        be_.launched();
        start_sums();
        parallel_chunks(bands_, [&](index band) {
            simd().stencil_residual(&s_, b.data, x.data, border(band), border(band + 1), sums_[band].data());
        });
        *norm2.address() = total(0);
    }

    // The residual of a point just relaxed is (1 - omega) times what it was, where its neighbours stay: for
    // the second colour until the next sweep.
    void sweep(direction half, double omega, bool first, vec<const double> b, vec<double> x,
               scalar_ref before2, scalar_ref change2) {
        const int color = half == direction::forward ? 0 : 1;
        const double weight = omega / s_.center;
        const auto relax = [&](index band, index red, index red_end, index black, index black_end) {
            if (red >= red_end && black >= black_end) return;
            const std::int64_t lines[4] = {red, red_end, black, black_end};
            simd().stencil_relax(&s_, b.data, weight, color, x.data, lines, sums_[band].data());
        };
        start_sums();
        be_.launched();
        parallel_chunks(bands_, [&](index band) {
            relax(band, border(band), border(band + 1), inner_begin(band), inner_end(band));
        });
        if (bands_ > 1) {
            be_.launched();
            parallel_chunks(bands_, [&](index band) {
                relax(band, 0, 0, border(band), inner_begin(band));
                relax(band, 0, 0, inner_end(band), border(band + 1));
            });
        }
        const double red = total(0), black = total(1);
        *before2.address() = first ? red : red + left_;
        *change2.address() = weight * weight * (red + black);
        left_ = (1 - omega) * (1 - omega) * black;
    }

private:
    static constexpr index band_points = 32768;

    index border(index band) const { return band * lines_ / bands_; }
    // Second-colour lines of a band that see nothing of another: the rest wait.
    index inner_begin(index band) const { return border(band) + (band > 0 ? behind_ : 0); }
    index inner_end(index band) const { return border(band + 1) - (band + 1 < bands_ ? behind_ : 0); }

    void start_sums() { std::fill(sums_.begin(), sums_.end(), std::array<double, 8>{}); }
    double total(int which) const {
        double sum = 0;
        for (const auto& band : sums_) sum += band[static_cast<std::size_t>(which)];
        return sum;
    }

    backend& be_;
    std::vector<double> zeros_;
    aitken_stencil s_{};
    index lines_, behind_, bands_ = 1;
    std::vector<std::array<double, 8>> sums_;  // of every band; a cache line each
    double left_ = 0;                          // squares of the residuals of the colour relaxed last
};

static_assert(drivers::relaxation::SorKernels<stencil_kernels>);

}  // namespace aitken::cpu
