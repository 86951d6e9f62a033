"""The JSON Schema of a Python type: what `gen(json_schema=X)` makes of X.

Knows the types of the standard library. A class that describes itself (a pydantic model) is asked, and
pydantic, where it is installed, is asked about what is left. Refuses to know what a backend can enforce.
Objects are closed and keep the order of their fields, because a model writes them in that order.
"""

from __future__ import annotations

import collections.abc as containers
import importlib
import json
import math
import re
import types
import typing
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NoReturn

from ramet.errors import InvalidRequest
from ramet.lang.schema_fields import MARKS, fields_of, has_fields

__all__ = ["schema_of"]

Schema = dict[str, Any]

_SCALARS: Mapping[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
}
_LISTS = (list, containers.Sequence, containers.MutableSequence, containers.Iterable)
_SETS = (set, frozenset, containers.Set, containers.MutableSet)
_DICTS = (dict, containers.Mapping, containers.MutableMapping)
# No JSON is one of these; pydantic would describe them as any text, or as anything.
_NOT_JSON = (complex, bytes, bytearray, memoryview, object)
_BOUNDS = (
    "pydantic",
    "pydantic_core",
    "annotated_types",
)  # marks in Annotated that limit the value
_HOW = "give JSON text, a dict or a type"

_texts: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def schema_of(value: object) -> str:
    """The JSON text of a schema. JSON text is checked and comes back as it is; a mapping and True (any
    JSON) are written out; of a type it is the schema of its values as JSON.

    int, float, str, bool, None, Any, Literal, Enum, list, tuple, set, dict with text keys, their
    abstract forms, unions, Annotated, NewType, type aliases, dataclasses, TypedDict, NamedTuple (an array,
    as `json.dumps` writes it), pydantic models and adapters, and what pydantic knows (dates, bounds in
    Annotated) where it is installed. A field with a default is not required. Classes with fields are
    "$defs", so they may hold themselves. Raises `InvalidRequest("json_schema", ...)` that names an inner
    type without a schema and its path, such as `Order.items[0].price`.
    """
    if isinstance(value, str):
        return _checked(value)
    if value is False:
        raise InvalidRequest("json_schema", value, "allows no text at all", "leave it out")
    if value is True or isinstance(value, Mapping):
        return _text(value, value)
    if not isinstance(value, type):
        return _text(_Walk(value).root(), value)
    text = _texts.get(value)
    if text is None:
        text = _texts[value] = _text(_Walk(value).root(), value)
    return text


def _checked(text: str) -> str:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("json_schema", text, f"is not JSON: {error}", _HOW) from error
    if schema is False:
        raise InvalidRequest("json_schema", text, "allows no text at all", "leave it out")
    if schema is not True and not isinstance(schema, dict):
        raise InvalidRequest("json_schema", text, "is JSON, but neither an object nor true", _HOW)
    return text


def _text(schema: object, given: object) -> str:
    try:
        return json.dumps(schema, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("json_schema", given, f"cannot be written as JSON: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is not JSON")


class _Walk:
    """From one given type down to its parts. `names` are those in `defs` of the classes met so far,
    `uses` counts the references to them."""

    def __init__(self, given: object) -> None:
        self.given = given
        self.defs: dict[str, Schema] = {}
        self.names: dict[Any, str] = {}
        self.uses: Counter[str] = Counter()

    def root(self) -> Schema:
        adapter = getattr(self.given, "json_schema", None)
        if callable(adapter) and not isinstance(self.given, type):  # a pydantic.TypeAdapter
            schema = self.described(adapter, self.given, "the top")
        elif _is_type(self.given):
            schema = self.node(self.given, _shown(self.given))
        else:
            raise InvalidRequest("json_schema", self.given, "is not a schema", _HOW)
        name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
        if self.uses[name] == 1:  # nothing but the root refers to it
            schema = self.defs.pop(name)
        return {**schema, "$defs": self.defs} if self.defs else schema

    def node(self, kind: Any, path: str) -> Schema:
        if kind is Any:
            return {}
        if kind is None:
            return {"type": "null"}
        if type(kind).__name__ == "TypeAliasType":
            return self.named(kind, lambda: self.node(kind.__value__, path))
        if isinstance(kind, typing.NewType):
            return self.node(kind.__supertype__, path)
        origin = typing.get_origin(kind)
        if origin is not None:
            return self.generic(kind, origin, typing.get_args(kind), path)
        return self.simple(kind, path) if isinstance(kind, type) else self.refuse(kind, path)

    def generic(self, kind: Any, origin: Any, args: tuple[Any, ...], path: str) -> Schema:
        if origin is typing.Annotated:
            marks = {type(mark).__module__.split(".")[0] for mark in args[1:]}
            limited = not marks.isdisjoint(_BOUNDS)
            return self.adapted(kind, path) if limited else self.node(args[0], path)
        if getattr(origin, "_name", None) in MARKS:
            return self.node(args[0], path)
        if origin is typing.Literal:
            return {"enum": [self.constant(value, path) for value in args]}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.node(option, path) for option in args]}
        if origin is tuple and args[1:] != (...,):
            is_bare = kind is typing.Tuple  # noqa: UP006
            return {"type": "array"} if is_bare else self.places(_numbered(args), len(args), path)
        if origin is tuple or origin in _LISTS or origin in _SETS:
            items = {"items": self.node(args[0], f"{path}[0]")} if args else {}
            return {"type": "array", **items, **({"uniqueItems": True} if origin in _SETS else {})}
        return self.keyed(args, path) if origin in _DICTS else self.adapted(kind, path)

    def simple(self, kind: type, path: str) -> Schema:
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        if issubclass(kind, Enum):
            members = [self.constant(m.value, f"{path}: {kind.__name__}.{m.name}") for m in kind]
            return {"enum": members} if members else self.refuse(kind, path)
        if kind in _DICTS:
            return {"type": "object"}
        if kind is tuple or kind in _LISTS or kind in _SETS:
            return {"type": "array", **({"uniqueItems": True} if kind in _SETS else {})}
        describe = getattr(kind, "model_json_schema", None)
        if describe is None and hasattr(kind, "__fields__"):  # pydantic 1
            describe = getattr(kind, "schema", None)
        if callable(describe):
            return self.described(describe, kind, path)
        if not has_fields(kind) or "__pydantic_validator__" in vars(kind):
            return self.adapted(kind, path)
        return self.named(kind, lambda: self.fields(kind, path))

    def keyed(self, args: tuple[Any, ...], path: str) -> Schema:
        if not args:
            return {"type": "object"}
        if args[0] not in (str, Any):
            self.refuse(args[0], f"the keys of {path}", "keys in JSON are text: use dict[str, ...]")
        return {"type": "object", "additionalProperties": self.node(args[1], f"{path}[str]")}

    def places(self, kinds: Mapping[str, Any], least: int, path: str) -> Schema:
        """An array by what stands at each place; the first `least` are needed."""
        items = [self.node(kind, path + place) for place, kind in kinds.items()]
        first = {"prefixItems": items, "minItems": least} if items else {}
        return {"type": "array", **first, "maxItems": len(items)}

    # Classes with fields

    def named(self, kind: Any, describe: Callable[[], Schema]) -> Schema:
        name = self.names.get(kind)
        if name is None:
            # Characters that a pointer need not escape.
            name = _free(re.sub(r"[^A-Za-z0-9_]", "_", kind.__name__), self.defs)
            self.names[kind] = name
            self.defs[name] = {"$comment": "being described"}
            self.defs[name] = describe()
        self.uses[name] += 1
        return {"$ref": f"#/$defs/{name}"}

    def fields(self, kind: type, path: str) -> Schema:
        met = {known.__name__: known for known in self.names}
        try:
            fields = fields_of(kind, met)
        except ValueError as error:
            self.fail(f"holds {_shown(kind)} at {path}, in which {error}", error)
        if fields.places:
            kinds = {f".{name}": hint for name, hint in fields.hints.items()}
            return self.places(kinds, len(fields.needed), path)
        nodes = {name: self.node(hint, f"{path}.{name}") for name, hint in fields.hints.items()}
        needed = {"required": list(fields.needed)} if fields.needed else {}
        return {"type": "object", "properties": nodes, **needed, "additionalProperties": False}

    # What others describe

    def described(self, describe: Callable[..., Any], kind: Any, path: str) -> Schema:
        """What `describe` gives in pydantic's way, its definitions moved to ours."""
        schema, defs = self.ask(describe, kind, path)
        if any(self.defs.get(name, given) != given for name, given in defs.items()):
            number = 2
            while any(f"{name}_{number}" in self.defs for name in defs):
                number += 1
            template = f"#/$defs/{{model}}_{number}"
            schema, defs = self.ask(describe, kind, path, ref_template=template)
            defs = {f"{name}_{number}": given for name, given in defs.items()}
        self.defs.update(defs)
        return schema

    def ask(
        self, describe: Callable[..., Any], kind: Any, path: str, **options: Any
    ) -> tuple[Schema, dict[str, Schema]]:
        if getattr(describe, "__name__", "") == "schema":  # pydantic 1 keeps them elsewhere
            options.setdefault("ref_template", "#/$defs/{model}")
        try:
            schema = dict(describe(**options))
        except Exception as error:  # whatever a stranger's class raises, it has no schema
            self.fail(f"holds {_shown(kind)} at {path}, which gives no schema: {error}", error)
        return schema, {**schema.pop("$defs", {}), **schema.pop("definitions", {})}

    def adapted(self, kind: Any, path: str) -> Schema:
        """By pydantic, if it is there and knows the type."""
        if kind in _NOT_JSON:
            self.refuse(kind, path)
        try:
            adapter = importlib.import_module("pydantic").TypeAdapter(kind)
        except (ImportError, AttributeError):  # not installed, or its first version
            self.refuse(kind, path)
        except Exception as error:  # it has many kinds of errors for what it does not know
            self.refuse(kind, path, cause=error)
        return self.described(adapter.json_schema, kind, path)

    # Values and errors

    def constant(self, value: object, path: str) -> object:
        plain = value.value if isinstance(value, Enum) else value
        if plain is None or isinstance(plain, (str, int)):
            return plain
        if isinstance(plain, float) and math.isfinite(plain):
            return plain
        return self.fail(f"holds {value!r} at {path}, which is not text, a number, a bool or None")

    def refuse(
        self, kind: object, path: str, remedy: str = "", cause: BaseException | None = None
    ) -> NoReturn:
        self.fail(f"holds {_shown(kind)} at {path}, which has no JSON Schema", cause, remedy)

    def fail(self, problem: str, cause: BaseException | None = None, remedy: str = "") -> NoReturn:
        remedy = remedy or "change the type, or write the schema as a dict"
        raise InvalidRequest("json_schema", self.given, problem, remedy) from cause


def _is_type(value: object) -> bool:
    return (
        value is None
        or value is Any
        or isinstance(value, (type, typing.NewType))
        or typing.get_origin(value) is not None
        or type(value).__name__ == "TypeAliasType"
    )


def _free(name: str, taken: Mapping[str, object]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _numbered(kinds: tuple[Any, ...]) -> dict[str, Any]:
    return {f"[{i}]": kind for i, kind in enumerate(kinds)}


def _shown(kind: Any) -> str:
    return str(kind.__name__) if isinstance(kind, type) else repr(kind)
