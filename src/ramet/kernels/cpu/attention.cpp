// Tasks of a plan: tile after tile of a strip, merged in order of position.
//
// Knows strips, tiles, slots and what a task keeps; refuses to know the arithmetic of a tile, which is that
// of attention_float.h or attention_bfloat.h.
#include "attention.h"

#include <algorithm>
#include <utility>

#include "attention_bfloat.h"
#include "attention_float.h"
#include "parallel.h"

namespace ramet {
namespace {

template <class T>
struct ArithmeticOf {
  using Type = FloatArithmetic<T>;
};
#if defined(__AVX512BF16__)
template <>
struct ArithmeticOf<Bfloat> {
  using Type = BfloatArithmetic;
};
#endif

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
  using Arithmetic = typename ArithmeticOf<T>::Type;
  using Unit = typename Arithmetic::Unit;

 public:
  Worker(const Call<T>& call, const Task& task, int thread)
      : call_(call), task_(task), strip_(call.plan.strips[task.strip]), d_(call.plan.shape.head_dim),
        units_(Arithmetic::query_units(d_)), width_(padded(d_)), group_(call.plan.shape.group()),
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
    const int64_t state = vectors_ * (units_ + width_) + 2 * lanes + 2 * kLane;
    const int64_t tile = kBlock * vectors_ + kBlock * units_ + Arithmetic::kValueRows * width_ + 6 * lanes + padded(d_);
    auto* next = static_cast<float*>(scratch(thread, 0, (heads * state + tile + 16 * kLane) * sizeof(float)));
    const auto take = [&next](int64_t floats) { return std::exchange(next, next + padded(floats)); };
    q_ = reinterpret_cast<Unit*>(take(heads * vectors_ * units_)), sums_ = take(heads * vectors_ * width_);
    m_ = take(heads * lanes), l_ = take(heads * lanes), head_lanes_ = lanes;
    s_ = take(kBlock * vectors_), k_ = reinterpret_cast<Unit*>(take(kBlock * units_));
    v_ = reinterpret_cast<Unit*>(take(Arithmetic::kValueRows * width_));
    new_m_ = take(lanes), new_l_ = take(lanes), old_scale_ = take(lanes), new_scale_ = take(lanes);
    count_ = reinterpret_cast<int32_t*>(take(lanes));
    nothing_ = reinterpret_cast<T*>(take(d_));
    std::memset(nothing_, 0, d_ * sizeof(T));
  }

  int64_t local(int64_t h) const { return h - task_.first_head; }
  Unit* q(int64_t h) const { return q_ + local(h) * vectors_ * units_; }
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
    Unit* to = q(h);
    for (int64_t row = strip_.first_row; row < strip_.end_row; ++row) {
      const float* from = call_.q + row * call_.q_stride + h * group_ * d_;
      for (int64_t i = 0; i < group_; ++i, to += units_) Arithmetic::put_query(from + i * d_, d_, scale, to);
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
    const Unit* q = this->q(h) + first * units_;
    in_groups(0, n, [&](int64_t i, auto rows) {
      const int64_t most = n <= rows ? longest : *std::max_element(count_ + i, count_ + i + rows);
      Arithmetic::template score<rows>(q + i * units_, k_, units_, most, s_ + i * kBlock);
    });
    for (int64_t i = 0; i < n; ++i) 
      Arithmetic::weigh(s_ + i * kBlock, count_[i], new_m_ + i, new_l_ + i);
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

  // Positions up to the next multiple of kWidth are filled with zeros.
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
      Arithmetic::pack_keys(rows, d_, k_ + i);
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
    const bool copies = n >= kPackValuesFrom || d_ % kWidth != 0;
    if (copies) Arithmetic::pack_values(values, tile.slots, stride_, tile.count, d_, v_);
    in_groups(0, n, [&](int64_t i, auto rows) {
      const bool merges = to.old_scale != nullptr;
      const Sums here{to.out + i * to.stride, to.stride, merges ? to.old_scale + i : nullptr,
                      merges ? to.new_scale + i : nullptr};
      const float* p = s_ + i * kBlock;
      if (copies) {
        Arithmetic::template add_packed<rows>(p, count_ + i, v_, d_, here);
      } else {
        Arithmetic::template add_slots<rows>(p, count_ + i, values, tile.slots, stride_, tile.count, d_, here);
      }
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
  const int64_t d_, units_, width_, group_, vectors_;
  const bool folds_;       // merges blocks as they come; else leaves them in the buffer
  const int64_t stride_;   // from slot to slot
  int64_t head_lanes_;
  Unit *q_, *k_, *v_;
  float *sums_, *m_, *l_, *s_, *new_m_, *new_l_, *old_scale_, *new_scale_;
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
  const auto run_with = [&](auto element) {
    using T = decltype(element);
    run(Call<T>{plan, q, q_stride, static_cast<const T*>(keys), static_cast<const T*>(values), out, out_stride,
                results});
  };
  switch (type) {
    case KvType::kFloat32: return run_with(float{});
    case KvType::kFloat16: return run_with(Half{});
    case KvType::kBfloat16: return run_with(Bfloat{});
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

// kv_type: 0 float32, 1 float16, 2 bfloat16.
void ramet_attention(const void* plan, const float* q, int64_t q_stride, const void* keys,
                     const void* values, int32_t kv_type, float* out, int64_t out_stride) {
  const ramet::Exclusive lock;
  ramet::attention(*static_cast<const ramet::AttentionPlan*>(plan), q, q_stride, keys, values,
                   static_cast<ramet::KvType>(kv_type), out, out_stride);
}
}
