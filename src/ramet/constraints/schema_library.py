"""JSON Schemas that are not regular, as grammars of llguidance.

Knows what llguidance 1.9 enforces of a checked schema, how it has to be told, and where its arithmetic or
its stack end; refuses by place what lies beyond. Each limit here was found by trying: the library works
with doubles and 64-bit integers, lets names of further properties repeat, follows references by recursion,
and builds an automaton with a state per remainder for `multipleOf`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ramet.constraints.schema_check import Checked
from ramet.constraints.schema_possible import depth_reached
from ramet.constraints.schema_text import at, refuse
from ramet.errors import InvalidRequest

__all__ = ["NO_FORCING", "grammar_of"]

# Without it a mask is the one token that the tokenizer would write where a text is forced.
NO_FORCING = '%llguidance {"no_forcing": true}\n'

_SPACE = r" |\n {0,64}|\n\t{1,16}"  # once at each place where JSON has white space
_STYLES: dict[str, dict[str, Any]] = {
    "flexible": {"whitespace_pattern": _SPACE},
    "spaced": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "compact": {"whitespace_flexible": False},
}
_EXACT = 2**53  # integers above it are not exact in the library
_FAR = 10**18  # of an integer without a bound, so that it has an end
_MOST_REMAINDERS = 10_000  # digits of multipleOf: its automaton has a state for each
_MOST_DEPTH = 400  # schemas inside each other; from 1200 on the stack of a thread may end
_MOST_SCHEMAS = 5000
_MOST_DEFINITIONS = 500

Schema = dict[str, Any] | bool


def grammar_of(checked: Checked, field: str = "json_schema") -> str:
    """The grammar of a schema. Raises `InvalidRequest` for what the library would not enforce exactly."""
    depth = depth_reached(checked)
    if depth > _MOST_DEPTH:
        raise InvalidRequest(field, f"{depth} schemas", f"lie inside each other; {_MOST_DEPTH} may")
    if len(checked.definitions) > _MOST_DEFINITIONS:
        count = f"{len(checked.definitions)} definitions"
        raise InvalidRequest(field, count, f"are more than {_MOST_DEFINITIONS}")
    writer = _Writer(field)
    root = writer.schema(checked.root, "$")
    definitions = {
        name: writer.schema(schema, checked.places[name])
        for name, schema in checked.definitions.items()
    }
    options = {**_STYLES[checked.whitespace]}
    if not writer.open_names:
        options["json_allow_general_unicode_escapes"] = True
    whole = {"x-guidance": options, **(root if isinstance(root, dict) else {})}
    if definitions:
        whole["$defs"] = definitions
    return f"{NO_FORCING}start: %json {json.dumps(whole, ensure_ascii=False)}\n"


class _Writer:
    """`open_names`: some object has names of its own beside others, which must not spell them in another
    way."""

    def __init__(self, field: str) -> None:
        self._field, self._left = field, _MOST_SCHEMAS
        self.open_names = False

    def schema(self, schema: Schema, path: str) -> Schema:
        self._left -= 1
        if self._left < 0:
            raise InvalidRequest(self._field, path, f"is beyond the first {_MOST_SCHEMAS} schemas")
        if isinstance(schema, bool):
            return schema
        self._numbers(schema, path)
        clean = dict(self._object(schema, path))
        self._bound(clean)
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
            digits = Decimal(str(schema["multipleOf"])).normalize().as_tuple().digits
            if int("".join(map(str, digits))) > _MOST_REMAINDERS:
                problem = f"has more digits than {_MOST_REMAINDERS} (without zeros at its ends)"
                refuse(self._field, schema["multipleOf"], at(path, "multipleOf"), problem)

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
        return schema

    @staticmethod
    def _bound(schema: dict[str, Any]) -> None:
        """An integer gets bounds, so that its digits end."""
        given = schema.get("type", ())
        names = {given} if isinstance(given, str) else set(given)
        if "integer" in names and "number" not in names:
            if not {"minimum", "exclusiveMinimum"} & schema.keys():
                schema["minimum"] = -_FAR
            if not {"maximum", "exclusiveMaximum"} & schema.keys():
                schema["maximum"] = _FAR


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _numbers_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _numbers_in(one)
