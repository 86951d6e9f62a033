// Matrix products with packed weights: y = x W^T + bias, every row of y a function of its row of x alone.
//
// Knows three kinds of weights and how they lie in memory; refuses to know what the matrices mean.
// The definition, which every row count, thread count and tile shape follows to the bit:
// - int8: exact integer sums, then y = float(sum) * (row scale * column scale), then + bias. The same
//   bits on every instruction set.
// - fp16, fp32 weights, fp32 arithmetic: one chain of fused multiply-adds per output, over the inputs
//   in order, then + bias. (Without such an instruction, the portable level rounds twice.)
//
// Packed: panels of 32 columns, the last one filled with zeros; within a panel the inputs in order,
// each with its 32 columns side by side. int8 takes four inputs at a time, side by side per column,
// and the inputs are filled up with zeros to a multiple of 4.
#pragma once

#include <cstddef>
#include <cstdint>

// Sums of a tile must lie in registers, and for that every loop over a tile must vanish.
#define RAMET_UNROLL _Pragma("GCC unroll 16")

namespace ramet {

constexpr int64_t kPanel = 32;

enum LinearKind : int32_t { kInt8 = 0, kFp16 = 1, kFp32 = 2 };

// Mirrored by `_Linear` in linear.py. The memory is the caller's, 64-byte aligned.
struct Linear {
  int32_t kind;
  int32_t in_features;
  int32_t out_features;
  const void* weight;      // packed
  const float* scale;      // int8: [out], of a column
  const int32_t* offsets;  // int8: [out], -128 * sum of a column: activations are stored as q + 128
  const float* bias;       // [out] or null
};

// Rows of activations. int8 reads `quantized`, quantized_stride(in) bytes apart and 4-byte aligned, and
// `scales`; the other kinds read `values`, `stride` floats apart.
struct Rows {
  const float* values;
  int64_t stride;
  const uint8_t* quantized;
  const float* scales;
};

// y [rows, out], rows `y_stride` floats apart; `add`: y += instead of y =. The caller holds Exclusive.
void linear(const Linear& layer, const Rows& x, int64_t rows, float* y, int64_t y_stride, bool add);

// The rows and columns of one task: all rows of the range times panels of 32 columns.
struct Block {
  int64_t first_row, last_row, first_panel, last_panel;
};

void int8_block(const Linear& layer, const Rows& x, const Block& block, float* y, int64_t y_stride,
                bool add);
void float_block(const Linear& layer, const Rows& x, const Block& block, float* y, int64_t y_stride,
                 bool add);

}  // namespace ramet
