#include <cmath>
#include <set>
#include <utility>

#include "check.hpp"
#include "core/philox.hpp"

namespace {

using aitken::philox4x32;
using aitken::philox_stream;

bool same(const aitken::philox_words& a, const aitken::philox_words& b) {
    for (int i = 0; i < 4; ++i)
        if (a.word[i] != b.word[i]) return false;
    return true;
}

// The three published answers of the Random123 distribution.
TEST(philox_known_answers) {
    CHECK(same(philox4x32(0, 0, 0, 0, 0, 0), {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}));
    const std::uint32_t f = 0xffffffffu;
    CHECK(same(philox4x32(f, f, f, f, f, f), {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}));
    // Counter and key from the digits of pi.
    CHECK(same(philox4x32(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u),
               {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}));
}

TEST(philox_stream_uses_every_coordinate) {
    const philox_stream base{0x299f31d0a4093822u, 0x243f6a88u, 0x85a308d3u, 0x13198a2eu};
    CHECK(same(base.block(0x03707344u), {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}));
    std::set<double> seen{base.uniform(1)};
    CHECK(seen.insert(base.uniform(2)).second);
    for (const philox_stream& other :
         {philox_stream{base.seed ^ 1, base.purpose, base.batch, base.iteration},
          philox_stream{base.seed ^ (std::uint64_t{1} << 63), base.purpose, base.batch, base.iteration},
          philox_stream{base.seed, base.purpose + 1, base.batch, base.iteration},
          philox_stream{base.seed, base.purpose, base.batch + 1, base.iteration},
          philox_stream{base.seed, base.purpose, base.batch, base.iteration + 1}})
        CHECK(seen.insert(other.uniform(1)).second);
}

TEST(philox_unit_interval_is_open) {
    CHECK(aitken::philox_unit(0, 0) > 0.0);
    CHECK(aitken::philox_unit(0xffffffffu, 0xffffffffu) < 1.0);
    CHECK_NEAR(aitken::philox_unit(0x80000000u, 0), 0.5, 1e-15);
}

// Moments of 2^18 draws against their expectations, at six standard errors; the seed is fixed.
TEST(philox_moments) {
    const philox_stream stream{2024, 7, 0, 0};
    constexpr int n = 1 << 18;
    double u1 = 0, u2 = 0, lag = 0, z1 = 0, z2 = 0, z4 = 0, previous = 0.5;
    for (int i = 0; i < n; ++i) {
        const double u = stream.uniform(static_cast<std::uint32_t>(i)) - 0.5;
        const double z = stream.normal(static_cast<std::uint32_t>(i));
        u1 += u, u2 += u * u, lag += u * previous, previous = u;
        z1 += z, z2 += z * z, z4 += z * z * z * z;
    }
    const double se = 6.0 / std::sqrt(double{n});
    CHECK_NEAR(u1 / n, 0.0, se * std::sqrt(1.0 / 12));
    CHECK_NEAR(u2 / n, 1.0 / 12, se * std::sqrt(1.0 / 180));
    CHECK_NEAR(lag / n, 0.0, se / 12);
    CHECK_NEAR(z1 / n, 0.0, se);
    CHECK_NEAR(z2 / n, 1.0, se * std::sqrt(2.0));
    CHECK_NEAR(z4 / n, 3.0, se * std::sqrt(96.0));
}

}  // namespace
