// The walks of walk.h. A subtree below a dead byte is left out; so is one whose bytes all lead from a state to
// itself, and one that is known to be alive because no text of its bytes dies so soon. What is not left out
// costs two loads from tables that stay in the nearest cache.

#include "walk.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

namespace ramet {
namespace {

constexpr int64_t kTurn = 1 << 16;    // nodes between two looks at the budget and at who waits
constexpr int32_t kWorthLooking = 32;  // nodes of a subtree from which on it may be worth leaving out
constexpr int32_t kLastLook = 64;  // a row is looked at when it is asked for the 1st, 2nd, 4th, ... time
constexpr int32_t kFar = 32;       // bytes ahead and states in which it is looked for what cannot die
constexpr std::size_t kMany = 64;

// Ranges of tokens in the trie's order, rising and apart from each other.
struct Ranges {
  std::vector<int32_t> bounds;  // begin, end, begin, end, ...
  void add(int32_t begin, int32_t end) {
    if (!bounds.empty() && bounds.back() == begin) {
      bounds.back() = end;
    } else {
      bounds.push_back(begin);
      bounds.push_back(end);
    }
  }
};

// Groups of bytes all of whose bytes lead from a state to itself, as far as that is known; by state.
class Loops {
 public:
  Loops(const Automaton& automaton, const Trie& trie) : automaton_(automaton), trie_(trie) {}
  uint64_t of(int32_t state) {
    if (static_cast<std::size_t>(state) >= known_.size()) known_.resize(automaton_.states(), {0, 0});
    // The row fills up while the walk goes on: few looks, each at a row with more in it.
    auto& [asked, groups] = known_[state];
    if (asked >= kLastLook) return groups;
    ++asked;
    if ((asked & (asked - 1)) == 0) groups = look(state);
    return groups;
  }

 private:
  uint64_t look(int32_t state) const {
    const int32_t* row = automaton_.table() + static_cast<int64_t>(state) * automaton_.classes();
    uint64_t leaves = 0;
    for (int byte = 0; byte < 256; ++byte) {
      if (row[automaton_.class_of()[byte]] != state) leaves |= uint64_t{1} << trie_.group[byte];
    }
    return ~leaves;
  }
  const Automaton& automaton_;
  const Trie& trie_;
  std::vector<std::pair<int32_t, uint64_t>> known_;
};

// Groups of ASCII of which any text with at most `steps` bytes is legal from a state. A counted repeat has no
// loops, but far from its limit it does as if.
class Plain {
 public:
  Plain() = default;
  Plain(Automaton& automaton, int32_t state, const Trie& trie) : group_(trie.group) {
    const int64_t most_work = automaton.work() + kTurn;
    find_groups(automaton, state, most_work);
    Bits classes;
    for (int byte = 0; byte < 256; ++byte) {
      if (has(byte)) classes.add(automaton.class_of()[byte]);
    }
    std::vector<int32_t> states{state};  // in the order of their distance
    std::size_t at = 0;
    while (groups_ != 0 && steps_ < kFar) {
      const std::size_t end = states.size();
      for (; at < end; ++at) {
        for (int c = 0; c < automaton.classes(); ++c) {
          int32_t to = kDead;
          if (!classes.has(c)) continue;
          // Too much for the budget is no fault here: the walk itself may need less.
          if (automaton.go(states[at], c, &to) != kOk || to == kDead) return;
          if (std::find(states.begin(), states.end(), to) == states.end()) states.push_back(to);
        }
        if (states.size() > kMany || automaton.work() > most_work) return;
      }
      steps_ = states.size() == end ? INT32_MAX : steps_ + 1;  // without a new state it goes on so for ever
    }
  }

  bool has(int byte) const { return groups_ >> group_[byte] & 1; }
  // Whether no text through a node at `depth` dies, up to the ends of the tokens below it.
  bool holds(const Trie& trie, int32_t node, int32_t depth) const {
    return (trie.below[node] & ~groups_) == 0 && trie.height[node] <= steps_ - depth;
  }

 private:
  // The groups that lead to the state to which most of ASCII does: what ends a string, say, does not belong to
  // them. What is not ASCII takes several bytes for a character, and in between the others are dead.
  void find_groups(Automaton& automaton, int32_t state, int64_t most_work) {
    int32_t to[128], best = kDead;
    std::ptrdiff_t most = 0;
    for (int byte = 0; byte < 128; ++byte) {
      if (automaton.work() > most_work) return;
      if (automaton.go(state, automaton.class_of()[byte], &to[byte]) != kOk) return;
    }
    for (int byte = 0; byte < 128; ++byte) {
      if (to[byte] == best || to[byte] == kDead) continue;
      const std::ptrdiff_t count = std::count(to, to + 128, to[byte]);
      if (count > most) most = count, best = to[byte];
    }
    if (best == kDead) return;
    uint64_t others = 0;
    for (int byte = 0; byte < 256; ++byte) {
      if (byte >= 128 || to[byte] != best) others |= uint64_t{1} << group_[byte];
    }
    groups_ = ~others;
  }

  const uint8_t* group_ = nullptr;
  uint64_t groups_ = 0;
  int32_t steps_ = 0;
};

// Calls dead(node) for the topmost nodes that are dead, and live(node, state) or loop(node, state) for the
// others: loop stands for the node and everything below it. With `leaves`, a node with nothing below it gets
// its state too, else kUnknown where that is not known yet.
template <bool leaves, typename Dead, typename Live, typename Loop>
Status walk(Automaton& dfa, int32_t state, const Trie& trie, int64_t max_work, Dead dead, Live live,
            Loop loop) {
  std::vector<int32_t> path(trie.deepest + 1);
  path[0] = state;
  Loops loops(dfa, trie);
  int64_t before = dfa.work();
  const Plain plain = leaves ? Plain() : Plain(dfa, state, trie);
  int32_t plain_depth = 0;  // so many first bytes of the path to the last large subtree
  const int32_t classes = dfa.classes();
  const uint8_t* class_of = dfa.class_of();
  int64_t spent = dfa.work() - before;
  before = dfa.work();
  int32_t i = 0;
  while (i < trie.nodes) {
    const int32_t* table = dfa.table();
    int64_t turn = std::min(kTurn, max_work - spent);
    if (turn <= 0) return kOutOfWork;
    const int64_t given = turn;
    while (i < trie.nodes && turn-- > 0) {
      const int32_t depth = trie.depth[i], end = trie.end[i];
      if (!leaves && end - i > kWorthLooking && depth <= plain_depth + 1) {
        const bool here = plain.has(trie.byte[i]);
        if (here && plain.holds(trie, i, depth)) {
          loop(i, kUnknown);
          i = end;
          continue;
        }
        plain_depth = here ? depth : depth - 1;
      }
      const int32_t from = path[depth - 1], byte_class = class_of[trie.byte[i]];
      int32_t to = table[static_cast<int64_t>(from) * classes + byte_class];
      if (to == kDead) {
        dead(i);
        i = end;
        continue;
      }
      if (to == kUnknown && (leaves || end > i + 1)) {
        const Status status = dfa.go(from, byte_class, &to);
        if (status != kOk) return status;
        table = dfa.table();
        const int64_t now = dfa.work();
        turn -= now - before;
        before = now;
      }
      if (end - i > kWorthLooking && (trie.below[i] & ~loops.of(to)) == 0) {
        loop(i, to);
        i = end;
        continue;
      }
      path[depth] = to;
      live(i, to);
      ++i;
    }
    spent += given - turn;
    if (dfa.cancelled()) return kCancelled;
    dfa.gate.offer();
    before = dfa.work();  // others may have worked meanwhile
  }
  return kOk;
}

// The mask that has every token but those of `dead`.
void fill(const Trie& trie, const Ranges& dead, uint32_t* mask) {
  const auto each = [&](int32_t begin, int32_t end, auto change) {
    for (int32_t k = begin; k < end; ++k) {
      change(mask[trie.order[k] >> 5], uint32_t{1} << (trie.order[k] & 31));
    }
  };
  int64_t count = 0;
  for (std::size_t r = 0; r < dead.bounds.size(); r += 2) count += dead.bounds[r + 1] - dead.bounds[r];
  if (count * 2 < trie.tokens) {
    std::memcpy(mask, trie.all, sizeof(uint32_t) * trie.words);
    for (std::size_t r = 0; r < dead.bounds.size(); r += 2) {
      each(dead.bounds[r], dead.bounds[r + 1], [](uint32_t& word, uint32_t bit) { word &= ~bit; });
    }
    return;
  }
  std::memset(mask, 0, sizeof(uint32_t) * trie.words);
  int32_t from = 0;
  const auto set = [](uint32_t& word, uint32_t bit) { word |= bit; };
  for (std::size_t r = 0; r < dead.bounds.size(); r += 2) {
    each(from, dead.bounds[r], set);
    from = dead.bounds[r + 1];
  }
  each(from, trie.tokens, set);
}

}  // namespace

Status walk_mask(Automaton& automaton, int32_t state, const Trie& trie, int64_t max_work,
                 uint32_t* mask) {
  static thread_local Ranges dead;
  dead.bounds.clear();
  const auto nothing = [](int32_t, int32_t) {};
  const Status status = walk<false>(
      automaton, state, trie, max_work,
      [&](int32_t i) { dead.add(trie.first[i], trie.first[trie.end[i]]); }, nothing, nothing);
  if (status == kOk) fill(trie, dead, mask);
  return status;
}

Status walk_states(Automaton& automaton, int32_t state, const Trie& trie, int64_t max_work,
                   int32_t* next) {
  const auto write = [&](int32_t begin, int32_t end, int32_t to) {
    for (int32_t k = begin; k < end; ++k) next[trie.order[k]] = to;
  };
  return walk<true>(
      automaton, state, trie, max_work, [](int32_t) {},
      [&](int32_t i, int32_t to) { write(trie.first[i], trie.first[i + 1], to); },
      [&](int32_t i, int32_t to) { write(trie.first[i], trie.first[trie.end[i]], to); });
}

}  // namespace ramet
