// Runs every registered test, or those whose name contains argv[1].
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "check.hpp"

int main(int argc, char** argv) {
    auto& run = aitken::check::global();
    const char* filter = argc > 1 ? argv[1] : "";
    int passed = 0, failed = 0;
    for (const auto& test : run.cases) {
        if (!std::strstr(test.name, filter)) continue;
        run.checks = run.failures = 0;
        run.messages.clear();
        try {
            test.body();
            if (run.checks == 0) aitken::check::fail(test.name, 0, "no CHECK was reached");
        } catch (const std::exception& e) {
            aitken::check::fail(test.name, 0, std::string("uncaught exception: ") + e.what());
        } catch (...) {
            aitken::check::fail(test.name, 0, "uncaught exception of unknown type");
        }
        if (run.failures == 0) {
            ++passed;
            continue;
        }
        ++failed;
        std::printf("FAILED %s: %ld of %ld checks\n", test.name, run.failures, run.checks);
        for (const auto& message : run.messages) std::printf("  %s\n", message.c_str());
        std::fflush(stdout);
    }
    if (passed + failed == 0) {
        std::printf("no test matches \"%s\"\n", filter);
        ++failed;
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
