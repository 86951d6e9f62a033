// A deterministic automaton over bytes that is built while it is used: subset construction over an Nfa, one
// transition at a time, or a table that is complete from the beginning. Knows states, bytes and budgets; does
// not know tokens.
//
// Every state of the Nfa reaches its end, so a state of this automaton (a set that is not empty) is alive: a
// byte is legal exactly if some member of the set has a transition for it. That is known for every byte as
// soon as a state exists, so nothing is determinized only to learn that it is dead.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace ramet {

constexpr int32_t kDead = -1, kUnknown = -2;
constexpr int32_t kNever = INT32_MAX;  // distance of the dead state

enum Status : int32_t {
  kOk = 0,
  kOutOfWork = 1,  // of this call
  kTooManyStates = 2,
  kTooMuchMemory = 3,
  kTooMuchWork = 4,  // of all calls together
  kCancelled = 5,
  kBadState = 6,
};

// 256 bits: a set of bytes or of byte classes.
struct Bits {
  uint64_t words[4] = {0, 0, 0, 0};
  void add(int i) { words[i >> 6] |= uint64_t{1} << (i & 63); }
  bool has(int i) const { return words[i >> 6] >> (i & 63) & 1; }
  void add_all(const Bits& other) {
    for (int w = 0; w < 4; ++w) words[w] |= other.words[w];
  }
};

struct Nfa {
  int32_t start, final;
  std::vector<int32_t> first, target, eps_first, eps_target, distance;
  std::vector<uint8_t> low, high;
  int32_t size() const { return static_cast<int32_t>(distance.size()); }
};

struct Limits {
  int64_t states, bytes, work;
};

// Sets of Nfa states, each kept once, numbered in the order in which they came.
class Sets {
 public:
  Sets();
  // The number of a set (rising members), or -1 if it is new.
  int32_t find(const std::vector<int32_t>& members, uint64_t hash) const;
  void add(const std::vector<int32_t>& members, uint64_t hash);
  uint64_t hash(const std::vector<int32_t>& members) const;
  const int32_t* begin(int32_t set) const { return members_.data() + begin_[set]; }
  const int32_t* end(int32_t set) const { return members_.data() + begin_[set + 1]; }
  // With one more set of so many members, or none.
  int64_t bytes(int64_t sets, int64_t members) const;

 private:
  void place(int32_t set);
  uint64_t key_;  // differs from process to process, so that nobody can choose sets that collide
  std::vector<int32_t> members_, slots_;
  std::vector<int64_t> begin_{0};
  std::vector<uint64_t> hashes_;
};

// A mutex that its holder can offer to those who wait: a long walk must not keep a short step waiting.
class Gate {
 public:
  void lock() {
    ++waiting_;
    mutex_.lock();
    --waiting_;
  }
  void unlock() { mutex_.unlock(); }
  void offer();

 private:
  std::mutex mutex_;
  std::atomic<int> waiting_{0};
};

// Hold `gate` around everything but `cancel`.
class Automaton {
 public:
  Automaton(Nfa nfa, Limits limits);
  Automaton(int32_t states, int32_t classes, const uint8_t* class_of, const int32_t* table,
            const uint8_t* accepting, const int32_t* distance);

  int32_t start() const { return start_; }
  int32_t states() const { return static_cast<int32_t>(distance_.size()); }
  int32_t classes() const { return classes_; }
  const uint8_t* class_of() const { return class_of_; }
  // [states, classes]; moves when a state is added.
  const int32_t* table() const { return table_.data(); }
  bool accepting(int32_t state) const { return accepting_[state] != 0; }
  int32_t distance(int32_t state) const { return state < 0 ? kNever : distance_[state]; }
  Bits next_bytes(int32_t state) const;
  int64_t bytes() const;
  int64_t work() const { return work_; }  // done for determinizing, since the beginning

  // Where `byte_class` leads from `state`: determinizes if that is unknown.
  Status go(int32_t state, int32_t byte_class, int32_t* to);
  // The same as `go` for every class of every state, until there are more than `most` states, which take
  // more than `most_bytes`: kOutOfWork.
  Status complete(int32_t most, int64_t most_bytes, int64_t max_work);

  // The one byte that must come at `state`, or -1 where there are others or the text may end.
  Status forced_byte(int32_t state, int32_t* byte, int32_t* to);
  // The smallest byte from `state` on a shortest way to acceptance, or -1 where that is reached.
  Status nearest_byte(int32_t state, int32_t* byte, int32_t* to);

  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  Gate gate;

 private:
  void find_classes();
  int64_t row_bytes(int64_t rows) const;
  void collect(int32_t from);
  bool matters(int32_t s) const { return s == nfa_.final || nfa_.first[s] < nfa_.first[s + 1]; }
  void order();
  Status intern(int32_t* state);

  Nfa nfa_{};
  Limits limits_{};
  int32_t start_ = kDead, classes_ = 0;
  uint8_t class_of_[256] = {};
  std::vector<uint8_t> a_byte_;  // of each class
  std::vector<Bits> live_;       // classes for which a state of the Nfa has transitions

  std::vector<int32_t> table_, distance_;
  std::vector<uint8_t> accepting_;
  Sets sets_;
  int64_t work_ = 0;
  std::atomic<bool> cancelled_{false};

  std::vector<int32_t> visited_, stack_, fresh_;  // of the closure that is being computed
  int32_t stamp_ = 0;
};

}  // namespace ramet
