// The convolution of an upsampled map from its low-resolution taps, for one instruction set. Include
// through foreach_isa.h.
#include "../common/bilinear.h"

namespace efpn {
namespace EFPN_ISA {

// Row y of A for channels [first, last), and the adjoint. Bilinear interpolation is separable: first the
// taps of the (up to six) low rows that output row y reads are summed into `row` [w, 3, channels], then
// each pixel sums six entries of `row`.
template <class A>
class UpsampledRow {
 public:
  using V = Vec<A>;

  UpsampledRow(const Upsampling<A>& u, int64_t first, int64_t last)
      : u_(u), first_(first), last_(last), width_((last - first + V::size - 1) / V::size * V::size),
        row_(u.w * 3 * width_), grad_row_(row_.size()), columns_(u.W) {
    for (int64_t x = 0; x < u.W; ++x) {
      for (int k = 0; k < 3; ++k) {
        const bool inside = x + k >= 1 && x + k <= u.W;
        const auto s = inside ? bilinear_source<A>(x + k - 1, u.w, u.W) : Source<A>{0, 0};
        columns_[x].entry[2 * k] = (3 * s.index + k) * width_;
        columns_[x].entry[2 * k + 1] = (3 * std::min(s.index + 1, u.w - 1) + k) * width_;
        columns_[x].weight[2 * k] = inside ? 1 - s.weight : A(0);
        columns_[x].weight[2 * k + 1] = s.weight;
      }
    }
  }

  int64_t width() const { return width_; }  // channels, rounded up to whole vectors

  void gather(int64_t image, int64_t y) {
    std::fill(row_.begin(), row_.end(), A(0));
    for_each_low_row(image, y, [&](int64_t low_row, int ky, A weight) {
      for_each_vector(low_row, ky, [&](auto tail, int64_t tap, int64_t entry, int lanes) {
        constexpr bool kTail = decltype(tail)::value;
        A* r = row_.data() + entry;
        store(r, load(r) + V(weight) * load<kTail>(u_.taps + tap, lanes));
      });
    });
  }

  // A at pixel x for the vector of channels at d, without the bias.
  EFPN_INLINE V at(int64_t x, int64_t d) const {
    const Column& column = columns_[x];
    V value = V(column.weight[0]) * load(row_.data() + column.entry[0] + d);
    for (int k = 1; k < 6; ++k) value += V(column.weight[k]) * load(row_.data() + column.entry[k] + d);
    return value;
  }

  // The adjoint of at(), then of gather().
  EFPN_INLINE void scatter(int64_t x, int64_t d, V grad) {
    const Column& column = columns_[x];
    for (int k = 0; k < 6; ++k) {
      A* r = grad_row_.data() + column.entry[k] + d;
      store(r, load(r) + V(column.weight[k]) * grad);
    }
  }
  void scatter_taps(int64_t image, int64_t y, A* grad_taps) {
    for_each_low_row(image, y, [&](int64_t low_row, int ky, A weight) {
      for_each_vector(low_row, ky, [&](auto tail, int64_t tap, int64_t entry, int lanes) {
        constexpr bool kTail = decltype(tail)::value;
        A* to = grad_taps + tap;
        store<kTail>(to, load<kTail>(to, lanes) + V(weight) * load(grad_row_.data() + entry), lanes);
      });
    });
    std::fill(grad_row_.begin(), grad_row_.end(), A(0));
  }

 private:
  struct Column {
    int64_t entry[6];  // of row_, for each kx the lower and the upper source
    A weight[6];
  };

  // f(row of taps, ky, weight) for the low rows that output row y reads.
  template <class F>
  EFPN_INLINE void for_each_low_row(int64_t image, int64_t y, const F& f) const {
    for (int ky = 0; ky < 3; ++ky) {
      if (y + ky < 1 || y + ky > u_.H) continue;
      const auto s = bilinear_source<A>(y + ky - 1, u_.h, u_.H);
      f(image * u_.h + s.index, ky, 1 - s.weight);
      if (s.weight != 0) f(image * u_.h + s.index + 1, ky, s.weight);
    }
  }

  // f(tail, offset in taps, offset in row_, lanes) for the vectors of one low row and ky.
  template <class F>
  EFPN_INLINE void for_each_vector(int64_t low_row, int ky, const F& f) const {
    for (int64_t j = 0; j < u_.w; ++j) {
      for (int kx = 0; kx < 3; ++kx) {
        const int64_t tap = ((low_row * u_.w + j) * 9 + 3 * ky + kx) * u_.D + first_;
        const int64_t entry = (3 * j + kx) * width_;
        int64_t d = 0;
        for (; first_ + d + V::size <= last_; d += V::size) {
          f(std::false_type(), tap + d, entry + d, V::size);
        }
        const int lanes = static_cast<int>(last_ - first_ - d);
        if (lanes > 0) f(std::true_type(), tap + d, entry + d, lanes);
      }
    }
  }

  const Upsampling<A>& u_;
  int64_t first_, last_, width_;
  std::vector<A> row_, grad_row_;
  std::vector<Column> columns_;
};

// gate for rows [begin, end) of all images, numbered image * H + y.
template <class A>
void upsampled_gate_rows(const Upsampling<A>& u, A gate_bias, A* gate, int64_t begin, int64_t end) {
  using V = Vec<A>;
  UpsampledRow<A> row(u, 0, u.D);
  for (int64_t r = begin; r < end; ++r) {
    row.gather(r / u.H, r % u.H);
    for (int64_t x = 0; x < u.W; ++x) {
      V logit(A(0));
      for (int64_t d = 0; d < row.width(); d += V::size) {
        logit += load(u.gate_weight + d) * relu(load(u.bias + d) + row.at(x, d));
      }
      gate[r * u.W + x] = sigmoid(gate_bias + sum(logit));
    }
  }
}

template <class S>
void upsampled_relu_rows(const Upsampling<Acc<S>>& u, const Map& m, S* out, int64_t begin,
                         int64_t end) {
  using V = Vec<Acc<S>>;
  UpsampledRow<Acc<S>> row(u, 0, u.D);
  MapRow<S> tile(m, 0, u.D, row.width());
  for (int64_t r = begin; r < end; ++r) {
    row.gather(r / u.H, r % u.H);
    for (int64_t x = 0; x < u.W; ++x) {
      for (int64_t d = 0; d < row.width(); d += V::size) {
        store(tile.at(x) + d, relu(load(u.bias + d) + row.at(x, d)));
      }
    }
    tile.write(out, r / u.H, r % u.H);
  }
}

// Channels [first, last) of grad_taps of one image. source(x, d) is the gradient of relu(A) at a pixel of
// the row that begin_row(y) has announced, logit(x) the factor of relu(A) in sums[1]. sums: [2, kBlock],
// of the gradient of A (which is that of the bias) and of logit * relu(A).
template <class A, class BeginRow, class Source, class Logit>
EFPN_INLINE void upsampled_backward(const Upsampling<A>& u, UpsampledRow<A>& row, int64_t image,
                                    int64_t first, A* grad_taps, double* sums,
                                    const BeginRow& begin_row, const Source& source,
                                    const Logit& logit) {
  using V = Vec<A>;
  constexpr int64_t kFlush = 32;  // pixels after which sums go from A to double
  const int64_t width = row.width();
  std::vector<A> block(2 * width);
  for (int64_t y = 0; y < u.H; ++y) {
    row.gather(image, y);
    begin_row(y);
    for (int64_t x0 = 0; x0 < u.W; x0 += kFlush) {
      std::fill(block.begin(), block.end(), A(0));
      for (int64_t x = x0; x < std::min(x0 + kFlush, u.W); ++x) {
        for (int64_t d = 0; d < width; d += V::size) {
          const V hidden = relu(load(u.bias + first + d) + row.at(x, d));
          const V grad = select<A>(hidden > V(A(0)), source(x, d), V(A(0)));
          A *grad_sum = block.data() + d, *hidden_sum = grad_sum + width;
          store(grad_sum, load(grad_sum) + grad);
          store(hidden_sum, load(hidden_sum) + V(logit(x)) * hidden);
          row.scatter(x, d, grad);
        }
      }
      for (int64_t d = 0; d < width; ++d) {
        sums[d] += block[d];
        sums[kBlock + d] += block[width + d];
      }
    }
    row.scatter_taps(image, y, grad_taps);
  }
}

template <class A>
void upsampled_gate_backward_block(const Upsampling<A>& u, const A* grad_logit, int64_t image,
                                   int64_t first, int64_t last, A* grad_taps, double* sums) {
  using V = Vec<A>;
  UpsampledRow<A> row(u, first, last);
  const A* dz = nullptr;
  upsampled_backward(
      u, row, image, first, grad_taps, sums,
      [&](int64_t y) { dz = grad_logit + (image * u.H + y) * u.W; },
      [&](int64_t x, int64_t d) { return V(dz[x]) * load(u.gate_weight + first + d); },
      [&](int64_t x) { return dz[x]; });
}

template <class S>
void upsampled_relu_backward_block(const Upsampling<Acc<S>>& u, const Map& m, const S* grad,
                                   int64_t image, int64_t first, int64_t last, Acc<S>* grad_taps,
                                   double* sums) {
  UpsampledRow<Acc<S>> row(u, first, last);
  MapRow<S> tile(m, first, last, row.width());
  upsampled_backward(
      u, row, image, first, grad_taps, sums, [&](int64_t y) { tile.read(grad, image, y); },
      [&](int64_t x, int64_t d) { return load(tile.at(x) + d); },
      [](int64_t) { return Acc<S>(0); });
}

}  // namespace EFPN_ISA
}  // namespace efpn
