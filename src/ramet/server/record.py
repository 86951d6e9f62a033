"""What is noted of one request when it has ended: for logs, metrics and the live page.

Knows figures and names; no prompt and no answer is among them.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramet.server.exchange import Sample, Status

__all__ = ["Record", "Watcher", "fault_of"]

_FRAMES = 4  # of a fault's place


@dataclass(slots=True, kw_only=True)
class Record:
    """`status` is None while the request runs, and where the client left before one was sent. Times in
    seconds, by the clock of `time.monotonic`; `first_token_seconds` since `began`. `error`: the words that
    the client got. `fault`: of a failure of the server's own, what the client is not told (`fault_of`)."""

    id: str
    path: str
    tenant: str | None
    began: float
    stream: bool = False
    num_samples: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    num_forced_tokens: int = 0
    num_preemptions: int = 0
    first_token_seconds: float | None = None
    seconds: float | None = None
    status: int | None = None
    finish: str | None = None
    error: str | None = None
    fault: str | None = None

    @property
    def code(self) -> int:
        """The status of a request that has ended."""
        return self.status or Status.CLOSED

    def take(self, samples: Sequence[Sample]) -> None:
        """The samples' figures, as they are now. As in the answers' own `usage`, a prompt counts once for
        all of its samples, and its cached tokens are those that none of them had to compute."""
        lengths: dict[int, int] = {}  # prompt tokens, by call
        computed: dict[int, int] = {}
        for sample in samples:
            length = sample.meta.get("prompt_tokens")
            if length is not None:
                missed = length - sample.meta.get("cached_tokens", 0)
                lengths[sample.call] = length
                computed[sample.call] = computed.get(sample.call, 0) + missed
        self.num_samples = len(samples)
        self.num_prompt_tokens = sum(lengths.values())
        self.num_cached_tokens = sum(max(0, n - computed[call]) for call, n in lengths.items())
        self.num_output_tokens = sum(len(sample.output_ids) for sample in samples)
        self.num_forced_tokens = sum(s.meta.get("forced_tokens", 0) for s in samples)
        self.num_preemptions = sum(s.meta.get("num_preemptions", 0) for s in samples)
        reasons = [s.finish_reason["type"] for s in samples if s.finish_reason is not None]
        self.finish = reasons[0] if reasons else None


class Watcher:
    """Hears of requests. The base does nothing."""

    def began(self, record: Record) -> None: ...

    def ended(self, record: Record) -> None: ...

    def happened(self, event: str, facts: dict[str, Any]) -> None:
        """Something else of note: the engine's end, say."""


def fault_of(error: BaseException) -> str:
    """An exception's type and place, innermost frame first. Not its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames)]
    return f"{type(error).__name__} at {' < '.join(places)}" if places else type(error).__name__
