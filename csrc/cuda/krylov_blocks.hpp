// The kernels of the Krylov solvers as block programs; semantics are those of drivers/krylov.hpp.
//
// Several lanes advance together, so every program runs over a list of tasks in device memory, and block =
// task * tiles + tile. Sums over the n rows are cut into strips by n alone: partial sums per strip, added in
// order. No floating-point atomics, and bits depend neither on the GPU nor on how many lanes there are.
// B is how basis vectors are stored (double or float); all arithmetic is double.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/views.hpp"
#include "cuda/program.hpp"
#include "cuda/vector_blocks.hpp"

namespace aitken::cuda {

AITKEN_HD bool is_finite(double x) { return x - x == 0; }

// How the rows of tall matrices are cut for sums: at least 512 rows a strip, at most 256 strips.
struct row_strips {
    index n, rows, count;

    explicit row_strips(index n_) : n(n_) {
        const index wanted = blocks_for(n_, 512);
        count = wanted > 256 ? 256 : wanted < 1 ? 1 : wanted;
        rows = blocks_for(blocks_for(n_, count), 32) * 32;
        if (rows < 32) rows = 32;
        count = n_ > 0 ? blocks_for(n_, rows) : 1;
    }
    AITKEN_HD index begin(index strip) const { return strip * rows; }
    AITKEN_HD index end(index strip) const { return (strip + 1) * rows < n ? (strip + 1) * rows : n; }
};

// f(task, row) for every task and row, a thread per row.
template <class F>
struct row_map : straight {
    static constexpr int threads = 256;
    static constexpr int closings = 1;
    struct shared {};
    F f;
    index n, tasks;

    row_map(F f_, index n_, index tasks_) : f(f_), n(n_), tasks(tasks_) {}
    AITKEN_HD index tiles() const { return (n + threads - 1) / threads; }
    index blocks() const { return tiles() * tasks; }

    template <int>
    AITKEN_HD void close(shared&, local&, place at) const {
        const index i = at.block % tiles() * threads + at.thread;
        if (i < n) f(at.block / tiles(), i);
    }
};

// One reduction over the rows of each strip and task: part[strip * tasks + task].
// Op: zero(), combine(double&, double), visit(task, row, double&).
template <class Op>
struct strip_pass : straight {
    static constexpr int threads = 256;
    static constexpr int closings = 3;
    struct shared {
        double sum[threads], segment[32];
    };
    Op op;
    row_strips strips;
    index tasks;
    double* part;

    strip_pass(Op op_, row_strips strips_, index tasks_, double* part_)
        : op(op_), strips(strips_), tasks(tasks_), part(part_) {}
    index blocks() const { return tasks * strips.count; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const index task = at.block / strips.count, strip = at.block % strips.count;
        const int t = at.thread;
        if constexpr (Phase == 0) {
            double sum = op.zero();
            for (index i = strips.begin(strip) + t; i < strips.end(strip); i += threads)
                op.visit(task, i, sum);
            s.sum[t] = sum;
        } else if constexpr (Phase == 1) {
            if (t >= 32) return;
            double sum = s.sum[t];
            for (int k = 32; k < threads; k += 32) op.combine(sum, s.sum[t + k]);
            s.segment[t] = sum;
        } else {
            if (t != 0) return;
            double sum = s.segment[0];
            for (int k = 1; k < 32; ++k) op.combine(sum, s.segment[k]);
            part[strip * tasks + task] = sum;
        }
    }
};

// out[i] = sum over strips of part[strip * total + i].
struct sum_over_strips {
    const double* part;
    index total, strips;
    double* out;
    AITKEN_HD void operator()(index i) const {
        double sum = 0;
        for (index s = 0; s < strips; ++s) sum += part[s * total + i];
        out[i] = sum;
    }
};

// --- products with sparse matrices ---------------------------------------------------------------

// y = Op x for one vector with the operator of one lane.
template <class V>
struct vector_task {
    int lane;
    const V* x;
    V* y;
};

// Compressed rows in device memory, shared by all lanes; the lanes' values differ.
struct device_rows {
    index n;
    const index* indptr;
    const std::int32_t* indices;
};

// y = A x with values[lane]. A block takes 256 rows: it forms products of entries, coalesced and 2048 at a
// time, in shared memory, from where each thread adds those of its row in order. 12 B (double) and 2 flops
// per entry, x through the caches.
template <class V>
struct csr_pass {
    static constexpr int threads = 256, chunk = 2048;
    static constexpr int steps = 2, closings = 1;
    struct shared {
        double product[chunk];
    };
    struct local {
        double sum;
    };
    device_rows a;
    const double* const* values;  // by lane
    const vector_task<V>* list;
    index tasks;

    csr_pass(device_rows a_, const double* const* values_, const vector_task<V>* list_, index tasks_)
        : a(a_), values(values_), list(list_), tasks(tasks_) {}
    AITKEN_HD index tiles() const { return (a.n + threads - 1) / threads; }
    index blocks() const { return tiles() * tasks; }

    AITKEN_HD index first_row(place at) const { return at.block % tiles() * threads; }
    AITKEN_HD index first(place at) const { return a.indptr[first_row(at)]; }
    AITKEN_HD index last(place at) const {
        const index end = first_row(at) + threads;
        return a.indptr[end < a.n ? end : a.n];
    }

    AITKEN_HD void open(local& mine, place) const { mine.sum = 0; }
    AITKEN_HD index rounds(place at) const { return (last(at) - first(at) + chunk - 1) / chunk; }

    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const index begin = first(at) + round * chunk;
        const index all = last(at), end = begin + chunk < all ? begin + chunk : all;
        if constexpr (Step == 0) {
            const vector_task<V> task = list[at.block / tiles()];
            const double* const v = values[task.lane];
            for (index e = begin + at.thread; e < end; e += threads)
                s.product[e - begin] = v[e] * static_cast<double>(task.x[a.indices[e]]);
        } else {
            const index row = first_row(at) + at.thread;
            if (row >= a.n) return;
            const index from = a.indptr[row] > begin ? a.indptr[row] : begin;
            const index to = a.indptr[row + 1] < end ? a.indptr[row + 1] : end;
            for (index e = from; e < to; ++e) mine.sum += s.product[e - begin];
        }
    }
    template <int>
    AITKEN_HD void close(shared&, local& mine, place at) const {
        const index row = first_row(at) + at.thread;
        if (row < a.n) list[at.block / tiles()].y[row] = static_cast<V>(mine.sum);
    }
};

// Rows i of two sets of values that are not the same bits: a block per pair, counts in out.
struct value_pair {
    const std::uint64_t *one, *other;
};
struct count_differences : straight {
    static constexpr int threads = 256;
    static constexpr int closings = 1;
    struct shared {};
    const value_pair* list;
    index pairs, nnz;
    int* out;  // starts as zeros

    count_differences(const value_pair* list_, index pairs_, index nnz_, int* out_)
        : list(list_), pairs(pairs_), nnz(nnz_), out(out_) {}
    index blocks() const { return pairs; }

    template <int>
    AITKEN_HD void close(shared&, local&, place at) const {
        const value_pair p = list[at.block];
        int different = 0;
        for (index e = at.thread; e < nnz; e += threads) different |= p.one[e] != p.other[e];
        if (different) atomic_add(out + at.block, 1);
    }
};

// r = b - r; the squares are summed.
struct residual_vectors {
    const double* b;
    double* r;
};
struct subtract_from_rhs {
    const residual_vectors* list;
    AITKEN_HD double zero() const { return 0; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
    AITKEN_HD void visit(index task, index i, double& sum) const {
        const residual_vectors v = list[task];
        const double r = v.b[i] - v.r[i];
        v.r[i] = r;
        sum += r * r;
    }
};

// --- orthogonalisation ---------------------------------------------------------------------------

// [C V] and the vector that is to be made orthogonal to it; `at` is where its sums begin: one per column,
// then ||w||^2.
template <class B>
struct basis_task {
    const B *c, *v;
    index ldc, ldv;
    int n_c, n_v;
    double* w;
    double* column;  // receives the coefficients, then the lengths after and before
    B* next;         // receives the new vector
    index at;

    AITKEN_HD int count() const { return n_c + n_v; }
    AITKEN_HD const B* col(int j) const { return j < n_c ? c + j * ldc : v + (j - n_c) * ldv; }
};

// The sums of a step: of the first pass, and of the second where there is one.
struct basis_sums {
    row_strips strips;
    index tasks, total;            // sums of all tasks
    double *first, *second;        // [strip][total]
    double *length, *last_length;  // [strip][task]: ||w||^2 after each pass
    bool always_again;

    // Adds lengths of every 32nd strip; the block adds the 32 numbers. Threads below 32 only.
    AITKEN_HD double part_before(int t, index at) const {
        double sum = 0;
        for (index s = t; s < strips.count; s += 32) sum += first[s * total + at];
        return sum;
    }
    AITKEN_HD double part_after(const double* from, int t, index task) const {
        double sum = 0;
        for (index s = t; s < strips.count; s += 32) sum += from[s * tasks + task];
        return sum;
    }
    // "Twice is enough": where the first pass left less than a tenth.
    AITKEN_HD bool again(double before, double after) const { return always_again || after < 0.1 * before; }
};
AITKEN_HD double length_of(const double* squares) {
    double sum = 0;
    for (int k = 0; k < 32; ++k) sum += squares[k];
    return std::sqrt(sum);
}

// [C V]^H w per strip. Rounds over groups of 32 columns: eight warps of four columns each, lanes along the
// rows. 8 B (float: 4) and 2 flops per entry. The second pass does nothing where the first was good.
template <class B, bool Second>
struct basis_dots {
    static constexpr int threads = 256, lanes = 32, warps = 8, group = 32, own = group / warps;
    static constexpr int steps = 4, closings = 0;
    struct shared {
        double of[group][lanes + 1];  // one more than a warp: no bank conflicts
        double segment[group][warps];
        double before[32], after[32];
    };
    struct local {
        bool skip;
    };
    const basis_task<B>* list;
    basis_sums sums;

    index blocks() const { return sums.tasks * sums.strips.count; }
    AITKEN_HD index task(place at) const { return at.block / sums.strips.count; }
    AITKEN_HD index strip(place at) const { return at.block % sums.strips.count; }
    AITKEN_HD void open(local& mine, place) const { mine.skip = false; }
    // One more than the columns: w with itself.
    AITKEN_HD index rounds(place at) const { return (list[task(at)].count() + group) / group; }

    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const int t = at.thread;
        if constexpr (Step == 0) {
            if (!Second || round > 0 || t >= 32) return;
            const basis_task<B>& b = list[task(at)];
            s.before[t] = sums.part_before(t, b.at + b.count());
            s.after[t] = sums.part_after(sums.length, t, task(at));
        } else if constexpr (Step == 1) {
            if (Second && round == 0) mine.skip = !sums.again(length_of(s.before), length_of(s.after));
            if (mine.skip) return;
            const basis_task<B> b = list[task(at)];
            const int lane = t % lanes, first = static_cast<int>(round) * group + t / lanes;
            const double* const w = b.w;
            const B* column[own];
            double sum[own];
            AITKEN_UNROLL
            for (int q = 0; q < own; ++q) {
                const int j = first + q * warps;
                column[q] = j < b.count() ? b.col(j) : nullptr;
                sum[q] = 0;
            }
            for (index i = sums.strips.begin(strip(at)) + lane; i < sums.strips.end(strip(at)); i += lanes) {
                const double x = w[i];
                AITKEN_UNROLL
                for (int q = 0; q < own; ++q)
                    sum[q] += x * (column[q] ? static_cast<double>(column[q][i]) : x);
            }
            AITKEN_UNROLL
            for (int q = 0; q < own; ++q) s.of[t / lanes + q * warps][lane] = sum[q];
        } else if constexpr (Step == 2) {
            if (mine.skip) return;
            const int column = t / warps, part = t % warps;
            double sum = 0;
            for (int l = 0; l < lanes / warps; ++l) sum += s.of[column][part * (lanes / warps) + l];
            s.segment[column][part] = sum;
        } else {
            const basis_task<B>& b = list[task(at)];
            const int j = static_cast<int>(round) * group + t;
            if (mine.skip || t >= group || j > b.count()) return;
            double sum = 0;
            for (int part = 0; part < warps; ++part) sum += s.segment[t][part];
            (Second ? sums.second : sums.first)[strip(at) * sums.total + b.at + j] = sum;
        }
    }
};

// w -= [C V] h with ||w||^2 per strip, where h is summed from the strips by every block: 8 B per strip and
// column from L2, against a launch of its own. One read of the basis, 2 flops per entry.
template <class B, bool Second>
struct basis_subtract {
    static constexpr int threads = 256, group = 256;
    static constexpr int steps = 3, closings = 3;
    struct shared {
        double h[group];
        double before[32], after[32];
        double sum[threads], segment[32];
    };
    struct local {
        bool skip;
        double square;
    };
    const basis_task<B>* list;
    basis_sums sums;

    index blocks() const { return sums.tasks * sums.strips.count; }
    AITKEN_HD index task(place at) const { return at.block / sums.strips.count; }
    AITKEN_HD index strip(place at) const { return at.block % sums.strips.count; }
    AITKEN_HD void open(local& mine, place) const {
        mine.skip = false;
        mine.square = 0;
    }
    // At least one: the length is wanted without columns, too.
    AITKEN_HD index rounds(place at) const {
        const int count = list[task(at)].count();
        return count > 0 ? (count + group - 1) / group : 1;
    }

    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const int t = at.thread;
        if constexpr (Step == 0) {
            if (!Second || round > 0 || t >= 32) return;
            const basis_task<B>& b = list[task(at)];
            s.before[t] = sums.part_before(t, b.at + b.count());
            s.after[t] = sums.part_after(sums.length, t, task(at));
        } else if constexpr (Step == 1) {
            if (Second && round == 0) mine.skip = !sums.again(length_of(s.before), length_of(s.after));
            const basis_task<B>& b = list[task(at)];
            const index j = round * group + t;
            if (mine.skip || j >= b.count()) return;
            const double* const part = Second ? sums.second : sums.first;
            double h = 0;
            for (index k = 0; k < sums.strips.count; ++k) h += part[k * sums.total + b.at + j];
            s.h[t] = h;
            if (strip(at) == 0) b.column[j] = Second ? b.column[j] + h : h;
        } else {
            if (mine.skip) return;
            const basis_task<B> b = list[task(at)];
            const int first = static_cast<int>(round) * group;
            const int count = b.count() - first < group ? b.count() - first : group;
            for (index i = sums.strips.begin(strip(at)) + t; i < sums.strips.end(strip(at)); i += threads) {
                double x = b.w[i];
                for (int j = 0; j < count; ++j) x -= static_cast<double>(b.col(first + j)[i]) * s.h[j];
                b.w[i] = x;
                if (round + 1 == rounds(at)) mine.square += x * x;
            }
        }
    }
    template <int Phase>
    AITKEN_HD void close(shared& s, local& mine, place at) const {
        const int t = at.thread;
        if (mine.skip) return;
        if constexpr (Phase == 0) {
            s.sum[t] = mine.square;
        } else if constexpr (Phase == 1) {
            if (t >= 32) return;
            double sum = 0;
            for (int k = t; k < threads; k += 32) sum += s.sum[k];
            s.segment[t] = sum;
        } else if (t == 0) {
            double sum = 0;
            for (int k = 0; k < 32; ++k) sum += s.segment[k];
            (Second ? sums.last_length : sums.length)[strip(at) * sums.tasks + task(at)] = sum;
        }
    }
};

// w /= ||w||, appended to the basis. Reads 8 B, writes 8 B and one stored number per row.
template <class B>
struct basis_append : straight {
    static constexpr int threads = 256;
    static constexpr int closings = 3;
    struct shared {
        double before[32], after[32], last[32];
    };
    const basis_task<B>* list;
    basis_sums sums;

    basis_append(const basis_task<B>* list_, const basis_sums& sums_) : list(list_), sums(sums_) {}
    index blocks() const { return sums.tasks * sums.strips.count; }
    AITKEN_HD index task(place at) const { return at.block / sums.strips.count; }
    AITKEN_HD index strip(place at) const { return at.block % sums.strips.count; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            if (t >= 32) return;
            const basis_task<B>& b = list[task(at)];
            s.before[t] = sums.part_before(t, b.at + b.count());
            s.after[t] = sums.part_after(sums.length, t, task(at));
        } else if constexpr (Phase == 1) {
            if (t >= 32) return;
            const bool again = sums.again(length_of(s.before), length_of(s.after));
            s.last[t] = again ? sums.part_after(sums.last_length, t, task(at)) : s.after[t];
        } else {
            const basis_task<B> b = list[task(at)];
            const double before = length_of(s.before), after = length_of(s.last);
            const double scale = after > 1e-14 * before ? 1 / after : 0.0;
            for (index i = sums.strips.begin(strip(at)) + t; i < sums.strips.end(strip(at)); i += threads) {
                const double x = b.w[i] * scale;
                b.w[i] = x;
                b.next[i] = static_cast<B>(x);
            }
            if (strip(at) == 0 && t == 0) {
                b.column[b.count()] = after;
                b.column[b.count() + 1] = before;
            }
        }
    }
};

// --- small products of tall matrices -------------------------------------------------------------

// sum[at + i + j x.cols] = x_i^H y_j per strip. A block makes 32 x 32 of them from 32 rows at a time in
// shared memory, four in the registers of each thread. 2 flops and 1/16 shared loads per product and row.
template <class B>
struct gram_task_there {
    tall<const B> x, y;
    index at;
};
template <class B>
struct gram_pass {
    static constexpr int threads = 256, side = 32, half = 16;
    static constexpr int steps = 2, closings = 1;
    struct shared {
        double x[side][side + 1], y[side][side + 1];  // [column][row]
    };
    struct local {
        double sum[4];
    };
    const gram_task_there<B>* list;
    row_strips strips;
    index tasks, total, row_tiles, col_tiles;  // tiles of the largest task
    double* part;                              // [strip][total]

    index blocks() const { return tasks * strips.count * row_tiles * col_tiles; }
    AITKEN_HD index tile(place at) const { return at.block % (row_tiles * col_tiles); }
    AITKEN_HD index strip(place at) const { return at.block / (row_tiles * col_tiles) % strips.count; }
    AITKEN_HD index task(place at) const { return at.block / (row_tiles * col_tiles * strips.count); }
    AITKEN_HD index first_i(place at) const { return tile(at) % row_tiles * side; }
    AITKEN_HD index first_j(place at) const { return tile(at) / row_tiles * side; }

    AITKEN_HD void open(local& mine, place) const {
        for (double& s : mine.sum) s = 0;
    }
    AITKEN_HD index rounds(place at) const {
        const gram_task_there<B>& g = list[task(at)];
        if (first_i(at) >= g.x.cols || first_j(at) >= g.y.cols) return 0;
        return (strips.end(strip(at)) - strips.begin(strip(at)) + side - 1) / side;
    }
    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const int t = at.thread;
        if constexpr (Step == 0) {
            const gram_task_there<B> g = list[task(at)];
            const int lane = t % side;
            const index row = strips.begin(strip(at)) + round * side + lane;
            const bool inside = row < strips.end(strip(at));
            for (int c = t / side; c < side; c += threads / side) {
                const index i = first_i(at) + c, j = first_j(at) + c;
                s.x[c][lane] = inside && i < g.x.cols ? static_cast<double>(g.x.col(i)[row]) : 0.0;
                s.y[c][lane] = inside && j < g.y.cols ? static_cast<double>(g.y.col(j)[row]) : 0.0;
            }
        } else {
            const int i = t % half, j = t / half;
            for (int r = 0; r < side; ++r) {
                const double x0 = s.x[i][r], x1 = s.x[i + half][r], y0 = s.y[j][r], y1 = s.y[j + half][r];
                mine.sum[0] += x0 * y0;
                mine.sum[1] += x1 * y0;
                mine.sum[2] += x0 * y1;
                mine.sum[3] += x1 * y1;
            }
        }
    }
    template <int>
    AITKEN_HD void close(shared&, local& mine, place at) const {
        const gram_task_there<B>& g = list[task(at)];
        AITKEN_UNROLL
        for (int q = 0; q < 4; ++q) {
            const index i = first_i(at) + at.thread % half + (q % 2) * half;
            const index j = first_j(at) + at.thread / half + (q / 2) * half;
            if (i < g.x.cols && j < g.y.cols) part[strip(at) * total + g.at + i + j * g.x.cols] = mine.sum[q];
        }
    }
};

// Z = X P or Z += X P, P packed by columns. A thread makes Columns numbers of one row; X is read once per
// Columns columns of Z, mostly from the caches. Reads sizeof(From), 2 Columns flops per entry of X.
template <class From, class To>
struct mix_task_there {
    tall<const From> x;
    const double* p;
    tall<To> z;
    int accumulate;
};
template <class From, class To, int Columns>
struct mix_pass {
    static constexpr int threads = 256, depth = 64;
    static constexpr int steps = 2, closings = 1;
    struct shared {
        double p[depth][Columns];
    };
    struct local {
        double sum[Columns];
    };
    const mix_task_there<From, To>* list;
    index n, tasks, groups;  // groups of columns of the widest Z

    AITKEN_HD index tiles() const { return (n + threads - 1) / threads; }
    index blocks() const { return tasks * tiles() * groups; }
    AITKEN_HD index row(place at) const { return at.block / groups % tiles() * threads + at.thread; }
    AITKEN_HD index first_col(place at) const { return at.block % groups * Columns; }
    AITKEN_HD index task(place at) const { return at.block / (groups * tiles()); }

    AITKEN_HD void open(local& mine, place at) const {
        const mix_task_there<From, To>& m = list[task(at)];
        AITKEN_UNROLL
        for (int q = 0; q < Columns; ++q) {
            const index j = first_col(at) + q;
            const bool add = m.accumulate != 0 && j < m.z.cols && row(at) < n;
            mine.sum[q] = add ? static_cast<double>(m.z.col(j)[row(at)]) : 0.0;
        }
    }
    AITKEN_HD index rounds(place at) const {
        const mix_task_there<From, To>& m = list[task(at)];
        return first_col(at) < m.z.cols ? (m.x.cols + depth - 1) / depth : 0;
    }
    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, place at, index round) const {
        const mix_task_there<From, To>& m = list[task(at)];
        const index first = round * depth;
        const int count = static_cast<int>(m.x.cols - first < depth ? m.x.cols - first : depth);
        if constexpr (Step == 0) {
            for (int e = at.thread; e < depth * Columns; e += threads) {
                const int i = e / Columns, q = e % Columns;
                const index j = first_col(at) + q;
                s.p[i][q] = i < count && j < m.z.cols ? m.p[first + i + j * m.x.cols] : 0.0;
            }
        } else {
            const index r = row(at);
            if (r >= n) return;
            const From* x = m.x.col(first) + r;
            for (int i = 0; i < count; ++i, x += m.x.ld) {
                const double value = static_cast<double>(*x);
                AITKEN_UNROLL
                for (int q = 0; q < Columns; ++q) mine.sum[q] += value * s.p[i][q];
            }
        }
    }
    template <int>
    AITKEN_HD void close(shared&, local& mine, place at) const {
        const mix_task_there<From, To>& m = list[task(at)];
        if (row(at) >= n) return;
        AITKEN_UNROLL
        for (int q = 0; q < Columns; ++q) {
            const index j = first_col(at) + q;
            if (j < m.z.cols) m.z.col(j)[row(at)] = static_cast<To>(mine.sum[q]);
        }
    }
};

// --- vectors -------------------------------------------------------------------------------------

template <class B>
struct store_vectors {
    const double* from;
    double alpha;
    B* to;
    double* also;  // may be null, or `from`
};
template <class B>
struct store_rows {
    const store_vectors<B>* list;
    AITKEN_HD void operator()(index task, index i) const {
        const store_vectors<B> v = list[task];
        const double x = v.alpha * v.from[i];
        v.to[i] = static_cast<B>(x);
        if (v.also) v.also[i] = x;
    }
};
template <class B>
struct load_vector {
    const B* from;
    double* to;
    AITKEN_HD void operator()(index i) const { to[i] = static_cast<double>(from[i]); }
};
struct sum_vectors {
    const double* x;
    double* y;
};
struct add_rows {
    const sum_vectors* list;
    AITKEN_HD void operator()(index task, index i) const { list[task].y[i] += list[task].x[i]; }
};

// --- preconditioners -----------------------------------------------------------------------------

// A lane whose preconditioner is to be made from new values.
struct refresh_task {
    int lane;
    const double* values;
};

// The first row whose number is not finite, for each lane that was refreshed; n where all are.
struct first_unusable : straight {
    static constexpr int threads = 256;
    static constexpr int closings = 2;
    struct shared {
        int row[threads];
    };
    const refresh_task* list;
    index tasks, n;
    const double* numbers;  // n per lane
    int* out;               // by task

    first_unusable(const refresh_task* list_, index tasks_, index n_, const double* numbers_, int* out_)
        : list(list_), tasks(tasks_), n(n_), numbers(numbers_), out(out_) {}
    index blocks() const { return tasks; }

    template <int Phase>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const int t = at.thread;
        if constexpr (Phase == 0) {
            const double* const mine = numbers + list[at.block].lane * n;
            index row = t;
            while (row < n && is_finite(mine[row])) row += threads;
            s.row[t] = static_cast<int>(row < n ? row : n);
        } else if (t == 0) {
            int row = s.row[0];
            for (int k = 1; k < threads; ++k) row = s.row[k] < row ? s.row[k] : row;
            out[at.block] = row;
        }
    }
};

// The inverse of the diagonal, n numbers per lane.
struct invert_diagonals {
    const refresh_task* list;
    const index* position;  // of the diagonal among the entries
    index n;
    double* inverse;
    AITKEN_HD void operator()(index task, index i) const {
        inverse[list[task].lane * n + i] = 1.0 / list[task].values[position[i]];
    }
};
template <class V>
struct scale_by_inverse {
    const vector_task<V>* list;
    const double* inverse;
    index n;
    AITKEN_HD void operator()(index task, index i) const {
        const vector_task<V> v = list[task];
        v.y[i] = static_cast<V>(inverse[v.lane * n + i] * static_cast<double>(v.x[i]));
    }
};

// Diagonal blocks of `size` rows as dense matrices by columns, one after the other: n size numbers per lane.
struct diagonal_blocks {
    index n, size;

    AITKEN_HD index count() const { return (n + size - 1) / size; }
    AITKEN_HD index rows(index block) const { return (block + 1) * size < n ? size : n - block * size; }
    AITKEN_HD index stored() const { return n * size; }
};
struct clear_and_fill_blocks {
    const refresh_task* list;
    diagonal_blocks blocks;
    device_rows a;
    double* dense;
    // Row i of its block: zeros, then A's entries.
    AITKEN_HD void operator()(index task, index i) const {
        const index block = i / blocks.size, first = block * blocks.size, m = blocks.rows(block);
        double* const row = dense + list[task].lane * blocks.stored() + first * blocks.size + (i - first);
        for (index j = 0; j < m; ++j) row[j * m] = 0;
        for (index e = a.indptr[i]; e < a.indptr[i + 1]; ++e) {
            const index j = a.indices[e] - first;
            if (j >= 0 && j < m) row[j * m] = list[task].values[e];
        }
    }
};

// Gauss-Jordan with row exchanges in place; a block per lane and diagonal block, m rounds of 2 m^2 flops.
// `pivots` receives the inverse pivots, n numbers per lane: what is not finite is no inverse.
struct invert_blocks {
    static constexpr int threads = 256, largest = 1024;
    static constexpr int steps = 5, closings = 1;
    struct shared {
        double column[largest];
        double size[threads];
        std::int32_t row[threads];
        std::int32_t exchanged[largest];
    };
    struct local {};
    const refresh_task* list;
    index tasks;
    diagonal_blocks parts;
    double *dense, *pivots;

    index blocks() const { return tasks * parts.count(); }
    AITKEN_HD index block(place at) const { return at.block % parts.count(); }
    AITKEN_HD int lane(place at) const { return list[at.block / parts.count()].lane; }
    AITKEN_HD double* numbers(place at) const {
        return dense + lane(at) * parts.stored() + block(at) * parts.size * parts.size;
    }
    AITKEN_HD double& inverse_pivot(place at, index k) const {
        return pivots[lane(at) * parts.n + block(at) * parts.size + k];
    }
    AITKEN_HD void open(local&, place) const {}
    AITKEN_HD index rounds(place at) const { return parts.rows(block(at)); }

    template <int Step>
    AITKEN_HD void step(shared& s, local&, place at, index k) const {
        const index m = parts.rows(block(at));
        double* const a = numbers(at);
        const int t = at.thread;
        if constexpr (Step == 0) {  // the largest of the column, from the diagonal down
            double best = -1;
            index row = k;
            for (index i = k + t; i < m; i += threads)
                if (const double size = std::fabs(a[i + k * m]); size > best) {
                    best = size;
                    row = i;
                }
            s.size[t] = best;
            s.row[t] = static_cast<std::int32_t>(row);
        } else if constexpr (Step == 1) {
            if (t != 0) return;
            int best = 0;
            for (int q = 1; q < threads; ++q)
                if (s.size[q] > s.size[best]) best = q;
            s.exchanged[k] = s.row[best];
            inverse_pivot(at, k) = 1.0 / a[s.row[best] + k * m];
        } else if constexpr (Step == 2) {  // row k takes its pivot and is scaled
            const index p = s.exchanged[k];
            const double scale = inverse_pivot(at, k);
            for (index j = t; j < m; j += threads) {
                const double top = a[p + j * m];
                a[p + j * m] = a[k + j * m];
                a[k + j * m] = j == k ? scale : top * scale;
            }
        } else if constexpr (Step == 3) {
            for (index i = t; i < m; i += threads) {
                if (i == k) continue;
                s.column[i] = a[i + k * m];
                a[i + k * m] = 0;
            }
        } else {
            for (index e = t; e < m * m; e += threads) {
                const index i = e % m, j = e / m;
                if (i != k) a[e] -= s.column[i] * a[k + j * m];
            }
        }
    }
    // The exchanges of rows are exchanges of columns of the inverse, in reverse.
    template <int>
    AITKEN_HD void close(shared& s, local&, place at) const {
        const index m = parts.rows(block(at));
        double* const a = numbers(at);
        for (index i = at.thread; i < m; i += threads)
            for (index k = m - 1; k >= 0; --k) {
                const index p = s.exchanged[k];
                const double kept = a[i + k * m];
                a[i + k * m] = a[i + p * m];
                a[i + p * m] = kept;
            }
    }
};

// 8 m B and 2 m flops per row of a block of m rows.
template <class V>
struct multiply_blocks {
    const vector_task<V>* list;
    diagonal_blocks parts;
    const double* dense;
    AITKEN_HD void operator()(index task, index i) const {
        const vector_task<V> v = list[task];
        const index block = i / parts.size, first = block * parts.size, m = parts.rows(block);
        const double* row = dense + v.lane * parts.stored() + first * parts.size + (i - first);
        double sum = 0;
        for (index j = 0; j < m; ++j, row += m) sum += *row * static_cast<double>(v.x[first + j]);
        v.y[i] = static_cast<V>(sum);
    }
};

// --- Chebyshev: r, d and A d of every task are 3 n numbers of `work` ------------------------------

struct polynomial {
    index n;
    int per_lane;           // 1 / theta, then keep and step of each degree
    const double* factors;  // by lane
    const double* inverse;  // of the diagonal, by lane
    double* work;

    AITKEN_HD double* r(index task) const { return work + 3 * task * n; }
    AITKEN_HD double* d(index task) const { return work + (3 * task + 1) * n; }
    AITKEN_HD double* ad(index task) const { return work + (3 * task + 2) * n; }
};
template <class V>
struct polynomial_start {
    const vector_task<V>* list;
    polynomial p;
    AITKEN_HD void operator()(index task, index i) const {
        const vector_task<V> v = list[task];
        const double r = static_cast<double>(v.x[i]) * p.inverse[v.lane * p.n + i];
        const double d = r * p.factors[v.lane * p.per_lane];
        p.r(task)[i] = r;
        p.d(task)[i] = d;
        v.y[i] = static_cast<V>(d);
    }
};
template <class V>
struct polynomial_step {
    const vector_task<V>* list;
    polynomial p;
    int degree;
    AITKEN_HD void operator()(index task, index i) const {
        const vector_task<V> v = list[task];
        const double* const factor = p.factors + v.lane * p.per_lane + 1 + 2 * degree;
        const double r = p.r(task)[i] - p.ad(task)[i] * p.inverse[v.lane * p.n + i];
        const double d = p.d(task)[i] * factor[0] + r * factor[1];
        p.r(task)[i] = r;
        p.d(task)[i] = d;
        v.y[i] = static_cast<V>(static_cast<double>(v.y[i]) + d);
    }
};
// Power steps on D^-1 A: v = start, v = D^-1 (A v), ||v||^2. v is d, A v is ad.
struct power_start {
    const double* start;
    polynomial p;
    AITKEN_HD void operator()(index task, index i) const { p.d(task)[i] = start[i]; }
};
struct power_step {
    const refresh_task* list;
    polynomial p;
    AITKEN_HD void operator()(index task, index i) const {
        p.d(task)[i] = p.ad(task)[i] * p.inverse[list[task].lane * p.n + i];
    }
};
struct power_length {
    polynomial p;
    AITKEN_HD double zero() const { return 0; }
    AITKEN_HD void combine(double& a, double b) const { a += b; }
    AITKEN_HD void visit(index task, index i, double& sum) const {
        const double x = p.d(task)[i];
        sum += x * x;
    }
};
// max_i sum_j |a_ij| / |a_ii|, Gershgorin's bound for D^-1 A.
struct row_bound {
    const refresh_task* list;
    device_rows a;
    const double* inverse;
    AITKEN_HD double zero() const { return 0; }
    AITKEN_HD void combine(double& a_, double b) const { a_ = larger(a_, b); }
    AITKEN_HD void visit(index task, index i, double& most) const {
        const refresh_task l = list[task];
        double sum = 0;
        for (index e = a.indptr[i]; e < a.indptr[i + 1]; ++e) sum += std::fabs(l.values[e]);
        most = larger(most, sum * std::fabs(inverse[l.lane * a.n + i]));
    }
};

// --- ILU(0) by levels ----------------------------------------------------------------------------

// Strict triangles of the matrix in the order of its levels (sparse/levels.hpp). Numbers of a lane: those of
// L, of U, and the diagonal, which elimination replaces by the inverse pivots.
struct level_factors {
    index n, levels, n_lower, n_upper;
    const index* starts;                            // levels + 1
    const std::int32_t* row;                        // by place
    const index *lower, *upper;                     // n + 1 each: entries of a place
    const std::int32_t *lower_place, *upper_place;  // column numbers as places, ascending in a row
    const std::int32_t *lower_row, *upper_row;      // ... as rows of A
    double* numbers;

    AITKEN_HD index stored() const { return n_lower + n_upper + n; }
    AITKEN_HD double* l(int lane) const { return numbers + lane * stored(); }
    AITKEN_HD double* u(int lane) const { return l(lane) + n_lower; }
    AITKEN_HD double* diagonal(int lane) const { return u(lane) + n_upper; }
};
struct load_factors {
    const refresh_task* list;
    level_factors f;
    const index* target;  // of each entry of A
    AITKEN_HD void operator()(index task, index e) const {
        f.l(list[task].lane)[target[e]] = list[task].values[e];
    }
};
// So that one test serves all preconditioners: inverse pivots by rows of A.
struct pivots_by_row {
    const refresh_task* list;
    level_factors f;
    double* out;
    AITKEN_HD void operator()(index task, index k) const {
        out[list[task].lane * f.n + f.row[k]] = f.diagonal(list[task].lane)[k];
    }
};

// Rounds first .. first + count of a walk over levels: one block per task walks many narrow levels with a
// barrier between, or `wide` blocks share a single level of many rows.
struct level_walk {
    index first, count, wide;
};
// What all threads of a task do with the places of one level.
struct level_rows {
    index begin, end, stride;
};
template <int Threads>
AITKEN_HD level_rows rows_of_level(const level_factors& f, index level, index part, index parts, int thread) {
    return {f.starts[level] + part * Threads + thread, f.starts[level + 1], parts * Threads};
}

// Elimination, row by row in the order of the levels; a thread per row merges the rows it needs. Round =
// level.
struct eliminate_levels {
    static constexpr int threads = 512;
    static constexpr int steps = 1, closings = 0;
    struct shared {};
    struct local {};
    const refresh_task* list;
    index tasks;
    level_factors f;
    level_walk walk;

    index blocks() const { return tasks * walk.wide; }
    AITKEN_HD void open(local&, place) const {}
    AITKEN_HD index rounds(place) const { return walk.count; }

    template <int>
    AITKEN_HD void step(shared&, local&, place at, index round) const {
        const int lane = list[at.block / walk.wide].lane;
        const level_rows rows =
            rows_of_level<threads>(f, walk.first + round, at.block % walk.wide, walk.wide, at.thread);
        for (index k = rows.begin; k < rows.end; k += rows.stride) eliminate(lane, k);
    }

private:
    AITKEN_HD void eliminate(int lane, index k) const {
        double *const l = f.l(lane), *const u = f.u(lane), *const diagonal = f.diagonal(lane);
        const index end_l = f.lower[k + 1], end_u = f.upper[k + 1];
        for (index p = f.lower[k]; p < end_l; ++p) {
            const std::int32_t c = f.lower_place[p];
            const double factor = l[p] * diagonal[c];
            l[p] = factor;
            index at_l = p + 1, at_u = f.upper[k];
            for (index q = f.upper[c]; q < f.upper[c + 1]; ++q) {
                const std::int32_t j = f.upper_place[q];
                const double change = factor * u[q];
                if (j < k) {
                    while (at_l < end_l && f.lower_place[at_l] < j) ++at_l;
                    if (at_l < end_l && f.lower_place[at_l] == j) l[at_l] -= change;
                } else if (j == k) {
                    diagonal[k] -= change;
                } else {
                    while (at_u < end_u && f.upper_place[at_u] < j) ++at_u;
                    if (at_u < end_u && f.upper_place[at_u] == j) u[at_u] -= change;
                }
            }
        }
        diagonal[k] = 1.0 / diagonal[k];
    }
};

// y = U^-1 L^-1 x in place of y. Rounds 0 .. levels - 1 are those of L, the rest those of U, last level
// first. 12 B and 2 flops per entry.
template <class V>
struct solve_levels {
    static constexpr int threads = 512;
    static constexpr int steps = 1, closings = 0;
    struct shared {};
    struct local {};
    const vector_task<V>* list;
    index tasks;
    level_factors f;
    level_walk walk;

    index blocks() const { return tasks * walk.wide; }
    AITKEN_HD void open(local&, place) const {}
    AITKEN_HD index rounds(place) const { return walk.count; }

    template <int>
    AITKEN_HD void step(shared&, local&, place at, index round) const {
        const vector_task<V> v = list[at.block / walk.wide];
        const index r = walk.first + round;
        const bool forward = r < f.levels;
        const index level = forward ? r : 2 * f.levels - 1 - r;
        const level_rows rows = rows_of_level<threads>(f, level, at.block % walk.wide, walk.wide, at.thread);
        const double *const l = f.l(v.lane), *const u = f.u(v.lane), *const diagonal = f.diagonal(v.lane);
        for (index k = rows.begin; k < rows.end; k += rows.stride) {
            const index i = f.row[k];
            if (forward) {
                double sum = static_cast<double>(v.x[i]);
                for (index p = f.lower[k]; p < f.lower[k + 1]; ++p)
                    sum -= l[p] * static_cast<double>(v.y[f.lower_row[p]]);
                v.y[i] = static_cast<V>(sum);
            } else {
                double sum = static_cast<double>(v.y[i]);
                for (index p = f.upper[k]; p < f.upper[k + 1]; ++p)
                    sum -= u[p] * static_cast<double>(v.y[f.upper_row[p]]);
                v.y[i] = static_cast<V>(sum * diagonal[k]);
            }
        }
    }
};

}  // namespace aitken::cuda
