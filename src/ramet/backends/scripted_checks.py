"""Whether a scripted answer keeps the constraint of its call.

Knows finished texts only, and judges them by the standard library and a JSON Schema validator, if one is
installed; refuses to know grammars.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from ramet.errors import InvalidRequest
from ramet.params import SamplingParams

__all__ = ["broken"]


def broken(params: SamplingParams, text: str) -> str | None:
    """What the text does not match, in words; None if it keeps the constraint, or if that is one that
    cannot be judged here. Raises `InvalidRequest` for a schema that is none."""
    if params.regex is not None and re.fullmatch(params.regex, text) is None:
        return f"the regex {params.regex!r}"
    if params.json_schema is None:
        return None
    problem_of = _validator(params.json_schema)
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return f"the JSON schema {params.json_schema!r}: it is not JSON ({error})"
    problem = problem_of(value)
    return None if problem is None else f"the JSON schema {params.json_schema!r}: {problem}"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


@functools.lru_cache(maxsize=64)
def _validator(schema_text: str) -> Callable[[Any], str | None]:
    """What is wrong with a value, if anything; without a validator nothing is."""
    try:
        schema = json.loads(schema_text)
        return _rust(schema) or _python(schema) or (lambda value: None)  # noqa: ARG005
    except Exception as error:  # each library has its own for a schema that is none
        raise InvalidRequest("json_schema", schema_text, f"is no JSON Schema: {error}") from error


def _rust(schema: Any) -> Callable[[Any], str | None] | None:
    try:
        library = importlib.import_module("jsonschema_rs")
    except ImportError:
        return None
    validator = library.validator_for(schema, retriever=_stay_here)
    return lambda value: next((error.message for error in validator.iter_errors(value)), None)


def _python(schema: Any) -> Callable[[Any], str | None] | None:
    try:
        library = importlib.import_module("jsonschema")
        nothing_else = importlib.import_module("referencing").Registry()  # by itself it would fetch
    except ImportError:
        return None
    kind = library.validators.validator_for(schema, default=library.Draft202012Validator)
    kind.check_schema(schema)
    validator = kind(schema, registry=nothing_else)
    return lambda value: next((error.message for error in validator.iter_errors(value)), None)


def _stay_here(uri: str) -> NoReturn:
    raise ValueError(f"a schema elsewhere is not fetched: {uri}")
