// What becomes of the convolutions' output: a map, or a gate. Include through winograd_kernels.h.
#include "../common/border.h"
#include "winograd_stage.h"

namespace efpn {
namespace EFPN_ISA {

// `count` neighbouring tiles of one tile row of one image, the first at pixel (y, x); the tile
// numbers `start`.. count from the beginning of the strip that the segment is part of.
struct Segment {
  int64_t n, y, x, start, count;
  int columns;  // pixels of a tile's width

  int64_t width() const { return columns * count; }
};

// All rows of a segment's output: y[row][column][kColumns], columns < width().
EFPN_INLINE const float* output_pixel(const float* y, const Segment& s, int64_t row,
                                      int64_t column) {
  return y + (row * s.width() + column) * kColumns;
}

// What is added at a pixel of a segment, [padded D].
EFPN_INLINE const float* added_at(const WinogradOutput& out, const Segment& s, int64_t row,
                                  int64_t column) {
  if (!out.border) return out.bias;
  const int cy = border_class(s.y + row, out.H), cx = border_class(s.x + column, out.W);
  return out.border + ((s.n * 3 + cy) * 3 + cx) * ((out.D + kLanes - 1) / kLanes * kLanes);
}

enum class Finish { linear, relu, sigmoid };

template <Finish finish>
EFPN_INLINE F finish_lane(const float* y, const float* added) {
  if constexpr (finish == Finish::linear) return load(y);
  const F value = load(y) + load(added);
  if constexpr (finish == Finish::sigmoid) return sigmoid(value);
  return relu(value);
}

template <Finish finish, class S>
void write_channels_last(const WinogradOutput& out, const Segment& s, int64_t d, const float* y,
                         int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const float* pixel = output_pixel(y, s, row, column);
      const float* added = added_at(out, s, row, column);
      S* target =
          static_cast<S*>(out.map) + (((s.n * out.H + s.y + row) * out.W + s.x + column) * out.D);
      for (int64_t c = d; c < d + kColumns && c < out.D; c += kLanes, pixel += kLanes) {
        const F value = finish_lane<finish>(pixel, added + c);
        if (out.D - c >= kLanes)
          store(target + c, value);
        else
          store(target + c, value, static_cast<int>(out.D - c));
      }
    }
  }
}

template <Finish finish, class S>
void write_contiguous(const WinogradOutput& out, const Segment& s, int64_t d, const float* y,
                      int64_t rows, int64_t columns) {
  const int64_t step = out.H * out.W;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = d; c < d + kColumns && c < out.D; c += kLanes) {
      const int64_t channels = out.D - c < kLanes ? out.D - c : kLanes;
      S* target = static_cast<S*>(out.map) + ((s.n * out.D + c) * out.H + s.y + row) * out.W + s.x;
      for (int64_t x = 0; x < columns; x += kLanes) {
        if (x + kLanes > columns && columns >= kLanes) x = columns - kLanes;
        F block[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          block[i] = finish_lane<finish>(output_pixel(y, s, row, x + i) + (c - d),
                                         added_at(out, s, row, x + i) + c);
        }
        transpose(block);
        if (columns >= kLanes && channels == kLanes) {
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; ++i) store(target + i * step + x, block[i]);
        } else {
          const int pixels = columns < kLanes ? static_cast<int>(columns) : kLanes;
          for (int i = 0; i < channels; ++i) store(target + i * step + x, block[i], pixels);
        }
      }
    }
  }
}

template <Finish finish>
EFPN_INLINE void write_finished(const WinogradOutput& out, const Segment& s, int64_t d,
                                const float* y, int64_t rows, int64_t columns) {
  with_storage(out.storage, [&](auto zero) {
    using S = decltype(zero);
    if (out.channels_last) return write_channels_last<finish, S>(out, s, d, y, rows, columns);
    write_contiguous<finish, S>(out, s, d, y, rows, columns);
  });
}

// The channels d.. of a segment's map.
inline void write_map(const WinogradOutput& out, const Segment& s, int64_t d, const float* y,
                      int64_t rows, int64_t columns) {
  if (!out.bias && !out.border) return write_finished<Finish::linear>(out, s, d, y, rows, columns);
  if (out.sigmoid) return write_finished<Finish::sigmoid>(out, s, d, y, rows, columns);
  write_finished<Finish::relu>(out, s, d, y, rows, columns);
}

// Adds the channels d.. to the segment's logits[tile][row][column][kLanes]; keeps the signs.
inline void add_to_gate(const WinogradOutput& out, const Segment& s, int64_t d, const float* y,
                        int64_t rows, int64_t columns, float* logits) {
  const int64_t words = (out.D + kLanes - 1) / kLanes, padded = words * kLanes;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const float* border = added_at(out, s, row, column);
      const float* pixel = output_pixel(y, s, row, column);
      float* logit = logits + (row * s.width() + column) * kLanes;
      uint8_t* kept =
          out.kept + ((s.n * out.H + s.y + row) * out.W + s.x + column) * words * sizeof(LaneBits);
      F sum = d == 0 ? F(0.0f) : load(logit);
      for (int64_t c = d; c < d + kColumns && c < padded; c += kLanes, pixel += kLanes) {
        const F value = load(pixel) + load(border + c);
        sum += relu(value) * load(out.gate_weight + c);
        if (out.kept) {
          const LaneBits bits = to_bits(~(value <= F(0.0f)));
          std::memcpy(kept + c / kLanes * sizeof(bits), &bits, sizeof(bits));
        }
      }
      store(logit, sum);
    }
  }
}

inline void write_gate(const WinogradOutput& out, const Segment& s, int64_t rows, int64_t columns,
                       const float* logits) {
  for (int64_t row = 0; row < rows; ++row) {
    float* gate = out.gate + (s.n * out.H + s.y + row) * out.W + s.x;
    for (int64_t column = 0; column < columns; ++column) {
      gate[column] = out.gate_bias + sum(load(logits + (row * s.width() + column) * kLanes));
    }
    int64_t x = 0;
    for (; x + kLanes <= columns; x += kLanes) store(gate + x, sigmoid(load(gate + x)));
    if (x < columns) {
      const int n = static_cast<int>(columns - x);
      store(gate + x, sigmoid(load(gate + x, n)), n);
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
