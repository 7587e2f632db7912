// Vec<T>: a register of float or double, for one instruction set. Include through foreach_isa.h.
//
// Built on the compilers' vector extension: plain operators, so one source serves SSE2, AVX2, AVX-512
// and NEON; vec_x86.h adds the few intrinsics that pay. Multiply-add is contracted to FMA where the
// target has it.
namespace efpn {
namespace EFPN_ISA {

// The compiler's vector types of a lane type: its values, the same at any address, and the masks that
// comparisons give.
template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Native __attribute__((vector_size(EFPN_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(EFPN_VECTOR_BYTES), aligned(4)));
  typedef int32_t Mask __attribute__((vector_size(EFPN_VECTOR_BYTES)));
};
template <>
struct Lanes<double> {
  typedef double Native __attribute__((vector_size(EFPN_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(EFPN_VECTOR_BYTES), aligned(8)));
  typedef int64_t Mask __attribute__((vector_size(EFPN_VECTOR_BYTES)));
};

template <class T>
struct Vec {
  static constexpr int size = EFPN_VECTOR_BYTES / sizeof(T);
  using Native = typename Lanes<T>::Native;
  using Mask = typename Lanes<T>::Mask;
  Native v;

  EFPN_INLINE Vec() = default;
  EFPN_INLINE Vec(Native native) : v(native) {}
  EFPN_INLINE Vec(T scalar) : v(scalar - Native{}) {}

  EFPN_INLINE Vec operator-() const { return -v; }
  EFPN_INLINE Vec& operator+=(Vec b) { v += b.v; return *this; }
  EFPN_INLINE Vec& operator-=(Vec b) { v -= b.v; return *this; }
  EFPN_INLINE Vec& operator*=(Vec b) { v *= b.v; return *this; }
  EFPN_INLINE friend Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  EFPN_INLINE friend Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  EFPN_INLINE friend Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  EFPN_INLINE friend Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  EFPN_INLINE friend Mask operator>(Vec a, Vec b) { return a.v > b.v; }
  EFPN_INLINE friend Mask operator<(Vec a, Vec b) { return a.v < b.v; }
  EFPN_INLINE friend Mask operator<=(Vec a, Vec b) { return a.v <= b.v; }
  EFPN_INLINE friend Mask operator==(Vec a, Vec b) { return a.v == b.v; }
};

template <class T>
EFPN_INLINE Vec<T> select(typename Vec<T>::Mask mask, Vec<T> yes, Vec<T> no) {
  return mask ? yes.v : no.v;
}

// max(x, 0) as torch.relu: NaN stays NaN.
template <class T>
EFPN_INLINE Vec<T> relu(Vec<T> x) {
  return select<T>(x < Vec<T>(T(0)), Vec<T>(T(0)), x);
}
template <class T, std::enable_if_t<std::is_floating_point_v<T>, int> = 0>
EFPN_INLINE T relu(T x) {
  return x < T(0) ? T(0) : x;
}

template <class T>
EFPN_INLINE Vec<T> abs(Vec<T> x) {
  return select<T>(x < Vec<T>(T(0)), -x, x);
}

// Sum of the lanes, pairwise: always in the same order.
template <int n, class T>
EFPN_INLINE T sum_lanes(T* lanes) {
  if constexpr (n == 1) {
    return lanes[0];
  } else {
    for (int i = 0; i < n / 2; ++i) lanes[i] += lanes[i + n / 2];
    return sum_lanes<n / 2>(lanes);
  }
}
template <class T>
EFPN_INLINE T sum(Vec<T> x) {
  T lanes[Vec<T>::size];
  std::memcpy(lanes, &x.v, sizeof(lanes));
  return sum_lanes<Vec<T>::size>(lanes);
}

// -|x|.
EFPN_INLINE Vec<float> minus_abs(Vec<float> x) {
  using V = Vec<float>;
  return V((typename V::Native)((typename V::Mask)x.v | INT32_MIN));
}
EFPN_INLINE Vec<double> minus_abs(Vec<double> x) {
  using V = Vec<double>;
  return V((typename V::Native)((typename V::Mask)x.v | INT64_MIN));
}

// max(x, limit); NaN stays NaN.
EFPN_INLINE Vec<float> at_least(Vec<float> x, float limit) {
#if EFPN_X86 && EFPN_VECTOR_BYTES == 64
  return Vec<float>(_mm512_maskz_max_ps(0xFFFF, Vec<float>(limit).v, x.v));
#elif EFPN_X86 && EFPN_VECTOR_BYTES == 32
  return Vec<float>(_mm256_max_ps(Vec<float>(limit).v, x.v));
#else
  return select(x < Vec<float>(limit), Vec<float>(limit), x);
#endif
}

// p 2^n for |n| < 250, rounded once: the result may be subnormal or infinite. `shifted` is n + 1.5 2^23.
EFPN_INLINE Vec<float> times_power(Vec<float> p, Vec<float> n, Vec<float> shifted) {
#if EFPN_X86 && EFPN_VECTOR_BYTES == 64
  return Vec<float>(_mm512_maskz_scalef_ps(0xFFFF, p.v, n.v));
#else
  using V = Vec<float>;
  // Two factors, neither of which is out of range.
  const typename V::Mask exponent = (typename V::Mask)shifted.v - 0x4B400000, half = exponent >> 1;
  const auto power = [](typename V::Mask m) { return (typename V::Native)((m + 127) << 23); };
  return V(p.v * power(half) * power(exponent - half));
#endif
}

// exp to about one unit in the last place for x in [-110, 110]; NaN stays NaN.
EFPN_INLINE Vec<float> exp_within(Vec<float> x) {
  using V = Vec<float>;
  const V magic = V(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const V shifted = x * V(1.44269504f) + magic;
  const V n = shifted - magic;
  V r = x - n * V(0.693145752f);
  r = r - n * V(1.42860677e-6f);
  V p = V(1.38888889e-3f);
  p = p * r + V(8.33333333e-3f);
  p = p * r + V(4.16666667e-2f);
  p = p * r + V(1.66666667e-1f);
  p = p * r + V(0.5f);
  p = p * r + V(1.0f);
  p = p * r + V(1.0f);
  return times_power(p, n, shifted);
}

// exp of any x, to 0 and to infinity at its ends.
EFPN_INLINE Vec<float> exp(Vec<float> x) {
  return exp_within(-at_least(-at_least(x, -110.0f), -110.0f));
}
EFPN_INLINE Vec<float> exp_minus_abs(Vec<float> x) {
  return exp_within(at_least(minus_abs(x), -110.0f));
}

EFPN_INLINE Vec<double> exp(Vec<double> x) {
  double lanes[Vec<double>::size];
  std::memcpy(lanes, &x.v, sizeof(lanes));
  for (double& lane : lanes) lane = std::exp(lane);
  std::memcpy(&x.v, lanes, sizeof(lanes));
  return x;
}
EFPN_INLINE Vec<double> exp_minus_abs(Vec<double> x) { return exp(minus_abs(x)); }

template <class T>
EFPN_INLINE Vec<T> reciprocal(Vec<T> x) {
  return Vec<T>(T(1)) / x;
}

// ---- load and store: storage type S <-> lanes of Acc<S> ------------------------------------------

EFPN_INLINE Vec<float> load(const float* p) {
  return Vec<float>(*reinterpret_cast<const Lanes<float>::Unaligned*>(p));
}
EFPN_INLINE Vec<double> load(const double* p) {
  return Vec<double>(*reinterpret_cast<const Lanes<double>::Unaligned*>(p));
}
EFPN_INLINE void store(float* p, Vec<float> x) {
  *reinterpret_cast<Lanes<float>::Unaligned*>(p) = x.v;
}
EFPN_INLINE void store(double* p, Vec<double> x) {
  *reinterpret_cast<Lanes<double>::Unaligned*>(p) = x.v;
}

typedef uint16_t Half16 __attribute__((vector_size(EFPN_VECTOR_BYTES / 2)));
typedef uint32_t Word32 __attribute__((vector_size(EFPN_VECTOR_BYTES)));

// bfloat16 is the upper half of a float.
EFPN_INLINE Vec<float> widen_bfloat16(Half16 raw) {
  return Vec<float>((typename Vec<float>::Native)(__builtin_convertvector(raw, Word32) << 16));
}
// Round to nearest even; NaN becomes the quiet NaN.
EFPN_INLINE Half16 narrow_bfloat16(Vec<float> x) {
  const Word32 bits = (Word32)x.v;
  const Word32 rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const Word32 nan = (Word32)(x.v != x.v);
  return __builtin_convertvector((rounded & ~nan) | (nan & 0x7FC0), Half16);
}

EFPN_INLINE Vec<float> load(const BFloat16* p) {
  Half16 raw;
  std::memcpy(&raw, p, sizeof(raw));
  return widen_bfloat16(raw);
}
EFPN_INLINE void store(BFloat16* p, Vec<float> x) {
  const Half16 raw = narrow_bfloat16(x);
  std::memcpy(p, &raw, sizeof(raw));
}

#if EFPN_VECTOR_BYTES > 16
#include "vec_x86.h"
#else
EFPN_INLINE Vec<float> load(const Half* p) {
  float lanes[Vec<float>::size];
  for (int i = 0; i < Vec<float>::size; ++i) lanes[i] = static_cast<float>(p[i]);
  return load(lanes);
}
EFPN_INLINE void store(Half* p, Vec<float> x) {
  float lanes[Vec<float>::size];
  store(lanes, x);
  for (int i = 0; i < Vec<float>::size; ++i) p[i] = static_cast<Half>(lanes[i]);
}
#endif

// The first n lanes; the others are zero (load) or left alone (store).
template <class S>
EFPN_INLINE Vec<Acc<S>> load(const S* p, int n) {
  S lanes[Vec<Acc<S>>::size] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(static_cast<const S*>(lanes));
}
template <class S>
EFPN_INLINE void store(S* p, Vec<Acc<S>> x, int n) {
  S lanes[Vec<Acc<S>>::size];
  store(static_cast<S*>(lanes), x);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

// A whole vector, or with `tail` its first n lanes.
template <bool tail, class S>
EFPN_INLINE Vec<Acc<S>> load(const S* p, int n) {
  if constexpr (tail) return load(p, n);
  return load(p);
}
template <bool tail, class S>
EFPN_INLINE void store(S* p, Vec<Acc<S>> x, int n) {
  if constexpr (tail) return store(p, x, n);
  store(p, x);
}

// x <- sigmoid(bias + x) over [begin, end).
template <class T>
EFPN_INLINE void sigmoid_range(T* x, T bias, int64_t begin, int64_t end) {
  using V = Vec<T>;
  int64_t i = begin;
  for (; i + V::size <= end; i += V::size) store(x + i, sigmoid(V(bias) + load(x + i)));
  const int n = static_cast<int>(end - i);
  if (n > 0) store(x + i, sigmoid(V(bias) + load(x + i, n)), n);
}

}  // namespace EFPN_ISA
}  // namespace efpn
