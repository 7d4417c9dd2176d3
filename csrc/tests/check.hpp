// The native test harness: TEST(name) registers itself, CHECK* record failures and let the test go on.
//
//   TEST(parse) { CHECK(n > 0); CHECK_NEAR(a, b, 1e-12); CHECK_THROWS(parse("x"), std::invalid_argument); }
//
// csrc/tests/main.cpp supplies main(). A test that reaches no CHECK counts as failed.
#pragma once

#include <cmath>
#include <exception>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace aitken::check {

struct test_case {
    const char* name;
    void (*body)();
};

struct state {
    std::vector<test_case> cases;
    long checks = 0;                    // in the running test
    long failures = 0;                  // in the running test
    std::vector<std::string> messages;  // of the running test, capped so a broken loop stays readable
};

inline state& global() {
    static state s;
    return s;
}

struct registrar {
    registrar(const char* name, void (*body)()) { global().cases.push_back({name, body}); }
};

inline void fail(const char* file, int line, const std::string& what) {
    constexpr long max_messages = 20;
    if (global().failures++ < max_messages)
        global().messages.push_back(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

inline void that(bool ok, const char* file, int line, const char* text) {
    ++global().checks;
    if (!ok) fail(file, line, std::string("CHECK(") + text + ") is false");
}

// Absolute tolerance; equal infinities and a pair of NaNs count as near.
inline void near(double a, double b, double tol, const char* file, int line, const char* text) {
    ++global().checks;
    if (a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= tol) return;
    std::ostringstream os;
    os.precision(17);
    os << "CHECK_NEAR(" << text << "): " << a << " vs " << b << ", |difference| " << std::fabs(a - b);
    fail(file, line, os.str());
}

template <class Exception, class Body>
void throws(Body&& body, const char* file, int line, const char* text) {
    ++global().checks;
    try {
        std::forward<Body>(body)();
    } catch (const Exception&) {
        return;
    } catch (const std::exception& e) {
        return fail(file, line, std::string("CHECK_THROWS(") + text + ") threw another type: " + e.what());
    }
    fail(file, line, std::string("CHECK_THROWS(") + text + ") did not throw");
}

}  // namespace aitken::check

#define TEST(name)                                                               \
    static void test_##name();                                                   \
    static const ::aitken::check::registrar register_##name(#name, test_##name); \
    static void test_##name()
#define CHECK(...) ::aitken::check::that(static_cast<bool>(__VA_ARGS__), __FILE__, __LINE__, #__VA_ARGS__)
#define CHECK_NEAR(a, b, tol) ::aitken::check::near((a), (b), (tol), __FILE__, __LINE__, #a ", " #b ", " #tol)
// The expression may hold commas inside parentheses only; the type is the last argument.
#define CHECK_THROWS(expr, type) \
    ::aitken::check::throws<type>([&] { (void)(expr); }, __FILE__, __LINE__, #expr ", " #type)
