// What the CUDA operators need of LibTorch's stable ABI and of the device: dtypes, allocation, the
// current stream, launches, and vector loads and stores.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <optional>
#include <tuple>
#include <type_traits>

#include "../common/target.h"

#define EFPN_ISA cuda

namespace efpn {
namespace cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
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

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

// max(x, 0) as torch.relu: NaN stays NaN.
template <class A>
__device__ __forceinline__ A relu(A x) {
  return x < A(0) ? A(0) : x;
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

template <class T, int V>
__device__ __forceinline__ void store(T* p, const Vec<Acc<T>, V>& x) {
  Storage<T, V> raw;
#pragma unroll
  for (int i = 0; i < V; ++i) raw.v[i] = narrow<T>(x[i]);
  // By intrinsic: the compiler may split the assignment of 16 bytes into words.
  if constexpr (sizeof(raw) % sizeof(uint4) == 0) {
#pragma unroll
    for (int i = 0; i < int(sizeof(raw) / sizeof(uint4)); ++i) {
      uint4 word;
      memcpy(&word, reinterpret_cast<const uint4*>(&raw) + i, sizeof(word));
      __stwb(reinterpret_cast<uint4*>(p) + i, word);
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

// ---- host side ---------------------------------------------------------------------------------------

template <class T>
struct Type {
  using type = T;
};

// Calls f with Type<T> for the element type.
template <class F>
void dispatch(ScalarType type, const char* name, F f) {
  switch (type) {
    case ScalarType::Float: return f(Type<float>{});
    case ScalarType::Double: return f(Type<double>{});
    case ScalarType::BFloat16: return f(Type<BFloat16>{});
    case ScalarType::Half: return f(Type<Half>{});
    default:
      STD_TORCH_CHECK(false, name, ": expected float16, bfloat16, float32 or float64");
  }
}

// The same for tensors of the accumulation type.
template <class F>
void dispatch_accumulate(ScalarType type, const char* name, F f) {
  switch (type) {
    case ScalarType::Float: return f(Type<float>{});
    case ScalarType::Double: return f(Type<double>{});
    default: STD_TORCH_CHECK(false, name, ": expected float32 or float64");
  }
}

// Calls f with std::integral_constant<int, V>: the full width of T, or 1.
template <class T, class F>
void dispatch_width(bool wide, F f) {
  if (wide) return f(std::integral_constant<int, kWidth<T>>{});
  return f(std::integral_constant<int, 1>{});
}

template <class F>
void dispatch_bool(bool value, F f) {
  if (value) return f(std::true_type{});
  return f(std::false_type{});
}

inline ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <class A>
constexpr ScalarType kScalarType =
    std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;

// A map [N, C, H, W]: its sizes and whether channels are innermost.
struct Map {
  int64_t N, C, H, W;
  bool channels_last;

  explicit Map(const Tensor& x)
      : N(x.size(0)), C(x.size(1)), H(x.size(2)), W(x.size(3)), channels_last(!x.is_contiguous()) {}
  int64_t pixels() const { return H * W; }
  int64_t numel() const { return N * C * H * W; }
};

template <class T>
T* data(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}
template <class T>
T* data(const std::optional<Tensor>& x) {
  return x.has_value() ? data<T>(*x) : nullptr;
}

inline bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  }
  return true;
}

// Quotient of numbers that are not negative; fast where both fit 32 bits.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return unsigned(a) / unsigned(b);
  return a / b;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Selects the device of a tensor for the scope; owns allocation and launches on its current stream.
class Stream {
 public:
  explicit Stream(const Tensor& x) : device_(x.get_device_index()), guard_(device_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  int32_t device() const { return device_; }

  // Contiguous.
  Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType type) const {
    int64_t strides[kMostDimensions];
    STD_TORCH_CHECK(sizes.size() <= kMostDimensions, "expected at most ", kMostDimensions,
                    " dimensions, got ", sizes.size());
    int64_t stride = 1;
    for (int i = static_cast<int>(sizes.size()) - 1; i >= 0; --i) {
      strides[i] = stride;
      stride *= sizes[i] > 1 ? sizes[i] : 1;
    }
    return allocate(sizes, strides, type);
  }

  // With the shape and the strides of x, which is dense.
  Tensor empty_strided_like(const Tensor& x, ScalarType type) const {
    return allocate(x.sizes(), x.strides().data(), type);
  }

  Tensor empty_map(int64_t N, int64_t C, int64_t H, int64_t W, bool channels_last,
                   ScalarType type) const {
    if (!channels_last) return empty({N, C, H, W}, type);
    const auto at_least_1 = [](int64_t size) { return size > 1 ? size : 1; };
    const int64_t row = at_least_1(C) * at_least_1(W);
    const int64_t strides[] = {row * at_least_1(H), 1, row, at_least_1(C)};
    return allocate({N, C, H, W}, strides, type);
  }
  Tensor empty_like(const Tensor& map) const {
    const Map m(map);
    return empty_map(m.N, m.C, m.H, m.W, m.channels_last, map.scalar_type());
  }

  // Contiguous, with the shape and the dtype of x.
  Tensor empty_contiguous_like(const Tensor& x) const {
    return empty(x.sizes(), x.scalar_type());
  }

  // Launches kernel(arguments...) and checks the launch. A grid without blocks is no launch.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) const {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    kernel<<<grid, block, 0, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // The same with clusters of `cluster` neighbouring blocks.
  template <class... Parameters, class... Arguments>
  void launch_clusters(void (*kernel)(Parameters...), unsigned cluster, dim3 grid, dim3 block,
                       Arguments... arguments) const {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = stream_;
    config.attrs = &attribute;
    config.numAttrs = 1;
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
  }

 private:
  static constexpr size_t kMostDimensions = 64;

  Tensor allocate(torch::headeronly::IntHeaderOnlyArrayRef sizes, const int64_t* strides,
                  ScalarType type) const {
    AtenTensorHandle handle = nullptr;
    const auto dtype =
        torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides, dtype,
                                 aoti_torch_device_type_cuda(), device_, &handle));
    return Tensor(handle);
  }

  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

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
