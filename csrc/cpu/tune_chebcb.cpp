// ChebCB: one Chebyshev regression of the cost in the context per arm, inverse-gap weighting of the arms.
//
// Per arm only the Gram matrix and moments are kept, so a fit is O(m^3) however long the history is.
#include <algorithm>
#include <limits>

#include "cpu/tune_policy.hpp"

namespace aitken::tune {

namespace {

constexpr int max_degree = 16;
using square_matrix = double[max_degree][max_degree];

// Eigenvalues w and vectors (columns of v) of a symmetric matrix by cyclic Jacobi rotations; a is destroyed.
void jacobi_eigen(square_matrix& a, int m, double* w, square_matrix& v) {
    double norm = 0.0;
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < m; ++j) {
            v[i][j] = i == j;
            norm += a[i][j] * a[i][j];
        }
    for (int sweep = 0; sweep < 30; ++sweep) {
        double off = 0.0;
        for (int i = 0; i < m; ++i)
            for (int j = 0; j < i; ++j) off += a[i][j] * a[i][j];
        if (off <= 1e-32 * norm) break;
        for (int p = 0; p < m; ++p)
            for (int q = p + 1; q < m; ++q) {
                if (std::fabs(a[p][q]) <= 1e-18 * std::sqrt(norm)) continue;
                const double theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                const double t = std::copysign(1.0, theta) / (std::fabs(theta) + std::hypot(theta, 1.0));
                const double c = 1.0 / std::sqrt(t * t + 1.0), s = t * c;
                for (int k = 0; k < m; ++k) {
                    const double x = a[k][p], y = a[k][q];
                    a[k][p] = c * x - s * y;
                    a[k][q] = s * x + c * y;
                }
                for (int k = 0; k < m; ++k) {
                    const double x = a[p][k], y = a[q][k];
                    a[p][k] = c * x - s * y;
                    a[q][k] = s * x + c * y;
                    const double e = v[k][p], f = v[k][q];
                    v[k][p] = c * e - s * f;
                    v[k][q] = s * e + c * f;
                }
            }
    }
    for (int i = 0; i < m; ++i) w[i] = a[i][i];
}

// Solves the rows and columns of g listed in `rows` for the right-hand side in b (same listing), by Cholesky.
void solve_listed(const square_matrix& g, double ridge, const int* rows, int n, double* b) {
    double l[max_degree][max_degree];
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) {
            double s = g[rows[i]][rows[j]] + (i == j ? ridge : 0.0);
            for (int k = 0; k < j; ++k) s -= l[i][k] * l[j][k];
            l[i][j] = i == j ? std::sqrt(std::max(s, ridge)) : s / l[j][j];
        }
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < i; ++k) b[i] -= l[i][k] * b[k];
        b[i] /= l[i][i];
    }
    for (int i = n - 1; i >= 0; --i) {
        for (int k = i + 1; k < n; ++k) b[i] -= l[k][i] * b[k];
        b[i] /= l[i][i];
    }
}

// min t'Gt/2 - h't in the box |t_j| <= bound_j by a primal active set. A ridge of 1e-9 of the trace makes the
// answer unique where G is singular.
void solve_box(const square_matrix& g, const double* h, const double* bound, int m, double* t) {
    double ridge = 0.0;
    for (int i = 0; i < m; ++i) ridge += 1e-9 * g[i][i];
    ridge = std::max(ridge, std::numeric_limits<double>::min());
    bool fixed[max_degree];
    for (int i = 0; i < m; ++i) {
        fixed[i] = std::fabs(t[i]) >= bound[i];
        t[i] = std::clamp(t[i], -bound[i], bound[i]);
    }
    for (int step = 0; step < 8 * max_degree; ++step) {
        int rows[max_degree], n = 0;
        double target[max_degree];
        for (int i = 0; i < m; ++i) {
            if (fixed[i]) continue;
            double s = h[i];
            for (int j = 0; j < m; ++j)
                if (fixed[j]) s -= g[i][j] * t[j];
            target[n] = s;
            rows[n++] = i;
        }
        solve_listed(g, ridge, rows, n, target);
        double reach = 1.0;
        int blocking = -1;
        for (int k = 0; k < n; ++k) {
            const int i = rows[k];
            if (std::fabs(target[k]) <= bound[i]) continue;
            const double wall = std::copysign(bound[i], target[k]);
            const double part = (wall - t[i]) / (target[k] - t[i]);
            if (part < reach) {
                reach = part;
                blocking = i;
            }
        }
        for (int k = 0; k < n; ++k) t[rows[k]] += reach * (target[k] - t[rows[k]]);
        if (blocking >= 0) {
            fixed[blocking] = true;
            t[blocking] = std::copysign(bound[blocking], t[blocking]);
            continue;
        }
        // Release the bound whose multiplier has the wrong sign by most.
        int release = -1;
        double worst = 0.0, size = 0.0;
        for (int i = 0; i < m; ++i) size = std::max(size, std::fabs(h[i]));
        for (int i = 0; i < m; ++i) {
            if (!fixed[i] || bound[i] == 0.0) continue;
            double gradient = ridge * t[i] - h[i];
            for (int j = 0; j < m; ++j) gradient += g[i][j] * t[j];
            const double inward = t[i] > 0.0 ? gradient : -gradient;
            if (inward > std::max(worst, 1e-13 * size)) {
                worst = inward;
                release = i;
            }
        }
        if (release < 0) return;
        fixed[release] = false;
    }
}

class chebcb final : public policy {
public:
    chebcb(const options& o, const shared_facts& shared)
        : policy(shared),
          arms_(o.arms),
          degree_(static_cast<int>(o.degree)),
          discount_(o.discount),
          gram_(static_cast<std::size_t>(arms_ * degree_ * degree_)),
          moments_(static_cast<std::size_t>(arms_ * degree_)),
          theta_(moments_.size()),
          scratch_(static_cast<std::size_t>(arms_)) {}

    void choose(play& next, const philox_stream& stream) override {
        if (next.forced) return;
        next.p.resize(static_cast<std::size_t>(arms_));
        distribution(next.where, next.p.data());
        next.arm = sample(next.p, stream.uniform(0));
        next.p.clear();
    }

    void distribution(const place& where, double* p) override {
        const index k = evaluate(where, p);
        const double least = p[k], d = static_cast<double>(count_allowed()), rate = greed(d);
        double others = 0.0;
        for (index i = 0; i < arms_; ++i) {
            if (i == k) continue;
            p[i] = shared().allowed(i) ? 1.0 / (d + rate * (p[i] - least)) : 0.0;
            others += p[i];
        }
        p[k] = 1.0 - others;
    }

    index best(const place& where) override { return evaluate(where, scratch_.data()); }

    void learn(const play& played, double cost) override {
        double phi[max_degree];
        features(played.where.x, phi);
        const double predicted = predict(played.arm, phi);
        if (discount_ < 1.0) {
            for (auto* v : {&gram_, &moments_})
                for (double& x : *v) x *= discount_;
            for (double* x : {&rounds_, &sum_pp_, &sum_pc_, &sum_cc_, &sum_p_, &sum_c_}) *x *= discount_;
        }
        double* g = gram_.data() + played.arm * degree_ * degree_;
        double* h = moments_.data() + played.arm * degree_;
        for (int i = 0; i < degree_; ++i) {
            h[i] += phi[i] * cost;
            for (int j = 0; j < degree_; ++j) g[i * degree_ + j] += phi[i] * phi[j];
        }
        rounds_ += 1.0;
        sum_pp_ += predicted * predicted;
        sum_pc_ += predicted * cost;
        sum_cc_ += cost * cost;
        sum_p_ += predicted;
        sum_c_ += cost;

        const double least = least_, most = most_, floor = floor_;
        least_ = rounds_seen_ == 0.0 ? cost : std::min(least_, cost);
        most_ = std::max(most_, cost);
        floor_ = shared().floor();
        rounds_seen_ = 1.0;
        if (least != least_ || most != most_ || floor != floor_)
            for (index i = 0; i < arms_; ++i) fit(i);
        else
            fit(played.arm);
    }

    // What was learned weighs as much as one observation per arm.
    void restart() override {
        for (index i = 0; i < arms_; ++i) {
            double* g = gram_.data() + i * degree_ * degree_;
            const double plays = g[0];  // T_0 = 1
            if (plays <= 1.0) continue;
            for (int k = 0; k < degree_ * degree_; ++k) g[k] /= plays;
            for (int k = 0; k < degree_; ++k) moments_[static_cast<std::size_t>(i * degree_ + k)] /= plays;
        }
        if (rounds_ > 1.0) {
            for (double* x : {&sum_pp_, &sum_pc_, &sum_cc_, &sum_p_, &sum_c_}) *x /= rounds_;
            rounds_ = 1.0;
        }
    }

    void transfer(archive& a) override {
        a.field("policy.gram", gram_);
        a.field("policy.moments", moments_);
        a.field("policy.theta", theta_);
        a.field("policy.rounds", rounds_);
        a.field("policy.rounds_seen", rounds_seen_);
        a.field("policy.sum_pp", sum_pp_);
        a.field("policy.sum_pc", sum_pc_);
        a.field("policy.sum_cc", sum_cc_);
        a.field("policy.sum_p", sum_p_);
        a.field("policy.sum_c", sum_c_);
        a.field("policy.least", least_);
        a.field("policy.most", most_);
        a.field("policy.floor", floor_);
        a.need(rounds_ >= 0.0, "policy.rounds", "is negative");
        a.within(0.0, 1e101, "policy.floor", {floor_, most_});
        a.within(-0x1p53, 0x1p53, "policy.gram", gram_);
        a.within(-1e120, 1e120, "policy.moments", moments_);
        a.within(-1e100, 1e100, "policy.theta", theta_);
        a.within(-1e220, 1e220, "policy.sum_cc", {sum_pp_, sum_pc_, sum_cc_, sum_p_, sum_c_});
        a.need(most_ >= least_ && least_ >= 0.0, "policy.least", "and 'most' are not 0 <= least <= most");
    }

private:
    void features(double x, double* phi) const {
        const double z = 2.0 * x - 1.0;
        phi[0] = 1.0;
        if (degree_ > 1) phi[1] = z;
        for (int j = 2; j < degree_; ++j) phi[j] = 2.0 * z * phi[j - 1] - phi[j - 2];
    }

    double predict(index arm, const double* phi) const {
        const double* t = theta_.data() + arm * degree_;
        double y = 0.0;
        for (int j = 0; j < degree_; ++j) y += t[j] * phi[j];
        return y;
    }

    // y[i] = predicted scaled loss; returns the arm of the least.
    index evaluate(const place& where, double* y) const {
        double phi[max_degree];
        features(where.x, phi);
        for (index i = 0; i < arms_; ++i) y[i] = predict(i, phi);
        return smallest(arms_, [&](index i) { return y[i]; });
    }

    index count_allowed() const {
        index n = 0;
        for (index i = 0; i < arms_; ++i) n += shared().allowed(i);
        return n;
    }

    double ratio() const {  // N of the method
        return most_ > 0.0 ? 2.0 + 4.0 * (most_ - least_) / most_ * (1.0 + std::log(degree_)) : 2.0;
    }
    double scale() const { return most_ > 0.0 ? most_ * ratio() : 1.0; }

    // How sharply gaps count: 2 t sqrt(d t / (regret of the predictions + error of a polynomial)); 0 before
    // the first cost, when all arms are alike.
    double greed(double d) const {
        const double s = scale(), t = rounds_, f = floor_;
        // Predictions are of (cost - floor) / scale; the sums hold bare costs.
        const double squares = std::max(sum_pp_ - 2.0 / s * (sum_pc_ - f * sum_p_) +
                                            (sum_cc_ - 2.0 * f * sum_c_ + f * f * rounds_) / (s * s),
                                        0.0);
        constexpr double pi = 3.14159265358979323846;
        const double alpha =
            (pi + 2.0 / pi * std::log(2.0 * degree_ + 1.0)) / (2.0 * s * (degree_ + 1)) * (most_ - least_);
        const double error = squares + 2.0 * alpha * alpha * t;
        return 2.0 * t * std::sqrt(d * t / std::max(error, 1e-30));
    }

    void fit(index arm) {
        const double* gram = gram_.data() + arm * degree_ * degree_;
        const double* moments = moments_.data() + arm * degree_;
        double* t = theta_.data() + arm * degree_;
        const double s = scale();
        square_matrix g, work, v;
        double h[max_degree], w[max_degree], top = 0.0;
        for (int i = 0; i < degree_; ++i) {
            h[i] = (moments[i] - floor_ * gram[i]) / s;
            for (int j = 0; j < degree_; ++j) work[i][j] = g[i][j] = gram[i * degree_ + j];
        }
        jacobi_eigen(work, degree_, w, v);
        for (int i = 0; i < degree_; ++i) {
            top = std::max(top, w[i]);
            t[i] = 0.0;
        }
        for (int k = 0; k < degree_; ++k) {
            if (!(w[k] > 1e-9 * top)) continue;
            double along = 0.0;
            for (int i = 0; i < degree_; ++i) along += v[i][k] * h[i];
            for (int i = 0; i < degree_; ++i) t[i] += v[i][k] * (along / w[k]);
        }
        double bound[max_degree];
        bound[0] = 1.0 / ratio();
        for (int j = 1; j < degree_; ++j) bound[j] = 2.0 * (most_ - least_) / (s * j);
        bool inside = true;
        for (int j = 0; j < degree_; ++j) inside = inside && std::fabs(t[j]) <= bound[j];
        if (!inside) solve_box(g, h, bound, degree_, t);
    }

    index arms_;
    int degree_;
    double discount_;
    std::vector<double> gram_, moments_, theta_;
    double rounds_ = 0.0, rounds_seen_ = 0.0;
    double sum_pp_ = 0.0, sum_pc_ = 0.0, sum_cc_ = 0.0, sum_p_ = 0.0, sum_c_ = 0.0;  // predictions and costs
    double least_ = 0.0, most_ = 0.0, floor_ = 0.0;
    std::vector<double> scratch_;
};

}  // namespace

std::unique_ptr<policy> make_chebcb(const options& o, const shared_facts& shared) {
    if (o.degree < 1 || o.degree > max_degree)
        throw std::invalid_argument("`degree` must be 1 to " + std::to_string(max_degree) + ", got " +
                                    std::to_string(o.degree));
    return std::make_unique<chebcb>(o, shared);
}

}  // namespace aitken::tune
