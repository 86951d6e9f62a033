"""How long a text would become that a template is about to make, found before it is made.

Knows Python's text methods and Jinja's filters that can make much of little. Refuses to know templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["format_length", "method_length", "percent_length"]

_NUMBER = re.compile(r"\d+")
_STAR = re.compile(r"%[-+ #0]*(?:\*|\d*\.\*)")
_BEYOND = 1 << 62  # longer than whatever is allowed


def percent_length(form: str, values: Any) -> int:
    """At most so long is `form % values`."""
    if _STAR.search(form):
        return _BEYOND  # widths that stand among the values
    return len(form) + _numbers(form) + _lengths(values) * (form.count("%") + 1)


def format_length(form: str, arguments: Iterable[Any]) -> int:
    """At most so long is `form.format(*arguments)`."""
    if re.search(r"\{[^{}]*\{", form.replace("{{", "")):
        return _BEYOND  # widths that stand among the arguments
    return len(form) + _numbers(form) + _lengths(list(arguments)) * (form.count("{") + 1)


def _numbers(form: str) -> int:
    """All widths and precisions of a format, added up."""
    return sum(int(number) if len(number) < 19 else _BEYOND for number in _NUMBER.findall(form))


def method_length(function: Any, arguments: Sequence[Any]) -> int:
    """At most so long is what a text's own method gives; 0 for other functions."""
    text, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    measure = _METHODS.get(name)
    if not isinstance(text, str) or measure is None:
        return 0
    return measure(text, arguments)


def _replaced(text: str, arguments: Sequence[Any]) -> int:
    if len(arguments) < 2 or not all(isinstance(one, str) for one in arguments[:2]):
        return 0  # an error, which says so itself
    old, new = arguments[:2]
    return len(text) + (text.count(old) if old else len(text) + 1) * len(new)


def _joined(text: str, arguments: Sequence[Any]) -> int:
    parts = arguments[0] if arguments else ()
    if not isinstance(parts, Sequence):
        return 0
    return len(text) * len(parts) + sum(len(one) for one in parts if isinstance(one, str))


def _tabs(text: str, arguments: Sequence[Any]) -> int:
    size = arguments[0] if arguments and isinstance(arguments[0], int) else 8
    return len(text) + text.count("\t") * max(size, 0)


def _translated(text: str, arguments: Sequence[Any]) -> int:
    table = arguments[0] if arguments else {}
    if not isinstance(table, Mapping):
        return 0
    return len(text) * max((len(one) for one in table.values() if isinstance(one, str)), default=1)


_METHODS: Mapping[str, Callable[[str, Sequence[Any]], int]] = {
    "replace": _replaced,
    "join": _joined,
    "expandtabs": _tabs,
    "translate": _translated,
}


def _lengths(value: Any) -> int:
    """Of the texts in `value`, and of other things as a text would show them, about."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_lengths(key) + _lengths(one) + 6 for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return sum(_lengths(one) + 4 for one in value)
    return 64
