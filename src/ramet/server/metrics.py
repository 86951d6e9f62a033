"""Figures for Prometheus at `/metrics`.

Knows records of requests; the engine's own counters are in `engine_metrics.py`. Refuses to know how they
come about. Two servers in one process have registries of their own.

Labels have few values, whoever asks: paths are those of the server's routes and "other", statuses and
reasons those that this server gives.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ramet import __version__
from ramet.server.engine_metrics import EngineMetrics
from ramet.server.record import Record, Watcher

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_WHOLE = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
_LENGTHS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)

_OTHER = "other"  # paths are strangers' texts: those that no route has are one
_REFUSED = {
    401: "no_key",
    403: "not_allowed",
    408: "slow_body",
    413: "too_large",
    429: "full",
    503: "unavailable",
    504: "deadline",
}
_FINISHES = ("stop", "length", "abort")

# Of the server itself: name -> (metric, text); what begins with "+" only grows.
_OWN = {
    "requests_held": ("ramet_samples_held", "Samples in the server, running and waiting"),
    "requests_held_tokens": ("ramet_held_prompt_tokens", "Prompt tokens of the samples held"),
    "held_limit": ("ramet_samples_held_limit", "Samples above which requests are refused"),
    "connections": ("ramet_connections", "Open connections"),
    "engine_ready": ("ramet_engine_ready", "Whether there is an engine that takes requests"),
    "engine_starts": ("+ramet_engine_starts", "Times that an engine was started"),
    "engine_restarts": ("+ramet_engine_restarts", "Times that an engine had to be started again"),
    "log_lines_dropped": ("+ramet_log_lines_dropped", "Log lines that nobody took in time"),
}


class Metrics(Watcher):
    """`paths`: the paths that requests are counted by. `about`: labels of `ramet_build_info` besides the
    versions."""

    def __init__(self, paths: frozenset[str], about: Mapping[str, str] | None = None) -> None:
        self._paths = paths
        self._figures: dict[str, Callable[[], float]] = {}
        self._engine, self._own = EngineMetrics(), _Own()
        self._engine_pid: int | None = None
        self.registry = CollectorRegistry()
        self._build_info(about or {})
        self.registry.register(self._engine)
        self.registry.register(self._own)
        ProcessCollector(registry=self.registry)
        ProcessCollector("ramet_engine", lambda: self._engine_pid or "none", registry=self.registry)
        self._request_metrics()

    def _build_info(self, about: Mapping[str, str]) -> None:
        known = {"version": __version__, "python": platform.python_version(), **about}
        info = Gauge(
            "ramet_build_info", "1; its labels say what runs", known, registry=self.registry
        )
        info.labels(**known).set(1)

    def _request_metrics(self) -> None:
        path = ("path",)
        self._requests = self._counter(
            "ramet_requests", "Requests that have ended, by path and status", ("path", "status")
        )
        self._in_progress = Gauge(
            "ramet_requests_in_progress",
            "Requests that have not ended",
            path,
            registry=self.registry,
        )
        self._refused = self._counter(
            "ramet_requests_refused", "Requests that got no answer, by cause", ("cause",)
        )
        for cause in _REFUSED.values():
            self._refused.labels(cause)  # a rate needs a 0 to begin with
        self._answers = self._counter(
            "ramet_answers", "Generated answers by how they ended", ("path", "finish")
        )
        self._cached = self._counter(
            "ramet_request_cached_tokens", "Prompt tokens of requests that were cached", path
        )
        self._first_token = self._histogram(
            "ramet_first_token_seconds", "From arrival to the first token", _FIRST_TOKEN
        )
        self._per_token = self._histogram(
            "ramet_per_token_seconds", "Between two tokens: a request's mean", _PER_TOKEN
        )
        self._seconds = self._histogram(
            "ramet_request_seconds", "From arrival to the end, of what was generated", _WHOLE
        )
        self._prompt = self._histogram(
            "ramet_request_prompt_tokens", "Prompt tokens of a request", _LENGTHS
        )
        self._output = self._histogram(
            "ramet_request_output_tokens", "Output tokens of a request", _LENGTHS
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("path",), buckets=buckets, registry=self.registry)

    # -- what is heard -------------------------------------------------------------------------------

    def _path(self, record: Record) -> str:
        return record.path if record.path in self._paths else _OTHER

    def began(self, record: Record) -> None:
        self._in_progress.labels(self._path(record)).inc()

    def ended(self, record: Record) -> None:
        path = self._path(record)
        self._in_progress.labels(path).dec()
        self._requests.labels(path, str(record.code)).inc()
        if (cause := _REFUSED.get(record.code)) is not None:
            self._refused.labels(cause).inc()
        if record.num_samples:
            self._generated(path, record)

    def _generated(self, path: str, record: Record) -> None:
        seconds, first = record.seconds or 0.0, record.first_token_seconds
        self._seconds.labels(path).observe(seconds)
        if record.finish is not None:
            finish = record.finish if record.finish in _FINISHES else _OTHER
            self._answers.labels(path, finish).inc()
        if record.num_prompt_tokens:  # none is known of what ended before it began
            self._prompt.labels(path).observe(record.num_prompt_tokens)
            self._cached.labels(path).inc(record.num_cached_tokens)
            self._output.labels(path).observe(record.num_output_tokens)
        if first is not None and record.num_output_tokens:
            self._first_token.labels(path).observe(first)
            later = record.num_output_tokens / record.num_samples - 1
            if later >= 1:
                self._per_token.labels(path).observe((seconds - first) / later)

    def happened(self, event: str, facts: dict[str, Any]) -> None:
        self._engine_pid = facts.get("pid")
        if "ended" in event:
            self._engine.ended()

    # -- what is told --------------------------------------------------------------------------------

    def also(self, name: str, figure: Callable[[], float]) -> None:
        """One more figure of the server itself, asked for whenever the metrics are."""
        self._figures[name] = figure

    def text(self, stats: Mapping[str, int] | None, gauges: Mapping[str, float]) -> bytes:
        """What Prometheus reads. `stats`: the engine's counters; without them (it does not answer) the last
        ones hold. `gauges`: of the server itself, by name."""
        self._engine.look(stats, time.monotonic())
        starts = gauges.get("engine_starts", 0.0)
        more = {name: figure() for name, figure in self._figures.items()}
        self._own.values = {**gauges, **more, "engine_restarts": max(0.0, starts - 1)}
        return generate_latest(_WithoutBirthdays(self.registry))


class _Own(Collector):
    """The server's own figures."""

    def __init__(self) -> None:
        self.values: Mapping[str, float] = {}

    def collect(self) -> Iterator[Metric]:
        for name, value in self.values.items():
            metric, text = _OWN.get(name, (f"ramet_{name}", name.replace("_", " ")))
            if metric[0] == "+":
                yield CounterMetricFamily(metric[1:], text, value=value)
            else:
                yield GaugeMetricFamily(metric, text, value=value)


class _WithoutBirthdays(Collector):
    """A registry without the times at which its counters were made, a line for each that nobody reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric
