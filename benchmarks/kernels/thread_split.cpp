// Stands before the library's parallel_for (LD_PRELOAD) and notes what the CPU's kernels ask of it.
//
// Either it calls the parts that so many threads would be given one after the other, in one thread,
// each timed by the processor time it takes; or it hands the call to the real one and notes the
// parts that arrive.
#include <execinfo.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <vector>

namespace {

using Function = void (*)(int64_t, int64_t, void*);
using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, Function, void*);
using NumThreads = int32_t (*)(uint32_t*);

struct Part {
  int64_t begin, end, ns;
};

struct Call {
  int64_t items, grain, start_ns, end_ns;
  std::vector<void*> frames;
  std::vector<Part> parts;
};

struct Noted {
  Function f;
  void* context;
  Call* call;
  std::mutex mutex;
};

uint32_t threads = 1;
ParallelFor real_for = nullptr;
NumThreads real_threads = nullptr;
std::vector<Call> calls;
int64_t began_ns = 0;

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void note(int64_t begin, int64_t end, void* context) {
  Noted* noted = static_cast<Noted*>(context);
  noted->f(begin, end, noted->context);
  const std::lock_guard<std::mutex> lock(noted->mutex);
  noted->call->parts.push_back({begin, end, 0});
}

}  // namespace

extern "C" {

int32_t torch_get_num_threads(uint32_t* out) {
  if (real_threads) return real_threads(out);
  *out = threads;
  return 0;
}

int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, Function f, void* context) {
  Call call{end - begin, grain, now_ns(), 0, std::vector<void*>(12), {}};
  call.frames.resize(backtrace(call.frames.data(), static_cast<int>(call.frames.size())));
  int32_t error = 0;
  if (real_for) {
    Noted noted{f, context, &call, {}};
    error = real_for(begin, end, grain, note, &noted);
  } else {
    // As at::parallel_for does: no more threads than grains, equal parts but for the last.
    const int64_t n = end - begin, most = (n + grain - 1) / std::max<int64_t>(grain, 1);
    const int64_t used = n <= grain ? 1 : std::min<int64_t>(threads, grain > 0 ? most : n);
    const int64_t size = (n + used - 1) / std::max<int64_t>(used, 1);
    for (int64_t first = begin; first < end; first += size) {
      const int64_t last = std::min(first + size, end), start = now_ns();
      f(first, last, context);
      call.parts.push_back({first, last, now_ns() - start});
    }
  }
  call.end_ns = now_ns();
  calls.push_back(std::move(call));
  return error;
}

// Begins to note. `parallel_for` and `num_threads` are the real ones, or null to imitate `count`
// threads.
void thread_split_begin(uint32_t count, ParallelFor parallel_for, NumThreads num_threads) {
  threads = count;
  real_for = parallel_for;
  real_threads = num_threads;
  calls.clear();
  calls.reserve(256);
  began_ns = now_ns();
}

// Ends it, and writes a line for every call: items, grain, start and end [ns], frames, then the
// parts.
int thread_split_end(const char* path) {
  const int64_t ended_ns = now_ns();
  std::FILE* file = std::fopen(path, "w");
  if (!file) return 1;
  std::fprintf(file, "%lld\n", static_cast<long long>(ended_ns - began_ns));
  for (const Call& call : calls) {
    const int64_t header[] = {call.items, call.grain, call.start_ns - began_ns,
                              call.end_ns - began_ns};
    for (const int64_t value : header) std::fprintf(file, "%lld ", static_cast<long long>(value));
    std::fprintf(file, "|");
    for (const void* frame : call.frames) std::fprintf(file, " %p", frame);
    std::fprintf(file, " |");
    for (const Part& p : call.parts) {
      std::fprintf(file, " %lld:%lld:%lld", static_cast<long long>(p.begin),
                   static_cast<long long>(p.end), static_cast<long long>(p.ns));
    }
    std::fprintf(file, "\n");
  }
  real_for = nullptr;
  real_threads = nullptr;
  return std::fclose(file);
}

}  // extern "C"
