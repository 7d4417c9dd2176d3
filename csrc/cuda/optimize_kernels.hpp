// The functions of core/api/optimize_batch.hpp over the block programs of cuda/optimize_blocks.hpp, for any
// backend: csrc/tests runs them on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/api/optimize_batch.hpp"
#include "core/backend.hpp"
#include "cuda/optimize_blocks.hpp"

namespace aitken::cuda {

// Systems of count tasks from the source: a warp each up to 32 unknowns, more threads up to 96, and beyond
// with triangles in device memory, as many at once as 64 MB hold.
template <class Be, KktSource Source>
void solve_kkt_tasks(Be& be, const Source& source, int unknowns, index count, double xi) {
    const auto run = [&]<class P>(std::type_identity<P>, index first, index some, double* room) {
        P program{};
        program.source = source;
        program.xi = xi;
        program.first = first;
        program.count = some;
        program.room = room;
        be.launch(program);
    };
    if (unknowns <= 32)
        return run(std::type_identity<solve_kkt_systems<Source, 32, 32>>{}, 0, count, nullptr);
    if (unknowns <= 64)
        return run(std::type_identity<solve_kkt_systems<Source, 64, 64>>{}, 0, count, nullptr);
    if (unknowns <= 96)
        return run(std::type_identity<solve_kkt_systems<Source, 96, 96>>{}, 0, count, nullptr);
    using large = solve_kkt_systems<Source, 128, 0>;
    constexpr index together = (index{64} << 20) / (large::stored * 8);
    double* const room = be.template allocate<double>(std::min(count, together) * large::stored).data;
    for (index first = 0; first < count; first += together)
        run(std::type_identity<large>{}, first, std::min(together, count - first), room);
}

template <class Be>
void solve_kkt_batch(Be& be, const aitken::optimize::kkt_systems& k, double xi) {
    if (k.count > 0) solve_kkt_tasks(be, listed_systems{k}, k.n + k.m, k.count, xi);
}

// A launch each, but for direct (3) and conclude (3).
template <class Be>
class batch_kernels {
    using options = aitken::optimize::batch_options;
    using problems = aitken::optimize::batch_problems;
    using values = aitken::optimize::batch_values;

public:
    batch_kernels(Be& be, const problems& all, const options& o) : be_(be), call_{all, {}, o} {}

    void begin(const double* starts, const double* lam) {
        be_.launch(map_pass(begin_problems{call_, starts, lam}, call_.all.count));
    }
    void points(const std::int32_t* which, index count, double* out) {
        be_.launch(map_pass(copy_points{call_, which, out}, count));
    }
    void hessian_points(const std::int32_t* which, index count, double* x, double* v) {
        be_.launch(map_pass(copy_hessian_points{call_, which, x, v}, count));
    }
    void judge(const values& v, std::uint8_t* next) {
        be_.launch(map_pass(judge_problems{with(v), next}, v.count));
    }
    void direct(const values& v, const std::int32_t* rows, index count, const double* hessian,
                std::uint8_t* next) {
        if (count == 0) return;
        const batch_call call = with(v);
        kkt_outcome* const outcome = be_.template allocate<kkt_outcome>(call.all.count).data;
        be_.launch(map_pass(prepare_problems{call, rows}, count));
        solve_kkt_tasks(be_, pending_systems{call, rows, hessian, outcome}, call.all.n + call.all.m, count,
                        call.options.xi);
        be_.launch(map_pass(finish_problems{call, rows, hessian, outcome, next}, count));
    }
    void conclude(const values& v, int status_of_others) {
        std::int32_t* const row = be_.template allocate<std::int32_t>(call_.all.count).data;
        be_.launch(map_pass(fill_with<std::int32_t>{row, -1}, call_.all.count));
        be_.launch(map_pass(note_rows{v.problem, row}, v.count));
        be_.launch(map_pass(conclude_problems{with(v), row, status_of_others}, call_.all.count));
    }

private:
    batch_call with(const values& v) const {
        batch_call call = call_;
        call.values = v;
        return call;
    }

    Be& be_;
    batch_call call_;
};

}  // namespace aitken::cuda
