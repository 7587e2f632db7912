// 1x1 convolutions, strip by strip of the pixels of an image, for one instruction set: an image is
// one row of in.W pixels. Include through foreach_isa.h.
#include "winograd_finish.h"

namespace efpn {
namespace EFPN_ISA {

// Input channels, and in a weight gradient pixels, that are summed in registers before they are
// added to what was summed before: short chains keep the error low.
constexpr int64_t kPointwiseDepth = 32, kPointwisePixels = 128;
// Pixels of a sum of the bias's gradient that are added up by themselves.
constexpr int64_t kPointwiseChain = 16;

EFPN_INLINE int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline WinogradBlocking pointwise_blocking() {
  return {kLanes, kRows, kColumns, static_cast<int64_t>(sizeof(LaneBits))};
}

// u[column block][whole(K, kLanes)][kColumns] of a weight, padded with zeros, for the rows [begin,
// end) of the depth.
inline void pointwise_weight(const WinogradWeight& w, int64_t begin, int64_t end, float* u) {
  const int64_t depth = whole(w.K, kLanes);
  for (int64_t block = 0; block * kColumns < w.D; ++block) {
    for (int64_t k = begin; k < end; ++k) {
      float* const target = u + (block * depth + k) * kColumns;
      for (int64_t c = 0; c < kColumns; ++c) {
        const int64_t d = block * kColumns + c;
        target[c] = k < w.K && d < w.D ? w.data[k * w.stride_k + d * w.stride_d] : 0.0f;
      }
    }
  }
}

// Floats of scratch that pointwise_strips needs.
inline int64_t pointwise_scratch(int64_t C, int64_t strip) {
  return whole(C, kLanes) * strip + (strip + kLanes) * kColumns;
}

// The strips [begin, end) of all images, `strip` (a multiple of kRows) pixels each.
inline void pointwise_strips(const WinogradInput& in, const WinogradOutput& out, const float* u,
                             int64_t strip, int64_t begin, int64_t end, float* scratch) {
  const int64_t depth = whole(in.C, kLanes), per_image = (in.W + strip - 1) / strip;
  float* const v = scratch;
  float* const m = v + depth * strip;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t n = index / per_image, first = index % per_image * strip;
    const int64_t count = in.W - first < strip ? in.W - first : strip;
    for (int64_t c = 0; c < in.C; c += kLanes) stage_row(in, n, c, 0, first, count, v + c * strip);
    for (int64_t d = 0; d < out.D; d += kColumns) {
      const float* const weight = u + d * depth;
      for (int64_t k = 0; k < depth; k += kPointwiseDepth) {
        const int64_t rest = depth - k < kPointwiseDepth ? depth - k : kPointwiseDepth;
        for (int64_t t = 0; t < count; t += kRows) {
          multiply_block<Factors<float>, kLanes, kLanes>(rest / kLanes, v + k * strip + t * kLanes,
                                                         strip * kLanes, weight + k * kColumns,
                                                         m + t * kColumns, k > 0);
        }
      }
      write_map(out, Segment{n, 0, first, 0, count, 1}, d, m, 1, count);
    }
  }
}

// Floats between two pixels of V: an odd number of registers, to spread them over the sets of the
// cache.
EFPN_INLINE int64_t pointwise_stride(int64_t C) {
  return ((whole(C, kRows) + kLanes - 1) / kLanes | 1) * kLanes;
}

// Floats of the sums of a weight gradient from C to D channels, and of scratch.
inline int64_t pointwise_gradient_floats(int64_t C, int64_t D) {
  return whole(C, kRows) * whole(D, kColumns);
}
inline int64_t pointwise_gradient_scratch(int64_t C, int64_t D) {
  return kPointwisePixels * (pointwise_stride(C) + whole(D, kColumns) + kLanes);
}

// A strip of `pixels` of all channels, `stride` floats from one pixel to the next, in blocks of
// `width` channels that lie kPointwisePixels pixels apart.
EFPN_INLINE void stage_pixels(const WinogradInput& in, int64_t n, int64_t first, int64_t pixels,
                              int64_t width, int64_t stride, float* row, float* target) {
  for (int64_t c = 0; c < in.C; c += kLanes) {
    stage_row(in, n, c, 0, first, pixels, row);
    float* const block = target + c / width * (kPointwisePixels * width) + c % width;
    for (int64_t t = 0; t < pixels; ++t) store(block + t * stride, load(row + t * kLanes));
  }
}

// sums[column block][whole(C, kRows)][kColumns] = sum of in dy, bias[whole(D, kColumns)] that of
// dy, over the pixels [first, last) of image n.
inline void pointwise_gradient(const WinogradInput& in, const WinogradInput& dy, int64_t n,
                               int64_t first, int64_t last, float* sums, float* bias,
                               float* scratch) {
  const int64_t stride = pointwise_stride(in.C), rows = whole(in.C, kRows);
  const int64_t columns = whole(dy.C, kColumns);
  float* const v = scratch;
  float* const m = v + kPointwisePixels * stride;
  float* const row = m + kPointwisePixels * columns;
  std::memset(bias, 0, columns * sizeof(float));
  for (int64_t start = first; start < last; start += kPointwisePixels) {
    const int64_t count = last - start < kPointwisePixels ? last - start : kPointwisePixels;
    stage_pixels(in, n, start, count, stride, stride, row, v);
    stage_pixels(dy, n, start, count, kColumns, kColumns, row, m);
    for (int64_t d = 0; d < columns; d += kColumns) {
      const float* const block = m + d * kPointwisePixels;
      for (int lane = 0; lane < kColumns; lane += kLanes) {
        F total(0.0f);
        for (int64_t t = 0; t < count;) {
          F part(0.0f);
          const int64_t end = t + kPointwiseChain;
          for (; t < end && t < count; ++t) part += load(block + t * kColumns + lane);
          total += part;
        }
        store(bias + d + lane, load(bias + d + lane) + total);
      }
      for (int64_t c = 0; c < rows; c += kRows) {
        multiply_block<Factors<float>, 1, 1>(count, v + c, stride, block,
                                             sums + d * rows + c * kColumns, start > first);
      }
    }
  }
}

// grad of the input channels [begin, end), by the strides of w (K = C input channels), from the
// sums of `chunks`.
inline void pointwise_gradient_finish(const float* sums, int64_t chunks, const WinogradWeight& w,
                                      float* grad, int64_t begin, int64_t end) {
  const int64_t rows = whole(w.K, kRows), chunk_stride = rows * whole(w.D, kColumns);
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t d = 0; d < w.D; d += kLanes) {
      const float* const source = sums + (d / kColumns * rows + c) * kColumns + d % kColumns;
      F total = load(source);
      for (int64_t i = 1; i < chunks; ++i) total += load(source + i * chunk_stride);
      float lanes[kLanes];
      store(lanes, total);
      for (int64_t i = 0; i < kLanes && d + i < w.D; ++i) {
        grad[c * w.stride_k + (d + i) * w.stride_d] = lanes[i];
      }
    }
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
