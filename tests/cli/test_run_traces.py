"""`ramet run --trace`: which files are written, when, and what is in them."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ramet
from ramet.cli import app
from ramet.observe import spans

PROGRAMS = """
import ramet
from ramet import gen
from ramet.backends.scripted import Fail, Scripted

ramet.set_default_backend(Scripted({"0:": "a quick answer", "Fail:": Fail("gone from here")}))

@ramet.function
def main(s):
    s += "my quagga says"
    forks = s.fork(2)
    forks += " 0:" + gen("tip")
    forks.join()

@ramet.function
def broken(s):
    s += "my quagga says Fail:" + gen("x")
    return s["x"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "traced.py"
    path.write_text(PROGRAMS, "utf-8")
    return path


@pytest.fixture(autouse=True)
def _same_world_afterwards() -> Iterator[None]:
    backend, path = ramet.global_config.default_backend, list(sys.path)
    yield
    ramet.global_config.default_backend = backend
    sys.path[:] = path
    sys.modules.pop("ramet_program_traced", None)


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_both_forms_at_once_and_no_texts(file: Path, tmp_path: Path) -> None:
    page, timeline = tmp_path / "out.html", tmp_path / "out.json"
    done = invoke("run", file, "--trace", page, "--trace", timeline)
    assert done.exit_code == 0, done.output
    assert f"trace: {page}" in done.stderr
    assert f"trace: {timeline}" in done.stderr
    assert "trace:" not in done.stdout
    events = json.loads(timeline.read_text())["traceEvents"]
    assert sum(event.get("cat") == "generate" for event in events) == 2
    for path in (page, timeline):
        said = path.read_text("utf-8")
        assert "tip" in said
        assert "quagga" not in said
        assert "quick answer" not in said


def test_texts_of_all_branches_where_asked_for(file: Path, tmp_path: Path) -> None:
    for name in ("out.html", "out.json"):
        done = invoke("run", file, "--trace", tmp_path / name, "--texts", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["error"] is None
        assert (tmp_path / name).read_text("utf-8").count("quick answer") >= 2


def test_a_run_that_fails_is_traced_too(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = invoke("run", f"{file}:broken", "--trace", out)
    assert done.exit_code == 1
    events = json.loads(out.read_text())["traceEvents"]
    [call] = [event for event in events if event.get("cat") == "generate"]
    assert call["args"]["error"] == "BackendError"
    assert "gone from here" not in out.read_text()


@pytest.mark.parametrize("name", ["out.svg", "nowhere/out.html", "out"])
def test_a_wrong_name_is_found_before_the_run(file: Path, tmp_path: Path, name: str) -> None:
    done = invoke("run", file, "--trace", tmp_path / name)
    assert done.exit_code == 2
    assert "trace" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / name).exists()


def test_texts_need_a_trace_to_be_in(file: Path) -> None:
    done = invoke("run", file, "--texts")
    assert done.exit_code == 2
    assert "--trace" in done.stderr


def test_spans_are_made_where_opentelemetry_is_set_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is missing")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(
        "ramet.cli.run.SpanListener", functools.partial(spans.SpanListener, provider)
    )
    assert invoke("run", file).exit_code == 0
    assert sorted(span.name for span in exporter.get_finished_spans()) == [
        "invoke_workflow main", "text_completion scripted", "text_completion scripted",
    ]  # fmt: skip
    spans.instrument(provider)  # the program does it itself: not twice
    try:
        assert invoke("run", file).exit_code == 0
    finally:
        spans.uninstrument()
    assert len(exporter.get_finished_spans()) == 6
