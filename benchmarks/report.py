"""Rows of measured workloads as a table for terminals and as a picture. Knows plain data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["heading", "legend", "lines", "plot"]

_COLUMNS = (
    "workload    switch      s      prog/s  first ms   p95  prog s   p95  hit %  opt %  of opt"
    "  computed   unique  x floor  x first"
)


def heading() -> str:
    return _COLUMNS


def lines(row: dict[str, Any]) -> str:
    """One line per switch."""
    found = [_line(row, name, figures) for name, figures in row["switches"].items()]
    if not row["same_tokens"]:
        found.append(f"{row['workload']:11} TOKENS DIFFER between runs")
    return "\n".join(found)


def _line(row: dict[str, Any], name: str, f: dict[str, Any]) -> str:
    of_optimum = "-" if f["of_optimum"] is None else f"{100 * f['of_optimum']:.1f}"
    return (
        f"{row['workload']:11} {name:10} {f['seconds']:6.2f} {f['programs_per_second']:8.2f} "
        f"{_ms(f.get('first_token_mean'))} {_ms(f.get('first_token_p95'))} "
        f"{f['program_mean']:7.2f} {f['program_p95']:5.2f} {100 * f['hit_rate']:6.1f} "
        f"{100 * row['needs']['optimal_hit_rate']:6.1f} {of_optimum:>7} {f['computed_tokens']:9.0f} "
        f"{row['needs']['unique_tokens']:8} {f['times_floor']:8.2f} {f['times_base']:8.2f}"
    )


def _ms(seconds: float | None) -> str:
    return f"{'-':>6}" if seconds is None else f"{1000 * seconds:6.0f}"


def legend() -> str:
    return (
        "first: from a call to its first token; hit: prompt tokens that were not computed; opt: the same "
        "with nothing\never forgotten; computed: rows through the model; unique: those that any engine "
        "must compute;\nx floor: seconds over the floor (roofline.py); x first: seconds over those of the "
        "first switch, in the same round."
    )


def plot(data: dict[str, Any], path: Path) -> None:
    """A PNG: what each switch costs, and how far from the floor each workload is. Raises `ImportError`
    where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = data["workloads"]
    names = list(rows[0]["switches"])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 0.35 * len(rows) * len(names) + 2))
    for axes, key, title in (
        (left, "times_base", f"time / time of {names[0]}"),
        (right, "times_floor", "time / floor of this machine"),
    ):
        _bars(axes, rows, names, key)
        axes.set_title(title)
        axes.axvline(1, color="black", linewidth=0.8)
    right.legend(loc="lower right")
    figure.text(0.01, 0.01, f"{data['machine']}; {Path(data['model']).name}", fontsize=7)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _bars(axes: Any, rows: list[dict[str, Any]], names: list[str], key: str) -> None:
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        where = [i + number * height for i in range(len(rows))]
        axes.barh(where, [row["switches"][name][key] for row in rows], height, label=name)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [r["workload"] for r in rows])
    axes.invert_yaxis()
