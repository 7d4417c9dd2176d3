#include <algorithm>
#include <complex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/api/krylov.hpp"
#include "cpu/krylov_kernels.hpp"
#include "cpu/threads.hpp"
#include "drivers/krylov.hpp"
#include "drivers/krylov_block.hpp"

namespace aitken::cpu::krylov {
namespace {

namespace driver = drivers::krylov;

template <class S>
using single = std::conditional_t<std::is_same_v<S, double>, float, std::complex<float>>;

// The columns of one block of right-hand sides, each a lane of its own.
template <class S>
struct columns_source {
    tall<const S> b;
    tall<S> x;
    bool same_matrix, keep;
    std::vector<api::report>& reports;
    index given = 0;

    bool next(int lane, driver::problem<S>& p) {
        if (given == b.cols || lane != given) return false;
        p = {{b.col(given), b.rows}, {x.col(given), x.rows}, same_matrix, false, keep};
        ++given;
        return true;
    }
    void done(int lane, const api::report& r) { reports[static_cast<std::size_t>(lane)] = r; }
};

template <class S>
void check_spaces(const api::space<S>& kept, const api::space<S>& outer, index n) {
    for (const auto* s : {&kept, &outer})
        if (!s->u.empty() && s->n != n)
            throw std::invalid_argument("`recycle` holds vectors of length " + std::to_string(s->n) +
                                        "; the system has " + std::to_string(n) + " unknowns");
}

template <class S, class B>
std::vector<api::report> run(linear_map<S>& matrix, linear_map<S>* inverse, tall<const S> b, tall<S> x,
                             const api::options& options, api::space<S>& kept, bool same_matrix,
                             api::space<S>* outer, interrupt& signals, const api::monitor<S>& monitor) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    krylov_kernels<S, B> kernels(be, matrix, inverse);
    const int lanes = static_cast<int>(b.cols);
    driver::solver<S, B, backend, krylov_kernels<S, B>> solver(be, kernels, b.rows, options, lanes);
    for (int lane = 0; lane < lanes; ++lane) solver.set_space(lane, kept);
    if (outer != nullptr && options.outer > 0) solver.set_outer(0, *outer);
    std::vector<api::report> reports(static_cast<std::size_t>(lanes));
    columns_source<S> source{b, x, same_matrix, options.keep, reports};
    solver.run(source, monitor);
    if (options.recycle > 0 && lanes > 0) solver.get_space(0, kept);
    if (outer != nullptr && options.outer > 0) solver.get_outer(0, *outer);
    return reports;
}

template <class S, class B>
std::vector<api::report> run_block(linear_map<S>& matrix, linear_map<S>* inverse, tall<const S> b, tall<S> x,
                                   const api::options& options, api::space<S>& kept, bool same_matrix,
                                   interrupt& signals) {
    const thread_scope threads(options.n_threads);
    backend be(signals);
    krylov_kernels<S, B> kernels(be, matrix, inverse);
    driver::block_solver<S, B, backend, krylov_kernels<S, B>> solver(be, kernels, b, x, options);
    solver.set_space(kept);
    auto reports = solver.run(same_matrix);
    if (options.recycle > 0) solver.get_space(kept);
    return reports;
}

template <class S>
std::vector<api::report> dispatch(linear_map<S>& matrix, linear_map<S>* inverse, tall<const S> b, tall<S> x,
                                  const api::options& options, api::space<S>& kept, bool same_matrix,
                                  api::space<S>* outer, interrupt& signals, const api::monitor<S>& monitor) {
    check_spaces(kept, outer ? *outer : api::space<S>{}, matrix.size());
    return options.basis == api::basis::single
               ? run<S, single<S>>(matrix, inverse, b, x, options, kept, same_matrix, outer, signals, monitor)
               : run<S, S>(matrix, inverse, b, x, options, kept, same_matrix, outer, signals, monitor);
}

}  // namespace

template <class S>
api::report solve(linear_map<S>& matrix, linear_map<S>* inverse, vec<const S> b, vec<S> x,
                  const api::options& options, api::space<S>& kept, bool same_matrix, api::space<S>& outer,
                  interrupt& signals, const api::monitor<S>& monitor) {
    const index n = matrix.size();
    return dispatch<S>(matrix, inverse, {b.data, n, 1, n}, {x.data, n, 1, n}, options, kept, same_matrix,
                       &outer, signals, monitor)
        .front();
}

template <class S>
std::vector<api::report> solve_columns(linear_map<S>& matrix, linear_map<S>* inverse, tall<const S> b,
                                       tall<S> x, const api::options& options, api::space<S>& kept,
                                       bool same_matrix, interrupt& signals) {
    return dispatch<S>(matrix, inverse, b, x, options, kept, same_matrix, nullptr, signals, {});
}

template <class S>
std::vector<api::report> solve_block(linear_map<S>& matrix, linear_map<S>* inverse, tall<const S> b,
                                     tall<S> x, const api::options& options, api::space<S>& kept,
                                     bool same_matrix, interrupt& signals) {
    if (options.outer > 0 || options.steps_beside || options.inner_rtol >= 0 ||
        options.select == api::selection::truncate_oldest ||
        options.select == api::selection::truncate_smallest)
        throw std::invalid_argument(
            "`outer`, `steps_beside`, `inner_rtol` and truncation are not for blocks");
    check_spaces(kept, api::space<S>{}, matrix.size());
    return options.basis == api::basis::single
               ? run_block<S, single<S>>(matrix, inverse, b, x, options, kept, same_matrix, signals)
               : run_block<S, S>(matrix, inverse, b, x, options, kept, same_matrix, signals);
}

#define AITKEN_INSTANTIATE(S)                                                                               \
    template api::report solve(linear_map<S>&, linear_map<S>*, vec<const S>, vec<S>, const api::options&,   \
                               api::space<S>&, bool, api::space<S>&, interrupt&, const api::monitor<S>&);   \
    template std::vector<api::report> solve_columns(linear_map<S>&, linear_map<S>*, tall<const S>, tall<S>, \
                                                    const api::options&, api::space<S>&, bool, interrupt&); \
    template std::vector<api::report> solve_block(linear_map<S>&, linear_map<S>*, tall<const S>, tall<S>,   \
                                                  const api::options&, api::space<S>&, bool, interrupt&);
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(std::complex<double>)
#undef AITKEN_INSTANTIATE

}  // namespace aitken::cpu::krylov
