#include "cpu/tall_skinny.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/workspace.hpp"
#include "cpu/simd/dispatch.hpp"
#include "cpu/threads.hpp"

// Everything is done on real arrays: a complex column is a column of twice as many rows, real and imaginary
// parts in turn. With J (re, im) = (-im, re), multiplication by i: X h = X Re h + J X Im h, and the imaginary
// part of x^H w is the real product of x with -J w.

namespace aitken::cpu {
namespace {

// Numbers of a column that are worked on before the next column is taken: 4 KiB of doubles, so that some
// columns and the vectors they meet stay in the first cache.
constexpr index tile = 512;
constexpr index scratch_columns = 32;  // real columns of a scratch panel: 128 KiB, within the second cache

template <class B>
struct storage {
    using real = B;
    static constexpr index parts = 1;
};
template <class R>
struct storage<std::complex<R>> {
    using real = R;
    static constexpr index parts = 2;
};

template <class T>
struct kernels;
template <>
struct kernels<double> {
    static auto gram() { return simd().gram_f64; }
    static auto update() { return simd().update_f64; }
    static auto mix() { return simd().mix_f64; }
};
template <>
struct kernels<float> {
    static auto gram() { return simd().gram_f32; }
    static auto update() { return simd().update_f32; }
    static auto mix() { return simd().mix_f32; }
};

// A tall matrix as real numbers.
template <class T>
struct real_tall {
    const T* data;
    index rows, cols, ld;
};

template <class B>
real_tall<typename storage<B>::real> as_real(tall<const B> x) {
    constexpr index parts = storage<B>::parts;
    return {reinterpret_cast<const typename storage<B>::real*>(x.data), x.rows * parts, x.cols, x.ld * parts};
}

// Cuts rows into chunks, by their number alone.
struct chunking {
    index rows, chunk, count;

    explicit chunking(index n) : rows(n) {
        constexpr index smallest = 8192, most = 32;
        chunk = std::max(smallest, ((n + most - 1) / most + tile - 1) / tile * tile);
        count = (n + chunk - 1) / chunk;
    }

    // body(k, first, last) for chunk k; by threads where `work` numbers are worth it.
    template <class Body>
    void each(index work, Body body) const {
        const auto run = [&](index k) { body(k, k * chunk, std::min((k + 1) * chunk, rows)); };
        if (work < (index{1} << 16)) {
            for (index k = 0; k < count; ++k) run(k);
        } else {
            parallel_chunks(count, run);
        }
    }
};

// Scratch that starts at a cache line.
class lines {
public:
    explicit lines(index n)
        : block_(std::make_unique_for_overwrite<unsigned char[]>(workspace::bytes_for<double>(n))),
          data_(workspace(block_.get(), workspace::bytes_for<double>(n)).take<double>(n).data) {}
    double* data() { return data_; }

private:
    std::unique_ptr<unsigned char[]> block_;
    double* data_;
};

// body(first, count) for the tiles of first .. last.
template <class Body>
void each_tile(index first, index last, Body body) {
    for (index i = first; i < last; i += tile) body(i, std::min(tile, last - i));
}

// out = sum of the chunks' partial sums, in their order.
void add_partials(const std::vector<double>& partials, index chunks, index size, double* out) {
    std::fill(out, out + size, 0.0);
    for (index k = 0; k < chunks; ++k)
        for (index i = 0; i < size; ++i) out[i] += partials[k * size + i];
}

// w as it is, then -J w: `count` numbers each, `tile` apart.
void with_turned(const double* w, index count, double* out) {
    double* turned = out + tile;
    for (index i = 0; i < count; i += 2) {
        out[i] = w[i];
        out[i + 1] = w[i + 1];
        turned[i] = w[i + 1];
        turned[i + 1] = -w[i];
    }
}

double square_sum(const double* w, index count) {
    double sum = 0;
    simd().gram_f64(w, count, 1, w, count, 1, count, 0, &sum, 1);
    return sum;
}

// y += [C V] h for the real numbers of y; coefficients: parts() rows of c.cols + v.cols numbers. Returns
// ||y||^2 where `norm` is set.
template <class B>
double add_combination(tall<const B> c_columns, tall<const B> v_columns, const std::vector<double>& h,
                       double* y, index rows, bool norm) {
    using T = typename storage<B>::real;
    constexpr bool complex = storage<B>::parts == 2;
    const auto c = as_real(c_columns), v = as_real(v_columns);
    const index columns = c.cols + v.cols;
    const auto update = kernels<T>::update();
    const chunking chunks(rows);
    std::vector<double> norms(static_cast<std::size_t>(chunks.count), 0.0);
    chunks.each(rows * (columns + 1), [&](index k, index first, index last) {
        double sum = 0;
        each_tile(first, last, [&](index i, index count) {
            alignas(64) double scratch[complex ? 2 * tile : 1];
            double* z = y + i;
            if constexpr (complex) {
                std::copy(z, z + count, scratch);
                std::fill(scratch + tile, scratch + tile + count, 0.0);
                z = scratch;
            }
            constexpr index parts = storage<B>::parts;
            const index next = tile * static_cast<index>(sizeof(T));
            if (c.cols > 0) update(c.data + i, c.ld, c.cols, h.data(), columns, count, next, z, tile, parts);
            if (v.cols > 0)
                update(v.data + i, v.ld, v.cols, h.data() + c.cols, columns, count, next, z, tile, parts);
            if constexpr (complex) {
                const double* turned = scratch + tile;
                for (index r = 0; r < count; r += 2) {
                    y[i + r] = scratch[r] - turned[r + 1];
                    y[i + r + 1] = scratch[r + 1] + turned[r];
                }
            }
            if (norm) sum += square_sum(y + i, count);
        });
        norms[k] = sum;
    });
    double total = 0;
    for (double sum : norms) total += sum;
    return total;
}

// factor * h, real parts first.
template <class S>
std::vector<double> split(const S* h, index count, S factor) {
    std::vector<double> out(static_cast<std::size_t>(count) * storage<S>::parts);
    for (index j = 0; j < count; ++j) {
        const S value = factor * h[j];
        out[j] = std::real(value);
        if constexpr (storage<S>::parts == 2) out[count + j] = std::imag(value);
    }
    return out;
}

}  // namespace

// (c.cols + v.cols) n entries and n of w, 2 flops per entry (complex: 8).
template <class B, class S>
double project(tall<const B> c_columns, tall<const B> v_columns, vec<const S> w, S* h) {
    using T = typename storage<B>::real;
    constexpr index parts = storage<B>::parts;
    const auto c = as_real(c_columns), v = as_real(v_columns);
    const index columns = c.cols + v.cols, rows = w.size * parts, size = columns * parts + 1;
    const double* numbers = reinterpret_cast<const double*>(w.data);
    const auto gram = kernels<T>::gram();
    const chunking chunks(rows);
    std::vector<double> partials(static_cast<std::size_t>(chunks.count * size), 0.0), out(size);
    chunks.each(rows * (columns + 1), [&](index k, index first, index last) {
        double* part = partials.data() + k * size;
        each_tile(first, last, [&](index i, index count) {
            alignas(64) double scratch[parts == 2 ? 2 * tile : 1];
            const double* y = numbers + i;
            if constexpr (parts == 2) {
                with_turned(y, count, scratch);
                y = scratch;
            }
            const index next = tile * static_cast<index>(sizeof(T));
            if (c.cols > 0) gram(c.data + i, c.ld, c.cols, y, tile, parts, count, next, part, columns);
            if (v.cols > 0)
                gram(v.data + i, v.ld, v.cols, y, tile, parts, count, next, part + c.cols, columns);
            part[size - 1] += square_sum(numbers + i, count);
        });
    });
    add_partials(partials, chunks.count, size, out.data());
    for (index j = 0; j < columns; ++j) {
        if constexpr (parts == 2)
            h[j] = S(out[j], out[columns + j]);
        else
            h[j] = out[j];
    }
    return out[size - 1];
}

// (c.cols + v.cols) n entries and 2 n of w, 2 flops per entry (complex: 8).
template <class B, class S>
double deflate(tall<const B> c, tall<const B> v, const S* h, vec<S> w) {
    return add_combination(c, v, split(h, c.cols + v.cols, S(-1)), reinterpret_cast<double*>(w.data),
                           w.size * storage<S>::parts, true);
}

template <class B, class S>
void combine(tall<const B> x, const S* c, S alpha, vec<S> y) {
    add_combination(x, tall<const B>{}, split(c, x.cols, alpha), reinterpret_cast<double*>(y.data),
                    y.size * storage<S>::parts, false);
}

template <class B, class S>
void gram(tall<const B> x_columns, tall<const B> y_columns, S* out, index ldo) {
    using T = typename storage<B>::real;
    constexpr index parts = storage<B>::parts;
    constexpr bool direct = std::is_same_v<B, double>;
    constexpr index panel_columns = scratch_columns / parts;
    const auto x = as_real(x_columns), y = as_real(y_columns);
    const index size = x.cols * y.cols * parts;
    if (size == 0) return;
    const auto products = kernels<T>::gram();
    const chunking chunks(x.rows);
    std::vector<double> partials(static_cast<std::size_t>(chunks.count * size), 0.0), sums(size);
    chunks.each(x.rows * (x.cols + y.cols), [&](index k, index first, index last) {
        double* part = partials.data() + k * size;
        lines scratch(direct ? 0 : tile * scratch_columns);
        each_tile(first, last, [&](index i, index count) {
            if constexpr (direct) {
                products(x.data + i, x.ld, x.cols, y.data + i, y.ld, y.cols, count, 0, part, x.cols);
            } else {
                for (index j0 = 0; j0 < y.cols; j0 += panel_columns) {
                    const index taken = std::min(panel_columns, y.cols - j0);
                    for (index j = 0; j < taken; ++j) {
                        const T* column = y.data + (j0 + j) * y.ld + i;
                        double* to = scratch.data() + j * parts * tile;
                        if constexpr (parts == 2) {
                            for (index r = 0; r < count; r += 2) {
                                to[r] = column[r];
                                to[r + 1] = column[r + 1];
                                to[tile + r] = column[r + 1];
                                to[tile + r + 1] = -static_cast<double>(column[r]);
                            }
                        } else {
                            for (index r = 0; r < count; ++r) to[r] = column[r];
                        }
                    }
                    products(x.data + i, x.ld, x.cols, scratch.data(), tile, taken * parts, count, 0,
                             part + j0 * parts * x.cols, x.cols);
                }
            }
        });
    });
    add_partials(partials, chunks.count, size, sums.data());
    for (index j = 0; j < y.cols; ++j) {
        const double* column = sums.data() + j * parts * x.cols;
        for (index i = 0; i < x.cols; ++i) {
            if constexpr (parts == 2)
                out[i + j * ldo] = S(column[i], column[x.cols + i]);
            else
                out[i + j * ldo] = column[i];
        }
    }
}

// x.cols n + 2 z.cols n entries, 2 x.cols z.cols n flops (complex: four times that).
template <class B, class S>
void mix(tall<const B> x_columns, const S* p, index ldp, tall<B> z, bool accumulate) {
    using T = typename storage<B>::real;
    constexpr index parts = storage<B>::parts;
    constexpr bool direct = std::is_same_v<B, double>;
    constexpr index panel_columns = scratch_columns / parts;
    const auto x = as_real(x_columns);
    if (z.cols == 0) return;
    const index rows = z.rows * parts, ldz = z.ld * parts;
    T* out = reinterpret_cast<T*>(z.data);
    std::vector<double>
        weights;  // complex: real and imaginary parts of each column of P, one after the other
    const double* weight = nullptr;
    index ldw = x.cols;
    if constexpr (parts == 2) {
        weights.resize(static_cast<std::size_t>(2 * x.cols * z.cols));
        for (index j = 0; j < z.cols; ++j) {
            for (index k = 0; k < x.cols; ++k) {
                weights[2 * j * x.cols + k] = std::real(p[k + j * ldp]);
                weights[(2 * j + 1) * x.cols + k] = std::imag(p[k + j * ldp]);
            }
        }
        weight = weights.data();
    } else {
        weight = p;
        ldw = ldp;
    }
    const auto product = kernels<T>::mix();
    const chunking chunks(rows);
    chunks.each(rows * (x.cols + z.cols), [&](index, index first, index last) {
        lines panel(AITKEN_MIX_ROWS * x.cols);
        lines scratch(direct ? 0 : tile * scratch_columns);
        if constexpr (direct) {
            product(x.data + first, x.ld, x.cols, weight, ldw, last - first, out + first, ldz, z.cols,
                    accumulate, panel.data());
            return;
        }
        each_tile(first, last, [&](index i, index count) {
            for (index j0 = 0; j0 < z.cols; j0 += panel_columns) {
                const index made = std::min(panel_columns, z.cols - j0);
                product(x.data + i, x.ld, x.cols, weight + j0 * parts * ldw, ldw, count, scratch.data(), tile,
                        made * parts, 0, panel.data());
                for (index j = 0; j < made; ++j) {
                    const double* from = scratch.data() + j * parts * tile;
                    T* to = out + (j0 + j) * ldz + i;
                    if constexpr (parts == 2) {
                        for (index r = 0; r < count; r += 2) {
                            const double re = from[r] - from[tile + r + 1], im = from[r + 1] + from[tile + r];
                            to[r] = static_cast<T>(accumulate ? to[r] + re : re);
                            to[r + 1] = static_cast<T>(accumulate ? to[r + 1] + im : im);
                        }
                    } else if (accumulate) {
                        for (index r = 0; r < count; ++r) to[r] = static_cast<T>(to[r] + from[r]);
                    } else {
                        for (index r = 0; r < count; ++r) to[r] = static_cast<T>(from[r]);
                    }
                }
            }
        });
    });
}

template <class From, class To, class S>
void scale_copy(vec<const From> from, S alpha, vec<To> to) {
    using in = typename storage<From>::real;
    using out = typename storage<To>::real;
    constexpr index parts = storage<From>::parts;
    static_assert(parts == storage<To>::parts);
    const in* a = reinterpret_cast<const in*>(from.data);
    out* b = reinterpret_cast<out*>(to.data);
    chunking(from.size * parts).each(from.size * parts, [&](index, index first, index last) {
        const double re = std::real(alpha), im = std::imag(alpha);
        if (parts == 1 || im == 0) {
            for (index i = first; i < last; ++i) b[i] = static_cast<out>(re * a[i]);
        } else {
            for (index i = first; i < last; i += 2) {
                const double x = a[i], y = a[i + 1];
                b[i] = static_cast<out>(re * x - im * y);
                b[i + 1] = static_cast<out>(re * y + im * x);
            }
        }
    });
}

template <class B>
void column_norms(tall<const B> columns, double* norms) {
    const auto x = as_real(columns);
    if (x.cols == 0) return;
    const chunking chunks(x.rows);
    std::vector<double> partials(static_cast<std::size_t>(chunks.count * x.cols), 0.0);
    chunks.each(x.rows * x.cols, [&](index k, index first, index last) {
        for (index j = 0; j < x.cols; ++j) {
            each_tile(first, last, [&](index i, index count) {
                alignas(64) double scratch[tile];
                for (index r = 0; r < count; ++r) scratch[r] = x.data[j * x.ld + i + r];
                partials[k * x.cols + j] += square_sum(scratch, count);
            });
        }
    });
    add_partials(partials, chunks.count, x.cols, norms);
    for (index j = 0; j < x.cols; ++j) norms[j] = std::sqrt(norms[j]);
}

#define AITKEN_TALL_SKINNY(B, S)                                             \
    template double project(tall<const B>, tall<const B>, vec<const S>, S*); \
    template double deflate(tall<const B>, tall<const B>, const S*, vec<S>); \
    template void combine(tall<const B>, const S*, S, vec<S>);               \
    template void gram(tall<const B>, tall<const B>, S*, index);             \
    template void mix(tall<const B>, const S*, index, tall<B>, bool);        \
    template void column_norms(tall<const B>, double*)
AITKEN_TALL_SKINNY(double, double);
AITKEN_TALL_SKINNY(float, double);
AITKEN_TALL_SKINNY(std::complex<double>, std::complex<double>);
AITKEN_TALL_SKINNY(std::complex<float>, std::complex<double>);

template void scale_copy(vec<const double>, double, vec<double>);
template void scale_copy(vec<const double>, double, vec<float>);
template void scale_copy(vec<const float>, double, vec<double>);
template void scale_copy(vec<const float>, double, vec<float>);
template void scale_copy(vec<const std::complex<double>>, std::complex<double>, vec<std::complex<double>>);
template void scale_copy(vec<const std::complex<double>>, std::complex<double>, vec<std::complex<float>>);
template void scale_copy(vec<const std::complex<float>>, std::complex<double>, vec<std::complex<double>>);
template void scale_copy(vec<const std::complex<float>>, std::complex<double>, vec<std::complex<float>>);

}  // namespace aitken::cpu
