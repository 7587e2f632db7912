// Fuse, separate and refine over strips, for one instruction set. Include through foreach_isa.h.
#include "map_loop.h"

namespace efpn {
namespace EFPN_ISA {

// A mask at a place: a gate, or a map of its own.
template <class S, class At>
EFPN_INLINE Vec<Acc<S>> mask_at(const Separation<S>& a, const At& at) {
  return a.mask_map ? at.map(a.mask_map) : at.gate(a.mask_gate);
}

template <class S>
void mask_apply_strip(const Separation<S>& a, const Strip& strip) {
  using V = Vec<Acc<S>>;
  map_pass<S, Pass<0>>(a.map, strip, [&](auto at) -> Terms<V, 0> {
    at.set(a.out, (at.map(a.p_low) + at.table(a.context)) * mask_at(a, at));
    return {};
  });
}

template <class S>
void mask_merge_strip(const Separation<S>& a, const Strip& strip) {
  using V = Vec<Acc<S>>;
  map_pass<S, Pass<0>>(a.map, strip, [&](auto at) -> Terms<V, 0> {
    at.set(a.out, at.map(a.out) + at.map(a.grad_x) * mask_at(a, at));
    return {};
  });
}

// sums: [C], of grad_x * mask.
template <class S>
void mask_apply_backward_strip(const Separation<S>& a, const Strip& strip, double* sums) {
  using A = Acc<S>;
  using V = Vec<A>;
  const Map& m = a.map;
  const auto body = [&](auto at) -> Terms<V, 1> {
    const V grad_x = at.map(a.grad_x), mask = mask_at(a, at);
    const V grad_mask = grad_x * (at.map(a.p_low) + at.table(a.context));
    if (a.mask_map) at.set(a.out, gate_slope(mask) * grad_mask);
    return {{grad_x * mask}, grad_mask};
  };
  if (a.mask_map) return map_pass<S, Pass<1>>(m, strip, body, sums);
  map_pass<S, Pass<1, true>>(m, strip, body, sums, a.grad_logit);
  const int64_t image = strip.image * m.pixels();
  for (int64_t p = image + strip.y0 * m.W; p < image + strip.y1 * m.W; ++p) {
    a.grad_logit[p] *= gate_slope(a.mask_gate[p]);
  }
}

// sums: [C], of grad.
template <class S>
void relu_backward_strip(const Map& m, const S* grad_out, const S* out, S* grad, const Strip& strip,
                         double* sums) {
  using V = Vec<Acc<S>>;
  map_pass<S, Pass<1>>(
      m, strip,
      [&](auto at) -> Terms<V, 1> {
        const V value = relu_gradient(at.map(out), at.map(grad_out));
        at.set(grad, value);
        return {{value}, V(Acc<S>(0))};
      },
      sums);
}

// ---- the fuse convolution, one channel in, one out
// -------------------------------------------------

// out[y, x] = bias + sum_k weight[k] padded[y + k / 3, x + k % 3] on rows [y0, y1) of an image,
// through a sigmoid if `gated`.
template <class A>
void conv3x3_rows(const PaddedImages<A>& images, const A* weight, A bias, bool gated,
                  const Strip& strip, A* out) {
  using V = Vec<A>;
  for (int64_t y = strip.y0; y < strip.y1; ++y) {
    const A* top = images.row(strip.image, y);
    A* to = out + (strip.image * images.H + y) * images.W;
    for (int64_t x = 0; x < images.W; x += V::size) {
      V value(bias);
      for (int k = 0; k < 9; ++k)
        value += V(weight[k]) * load(top + k / 3 * images.stride + x + k % 3);
      if (gated) value = sigmoid(value);
      if (x + V::size <= images.W) {
        store(to + x, value);
      } else {
        store(to + x, value, static_cast<int>(images.W - x));
      }
    }
  }
}

// sums[k] += grad . padded shifted by tap k, sums[9] += sum of grad.
template <class A>
void conv3x3_weight_rows(const PaddedImages<A>& images, const A* grad, const Strip& strip,
                         double* sums) {
  using V = Vec<A>;
  for (int64_t y = strip.y0; y < strip.y1; ++y) {
    const A* top = images.row(strip.image, y);
    const A* from = grad + (strip.image * images.H + y) * images.W;
    V taps[9], total(A(0));
    for (V& tap : taps) tap = V(A(0));
    for (int64_t x = 0; x < images.W; x += V::size) {
      const V g =
          x + V::size <= images.W ? load(from + x) : load(from + x, static_cast<int>(images.W - x));
      for (int k = 0; k < 9; ++k) taps[k] += g * load(top + k / 3 * images.stride + x + k % 3);
      total += g;
    }
    for (int k = 0; k < 9; ++k) sums[k] += sum(taps[k]);
    sums[9] += sum(total);
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
