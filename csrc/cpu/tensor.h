// What the CPU operators need of LibTorch's stable ABI: shapes, pointers, allocation, dispatch on dtype.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "storage.h"

#include "../common/target.h"

namespace efpn {
namespace host {
template <class T>
EFPN_INLINE T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}
}  // namespace host
}  // namespace efpn

#define EFPN_ISA host
#include "../common/gate.h"
#undef EFPN_ISA

namespace efpn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::empty_like;  // in the format of its argument

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

// Asks for huge pages behind a large new tensor: faulting it in by small ones takes longer than writing.
inline void advise_huge_pages(const Tensor& x) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(2) << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(x.data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t last = (begin + x.numel() * x.element_size()) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// aoti_torch_empty_strided is a plain call; torch::stable::empty would go through the dispatcher.
inline Tensor empty(std::vector<int64_t> sizes, ScalarType type, bool channels_last = false) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  const auto next = [&](size_t dim) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(sizes[dim], 1);
  };
  if (channels_last) {
    for (const size_t dim : {1, 3, 2, 0}) next(dim);
  } else {
    for (size_t dim = sizes.size(); dim-- > 0;) next(dim);
  }
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      sizes.size(), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
      aoti_torch_device_type_cpu(), 0, &handle));
  Tensor x(handle);
  if (stride >= int64_t(1) << 20) advise_huge_pages(x);
  return x;
}
inline Tensor empty_map_like(const Tensor& map) {
  Tensor x = empty_like(map);
  advise_huge_pages(x);
  return x;
}
inline Tensor zeros(std::vector<int64_t> sizes, ScalarType type, bool channels_last = false) {
  Tensor x = empty(std::move(sizes), type, channels_last);
  if (x.numel() > 0) std::memset(x.mutable_data_ptr(), 0, x.numel() * x.element_size());
  return x;
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

// The elements of a contiguous tensor in the type of accumulation, then zeros up to `size` of them.
template <class S>
std::vector<Acc<S>> accumulated(const Tensor& x, int64_t size = 0) {
  std::vector<Acc<S>> values(std::max(x.numel(), size));
  for (int64_t i = 0; i < x.numel(); ++i) values[i] = static_cast<Acc<S>>(data<S>(x)[i]);
  return values;
}

// A contiguous tensor of the type of accumulation with these values.
template <class A>
Tensor tensor_of(const double* values, std::vector<int64_t> sizes, ScalarType type) {
  Tensor x = empty(std::move(sizes), type);
  std::copy(values, values + x.numel(), mutable_data<A>(x));
  return x;
}

// The gradient of the logit of a gate, grad_gate sigmoid', and its sum.
template <class A>
struct GateGradient {
  std::vector<A> values;
  double sum = 0;

  GateGradient(const Tensor& grad_gate, const Tensor& gate) : values(gate.numel()) {
    for (int64_t i = 0; i < gate.numel(); ++i) {
      values[i] = data<A>(grad_gate)[i] * host::gate_slope(data<A>(gate)[i]);
      sum += values[i];
    }
  }
};

// Multiply-adds that are worth a thread, and those that an element of a pass over memory counts as.
constexpr int64_t kLeastWork = 1 << 17, kWorkOfElement = 32;

// Splits [0, n) over as many threads as are worth it for items of `work` multiply-adds each. The
// items must not depend on the split.
template <class F>
void parallel(int64_t n, int64_t work, const F& f) {
  if (n > 0) torch::stable::parallel_for(0, n, 1 + kLeastWork / (work + 1), f);
}

}  // namespace efpn
