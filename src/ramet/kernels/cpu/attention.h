// Attention over a plan: every row over the path of its segment, exactly, whatever is computed beside it.
//
// Knows rows, paths of KV slots and shapes; refuses to know layers and requests. The result of a row and
// head is defined by the row's own query and path. Blocks are the positions 64 b .. 64 b + 63:
//
//   s_i   = fma over the head dimension, in order, of q * (d ** -0.5 * log2(e)) and key i
//   m_b   = max of the block's s_i;  p_i = 2 ** (s_i - m_b);  l_b = sum of p_i, folded by halves
//   a_b   = fma over the block's positions, in order, of p_i and value i
//   merge of blocks in order: m' = max(m, m_b), l = l 2 ** (m - m') + l_b 2 ** (m_b - m'), a likewise
//
// and out = a / l. A block's (m_b, l_b, a_b) knows nothing of other blocks, so blocks may be computed
// anywhere, by anyone, for any group of rows, as long as they are merged in order.
//
// With bfloat16 keys and values, on processors that multiply such pairs, q (scaled) and p_i are rounded to
// bfloat16 as well, l_b sums the rounded p_i, and a multiply-add takes an even element and the next; elsewhere
// they are widened and the above holds.
#pragma once

#include <cstdint>

#include "tiles.h"

namespace ramet {

enum class KvType : int32_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

// One layer: q and out are [rows, heads * head_dim] with `q_stride` and `out_stride` floats from row to
// row; keys and values [slots, kv_heads, head_dim], contiguous, of `type`. `out` may be `q` itself: a
// row's query is read before its result is written. The caller holds `Exclusive`.
void attention(const AttentionPlan& plan, const float* q, int64_t q_stride, const void* keys,
               const void* values, KvType type, float* out, int64_t out_stride);

}  // namespace ramet
