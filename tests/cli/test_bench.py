"""`ramet bench` counts right what it measured, and finds the repository's workloads where there are any."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ramet import pocket
from ramet.cli import app
from ramet.cli.bench import BenchOptions, measure
from ramet.cli.failure import UsageError

bench_module = sys.modules[BenchOptions.__module__]  # `ramet.cli.bench` is the command

SMALL = BenchOptions(requests=4, shared=24, own=8, out=3, rounds=1)


@pytest.fixture(scope="module")
def engine() -> Any:
    try:
        pocket.model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded model is not there: {error}")
    from ramet import Engine

    with Engine("pocket", max_cache_tokens=1024) as engine:
        yield engine


def test_figures_are_those_of_the_requests(engine: Any) -> None:
    found = {figures.name: figures for figures in measure(engine, SMALL)}
    assert list(found) == ["cold", "warm", "unshared", "one stream"]
    # A new token goes through the model unless it is the last.
    assert found["cold"].computed_tokens == 24 + 4 * (8 + 2)
    assert found["warm"].computed_tokens == 4 * (8 + 2)
    assert found["unshared"].computed_tokens == 4 * (24 + 8 + 2)
    assert found["one stream"].computed_tokens == 24 + 8 + bench_module.STREAM_TOKENS - 1
    for figures in found.values():
        assert figures.hit_rate == pytest.approx(figures.optimum)
        assert 0 < figures.first_token <= figures.seconds
    assert found["warm"].optimum == 24 / 32
    assert found["cold"].optimum == 1 - (24 + 4 * 8) / (4 * 32)


def test_without_a_shared_prefix_nothing_is_shared(engine: Any) -> None:
    options = BenchOptions(requests=2, shared=0, own=5, out=1, rounds=2)
    assert all(figures.hit_rate == 0 for figures in measure(engine, options))


def test_the_table_and_the_json_say_the_same(
    engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    bench_module.bench(engine, SMALL, str(file))
    data = json.loads(file.read_text())
    assert {name: data[name] for name in asdict(SMALL)} == asdict(SMALL)
    lines = capsys.readouterr().out.splitlines()
    for line, figures in zip(lines[2:], data["figures"], strict=True):
        assert line.startswith(figures["name"])
        assert re.search(rf"\b{figures['computed_tokens']}\b", line)
        assert f"{1000 * figures['first_token']:.1f}" in line
    with pytest.raises(UsageError, match="cannot write"):
        bench_module.bench(engine, SMALL, str(tmp_path / "nowhere" / "out.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--requests", "0"], "--requests: 0 is below 1"),
        (["--shared", "-1"], "--shared: -1 is below 0"),
        (["--shared", "100000"], "the model's context has"),
        (["no/such/folder"], "cannot load the model"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["bench", *words])
    assert done.exit_code == 2
    assert message in done.stderr


# -- the repository's workloads ------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def run(words: list[str], *, env: dict[str, str], **_: Any) -> Any:
        calls.append((words, env))
        return subprocess.CompletedProcess(words, 3)

    monkeypatch.setattr(bench_module.subprocess, "run", run)
    return calls


def test_workloads_are_those_of_the_checkout(started: list[Any], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    words = ["bench", str(tmp_path / "model"), "--workloads", "mmlu,tot", "--quantization", "int8"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3
    ((command, environment),) = started
    tail = [
        "--model",
        str(tmp_path / "model"),
        "--only",
        "mmlu,tot",
        "--options",
        "quantization=int8",
    ]
    assert command[1:] == ["-m", "benchmarks", "workloads", *tail]
    root = Path(environment["PYTHONPATH"].split(":")[0])
    assert (root / "benchmarks" / "run_workloads.py").is_file()


def test_an_installed_package_says_where_the_workloads_are(
    started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "lib" / "python" / "ramet" / "cli" / "bench.py"
    installed.parent.mkdir(parents=True)
    shutil.copy(bench_module.__file__, installed)
    monkeypatch.setattr(bench_module, "__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["bench", "--workloads", "all"])
    assert done.exit_code == 2
    assert "in a checkout" in done.stderr
    assert started == []
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "run_workloads.py").touch()
    assert CliRunner().invoke(app, ["bench", "--workloads", "all"]).exit_code == 3
