// Drawing one token from a row of logits: temperature, top-k, top-p, min-p, in float64.
//
// Knows one row at a time and which tokens may come; refuses to know requests and penalties (whoever
// changes logits hands in the changed row). The meaning is `_inverse_cdf` in engine/sampler.py: kept tokens
// are ranked by falling logit, ties by id, and the first one is taken at which the sum of kept weights
// exceeds u times their total; where nothing is filtered the order is that of the ids.
//
// Nothing is sorted as a whole. Tokens that can be kept are put into bins of falling logit, and only the
// two bins where something is decided are ranked. Every sum is taken in an order that depends on the row
// alone.
//
// A mask means minus infinity for all other tokens, and gives the bits of a row in which they are so: a
// token of weight zero changes no sum. Where few may come only these are looked at, as a list with ids,
// and the sums put each weight into the lane and block that its id has in the whole row.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

#include "parallel.h"
#include "sampling_mask.h"

namespace ramet {
namespace {

constexpr int kSumLanes = 16;
constexpr int64_t kBlock = 512;  // tokens whose weights are summed before it is known which is drawn
constexpr int kMostBins = 1024;
constexpr int64_t kBinCandidates = 4;  // about as many in a bin, while there are not too many bins
constexpr int64_t kListed = 4;  // masks that allow at most one token in so many: drawn from a list
constexpr int64_t kPart = 8192;  // tokens of a row that are looked at before it is known where the best is

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

// The largest number; NaN if there is one.
template <typename T>
T largest_of(const T* x, int64_t n) {
  T lanes[32];
  int32_t broken[32] = {};
  for (T& lane : lanes) lane = -std::numeric_limits<T>::infinity();
  const int64_t whole = n / 32 * 32;
  for (int64_t i = 0; i < whole; i += 32) {
    for (int j = 0; j < 32; ++j) {
      lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
      broken[j] |= x[i + j] != x[i + j];
    }
  }
  T best = lanes[0];
  int32_t bad = 0;
  for (int j = 0; j < 32; ++j) {
    best = lanes[j] > best ? lanes[j] : best;
    bad |= broken[j];
  }
  for (int64_t i = whole; i < n; ++i) {
    best = x[i] > best ? x[i] : best;
    bad |= x[i] != x[i];
  }
  return bad ? std::numeric_limits<T>::quiet_NaN() : best;
}

// Where `value` stands first; n if nowhere.
template <typename T>
int64_t first_of(const T* x, int64_t n, T value) {
  const int64_t whole = n / 32 * 32;
  for (int64_t i = 0; i < whole; i += 32) {
    int32_t found = 0;
    for (int j = 0; j < 32; ++j) found |= x[i + j] == value;
    if (found) return std::find(x + i, x + i + 32, value) - x;
  }
  return std::find(x + whole, x + n, value) - x;
}

// weights[i] = exp((x[i] - largest) / temperature)
template <typename T>
void weigh(const T* x, int64_t n, double largest, double inverse, double* weights) {
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = exp_lane((static_cast<double>(x[i]) - largest) * inverse);
  }
}

double fold(double* lanes) {
  for (int width = kSumLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

// The tokens of a row: all of it, or a list of rising ids. What is left out weighs nothing, and every
// function that takes either gives the same bits for both.
struct All {
  int64_t operator[](int64_t i) const { return i; }
};

// Of weights[first] to weights[end - 1], where the token at `first` of all begins a group of lanes.
double sum(const double* weights, All, int64_t first, int64_t end) {
  const double* x = weights + first;
  const int64_t n = end - first, whole = n / kSumLanes * kSumLanes;
  double lanes[kSumLanes] = {};
  for (int64_t i = 0; i < whole; i += kSumLanes) {
    for (int j = 0; j < kSumLanes; ++j) lanes[j] += x[i + j];
  }
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += x[i];
  return fold(lanes);
}

double sum(const double* weights, const int64_t* ids, int64_t first, int64_t end) {
  double lanes[kSumLanes] = {};
  for (int64_t i = first; i < end; ++i) lanes[ids[i] & (kSumLanes - 1)] += weights[i];
  return fold(lanes);
}

// Where the block of `size` tokens ends that the token at `first` is in.
int64_t block_end(All, int64_t first, int64_t n, int64_t size) { return std::min(first + size, n); }

int64_t block_end(const int64_t* ids, int64_t first, int64_t n, int64_t size) {
  const int64_t next = (ids[first] / size + 1) * size;
  int64_t end = first + 1;
  while (end < n && ids[end] < next) ++end;
  return end;
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

// In the order of ids: first the block, then the token in it. Returns its place among the n given ones.
// `sums` and `starts` have room for n + 1 each.
template <typename Ids>
int64_t pick_any(const double* weights, Ids ids, int64_t n, double u, double* sums, int64_t* starts) {
  int64_t count = 0;
  double total = 0;
  starts[0] = 0;
  while (starts[count] < n) {
    const int64_t end = block_end(ids, starts[count], n, kBlock);
    sums[count] = sum(weights, ids, starts[count], end);
    total += sums[count];
    starts[++count] = end;
  }
  const int64_t block = first_above(sums, count, u * total);
  double before = 0;
  for (int64_t b = 0; b < block; ++b) before += sums[b];
  const int64_t start = starts[block];
  return start + first_above(weights + start, starts[block + 1] - start, u * total - before);
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
  template <typename T, typename Ids>
  Bins(const T* x, const double* weights, Ids ids, int64_t n, double least, int64_t* order,
       Candidate* all)
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
      const int64_t at = order[i];
      all[next[bin_of(x[at])]++] = {static_cast<double>(x[at]), weights[at], ids[at]};
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

constexpr int64_t kRankBlock = 32;

// The largest weight of each whole block of a row of `vocab` tokens; returns how many blocks are meant.
int64_t block_maxima(const double* weights, All, int64_t, int64_t vocab, double* maxima) {
  const int64_t count = vocab / kRankBlock;
  for (int64_t b = 0; b < count; ++b) {
    const double* x = weights + b * kRankBlock;
    double lanes[8] = {};
    for (int64_t i = 0; i < kRankBlock; i += 8) {
      for (int j = 0; j < 8; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    }
    maxima[b] = *std::max_element(lanes, lanes + 8);
  }
  return count;
}

int64_t block_maxima(const double* weights, const int64_t* ids, int64_t n, int64_t vocab,
                     double* maxima) {
  int64_t count = 0;
  for (int64_t i = 0; i < n && ids[i] < vocab / kRankBlock * kRankBlock; ++count) {
    const int64_t end = block_end(ids, i, n, kRankBlock);
    maxima[count] = *std::max_element(weights + i, weights + end);
    i = end;
  }
  return count;  // the others' are 0
}

// At most the k-th largest weight: the k-th largest of the largest ones of blocks, since k blocks then hold
// a token each that weighs as much. 0 if there are fewer blocks.
template <typename Ids>
double at_most_rank(const double* weights, Ids ids, int64_t n, int64_t vocab, int64_t k,
                    double* maxima) {
  const int64_t count = block_maxima(weights, ids, n, vocab, maxima);
  if (count < k) return 0;
  std::nth_element(maxima, maxima + (k - 1), maxima + count, std::greater<double>());
  return maxima[k - 1];
}

// A token of a row of `vocab` tokens, of which the n given ones can come: x are their logits.
template <typename T, typename Ids>
int64_t draw_token(const T* x, Ids ids, int64_t n, int64_t vocab, double largest, const Draw& how,
                   double u, int thread) {
  auto* weights = static_cast<double*>(scratch(thread, 0, sizeof(double) * n));
  auto* order = static_cast<int64_t*>(scratch(thread, 1, sizeof(int64_t) * 2 * (n + 1)));
  auto* spare = reinterpret_cast<double*>(order + n + 1);
  weigh(x, n, largest, std::min(1.0 / how.temperature, 1e300), weights);
  const bool limited = how.top_k != -1 && how.top_k < vocab;
  if (!limited && how.top_p == 1 && how.min_p == 0) {
    return ids[pick_any(weights, ids, n, u, spare, order)];
  }
  double total = 0, least = 0;
  if (limited) {
    least = at_most_rank(weights, ids, n, vocab, how.top_k, spare);
  } else {
    total = sum(weights, ids, 0, n);
    // Tokens lighter than this weigh less than 1 - top_p of the total together, so none is kept.
    if (how.top_p < 1) least = (1 - how.top_p) * total / static_cast<double>(vocab);
    least = std::max(least, how.min_p);
  }
  least *= 0.999;  // weights are rounded; who is kept in the end is decided by the ranking
  auto* all = static_cast<Candidate*>(scratch(thread, 2, sizeof(Candidate) * n));
  Bins bins(x, weights, ids, n, least, order, all);
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

// The token and the largest logit that can come. Where that is not finite there is no token: of a row
// that is not broken, but of which nothing may come, the id is kNothing.
struct Drawn {
  int64_t id;
  double largest;
};

constexpr int64_t kNothing = -1;

// The first of the largest. A part of the row is looked at before the next one, so that where the largest
// stands is then looked for in one part only.
template <typename T>
Drawn best_of(const T* x, int64_t n) {
  T best = -std::numeric_limits<T>::infinity();
  int64_t part = 0;
  for (int64_t start = 0; start < n; start += kPart) {
    const T found = largest_of(x + start, std::min(kPart, n - start));
    if (found != found) return {0, found};
    if (found > best) {
      best = found;
      part = start;
    }
  }
  return {part + first_of(x + part, std::min(kPart, n - part), best), best};
}

template <typename T>
Drawn draw_any(const T* x, int64_t n, const Draw& how, uint64_t step, int thread) {
  if (how.temperature == 0) return best_of(x, n);
  const T best = largest_of(x, n);
  if (!std::isfinite(best)) return {0, best};
  return {draw_token(x, All{}, n, n, best, how, uniform(how.seed, step), thread), best};
}

// What a masked row gives where no token can be drawn.
template <typename T>
Drawn no_token(const T* x, int64_t n, const Seen<T>& seen) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (seen.broken) return {0, infinity};
  return {largest_of(x, n) == -infinity ? 0 : kNothing, -infinity};
}

template <typename T>
Drawn best_allowed(const T* x, int64_t n, const Mask& mask) {
  Seen<T> best{-std::numeric_limits<T>::infinity(), false};
  int64_t part = 0;
  for (int64_t start = 0; start < n; start += kPart) {
    T* nowhere = nullptr;
    const int64_t size = std::min(kPart, n - start);
    const Seen<T> seen = look<false>(x + start, size, mask.from(start), nowhere);
    best.broken |= seen.broken;
    if (seen.largest > best.largest) {
      best.largest = seen.largest;
      part = start;
    }
  }
  if (best.broken || !std::isfinite(best.largest)) return no_token(x, n, best);
  const int64_t size = std::min(kPart, n - part);
  return {part + first_allowed(x + part, size, mask.from(part), best.largest), best.largest};
}

template <typename T>
Drawn draw_listed(const T* x, int64_t n, const Mask& mask, int64_t allowed, const Draw& how,
                  double u, int thread) {
  auto* ids = static_cast<int64_t*>(scratch(thread, 3, (sizeof(int64_t) + sizeof(T)) * allowed));
  auto* values = reinterpret_cast<T*>(ids + allowed);
  list_allowed(x, n, mask, ids, values);
  const Seen<T> seen{largest_of(values, allowed), is_broken(x, n)};
  if (seen.broken || !std::isfinite(seen.largest)) return no_token(x, n, seen);
  const int64_t* listed = ids;
  return {draw_token(values, listed, allowed, n, seen.largest, how, u, thread), seen.largest};
}

template <typename T>
Drawn draw_filled(const T* x, int64_t n, const Mask& mask, const Draw& how, double u, int thread) {
  auto* filled = static_cast<T*>(scratch(thread, 3, sizeof(T) * n));
  const Seen<T> seen = look<true>(x, n, mask, filled);
  if (seen.broken || !std::isfinite(seen.largest)) return no_token(x, n, seen);
  return {draw_token(filled, All{}, n, n, seen.largest, how, u, thread), seen.largest};
}

template <typename T>
Drawn draw_masked(const T* x, int64_t n, const Mask& mask, const Draw& how, uint64_t step,
                  int thread) {
  if (how.temperature == 0) return best_allowed(x, n, mask);
  const double u = uniform(how.seed, step);
  const int64_t allowed = num_allowed(mask, n);
  if (allowed * kListed > n) return draw_filled(x, n, mask, how, u, thread);
  return draw_listed(x, n, mask, allowed, how, u, thread);
}

// Where the mask of an entry lies among all words; start -1: it has none.
struct Place {
  int64_t start, count;
};

template <typename T>
void draw_all(const T* logits, int64_t vocab, int64_t count, const int64_t* rows, const Draw* hows,
              const uint64_t* steps, const uint32_t* words, const Place* places, int64_t* ids,
              double* largest) {
  parallel_for(count, [&](int64_t i, int thread) {
    const T* x = logits + rows[i] * vocab;
    Drawn drawn;
    if (places && places[i].start >= 0) {
      const Mask mask{words + places[i].start, places[i].count};
      drawn = draw_masked(x, vocab, mask, hows[i], steps[i], thread);
    } else {
      drawn = draw_any(x, vocab, hows[i], steps[i], thread);
    }
    ids[i] = drawn.id;
    largest[i] = drawn.largest;
  });
}

}  // namespace
}  // namespace ramet

extern "C" {

// A token for each of `count` entries: entry i reads logits row rows[i] and is drawn as hows[i] says, as
// output number steps[i] of its seed, of the tokens that the mask at places[i] in `words` allows (places
// null: of all). ids: the tokens; largest: the largest logit that can come (NaN or plus infinity if
// there is one in the row at all). Where it is not finite nothing was drawn, and the id is -1 if that is
// the mask's doing.
void ramet_draw_f32(const float* logits, int64_t vocab, int64_t count, const int64_t* rows,
                    const ramet::Draw* hows, const uint64_t* steps, const uint32_t* words,
                    const ramet::Place* places, int64_t* ids, double* largest) {
  const ramet::Exclusive lock;
  ramet::draw_all(logits, vocab, count, rows, hows, steps, words, places, ids, largest);
}

void ramet_draw_f64(const double* logits, int64_t vocab, int64_t count, const int64_t* rows,
                    const ramet::Draw* hows, const uint64_t* steps, const uint32_t* words,
                    const ramet::Place* places, int64_t* ids, double* largest) {
  const ramet::Exclusive lock;
  ramet::draw_all(logits, vocab, count, rows, hows, steps, words, places, ids, largest);
}
}
