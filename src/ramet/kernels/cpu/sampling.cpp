// Drawing one token from a row of logits: temperature, top-k, top-p, min-p, in float64.
//
// Knows one row at a time; refuses to know requests, penalties and masks (whoever changes logits hands
// in the changed row). The meaning is `_inverse_cdf` in engine/sampler.py: kept tokens are ranked by
// falling logit, ties by id, and the first one is taken at which the sum of kept weights exceeds u times
// their total; where nothing is filtered the order is that of the ids.
//
// Nothing is sorted as a whole. Tokens that can be kept are put into bins of falling logit, and only the
// two bins where something is decided are ranked. Every sum is taken in an order that depends on the row
// alone.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

#include "parallel.h"

namespace ramet {
namespace {

constexpr int kSumLanes = 16;
constexpr int64_t kBlock = 512;  // tokens whose weights are summed before it is known which is drawn
constexpr int kMostBins = 1024;
constexpr int64_t kBinCandidates = 4;  // about as many in a bin, while there are not too many bins

// How one token is drawn. temperature 0: the first of the largest logits. top_k -1: no limit.
struct Draw {
  double temperature, top_p, min_p;
  int64_t top_k;
  uint64_t seed;
};

inline double madd(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// exp for x <= 0, within 2 units in the last place; 0 below -708.
inline double exp_lane(double x) {
  const double clamped = x < -708.0 ? -708.0 : x;
  const double shifted = madd(clamped, 1.4426950408889634, 6755399441055744.0);  // 1.5 * 2^52
  const double whole = shifted - 6755399441055744.0;
  double r = madd(whole, -6.93147180369123816490e-01, clamped);
  r = madd(whole, -1.90821492927058770002e-10, r);
  double p = 1.0 / 479001600;  // the Taylor series: |r| <= ln(2) / 2
  p = madd(p, r, 1.0 / 39916800);
  p = madd(p, r, 1.0 / 3628800);
  p = madd(p, r, 1.0 / 362880);
  p = madd(p, r, 1.0 / 40320);
  p = madd(p, r, 1.0 / 5040);
  p = madd(p, r, 1.0 / 720);
  p = madd(p, r, 1.0 / 120);
  p = madd(p, r, 1.0 / 24);
  p = madd(p, r, 1.0 / 6);
  p = madd(p, r, 0.5);
  p = madd(p, r, 1.0);
  p = madd(p, r, 1.0);
  int64_t bits;
  std::memcpy(&bits, &shifted, 8);
  const int64_t power = (bits + 1023) << 52;
  double scale;
  std::memcpy(&scale, &power, 8);
  return x < -708.0 ? 0.0 : p * scale;
}

// Output number `step` of SplitMix64 seeded with a hash of `seed`, its upper 53 bits, in [0, 1).
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

double uniform(uint64_t seed, uint64_t step) {
  constexpr uint64_t golden = 0x9E3779B97F4A7C15ull;
  return static_cast<double>(mix(mix(seed + golden) + (step + 1) * golden) >> 11) * 0x1p-53;
}

// Where the first of the largest numbers stands; if there is a NaN, where the first NaN does.
template <typename T>
int64_t first_largest(const T* x, int64_t n) {
  T lanes[32];
  int32_t broken = 0;
  for (T& lane : lanes) lane = -std::numeric_limits<T>::infinity();
  const int64_t whole = n / 32 * 32;
  for (int64_t i = 0; i < whole; i += 32) {
    int32_t bad = 0;
    for (int j = 0; j < 32; ++j) {
      lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
      bad |= x[i + j] != x[i + j];
    }
    broken |= bad;
  }
  T best = lanes[0];
  for (T lane : lanes) best = lane > best ? lane : best;
  for (int64_t i = whole; i < n; ++i) {
    best = x[i] > best ? x[i] : best;
    broken |= x[i] != x[i];
  }
  if (broken) return std::find_if(x, x + n, [](T v) { return v != v; }) - x;
  for (int64_t i = 0; i < whole; i += 32) {
    int32_t found = 0;
    for (int j = 0; j < 32; ++j) found |= x[i + j] == best;
    if (found) return std::find(x + i, x + i + 32, best) - x;
  }
  return std::find(x + whole, x + n, best) - x;
}

// weights[i] = exp((x[i] - largest) / temperature)
template <typename T>
void weigh(const T* x, int64_t n, double largest, double inverse, double* weights) {
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = exp_lane((static_cast<double>(x[i]) - largest) * inverse);
  }
}

double sum(const double* x, int64_t n) {
  double lanes[kSumLanes] = {};
  const int64_t whole = n / kSumLanes * kSumLanes;
  for (int64_t i = 0; i < whole; i += kSumLanes) {
    for (int j = 0; j < kSumLanes; ++j) lanes[j] += x[i + j];
  }
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += x[i];
  for (int width = kSumLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

int64_t last_positive(const double* weights, int64_t n) {
  while (n > 1 && !(weights[n - 1] > 0)) --n;
  return n - 1;
}

// The first index whose sum of weights exceeds `target`; rounding may pass the end: then the last that
// weighs anything.
int64_t first_above(const double* weights, int64_t n, double target) {
  double reached = 0;
  for (int64_t i = 0; i < n; ++i) {
    reached += weights[i];
    if (reached > target) return i;
  }
  return last_positive(weights, n);
}

// From all tokens, in the order of their ids: first the block, then the token in it.
int64_t pick_any(const double* weights, int64_t n, double u, double* blocks) {
  const int64_t count = (n + kBlock - 1) / kBlock;
  double total = 0;
  for (int64_t b = 0; b < count; ++b) {
    blocks[b] = sum(weights + b * kBlock, std::min(kBlock, n - b * kBlock));
    total += blocks[b];
  }
  const int64_t block = first_above(blocks, count, u * total);
  double before = 0;
  for (int64_t b = 0; b < block; ++b) before += blocks[b];
  const int64_t start = block * kBlock;
  return start + first_above(weights + start, std::min(kBlock, n - start), u * total - before);
}

struct Candidate {
  double logit, weight;
  int64_t id;
};

bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Candidates in bins of falling logit: those of bin b are all[start[b]] .. all[start[b + 1]], in order of
// their ids until the bin is ranked.
class Bins {
 public:
  // Takes the tokens that weigh at least `least`. `order` has room for n places, `all` for n candidates.
  template <typename T>
  Bins(const T* x, const double* weights, int64_t n, double least, int64_t* order, Candidate* all)
      : all_(all) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {  // without a branch that nobody can predict
      order[count] = i;
      count += weights[i] >= least && x[i] > -std::numeric_limits<T>::infinity();
    }
    double high = x[order[0]], low = high;
    for (int64_t i = 1; i < count; ++i) {
      const double v = x[order[i]];
      high = v > high ? v : high;
      low = v < low ? v : low;
    }
    bins_ = static_cast<int>(std::clamp<int64_t>(count / kBinCandidates, 1, kMostBins));
    std::fill_n(start_, bins_ + 1, 0);
    std::fill_n(mass_, bins_, 0.0);
    const double scale = high > low ? bins_ / (high - low) : 0;
    const auto bin_of = [&](double v) {
      return std::min(bins_ - 1, static_cast<int>((high - v) * scale));
    };
    for (int64_t i = 0; i < count; ++i) {
      const int bin = bin_of(x[order[i]]);
      ++start_[bin + 1];
      mass_[bin] += weights[order[i]];
    }
    int64_t next[kMostBins];
    for (int b = 0; b < bins_; ++b) {
      start_[b + 1] += start_[b];
      next[b] = start_[b];
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = order[i];
      all[next[bin_of(x[id])]++] = {static_cast<double>(x[id]), weights[id], id};
    }
  }

  int64_t size() const { return start_[bins_]; }

  // Total weight of the first `count` candidates of the ranking.
  double mass(int64_t count) {
    double total = 0;
    for (int b = 0; b < bins_ && start_[b] < count; ++b) {
      if (start_[b + 1] <= count) {
        total += mass_[b];
        continue;
      }
      rank(b);
      for (int64_t i = start_[b]; i < count; ++i) total += all_[i].weight;
    }
    return total;
  }

  // The fewest first candidates that weigh at least `wanted`; all if rounding lets none reach it.
  int64_t reaching(double wanted) {
    double total = 0;
    for (int b = 0; b < bins_; ++b) {
      if (total + mass_[b] < wanted) {
        total += mass_[b];
        continue;
      }
      rank(b);
      for (int64_t i = start_[b]; i < start_[b + 1]; ++i) {
        total += all_[i].weight;
        if (total >= wanted) return i + 1;
      }
    }
    return size();
  }

  // The first of `count` candidates at which their sum exceeds `target`.
  int64_t above(int64_t count, double target) {
    double total = 0;
    for (int b = 0; b < bins_ && start_[b] < count; ++b) {
      const int64_t stop = std::min(start_[b + 1], count);
      if (stop == start_[b + 1] && stop < count && total + mass_[b] <= target) {
        total += mass_[b];
        continue;
      }
      rank(b);
      for (int64_t i = start_[b]; i < stop; ++i) {
        total += all_[i].weight;
        if (total > target) return all_[i].id;
      }
    }
    int64_t last = count - 1;
    rank_around(last);
    while (last > 0 && !(all_[last].weight > 0)) rank_around(--last);
    return all_[last].id;
  }

 private:
  void rank(int b) { std::sort(all_ + start_[b], all_ + start_[b + 1], ranks_before); }
  void rank_around(int64_t place) {
    rank(static_cast<int>(std::upper_bound(start_, start_ + bins_, place) - start_) - 1);
  }

  Candidate* all_;
  int bins_ = 1;
  int64_t start_[kMostBins + 1];
  double mass_[kMostBins];
};

// At most the k-th largest weight: the k-th largest of the largest ones of blocks, since k blocks then hold
// a token each that weighs as much. 0 if there are fewer blocks.
double at_most_rank(const double* weights, int64_t n, int64_t k, double* blocks) {
  constexpr int64_t block = 32;
  const int64_t count = n / block;
  if (count < k) return 0;
  for (int64_t b = 0; b < count; ++b) {
    double best = 0;
    for (int64_t i = b * block; i < (b + 1) * block; ++i) best = weights[i] > best ? weights[i] : best;
    blocks[b] = best;
  }
  std::nth_element(blocks, blocks + (k - 1), blocks + count, std::greater<double>());
  return blocks[k - 1];
}

template <typename T>
int64_t draw_token(const T* x, int64_t n, double largest, const Draw& how, double u, int thread) {
  auto* weights = static_cast<double*>(scratch(thread, 0, sizeof(double) * n));
  auto* order = static_cast<int64_t*>(scratch(thread, 1, sizeof(int64_t) * n));
  weigh(x, n, largest, std::min(1.0 / how.temperature, 1e300), weights);
  const bool limited = how.top_k != -1 && how.top_k < n;
  if (!limited && how.top_p == 1 && how.min_p == 0) {
    return pick_any(weights, n, u, reinterpret_cast<double*>(order));
  }
  double total = 0, least = 0;
  if (limited) {
    least = at_most_rank(weights, n, how.top_k, reinterpret_cast<double*>(order));
  } else {
    total = sum(weights, n);
    // Tokens lighter than this weigh less than 1 - top_p of the total together, so none is kept.
    if (how.top_p < 1) least = (1 - how.top_p) * total / static_cast<double>(n);
    least = std::max(least, how.min_p);
  }
  least *= 0.999;  // weights are rounded; who is kept in the end is decided by the ranking
  auto* all = static_cast<Candidate*>(scratch(thread, 2, sizeof(Candidate) * n));
  Bins bins(x, weights, n, least, order, all);
  int64_t kept = bins.size();
  if (limited) {
    kept = std::min(kept, how.top_k);
    total = bins.mass(kept);
  }
  if (how.top_p < 1) kept = std::min(kept, bins.reaching(how.top_p * total));
  if (how.min_p > 0) {
    int64_t heavy = 0;
    for (int64_t i = 0; i < bins.size(); ++i) heavy += all[i].weight >= how.min_p;
    kept = std::min(kept, std::max<int64_t>(heavy, 1));
  }
  return bins.above(kept, u * bins.mass(kept));
}

template <typename T>
void draw_all(const T* logits, int64_t vocab, int64_t count, const int64_t* rows, const Draw* hows,
              const uint64_t* steps, int64_t* ids, double* largest) {
  parallel_for(count, [&](int64_t i, int thread) {
    const T* x = logits + rows[i] * vocab;
    const int64_t best = first_largest(x, vocab);
    ids[i] = best;
    largest[i] = static_cast<double>(x[best]);
    if (hows[i].temperature == 0 || !std::isfinite(largest[i])) return;
    ids[i] = draw_token(x, vocab, largest[i], hows[i], uniform(hows[i].seed, steps[i]), thread);
  });
}

}  // namespace
}  // namespace ramet

extern "C" {

// A token for each of `count` entries: entry i reads logits row rows[i] and is drawn as hows[i] says, as
// output number steps[i] of its seed. ids: the tokens; largest: the largest logit of each row (NaN if
// there is one; where it is not finite nothing was drawn).
void ramet_draw_f32(const float* logits, int64_t vocab, int64_t count, const int64_t* rows,
                    const ramet::Draw* hows, const uint64_t* steps, int64_t* ids, double* largest) {
  const ramet::Exclusive lock;
  ramet::draw_all(logits, vocab, count, rows, hows, steps, ids, largest);
}

void ramet_draw_f64(const double* logits, int64_t vocab, int64_t count, const int64_t* rows,
                    const ramet::Draw* hows, const uint64_t* steps, int64_t* ids, double* largest) {
  const ramet::Exclusive lock;
  ramet::draw_all(logits, vocab, count, rows, hows, steps, ids, largest);
}
}
