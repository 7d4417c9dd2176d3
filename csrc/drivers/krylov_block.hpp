// GCRO-DR for several right-hand sides with one matrix, all in one block Krylov space ("Blocks" in section 2
// of docs/theory/krylov.md).
//
// The basis grows vector by vector (the band form of block Arnoldi). It begins with the residuals of the
// columns not yet solved; every vector has the operator applied in its turn, and what is new in the product
// joins at the end. What is not new leaves coefficients alone, so that the block narrows by itself where
// right-hand sides depend on each other or a direction's space is exhausted. H then has a band of as many
// subdiagonals as vectors wait, and its least-squares problems, one per column, share one QR by rotations.
//
// Products are made for all waiting vectors in one call, so that the operator is read once; `expand` and one
// read follow per vector, since whether it joins decides where the next one goes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "drivers/krylov.hpp"

namespace aitken::drivers::krylov {

template <class S, class B, Backend Be, class K>
    requires KrylovKernels<K, S, B>
class block_solver {
    using small = dense::small_matrix<S>;

public:
    // Solves A X = B from X, in place. Of the options `outer`, `outer_first`, `steps_beside`, `inner_rtol`
    // and the truncating selections are for single vectors. A cycle takes restart - (vectors held) products,
    // and at least one for each column.
    block_solver(Be& be, K& kernels, tall<const S> b, tall<S> x, const api::options& options)
        : be_(be),
          k_(kernels),
          n_(b.rows),
          o_(options),
          restart_(options.restart),
          recycle_(options.recycle),
          // Residuals fall further in a block's cycle, and the error of one classical pass grows with the
          // square of that.
          ortho_(options.ortho == api::ortho::automatic ? api::ortho::cgs2 : options.ortho),
          in_solution_space_(krylov::in_solution_space(options, kernels.has_inverse())),
          stores_z_(krylov::keeps_directions(options, kernels.has_inverse())) {
        const int width = static_cast<int>(b.cols), grown = o_.adaptive ? 2 : 1;
        const int steps_cap = std::max(grown * o_.restart, width);
        recycle_cap_ = o_.recycle > 0 ? grown * o_.recycle + 1 : 0;
        v_ = new_tall<B>(be_, n_, steps_cap + width);
        if (stores_z_) zs_ = new_tall<B>(be_, n_, steps_cap);
        if (recycle_cap_ > 0)
            for (tall<B>* t : {&space_.c, &space_.u, &space_.spare_c, &space_.spare_u})
                *t = new_tall<B>(be_, n_, recycle_cap_);
        coefficients_ = be_.template allocate<S>(recycle_cap_ + steps_cap + width + 2);
        host_coefficients_.resize(static_cast<std::size_t>(coefficients_.size));
        columns_.resize(static_cast<std::size_t>(width));
        for (int j = 0; j < width; ++j) {
            column& c = columns_[static_cast<std::size_t>(j)];
            c.b = {b.col(j), n_};
            c.x = {x.col(j), n_};
            c.r = be_.template allocate<S>(n_);
            c.best = be_.template allocate<S>(n_);
            w_.push_back(be_.template allocate<S>(n_));
            z_.push_back(be_.template allocate<S>(n_));
        }
    }

    void set_space(const api::space<S>& s) {
        if (!w_.empty()) put_space(be_, k_, s, std::min(recycle_cap_, o_.restart - 1), w_.front(), space_);
    }
    void get_space(api::space<S>& s) {
        if (!w_.empty()) krylov::get_space(be_, k_, space_, w_.front(), s);
    }

    // One report per column. Products in cycles and for the recycled space serve all columns: every report
    // has them as iterations, and the first column's has them among its products.
    std::vector<api::report> run(bool same_matrix) {
        begin(same_matrix);
        while (!open_.empty()) cycle();
        std::vector<api::report> reports;
        for (column& c : columns_) {
            c.report.recycled = recycled_;
            c.report.kept = space_.kk;
            c.report.counts = be_.counts();
            reports.push_back(std::move(c.report));
        }
        if (!reports.empty()) {
            reports.front().matvecs += matvecs_;
            reports.front().precond_applies += precond_applies_;
        }
        return reports;
    }

private:
    // A remainder below this share of the vector is rounding.
    static constexpr double drop = sizeof(B) == sizeof(S) ? 1e-10 : 1e-6;
    // A part of a residual below this share of what its column aims at can be left out of the basis: with
    // inner_aim the tolerance is still met.
    static constexpr double negligible = 2e-3;

    struct column {
        vec<const S> b;
        vec<S> x, r, best;  // best: the x of smallest residual at the end of a cycle, or of the start
        api::report report;
        double best_residual = 0, before = 0;  // before: the same a cycle earlier
        bool open = true;
        double norm_r = 0, aim = 0;  // of the residual the recurrence works with
        std::vector<S> g;            // that residual in the basis, rotated
    };
    // (x_top, x_bottom) -> (c x_top + s x_bottom, -conj(s) x_top + c x_bottom)
    struct rotation {
        int top, bottom;
        double c;
        S s;
        void apply(S* x) const {
            const S above = c * x[top] + s * x[bottom];
            x[bottom] = -dense::conjugate(s) * x[top] + c * x[bottom];
            x[top] = above;
        }
    };

    void begin(bool same_matrix) {
        std::vector<project_task<S, B>> norms;
        for (column& c : columns_) norms.push_back({{}, c.b, nullptr, &c.report.norm_b});
        if (!norms.empty()) k_.project(norms);
        for (column& c : columns_) {
            c.report.target = std::max(o_.rtol * c.report.norm_b, o_.atol);
            if (c.report.norm_b == 0)
                k_.clear(c.x);
            else
                open_.push_back(&c);
        }
        true_residuals();
        for (column* c : open_) c->report.history.push_back(c->report.residual);
        close_solved();
        for (column* c : open_) remember(*c);
        if (!open_.empty() && (o_.max_iterations == 0 || o_.max_cycles == 0))
            return close_all(status::max_iterations);
        if (open_.empty()) return;
        renew_image(same_matrix);
        recycled_ = space_.kk;
        precondition_residuals();
        if (!project_out()) return;
        true_residuals();
        keep_best();
        close_solved();
        precondition_residuals();
    }

    void renew_image(bool same_matrix) {
        if (space_.kk == 0 || (space_.has_image && same_matrix)) return;
        const image op = image_of(o_, k_.has_inverse());
        matvecs_ += space_.kk;
        if (op != image::matrix) precond_applies_ += space_.kk;
        recycled_space<B>* const one[] = {&space_};
        krylov::renew_images<S, B>(k_, one, op);
    }

    // --- residuals -------------------------------------------------------------------------------------

    void true_residuals() {
        std::vector<residual_task<S>> tasks;
        for (column* c : open_) {
            tasks.push_back({0, c->b, c->x, c->r, &c->report.residual});
            ++c->report.matvecs;
        }
        if (!tasks.empty()) k_.residual(tasks);
        for (column* c : open_) {
            c->norm_r = c->report.residual;
            c->aim = inner_aim * c->report.target;
        }
    }
    // The left side works with M^-1 r; the aim is scaled by how much M^-1 changed the norm this time.
    void precondition_residuals() {
        if (o_.side != api::side::left || !k_.has_inverse() || open_.empty()) return;
        std::vector<apply_task<S>> tasks;
        std::vector<project_task<S, B>> norms;
        for (std::size_t i = 0; i < open_.size(); ++i) {
            column* c = open_[i];
            tasks.push_back({0, c->r, w_[i]});
            std::swap(c->r, w_[i]);
            norms.push_back({{}, c->r, nullptr, &c->norm_r});
            ++c->report.precond_applies;
        }
        k_.apply_inverse(tasks);
        k_.project(norms);
        for (column* c : open_)
            if (c->report.residual > 0) c->aim *= c->norm_r / c->report.residual;
    }
    // X += U C^H R, R -= C C^H R. True if any column moved.
    bool project_out() {
        const int kk = space_.kk;
        if (kk == 0 || open_.empty()) return false;
        std::vector<std::vector<S>> h(open_.size(), std::vector<S>(static_cast<std::size_t>(kk))), minus = h;
        std::vector<project_task<S, B>> tasks;
        for (std::size_t i = 0; i < open_.size(); ++i)
            tasks.push_back({space_.c.first(kk), open_[i]->r, h[i].data(), &open_[i]->norm_r});
        k_.project(tasks);
        std::vector<combine_task<S, B>> moves;
        std::vector<std::size_t> moved;
        for (std::size_t i = 0; i < open_.size(); ++i) {
            column& c = *open_[i];
            double size2 = 0;
            for (const S& value : h[i]) size2 += dense::square(value);
            if (!(size2 > 0) || !std::isfinite(size2)) continue;
            moved.push_back(i);
            for (int q = 0; q < kk; ++q) minus[i][q] = -h[i][q];
            moves.push_back({space_.c.first(kk), minus[i].data(), c.r, true});
            moves.push_back(
                {space_.u.first(kk), h[i].data(), in_solution_space_ ? c.x : z_[i], in_solution_space_});
            c.norm_r = std::sqrt(std::max(0.0, c.norm_r * c.norm_r - size2));
        }
        if (moved.empty()) return false;
        k_.combine(moves);
        if (!in_solution_space_) add_preconditioned(moved);
        return true;
    }
    // x += M^-1 z for these of the open columns.
    void add_preconditioned(const std::vector<std::size_t>& which) {
        std::vector<apply_task<S>> tasks;
        for (std::size_t i : which) {
            tasks.push_back({0, z_[i], w_[i]});
            ++open_[i]->report.precond_applies;
        }
        k_.apply_inverse(tasks);
        for (std::size_t i : which) k_.add(w_[i], open_[i]->x);
    }

    // --- one cycle -------------------------------------------------------------------------------------

    void cycle() {
        begin_cycle();
        while (!open_.empty() && !ended_) sweep();
        if (open_.empty()) return;
        ++cycles_;
        if (steps_ == 0) return end_without_steps();
        add_corrections();
        if (o_.recycle > 0) renew_space();
        bool estimated = true;
        for (column* c : open_) estimated = estimated && estimate(*c) <= c->aim;
        const std::size_t before = open_.size();
        for (column* c : open_) c->before = c->best_residual;
        true_residuals();
        keep_best();
        bool idle = true;
        for (column* c : open_) idle = idle && !(c->report.residual <= 0.99 * c->before);
        close_solved();
        if (stuck_ != nullptr && stuck_->open) close(*stuck_, status::breakdown);
        remove_closed();
        judge(idle && open_.size() == before, estimated);
        precondition_residuals();
        project_out();
    }

    // The residuals make the first vectors, as many as are independent.
    void begin_cycle() {
        count_ = used_ = steps_ = 0;
        ended_ = breakdown_ = broken_ = false;
        stuck_ = nullptr;
        owners_.clear();
        const int width = static_cast<int>(open_.size());
        max_steps_ = std::max(restart_ - space_.kk, width);
        h_ = small(max_steps_ + width, max_steps_);
        r_ = small(max_steps_ + width, max_steps_);
        b_ = small(space_.kk, max_steps_);
        rotations_.clear();
        std::vector<column*> bad;
        for (column* c : open_) {
            c->g.assign(static_cast<std::size_t>(max_steps_ + width), S(0));
            if (c->norm_r == 0) continue;
            const store_task<S, B> start{c->r, 1 / c->norm_r, v_.col(count_), w_[count_]};
            k_.store(std::span<const store_task<S, B>>(&start, 1));
            if (!expand(w_[count_], api::ortho::cgs2)) {
                bad.push_back(c);
                continue;
            }
            for (int i = 0; i < count_; ++i) c->g[i] = c->norm_r * host_coefficients_[space_.kk + i];
            if (!(after_ > drop * before_)) continue;
            if (count_ > 0 && c->norm_r * after_ <= negligible * c->aim) continue;
            c->g[count_] = c->norm_r * after_;
            owners_.push_back(c);
            ++count_;
        }
        for (column* c : bad) close(*c, status::nonfinite);
        remove_closed();
        ended_ = count_ == 0;
        breakdown_ = ended_;
    }

    // w against C and V, its coefficients to the host; false where they are not finite.
    bool expand(vec<S> w, api::ortho ortho) {
        const expand_task<S, B> task{space_.c.first(space_.kk), v_.first(count_), w, coefficients_.data};
        k_.expand(std::span<const expand_task<S, B>>(&task, 1), ortho);
        const int total = space_.kk + count_;
        be_.download(vec<const S>(coefficients_.slice(0, total + 2)), host_coefficients_.data());
        after_ = std::real(host_coefficients_[total]);
        before_ = std::real(host_coefficients_[total + 1]);
        bool finite = true;
        for (int i = 0; i < total + 2; ++i) finite = finite && std::isfinite(std::abs(host_coefficients_[i]));
        return finite;
    }

    // The operator on the vectors that wait, in w_ and in v_; what is new in the products waits next.
    void sweep() {
        const int waiting = count_ - used_;
        const int width = static_cast<int>(
            std::min<index>({waiting, max_steps_ - steps_, o_.max_iterations - iterations_}));
        const bool left = o_.side == api::side::left, inverse = k_.has_inverse();
        std::vector<apply_task<S>> first, second;
        std::vector<store_task<S, B>> keep;
        for (int i = 0; i < width; ++i) {
            first.push_back({0, w_[i], z_[i]});
            second.push_back({0, z_[i], w_[i]});
            if (stores_z_) keep.push_back({z_[i], 1.0, zs_.col(steps_ + i), {}});
        }
        if (inverse && !left)
            k_.apply_inverse(first);
        else
            k_.apply_matrix(first);
        if (!keep.empty()) k_.store(keep);
        if (!inverse)
            std::swap_ranges(w_.begin(), w_.begin() + width, z_.begin());
        else if (left)
            k_.apply_inverse(second);
        else
            k_.apply_matrix(second);
        iterations_ += width;
        matvecs_ += width;
        if (inverse) precond_applies_ += width;
        be_.interrupts().poll();
        int next = 0;
        for (int i = 0; i < width && !ended_; ++i) {
            const int had = count_;
            take_product(w_[i]);
            ++used_;
            if (count_ > had) std::swap(w_[next++], w_[i]);
        }
        if (ended_) return;
        bool reached = true;
        for (column* c : open_) reached = reached && c->report.history.back() <= c->aim;
        breakdown_ = count_ == used_;
        ended_ = reached || breakdown_ || steps_ == max_steps_ || iterations_ >= o_.max_iterations;
    }

    // One column of [B; H] from one product: rotated, joined by its new vector, and all estimates renewed.
    void take_product(vec<S> w) {
        if (!expand(w, ortho_)) {
            broken_ = ended_ = true;
            return;
        }
        const int kk = space_.kk, j = steps_;
        const bool joins = after_ > drop * before_;
        const S* from = host_coefficients_.data();
        std::copy_n(from, kk, b_.col(j));
        std::copy_n(from + kk, count_, h_.col(j));
        if (joins) h_(count_++, j) = after_;
        S* r = r_.col(j);
        std::copy_n(h_.col(j), count_, r);
        for (const rotation& q : rotations_) q.apply(r);
        scale_ = std::max(scale_, before_);
        const std::size_t old = rotations_.size();
        for (int i = j + 1; i < count_; ++i) {
            const double a = std::abs(r[j]), below = std::abs(r[i]), d = std::hypot(a, below);
            if (below == 0) continue;
            const S s = a > 0 ? r[j] / a * (dense::conjugate(r[i]) / d) : dense::conjugate(r[i]) / d;
            rotations_.push_back({j, i, a / d, s});
            rotations_.back().apply(r);
            r[i] = 0;
        }
        for (column* c : open_)
            for (std::size_t q = old; q < rotations_.size(); ++q) rotations_[q].apply(c->g.data());
        // A product that depends on those before adds nothing: the operator is singular on the space. Where
        // the vector was a column's residual, that column can go no further.
        if (std::abs(r[j]) > (joins ? 1e-12 : drop) * scale_) {
            ++steps_;
        } else {
            ended_ = breakdown_ = true;
            if (used_ < static_cast<int>(owners_.size())) stuck_ = owners_[static_cast<std::size_t>(used_)];
        }
        for (column* c : open_) c->report.history.push_back(estimate(*c));
    }

    double estimate(const column& c) const {
        double sum = 0;
        for (int i = steps_; i < count_; ++i) sum += dense::square(c.g[i]);
        return std::sqrt(sum);
    }

    tall<const B> directions() const { return stores_z_ ? zs_ : v_; }

    // d = Z y - U B y with min || g - H y || for every column, x += d (times M^-1 where Z is not kept).
    void add_corrections() {
        const int kk = space_.kk;
        std::vector<std::vector<S>> ys, bys;
        std::vector<std::size_t> all;
        for (std::size_t i = 0; i < open_.size(); ++i) {
            std::vector<S> y(open_[i]->g.begin(), open_[i]->g.begin() + steps_);
            dense::solve_upper(r_, steps_, y.data());
            bool finite = true;
            for (const S& value : y) finite = finite && std::isfinite(std::abs(value));
            if (!finite) {
                broken_ = true;
                std::fill(y.begin(), y.end(), S(0));
            }
            std::vector<S> by(static_cast<std::size_t>(kk), S(0));
            for (int k = 0; k < steps_; ++k)
                for (int q = 0; q < kk; ++q) by[q] -= b_(q, k) * y[k];
            ys.push_back(std::move(y));
            bys.push_back(std::move(by));
            all.push_back(i);
        }
        std::vector<combine_task<S, B>> moves, more;
        for (std::size_t i : all) {
            moves.push_back({directions().first(steps_), ys[i].data(), z_[i], false});
            if (kk > 0) more.push_back({space_.u.first(kk), bys[i].data(), z_[i], true});
        }
        k_.combine(moves);
        if (!more.empty()) k_.combine(more);
        if (k_.has_inverse() && o_.side != api::side::left && !stores_z_)
            add_preconditioned(all);
        else
            for (std::size_t i : all) k_.add(z_[i], open_[i]->x);
    }

    void renew_space() {
        const cycle_view<S, B> view{space_, v_.first(count_), directions().first(steps_), !stores_z_, h_, r_,
                                    b_};
        cycle_grams<S> grams;
        std::vector<gram_task<S, B>> tasks;
        ask_grams(view, o_.select == api::selection::singular, grams, tasks);
        if (!tasks.empty()) k_.gram(tasks);
        const int room = std::min({recycle_ + 1, recycle_cap_, restart_ - 1});
        const space_update<S> update = deflated_space(view, o_.select, recycle_, room, grams, [this](S* x) {
            for (const rotation& q : rotations_) q.apply(x);
        });
        std::vector<mix_task<S, B>> mixes;
        ask_update(view, update, mixes);
        if (!mixes.empty()) k_.mix(mixes);
        adopt<S, B>(space_, update);
    }

    // --- ends ------------------------------------------------------------------------------------------

    void remember(column& c) {
        k_.clear(c.best);
        k_.add(c.x, c.best);
        c.best_residual = c.report.residual;
    }
    // A cycle never makes a residual larger but by rounding: of a correction that is huge since the matrix is
    // singular. Such a column goes back.
    void keep_best() {
        std::vector<residual_task<S>> again;
        for (column* c : open_) {
            if (c->report.residual <= (1 + 1e-10) * c->best_residual) {
                remember(*c);
                continue;
            }
            k_.clear(c->x);
            k_.add(c->best, c->x);
            if (!std::isfinite(c->report.residual)) {
                c->report.residual = c->best_residual;
                close(*c, status::nonfinite);
                continue;
            }
            again.push_back({0, c->b, c->x, c->r, &c->report.residual});
            ++c->report.matvecs;
        }
        if (!again.empty()) k_.residual(again);
        remove_closed();
        for (column* c : open_) c->norm_r = c->report.residual;
    }

    void end_without_steps() {
        if (broken_) return close_all(status::nonfinite);
        if (stuck_ == nullptr) return close_all(status::breakdown);
        close(*stuck_, status::breakdown);
        remove_closed();
        if (iterations_ >= o_.max_iterations) close_all(status::max_iterations);
    }

    void judge(bool idle, bool estimated) {
        if (open_.empty()) return;
        if (broken_) return close_all(status::nonfinite);
        if (iterations_ >= o_.max_iterations || (o_.max_cycles >= 0 && cycles_ >= o_.max_cycles))
            return close_all(status::max_iterations);
        if (breakdown_ && idle) return close_all(status::breakdown);
        idle_cycles_ = idle ? idle_cycles_ + 1 : 0;
        failed_checks_ += estimated && idle;
        if (!o_.watch_stagnation || (failed_checks_ < 3 && idle_cycles_ < idle_limit)) return;
        if (!o_.adaptive || adapted_) return close_all(status::stagnated);
        adapted_ = true;
        restart_ *= 2;
        recycle_ = o_.recycle > 0 ? std::min(2 * recycle_, std::max(1, restart_ / 4)) : 0;
        idle_cycles_ = failed_checks_ = 0;
    }

    // Columns whose true residual decides them.
    void close_solved() {
        for (column* c : open_) {
            if (!std::isfinite(c->report.residual) || !std::isfinite(c->report.norm_b))
                close(*c, status::nonfinite);
            else if (c->report.residual <= c->report.target)
                close(*c, status::converged);
        }
        remove_closed();
    }
    void close_all(status how) {
        for (column* c : open_) close(*c, how);
        remove_closed();
    }
    void close(column& c, status how) {
        c.report.status = how;
        c.report.iterations = iterations_;
        c.report.cycles = cycles_;
        c.report.adapted = adapted_;
        c.open = false;
    }
    void remove_closed() {
        std::erase_if(open_, [](const column* c) { return !c->open; });
    }

    Be& be_;
    K& k_;
    index n_;
    api::options o_;
    int restart_, recycle_, recycle_cap_ = 0;
    api::ortho ortho_;
    bool in_solution_space_, stores_z_;
    std::vector<column> columns_;
    std::vector<column*> open_;
    recycled_space<B> space_;
    tall<B> v_, zs_;
    std::vector<vec<S>> w_, z_;  // the waiting vectors in full precision, and their products
    vec<S> coefficients_;
    std::vector<S> host_coefficients_;
    index iterations_ = 0, cycles_ = 0, matvecs_ = 0, precond_applies_ = 0;
    int recycled_ = 0, idle_cycles_ = 0, failed_checks_ = 0;
    bool adapted_ = false;
    // The cycle under way: Op [U Z] = [C V] [[1, B], [0, H]], V of count_ vectors of which used_ had their
    // turn, Z of steps_.
    int count_ = 0, used_ = 0, steps_ = 0, max_steps_ = 0;
    bool ended_ = false, breakdown_ = false, broken_ = false;
    double after_ = 0, before_ = 0, scale_ = 0;  // of the last `expand`; the longest product so far
    std::vector<column*> owners_;                // of the vectors that the cycle began with
    column* stuck_ = nullptr;
    small h_, r_, b_;
    std::vector<rotation> rotations_;
};

}  // namespace aitken::drivers::krylov
