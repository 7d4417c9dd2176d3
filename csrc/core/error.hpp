// Exceptions that cross from native code to Python. std::invalid_argument becomes ValueError and
// std::bad_alloc MemoryError by themselves; these two have their own Python types.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace aitken {

// The user pressed Ctrl-C (the interrupt hook said so). Nothing of the caller's is half-written.
struct interrupted : std::exception {
    const char* what() const noexcept override { return "interrupted"; }
};

// A CUDA call failed: the call, its error code and the runtime's text.
class cuda_error : public std::runtime_error {
public:
    cuda_error(std::string call, int code, std::string text)
        : std::runtime_error(call + " failed with CUDA error " + std::to_string(code) + ": " + text),
          call_(std::move(call)),
          text_(std::move(text)),
          code_(code) {}
    const std::string& call() const noexcept { return call_; }
    const std::string& text() const noexcept { return text_; }
    int code() const noexcept { return code_; }

private:
    std::string call_, text_;
    int code_;
};

}  // namespace aitken
