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

// The factors of a product: a register of b, and an element of a in every lane.
template <class T>
struct Factors {
  using Element = T;
  using Sum = typename Vec<T>::Native;
  static EFPN_INLINE Sum column(const T* b) { return load(b).v; }
  static EFPN_INLINE Sum row(const T* a) { return Vec<T>(*a).v; }
  static EFPN_INLINE Sum add(Sum sum, Sum row, Sum column) { return sum + row * column; }
};

// m[r, :] (+)= sum over o, i of a[o * a_outer + r * row_stride + i] b[o * inner + i, :], for
// i < inner, r < rows; the rows of b and m hold kColumnsOf<T> elements. With `chain`, as many
// values of o are summed at a time, and these sums then.
template <class Factor, int row_stride, int inner, int rows = kRows, int chain = 0,
          class T = typename Factor::Element>
EFPN_INLINE void multiply_block(int64_t outer, const T* a, int64_t a_outer, const T* b, T* m,
                                bool accumulate) {
  using Sum = typename Factor::Sum;
  constexpr int kLanesOf = Vec<T>::size, kColumns = kColumnsOf<T>;
  Sum totals[rows][kColumnRegisters] = {};
  for (int64_t o = 0; o < outer;) {
    Sum sums[rows][kColumnRegisters] = {};
    const int64_t end = chain > 0 && o + chain < outer ? o + chain : outer;
    for (; o < end; ++o, a += a_outer) {
#pragma GCC unroll 4
      for (int i = 0; i < inner; ++i, b += kColumns) {
        decltype(Factor::column(b)) column[kColumnRegisters];
#pragma GCC unroll 16
        for (int j = 0; j < kColumnRegisters; ++j) column[j] = Factor::column(b + j * kLanesOf);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          const auto row = Factor::row(a + r * row_stride + i);
#pragma GCC unroll 16
          for (int j = 0; j < kColumnRegisters; ++j)
            sums[r][j] = Factor::add(sums[r][j], row, column[j]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kColumnRegisters; ++j) totals[r][j] += sums[r][j];
    }
    if constexpr (chain == 0) break;
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumnRegisters; ++j) {
      T* target = m + r * kColumns + j * kLanesOf;
      store(target, accumulate ? Vec<T>(totals[r][j]) + load(target) : Vec<T>(totals[r][j]));
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
