// The context of CEM, Eq. 1-3: global maximum, projection and ReLU; and their backward.
//
// pooled_context           bytes: p_high once, the projection once (256 x 256 bf16: 131 kB). One launch where
//                          clusters exist (Hopper and later): the CTAs of a cluster share the channels of
//                          one sample, meet at the cluster barrier, then share the rows of the projection.
//                          Measured on an H200 with 20 pixels of a lane in flight: 9.8 us; with
//                          four: 14.7. Twenty spill on compute capability 10.
//                          Other GPUs, and levels too large for eight SMs a sample, take two launches.
// pooled_context_backward  bytes: the projection read, its gradient written: 0.4 MB. One launch.
#include <cooperative_groups.h>

#include <atomic>

#include "tensor.cuh"

namespace efpn {
namespace cuda {
namespace {

constexpr int kPoolThreads = 512;
constexpr int kPoolWarps = kPoolThreads / kWarp;
constexpr int kInFlight = 16;  // pixels of a lane
constexpr int kCluster = 8;
constexpr int64_t kClusterBytes = int64_t(4) << 20;  // of one sample

// A maximum and its first position. NaN is the largest value of all.
template <class A>
struct Candidate {
  A value;
  int32_t index;
};

template <class A>
__device__ __forceinline__ bool better(const Candidate<A>& a, const Candidate<A>& b) {
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan != b_nan) return a_nan;
  if (!a_nan && a.value != b.value) return a.value > b.value;
  return a.index < b.index;
}

template <class A>
__device__ __forceinline__ Candidate<A> worst() {
  return {A(-INFINITY), INT32_MAX};
}

// Pools the 32 channels [32 tile, 32 tile + 32) of sample n with a block of kPoolThreads.
template <class T>
__device__ void pool_tile(const T* p_high, T* pooled, int32_t* index, int64_t n, int64_t tile,
                          int64_t C, int P, bool channels_last) {
  using A = Acc<T>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first = tile * kWarp;
  if (channels_last) {
    // A lane owns a channel, the warps share the pixels.
    __shared__ Candidate<A> candidates[kPoolWarps][kWarp];
    const int64_t c = first + lane;
    Candidate<A> best = worst<A>();
    if (c < C) {
      const T* p = p_high + n * P * C + c;
      for (int base = warp; base < P; base += kInFlight * kPoolWarps) {
        T raw[kInFlight];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const int i = base + u * kPoolWarps;
          if (i < P) raw[u] = p[i * C];
        }
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const int i = base + u * kPoolWarps;
          if (i >= P) break;
          const Candidate<A> x{widen(raw[u]), i};
          if (better(x, best)) best = x;
        }
      }
    }
    candidates[warp][lane] = best;
    __syncthreads();
    if (warp == 0 && c < C) {
      for (int w = 1; w < kPoolWarps; ++w) {
        if (better(candidates[w][lane], best)) best = candidates[w][lane];
      }
      pooled[n * C + c] = narrow<T>(best.value);
      index[n * C + c] = best.index;
    }
    __syncthreads();
  } else {
    // A warp owns a channel, the lanes share the pixels.
    for (int64_t c = first + warp; c < first + kWarp && c < C; c += kPoolWarps) {
      const T* p = p_high + (n * C + c) * P;
      Candidate<A> best = worst<A>();
#pragma unroll 4
      for (int i = lane; i < P; i += kWarp) {
        const Candidate<A> x{widen(p[i]), i};
        if (better(x, best)) best = x;
      }
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const Candidate<A> other{__shfl_xor_sync(0xffffffffu, best.value, offset),
                                 __shfl_xor_sync(0xffffffffu, best.index, offset)};
        if (better(other, best)) best = other;
      }
      if (lane == 0) {
        pooled[n * C + c] = narrow<T>(best.value);
        index[n * C + c] = best.index;
      }
    }
  }
}

// context[n, d] = relu(bias[d] + weight[d] . pooled[n]), one warp for each d = first, first + step, ...
// `pooled` may have been written in this launch, before the cluster's barrier: no __ldg. No __ldcg either: nvcc
// takes such a load for one that may run early, and reads beyond the row's end.
template <class T>
__device__ void project(const T* pooled, const T* weight, const T* bias, Acc<T>* context, int64_t n,
                        int64_t C, int64_t D, int64_t first, int64_t step) {
  using A = Acc<T>;
  const int lane = threadIdx.x % kWarp;
  for (int64_t d = first; d < D; d += step) {
    A total = 0;
#pragma unroll 8
    for (int64_t c = lane; c < C; c += kWarp) {
      total += widen(weight[d * C + c]) * widen(pooled[n * C + c]);
    }
    total = warp_sum(total);
    if (lane == 0) context[n * D + d] = relu(total + widen(bias[d]));
  }
}

template <class T>
struct PooledContext {
  const T *p_high, *weight, *bias;
  T* pooled;
  int32_t* index;
  Acc<T>* context;
  int64_t C, D;
  int P;
  bool channels_last;
};

// grid: (8, N), a cluster for each sample.
template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    pooled_context_cluster_kernel(const PooledContext<T> a) {
#if __CUDA_ARCH__ >= 900
  const int64_t n = blockIdx.y, rank = blockIdx.x;
  for (int64_t tile = rank; tile * kWarp < a.C; tile += kCluster) {
    pool_tile(a.p_high, a.pooled, a.index, n, tile, a.C, a.P, a.channels_last);
  }
  cooperative_groups::this_cluster().sync();
  project(a.pooled, a.weight, a.bias, a.context, n, a.C, a.D,
          rank * kPoolWarps + threadIdx.x / kWarp, int64_t(kCluster) * kPoolWarps);
#else
  __trap();
#endif
}

// grid: (channel tiles, N).
template <class T>
__global__ void __launch_bounds__(kPoolThreads) pool_kernel(const PooledContext<T> a) {
  pool_tile(a.p_high, a.pooled, a.index, blockIdx.y, blockIdx.x, a.C, a.P, a.channels_last);
}

// grid: (row tiles, N).
template <class T>
__global__ void __launch_bounds__(kPoolThreads) project_kernel(const PooledContext<T> a) {
  project(a.pooled, a.weight, a.bias, a.context, blockIdx.y, a.C, a.D,
          int64_t(blockIdx.x) * kPoolWarps + threadIdx.x / kWarp,
          int64_t(gridDim.x) * kPoolWarps);
}

// Whether the code that runs of the cluster kernel on a device has clusters. A GPU that has them may run an
// older one's PTX. Asked once for a device: the question costs the host as much as a launch.
template <class T>
bool has_clusters(int32_t device) {
  enum : int8_t { kUnknown, kNo, kYes };
  constexpr int32_t kDevices = 64;
  static std::atomic<int8_t> known[kDevices];  // static: all kUnknown
  const bool kept = device >= 0 && device < kDevices;
  int8_t answer = kept ? known[device].load(std::memory_order_relaxed) : kUnknown;
  if (answer == kUnknown) {
    cudaFuncAttributes code;
    STD_CUDA_CHECK(cudaFuncGetAttributes(&code, pooled_context_cluster_kernel<T>));
    answer = code.binaryVersion >= 90 && code.ptxVersion >= 90 ? kYes : kNo;
    if (kept) known[device].store(answer, std::memory_order_relaxed);
  }
  return answer == kYes;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> pooled_context(const Tensor& p_high, const Tensor& weight,
                                                  const Tensor& bias) {
  const Stream stream(p_high);
  const Map m(p_high);
  const int64_t D = weight.size(0);
  const ScalarType type = p_high.scalar_type();
  Tensor context = stream.empty({m.N, D}, accumulate_type(type));
  Tensor pooled = stream.empty({m.N, m.C}, type);
  Tensor index = stream.empty({m.N, m.C}, ScalarType::Int);
  if (m.N == 0) return {context, pooled, index};
  dispatch(type, "pooled_context", [&](auto t) {
    using T = typename decltype(t)::type;
    const PooledContext<T> a{data<T>(p_high),  data<T>(weight),       data<T>(bias),
                             data<T>(pooled),  data<int32_t>(index),  data<Acc<T>>(context),
                             m.C,              D,                     int(m.pixels()),
                             m.channels_last};
    const unsigned N = unsigned(m.N);
    const int64_t bytes = m.C * m.pixels() * int64_t(sizeof(T));
    if (bytes <= kClusterBytes && has_clusters<T>(stream.device())) {
      stream.launch_clusters(pooled_context_cluster_kernel<T>, kCluster, dim3(kCluster, N),
                             dim3(kPoolThreads), a);
    } else {
      stream.launch(pool_kernel<T>, dim3(unsigned(ceil_div(m.C, kWarp)), N), dim3(kPoolThreads), a);
      stream.launch(project_kernel<T>, dim3(unsigned(ceil_div(D, kPoolWarps)), N),
                    dim3(kPoolThreads), a);
    }
  });
  return {context, pooled, index};
}

namespace {

// ---- backward -------------------------------------------------------------------------------------

template <class T>
struct PooledContextBackward {
  const Acc<T>*grad_context, *context;
  const T* pooled;
  const int32_t* index;
  const T* weight;
  T* grad_p_high;
  Acc<T>*grad_weight, *grad_bias;
  int64_t N, C, D, P;
  bool channels_last;

  // The gradient before the ReLU.
  __device__ __forceinline__ Acc<T> grad_z(int64_t n, int64_t d) const {
    const int64_t i = n * D + d;
    return relu_gradient(context[i], grad_context[i]);
  }
};

// grid: (column tiles, D + N). Rows below D: one row of grad_weight, a column for each thread. Rows from
// D on: one sample of grad_p_high, the 8 warps share d.
template <class T>
__global__ void __launch_bounds__(256) pooled_context_bwd_kernel(const PooledContextBackward<T> a) {
  using A = Acc<T>;
  const int64_t c = int64_t(blockIdx.x) * kWarp + threadIdx.x;
  if (blockIdx.y < a.D) {
    if (threadIdx.y != 0) return;
    const int64_t d = blockIdx.y;
    A weight = 0, bias = 0;
    for (int64_t n = 0; n < a.N; ++n) {
      const A g = a.grad_z(n, d);
      if (c < a.C) weight += g * widen(a.pooled[n * a.C + c]);
      bias += g;
    }
    if (c < a.C) a.grad_weight[d * a.C + c] = weight;
    if (c == 0) a.grad_bias[d] = bias;
    return;
  }
  const int64_t n = blockIdx.y - a.D;
  __shared__ A lanes[8][kWarp];
  A total = 0;
  if (c < a.C) {
#pragma unroll 4
    for (int64_t d = threadIdx.y; d < a.D; d += 8) {
      total += a.grad_z(n, d) * widen(a.weight[d * a.C + c]);
    }
  }
  lanes[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || c >= a.C) return;
#pragma unroll
  for (int y = 1; y < 8; ++y) total += lanes[y][threadIdx.x];
  const int64_t p = a.index[n * a.C + c];
  T* at = a.grad_p_high + (a.channels_last ? (n * a.P + p) * a.C + c : (n * a.C + c) * a.P + p);
  *at = narrow<T>(widen(*at) + total);
}

}  // namespace

std::tuple<Tensor, Tensor> pooled_context_backward(const Tensor& grad_context,
                                                   const Tensor& context, const Tensor& pooled,
                                                   const Tensor& index, const Tensor& weight,
                                                   const Tensor& grad_p_high) {
  const Stream stream(grad_p_high);
  const Map m(grad_p_high);
  const int64_t D = weight.size(0);
  const ScalarType acc = grad_context.scalar_type();
  Tensor grad_weight = stream.empty({D, m.C}, acc);
  Tensor grad_bias = stream.empty({D}, acc);
  dispatch(weight.scalar_type(), "pooled_context_backward", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const PooledContextBackward<T> a{
        data<A>(grad_context), data<A>(context),      data<T>(pooled),      data<int32_t>(index),
        data<T>(weight),       data<T>(grad_p_high),  data<A>(grad_weight), data<A>(grad_bias),
        m.N,                   m.C,                   D,                    m.pixels(),
        m.channels_last};
    stream.launch(pooled_context_bwd_kernel<T>,
                  dim3(unsigned(ceil_div(m.C, kWarp)), unsigned(D + m.N)), dim3(kWarp, 8), a);
  });
  return {grad_weight, grad_bias};
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("pooled_context", TORCH_BOX(&efpn::cuda::pooled_context));
  m.impl("pooled_context_backward", TORCH_BOX(&efpn::cuda::pooled_context_backward));
}
