"""The work that is cut for a GPU: whatever is shared, a row's result stays one expression of its path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.kernels.plan import AttentionPlan
from ramet.kernels.triton.tiles import BLOCK, SPAN_BLOCKS, Tiles, cut

NUM_SLOTS = 2000
SPAN = BLOCK * SPAN_BLOCKS

Block = tuple[int, ...]  # the slots that a row sees of one block
Spans = list[list[Block]]


@st.composite
def plans(draw: st.DrawFn) -> AttentionPlan:
    """Random trees in depth-first order: each path keeps a prefix of the one before. Some rows are
    computed again, on paths that others share or end on."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    paths: list[np.ndarray] = []
    firsts, starts = [], [0]
    for _ in range(draw(st.integers(1, 9))):
        kept = paths[-1] if paths else np.empty(0, np.int64)
        kept = kept[: draw(st.sampled_from([0, 63, 64, 130, 256, 300, 512, len(kept)]))]
        fresh = draw(st.sampled_from([0, 1, 5, 64, 100, 200, 600])) if len(kept) else 70
        path = np.concatenate((kept, rng.integers(0, NUM_SLOTS, fresh)))
        num_rows = min(draw(st.sampled_from([0, 1, 1, 1, 3, 9, 70, 10**6])), len(path))
        paths.append(path)
        firsts.append(len(path) - num_rows)
        starts.append(starts[-1] + num_rows)
    return AttentionPlan(np.array(starts), np.array(firsts), tuple(paths))


def walked(tiles: Tiles, row: int, partial: int) -> Spans:
    """What the partial result holds that some item leaves for this row."""
    found = [i for i in tiles.items.tolist() if 0 <= partial - i[5] < i[1]]
    assert len(found) == 1
    first_row, _, start, stop, slots_at, base = found[0]
    assert row == first_row + partial - base
    assert start % BLOCK == 0
    spans: Spans = []
    for span in range(start // SPAN, -(-stop // SPAN)):
        spans.append([])
        for at in range(max(start, span * SPAN), min(stop, (span + 1) * SPAN), BLOCK):
            visible = range(at, min(at + BLOCK, stop, tiles.positions[row] + 1))
            if visible:
                spans[-1].append(tuple(int(tiles.slots[slots_at + p]) for p in visible))
    return [span for span in spans if span]


def merged(tiles: Tiles, row: int) -> Spans:
    """The row's expression. A span that was begun elsewhere may only go on block by block."""
    entries = tiles.entries[tiles.entry_starts[row] : tiles.entry_starts[row + 1]].tolist()
    result: Spans = []
    before = None
    for partial, span in entries:
        part = walked(tiles, row, partial)
        if span == -1:
            assert not result
            result = part
        elif span == before:
            assert len(part) == len(part[0]) == 1
            result[-1] += part[0]
        else:
            assert len(part) == 1
            result += part
        before = span
    return result


def by_definition(plan: AttentionPlan, segment: int, row: int) -> Spans:
    length = int(plan.first_positions[segment]) + row - int(plan.row_starts[segment]) + 1
    path = plan.paths[segment][:length].tolist()
    blocks = [tuple(path[at : at + BLOCK]) for at in range(0, length, BLOCK)]
    return [blocks[at : at + SPAN_BLOCKS] for at in range(0, len(blocks), SPAN_BLOCKS)]


@settings(max_examples=150)
@given(
    plan=plans(),
    rows_per_item=st.sampled_from([1, 3, 8, 21, 64]),
    wanted_programs=st.sampled_from([1, 40, 10**6]),
    max_partials=st.sampled_from([0, 50, 10**9]),
)
def test_every_row_is_the_expression_of_its_path(
    plan: AttentionPlan, rows_per_item: int, wanted_programs: int, max_partials: int
) -> None:
    tiles = cut(
        plan,
        rows_per_item=rows_per_item,
        num_kv_heads=2,
        wanted_programs=wanted_programs,
        max_partials=max_partials,
    )
    assert tiles.items[:, 1].max(initial=1) <= rows_per_item
    for segment in range(plan.num_segments):
        for row in range(int(plan.row_starts[segment]), int(plan.row_starts[segment + 1])):
            assert merged(tiles, row) == by_definition(plan, segment, row)


def forks(prefix: int, own: int, count: int) -> AttentionPlan:
    """`count` rows that decode over one prefix."""
    paths = [
        np.concatenate((np.arange(prefix), prefix + own * i + np.arange(own))) for i in range(count)
    ]
    lengths = np.full(count, prefix + own)
    return AttentionPlan(np.arange(count + 1), lengths - 1, tuple(paths))


def cut_for_many(plan: AttentionPlan, max_partials: int = 10**9) -> Tiles:
    return cut(
        plan,
        rows_per_item=16,
        num_kv_heads=2,
        wanted_programs=10**6,
        max_partials=max_partials,
    )


def test_a_shared_block_is_read_once_per_full_program() -> None:
    tiles = cut_for_many(forks(1024, 20, 64))
    assert len(tiles.slots) == 1024 + 64 * 20
    shared = tiles.items[tiles.items[:, 1] == 16]
    assert len(shared) == (64 // 16) * (1024 // SPAN)
    assert len(tiles.items) == len(shared) + 64


def test_a_fork_inside_a_block_shares_the_blocks_before_it() -> None:
    tiles = cut_for_many(forks(70, 10, 4))
    assert sorted(tiles.items[:, 1:4].tolist()) == [[1, 64, 80]] * 4 + [[4, 0, 64]]


def test_long_segments_walk_their_path_alone() -> None:
    paths = (np.arange(640), np.arange(641))
    plan = AttentionPlan(np.array([0, 40, 41]), np.array([600, 640]), paths)
    tiles = cut(plan, rows_per_item=16, num_kv_heads=1, wanted_programs=1, max_partials=10**9)
    assert tiles.num_partials == plan.num_rows
    assert tiles.items[:, 1:4].tolist() == [
        [1, 0, 641],
        [8, 0, 640],
        [16, 0, 632],
        [16, 0, 616],
    ]


@pytest.mark.parametrize(("allowed", "kept"), [(10**9, 64 * 5), (100, 64)])
def test_partial_results_are_bounded(allowed: int, kept: int) -> None:
    assert cut_for_many(forks(1024, 20, 64), allowed).num_partials == kept


def test_no_rows_no_work() -> None:
    tiles = cut_for_many(AttentionPlan(np.array([0]), np.empty(0, np.int64), ()))
    assert len(tiles.items) == len(tiles.slots) == tiles.num_partials == 0
    assert tiles.entry_starts.tolist() == [0]
