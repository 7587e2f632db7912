// What the CPU operators need of LibTorch's stable ABI: shapes, pointers, allocation, dispatch on dtype.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "storage.h"

namespace efpn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A map [N, C, H, W]: its sizes and whether channels are innermost.
struct Map {
  int64_t N, C, H, W;
  bool channels_last;

  explicit Map(const Tensor& x)
      : N(x.size(0)), C(x.size(1)), H(x.size(2)), W(x.size(3)), channels_last(!x.is_contiguous()) {}
  int64_t pixels() const { return H * W; }
};

inline ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor empty(std::vector<int64_t> sizes, ScalarType type, bool channels_last = false) {
  return torch::stable::empty(
      sizes, type, std::nullopt, std::nullopt, std::nullopt,
      channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                    : torch::headeronly::MemoryFormat::Contiguous);
}
inline Tensor zeros(std::vector<int64_t> sizes, ScalarType type, bool channels_last = false) {
  Tensor x = empty(std::move(sizes), type, channels_last);
  std::memset(x.mutable_data_ptr(), 0, x.numel() * x.element_size());
  return x;
}
inline Tensor empty_like(const Tensor& map) {
  const Map m(map);
  return empty({m.N, m.C, m.H, m.W}, map.scalar_type(), m.channels_last);
}

template <class T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.data_ptr());
}
template <class T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Calls f with a value of the element type.
template <class F>
void dispatch(ScalarType type, const char* name, F f) {
  switch (type) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::BFloat16: return f(BFloat16{});
    case ScalarType::Half: return f(Half{});
    default:
      STD_TORCH_CHECK(false, name, ": expected float16, bfloat16, float32 or float64");
  }
}

// Splits [0, n) over the threads, at least `grain` each. Work items must not depend on the split.
template <class F>
void parallel(int64_t n, int64_t grain, const F& f) {
  if (n > 0) torch::stable::parallel_for(0, n, grain, f);
}

}  // namespace efpn
