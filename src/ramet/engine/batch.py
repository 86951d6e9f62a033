"""The work of one step, complete when built.

A batch is a set of rows (tokens to compute) in depth-first order of the radix tree, and a set of
queries on the rows' logits. Several requests may read the logits of one row: two requests with the same
prompt need it computed once. Knows arrays; refuses to know how they were chosen or are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ramet.engine.request import Request
from ramet.kernels.plan import AttentionPlan, IntArray

__all__ = ["Batch", "SampleQuery", "ScoreQuery", "Segment", "build_batch"]


class Segment(NamedTuple):
    """Rows for positions `start` .. `stop` of one request. With `scratch` the KV of these positions is
    in the tree already and only their logits are wanted: the rows' own keys and values are dropped.
    `draft`: the tokens of the last positions, where they are guessed and not yet known."""

    request: Request
    start: int
    stop: int
    scratch: bool
    draft: IntArray | None = None

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


class SampleQuery(NamedTuple):
    """The next token of `request` is to be drawn from logits row `logits_index`: the next after what is
    known and the guessed tokens `draft`, so it counts only if the model says those too. `num_before`:
    output tokens before it, guessed ones included."""

    request: Request
    logits_index: int
    num_before: int
    draft: tuple[int, ...] = ()


class ScoreQuery(NamedTuple):
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


class Wanted(NamedTuple):
    """Logits of positions `start` .. `stop` of a request, to score the tokens after them or (`sample`)
    to draw the next token: after the last known one and after each token of `draft`."""

    request: Request
    start: int
    stop: int
    sample: bool
    draft: tuple[int, ...] = ()


def build_batch(
    segments: Sequence[Segment],
    wanted: Sequence[Wanted],
    planned: Sequence[tuple[Request, int]],
    row_of_slot: IntArray,
    scratch_slot: int,
) -> Batch:
    """`segments`, none of them empty, in depth-first order. Rows are found by the slot of their token:
    whoever wants the logits at a slot reads the row that computes that slot's token in this batch.
    `row_of_slot` is scratch memory, int64 [slots]: entries of slots that are no row of this batch mean
    nothing."""
    paths = tuple([_path(s.request)[: s.stop] for s in segments])
    own = _concat([path[s.start :] for path, s in zip(paths, segments)])
    rows = np.arange(own.size + 1)
    first = np.array([s.start for s in segments], np.int64)
    if own.size == len(segments):  # a row each, as in most steps
        row_starts, positions = rows, first
    else:
        counts = np.array([s.stop - s.start for s in segments], np.int64)
        row_starts = np.zeros(len(segments) + 1, np.int64)
        np.cumsum(counts, out=row_starts[1:])
        positions = np.repeat(first - row_starts[:-1], counts) + rows[:-1]
    row_of_slot[own] = rows[:-1]
    logit_rows, samples, scores = _queries(wanted, row_of_slot)
    return Batch(
        segments=tuple(segments),
        token_ids=_concat(_tokens(segments)),
        positions=positions,
        out_slots=_where_to(segments, own, row_starts, scratch_slot),
        plan=AttentionPlan(row_starts, first, paths),
        logit_rows=logit_rows,
        samples=samples,
        scores=scores,
        planned=tuple(planned),
    )


def _where_to(
    segments: Sequence[Segment], own: IntArray, row_starts: IntArray, scratch_slot: int
) -> IntArray:
    """The slot that each row writes."""
    scratch = [s.scratch for s in segments]
    if not any(scratch):
        return own
    return np.where(np.repeat(scratch, np.diff(row_starts)), scratch_slot, own)


def _queries(
    wanted: Sequence[Wanted], row_of_slot: IntArray
) -> tuple[IntArray, tuple[SampleQuery, ...], tuple[ScoreQuery, ...]]:
    slots = _concat([_path(w.request)[w.start : w.stop] for w in wanted])
    logit_rows = row_of_slot[slots]
    # Mostly each row is wanted once, in order.
    if logit_rows.size == 1 or (logit_rows[1:] > logit_rows[:-1]).all():
        indices = np.arange(logit_rows.size)
    else:
        logit_rows, indices = np.unique(logit_rows, return_inverse=True)
    samples: list[SampleQuery] = []
    scores: list[ScoreQuery] = []
    at = 0
    places = indices.tolist()
    for request, start, stop, sample, draft in wanted:
        if sample:
            count = len(request.output_ids)
            samples.append(SampleQuery(request, places[at], count))
            for n in range(1, len(draft) + 1):
                samples.append(SampleQuery(request, places[at + n], count + n, draft[:n]))
        else:
            mine = indices[at : at + stop - start].astype(np.int64)
            scores.append(ScoreQuery(request, start + 1, mine))
        at += stop - start
    return logit_rows, tuple(samples), tuple(scores)


def _tokens(segments: Sequence[Segment]) -> list[IntArray]:
    tokens: list[IntArray] = []
    for request, start, stop, _, draft in segments:
        tokens.append(request.known[start:stop])
        if draft is not None:
            tokens.append(draft)
    return tokens


def _path(request: Request) -> IntArray:
    if request.lease is None:
        raise RuntimeError(f"request {request.rid} is in a batch without a lease")
    return request.lease.slots


def _concat(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)
