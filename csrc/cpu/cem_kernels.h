// The pooled context and its addition, for one instruction set. Include through foreach_isa.h.
#include "map_loop.h"

namespace efpn {
namespace EFPN_ISA {

// The maximum so far and its position, per lane. NaN wins, the first position stays.
template <class A>
struct Maximum {
  using V = Vec<A>;
  using Mask = typename V::Mask;
  V value;
  Mask position;

  EFPN_INLINE void take(V x, Mask at) {
    const Mask better = (x > value) | ((x.v != x.v) & (value == value));
    value = select<A>(better, x, value);
    position = better ? at : position;
  }
};

// One plane of a contiguous map: lanes hold interleaved positions.
template <class S>
void pool_plane(const S* x, int64_t pixels, S* pooled, int32_t* index) {
  using A = Acc<S>;
  using V = Vec<A>;
  A best = static_cast<A>(x[0]);
  int64_t first = 0, p = 1;
  const auto take = [&](A value, int64_t position) {
    const bool better = value > best || (value != value && best == best);
    const bool earlier = (value == best || value != value) && position < first;
    if (better || earlier) best = value, first = position;
  };
  if (pixels >= 2 * V::size) {
    Maximum<A> maximum{load(x), {}};
    typename V::Mask at;
    for (int i = 0; i < V::size; ++i) maximum.position[i] = at[i] = i;
    for (p = V::size; p + V::size <= pixels; p += V::size) {
      at += V::size;
      maximum.take(load(x + p), at);
    }
    first = pixels;
    best = maximum.value.v[0];
    for (int i = 0; i < V::size; ++i) take(maximum.value.v[i], maximum.position[i]);
  }
  for (; p < pixels; ++p) take(static_cast<A>(x[p]), p);
  *pooled = x[first];
  *index = static_cast<int32_t>(first);
}

// Channels [begin, end) of one image of a channels_last map.
template <class S>
void pool_channels(const S* x, int64_t pixels, int64_t C, int64_t begin, int64_t end, S* pooled,
                   int32_t* index) {
  using V = Vec<Acc<S>>;
  const auto step = [&](auto tail, int64_t c, int lanes) {
    constexpr bool kTail = decltype(tail)::value;
    Maximum<Acc<S>> maximum{load<kTail>(x + c, lanes), {}};
    typename V::Mask at{};
    for (int64_t p = 1; p < pixels; ++p) {
      at += 1;
      maximum.take(load<kTail>(x + p * C + c, lanes), at);
    }
    store<kTail>(pooled + c, maximum.value, lanes);
    for (int i = 0; i < lanes; ++i) index[c + i] = static_cast<int32_t>(maximum.position[i]);
  };
  int64_t c = begin;
  for (; c + V::size <= end; c += V::size) step(std::false_type(), c, V::size);
  if (c < end) step(std::true_type(), c, static_cast<int>(end - c));
}

// context[d] = relu(bias[d] + weight[d, :] . pooled) for d in [begin, end).
template <class S>
void project(const S* weight, const Acc<S>* bias, const S* pooled, int64_t C, Acc<S>* context,
             int64_t begin, int64_t end) {
  using V = Vec<Acc<S>>;
  for (int64_t d = begin; d < end; ++d) {
    const S* w = weight + d * C;
    V dot(Acc<S>(0));
    int64_t c = 0;
    for (; c + V::size <= C; c += V::size) dot += load(w + c) * load(pooled + c);
    if (c < C)
      dot += load(w + c, static_cast<int>(C - c)) * load(pooled + c, static_cast<int>(C - c));
    context[d] = relu(bias[d] + sum(dot));
  }
}

// For channels c in [begin, end) of p_high: grad_weight[:, c] of all images, and grad_pooled[n, c].
template <class S>
void project_backward(const ContextGradients<S>& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  for (int64_t d = 0; d < a.D; ++d) {
    for (int64_t c = begin; c < end; ++c) {
      A grad = 0;
      for (int64_t n = 0; n < a.N; ++n)
        grad += a.grad_z[n * a.D + d] * static_cast<A>(a.pooled[n * a.C + c]);
      a.grad_weight[d * a.C + c] = grad;
      for (int64_t n = 0; n < a.N; ++n) {
        a.grad_pooled[n * a.C + c] +=
            static_cast<double>(a.grad_z[n * a.D + d]) * static_cast<A>(a.weight[d * a.C + c]);
      }
    }
  }
}

// Stores past the caches, so that what is overwritten is not read; p is aligned to the vector.
template <class S>
EFPN_INLINE void stream(S* p, Vec<Acc<S>> x) {
#if EFPN_X86
  if constexpr (std::is_same_v<S, Acc<S>>) {
#if EFPN_VECTOR_BYTES == 64
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)x.v);
#elif EFPN_VECTOR_BYTES == 32
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)x.v);
#else
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)x.v);
#endif
    return;
  }
#endif
  store(p, x);
}

// With `streamed`, every vector of `out` is aligned and whole.
template <class S>
void context_add_strip(const Map& m, const S* p_low, const Acc<S>* context, S* out,
                       const Strip& strip, bool streamed) {
  using V = Vec<Acc<S>>;
  if (streamed) {
    map_pass<S, Pass<0>>(m, strip, [&](auto at) -> Terms<V, 0> {
      stream(out + at.element, at.map(p_low) + at.table(context));
      return {};
    });
#if EFPN_X86
    _mm_sfence();
#endif
    return;
  }
  map_pass<S, Pass<0>>(m, strip, [&](auto at) -> Terms<V, 0> {
    at.set(out, at.map(p_low) + at.table(context));
    return {};
  });
}

template <class S>
void spatial_sum_strip(const Map& m, const S* x, const Strip& strip, double* sums) {
  using V = Vec<Acc<S>>;
  map_pass<S, Pass<1>>(
      m, strip, [&](auto at) -> Terms<V, 1> { return {{at.map(x)}, V(Acc<S>(0))}; }, sums);
}

}  // namespace EFPN_ISA
}  // namespace efpn
