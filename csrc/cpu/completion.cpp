// Matrix completion on the CPU: instantiates the driver over the CPU kernels.
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/api/completion.hpp"
#include "cpu/backend.hpp"
#include "cpu/completion_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/completion.hpp"

namespace aitken::cpu::completion {

static_assert(drivers::completion::AlsKernels<als_kernels<backend, float>>);
static_assert(drivers::completion::AlsKernels<als_kernels<backend, double>>);

namespace {

template <class Body>
void over_rows(index rows, Body&& body) {
    constexpr index step = 4096;
    parallel_chunks((rows + step - 1) / step, [&](index chunk) {
        for (index i = chunk * step; i < std::min(rows, (chunk + 1) * step); ++i) body(i);
    });
}

// A factor as callers have it, biases apart, into one as kernels want it, and back.
template <class T, class U>
void load_factor(matrix<T> from, vec<U> bias, matrix<std::remove_const_t<T>> to) {
    const index shift = bias.size > 0 ? 1 : 0;
    over_rows(from.rows, [&](index i) {
        if (shift == 1) to.row(i)[0] = bias[i];
        std::copy_n(from.row(i), from.cols, to.row(i) + shift);
    });
}
template <class T>
void store_factor(matrix<const T> from, index used, matrix<T> to, vec<T> bias) {
    const index shift = bias.size > 0 ? 1 : 0;
    over_rows(to.rows, [&](index i) {
        if (shift == 1) bias[i] = from.row(i)[0];
        std::copy_n(from.row(i) + shift, used, to.row(i));
        std::fill(to.row(i) + used, to.row(i) + to.cols, T(0));
    });
}

template <class T>
class padded_factor {
public:
    template <class U>
    padded_factor(matrix<U> given, vec<U> bias)
        : columns_(given.cols + (bias.size > 0 ? 1 : 0)),
          room_(given.rows * padded(columns_)),
          view_{room_.data(), given.rows, columns_, padded(columns_)} {
        load_factor(given, bias, view_);
    }
    const matrix<T>& view() const { return view_; }

private:
    index columns_;
    aligned_buffer<T> room_;
    matrix<T> view_;
};

}  // namespace

template <class T>
api::report complete(const api::problem<T>& problem, const api::options& options, const api::factors<T>& f,
                     interrupt& signals, const api::monitor& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    als_kernels<backend, T> kernels(be, problem, static_cast<int>(f.u.cols), options.half.bias);
    load_factor(f.u, f.a, kernels.stored(api::side::rows));
    load_factor(f.v, f.b, kernels.stored(api::side::columns));
    drivers::completion::als_solver<backend, als_kernels<backend, T>> solver(be, kernels, options, monitor);
    api::report report = solver.run();
    store_factor<T>(kernels.stored(api::side::rows), report.rank, f.u, f.a);
    store_factor<T>(kernels.stored(api::side::columns), report.rank, f.v, f.b);
    return report;
}

template <class T>
api::half_report half_sweep(const api::observed<T>& rows, matrix<const T> fixed, vec<const T> fixed_bias,
                            matrix<T> x, vec<T> x_bias, const api::half_options& options, int n_threads,
                            interrupt& signals) {
    const thread_scope threads(n_threads);
    backend be(signals);
    // The fixed factor stands for the columns of a problem that has no entries by columns.
    const std::vector<index> empty(static_cast<std::size_t>(fixed.rows) + 1, 0);
    api::problem<T> problem;
    problem.rows = rows;
    problem.columns.a = {fixed.rows, rows.a.rows, empty.data(), nullptr};
    als_kernels<backend, T> kernels(be, problem, static_cast<int>(fixed.cols), options.bias);
    load_factor(x, x_bias, kernels.stored(api::side::rows));
    load_factor(fixed, fixed_bias, kernels.stored(api::side::columns));
    const scalar_ref error = be.scalar(), inner = be.scalar(), retries = be.scalar();
    const index m = fixed.cols + 1;
    const vec<double> room = be.allocate<double>(m * (m + 1));
    drivers::completion::half_sweep(be, kernels, api::side::rows, options, room, error, inner, retries);
    store_factor<T>(kernels.stored(api::side::rows), fixed.cols, x, x_bias);
    const auto [e, i, r] = read(be, error, inner, retries);
    return {e, static_cast<index>(i), static_cast<index>(r)};
}

template <class T>
double squared_error(const api::observed<T>& rows, const api::factors<const T>& f, int n_threads) {
    const thread_scope threads(n_threads);
    const padded_factor<T> u(f.u, f.a), v(f.v, f.b);
    design_copy<T> copy;
    const auto d = copy.make(v.view(), v.view().cols, f.b.size > 0);
    return sum_of_losses<T>(rows, d, u.view(), api::loss::linear, 0);
}

template <class T>
void predict(const api::factors<const T>& f, const std::int32_t* rows, const std::int32_t* cols, vec<T> out,
             int n_threads) {
    const thread_scope threads(n_threads);
    over_rows(out.size, [&](index p) {
        double fit = dot(f.u.row(rows[p]), f.v.row(cols[p]), f.u.cols);
        if (f.a.size > 0) fit += static_cast<double>(f.a[rows[p]]) + static_cast<double>(f.b[cols[p]]);
        out[p] = static_cast<T>(fit);
    });
}

api::sorted_entries sort_entries(index n_rows, index n_cols, vec<const std::int64_t> rows,
                                 vec<const std::int64_t> cols) {
    const auto check = [](const char* name, vec<const std::int64_t> list, index limit) {
        for (index p = 0; p < list.size; ++p)
            if (list[p] < 0 || list[p] >= limit)
                throw std::invalid_argument(std::string("`") + name + "` has the index " +
                                            std::to_string(list[p]) + " at position " + std::to_string(p) +
                                            "; 0 to " + std::to_string(limit - 1) + " is allowed");
    };
    check("rows", rows, n_rows);
    check("cols", cols, n_cols);
    const index n = rows.size;
    // By columns first, then stably by rows: two counting sorts, each reading and writing the list once.
    std::vector<index> by_column(static_cast<std::size_t>(n));
    if (std::is_sorted(cols.data, cols.data + n)) {
        std::iota(by_column.begin(), by_column.end(), index{0});
    } else {
        std::vector<index> count(static_cast<std::size_t>(n_cols) + 1, 0);
        for (index p = 0; p < n; ++p) ++count[static_cast<std::size_t>(cols[p]) + 1];
        for (std::size_t j = 1; j < count.size(); ++j) count[j] += count[j - 1];
        for (index p = 0; p < n; ++p)
            by_column[static_cast<std::size_t>(count[static_cast<std::size_t>(cols[p])]++)] = p;
    }
    api::sorted_entries out;
    out.indptr.assign(static_cast<std::size_t>(n_rows) + 1, 0);
    for (index p = 0; p < n; ++p) ++out.indptr[static_cast<std::size_t>(rows[p]) + 1];
    for (std::size_t i = 1; i < out.indptr.size(); ++i) out.indptr[i] += out.indptr[i - 1];
    out.indices.resize(static_cast<std::size_t>(n));
    out.source.resize(static_cast<std::size_t>(n));
    std::vector<index> next(out.indptr.begin(), out.indptr.end() - 1);
    for (const index p : by_column) {
        const auto at = static_cast<std::size_t>(next[static_cast<std::size_t>(rows[p])]++);
        out.indices[at] = static_cast<std::int32_t>(cols[p]);
        out.source[at] = p;
        const bool first_of_row = static_cast<index>(at) == out.indptr[static_cast<std::size_t>(rows[p])];
        if (!first_of_row && out.indices[at - 1] == out.indices[at]) ++out.duplicates;
    }
    return out;
}

#define AITKEN_COMPLETION(T)                                                                                 \
    template api::report complete<T>(const api::problem<T>&, const api::options&, const api::factors<T>&,    \
                                     interrupt&, const api::monitor&);                                       \
    template api::half_report half_sweep<T>(const api::observed<T>&, matrix<const T>, vec<const T>,          \
                                            matrix<T>, vec<T>, const api::half_options&, int, interrupt&);   \
    template double squared_error<T>(const api::observed<T>&, const api::factors<const T>&, int);            \
    template void predict<T>(const api::factors<const T>&, const std::int32_t*, const std::int32_t*, vec<T>, \
                             int)
AITKEN_COMPLETION(float);
AITKEN_COMPLETION(double);

}  // namespace aitken::cpu::completion
