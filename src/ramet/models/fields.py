"""Typed reading of a JSON file of a checkpoint.

Knows JSON values and how to complain about them (file, key, value, what to do); refuses to know what
any key means.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramet.errors import CheckpointError

__all__ = ["Fields", "read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file `path`. Raises CheckpointError when it is missing or not JSON."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: file is missing; a model folder needs it (copy it from the original repository)"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: bad JSON and bad UTF-8
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}; fetch it again") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: holds a {type(parsed).__name__}, expected a JSON object")
    return parsed


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and the name of where it came from. A key whose value is null counts as missing."""

    values: dict[str, Any]
    source: str

    def error(self, key: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {key} {problem}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        value = self._get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # some converters write 4096.0
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.error(key, f"is {value!r}, expected an integer of at least {minimum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number greater than zero."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(key, f"is {value!r}, expected a number")
        if not math.isfinite(value) or value <= 0:
            raise self.error(key, f"is {value!r}, expected a finite number above zero")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}, expected true or false")
        return value

    def token_ids(self, key: str, *, minimum: int = 0) -> tuple[int, ...]:
        """One id or a list of ids; () when the key is missing."""
        value = self.values.get(key)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if any(not isinstance(i, int) or isinstance(i, bool) or i < minimum for i in ids):
            raise self.error(key, f"is {value!r}, expected a token id or a list of token ids")
        return tuple(ids)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            raise self.error(key, "is missing")
        return default
