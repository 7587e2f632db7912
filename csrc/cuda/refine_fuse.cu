// Fuse and separate, Eq. 7 and 5: the mask of two gates and (p_low + context) * mask in one pass, and
// the backward of the fuse convolution.
//
// gate_apply  bytes: p_low read, x written: [1, 256, 200, 200] bf16: 41 MB, 9.5 us at 4.3 TB/s. A block
//             makes the mask of its pixels from the gates' sum in shared memory while its first loads of
//             p_low are under way. Measured on an H200 (benchmarks/results/nvidia-h200/kernels.json): 17 us
//             channels_last; a fourth block on every SM brought 1.5 us.
#include "channel_sum.cuh"

namespace efpn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kMostPixels = 512;  // of a block
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kLastBlocks = 3;  // of channels_last on an SM; with four, ptxas spills there
#else
constexpr int kLastBlocks = 4;
#endif

template <class T>
struct GateApply {
  const T* p_low;
  const Acc<T>*context, *m_high, *m_low;  // context may be null
  const T *fuse_weight, *fuse_bias;
  T* x;
  Acc<T>* mask;
  int64_t N, C, H, W;
};

template <class A, int V>
struct MaskTile {
  A sums[3][kMostPixels + 2];  // m_high + m_low around the tile: the rows above, at and below
  ThreadVectors<A, V, kMostPixels / V> mask;
};

// The mask of the pixels [first, first + count) of sample n, into shared memory and, if `write`, out.
template <int V, class T>
__device__ __forceinline__ void make_mask(const GateApply<T>& a, MaskTile<Acc<T>, V>& tile,
                                          int64_t n, int64_t first, int count, int thread,
                                          bool write) {
  using A = Acc<T>;
  const int64_t P = a.H * a.W;
  for (int i = thread; i < 3 * (count + 2); i += kThreads) {
    const int row = i / (count + 2), column = i - row * (count + 2);
    const int64_t p = first + column - 1 + (row - 1) * a.W;
    A sum = 0;
    if (p >= 0 && p < P) sum = __ldg(a.m_high + n * P + p) + __ldg(a.m_low + n * P + p);
    tile.sums[row][column] = sum;
  }
  __syncthreads();
  for (int i = thread; i < count; i += kThreads) {
    const int64_t y = divide(first + i, a.W), x = first + i - y * a.W;
    A logit = widen(a.fuse_bias[0]);
#pragma unroll
    for (int ky = 0; ky < 3; ++ky) {
#pragma unroll
      for (int kx = 0; kx < 3; ++kx) {
        const int64_t v = y + ky - 1, u = x + kx - 1;
        const bool inside = v >= 0 && v < a.H && u >= 0 && u < a.W;
        // A zero, as it is padded, and no tap less: an infinite weight makes NaN of it.
        logit += widen(a.fuse_weight[3 * ky + kx]) * (inside ? tile.sums[ky][i + kx] : A(0));
      }
    }
    const A mask = sigmoid(logit);
    tile.mask.at(i) = mask;
    if (write) a.mask[n * P + first + i] = mask;
  }
  __syncthreads();
}

// grid: (pixel tiles, N).
template <int V, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) < 8 ? kLastBlocks : 1)
    gate_apply_last_kernel(const GateApply<T> a, const int pixels) {
  using A = Acc<T>;
  __shared__ MaskTile<A, 1> tile;
  const int64_t n = blockIdx.y, P = a.H * a.W, first = int64_t(blockIdx.x) * pixels;
  const int count = int(P - first < pixels ? P - first : pixels);
  const unsigned vectors = unsigned(a.C / V);
  const int64_t extent = int64_t(count) * vectors, offset = (n * P + first) * a.C;
  Storage<T, V> raw[kUnroll];
  const auto load_from = [&](int64_t base) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = base + u * kThreads + threadIdx.x;
      if (i < extent) raw[u] = load_raw<V>(a.p_low + offset + i * V);
    }
  };
  load_from(0);
  // Kept while the next vector of the thread has the same channels: where C / V divides the block.
  unsigned held = threadIdx.x % vectors * V;
  Vec<A, V> g = context_at<true, V>(a.context, At{n, held, 0, 0}, a.C);
  make_mask(a, tile, n, first, count, threadIdx.x, true);
  for (int64_t base = 0; base < extent; base += kUnroll * kThreads) {
    if (base > 0) load_from(base);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = base + u * kThreads + threadIdx.x;
      if (i >= extent) break;
      const unsigned pixel = unsigned(i) / vectors, c = (unsigned(i) - pixel * vectors) * V;
      const A mask = tile.mask.at(pixel);
      Vec<A, V> x = widen<V>(raw[u]);
      if (c != held) g = context_at<true, V>(a.context, At{n, held = c, 0, 0}, a.C);
#pragma unroll
      for (int v = 0; v < V; ++v) x[v] = (x[v] + g[v]) * mask;
      store(a.x + offset + i * V, x);
    }
  }
}

constexpr int kPlaneVectors = 64;    // of pixels, in a block
constexpr int kPlaneChannels = 64;   // of a block

// grid: (pixel tiles, channel groups, N). block: 64 vectors of pixels x 4 channels.
template <int V, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) < 8 ? 2 : 1)
    gate_apply_plane_kernel(const GateApply<T> a) {
  using A = Acc<T>;
  constexpr int kRows = kThreads / kPlaneVectors;
  __shared__ MaskTile<A, V> tile;
  const int64_t n = blockIdx.z, P = a.H * a.W, first = int64_t(blockIdx.x) * kPlaneVectors * V;
  const int count = int(P - first < kPlaneVectors * V ? P - first : kPlaneVectors * V);
  const int i = threadIdx.x % kPlaneVectors * V, row = threadIdx.x / kPlaneVectors;
  const int64_t c_begin = int64_t(blockIdx.y) * kPlaneChannels + row;
  const int64_t c_end = min(int64_t(blockIdx.y + 1) * kPlaneChannels, a.C);
  const auto offset = [&](int64_t c) { return (n * a.C + c) * P + first + i; };
  Storage<T, V> raw[kUnroll];
  const auto load_from = [&](int64_t c) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (i < count && c + u * kRows < c_end) raw[u] = load_raw<V>(a.p_low + offset(c + u * kRows));
    }
  };
  load_from(c_begin);
  make_mask(a, tile, n, first, count, threadIdx.x, blockIdx.y == 0);
  if (i >= count) return;
  const Vec<A, V> mask = tile.mask.get(i / V);  // of the thread's pixels, for all its channels
  for (int64_t c0 = c_begin; c0 < c_end; c0 += kUnroll * kRows) {
    if (c0 > c_begin) load_from(c0);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t c = c0 + u * kRows;
      if (c >= c_end) break;
      Vec<A, V> x = widen<V>(raw[u]);
      const A g = a.context ? __ldg(a.context + n * a.C + c) : A(0);
#pragma unroll
      for (int v = 0; v < V; ++v) x[v] = (x[v] + g) * mask[v];
      store(a.x + offset(c), x);
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor> gate_apply(const Tensor& p_low, const std::optional<Tensor>& context,
                                      const Tensor& m_high, const Tensor& m_low,
                                      const Tensor& fuse_weight, const Tensor& fuse_bias) {
  const Stream stream(p_low);
  const Map m(p_low);
  Tensor x = stream.empty_like(p_low);
  Tensor mask = stream.empty({m.N, 1, m.H, m.W}, m_high.scalar_type());
  if (m.numel() == 0) return {x, mask};
  dispatch(p_low.scalar_type(), "gate_apply", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const GateApply<T> a{data<T>(p_low), data<A>(context),     data<A>(m_high),
                         data<A>(m_low), data<T>(fuse_weight), data<T>(fuse_bias),
                         data<T>(x),     data<A>(mask),        m.N,
                         m.C,            m.H,                  m.W};
    dispatch_width<T>(wide_map<T>(m, {a.p_low, a.x, a.context}), [&](auto v) {
      constexpr int V = decltype(v)::value;
      if (m.channels_last) {
        const int pixels = int(clamp(kThreads * kUnroll * V / m.C, 1, kMostPixels));
        stream.launch(gate_apply_last_kernel<V, T>,
                      dim3(unsigned(ceil_div(m.pixels(), pixels)), unsigned(m.N)), dim3(kThreads),
                      a, pixels);
      } else {
        stream.launch(gate_apply_plane_kernel<V, T>,
                      dim3(unsigned(ceil_div(m.pixels(), kPlaneVectors * V)),
                           unsigned(ceil_div(m.C, kPlaneChannels)), unsigned(m.N)),
                      dim3(kThreads), a);
      }
    });
  });
  return {x, mask};
}

namespace {

// ---- the backward of the fuse convolution -------------------------------------------------------------

// Ten sums of a block: grad_fuse_weight and grad_fuse_bias. A thread for a pixel at a time.
template <class T>
__global__ void __launch_bounds__(kThreads)
    fuse_bwd_kernel(const Acc<T>* grad_logit, const Acc<T>* m_high, const Acc<T>* m_low,
                    const T* fuse_weight, Acc<T>* grad_sum, Acc<T>* weight_partial,
                    Acc<T>* bias_partial, const int64_t pixels, const int64_t chunk,
                    const int64_t H, const int64_t W) {
  using A = Acc<T>;
  __shared__ A shared[10 * kThreads / kWarp];
  const int64_t begin = blockIdx.x * chunk;
  const int64_t end = begin + chunk < pixels ? begin + chunk : pixels;
  A sums[10] = {};
  for (int64_t q = begin + threadIdx.x; q < end; q += kThreads) {
    const int64_t row = divide(q, W), x = q - row * W, y = row - divide(row, H) * H;
    const A here = grad_logit[q];
    A grad = 0;
#pragma unroll
    for (int ky = 0; ky < 3; ++ky) {
#pragma unroll
      for (int kx = 0; kx < 3; ++kx) {
        // The pixel at the tap; it reads this one by the opposite tap.
        const int64_t v = y + ky - 1, u = x + kx - 1;
        if (v < 0 || v >= H || u < 0 || u >= W) continue;
        const int64_t at = q + (ky - 1) * W + kx - 1;
        sums[3 * ky + kx] += here * (m_high[at] + m_low[at]);
        grad += widen(fuse_weight[8 - 3 * ky - kx]) * grad_logit[at];
      }
    }
    grad_sum[q] = grad;
    sums[9] += here;
  }
  block_sum(sums, shared, threadIdx.x, kThreads);
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int t = 0; t < 9; ++t) weight_partial[blockIdx.x * 9 + t] = sums[t];
  bias_partial[blockIdx.x] = sums[9];
}

constexpr int64_t kFuseBlocks = 512;

}  // namespace

std::tuple<Tensor, Tensor, Tensor> fuse_backward(const Tensor& grad_logit, const Tensor& m_high,
                                                 const Tensor& m_low, const Tensor& fuse_weight) {
  const Stream stream(grad_logit);
  const ScalarType acc = grad_logit.scalar_type();
  const int64_t N = grad_logit.size(0), H = grad_logit.size(2), W = grad_logit.size(3);
  const int64_t pixels = N * H * W;
  const int64_t chunk = ceil_div(ceil_div(pixels, kFuseBlocks), kThreads) * kThreads;
  const int64_t blocks = pixels > 0 ? ceil_div(pixels, chunk) : 0;
  Tensor grad_sum = stream.empty({N, 1, H, W}, acc);
  Tensor grad_weight = stream.empty({1, 1, 3, 3}, acc);
  Tensor grad_bias = stream.empty({1}, acc);
  Tensor partial = stream.empty({blocks * 10}, acc);
  dispatch(fuse_weight.scalar_type(), "fuse_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    A* weights = data<A>(partial);
    A* biases = weights + blocks * 9;
    stream.launch(fuse_bwd_kernel<T>, dim3(unsigned(blocks)), dim3(kThreads), data<A>(grad_logit),
                  data<A>(m_high), data<A>(m_low), data<T>(fuse_weight), data<A>(grad_sum),
                  weights, biases, pixels, chunk, H, W);
    sum_partials<A>(stream, {{weights, data<A>(grad_weight), 1, blocks, 9, 0, 0},
                             {biases, data<A>(grad_bias), 1, blocks, 1, 0, 0}});
  });
  return {grad_sum, grad_weight, grad_bias};
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("gate_apply", TORCH_BOX(&efpn::cuda::gate_apply));
  m.impl("fuse_backward", TORCH_BOX(&efpn::cuda::fuse_backward));
}
