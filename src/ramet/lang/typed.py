"""Typed generations: what `dtype=int` asks of a model, and how its answer is checked.

Knows four Python types and their texts. With a backend that enforces regular expressions the type is one
of them; with any other the stop strings end the value early and the check finds out the rest. Values stay
text, as programs expect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ramet.backend import Completion
from ramet.errors import BackendError, InvalidRequest
from ramet.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_STR
from ramet.prompt import Span, Text

__all__ = ["Typed", "typed"]


@dataclass(frozen=True, slots=True)
class Typed:
    """`regex` is what a constraint enforces, `finds` extracts the value from an unconstrained text.
    `stops` end such a text and `keep_stop` says that the last of it belongs to the value. `quoted`: the
    program writes the opening quote and the model's text ends at the closing one."""

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
        if self.quoted:
            return f'"{completion.text}"', (Text('"'), *completion.spans, Text('"'))
        match = re.match(self.finds, completion.text)
        if match is None:
            raise BackendError(
                f"the text {completion.text!r} generated for {name!r} is not of type {self.kind}"
            )
        kept = completion.text[: match.end()]
        return match.group(1), completion.spans if kept == completion.text else (Text(kept),)


# A number ends where white space follows a digit. White space alone would also end the text before the
# first digit, as models begin a word with it.
_AFTER_A_DIGIT = tuple(digit + space for digit in "0123456789" for space in " \n")

_TYPES = {
    "int": Typed("int", REGEX_INT, r"\s*([-+]?[0-9]+)", _AFTER_A_DIGIT, True),
    "float": Typed("float", REGEX_FLOAT, r"\s*([-+]?[0-9]*\.?[0-9]+)", _AFTER_A_DIGIT, True),
    "bool": Typed("bool", REGEX_BOOL, r"\s*(True|False)"),
    "str": Typed("str", REGEX_STR, r'\s*("[^"]*")'),
}


def typed(dtype: object, constrained: bool) -> Typed:
    """The rule of `dtype` (a type or its name) on a backend that can or cannot enforce a regex."""
    name = dtype.__name__ if isinstance(dtype, type) else dtype
    found = _TYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidRequest(
            "dtype", dtype, "is not a type of generated values", "use int, float, str or bool"
        )
    if found.kind == "str" and not constrained:
        return Typed("str", found.regex, found.finds, ('"',), quoted=True)
    if found.keep_stop and constrained:
        return Typed(found.kind, found.regex, found.finds, (" ", "\n"))
    return found
