// Cycles and vectors for the CUDA kernels of grids and conjugate directions, on any backend.
#pragma once

#include <cstddef>
#include <random>
#include <vector>

#include "cuda/deepcg_kernels.hpp"
#include "multigrid_cases.hpp"

namespace aitken::tests {

using numbers = std::vector<double>;
using host_pointer = std::shared_ptr<cpu::multigrid::poisson_grid>;

inline host_pointer host_grid_of(const multigrid_cases::grid_case& c) {
    auto grid = cpu::multigrid::make_grid(c.box);
    grid->update(c.coefficients());
    return grid;
}

inline numbers normal_numbers(index n, unsigned seed) {
    std::mt19937_64 source(seed);
    std::normal_distribution<double> normal;
    numbers out(static_cast<std::size_t>(n));
    for (double& v : out) v = normal(source);
    return out;
}

// Weights that make fields vary from cell to cell.
inline multigrid::learned_weights weights_of(int ndim, float size, unsigned seed) {
    std::mt19937_64 source(seed);
    std::normal_distribution<float> normal(0.0f, size);
    multigrid::learned_weights w;
    w.ndim = ndim;
    w.omega = {1.24, 0.6};
    w.w1.resize(16 * 4 * (ndim == 3 ? 27 : 9));
    w.w2.resize(16 * 16);
    w.w3.resize(3 * 16);
    w.b1.resize(16);
    w.b2.resize(16);
    w.b3.resize(3);
    for (auto* list : {&w.w1, &w.b1, &w.w2, &w.b2, &w.w3, &w.b3})
        for (float& v : *list) v = normal(source);
    w.b3[1] += 4;  // interpolation counts
    return w;
}

// W and V, momentum and none, one sweep and several, learned.
inline std::vector<multigrid::cycle_options> cycle_kinds(int ndim) {
    std::vector<multigrid::cycle_options> out(6);
    out[0].kind = out[1].kind = out[2].kind = multigrid::smoother::chebyshev;
    out[1].visits = 1;
    out[2].degree = 1;
    out[2].visits = 3;
    out[3].visits = 1;
    out[4].omega = {0.7};
    if (ndim > 1) {
        out.emplace_back().learned = weights_of(ndim, 0.5f, 3);
        out.emplace_back().learned = weights_of(ndim, 8.0f, 4);
    }
    return out;
}

// Padded vectors of a grid in a backend's memory, and there and back.
template <class Be>
class padded_vectors {
public:
    padded_vectors(Be& be, const cpu::multigrid::poisson_grid& grid) : be_(be), grid_(grid) {}

    double* put(const numbers& full) {
        const numbers block = host_block(full);
        const vec<double> there = be_.template allocate<double>(static_cast<index>(block.size()));
        be_.upload(block.data(), there);
        return there.data + grid_.guard();
    }
    double* fresh() { return put(numbers(static_cast<std::size_t>(grid_.shape().cells()), 0.0)); }
    // With the guards; the cells of what is returned are those of `cells()`.
    numbers block(const double* from) {
        numbers out(static_cast<std::size_t>(grid_.size() + 2 * grid_.guard()));
        be_.download(vec<const double>{from - grid_.guard(), static_cast<index>(out.size())}, out.data());
        return out;
    }
    numbers get(const double* from) { return cells(block(from)); }
    numbers cells(const numbers& block) const {
        numbers out(static_cast<std::size_t>(grid_.shape().cells()));
        grid_.gather(block.data() + grid_.guard(), false, out.data());
        return out;
    }
    // Whether all but FLUID cells is zero.
    bool clean(const double* from) {
        const numbers is = block(from);
        return is == host_block(cells(is));
    }
    numbers host_block(const numbers& full) const {
        numbers block(static_cast<std::size_t>(grid_.size() + 2 * grid_.guard()), 0.0);
        grid_.scatter(full.data(), false, block.data() + grid_.guard());
        return block;
    }

private:
    Be& be_;
    const cpu::multigrid::poisson_grid& grid_;
};

}  // namespace aitken::tests
