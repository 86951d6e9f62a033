"""One measurement of one server: a steady rate, or a flood between two stretches of a moderate rate.

Knows how a load is put together and what is kept of it as plain data; refuses to know how servers are
started and which rates are asked for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.others import Clock
from benchmarks.serving_figures import (
    Answer,
    Limits,
    figures,
    generator,
    read,
    recovery,
    refusals,
)
from benchmarks.serving_load import MOST_REQUESTS, Arrival, Run, offer, poisson, poisson_of, post
from benchmarks.serving_workloads import bodies

__all__ = ["Target", "Times", "burst", "overload", "steady"]

_FLOOD = 10.0  # times the peak
_MODERATE = 0.5
_FEWEST, _LONGER = 30, 4  # requests that a window should have


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go and how they look: `used` tells the server's seconds of processors so far, `extra`
    are its own fields."""

    port: int
    used: Callable[[], float]
    vocab: int
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `lead`: requests that are sent before those that count, so that these meet a server at work.
    `timeout`: when a client gives up. The flood lasts `flood`, after `before` and before `after`."""

    lead: float
    window: float
    timeout: float
    before: float
    flood: float
    after: float


def steady(
    target: Target, workload: str, rate: float, times: Times, limits: Limits, seed: int = 0
) -> dict[str, Any]:
    """`rate` requests per second, Poisson. At a low rate the window is longer, up to so many times."""
    name = f"{rate:g} {seed}"
    rng = random.Random(f"times {workload} {name}")
    window = min(max(times.window, _FEWEST / rate), _LONGER * times.window)
    arrivals = poisson(rate, times.lead, rng)
    arrivals += [times.lead + at for at in poisson_of(round(rate * window), window, rng)]
    run, answers, cores = _measure(target, workload, arrivals, times.timeout, name)
    found = figures(answers, times.lead, window, limits)
    return _shortened({**found, "generator": generator(run), **cores})


def overload(
    target: Target, workload: str, peak: float, times: Times, limits: Limits, seed: int = 0
) -> dict[str, Any]:
    """Half of `peak`, ten times `peak`, half of it again. `recovery_seconds`: None if not seen."""
    moderate, flood = _MODERATE * peak, _FLOOD * peak
    begin = times.lead + times.before
    end = begin + times.flood
    name = f"flood {seed}"
    rng = random.Random(f"times {workload} {peak:.4g} {name}")
    seconds = min(times.flood, 0.9 * MOST_REQUESTS / flood)
    arrivals = poisson(moderate, begin, rng)
    arrivals += [begin + at for at in poisson(flood, seconds, rng)]
    arrivals += [end + at for at in poisson(moderate, times.after, rng)]
    run, answers, cores = _measure(target, workload, arrivals, times.timeout, name)
    before = figures(answers, times.lead, times.before, limits)
    during = figures(answers, begin, times.flood, limits)
    share = before["share_good"] or 0.0
    back = recovery(answers, end, end + times.after, limits, share) if share else None
    found = {
        "peak": peak,
        "moderate_rate": moderate,
        "flood_rate": flood,
        "before": before,
        "during": during,
        "after": figures(answers, end, times.after, limits),
        "goodput_of_peak": during["goodput"] / peak,
        "refusals": refusals(answers),
        "recovery_seconds": back,
        "timeline": _timeline(answers, begin, limits),
        "generator": generator(run),
        **cores,
    }
    return _shortened(found)


def burst(target: Target, workload: str, count: int, timeout: float) -> list[Answer]:
    """`count` requests at once, of tokens that nothing else uses: to warm up, and to see the answers."""
    _, answers, _ = _measure(target, workload, [0.0] * count, timeout, "burst")
    return answers


def _measure(
    target: Target, workload: str, arrivals: Sequence[float], timeout: float, seed: str
) -> tuple[Run, list[Answer], dict[str, float | None]]:
    """Requests are written before the first leaves and answers are read when the last has ended. Last come
    the cores that the server and that others took, on average."""
    asked = bodies(workload, arrivals, target.vocab, seed, target.extra)
    load = [Arrival(at, post(path, body)) for at, (path, body) in zip(arrivals, asked)]
    clock, used = Clock.read(), target.used()
    run = asyncio.run(offer(load, target.port, timeout=timeout))
    used = target.used() - used
    now, others = Clock.read(), None
    if clock is not None and now is not None:
        others = max(0.0, (now.busy - clock.busy) - (now.own - clock.own) - used) / run.seconds
    cores = {"server_cores": used / run.seconds, "others": others}
    return run, [read(outcome) for outcome in run.outcomes], cores


def _timeline(answers: Sequence[Answer], zero: float, limits: Limits) -> list[list[int]]:
    """[second from the flood's beginning, requests meant for it, good ones, refused ones]."""
    seconds: dict[int, list[int]] = {}
    for answer in answers:
        row = seconds.setdefault(int((answer.outcome.intended - zero) // 1), [0, 0, 0])
        row[0] += 1
        row[1] += answer.good(limits)
        row[2] += answer.failure == "429"
    return [[second, *row] for second, row in sorted(seconds.items())]


def _shortened(found: dict[str, Any]) -> dict[str, Any]:
    return {name: _short(value) for name, value in found.items()}


def _short(value: Any) -> Any:
    """Numbers with as many digits as mean something."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value
