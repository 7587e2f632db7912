// The high gate, Eq. 6, commuted: nine low-resolution tap maps, interpolated, shifted and summed, then
// ReLU, 1x1 convolution and sigmoid; its backward; and the same for a mask per channel.
//
// The interpolation is separable. A first kernel interpolates along x and sums the three columns of taps:
//   rows[n, i, ky, m] = sum over kx of taps[n, i, ., 3 ky + kx, d] at x + kx - 1,
// where m is the position (x, d) with channels innermost, or (d, x). A second one walks down the columns:
//   A[n, y, m] = bias[d] + sum over ky of rows[n, ., ky, m] at y + ky - 1.
// Both walk: a thread keeps the two samples that each of the three taps lies between, and reads a new one
// only when the walk enters the next cell. The backward is the adjoint of both, walked the same way with
// the two sums under way in registers: a gather, no atomics.
//
// Sizes for 25 x 25 -> 200 x 200, D = 256: taps 5.8 MB, rows 15 MB, both stay in L2. Naively an output
// reads 36 taps: 1.5 GB. Walking 16 rows reads less than one row vector an output: 40 MB of L2 traffic (61 MB
// with 8 rows; counted), 7 us, and the first kernel 40 MB, 7 us. At N = 1 all blocks are resident at once. Samples go in groups whose rows fit the L2 cache.
// Measured on an H200 (benchmarks/results/nvidia-h200/kernels.json): 28 us for both. A walk waits
// for memory once; one that waited at its start and in every cell took as long. Strips of 8 rows: 29 us.
#include "upsample.cuh"

namespace efpn {
namespace cuda {
namespace {

// ---- y: the gate -----------------------------------------------------------------------------------------

constexpr int kGateRows = 16;
constexpr int kGateWarps = 4;

template <class T>
struct Gate {
  const Acc<T>* rows;
  const T *bias, *gate_weight, *gate_bias;
  Acc<T>* gate;
  Level level;
};

// The sums of a thread's rows lie in shared memory: in registers they would spill.
// grid: (column tiles, strips of 16 rows, samples). block: (32 lanes along channels, 4 columns).
template <int V, class T>
__global__ void __launch_bounds__(kWarp* kGateWarps, sizeof(T) < 8 ? 5 : 1)
    gate_kernel(const Gate<T> a) {
  using A = Acc<T>;
  const Level& l = a.level;
  __shared__ Cell<A> sources[kGateRows + 2];
  __shared__ A dots[kGateRows][kWarp * kGateWarps];
  const int64_t y0 = int64_t(blockIdx.y) * kGateRows;
  make_sources<kGateRows + 2>(sources, y0 - 1, l.h, l.H, threadIdx.y * kWarp + threadIdx.x);
  const int64_t x = int64_t(blockIdx.x) * kGateWarps + threadIdx.y, n = blockIdx.z;
  if (x >= l.W) return;
  const A* column = a.rows + n * l.h * 3 * l.W * l.D + x * l.D;
  const int thread = threadIdx.y * kWarp + threadIdx.x;
  for (int64_t d = int64_t(threadIdx.x) * V; d < l.D; d += kWarp * V) {
    Walk<A, V, true> walk(column + d, 3 * l.W * l.D, l.W * l.D, l.h);
    asm volatile("" ::: "memory");  // the sources stay in shared memory: kept, they would spill
    walk.start(sources);
    const Vec<A, V> bias = load<V>(a.bias + d), weight = load<V>(a.gate_weight + d);
#pragma unroll
    for (int r = 0; r < kGateRows; ++r) {  // past the image: harmless, and not stored
      const Vec<A, V> hidden = walk.next(sources + r, bias);
      A dot = threadIdx.x * V == d ? A(0) : dots[r][thread];
#pragma unroll
      for (int v = 0; v < V; ++v) dot += weight[v] * relu(hidden[v]);
      dots[r][thread] = dot;
    }
  }
  const A gate_bias = widen(a.gate_bias[0]);
#pragma unroll
  for (int r = 0; r < kGateRows; ++r) {
    const A total = warp_sum(threadIdx.x * V < l.D ? dots[r][thread] : A(0));
    if (threadIdx.x == 0 && y0 + r < l.H) {
      a.gate[(n * l.H + y0 + r) * l.W + x] = sigmoid(total + gate_bias);
    }
  }
}

}  // namespace

Tensor upsampled_gate(const Tensor& taps, const Tensor& bias, const Tensor& gate_weight,
                      const Tensor& gate_bias, int64_t H, int64_t W) {
  const Stream stream(taps);
  const Level level(taps, H, W, true);
  Tensor gate = stream.empty({level.N, 1, H, W}, taps.scalar_type());
  if (gate.numel() == 0) return gate;
  dispatch(bias.scalar_type(), "upsampled_gate", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const Tensor scratch = empty_rows<A>(stream, level);
    A* rows = data<A>(scratch);
    for_sample_groups<A>(level, [&](const Level& l, int64_t n0) {
      interpolate_x<A>(stream, l, data<A>(taps) + n0 * l.tap_values(), rows);
      const Gate<T> a{rows,
                      data<T>(bias),
                      data<T>(gate_weight),
                      data<T>(gate_bias),
                      data<A>(gate) + n0 * H * W,
                      l};
      const bool wide = l.D % kWidth<A> == 0 && aligned({a.bias, a.gate_weight, rows});
      dispatch_width<A>(wide, [&](auto v) {
        stream.launch(gate_kernel<decltype(v)::value, T>,
                      dim3(unsigned(ceil_div(W, kGateWarps)), unsigned(ceil_div(H, kGateRows)),
                           unsigned(l.N)),
                      dim3(kWarp, kGateWarps), a);
      });
    });
  });
  return gate;
}

namespace {

// ---- y: relu(A) as a map -----------------------------------------------------------------------------------

template <class T>
struct ReLUMap {
  const Acc<T>* rows;
  const T* bias;
  T* out;
  Level level;
};

// grid: (tiles of positions m, strips of 16 rows, samples).
template <int V, class T>
__global__ void __launch_bounds__(128) relu_map_kernel(const ReLUMap<T> a) {
  using A = Acc<T>;
  const Level& l = a.level;
  __shared__ Cell<A> sources[kGateRows + 2];
  const int64_t y0 = int64_t(blockIdx.y) * kGateRows;
  make_sources<kGateRows + 2>(sources, y0 - 1, l.h, l.H, threadIdx.x);
  const int64_t m = (int64_t(blockIdx.x) * 128 + threadIdx.x) * V, n = blockIdx.z;
  const int64_t M = l.W * l.D;
  if (m >= M) return;
  Walk<A, V, true> walk(a.rows + n * l.h * 3 * M + m, 3 * M, M, l.h);
  walk.start(sources);
  const Vec<A, V> bias = l.template bias_at<V>(a.bias, m);
#pragma unroll
  for (int r = 0; r < kGateRows; ++r) {
    Vec<A, V> hidden = walk.next(sources + r, bias);
#pragma unroll
    for (int v = 0; v < V; ++v) hidden[v] = relu(hidden[v]);
    if (y0 + r < l.H) store(a.out + l.offset(n, y0 + r, m), hidden);
  }
}

}  // namespace

Tensor upsampled_relu(const Tensor& taps, const Tensor& bias, int64_t H, int64_t W,
                      bool channels_last) {
  const Stream stream(taps);
  const Level level(taps, H, W, channels_last);
  Tensor out = stream.empty_map(level.N, level.D, H, W, channels_last, bias.scalar_type());
  if (out.numel() == 0) return out;
  dispatch(bias.scalar_type(), "upsampled_relu", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const Tensor scratch = empty_rows<A>(stream, level);
    A* rows = data<A>(scratch);
    for_sample_groups<A>(level, [&](const Level& l, int64_t n0) {
      interpolate_x<A>(stream, l, data<A>(taps) + n0 * l.tap_values(), rows);
      const ReLUMap<T> a{rows, data<T>(bias), data<T>(out) + n0 * H * W * l.D, l};
      const bool wide = l.inner() % kWidth<A> == 0 && aligned({a.bias, a.out, rows});
      dispatch_width<A>(wide, [&](auto v) {
        constexpr int V = decltype(v)::value;
        stream.launch(relu_map_kernel<V, T>,
                      dim3(unsigned(ceil_div(W * l.D, 128 * V)), unsigned(ceil_div(H, kGateRows)),
                           unsigned(l.N)),
                      dim3(128), a);
      });
    });
  });
  return out;
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("upsampled_gate", TORCH_BOX(&efpn::cuda::upsampled_gate));
  m.impl("upsampled_relu", TORCH_BOX(&efpn::cuda::upsampled_relu));
}
