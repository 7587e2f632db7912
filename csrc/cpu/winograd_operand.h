// What the Winograd convolutions multiply: floats, or with EFPN_BF16_DOT pairs of bfloat16 in words
// of the same size, whose products are summed in float. Include through winograd_kernels.h.
//
// A pair is two neighbouring terms of a sum: two channels, or in a weight gradient two tiles.
#include "multiply_block.h"

namespace efpn {
namespace EFPN_ISA {

using F = Vec<float>;
constexpr int kLanes = F::size, kColumns = kColumnsOf<float>;

#if EFPN_BF16_DOT

constexpr int kPair = 2;

EFPN_INLINE __m256i to_bfloat16(F x) { return (__m256i)_mm512_cvtneps_pbh(x.v); }

// A register of channels.
EFPN_INLINE void store_channels(float* word, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(word), to_bfloat16(x));
}

// The term t of a register of sums; terms are stored in order, pairs of them `stride` words apart.
EFPN_INLINE void store_term(float* words, int64_t t, int64_t stride, F x) {
  float* const word = words + t / 2 * stride;
  Word32 pair = __builtin_convertvector((Half16)to_bfloat16(x), Word32);
  if (t % 2) pair = (Word32)load(word).v | pair << 16;
  store(word, F((F::Native)pair));
}

// multiply_block of words.
template <int row_stride, int inner, int rows = kRows>
EFPN_INLINE void multiply_words(int64_t outer, const float* a, int64_t a_outer, const float* b,
                                float* m, bool accumulate) {
  __m512 sums[rows][kColumnRegisters] = {};
  for (int64_t o = 0; o < outer; ++o, a += a_outer) {
#pragma GCC unroll 2
    for (int i = 0; i < inner; ++i, b += kColumns) {
      __m512bh column[kColumnRegisters];
#pragma GCC unroll 16
      for (int j = 0; j < kColumnRegisters; ++j) {
        column[j] = (__m512bh)_mm512_loadu_si512(b + j * kLanes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        int32_t pair;
        std::memcpy(&pair, a + r * row_stride + i, sizeof(pair));
        const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 16
        for (int j = 0; j < kColumnRegisters; ++j) {
          sums[r][j] = _mm512_dpbf16_ps(sums[r][j], value, column[j]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumnRegisters; ++j) {
      float* target = m + r * kColumns + j * kLanes;
      store(target, accumulate ? F(sums[r][j]) + load(target) : F(sums[r][j]));
    }
  }
}

#else

constexpr int kPair = 1;

EFPN_INLINE void store_channels(float* word, F x) { store(word, x); }
EFPN_INLINE void store_term(float* words, int64_t t, int64_t stride, F x) {
  store(words + t * stride, x);
}

template <int row_stride, int inner, int rows = kRows>
EFPN_INLINE void multiply_words(int64_t outer, const float* a, int64_t a_outer, const float* b,
                                float* m, bool accumulate) {
  multiply_block<row_stride, inner, rows>(outer, a, a_outer, b, m, accumulate);
}

#endif

// Words of a register of channels.
constexpr int kWords = kLanes / kPair;

}  // namespace EFPN_ISA
}  // namespace efpn
