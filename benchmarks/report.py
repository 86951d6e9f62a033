"""Rows of measured workloads as a table for terminals. Knows plain data only."""

from __future__ import annotations

from typing import Any

from benchmarks.others import MUCH

__all__ = ["heading", "legend", "lines"]

_TICKS = 0.5  # seconds: in less time the clock of others is too coarse
_COLUMNS = (
    "workload    switch          s   prog/s  first ms  p95  prog s    p95  hit %  opt %  of opt"
    "  computed   unique  x floor  x first"
)


def heading() -> str:
    return _COLUMNS


def lines(row: dict[str, Any]) -> str:
    """One line per switch."""
    found = [_line(row, name, figures) for name, figures in row["switches"].items()]
    if not row["same_tokens"]:
        found.append(f"{row['workload']:11} TOKENS DIFFER between runs")
    for name, figures in row["switches"].items():
        others = figures.get("busy_with_others")
        if others is not None and others > MUCH and figures["seconds"] > _TICKS:
            share = f"others had {100 * others:.0f} % of the processors"
            found.append(f"{row['workload']:11} {name:10} DISTURBED: {share}")
    return "\n".join(found)


def _line(row: dict[str, Any], name: str, f: dict[str, Any]) -> str:
    of_optimum = "-" if f["of_optimum"] is None else f"{100 * f['of_optimum']:.1f}"
    of_floor = "-" if f["times_floor"] is None else f"{f['times_floor']:.2f}"
    return (
        f"{row['workload']:11} {name:10} {f['seconds']:6.2f} {f['programs_per_second']:8.2f} "
        f"{_ms(f.get('first_token_mean'))} {_ms(f.get('first_token_p95'))} "
        f"{f['program_mean']:7.2f} {f['program_p95']:6.2f} {100 * f['hit_rate']:6.1f} "
        f"{100 * row['needs']['optimal_hit_rate']:6.1f} {of_optimum:>7} {f['computed_tokens']:9.0f} "
        f"{row['needs']['unique_tokens']:8} {of_floor:>8} {f['times_base']:8.2f}"
    )


def _ms(seconds: float | None) -> str:
    return f"{'-':>6}" if seconds is None else f"{1000 * seconds:6.0f}"


def legend() -> str:
    return (
        "prog/s: programs per second; first: from a call to its first token; prog s: from a program's "
        "beginning to its end;\nhit: prompt tokens that were not computed; opt: the same with nothing "
        "ever forgotten; computed: rows through the model;\nunique: those that any engine must compute; "
        "x floor: seconds over the floor (roofline.py); x first: seconds over\nthose of the first switch, "
        "in the same round."
    )
