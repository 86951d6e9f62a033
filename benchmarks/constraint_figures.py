"""From rows of `constraint_masks` to figures by vocabulary, kind of constraint and engine.

Knows plain data only. Times are microseconds of masks and milliseconds of compiling; shares are of tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["summaries", "verdicts"]

FIRST = "ramet"  # what the others' times are divided by


def summaries(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each vocabulary, kind and engine, in the order of the rows."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["vocabulary"], row["kind"]), []).append(row)
    found = []
    for (vocabulary, kind), members in groups.items():
        engines = dict.fromkeys(engine for row in members for engine in row["results"])
        for engine in engines:
            head = {"vocabulary": vocabulary, "kind": kind, "engine": engine}
            found.append({**head, **_summary(engine, members)})
    return found


def _summary(engine: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    results = [row["results"][engine] for row in rows if engine in row["results"]]
    whole = [result for result in results if "walks" in result]
    walks = [walk for result in whole for walk in result["walks"]]
    cold, warm = [r["walks"][0] for r in whole], [w for r in whole for w in r["walks"][1:]]
    steps = sum(len(walk["mask"]) for walk in walks)
    asked = sum(sum(row["tokens"]) for row in rows if "walks" in row["results"].get(engine, {}))
    return {
        "cases": len(results),
        "passed": sum(map(_passed, whole)),
        "refused": sum("error" in r and "failed" not in r for r in results),
        "failed": sum("failed" in r for r in results),
        "rejected": sum(walk["refused"] is not None or not walk["ends"] for walk in walks),
        "accepted": sum(len(result["accepted"]) for result in whole),
        "compile_ms": _spread(1e3 * result["compile"] for result in whole),
        "first_ms": _spread(1e3 * r["compile"] + _first(r) / 1e3 for r in whole),
        "cold_us": _spread(time for walk in cold for time in walk["mask"]),
        "warm_us": _spread(time for walk in warm for time in walk["mask"]),
        "accept_us": _spread(time for walk in walks for time in walk["accept"]),
        "late": sum(walk["late"] for walk in walks),
        "steps": steps,
        "forced": _share(sum(walk["forced"] for walk in walks), asked),
        "divided": sum(walk["divided"] for walk in walks),
        "against": sum(walk["against"] for walk in walks),
        "cold_ratio": _ratio(rows, engine, lambda r: 1e6 * r["compile"] + _work(r["walks"][:1])),
        "warm_ratio": _ratio(rows, engine, lambda r: _work(r["walks"][1:])),
    }


def _passed(result: dict[str, Any]) -> bool:
    ended = all(walk["refused"] is None and walk["ends"] for walk in result["walks"])
    return ended and not result["accepted"]


def _first(result: dict[str, Any]) -> float:
    return next(iter(result["walks"][0]["mask"]), 0.0)


def _work(walks: list[dict[str, Any]]) -> float:
    """Microseconds per token."""
    tokens = sum(len(walk["mask"]) for walk in walks)
    return sum(sum(walk["mask"]) + sum(walk["accept"]) for walk in walks) / max(1, tokens)


def _ratio(
    rows: list[dict[str, Any]], engine: str, cost: Callable[[dict[str, Any]], float]
) -> float | None:
    """Of the engine's cost over Ramet's the median over the constraints that both walk to the end."""
    found = []
    for row in rows:
        both = [row["results"].get(name, {}) for name in (engine, FIRST)]
        if all("walks" in r and all(w["refused"] is None for w in r["walks"]) for r in both):
            found.append(cost(both[0]) / max(cost(both[1]), 1e-3))
    return statistics.median(found) if found else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _spread(values: Iterable[float]) -> dict[str, float] | None:
    rising = sorted(values)
    if not rising:
        return None
    last = len(rising) - 1
    return {"p50": rising[last // 2], "p99": rising[round(0.99 * last)], "max": rising[last]}


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By vocabulary, kind and engine: `masked`, disputed tokens that it masks out; of those of them that were
    judged `legal` ones, `lost`, whose text it does not accept in another division either, and `cases` with
    a loss; `loose`, judged tokens that it went on from to a bad text, and `loose_cases`. White space apart."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        for dispute in row.get("disputes", ()):
            for engine in (*dispute["allowed"], *dispute["masked"]):
                key = row["vocabulary"], row["kind"], engine
                entry = found.setdefault(key, _no_verdicts(*key))
                _add(entry, engine, row["case"], dispute)
    for entry in found.values():
        for name in ("cases", "loose_cases"):
            entry[name] = sorted(entry[name])
    return list(found.values())


def _no_verdicts(vocabulary: str, kind: str, engine: str) -> dict[str, Any]:
    head = {"vocabulary": vocabulary, "kind": kind, "engine": engine}
    counts = dict.fromkeys(("masked", "spaces", "judged", "legal", "lost", "loose"), 0)
    return {**head, **counts, "cases": set(), "loose_cases": set()}


def _add(entry: dict[str, Any], engine: str, case: str, dispute: dict[str, Any]) -> None:
    for verdict in dispute["judged"]:
        if engine in verdict["loose"]:
            entry["loose"] += 1
            entry["loose_cases"].add(case)
    if engine not in dispute["masked"]:
        return
    if dispute["white_space"]:
        entry["spaces"] += dispute["count"]
        return
    entry["masked"] += dispute["count"]
    entry["judged"] += len(dispute["judged"])
    entry["legal"] += sum(bool(verdict["legal"]) for verdict in dispute["judged"])
    lost = sum(engine in verdict["lost"] for verdict in dispute["judged"])
    entry["lost"] += lost
    if lost:
        entry["cases"].add(case)
