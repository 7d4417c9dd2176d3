#include <complex>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "core/api/linear_maps.hpp"
#include "cpu/sliced_kernels.hpp"
#include "sparse/pattern.hpp"
#include "sparse/sliced.hpp"

namespace aitken::cpu {
namespace {

inline double conjugate(double x) { return x; }
inline std::complex<double> conjugate(std::complex<double> x) { return std::conj(x); }

template <class S>
class csr_map final : public matrix_map<S> {
public:
    csr_map(const pattern_view& a, const S* values)
        : pattern_(make_sliced(a)), values_(static_cast<std::size_t>(pattern_.stored())) {
        update(values);
    }

    index size() const override { return pattern_.rows; }

    using matrix_map<S>::apply;
    void apply(tall<const S> x, tall<S> y) override {
        for (index j = 0; j < x.cols; ++j) sliced_multiply(pattern_, values_.data(), x.col(j), y.col(j));
    }

    void apply_adjoint(tall<const S> x, tall<S> y) override {
        prepare_adjoint();
        for (index j = 0; j < x.cols; ++j)
            sliced_multiply(adjoint_, adjoint_values_.data(), x.col(j), y.col(j));
    }

    void update(const S* values) override {
        fill_sliced(pattern_, values, values_.data());
        adjoint_current_ = false;
    }

private:
    // The adjoint's pattern is made at its first use, its values (from values_) at the first use after
    // update.
    void prepare_adjoint() {
        if (!adjoint_known_) {
            std::vector<index> place(
                static_cast<std::size_t>(pattern_.nnz));  // entry -> where values_ has it
            for (index p = 0; p < pattern_.stored(); ++p)
                if (pattern_.source[p] >= 0) place[pattern_.source[p]] = p;
            std::vector<index> entry;
            const sparse_pattern t = transpose(compressed_rows(pattern_).view(), &entry);
            sliced_pattern made = make_sliced(t.view());
            for (index& p : made.source)
                if (p >= 0) p = place[entry[p]];
            adjoint_values_.resize(static_cast<std::size_t>(made.stored()));
            adjoint_ = std::move(made);
            adjoint_known_ = true;
        }
        if (adjoint_current_) return;
        fill_sliced(adjoint_, values_.data(), adjoint_values_.data());
        for (S& v : adjoint_values_) v = conjugate(v);
        adjoint_current_ = true;
    }

    const sliced_pattern pattern_;
    slice_values<S> values_;
    sliced_pattern adjoint_;
    slice_values<S> adjoint_values_;
    bool adjoint_known_ = false, adjoint_current_ = false;
};

}  // namespace

template <class S>
map_ptr<S> make_csr(const pattern_view& a, const S* values) {
    return std::make_shared<csr_map<S>>(a, values);
}

template map_ptr<double> make_csr(const pattern_view&, const double*);
template map_ptr<std::complex<double>> make_csr(const pattern_view&, const std::complex<double>*);

}  // namespace aitken::cpu
