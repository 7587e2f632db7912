// Sums over pixels for every channel of a map, beside whatever else a pass does with the map.
#pragma once

#include "map.cuh"
#include "reduce.cuh"

namespace efpn {
namespace cuda {

// Work of a pass is cut into about this many blocks, whatever the GPU: the order of sums is fixed.
constexpr int64_t kSumBlocks = 1024;

inline int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x > high ? (high > low ? high : low) : (x > low ? x : low);
}

// Threads of a block along the channel vectors of a channels_last map; the others go along pixels.
inline int lanes_for(int64_t vectors, int most) {
  int lanes = 1;
  while (lanes < vectors && lanes < most) lanes *= 2;
  return lanes;
}


// to[k] = the sum of channel k over the block's rows of `lanes` threads, for k < lanes V and k < channels.
template <class A, int V>
__device__ __forceinline__ void sum_rows(ThreadVectors<A, V, 256>& shared, const Vec<A, V>& x, int lanes,
                                         int thread, int64_t channels, A* to) {
  __syncthreads();
  shared.put(thread, x);
  __syncthreads();
  for (int k = thread; k < lanes * V && k < channels; k += 256) {
    A total = shared.at(k);
    for (int t = lanes; t < 256; t += lanes) total += shared.at(k + t * V);
    to[k] = total;
  }
}

// Calls body.load(at) and body.apply(at, loaded, channel, sum) for every vector; sum collects each
// channel's terms, channel is what body.channel loads for a thread's channels.
// partial[n, strip, c] gets the sums over a strip of pixels.
// grid: (N x strips, channel tiles or channels). block: (channel vectors, pixels).
template <bool channels_last, int V, class A, class Body>
__global__ void __launch_bounds__(256, 2)
    channel_sums_kernel(const Body body, const MapSize size, const int64_t strip,
                        const unsigned strips, A* __restrict__ partial) {
  constexpr int U = sizeof(typename Body::Loaded) > 48 ? 2 : 4;
  const int64_t n = blockIdx.x / strips, s = blockIdx.x - n * strips;
  const int64_t begin = s * strip;
  const int64_t end = begin + strip < size.P ? begin + strip : size.P;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int64_t c = channels_last ? (int64_t(blockIdx.y) * blockDim.x + threadIdx.x) * V
                                  : int64_t(blockIdx.y);
  const int64_t step = channels_last ? int64_t(blockDim.y) : int64_t(256) * V;
  const int64_t own = channels_last ? int64_t(threadIdx.y) : int64_t(thread) * V;
  Vec<A, V> sum = fill<A, V>(A(0));
  if (c < size.C) {
    const typename Body::Channel channel = body.channel({n, c, 0, 0});
    for (int64_t p = begin + own; p < end; p += U * step) {
      At at[U];
      typename Body::Loaded loaded[U];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const int64_t pixel = p + u * step;
        at[u] = {n, c, pixel,
                 channels_last ? (n * size.P + pixel) * size.C + c
                               : (n * size.C + c) * size.P + pixel};
        if (pixel < end) loaded[u] = body.load(at[u]);
      }
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (at[u].p < end) body.apply(at[u], loaded[u], channel, sum);
      }
    }
  }
  A* out = partial + int64_t(blockIdx.x) * size.C;
  if constexpr (channels_last) {
    __shared__ ThreadVectors<A, V, 256> shared;
    const int64_t first = int64_t(blockIdx.y) * blockDim.x * V;
    sum_rows(shared, sum, blockDim.x, thread, size.C - first, out + first);
  } else {
    __shared__ A shared[256 / kWarp];
    A total[1] = {sum[0]};
#pragma unroll
    for (int i = 1; i < V; ++i) total[0] += sum[i];
    block_sum(total, shared, thread, 256);
    if (thread == 0) out[c] = total[0];
  }
}

// out[g, c], g < groups: the sums over the pixels of every sample (groups = N) or of all (groups = 1).
template <class T, bool channels_last, int V, class Body>
void channel_sums(const Stream& stream, const Map& m, const Body& body, Acc<T>* out,
                  int64_t groups) {
  using A = Acc<T>;
  const int lanes = channels_last ? lanes_for(m.C / V, 64) : 256;
  const int64_t P = m.pixels();
  const int64_t tiles = channels_last ? ceil_div(m.C / V, lanes) : m.C;
  const int64_t least = channels_last ? 8 * (256 / lanes) : 2 * 256 * V;
  const int64_t wanted = tiles * m.N > 0 ? kSumBlocks / (tiles * m.N) : 1;
  int64_t strips = clamp(wanted, 1, ceil_div(P, least));
  const int64_t strip = ceil_div(ceil_div(P, strips), V) * V;
  const int64_t rows = groups > 0 ? m.N * strips / groups : 0;
  const bool direct = rows == 1;
  Tensor scratch;
  A* partial = out;
  if (!direct) {
    scratch = stream.empty({m.N, strips, m.C}, kScalarType<A>);
    partial = data<A>(scratch);
  }
  stream.launch(channel_sums_kernel<channels_last, V, A, Body>,
                dim3(unsigned(m.N * strips), unsigned(tiles)), dim3(lanes, 256 / lanes), body,
                MapSize{m.N, m.C, P}, strip, unsigned(strips), partial);
  if (direct) return;
  sum_partials<A>(stream, {{partial, out, groups, rows, m.C, rows * m.C, m.C}});
}

}  // namespace cuda
}  // namespace efpn
