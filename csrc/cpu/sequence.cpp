// Chains of systems on the CPU: one lane, its operators renewed in place.
#include "core/api/sequence.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/api/short_recurrence.hpp"
#include "cpu/krylov_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/krylov.hpp"
#include "drivers/sequence.hpp"
#include "sparse/ldlt.hpp"

namespace aitken::cpu::sequence {
namespace {

using api::preconditioner;

template <class S>
using single = std::conditional_t<std::is_same_v<S, double>, float, std::complex<float>>;

std::vector<index> block_starts(index n, index block) {
    std::vector<index> starts;
    for (index i = 0; i < n; i += block) starts.push_back(i);
    starts.push_back(n);
    return starts;
}

template <class S>
map_ptr<S> make_preconditioner(const api::options& o, const pattern_view& a, const S* values) {
    switch (o.preconditioner) {
        case preconditioner::none:
            return nullptr;
        case preconditioner::jacobi:
            return make_jacobi<S>(a, values);
        case preconditioner::block_jacobi:
            return make_block_jacobi<S>(a, values, block_starts(a.rows, o.block));
        case preconditioner::ssor:
            return make_ssor<S>(a, values, 1.0);
        case preconditioner::ilu0:
            return make_ilu0<S>(a, values, false);
        case preconditioner::ic0:
            return make_ic0<S>(a, values, 0.0);
        case preconditioner::chebyshev:
            return make_chebyshev<S>(a, values, 4, 0, 0, 30);
        case preconditioner::schwarz:
            return make_schwarz<S>(a, values, block_starts(a.rows, o.block), 1, false);
        case preconditioner::ilut:
            return make_ilut<S>(a, values, 1e-3, 10);
    }
    throw std::logic_error("unknown preconditioner");
}

template <class S>
const S* values_of(const api::systems<S>& systems, index i) {
    return systems.data + (systems.one_matrix ? 0 : i * systems.pattern.nnz());
}

// What `make` gives; its complaints name the system.
template <class Make>
auto named(index system, Make&& make) {
    try {
        return make();
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("system " + std::to_string(system) + ": " + error.what());
    }
}

template <class S>
struct operators {
    map_ptr<S> matrix_, inverse_;
    operators(const api::systems<S>& systems, index first, const api::options& o)
        : matrix_(make_csr<S>(systems.pattern, values_of(systems, first))), inverse_(named(first, [&] {
              return make_preconditioner<S>(o, systems.pattern, values_of(systems, first));
          })) {}
};

// The kernels with the systems behind them: values are read where they lie, operators are renewed in place.
template <class S, class B>
class chain_kernels : private operators<S>, public krylov_kernels<S, B> {
    using operators<S>::matrix_;
    using operators<S>::inverse_;

public:
    chain_kernels(backend& be, const api::systems<S>& systems, index first, const api::options& o, S* x)
        : operators<S>(systems, first, o),
          krylov_kernels<S, B>(be, *matrix_, inverse_.get()),
          systems_(systems),
          o_(o),
          x_(x),
          opened_(first) {}

    bool open(int, index system) {
        const S* const values = values_of(systems_, system);
        const std::size_t bytes = sizeof(S) * static_cast<std::size_t>(systems_.pattern.nnz());
        const bool same = systems_.one_matrix || system == opened_ ||
                          std::memcmp(values, values_of(systems_, opened_), bytes) == 0;
        const bool again = same && !fresh_;
        if (!same) {
            matrix_->update(values);
            opened_ = system;
            const bool keep =
                o_.keep_preconditioner > 0 && best_ >= 0 &&
                static_cast<double>(last_) <= o_.keep_preconditioner * static_cast<double>(best_);
            if (inverse_ && !keep) {
                named(system, [&] { inverse_->update(values); });
                best_ = -1;
            }
        }
        opened_ = system;
        fresh_ = false;
        return again;
    }
    vec<const S> rhs(int, index system) const {
        const index n = systems_.pattern.rows;
        return {systems_.b + (systems_.one_rhs ? 0 : system * n), n};
    }
    vec<S> solution(index system) const {
        const index n = systems_.pattern.rows;
        return {x_ + system * n, n};
    }
    const double* params(index system) const {
        return systems_.params == nullptr ? nullptr : systems_.params + system * systems_.n_params;
    }
    index n_params() const { return systems_.n_params; }
    void told(int, index iterations) {
        last_ = iterations;
        if (best_ < 0 || iterations < best_) best_ = iterations;
    }

    linear_map<S>& matrix() { return *matrix_; }
    linear_map<S>* inverse() { return inverse_.get(); }

private:
    const api::systems<S>& systems_;
    const api::options& o_;
    S* x_;
    index opened_, last_ = 0, best_ = -1;
    bool fresh_ = true;
};

aitken::short_recurrence::options conjugate_gradients(const api::options& o, bool harvest) {
    aitken::short_recurrence::options cg;
    cg.method = aitken::short_recurrence::method::cg;
    cg.recycle = harvest && o.krylov.recycle > 0;
    cg.rtol = o.krylov.rtol;
    cg.atol = o.krylov.atol;
    cg.max_iterations = o.krylov.max_iterations;
    cg.recycle_dim = o.krylov.recycle;
    cg.window = std::max(1, o.krylov.recycle);
    return cg;
}

template <class S, class B>
void run_krylov(const api::systems<S>& systems, std::span<const index> chain, const api::options& o, S* x,
                aitken::krylov::space<S>& kept, interrupt& signals, const api::monitor& monitor) {
    namespace driver = drivers::krylov;
    using kernels_type = chain_kernels<S, B>;
    backend be(signals);
    kernels_type kernels(be, systems, chain.front(), o, x);
    const std::span<const index> chains[1] = {chain};
    drivers::sequence::chain_source<S, B, backend, kernels_type> source(be, kernels, systems.pattern.rows,
                                                                        chains, o, monitor, 1);
    if (kept.vectors() > 0) source.seed();
    if (o.method == api::method::gcrodr) {
        driver::solver<S, B, backend, kernels_type> solver(be, kernels, systems.pattern.rows, o.krylov);
        solver.set_space(0, kept);
        solver.run(source);
        if (o.krylov.recycle > 0) solver.get_space(0, kept);
        return;
    }
    driver::problem<S> p;
    while (source.next(0, p)) {
        if (p.forget) kept = {};
        source.done(0, short_recurrence::solve<S>(kernels.matrix(), kernels.inverse(), p.b, p.x,
                                                  conjugate_gradients(o, p.harvest), kept, p.same_matrix,
                                                  signals, {}));
    }
}

// Factor each matrix on the pattern analysed once; refine until the residual meets the tolerance.
void run_direct(const api::systems<double>& systems, std::span<const index> chain, const api::options& o,
                double* x, interrupt& signals, const api::monitor& monitor) {
    const index n = systems.pattern.rows;
    std::vector<index> source;
    const sparse_pattern upper = upper_triangle(systems.pattern, true, &source);
    ldlt factor;
    factor.analyze(n, upper.indptr.data(), upper.indices.data());
    std::vector<double> values(source.size()), residual(static_cast<std::size_t>(n));
    const auto matrix = make_csr<double>(systems.pattern, values_of(systems, chain.front()));
    index opened = -1;
    for (const index i : chain) {
        const auto began = std::chrono::steady_clock::now();
        const double* const a = values_of(systems, i);
        const double* const b = systems.b + (systems.one_rhs ? 0 : i * n);
        double* const xi = x + i * n;
        api::record out;
        out.carried = false;
        bool good = true;
        const auto* before = opened < 0 ? nullptr : values_of(systems, opened);
        if (before == nullptr ||
            std::memcmp(a, before, sizeof(double) * static_cast<std::size_t>(systems.pattern.nnz())) != 0) {
            for (std::size_t k = 0; k < source.size(); ++k) values[k] = a[source[k]];
            matrix->update(a);
            good = factor.factor(values.data(), {}, &signals).ok;
            opened = good ? i : -1;
        }
        double norm_b2 = 0;
        for (index k = 0; k < n; ++k) norm_b2 += b[k] * b[k];
        out.norm_b = out.start = std::sqrt(norm_b2);
        const double target = std::max(o.krylov.rtol * out.norm_b, o.krylov.atol);
        out.status = good ? status::stagnated : status::breakdown;
        std::fill_n(xi, n, 0.0);
        if (good) factor.solve(b, xi);
        for (int step = 0; step < 4; ++step) {
            matrix->apply(xi, residual.data());
            ++out.matvecs;
            double norm2 = 0;
            for (index k = 0; k < n; ++k) {
                residual[k] = b[k] - residual[k];
                norm2 += residual[k] * residual[k];
            }
            out.residual = std::sqrt(norm2);
            if (out.residual <= target) out.status = status::converged;
            if (!good || out.residual <= target || !std::isfinite(out.residual)) break;
            factor.solve(residual.data(), residual.data());
            for (index k = 0; k < n; ++k) xi[k] += residual[k];
            ++out.nit;
        }
        if (!std::isfinite(out.residual)) out.status = status::nonfinite;
        out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        signals.poll();
        if (monitor(i, out)) return;
    }
}

}  // namespace

factor_cost count_factor(const pattern_view& a) {
    const sparse_pattern t = transpose(a);
    sparse_pattern upper;
    upper.rows = upper.cols = a.rows;
    std::vector<std::int32_t> seen(static_cast<std::size_t>(a.rows), -1);
    for (index i = 0; i < a.rows; ++i) {
        for (const pattern_view& p : {a, t.view()})
            for (index e = p.indptr[i]; e < p.indptr[i + 1]; ++e) {
                const std::int32_t j = p.indices[e];
                if (j < i || seen[j] == i) continue;
                seen[j] = static_cast<std::int32_t>(i);
                upper.indices.push_back(j);
            }
        upper.indptr.push_back(upper.nnz());
    }
    ldlt factor;
    factor.count_only(a.rows, upper.indptr.data(), upper.indices.data());
    return {factor.nnz_l(), factor.flops()};
}

template <class S>
void run_chain(const api::systems<S>& systems, std::span<const index> chain, const api::options& o, S* x,
               aitken::krylov::space<S>& kept, interrupt& signals, const api::monitor& monitor) {
    if (chain.empty()) return;
    const thread_scope threads(o.krylov.n_threads);
    if (o.method == api::method::direct) {
        if constexpr (std::is_same_v<S, double>)
            return run_direct(systems, chain, o, x, signals, monitor);
        else
            throw std::invalid_argument("`solver` \"direct\" factors real symmetric matrices only");
    }
    if (o.krylov.basis == aitken::krylov::basis::single && o.method == api::method::gcrodr)
        run_krylov<S, single<S>>(systems, chain, o, x, kept, signals, monitor);
    else
        run_krylov<S, S>(systems, chain, o, x, kept, signals, monitor);
}

// --- systems one by one -----------------------------------------------------------------------------------

namespace {

// Operators and vectors as they are handed over; solutions and their parameters in a ring.
template <class S, class B>
class session_kernels : public krylov_kernels<S, B> {
public:
    session_kernels(backend& be, linear_map<S>& matrix, linear_map<S>* inverse, index slots)
        : krylov_kernels<S, B>(be, matrix, inverse),
          n_(matrix.size()),
          slots_(slots),
          x_(static_cast<std::size_t>(slots * n_)),
          params_(static_cast<std::size_t>(slots)) {}

    bool same = false;
    const S* b = nullptr;

    bool open(int, index) const { return same; }
    vec<const S> rhs(int, index) const { return {b, n_}; }
    vec<S> solution(index slot) { return {x_.data() + slot * n_, n_}; }
    const double* params(index slot) const {
        const auto& p = params_[static_cast<std::size_t>(slot)];
        return p.empty() ? nullptr : p.data();
    }
    index n_params() const { return n_params_; }
    void told(int, index) {}

    index take_slot(std::span<const double> params) {
        const index slot = taken_++ % slots_;
        params_[static_cast<std::size_t>(slot)].assign(params.begin(), params.end());
        n_params_ = static_cast<index>(params.size());
        return slot;
    }

private:
    index n_, slots_, taken_ = 0, n_params_ = 0;
    std::vector<S> x_;
    std::vector<std::vector<double>> params_;
};

// Earlier solutions worth keeping: many, as the nearest of them are wanted, but within 256 MiB.
index slots_for(index n, int project) {
    const index most = std::max<index>(1, 32 * project), least = std::max<index>(1, 8 * project);
    return std::clamp<index>((index{1} << 25) / std::max<index>(n, 1), least, most);
}

template <class S, class B>
class session_of final : public session<S> {
    using kernels_type = session_kernels<S, B>;
    using solver_type = drivers::krylov::solver<S, B, backend, kernels_type>;

public:
    session_of(linear_map<S>& matrix, linear_map<S>* inverse, const api::options& o)
        : o_(o),
          be_(signals_),
          kernels_(be_, matrix, inverse, slots_for(matrix.size(), o.project)),
          source_(be_, kernels_, matrix.size(), {}, o_, monitor_, 1) {
        if (o.method == api::method::gcrodr)
            solver_ = std::make_unique<solver_type>(be_, kernels_, matrix.size(), o.krylov);
    }

    api::record solve(linear_map<S>& matrix, linear_map<S>* inverse, vec<const S> b, vec<S> x,
                      std::span<const double> params, bool same_matrix, bool start_given, interrupt& signals,
                      aitken::krylov::report& report) override {
        const thread_scope threads(o_.krylov.n_threads);
        signals_ = signals;
        kernels_.set_operators(matrix, inverse);
        kernels_.b = b.data;
        kernels_.same = same_matrix && !fresh_;
        fresh_ = false;
        const index slot = kernels_.take_slot(params);
        source_.forget(slot);
        const index one[1] = {slot};
        source_.resume(one);
        one_run run{*this, start_given ? x : vec<S>{}, signals, report};
        if (solver_)
            solver_->run(run);
        else
            run.conjugate_gradients(matrix, inverse);
        const vec<S> found = kernels_.solution(slot);
        std::copy_n(found.data, found.size, x.data);
        return last_;
    }
    void restart() override {
        source_.start_anew();
        fresh_ = true;
    }

private:
    // Passes one system on, with the caller's start where it gave one.
    struct one_run {
        session_of& s;
        vec<S> start;
        interrupt& signals;
        aitken::krylov::report& report;
        bool given = false;

        bool next(int lane, drivers::krylov::problem<S>& p) {
            if (given || !s.source_.next(lane, p)) return false;
            given = true;
            if (start.data != nullptr) std::copy_n(start.data, start.size, p.x.data);
            return true;
        }
        void done(int lane, const aitken::krylov::report& r) {
            report = r;
            s.source_.done(lane, r);
        }
        void conjugate_gradients(linear_map<S>& matrix, linear_map<S>* inverse) {
            drivers::krylov::problem<S> p;
            next(0, p);
            if (p.forget) s.kept_ = {};
            const auto r = short_recurrence::solve<S>(matrix, inverse, p.b, p.x,
                                                      sequence::conjugate_gradients(s.o_, p.harvest), s.kept_,
                                                      p.same_matrix, signals, {});
            report.status = r.status;
            report.iterations = r.iterations;
            report.matvecs = r.matvecs;
            report.precond_applies = r.precond_applies;
            report.residual = r.residual;
            report.norm_b = r.norm_b;
            report.target = r.target;
            report.recycled = r.recycled;
            report.kept = r.kept;
            report.history = r.history;
            report.counts = r.counts;
            s.source_.done(0, report);
        }
    };

    api::options o_;
    interrupt signals_;
    backend be_;
    kernels_type kernels_;
    api::record last_;
    const api::monitor monitor_ = [this](index, const api::record& r) {
        last_ = r;
        return false;
    };
    drivers::sequence::chain_source<S, B, backend, kernels_type> source_;
    std::unique_ptr<solver_type> solver_;
    aitken::krylov::space<S> kept_;
    bool fresh_ = true;
};

}  // namespace

template <class S>
std::unique_ptr<session<S>> make_session(linear_map<S>& matrix, linear_map<S>* inverse,
                                         const api::options& o) {
    if (o.method == api::method::direct)
        throw std::invalid_argument("`solver` \"direct\" has nothing to carry from system to system");
    if (o.krylov.basis == aitken::krylov::basis::single && o.method == api::method::gcrodr)
        return std::make_unique<session_of<S, single<S>>>(matrix, inverse, o);
    return std::make_unique<session_of<S, S>>(matrix, inverse, o);
}

#define AITKEN_INSTANTIATE(S)                                                                               \
    template std::unique_ptr<session<S>> make_session(linear_map<S>&, linear_map<S>*, const api::options&); \
    template void run_chain(const api::systems<S>&, std::span<const index>, const api::options&, S*,        \
                            aitken::krylov::space<S>&, interrupt&, const api::monitor&);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(std::complex<double>)
#undef AITKEN_INSTANTIATE

}  // namespace aitken::cpu::sequence
