// The kernels of a target, as efpn_kernels/ops/kernels.py specifies them.
#pragma once

#include <optional>
#include <tuple>

EFPN_NAMESPACE_BEGIN

// ---- cem ---------------------------------------------------------------------------------------
std::tuple<Tensor, Tensor, Tensor> pooled_context(const Tensor& p_high, const Tensor& weight,
                                                  const Tensor& bias);
std::tuple<Tensor, Tensor> pooled_context_backward(const Tensor& grad_context,
                                                   const Tensor& context, const Tensor& pooled,
                                                   const Tensor& index, const Tensor& weight,
                                                   const Tensor& grad_p_high);
Tensor context_add(const Tensor& p_low, const Tensor& context);
Tensor spatial_sum(const Tensor& x);

// ---- high gate ---------------------------------------------------------------------------------
Tensor taps(const Tensor& p_high, const Tensor& weight);
std::tuple<Tensor, Tensor> taps_backward(const Tensor& grad_taps, const Tensor& p_high,
                                         const Tensor& weight);
Tensor upsampled_gate(const Tensor& taps, const Tensor& bias, const Tensor& gate_weight,
                      const Tensor& gate_bias, int64_t H, int64_t W);
std::tuple<Tensor, Tensor, Tensor, Tensor> upsampled_gate_backward(const Tensor& grad_gate,
                                                                   const Tensor& gate,
                                                                   const Tensor& taps,
                                                                   const Tensor& bias,
                                                                   const Tensor& gate_weight);
Tensor upsampled_relu(const Tensor& taps, const Tensor& bias, int64_t H, int64_t W,
                      bool channels_last);
std::tuple<Tensor, Tensor> upsampled_relu_backward(const Tensor& grad, const Tensor& taps,
                                                   const Tensor& bias);

// ---- low gate ----------------------------------------------------------------------------------
Tensor border_bias(const Tensor& context, const Tensor& weight, const Tensor& bias, int64_t H,
                   int64_t W);
std::tuple<Tensor, Tensor, Tensor> border_bias_backward(const Tensor& grad_border,
                                                        const Tensor& context, const Tensor& weight,
                                                        int64_t H, int64_t W);
Tensor low_gate(const Tensor& conv, const Tensor& border, const Tensor& gate_weight,
                const Tensor& gate_bias);
std::tuple<Tensor, Tensor, Tensor, Tensor> low_gate_backward(const Tensor& grad_gate,
                                                             const Tensor& gate, const Tensor& conv,
                                                             const Tensor& border,
                                                             const Tensor& gate_weight);
Tensor border_relu(const Tensor& conv, const Tensor& border);
Tensor border_sum(const Tensor& grad);

// ---- refine ------------------------------------------------------------------------------------
std::tuple<Tensor, Tensor> gate_apply(const Tensor& p_low, const std::optional<Tensor>& context,
                                      const Tensor& m_high, const Tensor& m_low,
                                      const Tensor& fuse_weight, const Tensor& fuse_bias);
Tensor mask_apply(const Tensor& p_low, const std::optional<Tensor>& context, const Tensor& mask);
std::tuple<Tensor, Tensor> mask_apply_backward(const Tensor& grad_x, const Tensor& p_low,
                                               const std::optional<Tensor>& context,
                                               const Tensor& mask);
void mask_merge_(const Tensor& grad_p_low, const Tensor& grad_x, const Tensor& mask);
std::tuple<Tensor, Tensor, Tensor> fuse_backward(const Tensor& grad_logit, const Tensor& m_high,
                                                 const Tensor& m_low, const Tensor& fuse_weight);
std::tuple<Tensor, Tensor> relu_backward(const Tensor& grad_out, const Tensor& out);
void bias_relu_(const Tensor& x, const Tensor& bias);

// ---- convolutions fused with what stands around them: where kFusedConvolutions is true
// ---------------
Tensor fuse_mask(const Tensor& m_high, const Tensor& m_low, const Tensor& weight,
                 const Tensor& bias);
std::tuple<Tensor, Tensor> low_gate_conv(const Tensor& p_low, const Tensor& weight,
                                         const Tensor& border, const Tensor& gate_weight,
                                         const Tensor& gate_bias, bool keep, bool reduced);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> low_gate_conv_backward(
    const Tensor& grad_gate, const Tensor& gate, const Tensor& kept, const Tensor& p_low,
    const Tensor& weight, const Tensor& border, const Tensor& gate_weight, bool reduced);
Tensor low_hidden_conv(const Tensor& p_low, const Tensor& weight, const Tensor& border,
                       bool reduced);
std::tuple<Tensor, Tensor, Tensor> low_hidden_conv_backward(const Tensor& grad_hidden,
                                                            const Tensor& hidden,
                                                            const Tensor& p_low,
                                                            const Tensor& weight, bool reduced);
Tensor pointwise_gate_conv(const Tensor& hidden, const Tensor& weight, const Tensor& bias,
                           bool channels_last);
std::tuple<Tensor, Tensor, Tensor> pointwise_gate_conv_backward(const Tensor& grad_gate,
                                                                const Tensor& gate,
                                                                const Tensor& hidden,
                                                                const Tensor& weight);
Tensor fuse_conv(const Tensor& m_high, const Tensor& m_low, const Tensor& weight,
                 const Tensor& bias, bool reduced);
std::tuple<Tensor, Tensor, Tensor> fuse_conv_backward(const Tensor& grad_logit,
                                                      const Tensor& m_high, const Tensor& m_low,
                                                      const Tensor& weight, bool reduced);
Tensor refine_conv(const Tensor& p_low, const std::optional<Tensor>& context, const Tensor& mask,
                   const Tensor& weight, const Tensor& bias, bool reduced);
std::tuple<Tensor, Tensor, Tensor> refine_conv_backward(const Tensor& grad_out, const Tensor& out,
                                                        const Tensor& p_low,
                                                        const std::optional<Tensor>& context,
                                                        const Tensor& mask, const Tensor& weight,
                                                        bool reduced);

EFPN_NAMESPACE_END
