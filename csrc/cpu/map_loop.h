// One pass over a strip of maps, for one instruction set and both memory formats. Include through
// foreach_isa.h.
//
// Vectors run along the pixels of a contiguous map and along the channels of a channels_last one. A
// kernel is written once, as a body that asks its place for values: what is a vector in one format
// is a broadcast scalar in the other.
#include "../common/border.h"

namespace efpn {
namespace EFPN_ISA {

// Where a body stands: up to a vector of elements of the maps, `lanes` of them where `tail`. Lanes
// past them load as zero.
template <class S, bool channels_last, bool tail>
struct Place {
  using A = Acc<S>;
  using V = Vec<A>;
  int64_t element;  // of a map
  int64_t c;        // of a vector [C]
  int64_t row;      // of a table: row + c
  int64_t pixel;    // of a gate
  int lanes;

  EFPN_INLINE V map(const S* x) const { return load<tail>(x + element, lanes); }
  EFPN_INLINE void set(S* x, V value) const { store<tail>(x + element, value, lanes); }
  EFPN_INLINE V gate(const A* x) const {
    if constexpr (channels_last) return V(x[pixel]);
    return load<tail>(x + pixel, lanes);
  }
  EFPN_INLINE V channel(const A* x) const {
    if constexpr (channels_last) return load<tail>(x + c, lanes);
    return V(x[c]);
  }
  // table: [N, C], or [N, 3, 3, C] by border class where the pass is bordered.
  EFPN_INLINE V table(const A* x) const { return channel(x + row); }
};

// What a body contributes to the sums over pixels, one or more per channel (and border class), and
// to the sum over channels per pixel.
template <class V, int K>
struct Terms {
  V channel[K > 0 ? K : 1];
  V pixel;
};

// The most terms that are added up in a lane of Acc<S> before the sum goes on in double. Longer runs
// cost accuracy (256 terms: twice eager's error in a sum over 200 x 200 pixels) and save no time.
constexpr int64_t kRun = 32;

// Calls f(border class, first pixel, last pixel) for runs of up to `longest` pixels of a strip,
// within which the class is constant; it is 0 where the pass is not bordered.
template <bool bordered, class F>
EFPN_INLINE void for_each_run(const Map& m, const Strip& strip, int64_t longest, const F& f) {
  const auto split = [&](int border, int64_t first, int64_t last) {
    for (; first < last; first += longest) f(border, first, std::min(first + longest, last));
  };
  if constexpr (!bordered) return split(0, strip.y0 * m.W, strip.y1 * m.W);
  for (int64_t y = strip.y0; y < strip.y1; ++y) {
    const int row = 3 * border_class(y, m.H);
    const int64_t first = y * m.W, last = first + m.W;
    f(row, first, first + 1);
    split(row + 1, first + 1, last - 1);
    if (m.W > 1) f(row + 2, last - 1, last);
  }
}

// The settings of a pass: K sums over pixels per channel, whether there is a sum over channels, and
// whether tables and sums go by border class.
template <int K_, bool pixel_sum_ = false, bool bordered_ = false>
struct Pass {
  static constexpr int K = K_, classes = bordered_ ? 9 : 1;
  static constexpr bool pixel_sum = pixel_sum_, bordered = bordered_;
};

template <class S, class P, class Body>
void contiguous_pass(const Map& m, const Strip& strip, const Body& body, double* channel_sums,
                     Acc<S>* pixel_sums) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t image = strip.image * m.pixels();
  if constexpr (P::pixel_sum) {
    std::fill(pixel_sums + image + strip.y0 * m.W, pixel_sums + image + strip.y1 * m.W, A(0));
  }
  for (int64_t c = strip.c0; c < strip.c1; ++c) {
    constexpr int64_t longest = P::K > 0 ? kRun * V::size : int64_t(1) << 40;
    for_each_run<P::bordered>(m, strip, longest, [&](int border, int64_t first, int64_t last) {
      V sums[P::K > 0 ? P::K : 1];
      for (V& s : sums) s = V(A(0));
      const auto step = [&](auto tail, int64_t p, int lanes) {
        constexpr bool kTail = decltype(tail)::value;
        const Place<S, false, kTail> at{(strip.image * m.C + c) * m.pixels() + p, c,
                                        (strip.image * P::classes + border) * m.C, image + p,
                                        lanes};
        const Terms<V, P::K> terms = body(at);
        for (int k = 0; k < P::K; ++k) sums[k] += terms.channel[k];
        if constexpr (P::pixel_sum) {
          A* s = pixel_sums + at.pixel;
          store<kTail>(s, load<kTail>(s, lanes) + terms.pixel, lanes);
        }
      };
      int64_t p = first;
      for (; p + V::size <= last; p += V::size) step(std::false_type(), p, V::size);
      if (p < last) step(std::true_type(), p, static_cast<int>(last - p));
      for (int k = 0; k < P::K; ++k) channel_sums[(border * P::K + k) * m.C + c] += sum(sums[k]);
    });
  }
}

template <class S, class P, class Body>
void channels_last_pass(const Map& m, const Strip& strip, const Body& body, double* channel_sums,
                        Acc<S>* pixel_sums) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t image = strip.image * m.pixels();
  const int64_t padded = (m.C + V::size - 1) / V::size * V::size;
  std::vector<A> sums(P::K * padded);
  const auto run = [&](int border, int64_t first, int64_t last) {
    std::fill(sums.begin(), sums.end(), A(0));
    for (int64_t p = first; p < last; ++p) {
      V over_channels(A(0));
      const auto step = [&](auto tail, int64_t c, int lanes) {
        const Place<S, true, decltype(tail)::value> at{
            (image + p) * m.C + c, c, (strip.image * P::classes + border) * m.C, image + p, lanes};
        const Terms<V, P::K> terms = body(at);
        for (int k = 0; k < P::K; ++k) {
          A* s = sums.data() + k * padded + c;
          store(s, load(s) + terms.channel[k]);
        }
        if constexpr (P::pixel_sum) over_channels += terms.pixel;
      };
      int64_t c = 0;
      for (; c + V::size <= m.C; c += V::size) step(std::false_type(), c, V::size);
      if (c < m.C) step(std::true_type(), c, static_cast<int>(m.C - c));
      if constexpr (P::pixel_sum) pixel_sums[image + p] = sum(over_channels);
    }
    for (int k = 0; k < P::K; ++k) {
      double* total = channel_sums + (border * P::K + k) * m.C;
      for (int64_t c = 0; c < m.C; ++c) total[c] += sums[k * padded + c];
    }
  };
  for_each_run<P::bordered>(m, strip, kRun, run);
}

// body(place) -> Terms. channel_sums: [classes, K, C], zero before; pixel_sums: a gate.
template <class S, class P, class Body>
EFPN_INLINE void map_pass(const Map& m, const Strip& strip, const Body& body,
                          double* channel_sums = nullptr, Acc<S>* pixel_sums = nullptr) {
  if (m.channels_last) return channels_last_pass<S, P>(m, strip, body, channel_sums, pixel_sums);
  contiguous_pass<S, P>(m, strip, body, channel_sums, pixel_sums);
}

}  // namespace EFPN_ISA
}  // namespace efpn
