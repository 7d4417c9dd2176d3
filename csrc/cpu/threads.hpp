// Threads of the CPU backend: how many, and the one way to run chunks on them.
//
// OpenMP is the only threading, and everything here is right without it. The default count is
// OpenMP's own: OMP_NUM_THREADS, else the CPUs in the affinity mask. OpenMP is asked anew each time,
// so a limit set through threadpoolctl counts.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <type_traits>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "core/views.hpp"

namespace aitken::cpu {

void set_num_threads(int n);  // for the process; n <= 0: the default
int requested_threads();      // as set, 0 for the default
int num_threads();            // what the next loop of this thread would use, at least 1

// The n_threads option of one call: n <= 0 leaves things as they are. Nests.
class thread_scope {
public:
    explicit thread_scope(int n);
    ~thread_scope();
    thread_scope(const thread_scope&) = delete;
    thread_scope& operator=(const thread_scope&) = delete;

private:
    int outer_;
};

// True in a forked child whose parent had used its OpenMP threads: they do not exist here, and libgomp
// would wait for them for ever. Such a child runs serially.
bool in_forked_child();
void note_threads_used();  // called by parallel_chunks before it starts threads

enum class chunk_schedule { even, dynamic };  // even: contiguous shares, for chunks of equal cost

// Runs fn(chunk) or fn(chunk, worker), 0 <= worker < num_threads(), for 0 <= chunk < n_chunks.
// Chunks may run in any order and at the same time, so results must not depend on either: write to
// places of the chunk's own, and sum partials in order afterwards. Serial inside a parallel region.
// An exception skips the chunks not yet begun and is rethrown here; of several, the lowest chunk's.
template <class Fn>
void parallel_chunks(index n_chunks, Fn&& fn, chunk_schedule schedule = chunk_schedule::even) {
    const auto run = [&fn](index chunk, [[maybe_unused]] int worker) {
        if constexpr (std::is_invocable_v<Fn&, index, int>)
            fn(chunk, worker);
        else
            fn(chunk);
    };
#ifdef _OPENMP
    const int threads = static_cast<int>(std::min<index>(num_threads(), n_chunks));
    if (threads > 1 && !omp_in_parallel()) {
        note_threads_used();
        std::exception_ptr error;
        index error_chunk = n_chunks;
        std::atomic<bool> failed{false};
        const auto guarded = [&](index chunk) {
            if (failed.load(std::memory_order_relaxed)) return;
            try {
                run(chunk, omp_get_thread_num());
            } catch (...) {
                failed.store(true, std::memory_order_relaxed);
#pragma omp critical(aitken_chunk_error)
                if (chunk < error_chunk) {
                    error_chunk = chunk;
                    error = std::current_exception();
                }
            }
        };
        if (schedule == chunk_schedule::dynamic) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
            for (index chunk = 0; chunk < n_chunks; ++chunk) guarded(chunk);
        } else {
#pragma omp parallel for num_threads(threads) schedule(static)
            for (index chunk = 0; chunk < n_chunks; ++chunk) guarded(chunk);
        }
        if (error) std::rethrow_exception(error);
        return;
    }
#endif
    static_cast<void>(schedule);
    for (index chunk = 0; chunk < n_chunks; ++chunk) run(chunk, 0);
}

// Runs fn(step, worker, workers) for 0 <= step < steps with every worker taking part in every step, and no
// worker beginning a step before all have ended the one before. For many short steps: workers wait for each
// other by looking, some 0.2 us per step. Where processors are shared with others that becomes milliseconds:
// then the first worker goes on alone, as it does in the next calls. What fn does in a step must not depend
// on the number of workers; it must not throw. Serial inside a parallel region.
template <class Fn>
void parallel_steps(index steps, Fn&& fn) {
#ifdef _OPENMP
    static std::atomic<int> calls_alone{0};  // still to come, after a call that had to wait
    constexpr int short_wait = 2000, long_wait = 20000, patience = 4, rest = 256;
    const int threads = num_threads();
    if (threads > 1 && steps > 0 && !omp_in_parallel() && calls_alone.fetch_sub(1) <= 0) {
        calls_alone.store(0);
        note_threads_used();
        std::atomic<index> arrived{0}, begun{1};  // in all steps; steps that may be worked on
        std::atomic<int> long_waits{0};
        std::atomic<bool> alone{false};
#pragma omp parallel num_threads(threads)
        {
            const int worker = omp_get_thread_num(), workers = omp_get_num_threads();
            index step = 0;
            while (step < steps && !alone.load(std::memory_order_relaxed)) {
                fn(step, worker, workers);
                ++step;
                if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == step * workers) {
                    alone.store(long_waits.load(std::memory_order_relaxed) >= patience,
                                std::memory_order_relaxed);
                    begun.store(step + 1, std::memory_order_release);
                    continue;
                }
                for (int looks = 0; begun.load(std::memory_order_acquire) <= step; ++looks) {
                    if (looks > short_wait) std::this_thread::yield();
                    if (looks == long_wait) long_waits.fetch_add(1, std::memory_order_relaxed);
                }
            }
            if (worker == 0 && step < steps) {
                for (; step < steps; ++step) fn(step, 0, 1);
                calls_alone.store(rest);
            }
        }
        return;
    }
#endif
    for (index step = 0; step < steps; ++step) fn(step, 0, 1);
}

}  // namespace aitken::cpu
