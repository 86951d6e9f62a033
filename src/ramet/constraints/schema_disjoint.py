"""Whether schemas exclude each other, so that `oneOf` says the same as `anyOf`.

Knows literals, types, and properties that both require; what it cannot tell apart may overlap. Refuses to
know patterns and ranges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ramet.constraints.schema_possible import is_type

__all__ = ["exclude_each_other"]

_MOST_OPTIONS = 300  # each is compared with each
_MOST_STEPS = 64  # from reference to reference

Schema = dict[str, Any] | bool


def exclude_each_other(schemas: Sequence[Schema], definitions: Mapping[str, Schema]) -> bool:
    """Whether no value matches two of these. False also where that is not known."""
    followed = [_followed(one, definitions) for one in schemas]
    if len(followed) > _MOST_OPTIONS:
        return False
    return all(_disjoint(one, other) for i, one in enumerate(followed) for other in followed[:i])


def _followed(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    for _ in range(_MOST_STEPS):
        if not isinstance(schema, dict) or set(schema) != {"$ref"}:
            return schema
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    return True


def _disjoint(one: Schema, other: Schema) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    literals = _values(one)
    if literals is not None:
        return all(not _may_match(other, value) for value in literals)
    if _values(other) is not None:
        return _disjoint(other, one)
    kinds, others = _kinds(one), _kinds(other)
    if not kinds & others:
        return bool(kinds and others)
    if kinds & others != {"object"}:
        return False
    shared = set(one.get("required", ())) & set(other.get("required", ()))
    ours, theirs = one.get("properties", {}), other.get("properties", {})
    return any(_disjoint(ours.get(key, True), theirs.get(key, True)) for key in shared)


def _values(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema.get("enum")


def _may_match(schema: dict[str, Any], value: Any) -> bool:
    values = _values(schema)
    if values is not None:
        return any(_same(value, one) for one in values)
    kinds = _kinds(schema)
    return not kinds or any(is_type(value, name) for name in kinds)


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _kinds(schema: dict[str, Any]) -> set[str]:
    """Types that a schema names, number for integer; none: it names none."""
    given = schema.get("type", [])
    names = {given} if isinstance(given, str) else set(given)
    return {"number" if name == "integer" else name for name in names}
