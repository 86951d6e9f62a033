"""The field `structural_tag`: free text, with structures where it says so.

    {"type": "structural_tag", "triggers": ["<function="], "structures": [
        {"begin": "<function=f>", "schema": {...}, "end": "</function>"}]}

Text is free until a trigger is complete; then one of the structures that begin with it must follow: the
rest of its `begin`, JSON as `schema` says, its `end`; then text is free again, any number of times. A
trigger that never completes is text. With "stop_after_first" the text ends with its first structure. Knows
this JSON and how to say it in Lark; refuses to know tools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ramet.constraints.grammar import regex_of
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.nodes import Text
from ramet.constraints.schema import read_checked
from ramet.constraints.schema_library import NO_FORCING, schema_of
from ramet.constraints.schema_text import at, read_json, refuse
from ramet.errors import InvalidRequest

__all__ = ["literal", "read"]

_MOST_STRUCTURES = 128
_MOST_TEXT = 256  # characters of a trigger


def read(source: str, limits: ConstraintLimits = DEFAULT, field: str = "structural_tag") -> str:
    """The grammar for `guidance.compile`. Raises `InvalidRequest` with the place of what is wrong."""
    tag = read_json(source, limits, field)
    if not isinstance(tag, dict):
        refuse(field, tag, "$", "is not an object")
    for key in tag:
        if key not in ("type", "structures", "triggers", "stop_after_first"):
            known = "known are structures, triggers, stop_after_first"
            refuse(field, tag[key], at("$", key), "is not known", known)
    if tag.get("type", "structural_tag") != "structural_tag":
        refuse(field, tag["type"], "$.type", 'is not "structural_tag"')
    once = tag.get("stop_after_first", False)
    if not isinstance(once, bool):
        refuse(field, once, "$.stop_after_first", "is neither true nor false")
    triggers = _triggers(tag.get("triggers"), field)
    structures = tag.get("structures")
    if not isinstance(structures, list) or not 0 < len(structures) <= _MOST_STRUCTURES:
        refuse(field, structures, "$.structures", f"is not a list of 1 to {_MOST_STRUCTURES}")
    by_trigger: dict[str, list[str]] = {trigger: [] for trigger in triggers}
    for i, structure in enumerate(structures):
        trigger, rest = _structure(structure, triggers, at("$.structures", i), limits, field)
        by_trigger[trigger].append(rest)
    return _grammar(by_trigger, once)


def literal(text: str) -> str:
    """A text in Lark; nothing for the empty one."""
    return f"/{regex_of(Text(text))}/" if text else ""


def _triggers(value: Any, field: str) -> list[str]:
    if (
        not isinstance(value, list)
        or not value
        or any(not isinstance(t, str) or not t for t in value)
    ):
        refuse(field, value, "$.triggers", "is not a list of texts")
    triggers = list(dict.fromkeys(value))
    for trigger in triggers:
        if len(trigger) > _MOST_TEXT:
            refuse(field, trigger, "$.triggers", f"is longer than {_MOST_TEXT} characters")
        for other in triggers:
            if other != trigger and other in trigger:
                refuse(field, trigger, "$.triggers", f"contains another trigger, {other!r}")
    return triggers


def _structure(
    value: Any, triggers: Sequence[str], path: str, limits: ConstraintLimits, field: str
) -> tuple[str, str]:
    """Its trigger, and what follows that."""
    if not isinstance(value, dict) or set(value) - {"begin", "schema", "end"}:
        refuse(field, value, path, "is not an object of begin, schema and end")
    begin, end = value.get("begin"), value.get("end", "")
    if not isinstance(begin, str) or not isinstance(end, str):
        refuse(field, value, path, "has a begin or an end that is no text")
    trigger = next((t for t in triggers if begin.startswith(t)), None)
    if trigger is None:
        refuse(field, begin, at(path, "begin"), "begins with none of the triggers")
    try:
        text = json.dumps(value.get("schema", True), ensure_ascii=False)
        schema = schema_of(read_checked(text, limits, field), field)
    except InvalidRequest as error:
        problem = f"{at(path, 'schema')}: {error.problem}"
        raise InvalidRequest(field, error.value, problem, error.remedy) from None
    return trigger, f"{literal(begin[len(trigger) :])} %json {schema} {literal(end)}"


def _grammar(by_trigger: dict[str, list[str]], once: bool) -> str:
    """A free text is everything without a trigger; one before a structure ends with the first trigger,
    which a lazy piece finds."""
    used = {trigger: rests for trigger, rests in by_trigger.items() if rests}
    found = " | ".join(literal(trigger) for trigger in by_trigger)
    tags = " | ".join(f"tag{i}" for i in range(len(used)))
    lines = [
        f"start: {tags} | FREE" if once else f"start: ({tags})* FREE",
        f"FREE: /(?s:.*)/ & ~(/(?s:.*)/ ({found}) /(?s:.*)/)",
    ]
    for i, (trigger, rests) in enumerate(used.items()):
        options = [f"tag{i}_{j}" for j in range(len(rests))]
        lines.append(f"tag{i}: lead{i} ({' | '.join(options)})")
        lines.append(f"lead{i}[lazy]: /(?s:.*){regex_of(Text(trigger))}/")
        lines += [f"{name}: {rest}" for name, rest in zip(options, rests, strict=True)]
    return NO_FORCING + "\n".join(lines) + "\n"
