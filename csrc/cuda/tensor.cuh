// The host side of the CUDA operators on LibTorch's stable ABI: dispatch on dtypes, sizes of maps,
// allocation, the current stream and checked launches.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <optional>
#include <tuple>

#include "device.cuh"

namespace efpn {
namespace cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

}  // namespace cuda
}  // namespace efpn
