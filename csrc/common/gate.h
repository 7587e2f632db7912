// The sigmoid of the gates, of the masks and of DCLoss, with its derivative, and that of a ReLU.
// Include through a target (see target.h), which has exp(), exp_minus_abs(), reciprocal() and
// select() for T, a scalar or a vector.
namespace efpn {
namespace EFPN_ISA {

template <class T>
EFPN_INLINE T sigmoid(T x) {
  return reciprocal(T(1) + exp(-x));
}

template <class T>
struct GatePair {
  T open;    // sigmoid(x)
  T closed;  // sigmoid(-x) = 1 - sigmoid(x)
};

// Each to the precision of T, also where it is next to nothing: a difference from 1 would not be.
template <class T>
EFPN_INLINE GatePair<T> gate_pair(T x) {
  const auto positive = x > T(0);
  const T ratio = exp_minus_abs(x);
  const T larger = reciprocal(T(1) + ratio), smaller = ratio * larger;
  return {select(positive, larger, smaller), select(positive, smaller, larger)};
}

// sigmoid'(x) for gate = sigmoid(x).
template <class T>
EFPN_INLINE T gate_slope(T gate) {
  return gate * (T(1) - gate);
}

// The gradient before a ReLU with the result `out`. NaN lets it pass, as PyTorch's does: whoever
// looks for what is not finite among the gradients shall find it.
template <class T>
EFPN_INLINE T relu_gradient(T out, T grad) {
  return select(out <= T(0), T(0), grad);
}

}  // namespace EFPN_ISA
}  // namespace efpn
