// Threads of the CPU backend: how many, and the one way to run chunks on them.
//
// OpenMP is the only threading, and everything here is right without it. The default count is
// OpenMP's own: OMP_NUM_THREADS, else the CPUs in the affinity mask. OpenMP is asked anew each time,
// so a limit set through threadpoolctl counts.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
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

}  // namespace aitken::cpu
