// Matrix completion on CUDA devices: instantiates the driver over the CUDA kernels.
#include "core/api/completion_cuda.hpp"

#include "cuda/backend.hpp"
#include "cuda/completion_kernels.hpp"

namespace aitken::cuda {

static_assert(drivers::completion::AlsKernels<als_kernels<backend, float>>);
static_assert(drivers::completion::AlsKernels<als_kernels<backend, double>>);

namespace completion {

template <class T>
api::report complete(const device_context& where, const problem<T>& given, const api::options& options,
                     const api::factors<T>& f, interrupt& signals, const api::monitor& monitor) {
    backend be(where, signals);
    return complete_matrix(be, given, options, f, monitor);
}

template <class T>
api::half_report half_sweep(const device_context& where, const stored<T>& rows, matrix<const T> fixed,
                            vec<const T> fixed_bias, matrix<T> x, vec<T> x_bias,
                            const api::half_options& options, interrupt& signals) {
    backend be(where, signals);
    return half_sweep_of(be, rows, fixed, fixed_bias, x, x_bias, options);
}

template <class T>
double squared_error(const device_context& where, const stored<T>& rows, const api::factors<const T>& f,
                     interrupt& signals) {
    backend be(where, signals);
    return squared_error_of(be, rows, f);
}

template <class T>
void predict(const device_context& where, const api::factors<const T>& f, const std::int32_t* rows,
             const std::int32_t* cols, vec<T> out, interrupt& signals) {
    backend be(where, signals);
    predict_into(be, f, rows, cols, out);
}

#define AITKEN_COMPLETION(T)                                                                                \
    template api::report complete<T>(const device_context&, const problem<T>&, const api::options&,         \
                                     const api::factors<T>&, interrupt&, const api::monitor&);              \
    template api::half_report half_sweep<T>(const device_context&, const stored<T>&, matrix<const T>,       \
                                            vec<const T>, matrix<T>, vec<T>, const api::half_options&,      \
                                            interrupt&);                                                    \
    template double squared_error<T>(const device_context&, const stored<T>&, const api::factors<const T>&, \
                                     interrupt&);                                                           \
    template void predict<T>(const device_context&, const api::factors<const T>&, const std::int32_t*,      \
                             const std::int32_t*, vec<T>, interrupt&)
AITKEN_COMPLETION(float);
AITKEN_COMPLETION(double);

}  // namespace completion

}  // namespace aitken::cuda
