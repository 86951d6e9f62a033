// Activations to 8 bits: one row, one scale.
//
// Knows the rounding rule and the memory form of a quantized row; refuses to know what the row feeds.
// Plain C++ without a floating-point reduction, so every instruction set gives the same bytes.
#pragma once

#include <cstdint>
#include <cstring>

namespace ramet {

// Bytes from one quantized row to the next: whole cache lines and an odd number of them, so that the
// rows of a tile do not fall into the same sets of the first-level cache.
constexpr int64_t quantized_stride(int64_t n) { return (n + 63) / 64 * 64 | 64; }

// A row whose largest magnitude is below this counts as zero: 127 / magnitude could overflow.
constexpr float kTiny = 1e-30f;

// out[i] = 128 + round(x[i] * (127 / max|x|)), ties to even, for i < n, then 128 up to the next multiple
// of 64; *scale = max|x| / 127. A row with a NaN or an infinity gets the scale NaN, so that all that
// is computed from it is NaN.
inline void quantize_row(const float* x, int64_t n, uint8_t* out, float* scale) {
  constexpr int32_t kInfinity = 0x7F800000;
  int32_t largest = 0;  // of the bits without the sign: NaN > infinity > every number, by magnitude
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  std::memset(out + n, 128, (n + 63) / 64 * 64 - n);
  float magnitude;
  std::memcpy(&magnitude, &largest, 4);
  if (largest >= kInfinity || magnitude < kTiny) {
    const int32_t nan = 0x7FC00000;
    std::memcpy(scale, &nan, 4);
    if (largest < kInfinity) *scale = 0.0f;
    std::memset(out, 128, n);
    return;
  }
  const float inverse = 127.0f / magnitude;
  *scale = magnitude / 127.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float rounded = x[i] * inverse + 12582912.0f;  // 1.5 * 2^23: the integer is in the low bits
    uint32_t bits;
    std::memcpy(&bits, &rounded, 4);
    out[i] = static_cast<uint8_t>(bits ^ 128);
  }
}

}  // namespace ramet
