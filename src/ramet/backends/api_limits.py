"""When to ask again: back-off, the waits that servers ask for, and rate limits told in headers.

Knows header names and clocks that are handed in; nothing of requests. All functions are pure.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ramet.errors import InvalidRequest

__all__ = ["Backoff", "asked_wait", "exhausted_for", "retried_status"]

RETRIED_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Seconds before the next attempt: `first`, then `factor` times as long each time, at most `longest`.
    A part of `jitter` of that is left to chance, so that many clients do not come back at once."""

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        for name in ("first", "factor", "longest", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InvalidRequest(f"backoff.{name}", value, "is not a number of at least 0")
        if self.jitter > 1:
            raise InvalidRequest("backoff.jitter", self.jitter, "is more than 1")

    def delay(self, failures: int, chance: float) -> float:
        """After so many failures; `chance` is a random number from 0 to 1."""
        # The exponent is bounded: a power beyond the largest float is an error, not infinity.
        whole = min(self.first * self.factor ** min(failures - 1, 64), self.longest)
        return whole * (1 - self.jitter * chance)


def retried_status(status: int) -> bool:
    """May an answer with this HTTP status be followed by another attempt?"""
    return status in RETRIED_STATUS or status >= 500


def asked_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait (`retry-after-ms`, `retry-after` in seconds or as a date);
    None if it does not. `now` is the time in seconds since 1970."""
    found = _number(headers.get("retry-after-ms"))
    if found is not None:
        return max(0.0, found / 1000)
    text = headers.get("retry-after")
    found = _number(text)
    if found is not None:
        return max(0.0, found)
    if text is None:
        return None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


_LIMITS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    *(
        (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
)


def exhausted_for(headers: Mapping[str, str], now: float) -> float:
    """Seconds until a limit that the headers call used up begins anew; 0 if none is."""
    waits = [0.0]
    for remaining, reset in _LIMITS:
        left = _number(headers.get(remaining))
        if left is not None and left <= 0:
            waits.append(_until(headers.get(reset, ""), now))
    return max(waits)


def _until(text: str, now: float) -> float:
    """Seconds until a reset: "1.5" or "6m0s" from now, or a date of RFC 3339."""
    number = _number(text)
    if number is not None:
        return max(0.0, number)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    if re.fullmatch(r"(?:[\d.]+(?:ms|[smhd]))+", text):
        parts = re.findall(r"([\d.]+)(ms|[smhd])", text)
        return sum((_number(value) or 0.0) * units[unit] for value, unit in parts)
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
