// Kernels that are wrong in one way each, and right ones beside them: what the watch must find, and not find.
#include "emulate.h"

namespace {

constexpr int kThreads = 64;

struct alignas(16) Vector {
  float v[4];
};

enum class Fault {
  none,
  none_in_cluster,
  read_before_barrier,
  write_before_barrier,
  blocks_write,
  block_reads_block,
  block_overwrites,
  cluster_reads_early,
  unaligned,
  unwritten_shared,
  index,
  overflow,
  shuffle,
  outside,
};

__global__ void broken_kernel(Fault fault, float* data, int one) {
  __shared__ float values[kThreads];
  const int i = threadIdx.x, block = blockIdx.x;
  float* mine = data + block * kThreads;
  if (fault != Fault::unwritten_shared || block == 0) values[i] = float(i);
  if (fault != Fault::read_before_barrier) __syncthreads();
  const float mirrored = values[kThreads - 1 - i];
  if (fault != Fault::write_before_barrier) __syncthreads();
  values[i] = mirrored;
  __syncthreads();
  mine[i] = values[kThreads - 1 - i] + __shfl_xor_sync(~0u, mirrored, 1);
  switch (fault) {
    case Fault::none_in_cluster:
      cooperative_groups::this_cluster().sync();
      if (block == 1) mine[i] = data[i];
      break;
    case Fault::blocks_write:
      data[i] = 1.0f;
      break;
    case Fault::block_reads_block:
    case Fault::cluster_reads_early:
      if (block == 1) mine[i] = data[i];
      break;
    case Fault::block_overwrites:
      if (block == 0) mine[i] = data[2 * kThreads];
      if (block == 1) data[2 * kThreads] = 1.0f;
      break;
    case Fault::unaligned:
      *reinterpret_cast<Vector*>(data + 2 * kThreads + one) = Vector{};
      break;
    case Fault::index:
      mine[i] = values[i + one];
      break;
    case Fault::overflow:
      mine[i] = float((INT32_MAX - i) + one);
      break;
    case Fault::shuffle:
      if (i % 2 == 0) mine[i] = __shfl_xor_sync(~0u, mirrored, 1);
      break;
    case Fault::outside:
      mine[i] = data[3 * kThreads + i];
      break;
    default:
      break;
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void efpn_emulate_broken(int fault) {
  float* data = new float[3 * kThreads];
  const auto kind = Fault(fault);
  const bool clusters = kind == Fault::none_in_cluster || kind == Fault::cluster_reads_early;
  emulate::launch_kernel(broken_kernel, dim3(2), dim3(kThreads), clusters ? 2 : 1, kind, data, 1);
  delete[] data;
}
