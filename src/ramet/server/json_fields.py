"""The fields of one JSON object, taken by name, each with its type and both of its bounds.

A field is known because somebody took it: what nobody took and is not null is refused by name at the end.
Knows JSON values and dotted names; refuses to know what the fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ramet.errors import InvalidRequest

__all__ = ["MAX_INTEGER", "Fields", "is_unicode", "json_source", "shown", "writable"]

_NO_UNICODE = "holds a lone surrogate, which is no Unicode text"
MAX_INTEGER = 2**31 - 1  # for counts that have no nearer bound


def is_unicode(text: str) -> bool:
    """Text that can be sent as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def writable(text: str) -> str:
    """`text` with lone surrogates spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


class _Words(str):
    """A description in the place of a value: written without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def shown(value: Any) -> Any:
    """`value` as an error message may show it: what may be large or deep is described."""
    if isinstance(value, str):
        return value if len(value) <= 200 else value[:200]
    if isinstance(value, Mapping):
        return _Words(f"an object of {len(value)}")
    if isinstance(value, (list, tuple)):
        return _Words(f"a list of {len(value)}")
    if isinstance(value, int) and value.bit_length() > 256:
        return _Words("a number of many digits")
    return value


def json_source(value: Any, field: str) -> str:
    """A JSON value as its text. Raises `InvalidRequest` for one that is nested too deeply."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (RecursionError, ValueError):
        problem = "is nested too deeply, or holds what is no number in JSON"
        raise InvalidRequest(field, shown(value), problem) from None
    if not is_unicode(text):
        raise InvalidRequest(field, shown(value), _NO_UNICODE)
    return text


class Fields:
    """`path` is the dotted name of the object itself, "" for the whole body. A missing field and null are
    the same. Every method raises `InvalidRequest`."""

    def __init__(self, body: Any, path: str = "") -> None:
        if not isinstance(body, Mapping):
            raise InvalidRequest(path or "body", shown(body), "is not an object")
        self._body, self._path = body, path
        self._taken: set[str] = set()

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:
        self._taken.add(name)
        return self._body.get(name)

    def wrong(self, name: str, problem: str, remedy: str = "") -> InvalidRequest:
        """To be raised about a field's value."""
        return InvalidRequest(self.path(name), shown(self._body.get(name)), problem, remedy)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "is neither true nor false")
        return value

    def integer(self, name: str, low: int, high: int = MAX_INTEGER) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "is not a whole number")
        if not low <= value <= high:
            raise self.wrong(name, f"is not between {low} and {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(name, "is not a number")
        if not low <= value <= high:  # true for what is no number
            raise self.wrong(name, f"is not between {low:g} and {high:g}")
        return float(value)

    def text(self, name: str, most: int, least: int = 0) -> str | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise self.wrong(name, f"is not a text of {least} to {most} characters")
        if not is_unicode(value):
            raise self.wrong(name, _NO_UNICODE)
        return value

    def one_of(self, name: str, allowed: Collection[str]) -> str | None:
        value = self.take(name)
        if value is not None and (not isinstance(value, str) or value not in allowed):
            raise self.wrong(name, f"is none of {', '.join(allowed)}")
        return value

    def texts(self, name: str, most: int, longest: int) -> tuple[str, ...]:
        """One text, or a list of at most `most`; none of them empty."""
        value = self.take(name)
        if value is None:
            return ()
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise self.wrong(name, "is neither a text nor a list of texts")
        if len(values) > most:
            raise self.wrong(name, f"are more than {most} texts")
        for one in values:
            if not one or len(one) > longest:
                raise self.wrong(name, f"has a text that is empty or longer than {longest}")
            if not is_unicode(one):
                raise self.wrong(name, _NO_UNICODE)
        return tuple(values)

    def integers(self, name: str, most: int, high: int) -> tuple[int, ...]:
        """A list of at most `most` whole numbers, 0 to `high`."""
        value = self.take(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(name, f"is not a list of at most {most} numbers")
        for one in value:
            if type(one) is not int or not 0 <= one <= high:
                raise self.wrong(name, f"has a value that is no whole number from 0 to {high}")
        return tuple(value)

    def idle(self, name: str, *values: Any) -> None:
        """A field that this server lacks: only values are taken that ask for nothing."""
        value = self.take(name)
        if value is not None and not any(value is v or value == v for v in values):
            allowed = " or ".join(json.dumps(v) for v in values)
            raise self.wrong(name, "is not supported by this server", f"leave it out, or {allowed}")

    def mark(self, name: str, kind: type, what: str) -> None:
        """A field that only names things for the client, and has no effect by its meaning."""
        value = self.take(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise self.wrong(name, f"is not {what}")

    def refuse_rest(self, remedies: Mapping[str, str] | None = None) -> None:
        """What nobody took is not known: an error, unless it is null."""
        for name, value in self._body.items():
            if value is not None and name not in self._taken:
                remedy = (remedies or {}).get(name, "leave it out")
                field = self.path(writable(str(shown(name))))
                raise InvalidRequest(field, shown(value), "is not a field of this request", remedy)
