// The backward of the high gate: recomputes A from the taps, then gathers along y and along x.
// See high_gate.cu for the walks.
//
// A first walk, down the columns, rebuilds A, makes the gradient before the ReLU, sums the gradients of
// bias and gate weight, and gathers along y into grad_rows (the layout of rows). A strip of low-resolution
// rows belongs to one thread, which also visits the few positions above and below that read it. A second
// walk gathers along x into grad_taps.
// Bytes at 25 x 25 -> 200 x 200, D = 256: 15 MB of rows and of grad_rows each written and read, in L2.
// Operations: about 25 per output and channel, a fifth of them twice: 15 us on 132 SMs.
// Measured on an H200 (benchmarks/results/nvidia-h200/kernels.json): 70 us. The gate, its gradient and
// the columns are loaded ahead: waited for at every position, they made it 104.
#include "reduce.cuh"
#include "upsample.cuh"

namespace efpn {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kStrip = 5;   // low-resolution rows of a thread
constexpr int kBatch = 32;  // positions whose sources are in shared memory

template <class T>
struct RowsBackward {
  using A = Acc<T>;
  const A* rows;
  const T* bias;
  const A *grad_gate, *gate;  // of a gate, with gate_weight
  const T* gate_weight;
  const T* grad;              // of a map
  A* grad_rows;
  A *bias_partial, *weight_partial;  // [N, strips, M]
  A* gate_partial;                   // [N, strips, W]
  Level level;
};

// What a position gets from above: of a gate, its gradient and value; of a map, V gradients.
template <bool is_gate, int V, class T>
struct Above {
  Acc<T> grad, gate;

  __device__ __forceinline__ void load(const RowsBackward<T>& a, int64_t at) {
    grad = __ldg(a.grad_gate + at);
    gate = __ldg(a.gate + at);
  }
};
template <int V, class T>
struct Above<false, V, T> {
  Storage<T, V> grad;

  __device__ __forceinline__ void load(const RowsBackward<T>& a, int64_t at) {
    grad = load_raw<V>(a.grad + at);
  }
};

// grid: (tiles of positions m, strips, samples).
template <int V, bool is_gate, class T>
__global__ void __launch_bounds__(kThreads) rows_bwd_kernel(const RowsBackward<T> a) {
  using A = Acc<T>;
  const Level& l = a.level;
  __shared__ Cell<A> sources[kBatch + 2];
  const int64_t M = l.W * l.D, n = blockIdx.z, strip = blockIdx.y;
  const int64_t m = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * V;
  const bool inside = m < M;
  const int64_t begin = strip * kStrip;
  const int64_t end = begin + kStrip < l.h ? begin + kStrip : l.h;
  const Span span = readers(begin, end, l.h, l.H);
  const int64_t own_begin = bilinear_first_output(begin, l.h, l.H);
  const int64_t own_end = bilinear_first_output(end, l.h, l.H);

  const int64_t sample = n * l.h * 3 * M + m;
  Walk<A, V, false> walk(a.rows + sample, 3 * M, M, l.h);
  Gather<A, V> gather(a.grad_rows + sample, 3 * M, M, begin, end);
  Vec<A, V> bias = fill<A, V>(A(0)), weight = bias, bias_sum = bias, weight_sum = bias;
  A gate_sum = 0;
  // What comes from above at row y starts at `at`; it is loaded a row ahead.
  const int64_t x = is_gate ? divide(m, l.D) : 0;
  const int64_t row = is_gate ? l.W : (l.channels_last ? M : l.W);
  int64_t at = is_gate ? (n * l.H + span.begin) * l.W + x : l.offset(n, span.begin, m);
  Above<is_gate, V, T> above;
  if (inside) {
    bias = l.template bias_at<V>(a.bias, m);
    if constexpr (is_gate) weight = load<V>(a.gate_weight + (m - x * l.D));
    if (span.begin < span.end) above.load(a, at);
  }
  for (int64_t batch = span.begin; batch < span.end; batch += kBatch) {
    __syncthreads();
    make_sources<kBatch + 2>(sources, batch - 1, l.h, l.H, threadIdx.x);
    if (!inside) continue;
    if (batch == span.begin) walk.start(sources);
    const int rows = int(span.end - batch < kBatch ? span.end - batch : kBatch);
#pragma unroll 1
    for (int r = 0; r < rows; ++r) {
      const int64_t y = batch + r;
      const bool own = y >= own_begin && y < own_end;
      const Above<is_gate, V, T> here = above;
      at += row;
      if (y + 1 < span.end) above.load(a, at);
      const Vec<A, V> hidden = walk.next(sources + r, bias);
      Vec<A, V> grad;
      if constexpr (is_gate) {
        const A logit = here.grad * gate_slope(here.gate);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          grad[v] = logit * weight[v];
          if (own) weight_sum[v] += logit * relu(hidden[v]);
        }
        if (own) gate_sum += logit;
      } else {
        grad = widen<V>(here.grad);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        grad[v] = relu_gradient(hidden[v], grad[v]);
        if (own) bias_sum[v] += grad[v];
      }
      gather.add(sources + r, grad);
    }
  }
  if (!inside) return;
  gather.finish();
  const int64_t part = n * gridDim.y + strip;
  store(a.bias_partial + part * M + m, bias_sum);
  if constexpr (is_gate) {
    store(a.weight_partial + part * M + m, weight_sum);
    if (m == x * l.D) a.gate_partial[part * l.W + x] = gate_sum;
  }
}

constexpr int kTapThreads = 64;
constexpr int kTapStrip = 3;  // low-resolution columns of a thread
constexpr int kAhead = 4;     // divides kBatch

// grad_taps from grad_rows. grid: (N h 3, strips, channel tiles).
template <int V, class A>
__global__ void __launch_bounds__(kTapThreads)
    taps_bwd_kernel(const A* grad_rows, A* grad_taps, const Level l) {
  __shared__ Cell<A> sources[kBatch + 2];
  const int64_t d = (int64_t(blockIdx.z) * kTapThreads + threadIdx.x) * V;
  const bool inside = d < l.D;
  const int64_t row = blockIdx.x / 3, ky = blockIdx.x - row * 3;
  const int64_t begin = int64_t(blockIdx.y) * kTapStrip;
  const int64_t end = begin + kTapStrip < l.w ? begin + kTapStrip : l.w;
  const Span span = readers(begin, end, l.w, l.W);
  const A* in = grad_rows + int64_t(blockIdx.x) * l.W * l.D;
  const auto grad_at = [&](int64_t x) {
    if (l.channels_last) return load<V>(in + x * l.D + d);
    Vec<A, V> grad;
#pragma unroll
    for (int v = 0; v < V; ++v) grad[v] = in[(d + v) * l.W + x];
    return grad;
  };
  Gather<A, V> gather(grad_taps + (row * l.w * 9 + 3 * ky) * l.D + d, 9 * l.D, l.D, begin, end);
  // kAhead columns are under way while as many are gathered.
  Vec<A, V> next[kAhead];
  const auto load_from = [&](int64_t x) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (x + u < span.end) next[u] = grad_at(x + u);
    }
  };
  if (inside) load_from(span.begin);
  for (int64_t batch = span.begin; batch < span.end; batch += kBatch) {
    __syncthreads();
    make_sources<kBatch + 2>(sources, batch - 1, l.w, l.W, threadIdx.x);
    if (!inside) continue;
    const int columns = int(span.end - batch < kBatch ? span.end - batch : kBatch);
#pragma unroll 1
    for (int r = 0; r < columns; r += kAhead) {
      Vec<A, V> grad[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) grad[u] = next[u];
      load_from(batch + r + kAhead);
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (r + u < columns) gather.add(sources + r + u, grad[u]);
      }
    }
  }
  if (inside) gather.finish();
}

// Sums on the way to the gradients of the parameters, in one allocation.
template <class A>
struct Partials {
  Tensor scratch;
  A *bias, *weight, *gate;     // of every strip
  A *bias_rows, *weight_rows;  // summed along x: [N strips, D]
  A* gate_columns;             // summed along y: [W]

  Partials(const Stream& stream, int64_t parts, int64_t W, int64_t D)
      : scratch(stream.empty({parts * (2 * W * D + 2 * D + W) + W}, kScalarType<A>)),
        bias(data<A>(scratch)),
        weight(bias + parts * W * D),
        gate(weight + parts * W * D),
        bias_rows(gate + parts * W),
        weight_rows(bias_rows + parts * D),
        gate_columns(weight_rows + parts * D) {}
};

template <bool is_gate, class T>
void run(const Stream& stream, const Level& level, const Acc<T>* taps, RowsBackward<T> a,
         const T* grad, Acc<T>* grad_taps, Acc<T>* grad_bias, Acc<T>* grad_weight,
         Acc<T>* grad_gate_bias) {
  using A = Acc<T>;
  const int64_t strips = ceil_div(level.h, kStrip), D = level.D, W = level.W, M = W * D;
  const int64_t pixels = level.H * level.W, parts = level.N * strips;
  const Partials<A> partials(stream, parts, W, D);
  const Tensor rows = empty_rows<A>(stream, level), grad_rows = empty_rows<A>(stream, level);
  const A *grad_gate = a.grad_gate, *gate = a.gate;
  a.rows = data<A>(rows);
  a.grad_rows = data<A>(grad_rows);
  for_sample_groups<A>(level, [&](const Level& l, int64_t n0) {
    interpolate_x<A>(stream, l, taps + n0 * l.tap_values(), data<A>(rows));
    a.level = l;
    a.bias_partial = partials.bias + n0 * strips * M;
    a.weight_partial = partials.weight + n0 * strips * M;
    a.gate_partial = partials.gate + n0 * strips * W;
    if constexpr (is_gate) {
      a.grad_gate = grad_gate + n0 * pixels;
      a.gate = gate + n0 * pixels;
    } else {
      a.grad = grad + n0 * pixels * D;
    }
    const bool wide = l.inner() % kWidth<A> == 0 &&
                      aligned({a.rows, a.grad_rows, a.bias, a.gate_weight, a.grad, a.bias_partial,
                               a.weight_partial});
    dispatch_width<A>(wide, [&](auto v) {
      constexpr int V = decltype(v)::value;
      stream.launch(rows_bwd_kernel<V, is_gate, T>,
                    dim3(unsigned(ceil_div(M, kThreads * V)), unsigned(strips), unsigned(l.N)),
                    dim3(kThreads), a);
    });
    A* to = grad_taps + n0 * l.tap_values();
    dispatch_width<A>(l.D % kWidth<A> == 0 && aligned({a.grad_rows, to}), [&](auto v) {
      constexpr int V = decltype(v)::value;
      stream.launch(taps_bwd_kernel<V, A>,
                    dim3(unsigned(l.N * l.h * 3), unsigned(ceil_div(l.w, kTapStrip)),
                         unsigned(ceil_div(D, kTapThreads * V))),
                    dim3(kTapThreads), a.grad_rows, to, l);
    });
  });
  if constexpr (is_gate) {
    sum_partials<A>(stream, {{partials.bias, partials.bias_rows, parts, W, D, M, D},
                             {partials.weight, partials.weight_rows, parts, W, D, M, D},
                             {partials.gate, partials.gate_columns, 1, parts, W, 0, 0}});
    sum_partials<A>(stream, {{partials.bias_rows, grad_bias, 1, parts, D, 0, 0},
                             {partials.weight_rows, grad_weight, 1, parts, D, 0, 0},
                             {partials.gate_columns, grad_gate_bias, 1, W, 1, 0, 0}});
  } else {
    if (level.channels_last) {
      sum_partials<A>(stream, {{partials.bias, partials.bias_rows, parts, W, D, M, D}});
    } else {
      sum_partials<A>(stream, {{partials.bias, partials.bias_rows, parts * D, W, 1, W, 1}});
    }
    sum_partials<A>(stream, {{partials.bias_rows, grad_bias, 1, parts, D, 0, 0}});
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> upsampled_gate_backward(const Tensor& grad_gate,
                                                                   const Tensor& gate,
                                                                   const Tensor& taps,
                                                                   const Tensor& bias,
                                                                   const Tensor& gate_weight) {
  const Stream stream(taps);
  const Level level(taps, gate.size(2), gate.size(3), true);
  const ScalarType acc = taps.scalar_type();
  Tensor grad_taps = stream.empty(taps.sizes(), acc);
  Tensor grad_bias = stream.empty({level.D}, acc);
  Tensor grad_weight = stream.empty({level.D}, acc);
  Tensor grad_gate_bias = stream.empty({1}, acc);
  dispatch(bias.scalar_type(), "upsampled_gate_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    RowsBackward<T> a{nullptr, data<T>(bias), data<A>(grad_gate), data<A>(gate),
                      data<T>(gate_weight), nullptr, nullptr, nullptr, nullptr, nullptr, level};
    run<true, T>(stream, level, data<A>(taps), a, nullptr, data<A>(grad_taps), data<A>(grad_bias),
                 data<A>(grad_weight), data<A>(grad_gate_bias));
  });
  return {grad_taps, grad_bias, grad_weight, grad_gate_bias};
}

std::tuple<Tensor, Tensor> upsampled_relu_backward(const Tensor& grad, const Tensor& taps,
                                                   const Tensor& bias) {
  const Stream stream(taps);
  const Map m(grad);
  const Level level(taps, m.H, m.W, m.channels_last);
  const ScalarType acc = taps.scalar_type();
  Tensor grad_taps = stream.empty(taps.sizes(), acc);
  Tensor grad_bias = stream.empty({level.D}, acc);
  dispatch(bias.scalar_type(), "upsampled_relu_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    RowsBackward<T> a{nullptr, data<T>(bias), nullptr, nullptr, nullptr, nullptr,
                      nullptr, nullptr, nullptr, nullptr, level};
    run<false, T>(stream, level, data<A>(taps), a, data<T>(grad), data<A>(grad_taps),
                  data<A>(grad_bias), nullptr, nullptr);
  });
  return {grad_taps, grad_bias};
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("upsampled_gate_backward", TORCH_BOX(&efpn::cuda::upsampled_gate_backward));
  m.impl("upsampled_relu_backward", TORCH_BOX(&efpn::cuda::upsampled_relu_backward));
}
