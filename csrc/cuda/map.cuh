// Elementwise passes over maps: one body for both memory formats.
#pragma once

#include "tensor.cuh"

namespace efpn {
namespace cuda {

// V consecutive elements of a map: channels c .. c + V - 1 of pixel p where channels are innermost,
// else pixels p .. p + V - 1 of channel c.
struct At {
  int64_t n, c, p, offset;
};

struct MapSize {
  int64_t N, C, P;  // P = H W
};

// Of a body that reads nothing that belongs to channels.
struct NoChannel {};

// How blocks and threads share a map.
struct MapShares {
  unsigned blocks;           // of a plane or sample
  unsigned width;            // vectors of a pixel: C / V where channels are innermost, else 1
  unsigned pixels, vectors;  // from a thread's vector to its next: kMapThreads / width, and the rest
};

constexpr int kMapThreads = 256;
constexpr int kMapUnroll = 4;

// Calls body.load(at), kMapUnroll of them in flight, then body.apply(at, loaded, body.channel(at)), for
// every vector. A block works within one plane (contiguous) or one sample (channels_last). What belongs
// to the channels is loaded once for a thread where all its vectors have the same: C / V divides 256.
template <bool channels_last, int V, class Body>
__global__ void __launch_bounds__(kMapThreads, 2)  // told nothing, ptxas spills to fit more
    map_kernel(const Body body, const MapSize size, const MapShares shares) {
  const unsigned group = blockIdx.x / shares.blocks;
  const int64_t first =
      int64_t(blockIdx.x - group * shares.blocks) * (kMapThreads * kMapUnroll);
  const int64_t extent = (channels_last ? size.P * size.C : size.P) / V;
  const int64_t base = group * extent * V;
  if (first + threadIdx.x >= extent) return;

  At at[kMapUnroll];
  typename Body::Loaded loaded[kMapUnroll];
  const int64_t first_pixel = channels_last ? divide(first, shares.width) : 0;
  unsigned vector = channels_last ? unsigned(first - first_pixel * shares.width) + threadIdx.x : 0;
  unsigned pixel = channels_last ? vector / shares.width : 0;
  vector -= pixel * shares.width;
#pragma unroll
  for (int u = 0; u < kMapUnroll; ++u) {
    const int64_t i = first + u * kMapThreads + threadIdx.x;
    if (i >= extent) break;
    at[u].offset = base + i * V;
    if constexpr (channels_last) {
      if (u > 0) {
        pixel += shares.pixels;
        vector += shares.vectors;
        if (vector >= shares.width) {
          vector -= shares.width;
          ++pixel;
        }
      }
      at[u].n = group;
      at[u].c = vector * V;
      at[u].p = first_pixel + pixel;
    } else {
      at[u].n = group / unsigned(size.C);
      at[u].c = group - at[u].n * size.C;
      at[u].p = i * V;
    }
    loaded[u] = body.load(at[u]);
  }
  typename Body::Channel channel = body.channel(at[0]);
#pragma unroll
  for (int u = 0; u < kMapUnroll; ++u) {
    if (first + u * kMapThreads + threadIdx.x >= extent) break;
    if (u > 0 && at[u].c != at[u - 1].c) channel = body.channel(at[u]);
    body.apply(at[u], loaded[u], channel);
  }
}

// Whether maps of this size can be accessed in full width: whole vectors innermost, aligned starts.
template <class T>
bool wide_map(const Map& m, std::initializer_list<const void*> pointers) {
  return (m.channels_last ? m.C : m.pixels()) % kWidth<T> == 0 && aligned(pointers);
}

template <bool channels_last, int V, class Body>
void launch_map(const Stream& stream, const Map& m, const Body& body) {
  if (m.numel() == 0) return;
  const MapSize size{m.N, m.C, m.pixels()};
  const int64_t extent = (channels_last ? size.P * size.C : size.P) / V;
  const int64_t groups = channels_last ? m.N : m.N * m.C;
  const int64_t blocks = ceil_div(extent, kMapThreads * kMapUnroll);
  const unsigned width = channels_last ? unsigned(m.C / V) : 1u;
  stream.launch(map_kernel<channels_last, V, Body>, dim3(unsigned(groups * blocks)),
                dim3(kMapThreads), body, size,
                MapShares{unsigned(blocks), width, kMapThreads / width, kMapThreads % width});
}

// Context of the vector `at`: a vector of channels, or one channel's value for all. Null is zero. Vectors
// of channels are read in 16 bytes: `context` belongs to the pointers that must be aligned.
template <bool channels_last, int V, class A>
__device__ __forceinline__ Vec<A, V> context_at(const A* context, const At& at, int64_t C) {
  if (!context) return fill<A, V>(A(0));
  const A* p = context + at.n * C + at.c;
  if constexpr (channels_last) {
    return load<V>(p);
  } else {
    return fill<A, V>(__ldg(p));
  }
}

// Gate of the vector `at`: one pixel's value for all, or a vector of pixels.
template <bool channels_last, int V, class A>
__device__ __forceinline__ Vec<A, V> gate_at(const A* gate, const At& at, int64_t P) {
  const A* p = gate + at.n * P + at.p;
  if constexpr (channels_last) {
    return fill<A, V>(__ldg(p));
  } else {
    return load<V>(p);
  }
}

}  // namespace cuda
}  // namespace efpn
