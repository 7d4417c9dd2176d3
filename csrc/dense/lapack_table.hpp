// BLAS and LAPACK as the host process already has them: a table filled at start-up with addresses and
// the C signatures their owner declares (SciPy's Cython capsules). No build dependency, no second BLAS.
//
// A routine enters the table only if its signature is, argument by argument, what we call: character,
// integer or real of the right precision, all by address, nothing returned. Integers may be 32 or 64
// bits wide; the width is measured, not believed. The wrappers take 64-bit integers and throw
// std::overflow_error where one does not fit. Everything is column-major, as in Fortran.
//
// Fill the table once, before threads start; after that it is read only. Never call it inside a
// parallel region.
#pragma once

#include <complex>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/views.hpp"

namespace aitken::dense {

enum class argument : std::uint8_t { character, integer, real64, real32, complex128, complex64 };

struct signature {
    std::vector<argument> arguments;
    int int_bits = 0;  // as spelled: 32 or 64; 0 where the spelling leaves it open or there is none
};

// Reads "void (char *, int *, __pyx_t_..._d *)". Throws std::invalid_argument naming routine and text
// for anything but pointers to known types, a mixture of integer widths, or a value returned.
signature parse_signature(std::string_view routine, std::string_view text);

struct table_entry {
    std::string name;
    bool loaded = false;
    std::string detail;  // the signature text if loaded, otherwise why not
};

class lapack_table {
public:
    lapack_table();

    // Throws std::invalid_argument (and remembers why) if the routine is unknown or not as expected.
    // dpotrf goes first: it measures the width of integers for those whose spelling does not tell.
    void load(std::string_view routine, void* address, std::string_view signature_text);

    std::vector<table_entry> entries() const;
    int int_bits() const { return int_bits_; }  // 0 before dpotrf is loaded

    // T is double or float. Each throws std::runtime_error if its routine is not loaded.
    // C = alpha op(A) op(B) + beta C.
    template <class T>
    void gemm(char trans_a, char trans_b, index m, index n, index k, T alpha, const T* a, index lda,
              const T* b, index ldb, T beta, T* c, index ldc) const;
    template <class T>
    void gemv(char trans, index m, index n, T alpha, const T* a, index lda, const T* x, index incx, T beta,
              T* y, index incy) const;
    // One triangle of C = alpha A A' + beta C (trans 'N') or alpha A' A + beta C ('T').
    template <class T>
    void syrk(char uplo, char trans, index n, index k, T alpha, const T* a, index lda, T beta, T* c,
              index ldc) const;
    template <class T>
    void trsm(char side, char uplo, char trans, char diag, index m, index n, T alpha, const T* a, index lda,
              T* b, index ldb) const;

    // LAPACK: the return value is LAPACK's own positive number (0 is success); an illegal argument
    // throws std::invalid_argument. Work arrays are the wrappers' own.
    template <class T>
    [[nodiscard]] index potrf(char uplo, index n, T* a, index lda) const;
    template <class T>
    void potrs(char uplo, index n, index nrhs, const T* a, index lda, T* b, index ldb) const;
    // Double precision only; pivots has n entries.
    [[nodiscard]] index sytrf(char uplo, index n, double* a, index lda, std::span<index> pivots) const;
    void sytrs(char uplo, index n, index nrhs, const double* a, index lda, std::span<const index> pivots,
               double* b, index ldb) const;
    void geqrf(index m, index n, double* a, index lda, double* tau) const;
    void orgqr(index m, index n, index k, double* a, index lda, const double* tau) const;  // Q of geqrf
    // Eigenvalues ascending in w; eigenvectors replace A if job is 'V'.
    [[nodiscard]] index syevd(char job, char uplo, index n, double* a, index lda, double* w) const;
    // Eigenvalues w and right eigenvectors v of a general matrix, which is overwritten. A complex pair of a
    // real matrix has its vectors' real and imaginary parts in two columns of v.
    [[nodiscard]] index geev(index n, double* a, index lda, std::complex<double>* w, double* v,
                             index ldv) const;
    [[nodiscard]] index geev(index n, std::complex<double>* a, index lda, std::complex<double>* w,
                             std::complex<double>* v, index ldv) const;

private:
    struct slot {
        void* address = nullptr;
        int int_bits = 0;
        std::string detail;
    };
    std::vector<slot> slots_;  // one per routine, in the order of the list in lapack_table.cpp
    int int_bits_ = 0;

    const slot& require(std::string_view routine) const;
    template <class... Args>
    void call(std::string_view routine, Args... args) const;
    template <class... Args>
    index call_info(std::string_view routine, Args... args) const;
};

// The process-wide table.
lapack_table& lapack();

}  // namespace aitken::dense
