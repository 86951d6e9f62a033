// Attention of a tile in fp32 arithmetic, over keys and values of any type that `load` widens.
//
// Knows one tile's queries, keys and values; refuses to know plans and where a result goes on to.
#pragma once

#include "attention_loops.h"

namespace ramet {

// ---- values, as they are or copied

template <class T>
struct SlotRows {
  const T* base;
  const int64_t* slots;
  int64_t stride;
  Vec at(int64_t i, int64_t column) const { return load(base + slots[i] * stride + column); }
};

struct PackedRows {
  const float* base;
  int64_t stride;
  Vec at(int64_t i, int64_t column) const { return load(base + i * stride + column); }
};

// ---- scores of a block: s[r, i] = sum over j of q[r, j] * k[j, i]

template <int R, int N>
void score_panel(const float* q, int64_t q_stride, const float* k, int64_t d, float* s) {
  Vec sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < N; ++v) sum[r][v] = broadcast(0.0f);
  for (int64_t j = 0; j < d; ++j, k += kBlock) {
    Vec x[R];
    for (int r = 0; r < R; ++r) x[r] = broadcast(q[r * q_stride + j]);
    for (int v = 0; v < N; ++v) {
      const Vec y = load(k + v * kWidth);
      for (int r = 0; r < R; ++r) sum[r][v] = fma(x[r], y, sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < N; ++v) store(s + r * kBlock + v * kWidth, sum[r][v]);
}

template <int R>
void score_rows(const float* q, int64_t q_stride, const float* k, int64_t d, int64_t count, float* s) {
  const int64_t vectors = (count + kWidth - 1) / kWidth;
  int64_t v = 0;
  for (; v + kPanel <= vectors; v += kPanel)
    score_panel<R, kPanel>(q, q_stride, k + v * kWidth, d, s + v * kWidth);
  if (v + 2 <= vectors) {
    score_panel<R, 2>(q, q_stride, k + v * kWidth, d, s + v * kWidth);
    v += 2;
  }
  if (v < vectors) score_panel<R, 1>(q, q_stride, k + v * kWidth, d, s + v * kWidth);
}

// ---- weighted values: a[r, c] = sum over i < count[r] of p[r, i] * value[i, c]

template <int R, int N, class Rows>
void value_panel(const float* p, const int32_t* count, const Rows& rows, int64_t column, const Sums& to) {
  Vec sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < N; ++v) sum[r][v] = broadcast(0.0f);
  int64_t common = count[0];
  for (int r = 1; r < R; ++r) common = std::min<int64_t>(common, count[r]);
  for (int64_t i = 0; i < common; ++i) {
    Vec x[R];
    for (int r = 0; r < R; ++r) x[r] = broadcast(p[r * kBlock + i]);
    for (int v = 0; v < N; ++v) {
      const Vec y = rows.at(i, column + v * kWidth);
      for (int r = 0; r < R; ++r) sum[r][v] = fma(x[r], y, sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {  // what only some of the rows see: it must not touch the others
    for (int64_t i = common; i < count[r]; ++i) {
      const Vec x = broadcast(p[r * kBlock + i]);
      for (int v = 0; v < N; ++v) sum[r][v] = fma(x, rows.at(i, column + v * kWidth), sum[r][v]);
    }
  }
  merge_panel<R, N>(sum, column, to);
}

template <int R, class Rows>
void value_rows(const float* p, const int32_t* count, const Rows& rows, int64_t d, const Sums& to) {
  const int64_t vectors = (d + kWidth - 1) / kWidth;
  int64_t v = 0;
  for (; v + kPanel <= vectors; v += kPanel) value_panel<R, kPanel>(p, count, rows, v * kWidth, to);
  if (v + 2 <= vectors) {
    value_panel<R, 2>(p, count, rows, v * kWidth, to);
    v += 2;
  }
  if (v < vectors) value_panel<R, 1>(p, count, rows, v * kWidth, to);
}

// What Worker asks of an arithmetic. A unit is 4 bytes of a query, a key or a value.
template <class T>
struct FloatArithmetic {
  using Unit = float;
  static int64_t query_units(int64_t d) { return d; }
  static constexpr int64_t kValueRows = kBlock;  // of a tile's copied values

  static void put_query(const float* from, int64_t d, float scale, float* to) {
    for (int64_t i = 0; i < d; ++i) to[i] = from[i] * scale;
  }

  // k[j, i] = element j of rows[i], for kWidth rows.
  static void pack_keys(const T* const* rows, int64_t d, float* k) {
    int64_t j = 0;
    for (; j + kWidth <= d; j += kWidth) transpose(rows, j, k + j * kBlock, kBlock);
    for (; j < d; ++j)
      for (int i = 0; i < kWidth; ++i) k[j * kBlock + i] = to_float(rows[i][j]);
  }

  template <int R>
  static void score(const float* q, const float* k, int64_t d, int64_t count, float* s) {
    score_rows<R>(q, d, k, d, count, s);
  }

  static void weigh(float* s, int count, float* largest, float* sum) {
    ramet::weigh(s, count, largest, sum);
  }

  static void pack_values(const T* values, const int64_t* slots, int64_t stride, int64_t count, int64_t d,
                          float* v) {
    const int64_t width = padded(d);
    for (int64_t i = 0; i < count; ++i) {
      const T* from = values + slots[i] * stride;
      float* row = v + i * width;
      int64_t j = 0;
      for (; j + kWidth <= d; j += kWidth) store(row + j, load(from + j));
      for (; j < width; ++j) row[j] = j < d ? to_float(from[j]) : 0.0f;
    }
  }

  template <int R>
  static void add_packed(const float* p, const int32_t* counts, const float* v, int64_t d, const Sums& to) {
    value_rows<R>(p, counts, PackedRows{v, padded(d)}, d, to);
  }

  // The values where they lie; d is a multiple of kWidth.
  template <int R>
  static void add_slots(const float* p, const int32_t* counts, const T* values, const int64_t* slots,
                        int64_t stride, int64_t, int64_t d, const Sums& to) {
    value_rows<R>(p, counts, SlotRows<T>{values, slots, stride}, d, to);
  }
};

}  // namespace ramet
