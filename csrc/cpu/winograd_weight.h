// The weights of the Winograd convolutions, transformed. Include through winograd_kernels.h.
namespace efpn {
namespace EFPN_ISA {

// G of F(m, 3).
template <int m>
struct Weights;
template <>
struct Weights<2> {
  static constexpr double g[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
};
template <>
struct Weights<3> {
  static constexpr double a = Points<3>::a, b = Points<3>::b, a2 = Points<3>::a2,
                          b2 = Points<3>::b2;
  static constexpr double at_a = 2 * a * (a2 - b2), at_b = 2 * b * (b2 - a2);
  static constexpr double g[5][3] = {{1 / at_a, a / at_a, a2 / at_a},
                                     {-1 / at_a, a / at_a, -a2 / at_a},
                                     {1 / at_b, b / at_b, b2 / at_b},
                                     {-1 / at_b, b / at_b, -b2 / at_b},
                                     {0, 0, 1}};
};
template <>
struct Weights<4> {
  static constexpr double a = Points<4>::a, b = Points<4>::b, a2 = Points<4>::a2,
                          b2 = Points<4>::b2;
  static constexpr double at_a = 2 * a2 * (a2 - b2), at_b = 2 * b2 * (b2 - a2);
  static constexpr double g[6][3] = {{1 / (a2 * b2), 0, 0},
                                     {1 / at_a, a / at_a, a2 / at_a},
                                     {1 / at_a, -a / at_a, a2 / at_a},
                                     {1 / at_b, b / at_b, b2 / at_b},
                                     {1 / at_b, -b / at_b, b2 / at_b},
                                     {0, 0, 1}};
};

// The weights of the input channel k, zeros where there is none, for the output channels d..
EFPN_INLINE void gather_taps(const WinogradWeight& w, int64_t k, int64_t d,
                             float (&taps)[9][kColumns]) {
  std::memset(taps, 0, sizeof(taps));
  if (k >= w.K) return;
  for (int64_t c = 0; c < kColumns && d + c < w.D; ++c) {
    const float* g = w.data + k * w.stride_k + (d + c) * w.stride_d;
    for (int i = 0; i < 9; ++i) taps[i][c] = g[i / 3 * w.stride_y + i % 3 * w.stride_x];
  }
}

// G g G' of kColumns weights, rows `xi_stride` apart; in float64, for a rounding each.
template <class Tile>
void transform_weight(const float (&taps)[9][kColumns], float* u, int64_t xi_stride) {
  constexpr int height = Tile::kHeight + 2, width = Tile::kWidth + 2;
  double rows[height][3][kColumns];
  for (int i = 0; i < height; ++i) {
    const double (&g)[3] = Weights<Tile::kHeight>::g[i];
    for (int x = 0; x < 3; ++x) {
      for (int c = 0; c < kColumns; ++c) {
        rows[i][x][c] = g[0] * taps[x][c] + g[1] * taps[3 + x][c] + g[2] * taps[6 + x][c];
      }
    }
  }
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < width; ++j, u += xi_stride) {
      const double (&g)[3] = Weights<Tile::kWidth>::g[j];
      for (int c = 0; c < kColumns; ++c) {
        u[c] =
            static_cast<float>(g[0] * rows[i][0][c] + g[1] * rows[i][1][c] + g[2] * rows[i][2][c]);
      }
    }
  }
}

// u[column block][xi][k / kPair][kColumns] = G g G' for the words [begin, end) of the depth, padded
// with zeros.
template <class Tile>
void winograd_weight(const WinogradWeight& w, int64_t begin, int64_t end, float* u) {
  constexpr int products = Tile::kProducts;
  const int64_t words = round_up(w.K, kLanes) / kPair;
  const int64_t column_blocks = (w.D + kColumns - 1) / kColumns;
  float taps[9][kColumns];
  for (int64_t block = 0; block < column_blocks; ++block) {
    for (int64_t k = begin; k < end; ++k) {
      float* const target = u + (block * products * words + k) * kColumns;
      if (k * kPair >= w.K) {
        for (int xi = 0; xi < products; ++xi) {
          std::memset(target + xi * words * kColumns, 0, kColumns * sizeof(float));
        }
        continue;
      }
      gather_taps(w, k * kPair, block * kColumns, taps);
      if constexpr (kPair == 1) {
        transform_weight<Tile>(taps, target, words * kColumns);
        continue;
      }
      float even[products * kColumns], odd[products * kColumns];
      transform_weight<Tile>(taps, even, kColumns);
      gather_taps(w, k * kPair + 1, block * kColumns, taps);
      transform_weight<Tile>(taps, odd, kColumns);
      for (int64_t i = 0; i < products * kColumns; i += kLanes) {
        float* const word = target + i / kColumns * words * kColumns + i % kColumns;
        store_term(word, 0, 0, load(even + i));
        store_term(word, 1, 0, load(odd + i));
      }
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
