// Winograd convolutions of the CPU: F(2x3, 3x3), for products of bfloat16 and for maps of a few
// columns F(2x2, 3x3), and in float32, where reduced precision is asked for, F(4x4, 3x3): threads,
// strips and buffers. Why these: csrc/derivation.md, section 5.
//
// For C = D = 256 and 200 x 200 pixels (47.2 GFLOP directly). Operations: 20 products of 6700
// tiles, 17.6 GFLOP. Bytes: 41 MB in, read twice as tile rows overlap; 41 MB out, or 1.3 MB of bits
// and a gate; V and M, 20/6 of a map each, never leave the second-level cache; U, 5.2 MB, streams
// past every strip. Time allowed at the 117 GFLOP/s of multiply-adds in registers (a Zen 4 core):
// 150 ms in one thread. The gradient of the weights, by F(2x2): 21.0 GFLOP, 179 ms.
//
// Measured (Zen 4, one thread, AVX-512 / AVX2, ms): refine 182 / 192, the gate 174 / 184, with
// their backwards 417 / 446 and 395 / 418; by F(2x2) 215 / 227, 206 / 219, 450 / 479 and 426 / 446.
// Strips of 0.4 to 0.7 of the second-level cache are alike, and prefetching U gains nothing. The
// gradient before the refine convolution is formed once, in blocks: it is loaded five times a
// backward.
//
// F(4x4): 36 products of 2500 tiles, 11.8 GFLOP, 101 ms. V of a tile is 37 KB, so that a strip of
// two blocks of rows (14 tiles) fills half of the second-level cache, and U, 9.4 MB, streams past
// each from the third level: 4.6 bytes a cycle at one multiply-add, a fourth of what that gives.
//
// Maps of halves are widened while they load. With AVX512-BF16 the factors of bfloat16 maps are
// rounded and multiplied in pairs, at twice the rate; so are the gradients, but not the low gate.
// Measured (Zen 4, one thread, contiguous / channels_last, ms): refine 108 / 110 against 190 / 183
// in float32 and 264 / 213 by the library in bfloat16; refine's backward 318 / 278 against 443 /
// 445 and 541 / 508.
#include "winograd.h"

#include <unistd.h>

#include <atomic>

#include "tensor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EFPN_WITH_BF16_DOT
#define EFPN_KERNELS "winograd_kernels.h"
#include "foreach_isa.h"

// EFPN_CALL, but for maps of bfloat16 with AVX512-BF16's products where the machine has them.
#if EFPN_X86
#define EFPN_CALL_FOR(in, function, ...) \
  (multiplies_bf16(in) ? avx512_bf16::function(__VA_ARGS__) : EFPN_CALL(function, __VA_ARGS__))
#else
#define EFPN_CALL_FOR(in, function, ...) EFPN_CALL(function, __VA_ARGS__)
#endif

namespace efpn {
namespace {

bool multiplies_bf16(const WinogradInput& in) {
  return in.storage == Storage::bfloat16 && in.rounds_factors && isa() >= Isa::avx512_bf16;
}

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

int64_t second_level_cache() {
  static const int64_t bytes = [] {
    const long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return std::clamp<int64_t>(reported > 0 ? reported : 1 << 20, 1 << 18, 1 << 22);
  }();
  return bytes;
}

template <class Tile>
int64_t tiles_of(const WinogradInput& in) {
  constexpr int64_t m = Tile::kHeight, n = Tile::kWidth;
  return in.N * ((in.H + m - 1) / m) * ((in.W + n - 1) / n);
}

template <class Tile>
int64_t products_of(const WinogradInput& in) {
  return Tile::kProducts * tiles_of<Tile>(in);
}

// Tiles of a strip: their transform fills five eighths of a core's second-level cache, and every
// thread has two strips at least. No result depends on it.
int64_t strip_tiles(int64_t tiles, int64_t products, int64_t C, const WinogradBlocking& block) {
  const int64_t words = round_up(C, block.lanes) / block.pair + block.columns;
  const int64_t tile_bytes = products * sizeof(float) * words;
  const int64_t fitting = second_level_cache() * 5 / 8 / tile_bytes / block.rows;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t shared =
      round_up((tiles + 2 * threads - 1) / (2 * threads), block.rows) / block.rows;
  return std::max<int64_t>(std::min(fitting, shared), 1) * block.rows;
}

// Parts that the tiles of a weight gradient are summed in: as many threads times four can work.
// Fixed by the shape, as the parts are summed in turn.
constexpr int64_t kMostChunks = 4, kLeastTilesOfChunk = 512;

}  // namespace

Buffer allocate(int64_t floats) {
  const int64_t bytes = round_up(std::max<int64_t>(floats, 1) * sizeof(float), 64);
  auto* p = static_cast<float*>(std::aligned_alloc(64, bytes));
  STD_TORCH_CHECK(p, "out of memory: ", bytes, " bytes of scratch");
  return Buffer(p);
}

Buffer allocate_zeros(int64_t floats) {
  Buffer buffer = allocate(floats);
  std::memset(buffer.get(), 0, floats * sizeof(float));
  return buffer;
}

Buffer pad_to_registers(const float* rows, int64_t count, int64_t length) {
  const int64_t width = round_up(length, winograd_blocking().lanes);
  Buffer result = allocate_zeros(count * width);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(result.get() + i * width, rows + i * length, length * sizeof(float));
  }
  return result;
}

const WinogradBlocking& winograd_blocking() {
  static const WinogradBlocking chosen = EFPN_CALL(winograd_blocking);
  return chosen;
}

int64_t blocked_floats(const WinogradInput& in) {
  return in.N * round_up(in.C, winograd_blocking().lanes) * in.H * in.W;
}

WinogradInput winograd_block(const WinogradInput& in, float* blocks) {
  const int64_t lanes = winograd_blocking().lanes;
  parallel(in.N * ((in.C + lanes - 1) / lanes) * in.H, kWorkOfElement * lanes * in.W,
           [&](int64_t begin, int64_t end) { EFPN_CALL(block_rows, in, begin, end, blocks); });
  WinogradInput blocked = in;
  blocked.kind = WinogradInput::blocked;
  blocked.x = blocks;
  return blocked;
}

namespace {

// Below it the larger weights U take longer to make than the fewer products save.
constexpr int64_t kLeastLargeTiles = 25;

// Returns whether all that came out of the tiles is finite.
template <class Tile>
bool convolve_by(const WinogradInput& in, const WinogradWeight& weight, const WinogradOutput& out) {
  constexpr int64_t products = Tile::kProducts;
  const int64_t tiles = tiles_of<Tile>(in);
  const WinogradBlocking block = EFPN_CALL_FOR(in, winograd_blocking);
  const int64_t words = round_up(in.C, block.lanes) / block.pair;
  const int64_t width = round_up(out.D, block.columns);
  const Tensor weights = empty({products * words * width}, ScalarType::Float);
  float* const u = mutable_data<float>(weights);
  parallel(words, 8 * products * width, [&](int64_t begin, int64_t end) {
    EFPN_CALL_FOR(in, winograd_weight<Tile>, weight, begin, end, u);
  });
  const int64_t strip = strip_tiles(tiles, products, in.C, block);
  const int64_t floats = EFPN_CALL_FOR(in, winograd_scratch<Tile>, in.C, strip);
  std::atomic<bool> finite = true;
  const int64_t work = products * words * width * strip;
  parallel((tiles + strip - 1) / strip, work, [&](int64_t begin, int64_t end) {
    const Buffer scratch = allocate_zeros(floats);
    float* const own = scratch.get();
    if (!EFPN_CALL_FOR(in, winograd_strips<Tile>, in, out, u, tiles, strip, begin, end, own)) {
      finite = false;
    }
  });
  return finite;
}

}  // namespace

void winograd_convolve(const WinogradInput& in, const WinogradWeight& weight,
                       const WinogradOutput& out, bool reduced) {
  const int64_t small = products_of<SmallTile>(in), wide = products_of<WideTile>(in);
  if (small == 0) return;
  const bool large =
      reduced && in.storage == Storage::float32 && tiles_of<LargeTile>(in) >= kLeastLargeTiles;
  if (large && products_of<LargeTile>(in) < std::min(small, wide)) {
    convolve_by<LargeTile>(in, weight, out);
    return;
  }
  // In small tiles NaN and infinity stay where a direct convolution has them; wide ones spread
  // them.
  if (wide < small && !multiplies_bf16(in) && convolve_by<WideTile>(in, weight, out)) return;
  convolve_by<SmallTile>(in, weight, out);
}

void winograd_weight_gradient(const WinogradInput& in, const WinogradInput& dy,
                              const WinogradWeight& weight, float* grad, float* bias) {
  const int64_t tiles = tiles_of<SmallTile>(in),
                width = round_up(dy.C, winograd_blocking().columns);
  const int64_t wanted = std::clamp<int64_t>(tiles / kLeastTilesOfChunk, 1, kMostChunks);
  const int64_t chunk = round_up((tiles + wanted - 1) / wanted, kLeastTilesOfChunk);
  const int64_t chunks = tiles ? (tiles + chunk - 1) / chunk : 0;
  if (bias) std::memset(bias, 0, dy.C * sizeof(float));
  if (chunks == 0) return static_cast<void>(std::memset(grad, 0, 9 * in.C * dy.C * sizeof(float)));

  const int64_t group = EFPN_CALL_FOR(in, winograd_gradient_floats, in.C, dy.C);
  const Tensor partial = empty({chunks * 4 * group}, ScalarType::Float);
  float* const sums = mutable_data<float>(partial);
  const Buffer bias_sums = allocate(chunks * width);
  const int64_t longest = std::min(chunk, tiles);
  parallel(chunks * 4, 4 * longest * in.C * width, [&](int64_t begin, int64_t end) {
    const Buffer scratch =
        allocate_zeros(EFPN_CALL_FOR(in, winograd_gradient_scratch, longest, in.C, dy.C));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item / 4 * chunk, last = std::min(first + chunk, tiles);
      EFPN_CALL_FOR(in, winograd_gradient, in, dy, static_cast<int>(item % 4), first, last,
                    sums + item * group, bias_sums.get() + item / 4 * width, scratch.get());
    }
  });
  parallel(in.C, 16 * chunks * width, [&](int64_t begin, int64_t end) {
    EFPN_CALL(winograd_gradient_finish, sums, chunks, weight, grad, begin, end);
  });
  for (int64_t i = 0; bias && i < chunks; ++i) {
    for (int64_t d = 0; d < dy.C; ++d) bias[d] += bias_sums.get()[i * width + d];
  }
}

void winograd_border_sums(const WinogradInput& dy, float* sums) {
  const int64_t lanes = winograd_blocking().lanes, registers = (dy.C + lanes - 1) / lanes;
  const bool empty_map = dy.H == 0 || dy.W == 0;
  parallel(dy.N * registers, lanes * dy.H * dy.W, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / registers, c = item % registers * lanes;
      float classes[9 * 16] = {};
      if (!empty_map) EFPN_CALL(gate_gradient_sums, dy, n, c, classes);
      for (int64_t i = 0; i < 9; ++i) {
        std::memcpy(sums + (n * 9 + i) * dy.C + c, classes + i * lanes,
                    std::min(lanes, dy.C - c) * sizeof(float));
      }
    }
  });
}

}  // namespace efpn
