// Every access of the kernels to memory: the compiler calls these functions (-fsanitize=thread; the library
// of that name is not used). Found are
//   races      two threads at one address, one of them writing, with no barrier between them: of one block
//              (__syncthreads), of one cluster, or of any two blocks of a launch
//   alignment  an access that is not aligned to its size (to 16 bytes beyond that)
//   nothing    shared memory that its block has not written; with AddressSanitizer loaded, memory that
//              belongs to no tensor
// On demand it hands every access to count.cpp instead.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <vector_types.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "schedule.h"

extern "C" void* __asan_region_is_poisoned(void* begin, size_t size) __attribute__((weak));

extern uint3 blockIdx, threadIdx;
extern dim3 blockDim, gridDim;

namespace emulate {
namespace {

// ---- where an address points ---------------------------------------------------------------------------

enum class Space { local, shared, global };

struct Library {
  std::vector<Range> read_only, writable;
  uintptr_t base = 0;
};

const Library& library() {
  static const Library found = [] {
    Library own;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
          auto& own = *static_cast<Library*>(data);
          const uintptr_t here = reinterpret_cast<uintptr_t>(&now);
          std::vector<Range> read_only, writable;
          bool mine = false;
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& h = info->dlpi_phdr[i];
            if (h.p_type != PT_LOAD) continue;
            const uintptr_t begin = info->dlpi_addr + h.p_vaddr;
            const Range range{begin, begin + h.p_memsz};
            mine |= range.holds(here);
            (h.p_flags & PF_W ? writable : read_only).push_back(range);
          }
          if (!mine) return 0;
          own = {read_only, writable, info->dlpi_addr};
          return 1;
        },
        &own);
    return own;
  }();
  return found;
}

Range host_stack() {
  static thread_local const Range range = [] {
    pthread_attr_t attributes;
    void* begin = nullptr;
    size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) std::abort();
    pthread_attr_getstack(&attributes, &begin, &size);
    pthread_attr_destroy(&attributes);
    const uintptr_t first = reinterpret_cast<uintptr_t>(begin);
    return Range{first, first + size};
  }();
  return range;
}

template <class Index>
bool is(const Index& index, uintptr_t p) {
  return p - reinterpret_cast<uintptr_t>(&index) < sizeof(index);
}

Space space_of(uintptr_t p) {
  static const Range device_stacks = stacks();
  if (device_stacks.holds(p) || host_stack().holds(p)) return Space::local;
  if (is(blockIdx, p) || is(threadIdx, p) || is(blockDim, p) || is(gridDim, p)) return Space::local;
  for (const Range& range : library().writable) {
    if (range.holds(p)) return Space::shared;
  }
  for (const Range& range : library().read_only) {
    if (range.holds(p)) return Space::local;
  }
  return Space::global;
}

// ---- races ---------------------------------------------------------------------------------------------

struct Touch {
  uint32_t time = 0;
  uint16_t thread = 0;
};

// The last accesses to two bytes: the last write, the last reads of two threads, and when another
// cluster has read.
struct Cell {
  Touch write, read, other;
  uint32_t foreign = 0;
};

constexpr uintptr_t kPage = 4096, kBytes = 2;
struct Page {
  Cell cells[kPage / kBytes];
};

Cell& cell_of(uintptr_t p) {
  static std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  constexpr size_t kRecent = 256;
  static struct {
    uintptr_t number = 0;
    Page* page = nullptr;
  } recent[kRecent];
  const uintptr_t number = p / kPage;
  auto& slot = recent[number % kRecent];
  if (slot.number != number) {
    auto& page = pages[number];
    if (!page) page = std::make_unique<Page>();
    slot = {number, page.get()};
  }
  return slot.page->cells[p % kPage / kBytes];
}

// Whether nothing orders that access before this one.
bool unordered(const Touch& touch) {
  if (touch.time < now.launch_start) return false;
  if (touch.time < now.cluster_start) return true;
  if (touch.thread == now.thread) return false;
  const bool same_block = touch.thread / now.block_threads == now.thread / now.block_threads;
  return touch.time >= (same_block ? now.block_sync : now.cluster_sync);
}

void check_cell(uintptr_t p, size_t size, bool write, Space space, const void* code) {
  Cell& cell = cell_of(p);
  // Blocks do not share that memory; the emulation does.
  const bool elsewhere = space == Space::shared && cell.write.time < now.block_start;
  if (!elsewhere && unordered(cell.write)) {
    report(write ? "two writes race" : "a read races with a write", size, code);
  }
  if (write) {
    const uint32_t since = space == Space::shared ? now.block_start : 0;
    if ((cell.read.time >= since && unordered(cell.read)) ||
        (cell.other.time >= since && unordered(cell.other)) ||
        (space == Space::global && cell.foreign >= now.launch_start)) {
      report("a write races with a read", size, code);
    }
    cell.write = {now.time, now.thread};
    return;
  }
  if (cell.read.time >= now.launch_start && cell.read.time < now.cluster_start) {
    cell.foreign = cell.read.time;
  }
  if (cell.read.thread != now.thread) cell.other = cell.read;
  cell.read = {now.time, now.thread};
}

// ---- one access ----------------------------------------------------------------------------------------

void touch(const void* address, size_t size, bool write, const void* code) {
  if (!now.running) return;
  const uintptr_t p = reinterpret_cast<uintptr_t>(address);
  const Space space = space_of(p);
  if (space == Space::local) return;
  const size_t wanted = size > 16 ? (size % 16 == 0 ? 16 : 4) : size;
  if (p % wanted != 0) report("is not aligned", size, code);
  if (counting()) {
    count_access(address, size, write, space == Space::shared, code);
    return;
  }
  if (space == Space::global && __asan_region_is_poisoned &&
      __asan_region_is_poisoned(const_cast<void*>(address), size)) {
    report("is outside of every tensor", size, code);
  }
  // Between the first and the last bytes of a struct there may be some that nobody writes.
  if (space == Space::shared && !write &&
      std::min(cell_of(p).write.time, cell_of(p + size - 1).write.time) < now.block_start) {
    report("reads shared memory that its block has not written", size, code);
  }
  for (size_t done = 0; done < size; done += kBytes) {
    check_cell(p + done, size, write, space, code);
  }
}

struct Problem {
  const char* what = nullptr;
  size_t size = 0;
  uintptr_t code = 0, kernel = 0;
} problem;
uintptr_t running_kernel = 0;

}  // namespace

uintptr_t library_base() { return library().base; }

void report(const char* what, size_t size, const void* code) {
  if (problem.what) return;
  problem = {what, size, reinterpret_cast<uintptr_t>(code) - library().base, running_kernel};
}

void launch_starts(const void* kernel, int blocks) {
  running_kernel = reinterpret_cast<uintptr_t>(kernel) - library().base;
  count_launch(running_kernel, blocks);
}

}  // namespace emulate

using namespace emulate;

// The first problem since the last call as "what,size,place,kernel", or nothing.
extern "C" __attribute__((visibility("default"))) const char* efpn_emulate_problem() {
  static char text[256];
  if (!problem.what) return "";
  std::snprintf(text, sizeof(text), "%s,%zu,%#zx,%#zx", problem.what, problem.size, problem.code,
                problem.kernel);
  problem = {};
  return text;
}

#define EFPN_EXPORT extern "C" __attribute__((visibility("hidden")))
#define EFPN_ACCESS(size)                                                                          \
  EFPN_EXPORT void __tsan_read##size(const void* p) {                                              \
    touch(p, size, false, __builtin_return_address(0));                                            \
  }                                                                                                \
  EFPN_EXPORT void __tsan_write##size(const void* p) {                                             \
    touch(p, size, true, __builtin_return_address(0));                                             \
  }
EFPN_ACCESS(1)
EFPN_ACCESS(2)
EFPN_ACCESS(4)
EFPN_ACCESS(8)
EFPN_ACCESS(16)
EFPN_EXPORT void __tsan_read_range(const void* p, size_t size) {
  touch(p, size, false, __builtin_return_address(0));
}
EFPN_EXPORT void __tsan_write_range(const void* p, size_t size) {
  touch(p, size, true, __builtin_return_address(0));
}
EFPN_EXPORT void __tsan_init() {}
EFPN_EXPORT void __tsan_vptr_update(void*, void*) {}
EFPN_EXPORT void __tsan_vptr_read(void*) {}
// Reference counts of the host side, and what it remembers of a device.
EFPN_EXPORT char __tsan_atomic8_load(const volatile char* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
EFPN_EXPORT void __tsan_atomic8_store(volatile char* p, char value, int) {
  __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}
EFPN_EXPORT int __tsan_atomic32_fetch_add(volatile int* p, int value, int order) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}

// -fsanitize=bounds,..., without its library either.
#define EFPN_UNDEFINED(name, what, ...)                                                            \
  EFPN_EXPORT void __ubsan_handle_##name(__VA_ARGS__) {                                            \
    report(what, 0, __builtin_return_address(0));                                         \
  }
EFPN_UNDEFINED(out_of_bounds, "an index is outside of its array", void*, void*)
EFPN_UNDEFINED(add_overflow, "a sum overflows", void*, void*, void*)
EFPN_UNDEFINED(sub_overflow, "a difference overflows", void*, void*, void*)
EFPN_UNDEFINED(mul_overflow, "a product overflows", void*, void*, void*)
EFPN_UNDEFINED(negate_overflow, "a negation overflows", void*, void*)
EFPN_UNDEFINED(divrem_overflow, "a division by zero or its overflow", void*, void*, void*)
EFPN_UNDEFINED(shift_out_of_bounds, "a shift by too much", void*, void*, void*)
