// What tests of matrix completion share: problems of awkward shapes, a slow and obvious half sweep, and a
// walk through every function of a kernel set, whatever its backend is.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/api/completion.hpp"
#include "core/backend.hpp"
#include "drivers/completion.hpp"
#include "lapack_stand_in.hpp"

namespace aitken::tests {

namespace als = aitken::completion;

namespace stand_in {

// Eigenvalues, ascending, and eigenvectors of a symmetric matrix by cyclic Jacobi rotations.
inline void dsyevd(char* job, char*, int* size, double* a, int* lda, double* w, double* work, int* lwork,
                   int* iwork, int* liwork, int* info) {
    const int n = *size;
    *info = *job == 'V' && *lda == n ? 0 : -1;
    if (*lwork < 0 || *liwork < 0) {
        *work = *iwork = 1;
        return;
    }
    std::vector<double> m(a, a + n * n), v(m.size(), 0.0);
    if (!std::all_of(m.begin(), m.end(), [](double x) { return std::isfinite(x); })) {
        *info = 1;
        return;
    }
    for (int j = 0; j < n; ++j) {
        v[j * n + j] = 1;
        for (int i = j + 1; i < n; ++i) m[j * n + i] = m[i * n + j];  // the upper triangle is given
    }
    for (int sweep = 0; sweep < 60; ++sweep) {
        double off = 0;
        for (int p = 0; p < n; ++p)
            for (int q = p + 1; q < n; ++q) {
                const double x = m[q * n + p];
                off += std::abs(x);
                if (x == 0) continue;
                const double theta = (m[q * n + q] - m[p * n + p]) / (2 * x);
                const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::hypot(1.0, theta));
                const double c = 1 / std::hypot(1.0, t), s = t * c;
                for (int k = 0; k < n; ++k) {
                    const double kp = m[p * n + k], kq = m[q * n + k];
                    m[p * n + k] = c * kp - s * kq;
                    m[q * n + k] = s * kp + c * kq;
                    const double vp = v[p * n + k], vq = v[q * n + k];
                    v[p * n + k] = c * vp - s * vq;
                    v[q * n + k] = s * vp + c * vq;
                }
                for (int k = 0; k < n; ++k) {
                    const double pk = m[k * n + p], qk = m[k * n + q];
                    m[k * n + p] = c * pk - s * qk;
                    m[k * n + q] = s * pk + c * qk;
                }
            }
        if (off == 0) break;
    }
    std::vector<int> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int i, int j) { return m[i * n + i] < m[j * n + j]; });
    for (int j = 0; j < n; ++j) {
        w[j] = m[order[j] * n + order[j]];
        std::copy_n(v.data() + order[j] * n, n, a + j * n);
    }
}

inline void load_eigen() {
    load_lapack();
    static const bool loaded = [] {
        dense::lapack().load(
            "dsyevd", reinterpret_cast<void*>(&dsyevd),
            "void (char *, char *, int *, double *, int *, double *, double *, int *, int *, "
            "int *, int *)");
        return true;
    }();
    static_cast<void>(loaded);
}

}  // namespace stand_in

// Entries in compressed rows.
template <class T>
struct entry_list {
    index rows = 0, cols = 0;
    std::vector<index> indptr{0};
    std::vector<std::int32_t> indices;
    std::vector<T> values, weights;  // no weights: 1

    index nnz() const { return static_cast<index>(indices.size()); }
    als::observed<T> view() const {
        return {{rows, cols, indptr.data(), indices.data()},
                values.data(),
                weights.empty() ? nullptr : weights.data()};
    }
    entry_list transposed() const {
        entry_list t;
        t.rows = cols;
        t.cols = rows;
        std::vector<std::vector<std::pair<std::int32_t, index>>> by(static_cast<std::size_t>(cols));
        for (index i = 0; i < rows; ++i)
            for (index e = indptr[i]; e < indptr[i + 1]; ++e)
                by[static_cast<std::size_t>(indices[e])].push_back({static_cast<std::int32_t>(i), e});
        for (const auto& row : by) {
            for (const auto& [i, e] : row) {
                t.indices.push_back(i);
                t.values.push_back(values[e]);
                if (!weights.empty()) t.weights.push_back(weights[e]);
            }
            t.indptr.push_back(t.nnz());
        }
        return t;
    }
};

// Row i has degrees[i] entries. Values are of a low-rank matrix with biases and noise, so that fits mean
// something.
template <class T>
entry_list<T> random_entries(const std::vector<index>& degrees, index cols, bool weighted, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform(0.3, 2.0);
    entry_list<T> out;
    out.rows = static_cast<index>(degrees.size());
    out.cols = cols;
    std::vector<double> u(degrees.size()), v(static_cast<std::size_t>(cols));
    for (double& x : u) x = normal(random);
    for (double& x : v) x = normal(random);
    std::vector<std::int32_t> all(static_cast<std::size_t>(cols));
    std::iota(all.begin(), all.end(), 0);
    for (std::size_t i = 0; i < degrees.size(); ++i) {
        std::shuffle(all.begin(), all.end(), random);
        std::vector<std::int32_t> mine(all.begin(), all.begin() + degrees[i]);
        std::sort(mine.begin(), mine.end());
        for (const std::int32_t j : mine) {
            out.indices.push_back(j);
            out.values.push_back(static_cast<T>(u[i] * v[j] + 0.5 * u[i] - v[j] + 0.1 * normal(random)));
            if (weighted) out.weights.push_back(static_cast<T>(uniform(random)));
        }
        out.indptr.push_back(out.nnz());
    }
    return out;
}

// Degrees on both sides of a warp and of the bins, none among them.
inline std::vector<index> mixed_degrees(index rows, index cols, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<index> d;
    for (index i = 0; i < rows; ++i)
        d.push_back(std::min<index>(cols, i == 1   ? 0
                                          : i == 2 ? cols
                                                   : 1 + static_cast<index>(random() % 40)));
    return d;
}

// A factor with its biases in column 0, if it has any; rows padded to 16 numbers.
template <class T>
std::vector<T> random_factor(index rows, int columns, unsigned seed, double scale = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::vector<T> out(static_cast<std::size_t>(rows * columns));
    for (T& x : out) x = static_cast<T>(scale * normal(random));
    return out;
}

// A half sweep as it is defined, in double: normal equations by elimination with row exchanges.
struct plain_sweep {
    std::vector<double> x;  // rows x k
    double error = 0;       // sum w (m - fit)^2, with a background over all entries
};
template <class T>
plain_sweep solve_plainly(const entry_list<T>& a, const std::vector<T>& fixed, int k,
                          const als::half_options& o, const std::vector<T>& weights) {
    constexpr double floor = std::is_same_v<T, float> ? 1e-6 : 1e-12;
    const auto n = static_cast<std::size_t>(k);
    plain_sweep out;
    out.x.assign(static_cast<std::size_t>(a.rows) * n, 0.0);
    const auto design = [&](index j, int c) {
        return o.bias && c == 0 ? 1.0 : static_cast<double>(fixed[static_cast<std::size_t>(j * k + c)]);
    };
    std::vector<double> background(n * n, 0.0);
    if (o.background)
        for (index j = 0; j < a.cols; ++j)
            for (int r = 0; r < k; ++r)
                for (int c = 0; c < k; ++c) background[r * n + c] += design(j, r) * design(j, c);
    for (index i = 0; i < a.rows; ++i) {
        const index d = a.indptr[i + 1] - a.indptr[i];
        if (d == 0) continue;
        std::vector<double> g = background, b(n, 0.0);
        for (index e = a.indptr[i]; e < a.indptr[i + 1]; ++e) {
            const index j = a.indices[e];
            const double w = weights.empty() ? 1.0 : static_cast<double>(weights[e]);
            const double target =
                static_cast<double>(a.values[e]) -
                (o.bias ? static_cast<double>(fixed[static_cast<std::size_t>(j * k)]) : 0.0);
            for (int r = 0; r < k; ++r) {
                for (int c = 0; c < k; ++c) g[r * n + c] += w * design(j, r) * design(j, c);
                b[r] += w * target * design(j, r);
            }
        }
        double trace = 0;
        for (std::size_t r = 0; r < n; ++r) trace += g[r * n + r];
        const double lam = o.lam_by_degree ? o.lam * static_cast<double>(d) : o.lam;
        for (std::size_t r = 0; r < n; ++r) g[r * n + r] += lam + floor * trace / k;
        for (std::size_t p = 0; p < n; ++p) {
            std::size_t best = p;
            for (std::size_t r = p; r < n; ++r)
                if (std::abs(g[r * n + p]) > std::abs(g[best * n + p])) best = r;
            for (std::size_t c = 0; c < n; ++c) std::swap(g[p * n + c], g[best * n + c]);
            std::swap(b[p], b[best]);
            for (std::size_t r = p + 1; r < n; ++r) {
                const double f = g[r * n + p] / g[p * n + p];
                for (std::size_t c = p; c < n; ++c) g[r * n + c] -= f * g[p * n + c];
                b[r] -= f * b[p];
            }
        }
        double* const x = out.x.data() + static_cast<std::size_t>(i) * n;
        for (int r = k - 1; r >= 0; --r) {
            double sum = b[r];
            for (int c = r + 1; c < k; ++c) sum -= g[r * n + c] * x[c];
            x[r] = sum / g[r * n + r];
        }
        for (index e = a.indptr[i]; e < a.indptr[i + 1]; ++e) {
            const index j = a.indices[e];
            double left = static_cast<double>(a.values[e]) -
                          (o.bias ? static_cast<double>(fixed[static_cast<std::size_t>(j * k)]) : 0.0);
            for (int c = 0; c < k; ++c) left -= design(j, c) * x[c];
            out.error += (weights.empty() ? 1.0 : static_cast<double>(weights[e])) * left * left;
        }
        for (int r = 0; r < k; ++r)
            for (int c = 0; c < k; ++c) out.error += x[r] * background[r * n + c] * x[c];
    }
    return out;
}

using als_results = std::map<std::string, std::vector<double>>;

// Runs every function of a kernel set; what it leaves, by name.
template <class Be, class K>
class als_exercise {
    using T = typename K::value;

public:
    als_exercise(Be& be, K& kernels, bool bias, unsigned seed)
        : be_(be), k_(kernels), shift_(bias ? 1 : 0), seed_(seed) {
        for (scalar_ref& s : scalars_) s = be.scalar();
    }

    als_results run(bool whole_sweeps) {
        stand_in::load_eigen();
        if (whole_sweeps)
            for (const als::side s : {als::side::rows, als::side::columns}) half_sweeps(s);
        entries();
        small_matrices();
        return std::move(out_);
    }

private:
    static std::string name_of(als::side s) { return s == als::side::rows ? "rows" : "columns"; }

    // Random numbers in the columns in use, and what must not be looked at in the others.
    void load() {
        for (const als::side s : {als::side::rows, als::side::columns}) {
            const matrix<T> f = k_.stored(s);
            const int used = k_.rank() + shift_;
            const std::vector<T> numbers =
                random_factor<T>(f.rows, used, seed_ + (s == als::side::rows ? 1 : 2), 0.7);
            std::vector<T> row(static_cast<std::size_t>(f.ld), T(0));
            for (index i = 0; i < f.rows; ++i) {
                std::copy_n(numbers.data() + i * used, used, row.data());
                be_.upload(row.data(), vec<T>{f.row(i), f.ld});
            }
        }
    }
    void keep(const std::string& name, matrix<const T> from) {
        std::vector<double>& to = out_[name];
        std::vector<T> row(static_cast<std::size_t>(from.cols));
        for (index i = 0; i < from.rows; ++i) {
            be_.download(vec<const T>{from.row(i), from.cols}, row.data());
            to.insert(to.end(), row.begin(), row.end());
        }
    }
    void keep(const std::string& name, vec<double> from) {
        std::vector<double>& to = out_[name];
        to.resize(static_cast<std::size_t>(from.size));
        be_.download(vec<const double>(from), to.data());
    }
    void keep(const std::string& name, scalar_ref s) { out_[name] = {read(be_, s)[0]}; }
    matrix<const T> used(als::side s) {
        const matrix<T> f = k_.stored(s);
        return {f.data, f.rows, k_.rank() + shift_, f.ld};
    }

    void half_sweeps(als::side s) {
        using als::inner;
        using als::loss;
        const index m = k_.capacity() + 2;
        const vec<double> room = be_.template allocate<double>(m * (m + 1));
        std::vector<std::pair<std::string, als::half_options>> all;
        const auto option = [&](const std::string& name, auto change) {
            als::half_options o;
            o.bias = shift_ == 1;
            o.lam = 0.4;
            o.delta = 0.2;
            o.inner_tol = 1e-2;
            change(o);
            all.push_back({name_of(s) + ", " + name, o});
        };
        option("exact", [](auto&) {});
        option("exact, lam by degree", [](auto& o) { o.lam_by_degree = true; });
        option("exact, huber", [](auto& o) { o.kind = loss::huber; });
        option("exact, l1", [](auto& o) { o.kind = loss::l1; });
        option("cg", [](auto& o) { o.solver = inner::cg; });
        option("cg, many steps", [](auto& o) {
            o.solver = inner::cg;
            o.inner_maxiter = 12;
            o.inner_tol = std::is_same_v<T, float> ? 1e-3 : 1e-9;  // rounding must not tell the steps
            o.lam = 8;
        });
        option("cg, huber", [](auto& o) {
            o.solver = inner::cg;
            o.kind = loss::huber;
        });
        option("qcg", [](auto& o) { o.solver = inner::qcg; });
        option("qcg, one step", [](auto& o) {
            o.solver = inner::qcg;
            o.lam = 0;
            o.inner_maxiter = 1;
        });
        if (shift_ == 0) {
            option("exact, background", [](auto& o) { o.background = true; });
            option("cg, background", [](auto& o) {
                o.solver = inner::cg;
                o.background = true;
            });
            option("qcg, background", [](auto& o) {
                o.solver = inner::qcg;
                o.background = true;
            });
        }
        for (const auto& [name, o] : all) {
            load();
            drivers::completion::half_sweep(be_, k_, s, o, room, scalars_[0], scalars_[1], scalars_[2]);
            keep(name, used(s));
            keep(name + ": error", scalars_[0]);
            keep(name + ": steps", scalars_[1]);
            keep(name + ": retries", scalars_[2]);
        }
    }

    void entries() {
        using als::loss;
        load();
        for (const loss kind : {loss::linear, loss::huber, loss::l1})
            for (const bool holdout : {false, true}) {
                if (holdout && !k_.has_holdout()) continue;
                als::half_options o;
                o.kind = kind;
                o.delta = 0.5;
                k_.squared_error(holdout, o, scalars_[0]);
                keep("loss " + std::to_string(static_cast<int>(kind)) + (holdout ? ", holdout" : ""),
                     scalars_[0]);
            }
        out_["weight"] = {k_.weight(false), k_.has_holdout() ? k_.weight(true) : 0.0};
        for (const index count : {1, 37, 4096}) {
            const vec<double> sample = be_.template allocate<double>(count);
            k_.sample_residuals(sample);
            keep("sample of " + std::to_string(count), sample);
        }
        const int rank = k_.rank();
        for (const als::side s : {als::side::rows, als::side::columns}) {
            for (const bool by_degree : {false, true}) {
                const std::string how = name_of(s) + (by_degree ? ", by degree" : "");
                for (const int m : {1, 3, 20})
                    for (const int r : {rank, 0}) {
                        const matrix<T> x = k_.panel(drivers::completion::other(s), m), y = k_.panel(s, m);
                        k_.randomise(x, seed_, 1.0);
                        k_.set_rank(r);
                        k_.spread(s, x, y, by_degree);
                        k_.set_rank(rank);
                        keep("spread, " + how + ", " + std::to_string(m) + ", " + std::to_string(r), y);
                    }
            }
            const matrix<T> p = k_.panel(s, 5);
            k_.randomise(p, seed_ + 7, 0.3);
            k_.over_root_degree(s, p);
            keep("over root degree, " + name_of(s), p);
        }
    }

    void small_matrices() {
        load();
        const int rank = k_.rank();
        for (const als::side s : {als::side::rows, als::side::columns}) {
            const std::string where = name_of(s);
            for (const int columns : {rank, 1, 17, 70}) {
                const matrix<T> p = columns == rank ? k_.factor(s) : k_.panel(s, columns);
                k_.randomise(p, seed_ + 3, columns == 17 ? 0.0 : 1.5);
                keep("random " + std::to_string(columns) + ", " + where, p);
                k_.randomise(p, seed_ + 4, 1.5);
                const vec<double> g = be_.template allocate<double>(index{columns} * columns),
                                  lengths = be_.template allocate<double>(p.rows);
                k_.gram(p, g);
                keep("gram " + std::to_string(columns) + ", " + where, g);
                k_.row_norms(p, lengths);
                keep("lengths " + std::to_string(columns) + ", " + where, lengths);
                k_.clip(p, 1.4 * std::sqrt(static_cast<double>(columns)));
                keep("clipped " + std::to_string(columns) + ", " + where, p);
            }
            const vec<double> by = be_.template allocate<double>(index{rank} * (rank + 2));
            const std::vector<double> numbers = random_factor<double>(rank, rank + 2, seed_ + 9);
            be_.upload(numbers.data(), by);
            for (const int to : {1, rank, rank + 2}) {
                const matrix<T> q = k_.panel(s, to);
                k_.transform(k_.factor(s), vec<const double>(by), q);
                keep("transformed, " + where + ", " + std::to_string(to), q);
            }
            for (const int to : {rank, std::max(1, rank - 2)}) {  // in place
                matrix<T> q = k_.factor(s);
                q.cols = to;
                k_.transform(k_.factor(s), vec<const double>(by), q);
                keep("transformed in place, " + where + ", " + std::to_string(to), k_.factor(s));
            }
        }
        k_.save(0);
        const auto saved = used(als::side::rows);
        keep("saved", saved);
        load();
        k_.save(1);
        if (rank > 1) k_.set_rank(rank - 1);
        k_.load(0);
        keep("loaded", used(als::side::rows));
        out_["rank loaded"] = {static_cast<double>(k_.rank())};
        k_.load(1);
        keep("loaded, other place", used(als::side::columns));
    }

    Be& be_;
    K& k_;
    int shift_;
    unsigned seed_;
    scalar_ref scalars_[3];
    als_results out_;
};

// Every list within `tol` of the largest number of the expected one.
inline void near_results(const als_results& got, const als_results& expected, double tol,
                         const std::string& where) {
    CHECK(got.size() == expected.size());
    for (const auto& [name, values] : expected) {
        const auto found = got.find(name);
        const bool there = found != got.end() && found->second.size() == values.size();
        CHECK(there);
        if (!there) continue;
        double scale = 1e-30, worst = 0;
        for (const double x : values) scale = std::max(scale, std::abs(x));
        for (std::size_t i = 0; i < values.size(); ++i) {
            const double gap = std::abs(found->second[i] - values[i]);
            worst = gap <= worst ? worst : gap;  // NaN counts as the worst
            if (!(gap <= tol * scale)) {
                check::fail(where.c_str(), 0,
                            name + "[" + std::to_string(i) + "]: " + std::to_string(found->second[i]) +
                                " vs " + std::to_string(values[i]) + ", scale " + std::to_string(scale));
                break;
            }
        }
        CHECK(worst <= tol * scale);
    }
}

// A problem with both orders of its entries and a holdout.
template <class T>
struct als_case {
    entry_list<T> rows, columns, holdout;

    als_case(const std::vector<index>& degrees, index cols, bool weighted, unsigned seed)
        : rows(random_entries<T>(degrees, cols, weighted, seed)),
          columns(rows.transposed()),
          holdout(random_entries<T>(mixed_degrees(rows.rows, cols, seed + 5), cols, weighted, seed + 6)) {}
    als::problem<T> problem(bool held = true) const {
        als::problem<T> p{rows.view(), columns.view(), {}};
        if (held) p.holdout = holdout.view();
        return p;
    }
};

}  // namespace aitken::tests
