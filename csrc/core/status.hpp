// How a solve ended. One enum for every solver; Python's `info` and `status` are derived from it.
#pragma once

namespace aitken {

enum class status : int {
    converged = 0,            // the recomputed certificate is within the tolerance
    max_iterations = 1,       // the iteration budget ran out
    stagnated = 2,            // no progress worth another iteration
    breakdown = 3,            // the method cannot continue (singular small system, zero pivot)
    nonfinite = 4,            // NaN or Inf appeared in the iteration
    stopped_by_callback = 5,  // the caller's callback raised StopIteration
    not_positive_definite = 6,
    locally_infeasible = 7,
    diverged = 8,
    bad_input = 9,  // one problem of a batch; alone it is an exception
};

}  // namespace aitken
