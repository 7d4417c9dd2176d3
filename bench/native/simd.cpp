// One thread over every row kernel, at every level this machine supports, on matrices that lie in L1, in L2
// and in memory. The vectors (v, acc, y) are one row long and stay in cache, as in the solvers; so the bytes
// counted are those of the matrices alone, a store once. In memory the ceiling is a plain loop with the same
// traffic, measured in this run (read, copy or update in place); in cache row_exp is compared with exp_n, the
// bare exp.
//
//   simd [--json FILE] [--level base|v3|v4] [--kernel SUBSTRING]
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/simd/dispatch.hpp"

namespace {

using clock_type = std::chrono::steady_clock;

struct shape {
    const char* where;
    std::int64_t rows, cols;
};

// 16 KiB, 512 KiB and 128 MiB of doubles.
const shape shapes[] = {{"L1", 4, 512}, {"L2", 16, 4096}, {"memory", 4096, 4096}};

// Results go here, so that no loop is without effect.
volatile double sink;

// Least seconds of one call, over calls that fill 60 ms and at least three.
template <class Body>
double seconds(Body body) {
    body();
    int calls = 1;
    double once = 0;
    for (;; calls *= 4) {  // long enough for the clock
        const auto start = clock_type::now();
        for (int i = 0; i < calls; ++i) body();
        once = std::chrono::duration<double>(clock_type::now() - start).count() / calls;
        if (once * calls > 2e-3) break;
    }
    double best = once, spent = 0;
    for (int repeat = 0; repeat < 3 || spent < 0.06; ++repeat) {
        const auto start = clock_type::now();
        for (int i = 0; i < calls; ++i) body();
        const double batch = std::chrono::duration<double>(clock_type::now() - start).count();
        spent += batch;
        best = std::min(best, batch / calls);
    }
    return best;
}

template <class T>
struct workspace {
    explicit workspace(const shape& s)
        : rows(s.rows),
          cols(s.cols),
          c(size()),
          k(size()),
          out(size()),
          y(length()),
          v(length()),
          acc(length()),
          limit(length(), 2.0),
          idx(length()) {
        std::uint64_t state = 1;
        const auto uniform = [&] {
            state = state * 6364136223846793005u + 1442695040888963407u;
            return static_cast<double>(state >> 11) * 0x1p-53;
        };
        for (auto& x : c) x = static_cast<T>(uniform());
        for (auto& x : k) x = static_cast<T>(uniform());
        for (auto& x : y) x = uniform() - 0.5;
        for (auto& x : v) x = 0.5 + uniform();
    }
    std::size_t size() const { return static_cast<std::size_t>(rows * cols); }
    std::size_t length() const { return static_cast<std::size_t>(cols); }

    std::int64_t rows, cols;
    std::vector<T> c, k, out;
    std::vector<double> y, v, acc, limit;
    std::vector<std::int32_t> idx;
};

template <class T>
struct kernel {
    const char* name;
    double bytes, flops;  // per entry of the matrix; an exp is one flop
    const char* traffic;  // of the matrices: read, copy or update
    std::function<void(const aitken_simd_table&, workspace<T>&)> sweep;
};

// f64 or f32 entry of the table, by the type of the workspace.
#define ENTRY(name)                   \
    ([&] {                            \
        if constexpr (sizeof(T) == 8) \
            return t.name##_f64;      \
        else                          \
            return t.name##_f32;      \
    }())

template <class T>
std::vector<kernel<T>> kernels() {
    using table = aitken_simd_table;
    using space = workspace<T>;
    constexpr double b = sizeof(T);
    // Rows in groups of four, as the backend sweeps them.
    const auto grouped = [](space& w, auto body) {
        for (std::int64_t i = 0; i < w.rows; i += 4) {
            const T* rows[4];
            for (std::int64_t r = 0; r < 4; ++r) rows[r] = w.k.data() + (i + r) * w.cols;
            body(rows);
        }
    };
    static const double weights[4] = {1e-3, -1e-3, 1e-3, -1e-3};
    std::vector<kernel<T>> list;
    if constexpr (sizeof(T) == 8)
        list.push_back({"exp_n", 2 * b, 1, "copy", [](const table& t, space& w) {
                            for (std::int64_t i = 0; i < w.rows; ++i)
                                t.exp_n(w.c.data() + i * w.cols, w.out.data() + i * w.cols, w.cols);
                        }});
    list.push_back({"row_exp", 2 * b, 5, "copy", [](const table& t, space& w) {
                        for (std::int64_t i = 0; i < w.rows; ++i)
                            sink = ENTRY(row_exp)(w.c.data() + i * w.cols, w.y.data(), 0.1, 20.0, w.cols,
                                                  w.out.data() + i * w.cols);
                    }});
    list.push_back({"row_max", b, 2, "read", [](const table& t, space& w) {
                        for (std::int64_t i = 0; i < w.rows; ++i)
                            sink = ENTRY(row_max)(w.c.data() + i * w.cols, w.y.data(), w.cols);
                    }});
    list.push_back({"col_max", b, 2, "read", [](const table& t, space& w) {
                        for (std::int64_t i = 0; i < w.rows; ++i)
                            ENTRY(col_max)(w.c.data() + i * w.cols, 0.5, w.cols, w.acc.data());
                    }});
    list.push_back({"dot", b, 2, "read", [grouped](const table& t, space& w) {
                        double out[4];
                        grouped(w, [&](const T* const* rows) {
                            ENTRY(dot)(rows, 4, w.v.data(), w.cols, out);
                            sink = out[3];
                        });
                    }});
    list.push_back({"dot of one row", b, 2, "read", [](const table& t, space& w) {
                        double out;
                        for (std::int64_t i = 0; i < w.rows; ++i) {
                            const T* row = w.k.data() + i * w.cols;
                            ENTRY(dot)(&row, 1, w.v.data(), w.cols, &out);
                            sink = out;
                        }
                    }});
    list.push_back(
        {"axpy", b, 2, "read", [grouped](const table& t, space& w) {
             grouped(w, [&](const T* const* rows) { ENTRY(axpy)(rows, 4, weights, w.cols, w.acc.data()); });
         }});
    list.push_back({"dot_axpy", b, 4, "read", [grouped](const table& t, space& w) {
                        double out[4];
                        grouped(w, [&](const T* const* rows) {
                            ENTRY(dot_axpy)(rows, 4, w.v.data(), weights, w.cols, out, w.acc.data());
                            sink = out[3];
                        });
                    }});
    list.push_back({"weighted_cost", 2 * b, 3, "read", [](const table& t, space& w) {
                        for (std::int64_t i = 0; i < w.rows; ++i)
                            sink = ENTRY(weighted_cost)(w.k.data() + i * w.cols, w.v.data(),
                                                        w.c.data() + i * w.cols, w.cols);
                    }});
    // p < 1.5 and the limit is 1.4: under one entry in a hundred is chosen.
    list.push_back({"select", b, 4, "read", [](const table& t, space& w) {
                        for (std::int64_t i = 0; i < w.rows; ++i)
                            sink = static_cast<double>(ENTRY(select)(w.k.data() + i * w.cols, 1.0, w.v.data(),
                                                                     1.4, w.limit.data(), 0, w.cols,
                                                                     w.idx.data()));
                    }});
    return list;
}

struct record {
    std::string level, name, type, where;
    double ns, gb_per_s, gflop_per_s, share;  // share < 0: no ceiling applies
    const char* ceiling;
};

struct ceilings {
    double read, copy, update, triad;  // bytes per second, a store counted once
    double of(const char* traffic) const {
        return traffic == std::string("read") ? read : traffic == std::string("copy") ? copy : update;
    }
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif

// What memory gives: four streams at once, which no single row can reach, each asked for 8 KiB ahead.
WIDEST std::uint64_t read_streams(const std::uint64_t* p, std::size_t n) {
    std::uint64_t sum = 0;
    const std::size_t quarter = n / 4;
    for (std::size_t i = 0; i < quarter; i += 8)
        for (std::size_t s = 0; s < 4; ++s) {
            const std::uint64_t* line = p + s * quarter + i;
            __builtin_prefetch(line + 1024);
            for (int l = 0; l < 8; ++l) sum += line[l];
        }
    return sum;
}
WIDEST void copy_stream(double* __restrict a, const double* __restrict b, std::size_t n) {
    for (std::size_t i = 0; i < n; i += 8) {
        __builtin_prefetch(b + i + 1024);
        for (std::size_t l = i; l < i + 8; ++l) a[l] = 0.5 * b[l];
    }
}
WIDEST void update_stream(double* a, std::size_t n) {
    for (std::size_t i = 0; i < n; i += 8) {
        __builtin_prefetch(a + i + 1024);
        for (std::size_t l = i; l < i + 8; ++l) a[l] = -a[l];
    }
}
WIDEST void triad_stream(double* __restrict a, const double* __restrict b, const double* __restrict c,
                         std::size_t n) {
    for (std::size_t i = 0; i < n; i += 8) {
        __builtin_prefetch(b + i + 1024);
        __builtin_prefetch(c + i + 1024);
        for (std::size_t l = i; l < i + 8; ++l) a[l] = b[l] + 0.5 * c[l];
    }
}

ceilings measure_memory() {
    const std::size_t n = std::size_t{1} << 24;  // 128 MiB an array
    std::vector<double> a(n), b(n, 1.0), c(n, 2.0);
    std::vector<std::uint64_t> words(n + 4096, 3);
    const double bytes = 8.0 * static_cast<double>(n);
    ceilings top;
    top.read = bytes / seconds([&] { sink = static_cast<double>(read_streams(words.data(), n)); });
    top.copy = 2 * bytes / seconds([&] { copy_stream(a.data(), b.data(), n); });
    top.update = 2 * bytes / seconds([&] { update_stream(a.data(), n); });
    top.triad = 3 * bytes / seconds([&] { triad_stream(a.data(), b.data(), c.data(), n); });
    sink = a[n / 2];
    return top;
}

template <class T>
void run(const std::vector<std::string_view>& levels, const char* filter, const ceilings& top,
         std::vector<record>& records) {
    const char* type = sizeof(T) == 8 ? "f64" : "f32";
    for (const shape& s : shapes) {
        workspace<T> w(s);
        const bool in_memory = std::strcmp(s.where, "memory") == 0;
        for (std::string_view level : levels) {
            const aitken_simd_table& table = aitken::cpu::simd_for(level);
            const double entries = static_cast<double>(w.size());
            const double exp_ns = seconds([&] {  // the same number of exps, from and to the cache
                                      for (std::int64_t i = 0; i < w.rows; ++i)
                                          table.exp_n(w.y.data(), w.acc.data(), w.cols);
                                  }) /
                                  entries * 1e9;
            for (const auto& k : kernels<T>()) {
                if (!std::strstr(k.name, filter)) continue;
                const double t = seconds([&] { k.sweep(table, w); });
                const double giga_entries = entries / t / 1e9;
                record r{std::string(level), k.name, type, s.where, 1 / giga_entries, 0, 0, -1, ""};
                r.gb_per_s = k.bytes * giga_entries;
                r.gflop_per_s = k.flops * giga_entries;
                if (in_memory) {
                    r.share = r.gb_per_s * 1e9 / top.of(k.traffic);
                    r.ceiling = k.traffic;
                }
                const bool is_exp = std::strcmp(k.name, "row_exp") == 0;
                if (is_exp && exp_ns / r.ns > r.share) {  // bound by whichever is nearer
                    r.share = exp_ns / r.ns;
                    r.ceiling = "exp";
                }
                std::printf("%-5s %-15s %-4s %-7s %9.3f %9.1f %9.2f", r.level.c_str(), r.name.c_str(), type,
                            s.where, r.ns, r.gb_per_s, r.gflop_per_s);
                if (r.share >= 0) std::printf(" %7.0f%% of %s", 100 * r.share, r.ceiling);
                std::printf("\n");
                std::fflush(stdout);
                records.push_back(r);
            }
        }
    }
}

void write_json(const char* path, const ceilings& top, const std::vector<record>& records) {
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "w"), std::fclose);
    if (!file) throw std::runtime_error(std::string("cannot write ") + path);
    std::fprintf(file.get(), "{\"bench\": \"simd\", \"threads\": 1, \"ceilings_gb_per_s\": ");
    std::fprintf(file.get(), "{\"read\": %.2f, \"copy\": %.2f, \"update\": %.2f, \"triad\": %.2f},\n",
                 top.read / 1e9, top.copy / 1e9, top.update / 1e9, top.triad / 1e9);
    std::fprintf(file.get(), " \"results\": [\n");
    for (std::size_t i = 0; i < records.size(); ++i) {
        const record& r = records[i];
        std::fprintf(file.get(), "  {\"level\": \"%s\", \"kernel\": \"%s\", \"type\": \"%s\", ",
                     r.level.c_str(), r.name.c_str(), r.type.c_str());
        std::fprintf(file.get(), "\"where\": \"%s\", ", r.where.c_str());
        std::fprintf(file.get(), "\"ns_per_element\": %.5g, \"gb_per_s\": %.5g, \"gflop_per_s\": %.5g", r.ns,
                     r.gb_per_s, r.gflop_per_s);
        if (r.share >= 0)
            std::fprintf(file.get(), ", \"ceiling\": \"%s\", \"share\": %.4f", r.ceiling, r.share);
        std::fprintf(file.get(), "}%s\n", i + 1 < records.size() ? "," : "");
    }
    std::fprintf(file.get(), "]}\n");
    if (std::ferror(file.get())) throw std::runtime_error(std::string("cannot write ") + path);
}

}  // namespace

int main(int argc, char** argv) try {
    const char* json = nullptr;
    const char* filter = "";
    auto levels = aitken::cpu::simd_levels();
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (i + 1 == argc) throw std::invalid_argument("no value after " + option);
        const char* value = argv[++i];
        if (option == "--json")
            json = value;
        else if (option == "--kernel")
            filter = value;
        else if (option == "--level")
            levels = {aitken::cpu::simd_for(value).level};
        else
            throw std::invalid_argument("unknown option " + option);
    }
    const ceilings top = measure_memory();
    std::printf("memory, GB/s: read %.1f, copy %.1f, update in place %.1f, triad %.1f\n", top.read / 1e9,
                top.copy / 1e9, top.update / 1e9, top.triad / 1e9);
    std::printf("%-5s %-15s %-4s %-7s %9s %9s %9s  %s\n", "level", "kernel", "type", "where", "ns/entry",
                "GB/s", "GFlop/s", "ceiling");
    std::vector<record> records;
    run<double>(levels, filter, top, records);
    run<float>(levels, filter, top, records);
    if (json) write_json(json, top, records);
    return 0;
} catch (const std::exception& e) {
    std::fprintf(stderr, "simd: %s\n", e.what());
    return 2;
}
