"""A model made of hashes, to run the real scheduler and cache without one.

`HashRunner` keeps one number per KV slot: the hash of the token's whole prefix. A slot that is freed too
early, shared wrongly or computed out of order changes every number after it, so a request's output
(`expected_tokens`) tells whether all KV that it read was its own. Torch-free and deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ramet.constraints.bits import unpacked
from ramet.engine.batch import Batch, SampleQuery
from ramet.engine.loop import Outcome
from ramet.engine.request import ScoredToken

__all__ = [
    "HashRunner",
    "PlainText",
    "VirtualClock",
    "expected_scores",
    "expected_tokens",
    "prefix_hash",
]

_MASK = (1 << 64) - 1


def _mix(a: int, b: int) -> int:
    """splitmix64's finalizer over a running hash (Steele, Lea, Flood 2014)."""
    z = (a + 0x9E3779B97F4A7C15 * (b + 1)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def prefix_hash(tokens: Sequence[int]) -> int:
    """What the slot of the last of `tokens` has to hold."""
    value = 0
    for token in tokens:
        value = _mix(value, int(token))
    return value


def expected_tokens(prompt: Sequence[int], count: int, seed: int, vocab: int) -> list[int]:
    """What a request with this prompt and seed generates, whatever else runs."""
    value, output = prefix_hash(prompt), []
    for _ in range(count):
        output.append(_mix(value, seed) % vocab)
        value = _mix(value, output[-1])
    return output


def expected_scores(prompt: Sequence[int], start: int) -> list[float | None]:
    """The made-up log-probabilities of the prompt tokens from `start` on."""
    values: list[float | None] = []
    for position in range(start, len(prompt)):
        before = prefix_hash(prompt[:position])
        values.append(None if position == 0 else -float(_mix(before, int(prompt[position])) % 1000))
    return values


class VirtualClock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class PlainText:
    """Output text of a request whose tokens have no text."""

    finished: str | None = None

    def push(self, token_id: int) -> None:
        pass

    def finish(self, reason: dict[str, Any]) -> str:
        return str(reason)


class HashRunner:
    """Runs batches on hashes. `fail_next` makes the next `run` raise after it has written half of its
    rows, as a device that runs out of memory in the middle of a layer would."""

    def __init__(self, num_slots: int, vocab: int, poison: Sequence[int] = ()) -> None:
        self.vocab = vocab
        self.kv: list[int] = [0] * (num_slots + 1)
        self.fail_next = False
        self.poison = frozenset(poison)  # tokens that make every batch they are in fail
        self.num_runs = 0

    def run(self, batch: Batch) -> list[int]:
        """The hash at each of `batch.logit_rows`."""
        self.num_runs += 1
        values = [0] * batch.num_rows
        rows = [
            (position, row, path)
            for s, path in enumerate(batch.plan.paths)
            for row, position in self._rows(batch, s)
        ]
        # A row reads what rows at smaller positions of its path write, in whichever segment they are.
        for count, (position, row, path) in enumerate(sorted(rows, key=lambda r: r[:2])):
            token = int(batch.token_ids[row])
            if token in self.poison or (self.fail_next and count * 2 >= len(rows)):
                self.fail_next = False
                raise RuntimeError("the scripted model was told to fail")
            before = self.kv[int(path[position - 1])] if position else 0
            values[row] = self.kv[int(batch.out_slots[row])] = _mix(before, token)
        return [values[int(row)] for row in batch.logit_rows]

    @staticmethod
    def _rows(batch: Batch, segment: int) -> list[tuple[int, int]]:
        start, stop = (int(r) for r in batch.plan.row_starts[segment : segment + 2])
        first = int(batch.plan.first_positions[segment])
        return [(row, first + row - start) for row in range(start, stop)]

    def sample(self, batch: Batch, logits: list[int]) -> Outcome:
        tokens = [ScoredToken(self._draw(logits[q.logits_index], q), -1.0) for q in batch.samples]
        scores = []
        for query in batch.scores:
            stop = query.start + len(query.logits_indices)
            ids = query.request.prompt_ids[query.start : stop]
            scores.append(
                [
                    ScoredToken(int(t), -float(_mix(logits[int(i)], int(t)) % 1000))
                    for t, i in zip(ids, query.logits_indices, strict=True)
                ]
            )
        return Outcome(tokens, scores)

    def _draw(self, value: int, query: SampleQuery) -> int:
        number, constrained = _mix(value, query.request.seed), query.request.constrained
        if constrained is None:
            return number % self.vocab
        allowed = np.flatnonzero(unpacked(constrained.masks[len(query.draft)]))
        return int(allowed[number % len(allowed)])

    def prefix_in(self, slot: int) -> int:
        return self.kv[slot]
