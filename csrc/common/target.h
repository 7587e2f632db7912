// How code shared by all targets is included.
//
// The headers in csrc/common hold the scalar maths of the operators: one definition for CUDA, for
// every CPU instruction set and for the portable path. They have no include guard. Each is included
// once for every target, inside which EFPN_ISA names the namespace efpn::EFPN_ISA that its functions
// live in, so that the compiler sees them with the target's own options.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define EFPN_INLINE __host__ __device__ __forceinline__
#else
#define EFPN_INLINE inline __attribute__((always_inline))
#endif
