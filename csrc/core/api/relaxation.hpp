// Successive over-relaxation, and CG preconditioned by its symmetric form: what bindings may ask for.
//
// A = L + D + U in the order in which rows are swept. Everything is double precision; complex vectors are
// pairs of doubles where a step shows them.
#pragma once

#include <complex>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/interrupt.hpp"
#include "core/status.hpp"
#include "core/views.hpp"

namespace aitken::relaxation {

enum class direction { forward, backward, symmetric };  // symmetric: forward, then backward

// In what order rows are relaxed. All orders are executed by levels, with the bits of a serial sweep.
enum class order {
    natural,
    redblack,    // needs a graph of two colours
    multicolor,  // greedy colours, in the order of the rows
    blocks,      // clusters of neighbouring rows, serial inside; colours across
    given        // a permutation
};

enum class reference { b, r0 };  // what rtol is relative to

struct sor_options {
    direction sweep = direction::forward;
    double omega = 1;
    bool adaptive = false;  // omega is raised during the solve as the rate of convergence suggests
    double rtol = 1e-8, atol = 0;
    reference norm = reference::b;
    index max_sweeps = 10000;
    index check_every = 0;  // 0: every sweep, from numbers that the next sweep sees anyway
    bool report_x = false;
    int n_threads = 0;
};

struct ssor_options {
    double omega = 1;
    bool eisenstat = true;
    double rtol = 1e-8, atol = 0;
    index max_iterations = 1000;
    bool report_x = false;
    int n_threads = 0;
};

struct report {
    aitken::status status = aitken::status::converged;
    std::string detail;    // one clause on what ended it, empty when converged
    index iterations = 0;  // the first after which the residual met the target, or all
    index sweeps = 0;      // sweeps done: one more than counted where convergence was seen by the next one
    index matvecs = 0;     // products with A beside the sweeps
    double residual = 0;   // ||b - A x||_2, recomputed
    double norm_b = 0, target = 0;
    double omega = 1;  // at the end
    double mu = 0;     // spectral radius of the Jacobi matrix as the adaptive method saw it; 0: not seen
    std::vector<double> history;  // ||r||_2 at the start, then as often as it was looked at
    traffic counts;
};

struct step {
    index iteration;
    double residual, target;
    const double* x;  // null unless report_x
};
using monitor = std::function<bool(const step&)>;  // true: stop

// Extreme values that omega is chosen by.
struct spectrum {
    double mu = 0;     // spectral radius of I - D^-1 A, below 1
    double alpha = 1;  // max x' D x / x' A x
    double delta = 0;  // max x' (L D^-1 L' - D / 4) x / x' A x, at least 0
    index products = 0;
};

// Many systems of one pattern. System k has the entries values + k * value_stride and the diagonal raised
// by shifts[k].
struct batch_problem {
    pattern_view a;  // rows sorted, no entry twice
    const double* values = nullptr;
    index value_stride = 0;          // 0: all systems share the values
    const double* shifts = nullptr;  // null: none
    const double* omegas = nullptr;  // one per system
    matrix<const double> b;          // a system per row
    matrix<double> x;                // starts, then solutions
};
struct batch_options {
    direction sweep = direction::forward;
    double rtol = 1e-8, atol = 0;
    reference norm = reference::b;
    index max_sweeps = 10000;
    int n_threads = 0;
};
struct batch_report {
    std::vector<int> status;               // of each system
    std::vector<index> iterations;         // as report::iterations
    std::vector<double> residual, target;  // ||b - A x||_2 recomputed, and what it had to meet
};

}  // namespace aitken::relaxation

namespace aitken::cpu::relaxation {

namespace api = aitken::relaxation;

// A matrix laid out for sweeps in one order: what depends on the pattern is kept when values change. One
// thread at a time.
class sweeper {
public:
    virtual ~sweeper() = default;
    virtual index size() const = 0;
    virtual index levels() const = 0;
    virtual bool stencil() const = 0;  // constant coefficients on a grid, swept without reading entries

    virtual void update(const double* values) = 0;

    // From the x given; solves (A + shift I) x = b. Throws std::invalid_argument naming the row where the
    // diagonal has no inverse.
    virtual api::report sor(vec<const double> b, vec<double> x, double shift, const api::sor_options&,
                            interrupt&, const api::monitor&) = 0;
    // The same for symmetric positive definite A by CG with M = (D/w + L) (D/w)^-1 (D/w + U).
    virtual api::report ssor_cg(vec<const double> b, vec<double> x, double shift, const api::ssor_options&,
                                interrupt&, const api::monitor&) = 0;
    // Of A + shift I, by at most `steps` Lanczos steps on D^-1/2 A D^-1/2 from b; delta only if asked for
    // (two vectors of memory per step). Throws std::invalid_argument where the diagonal is not positive.
    virtual api::spectrum estimate(vec<const double> b, double shift, int steps, bool with_delta,
                                   int n_threads, interrupt&) = 0;
};
// `rows` is the permutation of order::given. Throws std::invalid_argument where the order does not exist.
std::unique_ptr<sweeper> make_sweeper(const pattern_view& a, const double* values, api::order order,
                                      const std::vector<std::int32_t>& rows, interrupt&);

// Whether A is one stencil with constant coefficients on a grid, which a red-black sweeper sweeps as such.
bool is_stencil(const pattern_view& a, const double* values);

// Row by row in the natural order, for matrices that are complex.
api::report sor_serial(const pattern_view& a, const std::complex<double>* values,
                       vec<const std::complex<double>> b, vec<std::complex<double>> x, double shift,
                       const api::sor_options&, interrupt&, const api::monitor&);

// Each system stops by itself, and is solved with the bits that it would have alone.
api::batch_report sor_batch(const api::batch_problem&, const api::batch_options&, interrupt&);

}  // namespace aitken::cpu::relaxation
