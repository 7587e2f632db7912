// Masked access and float16 for AVX-512 and AVX2. Included by vec.h.

#if EFPN_VECTOR_BYTES == 64

EFPN_INLINE unsigned first_lanes(int n) { return (1u << n) - 1; }

EFPN_INLINE Vec<float> load(const float* p, int n) {
  return Vec<float>(_mm512_maskz_loadu_ps(first_lanes(n), p));
}
EFPN_INLINE void store(float* p, Vec<float> x, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x.v);
}
EFPN_INLINE Vec<double> load(const double* p, int n) {
  return Vec<double>(_mm512_maskz_loadu_pd(first_lanes(n), p));
}
EFPN_INLINE void store(double* p, Vec<double> x, int n) {
  _mm512_mask_storeu_pd(p, first_lanes(n), x.v);
}

// The maskz forms with all lanes: GCC 12 warns of the undefined source of the plain ones.
EFPN_INLINE Vec<float> widen_half(__m256i raw) {
  return Vec<float>(_mm512_maskz_cvtph_ps(0xFFFF, raw));
}
EFPN_INLINE __m256i narrow_half(Vec<float> x) {
  return _mm512_maskz_cvtps_ph(0xFFFF, x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
EFPN_INLINE Vec<float> load(const Half* p) {
  return widen_half(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
EFPN_INLINE void store(Half* p, Vec<float> x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_half(x));
}

EFPN_INLINE Vec<float> load(const Half* p, int n) {
  return widen_half(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
EFPN_INLINE void store(Half* p, Vec<float> x, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_half(x));
}
EFPN_INLINE Vec<float> load(const BFloat16* p, int n) {
  return widen_bfloat16((Half16)_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
EFPN_INLINE void store(BFloat16* p, Vec<float> x, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)narrow_bfloat16(x));
}

#else

EFPN_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
EFPN_INLINE __m256i first_wide_lanes(int n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

EFPN_INLINE Vec<float> load(const float* p, int n) {
  return Vec<float>(_mm256_maskload_ps(p, first_lanes(n)));
}
EFPN_INLINE void store(float* p, Vec<float> x, int n) {
  _mm256_maskstore_ps(p, first_lanes(n), x.v);
}
EFPN_INLINE Vec<double> load(const double* p, int n) {
  return Vec<double>(_mm256_maskload_pd(p, first_wide_lanes(n)));
}
EFPN_INLINE void store(double* p, Vec<double> x, int n) {
  _mm256_maskstore_pd(p, first_wide_lanes(n), x.v);
}

EFPN_INLINE Vec<float> load(const Half* p) {
  return Vec<float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
EFPN_INLINE void store(Half* p, Vec<float> x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}

#endif
