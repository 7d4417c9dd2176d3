// Arithmetic that is the same text for double and std::complex<double>, and memory for SIMD loads.
#pragma once

#include <cmath>
#include <complex>
#include <cstddef>
#include <new>
#include <type_traits>
#include <vector>

namespace aitken {

template <class S>
inline constexpr bool is_complex = !std::is_floating_point_v<S>;

// Products and quotients without the C library's treatment of infinities, which costs a call each.
inline double times(double a, double b) { return a * b; }
inline std::complex<double> times(std::complex<double> a, std::complex<double> b) {
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}
inline std::complex<double> times(std::complex<double> a, double b) { return {a.real() * b, a.imag() * b}; }

inline double conjugate(double a) { return a; }
inline std::complex<double> conjugate(std::complex<double> a) { return {a.real(), -a.imag()}; }

inline double real_part(double a) { return a; }
inline double real_part(std::complex<double> a) { return a.real(); }

inline double inverse(double a) { return 1.0 / a; }
// Smith's scaling: no overflow unless the result does. 1 / 0 is not finite.
inline std::complex<double> inverse(std::complex<double> a) {
    const double x = a.real(), y = a.imag();
    if (std::fabs(x) >= std::fabs(y)) {
        const double r = y / x, d = x + y * r;
        return {1.0 / d, -r / d};
    }
    const double r = x / y, d = x * r + y;
    return {r / d, -1.0 / d};
}

inline bool finite(double a) { return std::isfinite(a); }
inline bool finite(std::complex<double> a) { return std::isfinite(a.real()) && std::isfinite(a.imag()); }

inline double square(double a) { return a * a; }
inline double square(std::complex<double> a) { return a.real() * a.real() + a.imag() * a.imag(); }

template <class T>
struct aligned_allocator {  // to cache lines
    using value_type = T;
    static constexpr std::align_val_t alignment{64};

    aligned_allocator() = default;
    template <class U>
    aligned_allocator(const aligned_allocator<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), alignment)); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, alignment); }
    template <class U>
    bool operator==(const aligned_allocator<U>&) const {
        return true;
    }
};
template <class T>
using aligned_vector = std::vector<T, aligned_allocator<T>>;

}  // namespace aitken
