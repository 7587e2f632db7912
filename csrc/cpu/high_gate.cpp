// The high gate on the CPU: nine tap maps interpolated, ReLU, 1x1 gate and sigmoid, with nothing of
// [D, H, W] written; and its adjoint, which recomputes A.
//
// Bytes: taps once (they stay in the cache from row to row), the gate once. Operations per output
// row: 18 w D multiply-adds to interpolate vertically, 7 W D for the pixels; backward, the same
// twice. At x8 that is 95 million multiply-adds forward: 3 ms of one core are allowed, 10 backward.
//
// Measured (float32, D = 256, 25 x 25 to 200 x 200, one Zen 4 thread with AVX-512, ms):
// upsampled_gate 3.6, upsampled_gate_backward 12; per channel, contiguous / channels_last:
// upsampled_relu 20 / 8.4, upsampled_relu_backward 20 / 21.
#include "tensor.h"

namespace efpn {

// Channels of a backward task. Tasks own their part of grad_taps and walk over all rows of an
// image.
constexpr int64_t kBlock = 32;

template <class A>
struct Upsampling {
  int64_t h, w, H, W, D;
  const A* taps;         // [N, h, w, 9, D]
  const A* bias;         // [D], zeros behind
  const A* gate_weight;  // [D], zeros behind
};

// Channels [first, last) of one row of a map, pixel by pixel: [W, width] in Acc<S>.
template <class S>
class MapRow {
 public:
  MapRow(const Map& m, int64_t first, int64_t last, int64_t width)
      : map_(m), first_(first), last_(last), width_(width), values_(m.W * width) {}

  Acc<S>* at(int64_t x) { return values_.data() + x * width_; }
  void read(const S* map, int64_t image, int64_t y) {
    for_each(image, y,
             [&](Acc<S>& value, int64_t offset) { value = static_cast<Acc<S>>(map[offset]); });
  }
  void write(S* map, int64_t image, int64_t y) {
    for_each(image, y, [&](Acc<S>& value, int64_t offset) { map[offset] = static_cast<S>(value); });
  }

 private:
  template <class F>
  void for_each(int64_t image, int64_t y, const F& f) {
    if (map_.channels_last) {
      for (int64_t x = 0; x < map_.W; ++x) {
        const int64_t pixel = ((image * map_.H + y) * map_.W + x) * map_.C;
        for (int64_t c = first_; c < last_; ++c) f(at(x)[c - first_], pixel + c);
      }
      return;
    }
    for (int64_t c = first_; c < last_; ++c) {
      const int64_t row = ((image * map_.C + c) * map_.H + y) * map_.W;
      for (int64_t x = 0; x < map_.W; ++x) f(at(x)[c - first_], row + x);
    }
  }

  Map map_;
  int64_t first_, last_, width_;
  std::vector<Acc<S>> values_;
};

}  // namespace efpn

#define EFPN_KERNELS "high_gate_kernels.h"
#include "foreach_isa.h"

namespace efpn {
namespace {

int64_t blocks_of(int64_t D) { return (D + kBlock - 1) / kBlock; }

// Parameters that any vector at d < D may read.
template <class S>
std::vector<Acc<S>> padded(const Tensor& x) {
  return accumulated<S>(x, blocks_of(x.numel()) * kBlock);
}

template <class A>
Upsampling<A> upsampling(const Tensor& taps, int64_t H, int64_t W, const std::vector<A>& bias,
                         const std::vector<A>& gate_weight) {
  return {taps.size(1), taps.size(2),  H,           W,
          taps.size(4), data<A>(taps), bias.data(), gate_weight.data()};
}

}  // namespace

Tensor upsampled_gate(const Tensor& taps, const Tensor& bias, const Tensor& gate_weight,
                      const Tensor& gate_bias, int64_t H, int64_t W) {
  const Tensor gate = empty({taps.size(0), 1, H, W}, taps.scalar_type());
  dispatch(bias.scalar_type(), "upsampled_gate", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    const auto bias_values = padded<S>(bias), weight = padded<S>(gate_weight);
    const auto u = upsampling<A>(taps, H, W, bias_values, weight);
    const A gate_bias_value = accumulated<S>(gate_bias)[0];
    parallel(taps.size(0) * H, u.D * u.W, [&](int64_t begin, int64_t end) {
      EFPN_CALL(upsampled_gate_rows<A>, u, gate_bias_value, mutable_data<A>(gate), begin, end);
    });
  });
  return gate;
}

namespace {

// Calls f(image, first, last, sums) for every image and block of channels of a map, and returns the
// sums of all images: [2, D], of the gradients of the bias and of the gate's weight.
template <class F>
std::vector<double> for_each_block(int64_t N, int64_t D, int64_t pixels, const F& f) {
  const int64_t blocks = blocks_of(D);
  std::vector<double> sums(N * blocks * 2 * kBlock), total(2 * D);
  parallel(N * blocks, kBlock * pixels, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * kBlock;
      f(i / blocks, first, std::min(first + kBlock, D), sums.data() + i * 2 * kBlock);
    }
  });
  for (int64_t i = 0; i < N * blocks; ++i) {
    const int64_t first = i % blocks * kBlock;
    for (int64_t d = first; d < std::min(first + kBlock, D); ++d) {
      total[d] += sums[i * 2 * kBlock + d - first];
      total[D + d] += sums[(i * 2 + 1) * kBlock + d - first];
    }
  }
  return total;
}

Tensor zeros_like_taps(const Tensor& taps) {
  return zeros({taps.sizes().begin(), taps.sizes().end()}, taps.scalar_type());
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> upsampled_gate_backward(const Tensor& grad_gate,
                                                                   const Tensor& gate,
                                                                   const Tensor& taps,
                                                                   const Tensor& bias,
                                                                   const Tensor& gate_weight) {
  const ScalarType acc = taps.scalar_type();
  const Tensor grad_taps = zeros_like_taps(taps);
  const int64_t D = taps.size(4);
  Tensor grad_bias, grad_weight, grad_gate_bias;
  dispatch(bias.scalar_type(), "upsampled_gate_backward", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    const GateGradient<A> logit(grad_gate, gate);
    const auto bias_values = padded<S>(bias), weight = padded<S>(gate_weight);
    const auto u = upsampling<A>(taps, gate.size(2), gate.size(3), bias_values, weight);
    const auto total = for_each_block(
        taps.size(0), D, u.H * u.W, [&](int64_t image, int64_t first, int64_t last, double* sums) {
          EFPN_CALL(upsampled_gate_backward_block<A>, u, logit.values.data(), image, first, last,
                    mutable_data<A>(grad_taps), sums);
        });
    grad_bias = tensor_of<A>(total.data(), {D}, acc);
    grad_weight = tensor_of<A>(total.data() + D, {D}, acc);
    grad_gate_bias = tensor_of<A>(&logit.sum, {1}, acc);
  });
  return {grad_taps, grad_bias, grad_weight, grad_gate_bias};
}

Tensor upsampled_relu(const Tensor& taps, const Tensor& bias, int64_t H, int64_t W,
                      bool channels_last) {
  const Tensor out = empty({taps.size(0), taps.size(4), H, W}, bias.scalar_type(), channels_last);
  dispatch(bias.scalar_type(), "upsampled_relu", [&](auto zero) {
    using S = decltype(zero);
    const auto bias_values = padded<S>(bias);
    const auto u = upsampling<Acc<S>>(taps, H, W, bias_values, {});
    parallel(taps.size(0) * H, u.D * u.W, [&](int64_t begin, int64_t end) {
      EFPN_CALL(upsampled_relu_rows<S>, u, Map(out), mutable_data<S>(out), begin, end);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> upsampled_relu_backward(const Tensor& grad, const Tensor& taps,
                                                   const Tensor& bias) {
  const Map m(grad);
  const Tensor grad_taps = zeros_like_taps(taps);
  Tensor grad_bias;
  dispatch(bias.scalar_type(), "upsampled_relu_backward", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    const auto bias_values = padded<S>(bias);
    const auto u = upsampling<A>(taps, m.H, m.W, bias_values, {});
    const auto total = for_each_block(
        m.N, m.C, m.pixels(), [&](int64_t image, int64_t first, int64_t last, double* sums) {
          EFPN_CALL(upsampled_relu_backward_block<S>, u, m, data<S>(grad), image, first, last,
                    mutable_data<A>(grad_taps), sums);
        });
    grad_bias = tensor_of<A>(total.data(), {m.C}, taps.scalar_type());
  });
  return {grad_taps, grad_bias};
}

}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("upsampled_gate", TORCH_BOX(&efpn::upsampled_gate));
  m.impl("upsampled_gate_backward", TORCH_BOX(&efpn::upsampled_gate_backward));
  m.impl("upsampled_relu", TORCH_BOX(&efpn::upsampled_relu));
  m.impl("upsampled_relu_backward", TORCH_BOX(&efpn::upsampled_relu_backward));
}
