// Compiles the file named by EFPN_KERNELS once for each instruction set. See isa.h. With
// EFPN_WITH_BF16_DOT also for AVX512-BF16, into avx512_bf16, where EFPN_BF16_DOT is 1.
#include "isa.h"
#include "storage.h"
#include "../common/target.h"

#define EFPN_BF16_DOT 0
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

#if defined(EFPN_WITH_BF16_DOT)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#undef EFPN_BF16_DOT
#define EFPN_BF16_DOT 1
#define EFPN_ISA avx512_bf16
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
#endif  // EFPN_WITH_BF16_DOT

#endif  // EFPN_X86
#undef EFPN_BF16_DOT
#undef EFPN_KERNELS
