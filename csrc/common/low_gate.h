// The low gate of FBSM, Eq. 6: a convolution of p_low whose epilogue knows the context.
//
// conv3x3(p_low + context) is conv3x3(p_low) plus a constant per channel that depends on which
// border a pixel touches, so the sum is never written (../derivation.md).
#pragma once

#include "high_gate.h"

EFPN_NAMESPACE_BEGIN

struct LowGate {
  Tensor gate;    // M_l
  Tensor border;  // [N, 3, 3, D] by border class: what is added to the convolution
  Tensor hidden;  // what backward needs of the hidden map, in a form of the target's own
};

// What is added to the convolution where there is no context. The library's adds the bias itself,
// before it rounds.
inline Tensor bias_border(const Tensor& p_low, const Tensor& bias, bool fused) {
  Tensor border =
      new_empty(p_low, {p_low.size(0), 3, 3, bias.size(0)}, accumulate_type(p_low.scalar_type()));
  return fused ? torch::stable::copy_(border, bias) : torch::stable::zero_(border);
}

inline LowGate low_gate_forward(const Tensor& p_low, const std::optional<Tensor>& context,
                                const Convolution& conv, const Convolution& gate,
                                bool channels_last, bool save) {
  const bool single = gate.weight.size(0) == 1;
  const bool fused = single ? fuses_convolutions(p_low) : fuses_channel_gates(p_low);
  const Tensor border =
      context ? border_bias(*context, conv.weight, conv.bias, p_low.size(2), p_low.size(3))
              : bias_border(p_low, conv.bias, fused);
  if (fused) {
    if constexpr (kFusedConvolutions) {
      if (single) {
        const auto [m_low, bits] =
            low_gate_conv(p_low, conv.weight, border, gate.weight, gate.bias, save, conv.reduced);
        return {m_low, border, bits};
      }
      const Tensor hidden = low_hidden_conv(p_low, conv.weight, border, conv.reduced);
      return {pointwise_gate(hidden, gate, channels_last), border, hidden};
    }
  }
  const auto bias = context ? std::nullopt : std::optional<Tensor>(conv.bias);
  const Tensor map = convolve(p_low, conv.weight, bias, 1, channels_last);
  if (single) return {low_gate(map, border, gate.weight, gate.bias), border, map};
  const Tensor hidden = border_relu(map, border);
  return {pointwise_gate(hidden, gate, channels_last), border, hidden};
}

// Gradients of p_low and the context (nothing without one), and those of the parameters.
inline std::tuple<Tensor, Tensor, ConvolutionPairGradients> low_gate_gradients(
    const Tensor& grad_gate, const LowGate& saved, const Tensor& p_low,
    const std::optional<Tensor>& context, const Convolution& conv, const Tensor& gate_weight,
    bool channels_last) {
  const bool single = gate_weight.size(0) == 1;
  ConvolutionPairGradients grads;
  Tensor grad_p_low, grad_border, grad_context;
  ConvolutionGradients of_gate;
  if (!single) {
    of_gate =
        pointwise_gate_gradients(grad_gate, saved.gate, saved.hidden, gate_weight, channels_last);
    grads.gate_weight = of_gate.weight, grads.gate_bias = of_gate.bias;
  }
  if (single ? fuses_convolutions(p_low) : fuses_channel_gates(p_low)) {
    if constexpr (kFusedConvolutions) {
      if (single) {
        std::tie(grad_p_low, grads.conv_weight, grad_border, grads.gate_weight, grads.gate_bias) =
            low_gate_conv_backward(grad_gate, saved.gate, saved.hidden, p_low, conv.weight,
                                   saved.border, gate_weight, conv.reduced);
      } else {
        std::tie(grad_p_low, grads.conv_weight, grad_border) =
            low_hidden_conv_backward(of_gate.x, saved.hidden, p_low, conv.weight, conv.reduced);
      }
    }
  } else {
    Tensor grad_conv;
    if (single) {
      std::tie(grad_conv, grad_border, grads.gate_weight, grads.gate_bias) =
          low_gate_backward(grad_gate, saved.gate, saved.hidden, saved.border, gate_weight);
    } else {
      grad_conv = std::get<0>(relu_backward(of_gate.x, saved.hidden));
      grad_border = border_sum(grad_conv);
    }
    const auto of_conv = convolve_backward(grad_conv, p_low, conv.weight, 1, channels_last, false);
    grad_p_low = of_conv.x, grads.conv_weight = of_conv.weight;
  }
  if (context) {
    const auto [of_context, of_weight, of_bias] =
        border_bias_backward(grad_border, *context, conv.weight, p_low.size(2), p_low.size(3));
    grad_context = of_context;
    grads.conv_weight = add(of_weight, grads.conv_weight);
    grads.conv_bias = of_bias;
  } else {
    // A sum in an order of ours: the classes as the pixels of a map.
    const int64_t D = grad_border.size(3), classes = grad_border.numel() / std::max<int64_t>(D, 1);
    grads.conv_bias = spatial_sum(
        reinterpret(grad_border, {1, D, classes, 1}, {std::max<int64_t>(classes * D, 1), 1, D, D}));
  }
  return {grad_p_low, grad_context, grads};
}

EFPN_NAMESPACE_END
