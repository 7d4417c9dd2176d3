// Runs block programs as kernels: the phases of cuda/program.hpp with barriers between.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "cuda/backend.hpp"

namespace aitken::cuda {

namespace detail {

template <class P, int... Step>
__device__ __forceinline__ void run_steps(const P& p, typename P::shared& s, typename P::local& l, place at,
                                          index round, std::integer_sequence<int, Step...>) {
    ((p.template step<Step>(s, l, at, round), __syncthreads()), ...);
}
// No barrier after the last phase: the block ends there.
template <class P, int... Phase>
__device__ __forceinline__ void run_closings(const P& p, typename P::shared& s, typename P::local& l,
                                             place at, std::integer_sequence<int, Phase...>) {
    ((p.template close<Phase>(s, l, at), Phase + 1 < P::closings ? __syncthreads() : void()), ...);
}

template <class P>
inline constexpr std::size_t asked_shared =
    sizeof(typename P::shared) > plain_shared ? sizeof(typename P::shared) : 0;

template <class P>
__device__ __forceinline__ typename P::shared& shared_of() {
    if constexpr (asked_shared<P> > 0) {
        extern __shared__ __align__(16) unsigned char memory[];
        return *reinterpret_cast<typename P::shared*>(memory);
    } else {
        __shared__ typename P::shared memory;
        return memory;
    }
}

// Blocks that a multiprocessor should hold at least, where a program says so: a limit on its registers.
template <class P>
constexpr int resident_blocks() {
    if constexpr (requires { P::resident; })
        return P::resident;
    else
        return 1;
}

template <class P>
__global__ void __launch_bounds__(P::threads, resident_blocks<P>())
    run_program(const __grid_constant__ P program) {
    typename P::shared& shared = shared_of<P>();
    typename P::local local;
    const place at{static_cast<index>(blockIdx.x), static_cast<int>(threadIdx.x)};
    program.open(local, at);
    [[maybe_unused]] constexpr auto steps = std::make_integer_sequence<int, P::steps>{};
    if constexpr (OpenEnded<P>) {
        for (index round = 0; program.go_on(local); ++round)
            run_steps(program, shared, local, at, round, steps);
    } else if constexpr (P::steps > 0) {
        const index rounds = program.rounds(at);
        for (index round = 0; round < rounds; ++round) run_steps(program, shared, local, at, round, steps);
    }
    run_closings(program, shared, local, at, std::make_integer_sequence<int, P::closings>{});
}

}  // namespace detail

template <BlockProgram P>
void launch(const P& program, index blocks, void* stream) {
    if (blocks > 2147483647)
        throw std::invalid_argument("the problem is too large for one launch (" + std::to_string(blocks) +
                                    " blocks)");
    constexpr std::size_t asked = detail::asked_shared<P>;
    if constexpr (asked > 0)
        check(cudaFuncSetAttribute(detail::run_program<P>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(asked)),
              "cudaFuncSetAttribute");
    detail::
        run_program<<<static_cast<unsigned>(blocks), P::threads, asked, static_cast<cudaStream_t>(stream)>>>(
            program);
    check(cudaGetLastError(), "cudaLaunchKernel");
}

}  // namespace aitken::cuda
