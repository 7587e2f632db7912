// DCLoss, Eq. 9-10, and its exact derivatives. Include through a target (see target.h).
namespace efpn {
namespace EFPN_ISA {

template <class T>
struct DCLossTerms {
  T loss;     // l(e) = a e^2 + (1 - a) e
  T d_error;  // dl/de = 2 a e + (1 - a) + s k a (1 - a) e (e - 1)
  T d_k;      // dl/dk = s a (1 - a) (e - delta) e (e - 1)
  T d_delta;  // dl/ddelta = -s k a (1 - a) e (e - 1)
};

// error = |pred - target|; a = sigmoid(sign k (error - delta)); sign is 1 for the equation's form and
// -1 for the text's. T is a scalar or a vector with arithmetic and sigmoid().
template <class T>
EFPN_INLINE DCLossTerms<T> dc_loss_terms(T error, T k, T delta, T sign) {
  const T one = T(1);
  const T offset = error - delta;
  const T alpha = sigmoid(sign * k * offset);
  const T beta = one - alpha;
  const T slope = sign * alpha * beta * (error * (error - one));
  return {alpha * error * error + beta * error, T(2) * alpha * error + beta + k * slope,
          slope * offset, -(k * slope)};
}

}  // namespace EFPN_ISA
}  // namespace efpn
