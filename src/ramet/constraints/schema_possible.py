"""Whether anything at all matches a schema, and how deep it reaches.

Knows schemas in the one form that `schema_check` makes. What it calls impossible is impossible; what it
calls possible may still turn out not to be (two patterns that exclude each other, say).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ramet.constraints.schema_check import TYPES, Checked

__all__ = ["children", "depth_reached", "every_schema", "is_type", "pruned"]

Schema = dict[str, Any] | bool


def is_type(value: Any, name: str) -> bool:
    """Whether a JSON value is of a type of JSON Schema; 1.0 is an integer."""
    if name == "integer":
        return not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    kinds = {"null": type(None), "boolean": bool, "string": str, "array": list, "object": dict}
    return isinstance(value, kinds[name])


def types_of(schema: dict[str, Any]) -> list[str]:
    """The types that a schema names, all where it names none."""
    given = schema.get("type", [t for t in TYPES if t != "integer"])
    return [given] if isinstance(given, str) else list(given)


def children(schema: Schema) -> Iterator[Schema]:
    """The schemas that stand directly in a schema."""
    if isinstance(schema, bool):
        return
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        yield from schema.get(key, ())
    for key in ("properties", "patternProperties"):
        yield from schema.get(key, {}).values()
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield schema[key]


def pruned(checked: Checked) -> Checked | None:
    """The same schema, where a definition that no finite value can match is false; None if nothing
    matches at all. The least fixed point over the definitions."""
    known: set[str] = set()
    waiting = list(reversed(checked.definitions))
    while True:
        before = len(known)
        for name in waiting:
            if name not in known and _possible(checked.definitions[name], known):
                known.add(name)
        if len(known) == before:
            break
    if not _possible(checked.root, known):
        return None
    kept = {name: one if name in known else False for name, one in checked.definitions.items()}
    return dataclasses.replace(checked, definitions=kept)


def _possible(schema: Schema, known: set[str]) -> bool:
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and schema["$ref"].rsplit("/", 1)[1] not in known:
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(_possible(one, known) for one in schema[key]):
            return False
    if not all(_possible(one, known) for one in schema.get("allOf", ())):
        return False
    types = types_of(schema)
    for values in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if values is not None and not any(is_type(v, t) for v in values for t in types):
            return False
    return any(_possible_type(schema, name, known) for name in types)


def _possible_type(schema: dict[str, Any], name: str, known: set[str]) -> bool:
    if name in ("integer", "number"):
        low = max(
            schema.get("minimum", float("-inf")), schema.get("exclusiveMinimum", float("-inf"))
        )
        high = min(
            schema.get("maximum", float("inf")), schema.get("exclusiveMaximum", float("inf"))
        )
        return bool(low <= high)
    if name == "string":
        return _ordered(schema, "Length")
    if name == "array":
        least = schema.get("minItems", 0)
        first = schema.get("prefixItems", [])[:least]
        rest = schema.get("items", True) if least > len(first) else True
        return _ordered(schema, "Items") and all(_possible(one, known) for one in [*first, rest])
    if name == "object":
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        wanted = [properties.get(key, others) for key in schema.get("required", ())]
        if "patternProperties" in schema:  # a name outside `properties` may match one of them
            wanted = [properties[key] for key in schema.get("required", ()) if key in properties]
        return _ordered(schema, "Properties") and all(_possible(one, known) for one in wanted)
    return True


def _ordered(schema: dict[str, Any], what: str) -> bool:
    return bool(schema.get("min" + what, 0) <= schema.get("max" + what, float("inf")))


def every_schema(checked: Checked) -> Iterator[Schema]:
    """All schemas, in no order that matters."""
    waiting = [checked.root, *checked.definitions.values()]
    while waiting:
        schema = waiting.pop()
        yield schema
        waiting.extend(children(schema))


def depth_reached(checked: Checked) -> int:
    """How many schemas lie inside each other when definitions are entered where they are first met: what
    a compiler that follows them by recursion needs of its stack."""
    seen: set[str] = set()
    deepest = 0
    stack: list[tuple[Schema, int]] = [(checked.root, 1)]
    while stack:
        schema, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(schema, bool):
            continue
        inside = list(children(schema))
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            if name not in seen:
                seen.add(name)
                inside.append(checked.definitions[name])
        stack.extend((one, depth + 1) for one in reversed(inside))
    return deepest
