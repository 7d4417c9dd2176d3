// Transport problems that share a kernel, on the CPU: instantiates drivers/ot_scaling.hpp.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/api/ot.hpp"
#include "core/api/ot_scaling.hpp"
#include "core/error.hpp"
#include "cpu/ot_scaling_kernels.hpp"

namespace aitken::cpu::ot {

using namespace aitken::ot;

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();
// Panels of a thread: two share the strips of K that they read; what a panel remembers is in the second
// cache.
constexpr int most_panels = 2, most_panels_on_axes = 1;

// Polls in the thread that may, and tells the others.
class shared_poll {
public:
    explicit shared_poll(interrupt& signals) : signals_(signals) {}
    void operator()(bool owner) {
        if (stopped_.load(std::memory_order_relaxed)) throw interrupted();
        if (!owner) return;
        try {
            signals_.poll();
        } catch (...) {
            stopped_.store(true);
            throw;
        }
    }

private:
    interrupt& signals_;
    std::atomic<bool> stopped_{false};
};

// Exponentials, or multiplications, per product from which a second thread pays.
constexpr index exponentials_for_threads = index{1} << 13, flops_for_threads = index{1} << 16;

bool all_finite(const double* x, index n) {
    return std::all_of(x, x + n, [](double value) { return std::isfinite(value); });
}

int threads_for(index work, index least, int n_threads) { return work < least ? 1 : n_threads; }

status status_of(const drivers::ot::wide_outcome& found, const scaling_options& options) {
    return found.converged                       ? status::converged
           : found.nit >= options.max_iterations ? status::max_iterations
           : std::isfinite(found.err)            ? status::stagnated
                                                 : status::nonfinite;
}

// Decreasing regularisations to start from where reg itself stalls: solve(options) solves one, roughly, from
// the answer of the one before, and returns its iterations; rescale(ratio) makes the potentials the same
// again at a regularisation so many times smaller.
template <class Rescale, class Solve>
index approach(double range, const scaling_options& options, Rescale&& rescale, Solve&& solve) {
    constexpr double first = 0.05, factor = 0.25, rough = 1e-2;
    constexpr index most = 300;
    index nit = 0;
    double before = 0;
    for (double reg = first * range; reg > options.reg && std::isfinite(reg); reg *= factor) {
        scaling_options o = options;
        o.reg = reg;
        o.tol = std::max(rough, options.tol);
        o.max_iterations = std::min(most, options.max_iterations - nit - 1);
        if (o.max_iterations < 1) break;
        if (before > 0) rescale(before / reg);
        nit += solve(o);
        before = reg;
    }
    if (before > 0) rescale(before / options.reg);
    return nit;
}

struct general_answer {
    report found;
    double value = 0;
};

// One problem by the general solver in the log domain; entropy: of a and b together.
general_answer solve_generally(matrix<const double> cost, vec<const double> a, vec<const double> b,
                               double range, double entropy, const options& general, vec<double> x,
                               vec<double> y, interrupt& signals) {
    std::vector<double> plan(static_cast<std::size_t>(cost.rows * cost.cols));
    const problem<double> one{cost, a, b, range, {plan.data(), cost.rows, cost.cols, cost.cols}};
    general_answer out{solve<double>(one, general, x, y, signals, {})};
    double dual = 0;
    for (index r = 0; r < a.size; ++r)
        if (a[r] > 0) dual += a[r] * x[r];
    for (index r = 0; r < b.size; ++r)
        if (b[r] > 0) dual += b[r] * y[r];
    out.value = dual - general.reg * (entropy + out.found.mass - 1);
    return out;
}

// What the lanes gave up, by the general solver in the log domain, a problem per thread.
void hand_over(matrix<const double> cost, const scaling_pairs& pairs, const scaling_options& options,
               const scaling_results& results, std::span<const double> entropy_a,
               std::span<const double> entropy_b, const shared_kernel& kernel,
               const std::vector<index>& problems, shared_poll& poll) {
    parallel_chunks(
        static_cast<index>(problems.size()),
        [&](index c, int worker) {
            const index k = problems[static_cast<std::size_t>(c)];
            const index i = pairs.first[k], j = pairs.second[k];
            interrupt signals([&] {
                poll(worker == 0);
                return false;
            });
            std::vector<double> x(static_cast<std::size_t>(cost.rows)),
                y(static_cast<std::size_t>(cost.cols));
            aitken::ot::options general;
            general.reg = options.reg;
            general.tol = options.tol;
            general.n_threads = 1;
            const auto [found, value] = solve_generally(
                cost, {pairs.a.row(i), cost.rows}, {pairs.b.row(j), cost.cols}, kernel.range(),
                entropy_a[static_cast<std::size_t>(i)] + entropy_b[static_cast<std::size_t>(j)], general,
                {x.data(), cost.rows}, {y.data(), cost.cols}, signals);
            results.value[k] = value;
            results.linear[k] = found.linear;
            results.err[k] = found.err;
            results.nit[k] += found.nit_sinkhorn + found.nit_newton;
            results.status[k] = static_cast<int>(found.status);
        },
        chunk_schedule::dynamic);
}

}  // namespace

scaling_counts solve_pairs(const std::vector<matrix<const double>>& axes, const scaling_pairs& pairs,
                           const scaling_options& options, const scaling_results& results,
                           interrupt& signals) {
    const thread_scope threads(options.n_threads);
    std::vector<index> jobs;
    for (index k = 0; k < pairs.first.size; ++k) {
        results.value[k] = results.linear[k] = results.err[k] = nan;
        results.nit[k] = 0;
        results.status[k] = static_cast<int>(status::bad_input);
        if (pairs.first[k] >= 0) jobs.push_back(k);
    }
    const shared_kernel kernel(axes, options.reg, true);
    const std::vector<double> entropy_a = entropies(pairs.a, options.n_threads);
    const std::vector<double> entropy_b = entropies(pairs.b, options.n_threads);
    const auto count = static_cast<index>(jobs.size());
    const index workers = std::clamp<index>((count + panel_lanes - 1) / panel_lanes, 1, num_threads());
    const int panels =
        static_cast<int>(std::clamp<index>((count + workers * panel_lanes - 1) / (workers * panel_lanes), 1,
                                           axes.size() == 1 ? most_panels : most_panels_on_axes));

    shared_poll poll(signals);
    std::atomic<index> taken{0};
    std::vector<std::vector<index>> left(static_cast<std::size_t>(workers));
    std::vector<scaling_counts> counts(static_cast<std::size_t>(workers));
    parallel_chunks(workers, [&](index w) {
        pair_lanes lanes(kernel, pairs, results, entropy_a, entropy_b, options.reg, panels);
        auto& mine = left[static_cast<std::size_t>(w)];
        drivers::ot::solve_lanes(
            lanes, options, panel_memory,
            [&] {
                const index next = taken.fetch_add(1);
                return next < count ? jobs[static_cast<std::size_t>(next)] : index{-1};
            },
            [&](index problem, double err, index nit) {
                results.err[problem] = err;
                results.nit[problem] = nit;
                results.status[problem] =
                    static_cast<int>(nit >= options.max_iterations ? status::max_iterations
                                     : std::isfinite(err)          ? status::stagnated
                                                                   : status::nonfinite);
                mine.push_back(problem);
            },
            [&] { poll(w == 0); });
        for (const index k : lanes.out_of_range()) {
            results.status[k] = static_cast<int>(status::breakdown);
            results.err[k] = nan;
            mine.push_back(k);
        }
        counts[static_cast<std::size_t>(w)].products = lanes.products();
    });

    scaling_counts total;
    std::vector<index> rest;
    for (std::size_t w = 0; w < left.size(); ++w) {
        total.products += counts[w].products;
        rest.insert(rest.end(), left[w].begin(), left[w].end());
    }
    std::sort(rest.begin(), rest.end());
    if (options.hand_over && axes.size() == 1) {
        total.handed_over = static_cast<std::int64_t>(rest.size());
        hand_over(axes[0], pairs, options, results, entropy_a, entropy_b, kernel, rest, poll);
    }
    return total;
}

// --- one problem on a grid ---

namespace {

using costs = std::vector<matrix<const double>>;

index padded(index n) { return (n + panel_lanes - 1) / panel_lanes * panel_lanes; }

// Numbers of a grid whose last axis is filled up to whole panels.
struct grid_shape {
    explicit grid_shape(const costs& axes) : last(axes.back().rows), width(padded(last)) {
        for (std::size_t k = 0; k + 1 < axes.size(); ++k) outer *= axes[k].rows;
        size = outer * width;
    }
    index last, width, outer = 1, size = 0;
};

// y = log (K exp(x)) per axis and line, x and y in units of the cost; n len exponentials per axis. `which` <
// 0, or the axis on which the matrix is C o K. Rows of -inf stay -inf.
template <class Poll>
void log_sum_exp_axes(const costs& axes, double reg, const grid_shape& shape, int which, double* x,
                      const std::vector<double>& weighted, Poll&& poll) {
    constexpr index chunk_work = index{1} << 16, batch = 32;  // exponentials; chunks between two polls
    index outer = 1, inner = shape.size;
    for (std::size_t a = 0; a < axes.size(); ++a) {
        const index len = axes[a].rows, stored = a + 1 == axes.size() ? shape.width : len;
        inner /= stored;
        const double* c = static_cast<int>(a) == which ? weighted.data() : axes[a].data;
        const index ld = static_cast<int>(a) == which ? len : axes[a].ld;
        const index step = inner, lines = outer * step;
        const index per_chunk = std::max<index>(1, chunk_work / (len * len));
        const index chunks = (lines + per_chunk - 1) / per_chunk;
        for (index begun = 0; begun < chunks; begun += batch) {
            poll();
            parallel_chunks(std::min(batch, chunks - begun), [&](index chunk) {
                std::vector<double> line(static_cast<std::size_t>(len)), scratch(line.size());
                const index first = (begun + chunk) * per_chunk, last = std::min(lines, first + per_chunk);
                for (index l = first; l < last; ++l) {
                    double* const base = x + l / step * stored * step + l % step;
                    for (index k = 0; k < len; ++k) line[static_cast<std::size_t>(k)] = base[k * step];
                    for (index i = 0; i < len; ++i) {
                        const double* row = c + i * ld;
                        const double top = simd().row_max_f64(row, line.data(), len);
                        const double sum = top == -inf ? 1.0
                                                       : simd().row_exp_f64(row, line.data(), -top, 1 / reg,
                                                                            len, scratch.data());
                        base[i * step] = top + reg * std::log(sum);
                    }
                }
            });
        }
        outer *= stored;
    }
}

class wide_grid {
public:
    wide_grid(const costs& axes, double reg, vec<const double> a, vec<const double> b, bool logarithms,
              vec<const double> start, interrupt& signals)
        : signals_(signals),
          axes_(axes),
          reg_(reg),
          logarithms_(logarithms),
          shape_(axes),
          be_(silent_),
          memory_(be_, shape_.size / panel_lanes) {
        for (double** field : {&b_, &u_, &v_, &w_}) *field = wide_memory::zeros<double>(be_, shape_.size);
        if (!logarithms) {
            kernel_ = std::make_unique<shared_kernel>(axes, reg, false);
            across_ = padded(shape_.outer);
            turned_ = wide_memory::zeros<double>(be_, shape_.last * across_);
            turned_out_ = wide_memory::zeros<double>(be_, shape_.last * across_);
            spare_ = wide_memory::zeros<double>(be_, shape_.size);
        }
        std::fill_n(memory_.x, shape_.size, no_scaling);
        for (index o = 0; o < shape_.outer; ++o)
            for (index k = 0; k < shape_.last; ++k) {
                const index at = o * shape_.width + k, from = o * shape_.last + k;
                memory_.weight[at] = a[from];
                b_[at] = b[from];
                if (a[from] > 0) memory_.x[at] = std::max(start[from], logarithms ? no_scaling : -exponents);
            }
    }

    bool evaluate(double& err, double& norm2) {
        if (logarithms_)
            in_logarithms(err, norm2);
        else
            in_numbers(err, norm2);
        return false;
    }
    void remember(int slot, bool use, bool forget) { memory_.remember(slot, use, forget); }
    void advance(bool back) { memory_.advance(back); }

    // Logarithms of the scalings of the last evaluation, over the grid; the dual value.
    double scalings(vec<double> x, vec<double> y) const {
        double dual = 0;
        for (index o = 0; o < shape_.outer; ++o)
            for (index k = 0; k < shape_.last; ++k) {
                const index at = o * shape_.width + k, to = o * shape_.last + k;
                const double a = memory_.weight[at], b = b_[at];
                x[to] = memory_.x[at];
                y[to] = !(b > 0)      ? no_scaling
                        : logarithms_ ? v_[at]
                                      : std::log(v_[at]) + kernel_->shift() / reg_;
                if (a > 0) dual += a * (x[to] - std::log(a));
                if (b > 0) dual += b * (y[to] - std::log(b));
            }
        return reg_ * dual;
    }
    // And <C, P>.
    void answer(vec<double> x, vec<double> y, double& value, double& linear) {
        value = scalings(x, y);
        linear = 0;
        for (std::size_t which = 0; which < axes_.size(); ++which) {
            const matrix<const double> c = axes_[which];
            std::vector<double> weighted(static_cast<std::size_t>(c.rows * c.cols));
            for (index i = 0; i < c.rows; ++i)
                for (index j = 0; j < c.cols; ++j)
                    weighted[static_cast<std::size_t>(i * c.cols + j)] =
                        c.row(i)[j] > 0 ? c.row(i)[j] - reg_ * std::log(c.row(i)[j]) : inf;
            std::fill_n(w_, shape_.size, reg_ * no_scaling);
            for (index o = 0; o < shape_.outer; ++o)
                for (index k = 0; k < shape_.last; ++k)
                    w_[o * shape_.width + k] = reg_ * y[o * shape_.last + k];
            log_sum_exp_axes(axes_, reg_, shape_, static_cast<int>(which), w_, weighted,
                             [this] { signals_.poll(); });
            for (index o = 0; o < shape_.outer; ++o)
                for (index k = 0; k < shape_.last; ++k) {
                    const double t = x[o * shape_.last + k] + w_[o * shape_.width + k] / reg_;
                    if (t > -exponents) linear += std::exp(t);
                }
        }
    }
    // Whether entries of P may lie where K has underflowed.
    bool out_of_range(vec<const double> x, vec<const double> y) const {
        const double most = exponents - negligible;
        if (logarithms_ || kernel_->range() / reg_ <= most) return false;
        return *std::max_element(x.data, x.data + x.size) + *std::max_element(y.data, y.data + y.size) > most;
    }

private:
    // y = K x: axes before the last in panels as they lie, the last one turned.
    void multiply(const double* x, double* y) {
        const auto& k = kernel_->matrices();
        index outer = 1, inner = shape_.size;
        const double* from = x;
        double* spare[2] = {spare_, y};
        for (std::size_t a = 0; a + 1 < k.size(); ++a) {
            const packed_matrix& m = *k[a];
            inner /= m.rows();
            double* const to = spare[a % 2];
            const index groups = inner / panel_lanes;
            parallel_chunks(outer * groups, [&](index c) {
                const index at = c / groups * m.rows() * inner + c % groups * panel_lanes;
                m.multiply(from + at, inner, nullptr, to + at, inner);
            });
            outer *= m.rows();
            from = to;
        }
        const index last = shape_.last, width = shape_.width;
        parallel_chunks(across_ / panel_lanes, [&](index c) {
            const index first = c * panel_lanes, end = std::min(first + panel_lanes, shape_.outer);
            for (index o = first; o < end; ++o)
                for (index i = 0; i < last; ++i) turned_[i * across_ + o] = from[o * width + i];
            k.back()->multiply(turned_ + first, across_, nullptr, turned_out_ + first, across_);
        });
        parallel_chunks(across_ / panel_lanes, [&](index c) {
            const index first = c * panel_lanes, end = std::min(first + panel_lanes, shape_.outer);
            for (index o = first; o < end; ++o)
                for (index i = 0; i < last; ++i) y[o * width + i] = turned_out_[i * across_ + o];
        });
    }

    void in_numbers(double& err, double& norm2) {
        wide_memory::for_chunks(shape_.size, [&](index first, index last) {
            simd().exp_n(memory_.x + first, u_ + first, last - first);
        });
        multiply(u_, v_);
        wide_memory::for_chunks(shape_.size, [&](index first, index last) {
            for (index i = first; i < last; ++i) v_[i] = b_[i] > 0 ? b_[i] / v_[i] : 0.0;
        });
        multiply(v_, w_);
        sum_by_lane(err, norm2, [&](index at, index rows, double* e, double* s) {
            simd().panel_residual(memory_.weight + at, memory_.x + at, u_ + at, w_ + at, rows, memory_.f + at,
                                  e, s);
        });
    }

    void in_logarithms(double& err, double& norm2) {
        const std::vector<double> none;
        wide_memory::for_chunks(shape_.size, [&](index first, index last) {
            for (index i = first; i < last; ++i) v_[i] = reg_ * memory_.x[i];
        });
        log_sum_exp_axes(axes_, reg_, shape_, -1, v_, none, [this] { signals_.poll(); });
        wide_memory::for_chunks(shape_.size, [&](index first, index last) {
            for (index i = first; i < last; ++i) {
                v_[i] = b_[i] > 0 ? std::log(b_[i]) - v_[i] / reg_ : no_scaling;
                w_[i] = reg_ * v_[i];
            }
        });
        log_sum_exp_axes(axes_, reg_, shape_, -1, w_, none, [this] { signals_.poll(); });
        sum_by_lane(err, norm2, [&](index at, index rows, double* e, double* s) {
            for (index r = 0; r < rows * panel_lanes; ++r) {
                const double a = memory_.weight[at + r], x = memory_.x[at + r];
                const double image = w_[at + r] / reg_;
                const double f = a > 0 ? std::log(a) - image - x : 0.0;
                memory_.f[at + r] = f;
                e[r % panel_lanes] += a > 0 ? std::fabs(std::exp(x + image) - a) : 0.0;
                s[r % panel_lanes] += a * f * f;
            }
        });
    }

    template <class F>
    void sum_by_lane(double& err, double& norm2, F&& chunk) {
        constexpr index rows = 128;
        const index all = shape_.size / panel_lanes, chunks = (all + rows - 1) / rows;
        std::vector<double> sums(static_cast<std::size_t>(chunks * 2 * panel_lanes), 0.0);
        parallel_chunks(chunks, [&](index c) {
            double* const mine = sums.data() + c * 2 * panel_lanes;
            chunk(c * rows * panel_lanes, std::min(rows, all - c * rows), mine, mine + panel_lanes);
        });
        err = norm2 = 0;
        for (index c = 0; c < chunks; ++c)
            for (int l = 0; l < panel_lanes; ++l) {
                err += sums[static_cast<std::size_t>(c * 2 * panel_lanes + l)];
                norm2 += sums[static_cast<std::size_t>(c * 2 * panel_lanes + panel_lanes + l)];
            }
    }

    interrupt& signals_;
    const costs& axes_;
    double reg_;
    bool logarithms_;
    grid_shape shape_;
    std::unique_ptr<shared_kernel> kernel_;
    interrupt silent_;
    backend be_;
    wide_memory memory_;
    double *b_, *u_, *v_, *w_, *turned_ = nullptr, *turned_out_ = nullptr, *spare_ = nullptr;
    index across_ = 0;
};
static_assert(drivers::ot::WideKernels<wide_grid>);

}  // namespace

namespace {

constexpr index most_dense_cells = 4096;  // a cost and a plan of 128 MB each

// By the general solver on the dense cost; x and y: logarithms of the scalings, left alone where it fails.
grid_report solve_dense_grid(const costs& axes, vec<const double> a, vec<const double> b, double range,
                             const scaling_options& options, vec<double> x, vec<double> y,
                             interrupt& signals) {
    std::vector<double> dense(1, 0.0);
    index n = 1;
    for (const auto& c : axes) {
        const index k = c.rows, size = n * k;
        std::vector<double> next(static_cast<std::size_t>(size * size));
        for (index i = 0; i < size; ++i)
            for (index j = 0; j < size; ++j)
                next[static_cast<std::size_t>(i * size + j)] =
                    dense[static_cast<std::size_t>(i / k * n + j / k)] + c.row(i % k)[j % k];
        dense = std::move(next);
        n = size;
    }
    std::vector<double> f(static_cast<std::size_t>(n)), g(f.size());
    aitken::ot::options general;
    general.reg = options.reg;
    general.tol = options.tol;
    general.max_iterations = options.max_iterations;
    general.n_threads = options.n_threads;
    const double entropy = entropies({a.data, 1, n, n}, 1)[0] + entropies({b.data, 1, n, n}, 1)[0];
    const auto [found, value] = solve_generally({dense.data(), n, n, n}, a, b, range, entropy, general,
                                                {f.data(), n}, {g.data(), n}, signals);
    grid_report out;
    out.status = found.status;
    out.err = found.err;
    out.value = value;
    out.linear = found.linear;
    out.nit = found.nit_sinkhorn + found.nit_newton;
    if (out.status != status::converged) return out;
    for (index i = 0; i < n; ++i) {
        x[i] = a[i] > 0 ? f[static_cast<std::size_t>(i)] / options.reg : no_scaling;
        y[i] = b[i] > 0 ? g[static_cast<std::size_t>(i)] / options.reg : no_scaling;
    }
    return out;
}

}  // namespace

grid_report solve_grid(const std::vector<matrix<const double>>& axes, vec<const double> a,
                       vec<const double> b, const scaling_options& options, vec<double> x, vec<double> y,
                       interrupt& signals) {
    double range = 0, widest = 0;
    index cells = 1, per_cell = 0;
    for (const auto& c : axes) {
        const double own = *std::max_element(c.row(0), c.row(0) + c.cols);
        range += own;
        widest = std::max(widest, own);
        cells *= c.rows;
        per_cell += c.cols;
    }
    const index work = cells * per_cell;
    const auto poll = [&] { signals.poll(); };
    const std::vector<double> start(x.data, x.data + x.size);
    grid_report out;
    // Numbers are tried where the K of every axis is without zeros. Their product may still span more than
    // the doubles do: out_of_range tells whether that mattered.
    for (const bool logarithms : {false, true}) {
        if (!logarithms && widest / options.reg > exponents) continue;
        const thread_scope threads(
            threads_for(work, logarithms ? exponentials_for_threads : flops_for_threads, options.n_threads));
        wide_grid grid(axes, options.reg, a, b, logarithms, {start.data(), x.size}, signals);
        scaling_options left = options;
        left.max_iterations -= out.nit;
        const drivers::ot::wide_outcome found = drivers::ot::solve_wide(grid, left, panel_memory, poll);
        out.nit += found.nit;
        out.err = found.err;
        out.logarithms = logarithms;
        out.status = status_of(found, left);
        grid.answer(x, y, out.value, out.linear);
        if (found.converged && !grid.out_of_range(x, y)) return out;
        if (found.nit >= left.max_iterations) {
            out.status = status::max_iterations;
            return out;
        }
    }
    if (out.status == status::converged || out.nit >= options.max_iterations) return out;
    scaling_options rest = options;
    rest.max_iterations -= out.nit;
    if (options.hand_over && cells <= most_dense_cells) {
        const grid_report dense = solve_dense_grid(axes, a, b, range, rest, x, y, signals);
        out.nit += dense.nit;
        if (dense.status == status::converged) {
            out.status = dense.status;
            out.err = dense.err;
            out.value = dense.value;
            out.linear = dense.linear;
            return out;
        }
        rest.max_iterations -= dense.nit;
        if (rest.max_iterations < 1) rest.max_iterations = 1;
    }
    const thread_scope threads(threads_for(work, exponentials_for_threads, options.n_threads));
    std::vector<double> from(static_cast<std::size_t>(cells), 0.0);
    const vec<double> view{from.data(), cells};
    std::vector<double> ignored(from.size());
    const index stages = approach(
        range, rest,
        [&](double ratio) {
            for (index i = 0; i < cells; ++i)
                if (a[i] > 0) view[i] = std::log(a[i]) + (view[i] - std::log(a[i])) * ratio;
        },
        [&](const scaling_options& stage) {
            wide_grid grid(axes, stage.reg, a, b, true, {from.data(), cells}, signals);
            const drivers::ot::wide_outcome found = drivers::ot::solve_wide(grid, stage, panel_memory, poll);
            if (std::isfinite(found.err)) grid.scalings(view, {ignored.data(), cells});
            return found.nit;
        });
    rest.max_iterations -= stages;
    wide_grid grid(axes, options.reg, a, b, true, {from.data(), cells}, signals);
    const drivers::ot::wide_outcome found = drivers::ot::solve_wide(grid, rest, panel_memory, poll, true);
    out.nit += stages + found.nit;
    out.err = found.err;
    out.logarithms = true;
    out.status = status_of(found, rest);
    grid.answer(x, y, out.value, out.linear);
    return out;
}

void grid_log_sum_exp(const std::vector<matrix<const double>>& axes, double reg, vec<const double> t,
                      vec<double> out, int n_threads) {
    const grid_shape shape(axes);
    index per_cell = 0;
    for (const auto& c : axes) per_cell += c.cols;
    const thread_scope threads(threads_for(shape.size * per_cell, exponentials_for_threads, n_threads));
    std::vector<double> work(static_cast<std::size_t>(shape.size), reg * no_scaling);
    for (index o = 0; o < shape.outer; ++o)
        for (index k = 0; k < shape.last; ++k)
            work[static_cast<std::size_t>(o * shape.width + k)] =
                reg * std::max(t[o * shape.last + k], no_scaling);
    log_sum_exp_axes(axes, reg, shape, -1, work.data(), {}, [] {});
    for (index o = 0; o < shape.outer; ++o)
        for (index k = 0; k < shape.last; ++k)
            out[o * shape.last + k] = work[static_cast<std::size_t>(o * shape.width + k)] / reg;
}

// --- barycentres ---

namespace {

// A cost and its transpose.
struct two_ways {
    explicit two_ways(matrix<const double> cost) : plain(cost) {
        for (index j = 0; j < cost.cols; ++j)
            for (index i = 0; i < cost.rows; ++i) turned.push_back(cost.row(i)[j]);
    }
    matrix<const double> transposed() const { return {turned.data(), plain.cols, plain.rows, plain.rows}; }
    matrix<const double> plain;
    std::vector<double> turned;
};

// Measures in lanes, all of one problem: u_s = p / (K v_s), v_s = a_s / (K^T u_s), p the weighted geometric
// mean of the K v_s. Per iteration and measure 4 n m flops; in the log domain 2 n m exponentials.
class wide_barycenter {
public:
    // Either by `kernel`, or in logarithms by `costs`.
    wide_barycenter(const shared_kernel* kernel, const two_ways* costs, double reg, matrix<const double> a,
                    vec<const double> weights, matrix<const double> start, vec<double> p, interrupt& signals)
        : signals_(signals),
          kernel_(kernel),
          costs_(costs),
          reg_(reg),
          weights_(weights),
          p_(p),
          n_(p.size),
          m_(a.cols),
          panels_((a.rows + panel_lanes - 1) / panel_lanes),
          be_(silent_),
          memory_(be_, panels_ * n_) {
        for (double** field : {&u_, &w_, &log_w_})
            *field = wide_memory::zeros<double>(be_, panels_ * n_ * panel_lanes);
        for (double** field : {&a_, &v_})
            *field = wide_memory::zeros<double>(be_, panels_ * m_ * panel_lanes);
        std::fill_n(memory_.x, panels_ * n_ * panel_lanes, no_scaling);
        for (index s = 0; s < a.rows; ++s) {
            for (index i = 0; i < n_; ++i) memory_.x[place(s, i, n_)] = start.row(s)[i];
            for (index j = 0; j < m_; ++j) a_[place(s, j, m_)] = a.row(s)[j];
        }
        frozen_.assign(static_cast<std::size_t>(n_), 0.0);
    }

    bool evaluate(double& err, double& norm2) {
        if (costs_)
            in_logarithms();
        else
            in_numbers();
        double moved = 0;
        err = norm2 = 0;
        for (index i = 0; i < n_; ++i) {
            double mean = 0;
            for (index s = 0; s < weights_.size; ++s) mean += weights_[s] * log_w_[place(s, i, n_)];
            p_[i] = std::exp(mean);
            moved += std::fabs(p_[i] - frozen_[static_cast<std::size_t>(i)]);
            for (index s = 0; s < weights_.size; ++s) {
                const index at = place(s, i, n_);
                memory_.f[at] = mean - log_w_[at] - memory_.x[at];
            }
        }
        // The norm's weights follow p until it has settled.
        const bool renewed = !(moved <= settled);
        if (renewed) {
            std::copy_n(p_.data, n_, frozen_.begin());
            for (index s = 0; s < weights_.size; ++s)
                for (index i = 0; i < n_; ++i) memory_.weight[place(s, i, n_)] = weights_[s] * p_[i];
        }
        for (index s = 0; s < weights_.size; ++s) {
            double gap = 0;
            for (index i = 0; i < n_; ++i) {
                const index at = place(s, i, n_);
                gap += std::fabs((costs_ ? std::exp(memory_.x[at] + log_w_[at]) : u_[at] * w_[at]) - p_[i]);
                norm2 += memory_.weight[at] * memory_.f[at] * memory_.f[at];
            }
            err += weights_[s] * gap;
        }
        return renewed;
    }
    void remember(int slot, bool use, bool forget) { memory_.remember(slot, use, forget); }
    void advance(bool back) { memory_.advance(back); }
    void answer(matrix<double> x) const {
        for (index s = 0; s < weights_.size; ++s)
            for (index i = 0; i < n_; ++i) x.row(s)[i] = memory_.x[place(s, i, n_)];
    }

private:
    static constexpr double settled = 0.05;

    void in_numbers() {
        parallel_chunks(panels_, [&](index k) {
            const index rows = k * n_ * panel_lanes, cols = k * m_ * panel_lanes;
            simd().exp_n(memory_.x + rows, u_ + rows, n_ * panel_lanes);
            const double *u = u_ + rows, *v = v_ + cols, *a = a_ + cols;
            double *to_v = v_ + cols, *to_w = w_ + rows;
            kernel_->transposed_times({&u, 1}, &a, &to_v, nullptr);
            kernel_->times({&v, 1}, nullptr, &to_w, nullptr);
            simd().log_n(to_w, log_w_ + rows, n_ * panel_lanes);
        });
    }
    void in_logarithms() {
        sums(costs_->transposed(), memory_.x, n_, [&](index s, index j, double sum) {
            const index at = place(s, j, m_);
            v_[at] = a_[at] > 0 ? std::log(a_[at]) - sum : -inf;
        });
        sums(costs_->plain, v_, m_, [&](index s, index i, double sum) { log_w_[place(s, i, n_)] = sum; });
    }
    // take(s, i, log sum_j exp(x_sj - C_ij / reg)) for every measure and row of the cost.
    template <class F>
    void sums(matrix<const double> cost, const double* x, index length, F&& take) {
        constexpr index chunk_work = index{1} << 14, batch = 256;  // exponentials; chunks between two polls
        const index per_chunk = std::max<index>(1, chunk_work / length);
        const index chunks = (cost.rows + per_chunk - 1) / per_chunk, all = weights_.size * chunks;
        for (index begun = 0; begun < all; begun += batch) {
            signals_.poll();
            parallel_chunks(std::min(batch, all - begun), [&](index chunk) {
                const index s = (begun + chunk) / chunks, first = (begun + chunk) % chunks * per_chunk;
                std::vector<double> line(static_cast<std::size_t>(length)), scratch(line.size());
                for (index j = 0; j < length; ++j)
                    line[static_cast<std::size_t>(j)] = reg_ * x[place(s, j, length)];
                for (index i = first; i < std::min(cost.rows, first + per_chunk); ++i) {
                    const double* row = cost.row(i);
                    const double top = simd().row_max_f64(row, line.data(), length);
                    const double sum =
                        simd().row_exp_f64(row, line.data(), -top, 1 / reg_, length, scratch.data());
                    take(s, i, top / reg_ + std::log(sum));
                }
            });
        }
    }
    static index place(index s, index i, index n) {
        return (s / panel_lanes * n + i) * panel_lanes + s % panel_lanes;
    }

    interrupt& signals_;
    const shared_kernel* kernel_;
    const two_ways* costs_;
    double reg_;
    vec<const double> weights_;
    vec<double> p_;
    index n_, m_, panels_;
    interrupt silent_;
    backend be_;
    wide_memory memory_;
    std::vector<double> frozen_;
    double *u_, *w_, *log_w_, *a_, *v_;
};
static_assert(drivers::ot::WideKernels<wide_barycenter>);

}  // namespace

barycenter_report barycenter(matrix<const double> cost, matrix<const double> a, vec<const double> weights,
                             const scaling_options& options, matrix<double> x, vec<double> p,
                             interrupt& signals) {
    const index work = a.rows * cost.rows * cost.cols;
    const auto poll = [&] { signals.poll(); };
    barycenter_report out;
    double range = 0;
    {
        const thread_scope threads(threads_for(work, flops_for_threads, options.n_threads));
        const shared_kernel kernel({cost}, options.reg, false);
        range = kernel.range();
        wide_barycenter problem(&kernel, nullptr, options.reg, a, weights, x, p, signals);
        const drivers::ot::wide_outcome found = drivers::ot::solve_wide(problem, options, panel_memory, poll);
        out.err = found.err;
        out.nit = found.nit;
        out.status = status_of(found, options);
        const bool usable = std::isfinite(found.err) && all_finite(p.data, p.size);
        if (usable && (found.converged || found.nit >= options.max_iterations)) {
            problem.answer(x);
            return out;
        }
    }
    // In the log domain and down to reg by stages.
    const thread_scope threads(threads_for(work, exponentials_for_threads, options.n_threads));
    const two_ways logarithms(cost);
    for (index r = 0; r < x.rows; ++r) std::fill_n(x.row(r), x.cols, 0.0);
    scaling_options rest = options;
    rest.max_iterations = std::max<index>(1, options.max_iterations - out.nit);
    // The last barycentre and potentials that were finite; to begin with the uniform one.
    std::fill_n(p.data, p.size, 1.0 / static_cast<double>(p.size));
    std::vector<double> last_p(p.data, p.data + p.size);
    constexpr double most_err = 2.0;
    const auto run = [&](const scaling_options& o, bool persists) {
        const std::vector<double> last_x(x.data, x.data + x.rows * x.cols);
        wide_barycenter problem(nullptr, &logarithms, o.reg, a, weights, x, p, signals);
        drivers::ot::wide_outcome found = drivers::ot::solve_wide(problem, o, panel_memory, poll, persists);
        problem.answer(x);
        // The plans have mass 1 but for rounding, so that a greater error says that p is wrong.
        if (found.err <= most_err && all_finite(p.data, p.size) && all_finite(x.data, x.rows * x.cols)) {
            last_p.assign(p.data, p.data + p.size);
        } else {
            double mass = 0;
            for (const double value : last_p) mass += value;
            for (index i = 0; i < p.size; ++i)
                p[i] =
                    mass > 0 ? last_p[static_cast<std::size_t>(i)] / mass : 1.0 / static_cast<double>(p.size);
            std::copy(last_x.begin(), last_x.end(), x.data);
            found.err = nan;
        }
        return found;
    };
    const index stages = approach(
        range, rest,
        [&](double ratio) {
            for (index r = 0; r < x.rows; ++r)
                for (index i = 0; i < x.cols; ++i) x.row(r)[i] *= ratio;
        },
        [&](const scaling_options& stage) { return run(stage, false).nit; });
    rest.max_iterations -= stages;
    const drivers::ot::wide_outcome found = run(rest, true);
    out.err = found.err;
    out.nit += stages + found.nit;
    out.status = status_of(found, rest);
    return out;
}

}  // namespace aitken::cpu::ot
