// The products of the high gate, Eq. 6 commuted: nine 1x1 convolutions at the low resolution as one
// GEMM of the library, and its two adjoints.
//
// [1, 256, 25, 25] in bfloat16, D = 256: 0.74 GFLOP each; 1.5 MB of factors read, 5.8 MB of taps
// written, 1.7 us at 4.3 TB/s. The weight's matrix is a copy (1.2 MB), and so are the pixels of a
// contiguous map of several images.
#include <torch/csrc/stable/ops.h>

#include <array>

#include "tensor.cuh"

namespace efpn {
namespace cuda {
namespace {

using Sizes = std::initializer_list<int64_t>;

// Tensor cores take factors of half precision and accumulate in float32.
ScalarType factor_type(const Tensor& p_high) { return p_high.scalar_type(); }

Tensor strided(const Tensor& x, Sizes sizes, Sizes strides) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(x.get(), int64_t(sizes.size()),
                                                        sizes.begin(), strides.begin(),
                                                        /*offset_increment=*/0, &handle));
  return Tensor(handle);
}

Tensor to_type(const Tensor& x, ScalarType type) {
  return x.scalar_type() == type ? x : torch::stable::to(x, type);
}

// [N, C, h, w] -> [N h w, C].
Tensor pixels(const Tensor& p_high) {
  const Map m(p_high);
  const Tensor view =
      strided(p_high, {m.N, m.H, m.W, m.C},
              {p_high.stride(0), p_high.stride(2), p_high.stride(3), p_high.stride(1)});
  return to_type(torch::stable::reshape(view, {m.N * m.pixels(), m.C}), factor_type(p_high));
}

// [D, C, 3, 3] as [3, 3, D, C].
Tensor by_tap(const Tensor& weight) {
  return strided(weight, {3, 3, weight.size(0), weight.size(1)},
                 {weight.stride(2), weight.stride(3), weight.stride(0), weight.stride(1)});
}

// [D, C, 3, 3] -> [9 D, C].
Tensor matrix(const Tensor& weight, ScalarType type) {
  const int64_t D = weight.size(0), C = weight.size(1);
  return to_type(torch::stable::reshape(by_tap(weight), {9 * D, C}), type);
}

Tensor transposed(const Tensor& x) {
  return strided(x, {x.size(1), x.size(0)}, {x.stride(1), x.stride(0)});
}

// a b with a result of `type`, which is wider than factors of half precision.
Tensor product(const Tensor& a, const Tensor& b, ScalarType type) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a), from(b), from(type)};
  const char* overload = a.scalar_type() == type ? "" : "dtype";
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace

Tensor taps(const Tensor& p_high, const Tensor& weight) {
  const Stream stream(p_high);
  const Map m(p_high);
  const int64_t D = weight.size(0);
  const Tensor factor = matrix(weight, factor_type(p_high));
  const Tensor out =
      product(pixels(p_high), transposed(factor), accumulate_type(p_high.scalar_type()));
  return torch::stable::reshape(out, {m.N, m.H, m.W, 9, D});
}

std::tuple<Tensor, Tensor> taps_backward(const Tensor& grad_taps, const Tensor& p_high,
                                         const Tensor& weight) {
  const Stream stream(p_high);
  const Map m(p_high);
  const int64_t D = weight.size(0);
  const ScalarType type = p_high.scalar_type(), factors = factor_type(p_high);
  const Tensor grad =
      to_type(torch::stable::reshape(grad_taps, {m.N * m.pixels(), 9 * D}), factors);

  Tensor grad_weight = stream.empty_strided_like(weight, accumulate_type(type));
  Tensor to_weight = by_tap(grad_weight);
  const Tensor of_weight = product(transposed(grad), pixels(p_high), grad_weight.scalar_type());
  torch::stable::copy_(to_weight, torch::stable::reshape(of_weight, {3, 3, D, m.C}));

  const Tensor of_pixels = to_type(product(grad, matrix(weight, factors), factors), type);
  const int64_t row = m.W * m.C;
  const Tensor channels_last = strided(of_pixels, {m.N, m.C, m.H, m.W}, {m.H * row, 1, row, m.C});
  if (m.channels_last) return {channels_last, grad_weight};
  Tensor grad_p_high = stream.empty_like(p_high);
  torch::stable::copy_(grad_p_high, channels_last);
  return {grad_p_high, grad_weight};
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("taps", TORCH_BOX(&efpn::cuda::taps));
  m.impl("taps_backward", TORCH_BOX(&efpn::cuda::taps_backward));
}
