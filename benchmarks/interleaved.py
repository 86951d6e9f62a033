"""Timing contestants side by side: in turns, so that whatever the machine does meanwhile meets all
of them.

Knows callables and clocks; refuses to know what they compute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["interleaved"]

_REST = (
    0.015  # seconds before each turn: OpenMP's threads spin on for some milliseconds after a call
)


def interleaved(
    contestants: Mapping[str, Callable[[], object]], *, turns: int = 9, least: float = 0.003
) -> dict[str, float]:
    """Seconds of one call, the best of `turns`; a turn is as many calls as take about `least`
    seconds.
    """
    calls = {name: _calls(run, least) for name, run in contestants.items()}
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(turns):
        for name, run in contestants.items():
            time.sleep(_REST)
            run()
            best[name] = min(best[name], _seconds(run, calls[name]))
    return best


def _calls(run: Callable[[], object], least: float) -> int:
    run()
    return max(1, round(least / max(1e-7, _seconds(run, 2))))


def _seconds(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls
