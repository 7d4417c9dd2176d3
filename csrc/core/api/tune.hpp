// Tuners: state machines that choose an arm before each solve from the costs of the solves before.
//
// An arm is a number 0 .. arms-1 here; what it stands for the caller knows. A suggestion is answered by one
// observe() with its token; several may be in flight, and answers come in any order. Everything is guarded by
// one mutex per tuner and takes no other lock. Randomness is Philox at a counter that is part of the state,
// so a restored tuner goes on exactly where the saved one stood.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/views.hpp"

namespace aitken::tune {

enum class method { gp, tsallis, tsallis_cb, chebcb, thompson };

struct options {
    method kind = method::gp;
    index arms = 1;
    bool has_context = false;
    bool log_context = false;  // work with the logarithm; needs lo > 0
    double lo = 0.0, hi = 1.0;
    index bins = 1;                // context cells (gp, tsallis_cb); 1 without context
    index degree = 6;              // Chebyshev coefficients per arm (chebcb)
    bool reduced_variance = true;  // Tsallis estimator: RV, otherwise IW
    double discount = 1.0;         // weight of the past per observation; gp: 1 - inflation
    bool cusum = false;            // restart where ln(cost) leaves its level
    double floor = -1.0;           // the least possible cost; < 0: 1 if no cost below 1 was seen, else 0
    double backstop_factor = 3.0;  // limit() = max(backstop_least, factor * running median); <= 0: none
    double backstop_least = 50.0;  // < 0: 50 as long as recent costs are whole numbers, otherwise 0
    index first_arm = -1, first_count = 0;  // an arm to play at the start, and how often
    index keep = 100000;                    // solves kept in the history
    std::uint64_t seed = 0;

    // Gaussian process: correlations of the arms (arms x arms, positive semidefinite, unit diagonal).
    std::vector<double> kernel;
    double amplitude = 0.7, context_length = 0.2;
    double noise = 0.2, noise_floor = 0.1;  // standard deviations of ln(cost) within a cell
    double explore = 1.5;                   // standard deviations below the mean
};

struct suggestion {
    index arm;
    std::int64_t token;
};

struct facts {
    index observations = 0, failures = 0, clipped = 0, restarts = 0, in_flight = 0, discarded = 0;
    std::vector<index> barred, plays;  // arms that are barred; plays of each arm
    double total_cost = 0.0;
};

struct past {
    std::vector<double> arm, cost, context, failed;  // context: only where the tuner has one
};

// Plain numbers by name: all that a tuner has learned.
using snapshot = std::map<std::string, std::vector<double>>;

class tuner {
public:
    virtual ~tuner() = default;

    // `context` is ignored by a tuner without one; outside [lo, hi] it is clipped and counted, NaN becomes
    // the middle. keep = false: the suggestion replaces the last one of that kind, answered or not.
    virtual suggestion suggest(double context, bool keep) = 0;
    // token < 0: the last suggestion with keep = false. Throws std::logic_error where there is none,
    // std::invalid_argument for an unknown token or a cost that is negative, NaN or Inf (unless failed).
    virtual void observe(double cost, std::int64_t token, bool failed) = 0;
    virtual void discard(std::int64_t token) = 0;  // forget a suggestion
    // A cost known beforehand.
    virtual void replay(index arm, double context, double cost) = 0;

    virtual std::vector<double> probabilities(double context) const = 0;
    virtual index best(double context) const = 0;
    virtual double limit() const = 0;  // +inf: none yet
    virtual facts stats() const = 0;
    virtual past history() const = 0;

    virtual snapshot save() const = 0;
    virtual void restore(
        const snapshot& state) = 0;  // std::invalid_argument naming the field; state unchanged
};

// Throws std::invalid_argument for options that fit no tuner.
std::unique_ptr<tuner> make_tuner(const options& o);

}  // namespace aitken::tune
