"""What is noted of one request when it has ended: for logs, metrics and the live page.

Knows figures and names; no prompt and no answer is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ramet.server.exchange import Sample

__all__ = ["Record", "Watcher"]


@dataclass(slots=True, kw_only=True)
class Record:
    """`status` is None while the request runs. Times in seconds, by the clock of `time.monotonic`;
    `first_token_seconds` since `began`. `error`: the words that the client got."""

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

    def take(self, samples: Sequence[Sample]) -> None:
        """The samples' figures, as they are now. A prompt counts once for all of its samples."""
        prompts: dict[int, dict[str, Any]] = {}
        for sample in samples:
            prompts.setdefault(sample.call, sample.meta)
        self.num_samples = len(samples)
        self.num_prompt_tokens = sum(m.get("prompt_tokens", 0) for m in prompts.values())
        self.num_cached_tokens = sum(m.get("cached_tokens", 0) for m in prompts.values())
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
