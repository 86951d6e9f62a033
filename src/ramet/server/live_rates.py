"""What the engine did per second just now, and in the last minutes.

Knows counters at times that are passed in. Refuses to know where they come from and who looks at them.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["History", "Rates"]

RATE_SECONDS = 10.0  # what "now" means
HISTORY_SECONDS = 300


class Rates:
    """What happened per second in the last `RATE_SECONDS`, from counters that only grow."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=256)
        self._first_tokens: deque[tuple[float, float]] = deque(maxlen=1024)

    def looked(self, now: float, stats: Mapping[str, int]) -> None:
        """`stats`: `EngineStats.to_dict()` at `now`, in seconds."""
        if self._looks and stats["num_steps"] < self._looks[-1][1]["num_steps"]:
            self._looks.clear()  # another engine
        self._looks.append((now, stats))
        while len(self._looks) > 2 and self._looks[1][0] <= now - RATE_SECONDS:
            self._looks.popleft()

    def first_token(self, now: float, seconds: float) -> None:
        """At `now` a request got its first token, `seconds` after it arrived."""
        self._first_tokens.append((now, seconds))

    def values(self, now: float) -> dict[str, float | None]:
        """`hit_rate` is None while no prompt was finished, `first_token_ms_p50` and `step_ms` where
        nothing tells them. `step_ms` needs a counter `step_us`: time in steps, in microseconds."""
        firsts = [s for time, s in self._first_tokens if time > now - RATE_SECONDS]
        prompt, steps = self._gain("num_prompt_tokens"), self._gain("num_steps")
        return {
            "hit_rate": round(self._gain("num_cached_tokens") / prompt, 4) if prompt else None,
            "prompt_tokens_per_s": self._per_second("num_prompt_tokens", now),
            "output_tokens_per_s": self._per_second("num_generated_tokens", now),
            "requests_per_s": self._per_second("num_finished", now),
            "first_token_ms_p50": round(statistics.median(firsts) * 1e3, 1) if firsts else None,
            "step_ms": round(self._gain("step_us") / steps / 1e3, 2)
            if steps and self._looks and "step_us" in self._looks[-1][1]
            else None,
        }

    def _gain(self, counter: str) -> int:
        if not self._looks:
            return 0
        (_, before), (_, after) = self._looks[0], self._looks[-1]
        return after.get(counter, 0) - before.get(counter, 0)

    def _per_second(self, counter: str, now: float) -> float:
        seconds = now - self._looks[0][0] if self._looks else 0.0
        return round(self._gain(counter) / max(seconds, 1.0), 2)


class History:
    """The last minutes, for the charts of a viewer who comes now: one sample per second at most, each
    [time, hit rate or None, slots in use, cached slots, prompt tokens/s, output tokens/s]."""

    def __init__(self) -> None:
        self._samples: deque[list[float | None]] = deque(maxlen=HISTORY_SECONDS)

    def add(self, state: Mapping[str, Any]) -> None:
        """`state`: a `state_event`."""
        time, slots, rates = state["time"], state["slots"], state["rates"]
        if self._samples and time - (self._samples[-1][0] or 0.0) < 1.0:
            return
        cached = slots["tree"] - slots["pinned"]
        used = slots["total"] - slots["free"] - cached
        self._samples.append(
            [
                time,
                rates["hit_rate"],
                used,
                cached,
                rates["prompt_tokens_per_s"],
                rates["output_tokens_per_s"],
            ]
        )

    def samples(self, since: float = 0.0) -> list[list[float | None]]:
        """Those after `since`, in seconds since 1970: a viewer that comes back names its last one."""
        return [sample for sample in self._samples if (sample[0] or 0.0) > since]
