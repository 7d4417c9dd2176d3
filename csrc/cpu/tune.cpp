// What every tuner does around its policy: contexts, tokens, failures, backstop, change detection, history.
#include "core/api/tune.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

#include "cpu/tune_policy.hpp"

namespace aitken::tune {

namespace {

constexpr std::uint32_t purpose = 0x74756e65;  // the tuners' part of the Philox counter
constexpr double infinity = std::numeric_limits<double>::infinity();
// Policies square costs and divide by them: what lies beyond is refused, what lies below counts as 0.
constexpr double largest_cost = 1e100, smallest_cost = 1e-100;

// Median of the last costs.
class running_median {
public:
    static constexpr std::size_t window = 101;

    void add(double cost) {
        if (ring_.size() == window) {
            sorted_.erase(std::lower_bound(sorted_.begin(), sorted_.end(), ring_.front()));
            ring_.erase(ring_.begin());
        }
        ring_.push_back(cost);
        sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), cost), cost);
    }
    bool empty() const { return ring_.empty(); }
    // Whether all are whole numbers, as counts of iterations are.
    bool counts() const {
        return std::all_of(ring_.begin(), ring_.end(), [](double x) { return x == std::floor(x); });
    }
    double value() const {
        const std::size_t n = sorted_.size();
        return n % 2 == 1 ? sorted_[n / 2] : 0.5 * (sorted_[n / 2 - 1] + sorted_[n / 2]);
    }
    void transfer(archive& a) {
        a.list("recent", ring_);
        a.need(ring_.size() <= window, "recent", "is longer than " + std::to_string(window));
        sorted_ = ring_;
        std::sort(sorted_.begin(), sorted_.end());
    }

private:
    std::vector<double> ring_, sorted_;
};

// Two-sided CUSUM of ln(cost) about the mean of its arm and context cell, in standard deviations. An alarm
// needs a sum above 5 with a drift of 1 and steps of at most 4: never one outlier.
class change_detector {
public:
    explicit change_detector(index cells) : plays_(static_cast<std::size_t>(cells)), mean_(plays_.size()) {}

    bool add(index cell, double y) {
        constexpr double threshold = 5.0, drift = 1.0, step = 4.0, least_plays = 5.0;
        double &n = plays_[static_cast<std::size_t>(cell)], &mean = mean_[static_cast<std::size_t>(cell)];
        const double residual = y - mean;
        bool alarm = false;
        if (n >= least_plays && residuals_ >= 2.0 * least_plays) {
            const double sd = std::max(std::sqrt(squares_ / residuals_ * (1.0 + 1.0 / n)), 1e-3);
            const double z = std::clamp(residual / sd, -step, step);
            above_ = std::max(0.0, above_ + z - drift);
            below_ = std::max(0.0, below_ - z - drift);
            alarm = std::max(above_, below_) > threshold;
        }
        if (alarm) {
            clear();
            return true;
        }
        n += 1.0;
        mean += residual / n;
        if (n > 1.0) {
            residuals_ += 1.0;
            squares_ += residual * residual * (n - 1.0) / n;
        }
        return false;
    }
    void transfer(archive& a) {
        a.field("cusum.plays", plays_);
        a.field("cusum.mean", mean_);
        a.field("cusum.residuals", residuals_);
        a.field("cusum.squares", squares_);
        a.field("cusum.above", above_);
        a.field("cusum.below", below_);
        a.need(residuals_ >= 0.0 && squares_ >= 0.0, "cusum.squares", "or 'cusum.residuals' is negative");
        a.within(0.0, 0x1p53, "cusum.plays", plays_);
        a.within(-1e3, 1e3, "cusum.mean", mean_);  // of logarithms
    }

private:
    void clear() {
        std::fill(plays_.begin(), plays_.end(), 0.0);
        std::fill(mean_.begin(), mean_.end(), 0.0);
        residuals_ = squares_ = above_ = below_ = 0.0;
    }
    std::vector<double> plays_, mean_;
    double residuals_ = 0.0, squares_ = 0.0, above_ = 0.0, below_ = 0.0;
};

void check(const options& o) {
    const auto need = [](bool ok, const char* what) {
        if (!ok) throw std::invalid_argument(what);
    };
    need(o.arms >= 1, "`arms` must not be empty");
    need(o.bins >= 1 && o.bins <= 1024, "`bins` must be 1 to 1024");
    need(o.keep >= 0, "`keep` must be >= 0");
    need(o.discount > 0.0 && o.discount <= 1.0, "`discount` must be in (0, 1]");
    need(o.first_arm < o.arms && o.first_count >= 0, "`fixed_first` names no arm");
    need(o.floor <= largest_cost, "`floor` must be at most 1e100");
    if (!o.has_context) {
        need(o.bins == 1, "`bins` needs `context`");
        need(o.kind != method::chebcb && o.kind != method::tsallis_cb, "this method needs `context`");
        return;
    }
    need(o.kind != method::tsallis && o.kind != method::thompson, "this method takes no `context`");
    need(std::isfinite(o.lo) && std::isfinite(o.hi) && o.lo < o.hi, "`context` must be (a, b) with a < b");
    need(!o.log_context || o.lo > 0.0, "`context` must be positive for context_transform='log'");
}

std::unique_ptr<policy> make_policy(const options& o, const shared_facts& shared) {
    switch (o.kind) {
        case method::gp:
            return make_gp(o, shared);
        case method::chebcb:
            return make_chebcb(o, shared);
        case method::thompson:
            return make_thompson(o, shared);
        default:
            return make_tsallis(o, shared);
    }
}

class bandit final : public tuner {
public:
    explicit bandit(const options& o) : options_((check(o), o)), all_(std::make_unique<state>(options_)) {}

    suggestion suggest(double context, bool keep) override {
        const std::lock_guard lock(mutex_);
        state& s = *all_;
        pending next;
        next.what.where = locate(context, &s.clipped);
        next.context = context;
        if (first_is_due(s)) {
            --s.first_left;
            next.what.forced = true;
            next.what.arm = options_.first_arm;
        }
        // A single arm takes nothing from the stream; forced plays still ask for their distribution.
        const philox_stream stream{options_.seed, purpose, static_cast<std::uint32_t>(s.draws >> 32),
                                   static_cast<std::uint32_t>(s.draws)};
        if (options_.arms > 1 && !next.what.forced) ++s.draws;
        if (options_.arms > 1) {
            s.rule->choose(next.what, stream);
        } else if (options_.kind == method::tsallis || options_.kind == method::tsallis_cb) {
            next.what.p.assign(1, 1.0);
        }
        const std::int64_t token = s.next_token++;
        const index arm = next.what.arm;
        if (!keep) {
            if (s.open >= 0) s.discarded += static_cast<index>(s.flying.erase(s.open));
            s.open = token;
        }
        s.flying.emplace(token, std::move(next));
        return {arm, token};
    }

    void observe(double cost, std::int64_t token, bool failed) override {
        const std::lock_guard lock(mutex_);
        state& s = *all_;
        const auto found = find(token);
        if (!failed && !(cost >= 0.0 && cost <= largest_cost))
            throw std::invalid_argument("`cost` must be in [0, 1e100] unless failed=True; got " + text(cost));
        if (!failed && cost < options_.floor)
            throw std::invalid_argument("`cost` is " + text(cost) +
                                        ", below `floor` = " + text(options_.floor));
        const pending done = std::move(found->second);
        if (found->first == s.open) s.open = -1;
        s.flying.erase(found);
        record(done, cost, failed);
    }

    void discard(std::int64_t token) override {
        const std::lock_guard lock(mutex_);
        const auto found = find(token);
        if (found->first == all_->open) all_->open = -1;
        all_->flying.erase(found);
        ++all_->discarded;
    }

    void replay(index arm, double context, double cost) override {
        const std::lock_guard lock(mutex_);
        if (arm < 0 || arm >= options_.arms) throw std::invalid_argument("`prior` names no arm");
        if (!(cost >= 0.0 && cost <= largest_cost) || cost < options_.floor)
            throw std::invalid_argument("`prior` has the cost " + text(cost));
        pending done;
        done.what.where = locate(context, &all_->clipped);
        done.context = context;
        done.what.forced = true;
        done.what.arm = arm;
        if (cost < smallest_cost) cost = 0.0;
        note_cost(cost);
        all_->rule->learn(done.what, cost);
    }

    std::vector<double> probabilities(double context) const override {
        const std::lock_guard lock(mutex_);
        std::vector<double> p(static_cast<std::size_t>(options_.arms), 0.0);
        if (first_is_due(*all_))
            p[static_cast<std::size_t>(options_.first_arm)] = 1.0;
        else if (options_.arms == 1)
            p[0] = 1.0;
        else
            all_->rule->distribution(locate(context, nullptr), p.data());
        return p;
    }

    index best(double context) const override {
        const std::lock_guard lock(mutex_);
        return options_.arms == 1 ? 0 : all_->rule->best(locate(context, nullptr));
    }

    double limit() const override {
        const std::lock_guard lock(mutex_);
        if (options_.backstop_factor <= 0.0 || all_->recent.empty()) return infinity;
        const double least = options_.backstop_least >= 0.0 ? options_.backstop_least
                             : all_->recent.counts()        ? 50.0
                                                            : 0.0;
        return std::max(least, options_.backstop_factor * all_->recent.value());
    }

    facts stats() const override {
        const std::lock_guard lock(mutex_);
        const state& s = *all_;
        facts f;
        f.observations = s.observations;
        f.clipped = s.clipped;
        f.restarts = s.restarts;
        f.discarded = s.discarded;
        f.in_flight = static_cast<index>(s.flying.size());
        f.total_cost = s.total;
        for (index i = 0; i < options_.arms; ++i) {
            if (!s.shared.allowed(i)) f.barred.push_back(i);
            f.failures += static_cast<index>(s.failures[static_cast<std::size_t>(i)]);
            f.plays.push_back(static_cast<index>(s.plays[static_cast<std::size_t>(i)]));
        }
        return f;
    }

    past history() const override {
        const std::lock_guard lock(mutex_);
        past h = all_->done;
        trim(h, static_cast<std::size_t>(options_.keep));
        return h;
    }

    snapshot save() const override {
        const std::lock_guard lock(mutex_);
        archive a;
        all_->transfer(a, options_);
        return a.values();
    }

    void restore(const snapshot& from) override {
        auto fresh = std::make_unique<state>(options_);
        archive a(from);
        fresh->transfer(a, options_);
        check_rule(a, *fresh);
        const std::lock_guard lock(mutex_);
        all_ = std::move(fresh);
    }

private:
    struct pending {
        play what;
        double context = 0.0;
    };

    // All that changes.
    struct state {
        explicit state(const options& o)
            : failures(static_cast<std::size_t>(o.arms)),
              in_a_row(failures.size()),
              plays(failures.size()),
              detector(o.arms * o.bins) {
            shared.barred.assign(failures.size(), 0.0);
            shared.given_floor = o.floor;
            first_left = o.first_count;
            rule = make_policy(o, shared);
        }
        state(const state&) = delete;

        shared_facts shared;  // the policy looks at it here: a state stays where it is
        std::unique_ptr<policy> rule;
        std::vector<double> failures, in_a_row, plays;
        index draws = 0, next_token = 0, first_left = 0;
        std::int64_t open = -1;  // the token of the last suggestion without one
        index observations = 0, clipped = 0, restarts = 0, discarded = 0;
        double total = 0.0;
        std::map<std::int64_t, pending> flying;
        running_median recent;
        change_detector detector;
        past done;

        void transfer(archive& a, const options& o) {
            a.field("barred", shared.barred);
            a.field("known", shared.known);
            a.field("least", shared.least);
            a.field("most", shared.most);
            a.field("least_positive", shared.least_positive);
            a.field("failures", failures);
            a.field("in_a_row", in_a_row);
            a.field("plays", plays);
            a.count("draws", draws);
            a.count("next_token", next_token);
            a.count("first_left", first_left);
            a.count("open", open, -1);
            a.count("observations", observations);
            a.count("clipped", clipped);
            a.count("restarts", restarts);
            a.count("discarded", discarded);
            a.field("total", total);
            a.within(0.0, largest_cost, "least", {shared.least, shared.most, shared.least_positive});
            for (const double b : shared.barred)
                a.need(b == 0.0 || b == 1.0, "barred", "holds neither 0 nor 1");
            a.need(std::find(shared.barred.begin(), shared.barred.end(), 0.0) != shared.barred.end(),
                   "barred", "leaves no arm");
            for (const auto* counts : {&failures, &in_a_row, &plays})
                for (const double n : *counts)
                    a.need(n >= 0.0 && n <= 0x1p53, "plays", "or failures are no counts");
            recent.transfer(a);
            if (o.cusum) detector.transfer(a);
            rule->transfer(a);
            for (const auto& [name, list] : {std::pair{"history.arm", &done.arm},
                                             {"history.cost", &done.cost},
                                             {"history.failed", &done.failed}}) {
                a.list(name, *list);
                a.need(list->size() == done.arm.size(), name, "has another length than 'history.arm'");
            }
            a.list("history.context", done.context);
            a.need(done.context.size() == (o.has_context ? done.arm.size() : 0), "history.context",
                   "has another length than 'history.arm'");
            for (const double arm : done.arm) need_arm(a, arm, o, "history.arm");
            transfer_flying(a, o);
        }

        static void need_arm(const archive& a, double arm, const options& o, const char* name) {
            a.need(arm >= 0.0 && arm < static_cast<double>(o.arms) && arm == std::floor(arm), name,
                   "names no arm");
        }

        void transfer_flying(archive& a, const options& o) {
            constexpr std::size_t head = 8;  // numbers before the distribution
            std::vector<double> flat;
            for (const auto& [token, p] : flying) {
                const play& w = p.what;
                for (const double x : {static_cast<double>(token), static_cast<double>(w.arm), p.context,
                                       w.where.x, static_cast<double>(w.where.cell), w.forced ? 1.0 : 0.0,
                                       w.round, static_cast<double>(w.p.size())})
                    flat.push_back(x);
                flat.insert(flat.end(), w.p.begin(), w.p.end());
            }
            a.list("in_flight", flat);
            if (!a.reading()) return;
            flying.clear();
            const bool drawn = o.kind == method::tsallis || o.kind == method::tsallis_cb;
            const std::size_t size = head + (drawn ? static_cast<std::size_t>(o.arms) : 0);
            a.need(flat.size() % size == 0, "in_flight", "has a wrong length");
            for (std::size_t k = 0; k < flat.size(); k += size) {
                const double* v = flat.data() + k;
                need_arm(a, v[1], o, "in_flight");
                const auto cell = static_cast<double>(o.bins);
                const bool ok = v[0] >= 0.0 && v[0] < static_cast<double>(next_token) && v[3] >= 0.0 &&
                                v[3] <= 1.0 && v[4] >= 0.0 && v[4] < cell && v[6] >= 1.0 &&
                                v[7] == static_cast<double>(size - head);
                a.need(ok, "in_flight", "holds an impossible suggestion");
                pending p;
                p.what.arm = static_cast<index>(v[1]);
                p.context = v[2];
                p.what.where = {v[3], static_cast<index>(v[4])};
                p.what.forced = v[5] != 0.0;
                p.what.round = v[6];
                p.what.p.assign(v + head, v + size);
                a.need(!drawn || p.what.p[static_cast<std::size_t>(p.what.arm)] > 0.0, "in_flight",
                       "holds a probability of 0");
                flying[static_cast<std::int64_t>(v[0])] = std::move(p);
            }
            a.need(open < 0 || flying.count(open) == 1, "open", "is not in flight");
        }
    };

    // Numbers that are fine one by one may still overflow together.
    void check_rule(const archive& a, const state& s) const {
        std::vector<double> p(static_cast<std::size_t>(options_.arms));
        for (index cell = 0; cell < options_.bins; ++cell) {
            place where;
            where.cell = cell;
            s.rule->distribution(where, p.data());
            double sum = 0.0;
            for (const double x : p) sum += x;
            const bool ok = *std::min_element(p.begin(), p.end()) >= 0.0 && std::fabs(sum - 1.0) < 1e-6;
            a.need(ok, "policy", "gives no probabilities");
        }
    }

    bool first_is_due(const state& s) const {
        return s.first_left > 0 && options_.first_arm >= 0 && s.shared.allowed(options_.first_arm);
    }

    static std::string text(double x) {
        std::ostringstream s;
        s << x;
        return s.str();
    }

    // Clips the context into the box.
    place locate(double& context, index* clipped) const {
        place where;
        if (!options_.has_context) {
            context = 0.0;
            return where;
        }
        if (!(context >= options_.lo && context <= options_.hi)) {
            if (clipped != nullptr) ++*clipped;
            if (std::isnan(context)) context = middle();
            context = std::clamp(context, options_.lo, options_.hi);
        }
        where.x = options_.log_context ? std::log(context / options_.lo) / std::log(options_.hi / options_.lo)
                                       : (context - options_.lo) / (options_.hi - options_.lo);
        where.x = std::clamp(where.x, 0.0, 1.0);
        where.cell =
            std::min(options_.bins - 1, static_cast<index>(where.x * static_cast<double>(options_.bins)));
        return where;
    }

    double middle() const {
        return options_.log_context ? std::sqrt(options_.lo) * std::sqrt(options_.hi)
                                    : 0.5 * options_.lo + 0.5 * options_.hi;
    }

    std::map<std::int64_t, pending>::iterator find(std::int64_t token) {
        if (token < 0 && all_->open < 0)
            throw std::logic_error(all_->flying.empty()
                                       ? "observe() without suggest(): nothing is in flight"
                                       : "observe() needs the `token` of one of the suggestions in flight");
        const auto found = all_->flying.find(token < 0 ? all_->open : token);
        if (found == all_->flying.end())
            throw std::invalid_argument("`token` " + std::to_string(token) + " is not in flight");
        return found;
    }

    void note_cost(double cost) {
        shared_facts& f = all_->shared;
        f.least = f.known > 0.0 ? std::min(f.least, cost) : cost;
        f.known = 1.0;
        f.most = std::max(f.most, cost);
        if (cost > 0.0) f.least_positive = f.least_positive > 0.0 ? std::min(f.least_positive, cost) : cost;
    }

    void record(const pending& done, double cost, bool failed) {
        state& s = *all_;
        const auto arm = static_cast<std::size_t>(done.what.arm);
        if (cost < smallest_cost) cost = 0.0;
        if (failed) {
            const double given = cost >= 0.0 && cost < infinity ? std::min(cost, largest_cost) : 0.0;
            cost = std::max(given, s.shared.most > 0.0 ? 2.0 * s.shared.most : 1.0);
            s.failures[arm] += 1.0;
            const auto left = std::count(s.shared.barred.begin(), s.shared.barred.end(), 0.0);
            s.in_a_row[arm] += 1.0;
            if (s.in_a_row[arm] >= 3.0 && left > 1) s.shared.barred[arm] = 1.0;
        } else {
            note_cost(cost);
            s.recent.add(cost);
            s.in_a_row[arm] = 0.0;
        }
        ++s.observations;
        s.plays[arm] += 1.0;
        s.total += cost;
        s.rule->learn(done.what, cost);
        if (options_.cusum &&
            s.detector.add(done.what.where.cell * options_.arms + done.what.arm,
                           std::log(std::max(cost, 0.5 * s.shared.least_positive + 1e-300)))) {
            ++s.restarts;
            s.rule->restart();
        }
        s.done.arm.push_back(static_cast<double>(done.what.arm));
        s.done.cost.push_back(cost);
        s.done.failed.push_back(failed ? 1.0 : 0.0);
        if (options_.has_context) s.done.context.push_back(done.context);
        // At twice the length wanted, so that the cost per solve is constant.
        const auto keep = static_cast<std::size_t>(options_.keep);
        if (s.done.arm.size() > 2 * keep) trim(s.done, keep);
    }

    static void trim(past& h, std::size_t keep) {
        for (auto* v : {&h.arm, &h.cost, &h.context, &h.failed})
            if (v->size() > keep) v->erase(v->begin(), v->end() - static_cast<std::ptrdiff_t>(keep));
    }

    const options options_;
    mutable std::mutex mutex_;
    std::unique_ptr<state> all_;
};

}  // namespace

std::unique_ptr<tuner> make_tuner(const options& o) { return std::make_unique<bandit>(o); }

}  // namespace aitken::tune
