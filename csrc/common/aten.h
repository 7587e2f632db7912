// What the composed operators ask of the library: formats, new tensors, convolutions, a few small
// passes.
//
// A target names its namespace (EFPN_NAMESPACE_BEGIN and _END) and its shims (EFPN_SHIM) before it
// includes this.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

EFPN_NAMESPACE_BEGIN

using Tensors = std::vector<Tensor>;

// ---- formats -----------------------------------------------------------------------------------

// Whether the strides are those of a dense tensor whose dimensions, innermost first, are `order`.
template <size_t dims>
bool strides_are(const Tensor& x, const std::array<int, dims>& order) {
  const auto sizes = x.sizes(), strides = x.strides();
  if (x.numel() == 0) return true;
  int64_t expected = 1;
  for (const int dim : order) {
    if (sizes[dim] == 1) continue;
    if (strides[dim] != expected) return false;
    expected *= sizes[dim];
  }
  return true;
}

inline bool is_channels_last(const Tensor& x) {
  return x.dim() == 4 && strides_are<4>(x, {1, 3, 2, 0});
}

// x itself where it is contiguous (or channels_last), else a contiguous copy.
inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}
inline Tensor dense(const Tensor& x) { return is_channels_last(x) ? x : as_contiguous(x); }

// x in one of the two formats; no copy where it has it.
inline Tensor in_format(const Tensor& x, bool channels_last) {
  if (channels_last ? is_channels_last(x) : x.is_contiguous()) return x;
  return torch::stable::contiguous(x, channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                                    : torch::headeronly::MemoryFormat::Contiguous);
}

// ---- new tensors
// ---------------------------------------------------------------------------------

// On the device of `like`.
inline Tensor new_strided(const Tensor& like, const std::vector<int64_t>& sizes,
                          const std::vector<int64_t>& strides, ScalarType type) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      sizes.size(), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)), device_type,
      device_index, &handle));
  return Tensor(handle);
}

inline std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t dim = sizes.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(sizes[dim], 1);
  }
  return strides;
}

inline Tensor new_empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type) {
  return new_strided(like, sizes, contiguous_strides(sizes), type);
}

// The same memory with other sizes and strides.
inline Tensor reinterpret(const Tensor& x, const std::vector<int64_t>& sizes,
                          const std::vector<int64_t>& strides) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
      x.get(), sizes.size(), sizes.data(), strides.data(), /*offset_increment=*/0, &handle));
  return Tensor(handle);
}

template <class Ref>
std::vector<int64_t> to_vector(const Ref& x) {
  return {x.begin(), x.end()};
}

// ---- operators of the library
// ------------------------------------------------------------------------

// aten::<name> of tensors, changed in place or returned.
template <class... Arguments>
Tensor aten(const char* name, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline Tensor add(const Tensor& a, const Tensor& b) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(EFPN_SHIM(add_Tensor)(a.get(), b.get(), 1.0, &handle));
  return Tensor(handle);
}

// conv2d with `padding` (1 for 3x3, 0 for 1x1); the result has the format of x, a dense map.
inline Tensor convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       int64_t padding, bool channels_last) {
  const Tensor kernel = in_format(weight, channels_last);
  const int64_t ones[] = {1, 1}, zeros[] = {0, 0}, paddings[] = {padding, padding};
  AtenTensorHandle bias_handle = bias ? bias->get() : nullptr, handle;
  TORCH_ERROR_CODE_CHECK(EFPN_SHIM(convolution)(x.get(), kernel.get(),
                                                bias ? &bias_handle : nullptr, ones, 2, paddings, 2,
                                                ones, 2, 0, zeros, 2, 1, &handle));
  return in_format(Tensor(handle), channels_last);
}

struct ConvolutionGradients {
  Tensor x, weight, bias;
};

// Its gradients: of x in the format of x, of weight in a format of the library's, of the bias.
inline ConvolutionGradients convolve_backward(const Tensor& grad, const Tensor& x,
                                              const Tensor& weight, int64_t padding,
                                              bool channels_last, bool with_bias) {
  if (grad.numel() == 0) {  // cuDNN refuses it, or leaves the gradient of the bias as it was
    const auto none_of = [](const Tensor& like) {
      return aten("aten::zero_", new_empty(like, to_vector(like.sizes()), like.scalar_type()));
    };
    const Tensor bias =
        with_bias ? aten("aten::zero_", new_empty(weight, {weight.size(0)}, weight.scalar_type()))
                  : Tensor();
    return {in_format(none_of(x), channels_last), none_of(weight), bias};
  }
  const Tensor kernel = in_format(weight, channels_last);
  const int64_t ones[] = {1, 1}, zeros[] = {0, 0}, paddings[] = {padding, padding};
  const int64_t bias_sizes[] = {weight.size(0)};
  const int64_t* bias_sizes_pointer = bias_sizes;
  const int32_t wanted[] = {1, 1, with_bias};
  AtenTensorHandle grad_x, grad_weight, grad_bias;
  TORCH_ERROR_CODE_CHECK(EFPN_SHIM(convolution_backward)(
      grad.get(), x.get(), kernel.get(), with_bias ? &bias_sizes_pointer : nullptr, 1, ones, 2,
      paddings, 2, ones, 2, 0, zeros, 2, 1, wanted, 3, &grad_x, &grad_weight, &grad_bias));
  return {in_format(Tensor(grad_x), channels_last), Tensor(grad_weight), Tensor(grad_bias)};
}

EFPN_NAMESPACE_END
