// Compiles the file named by EFPN_KERNELS once for each instruction set. See isa.h.
#include "isa.h"
#include "storage.h"
#include "../common/target.h"

#define EFPN_ISA portable
#define EFPN_VECTOR_BYTES 16
#include "vec.h"
#include "../common/gate.h"
#include EFPN_KERNELS
#undef EFPN_VECTOR_BYTES
#undef EFPN_ISA

#if EFPN_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define EFPN_ISA avx2
#define EFPN_VECTOR_BYTES 32
#include "vec.h"
#include "../common/gate.h"
#include EFPN_KERNELS
#undef EFPN_VECTOR_BYTES
#undef EFPN_ISA
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define EFPN_ISA avx512
#define EFPN_VECTOR_BYTES 64
#include "vec.h"
#include "../common/gate.h"
#include EFPN_KERNELS
#undef EFPN_VECTOR_BYTES
#undef EFPN_ISA
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // EFPN_X86
#undef EFPN_KERNELS
