// The 1x1 convolutions of a gate per channel, float32: hidden map to gate, and its gradients.
//
// For D = G = 256 and 200 x 200 pixels: 5.2 GFLOP each, of which a training step makes six (the
// high gate's and the low gate's, forward and two gradients). Bytes: a map in, a map out; backward
// reads two and three. Time allowed at 150 GFLOP/s (one AVX-512 core): 35 ms, twice memory's.
#include "pointwise.h"

#include "convolution.h"

#define EFPN_KERNELS "pointwise_kernels.h"
#include "foreach_isa.h"

namespace efpn {
namespace {

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Floats of a strip's input, for the second-level cache beside as much of the weight; and the
// most blocks of registers in a strip.
constexpr int64_t kStripFloats = 1 << 16, kMostBlocks = 16;

// Parts that the pixels of an image are summed in: fixed by the shape, as the parts are added in
// turn.
constexpr int64_t kMostChunks = 32, kLeastPixelsOfChunk = 1024;

WinogradBlocking blocking() { return EFPN_CALL(pointwise_blocking); }

}  // namespace

void pointwise_convolve(const WinogradInput& in, const WinogradWeight& weight,
                        const WinogradOutput& out) {
  const WinogradBlocking block = blocking();
  const int64_t depth = round_up(in.C, block.lanes);
  const Buffer u = allocate(depth * round_up(out.D, block.columns));
  parallel(depth, 8 * out.D, [&](int64_t begin, int64_t end) {
    EFPN_CALL(pointwise_weight, weight, begin, end, u.get());
  });
  const int64_t blocks = std::clamp<int64_t>(kStripFloats / (depth * block.rows), 1, kMostBlocks);
  const int64_t strip = blocks * block.rows;
  const int64_t floats = EFPN_CALL(pointwise_scratch, in.C, strip);
  parallel(in.N * ((in.W + strip - 1) / strip), strip * in.C * out.D,
           [&](int64_t begin, int64_t end) {
             const Buffer scratch = allocate_zeros(floats);
             EFPN_CALL(pointwise_strips, in, out, u.get(), strip, begin, end, scratch.get());
           });
}

void pointwise_weight_gradient(const WinogradInput& in, const WinogradInput& dy,
                               const WinogradWeight& weight, float* grad, float* bias) {
  const int64_t width = round_up(dy.C, blocking().columns);
  const int64_t most = std::max<int64_t>(kMostChunks / std::max<int64_t>(in.N, 1), 1);
  const int64_t wanted = std::clamp<int64_t>(in.W / kLeastPixelsOfChunk, 1, most);
  const int64_t chunk = (in.W + wanted - 1) / wanted;
  const int64_t per_image = in.W ? (in.W + chunk - 1) / chunk : 0, chunks = in.N * per_image;
  std::memset(bias, 0, dy.C * sizeof(float));
  if (chunks == 0) return static_cast<void>(std::memset(grad, 0, in.C * dy.C * sizeof(float)));

  const int64_t floats = EFPN_CALL(pointwise_gradient_floats, in.C, dy.C);
  const Buffer sums = allocate(chunks * floats), bias_sums = allocate(chunks * width);
  parallel(chunks, chunk * in.C * dy.C, [&](int64_t begin, int64_t end) {
    const Buffer scratch = allocate_zeros(EFPN_CALL(pointwise_gradient_scratch, in.C, dy.C));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % per_image * chunk, last = std::min(first + chunk, in.W);
      EFPN_CALL(pointwise_gradient, in, dy, i / per_image, first, last, sums.get() + i * floats,
                bias_sums.get() + i * width, scratch.get());
    }
  });
  parallel(in.C, 8 * chunks * dy.C, [&](int64_t begin, int64_t end) {
    EFPN_CALL(pointwise_gradient_finish, sums.get(), chunks, weight, grad, begin, end);
  });
  for (int64_t i = 0; i < chunks; ++i) {
    for (int64_t d = 0; d < dy.C; ++d) bias[d] += bias_sums.get()[i * width + d];
  }
}

namespace {

// An image as a row of pixels.
template <class Maps>
Maps in_a_row(Maps maps) {
  maps.W *= maps.H;
  maps.H = 1;
  return maps;
}

// weight [G, D, 1, 1] as a map from D to G channels, and its adjoint.
WinogradWeight pointwise_weight_of(const Tensor& weight) {
  return {data<float>(weight), weight.size(1), weight.size(0), 1, weight.size(1), 0, 0};
}
WinogradWeight pointwise_adjoint_of(const Tensor& weight) {
  return {data<float>(weight), weight.size(0), weight.size(1), weight.size(1), 1, 0, 0};
}

}  // namespace

Tensor pointwise_gate_conv(const Tensor& hidden, const Tensor& weight, const Tensor& bias,
                           bool channels_last) {
  const int64_t G = weight.size(0);
  const Tensor gate =
      empty({hidden.size(0), G, hidden.size(2), hidden.size(3)}, ScalarType::Float, channels_last);
  const Buffer wide_bias = pad_to_registers(data<float>(bias), 1, G);
  WinogradOutput out = in_a_row(output_like(gate, G));
  out.map = mutable_data<float>(gate);
  out.bias = wide_bias.get();
  out.sigmoid = true;
  pointwise_convolve(in_a_row(input_of(hidden)), pointwise_weight_of(weight), out);
  return gate;
}

std::tuple<Tensor, Tensor, Tensor> pointwise_gate_conv_backward(const Tensor& grad_gate,
                                                                const Tensor& gate,
                                                                const Tensor& hidden,
                                                                const Tensor& weight) {
  const int64_t G = weight.size(0), D = weight.size(1);
  const WinogradInput grad = in_a_row(input_of(WinogradInput::sigmoid_gradient, grad_gate, gate));
  const Tensor grad_weight = empty({G, D, 1, 1}, ScalarType::Float);
  const Tensor grad_bias = empty({G}, ScalarType::Float);
  pointwise_weight_gradient(in_a_row(input_of(hidden)), grad, pointwise_weight_of(grad_weight),
                            mutable_data<float>(grad_weight), mutable_data<float>(grad_bias));
  const Tensor grad_hidden = empty_map_like(hidden);
  WinogradOutput out = in_a_row(output_like(hidden, D));
  out.map = mutable_data<float>(grad_hidden);
  pointwise_convolve(grad, pointwise_adjoint_of(weight), out);
  return {grad_hidden, grad_weight, grad_bias};
}

}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("pointwise_gate_conv", TORCH_BOX(&efpn::pointwise_gate_conv));
  m.impl("pointwise_gate_conv_backward", TORCH_BOX(&efpn::pointwise_gate_conv_backward));
}
