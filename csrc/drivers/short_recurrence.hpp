// CG, MINRES and BiCGSTAB, and recycled CG and MINRES, written once for every backend.
//
// Per iteration, beside the product with A and the application of M (one launch each):
//   cg        launches 3 (with M 4), reads 1
//   minres    launches 4 (with M 6), reads 1 (with M 2: the residual's own norm)
//   bicgstab  launches 6, reads 2
//   recycling adds 2 launches in cg (gathering directions: 2, with M 3 more), 6 in minres; no read
// asserted by csrc/tests/test_short_recurrence.cpp. A monitor costs cg one launch more.
//
// All aim at 0.99 of the target; then b - A x is recomputed, and the method goes on from x if that is above
// the target, three times at most.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <concepts>
#include <cstddef>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/api/short_recurrence.hpp"
#include "core/backend.hpp"
#include "core/stop.hpp"
#include "dense/small.hpp"

namespace aitken::drivers::short_recurrence {

using namespace aitken::short_recurrence;

// A number of type S in a backend's memory; `im` is unused where S is real.
struct scalar_pair {
    scalar_ref re, im;
};

// The fused passes a backend must bring. n is the order of the system, s = n sizeof(S) bytes; an axpy or a
// dot is 2 n flops (complex: four times that). Coefficients of CG and MINRES are real, also where S is
// complex.
template <class K, class S>
concept ShortRecurrenceKernels =
    requires(K& k, vec<S> v, vec<const S> c, scalar_ref s, double t, S value, scalar_pair z, tall<S> block,
             tall<const S> cblock, S* host, index ld, dense::small_matrix<S>& small, bool flag) {
        k.apply(c, v);                                 // v = (A - shift I) c
        k.precondition(c, v);                          // v = M c
        { k.preconditioned() } -> std::same_as<bool>;  // false: M = I, `precondition` is not called
        k.apply_block(cblock, block);                  // the same two, column by column
        k.precondition_block(cblock, block);           //
        k.dot(c, c, s);                                // Re x^H y; 2 s bytes
        k.residual(c, v, s);                           // r = b - r, ||r||^2; 3 s
        k.cg_residual(s, s, c, v, s);                  // r -= (rz / pq) q, ||r||^2; 3 s
        k.cg_advance(s, s, c, v);                      // x += (rz / pq) p; 3 s
        k.cg_direction(s, s, c, v);                    // p = z + (rz / rz_old) p; 3 s
        k.cg_move(s, s, s, c, v, v);                   // both, p read once; 5 s
        k.scale(t, c, v);                              // v = t c; 2 s
        k.lanczos_diagonal(t, c, c, v, s);             // y -= t older, Re v^H y; 4 s
        k.lanczos_next(s, t, c, v, s);                 // y -= s t old, ||y||^2; 3 s
        k.minres_step(t, t, t, t, c, c, c, v, v);      // w = (v - e w1 - d w2) g, x += f w; 6 s
        k.minres_residual(t, t, c, v, s);              // r = t r + u v, ||r||^2; 3 s
        k.shadow(c, c, z);                             // x^H y; 2 s
        k.bicg_half(z, z, c, c, v, s);                 // q = r - (rho / rv) v, ||q||^2; 3 s
        k.bicg_pair(c, c, z, s);                       // t^H q, ||t||^2; 2 s
        k.bicg_residual(z, s, c, c, c, v, s, z);       // r = q - w t, ||r||^2, shadow^H r; 4 s
        k.bicg_advance(value, c, value, c, v);         // x += a p + w q; 4 s
        k.bicg_direction(value, value, c, c, v);       // p = r + b (p - w v); 4 s
        k.project(cblock, c, v);                       // h = C^H c; h has as many entries as C columns
        k.combine(cblock, c, t, v);                    // y += t C h
        k.small_step(t, t, t, t, c, c, c, v, v);       // minres_step on vectors of a few entries
        k.store(t, c, block, ld);                      // column ld = t c
        k.gram(cblock, cblock, host, ld);              // X^H Y, to the host: one read
        k.mix(cblock, host, ld, block, flag);          // Z (+)= X P, P from the host
        { k.eigenvectors(small) } -> std::same_as<std::vector<double>>;  // ascending; the vectors replace it
    };

template <class S, Backend B, ShortRecurrenceKernels<S> K>
class solver {
public:
    using monitor = aitken::krylov::monitor<S>;
    using space = aitken::krylov::space<S>;
    using small = dense::small_matrix<S>;

    solver(B& be, K& kernels, index n, const options& options, const monitor& monitor)
        : be_(be), k_(kernels), opt_(options), monitor_(monitor), n_(n), with_m_(kernels.preconditioned()) {
        r_ = vector(n_);
        for (auto* s : {&rr_, &rz_, &rz_new_, &pq_, &alpha_, &beta2_, &tt_, &qq_}) *s = be_.scalar();
        for (auto* z : {&rho_, &rho_new_, &rv_, &ts_}) *z = {be_.scalar(), be_.scalar()};
    }

    // Solves from x and leaves the solution there.
    report run(vec<const S> b, vec<S> x, space& kept, bool same_matrix) {
        b_ = b;
        x_ = x;
        k_.dot(b_, b_, rr_);
        out_.norm_b = std::sqrt(read(be_, rr_)[0]);
        out_.target = std::max(opt_.rtol * out_.norm_b, opt_.atol);
        if (out_.norm_b == 0) {
            be_.fill(flat(x_), 0.0);
            out_.history.push_back(0);
        } else {
            iterate(kept, same_matrix);
        }
        out_.counts = be_.counts();
        return std::move(out_);
    }

private:
    // --- what all methods share ---

    vec<S> vector(index n) { return be_.template allocate<S>(n); }
    tall<S> columns(index count) { return {vector(n_ * count).data, n_, count, n_}; }
    static vec<double> flat(vec<S> v) {
        return {reinterpret_cast<double*>(v.data), v.size * index(sizeof(S) / sizeof(double))};
    }
    static vec<const double> flat(vec<const S> v) {
        return {reinterpret_cast<const double*>(v.data), v.size * index(sizeof(S) / sizeof(double))};
    }
    void copy(vec<const S> from, vec<S> to) { be_.copy(flat(from), flat(to)); }

    void apply(vec<const S> v, vec<S> w) {
        k_.apply(v, w);
        ++out_.matvecs;
    }
    void precondition(vec<const S> v, vec<S> w) {
        k_.precondition(v, w);
        ++out_.precond_applies;
    }

    bool give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
        return false;
    }
    bool out_of_budget() const { return out_.iterations >= opt_.max_iterations; }
    double goal() const { return inner_aim * out_.target; }

    // r = b - A x and its norm, from scratch.
    void true_residual(bool zero) {
        if (zero) {
            copy(b_, r_);
            k_.dot(r_, r_, rr_);
        } else {
            apply(x_, r_);
            k_.residual(b_, r_, rr_);
        }
        out_.residual = std::sqrt(read(be_, rr_)[0]);
        fresh_ = true;
    }

    // One iteration is done: x is up to date where the monitor asks for it. False: stop here.
    bool note(double norm) {
        fresh_ = false;
        ++out_.iterations;
        out_.history.push_back(norm);
        if (!monitor_) return true;
        const S* shown = nullptr;
        if (opt_.report_x) {
            seen_.resize(static_cast<std::size_t>(n_));
            be_.download(flat(vec<const S>(flush_for_monitor())), reinterpret_cast<double*>(seen_.data()));
            shown = seen_.data();
        }
        if (monitor_({out_.iterations, norm, out_.target, true, shown}))
            return give_up(status::stopped_by_callback, "the callback asked to stop");
        return true;
    }

    void iterate(space& kept, bool same_matrix) {
        true_residual(opt_.zero_start);
        out_.history.push_back(out_.residual);
        if (!std::isfinite(out_.residual)) {
            give_up(status::nonfinite, "the first residual is not finite");
            return;
        }
        if (opt_.recycle) prepare(kept, same_matrix);
        gathering_ = opt_.recycle;
        const double first = out_.residual;
        vec<S> start;
        if (!opt_.zero_start) {
            start = vector(n_);
            copy(x_, start);
        }
        for (int attempt = 0; out_.status == status::converged; ++attempt) {
            if (out_.residual <= out_.target) break;
            if (attempt == 4) {
                give_up(status::stagnated, "the recomputed residual stays above the tolerance");
                break;
            }
            switch (opt_.method) {
                case method::cg:
                    cg();
                    break;
                case method::minres:
                    minres();
                    break;
                case method::bicgstab:
                    bicgstab();
            }
            flush();
            if (!fresh_) true_residual(false);
            gathering_ = false;
        }
        if (out_.status != status::stopped_by_callback && out_.residual <= out_.target) {
            out_.status = status::converged;
            out_.detail.clear();
        }
        // What broke down may have left the solution worse than it was.
        const bool broken = out_.status == status::breakdown || out_.status == status::nonfinite;
        if (broken && !(out_.residual <= first)) {
            if (opt_.zero_start)
                be_.fill(flat(x_), 0.0);
            else
                copy(start, x_);
            out_.residual = first;
        }
        if (opt_.recycle) keep(kept);
    }

    // --- conjugate gradients ---

    // From x and r = b - A x. True: the recurrence is below the goal.
    bool cg() {
        if (p_.size == 0) {
            p_ = vector(n_);
            q_ = vector(n_);
            z_ = with_m_ ? vector(n_) : r_;
        }
        if (deflated()) {
            deflate_residual();
            if (solved_by_projection()) return true;
        }
        if (with_m_) {
            precondition(r_, z_);
            if (gathering_) k_.store(1.0, z_, window_z_, 0);
        }
        k_.dot(r_, z_, rz_);
        copy(z_, p_);
        if (deflated()) a_orthogonalise();
        for (index step = 1;; ++step) {
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            be_.interrupts().poll();
            apply(p_, q_);
            k_.dot(p_, q_, pq_);
            // Without M, (r, z) is ||r||^2.
            const scalar_ref next = with_m_ ? rr_ : rz_new_;
            k_.cg_residual(rz_, pq_, q_, r_, next);
            const auto [rz, pq, rr] = read(be_, rz_, pq_, next);
            if (!std::isfinite(rz) || !std::isfinite(pq) || !std::isfinite(rr)) {
                fresh_ = false;
                return give_up(status::nonfinite, "a product is not finite");
            }
            if (!(pq > 0) || !(rz > 0)) {
                fresh_ = false;
                return give_up(status::not_positive_definite,
                               rz > 0 ? "a direction p has p^H A p <= 0" : "a residual r has r^H M r <= 0");
            }
            const double norm = std::sqrt(rr);
            const bool done = norm <= goal();
            const bool last = done || out_.iterations + 1 >= opt_.max_iterations;
            gathering_ = gathering_ && directions_ < opt_.window && !(last && with_m_);
            if (gathering_) take_direction(pq, rz / pq);
            const bool moved = monitor_ || last;
            if (moved) k_.cg_advance(rz_, pq_, p_, x_);
            if (!note(norm)) return false;
            if (done) return true;
            if (last) continue;
            if (deflated() && step % 50 == 0) deflate_residual();
            if (with_m_) {
                precondition(r_, z_);
                k_.dot(r_, z_, rz_new_);
                if (gathering_) k_.store(1.0, z_, window_z_, directions_);
            }
            if (moved)
                k_.cg_direction(rz_new_, rz_, z_, p_);
            else
                k_.cg_move(rz_, pq_, rz_new_, z_, p_, x_);
            if (deflated()) a_orthogonalise();
            std::swap(rz_, rz_new_);
        }
    }

    bool deflated() const { return u_.cols > 0; }

    // x += W W^H r, r -= A W W^H r.
    void deflate_residual() {
        k_.project(u_, r_, h_);
        k_.combine(u_, h_, 1.0, x_);
        k_.combine(c_, h_, -1.0, r_);
        fresh_ = false;
    }
    // p -= W (A W)^H z, with z in p or, later, the part that p took of it.
    void a_orthogonalise() {
        k_.project(c_, z_, h_);
        k_.combine(u_, h_, -1.0, p_);
    }

    bool solved_by_projection() {
        k_.dot(r_, r_, rr_);
        return std::sqrt(read(be_, rr_)[0]) <= goal();
    }

    // Direction p, scaled to p^H A p = 1, and A p; M A p = (z - z_next) / alpha is made at the end.
    void take_direction(double pq, double alpha) {
        const double scale = 1 / std::sqrt(pq);
        k_.store(scale, p_, window_, directions_);
        k_.store(scale, q_, window_image_, directions_);
        window_scale_.push_back(scale / alpha);
        ++directions_;
    }

    // --- minimal residuals ---

    // Lanczos on M A, or on the projected (I - C (M C)^H) A, with the solution by short recurrence
    // (Paige, Saunders 1975; recycling: Wang, de Sturler, Paulino 2007).
    bool minres() {
        if (v_.size == 0) {
            for (auto* p : {&v_, &t_, &r1_, &r2_, &w_, &w1_, &w2_}) *p = vector(n_);
            y_ = with_m_ ? vector(n_) : vec<S>{};
        }
        if (deflated()) {
            k_.project(mc_, r_, h_);
            k_.combine(u_, h_, 1.0, x_);
            k_.combine(c_, h_, -1.0, r_);
            fresh_ = false;
            for (auto* p : {&hw_, &hw1_, &hw2_, &hx_}) be_.fill(flat(*p), 0.0);
            if (solved_by_projection()) return true;
        }
        for (auto* p : {&w_, &w1_, &w2_, &r1_}) be_.fill(flat(*p), 0.0);
        copy(r_, r2_);
        if (with_m_) precondition(r2_, y_);
        k_.dot(r2_, lifted(), beta2_);
        const double first = read(be_, beta2_)[0];
        if (!std::isfinite(first)) return give_up(status::nonfinite, "a product is not finite");
        if (!(first > 0)) return give_up(status::not_positive_definite, "a residual r has r^H M r <= 0");
        double beta = std::sqrt(first), old_beta = 0, phi_bar = beta, d_bar = 0, epsilon = 0, cs = -1, sn = 0;
        double size2 = 0;  // ||T||_F^2, which bounds ||A||^2 from below
        position_ = 0;
        for (;;) {
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            be_.interrupts().poll();
            k_.scale(1 / beta, lifted(), v_);
            if (opt_.recycle) open_step(beta, old_beta);
            apply(v_, t_);
            if (opt_.recycle) k_.store(1.0, t_, window_image_, position_);
            if (deflated()) {
                k_.project(mc_, t_, h_);
                k_.combine(c_, h_, -1.0, t_);
            }
            k_.lanczos_diagonal(old_beta > 0 ? beta / old_beta : 0.0, r1_, v_, t_, alpha_);
            k_.lanczos_next(alpha_, 1 / beta, r2_, t_, beta2_);
            std::swap(r1_, r2_);
            std::swap(r2_, t_);
            if (with_m_) {
                precondition(r2_, y_);
                k_.dot(r2_, y_, beta2_);
            }
            const auto [alpha, next2] = read(be_, alpha_, beta2_);
            if (!std::isfinite(alpha) || !std::isfinite(next2)) {
                fresh_ = false;
                return give_up(status::nonfinite, "a product is not finite");
            }
            size2 += alpha * alpha + beta * beta * (old_beta > 0 ? 2 : 0);
            const double size = std::sqrt(size2 + std::max(next2, 0.0));
            constexpr double eps = std::numeric_limits<double>::epsilon();
            if (next2 < -16 * eps * size * size) {
                fresh_ = false;
                return give_up(status::not_positive_definite, "a residual r has r^H M r < 0");
            }
            old_beta = beta;
            beta = std::sqrt(std::max(next2, 0.0));
            const bool exhausted = beta <= 4 * eps * size;  // the Krylov space is invariant

            const double old_epsilon = epsilon, delta = cs * d_bar + sn * alpha;
            const double g_bar = sn * d_bar - cs * alpha;
            epsilon = sn * beta;
            d_bar = -cs * beta;
            const double gradient = std::hypot(g_bar, d_bar);  // ||A r|| / ||r|| of the step before
            const double gamma = std::hypot(g_bar, beta);
            if (opt_.recycle) close_step(alpha, beta);
            if (gradient <= 100 * eps * size) {  // a step would add noise: gamma may vanish as well
                if (opt_.recycle) harvest_window(exhausted);
                return give_up(status::stagnated, "a least-squares solution: A r = 0 to rounding");
            }
            cs = g_bar / gamma;
            sn = beta / gamma;
            const double phi = cs * phi_bar, kept = sn * sn, added = phi_bar * sn * cs;
            phi_bar *= sn;
            std::swap(w1_, w2_);
            std::swap(w2_, w_);
            k_.minres_step(old_epsilon, delta, 1 / gamma, phi, v_, w1_, w2_, w_, x_);
            if (deflated()) {
                std::swap(hw1_, hw2_);
                std::swap(hw2_, hw_);
                k_.small_step(old_epsilon, delta, 1 / gamma, phi, h_, hw1_, hw2_, hw_, hx_);
            }
            double norm = phi_bar;
            if (with_m_) {  // phi_bar is the residual in the norm of M; its vector gives the 2-norm
                k_.minres_residual(kept, exhausted ? 0.0 : -added / beta, r2_, r_, rr_);
                norm = std::sqrt(read(be_, rr_)[0]);
            }
            const bool done = norm <= goal() || exhausted;
            if (!note(norm)) return false;
            if (opt_.recycle && (position_ == opt_.window || done || out_of_budget()))
                harvest_window(exhausted);
            if (done) return true;
        }
    }
    vec<S> lifted() const { return with_m_ ? y_ : r2_; }

    // x -= U (C^H M A dx): what the projection took from the steps, due before anybody looks at x.
    void flush() {
        if (opt_.method != method::minres || !deflated() || hx_.size == 0) return;
        k_.combine(u_, hx_, -1.0, x_);
        be_.fill(flat(hx_), 0.0);
    }
    vec<S> flush_for_monitor() {
        flush();
        return x_;
    }

    // --- stabilised biconjugate gradients ---

    bool bicgstab() {
        if (p_.size == 0) {
            for (auto* p : {&p_, &v_, &t_, &q_, &shadow_}) *p = vector(n_);
            z_ = with_m_ ? vector(n_) : p_;
            y_ = with_m_ ? vector(n_) : q_;
        }
        constexpr double eps = std::numeric_limits<double>::epsilon();
        copy(r_, shadow_);
        copy(r_, p_);
        k_.shadow(shadow_, r_, rho_);
        const double shadow_norm = out_.residual;
        double norm = out_.residual;
        S rho = get(rho_);
        for (;;) {
            if (out_of_budget()) return give_up(status::max_iterations, "the iteration budget is spent");
            be_.interrupts().poll();
            if (!(std::abs(rho) > eps * eps * shadow_norm * norm))
                return give_up(status::breakdown, "the residual is orthogonal to the shadow residual");
            if (with_m_) precondition(p_, z_);
            apply(z_, v_);
            k_.shadow(shadow_, v_, rv_);
            k_.bicg_half(rho_, rv_, r_, v_, q_, qq_);
            const auto [rv_re, rv_im, qq] = read(be_, rv_.re, rv_.im, qq_);
            const S rv = make(rv_re, rv_im);
            if (rv == S(0)) return give_up(status::breakdown, "the shadow residual is orthogonal to A p");
            if (!std::isfinite(std::abs(rv)) || !std::isfinite(qq))
                return give_up(status::nonfinite, "a product is not finite");
            const S alpha = rho / rv;
            if (std::sqrt(qq) <= goal()) {
                k_.bicg_advance(alpha, z_, S(0), y_, x_);
                return note(std::sqrt(qq));
            }
            if (with_m_) precondition(q_, y_);
            apply(y_, t_);
            k_.bicg_pair(t_, q_, ts_, tt_);
            k_.bicg_residual(ts_, tt_, q_, t_, shadow_, r_, rr_, rho_new_);
            const auto [ts_re, ts_im, tt, rr, next_re, next_im] =
                read(be_, ts_.re, ts_.im, tt_, rr_, rho_new_.re, rho_new_.im);
            fresh_ = false;
            const S omega = make(ts_re, ts_im) / tt;
            if (tt == 0 || std::abs(omega) * std::sqrt(tt) <= eps * eps * std::sqrt(qq)) {
                // The half step stands by itself.
                k_.bicg_advance(alpha, z_, S(0), y_, x_);
                if (!note(std::sqrt(qq))) return false;
                return give_up(status::breakdown, "the minimal residual step has length zero");
            }
            if (!std::isfinite(rr)) return give_up(status::nonfinite, "a product is not finite");
            k_.bicg_advance(alpha, z_, omega, y_, x_);
            norm = std::sqrt(rr);
            if (!note(norm)) return false;
            if (norm <= goal()) return true;
            const S next = make(next_re, next_im);
            k_.bicg_direction((next / rho) * (alpha / omega), omega, r_, v_, p_);
            rho = next;
            std::swap(rho_, rho_new_);
        }
    }

    static S make(double re, [[maybe_unused]] double im) {
        if constexpr (dense::is_complex<S>)
            return S(re, im);
        else
            return re;
    }
    S get(const scalar_pair& z) {
        const auto [re, im] = read(be_, z.re, z.im);
        return make(re, im);
    }

    // --- the recycled space ---

    // U and its image, scaled to U^H A U = I (cg) or C^H M C = I (minres), and room for the harvest.
    void prepare(space& kept, bool same_matrix) {
        const index k = kept.vectors();
        const index room = opt_.window;
        const bool lanczos = opt_.method == method::minres;
        window_ = columns(lanczos ? room + 2 : room);
        window_image_ = columns(room);
        if (with_m_ && !lanczos) window_z_ = columns(room + 1);
        const index most = std::max<index>(k, opt_.recycle_dim);
        for (auto* t : {&next_u_, &next_c_, &spare_u_, &spare_c_}) *t = columns(most).first(0);
        if (k == 0) return;

        tall<S> u = columns(k), c = columns(k);
        upload(kept.u, u);
        if (same_matrix && kept.has_image())
            upload(kept.c, c);
        else
            apply_block(u, c);
        tall<S> mc = c;
        if (lanczos && with_m_) {
            mc = columns(k);
            precondition_block(c, mc);
        }
        tall<S> to_u = columns(k), to_c = columns(k), to_mc = mc.data == c.data ? to_c : columns(k);
        // Twice: the first pass drops what depends, the second restores what a Gram matrix cannot see.
        for (int pass = 0; pass < 2 && u.cols > 0; ++pass) {
            const small p =
                orthonormal_combination(hermitian(gram(lanczos ? mc : u, c)), pass == 0 ? 1e-6 : 0.0);
            const index rank = p.cols;
            const bool separate = mc.data != c.data;
            mix(u, p, to_u.first(rank));
            mix(c, p, to_c.first(rank));
            if (separate) mix(mc, p, to_mc.first(rank));
            std::swap(u, to_u);
            std::swap(c, to_c);
            if (separate) std::swap(mc, to_mc);
            u = u.first(rank);
            c = c.first(rank);
            mc = separate ? mc.first(rank) : c;
        }
        u_ = u;
        c_ = c;
        mc_ = mc;
        next_u_ = u_;
        next_c_ = c_;
        out_.recycled = static_cast<int>(u_.cols);
        if (!deflated()) return;
        h_ = vector(u_.cols);
        if (lanczos)
            for (auto* p : {&hw_, &hw1_, &hw2_, &hx_}) *p = vector(u_.cols);
        if (lanczos) {
            be_.fill(flat(hx_), 0.0);
            window_h_ = {vector(u_.cols * room).data, u_.cols, room, u_.cols};
        }
    }

    void apply_block(tall<const S> x, tall<S> y) {
        k_.apply_block(x, y);
        out_.matvecs += x.cols;
    }
    void precondition_block(tall<const S> x, tall<S> y) {
        k_.precondition_block(x, y);
        out_.precond_applies += x.cols;
    }
    void upload(const std::vector<S>& from, tall<S> to) {
        be_.upload(reinterpret_cast<const double*>(from.data()), flat(vec<S>{to.data, n_ * to.cols}));
    }
    small gram(tall<const S> x, tall<const S> y) {
        small g(static_cast<int>(x.cols), static_cast<int>(y.cols));
        if (g.rows > 0 && g.cols > 0) k_.gram(x, y, g.values.data(), g.rows);
        return g;
    }
    void mix(tall<const S> x, const small& p, tall<S> z, bool accumulate = false) {
        if (x.cols > 0 && z.cols > 0) k_.mix(x, p.values.data(), p.rows, z, accumulate);
    }
    static small hermitian(const small& g) {
        small h(g.rows, g.cols);
        for (int j = 0; j < g.cols; ++j)
            for (int i = 0; i < g.rows; ++i) h(i, j) = 0.5 * (g(i, j) + dense::conjugate(g(j, i)));
        return h;
    }
    static small adjoint(const small& a) {
        small h(a.cols, a.rows);
        for (int j = 0; j < a.cols; ++j)
            for (int i = 0; i < a.rows; ++i) h(j, i) = dense::conjugate(a(i, j));
        return h;
    }
    static small block(const small& a, const small& b, const small& c, const small& d) {
        small g(a.rows + c.rows, a.cols + b.cols);
        const auto put = [&g](const small& from, int row, int col) {
            for (int j = 0; j < from.cols; ++j)
                for (int i = 0; i < from.rows; ++i) g(row + i, col + j) = from(i, j);
        };
        put(a, 0, 0);
        put(b, 0, a.cols);
        put(c, a.rows, 0);
        put(d, a.rows, a.cols);
        return g;
    }
    static small rows_of(const small& a, int first, int count) {
        small b(count, a.cols);
        for (int j = 0; j < a.cols; ++j) std::copy_n(a.col(j) + first, count, b.col(j));
        return b;
    }

    // P with P^H G P = I. Vectors with nothing of their own, relative to their length, are left out.
    static small orthonormal_combination(const small& g, double drop) {
        std::vector<double> scale;
        for (int j = 0; j < g.cols; ++j) {
            const double d = std::real(g(j, j));
            scale.push_back(d > 0 && std::isfinite(d) ? 1 / std::sqrt(d) : 0.0);
        }
        small scaled(g.rows, g.cols);
        for (int j = 0; j < g.cols; ++j)
            for (int i = 0; i < g.rows; ++i)
                if (scale[i] != 0 && scale[j] != 0) scaled(i, j) = g(i, j) * (scale[i] * scale[j]);
        small p = dense::inverse_combination(dense::factor_gram(scaled, drop));
        for (int j = 0; j < p.cols; ++j)
            for (int i = 0; i < p.rows; ++i) p(i, j) *= scale[i];
        return p;
    }

    // P with P^H F P = I whose columns solve G y = theta F y: the recycle_dim smallest theta, or those of the
    // largest magnitude.
    small choose(const small& f, const small& g, bool smallest) {
        const small p = orthonormal_combination(f, 1e-6);
        small reduced = hermitian(dense::product(adjoint(p), dense::product(g, p)));
        for (const S& x : reduced.values)
            if (!std::isfinite(std::abs(x))) return small(f.rows, 0);
        const std::vector<double> theta = k_.eigenvectors(reduced);
        std::vector<int> order(theta.size());
        std::iota(order.begin(), order.end(), 0);
        if (!smallest)
            std::stable_sort(order.begin(), order.end(),
                             [&](int i, int j) { return std::abs(theta[i]) > std::abs(theta[j]); });
        small y(reduced.rows, std::min<int>(opt_.recycle_dim, static_cast<int>(theta.size())));
        for (int j = 0; j < y.cols; ++j) std::copy_n(reduced.col(order[j]), y.rows, y.col(j));
        return dense::product(p, y);
    }

    // The new space from combinations of the old one and `count` vectors of the window.
    void combine_spaces(const small& p, tall<const S> vectors, tall<const S> images) {
        if (p.cols == 0) return;
        const int old = static_cast<int>(next_u_.cols);
        const small top = rows_of(p, 0, old), bottom = rows_of(p, old, p.rows - old);
        const tall<S> u = tall<S>{spare_u_.data, n_, p.cols, n_}, c{spare_c_.data, n_, p.cols, n_};
        mix(next_u_, top, u);
        mix(vectors, bottom, u, old > 0);
        mix(next_c_, top, c);
        mix(images, bottom, c, old > 0);
        spare_u_ = room_beside(next_u_);
        spare_c_ = room_beside(next_c_);
        next_u_ = u;
        next_c_ = c;
    }
    // The solver's own U and C are read to the end; anything else may be overwritten.
    tall<S> room_beside(tall<S> used) {
        return used.data == u_.data || used.data == c_.data || used.data == nullptr
                   ? columns(std::max<index>(u_.cols, opt_.recycle_dim))
                   : used;
    }

    // CG: smallest eigenvalues of M A on span[W, p_1 .. p_l].
    void harvest_directions() {
        const index l = directions_;
        if (l == 0) return;
        const tall<S> p = window_.first(l), ap = window_image_.first(l);
        tall<S> map = ap, maw = c_;
        if (with_m_) {
            // M A p_j = (z_j - z_j+1) / alpha_j, by one product with a bidiagonal matrix.
            small d(static_cast<int>(l) + 1, static_cast<int>(l));
            for (int j = 0; j < d.cols; ++j) {
                d(j, j) = window_scale_[j];
                d(j + 1, j) = -window_scale_[j];
            }
            map = columns(l);
            mix(window_z_.first(l + 1), d, map);
            if (deflated()) {
                maw = columns(u_.cols);
                precondition_block(c_, maw);
            }
        }
        const small cross = gram(u_, ap);
        const small f = hermitian(block(gram(u_, c_), cross, adjoint(cross), gram(p, ap)));
        const small mixed = gram(c_, map);
        const small g = hermitian(block(gram(c_, maw), mixed, adjoint(mixed), gram(ap, map)));
        combine_spaces(choose(f, g, true), p, ap);
    }

    // MINRES keeps, of a window of l steps, the vectors v_0 .. v_l+1 (one before, one after), A v_j and the
    // coefficients h_j = (M C)^H A v_j; the tridiagonal matrix is the rest.
    void open_step(double beta, double old_beta) {
        if (position_ == 0) {
            window_alpha_.clear();
            window_beta_.assign(1, old_beta > 0 ? beta : 0.0);
            if (!(old_beta > 0)) k_.store(0.0, v_, window_, 0);
        }
        k_.store(1.0, v_, window_, position_ + 1);
    }
    void close_step(double alpha, double beta) {
        if (deflated()) k_.store(1.0, h_, window_h_, position_);
        window_alpha_.push_back(alpha);
        window_beta_.push_back(beta);
        ++position_;
    }

    // Harmonic Ritz vectors of smallest magnitude on span[U', v_1 .. v_l], U' the space so far:
    // G y = (1 / theta) F y with F = (A T)^H M (A T), G = T^H A T, where M A v_j is known from the
    // recurrence.
    void harvest_window(bool exhausted) {
        const int l = static_cast<int>(position_);
        const double after = exhausted ? 0.0 : 1 / window_beta_.back();
        k_.store(after, lifted(), window_, l + 1);
        const tall<S> v = window_.from(1).first(l), images = window_image_.first(l);
        small t(l + 2, l), square(l, l), h(static_cast<int>(u_.cols), l);
        for (int j = 0; j < l; ++j) {
            t(j, j) = window_beta_[j];
            t(j + 1, j) = square(j, j) = window_alpha_[j];
            t(j + 2, j) = exhausted && j == l - 1 ? 0.0 : window_beta_[j + 1];
            if (j > 0) square(j - 1, j) = square(j, j - 1) = window_beta_[j];
        }
        if (deflated())
            be_.download(flat(vec<const S>{window_h_.data, index(h.rows) * l}),
                         reinterpret_cast<double*>(h.values.data()));
        const small tail = dense::product(adjoint(h), h), lanczos = dense::product(adjoint(t), t);
        small f_window = lanczos;
        for (std::size_t i = 0; i < f_window.values.size(); ++i) f_window.values[i] += tail.values[i];
        const small along = gram(next_c_, window_.first(l + 2));
        small cross = dense::product(along, t);
        if (deflated()) {
            const small more = dense::product(gram(next_c_, mc_), h);
            for (std::size_t i = 0; i < cross.values.size(); ++i) cross.values[i] += more.values[i];
        }
        small unit(static_cast<int>(next_u_.cols), static_cast<int>(next_u_.cols));
        for (int j = 0; j < unit.cols; ++j) unit(j, j) = 1;
        const small f = hermitian(block(unit, cross, adjoint(cross), f_window));
        small beside(along.rows, l);
        for (int j = 0; j < l; ++j) std::copy_n(along.col(j + 1), along.rows, beside.col(j));
        const small g = hermitian(block(gram(next_c_, next_u_), beside, adjoint(beside), square));
        combine_spaces(choose(f, g, false), v, images);
        // The last vector of this window precedes the first of the next.
        k_.store(1.0, v_, window_, 0);
        position_ = 0;
    }

    void keep(space& kept) {
        if (opt_.method == method::cg) harvest_directions();
        const index k = next_u_.cols;
        kept.n = n_;
        for (auto [from, to] : {std::pair{next_u_, &kept.u}, std::pair{next_c_, &kept.c}}) {
            to->resize(static_cast<std::size_t>(n_ * k));
            be_.download(flat(vec<const S>{from.data, n_ * k}), reinterpret_cast<double*>(to->data()));
        }
        out_.kept = static_cast<int>(k);
    }

    B& be_;
    K& k_;
    const options& opt_;
    const monitor& monitor_;
    index n_;
    bool with_m_;
    bool fresh_ = false;  // r_ and the report's residual are those of x
    report out_;
    std::vector<S> seen_;

    vec<const S> b_;
    vec<S> x_, r_;
    vec<S> p_, q_, z_;                             // cg; bicgstab
    vec<S> v_, t_, y_, r1_, r2_, w_, w1_, w2_;     // minres
    vec<S> shadow_;                                // bicgstab
    vec<S> h_, hw_, hw1_, hw2_, hx_;               // minres, of as many entries as U has columns
    tall<S> u_, c_, mc_;                           // the space in use
    tall<S> next_u_, next_c_, spare_u_, spare_c_;  // the space to come
    tall<S> window_, window_image_, window_z_, window_h_;
    std::vector<double> window_scale_, window_alpha_, window_beta_;
    index directions_ = 0, position_ = 0;
    bool gathering_ = false;  // cg stores its directions
    scalar_ref rr_, rz_, rz_new_, pq_, alpha_, beta2_, tt_, qq_;
    scalar_pair rho_, rho_new_, rv_, ts_;
};

}  // namespace aitken::drivers::short_recurrence
