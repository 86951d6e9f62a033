// Packing weights, dividing a product among threads, and the entries that Python calls.
#include "linear.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "quantize.h"

namespace ramet {
namespace {

constexpr int64_t kRowBytes = 256 << 10;    // activations of a block: they stay in the second-level cache
constexpr int64_t kPanelBytes = 128 << 10;  // weights of a block, at least, where there are many
constexpr int64_t kTasksPerThread = 6;      // at least, so that both cores end at the same time

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t padded_in(int32_t kind, int64_t num_in) {
  return kind == kInt8 ? divide_up(num_in, 4) * 4 : num_in;
}

int64_t element_bytes(int32_t kind) { return kind == kInt8 ? 1 : kind == kFp16 ? 2 : 4; }

// weight [out, in] -> panels; `group` inputs of a column lie side by side.
template <typename Element>
void pack(const Element* weight, int64_t num_in, int64_t num_out, int64_t group, Element* out) {
  const int64_t groups = divide_up(num_in, group);
  std::memset(out, 0, divide_up(num_out, kPanel) * kPanel * groups * group * sizeof(Element));
  parallel_for(divide_up(num_out, kPanel), [&](int64_t panel, int) {
    Element* base = out + panel * kPanel * groups * group;
    const int64_t first = panel * kPanel, last = std::min(first + kPanel, num_out);
    for (int64_t column = first; column < last; ++column) {
      for (int64_t k = 0; k < num_in; ++k) {
        base[(k / group * kPanel + column - first) * group + k % group] = weight[column * num_in + k];
      }
    }
  });
}

void quantize_rows(const float* x, int64_t stride, int64_t rows, int64_t n, uint8_t* out,
                   float* scales) {
  const int64_t piece = std::max<int64_t>(1, 16384 / n);
  parallel_for(divide_up(rows, piece), [&](int64_t task, int) {
    for (int64_t row = task * piece; row < std::min(rows, (task + 1) * piece); ++row) {
      quantize_row(x + row * stride, n, out + row * quantized_stride(n), scales + row);
    }
  });
}

}  // namespace

void linear(const Linear& layer, const Rows& x, int64_t rows, float* y, int64_t y_stride, bool add) {
  if (rows <= 0) return;
  const int64_t panels = divide_up(layer.out_features, kPanel);
  const int64_t bytes_in = layer.in_features * (layer.kind == kInt8 ? 1 : 4);
  const int64_t bytes_panel = kPanel * layer.in_features * element_bytes(layer.kind);
  const int64_t row_blocks = divide_up(rows, std::max<int64_t>(24, kRowBytes / bytes_in));
  const int64_t wanted = divide_up(kTasksPerThread * num_threads(), row_blocks);
  const int64_t per_task = std::max<int64_t>(1, std::min(panels / wanted, kPanelBytes * 4 / bytes_panel));
  const int64_t column_blocks = divide_up(panels, per_task);
  parallel_for(row_blocks * column_blocks, [&](int64_t task, int) {
    // Weights in the outer loop: they are the larger part, and come from memory once.
    const int64_t r = task % row_blocks, c = task / row_blocks;
    const Block block{rows * r / row_blocks, rows * (r + 1) / row_blocks, panels * c / column_blocks,
                      panels * (c + 1) / column_blocks};
    (layer.kind == kInt8 ? int8_block : float_block)(layer, x, block, y, y_stride, add);
  });
}

}  // namespace ramet

extern "C" {
using ramet::Linear;

// Bytes of a packed weight.
int64_t ramet_linear_bytes(int32_t kind, int64_t num_in, int64_t num_out) {
  using namespace ramet;
  return divide_up(num_out, kPanel) * kPanel * padded_in(kind, num_in) * element_bytes(kind);
}

// weight [out, in] in the elements of `kind` (int8, fp16, fp32) -> `packed`. `offsets` [out]: int8 only.
void ramet_linear_pack(int32_t kind, const void* weight, int64_t num_in, int64_t num_out, void* packed,
                       int32_t* offsets) {
  using namespace ramet;
  const Exclusive lock;
  if (kind == kFp16) {
    pack(static_cast<const uint16_t*>(weight), num_in, num_out, 1, static_cast<uint16_t*>(packed));
  } else if (kind == kFp32) {
    pack(static_cast<const float*>(weight), num_in, num_out, 1, static_cast<float*>(packed));
  } else {
    const auto* bytes = static_cast<const int8_t*>(weight);
    pack(bytes, num_in, num_out, 4, static_cast<int8_t*>(packed));
    for (int64_t column = 0; column < num_out; ++column) {
      int32_t sum = 0;
      for (int64_t k = 0; k < num_in; ++k) sum += bytes[column * num_in + k];
      offsets[column] = -128 * sum;
    }
  }
}

// y [rows, out] (+)= x [rows, in] times the layer; both float32, rows x_stride and y_stride floats apart.
void ramet_linear(const Linear* layer, const float* x, int64_t x_stride, int64_t rows, float* y,
                  int64_t y_stride, int32_t add, int32_t threads) {
  using namespace ramet;
  const Exclusive lock;
  set_num_threads(threads);
  if (rows <= 0) return;
  Rows input{x, x_stride, nullptr, nullptr};
  if (layer->kind == kInt8) {
    const int64_t n = layer->in_features;
    const size_t scale_bytes = divide_up(rows * sizeof(float), 64) * 64;
    auto* scales = static_cast<float*>(scratch(0, 3, scale_bytes + rows * quantized_stride(n)));
    auto* quantized = reinterpret_cast<uint8_t*>(scales) + scale_bytes;
    quantize_rows(x, x_stride, rows, n, quantized, scales);
    input.quantized = quantized;
    input.scales = scales;
  }
  linear(*layer, input, rows, y, y_stride, add != 0);
}
}
