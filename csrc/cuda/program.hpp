// Block programs: a kernel as plain functions over (block, thread), cut at its barriers.
//
// A program is a struct holding the kernel's arguments. Its phases are functions that all threads of a
// block finish before any starts the next, so cuda/launch.cuh runs them with __syncthreads between, and
// csrc/tests/block_runner.hpp by loops on the CPU: the kernel bodies are tested without a GPU.
//
//   open(local, at)                 registers only, no barrier after it
//   step<k>(shared, local, at, r)   k = 0 .. steps - 1, for r = 0 .. rounds(at) - 1
//   close<k>(shared, local, at)     k = 0 .. closings - 1
//
// A program whose rounds depend on what it computes has, in place of rounds, go_on(local): whether another
// round follows. All threads of a block must say the same, so they decide by what they read from `shared`.
//
// Within a phase no thread may read what another writes, except through atomic_add on integers.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/views.hpp"

#if defined(__CUDA_ARCH__)  // the host pass of nvcc does not know the pragma
#define AITKEN_UNROLL _Pragma("unroll")
#else
#define AITKEN_UNROLL
#endif

namespace aitken::cuda {

// Which thread of which block. Blocks are numbered in one dimension; a program derives its tile.
struct place {
    index block;
    int thread;
};

struct nothing {};

template <class P>
concept OpenEnded = requires(const P& p, const typename P::local& local) {
    { p.go_on(local) } -> std::same_as<bool>;
};

// Every device gives a block so much shared memory; programs with more ask for it at launch, and their users
// ask the backend first (shared_limit).
inline constexpr std::size_t plain_shared = 48 * 1024;

// `shared` and `local` start undefined, like the memory they stand for.
template <class P>
concept BlockProgram =
    std::is_trivially_copyable_v<P> && std::is_trivially_default_constructible_v<typename P::shared> &&
    std::is_trivially_default_constructible_v<typename P::local> && P::threads % 32 == 0 &&
    P::threads <= 1024 && sizeof(typename P::shared) <= 160 * 1024 && sizeof(P) <= 4096 && P::steps >= 0 &&
    P::closings >= 0 && requires(const P& p, typename P::local& local, place at) {
        p.open(local, at);
        requires OpenEnded<P> || requires {
            { p.rounds(at) } -> std::convertible_to<index>;
        };
    };

// Programs without a loop derive from this.
struct straight {
    struct local {};
    static constexpr int steps = 0;
    AITKEN_HD void open(local&, place) const {}
    AITKEN_HD index rounds(place) const { return 0; }
};

inline constexpr double infinity = std::numeric_limits<double>::infinity();

// std::max and std::min, NaN behaviour included, for host and device.
AITKEN_HD double larger(double a, double b) { return a < b ? b : a; }
AITKEN_HD double smaller(double a, double b) { return b < a ? b : a; }

// Integers only: their sum does not depend on the order.
AITKEN_HD void atomic_add(int* to, int value) {
#if defined(__CUDA_ARCH__)
    atomicAdd(to, value);
#else
    *to += value;
#endif
}

constexpr index blocks_for(index items, index per_block) { return (items + per_block - 1) / per_block; }

}  // namespace aitken::cuda
