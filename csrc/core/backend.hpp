// What a driver may ask of the machine it runs on.
//
// A driver is written once, as a template over a Backend (this page: memory, scalars, copies) and over
// its system's kernel set (a concept beside the driver, e.g. drivers/ot.hpp). Scalars stay in the
// backend's memory; `read_many` is the only way to see them and is one synchronisation, as is `download`.
#pragma once

#include <array>
#include <concepts>
#include <span>

#include "core/interrupt.hpp"
#include "core/views.hpp"

namespace aitken {

// What a solve asked of the machine. Kept by every backend; native tests assert on it.
struct traffic {
    long launches = 0;  // kernels started
    long reads = 0;     // times the host waited for the device
    long uploads = 0;   // host-to-device copies
};

template <class B>
concept Backend = requires(B& be, index n, vec<double> x, vec<const double> cx, vec<const int> ci,
                           scalar_ref s, std::span<const scalar_ref> refs, double* host, int* host_int) {
    // Memory that lives as long as the backend object; contents undefined.
    { be.template allocate<double>(n) } -> std::same_as<vec<double>>;
    { be.template allocate<float>(n) } -> std::same_as<vec<float>>;
    { be.template allocate<int>(n) } -> std::same_as<vec<int>>;
    { be.scalar() } -> std::same_as<scalar_ref>;
    be.fill(x, 0.0);
    be.copy(cx, x);
    be.dot(cx, cx, s);  // adds in an order fixed by the length
    be.upload(host, x);
    be.download(cx, host);
    be.download(ci, host_int);
    be.read_many(refs, host);
    be.host_chunks(n, [](index) {});  // fn(chunk) for 0 <= chunk < n, in any order, on host threads
    // Iterations of an inner loop between two looks at its stopping test: a read is free on the CPU and
    // a stall on a GPU.
    { B::check_every } -> std::convertible_to<int>;
    // A sparse operator with at most this share of the entries beats sweeps over the dense one, when it
    // runs on the host. 0: never.
    { B::sparse_pays } -> std::convertible_to<double>;
    { be.counts() } -> std::same_as<traffic&>;
    { be.interrupts() } -> std::same_as<interrupt&>;
};

// Reads a few scalars in one synchronisation: `const auto [a, b] = read(be, sa, sb);`
template <Backend B, class... Ref>
std::array<double, sizeof...(Ref)> read(B& be, Ref... refs) {
    const std::array<scalar_ref, sizeof...(Ref)> list{refs...};
    std::array<double, sizeof...(Ref)> out;
    be.read_many(list, out.data());
    return out;
}

}  // namespace aitken
