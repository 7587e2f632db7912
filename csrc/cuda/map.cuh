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

constexpr int kMapThreads = 256;
constexpr int kMapUnroll = 4;

// Calls body.load(at), kMapUnroll of them in flight, then body.apply(at, loaded), for every vector.
// A block works within one plane (contiguous) or one sample (channels_last).
template <bool channels_last, int V, class Body>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(const Body body, const MapSize size, const unsigned blocks_per_group) {
  const unsigned group = blockIdx.x / blocks_per_group;
  const int64_t first =
      int64_t(blockIdx.x - group * blocks_per_group) * (kMapThreads * kMapUnroll);
  const int64_t extent = (channels_last ? size.P * size.C : size.P) / V;
  const int64_t base = group * extent * V;
  const unsigned width = channels_last ? unsigned(size.C / V) : 1u;
  const int64_t first_pixel = channels_last ? first / width : 0;
  const unsigned first_vector = channels_last ? unsigned(first - first_pixel * width) : 0;

  At at[kMapUnroll];
  typename Body::Loaded loaded[kMapUnroll];
#pragma unroll
  for (int u = 0; u < kMapUnroll; ++u) {
    const unsigned step = u * kMapThreads + threadIdx.x;
    const int64_t i = first + step;
    if (i >= extent) break;
    at[u].offset = base + i * V;
    if constexpr (channels_last) {
      const unsigned vector = first_vector + step;
      const unsigned pixel = vector / width;
      at[u].n = group;
      at[u].c = (vector - pixel * width) * V;
      at[u].p = first_pixel + pixel;
    } else {
      at[u].n = group / unsigned(size.C);
      at[u].c = group - at[u].n * size.C;
      at[u].p = i * V;
    }
    loaded[u] = body.load(at[u]);
  }
#pragma unroll
  for (int u = 0; u < kMapUnroll; ++u) {
    if (first + u * kMapThreads + threadIdx.x >= extent) break;
    body.apply(at[u], loaded[u]);
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
  stream.launch(map_kernel<channels_last, V, Body>, dim3(unsigned(groups * blocks)),
                dim3(kMapThreads), body, size, unsigned(blocks));
}

// Context of the vector `at`: a vector of channels, or one channel's value for all. Null is zero.
template <bool channels_last, int V, class A>
__device__ __forceinline__ Vec<A, V> context_at(const A* context, const At& at, int64_t C) {
  if (!context) return fill<A, V>(A(0));
  const A* p = context + at.n * C + at.c;
  if constexpr (channels_last) {
    Vec<A, V> x;
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = __ldg(p + i);
    return x;
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
