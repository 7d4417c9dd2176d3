// The kernel set of the transport driver over block programs. `Be` launches them: cuda/backend.hpp on a
// GPU, csrc/tests/block_backend.hpp by loops on the CPU, so everything here but the launch itself is tested
// without a GPU. Semantics are those of cpu/ot_kernels.hpp; launches are stated with every function.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/api/ot.hpp"
#include "cuda/ot_blocks.hpp"
#include "drivers/ot.hpp"
#include "drivers/ot_sparse.hpp"

namespace aitken::cuda {

// Costs from a matrix of T, or from points (T = double); see Source in cuda/ot_blocks.hpp.
template <class Be, class T, class Source = cost_entries<T>>
class ot_kernels {
public:
    ot_kernels(Be& be, const aitken::ot::problem<T>& problem)
        : ot_kernels(be, Source{problem.cost}, problem.a, problem.b, problem.plan) {}
    ot_kernels(Be& be, const Source& cost, vec<const double> a, vec<const double> b, matrix<T> plan)
        : be_(be),
          cost_(cost),
          a_(a),
          b_(b),
          h_a_(a),
          h_b_(b),
          kernel_(plan),
          n_(cost_.rows()),
          m_(cost_.cols()),
          tiles_(n_, m_) {
        if (!stored()) {
            base_x_ = be_.template allocate<double>(n_);
            base_y_ = be_.template allocate<double>(m_);
        }
        row_in_ = be_.template allocate<double>(n_);
        col_in_ = be_.template allocate<double>(m_);
        // Two doubles each: log-sum-exp has pairs.
        row_part_ = be_.template allocate<double>(2 * tiles_.row_parts()).data;
        col_part_ = be_.template allocate<double>(2 * tiles_.col_parts()).data;
    }

    bool stored() const { return kernel_.data != nullptr; }

    // --- exponential passes ----------------------------------------------------------------------

    void zero_potentials(vec<double> x, vec<double> y) { mask(x, y, true); }   // 1 launch
    void mask_potentials(vec<double> x, vec<double> y) { mask(x, y, false); }  // 1 launch

    // 3 launches (5 where K is recomputed). Reads C, writes K.
    void exp_pass(double eps, vec<const double> x, vec<const double> y, vec<double> r, vec<double> c) {
        set_base(eps, x, y);
        be_.launch(store_pass<true, true>(x, y));
        finish_rows(store_scaled{nullptr, r.data});
        finish_cols(store_scaled{nullptr, c.data});
    }

    // 4 launches (6). Reads C twice (there is no cache that holds a row until its sum is known), writes K.
    void scale_rows_pass(double eps, vec<double> x, vec<const double> y, vec<double> c) {
        log_sum_exp_rows(eps, y, true, x);
        set_base(eps, x, y);
        be_.launch(store_pass<false, true>(x, y));
        finish_cols(store_scaled{nullptr, c.data});
    }

    // 2 launches. Reads C.
    void log_sum_exp_rows(double eps, vec<const double> y, bool weighted, vec<double> out) {
        const log_sums sums{1.0 / eps};
        auto* parts = reinterpret_cast<peak_sum*>(row_part_);
        be_.launch(tile_pass<Source, log_sum_exp<true>>{cost_, {sums, y.data}, tiles_, parts, nullptr});
        be_.launch(finish_pass(sums, close_log_sum{eps, weighted ? a_.data : nullptr, out.data}, parts,
                               tiles_.col_tiles, n_));
    }
    void log_sum_exp_cols(double eps, vec<const double> x, bool weighted, vec<double> out) {
        const log_sums sums{1.0 / eps};
        auto* parts = reinterpret_cast<peak_sum*>(col_part_);
        be_.launch(tile_pass<Source, log_sum_exp<false>>{cost_, {sums, x.data}, tiles_, nullptr, parts});
        be_.launch(finish_pass(sums, close_log_sum{eps, weighted ? b_.data : nullptr, out.data}, parts,
                               tiles_.strips, m_));
    }

    // 3 launches. Reads C and K.
    void cost_of_plan(vec<const double> u, vec<const double> v, scalar_ref s) {
        tiles(weighted_cost<Source>{cost_, v.data});
        finish_rows(store_scaled{u.data, row_in_.data});
        be_.launch(vector_pass(dot_product(row_in_.data, nullptr, s.address(), n_)));
    }

    // --- sweeps ----------------------------------------------------------------------------------

    // 4 launches. Reads K twice: the new u must be complete before the columns are summed.
    void sinkhorn_sweep(vec<double> u, vec<const double> v, vec<double> r, vec<double> c) {
        dot_tiles({v.data, nullptr, nullptr});
        finish_rows(scale_rows{h_a_.data, u.data, r.data, row_damping_});
        axpy_tiles({u.data, nullptr, nullptr});
        finish_cols(store_scaled{v.data, c.data});
    }

    // 2 launches each. Read K once.
    void row_sums(vec<const double> u, vec<const double> v, vec<double> out) {
        dot_tiles({v.data, nullptr, nullptr});
        finish_rows(store_scaled{u.data, out.data});
    }
    void col_sums(vec<const double> u, vec<const double> v, vec<double> out) {
        axpy_tiles({u.data, nullptr, nullptr});
        finish_cols(store_scaled{v.data, out.data});
    }

    // 4 launches, or 5 where the row partials are too many for one block. Reads K twice, 4 n m flops.
    void schur_product(vec<const double> u, vec<const double> v, vec<const double> r, vec<const double> c,
                       vec<const double> p, vec<double> w, scalar_ref s) {
        axpy_tiles({u.data, p.data, nullptr});
        finish_cols(schur_weights{v.data, c.data, col_in_.data});
        dot_tiles({col_in_.data, nullptr, nullptr});
        const double* parts = row_part_;
        index n_parts = tiles_.col_tiles;
        if (tiles_.row_parts() > one_block_parts) {
            finish_rows(store_scaled{nullptr, row_in_.data});
            parts = row_in_.data;
            n_parts = 1;
        }
        be_.launch(vector_pass(
            close_schur(h_a_.data, u.data, r.data, p.data, parts, w.data, s.address(), n_parts, n_)));
    }

    // 2 launches. Reads K once.
    void schur_rhs(vec<const double> u, vec<const double> v, vec<const double> c, vec<const double> gy,
                   vec<double> q) {
        dot_tiles({v.data, gy.data, c.data});
        finish_rows(subtract_scaled{u.data, q.data});
    }

    // 2 launches. Reads K once.
    void schur_columns(vec<const double> u, vec<const double> v, vec<const double> dx, vec<const double> c,
                       vec<const double> gy, vec<double> dy) {
        axpy_tiles({u.data, dx.data, nullptr});
        finish_cols(solve_columns{gy.data, v.data, c.data, dy.data});
    }

    // 3 launches. Reads K once, 4 n m flops.
    void trial(vec<const double> u, vec<const double> v, vec<const double> p, vec<const double> q,
               vec<double> pq, vec<double> ptp) {
        tiles(weighted_sums<true, true>{{u.data, p.data, nullptr}, {v.data, q.data, nullptr}});
        finish_rows(store_scaled{u.data, pq.data});
        finish_cols(store_scaled{v.data, ptp.data});
    }

    // --- sparsification --------------------------------------------------------------------------

    // 1 launch each.
    void mass_limits(double theta, vec<const double> r, vec<const double> c, vec<double> row_limit,
                     vec<double> col_limit) {
        be_.launch(
            map_pass(limits_of_mass{theta, r.data, c.data, row_limit.data, col_limit.data, n_, m_}, n_ + m_));
    }
    void inverse_roots(vec<const double> s, vec<double> out) {
        be_.launch(map_pass(inverse_root{s.data, out.data}, s.size));
    }
    void bisect_start(double delta, vec<double> safe, vec<double> probe) {
        be_.launch(map_pass(start_bisection{delta, safe.data, probe.data}, safe.size));
    }
    void bisect_step(double delta, vec<const double> dropped, int step, vec<double> safe, vec<double> probe) {
        const double move = std::exp2(-32.0 * std::exp2(-step));  // 2^-32, 2^-16, ...
        be_.launch(map_pass(bisection_step{delta, move, dropped.data, safe.data, probe.data}, probe.size));
    }

    // 2 launches. Reads K once.
    void mass_dropped(vec<const double> u, vec<const double> v, vec<const double> row_limit,
                      vec<const double> col_limit, bool by_rows, vec<double> out) {
        if (by_rows) {
            tiles(dropped_mass<true>{u.data, v.data, row_limit.data, col_limit.data});
            finish_rows(store_scaled{nullptr, out.data});
        } else {
            tiles(dropped_mass<false>{u.data, v.data, row_limit.data, col_limit.data});
            finish_cols(store_scaled{nullptr, out.data});
        }
    }

    // 4 launches. Reads K once.
    void histogram(const drivers::ot::keep_rule& rule, vec<const double> u, vec<const double> v, int shift,
                   std::uint64_t prefix, vec<int> counts) {
        if (counts.size != histogram_bins) throw std::logic_error("a histogram has 2^13 buckets");
        combine(rule, u, v);
        be_.launch(map_pass(fill_with<int>{counts.data, 0}, counts.size));
        with_entries([&](auto entries) {
            be_.launch(histogram_pass<decltype(entries)>{entries, row_in_.data, col_in_.data, tiles_, prefix,
                                                         shift, counts.data});
        });
    }

    // 5 launches, 1 upload, 3 host reads (rows' counts, columns, values); rows and columns that the rule
    // leaves empty cost 1 launch, 1 upload and 2 reads more for each of the two kinds. Reads K twice, and
    // once where it gives up because more than `most` entries pass: that returns false, after 1 host read.
    bool compact(vec<const double> u, vec<const double> v, const drivers::ot::keep_rule& rule, index most,
                 drivers::ot::host_csr& out) {
        combine(rule, u, v);
        if (tile_count_.size == 0) {
            tile_count_ = be_.template allocate<int>(tiles_.row_parts());
            row_count_ = be_.template allocate<int>(n_);
            start_ = be_.template allocate<index>(n_);
            host_a_.resize(static_cast<std::size_t>(n_));
            host_b_.resize(static_cast<std::size_t>(m_));
            be_.download(a_, host_a_.data());
            be_.download(b_, host_b_.data());
        }
        const keep_test keep{row_in_.data, col_in_.data, rule.row_limit.data, rule.col_limit.data,
                             rule.use_max};
        with_entries([&](auto entries) {
            be_.launch(compact_pass<decltype(entries), false>(entries, keep, tiles_, u.data, v.data,
                                                              tile_count_.data, nullptr, nullptr, nullptr));
        });
        be_.launch(map_pass(row_offsets{tile_count_.data, tiles_.col_tiles, n_, row_count_.data}, n_));

        std::vector<int> count(static_cast<std::size_t>(n_));
        be_.download(vec<const int>(row_count_), count.data());
        out = {n_, m_, {0}, {}, {}};
        std::vector<int> lonely;
        for (index i = 0; i < n_; ++i) {
            out.indptr.push_back(out.indptr.back() + count[i]);
            if (count[i] == 0 && host_a_[i] > 0) lonely.push_back(static_cast<int>(i));
        }
        const index nnz = out.indptr.back();
        if (nnz + static_cast<index>(lonely.size()) > most) return false;
        out.indices.resize(static_cast<std::size_t>(nnz));
        out.values.resize(static_cast<std::size_t>(nnz));
        if (nnz > 0) {
            if (columns_.size < nnz) {
                columns_ = be_.template allocate<int>(nnz + nnz / 2);
                values_ = be_.template allocate<double>(nnz + nnz / 2);
            }
            be_.upload(static_cast<const index*>(out.indptr.data()), start_);
            with_entries([&](auto entries) {
                be_.launch(compact_pass<decltype(entries), true>(entries, keep, tiles_, u.data, v.data,
                                                                 tile_count_.data, start_.data, columns_.data,
                                                                 values_.data));
            });
            be_.download(vec<const int>(columns_.slice(0, nnz)), out.indices.data());
            be_.download(vec<const double>(values_.slice(0, nnz)), out.values.data());
        }

        add_largest(u, v, true, lonely, out);
        std::vector<char> seen(static_cast<std::size_t>(m_), 0);
        for (int j : out.indices) seen[j] = 1;
        lonely.clear();
        for (index j = 0; j < m_; ++j)
            if (!seen[j] && host_b_[j] > 0) lonely.push_back(static_cast<int>(j));
        add_largest(u, v, false, lonely, out);
        return true;
    }

    // --- vector kernels: 1 launch each -----------------------------------------------------------

    void scale_columns(vec<double> c, vec<double> v, scalar_ref bad, scalar_ref log_v) {
        reduce(rescale_columns{h_b_.data, c.data, v.data, bad.address(), log_v.address(), m_, col_damping_,
                               soft_.least});
    }
    void row_errors(vec<const double> r, vec<const double> u, vec<double> q, scalar_ref err, scalar_ref gate,
                    scalar_ref log_u) {
        reduce(measure_rows{h_a_.data, r.data, u.data, q.data, err.address(), gate.address(), log_u.address(),
                            n_, soft_.row_weight > 0 ? soft_.least : 0.0});
    }
    void gradient(vec<const double> r, vec<const double> c, vec<double> gx, vec<double> gy, scalar_ref err) {
        reduce(gradient_norm(h_a_.data, h_b_.data, r.data, c.data, gx.data, gy.data, err.address(), n_, m_));
    }
    void absorb(double eps, vec<double> u, vec<double> v, vec<double> x, vec<double> y) {
        be_.launch(map_pass(absorb_scalings{eps, u.data, v.data, x.data, y.data, n_}, n_ + m_));
    }
    void cg_start(vec<double> q, vec<const double> r, vec<double> d, vec<double> res, vec<double> z,
                  vec<double> p, scalar_ref rz, scalar_ref res2) {
        reduce(cg_begin{h_a_.data, r.data, q.data, d.data, res.data, z.data, p.data, rz.address(),
                        res2.address(), n_, soft_.singular});
    }
    void cg_update(scalar_ref rz, scalar_ref pw, vec<const double> p, vec<const double> w, vec<double> d,
                   vec<double> res, scalar_ref res2) {
        reduce(cg_step(rz.address(), pw.address(), p.data, w.data, d.data, res.data, res2.address(), n_));
    }
    void cg_jacobi(vec<const double> res, vec<const double> r, vec<double> z, scalar_ref rz) {
        reduce(cg_precondition(h_a_.data, res.data, r.data, z.data, rz.address(), n_));
    }
    void cg_close(vec<const double> res, vec<double> z, scalar_ref rz) {
        reduce(cg_precondition(h_a_.data, res.data, nullptr, z.data, rz.address(), n_));
    }
    void cg_direction(scalar_ref rz_new, scalar_ref rz, vec<const double> z, vec<double> p) {
        reduce(cg_turn{rz_new.address(), z.data, rz.address(), p.data, n_});
    }
    void slope(vec<const double> gx, vec<const double> gy, vec<double> dx, vec<double> dy, scalar_ref slope,
               scalar_ref reach) {
        reduce(step_slope{gx.data, gy.data, dx.data, dy.data, slope.address(), reach.address(), n_, n_ + m_,
                          soft_.singular, soft_.row_weight, soft_.col_weight});
    }
    void trial_scalings(double alpha, vec<const double> dx, vec<const double> dy, vec<double> p,
                        vec<double> q) {
        be_.launch(map_pass(trial_steps{alpha, dx.data, dy.data, p.data, q.data, n_}, n_ + m_));
    }
    void trial_sums(double alpha, vec<const double> r, vec<const double> c, vec<const double> dx,
                    vec<const double> dy, vec<const double> p, vec<const double> q, vec<const double> pq,
                    vec<const double> ptp, scalar_ref drop, scalar_ref noise, scalar_ref err) {
        reduce(trial_measure{alpha, h_a_.data, h_b_.data, r.data, c.data, dx.data, dy.data, p.data, q.data,
                             pq.data, ptp.data, drop.address(), noise.address(), err.address(), n_, n_ + m_,
                             soft_.row_weight, soft_.col_weight});
    }
    void accept(vec<const double> p, vec<const double> q, vec<double> u, vec<double> v) {
        be_.launch(map_pass(accept_steps{p.data, q.data, u.data, v.data, n_}, n_ + m_));
    }

    // --- unbalanced problems: 1 launch each, soften none -----------------------------------------

    vec<const double> row_weights() const { return a_; }
    vec<const double> col_weights() const { return b_; }
    void soften(const drivers::ot::soft_marginals& soft) {
        soft_ = soft;
        h_a_ = soft.row;
        h_b_ = soft.col;
        row_damping_ = 1.0 / (1.0 + soft.row_weight);
        col_damping_ = 1.0 / (1.0 + soft.col_weight);
    }
    void targets(double eps, vec<const double> x, vec<const double> y, vec<const double> u, vec<double> v,
                 vec<double> c, bool recentre) {
        reduce(aim_targets{eps, soft_.log_mass, soft_.row_weight, soft_.col_weight, a_.data, b_.data, x.data,
                           y.data, u.data, v.data, c.data, soft_.row.data, soft_.col.data, soft_.gauge.data,
                           n_, n_ + m_, recentre});
    }
    void soft_diagonals(vec<const double> r, vec<const double> c, vec<double> dr, vec<double> dc) {
        be_.launch(map_pass(soft_diagonal{r.data, c.data, h_a_.data, h_b_.data, dr.data, dc.data,
                                          soft_.row_weight, soft_.col_weight, n_},
                            n_ + m_));
    }

    // --- for the API functions outside the driver ------------------------------------------------

    // 2 launches. Read K once.
    void plan_times(vec<const double> u, vec<const double> v, vec<const double> x, vec<double> out) {
        dot_tiles({v.data, x.data, nullptr});
        finish_rows(store_scaled{u.data, out.data});
    }
    void plan_t_times(vec<const double> u, vec<const double> v, vec<const double> x, vec<double> out) {
        axpy_tiles({u.data, x.data, nullptr});
        finish_cols(store_scaled{v.data, out.data});
    }

    // out_i = sum_j K_ij dC_ij / d(coordinate k of point i).
    void pull(int k, vec<double> out) {
        tiles(pulled_rows<Source>{cost_, k});
        finish_rows(store_scaled{nullptr, out.data});
    }

    // K at (x, y) becomes the kernel; nothing is computed where it is not stored. 2 copies there, else none.
    void set_base(double eps, vec<const double> x, vec<const double> y) {
        inv_eps_ = 1.0 / eps;
        if (stored()) return;
        be_.copy(x, base_x_);
        be_.copy(y, base_y_);
    }

private:
    static constexpr index one_block_parts = index{1} << 17;  // 1 MB, some 10 us for one multiprocessor

    template <class F>
    void with_entries(F&& f) {
        if (stored())
            f(stored_entries<T>{kernel_});
        else
            f(computed_entries<Source>{cost_, base_x_.data, base_y_.data, inv_eps_});
    }
    template <class Op>
    void tiles(const Op& op) {
        with_entries([&](auto entries) {
            be_.launch(tile_pass<decltype(entries), Op>{entries, op, tiles_,
                                                        reinterpret_cast<typename Op::row_acc*>(row_part_),
                                                        reinterpret_cast<typename Op::col_acc*>(col_part_)});
        });
    }
    void dot_tiles(factors of_cols) { tiles(weighted_sums<true, false>{{}, of_cols}); }
    void axpy_tiles(factors of_rows) { tiles(weighted_sums<false, true>{of_rows, {}}); }

    template <bool Rows, bool Cols>
    auto store_pass(vec<const double> x, vec<const double> y) const {
        return tile_pass<computed_entries<Source>, store_entries<T, Rows, Cols>>{
            {cost_, x.data, y.data, inv_eps_}, {kernel_}, tiles_, row_part_, col_part_};
    }
    template <class Then>
    void finish_rows(Then then) {
        be_.launch(finish_pass(plain_sum{}, then, row_part_, tiles_.col_tiles, n_));
    }
    template <class Then>
    void finish_cols(Then then) {
        be_.launch(finish_pass(plain_sum{}, then, col_part_, tiles_.strips, m_));
    }
    template <class Op>
    void reduce(const Op& op) {
        be_.launch(vector_pass<Op>(op));
    }
    void mask(vec<double> x, vec<double> y, bool reset) {
        be_.launch(map_pass(mask_bins{a_.data, b_.data, x.data, y.data, n_, reset}, n_ + m_));
    }

    // The rule's scaled weights of rows and columns. 2 launches.
    void combine(const drivers::ot::keep_rule& rule, vec<const double> u, vec<const double> v) {
        be_.launch(map_pass(product_of{u.data, rule.row_scale.data, row_in_.data}, n_));
        be_.launch(map_pass(product_of{v.data, rule.col_scale.data, col_in_.data}, m_));
    }

    // The largest entries of the listed rows or columns join the plan.
    void add_largest(vec<const double> u, vec<const double> v, bool rows, const std::vector<int>& lines,
                     drivers::ot::host_csr& out) {
        const index count = static_cast<index>(lines.size());
        if (count == 0) return;
        if (lines_.size < count) {
            const index room = n_ > m_ ? n_ : m_;
            lines_ = be_.template allocate<int>(room);
            where_ = be_.template allocate<int>(room);
            mass_ = be_.template allocate<double>(room);
        }
        be_.upload(lines.data(), lines_.slice(0, count));
        with_entries([&](auto entries) {
            be_.launch(largest_pass<decltype(entries)>(entries, u.data, v.data, n_, m_, count, rows,
                                                       lines_.data, where_.data, mass_.data));
        });
        std::vector<int> where(lines.size());
        std::vector<double> mass(lines.size());
        be_.download(vec<const int>(where_.slice(0, count)), where.data());
        be_.download(vec<const double>(mass_.slice(0, count)), mass.data());
        const std::vector<index> line(lines.begin(), lines.end()), other(where.begin(), where.end());
        if (rows)
            out.insert(line, other, mass);
        else
            out.insert(other, line, mass);
    }

    Be& be_;
    Source cost_;
    vec<const double> a_, b_;
    vec<const double> h_a_, h_b_;  // what the marginals should be: the weights, or soft targets
    drivers::ot::soft_marginals soft_;
    double row_damping_ = 1, col_damping_ = 1;
    matrix<T> kernel_;
    index n_, m_;
    tiling tiles_;
    double inv_eps_ = 0;
    vec<double> base_x_, base_y_, row_in_, col_in_;
    double *row_part_ = nullptr, *col_part_ = nullptr;

    vec<int> tile_count_, row_count_, columns_, lines_, where_;
    vec<double> values_, mass_;
    vec<index> start_;
    std::vector<double> host_a_, host_b_;
};

// --- passes without a solver ---------------------------------------------------------------------

// Rows first .. first + out.rows of P. 1 launch.
template <class Be, class T, class Source>
void plan_rows(Be& be, const Source& cost, double reg, vec<const double> x, vec<const double> y, index first,
               matrix<T> out) {
    be.launch(tile_pass<computed_entries<Source, T>, store_entries<T, false, false>>{
        {cost.below(first, out.rows), x.data + first, y.data, 1.0 / reg},
        {out},
        tiling(out.rows, cost.cols()),
        nullptr,
        nullptr});
}

// 4 launches, 1 host read. Reads C once.
template <class Be, class T>
aitken::ot::cost_facts inspect(Be& be, matrix<const T> cost) {
    const tiling tiles(cost.rows, cost.cols);
    const auto facts = [&](index count) {
        static_assert(sizeof(row_facts) % sizeof(double) == 0);
        constexpr index size = sizeof(row_facts) / sizeof(double);
        return reinterpret_cast<row_facts*>(be.template allocate<double>(size * count).data);
    };
    row_facts *const row_part = facts(tiles.row_parts()), *const row = facts(tiles.n);
    int* const col_part = be.template allocate<int>(tiles.col_parts()).data;
    int* const col = be.template allocate<int>(tiles.m).data;
    std::array<scalar_ref, inspect_totals::results> results;
    inspect_totals total{row, col, {}, tiles.n, tiles.n + tiles.m};
    for (std::size_t k = 0; k < results.size(); ++k) {
        results[k] = be.scalar();
        total.out[k] = results[k].address();
    }
    be.launch(tile_pass<cost_entries<T>, inspect_entries>{{cost}, {}, tiles, row_part, col_part});
    be.launch(finish_pass(row_facts_sum{}, store_total<row_facts>{row}, row_part, tiles.col_tiles, tiles.n));
    be.launch(finish_pass(int_sum{}, store_total<int>{col}, col_part, tiles.strips, tiles.m));
    be.launch(vector_pass<inspect_totals>(total));
    std::array<double, inspect_totals::results> seen;
    be.read_many(results, seen.data());
    const int flags = static_cast<int>(seen[2]);
    return {seen[0],
            seen[1],
            (flags & 1) != 0,
            (flags & 2) != 0,
            (flags & 4) != 0,
            static_cast<index>(seen[3]),
            static_cast<index>(seen[4])};
}

// Kernels that recompute P from given potentials, with unit scalings.
template <class Be, class Source>
struct recomputed_plan {
    using T = typename Source::value;
    recomputed_plan(Be& be, const Source& cost, double reg, vec<const double> x, vec<const double> y,
                    vec<const double> a = {}, vec<const double> b = {})
        : kernels(be, cost, a, b, {}),
          u(be.template allocate<double>(cost.rows())),
          v(be.template allocate<double>(cost.cols())) {
        be.fill(u, 1.0);
        be.fill(v, 1.0);
        kernels.set_base(reg, x, y);
    }
    ot_kernels<Be, T, Source> kernels;
    vec<double> u, v;
};

template <class Be, class Source>
aitken::ot::sparse_plan compress(Be& be, const Source& cost, double reg, vec<const double> x,
                                 vec<const double> y, vec<const double> a, vec<const double> b, double drop) {
    recomputed_plan<Be, Source> plan(be, cost, reg, x, y, a, b);
    const vec<double> row_limit = be.template allocate<double>(cost.rows());
    const vec<double> col_limit = be.template allocate<double>(cost.cols());
    plan.kernels.mass_limits(drop, a, b, row_limit, col_limit);
    drivers::ot::host_csr kept;
    plan.kernels.compact(plan.u, plan.v, {{}, {}, row_limit, col_limit, false}, cost.rows() * cost.cols(),
                         kept);
    return {std::move(kept.indptr), std::move(kept.indices), std::move(kept.values)};
}

// fn(source) for a cost between points, with few coordinates in registers.
template <class F>
auto with_points(const aitken::ot::point_cost& cost, F&& fn) {
    if (cost.x.cols <= 3) return fn(point_entries<3>{cost.x, cost.y, cost.metric});
    return fn(point_entries<0>{cost.x, cost.y, cost.metric});
}

// Row i of out = sum_j P_ij dC_ij / dx_i. 2 launches and n m exp per coordinate, a launch more to copy it.
template <class Be, class Source>
void plan_pull(Be& be, const Source& cost, double reg, vec<const double> x, vec<const double> y,
               matrix<double> out) {
    recomputed_plan<Be, Source> plan(be, cost, reg, x, y);
    const vec<double> column = be.template allocate<double>(cost.rows());
    for (index k = 0; k < out.cols; ++k) {
        plan.kernels.pull(static_cast<int>(k), column);
        be.launch(map_pass(spread_column{column.data, out.data + k, out.ld}, cost.rows()));
    }
}

}  // namespace aitken::cuda
