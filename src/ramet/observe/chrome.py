"""A trace in Chrome's trace event format, for Perfetto (ui.perfetto.dev) and chrome://tracing.

Knows the format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. A run is
a process, a branch a thread; a branch's slice holds its calls' slices, and a call's slice two more: up to
its first token, and from there. Forks and joins are flows between branches. Counters say how many calls
and tokens are in flight. Reckons in whole nanoseconds, so that slices nest exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ramet.lang.record import CallRecord
from ramet.lang.trace import BranchTrace, Totals, Trace

__all__ = ["branch_order", "chrome_trace"]

ALL = 0  # the process of the counters
NANO = 1_000_000_000
_TOLD = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "forced_tokens",
    "drafted_tokens",
    "accepted_tokens",
    "first_token_seconds",
    "finish_reason",
    "cost",
    "error",
)

_Event = dict[str, Any]


def chrome_trace(traces: Sequence[Trace]) -> dict[str, Any]:
    """The JSON object format: `traceEvents`, times in microseconds since the first run began."""
    runs = [run for trace in traces for run in trace.walk()]
    start = min((run.began for run in runs), default=0.0)
    events = [_meta(ALL, 0, "process_name", name="all runs")]
    flows = _Flows()
    for pid, run in enumerate(runs, start=1):
        events += _RunEvents(run, pid, _nanos(run.began - start), flows)
    events += _counters(runs, start)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "producer": "ramet",
            "models": sorted({run.model for run in runs}),
            "totals": asdict(Totals.of(call for run in runs for call in run.calls)),
        },
    }


def branch_order(path: str) -> tuple[int, ...]:
    """Sorts branches so that each stands right behind what it was forked from."""
    return tuple(map(int, re.findall(r"\d+", path)))


def _nanos(seconds: float) -> int:
    return round(seconds * NANO)


def _micros(nanos: int) -> float:
    return nanos / 1000


class _Flows:
    """Numbers for the arrows: both ends of one carry the same."""

    def __init__(self) -> None:
        self._next = 0

    def arrow(
        self, name: str, pid: int, begin: tuple[int, int], end: tuple[int, int]
    ) -> list[_Event]:
        """`begin` and `end` are (thread, nanoseconds), inside a slice each."""
        self._next += 1
        common = {"cat": "branch", "name": name, "id": self._next, "pid": pid}
        return [
            {**common, "ph": "s", "tid": begin[0], "ts": _micros(begin[1])},
            {**common, "ph": "f", "bp": "e", "tid": end[0], "ts": _micros(end[1])},
        ]


class _RunEvents:
    """The events of one run; `shift` nanoseconds lie before its beginning."""

    def __init__(self, run: Trace, pid: int, shift: int, flows: _Flows) -> None:
        self.run, self.pid, self.shift, self.flows = run, pid, shift, flows
        ordered = sorted(run.branches, key=lambda branch: branch_order(branch.path))
        self.threads: dict[str, int] = {}
        self.lanes = {branch.path: branch.lanes for branch in ordered}
        tid = 1
        for branch in ordered:
            self.threads[branch.path] = tid
            tid += 1 + max(self.lanes[branch.path], default=0)
        self.spans = {branch.path: self._span(branch) for branch in ordered}
        self.ordered = ordered

    def __iter__(self) -> Iterator[_Event]:
        run, pid = self.run, self.pid
        yield _meta(pid, 0, "process_name", name=f"{run.program} {run.run}")
        yield _meta(pid, 0, "process_labels", labels=run.model)
        yield _meta(pid, 0, "process_sort_index", sort_index=pid)
        for branch in self.ordered:
            lanes = self.lanes[branch.path]
            for lane in range(1 + max(lanes, default=0)):
                tid = self.threads[branch.path] + lane
                more = f" ({lane + 1})" if lane else ""
                yield _meta(pid, tid, "thread_name", name=f"branch {branch.path}{more}")
                yield _meta(pid, tid, "thread_sort_index", sort_index=tid)
            yield self._branch_slice(branch)
            for call, lane in zip(branch.calls, lanes):
                for event in self._call(branch, call):
                    yield {**event, "tid": event["tid"] + lane}
            if branch.parent in self.threads:
                yield from self._arrows(branch, branch.parent)

    def _span(self, branch: BranchTrace) -> tuple[int, int]:
        """A microsecond longer than it was: an arrow at its very end is still inside."""
        return self._at(branch.started), max(
            self._at(branch.ended), self._at(branch.started)
        ) + 1000

    def _at(self, seconds: float) -> int:
        return self.shift + _nanos(seconds)

    def _slice(self, branch: BranchTrace, name: str, cat: str, begin: int, end: int) -> _Event:
        return {
            "ph": "X",
            "name": name,
            "cat": cat,
            "pid": self.pid,
            "tid": self.threads[branch.path],
            "ts": _micros(begin),
            "dur": _micros(end - begin),
        }

    def _branch_slice(self, branch: BranchTrace) -> _Event:
        name = branch.path if branch.parent is not None else self.run.program
        found = self._slice(branch, name, "branch", *self.spans[branch.path])
        facts = {"location": branch.location, "error": branch.error}
        return {**found, "args": {k: v for k, v in facts.items() if v}}

    def _call(self, branch: BranchTrace, call: CallRecord) -> Iterator[_Event]:
        begin, end = self._at(call.started), self._at(call.ended)
        found = self._slice(branch, call.name or call.kind, call.kind, begin, end)
        if call.error is not None:
            found["cname"] = "terrible"
        yield {**found, "args": _call_args(branch, call)}
        first = (
            None if call.first_token_seconds is None else begin + _nanos(call.first_token_seconds)
        )
        if first is not None and begin < first < end:
            yield self._slice(branch, "to first token", "phase", begin, first)
            yield self._slice(branch, "decode", "phase", first, end)

    def _arrows(self, branch: BranchTrace, parent: str) -> Iterator[_Event]:
        above, own = self.threads[parent], self.threads[branch.path]
        begin, end = self.spans[branch.path]
        yield from self.flows.arrow("fork", self.pid, (above, begin), (own, begin))
        if branch.joined is not None:
            joined = self._at(branch.joined)
            yield from self.flows.arrow("join", self.pid, (own, min(end, joined)), (above, joined))


def _call_args(branch: BranchTrace, call: CallRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"line": call.location, "rid": call.rid, "samples": call.samples}
    for name in _TOLD:
        value = getattr(call, name)
        if value is not None:
            facts[name] = value
    if call.retries:
        facts["retries"] = call.retries
    if call.incomplete:
        facts["incomplete"] = True
    if branch.text is not None:
        facts["text"] = "".join(part.text for part in branch.text if part.call == call.number)
    return facts


def _meta(pid: int, tid: int, what: str, **args: Any) -> _Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "ts": 0, "args": args}


def _counters(runs: Sequence[Trace], start: float) -> Iterator[_Event]:
    """How much is under way. A call counts its prompt from its beginning, what it generated from its
    first token (its beginning where that is not known)."""
    changes: list[tuple[int, int, int, int]] = []  # when, calls, prompt, generated
    for run in runs:
        shift = _nanos(run.began - start)
        for call in run.calls:
            prompt, generated = call.prompt_tokens or 0, call.completion_tokens or 0
            begin, end = shift + _nanos(call.started), shift + _nanos(call.ended)
            end = max(end, begin + 2)
            first = min(begin + _nanos(call.first_token_seconds or 0.0), end - 1)
            changes += [(begin, 1, prompt, 0), (first, 0, 0, generated)]
            changes.append((end, -1, -prompt, -generated))
    now = [0, 0, 0]
    for when, *change in sorted(changes):  # at one moment ends come first
        now = [a + b for a, b in zip(now, change)]
        common = {"ph": "C", "pid": ALL, "tid": 0, "ts": _micros(when)}
        yield {**common, "name": "calls in flight", "args": {"calls": now[0]}}
        tokens = {"prompt": now[1], "generated": now[2]}
        yield {**common, "name": "tokens in flight", "args": tokens}
