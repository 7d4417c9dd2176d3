// Small convolutional networks on grids: the one that proposes search directions from a residual, and the one
// that sees the geometry of a multigrid level. What bindings and drivers may ask for.
//
// Weights are given as networks are trained: (out, in, 3, 3, 3) or (out, in, 3, 3), C order, and applied
// without turning the kernel round (cross-correlation); beyond the box everything is zero.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/api/multigrid.hpp"
#include "core/interrupt.hpp"
#include "core/linear_map.hpp"
#include "core/views.hpp"

struct aitken_simd_table;

namespace aitken::convolution {

inline constexpr index channels = 16;

enum class precision { f32, bf16 };  // of activations and weights between layers; sums are always float

struct layer {
    std::vector<float> weights, bias;
};

// The two-level direction network, all convolutions 16 -> 16 but the first and the last:
//   a = relu(conv(conv_1->16(r))), b = relu(conv a); `down` times: a = relu(conv b) + a, b = relu(conv a)
//   h = means of 2^d cells of b;                     `coarse` times: t = relu(conv h), h = relu(conv t) + h
//   v = h repeated 2^d times + b;                    `up` times: t = relu(conv v), v = relu(conv t) + v
//   z = 16 -> 1 of v, cell by cell
// It is not homogeneous: r should have norm 1. An odd side gets a cell of zeros more.
struct direction_weights {
    int ndim = 3;
    int down = 1, coarse = 3, up = 2;
    std::vector<layer> layers;  // in the order of application: 2 (down + coarse + up) + 4

    index expected_layers() const { return 2 * (down + coarse + up) + 4; }
};

}  // namespace aitken::convolution

namespace aitken::cpu::convolution {

namespace api = aitken::convolution;

// ---- The network of a multigrid level --------------------------------------------------------------------

class geometry_scratch;

// relu(conv 3^d, 4 -> 16), relu(16 -> 16 in each cell), 16 -> 3 in each cell; laid out for the kernels.
class geometry_network {
public:
    // Throws std::invalid_argument where sizes are not those of `ndim`. `level` as in simd_for().
    explicit geometry_network(const multigrid::api::learned_weights&, const std::string& level = "");
    int ndim() const { return ndim_; }

private:
    friend void geometry_fields(const geometry_network&, const std::array<index, 3>&,
                                const std::array<const float*, 4>&, const std::array<float*, 3>&,
                                geometry_scratch&, int);
    int ndim_;
    const aitken_simd_table* table_;
    std::vector<float> packed_;
};

// Rows that workers put together. Grows where a call needs more than any call before it.
class geometry_scratch {
public:
    // For boxes whose last side is at most `longest`, with the number of threads of this moment.
    void reserve(index longest);

private:
    friend void geometry_fields(const geometry_network&, const std::array<index, 3>&,
                                const std::array<const float*, 4>&, const std::array<float*, 3>&,
                                geometry_scratch&, int);
    std::vector<float> rows_;
};

// Features and fields: planes of n[0] n[1] n[2] floats in C order; n[0] = 1 in two dimensions. Allocates
// nothing once the scratch is large enough. Bits do not depend on the number of threads. Per cell 28 B and
// 4064 flops in three dimensions, 1760 in two.
void geometry_fields(const geometry_network&, const std::array<index, 3>& n,
                     const std::array<const float*, 4>& features, const std::array<float*, 3>& out,
                     geometry_scratch&, int n_threads = 0);

// ---- The direction network -------------------------------------------------------------------------------

bool has_bf16();  // whether this machine multiplies pairs of bfloat16 (AVX512_BF16)

// Where the cells of a box lie: cell (i0, i1, i2) at i0 plane + i1 row + i2.
struct cell_layout {
    index row = 0, plane = 0;
};

// Weights laid out for the kernels; shared by networks of any size.
class packed_weights;
// Throws std::invalid_argument naming the layer whose size does not fit, and for bf16 where has_bf16() is
// false. `level` as in simd_for().
std::shared_ptr<const packed_weights> pack_weights(const api::direction_weights&, api::precision,
                                                   const std::string& level = "");

// A network on one box. Memory is taken when it is made: two fields of 16 channels on the box and two on the
// box of half the side. Applying it allocates nothing; bits do not depend on the number of threads. One
// thread applies an instance at a time.
class network {
public:
    virtual ~network() = default;
    virtual const std::array<index, 3>& shape() const = 0;  // n[0] = 1 in two dimensions
    virtual api::precision stored() const = 0;
    virtual index bytes() const = 0;   // of its fields
    virtual double flops() const = 0;  // of one application
    // z = f(r) where keep is not 0 (null: everywhere) and 0 elsewhere. r and z may be the same.
    virtual void apply(const double* r, double* z, const cell_layout&, const double* keep) = 0;
    virtual void apply(const float* r, float* z, const cell_layout&, const double* keep) = 0;
    virtual std::unique_ptr<network> clone() const = 0;  // the same weights, fields of its own
};

std::unique_ptr<network> make_network(std::shared_ptr<const packed_weights>, const std::array<index, 3>& n);

// `count` residuals one after the other, each a full grid in C order.
void apply_network(network&, const double* r, double* z, index count, const double* keep, int n_threads,
                   interrupt&);
void apply_network(network&, const float* r, float* z, index count, const double* keep, int n_threads,
                   interrupt&);

// The network as a map on the padded vectors of a grid: zero in cells that are not FLUID.
std::unique_ptr<linear_map<double>> make_network_map(std::shared_ptr<network>,
                                                     std::shared_ptr<const multigrid::poisson_grid>);

}  // namespace aitken::cpu::convolution
