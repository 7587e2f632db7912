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
#include <immintrin.h>
#else
#define EFPN_X86 0
#endif

namespace efpn {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2 };

// The best set of this machine, or the lesser one that EFPN_KERNELS_CPU_CAPABILITY names
// ("portable", "avx2" or "avx512").
inline Isa detect_isa() {
  Isa best = Isa::portable;
#if EFPN_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    best = Isa::avx2;
  }
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    best = Isa::avx512;
  }
#endif
  if (const char* wanted = std::getenv("EFPN_KERNELS_CPU_CAPABILITY")) {
    if (!std::strcmp(wanted, "portable")) return Isa::portable;
    if (!std::strcmp(wanted, "avx2") && best >= Isa::avx2) return Isa::avx2;
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
  (::efpn::isa() == ::efpn::Isa::avx512 ? avx512::function(__VA_ARGS__) \
   : ::efpn::isa() == ::efpn::Isa::avx2 ? avx2::function(__VA_ARGS__)   \
                                        : portable::function(__VA_ARGS__))
#else
#define EFPN_CALL(function, ...) portable::function(__VA_ARGS__)
#endif
