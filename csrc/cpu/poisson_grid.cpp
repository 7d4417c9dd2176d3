#include "cpu/poisson_grid.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace aitken::cpu::multigrid {

host_grid::host_grid(const api::box& b) : box_(b), s_(drivers::multigrid::lay_out(b.n)) {
    for (int a = 0; a < 3; ++a) {
        if (box_.n[a] < 1) throw std::invalid_argument("a side of the grid has no cells");
        // A cell that is its own neighbour does not conduct.
        if (box_.n[a] == 1) box_.periodic[a] = false;
    }
    if (s_.size() + 2 * s_.guard() > std::numeric_limits<std::int32_t>::max())
        throw std::invalid_argument("the grid has more than 2^31 cells");
    kind_ = padded<std::uint8_t>(s_);
    if (box_.variable) {
        for (int a = 3 - std::max(box_.ndim, 2); a < 3; ++a) w_[a] = padded<double>(s_);
        excess_ = padded<double>(s_);
    } else {
        code_ = padded<std::uint8_t>(s_);
    }
    const index rows = s_.rows(), most_runs = rows * ((s_.n[2] + 1) / 2 + (box_.variable ? s_.n[2] / 2 : 0));
    row_first_.resize(static_cast<std::size_t>(rows) + 1);
    run_of_row_.resize(static_cast<std::size_t>(rows) + 1);
    for (auto* list : {&run_begin_, &run_end_, &parent_, &label_})
        list->resize(static_cast<std::size_t>(most_runs));
    touches_.resize(static_cast<std::size_t>(most_runs));
    floating_begin_.reserve(static_cast<std::size_t>(most_runs) + 1);
    fill_.reserve(static_cast<std::size_t>(most_runs) + 1);
    floating_cells_.resize(static_cast<std::size_t>(s_.cells()));
    open_.resize(static_cast<std::size_t>(s_.n[2]));
    open_of_axis_.resize(static_cast<std::size_t>(s_.n[2]));
    stencil_.axes = box_.ndim == 3 ? 3 : 2;
    for (int a = 0; a < 3; ++a) stencil_.w[a] = w_[a].data();
    stencil_.code = codes();
    stencil_.scale = box_.scale[2];
    stencil_.excess = excess_.data();
}

void host_grid::update(const api::coefficients& c) {
    ++version_;
    given_ = c;
    stencil_.shift = c.shift;
    find_kinds(c);
    if (box_.variable) {
        find_conductances();
    } else {
        find_codes();
        unit_ = std::max(box_.scale[2], c.shift);
    }
    find_components();
}

void host_grid::find_kinds(const api::coefficients& c) {
    index count = 0;
    for (index r = 0; r < s_.rows(); ++r) {
        std::uint8_t* kind = kind_.data() + s_.row_begin(r);
        row_first_[r] = count;
        if (c.flags == nullptr) {
            std::fill_n(kind, s_.n[2], static_cast<std::uint8_t>(equation));
            count += s_.n[2];
            continue;
        }
        const std::uint8_t* flag = c.flags + r * s_.n[2];
        unsigned worst = 0;
        for (index i = 0; i < s_.n[2]; ++i) {
            worst = std::max<unsigned>(worst, flag[i]);
            kind[i] = flag[i] == api::fluid ? equation : flag[i] == api::dirichlet ? held : nothing;
            count += kind[i] == equation;
        }
        if (worst > api::dirichlet)
            throw std::invalid_argument("`flags` holds " + std::to_string(worst) +
                                        "; 0 (FLUID), 1 (SOLID) and 2 (DIRICHLET) are known");
    }
    row_first_[s_.rows()] = n_fluid_ = count;
}

// A conducting face is one to a cell or an exterior that is not solid.
void host_grid::find_codes() {
    for_row_chunks(s_, [&](index first, index last) {
        for (index r = first; r < last; ++r) {
            for_spans(s_, box_.periodic, r, r + 1, [&](const aitken_grid_span& at) {
                const std::uint8_t* k = kind_.data();
                std::uint8_t* code = code_.data();
                for (index i = at.first; i < at.last; ++i) code[i] = 1;
                for (int a = stencil_.axes == 3 ? 0 : 1; a < 3; ++a) {
                    const index lo = at.lo[a], hi = at.hi[a];
#pragma GCC ivdep
                    for (index i = at.first; i < at.last; ++i)
                        code[i] = static_cast<std::uint8_t>(code[i] + (k[i + lo] != 0) + (k[i + hi] != 0));
                }
            });
            const index i0 = r / s_.n[1], i1 = r % s_.n[1], begin = s_.row_begin(r), n = s_.n[2];
            std::uint8_t* code = code_.data() + begin;
            const std::uint8_t* k = kind_.data() + begin;
            int more = 0;
            if (!box_.periodic[0])
                more += (i0 == 0 && given_.open[0][0]) + (i0 == s_.n[0] - 1 && given_.open[0][1]);
            if (!box_.periodic[1])
                more += (i1 == 0 && given_.open[1][0]) + (i1 == s_.n[1] - 1 && given_.open[1][1]);
            if (more > 0)
                for (index i = 0; i < n; ++i) code[i] = static_cast<std::uint8_t>(code[i] + more);
            if (!box_.periodic[2]) {
                code[0] = static_cast<std::uint8_t>(code[0] + given_.open[2][0]);
                code[n - 1] = static_cast<std::uint8_t>(code[n - 1] + given_.open[2][1]);
            }
            const std::uint8_t least = given_.shift > 0 ? 1 : 2;  // without any term there is no equation
            for (index i = 0; i < n; ++i) code[i] = k[i] == equation && code[i] >= least ? code[i] : 0;
        }
    });
}

double host_grid::face(int axis, index i0, index i1, index i2, bool upper) const {
    const double* f = given_.faces[axis];
    if (f == nullptr) return 1;
    const std::array<index, 3> i{i0 + (axis == 0 && upper), i1 + (axis == 1 && upper),
                                 i2 + (axis == 2 && upper)};
    const index m1 = s_.n[1] + (axis == 1), m2 = s_.n[2] + (axis == 2);
    return f[(i[0] * m1 + i[1]) * m2 + i[2]];
}

// Padded position of a neighbour, or -1 beyond the box.
index host_grid::neighbour(int axis, index i0, index i1, index i2, bool upper) const {
    std::array<index, 3> i{i0, i1, i2};
    i[axis] += upper ? 1 : -1;
    if (i[axis] < 0 || i[axis] >= s_.n[axis]) {
        if (!box_.periodic[axis]) return -1;
        i[axis] = upper ? 0 : s_.n[axis] - 1;
    }
    return i[0] * s_.plane + i[1] * s_.row + i[2];
}

double host_grid::open_conductance(int axis, index i0, index i1, index i2) const {
    double sum = 0;
    for (const bool upper : {false, true}) {
        const index j = neighbour(axis, i0, i1, i2, upper);
        if (j < 0 ? given_.open[axis][upper] : kind_[j] == held)
            sum += box_.scale[axis] * face(axis, i0, i1, i2, upper);
    }
    return sum;
}

void host_grid::find_conductances() {
    double largest = 0;
    for (index r = 0; r < s_.rows(); ++r) {
        const index i0 = r / s_.n[1], i1 = r % s_.n[1], begin = s_.row_begin(r);
        for (index i2 = 0; i2 < s_.n[2]; ++i2) {
            const index i = begin + i2;
            double sum = 0;
            for (int a = stencil_.axes == 3 ? 0 : 1; a < 3; ++a) {
                const index j = neighbour(a, i0, i1, i2, false);
                const bool joined = kind_[i] == equation && j >= 0 && kind_[j] == equation;
                w_[a][i] = joined ? box_.scale[a] * face(a, i0, i1, i2, false) : 0.0;
                if (kind_[i] == equation) sum += open_conductance(a, i0, i1, i2);
            }
            excess_[i] = kind_[i] == equation ? sum + given_.shift : 0.0;
            largest =
                std::max({largest, w_[0].data() == nullptr ? 0.0 : w_[0][i], w_[1][i], w_[2][i], excess_[i]});
        }
    }
    unit_ = largest > 0 ? largest : 1;
}

std::int32_t host_grid::root_of(std::int32_t run) {
    while (parent_[run] != run) run = parent_[run] = parent_[parent_[run]];
    return run;
}

void host_grid::join(std::int32_t a, std::int32_t b) {
    a = root_of(a);
    b = root_of(b);
    if (a == b) return;
    if (b < a) std::swap(a, b);
    parent_[b] = a;
    touches_[a] = static_cast<char>(touches_[a] | touches_[b]);
}

// Joins the runs of two rows that meet; `wraps`: the face between them is the lower one of `other`'s cells.
void host_grid::join_rows(index row, index other, int axis, bool wraps) {
    const double* w = box_.variable ? w_[axis].data() + s_.row_begin(wraps ? other : row) : nullptr;
    auto a = static_cast<std::int32_t>(run_of_row_[row]), b = static_cast<std::int32_t>(run_of_row_[other]);
    while (a < run_of_row_[row + 1] && b < run_of_row_[other + 1]) {
        const std::int32_t from = std::max(run_begin_[a], run_begin_[b]),
                           to = std::min(run_end_[a], run_end_[b]);
        bool meet = from < to && w == nullptr;
        for (std::int32_t i = from; i < to && !meet; ++i) meet = w[i] > 0;
        if (meet) join(a, b);
        run_end_[a] < run_end_[b] ? ++a : ++b;
    }
}

// Union-find over runs instead of cells.
void host_grid::find_components() {
    const index n = s_.n[2];
    const int from = stencil_.axes == 3 ? 0 : 1;
    std::int32_t runs = 0;
    for (index r = 0; r < s_.rows(); ++r) {
        run_of_row_[r] = runs;
        const index begin = s_.row_begin(r);
        const std::uint8_t* kind = kind_.data() + begin;
        const double* w = box_.variable ? w_[2].data() + begin : nullptr;
        std::fill(open_.begin(), open_.end(), 0.0f);
        for (int a = from; a < 3; ++a) {
            open_faces(a, r, open_of_axis_.data());
            for (index i = 0; i < n; ++i) open_[i] += open_of_axis_[i];
        }
        for (index i = 0; i < n;) {
            if (kind[i] != equation) {
                ++i;
                continue;
            }
            index end = i + 1;
            while (end < n && kind[end] == equation && (w == nullptr || w[end] > 0)) ++end;
            const bool open =
                std::any_of(open_.begin() + i, open_.begin() + end, [](float w) { return w > 0; });
            run_begin_[runs] = static_cast<std::int32_t>(i);
            run_end_[runs] = static_cast<std::int32_t>(end);
            parent_[runs] = runs;
            touches_[runs] = open;
            ++runs;
            i = end;
        }
    }
    run_of_row_[s_.rows()] = runs;

    for (index r = 0; r < s_.rows(); ++r) {
        const index i0 = r / s_.n[1], i1 = r % s_.n[1], first = run_of_row_[r], end = run_of_row_[r + 1];
        if (i1 > 0) join_rows(r, r - 1, 1, false);
        if (i0 > 0) join_rows(r, r - s_.n[1], 0, false);
        if (i1 == s_.n[1] - 1 && box_.periodic[1]) join_rows(r, r - i1, 1, true);
        if (i0 == s_.n[0] - 1 && box_.periodic[0]) join_rows(r, i1, 0, true);
        if (box_.periodic[2] && end > first && run_begin_[first] == 0 && run_end_[end - 1] == n &&
            (!box_.variable || w_[2][s_.row_begin(r)] > 0))
            join(static_cast<std::int32_t>(first), static_cast<std::int32_t>(end - 1));
    }

    // Floating components first, each group in the order of the cells.
    index cells = 0;
    floating_begin_.assign(1, 0);
    fill_.clear();
    components_ = 0;
    for (const bool open : {false, true})
        for (std::int32_t run = 0; run < runs; ++run)
            if (parent_[run] == run && (touches_[run] != 0) == open)
                label_[run] = static_cast<std::int32_t>(components_++);
    for (std::int32_t run = 0; run < runs; ++run) label_[run] = label_[root_of(run)];
    index floating = 0;
    for (std::int32_t run = 0; run < runs; ++run)
        if (parent_[run] == run && touches_[run] == 0) ++floating;
    if (floating == 0) return;
    fill_.assign(static_cast<std::size_t>(floating), 0);
    for (std::int32_t run = 0; run < runs; ++run)
        if (label_[run] < floating) fill_[label_[run]] += run_end_[run] - run_begin_[run];
    for (index& count : fill_) {
        cells += count;
        count = cells - count;
        floating_begin_.push_back(cells);
    }
    for (index r = 0; r < s_.rows(); ++r)
        for (index run = run_of_row_[r]; run < run_of_row_[r + 1]; ++run) {
            if (label_[run] >= floating) continue;
            index& at = fill_[label_[run]];
            for (std::int32_t i = run_begin_[run]; i < run_end_[run]; ++i)
                floating_cells_[at++] = static_cast<std::int32_t>(s_.row_begin(r) + i);
        }
}

double host_grid::project(double* v) const {
    return singular_components() > 0 ? take_means(v, nullptr) : 0.0;
}

double host_grid::take_means(double* v, double* means) const {
    constexpr index share = 8192;
    double taken2 = 0;
    for (index c = 0; c < floating_components(); ++c) {
        const std::int32_t* cells = floating_cells_.data() + floating_begin_[c];
        const index n = floating_begin_[c + 1] - floating_begin_[c], chunks = (n + share - 1) / share;
        constexpr index group = 64;  // partial sums held at a time
        double sum = 0;
        for (index g = 0; g < chunks; g += group) {
            std::array<double, group> partial{};
            const index here = std::min(group, chunks - g);
            const auto add = [&](index k) {
                const index from = (g + k) * share, to = std::min(from + share, n);
                double lanes[4] = {};
                for (index i = from; i < to; ++i) lanes[i % 4] += v[cells[i]];
                partial[k] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
            };
            if (here < 4)
                for (index k = 0; k < here; ++k) add(k);
            else
                parallel_chunks(here, add);
            for (index k = 0; k < here; ++k) sum += partial[k];
        }
        const double mean = sum / static_cast<double>(n);
        if (means != nullptr) means[c] = mean;
        raise(c, -mean, v);
        taken2 += mean * mean * static_cast<double>(n);
    }
    return std::sqrt(taken2);
}

void host_grid::raise(index component, double by, double* v) const {
    constexpr index share = 8192;
    const std::int32_t* cells = floating_cells_.data() + floating_begin_[component];
    const index n = floating_begin_[component + 1] - floating_begin_[component];
    const index chunks = (n + share - 1) / share;
    const auto add = [&](index k) {
        for (index i = k * share; i < std::min((k + 1) * share, n); ++i) v[cells[i]] += by;
    };
    if (chunks < 4)
        for (index k = 0; k < chunks; ++k) add(k);
    else
        parallel_chunks(chunks, add);
}

void host_grid::component_labels(std::int32_t* full) const {
    std::fill_n(full, s_.cells(), -1);
    for (index r = 0; r < s_.rows(); ++r)
        for (index run = run_of_row_[r]; run < run_of_row_[r + 1]; ++run)
            std::fill(full + r * s_.n[2] + run_begin_[run], full + r * s_.n[2] + run_end_[run], label_[run]);
}

void host_grid::scatter(const double* from, bool compact, double* to) const {
    for_row_chunks(s_, [&](index first, index last) {
        for (index r = first; r < last; ++r) {
            const std::uint8_t* kind = kind_.data() + s_.row_begin(r);
            double* out = to + s_.row_begin(r);
            if (compact) {
                const double* next = from + row_first_[r];
                for (index i = 0; i < s_.n[2]; ++i) out[i] = kind[i] == equation ? *next++ : 0.0;
            } else {
                const double* in = from + r * s_.n[2];
                for (index i = 0; i < s_.n[2]; ++i) out[i] = kind[i] == equation ? in[i] : 0.0;
            }
        }
    });
}

void host_grid::gather(const double* from, bool compact, double* to) const {
    for_row_chunks(s_, [&](index first, index last) {
        for (index r = first; r < last; ++r) {
            const std::uint8_t* kind = kind_.data() + s_.row_begin(r);
            const double* in = from + s_.row_begin(r);
            if (compact) {
                double* next = to + row_first_[r];
                for (index i = 0; i < s_.n[2]; ++i)
                    if (kind[i] == equation) *next++ = in[i];
            } else {
                double* out = to + r * s_.n[2];
                for (index i = 0; i < s_.n[2]; ++i) out[i] = kind[i] == equation ? in[i] : 0.0;
            }
        }
    });
}

// Per cell 17 bytes (1 + 8 read, 8 written) with codes, 40 or 48 without; 2 d + 2 flops.
void host_grid::apply(const double* x, double* y) const {
    for_row_chunks(s_, [&](index first, index last) {
        for_spans(s_, box_.periodic, first, last,
                  [&](const aitken_grid_span& at) { simd().grid_apply_f64(&stencil_, &at, x, y); });
    });
}

double host_grid::apply_dot(const double* x, double* y) const {
    apply(x, y);
    return padded_dot(s_, x, y);
}

void host_grid::diagonal(double* out) const {
    for_row_chunks(s_, [&](index first, index last) {
        for (index r = first; r < last; ++r)
            for_spans(s_, box_.periodic, r, r + 1, [&](const aitken_grid_span& at) {
                for (index i = at.first; i < at.last; ++i) {
                    if (!box_.variable) {
                        out[i] = code_[i] == 0 ? 0.0 : stencil_.scale * (code_[i] - 1) + stencil_.shift;
                        continue;
                    }
                    double sum = excess_[i];
                    for (int a = stencil_.axes == 3 ? 0 : 1; a < 3; ++a)
                        sum += w_[a][i] + w_[a][i + at.hi[a]];
                    out[i] = sum;
                }
            });
    });
}

void host_grid::lower_faces(int axis, index row, float* out) const {
    const index begin = s_.row_begin(row), n = s_.n[2];
    if (box_.variable) {
        const double* w = w_[axis].data() + begin;
        for (index i = 0; i < n; ++i) out[i] = static_cast<float>(w[i] / unit_);
        return;
    }
    const index i0 = row / s_.n[1], i1 = row % s_.n[1];
    aitken_grid_span at;
    set_distances(at, s_, box_.periodic, axis, axis == 0 ? i0 : axis == 1 ? i1 : 1);
    const auto scale = static_cast<float>(box_.scale[axis] / unit_);
    const std::uint8_t* kind = kind_.data() + begin;
    const index lo = at.lo[axis];
    for (index i = 0; i < n; ++i) out[i] = kind[i] == equation && kind[i + lo] == equation ? scale : 0.0f;
    if (axis == 2) {
        const bool wraps = box_.periodic[2] && kind[0] == equation && kind[n - 1] == equation;
        out[0] = wraps ? scale : 0.0f;
    }
}

void host_grid::open_faces(int axis, index row, float* out) const {
    const index begin = s_.row_begin(row), n = s_.n[2], i0 = row / s_.n[1], i1 = row % s_.n[1];
    const std::uint8_t* kind = kind_.data() + begin;
    if (box_.variable) {
        for (index i = 0; i < n; ++i)
            out[i] =
                kind[i] == equation ? static_cast<float>(open_conductance(axis, i0, i1, i) / unit_) : 0.0f;
        return;
    }
    const auto scale = static_cast<float>(box_.scale[axis] / unit_);
    aitken_grid_span at;
    const index position = axis == 0 ? i0 : axis == 1 ? i1 : 1;
    set_distances(at, s_, box_.periodic, axis, position);
    const index lo = at.lo[axis], hi = at.hi[axis];
    const bool edges = axis < 2 && !box_.periodic[axis];
    const int more =
        edges ? (position == 0 && given_.open[axis][0]) + (position == s_.n[axis] - 1 && given_.open[axis][1])
              : 0;
    for (index i = 0; i < n; ++i) {
        const int faces = (kind[i + lo] == held) + (kind[i + hi] == held) + more;
        out[i] = kind[i] == equation ? scale * static_cast<float>(faces) : 0.0f;
    }
    if (axis == 2)
        for (const index i : {index{0}, n - 1})
            out[i] = kind[i] == equation ? static_cast<float>(open_conductance(2, i0, i1, i) / unit_) : 0.0f;
}

void host_grid::volumes(index row, float* out) const {
    const index begin = s_.row_begin(row);
    for_spans(s_, box_.periodic, row, row + 1, [&](const aitken_grid_span& at) {
        for (index i = at.first; i < at.last; ++i) {
            bool there = box_.variable ? excess_[i] > 0 : code_[i] != 0;
            for (int a = stencil_.axes == 3 ? 0 : 1; box_.variable && a < 3; ++a)
                there |= w_[a][i] > 0 || w_[a][i + at.hi[a]] > 0;
            out[i - begin] = there ? 1.0f : 0.0f;
        }
    });
}

std::shared_ptr<poisson_grid> make_grid(const api::box& b) { return std::make_shared<host_grid>(b); }

namespace {

class grid_map final : public linear_map<double> {
public:
    explicit grid_map(std::shared_ptr<const poisson_grid> grid) : grid_(std::move(grid)) {}
    using linear_map<double>::apply;
    index size() const override { return grid_->size(); }
    void apply(tall<const double> x, tall<double> y) override {
        for (index j = 0; j < x.cols; ++j) grid_->apply(x.col(j), y.col(j));
    }

private:
    std::shared_ptr<const poisson_grid> grid_;
};

}  // namespace

std::unique_ptr<linear_map<double>> make_grid_map(std::shared_ptr<const poisson_grid> grid) {
    return std::make_unique<grid_map>(std::move(grid));
}

}  // namespace aitken::cpu::multigrid
