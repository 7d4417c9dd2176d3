// The Poisson operator of a grid with obstacles, and its conductance multigrid: what bindings may ask for.
//
//   (A x)_i = d_i x_i - sum_j w_ij x_j,   d_i = sum of all conductances of cell i + shift,
//
// over the FLUID cells. A face has conductance (given or 1) / h^2 between two FLUID cells and towards p = 0
// in a DIRICHLET cell or exterior, and none towards SOLID.
//
// Vectors of these operators are padded: the cells in C order with one zero behind every row and a row of
// zeros behind every plane, so that neighbours lie at fixed distances. They are zero in pads and in cells
// that are not FLUID, and lie in memory with `guard()` zeros before and behind.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/linear_map.hpp"
#include "core/views.hpp"

namespace aitken::multigrid {

// What never changes: memory and levels depend on it alone.
struct box {
    int ndim = 2;                     // the last axes of the three
    std::array<index, 3> n{1, 1, 1};  // leading ones
    std::array<bool, 3> periodic{};
    std::array<double, 3> scale{1, 1, 1};  // 1 / h^2
    bool variable = false;                 // conductances of faces are given

    index cells() const { return n[0] * n[1] * n[2]; }
};

enum cell_kind : std::uint8_t { fluid = 0, solid = 1, dirichlet = 2 };

struct coefficients {
    const std::uint8_t* flags = nullptr;        // a cell_kind per cell; null: all fluid
    std::array<const double*, 3> faces{};       // n_a + 1 along axis a, else as n; only in a variable box
    std::array<std::array<bool, 2>, 3> open{};  // sides beyond which all is DIRICHLET; else SOLID
    double shift = 0;                           // added to the diagonal of FLUID cells
};

// Weights of the network that sees the geometry of a level, and the rule that they were trained with.
struct learned_weights {
    int ndim = 0;  // 0: none
    std::vector<double> omega;
    std::vector<float> w1, b1, w2, b2, w3, b3;  // (16, 4, 3^d), (16), (16, 16), (16), (3, 16), (3)
};

enum class smoother { jacobi, chebyshev };

struct cycle_options {
    int visits = 2;  // of each coarse level by the one above: 1 is a V-cycle, 2 a W-cycle
    smoother kind = smoother::jacobi;
    std::vector<double> omega;  // of Jacobi's sweeps before the correction; empty: two by the dimension
    int degree = 3;             // of Chebyshev
    double lower_ratio = 4;     // its interval is [2 / lower_ratio, 2]
    learned_weights learned;    // replaces `omega`
};

}  // namespace aitken::multigrid

namespace aitken::cpu::multigrid {

namespace api = aitken::multigrid;

class poisson_grid {
public:
    virtual ~poisson_grid() = default;
    virtual const api::box& shape() const = 0;
    virtual index size() const = 0;   // of a padded vector
    virtual index guard() const = 0;  // zeros before and behind it
    virtual index n_fluid() const = 0;
    virtual const api::coefficients& given() const = 0;  // valid until the caller's arrays go

    // In O(cells) and without allocating. Throws std::invalid_argument on a flag above 2.
    virtual void update(const api::coefficients&) = 0;
    virtual long version() const = 0;  // grows with every update

    // From and to vectors of all cells, or of FLUID cells alone (`compact`).
    virtual void scatter(const double* from, bool compact, double* padded) const = 0;
    virtual void gather(const double* padded, bool compact, double* to) const = 0;

    virtual void apply(const double* x, double* y) const = 0;
    virtual double apply_dot(const double* x, double* y) const = 0;  // y = A x, returns x' y
    virtual void diagonal(double* padded) const = 0;

    // Connected components of FLUID cells; singular ones touch no DIRICHLET face (and there is no shift).
    virtual index components() const = 0;
    virtual index singular_components() const = 0;
    virtual index floating_components() const = 0;  // that touch no DIRICHLET face
    // Takes the means off the singular components; returns the 2-norm of what was taken.
    virtual double project(double* padded) const = 0;
    // The component of each cell (all cells, C order), -1 where not FLUID; those that touch no DIRICHLET
    // face first.
    virtual void component_labels(std::int32_t* full) const = 0;
};

std::shared_ptr<poisson_grid> make_grid(const api::box&);

// A x, as a map on padded vectors.
std::unique_ptr<linear_map<double>> make_grid_map(std::shared_ptr<const poisson_grid>);

// One cycle on the grid's equations from zero, in single precision on the right-hand side over its norm;
// symmetric positive definite on vectors without means on singular components, which are taken off.
class cycle : public linear_map<double> {
public:
    using linear_map<double>::apply;
    virtual void update() = 0;  // after the grid's update: O(cells), no allocation
    virtual int levels() const = 0;
    virtual index bytes() const = 0;                   // of all levels, and of this one's vectors
    virtual std::unique_ptr<cycle> clone() const = 0;  // the same levels, vectors of its own
    virtual std::vector<float> field(int level, int which) const = 0;  // learned phi, constant, linear part
};

// Throws std::invalid_argument for omegas or weights that give no positive definite smoother.
std::unique_ptr<cycle> make_cycle(std::shared_ptr<const poisson_grid>, const api::cycle_options&);

}  // namespace aitken::cpu::multigrid
