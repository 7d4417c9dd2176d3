// Transport on the CPU: kernels against plain loops at awkward sizes, and the solver's manners: threads,
// Ctrl-C, callbacks, running out of memory.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/api/ot.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "ot_cases.hpp"

// ----------------------------------------------------------------------------------- an allocator that fails

namespace {
std::atomic<long> allocations_left{-1};  // -1: no limit

bool refuse_allocation() {
    if (allocations_left.load(std::memory_order_relaxed) < 0) return false;
    if (allocations_left.fetch_sub(1) > 0) return false;
    allocations_left = 0;  // and every later one
    return true;
}
void* take(std::size_t bytes, std::size_t alignment) {
    if (refuse_allocation()) throw std::bad_alloc();
    void* p = alignment <= alignof(std::max_align_t)
                  ? std::malloc(bytes > 0 ? bytes : 1)
                  : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (p == nullptr) throw std::bad_alloc();
    return p;
}
}  // namespace

void* operator new(std::size_t n) { return take(n, 1); }
void* operator new[](std::size_t n) { return take(n, 1); }
void* operator new(std::size_t n, std::align_val_t a) {
    return take(std::max<std::size_t>(n, 1), std::size_t(a));
}
void* operator new[](std::size_t n, std::align_val_t a) {
    return take(std::max<std::size_t>(n, 1), std::size_t(a));
}
// A sanitizer's own versions of these do not come here, so they are replaced as well.
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
    return refuse_allocation() ? nullptr : std::malloc(n > 0 ? n : 1);
}
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept {
    return refuse_allocation() ? nullptr : std::malloc(n > 0 ? n : 1);
}
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

using namespace aitken::ot;
using aitken::index;
using aitken::matrix;
using aitken::scalar_ref;
using aitken::vec;
using aitken::tests::compare_kernels;
using aitken::tests::each_case;
using aitken::tests::ot_case;
using aitken::tests::side;

constexpr double infinity = std::numeric_limits<double>::infinity();

// -------------------------------------------------------------------------------- the kernels as plain loops

// Every function of the concept from its definition: one entry at a time, double throughout, in the order of
// the formulas. The kernel is rounded to T where it is stored, as there.
template <class T>
class plain_kernels {
public:
    plain_kernels(aitken::cpu::backend& be, const problem<T>& p)
        : cost_(p.cost),
          a_(p.a),
          b_(p.b),
          stored_(p.plan),
          n_(p.cost.rows),
          m_(p.cost.cols),
          base_x_(be.template allocate<double>(n_)),
          base_y_(be.template allocate<double>(m_)) {}

    void zero_potentials(vec<double> x, vec<double> y) {
        for (index i = 0; i < n_; ++i) x[i] = a_[i] > 0 ? 0 : -infinity;
        for (index j = 0; j < m_; ++j) y[j] = b_[j] > 0 ? 0 : -infinity;
    }
    void mask_potentials(vec<double> x, vec<double> y) {
        for (index i = 0; i < n_; ++i) x[i] = a_[i] > 0 ? x[i] : -infinity;
        for (index j = 0; j < m_; ++j) y[j] = b_[j] > 0 ? y[j] : -infinity;
    }

    void exp_pass(double eps, vec<const double> x, vec<const double> y, vec<double> r, vec<double> c) {
        set_base(eps, x, y);
        row_sums({}, {}, r);
        col_sums({}, {}, c);
    }
    void scale_rows_pass(double eps, vec<double> x, vec<const double> y, vec<double> c) {
        log_sum_exp_rows(eps, y, true, x);
        set_base(eps, x, y);
        col_sums({}, {}, c);
    }
    void log_sum_exp_rows(double eps, vec<const double> y, bool weighted, vec<double> out) {
        for (index i = 0; i < n_; ++i)
            out[i] = reach(eps, weighted ? a_[i] : 1.0, m_, [&](index j) { return y[j] - cost_.row(i)[j]; });
    }
    void log_sum_exp_cols(double eps, vec<const double> x, bool weighted, vec<double> out) {
        for (index j = 0; j < m_; ++j)
            out[j] = reach(eps, weighted ? b_[j] : 1.0, n_, [&](index i) { return x[i] - cost_.row(i)[j]; });
    }

    void cost_of_plan(vec<const double> u, vec<const double> v, scalar_ref s) {
        double sum = 0;
        for (index i = 0; i < n_; ++i)
            for (index j = 0; j < m_; ++j)
                if (const double p = entry(u, v, i, j); p > 0) sum += p * cost_.row(i)[j];
        *s.address() = sum;
    }
    void sinkhorn_sweep(vec<double> u, vec<const double> v, vec<double> r, vec<double> c) {
        for (index i = 0; i < n_; ++i) {
            double kv = 0;
            for (index j = 0; j < m_; ++j) kv += kernel(i, j) * v[j];
            r[i] = u[i] * kv;
            const double scaled = a_[i] / kv;
            if (scaled > 0 && scaled < infinity) u[i] = scaled;
        }
        col_sums(u, v, c);
    }
    void row_sums(vec<const double> u, vec<const double> v, vec<double> out) {
        for (index i = 0; i < n_; ++i) {
            out[i] = 0;
            for (index j = 0; j < m_; ++j) out[i] += entry(u, v, i, j);
        }
    }
    void col_sums(vec<const double> u, vec<const double> v, vec<double> out) {
        for (index j = 0; j < m_; ++j) {
            out[j] = 0;
            for (index i = 0; i < n_; ++i) out[j] += entry(u, v, i, j);
        }
    }
    void plan_times(vec<const double> u, vec<const double> v, vec<const double> x, vec<double> out) {
        for (index i = 0; i < n_; ++i) {
            out[i] = 0;
            for (index j = 0; j < m_; ++j) out[i] += entry(u, v, i, j) * x[j];
        }
    }
    void plan_t_times(vec<const double> u, vec<const double> v, vec<const double> x, vec<double> out) {
        for (index j = 0; j < m_; ++j) {
            out[j] = 0;
            for (index i = 0; i < n_; ++i) out[j] += entry(u, v, i, j) * x[i];
        }
    }

    void schur_product(vec<const double> u, vec<const double> v, vec<const double> r, vec<const double> c,
                       vec<const double> p, vec<double> w, scalar_ref s) {
        std::vector<double> t(m_);
        plan_t_times(u, v, p, {t.data(), m_});
        for (index j = 0; j < m_; ++j) t[j] = c[j] > 0 ? t[j] / c[j] : 0.0;
        plan_times(u, v, {t.data(), m_}, w);
        *s.address() = 0;
        for (index i = 0; i < n_; ++i) {
            w[i] = active(i) ? r[i] * p[i] - w[i] : 0.0;
            *s.address() += p[i] * w[i];
        }
    }
    void schur_rhs(vec<const double> u, vec<const double> v, vec<const double> c, vec<const double> gy,
                   vec<double> q) {
        std::vector<double> t(m_), w(n_);
        for (index j = 0; j < m_; ++j) t[j] = c[j] > 0 ? gy[j] / c[j] : 0.0;
        plan_times(u, v, {t.data(), m_}, {w.data(), n_});
        for (index i = 0; i < n_; ++i) q[i] -= w[i];
    }
    void schur_columns(vec<const double> u, vec<const double> v, vec<const double> dx, vec<const double> c,
                       vec<const double> gy, vec<double> dy) {
        plan_t_times(u, v, dx, dy);
        for (index j = 0; j < m_; ++j) dy[j] = c[j] > 0 ? (gy[j] - dy[j]) / c[j] : 0.0;
    }
    void trial(vec<const double> u, vec<const double> v, vec<const double> p, vec<const double> q,
               vec<double> pq, vec<double> ptp) {
        plan_times(u, v, q, pq);
        plan_t_times(u, v, p, ptp);
    }

    void mass_limits(double theta, vec<const double> r, vec<const double> c, vec<double> row_limit,
                     vec<double> col_limit) {
        for (index i = 0; i < n_; ++i) row_limit[i] = theta * r[i] / static_cast<double>(m_);
        for (index j = 0; j < m_; ++j) col_limit[j] = theta * c[j] / static_cast<double>(n_);
    }
    void inverse_roots(vec<const double> s, vec<double> out) {
        for (index i = 0; i < s.size; ++i) out[i] = s[i] > 0 ? 1.0 / std::sqrt(s[i]) : 0.0;
    }
    void mass_dropped(vec<const double> u, vec<const double> v, vec<const double> row_limit,
                      vec<const double> col_limit, bool by_rows, vec<double> out) {
        std::fill_n(out.data, out.size, 0.0);
        for (index i = 0; i < n_; ++i)
            for (index j = 0; j < m_; ++j) {
                const double p = kernel(i, j) * u[i] * v[j];
                if (by_rows && p > col_limit[j] && p <= row_limit[i]) out[i] += p;
                if (!by_rows && p <= col_limit[j]) out[j] += p;
            }
    }
    void bisect_start(double delta, vec<double> safe, vec<double> probe) {
        std::fill_n(safe.data, safe.size, 0.0);
        std::fill_n(probe.data, probe.size, delta);
    }
    void bisect_step(double delta, vec<const double> dropped, int step, vec<double> safe, vec<double> probe) {
        const double move = std::exp2(32.0 / static_cast<double>(1 << step));
        for (index i = 0; i < probe.size; ++i)
            if (dropped[i] <= delta) {
                safe[i] = std::max(safe[i], probe[i]);
                probe[i] = std::min(delta, probe[i] * move);
            } else {
                probe[i] = std::min(delta, probe[i] / move);
            }
    }
    void histogram(const aitken::drivers::ot::keep_rule& rule, vec<const double> u, vec<const double> v,
                   int shift, std::uint64_t prefix, vec<int> counts) {
        std::fill_n(counts.data, counts.size, 0);
        for (index i = 0; i < n_; ++i)
            for (index j = 0; j < m_; ++j) {
                const auto bits = std::bit_cast<std::uint64_t>(scaled(rule, u, v, i, j));
                if (bits >> shift >> std::countr_zero(static_cast<std::uint64_t>(counts.size)) == prefix)
                    ++counts[(bits >> shift) % static_cast<std::uint64_t>(counts.size)];
            }
    }
    bool compact(vec<const double> u, vec<const double> v, const aitken::drivers::ot::keep_rule& rule,
                 index most, aitken::drivers::ot::host_csr& out) {
        // 1: by the rule or as the largest of its row; 2: as the largest of a column left empty.
        std::vector<std::vector<char>> keep(n_, std::vector<char>(m_, 0));
        index count = 0;
        for (index i = 0; i < n_; ++i) {
            const auto row_start = count;
            for (index j = 0; j < m_; ++j) {
                const double row = rule.row_limit[i], col = rule.col_limit[j];
                keep[i][j] =
                    scaled(rule, u, v, i, j) > (rule.use_max ? std::max(row, col) : std::min(row, col));
                count += keep[i][j];
            }
            if (count > row_start || !(a_[i] > 0)) continue;
            index best = 0;
            for (index j = 1; j < m_; ++j)
                if (kernel(i, j) * v[j] > kernel(i, best) * v[best]) best = j;
            keep[i][best] = 1;
            ++count;
        }
        if (count > most) return false;
        for (index j = 0; j < m_; ++j) {
            bool seen = !(b_[j] > 0);
            index best = 0;
            for (index i = 0; i < n_; ++i) {
                seen |= keep[i][j] != 0;
                if (kernel(i, j) * u[i] * v[j] > kernel(best, j) * u[best] * v[j]) best = i;
            }
            if (!seen) keep[best][j] = 2;
        }
        out = {n_, m_, {0}, {}, {}};
        for (index i = 0; i < n_; ++i) {
            for (const char kind : {1, 2})  // those of the columns come last in their row
                for (index j = 0; j < m_; ++j)
                    if (keep[i][j] == kind) {
                        out.indices.push_back(static_cast<std::int32_t>(j));
                        out.values.push_back(kernel(i, j) * u[i] * v[j]);
                    }
            out.indptr.push_back(out.nnz());
        }
        return true;
    }

    void scale_columns(vec<double> c, vec<double> v, scalar_ref bad, scalar_ref log_v) {
        *bad.address() = *log_v.address() = 0;
        for (index j = 0; j < m_; ++j) {
            if (b_[j] > 0) {
                const double s = v[j] * b_[j] / c[j];
                if (!(s > 0 && s < infinity)) {
                    ++*bad.address();
                    continue;
                }
                v[j] = s;
                *log_v.address() = std::max(*log_v.address(), std::fabs(std::log(s)));
            }
            c[j] = b_[j];
        }
    }
    void row_errors(vec<const double> r, vec<const double> u, vec<double> q, scalar_ref err, scalar_ref gate,
                    scalar_ref log_u) {
        *err.address() = *gate.address() = *log_u.address() = 0;
        for (index i = 0; i < n_; ++i) {
            *err.address() += std::fabs(a_[i] - r[i]);
            q[i] = active(i) ? a_[i] - r[i] : 0.0;
            if (!(a_[i] > 0)) continue;
            *log_u.address() = std::max(*log_u.address(), std::fabs(std::log(u[i])));
            const bool vanished = !(r[i] / a_[i] > 0 && r[i] / a_[i] < infinity);
            if (vanished || active(i))
                *gate.address() =
                    std::max(*gate.address(), vanished ? infinity : std::fabs(std::log(r[i] / a_[i])));
        }
    }
    void gradient(vec<const double> r, vec<const double> c, vec<double> gx, vec<double> gy, scalar_ref err) {
        *err.address() = 0;
        for (index i = 0; i < n_; ++i) *err.address() += std::fabs(gx[i] = a_[i] - r[i]);
        for (index j = 0; j < m_; ++j) *err.address() += std::fabs(gy[j] = b_[j] - c[j]);
    }
    void absorb(double eps, vec<double> u, vec<double> v, vec<double> x, vec<double> y) {
        for (index i = 0; i < n_; ++i) x[i] += eps * std::log(u[i]), u[i] = 1;
        for (index j = 0; j < m_; ++j) y[j] += eps * std::log(v[j]), v[j] = 1;
    }

    void cg_start(vec<double> q, vec<const double> r, vec<double> d, vec<double> res, vec<double> z,
                  vec<double> p, scalar_ref rz, scalar_ref res2) {
        double sum = 0, mass = 0;
        for (index i = 0; i < n_; ++i)
            if (active(i)) sum += q[i], mass += r[i];
        const double share = mass > 0 ? sum / mass : 0.0;
        *rz.address() = *res2.address() = 0;
        for (index i = 0; i < n_; ++i) {
            q[i] -= active(i) ? share * r[i] : 0.0;
            d[i] = 0;
            res[i] = q[i];
            z[i] = p[i] = active(i) ? q[i] / r[i] : 0.0;
            *rz.address() += res[i] * z[i];
            *res2.address() += res[i] * res[i];
        }
    }
    void cg_update(scalar_ref rz, scalar_ref pw, vec<const double> p, vec<const double> w, vec<double> d,
                   vec<double> res, scalar_ref res2) {
        const double alpha = *pw.address() > 0 ? *rz.address() / *pw.address() : 0.0;
        *res2.address() = 0;
        for (index i = 0; i < n_; ++i) {
            d[i] += alpha * p[i];
            res[i] -= alpha * w[i];
            *res2.address() += res[i] * res[i];
        }
    }
    void cg_jacobi(vec<const double> res, vec<const double> r, vec<double> z, scalar_ref rz) {
        for (index i = 0; i < n_; ++i) z[i] = res[i] / r[i];
        cg_close(res, z, rz);
    }
    void cg_close(vec<const double> res, vec<double> z, scalar_ref rz) {
        *rz.address() = 0;
        for (index i = 0; i < n_; ++i) {
            z[i] = active(i) ? z[i] : 0.0;
            *rz.address() += res[i] * z[i];
        }
    }
    void cg_direction(scalar_ref rz_new, scalar_ref rz, vec<const double> z, vec<double> p) {
        const double beta = *rz.address() > 0 ? *rz_new.address() / *rz.address() : 0.0;
        for (index i = 0; i < n_; ++i) p[i] = z[i] + beta * p[i];
        *rz.address() = *rz_new.address();
    }
    void slope(vec<const double> gx, vec<const double> gy, vec<double> dx, vec<double> dy, scalar_ref slope,
               scalar_ref reach) {
        *slope.address() = std::inner_product(gx.data, gx.data + n_, dx.data, 0.0) +
                           std::inner_product(gy.data, gy.data + m_, dy.data, 0.0);
        const double shift =
            (*std::max_element(dy.data, dy.data + m_) - *std::max_element(dx.data, dx.data + n_)) / 2;
        for (index i = 0; i < n_; ++i) dx[i] += shift;
        for (index j = 0; j < m_; ++j) dy[j] -= shift;
        const double rise =
            *std::max_element(dx.data, dx.data + n_) + *std::max_element(dy.data, dy.data + m_);
        const double fall =
            std::min(*std::min_element(dx.data, dx.data + n_), *std::min_element(dy.data, dy.data + m_));
        *reach.address() = std::max(rise / 30, -fall / 300);
    }
    void trial_scalings(double alpha, vec<const double> dx, vec<const double> dy, vec<double> p,
                        vec<double> q) {
        for (index i = 0; i < n_; ++i) p[i] = std::expm1(alpha * dx[i]);
        for (index j = 0; j < m_; ++j) q[j] = std::expm1(alpha * dy[j]);
    }
    void trial_sums(double alpha, vec<const double> r, vec<const double> c, vec<const double> dx,
                    vec<const double> dy, vec<const double> p, vec<const double> q, vec<const double> pq,
                    vec<const double> ptp, scalar_ref drop, scalar_ref noise, scalar_ref err) {
        long double sum = 0, size = 0, after = 0;
        for (index i = 0; i < n_; ++i) {
            const long double t = alpha * dx[i], own = r[i] * (std::expm1(t) - t), cross = p[i] * pq[i];
            sum += own + cross;
            size += own + std::fabs(cross);
            after += std::fabs(a_[i] - (1.0 + p[i]) * (r[i] + pq[i]));
        }
        for (index j = 0; j < m_; ++j) {
            const long double t = alpha * dy[j], own = c[j] * (std::expm1(t) - t);
            sum += own;
            size += own;
            after += std::fabs(b_[j] - (1.0 + q[j]) * (c[j] + ptp[j]));
        }
        *drop.address() = static_cast<double>(sum);
        *noise.address() = static_cast<double>(4 * std::numeric_limits<double>::epsilon() * size);
        *err.address() = static_cast<double>(after);
    }
    void accept(vec<const double> p, vec<const double> q, vec<double> u, vec<double> v) {
        for (index i = 0; i < n_; ++i) u[i] *= 1.0 + p[i];
        for (index j = 0; j < m_; ++j) v[j] *= 1.0 + q[j];
    }

private:
    bool active(index i) const { return a_[i] > 1e-14; }

    // eps (log mass - log sum_k exp(term(k) / eps)), -inf where either is nothing.
    template <class F>
    static double reach(double eps, double mass, index count, F&& term) {
        double peak = -infinity, sum = 0;
        for (index k = 0; k < count; ++k) peak = std::max(peak, term(k));
        if (!(mass > 0) || peak == -infinity) return -infinity;
        for (index k = 0; k < count; ++k) sum += std::exp((term(k) - peak) / eps);
        return eps * (std::log(mass) - std::log(sum)) - peak;
    }
    void set_base(double eps, vec<const double> x, vec<const double> y) {
        eps_ = eps;
        std::copy_n(x.data, n_, base_x_.data);
        std::copy_n(y.data, m_, base_y_.data);
        for (index i = 0; i < (stored_.data ? n_ : 0); ++i)
            for (index j = 0; j < m_; ++j) stored_.row(i)[j] = static_cast<T>(fresh(i, j));
    }
    double fresh(index i, index j) const {
        return static_cast<T>(std::exp((base_x_[i] + base_y_[j] - cost_.row(i)[j]) / eps_));
    }
    double kernel(index i, index j) const { return stored_.data ? stored_.row(i)[j] : fresh(i, j); }
    double entry(vec<const double> u, vec<const double> v, index i, index j) const {
        return kernel(i, j) * (u.data ? u[i] : 1.0) * (v.data ? v[j] : 1.0);
    }
    double scaled(const aitken::drivers::ot::keep_rule& rule, vec<const double> u, vec<const double> v,
                  index i, index j) const {
        return kernel(i, j) * (u[i] * (rule.row_scale.data ? rule.row_scale[i] : 1.0)) *
               (v[j] * (rule.col_scale.data ? rule.col_scale[j] : 1.0));
    }

    matrix<const T> cost_;
    vec<const double> a_, b_;
    matrix<T> stored_;
    index n_, m_;
    double eps_ = 1;
    vec<double> base_x_, base_y_;
};

template <class T>
void against_plain_loops(int threads) {
    const aitken::cpu::thread_scope scope(threads);
    each_case<T>([&](const ot_case<T>& k) {
        aitken::interrupt signals;
        aitken::cpu::backend left(signals), right(signals);
        side<aitken::cpu::backend, aitken::cpu::ot_kernels, T> cpu(left, k);
        side<aitken::cpu::backend, plain_kernels, T> plain(right, k);
        // float: the exponential is good to 2 ulp of float, and so is every entry of the plan.
        compare_kernels(cpu, plain, k, sizeof(T) == 8 ? 2e-13 : 5e-7, k.stored);
    });
}
TEST(ot_kernels_match_plain_loops_f64) { against_plain_loops<double>(1); }
TEST(ot_kernels_match_plain_loops_f32) { against_plain_loops<float>(1); }
TEST(ot_kernels_match_plain_loops_in_parallel) {
    against_plain_loops<double>(3);
    against_plain_loops<float>(2);
}

// With soft marginals a step changes the dual by alpha slope - drop, and its maximum along the shifts that
// `targets` takes is where all masses agree; the dual itself by plain loops.
TEST(ot_soft_kernels_follow_the_dual) {
    constexpr index n = 7, m = 5;
    constexpr double eps = 0.1;
    std::mt19937 random(5);
    const auto vector = [&](index size, double low, double high) {
        std::vector<double> w;
        for (index i = 0; i < size; ++i) w.push_back(low + (high - low) * (random() / 4294967296.0));
        return w;
    };
    std::vector<double> cost = vector(n * m, 0, 1), a = vector(n, 0.1, 1), b = vector(m, 0.1, 1), plan(n * m);
    for (const auto& [rho_a, rho_b] : {std::pair{0.3, 2.0}, {1e4, 1e4}, {0.01, 0.02}}) {
        // Over reg, for potentials of the entropy form.
        const auto dual = [&, rho_a = rho_a, rho_b = rho_b](const std::vector<double>& x,
                                                            const std::vector<double>& y) {
            long double sum = 0;
            for (index i = 0; i < n; ++i) {
                const long double f = x[i] - eps * std::log(a[i]);
                sum -= rho_a / eps * a[i] * std::expm1(-f / rho_a);
                for (index j = 0; j < m; ++j)
                    sum -= std::exp((static_cast<long double>(x[i]) + y[j] - cost[i * m + j]) / eps);
            }
            for (index j = 0; j < m; ++j)
                sum -= rho_b / eps * b[j] *
                       std::expm1(-(static_cast<long double>(y[j]) - eps * std::log(b[j])) / rho_b);
            return sum;
        };
        aitken::interrupt signals;
        aitken::cpu::backend be(signals);
        aitken::cpu::ot_kernels<double> k(
            be, problem<double>{
                    {cost.data(), n, m, m}, {a.data(), n}, {b.data(), m}, 1.0, {plan.data(), n, m, m}});
        std::vector<double> h_a(n), h_b(m), gauge(1, 0.0);
        k.soften({{h_a.data(), n}, {h_b.data(), m}, eps / rho_a, eps / rho_b, 0.0, {gauge.data(), 1}, false});
        std::vector<double> x = vector(n, -0.1, 0.1), y = vector(m, -0.1, 0.1), r(n), c(m), u(n, 1.0),
                            v(m, 1.0);
        std::vector<double> dx = vector(n, -1, 1), dy = vector(m, -1, 1), p(n), q(m), pq(n), ptp(m), gx(n),
                            gy(m);
        k.exp_pass(eps, {x.data(), n}, {y.data(), m}, {r.data(), n}, {c.data(), m});
        k.targets(eps, {x.data(), n}, {y.data(), m}, {u.data(), n}, {v.data(), m}, {c.data(), m}, false);
        aitken::scalar_ref s[5];
        for (auto& e : s) e = be.scalar();
        k.gradient({r.data(), n}, {c.data(), m}, {gx.data(), n}, {gy.data(), m}, s[0]);
        k.slope({gx.data(), n}, {gy.data(), m}, {dx.data(), n}, {dy.data(), m}, s[1], s[2]);
        for (const double alpha : {0.5, 1e-3, 1e-6}) {
            k.trial_scalings(alpha, {dx.data(), n}, {dy.data(), m}, {p.data(), n}, {q.data(), m});
            k.trial({u.data(), n}, {v.data(), m}, {p.data(), n}, {q.data(), m}, {pq.data(), n},
                    {ptp.data(), m});
            k.trial_sums(alpha, {r.data(), n}, {c.data(), m}, {dx.data(), n}, {dy.data(), m}, {p.data(), n},
                         {q.data(), m}, {pq.data(), n}, {ptp.data(), m}, s[2], s[3], s[4]);
            std::vector<double> to_x = x, to_y = y;
            for (index i = 0; i < n; ++i) to_x[i] += eps * alpha * dx[i];
            for (index j = 0; j < m; ++j) to_y[j] += eps * alpha * dy[j];
            const double gain = alpha * *s[1].address() - *s[2].address();
            CHECK_NEAR(gain, static_cast<double>(dual(to_x, to_y) - dual(x, y)),
                       1e-13 * (1 + rho_a) + 1e-9 * alpha);
            std::vector<double> at_r(n), at_c(m), none(n);
            aitken::cpu::ot_kernels<double> there(
                be, problem<double>{{cost.data(), n, m, m}, {a.data(), n}, {b.data(), m}, 1.0, {}});
            there.exp_pass(eps, {to_x.data(), n}, {to_y.data(), m}, {at_r.data(), n}, {at_c.data(), m});
            double err = 0;
            for (index i = 0; i < n; ++i)
                err += std::fabs(at_r[i] - a[i] * std::exp(-(to_x[i] - eps * std::log(a[i])) / rho_a));
            for (index j = 0; j < m; ++j)
                err += std::fabs(at_c[j] - b[j] * std::exp(-(to_y[j] - eps * std::log(b[j])) / rho_b));
            CHECK_NEAR(err, *s[4].address(), 1e-11 * err);
        }
        // After an update of the columns: equal masses, exact columns, and no shift raises the dual.
        k.col_sums({u.data(), n}, {v.data(), m}, {c.data(), m});
        k.scale_columns({c.data(), m}, {v.data(), m}, s[0], s[1]);
        k.targets(eps, {x.data(), n}, {y.data(), m}, {u.data(), n}, {v.data(), m}, {c.data(), m}, true);
        double rows = 0, cols = 0, mass = 0;
        for (index i = 0; i < n; ++i) rows += h_a[i];
        for (index j = 0; j < m; ++j) cols += h_b[j], mass += c[j];
        CHECK_NEAR(rows, mass, 1e-13 * mass);
        CHECK_NEAR(cols, mass, 1e-13 * mass);
        for (index j = 0; j < m; ++j) CHECK_NEAR(c[j], h_b[j], 1e-13 * c[j]);
        std::vector<double> col(m);
        k.col_sums({u.data(), n}, {v.data(), m}, {col.data(), m});
        for (index j = 0; j < m; ++j) CHECK_NEAR(c[j], col[j], 1e-13 * c[j]);
        const auto shifted = [&](double s_x, double s_y) {
            std::vector<double> to_x = x, to_y = y;
            for (double& e : to_x) e += gauge[0] + s_x;
            for (index j = 0; j < m; ++j) to_y[j] += eps * std::log(v[j]) - gauge[0] + s_y;
            return dual(to_x, to_y);
        };
        for (const auto& [s_x, s_y] :
             {std::pair{1e-3, 0.0}, {-1e-3, 0.0}, {0.0, 1e-3}, {0.0, -1e-3}, {1e-2, -1e-2}})
            CHECK(shifted(s_x, s_y) < shifted(0, 0));
    }
}

// ------------------------------------------------------------------------------------------------ the solver

template <class T>
struct assignment {
    explicit assignment(index n, unsigned seed = 1) : n(n), a(n, 1.0 / n), x(n, 0.0), y(n, 0.0), plan(n * n) {
        std::mt19937 random(seed);
        for (index e = 0; e < n * n; ++e) cost.push_back(static_cast<T>(random() / 4294967296.0));
    }
    problem<T> as_problem(bool stored = true) {
        return {{cost.data(), n, n, n},
                {a.data(), n},
                {a.data(), n},
                1.0,
                {stored ? plan.data() : nullptr, n, n, n}};
    }
    report solve(const options& o, const monitor& watch = {}, bool stored = true) {
        std::fill(x.begin(), x.end(), 0.0);
        std::fill(y.begin(), y.end(), 0.0);
        return aitken::cpu::ot::solve<T>(as_problem(stored), o, {x.data(), n}, {y.data(), n}, signals, watch);
    }
    double certificate(double eps) const {
        std::vector<double> r(n, 0.0), c(n, 0.0);
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < n; ++j) {
                const double p = std::exp((x[i] + y[j] - cost[i * n + j]) / eps);
                r[i] += p;
                c[j] += p;
            }
        double err = 0;
        for (index i = 0; i < n; ++i) err += std::fabs(r[i] - a[i]) + std::fabs(c[i] - a[i]);
        return err;
    }
    index n;
    std::vector<double> a, x, y;
    std::vector<T> cost, plan;
    aitken::interrupt signals;
};

options settings(double reg, method m = method::newton, linear_solver s = linear_solver::automatic) {
    options o;
    o.reg = reg;
    o.method = m;
    o.linear_solver = s;
    return o;
}

TEST(ot_solver_solves_the_assignment_problem) {
    assignment<double> p(90);
    for (const method m : {method::automatic, method::newton, method::sns})
        for (const linear_solver s :
             {linear_solver::automatic, linear_solver::jacobi, linear_solver::hybrid, linear_solver::direct})
            for (const sparsify rule : {sparsify::mass, sparsify::topk, sparsify::ssns})
                for (const bool stored : {true, false}) {
                    options o = settings(2e-3, m, s);
                    o.sparsify = rule;
                    o.density = 0.3;
                    const report r = p.solve(o, {}, stored);
                    CHECK(r.status == aitken::status::converged);
                    CHECK(r.err <= o.tol);
                    CHECK_NEAR(r.err, p.certificate(o.reg), 1e-14 + 0.01 * r.err);
                    CHECK_NEAR(r.mass, 1.0, o.tol);
                    CHECK(r.nit_newton <= (m == method::newton ? 9 : 15));  // "auto" skips the stages here
                    if (!stored) continue;
                    double linear = 0;  // the kernel left in `plan` is the plan
                    for (index e = 0; e < p.n * p.n; ++e) linear += p.plan[e] * p.cost[e];
                    CHECK_NEAR(r.linear, linear, 1e-14);
                }
}

TEST(ot_solver_float32) {
    assignment<float> p(90);
    options o = settings(2e-3);
    o.tol = 3e-7;
    for (const bool stored : {true, false}) {
        const report r = p.solve(o, {}, stored);
        CHECK(r.status == aitken::status::converged);
        CHECK(r.err <= o.tol);
        CHECK_NEAR(r.err, p.certificate(o.reg), 6e-8);
    }
}

TEST(ot_solver_bits_do_not_depend_on_threads) {
    assignment<double> p(300, 3);
    for (const linear_solver s : {linear_solver::automatic, linear_solver::hybrid, linear_solver::direct}) {
        options o = settings(1e-3, method::newton, s);
        o.n_threads = 1;
        const report one = p.solve(o);
        const std::vector<double> x = p.x, y = p.y, plan = p.plan;
        for (const int threads : {2, 3, 5}) {
            o.n_threads = threads;
            const report more = p.solve(o);
            CHECK(more.err == one.err && more.nit_cg == one.nit_cg);
            CHECK(p.x == x && p.y == y && p.plan == plan);
        }
    }
}

TEST(ot_solver_stops_when_the_monitor_says_so) {
    assignment<double> p(60);
    for (int after = 1; after <= 6; ++after) {
        int calls = 0;
        const report r = p.solve(settings(1e-3), [&](const step&) { return ++calls == after; });
        CHECK(calls == after);
        CHECK(r.status == aitken::status::stopped_by_callback);
        CHECK(r.history.size() == static_cast<std::size_t>(after));
        CHECK_NEAR(r.err, p.certificate(1e-3), 1e-13);
        CHECK_NEAR(r.mass, 1.0, r.err);
    }
}

// The hook is asked at most every 50 ms, so the solves here are ones that would go on for minutes.
TEST(ot_solver_stops_within_a_step_of_a_signal) {
    for (const method m : {method::sinkhorn, method::sns, method::newton}) {
        assignment<double> p(200);
        bool raised = false;
        int steps_after = 0;
        p.signals = aitken::interrupt([&] { return raised = true; });
        options o = settings(1e-4, m, linear_solver::jacobi);
        o.tol = 1e-300;
        o.max_iterations = 100000000;
        o.warmup = m == method::sns ? 100000000 : o.warmup;
        o.cg_max = 100000000;  // newton: inside the CG of one step
        o.eps_scaling = false;
        CHECK_THROWS(p.solve(o, [&](const step&) { return static_cast<void>(steps_after += raised), false; }),
                     aitken::interrupted);
        CHECK(raised);
        CHECK(steps_after <= 1);
        p.signals = {};
        CHECK(p.solve(settings(2e-3)).status == aitken::status::converged);  // and nothing is left behind
    }
}

TEST(ot_solver_passes_exceptions_of_the_monitor_on) {
    assignment<double> p(60);
    struct mine : std::exception {};
    CHECK_THROWS(p.solve(settings(1e-3), [](const step&) -> bool { throw mine(); }), mine);
}

// Fails the 1st, 2nd, 3rd ... allocation and all later ones until a solve gets by: each failure has to come
// out as bad_alloc, with nothing leaked (the sanitizer's part) and the next solve unharmed.
TEST(ot_solver_survives_running_out_of_memory) {
    struct limit {
        explicit limit(long n) { allocations_left = n; }
        ~limit() { allocations_left = -1; }
    };
    for (const linear_solver s : {linear_solver::automatic, linear_solver::hybrid, linear_solver::direct}) {
        assignment<double> p(24);
        const options o = settings(1e-3, method::newton, s);
        const report expected = p.solve(o);
        const std::vector<double> x = p.x;
        long refused = 0;
        for (;; ++refused) {
            bool threw = false;
            {
                const limit few(refused);
                try {
                    p.solve(o);
                } catch (const std::bad_alloc&) {
                    threw = true;
                }
            }
            if (!threw) break;
        }
        CHECK(refused > 50);
        CHECK(p.x == x);
        CHECK(expected.status == aitken::status::converged);
    }
}

// --------------------------------------------------------------------------- the functions beside the solver

template <class T>
void plan_functions(double tol) {
    each_case<T>([&](const ot_case<T>& k) {
        const matrix<const T> cost{k.cost.data(), k.n, k.m, k.ld};
        const vec<const double> x{k.x.data(), k.n}, y{k.y.data(), k.m}, a{k.a.data(), k.n},
            b{k.b.data(), k.m};
        std::vector<double> P(k.n * k.m), pq(k.n, 0.0), ptp(k.m, 0.0), out_rows(k.n), out_cols(k.m);
        for (index i = 0; i < k.n; ++i)
            for (index j = 0; j < k.m; ++j) {
                const double p = P[i * k.m + j] = std::exp((x[i] + y[j] - cost.row(i)[j]) / k.eps);
                pq[i] += p * k.q[j];
                ptp[j] += p * k.p[i];
            }
        namespace cpu = aitken::cpu::ot;
        cpu::plan_times<T>(cost, k.eps, x, y, false, {k.q.data(), k.m}, {out_rows.data(), k.n}, 2);
        aitken::tests::compare(out_rows, pq, 10 * tol, k.name + " P q");
        cpu::plan_times<T>(cost, k.eps, x, y, true, {k.p.data(), k.n}, {out_cols.data(), k.m}, 2);
        aitken::tests::compare(out_cols, ptp, 10 * tol, k.name + " P^T p");

        const index first = k.n / 3;
        std::vector<T> rows((k.n - first) * k.m);
        cpu::plan_rows<T>(cost, k.eps, x, y, first, {rows.data(), k.n - first, k.m, k.m}, 2);
        aitken::tests::compare({rows.begin(), rows.end()}, {P.begin() + first * k.m, P.end()}, tol,
                               k.name + " rows");

        const sparse_plan kept = cpu::compress<T>(cost, k.eps, x, y, a, b, 1e-3, 2);
        std::vector<double> dense(P.size(), 0.0), expected = P;
        for (index i = 0; i < k.n; ++i)
            for (index e = kept.indptr[i]; e < kept.indptr[i + 1]; ++e)
                dense[i * k.m + kept.indices[e]] = kept.values[e];
        for (std::size_t e = 0; e < P.size(); ++e)
            if (dense[e] == 0) {  // left out: then it is small against both its row and its column
                const auto i = static_cast<index>(e) / k.m, j = static_cast<index>(e) % k.m;
                CHECK(P[e] <= 1e-3 * std::min(a[i] / k.m, b[j] / k.n) * (1 + 10 * tol));
                expected[e] = 0;
            }
        aitken::tests::compare(dense, expected, tol, k.name + " compressed");

        const cost_facts facts = cpu::inspect<T>(cost, 2);
        double lo = infinity, hi = -infinity;
        bool forbidden = false;
        for (index i = 0; i < k.n; ++i)
            for (index j = 0; j < k.m; ++j) {
                const double c = cost.row(i)[j];
                forbidden |= c == infinity;
                if (c < infinity) lo = std::min(lo, c), hi = std::max(hi, c);
            }
        CHECK(facts.smallest == lo && facts.largest == hi && facts.has_forbidden == forbidden);
        CHECK(!facts.has_nan && !facts.has_negative_inf);
        const bool emptied = k.n > 20 && k.m > 4;
        CHECK(facts.empty_row == (emptied ? k.n - 2 : -1) && facts.empty_col == (emptied ? k.m - 2 : -1));
    });
}
TEST(ot_plan_functions_f64) { plan_functions<double>(1e-13); }
TEST(ot_plan_functions_f32) { plan_functions<float>(5e-7); }

TEST(ot_inspect_finds_what_is_wrong) {
    for (const index m : {1, 5, 40})
        for (const index at : {index{0}, 7 * m / 2, 7 * m - 1}) {
            std::vector<double> cost(7 * m, 0.5);
            const auto look = [&](double value) {
                cost[at] = value;
                return aitken::cpu::ot::inspect<double>({cost.data(), 7, m, m}, 1);
            };
            CHECK(look(std::nan("")).has_nan && !look(std::nan("")).has_forbidden);
            CHECK(look(-infinity).has_negative_inf && !look(-infinity).has_nan);
            CHECK(look(infinity).has_forbidden && !look(infinity).has_negative_inf);
            CHECK(look(1e300).largest == 1e300 && look(-1e300).smallest == -1e300);
        }
}

}  // namespace
