"""Automata against `re`, and what they promise about themselves."""

from __future__ import annotations

import random
import re
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.nfa import Nfa, accepts, build
from ramet.constraints.nodes import ANY, EMPTY, NOTHING, Chars, Choice, Node, Repeat, Sequence, Text
from ramet.constraints.syntax import parse
from ramet.errors import InvalidRequest


def check(nfa: Nfa) -> None:
    """All that `Nfa` says of itself."""
    n = nfa.num_states
    assert nfa.first.dtype == nfa.target.dtype == nfa.eps_target.dtype == np.int32
    assert nfa.eps_first.dtype == nfa.distance.dtype == np.int32
    assert nfa.low.dtype == nfa.high.dtype == np.uint8
    assert len(nfa.first) == len(nfa.eps_first) == n + 1
    assert nfa.first[0] == nfa.eps_first[0] == 0
    assert nfa.first[-1] == len(nfa.low) == len(nfa.high) == len(nfa.target)
    assert nfa.eps_first[-1] == len(nfa.eps_target)
    assert (np.diff(nfa.first) >= 0).all()
    assert (np.diff(nfa.eps_first) >= 0).all()
    assert (nfa.low <= nfa.high).all()
    source = np.repeat(np.arange(n), np.diff(nfa.first))
    assert (np.diff(source * 256 + nfa.low) >= 0).all()
    assert nfa.first[nfa.final] == nfa.first[nfa.final + 1]
    assert nfa.eps_first[nfa.final] == nfa.eps_first[nfa.final + 1]
    assert _reached(nfa) == set(range(n))
    assert nfa.distance.tolist() == _distances(nfa)


def _ways(nfa: Nfa) -> list[tuple[int, int, int]]:
    """(source, target, bytes)."""
    source = np.repeat(np.arange(nfa.num_states), np.diff(nfa.first)).tolist()
    eps_source = np.repeat(np.arange(nfa.num_states), np.diff(nfa.eps_first)).tolist()
    ways = [(s, t, 1) for s, t in zip(source, nfa.target.tolist(), strict=True)]
    return ways + [(s, t, 0) for s, t in zip(eps_source, nfa.eps_target.tolist(), strict=True)]


def _reached(nfa: Nfa) -> set[int]:
    ways: list[list[int]] = [[] for _ in range(nfa.num_states)]
    for source, target, _ in _ways(nfa):
        ways[source].append(target)
    found, left = {nfa.start}, [nfa.start]
    while left:
        for target in ways[left.pop()]:
            if target not in found:
                found.add(target)
                left.append(target)
    return found


def _distances(nfa: Nfa) -> list[int]:
    """-1 where nothing leads to the end."""
    back: list[list[tuple[int, int]]] = [[] for _ in range(nfa.num_states)]
    for source, target, cost in _ways(nfa):
        back[target].append((source, cost))
    distance = [-1] * nfa.num_states
    left = deque([(nfa.final, 0)])
    while left:
        state, found = left.popleft()
        if distance[state] >= 0:
            continue
        distance[state] = found
        for source, cost in back[state]:
            (left.append if cost else left.appendleft)((source, found + cost))
    return distance


# ---- random patterns ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A pattern, and how to make a text that mostly matches it."""

    pattern: str
    texts: tuple[str, ...] = ()  # of an atom
    parts: tuple[Piece, ...] = ()
    kind: str = "atom"
    counts: tuple[int, int] = (0, 0)

    def text(self, chance: random.Random) -> str:
        if self.kind == "atom":
            return chance.choice(self.texts)
        if self.kind == "all":
            return "".join(part.text(chance) for part in self.parts)
        if self.kind == "one":
            return chance.choice(self.parts).text(chance)
        return "".join(self.parts[0].text(chance) for _ in range(chance.randint(*self.counts)))


ATOMS = [
    Piece("a", ("a", "A")),
    Piece("b", ("b",)),
    Piece("ab", ("ab",)),
    Piece("k", ("k", "K", "\u212a")),
    Piece("é", ("é", "É")),
    Piece("ж", ("ж", "Ж")),
    Piece("😀", ("😀", "😁")),
    Piece(".", ("a", "\n", "é", "😀")),
    Piece(r"\d", ("1", "٣", "a")),
    Piece(r"\w", ("a", "_", "字", "-")),
    Piece(r"\s", (" ", "\u2003", "a")),
    Piece(r"\W", ("-", "a")),
    Piece("[a-c]", ("a", "c", "B")),
    Piece("[^a]", ("b", "a", "é", "\n")),
    Piece("[é-ж😀]", ("é", "ж", "😀")),
    Piece(r"[^\w\s]", ("-", "a")),
    Piece("(?i:k)", ("k", "K", "\u212a")),
    Piece("(?i:[a-k])", ("K", "a", "\u212a")),
    Piece("(?a:\\w)", ("a", "é")),
    Piece("(?s:.)", ("\n", "a")),
    Piece("", ("",)),
]
COUNTS = {
    "*": (0, 3),
    "+": (1, 3),
    "?": (0, 1),
    "*?": (0, 2),
    "{2}": (2, 2),
    "{0,2}": (0, 2),
    "{1,3}?": (1, 3),
    "{2,}": (2, 4),
    "{0}": (0, 0),
}


def _all(parts: list[Piece]) -> Piece:
    return Piece("".join(part.pattern for part in parts), (), tuple(parts), "all")


def _one(parts: list[Piece]) -> Piece:
    return Piece(f"({'|'.join(part.pattern for part in parts)})", (), tuple(parts), "one")


def _some(part: Piece, count: str) -> Piece:
    return Piece(f"(?:{part.pattern}){count}", (), (part,), "some", COUNTS[count])


pieces = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(_all)
        | st.lists(inner, min_size=2, max_size=3).map(_one)
        | st.builds(_some, inner, st.sampled_from(sorted(COUNTS)))
    ),
    max_leaves=7,
)


@given(
    pieces,
    st.sampled_from(["", "(?i)", "(?s)", "(?a)", "(?m)", "(?is)"]),
    st.integers(0, 1 << 30),
    st.text("abkKé😀1 -\n", max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_random_patterns_accept_what_re_matches(
    piece: Piece, flags: str, seed: int, text: str
) -> None:
    pattern = flags + piece.pattern
    nfa = build(parse(pattern))
    check(nfa)
    chance = random.Random(seed)
    for one in ["", text] + [piece.text(chance)[:9] for _ in range(5)]:
        assert accepts(nfa, one.encode()) == bool(re.fullmatch(pattern, one)), one


@given(pieces, st.binary(max_size=6))
@settings(max_examples=100, deadline=None)
def test_what_is_no_utf8_is_not_accepted(piece: Piece, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    if text.encode() != data:
        assert not accepts(build(parse(piece.pattern)), data)


@given(pieces, pieces)
@settings(max_examples=30, deadline=None)
def test_copies_made_at_once_are_those_written_one_by_one(a: Piece, b: Piece) -> None:
    unit = f"(?:{a.pattern}-{b.pattern}|{b.pattern}[=+]xyz)"
    nfa = build(parse(unit + "{20,25}"))
    check(nfa)
    separators = [parse(f"{unit}(?:){{{i}}}") for i in range(25)]
    again = build(Sequence((*separators[:20], *(Repeat(one, 0, 1) for one in separators[20:]))))
    chance = random.Random(7)
    for count in (19, 20, 22, 25, 26):
        made = [
            a.text(chance) + "-" + b.text(chance)
            if chance.random() < 0.5
            else b.text(chance) + "=xyz"
            for _ in range(count)
        ]
        text = "".join(made).encode()
        assert accepts(nfa, text) == accepts(again, text)


# ---- repeats --------------------------------------------------------------------------------------------

BODY = Sequence((Chars(((97, 99),)), Text("x")))


@pytest.mark.parametrize(
    ("least", "most"),
    [
        *((0, 1), (0, 5), (1, 5), (3, 3), (2, 40), (40, 40), (39, 41), (0, 70)),
        *((0, None), (1, None), (2, None), (5, None), (60, None)),
    ],
)
@pytest.mark.parametrize("body", [BODY, Choice((BODY, Text("yz"))), Repeat(BODY, 2, 2)])
def test_repeats_count(body: Node, least: int, most: int | None) -> None:
    unit = b"ax" * (2 if isinstance(body, Repeat) else 1)
    nfa = build(Repeat(body, least, most))
    check(nfa)
    for count in {
        0,
        1,
        least - 1,
        least,
        least + 1,
        (most or 80) - 1,
        most or 80,
        (most or 80) + 1,
    }:
        if count >= 0:
            expected = least <= count and (most is None or count <= most)
            assert accepts(nfa, unit * count) == expected, count
    assert not accepts(nfa, unit * (least + 1) + b"a")


@pytest.mark.parametrize("outer", [(0, None), (1, None), (2, None), (3, 3), (0, 2), (20, 30)])
@pytest.mark.parametrize("inner", [(0, 1), (2, 4), (3, 3), (2, None), (0, 3), (10, 12)])
def test_repeats_in_repeats_count(
    inner: tuple[int, int | None], outer: tuple[int, int | None]
) -> None:
    """The body ends in an optional part, so that nothing can be simplified away."""
    body = Sequence((Repeat(Text("ab"), *inner), Repeat(Text("c"), 0, 1)))
    nfa = build(Sequence((Repeat(body, *outer), Text("d"))))
    check(nfa)
    for count in (0, 1, 2, 3, 6, 9, 10, 40):
        for text in ("ab" * count, "ab" * count + "c", "ababc" * count, "ababcab", "c" * count):
            assert accepts(nfa, text.encode() + b"d") == _rounds(text, inner, outer), text


def _rounds(text: str, inner: tuple[int, int | None], outer: tuple[int, int | None]) -> bool:
    """Whether (?:(?:ab){inner}c?){outer} matches, by the places that each round can end at: `re` would
    try all ways to divide the text."""
    places, done = {0}, False
    for count in range((outer[1] or outer[0] + len(text)) + 1):
        done |= count >= outer[0] and len(text) in places
        ends = set()
        for place in places:
            pairs = 0
            while text.startswith("ab", place + 2 * (pairs - 1)) or pairs == 0:
                end = place + 2 * pairs
                if inner[0] <= pairs and (inner[1] is None or pairs <= inner[1]):
                    ends |= {end, end + 1} if text.startswith("c", end) else {end}
                pairs += 1
        places = ends
    return done


def test_optional_copies_cost_one_empty_way_each() -> None:
    nfa = build(Repeat(BODY, 3, 1000))
    assert nfa.num_states == 2 + 1999
    assert len(nfa.eps_target) == 997
    assert set(nfa.eps_target.tolist()) == {nfa.final}


# ---- size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "states"),
    [
        ("", 2),
        ("a", 2),
        ("[a-z]", 2),
        ("hello", 6),
        ("(?s).", 9),
        (".", 9),
        (r"\d", 30),
        (r"\w", 350),
        (r"\W", 350),
        (r"\s", 10),
        ("a|b|c|[d-f]", 2),
        ("foo|bar|baz", 6),
        ("(yes|no|(a|b(c|d)))", 6),
    ],
)
def test_automata_are_small(pattern: str, states: int) -> None:
    nfa = build(parse(pattern))
    check(nfa)
    assert nfa.num_states <= states


def test_many_words_share_what_they_have_in_common() -> None:
    chance = random.Random(3)
    words = {"".join(chance.choices("abcdefghij", k=chance.randint(3, 8))) for _ in range(5000)}
    nfa = build(Choice(tuple(map(Text, words))))
    assert nfa.num_states < 10_000 < sum(map(len, words)) / 2
    for word in [*list(words)[:20], "abc", "abx", "jjjjj", ""]:
        assert accepts(nfa, word.encode()) == (word in words)
    # each letter leads to one state at most, so the subset construction has nothing to do
    for state in range(nfa.num_states):
        rows = slice(nfa.first[state], nfa.first[state + 1])
        assert (nfa.low[rows][1:] > nfa.high[rows][:-1]).all()


@pytest.mark.parametrize(
    ("pattern", "number", "largest"),
    [
        ("(a{1000}){1000}", "1000001", "{1000}"),
        ("((a{1000}){1000}b){2000000000}", "", "{2000000000}"),
        ("(a|bc){100001}", "200003", "{100001}"),
        (r"\w{400}", "", "{400}"),
        ("(((([ab]c){99}){99}){99}d){99}", "", "{99}"),
        ("(a{1000}b){1000,}", "", "{1000}"),
    ],
)
def test_too_many_states_are_refused_before_they_are_made(
    pattern: str, number: str, largest: str
) -> None:
    node = parse(pattern)
    started = time.process_time()
    with pytest.raises(InvalidRequest) as caught:
        build(node, field="there", value=pattern)
    assert time.process_time() - started < 0.5
    assert (caught.value.field, caught.value.value) == ("there", pattern)
    assert number in caught.value.problem
    assert "more than 100000" in caught.value.problem
    assert largest in caught.value.remedy


def test_the_limit_is_exact() -> None:
    assert build(Text("a" * 9), ConstraintLimits(nfa_states=10)).num_states == 10
    with pytest.raises(InvalidRequest, match="of 11 states, more than 10"):
        build(Text("a" * 10), ConstraintLimits(nfa_states=10))


def test_large_automata_are_made_fast() -> None:
    for pattern in (
        "([a-z]{9}x){9990}",
        r"(\w{3}|\d){100}",
        "(a.{3}|b\\d){0,2000}",
        "(a|b)" * 12_000,
    ):
        node = parse(pattern)
        started = time.process_time()
        assert build(node).num_states > 12_000
        assert time.process_time() - started < 1  # some 0.01 to 0.1 s on an idle core


def test_what_shares_its_parts_is_not_written_along_every_path() -> None:
    node: Node = Text("a")
    for _ in range(300):
        node = Choice((node, Sequence((node, EMPTY)), NOTHING))
    assert build(node).num_states == 2
    for _ in range(300):
        node = Sequence((node, node))
    with pytest.raises(InvalidRequest, match=r"more than 10\^18 states"):
        build(node)


# ---- what matches nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    [
        NOTHING,
        Choice(()),
        Sequence((Text("a"), NOTHING)),
        Repeat(NOTHING, 1, None),
        parse(r"[^\s\S]"),
    ],
)
def test_an_empty_language_is_refused(node: Node) -> None:
    with pytest.raises(InvalidRequest, match="matches no text"):
        build(node)


def test_parts_that_match_nothing_leave_no_state() -> None:
    nfa = build(Choice((Text("ab"), Sequence((Text("cde"), Repeat(NOTHING, 2, 3))))))
    check(nfa)
    assert nfa.num_states == 3


def test_any_character_is_one_character() -> None:
    nfa = build(ANY)
    for text in (
        "\0",
        "a",
        "\x7f",
        "\x80",
        "\u07ff",
        "\u0800",
        "\ud7ff",
        "\ue000",
        "\uffff",
        "\U0010ffff",
    ):
        assert accepts(nfa, text.encode())
    for data in (
        b"",
        b"ab",
        b"\x80",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ):
        assert not accepts(nfa, data)


@given(st.lists(pieces, min_size=1, max_size=2), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_distance_is_the_length_of_a_shortest_text(parts: list[Piece], seed: int) -> None:
    """Follow the falling distance from the start: it ends in a text that is accepted."""
    nfa = build(parse(_all(parts).pattern))
    chance = random.Random(seed)
    state, data = nfa.start, b""
    seen: set[int] = set()
    left = [state]
    while state != nfa.final:
        moves = [
            (row, int(nfa.target[row]))
            for row in range(nfa.first[state], nfa.first[state + 1])
            if nfa.distance[nfa.target[row]] == nfa.distance[state] - 1
        ]
        if moves:
            row, state = chance.choice(moves)
            data += bytes([chance.randint(nfa.low[row], nfa.high[row])])
            seen, left = set(), [state]
            continue
        seen.add(state)
        left += [
            t
            for t in nfa.eps_target[nfa.eps_first[state] : nfa.eps_first[state + 1]].tolist()
            if t not in seen and nfa.distance[t] == nfa.distance[state]
        ]
        state = left.pop()
    assert len(data) == nfa.distance[nfa.start]
    assert accepts(nfa, data)
