"""Which rate to offer next when a server's peak is looked for, and at which rates all are compared.

Rates are steps of a ladder, four to a doubling, so that several servers' searches meet at the same rates
and what was measured for one purpose serves another. Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

__all__ = ["KEEPS_UP", "common_steps", "next_step", "rate_of", "step_near"]

KEEPS_UP = 0.9  # a server keeps up with a rate if this share of its requests is good
_TO_A_DOUBLING = 4
_START, _LEAST, _MOST = 4, -12, 40  # 2, 1/8 and 1024 a second


def rate_of(step: int) -> float:
    """Requests per second, to three digits."""
    return float(f"{2 ** (step / _TO_A_DOUBLING):.3g}")


def step_near(rate: float) -> int:
    return max(_LEAST, min(_MOST, round(_TO_A_DOUBLING * math.log2(rate))))


def next_step(shares: Mapping[int, float], finest: int = 1) -> int | None:
    """The next step of a search: doubling until a rate is too much, then halving the interval until it is
    `finest` steps wide. `shares`: of good requests, by steps measured so far. None when it is found."""
    if not shares:
        return _START
    above = [step for step, share in shares.items() if share < KEEPS_UP]
    if not above:
        step = max(shares) + _TO_A_DOUBLING
        return step if step <= _MOST else None
    high = min(above)
    below = [step for step in shares if step < high]  # all of them keep up
    if not below:
        return high - _TO_A_DOUBLING if high - _TO_A_DOUBLING >= _LEAST else None
    low = max(below)
    return (low + high) // 2 if high - low > finest else None


def common_steps(peaks: Iterable[float], shares: Iterable[float] = (0.5, 0.9)) -> list[int]:
    """Steps next to these shares of the weakest and of the strongest server's peak goodput."""
    found = [peak for peak in peaks if peak > 0]
    if not found:
        return []
    ends = (min(found), max(found))
    return sorted({step_near(share * peak) for share in shares for peak in ends})
