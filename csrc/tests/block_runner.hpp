// Runs block programs (cuda/program.hpp) on the CPU, one phase after the other over all threads.
//
// Shared memory and registers start as NaN, blocks and threads run in a random order that changes from phase
// to phase: a missing barrier, an unwritten value or a dependence between blocks shows as a wrong result.
// Threads that disagree on another round, and would wait forever on a device, are a std::logic_error.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/program.hpp"

namespace aitken::tests {

class block_runner {
public:
    explicit block_runner(unsigned seed = 1) : random_(seed) {}

    template <cuda::BlockProgram P>
    void run(const P& program, index blocks) {
        std::vector<index> order(static_cast<std::size_t>(blocks));
        std::iota(order.begin(), order.end(), index{0});
        std::shuffle(order.begin(), order.end(), random_);
        for (index block : order) run_block(program, block);
    }

private:
    template <class P>
    void run_block(const P& p, index block) {
        // Bytes of all ones: NaN as a double, -1 as an integer.
        const auto shared = poisoned<typename P::shared>(1);
        const auto local = poisoned<typename P::local>(P::threads);
        const auto at = [&](int thread) { return cuda::place{block, thread}; };
        each_thread<P>([&](int t) { p.open(local.get()[t], at(t)); });
        const auto another = [&](index round) {
            if constexpr (cuda::OpenEnded<P>) {
                const bool first = p.go_on(local.get()[0]);
                for (int t = 1; t < P::threads; ++t)
                    if (p.go_on(local.get()[t]) != first)
                        throw std::logic_error("threads of a block disagree on another round");
                return first;
            } else {
                return P::steps > 0 && round < static_cast<index>(p.rounds(at(0)));
            }
        };
        for (index round = 0; another(round); ++round)
            [&]<int... Step>(std::integer_sequence<int, Step...>) {
                (each_thread<P>([&](int t) { p.template step<Step>(*shared, local.get()[t], at(t), round); }),
                 ...);
            }(std::make_integer_sequence<int, P::steps>{});
        [&]<int... Phase>(std::integer_sequence<int, Phase...>) {
            (each_thread<P>([&](int t) { p.template close<Phase>(*shared, local.get()[t], at(t)); }), ...);
        }(std::make_integer_sequence<int, P::closings>{});
    }

    template <class P, class F>
    void each_thread(F&& f) {
        // A random odd stride visits all threads (their number is made a power of two) in mixed order.
        int span = 1;
        while (span < P::threads) span *= 2;
        const int first = static_cast<int>(random_() % span), stride = static_cast<int>(random_() % span) | 1;
        for (int k = 0, t = first; k < span; ++k, t = (t + stride) % span)
            if (t < P::threads) f(t);
    }

    struct release {
        void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    template <class S>
    static std::unique_ptr<S, release> poisoned(std::size_t count) {
        void* bytes = ::operator new(sizeof(S) * count, std::align_val_t{64});
        std::memset(bytes, 0xFF, sizeof(S) * count);
        return std::unique_ptr<S, release>(static_cast<S*>(bytes));
    }

    std::mt19937 random_;
};

}  // namespace aitken::tests
