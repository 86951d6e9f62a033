"""Typed generations: what `dtype=int` asks of a model, and how its answer is checked.

Knows four Python types and their texts. With a backend that enforces regular expressions the type is one
of them, and the check finds answers that ended too early; with any other the stop strings end the value
early and the check finds out the rest. Values stay text, as programs expect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ramet.backend import Completion
from ramet.errors import BackendError, InvalidRequest
from ramet.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_JSON_STR
from ramet.prompt import Span, Text

__all__ = ["Typed", "typed"]


@dataclass(frozen=True, slots=True)
class Typed:
    """`regex` is what a constraint enforces, `finds` extracts the value from a text: from an unconstrained
    one a value that others follow, from a constrained one only the whole. `stops` end the text and
    `keep_stop` says that the last of it belongs to the value. `quoted`: the program writes the opening
    quote and the model's text ends at the closing one."""

    kind: str
    regex: str
    finds: str
    stops: tuple[str, ...] = ()
    keep_stop: bool = False
    quoted: bool = False

    @property
    def prefix(self) -> str:
        return '"' if self.quoted else ""

    def value(self, completion: Completion, name: str | None) -> tuple[str, tuple[Span, ...]]:
        """The value and what the prompt gets: the text up to the value's end, white space before it
        included. Raises `BackendError` if the text is not of the type."""
        match = re.match(self.finds, completion.text)
        if match is None:
            raise BackendError(
                f"the text {completion.text!r} generated for {name!r} is not of type {self.kind}"
                + _cut(completion)
            )
        if self.quoted:
            return f'"{completion.text}"', (Text('"'), *completion.spans, Text('"'))
        kept = completion.text[: match.end(1)]
        return match.group(1), completion.spans if kept == completion.text else (Text(kept),)


def _cut(completion: Completion) -> str:
    """What to do about a text that the limit of tokens has cut."""
    reason = completion.meta_info.get("finish_reason")
    if not isinstance(reason, Mapping) or reason.get("type") != "length":
        return ""
    return f": it was cut after {reason.get('length', 'its last')} tokens; raise max_tokens"


# A number ends where white space follows a digit. White space alone would also end the text before the
# first digit, as models begin a word with it.
_AFTER_A_DIGIT = tuple(digit + space for digit in "0123456789" for space in " \n")

# A text in quotes that the program writes is whole unless its end would escape the closing one.
_NO_OPEN_ESCAPE = r"(?:[^\\]|\\.)*\Z"

_ANY = {
    "int": Typed("int", REGEX_INT, r"\s*([-+]?[0-9]+)", _AFTER_A_DIGIT, keep_stop=True),
    "float": Typed("float", REGEX_FLOAT, r"\s*([-+]?[0-9]*\.?[0-9]+)", _AFTER_A_DIGIT, True),
    "bool": Typed("bool", REGEX_BOOL, r"\s*(True|False)\b"),
    "str": Typed("str", REGEX_JSON_STR, rf"(?s:{_NO_OPEN_ESCAPE})", ('"',), quoted=True),
}
_CONSTRAINED = {
    "int": Typed("int", REGEX_INT, r"([-+]?[0-9]+)[ \n]*\Z", (" ", "\n")),
    "float": Typed("float", REGEX_FLOAT, r"([-+]?[0-9]*\.?[0-9]+)[ \n]*\Z", (" ", "\n")),
    "bool": Typed("bool", REGEX_BOOL, rf"{REGEX_BOOL}\Z"),
    "str": Typed("str", REGEX_JSON_STR, rf"({REGEX_JSON_STR})\Z"),
}
_TYPES = (int, float, str, bool)


def typed(dtype: object, constrained: bool) -> Typed:
    """The rule of `dtype` (a type or its name) on a backend that can or cannot enforce a regex."""
    name = dtype.__name__ if isinstance(dtype, type) and dtype in _TYPES else dtype
    found = (_CONSTRAINED if constrained else _ANY).get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidRequest(
            "dtype",
            dtype,
            "is not a type of generated values",
            "use int, float, str or bool, or json_schema= for any other type",
        )
    return found
