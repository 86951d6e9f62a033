"""Lark grammars from strangers, before the library sees them.

Knows enough of the notation to count rules and groups, which the library follows by recursion, and to find
the JSON Schemas inside (`%json {...}`), which are checked and written as all others are. Refuses to know
what a grammar means: that is llguidance's own (docs/syntax.md there), whose pieces are matched greedily.
"""

from __future__ import annotations

import json
import re

from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.schema import read_checked
from ramet.constraints.schema_library import NO_FORCING, schema_of
from ramet.errors import InvalidRequest

__all__ = ["checked_lark"]

_MOST_LEVELS = 1000  # rules, and groups inside each other; the stack of a thread ends above 2000
_MOST_COUNT = 10_000
_MOST_SIZE = 100_000  # parts of a terminal with all others written into it
_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"i?)
      | (?P<regex>/(?:[^/\\\n]|\\.)+/[imslux]*)
      | (?P<json>%json\b\s*)
      | (?P<data>%(?:llguidance|regex)\b\s*)
      | (?P<special><[^>\s]*>)
      | (?P<rule>(?<![^\n])[ \t]*[?!]?[A-Za-z_][\w-]*)
      | (?P<name>[A-Za-z_][\w-]*)
      | (?P<open>[(\[])
      | (?P<close>[)\]])
      | (?P<count>\{[ ]*\d*[ ]*,?[ ]*\d*[ ]*\}|~[ ]*\d+(?:[ ]*\.\.[ ]*\d+)?)
      | (?P<other>[\s\S])""",
    re.VERBOSE,
)
_REGEX_COUNT = re.compile(r"\{(\d*),?(\d*)\}")


def checked_lark(source: str, limits: ConstraintLimits, field: str) -> str:
    """The same grammar, told not to force tokens, with its schemas checked. Raises `InvalidRequest` with
    the line of what is too deep, too large, or a schema that is not enforced."""
    written: list[str] = []
    used: dict[str, list[str]] = {}  # terminals by the terminals that name them
    rule = ""
    at = levels = depth = deepest = 0
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None:
            break
        kind, text, at = found.lastgroup, found.group(), found.end()
        line = source.count("\n", 0, found.start()) + 1 if kind not in ("other", "rule") else 0
        if kind == "json":
            schema, at = _json_at(source, at, line, field)
            text += _schema(schema, limits, field, line)
        elif kind == "data":
            value, end = _json_at(source, at, line, field)
            if text.startswith("%llguidance") and value:
                _refuse(source, line, "options are set by us", field)
            text, at = text + source[at:end], end
        elif kind == "special" and "[" in text:
            _refuse(source, line, f"{text} names tokens by number; write their text", field)
        elif kind == "open":
            depth += 1
            deepest = max(deepest, depth)
        elif kind == "close":
            depth -= 1
        elif kind == "rule":
            levels, deepest, depth = levels + 1 + deepest, 0, 0
            rule = text.strip(" \t?!")
            used[rule] = []
        elif kind == "name" and rule.isupper() and text.isupper():
            used[rule].append(text)
        elif kind == "count" or kind == "regex":
            _check_counts(text, source, line, field)
        if levels + deepest > _MOST_LEVELS:
            problem = f"has more than {_MOST_LEVELS} rules and groups inside each other"
            raise InvalidRequest(field, source, problem)
        written.append(text)
    _check_size(used, source, field)
    return "".join(written) + "\n" + NO_FORCING


def _refuse(source: str, line: int, problem: str, field: str) -> None:
    raise InvalidRequest(field, source, f"is no grammar: line {line}: {problem}")


def _check_size(used: dict[str, list[str]], source: str, field: str) -> None:
    """Terminals are written into each other by the library: doubling ones grow beyond all bounds."""
    sizes = dict.fromkeys(used, 1)
    for _ in range(len(used)):
        new = {name: 1 + sum(sizes.get(one, 1) for one in inside) for name, inside in used.items()}
        if max(new.values()) > _MOST_SIZE:
            problem = f"has a terminal of more than {_MOST_SIZE} parts, others written into it"
            raise InvalidRequest(field, source, problem)
        if new == sizes:
            break
        sizes = new


def _check_counts(text: str, source: str, line: int, field: str) -> None:
    counts = re.findall(r"\d+", text) if text[0] in "{~" else []
    if text[0] == "/":
        counts = [number for pair in _REGEX_COUNT.findall(text) for number in pair if number]
    if any(len(number) > 9 or int(number) > _MOST_COUNT for number in counts):
        _refuse(source, line, f"a repeat counts beyond {_MOST_COUNT}", field)


def _json_at(source: str, at: int, line: int, field: str) -> tuple[object, int]:
    """The JSON value there, and where it ends."""
    depth = 0
    for mark in re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL).finditer(source, at):
        if mark.group()[0] in "[{":
            depth += 1
        elif mark.group()[0] in "]}":
            depth -= 1
        if depth == 0:
            break
        if depth > 120:
            _refuse(source, line, "JSON is nested too deep", field)
    try:
        return json.JSONDecoder().raw_decode(source, at)
    except ValueError as error:
        _refuse(source, line, f"bad JSON: {error}", field)
        raise


def _schema(schema: object, limits: ConstraintLimits, field: str, line: int) -> str:
    name = f"{field} (line {line})"
    try:
        checked = read_checked(json.dumps(schema), limits, name)
        return schema_of(checked, name)
    except InvalidRequest as error:
        raise InvalidRequest(field, error.value, f"line {line}: {error.problem}") from None
