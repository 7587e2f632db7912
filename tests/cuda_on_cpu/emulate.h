// CUDA kernels on a CPU, for tests of their values: the threads of a block take turns, each on its own
// stack, and change at __syncthreads and at shuffles. Blocks run one after the other, which hides races
// between blocks; a race within a block shows only where the order of threads is the wrong one.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

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

inline uint3 blockIdx, threadIdx;
inline dim3 blockDim, gridDim;

namespace emulate {

struct Thread {
  void* stack_pointer = nullptr;
  std::vector<char> stack;
  bool done = false;
  uint3 index{};
  int id = 0;
};

// A barrier of the threads that are left.
struct Barrier {
  int live = 0, arrived = 0;
  unsigned generation = 0;
  void release_if_all() {
    if (arrived > 0 && arrived == live) {
      arrived = 0;
      ++generation;
    }
  }
};

struct Warp {
  Barrier barrier;
  uint64_t slots[2][32] = {};
};

inline Thread* current = nullptr;
inline void* scheduler_stack = nullptr;
inline Barrier block_barrier;
inline std::vector<Warp> warps;
inline void (*body)(const void*) = nullptr;
inline const void* body_data = nullptr;

extern "C" void efpn_emulate_switch(void** from, void* to);

inline void yield() { efpn_emulate_switch(&current->stack_pointer, scheduler_stack); }

inline void wait(Barrier& barrier) {
  const unsigned mine = barrier.generation;
  ++barrier.arrived;
  barrier.release_if_all();
  while (barrier.generation == mine) yield();
}

inline void run_thread() {
  body(body_data);
  current->done = true;
  --block_barrier.live;
  block_barrier.release_if_all();
  Barrier& warp = warps[current->id / 32].barrier;
  --warp.live;
  warp.release_if_all();
  for (;;) yield();
}

template <class F>
void launch(dim3 grid, dim3 block, const F& f) {
  constexpr size_t kStack = 64 << 10;
  constexpr long kMostRounds = 1000000;
  static std::vector<Thread> threads;
  const int count = int(block.x * block.y * block.z);
  if (threads.size() < size_t(count)) threads.resize(count);
  body = [](const void* data) { (*static_cast<const F*>(data))(); };
  body_data = &f;
  blockDim = block;
  gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        block_barrier = Barrier{count};
        warps.assign((count + 31) / 32, Warp{});
        for (int i = 0; i < count; ++i) {
          Thread& t = threads[i];
          t.id = i;
          t.done = false;
          t.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
          ++warps[i / 32].barrier.live;
          t.stack.resize(kStack);
          // The first switch pops six registers and returns into run_thread.
          uintptr_t top = reinterpret_cast<uintptr_t>(t.stack.data() + kStack) & ~uintptr_t(63);
          void** p = reinterpret_cast<void**>(top) - 1;
          *--p = reinterpret_cast<void*>(&run_thread);
          for (int r = 0; r < 6; ++r) *--p = nullptr;
          t.stack_pointer = p;
        }
        int left = count;
        for (long rounds = 0; left > 0; ++rounds) {
          left = 0;
          for (int i = 0; i < count; ++i) {
            if (threads[i].done) continue;
            current = &threads[i];
            threadIdx = current->index;
            efpn_emulate_switch(&scheduler_stack, current->stack_pointer);
            left += !current->done;
          }
          if (rounds > kMostRounds) {
            std::fprintf(stderr, "a barrier that not every thread reaches\n");
            std::abort();
          }
        }
      }
    }
  }
}

template <class T>
T shuffle_xor(T value, int offset) {
  static_assert(sizeof(T) <= 8);
  Warp& warp = warps[current->id / 32];
  const int lane = current->id % 32;
  uint64_t(&slots)[32] = warp.slots[warp.barrier.generation % 2];
  std::memcpy(&slots[lane], &value, sizeof(T));
  wait(warp.barrier);
  T other;
  std::memcpy(&other, &slots[lane ^ offset], sizeof(T));
  return other;
}

}  // namespace emulate


inline void __syncthreads() { emulate::wait(emulate::block_barrier); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int offset, int = 32) {
  return emulate::shuffle_xor(value, offset);
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
