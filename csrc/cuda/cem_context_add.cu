// The broadcast add of CEM, Eq. 4, and its adjoint, the sum over pixels.
//
// context_add  bytes: p_low read, out written. [1, 256, 200, 200] bf16: 41 MB, 9.5 us at 4.3 TB/s.
//              Measured on an H200 (benchmarks/results/nvidia-h200/kernels.json): 14 us channels_last. A
//              vector reads its context in 16 bytes, once for a thread: as eight strided words it took 20.
// spatial_sum  bytes: the map read once: 20.5 MB, 4.8 us; two stages (channel_sum.cuh). Measured: 14 us.
#include "channel_sum.cuh"
#include "map.cuh"

namespace efpn {
namespace cuda {
namespace {

template <class T, int V, bool channels_last>
struct ContextAdd {
  const T* p_low;
  const Acc<T>* context;
  T* out;
  int64_t C;

  using Loaded = Storage<T, V>;
  using Channel = Vec<Acc<T>, V>;
  __device__ __forceinline__ Loaded load(const At& at) const {
    return load_raw<V>(p_low + at.offset);
  }
  __device__ __forceinline__ Channel channel(const At& at) const {
    return context_at<channels_last, V>(context, at, C);
  }
  __device__ __forceinline__ void apply(const At& at, const Loaded& loaded,
                                        const Channel& g) const {
    Vec<Acc<T>, V> x = widen<V>(loaded);
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] += g[i];
    store(out + at.offset, x);
  }
};

}  // namespace

Tensor context_add(const Tensor& p_low, const Tensor& context) {
  const Stream stream(p_low);
  const Map m(p_low);
  Tensor out = stream.empty_like(p_low);
  dispatch(p_low.scalar_type(), "context_add", [&](auto t) {
    using T = typename decltype(t)::type;
    const T* in = data<T>(p_low);
    T* to = data<T>(out);
    const Acc<T>* g = data<Acc<T>>(context);
    dispatch_width<T>(wide_map<T>(m, {in, to, g}), [&](auto v) {
      dispatch_bool(m.channels_last, [&](auto last) {
        constexpr int V = decltype(v)::value;
        constexpr bool L = decltype(last)::value;
        launch_map<L, V>(stream, m, ContextAdd<T, V, L>{in, g, to, m.C});
      });
    });
  });
  return out;
}

namespace {

template <class T, int V, bool channels_last>
struct Identity {
  const T* x;

  using Loaded = Storage<T, V>;
  using Channel = NoChannel;
  __device__ __forceinline__ Loaded load(const At& at) const { return load_raw<V>(x + at.offset); }
  __device__ __forceinline__ Channel channel(const At&) const { return {}; }
  __device__ __forceinline__ void apply(const At&, const Loaded& loaded, Channel,
                                        Vec<Acc<T>, V>& sum) const {
    const Vec<Acc<T>, V> value = widen<V>(loaded);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += value[i];
  }
};

}  // namespace

Tensor spatial_sum(const Tensor& x) {
  const Stream stream(x);
  const Map m(x);
  Tensor out = stream.empty({m.N, m.C}, accumulate_type(x.scalar_type()));
  dispatch(x.scalar_type(), "spatial_sum", [&](auto t) {
    using T = typename decltype(t)::type;
    const T* in = data<T>(x);
    dispatch_width<T>(wide_map<T>(m, {in}), [&](auto v) {
      dispatch_bool(m.channels_last, [&](auto last) {
        constexpr int V = decltype(v)::value;
        constexpr bool L = decltype(last)::value;
        channel_sums<T, L, V>(stream, m, Identity<T, V, L>{in}, data<Acc<T>>(out), m.N);
      });
    });
  });
  return out;
}

}  // namespace cuda
}  // namespace efpn

STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m) {
  m.impl("context_add", TORCH_BOX(&efpn::cuda::context_add));
  m.impl("spatial_sum", TORCH_BOX(&efpn::cuda::spatial_sum));
}
