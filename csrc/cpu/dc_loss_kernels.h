// DCLoss over a range of elements, for one instruction set. Include through foreach_isa.h.
#include "../common/dc_loss.h"

namespace efpn {
namespace EFPN_ISA {

// One vector of elements from i on, of which `n` count if `tail`. Lanes past them hold
// pred = target = 0 and add exactly nothing. Without `grads` the gradients' arithmetic falls away.
template <bool grads, bool tail, class S, class V>
EFPN_INLINE void dc_loss_step(const DCLossArguments<S>& a, int64_t i, int n, V& loss, V& grad_k,
                              V& grad_delta) {
  const V difference = load<tail>(a.pred + i, n) - load<tail>(a.target + i, n);
  const DCLossTerms<V> terms = dc_loss_terms<V>(abs(difference), V(a.k), V(a.delta), V(a.sign));
  V factor(a.scale);
  if (a.weight) factor *= load<tail>(a.weight + i, n);
  const V value = factor * terms.loss;
  if (a.loss) store<tail>(a.loss + i, value, n);
  loss += value;
  if constexpr (grads) {
    if (a.grad_loss) factor *= load<tail>(a.grad_loss + i, n);
    store<tail>(a.grad_pred + i, factor * terms.d_error * dc_loss_slope(difference), n);
    grad_k += factor * terms.d_k;
    grad_delta += factor * terms.d_delta;
  }
}

// Vectors after which the sums go from Acc<S> to double.
constexpr int kLossFlush = 16;

template <bool grads, class S>
EFPN_INLINE DCLossSums dc_loss_sums(const DCLossArguments<S>& a, int64_t begin, int64_t end) {
  using V = Vec<Acc<S>>;
  DCLossSums total;
  for (int64_t first = begin; first < end; first += kLossFlush * V::size) {
    const int64_t last = std::min<int64_t>(first + kLossFlush * V::size, end);
    V loss(Acc<S>(0)), grad_k(Acc<S>(0)), grad_delta(Acc<S>(0));
    int64_t i = first;
    for (; i + V::size <= last; i += V::size) {
      dc_loss_step<grads, false>(a, i, V::size, loss, grad_k, grad_delta);
    }
    if (i < last) {
      dc_loss_step<grads, true>(a, i, static_cast<int>(last - i), loss, grad_k, grad_delta);
    }
    total.loss += sum(loss);
    total.grad_k += sum(grad_k);
    total.grad_delta += sum(grad_delta);
  }
  return total;
}

template <class S>
DCLossSums dc_loss_range(const DCLossArguments<S>& a, int64_t begin, int64_t end) {
  return a.grad_pred ? dc_loss_sums<true>(a, begin, end) : dc_loss_sums<false>(a, begin, end);
}

}  // namespace EFPN_ISA
}  // namespace efpn
