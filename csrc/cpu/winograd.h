// What the Winograd convolutions read and write, for the loops of every instruction set. Maps are
// float32, bfloat16 or float16; all else is float32.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace efpn {

enum class Storage { float32, bfloat16, float16 };

// The map that a convolution transforms: one of these expressions, formed while loading, and zero
// outside of the image. Vectors over channels are padded with zeros to whole registers.
struct WinogradInput {
  enum Kind {
    plain,             // x
    blocked,           // x[N, registers of C, H, W, lanes] in float32: what winograd_block makes
    sum,               // x + other
    masked,            // (x + context) * mask
    relu_gradient,     // x, 0 where other <= 0
    sigmoid_gradient,  // x other (1 - other)
    gate_gradient,     // grad_logit * scale where the bit of `kept` is set, else 0
  };
  Kind kind = plain;
  int64_t N = 0, C = 0, H = 0, W = 0;
  bool channels_last = false;
  Storage storage = Storage::float32;  // of x, other and a mask that is a map
  bool rounds_factors = true;          // whether bfloat16 products may serve for bfloat16 maps
  const void* x = nullptr;             // [N, C, H, W]
  const float* context = nullptr;      // [N, padded C]
  const void* mask = nullptr;          // [N, 1, H, W] in float32, or with mask_is_map [N, C, H, W]
  bool mask_is_map = false;
  const void* other = nullptr;        // [N, C, H, W]
  const float* grad_logit = nullptr;  // [N, H, W]
  const uint8_t* kept = nullptr;      // [N, H, W, registers of C] words of one bit per lane
  const float* scale = nullptr;       // [padded C]
};

// What becomes of the convolution: a gate if `gate` is set, else a map.
struct WinogradOutput {
  int64_t N = 0, D = 0, H = 0, W = 0;
  bool channels_last = false;
  Storage storage = Storage::float32;  // of the map
  void* map = nullptr;                 // [N, D, H, W] = y, or with bias or border relu(y + either)
  bool sigmoid = false;                // in place of the ReLU
  const float* bias = nullptr;         // [padded D]
  float* gate = nullptr;  // [N, H, W] = sigmoid(gate_bias + sum gate_weight relu(y + border))
  const float* border = nullptr;       // [N, 3, 3, padded D]
  const float* gate_weight = nullptr;  // [padded D]
  float gate_bias = 0;
  uint8_t* kept = nullptr;  // as in WinogradInput: y + border > 0; or null
};

// The 3x3 weight of K input and D output channels, by the strides of its elements.
struct WinogradWeight {
  const float* data;
  int64_t K, D;
  int64_t stride_k, stride_d, stride_y, stride_x;
};

// The output pixels of a tile: F(height x width, 3x3).
template <int height, int width>
struct Tile {
  static constexpr int kHeight = height, kWidth = width, kProducts = (height + 2) * (width + 2);
};
using SmallTile = Tile<2, 2>;
using WideTile = Tile<2, 3>;
using LargeTile = Tile<4, 4>;

// The register blocking of an instruction set.
struct WinogradBlocking {
  int64_t lanes;    // channels of a register
  int64_t rows;     // rows of the GEMM's block: tiles, or input channels in a weight gradient
  int64_t columns;  // columns of the GEMM's block: output channels
  int64_t bits;     // bytes of `kept` for a register
  int64_t pair;     // factors of a product in a word: floats, or two of bfloat16
};

struct FreeBuffer {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, FreeBuffer>;

// Uninitialised floats, aligned to cache lines.
Buffer allocate(int64_t floats);

Buffer allocate_zeros(int64_t floats);

// `count` rows of `length` floats, each padded with zeros to whole registers.
Buffer pad_to_registers(const float* rows, int64_t count, int64_t length);

const WinogradBlocking& winograd_blocking();

// Elements of a map in blocks of a register's channels.
int64_t blocked_floats(const WinogradInput& in);

// The expression `in` in such blocks, written to `blocks`: for what is loaded several times.
WinogradInput winograd_block(const WinogradInput& in, float* blocks);

// out = conv3x3(in, weight) with padding 1, parallel over strips of tiles. With `reduced` precision
// by F(4x4, 3x3), where that is the faster.
void winograd_convolve(const WinogradInput& in, const WinogradWeight& weight,
                       const WinogradOutput& out, bool reduced = false);

// The gradient of the weight of conv3x3(in, weight) for the output's gradient dy, written to `grad`
// by the strides of `weight`; bias[dy.C] (or null) is the sum of dy over images and pixels.
void winograd_weight_gradient(const WinogradInput& in, const WinogradInput& dy,
                              const WinogradWeight& weight, float* grad, float* bias);

// sums[N, 3, 3, C] of a gate gradient over the pixels of each border class.
void winograd_border_sums(const WinogradInput& dy, float* sums);

}  // namespace efpn
