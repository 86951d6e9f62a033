// The limits of a core, measured where nothing else can be the limit: arithmetic on registers alone, and
// a stream of loads. Each function does a stated amount of work on the calling thread and is timed by
// peak.py; what it returns only keeps the compiler from leaving the work out.
//
// Enough independent sums are kept to hide the latency of an instruction (4 cycles or so, two ports).
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {
constexpr int kSums = 14;  // with two operands they fit in the 16 registers of AVX2
}

extern "C" {

// Multiplications and additions in one iteration of peak_...; 0: this level has no such instruction.
int64_t peak_fp32_operations() {
#if defined(__AVX512F__)
  return kSums * 16 * 2;
#elif defined(__AVX2__)
  return kSums * 8 * 2;
#else
  return 0;
#endif
}

int64_t peak_bf16_operations() {
#if defined(__AVX512BF16__)
  return kSums * 32 * 2;
#else
  return 0;
#endif
}

int64_t peak_int8_operations() {
#if defined(__AVX512VNNI__)
  return kSums * 64 * 2;
#elif defined(__AVX2__)
  return kSums * 32 * 2;
#else
  return 0;
#endif
}

// Fused multiply-adds.
float peak_fp32(int64_t iterations) {
#if defined(__AVX512F__)
  __m512 sum[kSums];
  const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  for (auto& s : sum) s = b;
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kSums; ++k) sum[k] = _mm512_fmadd_ps(sum[k], a, b);
  }
  float all = 0;
  for (auto& s : sum) all += _mm512_reduce_add_ps(s);
  return all;
#elif defined(__AVX2__)
  __m256 sum[kSums];
  const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
  for (auto& s : sum) s = b;
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kSums; ++k) sum[k] = _mm256_fmadd_ps(sum[k], a, b);
  }
  float all = 0;
  for (auto& s : sum) all += _mm256_cvtss_f32(s);
  return all;
#else
  return static_cast<float>(iterations);
#endif
}

// Products of bfloat16, summed in pairs in fp32.
float peak_bf16(int64_t iterations) {
#if defined(__AVX512BF16__)
  __m512 sum[kSums];
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
  const __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.25f), _mm512_set1_ps(-0.5f));
  for (auto& s : sum) s = _mm512_set1_ps(0.25f);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kSums; ++k) sum[k] = _mm512_dpbf16_ps(sum[k], a, b);
  }
  float all = 0;
  for (auto& s : sum) all += _mm512_reduce_add_ps(s);
  return all;
#else
  return static_cast<float>(iterations);
#endif
}

// Products of unsigned and signed bytes, summed in 32 bits: one instruction with VNNI, else three.
int32_t peak_int8(int64_t iterations) {
#if defined(__AVX512VNNI__)
  __m512i sum[kSums];
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  for (auto& s : sum) s = b;
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kSums; ++k) sum[k] = _mm512_dpbusd_epi32(sum[k], a, b);
  }
  int32_t all = 0;
  for (auto& s : sum) all ^= _mm512_reduce_add_epi32(s);
  return all;
#elif defined(__AVX2__)
  __m256i sum[kSums];
  const __m256i a = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
  for (auto& s : sum) s = one;
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kSums; ++k) {
      const __m256i pairs = _mm256_maddubs_epi16(a, sum[k]);  // depends on the sum: cannot be hoisted
      sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(pairs, one));
    }
  }
  int32_t all = 0;
  for (auto& s : sum) all ^= _mm256_extract_epi32(s, 0);
  return all;
#else
  return static_cast<int32_t>(iterations);
#endif
}

// Reads `count` 64-byte lines.
uint64_t read_lines(const uint64_t* data, int64_t count) {
  uint64_t sum[8] = {};
  for (int64_t i = 0; i < count; ++i, data += 8) {
    __builtin_prefetch(data + 512);
    for (int k = 0; k < 8; ++k) sum[k] ^= data[k];
  }
  uint64_t all = 0;
  for (uint64_t s : sum) all ^= s;
  return all;
}

}  // extern "C"
