"""The file that a comparison is kept in: what it was asked, the machine, and every run as it ended.

Written anew after every run, so that an interrupted comparison goes on where it was. Knows JSON and which
runs are the same; refuses to know what the figures mean. Standard library only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Store"]

_KEY = ("precision", "engine", "workload", "round")


class Store:
    """`head` says what is compared: results under another head are refused. `path` None keeps nothing.

    Raises `ValueError` for a file that is there although `resume` is false, or that was asked otherwise.
    """

    def __init__(self, path: Path | None, head: dict[str, Any], resume: bool) -> None:
        self._path = path
        self.data: dict[str, Any] = {**head, "engines": {}, "runs": []}
        if path is None or not path.exists():
            return
        if not resume:
            raise ValueError(f"{path} is there; --resume goes on with it")
        found = json.loads(path.read_text())
        for key, value in head.items():
            if key == "workloads":
                value = {**found.get(key, {}), **value}  # more workloads may join, none may change
                same = all(value[name] == given for name, given in found.get(key, {}).items())
                found[key] = value
            else:
                same = found.get(key) == value
            if not same:
                raise ValueError(f"{path} was measured with {key} {found.get(key)}, not {value}")
        self.data = found

    @property
    def runs(self) -> list[dict[str, Any]]:
        return list(self.data["runs"])

    def has(self, key: dict[str, Any], calm: float = math.inf) -> bool:
        """Whether this run is there, did not fail, and others took at most `calm` cores meanwhile."""
        return any(
            _is(run, key) and "error" not in run and (run.get("others") or 0) <= calm
            for run in self.data["runs"]
        )

    def add(self, run: dict[str, Any]) -> None:
        """In place of an earlier run of the same key."""
        key = {name: run[name] for name in _KEY}
        self.data["runs"] = [old for old in self.data["runs"] if not _is(old, key)] + [run]
        self.write()

    def about(self, precision: str, engine: str, **what: Any) -> None:
        """What is known of an engine: versions and settings, or why there are no figures of it."""
        self.data["engines"].setdefault(precision, {})[engine] = what
        self.write()

    def forget(self, engines: Iterable[str], precisions: Iterable[str]) -> None:
        """Drop these engines' runs."""
        names, forms = set(engines), set(precisions)
        self.data["runs"] = [
            run
            for run in self.data["runs"]
            if run["engine"] not in names or run["precision"] not in forms
        ]

    def set(self, **values: Any) -> None:
        self.data.update(values)
        self.write()

    def write(self) -> None:
        if self._path is None:
            return
        rest = {key: value for key, value in self.data.items() if key != "runs"}
        text = json.dumps(rest, indent=1)[:-2]
        runs = ",\n  ".join(json.dumps(run) for run in self.data["runs"])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.new")
        fresh.write_text(f'{text},\n "runs": [\n  {runs}\n ]\n}}\n')
        os.replace(fresh, self._path)


def _is(run: dict[str, Any], key: dict[str, Any]) -> bool:
    return all(run[name] == value for name, value in key.items())
