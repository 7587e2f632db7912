// Fuse, separate and refine of FBSM, Eq. 7, 5 and 8: from the two gates to the output.
#pragma once

#include "low_gate.h"

EFPN_NAMESPACE_BEGIN

// relu(conv3x3(x) + bias). Where the library would add the bias in a pass of its own, one pass of
// ours does both, in place.
inline Tensor convolve_relu(const Tensor& x, const Convolution& conv, bool channels_last) {
  if constexpr (kLibraryAddsBias) {
    return aten("aten::relu_", convolve(x, conv.weight, conv.bias, 1, channels_last));
  } else {
    const Tensor out = convolve(x, conv.weight, std::nullopt, 1, channels_last);
    bias_relu_(out, conv.bias);
    return out;
  }
}

// sigmoid(conv3x3(m_high + m_low)): a mask per channel.
inline Tensor channel_mask(const Tensor& m_high, const Tensor& m_low, const Convolution& fuse,
                           bool channels_last) {
  if constexpr (kFusedConvolutions) {
    if (fuses_channel_gates(m_high)) {
      return fuse_conv(m_high, m_low, fuse.weight, fuse.bias, fuse.reduced);
    }
  }
  return aten("aten::sigmoid_",
              convolve(add(m_high, m_low), fuse.weight, fuse.bias, 1, channels_last));
}

// (out, mask).
inline std::tuple<Tensor, Tensor> refine_forward(const Tensor& p_low,
                                                 const std::optional<Tensor>& context,
                                                 const Tensor& m_high, const Tensor& m_low,
                                                 const Convolution& fuse, const Convolution& refine,
                                                 bool channels_last) {
  const bool single = fuse.weight.size(0) == 1;
  if constexpr (kFusedConvolutions) {
    if (fuses_convolutions(p_low)) {
      const Tensor mask = single ? fuse_mask(m_high, m_low, fuse.weight, fuse.bias)
                                 : channel_mask(m_high, m_low, fuse, channels_last);
      return {refine_conv(p_low, context, mask, refine.weight, refine.bias, refine.reduced), mask};
    }
  }
  if (single) {
    const auto [x, mask] = gate_apply(p_low, context, m_high, m_low, fuse.weight, fuse.bias);
    return {convolve_relu(x, refine, channels_last), mask};
  }
  const Tensor mask = channel_mask(m_high, m_low, fuse, channels_last);
  return {convolve_relu(mask_apply(p_low, context, mask), refine, channels_last), mask};
}

// Gradients of the refine convolution's input, weight and bias.
inline std::tuple<Tensor, Tensor, Tensor> refine_gradients(const Tensor& grad_out,
                                                           const Tensor& out, const Tensor& p_low,
                                                           const std::optional<Tensor>& context,
                                                           const Tensor& mask,
                                                           const Convolution& conv,
                                                           bool channels_last) {
  if constexpr (kFusedConvolutions) {
    if (fuses_convolutions(p_low)) {
      return refine_conv_backward(grad_out, out, p_low, context, mask, conv.weight, conv.reduced);
    }
  }
  const Tensor x = mask_apply(p_low, context, mask);
  const auto [grad, grad_bias] = relu_backward(grad_out, out);
  const auto of_conv = convolve_backward(grad, x, conv.weight, 1, channels_last, false);
  return {of_conv.x, of_conv.weight, grad_bias};
}

// Gradients of m_high (and equally of m_low), of the fuse convolution's weight and bias.
inline std::tuple<Tensor, Tensor, Tensor> fuse_gradients(const Tensor& grad_logit,
                                                         const Tensor& m_high, const Tensor& m_low,
                                                         const Convolution& fuse,
                                                         bool channels_last) {
  if (fuse.weight.size(0) == 1) return fuse_backward(grad_logit, m_high, m_low, fuse.weight);
  if constexpr (kFusedConvolutions) {
    if (fuses_channel_gates(grad_logit)) {
      return fuse_conv_backward(grad_logit, m_high, m_low, fuse.weight, fuse.reduced);
    }
  }
  const auto grads =
      convolve_backward(grad_logit, add(m_high, m_low), fuse.weight, 1, channels_last, true);
  return {grads.x, grads.weight, grads.bias};
}

EFPN_NAMESPACE_END
