"""Measured servers as tables for terminals. Knows plain data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.serving_figures import MUCH_CPU, MUCH_LATE

__all__ = ["line", "peaks", "report", "steady_runs"]

NOTICEABLE = 0.1  # cores that others took
_COLUMNS = (
    "workload  server      rate/s  good/s  good %   first token ms p50/90/99   per token ms p50/90/99"
    "   tok/s  cached %  429  failed  gen %"
)
_FLOODS = (
    "workload  server     peak/s  flood/s  good/s  of peak    429  Retry-After   429 after ms p50/99"
    "  failed  back in s"
)


def steady_runs(data: Mapping[str, Any], workload: str, engine: str) -> list[dict[str, Any]]:
    """The measured rates of one server on one workload, the lowest first."""
    found = [
        run
        for run in data["runs"]
        if run["workload"] == workload
        and run["engine"] == engine
        and run["kind"] == "rate"
        and "error" not in run
    ]
    return sorted(found, key=lambda run: float(run["rate"]))


def peaks(data: Mapping[str, Any], workload: str, engines: Sequence[str]) -> dict[str, float]:
    """The highest goodput of each server that has any."""
    found = {}
    for engine in engines:
        goodputs = [run["goodput"] for run in steady_runs(data, workload, engine)]
        if max(goodputs, default=0) > 0:
            found[engine] = float(max(goodputs))
    return found


def report(data: Mapping[str, Any]) -> str:
    runs = [run for run in data["runs"] if "error" not in run]
    order = {name: place for place, name in enumerate(data["workloads"])}
    runs.sort(key=lambda run: (order.get(run["workload"], 99), run["rate"], run["engine"]))
    steady = [run for run in runs if run["kind"] == "rate"]
    floods = [run for run in runs if run["kind"] == "overload"]
    parts = [_limits(data)]
    if steady:
        parts += [_COLUMNS, *map(_steady, steady)]
        parts += ["", "peak goodput, requests per second:"]
        for workload in dict.fromkeys(run["workload"] for run in steady):
            names = list(dict.fromkeys(run["engine"] for run in steady))
            found = peaks(data, workload, names).items()
            parts.append(f"  {workload:9} " + "   ".join(f"{n} {p:.2f}" for n, p in found))
    if floods:
        parts += ["", _FLOODS, *map(_flood, floods)]
    notes = [note for run in runs for note in _notes(run)]
    return "\n".join([*parts, *([""] if notes else []), *notes])


def line(run: Mapping[str, Any]) -> str:
    """One measurement, as it ends."""
    if "error" in run:
        problem = run["error"].splitlines()[0]
        return f"  {run['workload']:9} {run['engine']:9} {run['round']}: failed: {problem}"
    return "\n".join([_flood(run) if run["kind"] == "overload" else _steady(run), *_notes(run)])


def _limits(data: Mapping[str, Any]) -> str:
    limits = data["limits"]
    return (
        f"good: whole, first token within {limits['first']:g} s of the time at which the request should "
        f"have left,\nthe others within {1000 * limits['per_token']:g} ms each on average; given up after "
        f"{data['times']['timeout']:g} s\n"
    )


def _steady(run: Mapping[str, Any]) -> str:
    failed = sum(run["failures"].values())
    return (
        f"{run['workload']:9} {run['engine']:9} {run['rate']:8.3g} {run['goodput']:7.2f} "
        f"{_percent(run['share_good'])} {_three(run['first_token']):>26} {_three(run['per_token']):>24} "
        f"{run['tokens_per_second']:7.0f} {_percent(run['cached']):>9} {run['refused']:4} {failed:7} "
        f"{100 * run['generator']['cpu']:6.1f}"
    )


def _flood(run: Mapping[str, Any]) -> str:
    refusals, during = run["refusals"], run["during"]
    back = run["recovery_seconds"]
    waits = refusals["first_byte"]
    fast = f"{_ms(waits['p50'])}/{_ms(waits['p99'])}"
    return (
        f"{run['workload']:9} {run['engine']:9} {run['peak']:7.2f} {run['flood_rate']:8.1f} "
        f"{during['goodput']:7.2f} {_percent(run['goodput_of_peak']):>7}% {refusals['count']:6} "
        f"{refusals['with_retry_after']:12} {fast:>21} {sum(during['failures'].values()):7} "
        f"{'not seen' if back is None else f'{back:.1f}':>10}"
    )


def _notes(run: Mapping[str, Any]) -> list[str]:
    where = f"{run['workload']} {run['engine']} {run['round']}"
    generator, found = run["generator"], []
    if generator["cpu"] > MUCH_CPU:
        found.append(f"the generator took {100 * generator['cpu']:.0f} % of a core")
    if (generator["late"]["p99"] or 0) > MUCH_LATE:
        found.append(f"the generator was {_ms(generator['late']['p99'])} ms late (p99)")
    if generator["unsent"]:
        found.append(f"{generator['unsent']} requests not sent: too many were open")
    if (run.get("others") or 0) > NOTICEABLE:
        found.append(f"others took {run['others']:.2f} cores")
    failures = run["during"]["failures"] if run["kind"] == "overload" else run["failures"]
    if failures:
        found.append("failed: " + ", ".join(f"{n} {kind}" for kind, n in failures.items()))
    return [f"  ! {where}: {'; '.join(found)}"] if found else []


def _three(spread: Mapping[str, float | None]) -> str:
    return "/".join(_ms(spread[name]) for name in ("p50", "p90", "p99"))


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.1f}" if seconds < 0.01 else f"{1000 * seconds:.0f}"


def _percent(share: float | None) -> str:
    return f"{'-':>6}" if share is None else f"{100 * share:6.1f}"
