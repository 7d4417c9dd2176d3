// Chains of related systems over the lanes of a solver: which system a lane takes next, what start it gets
// from earlier solutions, and whether the recycled space still pays.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <deque>
#include <span>
#include <vector>

#include "core/api/sequence.hpp"
#include "core/backend.hpp"
#include "dense/small.hpp"
#include "drivers/krylov.hpp"

namespace aitken::drivers::sequence {

namespace api = aitken::sequence;

// Beside KrylovKernels: where systems and solutions are.
template <class K, class S>
concept SequenceKernels = requires(K& k, int lane, index system) {
    { k.open(lane, system) } -> std::same_as<bool>;  // operators of that system; true: the same matrix again
    { k.rhs(lane, system) } -> std::same_as<vec<const S>>;
    { k.solution(system) } -> std::same_as<vec<S>>;       // where its solution belongs
    { k.params(system) } -> std::same_as<const double*>;  // where it lies among the systems; may be null
    { k.n_params() } -> std::convertible_to<index>;
    k.told(lane, index(1));  // iterations the lane's solve took
};

// A system source (drivers/krylov.hpp) that hands each lane one chain after the other.
template <class S, class B, Backend Be, class K>
    requires SequenceKernels<K, S>
class chain_source {
public:
    chain_source(Be& be, K& kernels, index n, std::span<const std::span<const index>> chains,
                 const api::options& options, const api::monitor& monitor, int lanes)
        : be_(be),
          k_(kernels),
          chains_(chains),
          o_(options),
          monitor_(monitor),
          lanes_(static_cast<std::size_t>(lanes)),
          n_(n) {
        capacity_ = o_.project > 0 ? std::max(o_.project, same_matrix_project) : 0;
        if (capacity_ == 0) return;
        const index ld = (n_ + 15) / 16 * 16;
        for (lane& l : lanes_) {
            for (tall<B>* t : {&l.x, &l.ax, &l.q})
                *t = {be_.template allocate<B>(ld * capacity_).data, n_, capacity_, ld};
            l.work = be_.template allocate<S>(n_);
            l.coefficients = be_.template allocate<S>((capacity_ + 2) * capacity_);
        }
    }

    bool next(int id, krylov::problem<S>& p) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        if (stopped_) return false;
        if (l.at == l.chain.size()) {
            if (next_chain_ == chains_.size()) return false;
            l.begin(chains_[next_chain_++]);
            if (l.chain.empty()) return next(id, p);
            l.first = !(seeded_ && next_chain_ == 1);
        }
        const index i = l.chain[l.at];
        l.began = std::chrono::steady_clock::now();
        const bool same = k_.open(id, i);
        l.same_run = same ? l.same_run + 1 : 0;
        p.b = k_.rhs(id, i);
        p.x = k_.solution(i);
        p.same_matrix = same;
        l.measuring = o_.guard && l.count > 0 && l.count % remeasure_every == 0;
        l.carried = o_.recycle && !l.dropped && !l.measuring;
        p.forget = l.first || !l.carried;
        p.harvest = o_.recycle && !l.dropped;
        l.first = false;
        k_.clear(p.x);
        l.projected = 0;
        if (capacity_ > 0 && (l.pause == 0 || --l.pause == 0))
            l.projected = start_from_solutions(id, l, i, p);
        return true;
    }

    template <class Report>
    void done(int id, const Report& r) {
        lane& l = lanes_[static_cast<std::size_t>(id)];
        const index i = l.chain[l.at];
        api::record out;
        out.status = r.status;
        out.nit = r.iterations;
        out.matvecs = r.matvecs + l.projected;
        out.residual = r.residual;
        out.norm_b = r.norm_b;
        out.start = r.history.empty() ? 0 : r.history.front();
        out.recycled = r.recycled;
        out.projected = l.projected;
        out.carried = l.carried;
        out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - l.began).count();
        k_.told(id, r.iterations);
        if (r.status == status::converged) l.solved.push_back(i);
        const auto nit = static_cast<double>(r.iterations);
        watch(l, r.recycled > 0 ? nit * o_.carried_step + r.recycled + o_.carried_once : nit);
        if (l.projected > 0) watch_start(l, out, r.target);
        ++l.at;
        ++l.count;
        if (monitor_(i, out)) stopped_ = true;
    }

    void seed() { seeded_ = true; }  // the first chain starts from the space the solver holds

    // For sequences that become known one by one: lane 0 goes on with these, as if they were of its chain.
    void resume(std::span<const index> more) {
        lane& l = lanes_.front();
        l.first = l.count == 0 && !seeded_;
        l.chain = more;
        l.at = 0;
    }
    // The storage of that system's solution is about to be used again.
    void forget(index system) {
        for (lane& l : lanes_) std::erase(l.solved, system);
    }
    void start_anew() { lanes_.front().begin({}); }

private:
    // With one matrix all solutions lie in a space of few dimensions, so that more of them pay.
    static constexpr int same_matrix_project = 32;
    static constexpr std::size_t remeasure_every = 100;
    static constexpr std::size_t watched = 2;
    static constexpr int pause_of_starts = 20;

    struct lane {
        std::span<const index> chain;
        std::size_t at = 0, count = 0;  // in the chain given, and since its beginning
        bool first = false, measuring = false, carried = true, dropped = false;
        int same_run = 0, projected = 0, pause = 0;
        std::vector<index> solved;
        double plain_cost = -1;  // iterations of a solve without recycling
        std::deque<double> recent, gains;
        std::chrono::steady_clock::time_point began;
        // Room for the start: solutions X, A X, its orthonormal basis.
        tall<B> x, ax, q;
        vec<S> work, coefficients;

        void begin(std::span<const index> systems) {
            chain = systems;
            at = count = 0;
            dropped = false;
            same_run = 0;
            solved.clear();
            recent.clear();
            gains.clear();
            pause = 0;
        }
    };

    // The mean of `watched` solves above 1.05 times a solve without carry: the space is dropped until
    // measured anew.
    void watch(lane& l, double cost) {
        if (!o_.guard || !o_.recycle) return;
        if (l.count == 0 || l.measuring) {
            l.plain_cost = cost;
            l.recent.clear();
            l.dropped = false;
            return;
        }
        if (l.dropped) return;
        l.recent.push_back(cost);
        if (l.recent.size() > watched) l.recent.pop_front();
        if (l.recent.size() < watched) return;
        l.dropped = mean(l.recent) > 1.05 * l.plain_cost;
    }

    // What the start was worth: the iterations that its reduction of the residual would have taken at this
    // solve's rate, against the cost of the solutions it was made of.
    void watch_start(lane& l, const api::record& r, double target) {
        if (!o_.guard || !(r.start > target) || !(target > 0)) return;
        const double rate = static_cast<double>(r.nit) / std::log(r.start / target);
        l.gains.push_back(rate * std::log(r.norm_b / r.start) - o_.projected_step * l.projected);
        if (l.gains.size() > watched) l.gains.pop_front();
        if (l.gains.size() < watched || mean(l.gains) > 0) return;
        l.pause = pause_of_starts;
        l.gains.clear();
    }

    static double mean(const std::deque<double>& values) {
        double sum = 0;
        for (double v : values) sum += v;
        return sum / static_cast<double>(values.size());
    }

    // The earlier systems of the chain nearest in parameters, else the latest.
    std::vector<index> neighbours(const lane& l, index system, int count) const {
        std::vector<index> list(l.solved.rbegin(), l.solved.rend());
        if (static_cast<int>(list.size()) <= count) return list;
        const double* const here = k_.params(system);
        if (here != nullptr) {
            const index d = k_.n_params();
            std::vector<std::pair<double, index>> order;
            for (index s : list) {
                const double* const there = k_.params(s);
                double sum = 0;
                for (index q = 0; q < d; ++q) sum += (here[q] - there[q]) * (here[q] - there[q]);
                order.push_back({sum, static_cast<index>(order.size())});
            }
            std::partial_sort(order.begin(), order.begin() + count, order.end());
            std::vector<index> nearest;
            for (int q = 0; q < count; ++q)
                nearest.push_back(list[static_cast<std::size_t>(order[q].second)]);
            return nearest;
        }
        list.resize(static_cast<std::size_t>(count));
        return list;
    }

    // x = X argmin || b - A X c || by a QR of A X: p products with A, 8 n p^2 flops, one read. Neighbours'
    // solutions are nearly parallel, so the factor comes from two passes of Gram-Schmidt, not from A X's Gram
    // matrix, and directions below 1e-10 are left out.
    int start_from_solutions(int id, lane& l, index system, const krylov::problem<S>& p) {
        const int wanted = l.same_run > 0 ? capacity_ : std::min(o_.project, capacity_);
        const auto list = neighbours(l, system, wanted);
        const int count = static_cast<int>(list.size());
        if (count == 0) return 0;
        std::vector<krylov::store_task<S, B>> loads;
        for (int q = 0; q < count; ++q) loads.push_back({k_.solution(list[q]), 1.0, l.x.col(q), {}});
        k_.store(std::span<const krylov::store_task<S, B>>(loads));
        const krylov::apply_columns_task<B> product{id, l.x.first(count), l.ax.first(count)};
        k_.apply_matrix_columns(std::span<const krylov::apply_columns_task<B>>(&product, 1));
        const index ld = capacity_ + 2;
        for (int q = 0; q < count; ++q) {
            k_.load(l.ax.col(q), l.work);
            const krylov::expand_task<S, B> append{{}, l.q.first(q), l.work, l.coefficients.data + q * ld};
            k_.expand(std::span<const krylov::expand_task<S, B>>(&append, 1), aitken::krylov::ortho::cgs2);
        }
        std::vector<S> r(static_cast<std::size_t>(ld * count)), c(static_cast<std::size_t>(count));
        be_.download(vec<const S>(l.coefficients.slice(0, ld * count)), r.data());
        double norm = 0;
        const krylov::project_task<S, B> onto{l.q.first(count), p.b, c.data(), &norm};
        k_.project(std::span<const krylov::project_task<S, B>>(&onto, 1));
        for (int q = count - 1; q >= 0;
             --q) {  // column q: its coefficients, then its length after and before
            const S* const column = r.data() + q * ld;
            const double after = std::real(column[q]), before = std::real(column[q + 1]);
            c[q] = after > 1e-10 * before ? c[q] / after : S(0);
            for (int k = 0; k < q; ++k) c[k] -= column[k] * c[q];
        }
        const krylov::combine_task<S, B> start{l.x.first(count), c.data(), p.x, false};
        k_.combine(std::span<const krylov::combine_task<S, B>>(&start, 1));
        return count;
    }

    Be& be_;
    K& k_;
    std::span<const std::span<const index>> chains_;
    const api::options& o_;
    const api::monitor& monitor_;
    std::vector<lane> lanes_;
    index n_;
    int capacity_ = 0;
    std::size_t next_chain_ = 0;
    bool stopped_ = false, seeded_ = false;
};

}  // namespace aitken::drivers::sequence
