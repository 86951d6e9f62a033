// What a decoder does to rows between matrix products and attention: norm, rotation, gate.
//
// Knows one row at a time. A sum over a row is taken in 32 lanes, lane i over elements i, i + 32, ...,
// and the lanes are added in one fixed order, so a row's bits depend on that row alone. Loops are plain
// C++ that a compiler turns into vectors of any width without changing a bit: there is no reduction in
// them but the one spelled out, and every fused multiply-add is written as such.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ramet {

constexpr int kLanes = 32;

// a * b + c, fused where the instruction set has it. Without it std::fma is a slow library call, and
// the portable level rounds twice: its bits are its own, and the same for every row count all the same.
inline float madd(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// 1 / root mean square of x, eps added to the mean.
float inverse_rms(const float* x, int64_t n, float eps);

// out = x * scale * weight
inline void scale_row(const float* x, const float* weight, float scale, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// exp for x <= 88, within 2 units in the last place; 0 below -87.3.
inline float exp_lane(float x) {
  const float clamped = x < -87.3f ? -87.3f : x;
  const float shifted = madd(clamped, 1.44269504f, 12582912.0f);  // rounds to an integer in the mantissa
  const float whole = shifted - 12582912.0f;
  float r = madd(whole, -0.693145752f, clamped);
  r = madd(whole, -1.42860677e-6f, r);
  float p = 1.98756912e-4f;
  p = madd(p, r, 1.39819994e-3f);
  p = madd(p, r, 8.33345167e-3f);
  p = madd(p, r, 4.16657962e-2f);
  p = madd(p, r, 1.66666657e-1f);
  p = madd(p, r, 0.5f);
  p = madd(p, r * r, r) + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  const int32_t power = (bits - 0x4B400000 + 127) << 23;
  float scale;
  std::memcpy(&scale, &power, 4);
  return x < -87.3f ? 0.0f : p * scale;
}

// out = silu(gate) * up
inline void silu_mul_row(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = gate[i];
    // x / (1 + exp(-x)); for x < -88 the quotient is 0 to the last bit that matters
    const float e = exp_lane(g < -87.0f ? 87.0f : (g > 87.0f ? -87.0f : -g));
    out[i] = g / (1.0f + e) * up[i];
  }
}

// Rotates one head of d dimensions in place: i and i + d/2 form a plane.
inline void rope_head(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half];
    x[i] = first * cos[i] - second * sin[i];
    x[i + half] = second * cos[i] + first * sin[i];
  }
}

}  // namespace ramet
