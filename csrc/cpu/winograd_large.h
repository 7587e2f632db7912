// The transforms of F(4x4, 3x3), for reduced precision on request. Include through
// winograd_kernels.h.
//
// Interpolated at 0, +-a, +-b and infinity, with a = 5/8 and b = 3/2: half of the error of the
// textbook's 1 and 2 (l2, 256 channels), and every constant of B and A is exact in float32. With
// f(x) = x (x^2 - a^2)(x^2 - b^2), a row of B' holds the coefficients of f(x) / (x - p) (of f for
// infinity), a row of G those of (1, p, p^2) / f'(p), a column of A' 1, p, p^2, p^3.
//
// V is scaled by 1/8 and the output by 8: then V, U and M stay below the bounds that F(2x2) has (4
// and 9/4 times the largest |d| and |g|, 9 C times their product), as B' B and G' G alone do not.
//
// Operations of a tile and register: B' d B 10 times 12 to 15, A' M A 10 times 12, beside 36 K or
// 36 D multiply-adds of the product.
namespace efpn {
namespace EFPN_ISA {

constexpr float kA = 0.625f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;
constexpr float kInputScale = 0.125f, kOutputScale = 8.0f;

// B' d, times kInputScale if `scaled`.
template <bool scaled>
EFPN_INLINE void transform_input_column(F (&d)[6]) {
  constexpr float s = scaled ? kInputScale : 1.0f;
  const F d3 = scaled ? F(s) * d[3] : d[3], d4 = scaled ? F(s) * d[4] : d[4];
  const F d5 = scaled ? F(s) * d[5] : d[5];
  const F even_a = d4 - F(s * kB2) * d[2], odd_a = d3 - F(s * kB2) * d[1];
  const F even_b = d4 - F(s * kA2) * d[2], odd_b = d3 - F(s * kA2) * d[1];
  d[0] = (d4 - F(s * (kA2 + kB2)) * d[2]) + F(s * kA2 * kB2) * d[0];
  d[5] = (d5 - F(kA2 + kB2) * d3) + F(s * kA2 * kB2) * d[1];
  d[1] = even_a + F(kA) * odd_a;
  d[2] = even_a - F(kA) * odd_a;
  d[3] = even_b + F(kB) * odd_b;
  d[4] = even_b - F(kB) * odd_b;
}

// B' d B of a segment: its tiles' registers V[6 i + j], `xi_stride` apart. `rows` holds six staged
// rows of 4 count + 2 pixels each, and is overwritten.
EFPN_INLINE void transform_large_input(float* rows, int64_t count, float* v, int64_t xi_stride) {
  const int64_t columns = 4 * count + 2;
  for (int64_t x = 0; x < columns; ++x) {
    F d[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) d[i] = load(rows + (i * columns + x) * kLanes);
    transform_input_column<true>(d);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) store(rows + (i * columns + x) * kLanes, d[i]);
  }
  for (int i = 0; i < 6; ++i) {
    const float* row = rows + i * columns * kLanes;
    float* target = v + 6 * i * xi_stride;
    for (int64_t t = 0; t < count; ++t, row += 4 * kLanes, target += kLanes) {
      F d[6];
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) d[j] = load(row + j * kLanes);
      transform_input_column<false>(d);
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) store(target + j * xi_stride, d[j]);
    }
  }
}

// A' m, times kOutputScale if `scaled`.
template <bool scaled>
EFPN_INLINE void transform_output_column(const F (&m)[6], F (&y)[4]) {
  constexpr float s = scaled ? kOutputScale : 1.0f;
  const F sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const F sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  const F total = m[0] + (sum_a + sum_b);
  y[0] = scaled ? F(s) * total : total;
  y[1] = F(s * kA) * difference_a + F(s * kB) * difference_b;
  y[2] = F(s * kA2) * sum_a + F(s * kB2) * sum_b;
  const F last = scaled ? F(s) * m[5] : m[5];
  y[3] = (last + F(s * kA2 * kA) * difference_a) + F(s * kB2 * kB) * difference_b;
}

// y[row][column][kColumns] = A' M A of a segment, four rows of 4 count columns.
inline void transform_large_output(const float* m, int64_t xi_stride, int64_t count, float* y) {
  for (int64_t t = 0; t < count; ++t) {
    for (int lane = 0; lane < kColumns; lane += kLanes) {
      const float* tile = m + t * kColumns + lane;
      F rows[4][6];
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) {
        F column[6], transformed[4];
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) column[i] = load(tile + (6 * i + j) * xi_stride);
        transform_output_column<false>(column, transformed);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) rows[i][j] = transformed[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        F pixels[4];
        transform_output_column<true>(rows[i], pixels);
        float* target = y + (i * count + t) * 4 * kColumns + lane;
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) store(target + j * kColumns, pixels[j]);
      }
    }
  }
}

// G g G' of kColumns weights, 36 rows `xi_stride` apart; in float64, for a rounding each.
inline void transform_large_weight(const float (&taps)[9][kColumns], float* u, int64_t xi_stride) {
  constexpr double a = kA, b = kB, at_a = 2 * a * a * (a * a - b * b),
                   at_b = 2 * b * b * (b * b - a * a);
  constexpr double g[6][3] = {
      {1 / (a * a * b * b), 0, 0},         {1 / at_a, a / at_a, a * a / at_a},
      {1 / at_a, -a / at_a, a * a / at_a}, {1 / at_b, b / at_b, b * b / at_b},
      {1 / at_b, -b / at_b, b * b / at_b}, {0, 0, 1}};
  double rows[6][3][kColumns];
  for (int i = 0; i < 6; ++i) {
    for (int x = 0; x < 3; ++x) {
      for (int c = 0; c < kColumns; ++c) {
        rows[i][x][c] = g[i][0] * taps[x][c] + g[i][1] * taps[3 + x][c] + g[i][2] * taps[6 + x][c];
      }
    }
  }
  for (int i = 0; i < 6; ++i) {
    for (int j = 0; j < 6; ++j) {
      float* target = u + (6 * i + j) * xi_stride;
      for (int c = 0; c < kColumns; ++c) {
        target[c] = static_cast<float>(g[j][0] * rows[i][0][c] + g[j][1] * rows[i][1][c] +
                                       g[j][2] * rows[i][2][c]);
      }
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
