// Winograd F(2x2, 3x3) convolutions of the CPU in float32, fused with what stands before and behind.
#include "tensor.h"
#include "winograd.h"

#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EFPN_KERNELS "winograd_kernels.h"
#include "foreach_isa.h"

namespace efpn {
namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Free>;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

Buffer allocate(int64_t floats) {
  auto* p = static_cast<float*>(std::aligned_alloc(64, round_up(std::max<int64_t>(floats, 1) * 4, 64)));
  STD_TORCH_CHECK(p, "out of memory: ", floats * 4, " bytes");
  return Buffer(p);
}

// Rows of `length` floats (zeros if null), each padded with zeros to whole registers.
Buffer padded(const float* rows, int64_t count, int64_t length, int64_t lanes) {
  const int64_t width = round_up(length, lanes);
  Buffer result = allocate(count * width);
  std::memset(result.get(), 0, count * width * sizeof(float));
  for (int64_t i = 0; rows && i < count; ++i) {
    std::memcpy(result.get() + i * width, rows + i * length, length * sizeof(float));
  }
  return result;
}

const WinogradBlocking& blocking() {
  static const WinogradBlocking chosen = EFPN_CALL(winograd_blocking);
  return chosen;
}

int64_t l2_bytes() {
  static const int64_t bytes = [] {
    const long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return std::clamp<int64_t>(reported > 0 ? reported : 1 << 20, 1 << 18, 1 << 22);
  }();
  return bytes;
}

// Tiles of a strip: their transform fills half of a core's second-level cache, and the threads have
// work for two turns. No output depends on it.
int64_t strip_tiles(int64_t tiles, int64_t C) {
  const int64_t rows = blocking().rows, threads = torch::stable::get_num_threads();
  const int64_t tile_bytes = 16 * sizeof(float) * (round_up(C, blocking().lanes) + blocking().columns);
  const int64_t fitting = l2_bytes() / 2 / tile_bytes;
  const int64_t shared = (tiles + 2 * threads - 1) / (2 * threads);
  return std::max<int64_t>(std::min(fitting / rows, (shared + rows - 1) / rows), 1) * rows;
}

int64_t tiles_of(int64_t N, int64_t H, int64_t W) { return N * ((H + 1) / 2) * ((W + 1) / 2); }

// out = conv3x3(in, weight), padding 1.
void convolve(const WinogradInput& in, const WinogradWeight& weight, const WinogradOutput& out) {
  const int64_t tiles = tiles_of(in.N, in.H, in.W);
  if (tiles == 0) return;
  const int64_t depth = round_up(in.C, blocking().lanes);
  const Buffer u = allocate(16 * depth * round_up(out.D, blocking().columns));
  parallel(depth, 8, [&](int64_t begin, int64_t end) {
    EFPN_CALL(winograd_weight, weight, begin, end, u.get());
  });
  const int64_t strip = strip_tiles(tiles, in.C);
  const int64_t floats = EFPN_CALL(winograd_scratch, in.C, strip);
  parallel((tiles + strip - 1) / strip, 1, [&](int64_t begin, int64_t end) {
    const Buffer scratch = allocate(floats);
    std::memset(scratch.get(), 0, floats * sizeof(float));
    EFPN_CALL(winograd_strips, in, out, u.get(), tiles, strip, begin, end, scratch.get());
  });
}

WinogradInput input_of(const Tensor& x) {
  const Map map(x);
  WinogradInput in;
  in.N = map.N, in.C = map.C, in.H = map.H, in.W = map.W;
  in.channels_last = map.channels_last;
  in.x = data<float>(x);
  return in;
}

WinogradOutput output_of(const Tensor& x, int64_t D) {
  const Map map(x);
  WinogradOutput out;
  out.N = map.N, out.D = D, out.H = map.H, out.W = map.W;
  out.channels_last = map.channels_last;
  return out;
}

// weight [D, C, 3, 3] as a map from C to D channels.
WinogradWeight weight_of(const Tensor& weight) {
  return {data<float>(weight), weight.size(1),  weight.size(0),  weight.stride(1),
          weight.stride(0),    weight.stride(2), weight.stride(3)};
}

// Its adjoint, from D to C channels: the taps turned round.
WinogradWeight adjoint_of(const Tensor& weight) {
  const int64_t y = weight.stride(2), x = weight.stride(3);
  return {data<float>(weight) + 2 * y + 2 * x, weight.size(0), weight.size(1), weight.stride(0),
          weight.stride(1), -y, -x};
}

std::tuple<Tensor, Tensor> low_gate_conv(Tensor p_low, Tensor weight, Tensor border, Tensor gate_weight,
                                         Tensor gate_bias, bool keep) {
  const WinogradInput in = input_of(p_low);
  const int64_t lanes = blocking().lanes, D = weight.size(0);
  const int64_t bytes = round_up(D, lanes) / lanes * blocking().bits;
  const Buffer wide_border = padded(data<float>(border), in.N * 9, D, lanes);
  const Buffer wide_weight = padded(data<float>(gate_weight), 1, D, lanes);
  const Tensor gate = empty({in.N, 1, in.H, in.W}, ScalarType::Float);
  const Tensor kept = empty({keep ? in.N * in.H * in.W * bytes : 0}, ScalarType::Byte);
  WinogradOutput out = output_of(p_low, D);
  out.gate = mutable_data<float>(gate);
  out.border = wide_border.get();
  out.gate_weight = wide_weight.get();
  out.gate_bias = *data<float>(gate_bias);
  out.kept = keep ? mutable_data<uint8_t>(kept) : nullptr;
  convolve(in, weight_of(weight), out);
  return {gate, kept};
}

WinogradInput masked(const Tensor& p_low, const Buffer& context, const Tensor& mask) {
  WinogradInput in = input_of(p_low);
  in.kind = WinogradInput::masked;
  in.context = context.get();
  in.mask = data<float>(mask);
  in.mask_is_map = mask.size(1) != 1;
  return in;
}

Buffer padded_context(const Tensor& p_low, const std::optional<Tensor>& context) {
  return padded(context ? data<float>(*context) : nullptr, p_low.size(0), p_low.size(1), blocking().lanes);
}

Tensor refine_conv(Tensor p_low, std::optional<Tensor> context, Tensor mask, Tensor weight, Tensor bias) {
  const int64_t D = weight.size(0);
  const Buffer wide_context = padded_context(p_low, context);
  const Buffer wide_bias = padded(data<float>(bias), 1, D, blocking().lanes);
  WinogradOutput out = output_of(p_low, D);
  const Tensor result = empty({out.N, D, out.H, out.W}, ScalarType::Float, out.channels_last);
  out.map = mutable_data<float>(result);
  out.bias = wide_bias.get();
  convolve(masked(p_low, wide_context, mask), weight_of(weight), out);
  return result;
}

}  // namespace
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("low_gate_conv", TORCH_BOX(&efpn::low_gate_conv));
  m.impl("refine_conv", TORCH_BOX(&efpn::refine_conv));
}
