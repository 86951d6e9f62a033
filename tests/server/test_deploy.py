"""`deploy/`: the files can be read, agree with each other and with the server that they deploy."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.server.launched import ROOT
from typer.testing import CliRunner

import ramet.server.run
from ramet.build import LEVELS
from ramet.cli import app
from ramet.server.app import METERED_PATHS
from ramet.server.metrics import Metrics
from ramet.server.options import ServeOptions
from ramet.server.record import Record

DEPLOY = ROOT / "deploy"


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana/dashboards/ramet.json").read_text())


def queries() -> Iterator[tuple[str, str]]:
    """Panel, PromQL."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def told() -> dict[str, set[str]]:
    """Labels of every series that a server tells, by its name."""
    metrics = Metrics(METERED_PATHS, {"model": "m"})
    metrics.also("connections", lambda: 1)
    metrics.also("log_lines_dropped", lambda: 0)
    metrics.happened("engine ready", {"pid": os.getpid()})
    one = Record(
        id="r",
        path="/generate",
        tenant=None,
        began=0.0,
        num_samples=1,
        num_prompt_tokens=9,
        num_output_tokens=9,
        first_token_seconds=0.1,
        seconds=0.5,
        status=200,
        finish="stop",
    )
    metrics.began(one)
    metrics.ended(one)
    gauges = (
        "requests_held",
        "requests_held_tokens",
        "held_limit",
        "engine_ready",
        "engine_starts",
    )
    text = metrics.text({"num_steps": 1}, dict.fromkeys(gauges, 1.0)).decode()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_dashboard_asks_for_what_there_is() -> None:
    series = told()
    added = {"job", "instance"}  # by Prometheus
    asked = list(queries())
    assert len(asked) > 30
    for panel, query in asked:
        names = re.findall(r"\b(?:ramet|process)_[a-z_]+", query)
        assert names, panel
        for name in names:
            assert name in series, (panel, name)
        labels = re.findall(r"(\w+)=~", query) + re.findall(r"by \((\w+)\)", query)
        known = set().union(*(series[name] for name in names)) | added
        assert set(labels) <= known, (panel, query)
        if re.search(r"\b(rate|increase)\(", query):
            counted = re.findall(r"(?:rate|increase)\((\w+)", query)
            assert all(n.endswith(("_total", "_bucket", "_sum")) for n in counted), query
    shown = {name for _, query in asked for name in re.findall(r"\bramet_[a-z_]+", query)}
    wanted = {"missed_tokens_total", "kv_slots", "evicted_tokens_total", "preemptions_total"}
    assert {f"ramet_{name}" for name in wanted} <= shown


def test_every_figure_is_documented() -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    for name in told():
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        whole = base in text or re.sub(r"^ramet_samples", "", base) in text
        assert whole or base.startswith(("process_", "ramet_engine_process_")), name


def test_the_dashboard_is_laid_out() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    stacked = [
        panel["title"]
        for panel in panels
        if panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode")
        == "normal"
    ]
    assert {"KV slots", "Missed prompt tokens, by cause", "Requests by status"} <= set(stacked)


def test_every_yaml_file_can_be_read() -> None:
    files = [*DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml")]
    assert len(files) >= 4
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text()), dict), file


def test_compose_names_what_is_there() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is for this machine only"
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("$"):
                assert source in compose["volumes"]
        for secret in service.get("secrets", ()):
            assert secret in compose["secrets"]
    build = compose["services"]["ramet"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == ["ramet:30000"]
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/ramet_admin_key"
    source = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/ramet.yaml").read_text())
    inside = provider["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{inside}:ro" in compose["services"]["grafana"]["volumes"]


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "ramet.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServeOptions]:
    found: list[ServeOptions] = []

    def serve(options: ServeOptions) -> int:
        found.append(options)
        return 0

    monkeypatch.setattr(ramet.server.run, "serve", serve)
    line = importlib.import_module("ramet.cli.serve")  # the package has a command of that name
    monkeypatch.setattr(line, "_check_port", lambda _options: None)
    return found


def serves(arguments: list[str], started: list[ServeOptions]) -> ServeOptions:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return started[-1]


def test_the_unit_starts_and_stops_a_server(tmp_path: Path, started: list[ServeOptions]) -> None:
    [line] = unit()["ExecStart"]
    (tmp_path / "keys.json").write_text('{"a": "the key of a"}')
    line = line.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path))
    line = line.replace("$RAMET_OPTIONS", "--max-cache-tokens 50000")
    command, *arguments = shlex.split(line)
    assert command.endswith("/bin/ramet")
    options = serves(arguments, started)
    assert options.api_keys == {"the key of a": "a"}
    assert options.engine.max_cache_tokens == 50_000
    assert float(unit()["TimeoutStopSec"][0]) >= options.shutdown_timeout + 15
    assert int(unit()["LimitNOFILE"][0]) > options.max_connections + 1000
    assert unit()["NoNewPrivileges"] == unit()["DynamicUser"] == ["yes"]
    assert unit()["ProtectSystem"] == ["strict"]


def test_the_images_command_is_one(started: list[ServeOptions]) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0])
    given = json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])
    assert entry[0] == "ramet"
    options = serves([*entry[1:], *given], started)
    assert (options.host, options.port, options.log_format) == ("0.0.0.0", 30000, "json")
    assert re.search(r"^EXPOSE 30000$", text, re.MULTILINE)
    assert "127.0.0.1:30000/health" in text
    users = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)
    assert users, "it does not run as root"
    assert users[-1] != "0"
    command = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["ramet"]["command"]
    shown = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", one) for one in command]
    assert serves([*entry[1:], *shown], started).engine.max_cache_tokens == 50_000


def test_the_image_copies_what_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE):
        *sources, _target = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in allowed, source
    levels = re.findall(r'levels="([^"]+)"', text)[0].split()
    assert set(levels) == set(LEVELS), "the kernels of every level are built"


def test_no_file_holds_a_key() -> None:
    tracked = subprocess.run(
        ["grep", "-rnE", "[0-9a-f]{24}|BEGIN .*KEY", str(DEPLOY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tracked.stdout == ""
