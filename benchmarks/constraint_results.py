"""Measured constraints as a JSON file that can grow by vocabularies, models and workloads: a row per line, figures
with as many digits as mean something. The single steps of walks are left out. Knows plain data only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["merged", "write"]

_ROWS = ("masks", "verdicts", "cases", "decoding")
_EXAMPLES = 2  # judged tokens that are kept per kind of dispute


def merged(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """`data` with what the file holds of other vocabularies, models and workloads. Raises `ValueError` if that was
    measured on another machine."""
    if not path.exists():
        return data
    before = json.loads(path.read_text("utf-8"))
    if before["machine"] != data["machine"]:
        raise ValueError(f"--add: {path} was measured on {before['machine']}; name another file")
    found = {**before, **data, "engines": {**before.get("engines", {}), **data.get("engines", {})}}
    for name in _ROWS:
        new = data.get(name, [])
        measured = set(map(_subject, new))
        found[name] = [row for row in before.get(name, []) if _subject(row) not in measured] + new
    return found


def _subject(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is measured again with."""
    return (row["model"], row["workload"]) if "model" in row else (row["vocabulary"],)


def write(data: dict[str, Any], path: Path) -> None:
    short = {**data, "cases": [_case(row) for row in data.get("cases", [])]}
    parts = []
    for name, value in short.items():
        if name in _ROWS:
            rows = ",\n".join(f"  {json.dumps(_short(row), ensure_ascii=False)}" for row in value)
            parts.append(
                f" {json.dumps(name)}: [\n{rows}\n ]" if rows else f" {json.dumps(name)}: []"
            )
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(_short(value))}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8", "backslashreplace")


def _case(row: dict[str, Any]) -> dict[str, Any]:
    results = {engine: _result(result) for engine, result in row["results"].items()}
    disputes = [{**d, "judged": d["judged"][:_EXAMPLES]} for d in row.get("disputes", [])]
    return {**row, "results": results, "disputes": disputes}


def _result(result: dict[str, Any]) -> dict[str, Any]:
    if any("mask" not in walk for walk in result.get("walks", [])):
        return result  # short already
    walks = [
        {
            **{name: value for name, value in walk.items() if name not in ("mask", "accept")},
            "mask_us": sum(walk["mask"]) / max(1, len(walk["mask"])),
            "mask_most_us": max(walk["mask"], default=0.0),
            "accept_us": sum(walk["accept"]) / max(1, len(walk["accept"])),
        }
        for walk in result.get("walks", [])
    ]
    return {**result, "walks": walks} if walks else result


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value
