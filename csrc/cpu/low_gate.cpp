// The low gate on the CPU: border constant, ReLU, 1x1 gate and sigmoid in one pass over the
// convolution's output, and the same in reverse.
//
// Bytes: forward reads conv once; backward reads it and writes grad_conv. Operations: three per
// element forward, six backward. Memory's time is all that is allowed.
//
// Measured (float32, 256 channels, 200 x 200, one Zen 4 thread with AVX-512, contiguous /
// channels_last, ms): low_gate 6.1 / 2.1, low_gate_backward 12 / 8.9 (torch's p + q: 21 / 21);
// contiguous, border_bias 0.1, border_bias_backward 0.3.
#include "strips.h"

namespace efpn {

template <class S>
struct LowGateArguments {
  Map map;
  const S* conv;
  const Acc<S>* border;       // [N, 3, 3, D]
  const Acc<S>* gate_weight;  // [D]
  Acc<S> gate_bias;
  Acc<S>* gate;
  const Acc<S>* grad_logit;  // a gate
  S* grad_conv;
};

template <class S>
struct BorderArguments {
  int64_t N, C, D, H, W;
  const S* weight;  // [D, C, 3, 3]
  const Acc<S>* bias;
  bool channels_last;

  int64_t offset(int64_t d, int64_t c, int k) const {
    return channels_last ? (d * 9 + k) * C + c : (d * C + c) * 9 + k;
  }
};

}  // namespace efpn

#define EFPN_KERNELS "low_gate_kernels.h"
#include "foreach_isa.h"

namespace efpn {

Tensor low_gate(const Tensor& conv, const Tensor& border, const Tensor& gate_weight,
                const Tensor& gate_bias) {
  const Map m(conv);
  const Tensor gate = empty({m.N, 1, m.H, m.W}, border.scalar_type());
  dispatch(conv.scalar_type(), "low_gate", [&](auto zero) {
    using S = decltype(zero);
    const auto weight = accumulated<S>(gate_weight);
    const LowGateArguments<S> a{m,
                                data<S>(conv),
                                data<Acc<S>>(border),
                                weight.data(),
                                accumulated<S>(gate_bias)[0],
                                mutable_data<Acc<S>>(gate),
                                nullptr,
                                nullptr};
    Strips(m, true).parallel_for_each(
        [&](int64_t, const Strip& strip) { EFPN_CALL(low_gate_strip<S>, a, strip); });
  });
  return gate;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> low_gate_backward(const Tensor& grad_gate,
                                                             const Tensor& gate, const Tensor& conv,
                                                             const Tensor& border,
                                                             const Tensor& gate_weight) {
  const Map m(conv);
  const ScalarType acc = border.scalar_type();
  const Tensor grad_conv = empty_map_like(conv);
  Tensor grad_border, grad_weight, grad_bias;
  dispatch(conv.scalar_type(), "low_gate_backward", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    const GateGradient<A> logit(grad_gate, gate);
    const auto weight = accumulated<S>(gate_weight);
    const LowGateArguments<S> a{m, data<S>(conv), data<A>(border),     weight.data(),
                                0, nullptr,       logit.values.data(), mutable_data<S>(grad_conv)};
    const Strips strips(m);
    StripSums sums(strips, 9 * 2 * m.C);
    strips.parallel_for_each([&](int64_t i, const Strip& strip) {
      EFPN_CALL(low_gate_backward_strip<S>, a, strip, sums[i]);
    });
    const std::vector<double> total = sums.per_image();  // [N, 9, 2, D]
    std::vector<double> border_total(m.N * 9 * m.C), weight_total(m.C);
    for (int64_t i = 0; i < m.N * 9; ++i) {
      for (int64_t d = 0; d < m.C; ++d) {
        border_total[i * m.C + d] = total[2 * i * m.C + d];
        weight_total[d] += total[(2 * i + 1) * m.C + d];
      }
    }
    grad_border = tensor_of<A>(border_total.data(), {m.N, 3, 3, m.C}, acc);
    grad_weight = tensor_of<A>(weight_total.data(), {m.C}, acc);
    grad_bias = tensor_of<A>(&logit.sum, {1}, acc);
  });
  return {grad_conv, grad_border, grad_weight, grad_bias};
}

Tensor border_relu(const Tensor& conv, const Tensor& border) {
  const Map m(conv);
  const Tensor out = empty_map_like(conv);
  dispatch(conv.scalar_type(), "border_relu", [&](auto zero) {
    using S = decltype(zero);
    Strips(m).parallel_for_each([&](int64_t, const Strip& strip) {
      EFPN_CALL(border_relu_strip<S>, m, data<S>(conv), data<Acc<S>>(border), mutable_data<S>(out),
                strip);
    });
  });
  return out;
}

Tensor border_sum(const Tensor& grad) {
  const Map m(grad);
  const Strips strips(m);
  StripSums sums(strips, 9 * m.C);
  Tensor out;
  dispatch(grad.scalar_type(), "border_sum", [&](auto zero) {
    using S = decltype(zero);
    strips.parallel_for_each([&](int64_t i, const Strip& strip) {
      EFPN_CALL(border_sum_strip<S>, m, data<S>(grad), strip, sums[i]);
    });
    out = tensor_of<Acc<S>>(sums.per_image().data(), {m.N, 3, 3, m.C},
                            accumulate_type(grad.scalar_type()));
  });
  return out;
}

namespace {

template <class S>
BorderArguments<S> border_arguments(const Tensor& context, const Tensor& weight, const Acc<S>* bias,
                                    int64_t H, int64_t W) {
  return {context.size(0), weight.size(1), weight.size(0),         H, W,
          data<S>(weight), bias,           !weight.is_contiguous()};
}

}  // namespace

Tensor border_bias(const Tensor& context, const Tensor& weight, const Tensor& bias, int64_t H,
                   int64_t W) {
  const Tensor border = empty({context.size(0), 3, 3, weight.size(0)}, context.scalar_type());
  dispatch(weight.scalar_type(), "border_bias", [&](auto zero) {
    using S = decltype(zero);
    const auto bias_values = accumulated<S>(bias);
    const auto a = border_arguments<S>(context, weight, bias_values.data(), H, W);
    for (int64_t n = 0; n < a.N; ++n) {
      parallel(a.D, 4 * 9 * a.C, [&](int64_t begin, int64_t end) {
        EFPN_CALL(border_bias_channels<S>, a, data<Acc<S>>(context) + n * a.C,
                  mutable_data<Acc<S>>(border) + n * 9 * a.D, begin, end);
      });
    }
  });
  return border;
}

std::tuple<Tensor, Tensor, Tensor> border_bias_backward(const Tensor& grad_border,
                                                        const Tensor& context, const Tensor& weight,
                                                        int64_t H, int64_t W) {
  const ScalarType acc = context.scalar_type();
  const int64_t N = context.size(0), C = weight.size(1), D = weight.size(0);
  const Tensor grad_context = empty({N, C}, acc);
  const Tensor grad_weight = zeros({D, C, 3, 3}, acc, !weight.is_contiguous());
  Tensor grad_bias;
  dispatch(weight.scalar_type(), "border_bias_backward", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    const auto a = border_arguments<S>(context, weight, nullptr, H, W);
    std::vector<A> grad_taps(N * 9 * D);
    std::vector<double> grad_bias_total(D);
    for (int64_t n = 0; n < N; ++n) {
      const A* of_image = data<A>(grad_border) + n * 9 * D;
      EFPN_CALL(border_taps_backward<A>, of_image, D, H, W, grad_taps.data() + n * 9 * D);
      for (int64_t i = 0; i < 9 * D; ++i) grad_bias_total[i % D] += of_image[i];
    }
    parallel(C, 8 * 9 * N * D, [&](int64_t begin, int64_t end) {
      EFPN_CALL(border_bias_backward_channels<S>, a, data<A>(context), grad_taps.data(),
                mutable_data<A>(grad_context), mutable_data<A>(grad_weight), begin, end);
    });
    grad_bias = tensor_of<A>(grad_bias_total.data(), {D}, acc);
  });
  return {grad_context, grad_weight, grad_bias};
}

}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("low_gate", TORCH_BOX(&efpn::low_gate));
  m.impl("low_gate_backward", TORCH_BOX(&efpn::low_gate_backward));
  m.impl("border_relu", TORCH_BOX(&efpn::border_relu));
  m.impl("border_sum", TORCH_BOX(&efpn::border_sum));
  m.impl("border_bias", TORCH_BOX(&efpn::border_bias));
  m.impl("border_bias_backward", TORCH_BOX(&efpn::border_bias_backward));
}
