// The signature parser and, with stand-ins for LAPACK in both integer widths, the calls.
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "dense/lapack_table.hpp"

namespace {

using aitken::index;
using aitken::dense::argument;
using aitken::dense::lapack_table;
using aitken::dense::parse_signature;

const std::string d = "__pyx_t_5scipy_6linalg_13cython_lapack_d *";
const std::string blas_int = "__pyx_t_5scipy_6linalg_13cython_lapack_blas_int *";

std::string potrf_text(const std::string& integer, const std::string& real = d) {
    return "void (char *, " + integer + ", " + real + ", " + integer + ", " + integer + ")";
}

std::string refusal(const std::string& text) {
    try {
        parse_signature("dthing", text);
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

// Cholesky factor, lower, column-major: what the table expects of ?potrf.
template <class Int, class T>
void potrf(char* uplo, Int* n, T* a, Int* lda, Int* info) {
    *info = 0;
    if (*uplo != 'L') {
        *info = -1;
        return;
    }
    for (Int j = 0; j < *n; ++j) {
        for (Int i = j; i < *n; ++i) {
            T sum = a[i + j * *lda];
            for (Int k = 0; k < j; ++k) sum -= a[i + k * *lda] * a[j + k * *lda];
            if (i == j && !(sum > 0)) {
                *info = j + 1;
                return;
            }
            a[i + j * *lda] = i == j ? std::sqrt(sum) : sum / a[j + j * *lda];
        }
    }
}

template <class Int>
void sytrf(char*, Int* n, double*, Int*, Int* ipiv, double* work, Int* lwork, Int* info) {
    if (*lwork == -1)
        *work = 3;
    else
        for (Int i = 0; i < *n; ++i) ipiv[i] = -(i + 1);
    *info = 0;
}

template <class F>
void* address(F* f) {
    return reinterpret_cast<void*>(f);
}

TEST(signature_of_scipy_blas) {
    const std::string s = "__pyx_t_5scipy_6linalg_11cython_blas_d *";
    const auto sig = parse_signature("dgemv", "void (char *, int *, " + s + ")");
    CHECK(sig.arguments == std::vector{argument::character, argument::integer, argument::real64});
    CHECK(sig.int_bits == 32);
}

TEST(signature_spellings) {
    CHECK(parse_signature("x", "void (int64_t *)").int_bits == 64);
    CHECK(parse_signature("x", "void(long long*,npy_int64 *)").int_bits == 64);
    CHECK(parse_signature("x", "void (long *)").int_bits == static_cast<int>(8 * sizeof(long)));
    CHECK(parse_signature("x", "void (" + blas_int + ")").int_bits == 0);
    CHECK(parse_signature("x", "void (const double *, float *)").arguments ==
          std::vector{argument::real64, argument::real32});
    CHECK(parse_signature("x", "void (__pyx_t_5scipy_6linalg_11cython_blas_z *)").arguments ==
          std::vector{argument::complex128});
    CHECK(parse_signature("x", "void ()").arguments.empty());
}

TEST(signature_refusals_name_routine_and_text) {
    for (const std::string text :
         {"double (int *, double *)", "__pyx_t_double_complex (int *)", "void (int, double *)",
          "void (short *)", "void (int *, int64_t *)", "void (int *, )", "void (int *, , int *)",
          "void int *", "", "void (int *) x", "void (__pyx_t_5scipy_6linalg_13cython_lapack_dselect2 *)",
          "void (__pyx_t_99x_d *)", "void (int **)", "void (__pyx_t_99999999999999999999_d *)"}) {
        const std::string why = refusal(text);
        CHECK(why.find("dthing") != std::string::npos);
        CHECK(why.find("\"" + text + "\"") != std::string::npos);
    }
    CHECK(refusal("void (short *)").find("argument 1") != std::string::npos);
}

TEST(table_measures_integer_width) {
    lapack_table t32, t64;
    t32.load("dpotrf", address(&potrf<std::int32_t, double>), potrf_text(blas_int));
    t64.load("dpotrf", address(&potrf<std::int64_t, double>), potrf_text(blas_int));
    CHECK(t32.int_bits() == 32);
    CHECK(t64.int_bits() == 64);
    // A spelling that contradicts what the routine does is refused, and stays refused.
    lapack_table wrong;
    CHECK_THROWS(wrong.load("dpotrf", address(&potrf<std::int64_t, double>), potrf_text("int *")),
                 std::invalid_argument);
    double a = 4;
    CHECK_THROWS(wrong.potrf('L', 1, &a, 1), std::runtime_error);
    CHECK(wrong.entries().front().detail.find("32 bits") != std::string::npos);
}

TEST(table_checks_kinds) {
    lapack_table t;
    CHECK_THROWS(t.load("dpotrf", nullptr, potrf_text("int *")), std::invalid_argument);
    CHECK_THROWS(t.load("dpotrf", address(&potrf<int, double>), "void (char *, int *)"),
                 std::invalid_argument);
    CHECK_THROWS(t.load("dpotrf", address(&potrf<int, float>), potrf_text("int *", "float *")),
                 std::invalid_argument);
    CHECK_THROWS(t.load("zheev", address(&potrf<int, double>), potrf_text("int *")), std::invalid_argument);
    // No width in the spelling and nothing measured yet.
    CHECK_THROWS(t.load("spotrf", address(&potrf<int, float>), potrf_text(blas_int, "float *")),
                 std::invalid_argument);
    t.load("dpotrf", address(&potrf<int, double>), potrf_text("int *"));
    t.load("spotrf", address(&potrf<int, float>), potrf_text(blas_int, "float *"));
    CHECK_THROWS(t.load("spotrf", address(&potrf<int, float>), potrf_text("int64_t *", "float *")),
                 std::invalid_argument);
}

template <class Int>
void check_calls(const std::string& spelling) {
    lapack_table t;
    t.load("dpotrf", address(&potrf<Int, double>), potrf_text(spelling));
    t.load("spotrf", address(&potrf<Int, float>), potrf_text(spelling, "float *"));
    t.load("dsytrf", address(&sytrf<Int>),
           "void (char *, " + spelling + ", double *, " + spelling + ", " + spelling + ", double *, " +
               spelling + ", " + spelling + ")");
    // (4 2; 2 5) = L L' with L = (2 0; 1 2), leading dimension 3.
    double a[] = {4, 2, -1, 2, 5, -1};
    CHECK(t.potrf('L', 2, a, 3) == 0);
    CHECK(a[0] == 2 && a[1] == 1 && a[2] == -1 && a[4] == 2);
    float b[] = {1, 2, 2, 1};  // indefinite: the second pivot is -3
    CHECK(t.potrf('L', 2, b, 2) == 2);
    CHECK_THROWS(t.potrf('U', 2, b, 2), std::invalid_argument);
    index pivots[3] = {7, 7, 7};
    double c[9] = {};
    CHECK(t.sytrf('L', 3, c, 3, pivots) == 0);
    CHECK(pivots[0] == -1 && pivots[1] == -2 && pivots[2] == -3);
    CHECK_THROWS(t.sytrf('L', 4, c, 4, pivots), std::invalid_argument);
    CHECK_THROWS(t.gemv('N', 1, 1, 1.0, c, 1, c, 1, 0.0, c, 1), std::runtime_error);
}

TEST(calls_in_both_widths) {
    check_calls<std::int32_t>("int *");
    check_calls<std::int64_t>("int64_t *");
}

TEST(calls_refuse_integers_that_do_not_fit) {
    lapack_table t;
    t.load("dpotrf", address(&potrf<std::int32_t, double>), potrf_text("int *"));
    double a = 4;
    CHECK_THROWS(t.potrf('L', 1, &a, index{1} << 31), std::overflow_error);
    CHECK(t.potrf('L', 1, &a, (index{1} << 31) - 1) == 0);
}

}  // namespace
