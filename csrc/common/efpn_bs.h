// efpn_bs: CEM and FBSM as one operator, Fig. 3; FBSM alone where there is no projection.
//
// Forward, for a mask of one channel:
//
//   context  = relu(W_p maxpool(p_high) + b_p)                      one small kernel
//   m_high   = gate of the upsampled taps of p_high                 one product, one kernel
//   m_low    = gate of conv3x3(p_low) + border(context)             one convolution, one pass
//   x, mask  = (p_low + context) * sigmoid(fuse(m_high + m_low))    one pass
//   out      = relu(conv3x3(x))                                     one convolution
//
// What is saved for backward besides inputs and output: the gates, the context and the border's
// constants, and of the hidden map what the target's low gate needs. A p_low that is not dense is
// copied in both passes: to keep the copy would be to keep another map.
//
// The formats of p_low and of p_high are decided once, here, and handed down: a map of one channel
// or of one pixel is contiguous and channels_last at once, and says nothing of the others.
#pragma once

#include "cem.h"
#include "refine.h"

EFPN_NAMESPACE_BEGIN

// The arguments of a call, checked and dense.
struct Block {
  Tensor p_low, p_high;
  std::optional<Convolution> project;
  Convolution high_conv, high_gate, low_conv, low_gate, fuse, refine;
  bool channels_last;

  // The maps and the fourteen parameters as the operator takes them.
  Block(const Tensor& low, const Tensor& high, const std::array<std::optional<Tensor>, 14>& p,
        bool wanted_channels_last)
      : high_conv{*p[2], *p[3]},
        high_gate{*p[4], *p[5]},
        low_conv{*p[6], *p[7]},
        low_gate{*p[8], *p[9]},
        fuse{*p[10], *p[11]},
        refine{*p[12], *p[13]} {
    if (p[0]) {
      STD_TORCH_CHECK(p[1].has_value(), "efpn_bs: project_bias: expected with project_weight");
      project = Convolution{*p[0], *p[1]};
    }
    check(low, high);
    p_low = in_format(low, wanted_channels_last);
    p_high = dense(high);
    channels_last = wanted_channels_last && !p_low.is_contiguous();
    if (project) make_dense(*project);
    for (Convolution* conv : {&high_conv, &high_gate, &low_conv, &low_gate, &fuse, &refine}) {
      make_dense(*conv);
    }
  }

 private:
  static void make_dense(Convolution& conv) {
    conv.weight = dense(conv.weight);
    conv.bias = as_contiguous(conv.bias);
  }

  void check(const Tensor& low, const Tensor& high) const {
    const Arguments arguments("efpn_bs", "p_low", low);
    arguments.high("p_high", high);
    STD_TORCH_CHECK(low.size(2) > 0 && low.size(3) > 0,
                    "efpn_bs: p_low: expected a height and width of at least 1, got shape ",
                    arguments.shape_of(low));
    const int64_t C = low.size(1), C_high = high.size(1);
    const bool is_weight = low_gate.weight.dim() == 4;
    const int64_t G = is_weight ? low_gate.weight.size(0) : 0;
    const int64_t D = is_weight ? low_gate.weight.size(1) : 0;
    STD_TORCH_CHECK(G == 1 || G == C, "efpn_bs: low_gate_weight: expected shape [G, D, 1, 1] with ",
                    "G = 1 or the channels of p_low (", C, "), got ",
                    arguments.shape_of(low_gate.weight));
    const auto conv = [&](const char* weight, const char* bias, const Convolution& x, int64_t out,
                          int64_t in, int64_t size) {
      arguments.shape(weight, x.weight, {out, in, size, size});
      arguments.shape(bias, x.bias, {out});
    };
    if (project) conv("project_weight", "project_bias", *project, C, C_high, 1);
    conv("high_conv_weight", "high_conv_bias", high_conv, D, C_high, 3);
    conv("high_gate_weight", "high_gate_bias", high_gate, G, D, 1);
    conv("low_conv_weight", "low_conv_bias", low_conv, D, C, 3);
    conv("low_gate_weight", "low_gate_bias", low_gate, G, D, 1);
    conv("fuse_weight", "fuse_bias", fuse, G, G, 3);
    conv("refine_weight", "refine_bias", refine, C, C, 3);
  }
};

// (out, state): state is, of the projection where there is one, context, pooled, index; then
// m_high, m_low, mask, border, hidden. Nothing without `save`.
inline std::tuple<Tensor, Tensors> block_forward(const Block& b, bool save) {
  Tensors state;
  std::optional<Tensor> context;
  if (b.project) {
    const auto [values, pooled, index] =
        pooled_context(b.p_high, b.project->weight, b.project->bias);
    context = values;
    state = {values, pooled, index};
  }
  const Tensor m_high = high_gate_forward(b.p_high, b.high_conv, b.high_gate, b.p_low.size(2),
                                          b.p_low.size(3), b.channels_last);
  const LowGate low =
      low_gate_forward(b.p_low, context, b.low_conv, b.low_gate, b.channels_last, save);
  const auto [out, mask] =
      refine_forward(b.p_low, context, m_high, low.gate, b.fuse, b.refine, b.channels_last);
  if (!save) return {out, Tensors{}};
  state.insert(state.end(), {m_high, low.gate, mask, low.border, low.hidden});
  return {out, state};
}

// Gradients of p_low, p_high and the parameters: of the projection where there is one, then of the
// others. `parameters` are as they came, not dense: their gradients have their strides.
inline Tensors block_backward(const Block& b, const Tensor& grad_out, const Tensor& out,
                              const Tensors& state,
                              const std::array<std::optional<Tensor>, 14>& parameters,
                              std::optional<ScalarType> grad_dtype) {
  const size_t first = b.project ? 3 : 0;
  STD_TORCH_CHECK(state.size() == first + 5, "efpn_bs_backward: state: expected ", first + 5,
                  " tensors, those of efpn_bs with save=True, got ", state.size());
  const Tensor &m_high = state[first], &mask = state[first + 2];
  const LowGate low{state[first + 1], state[first + 3], state[first + 4]};
  std::optional<Tensor> context;
  if (b.project) context = state[0];

  const auto [grad_x, grad_refine_weight, grad_refine_bias] =
      refine_gradients(in_format(grad_out, b.channels_last), in_format(out, b.channels_last),
                       b.p_low, context, mask, b.refine, b.channels_last);
  const auto [grad_logit, grad_context] = mask_apply_backward(grad_x, b.p_low, context, mask);
  const auto [grad_gate, grad_fuse_weight, grad_fuse_bias] =
      fuse_gradients(grad_logit, m_high, low.gate, b.fuse, b.channels_last);
  const auto [grad_p_low, grad_context_of_gate, of_low] = low_gate_gradients(
      grad_gate, low, b.p_low, context, b.low_conv, b.low_gate.weight, b.channels_last);
  mask_merge_(grad_p_low, grad_x, mask);
  const auto [grad_p_high, of_high] =
      high_gate_gradients(grad_gate, m_high, b.p_high, b.high_conv, b.high_gate, b.channels_last);

  ParameterGradients grads(grad_dtype);
  if (b.project) {
    const auto [grad_weight, grad_bias] =
        pooled_context_backward(add(grad_context, grad_context_of_gate), *context, state[1],
                                state[2], b.project->weight, grad_p_high);
    grads.add(grad_weight, *parameters[0]);
    grads.add(grad_bias, *parameters[1]);
  }
  const Tensor* const of_fbsm[] = {&of_high.conv_weight, &of_high.conv_bias,  &of_high.gate_weight,
                                   &of_high.gate_bias,   &of_low.conv_weight, &of_low.conv_bias,
                                   &of_low.gate_weight,  &of_low.gate_bias,   &grad_fuse_weight,
                                   &grad_fuse_bias,      &grad_refine_weight, &grad_refine_bias};
  for (size_t i = 0; i < 12; ++i) grads.add(*of_fbsm[i], *parameters[i + 2]);
  Tensors all = {grad_p_low, grad_p_high};
  const Tensors of_parameters = grads.finish();
  all.insert(all.end(), of_parameters.begin(), of_parameters.end());
  return all;
}

// ---- the operators
// -----------------------------------------------------------------------------------

inline std::tuple<Tensor, Tensors> efpn_bs(
    const Tensor& p_low, const Tensor& p_high, const std::optional<Tensor>& project_weight,
    const std::optional<Tensor>& project_bias, const Tensor& high_conv_weight,
    const Tensor& high_conv_bias, const Tensor& high_gate_weight, const Tensor& high_gate_bias,
    const Tensor& low_conv_weight, const Tensor& low_conv_bias, const Tensor& low_gate_weight,
    const Tensor& low_gate_bias, const Tensor& fuse_weight, const Tensor& fuse_bias,
    const Tensor& refine_weight, const Tensor& refine_bias, bool channels_last, bool save,
    bool reduced) {
  Block block(p_low, p_high,
              {project_weight, project_bias, high_conv_weight, high_conv_bias, high_gate_weight,
               high_gate_bias, low_conv_weight, low_conv_bias, low_gate_weight, low_gate_bias,
               fuse_weight, fuse_bias, refine_weight, refine_bias},
              channels_last);
  block.low_conv.reduced = block.fuse.reduced = block.refine.reduced = reduced;
  return block_forward(block, save);
}

inline Tensors efpn_bs_backward(
    const Tensor& grad_out, const Tensor& out, const Tensor& p_low, const Tensor& p_high,
    const std::optional<Tensor>& project_weight, const std::optional<Tensor>& project_bias,
    const Tensor& high_conv_weight, const Tensor& high_conv_bias, const Tensor& high_gate_weight,
    const Tensor& high_gate_bias, const Tensor& low_conv_weight, const Tensor& low_conv_bias,
    const Tensor& low_gate_weight, const Tensor& low_gate_bias, const Tensor& fuse_weight,
    const Tensor& fuse_bias, const Tensor& refine_weight, const Tensor& refine_bias,
    const Tensors& state, bool channels_last, std::optional<ScalarType> grad_dtype, bool reduced) {
  const std::array<std::optional<Tensor>, 14> parameters = {
      project_weight, project_bias,    high_conv_weight, high_conv_bias,  high_gate_weight,
      high_gate_bias, low_conv_weight, low_conv_bias,    low_gate_weight, low_gate_bias,
      fuse_weight,    fuse_bias,       refine_weight,    refine_bias};
  Block block(p_low, p_high, parameters, channels_last);
  block.low_conv.reduced = block.fuse.reduced = block.refine.reduced = reduced;
  const Arguments arguments("efpn_bs_backward", "p_low", p_low);
  arguments.shape("grad_out", grad_out, to_vector(p_low.sizes()));
  arguments.shape("out", out, to_vector(p_low.sizes()));
  return block_backward(block, grad_out, out, state, parameters, grad_dtype);
}

EFPN_NAMESPACE_END
