"""JSON Schemas that are not regular, as grammars of llguidance.

Knows what llguidance 1.9 enforces of a checked schema, how it has to be told, and where its arithmetic or
its stack end; refuses by place what lies beyond. Each limit here was found by trying: the library works
with doubles and 64-bit integers, lets names of further properties repeat, follows references by recursion,
and builds an automaton with a state per remainder for `multipleOf`.

Numbers get bounds, so that their digits end: 18 digits before the point, nine behind it, no exponent. That
does not reach into schemas that are joined (`allOf`, or keywords beside `$ref`, `anyOf`, `oneOf`): their
numbers have only the bounds that they give themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from math import lcm
from typing import Any

from ramet.constraints.schema_check import Checked
from ramet.constraints.schema_disjoint import exclude_each_other
from ramet.constraints.schema_possible import depth_reached, every_schema
from ramet.constraints.schema_text import at, refuse
from ramet.errors import InvalidRequest

__all__ = ["NO_FORCING", "grammar_of", "schema_of"]

# Without it a mask is the one token that the tokenizer would write where a text is forced.
NO_FORCING = '%llguidance {"no_forcing": true}\n'

_SPACE = r" |\n {0,64}|\n\t{1,16}"  # once at each place where JSON has white space
_STYLES: dict[str, dict[str, Any]] = {
    "flexible": {"whitespace_pattern": _SPACE},
    "spaced": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "compact": {"whitespace_flexible": False},
}
_EXACT = 2**53  # integers above it are not exact in the library
_FAR = 10**18  # of a number without a bound
_DECIMALS = 9
_MOST_REMAINDERS = 10_000  # digits of multipleOf: its automaton has a state for each
_MOST_DEPTH = 400  # schemas inside each other; from 1200 on the stack of a thread may end
_MOST_SCHEMAS = 5000
_MOST_DEFINITIONS = 500

Schema = dict[str, Any] | bool


def grammar_of(checked: Checked, field: str = "json_schema") -> str:
    """The grammar of a schema. Raises as `schema_of`."""
    return f"{NO_FORCING}start: %json {schema_of(checked, field)}\n"


def schema_of(checked: Checked, field: str) -> str:
    """What stands behind %json in a grammar, with white space and other options in it. Raises
    `InvalidRequest` for what the library would not enforce exactly."""
    depth = depth_reached(checked)
    if depth > _MOST_DEPTH:
        raise InvalidRequest(field, f"{depth} schemas", f"lie inside each other; {_MOST_DEPTH} may")
    if len(checked.definitions) > _MOST_DEFINITIONS:
        count = f"{len(checked.definitions)} definitions"
        raise InvalidRequest(field, count, f"are more than {_MOST_DEFINITIONS}")
    writer = _Writer(field, _joins(checked), checked.definitions)
    root = writer.schema(checked.root, "$")
    definitions = {
        name: writer.schema(schema, checked.places[name])
        for name, schema in checked.definitions.items()
        if schema is not False
    }
    writer.check_remainders()
    if not writer.joined:
        definitions |= {"any": _ANY, "integer": _INTEGER, "number": _NUMBER}
    options = {**_STYLES[checked.whitespace]}
    if writer.open_names:
        options["json_allowed_escapes"] = 'nrbtf\\"'  # \u would spell a name in another way
    else:
        options["json_allow_general_unicode_escapes"] = True
    whole = {"x-guidance": options, **(root if isinstance(root, dict) else {})}
    if definitions:
        whole["$defs"] = definitions
    return json.dumps(whole, ensure_ascii=False)


def _joins(checked: Checked) -> bool:
    """Whether the library has to join schemas."""
    for schema in every_schema(checked):
        if isinstance(schema, dict):
            whole = {"$ref", "anyOf", "oneOf"} & schema.keys()
            if "allOf" in schema or (whole and len(schema) > 1):
                return True
    return False


class _Writer:
    """`open_names`: some object has names of its own beside others, which must not spell them in another
    way. `joined`: schemas are joined somewhere, so nothing is added to them but bounds of integers."""

    def __init__(self, field: str, joined: bool, definitions: dict[str, Schema]) -> None:
        self._field, self._left, self.joined = field, _MOST_SCHEMAS, joined
        self._definitions = definitions
        self._never = {f"#/$defs/{name}" for name, one in definitions.items() if one is False}
        self._steps: list[Decimal] = []
        self.open_names = False

    def schema(self, schema: Schema, path: str) -> Schema:
        self._left -= 1
        if self._left < 0:
            raise InvalidRequest(self._field, path, f"is beyond the first {_MOST_SCHEMAS} schemas")
        if schema is True or schema == {}:
            return True if self.joined else _REFERENCE
        if isinstance(schema, bool) or schema.get("$ref") in self._never:
            return False
        if not self.joined and schema in _SHARED.values():
            return {"$ref": f"#/$defs/{schema['type']}"}
        self._numbers(schema, path)
        clean = self._object(schema, path)
        if "anyOf" not in clean and exclude_each_other(clean.get("oneOf", ()), self._definitions):
            clean = {("anyOf" if key == "oneOf" else key): one for key, one in clean.items()}
        self._bound(clean)
        names = _types(clean)
        for kind, key in (("array", "items"), ("object", "additionalProperties")):
            if kind in names and not self.joined:
                clean.setdefault(key, True)
        for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            if key in clean:
                place = at(path, key)
                clean[key] = [self.schema(one, at(place, i)) for i, one in enumerate(clean[key])]
        for key in ("properties", "patternProperties"):
            if key in clean:
                place = at(path, key)
                clean[key] = {k: self.schema(one, at(place, k)) for k, one in clean[key].items()}
        for key in ("items", "additionalProperties"):
            if key in clean:
                clean[key] = self.schema(clean[key], at(path, key))
        return clean

    def _numbers(self, schema: dict[str, Any], path: str) -> None:
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "const", "enum"):
            for value in _numbers_in(schema.get(key)):
                if abs(value) > _EXACT:
                    problem = f"is a number beyond {_EXACT}, which is not exact beside "
                    why = "what else this schema needs (recursion, open objects or the like)"
                    refuse(self._field, value, at(path, key), problem + why)
        if "multipleOf" in schema:
            step = Decimal(str(schema["multipleOf"]))
            self._steps.append(step)
            if _remainders([step]) > _MOST_REMAINDERS:
                problem = f"has more digits than {_MOST_REMAINDERS} (without zeros at its ends)"
                refuse(self._field, schema["multipleOf"], at(path, "multipleOf"), problem)

    def check_remainders(self) -> None:
        """Those that may be joined."""
        if self.joined and self._steps and _remainders(self._steps) > _MOST_REMAINDERS:
            shown = ", ".join(str(step) for step in self._steps[:8])
            problem = "as multipleOf in schemas that are joined have too large a common multiple"
            raise InvalidRequest(self._field, shown, problem)

    def _object(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        required, least = len(schema.get("required", ())), schema.get("minProperties", 0)
        if any(key in schema for key in ("properties", "required", "patternProperties")):
            shut = schema.get("additionalProperties") is False and "patternProperties" not in schema
            self.open_names = self.open_names or not shut
        if least <= required:
            return {key: one for key, one in schema.items() if key != "minProperties"}
        if least > 1:
            problem = "is not enforced: names that are not declared may repeat"
            refuse(self._field, least, at(path, "minProperties"), problem, "list them in required")
        return dict(schema)

    def _bound(self, schema: dict[str, Any]) -> None:
        names = _types(schema)
        if not {"integer", "number"} & names or {"enum", "const"} & schema.keys():
            return
        if "number" in names and self.joined:
            return
        if not {"minimum", "exclusiveMinimum"} & schema.keys():
            schema["minimum"] = -_FAR
        if not {"maximum", "exclusiveMaximum"} & schema.keys():
            schema["maximum"] = _FAR
        bounds = [schema.get(key, 0) for key in _BOUNDS]
        if "number" in names and "multipleOf" not in schema and all(map(_is_short, bounds)):
            schema["multipleOf"] = 10**-_DECIMALS


_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_REFERENCE = {"$ref": "#/$defs/any"}
_SHARED: dict[str, Schema] = {name: {"type": name} for name in ("integer", "number")}
_INTEGER = {"type": "integer", "minimum": -_FAR, "maximum": _FAR}
_NUMBER = {"type": "number", "minimum": -_FAR, "maximum": _FAR, "multipleOf": 10**-_DECIMALS}
_ANY = {
    "anyOf": [
        {"type": ["null", "boolean", "string"]},
        {"$ref": "#/$defs/number"},
        {"type": "array", "items": _REFERENCE},
        {"type": "object", "additionalProperties": _REFERENCE},
    ]
}


def _types(schema: dict[str, Any]) -> set[str]:
    given = schema.get("type", ())
    return {given} if isinstance(given, str) else set(given)


def _is_short(bound: float) -> bool:
    return Decimal(str(bound)) == round(Decimal(str(bound)), _DECIMALS)


def _remainders(steps: list[Decimal]) -> int:
    """Of the common multiple of decimal numbers, without the zeros at its end."""
    scale = max(-int(step.normalize().as_tuple().exponent) for step in steps)
    whole = lcm(*(int(step.scaleb(max(scale, 0))) for step in steps))
    while whole % 10 == 0:
        whole //= 10
    return whole


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _numbers_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _numbers_in(one)
