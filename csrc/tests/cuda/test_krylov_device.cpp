// The Krylov solvers on a device: every kernel against its block program on the host, then whole solves and
// chains against the CPU backend. Exit status 77 where there is no device.
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/krylov.hpp"
#include "core/api/krylov_cuda.hpp"
#include "core/api/linear_maps.hpp"
#include "core/api/sequence.hpp"
#include "cuda/backend.hpp"
#include "cuda/krylov_kernels.hpp"
#include "device.hpp"
#include "krylov_cases.hpp"
#include "lapack_stand_in.hpp"

namespace aitken::tests {
namespace {

using kind = aitken::sequence::preconditioner;
using results = std::map<std::string, numbers>;

// Runs every function of the kernel set on a backend, whatever it is.
template <class Be, class B>
class exercise {
public:
    exercise(Be& be, const sparse_case& a) : be_(be), a_(a), n_(a.n()) {
        rows_ = {n_, put(a.pattern.indptr).data, put(a.pattern.indices).data};
        values_ = put(a.values).data;
    }

    results run() {
        vectors();
        tall_products();
        expansions();
        for (kind which : {kind::jacobi, kind::block_jacobi, kind::chebyshev, kind::ilu0}) inverses(which);
        return std::move(out_);
    }

private:
    template <class T>
    vec<T> put(const std::vector<T>& host) {
        const vec<T> there = be_.template allocate<T>(static_cast<index>(host.size()));
        be_.upload(host.data(), there);
        return there;
    }
    vec<double> random(index count, unsigned seed) { return put(random_numbers(count, seed)); }
    tall<B> random_tall(index cols, unsigned seed) {
        const numbers r = random_numbers((n_ + 5) * cols, seed);
        return {put(std::vector<B>(r.begin(), r.end())).data, n_, cols, n_ + 5};
    }
    template <class T>
    void keep(const std::string& name, const T* from, index count) {
        std::vector<T> host(static_cast<std::size_t>(count));
        be_.download(vec<const T>{from, count}, host.data());
        out_[name] = numbers(host.begin(), host.end());
    }
    void keep(const std::string& name, tall<B> t) {
        for (index j = 0; j < t.cols; ++j) keep(name + " " + std::to_string(j), t.col(j), n_);
    }
    cuda::krylov_kernels<Be, B> kernels(cuda::inverse<Be>* inverse) {
        cuda::krylov_kernels<Be, B> k(be_, rows_, 2, inverse);
        k.set_matrix(0, values_, true, "");
        k.set_matrix(1, values_ + a_.nnz(), true, "");
        return k;
    }

    void vectors() {
        using namespace drivers::krylov;
        auto k = kernels(nullptr);
        const auto x = random(2 * n_, 1), y = random(2 * n_, 2), r = be_.template allocate<double>(2 * n_);
        const std::vector<apply_task<double>> products{{1, x.slice(0, n_), y.slice(0, n_)},
                                                       {0, x.slice(n_, n_), y.slice(n_, n_)}};
        k.apply_matrix(products);
        keep("products", y.data, 2 * n_);
        double norm[2];
        const std::vector<residual_task<double>> residuals{
            {0, y.slice(0, n_), x.slice(n_, n_), r.slice(0, n_), &norm[0]},
            {1, y.slice(n_, n_), x.slice(0, n_), r.slice(n_, n_), &norm[1]}};
        k.residual(residuals);
        keep("residuals", r.data, 2 * n_);
        out_["norms"] = {norm[0], norm[1]};
        const auto b = be_.template allocate<B>(2 * n_);
        const std::vector<store_task<double, B>> stores{{x.slice(0, n_), 0.3, b.data, r.slice(n_, n_)},
                                                        {x.slice(n_, n_), -2, b.data + n_, {}}};
        k.store(stores);
        keep("stored", b.data, 2 * n_);
        keep("stored also", r.data + n_, n_);
        k.load(b.data, r.slice(0, n_));
        k.add(vec<const double>(x.slice(0, n_)), r.slice(0, n_));
        k.clear(r.slice(n_, n_));
        keep("loaded", r.data, 2 * n_);
    }

    void tall_products() {
        using namespace drivers::krylov;
        auto k = kernels(nullptr);
        const tall<B> x = random_tall(41, 3), y = random_tall(37, 4), z = random_tall(20, 5);
        numbers g(43 * 37, 0.0), g2(5 * 5, 0.0), h(41), c = random_numbers(41 * 20, 6);
        const std::vector<gram_task<double, B>> grams{{x, y, g.data(), 43},
                                                      {y.first(5), y.first(5), g2.data(), 5}};
        k.gram(grams);
        out_["gram"] = g;
        out_["gram 2"] = g2;
        const auto w = random(n_, 7);
        double norm, length;
        const std::vector<project_task<double, B>> projections{{x, w, h.data(), &norm},
                                                               {{}, w, nullptr, &length}};
        k.project(projections);
        h.insert(h.end(), {norm, length});
        out_["project"] = h;
        const std::vector<combine_task<double, B>> combinations{{x, c.data(), w, true}};
        k.combine(combinations);
        keep("combine", w.data, n_);
        const std::vector<mix_task<double, B>> mixes{{x, c.data(), 41, z, false},
                                                     {y.first(30), c.data(), 31, z, true}};
        k.mix(mixes);
        keep("mix", z);
        const tall<B> image{be_.template allocate<B>((n_ + 5) * 41).data, n_, 41, n_ + 5};
        const std::vector<apply_columns_task<B>> columns{{1, x, image}};
        k.apply_matrix_columns(columns);
        keep("image", image);
    }

    // Lanes with different counts; one nearly inside the span, so that its second pass runs alone.
    void expansions() {
        using namespace drivers::krylov;
        auto k = kernels(nullptr);
        for (const auto how : {aitken::krylov::ortho::automatic, aitken::krylov::ortho::cgs2}) {
            const std::string name = how == aitken::krylov::ortho::cgs2 ? "twice" : "once";
            const index counts[3] = {0, 9, 35};
            std::vector<expand_task<double, B>> tasks;
            std::vector<tall<B>> bases;
            const auto columns = be_.template allocate<double>(3 * 60);
            for (unsigned lane = 0; lane < 3; ++lane) {
                const index cols = counts[lane] + 3;
                bases.push_back(random_tall(cols + 1, 10 + lane));
                // Orthonormal up to rounding, made by the kernels themselves.
                const auto w = random(n_, 20 + lane);
                for (index j = 0; j < cols; ++j) {
                    k.load(bases.back().col(j), w);
                    const std::vector<expand_task<double, B>> one{
                        {{}, bases.back().first(j), w, columns.data + lane * 60}};
                    k.expand(one, aitken::krylov::ortho::cgs2);
                }
                const numbers some = random_numbers(cols, 30 + lane);
                const auto fresh = random(n_, 40 + lane);
                be_.copy(vec<const double>(fresh), w);
                if (lane == 1) {
                    const std::vector<store_task<double, B>> small{{fresh, 1e-5, bases.back().col(cols), w}};
                    k.store(small);
                    const std::vector<combine_task<double, B>> inside{
                        {bases.back().first(cols), some.data(), w, true}};
                    k.combine(inside);
                }
                const index n_c = lane == 2 ? 5 : 0;
                tasks.push_back({bases.back().first(n_c), bases.back().from(n_c).first(cols - n_c), w,
                                 columns.data + lane * 60});
            }
            k.expand(tasks, how);
            for (unsigned lane = 0; lane < 3; ++lane) {
                const std::string what = name + ", lane " + std::to_string(lane);
                keep(what + ", column", columns.data + lane * 60, counts[lane] + 5);
                keep(what + ", w", tasks[lane].w.data, n_);
                keep(what + ", next", bases[lane].col(counts[lane] + 3), n_);
            }
        }
    }

    void inverses(kind which) {
        using namespace drivers::krylov;
        const auto inverse = cuda::make_inverse(be_, which, rows_, a_.pattern.view(), 2, 29);
        auto k = kernels(inverse.get());
        const auto x = random(2 * n_, 50), y = be_.template allocate<double>(2 * n_);
        const std::vector<apply_task<double>> tasks{{0, x.slice(0, n_), y.slice(0, n_)},
                                                    {1, x.slice(n_, n_), y.slice(n_, n_)}};
        k.apply_inverse(tasks);
        const std::string name = "inverse " + std::to_string(static_cast<int>(which));
        keep(name, y.data, 2 * n_);
        const tall<B> from = random_tall(3, 51),
                      to{be_.template allocate<B>((n_ + 5) * 3).data, n_, 3, n_ + 5};
        const std::vector<apply_columns_task<B>> columns{{1, from, to}};
        k.apply_inverse_columns(columns);
        keep(name + ", columns", to);
    }

    Be& be_;
    const sparse_case& a_;
    index n_;
    cuda::device_rows rows_{};
    const double* values_ = nullptr;
    results out_;
};

template <class B>
void kernels_match() {
    for (const sparse_case& a : {convection(23, 31, 2), random_rows(260, 0, 2), random_rows(3000, 2600, 2)}) {
        interrupt signals;
        block_backend host(signals);
        device gpu;
        cuda::backend be(gpu.context(), signals);
        results expected = exercise<block_backend, B>(host, a).run();
        results got = exercise<cuda::backend, B>(be, a).run();
        CHECK(got.size() == expected.size());
        // The device contracts products and sums; what a nearly vanishing vector leaves keeps fewer digits.
        for (const auto& [name, values] : expected) {
            const bool cancelled =
                name.find("lane 1, w") != std::string::npos || name.find("lane 1, next") != std::string::npos;
            const double tol = sizeof(B) == 8 ? (cancelled ? 1e-8 : 1e-11) : (cancelled ? 3e-2 : 2e-5);
            near_all(got[name].data(), values, tol, name);
        }
    }
}
TEST(device_kernels_of_krylov_match_block_programs_f64) { kernels_match<double>(); }
TEST(device_kernels_of_krylov_match_block_programs_f32) { kernels_match<float>(); }

cuda::krylov::matrix put(device& gpu, const sparse_case& a, int system) {
    const numbers values(a.system(system), a.system(system) + a.nnz());
    return {{a.n(), a.n(), gpu.put(a.pattern.indptr).data, gpu.put(a.pattern.indices).data},
            a.nnz(),
            gpu.put(values).data};
}

TEST(device_krylov_solves) {
    stand_in::load_lapack();
    const sparse_case a = convection(61, 43, 1);
    const numbers b = random_numbers(a.n(), 5);
    const auto map = cpu::make_csr<double>(a.pattern.view(), a.system(0));
    const auto inverse = cpu::make_ilu0<double>(a.pattern.view(), a.system(0), false);
    for (const auto stored : {aitken::krylov::basis::full, aitken::krylov::basis::single}) {
        aitken::krylov::options o;
        o.rtol = 1e-10;
        o.restart = 20;
        o.recycle = 6;
        o.basis = stored;
        numbers x(b.size(), 0.0);
        aitken::krylov::space<double> kept, outer, kept_there[2];
        interrupt signals;
        const auto here = cpu::krylov::solve<double>(*map, inverse.get(), {b.data(), a.n()},
                                                     {x.data(), a.n()}, o, kept, false, outer, signals, {});
        numbers there[2];
        aitken::krylov::report report;
        for (int run = 0; run < 2; ++run) {
            device gpu;
            const auto xs = gpu.put(numbers(b.size(), 0.0));
            report = cuda::krylov::solve(gpu.context(), put(gpu, a, 0), {kind::ilu0, 64}, gpu.put(b), xs, o,
                                         kept_there[run], false, outer, signals, {});
            there[run] = gpu.get(xs);
        }
        CHECK(report.status == status::converged && here.status == status::converged);
        CHECK(std::abs(report.iterations - here.iterations) <= 2);
        near_all(there[0].data(), x, 1e-7, "device solve");
        CHECK(there[0] == there[1] && kept_there[0].u == kept_there[1].u);  // the same bits
        std::printf("krylov: %ld iterations, %ld launches, %ld reads\n", static_cast<long>(report.iterations),
                    report.counts.launches, report.counts.reads);
    }
}

TEST(device_krylov_chains) {
    stand_in::load_lapack();
    const sparse_case a = convection(40, 41, 6);
    const numbers b = random_numbers(6 * a.n(), 8);
    const std::vector<std::vector<index>> chains{{0, 1, 2}, {3, 4}, {5}};
    const std::vector<std::span<const index>> spans(chains.begin(), chains.end());
    for (kind which : {kind::none, kind::jacobi, kind::block_jacobi, kind::chebyshev, kind::ilu0}) {
        aitken::sequence::options o;
        o.preconditioner = which;
        o.krylov.rtol = 1e-10;
        o.krylov.restart = 30;
        o.krylov.recycle = 8;
        interrupt signals;
        aitken::krylov::space<double> kept;
        numbers there[2];
        std::map<index, aitken::sequence::record> records;
        for (const std::size_t memory : {std::size_t{1}, std::size_t{1} << 33}) {
            device gpu;
            const auto x = gpu.put(numbers(b.size(), std::numeric_limits<double>::quiet_NaN()));
            const cuda::krylov::matrix first = put(gpu, a, 0);
            aitken::sequence::systems<double> s;
            s.pattern = first.pattern;
            s.data = gpu.put(a.values).data;
            s.b = gpu.put(b).data;
            s.count = 6;
            cuda::sequence::run_chains(gpu.context(), s, a.nnz(), spans, o, x.data, kept, memory, signals,
                                       [&](index i, const aitken::sequence::record& r) {
                                           records[i] = r;
                                           return false;
                                       });
            there[memory > 1] = gpu.get(x);
        }
        CHECK(records.size() == 6 && there[0] == there[1]);
        for (index i = 0; i < 6; ++i) {
            CHECK(records[i].status == status::converged);
            const numbers ax = product(a, static_cast<int>(i), there[0].data() + i * a.n());
            double residual = 0, norm = 0;
            for (index k = 0; k < a.n(); ++k) {
                residual += (b[i * a.n() + k] - ax[k]) * (b[i * a.n() + k] - ax[k]);
                norm += b[i * a.n() + k] * b[i * a.n() + k];
            }
            CHECK(residual <= 1.0001e-20 * norm);
        }
    }
}

}  // namespace
}  // namespace aitken::tests
