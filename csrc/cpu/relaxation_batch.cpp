// Relaxation of many systems of one pattern: a system per SIMD lane, rows in their natural order.
//
// A lane whose system is done takes the next one that waits. All that a system meets is in its lane or in
// scalar loops over its own rows, so its bits depend neither on the lane nor on who else is there.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

#include "core/api/relaxation.hpp"
#include "core/error.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"
#include "sparse/sliced.hpp"

namespace aitken::cpu::relaxation {

namespace {

using api::direction;
using numbers = slice_values<double>;

constexpr index group = 8;            // lanes of one cache line
constexpr index groups_together = 2;  // most groups of a call: three and four gain nothing more
constexpr double divergence = 1e8;    // growth of the residual at which a system is given up

// The pattern with every diagonal entry in place.
struct lane_pattern {
    index n = 0;
    std::vector<index> begin{0}, diagonal;
    std::vector<std::int32_t> columns;
    std::vector<index> source;  // of every entry among those of A; -1: a diagonal that is not stored
    bool complete = true;       // all are stored

    explicit lane_pattern(const pattern_view& a) : n(a.rows) {
        const auto size = static_cast<std::size_t>(a.nnz() + n);
        columns.reserve(size);
        source.reserve(size);
        const auto add = [this](index column, index from) {
            columns.push_back(static_cast<std::int32_t>(column));
            source.push_back(from);
            complete = complete && from >= 0;
        };
        for (index i = 0; i < n; ++i) {
            index p = a.indptr[i];
            const index end = a.indptr[i + 1];
            for (; p < end && a.indices[p] < i; ++p) add(a.indices[p], p);
            diagonal.push_back(static_cast<index>(columns.size()));
            add(i, p < end && a.indices[p] == i ? p : -1);
            for (p += p < end && a.indices[p] == i; p < end; ++p) add(a.indices[p], p);
            begin.push_back(static_cast<index>(columns.size()));
        }
    }
    double value(const double* given, index p) const { return source[p] < 0 ? 0 : given[source[p]]; }
    index entries() const { return static_cast<index>(columns.size()); }
};

// Right for every size of the numbers; summed in eight lanes by their order alone.
double norm(const double* v, index n) {
    double sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    index i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; ++l) sums[l] += v[i + l] * v[i + l];
    for (int l = 0; i < n; ++i, ++l) sums[l] += v[i] * v[i];
    double sum = 0;
    for (const double part : sums) sum += part;
    if (sum > 1e-280 && sum < std::numeric_limits<double>::infinity()) return std::sqrt(sum);
    double top = 0;
    for (i = 0; i < n; ++i) {
        if (std::isnan(v[i])) return v[i];
        top = std::max(top, std::fabs(v[i]));
    }
    if (top == 0 || std::isinf(top)) return top;
    sum = 0;
    for (i = 0; i < n; ++i) sum += (v[i] / top) * (v[i] / top);
    return top * std::sqrt(sum);
}

struct occupant {
    index system = -1, sweeps = 0;  // -1: none
    double start = 0, target = 0;   // ||b - A x0|| and what is to be met
};

// Some lanes, and the systems that pass through them.
class lanes {
public:
    lanes(const api::batch_problem& problem, const api::batch_options& options, const lane_pattern& pattern,
          index width, api::batch_report& report)
        : problem_(problem),
          options_(options),
          pattern_(pattern),
          report_(report),
          width_(width),
          shared_(problem.value_stride == 0),
          busy_(static_cast<std::size_t>(width)),
          norm2_(static_cast<std::size_t>(width)),
          residual_(static_cast<std::size_t>(pattern.n)),
          candidate_(static_cast<std::size_t>(pattern.n)) {
        const auto per_row = static_cast<std::size_t>(width * pattern.n);
        for (numbers* each : {&shift_, &kept_, &factor_}) each->assign(static_cast<std::size_t>(width), 0.0);
        for (numbers* each : {&scale_, &b_, &x_, &q_}) each->assign(per_row, 0.0);
        values_.assign(static_cast<std::size_t>(pattern.entries() * (shared_ ? 1 : width)), 0.0);
        if (shared_)
            for (index p = 0; p < pattern.entries(); ++p) values_[p] = pattern.value(problem.values, p);
        if (!pattern.complete && !shared_) own_.resize(static_cast<std::size_t>(pattern.entries()));
    }

    // Systems first .. last, polling after every sweep: poll() true ends it all.
    template <class Poll>
    void solve(index first, index last, Poll poll) {
        index next = first, active = 0;
        std::fill(busy_.begin(), busy_.end(), occupant{});
        for (index l = 0; l < width_; ++l) active += refill(l, next, last);
        while (active > 0) {
            if (poll()) return;
            sweep();
            for (index l = 0; l < width_; ++l)
                if (busy_[l].system >= 0 && is_done(l)) active += refill(l, next, last) - 1;
        }
    }

private:
    // The system's values in the order of the lanes' pattern, until the next call.
    const double* values_of(index system) {
        if (shared_) return values_.data();
        const double* const given = problem_.values + system * problem_.value_stride;
        if (pattern_.complete) return given;
        for (index p = 0; p < pattern_.entries(); ++p) own_[p] = pattern_.value(given, p);
        return own_.data();
    }
    double shift_of(index system) const { return problem_.shifts ? problem_.shifts[system] : 0; }
    double omega_of(index system) const { return problem_.omegas ? problem_.omegas[system] : 1; }

    // residual_ = b - A x, and its norm.
    double find_residual(index system, const double* x) {
        const double *const values = values_of(system), *const b = problem_.b.row(system);
        const double shift = shift_of(system);
        for (index i = 0; i < pattern_.n; ++i) {
            double r = b[i] - shift * x[i];
            for (index p = pattern_.begin[i]; p < pattern_.begin[i + 1]; ++p)
                r -= values[p] * x[pattern_.columns[p]];
            residual_[i] = r;
        }
        return norm(residual_.data(), pattern_.n);
    }

    void finish(index system, aitken::status status, index iterations, double residual) {
        report_.status[system] = static_cast<int>(status);
        report_.iterations[system] = iterations;
        report_.residual[system] = residual;
    }

    // Brings the next system that needs a sweep into the lane; false: there is none, the lane idles on zeros.
    bool refill(index lane, index& next, index last) {
        while (next < last) {
            const index system = next++;
            occupant o;
            o.system = system;
            if (!is_decided(system, o)) {
                busy_[lane] = o;
                load(lane, system);
                return true;
            }
        }
        busy_[lane] = {};
        shift_[lane] = kept_[lane] = factor_[lane] = 0;
        for (index at = lane; at < pattern_.n * width_; at += width_)
            scale_[at] = b_[at] = x_[at] = q_[at] = 0;
        return false;
    }

    // Systems that need no sweep, or cannot have one.
    bool is_decided(index system, occupant& o) {
        const index n = pattern_.n;
        const double* const b = problem_.b.row(system);
        const double norm_b = norm(b, n);
        report_.target[system] = o.target = std::max(options_.rtol * norm_b, options_.atol);
        const double* const values = values_of(system);
        const double shift = shift_of(system);
        for (index i = 0; i < n; ++i) {
            const double d = values[pattern_.diagonal[i]] + shift;
            if (d != 0 && std::isfinite(d)) continue;
            finish(system, aitken::status::breakdown, 0, find_residual(system, problem_.x.row(system)));
            return true;
        }
        if (norm_b == 0) {
            std::fill_n(problem_.x.row(system), n, 0.0);
            finish(system, aitken::status::converged, 0, 0);
            return true;
        }
        o.start = find_residual(system, problem_.x.row(system));
        if (options_.norm == api::reference::r0)
            report_.target[system] = o.target = std::max(options_.rtol * o.start, options_.atol);
        const bool finite = std::isfinite(o.start);
        if (finite && o.start > o.target && options_.max_sweeps > 0) return false;
        finish(system,
               !finite               ? aitken::status::nonfinite
               : o.start <= o.target ? aitken::status::converged
                                     : aitken::status::max_iterations,
               0, o.start);
        return true;
    }

    // residual_ is that of the system's start.
    void load(index lane, index system) {
        const double* const values = values_of(system);
        const double *const b = problem_.b.row(system), *const x = problem_.x.row(system);
        const double shift = shift_of(system), omega = omega_of(system);
        const bool backward = options_.sweep == direction::backward;
        shift_[lane] = shift;
        kept_[lane] = 1 - omega;
        factor_[lane] = 1 / omega - 1;
        double d = 0, scale = 0;  // a division takes long, and diagonals are often constant
        if (!shared_)
            for (index p = 0; p < pattern_.entries(); ++p) values_[p * width_ + lane] = values[p];
        for (index i = 0; i < pattern_.n; ++i) {
            const index diagonal = pattern_.diagonal[i], at = i * width_ + lane;
            double q = residual_[i];
            const index from = backward ? pattern_.begin[i] : diagonal + 1;
            const index to = backward ? diagonal : pattern_.begin[i + 1];
            for (index p = from; p < to; ++p) q += values[p] * x[pattern_.columns[p]];
            if (const double next = values[diagonal] + shift; next != d) scale = omega / (d = next);
            scale_[at] = scale;
            b_[at] = b[i];
            x_[at] = x[i];
            q_[at] = q;
        }
    }

    void sweep() {
        const aitken_lanes s{pattern_.n,
                             width_,
                             pattern_.begin.data(),
                             pattern_.diagonal.data(),
                             pattern_.columns.data(),
                             values_.data(),
                             shared_,
                             shift_.data(),
                             kept_.data(),
                             factor_.data(),
                             scale_.data(),
                             b_.data(),
                             x_.data(),
                             q_.data()};
        if (options_.sweep != direction::backward) simd().lanes_sweep(&s, 0, norm2_.data());
        if (options_.sweep != direction::forward) simd().lanes_sweep(&s, 1, norm2_.data());
        if (options_.sweep == direction::symmetric) simd().lanes_residual(&s, norm2_.data());
    }

    // Looks at a lane after its sweep. The norm is that of the iterate before it, but for symmetric sweeps.
    bool is_done(index lane) {
        occupant& o = busy_[lane];
        ++o.sweeps;
        const double seen = std::sqrt(norm2_[lane]);
        // Squares overflow before the residual does: a large one is looked at again.
        const bool grown = !(seen <= divergence * o.start) || std::isinf(seen);
        const bool last = o.sweeps == options_.max_sweeps;
        if (!grown && !(seen <= o.target) && !last) return false;
        for (index i = 0; i < pattern_.n; ++i) candidate_[i] = x_[i * width_ + lane];
        const double residual = find_residual(o.system, candidate_.data());
        // What blew up is not given back: the start is.
        if (!std::isfinite(residual) || !(residual <= divergence * o.start)) {
            finish(o.system, aitken::status::diverged, o.sweeps, o.start);
            return true;
        }
        const bool met = residual <= o.target;
        if (!met && !last) return false;  // the sweep after the one that passed has lost it again
        std::copy(candidate_.begin(), candidate_.end(), problem_.x.row(o.system));
        const bool earlier = seen <= o.target && options_.sweep != direction::symmetric;
        finish(o.system, met ? aitken::status::converged : aitken::status::max_iterations,
               met && earlier ? std::max<index>(o.sweeps - 1, 1) : o.sweeps, residual);
        return true;
    }

    const api::batch_problem& problem_;
    const api::batch_options& options_;
    const lane_pattern& pattern_;
    api::batch_report& report_;
    index width_;
    bool shared_;
    std::vector<occupant> busy_;
    numbers norm2_, values_, shift_, kept_, factor_, scale_, b_, x_, q_;
    std::vector<double> residual_, candidate_, own_;
};

}  // namespace

api::batch_report sor_batch(const api::batch_problem& problem, const api::batch_options& options,
                            interrupt& signals) {
    const thread_scope threads(options.n_threads);
    const index count = problem.b.rows;
    api::batch_report report;
    report.status.assign(static_cast<std::size_t>(count), static_cast<int>(aitken::status::max_iterations));
    report.iterations.assign(static_cast<std::size_t>(count), 0);
    report.residual.assign(static_cast<std::size_t>(count), 0.0);
    report.target.assign(static_cast<std::size_t>(count), 0.0);
    if (count == 0) return report;

    // Widths and chunks follow from the shape: the lanes' numbers stay in the second cache, a chunk fills its
    // lanes often, and there are chunks for many threads.
    const lane_pattern pattern(problem.a);
    const index bytes = 8 * group * (4 * pattern.n + (problem.value_stride == 0 ? 0 : pattern.entries()));
    const index fitting =
        std::clamp<index>((index{768} << 10) / std::max<index>(bytes, 1), 1, groups_together);
    const index width = group * std::min(fitting, (count + group - 1) / group);
    const index chunk = std::min(16 * width, std::max(width, (count + 31) / 32));

    const index chunks = (count + chunk - 1) / chunk;
    std::atomic<bool> stopped{false};
    std::atomic<index> next{0}, ended{0};
    parallel_chunks(std::min<index>(num_threads(), chunks), [&](index share, int worker) {
        const auto poll = [&] {
            if (worker != 0) return stopped.load(std::memory_order_relaxed);
            signals.poll();  // worker 0 is the thread that called
            return false;
        };
        try {
            lanes mine(problem, options, pattern, width, report);
            for (index k; (k = next.fetch_add(1)) < chunks;) {
                mine.solve(k * chunk, std::min(count, (k + 1) * chunk), poll);
                ended.fetch_add(1);
            }
            // The caller's thread alone hears of signals: it stays until the others have ended.
            while (share == 0 && ended.load() < chunks && !stopped.load() && !poll())
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
        } catch (...) {
            stopped.store(true, std::memory_order_relaxed);
            throw;
        }
    });
    return report;
}

}  // namespace aitken::cpu::relaxation
