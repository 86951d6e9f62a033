"""Measured constraints as a picture. Knows plain data and matplotlib, which is optional.

python -m benchmarks.constraint_picture FILE.json FILE.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["plot"]

_COLORS = {
    "ramet": "#d1495b",
    "llguidance": "#2e86ab",
    "xgrammar": "#66a182",
    "outlines-core": "#edae49",
}
_MODES = {"jump": "#d1495b", "ask": "#2e86ab", "free": "#a0a0a0"}
_KINDS = {"regex": "regular expressions", "json_schema": "JSON Schemas"}


def plot(data: dict[str, Any], path: Path) -> None:
    """A PNG: for each vocabulary and kind the time of compiling and of masks by engine, and objects per
    second of decoding. Raises `ImportError` where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, decoding = data.get("masks", []), data.get("decoding", [])
    groups = list(dict.fromkeys((row["vocabulary"], row["kind"]) for row in rows))
    height = 0.55 * max(4, 2 * len(groups), len(decoding)) + 1.8
    widths = [4, 4] * bool(rows) + [4] * bool(decoding)
    figure, panels = pyplot.subplots(
        1, len(widths), figsize=(1.15 * sum(widths), height), width_ratios=widths, squeeze=False
    )
    axes = list(panels[0])
    if rows:
        _spans(
            axes.pop(0),
            rows,
            groups,
            "first_ms",
            "ms until the first mask: median to slowest constraint",
        )
        _spans(
            axes.pop(0),
            rows,
            groups,
            "cold_us",
            "µs per mask, first document: median, 99 %, slowest",
        )
    if decoding:
        _decoding(axes.pop(0), decoding)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.text(0.01, 0.012, data["machine"], fontsize=8, color="#555555")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _spans(
    axes: Any, rows: list[dict[str, Any]], groups: list[tuple[str, str]], figure: str, title: str
) -> None:
    """A line from the median to the largest value for each engine."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    for row in rows:
        if row[figure] is None:
            continue
        place = groups.index((row["vocabulary"], row["kind"]))
        place += 0.72 * (engines.index(row["engine"]) + 0.5) / len(engines) - 0.36
        color = _COLORS.get(row["engine"], "#222222")
        spread = row[figure]
        axes.plot([spread["p50"], spread["max"]], [place, place], color=color, linewidth=1.5)
        axes.plot([spread["p99"], spread["max"]], [place, place], "|", color=color, markersize=7)
        axes.plot([spread["p50"]], [place], "o", color=color, markersize=5)
    for engine in engines:
        axes.plot([], [], "o-", color=_COLORS.get(engine, "#222222"), label=engine)
    axes.set_xscale("log")
    axes.set_yticks(
        range(len(groups)), [f"{name}\n{_KINDS[kind]}" for name, kind in groups], fontsize=8
    )
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    _finish(axes, title, len(engines))


def _decoding(axes: Any, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        for number, (mode, color) in enumerate(_MODES.items()):
            ratio = row["modes"][mode]["of_free"]
            at = place + 0.26 * (number - 1)
            axes.barh(at, ratio, 0.24, color=color, label=mode if place == 0 else None)
            rate = row["modes"][mode]["objects_per_second"]
            axes.text(ratio, at, f" {rate:.3g}/s", va="center", fontsize=7)
    names = [f"{row['model']} {row['workload']} × {row['batch']}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlim(0, 1.18 * axes.get_xlim()[1])
    _finish(axes, "objects per second, relative to free text", 3)


def _finish(axes: Any, title: str, columns: int) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=min(columns, 2), fontsize=8, frameon=False,
        columnspacing=1, handletextpad=0.4,
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
