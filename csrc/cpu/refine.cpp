// Fuse, separate and refine on the CPU, Eq. 5, 7 and 8: the passes between the convolutions.
//
// Bytes: gate_apply reads p_low once and writes x once; its backward reads grad_x and p_low, the
// merge reads grad_x and updates grad_p_low; relu_backward reads two maps and writes one.
// Operations: a few per element; the 3x3 convolution of the one-channel masks does not count beside
// C channels. Memory's time is all that is allowed.
//
// Measured (float32, 256 channels, 200 x 200, one Zen 4 thread with AVX-512, contiguous /
// channels_last, ms): gate_apply 8.3 / 6.4 (torch's p + q: 21 / 21), mask_apply_backward 6.5 / 3.3,
// mask_merge_ 4.3 / 3.5, fuse_backward 0.1, relu_backward 9.3 / 10.
#include "strips.h"

namespace efpn {

template <class S>
struct Separation {
  Map map;
  const S* p_low;
  const Acc<S>* context;    // [N, C]
  const Acc<S>* mask_gate;  // one of the two masks, the other is null
  const S* mask_map;
  const S* grad_x;
  S* out;
  Acc<S>* grad_logit;  // a gate
};

// Images of one channel [N, H, W], each in a frame of one zero pixel; rows end in zeros that the
// widest vector may read.
template <class A>
struct PaddedImages {
  int64_t H, W, stride;
  std::vector<A> values;

  explicit PaddedImages(const Tensor& gate)
      : H(gate.size(2)),
        W(gate.size(3)),
        stride(W + 2 + 64 / sizeof(A)),
        values(gate.size(0) * (H + 2) * stride + 64 / sizeof(A)) {
    add(gate);
  }
  void add(const Tensor& gate) {
    const A* from = data<A>(gate);
    for (int64_t i = 0; i < gate.size(0) * H; ++i) {
      A* to = values.data() + (i / H * (H + 2) + i % H + 1) * stride + 1;
      for (int64_t x = 0; x < W; ++x) to[x] += from[i * W + x];
    }
  }
  // Row y - 1 of the image, from column -1 on.
  const A* row(int64_t image, int64_t y) const {
    return values.data() + (image * (H + 2) + y) * stride;
  }
};

}  // namespace efpn

#define EFPN_KERNELS "refine_kernels.h"
#include "foreach_isa.h"

namespace efpn {
namespace {

bool is_gate(const Tensor& mask, const Tensor& map) {
  return mask.size(1) == 1 && mask.scalar_type() == accumulate_type(map.scalar_type());
}

template <class S>
Separation<S> separation(const Tensor& map, const Tensor& mask) {
  Separation<S> a{Map(map), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  if (is_gate(mask, map)) {
    a.mask_gate = data<Acc<S>>(mask);
  } else {
    a.mask_map = data<S>(mask);
  }
  return a;
}

// The context [N, C], zeros where there is none.
template <class S>
struct Context {
  std::vector<Acc<S>> zeros;
  const Acc<S>* values;

  Context(const std::optional<Tensor>& context, const Map& m)
      : zeros(context ? 0 : m.N * m.C), values(context ? data<Acc<S>>(*context) : zeros.data()) {}
};

}  // namespace

Tensor mask_apply(const Tensor& p_low, const std::optional<Tensor>& context, const Tensor& mask) {
  const Map m(p_low);
  const Tensor x = empty_map_like(p_low);
  dispatch(p_low.scalar_type(), "mask_apply", [&](auto zero) {
    using S = decltype(zero);
    const Context<S> context_values(context, m);
    Separation<S> a = separation<S>(p_low, mask);
    a.p_low = data<S>(p_low);
    a.context = context_values.values;
    a.out = mutable_data<S>(x);
    Strips(m).parallel_for_each(
        [&](int64_t, const Strip& strip) { EFPN_CALL(mask_apply_strip<S>, a, strip); });
  });
  return x;
}

Tensor fuse_mask(const Tensor& m_high, const Tensor& m_low, const Tensor& weight,
                 const Tensor& bias) {
  const Tensor mask =
      empty({m_high.size(0), 1, m_high.size(2), m_high.size(3)}, m_high.scalar_type());
  dispatch(weight.scalar_type(), "fuse_mask", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    PaddedImages<A> images(m_high);
    images.add(m_low);
    const auto weights = accumulated<S>(weight);
    const A bias_value = accumulated<S>(bias)[0];
    Strips(Map(mask), true).parallel_for_each([&](int64_t, const Strip& strip) {
      EFPN_CALL(conv3x3_rows<A>, images, weights.data(), bias_value, true, strip,
                mutable_data<A>(mask));
    });
  });
  return mask;
}

std::tuple<Tensor, Tensor> gate_apply(const Tensor& p_low, const std::optional<Tensor>& context,
                                      const Tensor& m_high, const Tensor& m_low,
                                      const Tensor& fuse_weight, const Tensor& fuse_bias) {
  const Tensor mask = fuse_mask(m_high, m_low, fuse_weight, fuse_bias);
  return {mask_apply(p_low, context, mask), mask};
}

std::tuple<Tensor, Tensor> mask_apply_backward(const Tensor& grad_x, const Tensor& p_low,
                                               const std::optional<Tensor>& context,
                                               const Tensor& mask) {
  const Map m(p_low);
  const ScalarType acc = accumulate_type(p_low.scalar_type());
  const bool gated = is_gate(mask, p_low);
  const Tensor grad_logit = gated ? empty({m.N, 1, m.H, m.W}, acc) : empty_map_like(p_low);
  Tensor grad_context = empty({0}, acc);
  dispatch(p_low.scalar_type(), "mask_apply_backward", [&](auto zero) {
    using S = decltype(zero);
    const Context<S> context_values(context, m);
    Separation<S> a = separation<S>(p_low, mask);
    a.p_low = data<S>(p_low);
    a.context = context_values.values;
    a.grad_x = data<S>(grad_x);
    if (gated) {
      a.grad_logit = mutable_data<Acc<S>>(grad_logit);
    } else {
      a.out = mutable_data<S>(grad_logit);
    }
    const Strips strips(m, gated);
    StripSums sums(strips, m.C);
    strips.parallel_for_each([&](int64_t i, const Strip& strip) {
      EFPN_CALL(mask_apply_backward_strip<S>, a, strip, sums[i]);
    });
    if (context) grad_context = tensor_of<Acc<S>>(sums.per_image().data(), {m.N, m.C}, acc);
  });
  return {grad_logit, grad_context};
}

void mask_merge_(const Tensor& grad_p_low, const Tensor& grad_x, const Tensor& mask) {
  dispatch(grad_x.scalar_type(), "mask_merge_", [&](auto zero) {
    using S = decltype(zero);
    Separation<S> a = separation<S>(grad_x, mask);
    a.grad_x = data<S>(grad_x);
    a.out = mutable_data<S>(grad_p_low);
    Strips(a.map).parallel_for_each(
        [&](int64_t, const Strip& strip) { EFPN_CALL(mask_merge_strip<S>, a, strip); });
  });
}

std::tuple<Tensor, Tensor, Tensor> fuse_backward(const Tensor& grad_logit, const Tensor& m_high,
                                                 const Tensor& m_low, const Tensor& fuse_weight) {
  const ScalarType acc = grad_logit.scalar_type();
  const Map m(grad_logit);
  const Tensor grad_sum = empty({m.N, 1, m.H, m.W}, acc);
  const Strips strips(m, true);
  StripSums sums(strips, 10);
  double total[10] = {};
  Tensor grad_weight, grad_bias;
  dispatch(fuse_weight.scalar_type(), "fuse_backward", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    auto flipped = accumulated<S>(fuse_weight);
    std::reverse(flipped.begin(), flipped.end());
    const PaddedImages<A> grads(grad_logit);
    PaddedImages<A> images(m_high);
    images.add(m_low);
    strips.parallel_for_each([&](int64_t i, const Strip& strip) {
      EFPN_CALL(conv3x3_rows<A>, grads, flipped.data(), A(0), false, strip,
                mutable_data<A>(grad_sum));
      EFPN_CALL(conv3x3_weight_rows<A>, images, data<A>(grad_logit), strip, sums[i]);
    });
    for (int64_t i = 0; i < strips.count(); ++i) {
      for (int k = 0; k < 10; ++k) total[k] += sums[i][k];
    }
    grad_weight = tensor_of<A>(total, {1, 1, 3, 3}, acc);
    grad_bias = tensor_of<A>(total + 9, {1}, acc);
  });
  return {grad_sum, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor> relu_backward(const Tensor& grad_out, const Tensor& out) {
  const Map m(out);
  const Tensor grad = empty_map_like(out);
  const Strips strips(m);
  StripSums sums(strips, m.C);
  Tensor grad_bias;
  dispatch(out.scalar_type(), "relu_backward", [&](auto zero) {
    using S = decltype(zero);
    strips.parallel_for_each([&](int64_t i, const Strip& strip) {
      EFPN_CALL(relu_backward_strip<S>, m, data<S>(grad_out), data<S>(out), mutable_data<S>(grad),
                strip, sums[i]);
    });
    const std::vector<double> per_image = sums.per_image();
    std::vector<double> total(m.C);
    for (int64_t i = 0; i < m.N * m.C; ++i) total[i % m.C] += per_image[i];
    grad_bias = tensor_of<Acc<S>>(total.data(), {m.C}, accumulate_type(out.scalar_type()));
  });
  return {grad, grad_bias};
}

}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("fuse_mask", TORCH_BOX(&efpn::fuse_mask));
  m.impl("gate_apply", TORCH_BOX(&efpn::gate_apply));
  m.impl("mask_apply", TORCH_BOX(&efpn::mask_apply));
  m.impl("mask_apply_backward", TORCH_BOX(&efpn::mask_apply_backward));
  m.impl("mask_merge_", TORCH_BOX(&efpn::mask_merge_));
  m.impl("fuse_backward", TORCH_BOX(&efpn::fuse_backward));
  m.impl("relu_backward", TORCH_BOX(&efpn::relu_backward));
}
