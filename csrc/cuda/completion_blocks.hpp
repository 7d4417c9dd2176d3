// The kernels of matrix completion as block programs: the least-squares problem of a row, a block each, and
// the passes over entries and factors of drivers/completion.hpp. Semantics are those of that driver.
//
// Factors are rows of T, aligned, of a multiple of 16 numbers; with biases, these are column 0, and the fixed
// factor of a half sweep is a copy in which that column is 1. K stands for the columns in use.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/api/completion.hpp"
#include "core/philox.hpp"
#include "core/views.hpp"
#include "cuda/program.hpp"
#include "cuda/vector_blocks.hpp"
#include "drivers/completion_losses.hpp"

// Registers are for the tiles: unrolled, such a loop would fetch ahead into all the others.
#if defined(__CUDA_ARCH__)
#define AITKEN_ROLL _Pragma("unroll 1")
#else
#define AITKEN_ROLL
#endif

namespace aitken::cuda {

using aitken::completion::loss;
using aitken::completion::loss_of;
using aitken::completion::observed;
using aitken::completion::touching_weight;

// What one load of 16 B brings.
template <class T>
struct alignas(16) pack {
    static constexpr int size = 16 / sizeof(T);
    T x[size];
};
template <class T>
AITKEN_HD pack<T> load_pack(const T* from) {
    return *reinterpret_cast<const pack<T>*>(from);
}

// The fixed side of a half sweep, in device memory.
template <class T>
struct als_design {
    const T* v = nullptr;
    index rows = 0, ld = 0;
    int k = 0;
    const T* offset = nullptr;     // what is taken off the value at column j: the biases; null: 0
    const double* gram = nullptr;  // k x k, of the entries not seen; null: these do not count
    // For preconditioning: eigenvectors of v'v by rows and by columns, k x k, and eigenvalues, ascending.
    const T *vectors = nullptr, *turned = nullptr, *values = nullptr;
};

// What a block is given: a row's entries first .. last, or the slots of its parts.
struct row_piece {
    index first, last;
    std::int32_t row, slot;  // slot: where the sums of a part go
};
enum class piece_kind {
    whole,  // a row
    part,   // some entries of a row: its sums go to the workspace
    sum     // a row from the sums of its parts
};
// Sums of parts: tiles, right-hand side, and a number per thread. `stride` numbers of T a part.
template <class T>
struct part_room {
    T* sums = nullptr;
    double* constants = nullptr;
    index stride = 0;
};

struct row_outcome {
    double error;
    std::int32_t steps, retries;
};
struct row_penalty {
    double lam;
    bool by_degree;

    AITKEN_HD double of(index degree) const { return by_degree ? lam * static_cast<double>(degree) : lam; }
};

// How large the ridge and the smallest pivot are, relative to the diagonal.
template <class T>
inline constexpr double ridge_floor = std::is_same_v<T, float> ? 1e-6 : 1e-12;

// --- exact solves --------------------------------------------------------------------------------

// Solves for a row by elimination on its K x K matrix, which never leaves the registers: each thread holds
// one tile of the upper triangle. Panels of `Panel` gathered rows pass through shared memory, the next one
// coming in while the last one is used. Where there are fewer tiles than threads, several groups of threads
// take turns at the rows of a panel.
//
// Elimination goes by blocks of `Tile` columns with G = U' D^-1 U, D the diagonal of U, so that no square
// root is taken: the owner of the diagonal tile eliminates in it, the owners of its row solve with it, and
// the rest is updated from two panels in shared memory, 2 barriers a block; then 2 a block to substitute
// backwards.
//
// An entry costs (K + 2) sizeof(T) + 4 B and K (K + 1) flops, half a tile more where tiles are cut by the
// diagonal; a row K^3 / 3 flops. Static shared memory: 2 panels. A pivot not above ridge_floor times the
// largest diagonal entry has the row gathered again and solved with a larger ridge, twice at most; then it is
// NaN, which the driver sees. A row without weight is 0.
template <class T, int Threads, int Tile, int TileRows, int Panel>
struct solve_rows {
    static constexpr int threads = Threads, steps = 1, closings = 0;
    static constexpr int columns = Tile * TileRows, tile_size = Tile * Tile;
    static constexpr int all_tiles = TileRows * (TileRows + 1) / 2;
    static constexpr int panels_size = 2 * Panel * columns;
    // An odd stride, so that threads meet in no bank.
    static constexpr int exchange_stride = tile_size + 1;
    static constexpr int exchange_size = 2 * all_tiles <= Threads ? all_tiles * exchange_stride : 0;
    static constexpr int room_size = panels_size > exchange_size ? panels_size : exchange_size;
    static constexpr int groups = 16, most_splits = 8;
    static_assert(all_tiles <= Threads && columns <= Threads && Panel >= Tile && Threads >= groups);

    enum class stage { gather, merge, raise, row, rest, solve, above, finish, total, report, done };
    struct shared {
        alignas(16) T room[room_size];  // two panels; or sums of groups; or rows of U, plain and over D
        T weight[2][Panel], target[2][Panel];
        T unit[tile_size];  // of the block eliminated: column over pivot
        T inverse[columns], diagonal[columns], b[columns], x[columns];
        double part[Threads], segment[groups];
        int failed;
    };
    struct local {
        row_piece piece;
        stage now;
        int tile, tile_row, tile_column, split;  // what is this thread's; tile_row -1: nothing
        int panel, turn, block, attempt;
        T acc[Tile][Tile];
        T right, floor;
        double constant, ridge;  // this thread's share of sum w c^2; what was added to the diagonal
    };

    observed<T> entries;
    als_design<T> design;
    const row_piece* pieces;
    index count;
    piece_kind kind;
    row_penalty penalty;
    part_room<T> parts;
    const T* background;  // design.gram in rows of `columns`, zero beyond
    T* out;
    index ld;
    row_outcome* outcome;

    index blocks() const { return count; }
    // Numbers of T that a part leaves.
    static index part_size(int k) {
        const index rows = (k + Tile - 1) / Tile;
        return rows * (rows + 1) / 2 * tile_size + rows * Tile;
    }

    AITKEN_HD int tile_rows() const { return (design.k + Tile - 1) / Tile; }
    AITKEN_HD int tiles() const { return tile_rows() * (tile_rows() + 1) / 2; }
    AITKEN_HD int splits() const {
        if (kind == piece_kind::sum) return 1;
        int most = room_size / (tiles() * exchange_stride);
        if (most > Threads / tiles()) most = Threads / tiles();
        if (most > most_splits) most = most_splits;
        return most > 1 ? most : 1;
    }

    AITKEN_HD void open(local& mine, place at) const {
        mine.piece = pieces[at.block];
        mine.split = at.thread / tiles();
        mine.tile = at.thread % tiles();
        mine.tile_row = mine.tile_column = -1;
        if (mine.split < splits()) {
            int row = 0, first = 0;
            while (mine.tile >= first + tile_rows() - row) first += tile_rows() - row++;
            mine.tile_row = row;
            mine.tile_column = row + mine.tile - first;
        }
        mine.attempt = 0;
        restart(mine);
    }
    AITKEN_HD bool go_on(const local& mine) const { return mine.now != stage::done; }

    template <int>
    AITKEN_HD void step(shared& s, local& mine, place at, index) const {
        switch (mine.now) {
            case stage::gather:
                return kind == piece_kind::sum ? collect(s, mine, at) : next_panel(s, mine, at);
            case stage::merge:
                return merge(s, mine, at);
            case stage::raise:
                return raise(s, mine, at);
            case stage::row:
                return eliminate_row(s, mine, at);
            case stage::rest:
                return eliminate_rest(s, mine);
            case stage::above:
                return substitute(s, mine);
            case stage::solve:
                solve_diagonal(s, mine);
                mine.now = mine.block > 0 ? stage::above : stage::finish;
                return;
            case stage::finish:
                return finish(s, mine, at);
            case stage::total:
                if (at.thread < groups) {
                    double sum = 0;
                    for (int t = at.thread; t < Threads; t += groups) sum += s.part[t];
                    s.segment[at.thread] = sum;
                }
                mine.now = stage::report;
                return;
            case stage::report:
                if (at.thread == 0) {
                    double sum = 0;
                    for (int g = 0; g < groups; ++g) sum += s.segment[g];
                    outcome[mine.piece.row] = {sum, 0, mine.attempt > 0};
                }
                mine.now = stage::done;
                return;
            case stage::done:
                return;
        }
    }

private:
    AITKEN_HD void restart(local& mine) const {
        AITKEN_UNROLL
        for (int r = 0; r < Tile; ++r) AITKEN_UNROLL
        for (int c = 0; c < Tile; ++c) mine.acc[r][c] = 0;
        mine.right = 0;
        mine.constant = 0;
        mine.panel = mine.block = 0;
        mine.turn = splits() - 1;
        mine.now = stage::gather;
    }
    // Whether this thread's tile is the one at (row, column).
    AITKEN_HD static bool owns(const local& mine, int row, int column) {
        return mine.split == 0 && mine.tile_row == row && mine.tile_column == column;
    }
    AITKEN_HD static bool owns_diagonal(const local& mine) {
        return mine.split == 0 && mine.tile_row >= 0 && mine.tile_row == mine.tile_column;
    }
    AITKEN_HD static T* upper(shared& s) { return s.room; }
    AITKEN_HD static T* scaled(shared& s) { return s.room + Tile * columns; }

    // ---- sums over entries ----

    AITKEN_HD void next_panel(shared& s, local& mine, place at) const {
        const index all = mine.piece.last - mine.piece.first;
        const int panels = static_cast<int>((all + Panel - 1) / Panel);
        if (mine.panel < panels) gather(s, mine, at, mine.panel);
        if (mine.panel > 0) accumulate(s, mine, at, mine.panel - 1);
        if (mine.panel++ < panels) return;
        if (splits() > 1)
            mine.now = stage::merge;
        else
            summed(s, mine, at);
    }
    AITKEN_HD int rows_of(const local& mine, int panel) const {
        const index left = mine.piece.last - mine.piece.first - index{panel} * Panel;
        return left < Panel ? static_cast<int>(left) : Panel;
    }
    AITKEN_HD void gather(shared& s, local& mine, place at, int panel) const {
        constexpr int wide = pack<T>::size;
        const int per_row = tile_rows() * Tile / wide, packs = rows_of(mine, panel) * per_row;
        const index first = mine.piece.first + index{panel} * Panel;
        const int buffer = panel % 2;
        for (int q = at.thread; q < packs; q += Threads) {
            const int row = q / per_row, column = (q - row * per_row) * wide;
            const index e = first + row, j = entries.a.indices[e];
            pack<T> v = load_pack(design.v + j * design.ld + column);
            AITKEN_UNROLL
            for (int i = 0; i < wide; ++i)
                if (column + i >= design.k) v.x[i] = 0;
            *reinterpret_cast<pack<T>*>(s.room + (buffer * Panel + row) * columns + column) = v;
            if (column > 0) continue;
            const T w = entries.weights ? entries.weights[e] : T(1);
            const T c = entries.values[e] - (design.offset ? design.offset[j] : T(0));
            s.weight[buffer][row] = w;
            s.target[buffer][row] = w * c;
            mine.constant += static_cast<double>(w) * static_cast<double>(c) * static_cast<double>(c);
        }
    }
    AITKEN_HD void accumulate(shared& s, local& mine, place at, int panel) const {
        const int buffer = panel % 2, rows = rows_of(mine, panel), stride = splits();
        const T* const room = s.room + buffer * Panel * columns;
        if (mine.tile_row >= 0) {
            AITKEN_ROLL
            for (int p = mine.split; p < rows; p += stride) {
                const T *const left = room + p * columns + mine.tile_row * Tile, *const top =
                                                                                     room + p * columns +
                                                                                     mine.tile_column * Tile;
                const T w = s.weight[buffer][p];
                T a[Tile], b[Tile];
                AITKEN_UNROLL
                for (int i = 0; i < Tile; ++i) a[i] = w * left[i];
                AITKEN_UNROLL
                for (int i = 0; i < Tile; ++i) b[i] = top[i];
                AITKEN_UNROLL
                for (int r = 0; r < Tile; ++r) AITKEN_UNROLL
                for (int c = 0; c < Tile; ++c) mine.acc[r][c] += a[r] * b[c];
            }
        }
        if (at.thread < tile_rows() * Tile)
            for (int p = 0; p < rows; ++p) mine.right += s.target[buffer][p] * room[p * columns + at.thread];
    }
    // The groups' sums into those of the first, the last one beginning.
    AITKEN_HD void merge(shared& s, local& mine, place at) const {
        const int turn = mine.turn--;
        if (mine.split == turn && mine.tile_row >= 0) {
            T* const room = s.room + mine.tile * exchange_stride;
            AITKEN_UNROLL
            for (int r = 0; r < Tile; ++r) AITKEN_UNROLL
            for (int c = 0; c < Tile; ++c) {
                T& there = room[r * Tile + c];
                if (turn < splits() - 1) mine.acc[r][c] += there;
                if (turn > 0) there = mine.acc[r][c];
            }
        }
        if (turn == 0) summed(s, mine, at);
    }
    // Sums of parts, in their order.
    AITKEN_HD void collect(shared& s, local& mine, place at) const {
        for (index slot = mine.piece.first; slot < mine.piece.last; ++slot) {
            const T* const from = parts.sums + slot * parts.stride;
            if (mine.tile_row >= 0) {
                const T* const tile = from + mine.tile * tile_size;
                AITKEN_UNROLL
                for (int r = 0; r < Tile; ++r) AITKEN_UNROLL
                for (int c = 0; c < Tile; ++c) mine.acc[r][c] += tile[r * Tile + c];
            }
            if (at.thread < tile_rows() * Tile) mine.right += from[tiles() * tile_size + at.thread];
            mine.constant += parts.constants[slot * Threads + at.thread];
        }
        summed(s, mine, at);
    }
    AITKEN_HD void summed(shared& s, local& mine, place at) const {
        if (kind == piece_kind::part) return leave(mine, at);
        if (at.thread < tile_rows() * Tile) s.b[at.thread] = mine.right;
        if (at.thread == 0) s.failed = 0;
        if (mine.split == 0 && mine.tile_row >= 0) {
            if (background) {
                const T* const from = background + mine.tile_row * Tile * columns + mine.tile_column * Tile;
                AITKEN_UNROLL
                for (int r = 0; r < Tile; ++r) AITKEN_UNROLL
                for (int c = 0; c < Tile; ++c) mine.acc[r][c] += from[r * columns + c];
            }
            if (mine.tile_row == mine.tile_column) {
                AITKEN_UNROLL
                for (int r = 0; r < Tile; ++r) s.diagonal[mine.tile_row * Tile + r] = mine.acc[r][r];
            }
        }
        mine.now = stage::raise;
    }
    AITKEN_HD void leave(local& mine, place at) const {
        T* const to = parts.sums + mine.piece.slot * parts.stride;
        if (mine.split == 0 && mine.tile_row >= 0) {
            T* const tile = to + mine.tile * tile_size;
            AITKEN_UNROLL
            for (int r = 0; r < Tile; ++r) AITKEN_UNROLL
            for (int c = 0; c < Tile; ++c) tile[r * Tile + c] = mine.acc[r][c];
        }
        if (at.thread < tile_rows() * Tile) to[tiles() * tile_size + at.thread] = mine.right;
        parts.constants[mine.piece.slot * Threads + at.thread] = mine.constant;
        mine.now = stage::done;
    }

    // ---- elimination ----

    AITKEN_HD void raise(shared& s, local& mine, place at) const {
        const index row = mine.piece.row;
        double trace = 0, largest = 0;
        for (int i = 0; i < design.k; ++i) {
            const double d = static_cast<double>(s.diagonal[i]);
            trace += d;
            largest = larger(largest, d);
        }
        const double mean = trace / design.k;
        double ridge = penalty.of(entries.a.indptr[row + 1] - entries.a.indptr[row]);
        ridge += ridge_floor<T> * mean;
        if (mine.attempt > 0) ridge += 1e3 * ridge_floor<T> * (mean + ridge);
        if (mine.attempt > 1) ridge += 1e6 * ridge_floor<T> * (mean + ridge);
        mine.ridge = ridge;
        mine.floor = static_cast<T>(ridge_floor<T> * (largest + ridge));
        if (entries.a.indptr[row + 1] == entries.a.indptr[row] || trace + ridge == 0) {
            if (at.thread < tile_rows() * Tile) s.x[at.thread] = 0;
            mine.now = stage::finish;
            return;
        }
        if (owns_diagonal(mine)) {
            // Columns that only fill the last tile are those of the identity.
            AITKEN_UNROLL
            for (int r = 0; r < Tile; ++r)
                mine.acc[r][r] =
                    mine.tile_row * Tile + r < design.k ? mine.acc[r][r] + static_cast<T>(ridge) : T(1);
            if (mine.tile_row == 0) eliminate_diagonal(s, mine);
        }
        mine.now = stage::row;
    }
    // In the diagonal tile, which is this thread's.
    AITKEN_HD void eliminate_diagonal(shared& s, local& mine) const {
        const int first = mine.tile_row * Tile;
        T b[Tile];
        AITKEN_UNROLL
        for (int r = 0; r < Tile; ++r) b[r] = s.b[first + r];
        bool good = true;
        AITKEN_UNROLL
        for (int p = 0; p < Tile; ++p) {
            const T pivot = mine.acc[p][p];
            good = good && ((pivot > mine.floor && pivot - pivot == 0) || first + p >= design.k);
            const T inverse = 1 / pivot;
            s.inverse[first + p] = inverse;
            AITKEN_UNROLL
            for (int r = p + 1; r < Tile; ++r) {
                const T factor = mine.acc[p][r] * inverse;
                s.unit[p * Tile + r] = factor;
                AITKEN_UNROLL
                for (int c = r; c < Tile; ++c) mine.acc[r][c] -= factor * mine.acc[p][c];
                b[r] -= factor * b[p];
            }
        }
        AITKEN_UNROLL
        for (int r = 0; r < Tile; ++r) s.b[first + r] = b[r];
        if (!good) s.failed = 1;
    }
    // To the right of the diagonal tile.
    AITKEN_HD void eliminate_row(shared& s, local& mine, place at) const {
        if (s.failed) {
            if (++mine.attempt <= 2) return restart(mine);
            if (at.thread < tile_rows() * Tile) s.x[at.thread] = std::numeric_limits<T>::quiet_NaN();
            mine.now = stage::finish;
            return;
        }
        if (mine.block == tile_rows() - 1) {
            solve_diagonal(s, mine);
            mine.now = mine.block > 0 ? stage::above : stage::finish;
            return;
        }
        if (mine.split == 0 && mine.tile_row == mine.block && mine.tile_column > mine.block) {
            AITKEN_UNROLL
            for (int p = 0; p < Tile; ++p) {
                AITKEN_UNROLL
                for (int r = p + 1; r < Tile; ++r) {
                    const T factor = s.unit[p * Tile + r];
                    AITKEN_UNROLL
                    for (int c = 0; c < Tile; ++c) mine.acc[r][c] -= factor * mine.acc[p][c];
                }
                const T inverse = s.inverse[mine.block * Tile + p];
                T *const plain = upper(s) + p * columns + mine.tile_column * Tile, *const over =
                                                                                       scaled(s) +
                                                                                       p * columns +
                                                                                       mine.tile_column *
                                                                                           Tile;
                AITKEN_UNROLL
                for (int c = 0; c < Tile; ++c) {
                    plain[c] = mine.acc[p][c];
                    over[c] = mine.acc[p][c] * inverse;
                }
            }
        }
        mine.now = stage::rest;
    }
    // Below that row; the next diagonal tile goes on at once.
    AITKEN_HD void eliminate_rest(shared& s, local& mine) const {
        const int first = mine.block * Tile;
        if (mine.split == 0 && mine.tile_row > mine.block) {
            AITKEN_ROLL
            for (int p = 0; p < Tile; ++p) {
                const T *const over = scaled(s) + p * columns + mine.tile_row * Tile, *const plain =
                                                                                          upper(s) +
                                                                                          p * columns +
                                                                                          mine.tile_column *
                                                                                              Tile;
                T a[Tile], b[Tile];
                AITKEN_UNROLL
                for (int i = 0; i < Tile; ++i) a[i] = over[i];
                AITKEN_UNROLL
                for (int i = 0; i < Tile; ++i) b[i] = plain[i];
                AITKEN_UNROLL
                for (int r = 0; r < Tile; ++r) AITKEN_UNROLL
                for (int c = 0; c < Tile; ++c) mine.acc[r][c] -= a[r] * b[c];
                if (mine.tile_row == mine.tile_column) {
                    const T known = s.b[first + p];
                    AITKEN_UNROLL
                    for (int r = 0; r < Tile; ++r) s.b[mine.tile_row * Tile + r] -= a[r] * known;
                }
            }
            if (owns(mine, mine.block + 1, mine.block + 1)) eliminate_diagonal(s, mine);
        }
        ++mine.block;
        mine.now = stage::row;
    }

    // ---- substitution, U x = b ----

    AITKEN_HD void solve_diagonal(shared& s, const local& mine) const {
        if (!owns(mine, mine.block, mine.block)) return;
        const int first = mine.block * Tile;
        T x[Tile];
        AITKEN_UNROLL
        for (int p = Tile - 1; p >= 0; --p) {
            T sum = s.b[first + p];
            AITKEN_UNROLL
            for (int c = p + 1; c < Tile; ++c) sum -= mine.acc[p][c] * x[c];
            x[p] = sum * s.inverse[first + p];
            s.x[first + p] = x[p];
        }
    }
    // The column of tiles above.
    AITKEN_HD void substitute(shared& s, local& mine) const {
        if (mine.split == 0 && mine.tile_column == mine.block && mine.tile_row < mine.block) {
            T x[Tile];
            AITKEN_UNROLL
            for (int c = 0; c < Tile; ++c) x[c] = s.x[mine.block * Tile + c];
            AITKEN_UNROLL
            for (int r = 0; r < Tile; ++r) {
                T sum = s.b[mine.tile_row * Tile + r];
                AITKEN_UNROLL
                for (int c = 0; c < Tile; ++c) sum -= mine.acc[r][c] * x[c];
                s.b[mine.tile_row * Tile + r] = sum;
            }
        }
        --mine.block;
        mine.now = stage::solve;
    }

    // sum w (c - <v, x>)^2 + x'G0 x = sum w c^2 - x'b - ridge |x|^2.
    AITKEN_HD void finish(shared& s, local& mine, place at) const {
        double share = mine.constant;
        if (at.thread < design.k) {
            const T x = s.x[at.thread];
            out[index{mine.piece.row} * ld + at.thread] = x;
            share -= static_cast<double>(x) *
                     (static_cast<double>(mine.right) + mine.ridge * static_cast<double>(x));
        }
        s.part[at.thread] = share;
        mine.now = stage::total;
    }
};

// --- conjugate gradients -------------------------------------------------------------------------

struct cg_limits {
    int steps;
    double tol;
};

// Solves for a row by conjugate gradients from what it holds, at least one step, until the preconditioned
// gradient has fallen by `tol`. Entries come in tiles through shared memory, and stay there from step to step
// if one tile holds them all: first threads take entries (the products <v, p>), then columns (their sum), so
// nothing is added across threads but once a step. Sums over a vector are double, in a fixed order.
//
// An entry costs (K + 2) sizeof(T) + 4 B once, or once a pass where a row has several tiles, and 4 K flops a
// pass, of which there is one more than steps. With `gram` 2 K^2 flops a pass more, with `vectors` 4 K^2.
template <class T, int Threads, int Room>
struct cg_rows {
    static constexpr int threads = Threads, steps = 1, closings = 0, groups = 16, most_parts = 8;
    enum class stage { start, gather, dot, scale, add, combine, segment, total, turn, turn_back, done };
    enum class sum_of { begin, curvature, gradient, norm };
    struct shared {
        alignas(16) T room[Room];  // x, r, z, p, q; then a tile of entries
        T dots[Threads], factor[Threads], column[Threads];
        double part[3][Threads], segment[3][groups];
    };
    struct local {
        row_piece piece;
        stage now;
        sum_of wanted;
        bool first;
        int step, tile;
        T partial;
        double error, weight;  // this thread's shares
        double lam, before, norm2, all_weight, rz, target, fallen;
    };

    observed<T> entries;
    als_design<T> design;
    const row_piece* pieces;
    index count;
    row_penalty penalty;
    cg_limits limits;
    T* out;
    index ld;
    row_outcome* outcome;

    index blocks() const { return count; }
    static constexpr bool fits(int k) { return tile_rows(k) >= 2; }

    AITKEN_HD static constexpr int padded(int k) {
        return (k + 2 * pack<T>::size - 1) / (2 * pack<T>::size) * (2 * pack<T>::size);
    }
    // One pack more than a row has, so that threads which read a row each meet in no bank.
    AITKEN_HD static constexpr int stride(int k) { return padded(k) + pack<T>::size; }
    AITKEN_HD static constexpr int tile_rows(int k) {
        const int rows = (Room - 5 * padded(k)) / stride(k);
        return rows < Threads ? rows : Threads;
    }
    AITKEN_HD T* vector(shared& s, int which) const { return s.room + which * padded(design.k); }
    AITKEN_HD T* x(shared& s) const { return vector(s, 0); }
    AITKEN_HD T* r(shared& s) const { return vector(s, 1); }
    AITKEN_HD T* z(shared& s) const { return vector(s, 2); }
    AITKEN_HD T* p(shared& s) const { return vector(s, 3); }
    AITKEN_HD T* q(shared& s) const { return vector(s, 4); }
    AITKEN_HD T* tile(shared& s) const { return vector(s, 5); }
    AITKEN_HD bool narrow() const { return padded(design.k) <= Threads; }
    AITKEN_HD index degree(const local& mine) const { return mine.piece.last - mine.piece.first; }
    AITKEN_HD int rows_of(const local& mine) const {
        const int most = tile_rows(design.k);
        const index left = degree(mine) - index{mine.tile} * most;
        return left < most ? static_cast<int>(left) : most;
    }
    AITKEN_HD index first_of(const local& mine) const {
        return mine.piece.first + index{mine.tile} * tile_rows(design.k);
    }

    AITKEN_HD void open(local& mine, place at) const {
        mine.piece = pieces[at.block];
        mine.now = stage::start;
        mine.wanted = sum_of::begin;
        mine.first = true;
        mine.step = mine.tile = 0;
        mine.partial = 0;
        mine.error = mine.weight = 0;
        mine.lam = penalty.of(degree(mine));
        mine.before = mine.norm2 = mine.all_weight = mine.rz = mine.target = mine.fallen = 0;
    }
    AITKEN_HD bool go_on(const local& mine) const { return mine.now != stage::done; }

    template <int>
    AITKEN_HD void step(shared& s, local& mine, place at, index) const {
        const int t = at.thread;
        switch (mine.now) {
            case stage::start:
                return start(s, mine, t);
            case stage::gather:
                return gather(s, mine, t);
            case stage::dot:
                return dot(s, mine, t);
            case stage::scale:
                return scale(s, mine, t);
            case stage::add:
                return add(s, mine, t);
            case stage::combine:
                return combine(s, mine, t);
            case stage::segment:
                if (t < groups) {
                    AITKEN_UNROLL
                    for (int v = 0; v < 3; ++v) {
                        double sum = 0;
                        for (int k = t; k < Threads; k += groups) sum += s.part[v][k];
                        s.segment[v][t] = sum;
                    }
                }
                mine.now = stage::total;
                return;
            case stage::total:
                return summed(s, mine, t);
            case stage::turn:  // into the basis: q = (share D + lam)^-1 E r
                for (int e = t; e < design.k; e += Threads) {
                    T sum = 0;
                    for (int c = 0; c < design.k; ++c) sum += design.turned[c * design.k + e] * r(s)[c];
                    const double share = share_of(mine);
                    const double smallest =
                        ridge_floor<T> * share * static_cast<double>(design.values[design.k - 1]);
                    const double value = share * static_cast<double>(design.values[e]) + mine.lam;
                    q(s)[e] = static_cast<T>(static_cast<double>(sum) / larger(value, smallest));
                }
                mine.now = stage::turn_back;
                return;
            case stage::turn_back: {  // z = E' q
                double rz = 0;
                for (int c = t; c < design.k; c += Threads) {
                    T sum = 0;
                    for (int e = 0; e < design.k; ++e) sum += design.vectors[e * design.k + c] * q(s)[e];
                    z(s)[c] = sum;
                    rz += static_cast<double>(r(s)[c]) * static_cast<double>(sum);
                }
                return add_up(s, mine, t, sum_of::gradient, rz, 0, 0);
            }
            case stage::done:
                return;
        }
    }

private:
    AITKEN_HD double share_of(const local& mine) const {
        return mine.all_weight / static_cast<double>(design.rows) + (design.gram ? 1.0 : 0.0);
    }
    AITKEN_HD void start(shared& s, local& mine, int t) const {
        T* const row = out + index{mine.piece.row} * ld;
        if (degree(mine) == 0) {
            for (int c = t; c < design.k; c += Threads) row[c] = 0;
            if (t == 0) outcome[mine.piece.row] = {0, 0, 0};
            mine.now = stage::done;
            return;
        }
        for (int c = t; c < padded(design.k); c += Threads) {
            x(s)[c] = c < design.k ? row[c] : T(0);
            r(s)[c] = z(s)[c] = p(s)[c] = q(s)[c] = 0;
        }
        mine.now = stage::gather;
    }
    AITKEN_HD void gather(shared& s, local& mine, int t) const {
        constexpr int wide = pack<T>::size;
        const int per_row = padded(design.k) / wide, packs = rows_of(mine) * per_row;
        for (int i = t; i < packs; i += Threads) {
            const int row = i / per_row, column = (i - row * per_row) * wide;
            const index j = entries.a.indices[first_of(mine) + row];
            pack<T> v = load_pack(design.v + j * design.ld + column);
            AITKEN_UNROLL
            for (int l = 0; l < wide; ++l)
                if (column + l >= design.k) v.x[l] = 0;
            *reinterpret_cast<pack<T>*>(tile(s) + row * stride(design.k) + column) = v;
        }
        mine.now = stage::dot;
    }
    // Parts of <v, p> (at first <v, x>), an entry and some packs of it a thread.
    AITKEN_HD int parts() const {
        const int all = Threads / tile_rows(design.k);
        return all < most_parts ? all : most_parts;
    }
    AITKEN_HD void dot(shared& s, local& mine, int t) const {
        constexpr int wide = pack<T>::size;
        const int rows = tile_rows(design.k), entry = t % rows, part = t / rows;
        if (part < parts() && entry < rows_of(mine)) {
            const T *const row = tile(s) + entry * stride(design.k), *const with = mine.first ? x(s) : p(s);
            T sum = 0;
            for (int c = part * wide; c < padded(design.k); c += parts() * wide) {
                const pack<T> a = load_pack(row + c), b = load_pack(with + c);
                AITKEN_UNROLL
                for (int i = 0; i < wide; ++i) sum += a.x[i] * b.x[i];
            }
            s.dots[t] = sum;
        }
        mine.now = stage::scale;
    }
    // What each entry's row is multiplied by.
    AITKEN_HD void scale(shared& s, local& mine, int t) const {
        if (t < rows_of(mine)) {
            const index e = first_of(mine) + t;
            T sum = 0;
            for (int part = 0; part < parts(); ++part) sum += s.dots[part * tile_rows(design.k) + t];
            const T w = entries.weights ? entries.weights[e] : T(1);
            if (mine.first) {
                const T c = entries.values[e] - (design.offset ? design.offset[entries.a.indices[e]] : T(0));
                const T left = c - sum;
                s.factor[t] = w * left;
                mine.error += static_cast<double>(w) * static_cast<double>(left) * static_cast<double>(left);
                mine.weight += static_cast<double>(w);
            } else {
                s.factor[t] = w * sum;
            }
        }
        mine.now = stage::add;
    }
    AITKEN_HD void add(shared& s, local& mine, int t) const {
        const int rows = rows_of(mine), wide = padded(design.k), at = stride(design.k);
        const T* const from = tile(s);
        if (narrow()) {
            const int together = Threads / wide, group = t / wide, c = t % wide;
            if (group < together)
                for (int e = group; e < rows; e += together) mine.partial += s.factor[e] * from[e * at + c];
        } else {
            for (int c = t; c < wide; c += Threads) {
                T sum = q(s)[c];
                for (int e = 0; e < rows; ++e) sum += s.factor[e] * from[e * at + c];
                q(s)[c] = sum;
            }
        }
        ++mine.tile;
        if (index{mine.tile} * tile_rows(design.k) < degree(mine)) {
            mine.now = stage::gather;
            return;
        }
        if (narrow()) {
            s.column[t] = mine.partial;
            mine.partial = 0;
        }
        mine.now = stage::combine;
    }
    // r at first, then q; and the sums that go with it.
    AITKEN_HD void combine(shared& s, local& mine, int t) const {
        const int wide = padded(design.k);
        const T* const with = mine.first ? x(s) : p(s);
        double error = mine.error, square = 0;
        for (int c = t; c < design.k; c += Threads) {
            T sum = q(s)[c];
            if (narrow()) {
                sum = 0;
                for (int g = 0; g < Threads / wide; ++g) sum += s.column[g * wide + c];
            }
            T background = 0;
            if (design.gram)
                for (int i = 0; i < design.k; ++i)
                    background += static_cast<T>(design.gram[i * design.k + c]) * with[i];
            const auto value = static_cast<double>(with[c]);
            if (mine.first) {
                r(s)[c] = sum - background - static_cast<T>(mine.lam) * with[c];
                error += value * static_cast<double>(background);
                square += value * value;
                q(s)[c] = 0;
            } else {
                sum += background + static_cast<T>(mine.lam) * with[c];
                q(s)[c] = sum;
                square += value * static_cast<double>(sum);
            }
        }
        if (mine.first)
            add_up(s, mine, t, sum_of::begin, error, square, mine.weight);
        else
            add_up(s, mine, t, sum_of::curvature, square, 0, 0);
    }
    AITKEN_HD void add_up(shared& s, local& mine, int t, sum_of what, double a, double b, double c) const {
        s.part[0][t] = a;
        s.part[1][t] = b;
        s.part[2][t] = c;
        mine.wanted = what;
        mine.now = stage::segment;
    }
    AITKEN_HD void summed(shared& s, local& mine, int t) const {
        double sum[3] = {0, 0, 0};
        AITKEN_UNROLL
        for (int v = 0; v < 3; ++v)
            for (int g = 0; g < groups; ++g) sum[v] += s.segment[v][g];
        switch (mine.wanted) {
            case sum_of::begin:
                mine.before = sum[0];
                mine.norm2 = sum[1];
                mine.all_weight = sum[2];
                return precondition(s, mine, t);
            case sum_of::curvature:
                return advance(s, mine, t, sum[0]);
            case sum_of::gradient:
                return turn(s, mine, t, sum[0]);
            case sum_of::norm:
                if (t == 0)
                    outcome[mine.piece.row] = {mine.before + mine.lam * (mine.norm2 - sum[0]) - mine.fallen,
                                               mine.step, 0};
                mine.now = stage::done;
                return;
        }
    }
    AITKEN_HD void precondition(shared& s, local& mine, int t) const {
        if (design.vectors) {
            mine.now = stage::turn;
            return;
        }
        double rr = 0;
        for (int c = t; c < design.k; c += Threads) {
            z(s)[c] = r(s)[c];
            rr += static_cast<double>(r(s)[c]) * static_cast<double>(r(s)[c]);
        }
        add_up(s, mine, t, sum_of::gradient, rr, 0, 0);
    }
    AITKEN_HD void advance(shared& s, local& mine, int t, double pq) const {
        if (!(pq > 0) || !(mine.rz - mine.rz == 0)) return end(s, mine, t);
        const double alpha = mine.rz / pq;
        for (int c = t; c < design.k; c += Threads) {
            x(s)[c] += static_cast<T>(alpha) * p(s)[c];
            r(s)[c] -= static_cast<T>(alpha) * q(s)[c];
        }
        mine.fallen += alpha * mine.rz;
        ++mine.step;
        precondition(s, mine, t);
    }
    // The next direction, with r'z known.
    AITKEN_HD void turn(shared& s, local& mine, int t, double rz) const {
        const bool opening = mine.first;
        if (opening) mine.target = limits.tol * limits.tol * rz;
        mine.first = false;
        if (!opening && !(rz > mine.target)) return end(s, mine, t);
        const T beta = opening ? T(0) : static_cast<T>(rz / mine.rz);
        mine.rz = rz;
        if (mine.step >= limits.steps || !(rz > static_cast<double>(std::numeric_limits<T>::min())))
            return end(s, mine, t);
        for (int c = t; c < design.k; c += Threads) {
            p(s)[c] = z(s)[c] + beta * p(s)[c];
            q(s)[c] = 0;
        }
        mine.tile = 0;
        mine.now = degree(mine) <= tile_rows(design.k) ? stage::dot : stage::gather;
    }
    AITKEN_HD void end(shared& s, local& mine, int t) const {
        double square = 0;
        for (int c = t; c < design.k; c += Threads) {
            const T value = x(s)[c];
            out[index{mine.piece.row} * ld + c] = value;
            square += static_cast<double>(value) * static_cast<double>(value);
        }
        add_up(s, mine, t, sum_of::norm, square, 0, 0);
    }
};

// What rows report, in one sum each.
struct outcome_total {
    struct acc {
        double error, steps, retries;
    };
    static constexpr int stages = 1;
    static constexpr bool map_last = false;
    const row_outcome* rows;
    index count;
    double *error, *steps, *retries;

    AITKEN_HD acc zero() const { return {0, 0, 0}; }
    AITKEN_HD void combine(acc& a, const acc& b) const {
        a.error += b.error;
        a.steps += b.steps;
        a.retries += b.retries;
    }
    template <int>
    AITKEN_HD void visit(index i, const acc*, acc& sum) const {
        combine(sum,
                {rows[i].error, static_cast<double>(rows[i].steps), static_cast<double>(rows[i].retries)});
    }
    AITKEN_HD void finish(const acc* total) const {
        *error = total[0].error;
        *steps = total[0].steps;
        *retries = total[0].retries;
    }
};

// --- passes over entries -------------------------------------------------------------------------

// A factor of each side, k columns of both in use.
template <class T>
struct fitted {
    const T *left = nullptr, *right = nullptr;
    index left_ld = 0, right_ld = 0;
    int k = 0;
    bool bias = false;
};

// op.visit(i, entry, row, residual, sum) for 0 <= i < op.count, where the entry is op.entry(i), and the sum
// of each block. Four threads share an entry, 16 B each of both its rows at a time: (K + 1) sizeof(T) + 4 B
// and 2 K flops; rows come through the cache.
template <class T, class Op>
struct entry_pass {
    static constexpr int threads = 256, lanes = 4, together = threads / lanes, per_block = 1024;
    static constexpr int steps = 2, closings = 3, groups = 16;
    struct shared {
        T part[threads];
        index row[together];
        double sum[threads], segment[groups];
    };
    struct local {
        index low, high;  // rows of the block's first and last entry
        double sum;
    };
    observed<T> entries;
    fitted<T> fit;
    Op op;
    double* part;

    entry_pass(const observed<T>& entries_, const fitted<T>& fit_, const Op& op_, double* part_)
        : entries(entries_), fit(fit_), op(op_), part(part_) {}
    index blocks() const { return blocks_for(op.count, per_block); }
    AITKEN_HD index begin(place at) const { return at.block * per_block; }
    AITKEN_HD index end(place at) const {
        return begin(at) + per_block < op.count ? begin(at) + per_block : op.count;
    }
    // The row of an entry, which is one of low .. high.
    AITKEN_HD index row_of(index entry, index low, index high) const {
        while (low < high) {
            const index middle = low + (high - low + 1) / 2;
            if (entries.a.indptr[middle] <= entry)
                low = middle;
            else
                high = middle - 1;
        }
        return low;
    }

    AITKEN_HD void open(local& mine, place at) const {
        mine.sum = 0;
        mine.low = row_of(op.entry(begin(at)), 0, entries.a.rows - 1);
        mine.high = row_of(op.entry(end(at) - 1), mine.low, entries.a.rows - 1);
    }
    AITKEN_HD index rounds(place at) const { return blocks_for(end(at) - begin(at), together); }

    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const int t = at.thread;
        if constexpr (Step == 0) {
            const index i = begin(at) + round * together + t / lanes;
            if (i >= end(at)) return;
            const index e = op.entry(i), row = row_of(e, mine.low, mine.high);
            if (t % lanes == 0) s.row[t / lanes] = row;
            s.part[t] = share(row, entries.a.indices[e], t % lanes);
        } else {
            const index i = begin(at) + round * together + t;
            if (t >= together || i >= end(at)) return;
            const index e = op.entry(i);
            T sum = s.part[lanes * t];
            AITKEN_UNROLL
            for (int l = 1; l < lanes; ++l) sum += s.part[lanes * t + l];
            const double r = static_cast<double>(entries.values[e]) - static_cast<double>(sum);
            op.visit(i, e, s.row[t], static_cast<index>(entries.a.indices[e]), r, mine.sum);
        }
    }
    // This thread's packs of <u, v>, or of a + b + <u, v>.
    AITKEN_HD T share(index row, index column, int lane) const {
        constexpr int wide = pack<T>::size;
        const T *const u = fit.left + row * fit.left_ld, *const v = fit.right + column * fit.right_ld;
        T sum = 0;
        for (int c = lane * wide; c < fit.k; c += lanes * wide) {
            const pack<T> a = load_pack(u + c), b = load_pack(v + c);
            AITKEN_UNROLL
            for (int i = 0; i < wide; ++i) {
                if (c + i >= fit.k) continue;
                sum += c + i == 0 && fit.bias ? a.x[i] + b.x[i] : a.x[i] * b.x[i];
            }
        }
        return sum;
    }
    template <int Phase>
    AITKEN_HD void close(shared& s, local& mine, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            s.sum[t] = mine.sum;
        } else if constexpr (Phase == 1) {
            if (t >= groups) return;
            double sum = 0;
            for (int k = t; k < threads; k += groups) sum += s.sum[k];
            s.segment[t] = sum;
        } else {
            if (t != 0 || !part) return;
            double sum = 0;
            for (int g = 0; g < groups; ++g) sum += s.segment[g];
            part[at.block] = sum;
        }
    }
};

// sum w loss(r).
template <class T>
struct sum_losses {
    const T* weights;
    loss kind;
    double delta;
    index count;
    AITKEN_HD index entry(index i) const { return i; }
    AITKEN_HD void visit(index, index e, index, index, double r, double& sum) const {
        const double lost = loss_of(kind, r, delta);
        sum += weights ? lost * static_cast<double>(weights[e]) : lost;
    }
};
// Weights that make squares touch the loss.
template <class T>
struct touch_loss {
    const T* weights;
    loss kind;
    double delta;
    T* to;
    index count;
    AITKEN_HD index entry(index i) const { return i; }
    AITKEN_HD void visit(index, index e, index, index, double r, double&) const {
        const double touch = touching_weight(kind, r, delta);
        to[e] = static_cast<T>(weights ? touch * static_cast<double>(weights[e]) : touch);
    }
};
// |r| of entries spread over all `stored`.
struct sample_entries {
    index stored;
    double* to;
    index count;
    AITKEN_HD index entry(index i) const {
        return static_cast<index>(static_cast<double>(i) * static_cast<double>(stored) /
                                  static_cast<double>(count));
    }
    AITKEN_HD void visit(index i, index, index, index, double r, double&) const { to[i] = r < 0 ? -r : r; }
};
// Entries of a row, raised by their mean: a row with one entry would else weigh as much as all of a row with
// thousands.
struct raised_degrees {
    const index* begin;  // null: not asked for
    double mean;

    AITKEN_HD double of(index i) const { return static_cast<double>(begin[i + 1] - begin[i]) + mean; }
};
// The residual, where there are degrees over their roots.
template <class T>
struct keep_residuals {
    raised_degrees rows, columns;
    T* to;
    index count;
    AITKEN_HD index entry(index i) const { return i; }
    AITKEN_HD void visit(index, index e, index row, index column, double r, double&) const {
        to[e] = static_cast<T>(rows.begin ? r / std::sqrt(rows.of(row) * columns.of(column)) : r);
    }
};

// y_i = sum of f x_j over the entries of row i: a block a row, threads over columns and, where these are few,
// over entries. (m + 1) sizeof(T) + 4 B and 2 m flops an entry for m columns.
template <class T>
struct spread_rows {
    static constexpr int threads = 128, steps = 2, closings = 0;
    struct shared {
        T part[threads];
    };
    struct local {};
    pattern_view a;
    const T* f;
    matrix<const T> x;
    matrix<T> y;

    spread_rows(const pattern_view& a_, const T* f_, matrix<const T> x_, matrix<T> y_)
        : a(a_), f(f_), x(x_), y(y_) {}
    index blocks() const { return a.rows; }
    AITKEN_HD int width() const {
        int w = 1;
        while (w < threads && w < y.cols) w *= 2;
        return w;
    }
    AITKEN_HD void open(local&, place) const {}
    AITKEN_HD index rounds(place) const { return blocks_for(y.cols, width()); }
    template <int Step>
    AITKEN_HD void step(shared& s, local&, place at, index round) const {
        const int wide = width(), groups = threads / wide, t = at.thread;
        const index c = round * wide + t % wide;
        if (c >= y.cols) return;
        if constexpr (Step == 0) {
            T sum = 0;
            for (index e = a.indptr[at.block] + t / wide; e < a.indptr[at.block + 1]; e += groups)
                sum += f[e] * x.row(a.indices[e])[c];
            s.part[t] = sum;
        } else {
            if (t >= wide) return;
            T sum = 0;
            for (int g = 0; g < groups; ++g) sum += s.part[g * wide + t];
            y.row(at.block)[c] = sum;
        }
    }
};

// --- passes over factors -------------------------------------------------------------------------

// p'p in double: a block takes some rows of p and 256 tiles of the upper triangle, sums to `part`. A number
// of p is read once for every 256 tiles, m (m + 1) flops a row for m columns.
template <class T>
struct gram_parts {
    static constexpr int threads = 256, tile = 4, room_size = 4096, most_rows = 16;
    static constexpr int steps = 2, closings = 1;
    struct shared {
        T room[room_size];
    };
    struct local {
        double acc[tile][tile];
        int row, column;  // of this thread's tile; -1: none
    };
    matrix<const T> p;
    index chunks;
    double* part;

    gram_parts(matrix<const T> p_, index chunks_, double* part_) : p(p_), chunks(chunks_), part(part_) {}
    AITKEN_HD static index tile_rows(index columns) { return (columns + tile - 1) / tile; }
    AITKEN_HD static index tiles(index columns) { return tile_rows(columns) * (tile_rows(columns) + 1) / 2; }
    static index chunks_for(index rows) {
        const index n = blocks_for(rows, 1024);
        return n < 1 ? 1 : n < 64 ? n : 64;
    }
    index tile_groups() const { return blocks_for(tiles(p.cols), threads); }
    index blocks() const { return p.cols == 0 ? 0 : chunks * tile_groups(); }

    AITKEN_HD index groups() const { return (tiles(p.cols) + threads - 1) / threads; }
    AITKEN_HD index chunk(place at) const { return at.block / groups(); }
    AITKEN_HD index my_tile(place at) const { return at.block % groups() * threads + at.thread; }
    AITKEN_HD index begin(place at) const { return p.rows * chunk(at) / chunks; }
    AITKEN_HD index end(place at) const { return p.rows * (chunk(at) + 1) / chunks; }
    AITKEN_HD index stride() const { return tile_rows(p.cols) * tile; }
    AITKEN_HD index together() const {
        const index rows = room_size / stride();
        return rows < most_rows ? rows : most_rows;
    }
    AITKEN_HD void open(local& mine, place at) const {
        AITKEN_UNROLL
        for (int r = 0; r < tile; ++r) AITKEN_UNROLL
        for (int c = 0; c < tile; ++c) mine.acc[r][c] = 0;
        mine.row = mine.column = -1;
        const index mine_is = my_tile(at), side = tile_rows(p.cols);
        if (mine_is >= tiles(p.cols)) return;
        index row = 0, first = 0;
        while (mine_is >= first + side - row) first += side - row++;
        mine.row = static_cast<int>(row);
        mine.column = static_cast<int>(row + mine_is - first);
    }
    AITKEN_HD index rounds(place at) const { return blocks_for(end(at) - begin(at), together()); }
    AITKEN_HD index rows_of(place at, index round) const {
        const index left = end(at) - begin(at) - round * together();
        return left < together() ? left : together();
    }
    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const index rows = rows_of(at, round), wide = stride();
        if constexpr (Step == 0) {
            const index first = begin(at) + round * together();
            for (index i = at.thread; i < rows * wide; i += threads) {
                const index r = i / wide, c = i - r * wide;
                s.room[i] = c < p.cols ? p.row(first + r)[c] : T(0);
            }
        } else {
            if (mine.row < 0) return;
            for (index i = 0; i < rows; ++i) {
                const T *const left = s.room + i * wide + mine.row * tile, *const top = s.room + i * wide +
                                                                                        mine.column * tile;
                AITKEN_UNROLL
                for (int r = 0; r < tile; ++r) AITKEN_UNROLL
                for (int c = 0; c < tile; ++c)
                    mine.acc[r][c] += static_cast<double>(left[r]) * static_cast<double>(top[c]);
            }
        }
    }
    template <int>
    AITKEN_HD void close(shared&, local& mine, place at) const {
        if (mine.row < 0) return;
        double* const to = part + (chunk(at) * tiles(p.cols) + my_tile(at)) * tile * tile;
        AITKEN_UNROLL
        for (int r = 0; r < tile; ++r) AITKEN_UNROLL
        for (int c = 0; c < tile; ++c) to[r * tile + c] = mine.acc[r][c];
    }
};
// Element i of the Gram matrix from the parts of all chunks.
struct gram_total {
    const double* part;
    index chunks, columns;
    double* out;
    AITKEN_HD void operator()(index i) const {
        constexpr index tile = gram_parts<double>::tile;
        index r = i / columns, c = i % columns;
        if (r > c) {
            const index swapped = r;
            r = c;
            c = swapped;
        }
        const index side = gram_parts<double>::tile_rows(columns), tiles = gram_parts<double>::tiles(columns);
        const index row = r / tile, at = row * side - row * (row - 1) / 2 + c / tile - row;
        double sum = 0;
        for (index chunk = 0; chunk < chunks; ++chunk)
            sum += part[(chunk * tiles + at) * tile * tile + r % tile * tile + c % tile];
        out[i] = sum;
    }
};

// q = p P for a small P; q may be p, whose further columns then become 0. A block takes rows that it has read
// before it writes: 2 p.cols q.cols flops a row, each number of P read once for four rows.
template <class T>
struct transform_rows : straight {
    static constexpr int threads = 256, closings = 2, room_size = 4096, most_rows = 16;
    struct shared {
        T room[room_size];
    };
    matrix<const T> p;
    const double* by;
    matrix<T> q;
    index cleared;  // columns of q written: those beyond q.cols with 0

    transform_rows(matrix<const T> p_, const double* by_, matrix<T> q_, index cleared_)
        : p(p_), by(by_), q(q_), cleared(cleared_) {}
    AITKEN_HD index together() const {
        const index rows = room_size / (p.cols > 0 ? p.cols : 1);
        return rows < most_rows ? rows : most_rows;
    }
    index blocks() const { return blocks_for(p.rows, together()); }
    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const index first = at.block * together();
        const index rows = p.rows - first < together() ? p.rows - first : together();
        if constexpr (Phase == 0) {
            for (index i = at.thread; i < rows * p.cols; i += threads)
                s.room[i] = p.row(first + i / p.cols)[i % p.cols];
        } else {
            for (index i = at.thread; i < blocks_for(rows, 4) * cleared; i += threads) {
                const index r = i / cleared * 4, c = i % cleared;
                T sum[4] = {0, 0, 0, 0};
                if (c < q.cols)
                    for (index k = 0; k < p.cols; ++k) {
                        const T factor = static_cast<T>(by[k * q.cols + c]);
                        AITKEN_UNROLL
                        for (int l = 0; l < 4; ++l)
                            if (r + l < rows) sum[l] += s.room[(r + l) * p.cols + k] * factor;
                    }
                AITKEN_UNROLL
                for (int l = 0; l < 4; ++l)
                    if (r + l < rows) q.row(first + r + l)[c] = sum[l];
            }
        }
    }
};

template <class T>
AITKEN_HD double square_of_row(const matrix<const T>& p, index i) {
    double sum = 0;
    for (index c = 0; c < p.cols; ++c)
        sum += static_cast<double>(p.row(i)[c]) * static_cast<double>(p.row(i)[c]);
    return sum;
}
template <class T>
struct row_lengths {
    matrix<const T> p;
    double* out;
    AITKEN_HD void operator()(index i) const { out[i] = std::sqrt(square_of_row(p, i)); }
};
template <class T>
struct clip_rows {
    matrix<T> p;
    double most;
    AITKEN_HD void operator()(index i) const {
        const double length = std::sqrt(square_of_row<T>(p, i));
        if (!(length > most)) return;
        for (index c = 0; c < p.cols; ++c) p.row(i)[c] *= static_cast<T>(most / length);
    }
};
template <class T>
struct over_root_degrees {
    matrix<T> p;
    raised_degrees degrees;
    AITKEN_HD void operator()(index i) const {
        p.row(i / p.cols)[i % p.cols] *= static_cast<T>(1 / std::sqrt(degrees.of(i / p.cols)));
    }
};
// The numbers that the CPU draws.
template <class T>
struct random_rows {
    matrix<T> p;
    std::uint64_t seed;
    double deviation;
    AITKEN_HD void operator()(index i) const {
        constexpr std::uint32_t purpose = 0x616c7373;
        const philox_stream numbers{seed, purpose, static_cast<std::uint32_t>(i / p.cols), 0};
        p.row(i / p.cols)[i % p.cols] =
            deviation == 0
                ? T(0)
                : static_cast<T>(deviation * numbers.normal(static_cast<std::uint32_t>(i % p.cols)));
    }
};
// A copy of a factor with its biases set to 1, and the biases.
template <class T>
struct copy_design {
    matrix<const T> from;  // the columns in use
    T *to, *offset;        // rows of from.ld
    AITKEN_HD void operator()(index i) const {
        const index row = i / from.ld, c = i % from.ld;
        const T value = c < from.cols ? from.row(row)[c] : T(0);
        to[i] = c == 0 ? T(1) : value;
        if (c == 0) offset[row] = value;
    }
};
// Eigenvectors by rows and by columns, and eigenvalues, in the type of the factors.
template <class T>
struct copy_basis {
    const double *from, *from_values;
    index k;
    T *vectors, *turned, *values;
    AITKEN_HD void operator()(index i) const {
        const index r = i / k, c = i % k;
        vectors[i] = turned[c * k + r] = static_cast<T>(from[i]);
        if (c == 0) values[r] = static_cast<T>(from_values[r]);
    }
};
// A Gram matrix in longer rows, zero beyond it.
template <class T>
struct pad_gram {
    const double* from;
    int k, stride;
    T* to;
    AITKEN_HD void operator()(index i) const {
        const index r = i / stride, c = i % stride;
        to[i] = r < k && c < k ? static_cast<T>(from[r * k + c]) : T(0);
    }
};
template <class T>
struct copy_numbers {
    const T* from;
    T* to;
    AITKEN_HD void operator()(index i) const { to[i] = from[i]; }
};
// Between a factor as callers have it, biases apart, and one as kernels want it.
template <class T>
struct load_factor {
    matrix<const T> from;
    const T* bias;  // null: none
    matrix<T> to;   // all columns, padding included
    AITKEN_HD void operator()(index i) const {
        const index row = i / to.ld, c = i % to.ld - (bias ? 1 : 0);
        to.data[i] = c < 0 ? bias[row] : c < from.cols ? from.row(row)[c] : T(0);
    }
};
template <class T>
struct store_factor {
    matrix<const T> from;
    index used;  // columns beside the bias; those beyond become 0
    matrix<T> to;
    T* bias;
    AITKEN_HD void operator()(index i) const {
        const index row = i / to.cols, c = i % to.cols, shift = bias ? 1 : 0;
        to.row(row)[c] = c < used ? from.row(row)[c + shift] : T(0);
        if (bias && c == 0) bias[row] = from.row(row)[0];
    }
};
// The fit at given places. 2 (K + 1) sizeof(T) B and 2 K flops each.
template <class T>
struct predict_places {
    matrix<const T> u, v;
    const T *a, *b;  // null: none
    const std::int32_t *rows, *columns;
    T* out;
    AITKEN_HD void operator()(index i) const {
        const T *const left = u.row(rows[i]), *const right = v.row(columns[i]);
        double sum = a ? static_cast<double>(a[rows[i]]) + static_cast<double>(b[columns[i]]) : 0.0;
        for (index c = 0; c < u.cols; ++c)
            sum += static_cast<double>(left[c]) * static_cast<double>(right[c]);
        out[i] = static_cast<T>(sum);
    }
};
// Raises a flag where an index leads outside.
struct check_columns {
    const std::int32_t* indices;
    index columns;
    int* bad;
    AITKEN_HD void operator()(index i) const {
        if (indices[i] < 0 || indices[i] >= columns) atomic_add(bad, 1);
    }
};
template <class T>
struct sum_numbers : sum_reduction {
    const T* x;
    double* out;
    index count;
    sum_numbers(const T* x_, double* out_, index n) : x(x_), out(out_), count(n) {}
    template <int>
    AITKEN_HD void visit(index i, const double*, double& sum) const {
        sum += static_cast<double>(x[i]);
    }
    AITKEN_HD void finish(const double* total) const { *out = total[0]; }
};

}  // namespace aitken::cuda
