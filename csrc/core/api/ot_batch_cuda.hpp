// Batches of transport problems on CUDA devices: core/api/ot_batch.hpp with arrays in device memory, plus
// where to run.
#pragma once

#include <vector>

#include "core/api/device_context.hpp"
#include "core/api/ot_batch.hpp"

namespace aitken::cuda::ot {

// As aitken::cpu::ot::solve_batch. Problems of up to some 12 000 entries are solved by a block each, all at
// once; that part is one launch per size class and cannot be interrupted. The others, and those that a block
// gives up (unbalanced ones with bins that the cost isolates among them), follow one after another.
template <class T>
std::vector<aitken::ot::batch_report> solve_batch(const device_context& where,
                                                  const std::vector<aitken::ot::batch_problem<T>>& problems,
                                                  const aitken::ot::options& options, double loose,
                                                  interrupt& signals);

}  // namespace aitken::cuda::ot
