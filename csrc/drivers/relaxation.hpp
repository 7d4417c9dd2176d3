// Successive over-relaxation, and CG with its symmetric form as preconditioner, written once for every
// backend. A = L + D + U in the order of the sweep, N = D/w + L, N' = D/w + U.
//
// SOR. A sweep solves N dx = r, hence r_new = r - A dx = ((1/w - 1) D - U) dx. The next sweep forms U x
// anyway, so it finds the norm of the residual before it for two vectors' traffic instead of a product: that
// an iterate has converged is known one sweep later (`before2` below). Per sweep 1 launch for each level and
// kernel of the sweep, reads 1 per B::check_every sweeps.
//
// CG in Eisenstat's form (S. C. Eisenstat 1981) works with N^-1 A N'^-1 = N'^-1 + N^-1 (I - (2/w - 1) D
// N'^-1), preconditioned by D: one solve with each triangle per iteration, no product with A. Per iteration
// launches 3 (on levels: 2 per level, and 1), reads 1; looking at the true norm: 1 and 1.
// Asserted by csrc/tests/test_relaxation.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "core/api/relaxation.hpp"
#include "core/backend.hpp"
#include "core/stop.hpp"

namespace aitken::drivers::relaxation {

using namespace aitken::relaxation;

// Vectors have their entries in the order that the kernels chose.
template <class K>
concept SorKernels = requires(K& k, direction half, double omega, bool first, vec<const double> b,
                              vec<const double> c, vec<double> x, scalar_ref s) {
    k.residual(b, c, s);  // ||b - A c||^2
    // One sweep, forward or backward. before2 = ||b - A x||^2 of the x that it met, unless `first`: then the
    // sweep before was not of this direction, or x was changed since. change2 = ||x_new - x||^2.
    k.sweep(half, omega, first, b, x, s, s);
};

template <class K>
concept EisenstatKernels = requires(K& k, double omega, vec<const double> c, vec<double> v, scalar_ref s) {
    k.residual_vector(c, c, v, s);         // r = b - A x, ||r||^2
    k.lower_solve(omega, c, v, s);         // v = N^-1 c, v' D v
    k.direction_of(omega, s, s, c, v, v);  // p = D r + (s / s) p, t = N'^-1 p
    k.image(omega, c, c, v, s);            // w = N^-1 (p - (2/w - 1) D t), p' (t + w)
    k.advance(s, s, c, c, v, v,
              s);               // x += f t, r -= f (t + w), r' D r; f = s / s, or 0 unless that divisor > 0
    k.lower_norm(omega, c, s);  // ||N r||^2
};

template <Backend B, SorKernels K>
class sor_solver {
public:
    sor_solver(B& be, K& kernels, const sor_options& options, const monitor& monitor)
        : be_(be), k_(kernels), opt_(options), monitor_(monitor), norm2_(be.scalar()) {
        // The residual comes with the next sweep only where that has the same direction, and a caller who
        // looks on wants the x that a residual belongs to.
        fused_ = opt_.check_every == 0 && opt_.sweep != direction::symmetric && !monitor_;
        stride_ = fused_ ? (opt_.adaptive ? index{1} : index{B::check_every})
                         : std::max<index>(opt_.check_every, 1);
        const index slots = fused_ ? stride_ : 1;
        for (index j = 0; j < slots; ++j) {
            before_.push_back(be.scalar());
            change_.push_back(be.scalar());
        }
        out_.omega = opt_.omega;
    }

    // Solves from x and leaves the solution there.
    report run(vec<const double> b, vec<double> x) {
        b_ = b;
        x_ = x;
        be_.dot(b_, b_, norm2_);
        out_.norm_b = std::sqrt(read(be_, norm2_)[0]);
        if (!fused_ && !monitor_ && opt_.check_every == 0 && x.size >= large) stride_ = 2;
        start_ = be_.template allocate<double>(x.size);
        be_.copy(x_, start_);
        const double first = look();
        note(first);
        out_.target = std::max(opt_.rtol * (opt_.norm == reference::b ? out_.norm_b : first), opt_.atol);
        if (out_.norm_b == 0 && opt_.norm == reference::b) {
            be_.fill(x_, 0.0);
            out_.residual = 0;
        } else if (!std::isfinite(first)) {
            give_up(status::nonfinite, "the first residual is not finite");
        } else if (first > out_.target) {
            sweep_until_done(first);
        }
        out_.counts = be_.counts();
        return std::move(out_);
    }

private:
    static constexpr index large = 10000;  // rows from which a product per symmetric sweep is saved up
    static constexpr double blow_up = 1e8;

    // The true norm of the residual; costs a product.
    double look() {
        k_.residual(b_, x_, norm2_);
        ++out_.matvecs;
        return out_.residual = std::sqrt(read(be_, norm2_)[0]);
    }

    void give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
    }

    void sweep_until_done(double first) {
        const double limit = blow_up * first;
        bool fresh = true;  // no sweep yet whose residual the next one could find
        while (out_.sweeps < opt_.max_sweeps) {
            be_.interrupts().poll();
            const index count = std::min(stride_, opt_.max_sweeps - out_.sweeps);
            for (index j = 0; j < count; ++j)
                sweep_once(static_cast<std::size_t>(fused_ ? j : 0), fresh || !fused_);
            if (fused_ ? met_before(count, fresh, limit) : met_now(limit)) return;
            fresh = false;
        }
        out_.iterations = out_.sweeps;
        if (known_ < out_.sweeps) note(look());
        if (!std::isfinite(out_.residual) || out_.residual > limit)
            diverged(out_.residual);
        else if (!(out_.residual <= out_.target))
            give_up(status::max_iterations, "the sweeps are used up");
    }

    void sweep_once(std::size_t slot, bool fresh) {
        if (opt_.sweep != direction::backward)
            k_.sweep(direction::forward, out_.omega, fresh, b_, x_, before_[slot], change_[slot]);
        if (opt_.sweep != direction::forward)
            k_.sweep(direction::backward, out_.omega, fresh, b_, x_, before_[slot], change_[slot]);
        ++out_.sweeps;
        if (opt_.adaptive) adapt();
    }

    // The norm of the residual of the next iterate whose norm is not known.
    void note(double norm) {
        out_.history.push_back(norm);
        last_norm_ = std::exchange(norm_, norm);
    }
    // Whether the next iterates may meet the target, if the residual falls as it did. Then the last one is
    // looked at; where it falls faster than that, x has had a sweep more than counted.
    bool foreseen() const {
        const double rate = std::min(norm_ / last_norm_, 1.0);
        return out_.history.size() < 3 || norm_ * rate * rate <= out_.target;
    }

    // The residuals that the last `count` sweeps have found, each of the iterate before. True: stop.
    bool met_before(index count, bool fresh, double limit) {
        std::vector<double> norms(static_cast<std::size_t>(count));
        be_.read_many(std::span(before_.data(), norms.size()), norms.data());
        for (index j = fresh ? 1 : 0; j < count; ++j) {
            const index iterate = out_.sweeps - count + j;
            if (iterate <= known_) continue;
            known_ = iterate;
            const double norm = std::sqrt(norms[static_cast<std::size_t>(j)]);
            if (!std::isfinite(norm) || norm > limit) return blown_up(norm);
            note(norm);
            // x has been swept since, which as a rule made it better; if not, go on.
            if (norm <= out_.target && look() <= out_.target) {
                out_.iterations = iterate;
                return true;
            }
        }
        if (!foreseen()) return false;
        known_ = out_.sweeps;
        const double norm = look();
        if (!std::isfinite(norm) || norm > limit) return blown_up(norm);
        note(norm);
        out_.iterations = out_.sweeps;
        return norm <= out_.target;
    }

    bool met_now(double limit) {
        const bool expected = foreseen();
        const double norm = look();
        out_.iterations = known_ = out_.sweeps;
        if (!std::isfinite(norm) || norm > limit) return blown_up(norm);
        note(norm);
        if (monitor_) {
            const double* shown = nullptr;
            if (opt_.report_x) {
                seen_.resize(static_cast<std::size_t>(x_.size));
                be_.download(vec<const double>(x_), seen_.data());
                shown = seen_.data();
            }
            if (monitor_({out_.iterations, norm, out_.target, shown}) && norm > out_.target) {
                give_up(status::stopped_by_callback, "the callback asked to stop");
                return true;
            }
        }
        if (norm > out_.target) return false;
        // Without a monitor this would have come out a sweep later: the answer is the same with one.
        if (monitor_ && opt_.check_every == 0 && opt_.sweep != direction::symmetric && !expected) {
            sweep_once(0, true);
            look();
        }
        return out_.residual <= out_.target;
    }

    bool blown_up(double norm) {
        out_.iterations = out_.sweeps;
        diverged(norm);
        return true;
    }

    // What blew up is not given back: the start is.
    void diverged(double norm) {
        give_up(status::diverged, std::isfinite(norm) ? "the residual has grown by a factor of 1e8"
                                                      : "the residual is not finite");
        be_.copy(start_, x_);
        out_.residual = out_.history.front();
    }

    // After Hageman and Young: the ratio of successive changes is the spectral radius, once it has settled
    // (over two sweeps: over one, it often only seems so on large grids); omega follows from it. On the far
    // side of the optimum that radius is omega - 1 and tells nothing, so omega is only ever raised.
    void adapt() {
        const double change = std::sqrt(read(be_, change_[0])[0]);
        const double ratio = change / last_change_, moved = std::fabs(ratio - last_ratio_);
        const double last_moved = std::exchange(last_moved_, moved);
        last_change_ = change;
        last_ratio_ = ratio;
        ++swept_;
        const double omega = out_.omega;
        if (swept_ < 5 || !(ratio < 1) || !(ratio > std::pow(std::max(omega - 1, 0.0), 0.75)) ||
            !(std::max(moved, last_moved) < 0.05 * (1 - ratio)))
            return;
        const double mu2 = (ratio + omega - 1) * (ratio + omega - 1) / (omega * omega * ratio);
        if (!(mu2 < 1)) return;
        out_.mu = std::sqrt(mu2);
        const double better = 2 / (1 + std::sqrt(1 - mu2));
        if (!(better > omega + 0.05 * (2 - omega))) return;
        out_.omega = better;
        swept_ = 0;
        last_change_ = last_ratio_ = last_moved_ = std::numeric_limits<double>::quiet_NaN();
    }

    B& be_;
    K& k_;
    const sor_options& opt_;
    const monitor& monitor_;
    report out_;
    vec<const double> b_;
    vec<double> x_, start_;
    scalar_ref norm2_;
    std::vector<scalar_ref> before_, change_;  // of the sweeps between two looks
    std::vector<double> seen_;
    bool fused_ = false;
    index stride_ = 1, known_ = 0;  // known: the last iterate whose residual is in the history
    double norm_ = 0, last_norm_ = 0;
    // Of the adaptive method.
    index swept_ = 0;  // since omega was changed
    double last_change_ = std::numeric_limits<double>::quiet_NaN();
    double last_ratio_ = std::numeric_limits<double>::quiet_NaN();
    double last_moved_ = std::numeric_limits<double>::quiet_NaN();
};

template <Backend B, EisenstatKernels K>
class eisenstat_solver {
public:
    eisenstat_solver(B& be, K& kernels, const ssor_options& options, const monitor& monitor)
        : be_(be), k_(kernels), opt_(options), monitor_(monitor) {
        for (auto* s : {&norm2_, &rz_, &rz_new_, &pq_}) *s = be.scalar();
        out_.omega = opt_.omega;
    }

    report run(vec<const double> b, vec<double> x) {
        b_ = b;
        x_ = x;
        for (auto* v : {&r_, &p_, &t_, &w_}) *v = be_.template allocate<double>(x.size);
        be_.dot(b_, b_, norm2_);
        out_.norm_b = std::sqrt(read(be_, norm2_)[0]);
        out_.target = std::max(opt_.rtol * out_.norm_b, opt_.atol);
        if (out_.norm_b == 0) {
            be_.fill(x_, 0.0);
            out_.history.push_back(0);
        } else {
            iterate();
        }
        out_.counts = be_.counts();
        return std::move(out_);
    }

private:
    void true_residual() {
        k_.residual_vector(b_, x_, w_, norm2_);
        ++out_.matvecs;
        out_.residual = std::sqrt(read(be_, norm2_)[0]);
    }
    bool give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
        return false;
    }

    void iterate() {
        true_residual();
        const double first = out_.residual;
        out_.history.push_back(first);
        if (!std::isfinite(first)) {
            give_up(status::nonfinite, "the first residual is not finite");
            return;
        }
        const vec<double> start = be_.template allocate<double>(x_.size);
        be_.copy(x_, start);
        for (int attempt = 0; out_.status == status::converged && out_.residual > out_.target; ++attempt) {
            if (attempt == 4) {
                give_up(status::stagnated, "the recomputed residual stays above the tolerance");
                break;
            }
            descend();
            true_residual();
        }
        if (out_.status != status::stopped_by_callback && out_.residual <= out_.target) {
            out_.status = status::converged;
            out_.detail.clear();
        }
        if (out_.status == status::nonfinite && !(out_.residual <= first)) {
            be_.copy(start, x_);
            out_.residual = first;
        }
    }

    // From x and its residual in w. True: the residual of the recurrence is below the goal.
    bool descend() {
        const double goal = inner_aim * out_.target;
        k_.lower_solve(opt_.omega, w_, r_, rz_);
        be_.fill(p_, 0.0);
        double size = read(be_, rz_)[0];
        // What is at hand is |D^1/2 N^-1 r|; its ratio to the norm asked for drifts slowly.
        double ratio = out_.residual / std::sqrt(size), looked_at = std::sqrt(size);
        for (bool begun = false;; begun = true) {
            if (out_.iterations >= opt_.max_iterations)
                return give_up(status::max_iterations, "the iteration budget is spent");
            be_.interrupts().poll();
            k_.direction_of(opt_.omega, rz_, begun ? rz_new_ : rz_, r_, p_, t_);
            k_.image(opt_.omega, p_, t_, w_, pq_);
            k_.advance(rz_, pq_, t_, w_, x_, r_, rz_new_);
            std::swap(rz_, rz_new_);
            const auto [rz, pq, before] = read(be_, rz_, pq_, rz_new_);
            if (!std::isfinite(rz) || !std::isfinite(pq))
                return give_up(status::nonfinite, "a product is not finite");
            if (!(pq > 0) || !(before > 0))
                return give_up(status::not_positive_definite,
                               before > 0 ? "a direction p has p' A p <= 0" : "a residual r has r' M r <= 0");
            ++out_.iterations;
            const double near = std::sqrt(std::max(rz, 0.0));
            double norm = ratio * near;
            if (norm <= look_below * goal || near <= 0.1 * looked_at || near == 0) {
                k_.lower_norm(opt_.omega, r_, norm2_);
                norm = std::sqrt(read(be_, norm2_)[0]);
                if (near > 0) ratio = norm / near;
                looked_at = near;
            }
            out_.history.push_back(norm);
            if (monitor_ && monitor_({out_.iterations, norm, out_.target, shown()}) && norm > goal)
                return give_up(status::stopped_by_callback, "the callback asked to stop");
            if (norm <= goal) return true;
        }
    }
    static constexpr double look_below = 3;

    const double* shown() {
        if (!opt_.report_x) return nullptr;
        seen_.resize(static_cast<std::size_t>(x_.size));
        be_.download(vec<const double>(x_), seen_.data());
        return seen_.data();
    }

    B& be_;
    K& k_;
    const ssor_options& opt_;
    const monitor& monitor_;
    report out_;
    vec<const double> b_;
    vec<double> x_, r_, p_, t_, w_;  // r: N^-1 (b - A x)
    scalar_ref norm2_, rz_, rz_new_, pq_;
    std::vector<double> seen_;
};

}  // namespace aitken::drivers::relaxation
