// What a tuner's policy is: choose an arm for a context, learn from its cost. One class per method in
// tune_<method>.cpp; tune.cpp holds what all share (tokens, failures, history, the random stream).
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/api/tune.hpp"
#include "core/philox.hpp"

namespace aitken::tune {

// A place in context space: the scaled context and its cell.
struct place {
    double x = 0.5;  // in [0, 1]
    index cell = 0;
};

// One play, from suggestion to observation.
struct play {
    index arm = 0;
    place where;
    bool forced = false;    // chosen by the caller, not by the policy
    double round = 1.0;     // Tsallis: t of the suggestion
    std::vector<double> p;  // Tsallis: the distribution it was drawn from
};

// Copies state to a snapshot, or checks and takes one over.
class archive {
public:
    archive() = default;
    explicit archive(const snapshot& from) : values_(from), reading_(true) {}

    bool reading() const { return reading_; }
    const snapshot& values() const { return values_; }

    // A vector whose length is fixed by the options.
    void field(const std::string& name, std::vector<double>& v) { transfer(name, v, v.size(), true); }
    // A vector of any length.
    void list(const std::string& name, std::vector<double>& v) { transfer(name, v, 0, false); }
    void field(const std::string& name, double& v) {
        std::vector<double> one{v};
        transfer(name, one, 1, true);
        v = one[0];
    }
    // A count: a whole number >= least.
    void count(const std::string& name, index& v, index least = 0) {
        double as_double = static_cast<double>(v);
        field(name, as_double);
        if (as_double < static_cast<double>(least) || as_double != std::floor(as_double) ||
            as_double > 0x1p53)
            fail(name, "holds " + std::to_string(as_double) + "; a whole number is needed");
        v = static_cast<index>(as_double);
    }
    void need(bool ok, const std::string& name, const std::string& what) const {
        if (reading_ && !ok) fail(name, what);
    }

    void within(double lo, double hi, const std::string& name, const std::vector<double>& v) const {
        for (const double x : v) need(x >= lo && x <= hi, name, "holds a number that cannot be");
    }

private:
    [[noreturn]] static void fail(const std::string& name, const std::string& what) {
        throw std::invalid_argument("`state` field '" + name + "' " + what);
    }
    void transfer(const std::string& name, std::vector<double>& v, std::size_t size, bool fixed) {
        if (!reading_) {
            if (!values_.emplace(name, v).second) throw std::logic_error("two state fields '" + name + "'");
            return;
        }
        const auto found = values_.find(name);
        if (found == values_.end()) fail(name, "is missing");
        if (fixed && found->second.size() != size)
            fail(name, "has length " + std::to_string(found->second.size()) + "; " + std::to_string(size) +
                           " is needed");
        for (const double x : found->second)
            if (!std::isfinite(x)) fail(name, "holds a number that is not finite");
        v = found->second;
    }

    snapshot values_;
    bool reading_ = false;
};

// Facts that policies need of all costs, and which arms are out.
struct shared_facts {
    std::vector<double> barred;      // 1: may not be played
    double known = 0.0;              // 1: there was a cost
    double least = 0.0, most = 0.0;  // of the costs so far, without failures
    double least_positive = 0.0;
    double given_floor = -1.0;

    // The least possible cost. Where it is not given: 1 as long as every cost was >= 1, as iterations are.
    double floor() const { return given_floor >= 0.0 ? given_floor : (least >= 1.0 ? 1.0 : 0.0); }
    bool allowed(index arm) const { return barred[static_cast<std::size_t>(arm)] == 0.0; }
};

class policy {
public:
    explicit policy(const shared_facts& shared) : shared_(&shared) {}
    virtual ~policy() = default;

    virtual void choose(play& next, const philox_stream& stream) = 0;
    virtual void distribution(const place& where, double* p) = 0;
    virtual index best(const place& where) = 0;
    virtual void learn(const play& played, double cost) = 0;
    virtual void restart() = 0;  // forget but for the level
    virtual void transfer(archive& a) = 0;

protected:
    const shared_facts& shared() const { return *shared_; }

    // Index below u in the cumulated distribution; rounding ends at the last arm that can be played.
    static index sample(const std::vector<double>& p, double u) {
        index last = 0;
        for (std::size_t i = 0; i < p.size(); ++i) {
            if (p[i] <= 0.0) continue;
            last = static_cast<index>(i);
            u -= p[i];
            if (u < 0.0) break;
        }
        return last;
    }
    // Smallest score among the arms that are not barred; ties go to the first.
    template <class Score>
    index smallest(index arms, Score&& score) const {
        index found = -1;
        double least = 0.0;
        for (index i = 0; i < arms; ++i) {
            if (!shared().allowed(i)) continue;
            const double s = score(i);
            if (found < 0 || s < least) {
                found = i;
                least = s;
            }
        }
        return found;
    }

private:
    const shared_facts* shared_;
};

std::unique_ptr<policy> make_gp(const options& o, const shared_facts& shared);
std::unique_ptr<policy> make_tsallis(const options& o, const shared_facts& shared);
std::unique_ptr<policy> make_chebcb(const options& o, const shared_facts& shared);
std::unique_ptr<policy> make_thompson(const options& o, const shared_facts& shared);

}  // namespace aitken::tune
