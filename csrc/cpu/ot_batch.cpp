// Batches of transport problems on the CPU: a problem per thread, each solved by the one driver.
#include "core/api/ot_batch.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/ot.hpp"
#include "drivers/ot_batch_faults.hpp"

namespace aitken::cpu::ot {

using namespace aitken::ot;
namespace faults = drivers::ot::faults;

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
// From this size on a problem is worth all threads.
constexpr index large = index{1} << 20;

// A common part of all costs is taken off beyond so many times their range: potentials as large as that would
// round what they differ in.
constexpr double far = 100;

// What a thread needs for one problem after another.
template <class T>
struct workspace {
    std::vector<double> a, b;
    std::vector<T> kernel, shifted;
    std::vector<char> reached;
};

bool is_balanced(const options& o) { return o.rho_a == infinity && o.rho_b == infinity; }

// Copies weights, of mass 1 where `balanced`, and returns the mass; `fault` says what is wrong with them.
double take_weights(vec<const double> given, const char* name, bool balanced, index size,
                    std::vector<double>& out, std::string& fault) {
    out.assign(static_cast<std::size_t>(size), 1.0 / static_cast<double>(size));
    if (!given.data) return 1.0;
    double mass = 0;
    for (index i = 0; i < size; ++i) {
        if (!(given[i] >= 0 && given[i] < infinity) && fault.empty())
            fault = faults::of_weight(name, given[i], i);
        mass += given[i];
    }
    if (fault.empty() && !(mass > 0 && mass < infinity)) fault = faults::of_mass(name, mass);
    for (index i = 0; i < size; ++i) out[i] = balanced ? given[i] / mass : given[i];
    return mass;
}

// Bins with mass that may exchange it with no bin with mass: the first one of a hard side as a fault, those
// of a penalised side lose their weight, since they send nothing.
template <class T>
std::string isolated_bins(matrix<const T> cost, const options& o, workspace<T>& own) {
    own.reached.assign(own.a.size() + own.b.size(), 0);
    char *rows = own.reached.data(), *cols = rows + own.a.size();
    for (index i = 0; i < cost.rows; ++i)
        for (index j = 0; j < cost.cols; ++j)
            if (own.a[i] > 0 && own.b[j] > 0 && std::isfinite(cost.row(i)[j])) rows[i] = cols[j] = 1;
    std::string fault;
    const auto visit = [&](const char* line, double rho, const char* reached, std::vector<double>& w) {
        for (std::size_t k = 0; k < w.size(); ++k) {
            if (!(w[k] > 0) || reached[k]) continue;
            if (rho == infinity && fault.empty()) fault = faults::of_bin(line, static_cast<index>(k));
            w[k] = 0;
        }
    };
    visit("row", o.rho_a, rows, own.a);
    visit("column", o.rho_b, cols, own.b);
    const auto empty = [](const std::vector<double>& w) {
        return std::none_of(w.begin(), w.end(), [](double x) { return x > 0; });
    };
    if (fault.empty() && (empty(own.a) || empty(own.b))) fault = faults::no_pairs;
    return fault;
}

// Fills in masses and the range of the cost; returns what makes the problem unsolvable, "" if nothing does.
template <class T>
std::string inspect_problem(const batch_problem<T>& p, const options& o, double loose, workspace<T>& own,
                            batch_report& out) {
    const bool balanced = is_balanced(o);
    if (!(p.reg > 0 && p.reg < infinity)) return faults::of_reg(p.reg);
    std::string fault;
    out.mass_a = take_weights(p.a, "a", balanced, p.cost.rows, own.a, fault);
    out.mass_b = take_weights(p.b, "b", balanced, p.cost.cols, own.b, fault);
    if (!fault.empty()) return fault;
    if (balanced && std::abs(out.mass_a - out.mass_b) > loose * std::max(out.mass_a, out.mass_b))
        return faults::of_masses(out.mass_a, out.mass_b);
    const cost_facts facts = inspect(p.cost, 0);
    if (facts.has_nan) return faults::has_nan;
    if (facts.has_negative_inf) return faults::has_negative_inf;
    out.range = std::max(0.0, facts.largest - facts.smallest);
    if (balanced && std::abs(facts.smallest) > far * out.range) out.offset = facts.smallest;
    return facts.has_forbidden ? isolated_bins(p.cost, o, own) : "";
}

// From the kl form f to the entropy form x = f + reg log a, in place; -inf where there is no mass.
void to_entropy_form(double reg, const std::vector<double>& a, vec<double> f) {
    for (index i = 0; i < f.size; ++i) f[i] = a[i] > 0 ? f[i] + reg * std::log(a[i]) : -infinity;
}

// What one side adds to the dual value: w.f, or -rho w.expm1(-f / rho) where the marginal has a price.
double side_value(vec<const double> given, index size, vec<double> f, double rho) {
    double sum = 0;
    for (index i = 0; i < size; ++i) {
        const double w = given.data ? given[i] : 1.0 / static_cast<double>(size);
        if (w > 0) sum += w * (rho < infinity ? -rho * std::expm1(-f[i] / rho) : f[i]);
    }
    return sum;
}

// Back to the kl form, in the gauge a.f = b.g where balanced; bins without mass get their c-transform.
// Returns the dual value.
template <class T>
double to_kl_form(const batch_problem<T>& p, const options& o, const workspace<T>& own,
                  const batch_report& out) {
    const matrix<const T> cost = p.cost;
    const vec<double> f = p.f, g = p.g;
    const bool balanced = is_balanced(o);
    // For one bin without mass: -reg log sum exp over an entry per bin of the other side.
    const auto transform = [&](index count, auto&& entry) {
        double peak = -infinity, sum = 0;
        for (index k = 0; k < count; ++k) peak = std::max(peak, entry(k));
        if (!(peak > -infinity)) return infinity;
        for (index k = 0; k < count; ++k) sum += std::exp((entry(k) - peak) / p.reg);
        return -peak - p.reg * std::log(sum);
    };
    std::vector<double> extended_f, extended_g;
    for (index i = 0; i < f.size; ++i)
        if (!(own.a[i] > 0))
            extended_f.push_back(transform(g.size, [&](index j) { return g[j] - cost.row(i)[j]; }));
    for (index j = 0; j < g.size; ++j)
        if (!(own.b[j] > 0))
            extended_g.push_back(transform(f.size, [&](index i) { return f[i] - cost.row(i)[j]; }));
    double mean_f = 0, mean_g = 0;
    const auto convert = [&](const std::vector<double>& w, vec<double> q, const std::vector<double>& extended,
                             double gauge, double rho, double& mean) {
        std::size_t empty = 0;
        for (index i = 0; i < q.size; ++i) {
            if (w[i] > 0) {
                q[i] += gauge - p.reg * std::log(w[i]);
                mean += w[i] * q[i];
            } else {
                q[i] = (extended[empty++] + gauge) / (1.0 + p.reg / rho);
            }
        }
    };
    convert(own.a, f, extended_f, out.gauge, o.rho_a, mean_f);
    convert(own.b, g, extended_g, -out.gauge, o.rho_b, mean_g);
    if (!balanced)
        return side_value(p.a, f.size, f, o.rho_a) + side_value(p.b, g.size, g, o.rho_b) -
               p.reg * (out.mass - out.mass_a * out.mass_b);
    const double shift = 0.5 * (mean_f - mean_g);
    for (index i = 0; i < f.size; ++i) f[i] -= shift;
    for (index j = 0; j < g.size; ++j) g[j] += shift;
    return mean_f + mean_g - p.reg * (out.mass - 1.0);
}

template <class T>
void fill_with_nan(const batch_problem<T>& p, batch_report& out) {
    std::fill_n(p.f.data, p.f.size, nan);
    std::fill_n(p.g.data, p.g.size, nan);
    for (index i = 0; i < p.plan.rows; ++i) std::fill_n(p.plan.row(i), p.plan.cols, T(0));
    out.err = out.linear = out.mass = out.value = nan;
}

template <class T>
batch_report solve_one(const batch_problem<T>& given, options o, double loose, workspace<T>& own,
                       interrupt& signals) {
    batch_report out;
    const std::string fault = inspect_problem(given, o, loose, own, out);
    if (!fault.empty()) {
        out.status = status::bad_input;
        out.detail = fault;
        fill_with_nan(given, out);
        return out;
    }
    const index n = given.cost.rows, m = given.cost.cols;
    batch_problem<T> p = given;
    if (out.offset != 0) {
        own.shifted.resize(static_cast<std::size_t>(n * m));
        for (index i = 0; i < n; ++i)
            for (index j = 0; j < m; ++j)
                own.shifted[i * m + j] = static_cast<T>(given.cost.row(i)[j] - out.offset);
        p.cost = {own.shifted.data(), n, m, m};
    }
    matrix<T> kernel = p.plan;
    if (!kernel.data) {
        if (static_cast<index>(own.kernel.size()) < n * m) own.kernel.resize(static_cast<std::size_t>(n * m));
        kernel = {own.kernel.data(), n, m, m};
    }
    o.reg = p.reg;
    if (o.warm) {
        // A constant of g is free, and as large as the offset it costs digits.
        if (out.offset != 0) {
            double mean = 0;
            for (index j = 0; j < m; ++j)
                if (own.b[j] > 0) mean += own.b[j] * p.g[j];
            for (index j = 0; j < m; ++j) p.g[j] -= mean;
        }
        to_entropy_form(p.reg, own.a, p.f);
        to_entropy_form(p.reg, own.b, p.g);
    }
    backend be(signals);
    const problem<T> one{p.cost, {own.a.data(), n}, {own.b.data(), m}, out.range, kernel};
    ot_kernels<T> kernels(be, one);
    const monitor silent;
    drivers::ot::solver solver(be, kernels, n, m, out.range, o, silent);
    static_cast<report&>(out) = solver.run(p.f, p.g);
    out.value = to_kl_form(p, o, own, out) + out.offset;
    out.linear += out.offset;
    if (out.offset != 0)
        for (const vec<double> q : {p.f, p.g})
            for (index k = 0; k < q.size; ++k) q[k] += 0.5 * out.offset;
    return out;
}

}  // namespace

template <class T>
std::vector<batch_report> solve_batch(const std::vector<batch_problem<T>>& problems, const options& options,
                                      double loose, interrupt& signals) {
    const thread_scope threads(options.n_threads);
    aitken::ot::options each = options;
    each.n_threads = 0;
    each.record = false;
    const index count = static_cast<index>(problems.size());
    std::vector<batch_report> reports(problems.size());
    std::vector<index> order(problems.size());
    std::iota(order.begin(), order.end(), index{0});
    const auto entries = [&](index k) { return problems[k].cost.rows * problems[k].cost.cols; };
    std::stable_sort(order.begin(), order.end(), [&](index k, index l) { return entries(k) > entries(l); });
    index shared = 0;  // problems that have all threads to themselves
    std::vector<workspace<T>> own(static_cast<std::size_t>(num_threads()));
    while (shared < count && entries(order[shared]) >= large) {
        reports[order[shared]] = solve_one(problems[order[shared]], each, loose, own[0], signals);
        ++shared;
    }
    // Only the calling thread may ask for signals; the others learn of one from it.
    std::atomic<bool> cancelled{false};
    parallel_chunks(
        count - shared,
        [&](index chunk, int worker) {
            const index k = order[shared + chunk];
            if (worker == 0) {
                try {
                    signals.poll();
                    reports[k] = solve_one(problems[k], each, loose, own[0], signals);
                } catch (...) {
                    cancelled.store(true, std::memory_order_relaxed);
                    throw;
                }
                return;
            }
            interrupt flag([&] { return cancelled.load(std::memory_order_relaxed); });
            reports[k] = solve_one(problems[k], each, loose, own[static_cast<std::size_t>(worker)], flag);
        },
        chunk_schedule::dynamic);
    return reports;
}

template std::vector<batch_report> solve_batch(const std::vector<batch_problem<double>>&, const options&,
                                               double, interrupt&);
template std::vector<batch_report> solve_batch(const std::vector<batch_problem<float>>&, const options&,
                                               double, interrupt&);

}  // namespace aitken::cpu::ot
