"""A small vocabulary, and what tests do with constraints: bytes that have tokens of their own, and longer
tokens that JSON meets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ramet.constraints import guidance, nfa
from ramet.constraints.limits import DEFAULT
from ramet.constraints.matcher import Mask, Matcher
from ramet.constraints.nodes import Node
from ramet.constraints.vocabulary import Vocabulary

_LONGER = (
    *(
        '{"',
        '"}',
        '":',
        '": ',
        '", "',
        '",',
        '":"',
        "},",
        "}}",
        "]}",
        '"a',
        '"ab',
        "ab",
        "abc",
        "bc",
    ),
    *(
        "true",
        "false",
        "null",
        "tr",
        "12",
        "123",
        "0.",
        "e+",
        "  ",
        "    ",
        "\n  ",
        "\n",
        " {",
        "[]",
    ),
    *(
        "é",
        "日本",
        "😀",
        "\\n",
        "\\u00",
        "{}",
        "-1",
        "20",
        "24-",
        "name",
        "<tool",
        "function",
        "tool_call>",
    ),
)
TOKENS: list[bytes] = [bytes((b,)) for b in range(256)] + [
    t.encode() for t in dict.fromkeys(_LONGER)
]
SPECIAL = len(TOKENS)
_IDS = {token: i for i, token in enumerate(TOKENS)}


def encode(text: str) -> list[int]:
    """The longest token at each place."""
    data, found = text.encode(), []
    while data:
        size = next(n for n in range(min(len(data), 12), 0, -1) if data[:n] in _IDS)
        found.append(_IDS[data[:size]])
        data = data[size:]
    return found


def encode_forced(text: str, following: frozenset[int]) -> Sequence[int]:
    """Without the tokens at the end that a longer text may divide otherwise."""
    tokens = encode(text)
    while tokens and any(
        t.startswith(TOKENS[tokens[-1]]) for t in TOKENS if t != TOKENS[tokens[-1]]
    ):
        tokens.pop()
    return tokens if following else encode(text)


VOCABULARY = Vocabulary(
    [*TOKENS, b"", b""],
    len(TOKENS) + 50,
    encode,
    encode_forced,
    {"<|call|>": SPECIAL},
)


def compiled(grammar: str, field: str = "ebnf", source: str = "") -> guidance.GuidanceConstraint:
    return guidance.compile(grammar, VOCABULARY, DEFAULT, field, source)


def ids(mask: Mask | None) -> list[int]:
    assert mask is not None
    return [int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]


def takes(matcher: Matcher, text: str, *, single: bool = False) -> bool:
    """Whether the whole text is accepted, token by token, each of them being in its mask."""
    for token in text.encode() if single else encode(text):
        matcher.prepare()
        mask = matcher.mask()
        assert mask is not None
        allowed = bool(int(mask[token // 32]) >> (token % 32) & 1)
        assert matcher.accept(token) == allowed
        if not allowed:
            return False
    return matcher.may_end


def matches(node: Node, text: str) -> bool:
    return nfa.accepts(nfa.build(node), text.encode())
