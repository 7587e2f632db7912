// DCLoss, Eq. 9-10: loss and every gradient in one pass, reduced in a fixed order.
//
// Bytes: pred and target read, grad_pred written: 12 per float32 element; 1e7 elements: 28 us at
// 4.3 TB/s, without gradients 19 us. Instructions: about 45 per element, an exp and a reciprocal among
// them, without gradients 30: 15 and 10 us on 132 SMs. Up to kSingle elements one block does it all in one
// launch; above, a block for every kChunk elements leaves its partial sums and a second launch adds them.
// A block of many holds all of its chunk in registers: its loads are under way together.
// Measured on an H200 (benchmarks/results/nvidia-h200/kernels.json), 1e7 bfloat16: 22 us without
// gradients, 37 with them, where Triton takes 18 and 29.
#include "tensor.cuh"

#include "../common/checks.h"
#include "../common/dc_loss.h"

namespace efpn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeld = 16;  // elements of a thread whose loads are under way together (float64: 8)
constexpr int64_t kChunk = int64_t(kThreads) * kHeld;
constexpr int64_t kSingle = 16384;

// A tensor of one element of any floating dtype.
struct Scalar {
  const void* at = nullptr;
  ScalarType type = ScalarType::Float;

  Scalar() = default;
  explicit Scalar(const Tensor& x) : at(x.data_ptr()), type(x.scalar_type()) {}

  template <class A>
  __device__ __forceinline__ A get() const {
    switch (type) {
      case ScalarType::Float: return A(*static_cast<const float*>(at));
      case ScalarType::Double: return A(*static_cast<const double*>(at));
      case ScalarType::BFloat16: return A(widen(*static_cast<const BFloat16*>(at)));
      default: return A(widen(*static_cast<const Half*>(at)));
    }
  }
};

template <class T>
struct DCLoss {
  const T *pred, *target, *weight, *grad_loss;  // weight and grad_loss may be null
  T* loss;                                      // elementwise, or null
  Acc<T>* loss_sum;                             // of all, or null
  T* grad_pred;                                 // the gradients: all, or all null
  Acc<T>*grad_k, *grad_delta;
  Acc<T>* partial;                              // [sums, blocks], or null where one block does it all
  Scalar k, delta, grad_sum;                    // grad_sum: the gradient of the sum, or of nothing
  Acc<T> sign, scale;
  int64_t numel;
};

// The sums of the whole to their places: the loss, and with gradients those of k and delta.
template <int K, class T>
__device__ __forceinline__ void write_sums(const DCLoss<T>& a, const Acc<T> (&sums)[K]) {
  if (a.loss_sum) *a.loss_sum = sums[0];
  if constexpr (K == 3) {
    *a.grad_k = sums[1];
    *a.grad_delta = sums[2];
  }
}

// What V elements need; `factors`: whether there is a weight or a grad_loss.
template <bool factors, class T, int V>
struct Loaded {
  Storage<T, V> pred, target, weight, grad_loss;

  __device__ __forceinline__ Loaded() = default;
  __device__ __forceinline__ Loaded(const DCLoss<T>& a, int64_t at)
      : pred(load_raw<V>(a.pred + at)), target(load_raw<V>(a.target + at)) {
    if (factors && a.weight) weight = load_raw<V>(a.weight + at);
    if (factors && a.grad_loss) grad_loss = load_raw<V>(a.grad_loss + at);
  }
};

// V elements from `at` on: writes what is wanted of them and adds to the sums.
template <bool gradients, bool factors, int V, class T>
__device__ __forceinline__ void apply(const DCLoss<T>& a, int64_t at,
                                      const Loaded<factors, T, V>& in, Acc<T> k, Acc<T> delta,
                                      Acc<T> scale, Acc<T> (&sums)[gradients ? 3 : 1]) {
  using A = Acc<T>;
  Vec<A, V> value, gradient;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const A difference = widen(in.pred.v[v]) - widen(in.target.v[v]);
    const A error = difference < A(0) ? -difference : difference;
    const DCLossTerms<A> terms = dc_loss_terms<A>(error, k, delta, a.sign);
    A factor = scale;
    if (factors && a.weight) factor *= widen(in.weight.v[v]);
    value[v] = factor * terms.loss;
    sums[0] += value[v];
    if constexpr (gradients) {
      if (factors && a.grad_loss) factor *= widen(in.grad_loss.v[v]);
      gradient[v] = factor * terms.d_error * dc_loss_slope(difference);
      sums[1] += factor * terms.d_k;
      sums[2] += factor * terms.d_delta;
    }
  }
  if (a.loss) store(a.loss + at, value);
  if constexpr (gradients) store(a.grad_pred + at, gradient);
}

// A block takes `chunk` elements, a multiple of V; the last one also the elements past the last vector.
template <bool gradients, bool factors, int V, class T>
__global__ void __launch_bounds__(kThreads, 2)
    dc_loss_kernel(const DCLoss<T> a, const int64_t chunk) {
  using A = Acc<T>;
  constexpr int K = gradients ? 3 : 1, U = V == 1 || sizeof(T) == 8 ? 4 : kHeld / V;
  constexpr int64_t kStep = int64_t(kThreads) * V;
  __shared__ A shared[K * kThreads / kWarp];
  const int64_t vectors_end = a.numel / V * V;
  const int64_t begin = blockIdx.x * chunk;
  const int64_t end = begin + chunk < vectors_end ? begin + chunk : vectors_end;
  const int64_t first = begin + int64_t(threadIdx.x) * V;
  Loaded<factors, T, V> in[U];
  const auto load_from = [&](int64_t i) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (i + u * kStep < end) in[u] = {a, i + u * kStep};
    }
  };
  load_from(first);
  // Only now: the elements are under way while these arrive.
  const A k = a.k.template get<A>(), delta = a.delta.template get<A>();
  const A scale = a.grad_sum.at ? a.scale * a.grad_sum.template get<A>() : a.scale;
  A sums[K] = {};
  for (int64_t i = first; i < end; i += U * kStep) {
    if (i > first) load_from(i);
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (i + u * kStep < end) apply<gradients>(a, i + u * kStep, in[u], k, delta, scale, sums);
    }
  }
  if (V > 1 && blockIdx.x == gridDim.x - 1 && vectors_end + threadIdx.x < a.numel) {
    const int64_t i = vectors_end + threadIdx.x;
    apply<gradients>(a, i, Loaded<factors, T, 1>(a, i), k, delta, scale, sums);
  }
  block_sum(sums, shared, threadIdx.x, kThreads);
  if (threadIdx.x != 0) return;
  if (a.partial) {
#pragma unroll
    for (int s = 0; s < K; ++s) a.partial[s * int64_t(gridDim.x) + blockIdx.x] = sums[s];
  } else {
    write_sums(a, sums);
  }
}

constexpr int kFinishThreads = 512;

// Adds the blocks' sums. One block.
template <bool gradients, class T>
__global__ void __launch_bounds__(kFinishThreads)
    dc_loss_finish_kernel(const DCLoss<T> a, const int64_t blocks) {
  using A = Acc<T>;
  constexpr int K = gradients ? 3 : 1;
  __shared__ A shared[K * kFinishThreads / kWarp];
  A sums[K] = {};
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < blocks; i += kFinishThreads) {
#pragma unroll
    for (int s = 0; s < K; ++s) sums[s] += a.partial[s * blocks + i];
  }
  block_sum(sums, shared, threadIdx.x, kFinishThreads);
  if (threadIdx.x == 0) write_sums(a, sums);
}

template <bool gradients, class T>
void run(const Stream& stream, DCLoss<T> a) {
  const bool sums = a.loss_sum || gradients;
  if (a.numel == 0 && !sums) return;
  const bool single = sums && a.numel <= kSingle;
  const int64_t blocks = single ? 1 : ceil_div(a.numel, kChunk);
  Tensor scratch;
  if (sums && !single) {
    scratch = stream.empty({gradients ? 3 : 1, blocks}, kScalarType<Acc<T>>);
    a.partial = data<Acc<T>>(scratch);
  }
  const bool wide = aligned({a.pred, a.target, a.weight, a.grad_loss, a.loss, a.grad_pred});
  dispatch_width<T>(wide, [&](auto v) {
    dispatch_bool(a.weight || a.grad_loss, [&](auto factors) {
      stream.launch(dc_loss_kernel<gradients, decltype(factors)::value, decltype(v)::value, T>,
                    dim3(unsigned(blocks)), dim3(kThreads), a, single ? kSingle : kChunk);
    });
  });
  if (!a.partial) return;
  stream.launch(dc_loss_finish_kernel<gradients, T>, dim3(1), dim3(kFinishThreads), a, blocks);
}

// The tensors of a call, checked and contiguous.
struct Arguments {
  Tensor pred, target;
  std::optional<Tensor> weight;
  Scalar k, delta;
  int sign;

  Arguments(const Tensor& pred_, const Tensor& target_, const std::optional<Tensor>& weight_,
            const Tensor& k_, const Tensor& delta_, int64_t form)
      : k(k_), delta(delta_), sign(dc_loss_sign(static_cast<DCLossForm>(form))) {
    like_pred("target", target_, pred_);
    if (weight_) like_pred("weight", *weight_, pred_);
    scalar_parameter("k", k_, pred_);
    scalar_parameter("delta", delta_, pred_);
    known_form(form);
    pred = dense(pred_);
    target = dense(target_);
    if (weight_) weight = dense(*weight_);
  }

  template <class T>
  DCLoss<T> of(double scale) const {
    DCLoss<T> a{};
    a.pred = data<T>(pred), a.target = data<T>(target), a.weight = data<T>(weight);
    a.k = k, a.delta = delta;
    a.sign = Acc<T>(sign), a.scale = Acc<T>(scale);
    a.numel = pred.numel();
    return a;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> dc_loss(const Tensor& pred, const Tensor& target,
                                                   const std::optional<Tensor>& weight,
                                                   const Tensor& k, const Tensor& delta,
                                                   int64_t form, bool reduce, double scale,
                                                   bool with_grad) {
  const Arguments in(pred, target, weight, k, delta, form);
  const Stream stream(pred);
  const ScalarType type = pred.scalar_type(), acc = accumulate_type(type);
  const bool gradients = reduce && with_grad;
  Tensor loss = reduce ? stream.empty({}, acc) : stream.empty_contiguous_like(pred);
  Tensor grad_pred = gradients ? stream.empty_contiguous_like(pred) : stream.empty({0}, type);
  Tensor grad_k = gradients ? stream.empty({}, acc) : stream.empty({0}, acc);
  Tensor grad_delta = gradients ? stream.empty({}, acc) : stream.empty({0}, acc);
  dispatch(type, "dc_loss", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    DCLoss<T> a = in.of<T>(scale);
    if (reduce) {
      a.loss_sum = data<A>(loss);
    } else {
      a.loss = data<T>(loss);
    }
    if (!gradients) return run<false>(stream, a);
    a.grad_pred = data<T>(grad_pred), a.grad_k = data<A>(grad_k), a.grad_delta = data<A>(grad_delta);
    run<true>(stream, a);
  });
  return {loss, grad_pred, grad_k, grad_delta};
}

std::tuple<Tensor, Tensor, Tensor> dc_loss_backward(const Tensor& grad_loss, const Tensor& pred,
                                                    const Tensor& target,
                                                    const std::optional<Tensor>& weight,
                                                    const Tensor& k, const Tensor& delta,
                                                    int64_t form, double scale) {
  const Arguments in(pred, target, weight, k, delta, form);
  const Stream stream(pred);
  const bool of_sum = grad_loss.dim() == 0;
  of_sum ? on_device_of_pred("grad_loss", grad_loss, pred) : like_pred("grad_loss", grad_loss, pred);
  const Tensor grads = dense(grad_loss);
  const ScalarType acc = accumulate_type(pred.scalar_type());
  Tensor grad_pred = stream.empty_contiguous_like(pred);
  Tensor grad_k = stream.empty({}, acc);
  Tensor grad_delta = stream.empty({}, acc);
  dispatch(pred.scalar_type(), "dc_loss_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    DCLoss<T> a = in.of<T>(scale);
    if (of_sum) {
      a.grad_sum = Scalar(grads);
    } else {
      a.grad_loss = data<T>(grads);
    }
    a.grad_pred = data<T>(grad_pred), a.grad_k = data<A>(grad_k), a.grad_delta = data<A>(grad_delta);
    run<true>(stream, a);
  });
  return {grad_pred, grad_k, grad_delta};
}

}  // namespace
}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("dc_loss", TORCH_BOX(&efpn::cuda::dc_loss));
  m.impl("dc_loss_backward", TORCH_BOX(&efpn::cuda::dc_loss_backward));
}
