// The scheduler: threads with stacks of their own that take turns, barriers, shuffles; and the call of the
// CUDA runtime that the host side makes.
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <vector_types.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "schedule.h"

// efpn_emulate_switch(&from, to): keeps the registers that a call must keep, x86-64.
extern "C" void efpn_emulate_switch(void** from, void* to);
asm(R"(
.text
.globl efpn_emulate_switch
.hidden efpn_emulate_switch
.type efpn_emulate_switch,@function
efpn_emulate_switch:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
)");

uint3 blockIdx, threadIdx;
dim3 blockDim, gridDim;

namespace emulate {

Now now;

namespace {

constexpr size_t kStack = 64 << 10;
constexpr int kMostThreads = 8 * 1024;  // of a cluster
constexpr int kWarp = 32;
constexpr long kMostRounds = 1000000;

// A barrier of the threads that are left.
struct Barrier {
  int live = 0, arrived = 0;
  uint32_t generation = 0;
  uint32_t fell = 0;  // at this time
  void release_if_all() {
    if (arrived == 0 || arrived < live) return;
    arrived = 0;
    ++generation;
    fell = ++now.time;
  }
  void leave() {
    --live;
    release_if_all();
  }
};

struct Warp {
  Barrier barrier;
  uint64_t slots[2][kWarp] = {};
  uint32_t given[2][kWarp] = {};  // the generation of each slot, plus one
};

struct Block {
  Barrier barrier;
  uint32_t start = 0;
  uint3 index{};
};

struct Thread {
  void* stack_pointer = nullptr;
  bool done = false;
  uint3 index{};
  int id = 0;  // in its block
  Block* block = nullptr;
  Warp* warp = nullptr;
};

Thread* current = nullptr;
void* scheduler_stack = nullptr;
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<Block> blocks;
Barrier cluster;
void (*call)(const void*) = nullptr;
const void* call_data = nullptr;

char* stack_memory() {
  static char* const memory = [] {
    void* p = mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    return static_cast<char*>(p);
  }();
  return memory;
}

void yield() { efpn_emulate_switch(&current->stack_pointer, scheduler_stack); }

void wait(Barrier& barrier) {
  const uint32_t mine = barrier.generation;
  ++barrier.arrived;
  barrier.release_if_all();
  while (barrier.generation == mine) yield();
  now.block_sync = current->block->barrier.fell;
  now.cluster_sync = cluster.fell;
}

void run_thread() {
  call(call_data);
  current->done = true;
  current->block->barrier.leave();
  current->warp->barrier.leave();
  cluster.leave();
  for (;;) yield();
}

// The first switch pops six registers and returns into run_thread.
void prepare(Thread& t, int slot) {
  const uintptr_t top = reinterpret_cast<uintptr_t>(stack_memory() + (slot + 1) * kStack);
  void** p = reinterpret_cast<void**>(top) - 1;
  *--p = reinterpret_cast<void*>(&run_thread);
  for (int r = 0; r < 6; ++r) *--p = nullptr;
  t.stack_pointer = p;
}

void resume(Thread& t, int slot) {
  current = &t;
  blockIdx = t.block->index;
  threadIdx = t.index;
  now.thread = uint16_t(slot);
  now.block_start = t.block->start;
  now.block_sync = t.block->barrier.fell;
  now.cluster_sync = cluster.fell;
  now.running = true;
  efpn_emulate_switch(&scheduler_stack, t.stack_pointer);
  now.running = false;
}

// Turns for the threads [begin, end) until nothing changes but waiting for other blocks; how many are left.
int run_block(int begin, int end) {
  for (long rounds = 0;; ++rounds) {
    int left = 0;
    const uint32_t before = now.time;
    for (int i = begin; i < end; ++i) {
      if (threads[i].done) continue;
      resume(threads[i], i);
      left += !threads[i].done;
    }
    if (left == 0 || (now.time == before && rounds > 0)) return left;
    if (rounds > kMostRounds) break;
  }
  std::fprintf(stderr, "a barrier that not every thread reaches\n");
  std::abort();
}

void run_cluster(unsigned x, unsigned y, unsigned z, unsigned size) {
  const dim3 block = blockDim;
  const int count = int(block.x * block.y * block.z), in_warps = (count + kWarp - 1) / kWarp;
  if (size * count > unsigned(kMostThreads)) std::abort();
  threads.resize(size * count);
  warps.assign(size * in_warps, Warp{});
  blocks.assign(size, Block{});
  cluster = Barrier{int(size) * count};
  cluster.fell = now.cluster_start = ++now.time;
  now.block_threads = uint16_t(count);
  for (unsigned b = 0; b < size; ++b) {
    blocks[b].barrier.live = count;
    blocks[b].index = {x + b, y, z};
    for (int i = 0; i < count; ++i) {
      Thread& t = threads[b * count + i];
      t = Thread{};
      t.id = i;
      t.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
      t.block = &blocks[b];
      t.warp = &warps[b * in_warps + i / kWarp];
      ++t.warp->barrier.live;
      prepare(t, b * count + i);
    }
  }
  // Shared memory is one for all blocks: a block has it from one barrier of the cluster to the next.
  for (unsigned generations = 0;; ++generations) {
    int left = 0;
    const uint32_t before = cluster.generation;
    for (unsigned b = 0; b < size; ++b) {
      blocks[b].start = blocks[b].barrier.fell = ++now.time;
      left += run_block(int(b) * count, int(b + 1) * count);
    }
    if (left == 0) break;
    if (cluster.generation == before) {
      std::fprintf(stderr, "a barrier that not every thread reaches\n");
      std::abort();
    }
  }
  cluster_ends();
}

}  // namespace

Range stacks() {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(stack_memory());
  return {begin, begin + kStack * kMostThreads};
}

namespace {

bool only_ends = false;

// Whether the blocks from i on, `step` of them, run: all, or those at the ends of an axis.
bool wanted(unsigned i, unsigned size, unsigned step) {
  return !only_ends || i == 0 || i + step >= size;
}

}  // namespace

bool ends_only() { return only_ends; }

void launch(const void* code, dim3 grid, dim3 block, unsigned size, void (*body)(const void*),
            const void* data) {
  call = body;
  call_data = data;
  blockDim = block;
  gridDim = grid;
  now.launch_start = now.time + 1;
  launch_starts(code, int(grid.x * grid.y * grid.z));
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; wanted(z, grid.z, 1) && y < grid.y; ++y) {
      for (unsigned x = 0; wanted(y, grid.y, 1) && x < grid.x; x += size) {
        if (wanted(x, grid.x, size)) run_cluster(x, y, z, size);
      }
    }
  }
}

void block_barrier() { wait(current->block->barrier); }
void cluster_barrier() { wait(cluster); }

uint64_t exchange(uint64_t value, int offset) {
  Warp& warp = *current->warp;
  const int lane = current->id % kWarp, turn = warp.barrier.generation % 2;
  const uint32_t mine = warp.barrier.generation + 1;
  warp.slots[turn][lane] = value;
  warp.given[turn][lane] = mine;
  wait(warp.barrier);
  if (warp.given[turn][lane ^ offset] != mine) {
    report("a shuffle reads a lane that does not take part", 0, __builtin_return_address(0));
  }
  return warp.slots[turn][lane ^ offset];
}

}  // namespace emulate

namespace {
int binary_version = 80, ptx_version = 80, device_index = 0, questions = 0;
}
namespace emulate {
int device() { return device_index; }
}  // namespace emulate

// From now on kernels run on a device for which they were compiled like this.
extern "C" __attribute__((visibility("default"))) void efpn_emulate_device(int index, int binary,
                                                                           int ptx) {
  device_index = index;
  binary_version = binary;
  ptx_version = ptx;
}

// From now on only the first and the last blocks run, or all.
extern "C" __attribute__((visibility("default"))) void efpn_emulate_ends(int only) {
  emulate::only_ends = only != 0;
}

// How often the attributes of a kernel have been asked for.
extern "C" __attribute__((visibility("default"))) int efpn_emulate_questions() {
  return questions;
}

extern "C" cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* code, const void*) {
  ++questions;
  *code = {};
  code->binaryVersion = binary_version;
  code->ptxVersion = ptx_version;
  return cudaSuccess;
}
