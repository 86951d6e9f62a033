// The forward pass of a decoder as one call: embedding, layers, final norm, logits.
//
// The meaning is Decoder.forward in models/decoder.py, operation by operation; here the operations of a
// row that follow each other are done while the row is in cache, and nothing returns to Python between
// them. Knows layers and KV slots; refuses to know files, requests and how a plan came about.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

#include "attention.h"
#include "linear.h"
#include "parallel.h"
#include "pointwise.h"
#include "quantize.h"
#include "simd.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace ramet {
namespace {

// Rows of an MLP that are computed together: their gate and up columns stay in the caches.
constexpr int64_t kMlpRows = 256;
// Rows of one task of a row-wise operation.
constexpr int64_t kTaskRows = 8;

// A growing array of numbers that nobody wrote yet, 64-byte aligned.
template <typename T>
class Buffer {
 public:
  T* at_least(int64_t count) {
    if (count > size_) {
      std::free(data_);
      const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 4095) / 4096 * 4096;
      data_ = static_cast<T*>(std::aligned_alloc(4096, bytes));
      size_ = static_cast<int64_t>(bytes / sizeof(T));
    }
    return data_;
  }
  ~Buffer() { std::free(data_); }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

void for_rows(int64_t rows, const std::function<void(int64_t row, int thread)>& work) {
  parallel_for((rows + kTaskRows - 1) / kTaskRows, [&](int64_t task, int thread) {
    const int64_t stop = std::min(rows, (task + 1) * kTaskRows);
    for (int64_t row = task * kTaskRows; row < stop; ++row) work(row, thread);
  });
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  uint32_t rest = bits & 0x7FFF;
  if (rest >= 0x7C00) {
    rest = 0x7F800000u | ((rest & 0x3FFu) << 13);
  } else if (rest >= 0x0400) {
    rest = (rest << 13) + 0x38000000u;
  } else {  // a subnormal: an integer times 2^-24
    const float value = static_cast<float>(rest) * 5.9604644775390625e-8f;
    std::memcpy(&rest, &value, 4);
  }
  const uint32_t all = sign | rest;
  float value;
  std::memcpy(&value, &all, 4);
  return value;
}

uint16_t float_to_half(float value) {  // rounds to nearest, ties to even
#if defined(__F16C__)
  return static_cast<uint16_t>(_cvtss_sh(value, 0));
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  bits &= 0x7FFFFFFF;
  if (bits > 0x7F800000) return sign | 0x7E00;
  if (bits >= 0x477FF000) return sign | 0x7C00;
  if (bits < 0x38800000) {
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 16777216.0f));
  }
  const uint32_t odd = (bits >> 13) & 1;
  return sign | static_cast<uint16_t>((bits + 0xFFF + odd - 0x38000000u) >> 13);
#endif
}

enum class EmbeddingType : int32_t { float32 = 0, float16 = 1 };

struct Layer {
  const float* input_norm;
  const float* qk_norm;  // [heads + kv_heads, head_dim] or null
  const float* post_norm;
  Linear qkv, o, gate_up, down;
};

struct Shape {
  int32_t num_layers, hidden, num_heads, num_kv_heads, head_dim, intermediate, vocab;
  int32_t embedding_type, kv_type;
  float eps;
};

// What a matrix product reads: rows in the form that the weights want.
class Input {
 public:
  // Makes room for `rows` rows of n numbers; `quantized` says which form `put` writes.
  void begin(int64_t rows, int64_t n, bool quantized) {
    n_ = n;
    quantized_ = quantized;
    if (quantized) {
      bytes_.at_least(rows * quantized_stride(n));
      scales_.at_least(rows);
    } else {
      values_.at_least(rows * n);
    }
  }
  // Where a row's numbers are to be written before `put(row)`; `own` is scratch for the quantized form.
  float* target(int64_t row, float* own) { return quantized_ ? own : values() + row * n_; }
  void put(int64_t row, const float* x) {
    if (quantized_) {
      quantize_row(x, n_, bytes() + row * quantized_stride(n_), scales() + row);
    } else if (x != values() + row * n_) {
      std::memcpy(values() + row * n_, x, sizeof(float) * n_);
    }
  }
  Rows rows() { return Rows{values(), n_, bytes(), scales()}; }

 private:
  float* values() { return values_.at_least(0); }
  uint8_t* bytes() { return bytes_.at_least(0); }
  float* scales() { return scales_.at_least(0); }
  Buffer<float> values_, scales_;
  Buffer<uint8_t> bytes_;
  int64_t n_ = 0;
  bool quantized_ = false;
};

struct Model {
  Shape shape;
  const void* embedding;
  const float* final_norm;
  const float* cos;  // [positions, head_dim / 2]
  const float* sin;
  Linear lm_head;
  std::unique_ptr<Layer[]> layers;
  Buffer<float> x, qkv, attended, gate_up, kept;
  Input input;
};

struct Step {
  int64_t rows;
  const int64_t* token_ids;
  const int64_t* positions;
  const int64_t* out_slots;
  const AttentionPlan* plan;
  void* const* keys;  // of each layer, [slots, kv_heads, head_dim]
  void* const* values;
  int64_t num_logits;
  const int64_t* logit_rows;
  float* logits;  // [num_logits, vocab]
};

float* row_scratch(int thread, int64_t n) {
  return static_cast<float*>(scratch(thread, 3, sizeof(float) * static_cast<size_t>(n)));
}

void embed(const Model& m, const Step& s, float* x) {
  const int64_t n = m.shape.hidden;
  for_rows(s.rows, [&](int64_t row, int) {
    const int64_t start = s.token_ids[row] * n;
    if (m.shape.embedding_type == static_cast<int32_t>(EmbeddingType::float32)) {
      std::memcpy(x + row * n, static_cast<const float*>(m.embedding) + start, sizeof(float) * n);
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(m.embedding) + start;
      for (int64_t i = 0; i < n; ++i) x[row * n + i] = half_to_float(from[i]);
    }
  });
}

void norm_rows(Model& m, const float* x, int64_t rows, const float* weight, const Linear& reader) {
  const int64_t n = m.shape.hidden;
  m.input.begin(rows, n, reader.kind == kInt8);
  for_rows(rows, [&](int64_t row, int thread) {
    float* out = m.input.target(row, row_scratch(thread, n));
    scale_row(x + row * n, weight, inverse_rms(x + row * n, n, m.shape.eps), n, out);
    m.input.put(row, out);
  });
}

void write_kv(const Shape& c, void* pool, int64_t slot, const float* from) {
  const int64_t n = static_cast<int64_t>(c.num_kv_heads) * c.head_dim;
  switch (static_cast<KvType>(c.kv_type)) {
    case KvType::kFloat32:
      std::memcpy(static_cast<float*>(pool) + slot * n, from, sizeof(float) * n);
      return;
    case KvType::kFloat16:
      for (int64_t i = 0; i < n; ++i) (static_cast<uint16_t*>(pool) + slot * n)[i] = float_to_half(from[i]);
      return;
    case KvType::kBfloat16:
      for (int64_t i = 0; i < n; ++i) {
        (static_cast<simd::Bfloat*>(pool) + slot * n)[i] = simd::to_bfloat(from[i]);
      }
  }
}

// Norm of queries and keys where the model has one, rotation, and keys and values to their slots.
void finish_qkv(const Model& m, const Step& s, const Layer& layer, int number, float* qkv) {
  const Shape& c = m.shape;
  const int64_t d = c.head_dim, half = d / 2, turned = c.num_heads + c.num_kv_heads;
  const int64_t width = (turned + c.num_kv_heads) * d;
  for_rows(s.rows, [&](int64_t row, int) {
    float* at = qkv + row * width;
    const float* cos = m.cos + s.positions[row] * half;
    const float* sin = m.sin + s.positions[row] * half;
    for (int64_t head = 0; head < turned; ++head) {
      float* x = at + head * d;
      if (layer.qk_norm != nullptr) {
        scale_row(x, layer.qk_norm + head * d, inverse_rms(x, d, c.eps), d, x);
      }
      rope_head(x, cos, sin, half);
    }
    write_kv(c, s.keys[number], s.out_slots[row], at + c.num_heads * d);
    write_kv(c, s.values[number], s.out_slots[row], at + turned * d);
  });
}

void put_rows(Model& m, const float* from, int64_t rows, int64_t n, const Linear& reader) {
  m.input.begin(rows, n, reader.kind == kInt8);
  for_rows(rows, [&](int64_t row, int) { m.input.put(row, from + row * n); });
}

void mlp(Model& m, const Layer& layer, int64_t all_rows, float* all) {
  const int64_t n = m.shape.hidden, inner = m.shape.intermediate;
  for (int64_t start = 0; start < all_rows; start += kMlpRows) {
    const int64_t rows = std::min(kMlpRows, all_rows - start);
    float* x = all + start * n;
    norm_rows(m, x, rows, layer.post_norm, layer.gate_up);
    float* gate_up = m.gate_up.at_least(rows * 2 * inner);
    linear(layer.gate_up, m.input.rows(), rows, gate_up, 2 * inner, false);
    m.input.begin(rows, inner, layer.down.kind == kInt8);
    for_rows(rows, [&](int64_t row, int thread) {
      const float* gate = gate_up + row * 2 * inner;
      float* out = m.input.target(row, row_scratch(thread, inner));
      silu_mul_row(gate, gate + inner, inner, out);
      m.input.put(row, out);
    });
    linear(layer.down, m.input.rows(), rows, x, n, true);
  }
}

void keep_rows(float* x, int64_t width, const Step& s) {
  // In place: logit_rows rise, so a row never overwrites one that is still to be read.
  for (int64_t i = 0; i < s.num_logits; ++i) {
    if (s.logit_rows[i] != i) {
      std::memcpy(x + i * width, x + s.logit_rows[i] * width, sizeof(float) * width);
    }
  }
}

void forward(Model& m, const Step& s) {
  const Shape& c = m.shape;
  const int64_t n = c.hidden, d = c.head_dim;
  const int64_t qkv_width = static_cast<int64_t>(c.num_heads + 2 * c.num_kv_heads) * d;
  const int64_t q_width = static_cast<int64_t>(c.num_heads) * d;
  float* x = m.x.at_least(s.rows * n);
  float* qkv = m.qkv.at_least(s.rows * qkv_width);
  float* attended = m.attended.at_least(s.rows * q_width);
  embed(m, s, x);
  int64_t rows = s.rows;
  for (int number = 0; number < c.num_layers; ++number) {
    const Layer& layer = m.layers[number];
    norm_rows(m, x, rows, layer.input_norm, layer.qkv);
    linear(layer.qkv, m.input.rows(), rows, qkv, qkv_width, false);
    finish_qkv(m, s, layer, number, qkv);
    attention(*s.plan, qkv, qkv_width, s.keys[number], s.values[number],
              static_cast<KvType>(c.kv_type), attended, q_width);
    if (number == c.num_layers - 1) {  // of the last layer only the rows with logits matter
      keep_rows(x, n, s);
      keep_rows(attended, q_width, s);
      rows = s.num_logits;
    }
    put_rows(m, attended, rows, q_width, layer.o);
    linear(layer.o, m.input.rows(), rows, x, n, true);
    mlp(m, layer, rows, x);
  }
  norm_rows(m, x, rows, m.final_norm, m.lm_head);
  linear(m.lm_head, m.input.rows(), rows, s.logits, c.vocab, false);
}

}  // namespace
}  // namespace ramet

extern "C" {

struct RametModelSpec {
  ramet::Shape shape;
  const void* embedding;
  const float* final_norm;
  const float* cos;
  const float* sin;
  const ramet::Layer* layers;
  ramet::Linear lm_head;
};

void* ramet_model_new(const RametModelSpec* spec) {
  auto* model = new ramet::Model;
  model->shape = spec->shape;
  model->embedding = spec->embedding;
  model->final_norm = spec->final_norm;
  model->cos = spec->cos;
  model->sin = spec->sin;
  model->lm_head = spec->lm_head;
  model->layers.reset(new ramet::Layer[spec->shape.num_layers]);
  std::copy(spec->layers, spec->layers + spec->shape.num_layers, model->layers.get());
  return model;
}

void ramet_model_free(void* model) { delete static_cast<ramet::Model*>(model); }

// `step` is read during the call only.
void ramet_forward(void* model, const ramet::Step* step) {
  const ramet::Exclusive lock;
  ramet::forward(*static_cast<ramet::Model*>(model), *step);
}
}
