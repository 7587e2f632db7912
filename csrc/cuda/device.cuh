// What the kernels use: dtypes, vectors and their loads and stores, sums of warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "../common/target.h"

#define EFPN_ISA cuda

namespace efpn {
namespace cuda {

using BFloat16 = __nv_bfloat16;
using Half = __half;

// float16, bfloat16 and float32 accumulate in float32, float64 in float64.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

// ---- scalars -------------------------------------------------------------------------------------

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(Half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T narrow(Acc<T> x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, Half>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

// 1 / y for y >= 1, infinite or NaN, within one ulp. The division would branch, and the elements of a
// vector would wait for each other.
__device__ __forceinline__ float reciprocal(float y) {
#ifdef __CUDA_ARCH__
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
#else
  const float r = 1.0f / y;
#endif
  return y < INFINITY ? fmaf(fmaf(-y, r, 1.0f), r, r) : r;
}

__device__ __forceinline__ double reciprocal(double y) { return 1.0 / y; }
__device__ __forceinline__ float exp(float x) { return expf(x); }
__device__ __forceinline__ double exp(double x) { return ::exp(x); }
__device__ __forceinline__ float exp_minus_abs(float x) { return expf(-fabsf(x)); }
__device__ __forceinline__ double exp_minus_abs(double x) { return ::exp(-fabs(x)); }
template <class A>
__device__ __forceinline__ A select(bool condition, A yes, A no) {
  return condition ? yes : no;
}

}  // namespace cuda
}  // namespace efpn

#include "../common/gate.h"

namespace efpn {
namespace cuda {

// max(x, 0) as torch.relu: NaN stays NaN.
template <class A>
__device__ __forceinline__ A relu(A x) {
  return x < A(0) ? A(0) : x;
}

// Quotient of numbers that are not negative; fast where both fit 32 bits.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return unsigned(a) / unsigned(b);
  return a / b;
}

// ---- vectors -------------------------------------------------------------------------------------

// The widest access: elements of T in 16 bytes.
template <class T>
constexpr int kWidth = 16 / sizeof(T);

template <class A, int V>
struct Vec {
  A v[V];
  __device__ __forceinline__ A& operator[](int i) { return v[i]; }
  __device__ __forceinline__ const A& operator[](int i) const { return v[i]; }
};

template <class T, int V>
struct alignas(V * sizeof(T) > 16 ? 16 : V * sizeof(T)) Storage {
  T v[V];
};

template <int V, class T>
__device__ __forceinline__ Storage<T, V> load_raw(const T* p) {
  return *reinterpret_cast<const Storage<T, V>*>(p);
}

template <int V, class T>
__device__ __forceinline__ Vec<Acc<T>, V> widen(const Storage<T, V>& raw) {
  Vec<Acc<T>, V> x;
#pragma unroll
  for (int i = 0; i < V; ++i) x[i] = widen(raw.v[i]);
  return x;
}

template <int V, class T>
__device__ __forceinline__ Vec<Acc<T>, V> load(const T* p) {
  return widen<V>(load_raw<V>(p));
}

// The compiler may split an assignment of 16 bytes into words.
__device__ __forceinline__ void store_word(uint4* p, const uint4& word) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :: "l"(__cvta_generic_to_global(p)), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
               : "memory");
#else
  *p = word;
#endif
}

template <class T, int V>
__device__ __forceinline__ void store(T* p, const Vec<Acc<T>, V>& x) {
  Storage<T, V> raw;
#pragma unroll
  for (int i = 0; i < V; ++i) raw.v[i] = narrow<T>(x[i]);
  if constexpr (sizeof(raw) % sizeof(uint4) == 0) {
#pragma unroll
    for (int i = 0; i < int(sizeof(raw) / sizeof(uint4)); ++i) {
      uint4 word;
      memcpy(&word, reinterpret_cast<const uint4*>(&raw) + i, sizeof(word));
      store_word(reinterpret_cast<uint4*>(p) + i, word);
    }
  } else {
    *reinterpret_cast<Storage<T, V>*>(p) = raw;
  }
}

template <class A, int V>
__device__ __forceinline__ Vec<A, V> fill(A value) {
  Vec<A, V> x;
#pragma unroll
  for (int i = 0; i < V; ++i) x[i] = value;
  return x;
}

// ---- blocks --------------------------------------------------------------------------------------------

constexpr int kWarp = 32;

// Sum over groups of `width` (a power of two) neighbouring lanes; every lane gets it. The order is fixed.
template <class A>
__device__ __forceinline__ A warp_sum(A x, int width = kWarp) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, offset, width);
  }
  return x;
}

// Vectors of a block's threads in shared memory. Element v of thread t lies at v * kStride + t, and the rows
// are padded: neither neighbouring threads nor neighbouring elements meet in a bank.
template <class A, int V, int threads>
struct ThreadVectors {
  static constexpr int kStride = threads + 128 / (V * int(sizeof(A)));
  A values[V * kStride];

  __device__ __forceinline__ void put(int thread, const Vec<A, V>& x) {
#pragma unroll
    for (int v = 0; v < V; ++v) values[v * kStride + thread] = x[v];
  }
  // Element k of all vectors in a row: k % V of thread k / V.
  __device__ __forceinline__ A& at(int k) { return values[k % V * kStride + k / V]; }
  __device__ __forceinline__ Vec<A, V> get(int thread) const {
    Vec<A, V> x;
#pragma unroll
    for (int v = 0; v < V; ++v) x[v] = values[v * kStride + thread];
    return x;
  }
};

// Sums of K values over the block's first dimension-flattened threads; thread 0 gets them. `shared`
// holds K values for each warp. Ends with the shared memory still in use by thread 0's warp.
template <int K, class A>
__device__ __forceinline__ void block_sum(A (&x)[K], A* shared, int thread, int threads) {
  const int warp = thread / kWarp, warps = threads / kWarp;
#pragma unroll
  for (int k = 0; k < K; ++k) x[k] = warp_sum(x[k]);
  if (thread % kWarp == 0) {
#pragma unroll
    for (int k = 0; k < K; ++k) shared[warp * K + k] = x[k];
  }
  __syncthreads();
  if (thread == 0) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      for (int w = 1; w < warps; ++w) x[k] += shared[w * K + k];
    }
  }
}

}  // namespace cuda
}  // namespace efpn
