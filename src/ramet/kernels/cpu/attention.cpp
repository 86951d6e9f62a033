// The arithmetic of attention.h, and the loops over tiles.
//
// Both products of a tile are one kind of loop: some rows of queries (or weights) times a panel of vectors,
// a fused multiply-add per element and step, in order. How many rows a loop takes at once is a matter of
// registers and never shows in an element's bits, because every element has an accumulator of its own.
#include "attention.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "parallel.h"
#include "simd.h"

namespace ramet {
namespace {

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

int64_t padded(int64_t n) { return (n + kLane - 1) / kLane * kLane; }

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

// Where the sums go: kept as they are, or merged with those of earlier blocks.
struct Sums {
  float* out;
  int64_t stride;
  const float* old_scale;  // of each row; nullptr: there is nothing yet to merge with
  const float* new_scale;
};

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

// Calls f(first, constant) for groups of kRows rows, the last one of fewer.
template <int R = kRows, class F>
void in_groups(int64_t first, int64_t count, const F& f) {
  for (; count >= R; first += R, count -= R) f(first, std::integral_constant<int, R>());
  if constexpr (R > 1) {
    if (count > 0) in_groups<R - 1>(first, count, f);
  }
}

// ---- softmax of a block

// Turns the first `count` scores of a row into weights relative to the largest; returns it and their sum.
void weigh(float* s, int count, float* largest, float* sum) {
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
void merge_vector(float* m, float* l, const float* new_m, const float* new_l, float* old_scale,
                  float* new_scale) {
  const Vec before = load(m), block = load(new_m), now = max(block, before);
  const Vec a = exp2(sub(before, now)), b = exp2(sub(block, now));
  store(m, now);
  store(l, fma(load(l), a, mul(load(new_l), b)));
  store(old_scale, a);
  store(new_scale, b);
}

void merge_maxima(int64_t n, float* m, float* l, const float* new_m, const float* new_l, float* old_scale,
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

// ---- tasks

// Floats of one result in the buffer: the weighted values, the maximum and the sum.
int64_t result_floats(const AttentionPlan& plan) { return padded(plan.shape.head_dim) + kLane; }

template <class T>
struct Call {
  const AttentionPlan& plan;
  const float* q;
  int64_t q_stride;
  const T* keys;
  const T* values;
  float* out;
  int64_t out_stride;
  float* results;
};

// What a task keeps: state of all its rows and heads, and the tile at hand. A row's queries of one KV head
// lie together; `index` below is row * group + query head within the group.
template <class T>
class Worker {
 public:
  Worker(const Call<T>& call, const Task& task, int thread)
      : call_(call), task_(task), strip_(call.plan.strips[task.strip]), d_(call.plan.shape.head_dim),
        width_(padded(d_)), group_(call.plan.shape.group()),
        vectors_((strip_.end_row - strip_.first_row) * group_),
        folds_(strip_.split < 0 || task.first_tile == 0), stride_(call.plan.shape.kv_heads * d_) {
    carve(thread);
  }

  void run() {
    for (int64_t h = task_.first_head; h < task_.end_head; ++h) read_queries(h);
    for (int64_t t = task_.first_tile; t < task_.end_tile; ++t) {
      for (int64_t h = task_.first_head; h < task_.end_head; ++h) {
        const bool last_head = h + 1 == task_.end_head;
        const Tile* next = last_head ? t + 1 < task_.end_tile ? &strip_.tiles[t + 1] : nullptr
                                     : &strip_.tiles[t];
        next_keys_ = call_.keys + (last_head ? task_.first_head : h + 1) * d_;
        compute(strip_.tiles[t], h, next);
      }
    }
    if (!folds_) return;
    for (int64_t h = task_.first_head; h < task_.end_head; ++h) strip_.split < 0 ? write(h) : keep_results(h);
  }

 private:
  void carve(int thread) {
    const int64_t heads = task_.end_head - task_.first_head, lanes = padded(vectors_) + kLane;
    const int64_t state = vectors_ * (d_ + width_) + 2 * lanes + 2 * kLane;
    const int64_t tile = kBlock * vectors_ + kBlock * (d_ + width_) + 6 * lanes + padded(d_);
    auto* next = static_cast<float*>(scratch(thread, 0, (heads * state + tile + 16 * kLane) * sizeof(float)));
    const auto take = [&next](int64_t floats) { return std::exchange(next, next + padded(floats)); };
    q_ = take(heads * vectors_ * d_), sums_ = take(heads * vectors_ * width_);
    m_ = take(heads * lanes), l_ = take(heads * lanes), head_lanes_ = lanes;
    s_ = take(kBlock * vectors_), k_ = take(kBlock * d_), v_ = take(kBlock * width_);
    new_m_ = take(lanes), new_l_ = take(lanes), old_scale_ = take(lanes), new_scale_ = take(lanes);
    count_ = reinterpret_cast<int32_t*>(take(lanes));
    nothing_ = reinterpret_cast<T*>(take(d_));
    std::memset(nothing_, 0, d_ * sizeof(T));
  }

  int64_t local(int64_t h) const { return h - task_.first_head; }
  float* q(int64_t h) const { return q_ + local(h) * vectors_ * d_; }
  float* sums(int64_t h) const { return sums_ + local(h) * vectors_ * width_; }
  float* m(int64_t h) const { return m_ + local(h) * head_lanes_; }
  float* l(int64_t h) const { return l_ + local(h) * head_lanes_; }

  float* result(int64_t h, int64_t index, int64_t number) const {
    const int64_t row_and_head = h * vectors_ + index;
    return call_.results +
           (strip_.first_result + row_and_head * strip_.num_results + number) * result_floats(call_.plan);
  }

  void read_queries(int64_t h) {
    const auto scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(d_)));
    float* to = q(h);
    for (int64_t row = strip_.first_row; row < strip_.end_row; ++row) {
      const float* from = call_.q + row * call_.q_stride + h * group_ * d_;
      for (int64_t i = 0; i < group_ * d_; ++i) *to++ = from[i] * scale;
    }
    std::fill(m(h), m(h) + vectors_, -INFINITY);
    std::fill(l(h), l(h) + vectors_, 0.0f);
  }

  void compute(const Tile& tile, int64_t h, const Tile* next) {
    const int64_t first = (tile.first_row - strip_.first_row) * group_;
    const int64_t n = (tile.end_row - tile.first_row) * group_;
    count_positions(tile);
    const int64_t longest = *std::max_element(count_, count_ + n);
    pack_keys(tile, h);
    const float* q = this->q(h) + first * d_;
    in_groups(0, n, [&](int64_t i, auto rows) {
      const int64_t most = n <= rows ? longest : *std::max_element(count_ + i, count_ + i + rows);
      score_rows<rows>(q + i * d_, d_, k_, d_, most, s_ + i * kBlock);
    });
    for (int64_t i = 0; i < n; ++i) weigh(s_ + i * kBlock, count_[i], new_m_ + i, new_l_ + i);
    if (next != nullptr) prefetch_rows(next_keys_, *next);
    Sums to{sums(h) + first * width_, width_, nullptr, nullptr};
    if (folds_) {
      merge_maxima(n, m(h) + first, l(h) + first, new_m_, new_l_, old_scale_, new_scale_);
      if (tile.block > 0) to.old_scale = old_scale_, to.new_scale = new_scale_;
    } else {
      to.out = result(h, first, tile.block - strip_.split + 1);
      to.stride = strip_.num_results * result_floats(call_.plan);
      for (int64_t i = 0; i < n; ++i) {
        to.out[i * to.stride + width_] = new_m_[i];
        to.out[i * to.stride + width_ + 1] = new_l_[i];
      }
    }
    add_values(tile, h, n, to);
  }

  // How many of the tile's positions each of its rows reads.
  void count_positions(const Tile& tile) {
    int32_t* to = count_;
    for (int64_t row = tile.first_row; row < tile.end_row; ++row) {
      const int64_t seen = call_.plan.positions[row] + 1 - tile.block * kBlock;
      to = std::fill_n(to, group_, static_cast<int32_t>(std::min(seen, tile.count)));
    }
  }

  // k_[j, i] = element j of key i; positions up to the next multiple of kWidth are filled with zeros.
  void pack_keys(const Tile& tile, int64_t h) {
    const T* keys = call_.keys + h * d_;
    const T* values = call_.values + h * d_;
    for (int64_t i = 0; i < tile.count; i += kWidth) {
      const T* rows[kWidth];
      for (int64_t k = 0; k < kWidth; ++k) {
        const bool real = i + k < tile.count;
        rows[k] = real ? keys + tile.slots[i + k] * stride_ : nothing_;
        if (real) prefetch_row(values + tile.slots[i + k] * stride_);
      }
      int64_t j = 0;
      for (; j + kWidth <= d_; j += kWidth) transpose(rows, j, k_ + j * kBlock + i, kBlock);
      for (; j < d_; ++j)
        for (int k = 0; k < kWidth; ++k) k_[j * kBlock + i + k] = to_float(rows[k][j]);
    }
  }

  void prefetch_row(const T* row) const {
    for (int64_t byte = 0; byte < static_cast<int64_t>(d_ * sizeof(T)); byte += 64)
      prefetch(reinterpret_cast<const char*>(row) + byte);
  }

  void prefetch_rows(const T* base, const Tile& tile) const {
    for (int64_t i = 0; i < tile.count; ++i) prefetch_row(base + tile.slots[i] * stride_);
  }

  void add_values(const Tile& tile, int64_t h, int64_t n, const Sums& to) {
    const T* values = call_.values + h * d_;
    if (n < kPackValuesFrom && d_ % kWidth == 0) {
      add_rows(SlotRows<T>{values, tile.slots, stride_}, n, to);
      return;
    }
    for (int64_t i = 0; i < tile.count; ++i) {
      const T* from = values + tile.slots[i] * stride_;
      float* row = v_ + i * width_;
      int64_t j = 0;
      for (; j + kWidth <= d_; j += kWidth) store(row + j, load(from + j));
      for (; j < width_; ++j) row[j] = j < d_ ? to_float(from[j]) : 0.0f;
    }
    add_rows(PackedRows{v_, width_}, n, to);
  }

  template <class Rows>
  void add_rows(const Rows& values, int64_t n, const Sums& to) {
    in_groups(0, n, [&](int64_t i, auto rows) {
      const bool merges = to.old_scale != nullptr;
      const Sums here{to.out + i * to.stride, to.stride, merges ? to.old_scale + i : nullptr,
                      merges ? to.new_scale + i : nullptr};
      value_rows<rows>(s_ + i * kBlock, count_ + i, values, d_, here);
    });
  }

  void write(int64_t h) const {
    for (int64_t i = 0; i < vectors_; ++i) {
      float* to = call_.out + (strip_.first_row + i / group_) * call_.out_stride +
                  (h * group_ + i % group_) * d_;
      const float* sum = sums(h) + i * width_;
      const float total = l(h)[i];
      for (int64_t j = 0; j < d_; ++j) to[j] = sum[j] / total;
    }
  }

  void keep_results(int64_t h) const {
    for (int64_t i = 0; i < vectors_; ++i) {
      float* to = result(h, i, 0);
      std::memcpy(to, sums(h) + i * width_, width_ * sizeof(float));
      to[width_] = m(h)[i];
      to[width_ + 1] = l(h)[i];
    }
  }

  const Call<T>& call_;
  const Task& task_;
  const Strip& strip_;
  const int64_t d_, width_, group_, vectors_;
  const bool folds_;       // merges blocks as they come; else leaves them in the buffer
  const int64_t stride_;   // from slot to slot
  int64_t head_lanes_;
  float *q_, *sums_, *m_, *l_, *s_, *k_, *v_, *new_m_, *new_l_, *old_scale_, *new_scale_;
  int32_t* count_;
  T* nothing_;
  const T* next_keys_ = nullptr;
};

// Merges the block results of one row and head of a strip whose blocks were split: the same steps in the
// same order as a task that meets them one after the other.
template <class T>
void merge_results(const Call<T>& call, const Strip& strip, int64_t number, int thread) {
  const AttentionShape& shape = call.plan.shape;
  const int64_t d = shape.head_dim, width = padded(d), floats = result_floats(call.plan);
  const int64_t vectors = (strip.end_row - strip.first_row) * shape.group();
  const int64_t h = number / vectors, i = number % vectors;
  const int64_t row = strip.first_row + i / shape.group();
  const float* block = call.results + (strip.first_result + number * strip.num_results) * floats;
  auto* sums = static_cast<float*>(scratch(thread, 0, (width + 4 * kLane) * sizeof(float)));
  float *m = sums + width, *l = m + kLane, *old_scale = l + kLane, *new_scale = old_scale + kLane;
  std::memcpy(sums, block, width * sizeof(float));
  *m = block[width], *l = block[width + 1];
  const int64_t last = call.plan.positions[row] / kBlock - strip.split + 1;
  for (int64_t b = 1; b <= last; ++b) {
    block += floats;
    merge_maxima(1, m, l, block + width, block + width + 1, old_scale, new_scale);
    const Vec before = broadcast(*old_scale), now = broadcast(*new_scale);
    for (int64_t j = 0; j < width; j += kWidth)
      store(sums + j, fma(load(sums + j), before, mul(load(block + j), now)));
  }
  float* to = call.out + row * call.out_stride + (h * shape.group() + i % shape.group()) * d;
  for (int64_t j = 0; j < d; ++j) to[j] = sums[j] / *l;
}

template <class T>
void run(const Call<T>& call) {
  const AttentionPlan& plan = call.plan;
  parallel_for(static_cast<int64_t>(plan.tasks.size()), [&](int64_t i, int thread) {
    Worker<T>(call, plan.tasks[i], thread).run();
  });
  for (const int64_t number : plan.split_strips) {
    const Strip& strip = plan.strips[number];
    parallel_for((strip.end_row - strip.first_row) * plan.shape.heads, [&](int64_t i, int thread) {
      merge_results(call, strip, i, thread);
    });
  }
}

}  // namespace

void attention(const AttentionPlan& plan, const float* q, int64_t q_stride, const void* keys,
               const void* values, KvType type, float* out, int64_t out_stride) {
  const size_t bytes = plan.num_results * result_floats(plan) * sizeof(float);
  auto* results = bytes > 0 ? static_cast<float*>(scratch(0, 1, bytes)) : nullptr;
  if (type == KvType::kFloat32) {
    run(Call<float>{plan, q, q_stride, static_cast<const float*>(keys), static_cast<const float*>(values),
                    out, out_stride, results});
  } else {
    run(Call<Half>{plan, q, q_stride, static_cast<const Half*>(keys), static_cast<const Half*>(values), out,
                   out_stride, results});
  }
}

}  // namespace ramet

extern "C" {

// A plan for `ramet_attention`, to be freed by `ramet_plan_free`; see plan_attention.
void* ramet_plan_new(int64_t num_segments, const int64_t* row_starts, const int64_t* first_positions,
                     const int64_t* const* paths, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  const ramet::Exclusive lock;
  const ramet::AttentionShape shape{heads, kv_heads, head_dim};
  return new ramet::AttentionPlan(
      ramet::plan_attention(num_segments, row_starts, first_positions, paths, shape));
}

void ramet_plan_free(void* plan) { delete static_cast<ramet::AttentionPlan*>(plan); }

// kv_type: 0 float32, 1 float16.
void ramet_attention(const void* plan, const float* q, int64_t q_stride, const void* keys,
                     const void* values, int32_t kv_type, float* out, int64_t out_stride) {
  const ramet::Exclusive lock;
  ramet::attention(*static_cast<const ramet::AttentionPlan*>(plan), q, q_stride, keys, values,
                   static_cast<ramet::KvType>(kv_type), out, out_stride);
}
}
