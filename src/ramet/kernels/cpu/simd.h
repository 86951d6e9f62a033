// Vectors of floats at three levels: AVX-512, AVX2, and what a compiler makes of four lanes.
//
// Knows instructions; refuses to know what is computed with them. Every function is defined lane by lane
// or folds lanes by halves (x[i] + x[i + n/2], again and again), so the width does not show in the
// results, except that a processor without fused multiply-add rounds `fma` twice.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC 12 warns of its own header's undefined values
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#endif

namespace ramet::simd {

// IEEE half precision as it lies in memory.
struct Half {
  uint16_t bits;
};

// The upper half of a float as it lies in memory.
struct Bfloat {
  uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(Bfloat x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// To nearest, ties to even; a NaN stays one. Loops over it become vectors.
inline Bfloat to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? bits >> 16 | 64 : rounded)};
}

inline float to_float(Half h) {
#if defined(__F16C__)
  return _cvtsh_ss(h.bits);
#else
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000) << 16, rest = h.bits & 0x7FFF;
  uint32_t wide = (rest << 13) + (112u << 23);     // exponent bias 15 -> 127
  if (rest >= 0x7C00) wide += 112u << 23;          // infinity and NaN keep the highest exponent
  float value;
  std::memcpy(&value, &wide, 4);
  if (rest < 0x0400) value = static_cast<float>(rest) * 0x1p-24f;  // subnormal
  std::memcpy(&wide, &value, 4);
  wide |= sign;
  std::memcpy(&value, &wide, 4);
  return value;
#endif
}

// a * b + c in one lane, rounded as `fma` of vectors rounds.
inline float fma_lane(float a, float b, float c) {
#if defined(__FMA__) || defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline void prefetch(const void* address) { __builtin_prefetch(address); }

#if defined(__AVX512F__)

using Vec = __m512;
constexpr int kWidth = 16;

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load(const Bfloat* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec broadcast(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec round(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// The first n lanes of x, the others `fill`; any n.
inline Vec keep(Vec x, int n, Vec fill) {
  const __mmask16 first = n >= 16 ? 0xFFFF : n <= 0 ? 0 : (1u << n) - 1;
  return _mm512_mask_mov_ps(fill, first, x);
}

// p * 2 ** n where x is at least -126 or NaN, else 0; n is x rounded to an integer.
inline Vec scale_or_zero(Vec p, Vec n, Vec x) {
  const __mmask16 keeps = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(keeps, p, n);
}

template <class Fold>
inline float fold(Vec x, Fold f) {
  const __m512 half = f(x, _mm512_shuffle_f32x4(x, x, 0x4E));
  const __m512 quarter = f(half, _mm512_shuffle_f32x4(half, half, 0xB1));
  const __m512 two = f(quarter, _mm512_permute_ps(quarter, 0x4E));
  return _mm512_cvtss_f32(f(two, _mm512_permute_ps(two, 0xB1)));
}

inline __m512 four_rows(const float* const* rows, int64_t column) {
  const __m512 a = _mm512_castps128_ps512(_mm_loadu_ps(rows[0] + column));
  const __m512 b = _mm512_insertf32x4(a, _mm_loadu_ps(rows[4] + column), 1);
  const __m512 c = _mm512_insertf32x4(b, _mm_loadu_ps(rows[8] + column), 2);
  return _mm512_insertf32x4(c, _mm_loadu_ps(rows[12] + column), 3);
}

// out[j * stride + i] = rows[i][column + j] for i, j < kWidth.
inline void transpose(const float* const* rows, int64_t column, float* out, int64_t stride) {
  for (int j = 0; j < 16; j += 4, column += 4, out += 4 * stride) {
    const __m512 r0 = four_rows(rows, column), r1 = four_rows(rows + 1, column);
    const __m512 r2 = four_rows(rows + 2, column), r3 = four_rows(rows + 3, column);
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1));
    const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
    store(out, _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
    store(out + stride, _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
    store(out + 2 * stride, _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
    store(out + 3 * stride, _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
  }
}

inline __m256i two_rows(const Half* a, const Half* b) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
  const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

// Eight columns of sixteen rows, transposed as halves and widened at the end.
inline void transpose(const Half* const* rows, int64_t column, float* out, int64_t stride) {
  for (int j = 0; j < 16; j += 8, column += 8, out += 8 * stride) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = two_rows(rows[i] + column, rows[i + 8] + column);
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm256_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
      b[i + 4] = _mm256_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_unpacklo_epi32(b[i], b[i + 1]);
      a[i + 1] = _mm256_unpackhi_epi32(b[i], b[i + 1]);
      a[i + 2] = _mm256_unpacklo_epi32(b[i + 2], b[i + 3]);
      a[i + 3] = _mm256_unpackhi_epi32(b[i + 2], b[i + 3]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int k = 0; k < 2; ++k) {
        const __m256i even = _mm256_unpacklo_epi64(a[i + k], a[i + k + 2]);
        const __m256i odd = _mm256_unpackhi_epi64(a[i + k], a[i + k + 2]);
        store(out + (i + 2 * k) * stride, _mm512_cvtph_ps(even));
        store(out + (i + 2 * k + 1) * stride, _mm512_cvtph_ps(odd));
      }
    }
  }
}

// Where the processor has no products of bfloat16: keys are widened first.
inline void transpose(const Bfloat* const* rows, int64_t column, float* out, int64_t stride) {
  alignas(64) float wide[16 * 16];
  const float* wide_rows[16];
  for (int i = 0; i < 16; ++i) {
    store(wide + 16 * i, load(rows[i] + column));
    wide_rows[i] = wide + 16 * i;
  }
  transpose(wide_rows, 0, out, stride);
}

#elif defined(__AVX2__)

using Vec = __m256;
constexpr int kWidth = 8;

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec load(const Bfloat* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline Vec broadcast(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec round(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

inline Vec keep(Vec x, int n, Vec fill) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i first = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
  return _mm256_blendv_ps(fill, x, _mm256_castsi256_ps(first));
}

inline Vec scale_or_zero(Vec p, Vec n, Vec x) {
  const __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  const __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(power, 23));
  const __m256 keeps = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ);
  return _mm256_and_ps(_mm256_mul_ps(p, scale), keeps);
}

template <class Fold>
inline float fold(Vec x, Fold f) {
  const __m256 half = f(x, _mm256_permute2f128_ps(x, x, 1));
  const __m256 two = f(half, _mm256_permute_ps(half, 0x4E));
  return _mm256_cvtss_f32(f(two, _mm256_permute_ps(two, 0xB1)));
}

template <class T>
inline void transpose(const T* const* rows, int64_t column, float* out, int64_t stride) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = load(rows[i] + column);
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
  }
  for (int j = 0; j < 4; ++j) {
    store(out + j * stride, _mm256_permute2f128_ps(a[j], a[j + 4], 0x20));
    store(out + (j + 4) * stride, _mm256_permute2f128_ps(a[j], a[j + 4], 0x31));
  }
}

#else

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(16)));
constexpr int kWidth = 4;

inline Vec load(const float* p) {
  Vec x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline Vec load(const Bfloat* p) {
  return Vec{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
inline Vec load(const Half* p) {
  return Vec{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
inline void store(float* p, Vec x) { std::memcpy(p, &x, sizeof x); }
inline Vec broadcast(float x) { return Vec{x, x, x, x}; }
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__FP_FAST_FMAF)
  return Vec{fma_lane(a[0], b[0], c[0]), fma_lane(a[1], b[1], c[1]), fma_lane(a[2], b[2], c[2]),
             fma_lane(a[3], b[3], c[3])};
#else
  return a * b + c;
#endif
}
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec select(IntVec which, Vec a, Vec b) {
  return reinterpret_cast<Vec>((which & reinterpret_cast<IntVec>(a)) |
                               (~which & reinterpret_cast<IntVec>(b)));
}
inline Vec max(Vec a, Vec b) { return select(a > b, a, b); }
inline Vec round(Vec x) {  // exact for |x| < 2 ** 22
  const Vec shift = broadcast(12582912.0f);
  return (x + shift) - shift;
}

inline Vec keep(Vec x, int n, Vec fill) {
  return select(IntVec{n, n, n, n} > IntVec{0, 1, 2, 3}, x, fill);
}

inline Vec scale_or_zero(Vec p, Vec n, Vec x) {
  const IntVec small = x < broadcast(-126.0f);
  const IntVec power = __builtin_convertvector(select(small, broadcast(0.0f), n), IntVec) + 127;
  return select(small, broadcast(0.0f), p * reinterpret_cast<Vec>(power << 23));
}

template <class Fold>
inline float fold(Vec x, Fold f) {
  const Vec two = f(x, Vec{x[2], x[3], x[0], x[1]});
  return f(two, Vec{two[1], two[0], two[3], two[2]})[0];
}

template <class T>
inline void transpose(const T* const* rows, int64_t column, float* out, int64_t stride) {
  for (int j = 0; j < kWidth; ++j)
    for (int i = 0; i < kWidth; ++i) out[j * stride + i] = to_float(rows[i][column + j]);
}

#endif

inline float largest_lane(Vec x) {
  return fold(x, [](Vec a, Vec b) { return max(a, b); });
}
inline float sum_lanes(Vec x) {
  return fold(x, [](Vec a, Vec b) { return add(a, b); });
}

// 2 ** x for x <= 0, within 2e-7 of its value; below -126 it is 0, NaN stays NaN.
// A polynomial of degree 6, fitted to the relative error on [-1/2, 1/2], with the constant term 1, so that
// 2 ** 0 is 1 exactly.
inline Vec exp2(Vec x) {
  const Vec n = round(x), r = sub(x, n);
  Vec p = broadcast(0x1.41fbbap-13f);
  p = fma(p, r, broadcast(0x1.5f3e54p-10f));
  p = fma(p, r, broadcast(0x1.3b2d4cp-7f));
  p = fma(p, r, broadcast(0x1.c6aee8p-5f));
  p = fma(p, r, broadcast(0x1.ebfbdcp-3f));
  p = fma(p, r, broadcast(0x1.62e430p-1f));
  p = fma(p, r, broadcast(1.0f));
  return scale_or_zero(p, n, x);
}

}  // namespace ramet::simd
