// The Poisson operator of a grid on the CPU, as its multigrid sees it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/api/multigrid.hpp"
#include "cpu/grid_levels.hpp"

namespace aitken::cpu::multigrid {

class host_grid final : public poisson_grid {
public:
    explicit host_grid(const api::box& b);

    const api::box& shape() const override { return box_; }
    index size() const override { return s_.size(); }
    index guard() const override { return s_.guard(); }
    index n_fluid() const override { return n_fluid_; }
    const api::coefficients& given() const override { return given_; }
    void update(const api::coefficients&) override;
    long version() const override { return version_; }
    void scatter(const double* from, bool compact, double* padded) const override;
    void gather(const double* padded, bool compact, double* to) const override;
    void apply(const double* x, double* y) const override;
    double apply_dot(const double* x, double* y) const override;
    void diagonal(double* padded) const override;
    index components() const override { return components_; }
    index singular_components() const override { return given_.shift > 0 ? 0 : floating_components(); }
    double project(double* padded) const override;
    void component_labels(std::int32_t* full) const override;

    const level_shape& level() const { return s_; }
    // Null where the box is variable.
    const std::uint8_t* codes() const { return box_.variable ? nullptr : code_.data(); }
    const aitken_grid_f64& stencil() const { return stencil_; }
    double shift() const { return given_.shift; }

    // Components that touch no p = 0: there A 1 = shift 1.
    index floating_components() const { return static_cast<index>(floating_begin_.size()) - 1; }
    // Takes their means off, into `means` unless that is null; returns the 2-norm of what was taken.
    double take_means(double* padded, double* means) const;
    void raise(index component, double by, double* padded) const;

    // The largest conductance or shift: single precision works on multiples of it.
    double unit() const { return unit_; }

    // Rows of float, in units: conductances of the lower faces along `axis`, towards p = 0 along it, and 1
    // per equation.
    void lower_faces(int axis, index row, float* out) const;
    void open_faces(int axis, index row, float* out) const;
    void volumes(index row, float* out) const;

private:
    enum : std::uint8_t { nothing = 0, equation = 1, held = 2 };  // what a cell is

    double face(int axis, index i0, index i1, index i2, bool upper) const;
    index neighbour(int axis, index i0, index i1, index i2, bool upper) const;
    double open_conductance(int axis, index i0, index i1, index i2) const;
    void find_kinds(const api::coefficients&);
    void find_codes();
    void find_conductances();
    void find_components();
    std::int32_t root_of(std::int32_t run);
    void join(std::int32_t a, std::int32_t b);
    void join_rows(index row, index other, int axis, bool wraps);

    api::box box_;
    level_shape s_;
    api::coefficients given_;
    long version_ = 0;
    index n_fluid_ = 0;
    double unit_ = 1;
    padded<std::uint8_t> kind_, code_;
    std::array<padded<double>, 3> w_;  // in a variable box
    padded<double> excess_;            // of the diagonal over the sum of a row's others
    aitken_grid_f64 stencil_{};
    std::vector<index> row_first_;  // FLUID cells before each row

    // A run is a stretch of a row whose cells conduct to each other.
    std::vector<index> run_of_row_;
    std::vector<std::int32_t> run_begin_, run_end_, parent_, label_;  // positions in a row; by run
    std::vector<char> touches_;                                       // p = 0; by root
    std::vector<float> open_, open_of_axis_;                          // of a row
    index components_ = 0;
    std::vector<index> floating_begin_{0}, fill_;
    std::vector<std::int32_t> floating_cells_;  // padded positions, by component
};

}  // namespace aitken::cpu::multigrid
