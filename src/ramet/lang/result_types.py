"""What `gen(type=X)` asks of a model, and how its answer becomes a value of X.

Knows texts and types: numbers, choices, plain text, and JSON for everything else. With a backend that can
enforce the form the answer has it; with any other the value is looked for at the beginning of the answer
and what follows it is cut off. A text that may go on behind the limit of tokens is never a value.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NoReturn

from ramet.backend import Capabilities, Completion
from ramet.errors import InvalidRequest
from ramet.lang.schema_types import schema_of
from ramet.lang.typed import Typed, typed
from ramet.lang.values import Misfit, reader_of
from ramet.prompt import Span, Text

__all__ = ["Found", "ResultType", "cut_after", "enforced", "json_at_start", "result_type"]


@dataclass(frozen=True, slots=True)
class Found:
    """`text` is what the prompt gets, as `spans`: the answer up to the value's end."""

    value: Any
    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ResultType:
    """`wanted` names the form in words. `constraint` are the sampling parameters that enforce it, and
    `dtype` the typed generation that it is built on. `live`: the text may be shown while it comes, because
    no text that the backend lets end is refused. `is_enforced`: asking again cannot help a text that was
    cut. `find` takes (text, was it cut) and returns (value, end of it) or raises `Misfit`."""

    name: str
    wanted: str
    find: Callable[[str, bool], tuple[Any, int]]
    constraint: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    live: bool = False
    is_enforced: bool = False

    def accept(self, completion: Completion) -> Found:
        """Raises `Misfit`."""
        limit = cut_after(completion)
        value, end = self.find(completion.text, limit is not None)
        text = completion.text[:end]
        whole = end == len(completion.text)
        return Found(value, text, completion.spans if whole else (Text(text),))


def cut_after(completion: Completion) -> int | None:
    """The number of tokens after which the limit cut the text; None if it ended by itself."""
    reason = completion.meta_info.get("finish_reason")
    if not isinstance(reason, Mapping):
        return 0 if reason == "length" else None
    if reason.get("type") != "length" and not reason.get("incomplete"):
        return None
    length = reason.get("length", completion.meta_info.get("completion_tokens", 0))
    return length if isinstance(length, int) else 0


def enforced(can: Capabilities) -> Capabilities:
    """Without what the backend only checks and asks again for: who judges an answer here asks again here,
    where every answer has a record and one budget counts them all."""
    regex = can.regex and "regex" not in can.emulated
    schema = can.json_schema and "json_schema" not in can.emulated
    return replace(can, regex=regex, json_schema=schema)


def result_type(kind: Any, can: Capabilities) -> ResultType:
    """The rule of `kind` on a backend that `can` do certain things. Raises `InvalidRequest` for what is
    not a type of values that JSON can hold."""
    if isinstance(kind, (str, Mapping)):
        raise InvalidRequest("type", kind, "is not a type", "use json_schema= for a schema")
    if kind is str:
        return ResultType("str", "text", _plain_text, live=True, is_enforced=True)
    if kind in (int, float):
        return _number(kind.__name__, can)
    choices = _choices(kind)
    if choices is not None:
        return _choice(kind, choices, can)
    return _json(kind, can)


def _plain_text(text: str, cut: bool) -> tuple[str, int]:
    if cut:
        _was_cut()
    return text, len(text)


def _was_cut() -> NoReturn:
    raise Misfit("it was cut before its end", is_cut=True)


# Numbers


def _number(name: str, can: Capabilities) -> ResultType:
    rule = typed(name, can.regex)

    def find(text: str, cut: bool) -> tuple[Any, int]:
        match = re.match(rule.finds, text)
        if match is None:
            raise Misfit(f"it is not {_NUMBERS[name]}", is_cut=cut)
        if cut and match.end(1) == len(text):  # more digits may have followed
            _was_cut()
        return _converted(rule, match.group(1)), match.end(1)

    return ResultType(name, _NUMBERS[name], find, dtype=name, live=can.regex, is_enforced=can.regex)


_NUMBERS = {"int": "a whole number", "float": "a number"}


def _converted(rule: Typed, text: str) -> int | float:
    try:
        return int(text) if rule.kind == "int" else float(text)
    except ValueError as error:  # thousands of digits
        raise Misfit(str(error)) from error


# Choices


def _choices(kind: Any) -> dict[str, Any] | None:
    """The values by their texts; None for a type of another form."""
    if kind is bool:
        return {"True": True, "False": False}
    if typing.get_origin(kind) is typing.Literal:
        pairs = [(_choice_text(value), value) for value in typing.get_args(kind)]
    elif isinstance(kind, type) and issubclass(kind, Enum):
        pairs = [(_choice_text(member.value), member) for member in kind]
    else:
        return None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidRequest("type", kind, "has two values with the same text")
    if not found or "" in found:
        raise InvalidRequest("type", kind, "has no values, or one without a text")
    return found


def _choice_text(value: object) -> str:
    plain = value.value if isinstance(value, Enum) else value
    if plain is None or isinstance(plain, (str, int, float)):
        return str(plain)
    raise InvalidRequest("type", value, "is not text, a number, a bool or None")


def _choice(kind: Any, choices: dict[str, Any], can: Capabilities) -> ResultType:
    longest_first = sorted(choices, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    finds = re.compile(rf"\s*({pattern})(?!\w)" if not can.regex else rf" ?({pattern})\Z")

    def find(text: str, cut: bool) -> tuple[Any, int]:
        match = finds.match(text)
        if match is None:
            raise Misfit(f"it is not {wanted}", is_cut=cut)
        chosen = match.group(1)
        longer = any(c != chosen and c.startswith(chosen) for c in choices)
        if cut and longer and match.end() == len(text):
            _was_cut()
        return choices[chosen], match.end()

    name = kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
    wanted = "one of: " + ", ".join(choices)
    # A word mostly begins with the blank before it.
    enforced = {"regex": f" ?({'|'.join(map(_escaped, choices))})"} if can.regex else {}
    return ResultType(name, wanted, find, enforced, live=can.regex, is_enforced=can.regex)


def _escaped(text: str) -> str:
    """`re.escape` without escapes that only Python reads (of blanks, say)."""
    return re.sub(r"([\\.^$*+?{}\[\]()|])", r"\\\1", text)


# JSON


def _json(kind: Any, can: Capabilities) -> ResultType:
    schema = schema_of(kind)
    reader = reader_of(kind)

    def find(text: str, cut: bool) -> tuple[Any, int]:
        value, end, after = json_at_start(text, cut)
        is_open = isinstance(value, (int, float)) and not isinstance(value, bool)
        if cut and is_open and end == len(text):
            _was_cut()
        if can.json_schema:
            if text[end:].strip():
                raise Misfit("more than the value was written")
            after = len(text)  # a stream has shown the white space, too
        return reader.read(value), after

    enforced = {"json_schema": schema} if can.json_schema else {}
    live = can.json_schema and reader.exact
    wanted = f"JSON that fits this schema: {schema}"
    return ResultType(reader.name, wanted, find, enforced, None, live, can.json_schema)


def json_at_start(text: str, cut: bool) -> tuple[Any, int, int]:
    """(value, where it ends, where what encloses it ends). A fence around it (three
    backquotes) is let through: chat models like to write one. Raises `Misfit`."""
    fence = _FENCE.match(text)
    begin = fence.end() if fence is not None else len(text) - len(text.lstrip())
    try:
        value, end = _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        raise Misfit(
            "it was cut before its end" if cut else f"it is not JSON: {error}", is_cut=cut
        ) from error
    after = end
    if fence is not None:
        closing = _FENCE_END.match(text, end)
        after = closing.end() if closing is not None else end
    return value, end, after


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
_FENCE = re.compile(r"\s*```(?:json)?\s*", re.IGNORECASE)
_FENCE_END = re.compile(r"\s*```")
