// Subset construction on demand (Rabin and Scott 1959; lazily as in Thompson's and Cox's matchers). See
// automaton.h.

#include "automaton.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <thread>

namespace ramet {
namespace {

// What one step of each kind weighs, in units of about the time in which a walk passes one node of the trie.
constexpr int64_t kMemberWork = 2, kEdgeWork = 2, kSortWork = 6, kStateWork = 64;
constexpr int64_t kDense = 8;
constexpr int kOffers = 200;

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

uint64_t process_key() {
  static const uint64_t key = [] {
    static int here;
    const auto now = std::chrono::high_resolution_clock::now().time_since_epoch().count();
    return mix(static_cast<uint64_t>(now) ^ reinterpret_cast<uintptr_t>(&here) * 0x9E3779B97F4A7C15ull);
  }();
  return key;
}

}  // namespace

void Gate::offer() {
  if (waiting_ == 0) return;
  mutex_.unlock();
  for (int i = 0; i < kOffers && waiting_ > 0; ++i) std::this_thread::yield();
  lock();
}

// ---- sets ---------------------------------------------------------------------------------------------

Sets::Sets() : key_(process_key()), slots_(64, -1) {}

uint64_t Sets::hash(const std::vector<int32_t>& members) const {
  uint64_t h = key_;
  for (int32_t member : members) h = mix(h + static_cast<uint64_t>(member) * 0x9E3779B97F4A7C15ull);
  return h;
}

int32_t Sets::find(const std::vector<int32_t>& members, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask; slots_[at] >= 0; at = (at + 1) & mask) {
    const int32_t set = slots_[at];
    if (hashes_[set] == hash && std::equal(begin(set), end(set), members.begin(), members.end())) {
      return set;
    }
  }
  return -1;
}

void Sets::add(const std::vector<int32_t>& members, uint64_t hash) {
  const auto set = static_cast<int32_t>(hashes_.size());
  hashes_.push_back(hash);
  members_.insert(members_.end(), members.begin(), members.end());
  begin_.push_back(static_cast<int64_t>(members_.size()));
  if (hashes_.size() * 2 > slots_.size()) {
    slots_.assign(slots_.size() * 2, -1);
    for (int32_t other = 0; other < set; ++other) place(other);
  }
  place(set);
}

void Sets::place(int32_t set) {
  const size_t mask = slots_.size() - 1;
  size_t at = hashes_[set] & mask;
  while (slots_[at] >= 0) at = (at + 1) & mask;
  slots_[at] = set;
}

int64_t Sets::bytes(int64_t sets, int64_t members) const {
  const int64_t count = static_cast<int64_t>(hashes_.size()) + sets;
  const auto slots = static_cast<int64_t>(slots_.size());
  return 4 * (static_cast<int64_t>(members_.size()) + members) + 16 * count +
         4 * (count * 2 > slots ? slots * 2 : slots);
}

// ---- the automaton ------------------------------------------------------------------------------------

Automaton::Automaton(Nfa nfa, Limits limits) : nfa_(std::move(nfa)), limits_(limits) {
  find_classes();
  visited_.assign(nfa_.size(), 0);
  ++stamp_;
  collect(nfa_.start);
  if (intern(&start_) != kOk) start_ = kDead;
}

Automaton::Automaton(int32_t states, int32_t classes, const uint8_t* class_of, const int32_t* table,
                     const uint8_t* accepting, const int32_t* distance)
    : start_(0),
      classes_(classes),
      table_(table, table + static_cast<int64_t>(states) * classes),
      distance_(distance, distance + states),
      accepting_(accepting, accepting + states) {
  std::memcpy(class_of_, class_of, 256);
}

// Two bytes are of one class if every state of the Nfa goes to the same states by both.
void Automaton::find_classes() {
  // The sum of a hash of (state, target) over the transitions that hold a byte, by differences where ranges
  // begin and end: 128 bits with a secret key, so equal sums are equal transitions.
  std::array<std::array<uint64_t, 2>, 257> sums{};
  const uint64_t key = process_key();
  for (int32_t s = 0; s < nfa_.size(); ++s) {
    for (int32_t k = nfa_.first[s]; k < nfa_.first[s + 1]; ++k) {
      const uint64_t edge = static_cast<uint64_t>(s) << 32 | static_cast<uint32_t>(nfa_.target[k]);
      for (int half = 0; half < 2; ++half) {
        const uint64_t weight = mix(mix(edge + key) + (key | 1) * (half + 1));
        sums[nfa_.low[k]][half] += weight;
        sums[nfa_.high[k] + 1][half] -= weight;
      }
    }
  }
  std::map<std::array<uint64_t, 2>, int> known;
  std::array<uint64_t, 2> sum{};
  for (int byte = 0; byte < 256; ++byte) {
    for (int half = 0; half < 2; ++half) sum[half] += sums[byte][half];
    const auto [place, is_new] = known.emplace(sum, static_cast<int>(known.size()));
    class_of_[byte] = static_cast<uint8_t>(place->second);
    if (is_new) a_byte_.push_back(static_cast<uint8_t>(byte));
  }
  classes_ = static_cast<int32_t>(known.size());
  std::vector<Bits> of_range;  // classes of each pair (low, high) that occurs
  std::vector<int32_t> index(256 * 256, -1);
  live_.resize(nfa_.size());
  for (int32_t s = 0; s < nfa_.size(); ++s) {
    for (int32_t k = nfa_.first[s]; k < nfa_.first[s + 1]; ++k) {
      int32_t& place = index[nfa_.low[k] * 256 + nfa_.high[k]];
      if (place < 0) {
        place = static_cast<int32_t>(of_range.size());
        of_range.emplace_back();
        for (int byte = nfa_.low[k]; byte <= nfa_.high[k]; ++byte) of_range.back().add(class_of_[byte]);
      }
      live_[s].add_all(of_range[place]);
    }
  }
}

// Adds to `fresh_` what can be reached from `from` without a byte, of it only what matters: states with
// transitions, and the final one.
void Automaton::collect(int32_t from) {
  if (visited_[from] == stamp_) return;
  visited_[from] = stamp_;
  stack_.push_back(from);
  while (!stack_.empty()) {
    const int32_t s = stack_.back();
    stack_.pop_back();
    if (matters(s)) fresh_.push_back(s);
    for (int32_t k = nfa_.eps_first[s]; k < nfa_.eps_first[s + 1]; ++k) {
      const int32_t t = nfa_.eps_target[k];
      if (visited_[t] == stamp_) continue;
      visited_[t] = stamp_;
      stack_.push_back(t);
    }
    work_ += kEdgeWork * (1 + nfa_.eps_first[s + 1] - nfa_.eps_first[s]);
  }
}

// Members in rising order. A large set is read off the marks, which costs less than sorting it.
void Automaton::order() {
  if (static_cast<int64_t>(fresh_.size()) * kDense < nfa_.size()) {
    std::sort(fresh_.begin(), fresh_.end());
    return;
  }
  fresh_.clear();
  for (int32_t s = 0; s < nfa_.size(); ++s) {
    if (visited_[s] == stamp_ && matters(s)) fresh_.push_back(s);
  }
}

// The state whose set is `fresh_`, which is emptied.
Status Automaton::intern(int32_t* state) {
  order();
  work_ += kSortWork * static_cast<int64_t>(fresh_.size());
  const uint64_t hash = sets_.hash(fresh_);
  *state = sets_.find(fresh_, hash);
  if (*state < 0) {
    if (states() >= limits_.states) return fresh_.clear(), kTooManyStates;
    const int64_t sets = sets_.bytes(1, static_cast<int64_t>(fresh_.size()));
    if (sets + row_bytes(states() + 1) > limits_.bytes) return fresh_.clear(), kTooMuchMemory;
    *state = states();
    sets_.add(fresh_, hash);
    Bits live;
    int32_t distance = kNever;
    for (int32_t s : fresh_) {
      live.add_all(live_[s]);
      distance = std::min(distance, nfa_.distance[s]);
    }
    for (int c = 0; c < classes_; ++c) table_.push_back(live.has(c) ? kUnknown : kDead);
    accepting_.push_back(std::binary_search(fresh_.begin(), fresh_.end(), nfa_.final));
    distance_.push_back(distance);
    work_ += kStateWork + classes_;
  }
  fresh_.clear();
  return kOk;
}

Status Automaton::go(int32_t state, int32_t byte_class, int32_t* to) {
  const int64_t place = static_cast<int64_t>(state) * classes_ + byte_class;
  *to = table_[place];
  if (*to != kUnknown) return kOk;
  if (cancelled_) return kCancelled;
  if (work_ > limits_.work) return kTooMuchWork;
  if (++stamp_ == INT32_MAX) {
    std::fill(visited_.begin(), visited_.end(), 0);
    stamp_ = 1;
  }
  const uint8_t byte = a_byte_[byte_class];
  for (const int32_t* s = sets_.begin(state); s < sets_.end(state); ++s) {
    work_ += kMemberWork;
    if (!live_[*s].has(byte_class)) continue;
    for (int32_t k = nfa_.first[*s]; k < nfa_.first[*s + 1]; ++k) {
      if (nfa_.low[k] <= byte && byte <= nfa_.high[k]) collect(nfa_.target[k]);
    }
    work_ += kEdgeWork * (nfa_.first[*s + 1] - nfa_.first[*s]);
  }
  const Status status = intern(to);
  if (status == kOk) table_[place] = *to;
  return status;
}

Status Automaton::complete(int32_t most, int64_t most_bytes, int64_t max_work) {
  const int64_t begin = work_;
  for (int32_t s = 0; s < states(); ++s) {
    for (int32_t c = 0; c < classes_; ++c) {
      if (states() > most || bytes() > most_bytes || work_ - begin > max_work) return kOutOfWork;
      int32_t to;
      const Status status = go(s, c, &to);
      if (status != kOk) return status;
    }
    work_ += classes_;
    if (s % 64 == 0) gate.offer();
  }
  return states() > most ? kOutOfWork : kOk;
}

Status Automaton::forced_byte(int32_t state, int32_t* byte, int32_t* to) {
  *byte = -1;
  if (accepting(state)) return kOk;
  const Bits next = next_bytes(state);
  int count = 0;
  for (uint64_t word : next.words) count += __builtin_popcountll(word);
  if (count != 1) return kOk;
  for (int b = 0; b < 256 && *byte < 0; ++b) {
    if (next.has(b)) *byte = b;
  }
  return go(state, class_of_[*byte], to);
}

Status Automaton::nearest_byte(int32_t state, int32_t* byte, int32_t* to) {
  *byte = -1;
  if (distance(state) == 0) return kOk;
  Bits seen;
  for (int b = 0; b < 256; ++b) {
    const int32_t c = class_of_[b];
    if (seen.has(c)) continue;
    seen.add(c);
    const Status status = go(state, c, to);
    if (status != kOk) return status;
    if (*to >= 0 && distance(*to) < distance(state)) {
      *byte = b;
      break;
    }
  }
  return kOk;
}

Bits Automaton::next_bytes(int32_t state) const {
  Bits found;
  const int32_t* row = table_.data() + static_cast<int64_t>(state) * classes_;
  for (int byte = 0; byte < 256; ++byte) {
    if (row[class_of_[byte]] != kDead) found.add(byte);
  }
  return found;
}

int64_t Automaton::bytes() const {
  return sets_.bytes(0, 0) + row_bytes(states());
}

int64_t Automaton::row_bytes(int64_t rows) const { return rows * (4 * classes_ + 5); }

}  // namespace ramet
