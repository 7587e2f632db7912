// What a GPU would move for the accesses of a launch: the 32 lanes of a warp that come to the same place the
// same time are one instruction; its distinct sectors go through L1, its words through banks.
#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "schedule.h"

namespace emulate {
namespace {

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

bool on = false;
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

}  // namespace

bool counting() { return on; }

void count_launch(uintptr_t kernel, int blocks) {
  if (!on) return;
  launches.emplace_back();
  launches.back().kernel = kernel;
  launches.back().blocks = blocks;
}

void count_access(const void* address, size_t size, bool write, bool shared, const void* code) {
  const uintptr_t p = reinterpret_cast<uintptr_t>(address);
  // Places further on in the code of one access stand for its further instructions.
  for (size_t done = 0; done < size; done += 16) {
    const uint32_t part = uint32_t(size - done < 16 ? size - done : 16);
    accesses.push_back({p + done, reinterpret_cast<uintptr_t>(code) + done / 16, part, now.thread,
                        write, shared});
  }
}

void cluster_ends() {
  if (on) count_cluster();
}

}  // namespace emulate

using namespace emulate;

extern "C" __attribute__((visibility("default"))) void efpn_emulate_count(int wanted) {
  on = wanted;
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
      text += "{" + number("code", code - library_base()) + number("write", place.write) +
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
