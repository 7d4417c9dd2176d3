#include "dense/lapack_table.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <limits>
#include <optional>
#include <stdexcept>
#include <type_traits>

namespace aitken::dense {
namespace {

struct routine {
    std::string_view name;
    // c character, i integer, r number of the kind in the name, D double beside complex ones
    std::string_view arguments;
};

constexpr auto routines = std::to_array<routine>({
    {"dpotrf", "cirii"},  // first: it measures the integers
    {"dgemm", "cciiirririrri"}, {"sgemm", "cciiirririrri"},  {"dgemv", "ciirririrri"},
    {"sgemv", "ciirririrri"},   {"dsyrk", "cciirrirri"},     {"ssyrk", "cciirrirri"},
    {"dtrsm", "cccciirriri"},   {"strsm", "cccciirriri"},    {"spotrf", "cirii"},
    {"dpotrs", "ciiririi"},     {"spotrs", "ciiririi"},      {"dsytrf", "ciriirii"},
    {"dsytrs", "ciiriirii"},    {"dgeqrf", "iirirrii"},      {"dorgqr", "iiirirrii"},
    {"dsyevd", "ccirirriiii"},  {"dgeev", "ccirirrriririi"}, {"zgeev", "ccirirriririDi"},
});

int find(std::string_view name) {
    const auto at =
        std::find_if(routines.begin(), routines.end(), [&](const routine& r) { return r.name == name; });
    return at == routines.end() ? -1 : static_cast<int>(at - routines.begin());
}

[[noreturn]] void refuse(std::string_view name, std::string_view text, const std::string& why) {
    throw std::invalid_argument("LAPACK routine " + std::string(name) + " with signature \"" +
                                std::string(text) + "\": " + why);
}

std::string_view trim(std::string_view s) {
    while (!s.empty() && std::isspace(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
    while (!s.empty() && std::isspace(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
    return s;
}

// "__pyx_t_5scipy_6linalg_11cython_blas_d" -> "d": module names carry their length in front.
std::string_view unmangle(std::string_view type) {
    constexpr std::string_view prefix = "__pyx_t_";
    if (!type.starts_with(prefix)) return type;
    std::string_view rest = type.substr(prefix.size());
    while (!rest.empty() && std::isdigit(static_cast<unsigned char>(rest.front()))) {
        std::size_t length = 0, digits = 0;
        while (digits < rest.size() && digits < 4 && std::isdigit(static_cast<unsigned char>(rest[digits])))
            length = 10 * length + static_cast<std::size_t>(rest[digits++] - '0');
        if (digits + length + 1 > rest.size() || rest[digits + length] != '_') return type;
        rest.remove_prefix(digits + length + 1);
    }
    return rest;
}

struct parsed_type {
    argument kind;
    int int_bits;
};

std::optional<parsed_type> read_type(std::string_view type) {
    if (type.starts_with("const ")) type = trim(type.substr(6));
    type = unmangle(type);
    const auto is = [type](std::initializer_list<std::string_view> names) {
        return std::find(names.begin(), names.end(), type) != names.end();
    };
    constexpr int byte = std::numeric_limits<unsigned char>::digits;
    if (type == "char") return {{argument::character, 0}};
    if (is({"double", "d", "float64_t", "npy_float64"})) return {{argument::real64, 0}};
    if (is({"float", "s", "float32_t", "npy_float32"})) return {{argument::real32, 0}};
    if (is({"z", "double_complex", "npy_complex128"})) return {{argument::complex128, 0}};
    if (is({"c", "float_complex", "npy_complex64"})) return {{argument::complex64, 0}};
    if (is({"int", "signed int"})) return {{argument::integer, byte * static_cast<int>(sizeof(int))}};
    if (is({"int32_t", "npy_int32"})) return {{argument::integer, 32}};
    if (is({"int64_t", "npy_int64", "long long", "npy_longlong"})) return {{argument::integer, 64}};
    if (is({"long", "npy_long"})) return {{argument::integer, byte * static_cast<int>(sizeof(long))}};
    if (is({"Py_ssize_t", "ptrdiff_t", "npy_intp"}))
        return {{argument::integer, byte * static_cast<int>(sizeof(std::ptrdiff_t))}};
    if (is({"blas_int", "CBLAS_INT"})) return {{argument::integer, 0}};  // set when its owner was built
    return std::nullopt;
}

char code(argument kind, char precision) {
    switch (kind) {
        case argument::character:
            return 'c';
        case argument::integer:
            return 'i';
        case argument::real64:
            return precision == 'd' ? 'r' : 'D';
        case argument::real32:
            return precision == 's' ? 'r' : 'S';
        case argument::complex128:
            return precision == 'z' ? 'r' : 'Z';
        case argument::complex64:
            return 'C';
    }
    return '?';
}

// Factors the 1 x 1 matrix (4) and looks at how many bytes of `info` were written. 0: neither width.
int measure_integers(void* dpotrf) {
    if constexpr (std::endian::native != std::endian::little) return 0;
    constexpr std::uint64_t untouched = 0x7777777777777777u;
    // On a little-endian machine the number 1 reads the same in both widths.
    std::int64_t n = 1, lda = 1;
    std::uint64_t info = untouched;
    double a = 4.0;
    char uplo = 'L';
    reinterpret_cast<void (*)(char*, void*, double*, void*, void*)>(dpotrf)(&uplo, &n, &a, &lda, &info);
    if (a != 2.0) return 0;
    if (info == 0) return 64;
    return info == (untouched & 0xFFFFFFFF00000000u) ? 32 : 0;
}

// One argument as Fortran wants it: an address. Numbers are held here for the duration of the call.
template <class Int, class T>
struct held {
    T value;
    T* address() { return &value; }
};
template <class Int>
struct held<Int, index> {
    Int value;
    explicit held(index v) : value(static_cast<Int>(v)) {
        if (static_cast<index>(value) != v)
            throw std::overflow_error("the dimension " + std::to_string(v) +
                                      " does not fit the 32-bit integers of this process's LAPACK");
    }
    Int* address() { return &value; }
};
template <class Int, class T>
struct held<Int, T*> {
    std::remove_const_t<T>* value;
    explicit held(T* v) : value(const_cast<std::remove_const_t<T>*>(v)) {}
    auto* address() { return value; }
};

// Integer arrays and results, which change width on the way in and out.
struct int_array {
    index* data;
    index size;
};
template <class Int>
struct held<Int, int_array> {
    int_array target;
    std::vector<Int> value;
    explicit held(int_array t) : target(t), value(t.data, t.data + t.size) {}
    ~held() { std::copy(value.begin(), value.end(), target.data); }
    Int* address() { return value.data(); }
};

template <class Int, class... Args>
void invoke(void* address, Args... args) {
    [&](auto&&... h) {
        reinterpret_cast<void (*)(decltype(h.address())...)>(address)(h.address()...);
    }(held<Int, Args>{args}...);
}

}  // namespace

signature parse_signature(std::string_view name, std::string_view text) {
    const std::size_t open = text.find('('), close = text.rfind(')');
    if (open == std::string_view::npos || close == std::string_view::npos || close < open ||
        !trim(text.substr(close + 1)).empty())
        refuse(name, text, "not a C signature");
    if (trim(text.substr(0, open)) != "void")
        refuse(name, text, "a routine that returns a value is not supported");
    signature result;
    std::string_view rest = trim(text.substr(open + 1, close - open - 1));
    for (std::size_t number = 1; !rest.empty(); ++number) {
        const std::size_t comma = rest.find(',');
        std::string_view item = trim(rest.substr(0, comma));
        rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
        if (comma != std::string_view::npos && trim(rest).empty())
            refuse(name, text, "an argument is missing");
        const auto what = "argument " + std::to_string(number) + ", \"" + std::string(item) + "\", ";
        if (item.empty() || item.back() != '*') refuse(name, text, what + "is not passed by address");
        const auto type = read_type(trim(item.substr(0, item.size() - 1)));
        if (!type) refuse(name, text, what + "has an unknown type");
        if (type->kind == argument::integer) {
            const bool first = std::find(result.arguments.begin(), result.arguments.end(),
                                         argument::integer) == result.arguments.end();
            if (!first && result.int_bits != type->int_bits)
                refuse(name, text, what + "has another width than the integers before it");
            result.int_bits = type->int_bits;
        }
        result.arguments.push_back(type->kind);
    }
    return result;
}

lapack_table::lapack_table() : slots_(routines.size()) {
    for (auto& s : slots_) s.detail = "not loaded";
}

void lapack_table::load(std::string_view name, void* address, std::string_view text) {
    const int at = find(name);
    if (at < 0) refuse(name, text, "not a routine that aitken uses");
    slot& s = slots_[static_cast<std::size_t>(at)];
    try {
        if (address == nullptr) refuse(name, text, "its address is null");
        const signature sig = parse_signature(name, text);
        std::string actual;
        for (const argument kind : sig.arguments) actual += code(kind, name.front());
        const std::string_view expected = routines[static_cast<std::size_t>(at)].arguments;
        if (actual != expected)
            refuse(name, text,
                   "its argument kinds are " + actual + ", not " + std::string(expected) +
                       " (c character, i integer, r real of the routine's precision)");
        int measured = int_bits_;
        if (name == "dpotrf" && (measured = measure_integers(address)) == 0)
            refuse(name, text, "it did not factor a 1 x 1 matrix as LAPACK does");
        if (sig.int_bits == 0 && measured == 0)
            refuse(name, text, "its integers have no stated width; load dpotrf first, which measures it");
        if (sig.int_bits != 0 && measured != 0 && sig.int_bits != measured)
            refuse(name, text,
                   "its integers are spelled with " + std::to_string(sig.int_bits) + " bits, but dpotrf " +
                       "works with " + std::to_string(measured));
        if (name == "dpotrf") int_bits_ = measured;
        s = {address, sig.int_bits != 0 ? sig.int_bits : measured, std::string(text)};
    } catch (const std::invalid_argument& error) {
        s = {nullptr, 0, error.what()};
        throw;
    }
}

std::vector<table_entry> lapack_table::entries() const {
    std::vector<table_entry> list;
    for (std::size_t i = 0; i < routines.size(); ++i)
        list.push_back({std::string(routines[i].name), slots_[i].address != nullptr, slots_[i].detail});
    return list;
}

const lapack_table::slot& lapack_table::require(std::string_view name) const {
    const slot& s = slots_[static_cast<std::size_t>(find(name))];
    if (s.address == nullptr)
        throw std::runtime_error("LAPACK routine " + std::string(name) + " is not available: " + s.detail);
    return s;
}

template <class... Args>
void lapack_table::call(std::string_view name, Args... args) const {
    const slot& s = require(name);
    if (s.int_bits == 64)
        invoke<std::int64_t>(s.address, args...);
    else
        invoke<std::int32_t>(s.address, args...);
}

template <class... Args>
index lapack_table::call_info(std::string_view name, Args... args) const {
    index info = 0;
    call(name, args..., int_array{&info, 1});
    if (info < 0)
        throw std::invalid_argument("argument " + std::to_string(-info) + " of LAPACK routine " +
                                    std::string(name) + " is illegal");
    return info;
}

namespace {
template <class T>
constexpr std::string_view pick(std::string_view name64, std::string_view name32) {
    return std::is_same_v<T, double> ? name64 : name32;
}

void check_pivots(std::size_t size, index n) {
    if (n < 0 || size < static_cast<std::size_t>(n))
        throw std::invalid_argument("pivots have " + std::to_string(size) +
                                    " entries for a matrix of order " + std::to_string(n));
}
}  // namespace

template <class T>
void lapack_table::gemm(char trans_a, char trans_b, index m, index n, index k, T alpha, const T* a, index lda,
                        const T* b, index ldb, T beta, T* c, index ldc) const {
    call(pick<T>("dgemm", "sgemm"), trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <class T>
void lapack_table::gemv(char trans, index m, index n, T alpha, const T* a, index lda, const T* x, index incx,
                        T beta, T* y, index incy) const {
    call(pick<T>("dgemv", "sgemv"), trans, m, n, alpha, a, lda, x, incx, beta, y, incy);
}

template <class T>
void lapack_table::syrk(char uplo, char trans, index n, index k, T alpha, const T* a, index lda, T beta, T* c,
                        index ldc) const {
    call(pick<T>("dsyrk", "ssyrk"), uplo, trans, n, k, alpha, a, lda, beta, c, ldc);
}

template <class T>
void lapack_table::trsm(char side, char uplo, char trans, char diag, index m, index n, T alpha, const T* a,
                        index lda, T* b, index ldb) const {
    call(pick<T>("dtrsm", "strsm"), side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb);
}

template <class T>
index lapack_table::potrf(char uplo, index n, T* a, index lda) const {
    return call_info(pick<T>("dpotrf", "spotrf"), uplo, n, a, lda);
}

template <class T>
void lapack_table::potrs(char uplo, index n, index nrhs, const T* a, index lda, T* b, index ldb) const {
    call_info(pick<T>("dpotrs", "spotrs"), uplo, n, nrhs, a, lda, b, ldb);
}

index lapack_table::sytrf(char uplo, index n, double* a, index lda, std::span<index> pivots) const {
    check_pivots(pivots.size(), n);
    double best = 0.0;
    const int_array piv{pivots.data(), static_cast<index>(pivots.size())};
    call_info("dsytrf", uplo, n, a, lda, piv, &best, index{-1});
    std::vector<double> work(static_cast<std::size_t>(std::max(best, 1.0)));
    return call_info("dsytrf", uplo, n, a, lda, piv, work.data(), static_cast<index>(work.size()));
}

void lapack_table::sytrs(char uplo, index n, index nrhs, const double* a, index lda,
                         std::span<const index> pivots, double* b, index ldb) const {
    check_pivots(pivots.size(), n);
    // Written back unchanged: dsytrs only reads its pivots, but the copy must not touch the caller's.
    std::vector<index> copy(pivots.begin(), pivots.end());
    call_info("dsytrs", uplo, n, nrhs, a, lda, int_array{copy.data(), static_cast<index>(copy.size())}, b,
              ldb);
}

void lapack_table::geqrf(index m, index n, double* a, index lda, double* tau) const {
    double best = 0.0;
    call_info("dgeqrf", m, n, a, lda, tau, &best, index{-1});
    std::vector<double> work(static_cast<std::size_t>(std::max(best, 1.0)));
    call_info("dgeqrf", m, n, a, lda, tau, work.data(), static_cast<index>(work.size()));
}

void lapack_table::orgqr(index m, index n, index k, double* a, index lda, const double* tau) const {
    double best = 0.0;
    call_info("dorgqr", m, n, k, a, lda, tau, &best, index{-1});
    std::vector<double> work(static_cast<std::size_t>(std::max(best, 1.0)));
    call_info("dorgqr", m, n, k, a, lda, tau, work.data(), static_cast<index>(work.size()));
}

index lapack_table::syevd(char job, char uplo, index n, double* a, index lda, double* w) const {
    double best = 0.0;
    index best_int = 0;
    call_info("dsyevd", job, uplo, n, a, lda, w, &best, index{-1}, int_array{&best_int, 1}, index{-1});
    std::vector<double> work(static_cast<std::size_t>(std::max(best, 1.0)));
    std::vector<index> iwork(static_cast<std::size_t>(std::max<index>(best_int, 1)));
    return call_info("dsyevd", job, uplo, n, a, lda, w, work.data(), static_cast<index>(work.size()),
                     int_array{iwork.data(), static_cast<index>(iwork.size())},
                     static_cast<index>(iwork.size()));
}

index lapack_table::geev(index n, double* a, index lda, std::complex<double>* w, double* v, index ldv) const {
    std::vector<double> parts(static_cast<std::size_t>(2 * std::max<index>(n, 1)));
    double* const re = parts.data();
    double* const im = re + n;
    double none = 0, best = 0.0;
    call_info("dgeev", 'N', 'V', n, a, lda, re, im, &none, index{1}, v, ldv, &best, index{-1});
    std::vector<double> work(static_cast<std::size_t>(std::max(best, 1.0)));
    const index info = call_info("dgeev", 'N', 'V', n, a, lda, re, im, &none, index{1}, v, ldv, work.data(),
                                 static_cast<index>(work.size()));
    for (index i = 0; i < n; ++i) w[i] = {re[i], im[i]};
    return info;
}

index lapack_table::geev(index n, std::complex<double>* a, index lda, std::complex<double>* w,
                         std::complex<double>* v, index ldv) const {
    std::complex<double> none = 0, best = 0.0;
    std::vector<double> real_work(static_cast<std::size_t>(2 * std::max<index>(n, 1)));
    call_info("zgeev", 'N', 'V', n, a, lda, w, &none, index{1}, v, ldv, &best, index{-1}, real_work.data());
    std::vector<std::complex<double>> work(static_cast<std::size_t>(std::max(best.real(), 1.0)));
    return call_info("zgeev", 'N', 'V', n, a, lda, w, &none, index{1}, v, ldv, work.data(),
                     static_cast<index>(work.size()), real_work.data());
}

#define AITKEN_INSTANTIATE(T)                                                                               \
    template void lapack_table::gemm(char, char, index, index, index, T, const T*, index, const T*, index,  \
                                     T, T*, index) const;                                                   \
    template void lapack_table::gemv(char, index, index, T, const T*, index, const T*, index, T, T*, index) \
        const;                                                                                              \
    template void lapack_table::syrk(char, char, index, index, T, const T*, index, T, T*, index) const;     \
    template void lapack_table::trsm(char, char, char, char, index, index, T, const T*, index, T*, index)   \
        const;                                                                                              \
    template index lapack_table::potrf(char, index, T*, index) const;                                       \
    template void lapack_table::potrs(char, index, index, const T*, index, T*, index) const;
AITKEN_INSTANTIATE(double)
AITKEN_INSTANTIATE(float)
#undef AITKEN_INSTANTIATE

lapack_table& lapack() {
    static lapack_table table;
    return table;
}

}  // namespace aitken::dense
