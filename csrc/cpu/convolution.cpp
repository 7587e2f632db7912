// The operators of the CPU's Winograd convolutions: what is loaded, what becomes of it. Maps and
// parameters are float32, bfloat16 or float16; gates, masks of one channel and the parameters'
// gradients are float32.
#include "convolution.h"

namespace efpn {
namespace {

WinogradInput masked_input(const Tensor& x, const Buffer& context, const Tensor& mask) {
  WinogradInput in = input_of(x);
  in.kind = WinogradInput::masked;
  in.context = context.get();
  in.mask = mask.data_ptr();
  in.mask_is_map = mask.size(1) != 1 || mask.scalar_type() != ScalarType::Float;
  return in;
}

// For a convolution of p_low, whose type says in what precision.
WinogradInput gate_gradient(const Tensor& p_low, int64_t D, const Buffer& grad_logit,
                            const Tensor& kept, const Buffer& scale) {
  WinogradInput in = input_of(p_low);
  in.kind = WinogradInput::gate_gradient;
  in.C = D;
  in.grad_logit = grad_logit.get();
  in.kept = data<uint8_t>(kept);
  in.scale = scale.get();
  return in;
}

Buffer context_of(const Tensor& p_low, const std::optional<Tensor>& context) {
  const std::vector<float> zeros(context ? 0 : p_low.size(0) * p_low.size(1));
  return pad_to_registers(context ? data<float>(*context) : zeros.data(), p_low.size(0),
                          p_low.size(1));
}

// conv3x3 of `grad` with the adjoint weight: a map of the format of `like`.
Tensor input_gradient(const WinogradInput& grad, const Tensor& weight, const Tensor& like,
                      bool reduced) {
  const Tensor result = empty_map_like(like);
  WinogradOutput out = output_like(like, weight.size(1));
  out.map = result.mutable_data_ptr();
  winograd_convolve(grad, adjoint_of(widened(weight)), out, reduced);
  return result;
}

}  // namespace

std::tuple<Tensor, Tensor> low_gate_conv(const Tensor& p_low, const Tensor& weight,
                                         const Tensor& border, const Tensor& gate_weight,
                                         const Tensor& gate_bias, bool keep, bool reduced) {
  WinogradInput in = input_of(p_low);
  // Its signs decide which activations pass a gradient: bfloat16 factors turn so many of them round
  // that the weight's gradient would be off by 1.6 to 1.9 times eager's error.
  in.rounds_factors = false;
  const int64_t D = weight.size(0), pixels = in.N * in.H * in.W;
  // One bit a lane, in bytes of their own where a register has fewer lanes: the same size, enough
  // for all, with every instruction set.
  const int64_t kept_bytes = pixels * ((D + 15) / 16) * 4;
  const Buffer wide_border = padded(border, in.N * 9, D);
  const Buffer wide_gate_weight = padded(gate_weight, 1, D);
  const Tensor gate = empty({in.N, 1, in.H, in.W}, ScalarType::Float);
  const Tensor kept = zeros({keep ? kept_bytes : 0}, ScalarType::Byte);
  WinogradOutput out = output_like(p_low, D);
  out.gate = mutable_data<float>(gate);
  out.border = wide_border.get();
  out.gate_weight = wide_gate_weight.get();
  out.gate_bias = *data<float>(widened(gate_bias));
  if (keep) out.kept = mutable_data<uint8_t>(kept);
  winograd_convolve(in, weight_of(widened(weight)), out, reduced);
  return {gate, kept};
}

namespace {

// A map A of the hidden channels is not kept, only E[d, p] = grad_logit[p] where A[d, p] > 0, else
// 0. As A = conv3x3(p_low, weight) + border is linear in weight and border,
//   grad_gate_weight[d] = sum over p of E A = <weight[d], G[d]> + <border[:, d], S[:, d]>
// with G the gradient of the weight for dy = E, and S the sums of E over the border classes; and
//   grad_weight[d] = gate_weight[d] G[d], grad_border[:, d] = gate_weight[d] S[:, d].
// `grad_weight` and `grad_border` hold G and S on entry.
Tensor scale_by_gate_weight(const Tensor& weight, const Tensor& border, const Tensor& gate_weight,
                            const Tensor& grad_weight, const Tensor& grad_border) {
  const int64_t D = weight.size(0), C = weight.size(1), N = border.size(0);
  const Tensor grad_gate_weight = empty({D}, ScalarType::Float);
  const WinogradWeight w = weight_of(weight), g = weight_of(grad_weight);
  float* const grad = mutable_data<float>(grad_weight);
  float* const sums = mutable_data<float>(grad_border);
  parallel(D, 8 * 9 * (C + N), [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      const float scale = data<float>(gate_weight)[d];
      double total = 0;
      for (int64_t i = 0; i < 9 * C; ++i) {
        const int64_t c = i / 9, y = i / 3 % 3, x = i % 3;
        const int64_t at = d * g.stride_d + c * g.stride_k + y * g.stride_y + x * g.stride_x;
        total += static_cast<double>(grad[at]) *
                 w.data[d * w.stride_d + c * w.stride_k + y * w.stride_y + x * w.stride_x];
        grad[at] *= scale;
      }
      for (int64_t i = d; i < N * 9 * D; i += D) {
        total += static_cast<double>(sums[i]) * data<float>(border)[i];
        sums[i] *= scale;
      }
      mutable_data<float>(grad_gate_weight)[d] = static_cast<float>(total);
    }
  });
  return grad_gate_weight;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> low_gate_conv_backward(
    const Tensor& grad_gate, const Tensor& gate, const Tensor& kept, const Tensor& p_low,
    const Tensor& weight, const Tensor& border, const Tensor& gate_weight, bool reduced) {
  const int64_t D = weight.size(0), pixels = gate.numel();
  const Buffer grad_logit = allocate(pixels);
  double total = 0;
  for (int64_t p = 0; p < pixels; ++p) {
    grad_logit.get()[p] = data<float>(grad_gate)[p] * host::gate_slope(data<float>(gate)[p]);
    total += grad_logit.get()[p];
  }
  const Tensor grad_gate_bias = empty({1}, ScalarType::Float);
  *mutable_data<float>(grad_gate_bias) = static_cast<float>(total);

  const std::vector<float> one(D, 1.0f);
  const Buffer ones = pad_to_registers(one.data(), 1, D);
  const Buffer wide_gate_weight = padded(gate_weight, 1, D);
  const WinogradInput active = gate_gradient(p_low, D, grad_logit, kept, ones);
  const Tensor grad_weight = empty_weight(weight);
  const Tensor grad_border = empty({active.N, 3, 3, D}, ScalarType::Float);
  winograd_weight_gradient(input_of(p_low), active, weight_of(grad_weight),
                           mutable_data<float>(grad_weight), nullptr);
  winograd_border_sums(active, mutable_data<float>(grad_border));
  const Tensor grad_gate_weight =
      scale_by_gate_weight(widened(weight), border, widened(gate_weight), grad_weight, grad_border);
  const Tensor grad_p_low = input_gradient(
      gate_gradient(p_low, D, grad_logit, kept, wide_gate_weight), weight, p_low, reduced);
  return {grad_p_low, grad_weight, grad_border, grad_gate_weight, grad_gate_bias};
}

Tensor refine_conv(const Tensor& p_low, const std::optional<Tensor>& context, const Tensor& mask,
                   const Tensor& weight, const Tensor& bias, bool reduced) {
  const int64_t D = weight.size(0);
  const Buffer wide_context = context_of(p_low, context);
  const Buffer wide_bias = padded(bias, 1, D);
  WinogradOutput out = output_like(p_low, D);
  const Tensor result = empty({out.N, D, out.H, out.W}, p_low.scalar_type(), out.channels_last);
  out.map = result.mutable_data_ptr();
  out.bias = wide_bias.get();
  winograd_convolve(masked_input(p_low, wide_context, mask), weight_of(widened(weight)), out,
                    reduced);
  return result;
}

std::tuple<Tensor, Tensor, Tensor> refine_conv_backward(const Tensor& grad_out, const Tensor& out,
                                                        const Tensor& p_low,
                                                        const std::optional<Tensor>& context,
                                                        const Tensor& mask, const Tensor& weight,
                                                        bool reduced) {
  const Buffer wide_context = context_of(p_low, context);
  const WinogradInput unblocked = input_of(WinogradInput::relu_gradient, grad_out, out);
  const Tensor blocks = empty({blocked_floats(unblocked)}, ScalarType::Float);
  const WinogradInput grad = winograd_block(unblocked, mutable_data<float>(blocks));
  const Tensor grad_weight = empty_weight(weight);
  const Tensor grad_bias = empty({weight.size(0)}, ScalarType::Float);
  winograd_weight_gradient(masked_input(p_low, wide_context, mask), grad, weight_of(grad_weight),
                           mutable_data<float>(grad_weight), mutable_data<float>(grad_bias));
  return {input_gradient(grad, weight, p_low, reduced), grad_weight, grad_bias};
}

// ---- a gate per channel, float32

// conv3x3 of p_low before a gate per channel.
Tensor low_hidden_conv(const Tensor& p_low, const Tensor& weight, const Tensor& border,
                       bool reduced) {
  const int64_t D = weight.size(0);
  const Buffer wide_border = pad_to_registers(data<float>(border), p_low.size(0) * 9, D);
  WinogradOutput out = output_like(p_low, D);
  const Tensor hidden = empty({out.N, D, out.H, out.W}, ScalarType::Float, out.channels_last);
  out.map = mutable_data<float>(hidden);
  out.border = wide_border.get();
  winograd_convolve(input_of(p_low), weight_of(weight), out, reduced);
  return hidden;
}

Tensor border_sum(const Tensor& grad);
std::tuple<Tensor, Tensor> relu_backward(const Tensor& grad_out, const Tensor& out);

std::tuple<Tensor, Tensor, Tensor> low_hidden_conv_backward(const Tensor& grad_hidden,
                                                            const Tensor& hidden,
                                                            const Tensor& p_low,
                                                            const Tensor& weight, bool reduced) {
  const Tensor grad_conv = std::get<0>(relu_backward(grad_hidden, hidden));
  const WinogradInput grad = input_of(grad_conv);
  const Tensor grad_weight = empty_weight(weight);
  winograd_weight_gradient(input_of(p_low), grad, weight_of(grad_weight),
                           mutable_data<float>(grad_weight), nullptr);
  return {input_gradient(grad, weight, p_low, reduced), grad_weight, border_sum(grad_conv)};
}

Tensor fuse_conv(const Tensor& m_high, const Tensor& m_low, const Tensor& weight,
                 const Tensor& bias, bool reduced) {
  const int64_t G = weight.size(0);
  const Buffer wide_bias = pad_to_registers(data<float>(bias), 1, G);
  WinogradOutput out = output_like(m_low, G);
  const Tensor mask = empty({out.N, G, out.H, out.W}, ScalarType::Float, out.channels_last);
  out.map = mutable_data<float>(mask);
  out.bias = wide_bias.get();
  out.sigmoid = true;
  winograd_convolve(input_of(WinogradInput::sum, m_high, m_low), weight_of(weight), out, reduced);
  return mask;
}

std::tuple<Tensor, Tensor, Tensor> fuse_conv_backward(const Tensor& grad_logit,
                                                      const Tensor& m_high, const Tensor& m_low,
                                                      const Tensor& weight, bool reduced) {
  const WinogradInput grad = input_of(grad_logit);
  const Tensor grad_weight = empty_weight(weight);
  const Tensor grad_bias = empty({weight.size(0)}, ScalarType::Float);
  winograd_weight_gradient(input_of(WinogradInput::sum, m_high, m_low), grad,
                           weight_of(grad_weight), mutable_data<float>(grad_weight),
                           mutable_data<float>(grad_bias));
  return {input_gradient(grad, weight, m_low, reduced), grad_weight, grad_bias};
}

}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("low_gate_conv", TORCH_BOX(&efpn::low_gate_conv));
  m.impl("low_gate_conv_backward", TORCH_BOX(&efpn::low_gate_conv_backward));
  m.impl("low_hidden_conv", TORCH_BOX(&efpn::low_hidden_conv));
  m.impl("low_hidden_conv_backward", TORCH_BOX(&efpn::low_hidden_conv_backward));
  m.impl("fuse_conv", TORCH_BOX(&efpn::fuse_conv));
  m.impl("fuse_conv_backward", TORCH_BOX(&efpn::fuse_conv_backward));
  m.impl("refine_conv", TORCH_BOX(&efpn::refine_conv));
  m.impl("refine_conv_backward", TORCH_BOX(&efpn::refine_conv_backward));
}
