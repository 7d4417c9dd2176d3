// The CUDA kernels of SOR, run on the CPU as block programs: batches, single sweeps and whole solves against
// the definition row after row and against the CPU kernels, with launches and host reads counted.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "block_backend.hpp"
#include "check.hpp"
#include "core/api/relaxation.hpp"
#include "cuda/relaxation_kernels.hpp"
#include "relaxation_cases.hpp"

namespace aitken::tests {
namespace {

using aitken::relaxation::direction;
using aitken::relaxation::order;
using aitken::relaxation::reference;
constexpr direction directions[] = {direction::forward, direction::backward, direction::symmetric};
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

static_assert(drivers::relaxation::SorKernels<cuda::sweep_kernels<block_backend, cuda::sliced_matrix>>);
static_assert(drivers::relaxation::SorKernels<cuda::sweep_kernels<block_backend, cuda::stencil_matrix>>);
static_assert(drivers::relaxation::EisenstatKernels<cuda::sweep_kernels<block_backend, cuda::sliced_matrix>>);

// --- rounds that the data decides ----------------------------------------------------------------

// Adds 1 .. 64 by halving steps until the sum in shared memory says stop.
struct counting_program {
    static constexpr int threads = 64, steps = 2, closings = 1;
    struct shared {
        int votes[threads];
    };
    struct local {
        int rounds, sum;
        bool more;
    };
    int odd_thread;  // goes its own way
    int* out;
    AITKEN_HD void open(local& mine, cuda::place) const { mine = {0, 0, true}; }
    AITKEN_HD bool go_on(const local& mine) const { return mine.more; }
    template <int Step>
    AITKEN_HD void step(shared& s, local& mine, cuda::place at, index) const {
        if constexpr (Step == 0) {
            s.votes[at.thread] = ++mine.rounds;
        } else {
            mine.sum = 0;
            for (int v : s.votes) mine.sum += v;
            mine.more = mine.sum < 5 * threads && at.thread != odd_thread;
        }
    }
    template <int>
    AITKEN_HD void close(shared&, local& mine, cuda::place at) const {
        out[at.thread] = mine.rounds;
    }
};
static_assert(cuda::BlockProgram<counting_program> && cuda::OpenEnded<counting_program>);

TEST(programs_whose_rounds_the_data_decides) {
    std::vector<int> rounds(64, -1);
    block_runner runner;
    runner.run(counting_program{-1, rounds.data()}, 1);
    for (int r : rounds) CHECK(r == 5);
    CHECK_THROWS(runner.run(counting_program{17, rounds.data()}, 1), std::logic_error);
}

// --- batches -------------------------------------------------------------------------------------

struct batch {
    sparse_case a;
    bool shared_values;
    numbers b, x, shifts, omegas;

    batch(sparse_case a_, index count, bool shared, unsigned seed) : a(std::move(a_)), shared_values(shared) {
        b = random_numbers(count * a.n(), seed);
        x = random_numbers(count * a.n(), seed + 1);
        for (index k = 0; k < count; ++k) {
            shifts.push_back(0.05 * static_cast<double>(k));
            omegas.push_back(0.6 + 0.9 * static_cast<double>(k) / static_cast<double>(count));
        }
    }
    index count() const { return static_cast<index>(omegas.size()); }
    int values_of(index k) const { return shared_values ? 0 : static_cast<int>(k); }
    aitken::relaxation::batch_problem problem() {
        const index n = a.n();
        return {a.pattern.view(), a.values.data(),           shared_values ? 0 : a.nnz(), shifts.data(),
                omegas.data(),    {b.data(), count(), n, n}, {x.data(), count(), n, n}};
    }
    numbers start(index k) const { return {x.begin() + k * a.n(), x.begin() + (k + 1) * a.n()}; }
};

aitken::relaxation::batch_report on_blocks(batch& s, const aitken::relaxation::batch_options& o,
                                           unsigned seed = 1, std::size_t room = std::size_t{1} << 30,
                                           traffic* counts = nullptr) {
    interrupt signals;
    block_backend be(signals, seed);
    const auto report = cuda::solve_sor_batch(be, s.problem(), s.a.nnz(), o, room);
    if (counts) *counts = be.counts();
    return report;
}

// Both sides of every capacity and of a warp, grids and irregular rows, values shared and not.
TEST(relaxation_batch_like_serial_sweeps) {
    std::vector<sparse_case> cases{five_points(10, 10), five_points(1, 40), five_points(23, 23)};
    for (index n : {1, 2, 31, 33, 128, 129, 512, 513}) cases.push_back(sorted_rows(n, 5));
    for (const sparse_case& a : cases)
        for (direction d : directions)
            for (reference ref : {reference::b, reference::r0}) {
                const bool shared = static_cast<index>(a.values.size()) == a.nnz();
                batch s(a, 5, shared, 3);
                const batch given = s;
                aitken::relaxation::batch_options o;
                o.sweep = d;
                o.norm = ref;
                o.rtol = 1e-7;
                traffic counts;
                const auto report = on_blocks(s, o, static_cast<unsigned>(a.n()), 1, &counts);
                CHECK(counts.launches == 1 && counts.reads == 3);
                for (index k = 0; k < s.count(); ++k) {
                    const double* const b = s.b.data() + k * a.n();
                    const serial_solve serial =
                        solve_serially(a, s.values_of(k), s.shifts[k], ascending(a.n()), s.omegas[k], d,
                                       o.rtol, ref == reference::r0, b, given.start(k), 3000);
                    CHECK(report.status[k] == 0);
                    CHECK(report.iterations[k] == serial.iterations);
                    CHECK_NEAR(report.target[k], serial.target, 1e-14 * serial.target);
                    const numbers x = s.start(k);
                    const double truth = length(residual_of(a, s.values_of(k), s.shifts[k], b, x.data()));
                    CHECK(truth <= serial.target * (1 + 1e-7));
                    CHECK_NEAR(report.residual[k], truth, 1e-13 * length(numbers(b, b + a.n())));
                    near_all(x.data(), d == direction::symmetric ? serial.x : serial.next, 1e-12,
                             "batch, n " + std::to_string(a.n()));
                }
            }
}

// 1472 rows are the last in shared memory; above it, systems take turns in what room there is.
TEST(relaxation_batch_larger_than_shared_memory) {
    for (const sparse_case& a : {five_points(32, 46), five_points(39, 38), sorted_rows(1473, 1)}) {
        numbers first;
        for (const std::size_t room : {std::size_t{1}, std::size_t{1} << 30}) {
            batch s(a, 3, true, 8);
            aitken::relaxation::batch_options o;
            o.rtol = 1e-4;
            traffic counts;
            const numbers start = s.start(1);
            const auto report = on_blocks(s, o, static_cast<unsigned>(room % 7), room, &counts);
            CHECK(counts.launches == (a.n() <= 1472 || room > 1 ? 1 : 3));
            const serial_solve serial =
                solve_serially(a, 0, s.shifts[1], ascending(a.n()), s.omegas[1], direction::forward, o.rtol,
                               false, s.b.data() + a.n(), start, 3000);
            CHECK(report.status[1] == 0 && report.iterations[1] == serial.iterations);
            near_all(s.start(1).data(), serial.next, 1e-12, "large batch");
            if (first.empty())
                first = s.x;
            else
                CHECK(first == s.x);  // bits depend neither on room nor on the order of threads
        }
    }
}

// Blocks run at the same time on a device: each must keep to its own part of the room.
TEST(relaxation_batch_systems_keep_apart) {
    const sparse_case a = five_points(11, 6);
    batch s(a, 4, true, 6);
    const index n = a.n();
    interrupt signals;
    block_backend be(signals, 2);
    const cuda::wavefronts fronts = cuda::send_wavefronts(be, a.pattern.view());
    const auto out = be.allocate<cuda::swept_system>(4);
    const auto room = be.allocate<double>(4 * 4 * n);
    const cuda::sor_limits limits{direction::forward, reference::b, 1e-6, 0, 1000};
    be.launch(cuda::sor_systems<256, 0>(s.problem(), 0, 4, fronts, limits, room.data, out.data));
    for (index k = 0; k < 4; ++k)
        for (index place = 0; place < n; ++place)
            CHECK(room[k * 4 * n + place] == s.x[static_cast<std::size_t>(k * n + fronts.rows[place].row)]);
}

TEST(relaxation_batch_like_the_cpu) {
    for (bool shared : {true, false})
        for (direction d : directions) {
            batch s(shared ? five_points(12, 9) : sorted_rows(77, 24), 24, shared, 5), same = s;
            for (batch* each : {&s, &same}) {
                // Each of these ends in a way of its own.
                const index n = each->a.n();
                std::fill_n(each->b.begin() + 2 * n, n, 0.0);
                each->b[static_cast<std::size_t>(3 * n)] = nan;
                each->shifts[5] = shared ? -4.0 : nan;
                each->shifts[6] = -3.9;  // indefinite: blows up
                each->shifts[7] = 1e20;
                std::fill_n(each->x.begin() + 8 * n, n, 0.0);
                std::fill_n(each->x.begin() + 9 * n, n, 0.0);
                for (index i = 0; i < n; ++i) each->b[static_cast<std::size_t>(9 * n + i)] *= 1e-130;
            }
            for (index most : {10000, 30, 7, 1, 0}) {
                batch one = s, other = same;
                aitken::relaxation::batch_options o;
                o.sweep = d;
                o.rtol = 1e-6;
                o.max_sweeps = most;
                interrupt signals;
                const auto there = on_blocks(one, o);
                const auto here = cpu::relaxation::sor_batch(other.problem(), o, signals);
                int kinds = 0;
                for (index k = 0; k < s.count(); ++k) {
                    CHECK(there.status[k] == here.status[k]);
                    CHECK(there.iterations[k] == here.iterations[k]);
                    kinds |= 1 << there.status[k];
                    if (there.status[k] > 1) continue;
                    CHECK_NEAR(there.residual[k], here.residual[k],
                               1e-12 * (here.target[k] / o.rtol + here.residual[k]));
                    CHECK_NEAR(there.target[k], here.target[k], 1e-14 * here.target[k]);
                    near_all(one.start(k).data(), other.start(k), 1e-11, "batch, cpu");
                }
                const auto seen = [&](status how) { return (kinds >> static_cast<int>(how) & 1) != 0; };
                CHECK(seen(status::converged) && seen(status::nonfinite) && seen(status::breakdown));
                CHECK(most < 10000 || seen(status::diverged));
                CHECK(most > 7 || seen(status::max_iterations));
                CHECK(one.start(5) == s.start(5));  // left as it was
            }
        }
}

TEST(relaxation_batch_bad_input) {
    interrupt signals;
    block_backend be(signals);
    batch s(sorted_rows(40, 1), 2, true, 2);
    aitken::relaxation::batch_options o;
    auto broken = s;
    const index row = 17, first = broken.a.pattern.indptr[row];
    std::swap(broken.a.pattern.indices[first], broken.a.pattern.indices[first + 1]);
    CHECK_THROWS(cuda::solve_sor_batch(be, broken.problem(), s.a.nnz(), o, 1), std::invalid_argument);
    CHECK_THROWS(cuda::solve_sor_batch(be, s.problem(), s.a.nnz() - 1, o, 1), std::invalid_argument);
    auto none = s.problem();
    none.b.rows = none.x.rows = 0;
    CHECK(cuda::solve_sor_batch(be, none, s.a.nnz(), o, 1).status.empty());
    // Numbers whose squares vanish must not pass for zero.
    for (double& v : s.b) v *= 1e-170;
    std::fill(s.x.begin(), s.x.end(), 0.0);
    for (int status : on_blocks(s, o).status) CHECK(status == static_cast<int>(status::nonfinite));
    // A diagonal that only the shift provides.
    sparse_case bare;
    bare.pattern.rows = bare.pattern.cols = 3;
    bare.pattern.indptr = {0, 1, 2, 2};
    bare.pattern.indices = {1, 2};
    bare.values = {0.5, -0.25};
    batch shifted(bare, 2, true, 4);
    shifted.shifts = {2.0, 0.0};
    const auto report = on_blocks(shifted, o);
    CHECK(report.status[0] == 0 && report.status[1] == static_cast<int>(status::breakdown));
    CHECK(length(residual_of(bare, 0, 2.0, shifted.b.data(), shifted.x.data())) <= report.target[0]);
}

// --- single sweeps -------------------------------------------------------------------------------

TEST(relaxation_walks_cover_every_level_once) {
    const std::vector<std::vector<index>> shapes{
        {0}, {0, 8}, {0, 4096}, {0, 8, 16, 4112, 8208, 8216, 8224}, {0, 5000, 5008, 10008}};
    for (const auto& begin : shapes) {
        index level = 0;
        for (const cuda::sweep_walk& w : cuda::make_walks(begin)) {
            CHECK(w.first == level && w.count >= 1 && w.blocks >= 1);
            CHECK(w.blocks == 1 || w.count == 1);
            for (index l = w.first; l < w.first + w.count; ++l)
                CHECK(w.blocks > 1 ? w.blocks * 512 >= begin[l + 1] - begin[l]
                                   : begin[l + 1] - begin[l] < 4096);
            level += w.count;
        }
        CHECK(level + 1 == static_cast<index>(begin.size()));
    }
    CHECK(cuda::make_walks(shapes[3]).size() == 4);
}

// Sweeps back and forth against the definition: x, the residual that the sweep before left, and the change.
// `into` and `out_of` bring vectors into the order of the kernels.
template <class Kernels, class Into, class OutOf>
void sweeps_like_serial(block_backend& be, Kernels& kernels, const sparse_case& a, double shift,
                        const std::vector<std::int32_t>& rows, long launches, Into into, OutOf out_of,
                        const std::string& what) {
    const index n = a.n();
    const numbers b = random_numbers(n, 5);
    numbers x = random_numbers(n, 6);
    const auto b_there = be.template allocate<double>(n), x_there = be.template allocate<double>(n);
    into(b, b_there);
    into(x, x_there);
    const scalar_ref before = be.scalar(), change = be.scalar();
    const double scale = length(b) + length(x) * 10;
    traffic counts = be.counts();
    kernels.residual(b_there, x_there, before);
    CHECK(be.counts().launches - counts.launches == 2);
    CHECK_NEAR(std::sqrt(*before.address()), length(residual_of(a, 0, shift, b.data(), x.data())),
               1e-13 * scale);
    const bool backward[] = {false, false, false, true, true, false, true, true};
    bool last = true;
    double omega = 1.3;
    for (bool back : backward) {
        const bool fresh = back != last || omega == 1.3;
        const double met = length(residual_of(a, 0, shift, b.data(), x.data()));
        const numbers old = x;
        serial_sweep(a, 0, shift, rows, omega, b.data(), x, back);
        counts = be.counts();
        kernels.sweep(back ? direction::backward : direction::forward, omega, fresh, b_there, x_there, before,
                      change);
        CHECK(be.counts().launches - counts.launches == launches);
        CHECK(be.counts().reads == counts.reads && be.counts().uploads == counts.uploads);
        if (!fresh) CHECK_NEAR(std::sqrt(*before.address()), met, 1e-12 * scale);
        numbers moved(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) moved[i] = x[i] - old[i];
        CHECK_NEAR(std::sqrt(*change.address()), length(moved), 1e-13 * scale);
        near_all(out_of(x_there).data(), x, 1e-13, what);
        last = back;
        omega = omega == 1.3 ? 1.31 : omega * 0.9;  // the q of a sweep serves whatever omega comes next
    }
}

TEST(relaxation_blocks_sweep_in_every_order) {
    std::vector<sparse_case> cases{five_points(9, 14), five_points(1, 50), five_points(100, 100)};
    for (index n : {1, 2, 7, 9, 300, 1500}) cases.push_back(sorted_rows(n, 1));
    for (const sparse_case& a : cases)
        for (order how : {order::natural, order::redblack, order::multicolor, order::blocks, order::given}) {
            const pattern_view p = a.pattern.view();
            if (how == order::redblack && two_colors(p).colors == 0) continue;
            std::vector<std::int32_t> given = ascending(a.n());
            std::mt19937 random(4);
            std::shuffle(given.begin(), given.end(), random);
            const std::vector<std::int32_t> rows = sweep_rows(p, how, given);
            interrupt signals;
            block_backend be(signals, static_cast<unsigned>(a.n()));
            const sweep_layout layout = make_sweep_layout(p, rows);
            const double shift = 0.3;
            cuda::sliced_rows<block_backend> there(be, layout, a.values.data(), shift);
            cuda::sweep_kernels<block_backend, cuda::sliced_matrix> kernels(be, there.matrix(), a.n(),
                                                                            there.levels());
            if (a.n() == 10000 && how == order::redblack) CHECK(kernels.walks() == 2);
            sweeps_like_serial(
                be, kernels, a, shift, rows.empty() ? ascending(a.n()) : rows,
                static_cast<long>(kernels.walks()) + 1,
                [&](const numbers& from, vec<double> to) {
                    numbers copy = from;
                    there.gather(vec<const double>{copy.data(), a.n()}, to);
                },
                [&](vec<double> from) {
                    numbers to(static_cast<std::size_t>(a.n()), nan);
                    there.scatter(vec<const double>(from), {to.data(), a.n()});
                    return to;
                },
                "sliced sweep, n " + std::to_string(a.n()) + ", order " +
                    std::to_string(static_cast<int>(how)));
        }
}

TEST(relaxation_blocks_sweep_stencils) {
    const index shapes[][3] = {{1, 1, 1}, {1, 1, 2},  {1, 1, 7},     {1, 2, 2},   {1, 3, 5},
                               {4, 5, 6}, {3, 4, 33}, {1, 101, 103}, {20, 21, 25}};
    for (const auto& e : shapes) {
        const sparse_case a = box(e[0], e[1], e[2], 7.5, {-1.5, -0.7, -1.1}, {-0.4, -1.3, -0.9});
        const auto stencil = find_stencil(a.pattern.view(), a.values.data());
        CHECK(stencil && stencil->size() == a.n());
        if (!stencil) continue;
        interrupt signals;
        block_backend be(signals, 3);
        const cuda::stencil_matrix m(*stencil, 0.2);
        cuda::sweep_kernels<block_backend, cuda::stencil_matrix> kernels(
            be, m, a.n(), {m.begin(0), m.begin(1), m.begin(2)});
        CHECK(kernels.walks() == (a.n() > 8192 ? 2 : 1));
        sweeps_like_serial(
            be, kernels, a, 0.2, sweep_rows(a.pattern.view(), order::redblack, {}),
            static_cast<long>(kernels.walks()) + 1,
            [&](const numbers& from, vec<double> to) { std::copy(from.begin(), from.end(), to.data); },
            [&](vec<double> from) { return numbers(from.data, from.data + from.size); },
            "stencil sweep, n " + std::to_string(a.n()));
    }
}

struct solved_there {
    cuda::relaxation::solved result;
    numbers x;
    traffic counts;
};

// --- SSOR-CG ---------------------------------------------------------------------------------------

// Symmetric, diagonally dominant, without structure.
sparse_case symmetric_rows(index n) {
    const sparse_case a = sorted_rows(n, 1);
    std::vector<std::map<std::int32_t, double>> rows(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i)
        for (index p = a.pattern.indptr[i]; p < a.pattern.indptr[i + 1]; ++p) {
            const std::int32_t j = a.pattern.indices[p];
            rows[i][j] += a.values[p];
            rows[j][static_cast<std::int32_t>(i)] += a.values[p];
        }
    for (index i = 0; i < n; ++i) {
        double sum = 0.3;
        for (const auto& [j, v] : rows[i]) sum += j == i ? 0 : std::fabs(v);
        rows[i][static_cast<std::int32_t>(i)] = sum;
    }
    return from_rows(rows, 1);
}

// D, and L and U applied to vectors, all in the order of the places: what the kernels must agree with.
class split_matrix {
public:
    split_matrix(const sparse_case& a, const sweep_layout& layout, const std::vector<std::int32_t>& rows,
                 double shift)
        : a_(a), layout_(layout), turn_(inverse_permutation(rows, a.n(), "order")) {
        for (index k = 0; k < a.n(); ++k) d.push_back(a.values[layout.diagonal[k]] + shift);
    }
    // diagonal D v + lower L v + upper U v.
    numbers times(const numbers& v, double diagonal, double lower, double upper) const {
        numbers out(v.size());
        for (index k = 0; k < a_.n(); ++k) {
            const std::int32_t i = layout_.order.rows[k];
            out[k] = diagonal * d[k] * v[k];
            for (index p = a_.pattern.indptr[i]; p < a_.pattern.indptr[i + 1]; ++p) {
                const std::int32_t j = a_.pattern.indices[p];
                if (i != j)
                    out[k] += (turn_[j] < turn_[i] ? lower : upper) * a_.values[p] * v[layout_.place[j]];
            }
        }
        return out;
    }
    numbers d;

private:
    const sparse_case& a_;
    const sweep_layout& layout_;
    std::vector<std::int32_t> turn_;
};

double dot(const numbers& u, const numbers& v) {
    double sum = 0;
    for (std::size_t i = 0; i < u.size(); ++i) sum += u[i] * v[i];
    return sum;
}
numbers plus(numbers u, double f, const numbers& v) {
    for (std::size_t i = 0; i < u.size(); ++i) u[i] += f * v[i];
    return u;
}

// Every function against its formula; solves are checked by multiplying back.
TEST(relaxation_blocks_of_ssor_cg) {
    for (const sparse_case& a :
         {five_points(9, 14), five_points(90, 100), symmetric_rows(1), symmetric_rows(300)})
        for (order how : {order::natural, order::multicolor, order::blocks}) {
            const index n = a.n();
            const std::vector<std::int32_t> rows = sweep_rows(a.pattern.view(), how, {});
            const sweep_layout layout = make_sweep_layout(a.pattern.view(), rows);
            const double shift = 0.2, omega = 1.4;
            const split_matrix m(a, layout, rows.empty() ? ascending(n) : rows, shift);
            interrupt signals;
            block_backend be(signals, 9);
            cuda::sliced_rows<block_backend> there(be, layout, a.values.data(), shift);
            cuda::sweep_kernels<block_backend, cuda::sliced_matrix> kernels(be, there.matrix(), n,
                                                                            there.levels());
            const scalar_ref s = be.scalar(), rz = be.scalar(), rz_old = be.scalar(), pq = be.scalar();
            const numbers b = random_numbers(n, 1), x = random_numbers(n, 2), old = random_numbers(n, 3);
            numbers r(b.size(), nan), v(r), t(r), w(r), p(old);
            const auto in = [n](const numbers& y) { return vec<const double>{y.data(), n}; };
            const auto to = [n](numbers& y) { return vec<double>{y.data(), n}; };
            const std::string what = "ssor-cg, n " + std::to_string(n);
            const auto walks = static_cast<long>(kernels.walks());
            auto launched = [&, before = be.counts().launches](long count) mutable {
                CHECK(be.counts().launches - std::exchange(before, be.counts().launches) == count);
            };
            const auto same = [](scalar_ref got, double expected) {
                CHECK_NEAR(*got.address(), expected, 1e-12 * std::fabs(expected));
            };

            kernels.residual_vector(in(b), in(x), to(r), s);
            launched(2);
            near_all(r.data(), plus(b, -1, m.times(x, 1, 1, 1)), 1e-13, what + ", residual");
            same(s, dot(r, r));
            kernels.lower_solve(omega, in(r), to(v), s);
            launched(walks + 1);
            near_all(m.times(v, 1 / omega, 1, 0).data(), r, 1e-12, what + ", lower solve");
            same(s, dot(v, m.times(v, 1, 0, 0)));
            *rz.address() = 3;
            *rz_old.address() = 4;
            kernels.direction_of(omega, rz, rz_old, in(v), to(p), to(t));
            launched(walks);
            near_all(p.data(), plus(m.times(v, 1, 0, 0), 0.75, old), 1e-13, what + ", p");
            near_all(m.times(t, 1 / omega, 0, 1).data(), p, 1e-12, what + ", t");
            kernels.image(omega, in(p), in(t), to(w), pq);
            launched(walks + 1);
            near_all(m.times(w, 1 / omega, 1, 0).data(), plus(p, 1 - 2 / omega, m.times(t, 1, 0, 0)), 1e-12,
                     what + ", w");
            same(pq, dot(p, plus(t, 1, w)));
            for (double divisor : {2.0, 0.0, -1.0, nan}) {
                *pq.address() = divisor;
                const double f = divisor > 0 ? 1.5 : 0;
                numbers x_new = x, r_new = v;
                kernels.advance(rz, pq, in(t), in(w), to(x_new), to(r_new), s);
                launched(2);
                near_all(x_new.data(), plus(x, f, t), 1e-13, what + ", x");
                near_all(r_new.data(), plus(v, -f, plus(t, 1, w)), 1e-13, what + ", r");
                same(s, dot(r_new, m.times(r_new, 1, 0, 0)));
            }
            kernels.lower_norm(omega, in(v), s);
            launched(2);
            same(s, dot(r, r));
        }
}

solved_there cg_on_blocks(const sparse_case& a, std::optional<order> how, const numbers& b,
                          const numbers& start, double shift, const aitken::relaxation::ssor_options& o,
                          unsigned seed = 1) {
    interrupt signals;
    block_backend be(signals, seed);
    solved_there out;
    out.x = start;
    out.result = cuda::solve_ssor_cg(be, as_matrix(a), how, {}, {b.data(), a.n()}, {out.x.data(), a.n()},
                                     shift, o, {});
    out.counts = be.counts();
    return out;
}

TEST(relaxation_blocks_ssor_cg_like_the_cpu) {
    for (const sparse_case& a : {five_points(31, 17), symmetric_rows(600), five_points(95, 90)})
        for (order how : {order::natural, order::multicolor, order::blocks}) {
            interrupt quiet;
            const auto sweeper =
                cpu::relaxation::make_sweeper(a.pattern.view(), a.values.data(), how, {}, quiet);
            const numbers b = random_numbers(a.n(), 1), start = random_numbers(a.n(), 2);
            aitken::relaxation::ssor_options o;
            o.omega = 1.5;
            o.rtol = 1e-9;
            numbers x = start;
            interrupt signals;
            const auto here = sweeper->ssor_cg({b.data(), a.n()}, {x.data(), a.n()}, 0.01, o, signals, {});
            const auto there = cg_on_blocks(a, how, b, start, 0.01, o);
            const auto& report = there.result.report;
            CHECK(here.status == status::converged && report.status == status::converged);
            CHECK(std::abs(here.iterations - report.iterations) <= 1);
            const double truth = length(residual_of(a, 0, 0.01, b.data(), there.x.data()));
            CHECK(truth <= report.target * (1 + 1e-9));
            CHECK_NEAR(truth, report.residual, 1e-6 * report.target);
            near_all(there.x.data(), x, 1e-6, "ssor-cg solution");
            CHECK(cg_on_blocks(a, how, b, start, 0.01, o, 12).x == there.x);
        }
}

TEST(relaxation_blocks_ssor_cg_orders_and_costs) {
    aitken::relaxation::ssor_options o;
    o.rtol = 1e-30;
    const sparse_case a = five_points(100, 100);
    const numbers b = random_numbers(a.n(), 1), zero(b.size(), 0.0);
    for (const auto& [how, launches] : {std::pair(order::natural, 5L), std::pair(order::multicolor, 7L)}) {
        o.max_iterations = 5;
        const auto few = cg_on_blocks(a, how, b, zero, 0, o);
        o.max_iterations = 15;
        const auto many = cg_on_blocks(a, how, b, zero, 0, o);
        // Once in a while the true norm is looked at: 2 launches and a read.
        const long looks = many.counts.reads - few.counts.reads - 10;
        CHECK(looks >= 0 && looks <= 5);
        CHECK(many.counts.launches - few.counts.launches == 10 * launches + 2 * looks);
        CHECK(many.counts.uploads == few.counts.uploads);
    }
    o.max_iterations = 2;
    CHECK(cg_on_blocks(a, {}, b, zero, 0, o).result.order == order::blocks);
    std::vector<std::map<std::int32_t, double>> columns(6 * 2048);  // 2048 chains of six rows: wide levels
    for (std::int32_t i = 0; i < 6 * 2048; ++i) {
        columns[i][i] = 4;
        if (i >= 2048) columns[i][i - 2048] = columns[i - 2048][i] = -1;
    }
    const sparse_case wide = from_rows(columns, 1);
    const numbers c = random_numbers(wide.n(), 1);
    CHECK(cg_on_blocks(wide, {}, c, numbers(c.size(), 0.0), 0, o).result.order == order::natural);
    o.eisenstat = false;
    CHECK_THROWS(cg_on_blocks(a, {}, b, zero, 0, o), std::invalid_argument);
    o.eisenstat = true;
    o.max_iterations = 1000;
    const auto indefinite =
        cg_on_blocks(five_points(12, 12), order::natural, random_numbers(144, 1), numbers(144, 0.0), -3, o);
    CHECK(indefinite.result.report.status == status::not_positive_definite);
}

// --- whole solves --------------------------------------------------------------------------------

solved_there on_blocks(const sparse_case& a, std::optional<order> how, const numbers& b, const numbers& start,
                       double shift, const aitken::relaxation::sor_options& o, unsigned seed = 1,
                       const std::vector<std::int32_t>& rows = {},
                       const aitken::relaxation::monitor& monitor = {}) {
    interrupt signals;
    block_backend be(signals, seed);
    solved_there out;
    out.x = start;
    out.result = cuda::solve_sor(be, as_matrix(a), how, rows, {b.data(), a.n()}, {out.x.data(), a.n()}, shift,
                                 o, monitor);
    out.counts = be.counts();
    return out;
}

TEST(relaxation_blocks_solve_like_the_cpu) {
    for (const sparse_case& a : {five_points(31, 17), sorted_rows(600, 1), five_points(64, 130)})
        for (order how : {order::natural, order::redblack, order::multicolor, order::blocks, order::given}) {
            if (how == order::redblack && two_colors(a.pattern.view()).colors == 0) continue;
            const bool large = a.n() > 5000;  // a launch for each colour
            if (large && how != order::redblack) continue;
            const std::vector<std::int32_t> rows = how == order::given
                                                       ? sweep_rows(a.pattern.view(), order::multicolor, {})
                                                       : std::vector<std::int32_t>{};
            interrupt quiet;
            const auto sweeper =
                cpu::relaxation::make_sweeper(a.pattern.view(), a.values.data(), how, rows, quiet);
            const numbers b = random_numbers(a.n(), 1), start = random_numbers(a.n(), 2);
            for (direction d : directions)
                for (bool adaptive : {false, true}) {
                    if (adaptive && a.n() == 600) continue;  // for symmetric matrices
                    if (large && (adaptive || d != direction::forward)) continue;
                    aitken::relaxation::sor_options o;
                    o.sweep = d;
                    o.omega = adaptive ? 1 : a.n() == 600 ? 0.9 : large ? 1.92 : 1.7;
                    o.adaptive = adaptive && d != direction::symmetric;
                    o.rtol = 1e-6;
                    o.norm = adaptive ? reference::r0 : reference::b;
                    o.max_sweeps = 5000;
                    numbers x = start;
                    interrupt signals;
                    const auto here =
                        sweeper->sor({b.data(), a.n()}, {x.data(), a.n()}, 0.01, o, signals, {});
                    const auto there = on_blocks(a, how, b, start, 0.01, o, 5, rows);
                    const auto& report = there.result.report;
                    CHECK(here.status == status::converged && report.status == status::converged);
                    CHECK(std::abs(here.iterations - report.iterations) <= 1);
                    CHECK_NEAR(report.target, here.target, 1e-12 * here.target);
                    CHECK_NEAR(report.omega, here.omega, 1e-9);
                    const double truth = length(residual_of(a, 0, 0.01, b.data(), there.x.data()));
                    CHECK(truth <= report.target * (1 + 1e-9));
                    CHECK_NEAR(truth, report.residual, 1e-9 * report.target);
                    // To its solution, within what the tolerance leaves open.
                    near_all(there.x.data(), x, 2e-3, "solution");
                    CHECK(there.result.order == how);
                    CHECK(there.result.stencil == (how == order::redblack));
                    if (d == direction::forward && !adaptive)
                        CHECK(on_blocks(a, how, b, start, 0.01, o, 77, rows).x == there.x);
                }
        }
}

// The same iterates with coefficients as with entries; one number changed, and it is no stencil any more.
TEST(relaxation_blocks_choose_an_order) {
    sparse_case a = five_points(40, 25);
    const numbers b = random_numbers(a.n(), 3), zero(b.size(), 0.0);
    aitken::relaxation::sor_options o;
    o.omega = 1.6;
    o.rtol = 1e-5;
    const auto as_stencil = on_blocks(a, {}, b, zero, 0.5, o);
    CHECK(as_stencil.result.stencil && as_stencil.result.order == order::redblack);
    o.sweep = direction::symmetric;
    CHECK(on_blocks(a, {}, b, zero, 0.5, o).result.order == order::blocks);
    o.sweep = direction::forward;
    a.values[7] *= 1 + 1e-13;
    const auto as_entries = on_blocks(a, {}, b, zero, 0.5, o);
    CHECK(!as_entries.result.stencil && as_entries.result.order == order::redblack);
    CHECK(as_entries.result.report.iterations == as_stencil.result.report.iterations);
    near_all(as_entries.x.data(), as_stencil.x, 1e-10, "stencil and entries");
    o.omega = 1;
    const auto odd = on_blocks(sorted_rows(200, 1), {}, random_numbers(200, 1), numbers(200, 0.0), 0, o);
    CHECK(!odd.result.stencil && odd.result.order == order::multicolor);
    CHECK(odd.result.report.status == status::converged);
}

TEST(relaxation_blocks_report_and_stop) {
    const sparse_case a = five_points(13, 11);
    const numbers b = random_numbers(a.n(), 3), start = random_numbers(a.n(), 4);
    for (std::optional<order> how : {std::optional(order::natural), std::optional<order>()}) {
        aitken::relaxation::sor_options o;
        o.omega = 1.4;
        o.report_x = true;
        numbers x = start;
        const std::vector<std::int32_t> rows =
            how ? ascending(a.n()) : sweep_rows(a.pattern.view(), order::redblack, {});
        index told = 0;
        const auto listen = [&](const aitken::relaxation::step& s) {
            serial_sweep(a, 0, 0, rows, o.omega, b.data(), x, false);
            CHECK(s.iteration == ++told);
            near_all(s.x, x, 1e-12, "x shown");
            CHECK_NEAR(s.residual, length(residual_of(a, 0, 0, b.data(), x.data())), 1e-11);
            return told == 6;
        };
        const auto r = on_blocks(a, how, b, start, 0, o, 1, {}, listen);
        CHECK(told == 6 && r.result.report.status == status::stopped_by_callback);
        near_all(r.x.data(), x, 1e-12, "x returned");
    }
    aitken::relaxation::sor_options o;
    o.max_sweeps = 3;
    const auto few = on_blocks(a, {}, b, start, 0, o);
    CHECK(few.result.report.status == status::max_iterations && few.result.report.iterations == 3);
    const auto zero = on_blocks(a, {}, numbers(b.size(), 0.0), start, 0, o);
    CHECK(zero.result.report.status == status::converged && zero.x == numbers(b.size(), 0.0));
    o.max_sweeps = 1000;
    const auto blown = on_blocks(a, order::natural, b, start, -3.9, o);
    CHECK(blown.result.report.status == status::diverged && blown.x == start);
}

TEST(relaxation_blocks_refuse) {
    sparse_case a = sorted_rows(50, 1);
    const numbers b = random_numbers(50, 3);
    const aitken::relaxation::sor_options o;
    const auto text = [&](const sparse_case& bad, std::optional<order> how, double shift) {
        try {
            on_blocks(bad, how, b, b, shift, o);
        } catch (const std::invalid_argument& e) {
            return std::string(e.what());
        }
        return std::string();
    };
    CHECK(text(a, order::redblack, 0).find("odd cycle") != std::string::npos);
    sparse_case zero = a;
    for (std::int32_t row : {11, 30})
        for (index p = a.pattern.indptr[row]; p < a.pattern.indptr[row + 1]; ++p)
            if (a.pattern.indices[p] == row) zero.values[p] = 0;
    CHECK(text(zero, order::natural, 0) == "the diagonal of row 11 is zero or has no inverse");
    CHECK(text(zero, order::natural, 0.5).empty());
    CHECK(text(five_points(5, 10), {}, -4) == "the diagonal of row 0 is zero or has no inverse");
    CHECK(text(five_points(5, 10), {}, nan) == "the diagonal of row 0 is zero or has no inverse");
    std::swap(a.pattern.indices[a.pattern.indptr[20]], a.pattern.indices[a.pattern.indptr[21] - 1]);
    CHECK(text(a, order::natural, 0).find("row 20") != std::string::npos);
}

// What a sweep costs, as the difference of two solves by their budgets.
TEST(relaxation_blocks_count_launches_and_reads) {
    struct expected {
        sparse_case a;
        std::optional<order> how;
        long launches;
    };
    const std::vector<expected> cases{{five_points(20, 20), {}, 2},    // both colours in one walk
                                      {five_points(100, 100), {}, 3},  // stencil, a launch each
                                      {five_points(100, 100), order::multicolor, 3},  // entries
                                      {five_points(100, 100), order::natural, 2},     // 199 narrow levels
                                      {sorted_rows(1500, 1), order::natural, 2}};
    for (const expected& c : cases) {
        const numbers b = random_numbers(c.a.n(), 3), zero(b.size(), 0.0);
        aitken::relaxation::sor_options o;
        o.rtol = 0;
        o.max_sweeps = 20;
        const traffic few = on_blocks(c.a, c.how, b, zero, 0.01, o).counts;
        o.max_sweeps = 70;
        const traffic many = on_blocks(c.a, c.how, b, zero, 0.01, o).counts;
        CHECK(many.launches - few.launches == 50 * c.launches);
        CHECK(many.reads - few.reads == 5 && many.uploads == few.uploads);
    }
}

}  // namespace
}  // namespace aitken::tests
