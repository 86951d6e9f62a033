"""A comparison as a picture: how many times as fast Ramet is as each peer. Knows plain data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot"]

_COLOURS = {
    "vllm": "#4c78a8",
    "openvino": "#f58518",
    "llamacpp": "#54a24b",
    "transformers": "#9d9da1",
}


def plot(rows: Sequence[Mapping[str, Any]], caption: str, path: Path) -> None:
    """A PNG with a panel per precision. Raises `ImportError` where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    figure, panels = pyplot.subplots(
        1, max(1, len(precisions)), figsize=(6 * max(1, len(precisions)), 5), squeeze=False
    )
    for axes, precision in zip(panels[0], precisions):
        _panel(axes, [row for row in rows if row["precision"] == precision])
        axes.set_title(f"{precision}: Ramet is so many times as fast as")
    figure.text(0.01, 0.01, caption, fontsize=7)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _panel(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [n for n in dict.fromkeys(n for row in rows for n in row["engines"]) if n != "ramet"]
    height = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        for i, row in enumerate(rows):
            ratio = row["engines"].get(name, {}).get("ratio")
            if ratio is None:
                continue
            label = name if i == _first(rows, name) else None
            where = i + number * height
            axes.barh(where, ratio, height, color=_COLOURS.get(name), label=label)
            axes.text(ratio, where, f" {ratio:.1f}", va="center", fontsize=7)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [r["figure"] for r in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8)


def _first(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """The first row that has a bar of this engine: the one whose bar is named."""
    return next(i for i, row in enumerate(rows) if row["engines"].get(name, {}).get("ratio"))
