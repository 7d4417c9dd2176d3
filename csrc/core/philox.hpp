// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11).
//
// Counter-based: a number is a pure function of seed and (purpose, batch, iteration, element), so CPU
// and GPU, any order and any thread count see the same bits. Known answers: csrc/tests/test_philox.cpp.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/views.hpp"

namespace aitken {

struct philox_words {
    std::uint32_t word[4];
};

// One block: 128 random bits. 10 rounds of 2 wide multiplications.
AITKEN_HD philox_words philox4x32(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2, std::uint32_t c3,
                                  std::uint32_t k0, std::uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
        c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c1 = static_cast<std::uint32_t>(p1);
        c3 = static_cast<std::uint32_t>(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// 52 random bits and a half step: strictly inside (0, 1), and exact (53 bits would round up to 1).
AITKEN_HD double philox_unit(std::uint32_t high, std::uint32_t low) {
    const std::uint64_t bits = (std::uint64_t{high} << 32 | low) >> 12;
    return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

// The stream of one purpose in one batch entry and iteration.
struct philox_stream {
    std::uint64_t seed = 0;
    std::uint32_t purpose = 0, batch = 0, iteration = 0;

    AITKEN_HD philox_words block(std::uint32_t element) const {
        return philox4x32(purpose, batch, iteration, element, static_cast<std::uint32_t>(seed),
                          static_cast<std::uint32_t>(seed >> 32));
    }

    // Uniform in (0, 1).
    AITKEN_HD double uniform(std::uint32_t element) const {
        const philox_words w = block(element);
        return philox_unit(w.word[0], w.word[1]);
    }

    // Standard normal by Box-Muller. Host and device agree to their log and cos, a few ulp.
    AITKEN_HD double normal(std::uint32_t element) const {
        const philox_words w = block(element);
        const double radius = std::sqrt(-2.0 * std::log(philox_unit(w.word[0], w.word[1])));
        return radius * std::cos(6.283185307179586476925 * philox_unit(w.word[2], w.word[3]));
    }
};

}  // namespace aitken
