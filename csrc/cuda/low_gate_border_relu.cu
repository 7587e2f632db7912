// What follows a convolution: the hidden map of a low gate per channel, Eq. 6, border constant and ReLU; bias
// and ReLU of refine, Eq. 8; and the adjoint of the border constants, sums by border class.
//
// border_relu  bytes: conv read, the map written. [1, 256, 200, 200] bf16: 41 MB, 9.5 us at 4.3 TB/s.
// bias_relu_   the same with one constant for each channel, in place: 41 MB, of which what the convolution
//              has just written may still lie in L2.
// border_sum   bytes: the map read once: 20.5 MB, 4.8 us; two stages (border.cuh).
#include "border.cuh"

namespace efpn {
namespace cuda {
namespace {

template <class T, int V, bool channels_last>
struct BorderReLU {
  const T* conv;
  const Acc<T>* border;
  T* out;
  int64_t C, H, W;

  using Loaded = Storage<T, V>;
  __device__ __forceinline__ Loaded load(const At& at) const {
    return load_raw<V>(conv + at.offset);
  }
  // The constants of the inside, where nearly all pixels are.
  using Channel = Vec<Acc<T>, V>;
  __device__ __forceinline__ Channel channel(const At& at) const {
    return inner_border<channels_last, V>(border, at.n, at.c, 1, C);
  }
  __device__ __forceinline__ void apply(const At& at, const Loaded& loaded,
                                        const Channel& inner) const {
    const int64_t y = divide(at.p, W), x = at.p - y * W;
    const int cy = border_class(y, H);
    Vec<Acc<T>, V> z = widen<V>(loaded);
    Vec<Acc<T>, V> constant = inner;
    if (cy != 1 || !inner_columns<channels_last, V>(x, W)) {
      constant = border_at<channels_last, V>(border, at.n, at.c, cy, x, W, C);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) z[v] = relu(z[v] + constant[v]);
    store(out + at.offset, z);
  }
};

}  // namespace

Tensor border_relu(const Tensor& conv, const Tensor& border) {
  const Stream stream(conv);
  const Map m(conv);
  Tensor out = stream.empty_like(conv);
  dispatch(conv.scalar_type(), "border_relu", [&](auto t) {
    using T = typename decltype(t)::type;
    const Acc<T>* constants = data<Acc<T>>(border);
    const T* in = data<T>(conv);
    T* to = data<T>(out);
    dispatch_width<T>(wide_border_map<T>(m, {in, to, constants}), [&](auto v) {
      dispatch_bool(m.channels_last, [&](auto last) {
        constexpr int V = decltype(v)::value;
        constexpr bool L = decltype(last)::value;
        launch_map<L, V>(stream, m, BorderReLU<T, V, L>{in, constants, to, m.C, m.H, m.W});
      });
    });
  });
  return out;
}

namespace {

template <class T, int V, bool channels_last>
struct BiasReLU {
  T* x;
  const T* bias;

  using Loaded = Storage<T, V>;
  __device__ __forceinline__ Loaded load(const At& at) const { return load_raw<V>(x + at.offset); }
  using Channel = Storage<T, channels_last ? V : 1>;
  __device__ __forceinline__ Channel channel(const At& at) const {
    return load_raw<channels_last ? V : 1>(bias + at.c);
  }
  __device__ __forceinline__ void apply(const At& at, const Loaded& loaded,
                                        const Channel& raw_bias) const {
    Vec<Acc<T>, V> z = widen<V>(loaded);
#pragma unroll
    for (int v = 0; v < V; ++v) z[v] = relu(z[v] + widen(raw_bias.v[channels_last ? v : 0]));
    store(x + at.offset, z);
  }
};

}  // namespace

void bias_relu_(const Tensor& x, const Tensor& bias) {
  const Stream stream(x);
  const Map m(x);
  dispatch(x.scalar_type(), "bias_relu_", [&](auto t) {
    using T = typename decltype(t)::type;
    T* map = data<T>(x);
    const T* b = data<T>(bias);
    dispatch_width<T>(wide_map<T>(m, {map, b}), [&](auto v) {
      dispatch_bool(m.channels_last, [&](auto last) {
        constexpr int V = decltype(v)::value;
        constexpr bool L = decltype(last)::value;
        launch_map<L, V>(stream, m, BiasReLU<T, V, L>{map, b});
      });
    });
  });
}

namespace {

template <class T, int V>
struct Identity {
  const T* x;

  using Loaded = Storage<T, V>;
  __device__ __forceinline__ Loaded load(const At& at) const { return load_raw<V>(x + at.offset); }
  using Channel = NoChannel;
  __device__ __forceinline__ Channel channel(const At&, int) const { return {}; }
  __device__ __forceinline__ Vec<Acc<T>, V> apply(const At&, int, int64_t, const Loaded& loaded,
                                                  Channel, Vec<Acc<T>, V>&, Acc<T>&) const {
    return widen<V>(loaded);
  }
};

}  // namespace

Tensor border_sum(const Tensor& grad) {
  const Stream stream(grad);
  const Map m(grad);
  Tensor out = stream.empty({m.N, 3, 3, m.C}, accumulate_type(grad.scalar_type()));
  dispatch(grad.scalar_type(), "border_sum", [&](auto t) {
    using T = typename decltype(t)::type;
    using A = Acc<T>;
    const T* in = data<T>(grad);
    dispatch_width<T>(wide_border_map<T>(m, {in}), [&](auto v) {
      dispatch_bool(m.channels_last, [&](auto last) {
        constexpr int V = decltype(v)::value;
        constexpr bool L = decltype(last)::value;
        class_sums<T, L, V>(stream, m, Identity<T, V>{in}, data<A>(out), static_cast<A*>(nullptr),
                            static_cast<A*>(nullptr));
      });
    });
  });
  return out;
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("border_relu", TORCH_BOX(&efpn::cuda::border_relu));
  m.impl("bias_relu_", TORCH_BOX(&efpn::cuda::bias_relu_));
  m.impl("border_sum", TORCH_BOX(&efpn::cuda::border_sum));
}
