// Every access of the kernels to memory: the compiler calls these functions (-fsanitize=thread; the library
// of that name is not used). Found are
//   races      two threads at one address, one of them writing, with no barrier between them: of one block
//              (__syncthreads), of one cluster, or of any two blocks of a launch
//   alignment  an access that is not aligned to its size (to 16 bytes beyond that)
//   nothing    shared memory that its block has not written; with AddressSanitizer loaded, memory that
//              belongs to no tensor
// and, on demand, counted is what a GPU would move for them: see Counts.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <vector_types.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
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

// ---- what a GPU would move -----------------------------------------------------------------------------

constexpr uintptr_t kSector = 32, kBank = 4;
constexpr int kBanks = 32, kWarp = 32;

struct Access {
  uintptr_t address, code;
  uint32_t size;
  uint16_t thread;
  bool write, shared;
};

// Bytes of one launch, or of one place in its code.
struct Counts {
  uint64_t instructions = 0;  // of a warp, of up to 16 bytes a lane
  uint64_t requested = 0;     // by the lanes
  uint64_t sectors = 0;       // 32-byte sectors of each instruction, summed: what goes through L1
  uint64_t wavefronts = 0;    // of shared memory
  uint64_t least_wavefronts = 0;
  void add(const Counts& c) {
    instructions += c.instructions;
    requested += c.requested;
    sectors += c.sectors;
    wavefronts += c.wavefronts;
    least_wavefronts += c.least_wavefronts;
  }
};

struct Place {
  bool write, shared;
  Counts counts;
};

struct Launch {
  uintptr_t kernel = 0;
  int blocks = 0;
  std::unordered_map<uintptr_t, Place> places;
  uint64_t block_sectors = 0;  // distinct ones of each block, summed: what L1 cannot keep
  std::unordered_set<uintptr_t> read, written;  // distinct sectors
};

bool counting = false;
std::vector<Access> accesses;  // of the cluster
std::vector<Launch> launches;

// One instruction of a warp: [begin, end) are its lanes.
Counts count_warp(const Access* begin, const Access* end) {
  Counts counts;
  counts.instructions = 1;
  std::vector<uintptr_t> units;
  const uintptr_t unit = begin->shared ? kBank : kSector;
  for (const Access* a = begin; a != end; ++a) {
    counts.requested += a->size;
    for (uintptr_t u = a->address / unit; u <= (a->address + a->size - 1) / unit; ++u) {
      units.push_back(u);
    }
  }
  std::sort(units.begin(), units.end());
  units.erase(std::unique(units.begin(), units.end()), units.end());
  if (!begin->shared) {
    counts.sectors = units.size();
    return counts;
  }
  uint64_t of_bank[kBanks] = {};
  for (uintptr_t u : units) ++of_bank[u % kBanks];
  counts.wavefronts = *std::max_element(of_bank, of_bank + kBanks);
  counts.least_wavefronts = (units.size() + kBanks - 1) / kBanks;
  return counts;
}

void count_cluster() {
  Launch& launch = launches.back();
  const auto warp_of = [](const Access& a) {
    const int block = a.thread / now.block_threads, thread = a.thread % now.block_threads;
    return (block << 16) | (thread / kWarp);
  };
  // The k-th time that a thread comes to a place is the same instruction as its neighbours' k-th time.
  struct Turn {
    int warp;
    uintptr_t code;
    uint32_t time;
    const Access* access;
  };
  std::vector<Turn> turns;
  std::unordered_map<uint64_t, uint32_t> times;
  for (const Access& a : accesses) {
    const uint64_t who = (uint64_t(a.thread) << 48) ^ a.code;
    turns.push_back({warp_of(a), a.code, times[who]++, &a});
  }
  std::stable_sort(turns.begin(), turns.end(), [](const Turn& a, const Turn& b) {
    if (a.warp != b.warp) return a.warp < b.warp;
    if (a.code != b.code) return a.code < b.code;
    return a.time < b.time;
  });
  std::vector<Access> lanes;
  std::unordered_set<uintptr_t> of_block;
  for (size_t i = 0; i < turns.size();) {
    lanes.clear();
    size_t j = i;
    for (; j < turns.size() && turns[j].warp == turns[i].warp && turns[j].code == turns[i].code &&
           turns[j].time == turns[i].time;
         ++j) {
      lanes.push_back(*turns[j].access);
    }
    const Access& first = lanes[0];
    Place& place = launch.places[first.code];
    place.write = first.write;
    place.shared = first.shared;
    place.counts.add(count_warp(lanes.data(), lanes.data() + lanes.size()));
    if (!first.shared) {
      for (const Access& a : lanes) {
        for (uintptr_t s = a.address / kSector; s <= (a.address + a.size - 1) / kSector; ++s) {
          (a.write ? launch.written : launch.read).insert(s);
          of_block.insert(s << 1 | uintptr_t(a.write));
        }
      }
    }
    i = j;
  }
  launch.block_sectors += of_block.size();
  accesses.clear();
}

// ---- one access ----------------------------------------------------------------------------------------

void touch(const void* address, size_t size, bool write, const void* code) {
  if (!now.running) return;
  const uintptr_t p = reinterpret_cast<uintptr_t>(address);
  const Space space = space_of(p);
  if (space == Space::local) return;
  const size_t wanted = size > 16 ? (size % 16 == 0 ? 16 : 4) : size;
  if (p % wanted != 0) report("is not aligned", size, code);
  if (counting) {
    // Places further on in the code of one access stand for its further instructions.
    for (size_t done = 0; done < size; done += 16) {
      const uint32_t part = uint32_t(size - done < 16 ? size - done : 16);
      accesses.push_back({p + done, reinterpret_cast<uintptr_t>(code) + done / 16, part, now.thread,
                          write, space == Space::shared});
    }
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

void report(const char* what, size_t size, const void* code) {
  if (problem.what) return;
  problem = {what, size, reinterpret_cast<uintptr_t>(code) - library().base, running_kernel};
}

void launch_starts(const void* kernel, int blocks) {
  running_kernel = reinterpret_cast<uintptr_t>(kernel) - library().base;
  if (!counting) return;
  launches.emplace_back();
  launches.back().kernel = running_kernel;
  launches.back().blocks = blocks;
}

void cluster_ends() {
  if (counting) count_cluster();
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

extern "C" __attribute__((visibility("default"))) void efpn_emulate_count(int on) {
  counting = on;
  launches.clear();
}

// The launches since efpn_emulate_count(1), as JSON.
extern "C" __attribute__((visibility("default"))) const char* efpn_emulate_counts() {
  static std::string text;
  text = "[";
  const auto number = [](const char* name, uint64_t value) {
    return std::string("\"") + name + "\": " + std::to_string(value) + ", ";
  };
  for (const Launch& launch : launches) {
    if (text.size() > 1) text += ", ";
    text += "{" + number("kernel", launch.kernel) + number("blocks", launch.blocks) +
            number("read", launch.read.size() * kSector) +
            number("written", launch.written.size() * kSector) +
            number("of_blocks", launch.block_sectors * kSector) + "\"places\": [";
    bool first = true;
    for (const auto& [code, place] : launch.places) {
      if (!first) text += ", ";
      first = false;
      text += "{" + number("code", code - library().base) + number("write", place.write) +
              number("shared", place.shared) + number("instructions", place.counts.instructions) +
              number("requested", place.counts.requested) +
              number("moved", place.counts.sectors * kSector) +
              number("wavefronts", place.counts.wavefronts) + "\"least_wavefronts\": " +
              std::to_string(place.counts.least_wavefronts) + "}";
    }
    text += "]}";
  }
  text += "]";
  return text.c_str();
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
// Reference counts of the host side.
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
