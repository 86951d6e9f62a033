"""The engine's own counters as Prometheus reads them: they never fall, though engines come and go.

Knows the names of `EngineStats`; refuses to know requests and HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["EngineMetrics"]

_Family = TypeVar("_Family", CounterMetricFamily, GaugeMetricFamily)

_COUNTERS = {
    "num_steps": ("ramet_steps", "Steps of the engine"),
    "num_failed_steps": ("ramet_failed_steps", "Steps that failed"),
    "num_computed_tokens": ("ramet_computed_tokens", "Tokens that went through the model"),
    "num_prompt_tokens": ("ramet_prompt_tokens", "Prompt tokens of samples that began to answer"),
    "num_cached_tokens": ("ramet_cached_tokens", "Of the prompt tokens, those not computed for it"),
    "num_generated_tokens": ("ramet_generated_tokens", "Tokens that the model chose"),
    "num_forced_tokens": (
        "ramet_forced_tokens",
        "Tokens that a constraint forced, taken without asking the model (jump-forward)",
    ),
    "num_draft_tokens": ("ramet_draft_tokens", "Tokens that were guessed, and verified"),
    "num_accepted_tokens": ("ramet_accepted_draft_tokens", "Of the guessed tokens, the right ones"),
    "num_evicted_tokens": ("ramet_evicted_tokens", "Cached tokens that were forgotten for others"),
    "num_preemptions": ("ramet_preemptions", "Times that a running sample gave up its slots"),
    "num_finished": ("ramet_samples_finished", "Samples that ended by themselves"),
    "num_aborted": ("ramet_samples_aborted", "Samples that were aborted"),
    "num_failed": ("ramet_samples_failed", "Samples that failed"),
    "num_repairs": ("ramet_repairs", "Times that a broken invariant was repaired"),
}
# See `EngineStats`.
_MISSED = ("never_seen", "evicted", "salt", "boundary", "logits")


class EngineMetrics(Collector):
    """What an engine counts begins at 0 with each engine; what those before it counted is added. The time
    since the last look tells how old the figures are."""

    def __init__(self) -> None:
        self._stats: dict[str, int] = {}  # of the engine that is there
        self._before: dict[str, int] = {}  # of those that were
        self._looked: float | None = None
        self._now = 0.0

    def look(self, stats: Mapping[str, int] | None, now: float) -> None:
        """`stats`: `EngineStats.to_dict()` at `now`, in seconds; None where the engine does not answer."""
        self._now = now
        if stats is None:
            return
        if any(stats.get(name, 0) < self._stats.get(name, 0) for name in self._counters()):
            self.ended()  # another engine, of whose beginning nobody told
        self._stats, self._looked = dict(stats), now

    def ended(self) -> None:
        """The engine is not there any more."""
        for name in self._counters():
            self._before[name] = self._total(name)
        self._stats = {}

    @staticmethod
    def _counters() -> list[str]:
        return [*_COUNTERS, *(f"num_missed_{cause}" for cause in _MISSED)]

    def _total(self, name: str) -> int:
        return self._stats.get(name, 0) + self._before.get(name, 0)

    def collect(self) -> Iterator[Metric]:
        for name, (metric, text) in _COUNTERS.items():
            yield CounterMetricFamily(metric, text, value=self._total(name))
        yield _labelled(
            CounterMetricFamily(
                "ramet_missed_tokens",
                "Prompt tokens that were not in the cache, by cause",
                labels=["cause"],
            ),
            {cause: self._total(f"num_missed_{cause}") for cause in _MISSED},
        )
        yield _labelled(
            GaugeMetricFamily("ramet_kv_slots", "KV slots by what they hold", labels=["state"]),
            self._slots(),
        )
        states = {name: self._stats.get(f"num_{name}", 0) for name in ("running", "waiting")}
        yield _labelled(
            GaugeMetricFamily("ramet_samples", "Samples in the engine", labels=["state"]), states
        )
        if self._looked is not None:
            age = max(0.0, self._now - self._looked)
            text = "How old the engine's figures are: it does not answer while it computes"
            yield GaugeMetricFamily("ramet_engine_figures_age_seconds", text, value=age)

    def _slots(self) -> dict[str, int]:
        """`free`; `cached`: evictable; `shared`: of running requests, in the tree; `private`: theirs alone."""
        total, free, tree, pinned = (
            self._stats.get(name, 0)
            for name in ("num_slots", "num_free_slots", "num_tree_tokens", "num_pinned_tokens")
        )
        return {
            "free": free,
            "cached": tree - pinned,
            "shared": pinned,
            "private": total - free - tree,
        }


def _labelled(family: _Family, values: Mapping[str, float]) -> _Family:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
