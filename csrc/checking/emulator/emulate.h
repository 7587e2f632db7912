// CUDA kernels on a CPU, for tests of what they compute and of how they touch memory: the threads of a
// block take turns, each on its own stack, and change at barriers and at shuffles. The blocks of a grid,
// or the clusters of one, run one after the other. watch.cpp sees every access.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#undef __shared__
#define __shared__ static
#undef __global__
#define __global__
#undef __device__
#define __device__
#undef __host__
#define __host__
#undef __forceinline__
#define __forceinline__ inline
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __constant__
#define __constant__

extern uint3 blockIdx, threadIdx;
extern dim3 blockDim, gridDim;

namespace emulate {

// body(data) calls the kernel with its arguments. A cluster is `cluster` neighbours along x.
void launch(const void* kernel, dim3 grid, dim3 block, unsigned cluster, void (*body)(const void*),
            const void* data);
void block_barrier();
void cluster_barrier();
// The value that lane `lane ^ offset` of the warp gives to the same call.
uint64_t exchange(uint64_t value, int offset);
// The number of the GPU that the kernels are told to run on.
int device();
// Whether only the first and the last blocks of a grid run, on tensors that are larger than memory.
bool ends_only();

template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, unsigned cluster,
                   const Arguments&... arguments) {
  const auto call = [&] { kernel(arguments...); };
  using Call = decltype(call);
  const auto body = [](const void* data) { (*static_cast<Call*>(data))(); };
  launch(reinterpret_cast<const void*>(kernel), grid, block, cluster, body, &call);
}

// NaN everywhere: what nobody writes shows.
template <class Tensor>
Tensor poisoned(Tensor x) {
  if (x.numel() > 0 && !ends_only()) std::memset(x.data_ptr(), 0xff, x.numel() * x.element_size());
  return x;
}

}  // namespace emulate

inline void __syncthreads() { emulate::block_barrier(); }

namespace cooperative_groups {
struct Cluster {
  void sync() const { emulate::cluster_barrier(); }
};
inline Cluster this_cluster() { return {}; }
}  // namespace cooperative_groups

template <class T>
T __shfl_xor_sync(unsigned, T value, int offset, int = 32) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulate::exchange(bits, offset);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* code, Kernel* kernel) {
  return cudaFuncGetAttributes(code, reinterpret_cast<const void*>(kernel));
}
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
