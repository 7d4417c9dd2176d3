// Macros alone: the per-ISA files share no function.
#pragma once

#if !defined(__GNUC__) && !defined(__clang__)
#error "the row kernels need the vector extensions of GCC or Clang"
#endif

// Helpers and loop bodies must vanish into the kernels: an out-of-line one would spill every accumulator.
#define AITKEN_INLINE __attribute__((always_inline)) inline
#define AITKEN_INLINE_LAMBDA __attribute__((always_inline))
