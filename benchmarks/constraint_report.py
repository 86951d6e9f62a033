"""Figures of constraints as tables for terminals. Knows plain data only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.others import MUCH

__all__ = [
    "case_lines",
    "decoding_legend",
    "decoding_lines",
    "legend",
    "mask_lines",
    "verdict_lines",
]

_TICKS = 0.5  # seconds: in less time the clock of others is too coarse
_KINDS = {"regex": "regex", "json_schema": "schema"}


def mask_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'vocabulary':11} {'kind':6} {'engine':13} {'passed':>7} {'ref':>4} {'fail':>4} {'rej':>4} {'acc':>4} "
        f"{'compile ms':>16} {'first ms':>16} {'cold us p50/p99/max':>22} {'warm us p50/p99/max':>22} "
        f"{'forced %':>8} {'x cold':>7} {'x warm':>7}"
    ]
    for row in rows:
        passed = f"{row['passed']}/{row['cases']}"
        lines.append(
            f"{row['vocabulary']:11} {_KINDS[row['kind']]:6} {row['engine']:13} {passed:>7} "
            f"{row['refused']:4} {row['failed']:4} {row['rejected']:4} {row['accepted']:4} "
            f"{_two(row['compile_ms']):>16} {_two(row['first_ms']):>16} {_three(row['cold_us']):>22} "
            f"{_three(row['warm_us']):>22} {_percent(row['forced']):>8} {_times(row['cold_ratio']):>7} "
            f"{_times(row['warm_ratio']):>7}"
        )
    return lines


def verdict_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Who masks out what others allow, and who allows what is wrong."""
    if not rows:
        return []
    lines = [
        f"{'vocabulary':11} {'kind':6} {'engine':13} {'masked':>8} {'spaces':>8} {'judged':>7} {'legal':>6} "
        f"{'lost':>5} {'loose':>6}  constraints with a loss | with too much allowed"
    ]
    for row in rows:
        lines.append(
            f"{row['vocabulary']:11} {_KINDS[row['kind']]:6} {row['engine']:13} {row['masked']:8} "
            f"{row['spaces']:8} {row['judged']:7} {row['legal']:6} {row['lost']:5} {row['loose']:6}  "
            f"{', '.join(row['cases']) or '-'} | {', '.join(row['loose_cases']) or '-'}"
        )
    return lines


def case_lines(row: dict[str, Any]) -> list[str]:
    """One constraint in detail: what went wrong, and what is disputed with one example of each."""
    lines = [f"{row['vocabulary']} {row['case']}: {', '.join(map(str, row['tokens']))} tokens"]
    for engine, result in row["results"].items():
        if "walks" not in result:
            lines.append(f"  {engine}: {result['error']}")
            continue
        for number, walk in enumerate(result["walks"]):
            if walk["refused"] is not None:
                lines.append(f"  {engine}: refuses step {walk['refused']} of document {number}")
            elif not walk["ends"]:
                lines.append(f"  {engine}: says that document {number} may not end")
            if walk["against"]:
                lines.append(f"  {engine}: forces another text than document {number}")
        for number in result["accepted"]:
            lines.append(f"  {engine}: accepts wrong document {number}")
    for dispute in row.get("disputes", ()):
        blank = " (white space)" if dispute["white_space"] else ""
        sides = f"{'+'.join(dispute['allowed'])} against {'+'.join(dispute['masked'])}"
        lines.append(f"  {sides}{blank}: {dispute['count']} tokens")
        for verdict in dispute["judged"][:2]:
            text = json.dumps((verdict["text"] or "")[-60:], ensure_ascii=False)
            said = "legal" if verdict["legal"] else "not proved"
            lost = f", lost by {'+'.join(verdict['lost'])}" if verdict["lost"] else ""
            loose = f", bad text by {'+'.join(verdict['loose'])}" if verdict["loose"] else ""
            lines.append(f"    {verdict['token']!r} {said}{lost}{loose}: {text}")
    return lines


def decoding_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'model':9} {'workload':10} {'batch':>5} {'mode':8} {'objects/s':>9} {'tokens/s':>9} {'passes/obj':>10} "
        f"{'tok/pass':>8} {'forced %':>8} {'ms/step':>8} {'x free':>7} {'x step':>7} {'whole':>6}"
    ]
    for row in rows:
        for mode, f in row["modes"].items():
            lines.append(
                f"{row['model']:9} {row['workload']:10} {row['batch']:5} {mode:8} {f['objects_per_second']:9.2f} "
                f"{f['tokens_per_second']:9.1f} {f['passes_per_object']:10.1f} {f['tokens_per_pass']:8.2f} "
                f"{_percent(f['forced']):>8} {1e3 * f['seconds_per_step']:8.2f} {_times(f['of_free']):>7} "
                f"{_times(f['step_of_free']):>7} {_percent(f['whole']):>6}"
            )
            others = f.get("busy_with_others")
            if others is not None and others > MUCH and f["seconds"] > _TICKS:
                share = f"others had {100 * others:.0f} % of the processors"
                lines.append(f"{row['model']:9} {row['workload']:10} {mode} DISTURBED: {share}")
    return lines


def legend() -> str:
    return (
        "passed: constraints whose documents all go through and whose wrong ones do not; ref: refused when "
        "compiled; fail: longer\nthan the limit, or died; rej: documents rejected; acc: wrong documents accepted; "
        "first: compiling and the first mask;\ncold: the constraint's first document, warm: its second; forced: "
        "tokens within text that the engine itself forces;\nx: the median over constraints of its time over "
        "Ramet's, for compiling and the first document, and for the second.\nmasked: disputed tokens (over all "
        "steps) that it masks out; judged, of these, legal ones, and lost: legal ones whose\ntext it refuses "
        "in every division tried; loose: judged tokens from which it wrote a text that does not satisfy."
    )


def decoding_legend() -> str:
    return (
        "jump: forced text is taken as it is; ask: every token is asked for, under its mask; free: no "
        "constraint, as many tokens as jump gave.\npasses: steps of the model; forced: tokens not asked for; "
        "x free: objects per second over those of free in the same\nround; x step: seconds per step over "
        "those of free; whole: objects that satisfy their constraint."
    )


def _two(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{_short(spread['p50'])}/{_short(spread['max'])}"


def _three(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    return "/".join(_short(spread[name]) for name in ("p50", "p99", "max"))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else _short(ratio)
