#include "tiles.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"

namespace ramet {
namespace {

constexpr int64_t kMostVectors = 192;  // queries of one KV head in a strip: its state stays in the L2 cache
constexpr int64_t kFewVectors = 48;    // below this, reading the keys is what takes the time
constexpr int64_t kMostState = 192 << 10;      // bytes of queries and sums of one task
constexpr int64_t kMostResults = 64 << 20;     // bytes of block results of one strip
constexpr double kLeastTask = 40e3;            // cycles; about what waking a second core costs

// Length of the longest common prefix.
int64_t common_prefix(const int64_t* a, const int64_t* b, int64_t length) {
  constexpr int64_t kPiece = 512;
  if (a == b) return length;
  int64_t i = 0;
  while (i + kPiece <= length && std::memcmp(a + i, b + i, kPiece * sizeof *a) == 0) i += kPiece;
  while (i < length && a[i] == b[i]) ++i;
  return i;
}

class Planner {
 public:
  Planner(int64_t num_segments, const int64_t* row_starts, const int64_t* first_positions,
          const int64_t* const* paths, const AttentionShape& shape)
      : num_segments_(num_segments), row_starts_(row_starts), first_positions_(first_positions),
        paths_(paths), group_(shape.group()), common_(num_segments, 0) {
    plan_.shape = shape;
  }

  AttentionPlan run() {
    place_rows();
    compare_neighbours();
    std::vector<Strip> strips = cut();
    double total = 0;
    for (const Strip& strip : strips) total += strip.cost * plan_.shape.kv_heads;
    const int threads = num_threads();
    target_ = threads == 1 ? total + 1 : std::max(kLeastTask, total / (4 * threads));
    for (Strip& strip : strips) deal(std::move(strip));
    std::stable_sort(plan_.tasks.begin(), plan_.tasks.end(),
                     [](const Task& a, const Task& b) { return a.cost > b.cost; });
    return std::move(plan_);
  }

 private:
  int64_t rows(int64_t s) const { return row_starts_[s + 1] - row_starts_[s]; }
  int64_t length(int64_t s) const { return first_positions_[s] + rows(s); }

  void place_rows() {
    plan_.positions.resize(num_segments_ > 0 ? row_starts_[num_segments_] : 0);
    segment_of_.resize(plan_.positions.size());
    for (int64_t s = 0; s < num_segments_; ++s) {
      for (int64_t row = row_starts_[s]; row < row_starts_[s + 1]; ++row) {
        plan_.positions[row] = first_positions_[s] + row - row_starts_[s];
        segment_of_[row] = s;
      }
    }
  }

  void compare_neighbours() {
    parallel_for((num_segments_ + 7) / 8, [this](int64_t part, int) {
      const int64_t end = std::min(num_segments_, 8 * part + 8);
      for (int64_t s = std::max<int64_t>(1, 8 * part); s < end; ++s)
        common_[s] = common_prefix(paths_[s - 1], paths_[s], std::min(length(s - 1), length(s)));
    });
  }

  // Strips where neighbours share no block, and of at most kMostVectors queries.
  std::vector<Strip> cut() const {
    std::vector<Strip> strips;
    const int64_t most_rows = std::max<int64_t>(1, kMostVectors / group_);
    for (int64_t s = 0, next; s < num_segments_; s = next) {
      for (next = s + 1; next < num_segments_ && common_[next] >= kBlock;) ++next;
      const int64_t first = row_starts_[s], count = row_starts_[next] - first;
      const int64_t parts = (count + most_rows - 1) / most_rows;
      for (int64_t i = 0; i < parts; ++i)
        strips.push_back(make_strip(first + count * i / parts, first + count * (i + 1) / parts));
    }
    return strips;
  }

  Strip make_strip(int64_t first_row, int64_t end_row) const {
    Strip strip{first_row, end_row, {}};
    const int64_t first = segment_of_[first_row], last = segment_of_[end_row - 1];
    int64_t longest = 0;
    for (int64_t s = first; s <= last; ++s) longest = std::max(longest, visible(s, end_row));
    for (int64_t start = 0; start < longest; start += kBlock) add_block(strip, first, last, start);
    for (const Tile& tile : strip.tiles) strip.cost += cost(tile);
    return strip;
  }

  // Positions that the last row of segment s before end_row reads.
  int64_t visible(int64_t s, int64_t end_row) const {
    return first_positions_[s] + std::min(end_row, row_starts_[s + 1]) - row_starts_[s];
  }

  // The tiles of the block at position `start`: a segment joins its neighbour's tile if their slots are
  // the same as far as both go.
  void add_block(Strip& strip, int64_t first, int64_t last, int64_t start) const {
    bool open = false;   // whether the last tile is one of this block
    bool whole = false;  // whether the segment before filled the block
    for (int64_t s = first; s <= last; ++s) {
      const int64_t here = std::min(kBlock, visible(s, strip.end_row) - start);
      const int64_t skipped = std::max<int64_t>(0, start - first_positions_[s]);
      const int64_t row = std::max(strip.first_row, row_starts_[s] + skipped);
      const int64_t end_row = std::min(strip.end_row, row_starts_[s + 1]);
      if (here <= 0 || row >= end_row) continue;
      const int64_t* slots = paths_[s] + start;
      if (open && strip.tiles.back().end_row == row && joins(strip.tiles.back(), s, start, here, whole)) {
        Tile& tile = strip.tiles.back();
        tile.end_row = end_row;
        if (here > tile.count) tile.slots = slots, tile.count = here;
      } else {
        strip.tiles.push_back({slots, row, end_row, start / kBlock, here});
        open = true;
      }
      whole = here == kBlock;
    }
  }

  bool joins(const Tile& tile, int64_t s, int64_t start, int64_t here, bool whole) const {
    if (common_[s] <= start) return false;
    if (whole && common_[s] >= start + kBlock) return true;
    const int64_t both = std::min(here, tile.count);
    return std::memcmp(tile.slots, paths_[s] + start, both * sizeof *tile.slots) == 0;
  }

  // Cycles for one KV head, about: reading and packing a position, and two products with every query.
  double cost(const Tile& tile) const {
    const double vectors = (tile.end_row - tile.first_row) * group_;
    return tile.count * plan_.shape.head_dim * (100 + 8 * vectors) / 64 + 100 * vectors;
  }

  // Turns a strip into tasks of at most about `target_`: by KV heads, then by rows, then by blocks.
  void deal(Strip strip) {
    const int64_t rows = strip.end_row - strip.first_row, vectors = rows * group_;
    const int64_t kv_heads = plan_.shape.kv_heads;
    const int64_t state = vectors * kv_heads * plan_.shape.head_dim * 2 * sizeof(float);
    const bool small = strip.cost * kv_heads <= target_;
    const bool by_head = state > kMostState || (!small && vectors >= kFewVectors);
    const double whole = by_head ? strip.cost : strip.cost * kv_heads;
    if (whole > 1.5 * target_ && vectors >= 2 * kFewVectors && rows > 1) {
      deal(make_strip(strip.first_row, strip.first_row + rows / 2));
      deal(make_strip(strip.first_row + rows / 2, strip.end_row));
      return;
    }
    std::vector<int64_t> cuts{0};
    if (whole > 1.5 * target_) cuts = cut_blocks(strip, whole / target_);
    cuts.push_back(static_cast<int64_t>(strip.tiles.size()));
    if (cuts.size() > 2) reserve_results(strip, cuts[1]);
    add_tasks(strip, cuts, by_head ? 1 : kv_heads);
  }

  // Tiles at which to cut the strip's blocks into about `parts` parts of the same cost.
  std::vector<int64_t> cut_blocks(const Strip& strip, double parts) const {
    std::vector<int64_t> cuts{0};
    const int64_t num_blocks = strip.tiles.back().block + 1;
    const int64_t results = num_blocks * (strip.end_row - strip.first_row) * plan_.shape.heads;
    if (results * (plan_.shape.head_dim + 16) * 4 > kMostResults) return cuts;
    const double each = strip.cost / std::min<double>(parts, num_blocks / 2);
    double sum = 0;
    for (size_t i = 0; i < strip.tiles.size(); ++i) {
      const bool new_block = i > 0 && strip.tiles[i].block != strip.tiles[i - 1].block;
      if (new_block && sum + cost(strip.tiles[i]) / 2 >= each * cuts.size())
        cuts.push_back(static_cast<int64_t>(i));
      sum += cost(strip.tiles[i]);
    }
    return cuts;
  }

  void reserve_results(Strip& strip, int64_t first_split_tile) {
    strip.split = strip.tiles[first_split_tile].block;
    strip.num_results = strip.tiles.back().block - strip.split + 2;
    strip.first_result = plan_.num_results;
    plan_.num_results += strip.num_results * (strip.end_row - strip.first_row) * plan_.shape.heads;
    plan_.split_strips.push_back(static_cast<int64_t>(plan_.strips.size()));
  }

  void add_tasks(Strip& strip, const std::vector<int64_t>& cuts, int64_t heads_at_once) {
    const auto number = static_cast<int64_t>(plan_.strips.size());
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      double part = 0;
      for (int64_t t = cuts[i]; t < cuts[i + 1]; ++t) part += cost(strip.tiles[t]);
      for (int64_t h = 0; h < plan_.shape.kv_heads; h += heads_at_once)
        plan_.tasks.push_back({number, h, h + heads_at_once, cuts[i], cuts[i + 1], part * heads_at_once});
    }
    plan_.strips.push_back(std::move(strip));
  }

  const int64_t num_segments_;
  const int64_t* const row_starts_;
  const int64_t* const first_positions_;
  const int64_t* const* const paths_;
  const int64_t group_;
  std::vector<int64_t> common_;      // positions that a segment's path shares with the one before
  std::vector<int64_t> segment_of_;  // of each row
  double target_ = 0;
  AttentionPlan plan_;
};

}  // namespace

AttentionPlan plan_attention(int64_t num_segments, const int64_t* row_starts,
                             const int64_t* first_positions, const int64_t* const* paths,
                             const AttentionShape& shape) {
  return Planner(num_segments, row_starts, first_positions, paths, shape).run();
}

}  // namespace ramet
