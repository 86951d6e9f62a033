// One product of bytes by packed weights, in 8 and in 4 bits, as far alike as they can be: what
// reading half the bytes gains and what unpacking and the scales of groups cost.
//
// Panels of 32 columns; per step four inputs of each column. 8 bits: 128 bytes, signed. 4 bits: 64
// bytes, the low halves of them columns 0 .. 15, the high halves columns 16 .. 31, each 8 more than
// the weight. One scale per column and group of kGroup inputs, as weights of 4 bits need.
#include <cstdint>
#include <cstring>

#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace {

constexpr int64_t kColumns = 32, kGroup = 64;

inline __m512i four(const int8_t* x) {
  int32_t value;
  std::memcpy(&value, x, 4);
  return _mm512_set1_epi32(value);
}

template <int M>
void panel8(const uint8_t* x, int64_t n, const int8_t* w, float* y) {
  __m512i sum[M][2] = {};
  for (int64_t k = 0; k < n; k += 4, w += 4 * kColumns) {
    const __m512i left = _mm512_loadu_si512(w), right = _mm512_loadu_si512(w + 64);
    __builtin_prefetch(w + 2048);
    __builtin_prefetch(w + 2112);
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      const __m512i value = four(reinterpret_cast<const int8_t*>(x) + r * n + k);
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], value, left);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], value, right);
    }
  }
  for (int r = 0; r < M; ++r)
    for (int v = 0; v < 2; ++v)
      _mm512_storeu_ps(y + 32 * r + 16 * v, _mm512_cvtepi32_ps(sum[r][v]));
}

// The unsigned operand is the weight here, so the rows are signed; 8 * (sum of a group's inputs) is
// the caller's to subtract, once per row and group, and costs nothing beside this.
template <int M>
void panel4(const int8_t* x, int64_t n, const uint8_t* w, const float* scale, float* y) {
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total[M][2] = {};
  for (int64_t start = 0; start < n; start += kGroup, scale += kColumns) {
    __m512i sum[M][2] = {};
    for (int64_t k = start; k < start + kGroup; k += 4, w += 2 * kColumns) {
      const __m512i both = _mm512_loadu_si512(w);
      __builtin_prefetch(w + 2048);
      const __m512i left = _mm512_and_si512(both, low);
      const __m512i right = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r) {
        const __m512i value = four(x + r * n + k);
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], left, value);
        sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], right, value);
      }
    }
    for (int v = 0; v < 2; ++v) {
      const __m512 s = _mm512_loadu_ps(scale + 16 * v);
      for (int r = 0; r < M; ++r)
        total[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), s, total[r][v]);
    }
  }
  for (int r = 0; r < M; ++r)
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(y + 32 * r + 16 * v, total[r][v]);
}

template <int M>
void run(int bits, const uint8_t* x, int64_t n, int64_t panels, const uint8_t* w,
         const float* scale, float* y) {
  for (int64_t p = 0; p < panels; ++p, y += kColumns * M) {
    if (bits == 8) {
      panel8<M>(x, n, reinterpret_cast<const int8_t*>(w + p * n * kColumns), y);
    } else {
      panel4<M>(reinterpret_cast<const int8_t*>(x), n, w + p * n * kColumns / 2,
                scale + p * n / kGroup * kColumns, y);
    }
  }
}

}  // namespace

extern "C" int64_t int4_group() { return kGroup; }

// y [panels, rows, 32]; n inputs, a multiple of the group. rows: 1, 4 or 8. The calling thread
// alone.
extern "C" void int4_multiply(int32_t bits, int32_t rows, const uint8_t* x, int64_t n,
                              int64_t panels, const uint8_t* w, const float* scale, float* y) {
  if (rows == 1) run<1>(bits, x, n, panels, w, scale, y);
  if (rows == 4) run<4>(bits, x, n, panels, w, scale, y);
  if (rows == 8) run<8>(bits, x, n, panels, w, scale, y);
}

#else
extern "C" int64_t int4_group() { return 0; }
#endif
