"""From JSON back to Python: a parsed value becomes one of the type whose schema `schema_types` wrote.

Knows the same types. Nothing is converted that the schema would not let through (no number from text), so
what is read depends on the type alone, not on the backend. What pydantic describes, pydantic reads.
"""

from __future__ import annotations

import collections.abc as containers
import importlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn

from ramet.errors import InvalidRequest
from ramet.lang.schema_fields import MARKS, fields_of, has_fields

__all__ = ["Misfit", "Reader", "reader_of"]

Read = Callable[[Any, str], Any]
"""Takes a parsed value and its path; returns what it stands for or raises `Misfit`."""


class Misfit(Exception):
    """A text or a value is not what was asked for. `path` is the place in it, such as
    `Order.items[0].price`. `is_cut`: it may only be the beginning of what was asked for."""

    def __init__(self, problem: str, path: str = "", *, is_cut: bool = False) -> None:
        self.problem, self.path, self.is_cut = problem, path, is_cut
        super().__init__(f"{path}: {problem}" if path else problem)


@dataclass(frozen=True, slots=True)
class Reader:
    """`exact`: `read` refuses nothing that the type's schema lets through."""

    name: str
    read_at: Read
    exact: bool

    def read(self, value: Any) -> Any:
        return self.read_at(value, self.name)


def reader_of(kind: Any) -> Reader:
    """The reader of a type that `schema_of` can describe. Raises `InvalidRequest` for any other."""
    build = _Build(kind)
    name = kind.__name__ if isinstance(kind, type) else _said(kind)
    read = build.node(kind)
    return Reader(name, read, build.exact)


def _said(kind: Any) -> str:
    return "value" if hasattr(kind, "json_schema") else str(kind).replace("typing.", "")


class _Build:
    """One reader per type on the way down; `made` lets a class hold itself."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.exact = True
        self.made: dict[Any, Read] = {}

    def node(self, kind: Any) -> Read:
        if kind is Any:
            return lambda value, _path: value
        if kind is None or kind is types.NoneType:
            return _none
        if type(kind).__name__ == "TypeAliasType":
            return self.shared(kind, lambda: self.node(kind.__value__))
        if isinstance(kind, typing.NewType):
            return self.node(kind.__supertype__)
        if callable(getattr(kind, "validate_json", None)) and not isinstance(kind, type):
            return self.by_pydantic(kind)
        origin = typing.get_origin(kind)
        if origin is not None:
            return self.generic(kind, origin, typing.get_args(kind))
        if isinstance(kind, type):
            return self.simple(kind)
        return self.by_pydantic(self.adapter(kind))

    def generic(self, kind: Any, origin: Any, args: tuple[Any, ...]) -> Read:
        if origin is typing.Annotated:
            plain = all(type(mark).__module__.split(".")[0] not in _BOUNDS for mark in args[1:])
            return self.node(args[0]) if plain else self.by_pydantic(self.adapter(kind))
        if getattr(origin, "_name", None) in MARKS:
            return self.node(args[0])
        if origin is typing.Literal:
            return _one_of({value: _plain(value) for value in args})
        if origin in (typing.Union, types.UnionType):
            return _any_of([self.node(option) for option in sorted(args, key=_is_float)], args)
        if origin is tuple and args[1:] != (...,):
            return _places([self.node(arg) for arg in args], len(args), tuple)
        make = _maker(origin)
        if make is not None:
            return _items(self.node(args[0]) if args else _anything, make)
        if origin in _DICTS:
            return _keyed(self.node(args[1]))
        return self.by_pydantic(self.adapter(kind))

    def simple(self, kind: type) -> Read:
        if kind in _SCALARS:
            return _SCALARS[kind]
        if issubclass(kind, Enum):
            return _one_of({member: member.value for member in kind})
        if kind in _DICTS:
            return _keyed(_anything)
        make = _maker(kind)
        if make is not None:
            return _items(_anything, make)
        if hasattr(kind, "model_validate_json") or hasattr(kind, "__fields__"):
            return self.by_pydantic(kind)
        if not has_fields(kind) or "__pydantic_validator__" in vars(kind):
            return self.by_pydantic(self.adapter(kind))
        return self.shared(kind, lambda: self.fields(kind))

    def shared(self, kind: Any, build: Callable[[], Read]) -> Read:
        if kind not in self.made:
            # What is inside may hold the class itself, before its reader is made.
            self.made[kind] = lambda value, path: self.made[kind](value, path)  # noqa: PLW0108
            self.made[kind] = build()
        return self.made[kind]

    def fields(self, kind: Any) -> Read:
        met = {known.__name__: known for known in self.made if isinstance(known, type)}
        fields = fields_of(kind, {**met, kind.__name__: kind})
        readers = {name: self.node(hint) for name, hint in fields.hints.items()}
        if fields.places:
            return _places(list(readers.values()), len(fields.needed), lambda v: kind(*v))
        if issubclass(kind, dict):
            return _object(readers, fields.needed, dict)
        if _checks_itself(kind):
            self.exact = False
        return _object(readers, fields.needed, lambda values: kind(**values))

    # What pydantic knows

    def adapter(self, kind: Any) -> Any:
        try:
            return importlib.import_module("pydantic").TypeAdapter(kind)
        except Exception as error:  # not there, its first version, or a type that it does not know
            raise InvalidRequest(
                "type", self.given, f"holds {kind!r}, of which no value can be made: {error}"
            ) from error

    def by_pydantic(self, reader: Any) -> Read:
        self.exact = False
        for name in ("model_validate_json", "validate_json", "parse_raw"):
            read = getattr(reader, name, None)
            if callable(read):
                return _asking(read)
        raise InvalidRequest("type", self.given, f"holds {reader!r}, which reads no JSON")


def _asking(read: Callable[[str], Any]) -> Read:
    def ask(value: Any, path: str) -> Any:
        try:
            return read(json.dumps(value))
        except Exception as error:  # a validator is a stranger's code
            raise _explained(error, path) from error

    return ask


def _explained(error: Exception, path: str) -> Misfit:
    """The first of the problems that pydantic has found."""
    try:
        first = error.errors()[0]  # type: ignore[attr-defined]
        for step in first["loc"]:
            path += f"[{step}]" if isinstance(step, int) else f".{step}"
        return Misfit(str(first["msg"]), path)
    except (AttributeError, IndexError, KeyError, TypeError):
        return Misfit(f"{type(error).__name__}: {error}", path)


# Readers of plain types


def _refuse(value: Any, what: str, path: str) -> NoReturn:
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise Misfit(f"{shown} is not {what}", path)


def _anything(value: Any, _path: str) -> Any:
    return value


def _none(value: Any, path: str) -> None:
    if value is not None:
        _refuse(value, "null", path)


def _bool(value: Any, path: str) -> bool:
    return value if isinstance(value, bool) else _refuse(value, "true or false", path)


def _int(value: Any, path: str) -> int:
    if isinstance(value, float) and value.is_integer():  # JSON does not tell 1.0 from 1
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(value, "a whole number", path)
    return value


def _float(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(value, "a number", path)
    try:
        return float(value)
    except OverflowError:
        return _refuse(value, "a number that fits a float", path)


def _str(value: Any, path: str) -> str:
    return value if isinstance(value, str) else _refuse(value, "text", path)


_SCALARS: Mapping[type, Read] = {bool: _bool, int: _int, float: _float, str: _str}
_DICTS = (dict, containers.Mapping, containers.MutableMapping)
_MAKERS: tuple[tuple[tuple[Any, ...], Callable[[list[Any]], Any]], ...] = (
    ((list, containers.Sequence, containers.MutableSequence, containers.Iterable), list),
    ((tuple,), tuple),
    ((set, containers.Set, containers.MutableSet), set),
    ((frozenset,), frozenset),
)
_BOUNDS = ("pydantic", "pydantic_core", "annotated_types")


def _maker(kind: Any) -> Callable[[list[Any]], Any] | None:
    return next((make for kinds, make in _MAKERS if kind in kinds), None)


def _is_float(kind: Any) -> bool:
    return kind is float  # behind int, which it would swallow


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _one_of(constants: Mapping[Any, Any]) -> Read:
    def read(value: Any, path: str) -> Any:
        for found, plain in constants.items():
            if _same(value, plain):
                return found
        return _refuse(value, "one of " + json.dumps(list(constants.values()), default=str), path)

    return read


def _any_of(readers: list[Read], kinds: tuple[Any, ...]) -> Read:
    def read(value: Any, path: str) -> Any:
        said = []
        for one in readers:
            try:
                return one(value, path)
            except Misfit as misfit:
                said.append(misfit)
        deepest = max(said, key=lambda misfit: len(misfit.path))
        if deepest.path != path:
            raise deepest
        return _refuse(value, " or ".join(map(_short, kinds)), path)

    return read


def _short(kind: Any) -> str:
    return str(kind.__name__) if isinstance(kind, type) else str(kind)


def _items(item: Read, make: Callable[[list[Any]], Any]) -> Read:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            _refuse(value, "a list", path)
        found = [item(one, f"{path}[{index}]") for index, one in enumerate(value)]
        try:
            return make(found)
        except TypeError as error:  # a set of lists
            raise Misfit(str(error), path) from error

    return read


def _places(readers: list[Read], least: int, make: Callable[[list[Any]], Any]) -> Read:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list) or not least <= len(value) <= len(readers):
            _refuse(value, f"a list of {len(readers)}", path)
        return make([r(one, f"{path}[{i}]") for i, (r, one) in enumerate(zip(readers, value))])

    return read


def _keyed(item: Read) -> Read:
    def read(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            _refuse(value, "an object", path)
        return {key: item(one, f"{path}[{key!r}]") for key, one in value.items()}

    return read


def _object(
    readers: Mapping[str, Read], needed: tuple[str, ...], make: Callable[[dict[str, Any]], Any]
) -> Read:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            _refuse(value, "an object", path)
        for name in value:
            if name not in readers:
                raise Misfit("is not a field", f"{path}.{name}")
        for name in needed:
            if name not in value:
                raise Misfit("is missing", f"{path}.{name}")
        values = {name: readers[name](one, f"{path}.{name}") for name, one in value.items()}
        try:
            return make(values)
        except Exception as error:  # a class's own check
            raise Misfit(f"{type(error).__name__}: {error}", path) from error

    return read


def _checks_itself(kind: Any) -> bool:
    """Has the dataclass an `__init__` that Python did not write, or one that calls more?"""
    code = getattr(vars(kind).get("__init__"), "__code__", None)
    return hasattr(kind, "__post_init__") or getattr(code, "co_filename", "<string>") != "<string>"
