"""What a run cost: its calls as rows, and what sharing saved, as numbers and as JSON.

Knows records of calls. A count that a backend did not tell stays unknown: it is shown as such and left
out of the totals, never taken for zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ramet.cli.picture import Call
from ramet.lang.record import CallRecord

__all__ = ["Row", "Totals", "call_as_json", "rows", "totals", "totals_as_json"]

MOST_ROWS = 24  # more calls than this are added up by variable: a table of 200 rows is not read


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One call, or `calls` of them that fill the same variable. `seconds` is the longest of them."""

    program: str
    kind: str
    name: str
    branch: str
    calls: int
    prompt: int | None
    cached: int | None
    generated: int | None
    seconds: float
    failed: int

    @property
    def cached_share(self) -> float | None:
        return self.cached / self.prompt if self.prompt and self.cached is not None else None


def rows(calls: Sequence[Call], most: int = MOST_ROWS) -> list[Row]:
    """In order of their beginnings; added up by variable if there are more than `most`."""
    if len(calls) <= most:
        return [_row([call]) for call in calls]
    groups: dict[tuple[str, str, str], list[Call]] = {}
    for call in calls:
        key = (call.run.program, call.record.kind, call.record.name or "")
        groups.setdefault(key, []).append(call)
    return [_row(group) for group in groups.values()]


def _row(calls: Sequence[Call]) -> Row:
    records = [call.record for call in calls]
    first = records[0]
    return Row(
        program=calls[0].run.program,
        kind=first.kind,
        name=first.name or "",
        branch=first.branch if len(calls) == 1 else "",
        calls=len(calls),
        prompt=_sum(r.prompt_tokens for r in records),
        cached=_sum(r.cached_tokens for r in records),
        generated=_sum(r.completion_tokens for r in records),
        seconds=max(r.seconds for r in records),
        failed=sum(r.error is not None for r in records),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """`asked`: tokens that the model would have worked on if every call had run alone; the last token of
    an answer is not worked on. `computed`: those that it did work on. None where a call did not tell."""

    calls: int
    failed: int
    generated: int
    asked: int | None
    computed: int | None

    @property
    def saved(self) -> int | None:
        if self.asked is None or self.computed is None:
            return None
        return self.asked - self.computed


def totals(calls: Iterable[Call], measured: int | None = None) -> Totals:
    """`measured` is the engine's own count of computed tokens, where there is one. The calls cannot know
    what was computed ahead of them, for all of them: a prefix that is going to be forked, say."""
    records = [call.record for call in calls]
    asked = [_asked(record) for record in records]
    told = _sum(
        None if tokens is None or record.cached_tokens is None else tokens - _shared(record)
        for record, tokens in zip(records, asked)
    )
    return Totals(
        calls=len(records),
        failed=sum(record.error is not None for record in records),
        generated=sum(record.completion_tokens or 0 for record in records),
        asked=_sum(asked),
        computed=told if measured is None else measured,
    )


def _asked(record: CallRecord) -> int | None:
    if record.prompt_tokens is None:
        return None
    if record.kind == "select":  # its prompt tokens are those of all choices already
        return record.prompt_tokens
    answers = max((record.completion_tokens or 0) - record.samples, 0)
    return record.prompt_tokens * record.samples + answers


def _shared(record: CallRecord) -> int:
    """Prompt tokens that came from the cache; further samples of one prompt share all of it."""
    more = 0 if record.kind == "select" else (record.samples - 1) * (record.prompt_tokens or 0)
    return (record.cached_tokens or 0) + more


def totals_as_json(found: Totals) -> dict[str, Any]:
    return {**asdict(found), "saved": found.saved}


def call_as_json(call: Call) -> dict[str, Any]:
    record: CallRecord = call.record
    return {"program": call.run.program, **asdict(record), "cached_share": record.cached_share}
