// Tsallis-INF with alpha = 1/2 (importance-weighted and reduced-variance estimates), one per context cell.
#include <algorithm>
#include <limits>

#include "cpu/tune_policy.hpp"

namespace aitken::tune {

namespace {

class tsallis final : public policy {
public:
    tsallis(const options& o, const shared_facts& shared)
        : policy(shared),
          arms_(static_cast<std::size_t>(o.arms)),
          reduced_(o.reduced_variance),
          discount_(o.discount),
          cells_(static_cast<std::size_t>(o.bins), cell{arms_}),
          scratch_(arms_) {}

    void choose(play& next, const philox_stream& stream) override {
        const cell& c = at(next.where);
        next.p.resize(arms_);
        next.round = c.rounds + 1.0;
        probabilities(c, next.p.data());
        if (!next.forced) next.arm = sample(next.p, stream.uniform(0));
    }

    void distribution(const place& where, double* p) override { probabilities(at(where), p); }

    // The arm played most often from here on.
    index best(const place& where) override {
        probabilities(at(where), scratch_.data());
        return smallest(static_cast<index>(arms_),
                        [&](index i) { return -scratch_[static_cast<std::size_t>(i)]; });
    }

    void learn(const play& played, double cost) override {
        cell& c = at(played.where);
        if (discount_ < 1.0) {
            for (auto* v : {&c.sums, &c.weights, &c.shift})
                for (double& x : *v) x *= discount_;
            c.total *= discount_;
            c.rounds *= discount_;
        }
        c.total += cost;
        c.rounds += 1.0;
        if (played.forced) return;  // no draw: an estimate from it would be biased; its cost sets the scale
        const auto i = static_cast<std::size_t>(played.arm);
        const double p = played.p[i];
        c.sums[i] += cost / p;
        c.weights[i] += 1.0 / p;
        if (!reduced_) return;
        for (std::size_t j = 0; j < arms_; ++j)
            if (played.round * played.p[j] >= 16.0) c.shift[j] += 0.5;
        if (played.round * p >= 16.0) c.shift[i] -= 0.5 / p;
    }

    void restart() override {
        for (cell& c : cells_) {
            const double mean = c.rounds > 0.0 ? c.total / c.rounds : 0.0;
            c = cell{arms_};
            if (mean > 0.0) {
                c.total = mean;
                c.rounds = 1.0;
            }
        }
    }

    void transfer(archive& a) override {
        for (std::size_t k = 0; k < cells_.size(); ++k) {
            cell& c = cells_[k];
            const std::string prefix = "policy.cell" + std::to_string(k) + ".";
            a.field(prefix + "sums", c.sums);
            a.field(prefix + "weights", c.weights);
            a.field(prefix + "shift", c.shift);
            a.field(prefix + "total", c.total);
            a.field(prefix + "rounds", c.rounds);
            a.need(c.rounds >= 0.0, prefix + "rounds", "is negative");
        }
    }

private:
    struct cell {
        explicit cell(std::size_t arms) : sums(arms), weights(arms), shift(arms) {}
        std::vector<double> sums, weights;  // cost / p and 1 / p, so that the floor may change later
        std::vector<double> shift;          // reduced variance: in units of the scale
        double total = 0.0, rounds = 0.0;
    };

    cell& at(const place& where) { return cells_[static_cast<std::size_t>(where.cell)]; }

    // p_i = 4 / (eta (L_i - x))^2 with x such that they sum to 1. The sum is convex and increasing in x on
    // the left of min L, and >= 1 at min L - 2 / eta: Newton from there is monotone.
    void probabilities(const cell& c, double* p) const {
        const double floor = shared().floor();
        const double mean = c.rounds > 0.0 ? c.total / c.rounds - floor : 0.0;
        const double scale = mean > 0.0 ? mean : 1.0;
        const double eta = (reduced_ ? 4.0 : 2.0) / std::sqrt(c.rounds + 1.0);
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < arms_; ++i) {
            p[i] = (c.sums[i] - floor * c.weights[i]) / scale + c.shift[i];
            if (shared().barred[i] == 0.0) least = std::min(least, p[i]);
        }
        for (std::size_t i = 0; i < arms_; ++i)
            p[i] = shared().barred[i] == 0.0 ? p[i] - least : std::numeric_limits<double>::infinity();
        double x = -2.0 / eta;
        for (int step = 0; step < 60; ++step) {
            double sum = 0.0, slope = 0.0;
            for (std::size_t i = 0; i < arms_; ++i) {
                const double root = 2.0 / (eta * (p[i] - x));
                sum += root * root;
                slope += root * root * root;
            }
            const double dx = (sum - 1.0) / (eta * slope);
            x -= dx;
            if (std::fabs(dx) <= 1e-14 * std::max(1.0, std::fabs(x))) break;
        }
        double sum = 0.0;
        for (std::size_t i = 0; i < arms_; ++i) {
            const double root = 2.0 / (eta * (p[i] - x));
            sum += p[i] = root * root;
        }
        for (std::size_t i = 0; i < arms_; ++i) p[i] /= sum;
    }

    std::size_t arms_;
    bool reduced_;
    double discount_;
    std::vector<cell> cells_;
    std::vector<double> scratch_;
};

}  // namespace

std::unique_ptr<policy> make_tsallis(const options& o, const shared_facts& shared) {
    return std::make_unique<tsallis>(o, shared);
}

}  // namespace aitken::tune
