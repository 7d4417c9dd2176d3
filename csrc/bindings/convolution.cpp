// Convolutional networks on grids for Python. The Python side has checked kinds and shapes; what could break
// memory is checked again here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/network_handle.hpp"
#include "bindings/signals.hpp"
#include "core/api/convolution.hpp"

namespace py = pybind11;
namespace api = aitken::convolution;
namespace conv = aitken::cpu::convolution;

namespace {

using aitken::index;  // here, where POSIX's ::index does not get in the way
using aitken::bindings::network_handle;
template <class T>
using array = py::array_t<T, py::array::c_style>;
using layers = std::vector<std::pair<array<float>, array<float>>>;
using weights_type = std::shared_ptr<const conv::packed_weights>;

// What Python holds of packed weights, whose type only the kernels know.
struct weights_handle {
    weights_type packed;
};

std::vector<float> numbers(const array<float>& a) { return {a.data(), a.data() + a.size()}; }

api::precision precision_named(const std::string& name) {
    if (name == "float32") return api::precision::f32;
    if (name == "bfloat16") return api::precision::bf16;
    throw std::invalid_argument("`dtype` is \"" + name + "\"");
}

weights_handle pack(int ndim, int down, int coarse, int up, const layers& given, const std::string& dtype,
                    const std::string& level) {
    api::direction_weights w{ndim, down, coarse, up, {}};
    for (const auto& [weights, bias] : given) w.layers.push_back({numbers(weights), numbers(bias)});
    return {conv::pack_weights(w, precision_named(dtype), level)};
}

// z = f(r) for residuals one after the other, in full grids.
template <class T>
void apply(network_handle& handle, const array<T>& r, array<T>& z, const py::object& keep, int n_threads) {
    const auto& n = handle.look().shape();
    const index cells = n[0] * n[1] * n[2];
    if (r.size() % cells != 0 || z.size() != r.size())
        throw std::invalid_argument("`r` has " + std::to_string(r.size()) + " numbers; a multiple of " +
                                    std::to_string(cells) + " is needed");
    array<double> mask;
    if (!keep.is_none()) {
        mask = keep.cast<array<double>>();
        if (mask.size() != cells) throw std::invalid_argument("`keep` has the wrong size");
    }
    const double* const kept = keep.is_none() ? nullptr : mask.data();
    const T* const from = r.data();
    T* const to = z.mutable_data();
    const index count = r.size() / cells;
    aitken::interrupt signals = aitken::bindings::python_signals();
    const py::gil_scoped_release release;
    handle.use(
        [&](conv::network& net) { conv::apply_network(net, from, to, count, kept, n_threads, signals); });
}

array<float> geometry_fields(int ndim, const std::vector<array<float>>& w, const array<float>& features,
                             const std::string& level, int n_threads) {
    if (w.size() != 6) throw std::invalid_argument("six arrays of weights are needed");
    aitken::multigrid::learned_weights given;
    given.ndim = ndim;
    std::vector<float>* const parts[] = {&given.w1, &given.b1, &given.w2, &given.b2, &given.w3, &given.b3};
    for (std::size_t k = 0; k < 6; ++k) *parts[k] = numbers(w[k]);
    const conv::geometry_network net(given, level);
    if (features.ndim() != ndim + 1 || features.shape(0) != 4)
        throw std::invalid_argument("`features` must have shape (4, *grid)");
    std::array<index, 3> n{1, 1, 1};
    std::vector<index> shape{3};
    for (int a = 0; a < ndim; ++a) {
        n[static_cast<std::size_t>(3 - ndim + a)] = features.shape(a + 1);
        shape.push_back(features.shape(a + 1));
    }
    array<float> out(shape);
    const index cells = n[0] * n[1] * n[2];
    const float* const x = features.data();
    float* const o = out.mutable_data();
    {
        const py::gil_scoped_release release;
        conv::geometry_scratch scratch;
        conv::geometry_fields(net, n, {x, x + cells, x + 2 * cells, x + 3 * cells},
                              {o, o + cells, o + 2 * cells}, scratch, n_threads);
    }
    return out;
}

}  // namespace

void bind_convolution(py::module_& m) {
    using py::arg;
    m.def("has_bf16", &conv::has_bf16, "Whether this machine has the kernels of dtype \"bfloat16\".");
    m.def("geometry_fields", &geometry_fields, arg("ndim"), arg("weights"), arg("features").noconvert(),
          arg("level"), arg("n_threads"),
          "The three planes that the network of a multigrid level makes of four.");
    py::class_<weights_handle>(m, "NetworkWeights")
        .def(py::init(&pack), arg("ndim"), arg("down"), arg("coarse"), arg("up"), arg("layers"), arg("dtype"),
             arg("level"))
        .def(
            "network",
            [](const weights_handle& w, const std::array<aitken::index, 3>& shape) {
                return std::make_shared<network_handle>(conv::make_network(w.packed, shape));
            },
            arg("shape"));
    py::class_<network_handle, std::shared_ptr<network_handle>>(m, "DirectionNetwork")
        .def_property_readonly("shape", [](const network_handle& h) { return h.look().shape(); })
        .def_property_readonly("bytes", [](const network_handle& h) { return h.look().bytes(); })
        .def_property_readonly("flops", [](const network_handle& h) { return h.look().flops(); })
        .def("apply", &apply<double>, arg("r").noconvert(), arg("z").noconvert(), arg("keep").none(true),
             arg("n_threads"))
        .def("apply", &apply<float>, arg("r").noconvert(), arg("z").noconvert(), arg("keep").none(true),
             arg("n_threads"));
}
