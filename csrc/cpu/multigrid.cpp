// Conductance multigrid on the CPU: levels, and the kernels of drivers/multigrid.hpp.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/convolution.hpp"
#include "cpu/backend.hpp"
#include "cpu/grid_levels.hpp"
#include "cpu/poisson_grid.hpp"
#include "cpu/simd/dispatch.hpp"
#include "drivers/multigrid.hpp"

namespace aitken::cpu::multigrid {
namespace {

using drivers::multigrid::level_plan;

// One level's equations. Those of the finest with equal conductances are the grid's codes.
struct level {
    level_plan shape;
    std::array<padded<float>, 3> w, open;  // of lower faces; sums of the finest towards p = 0 along each axis
    padded<float> volume;                  // FLUID cells of the finest level in each
    padded<float> excess, inverse;         // of the diagonal over the sum of conductances; 1 / diagonal
    // Learned: the smoother's part, what comes from the parent, and how far towards the parent's neighbours.
    padded<float> phi, constant, linear;
    // A quarter of how open the lower and upper side of each cell is, for interpolation from this level.
    std::array<std::array<padded<float>, 2>, 3> sides;
    aitken_grid_f32 stencil{};
};

class hierarchy {
public:
    hierarchy(std::shared_ptr<const host_grid> grid, const api::cycle_options& options)
        : grid_(std::move(grid)) {
        const auto plan = drivers::multigrid::plan_levels(grid_->shape());
        const bool learned = options.learned.ndim > 0;
        if (learned) network_ = std::make_unique<convolution::geometry_network>(options.learned);
        first_axis_ = grid_->shape().ndim == 3 ? 0 : 1;
        for (std::size_t l = 0; l < plan.size(); ++l) {
            level& v = levels_.emplace_back();
            v.shape = plan[l];
            const bool coded = l == 0 && grid_->codes() != nullptr;
            if (!coded) {
                for (int a = first_axis_; a < 3; ++a) v.w[a] = padded<float>(v.shape);
                v.excess = padded<float>(v.shape);
            }
            if (l > 0) {
                for (int a = first_axis_; a < 3; ++a) v.open[a] = padded<float>(v.shape);
                v.volume = padded<float>(v.shape);
            }
            if (!coded || learned) v.inverse = padded<float>(v.shape);
            if (learned) {
                v.phi = padded<float>(v.shape);
                v.constant = padded<float>(v.shape);
                v.linear = padded<float>(v.shape);
                for (int a = first_axis_; l > 0 && a < 3; ++a)
                    if (plan[l - 1].halved[a])
                        for (auto& side : v.sides[a]) side = padded<float>(v.shape);
            }
            aitken_grid_f32& s = v.stencil;
            s.axes = 3 - first_axis_;
            s.code = coded ? grid_->codes() : nullptr;
            for (int a = 0; a < 3; ++a) s.w[a] = v.w[a].data();
            s.excess = v.excess.data();
            s.inverse = v.inverse.data();
        }
        const auto cells = static_cast<std::size_t>(levels_[0].shape.cells());
        if (learned) {
            for (auto& plane : planes_) plane.resize(cells);
            scratch_.reserve(levels_[0].shape.n[2]);
        }
        row_.resize(static_cast<std::size_t>(levels_[0].shape.n[2]));
        const index dense = levels_.back().shape.cells();
        dense_.resize(static_cast<std::size_t>(dense * dense));
        inverse_.resize(static_cast<std::size_t>(dense * dense));
        update();
    }

    const host_grid& grid() const { return *grid_; }
    int count() const { return static_cast<int>(levels_.size()); }
    level& at(int l) { return levels_[static_cast<std::size_t>(l)]; }
    const level& at(int l) const { return levels_[static_cast<std::size_t>(l)]; }
    bool learned() const { return network_ != nullptr; }
    const std::vector<double>& coarsest_inverse() const { return inverse_; }
    bool current() const { return version_ == grid_->version(); }

    void update() {
        if (current()) return;
        version_ = grid_->version();
        level& finest = levels_[0];
        finest.stencil.scale = static_cast<float>(grid_->stencil().scale / grid_->unit());
        finest.stencil.shift = static_cast<float>(grid_->shift() / grid_->unit());
        if (finest.stencil.code == nullptr) narrow_finest();
        for (int l = 1; l < count(); ++l) coarsen(l);
        invert_coarsest();
        if (learned())
            for (int l = 0; l + 1 < count(); ++l) {
                learn(l);
                open_sides(l + 1);
            }
    }

    index bytes() const {
        index sum = 0;
        for (const level& v : levels_) {
            for (int a = 0; a < 3; ++a)
                sum += v.w[a].bytes() + v.open[a].bytes() + v.sides[a][0].bytes() + v.sides[a][1].bytes();
            for (const auto* p : {&v.volume, &v.excess, &v.inverse, &v.constant, &v.linear, &v.phi})
                sum += p->bytes();
        }
        for (const auto& plane : planes_) sum += static_cast<index>(plane.size() * sizeof(float));
        return sum + 2 * static_cast<index>(dense_.size() * sizeof(double));
    }

private:
    // What a row of the finest level is made of comes from the grid, of others from here.
    const float* faces_of(int l, int axis, index r, float* room) const {
        const level& v = at(l);
        if (v.stencil.code == nullptr) return v.w[axis].data() + v.shape.row_begin(r);
        grid_->lower_faces(axis, r, room);
        return room;
    }
    const float* open_of(int l, int axis, index r, float* room) const {
        const level& v = at(l);
        if (l > 0) return v.open[axis].data() + v.shape.row_begin(r);
        grid_->open_faces(axis, r, room);
        return room;
    }
    const float* volume_of(int l, index r, float* room) const {
        const level& v = at(l);
        if (l > 0) return v.volume.data() + v.shape.row_begin(r);
        grid_->volumes(r, room);
        return room;
    }

    void narrow_finest() {
        level& v = levels_[0];
        const level_shape& s = v.shape;
        const aitken_grid_f64& g = grid_->stencil();
        for_row_chunks(s, [&](index first, index last) {
            const index from = s.row_begin(first), to = s.row_begin(last - 1) + s.n[2];
            for (int a = first_axis_; a < 3; ++a)
                for (index i = from; i < to; ++i) v.w[a][i] = static_cast<float>(g.w[a][i] / grid_->unit());
            for (index i = from; i < to; ++i) v.excess[i] = static_cast<float>(g.excess[i] / grid_->unit());
        });
        invert_diagonal(v);
    }

    void invert_diagonal(level& v) {
        const level_shape& s = v.shape;
        for_row_chunks(s, [&](index first, index last) {
            for (index r = first; r < last; ++r)
                for_spans(s, grid_->shape().periodic, r, r + 1, [&](const aitken_grid_span& at) {
                    float* d = v.inverse.data();
                    std::copy(v.excess.data() + at.first, v.excess.data() + at.last, d + at.first);
                    for (int a = first_axis_; a < 3; ++a) {
                        const float* w = v.w[a].data();
                        for (index i = at.first; i < at.last; ++i) d[i] += w[i] + w[i + at.hi[a]];
                    }
                    for (index i = at.first; i < at.last; ++i) d[i] = d[i] > 0 ? 1.0f / d[i] : 0.0f;
                });
        });
    }

    // Per fine cell about 13 flops and, from codes, 6 bytes; else 28.
    void coarsen(int l) {
        const level& fine = at(l - 1);
        level& coarse = at(l);
        const level_shape& f = fine.shape;
        const level_plan& s = coarse.shape;
        const auto& halved = f.halved;
        const auto fold = [&](const float* row, float* out) {
            simd().grid_fold(row, f.n[2], halved[2], out);
        };
        for_row_chunks(s, [&](index first, index last) {
            thread_local std::vector<float> room;
            if (room.size() < static_cast<std::size_t>(f.n[2])) room.resize(static_cast<std::size_t>(f.n[2]));
            for (index r = first; r < last; ++r) {
                const index i0 = r / s.n[1], i1 = r % s.n[1], begin = s.row_begin(r), n = s.n[2];
                for (int a = first_axis_; a < 3; ++a) {
                    std::fill_n(coarse.w[a].data() + begin, n, 0.0f);
                    std::fill_n(coarse.open[a].data() + begin, n, 0.0f);
                }
                std::fill_n(coarse.volume.data() + begin, n, 0.0f);
                for_children(f, i0, i1, [&](index row, bool lower0, bool lower1) {
                    for (int a = first_axis_; a < 3; ++a) {
                        fold(open_of(l - 1, a, row, room.data()), coarse.open[a].data() + begin);
                        // The face between two coarse cells is that of the lower children alone.
                        if ((a == 0 && !lower0) || (a == 1 && !lower1)) continue;
                        const float* w = faces_of(l - 1, a, row, room.data());
                        float* out = coarse.w[a].data() + begin;
                        if (a == 2 && halved[2])
                            for (index i = 0; i < n; ++i) out[i] += w[2 * i];
                        else
                            fold(w, out);
                    }
                    fold(volume_of(l - 1, row, room.data()), coarse.volume.data() + begin);
                });
                if (halved[0]) scale_row(coarse.w[0].data() + begin, n, s.face[0][i0]);
                if (halved[1]) scale_row(coarse.w[1].data() + begin, n, s.face[1][i1]);
                for (index i = 0; halved[2] && i < n; ++i)
                    coarse.w[2][begin + i] *= static_cast<float>(s.face[2][i]);
            }
        });
        const auto shift = static_cast<float>(grid_->shift() / grid_->unit());
        for_row_chunks(s, [&](index first, index last) {
            for (index r = first; r < last; ++r) {
                const index begin = s.row_begin(r);
                const std::array<index, 2> at{r / s.n[1], r % s.n[1]};
                for (index i = 0; i < s.n[2]; ++i) {
                    float excess = shift * coarse.volume[begin + i];
                    for (int a = first_axis_; a < 3; ++a)
                        excess +=
                            static_cast<float>(s.exterior[a][a == 2 ? i : at[a]]) * coarse.open[a][begin + i];
                    coarse.excess[begin + i] = excess;
                }
            }
        });
        invert_diagonal(coarse);
    }

    static void scale_row(float* row, index n, double factor) {
        for (index i = 0; i < n; ++i) row[i] *= static_cast<float>(factor);
    }

    template <class Fn>
    static void for_children(const level_shape& fine, index i0, index i1, Fn&& fn) {
        const index step0 = fine.halved[0] ? 2 : 1, step1 = fine.halved[1] ? 2 : 1;
        for (index c0 = step0 * i0; c0 < std::min(step0 * (i0 + 1), fine.n[0]); ++c0)
            for (index c1 = step1 * i1; c1 < std::min(step1 * (i1 + 1), fine.n[1]); ++c1)
                fn(c0 * fine.n[1] + c1, c0 == step0 * i0, c1 == step1 * i1);
    }

    // The coarsest level's inverse, by Cholesky's factors. Where a component is singular one of its unknowns
    // is held at zero, which still gives a symmetric semidefinite inverse.
    void invert_coarsest() {
        const level& v = levels_.back();
        const level_plan& s = v.shape;
        const index m = s.cells();
        std::fill(dense_.begin(), dense_.end(), 0.0);
        const auto number = [&](index r, index i) { return r * s.n[2] + i; };
        const auto entry = [&](index i, index j) -> double& { return dense_[i * m + j]; };
        const int last_level = count() - 1;
        std::array<float, 3 * drivers::multigrid::coarsest_side> room;
        for (index r = 0; r < s.rows(); ++r) {
            const std::array<index, 2> at{r / s.n[1], r % s.n[1]};
            for (int a = first_axis_; a < 3; ++a) {
                const float* w = faces_of(last_level, a, r, room.data());
                for (index i = 0; i < s.n[2]; ++i) {
                    if (!(w[i] > 0)) continue;
                    std::array<index, 3> other{at[0], at[1], i};
                    other[a] = (other[a] + s.n[a] - 1) % s.n[a];
                    const index p = number(r, i), q = number(other[0] * s.n[1] + other[1], other[2]);
                    entry(p, p) += w[i];
                    entry(q, q) += w[i];
                    entry(p, q) -= w[i];
                    entry(q, p) -= w[i];
                }
                const float* open = open_of(last_level, a, r, room.data());
                for (index i = 0; i < s.n[2]; ++i)
                    entry(number(r, i), number(r, i)) += s.exterior[a][a == 2 ? i : at[a]] * open[i];
            }
            const float* volume = volume_of(last_level, r, room.data());
            for (index i = 0; i < s.n[2]; ++i)
                entry(number(r, i), number(r, i)) += grid_->shift() / grid_->unit() * volume[i];
        }
        // L in the lower triangle, its rows of held or absent unknowns zero; then X = L^-1, X' X.
        // A small shift of a floating component counts as none: the cycle treats what is constant there.
        const bool shifted = grid_->shift() > 0 && grid_->floating_components() > 0;
        const double least = shifted ? 1e-5 : 1e-10;
        for (index j = 0; j < m; ++j) {
            const double before = entry(j, j);
            double pivot = before;
            for (index k = 0; k < j; ++k) pivot -= entry(j, k) * entry(j, k);
            const bool held = !(pivot > least * before);
            const double root = held ? 0 : std::sqrt(pivot);
            entry(j, j) = root;
            for (index i = j + 1; i < m; ++i) {
                double sum = entry(i, j);
                for (index k = 0; k < j; ++k) sum -= entry(i, k) * entry(j, k);
                entry(i, j) = held ? 0 : sum / root;
            }
        }
        for (index c = 0; c < m; ++c) {
            if (entry(c, c) == 0) continue;
            // Column c of L^-1 goes above the diagonal of row c: positions (c, i), i > c.
            for (index i = c + 1; i < m; ++i) {
                if (entry(i, i) == 0) {
                    entry(c, i) = 0;
                    continue;
                }
                double sum = entry(i, c) / entry(c, c);
                for (index k = c + 1; k < i; ++k) sum += entry(i, k) * entry(c, k);
                entry(c, i) = -sum / entry(i, i);
            }
        }
        const auto x = [&](index i, index c) {
            if (entry(c, c) == 0 || entry(i, i) == 0) return 0.0;
            return i == c ? 1 / entry(c, c) : entry(c, i);
        };
        for (index i = 0; i < m; ++i)
            for (index j = 0; j <= i; ++j) {
                double sum = 0;
                for (index k = i; k < m; ++k) sum += x(k, i) * x(k, j);
                inverse_[i * m + j] = inverse_[j * m + i] = sum;
            }
    }

    // Fields of the network: the smoother's phi, and the two parts of the prolongation to this level.
    void learn(int l) {
        level& v = at(l);
        const level_shape& s = v.shape;
        const bool coded = v.stencil.code != nullptr;
        double children = 1, reference = 0;
        for (int a = 0; a < 3; ++a) {
            children *= std::ldexp(1.0, s.times[a]);
            if (a >= first_axis_) reference += 2 * s.weight[a] / grid_->unit();
        }
        const auto &f0 = planes_[0], &f1 = planes_[1];
        for (index r = 0; r < s.rows(); ++r) {
            const index begin = s.row_begin(r), n = s.n[2];
            const float* volume = volume_of(l, r, row_.data());
            for (index i = 0; i < n; ++i) {
                const float code = coded ? static_cast<float>(v.stencil.code[begin + i]) : 0.0f;
                const float inverse = coded ? 0.0f : v.inverse[begin + i];
                const float d = code != 0      ? v.stencil.scale * (code - 1) + v.stencil.shift
                                : inverse != 0 ? 1 / inverse
                                               : 0.0f;
                planes_[0][r * n + i] = d > 0 ? volume[i] / static_cast<float>(children) : 0.0f;
                planes_[1][r * n + i] = std::min(4.0f, d / static_cast<float>(reference));
                if (coded) v.inverse[begin + i] = d > 0 ? 1 / d : 0.0f;
            }
        }
        box_means(s);
        convolution::geometry_fields(*network_, s.n,
                                     {f0.data(), f1.data(), planes_[2].data(), planes_[3].data()},
                                     {planes_[4].data(), planes_[5].data(), planes_[6].data()}, scratch_);
        for_row_chunks(s, [&](index first, index last) {
            for (index r = first; r < last; ++r)
                for (index i = 0; i < s.n[2]; ++i) {
                    const index from = r * s.n[2] + i, to = s.row_begin(r) + i;
                    const float d = v.inverse[to];
                    const float phi = std::max(least_phi, logistic(planes_[4][from] + 4));
                    const float blend = logistic(planes_[5][from] - 4);
                    const float part = std::exp(std::clamp(0.5f * planes_[6][from], -0.7f, 0.7f));
                    v.phi[to] = d > 0 ? phi : 0.0f;
                    v.constant[to] = d > 0 ? part : 0.0f;
                    v.linear[to] = d > 0 ? part * blend : 0.0f;
                    v.inverse[to] = d * phi;
                }
        });
    }

    // Linear interpolation goes a quarter of the way to the neighbour on the child's side, less where the
    // face there conducts less than the one opposite, and at the box's ends only towards p = 0.
    void open_sides(int l) {
        level& v = at(l);
        const level_shape& s = v.shape;
        const auto& periodic = grid_->shape().periodic;
        for (int a = first_axis_; a < 3; ++a) {
            if (v.sides[a][0].data() == nullptr) continue;
            const float *w = v.w[a].data(), *open = v.open[a].data();
            float* const lower = v.sides[a][0].data();
            float* const upper = v.sides[a][1].data();
            const bool ends = !periodic[a];
            for (index r = 0; r < s.rows(); ++r) {
                const std::array<index, 2> at{r / s.n[1], r % s.n[1]};
                for_spans(s, periodic, r, r + 1, [&](const aitken_grid_span& span) {
                    for (index i = span.first; i < span.last; ++i) {
                        const float low = w[i], high = w[i + span.hi[a]], most = std::max(low, high);
                        const float share = most > 0 ? 0.25f / most : 0.0f;
                        lower[i] = low * share;
                        upper[i] = high * share;
                        const index position = a == 2 ? i - s.row_begin(r) : at[a];
                        const float wall = open[i] > 0 ? 0.25f : 0.0f;
                        if (ends && position == 0) lower[i] = wall;
                        if (ends && position == s.n[a] - 1) upper[i] = wall;
                    }
                });
            }
        }
    }

    static constexpr float least_phi = 1e-3f;  // a sweep moves every unknown
    static float logistic(float x) { return 1 / (1 + std::exp(-x)); }

    // Means of plane 0 over 3^d and 5^d cells into planes 2 and 3, axis by axis, with zeros beyond the box;
    // planes 4 to 6 are room.
    void box_means(const level_shape& s) {
        const std::array<index, 3> stride{s.n[1] * s.n[2], s.n[2], 1};
        for (const int reach : {1, 2}) {
            const float share = 1.0f / static_cast<float>(2 * reach + 1);
            const float* from = planes_[0].data();
            for (int a = first_axis_; a < 3; ++a) {
                float* to = a == 2 ? planes_[1 + reach].data() : planes_[4 + a].data();
                sum_along(s, stride[a], s.n[a], reach, share, from, to);
                from = to;
            }
        }
    }
    static void sum_along(const level_shape& s, index stride, index n, int reach, float share,
                          const float* from, float* to) {
        const index cells = s.cells();
        constexpr index part = 16384;
        parallel_chunks((cells + part - 1) / part, [&](index chunk) {
            for (index i = chunk * part; i < std::min((chunk + 1) * part, cells); ++i) {
                const index position = i / stride % n;
                float sum = from[i];
                for (index k = 1; k <= reach; ++k) {
                    if (position >= k) sum += from[i - k * stride];
                    if (position + k < n) sum += from[i + k * stride];
                }
                to[i] = share * sum;
            }
        });
    }

    std::shared_ptr<const host_grid> grid_;
    int first_axis_ = 0;
    long version_ = -1;
    std::vector<level> levels_;
    std::unique_ptr<convolution::geometry_network> network_;
    convolution::geometry_scratch scratch_;
    std::array<std::vector<float>, 7> planes_;  // features and fields of the level at work
    std::vector<float> row_;
    std::vector<double> dense_, inverse_;
};

// The vectors of one cycle, and what the driver does with them.
class cycle_kernels {
public:
    cycle_kernels(const hierarchy& h, bool momentum) : h_(h), momentum_(momentum) {
        for (int l = 0; l < h.count(); ++l) {
            const level_shape& s = h.at(l).shape;
            vectors& v = v_.emplace_back();
            for (auto* p : {&v.b, &v.x, &v.y}) *p = padded<float>(s);
            for (int a = 0; a < 3; ++a)
                for (std::size_t side = 0; side < 2; ++side)
                    if (h.at(l).sides[a][side].data() != nullptr) v.passed[a][side] = padded<float>(s);
        }
    }

    int coarsest() const { return h_.count() - 1; }
    float* right_side() { return v_[0].b.data(); }
    const float* solution() const { return v_[0].x.data(); }
    index bytes() const {
        index sum = 0;
        for (const vectors& v : v_) {
            sum += v.b.bytes() + v.x.bytes() + v.y.bytes();
            for (const auto& sides : v.passed) sum += sides[0].bytes() + sides[1].bytes();
        }
        return sum;
    }

    void solve_from(int l, bool) {
        const level_shape& s = h_.at(l).shape;
        vectors& v = at(l);
        const index m = s.cells(), n = s.n[2];
        const double* inverse = h_.coarsest_inverse().data();
        for (index p = 0; p < m; ++p) {
            double sum = 0;  // weakly held regions have huge entries, of which little may remain
            for (index r = 0; r < s.rows(); ++r)
                for (index i = 0; i < n; ++i)
                    sum += inverse[p * m + r * n + i] * static_cast<double>(v.b[s.row_begin(r) + i]);
            v.x[s.row_begin(p / n) + p % n] = static_cast<float>(sum);
        }
    }

    void scale(int l, double step) {
        vectors& v = at(l);
        spans(l, [&](const level& e, const aitken_grid_span& at) {
            simd().grid_scale(&e.stencil, &at, v.b.data(), static_cast<float>(step), v.x.data());
            if (momentum_) std::fill(v.y.data() + at.first, v.y.data() + at.last, 0.0f);
        });
    }
    void step(int l, double momentum, double step) {
        vectors& v = at(l);
        spans(l, [&](const level& e, const aitken_grid_span& at) {
            simd().grid_step(&e.stencil, &at, v.b.data(), v.x.data(), static_cast<float>(momentum),
                             static_cast<float>(step), v.y.data());
        });
        std::swap(v.x, v.y);
    }

    void restrict_residual(int l) {
        if (h_.learned()) return restrict_learned(l);
        const level_shape &f = h_.at(l).shape, &s = h_.at(l + 1).shape;
        vectors& coarse = at(l + 1);
        for_row_chunks(s, [&](index first, index last) {
            float* const r = room(f.n[2]);
            for (index row = first; row < last; ++row) {
                float* out = coarse.b.data() + s.row_begin(row);
                std::fill_n(out, s.n[2], 0.0f);
                for_children(f, s, row, [&](index child) {
                    residual_row(l, child, r);
                    simd().grid_fold(r, f.n[2], f.halved[2], out);
                });
            }
        });
    }

    void prolong(int l) {
        if (h_.learned()) return prolong_learned(l);
        const level& e = h_.at(l);
        const level_shape &f = e.shape, &s = h_.at(l + 1).shape;
        const float* from = at(l + 1).x.data();
        float* to = at(l).x.data();
        for_row_chunks(f, [&](index first, index last) {
            for (index row = first; row < last; ++row) {
                const index i0 = row / f.n[1] >> f.halved[0], i1 = row % f.n[1] >> f.halved[1];
                const index begin = f.row_begin(row);
                simd().grid_unfold(from + i0 * s.plane + i1 * s.row, f.n[2], f.halved[2],
                                   e.stencil.code ? e.stencil.code + begin : nullptr,
                                   e.inverse.data() + begin, to + begin);
            }
        });
    }

private:
    struct vectors {
        padded<float> b, x, y;
        // Learned: what each cell passes on to its lower and upper neighbours when a residual is restricted.
        std::array<std::array<padded<float>, 2>, 3> passed;
    };

    vectors& at(int l) { return v_[static_cast<std::size_t>(l)]; }

    // Room for a row of the calling thread.
    static float* room(index n, std::size_t which = 0) {
        thread_local std::array<std::vector<float>, 3> rows;
        auto& row = rows[which];
        if (row.size() < static_cast<std::size_t>(n)) row.resize(static_cast<std::size_t>(n));
        return row.data();
    }

    template <class Fn>
    void spans(int l, Fn&& fn) {
        const level& e = h_.at(l);
        for_row_chunks(e.shape, [&](index first, index last) {
            for_spans(e.shape, h_.grid().shape().periodic, first, last,
                      [&](const aitken_grid_span& at) { fn(e, at); });
        });
    }
    template <class Fn>
    static void for_children(const level_shape& f, const level_shape& s, index row, Fn&& fn) {
        const index step0 = f.halved[0] ? 2 : 1, step1 = f.halved[1] ? 2 : 1;
        const index i0 = step0 * (row / s.n[1]), i1 = step1 * (row % s.n[1]);
        for (index c0 = i0; c0 < std::min(i0 + step0, f.n[0]); ++c0)
            for (index c1 = i1; c1 < std::min(i1 + step1, f.n[1]); ++c1) fn(c0 * f.n[1] + c1);
    }
    void residual_row(int l, index row, float* r) {
        const level& e = h_.at(l);
        const vectors& v = at(l);
        const index begin = e.shape.row_begin(row);
        for_spans(e.shape, h_.grid().shape().periodic, row, row + 1, [&](const aitken_grid_span& at) {
            simd().grid_residual(&e.stencil, &at, v.b.data(), v.x.data(), r + (at.first - begin));
        });
    }

    // b_c = P' r in two walks: cells gather from their children, then from what their neighbours pass on.
    void restrict_learned(int l) {
        const level &e = h_.at(l), &c = h_.at(l + 1);
        const level_shape &f = e.shape, &s = c.shape;
        vectors& coarse = at(l + 1);
        float* const b = coarse.b.data();
        for_row_chunks(s, [&](index first, index last) {
            float *const r = room(f.n[2]), *const sum = room(s.n[2], 1);
            for (index row = first; row < last; ++row) {
                const index begin = s.row_begin(row), n = s.n[2];
                std::fill_n(b + begin, n, 0.0f);
                for (auto& sides : coarse.passed)
                    for (auto& side : sides)
                        if (side.data() != nullptr) std::fill_n(side.data() + begin, n, 0.0f);
                const auto passed = [&](int a, index side) {
                    float* p = coarse.passed[a][static_cast<std::size_t>(side)].data();
                    return p == nullptr ? p : p + begin;
                };
                for_children(f, s, row, [&](index child) {
                    const index from = f.row_begin(child);
                    residual_row(l, child, r);
                    simd().grid_fold_blend(r, e.constant.data() + from, e.linear.data() + from, f.n[2],
                                           f.halved[2], b + begin, sum, passed(2, 0), passed(2, 1));
                    if (f.halved[0]) add(sum, n, passed(0, child / f.n[1] % 2));
                    if (f.halved[1]) add(sum, n, passed(1, child % f.n[1] % 2));
                });
                for (int a = 0; a < 3; ++a)
                    for (std::size_t side = 0; side < 2; ++side) {
                        if (c.sides[a][side].data() == nullptr) continue;
                        const float* open = c.sides[a][side].data() + begin;
                        float* p = coarse.passed[a][side].data() + begin;
                        for (index i = 0; i < n; ++i) {
                            p[i] *= open[i];
                            b[begin + i] -= p[i];
                        }
                    }
            }
        });
        for_row_chunks(s, [&](index first, index last) {
            for (index row = first; row < last; ++row)
                for_spans(s, h_.grid().shape().periodic, row, row + 1, [&](const aitken_grid_span& span) {
                    for (int a = 0; a < 3; ++a) {
                        if (coarse.passed[a][0].data() == nullptr) continue;
                        const float *down = coarse.passed[a][0].data() + span.hi[a],
                                    *up = coarse.passed[a][1].data() + span.lo[a];
                        for (index i = span.first; i < span.last; ++i) b[i] += down[i] + up[i];
                    }
                });
        });
    }

    void prolong_learned(int l) {
        const level &e = h_.at(l), &c = h_.at(l + 1);
        const level_shape &f = e.shape, &s = c.shape;
        const auto& periodic = h_.grid().shape().periodic;
        const float* const x = at(l + 1).x.data();
        float* const to = at(l).x.data();
        for_row_chunks(f, [&](index first, index last) {
            float *const m = room(s.n[2]), *const lower = room(s.n[2], 1), *const upper = room(s.n[2], 2);
            for (index row = first; row < last; ++row) {
                const index i0 = row / f.n[1], i1 = row % f.n[1], begin = f.row_begin(row), n = s.n[2];
                const index parent = (i0 >> f.halved[0]) * s.n[1] + (i1 >> f.halved[1]);
                const index from = s.row_begin(parent);
                std::fill_n(m, n, 0.0f);
                for_spans(s, periodic, parent, parent + 1, [&](const aitken_grid_span& span) {
                    // Adds a quarter of the way to a neighbour, as far as the side is open.
                    const auto lean = [&](int a, index side, float* out) {
                        const float* open = c.sides[a][static_cast<std::size_t>(side)].data();
                        const index away = side == 0 ? span.lo[a] : span.hi[a];
                        for (index i = span.first; i < span.last; ++i)
                            out[i - from] += open[i] * (x[i + away] - x[i]);
                    };
                    if (f.halved[0]) lean(0, i0 % 2, m);
                    if (f.halved[1]) lean(1, i1 % 2, m);
                    if (!f.halved[2]) return;
                    std::fill(lower + (span.first - from), lower + (span.last - from), 0.0f);
                    std::fill(upper + (span.first - from), upper + (span.last - from), 0.0f);
                    lean(2, 0, lower);
                    lean(2, 1, upper);
                });
                simd().grid_unfold_blend(x + from, m, lower, upper, f.n[2], f.halved[2],
                                         e.constant.data() + begin, e.linear.data() + begin, to + begin);
            }
        });
    }

    static void add(const float* from, index n, float* to) {
        for (index i = 0; i < n; ++i) to[i] += from[i];
    }

    const hierarchy& h_;
    bool momentum_;  // a step may look at the iterate before the last
    std::vector<vectors> v_;
};

static_assert(drivers::multigrid::CycleKernels<cycle_kernels>);

class host_cycle final : public cycle {
public:
    host_cycle(std::shared_ptr<hierarchy> levels, const api::cycle_options& options,
               const drivers::multigrid::smoothing& smoothing)
        : levels_(std::move(levels)),
          visits_(options.learned.ndim > 0 ? 1 : options.visits),
          options_(options),
          smoothing_(smoothing),
          kernels_(*levels_, smoothing_.before.back().momentum != 0) {}

    using linear_map<double>::apply;
    index size() const override { return levels_->grid().size(); }
    int levels() const override { return levels_->count(); }
    index bytes() const override { return levels_->bytes() + kernels_.bytes(); }
    void update() override { levels_->update(); }
    std::unique_ptr<cycle> clone() const override {
        return std::make_unique<host_cycle>(levels_, options_, smoothing_);
    }
    std::vector<float> field(int l, int which) const override {
        const level& v = levels_->at(l);
        std::vector<float> out;
        if (!levels_->learned()) return out;
        const float* from = (which == 0 ? v.phi : which == 1 ? v.constant : v.linear).data();
        for (index r = 0; r < v.shape.rows(); ++r)
            out.insert(out.end(), from + v.shape.row_begin(r), from + v.shape.row_begin(r) + v.shape.n[2]);
        return out;
    }

    // Per finest cell 8 + 4 bytes in, 4 + 8 out; a V-cycle of two sweeps 12 (scale) + 17 + 13 (residual)
    // + 12 (correction) + 2 x 17 with codes, and 1/7 (1/3 in two dimensions) of some three times that below.
    void apply(tall<const double> x, tall<double> y) override {
        const host_grid& grid = levels_->grid();
        const level_shape& s = grid.level();
        for (index j = 0; j < x.cols; ++j) {
            const double* from = x.col(j);
            double* to = y.col(j);
            // With a shift, what is constant on a floating component is solved for exactly: in single
            // precision a small one would drown all else.
            const bool shifted = grid.shift() > 0 && grid.floating_components() > 0;
            if (shifted) {
                if (spare_.data() == nullptr) spare_ = padded<double>(s);
                means_.resize(static_cast<std::size_t>(grid.floating_components()));
                std::copy_n(from, s.size(), spare_.data());
                grid.take_means(spare_.data(), means_.data());
                from = spare_.data();
            }
            const double norm = size_of(s, from);
            if (!std::isfinite(norm)) {
                std::fill_n(to, s.size(), norm);
                continue;
            }
            if (norm > 0)
                cycle_on(from, norm, to);
            else
                std::fill_n(to, s.size(), 0.0);
            if (shifted) {
                grid.take_means(to, nullptr);
                for (index c = 0; c < grid.floating_components(); ++c)
                    grid.raise(c, means_[static_cast<std::size_t>(c)] / grid.shift(), to);
            } else {
                grid.project(to);
            }
        }
    }

private:
    void cycle_on(const double* from, double norm, double* to) {
        const level_shape& s = levels_->grid().level();
        walk(s, [&](index first, index count) {
            simd().grid_narrow(from + first, 1 / norm, count, kernels_.right_side() + first);
        });
        drivers::multigrid::cycle_driver<cycle_kernels>(kernels_, smoothing_, visits_).run();
        const float* solution = kernels_.solution();
        walk(s, [&](index first, index count) {
            simd().grid_widen(solution + first, norm / levels_->grid().unit(), count, to + first);
        });
    }
    template <class Fn>
    static void walk(const level_shape& s, Fn&& fn) {
        for_row_chunks(s, [&](index first, index last) {
            const index from = s.row_begin(first);
            fn(from, (last == s.rows() ? s.size() : s.row_begin(last)) - from);
        });
    }
    // The 2-norm, or the largest magnitude where squares are no numbers.
    static double size_of(const level_shape& s, const double* v) {
        const double norm = std::sqrt(padded_dot(s, v, v));
        if (norm > 0 && std::isfinite(norm)) return norm;
        double out = 0;
        for (index i = 0; i < s.size(); ++i) {
            if (!std::isfinite(v[i])) return std::nan("");
            out = std::max(out, std::fabs(v[i]));
        }
        return out;
    }

    std::shared_ptr<hierarchy> levels_;
    int visits_;
    api::cycle_options options_;
    drivers::multigrid::smoothing smoothing_;
    cycle_kernels kernels_;
    padded<double> spare_;
    std::vector<double> means_;
};

}  // namespace

std::unique_ptr<cycle> make_cycle(std::shared_ptr<const poisson_grid> grid,
                                  const api::cycle_options& options) {
    const auto host = std::dynamic_pointer_cast<const host_grid>(grid);
    if (!host) throw std::invalid_argument("the grid is not one of this process's memory");
    if (options.visits < 1 || options.visits > 3)
        throw std::invalid_argument("`cycle` visits a level 1 to 3 times, not " +
                                    std::to_string(options.visits));
    if (options.learned.ndim != 0 && options.learned.ndim != host->shape().ndim)
        throw std::invalid_argument("the model was trained in " + std::to_string(options.learned.ndim) +
                                    " dimensions, the grid has " + std::to_string(host->shape().ndim));
    const auto smoothing = drivers::multigrid::plan_smoothing(options, host->shape().ndim);
    return std::make_unique<host_cycle>(std::make_shared<hierarchy>(host, options), options, smoothing);
}

}  // namespace aitken::cpu::multigrid
