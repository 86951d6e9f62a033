"""The figures: Prometheus can read them, they agree with the answers, never fall, and cost little."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.launched import Launched, launched

from ramet import __version__
from ramet.server.app import METERED_PATHS
from ramet.server.metrics import CONTENT_TYPE, Metrics
from ramet.server.record import Record

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: bytes) -> Samples:
    """What the official parser reads; every name's type and text are checked on the way."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert family.name.startswith(("ramet_", "process_")), family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, "once each"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all other labels."""
    wanted = set(labels.items())
    return sum(v for (n, given), v in samples.items() if n == name and wanted <= given)


def record(path: str = "/generate", **values: Any) -> Record:
    given = {"id": "r", "path": path, "tenant": None, "began": 0.0, "status": 200, "seconds": 0.5}
    return Record(**{**given, **values})


def passed(metrics: Metrics, *records: Record) -> None:
    for one in records:
        metrics.began(one)
        metrics.ended(one)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(METERED_PATHS, {"model": "m"})


# -- what records become ----------------------------------------------------------------------------


def test_a_generated_answer(metrics: Metrics) -> None:
    answer = record(
        num_samples=2,
        num_prompt_tokens=100,
        num_cached_tokens=60,
        num_output_tokens=22,
        first_token_seconds=0.1,
        finish="stop",
    )
    metrics.began(answer)
    assert (
        value(parsed(metrics.text(None, {})), "ramet_requests_in_progress", path="/generate") == 1
    )
    metrics.ended(answer)
    found = parsed(metrics.text(None, {}))
    here = {"path": "/generate"}
    assert value(found, "ramet_requests_in_progress", **here) == 0
    assert value(found, "ramet_requests_total", status="200", **here) == 1
    assert value(found, "ramet_answers_total", finish="stop", **here) == 1
    assert value(found, "ramet_request_prompt_tokens_sum", **here) == 100
    assert value(found, "ramet_request_cached_tokens_total", **here) == 60
    assert value(found, "ramet_request_output_tokens_sum", **here) == 22
    assert value(found, "ramet_first_token_seconds_sum", **here) == pytest.approx(0.1)
    assert value(found, "ramet_request_seconds_sum", **here) == pytest.approx(0.5)
    per_token = value(found, "ramet_per_token_seconds_sum", **here)
    assert per_token == pytest.approx(0.4 / 10), "0.4 s for ten more tokens of each sample"
    assert value(found, "ramet_build_info", version=__version__, **_about(found)) == 1


def _about(found: Samples) -> dict[str, str]:
    [labels] = [dict(given) for name, given in found if name == "ramet_build_info"]
    assert labels["model"] == "m"
    assert labels.pop("version") == __version__
    return labels


def test_what_was_refused(metrics: Metrics) -> None:
    causes = {
        401: "no_key",
        403: "not_allowed",
        408: "slow_body",
        413: "too_large",
        429: "full",
        503: "unavailable",
        504: "deadline",
    }
    before = parsed(metrics.text(None, {}))
    for status, cause in causes.items():
        key = ("ramet_requests_refused_total", frozenset({("cause", cause)}))
        assert before[key] == 0, "a rate needs a 0 to begin with"
        passed(metrics, record(status=status))
    passed(metrics, record(status=400), record(status=None), record(status=500))
    found = parsed(metrics.text(None, {}))
    assert total(found, "ramet_requests_refused_total") == len(causes)
    assert all(value(found, "ramet_requests_refused_total", cause=c) == 1 for c in causes.values())
    assert value(found, "ramet_requests_total", path="/generate", status="499") == 1


def test_what_ended_before_it_began_has_no_figures(metrics: Metrics) -> None:
    passed(metrics, record(num_samples=1, status=499, first_token_seconds=0.01))
    found = parsed(metrics.text(None, {}))
    for name in ("first_token_seconds", "per_token_seconds", "request_prompt_tokens"):
        assert total(found, f"ramet_{name}_count") == 0, name


def test_labels_are_few_whoever_asks(metrics: Metrics) -> None:
    passed(metrics, *(record(f"/{i}", status=404) for i in range(500)))
    passed(metrics, *(record(num_samples=1, finish=f"f{i}") for i in range(50)))
    text = metrics.text(None, {})
    assert text.count(b"\n") < 300
    assert value(parsed(text), "ramet_requests_total", path="other", status="404") == 500
    assert value(parsed(text), "ramet_answers_total", path="/generate", finish="other") == 50


def test_figures_of_the_server(metrics: Metrics) -> None:
    metrics.also("connections", lambda: 7)
    metrics.also("log_lines_dropped", lambda: 3)
    gauges = {"requests_held": 4.0, "held_limit": 9.0, "engine_ready": 1.0, "engine_starts": 3.0}
    text = metrics.text(None, gauges)
    found = parsed(text)
    assert value(found, "ramet_samples_held") == 4
    assert value(found, "ramet_samples_held_limit") == 9
    assert value(found, "ramet_connections") == 7
    assert value(found, "ramet_log_lines_dropped_total") == 3
    assert value(found, "ramet_engine_starts_total") == 3
    assert value(found, "ramet_engine_restarts_total") == 2
    assert value(found, "process_resident_memory_bytes") > 1e6
    assert b"_created" not in text
    assert b"# TYPE ramet_engine_restarts_total counter" in text


# -- what engines count -----------------------------------------------------------------------------


def test_counters_do_not_fall_when_an_engine_starts_again(metrics: Metrics) -> None:
    seen: list[Samples] = []

    def look(stats: Mapping[str, int] | None) -> None:
        seen.append(parsed(metrics.text(stats, {})))

    def counted(name: str) -> list[float]:
        return [value(one, f"ramet_{name}_total") for one in seen]

    look({"num_steps": 10, "num_prompt_tokens": 1000, "num_running": 2, "num_missed_evicted": 5})
    metrics.happened("engine ended", {"why": "killed"})
    look(None)
    # The next engine is faster: more steps, fewer prompt tokens. Steps alone would not tell it apart.
    look({"num_steps": 30, "num_prompt_tokens": 100, "num_running": 0, "num_missed_evicted": 1})
    look(None)
    look({"num_steps": 31, "num_prompt_tokens": 120, "num_missed_evicted": 1})
    # Of this one's end nobody told.
    look({"num_steps": 40, "num_prompt_tokens": 7})
    assert counted("steps") == [10, 10, 40, 40, 41, 81]
    assert counted("prompt_tokens") == [1000, 1000, 1100, 1100, 1120, 1127]
    missed = [value(one, "ramet_missed_tokens_total", cause="evicted") for one in seen]
    assert missed == [5, 5, 6, 6, 6, 6]
    running = [value(one, "ramet_samples", state="running") for one in seen]
    assert running == [2, 0, 0, 0, 0, 0], "a figure of what is there now may fall"


def test_slots_add_up(metrics: Metrics) -> None:
    stats = {
        "num_slots": 100,
        "num_free_slots": 40,
        "num_tree_tokens": 50,
        "num_pinned_tokens": 20,
    }
    found = parsed(metrics.text(stats, {}))
    slots = {s: value(found, "ramet_kv_slots", state=s) for s in ("free", "cached", "shared")}
    assert slots == {"free": 40, "cached": 30, "shared": 20}
    assert total(found, "ramet_kv_slots") == 100


def test_old_figures_say_how_old(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("ramet.server.metrics.time.monotonic", lambda: now)
    assert b"figures_age" not in metrics.text(None, {})
    metrics.text({"num_steps": 1}, {})
    now = 107.5
    found = parsed(metrics.text(None, {}))
    assert value(found, "ramet_engine_figures_age_seconds") == 7.5
    assert value(found, "ramet_steps_total") == 1


def test_they_cost_little(metrics: Metrics) -> None:
    """Bounds ten times above what was measured: 20 microseconds a request, 4 ms a scrape."""
    one = record(num_samples=1, num_prompt_tokens=9, num_output_tokens=9, first_token_seconds=0.1)
    passed(
        metrics, *(record(path, status=status) for path in METERED_PATHS for status in (200, 400))
    )

    def least(repeat: int, work: Any) -> float:
        found = []
        for _ in range(5):
            began = time.process_time()
            for _ in range(repeat):
                work()
            found.append((time.process_time() - began) / repeat)
        return min(found)

    assert least(500, lambda: passed(metrics, one)) < 200e-6
    assert least(5, lambda: metrics.text({"num_steps": 1}, {})) < 40e-3


# -- a server's -------------------------------------------------------------------------------------


def ask(server: Launched, path: str, body: Any = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            if path == "/metrics":
                assert response.headers["content-type"] == CONTENT_TYPE
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def scraped(server: Launched) -> Samples:
    status, text = ask(server, "/metrics")
    assert status == 200
    return parsed(text)


def traffic() -> Iterator[tuple[str, dict[str, Any]]]:
    for i in range(6):
        chat = {"messages": [{"role": "user", "content": f"What is {i} + 5?"}], "max_tokens": 6 + i}
        yield "/v1/chat/completions", {**chat, "n": 1 + i % 3, "temperature": 1.0}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        yield "/v1/chat/completions", {**chat, **options}
        yield "/v1/completions", {"prompt": ["Tom Reed", f"Item {i}"], "max_tokens": 5}
        yield "/v1/messages", chat
        params = {"max_new_tokens": 9, "regex": r"[0-9]{3} apples"}
        yield "/generate", {"text": f"Count {i}", "sampling_params": params}


def used(path: str, body: Mapping[str, Any], answer: bytes) -> tuple[int, int, int]:
    """Prompt, cached and output tokens, as an answer says."""
    if body.get("stream"):
        events = [line[6:] for line in answer.decode().splitlines() if line.startswith("data: {")]
        found = json.loads(events[-1])
    else:
        found = json.loads(answer)
    if path == "/generate":
        meta = found["meta_info"]
        return meta["prompt_tokens"], meta["cached_tokens"], meta["completion_tokens"]
    usage = found["usage"]
    if path == "/v1/messages":
        cached = usage["cache_read_input_tokens"]
        return usage["input_tokens"] + cached, cached, usage["output_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return usage["prompt_tokens"], cached, usage["completion_tokens"]


def test_figures_agree_with_answers(server: Launched) -> None:
    before = scraped(server)
    asked = list(traffic())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: ask(server, *one), asked))
    assert {status for status, _ in answers} == {200}, answers
    assert ask(server, "/generate", {"text": 1})[0] == 400
    assert ask(server, "/no/such/path", {})[0] == 404
    after = settled(server)

    def gain(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    for path in {path for path, _ in asked}:
        figures = [used(*one, answer) for one, (_, answer) in zip(asked, answers) if one[0] == path]
        prompt, cached, output = (sum(column) for column in zip(*figures))
        assert gain("ramet_requests_total", path=path, status="200") == len(figures)
        assert gain("ramet_request_prompt_tokens_sum", path=path) == prompt, path
        assert gain("ramet_request_cached_tokens_total", path=path) == cached, path
        assert gain("ramet_request_output_tokens_sum", path=path) == output, path
        assert gain("ramet_first_token_seconds_count", path=path) == len(figures)
        assert gain("ramet_request_seconds_count", path=path) == len(figures)
        assert gain("ramet_answers_total", path=path) == len(figures)
    assert gain("ramet_requests_total", path="/generate", status="400") == 1
    assert gain("ramet_requests_total", path="other", status="404") == 1

    engine = gain("ramet_generated_tokens_total") + gain("ramet_forced_tokens_total")
    assert engine == gain("ramet_request_output_tokens_sum")
    assert gain("ramet_forced_tokens_total") >= 6, "the apples were forced"
    assert gain("ramet_samples_finished_total") == 2 * (1 + 2 + 3) + 6 + 12 + 6 + 6
    assert total(after, "ramet_kv_slots") == 20_000
    assert value(after, "ramet_samples_held") == value(after, "ramet_held_prompt_tokens") == 0
    assert value(after, "ramet_engine_ready") == 1
    assert value(after, "ramet_connections") >= 1, "the one that asks"
    assert value(after, "ramet_engine_process_resident_memory_bytes") > 1e7


def settled(server: Launched) -> Samples:
    """The figures, when all that was asked has ended."""
    end = time.monotonic() + 10
    while True:
        found = scraped(server)
        if total(found, "ramet_requests_in_progress") == 1:  # this one
            return found
        assert time.monotonic() < end
        time.sleep(0.05)


def test_missed_and_cached_tokens_are_the_prompts(server: Launched) -> None:
    before = scraped(server)
    text = "A prompt of this test alone. " * 8
    for _ in range(2):
        params = {"max_new_tokens": 2, "temperature": 0}
        status, _ = ask(server, "/generate", {"text": text, "sampling_params": params})
        assert status == 200
    after = settled(server)

    def gain(name: str, **labels: str) -> float:
        return total(after, f"ramet_{name}_total", **labels) - total(
            before, f"ramet_{name}_total", **labels
        )

    prompt, cached = gain("prompt_tokens"), gain("cached_tokens")
    assert cached == prompt / 2 - 1, "all of the second but its last token"
    assert gain("missed_tokens") == prompt - cached
    assert gain("missed_tokens", cause="logits") == 1


def test_counters_do_not_fall_when_the_engine_is_killed() -> None:
    params = {"max_new_tokens": 4}
    with launched("--max-cache-tokens", "4000") as server:
        for _ in range(3):
            assert ask(server, "/generate", {"text": "Hello", "sampling_params": params})[0] == 200
        before = scraped(server)
        os.kill(server.engine_pid, signal.SIGKILL)
        end = time.monotonic() + 30
        looks = [before]
        while value(looks[-1], "ramet_engine_starts_total") < 2 or not value(
            looks[-1], "ramet_engine_ready"
        ):
            assert time.monotonic() < end
            time.sleep(0.1)
            looks.append(scraped(server))
        assert ask(server, "/generate", {"text": "Hello", "sampling_params": params})[0] == 200
        looks.append(scraped(server))
    after = looks[-1]
    assert value(after, "ramet_generated_tokens_total") == 16
    assert value(after, "ramet_samples_finished_total") == 4
    assert value(after, "ramet_engine_restarts_total") == 1
    assert 0 in [value(one, "ramet_engine_ready") for one in looks]
    for name, labels in before:
        if name.endswith(("_total", "_count", "_bucket")) and "process" not in name:
            row = [one.get((name, labels), 0.0) for one in looks]
            assert row == sorted(row), name


def test_every_name_follows_the_conventions(metrics: Metrics) -> None:
    passed(metrics, record(num_samples=1, num_prompt_tokens=1, num_output_tokens=5, finish="stop"))
    for family in text_string_to_metric_families(metrics.text({"num_steps": 1}, {}).decode()):
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z]", family.name)
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_tokens")), "its unit"
