"""Who is right where engines give different masks.

A token is disputed where one engine allows it and another does not. For some of each kind, every engine that
allows the token is asked for a text that goes on with it, and the text is held against the constraint itself:
Python's `re`, or a JSON Schema validator. One good text proves the token legal, so that who masked it out
lost something; a bad text proves that the engine which wrote it allows too much. Where no text comes to
an end nothing is proved. White space outside of JSON's strings is a matter of taste (engines bound it), so it
is counted apart.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.constraint_cases import Case

__all__ = ["Outside", "disputes", "satisfies", "spaces_outside"]

Bits = npt.NDArray[np.bool_]
Outside = tuple[Bits, Bits, Bits]
"""For each token whether it has white space outside of strings, if it comes outside of a string, inside
of one, inside of one behind a backslash."""


class Asked(Protocol):
    """The engines, with the constraint in question."""

    def complete(self, engine: str, prefixes: list[list[int]]) -> list[str | None]: ...

    def accepts(self, engine: str, texts: list[str]) -> list[bool]: ...


_SPACE = frozenset(b" \t\r\n")
_PER_STEP = 6  # disputed tokens of a step that may be looked into


def satisfies(case: Case, text: str) -> bool:
    if case.kind == "regex":
        return re.fullmatch(case.source, text) is not None
    import jsonschema_rs

    try:
        return bool(
            jsonschema_rs.validator_for(json.loads(case.source), validate_formats=True).is_valid(
                json.loads(text)
            )
        )
    except (ValueError, RecursionError):
        return False


# -- white space ---------------------------------------------------------------------------------


def after(data: bytes, state: int = 0) -> tuple[int, bool]:
    """(0: outside of JSON's strings, 1: inside of one, 2: inside and behind a backslash; whether there was
    white space outside), behind `data`, which begins in `state`."""
    spaces = False
    for byte in data:
        if state == 0:
            spaces = spaces or byte in _SPACE
            state = 1 if byte == 0x22 else 0
        elif state == 1:
            state = {0x22: 0, 0x5C: 2}.get(byte, 1)
        else:
            state = 1
    return state, spaces


def spaces_outside(texts: Sequence[bytes]) -> Outside:
    first, second, third = (
        np.array([not _SPACE.isdisjoint(text) and after(text, state)[1] for text in texts], bool)
        for state in range(3)
    )
    return first, second, third


# -- disputes ------------------------------------------------------------------------------------


def disputes(
    case: Case,
    documents: Sequence[Sequence[int]],
    texts: Sequence[bytes],
    outside: Outside,
    masks: Mapping[str, Sequence[npt.NDArray[np.uint32]]],
    judged: int,
    asked: Asked,
) -> list[dict[str, Any]]:
    """One for each set of engines that allow what others do not (and for white space apart): "allowed" and
    "masked" by whom, "count" of steps and tokens, "judged" ones with their texts and verdicts."""
    is_text = np.array([len(text) > 0 for text in texts], bool)
    counts: dict[tuple[tuple[str, ...], tuple[str, ...], bool], int] = {}
    examples: dict[Any, list[list[int]]] = {}
    rng = random.Random(case.name)
    for number, ids in enumerate(documents):
        data = b""
        for step, token in enumerate(ids):
            present = [e for e in masks if number < len(masks[e]) and step < len(masks[e][number])]
            allowed = np.array([_bits(masks[e][number][step], is_text) for e in present])
            blank = outside[after(data)[0]] if case.kind == "json_schema" else ~is_text
            for key, members in _groups(present, allowed, blank):
                counts[key] = counts.get(key, 0) + len(members)
                some = rng.sample(members.tolist(), min(_PER_STEP, len(members)))
                examples.setdefault(key, []).extend([*ids[:step], int(t)] for t in some)
            data += texts[token]
    found = []
    for key, count in counts.items():
        some = rng.sample(examples[key], min(judged, len(examples[key])))
        found.append(
            {
                "allowed": list(key[0]),
                "masked": list(key[1]),
                "white_space": key[2],
                "count": count,
                "judged": _judge(case, key[:2], some, texts, asked),
            }
        )
    return found


def _bits(mask: npt.NDArray[np.uint32], is_text: Bits) -> Bits:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(is_text)]
    return bits.astype(bool) & is_text


def _groups(present: list[str], allowed: Bits, blank: Bits) -> list[tuple[Any, npt.NDArray[Any]]]:
    """Disputed tokens of a step by who allows them and whether they are white space."""
    if len(present) < 2:
        return []
    ids = np.flatnonzero(allowed.any(0) & ~allowed.all(0))
    codes = (allowed[:, ids] << np.arange(len(present))[:, None]).sum(0) * 2 + blank[ids]
    found = []
    for code in np.unique(codes).tolist():
        allowing = tuple(e for i, e in enumerate(present) if code >> (i + 1) & 1)
        masking = tuple(e for e in present if e not in allowing)
        found.append(((allowing, masking, bool(code & 1)), ids[codes == code]))
    return found


def _judge(
    case: Case,
    sides: tuple[Sequence[str], Sequence[str]],
    prefixes: list[list[int]],
    texts: Sequence[bytes],
    asked: Asked,
) -> list[dict[str, Any]]:
    """`legal`: true, or null where nothing is proved; `loose`: engines that wrote a bad text; `lost`: engines
    that do not accept the good `text`."""
    allowing, masking = sides
    written = {engine: asked.complete(engine, prefixes) for engine in allowing}
    found: list[dict[str, Any]] = []
    for number, ids in enumerate(prefixes):
        answers = {e: some[number] for e, some in written.items() if some[number] is not None}
        good = {e: satisfies(case, text) for e, text in answers.items() if text is not None}
        proof = next((e for e, is_good in good.items() if is_good), None)
        found.append(
            {
                "token": texts[ids[-1]].decode("utf-8", "backslashreplace"),
                "step": len(ids) - 1,
                "legal": True if proof is not None else None,
                "loose": [e for e, is_good in good.items() if not is_good],
                "lost": [],
                "text": answers.get(proof or next(iter(good), "")),
            }
        )
    proved = [verdict for verdict in found if verdict["legal"]]
    for engine in masking if proved else ():
        accepted = asked.accepts(engine, [verdict["text"] for verdict in proved])
        for verdict, is_accepted in zip(proved, accepted):
            if not is_accepted:
                verdict["lost"].append(engine)
    return found
