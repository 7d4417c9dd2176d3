// Sketch-and-project on a symmetric system K z = b, written once for every backend. r = K z - b.
//
// Columns (gaussian, block_gaussian, countsketch): per step draw S and W = K S, then
//   W'W = R'R,  d = W (W'W)^-1 S' r,  z -= d,  r -= K d;
// flops 2 nnz (q + 1) + N q (q + 5) + q^3 / 3, launches 5, reads 1. r is recomputed when it seems to pass and
// every `refresh` steps. Rows (kaczmarz): flops 4 nnz(row); r is formed every 4 N steps alone, which adds
// nnz(K) / (2 N) flops to a step. Mixed rows (block_kaczmarz): flops 4 N q + 2 q^2, launches 2, reads 1.
//
// The mixed method is after M. Derezinski, D. Needell, E. Rebrova, J. Yang, "Randomized Kaczmarz methods with
// beyond-Krylov convergence" (2025): blocks of mixed rows are drawn ever more rarely and their factors kept,
// and the momentum follows from the decrease of the blocks' residuals.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/api/optimize_sketch.hpp"
#include "core/backend.hpp"
#include "core/philox.hpp"
#include "core/stop.hpp"

namespace aitken::drivers::optimize_sketch {

using namespace aitken::optimize_sketch;

template <class K>
concept ProjectionKernels = requires(K& k, std::uint64_t step, index count, index id, vec<const double> c,
                                     vec<double> v, scalar_ref s, double f) {
    { k.nnz() } -> std::convertible_to<index>;
    k.residual(c, c, v, s);  // r = K z - b, ||r||^2
    // Columns.
    k.draw(step);                                     // S, W = K S
    { k.factor(f, f) } -> std::convertible_to<bool>;  // W'W + f trace / q I = R'R; the second f if need be
    k.correction(c, v);                               // d = W (W'W)^-1 S' r
    k.multiply(c, v);                                 // K d
    k.subtract(c, c, v, v, s);                        // z -= d, r -= K d, ||r||^2
    // Rows.
    { k.prepare_rows() } -> std::convertible_to<index>;            // rows that are not zero
    { k.sweep(step, count, c, v) } -> std::convertible_to<index>;  // `count` steps; entries of their rows
    // Mixed rows: A z = c, `prepare_mixed` tells how many.
    { k.prepare_mixed(c) } -> std::convertible_to<index>;
    { k.add_block(step, f, f) } -> std::convertible_to<bool>;  // rows drawn, A_B A_B' factored likewise
    k.block_correction(id, c, v, s);  // w = A_B' (A_B A_B')^-1 (A_B z - c_B), ||A_B z - c_B||^2
    k.momentum(c, f, f, v, v);        // v = zeta (v + w), z -= w + eta v
};

template <Backend B, ProjectionKernels K>
class projector {
public:
    projector(B& be, K& kernels, const options& options)
        : be_(be), k_(kernels), opt_(options), norm2_(be.scalar()) {}

    // Solves from z and leaves the answer there.
    report run(vec<const double> b, vec<double> z) {
        b_ = b;
        z_ = z;
        n_ = b.size;
        r_ = be_.template allocate<double>(n_);
        start_ = be_.template allocate<double>(n_);
        be_.copy(z_, start_);
        be_.dot(b_, b_, norm2_);
        out_.norm_b = std::sqrt(read(be_, norm2_)[0]);
        target_ = opt_.rtol * out_.norm_b;
        if (out_.norm_b == 0) {
            be_.fill(z_, 0.0);
            return std::move(out_);
        }
        first_ = look();
        if (!std::isfinite(first_) || !std::isfinite(out_.norm_b))
            give_up(status::nonfinite, "the first residual is not finite");
        else if (!met())
            iterate();
        out_.counts = be_.counts();
        return std::move(out_);
    }

private:
    static constexpr double small_ridge = 1e-14, large_ridge = 1e-10;  // of trace / q
    static constexpr double blow_up = 1e8;
    static constexpr std::uint32_t purpose = 0x736b6d65;  // of the numbers that choose blocks
    static constexpr index polled_entries = 4'000'000;    // some milliseconds of row steps

    void iterate() {
        switch (opt_.method) {
            case method::kaczmarz:
                return rows();
            case method::block_kaczmarz:
                return mixed_rows();
            default:
                return columns();
        }
    }

    // The true residual: a product.
    double look() {
        k_.residual(b_, z_, r_, norm2_);
        out_.flops += 2.0 * static_cast<double>(k_.nnz());
        return out_.residual = std::sqrt(read(be_, norm2_)[0]);
    }
    bool met() const { return out_.residual <= target_; }

    void give_up(status why, std::string detail) {
        out_.status = why;
        out_.detail = std::move(detail);
    }

    // Whether no further step may be taken; the answer to "why" is in the report.
    bool spent() {
        if (out_.steps >= opt_.max_steps)
            give_up(status::max_iterations, "the steps are used up");
        else if (opt_.max_flops > 0 && out_.flops >= opt_.max_flops)
            give_up(status::max_iterations, "the flops are used up");
        else
            return false;
        return true;
    }

    // What blew up is not given back: the start is.
    bool blown_up(double norm) {
        if (std::isfinite(norm) && norm <= blow_up * std::max(first_, out_.norm_b)) return false;
        give_up(
            std::isfinite(norm) ? status::diverged : status::nonfinite,
            std::isfinite(norm) ? "the residual has grown by a factor of 1e8" : "the residual is not finite");
        be_.copy(start_, z_);
        out_.residual = first_;
        return true;
    }

    void columns() {
        const double n = static_cast<double>(n_), q = static_cast<double>(opt_.block);
        const double product = 2.0 * static_cast<double>(k_.nnz());
        const double sketched = opt_.method == method::countsketch ? product : product * q;
        const double step_flops = sketched + product + n * q * (q + 5) + q * q * q / 3 + 4 * n;
        const index refresh = std::max<index>(50, 4 * n_ / opt_.block);
        const vec<double> d = be_.template allocate<double>(n_), e = be_.template allocate<double>(n_);
        for (index since = 0; !spent();) {
            be_.interrupts().poll();
            k_.draw(opt_.first_step + static_cast<std::uint64_t>(out_.steps));
            ++out_.steps;
            out_.flops += step_flops;
            if (!k_.factor(small_ridge, large_ridge)) {
                give_up(status::breakdown, "a sketch of the matrix has no Cholesky factor");
                break;
            }
            k_.correction(r_, d);
            k_.multiply(d, e);
            k_.subtract(d, e, z_, r_, norm2_);
            const double norm = std::sqrt(read(be_, norm2_)[0]);
            if (blown_up(norm)) return;
            if (norm <= inner_aim * target_ || ++since == refresh) {
                since = 0;
                if (look() <= target_) return;
            }
        }
        end();
    }

    void rows() {
        out_.flops += 2.0 * static_cast<double>(k_.nnz());
        const index usable = k_.prepare_rows();
        if (usable == 0) return give_up(status::breakdown, "every row of the matrix is zero");
        const index piece = std::max<index>(1, polled_entries / std::max<index>(1, k_.nnz() / n_));
        while (!spent()) {
            const index wanted = std::min(4 * n_, opt_.max_steps - out_.steps);
            for (index done = 0; done < wanted;) {
                be_.interrupts().poll();
                const index count = std::min(piece, wanted - done);
                const index entries =
                    k_.sweep(opt_.first_step + static_cast<std::uint64_t>(out_.steps), count, b_, z_);
                out_.flops += 4.0 * static_cast<double>(entries);
                out_.steps += count;
                done += count;
            }
            if (blown_up(look()) || met()) return;
        }
        end();
    }

    // rho, the share of the residual that a step takes away: from the sums over two halves of a window,
    // averaged over windows with weights 1, 2, ...
    class rate_estimate {
    public:
        explicit rate_estimate(index half) : half_(half) {}
        void note(double residual) {
            (count_ < half_ ? before_ : after_) += residual;
            if (++count_ < 2 * half_) return;
            const double ratio = after_ / before_;
            if (std::isfinite(ratio) && ratio > 0) {
                const double rho = 1 - std::pow(ratio, 1.0 / static_cast<double>(half_));
                weight_ += 1;
                weights_ += weight_;
                rho_ += (rho - rho_) * weight_ / weights_;
            }
            count_ = 0;
            before_ = after_ = 0;
        }
        bool known() const { return weights_ > 0; }
        // A window in which residuals grew counts with its sign, or noise alone would look like a rate.
        double zeta() const {
            const double rho = std::clamp(rho_, 0.0, 1.0);
            return (1 - rho) / (1 + rho);
        }

    private:
        index half_, count_ = 0;
        double before_ = 0, after_ = 0, rho_ = 0, weight_ = 0, weights_ = 0;
    };

    void mixed_rows() {
        const index padded = k_.prepare_mixed(b_);
        const double n = static_cast<double>(n_), q = static_cast<double>(opt_.block);
        out_.flops += n * static_cast<double>(padded) * std::log2(static_cast<double>(padded));
        const double step_flops = 4 * n * q + 2 * q * q + 4 * n;
        const double block_flops = n * q * (q + 1) + q * q * q / 3;
        const double eta = q / (2 * n), new_blocks = n * std::log(std::max(n, 2.0)) / q;
        const index every = std::max<index>(1, (2 * n_ + opt_.block - 1) / opt_.block);
        const vec<double> w = be_.template allocate<double>(n_), v = be_.template allocate<double>(n_);
        be_.fill(v, 0.0);
        rate_estimate rate((n_ + opt_.block - 1) / opt_.block + 1);
        for (index t = 1; !spent(); ++t) {
            be_.interrupts().poll();
            const std::uint64_t step = opt_.first_step + static_cast<std::uint64_t>(out_.steps);
            ++out_.steps;
            index id = out_.blocks;
            const philox_stream numbers{opt_.seed, purpose, static_cast<std::uint32_t>(step >> 32),
                                        static_cast<std::uint32_t>(step)};
            if (numbers.uniform(0) < new_blocks / static_cast<double>(t)) {
                out_.flops += block_flops;
                if (!k_.add_block(step, small_ridge, large_ridge)) {
                    give_up(status::breakdown, "a block of mixed rows has no Cholesky factor");
                    break;
                }
                ++out_.blocks;
            } else {
                id = static_cast<index>(numbers.uniform(1) * static_cast<double>(out_.blocks));
            }
            k_.block_correction(id, z_, w, norm2_);
            k_.momentum(w, rate.known() ? rate.zeta() : 0.0, eta, v, z_);
            out_.flops += step_flops;
            rate.note(std::sqrt(read(be_, norm2_)[0]));
            if (t % every == 0 && (blown_up(look()) || met())) return;
        }
        end();
    }

    // After a loop that gave up: the certificate of what there is.
    void end() {
        if (look() <= target_) {
            out_.status = status::converged;
            out_.detail.clear();
        } else if (!std::isfinite(out_.residual)) {
            blown_up(out_.residual);
        }
    }

    B& be_;
    K& k_;
    const options& opt_;
    report out_;
    vec<const double> b_;
    vec<double> z_, r_, start_;
    scalar_ref norm2_;
    index n_ = 0;
    double target_ = 0, first_ = 0;
};

}  // namespace aitken::drivers::optimize_sketch
