// Walks along an axis of bilinear upsampling: the sum of three shifted, interpolated taps.
#pragma once

#include "tensor.cuh"

#include "../common/bilinear.h"

namespace efpn {
namespace cuda {

// Sizes of taps [N, h, w, 9, D] on an H x W image, and the order of positions m in a row of it:
// (x, d) where channels are innermost, else (d, x).
struct Level {
  int64_t N, h, w, D, H, W;
  bool channels_last;

  Level(const Tensor& taps, int64_t H, int64_t W, bool channels_last)
      : N(taps.size(0)), h(taps.size(1)), w(taps.size(2)), D(taps.size(4)), H(H), W(W),
        channels_last(channels_last) {}
  int64_t tap_values() const { return h * w * 9 * D; }  // of a sample
  int64_t row_values() const { return h * 3 * W * D; }
  int64_t inner() const { return channels_last ? D : W; }

  // Offset of position m of row y in a map [N, D, H, W].
  __device__ __forceinline__ int64_t offset(int64_t n, int64_t y, int64_t m) const {
    if (channels_last) return (n * H + y) * W * D + m;
    const int64_t d = divide(m, W);
    return ((n * D + d) * H + y) * W + m - d * W;
  }
  // The bias of the V positions from m.
  template <int V, class T>
  __device__ __forceinline__ Vec<Acc<T>, V> bias_at(const T* bias, int64_t m) const {
    if (channels_last) return load<V>(bias + (m - divide(m, D) * D));
    return fill<Acc<T>, V>(widen(bias[divide(m, W)]));
  }
};

// A source as the walks read it from shared memory: half the size.
template <class A>
struct Cell {
  int index;  // -1 outside of the image
  A weight;
};

// The sources of `count` output positions from `first` on, made by the first threads of the block.
template <int count, class A>
__device__ __forceinline__ void make_sources(Cell<A>* sources, int64_t first, int64_t in,
                                             int64_t size, int thread) {
  if (thread < count) {
    const int64_t q = first + thread;
    sources[thread] = {-1, A(0)};
    if (q >= 0 && q < size) {
      const Source<A> source = bilinear_source<A>(q, in, size);
      sources[thread] = {int(source.index), source.weight};
    }
  }
  __syncthreads();
}

// Three interpolated taps along an axis: tap k at position `at` reads the samples around at + k - 1. A walk
// holds the two samples of each tap and, where registers allow (`lookahead`), the one after them: what the
// next cell needs has long arrived when the walk enters it.
template <class A, int V, bool lookahead>
struct Walk {
  const A* base;
  int64_t step, tap;  // strides of samples and of taps
  int last;           // sample
  int index[3];
  Vec<A, V> low[3], high[3];            // the samples index and index + 1
  Vec<A, V> ahead[lookahead ? 3 : 1];   // index + 2

  __device__ __forceinline__ Walk(const A* base, int64_t step, int64_t tap, int64_t samples)
      : base(base), step(step), tap(tap), last(int(samples) - 1), index{-2, -2, -2} {}

  // Loads what the taps at the first position read, all together.
  __device__ __forceinline__ void start(const Cell<A>* sources) {
    if (last < 0) return;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      index[k] = sources[k].index < 0 ? 0 : sources[k].index;
      low[k] = sample(k, index[k]);
      high[k] = sample(k, index[k] + 1);
      if constexpr (lookahead) ahead[k] = sample(k, index[k] + 2);
    }
  }

  // Adds the taps at the next position `at` to sum; sources[k] belongs to position at + k - 1.
  __device__ __forceinline__ Vec<A, V> next(const Cell<A>* sources, Vec<A, V> sum) {
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const Cell<A> source = sources[k];
      const int cell = source.index;
      if (cell < 0) continue;
      if (cell != index[k]) {
        if (cell == index[k] + 1) {
          low[k] = high[k];
          if constexpr (lookahead) high[k] = ahead[k];
        } else {
          low[k] = sample(k, cell);
          if constexpr (lookahead) high[k] = sample(k, cell + 1);
        }
        if constexpr (lookahead) {
          ahead[k] = sample(k, cell + 2);
        } else {
          high[k] = sample(k, cell + 1);
        }
        index[k] = cell;
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[v] += (A(1) - source.weight) * low[k][v] + source.weight * high[k][v];
      }
    }
    return sum;
  }

 private:
  __device__ __forceinline__ Vec<A, V> sample(int k, int i) const {
    return load<V>(base + k * tap + (i < last ? i : last) * step);
  }
};

// The adjoint: collects what the samples [begin, end) get from the positions of a walk over every
// position that reads one of them, and stores each sample once.
template <class A, int V>
struct Gather {
  A* base;
  int64_t step, tap;
  int begin, end;
  int index[3];
  Vec<A, V> low[3], high[3];  // for the samples index and index + 1

  __device__ __forceinline__ Gather(A* base, int64_t step, int64_t tap, int64_t begin, int64_t end)
      : base(base), step(step), tap(tap), begin(int(begin)), end(int(end)) {
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      index[k] = this->begin - 1;
      low[k] = high[k] = fill<A, V>(A(0));
    }
  }

  __device__ __forceinline__ void advance(int k, int to) {
    while (index[k] < to) {
      if (index[k] >= begin) store(base + index[k] * step + k * tap, low[k]);
      low[k] = high[k];
      high[k] = fill<A, V>(A(0));
      ++index[k];
    }
  }
  __device__ __forceinline__ void add(const Cell<A>* sources, const Vec<A, V>& grad) {
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const Cell<A> source = sources[k];
      const int cell = source.index;
      if (cell < 0 || cell < begin - 1 || cell >= end) continue;
      advance(k, cell);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        low[k][v] += (A(1) - source.weight) * grad[v];
        high[k][v] += source.weight * grad[v];
      }
    }
  }
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int k = 0; k < 3; ++k) advance(k, end);
  }
};

// The positions that read the samples [begin, end) through any of the three taps.
struct Span {
  int64_t begin, end;
};
__device__ __forceinline__ Span readers(int64_t begin, int64_t end, int64_t in, int64_t size) {
  const int64_t first = bilinear_first_output(begin - 1, in, size) - 1;
  const int64_t last = bilinear_first_output(end, in, size) + 1;
  return {first > 0 ? first : 0, last < size ? last : size};
}

constexpr int64_t kRowsBytes = int64_t(20) << 20;

// Samples whose rows together stay in the L2 cache: they are worked on as a group.
template <class A>
int64_t group_size(const Level& level) {
  const int64_t bytes = level.row_values() * int64_t(sizeof(A));
  const int64_t fit = bytes > 0 ? kRowsBytes / bytes : level.N;
  return fit < 1 ? 1 : (fit < level.N ? fit : level.N);
}

// Calls f(level of the group, its first sample).
template <class A, class F>
void for_sample_groups(const Level& level, F f) {
  const int64_t group = group_size<A>(level);
  for (int64_t n0 = 0; n0 < level.N; n0 += group) {
    Level part = level;
    part.N = level.N - n0 < group ? level.N - n0 : group;
    f(part, n0);
  }
}

// The rows of a group: [N, h, 3, (W, D) or (D, W)].
template <class A>
Tensor empty_rows(const Stream& stream, const Level& level) {
  return stream.empty({group_size<A>(level), level.row_values()}, kScalarType<A>);
}

constexpr int kSegment = 8;       // positions that a thread walks
constexpr int kSegmentWarps = 4;

// rows from taps: the walk along x. grid: (N h 3, tiles of 32 columns). block: (32 lanes along d, 4).
// Where pixels are innermost, what a thread makes is written at the end of its walk: full sectors, although
// its neighbours write other channels.
template <int V, bool channels_last, class A>
__global__ void __launch_bounds__(kWarp* kSegmentWarps, sizeof(A) < 8 ? 4 : 2)
    interpolate_x_kernel(const A* taps, A* rows, const Level l) {
  constexpr int kPositions = kSegment * kSegmentWarps;
  __shared__ Cell<A> sources[kPositions + 2];
  const int64_t block_x = int64_t(blockIdx.y) * kPositions;
  make_sources<kPositions + 2>(sources, block_x - 1, l.w, l.W, threadIdx.y * kWarp + threadIdx.x);
  const int64_t row = blockIdx.x / 3, ky = blockIdx.x - row * 3;
  const int first = threadIdx.y * kSegment;
  for (int64_t d = int64_t(threadIdx.x) * V; d < l.D; d += kWarp * V) {
    Walk<A, V, true> walk(taps + (row * l.w * 9 + 3 * ky) * l.D + d, 9 * l.D, l.D, l.w);
    A* out = rows + int64_t(blockIdx.x) * l.W * l.D;
    Vec<A, kSegment> segment[V];  // of each channel
    walk.start(sources + first);
#pragma unroll
    for (int r = 0; r < kSegment; ++r) {
      const int64_t x = block_x + first + r;
      if (x >= l.W) break;
      const Vec<A, V> sum = walk.next(sources + first + r, fill<A, V>(A(0)));
      if constexpr (channels_last) {
        store(out + x * l.D + d, sum);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) segment[v][r] = sum[v];
      }
    }
    if constexpr (!channels_last) {
      const int64_t x = block_x + first;
      const bool whole = x + kSegment <= l.W && (l.W * sizeof(A)) % 16 == 0;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        A* to = out + (d + v) * l.W + x;
        if (V > 1 && whole) {  // a wide walk has aligned rows
          store(to, segment[v]);
          continue;
        }
#pragma unroll
        for (int r = 0; r < kSegment; ++r) {
          if (x + r < l.W) to[r] = segment[v][r];
        }
      }
    }
  }
}

template <class A>
void interpolate_x(const Stream& stream, const Level& l, const A* taps, A* rows) {
  dispatch_width<A>(l.D % kWidth<A> == 0 && aligned({taps, rows}), [&](auto v) {
    dispatch_bool(l.channels_last, [&](auto last) {
      stream.launch(interpolate_x_kernel<decltype(v)::value, decltype(last)::value, A>,
                    dim3(unsigned(l.N * l.h * 3),
                         unsigned(ceil_div(l.W, kSegment * kSegmentWarps))),
                    dim3(kWarp, kSegmentWarps), taps, rows, l);
    });
  });
}

}  // namespace cuda
}  // namespace efpn
