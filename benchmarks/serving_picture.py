"""Measured servers as a picture. Knows plain data and matplotlib, which is optional.

python -m benchmarks.serving_picture FILE.json FILE.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving_report import steady_runs

__all__ = ["plot"]

_COLORS = {"ramet": "#d1495b", "llamacpp": "#66a182", "vllm": "#2e86ab"}
_MARKERS = {"ramet": "o", "llamacpp": "s", "vllm": "D"}


def plot(data: Mapping[str, Any], path: Path) -> None:
    """A PNG, a column per workload: first token (p99) and goodput over the offered rate, and good requests
    per second before, in and after the flood. Raises `ImportError` where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = [run for run in data["runs"] if "error" not in run]
    workloads = [w for w in data["workloads"] if any(run["workload"] == w for run in runs)]
    engines = list(dict.fromkeys(run["engine"] for run in runs))
    floods = any(run["kind"] == "overload" for run in runs)
    rows = 3 if floods else 2
    figure, panels = pyplot.subplots(
        rows,
        max(1, len(workloads)),
        figsize=(4.4 * max(1, len(workloads)), 2.9 * rows + 0.5),
        squeeze=False,
    )
    for column, workload in enumerate(workloads):
        for engine in engines:
            style = {"color": _COLORS.get(engine, "#222222"), "marker": _MARKERS.get(engine, "x")}
            steady = steady_runs(data, workload, engine)
            _steady(panels[0][column], panels[1][column], steady, engine, style)
        _limit(panels[0][column], data["limits"]["first"], workload)
        _diagonal(panels[1][column])
        if floods:
            _flood(panels[2][column], [r for r in runs if r["workload"] == workload])
    panels[0][0].set_ylabel("first token p99, s")
    panels[1][0].set_ylabel("goodput, requests/s")
    if floods:
        panels[2][0].set_ylabel("good requests / peak")
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    panels[0][0].legend(fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.text(0.01, 0.008, _conditions(data), fontsize=7, color="#555555")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _steady(
    latency: Any, goodput: Any, runs: list[dict[str, Any]], engine: str, style: dict[str, str]
) -> None:
    waits = [(run["rate"], run["first_token"]["p99"]) for run in runs]
    waits = [(rate, wait) for rate, wait in waits if wait is not None]
    if waits:
        latency.plot(*zip(*waits), markersize=4, label=engine, **style)
    if runs:
        rates = [run["rate"] for run in runs]
        goodput.plot(rates, [run["goodput"] for run in runs], markersize=4, label=engine, **style)
    for axes in (latency, goodput):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        axes.set_xlabel("offered requests/s", fontsize=8)


def _limit(axes: Any, limit: float, workload: str) -> None:
    axes.set_yscale("log")
    axes.axhline(limit, color="black", linewidth=0.8, linestyle="--")
    axes.set_title(workload, fontsize=10)


def _diagonal(axes: Any) -> None:
    """Where all that is offered is good."""
    low, high = axes.get_xlim()
    rates = [low * (high / low) ** (i / 50) for i in range(51)]
    axes.plot(rates, rates, color="black", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(low, high)
    most = max((max(line.get_ydata()) for line in axes.lines[:-1]), default=0)
    axes.set_ylim(0, 1.15 * most or 1)


def _flood(axes: Any, runs: list[dict[str, Any]]) -> None:
    for run in runs:
        if run["kind"] == "overload":
            seconds = [row[0] for row in run["timeline"]]
            goods = [row[2] / run["peak"] for row in run["timeline"]]
            color = _COLORS.get(run["engine"], "#222222")
            axes.plot(seconds, goods, color=color, linewidth=1, label=run["engine"])
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel("seconds since the flood began (10 x peak, at 1/2 peak else)", fontsize=8)


def _conditions(data: Mapping[str, Any]) -> str:
    limits = data["limits"]
    return (
        f"{data.get('machine', 'machine not described')}; {data['model']}, {data['threads']} threads, int8; "
        f"good: first token within {limits['first']:g} s, others within {1000 * limits['per_token']:g} ms "
        f"each; windows of {data['times']['window']:g} s"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
