// What the loops of attention share, whatever the arithmetic: sizes, groups of rows, softmax, merging.
//
// Knows vectors of scores and sums; refuses to know keys, values, tiles and plans. Attention's two products
// are one kind of loop: some rows of queries (or weights) times a panel of vectors, one multiply-add per
// element and step, in order. How many rows a loop takes at once is a matter of registers and never shows
// in an element's bits, because every element has an accumulator of its own.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"
#include "tiles.h"

namespace ramet {

using namespace simd;

// Rows and vectors that one loop keeps in registers.
constexpr int kPanel = 4;
#if defined(__AVX512F__)
constexpr int kRows = 6;
#else
constexpr int kRows = 3;
#endif
constexpr int kLane = 16;  // arrays in scratch memory begin at multiples of it: a cache line
constexpr int64_t kPackValuesFrom = kRows + 1;  // queries of a tile, from which copying its values pays

inline int64_t padded(int64_t n) { return (n + kLane - 1) / kLane * kLane; }

// Calls f(first, constant) for groups of kRows rows, the last one of fewer.
template <int R = kRows, class F>
void in_groups(int64_t first, int64_t count, const F& f) {
  for (; count >= R; first += R, count -= R) f(first, std::integral_constant<int, R>());
  if constexpr (R > 1) {
    if (count > 0) in_groups<R - 1>(first, count, f);
  }
}

// Where the sums go: kept as they are, or merged with those of earlier blocks.
struct Sums {
  float* out;
  int64_t stride;
  const float* old_scale;  // of each row; nullptr: there is nothing yet to merge with
  const float* new_scale;
};

template <int R, int N>
inline void merge_panel(const Vec (&sum)[R][N], int64_t column, const Sums& to) {
  for (int r = 0; r < R; ++r) {
    float* out = to.out + r * to.stride + column;
    for (int v = 0; v < N; ++v) {
      Vec x = sum[r][v];
      if (to.old_scale != nullptr)
        x = fma(load(out + v * kWidth), broadcast(to.old_scale[r]), mul(x, broadcast(to.new_scale[r])));
      store(out + v * kWidth, x);
    }
  }
}

// ---- softmax of a block

// Turns the first `count` scores of a row into weights relative to the largest; returns it and their sum.
inline void weigh(float* s, int count, float* largest, float* sum) {
  constexpr int kVectors = kBlock / kWidth;
  const Vec nothing = broadcast(-INFINITY);
  Vec x[kVectors], top[kVectors];
  for (int v = 0; v < kVectors; ++v) top[v] = x[v] = keep(load(s + v * kWidth), count - v * kWidth, nothing);
  for (int n = kVectors / 2; n > 0; n /= 2)
    for (int v = 0; v < n; ++v) top[v] = max(top[v], top[v + n]);
  // Scores that are all minus infinity weigh nothing; there is no NaN from inf - inf.
  *largest = std::max(-FLT_MAX, largest_lane(top[0]));
  const Vec shift = broadcast(*largest);
  for (int v = 0; v < kVectors; ++v) {
    x[v] = exp2(sub(x[v], shift));
    store(s + v * kWidth, x[v]);
  }
  for (int n = kVectors / 2; n > 0; n /= 2)
    for (int v = 0; v < n; ++v) x[v] = add(x[v], x[v + n]);
  *sum = sum_lanes(x[0]);
}

// Merges a block's maxima and sums (new_*) into those so far, in one vector of rows. The scales are what
// the sums of values are multiplied by.
inline void merge_vector(float* m, float* l, const float* new_m, const float* new_l, float* old_scale,
                  float* new_scale) {
  const Vec before = load(m), block = load(new_m), now = max(block, before);
  const Vec a = exp2(sub(before, now)), b = exp2(sub(block, now));
  store(m, now);
  store(l, fma(load(l), a, mul(load(new_l), b)));
  store(old_scale, a);
  store(new_scale, b);
}

inline void merge_maxima(int64_t n, float* m, float* l, const float* new_m, const float* new_l, float* old_scale,
                  float* new_scale) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth)
    merge_vector(m + i, l + i, new_m + i, new_l + i, old_scale + i, new_scale + i);
  if (i == n) return;
  const size_t rest = (n - i) * sizeof(float);  // the lanes after it belong to other rows
  float some_m[kWidth] = {}, some_l[kWidth] = {}, block_m[kWidth] = {}, block_l[kWidth] = {};
  std::memcpy(some_m, m + i, rest), std::memcpy(some_l, l + i, rest);
  std::memcpy(block_m, new_m + i, rest), std::memcpy(block_l, new_l + i, rest);
  merge_vector(some_m, some_l, block_m, block_l, old_scale + i, new_scale + i);
  std::memcpy(m + i, some_m, rest), std::memcpy(l + i, some_l, rest);
}

}  // namespace ramet
