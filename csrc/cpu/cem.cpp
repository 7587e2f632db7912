// CEM on the CPU, Eq. 2-4: global maximum, projection and ReLU; the sum with the low level.
//
// Bytes: pooled_context reads p_high once; context_add reads and writes the low level once,
// spatial_sum reads it once. Operations: one to three per element. Memory's time is all that is
// allowed.
//
// Measured (float32, 256 channels, 200 x 200, one Zen 4 thread with AVX-512, contiguous /
// channels_last, ms): context_add 7.6 / 6.8 (torch's p + q: 21 / 21, a copy into old memory:
// 3.7 / 3.1), spatial_sum 1.4 / 1.7, pooled_context 0.05 / 0.05.
#include <cinttypes>
#include <cstdio>

#include "strips.h"

namespace efpn {

template <class S>
struct ContextGradients {
  int64_t N, C, D;
  const Acc<S>* grad_z;  // [N, D]
  const S* pooled;       // [N, C]
  const S* weight;       // [D, C]
  Acc<S>* grad_weight;   // [D, C]
  double* grad_pooled;   // [N, C], zero before: a sum of D terms in one chain
};

}  // namespace efpn

#define EFPN_KERNELS "cem_kernels.h"
#include "foreach_isa.h"

namespace efpn {
namespace {

// Channels of a channels_last map that one task pools: what it reads of a pixel is a few cache
// lines.
constexpr int64_t kPoolChannels = 64;

template <class S>
void pool(const Map& m, const S* x, S* pooled, int32_t* index) {
  if (!m.channels_last) {
    return parallel(m.N * m.C, kWorkOfElement * m.pixels(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        EFPN_CALL(pool_plane<S>, x + i * m.pixels(), m.pixels(), pooled + i, index + i);
      }
    });
  }
  const int64_t blocks = (m.C + kPoolChannels - 1) / kPoolChannels;
  parallel(m.N * blocks, kWorkOfElement * kPoolChannels * m.pixels(),
           [&](int64_t begin, int64_t end) {
             for (int64_t i = begin; i < end; ++i) {
               const int64_t n = i / blocks, c = i % blocks * kPoolChannels;
               EFPN_CALL(pool_channels<S>, x + n * m.pixels() * m.C, m.pixels(), m.C, c,
                         std::min(c + kPoolChannels, m.C), pooled + n * m.C, index + n * m.C);
             }
           });
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> pooled_context(const Tensor& p_high, const Tensor& weight,
                                                  const Tensor& bias) {
  const Map m(p_high);
  const ScalarType type = p_high.scalar_type();
  const int64_t D = weight.size(0);
  const Tensor context = empty({m.N, D}, accumulate_type(type));
  const Tensor pooled = empty({m.N, m.C}, type);
  const Tensor index = empty({m.N, m.C}, ScalarType::Int);
  dispatch(type, "pooled_context", [&](auto zero) {
    using S = decltype(zero);
    pool(m, data<S>(p_high), mutable_data<S>(pooled), mutable_data<int32_t>(index));
    const auto bias_values = accumulated<S>(bias);
    for (int64_t n = 0; n < m.N; ++n) {
      parallel(D, 16 * m.C, [&](int64_t begin, int64_t end) {
        EFPN_CALL(project<S>, data<S>(weight), bias_values.data(), data<S>(pooled) + n * m.C, m.C,
                  mutable_data<Acc<S>>(context) + n * D, begin, end);
      });
    }
  });
  return {context, pooled, index};
}

std::tuple<Tensor, Tensor> pooled_context_backward(const Tensor& grad_context,
                                                   const Tensor& context, const Tensor& pooled,
                                                   const Tensor& index, const Tensor& weight,
                                                   const Tensor& grad_p_high) {
  const Map m(grad_p_high);
  const ScalarType type = pooled.scalar_type(), acc = accumulate_type(type);
  const int64_t D = weight.size(0);
  const Tensor grad_weight = empty({D, m.C}, acc);
  Tensor grad_bias;
  dispatch(type, "pooled_context_backward", [&](auto zero) {
    using S = decltype(zero);
    using A = Acc<S>;
    std::vector<A> grad_z(m.N * D);
    std::vector<double> grad_pooled(m.N * m.C), bias_total(D);
    for (int64_t i = 0; i < m.N * D; ++i) {
      grad_z[i] = host::relu_gradient(data<A>(context)[i], data<A>(grad_context)[i]);
      bias_total[i % D] += grad_z[i];
    }
    const ContextGradients<S> a{m.N,
                                m.C,
                                D,
                                grad_z.data(),
                                data<S>(pooled),
                                data<S>(weight),
                                mutable_data<A>(grad_weight),
                                grad_pooled.data()};
    parallel(m.C, 16 * m.N * D,
             [&](int64_t begin, int64_t end) { EFPN_CALL(project_backward<S>, a, begin, end); });
    S* grad = mutable_data<S>(grad_p_high);
    for (int64_t i = 0; i < m.N * m.C; ++i) {
      const int64_t n = i / m.C, c = i % m.C, p = data<int32_t>(index)[i];
      S& element = grad[m.channels_last ? (n * m.pixels() + p) * m.C + c : i * m.pixels() + p];
      element = static_cast<S>(static_cast<A>(static_cast<A>(element) + grad_pooled[i]));
    }
    grad_bias = tensor_of<A>(bias_total.data(), {D}, acc);
  });
  return {grad_weight, grad_bias};
}

namespace {

// The bytes of the last cache, as the kernel tells them: sysconf() counts those of a whole AMD
// processor, of which a core sees a part.
int64_t last_cache() {
  int64_t kib = 0;
  if (std::FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    if (std::fscanf(file, "%" SCNd64 "K", &kib) != 1) kib = 0;
    std::fclose(file);
  }
  return std::max<int64_t>(kib << 10, 1 << 25);
}

// Whether to write a map past the caches: one that is larger than they are, and whose vectors of up
// to 64 bytes are all aligned and whole.
bool streams(const Map& m, const Tensor& out) {
  static const int64_t cache = last_cache();
  const int64_t run = m.channels_last ? m.C : m.pixels();
  return out.numel() * static_cast<int64_t>(out.element_size()) > cache &&
         run * out.element_size() % 64 == 0 &&
         reinterpret_cast<uintptr_t>(out.data_ptr()) % 64 == 0;
}

}  // namespace

Tensor context_add(const Tensor& p_low, const Tensor& context) {
  const Map m(p_low);
  const Tensor out = empty_map_like(p_low);
  const bool streamed = streams(m, out);
  dispatch(p_low.scalar_type(), "context_add", [&](auto zero) {
    using S = decltype(zero);
    Strips(m).parallel_for_each([&](int64_t, const Strip& strip) {
      EFPN_CALL(context_add_strip<S>, m, data<S>(p_low), data<Acc<S>>(context),
                mutable_data<S>(out), strip, streamed);
    });
  });
  return out;
}

Tensor spatial_sum(const Tensor& x) {
  const Map m(x);
  const Strips strips(m);
  StripSums sums(strips, m.C);
  Tensor out;
  dispatch(x.scalar_type(), "spatial_sum", [&](auto zero) {
    using S = decltype(zero);
    strips.parallel_for_each([&](int64_t i, const Strip& strip) {
      EFPN_CALL(spatial_sum_strip<S>, m, data<S>(x), strip, sums[i]);
    });
    out = tensor_of<Acc<S>>(sums.per_image().data(), {m.N, m.C}, accumulate_type(x.scalar_type()));
  });
  return out;
}

}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CPU, m) {
  m.impl("pooled_context", TORCH_BOX(&efpn::pooled_context));
  m.impl("pooled_context_backward", TORCH_BOX(&efpn::pooled_context_backward));
  m.impl("context_add", TORCH_BOX(&efpn::context_add));
  m.impl("spatial_sum", TORCH_BOX(&efpn::spatial_sum));
}
