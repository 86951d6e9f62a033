"""Small JSON Schemas without recursion as regular languages.

Knows which schemas are regular and builds their trees, so that the automaton with its cached masks and
forced texts enforces them. Refuses the rest by the reason: then the library does it. Properties come in
the order in which the schema declares them, others behind them.

White space, where `d` is how many brackets are open: nothing; one space; or, but not behind a colon, one
line break with at most 8d (and 64) spaces or d (and 16) tabs. None stands before a comma or a colon, at the
beginning or at the end. That takes what `json.dumps` writes with any separators of its own and any
`indent` up to 8. "spaced" is `json.dumps` without options, "compact" no white space at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence as Items
from math import ceil, floor
from typing import Any

from ramet.constraints import schema_parts as parts
from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.nodes import EMPTY, NOTHING, Chars, Choice, Node, Repeat, Sequence, Text
from ramet.constraints.schema_check import TYPES, Checked
from ramet.constraints.schema_disjoint import exclude_each_other
from ramet.constraints.schema_possible import is_type
from ramet.constraints.syntax import parse
from ramet.errors import InvalidRequest

__all__ = ["NotRegular", "build"]

_MOST_SCHEMAS = 2000  # built, one that is referred to twice counting twice
_MOST_BOUND = 10**100
_MOST_WEIGHT = 30_000  # about states of an automaton before it is made small

# Keywords that say all of a value, so that hardly anything may stand beside them.
_WHOLE = ("$ref", "allOf", "anyOf", "oneOf", "enum", "const")

Schema = dict[str, Any] | bool


class NotRegular(Exception):
    """Why a schema is not one of ours."""


def build(checked: Checked, limits: ConstraintLimits) -> Node:
    """The texts that a schema allows. Raises `NotRegular` with the reason."""
    node = _Builder(checked, limits).value(checked.root, 1, ())
    if _weight(node, {}) > _MOST_WEIGHT:
        raise NotRegular(f"it needs more than {_MOST_WEIGHT} states")
    return node


def _weight(node: Node, known: dict[int, int]) -> int:
    """Parts that stand at several places are looked at once (by identity), and count at each."""
    if id(node) not in known:
        match node:
            case Text(text):
                found = len(text)
            case Chars(ranges):
                found = 1 if not ranges or ranges[-1][1] < 128 else 8
            case Sequence(inside) | Choice(inside):
                found = 1 + sum(_weight(part, known) for part in inside)
            case Repeat(body, least, most):
                found = 1 + _weight(body, known) * max(1, least if most is None else most)
        known[id(node)] = found
    return known[id(node)]


class _Builder:
    def __init__(self, checked: Checked, limits: ConstraintLimits) -> None:
        self._definitions, self._style, self._limits = (
            checked.definitions,
            checked.whitespace,
            limits,
        )
        self._left = _MOST_SCHEMAS
        spaced = self._style == "spaced"
        self._colon: Node = Text(": ") if spaced else Text(":")
        if self._style == "flexible":
            self._colon = Sequence((self._colon, parts.optional(Text(" "))))

    def space(self, depth: int) -> Node:
        """White space behind an opening bracket or before a closing one."""
        if self._style != "flexible":
            return EMPTY
        indents: list[Node] = [EMPTY]
        if depth:
            indents += [
                Repeat(Text(" "), 1, min(8 * depth, 64)),
                Repeat(Text("\t"), 1, min(depth, 16)),
            ]
        line = Sequence((Text("\n"), Choice(tuple(indents))))
        return Choice((EMPTY, Text(" "), line))

    def comma(self, depth: int) -> Node:
        if self._style == "spaced":
            return Text(", ")
        return Sequence((Text(","), self.space(depth)))

    def value(self, schema: Schema, depth: int, within: tuple[str, ...]) -> Node:
        self._left -= 1
        if self._left < 0:
            raise NotRegular(f"it is made of more than {_MOST_SCHEMAS} schemas")
        if depth + len(within) > self._limits.depth // 2:
            raise NotRegular("it is nested deep")
        if schema is True or schema == {}:
            raise NotRegular("it allows any value somewhere")
        if isinstance(schema, bool):
            return NOTHING
        for key in _WHOLE:
            if key in schema:
                others = set(schema) - {key}
                if others and not (key in ("enum", "const", "anyOf") and others == {"type"}):
                    raise NotRegular(f"{key} stands beside {', '.join(sorted(others))}")
                return self._whole(key, schema, depth, within)
        return self._types(schema, depth, within)

    def _whole(self, key: str, schema: dict[str, Any], depth: int, within: tuple[str, ...]) -> Node:
        if key in ("enum", "const"):
            return self._literals(schema, depth)
        if key == "$ref":
            return self._reference(schema, depth, within)
        if key == "anyOf":
            return self._any(schema, depth, within)
        if key == "oneOf":
            return self._one_of(schema, depth, within)
        if len(schema["allOf"]) > 1:
            raise NotRegular("allOf joins several schemas")
        return self.value(schema["allOf"][0], depth, within)

    def _reference(self, schema: dict[str, Any], depth: int, within: tuple[str, ...]) -> Node:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name in within:
            raise NotRegular("it refers to itself")
        return self.value(self._definitions[name], depth, (*within, name))

    def _any(self, schema: dict[str, Any], depth: int, within: tuple[str, ...]) -> Node:
        if "type" in schema:
            wanted = {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
            for one in schema["anyOf"]:
                if not isinstance(one, dict) or "type" not in one:
                    raise NotRegular("anyOf stands beside type")
                given = {one["type"]} if isinstance(one["type"], str) else set(one["type"])
                if not given <= wanted:
                    raise NotRegular("anyOf stands beside another type")
        return self._choice([self.value(one, depth, within) for one in schema["anyOf"]])

    def _one_of(self, schema: dict[str, Any], depth: int, within: tuple[str, ...]) -> Node:
        if not exclude_each_other(schema["oneOf"], self._definitions):
            raise NotRegular("the schemas of oneOf may overlap")
        return self._choice([self.value(one, depth, within) for one in schema["oneOf"]])

    @staticmethod
    def _choice(options: list[Node]) -> Node:
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _literals(self, schema: dict[str, Any], depth: int) -> Node:
        values = [*schema["enum"]] if "enum" in schema else [schema["const"]]
        if "type" in schema:
            types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            values = [value for value in values if any(is_type(value, name) for name in types)]
        return (
            self._choice([self._literal(value, depth) for value in values]) if values else NOTHING
        )

    def _literal(self, value: Any, depth: int) -> Node:
        if isinstance(value, str):
            return Sequence((Text('"'), parts.spelled(value), Text('"')))
        if isinstance(value, list):
            return self._bracketed("[]", [self._literal(one, depth + 1) for one in value], depth)
        if isinstance(value, dict):
            members = [
                Sequence((self._literal(key, 0), self._colon, self._literal(one, depth + 1)))
                for key, one in value.items()
            ]
            return self._bracketed("{}", members, depth)
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            return Choice((Text(str(int(value))), Text(json.dumps(value))))
        return Text(json.dumps(value))

    def _bracketed(self, brackets: str, items: Items[Node], depth: int) -> Node:
        """Exactly these items."""
        joined: list[Node] = []
        for item in items:
            joined += [self.comma(depth), item]
        return (
            self._closed(brackets, Sequence(tuple(joined[1:])), depth) if items else Text(brackets)
        )

    def _closed(self, brackets: str, inside: Node, depth: int) -> Node:
        return Sequence(
            (Text(brackets[0]), self.space(depth), inside, self.space(depth - 1), Text(brackets[1]))
        )

    def _types(self, schema: dict[str, Any], depth: int, within: tuple[str, ...]) -> Node:
        given = schema.get("type")
        if given is None:
            raise NotRegular("it allows values of any type somewhere")
        names = [given] if isinstance(given, str) else [n for n in TYPES if n in given]
        if "number" in names and "integer" in names:
            names.remove("integer")
        return self._choice([self._typed(name, schema, depth, within) for name in names])

    def _typed(
        self, name: str, schema: dict[str, Any], depth: int, within: tuple[str, ...]
    ) -> Node:
        match name:
            case "null":
                return Text("null")
            case "boolean":
                return Choice((Text("true"), Text("false")))
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "string":
                return self._string(schema)
            case "array":
                return self._array(schema, depth, within)
        return self._object(schema, depth, within)

    @staticmethod
    def _integer(schema: dict[str, Any]) -> Node:
        if "multipleOf" in schema:
            raise NotRegular("multipleOf")
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if abs(schema.get(key, 0)) > _MOST_BOUND:
                raise NotRegular(f"a {key} of more than 100 digits")
        lows = [ceil(schema["minimum"])] if "minimum" in schema else []
        if "exclusiveMinimum" in schema:
            lows.append(floor(schema["exclusiveMinimum"]) + 1)
        highs = [floor(schema["maximum"])] if "maximum" in schema else []
        if "exclusiveMaximum" in schema:
            highs.append(ceil(schema["exclusiveMaximum"]) - 1)
        return parts.integers(max(lows, default=None), min(highs, default=None))

    @staticmethod
    def _number(schema: dict[str, Any]) -> Node:
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if key in schema:
                raise NotRegular(f"a number with {key}")
        return parts.NUMBER

    def _string(self, schema: dict[str, Any]) -> Node:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        shaped = [key for key in ("pattern", "format") if key in schema]
        if not shaped:
            if most is not None and least > most:
                return NOTHING
            inside: Node = Repeat(parts.CHARACTER, least, most)
        elif len(shaped) > 1 or "minLength" in schema or "maxLength" in schema:
            raise NotRegular(f"{shaped[0]} stands beside another keyword of strings")
        elif "pattern" in schema:
            inside = parts.escaped(self._pattern(schema["pattern"]))
        elif schema["format"] in parts.FORMATS:
            inside = parts.FORMATS[schema["format"]]
        else:
            raise NotRegular(f"format {schema['format']}")
        return Sequence((Text('"'), inside, Text('"')))

    def _pattern(self, pattern: str) -> Node:
        """A pattern is searched for; ours are matched whole."""
        reason = _unlike_python(pattern)
        if reason:
            raise NotRegular(f"{reason} in a pattern")
        start, end = pattern.startswith("^"), _ends_anchored(pattern)
        if (start or end) and _alternates(pattern):
            raise NotRegular("an anchor beside alternatives in a pattern")
        body = pattern[start : len(pattern) - end]
        anything = "(?s:.*)"
        whole = f"{'' if start else anything}(?a:{body}){'' if end else anything}"
        try:
            return parse(whole, self._limits, "json_schema")
        except InvalidRequest as error:
            raise NotRegular(f"a pattern that {error.problem}") from None

    def _array(self, schema: dict[str, Any], depth: int, within: tuple[str, ...]) -> Node:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        first: list[Schema] = schema.get("prefixItems", [])
        if schema.get("items") is False:
            most = len(first) if most is None else min(most, len(first))
        if most is not None and least > most:
            return NOTHING
        first = first[:most]
        inside: Node | None = None  # what follows the prefix, each item behind a comma
        if most is None or most > len(first):
            item = self.value(schema.get("items", True), depth + 1, within)
            more = None if most is None else most - len(first)
            beyond = max(0, least - len(first))
            if not first:
                return self._list(item, beyond, more, depth)
            inside = Repeat(Sequence((self.comma(depth), item)), beyond, more)
        for i in reversed(range(len(first))):
            item = self.value(first[i], depth + 1, within)
            lead = (self.comma(depth), item) if i else (item,)
            inside = Sequence((*lead, inside) if inside is not None else lead)
            if i >= least and i:
                inside = parts.optional(inside)
        if inside is None:
            return Text("[]")
        some = self._closed("[]", inside, depth)
        return some if least else Choice((Text("[]"), some))

    def _list(self, item: Node, least: int, most: int | None, depth: int) -> Node:
        rest = None if most is None else most - 1
        tail = Repeat(Sequence((self.comma(depth), item)), max(0, least - 1), rest)
        some = self._closed("[]", Sequence((item, tail)), depth)
        return some if least else Choice((Text("[]"), some))

    def _object(self, schema: dict[str, Any], depth: int, within: tuple[str, ...]) -> Node:
        for key in ("patternProperties", "minProperties", "maxProperties"):
            if key in schema:
                raise NotRegular(key)
        required, others = set(schema.get("required", ())), schema.get("additionalProperties", True)
        declared = dict(schema.get("properties", {}))
        declared.update((n, others) for n in schema.get("required", ()) if n not in declared)
        members: list[tuple[Node, bool]] = []
        for name, one in declared.items():
            must = name in required
            if one is False and not must:
                continue  # the name is taken, nothing can stand behind it
            head = Sequence((Text('"'), parts.spelled(name), Text('"'), self._colon))
            members.append((Sequence((head, self.value(one, depth + 1, within))), must))
        extra = self._extra(others, list(declared), depth, within)
        comma = self.comma(depth)
        inside = _members(members, extra, comma)
        some = self._closed("{}", inside, depth) if inside is not None else None
        empty = [] if any(must for _, must in members) else [Text("{}")]
        return self._choice([*empty, *([some] if some is not None else [])])

    def _extra(
        self, others: Schema, taken: list[str], depth: int, within: tuple[str, ...]
    ) -> Node | None:
        """One property that is not declared."""
        if others is False:
            return None
        value = self.value(others, depth + 1, within)
        if not all(name.isascii() for name in taken):
            raise NotRegular("names outside ASCII beside additionalProperties")
        return Sequence((Text('"'), parts.name_but(taken), Text('"'), self._colon, value))


def _members(members: list[tuple[Node, bool]], extra: Node | None, comma: Node) -> Node | None:
    """One member or more in this order, those that must not come being optional, then any number of
    `extra`. None: that is impossible.

    Where a member must come, those before it have a comma behind them and those after it one before. Else
    halves: something of the left half and perhaps something of the right, or something of the right.
    """
    first = next((i for i, (_, must) in enumerate(members) if must), None)
    if first is None:
        some = _some([member for member, _ in members], comma)
        if extra is None:
            return some
        more = Repeat(Sequence((comma, extra)), 0, None)
        tails = [Sequence((extra, more))]
        return Choice((Sequence((some, more)), *tails)) if some is not None else tails[0]
    chain: list[Node] = [parts.optional(Sequence((one, comma))) for one, _ in members[:first]]
    chain.append(members[first][0])
    for one, must in members[first + 1 :]:
        step = Sequence((comma, one))
        chain.append(step if must else parts.optional(step))
    if extra is not None:
        chain.append(Repeat(Sequence((comma, extra)), 0, None))
    return Sequence(tuple(chain))


def _some(members: list[Node], comma: Node) -> Node | None:
    middle = len(members) // 2
    left = _some(members[:middle], comma) if middle else None
    right = _some(members[middle:], comma) if middle else next(iter(members), None)
    if left is None or right is None:
        return right
    return Choice((Sequence((left, parts.optional(Sequence((comma, right))))), right))


_UNLIKE = re.compile(r"\\[SAZaUNpPkcbB]|\\[sx]|\(\?(?!:)|[*+?}]\+|\[\[|\[\^?\]|&&|\(\*")


def _unlike_python(pattern: str) -> str:
    """What JSON Schema's patterns and Python's may understand differently."""
    found = _UNLIKE.search(pattern.replace("\\\\", ""))
    if found:
        return repr(found.group())
    return "an anchor" if re.search(r"(?<!\[)\^|\$", pattern.replace("\\\\", "")[1:-1]) else ""


def _ends_anchored(pattern: str) -> bool:
    return re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern) is not None


def _alternates(pattern: str) -> bool:
    """Whether `|` stands outside all groups."""
    depth = 0
    for mark in re.finditer(r"\\.|\[(?:\\.|[^\]\\])*\]|[()|]", pattern, re.DOTALL):
        if mark.group() == "(":
            depth += 1
        elif mark.group() == ")":
            depth -= 1
        elif mark.group() == "|" and depth == 0:
            return True
    return False
