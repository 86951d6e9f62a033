"""Measured workloads as a picture. Knows plain data and matplotlib, which is optional.

python -m benchmarks.picture FILE.json FILE.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["plot"]

_COLORS = ("#222222", "#d1495b", "#edae49", "#66a182", "#2e86ab", "#8d6a9f", "#7a5c3e", "#a0a0a0")
_MARKERS = "osD^vP*X"


def plot(data: dict[str, Any], path: Path) -> None:
    """A PNG of three panels, a line per workload: the hit rate against the optimum, what each switch
    costs, how far from the floor. Raises `ImportError` where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = data["workloads"]
    figure, panels = pyplot.subplots(
        1, 3, figsize=(13, 0.42 * len(rows) + 2.6), sharey=True, width_ratios=(3, 5, 3)
    )
    _hit_rates(panels[0], rows)
    _switches(panels[1], rows)
    _floors(panels[2], rows)
    panels[0].set_yticks(range(len(rows)), [row["workload"] for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.text(0.01, 0.012, _conditions(data), fontsize=8, color="#555555")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _hit_rates(axes: Any, rows: list[dict[str, Any]]) -> None:
    first = _first(rows)
    places = range(len(rows))
    hits = [100 * row["switches"][first]["hit_rate"] for row in rows]
    optima = [100 * row["needs"]["optimal_hit_rate"] for row in rows]
    axes.barh(places, hits, 0.6, color="#66a182", label="reached")
    axes.plot(optima, places, "|", color="black", markersize=15, label="optimum of the trace")
    for place, row in zip(places, rows):
        share = row["switches"][first]["of_optimum"]
        text = "nothing to share" if share is None else f"{100 * share:.1f} % of optimum"
        axes.text(max(optima[place], 0) + 2, place, text, va="center", fontsize=8)
    axes.set_xlim(0, 160)
    axes.set_xticks(range(0, 101, 25))
    axes.set_title("prompt tokens not computed, %", fontsize=10)
    _legend(axes, 2)


def _switches(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0]["switches"])
    step = 0.7 / max(1, len(names) - 1)
    for number, name in enumerate(names):
        times = [row["switches"][name]["times_base"] for row in rows]
        shift = (number - (len(names) - 1) / 2) * step if len(names) > 1 else 0
        places = [place + shift for place in range(len(rows))]
        color = _COLORS[number % len(_COLORS)]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(times, places, marker, color=color, markersize=5, label=name)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    ticks = [
        t
        for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50)
        if _inside(t, rows, names)
    ]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    for place in range(len(rows) - 1):
        axes.axhline(place + 0.5, color="#eeeeee", linewidth=0.6)
    axes.set_title(f"time / time of {names[0]}", fontsize=10)
    _legend(axes, 4)


def _inside(tick: float, rows: list[dict[str, Any]], names: list[str]) -> bool:
    times = [row["switches"][name]["times_base"] for row in rows for name in names]
    return bool(min(times) * 0.9 <= tick <= max(times) * 1.1)


def _floors(axes: Any, rows: list[dict[str, Any]]) -> None:
    first = _first(rows)
    for place, row in enumerate(rows):
        ratio = row["switches"][first]["times_floor"]
        if ratio is None:
            continue
        compute = row["floor"]["compute"] >= row["floor"]["memory"]
        axes.barh(place, ratio, 0.6, color="#2e86ab" if compute else "#edae49")
        axes.text(ratio, place, f" {ratio:.1f}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.barh([0], [0], color="#2e86ab", label="floor: arithmetic")
    axes.barh([0], [0], color="#edae49", label="floor: memory")
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_title("time / floor of this machine", fontsize=10)
    _legend(axes, 2)


def _legend(axes: Any, columns: int) -> None:
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=columns, fontsize=8, frameon=False,
        columnspacing=1, handletextpad=0.4,
    )  # fmt: skip


def _first(rows: list[dict[str, Any]]) -> str:
    return str(next(iter(rows[0]["switches"])))


def _conditions(data: dict[str, Any]) -> str:
    options = ", ".join(f"{name}={value}" for name, value in data["options"].items()) or "defaults"
    return (
        f"{data['machine']}; model {Path(data['model']).name} ({options}); scale {data['scale']:g}; "
        + (f"medians of {data['rounds']}" if data["rounds"] > 1 else "one run each")
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
