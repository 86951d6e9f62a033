"""A plan cut into work for a GPU, with numpy.

Knows rows, positions and slots; refuses to know tensors, heads' numbers and what a program does with its
work.

Keys are reduced in *blocks* of 64 absolute positions, four blocks to a *span* of 256. The value of a row
is one fixed expression of its own path: the blocks of a span are folded in order from nothing, then the
spans are folded in order from nothing. Whatever is cut here, that expression stays:

    span 0                span 1                span 2
    ((b0 + b1) + b2) + b3   ((b4 + b5) + ...        ...        row = (span 0 + span 1) + span 2

A fold may be handed over to another program only where it is complete or just begun, hence the three
*pieces*: the first n whole spans of a path; a span's first blocks (all of them, or until the tree forks);
one single block, after a fork inside a span.

Rows are the columns of this picture, a node of the tree is a box. Box A is read once for all rows:

    rows     0 1 2 3 4 5
    block 0  [    A    ]      A: blocks 0-1 of all; B: block 2 of rows 0-2; then every row its own
    block 1  [    A    ]
    block 2  [ B ] . . .
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramet.kernels.plan import AttentionPlan, IntArray

__all__ = ["BLOCK", "SPAN_BLOCKS", "Tiles", "cut"]

BLOCK = 64  # positions
SPAN_BLOCKS = 4  # 256 positions: partial results cost a few per cent of reading a span's keys

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tiles:
    """What the programs do. An item is one program's work (per KV head): `num_rows` rows from `first_row`
    on attend to the positions start .. stop - 1 (start is a multiple of 64), whose slots are
    slots[slots_at + position], and leave partial results partial .. partial + num_rows - 1.

    items: int32 [n, 6], the columns in the order of that sentence: first_row, num_rows, start, stop,
    slots_at, partial; the longest first. positions: int32 [rows], the position of every row; a row reads
    no key beyond it. entries[entry_starts[r] : entry_starts[r + 1]] lists row r's partial results in the
    order of their positions, as int32 [partial, span]; results of one span are folded first, and
    span -1 says that its spans are folded already.
    """

    items: Int32Array
    slots: Int32Array
    positions: Int32Array
    entry_starts: Int32Array
    entries: Int32Array
    num_partials: int


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Ranges of rows and the blocks that they share, as int64 arrays. first, last: segments, the last
    included. ends: True where no other node follows below."""

    first: IntArray
    last: IntArray
    start_block: IntArray
    stop_block: IntArray
    first_row: IntArray
    stop_row: IntArray
    ends: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """node: which node's rows and slots. span: -1 for a piece of several whole spans."""

    node: IntArray
    start_block: IntArray
    stop_block: IntArray
    span: IntArray


def cut(
    plan: AttentionPlan,
    *,
    rows_per_item: int,
    num_kv_heads: int,
    wanted_programs: int,
    max_partials: int,
) -> Tiles:
    """Cut `plan` so that keys are read once for as many rows as share them.

    rows_per_item: rows that a program computes at once. wanted_programs: as many as keep the device busy;
    where there are fewer long pieces, the spans of a path go to programs of their own. Rows above
    `max_partials` partial results are kept down by sharing less, never below one result per row. None of
    these changes a bit of the result.
    """
    positions = _row_positions(plan)
    solo_rows, longest = rows_per_item, None
    while True:
        nodes = _nodes(plan, solo_rows)
        if longest is None:
            longest = _fair_share(nodes, rows_per_item, num_kv_heads, wanted_programs)
        pieces = _pieces(nodes, longest)
        rows = nodes.stop_row - nodes.first_row
        if rows[pieces.node].sum() <= max_partials or solo_rows == 1:
            return _assemble(plan, positions, nodes, pieces, rows_per_item)
        # Too many results to keep. Rows that walk their whole path in one program leave one each.
        solo_rows, longest = solo_rows // 2, np.iinfo(np.int64).max


def _row_positions(plan: AttentionPlan) -> IntArray:
    counts = np.diff(plan.row_starts)
    return np.arange(plan.num_rows) + np.repeat(plan.first_positions - plan.row_starts[:-1], counts)


def _fair_share(nodes: _Nodes, rows_per_item: int, num_kv_heads: int, wanted_programs: int) -> int:
    """Blocks that one program may walk before others would wait for it."""
    items = -(-(nodes.stop_row - nodes.first_row) // rows_per_item)
    work = int((items * (nodes.stop_block - nodes.start_block)).sum()) * num_kv_heads
    return math.ceil(work / wanted_programs)


# ---- the tree: which rows share which blocks --------------------------------------------------------


def _nodes(plan: AttentionPlan, solo_rows: int) -> _Nodes:
    """The tree of the plan. A segment of `solo_rows` rows or more fills programs by itself, which would
    read its keys once each in any case: sharing gains nothing, so it goes alone from block 0."""
    counts = np.diff(plan.row_starts)
    segments = np.flatnonzero(counts)
    shared = _shared_blocks(plan.paths, segments, counts < solo_rows)
    num_blocks = [-(-len(plan.paths[s]) // BLOCK) for s in segments]
    boxes = np.array(_boxes(num_blocks, shared), dtype=np.int64).reshape(-1, 4)
    first, last = segments[boxes[:, 0]], segments[boxes[:, 1]]
    stop_block = boxes[:, 3]
    ends = (first == last) & (stop_block == np.array(num_blocks, dtype=np.int64)[boxes[:, 1]])
    starts = plan.row_starts
    return _Nodes(first, last, boxes[:, 2], stop_block, starts[first], starts[last + 1], ends)


def _shared_blocks(
    paths: Sequence[IntArray], segments: IntArray, may_share: npt.NDArray[np.bool_]
) -> list[int]:
    """Leading blocks, all of 64 slots, that each segment has in common with the next; 0 for the last."""
    shared = [
        _common_blocks(paths[a], paths[b]) if may_share[a] and may_share[b] else 0
        for a, b in zip(segments[:-1].tolist(), segments[1:].tolist())
    ]
    return [*shared, 0]


def _common_blocks(a: IntArray, b: IntArray) -> int:
    length = min(len(a), len(b)) // BLOCK * BLOCK
    if not length or a[0] != b[0]:
        return 0
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return (first if differs[first] else length) // BLOCK


def _boxes(num_blocks: list[int], shared: list[int]) -> list[tuple[int, int, int, int]]:
    """(first, last, start_block, stop_block) of every node, from what neighbours have in common.

    One pass with a stack, as the intervals of a suffix array are found from its common prefixes: the
    stack holds the open boxes, (stop_block, first), deeper ones later.
    """
    boxes = []
    stack = [(0, 0)]
    for segment, depth in enumerate(num_blocks):
        kept = shared[segment]
        if depth > stack[-1][0]:
            stack.append((depth, segment))
        first = segment
        while stack[-1][0] > kept:
            stop, first = stack.pop()
            boxes.append((first, segment, max(kept, stack[-1][0]), stop))
        if stack[-1][0] < kept:
            stack.append((kept, first))
    return boxes


# ---- pieces, items, entries -------------------------------------------------------------------------


def _pieces(nodes: _Nodes, longest: int) -> _Pieces:
    """Every node's blocks in pieces, in the order of positions. A node at the root of at most `longest`
    blocks gives its whole spans in one piece, a last and broken one too where nothing follows."""
    start, stop = nodes.start_block, nodes.stop_block
    whole = np.where(nodes.ends, stop, stop // SPAN_BLOCKS * SPAN_BLOCKS)
    rest = np.where((start == 0) & (stop <= longest), whole, start)
    joined = (rest > start).astype(np.int64)
    aligned = np.minimum(stop, -(-rest // SPAN_BLOCKS) * SPAN_BLOCKS)
    singles = aligned - rest
    spans = -(-(stop - aligned) // SPAN_BLOCKS)
    node, number = _expand(joined + singles + spans)
    number = number - joined[node]  # -1 is the joined piece
    single = number < singles[node]
    in_span = aligned[node] + (number - singles[node]) * SPAN_BLOCKS
    first = np.where(single, rest[node] + number, in_span)
    after = np.where(single, first + 1, np.minimum(stop[node], first + SPAN_BLOCKS))
    is_joined = number < 0
    return _Pieces(
        node=node,
        start_block=np.where(is_joined, start[node], first),
        stop_block=np.where(is_joined, rest[node], after),
        span=np.where(is_joined, -1, first // SPAN_BLOCKS),
    )


def _assemble(
    plan: AttentionPlan, positions: IntArray, nodes: _Nodes, pieces: _Pieces, rows_per_item: int
) -> Tiles:
    slots, slots_at = _slots(plan, nodes)
    node, piece, first_row, num_rows = _row_blocks(nodes, pieces, rows_per_item)
    last = _last_positions(positions, first_row, num_rows)
    start = pieces.start_block[piece] * BLOCK
    stop = np.minimum(pieces.stop_block[piece] * BLOCK, last + 1)
    work = stop - start
    order = np.argsort(-work, kind="stable")
    order = order[work[order] > 0]  # where all rows lie before the piece there is nothing to do
    piece, first_row, num_rows = piece[order], first_row[order], num_rows[order]
    start, stop = start[order], stop[order]
    partial = np.cumsum(num_rows) - num_rows
    items = np.stack((first_row, num_rows, start, stop, slots_at[node[order]], partial), axis=1)
    entry_starts, entries = _entries(positions, items, pieces.span[piece])
    return Tiles(
        items=items.astype(np.int32),
        slots=slots.astype(np.int32),
        positions=positions.astype(np.int32),
        entry_starts=entry_starts.astype(np.int32),
        entries=entries.astype(np.int32),
        num_partials=int(num_rows.sum()),
    )


def _slots(plan: AttentionPlan, nodes: _Nodes) -> tuple[IntArray, IntArray]:
    """Every node's slots in one array, and per node where position 0 would lie in it."""
    bounds = zip(nodes.first.tolist(), nodes.start_block.tolist(), nodes.stop_block.tolist())
    parts = [plan.paths[s][a * BLOCK : b * BLOCK] for s, a, b in bounds]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    slots = np.concatenate([np.empty(0, np.int64), *parts])
    return slots, np.cumsum(lengths) - lengths - nodes.start_block * BLOCK


def _row_blocks(
    nodes: _Nodes, pieces: _Pieces, rows_per_item: int
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """node, piece, first_row and num_rows of every pair of a piece and a block of its node's rows."""
    count = -(-(nodes.stop_row - nodes.first_row) // rows_per_item)
    piece, number = _expand(count[pieces.node])
    node = pieces.node[piece]
    first_row = nodes.first_row[node] + number * rows_per_item
    return node, piece, first_row, np.minimum(rows_per_item, nodes.stop_row[node] - first_row)


def _last_positions(positions: IntArray, first_row: IntArray, num_rows: IntArray) -> IntArray:
    """The highest position in each range of rows."""
    if not len(first_row):
        return first_row
    bounds = np.stack((first_row, first_row + num_rows), axis=1).ravel()
    return np.maximum.reduceat(np.append(positions, 0), bounds)[::2]


def _entries(positions: IntArray, items: IntArray, spans: IntArray) -> tuple[IntArray, IntArray]:
    """Each row's partial results, without those of pieces that begin behind its position."""
    item, number = _expand(items[:, 1])
    row, start = items[item, 0] + number, items[item, 2]
    seen = positions[row] >= start
    row, start = row[seen], start[seen]
    entries = np.stack((items[item, 5] + number, spans[item]), axis=1)[seen]
    counts = np.bincount(row, minlength=len(positions))
    return np.append(0, np.cumsum(counts)), entries[np.lexsort((start, row))]


def _expand(counts: IntArray) -> tuple[IntArray, IntArray]:
    """For counts [2, 0, 3]: owners [0, 0, 2, 2, 2] and numbers [0, 1, 0, 1, 2]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
