// Strips: the units of work on maps, and the sums that they leave behind.
#pragma once

#include "tensor.h"

namespace efpn {

// Rows [y0, y1) of one image.
struct Strip {
  int64_t image, y0, y1;
};

// A map cut into strips, by its shape alone: no result depends on the number of threads.
struct Strips {
  int64_t N, H, rows, per_image;

  explicit Strips(const Map& m) : N(m.N), H(m.H) {
    const int64_t pixels = std::clamp<int64_t>(m.pixels() / 32, 64, 2048);
    rows = std::max<int64_t>(1, pixels / std::max<int64_t>(1, m.W));
    per_image = m.W == 0 ? 0 : (H + rows - 1) / rows;
  }
  int64_t count() const { return N * per_image; }
  Strip operator[](int64_t i) const {
    const int64_t y0 = i % per_image * rows;
    return {i / per_image, y0, std::min(y0 + rows, H)};
  }
  // Calls f(index, strip) for every strip, in parallel.
  template <class F>
  void parallel_for_each(const F& f) const {
    parallel(count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i, (*this)[i]);
    });
  }
};

// A row of `width` sums for every strip, and their total for every image, added in order. In double:
// they are few, and what a strip adds up in float is short.
class StripSums {
 public:
  StripSums(const Strips& strips, int64_t width)
      : strips_(strips), width_(width), sums_(strips.count() * width) {}

  double* operator[](int64_t strip) { return sums_.data() + strip * width_; }

  std::vector<double> per_image() const {
    std::vector<double> total(strips_.N * width_);
    for (int64_t i = 0; i < strips_.count(); ++i) {
      double* image = total.data() + i / strips_.per_image * width_;
      for (int64_t k = 0; k < width_; ++k) image[k] += sums_[i * width_ + k];
    }
    return total;
  }

 private:
  Strips strips_;
  int64_t width_;
  std::vector<double> sums_;
};

}  // namespace efpn
