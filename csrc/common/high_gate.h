// The high gate of FBSM, Eq. 6, at the low resolution: products around the upsampling kernels.
//
// The upsampling commutes with the channel mixing, so the 3x3 convolution of the upsampled map is
// nine 1x1 products at the low resolution, then an interpolation of the nine tap maps
// (../derivation.md).
#pragma once

#include "aten.h"
#include "kernels.h"

EFPN_NAMESPACE_BEGIN

// The parameters of a convolution: weight contiguous or channels_last, bias contiguous.
struct Convolution {
  Tensor weight, bias;
  bool reduced = false;  // whether the target may take the larger error of a faster algorithm
};

struct ConvolutionPairGradients {
  Tensor conv_weight, conv_bias, gate_weight, gate_bias;
};

// Whether those of a mask per channel are the target's own, too: the gates' and the fuse
// convolution.
inline bool fuses_channel_gates(const Tensor& map) {
  return fuses_convolutions(map) && map.scalar_type() == ScalarType::Float;
}

// sigmoid(conv1x1(hidden)), a gate per channel, and its backward.
inline Tensor pointwise_gate(const Tensor& hidden, const Convolution& gate, bool channels_last) {
  if constexpr (kFusedConvolutions) {
    if (fuses_channel_gates(hidden)) {
      return pointwise_gate_conv(hidden, gate.weight, gate.bias, channels_last);
    }
  }
  return aten("aten::sigmoid_", convolve(hidden, gate.weight, gate.bias, 0, channels_last));
}
inline ConvolutionGradients pointwise_gate_gradients(const Tensor& grad_gate, const Tensor& gate,
                                                     const Tensor& hidden, const Tensor& weight,
                                                     bool channels_last) {
  if constexpr (kFusedConvolutions) {
    if (fuses_channel_gates(hidden)) {
      const auto [grad_hidden, grad_weight, grad_bias] =
          pointwise_gate_conv_backward(grad_gate, gate, hidden, weight);
      return {grad_hidden, grad_weight, grad_bias};
    }
  }
  const Tensor grad_logit = aten("aten::sigmoid_backward", grad_gate, gate);
  return convolve_backward(grad_logit, hidden, weight, 0, channels_last, true);
}

// M_h: a gate [N, 1, H, W], or a map [N, G, H, W] for a gate per channel.
inline Tensor high_gate_forward(const Tensor& p_high, const Convolution& conv,
                                const Convolution& gate, int64_t H, int64_t W, bool channels_last) {
  const Tensor v = taps(p_high, conv.weight);
  if (gate.weight.size(0) == 1) return upsampled_gate(v, conv.bias, gate.weight, gate.bias, H, W);
  return pointwise_gate(upsampled_relu(v, conv.bias, H, W, channels_last), gate, channels_last);
}

// The gradient of p_high, and those of the parameters.
inline std::tuple<Tensor, ConvolutionPairGradients> high_gate_gradients(
    const Tensor& grad_gate, const Tensor& m_high, const Tensor& p_high, const Convolution& conv,
    const Convolution& gate, bool channels_last) {
  const Tensor v = taps(p_high, conv.weight);
  ConvolutionPairGradients grads;
  Tensor grad_taps;
  if (gate.weight.size(0) == 1) {
    std::tie(grad_taps, grads.conv_bias, grads.gate_weight, grads.gate_bias) =
        upsampled_gate_backward(grad_gate, m_high, v, conv.bias, gate.weight);
  } else {
    const Tensor hidden =
        upsampled_relu(v, conv.bias, m_high.size(2), m_high.size(3), channels_last);
    const auto of_gate =
        pointwise_gate_gradients(grad_gate, m_high, hidden, gate.weight, channels_last);
    grads.gate_weight = of_gate.weight, grads.gate_bias = of_gate.bias;
    std::tie(grad_taps, grads.conv_bias) = upsampled_relu_backward(of_gate.x, v, conv.bias);
  }
  Tensor grad_p_high;
  std::tie(grad_p_high, grads.conv_weight) = taps_backward(grad_taps, p_high, conv.weight);
  return {grad_p_high, grads};
}

EFPN_NAMESPACE_END
