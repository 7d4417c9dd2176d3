// The kernels of grids with obstacles and of their multigrid as block programs. Vectors are padded as on the
// CPU (core/api/multigrid.hpp): where nothing wraps around, a thread needs no coordinates to find neighbours.
//
// A cycle is a list of passes. Each is a kernel of its own on large levels; on the small ones a single block
// walks the list, recursion and all, with a barrier after every pass.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/views.hpp"
#include "cuda/program.hpp"
#include "cuda/vector_blocks.hpp"

namespace aitken::cuda {

// --- where cells are -----------------------------------------------------------------------------

struct grid_cell {
    int i0, i1, i2;
};

// From a cell to its lower and upper neighbours.
struct grid_reach {
    int l0, h0, l1, h1, l2, h2;
};

struct grid_layout {
    int n0, n1, n2, row, plane, size, axes;
    bool wraps0, wraps1, wraps2;

    AITKEN_HD int cells() const { return n0 * n1 * n2; }
    AITKEN_HD int side(int axis) const { return axis == 0 ? n0 : axis == 1 ? n1 : n2; }
    AITKEN_HD bool wraps(int axis) const { return axis == 0 ? wraps0 : axis == 1 ? wraps1 : wraps2; }
    AITKEN_HD grid_cell of_cell(int k) const { return {k / n2 / n1, k / n2 % n1, k % n2}; }
    AITKEN_HD grid_cell of_position(int i) const { return {i / plane, i % plane / row, i % plane % row}; }
    AITKEN_HD int position(const grid_cell& c) const { return c.i0 * plane + c.i1 * row + c.i2; }
    AITKEN_HD bool inside(const grid_cell& c) const { return c.i0 < n0 && c.i1 < n1 && c.i2 < n2; }

    AITKEN_HD grid_reach reach(const grid_cell& c) const {
        return {wraps0 && c.i0 == 0 ? (n0 - 1) * plane : -plane,
                wraps0 && c.i0 == n0 - 1 ? -(n0 - 1) * plane : plane,
                wraps1 && c.i1 == 0 ? (n1 - 1) * row : -row,
                wraps1 && c.i1 == n1 - 1 ? -(n1 - 1) * row : row,
                wraps2 && c.i2 == 0 ? n2 - 1 : -1,
                wraps2 && c.i2 == n2 - 1 ? 1 - n2 : 1};
    }
};

// --- the operator --------------------------------------------------------------------------------

// As aitken_grid_f64 and aitken_grid_f32 of the CPU: codes (1 + conducting faces, 0 without equation), or
// conductances of lower faces and what the diagonal has beyond their sum.
template <class T>
struct grid_stencil {
    const std::uint8_t* code;
    T scale, shift;
    const T *w0, *w1, *w2, *excess;
    const T* inverse;  // of the diagonal; with codes it may be null, as in double precision

    AITKEN_HD T degree(int i) const { return scale * (static_cast<T>(code[i]) - T(1)) + shift; }
    // These need codes or inverses.
    AITKEN_HD bool active(int i) const { return code ? code[i] != 0 : inverse[i] != 0; }
    AITKEN_HD T own(int i) const {  // the diagonal
        if (!active(i)) return T(0);
        return code ? degree(i) : T(1) / inverse[i];
    }
    AITKEN_HD T inverse_at(int i) const {
        if (inverse) return inverse[i];
        return code[i] != 0 ? T(1) / degree(i) : T(0);
    }
};

// (A x)_i where at(j, k) is x_j, and k = 0 .. 5 says which neighbour j is: l0, h0, l1, h1, l2, h2. With
// conductances in differences: what is constant gives nothing but rounding of itself, however large it is.
template <class T, class At>
AITKEN_HD T grid_product(const grid_layout& g, const grid_stencil<T>& s, const grid_reach& to, int i, T own,
                         const At& at) {
    if (s.code) {
        if (s.code[i] == 0) return T(0);
        T sum = (at(i + to.l1, 2) + at(i + to.h1, 3)) + (at(i + to.l2, 4) + at(i + to.h2, 5));
        if (g.axes == 3) sum += at(i + to.l0, 0) + at(i + to.h0, 1);
        return s.degree(i) * own - s.scale * sum;
    }
    T sum = s.excess[i] * own;
    if (g.axes == 3) sum += s.w0[i] * (own - at(i + to.l0, 0)) + s.w0[i + to.h0] * (own - at(i + to.h0, 1));
    sum += s.w1[i] * (own - at(i + to.l1, 2)) + s.w1[i + to.h1] * (own - at(i + to.h1, 3));
    return sum + (s.w2[i] * (own - at(i + to.l2, 4)) + s.w2[i + to.h2] * (own - at(i + to.h2, 5)));
}

template <class T>
struct stored_values {
    const T* x;
    AITKEN_HD T operator()(int j, int) const { return x[j]; }
};
template <class T>
AITKEN_HD T grid_product(const grid_layout& g, const grid_stencil<T>& s, int i, const T* x) {
    const stored_values<T> at{x};
    if (!g.wraps0 && !g.wraps1 && !g.wraps2)
        return grid_product(g, s, {-g.plane, g.plane, -g.row, g.row, -1, 1}, i, x[i], at);
    const grid_cell c = g.of_position(i);
    return g.inside(c) ? grid_product(g, s, g.reach(c), i, x[i], at) : T(0);
}

// y = A x; 17 bytes a cell with codes, 40 or 48 without, 2 d + 2 flops.
struct apply_grid {
    grid_layout g;
    grid_stencil<double> s;
    const double* x;
    double* y;
    AITKEN_HD void operator()(index at) const {
        const int i = static_cast<int>(at);
        y[i] = grid_product(g, s, i, x);
    }
};

// --- levels --------------------------------------------------------------------------------------

struct grid_level {
    grid_layout at;
    grid_stencil<float> a;
    float* w[3];     // of lower faces
    float* open[3];  // towards p = 0 along each axis
    float *volume, *excess, *inverse;
    // Learned: the smoother's part, what comes from the parent, and how far towards the parent's neighbours.
    float *phi, *constant, *linear;
    float* sides[3][2];        // a quarter of how open each side of a cell is, for interpolation from here
    const float* face[3];      // factors of sums of finer conductances, by the position along the axis
    const float* exterior[3];  // likewise of `open`, in the diagonal
    int halved[3];             // towards the next level

    // Where the coarse cell of a fine one lies on `coarse`. Also for -1, beyond the box.
    AITKEN_HD int parent(const grid_layout& coarse, int i0, int i1, int i2) const {
        return (i0 >> halved[0]) * coarse.plane + (i1 >> halved[1]) * coarse.row + (i2 >> halved[2]);
    }
};

// --- the passes of a cycle -----------------------------------------------------------------------

enum class pass : int {
    scale,             // y = step D^-1 b
    step,              // y = x + momentum (x - x-) + step D^-1 (b - A x)
    prolong_step,      // the same without momentum at x + P e
    restrict_const,    // y = P' (b - A x), by coarse cells
    residual,          // y = b - A x
    restrict_learned,  // y = P' x, by coarse cells
    prolong_learned,   // y += P e, interpolated
    solve              // y = dense b
};

struct cycle_pass {
    pass what;
    int level;
    const float *b, *x;
    const float* old;  // x-; null: zero
    const float* e;    // on the next level; in a step with momentum x- lacks P e, null: it has it
    float* y;
    float momentum, step;
    const double* dense;
};

// Cells that a pass goes over.
AITKEN_HD int cells_of(pass what, const grid_level& f, const grid_level& c) {
    if (what == pass::restrict_const || what == pass::restrict_learned) return c.at.size;
    return what == pass::solve ? f.at.cells() : f.at.size;
}

// x + P e around a cell: P gives every active fine cell the value of the coarse one.
struct corrected_values {
    const grid_stencil<float>& a;
    const float *x, *e;
    int parent[6];
    AITKEN_HD float operator()(int j, int k) const { return a.active(j) ? x[j] + e[parent[k]] : 0.0f; }
};

// fn(cell, position) for the children of a coarse cell; along `axis` only for the lower (side 0) or upper
// ones.
template <class Fn>
AITKEN_HD void for_children(const grid_level& f, const grid_cell& coarse, int axis, int side, const Fn& fn) {
    const int last[3] = {f.at.n0, f.at.n1, f.at.n2}, at[3] = {coarse.i0, coarse.i1, coarse.i2};
    int from[3], to[3];
    AITKEN_UNROLL
    for (int a = 0; a < 3; ++a) {
        from[a] = at[a] << f.halved[a];
        to[a] = from[a] + (1 << f.halved[a]);
        if (a == axis) (side == 0 ? to[a] : from[a]) = from[a] + 1;
        if (to[a] > last[a]) to[a] = last[a];
    }
    for (int i0 = from[0]; i0 < to[0]; ++i0)
        for (int i1 = from[1]; i1 < to[1]; ++i1)
            for (int i2 = from[2]; i2 < to[2]; ++i2) fn(grid_cell{i0, i1, i2}, f.at.position({i0, i1, i2}));
}

// b - A x at the children of a coarse cell, added up: each fine cell has one parent.
AITKEN_HD float restricted_residual(const grid_level& f, const cycle_pass& p, const grid_cell& coarse) {
    float sum = 0;
    for_children(f, coarse, -1, 0, [&](const grid_cell& cell, int i) {
        sum += p.b[i] - grid_product(f.at, f.a, f.at.reach(cell), i, p.x[i], stored_values<float>{p.x});
    });
    return sum;
}

// The transpose of prolong_learned: what children leave with their parent, and what the children of its
// neighbours send over.
AITKEN_HD float restricted_learned(const grid_level& f, const grid_level& c, const cycle_pass& p,
                                   const grid_cell& coarse) {
    const int own = c.at.position(coarse);
    float sum = 0;
    for_children(f, coarse, -1, 0, [&](const grid_cell& cell, int i) {
        float away = 0;
        if (f.halved[0]) away += c.sides[0][cell.i0 & 1][own];
        if (f.halved[1]) away += c.sides[1][cell.i1 & 1][own];
        if (f.halved[2]) away += c.sides[2][cell.i2 & 1][own];
        sum += (f.constant[i] - f.linear[i] * away) * p.x[i];
    });
    for (int a = 0; a < 3; ++a) {
        if (!f.halved[a]) continue;
        for (int side = 0; side < 2; ++side) {  // of the neighbour, towards this cell
            grid_cell other = coarse;
            int& at = a == 0 ? other.i0 : a == 1 ? other.i1 : other.i2;
            const int n = c.at.side(a);
            at += side == 0 ? 1 : -1;
            if (at < 0 || at == n) {
                if (!c.at.wraps(a)) continue;
                at = at < 0 ? n - 1 : 0;
            }
            float sent = 0;
            for_children(f, other, a, side, [&](const grid_cell&, int i) { sent += f.linear[i] * p.x[i]; });
            sum += c.sides[a][side][c.at.position(other)] * sent;
        }
    }
    return sum;
}

// What pass `What` does for its element i.
template <pass What>
AITKEN_HD void run_pass(const grid_level& f, const grid_level& c, const cycle_pass& p, int i) {
    if constexpr (What == pass::scale) {
        p.y[i] = p.step * f.a.inverse_at(i) * p.b[i];
    } else if constexpr (What == pass::step) {
        const float own = p.x[i];
        float move = p.step * f.a.inverse_at(i) * (p.b[i] - grid_product(f.at, f.a, i, p.x));
        if (p.momentum != 0) {
            float old = p.old ? p.old[i] : 0.0f;
            if (p.e && f.a.active(i)) {
                const grid_cell at = f.at.of_position(i);
                old += p.e[f.parent(c.at, at.i0, at.i1, at.i2)];
            }
            move = p.momentum * (own - old) + move;
        }
        p.y[i] = own + move;
    } else if constexpr (What == pass::prolong_step) {
        const grid_cell at = f.at.of_position(i);
        if (!f.at.inside(at)) return;
        if (!f.a.active(i)) {
            p.y[i] = 0;
            return;
        }
        const auto beside = [&](int axis, int by) {
            const int position = axis == 0 ? at.i0 : axis == 1 ? at.i1 : at.i2;
            if (!f.at.wraps(axis)) return position + by;
            const int n = f.at.side(axis);
            return position + by < 0 ? n - 1 : position + by == n ? 0 : position + by;
        };
        const corrected_values around{
            f.a,
            p.x,
            p.e,
            {f.parent(c.at, beside(0, -1), at.i1, at.i2), f.parent(c.at, beside(0, 1), at.i1, at.i2),
             f.parent(c.at, at.i0, beside(1, -1), at.i2), f.parent(c.at, at.i0, beside(1, 1), at.i2),
             f.parent(c.at, at.i0, at.i1, beside(2, -1)), f.parent(c.at, at.i0, at.i1, beside(2, 1))}};
        const float own = p.x[i] + p.e[f.parent(c.at, at.i0, at.i1, at.i2)];
        const float image = grid_product(f.at, f.a, f.at.reach(at), i, own, around);
        p.y[i] = own + p.step * f.a.inverse_at(i) * (p.b[i] - image);
    } else if constexpr (What == pass::restrict_const) {
        const grid_cell at = c.at.of_position(i);
        if (c.at.inside(at)) p.y[i] = restricted_residual(f, p, at);
    } else if constexpr (What == pass::residual) {
        p.y[i] = p.b[i] - grid_product(f.at, f.a, i, p.x);
    } else if constexpr (What == pass::restrict_learned) {
        const grid_cell at = c.at.of_position(i);
        if (c.at.inside(at)) p.y[i] = restricted_learned(f, c, p, at);
    } else if constexpr (What == pass::prolong_learned) {
        const grid_cell at = f.at.of_position(i);
        if (!f.at.inside(at)) return;
        const grid_cell above{at.i0 >> f.halved[0], at.i1 >> f.halved[1], at.i2 >> f.halved[2]};
        const int parent = c.at.position(above);
        const grid_reach to = c.at.reach(above);
        const float own = p.e[parent];
        float lean = 0;  // beyond the box lie zeros
        if (f.halved[0])
            lean += c.sides[0][at.i0 & 1][parent] * (p.e[parent + (at.i0 & 1 ? to.h0 : to.l0)] - own);
        if (f.halved[1])
            lean += c.sides[1][at.i1 & 1][parent] * (p.e[parent + (at.i1 & 1 ? to.h1 : to.l1)] - own);
        if (f.halved[2])
            lean += c.sides[2][at.i2 & 1][parent] * (p.e[parent + (at.i2 & 1 ? to.h2 : to.l2)] - own);
        p.y[i] += f.constant[i] * own + f.linear[i] * lean;
    } else {
        const int m = f.at.cells();
        double sum = 0;  // weakly held regions have huge entries, of which little may remain
        for (int q = 0; q < m; ++q)
            sum += p.dense[i * m + q] * static_cast<double>(p.b[f.at.position(f.at.of_cell(q))]);
        p.y[f.at.position(f.at.of_cell(i))] = static_cast<float>(sum);
    }
}

// One pass as a kernel: with codes 17 bytes a cell for a step, 12.5 + 4 / 2^d for the residual restricted.
template <pass What>
struct level_pass {
    grid_level f, c;
    cycle_pass p;
    AITKEN_HD void operator()(index i) const { run_pass<What>(f, c, p, static_cast<int>(i)); }
};

// All passes of the small levels by one block. Its vectors stay in the caches.
struct cycle_tail {
    static constexpr int threads = 1024, steps = 1, closings = 0;
    struct shared {};
    struct local {};
    const grid_level* levels;
    const cycle_pass* list;
    index count;

    index blocks() const { return 1; }
    AITKEN_HD void open(local&, place) const {}
    AITKEN_HD index rounds(place) const { return count; }

    template <int>
    AITKEN_HD void step(shared&, local&, place at, index round) const {
        const cycle_pass p = list[round];
        switch (p.what) {
            case pass::scale:
                return all<pass::scale>(p, at);
            case pass::step:
                return all<pass::step>(p, at);
            case pass::prolong_step:
                return all<pass::prolong_step>(p, at);
            case pass::restrict_const:
                return all<pass::restrict_const>(p, at);
            case pass::residual:
                return all<pass::residual>(p, at);
            case pass::restrict_learned:
                return all<pass::restrict_learned>(p, at);
            case pass::prolong_learned:
                return all<pass::prolong_learned>(p, at);
            case pass::solve:
                return all<pass::solve>(p, at);
        }
    }

private:
    template <pass What>
    AITKEN_HD void all(const cycle_pass& p, place at) const {
        // The last level has none below it, and no pass that looks there.
        const grid_level& f = levels[p.level];
        const grid_level& c = levels[p.level + (What == pass::solve ? 0 : 1)];
        const int last = cells_of(What, f, c);
        for (int i = at.thread; i < last; i += threads) run_pass<What>(f, c, p, i);
    }
};

// From and to the equations' vectors, r over its norm. What is too small to matter becomes 0, so that no
// denormal number is met.
struct narrow_residual {
    const double *norm, *r;
    float* to;
    AITKEN_HD void operator()(index i) const {
        const bool usable = *norm > 0 && *norm < infinity;
        const float value = usable ? static_cast<float>(r[i] * (1 / *norm)) : 0.0f;
        to[i] = std::fabs(value) > 1e-25f ? value : 0.0f;
    }
};
struct widen_solution {
    const double* norm;
    const float* x;
    const std::uint8_t* kind;
    double* to;
    AITKEN_HD void operator()(index i) const {
        const bool usable = *norm > 0 && *norm < infinity;
        const double other = *norm == 0 || kind[i] != 1 ? 0.0 : *norm;  // not a number
        to[i] = usable ? *norm * static_cast<double>(x[i]) : other;
    }
};

// --- set-up --------------------------------------------------------------------------------------

// What a cell is.
inline constexpr std::uint8_t grid_nothing = 0, grid_equation = 1, grid_held = 2;

struct load_kind {
    grid_layout g;
    const std::uint8_t* flags;  // by cell: 0 FLUID, 1 SOLID, 2 DIRICHLET; null: all FLUID
    std::uint8_t* kind;
    AITKEN_HD void operator()(index k) const {
        const int flag = flags ? flags[k] : 0;
        kind[g.position(g.of_cell(static_cast<int>(k)))] = flag == 0   ? grid_equation
                                                           : flag == 2 ? grid_held
                                                                       : grid_nothing;
    }
};

// The faces of the finest level as they are given.
struct finest_faces {
    grid_layout g;
    const std::uint8_t* kind;
    const double* given[3];  // null: 1
    double scale[3];
    bool open[3][2];
    double shift;

    // Conductance across a face of a cell, and how much of it leads to p = 0.
    struct pair {
        double joined, held;
    };
    AITKEN_HD pair face(int axis, const grid_cell& c, bool upper) const {
        if (kind[g.position(c)] != grid_equation) return {0, 0};
        const grid_reach to = g.reach(c);
        const int at = axis == 0 ? c.i0 : axis == 1 ? c.i1 : c.i2;
        const int step = axis == 0   ? (upper ? to.h0 : to.l0)
                         : axis == 1 ? (upper ? to.h1 : to.l1)
                                     : (upper ? to.h2 : to.l2);
        const bool beyond = !g.wraps(axis) && at == (upper ? g.side(axis) - 1 : 0);
        const std::uint8_t other = beyond ? grid_nothing : kind[g.position(c) + step];
        const double w = scale[axis] * conductance(axis, c, upper);
        const bool to_zero = beyond ? open[axis][upper] : other == grid_held;
        return {other == grid_equation ? w : 0.0, to_zero ? w : 0.0};
    }
    AITKEN_HD double lower(int axis, const grid_cell& c) const { return face(axis, c, false).joined; }
    AITKEN_HD double held(int axis, const grid_cell& c) const {
        return face(axis, c, false).held + face(axis, c, true).held;
    }

private:
    AITKEN_HD double conductance(int axis, const grid_cell& c, bool upper) const {
        if (!given[axis]) return 1;
        const index i0 = c.i0 + (axis == 0 && upper), i1 = c.i1 + (axis == 1 && upper),
                    i2 = c.i2 + (axis == 2 && upper);
        return given[axis][(i0 * (g.n1 + (axis == 1)) + i1) * (g.n2 + (axis == 2)) + i2];
    }
};

// 1 + the number of conducting faces; 0 without equation. Where all faces conduct alike.
struct count_faces {
    finest_faces from;
    std::uint8_t* code;
    AITKEN_HD void operator()(index k) const {
        const grid_cell c = from.g.of_cell(static_cast<int>(k));
        int faces = 0;
        for (int a = 3 - from.g.axes; a < 3; ++a)
            for (int upper = 0; upper < 2; ++upper) {
                const finest_faces::pair f = from.face(a, c, upper != 0);
                faces += f.joined > 0 || f.held > 0;
            }
        const int i = from.g.position(c);
        const bool some = from.kind[i] == grid_equation && (faces > 0 || from.shift > 0);
        code[i] = static_cast<std::uint8_t>(some ? 1 + faces : 0);
    }
};

// Where they do not: conductances and the excess, also in single precision.
struct load_conductances {
    finest_faces from;
    double* w[3];
    double* excess;
    grid_level single;
    AITKEN_HD void operator()(index k) const {
        const grid_cell c = from.g.of_cell(static_cast<int>(k));
        const int i = from.g.position(c);
        double beyond = 0;
        float joined = 0;
        for (int a = 3 - from.g.axes; a < 3; ++a) {
            const finest_faces::pair low = from.face(a, c, false), high = from.face(a, c, true);
            w[a][i] = low.joined;
            single.w[a][i] = static_cast<float>(low.joined);
            single.open[a][i] = static_cast<float>(low.held + high.held);
            beyond += low.held + high.held;
            joined += static_cast<float>(low.joined) + static_cast<float>(high.joined);
        }
        excess[i] = from.kind[i] == grid_equation ? beyond + from.shift : 0.0;
        single.excess[i] = static_cast<float>(excess[i]);
        const float d = single.excess[i] + joined;
        single.inverse[i] = d > 0 ? 1.0f / d : 0.0f;
    }
};

// A level's faces, whether they are stored or follow from the finest level's kinds.
struct level_faces {
    grid_level f;
    finest_faces finest;

    AITKEN_HD float lower(int axis, const grid_cell& c) const {
        if (f.w[axis]) return f.w[axis][f.at.position(c)];
        return static_cast<float>(finest.lower(axis, c));
    }
    AITKEN_HD float open(int axis, const grid_cell& c) const {
        if (f.open[axis]) return f.open[axis][f.at.position(c)];
        return static_cast<float>(finest.held(axis, c));
    }
    AITKEN_HD float volume(const grid_cell& c) const {
        const int i = f.at.position(c);
        if (f.volume) return f.volume[i];
        return f.a.active(i) ? 1.0f : 0.0f;
    }
};

// Conductances of a coarse cell from its children.
struct coarsen_level {
    level_faces from;
    grid_level c;
    AITKEN_HD void operator()(index k) const {
        const grid_level& f = from.f;
        const grid_cell at = c.at.of_cell(static_cast<int>(k));
        float w[3] = {}, open[3] = {}, volume = 0;
        for_children(f, at, -1, 0, [&](const grid_cell& child, int) {
            const bool lower[3] = {child.i0 == at.i0 << f.halved[0], child.i1 == at.i1 << f.halved[1],
                                   child.i2 == at.i2 << f.halved[2]};
            for (int a = 3 - f.at.axes; a < 3; ++a) {
                open[a] += from.open(a, child);
                if (lower[a]) w[a] += from.lower(a, child);
            }
            volume += from.volume(child);
        });
        const int i = c.at.position(at), along[3] = {at.i0, at.i1, at.i2};
        for (int a = 3 - f.at.axes; a < 3; ++a) {
            c.w[a][i] = f.halved[a] ? c.face[a][along[a]] * w[a] : w[a];
            c.open[a][i] = open[a];
        }
        c.volume[i] = volume;
    }
};

struct finish_level {
    grid_level c;
    float shift;
    AITKEN_HD void operator()(index k) const {
        const grid_cell at = c.at.of_cell(static_cast<int>(k));
        const int i = c.at.position(at);
        const grid_reach to = c.at.reach(at);
        const int upper[3] = {to.h0, to.h1, to.h2}, along[3] = {at.i0, at.i1, at.i2};
        float excess = shift * c.volume[i];
        for (int a = 3 - c.at.axes; a < 3; ++a) excess += c.exterior[a][along[a]] * c.open[a][i];
        c.excess[i] = excess;
        float d = excess;
        for (int a = 3 - c.at.axes; a < 3; ++a) d += c.w[a][i] + c.w[a][i + upper[a]];
        c.inverse[i] = d > 0 ? 1.0f / d : 0.0f;
    }
};

// Linear interpolation goes a quarter of the way to the neighbour on the child's side, less where the face
// there conducts less than the one opposite, and at the box's ends only towards p = 0.
struct open_sides {
    grid_level c;
    AITKEN_HD void operator()(index k) const {
        const grid_cell at = c.at.of_cell(static_cast<int>(k));
        const int i = c.at.position(at);
        const grid_reach to = c.at.reach(at);
        const int upper[3] = {to.h0, to.h1, to.h2}, along[3] = {at.i0, at.i1, at.i2};
        for (int a = 3 - c.at.axes; a < 3; ++a) {
            if (!c.sides[a][0]) continue;
            const float low = c.w[a][i], high = c.w[a][i + upper[a]], most = low > high ? low : high;
            const float share = most > 0 ? 0.25f / most : 0.0f, wall = c.open[a][i] > 0 ? 0.25f : 0.0f;
            const bool ends = !c.at.wraps(a);
            c.sides[a][0][i] = ends && along[a] == 0 ? wall : low * share;
            c.sides[a][1][i] = ends && along[a] == c.at.side(a) - 1 ? wall : high * share;
        }
    }
};

// The coarsest level's inverse, by Cholesky's factors in double precision. Where a component is singular one
// of its unknowns is held at zero, which still gives a symmetric semidefinite inverse.
struct invert_coarsest {
    static constexpr int threads = 256, most = 64, steps = 2, closings = 2;
    struct shared {
        double a[most][most + 1];  // L in the lower triangle, then L^-1 by rows above it
        double before[most];       // the diagonal of A
        int held[most];
    };
    struct local {};
    level_faces from;
    double least;  // of a diagonal entry, for a pivot that is not zero but for rounding
    double* inverse;

    index blocks() const { return 1; }
    AITKEN_HD int size() const { return from.f.at.cells(); }
    AITKEN_HD void open(local&, place) const {}
    AITKEN_HD index rounds(place) const { return size() + 1; }

    // Round 0 fills A; round j + 1 makes column j, after which columns to the right lose its share.
    template <int Step>
    AITKEN_HD void step(shared& s, local&, place at, index round) const {
        const int m = size(), t = at.thread, j = static_cast<int>(round) - 1;
        if (Step == 0 && round == 0) {
            if (t < m) fill_row(s, t);
        } else if (round > 0 && Step == 0) {
            if (t != j) return;  // the pivot first: all below divide by it
            const double pivot = s.a[j][j];
            s.held[j] = !(pivot > least * s.before[j]);
            s.a[j][j] = s.held[j] ? 0.0 : std::sqrt(pivot);
        } else if (round > 0) {
            // Row i alone is written by thread i; (p, j) below the pivot is still undivided for all.
            if (t <= j || t >= m) return;
            const double root = s.a[j][j];
            const double own = s.held[j] ? 0.0 : s.a[t][j] / root;
            for (int p = j + 1; p <= t; ++p) {
                const double other = s.held[j] ? 0.0 : raw(s, p, j) / root;
                s.a[t][p] -= own * other;
            }
        }
    }
    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int m = size(), t = at.thread;
        if constexpr (Phase == 0) {
            // Column t of L^-1 by thread t, above the diagonal of row t.
            if (t >= m || s.held[t]) return;
            for (int i = t + 1; i < m; ++i) {
                if (s.held[i]) {
                    s.a[t][i] = 0;
                    continue;
                }
                double sum = factor(s, i, t) / s.a[t][t];
                for (int k = t + 1; k < i; ++k) sum += factor(s, i, k) * s.a[t][k];
                s.a[t][i] = -sum / s.a[i][i];
            }
        } else {
            for (int e = t; e < m * m; e += threads) {
                const int i = e / m, j = e % m, from_row = i > j ? i : j;
                double sum = 0;
                for (int k = from_row; k < m; ++k) sum += entry(s, k, i) * entry(s, k, j);
                inverse[e] = sum;
            }
        }
    }

private:
    // The lower triangle holds A's updated columns, undivided; L's are these over the roots.
    AITKEN_HD static double raw(const shared& s, int i, int j) { return s.a[i][j]; }
    AITKEN_HD static double factor(const shared& s, int i, int j) {
        return s.held[j] ? 0.0 : s.a[i][j] / s.a[j][j];
    }
    AITKEN_HD static double entry(const shared& s, int i, int c) {
        if (s.held[c] || s.held[i]) return 0.0;
        return i == c ? 1 / s.a[c][c] : s.a[c][i];
    }
    AITKEN_HD void fill_row(shared& s, int p) const {
        const grid_layout& g = from.f.at;
        const int m = size();
        for (int q = 0; q < m; ++q) s.a[p][q] = 0;
        const grid_cell c = g.of_cell(p);
        double own = static_cast<double>(from.finest.shift) * from.volume(c);
        for (int a = 3 - g.axes; a < 3; ++a) {
            const int n = g.side(a), at = a == 0 ? c.i0 : a == 1 ? c.i1 : c.i2;
            for (int upper = 0; upper < 2; ++upper) {
                const int there = (at + (upper ? 1 : n - 1)) % n;
                grid_cell other = c;
                (a == 0 ? other.i0 : a == 1 ? other.i1 : other.i2) = there;
                if (!g.wraps(a) && at == (upper ? n - 1 : 0)) continue;
                const double w = from.lower(a, upper ? other : c);
                own += w;
                const int q = (other.i0 * g.n1 + other.i1) * g.n2 + other.i2;
                s.a[p][q] -= w;
            }
            own += static_cast<double>(from.f.exterior[a][at]) * from.open(a, c);
        }
        s.a[p][p] += own;
        s.before[p] = s.a[p][p];
        s.held[p] = 0;
    }
};

// --- what a network sees of a level, and says about it -----------------------------------------------

// The fluid fraction and the diagonal over that of free space.
struct level_features {
    level_faces from;
    float children, reference;
    float *fluid, *diagonal;
    AITKEN_HD void operator()(index k) const {
        const grid_cell c = from.f.at.of_cell(static_cast<int>(k));
        const float d = from.f.a.own(from.f.at.position(c));
        fluid[k] = d > 0 ? from.volume(c) / children : 0.0f;
        const float part = d / reference;
        diagonal[k] = part < 4.0f ? part : 4.0f;
    }
};

// Means over 2 reach + 1 cells along an axis, zero beyond the box.
struct means_along {
    int stride, n, reach;
    const float* from;
    float* to;
    AITKEN_HD void operator()(index k) const {
        const int position = static_cast<int>(k / stride % n);
        float sum = from[k];
        for (int d = 1; d <= reach; ++d) {
            if (position >= d) sum += from[k - static_cast<index>(d) * stride];
            if (position + d < n) sum += from[k + static_cast<index>(d) * stride];
        }
        to[k] = sum / static_cast<float>(2 * reach + 1);
    }
};

// relu(conv 3^d, 4 -> 16), relu(16 -> 16), 16 -> 3 in every cell, and from these the fields of a level.
// 4064 flops a cell in three dimensions, 1760 in two; weights in shared memory.
struct learn_fields : straight {
    static constexpr int threads = 128, channels = 16, features = 4;
    static constexpr int most = features * 27 * channels + channels + channels * channels + channels + 51;
    static constexpr int closings = 2;
    struct shared {
        float weights[most];  // (feature, tap, channel), b1, (in, out), b2, (channel, field), b3
    };
    grid_level f;
    const float* weights;
    const float* plane[features];
    int count;  // of weights

    index blocks() const { return blocks_for(f.at.cells(), threads); }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        if constexpr (Phase == 0) {
            for (int i = at.thread; i < count; i += threads) s.weights[i] = weights[i];
        } else {
            const index k = at.block * threads + at.thread;
            if (k >= f.at.cells()) return;
            const grid_cell c = f.at.of_cell(static_cast<int>(k));
            const int taps = f.at.axes == 3 ? 27 : 9;
            const float* const b1 = s.weights + features * taps * channels;
            const float* const w2 = b1 + channels;
            const float* const b2 = w2 + channels * channels;
            const float* const w3 = b2 + channels;
            const float* const b3 = w3 + 3 * channels;
            float h[channels];
            AITKEN_UNROLL
            for (int o = 0; o < channels; ++o) h[o] = b1[o];
            for (int p = 0; p < features; ++p)
                for (int tap = 0; tap < taps; ++tap) {
                    const int i0 = c.i0 + (taps == 27 ? tap / 9 - 1 : 0), i1 = c.i1 + tap / 3 % 3 - 1,
                              i2 = c.i2 + tap % 3 - 1;
                    if (i0 < 0 || i0 >= f.at.n0 || i1 < 0 || i1 >= f.at.n1 || i2 < 0 || i2 >= f.at.n2)
                        continue;
                    const float value = plane[p][(i0 * f.at.n1 + i1) * f.at.n2 + i2];
                    const float* const w = s.weights + (p * taps + tap) * channels;
                    AITKEN_UNROLL
                    for (int o = 0; o < channels; ++o) h[o] += w[o] * value;
                }
            float field[3] = {b3[0], b3[1], b3[2]};
            for (int o = 0; o < channels; ++o) {
                float sum = b2[o];
                AITKEN_UNROLL
                for (int q = 0; q < channels; ++q) sum += w2[q * channels + o] * (h[q] > 0 ? h[q] : 0.0f);
                if (sum > 0)
                    for (int n = 0; n < 3; ++n) field[n] += w3[o * 3 + n] * sum;
            }
            store(f.at.position(c), field);
        }
    }

private:
    static AITKEN_HD float logistic(float x) { return 1 / (1 + std::exp(-x)); }
    AITKEN_HD void store(int i, const float (&field)[3]) const {
        const float d = f.a.own(i), inverse = d > 0 ? 1 / d : 0.0f;
        const float given = logistic(field[0] + 4), phi = given > 1e-3f ? given : 1e-3f;
        const float blend = logistic(field[1] - 4), half = 0.5f * field[2];
        const float part = std::exp(half < -0.7f ? -0.7f : half > 0.7f ? 0.7f : half);
        f.phi[i] = d > 0 ? phi : 0.0f;
        f.constant[i] = d > 0 ? part : 0.0f;
        f.linear[i] = d > 0 ? part * blend : 0.0f;
        f.inverse[i] = inverse * phi;
    }
};

// --- vectors -------------------------------------------------------------------------------------

// From vectors of all cells, or of FLUID cells alone (where `cells` lists their positions); nothing else of
// the padded vector is touched.
struct scatter_cells {
    grid_layout g;
    const std::uint8_t* kind;
    const std::int32_t* cells;
    const double* from;
    double* to;
    AITKEN_HD void operator()(index k) const {
        const int i = cells ? cells[k] : g.position(g.of_cell(static_cast<int>(k)));
        if (kind[i] == grid_equation) to[i] = from[k];
    }
};
struct gather_cells {
    grid_layout g;
    const std::int32_t* cells;
    const double* from;
    double* to;
    AITKEN_HD void operator()(index k) const {
        to[k] = from[cells ? cells[k] : g.position(g.of_cell(static_cast<int>(k)))];
    }
};

// A stretch of the list of the cells of floating components, which touch no p = 0, all of one component.
struct component_part {
    std::int32_t first, last, component;
};

// The sum over each part.
struct part_sums : straight {
    static constexpr int threads = 256, closings = 3;
    struct shared {
        double sum[threads], segment[32];
    };
    const component_part* parts;
    index count;
    const std::int32_t* cells;
    const double* v;
    double* out;

    part_sums(const component_part* parts_, index count_, const std::int32_t* cells_, const double* v_,
              double* out_)
        : parts(parts_), count(count_), cells(cells_), v(v_), out(out_) {}
    index blocks() const { return count; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            const component_part p = parts[at.block];
            double sum = 0;
            for (int k = p.first + t; k < p.last; k += threads) sum += v[cells[k]];
            s.sum[t] = sum;
        } else if constexpr (Phase == 1) {
            if (t >= 32) return;
            double sum = 0;
            for (int k = t; k < threads; k += 32) sum += s.sum[k];
            s.segment[t] = sum;
        } else if (t == 0) {
            double sum = 0;
            for (double part : s.segment) sum += part;
            out[at.block] = sum;
        }
    }
};

// The mean of each component from the sums of its parts: a block each.
struct component_means : straight {
    static constexpr int threads = 128, closings = 2;
    struct shared {
        double sum[threads];
    };
    const std::int32_t* begin;  // of each component's parts, and of its cells; one more at the end
    const std::int32_t* first;
    index count;
    const double* sums;
    double* mean;

    component_means(const std::int32_t* begin_, const std::int32_t* first_, index count_, const double* sums_,
                    double* mean_)
        : begin(begin_), first(first_), count(count_), sums(sums_), mean(mean_) {}
    index blocks() const { return count; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const index c = at.block;
        if constexpr (Phase == 0) {
            double sum = 0;
            for (int k = begin[c] + at.thread; k < begin[c + 1]; k += threads) sum += sums[k];
            s.sum[at.thread] = sum;
        } else if (at.thread == 0) {
            double sum = 0;
            for (double part : s.sum) sum += part;
            mean[c] = sum / static_cast<double>(first[c + 1] - first[c]);
        }
    }
};

struct take_means : straight {
    static constexpr int threads = 256, closings = 1;
    struct shared {};
    const component_part* parts;
    index count;
    const std::int32_t* cells;
    const double* mean;
    const double* add;  // by component; null: none
    double share;       // of it
    double* v;

    take_means(const component_part* parts_, index count_, const std::int32_t* cells_, const double* mean_,
               const double* add_, double share_, double* v_)
        : parts(parts_), count(count_), cells(cells_), mean(mean_), add(add_), share(share_), v(v_) {}
    index blocks() const { return count; }

    template <int>
    AITKEN_HD void close(shared&, local&, place at) const {
        const component_part p = parts[at.block];
        const double by = mean[p.component] - (add ? share * add[p.component] : 0.0);
        for (int k = p.first + at.thread; k < p.last; k += threads) v[cells[k]] -= by;
    }
};

}  // namespace aitken::cuda
