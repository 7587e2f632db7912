// The backward of mask_apply: grad_logit of the mask and the sums for grad_context.
//
// Bytes: grad_x and p_low read once for both sums: [1, 256, 200, 200] bf16: 41 MB, 9.5 us at 4.3 TB/s; a
// map's grad_logit is written: 61 MB, 14 us. A gate's sum over channels is a sum over lanes, the sums over
// pixels stay in registers.
#include "channel_sum.cuh"
#include "mask.cuh"

namespace efpn {
namespace cuda {
namespace {

// ---- backward of a mask per channel -----------------------------------------------------------------

// Writes grad_logit, if there is one, and sums grad_context.
template <class T, int V, bool channels_last, bool gate>
struct MaskBackward {
  const T *grad_x, *p_low;
  const Acc<T>* context;  // or null
  const void* mask;
  T* grad_logit;  // or null
  int64_t C, P;

  struct Loaded {
    Storage<T, V> grad_x, p_low;
    Vec<Acc<T>, V> mask;
  };
  __device__ __forceinline__ Loaded load(const At& at) const {
    Loaded in;
    in.grad_x = load_raw<V>(grad_x + at.offset);
    if (grad_logit) in.p_low = load_raw<V>(p_low + at.offset);
    in.mask = mask_at<channels_last, gate, V, T>(mask, at, P);
    return in;
  }
  using Channel = Vec<Acc<T>, V>;
  __device__ __forceinline__ Channel channel(const At& at) const {
    return context_at<channels_last, V>(context, at, C);
  }
  __device__ __forceinline__ void apply(const At& at, const Loaded& in, const Channel& g,
                                        Vec<Acc<T>, V>& sum) const {
    using A = Acc<T>;
    const Vec<A, V> grad = widen<V>(in.grad_x);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] += grad[v] * in.mask[v];
    if (!grad_logit) return;
    Vec<A, V> logit = widen<V>(in.p_low);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      logit[v] = gate_slope(in.mask[v]) * grad[v] * (logit[v] + g[v]);
    }
    store(grad_logit + at.offset, logit);
  }
  // As a pass without sums.
  __device__ __forceinline__ void apply(const At& at, const Loaded& in, const Channel& g) const {
    Vec<Acc<T>, V> unused = fill<Acc<T>, V>(Acc<T>(0));
    apply(at, in, g, unused);
  }
};

// ---- backward of a gate --------------------------------------------------------------------------------

template <class T>
struct GateBackward {
  const T *grad_x, *p_low;
  const Acc<T>*context, *mask;  // context may be null
  Acc<T>* grad_logit;
  Acc<T>* partial;  // [N, strips, C], or null
  int64_t C, P, strip;
  unsigned strips;
};

// channels_last: groups of `lanes` lanes take pixels in turn; a lane holds J vectors of channels, so that
// C <= J lanes V. grid: N x strips.
template <int V, int J, class T>
__global__ void __launch_bounds__(256, J == 1 && sizeof(T) < 8 ? 3 : 2)
    gate_bwd_last_kernel(const GateBackward<T> a, const int lanes) {
  using A = Acc<T>;
  constexpr int U = J == 1 ? 2 : 1;
  __shared__ ThreadVectors<A, V, 256> shared;
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = 256 / lanes;
  const int64_t n = blockIdx.x / a.strips, begin = (blockIdx.x - n * a.strips) * a.strip;
  const int64_t end = begin + a.strip < a.P ? begin + a.strip : a.P;
  Vec<A, V> sums[J];
  At at{n, 0, 0, 0};
#pragma unroll
  for (int j = 0; j < J; ++j) sums[j] = fill<A, V>(A(0));
  // Every lane of a warp takes part in its sums: the loop runs by blocks, not by groups.
  for (int64_t base = begin; base < end; base += int64_t(groups) * U) {
    Storage<T, V> grad_x[U][J], p_low[U][J];
    A mask[U], dot[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t p = base + u * groups + group;
      mask[u] = p < end ? __ldg(a.mask + n * a.P + p) : A(0);
      dot[u] = 0;
#pragma unroll
      for (int j = 0; j < J; ++j) {
        const int64_t c = int64_t(j * lanes + lane) * V;
        if (p >= end || c >= a.C) continue;
        grad_x[u][j] = load_raw<V>(a.grad_x + (n * a.P + p) * a.C + c);
        p_low[u][j] = load_raw<V>(a.p_low + (n * a.P + p) * a.C + c);
      }
    }
#pragma unroll
    for (int j = 0; j < J; ++j) {
      at.c = int64_t(j * lanes + lane) * V;
      if (at.c >= a.C) continue;
      // Read again for every few pixels: kept, it would cost eight registers, which spill.
      const Vec<A, V> g = context_at<true, V>(a.context, at, a.C);
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (base + u * groups + group >= end) continue;
        const Vec<A, V> grad = widen<V>(grad_x[u][j]), p = widen<V>(p_low[u][j]);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          dot[u] += grad[v] * (p[v] + g[v]);
          sums[j][v] += grad[v] * mask[u];
        }
      }
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t p = base + u * groups + group;
      const A total = warp_sum(dot[u], lanes);
      if (lane == 0 && p < end) a.grad_logit[n * a.P + p] = gate_slope(mask[u]) * total;
    }
  }
  if (!a.partial) return;
#pragma unroll
  for (int j = 0; j < J; ++j) {
    const int64_t first = int64_t(j) * lanes * V;
    sum_rows(shared, sums[j], lanes, threadIdx.x, a.C - first,
             a.partial + int64_t(blockIdx.x) * a.C + first);
  }
}

// channels_last with any number of channels; grad_logit only. A warp takes a pixel.
template <int V, class T>
__global__ void __launch_bounds__(256)
    gate_logit_last_kernel(const GateBackward<T> a, const int64_t pixels) {
  using A = Acc<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t q = int64_t(blockIdx.x) * (256 / kWarp) + threadIdx.x / kWarp;
  if (q >= pixels) return;
  At at{divide(q, a.P), 0, 0, 0};
  A dot = 0;
  for (at.c = int64_t(lane) * V; at.c < a.C; at.c += kWarp * V) {
    const Vec<A, V> grad = load<V>(a.grad_x + q * a.C + at.c);
    const Vec<A, V> p = load<V>(a.p_low + q * a.C + at.c);
    const Vec<A, V> g = context_at<true, V>(a.context, at, a.C);
#pragma unroll
    for (int v = 0; v < V; ++v) dot += grad[v] * (p[v] + g[v]);
  }
  dot = warp_sum(dot);
  const A mask = a.mask[q];
  if (lane == 0) a.grad_logit[q] = gate_slope(mask) * dot;
}

constexpr int kPlaneWarps = 16;

// contiguous: a block takes a strip of 32 vectors of pixels, its warps share the channels.
// grid: N x strips.
template <int V, class T>
__global__ void __launch_bounds__(kWarp* kPlaneWarps, 2)
    gate_bwd_plane_kernel(const GateBackward<T> a) {
  using A = Acc<T>;
  __shared__ ThreadVectors<A, V, kWarp> shared[kPlaneWarps];
  const int64_t n = blockIdx.x / a.strips, first = (blockIdx.x - n * a.strips) * a.strip;
  const int64_t p = first + threadIdx.x * V;
  const bool inside = p < a.P;
  Vec<A, V> dot = fill<A, V>(A(0)), mask = dot;
  if (inside) mask = load<V>(a.mask + n * a.P + p);
#pragma unroll 2
  for (int64_t c = threadIdx.y; c < a.C; c += kPlaneWarps) {
    const int64_t offset = (n * a.C + c) * a.P + p;
    Vec<A, V> grad = fill<A, V>(A(0)), x = grad;
    if (inside) {
      grad = load<V>(a.grad_x + offset);
      x = load<V>(a.p_low + offset);
    }
    const A g = a.context ? __ldg(a.context + n * a.C + c) : A(0);
    A sum = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      dot[v] += grad[v] * (x[v] + g);
      sum += grad[v] * mask[v];
    }
    if (!a.partial) continue;
    sum = warp_sum(sum);
    if (threadIdx.x == 0) a.partial[int64_t(blockIdx.x) * a.C + c] = sum;
  }
  shared[threadIdx.y].put(threadIdx.x, dot);
  __syncthreads();
  const int i = threadIdx.y * kWarp + threadIdx.x;
  if (i >= kWarp * V || first + i >= a.P) return;
  A total = 0;
#pragma unroll
  for (int w = 0; w < kPlaneWarps; ++w) total += shared[w].at(i);
  const A m = a.mask[n * a.P + first + i];
  a.grad_logit[n * a.P + first + i] = gate_slope(m) * total;
}

template <int V, class T>
void gate_backward_last(const Stream& stream, const Map& m, GateBackward<T> a,
                        Acc<T>* grad_context) {
  const int64_t pixels = m.N * m.pixels();
  const int lanes = lanes_for(m.C / V, kWarp);
  const int64_t vectors = ceil_div(m.C / V, lanes);
  if (vectors > 4) {  // more sums over pixels than registers: a second pass makes them
    stream.launch(gate_logit_last_kernel<V, T>, dim3(unsigned(ceil_div(pixels, 256 / kWarp))),
                  dim3(256), a, pixels);
    if (!grad_context) return;
    const MaskBackward<T, V, true, true> body{a.grad_x, a.p_low, a.context, a.mask,
                                              nullptr,  m.C,     m.pixels()};
    channel_sums<T, true, V>(stream, m, body, grad_context, m.N);
    return;
  }
  const int64_t least = 4 * (256 / lanes);
  const int64_t strips = clamp(kSumBlocks / m.N, 1, ceil_div(m.pixels(), least));
  a.strip = ceil_div(m.pixels(), strips);
  a.strips = unsigned(strips);
  Tensor scratch;
  if (grad_context) {
    scratch = stream.empty({m.N, strips, m.C}, kScalarType<Acc<T>>);
    a.partial = data<Acc<T>>(scratch);
  }
  const dim3 grid{unsigned(m.N * strips)};
  const auto kernel = vectors == 1   ? gate_bwd_last_kernel<V, 1, T>
                      : vectors == 2 ? gate_bwd_last_kernel<V, 2, T>
                                     : gate_bwd_last_kernel<V, 4, T>;
  stream.launch(kernel, grid, dim3(256), a, lanes);
  if (!grad_context) return;
  sum_partials<Acc<T>>(stream, {{a.partial, grad_context, m.N, strips, m.C, strips * m.C, m.C}});
}

template <int V, class T>
void gate_backward_plane(const Stream& stream, const Map& m, GateBackward<T> a,
                         Acc<T>* grad_context) {
  a.strip = kWarp * V;
  const int64_t strips = ceil_div(m.pixels(), a.strip);
  a.strips = unsigned(strips);
  Tensor scratch;
  if (grad_context) {
    scratch = stream.empty({m.N, strips, m.C}, kScalarType<Acc<T>>);
    a.partial = data<Acc<T>>(scratch);
  }
  stream.launch(gate_bwd_plane_kernel<V, T>, dim3(unsigned(m.N * strips)),
                dim3(kWarp, kPlaneWarps), a);
  if (!grad_context) return;
  sum_partials<Acc<T>>(stream, {{a.partial, grad_context, m.N, strips, m.C, strips * m.C, m.C}});
}

}  // namespace

std::tuple<Tensor, Tensor> mask_apply_backward(const Tensor& grad_x, const Tensor& p_low,
                                               const std::optional<Tensor>& context,
                                               const Tensor& mask) {
  const Stream stream(p_low);
  const Map m(p_low);
  const ScalarType type = p_low.scalar_type(), acc = accumulate_type(type);
  const bool gate = is_gate(mask, type), sums = context.has_value();
  Tensor grad_logit =
      gate ? stream.empty({m.N, 1, m.H, m.W}, acc) : stream.empty_like(p_low);
  Tensor grad_context = sums ? stream.empty({m.N, m.C}, acc) : stream.empty({0}, acc);
  dispatch(type, "mask_apply_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const T* grad = data<T>(grad_x);
    const T* in = data<T>(p_low);
    const A* g = data<A>(context);
    A* to_context = sums ? data<A>(grad_context) : nullptr;
    const void* by = mask.data_ptr();
    if (m.numel() == 0) {
      sum_partials<A>(stream, {{nullptr, data<A>(grad_context), sums ? m.N : 0, 0, m.C, 0, m.C}});
      return;
    }
    const bool wide = wide_map<T>(m, {grad, in, g, by, grad_logit.data_ptr()});
    dispatch_width<T>(wide, [&](auto v) {
      constexpr int V = decltype(v)::value;
      if (gate) {
        const GateBackward<T> a{grad, in,        g,  data<A>(mask), data<A>(grad_logit), nullptr,
                                m.C,  m.pixels(), 0, 0};
        if (m.channels_last) {
          gate_backward_last<V>(stream, m, a, to_context);
        } else {
          gate_backward_plane<V>(stream, m, a, to_context);
        }
        return;
      }
      dispatch_bool(m.channels_last, [&](auto last) {
        constexpr bool L = decltype(last)::value;
        const MaskBackward<T, V, L, false> body{grad, in,  g,         by, data<T>(grad_logit),
                                                m.C,  m.pixels()};
        if (sums) {
          channel_sums<T, L, V>(stream, m, body, to_context, m.N);
        } else {
          launch_map<L, V>(stream, m, body);
        }
      });
    });
  });
  return {grad_logit, grad_context};
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("mask_apply_backward", TORCH_BOX(&efpn::cuda::mask_apply_backward));
}
