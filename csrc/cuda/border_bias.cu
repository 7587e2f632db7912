// The context seen through a 3x3 convolution: a constant per channel and border class, and its adjoint.
//
// Bytes: the weight once: [256, 256, 3, 3] bf16: 1.2 MB, in L2 after the convolution. Operations: 2 per
// weight and sample. Both passes are latency-bound: a block for every output channel.
#include "reduce.cuh"

#include "../common/border.h"

namespace efpn {
namespace cuda {
namespace {

// Offsets in a weight [D, C, 3, 3], contiguous or channels_last.
struct WeightLayout {
  int64_t C;
  int64_t channel, tap;  // strides

  WeightLayout(const Tensor& weight, int64_t channels)
      : C(channels),
        channel(weight.is_contiguous() ? 9 : 1),
        tap(weight.is_contiguous() ? 1 : channels) {}
  __device__ __forceinline__ int64_t at(int64_t d, int64_t c, int t) const {
    return d * C * 9 + c * channel + t * tap;
  }
};

constexpr int kThreads = 128;

// grid: (D, N).
template <class T>
__global__ void __launch_bounds__(kThreads)
    border_bias_fwd_kernel(const Acc<T>* context, const T* weight, const T* bias, Acc<T>* border,
                           const WeightLayout layout, const int64_t H, const int64_t W) {
  using A = Acc<T>;
  __shared__ A shared[9 * kThreads / kWarp];
  const int64_t d = blockIdx.x, n = blockIdx.y, D = gridDim.x;
  A taps[9] = {};
  for (int64_t c = threadIdx.x; c < layout.C; c += kThreads) {
    const A g = context[n * layout.C + c];
#pragma unroll
    for (int t = 0; t < 9; ++t) taps[t] += g * widen(weight[layout.at(d, c, t)]);
  }
  block_sum(taps, shared, threadIdx.x, kThreads);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int t = 0; t < 9; ++t) shared[t] = taps[t];
  }
  __syncthreads();
  if (threadIdx.x >= 9) return;
  const int cy = threadIdx.x / 3, cx = threadIdx.x % 3;
  A total = widen(bias[d]);
#pragma unroll
  for (int t = 0; t < 9; ++t) {
    if (tap_inside(cy, t / 3, H) && tap_inside(cx, t % 3, W)) total += shared[t];
  }
  border[(n * 9 + threadIdx.x) * D + d] = total;
}

Tensor border_bias(const Tensor& context, const Tensor& weight, const Tensor& bias, int64_t H,
                   int64_t W) {
  const Stream stream(context);
  const int64_t N = context.size(0), C = context.size(1), D = weight.size(0);
  Tensor border = stream.empty({N, 3, 3, D}, context.scalar_type());
  dispatch(weight.scalar_type(), "border_bias", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    stream.launch(border_bias_fwd_kernel<T>, dim3(unsigned(D), unsigned(N)), dim3(kThreads),
                  data<A>(context), data<T>(weight), data<T>(bias), data<A>(border),
                  WeightLayout(weight, C), H, W);
  });
  return border;
}

// grad_taps[n, d, t] = sum of grad_border over the classes whose tap t is inside; grad_bias[d] = sum of
// grad_border over samples and classes. A thread for each d.
template <class A>
__global__ void __launch_bounds__(kThreads)
    border_taps_bwd_kernel(const A* grad_border, A* grad_taps, A* grad_bias, const int64_t N,
                           const int64_t D, const int64_t H, const int64_t W) {
  const int64_t d = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (d >= D) return;
  A bias = 0;
  for (int64_t n = 0; n < N; ++n) {
    A taps[9] = {};
#pragma unroll
    for (int k = 0; k < 9; ++k) {
      const A g = grad_border[(n * 9 + k) * D + d];
      bias += g;
#pragma unroll
      for (int t = 0; t < 9; ++t) {
        if (tap_inside(k / 3, t / 3, H) && tap_inside(k % 3, t % 3, W)) taps[t] += g;
      }
    }
#pragma unroll
    for (int t = 0; t < 9; ++t) grad_taps[(n * D + d) * 9 + t] = taps[t];
  }
  grad_bias[d] = bias;
}

// grad_weight[d, c, t] = sum over n of grad_taps[n, d, t] context[n, c].
// grid: (weight tiles of one d, D).
template <class A>
__global__ void __launch_bounds__(kThreads)
    border_weight_bwd_kernel(const A* grad_taps, const A* context, A* grad_weight,
                             const WeightLayout layout, const int64_t N) {
  const int64_t d = blockIdx.y, D = gridDim.y;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= layout.C * 9) return;
  const bool taps_inner = layout.tap == 1 && layout.channel == 9;
  const int64_t c = taps_inner ? i / 9 : i % layout.C;
  const int t = int(taps_inner ? i - c * 9 : i / layout.C);
  A total = 0;
  for (int64_t n = 0; n < N; ++n) {
    total += grad_taps[(n * D + d) * 9 + t] * context[n * layout.C + c];
  }
  grad_weight[layout.at(d, c, t)] = total;
}

constexpr int kChunk = 16;  // of d

// partial[n, chunk, c] = sum over the chunk's d and all taps of grad_taps[n, d, t] weight[d, c, t].
// grid: (channel tiles, chunks, N). block: (32 channels, 4).
template <class T>
__global__ void __launch_bounds__(kThreads)
    border_context_bwd_kernel(const Acc<T>* grad_taps, const T* weight, Acc<T>* partial,
                              const WeightLayout layout, const int64_t D) {
  using A = Acc<T>;
  __shared__ A lanes[kThreads / kWarp][kWarp];
  const int64_t c = int64_t(blockIdx.x) * kWarp + threadIdx.x, n = blockIdx.z;
  A total = 0;
  if (c < layout.C) {
#pragma unroll
    for (int i = 0; i < kChunk * kWarp / kThreads; ++i) {
      const int64_t d = int64_t(blockIdx.y) * kChunk + i * (kThreads / kWarp) + threadIdx.y;
      if (d >= D) break;
#pragma unroll
      for (int t = 0; t < 9; ++t) {
        total += grad_taps[(n * D + d) * 9 + t] * widen(weight[layout.at(d, c, t)]);
      }
    }
  }
  lanes[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || c >= layout.C) return;
  for (int y = 1; y < kThreads / kWarp; ++y) total += lanes[y][threadIdx.x];
  partial[(n * gridDim.y + blockIdx.y) * layout.C + c] = total;
}

std::tuple<Tensor, Tensor, Tensor> border_bias_backward(const Tensor& grad_border,
                                                        const Tensor& context,
                                                        const Tensor& weight, int64_t H,
                                                        int64_t W) {
  const Stream stream(context);
  const int64_t N = context.size(0), C = context.size(1), D = weight.size(0);
  const ScalarType acc = context.scalar_type();
  Tensor grad_context = stream.empty({N, C}, acc);
  Tensor grad_weight = stream.empty_strided_like(weight, acc);
  Tensor grad_bias = stream.empty({D}, acc);
  const int64_t chunks = ceil_div(D, kChunk);
  Tensor grad_taps = stream.empty({N, D, 9}, acc);
  Tensor partial = stream.empty({N, chunks, C}, acc);
  dispatch(weight.scalar_type(), "border_bias_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const WeightLayout layout(weight, C);
    stream.launch(border_taps_bwd_kernel<A>, dim3(unsigned(ceil_div(D, kThreads))), dim3(kThreads),
                  data<A>(grad_border), data<A>(grad_taps), data<A>(grad_bias), N, D, H, W);
    stream.launch(border_weight_bwd_kernel<A>, dim3(unsigned(ceil_div(C * 9, kThreads)), unsigned(D)),
                  dim3(kThreads), data<A>(grad_taps), data<A>(context), data<A>(grad_weight),
                  layout, N);
    stream.launch(border_context_bwd_kernel<T>,
                  dim3(unsigned(ceil_div(C, kWarp)), unsigned(chunks), unsigned(N)),
                  dim3(kWarp, kThreads / kWarp), data<A>(grad_taps), data<T>(weight),
                  data<A>(partial), layout, D);
    sum_partials<A>(stream, {{data<A>(partial), data<A>(grad_context), N, chunks, C, chunks * C, C}});
  });
  return {grad_context, grad_weight, grad_bias};
}

}  // namespace
}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("border_bias", TORCH_BOX(&efpn::cuda::border_bias));
  m.impl("border_bias_backward", TORCH_BOX(&efpn::cuda::border_bias_backward));
}
