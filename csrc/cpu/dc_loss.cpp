// DCLoss on the CPU: loss and every gradient in one pass, reduced in a fixed order.
//
// Bytes: pred and target read, grad_pred written: 12 per float32 element. Operations: about 40 per
// element, an exp and a division among them; with AVX-512 they take about as long as the memory.
#include "../common/checks.h"
#include "tensor.h"

#define EFPN_ISA host
#include "../common/dc_loss.h"
#undef EFPN_ISA

namespace efpn {

template <class S>
struct DCLossArguments {
  const S* pred;
  const S* target;
  const S* weight;     // or null
  const S* grad_loss;  // gradient of the elementwise loss, or null
  S* loss;             // elementwise loss, or null
  S* grad_pred;        // or null
  Acc<S> k, delta, sign, scale;
};

struct DCLossSums {
  double loss = 0, grad_k = 0, grad_delta = 0;
};

}  // namespace efpn

#define EFPN_KERNELS "dc_loss_kernels.h"
#include "foreach_isa.h"

namespace efpn {
namespace {

// Elements per partial sum. The unit of work, so that no result depends on the number of threads.
constexpr int64_t kBlock = 8192;

double scalar(const Tensor& x) {
  double value = 0;
  dispatch(x.scalar_type(), "dc_loss",
           [&](auto type) { value = static_cast<double>(*data<decltype(type)>(x)); });
  return value;
}

Tensor scalar_tensor(double value, ScalarType scalar_type) {
  Tensor x = empty({}, scalar_type);
  dispatch(scalar_type, "dc_loss", [&](auto type) {
    *mutable_data<decltype(type)>(x) = static_cast<decltype(type)>(value);
  });
  return x;
}

Tensor empty_shape_of(const Tensor& x) {
  return empty({x.sizes().begin(), x.sizes().end()}, x.scalar_type());
}

template <class S>
DCLossSums run(const DCLossArguments<S>& arguments, int64_t numel) {
  const int64_t blocks = (numel + kBlock - 1) / kBlock;
  std::vector<DCLossSums> partial(blocks);
  parallel(blocks, 8 * kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlock, last = std::min(first + kBlock, numel);
      partial[b] = EFPN_CALL(dc_loss_range<S>, arguments, first, last);
    }
  });
  DCLossSums total;
  for (const DCLossSums& p : partial) {
    total.loss += p.loss;
    total.grad_k += p.grad_k;
    total.grad_delta += p.grad_delta;
  }
  return total;
}

// What both operators check of their arguments, and make contiguous.
void normalise(Tensor& pred, Tensor& target, std::optional<Tensor>& weight, const Tensor& k,
               const Tensor& delta, int64_t form) {
  like_pred("target", target, pred);
  if (weight) like_pred("weight", *weight, pred);
  scalar_parameter("k", k, pred);
  scalar_parameter("delta", delta, pred);
  known_form(form);
  pred = dense(pred);
  target = dense(target);
  if (weight) weight = dense(*weight);
}

template <class S>
DCLossArguments<S> arguments_of(const Tensor& pred, const Tensor& target,
                                const std::optional<Tensor>& weight, const Tensor& k,
                                const Tensor& delta, int64_t form, double scale) {
  DCLossArguments<S> a{};
  a.pred = data<S>(pred);
  a.target = data<S>(target);
  a.weight = weight ? data<S>(*weight) : nullptr;
  a.k = static_cast<Acc<S>>(scalar(k));
  a.delta = static_cast<Acc<S>>(scalar(delta));
  a.sign = host::dc_loss_sign(static_cast<host::DCLossForm>(form));
  a.scale = static_cast<Acc<S>>(scale);
  return a;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dc_loss(Tensor pred, Tensor target,
                                                   std::optional<Tensor> weight, Tensor k,
                                                   Tensor delta, int64_t form, bool reduce,
                                                   double scale, bool with_grad) {
  const ScalarType type = pred.scalar_type(), acc = accumulate_type(type);
  normalise(pred, target, weight, k, delta, form);
  with_grad = with_grad && reduce;
  const Tensor grad_pred = with_grad ? empty_shape_of(pred) : empty({0}, type);
  Tensor loss = reduce ? Tensor() : empty_shape_of(pred);
  DCLossSums sums;
  dispatch(type, "dc_loss", [&](auto zero) {
    using S = decltype(zero);
    auto a = arguments_of<S>(pred, target, weight, k, delta, form, scale);
    if (!reduce) a.loss = mutable_data<S>(loss);
    if (with_grad) a.grad_pred = mutable_data<S>(grad_pred);
    sums = run(a, pred.numel());
  });
  if (reduce) loss = scalar_tensor(sums.loss, acc);
  return {loss, grad_pred, with_grad ? scalar_tensor(sums.grad_k, acc) : empty({0}, acc),
          with_grad ? scalar_tensor(sums.grad_delta, acc) : empty({0}, acc)};
}

std::tuple<Tensor, Tensor, Tensor> dc_loss_backward(Tensor grad_loss, Tensor pred, Tensor target,
                                                    std::optional<Tensor> weight, Tensor k,
                                                    Tensor delta, int64_t form, double scale) {
  const ScalarType type = pred.scalar_type(), acc = accumulate_type(type);
  normalise(pred, target, weight, k, delta, form);
  const bool of_sum = grad_loss.dim() == 0;
  if (of_sum) {
    on_device_of_pred("grad_loss", grad_loss, pred);
    scale *= scalar(grad_loss);
  } else {
    like_pred("grad_loss", grad_loss, pred);
    grad_loss = dense(grad_loss);
  }
  const Tensor grad_pred = empty_shape_of(pred);
  DCLossSums sums;
  dispatch(type, "dc_loss_backward", [&](auto zero) {
    using S = decltype(zero);
    auto a = arguments_of<S>(pred, target, weight, k, delta, form, scale);
    if (!of_sum) a.grad_loss = data<S>(grad_loss);
    a.grad_pred = mutable_data<S>(grad_pred);
    sums = run(a, pred.numel());
  });
  return {grad_pred, scalar_tensor(sums.grad_k, acc), scalar_tensor(sums.grad_delta, acc)};
}

}  // namespace
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("dc_loss", TORCH_BOX(&efpn::dc_loss));
  m.impl("dc_loss_backward", TORCH_BOX(&efpn::dc_loss_backward));
}
