// The register-blocked product of the Winograd convolutions and of product.cpp. Include through
// foreach_isa.h.
namespace efpn {
namespace EFPN_ISA {

// Accumulators: kRows x kColumnRegisters, with room for the operands in 32 or 16 registers.
#if EFPN_VECTOR_BYTES == 64
constexpr int kRows = 14, kColumnRegisters = 2;
#elif EFPN_VECTOR_BYTES == 32
constexpr int kRows = 6, kColumnRegisters = 2;
#else
constexpr int kRows = 4, kColumnRegisters = 2;
#endif
// Rows of a block for what is left of a multiple of kRows.
constexpr int kShortRows = 4;
template <class T>
constexpr int kColumnsOf = kColumnRegisters * Vec<T>::size;

// m[r, :] (+)= sum over o, i of a[o * a_outer + r * row_stride + i] b[o * inner + i, :], for
// i < inner, r < rows; the rows of b and m hold kColumnsOf<T> elements.
template <int row_stride, int inner, int rows = kRows, class T>
EFPN_INLINE void multiply_block(int64_t outer, const T* a, int64_t a_outer, const T* b, T* m,
                                bool accumulate) {
  using V = typename Vec<T>::Native;
  constexpr int kLanesOf = Vec<T>::size, kColumns = kColumnsOf<T>;
  V sums[rows][kColumnRegisters] = {};
  for (int64_t o = 0; o < outer; ++o, a += a_outer) {
#pragma GCC unroll 2
    for (int i = 0; i < inner; ++i, b += kColumns) {
      V column[kColumnRegisters];
#pragma GCC unroll 16
      for (int j = 0; j < kColumnRegisters; ++j) column[j] = load(b + j * kLanesOf).v;
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const V value = Vec<T>(a[r * row_stride + i]).v;
#pragma GCC unroll 16
        for (int j = 0; j < kColumnRegisters; ++j) sums[r][j] += value * column[j];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumnRegisters; ++j) {
      T* target = m + r * kColumns + j * kLanesOf;
      store(target, accumulate ? Vec<T>(sums[r][j]) + load(target) : Vec<T>(sums[r][j]));
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
