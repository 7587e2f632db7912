// The second stage of every reduction: sums of partial results in a fixed order, in one launch.
#pragma once

#include "tensor.cuh"

namespace efpn {
namespace cuda {

// out[g * out_stride + k] = sum over r < rows of in[g * in_stride + r * columns + k], g < groups,
// k < columns: in holds a matrix [rows, columns] for every group.
template <class A>
struct Sum {
  const A* in;
  A* out;
  int64_t groups, rows, columns, in_stride, out_stride;
};

template <class A>
struct Sums {
  static constexpr int kMost = 5;
  Sum<A> sums[kMost];
};

constexpr int kSumTile = 32;  // columns of a block, and row lanes

// grid: (column tiles x groups of the largest sum, sums). block: (32 columns, 32 row lanes).
template <class A>
__global__ void __launch_bounds__(kSumTile* kSumTile) sums_kernel(const Sums<A> all) {
  const Sum<A>& s = all.sums[blockIdx.y];
  const int64_t tiles = (s.columns + kSumTile - 1) / kSumTile;
  const int64_t group = tiles > 0 ? blockIdx.x / tiles : s.groups;
  if (group >= s.groups) return;
  const int64_t first = (blockIdx.x - group * tiles) * kSumTile;
  A total = 0;
  if (first + threadIdx.x < s.columns) {
    const A* in = s.in + group * s.in_stride + first + threadIdx.x;
#pragma unroll 4
    for (int64_t row = threadIdx.y; row < s.rows; row += kSumTile) total += in[row * s.columns];
  }
  // Turned round, so that a warp holds the lanes of one column.
  __shared__ A lanes[kSumTile][kSumTile + 1];
  lanes[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  total = warp_sum(lanes[threadIdx.x][threadIdx.y]);
  const int64_t column = first + threadIdx.y;
  if (threadIdx.x == 0 && column < s.columns) s.out[group * s.out_stride + column] = total;
}

template <class A>
void sum_partials(const Stream& stream, std::initializer_list<Sum<A>> sums) {
  Sums<A> all{};
  int64_t blocks = 0;
  unsigned count = 0;
  for (const Sum<A>& s : sums) {
    all.sums[count++] = s;
    const int64_t needed = ceil_div(s.columns, kSumTile) * s.groups;
    blocks = needed > blocks ? needed : blocks;
  }
  stream.launch(sums_kernel<A>, dim3(static_cast<unsigned>(blocks), count),
                dim3(kSumTile, kSumTile), all);
}

}  // namespace cuda
}  // namespace efpn
