// Sketch-and-project and CountSketch for Python. z is NumPy's and is used in place.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "bindings/signals.hpp"
#include "core/api/linear_maps.hpp"
#include "core/api/optimize_sketch.hpp"

namespace py = pybind11;
namespace api = aitken::optimize_sketch;

namespace {

using aitken::index;
template <class T>
using array = py::array_t<T, py::array::c_style>;

// An ndarray, or (indptr, indices, data, columns). Held while it is used; nothing is trusted.
class given_matrix {
public:
    given_matrix(const py::object& given, const char* name) {
        if (!py::isinstance<py::tuple>(given)) {
            dense_ = given.cast<array<double>>();
            if (dense_.ndim() != 2)
                throw std::invalid_argument(std::string("`") + name + "` must be a matrix");
            view_.dense = {dense_.data(), dense_.shape(0), dense_.shape(1), dense_.shape(1)};
            return;
        }
        const auto parts = given.cast<py::tuple>();
        if (parts.size() != 4)
            throw std::invalid_argument(std::string("`") + name + "` must have four parts");
        indptr_ = parts[0].cast<array<std::int64_t>>();
        indices_ = parts[1].cast<array<std::int32_t>>();
        data_ = parts[2].cast<array<double>>();
        const index rows = indptr_.size() - 1, columns = parts[3].cast<index>();
        const aitken::cpu::raw_csr<std::int32_t, double> raw{
            rows, columns, indptr_.data(), indptr_.size(), indices_.data(), indices_.size(), nullptr, 0};
        if (data_.size() != indices_.size() || !aitken::cpu::inspect_csr(raw, name, "row").unique)
            throw std::invalid_argument(std::string("`") + name + "` has an entry twice, or too few values");
        view_.a = {rows, columns, indptr_.data(), indices_.data()};
        view_.values = data_.size() > 0 ? data_.data() : &nothing_;
    }
    const api::any_matrix& view() const { return view_; }

private:
    array<double> dense_, data_;
    array<std::int64_t> indptr_;
    array<std::int32_t> indices_;
    double nothing_ = 0;  // tells an empty sparse matrix from a dense one
    api::any_matrix view_;
};

api::method method_named(const std::string& name) {
    if (name == "gaussian") return api::method::gaussian;
    if (name == "kaczmarz") return api::method::kaczmarz;
    if (name == "block_gaussian") return api::method::block_gaussian;
    if (name == "countsketch") return api::method::countsketch;
    if (name == "block_kaczmarz") return api::method::block_kaczmarz;
    throw std::invalid_argument("`method` is \"" + name + "\"");
}

// Every key must be known: a misspelt option is an error, not a default.
api::options to_options(const py::dict& given) {
    api::options o;
    for (const auto& [key_object, value] : given) {
        const std::string key = py::str(key_object);
        if (key == "method")
            o.method = method_named(value.cast<std::string>());
        else if (key == "rtol")
            o.rtol = value.cast<double>();
        else if (key == "max_steps")
            o.max_steps = value.cast<index>();
        else if (key == "max_flops")
            o.max_flops = value.cast<double>();
        else if (key == "block")
            o.block = value.cast<index>();
        else if (key == "seed")
            o.seed = value.cast<std::uint64_t>();
        else if (key == "first_step")
            o.first_step = value.cast<std::uint64_t>();
        else if (key == "n_threads")
            o.n_threads = value.cast<int>();
        else
            throw std::invalid_argument("unknown option `" + key + "`");
    }
    return o;
}

py::dict sketch_project(const py::object& k, const array<double>& b, array<double>& z,
                        const py::dict& options) {
    const given_matrix matrix(k, "K");
    const api::options o = to_options(options);
    const aitken::vec<const double> from{b.data(), b.size()};
    const aitken::vec<double> to{z.mutable_data(), z.size()};
    aitken::interrupt signals = aitken::bindings::python_signals();
    api::report r;
    {
        const py::gil_scoped_release release;
        r = aitken::cpu::optimize_sketch::project(matrix.view(), from, to, o, signals);
    }
    py::dict d;
    d["status"] = static_cast<int>(r.status);
    d["detail"] = r.detail;
    d["steps"] = r.steps;
    d["blocks"] = r.blocks;
    d["flops"] = r.flops;
    d["residual"] = r.residual;
    d["norm_b"] = r.norm_b;
    return d;
}

void check_rows(index rows) {
    if (rows < 1 || rows > (index{1} << 31) - 1)
        throw std::invalid_argument("`rows` is " + std::to_string(rows) + "; 1 to 2^31 - 1 is allowed");
}

array<double> count_sketch(const py::object& w, index rows, std::uint64_t seed, std::uint64_t draw,
                           int n_threads) {
    check_rows(rows);
    const given_matrix matrix(w, "W");
    const index columns = matrix.view().cols();
    array<double> out({rows, columns});
    const aitken::matrix<double> to{out.mutable_data(), rows, columns, columns};
    {
        const py::gil_scoped_release release;
        aitken::cpu::optimize_sketch::count_sketch(matrix.view(), seed, draw, to, n_threads);
    }
    return out;
}

py::tuple count_sketch_map(index rows, index sketched, std::uint64_t seed, std::uint64_t draw) {
    check_rows(rows);
    check_rows(sketched);
    array<std::int32_t> bucket(rows);
    array<double> sign(rows);
    aitken::cpu::optimize_sketch::count_sketch_map(rows, sketched, seed, draw, bucket.mutable_data(),
                                                   sign.mutable_data());
    return py::make_tuple(bucket, sign);
}

}  // namespace

void bind_optimize_sketch(py::module_& m) {
    m.def("sketch_project", &sketch_project, py::arg("K"), py::arg("b").noconvert(), py::arg("z").noconvert(),
          py::arg("options"));
    m.def("count_sketch", &count_sketch, py::arg("W"), py::arg("rows"), py::arg("seed"), py::arg("draw"),
          py::arg("n_threads"));
    m.def("count_sketch_map", &count_sketch_map, py::arg("rows"), py::arg("sketched"), py::arg("seed"),
          py::arg("draw"));
}
