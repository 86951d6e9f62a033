"""Whether a finished text satisfies its constraint: the judge of what was generated.

Knows one independent checker for each kind: Python's `re`, a validator of JSON Schema, the library's own
parser over single bytes. Shares nothing with masks, apart from what a keyword is taken to mean.
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any, NoReturn

from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.schema_check import check_schema
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import InvalidRequest, Unsupported

__all__ = ["check"]


def check(kind: str, source: str, text: str, limits: ConstraintLimits = DEFAULT) -> str | None:
    """The reason why `text` does not satisfy the constraint `source` of a `kind` (a field of
    `SamplingParams`); None if it does.

    Raises `InvalidRequest` for a constraint that is wrong, `Unsupported` for schemas where jsonschema-rs
    is not installed. A regular expression is matched by Python's `re`, which may take exponential time:
    for tests and offline checks, not for a server.
    """
    if kind == "regex":
        return None if re.fullmatch(source, text) else "the regular expression does not match it"
    if kind == "json_schema":
        return _schema(source, text, limits)
    if kind in ("ebnf", "structural_tag"):
        return _grammar(kind, source, text, limits)
    raise InvalidRequest("kind", kind, "is no kind of constraint")


def _schema(source: str, text: str, limits: ConstraintLimits) -> str | None:
    try:
        validators: Any = importlib.import_module("jsonschema_rs")
    except ImportError:
        remedy = "pip install jsonschema-rs"
        raise Unsupported(f"json_schema: jsonschema-rs is not installed; {remedy}") from None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        return f"it is not JSON: {error}"
    schema = check_schema(source, limits).as_schema()
    validator = validators.Draft202012Validator(schema, validate_formats=True)
    for found in validator.iter_errors(value):
        place = "".join(f"[{step!r}]" for step in found.instance_path)
        return f"at ${place}: {found.message}"
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _grammar(kind: str, source: str, text: str, limits: ConstraintLimits) -> str | None:
    from ramet.constraints import grammar, guidance, tags

    written = (grammar if kind == "ebnf" else tags).read(source, limits)
    matcher = guidance.compile(written, _BYTES, limits, kind, source).start()
    data = text.encode()
    for i, byte in enumerate(data):
        if not matcher.accept(byte):
            shown = data[max(0, i - 20) : i + 20].decode(errors="replace")
            return f"byte {i} may not come there: {shown!r}"
    return None if matcher.may_end else "it is not finished"


def _encode(text: str) -> list[int]:
    return list(text.encode())


_BYTES = Vocabulary(
    [bytes((byte,)) for byte in range(256)], 256, _encode, lambda text, _following: _encode(text)
)
