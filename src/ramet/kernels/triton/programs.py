"""The two programs that compute attention on a GPU, in Triton.

Knows pointers, strides and the lists that `tiles` describes; refuses to know tensors and how work is cut
and launched. `walk` takes up to BLOCK_M queries (the query heads of one KV head times consecutive rows)
over a piece of a path and leaves a partial result: the scores' maximum, the sum of their powers and the
weighted values. `merge` folds a row's partial results in the order of positions. The online softmax is
Milakov and Gimelshein's (arXiv 1805.02867), the split over keys that of Flash-Decoding, the cascade over
shared prefixes as in Hydragen (arXiv 2402.05099), here with as many levels as the tree has.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["merge", "walk"]

NEVER = tl.constexpr(-1.0e30)  # a score below all: finite, so that its difference to itself is 0


@triton.jit
def fold(m, total, weighted, next_m, next_total, next_weighted):  # type: ignore[no-untyped-def]
    """Two neighbouring partial results as one. The empty one, (NEVER, 0, 0), changes no bit."""
    both = tl.maximum(m, next_m)
    old, new = tl.exp2(m - both), tl.exp2(next_m - both)
    total = total * old + next_total * new
    weighted = weighted * old[:, None] + next_weighted * new[:, None]
    return both, total, weighted


@triton.jit
def walk(  # type: ignore[no-untyped-def]
    q,
    keys,
    values,
    items,
    slots,
    positions,
    partial_m,
    partial_total,
    partial_weighted,
    scale,
    q_row,
    q_head,
    k_slot,
    k_head,
    v_slot,
    v_head,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    WEIGHTS: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One item of `Tiles.items` for one KV head. SPAN is in positions."""
    item = items + (tl.program_id(0) // KV_HEADS) * 6
    kv_head = tl.program_id(0) % KV_HEADS
    first_row, num_rows = tl.load(item), tl.load(item + 1)
    start, stop = tl.load(item + 2), tl.load(item + 3)
    slots_at, partial = tl.load(item + 4), tl.load(item + 5)

    lane = tl.arange(0, BLOCK_M)
    row, head = lane // GROUP, kv_head * GROUP + lane % GROUP
    is_row = row < num_rows  # GROUP need not divide BLOCK_M: the last lanes may be nobody's
    position = tl.load(positions + first_row + row, mask=is_row, other=-1)
    d = tl.arange(0, BLOCK_D)
    in_row = d < D
    at = (first_row + row).to(tl.int64) * q_row + head * q_head
    q_mask = is_row[:, None] & in_row[None, :]
    query = tl.load(q + at[:, None] + d[None, :], mask=q_mask, other=0.0).to(OPERAND)

    m = tl.full([BLOCK_M], NEVER, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for span in range(start // SPAN, (stop + SPAN - 1) // SPAN):
        span_m = tl.full([BLOCK_M], NEVER, tl.float32)
        span_total = tl.zeros([BLOCK_M], tl.float32)
        span_weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for first in range(
            tl.maximum(start, span * SPAN), tl.minimum(stop, (span + 1) * SPAN), BLOCK
        ):
            key = first + tl.arange(0, BLOCK)
            is_key = key < stop
            slot = tl.load(slots + slots_at + key, mask=is_key, other=0).to(tl.int64)
            # Zeros for what lies behind the path: a weight of 0 times garbage may be NaN.
            kv_mask = is_key[:, None] & in_row[None, :]
            k_at = slot[:, None] * k_slot + kv_head * k_head + d[None, :]
            v_at = slot[:, None] * v_slot + kv_head * v_head + d[None, :]
            k = tl.load(keys + k_at, mask=kv_mask, other=0.0).to(OPERAND)
            v = tl.load(values + v_at, mask=kv_mask, other=0.0).to(OPERAND)
            scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
            visible = key[None, :] <= position[:, None]
            scores = tl.where(visible, scores, NEVER)
            block_m = tl.max(scores, 1)
            # A row that sees nothing of the block has NEVER - NEVER here: not exp2(0), but nothing.
            weights = tl.where(visible, tl.exp2(scores - block_m[:, None]), 0.0)
            rounded = weights.to(WEIGHTS).to(OPERAND)
            block_weighted = tl.dot(rounded, v, input_precision="ieee")
            span_m, span_total, span_weighted = fold(
                span_m, span_total, span_weighted, block_m, tl.sum(weights, 1), block_weighted
            )
        m, total, weighted = fold(m, total, weighted, span_m, span_total, span_weighted)

    out = (partial + row).to(tl.int64) * (KV_HEADS * GROUP) + head
    tl.store(partial_m + out, m, mask=is_row)
    tl.store(partial_total + out, total, mask=is_row)
    tl.store(partial_weighted + out[:, None] * D + d[None, :], weighted, mask=q_mask)


@triton.jit
def merge(  # type: ignore[no-untyped-def]
    partial_m,
    partial_total,
    partial_weighted,
    entry_starts,
    entries,
    out,
    out_row,
    out_head,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The query heads of one KV head in one row: spans from their parts, the row from its spans."""
    row = tl.program_id(0) // KV_HEADS
    lane = tl.arange(0, BLOCK_G)
    head = (tl.program_id(0) % KV_HEADS) * GROUP + lane
    is_head = lane < GROUP
    d = tl.arange(0, BLOCK_D)
    mask = is_head[:, None] & (d < D)[None, :]

    m = tl.full([BLOCK_G], NEVER, tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    weighted = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    span_m, span_total, span_weighted = m, total, weighted
    first = tl.load(entry_starts + row)
    span = tl.load(entries + 2 * first + 1)
    for number in range(first, tl.load(entry_starts + row + 1)):
        at = tl.load(entries + 2 * number).to(tl.int64) * (KV_HEADS * GROUP) + head
        next_span = tl.load(entries + 2 * number + 1)
        if next_span != span:
            m, total, weighted = fold(m, total, weighted, span_m, span_total, span_weighted)
            span_m = tl.full([BLOCK_G], NEVER, tl.float32)
            span_total = tl.zeros([BLOCK_G], tl.float32)
            span_weighted = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
            span = next_span
        span_m, span_total, span_weighted = fold(
            span_m,
            span_total,
            span_weighted,
            tl.load(partial_m + at, mask=is_head, other=NEVER),
            tl.load(partial_total + at, mask=is_head, other=0.0),
            tl.load(partial_weighted + at[:, None] * D + d[None, :], mask=mask, other=0.0),
        )
    m, total, weighted = fold(m, total, weighted, span_m, span_total, span_weighted)
    total = tl.where(is_head, total, 1.0)
    at = row.to(tl.int64) * out_row + head * out_head
    tl.store(out + at[:, None] + d[None, :], weighted / total[:, None], mask=mask)
