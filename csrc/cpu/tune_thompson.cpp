// Gaussian Thompson sampling on mean losses that shrink toward 0, so that every arm is tried.
//
// The standard deviation is the pooled one within the arms. That of all costs counts the differences between
// the arms as noise, and explores for longer (500 solves of the shifted Laplacians at low variance: 81 sweeps
// per solve against 76; 5000 at high variance: 113 against 111).
#include <algorithm>
#include <limits>

#include "cpu/tune_policy.hpp"

namespace aitken::tune {

namespace {

class thompson final : public policy {
public:
    thompson(const options& o, const shared_facts& shared)
        : policy(shared), arms_(o.arms), discount_(o.discount), sums_(size()), plays_(size()) {}

    void choose(play& next, const philox_stream& stream) override {
        if (next.forced) return;
        const double sd = deviation();
        next.arm = smallest(arms_, [&](index i) {
            return mean(i) + sd / std::sqrt(plays(i) + 1.0) * stream.normal(static_cast<std::uint32_t>(i));
        });
    }

    // P(arm i has the least sample) = int phi_i prod_{j != i} (1 - Phi_j), by Simpson's rule on an interval
    // that holds all but 1e-15 of the least sample.
    void distribution(const place&, double* p) override {
        constexpr int panels = 512;
        std::fill(p, p + arms_, 0.0);
        const double sd = deviation();
        double lo = std::numeric_limits<double>::infinity(), hi = lo;
        for (index i = 0; i < arms_; ++i)
            if (shared().allowed(i)) {
                const double s = sd / std::sqrt(plays(i) + 1.0);
                lo = std::min(lo, mean(i) - 9.0 * s);
                hi = std::min(hi, mean(i) + 9.0 * s);
            }
        if (!(hi > lo)) {
            p[smallest(arms_, [&](index i) { return mean(i); })] = 1.0;
            return;
        }
        const double h = (hi - lo) / panels;
        std::vector<double> density(size()), above(size());
        for (int k = 0; k <= panels; ++k) {
            const double x = lo + k * h, weight = k == 0 || k == panels ? 1.0 : (k % 2 == 1 ? 4.0 : 2.0);
            double all = 1.0;
            for (index i = 0; i < arms_; ++i) {
                if (!shared().allowed(i)) continue;
                const double s = sd / std::sqrt(plays(i) + 1.0), z = (x - mean(i)) / s;
                density[at(i)] = std::exp(-0.5 * z * z) / s;
                above[at(i)] = std::max(0.5 * std::erfc(z * 0.70710678118654752), 1e-300);
                all *= above[at(i)];
            }
            for (index i = 0; i < arms_; ++i)
                if (shared().allowed(i)) p[i] += weight * density[at(i)] * (all / above[at(i)]);
        }
        double sum = 0.0;
        for (index i = 0; i < arms_; ++i) sum += p[i];
        for (index i = 0; i < arms_; ++i) p[i] /= sum;
    }

    index best(const place&) override {
        return smallest(arms_, [&](index i) {
            return plays(i) > 0.0 ? sums_[at(i)] / plays(i) : std::numeric_limits<double>::max();
        });
    }

    void learn(const play& played, double cost) override {
        if (discount_ < 1.0) {
            for (double& x : sums_) x *= discount_;
            for (double& x : plays_) x *= discount_;
            for (double* x : {&count_, &squares_, &degrees_, &within_}) *x *= discount_;
        }
        const double n = plays(played.arm);
        if (n > 0.0) {
            const double residual = cost - sums_[at(played.arm)] / n;
            degrees_ += 1.0;
            within_ += residual * residual * n / (n + 1.0);
        }
        sums_[at(played.arm)] += cost;
        plays_[at(played.arm)] += 1.0;
        const double before = cost - centre_;
        count_ += 1.0;
        centre_ += before / count_;
        squares_ = std::max(squares_ + before * (cost - centre_), 0.0);  // rounding
    }

    void restart() override {
        for (std::size_t i = 0; i < size(); ++i)
            if (plays_[i] > 0.0) {
                sums_[i] /= plays_[i];
                plays_[i] = 1.0;
            }
    }

    void transfer(archive& a) override {
        a.field("policy.sums", sums_);
        a.field("policy.plays", plays_);
        a.field("policy.count", count_);
        a.field("policy.centre", centre_);
        a.field("policy.squares", squares_);
        a.field("policy.degrees", degrees_);
        a.field("policy.within", within_);
        a.need(squares_ >= 0.0 && count_ >= 0.0, "policy.squares", "or 'count' is negative");
        a.need(within_ >= 0.0 && degrees_ >= 0.0, "policy.within", "or 'degrees' is negative");
        a.within(0.0, 0x1p53, "policy.plays", plays_);
        a.within(0.0, 1e120, "policy.sums", sums_);
        a.within(0.0, 1e101, "policy.centre", {centre_});
    }

private:
    static std::size_t at(index i) { return static_cast<std::size_t>(i); }
    std::size_t size() const { return static_cast<std::size_t>(arms_); }
    double plays(index i) const { return plays_[at(i)]; }
    double mean(index i) const { return (sums_[at(i)] - shared().floor() * plays(i)) / (plays(i) + 1.0); }
    // Within the arms; without repetitions that of all losses, of one loss its own size, before any 1.
    double deviation() const {
        if (degrees_ >= 1.0) return std::sqrt(within_ / degrees_);
        if (count_ <= 0.0) return 1.0;
        if (count_ <= 1.0) return std::max(centre_ - shared().floor(), 0.0);
        return std::sqrt(squares_ / (count_ - 1.0));
    }

    index arms_;
    double discount_;
    std::vector<double> sums_, plays_;                   // of costs, per arm
    double count_ = 0.0, centre_ = 0.0, squares_ = 0.0;  // of all costs, about their mean
    double degrees_ = 0.0, within_ = 0.0;  // degrees of freedom and squares about the arms' means
};

}  // namespace

std::unique_ptr<policy> make_thompson(const options& o, const shared_facts& shared) {
    return std::make_unique<thompson>(o, shared);
}

}  // namespace aitken::tune
