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

struct WordFactors {
  using Element = float;
  using Sum = __m512;
  static EFPN_INLINE __m512bh column(const float* b) { return (__m512bh)_mm512_loadu_si512(b); }
  static EFPN_INLINE __m512bh row(const float* a) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof(pair));
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static EFPN_INLINE __m512 add(__m512 sum, __m512bh row, __m512bh column) {
    return _mm512_dpbf16_ps(sum, row, column);
  }
};

#else

constexpr int kPair = 1;

EFPN_INLINE void store_channels(float* word, F x) { store(word, x); }
EFPN_INLINE void store_term(float* words, int64_t t, int64_t stride, F x) {
  store(words + t * stride, x);
}

using WordFactors = Factors<float>;

#endif

// Words of a register of channels.
constexpr int kWords = kLanes / kPair;

}  // namespace EFPN_ISA
}  // namespace efpn
