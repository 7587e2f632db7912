// Tensors as what the convolutions of winograd.h and pointwise.h read and write.
#pragma once

#include "tensor.h"
#include "winograd.h"

namespace efpn {

inline Storage storage_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Storage::float32;
    case ScalarType::BFloat16:
      return Storage::bfloat16;
    case ScalarType::Half:
      return Storage::float16;
    default:
      STD_TORCH_CHECK(false, "convolution: expected float16, bfloat16 or float32");
  }
}

template <class S>
void widen(const Tensor& x, float* to) {
  parallel(x.numel(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<float>(data<S>(x)[i]);
  });
}

// A dense tensor in float32, in the same order.
inline Tensor widened(const Tensor& x) {
  if (x.scalar_type() == ScalarType::Float) return x;
  const std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const Tensor wide = empty(sizes, ScalarType::Float, !x.is_contiguous());
  if (storage_of(x) == Storage::bfloat16) {
    widen<BFloat16>(x, mutable_data<float>(wide));
  } else {
    widen<Half>(x, mutable_data<float>(wide));
  }
  return wide;
}

// Rows of a small tensor, padded to registers.
inline Buffer padded(const Tensor& x, int64_t rows, int64_t length) {
  return pad_to_registers(data<float>(widened(x)), rows, length);
}

inline WinogradInput input_of(const Tensor& x) {
  const Map map(x);
  WinogradInput in;
  in.N = map.N, in.C = map.C, in.H = map.H, in.W = map.W;
  in.channels_last = map.channels_last;
  in.storage = storage_of(x);
  in.x = x.data_ptr();
  return in;
}

inline WinogradOutput output_like(const Tensor& x, int64_t D) {
  const Map map(x);
  WinogradOutput out;
  out.N = map.N, out.D = D, out.H = map.H, out.W = map.W;
  out.channels_last = map.channels_last;
  out.storage = storage_of(x);
  return out;
}

// One of the expressions of two maps.
inline WinogradInput input_of(WinogradInput::Kind kind, const Tensor& x, const Tensor& other) {
  WinogradInput in = input_of(x);
  in.kind = kind;
  in.other = other.data_ptr();
  return in;
}

// weight [D, C, 3, 3], in float32, as a map from C to D channels.
inline WinogradWeight weight_of(const Tensor& weight) {
  return {data<float>(weight), weight.size(1),   weight.size(0),  weight.stride(1),
          weight.stride(0),    weight.stride(2), weight.stride(3)};
}

// Its adjoint, from D to C channels: the taps turned round.
inline WinogradWeight adjoint_of(const Tensor& weight) {
  const int64_t y = weight.stride(2), x = weight.stride(3);
  return {data<float>(weight) + 2 * y + 2 * x,
          weight.size(0),
          weight.size(1),
          weight.stride(0),
          weight.stride(1),
          -y,
          -x};
}

// A tensor of the weight's shape and strides.
inline Tensor empty_weight(const Tensor& weight) {
  return empty({weight.size(0), weight.size(1), 3, 3}, ScalarType::Float, !weight.is_contiguous());
}

}  // namespace efpn
