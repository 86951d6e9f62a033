// Attention of a tile in bfloat16 products with fp32 sums: what an instruction set with vdpbf16ps offers.
//
// Knows one tile's queries, keys and values; refuses to know plans and where a result goes on to. Queries
// and weights are rounded to bfloat16 as keys and values are. A multiply-add takes two elements at a time:
// neighbours of the head dimension in scores, neighbouring positions in weighted values, an even one
// and the next. Pairs begin at even positions of a 64-block, so they are the same in every tile.
#pragma once

#include "attention_loops.h"

#if defined(__AVX512BF16__)

namespace ramet {

inline __m512bh as_pairs(__m512i x) { return reinterpret_cast<__m512bh>(x); }
inline __m512bh broadcast_pair(uint32_t x) { return as_pairs(_mm512_set1_epi32(static_cast<int>(x))); }
inline __m512i load_pairs(const uint32_t* p) { return _mm512_loadu_si512(p); }

// Columns column .. column + 15 of an even row and the next, side by side.
inline __m512i interleave(const Bfloat* even, const Bfloat* odd) {
  const __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
  const __m512i b = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
  return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

struct SlotPairs {
  const Bfloat* base;
  const int64_t* slots;
  int64_t stride;
  int64_t count;
  __m512i at(int64_t pair, int64_t column) const {
    const Bfloat* even = base + slots[2 * pair] * stride + column;
    if (2 * pair + 1 < count) return interleave(even, base + slots[2 * pair + 1] * stride + column);
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
  }
};

struct PackedPairs {
  const uint32_t* base;
  int64_t stride;
  __m512i at(int64_t pair, int64_t column) const { return load_pairs(base + pair * stride + column); }
};

template <int R, int N>
void score_pairs_panel(const uint32_t* q, int64_t units, const uint32_t* k, float* s) {
  __m512 sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < N; ++v) sum[r][v] = _mm512_setzero_ps();
  for (int64_t j = 0; j < units; ++j, k += kBlock) {
    __m512bh y[N];
    for (int v = 0; v < N; ++v) y[v] = as_pairs(load_pairs(k + v * kWidth));
    for (int r = 0; r < R; ++r) {
      const __m512bh x = broadcast_pair(q[r * units + j]);
      for (int v = 0; v < N; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, y[v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < N; ++v) store(s + r * kBlock + v * kWidth, sum[r][v]);
}

template <int R, int N, class Pairs>
void value_pairs_panel(const float* p, const int32_t* counts, const Pairs& pairs, int64_t column,
                       const Sums& to) {
  Vec sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < N; ++v) sum[r][v] = _mm512_setzero_ps();
  const auto* weights = reinterpret_cast<const uint32_t*>(p);
  int64_t common = counts[0];
  for (int r = 1; r < R; ++r) common = std::min<int64_t>(common, counts[r]);
  common /= 2;
  for (int64_t i = 0; i < common; ++i) {
    __m512bh y[N];
    for (int v = 0; v < N; ++v) y[v] = as_pairs(pairs.at(i, column + v * kWidth));
    for (int r = 0; r < R; ++r) {
      const __m512bh x = broadcast_pair(weights[r * kBlock + i]);
      for (int v = 0; v < N; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, y[v]);
    }
  }
  for (int r = 0; r < R; ++r) {  // what only some of the rows see: it must not touch the others
    for (int64_t i = common; 2 * i < counts[r]; ++i) {
      const __m512bh x = broadcast_pair(weights[r * kBlock + i]);
      const __m512i seen = _mm512_set1_epi32(2 * i + 1 < counts[r] ? -1 : 0xFFFF);
      for (int v = 0; v < N; ++v) {
        const __m512i y = _mm512_and_si512(seen, pairs.at(i, column + v * kWidth));
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, as_pairs(y));
      }
    }
  }
  merge_panel<R, N>(sum, column, to);
}

template <int R, class Pairs>
void value_pairs(const float* p, const int32_t* counts, const Pairs& pairs, int64_t d, const Sums& to) {
  const int64_t vectors = (d + kWidth - 1) / kWidth;
  int64_t v = 0;
  for (; v + kPanel <= vectors; v += kPanel)
    value_pairs_panel<R, kPanel>(p, counts, pairs, v * kWidth, to);
  if (v + 2 <= vectors) {
    value_pairs_panel<R, 2>(p, counts, pairs, v * kWidth, to);
    v += 2;
  }
  if (v < vectors) value_pairs_panel<R, 1>(p, counts, pairs, v * kWidth, to);
}

// See FloatArithmetic. A row's weights take the first half of the place of its scores.
struct BfloatArithmetic {
  using Unit = uint32_t;
  static int64_t query_units(int64_t d) { return (d + 1) / 2; }
  static constexpr int64_t kValueRows = kBlock / 2;

  static void put_query(const float* from, int64_t d, float scale, uint32_t* to) {
    int64_t i = 0;
    for (; i + 2 * kWidth <= d; i += 2 * kWidth, to += kWidth) {
      const Vec low = mul(load(from + i), broadcast(scale));
      const Vec high = mul(load(from + i + kWidth), broadcast(scale));
      _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
    for (; i < d; i += 2) {
      const uint32_t low = to_bfloat(from[i] * scale).bits;
      const uint32_t high = i + 1 < d ? to_bfloat(from[i + 1] * scale).bits : 0;
      *to++ = low | high << 16;
    }
  }

  static void pack_keys(const Bfloat* const* rows, int64_t d, uint32_t* k) {
    int64_t j = 0;
    for (; 2 * (j + kWidth) <= d; j += kWidth)
      transpose(reinterpret_cast<const float* const*>(rows), j, reinterpret_cast<float*>(k + j * kBlock), kBlock);
    for (; 2 * j < d; ++j) {
      for (int i = 0; i < kWidth; ++i) {
        const uint32_t high = 2 * j + 1 < d ? rows[i][2 * j + 1].bits : 0;
        k[j * kBlock + i] = rows[i][2 * j].bits | high << 16;
      }
    }
  }

  template <int R>
  static void score(const uint32_t* q, const uint32_t* k, int64_t units, int64_t count, float* s) {
    const int64_t vectors = (count + kWidth - 1) / kWidth;
    int64_t v = 0;
    if (v + 4 <= vectors) score_pairs_panel<R, 4>(q, units, k, s), v += 4;
    if (v + 2 <= vectors) score_pairs_panel<R, 2>(q, units, k + v * kWidth, s + v * kWidth), v += 2;
    if (v < vectors) score_pairs_panel<R, 1>(q, units, k + v * kWidth, s + v * kWidth);
  }

  // The sum is that of the rounded weights, so they make up one.
  static void weigh(float* s, int count, float* largest, float* sum) {
    constexpr int kVectors = kBlock / kWidth;
    const Vec nothing = broadcast(-INFINITY);
    Vec x[kVectors];
    for (int v = 0; v < kVectors; ++v) x[v] = keep(load(s + v * kWidth), count - v * kWidth, nothing);
    const Vec top = max(max(x[0], x[2]), max(x[1], x[3]));
    *largest = std::max(-FLT_MAX, largest_lane(top));
    const Vec shift = broadcast(*largest);
    for (int v = 0; v < kVectors; v += 2) {
      const __m512bh both = _mm512_cvtne2ps_pbh(exp2(sub(x[v + 1], shift)), exp2(sub(x[v], shift)));
      const __m512i bits = reinterpret_cast<__m512i>(both);
      _mm512_storeu_si512(reinterpret_cast<uint32_t*>(s) + v / 2 * kWidth, bits);
      x[v] = add(reinterpret_cast<Vec>(_mm512_slli_epi32(bits, 16)),
                 reinterpret_cast<Vec>(_mm512_and_si512(bits, _mm512_set1_epi32(-65536))));
    }
    *sum = sum_lanes(add(x[0], x[2]));
  }

  static void pack_values(const Bfloat* values, const int64_t* slots, int64_t stride, int64_t count,
                          int64_t d, uint32_t* v) {
    const int64_t width = padded(d);
    const SlotPairs pairs{values, slots, stride, count};
    for (int64_t i = 0; 2 * i < count; ++i) {
      uint32_t* row = v + i * width;
      int64_t j = 0;
      for (; j + kWidth <= d; j += kWidth) _mm512_storeu_si512(row + j, pairs.at(i, j));
      for (; j < width; ++j) {
        const uint32_t low = j < d ? values[slots[2 * i] * stride + j].bits : 0;
        const bool both = j < d && 2 * i + 1 < count;
        const uint32_t high = both ? values[slots[2 * i + 1] * stride + j].bits : 0;
        row[j] = low | high << 16;
      }
    }
  }

  template <int R>
  static void add_packed(const float* p, const int32_t* counts, const uint32_t* v, int64_t d, const Sums& to) {
    value_pairs<R>(p, counts, PackedPairs{v, padded(d)}, d, to);
  }

  template <int R>
  static void add_slots(const float* p, const int32_t* counts, const Bfloat* values, const int64_t* slots,
                        int64_t stride, int64_t count, int64_t d, const Sums& to) {
    value_pairs<R>(p, counts, SlotPairs{values, slots, stride, count}, d, to);
  }
};

}  // namespace ramet

#endif
