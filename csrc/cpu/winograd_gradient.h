// The weight gradients of the Winograd convolutions. Include through winograd_kernels.h.
namespace efpn {
namespace EFPN_ISA {

// Words that are summed in registers, kGradientChain of them at a time, before they are added to
// dU.
constexpr int64_t kGradientWords = 64;
constexpr int kGradientChain = 16;

// Tiles of a strip, for `tiles` in all.
EFPN_INLINE int64_t gradient_strip(int64_t tiles) {
  const int64_t words = (tiles + kPair - 1) / kPair;
  return kPair * (words < kGradientWords ? words : kGradientWords);
}

// Row i of A dy A' for a segment: put(t, j, register) of its tiles; returns the sum of j = 1. Rows
// 0 and 3 read one of the staged rows of dy only.
template <class Put>
EFPN_INLINE F transform_gradient_row(int i, const float* upper, const float* lower, int64_t count,
                                     const Put& put) {
  const F plus(1.0f), minus(-1.0f), none(0.0f);
  const F a = i == 3 ? none : plus, b = i == 0 ? none : (i == 1 ? plus : minus);
  F total(0.0f);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t x = 2 * t * kLanes;
    const F left = a * load(upper + x) + b * load(lower + x);
    const F right = a * load(upper + x + kLanes) + b * load(lower + x + kLanes);
    put(t, 0, left);
    put(t, 1, left + right);
    put(t, 2, left - right);
    put(t, 3, -right);
    total += left + right;
  }
  return total;
}

// Rows of dU, and the floats between two tiles of V: an odd number of registers, to spread the
// tiles over the sets of the cache.
EFPN_INLINE int64_t gradient_rows(int64_t C) { return round_up(C, kRows); }
EFPN_INLINE int64_t gradient_stride(int64_t C) {
  return ((gradient_rows(C) + kLanes - 1) / kLanes | 1) * kLanes;
}

// Floats of scratch that winograd_gradient needs for `tiles` at most, and of dU[i, :], for C to D
// channels.
inline int64_t winograd_gradient_scratch(int64_t tiles, int64_t C, int64_t D) {
  const int64_t strip = gradient_strip(tiles);
  const int64_t v_and_m = 4 * strip / kPair * (gradient_stride(C) + round_up(D, kColumns));
  return v_and_m + 2 * 4 * strip * kLanes;
}
inline int64_t winograd_gradient_floats(int64_t C, int64_t D) {
  return 4 * gradient_rows(C) * round_up(D, kColumns);
}

// sums[j][column block][gradient_rows(C)][kColumns] = dU[i, j] over the tiles [first, last);
// bias[round_up(D, kColumns)] = the sum of dy, if i = 1.
inline void winograd_gradient(const WinogradInput& in, const WinogradInput& dy, int i,
                              int64_t first, int64_t last, float* sums, float* bias,
                              float* scratch) {
  const int64_t stride = gradient_stride(in.C), rows = gradient_rows(in.C);
  const int64_t column_blocks = (dy.C + kColumns - 1) / kColumns;
  const int64_t strip = gradient_strip(last - first), strip_words = strip / kPair;
  const int64_t v_stride = strip_words * stride, m_stride = column_blocks * strip_words * kColumns;
  float* const v = scratch;
  float* const m = v + 4 * v_stride;
  float* const upper = m + 4 * m_stride;
  float* const lower = upper + 4 * strip * kLanes;
  std::memset(upper, 0, 2 * 4 * strip * kLanes * sizeof(float));
  if (i == 1) std::memset(bias, 0, column_blocks * kColumns * sizeof(float));
  for (int64_t start = first; start < last; start += strip) {
    const int64_t count = last - start < strip ? last - start : strip;
    for (int64_t c = 0; c < in.C; c += kLanes) {
      for_segments<SmallTile>(in.H, in.W, start, count, [&](const Segment& s) {
        const int64_t columns = 2 * s.count + 2;
        stage_row(in, s.n, c, s.y + kFirst[i] - 1, s.x - 1, columns, upper);
        stage_row(in, s.n, c, s.y + kSecond[i] - 1, s.x - 1, columns, lower);
        transform_input_row<2>(i, upper, lower, s.count, [&](int64_t t, int j, F x) {
          store_term(v + j * v_stride + c, s.start + t, stride, x);
        });
      });
    }
    for (int64_t d = 0; d < dy.C; d += kLanes) {
      float* const block = m + d / kColumns * strip_words * kColumns + d % kColumns;
      F total(0.0f);
      for_segments<SmallTile>(in.H, in.W, start, count, [&](const Segment& s) {
        if (i != 3) stage_row(dy, s.n, d, s.y, s.x, 2 * s.count, upper);
        if (i != 0) stage_row(dy, s.n, d, s.y + 1, s.x, 2 * s.count, lower);
        total += transform_gradient_row(i, upper, lower, s.count, [&](int64_t t, int j, F x) {
          store_term(block + j * m_stride, s.start + t, kColumns, x);
        });
      });
      // (A dy A')[1, 1] is the sum of the tile.
      if (i == 1) store(bias + d, load(bias + d) + total);
    }
    for (int64_t j = 0; j < 4; ++j) {
      for (int64_t b = 0; b < column_blocks; ++b) {
        float* const sum = sums + (j * column_blocks + b) * rows * kColumns;
        const float* const of_m = m + j * m_stride + b * strip_words * kColumns;
        for (int64_t c = 0; c < in.C; c += kTileRows) {
          const int64_t words = (count + kPair - 1) / kPair;
          const float* const of_v = v + j * v_stride + c;
          if (in.C - c <= kShortRows) {
            multiply_block<WordFactors, 1, 1, kShortRows, kGradientChain>(
                words, of_v, stride, of_m, sum + c * kColumns, start > first);
          } else {
            multiply_block<WordFactors, 1, 1, kTileRows, kGradientChain>(
                words, of_v, stride, of_m, sum + c * kColumns, start > first);
          }
        }
      }
    }
  }
}

// dg = G' dU G of the input channels [begin, end), written by the strides of w (K = C input
// channels); dU is the sum of `chunks` arrays sums[chunk][xi][column
// block][gradient_rows(C)][kColumns].
inline void winograd_gradient_finish(const float* sums, int64_t chunks, const WinogradWeight& w,
                                     float* grad, int64_t begin, int64_t end) {
  const int64_t rows = gradient_rows(w.K), column_blocks = (w.D + kColumns - 1) / kColumns;
  const int64_t xi_stride = column_blocks * rows * kColumns;
  const F half(0.5f);
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t d = 0; d < w.D; d += kLanes) {
      const float* const source = sums + (d / kColumns * rows + c) * kColumns + d % kColumns;
      F columns[4][3];
      for (int i = 0; i < 4; ++i) {
        F u[4];
        for (int j = 0; j < 4; ++j) {
          u[j] = load(source + (4 * i + j) * xi_stride);
          for (int64_t chunk = 1; chunk < chunks; ++chunk) {
            u[j] += load(source + (16 * chunk + 4 * i + j) * xi_stride);
          }
        }
        const F middle = half * (u[1] + u[2]);
        columns[i][0] = u[0] + middle;
        columns[i][1] = half * (u[1] - u[2]);
        columns[i][2] = middle + u[3];
      }
      float taps[9][kLanes];
      for (int x = 0; x < 3; ++x) {
        const F middle = half * (columns[1][x] + columns[2][x]);
        store(taps[x], columns[0][x] + middle);
        store(taps[3 + x], half * (columns[1][x] - columns[2][x]));
        store(taps[6 + x], middle + columns[3][x]);
      }
      const int64_t lanes = w.D - d < kLanes ? w.D - d : kLanes;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float* g = grad + c * w.stride_k + (d + lane) * w.stride_d;
        for (int i = 0; i < 9; ++i) g[i / 3 * w.stride_y + i % 3 * w.stride_x] = taps[i][lane];
      }
    }
  }
}

// sums[class][kLanes]: the channels c.. of a gate gradient over the pixels of each border class.
inline void gate_gradient_sums(const WinogradInput& in, int64_t n, int64_t c, float* sums) {
  F total[3][3];
  for (int cy = 0; cy < 3; ++cy) {
    for (int cx = 0; cx < 3; ++cx) total[cy][cx] = F(0.0f);
  }
  for (int64_t y = 0; y < in.H; ++y) {
    F* const row = total[border_class(y, in.H)];
    F inner(0.0f);
    for (int64_t x = 1; x < in.W - 1; ++x)
      inner += gate_gradient_at(in, pixel_index(in, n, y, x), c);
    row[0] += gate_gradient_at(in, pixel_index(in, n, y, 0), c);
    row[1] += inner;
    if (in.W > 1) row[2] += gate_gradient_at(in, pixel_index(in, n, y, in.W - 1), c);
  }
  for (int i = 0; i < 9; ++i) store(sums + i * kLanes, total[i / 3][i % 3]);
}

}  // namespace EFPN_ISA
}  // namespace efpn
