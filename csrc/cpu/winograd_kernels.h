// Winograd convolutions, strip by strip, for one instruction set: F(2x3, 3x3), F(2x2, 3x3) and
// F(4x4, 3x3). Include through foreach_isa.h.
//
// For an input tile d, a weight g (3x3) and an output tile y, with xi over the elements of a tile:
//   V = B' d B,  U = G g G',  M[xi] = sum over channels of V[xi] U[xi],  y = A' M A;
//   dM = A dy A',  dU[xi] = sum over tiles of V[xi] dM[xi],  dg = G' dU G.
// For two output pixels, of 2 x 2 and along the columns of 2 x 3:
//   B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], A' = [1 1 1 0; 0 1 -1 -1],
//   G' = [1 1/2 1/2 0; 0 1/2 -1/2 0; 0 1/2 1/2 1].
#include "winograd_finish.h"
#include "winograd_transform.h"

namespace efpn {
namespace EFPN_ISA {

// Input channels summed in registers, by kChain of them, before they are added to M: short chains
// keep the error low. Beside the rounding of bfloat16 it is none.
constexpr int64_t kDepth = kPair == 1 ? 128 : 256;
constexpr int kChain = kPair == 1 ? 16 / kLanes : 0;
// Tiles of a block: their sums and the sums' totals have a register each, if there are 32.
constexpr int kTileRows = EFPN_VECTOR_BYTES == 64 && kPair == 1 ? 7 : kRows;

EFPN_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline WinogradBlocking winograd_blocking() {
  return {kLanes, kTileRows, kColumns, static_cast<int64_t>(sizeof(LaneBits)), kPair};
}

// Calls f(segment) for the tile-row pieces of the tiles [first, first + count) of the maps.
template <class Tile, class Function>
EFPN_INLINE void for_segments(int64_t H, int64_t W, int64_t first, int64_t count, Function f) {
  constexpr int m = Tile::kHeight, n = Tile::kWidth;
  const int64_t width = (W + n - 1) / n, height = (H + m - 1) / m;
  for (int64_t start = 0; start < count;) {
    const int64_t tile = first + start, row = tile / width, column = tile % width;
    const int64_t rest = count - start, here = width - column < rest ? width - column : rest;
    f(Segment{row / height, row % height * m, column * n, start, here, n});
    start += here;
  }
}

// V[xi][channel block][tile][kWords] of a strip; `rows` has room for the staged rows.
template <class Tile>
void transform_strip(const WinogradInput& in, int64_t first, int64_t count, int64_t strip,
                     float* rows, float* v) {
  const int64_t blocks = (in.C + kLanes - 1) / kLanes, xi_stride = blocks * strip * kWords;
  for (int64_t block = 0; block < blocks; ++block) {
    for_segments<Tile>(in.H, in.W, first, count, [&](const Segment& s) {
      const int64_t columns = s.width() + 2;
      for (int r = 0; r < Tile::kHeight + 2; ++r) {
        stage_row(in, s.n, block * kLanes, s.y + r - 1, s.x - 1, columns,
                  rows + r * columns * kLanes);
      }
      float* const target = v + (block * strip + s.start) * kWords;
      if constexpr (Tile::kHeight == 4) {
        transform_large_input(rows, s.count, target, xi_stride);
      } else {
        constexpr int width = Tile::kWidth;
        for (int i = 0; i < 4; ++i) {
          transform_input_row<width>(
              i, rows + kFirst[i] * columns * kLanes, rows + kSecond[i] * columns * kLanes, s.count,
              [&](int64_t t, int j, F x) {
                store_channels(target + ((width + 2) * i + j) * xi_stride + t * kWords, x);
              });
        }
      }
    });
  }
}

// The arrays of winograd_strips in its scratch.
template <class Tile>
struct StripScratch {
  int64_t v, products, rows, y, logits, floats;  // where each begins; the floats of all

  static constexpr int64_t kPixels = Tile::kHeight * Tile::kWidth;

  StripScratch(int64_t C, int64_t strip)
      : v(0),
        products(Tile::kProducts * round_up(C, kLanes) / kPair * strip),
        rows(products + Tile::kProducts * strip * kColumns),
        y(rows + Tile::kProducts * strip * kLanes),
        logits(y + kPixels * strip * kColumns + kLanes * kColumns),
        floats(logits + kPixels * strip * kLanes) {}
};

template <class Tile>
int64_t winograd_scratch(int64_t C, int64_t strip) {
  return StripScratch<Tile>(C, strip).floats;
}

// The tiles of the strips [begin, end), `strip` (a multiple of kTileRows) tiles each.
// u[column block][xi][round_up(C, kLanes) / kPair][kColumns]. Returns whether all that came out of
// them is finite.
template <class Tile>
bool winograd_strips(const WinogradInput& in, const WinogradOutput& out, const float* u,
                     int64_t tiles, int64_t strip, int64_t begin, int64_t end, float* scratch) {
  const int64_t words = round_up(in.C, kLanes) / kPair;
  const int64_t column_blocks = (out.D + kColumns - 1) / kColumns;
  constexpr int64_t kRun = kDepth / kPair;
  const StripScratch<Tile> at(in.C, strip);
  float* const v = scratch + at.v;
  float* const products = scratch + at.products;
  float* const y = scratch + at.y;
  F zeros(0.0f);
  for (int64_t index = begin; index < end; ++index) {
    const int64_t first = index * strip, count = tiles - first < strip ? tiles - first : strip;
    transform_strip<Tile>(in, first, count, strip, scratch + at.rows, v);
    for (int64_t block = 0; block < column_blocks; ++block) {
      for (int xi = 0; xi < Tile::kProducts; ++xi) {
        const float* weight = u + (block * Tile::kProducts + xi) * words * kColumns;
        const float* tile = v + xi * words * strip;
        for (int64_t k = 0; k < words; k += kRun) {
          const int64_t k_blocks = (words - k < kRun ? words - k : kRun) / kWords;
          for (int64_t t = 0; t < count; t += kTileRows) {
            multiply_block<WordFactors, kWords, kWords, kTileRows, kChain>(
                k_blocks, tile + k * strip + t * kWords, strip * kWords, weight + k * kColumns,
                products + (xi * strip + t) * kColumns, k > 0);
          }
        }
      }
      for_segments<Tile>(in.H, in.W, first, count, [&](const Segment& s) {
        const int64_t height = out.H - s.y < Tile::kHeight ? out.H - s.y : Tile::kHeight;
        const int64_t width = out.W - s.x < s.width() ? out.W - s.x : s.width();
        float* const logit = scratch + at.logits + at.kPixels * s.start * kLanes;
        zeros += transform_tiles<Tile>(products + s.start * kColumns, strip * kColumns, s.count, y);
        if (out.gate) {
          add_to_gate(out, s, block * kColumns, y, height, width, logit);
          if (block == column_blocks - 1) write_gate(out, s, height, width, logit);
        } else {
          write_map(out, s, block * kColumns, y, height, width);
        }
      });
    }
  }
  return sum(zeros) == 0.0f;
}

}  // namespace EFPN_ISA
}  // namespace efpn

#include "winograd_gradient.h"
#include "winograd_weight.h"
