// Sinkhorn's fixed point accelerated, for problems that share a kernel.
//
// With x = log u the iteration is x <- x + f(x), f = log a - log(K (b / K^T e^x)) - x. The Jacobian of x + f
// is diag(1/r) P diag(1/c) P^T, self-adjoint in the inner product sum a_i p_i q_i with spectrum in [0, 1), so
// that the combination of remembered steps whose f is smallest in that norm (Anderson's, AITKEN_MEMORY of
// them) acts as a Krylov method without inner iterations: every product serves the iteration itself.
//
// Columns of products per problem to 1e-9 at reg = .01 of the cost's range, 16 x 16 grids (smooth / spiky, by
// squared distance; by distance): Sinkhorn 327 / 592; 751 / 1317, over-relaxed by its measured rate 125 /
// 194; 246 / 429, Newton with CG behind a scaling of reg 90 / 103; 176 / 248, this 43 / 58; 104 / 125.
//
// Guards. A step that makes |f| three times as large as the least so far is taken back: a plain Sinkhorn step
// from the point before, and nothing remembered. So is what was remembered where |f| has not fallen by a
// tenth in 40 iterations. Where that happens five times over, or a number is not finite, the problem is given
// up here and left to a solver in the log domain, which goes on by plain Sinkhorn steps instead.
//
// Cost per iteration: one product with K and one with its transpose (2 n m flops each), n exponentials and
// logarithms, 6 AITKEN_MEMORY n flops and 8 AITKEN_MEMORY n bytes of what is remembered.
#pragma once

#include <cmath>
#include <concepts>
#include <limits>
#include <span>
#include <vector>

#include "core/api/ot_scaling.hpp"
#include "core/status.hpp"

namespace aitken::drivers::ot {

using aitken::ot::scaling_options;

enum class verdict { go_on, forget, go_back, converged, given_up };

// What is known of one problem's way, and what to do next.
class scaling_course {
public:
    scaling_course() = default;
    explicit scaling_course(bool persists) : persists_(persists) {}

    // err: L1 error of the rows; norm: |f| in the norm of a.
    verdict judge(double err, double norm, const scaling_options& options) {
        ++nit_;
        if (err <= options.tol) return verdict::converged;
        if (nit_ >= options.max_iterations) return verdict::given_up;
        const bool finite = std::isfinite(norm) && std::isfinite(err);
        if (remembered_ == 0 && !finite) return verdict::given_up;
        if (remembered_ > 0 && !(finite && norm <= growth * best_)) {
            remembered_ = 0;
            previous_ = false;
            return verdict::go_back;
        }
        if (norm < progress * best_) {
            best_ = norm;
            since_ = stalls_ = 0;
        } else if (++since_ >= patience) {
            since_ = 0;
            if (++stalls_ >= most_stalls && !persists_) return verdict::given_up;
            plain_ = stalls_ >= most_stalls;
            remembered_ = 0;
            return verdict::forget;
        }
        if (plain_) remembered_ = 0;
        return plain_ ? verdict::forget : verdict::go_on;
    }
    // Whether the change since the point before is worth remembering; `next` is the verdict.
    bool remembers(verdict next) {
        const bool use = next == verdict::go_on && previous_;
        previous_ = next == verdict::go_on || next == verdict::forget;
        remembered_ += use;
        return use;
    }
    // The norm has changed its meaning.
    void forget() {
        remembered_ = 0;
        best_ = std::numeric_limits<double>::infinity();
    }
    index nit() const { return nit_; }

private:
    static constexpr double growth = 3.0, progress = 0.9;
    static constexpr int patience = 40, most_stalls = 5;

    double best_ = std::numeric_limits<double>::infinity();
    index nit_ = 0, remembered_ = 0;
    int since_ = 0, stalls_ = 0;
    bool previous_ = false, persists_ = false, plain_ = false;
};

// Lanes that each hold one problem. Values by lane are doubles, 0 or 1 where they are flags.
template <class K>
concept LaneKernels = requires(K& k, int lane, index problem, std::span<double> out,
                               std::span<const double> flags, std::span<const int> slots) {
    { k.lanes() } -> std::same_as<int>;
    k.start(lane, problem);                 // takes effect where the next advance goes back
    k.idle(lane);                           // the same for no problem
    k.evaluate(out, out);                   // err and squared norm
    k.remember(slots, flags, flags);        // use, forget
    k.advance(flags);                       // back
    k.finish(lane, problem, index{}, 0.0);  // puts the problem's answer on its way
    k.flush();                              // and all answers through
    k.keep(std::span<index>{});             // problems by lane: moves them together, and drops empty panels
};

// next() gives the number of a problem not begun, or -1; failed(problem, err, nit) is told of those given up.
// Problems come and go: a lane takes the next one as soon as its own is done.
template <LaneKernels K, class Next, class Failed, class Poll>
void solve_lanes(K& k, const scaling_options& options, int memory, Next&& next, Failed&& failed,
                 Poll&& poll) {
    auto lanes = static_cast<std::size_t>(k.lanes());
    std::vector<scaling_course> course(lanes);
    std::vector<index> problem(lanes, -1);
    std::vector<double> err(lanes), norm2(lanes), use(lanes), forget(lanes), back(lanes);
    std::vector<int> slots(lanes, 0);  // by a problem's own steps, or its bits would follow from its place
    bool more = true;
    std::size_t busy = 0;
    const auto fill = [&](std::size_t l) {
        problem[l] = more ? next() : -1;
        more = more && problem[l] >= 0;
        course[l] = {};
        if (problem[l] >= 0) {
            k.start(static_cast<int>(l), problem[l]);
            ++busy;
        } else {
            k.idle(static_cast<int>(l));
        }
        use[l] = 0;
        forget[l] = back[l] = 1;
    };
    for (std::size_t l = 0; l < lanes; ++l) fill(l);
    k.advance(back);
    while (busy > 0) {
        poll();
        k.evaluate(err, norm2);
        for (std::size_t l = 0; l < lanes; ++l) {
            use[l] = forget[l] = back[l] = 0;
            slots[l] = 0;
            if (problem[l] < 0) continue;
            const verdict what = course[l].judge(err[l], std::sqrt(norm2[l]), options);
            if (what == verdict::converged || what == verdict::given_up) {
                if (what == verdict::converged)
                    k.finish(static_cast<int>(l), problem[l], course[l].nit(), err[l]);
                else
                    failed(problem[l], err[l], course[l].nit());
                --busy;
                fill(l);
                continue;
            }
            slots[l] = static_cast<int>(course[l].nit() % memory);
            use[l] = course[l].remembers(what);
            forget[l] = what != verdict::go_on;
            back[l] = what == verdict::go_back;
        }
        if (busy == 0) break;
        k.remember(slots, use, forget);
        k.advance(back);
        if (more) continue;
        std::vector<index> from(problem.begin(), problem.end());
        k.keep(from);  // lane l now holds what lane from[l] held; fewer lanes may be left
        const auto left = static_cast<std::size_t>(k.lanes());
        if (left == lanes) continue;
        const std::vector<scaling_course> courses(course);
        const std::vector<index> problems(problem);
        for (std::size_t l = 0; l < left; ++l) {
            const auto source = static_cast<std::size_t>(from[l]);
            course[l] = courses[source];
            problem[l] = problems[source];
        }
        lanes = left;
        course.resize(lanes);
        problem.resize(lanes);
        slots.resize(lanes);
        for (auto* v : {&err, &norm2, &use, &forget, &back}) v->resize(lanes);
    }
    k.flush();
}

// One problem that occupies all lanes.
template <class K>
concept WideKernels = requires(K& k, double& err, double& norm2, bool flag, int slot) {
    { k.evaluate(err, norm2) } -> std::same_as<bool>;  // true: the norm is a new one
    k.remember(slot, flag, flag);                      // use, forget
    k.advance(flag);                                   // back
};

struct wide_outcome {
    bool converged = false;
    double err = 0;
    index nit = 0;
};

// persists: plain steps to the iteration limit where acceleration stalls.
template <WideKernels K, class Poll>
wide_outcome solve_wide(K& k, const scaling_options& options, int memory, Poll&& poll,
                        bool persists = false) {
    scaling_course course(persists);
    for (int slot = 0;; slot = (slot + 1) % memory) {
        poll();
        double err = 0, norm2 = 0;
        const bool renewed = k.evaluate(err, norm2);
        if (renewed) course.forget();
        const verdict what = course.judge(err, std::sqrt(norm2), options);
        if (what == verdict::converged || what == verdict::given_up)
            return {what == verdict::converged, err, course.nit()};
        k.remember(slot, course.remembers(what) && !renewed, renewed || what != verdict::go_on);
        k.advance(what == verdict::go_back);
    }
}

}  // namespace aitken::drivers::ot
