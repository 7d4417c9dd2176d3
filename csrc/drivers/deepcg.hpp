// Flexible conjugate directions, written once for every backend.
//
// Per iteration, beside products with A and applications of the model (one launch each):
//   pcg        launches 4 (3 where the product brings p'Ap), reads 1, one product
//   robust     launches 7, reads 1, one product; with `enrich` launches 10 and two products
//   published  launches 6, reads 1, two products
// asserted by csrc/tests/test_deepcg.cpp. A monitor costs pcg one launch more.
//
// Directions are judged where they are made: one that cannot be used gets the coefficient zero, so that the
// host has to look once per iteration only. All aim at 0.99 of the target; then b - A x is recomputed, and
// the method goes on from x if that is above the target, three times at most.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <deque>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/api/deepcg.hpp"
#include "core/backend.hpp"
#include "core/stop.hpp"

namespace aitken::drivers::deepcg {

using namespace aitken::deepcg;

// For positive definite A, d'Ad is at least 2 / sqrt(cond A) of ||d|| ||A d|| (Kantorovich): what is below
// this share is rounding, or a null vector of A.
inline constexpr double smallest_share = 1e-12;
// A direction that lost all but this part of its norm to those before it is rounding.
inline constexpr double smallest_part = 1e-7;

// d'Ad where d can be used, else 0. `before` and `after`: ||d||^2 before and after others were taken out.
AITKEN_HD double usable_energy(double before, double after, double energy, double size) {
    const bool some = after > smallest_part * smallest_part * before;
    return some && energy > smallest_share * size && energy < std::numeric_limits<double>::infinity() ? energy
                                                                                                      : 0.0;
}
// Whether d'Ad < 0 is more than rounding; size = ||d|| ||A d||.
AITKEN_HD bool is_negative(double energy, double size) { return energy < -smallest_share * size; }

// A model of which most steps take less than this share of their gain is of no use: MIC(0) brings a quarter,
// random directions 0.0001.
inline constexpr double least_share = 0.05;
// What a direction must add to the gain of the residual alone, of the whole, for the step to leave CG's path.
inline constexpr double least_added = 0.02;

// How far to go along a direction d and along e, which is u made conjugate to d: u = e + part d.
struct pair_step {
    double first, second;  // along d, along e
};
// To the least error in the span; but along u alone where that is nearly as good, since then the steps are
// those of CG, which noise in the directions would make forget what they converge to.
AITKEN_HD pair_step choose_step(double slope, double energy, double slope_e, double energy_e, double part) {
    const double gain = energy > 0 ? slope / energy * slope : 0.0;
    const double gain_e = energy_e > 0 ? slope_e / energy_e * slope_e : 0.0;
    pair_step out{energy > 0 ? slope / energy : 0.0, energy_e > 0 ? slope_e / energy_e : 0.0};
    if (!(energy_e > 0)) return out;
    if (!(energy > 0)) part = 0;
    const double slope_u = slope_e + part * slope, energy_u = energy_e + part * part * energy;
    if (slope_u / energy_u * slope_u > (1 - least_added) * (gain + gain_e)) {
        out.second = slope_u / energy_u;
        out.first = part * out.second;
    }
    return out;
}

// What is known of a direction d of the robust form, in a backend's memory.
struct candidate {
    scalar_ref before, after;  // ||d||^2 before and after it was made conjugate to others
    scalar_ref energy, size;   // d'Ad, ||d|| ||A d||
    scalar_ref usable;         // the energy, or 0 where d is not to be used
    scalar_ref slope, gain;    // d'r; slope^2 / usable, twice what a step along d takes off the energy
};

// The passes a backend must bring; s = 8 n bytes, an axpy or a dot is 2 n flops.
template <class K>
concept DeepcgKernels = requires(K& k, index n, vec<double> v, vec<const double> c, scalar_ref s,
                                 tall<const double> block, const candidate& d) {
    { k.guarded(n, n) } -> std::same_as<tall<double>>;  // n zeros per column that A may be applied to
    k.apply(c, v);                                      // v = A c
    { k.has_model() } -> std::same_as<bool>;            // false: f = identity, `model` is not called
    k.model(c, v);                                      // v = f(c), null vectors of A taken out
    { k.has_fallback() } -> std::same_as<bool>;
    k.use_fallback();                   // which is the model from now on
    k.dot(c, c, s);                     // 2 s bytes
    k.residual(c, v, s);                // r = b - r, ||r||^2; 3 s
    k.energy(c, c, s, s);               // p'q, ||p|| ||q||; 2 s
    k.cg_residual(s, s, c, v, s);       // r -= (rz / pq) q, ||r||^2; 3 s
    k.cg_advance(s, s, c, v);           // x += (rz / pq) p; 3 s
    k.pair(c, c, c, s, s);              // z'r, z'q; 3 s
    k.turn(s, s, c, v);                 // p = z - (zq / pq) p; 3 s
    k.move(s, s, s, c, v, v);           // both of the above, p read once; 5 s
    k.normalise(s, c, v);               // u = r / sqrt(rr); 2 s
    k.inspect(c, s);                    // max |z_i|, NaN if any is not finite; s
    k.adopt(s, c, v);                   // z /= peak, or z = u where z is zero or not finite; 2 s
    k.project(block, c, v, s);          // h = (A P)'z, ||z||^2; (cols + 1) s
    k.subtract(block, c, v, v, s);      // z -= P (h / energies) where energies are not 0, ||z||^2
    k.measure(c, c, c, d);              // fills d's energy, size, usable, slope and gain; 3 s
    k.step(d, c, c, v, v, v, v, s, s);  // y = (slope / usable) d and A y; x += y, r -= A y; ||r||^2, y'Ay
    // The same for the y that choose_step finds in the span of two, given `part`; 10 s.
    k.step(d, c, c, d, c, c, s, v, v, v, v, s, s);
};

template <Backend B, DeepcgKernels K>
class solver {
public:
    solver(B& be, K& kernels, index n, const options& options, const monitor& monitor)
        : be_(be), k_(kernels), opt_(options), monitor_(monitor), n_(n) {
        r_ = vector();
        for (auto* s : {&rr_, &rz_, &rz_new_, &pq_, &zq_, &size_}) *s = be_.scalar();
    }

    // Solves from x, which has guards, and leaves the solution there.
    report run(vec<const double> b, vec<double> x) {
        b_ = b;
        x_ = x;
        k_.dot(b_, b_, rr_);
        out_.norm_b = std::sqrt(read(be_, rr_)[0]);
        out_.target = std::max(opt_.rtol * out_.norm_b, opt_.atol);
        if (out_.norm_b == 0) {
            be_.fill(x_, 0.0);
            out_.history.push_back(0);
        } else {
            solve();
        }
        out_.counts = be_.counts();
        return std::move(out_);
    }

private:
    // --- what all forms share ---

    vec<double> vector() { return {k_.guarded(n_, 1).data, n_}; }
    vec<double> column(tall<double> block, index j) { return {block.col(j), n_}; }

    void apply(vec<const double> v, vec<double> w) {
        k_.apply(v, w);
        ++out_.matvecs;
    }
    void model(vec<const double> v, vec<double> w) {
        if (k_.has_model())
            k_.model(v, w);
        else
            be_.copy(v, w);
        ++(on_fallback_ ? out_.fallback_applies : out_.model_applies);
    }

    bool give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
        return false;
    }
    // The model is at fault: the fallback takes over, or the solve ends.
    bool give_up_model(status why, std::string detail) {
        if (!may_fall_back()) return give_up(why, std::move(detail));
        fall_back_ = true;
        out_.given_up = std::move(detail);
        return false;
    }
    bool may_fall_back() const { return !on_fallback_ && opt_.form != form::published && k_.has_fallback(); }
    bool out_of_budget() const { return out_.iterations >= opt_.max_iterations; }
    double goal() const { return inner_aim * out_.target; }

    // r = b - A x and its norm, from scratch.
    void true_residual(bool zero) {
        if (zero) {
            be_.copy(b_, r_);
            k_.dot(r_, r_, rr_);
        } else {
            apply(x_, r_);
            k_.residual(b_, r_, rr_);
        }
        out_.residual = std::sqrt(read(be_, rr_)[0]);
        fresh_ = true;
    }

    // The same now and then within the recurrence, whose `norm` it corrects. False: x is as good as rounding
    // lets it become.
    bool refresh(double norm) {
        const double before = out_.residual;
        true_residual(false);
        const bool stuck = out_.residual > 1.5 * norm && out_.residual > 0.5 * before;
        stuck_ = stuck ? stuck_ + 1 : 0;
        return stuck_ < 3;
    }
    bool rounding_is_the_limit() {
        return give_up(status::stagnated, "the recomputed residual does not fall any more");
    }

    // One iteration is done: x is up to date where the monitor asks for it. False: stop here.
    bool note(double norm) {
        fresh_ = false;
        ++out_.iterations;
        out_.history.push_back(norm);
        if (!monitor_) return true;
        const double* shown = nullptr;
        if (opt_.report_x) {
            seen_.resize(static_cast<std::size_t>(n_));
            be_.download(vec<const double>(x_), seen_.data());
            shown = seen_.data();
        }
        if (monitor_({out_.iterations, norm, out_.target, shown}))
            return give_up(status::stopped_by_callback, "the callback asked to stop");
        return true;
    }

    void solve() {
        true_residual(opt_.zero_start);
        out_.history.push_back(out_.residual);
        if (!std::isfinite(out_.residual)) {
            give_up(status::nonfinite, "the first residual is not finite");
            return;
        }
        const double first = out_.residual;
        vec<double> start;
        if (!opt_.zero_start) {
            start = vector();
            be_.copy(x_, start);
        }
        iterate(opt_.form);
        if (fall_back_) {
            on_fallback_ = true;
            out_.fallback_step = out_.iterations;
            k_.use_fallback();
            iterate(form::pcg);
        }
        if (out_.status != status::stopped_by_callback && out_.residual <= out_.target) {
            out_.status = status::converged;
            out_.detail.clear();
        }
        // What broke down or stalled may have left the solution worse than it was.
        const bool broken = out_.status == status::breakdown || out_.status == status::nonfinite ||
                            out_.status == status::stagnated || out_.status == status::not_positive_definite;
        if (broken && !(out_.residual <= first)) {
            if (opt_.zero_start)
                be_.fill(x_, 0.0);
            else
                be_.copy(start, x_);
            out_.residual = first;
        }
    }

    void iterate(form how) {
        for (int attempt = 0; !(out_.residual <= out_.target); ++attempt) {
            if (attempt == 4) {
                give_up(status::stagnated, "the recomputed residual stays above the tolerance");
                return;
            }
            const bool met = how == form::pcg ? pcg() : how == form::robust ? robust() : published();
            if (!fresh_) true_residual(false);
            if (!met) return;
        }
    }

    // --- preconditioned conjugate gradients ---

    // From x and r = b - A x. True: the recurrence is below the goal. As r'p = r'z, the step along p is the
    // best there is whatever the model; conjugacy to all earlier steps needs it linear and symmetric.
    bool pcg() {
        if (p_.size == 0) {
            p_ = vector();
            q_ = vector();
        }
        if (!k_.has_model())
            z_ = r_;
        else if (z_.data == r_.data || z_.size == 0)
            z_ = vector();
        advise();
        k_.dot(r_, z_, rz_);
        be_.copy(z_, p_);
        for (index step = 1;; ++step) {
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            be_.interrupts().poll();
            k_.apply_dot(p_, q_, pq_);
            ++out_.matvecs;
            k_.cg_residual(rz_, pq_, q_, r_, rr_);
            const auto [rz, pq, rr] = read(be_, rz_, pq_, rr_);
            if (rz == 0 || pq <= 0) {
                fresh_ = false;
                const bool down = points_down();
                wipe();
                if (down) return give_up(status::not_positive_definite, "a direction p has p'Ap < 0");
                return give_up_model(status::breakdown,
                                     rz == 0 ? "the model gave a direction orthogonal to the residual"
                                             : "a direction p has p'Ap = 0");
            }
            if (!std::isfinite(rz) || !std::isfinite(pq) || !std::isfinite(rr)) {
                fresh_ = false;
                wipe();
                return give_up_model(status::nonfinite, "a product is not finite");
            }
            const double norm = std::sqrt(rr);
            const bool done = norm <= goal();
            const bool last = done || out_.iterations + 1 >= opt_.max_iterations;
            const bool renew = step % opt_.recompute == 0;
            const bool moved = monitor_ || last || renew;
            if (moved) k_.cg_advance(rz_, pq_, p_, x_);
            if (!note(norm)) return false;
            if (done) return true;
            if (last) continue;
            if (renew && !refresh(norm)) return rounding_is_the_limit();
            if (too_slow()) {
                if (!moved) k_.cg_advance(rz_, pq_, p_, x_);
                return give_up_model(status::stagnated, slow);
            }
            advise();
            k_.pair(z_, r_, q_, rz_new_, zq_);
            if (moved)
                k_.turn(zq_, pq_, z_, p_);
            else
                k_.move(rz_, pq_, zq_, z_, p_, x_);
            std::swap(rz_, rz_new_);
        }
    }
    // A step that was no number has reached entries that products do not write; x has not been moved.
    void wipe() {
        for (const vec<double>& v : {r_, p_, q_, z_})
            if (v.size > 0) be_.fill(v, 0.0);
    }
    // Whether p'Ap < 0 is more than rounding.
    bool points_down() {
        k_.energy(p_, q_, pq_, size_);
        const auto [pq, size] = read(be_, pq_, size_);
        return is_negative(pq, size);
    }
    // z = f(r).
    void advise() {
        if (k_.has_model()) model(r_, z_);
    }

    // --- the best step in a small space ---

    // From x and r = b - A x, as `pcg`. Per step the A-norm of the error is minimised over x + span{f(u),
    // [u]}, u = r / ||r||, with both made conjugate to the last steps, to which r is orthogonal. With u in
    // the span no model can do worse than steepest descent, and with one step kept little worse than CG.
    bool robust() {
        prepare();
        bool plain = false;  // this step goes along the residual: the model's direction led nowhere
        int unusable = 0;    // outputs in a row
        for (index step = 1;; ++step) {
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            be_.interrupts().poll();
            const vec<double> d = column(steps_, stored_), image = column(images_, stored_);
            k_.normalise(rr_, r_, u_);
            if (plain)
                be_.copy(u_, d);
            else
                model(u_, d);
            k_.inspect(d, peak_);
            k_.adopt(peak_, u_, d);
            examine(d, image, first_, stored_);
            if (opt_.enrich) examine(u_, u_image_, second_, stored_ + 1);
            take_step(d, image, opt_.enrich);
            const auto [peak, energy, size, gain, energy2, size2, gain2, rr] =
                read(be_, peak_, first_.energy, first_.size, first_.gain, second_.energy, second_.size,
                     second_.gain, rr_);
            const bool usable = peak > 0 && std::isfinite(peak);
            if (!usable) ++out_.replaced;
            unusable = usable ? 0 : unusable + 1;
            const bool negative = is_negative(energy, size) || (opt_.enrich && is_negative(energy2, size2));
            const double gained = gain + (opt_.enrich ? gain2 : 0.0);
            if (!(gained > 0) && !negative) {  // nothing moved
                if (!std::isfinite(energy))
                    return give_up_model(status::nonfinite, "a product is not finite");
                if (stored_ == 0 && (plain || opt_.enrich))
                    return give_up_model(status::breakdown, "no direction reduces the error");
                forget_steps();
                plain = true;
                ++out_.replaced;
                if (!refresh(std::sqrt(rr))) return rounding_is_the_limit();
                if (out_.residual <= goal()) return true;
                continue;
            }
            plain = false;
            if (gained > 0) keep_step();
            const double norm = std::sqrt(rr);
            if (!note(norm)) return false;
            if (negative) return give_up(status::not_positive_definite, "a direction d has d'Ad < 0");
            if (!std::isfinite(norm)) return give_up_model(status::nonfinite, "the residual is not finite");
            if (norm <= goal()) return true;
            if (may_fall_back()) {
                if (unusable == patience)
                    return give_up_model(status::breakdown, "its outputs are zero or not finite");
                if (opt_.enrich && useless(gain < least_share * gained))
                    return give_up_model(status::stagnated,
                                         "its directions add next to nothing to the residual itself");
                if (too_slow()) return give_up_model(status::stagnated, slow);
            }
            if (step % opt_.recompute == 0 && !refresh(norm)) return rounding_is_the_limit();
        }
    }

    // --- as published ---

    // Two products per step: the residual is made from scratch each time.
    bool published() {
        prepare();
        for (;;) {
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            be_.interrupts().poll();
            const vec<double> d = column(steps_, stored_), image = column(images_, stored_);
            k_.normalise(rr_, r_, u_);
            model(u_, d);
            examine(d, image, first_, stored_);
            take_step(d, image, false);
            apply(x_, r_);
            k_.residual(b_, r_, rr_);
            const auto [before, energy, size, gain, rr] =
                read(be_, first_.before, first_.energy, first_.size, first_.gain, rr_);
            const double norm = std::sqrt(rr);
            if (!std::isfinite(before) || !std::isfinite(energy) || !std::isfinite(norm))
                return give_up(status::nonfinite, std::isfinite(before) ? "a product is not finite"
                                                                        : "the model's output is not finite");
            if (!(gain > 0))
                return is_negative(energy, size)
                           ? give_up(status::not_positive_definite, "a direction d has d'Ad < 0")
                           : give_up(status::breakdown, "the model's direction does not reduce the error");
            keep_step();
            if (!note(norm)) return false;
            out_.residual = norm;
            fresh_ = true;
            if (norm <= out_.target) return true;
        }
    }

    // --- directions and steps ---

    void prepare() {
        forget_steps();
        idle_.clear();
        if (u_.size > 0) return;
        const index columns = opt_.n_previous + 1;  // the last steps, and the direction in the making
        u_ = vector();
        steps_ = k_.guarded(n_, columns);
        images_ = k_.guarded(n_, columns);
        energies_ = be_.template allocate<double>(columns + 1);
        h_ = be_.template allocate<double>(columns);
        if (opt_.enrich) u_image_ = vector();
        peak_ = be_.scalar();
        for (auto* d : {&first_, &second_})
            for (auto* s : {&d->before, &d->after, &d->energy, &d->size, &d->slope, &d->gain})
                *s = be_.scalar();
    }

    scalar_ref energy_of(index j) { return scalar_ref(energies_.data + j); }

    // Makes d conjugate to the first `count` columns, and sees what a step along it would do.
    void examine(vec<double> d, vec<double> image, candidate& c, index count) {
        c.usable = energy_of(count);
        k_.project(images_.first(count), d, h_, c.before);
        k_.subtract(steps_.first(count), energies_.slice(0, count), h_, d, c.after);
        apply(d, image);
        k_.measure(d, image, r_, c);
    }
    // The step takes the place of the direction, or of the oldest step.
    void take_step(vec<double> d, vec<double> image, bool both) {
        const index to = stored_ < opt_.n_previous ? stored_ : oldest_;
        const vec<double> step = column(steps_, to), step_image = column(images_, to);
        if (both)
            k_.step(first_, d, image, second_, u_, u_image_, scalar_ref(h_.data + stored_), step, step_image,
                    x_, r_, rr_, energy_of(to));
        else
            k_.step(first_, d, image, step, step_image, x_, r_, rr_, energy_of(to));
    }
    void keep_step() {
        if (stored_ < opt_.n_previous)
            ++stored_;
        else if (opt_.n_previous > 0)
            oldest_ = (oldest_ + 1) % opt_.n_previous;
    }
    void forget_steps() { stored_ = oldest_ = 0; }

    // --- is the model worth its time? ---

    // Whether, of the last `window` steps, most gained more along the residual than along what the model
    // gave.
    bool useless(bool beaten) {
        if (opt_.window == 0) return false;
        idle_.push_back(beaten);
        if (static_cast<int>(idle_.size()) > opt_.window) idle_.pop_front();
        const auto count = std::count(idle_.begin(), idle_.end(), true);
        return static_cast<int>(idle_.size()) == opt_.window && 2 * count > opt_.window;
    }
    // Whether more than `window` further steps are needed at the rate of the last `window`.
    bool too_slow() const {
        const auto window = static_cast<std::size_t>(opt_.window);
        if (window == 0 || !opt_.fast_fallback || !may_fall_back() || out_.history.size() <= window)
            return false;
        const double now = out_.history.back(), then = out_.history[out_.history.size() - 1 - window];
        // At the rate of the window, as many steps as a third of it has.
        return 3 * std::log(now / goal()) > std::log(then / now);
    }

    static constexpr int patience = 3;  // unusable outputs in a row
    static constexpr const char* slow = "at its rate it would need more steps than the fallback";

    B& be_;
    K& k_;
    const options opt_;
    const monitor& monitor_;
    const index n_;
    report out_;
    vec<const double> b_;
    vec<double> x_, r_;
    bool fresh_ = false;  // out_.residual is x's
    bool fall_back_ = false, on_fallback_ = false;
    int stuck_ = 0;
    std::vector<double> seen_;
    scalar_ref rr_;
    // pcg
    vec<double> p_, q_, z_;
    scalar_ref rz_, rz_new_, pq_, zq_, size_;
    // robust and published
    vec<double> u_, u_image_, energies_, h_;
    tall<double> steps_,
        images_;  // columns 0 .. stored_: the last steps and their images, then the new one's
    index stored_ = 0, oldest_ = 0;
    scalar_ref peak_;
    candidate first_, second_;
    std::deque<char> idle_;
};

}  // namespace aitken::drivers::deepcg
