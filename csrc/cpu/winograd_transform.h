// The transforms of F(m, 3) along a line, m = 2, 3 or 4, and of tiles. Include through
// winograd_kernels.h.
//
// F(2, 3) is interpolated at 0, +-1 and infinity; F(3, 3) at +-a, +-b and infinity with a = 3/8 and
// b = 5/4, F(4, 3) also at 0 and with a = 5/8 and b = 3/2: half of the error of the textbook's
// 0, 1, -1, 2, -2 (l2, 256 channels), and every constant of B and A is exact in float32. With f(x)
// the product of x - p over the points, a row of B' holds the coefficients of f(x) / (x - p) (of f
// for infinity), a row of G those of (1, p, p^2) / f'(p), a column of A' 1, p, p^2, ...
//
// For 4 x 4 pixels V is scaled by 1/8 and the output by 8: then V, U and M stay below the bounds
// that F(2x2) has (4 and 9/4 times the largest |d| and |g|, 9 C times their product), as B' B and
// G' G alone do not. For 2 x 3 what overflows is computed by F(2x2).
//
// Operations of a tile and register: B' d B 52 for 2 x 3 pixels and 10 times 12 to 15 for 4 x 4,
// A' M A 38 and 10 times 12, beside 20 or 36 times K or D multiply-adds of the product.
namespace efpn {
namespace EFPN_ISA {

template <int m>
struct Points;
template <>
struct Points<3> {
  static constexpr float a = 0.375f, b = 1.25f, a2 = a * a, b2 = b * b;
};
template <>
struct Points<4> {
  static constexpr float a = 0.625f, b = 1.5f, a2 = a * a, b2 = b * b;
  static constexpr float input_scale = 0.125f, output_scale = 8.0f;
};

// (x^2 - b^2)(x +- a) and (x^2 - a^2)(x +- b) with d[i] for the powers of x; of d[2] and d[3] what
// is given is scaled by s already.
template <class P>
EFPN_INLINE void transform_pairs(F d0, F d1, F d2, F d3, float s, F* v) {
  const F even_a = d3 - F(s * P::b2) * d1, odd_a = d2 - F(s * P::b2) * d0;
  const F even_b = d3 - F(s * P::a2) * d1, odd_b = d2 - F(s * P::a2) * d0;
  v[0] = even_a + F(P::a) * odd_a;
  v[1] = even_a - F(P::a) * odd_a;
  v[2] = even_b + F(P::b) * odd_b;
  v[3] = even_b - F(P::b) * odd_b;
}

// B' d, times the input's scale if `scaled`.
template <bool scaled>
EFPN_INLINE void transform_input(F (&d)[4]) {
  const F d1 = d[1], d2 = d[2];
  d[0] = d[0] - d2;
  d[1] = d1 + d2;
  d[2] = d2 - d1;
  d[3] = d1 - d[3];
}
template <bool scaled>
EFPN_INLINE void transform_input(F (&d)[5]) {
  using P = Points<3>;
  d[4] = (d[4] - F(P::a2 + P::b2) * d[2]) + F(P::a2 * P::b2) * d[0];
  transform_pairs<P>(d[0], d[1], d[2], d[3], 1.0f, d);
}
template <bool scaled>
EFPN_INLINE void transform_input(F (&d)[6]) {
  using P = Points<4>;
  constexpr float s = scaled ? P::input_scale : 1.0f;
  const F d3 = scaled ? F(s) * d[3] : d[3], d4 = scaled ? F(s) * d[4] : d[4];
  const F d5 = scaled ? F(s) * d[5] : d[5];
  d[0] = (d4 - F(s * (P::a2 + P::b2)) * d[2]) + F(s * P::a2 * P::b2) * d[0];
  d[5] = (d5 - F(P::a2 + P::b2) * d3) + F(s * P::a2 * P::b2) * d[1];
  transform_pairs<P>(d[1], d[2], d3, d4, s, d + 1);
}

// A' m, times the output's scale if `scaled`.
template <bool scaled>
EFPN_INLINE void transform_output(const F (&m)[4], F (&y)[2]) {
  y[0] = m[0] + (m[1] + m[2]);
  y[1] = (m[1] - m[2]) - m[3];
}
template <bool scaled>
EFPN_INLINE void transform_output(const F (&m)[5], F (&y)[3]) {
  using P = Points<3>;
  const F sum_a = m[0] + m[1], difference_a = m[0] - m[1];
  const F sum_b = m[2] + m[3], difference_b = m[2] - m[3];
  y[0] = sum_a + sum_b;
  y[1] = F(P::a) * difference_a + F(P::b) * difference_b;
  y[2] = (m[4] + F(P::a2) * sum_a) + F(P::b2) * sum_b;
}
template <bool scaled>
EFPN_INLINE void transform_output(const F (&m)[6], F (&y)[4]) {
  using P = Points<4>;
  constexpr float s = scaled ? P::output_scale : 1.0f;
  const F sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const F sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  const F total = m[0] + (sum_a + sum_b);
  y[0] = scaled ? F(s) * total : total;
  y[1] = F(s * P::a) * difference_a + F(s * P::b) * difference_b;
  y[2] = F(s * P::a2) * sum_a + F(s * P::b2) * sum_b;
  const F last = scaled ? F(s) * m[5] : m[5];
  y[3] = (last + F(s * P::a2 * P::a) * difference_a) + F(s * P::b2 * P::b) * difference_b;
}

// Row i of B' d B of tiles of two rows = (rows[kFirst[i]] -+ rows[kSecond[i]]) B.
constexpr int kFirst[4] = {0, 1, 2, 1}, kSecond[4] = {2, 2, 1, 3};

// Row i of B' d B for a segment: put(t, j, V[i][j]) of its tiles of `width` pixels. a and b are the
// two staged rows that B' combines, width * count + 2 pixels each.
template <int width, bool add, class Put>
EFPN_INLINE void transform_row(const float* a, const float* b, int64_t count, const Put& put) {
  const auto combined = [&](int64_t x) {
    return add ? load(a + x * kLanes) + load(b + x * kLanes)
               : load(a + x * kLanes) - load(b + x * kLanes);
  };
  F last[2] = {combined(0), combined(1)};
  for (int64_t t = 0; t < count; ++t) {
    F d[width + 2] = {last[0], last[1]};
#pragma GCC unroll 4
    for (int j = 2; j < width + 2; ++j) d[j] = combined(width * t + j);
    last[0] = d[width];
    last[1] = d[width + 1];
    transform_input<true>(d);
#pragma GCC unroll 6
    for (int j = 0; j < width + 2; ++j) put(t, j, d[j]);
  }
}

template <int width, class Put>
EFPN_INLINE void transform_input_row(int i, const float* first, const float* second, int64_t count,
                                     const Put& put) {
  if (i == 1) return transform_row<width, true>(first, second, count, put);
  transform_row<width, false>(first, second, count, put);
}

// B' d B of a segment of 4 x 4 pixels: its tiles' registers V[i][j], `xi_stride` apart. `rows`
// holds six staged rows of 4 count + 2 pixels each, and is overwritten.
EFPN_INLINE void transform_large_input(float* rows, int64_t count, float* v, int64_t xi_stride) {
  const int64_t columns = 4 * count + 2;
  for (int64_t x = 0; x < columns; ++x) {
    F d[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) d[i] = load(rows + (i * columns + x) * kLanes);
    transform_input<true>(d);
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
      transform_input<false>(d);
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) store(target + j * xi_stride, d[j]);
    }
  }
}

// y[row][column][kColumns] = A' M A of a segment's tiles m[i][j][tile][kColumns]. Returns a sum
// that is zero where all of y is finite, else NaN.
template <class Tile>
F transform_tiles(const float* m, int64_t xi_stride, int64_t count, float* y) {
  constexpr int height = Tile::kHeight, width = Tile::kWidth;
  F zeros(0.0f);
  for (int64_t t = 0; t < count; ++t) {
    for (int lane = 0; lane < kColumns; lane += kLanes) {
      const float* tile = m + t * kColumns + lane;
      F rows[height][width + 2];
#pragma GCC unroll 6
      for (int j = 0; j < width + 2; ++j) {
        F column[height + 2], transformed[height];
#pragma GCC unroll 6
        for (int i = 0; i < height + 2; ++i) {
          column[i] = load(tile + (i * (width + 2) + j) * xi_stride);
        }
        transform_output<false>(column, transformed);
#pragma GCC unroll 4
        for (int i = 0; i < height; ++i) rows[i][j] = transformed[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < height; ++i) {
        F pixels[width];
        transform_output<true>(rows[i], pixels);
        float* target = y + (i * count + t) * width * kColumns + lane;
#pragma GCC unroll 4
        for (int j = 0; j < width; ++j) {
          store(target + j * kColumns, pixels[j]);
          zeros += F(0.0f) * pixels[j];
        }
      }
    }
  }
  return zeros;
}

}  // namespace EFPN_ISA
}  // namespace efpn
