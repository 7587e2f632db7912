// What the scheduler, the watch of memory and the counts tell each other. Time is a counter that moves on at every barrier.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulate {

struct Now {
  bool running = false;  // a thread of a kernel
  uint32_t time = 1;
  uint32_t launch_start = 0, cluster_start = 0;
  uint32_t cluster_sync = 0;  // when the cluster's last barrier fell
  uint32_t block_start = 0, block_sync = 0;
  uint16_t thread = 0;  // in its cluster
  uint16_t block_threads = 0;
};
extern Now now;

struct Range {
  uintptr_t begin = 0, end = 0;
  bool holds(uintptr_t p) const { return begin <= p && p < end; }
};
Range stacks();

// Keeps the first problem of a launch for efpn_emulate_problem.
void report(const char* what, size_t size, const void* code);

uintptr_t library_base();

void launch_starts(const void* kernel, int blocks);
void cluster_ends();

bool counting();
void count_launch(uintptr_t kernel, int blocks);
void count_access(const void* address, size_t size, bool write, bool shared, const void* code);

}  // namespace emulate
