"""Whether one more request is taken, and when to come again if not.

Knows counts of samples and prompt tokens, and how fast requests begin and end. Refuses to know what they
are. Two things are refused: what there is no room for, and what would wait longer than it may.
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
_BUSY_SECONDS = 5.0  # of waiting, after which a beginning counts a third of a new one
# A burst is no queue: nobody is refused for a long wait before somebody has waited this share of it.
_FIRST_SHARE = 0.1


class Place:
    """Held while a request is in the engine. `begun` is called for each sample that got its first token;
    `release` may be called again: once counts."""

    def __init__(self, admission: Admission, num_samples: int, num_tokens: int) -> None:
        self.num_samples, self.num_tokens = num_samples, num_tokens
        self.num_waiting = num_samples
        self._admission: Admission | None = admission

    def begun(self) -> None:
        if self._admission is not None and self.num_waiting:
            self.num_waiting -= 1
            self._admission.begun(self)

    def release(self) -> None:
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.left(self)


class Admission:
    """At most `max_held` samples and `max_tokens` prompt tokens are in the engine at a time. A request that
    is alone is always taken. One that would wait longer than `max_wait` seconds for its first token, or than
    its own deadline, is not."""

    def __init__(
        self,
        max_held: int,
        max_tokens: int,
        max_wait: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_held, self.max_tokens = max_held, max_tokens
        self.max_wait = math.inf if max_wait is None else max_wait
        self.num_held = self.num_tokens = self.num_waiting = self.num_refused = 0
        self.draining = False
        self._clock = clock
        self._ends: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)
        self._waiting: dict[Place, float] = {}  # since when, the oldest first
        # Beginnings, and seconds in which somebody waited: the older, the less they count.
        self._begun = self._busy = 0.0
        self._looked = clock()

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
        self._refuse_long_wait(self.max_wait)

    def place(self, num_samples: int, num_tokens: int, seconds: float = math.inf) -> Place:
        """`seconds`: how long the request has, at most. Raises `Refused`."""
        self.refuse_if_full()
        self._refuse_long_wait(seconds)
        too_many = self.num_held + num_samples > self.max_held
        too_long = self.num_tokens + num_tokens > self.max_tokens
        if self.num_held and (too_many or too_long):
            self._refuse(self._too_many())
        self._look()
        self.num_held += num_samples
        self.num_tokens += num_tokens
        self.num_waiting += num_samples
        place = Place(self, num_samples, num_tokens)
        self._waiting[place] = self._clock()
        return place

    # -- called by places --------------------------------------------------------------------------

    def begun(self, place: Place) -> None:
        self._look()
        self._begun += 1
        self.num_waiting -= 1
        if not place.num_waiting:
            self._waiting.pop(place, None)

    def left(self, place: Place) -> None:
        self._look()
        self.num_held -= place.num_samples
        self.num_tokens -= place.num_tokens
        self.num_waiting -= place.num_waiting
        self._waiting.pop(place, None)
        self._ends.append((self._clock(), place.num_samples))

    # -- waits ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Count the time since the last change, if somebody waited in it."""
        now = self._clock()
        passed, self._looked = now - self._looked, now
        if self.num_waiting:
            kept = math.exp(-passed / _BUSY_SECONDS)
            self._begun *= kept
            self._busy = self._busy * kept + _BUSY_SECONDS * (1 - kept)

    def expected_wait(self) -> float:
        """Seconds until whoever comes now would begin, at the rate at which those who waited did."""
        self._look()
        if not self.num_waiting or not self._busy:
            return 0.0
        rate = max(self._begun, 0.1) / self._busy
        return self.num_waiting / rate

    def _refuse_long_wait(self, most: float) -> None:
        if not self._waiting or most == math.inf:
            return
        oldest = self._clock() - next(iter(self._waiting.values()))
        wait = self.expected_wait()
        if wait <= most or oldest < _FIRST_SHARE * most:
            return
        after = min(max(wait - most / 2, _LEAST_WAIT), _LONGEST_WAIT)
        message = f"{self.num_waiting} requests wait, for about {wait:.1f} s; try again later"
        self._refuse(
            Failure(
                status=429,
                message=message,
                code="too_many_requests",
                retry_after=float(math.ceil(after)),
            )
        )

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
        ended = sum(count for _, count in self._ends)
        if len(self._ends) < 2 or not ended:  # requests may have no samples
            return _LEAST_WAIT
        rate = ended / max(now - self._ends[0][0], 1e-3)
        return float(math.ceil(min(max(self.num_held / 2 / rate, _LEAST_WAIT), _LONGEST_WAIT)))
