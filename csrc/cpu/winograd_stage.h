// Forming rows of the convolutions' input: L channels of each pixel. Include through
// winograd_kernels.h.
#include "winograd_operand.h"

namespace efpn {
namespace EFPN_ISA {

#if EFPN_VECTOR_BYTES == 64
using LaneBits = uint16_t;
#else
using LaneBits = uint8_t;
#endif

template <int... I>
struct Indices {};
template <int n, int... I>
struct IndicesUpTo : IndicesUpTo<n - 1, n - 1, I...> {};
template <int... I>
struct IndicesUpTo<0, I...> {
  using type = Indices<I...>;
};

// The lanes of a and b in turn, from lane `first` on.
template <int first, int... I>
EFPN_INLINE F interleave(F a, F b, Indices<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a.v, b.v, (first + I / 2 + (I % 2) * kLanes)...);
#else  // which GCC knows from 12 on
  const F::Mask lanes = {(first + I / 2 + (I % 2) * kLanes)...};
  return __builtin_shuffle(a.v, b.v, lanes);
#endif
}

// rows[i] lane j <-> rows[j] lane i, by log2(kLanes) perfect shuffles.
EFPN_INLINE void transpose(F (&rows)[kLanes]) {
  using All = typename IndicesUpTo<kLanes>::type;
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    F shuffled[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      shuffled[2 * i] = interleave<0>(rows[i], rows[i + kLanes / 2], All());
      shuffled[2 * i + 1] = interleave<kLanes / 2>(rows[i], rows[i + kLanes / 2], All());
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = shuffled[i];
  }
}

// Calls f with a zero of the type of the maps' elements.
template <class Function>
EFPN_INLINE void with_storage(Storage storage, Function f) {
  switch (storage) {
    case Storage::float32:
      return f(float{});
    case Storage::bfloat16:
      return f(BFloat16{});
    case Storage::float16:
      return f(Half{});
  }
}

// One bit per lane, and back.
EFPN_INLINE LaneBits to_bits(F::Mask mask) {
#if EFPN_X86 && EFPN_VECTOR_BYTES == 64
  return static_cast<LaneBits>(_mm512_movepi32_mask((__m512i)mask));
#elif EFPN_X86 && EFPN_VECTOR_BYTES == 32
  return static_cast<LaneBits>(_mm256_movemask_ps((__m256)mask));
#else
  LaneBits bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<LaneBits>((mask[i] & 1) << i);
  return bits;
#endif
}
template <int... I>
EFPN_INLINE F::Mask from_bits(LaneBits bits, Indices<I...>) {
  const F::Mask lane = {(1 << I)...};
  return ((F::Mask{} + static_cast<int32_t>(bits)) & lane) != 0;
}

EFPN_INLINE int64_t pixel_index(const WinogradInput& in, int64_t n, int64_t y, int64_t x) {
  return (n * in.H + y) * in.W + x;
}

// A register over the channels c.. of the gate's gradient.
EFPN_INLINE F gate_gradient_at(const WinogradInput& in, int64_t pixel, int64_t c) {
  const int64_t words = (in.C + kLanes - 1) / kLanes;
  LaneBits bits;
  std::memcpy(&bits, in.kept + (pixel * words + c / kLanes) * sizeof(bits), sizeof(bits));
  const F value = F(in.grad_logit[pixel]) * load(in.scale + c);
  return select<float>(from_bits(bits, typename IndicesUpTo<kLanes>::type()), value, F(0.0f));
}

// A register of the map from `offset` on; `context` and `gate` are its lanes' context and mask.
template <WinogradInput::Kind kind, class S, bool tail>
EFPN_INLINE F input_at(const WinogradInput& in, int64_t offset, F context, F gate, int n) {
  const F x = load<tail>(static_cast<const S*>(in.x) + offset, n);
  if constexpr (kind == WinogradInput::masked) {
    if (in.mask_is_map) gate = load<tail>(static_cast<const S*>(in.mask) + offset, n);
    return (x + context) * gate;
  }
  if constexpr (kind == WinogradInput::plain) return x;
  const F other = load<tail>(static_cast<const S*>(in.other) + offset, n);
  if constexpr (kind == WinogradInput::sum) return x + other;
  if constexpr (kind == WinogradInput::sigmoid_gradient) return x * gate_slope(other);
  return relu_gradient(other, x);
}

template <WinogradInput::Kind kind, class S, bool tail>
EFPN_INLINE void stage_channels_last(const WinogradInput& in, int64_t n, int64_t c, int64_t y,
                                     int64_t begin, int64_t end, float* row) {
  const int64_t first = pixel_index(in, n, y, 0);
  F context(0.0f), gate(0.0f);
  if constexpr (kind == WinogradInput::masked) {
    context = load(in.context + n * ((in.C + kLanes - 1) / kLanes * kLanes) + c);
  }
  for (int64_t x = begin; x < end; ++x, row += kLanes) {
    if constexpr (kind == WinogradInput::masked) {
      if (!in.mask_is_map) gate = F(static_cast<const float*>(in.mask)[first + x]);
    }
    store(row, input_at<kind, S, tail>(in, (first + x) * in.C + c, context, gate,
                                       static_cast<int>(in.C - c)));
  }
}

// kLanes pixels of kLanes channels (`channels` of them exist), transposed.
template <WinogradInput::Kind kind, class S, bool tail>
EFPN_INLINE void stage_transposed(const WinogradInput& in, int64_t n, int64_t c, int64_t y,
                                  int64_t x, int channels, int pixels, float* row) {
  F block[kLanes], gate(0.0f);
  if constexpr (kind == WinogradInput::masked) {
    const auto* const gates = static_cast<const float*>(in.mask);
    if (!in.mask_is_map) gate = load<tail>(gates + pixel_index(in, n, y, x), pixels);
  }
  const int64_t padded = (in.C + kLanes - 1) / kLanes * kLanes;
  const int64_t first = ((n * in.C + c) * in.H + y) * in.W + x, step = in.H * in.W;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    F context(0.0f);
    if constexpr (kind == WinogradInput::masked) context = F(in.context[n * padded + c + i]);
    block[i] = i < channels ? input_at<kind, S, tail>(in, first + i * step, context, gate, pixels)
                            : F(0.0f);
  }
  transpose(block);
  if constexpr (tail) {
    for (int i = 0; i < pixels; ++i) store(row + i * kLanes, block[i]);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(row + i * kLanes, block[i]);
  }
}

template <WinogradInput::Kind kind, class S>
void stage_inside(const WinogradInput& in, int64_t n, int64_t c, int64_t y, int64_t begin,
                  int64_t end, float* row) {
  if constexpr (kind == WinogradInput::blocked) {
    const int64_t registers = (in.C + kLanes - 1) / kLanes;
    const int64_t plane = (n * registers + c / kLanes) * in.H + y;
    std::memcpy(row, static_cast<const float*>(in.x) + (plane * in.W + begin) * kLanes,
                (end - begin) * kLanes * sizeof(float));
  } else if constexpr (kind == WinogradInput::gate_gradient) {
    for (int64_t x = begin; x < end; ++x, row += kLanes) {
      store(row, gate_gradient_at(in, pixel_index(in, n, y, x), c));
    }
  } else if (in.channels_last) {
    if (in.C - c >= kLanes) {
      return stage_channels_last<kind, S, false>(in, n, c, y, begin, end, row);
    }
    stage_channels_last<kind, S, true>(in, n, c, y, begin, end, row);
  } else {
    const int channels = in.C - c < kLanes ? static_cast<int>(in.C - c) : kLanes;
    if (end - begin < kLanes) {
      return stage_transposed<kind, S, true>(in, n, c, y, begin, channels,
                                             static_cast<int>(end - begin), row);
    }
    for (int64_t x = begin; x < end; x += kLanes) {
      if (x + kLanes > end) x = end - kLanes;  // the last block overlaps the one before
      stage_transposed<kind, S, false>(in, n, c, y, x, channels, kLanes,
                                       row + (x - begin) * kLanes);
    }
  }
}

// row[x - first, :] = the channels c.. of the pixels (y, first..first + columns) of image n.
inline void stage_row(const WinogradInput& in, int64_t n, int64_t c, int64_t y, int64_t first,
                      int64_t columns, float* row) {
  const int64_t begin = first < 0 ? 0 : first;
  const int64_t end = first + columns < in.W ? first + columns : in.W;
  if (y < 0 || y >= in.H || begin >= end) {
    std::memset(row, 0, columns * kLanes * sizeof(float));
    return;
  }
  float* inside = row + (begin - first) * kLanes;
  std::memset(row, 0, (begin - first) * kLanes * sizeof(float));
  std::memset(row + (end - first) * kLanes, 0, (first + columns - end) * kLanes * sizeof(float));
  with_storage(in.storage, [&](auto zero) {
    using S = decltype(zero);
    switch (in.kind) {
      case WinogradInput::plain:
        return stage_inside<WinogradInput::plain, S>(in, n, c, y, begin, end, inside);
      case WinogradInput::blocked:
        return stage_inside<WinogradInput::blocked, float>(in, n, c, y, begin, end, inside);
      case WinogradInput::sum:
        return stage_inside<WinogradInput::sum, S>(in, n, c, y, begin, end, inside);
      case WinogradInput::masked:
        return stage_inside<WinogradInput::masked, S>(in, n, c, y, begin, end, inside);
      case WinogradInput::relu_gradient:
        return stage_inside<WinogradInput::relu_gradient, S>(in, n, c, y, begin, end, inside);
      case WinogradInput::sigmoid_gradient:
        return stage_inside<WinogradInput::sigmoid_gradient, S>(in, n, c, y, begin, end, inside);
      case WinogradInput::gate_gradient:
        return stage_inside<WinogradInput::gate_gradient, float>(in, n, c, y, begin, end, inside);
    }
  });
}

// The rows [begin, end) of a map in blocks: rows of registers of images.
inline void block_rows(const WinogradInput& in, int64_t begin, int64_t end, float* blocks) {
  const int64_t registers = (in.C + kLanes - 1) / kLanes;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t plane = row / in.H, n = plane / registers, c = plane % registers * kLanes;
    stage_row(in, n, c, row % in.H, 0, in.W, blocks + row * in.W * kLanes);
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
