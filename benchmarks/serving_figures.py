"""What a load's outcomes say: times of tokens, percentiles, goodput, errors, recovery.

Knows outcomes and the events of OpenAI's streams; refuses to know sockets and servers. Standard library
only.

Every latency is counted from the time at which a request should have left. Percentiles are of the
requests that were not refused; one that was given up before its first token counts with the time that it
had waited, so that giving up does not make a server look fast.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving_connection import Outcome
from benchmarks.serving_load import Run

__all__ = [
    "MUCH_CPU",
    "MUCH_LATE",
    "Answer",
    "Limits",
    "figures",
    "generator",
    "percentile",
    "read",
    "recovery",
    "refusals",
]

PERCENTILES = (50, 90, 99)
MUCH_CPU = 0.15  # of one core: from here on the generator takes too much of what it measures
MUCH_LATE = 0.02  # seconds
_REFUSED = 429


@dataclass(frozen=True, slots=True)
class Limits:
    """A request is good if it is whole, its first token came within `first` seconds of its intended time,
    and the others took at most `per_token` seconds each, on average."""

    first: float
    per_token: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One outcome, read. `times`: of the events that brought text, seconds after the load's beginning.
    `tokens`, `prompt_tokens`, `cached_tokens` as the server counts them; None where it does not say.
    `whole`: all was there, down to the end of the stream."""

    outcome: Outcome
    times: tuple[float, ...]
    tokens: int | None
    prompt_tokens: int | None
    cached_tokens: int | None
    whole: bool
    failure: (
        str | None
    )  # "429", "500", ..., "stream" (an error event, no end), or the outcome's own

    @property
    def first_token(self) -> float | None:
        """Seconds from the intended time; for one that was given up without a token, the time it waited."""
        if self.times:
            return self.times[0] - self.outcome.intended
        if self.outcome.error == "time" and self.outcome.ended is not None:
            return self.outcome.ended - self.outcome.intended
        return None

    @property
    def per_token(self) -> float | None:
        """Mean seconds of a token behind the first."""
        if not self.times:
            return None
        count = max(self.tokens or 0, len(self.times))
        return (self.times[-1] - self.times[0]) / (count - 1) if count > 1 else 0.0

    def good(self, limits: Limits) -> bool:
        first, each = self.first_token, self.per_token
        if not self.whole or first is None or each is None:
            return False
        return first <= limits.first and each <= limits.per_token


def read(outcome: Outcome) -> Answer:
    """The events of a stream. A chunk without text (a role, counts at the end) is no token; where nothing
    had text (special tokens are not shown) the chunks with a choice are taken."""
    with_text: list[float] = []
    with_choice: list[float] = []
    usage: dict[str, Any] = {}
    ended = broken = False
    for when, line in _lines(outcome.pieces) if outcome.status == 200 else ():
        if line == b"data: [DONE]":
            ended = True
        elif line.startswith(b"data:"):
            try:
                event = json.loads(line[5:])
            except ValueError:
                event = None
            if not isinstance(event, dict) or event.get("error"):
                broken = True
                continue
            for choice in event.get("choices") or ():
                with_choice.append(when)
                if _text(choice):
                    with_text.append(when)
            usage = event.get("usage") or usage
    times = with_text or with_choice
    whole = outcome.status == 200 and outcome.error is None and ended and not broken and bool(times)
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        outcome,
        tuple(times),
        usage.get("completion_tokens"),
        usage.get("prompt_tokens"),
        details.get("cached_tokens"),
        whole,
        None if whole else _failure(outcome),
    )


def _failure(outcome: Outcome) -> str:
    if outcome.error is not None:
        return outcome.error
    return "stream" if outcome.status == 200 else str(outcome.status)


def _text(choice: dict[str, Any]) -> str:
    delta = choice.get("delta")
    found = choice.get("text") if delta is None else delta.get("content")
    return found if isinstance(found, str) else ""


def _lines(pieces: Sequence[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    """Lines of a body, each with the time of the piece that ended it."""
    found: list[tuple[float, bytes]] = []
    rest = b""
    for when, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        found += [(when, line.rstrip(b"\r")) for line in lines if line.strip()]
    if rest.strip():
        found.append((pieces[-1][0], rest.strip()))
    return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` % of all are not above (nearest rank); None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {f"p{share}": percentile(values, share) for share in PERCENTILES}


def figures(
    answers: Sequence[Answer], begin: float, seconds: float, limits: Limits
) -> dict[str, Any]:
    """Of the requests whose intended times lie in [begin, begin + seconds). Times in seconds.

    `goodput`: good ones per second. `tokens_per_second`: output tokens that arrived within the window,
    whoever asked for them. `cached`: share of prompt tokens that the server says it had."""
    end = begin + seconds
    counted = [a for a in answers if begin <= a.outcome.intended < end]
    firsts = [t for a in counted if (t := a.first_token) is not None]
    good = sum(a.good(limits) for a in counted)
    failures: dict[str, int] = {}
    for answer in counted:
        if answer.failure is not None:
            failures[answer.failure] = failures.get(answer.failure, 0) + 1
    told = [a for a in counted if a.prompt_tokens and a.cached_tokens is not None]
    prompts = sum(a.prompt_tokens or 0 for a in told)
    return {
        "requests": len(counted),
        "offered": len(counted) / seconds,
        "good": good,
        "goodput": good / seconds,
        "share_good": good / len(counted) if counted else None,
        "whole": sum(a.whole for a in counted),
        "first_token": _spread(firsts),
        "per_token": _spread([t for a in counted if a.whole and (t := a.per_token) is not None]),
        "gap": _spread([gap for a in counted for gap in _gaps(a)]),
        "tokens_per_second": sum(_tokens_within(a, begin, end) for a in answers) / seconds,
        "output_tokens": _mean([a.tokens for a in counted if a.whole and a.tokens is not None]),
        "prompt_tokens": _mean([a.prompt_tokens for a in told if a.prompt_tokens is not None]),
        "cached": sum(a.cached_tokens or 0 for a in told) / prompts if prompts else None,
        "refused": failures.pop(str(_REFUSED), 0),
        "failures": dict(sorted(failures.items())),
    }


def _gaps(answer: Answer) -> list[float]:
    return [after - before for before, after in zip(answer.times, answer.times[1:])]


def _tokens_within(answer: Answer, begin: float, end: float) -> float:
    """An event may bring several tokens; they are taken as evenly spread over the events."""
    if not answer.times:
        return 0.0
    each = max(1.0, (answer.tokens or 0) / len(answer.times))
    return each * sum(begin <= when < end for when in answer.times)


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def refusals(answers: Sequence[Answer]) -> dict[str, Any]:
    """Of the answers with 429: how many say when to come again, and how fast they came."""
    refused = [a.outcome for a in answers if a.outcome.status == _REFUSED]
    waits = [o.first_byte - o.intended for o in refused if o.first_byte is not None]
    told = sorted({o.retry_after for o in refused if o.retry_after is not None}, key=_number)
    return {
        "count": len(refused),
        "with_retry_after": sum(o.retry_after is not None for o in refused),
        "retry_after": [told[0], told[-1]] if told else [],  # least and most
        "first_byte": _spread(waits),
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf  # a date


def recovery(
    answers: Sequence[Answer],
    begin: float,
    end: float,
    limits: Limits,
    before: float,
    window: float = 5.0,
    enough: float = 0.95,
) -> float | None:
    """Seconds from `begin` until the share of good requests is back: the first time from which on the
    next `window` seconds' requests are good as often as `enough` times `before`, the share until then.
    None if that is not seen before `end`.

    Shares rather than counts, because how many requests a Poisson process brings in a window varies."""
    counted = [a for a in answers if begin <= a.outcome.intended < end]
    for first, answer in enumerate([None, *counted]):
        start = begin if answer is None else answer.outcome.intended
        if start + window > end:
            return None
        inside = [a for a in counted[max(0, first - 1) :] if a.outcome.intended < start + window]
        inside = [a for a in inside if a.outcome.intended >= start]
        if inside and sum(a.good(limits) for a in inside) >= enough * before * len(inside):
            return start - begin
    return None


def generator(run: Run) -> dict[str, Any]:
    """What the generator itself took and how well it held its times."""
    return {
        "cpu": run.cpu_seconds / run.seconds if run.seconds else 0.0,
        "late": _spread(run.late),
        "unsent": sum(o.error == "unsent" for o in run.outcomes),
        "connections": run.connections,
        "resent": sum(o.tries > 1 for o in run.outcomes),
    }
