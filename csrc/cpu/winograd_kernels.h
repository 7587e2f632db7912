// Winograd F(2x2, 3x3) and F(4x4, 3x3), strip by strip, for one instruction set. Include through
// foreach_isa.h.
//
// What depends on the tile is a template of m, the output pixels of its side; below are the
// transforms for m = 2, in winograd_large.h those for m = 4.
//
// For an input tile d (4x4), a weight g (3x3) and an output tile y (2x2), with xi = 4 i + j:
//   V = B' d B,  U = G g G',  M[xi] = sum over channels of V[xi] U[xi],  y = A' M A;
//   dM = A dy A',  dU[xi] = sum over tiles of V[xi] dM[xi],  dg = G' dU G.
//   B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], A' = [1 1 1 0; 0 1 -1 -1],
//   G' = [1 1/2 1/2 0; 0 1/2 -1/2 0; 0 1/2 1/2 1].
#include "winograd_finish.h"
#include "winograd_large.h"

namespace efpn {
namespace EFPN_ISA {

// Input channels summed in registers before they are added to M: short chains keep the error low.
// Beside the rounding of bfloat16 it is none.
constexpr int64_t kDepth = kPair == 1 ? 32 : 256;

EFPN_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline WinogradBlocking winograd_blocking() {
  return {kLanes, kRows, kColumns, static_cast<int64_t>(sizeof(LaneBits)), kPair};
}

// Calls f(segment) for the tile-row pieces of the tiles [first, first + count) of the maps.
template <int m = 2, class Function>
EFPN_INLINE void for_segments(int64_t H, int64_t W, int64_t first, int64_t count, Function f) {
  const int64_t width = (W + m - 1) / m, height = (H + m - 1) / m;
  for (int64_t start = 0; start < count;) {
    const int64_t tile = first + start, row = tile / width, column = tile % width;
    const int64_t rest = count - start, here = width - column < rest ? width - column : rest;
    f(Segment{row / height, row % height * m, column * m, start, here, m});
    start += here;
  }
}

// Row i of B' d B for a segment: put(t, j, V[4 i + j]) of its tiles. a and b are the two staged
// rows that B' combines, 2 count + 2 pixels each.
template <bool add, class Put>
EFPN_INLINE void transform_row(const float* a, const float* b, int64_t count, const Put& put) {
  const auto combined = [&](int64_t x) {
    return add ? load(a + x * kLanes) + load(b + x * kLanes)
               : load(a + x * kLanes) - load(b + x * kLanes);
  };
  F c0 = combined(0), c1 = combined(1);
  for (int64_t t = 0; t < count; ++t) {
    const F c2 = combined(2 * t + 2), c3 = combined(2 * t + 3);
    put(t, 0, c0 - c2);
    put(t, 1, c1 + c2);
    put(t, 2, c2 - c1);
    put(t, 3, c1 - c3);
    c0 = c2;
    c1 = c3;
  }
}

// Row i of B' d B = rows[kFirst[i]] -+ rows[kSecond[i]], columns alike.
constexpr int kFirst[4] = {0, 1, 2, 1}, kSecond[4] = {2, 2, 1, 3};

template <class Put>
EFPN_INLINE void transform_input_row(int i, const float* first, const float* second, int64_t count,
                                     const Put& put) {
  if (i == 1) return transform_row<true>(first, second, count, put);
  transform_row<false>(first, second, count, put);
}

constexpr int products_of(int m) { return (m + 2) * (m + 2); }

// V[xi][channel block][tile][kWords] of a strip; `rows` has room for m + 2 staged rows.
template <int m>
void transform_input(const WinogradInput& in, int64_t first, int64_t count, int64_t strip,
                     float* rows, float* v) {
  const int64_t blocks = (in.C + kLanes - 1) / kLanes, xi_stride = blocks * strip * kWords;
  for (int64_t block = 0; block < blocks; ++block) {
    for_segments<m>(in.H, in.W, first, count, [&](const Segment& s) {
      const int64_t columns = s.width() + 2;
      for (int r = 0; r < m + 2; ++r) {
        stage_row(in, s.n, block * kLanes, s.y + r - 1, s.x - 1, columns,
                  rows + r * columns * kLanes);
      }
      float* const target = v + (block * strip + s.start) * kWords;
      if constexpr (m == 4) {
        transform_large_input(rows, s.count, target, xi_stride);
      } else {
        for (int i = 0; i < 4; ++i) {
          transform_input_row(i, rows + kFirst[i] * columns * kLanes,
                              rows + kSecond[i] * columns * kLanes, s.count,
                              [&](int64_t t, int j, F x) {
                                store_channels(target + (4 * i + j) * xi_stride + t * kWords, x);
                              });
        }
      }
    });
  }
}

// y[row][column][kColumns] = A' M A of a segment's tiles m[xi][tile][kColumns].
inline void transform_output(const float* m, int64_t xi_stride, int64_t count, float* y) {
  for (int64_t t = 0; t < count; ++t) {
    for (int lane = 0; lane < kColumns; lane += kLanes) {
      const float* tile = m + t * kColumns + lane;
      F upper[4], lower[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const F m0 = load(tile + j * xi_stride), m1 = load(tile + (4 + j) * xi_stride);
        const F m2 = load(tile + (8 + j) * xi_stride), m3 = load(tile + (12 + j) * xi_stride);
        upper[j] = m0 + (m1 + m2);
        lower[j] = (m1 - m2) - m3;
      }
      float* top = y + 2 * t * kColumns + lane;
      float* bottom = top + 2 * count * kColumns;
      store(top, upper[0] + (upper[1] + upper[2]));
      store(top + kColumns, (upper[1] - upper[2]) - upper[3]);
      store(bottom, lower[0] + (lower[1] + lower[2]));
      store(bottom + kColumns, (lower[1] - lower[2]) - lower[3]);
    }
  }
}

// The arrays of winograd_strips in its scratch.
template <int m>
struct StripScratch {
  int64_t v, products, rows, y, logits, floats;  // where each begins; the floats of all

  StripScratch(int64_t C, int64_t strip)
      : v(0),
        products(products_of(m) * round_up(C, kLanes) / kPair * strip),
        rows(products + products_of(m) * strip * kColumns),
        y(rows + (m + 2) * (m + 2) * strip * kLanes),
        logits(y + m * m * strip * kColumns + kLanes * kColumns),
        floats(logits + m * m * strip * kLanes) {}
};

template <int m>
int64_t winograd_scratch(int64_t C, int64_t strip) {
  return StripScratch<m>(C, strip).floats;
}

// The tiles of the strips [begin, end), `strip` (a multiple of kRows) tiles each.
// u[column block][xi][round_up(C, kLanes) / kPair][kColumns].
template <int m>
void winograd_strips(const WinogradInput& in, const WinogradOutput& out, const float* u,
                     int64_t tiles, int64_t strip, int64_t begin, int64_t end, float* scratch) {
  const int64_t words = round_up(in.C, kLanes) / kPair;
  const int64_t column_blocks = (out.D + kColumns - 1) / kColumns;
  constexpr int64_t kRun = kDepth / kPair;
  const StripScratch<m> at(in.C, strip);
  float* const v = scratch + at.v;
  float* const products = scratch + at.products;
  float* const y = scratch + at.y;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t first = index * strip, count = tiles - first < strip ? tiles - first : strip;
    transform_input<m>(in, first, count, strip, scratch + at.rows, v);
    for (int64_t block = 0; block < column_blocks; ++block) {
      for (int xi = 0; xi < products_of(m); ++xi) {
        const float* weight = u + (block * products_of(m) + xi) * words * kColumns;
        const float* tile = v + xi * words * strip;
        for (int64_t k = 0; k < words; k += kRun) {
          const int64_t k_blocks = (words - k < kRun ? words - k : kRun) / kWords;
          for (int64_t t = 0; t < count; t += kRows) {
            multiply_words<kWords, kWords>(k_blocks, tile + k * strip + t * kWords, strip * kWords,
                                           weight + k * kColumns,
                                           products + (xi * strip + t) * kColumns, k > 0);
          }
        }
      }
      for_segments<m>(in.H, in.W, first, count, [&](const Segment& s) {
        const int64_t height = out.H - s.y < m ? out.H - s.y : m;
        const int64_t width = out.W - s.x < s.width() ? out.W - s.x : s.width();
        float* const logit = scratch + at.logits + m * m * s.start * kLanes;
        const float* const tile = products + s.start * kColumns;
        if constexpr (m == 4) {
          transform_large_output(tile, strip * kColumns, s.count, y);
        } else {
          transform_output(tile, strip * kColumns, s.count, y);
        }
        if (out.gate) {
          add_to_gate(out, s, block * kColumns, y, height, width, logit);
          if (block == column_blocks - 1) write_gate(out, s, height, width, logit);
        } else {
          write_map(out, s, block * kColumns, y, height, width);
        }
      });
    }
  }
}

// G g G' of kColumns weights, 16 rows `xi_stride` apart.
inline void transform_weight(const float (&taps)[9][kColumns], float* u, int64_t xi_stride) {
  for (int lane = 0; lane < kColumns; lane += kLanes) {
    F rows[4][3];
    const F half(0.5f);
    for (int x = 0; x < 3; ++x) {
      const F g0 = load(taps[x] + lane), g1 = load(taps[3 + x] + lane),
              g2 = load(taps[6 + x] + lane);
      rows[0][x] = g0;
      rows[1][x] = half * ((g0 + g2) + g1);
      rows[2][x] = half * ((g0 + g2) - g1);
      rows[3][x] = g2;
    }
    float* target = u + lane;
    for (int i = 0; i < 4; ++i, target += 4 * xi_stride) {
      const F ends = rows[i][0] + rows[i][2];
      store(target, rows[i][0]);
      store(target + xi_stride, half * (ends + rows[i][1]));
      store(target + 2 * xi_stride, half * (ends - rows[i][1]));
      store(target + 3 * xi_stride, rows[i][2]);
    }
  }
}

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

// u[column block][xi][k / kPair][kColumns] = G g G' for the words [begin, end) of the depth, padded
// with zeros.
template <int m>
void winograd_weight(const WinogradWeight& w, int64_t begin, int64_t end, float* u) {
  const int64_t words = round_up(w.K, kLanes) / kPair;
  const int64_t column_blocks = (w.D + kColumns - 1) / kColumns;
  float taps[9][kColumns];
  for (int64_t block = 0; block < column_blocks; ++block) {
    for (int64_t k = begin; k < end; ++k) {
      float* const target = u + (block * products_of(m) * words + k) * kColumns;
      if constexpr (kPair == 2) {
        float even[16 * kColumns], odd[16 * kColumns];
        gather_taps(w, 2 * k, block * kColumns, taps);
        transform_weight(taps, even, kColumns);
        gather_taps(w, 2 * k + 1, block * kColumns, taps);
        transform_weight(taps, odd, kColumns);
        for (int64_t i = 0; i < 16 * kColumns; i += kLanes) {
          float* const word = target + i / kColumns * words * kColumns + i % kColumns;
          store_term(word, 0, 0, load(even + i));
          store_term(word, 1, 0, load(odd + i));
        }
        continue;
      }
      gather_taps(w, k, block * kColumns, taps);
      if constexpr (m == 4) {
        transform_large_weight(taps, target, words * kColumns);
      } else {
        transform_weight(taps, target, words * kColumns);
      }
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn

#include "winograd_gradient.h"
