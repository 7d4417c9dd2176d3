// Workspace, stopping and the chunk loop.
#include <cstdint>
#include <limits>
#include <new>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "core/stop.hpp"
#include "core/workspace.hpp"
#include "cpu/threads.hpp"

namespace {

using aitken::index;
using aitken::workspace;

TEST(workspace_cuts_aligned_disjoint_vectors) {
    for (const std::size_t shift : {0, 8, 24, 63}) {
        const std::size_t bytes = workspace::bytes_for<double>(5) + workspace::bytes_for<float>(3) +
                                  workspace::bytes_for<int>(0) + workspace::bytes_for<double>(1);
        std::vector<char> block(bytes + 64);
        workspace w(block.data() + shift, bytes);
        const auto a = w.take<double>(5);
        const auto b = w.take<float>(3);
        const auto c = w.take<int>(0);
        const auto d = w.take<double>(1);
        for (const void* p :
             {static_cast<void*>(a.data), static_cast<void*>(b.data), static_cast<void*>(d.data)})
            CHECK(reinterpret_cast<std::uintptr_t>(p) % workspace::alignment == 0);
        CHECK(a.size == 5 && b.size == 3 && c.size == 0 && d.size == 1);
        CHECK(reinterpret_cast<char*>(a.data + 5) <= reinterpret_cast<char*>(b.data));
        CHECK(reinterpret_cast<char*>(b.data + 3) <= reinterpret_cast<char*>(d.data));
        CHECK(reinterpret_cast<char*>(d.data + 1) <= block.data() + shift + bytes);
        w.reset();
        CHECK(w.take<double>(5).data == a.data);
    }
}

TEST(workspace_refuses_what_does_not_fit) {
    std::vector<char> block(256);
    workspace w(block.data(), block.size());
    CHECK_THROWS(w.take<double>(33), std::bad_alloc);
    const std::size_t before = w.used();
    CHECK_THROWS(w.take<double>(std::numeric_limits<index>::max()), std::bad_alloc);
    CHECK_THROWS(w.take<double>(-1), std::bad_alloc);
    CHECK(w.used() == before);
    CHECK(w.take<double>(8).size == 8);
    workspace empty(nullptr, 0);
    CHECK_THROWS(empty.take<char>(1), std::bad_alloc);
}

TEST(stagnation_needs_a_whole_window_without_a_decade) {
    aitken::stagnation_watch watch(3, 10.0);
    CHECK(!watch.stalled(1.0));
    CHECK(!watch.stalled(0.5));
    CHECK(!watch.stalled(0.2));
    CHECK(!watch.stalled(0.1));  // a decade below the mark, just in time
    CHECK(!watch.stalled(0.09));
    CHECK(!watch.stalled(0.08));
    CHECK(watch.stalled(std::numeric_limits<double>::quiet_NaN()));
    watch.restart();
    CHECK(!watch.stalled(5.0));
}

TEST(stagnation_counts_light_steps_lightly) {
    aitken::stagnation_watch watch(2);
    CHECK(!watch.stalled(1.0));
    for (int i = 0; i < 7; ++i) CHECK(!watch.stalled(1.0, 0.25));
    CHECK(watch.stalled(1.0, 0.25));
}

TEST(chunks_run_once_each) {
    using namespace aitken::cpu;
    for (const int threads : {1, 2, 5}) {
        const thread_scope scope(threads);
        for (const index n : {0, 1, 2, 7, 1000}) {
            for (const auto how : {chunk_schedule::even, chunk_schedule::dynamic}) {
                std::vector<int> runs(static_cast<std::size_t>(n), 0);
                bool workers_valid = true;
                parallel_chunks(
                    n,
                    [&](index chunk, int worker) {
                        ++runs[static_cast<std::size_t>(chunk)];
                        if (worker < 0 || worker >= threads) workers_valid = false;
                    },
                    how);
                index once = 0;
                for (const int r : runs) once += r == 1;
                CHECK(once == n);
                CHECK(workers_valid);
            }
        }
    }
}

TEST(chunks_nest_serially) {
    const aitken::cpu::thread_scope scope(2);
    std::vector<int> total(4, 0);
    aitken::cpu::parallel_chunks(4, [&](index outer) {
        aitken::cpu::parallel_chunks(10, [&](index) { ++total[static_cast<std::size_t>(outer)]; });
    });
    CHECK(total == std::vector<int>(4, 10));
}

TEST(chunks_rethrow) {
    const aitken::cpu::thread_scope scope(3);
    for (const auto how : {aitken::cpu::chunk_schedule::even, aitken::cpu::chunk_schedule::dynamic}) {
        const auto fail_at_40 = [&] {
            aitken::cpu::parallel_chunks(
                100,
                [](index chunk) {
                    if (chunk == 40) throw std::domain_error("40");
                },
                how);
        };
        CHECK_THROWS(fail_at_40(), std::domain_error);
    }
}

TEST(thread_counts_nest) {
    using namespace aitken::cpu;
    const int before = num_threads();
    set_num_threads(3);
#ifdef _OPENMP
    const int set = 3, inner = 2;
#else
    const int set = 1, inner = 1;
#endif
    CHECK(num_threads() == set);
    {
        const thread_scope scope(2);
        CHECK(num_threads() == inner);
        {
            const thread_scope same(0), also(-1);
            CHECK(num_threads() == inner);
        }
    }
    CHECK(num_threads() == set && requested_threads() == 3);
    set_num_threads(-1);
    CHECK(num_threads() == before && requested_threads() == 0);
}

#ifdef _OPENMP
// What threadpoolctl does: a lower OpenMP limit holds, whatever was requested before.
TEST(openmp_limits_count) {
    using namespace aitken::cpu;
    const int limit = omp_get_max_threads();
    if (limit < 2) {
        CHECK(num_threads() >= 1);
        return;
    }
    set_num_threads(limit);
    omp_set_num_threads(limit - 1);
    CHECK(num_threads() == limit - 1);
    omp_set_num_threads(limit);
    CHECK(num_threads() == limit);
    set_num_threads(0);
}
#endif

}  // namespace
