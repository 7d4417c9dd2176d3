// Pooled Gaussian process over arms and context: y = ln(cost) has the prior covariance
//   amplitude^2 k_context (x) k_arm + 1 (the level),
// every observation is one Kalman step, and P += inflation * amplitude^2 k_context (x) k_arm after it, so
// that the past fades. The level is not inflated: a changed cost is then blamed on the arm and not on all of
// them, or the tuner would stay where it is (second half of an abrupt change: 127 sweeps per solve against
// 310).
//
// In weight space. Both kernels are factored once by pivoted Cholesky to 1e-6 of their diagonal (a noise
// variance is at least 1e-2), f = sum over pairs (i, j) of C_i(context) A_j(arm) theta_ij + theta_level with
// theta ~ N(0, I). The r x r covariance of theta (r = 106 for 20 arms and 16 cells) replaces that of the 320
// values, and inflation is an addition to its diagonal. The pivoted factor, unlike eigenvectors, does not
// depend on rounding: the saved state means the same on every machine.
//
// A suggestion and its observation cost 4 r^2 flops and move 24 r^2 bytes in the second-level cache
// (projection: one read; rank-one update: read and write).
#include <algorithm>
#include <array>
#include <limits>

#include "cpu/tune_policy.hpp"

namespace aitken::tune {

namespace {

constexpr double kernel_tolerance = 1e-6;
constexpr index rank_limit = 1500;  // 18 MB, a millisecond per step

// L with L L' = K up to the tolerance; columns of L one after the other, n entries each.
std::vector<double> pivoted_cholesky(const std::vector<double>& k, index n) {
    std::vector<double> diagonal(static_cast<std::size_t>(n)), columns;
    for (index i = 0; i < n; ++i)
        diagonal[static_cast<std::size_t>(i)] = k[static_cast<std::size_t>(i * n + i)];
    for (index rank = 0; rank < n; ++rank) {
        const auto top = std::max_element(diagonal.begin(), diagonal.end());
        if (*top <= kernel_tolerance) break;
        const index p = top - diagonal.begin();
        const double root = std::sqrt(*top);
        columns.resize(columns.size() + static_cast<std::size_t>(n));
        double* const c = columns.data() + rank * n;
        for (index i = 0; i < n; ++i) c[i] = k[static_cast<std::size_t>(p * n + i)];
        for (index q = 0; q < rank; ++q) {
            const double* const l = columns.data() + q * n;
            for (index i = 0; i < n; ++i) c[i] -= l[p] * l[i];
        }
        for (index i = 0; i < n; ++i) {
            c[i] /= root;
            double& d = diagonal[static_cast<std::size_t>(i)];
            d = std::max(d - c[i] * c[i], 0.0);
        }
        diagonal[static_cast<std::size_t>(p)] = 0.0;
    }
    return columns;
}

void axpy(index n, double a, const double* __restrict x, double* __restrict y) {
    for (index i = 0; i < n; ++i) y[i] += a * x[i];
}

class gaussian_process final : public policy {
public:
    gaussian_process(const options& o, const shared_facts& shared)
        : policy(shared),
          arms_(o.arms),
          cells_(o.bins),
          inflation_(1.0 - o.discount),
          explore_(o.explore),
          noise_(o.noise),
          noise_floor_(o.noise_floor),
          plain_(!o.has_context),
          last_(count(arms_ * cells_)),
          seen_(last_.size()),
          arm_count_(count(arms_)),
          arm_mean_(arm_count_.size()),
          arm_squares_(arm_count_.size()),
          mean_(arm_count_.size()),
          variance_(arm_count_.size()) {
        factor(o);
        theta_.assign(count(rank_), 0.0);
        covariance_.assign(count(rank_ * rank_), 0.0);
        for (index i = 0; i < rank_; ++i) covariance_[count(i * rank_ + i)] = 1.0;
        gain_.resize(theta_.size());
        phi_.resize(theta_.size());
        projected_.resize(count(arm_rank_ * rank_));
    }

    void choose(play& next, const philox_stream&) override {
        if (!next.forced) next.arm = pick(next.where, explore_);
    }

    void distribution(const place& where, double* p) override {
        std::fill(p, p + arms_, 0.0);
        p[pick(where, explore_)] = 1.0;
    }

    index best(const place& where) override { return pick(where, 0.0); }

    void learn(const play& played, double cost) override {
        const double y = logarithm(cost);
        if (level_known_ == 0.0) {
            level_ = y;
            level_known_ = 1.0;
        }
        replicate(played, y);

        // Kalman step: k = P phi, s = phi'k + noise^2, theta += k e / s, P += inflation I' - k k' / s, I'
        // without the level.
        project(played.where);
        const double* const a = arm_factor_.data() + played.arm * arm_rank_;
        std::copy_n(covariance_.data() + (rank_ - 1) * rank_, rank_, gain_.data());
        for (index j = 0; j < arm_rank_; ++j) axpy(rank_, a[j], projected_.data() + j * rank_, gain_.data());
        features(played.where, played.arm);
        double s = noise_variance(), predicted = level_;
        for (index i = 0; i < rank_; ++i) {
            s += phi_[count(i)] * gain_[count(i)];
            predicted += phi_[count(i)] * theta_[count(i)];
        }
        axpy(rank_, (y - predicted) / s, gain_.data(), theta_.data());
        const double root = 1.0 / std::sqrt(s);
        for (double& g : gain_) g *= root;  // the same factor on both sides keeps P symmetric to the last bit
        for (index i = 0; i < rank_; ++i) {
            double* const row = covariance_.data() + i * rank_;
            axpy(rank_, -gain_[count(i)], gain_.data(), row);
            if (i + 1 < rank_) row[i] += inflation_;
        }
        projected_for_ = -1;
    }

    // The mean stays as the prior mean.
    void restart() override {
        std::fill(covariance_.begin(), covariance_.end(), 0.0);
        for (index i = 0; i < rank_; ++i) covariance_[count(i * rank_ + i)] = 1.0;
        std::fill(seen_.begin(), seen_.end(), 0.0);
        projected_for_ = -1;
    }

    void transfer(archive& a) override {
        // Row by row of the lower triangle.
        std::vector<double> lower;
        for (index i = 0; i < rank_; ++i)
            lower.insert(lower.end(), covariance_.begin() + i * rank_,
                         covariance_.begin() + i * rank_ + i + 1);
        a.field("policy.theta", theta_);
        a.field("policy.covariance", lower);
        a.field("policy.last", last_);
        a.field("policy.seen", seen_);
        a.field("policy.arm_count", arm_count_);
        a.field("policy.arm_mean", arm_mean_);
        a.field("policy.arm_squares", arm_squares_);
        a.field("policy.level", level_);
        a.field("policy.level_known", level_known_);
        a.field("policy.pairs", pairs_);
        a.field("policy.pair_squares", pair_squares_);
        a.need(pairs_ >= 0.0 && pair_squares_ >= 0.0, "policy.pairs", "or 'pair_squares' is negative");
        a.within(-1e3, 1e3, "policy.level", {level_});  // of logarithms, as are the next two
        a.within(-1e3, 1e3, "policy.last", last_);
        a.within(-1e3, 1e3, "policy.arm_mean", arm_mean_);
        a.within(0.0, 0x1p53, "policy.arm_count", arm_count_);
        a.within(0.0, 1e100, "policy.arm_squares", arm_squares_);
        a.within(-1e100, 1e100, "policy.theta", theta_);
        a.within(-1e100, 1e100, "policy.covariance", lower);
        if (!a.reading()) return;
        const double* from = lower.data();
        for (index i = 0; i < rank_; ++i)
            for (index j = 0; j <= i; ++j, ++from)
                covariance_[count(i * rank_ + j)] = covariance_[count(j * rank_ + i)] = *from;
        for (index i = 0; i < rank_; ++i)
            a.need(covariance_[count(i * rank_ + i)] >= -1e-9, "policy.covariance",
                   "has a negative variance");
        for (index i = 0; i < rank_; ++i)
            for (index j = 0; j < i; ++j) {
                const double c = covariance_[count(i * rank_ + j)];
                const double most = covariance_[count(i * rank_ + i)] * covariance_[count(j * rank_ + j)];
                a.need(c * c <= most * (1.0 + 1e-6) + 1e-9, "policy.covariance", "has a correlation above 1");
            }
        projected_for_ = -1;
    }

private:
    static std::size_t count(index i) { return static_cast<std::size_t>(i); }

    // Factors both kernels and lists the pairs (i, j) whose variance matters, i-major.
    void factor(const options& o) {
        std::vector<double> k(count(cells_ * cells_));
        for (index i = 0; i < cells_; ++i)
            for (index j = 0; j < cells_; ++j) {
                const double gap =
                    static_cast<double>(i - j) / static_cast<double>(cells_) / o.context_length;
                k[count(i * cells_ + j)] = std::exp(-0.5 * gap * gap);
            }
        const std::vector<double> context = pivoted_cholesky(k, cells_),
                                  arm = pivoted_cholesky(o.kernel, arms_);
        context_rank_ = static_cast<index>(context.size()) / cells_;
        arm_rank_ = static_cast<index>(arm.size()) / arms_;
        context_factor_.resize(context.size());
        for (index i = 0; i < context_rank_; ++i)
            for (index c = 0; c < cells_; ++c)
                context_factor_[count(c * context_rank_ + i)] = context[count(i * cells_ + c)];
        arm_factor_.resize(arm.size());
        for (index j = 0; j < arm_rank_; ++j)
            for (index a = 0; a < arms_; ++a)
                arm_factor_[count(a * arm_rank_ + j)] = o.amplitude * arm[count(j * arms_ + a)];
        const auto most = [](const std::vector<double>& v, index n, index column) {
            double m = 0.0;
            for (index i = 0; i < n; ++i) m = std::max(m, std::fabs(v[count(column * n + i)]));
            return m * m;
        };
        for (index i = 0; i < context_rank_; ++i)
            for (index j = 0; j < arm_rank_; ++j)
                if (most(context, cells_, i) * most(arm, arms_, j) > kernel_tolerance)
                    pairs_of_.push_back({i, j});
        rank_ = static_cast<index>(pairs_of_.size()) + 1;
        if (rank_ > rank_limit)
            throw std::invalid_argument("`arms` and `bins` need a process of " + std::to_string(rank_) +
                                        " weights (at most " + std::to_string(rank_limit) +
                                        "); pass `features` that relate the arms, or fewer `bins`");
    }

    void features(const place& where, index arm) {
        const double* const c = context_factor_.data() + where.cell * context_rank_;
        const double* const a = arm_factor_.data() + arm * arm_rank_;
        for (std::size_t q = 0; q < pairs_of_.size(); ++q) phi_[q] = c[pairs_of_[q][0]] * a[pairs_of_[q][1]];
        phi_.back() = 1.0;
    }

    // projected_[j] = sum_i C_i P[(i, j), :]: all that the cell's means, variances and gains need. 2 r^2
    // flops.
    void project(const place& where) {
        if (projected_for_ == where.cell) return;
        const double* const c = context_factor_.data() + where.cell * context_rank_;
        std::fill(projected_.begin(), projected_.end(), 0.0);
        for (std::size_t q = 0; q < pairs_of_.size(); ++q)
            axpy(rank_, c[pairs_of_[q][0]], covariance_.data() + static_cast<index>(q) * rank_,
                 projected_.data() + pairs_of_[q][1] * rank_);
        projected_for_ = where.cell;
    }

    // mean_ and variance_ of every arm in the cell.
    void evaluate(const place& where) {
        project(where);
        const double* const c = context_factor_.data() + where.cell * context_rank_;
        const index n = arm_rank_;
        std::vector<double>& small = small_;  // n x n covariance of the arm weights, then n with the level
        small.assign(count(n * n), 0.0);
        weights_.assign(count(n), 0.0);
        for (std::size_t q = 0; q < pairs_of_.size(); ++q) {
            const auto [i, j] = pairs_of_[q];
            weights_[count(j)] += c[i] * theta_[q];
            for (index k = 0; k < n; ++k) small[count(j * n + k)] += c[i] * projected_[count(k * rank_) + q];
        }
        const double level_variance = covariance_.back();
        for (index arm = 0; arm < arms_; ++arm) {
            const double* const a = arm_factor_.data() + arm * n;
            double mean = level_ + theta_.back(), variance = level_variance;
            for (index j = 0; j < n; ++j) {
                double row = 2.0 * projected_[count(j * rank_ + rank_ - 1)];
                for (index k = 0; k < n; ++k) row += small[count(j * n + k)] * a[k];
                variance += a[j] * row;
                mean += a[j] * weights_[count(j)];
            }
            mean_[count(arm)] = mean;
            variance_[count(arm)] = std::max(variance, 0.0);
        }
    }

    index pick(const place& where, double explore) {
        evaluate(where);
        return smallest(arms_, [&](index i) {
            double score = mean_[count(i)] - explore * std::sqrt(variance_[count(i)]);
            if (plain_) score += 0.5 * spread(i);
            return score;
        });
    }

    // The arm's running variance of ln(cost), with three observations' worth of the common noise.
    double spread(index arm) const {
        const double n = arm_count_[count(arm)];
        return (arm_squares_[count(arm)] + 3.0 * noise_ * noise_) / (std::max(n - 1.0, 0.0) + 3.0);
    }

    // Replicates: half the squared difference of consecutive costs of a cell, which a slow drift leaves
    // alone.
    void replicate(const play& played, double y) {
        const std::size_t cell = count(played.where.cell * arms_ + played.arm);
        if (seen_[cell] > 0.0) {
            pairs_ += 1.0;
            pair_squares_ += 0.5 * (y - last_[cell]) * (y - last_[cell]);
        }
        seen_[cell] = 1.0;
        last_[cell] = y;
        const std::size_t arm = count(played.arm);
        arm_count_[arm] += 1.0;
        const double before = y - arm_mean_[arm];
        arm_mean_[arm] += before / arm_count_[arm];
        arm_squares_[arm] += before * (y - arm_mean_[arm]);
    }

    double noise_variance() const {
        constexpr double trust = 30.0;  // pairs that the initial value weighs
        const double v = (trust * noise_ * noise_ + pair_squares_) / (trust + pairs_);
        return std::max(v, noise_floor_ * noise_floor_);
    }

    // A cost of 0 counts as half the least positive one.
    double logarithm(double cost) const {
        if (cost > 0.0) return std::log(cost);
        return shared().least_positive > 0.0 ? std::log(0.5 * shared().least_positive) : std::log(0.5);
    }

    index arms_, cells_;
    double inflation_, explore_, noise_, noise_floor_;
    bool plain_;

    index context_rank_ = 0, arm_rank_ = 0, rank_ = 0;
    std::vector<double> context_factor_, arm_factor_;  // a row per cell, a row per arm
    std::vector<std::array<index, 2>> pairs_of_;

    double level_ = 0.0, level_known_ = 0.0;  // the prior mean: the first y
    std::vector<double> theta_, covariance_;
    double pairs_ = 0.0, pair_squares_ = 0.0;
    std::vector<double> last_, seen_;
    std::vector<double> arm_count_, arm_mean_, arm_squares_;

    std::vector<double> gain_, phi_, projected_, small_, weights_, mean_, variance_;
    index projected_for_ = -1;  // the cell that projected_ is of; -1: none
};

}  // namespace

std::unique_ptr<policy> make_gp(const options& o, const shared_facts& shared) {
    if (static_cast<index>(o.kernel.size()) != o.arms * o.arms)
        throw std::invalid_argument("`kernel` must have arms x arms entries");
    return std::make_unique<gaussian_process>(o, shared);
}

}  // namespace aitken::tune
