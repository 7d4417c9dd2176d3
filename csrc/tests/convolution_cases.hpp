// Networks for the tests of the CUDA kernels.
#pragma once

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "core/api/convolution.hpp"

namespace aitken::tests {

// Weights that keep fields near 1 from layer to layer.
inline aitken::convolution::direction_weights random_network(int ndim, int down, int coarse, int up,
                                                             unsigned seed) {
    std::mt19937 g(seed);
    aitken::convolution::direction_weights w{ndim, down, coarse, up, {}};
    const index taps = ndim == 3 ? 27 : 9, last = w.expected_layers() - 1;
    for (index k = 0; k <= last; ++k) {
        const index in = k == 0 ? 1 : aitken::convolution::channels;
        const index out = k == last ? 1 : aitken::convolution::channels, near = k == last ? 1 : taps;
        std::normal_distribution<float> normal(0, std::sqrt(1.2f / static_cast<float>(in * near)));
        auto& layer = w.layers.emplace_back();
        layer.weights.resize(static_cast<std::size_t>(in * out * near));
        layer.bias.resize(static_cast<std::size_t>(out));
        for (float& x : layer.weights) x = normal(g);
        for (float& x : layer.bias) x = 0.1f * normal(g);
    }
    return w;
}

// ||x - y|| / ||y||
template <class T>
double distance(const std::vector<T>& x, const std::vector<T>& y) {
    double apart = 0, size = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        apart += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
        size += std::pow(static_cast<double>(y[i]), 2);
    }
    return std::sqrt(apart / size);
}

}  // namespace aitken::tests
