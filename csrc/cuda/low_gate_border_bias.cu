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

}  // namespace

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

namespace {

// The sum of grad_border of channel d over the classes whose tap (ky, kx) is inside; of_channel holds the
// nine classes.
template <class A>
__device__ __forceinline__ A tap_gradient(const A (&of_channel)[9], int ky, int kx, int64_t H,
                                          int64_t W) {
  A total = 0;
#pragma unroll
  for (int k = 0; k < 9; ++k) {
    if (tap_inside(k / 3, ky, H) && tap_inside(k % 3, kx, W)) total += of_channel[k];
  }
  return total;
}

template <class A>
__device__ __forceinline__ void load_classes(A (&of_channel)[9], const A* grad_border, int64_t n,
                                             int64_t d, int64_t D) {
#pragma unroll
  for (int k = 0; k < 9; ++k) of_channel[k] = __ldg(grad_border + (n * 9 + k) * D + d);
}

constexpr int kChunk = 16;  // of d

template <class T>
struct BorderBiasBackward {
  const Acc<T>*grad_border, *context;
  const T* weight;
  Acc<T>*grad_weight, *grad_bias;
  Acc<T>* partial;  // [N, chunks, C], of grad_context
  WeightLayout layout;
  int64_t N, D, H, W;
  unsigned chunks, weight_tiles, channel_tiles;
};

// grad_weight[d, c, t] = sum over n of the tap's gradient times context[n, c], for a tile of one d's
// weights; its first block also sums grad_bias[d].
template <class T>
__device__ __forceinline__ void border_weight_bwd(const BorderBiasBackward<T>& a, int64_t block) {
  using A = Acc<T>;
  const int64_t C = a.layout.C, d = block / a.weight_tiles, tile = block - d * a.weight_tiles;
  const int64_t i = tile * kThreads + threadIdx.x;
  const bool taps_inner = a.layout.tap == 1 && a.layout.channel == 9;
  const int64_t c = taps_inner ? i / 9 : i % C;
  const int t = int(taps_inner ? i - c * 9 : i / C);
  A total = 0, bias = 0, of_channel[9];
  for (int64_t n = 0; n < a.N; ++n) {
    load_classes(of_channel, a.grad_border, n, d, a.D);
#pragma unroll
    for (int k = 0; k < 9; ++k) bias += of_channel[k];
    if (i < C * 9) {
      total += tap_gradient(of_channel, t / 3, t % 3, a.H, a.W) * a.context[n * C + c];
    }
  }
  if (i < C * 9) a.grad_weight[a.layout.at(d, c, t)] = total;
  if (i == 0) a.grad_bias[d] = bias;
}

// partial[n, chunk, c] = sum over the chunk's d and all taps of the tap's gradient times weight[d, c, t].
// A warp takes 32 channels c and shares the chunk with the block's other warps.
template <class T>
__device__ __forceinline__ void border_context_bwd(const BorderBiasBackward<T>& a, int64_t block,
                                                   Acc<T> (&lanes)[kThreads / kWarp][kWarp]) {
  using A = Acc<T>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t rest = block / a.channel_tiles, C = a.layout.C;
  const int64_t n = rest / a.chunks, chunk = rest - n * a.chunks;
  const int64_t c = (block - rest * a.channel_tiles) * kWarp + lane;
  A total = 0, of_channel[9];
  if (c < C) {
    for (int i = warp; i < kChunk; i += kThreads / kWarp) {
      const int64_t d = chunk * kChunk + i;
      if (d >= a.D) break;
      load_classes(of_channel, a.grad_border, n, d, a.D);
#pragma unroll
      for (int t = 0; t < 9; ++t) {
        total += tap_gradient(of_channel, t / 3, t % 3, a.H, a.W) *
                 widen(a.weight[a.layout.at(d, c, t)]);
      }
    }
  }
  lanes[warp][lane] = total;
  __syncthreads();
  if (warp != 0 || c >= C) return;
  for (int w = 1; w < kThreads / kWarp; ++w) total += lanes[w][lane];
  a.partial[rest * C + c] = total;
}

// One launch for both. grid: blocks of the context, then those of the weights.
template <class T>
__global__ void __launch_bounds__(kThreads) border_bias_bwd_kernel(const BorderBiasBackward<T> a) {
  __shared__ Acc<T> lanes[kThreads / kWarp][kWarp];
  const int64_t of_context = a.N * a.chunks * a.channel_tiles;
  if (blockIdx.x < of_context) return border_context_bwd(a, blockIdx.x, lanes);
  border_weight_bwd(a, blockIdx.x - of_context);
}

}  // namespace

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
  Tensor partial = stream.empty({N, chunks, C}, acc);
  dispatch(weight.scalar_type(), "border_bias_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const int64_t weight_tiles = ceil_div(C * 9, kThreads), channel_tiles = ceil_div(C, kWarp);
    const BorderBiasBackward<T> a{
        data<A>(grad_border), data<A>(context),       data<T>(weight),  data<A>(grad_weight),
        data<A>(grad_bias),   data<A>(partial),       WeightLayout(weight, C), N, D, H, W,
        unsigned(chunks),     unsigned(weight_tiles), unsigned(channel_tiles)};
    stream.launch(border_bias_bwd_kernel<T>,
                  dim3(unsigned(N * chunks * channel_tiles + D * weight_tiles)), dim3(kThreads), a);
    sum_partials<A>(stream, {{data<A>(partial), data<A>(grad_context), N, chunks, C, chunks * C, C}});
  });
  return {grad_context, grad_weight, grad_bias};
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("border_bias", TORCH_BOX(&efpn::cuda::border_bias));
  m.impl("border_bias_backward", TORCH_BOX(&efpn::cuda::border_bias_backward));
}
