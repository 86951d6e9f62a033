// Which rows read which keys together, and who computes what.
//
// Knows segments, paths and costs; refuses to know queries, keys and arithmetic. A *tile* is a block of 64
// positions and a range of rows whose slots in that block are the same. A *strip* is a range of rows with
// all of their tiles in order of position. A *task* computes a strip, or some of its KV heads, or some of
// its blocks. How rows, heads and blocks are dealt out shows in the time, never in a result.
#pragma once

#include <cstdint>
#include <vector>

namespace ramet {

constexpr int64_t kBlock = 64;

struct AttentionShape {
  int64_t heads;     // of queries
  int64_t kv_heads;  // divides heads; query head h reads kv head h / (heads / kv_heads)
  int64_t head_dim;

  int64_t group() const { return heads / kv_heads; }
};

// Rows first_row .. end_row read slots[0 .. count) at positions kBlock * block ...; a row at position p
// reads those up to p.
struct Tile {
  const int64_t* slots;
  int64_t first_row, end_row;
  int64_t block, count;
};

// Where a strip's blocks are split among tasks, the first task merges the blocks before `split` and the
// others leave one result per block, row and head in a buffer: result 0 of a row and head is what the
// first task merged, result i that of block split + i - 1.
struct Strip {
  int64_t first_row, end_row;
  std::vector<Tile> tiles;  // by block, then by row
  double cost = 0;          // of one KV head, in about cycles
  int64_t split = -1;       // -1: the strip is not split
  int64_t num_results = 0;  // of one row and head
  int64_t first_result = 0;
};

// Tiles first_tile .. end_tile of a strip for KV heads first_head .. end_head.
struct Task {
  int64_t strip, first_head, end_head, first_tile, end_tile;
  double cost;
};

struct AttentionPlan {
  AttentionShape shape;
  std::vector<int64_t> positions;  // of each row
  std::vector<Strip> strips;
  std::vector<Task> tasks;  // most expensive first
  std::vector<int64_t> split_strips;
  int64_t num_results = 0;
};

// Once per step. Segments and paths as in ramet/kernels/plan.py; `paths` stay the caller's and must live
// as long as the plan. Time: one comparison of every path with its neighbour's, and a little per tile.
// The caller holds `Exclusive`.
AttentionPlan plan_attention(int64_t num_segments, const int64_t* row_starts,
                             const int64_t* first_positions, const int64_t* const* paths,
                             const AttentionShape& shape);

}  // namespace ramet
