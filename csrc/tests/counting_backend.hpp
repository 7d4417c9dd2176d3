// The CPU kernels behind a backend that behaves like a GPU's: the host looks every ten iterations, sparse
// operators never pay, and what the backend owns can be touched inside its functions and kernels only. Its
// memory is locked at all other times, so a driver that peeks at a vector or a scalar without `download`
// or `read_many` dies on the spot, with a message. Launches and reads are counted as the driver makes them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <span>
#include <utility>

#include "core/backend.hpp"
#include "cpu/backend.hpp"
#include "cpu/ot_kernels.hpp"
#include "drivers/ot.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define AITKEN_TESTS_LOCK_MEMORY 1
#include <sys/mman.h>
#include <unistd.h>
#include <csignal>
#endif

namespace aitken::tests {

// A block of pages that is readable and writeable only between open() and close(), which nest.
class device_memory {
public:
    explicit device_memory(std::size_t bytes) : bytes_(bytes) {
#ifdef AITKEN_TESTS_LOCK_MEMORY
        void* block = ::mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (block == MAP_FAILED) throw std::bad_alloc();
        begin_ = static_cast<std::byte*>(block);
        watched_begin = begin_;
        watched_end = begin_ + bytes_;
        struct sigaction act{};
        act.sa_sigaction = &report;
        act.sa_flags = SA_SIGINFO;
        for (int k = 0; k < 2; ++k) ::sigaction(signals[k], &act, &before_[k]);
#else
        begin_ = static_cast<std::byte*>(::operator new(bytes_, std::align_val_t{64}));
#endif
    }
    ~device_memory() {
#ifdef AITKEN_TESTS_LOCK_MEMORY
        for (int k = 0; k < 2; ++k) ::sigaction(signals[k], &before_[k], nullptr);
        watched_begin = watched_end = nullptr;
        ::munmap(begin_, bytes_);
#else
        ::operator delete(begin_, std::align_val_t{64});
#endif
    }
    device_memory(const device_memory&) = delete;
    device_memory& operator=(const device_memory&) = delete;

    void* take(std::size_t bytes) {
        const std::size_t need = (bytes + 63) / 64 * 64;
        if (need > bytes_ - used_) throw std::bad_alloc();
        void* p = begin_ + used_;
        used_ += need;
        return p;
    }

    void open() {
        if (depth_++ == 0) protect(true);
    }
    void close() {
        if (--depth_ == 0) protect(false);
    }

private:
#ifdef AITKEN_TESTS_LOCK_MEMORY
    void protect(bool usable) { ::mprotect(begin_, bytes_, usable ? PROT_READ | PROT_WRITE : PROT_NONE); }

    static void report(int signal, siginfo_t* info, void*) {
        const auto* where = static_cast<const std::byte*>(info->si_addr);
        static constexpr char text[] = "FAILED: the host touched device memory outside of a kernel\n";
        static constexpr char other[] = "FAILED: segmentation fault\n";
        const bool ours = where >= watched_begin && where < watched_end;
        [[maybe_unused]] const auto n =
            ours ? ::write(2, text, sizeof text - 1) : ::write(2, other, sizeof other - 1);
        ::_exit(128 + signal);
    }
    static constexpr int signals[2] = {SIGSEGV, SIGBUS};  // which of the two depends on the system
    static inline const std::byte *watched_begin = nullptr, *watched_end = nullptr;
    struct sigaction before_[2];
#else
    void protect(bool) {}
#endif
    std::size_t bytes_, used_ = 0;
    std::byte* begin_ = nullptr;
    int depth_ = 0;
};

class counting_backend : public cpu::backend {
public:
    static constexpr int check_every = 10;
    static constexpr double sparse_pays = 0;

    explicit counting_backend(interrupt& signals) : cpu::backend(signals), memory_(std::size_t{64} << 20) {}

    // The device is usable while one of these lives: inside a kernel, or in a test that plays the device.
    class kernel_scope {
    public:
        explicit kernel_scope(counting_backend& be) : memory_(be.memory_) { memory_.open(); }
        ~kernel_scope() { memory_.close(); }
        kernel_scope(const kernel_scope&) = delete;
        kernel_scope& operator=(const kernel_scope&) = delete;

    private:
        device_memory& memory_;
    };

    template <class T>
    vec<T> allocate(index n) {
        const vec<T> fresh{static_cast<T*>(memory_.take(sizeof(T) * static_cast<std::size_t>(n))), n};
        const kernel_scope inside(*this);
        std::fill_n(reinterpret_cast<unsigned char*>(fresh.data), sizeof(T) * static_cast<std::size_t>(n),
                    0xFF);
        return fresh;  // NaN, or -1: contents are undefined
    }
    scalar_ref scalar() { return scalar_ref(allocate<double>(1).data); }

    void fill(vec<double> x, double value) {
        const kernel_scope inside(*this);
        cpu::backend::fill(x, value);
    }
    void copy(vec<const double> from, vec<double> to) {
        const kernel_scope inside(*this);
        cpu::backend::copy(from, to);
    }
    void dot(vec<const double> x, vec<const double> y, scalar_ref out) {
        const kernel_scope inside(*this);
        cpu::backend::dot(x, y, out);
    }
    template <class T>
    void upload(const T* host, vec<T> to) {
        const kernel_scope inside(*this);
        ++counts().uploads;
        std::copy_n(host, to.size, to.data);
    }
    template <class T>
    void download(vec<const T> from, T* host) {
        const kernel_scope inside(*this);
        cpu::backend::download(from, host);
    }
    void read_many(std::span<const scalar_ref> refs, double* out) {
        const kernel_scope inside(*this);
        cpu::backend::read_many(refs, out);
    }

private:
    device_memory memory_;
};

static_assert(Backend<counting_backend>);

// cpu::ot_kernels with the device open while one runs.
template <class T>
class counting_kernels {
public:
    counting_kernels(counting_backend& be, const aitken::ot::problem<T>& problem)
        : be_(be), kernels_(be, problem) {}

    bool stored() const { return kernels_.stored(); }
    vec<const double> row_weights() const { return kernels_.row_weights(); }
    vec<const double> col_weights() const { return kernels_.col_weights(); }
    void soften(const drivers::ot::soft_marginals& soft) { kernels_.soften(soft); }

#define AITKEN_FORWARD(name)                                                        \
    template <class... Args>                                                        \
        requires requires(cpu::ot_kernels<T>& k, Args... args) { k.name(args...); } \
    void name(Args... args) {                                                       \
        const counting_backend::kernel_scope inside(be_);                           \
        kernels_.name(args...);                                                     \
    }
    AITKEN_FORWARD(exp_pass)
    AITKEN_FORWARD(scale_rows_pass)
    AITKEN_FORWARD(log_sum_exp_rows)
    AITKEN_FORWARD(log_sum_exp_cols)
    AITKEN_FORWARD(cost_of_plan)
    AITKEN_FORWARD(sinkhorn_sweep)
    AITKEN_FORWARD(row_sums)
    AITKEN_FORWARD(col_sums)
    AITKEN_FORWARD(schur_product)
    AITKEN_FORWARD(schur_rhs)
    AITKEN_FORWARD(schur_columns)
    AITKEN_FORWARD(trial)
    AITKEN_FORWARD(mass_dropped)
    AITKEN_FORWARD(zero_potentials)
    AITKEN_FORWARD(mask_potentials)
    AITKEN_FORWARD(absorb)
    AITKEN_FORWARD(scale_columns)
    AITKEN_FORWARD(row_errors)
    AITKEN_FORWARD(gradient)
    AITKEN_FORWARD(cg_start)
    AITKEN_FORWARD(cg_update)
    AITKEN_FORWARD(cg_jacobi)
    AITKEN_FORWARD(cg_close)
    AITKEN_FORWARD(cg_direction)
    AITKEN_FORWARD(slope)
    AITKEN_FORWARD(trial_scalings)
    AITKEN_FORWARD(trial_sums)
    AITKEN_FORWARD(accept)
    AITKEN_FORWARD(mass_limits)
    AITKEN_FORWARD(inverse_roots)
    AITKEN_FORWARD(bisect_start)
    AITKEN_FORWARD(bisect_step)
    AITKEN_FORWARD(targets)
    AITKEN_FORWARD(soft_diagonals)
#undef AITKEN_FORWARD

    void histogram(const drivers::ot::keep_rule& rule, vec<const double> u, vec<const double> v, int shift,
                   std::uint64_t prefix, vec<int> counts) {
        const counting_backend::kernel_scope inside(be_);
        kernels_.histogram(rule, u, v, shift, prefix, counts);
    }
    // The sparse plan ends up on the host: one wait.
    bool compact(vec<const double> u, vec<const double> v, const drivers::ot::keep_rule& rule, index most,
                 drivers::ot::host_csr& out) {
        const counting_backend::kernel_scope inside(be_);
        ++be_.counts().reads;
        return kernels_.compact(u, v, rule, most, out);
    }

private:
    counting_backend& be_;
    cpu::ot_kernels<T> kernels_;
};

static_assert(drivers::ot::OtKernels<counting_kernels<double>>);
static_assert(drivers::ot::OtKernels<counting_kernels<float>>);

}  // namespace aitken::tests
