// GCRO-DR and its family over one or several lanes: the loop of section 2 of docs/theory/krylov.md. GMRES is
// recycle = 0; LGMRES adds the corrections of earlier cycles to the basis; GCROT keeps corrections instead of
// Ritz vectors.
//
// A lane is one system under way with its own vectors; lanes advance in lockstep, so that a kernel works on
// all of them in one launch, and a lane that is done takes the next system from the source. With one lane
// this is the plain solver. Launches per step: product, preconditioner and `expand`; one read every
// Backend::check_every steps. A cycle ends with a fixed number of launches and three reads.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "core/api/krylov.hpp"
#include "core/backend.hpp"
#include "core/stop.hpp"
#include "dense/small.hpp"
#include "drivers/krylov_tasks.hpp"
#include "drivers/recycled_space.hpp"

namespace aitken::drivers::krylov {

// Cycles in a row that each gain less than 1 % before a solve is called stalled. Deflation first has to find
// the vectors: on convection-like matrices plateaus of six cycles end in convergence.
inline constexpr int idle_limit = 12;

// Where systems come from. `next` makes the lane's operators those of a new system and fills in b and x.
template <class S>
struct problem {
    vec<const S> b;
    vec<S> x;                  // in: the start; out: the solution
    bool same_matrix = false;  // as the lane's previous system: its C still holds
    bool forget = false;       // start without the recycled space
    bool harvest = true;       // leave one for the next system
};
template <class Source, class S>
concept SystemSource = requires(Source& s, int lane, problem<S>& p, api::report& r) {
    { s.next(lane, p) } -> std::same_as<bool>;  // false: none left
    s.done(lane, r);
};

template <class S, class B, Backend Be, class K>
    requires KrylovKernels<K, S, B>
class solver {
    using small = dense::small_matrix<S>;

public:
    solver(Be& be, K& kernels, index n, const api::options& options, int lanes = 1)
        : be_(be), k_(kernels), n_(n), o_(options), lanes_(static_cast<std::size_t>(lanes)) {
        const int grown = o_.adaptive ? 2 : 1;
        recycle_cap_ = o_.recycle > 0 ? grown * o_.recycle + 1 : 0;
        steps_cap_ = grown * o_.restart + o_.outer + (o_.steps_beside ? o_.recycle : 0);
        column_ld_ = recycle_cap_ + steps_cap_ + 3;
        columns_ = be_.template allocate<S>(column_ld_ * Be::check_every * lanes);
        host_columns_.resize(static_cast<std::size_t>(columns_.size));
        in_solution_space_ = in_solution_space(o_, k_.has_inverse());
        stores_z_ = o_.outer > 0 || keeps_directions(o_, k_.has_inverse());
        int id = 0;
        for (lane& l : lanes_) {
            l.id = id++;
            for (vec<S>* v : {&l.r, &l.w, &l.z, &l.best}) *v = be_.template allocate<S>(n_);
            l.v = new_tall(steps_cap_ + 1);
            if (stores_z_) l.zs = new_tall(steps_cap_);
            if (recycle_cap_ > 0)
                for (tall<B>* t : {&l.c, &l.u, &l.spare_c, &l.spare_u}) *t = new_tall(recycle_cap_);
            if (o_.outer > 0)
                for (tall<B>* t : {&l.outer_u, &l.outer_c}) *t = new_tall(o_.outer);
            l.restart = o_.restart;
            l.recycle = o_.recycle;
        }
    }

    template <SystemSource<S> Source>
    void run(Source& source, const api::monitor<S>& monitor = {}) {
        std::vector<lane*> active;
        for (;;) {
            std::vector<lane*> fresh;
            for (lane& l : lanes_)
                if (!l.busy && source.next(l.id, l.p)) fresh.push_back(&l);
            if (!fresh.empty()) begin_systems(fresh, monitor);
            active.clear();
            for (lane& l : lanes_)
                if (l.busy && !l.finished) active.push_back(&l);
            if (!active.empty()) advance(active, monitor);
            bool any = false;
            for (lane& l : lanes_) {
                if (l.busy && l.finished) {
                    l.report.counts = be_.counts();
                    l.report.kept = l.kk;
                    source.done(l.id, l.report);
                    l.busy = false;
                    any = true;
                }
                any = any || l.busy;
            }
            if (!any) return;
        }
    }

    // The recycled space of a lane, in and out.
    void set_space(int id, const api::space<S>& s) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        // A cycle needs a step beside what is carried, however much was carried elsewhere.
        const int most = o_.steps_beside ? recycle_cap_ : std::min(recycle_cap_, o_.restart - 1);
        krylov::put_space(be_, k_, s, most, l.w, l);
    }
    void get_space(int id, api::space<S>& s) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        recycled_space<B>* const one[1] = {&l};
        const bool ordered =
            o_.select == api::selection::truncate_oldest || o_.select == api::selection::truncate_smallest;
        if (l.has_image && !ordered) orthonormalise<S, B>(k_, one, orthonormal);
        krylov::get_space(be_, k_, l, l.w, s);
    }
    // Corrections of LGMRES: u, and their images in c.
    void set_outer(int id, const api::space<S>& s) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        l.n_outer = std::min(s.vectors(), o_.outer);
        l.outer_images = l.n_outer == 0 || s.has_image();
        const int first = s.vectors() - l.n_outer;
        for (int j = 0; j < l.n_outer; ++j) {
            put(s.u.data() + (first + j) * n_, l, l.outer_u.col(j));
            if (l.outer_images) put(s.c.data() + (first + j) * n_, l, l.outer_c.col(j));
        }
        l.oldest_outer = l.n_outer % o_.outer;
    }
    void get_outer(int id, api::space<S>& s) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        s.n = n_;
        s.u.resize(static_cast<std::size_t>(n_ * l.n_outer));
        s.c.resize(l.outer_images ? s.u.size() : 0);
        for (int j = 0; j < l.n_outer; ++j) {  // oldest first
            const int at = l.n_outer < o_.outer ? j : (l.oldest_outer + j) % o_.outer;
            get(l.outer_u.col(at), l, s.u.data() + j * n_);
            if (l.outer_images) get(l.outer_c.col(at), l, s.c.data() + j * n_);
        }
    }

private:
    // How near C^H C has to be to the identity before it is used again.
    static constexpr double orthonormal = sizeof(B) == sizeof(S) ? 1e-14 : 1e-6;

    struct lane : recycled_space<B> {
        bool busy = false, finished = false;
        problem<S> p;
        vec<S> r, w, z;
        vec<S> best;  // the x of the smallest residual seen
        double best_residual = 0;
        tall<B> v, zs, outer_u, outer_c;
        int n_outer = 0, oldest_outer = 0;
        bool outer_images = true;
        int restart = 0, recycle = 0;
        api::report report;
        double norm_r = 0, norm_start = 0, aim = 0;  // of the residual the recurrence works with
        int idle_cycles = 0, failed_checks = 0;
        // The cycle under way: A [U Z] = [C V] [[D, B], [0, H]].
        int steps = 0, max_steps = 0;
        bool ended = false, breakdown = false, broken = false, stopped = false;
        small h, r_factor, b;
        std::vector<double> cosines;
        std::vector<S> sines, g;
    };

    // --- systems ---------------------------------------------------------------------------------------

    void begin_systems(std::span<lane* const> list, const api::monitor<S>& monitor) {
        std::vector<project_task<S, B>> norms;
        for (lane* l : list) {
            l->busy = true;
            l->finished = false;
            l->report = {};
            l->idle_cycles = l->failed_checks = 0;
            l->stopped = false;
            l->best_residual = std::numeric_limits<double>::infinity();
            if (l->p.forget) l->kk = 0;
            if (!l->p.same_matrix) l->has_image = false;  // even if this system asks for no work
            norms.push_back({{}, l->p.b, nullptr, &l->report.norm_b});
        }
        k_.project(norms);
        for (lane* l : list) {
            l->report.target = std::max(o_.rtol * l->report.norm_b, o_.atol);
            if (l->report.norm_b == 0) {
                k_.clear(l->p.x);
                l->finished = true;
            }
        }
        std::vector<lane*> open = unfinished(list);
        true_residuals(open);
        for (lane* l : open) {
            l->report.history.push_back(l->report.residual);
            if (!std::isfinite(l->report.residual) || !std::isfinite(l->report.norm_b))
                finish(*l, status::nonfinite);
            else if (l->report.residual <= l->report.target)
                finish(*l, status::converged);
        }
        open = unfinished(open);
        remember(open);
        precondition_residuals(open);
        renew_images(open);
        for (lane* l : open) l->report.recycled = l->kk;
        if (project_out(open)) {
            true_residuals(open);
            precondition_residuals(open);
            for (lane* l : open) {
                if (l->report.residual <= l->report.target)
                    finish(*l, status::converged);
                else if (!(l->report.residual <= tolerated_growth() * l->best_residual))
                    retreat(*l);
            }
            open = unfinished(open);
            remember(open);
            project_out(open);  // the rounding of r, which is small beside b but not beside r
        }
        for (lane* l : unfinished(open)) {
            l->norm_start = l->norm_r;
            if (l->norm_r == 0) finish(*l, status::breakdown);  // M r = 0
            if (o_.max_iterations == 0 || o_.max_cycles == 0) finish(*l, status::max_iterations);
            if (tell(monitor, *l, true)) finish(*l, status::stopped_by_callback);
        }
    }

    void renew_images(std::span<lane* const> list) {
        const image op = image_of(o_, k_.has_inverse());
        std::vector<recycled_space<B>*> stale, kept;
        for (lane* l : list) {
            if (l->kk == 0) continue;
            if (l->has_image) {
                kept.push_back(l);
                continue;
            }
            stale.push_back(l);
            l->report.matvecs += l->kk;
            if (op != image::matrix) l->report.precond_applies += l->kk;
        }
        if (!stale.empty()) krylov::renew_images<S, B>(k_, stale, op);
        // Gram-Schmidt in one pass loses orthogonality as fast as a solve gains accuracy; from solve to solve
        // that would add up.
        if (!kept.empty()) orthonormalise<S, B>(k_, kept, orthonormal);
    }

    // x += U C^H r, r -= C C^H r; after every cycle, since rounding alone would let C^H r grow. True if any
    // lane moved.
    bool project_out(std::span<lane* const> list) {
        std::vector<lane*> held;
        for (lane* l : list)
            if (l->kk > 0 && !l->finished) held.push_back(l);
        if (held.empty()) return false;
        std::vector<std::vector<S>> h(held.size());
        std::vector<project_task<S, B>> tasks;
        for (std::size_t i = 0; i < held.size(); ++i) {
            lane* l = held[i];
            h[i].resize(static_cast<std::size_t>(l->kk));
            tasks.push_back({l->c.first(l->kk), l->r, h[i].data(), &l->norm_r});
        }
        k_.project(tasks);
        std::vector<combine_task<S, B>> moves;
        std::vector<std::vector<S>> minus(held.size());
        std::vector<lane*> moved;
        for (std::size_t i = 0; i < held.size(); ++i) {
            lane* l = held[i];
            double size2 = 0;
            for (const S& c : h[i]) size2 += dense::square(c);
            if (!(size2 > 0) || !std::isfinite(size2)) continue;
            moved.push_back(l);
            for (const S& c : h[i]) minus[i].push_back(-c);
            moves.push_back({l->c.first(l->kk), minus[i].data(), l->r, true});
            moves.push_back(
                {l->u.first(l->kk), h[i].data(), in_solution_space_ ? l->p.x : l->z, in_solution_space_});
            l->norm_r = std::sqrt(std::max(0.0, l->norm_r * l->norm_r - size2));
        }
        if (moved.empty()) return false;
        k_.combine(moves);
        if (!in_solution_space_) add_preconditioned(moved);
        return true;
    }

    // x += M^-1 z.
    void add_preconditioned(std::span<lane* const> list) {
        std::vector<apply_task<S>> tasks;
        for (lane* l : list) {
            tasks.push_back({l->id, l->z, l->w});
            ++l->report.precond_applies;
        }
        k_.apply_inverse(tasks);
        add(list, &lane::w);
    }
    void add(std::span<lane* const> list, vec<S> lane::* from) {
        for (lane* l : list) k_.add(l->*from, l->p.x);
    }

    void true_residuals(std::span<lane* const> list) {
        std::vector<residual_task<S>> tasks;
        for (lane* l : list) {
            tasks.push_back({l->id, l->p.b, l->p.x, l->r, &l->report.residual});
            ++l->report.matvecs;
        }
        if (!tasks.empty()) k_.residual(tasks);
        for (lane* l : list) {
            l->norm_r = l->report.residual;
            l->aim = inner_aim * l->report.target;
        }
    }
    // The left side works with M^-1 r; its aim is scaled by how much M^-1 changed the norm this time.
    void precondition_residuals(std::span<lane* const> list) {
        if (o_.side != api::side::left || !k_.has_inverse() || list.empty()) return;
        std::vector<apply_task<S>> tasks;
        std::vector<project_task<S, B>> norms;
        for (lane* l : list) {
            tasks.push_back({l->id, l->r, l->w});
            std::swap(l->r, l->w);
            norms.push_back({{}, l->r, nullptr, &l->norm_r});
            ++l->report.precond_applies;
        }
        k_.apply_inverse(tasks);
        k_.project(norms);
        for (lane* l : list)
            if (l->report.residual > 0) l->aim *= l->norm_r / l->report.residual;
    }

    // --- cycles ----------------------------------------------------------------------------------------

    void advance(std::span<lane* const> active, const api::monitor<S>& monitor) {
        std::vector<store_task<S, B>> starts;
        int burst = Be::check_every;
        for (lane* l : active) {
            if (l->steps == 0) {
                begin_cycle(*l);
                starts.push_back({l->r, 1 / l->norm_r, l->v.col(0), l->w});
            }
            burst = static_cast<int>(
                std::min<index>({burst, l->max_steps - l->steps, o_.max_iterations - l->report.iterations}));
        }
        if (!starts.empty()) k_.store(starts);
        for (int slot = 0; slot < burst; ++slot) step(active, slot);
        be_.interrupts().poll();
        be_.download(vec<const S>(columns_), host_columns_.data());
        std::vector<lane*> ended;
        for (lane* l : active) {
            for (int slot = 0; slot < burst && !l->ended; ++slot) take_column(*l, slot, monitor);
            if (l->ended) ended.push_back(l);
        }
        if (!ended.empty()) finish_cycles(ended, monitor);
    }

    void begin_cycle(lane& l) {
        l.max_steps = std::min(steps_cap_, o_.steps_beside ? l.restart + std::max(0, l.recycle - l.kk)
                                                           : l.restart + l.n_outer - l.kk);
        l.ended = l.breakdown = l.broken = false;
        l.h = small(l.max_steps + 1, l.max_steps);
        l.r_factor = small(l.max_steps + 1, l.max_steps);
        l.b = small(l.kk, l.max_steps);
        l.cosines.clear();
        l.sines.clear();
        l.g.assign(1, S(l.norm_r));
    }

    // Which earlier correction the step takes as its direction instead of a preconditioned basis vector.
    int outer_column(const lane& l, int at) const {
        const int first = o_.outer_first ? 0 : l.max_steps - l.n_outer;
        return at >= first && at < first + l.n_outer ? at - first : -1;
    }

    // One Arnoldi step of every lane: w = Op v_j, orthogonalised and appended.
    void step(std::span<lane* const> active, int slot) {
        std::vector<apply_task<S>> first, second, images;
        std::vector<store_task<S, B>> keep;
        std::vector<expand_task<S, B>> expand;
        const bool left = o_.side == api::side::left;
        for (lane* l : active) {
            const int outer = outer_column(*l, l->steps + slot);
            if (outer >= 0) {
                k_.load(l->outer_u.col(outer), l->z);
                if (l->outer_images) {
                    k_.load(l->outer_c.col(outer), l->w);
                } else {
                    images.push_back({l->id, l->z, l->w});
                    ++l->report.matvecs;
                }
            } else {
                if (o_.outer_first && l->n_outer > 0 && l->steps + slot == l->n_outer)
                    k_.load(l->v.col(0), l->w);  // the Krylov vectors begin with the residual
                first.push_back({l->id, l->w, l->z});
                ++l->report.matvecs;
                if (k_.has_inverse()) {
                    second.push_back({l->id, l->z, l->w});
                    ++l->report.precond_applies;
                }
            }
        }
        if (!first.empty()) {
            if (k_.has_inverse() && !left)
                k_.apply_inverse(first);
            else
                k_.apply_matrix(first);
        }
        // Without a preconditioner the direction is v_j itself: keep it before w and z change places.
        for (lane* l : active) {
            const bool krylov = outer_column(*l, l->steps + slot) < 0;
            const bool direction_in_w = krylov && (left || !k_.has_inverse());
            if (stores_z_)
                keep.push_back({direction_in_w ? l->w : l->z, 1.0, l->zs.col(l->steps + slot), {}});
        }
        if (!keep.empty()) k_.store(keep);
        if (!second.empty()) {
            if (left)
                k_.apply_inverse(second);
            else
                k_.apply_matrix(second);
        }
        if (!images.empty()) k_.apply_matrix(images);
        for (lane* l : active) {
            if (outer_column(*l, l->steps + slot) < 0 && !k_.has_inverse()) std::swap(l->w, l->z);
            expand.push_back({l->c.first(l->kk), l->v.first(l->steps + slot + 1), l->w, column(*l, slot)});
        }
        k_.expand(expand, o_.ortho);
    }

    S* column(const lane& l, int slot) const {
        return columns_.data + (static_cast<index>(l.id) * Be::check_every + slot) * column_ld_;
    }

    // Takes one column of [B; H] from the host's copy, rotates it, and decides whether the cycle ends.
    void take_column(lane& l, int slot, const api::monitor<S>& monitor) {
        const S* from = host_columns_.data() + (column(l, slot) - columns_.data);
        const int j = l.steps;
        const double after = std::real(from[l.kk + j + 1]), before = std::real(from[l.kk + j + 2]);
        bool finite = std::isfinite(after) && std::isfinite(before);
        for (int i = 0; i < l.kk + j + 1; ++i) finite = finite && std::isfinite(std::abs(from[i]));
        if (!finite) {
            l.broken = l.ended = true;
            return;
        }
        std::copy_n(from, l.kk, l.b.col(j));
        S* h = l.h.col(j);
        std::copy_n(from + l.kk, j + 1, h);
        h[j + 1] = after;
        S* r = l.r_factor.col(j);
        std::copy_n(h, j + 2, r);
        rotate(l, r, j);
        const double a = std::abs(r[j]), d = std::hypot(a, after);
        const double c = d > 0 ? a / d : 1;
        const S s = a > 0 ? r[j] / a * (after / d) : S(d > 0 ? 1 : 0);
        r[j] = c * r[j] + s * after;
        r[j + 1] = 0;
        l.cosines.push_back(c);
        l.sines.push_back(s);
        const S g = l.g[j];
        l.g[j] = c * g;
        l.g.push_back(-dense::conjugate(s) * g);
        ++l.steps;
        ++l.report.iterations;
        const double estimate = std::abs(l.g[l.steps]);
        l.report.history.push_back(estimate);
        l.breakdown = after <= 1e-14 * before;
        l.ended = estimate <= l.aim || l.steps == l.max_steps || l.breakdown ||
                  l.report.iterations >= o_.max_iterations ||
                  (o_.inner_rtol >= 0 && estimate <= o_.inner_rtol * l.norm_r);
        if (monitor && monitor({l.report.iterations, estimate, l.report.target, false, nullptr}))
            l.stopped = l.ended = true;
    }

    // Rows 0 .. j of a vector by the rotations made so far.
    static void rotate(const lane& l, S* x, int j) {
        for (int i = 0; i < j; ++i) {
            const S top = l.cosines[i] * x[i] + l.sines[i] * x[i + 1];
            x[i + 1] = -dense::conjugate(l.sines[i]) * x[i] + l.cosines[i] * x[i + 1];
            x[i] = top;
        }
    }

    using update = space_update<S>;

    void finish_cycles(std::span<lane* const> ended, const api::monitor<S>& monitor) {
        std::vector<lane*> list;
        for (lane* l : ended) {
            ++l->report.cycles;
            if (l->steps > 0)
                list.push_back(l);
            else if (l->kk > 0)
                retreat(*l);
            else
                finish(*l, status::nonfinite);
        }
        if (list.empty()) return;
        // The step: d = Z y - U B y with min || ||r|| e_1 - H y ||, x += d (times M^-1 where Z is not kept).
        std::vector<std::vector<S>> ys(list.size()), bys(list.size());
        std::vector<combine_task<S, B>> moves;
        for (std::size_t i = 0; i < list.size(); ++i) {
            lane* l = list[i];
            int j = l->steps;
            // A singular last column (breakdown of a singular system) adds nothing.
            double largest = 0;
            for (int k = 0; k < j; ++k) largest = std::max(largest, std::abs(l->r_factor(k, k)));
            const double singular = (l->breakdown ? 1e-10 : 1e-12) * largest;
            while (j > 0 && !(std::abs(l->r_factor(j - 1, j - 1)) > singular)) --j;
            std::vector<S>& y = ys[i];
            y.assign(l->g.begin(), l->g.begin() + j);
            dense::solve_upper(l->r_factor, j, y.data());
            y.resize(static_cast<std::size_t>(l->steps), S(0));
            const bool solved =
                std::all_of(y.begin(), y.end(), [](const S& v) { return std::isfinite(std::abs(v)); });
            if (!solved) l->breakdown = true;  // R is singular
            if (l->broken || !solved) std::fill(y.begin(), y.end(), S(0));
            bys[i].assign(static_cast<std::size_t>(l->kk), S(0));
            for (int k = 0; k < l->steps; ++k)
                for (int q = 0; q < l->kk; ++q) bys[i][q] -= l->b(q, k) * y[k];
            moves.push_back({directions(*l).first(l->steps), y.data(), l->z, false});
        }
        k_.combine(moves);
        moves.clear();
        for (std::size_t i = 0; i < list.size(); ++i)
            if (list[i]->kk > 0)
                moves.push_back({list[i]->u.first(list[i]->kk), bys[i].data(), list[i]->z, true});
        if (!moves.empty()) k_.combine(moves);
        if (k_.has_inverse() && o_.side != api::side::left && !stores_z_)
            add_preconditioned(list);
        else
            add(list, &lane::z);
        be_.interrupts().poll();  // a cycle's end takes as long as many of its steps
        if (o_.recycle > 0) {
            // A lane that is done needs a new space only for the next system.
            std::vector<lane*> on;
            std::vector<std::vector<S>> their;
            for (std::size_t i = 0; i < list.size(); ++i) {
                const lane& l = *list[i];
                if (!l.p.harvest && std::abs(l.g[l.steps]) <= l.aim) continue;
                on.push_back(list[i]);
                their.push_back(ys[i]);
            }
            if (!on.empty()) renew_spaces(on, their);
        }
        if (o_.outer > 0) keep_corrections(list, ys);
        std::vector<double> before;
        for (lane* l : list) before.push_back(l->report.residual);
        true_residuals(list);
        precondition_residuals(list);
        std::vector<lane*> better;
        for (lane* l : list)
            if (l->report.residual < l->best_residual) better.push_back(l);
        remember(better);
        for (std::size_t i = 0; i < list.size(); ++i) judge(*list[i], before[i], monitor);
        project_out(unfinished(list));
    }

    // The vectors that y combines: z_j where they are kept, else v_j.
    tall<const B> directions(const lane& l) const { return stores_z_ ? l.zs : l.v; }

    void judge(lane& l, double before, const api::monitor<S>& monitor) {
        const bool estimated = l.steps > 0 && std::abs(l.g[l.steps]) <= l.aim;
        const bool breakdown = l.breakdown;
        l.steps = 0;
        if (l.broken || !std::isfinite(l.report.residual)) {
            if (l.kk == 0) return finish(l, status::nonfinite);
            retreat(l);
            if (l.finished) return;
        }
        const double now = l.report.residual;
        if (now <= l.report.target) return finish(l, status::converged);
        if (l.stopped || tell(monitor, l, true)) return finish(l, status::stopped_by_callback);
        if (l.report.iterations >= o_.max_iterations ||
            (o_.max_cycles >= 0 && l.report.cycles >= o_.max_cycles))
            return finish(l, status::max_iterations);
        const bool idle = !(now <= 0.99 * before);
        if ((breakdown && idle) || l.norm_r == 0) return finish(l, status::breakdown);
        if (now > tolerated_growth() * l.best_residual) retreat(l);
        if (l.finished) return;
        l.idle_cycles = idle ? l.idle_cycles + 1 : 0;
        l.failed_checks += estimated && idle;
        if (!o_.watch_stagnation) return;
        if (l.failed_checks >= 3 || l.idle_cycles >= idle_limit) {
            if (o_.adaptive && !l.report.adapted) {
                l.report.adapted = true;
                l.restart *= 2;
                l.recycle = o_.recycle > 0 ? std::min(2 * l.recycle, std::max(1, l.restart / 4)) : 0;
                l.idle_cycles = l.failed_checks = 0;
                return;
            }
            finish(l, status::stagnated);
        }
    }

    // --- the recycled space ------------------------------------------------------------------------------

    void renew_spaces(std::span<lane* const> list, const std::vector<std::vector<S>>& ys) {
        std::vector<update> updates(list.size());
        if (o_.select == api::selection::truncate_oldest || o_.select == api::selection::truncate_smallest) {
            for (std::size_t i = 0; i < list.size(); ++i) updates[i] = truncated(*list[i], ys[i]);
        } else {
            updates = deflated(list);
        }
        std::vector<mix_task<S, B>> mixes;
        for (std::size_t i = 0; i < list.size(); ++i) ask_update(view(*list[i]), updates[i], mixes);
        be_.interrupts().poll();
        if (!mixes.empty()) k_.mix(mixes);
        be_.interrupts().poll();
        for (std::size_t i = 0; i < list.size(); ++i) adopt<S, B>(*list[i], updates[i]);
    }

    // GCROT: the cycle's correction joins; the oldest vector, or the combination that did least, makes room.
    update truncated(const lane& l, const std::vector<S>& y) const {
        const int kk = l.kk, j = l.steps;
        std::vector<S> hy(static_cast<std::size_t>(j + 1), S(0));
        for (int k = 0; k < j; ++k)
            for (int i = 0; i <= k + 1; ++i) hy[i] += l.h(i, k) * y[k];
        double size2 = 0;
        for (const S& x : hy) size2 += dense::square(x);
        if (!(size2 > 0) || !std::isfinite(size2)) return {};
        const double scale = 1 / std::sqrt(size2);
        const int stay = std::min(kk, l.recycle - 1);
        small old(kk, stay);
        if (stay == kk || o_.select == api::selection::truncate_oldest)
            for (int q = 0; q < stay; ++q) old(kk - stay + q, q) = S(1);
        else
            old = most_useful(l, stay);
        update u{small(kk + j, old.cols + 1), small(kk + j + 1, old.cols + 1)};
        for (int q = 0; q < old.cols; ++q) {
            std::copy_n(old.col(q), kk, u.t.col(q));
            std::copy_n(old.col(q), kk, u.w.col(q));
        }
        const int last = old.cols;
        for (int k = 0; k < j; ++k) {
            for (int q = 0; q < kk; ++q) u.t(q, last) -= l.b(q, k) * y[k] * scale;
            u.t(kk + k, last) = y[k] * scale;
        }
        for (int i = 0; i <= j; ++i) u.w(kk + i, last) = hy[i] * scale;
        return u;
    }

    // Left singular vectors of B R^-1 for its largest singular values (de Sturler's optimal truncation).
    small most_useful(const lane& l, int count) const {
        const int kk = l.kk, j = l.steps;
        small d(kk, j);  // D R = B, column by column
        for (int k = 0; k < j; ++k) {
            std::copy_n(l.b.col(k), kk, d.col(k));
            for (int i = 0; i < k; ++i)
                for (int q = 0; q < kk; ++q) d(q, k) -= d(q, i) * l.r_factor(i, k);
            for (int q = 0; q < kk; ++q) d(q, k) /= l.r_factor(k, k);
        }
        small dd(kk, kk);
        for (int k = 0; k < j; ++k)
            for (int q = 0; q < kk; ++q)
                for (int p = 0; p < kk; ++p) dd(p, q) += d(p, k) * dense::conjugate(d(q, k));
        const small w = dense::leading_eigenvectors(std::move(dd), count, count,
                                                    [](std::complex<double> s) { return s.real(); });
        return dense::factor_pivoted(w, 1e-13).q;
    }

    cycle_view<S, B> view(const lane& l) const {
        return {l, l.v.first(l.steps + 1), directions(l).first(l.steps), !stores_z_, l.h, l.r_factor, l.b};
    }

    // GCRO-DR.
    std::vector<update> deflated(std::span<lane* const> list) {
        std::vector<cycle_grams<S>> grams(list.size());
        std::vector<gram_task<S, B>> tasks;
        for (std::size_t i = 0; i < list.size(); ++i)
            ask_grams(view(*list[i]), o_.select == api::selection::singular, grams[i], tasks);
        k_.gram(tasks);
        std::vector<update> updates;
        for (std::size_t i = 0; i < list.size(); ++i) {
            const lane& l = *list[i];
            const int room = std::min({l.recycle + 1, recycle_cap_, l.restart - 1});
            updates.push_back(deflated_space(view(l), o_.select, l.recycle, room, grams[i],
                                             [&l](S* x) { rotate(l, x, l.steps); }));
        }
        return updates;
    }

    // LGMRES: the correction d (in z) and its image V H y, normalised, replace the oldest pair.
    void keep_corrections(std::span<lane* const> list, const std::vector<std::vector<S>>& ys) {
        for (std::size_t i = 0; i < list.size(); ++i) {
            lane& l = *list[i];
            double size = 0;
            project_task<S, B> norm{{}, l.z, nullptr, &size};
            k_.project(std::span<const project_task<S, B>>(&norm, 1));
            if (!(size > 0) || !std::isfinite(size)) continue;
            std::vector<S> hy(static_cast<std::size_t>(l.steps + 1), S(0));
            for (int k = 0; k < l.steps; ++k)
                for (int a = 0; a <= k + 1; ++a) hy[a] += l.h(a, k) * ys[i][k];
            const combine_task<S, B> image{l.v.first(l.steps + 1), hy.data(), l.w, false};
            k_.combine(std::span<const combine_task<S, B>>(&image, 1));
            const int at = l.oldest_outer;
            const store_task<S, B> pair[2] = {{l.z, 1 / size, l.outer_u.col(at), {}},
                                              {l.w, 1 / size, l.outer_c.col(at), {}}};
            k_.store(std::span<const store_task<S, B>>(pair, 2));
            l.oldest_outer = (at + 1) % o_.outer;
            l.n_outer = std::min(l.n_outer + 1, o_.outer);
        }
    }

    // --- small things ------------------------------------------------------------------------------------

    static std::vector<lane*> unfinished(std::span<lane* const> list) {
        std::vector<lane*> open;
        for (lane* l : list)
            if (!l->finished) open.push_back(l);
        return open;
    }
    // Keeps the x there is as the best one so far.
    void remember(std::span<lane* const> list) {
        std::vector<store_task<S, B>> tasks;  // by way of v, which is free between cycles
        for (lane* l : list) {
            tasks.push_back({l->p.x, 1.0, l->v.col(0), l->best});
            l->best_residual = l->report.residual;
        }
        if (!tasks.empty()) k_.store(tasks);
    }
    void restore(lane& l) {
        const store_task<S, B> task{l.best, 1.0, l.v.col(0), l.p.x};
        k_.store(std::span<const store_task<S, B>>(&task, 1));
        l.report.residual = l.best_residual;
    }
    // A residual that is minimised does not grow but by rounding; the left side minimises another one.
    double tolerated_growth() const { return o_.side == api::side::left && k_.has_inverse() ? 1e6 : 2; }

    // Goes on from the best x, without the space that led away from it: where A is singular, vectors that A
    // nearly annuls make U large and its products inexact.
    void retreat(lane& l) {
        restore(l);
        l.kk = 0;
        lane* const one[1] = {&l};
        true_residuals(one);
        precondition_residuals(one);
        if (!std::isfinite(l.report.residual)) finish(l, status::nonfinite);
    }
    void finish(lane& l, status how) {
        if (how != status::converged && std::isfinite(l.best_residual) &&
            !(l.report.residual <= l.best_residual))
            restore(l);
        l.report.status = how;
        l.finished = true;
        l.steps = 0;
    }
    bool tell(const api::monitor<S>& monitor, lane& l, bool cycle_end) const {
        return monitor &&
               monitor({l.report.iterations, l.report.residual, l.report.target, cycle_end, l.p.x.data});
    }
    tall<B> new_tall(int columns) { return krylov::new_tall<B>(be_, n_, columns); }
    void put(const S* host, lane& l, B* to) { put_column(be_, k_, host, l.w, to); }
    void get(const B* from, lane& l, S* host) { get_column(be_, k_, from, l.w, host); }

    Be& be_;
    K& k_;
    index n_;
    api::options o_;
    std::vector<lane> lanes_;
    int recycle_cap_ = 0, steps_cap_ = 0;
    bool in_solution_space_ = true, stores_z_ = false;
    index column_ld_ = 0;
    vec<S> columns_;
    std::vector<S> host_columns_;
};

}  // namespace aitken::drivers::krylov
