// The fp16 and fp32 kinds: fp32 arithmetic, one chain of multiply-adds per output.
//
// Knows tiles of a few rows by one panel, whose chains stay in registers over all inputs; refuses to
// know how the work is divided. A chain is one lane of one register from the first input to the last,
// whatever tile it is in, so a row's bits are its own. fp16 weights become fp32 on their way into a
// register, which costs nothing beside the multiply-adds.
#include "linear.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ramet {
namespace {

#if defined(__AVX512F__)
using Vector = __m512;
constexpr int kMostRows = 12;
constexpr int kVectors = 2;  // columns of a tile, in vectors

inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector load(const float* w) { return _mm512_load_ps(w); }
inline Vector load(const uint16_t* w) {
  return _mm512_maskz_cvtph_ps(0xFFFF, _mm256_load_si256(reinterpret_cast<const __m256i*>(w)));
}
inline Vector broadcast(float x) { return _mm512_set1_ps(x); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline void store(float* y, Vector v) { _mm512_storeu_ps(y, v); }

#elif defined(__AVX2__)
using Vector = __m256;
constexpr int kMostRows = 6;
constexpr int kVectors = 2;

inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector load(const float* w) { return _mm256_load_ps(w); }
inline Vector load(const uint16_t* w) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(w)));
}
inline Vector broadcast(float x) { return _mm256_set1_ps(x); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline void store(float* y, Vector v) { _mm256_storeu_ps(y, v); }

#else
typedef float Vector __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));
constexpr int kMostRows = 3;
constexpr int kVectors = 4;

inline Vector zero() { return Vector{}; }
inline Vector load(const float* w) {
  Vector v;
  std::memcpy(&v, w, sizeof v);
  return v;
}
inline Vector load(const uint16_t* w) {
  const Bits half = {w[0], w[1], w[2], w[3]};
  // Exponent and mantissa in float32's places are 2^-112 of the number, also for subnormals.
  const Bits shifted = (half & 0x7FFF) << 13;
  Vector magnitude = reinterpret_cast<Vector>(shifted) * 5.192296858534828e33f;
  const Bits special = reinterpret_cast<Bits>((half & 0x7C00) == 0x7C00) & 0x7F800000;
  return reinterpret_cast<Vector>(reinterpret_cast<Bits>(magnitude) | special | (half & 0x8000) << 16);
}
inline Vector broadcast(float x) { return Vector{x, x, x, x}; }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
inline void store(float* y, Vector v) { std::memcpy(y, &v, sizeof v); }
#endif

constexpr int kWidth = sizeof(Vector) / sizeof(float);
constexpr int kStrip = kVectors * kWidth;  // columns of a tile: a panel or a part of one

constexpr int64_t kWidenFrom = 3;  // tiles

using Sums = float[kPanel];

// What a tile reads: rows of activations and one panel.
template <typename Weight>
struct Tile {
  const float* x;
  int64_t stride;
  const Weight* panel;
  int64_t num_in;
};

template <int M, typename Weight>
void multiply_strip(const Tile<Weight>& t, int64_t column, Sums* sums) {
  Vector sum[M][kVectors];
RAMET_UNROLL
  for (int r = 0; r < M; ++r) {
RAMET_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[r][v] = zero();
  }
  const int64_t stride = t.stride;
  const float* x[(M + 2) / 3];  // one pointer for three rows: the others are stride and 2 stride off
RAMET_UNROLL
  for (int i = 0; i < (M + 2) / 3; ++i) x[i] = t.x + 3 * i * stride;
  const Weight* w = t.panel + column;
  for (int64_t k = 0; k < t.num_in; ++k, w += kPanel) {
    Vector weights[kVectors];
RAMET_UNROLL
    for (int v = 0; v < kVectors; ++v) weights[v] = load(w + v * kWidth);
RAMET_UNROLL
    for (int r = 0; r < M; ++r) {
      const Vector value = broadcast(x[r / 3][r % 3 * stride + k]);
RAMET_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = multiply_add(value, weights[v], sum[r][v]);
      }
    }
  }
RAMET_UNROLL
  for (int r = 0; r < M; ++r) {
RAMET_UNROLL
    for (int v = 0; v < kVectors; ++v) store(sums[r] + column + v * kWidth, sum[r][v]);
  }
}

template <int M, typename Weight>
void multiply(const Tile<Weight>& t, Sums* sums) {
  for (int64_t column = 0; column < kPanel; column += kStrip) {
    multiply_strip<M>(t, column, sums);
  }
}

template <typename Weight>
using Multiply = void (*)(const Tile<Weight>&, Sums*);

template <typename Weight>
Multiply<Weight> multiply_for(int64_t rows) {
#if defined(__AVX512F__)
  static constexpr Multiply<Weight> table[] = {
      multiply<1, Weight>, multiply<2, Weight>,  multiply<3, Weight>,  multiply<4, Weight>,
      multiply<5, Weight>, multiply<6, Weight>,  multiply<7, Weight>,  multiply<8, Weight>,
      multiply<9, Weight>, multiply<10, Weight>, multiply<11, Weight>, multiply<12, Weight>};
#elif defined(__AVX2__)
  static constexpr Multiply<Weight> table[] = {multiply<1, Weight>, multiply<2, Weight>,
                                               multiply<3, Weight>, multiply<4, Weight>,
                                               multiply<5, Weight>, multiply<6, Weight>};
#else
  static constexpr Multiply<Weight> table[] = {multiply<1, Weight>, multiply<2, Weight>,
                                               multiply<3, Weight>};
#endif
  static_assert(sizeof table / sizeof table[0] == kMostRows, "one function for every size of a tile");
  return table[rows - 1];
}

// `count` is a constant where a panel is full, and the loops become two vectors.
inline void finish_columns(const float* sums, const float* bias, int64_t count, bool add, float* y) {
  if (bias == nullptr && !add) {
    for (int64_t i = 0; i < count; ++i) y[i] = sums[i];
  } else if (bias == nullptr) {
    for (int64_t i = 0; i < count; ++i) y[i] += sums[i];
  } else if (add) {
    for (int64_t i = 0; i < count; ++i) y[i] += sums[i] + bias[i];
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = sums[i] + bias[i];
  }
}

inline void finish_row(const float* sums, const float* bias, int64_t count, bool add, float* y) {
  if (count == kPanel) {
    finish_columns(sums, bias, kPanel, add, y);
  } else {
    finish_columns(sums, bias, count, add, y);
  }
}

// A panel as floats, in memory of this thread: where several tiles read it, widening it once is cheaper.
const float* widened(const uint16_t* panel, int64_t num_in) {
  thread_local std::unique_ptr<float, decltype(&std::free)> memory{nullptr, &std::free};
  thread_local int64_t size = 0;
  if (size < num_in) {
    memory.reset(static_cast<float*>(std::aligned_alloc(64, num_in * kPanel * sizeof(float))));
    size = num_in;
  }
  for (int64_t i = 0; i < num_in * kPanel; i += kWidth) store(memory.get() + i, load(panel + i));
  return memory.get();
}

template <typename Weight>
void block_of(const Linear& layer, const Rows& x, const Block& block, float* y, int64_t y_stride,
              bool add) {
  const auto* weight = static_cast<const Weight*>(layer.weight);
  const int64_t rows = block.last_row - block.first_row;
  const int64_t tiles = (rows + kMostRows - 1) / kMostRows;
  alignas(64) Sums sums[kMostRows];
  for (int64_t panel = block.first_panel; panel < block.last_panel; ++panel) {
    const int64_t column = panel * kPanel;
    const float* bias = layer.bias == nullptr ? nullptr : layer.bias + column;
    const int64_t left = layer.out_features - column, count = left < kPanel ? left : kPanel;
    const Weight* packed = weight + column * layer.in_features;
    const float* wide = nullptr;
    if constexpr (std::is_same_v<Weight, uint16_t>) {
      if (tiles >= kWidenFrom) wide = widened(packed, layer.in_features);
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {  // even sizes: a tile of one row would starve
      const int64_t first = block.first_row + rows * tile / tiles;
      const int64_t last = block.first_row + rows * (tile + 1) / tiles;
      const float* from = x.values + first * x.stride;
      if (wide != nullptr) {
        multiply_for<float>(last - first)({from, x.stride, wide, layer.in_features}, sums);
      } else {
        multiply_for<Weight>(last - first)({from, x.stride, packed, layer.in_features}, sums);
      }
      for (int64_t row = first; row < last; ++row) {
        finish_row(sums[row - first], bias, count, add, y + row * y_stride + column);
      }
    }
  }
}

}  // namespace

void float_block(const Linear& layer, const Rows& x, const Block& block, float* y, int64_t y_stride,
                 bool add) {
  if (layer.kind == kFp16) {
    block_of<uint16_t>(layer, x, block, y, y_stride, add);
  } else {
    block_of<float>(layer, x, block, y, y_stride, add);
  }
}

}  // namespace ramet
