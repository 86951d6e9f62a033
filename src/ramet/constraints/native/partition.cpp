// Hopcroft's algorithm (1971) for a partial transition function, where in the beginning every block has to be
// used as a splitter (Valmari and Lehtinen 2008). O(states * classes * log(states)).

#include "partition.h"

#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

namespace ramet {
namespace {

// Blocks of states, each a range of `order_`; some states of a block may be marked, which moves them to its
// front.
class Blocks {
 public:
  explicit Blocks(int32_t states)
      : order_(states), place_(states), block_(states, 0), begin_{0}, end_{states}, marked_{0} {
    std::iota(order_.begin(), order_.end(), 0);
    std::iota(place_.begin(), place_.end(), 0);
  }

  int32_t count() const { return static_cast<int32_t>(begin_.size()); }
  int32_t of(int32_t state) const { return block_[state]; }
  int32_t size(int32_t block) const { return end_[block] - begin_[block]; }
  const int32_t* begin(int32_t block) const { return order_.data() + begin_[block]; }
  const int32_t* end(int32_t block) const { return order_.data() + end_[block]; }

  // True for the first marked state of a block.
  bool mark(int32_t state) {
    const int32_t block = block_[state], front = begin_[block] + marked_[block];
    if (place_[state] < front) return false;
    const int32_t other = order_[front];
    std::swap(order_[front], order_[place_[state]]);
    place_[other] = place_[state];
    place_[state] = front;
    return marked_[block]++ == 0;
  }

  // Makes the marked states of a block a new one, whose number it returns; -1 if none or all were marked.
  int32_t split(int32_t block) {
    const int32_t middle = begin_[block] + std::exchange(marked_[block], 0);
    if (middle == begin_[block] || middle == end_[block]) return -1;
    const int32_t fresh = count();
    begin_.push_back(begin_[block]);
    end_.push_back(middle);
    marked_.push_back(0);
    begin_[block] = middle;
    for (int32_t k = begin_[fresh]; k < middle; ++k) block_[order_[k]] = fresh;
    return fresh;
  }

 private:
  std::vector<int32_t> order_, place_, block_, begin_, end_, marked_;
};

// States that go to `target` by `c`: from[first[target * classes + c]] .. from[first[... + 1]].
struct Sources {
  std::vector<int32_t> first, from;
  Sources(int32_t states, int32_t classes, const int32_t* table)
      : first(static_cast<std::size_t>(states) * classes + 2, 0) {
    const auto each = [&](auto visit) {
      for (int32_t s = 0; s < states; ++s) {
        for (int32_t c = 0; c < classes; ++c) {
          const int32_t to = table[static_cast<int64_t>(s) * classes + c];
          if (to >= 0) visit(s, static_cast<int64_t>(to) * classes + c);
        }
      }
    };
    each([&](int32_t, int64_t edge) { ++first[edge + 2]; });
    std::partial_sum(first.begin(), first.end(), first.begin());
    from.resize(first.back());
    each([&](int32_t s, int64_t edge) { from[first[edge + 1]++] = s; });
  }
};

}  // namespace

int32_t partition(int32_t states, int32_t classes, const int32_t* table, const uint8_t* accepting,
                  int32_t* block) {
  const Sources sources(states, classes, table);
  Blocks blocks(states);
  for (int32_t s = 0; s < states; ++s) {
    if (accepting[s]) blocks.mark(s);
  }
  blocks.split(0);
  std::vector<std::pair<int32_t, int32_t>> todo;  // (block, class)
  std::vector<char> waits;                        // [block * classes + class]
  const auto add = [&](int32_t b, int32_t c) {
    todo.emplace_back(b, c);
    waits[static_cast<int64_t>(b) * classes + c] = 1;
  };
  waits.resize(static_cast<std::size_t>(blocks.count()) * classes);
  for (int32_t b = 0; b < blocks.count(); ++b) {
    for (int32_t c = 0; c < classes; ++c) add(b, c);
  }
  std::vector<int32_t> touched, coming;
  while (!todo.empty()) {
    const auto [splitter, by] = todo.back();
    todo.pop_back();
    waits[static_cast<int64_t>(splitter) * classes + by] = 0;
    coming.clear();  // before anything is marked: marking reorders the splitter itself
    for (const int32_t* s = blocks.begin(splitter); s < blocks.end(splitter); ++s) {
      const int64_t edge = static_cast<int64_t>(*s) * classes + by;
      coming.insert(coming.end(), sources.from.begin() + sources.first[edge],
                    sources.from.begin() + sources.first[edge + 1]);
    }
    touched.clear();
    for (int32_t s : coming) {
      if (blocks.mark(s)) touched.push_back(blocks.of(s));
    }
    for (int32_t b : touched) {
      const int32_t fresh = blocks.split(b);
      if (fresh < 0) continue;
      waits.resize(static_cast<std::size_t>(blocks.count()) * classes);
      for (int32_t c = 0; c < classes; ++c) {
        const bool both = waits[static_cast<int64_t>(b) * classes + c] != 0;
        add(both || blocks.size(fresh) <= blocks.size(b) ? fresh : b, c);
      }
    }
  }
  for (int32_t s = 0; s < states; ++s) block[s] = blocks.of(s);
  return blocks.count();
}

}  // namespace ramet
