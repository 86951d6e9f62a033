"""The fields of a class: dataclass, TypedDict and NamedTuple by one record.

Knows how these three keep their fields and how annotations that are text are looked up; refuses to know
what becomes of them.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MARKS", "Fields", "fields_of", "has_fields"]

MARKS = ("Required", "NotRequired", "ReadOnly", "Final")  # they say nothing about the value


@dataclass(frozen=True, slots=True)
class Fields:
    """`hints`: a type per field, in order. `needed`: those without a default. `places`: the fields are
    the places of an array and not the keys of an object."""

    hints: Mapping[str, Any]
    needed: tuple[str, ...]
    places: bool = False


def has_fields(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) or _is_typed_dict(kind) or _is_named_tuple(kind)


def _is_typed_dict(kind: type) -> bool:
    return issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_field_defaults")


def fields_of(kind: Any, known: Mapping[str, Any]) -> Fields:
    """`known`: what names may stand for that cannot be looked up, because their classes are local to a
    function. Raises ValueError with what is wrong with the class."""
    hints = _hints(kind, known)
    if _is_named_tuple(kind):
        needed = tuple(name for name in kind._fields if name not in kind._field_defaults)
        return Fields({name: hints.get(name, Any) for name in kind._fields}, needed, places=True)
    if _is_typed_dict(kind):
        return Fields(hints, tuple(name for name, hint in hints.items() if _must(kind, name, hint)))
    for name, hint in hints.items():
        if isinstance(hint, dataclasses.InitVar):
            raise ValueError(f"{name!r} is an InitVar, which no object has; make it a field")
    fields = [field for field in dataclasses.fields(kind) if field.init]
    none = dataclasses.MISSING
    needed = tuple(f.name for f in fields if f.default is none and f.default_factory is none)
    return Fields({field.name: hints[field.name] for field in fields}, needed)


def _hints(kind: type, known: Mapping[str, Any]) -> dict[str, Any]:
    """Only names that Python's own look-up misses are added: one that it finds keeps its meaning."""
    missed: dict[str, Any] = {}
    candidates = {**known, **vars(kind)}
    while True:
        try:
            return typing.get_type_hints(kind, localns=missed or None, include_extras=True)
        except NameError as error:
            if error.name in missed or error.name not in candidates:
                raise ValueError(f"{error.name!r} is not defined where the class is") from error
            missed[error.name] = candidates[error.name]
        except (TypeError, SyntaxError, AttributeError) as error:
            raise ValueError(f"its annotations cannot be read: {error}") from error


def _must(kind: Any, name: str, hint: Any) -> bool:
    """Whether a TypedDict needs the key. Its own `__required_keys__` do not see marks in annotations that
    are text."""
    while (origin := typing.get_origin(hint)) is not None:
        mark = getattr(origin, "_name", None)
        if mark in ("Required", "NotRequired"):
            return bool(mark == "Required")
        if mark not in MARKS and origin is not typing.Annotated:
            break
        hint = typing.get_args(hint)[0]
    return name in kind.__required_keys__
