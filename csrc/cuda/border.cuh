// The border constant of a 3x3 convolution at a vector of a map, and sums of maps over border classes.
#pragma once

#include "channel_sum.cuh"

#include "../common/border.h"

namespace efpn {
namespace cuda {

// border[n, cy, cx, c ...] for the vector whose first element is at column x of a row of class cy. Where
// pixels are innermost, the V pixels lie in one row, so only the first and the last can be at its ends.
template <bool channels_last, int V, class A>
__device__ __forceinline__ Vec<A, V> border_at(const A* border, int64_t n, int64_t c, int cy,
                                               int64_t x, int64_t W, int64_t C) {
  const A* row = border + (n * 9 + cy * 3) * C + c;
  if constexpr (channels_last) {
    return load<V>(row + border_class(x, W) * C);
  } else {
    Vec<A, V> value = fill<A, V>(__ldg(row + (V > 2 ? 1 : border_class(x, W)) * C));
    if constexpr (V > 2) value[0] = __ldg(row + border_class(x, W) * C);
    if constexpr (V > 1) value[V - 1] = __ldg(row + border_class(x + V - 1, W) * C);
    return value;
  }
}

// The same where no pixel of the vector lies at an end of its row.
template <bool channels_last, int V, class A>
__device__ __forceinline__ Vec<A, V> inner_border(const A* border, int64_t n, int64_t c, int cy,
                                                  int64_t C) {
  const A* p = border + (n * 9 + cy * 3 + 1) * C + c;
  if constexpr (channels_last) {
    return load<V>(p);
  } else {
    return fill<A, V>(__ldg(p));
  }
}

template <bool channels_last, int V>
__device__ __forceinline__ bool inner_columns(int64_t x, int64_t W) {
  return x > 0 && x + (channels_last ? 1 : V) < W;
}

// Whether a map with border classes can be accessed in full width.
template <class T>
bool wide_border_map(const Map& m, std::initializer_list<const void*> pointers) {
  return (m.channels_last ? m.C : m.W) % kWidth<T> == 0 && aligned(pointers);
}

// Rows of an image in strips that lie within one class: the first row, then strips of `rows`, then the
// last row.
struct Strips {
  int64_t H, W, rows, count;

  static Strips of(const Map& m, int64_t blocks_per_strip) {
    if (m.pixels() == 0) return {m.H, m.W, 1, 0};
    const int64_t inner = m.H > 2 ? m.H - 2 : 0;
    const int64_t wanted = clamp(kSumBlocks / (blocks_per_strip > 0 ? blocks_per_strip : 1), 1,
                                 inner > 0 ? inner : 1);
    const int64_t rows = inner > 0 ? ceil_div(inner, wanted) : 1;
    return {m.H, m.W, rows, (m.H > 1 ? 2 : 1) + ceil_div(inner, rows)};
  }
  __device__ __forceinline__ int64_t begin(int64_t s) const {
    if (s == 0) return 0;
    return s == count - 1 ? H - 1 : 1 + (s - 1) * rows;
  }
  __device__ __forceinline__ int64_t end(int64_t s) const {
    if (s == 0) return 1;
    if (s == count - 1) return H;
    const int64_t last = 1 + s * rows;
    return last < H - 1 ? last : H - 1;
  }
};

// Partial sums of a pass, of every strip of every sample.
template <class A>
struct ClassPartials {
  A* classes;   // [N, strips, 3, C]: the sums for the three classes of columns
  A* channels;  // [N, strips, C], or null
  A* pixels;    // [N, strips], or null
};

// The sums of one thread over its share of a strip.
template <class A, int V>
struct ClassSums {
  Vec<A, V> column[3] = {fill<A, V>(A(0)), fill<A, V>(A(0)), fill<A, V>(A(0))};
  Vec<A, V> channel = fill<A, V>(A(0));
  A pixel = A(0);
};

// Calls body.load(at) and body.apply(at, cy, x, loaded, of_channel, channel, pixel) for every vector: the
// result is summed by border class; `channel` and `pixel` collect a sum for each channel and one over
// pixels; of_channel is what body.channel(at, cy) loads for a thread's channels.
// grid: (N x strips, channel tiles). block: (channel vectors, pixels).
template <int V, class A, class Body>
__global__ void __launch_bounds__(256, 2)
    class_sums_last_kernel(const Body body, const MapSize size, const Strips strips,
                           const ClassPartials<A> out) {
  constexpr int U = 2;
  const int64_t n = blockIdx.x / strips.count, s = blockIdx.x - n * strips.count;
  const int64_t begin = strips.begin(s), pixels = (strips.end(s) - begin) * strips.W;
  const int cy = border_class(begin, strips.H);
  const int64_t c = (int64_t(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  ClassSums<A, V> sums;
  if (c < size.C) {
    const typename Body::Channel of_channel = body.channel({n, c, 0, 0}, cy);
    for (int64_t i = threadIdx.y; i < pixels; i += U * blockDim.y) {
      At at[U];
      typename Body::Loaded loaded[U];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (i + u * blockDim.y >= pixels) break;
        const int64_t p = begin * strips.W + i + u * blockDim.y;
        at[u] = {n, c, p, (n * size.P + p) * size.C + c};
        loaded[u] = body.load(at[u]);
      }
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (i + u * blockDim.y >= pixels) break;
        const unsigned x = unsigned(i + u * blockDim.y) % unsigned(strips.W);
        const Vec<A, V> value =
            body.apply(at[u], cy, x, loaded[u], of_channel, sums.channel, sums.pixel);
        const int cx = border_class(x, strips.W);
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          if (cx != k) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) sums.column[k][v] += value[v];
        }
      }
    }
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  __shared__ ThreadVectors<A, V, 256> shared;
  const int64_t first = int64_t(blockIdx.y) * blockDim.x * V;
  const auto reduce = [&](const Vec<A, V>& sum, A* to) {
    sum_rows(shared, sum, blockDim.x, thread, size.C - first, to + first);
  };
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    reduce(sums.column[k], out.classes + (int64_t(blockIdx.x) * 3 + k) * size.C);
  }
  if (out.channels) reduce(sums.channel, out.channels + int64_t(blockIdx.x) * size.C);
  if (out.pixels && blockIdx.y == 0) {
    __syncthreads();
    if (threadIdx.x == 0) shared.values[threadIdx.y] = sums.pixel;
    __syncthreads();
    if (thread == 0) {
      A total = shared.values[0];
      for (int y = 1; y < blockDim.y; ++y) total += shared.values[y];
      out.pixels[blockIdx.x] = total;
    }
  }
}

constexpr int kPlaneChannels = 2;

// The same for contiguous maps: a block takes kPlaneChannels channels of a strip, so that what belongs
// to a pixel is read once for all of them.
// grid: (N x strips, channel groups). block: 256.
template <int V, class A, class Body>
__global__ void __launch_bounds__(256, 2)
    class_sums_plane_kernel(const Body body, const MapSize size, const Strips strips,
                            const ClassPartials<A> out) {
  constexpr int K = kPlaneChannels;
  __shared__ A shared[(4 * K + 1) * 256 / kWarp];
  const int64_t n = blockIdx.x / strips.count, s = blockIdx.x - n * strips.count;
  const int64_t begin = strips.begin(s), pixels = (strips.end(s) - begin) * strips.W;
  const int cy = border_class(begin, strips.H);
  const int64_t first = int64_t(blockIdx.y) * K;
  typename Body::Channel of_channel[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (first + k < size.C) of_channel[k] = body.channel({n, first + k, 0, 0}, cy);
  }
  A sums[4 * K + 1] = {};  // left, middle, right, channel; and the sum over pixels
  for (int64_t i = int64_t(threadIdx.x) * V; i < pixels; i += 256 * V) {
    const int64_t p = begin * strips.W + i;
    const unsigned x = unsigned(i) % unsigned(strips.W);
    typename Body::Loaded loaded[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (first + k >= size.C) break;
      loaded[k] = body.load({n, first + k, p, (n * size.C + first + k) * size.P + p});
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (first + k >= size.C) break;
      Vec<A, V> channel = fill<A, V>(A(0));
      A pixel = 0;
      const Vec<A, V> value =
          body.apply({n, first + k, p, (n * size.C + first + k) * size.P + p}, cy, x, loaded[k],
                     of_channel[k], channel, pixel);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int cx = border_class(x + v, strips.W);
        sums[4 * k + 0] += cx == 0 ? value[v] : A(0);
        sums[4 * k + 1] += cx == 1 ? value[v] : A(0);
        sums[4 * k + 2] += cx == 2 ? value[v] : A(0);
        sums[4 * k + 3] += channel[v];
      }
      if (k == 0) sums[4 * K] += pixel;
    }
  }
  block_sum(sums, shared, threadIdx.x, 256);
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (first + k >= size.C) break;
    const int64_t c = first + k;
#pragma unroll
    for (int cx = 0; cx < 3; ++cx) {
      out.classes[(int64_t(blockIdx.x) * 3 + cx) * size.C + c] = sums[4 * k + cx];
    }
    if (out.channels) out.channels[int64_t(blockIdx.x) * size.C + c] = sums[4 * k + 3];
  }
  if (out.pixels && blockIdx.y == 0) out.pixels[blockIdx.x] = sums[4 * K];
}

// grad_border [N, 3, 3, C] of the pass; channels [C] and pixel [1] where they are not null.
template <class T, bool channels_last, int V, class Body>
void class_sums(const Stream& stream, const Map& m, const Body& body, Acc<T>* classes,
                Acc<T>* channels, Acc<T>* pixel) {
  using A = Acc<T>;
  const int lanes = lanes_for(m.C / V, 64);
  const int64_t tiles = channels_last ? ceil_div(m.C / V, lanes) : ceil_div(m.C, kPlaneChannels);
  const Strips strips = Strips::of(m, tiles * m.N);
  const int64_t S = strips.count, C = m.C, rows = m.N * S;
  Tensor scratch = stream.empty({rows * (4 * C + 1)}, kScalarType<A>);
  A* partial = data<A>(scratch);
  const ClassPartials<A> partials{partial, channels ? partial + rows * 3 * C : nullptr,
                                  pixel ? partial + rows * 4 * C : nullptr};
  const dim3 grid{unsigned(rows), unsigned(tiles)};
  const MapSize size{m.N, C, m.pixels()};
  if constexpr (channels_last) {
    stream.launch(class_sums_last_kernel<V, A, Body>, grid, dim3(lanes, 256 / lanes), body, size,
                  strips, partials);
  } else {
    stream.launch(class_sums_plane_kernel<V, A, Body>, grid, dim3(256), body, size, strips,
                  partials);
  }
  const int64_t inner = S > 2 ? S - 2 : 0;
  const Sum<A> top{partial, classes, m.N, S > 0, 3 * C, S * 3 * C, 9 * C};
  const Sum<A> middle{partial + 3 * C, classes + 3 * C, m.N, inner, 3 * C, S * 3 * C, 9 * C};
  const Sum<A> bottom{partial + (S - 1) * 3 * C, classes + 6 * C, m.N, S > 1, 3 * C, S * 3 * C,
                      9 * C};
  if (channels) {
    sum_partials<A>(stream, {top, middle, bottom,
                             {partials.channels, channels, 1, rows, C, 0, 0},
                             {partials.pixels, pixel, 1, rows, 1, 0, 0}});
  } else {
    sum_partials<A>(stream, {top, middle, bottom});
  }
}

}  // namespace cuda
}  // namespace efpn
