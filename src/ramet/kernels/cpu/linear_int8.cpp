// The int8 kind: unsigned activations times signed weights, summed exactly in 32 bits.
//
// Knows tiles of a few rows by one panel, whose sums stay in registers over all inputs; refuses to know
// how the work is divided. Integer sums are exact (and wrap, which cancels), so tile shapes are free.
#include "linear.h"
#include "quantize.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ramet {
namespace {

// What a tile reads: `rows` of activations and one panel of `groups` times 4 inputs.
struct Tile {
  const uint8_t* x;
  int64_t stride;
  const int8_t* panel;
  int64_t groups;
};

using Sums = int32_t[kPanel];

inline int32_t four(const uint8_t* x) {
  int32_t value;
  std::memcpy(&value, x, 4);
  return value;
}

#if defined(__AVX512VNNI__)
constexpr int kMostRows = 12;  // 24 registers of sums, 2 of weights, 1 of activations

template <int M>
void multiply(const Tile& t, Sums* sums) {
  __m512i sum[M][2];
RAMET_UNROLL
  for (int r = 0; r < M; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  const int64_t stride = t.stride;
  const uint8_t* x[(M + 2) / 3];  // one pointer for three rows: the others are stride and 2 stride off
RAMET_UNROLL
  for (int i = 0; i < (M + 2) / 3; ++i) x[i] = t.x + 3 * i * stride;
  const int8_t* w = t.panel;
  for (int64_t k = 0; k < 4 * t.groups; k += 4, w += 4 * kPanel) {
    const __m512i left = _mm512_load_si512(w), right = _mm512_load_si512(w + 64);
    _mm_prefetch(reinterpret_cast<const char*>(w + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(w + 2048 + 64), _MM_HINT_T0);
RAMET_UNROLL
    for (int r = 0; r < M; ++r) {
      const __m512i value = _mm512_set1_epi32(four(x[r / 3] + r % 3 * stride + k));
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], value, left);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], value, right);
    }
  }
RAMET_UNROLL
  for (int r = 0; r < M; ++r) {
    _mm512_storeu_si512(sums[r], sum[r][0]);
    _mm512_storeu_si512(sums[r] + 16, sum[r][1]);
  }
}

#elif defined(__AVX2__)
constexpr int kMostRows = 4;  // 8 registers of sums, 4 of weights, 2 of activations

// Two products of bytes do not fit in the 16 bits of vpmaddubsw: bytes are widened to 16 bits, those at
// even places and those at odd ones, and summed in pairs by vpmaddwd.
template <int M>
void multiply_half(const Tile& t, int half, Sums* sums) {
  __m256i sum[M][2];
RAMET_UNROLL
  for (int r = 0; r < M; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
  const __m256i low_bytes = _mm256_set1_epi16(0xFF);
  const int8_t* w = t.panel + half * 64;
  for (int64_t k = 0; k < 4 * t.groups; k += 4, w += 4 * kPanel) {
    __m256i even[2], odd[2];
RAMET_UNROLL
    for (int v = 0; v < 2; ++v) {
      const __m256i both = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 32 * v));
      even[v] = _mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8);
      odd[v] = _mm256_srai_epi16(both, 8);
    }
RAMET_UNROLL
    for (int r = 0; r < M; ++r) {
      const __m256i both = _mm256_set1_epi32(four(t.x + r * t.stride + k));
      const __m256i x_even = _mm256_and_si256(both, low_bytes);
      const __m256i x_odd = _mm256_srli_epi16(both, 8);
RAMET_UNROLL
      for (int v = 0; v < 2; ++v) {
        const __m256i pair = _mm256_add_epi32(_mm256_madd_epi16(x_even, even[v]),
                                              _mm256_madd_epi16(x_odd, odd[v]));
        sum[r][v] = _mm256_add_epi32(sum[r][v], pair);
      }
    }
  }
RAMET_UNROLL
  for (int r = 0; r < M; ++r) {
RAMET_UNROLL
    for (int v = 0; v < 2; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[r] + 16 * half + 8 * v), sum[r][v]);
    }
  }
}

template <int M>
void multiply(const Tile& t, Sums* sums) {
  multiply_half<M>(t, 0, sums);
  multiply_half<M>(t, 1, sums);
}

#else
constexpr int kMostRows = 4;

template <int M>
void multiply(const Tile& t, Sums* sums) {
RAMET_UNROLL
  for (int r = 0; r < M; ++r) {
    for (int c = 0; c < kPanel; ++c) sums[r][c] = 0;
    const int8_t* w = t.panel;
    for (int64_t k = 0; k < 4 * t.groups; k += 4, w += 4 * kPanel) {
      const uint8_t* x = t.x + r * t.stride + k;
      const int32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
      for (int c = 0; c < kPanel; ++c) {
        sums[r][c] += x0 * w[4 * c] + x1 * w[4 * c + 1] + x2 * w[4 * c + 2] + x3 * w[4 * c + 3];
      }
    }
  }
}
#endif

using Multiply = void (*)(const Tile&, Sums*);

#if defined(__AVX512VNNI__)
constexpr Multiply kMultiply[] = {
    multiply<1>, multiply<2>, multiply<3>, multiply<4>,  multiply<5>,  multiply<6>,
    multiply<7>, multiply<8>, multiply<9>, multiply<10>, multiply<11>, multiply<12>};
#else
constexpr Multiply kMultiply[] = {multiply<1>, multiply<2>, multiply<3>, multiply<4>};
#endif

// The columns of y that one panel makes.
struct Columns {
  const float* scale;
  const int32_t* offsets;
  const float* bias;
  int64_t count;
};

// `count` is a constant where a panel is full, and the loops become two vectors.
inline void finish_columns(const Columns& c, const int32_t* sums, float row_scale, int64_t count, bool add,
                           float* y) {
  const auto value = [&](int64_t i) {
    return static_cast<float>(sums[i] + c.offsets[i]) * (row_scale * c.scale[i]);
  };
  if (c.bias == nullptr && !add) {
    for (int64_t i = 0; i < count; ++i) y[i] = value(i);
  } else if (c.bias == nullptr) {
    for (int64_t i = 0; i < count; ++i) y[i] += value(i);
  } else if (add) {
    for (int64_t i = 0; i < count; ++i) y[i] += value(i) + c.bias[i];
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = value(i) + c.bias[i];
  }
}

inline void finish_row(const Columns& c, const int32_t* sums, float row_scale, bool add, float* y) {
  if (c.count == kPanel) {
    finish_columns(c, sums, row_scale, kPanel, add, y);
  } else {
    finish_columns(c, sums, row_scale, c.count, add, y);
  }
}

}  // namespace

void int8_block(const Linear& layer, const Rows& x, const Block& block, float* y, int64_t y_stride,
                bool add) {
  const int64_t groups = (layer.in_features + 3) / 4, stride = quantized_stride(layer.in_features);
  const auto* weight = static_cast<const int8_t*>(layer.weight);
  const int64_t rows = block.last_row - block.first_row;
  const int64_t tiles = (rows + kMostRows - 1) / kMostRows;
  alignas(64) Sums sums[kMostRows];
  for (int64_t panel = block.first_panel; panel < block.last_panel; ++panel) {
    const int64_t column = panel * kPanel;
    const Columns columns{layer.scale + column, layer.offsets + column,
                          layer.bias == nullptr ? nullptr : layer.bias + column,
                          layer.out_features - column < kPanel ? layer.out_features - column : kPanel};
    for (int64_t tile = 0; tile < tiles; ++tile) {  // even sizes: a tile of one row would starve
      const int64_t first = block.first_row + rows * tile / tiles;
      const int64_t last = block.first_row + rows * (tile + 1) / tiles;
      const Tile t{x.quantized + first * stride, stride, weight + column * 4 * groups, groups};
      kMultiply[last - first - 1](t, sums);
      for (int64_t row = first; row < last; ++row) {
        finish_row(columns, sums[row - first], x.scales[row], add, y + row * y_stride + column);
      }
    }
  }
}

}  // namespace ramet
