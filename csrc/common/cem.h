// cem: the pooled context and its broadcast sum, Eq. 1-4, and their gradients.
#pragma once

#include "arguments.h"
#include "kernels.h"
#include "parameter_gradients.h"

EFPN_NAMESPACE_BEGIN

// A map of zeros with the shape and dtype of p_high, in its format.
inline Tensor zero_map(const Tensor& p_high) {
  const auto sizes = to_vector(p_high.sizes());
  Tensor x = is_channels_last(p_high)
                 ? new_strided(p_high, sizes, to_vector(p_high.strides()), p_high.scalar_type())
                 : new_empty(p_high, sizes, p_high.scalar_type());
  torch::stable::zero_(x);
  return x;
}

// (out, state): state is context, pooled, index, or nothing without `save`.
inline std::tuple<Tensor, Tensors> cem(const Tensor& p_low, const Tensor& p_high,
                                       const Tensor& weight, const Tensor& bias, bool channels_last,
                                       bool save) {
  const Arguments arguments("cem", "p_low", p_low);
  arguments.high("p_high", p_high);
  arguments.shape("weight", weight, {p_low.size(1), p_high.size(1), 1, 1});
  arguments.shape("bias", bias, {p_low.size(1)});
  const auto [context, pooled, index] =
      pooled_context(dense(p_high), as_contiguous(weight), as_contiguous(bias));
  const Tensor out = context_add(in_format(p_low, channels_last), context);
  return {out, save ? Tensors{context, pooled, index} : Tensors{}};
}

// Gradients of p_high, weight and bias; that of p_low is grad_out.
inline std::tuple<Tensor, Tensor, Tensor> cem_backward(const Tensor& grad_out, const Tensor& p_high,
                                                       const Tensor& weight, const Tensor& bias,
                                                       const Tensors& state,
                                                       std::optional<ScalarType> grad_dtype) {
  const Tensor grad_p_high = zero_map(p_high);
  auto [grad_weight, grad_bias] = pooled_context_backward(
      spatial_sum(dense(grad_out)), state[0], state[1], state[2], as_contiguous(weight), grad_p_high);
  ParameterGradients grads(grad_dtype);
  grads.add(grad_weight, weight);
  grads.add(grad_bias, bias);
  const Tensors of_parameters = grads.finish();
  return {grad_p_high, of_parameters[0], of_parameters[1]};
}

EFPN_NAMESPACE_END
