"""Helpers of benchmark scripts, under the path that they import. Nothing in Ramet uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["dump_state_text", "read_jsonl"]


def read_jsonl(filename: str) -> Iterator[Any]:
    """The values of a file with one JSON value per line; lines that start with `#` and empty ones are
    skipped."""
    with open(filename, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                yield json.loads(line)


def dump_state_text(filename: str, states: Sequence[Any], mode: str = "w") -> None:
    """Write the text of each state (or each string) between numbered rulers."""
    with open(filename, mode, encoding="utf-8") as file:
        for index, state in enumerate(states):
            text = state if isinstance(state, str) else state.text()
            ruler = "=" * 40
            file.write(f"{ruler} {index} {ruler}\n{text}\n{ruler * 2}\n\n")
