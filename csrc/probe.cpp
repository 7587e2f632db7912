// What the CPU kernels need of a compiler, in a few lines: the build tries it first.
#include <optional>

typedef float Floats __attribute__((vector_size(64)));
typedef int Ints __attribute__((vector_size(64)));

template <typename T>
T half(T x) {
  if constexpr (sizeof(T) > 64) return x;
  return __builtin_convertvector(__builtin_convertvector(x, Ints), Floats) / 2;
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))) int signs(Floats x) {
  return _mm512_movepi32_mask((__m512i)x);
}
#endif

std::optional<float> first(const Floats* x) { return half(*x)[0]; }
