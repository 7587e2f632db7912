// The convolution of an upsampled map from its low-resolution taps, for one instruction set.
// Include through foreach_isa.h.
#include "../common/bilinear.h"

namespace efpn {
namespace EFPN_ISA {

// A span of pixels of a row that interpolate between the same low-resolution columns.
struct Span {
  int64_t begin, end;
  int64_t entry[6];  // of a row [w, 3, width]: for each kx the lower and the upper source
};
constexpr int64_t kSpan = 16;  // the most pixels of one

// The spans of a row and the weights of each pixel's six entries, zero for taps outside of the
// image.
template <class A>
struct Columns {
  std::vector<Span> spans;
  std::vector<A> weights;  // [W, 6]

  Columns(const Upsampling<A>& u, int64_t width) : weights(u.W * 6) {
    for (int64_t x = 0; x < u.W; ++x) {
      Span span{x, x + 1, {}};
      for (int k = 0; k < 3; ++k) {
        const bool inside = x + k >= 1 && x + k <= u.W;
        const auto s = bilinear_source<A>(std::clamp<int64_t>(x + k - 1, 0, u.W - 1), u.w, u.W);
        span.entry[2 * k] = (3 * s.index + k) * width;
        span.entry[2 * k + 1] = (3 * std::min(s.index + 1, u.w - 1) + k) * width;
        weights[6 * x + 2 * k] = inside ? 1 - s.weight : A(0);
        weights[6 * x + 2 * k + 1] = inside ? s.weight : A(0);
      }
      if (!spans.empty() && x - spans.back().begin < kSpan &&
          std::equal(span.entry, span.entry + 6, spans.back().entry)) {
        spans.back().end = x + 1;
      } else {
        spans.push_back(span);
      }
    }
  }
};

// Row y of A for channels [first, last), and its adjoint. Bilinear interpolation is separable:
// first the taps of the (up to six) low rows that output row y reads are summed into a row [w, 3,
// channels], of which each pixel then sums six entries.
template <class A>
class UpsampledRow {
 public:
  using V = Vec<A>;

  UpsampledRow(const Upsampling<A>& u, int64_t first, int64_t last)
      : u_(u),
        first_(first),
        last_(last),
        width_((last - first + V::size - 1) / V::size * V::size),
        row_(u.w * 3 * width_),
        grad_row_(row_.size()),
        columns_(u, width_) {}

  int64_t width() const { return width_; }  // channels, rounded up to whole vectors

  void gather(int64_t image, int64_t y) {
    const LowRows rows(u_, image, y);
    for_each_vector([&](auto tail, int64_t tap, int64_t entry, int lanes) {
      V value(A(0));
      for (int r = 0; r < rows.count; ++r) {
        value +=
            V(rows.weight[r]) * load<decltype(tail)::value>(u_.taps + rows.tap[r] + tap, lanes);
      }
      store(row_.data() + entry, value);
    });
  }

  // Calls f(x, d, A without the bias) for every pixel and vector of channels, span by span.
  template <class F>
  EFPN_INLINE void for_each(const F& f) const {
    for (const Span& span : columns_.spans) {
      for (int64_t d = 0; d < width_; d += V::size) {
        V entries[6];
        for (int k = 0; k < 6; ++k) entries[k] = load(row_.data() + span.entry[k] + d);
        for (int64_t x = span.begin; x < span.end; ++x) f(x, d, interpolate(entries, x));
      }
    }
  }

  // The same with a gradient: f returns that of A, and scatter_taps() then passes on what came
  // together.
  template <class F>
  EFPN_INLINE void for_each_backward(const F& f) {
    std::fill(grad_row_.begin(), grad_row_.end(), A(0));
    for (const Span& span : columns_.spans) {
      for (int64_t d = 0; d < width_; d += V::size) {
        V entries[6], grads[6];
        for (int k = 0; k < 6; ++k) {
          entries[k] = load(row_.data() + span.entry[k] + d);
          grads[k] = V(A(0));
        }
        for (int64_t x = span.begin; x < span.end; ++x) {
          const V grad = f(x, d, interpolate(entries, x));
          for (int k = 0; k < 6; ++k) grads[k] += V(columns_.weights[6 * x + k]) * grad;
        }
        for (int k = 0; k < 6; ++k) {  // one by one: entries may coincide
          A* r = grad_row_.data() + span.entry[k] + d;
          store(r, load(r) + grads[k]);
        }
      }
    }
  }

  void scatter_taps(int64_t image, int64_t y, A* grad_taps) const {
    const LowRows rows(u_, image, y);
    for (int r = 0; r < rows.count; ++r) {
      for_each_vector([&](auto tail, int64_t tap, int64_t entry, int lanes) {
        constexpr bool kTail = decltype(tail)::value;
        A* to = grad_taps + rows.tap[r] + tap;
        const V grad = V(rows.weight[r]) * load(grad_row_.data() + entry);
        store<kTail>(to, load<kTail>(to, lanes) + grad, lanes);
      });
    }
  }

 private:
  EFPN_INLINE V interpolate(const V* entries, int64_t x) const {
    const A* weights = columns_.weights.data() + 6 * x;
    V value = V(weights[0]) * entries[0];
    for (int k = 1; k < 6; ++k) value += V(weights[k]) * entries[k];
    return value;
  }

  // The rows of taps, one per ky and source, that output row y reads.
  struct LowRows {
    int count = 0;
    int64_t tap[6];
    A weight[6];

    LowRows(const Upsampling<A>& u, int64_t image, int64_t y) {
      for (int ky = 0; ky < 3; ++ky) {
        if (y + ky < 1 || y + ky > u.H) continue;
        const auto s = bilinear_source<A>(y + ky - 1, u.h, u.H);
        add(((image * u.h + s.index) * u.w * 9 + 3 * ky) * u.D, 1 - s.weight);
        if (s.weight != 0) add(((image * u.h + s.index + 1) * u.w * 9 + 3 * ky) * u.D, s.weight);
      }
    }
    void add(int64_t offset, A factor) {
      tap[count] = offset;
      weight[count++] = factor;
    }
  };

  // f(tail, offset in a row of taps, offset in row_, lanes) for every vector of a row.
  template <class F>
  EFPN_INLINE void for_each_vector(const F& f) const {
    for (int64_t j = 0; j < u_.w; ++j) {
      for (int kx = 0; kx < 3; ++kx) {
        const int64_t tap = (9 * j + kx) * u_.D + first_, entry = (3 * j + kx) * width_;
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
  Columns<A> columns_;
};

// gate for rows [begin, end) of all images, numbered image * H + y.
template <class A>
void upsampled_gate_rows(const Upsampling<A>& u, A gate_bias, A* gate, int64_t begin, int64_t end) {
  using V = Vec<A>;
  UpsampledRow<A> row(u, 0, u.D);
  std::vector<A> logits(u.W * V::size);  // a vector per pixel
  for (int64_t r = begin; r < end; ++r) {
    std::fill(logits.begin(), logits.end(), A(0));
    row.gather(r / u.H, r % u.H);
    row.for_each([&](int64_t x, int64_t d, V value) {
      A* logit = logits.data() + x * V::size;
      store(logit, load(logit) + load(u.gate_weight + d) * relu(load(u.bias + d) + value));
    });
    A* out = gate + r * u.W;
    for (int64_t x = 0; x < u.W; ++x) out[x] = sum(load(logits.data() + x * V::size));
    sigmoid_range(out, gate_bias, 0, u.W);
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
    row.for_each([&](int64_t x, int64_t d, V value) {
      store(tile.at(x) + d, relu(load(u.bias + d) + value));
    });
    tile.write(out, r / u.H, r % u.H);
  }
}

// One row of an image, backward. source(x, d) is the gradient of relu(A), logit(x) the factor of
// relu(A) in sums[1]. sums: [2, kBlock], of the gradient of A (which is the bias') and of logit *
// relu(A).
template <class A, class Source, class Logit>
EFPN_INLINE void upsampled_backward_row(const Upsampling<A>& u, UpsampledRow<A>& row, int64_t image,
                                        int64_t y, int64_t first, A* grad_taps, double* sums,
                                        const Source& source, const Logit& logit) {
  using V = Vec<A>;
  A row_sums[2 * kBlock] = {};
  row.gather(image, y);
  row.for_each_backward([&](int64_t x, int64_t d, V value) {
    const V hidden = relu(load(u.bias + first + d) + value);
    const V grad = relu_gradient(hidden, source(x, d));
    A *grad_sum = row_sums + d, *hidden_sum = grad_sum + kBlock;
    store(grad_sum, load(grad_sum) + grad);
    store(hidden_sum, load(hidden_sum) + V(logit(x)) * hidden);
    return grad;
  });
  row.scatter_taps(image, y, grad_taps);
  for (int64_t i = 0; i < 2 * kBlock; ++i) sums[i] += row_sums[i];
}

// Channels [first, last) of the gradients of one image.
template <class A>
void upsampled_gate_backward_block(const Upsampling<A>& u, const A* grad_logit, int64_t image,
                                   int64_t first, int64_t last, A* grad_taps, double* sums) {
  UpsampledRow<A> row(u, first, last);
  for (int64_t y = 0; y < u.H; ++y) {
    const A* logit = grad_logit + (image * u.H + y) * u.W;
    upsampled_backward_row(
        u, row, image, y, first, grad_taps, sums,
        [&](int64_t x, int64_t d) { return Vec<A>(logit[x]) * load(u.gate_weight + first + d); },
        [&](int64_t x) { return logit[x]; });
  }
}

template <class S>
void upsampled_relu_backward_block(const Upsampling<Acc<S>>& u, const Map& m, const S* grad,
                                   int64_t image, int64_t first, int64_t last, Acc<S>* grad_taps,
                                   double* sums) {
  UpsampledRow<Acc<S>> row(u, first, last);
  MapRow<S> tile(m, first, last, row.width());
  for (int64_t y = 0; y < u.H; ++y) {
    tile.read(grad, image, y);
    upsampled_backward_row(
        u, row, image, y, first, grad_taps, sums,
        [&](int64_t x, int64_t d) { return load(tile.at(x) + d); },
        [](int64_t) { return Acc<S>(0); });
  }
}

}  // namespace EFPN_ISA
}  // namespace efpn
