// The instruction sets that the CPU kernels are compiled for, and the choice between them at run time.
//
// A kernel file (<op>_kernels.h) is compiled once for each set, into the namespaces efpn::portable,
// efpn::avx2 and efpn::avx512, by
//
//   #define EFPN_KERNELS "dc_loss_kernels.h"
//   #include "foreach_isa.h"
//
// and called by EFPN_CALL(function, arguments...).
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define EFPN_X86 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define EFPN_X86 0
#endif

namespace efpn {

// The last two mean AVX-512's kernels, and say how to multiply halves: by AVX512-BF16's dot products,
// or by the library, which uses the matrix unit.
enum class Isa { portable = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, amx = 4 };

constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

#if EFPN_X86
// Which registers the operating system saves: bit 1 xmm, 2 ymm, 5 to 7 those of AVX-512.
inline unsigned saved_registers() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Asked of the processor itself: compilers differ in the names that __builtin_cpu_supports knows.
inline Isa processor_isa() {
  constexpr unsigned kAvx2 = 1u << 5;                                   // leaf 7, ebx
  constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  constexpr unsigned kOthers = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29;  // FMA, OSXSAVE, AVX, F16C
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & kOthers) != kOthers) return Isa::portable;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return Isa::portable;
  const unsigned saved = saved_registers();
  if ((saved & 0x06) != 0x06 || !(ebx & kAvx2)) return Isa::portable;
  if ((saved & 0xE6) != 0xE6 || (ebx & kAvx512) != kAvx512) return Isa::avx2;
  constexpr unsigned kAmx = 1u << 22 | 1u << 24;  // leaf 7, edx: BF16, TILE
  constexpr unsigned kSavedTiles = 1u << 17 | 1u << 18;
  if ((edx & kAmx) == kAmx && (saved & kSavedTiles) == kSavedTiles) return Isa::amx;
  constexpr unsigned kBf16 = 1u << 5;  // leaf 7.1, eax
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return Isa::avx512;
  return eax & kBf16 ? Isa::avx512_bf16 : Isa::avx512;
}
#else
inline Isa processor_isa() { return Isa::portable; }
#endif

// The best set of this machine, or the lesser one of kIsaNames that EFPN_KERNELS_CPU_CAPABILITY names.
inline Isa detect_isa() {
  const Isa best = processor_isa();
  const char* wanted = std::getenv("EFPN_KERNELS_CPU_CAPABILITY");
  for (int i = 0; wanted && i < static_cast<int>(best); ++i) {
    if (!std::strcmp(wanted, kIsaNames[i])) return static_cast<Isa>(i);
  }
  return best;
}

inline Isa isa() {
  static const Isa chosen = detect_isa();
  return chosen;
}

}  // namespace efpn

#if EFPN_X86
#define EFPN_CALL(function, ...)                                    \
  (::efpn::isa() >= ::efpn::Isa::avx512 ? avx512::function(__VA_ARGS__) \
   : ::efpn::isa() == ::efpn::Isa::avx2 ? avx2::function(__VA_ARGS__)   \
                                        : portable::function(__VA_ARGS__))
#else
#define EFPN_CALL(function, ...) portable::function(__VA_ARGS__)
#endif
