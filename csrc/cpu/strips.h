// Strips: the units of work on maps, and the sums that they leave behind.
#pragma once

#include "tensor.h"

namespace efpn {

// Rows [y0, y1) and channels [c0, c1) of one image.
struct Strip {
  int64_t image, y0, y1, c0, c1;
};

// A map cut into strips, by its shape and format alone: no result depends on the number of threads.
//
// A strip is some rows with all their channels, or, where a pass over a contiguous map has no sum
// over channels, a single channel: memory is then walked in order.
class Strips {
 public:
  explicit Strips(const Map& m, bool sum_over_channels = false)
      : map_(m), by_channel_(!m.channels_last && !sum_over_channels) {
    const int64_t pixels = std::clamp<int64_t>(m.pixels() / 32, 64, 2048);
    rows_ = std::max<int64_t>(1, pixels / std::max<int64_t>(1, m.W));
    per_image_ = m.W == 0 || m.H == 0 ? 0 : by_channel_ ? m.C : (m.H + rows_ - 1) / rows_;
  }

  int64_t count() const { return map_.N * per_image_; }

  Strip operator[](int64_t i) const {
    const int64_t image = i / per_image_, part = i % per_image_;
    if (by_channel_) return {image, 0, map_.H, part, part + 1};
    return {image, part * rows_, std::min((part + 1) * rows_, map_.H), 0, map_.C};
  }

  // Calls f(index, strip) for every strip, in parallel.
  template <class F>
  void parallel_for_each(const F& f) const {
    const int64_t elements = by_channel_ ? map_.pixels() : rows_ * map_.W * map_.C;
    parallel(count(), kWorkOfElement * elements, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i, (*this)[i]);
    });
  }

 private:
  friend class StripSums;
  Map map_;
  bool by_channel_;
  int64_t rows_, per_image_;
};

// `width` sums per image: what its strips leave in a row each (strips of channels share one, of
// which each writes its own part), added in order. In double: they are few, and what is added up in
// float before is short.
class StripSums {
 public:
  StripSums(const Strips& strips, int64_t width)
      : images_(strips.map_.N),
        rows_(strips.by_channel_ ? 1 : strips.per_image_),
        strips_per_row_(strips.by_channel_ ? std::max<int64_t>(1, strips.per_image_) : 1),
        width_(width),
        sums_(images_ * rows_ * width) {}

  double* operator[](int64_t strip) { return sums_.data() + strip / strips_per_row_ * width_; }

  std::vector<double> per_image() const {
    std::vector<double> total(images_ * width_);
    for (int64_t i = 0; i < images_ * rows_; ++i) {
      double* image = total.data() + i / rows_ * width_;
      for (int64_t k = 0; k < width_; ++k) image[k] += sums_[i * width_ + k];
    }
    return total;
  }

 private:
  int64_t images_, rows_, strips_per_row_, width_;
  std::vector<double> sums_;
};

}  // namespace efpn
