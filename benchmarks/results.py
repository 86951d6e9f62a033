"""Measured workloads as a JSON file that can grow piece by piece. Knows plain data only.

A row per workload, one line each; numbers with as many digits as mean something.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["kept", "merged", "write"]

# What must be the same for rows to stand in one file.
_SAME = ("machine", "model", "options", "memory", "scale", "lengths", "seed", "rounds")


def kept(path: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier part, none if there is no file. Raises `ValueError` if that part was
    measured under other conditions than `head` says."""
    if not path.exists():
        return []
    data = json.loads(path.read_text())
    other = [name for name in _SAME if data.get(name) != head[name]]
    if other:
        was = ", ".join(f"{name} {data.get(name)!r}" for name in other)
        raise ValueError(f"--add: {path} was measured with {was}; name another file with --json")
    rows: list[dict[str, Any]] = data["workloads"]
    return rows


def merged(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`rows` in the place of those of the same workload, new ones at the end."""
    named = {row["workload"]: row for row in [*before, *rows]}
    return list(named.values())


def write(data: dict[str, Any], path: Path) -> None:
    head = {name: value for name, value in data.items() if name != "workloads"}
    lines = [json.dumps(head, indent=1)[:-2], ' "workloads": [']
    rows = [f"  {json.dumps(_short(row))}" for row in data["workloads"]]
    path.write_text(f"{lines[0]},\n{lines[1]}\n" + ",\n".join(rows) + "\n ]\n}\n")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value
