"""JSON Schemas: every keyword is enforced, or the schema is refused with the place of the keyword.

Knows the keywords of the drafts 4 to 2020-12 (and OpenAPI's `nullable`) and brings a schema into one form:
draft 2020-12, without annotations, and with every `$ref` pointing to a definition of its own. Refuses to
know how a keyword is enforced.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.plan import plan
from ramet.constraints.schema_text import at, read_json, refuse
from ramet.constraints.syntax import parse
from ramet.errors import InvalidRequest

__all__ = ["STYLES", "Checked", "check_schema"]

STYLES = ("flexible", "spaced", "compact")
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
FORMATS = frozenset(
    ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
_ANNOTATIONS = frozenset(
    (
        "$anchor",
        "$comment",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "id",
        "readOnly",
        "title",
        "writeOnly",
    )
)
_NEVER = {  # what we know by name and still do not enforce
    "not": "say what may come instead",
    "if": "use anyOf",
    "then": "use anyOf",
    "else": "use anyOf",
    "contains": "",
    "minContains": "",
    "maxContains": "",
    "dependencies": "use anyOf",
    "dependentRequired": "use anyOf",
    "dependentSchemas": "use anyOf",
    "propertyNames": "use patternProperties with additionalProperties false",
    "unevaluatedItems": "use items",
    "unevaluatedProperties": "use additionalProperties",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "x-guidance": 'use "x-whitespace"',
}
_COUNTS = re.compile(r"[{,](\d+)(?=[,}])")  # of repeats
_MOST_LEAST = 10_000  # items, characters or properties that a text can be made to have

Schema = dict[str, Any] | bool


@dataclass(frozen=True, slots=True)
class Checked:
    """`root` and the `definitions` that it reaches: draft 2020-12 without annotations, where `$ref` is
    always "#/$defs/NAME". `places` says where a definition stood. `ignored`: paths of annotations."""

    root: Schema
    definitions: dict[str, Schema]
    places: dict[str, str]
    ignored: tuple[str, ...]
    whitespace: str

    def as_schema(self) -> Schema:
        """One schema again."""
        if isinstance(self.root, bool) or not self.definitions:
            return self.root
        return {**self.root, "$defs": self.definitions}


def check_schema(text: str, limits: ConstraintLimits, field: str = "json_schema") -> Checked:
    """Read a schema. Raises `InvalidRequest` with the place of what is wrong or not enforced."""
    document = read_json(text, limits, field)
    style = document.get("x-whitespace", "flexible") if isinstance(document, dict) else "flexible"
    if style not in STYLES:
        refuse(field, style, "$.x-whitespace", f"is none of {', '.join(STYLES)}")
    return _Checker(document, field, limits).run(style)


class _Checker:
    def __init__(self, document: Any, field: str, limits: ConstraintLimits) -> None:
        self._document, self._field, self._limits = document, field, limits
        self._deadline = time.monotonic() + limits.seconds
        self._names: dict[str, str] = {}  # of definitions, by pointer
        self._waiting: list[tuple[str, Any, str]] = []
        self._places: dict[str, str] = {}
        self._ignored: list[str] = []

    def run(self, style: str) -> Checked:
        root = self._schema(self._document, "$")
        definitions: dict[str, Schema] = {}
        while self._waiting:
            name, schema, path = self._waiting.pop()
            definitions[name] = self._schema(schema, path)
        return Checked(root, definitions, self._places, tuple(self._ignored), style)

    def refuse(self, value: object, path: str, problem: str, remedy: str = "") -> None:
        refuse(self._field, value, path, problem, remedy)

    def _schema(self, schema: Any, path: str) -> Schema:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            self.refuse(schema, path, "is no schema: neither an object nor true nor false")
        if time.monotonic() > self._deadline:
            self.refuse(path, path, "reading the schema takes too long", "make it smaller")
        clean: dict[str, Any] = {}
        for key, value in schema.items():
            place = at(path, key)
            if key in ("$defs", "definitions"):
                if not isinstance(value, dict):
                    self.refuse(value, place, "is not an object")
            elif key in _KEYWORDS:
                clean[key] = _KEYWORDS[key](self, value, place)
            elif key in _ANNOTATIONS or (key.startswith("x-") and key not in _NEVER):
                self._ignored.append(place)
            else:
                known = "is a keyword that is not enforced" if key in _NEVER else "is no keyword"
                self.refuse(value, place, known, _NEVER.get(key, "") or "remove it")
        return self._tidy(clean, path)

    def _tidy(self, clean: dict[str, Any], path: str) -> dict[str, Any]:
        """Older spellings become those of draft 2020-12."""
        for old, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if isinstance(clean.get(old), bool) and clean.pop(old) and bound in clean:
                clean[old] = clean.pop(bound)
        if isinstance(clean.get("items"), list):
            if "prefixItems" in clean:
                self.refuse(clean["items"], at(path, "items"), "is a list beside prefixItems")
            clean = {("prefixItems" if k == "items" else k): v for k, v in clean.items()}
            if "additionalItems" in clean:
                clean = {("items" if k == "additionalItems" else k): v for k, v in clean.items()}
        clean.pop("additionalItems", None)  # says nothing without a list
        clean.pop("uniqueItems", None)  # only false comes so far
        if clean.pop("nullable", False):
            if "type" not in clean:
                self.refuse(True, at(path, "nullable"), "stands without a type", "use anyOf")
            given = clean["type"]
            names = [given] if isinstance(given, str) else list(given)
            clean["type"] = names if "null" in names else [*names, "null"]
        return clean

    # one method for each kind of value

    def type(self, value: Any, path: str) -> Any:
        names = value if isinstance(value, list) else [value]
        if not names or any(not isinstance(n, str) or n not in TYPES for n in names):
            self.refuse(value, path, f"is none of {', '.join(TYPES)}, nor a list of them")
        return list(dict.fromkeys(names)) if isinstance(value, list) else value

    def values(self, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            self.refuse(value, path, "is not a list")
        return value

    def least(self, value: Any, path: str) -> int:
        count = self.most(value, path)
        if count > _MOST_LEAST:
            self.refuse(value, path, f"is more than {_MOST_LEAST}")
        return count

    def most(self, value: Any, path: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.refuse(value, path, "is not a whole number, 0 or more")
        return int(value)

    def number(self, value: Any, path: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(value, path, "is not a number")
        return value

    def exclusive(self, value: Any, path: str) -> Any:
        return value if isinstance(value, bool) else self.number(value, path)

    def positive(self, value: Any, path: str) -> Any:
        if self.number(value, path) <= 0:
            self.refuse(value, path, "is not above 0")
        return value

    def flag(self, value: Any, path: str) -> Any:
        if not isinstance(value, bool):
            self.refuse(value, path, "is neither true nor false")
        return value

    def unique(self, value: Any, path: str) -> Any:
        if self.flag(value, path):
            self.refuse(value, path, "is a keyword that is not enforced", "remove it")
        return value

    def text(self, value: Any, path: str) -> Any:
        if not isinstance(value, str):
            self.refuse(value, path, "is not a string")
        return value

    def pattern(self, value: Any, path: str) -> Any:
        """What is too large for an automaton of ours is too large for the library, too: it looks for forced
        text as far as there is any, which nobody can interrupt."""
        self.text(value, path)
        if any(int(count) > _MOST_LEAST for count in _COUNTS.findall(value)):
            self.refuse(value, path, f"repeats something more than {_MOST_LEAST} times")
        try:
            root = plan(parse(value, self._limits, self._field), self._limits.nfa_states).root
        except InvalidRequest:
            return value  # it may be a pattern that only the library knows
        if root is not None and root.num_inner > self._limits.nfa_states:
            states = f"{root.num_inner} states, more than {self._limits.nfa_states}"
            self.refuse(value, path, f"needs an automaton of {states}", "use smaller repeats")
        return value

    def format(self, value: Any, path: str) -> Any:
        if value not in FORMATS if isinstance(value, str) else True:
            known = ", ".join(sorted(FORMATS))
            self.refuse(value, path, "is a format that is not enforced", f"known are {known}")
        return value

    def names(self, value: Any, path: str) -> Any:
        if not isinstance(value, list) or any(not isinstance(n, str) for n in value):
            self.refuse(value, path, "is not a list of names")
        return list(dict.fromkeys(value))

    def schema(self, value: Any, path: str) -> Any:
        return self._schema(value, path)

    def schemas(self, value: Any, path: str) -> Any:
        if not isinstance(value, list) or not value:
            self.refuse(value, path, "is not a list of schemas")
        return [self._schema(one, at(path, i)) for i, one in enumerate(value)]

    def schema_or_schemas(self, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [self._schema(one, at(path, i)) for i, one in enumerate(value)]
        return self._schema(value, path)

    def named_schemas(self, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self.refuse(value, path, "is not an object of schemas")
        return {key: self._schema(one, at(path, key)) for key, one in value.items()}

    def patterned_schemas(self, value: Any, path: str) -> Any:
        found = self.named_schemas(value, path)
        for key in found:
            self.pattern(key, at(path, key))
        return found

    def reference(self, value: Any, path: str) -> str:
        if not isinstance(value, str):
            self.refuse(value, path, "is not a string")
        if value != "#" and not value.startswith("#/"):
            self.refuse(value, path, "is not a path in this schema", 'write "#/$defs/NAME"')
        if value not in self._names:
            target, place = self._resolve(value, path)
            self._names[value] = name = f"d{len(self._names)}"
            self._places[name] = place
            self._waiting.append((name, target, place))
        return f"#/$defs/{self._names[value]}"

    def _resolve(self, reference: str, path: str) -> tuple[Any, str]:
        target, place = self._document, "$"
        for step in unquote(reference).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target, place = target[key], at(place, key)
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target, place = target[int(key)], at(place, int(key))
            else:
                self.refuse(reference, path, "points to nothing in this schema")
        return target, place


_KEYWORDS: dict[str, Callable[[_Checker, Any, str], Any]] = {
    "$ref": _Checker.reference,
    "additionalItems": _Checker.schema,
    "additionalProperties": _Checker.schema,
    "allOf": _Checker.schemas,
    "anyOf": _Checker.schemas,
    "const": lambda _checker, value, _path: value,
    "enum": _Checker.values,
    "exclusiveMaximum": _Checker.exclusive,
    "exclusiveMinimum": _Checker.exclusive,
    "format": _Checker.format,
    "items": _Checker.schema_or_schemas,
    "maxItems": _Checker.most,
    "maxLength": _Checker.most,
    "maxProperties": _Checker.most,
    "maximum": _Checker.number,
    "minItems": _Checker.least,
    "minLength": _Checker.least,
    "minProperties": _Checker.least,
    "minimum": _Checker.number,
    "multipleOf": _Checker.positive,
    "nullable": _Checker.flag,
    "oneOf": _Checker.schemas,
    "pattern": _Checker.pattern,
    "patternProperties": _Checker.patterned_schemas,
    "prefixItems": _Checker.schemas,
    "properties": _Checker.named_schemas,
    "required": _Checker.names,
    "type": _Checker.type,
    "uniqueItems": _Checker.unique,
}
