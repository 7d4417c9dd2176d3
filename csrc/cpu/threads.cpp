#include "cpu/threads.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define AITKEN_HAVE_FORK 1
#endif

namespace aitken::cpu {
namespace {

std::atomic<int> requested{0};
thread_local int scoped = 0;

std::atomic<bool> threads_used{false};
std::atomic<bool> forked_child{false};

#ifdef _OPENMP
int openmp_limit() { return omp_get_max_threads(); }
#else
int openmp_limit() { return 1; }
#endif

// OpenMP's count when this module was loaded; a lower one later means that somebody limited it.
const int limit_at_load = openmp_limit();

#ifdef AITKEN_HAVE_FORK
void after_fork_in_child() {
    if (threads_used.load(std::memory_order_relaxed)) forked_child.store(true, std::memory_order_relaxed);
}
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);
#endif

}  // namespace

void set_num_threads(int n) { requested.store(std::max(n, 0), std::memory_order_relaxed); }

int requested_threads() { return requested.load(std::memory_order_relaxed); }

bool in_forked_child() { return forked_child.load(std::memory_order_relaxed); }

void note_threads_used() { threads_used.store(true, std::memory_order_relaxed); }

int num_threads() {
#ifdef _OPENMP
    if (in_forked_child()) return 1;
    const int limit = std::max(openmp_limit(), 1);
    const int wanted = scoped > 0 ? scoped : requested_threads();
    if (wanted <= 0) return limit;
    return limit < limit_at_load ? std::min(wanted, limit) : wanted;
#else
    return 1;
#endif
}

thread_scope::thread_scope(int n) : outer_(scoped) {
    if (n > 0) scoped = n;
}

thread_scope::~thread_scope() { scoped = outer_; }

}  // namespace aitken::cpu
