"""From a JSON Schema to the part of the language that a provider enforces, and back from its values.

A provider's `Dialect` is data. What a dialect lacks is left out where that allows more texts than before
(the answer is checked against the whole schema afterwards), written differently where that means the same,
and otherwise the schema as it stands is sent without strictness. Knows schemas and values, no provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ANTHROPIC", "GEMINI", "OPENAI", "Dialect", "Sent", "sent_schema"]

Schema = dict[str, Any]

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_SHAPE = frozenset({"type", "enum", "description"})  # besides the keywords that hold schemas


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a provider's strict mode takes. `keywords` are those with plain values. `all_required`: every
    property must be. `closed`: every object must forbid other properties. `object_root`: the outermost
    value is an object. `free`: a schema may leave its type open. `places`: arrays may be described place
    by place."""

    name: str
    keywords: frozenset[str]
    formats: frozenset[str] = frozenset()
    least_items: int = 2**31  # the largest `minItems` that it takes
    all_required: bool = False
    closed: bool = True
    object_root: bool = True
    recursion: bool = False
    free: bool = False
    places: bool = False


OPENAI = Dialect(
    name="OpenAI",
    keywords=_SHAPE | _BOUNDS | {"pattern", "minItems", "maxItems"},
    formats=_FORMATS,
    all_required=True,
    recursion=True,
)
ANTHROPIC = Dialect(
    name="Anthropic", keywords=_SHAPE | {"minItems"}, formats=_FORMATS | {"uri"}, least_items=1
)
GEMINI = Dialect(
    name="Gemini",
    keywords=_SHAPE | {"title", "minimum", "maximum", "minItems", "maxItems"},
    formats=frozenset({"date-time", "date", "time"}),
    closed=False,
    object_root=False,
    recursion=True,
    free=True,
    places=True,
)


@dataclass(frozen=True, slots=True)
class Sent:
    """`schema` is what the provider gets, of `original`. `strict`: it is in the provider's strict
    language. `wrapped`: the value comes as {"value": ...}. `filled`: what may be absent comes as null."""

    schema: Schema
    original: Any
    strict: bool
    wrapped: bool
    filled: bool = False

    @property
    def same_text(self) -> bool:
        """Is the provider's text the program's?"""
        return not self.wrapped and not self.filled

    def restore(self, value: Any) -> Any:
        """The value in the program's own schema. Raises `ValueError` if the wrapping is missing."""
        if self.wrapped:
            if not isinstance(value, dict) or "value" not in value:
                raise ValueError('it is not of the form {"value": ...}')
            value = value["value"]
        return _without_fill(value, self.original, self.original) if self.filled else value


class _NotStrict(Exception):
    pass


def sent_schema(schema: Any, dialect: Dialect) -> Sent:
    """What to send to get values of `schema` (decoded JSON: an object or true)."""
    walk = _Walk(schema, dialect)
    try:
        node = walk.node(schema)
        defs = {name: walk.node(found) for name, found in _definitions(schema).items()}
        if not dialect.recursion and _recursive(node, defs):
            raise _NotStrict
        strict = True
    except (_NotStrict, RecursionError):
        strict, walk.filled = False, False
        node = dict(schema) if isinstance(schema, dict) else {}
        defs = node.pop("$defs", {})
    wrapped = dialect.object_root and not (node.get("type") == "object" and "anyOf" not in node)
    if wrapped:
        node = _wrapped(node)
    return Sent(
        {**node, "$defs": defs} if defs else node, schema, strict, wrapped, filled=walk.filled
    )


def _wrapped(node: Schema) -> Schema:
    moved: Schema = json.loads(
        json.dumps(node).replace('"$ref": "#"', '"$ref": "#/properties/value"')
    )
    return {
        "type": "object",
        "properties": {"value": moved},
        "required": ["value"],
        "additionalProperties": False,
    }


def _definitions(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        return {}
    return {**schema.get("definitions", {}), **schema.get("$defs", {})}


# Keywords that say nothing about which values are legal.
_NOTES = frozenset(
    [
        "$schema",
        "$id",
        "$comment",
        "title",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
    ]
)
# Without these more values are legal, so the answer's own check is enough.
_NARROWING = (
    _BOUNDS
    | _NOTES
    | frozenset(
        [
            "minLength",
            "maxLength",
            "pattern",
            "format",
            "minItems",
            "maxItems",
            "uniqueItems",
            "contains",
            "minContains",
            "maxContains",
            "minProperties",
            "maxProperties",
            "propertyNames",
            "dependentRequired",
            "dependentSchemas",
            "not",
            "if",
            "then",
            "else",
            "unevaluatedItems",
            "contentEncoding",
            "contentMediaType",
        ]
    )
)


class _Walk:
    """Translates one schema, node by node."""

    def __init__(self, root: Any, dialect: Dialect) -> None:
        self.root, self.dialect = root, dialect
        self.filled = False

    def node(self, schema: Any) -> Schema:
        if schema is True or schema == {}:
            return self.free({})
        if not isinstance(schema, Mapping):
            raise _NotStrict  # false: no value at all
        if "$ref" in schema:
            return self.reference(schema)
        if isinstance(schema.get("allOf"), list):
            return self.single(schema)
        found: Schema = {}
        for name, value in schema.items():
            self.keyword(found, name, value, schema)
        options = schema.get("anyOf", schema.get("oneOf"))
        if options is not None:
            found["anyOf"] = [self.node(option) for option in options]
            self.check_options(options)
        if "const" in schema:
            found["enum"] = [schema["const"]]
        if schema.get("type") == "object" or "properties" in schema:
            self.object(found, schema)
        if schema.get("type") == "array" or "items" in schema or "prefixItems" in schema:
            self.array(found, schema)
        if not any(name in found for name in ("type", "enum", "anyOf")):
            return self.free(found)
        return found

    def free(self, found: Schema) -> Schema:
        if not self.dialect.free:
            raise _NotStrict
        return found

    def keyword(self, found: Schema, name: str, value: Any, schema: Mapping[str, Any]) -> None:
        """Take over a keyword with a plain value, leave it out, or give up."""
        if name in _PARTS:
            return
        takes = name in self.dialect.keywords
        if name == "format":
            takes = value in self.dialect.formats
        if name == "minItems":
            takes = takes and value <= self.dialect.least_items
        if name == "pattern":  # what only some regex languages have is left to the check
            takes = takes and "(?" not in value and "\\" not in value
        if name == "type" and isinstance(value, list) and "object" in value:
            raise _NotStrict
        if takes:
            found[name] = value
        elif name not in _NARROWING and not (name == "required" and "properties" not in schema):
            raise _NotStrict

    def reference(self, schema: Mapping[str, Any]) -> Schema:
        target = str(schema["$ref"])
        if not set(schema) - {"$ref", "$defs", "definitions"} <= _NOTES | {"description"}:
            raise _NotStrict
        if target != "#":
            name = target.removeprefix("#/$defs/").removeprefix("#/definitions/")
            if name not in _definitions(self.root):
                raise _NotStrict
            target = f"#/$defs/{name}"
        return {"$ref": target}

    def single(self, schema: Mapping[str, Any]) -> Schema:
        others = set(schema) - {"allOf", "$defs", "definitions"} - _NOTES - {"description"}
        if len(schema["allOf"]) != 1 or others:
            raise _NotStrict
        return self.node(schema["allOf"][0])

    def check_options(self, options: list[Any]) -> None:
        """Nulls that fill in for absent properties can be told from others only if it is clear which
        option of a union a value is."""
        if not self.dialect.all_required:
            return
        leaves = _leaves({"anyOf": options}, self.root)
        objects = [leaf for leaf in leaves if _is_object(leaf)]
        optional = [o for o in objects if set(o.get("properties", ())) - set(o.get("required", ()))]
        arrays = [leaf for leaf in leaves if isinstance(leaf, Mapping) and "items" in leaf]
        if (len(objects) > 1 and optional) or len(arrays) > 1:
            raise _NotStrict

    def object(self, found: Schema, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        if self.dialect.closed and (others not in (True, False) or (others and not properties)):
            raise _NotStrict
        found["type"] = "object"
        found["properties"] = {name: self.node(child) for name, child in properties.items()}
        required = [name for name in schema.get("required", ()) if name in properties]
        if len(required) < len(schema.get("required", ())):
            raise _NotStrict
        if self.dialect.all_required:
            for name in properties:
                if name not in required:
                    self.fill(found["properties"], name, properties[name])
            required = list(properties)
        if required or self.dialect.all_required:
            found["required"] = required
        if self.dialect.closed:
            found["additionalProperties"] = False
        elif others is not True:
            found["additionalProperties"] = others if others is False else self.node(others)

    def fill(self, nodes: Schema, name: str, child: Any) -> None:
        """Make an optional property one that is null when it is absent."""
        if not _takes_null(child, self.root):
            self.filled = True
            nodes[name] = {"anyOf": [nodes[name], {"type": "null"}]}

    def array(self, found: Schema, schema: Mapping[str, Any]) -> None:
        if "prefixItems" in schema:
            if not self.dialect.places:
                raise _NotStrict
            found["prefixItems"] = [self.node(item) for item in schema["prefixItems"]]
        if "items" in schema:
            found["items"] = self.node(schema["items"])
        elif not self.dialect.free:
            raise _NotStrict
        found.setdefault("type", "array")


_PARTS = frozenset(
    [
        "anyOf",
        "oneOf",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "$defs",
        "definitions",
    ]
)


def _is_object(schema: Any) -> bool:
    return isinstance(schema, Mapping) and (
        schema.get("type") == "object" or "properties" in schema
    )


def _resolved(schema: Any, root: Any) -> Any:
    for _ in range(32):  # a chain of references may bite its own tail
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        target = str(schema["$ref"])
        name = target.removeprefix("#/$defs/").removeprefix("#/definitions/")
        schema = root if target == "#" else _definitions(root).get(name)
    return schema


def _leaves(schema: Any, root: Any) -> list[Any]:
    """The options of a union, those of the unions in it included; a schema that is none is its own."""
    found: list[Any] = []
    seen: set[int] = set()  # a union may hold itself

    def visit(node: Any) -> None:
        node = _resolved(node, root)
        if not isinstance(node, Mapping):
            found.append(node)
            return
        if id(node) in seen:
            return
        seen.add(id(node))
        options = node.get("anyOf", node.get("oneOf"))
        if options is None and isinstance(node.get("allOf"), list) and len(node["allOf"]) == 1:
            options = node["allOf"]
        if options is None:
            found.append(node)
        for option in options or ():
            visit(option)

    visit(schema)
    return found


def _takes_null(schema: Any, root: Any) -> bool:
    return any(_is_null(leaf) for leaf in _leaves(schema, root))


def _is_null(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return schema is True
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return True
    if "const" in schema or "enum" in schema:
        return None in schema.get("enum", [schema.get("const", 0)])
    return kind is None and "properties" not in schema and "items" not in schema


def _without_fill(value: Any, schema: Any, root: Any) -> Any:
    """Leave out the nulls that stand for absent properties."""
    leaves = [leaf for leaf in _leaves(schema, root) if isinstance(leaf, Mapping)]
    if isinstance(value, list):
        items = next((leaf["items"] for leaf in leaves if "items" in leaf), None)
        return [_without_fill(item, items, root) for item in value]
    kind = next((leaf for leaf in leaves if _fits(value, leaf)), None)
    if kind is None:
        return value
    properties, required = kind.get("properties", {}), kind.get("required", ())
    return {
        name: _without_fill(item, properties.get(name), root)
        for name, item in value.items()
        if item is not None
        or name in required
        or name not in properties
        or _takes_null(properties[name], root)
    }


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Is `value` an object of this kind, by its names? Each has all of them in strict mode."""
    return (
        isinstance(value, dict)
        and _is_object(schema)
        and set(value) == set(schema.get("properties", ()))
    )


def _recursive(node: Schema, defs: Mapping[str, Schema]) -> bool:
    """Does any definition that `node` needs need itself?"""

    def visit(found: Any, above: tuple[str, ...]) -> bool:
        if isinstance(found, list):
            return any(visit(item, above) for item in found)
        if not isinstance(found, Mapping):
            return False
        target = found.get("$ref")
        if isinstance(target, str):
            name = target.removeprefix("#/$defs/")
            return target == "#" or name in above or visit(defs.get(name), (*above, name))
        return any(visit(item, above) for item in found.values())

    return visit(node, ())
