// Grids with obstacles and their multigrid cycles over block programs. `Be` launches them: cuda/backend.hpp
// on a GPU, csrc/tests/block_backend.hpp by loops on the CPU. Launches and reads are stated with every
// function.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/api/multigrid.hpp"
#include "cuda/deepcg_blocks.hpp"
#include "cuda/krylov_inverses.hpp"
#include "cuda/multigrid_blocks.hpp"
#include "drivers/multigrid.hpp"

namespace aitken::cuda {

using drivers::multigrid::level_plan;
using drivers::multigrid::level_shape;

inline grid_layout lay_out_grid(const level_shape& s, const aitken::multigrid::box& b) {
    return {static_cast<int>(s.n[0]),
            static_cast<int>(s.n[1]),
            static_cast<int>(s.n[2]),
            static_cast<int>(s.row),
            static_cast<int>(s.plane),
            static_cast<int>(s.size()),
            b.ndim == 3 ? 3 : 2,
            b.periodic[0],
            b.periodic[1],
            b.periodic[2]};
}

// Memory for one padded vector with its guards, zero at first; the first cell begins a line of the caches.
template <class T, class Be>
T* padded_room(Be& be, const level_shape& s) {
    const index line = 128 / static_cast<index>(sizeof(T));
    const index front = blocks_for(s.guard(), line) * line, all = front + s.size() + s.guard();
    const vec<T> room = be.template allocate<T>(all);
    be.launch(map_pass(fill_with<T>{room.data, T(0)}, all));
    return room.data + front;
}

// A pass with sums: 2 launches.
template <class Be, class Op, class Finish>
void run_sums(Be& be, vec<double>& part, const Op& op, index n, const Finish& finish) {
    const long_strips strips(n);
    if (part.size < strips.count * Op::sums) part = be.template allocate<double>(1024 * 8);
    be.launch(long_pass<Op>(op, strips, part.data));
    be.launch(long_totals<Op, Finish>(part.data, strips.count, finish));
}
// One without: 1 launch.
template <class Be, class Op>
void run_map(Be& be, const Op& op, index n) {
    be.launch(long_pass<Op>(op, long_strips(n), nullptr));
}

// The operator of a grid whose geometry the host has checked and labelled.
template <class Be>
class device_grid {
public:
    device_grid(Be& be, const aitken::multigrid::box& b)
        : be_(be), box_(b), shape_(drivers::multigrid::lay_out(b.n)), layout_(lay_out_grid(shape_, b)) {
        kind_ = padded_room<std::uint8_t>(be_, shape_);
        if (box_.variable) {
            for (int a = first_axis(); a < 3; ++a) {
                w_[a] = padded_room<double>(be_, shape_);
                single_.w[a] = padded_room<float>(be_, shape_);
                single_.open[a] = padded_room<float>(be_, shape_);
            }
            excess_ = padded_room<double>(be_, shape_);
            single_.excess = padded_room<float>(be_, shape_);
            single_.inverse = padded_room<float>(be_, shape_);
        } else {
            code_ = padded_room<std::uint8_t>(be_, shape_);
        }
        stencil_ = {code_, box_.scale[2], 0, w_[0], w_[1], w_[2], excess_, nullptr};
        single_.at = layout_;
        finish_single();
    }

    // O(cells): the flags and, in a variable box, the faces are sent, and the positions of floating
    // components' cells. 2 launches, no read. Memory is asked for where lists are longer than ever before.
    void update(const cpu::multigrid::poisson_grid& host) {
        const aitken::multigrid::coefficients& c = host.given();
        const index cells = shape_.cells();
        n_fluid_ = host.n_fluid();
        from_ = {layout_, kind_, {}, {}, {}, c.shift};
        for (int a = 0; a < 3; ++a) {
            from_.scale[a] = box_.scale[a];
            for (int side = 0; side < 2; ++side) from_.open[a][side] = c.open[a][side];
            if (c.faces[a] == nullptr) continue;
            const index count = cells / box_.n[a] * (box_.n[a] + 1);
            from_.given[a] = sent(faces_[a], c.faces[a], count);
        }
        const std::uint8_t* flags = c.flags ? sent(flags_, c.flags, cells) : nullptr;
        be_.launch(map_pass(load_kind{layout_, flags, kind_}, cells));
        if (box_.variable)
            be_.launch(map_pass(load_conductances{from_, {w_[0], w_[1], w_[2]}, excess_, single_}, cells));
        else
            be_.launch(map_pass(count_faces{from_, code_}, cells));
        stencil_.shift = c.shift;
        finish_single();
        find_lists(host);
    }

    const aitken::multigrid::box& box() const { return box_; }
    const level_shape& shape() const { return shape_; }
    const finest_faces& faces() const { return from_; }
    const grid_level& single() const { return single_; }
    const grid_stencil<double>& stencil() const { return stencil_; }
    int first_axis() const { return box_.ndim == 3 ? 0 : 1; }
    index size() const { return shape_.size(); }
    index guard() const { return shape_.guard(); }
    index length(bool compact) const { return compact ? n_fluid_ : shape_.cells(); }
    bool singular() const { return components_ > 0 && from_.shift == 0; }
    // With a shift, small eigenvalues go with what is constant on components that touch no p = 0.
    bool shifted() const { return components_ > 0 && from_.shift > 0; }
    const std::uint8_t* kinds() const { return kind_; }

    // 1 launch.
    void apply(const double* x, double* y) {
        be_.launch(map_pass(apply_grid{layout_, stencil_, x, y}, size()));
    }
    // 2 launches.
    void apply_dot(const double* x, double* y, double* out) {
        run_sums(be_, part_, apply_grid_sums(apply_grid{layout_, stencil_, x, y}), size(),
                 keep_sums<1>{{out}});
    }
    // Takes the means off the singular components: 3 launches where there are any.
    void project(double* v) {
        if (singular()) take_means_off(v, means_.data, nullptr);
    }
    // The same, and the 2-norm of what was taken: 1 read more.
    double project_measured(double* v) {
        if (!singular()) return 0;
        project(v);
        std::vector<double> means(static_cast<std::size_t>(components_));
        be_.download(vec<const double>(means_.slice(0, components_)), means.data());
        double taken = 0;
        for (index c = 0; c < components_; ++c)
            taken += means[c] * means[c] * static_cast<double>(first_here_[c + 1] - first_here_[c]);
        return std::sqrt(taken);
    }
    // Where the grid is shifted: takes means off floating components and keeps them; then, of the answer to
    // the rest, puts in what they are solved by exactly.
    void keep_means(double* v) { take_means_off(v, kept_.data, nullptr); }
    void solve_means(double* v) { take_means_off(v, means_.data, kept_.data); }

    // 1 launch; the first with compact vectors sends the list of FLUID cells.
    void scatter(const double* from, bool compact, double* to) {
        be_.launch(map_pass(scatter_cells{layout_, kind_, fluid_cells(compact), from, to}, length(compact)));
    }
    void gather(const double* from, bool compact, double* to) {
        be_.launch(map_pass(gather_cells{layout_, fluid_cells(compact), from, to}, length(compact)));
    }

private:
    static constexpr std::int32_t part_length = 4096;

    void take_means_off(double* v, double* means, const double* instead) {
        const auto parts = static_cast<index>(parts_here_.size());
        be_.launch(part_sums(parts_.data, parts, cells_.data, v, sums_.data));
        be_.launch(component_means(begin_.data, first_.data, components_, sums_.data, means));
        be_.launch(
            take_means(parts_.data, parts, cells_.data, means, instead, instead ? 1 / from_.shift : 0.0, v));
    }

    void finish_single() {
        single_.a = {code_,
                     static_cast<float>(stencil_.scale),
                     static_cast<float>(stencil_.shift),
                     single_.w[0],
                     single_.w[1],
                     single_.w[2],
                     single_.excess,
                     single_.inverse};
    }
    template <class T>
    const T* sent(vec<T>& room, const T* host, index count) {
        if (room.size < count) room = be_.template allocate<T>(count);
        if (count > 0) be_.upload(host, room.slice(0, count));
        return room.data;
    }
    template <class T>
    void sent(vec<T>& room, const std::vector<T>& host) {
        sent(room, host.data(), static_cast<index>(host.size()));
    }
    std::int32_t position(index k) const {
        return static_cast<std::int32_t>(layout_.position(layout_.of_cell(static_cast<int>(k))));
    }

    void find_lists(const cpu::multigrid::poisson_grid& host) {
        components_ = host.floating_components();
        labels_.clear();
        have_fluid_ = false;
        labels_.resize(static_cast<std::size_t>(shape_.cells()));
        host.component_labels(labels_.data());
        if (components_ == 0) return;
        // By component, cells in their order: a counting sort.
        first_here_.assign(static_cast<std::size_t>(components_) + 1, 0);
        for (const std::int32_t label : labels_)
            if (label >= 0 && label < components_) ++first_here_[static_cast<std::size_t>(label) + 1];
        for (index c = 0; c < components_; ++c) first_here_[c + 1] += first_here_[c];
        std::vector<std::int32_t> next(first_here_.begin(), first_here_.end() - 1), begin{0};
        cells_here_.resize(static_cast<std::size_t>(first_here_.back()));
        for (index k = 0; k < shape_.cells(); ++k) {
            const std::int32_t label = labels_[static_cast<std::size_t>(k)];
            if (label >= 0 && label < components_) cells_here_[next[label]++] = position(k);
        }
        parts_here_.clear();
        for (std::int32_t c = 0; c < components_; ++c) {
            for (std::int32_t from = first_here_[c]; from < first_here_[c + 1]; from += part_length)
                parts_here_.push_back({from, std::min(from + part_length, first_here_[c + 1]), c});
            begin.push_back(static_cast<std::int32_t>(parts_here_.size()));
        }
        sent(cells_, cells_here_);
        sent(parts_, parts_here_);
        sent(begin_, begin);
        sent(first_, first_here_);
        const auto parts = static_cast<index>(parts_here_.size());
        if (sums_.size < parts) sums_ = be_.template allocate<double>(parts);
        for (auto* list : {&means_, &kept_})
            if (list->size < components_) *list = be_.template allocate<double>(components_);
    }
    const std::int32_t* fluid_cells(bool compact) {
        if (!compact) return nullptr;
        if (!have_fluid_) {
            std::vector<std::int32_t> list;
            for (index k = 0; k < shape_.cells(); ++k)
                if (labels_[static_cast<std::size_t>(k)] >= 0) list.push_back(position(k));
            sent(fluid_, list);
            have_fluid_ = true;
        }
        return fluid_.data;
    }

    Be& be_;
    aitken::multigrid::box box_;
    level_shape shape_;
    grid_layout layout_;
    index n_fluid_ = 0, components_ = 0;
    std::uint8_t *kind_ = nullptr, *code_ = nullptr;
    std::array<double*, 3> w_{};
    double* excess_ = nullptr;
    grid_stencil<double> stencil_{};
    grid_level single_{};
    finest_faces from_{};
    vec<std::uint8_t> flags_;
    std::array<vec<double>, 3> faces_;
    vec<double> part_, sums_, means_, kept_;
    std::vector<std::int32_t> labels_, first_here_, cells_here_;
    std::vector<component_part> parts_here_;
    vec<std::int32_t> cells_, begin_, first_, fluid_;
    vec<component_part> parts_;
    bool have_fluid_ = false;
};

// Levels of up to this many cells (128^2, 25^3) are one block's: a pass there costs about what a launch does.
inline constexpr index cells_of_one_block = 16384;

// The levels of a cycle; `grid` outlives them.
template <class Be>
class device_levels {
public:
    device_levels(Be& be, device_grid<Be>& grid, const aitken::multigrid::cycle_options& options)
        : be_(be), grid_(grid), plan_(drivers::multigrid::plan_levels(grid.box())) {
        const bool learned = options.learned.ndim > 0;
        const int first_axis = grid.first_axis();
        for (std::size_t l = 0; l < plan_.size(); ++l) {
            const level_plan& s = plan_[l];
            grid_level& v = levels_.emplace_back();
            if (l == 0) {
                v = grid.single();
            } else {
                v.at = lay_out_grid(s, grid.box());
                for (int a = first_axis; a < 3; ++a) {
                    v.w[a] = padded_room<float>(be_, s);
                    v.open[a] = padded_room<float>(be_, s);
                    v.face[a] = send_single(s.face[a]);
                }
                for (float** p : {&v.volume, &v.excess, &v.inverse}) *p = padded_room<float>(be_, s);
                v.a = {nullptr, 0, 0, v.w[0], v.w[1], v.w[2], v.excess, v.inverse};
            }
            for (int a = first_axis; a < 3; ++a) v.exterior[a] = send_single(s.exterior[a]);
            for (int a = 0; a < 3; ++a) v.halved[a] = s.halved[a] ? 1 : 0;
            if (!learned) continue;
            for (int a = first_axis; l > 0 && a < 3; ++a)
                for (int side = 0; plan_[l - 1].halved[a] && side < 2; ++side)
                    v.sides[a][side] = padded_room<float>(be_, s);
            if (s.last) continue;
            if (l == 0) v.inverse = padded_room<float>(be_, s);  // the grid's serves other cycles, too
            for (float** p : {&v.phi, &v.constant, &v.linear}) *p = padded_room<float>(be_, s);
        }
        const index dense = plan_.back().cells();
        if (dense > invert_coarsest::most) throw std::logic_error("the coarsest level is not small");
        inverse_ = be_.template allocate<double>(dense * dense);
        table_ = be_.template allocate<grid_level>(static_cast<index>(levels_.size()));
        if (learned) prepare_network(options.learned);
    }

    // After the grid's update: O(cells), no allocation. Per level 2 launches, and 1 for the coarsest inverse;
    // learned 3 + 2 axes more. No read.
    void update() {
        grid_level& finest = levels_[0];
        float* const inverse = finest.inverse;
        finest.a = grid_.single().a;
        const bool learns = learned() && count() > 1;
        for (int l = 1; l < count(); ++l) {
            const index cells = plan_[l].cells();
            be_.launch(map_pass(coarsen_level{faces_of(l - 1), levels_[l]}, cells));
            be_.launch(map_pass(finish_level{levels_[l], static_cast<float>(grid_.faces().shift)}, cells));
        }
        // A small shift of a floating component counts as none: the cycle treats what is constant there.
        be_.launch(invert_coarsest{faces_of(count() - 1), grid_.shifted() ? 1e-5 : 1e-10, inverse_.data});
        if (learns)
            for (int l = 0; l + 1 < count(); ++l) {
                learn(l);
                be_.launch(map_pass(open_sides{levels_[l + 1]}, plan_[l + 1].cells()));
            }
        if (learns) finest.a.inverse = inverse;  // from here on with the smoother's field in it
        be_.upload(levels_.data(), table_);
    }

    device_grid<Be>& grid() { return grid_; }
    int count() const { return static_cast<int>(plan_.size()); }
    const level_shape& shape(int l) const { return plan_[static_cast<std::size_t>(l)]; }
    const grid_level& at(int l) const { return levels_[static_cast<std::size_t>(l)]; }
    const grid_level* table() const { return table_.data; }
    const double* coarsest_inverse() const { return inverse_.data; }
    bool learned() const { return weights_.size > 0; }

private:
    level_faces faces_of(int l) const { return {at(l), grid_.faces()}; }
    const float* send_single(const std::vector<double>& factors) {
        return sent(be_, std::vector<float>(factors.begin(), factors.end())).data;
    }

    // Weights as learn_fields reads them: channels last.
    void prepare_network(const aitken::multigrid::learned_weights& w) {
        constexpr std::size_t channels = learn_fields::channels, features = learn_fields::features;
        const std::size_t taps = w.ndim == 3 ? 27 : 9;
        if (w.w1.size() != channels * features * taps || w.b1.size() != channels ||
            w.w2.size() != channels * channels || w.b2.size() != channels || w.w3.size() != 3 * channels ||
            w.b3.size() != 3)
            throw std::invalid_argument("the weights of the model do not fit each other");
        std::vector<float> all;
        for (std::size_t p = 0; p < features * taps; ++p)
            for (std::size_t o = 0; o < channels; ++o) all.push_back(w.w1[o * features * taps + p]);
        all.insert(all.end(), w.b1.begin(), w.b1.end());
        for (std::size_t p = 0; p < channels; ++p)
            for (std::size_t o = 0; o < channels; ++o) all.push_back(w.w2[o * channels + p]);
        all.insert(all.end(), w.b2.begin(), w.b2.end());
        for (std::size_t p = 0; p < channels; ++p)
            for (std::size_t o = 0; o < 3; ++o) all.push_back(w.w3[o * channels + p]);
        all.insert(all.end(), w.b3.begin(), w.b3.end());
        weights_ = sent(be_, all);
        for (auto& plane : planes_) plane = be_.template allocate<float>(plan_[0].cells());
    }

    void learn(int l) {
        const level_shape& s = shape(l);
        double children = 1, reference = 0;
        for (int a = 0; a < 3; ++a) {
            children *= std::ldexp(1.0, s.times[a]);
            if (a >= grid_.first_axis()) reference += 2 * s.weight[a];
        }
        const index cells = s.cells();
        be_.launch(map_pass(level_features{faces_of(l), static_cast<float>(children),
                                           static_cast<float>(reference), planes_[0].data, planes_[1].data},
                            cells));
        const std::array<int, 3> stride{static_cast<int>(s.n[1] * s.n[2]), static_cast<int>(s.n[2]), 1};
        for (const int reach : {1, 2}) {
            const float* from = planes_[0].data;
            for (int a = grid_.first_axis(); a < 3; ++a) {
                float* const to = a == 2 ? planes_[1 + reach].data : planes_[4 + a].data;
                be_.launch(
                    map_pass(means_along{stride[a], static_cast<int>(s.n[a]), reach, from, to}, cells));
                from = to;
            }
        }
        learn_fields network{};
        network.f = at(l);
        network.weights = weights_.data;
        for (int p = 0; p < learn_fields::features; ++p) network.plane[p] = planes_[p].data;
        network.count = static_cast<int>(weights_.size);
        be_.launch(network);
    }

    Be& be_;
    device_grid<Be>& grid_;
    std::vector<level_plan> plan_;
    std::vector<grid_level> levels_;
    vec<grid_level> table_;
    vec<double> inverse_;
    vec<float> weights_;
    std::array<vec<float>, 6> planes_;  // four features, and room for means on the way
};

// What the driver of drivers/multigrid.hpp asks for, as a list of passes that `Sink` starts or records.
template <class Sink>
class cycle_kernels {
public:
    struct vectors {
        float *b = nullptr, *x = nullptr, *y = nullptr;
        bool from_zero = false;         // the iterate before the last is zero, whatever y holds
        const float* behind = nullptr;  // y lacks this correction
    };

    cycle_kernels(Sink& sink, std::vector<vectors> v, bool learned, int coarsest)
        : sink_(sink), v_(std::move(v)), learned_(learned), coarsest_(coarsest) {}

    int coarsest() const { return coarsest_; }
    void solve_from(int l, bool) { sink_.solve(l, v_); }

    void scale(int l, double step) {
        vectors& v = at(l);
        emit({pass::scale, l, v.b, nullptr, nullptr, nullptr, v.x, 0, static_cast<float>(step), nullptr});
        v.from_zero = true;
        v.behind = nullptr;
    }
    void step(int l, double momentum, double step) {
        vectors& v = at(l);
        const auto by = static_cast<float>(step);
        if (pending_ != nullptr) {  // the correction and the first sweep after it
            emit({pass::prolong_step, l, v.b, v.x, nullptr, pending_, v.y, 0, by, nullptr});
            v.behind = std::exchange(pending_, nullptr);
        } else {
            const float* old = momentum != 0 && !v.from_zero ? v.y : nullptr;
            const float* behind = momentum != 0 ? v.behind : nullptr;
            emit({pass::step, l, v.b, v.x, old, behind, v.y, static_cast<float>(momentum), by, nullptr});
            v.behind = nullptr;
        }
        v.from_zero = false;
        std::swap(v.x, v.y);
    }
    void restrict_residual(int l) {
        const vectors& v = at(l);
        float* const to = at(l + 1).b;
        if (!learned_) return emit({pass::restrict_const, l, v.b, v.x, nullptr, nullptr, to, 0, 0, nullptr});
        emit({pass::residual, l, v.b, v.x, nullptr, nullptr, v.y, 0, 0, nullptr});
        emit({pass::restrict_learned, l, nullptr, v.y, nullptr, nullptr, to, 0, 0, nullptr});
    }
    // The next sweep has no momentum (drivers/chebyshev.hpp) and takes the correction with it.
    void prolong(int l) {
        if (!learned_) {
            pending_ = at(l + 1).x;
            return;
        }
        emit({pass::prolong_learned, l, nullptr, nullptr, nullptr, at(l + 1).x, at(l).x, 0, 0, nullptr});
    }

    vectors& at(int l) { return v_[static_cast<std::size_t>(l)]; }
    const std::vector<vectors>& all() const { return v_; }

private:
    void emit(const cycle_pass& p) { sink_.emit(p); }
    Sink& sink_;
    std::vector<vectors> v_;
    bool learned_;
    int coarsest_;
    const float* pending_ = nullptr;
};

// The passes of the small levels, as a list for one block.
struct pass_recorder {
    std::vector<cycle_pass> list;
    const double* inverse;

    void emit(const cycle_pass& p) { list.push_back(p); }
    template <class Vectors>
    void solve(int l, std::vector<Vectors>& v) {
        const auto& at = v[static_cast<std::size_t>(l)];
        list.push_back({pass::solve, l, at.b, nullptr, nullptr, nullptr, at.x, 0, 0, inverse});
    }
};

// One cycle, as cpu::multigrid::cycle without its projection. With degree-3 smoothing a visit of a level
// above the single block's costs 7 launches, learned 7; all levels below one of them 1 launch, both visits of
// a W-cycle included; 4 more around it all. No read.
template <class Be>
class device_cycle {
    using kernels = cycle_kernels<device_cycle>;
    using recorded = cycle_kernels<pass_recorder>;

public:
    device_cycle(Be& be, device_grid<Be>& grid, const aitken::multigrid::cycle_options& options,
                 index small = cells_of_one_block)
        : be_(be),
          levels_(be, grid, options),
          smoothing_(drivers::multigrid::plan_smoothing(options, grid.box().ndim)),
          visits_(options.learned.ndim > 0 ? 1 : options.visits),
          norm_(be.scalar()) {
        if (options.visits < 1 || options.visits > 3)
            throw std::invalid_argument("`cycle` visits a level 1 to 3 times, not " +
                                        std::to_string(options.visits));
        if (options.learned.ndim != 0 && options.learned.ndim != grid.box().ndim)
            throw std::invalid_argument("the model was trained in " + std::to_string(options.learned.ndim) +
                                        " dimensions, the grid has " + std::to_string(grid.box().ndim));
        for (const auto* steps : {&smoothing_.before, &smoothing_.after})
            if (steps->front().momentum != 0) throw std::logic_error("the first sweep must be plain");
        first_ = levels_.count() - 1;
        while (first_ > 0 && levels_.shape(first_ - 1).cells() <= small) --first_;
        std::vector<typename kernels::vectors> v;
        for (int l = 0; l < levels_.count(); ++l) {
            auto& each = v.emplace_back();
            for (float** p : {&each.b, &each.x, &each.y}) *p = padded_room<float>(be_, levels_.shape(l));
        }
        record(v);
        kernels_.emplace_back(*this, v, levels_.learned(), first_);
        tail_there_ = sent(be_, tail_);
        update();
    }
    device_cycle(const device_cycle&) = delete;
    device_cycle& operator=(const device_cycle&) = delete;

    void update() { levels_.update(); }
    const device_levels<Be>& levels() const { return levels_; }
    int first_small_level() const { return first_; }

    // On padded vectors of equations.
    void apply(const double* r, double* z) {
        kernels& k = kernels_.front();
        device_grid<Be>& grid = levels_.grid();
        const index n = grid.size();
        // With a shift, what is constant on a floating component is solved for exactly: in single precision a
        // small one would drown all else.
        if (grid.shifted()) {
            if (spare_.size < n) spare_ = be_.template allocate<double>(n);
            be_.copy({r, n}, spare_.slice(0, n));
            r = spare_.data;
            grid.keep_means(spare_.data);
        }
        run_sums(be_, part_, length_sums(r), n, keep_length{norm_.address()});
        be_.launch(map_pass(narrow_residual{norm_.address(), r, k.at(0).b}, n));
        drivers::multigrid::cycle_driver<kernels>(k, smoothing_, visits_).run();
        be_.launch(map_pass(widen_solution{norm_.address(), k.at(0).x, grid.kinds(), z}, n));
        if (grid.shifted()) grid.solve_means(z);
    }

    // --- for the kernels ---

    void emit(const cycle_pass& p) {
        switch (p.what) {
            case pass::scale:
                return start<pass::scale>(p);
            case pass::step:
                return start<pass::step>(p);
            case pass::prolong_step:
                return start<pass::prolong_step>(p);
            case pass::restrict_const:
                return start<pass::restrict_const>(p);
            case pass::residual:
                return start<pass::residual>(p);
            case pass::restrict_learned:
                return start<pass::restrict_learned>(p);
            case pass::prolong_learned:
                return start<pass::prolong_learned>(p);
            case pass::solve:
                throw std::logic_error("the coarsest level is the single block's");
        }
    }
    template <class Vectors>
    void solve(int, std::vector<Vectors>&) {
        be_.launch(cycle_tail{levels_.table(), tail_there_.data, tail_there_.size});
    }

private:
    template <pass What>
    void start(const cycle_pass& p) {
        const level_pass<What> cells{levels_.at(p.level), levels_.at(p.level + 1), p};
        be_.launch(map_pass(cells, cells_of(What, cells.f, cells.c)));
    }

    // The passes from level `first_` on. In place of the driver's further visits there, which it leaves to
    // who does all levels below; in the end each level's iterate is where `v` then says.
    void record(std::vector<typename kernels::vectors>& v) {
        std::vector<typename recorded::vectors> small;
        for (const auto& each : v) small.push_back({each.b, each.x, each.y, false, nullptr});
        const int last = levels_.count() - 1;
        pass_recorder sink{{}, levels_.coarsest_inverse()};
        recorded k(sink, std::move(small), levels_.learned(), last);
        drivers::multigrid::cycle_driver<recorded> driver(k, smoothing_, visits_);
        const int times = first_ == 0 || first_ == last ? 1 : visits_;
        for (int visit = 0; visit < times; ++visit) driver.visit(first_, visit > 0);
        tail_ = std::move(sink.list);
        for (int l = first_; l <= last; ++l) {
            v[l].x = k.at(l).x;
            v[l].y = k.at(l).y;
        }
    }

    Be& be_;
    device_levels<Be> levels_;
    drivers::multigrid::smoothing smoothing_;
    int visits_, first_ = 0;
    scalar_ref norm_;
    vec<double> part_, spare_;
    std::vector<cycle_pass> tail_;
    vec<cycle_pass> tail_there_;
    std::vector<kernels> kernels_;  // one; made last
};

}  // namespace aitken::cuda
