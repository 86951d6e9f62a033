// A row of logits under a mask of the tokens that may come.
//
// Knows bits and a row: what is broken in it, its largest allowed logit, the allowed ones as a list, or
// the row with minus infinity where the mask forbids; refuses to know how a token is drawn. Loops go word
// by word, 32 tokens each, so that words of zeros cost next to nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "simd.h"

namespace ramet {

// Bit i % 32 of words[i / 32]: token i may come. Tokens from 32 * count on may not.
struct Mask {
  const uint32_t* words;
  int64_t count;

  // The bits of word w for a row of n tokens: none beyond the row.
  uint32_t word(int64_t w, int64_t n) const {
    if (w >= count) return 0;
    const int64_t rest = n - 32 * w;
    return rest >= 32 ? words[w] : words[w] & ((uint32_t{1} << rest) - 1);
  }

  // For the row's tokens from `start`, a multiple of 32, on.
  Mask from(int64_t start) const { return {words + start / 32, count - start / 32}; }
};

// Bit by bit, as a table: a shift by a variable is no vector instruction everywhere.
struct Bits {
  uint32_t of[32];
};

constexpr Bits make_bits() {
  Bits bits{};
  for (int j = 0; j < 32; ++j) bits.of[j] = uint32_t{1} << j;
  return bits;
}

constexpr Bits kBits = make_bits();

inline int64_t num_words(int64_t n) { return (n + 31) / 32; }

inline int64_t count_bits(uint32_t v) {  // without a call where there is no instruction for it
  v -= v >> 1 & 0x55555555u;
  v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
  return ((v + (v >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24;
}

inline int64_t num_allowed(const Mask& mask, int64_t n) {
  int64_t found = 0;
  const int64_t whole = std::min(mask.count, n / 32);
  for (int64_t w = 0; w < whole; ++w) found += count_bits(mask.words[w]);
  return n % 32 ? found + count_bits(mask.word(n / 32, n)) : found;
}

// The floats of a row as the whole numbers that their bits are: among these a NaN or plus infinity is the
// largest with a sign, or the largest without, and whole numbers have a largest without any exception.
template <typename T>
struct Wide;

template <>
struct Wide<float> {
  using Signed = int32_t;
  using Unsigned = uint32_t;
};

template <>
struct Wide<double> {
  using Signed = int64_t;
  using Unsigned = uint64_t;
};

// Looks for a NaN or plus infinity, 32 numbers at a time.
template <typename T>
class Breaks {
  using Signed = typename Wide<T>::Signed;
  using Unsigned = typename Wide<T>::Unsigned;

 public:
  void see(int lane, T value) {
    Signed with;
    Unsigned without;
    std::memcpy(&with, &value, sizeof(T));
    std::memcpy(&without, &value, sizeof(T));
    with_[lane] = with > with_[lane] ? with : with_[lane];
    without_[lane] = without > without_[lane] ? without : without_[lane];
  }

  bool any() const {
    constexpr T top = std::numeric_limits<T>::infinity(), bottom = -top;
    Signed above;
    Unsigned below;
    std::memcpy(&above, &top, sizeof(T));
    std::memcpy(&below, &bottom, sizeof(T));
    bool found = false;
    for (int j = 0; j < 32; ++j) found |= with_[j] >= above || without_[j] > below;
    return found;
  }

 private:
  Signed with_[32] = {};
  Unsigned without_[32] = {};
};

// What a look at a masked row finds. `largest`: of the allowed logits, minus infinity without any.
template <typename T>
struct Seen {
  T largest;
  bool broken;  // a NaN or plus infinity anywhere, allowed or not
};

// With kFill, filled[i] = x[i] where token i may come, else minus infinity.
template <bool kFill, typename T>
Seen<T> look(const T* x, int64_t n, const Mask& mask, T* filled) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  Breaks<T> breaks;
  T lanes[32];
  for (T& lane : lanes) lane = none;
  const int64_t whole = n / 32;
  for (int64_t w = 0; w < whole; ++w) {
    const T* from = x + 32 * w;
    const uint32_t word = w < mask.count ? mask.words[w] : 0;
    for (int j = 0; j < 32; ++j) {
      const T v = word & kBits.of[j] ? from[j] : none;
      if (kFill) filled[32 * w + j] = v;
      lanes[j] = v > lanes[j] ? v : lanes[j];
      breaks.see(j, from[j]);
    }
  }
  const uint32_t last = n % 32 ? mask.word(whole, n) : 0;
  for (int64_t i = 32 * whole; i < n; ++i) {
    const int j = static_cast<int>(i % 32);
    const T v = last >> j & 1 ? x[i] : none;
    if (kFill) filled[i] = v;
    lanes[j] = v > lanes[j] ? v : lanes[j];
    breaks.see(j, x[i]);
  }
  return {*std::max_element(lanes, lanes + 32), breaks.any()};
}

#if defined(__AVX512DQ__)  // where a word is a mask register, and one instruction finds what is broken
template <bool kFill>
Seen<float> look(const float* x, int64_t n, const Mask& mask, float* filled) {
  constexpr int kNanOrInfinity = 0x89;  // quiet and signalling NaN, plus infinity
  const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest[2] = {none, none};
  __mmask16 bad = 0;
  const int64_t whole = n / 32;
  for (int64_t w = 0; w < whole; ++w) {
    const uint32_t word = w < mask.count ? mask.words[w] : 0;
    for (int half = 0; half < 2; ++half) {
      const int64_t i = 32 * w + 16 * half;
      const auto allowed = static_cast<__mmask16>(word >> 16 * half);
      const __m512 v = _mm512_loadu_ps(x + i);
      bad |= _mm512_fpclass_ps_mask(v, kNanOrInfinity);
      largest[half] = _mm512_mask_max_ps(largest[half], allowed, largest[half], v);
      if (kFill) _mm512_storeu_ps(filled + i, _mm512_mask_mov_ps(none, allowed, v));
    }
  }
  Seen<float> seen{_mm512_reduce_max_ps(_mm512_max_ps(largest[0], largest[1])), bad != 0};
  const uint32_t last = n % 32 ? mask.word(whole, n) : 0;
  for (int64_t i = 32 * whole; i < n; ++i) {
    const float v = last >> i % 32 & 1 ? x[i] : -std::numeric_limits<float>::infinity();
    if (kFill) filled[i] = v;
    seen.largest = v > seen.largest ? v : seen.largest;
    seen.broken |= !(x[i] < std::numeric_limits<float>::infinity());
  }
  return seen;
}
#endif

// Is there a NaN or plus infinity?
template <typename T>
bool is_broken(const T* x, int64_t n) {
  T* nowhere = nullptr;
  return look<false>(x, n, Mask{nullptr, 0}, nowhere).broken;
}

// The first allowed token whose logit is `value`; there is one.
template <typename T>
int64_t first_allowed(const T* x, int64_t n, const Mask& mask, T value) {
  for (int64_t w = 0; w < num_words(n); ++w) {
    const uint32_t word = mask.word(w, n);
    if (!word) continue;
    const int64_t end = std::min<int64_t>(32, n - 32 * w);
    if (end == 32) {
      int32_t found = 0;
      for (int j = 0; j < 32; ++j) found |= x[32 * w + j] == value && (word & kBits.of[j]);
      if (!found) continue;
    }
    for (int64_t j = 0; j < end; ++j) {
      if (word >> j & 1 && x[32 * w + j] == value) return 32 * w + j;
    }
  }
  return -1;
}

// The allowed tokens in order and their logits; returns their number, which is num_allowed.
template <typename T>
int64_t list_allowed(const T* x, int64_t n, const Mask& mask, int64_t* ids, T* values) {
  int64_t count = 0;
  for (int64_t w = 0; w < std::min(mask.count, num_words(n)); ++w) {
    for (uint32_t word = mask.word(w, n); word; word &= word - 1) {
      const int64_t id = 32 * w + __builtin_ctz(word);
      ids[count] = id;
      values[count++] = x[id];
    }
  }
  return count;
}

}  // namespace ramet
