"""The work of one step, complete when built.

A batch is a set of rows (tokens to compute) in depth-first order of the radix tree, and a set of
queries on the rows' logits. Several requests may read the logits of one row: two requests with the same
prompt need it computed once. Knows arrays; refuses to know how they were chosen or are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ramet.engine.request import Request
from ramet.kernels.plan import AttentionPlan, IntArray

__all__ = ["Batch", "SampleQuery", "ScoreQuery", "Segment", "build_batch"]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows for positions `start` .. `stop` of one request. With `scratch` the KV of these positions is
    in the tree already and only their logits are wanted: the rows' own keys and values are dropped."""

    request: Request
    start: int
    stop: int
    scratch: bool

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, eq=False)
class SampleQuery:
    """The next token of `request` is to be drawn from logits row `logits_index`."""

    request: Request
    logits_index: int


@dataclass(frozen=True, slots=True, eq=False)
class ScoreQuery:
    """Log-probabilities of the prompt tokens `start` .. of `request`, token start + i from logits row
    `logits_indices[i]`."""

    request: Request
    start: int
    logits_indices: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """`token_ids`, `positions`, `out_slots`: int64 [rows]. `logit_rows`: the distinct rows whose logits
    are wanted, int64 [logits]. `planned`: every request that took part, also with no row of its own,
    with the number of tokens it had computed before this step."""

    segments: tuple[Segment, ...]
    token_ids: IntArray
    positions: IntArray
    out_slots: IntArray
    plan: AttentionPlan
    logit_rows: IntArray
    samples: tuple[SampleQuery, ...]
    scores: tuple[ScoreQuery, ...]
    planned: tuple[tuple[Request, int], ...]

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Logits of positions `start` .. `stop` of a request, to score the tokens after them or (`sample`)
    to draw the next token."""

    request: Request
    start: int
    stop: int
    sample: bool


def build_batch(
    segments: Sequence[Segment],
    wanted: Sequence[Wanted],
    planned: Sequence[tuple[Request, int]],
    num_slots: int,
    scratch_slot: int,
) -> Batch:
    """`segments` in depth-first order. Rows are found by the slot of their token: whoever wants the
    logits at a slot reads the row that computes that slot's token in this batch."""
    row_starts = np.zeros(len(segments) + 1, np.int64)
    np.cumsum([s.num_rows for s in segments], out=row_starts[1:])
    paths = tuple(_path(s.request)[: s.stop] for s in segments)
    row_of_slot = np.full(num_slots, -1, np.int64)
    out_slots = np.empty(int(row_starts[-1]), np.int64)
    for index, (segment, path) in enumerate(zip(segments, paths)):
        row, own = int(row_starts[index]), path[segment.start :]
        row_of_slot[own] = np.arange(row, row + segment.num_rows)
        out_slots[row : row + segment.num_rows] = scratch_slot if segment.scratch else own
    logit_rows, samples, scores = _queries(wanted, row_of_slot)
    return Batch(
        segments=tuple(segments),
        token_ids=_concat([s.request.known[s.start : s.stop] for s in segments]),
        positions=_concat([np.arange(s.start, s.stop, dtype=np.int64) for s in segments]),
        out_slots=out_slots,
        plan=AttentionPlan(row_starts, np.array([s.start for s in segments], np.int64), paths),
        logit_rows=logit_rows,
        samples=samples,
        scores=scores,
        planned=tuple(planned),
    )


def _queries(
    wanted: Sequence[Wanted], row_of_slot: IntArray
) -> tuple[IntArray, tuple[SampleQuery, ...], tuple[ScoreQuery, ...]]:
    rows = [row_of_slot[_path(w.request)[w.start : w.stop]] for w in wanted]
    logit_rows, indices = np.unique(_concat(rows), return_inverse=True)
    samples: list[SampleQuery] = []
    scores: list[ScoreQuery] = []
    at = 0
    for w in wanted:
        mine = indices[at : at + w.stop - w.start].astype(np.int64)
        at += w.stop - w.start
        if w.sample:
            samples.append(SampleQuery(w.request, int(mine[0])))
        else:
            scores.append(ScoreQuery(w.request, w.start + 1, mine))
    return logit_rows, tuple(samples), tuple(scores)


def _path(request: Request) -> IntArray:
    if request.lease is None:
        raise RuntimeError(f"request {request.rid} is in a batch without a lease")
    return request.lease.slots


def _concat(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)
