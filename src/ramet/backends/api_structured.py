"""How a constraint is kept by an API that has none, or another one: the lowering common to all of them.

A constraint becomes a `Plan`: a schema for the provider's structured output where it has one and the
constraint is one; words in the prompt, a check, and another question within a budget where not. What an
answer must be is decided here, by `Plan.accept`, whatever the provider promised. Knows texts and schemas,
no provider and no I/O.
"""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.backends.api_cut import cut
from ramet.backends.api_schema import Dialect, Sent, sent_schema
from ramet.backends.scripted_checks import broken
from ramet.params import SamplingParams

__all__ = ["FREE", "Plan", "Rejected", "Structured", "plan_choice", "plan_text"]


class Rejected(Exception):
    """An answer is not what was asked for. The text says why, for people and for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structured:
    """A provider's structured output. `method` is its name for reports; `loose` the name of the way that a
    schema outside the strict dialect goes, and `words`: on that way the provider does not see the schema,
    so it is put into the prompt."""

    method: str
    dialect: Dialect
    loose: str
    words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`kind` is the constraint's name ("" for none), `method` how it is kept. `note` goes into the
    prompt. `asks` is how many answers may be asked for until one is accepted. `stops` are cut on our
    side. `streams`: the provider's text is the program's, so it can be passed on as it comes."""

    kind: str = ""
    method: str = "none"
    sent: Sent | None = None
    note: str = ""
    asks: int = 1
    check: Callable[[str], str] | None = None
    streams: bool = True
    spare_tokens: int = 0  # for what an answer has around the program's text

    def accept(
        self, text: str, stops: Sequence[str], params: SamplingParams
    ) -> tuple[str, str | None]:
        """The program's text and the stop that ended it. Raises `Rejected`."""
        if self.check is None:
            return cut(text, stops, params)
        if self.sent is not None:
            return cut(self.check(text), stops, params)
        try:  # white space before an answer is no part of it, but may be a stop string
            kept, matched = cut(text, stops, params)
            return self.check(kept), matched
        except Rejected:
            kept, matched = cut(text.strip(), stops, params)
            return self.check(kept), matched


FREE = Plan()


def plan_text(
    params: SamplingParams, structured: Structured | None, asks: int, *, chat: bool
) -> Plan:
    """The plan for a generation. `structured` is None where the provider has nothing of the kind; `chat`:
    it answers, rather than continues a text."""
    if params.regex is not None:
        return _plan_regex(params.regex, structured, asks, chat)
    if params.json_schema is not None:
        return _plan_json(params, json.loads(params.json_schema), structured, asks, chat)
    return FREE


# ---- regular expressions ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    """A regular expression whose texts are the values of a small schema. `kinds` are their types."""

    schema: dict[str, Any]
    text: Callable[[Any], str]
    kinds: tuple[type, ...]

    def text_of(self, value: Any) -> str:
        # A bool is an int to Python, but not to JSON.
        if not isinstance(value, self.kinds) or (
            isinstance(value, bool) and bool not in self.kinds
        ):
            raise Rejected(f"{value!r} is not of the type {self.schema['type']}")
        return self.text(value)


def _decimal(value: Any) -> str:
    # No exponent: the type's texts have none.
    return format(decimal.Decimal(repr(value) if isinstance(value, float) else str(value)), "f")


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# The patterns that `dtype` stands for.
_TYPES = {
    r"[-+]?[0-9]+[ \n]*": _Value({"type": "integer"}, str, (int,)),
    r"[-+]?[0-9]*\.?[0-9]+[ \n]*": _Value({"type": "number"}, _decimal, (int, float)),
    r"(True|False)": _Value({"type": "boolean"}, str, (bool,)),
    (
        r'"(?:[^"\\\x00-\x1f]'
        r'|\\["\\/bfnrt]'
        r"|\\u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
        r'|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"'
    ): _Value({"type": "string"}, _quoted, (str,)),
}
_WORDS = dict(
    zip(_TYPES, ("a whole number", "a decimal number", "True or False", "a text in double quotes"))
)


def _value_of(pattern: str) -> _Value | None:
    """The small schema of a pattern: a type's, or an enum of plain words with | between them."""
    if pattern in _TYPES:
        return _TYPES[pattern]
    inner = pattern
    for opening in ("(?:", "("):
        if inner.startswith(opening) and inner.endswith(")"):
            inner = inner[len(opening) : -1]
            break
    words = inner.split("|")
    if len(words) < 2 or not all(re.fullmatch(r"[\w ,:;'!/&%@<>=~\"-]+", word) for word in words):
        return None
    return _Value({"enum": list(dict.fromkeys(words)), "type": "string"}, str, (str,))


def _plan_regex(pattern: str, structured: Structured | None, asks: int, chat: bool) -> Plan:
    value = _value_of(pattern)
    if structured is None or value is None:
        said = _WORDS.get(pattern) or f"a text that matches the regular expression {pattern}"
        return Plan(
            kind="regex",
            method="ask_again",
            note=f"Answer with {said} and nothing else, from the first character to the last.",
            asks=max(1, asks),
            check=lambda text: _matching(pattern, text, whole=chat),
            streams=False,
        )
    sent = sent_schema(value.schema, structured.dialect)

    def check(text: str) -> str:
        found = value.text_of(_decoded(sent, text))
        return _matching(pattern, found, whole=True)

    return Plan(
        kind="regex",
        method=structured.method,
        sent=sent,
        asks=max(1, asks),
        check=check,
        streams=False,
        spare_tokens=_AROUND,
    )


_AROUND = 24  # tokens of {"value": ...} and of white space that some models put into JSON


def _matching(pattern: str, text: str, *, whole: bool) -> str:
    for candidate in (text, text.strip()):
        if re.fullmatch(pattern, candidate):
            return candidate
    if not whole:  # a model that continues texts does not stop where a constraint would stop it
        match = re.match(pattern, text.lstrip())
        if match is not None and match.group():
            return match.group()
    raise Rejected(f"it does not match the regular expression {pattern}")


# ---- JSON ---------------------------------------------------------------------------------------


def _plan_json(
    params: SamplingParams, schema: Any, structured: Structured | None, asks: int, chat: bool
) -> Plan:
    words = (
        "Answer with JSON and nothing else, no explanation and no code fence. It must keep this JSON "
        f"Schema: {json.dumps(schema)}"
    )
    if structured is None:

        def check_text(text: str) -> str:
            return _checked(params, _json_part(text, chat))

        return Plan(
            kind="json_schema",
            method="ask_again",
            note=words,
            asks=max(1, asks),
            check=check_text,
            streams=False,
        )
    sent = sent_schema(schema, structured.dialect)

    def check(text: str) -> str:
        if sent.same_text:
            return _checked(params, text.strip())
        return _checked(params, json.dumps(_decoded(sent, text), ensure_ascii=False))

    return Plan(
        kind="json_schema",
        method=structured.method if sent.strict else structured.loose,
        sent=sent,
        note=words if structured.words and not sent.strict else "",
        asks=max(1, asks),
        check=check,
        streams=sent.same_text and sent.strict,
        spare_tokens=_AROUND if sent.wrapped else 0,
    )


def _checked(params: SamplingParams, text: str) -> str:
    problem = broken(params, text)
    if problem is not None:
        shown = problem if len(problem) < 400 else f"{problem[:100]} ... {problem[-280:]}"
        raise Rejected(f"it does not match {shown}")
    return text


def _json_part(text: str, chat: bool) -> str:
    """JSON that a model has put into a code fence, or after which it has gone on."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", text, re.DOTALL)
    if fenced:
        return fenced[1].strip()
    text = text.strip()
    if chat:
        return text
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return text
    return text[:end]


def _decoded(sent: Sent, text: str) -> Any:
    try:
        return sent.restore(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise Rejected(f"it is not the JSON that was asked for ({error})") from error


# ---- choices ------------------------------------------------------------------------------------


def plan_choice(
    choices: Sequence[str], structured: Structured | None, asks: int, *, chat: bool, begun: str = ""
) -> Plan:
    """The plan for a selection: an answer that is one of `choices`. `begun` is what the assistant's block
    holds already, where the provider cannot continue it."""
    listed = json.dumps(list(choices), ensure_ascii=False)
    start = f"Your answer begins with {json.dumps(begun, ensure_ascii=False)}. " if begun else ""
    note = (
        f"{start}What comes next is exactly one of these texts, the one that fits best: {listed}."
    )
    if structured is None:
        return Plan(
            kind="select",
            method="ask_again",
            note=f"{note} Answer with that text and nothing else.",
            asks=max(1, asks),
            check=lambda text: _chosen(choices, text, whole=chat),
            streams=False,
        )
    sent = sent_schema({"type": "string", "enum": list(choices)}, structured.dialect)

    def check(text: str) -> str:
        found = _decoded(sent, text)
        if found not in choices:
            raise Rejected(f"{found!r} is not one of {listed}")
        return str(found)

    return Plan(
        kind="select",
        method=f"{structured.method} enum",
        sent=sent,
        note=note,
        asks=max(1, asks),
        check=check,
        streams=False,
        spare_tokens=_AROUND,
    )


def _chosen(choices: Sequence[str], text: str, *, whole: bool) -> str:
    for found in (text, text.strip(), text.strip().strip("\"'`.")):
        for choice in choices:
            if found in (choice, choice.strip()):
                return choice
    if not whole:
        fitting = [c for c in choices if text.lstrip().startswith(c.strip())]
        if fitting:
            return max(fitting, key=len)
    raise Rejected(f"it is none of {json.dumps(list(choices), ensure_ascii=False)}")
