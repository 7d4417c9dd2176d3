// CG, MINRES and BiCGSTAB: answers against plain loops, what a recycled space must satisfy, how each solve
// can end, the same bits for every thread count, and launches and reads per iteration on a backend whose
// memory the host cannot touch.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/api/short_recurrence.hpp"
#include "counting_backend.hpp"
#include "cpu/short_recurrence_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/short_recurrence.hpp"

namespace {

using namespace aitken;
using namespace aitken::short_recurrence;
using aitken::index;
using cplx = std::complex<double>;
using tests::counting_backend;

template <class S>
S unit_phase(double angle) {
    if constexpr (dense::is_complex<S>)
        return std::polar(1.0, angle);
    else
        return 1.0;
}
template <class S>
S from_parts(double re, [[maybe_unused]] double im) {
    if constexpr (dense::is_complex<S>)
        return S(re, im);
    else
        return re;
}

// Five-point Laplacian on an m by m grid, plus a shift and a drift that makes it nonsymmetric; Hermitian
// phases on the couplings where S is complex.
template <class S>
class stencil final : public linear_map<S> {
public:
    explicit stencil(index m, double shift = 0, double drift = 0) : m_(m), shift_(shift), drift_(drift) {}
    using linear_map<S>::apply;
    index size() const override { return m_ * m_; }
    void apply(tall<const S> x, tall<S> y) override {
        const S east = unit_phase<S>(0.7) * -(1 - drift_), west = unit_phase<S>(-0.7) * -(1 + drift_);
        for (index c = 0; c < x.cols; ++c)
            for (index i = 0; i < m_; ++i)
                for (index j = 0; j < m_; ++j) {
                    const S* v = x.col(c) + i * m_ + j;
                    S sum = (4.0 + shift_) * *v;
                    if (j + 1 < m_) sum += east * v[1];
                    if (j > 0) sum += west * v[-1];
                    if (i + 1 < m_) sum -= v[m_];
                    if (i > 0) sum -= v[-m_];
                    y.col(c)[i * m_ + j] = sum;
                }
    }

private:
    index m_;
    double shift_, drift_;
};

template <class S>
class diagonal final : public linear_map<S> {
public:
    explicit diagonal(std::vector<double> d) : d_(std::move(d)) {}
    using linear_map<S>::apply;
    index size() const override { return static_cast<index>(d_.size()); }
    void apply(tall<const S> x, tall<S> y) override {
        for (index c = 0; c < x.cols; ++c)
            for (index i = 0; i < size(); ++i) y.col(c)[i] = d_[i] * x.col(c)[i];
    }

private:
    std::vector<double> d_;
};

// Numbers in (-1, 1) from a multiplicative recurrence: the same on every machine.
template <class S>
std::vector<S> some_vector(index n, std::uint32_t seed) {
    std::vector<S> x;
    std::uint32_t state = seed * 2654435761u + 12345u;
    const auto next = [&state] {
        state = state * 1664525u + 1013904223u;
        return 2.0 * (state >> 8) / double(1u << 24) - 1.0;
    };
    for (index i = 0; i < n; ++i) {
        const double re = next();
        x.push_back(from_parts<S>(re, next()));
    }
    return x;
}
std::vector<double> positive_weights(index n) {
    std::vector<double> d;
    for (index i = 0; i < n; ++i) d.push_back(0.2 + 0.05 * static_cast<double>(i % 7));
    return d;
}

template <class S>
double norm(const std::vector<S>& x) {
    long double sum = 0;
    for (const S& e : x) sum += std::norm(e);
    return static_cast<double>(std::sqrt(sum));
}
template <class S>
double residual(linear_map<S>& a, const std::vector<S>& x, const std::vector<S>& b) {
    std::vector<S> r(x.size());
    a.apply(x.data(), r.data());
    for (std::size_t i = 0; i < r.size(); ++i) r[i] = b[i] - r[i];
    return norm(r);
}
template <class S>
S inner(const S* x, const S* y, index n) {
    S sum(0);
    for (index i = 0; i < n; ++i) sum += dense::conjugate(x[i]) * y[i];
    return sum;
}

// Cyclic Jacobi rotations; the native tests have no LAPACK. Eigenvalues ascending, vectors replace `a`.
template <class S>
std::vector<double> jacobi_eigenvectors(dense::small_matrix<S>& a) {
    const int n = a.rows;
    dense::small_matrix<S> v(n, n);
    for (int i = 0; i < n; ++i) v(i, i) = S(1);
    for (int sweep = 0; sweep < 60; ++sweep)
        for (int p = 0; p < n; ++p)
            for (int q = p + 1; q < n; ++q) {
                const double size = std::abs(a(p, q));
                if (size <= 1e-300) continue;
                const S phase = a(p, q) / size;
                const double theta = (std::real(a(q, q)) - std::real(a(p, p))) / (2 * size);
                const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::hypot(theta, 1.0));
                const double c = 1 / std::hypot(t, 1.0), s = t * c;
                for (auto* m : {&a, &v})
                    for (int i = 0; i < n; ++i) {
                        const S x = (*m)(i, p), y = (*m)(i, q);
                        (*m)(i, p) = c * x - s * dense::conjugate(phase) * y;
                        (*m)(i, q) = s * phase * x + c * y;
                    }
                for (int i = 0; i < n; ++i) {
                    const S x = a(p, i), y = a(q, i);
                    a(p, i) = c * x - s * phase * y;
                    a(q, i) = s * dense::conjugate(phase) * x + c * y;
                }
            }
    std::vector<std::pair<double, int>> order;
    for (int i = 0; i < n; ++i) order.emplace_back(std::real(a(i, i)), i);
    std::sort(order.begin(), order.end());
    std::vector<double> values;
    for (int j = 0; j < n; ++j) {
        values.push_back(order[j].first);
        std::copy_n(v.col(order[j].second), n, a.col(j));
    }
    return values;
}

// The CPU kernels with eigenvectors of our own.
template <class S>
class host_kernels : public cpu::short_recurrence_kernels<S> {
public:
    using cpu::short_recurrence_kernels<S>::short_recurrence_kernels;
    std::vector<double> eigenvectors(dense::small_matrix<S>& a) const { return jacobi_eigenvectors(a); }
};

// The same with the device open while one runs.
template <class S>
class device_kernels {
public:
    device_kernels(counting_backend& be, linear_map<S>& matrix, linear_map<S>* inverse, double shift)
        : be_(be), kernels_(be, matrix, inverse, shift) {}
    bool preconditioned() const { return kernels_.preconditioned(); }
    std::vector<double> eigenvectors(dense::small_matrix<S>& a) const { return jacobi_eigenvectors(a); }

#define AITKEN_FORWARD(name)                                                                      \
    template <class... Args>                                                                      \
        requires requires(cpu::short_recurrence_kernels<S>& k, Args... args) { k.name(args...); } \
    void name(Args... args) {                                                                     \
        const counting_backend::kernel_scope inside(be_);                                         \
        kernels_.name(args...);                                                                   \
    }
    AITKEN_FORWARD(apply)
    AITKEN_FORWARD(precondition)
    AITKEN_FORWARD(apply_block)
    AITKEN_FORWARD(precondition_block)
    AITKEN_FORWARD(dot)
    AITKEN_FORWARD(residual)
    AITKEN_FORWARD(cg_residual)
    AITKEN_FORWARD(cg_advance)
    AITKEN_FORWARD(cg_direction)
    AITKEN_FORWARD(cg_move)
    AITKEN_FORWARD(scale)
    AITKEN_FORWARD(lanczos_diagonal)
    AITKEN_FORWARD(lanczos_next)
    AITKEN_FORWARD(minres_step)
    AITKEN_FORWARD(minres_residual)
    AITKEN_FORWARD(shadow)
    AITKEN_FORWARD(bicg_half)
    AITKEN_FORWARD(bicg_pair)
    AITKEN_FORWARD(bicg_residual)
    AITKEN_FORWARD(bicg_advance)
    AITKEN_FORWARD(bicg_direction)
    AITKEN_FORWARD(project)
    AITKEN_FORWARD(combine)
    AITKEN_FORWARD(small_step)
    AITKEN_FORWARD(store)
    AITKEN_FORWARD(gram)
    AITKEN_FORWARD(mix)
#undef AITKEN_FORWARD

private:
    counting_backend& be_;
    cpu::short_recurrence_kernels<S> kernels_;
};

template <class S>
struct problem {
    linear_map<S>& a;
    linear_map<S>* m;
    std::vector<S> b;
};

template <class S>
report solve(const problem<S>& p, const options& o, std::vector<S>& x, krylov::space<S>& kept,
             bool same_matrix = false, const krylov::monitor<S>& monitor = {}) {
    const cpu::thread_scope threads(o.n_threads);
    interrupt signals;
    cpu::backend be(signals);
    host_kernels<S> kernels(be, p.a, p.m, o.shift);
    drivers::short_recurrence::solver<S, cpu::backend, host_kernels<S>> driver(be, kernels, p.a.size(), o,
                                                                               monitor);
    return driver.run({p.b.data(), p.a.size()}, {x.data(), p.a.size()}, kept, same_matrix);
}
template <class S>
report solve(const problem<S>& p, const options& o, std::vector<S>& x,
             const krylov::monitor<S>& monitor = {}) {
    krylov::space<S> none;
    return solve(p, o, x, none, false, monitor);
}

template <class S>
report solve_on_device(const problem<S>& p, const options& o, std::vector<S>& x, krylov::space<S>& kept) {
    interrupt signals;
    counting_backend be(signals);
    const index n = p.a.size();
    const vec<S> b = be.template allocate<S>(n), dx = be.template allocate<S>(n);
    be.upload(p.b.data(), b);
    be.upload(x.data(), dx);
    device_kernels<S> kernels(be, p.a, p.m, o.shift);
    const krylov::monitor<S> silent;
    drivers::short_recurrence::solver<S, counting_backend, device_kernels<S>> driver(be, kernels, n, o,
                                                                                     silent);
    be.counts() = {};
    const report out = driver.run(b, dx, kept, false);
    be.download(vec<const S>(dx), x.data());
    return out;
}

template <class S>
void check_answers() {
    const index m = 23, n = m * m;
    stencil<S> spd(m, 0.01), indefinite(m, -1.3), general(m, 0.01, 0.3);
    diagonal<S> weights(positive_weights(n));
    const std::vector<S> b = some_vector<S>(n, 1);
    for (const auto& [how, a] : {std::pair<method, linear_map<S>*>{method::cg, &spd},
                                 {method::minres, &spd},
                                 {method::minres, &indefinite},
                                 {method::bicgstab, &general},
                                 {method::bicgstab, &spd}})
        for (linear_map<S>* inverse :
             {static_cast<linear_map<S>*>(nullptr), static_cast<linear_map<S>*>(&weights)})
            for (const bool from_zero : {true, false}) {
                options o;
                o.method = how;
                o.rtol = 1e-10;
                o.zero_start = from_zero;
                o.max_iterations = 2000;
                std::vector<S> x = from_zero ? std::vector<S>(n, S(0)) : some_vector<S>(n, 2);
                const report r = solve<S>({*a, inverse, b}, o, x);
                CHECK(r.status == status::converged);
                const double err = residual(*a, x, b);
                CHECK(err <= 1.001e-10 * norm(b));
                CHECK_NEAR(r.residual, err, 1e-3 * err);
                CHECK(r.history.size() == static_cast<std::size_t>(r.iterations + 1));
                CHECK(r.iterations > 20);
                CHECK(r.history.back() <= r.target);
                CHECK((inverse != nullptr) == (r.precond_applies > 0));
            }
}
TEST(short_recurrence_answers_real) { check_answers<double>(); }
TEST(short_recurrence_answers_complex) { check_answers<cplx>(); }

// With n distinct eigenvalues in few clusters CG and MINRES end after as many steps as there are values, also
// where the preconditioner makes them; a shift only moves them.
TEST(short_recurrence_finite_termination) {
    const index n = 400;
    std::vector<double> values, half;
    for (index i = 0; i < n; ++i) {
        values.push_back(i % 3 == 0 ? 1.0 : i % 3 == 1 ? 4.0 : 9.0);
        half.push_back(i % 2 == 0 ? 0.5 : 2.0);
    }
    diagonal<double> a(values), m(half);
    for (const method how : {method::cg, method::minres, method::bicgstab})
        for (const bool with_m : {false, true}) {
            options o;
            o.method = how;
            o.rtol = 1e-12;
            o.shift = how == method::minres ? 2.0 : 0.5;
            std::vector<double> x(n, 0.0);
            const std::vector<double> b = some_vector<double>(n, 5);
            const report r = solve<double>({a, with_m ? &m : nullptr, b}, o, x);
            CHECK(r.status == status::converged);
            CHECK(r.iterations <= (with_m ? 6 : 3) + 1);  // one more for rounding
            double worst = 0;
            for (index i = 0; i < n; ++i)
                worst = std::max(worst, std::abs((values[i] - o.shift) * x[i] - b[i]));
            CHECK(worst <= 1e-11);
        }
}

template <class S>
void check_recycling(method how, double shift, bool with_m) {
    const index m = 40, n = m * m;
    stencil<S> a(m, shift), near(m, shift + 1e-3);
    diagonal<S> weights(positive_weights(n));
    linear_map<S>* inverse = with_m ? &weights : nullptr;
    options o;
    o.method = how;
    o.recycle = true;
    o.rtol = 1e-9;
    o.max_iterations = 3000;
    o.recycle_dim = 12;
    o.window = 60;
    o.zero_start = true;
    krylov::space<S> kept;
    std::vector<S> x(n, S(0));
    const report first = solve<S>({a, inverse, some_vector<S>(n, 1)}, o, x, kept);
    CHECK(first.status == status::converged);
    CHECK(first.recycled == 0);
    CHECK(first.kept == 12);
    CHECK(kept.vectors() == 12);

    // C = A U, and U^H A U = I or C^H M C = I.
    std::vector<S> image(kept.u.size()), other(kept.u.size());
    a.apply({kept.u.data(), n, 12, n}, {image.data(), n, 12, n});
    double off = 0;
    for (std::size_t i = 0; i < image.size(); ++i) off = std::max(off, std::abs(image[i] - kept.c[i]));
    CHECK(off <= 1e-8);
    other = how == method::cg ? kept.u : kept.c;
    if (how == method::minres && with_m) weights.apply({kept.c.data(), n, 12, n}, {other.data(), n, 12, n});
    for (index i = 0; i < 12; ++i)
        for (index j = 0; j < 12; ++j)
            CHECK_NEAR(std::abs(inner(other.data() + i * n, image.data() + j * n, n)), i == j ? 1.0 : 0.0,
                       1e-6);

    // Another right-hand side, the same matrix and a near one: fewer iterations than without the space.
    for (const bool same : {true, false}) {
        krylov::space<S> used = kept;
        stencil<S>& next = same ? a : near;
        options plain = o;
        plain.recycle = false;
        const std::vector<S> b = some_vector<S>(n, 7);
        std::vector<S> y(n, S(0)), z(n, S(0));
        const report cold = solve<S>({next, inverse, b}, plain, y);
        for (unsigned seed : {20, 21}) {  // the space sharpens from system to system
            std::fill(z.begin(), z.end(), S(0));
            solve<S>({next, inverse, some_vector<S>(n, seed)}, o, z, used, same);
        }
        std::fill(z.begin(), z.end(), S(0));
        const report warm = solve<S>({next, inverse, b}, o, z, used, same);
        CHECK(warm.status == status::converged);
        CHECK(residual<S>(next, z, b) <= 1.001e-9 * norm(b));
        CHECK(warm.recycled == 12);
        CHECK(warm.iterations < 0.75 * static_cast<double>(cold.iterations));
        const index set_up = same ? 0 : 12;
        CHECK(warm.matvecs <= warm.iterations + set_up + 4);
        // The solution itself, given as a space, leaves nothing to do.
        krylov::space<S> exact{n, z, {}};
        std::vector<S> w(n, S(0));
        const report none = solve<S>({next, inverse, b}, o, w, exact);
        CHECK(none.status == status::converged);
        CHECK(none.iterations <= 1);
    }
}
TEST(short_recurrence_recycled_cg) {
    check_recycling<double>(method::cg, 0.0, false);
    check_recycling<double>(method::cg, 0.0, true);
    check_recycling<cplx>(method::cg, 0.0, true);
}
TEST(short_recurrence_recycled_minres) {
    check_recycling<double>(method::minres, -0.05, false);
    check_recycling<double>(method::minres, -0.05, true);
    check_recycling<cplx>(method::minres, -0.05, true);
}

TEST(short_recurrence_dependent_recycled_vectors) {
    const index m = 20, n = m * m;
    stencil<double> a(m);
    for (const method how : {method::cg, method::minres}) {
        options o;
        o.method = how;
        o.recycle = true;
        o.rtol = 1e-9;
        krylov::space<double> kept{n, some_vector<double>(2 * n, 3), {}};
        const std::vector<double> first(kept.u.begin(), kept.u.begin() + n);
        kept.u.insert(kept.u.end(), first.begin(), first.end());  // once more
        kept.u.insert(kept.u.end(), n, 0.0);                      // and nothing at all
        std::vector<double> x(n, 0.0);
        const std::vector<double> b = some_vector<double>(n, 4);
        const report r = solve<double>({a, nullptr, b}, o, x, kept);
        CHECK(r.status == status::converged);
        CHECK(r.recycled == 2);
        CHECK(residual<double>(a, x, b) <= 1.001e-9 * norm(b));
    }
}

TEST(short_recurrence_endings) {
    const index m = 15, n = m * m;
    stencil<double> spd(m, 0.1), indefinite(m, -1.3);
    const std::vector<double> b = some_vector<double>(n, 1);
    options o;
    o.rtol = 1e-10;
    std::vector<double> x(n, 0.0);

    CHECK(solve<double>({indefinite, nullptr, b}, o, x).status == status::not_positive_definite);
    CHECK(std::isfinite(norm(x)));
    diagonal<double> negative(std::vector<double>(n, -1.0));
    for (const method how : {method::cg, method::minres}) {
        o.method = how;
        std::fill(x.begin(), x.end(), 0.0);
        CHECK(solve<double>({spd, &negative, b}, o, x).status == status::not_positive_definite);
    }

    for (const method how : {method::cg, method::minres, method::bicgstab}) {
        o.method = how;
        o.max_iterations = 3;
        std::fill(x.begin(), x.end(), 0.0);
        report r = solve<double>({spd, nullptr, b}, o, x);
        CHECK(r.status == status::max_iterations);
        CHECK(r.iterations == 3);
        CHECK_NEAR(r.residual, residual<double>(spd, x, b), 1e-12);
        o.max_iterations = 1000;

        // A monitor sees every iterate, the last included, and may stop.
        o.report_x = true;
        int calls = 0;
        std::fill(x.begin(), x.end(), 0.0);
        r = solve<double>({spd, nullptr, b}, o, x, [&](const krylov::step<double>& s) {
            ++calls;
            const std::vector<double> now(s.x, s.x + n);
            CHECK_NEAR(s.residual, residual<double>(spd, now, b), 1e-9 * norm(b));
            return calls == 5;
        });
        CHECK(r.status == status::stopped_by_callback);
        CHECK(calls == 5);
        CHECK(r.iterations == 5);
        CHECK_NEAR(r.residual, residual<double>(spd, x, b), 1e-12);
        o.report_x = false;

        // A NaN that the operator makes: the start is given back.
        std::vector<double> values(n, 2.0);
        values[n / 2] = std::numeric_limits<double>::quiet_NaN();
        diagonal<double> bad(values);
        std::fill(x.begin(), x.end(), 0.0);
        o.zero_start = true;
        r = solve<double>({bad, nullptr, b}, o, x);
        CHECK(r.status == status::nonfinite);
        CHECK(norm(x) == 0);
        CHECK(r.residual == norm(b) || std::abs(r.residual / norm(b) - 1) < 1e-14);

        // Nothing to solve, and nothing left to solve.
        std::fill(x.begin(), x.end(), 1.0);
        o.zero_start = false;
        r = solve<double>({spd, nullptr, std::vector<double>(n, 0.0)}, o, x);
        CHECK(r.status == status::converged && r.iterations == 0 && norm(x) == 0);
        x = some_vector<double>(n, 9);
        std::vector<double> image(n);
        spd.apply(x.data(), image.data());
        r = solve<double>({spd, nullptr, image}, o, x);
        CHECK(r.status == status::converged && r.iterations == 0);

        // A tolerance below rounding is not claimed.
        o.rtol = 1e-17;
        std::fill(x.begin(), x.end(), 0.0);
        r = solve<double>({spd, nullptr, b}, o, x);
        CHECK(r.status != status::converged);
        CHECK(r.residual <= 1e-13 * norm(b));
        o.rtol = 1e-10;
    }

    // Singular and inconsistent: MINRES stops at a least-squares solution.
    std::vector<double> values;
    for (index i = 0; i < n; ++i) values.push_back(i == 0 ? 0.0 : 1.0 + static_cast<double>(i % 5));
    diagonal<double> singular(values);
    o.method = method::minres;
    std::fill(x.begin(), x.end(), 0.0);
    const report r = solve<double>({singular, nullptr, b}, o, x);
    CHECK(r.status == status::stagnated);
    CHECK_NEAR(r.residual, std::abs(b[0]), 1e-9);
}

template <class S>
void check_threads(method how, bool recycle) {
    const index m = 210, n = m * m;  // several chunks
    stencil<S> a(m, 0.5, how == method::bicgstab ? 0.2 : 0.0);
    diagonal<S> weights(positive_weights(n));
    const std::vector<S> b = some_vector<S>(n, 1);
    std::vector<S> serial;
    krylov::space<S> serial_space;
    for (const int threads : {1, 2, 3}) {
        options o;
        o.method = how;
        o.recycle = recycle;
        o.recycle_dim = 4;
        o.window = 8;
        o.rtol = 1e-8;
        o.n_threads = threads;
        std::vector<S> x(n, S(0));
        krylov::space<S> kept;
        const report r = solve<S>({a, &weights, b}, o, x, kept);
        CHECK(r.status == status::converged);
        if (threads == 1) {
            serial = x;
            serial_space = kept;
        }
        CHECK(x == serial);
        CHECK(kept.u == serial_space.u && kept.c == serial_space.c);
    }
}
TEST(short_recurrence_bits_for_all_threads) {
    check_threads<double>(method::cg, false);
    check_threads<double>(method::minres, true);
    check_threads<cplx>(method::bicgstab, false);
    check_threads<cplx>(method::cg, true);
}

// Launches and reads of one iteration: the difference of two runs that differ by ten iterations. Products and
// applications of M are launches of their own.
template <class S>
void check_counts(method how, bool with_m, bool recycle, long launches, long reads) {
    const index m = 30, n = m * m;
    stencil<S> a(m, how == method::minres ? -0.4 : 0.0, how == method::bicgstab ? 0.2 : 0.0);
    diagonal<S> weights(positive_weights(n));
    krylov::space<S> start;
    if (recycle) start = {n, some_vector<S>(3 * n, 5), {}};
    const auto run = [&](index budget) {
        options o;
        o.method = how;
        o.recycle = recycle;
        o.recycle_dim = 3;
        o.window = how == method::cg ? 1 : 1000;
        o.rtol = 1e-30;
        o.max_iterations = budget;
        o.zero_start = true;
        std::vector<S> x(n, S(0));
        krylov::space<S> kept = start;
        return solve_on_device<S>({a, with_m ? &weights : nullptr, some_vector<S>(n, 1)}, o, x, kept);
    };
    const report few = run(12), more = run(22);
    CHECK(few.iterations == 12 && more.iterations == 22);
    const long products = how == method::bicgstab ? 2 : 1;
    CHECK(more.matvecs - few.matvecs == 10 * products);
    CHECK(more.precond_applies - few.precond_applies == (with_m ? 10 * products : 0));
    const long operators = products * (with_m ? 2 : 1);
    CHECK(more.counts.launches - few.counts.launches == 10 * (launches + operators));
    CHECK(more.counts.reads - few.counts.reads == 10 * reads);
    CHECK(more.counts.uploads == few.counts.uploads);
}
TEST(short_recurrence_counts) {
    check_counts<double>(method::cg, false, false, 3, 1);
    check_counts<double>(method::cg, true, false, 4, 1);
    check_counts<double>(method::cg, true, true, 6, 1);
    check_counts<cplx>(method::cg, false, true, 5, 1);
    check_counts<double>(method::minres, false, false, 4, 1);
    check_counts<double>(method::minres, true, false, 6, 2);
    check_counts<double>(method::minres, false, true, 10, 1);
    check_counts<cplx>(method::minres, true, true, 12, 2);
    check_counts<double>(method::bicgstab, false, false, 6, 2);
    check_counts<cplx>(method::bicgstab, true, false, 6, 2);
}

// The driver on locked memory gives the bits of the driver on plain memory: it reads nothing in passing.
TEST(short_recurrence_on_device) {
    const index m = 25, n = m * m;
    stencil<cplx> a(m, -0.3);
    diagonal<cplx> weights(positive_weights(n));
    options o;
    o.method = method::minres;
    o.recycle = true;
    o.recycle_dim = 5;
    o.window = 12;
    o.rtol = 1e-8;
    const problem<cplx> p{a, &weights, some_vector<cplx>(n, 1)};
    krylov::space<cplx> there{n, some_vector<cplx>(2 * n, 2), {}}, here = there;
    std::vector<cplx> x(n, cplx(0)), y(n, cplx(0));
    const report device = solve_on_device(p, o, x, there), host = solve(p, o, y, here);
    CHECK(device.status == status::converged);
    CHECK(device.iterations == host.iterations);
    CHECK(x == y);
    CHECK(there.u == here.u && there.c == here.c);
}

}  // namespace
