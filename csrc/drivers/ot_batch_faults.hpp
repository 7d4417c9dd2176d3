// Why a problem of a batch cannot be solved, in the same words on every backend.
#pragma once

#include <charconv>
#include <cmath>
#include <string>

#include "core/views.hpp"

namespace aitken::drivers::ot::faults {

// The shortest digits that give x again.
inline std::string digits(double x) {
    if (std::isnan(x)) return "nan";
    char room[32];
    const auto end = std::to_chars(room, room + sizeof room, x).ptr;
    return {room, end};
}

inline std::string of_weight(const char* name, double weight, index at) {
    return std::string("`") + name + "` has a weight of " + digits(weight) + " at " + std::to_string(at);
}
inline std::string of_mass(const char* name, double mass) {
    if (mass > 0) return std::string("`") + name + "` has weights whose sum exceeds the double range";
    return std::string("`") + name + "` has no mass: its weights sum to " + digits(mass);
}
inline std::string of_masses(double a, double b) {
    return "`a` and `b` must have equal mass; they sum to " + digits(a) + " and " + digits(b);
}
inline std::string of_reg(double reg) { return "`reg` is " + digits(reg) + "; > 0 is needed"; }
inline std::string of_bin(const char* line, index at) {
    return std::string("`M` forbids (inf) every pair of ") + line + " " + std::to_string(at) +
           " with mass on the other side, but that bin has mass";
}
inline constexpr const char* no_pairs = "`M` forbids (inf) every pair of bins with mass";
inline constexpr const char* has_nan = "`M` contains NaN";
inline constexpr const char* has_negative_inf = "`M` contains -inf";

}  // namespace aitken::drivers::ot::faults
