"""Figures for Prometheus at `/metrics`.

Knows records of requests and the engine's counters; refuses to know how they come about. Two servers in one
process have registries of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ramet.server.record import Record, Watcher

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_WHOLE = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
_LENGTHS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)

# Paths are strangers' texts: those that no route has are one.
_OTHER = "other"

_CAUSES = ("never_seen", "evicted", "salt", "boundary")
_COUNTERS = {
    "num_steps": ("ramet_steps", "Steps of the engine"),
    "num_computed_tokens": ("ramet_computed_tokens", "Rows that went through the model"),
    "num_prompt_tokens": (
        "ramet_prompt_tokens",
        "Prompt tokens of requests that got a first token",
    ),
    "num_cached_tokens": ("ramet_cached_tokens", "Prompt tokens that came from the cache"),
    "num_generated_tokens": ("ramet_generated_tokens", "Tokens that the model chose"),
    "num_forced_tokens": (
        "ramet_forced_tokens",
        "Tokens that a constraint forced, taken without asking the model",
    ),
    "num_draft_tokens": ("ramet_draft_tokens", "Guessed tokens that were verified"),
    "num_accepted_tokens": ("ramet_accepted_draft_tokens", "Guessed tokens that were right"),
    "num_evicted_tokens": ("ramet_evicted_tokens", "Tokens whose KV was forgotten"),
    "num_preemptions": ("ramet_preemptions", "Running requests that had to give up their slots"),
    "num_finished": ("ramet_samples_finished", "Samples that ended by themselves"),
    "num_aborted": ("ramet_samples_aborted", "Samples that were aborted"),
    "num_failed": ("ramet_samples_failed", "Samples that failed"),
    "num_failed_steps": ("ramet_failed_steps", "Steps that failed"),
    "num_repairs": ("ramet_repairs", "Times that a broken invariant was repaired"),
}


class Metrics(Watcher):
    """`paths`: the paths that requests are counted by."""

    def __init__(self, paths: frozenset[str]) -> None:
        self._paths = paths
        self.registry = CollectorRegistry()
        self._engine = _Engine()
        self.registry.register(self._engine)
        labels = ("path",)
        self._requests = self._counter(
            "ramet_requests", "Requests by path and status", (*labels, "status")
        )
        self._events = self._counter("ramet_events", "What happened to the engine", ("event",))
        self._first_token = self._histogram(
            "ramet_first_token_seconds", "From arrival to the first token", labels, _FIRST_TOKEN
        )
        self._per_token = self._histogram(
            "ramet_per_token_seconds", "Between tokens, a request's mean", labels, _PER_TOKEN
        )
        self._seconds = self._histogram(
            "ramet_request_seconds", "From arrival to the end", labels, _WHOLE
        )
        self._prompt = self._histogram(
            "ramet_request_prompt_tokens", "Prompt tokens of a request", labels, _LENGTHS
        )
        self._output = self._histogram(
            "ramet_request_output_tokens", "Output tokens of a request", labels, _LENGTHS
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def ended(self, record: Record) -> None:
        path = record.path if record.path in self._paths else _OTHER
        self._requests.labels(path, str(record.status or 0)).inc()
        if not record.num_samples or record.seconds is None:
            return  # nothing was generated
        self._seconds.labels(path).observe(record.seconds)
        self._prompt.labels(path).observe(record.num_prompt_tokens)
        self._output.labels(path).observe(record.num_output_tokens)
        first = record.first_token_seconds
        if first is not None:
            self._first_token.labels(path).observe(first)
            later = record.num_output_tokens / record.num_samples - 1
            if later >= 1:
                self._per_token.labels(path).observe((record.seconds - first) / later)

    def happened(self, event: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        self._events.labels(event).inc()

    def text(self, stats: Mapping[str, int] | None, gauges: Mapping[str, float]) -> bytes:
        """What Prometheus reads. `stats`: the engine's counters; without them (it is not there) the last
        ones hold. `gauges`: of the server itself, by name."""
        self._engine.look(stats, gauges)
        return generate_latest(self.registry)


class _Engine(Collector):
    """The engine's own counters. They begin again with each engine, and counters must not fall: what the
    engines before counted is added."""

    def __init__(self) -> None:
        self._stats: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._gauges: dict[str, float] = {}

    def look(self, stats: Mapping[str, int] | None, gauges: Mapping[str, float]) -> None:
        self._gauges = dict(gauges)
        if stats is None:
            return
        if stats.get("num_steps", 0) < self._stats.get("num_steps", 0):  # another engine
            for name, value in self._stats.items():
                self._before[name] = self._before.get(name, 0) + value
        self._stats = dict(stats)

    def _total(self, name: str) -> int:
        return self._stats.get(name, 0) + self._before.get(name, 0)

    def collect(self) -> Iterator[Metric]:
        for name, (metric, text) in _COUNTERS.items():
            yield CounterMetricFamily(metric, text, value=self._total(name))
        missed = CounterMetricFamily(
            "ramet_missed_tokens",
            "Prompt tokens that had to be computed, by cause",
            labels=["cause"],
        )
        for cause in _CAUSES:
            missed.add_metric([cause], self._total(f"num_missed_{cause}"))
        yield missed
        slots = GaugeMetricFamily(
            "ramet_kv_slots", "KV slots, by what holds them", labels=["state"]
        )
        total, free = self._stats.get("num_slots", 0), self._stats.get("num_free_slots", 0)
        tree, pinned = (
            self._stats.get("num_tree_tokens", 0),
            self._stats.get("num_pinned_tokens", 0),
        )
        states = {
            "free": free,
            "cached": tree - pinned,
            "in_use": pinned,
            "private": total - free - tree,
        }
        for state, value in states.items():
            slots.add_metric([state], value)
        yield slots
        samples = GaugeMetricFamily("ramet_samples", "Samples in the engine", labels=["state"])
        samples.add_metric(["running"], self._stats.get("num_running", 0))
        samples.add_metric(["waiting"], self._stats.get("num_waiting", 0))
        yield samples
        for name, gauge in self._gauges.items():
            yield GaugeMetricFamily(f"ramet_{name}", name.replace("_", " "), value=gauge)
