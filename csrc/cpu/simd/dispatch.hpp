// Which row kernels this process runs.
#pragma once

#include <string_view>
#include <vector>

#include "cpu/simd/table.hpp"

namespace aitken::cpu {

// Chosen at the first call and kept: the level named by the environment variable AITKEN_SIMD (base, v3, v4),
// else the highest this CPU and operating system support. Throws std::invalid_argument where AITKEN_SIMD
// names no level or an unsupported one.
const aitken_simd_table& simd();

// The table of the level named, or of the highest where the name is empty. Throws as simd() does.
const aitken_simd_table& simd_for(std::string_view level);

// The levels this machine supports, lowest first.
std::vector<std::string_view> simd_levels();

// Whether this CPU and operating system run aitken_simd_bf16 (beside level v4).
bool simd_has_bf16();

}  // namespace aitken::cpu
