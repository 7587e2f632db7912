// The low gate, Eq. 6: border constant, ReLU, 1x1 convolution and sigmoid in one pass over the
// convolution's output; and its backward.
//
// low_gate           bytes: conv read once. [1, 256, 200, 200] bf16: 20 MB, 4.8 us at 4.3 TB/s.
//                    channels_last: a group of lanes takes a pixel, 16 bytes a lane, two pixels in
//                    flight, so that the gate's weights and the border constants are read once for two.
//                    contiguous: a block takes 32 vectors of pixels, its warps share the channels.
// low_gate_backward  bytes: conv read, grad_conv written: 41 MB, 9.5 us. The sums over pixels stay in
//                    registers: a strip of rows has one row class, so three sums for each channel do.
// Measured on an H200 (benchmarks/results/nvidia-h200/kernels.json), channels_last: 15 and 30 us.
#include "border.cuh"

namespace efpn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPixels = 2;  // of a group of lanes, in flight

template <class T>
struct LowGate {
  const T* conv;
  const Acc<T>* border;
  const T *gate_weight, *gate_bias;
  Acc<T>* gate;
  int64_t N, D, H, W;
};

// grid: pixels. block: groups of `lanes` (a power of two up to 32).
template <int V, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) < 8 ? 4 : 1)
    low_gate_last_kernel(const LowGate<T> a, const int lanes) {
  using A = Acc<T>;
  const int lane = threadIdx.x % lanes;
  const int64_t group = int64_t(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;
  const int64_t P = a.H * a.W, first = group * kPixels, pixels = a.N * P;
  Storage<T, V> raw[kPixels];
  const auto load_from = [&](int64_t d) {
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      if (first + u < pixels && d < a.D) raw[u] = load_raw<V>(a.conv + (first + u) * a.D + d);
    }
  };
  load_from(int64_t(lane) * V);
  // Row of `border` that each pixel reads.
  int64_t row[kPixels];
  {
    const int64_t n0 = divide(first, P), p0 = first - n0 * P;
    int64_t n = n0, y = divide(p0, a.W), x = p0 - y * a.W;
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      row[u] = (n * 9 + border_class(y, a.H) * 3 + border_class(x, a.W)) * a.D;
      if (++x == a.W) {
        x = 0;
        if (++y == a.H) {
          y = 0;
          ++n;
        }
      }
    }
  }
  A dot[kPixels] = {};
  for (int64_t d = int64_t(lane) * V; d < a.D; d += int64_t(lanes) * V) {
    if (d >= int64_t(lanes) * V) load_from(d);
    const Vec<A, V> weight = load<V>(a.gate_weight + d);
    Vec<A, V> border;
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      if (first + u >= pixels) break;
      if (u == 0 || row[u] != row[u > 0 ? u - 1 : 0]) border = load<V>(a.border + row[u] + d);
      const Vec<A, V> z = widen<V>(raw[u]);
#pragma unroll
      for (int v = 0; v < V; ++v) dot[u] += weight[v] * relu(z[v] + border[v]);
    }
  }
  const A bias = widen(a.gate_bias[0]);
#pragma unroll
  for (int u = 0; u < kPixels; ++u) dot[u] = warp_sum(dot[u], lanes);
  // One store for all pixels of the group, where it has a lane for each.
  for (int own = lane; own < kPixels; own += lanes) {
    A total = dot[0];
#pragma unroll
    for (int u = 1; u < kPixels; ++u) total = own == u ? dot[u] : total;
    if (first + own < pixels) a.gate[first + own] = sigmoid(total + bias);
  }
}

constexpr int kPlaneWarps = 16;

// grid: (pixel tiles, N). block: (32 vectors of pixels, 16 warps that share the channels).
template <int V, class T>
__global__ void __launch_bounds__(kWarp* kPlaneWarps) low_gate_plane_kernel(const LowGate<T> a) {
  using A = Acc<T>;
  __shared__ ThreadVectors<A, V, kWarp> shared[kPlaneWarps];
  const int64_t P = a.H * a.W, tile = int64_t(blockIdx.x) * kWarp * V, n = blockIdx.y;
  const int64_t p = tile + threadIdx.x * V;
  Vec<A, V> dot = fill<A, V>(A(0));
  if (p < P) {
    const int64_t y = divide(p, a.W), x = p - y * a.W;
    const int cy = border_class(y, a.H);
#pragma unroll 4
    for (int64_t d = threadIdx.y; d < a.D; d += kPlaneWarps) {
      const Vec<A, V> z = load<V>(a.conv + (n * a.D + d) * P + p);
      const Vec<A, V> border = border_at<false, V>(a.border, n, d, cy, x, a.W, a.D);
      const A weight = widen(a.gate_weight[d]);
#pragma unroll
      for (int v = 0; v < V; ++v) dot[v] += weight * relu(z[v] + border[v]);
    }
  }
  shared[threadIdx.y].put(threadIdx.x, dot);
  __syncthreads();
  const int i = threadIdx.y * kWarp + threadIdx.x;
  if (i >= kWarp * V || tile + i >= P) return;
  A total = widen(a.gate_bias[0]);
#pragma unroll
  for (int w = 0; w < kPlaneWarps; ++w) total += shared[w].at(i);
  a.gate[n * P + tile + i] = sigmoid(total);
}

}  // namespace

Tensor low_gate(const Tensor& conv, const Tensor& border, const Tensor& gate_weight,
                const Tensor& gate_bias) {
  const Stream stream(conv);
  const Map m(conv);
  Tensor gate = stream.empty({m.N, 1, m.H, m.W}, border.scalar_type());
  const int64_t pixels = m.N * m.pixels();
  if (pixels == 0) return gate;
  dispatch(conv.scalar_type(), "low_gate", [&](auto t) {
    using T = typename decltype(t)::type;
    const LowGate<T> a{data<T>(conv),      data<Acc<T>>(border), data<T>(gate_weight),
                       data<T>(gate_bias), data<Acc<T>>(gate),   m.N, m.C, m.H, m.W};
    dispatch_width<T>(wide_border_map<T>(m, {a.conv, a.border, a.gate_weight}), [&](auto v) {
      constexpr int V = decltype(v)::value;
      if (m.channels_last) {
        const int lanes = lanes_for(m.C / V, kWarp);
        const int64_t groups = ceil_div(pixels, kPixels);
        stream.launch(low_gate_last_kernel<V, T>, dim3(unsigned(ceil_div(groups, kThreads / lanes))),
                      dim3(kThreads), a, lanes);
      } else {
        stream.launch(low_gate_plane_kernel<V, T>,
                      dim3(unsigned(ceil_div(m.pixels(), kWarp * V)), unsigned(m.N)),
                      dim3(kWarp, kPlaneWarps), a);
      }
    });
  });
  return gate;
}

namespace {

// ---- backward ------------------------------------------------------------------------------------------

template <class T, int V, bool channels_last>
struct LowGateBackward {
  using A = Acc<T>;
  const A *grad_gate, *gate;
  const T* conv;
  const A* border;
  const T* gate_weight;
  T* grad_conv;
  int64_t D, P, W;

  struct Loaded {
    Storage<T, V> conv;
    Vec<A, V> grad_logit;
  };
  __device__ __forceinline__ Loaded load(const At& at) const {
    Loaded in{load_raw<V>(conv + at.offset), gate_at<channels_last, V>(grad_gate, at, P)};
    const Vec<A, V> g = gate_at<channels_last, V>(gate, at, P);
#pragma unroll
    for (int v = 0; v < V; ++v) in.grad_logit[v] *= gate_slope(g[v]);
    return in;
  }
  struct Channel {
    Storage<T, channels_last ? V : 1> weight;
    Vec<A, V> inner;  // constants of the pixels that lie at no end of a row
  };
  __device__ __forceinline__ Channel channel(const At& at, int cy) const {
    return {load_raw<channels_last ? V : 1>(gate_weight + at.c),
            inner_border<channels_last, V>(border, at.n, at.c, cy, D)};
  }
  // Writes grad_conv and returns it unrounded.
  __device__ __forceinline__ Vec<A, V> apply(const At& at, int cy, int64_t x, const Loaded& in,
                                             const Channel& channel, Vec<A, V>& grad_weight,
                                             A& grad_bias) const {
    const Vec<A, V> z = widen<V>(in.conv);
    Vec<A, V> constant = channel.inner;
    if (!inner_columns<channels_last, V>(x, W)) {
      constant = border_at<channels_last, V>(border, at.n, at.c, cy, x, W, D);
    }
    Vec<A, V> weight;
    if constexpr (channels_last) {
      weight = widen<V>(channel.weight);
    } else {
      weight = fill<A, V>(cuda::widen(channel.weight.v[0]));
    }
    Vec<A, V> grad;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A hidden = z[v] + constant[v];
      grad[v] = relu_gradient(hidden, in.grad_logit[v] * weight[v]);
      grad_weight[v] += in.grad_logit[v] * relu(hidden);
      if (!channels_last || v == 0) grad_bias += in.grad_logit[v];
    }
    store(grad_conv + at.offset, grad);
    return grad;
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> low_gate_backward(const Tensor& grad_gate,
                                                             const Tensor& gate,
                                                             const Tensor& conv,
                                                             const Tensor& border,
                                                             const Tensor& gate_weight) {
  const Stream stream(conv);
  const Map m(conv);
  const ScalarType acc = border.scalar_type();
  Tensor grad_conv = stream.empty_like(conv);
  Tensor grad_border = stream.empty({m.N, 3, 3, m.C}, acc);
  Tensor grad_weight = stream.empty({m.C}, acc);
  Tensor grad_bias = stream.empty({1}, acc);
  dispatch(conv.scalar_type(), "low_gate_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const bool wide = wide_border_map<T>(
        m, {data<T>(conv), data<A>(border), data<T>(gate_weight), data<T>(grad_conv),
            data<A>(grad_gate), data<A>(gate)});
    dispatch_width<T>(wide, [&](auto v) {
      dispatch_bool(m.channels_last, [&](auto last) {
        constexpr int V = decltype(v)::value;
        constexpr bool L = decltype(last)::value;
        const LowGateBackward<T, V, L> body{data<A>(grad_gate), data<A>(gate),
                                            data<T>(conv),      data<A>(border),
                                            data<T>(gate_weight), data<T>(grad_conv),
                                            m.C,                m.pixels(),
                                            m.W};
        class_sums<T, L, V>(stream, m, body, data<A>(grad_border), data<A>(grad_weight),
                            data<A>(grad_bias));
      });
    });
  });
  return {grad_conv, grad_border, grad_weight, grad_bias};
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("low_gate", TORCH_BOX(&efpn::cuda::low_gate));
  m.impl("low_gate_backward", TORCH_BOX(&efpn::cuda::low_gate_backward));
}
