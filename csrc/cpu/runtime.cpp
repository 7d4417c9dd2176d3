// core/api/runtime.hpp on the CPU.
#include "core/api/runtime.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "core/philox.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "dense/lapack_table.hpp"

namespace aitken::runtime {
namespace {

std::string compiler_name() {
#if defined(__clang__)
    return std::string("clang ") + __clang_version__;
#elif defined(__GNUC__)
    return std::string("gcc ") + __VERSION__;
#elif defined(_MSC_VER)
    return "msvc " + std::to_string(_MSC_VER);
#else
    return "unknown";
#endif
}

template <class Draw>
void draw(std::uint64_t seed, std::uint32_t purpose, std::uint32_t batch, std::uint32_t iteration, index n,
          double* out, Draw&& one) {
    constexpr index most = index{std::numeric_limits<std::uint32_t>::max()} + 1;
    if (n < 0 || n > most)
        throw std::invalid_argument("`n` must be between 0 and 2**32; got " + std::to_string(n));
    const philox_stream stream{seed, purpose, batch, iteration};
    constexpr index chunk_size = 1 << 14;
    cpu::parallel_chunks((n + chunk_size - 1) / chunk_size, [&](index chunk) {
        const index last = std::min(n, (chunk + 1) * chunk_size);
        for (index i = chunk * chunk_size; i < last; ++i) out[i] = one(stream, static_cast<std::uint32_t>(i));
    });
}

}  // namespace

build_facts build_info() {
#ifdef _OPENMP
    constexpr bool openmp = true;
#else
    constexpr bool openmp = false;
#endif
    return {AITKEN_VERSION, compiler_name(), AITKEN_BUILD_TYPE, openmp, AITKEN_CUDA_BUILT != 0};
}

std::string simd_level() { return cpu::simd().level; }

std::vector<std::string> simd_levels_supported() {
    const auto levels = cpu::simd_levels();
    return {levels.begin(), levels.end()};
}

void set_num_threads(int n) { cpu::set_num_threads(n); }
int get_num_threads() { return cpu::num_threads(); }
int requested_threads() { return cpu::requested_threads(); }

std::vector<lapack_routine> lapack_routines() {
    std::vector<lapack_routine> list;
    for (auto& entry : dense::lapack().entries()) list.push_back({entry.name, entry.loaded, entry.detail});
    return list;
}

int lapack_int_bits() { return dense::lapack().int_bits(); }

void load_lapack(const std::string& name, void* address, const std::string& signature) {
    dense::lapack().load(name, address, signature);
}

void philox_uniform(std::uint64_t seed, std::uint32_t purpose, std::uint32_t batch, std::uint32_t iteration,
                    index n, double* out) {
    draw(seed, purpose, batch, iteration, n, out,
         [](const philox_stream& stream, std::uint32_t i) { return stream.uniform(i); });
}

void philox_normal(std::uint64_t seed, std::uint32_t purpose, std::uint32_t batch, std::uint32_t iteration,
                   index n, double* out) {
    draw(seed, purpose, batch, iteration, n, out,
         [](const philox_stream& stream, std::uint32_t i) { return stream.normal(i); });
}

}  // namespace aitken::runtime
