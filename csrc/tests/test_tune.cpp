#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/api/tune.hpp"

namespace {

using aitken::index;
using aitken::tune::make_tuner;
using aitken::tune::method;
using aitken::tune::options;
using aitken::tune::tuner;

constexpr index arms = 6;

options of(method kind) {
    options o;
    o.kind = kind;
    o.arms = arms;
    o.seed = 42;
    if (kind == method::gp || kind == method::tsallis_cb || kind == method::chebcb) {
        o.has_context = true;
        o.bins = 8;
    }
    if (kind == method::gp) {
        o.discount = 0.999;
        for (index i = 0; i < arms; ++i)
            for (index j = 0; j < arms; ++j) {
                const double gap = static_cast<double>(i - j) / (arms - 1) / 0.2;
                o.kernel.push_back(std::exp(-0.5 * gap * gap));
            }
    }
    return o;
}

const method all[] = {method::gp, method::tsallis, method::tsallis_cb, method::chebcb, method::thompson};

// Any smooth cost whose best arm moves with the context; contexts from a low-discrepancy sequence.
double context(int step) { return std::fmod(0.5 + 0.6180339887498949 * step, 1.0); }
double cost(index arm, double x) { return 20.0 + 30.0 * std::pow(static_cast<double>(arm) - 5.0 * x, 2); }

double sum(const std::vector<double>& p) { return std::accumulate(p.begin(), p.end(), 0.0); }

TEST(tuners_learn_and_their_probabilities_sum_to_one) {
    for (const method kind : all) {
        const auto t = make_tuner(of(kind));
        double early = 0.0, late = 0.0;
        for (int step = 0; step < 4000; ++step) {
            // Without a context in the tuner the costs must not depend on one.
            const double x = of(kind).has_context ? context(step) : 0.4;
            CHECK_NEAR(sum(t->probabilities(x)), 1.0, 1e-12);
            const auto s = t->suggest(x, true);
            const double c = cost(s.arm, x);
            t->observe(c, s.token, false);
            (step < 100 ? early : late) += step < 100 || step >= 3900 ? c : 0.0;
        }
        CHECK(late < 0.6 * early || late < 2600.0);
        CHECK(t->best(0.4) == 2);
        CHECK(t->stats().observations == 4000);
    }
}

TEST(a_restored_tuner_goes_on_as_the_saved_one) {
    for (const method kind : all) {
        const auto a = make_tuner(of(kind));
        for (int step = 0; step < 77; ++step) {
            const auto s = a->suggest(context(step), false);
            a->observe(cost(s.arm, context(step)), -1, step % 20 == 19);
        }
        const auto flying = a->suggest(0.3, true);
        const auto b = make_tuner(of(kind));
        b->restore(a->save());
        CHECK(a->save() == b->save());
        for (const auto& t : {a.get(), b.get()}) t->observe(33.0, flying.token, false);
        for (int step = 0; step < 200; ++step) {
            const auto s = a->suggest(context(step), false), r = b->suggest(context(step), false);
            CHECK(s.arm == r.arm);
            a->observe(cost(s.arm, context(step)), -1, false);
            b->observe(cost(r.arm, context(step)), -1, false);
        }
        CHECK(a->save() == b->save());
    }
}

TEST(a_state_that_does_not_fit_changes_nothing) {
    for (const method kind : all) {
        const auto t = make_tuner(of(kind));
        for (int step = 0; step < 9; ++step) t->observe(10.0, t->suggest(context(step), true).token, false);
        const auto good = t->save();
        for (const auto& [name, values] : good) {
            auto bad = good;
            bad.erase(name);
            CHECK_THROWS(t->restore(bad), std::invalid_argument);
            if (values.empty()) continue;
            bad = good;
            bad[name][0] = std::numeric_limits<double>::quiet_NaN();
            CHECK_THROWS(t->restore(bad), std::invalid_argument);
        }
        CHECK(t->save() == good);
    }
}

TEST(tuner_tokens_and_costs_are_checked) {
    const auto t = make_tuner(of(method::tsallis));
    CHECK_THROWS(t->observe(1.0, -1, false), std::logic_error);
    const auto s = t->suggest(0.0, true);
    CHECK_THROWS(t->observe(-1.0, s.token, false), std::invalid_argument);
    CHECK_THROWS(t->observe(1.0, s.token + 1, false), std::invalid_argument);
    CHECK(std::isinf(t->limit()));
    t->observe(40.0, s.token, false);
    CHECK_NEAR(t->limit(), 120.0, 0.0);
    CHECK_THROWS(t->observe(40.0, s.token, false), std::invalid_argument);
}

TEST(tuner_options_are_checked) {
    const auto refuses = [](auto&& change) {
        options o = of(method::gp);
        change(o);
        CHECK_THROWS(make_tuner(o), std::invalid_argument);
    };
    refuses([](options& o) { o.arms = 0; });
    refuses([](options& o) { o.kernel.pop_back(); });
    refuses([](options& o) { o.bins = 0; });
    refuses([](options& o) { o.hi = o.lo; });
    refuses([](options& o) { o.log_context = true; });
    refuses([](options& o) { o.discount = 0.0; });
    refuses([](options& o) { o.kind = method::thompson; });
    refuses([](options& o) { o.kind = method::chebcb, o.degree = 17; });
    refuses([](options& o) { o.kind = method::chebcb, o.has_context = false, o.bins = 1; });
}

TEST(tuner_under_threads_loses_nothing) {
    for (const method kind : all) {
        const auto t = make_tuner(of(kind));
        std::vector<std::thread> crew;
        for (int k = 0; k < 8; ++k)
            crew.emplace_back([&t, k] {
                for (int step = 0; step < 300; ++step) {
                    const double x = context(step + 300 * k);
                    const auto a = t->suggest(x, true), b = t->suggest(x, true);
                    t->observe(cost(b.arm, x), b.token, false);
                    t->observe(cost(a.arm, x), a.token, false);
                }
            });
        for (auto& member : crew) member.join();
        const auto f = t->stats();
        CHECK(f.observations == 8 * 600);
        CHECK(f.in_flight == 0);
        CHECK(std::accumulate(f.plays.begin(), f.plays.end(), index{0}) == 8 * 600);
        CHECK_NEAR(sum(t->probabilities(0.5)), 1.0, 1e-12);
    }
}

}  // namespace
