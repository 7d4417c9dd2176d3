// What the bindings may ask of the runtime itself: threads, SIMD, LAPACK, Philox, build facts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/views.hpp"

namespace aitken::runtime {

struct build_facts {
    std::string version;
    std::string compiler;
    std::string build_type;
    bool openmp;
    bool cuda;  // the CUDA module was built beside this one
};
build_facts build_info();

std::string simd_level();                          // ValueError for a bad AITKEN_SIMD
std::vector<std::string> simd_levels_supported();  // what this CPU runs, weakest first

void set_num_threads(int n);  // n <= 0: the default
int get_num_threads();        // what the next loop would use
int requested_threads();      // as set; 0 for the default

struct lapack_routine {
    std::string name;
    bool loaded;
    std::string detail;  // the signature if loaded, otherwise why not
};
std::vector<lapack_routine> lapack_routines();
int lapack_int_bits();  // 32 or 64, measured; 0 before loading
// Throws std::invalid_argument naming routine and signature where it cannot be used.
void load_lapack(const std::string& name, void* address, const std::string& signature);

// out[i] = the uniform number in (0, 1) at counter (purpose, batch, iteration, i).
void philox_uniform(std::uint64_t seed, std::uint32_t purpose, std::uint32_t batch, std::uint32_t iteration,
                    index n, double* out);
void philox_normal(std::uint64_t seed, std::uint32_t purpose, std::uint32_t batch, std::uint32_t iteration,
                   index n, double* out);

// CUDA devices as the runtime reports them; defined by the CUDA module alone. code 0 is success, and
// without a driver there are no devices and the runtime's own code and text.
struct device_facts {
    int count;
    int code;
    std::string text;
};
device_facts cuda_devices();

}  // namespace aitken::runtime
