// DCLoss, Eq. 9-10, and its exact derivatives. Include through a target (see target.h), after
// gate.h.
namespace efpn {
namespace EFPN_ISA {

// As the operators' schema has it; the names are those of efpn_kernels/ops/dc_loss.py.
enum class DCLossForm : int64_t { equation = 0, text = 1 };

// The sign of k in the gate. -1 and 1 are all that these forms differ in.
EFPN_INLINE int dc_loss_sign(DCLossForm form) { return form == DCLossForm::text ? -1 : 1; }

template <class T>
struct DCLossTerms {
  T loss;     // l(e) = a e^2 + b e, b = 1 - a
  T d_error;  // dl/de = 2 a e + b + s k a b e (e - 1)
  T d_k;      // dl/dk = s a b (e - delta) e (e - 1)
  T d_delta;  // dl/ddelta = -s k a b e (e - 1)
};

// d|x|/dx, the sign of x: 0 at 0, to be multiplied by, so that NaN and infinite factors leave NaN
// there.
template <class T>
EFPN_INLINE T dc_loss_slope(T x) {
  return select(x < T(0), T(-1), select(x == T(0), T(0), T(1)));
}

// error = |pred - target|; a = sigmoid(sign k (error - delta)); sign is 1 for the equation's form
// and -1 for the text's. T is a scalar or a vector with arithmetic and gate_pair().
template <class T>
EFPN_INLINE DCLossTerms<T> dc_loss_terms(T error, T k, T delta, T sign) {
  const T offset = error - delta, below = error - T(1);
  const GatePair<T> a = gate_pair(sign * k * offset);
  // a b comes first: it is next to nothing where e^2 may overflow.
  const T slope = sign * (a.open * a.closed);
  const T d_gate = k * slope * error * below;
  return {a.open * error * error + a.closed * error, T(2) * a.open * error + a.closed + d_gate,
          slope * offset * error * below, -d_gate};
}

}  // namespace EFPN_ISA
}  // namespace efpn
