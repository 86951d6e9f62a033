"""Whether one more request is taken, and when to come again if not.

Knows counts of samples and prompt tokens, and how fast requests end. Refuses to know what they are.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from ramet.server.exchange import Failure
from ramet.server.generation import Refused

__all__ = ["Admission", "Place"]

_LEAST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds, for Retry-After
_REMEMBERED = 256  # ends from which the rate is found,
_REMEMBERED_SECONDS = 30.0  # none of them older than this


class Place:
    """Held while a request is in the engine. `release` may be called again: once counts."""

    def __init__(self, admission: Admission, num_samples: int, num_tokens: int) -> None:
        self.num_samples, self.num_tokens = num_samples, num_tokens
        self._admission: Admission | None = admission

    def release(self) -> None:
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.left(self)


class Admission:
    """At most `max_held` samples and `max_tokens` prompt tokens are in the engine at a time. A request that
    is alone is always taken."""

    def __init__(
        self, max_held: int, max_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_held, self.max_tokens = max_held, max_tokens
        self.num_held = self.num_tokens = self.num_refused = 0
        self.draining = False
        self._clock = clock
        self._ends: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)

    @property
    def is_full(self) -> bool:
        """Whether not even the smallest request would be taken: known before a body is read."""
        return self.num_held >= self.max_held or (
            self.num_held > 0 and self.num_tokens >= self.max_tokens
        )

    def refuse_if_full(self) -> None:
        """Raises `Refused`."""
        if self.draining:
            self._refuse(Failure(status=503, message="the server is stopping", retry_after=5.0))
        if self.is_full:
            self._refuse(self._too_many())

    def place(self, num_samples: int, num_tokens: int) -> Place:
        """Raises `Refused`."""
        self.refuse_if_full()
        too_many = self.num_held + num_samples > self.max_held
        too_long = self.num_tokens + num_tokens > self.max_tokens
        if self.num_held and (too_many or too_long):
            self._refuse(self._too_many())
        self.num_held += num_samples
        self.num_tokens += num_tokens
        return Place(self, num_samples, num_tokens)

    def left(self, place: Place) -> None:
        """Called by `Place.release`."""
        self.num_held -= place.num_samples
        self.num_tokens -= place.num_tokens
        self._ends.append((self._clock(), place.num_samples))

    def _refuse(self, failure: Failure) -> None:
        self.num_refused += 1
        raise Refused(failure)

    def _too_many(self) -> Failure:
        return Failure(
            status=429,
            message=f"the server has {self.num_held} requests to answer first; try again later",
            code="too_many_requests",
            retry_after=self.seconds_to_wait(),
        )

    def seconds_to_wait(self) -> float:
        """Until half of what is here has ended, at the rate of the last ends: whole seconds."""
        now = self._clock()
        while self._ends and now - self._ends[0][0] > _REMEMBERED_SECONDS:
            self._ends.popleft()
        if len(self._ends) < 2:
            return _LEAST_WAIT
        rate = sum(count for _, count in self._ends) / max(now - self._ends[0][0], 1e-3)
        return float(math.ceil(min(max(self.num_held / 2 / rate, _LEAST_WAIT), _LONGEST_WAIT)))
