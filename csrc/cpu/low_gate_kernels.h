// The low gate over a strip, for one instruction set. Include through foreach_isa.h.
#include "map_loop.h"

namespace efpn {
namespace EFPN_ISA {

template <class S>
void low_gate_strip(const LowGateArguments<S>& a, const Strip& strip) {
  using V = Vec<Acc<S>>;
  const Map& m = a.map;
  map_pass<S, Pass<0, true, true>>(
      m, strip,
      [&](auto at) -> Terms<V, 0> {
        const V hidden = relu(at.map(a.conv) + at.table(a.border));
        return {{}, at.channel(a.gate_weight) * hidden};
      },
      nullptr, a.gate);
  const int64_t image = strip.image * m.pixels();
  sigmoid_range(a.gate, a.gate_bias, image + strip.y0 * m.W, image + strip.y1 * m.W);
}

// sums: [9, 2, D]: of grad_conv, and of grad_logit * hidden.
template <class S>
void low_gate_backward_strip(const LowGateArguments<S>& a, const Strip& strip, double* sums) {
  using V = Vec<Acc<S>>;
  map_pass<S, Pass<2, false, true>>(
      a.map, strip,
      [&](auto at) -> Terms<V, 2> {
        const V hidden = relu(at.map(a.conv) + at.table(a.border));
        const V grad_logit = at.gate(a.grad_logit);
        const V grad = relu_gradient(hidden, grad_logit * at.channel(a.gate_weight));
        at.set(a.grad_conv, grad);
        return {{grad, grad_logit * hidden}, V(Acc<S>(0))};
      },
      sums);
}

template <class S>
void border_relu_strip(const Map& m, const S* conv, const Acc<S>* border, S* out,
                       const Strip& strip) {
  using V = Vec<Acc<S>>;
  map_pass<S, Pass<0, false, true>>(m, strip, [&](auto at) -> Terms<V, 0> {
    at.set(out, relu(at.map(conv) + at.table(border)));
    return {};
  });
}

template <class S>
void border_sum_strip(const Map& m, const S* grad, const Strip& strip, double* sums) {
  using V = Vec<Acc<S>>;
  map_pass<S, Pass<1, false, true>>(
      m, strip, [&](auto at) -> Terms<V, 1> { return {{at.map(grad)}, V(Acc<S>(0))}; }, sums);
}

// ---- the border's constants: small products of the context with the weights
// ------------------------

// border[cy, cx, d] of one image for channels d in [begin, end).
template <class S>
void border_bias_channels(const BorderArguments<S>& a, const Acc<S>* context, Acc<S>* border,
                          int64_t begin, int64_t end) {
  using A = Acc<S>;
  for (int64_t d = begin; d < end; ++d) {
    A taps[9] = {};
    for (int64_t c = 0; c < a.C; ++c) {
      for (int k = 0; k < 9; ++k)
        taps[k] += static_cast<A>(a.weight[a.offset(d, c, k)]) * context[c];
    }
    for (int border_y = 0; border_y < 3; ++border_y) {
      for (int border_x = 0; border_x < 3; ++border_x) {
        A value = a.bias[d];
        for (int k = 0; k < 9; ++k) {
          if (tap_inside(border_y, k / 3, a.H) && tap_inside(border_x, k % 3, a.W))
            value += taps[k];
        }
        border[(3 * border_y + border_x) * a.D + d] = value;
      }
    }
  }
}

// grad_taps[k, d]: the sum of grad_border over the classes that tap k is inside of.
template <class A>
void border_taps_backward(const A* grad_border, int64_t D, int64_t H, int64_t W, A* grad_taps) {
  for (int k = 0; k < 9; ++k) {
    for (int border = 0; border < 9; ++border) {
      if (!tap_inside(border / 3, k / 3, H) || !tap_inside(border % 3, k % 3, W)) continue;
      for (int64_t d = 0; d < D; ++d) grad_taps[k * D + d] += grad_border[border * D + d];
    }
  }
}

// For channels c in [begin, end): grad_context[n, c] and grad_weight[:, c, :, :] (zero before) of
// all images.
template <class S>
void border_bias_backward_channels(const BorderArguments<S>& a, const Acc<S>* context,
                                   const Acc<S>* grad_taps, Acc<S>* grad_context,
                                   Acc<S>* grad_weight, int64_t begin, int64_t end) {
  using A = Acc<S>;
  std::vector<double> total(a.N * (end - begin));
  for (int64_t d = 0; d < a.D; ++d) {
    for (int64_t n = 0; n < a.N; ++n) {
      A taps[9];
      for (int k = 0; k < 9; ++k) taps[k] = grad_taps[(n * 9 + k) * a.D + d];
      for (int64_t c = begin; c < end; ++c) {
        const A from = context[n * a.C + c];
        A value = 0;
        for (int k = 0; k < 9; ++k) {
          const int64_t i = a.offset(d, c, k);
          value += static_cast<A>(a.weight[i]) * taps[k];
          grad_weight[i] += from * taps[k];
        }
        total[n * (end - begin) + c - begin] += value;
      }
    }
  }
  for (int64_t n = 0; n < a.N; ++n) {
    for (int64_t c = begin; c < end; ++c) {
      grad_context[n * a.C + c] = static_cast<A>(total[n * (end - begin) + c - begin]);
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
