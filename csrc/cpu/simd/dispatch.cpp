#include "cpu/simd/dispatch.hpp"

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#define AITKEN_SIMD_X86 1
#include <cpuid.h>
#endif

namespace aitken::cpu {
namespace {

#if defined(AITKEN_SIMD_X86)
constexpr std::uint32_t bits(std::initializer_list<int> positions) {
    std::uint32_t mask = 0;
    for (int p : positions) mask |= std::uint32_t{1} << p;
    return mask;
}

constexpr bool has(std::uint32_t word, std::uint32_t mask) { return (word & mask) == mask; }

// Highest x86-64 microarchitecture level (3, 4, or 1 for less than 3), by the psABI's full feature lists: the
// compiler may use any of them in a file compiled for the level. Asked of CPUID itself, because compilers
// differ in which of these names __builtin_cpu_supports knows.
int x86_level() {
    std::uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 1;
    // sse3 ssse3 fma cmpxchg16b sse4.1 sse4.2 movbe popcnt osxsave avx f16c
    if (!has(c, bits({0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29}))) return 1;
    std::uint32_t state = 0, state_high = 0;  // XCR0: what the operating system saves at a context switch
    __asm__ volatile("xgetbv" : "=a"(state), "=d"(state_high) : "c"(0));
    if (!has(state, bits({1, 2}))) return 1;  // xmm ymm
    std::uint32_t features = 0;
    if (!__get_cpuid_count(7, 0, &a, &features, &c, &d)) return 1;
    if (!has(features, bits({3, 5, 8}))) return 1;                                     // bmi1 avx2 bmi2
    if (!__get_cpuid(0x80000001u, &a, &b, &c, &d) || !has(c, bits({0, 5}))) return 1;  // lahf lzcnt
    if (!has(features, bits({16, 17, 28, 30, 31}))) return 3;                          // avx512 f dq cd bw vl
    return has(state, bits({5, 6, 7})) ? 4 : 3;  // opmask, zmm 0-15, zmm 16-31
}
#endif

std::vector<const aitken_simd_table*> supported_tables() {
    std::vector<const aitken_simd_table*> tables{&aitken_simd_base};
#if defined(AITKEN_SIMD_X86)
    const int level = x86_level();
    if (level >= 3) tables.push_back(&aitken_simd_v3);
    if (level >= 4) tables.push_back(&aitken_simd_v4);
#endif
    return tables;
}

}  // namespace

std::vector<std::string_view> simd_levels() {
    std::vector<std::string_view> names;
    for (const aitken_simd_table* table : supported_tables()) names.emplace_back(table->level);
    return names;
}

const aitken_simd_table& simd_for(std::string_view level) {
    const auto tables = supported_tables();
    if (level.empty()) return *tables.back();
    std::string names;
    for (const aitken_simd_table* table : tables) {
        if (level == table->level) return *table;
        names += (names.empty() ? "" : ", ") + std::string(table->level);
    }
    const bool known = level == "base" || level == "v3" || level == "v4";
    throw std::invalid_argument("`AITKEN_SIMD` is \"" + std::string(level) + "\", which " +
                                (known ? "this machine does not support" : "is no SIMD level") +
                                "; supported here: " + names);
}

const aitken_simd_table& simd() {
    static const aitken_simd_table& chosen = []() -> const aitken_simd_table& {
        const char* request = std::getenv("AITKEN_SIMD");
        return simd_for(request ? request : "");
    }();
    return chosen;
}

bool simd_has_bf16() {
#if defined(AITKEN_SIMD_X86)
    std::uint32_t a = 0, b = 0, c = 0, d = 0;
    return x86_level() >= 4 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, bits({5}));
#else
    return false;
#endif
}

}  // namespace aitken::cpu
