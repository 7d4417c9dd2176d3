// Vector passes of the flexible conjugate directions on the CPU, beside those that CG has already. Chunks and
// sums are as there: bits do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "core/api/deepcg.hpp"
#include "cpu/short_recurrence_kernels.hpp"
#include "drivers/deepcg.hpp"

namespace aitken::cpu {

class deepcg_kernels : public short_recurrence_kernels<double> {
    using base = short_recurrence_kernels<double>;
    using candidate = drivers::deepcg::candidate;

public:
    deepcg_kernels(backend& be, const deepcg::maps& maps)
        : base(be, *maps.matrix, nullptr, 0.0), maps_(maps), model_(maps.model) {}

    // --- the operators ---

    tall<double> guarded(index n, index columns) {
        const index pitch = n + maps_.guard, all = maps_.guard + columns * pitch;
        const vec<double> block = be_.allocate<double>(all);
        std::fill_n(block.data, all, 0.0);
        return {block.data + maps_.guard, n, columns, pitch};
    }
    bool has_model() const { return model_ != nullptr; }
    void model(vec<const double> r, vec<double> z) {
        be_.launched();
        model_->apply(r.data, z.data);
        if (maps_.project) maps_.project(z.data);
    }
    bool has_fallback() const { return maps_.fallback != nullptr || maps_.plain_fallback; }
    void use_fallback() { model_ = maps_.fallback; }

    // --- conjugate gradients ---

    void apply_dot(vec<const double> p, vec<double> q, scalar_ref pq) {
        if (maps_.apply_dot) {
            be_.launched();
            *pq.address() = maps_.apply_dot(p.data, q.data);
        } else {
            apply(p, q);
            dot(p, q, pq);
        }
    }
    void energy(vec<const double> p, vec<const double> q, scalar_ref pq, scalar_ref size) {
        be_.launched();
        const double *a = p.data, *b = q.data;
        const sums<3> s = sweep<3>(p.size, [=](index i, index end, sums<3>& s) {
            s[0] += inner(a, b, i, end);
            s[1] += inner(a, a, i, end);
            s[2] += inner(b, b, i, end);
        });
        *pq.address() = s[0];
        *size.address() = std::sqrt(s[1]) * std::sqrt(s[2]);
    }
    void pair(vec<const double> z, vec<const double> r, vec<const double> q, scalar_ref rz, scalar_ref zq) {
        be_.launched();
        const double *a = z.data, *b = r.data, *c = q.data;
        put<2>(sweep<2>(z.size,
                        [=](index i, index end, sums<2>& s) {
                            s[0] += inner(a, b, i, end);
                            s[1] += inner(a, c, i, end);
                        }),
               rz, zq);
    }
    void turn(scalar_ref zq, scalar_ref pq, vec<const double> z, vec<double> p) {
        be_.launched();
        const double beta = -value(zq) / value(pq), *from = z.data;
        double* to = p.data;
        sweep(p.size, [=](index first, index end) {
            for (index i = first; i < end; ++i) to[i] = from[i] + beta * to[i];
        });
    }
    void move(scalar_ref rz, scalar_ref pq, scalar_ref zq, vec<const double> z, vec<double> p,
              vec<double> x) {
        be_.launched();
        const double alpha = value(rz) / value(pq), beta = -value(zq) / value(pq), *from = z.data;
        double *direction = p.data, *to = x.data;
        sweep(x.size, [=](index first, index end) {
            axpy(alpha, direction, to, first, end);
            for (index i = first; i < end; ++i) direction[i] = from[i] + beta * direction[i];
        });
    }

    // --- directions from a small space ---

    void normalise(scalar_ref rr, vec<const double> r, vec<double> u) {
        scale(1 / std::sqrt(value(rr)), r, u);
    }
    void inspect(vec<const double> z, scalar_ref peak) {
        be_.launched();
        const index chunks = (z.size + chunk - 1) / chunk;
        partial_.resize(static_cast<std::size_t>(chunks));
        parallel_chunks(chunks, [&](index c) {
            double largest = 0, zero = 0;  // 0 z is NaN where z is not finite
            for (index i = c * chunk, end = std::min(z.size, i + chunk); i < end; ++i) {
                largest = std::max(largest, std::abs(z[i]));
                zero += 0 * z[i];
            }
            partial_[c] = largest + zero;
        });
        double all = 0;
        for (index c = 0; c < chunks; ++c) all = partial_[c] <= all ? all : partial_[c];
        for (index c = 0; c < chunks; ++c)
            if (std::isnan(partial_[c])) all = partial_[c];
        *peak.address() = all;
    }
    void adopt(scalar_ref peak, vec<const double> u, vec<double> z) {
        const double largest = value(peak);
        if (!(largest > 0 && std::isfinite(largest))) return scale(1.0, u, z);
        be_.launched();
        double* to = z.data;
        sweep(z.size, [=](index first, index end) {
            for (index i = first; i < end; ++i) to[i] /= largest;
        });
    }
    void project(tall<const double> images, vec<const double> z, vec<double> h, scalar_ref norm2) {
        be_.launched();
        *norm2.address() =
            cpu::project<double, double>(images, {nullptr, images.rows, 0, images.rows}, z, h.data);
    }
    void subtract(tall<const double> steps, vec<const double> energies, vec<double> h, vec<double> z,
                  scalar_ref norm2) {
        be_.launched();
        for (index j = 0; j < steps.cols; ++j) h[j] = energies[j] != 0 ? h[j] / energies[j] : 0.0;
        *norm2.address() =
            cpu::deflate<double, double>(steps, {nullptr, steps.rows, 0, steps.rows}, h.data, z);
    }
    void measure(vec<const double> d, vec<const double> image, vec<const double> r, const candidate& c) {
        be_.launched();
        const double *a = d.data, *b = image.data, *residual = r.data;
        const sums<3> s = sweep<3>(d.size, [=](index i, index end, sums<3>& s) {
            s[0] += inner(a, b, i, end);
            s[1] += inner(b, b, i, end);
            s[2] += inner(a, residual, i, end);
        });
        const double size = std::sqrt(value(c.after)) * std::sqrt(s[1]);
        const double usable = drivers::deepcg::usable_energy(value(c.before), value(c.after), s[0], size);
        put<5>({s[0], size, usable, s[2], usable > 0 ? s[2] / usable * s[2] : 0.0}, c.energy, c.size,
               c.usable, c.slope, c.gain);
    }
    void step(const candidate& c, vec<const double> d, vec<const double> image, vec<double> y,
              vec<double> y_image, vec<double> x, vec<double> r, scalar_ref rr, scalar_ref energy) {
        step(coefficient(c), d.data, image.data, 0.0, nullptr, nullptr, y, y_image, x, r, rr, energy);
    }
    void step(const candidate& c, vec<const double> d, vec<const double> image, const candidate& other,
              vec<const double> e, vec<const double> e_image, scalar_ref part, vec<double> y,
              vec<double> y_image, vec<double> x, vec<double> r, scalar_ref rr, scalar_ref energy) {
        const auto go = drivers::deepcg::choose_step(value(c.slope), value(c.usable), value(other.slope),
                                                     value(other.usable), value(part));
        step(go.first, d.data, image.data, go.second, e.data, e_image.data, y, y_image, x, r, rr, energy);
    }

private:
    static double coefficient(const candidate& c) {
        return value(c.usable) > 0 ? value(c.slope) / value(c.usable) : 0.0;
    }
    // What has the coefficient 0 may hold anything. y may be d.
    void step(double first, const double* d, const double* d_image, double second, const double* e,
              const double* e_image, vec<double> y, vec<double> y_image, vec<double> x, vec<double> r,
              scalar_ref rr, scalar_ref energy) {
        be_.launched();
        double *step = y.data, *image = y_image.data, *to = x.data, *residual = r.data;
        put<2>(sweep<2>(x.size,
                        [=](index i, index end, sums<2>& s) {
                            combine(first, d, second, e, step, i, end);
                            combine(first, d_image, second, e_image, image, i, end);
                            axpy(1.0, step, to, i, end);
                            axpy(-1.0, image, residual, i, end);
                            s[0] += inner(residual, residual, i, end);
                            s[1] += inner(step, image, i, end);
                        }),
               rr, energy);
    }
    static void combine(double first, const double* a, double second, const double* b, double* to,
                        index begin, index end) {
        if (second == 0 && first == 0)
            std::fill(to + begin, to + end, 0.0);
        else if (second == 0)
            for (index i = begin; i < end; ++i) to[i] = first * a[i];
        else if (first == 0)
            for (index i = begin; i < end; ++i) to[i] = second * b[i];
        else
            for (index i = begin; i < end; ++i) to[i] = first * a[i] + second * b[i];
    }

    deepcg::maps maps_;
    linear_map<double>* model_;
};

static_assert(drivers::deepcg::DeepcgKernels<deepcg_kernels>);

}  // namespace aitken::cpu
