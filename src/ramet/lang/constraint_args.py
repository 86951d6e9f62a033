"""What a `gen` may say about the form of its text, checked where it is said.

Knows the arguments' forms (text, dict, type) and turns them into the texts that `SamplingParams` holds.
Whether a grammar or a schema can be enforced is the backend's answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from ramet.errors import InvalidRequest
from ramet.lang.schema_types import schema_of

__all__ = ["constraint_options"]


def constraint_options(values: Mapping[str, object]) -> dict[str, str]:
    """The one of `values` (dtype, regex, json_schema, ebnf, structural_tag) that is given, under its name,
    and nothing for a dtype, which is no text yet. None and "" are not given, as in the native protocol.
    Raises `InvalidRequest` for a second one and for what is not of the argument's form."""
    given = {name: value for name, value in values.items() if value is not None}
    given = {name: value for name, value in given.items() if not isinstance(value, str) or value}
    if len(given) > 1:
        first, second, *_ = given
        raise InvalidRequest(
            second, given[second], f"cannot be combined with {first}", "give one of them"
        )
    return {name: _FORMS[name](value) for name, value in given.items() if name in _FORMS}


def _regex(regex: object) -> str:
    if not isinstance(regex, str):
        raise InvalidRequest("regex", regex, "is not a string")
    try:
        re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidRequest("regex", regex, f"is not a regular expression: {error}") from error
    return regex


def _ebnf(grammar: object) -> str:
    if not isinstance(grammar, str):
        raise InvalidRequest("ebnf", grammar, "is not a string", "give the grammar's text")
    return grammar


def _structural_tag(tag: object) -> str:
    try:
        text = tag if isinstance(tag, str) else json.dumps(tag, allow_nan=False)
        is_object = isinstance(json.loads(text), dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("structural_tag", tag, f"is not JSON: {error}") from error
    if not is_object:
        raise InvalidRequest("structural_tag", tag, "is not a JSON object", "give text or a dict")
    return text


_FORMS: Mapping[str, Callable[[object], str]] = {
    "regex": _regex,
    "json_schema": schema_of,
    "ebnf": _ebnf,
    "structural_tag": _structural_tag,
}
