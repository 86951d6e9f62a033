"""JSON from strangers: read with a bound on everything before anything recurses.

Knows JSON and the names of places in it (`$.properties.a`); refuses to know what a schema is.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from ramet.constraints.limits import ConstraintLimits
from ramet.errors import InvalidRequest

__all__ = ["at", "read_json", "refuse"]

_DEPTH = 120  # the library's reader gives up at 128, and a moved definition adds two levels
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_$][\w$-]*\Z")


def at(path: str, key: str | int) -> str:
    """The place below `path`: `$.a`, `$[0]`, `$["a b"]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if _PLAIN.match(key) else f"{path}[{json.dumps(key)}]"


def refuse(field: str, value: object, path: str, problem: str, remedy: str = "") -> NoReturn:
    """Raise `InvalidRequest` that names the place."""
    raise InvalidRequest(field, value, f"at {path}: {problem}", remedy)


def read_json(text: str, limits: ConstraintLimits, field: str) -> Any:
    """The value of a JSON text. Raises `InvalidRequest` for what is no JSON, too large, nested too deep,
    for a key that stands twice in an object, NaN, infinities and lone surrogates."""
    if not isinstance(text, str):
        raise InvalidRequest(field, text, "is not a string")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limits.schema_bytes:
        raise InvalidRequest(field, f"{size} bytes", f"are more than {limits.schema_bytes}")
    _check_depth(text, min(limits.depth, _DEPTH), field)
    try:
        value = json.loads(
            text, object_pairs_hook=_no_doubles, parse_constant=_no_constant, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(field, text, f"is not JSON: {error}") from None
    return value


def _check_depth(text: str, most: int, field: str) -> None:
    depth = 0
    for mark in _MARKS.finditer(text):
        first = mark.group()[0]
        if first in "[{":
            depth += 1
            if depth > most:
                raise InvalidRequest(field, text, f"is nested deeper than {most} levels")
        elif first in "]}":
            depth -= 1


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {double!r} stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value
