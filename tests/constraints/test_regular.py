"""Regular constraints over a vocabulary: masks, forced tokens and short ends against brute force."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence

import numpy as np
import pytest

from ramet.constraints import minimal
from ramet.constraints.automaton import Automaton
from ramet.constraints.matcher import Mask, Matcher
from ramet.constraints.nfa import build
from ramet.constraints.regular import RegularConstraint, _Work
from ramet.constraints.syntax import parse
from ramet.constraints.trie import TokenTrie
from ramet.constraints.vocabulary import Vocabulary

WORDS = [
    "ab",
    "abc",
    "bc",
    "12",
    "123",
    '":',
    ' "',
    "true",
    "false",
    "äb",
    "日",
    "na",
    "name",
    "  ",
    '",',
]
TOKENS = [bytes([b]) for b in range(256)] + [w.encode() for w in WORDS] + [b"", b"ab"]


def divide(text: str) -> list[int]:
    """The longest token first, as a stand-in for a tokenizer."""
    data, found = text.encode(), []
    while data:
        best = max(range(len(TOKENS)), key=lambda i: len(TOKENS[i]) * data.startswith(TOKENS[i]))
        found.append(best)
        data = data[len(TOKENS[best]) :]
    return found


def divide_forced(text: str, following: frozenset[int]) -> Sequence[int]:
    """Tokens up to the last place that no token reaches across, whatever follows."""
    data, found, at = text.encode(), [], 0
    tokens = divide(text)
    for token in tokens:
        if any(_reaches(data[at:], len(TOKENS[token]), other, following) for other in TOKENS):
            break
        found.append(token)
        at += len(TOKENS[token])
    return found


def _reaches(data: bytes, size: int, other: bytes, following: frozenset[int]) -> bool:
    if len(other) <= size:
        return False
    if len(data) >= len(other):
        return data.startswith(other)
    return other.startswith(data) and bool(following) and other[len(data)] in following


VOCABULARY = Vocabulary(tokens=TOKENS, size=300, encode=divide, encode_forced=divide_forced)


@functools.cache
def trie() -> TokenTrie:
    return TokenTrie(VOCABULARY)


def constraint(pattern: str, lazy: bool = False) -> RegularConstraint:
    automaton = Automaton(build(parse(pattern)))
    if not lazy:
        automaton = minimal.minimise(automaton) or automaton
    return RegularConstraint(automaton, trie(), VOCABULARY)


def allowed(mask: Mask | None) -> set[int]:
    assert mask is not None
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def wait(matcher: Matcher, budget: int | None = None) -> set[int]:
    found = matcher.mask(budget)
    if found is None:
        matcher.prepare(budget)
        found = matcher.mask(budget)
    return allowed(found)


PATTERNS = [
    "[0-9]{1,3}",
    "(true|false)",
    '\\{"name": "[a-c]{0,5}", "ok": (true|false)\\}',
    "a{2,9}b",
    "(ab|abc|bc)*",
    "[äö日]{1,3}",
    ".{0,4}",
    "x?",
    "(12|123){2}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("lazy", [False, True])
def test_walks_stay_legal_and_nothing_legal_is_masked_out(pattern: str, lazy: bool) -> None:
    shared = constraint(pattern, lazy)
    for seed in range(12):
        rng, matcher, data = random.Random(seed), shared.start(), b""
        for _ in range(40):
            may = wait(matcher)
            for token in range(VOCABULARY.size):
                text = TOKENS[token] if token < len(TOKENS) else b""
                legal = bool(text) and shared.automaton.step(0, data + text) >= 0
                assert (token in may) == legal
            assert matcher.may_end == _matches(pattern, data)
            assert matcher.done == (matcher.may_end and not may)
            if not may:
                break
            token = rng.choice(sorted(may))
            assert matcher.accept(token)
            data += TOKENS[token]


def _matches(pattern: str, data: bytes) -> bool:
    try:
        return re.fullmatch(pattern, data.decode()) is not None
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_budget_that_suffices_ends_legally(pattern: str) -> None:
    shared = constraint(pattern)
    shortest = len(_completion(shared))
    for budget in [*range(shortest, shortest + 9), 30]:
        for seed in range(10):
            rng, matcher, data, left = random.Random(seed), shared.start(), b"", budget
            while left and (may := wait(matcher, left)):
                token = rng.choice(sorted(may))
                matcher.accept(token)
                data += TOKENS[token]
                left -= 1
            assert _matches(pattern, data), (budget, data)


def _completion(shared: RegularConstraint) -> tuple[int, ...]:
    shared._needed(shared.automaton.start, _Work(None))
    return shared._completion[shared.automaton.start]


def test_a_budget_that_cannot_suffice_changes_nothing() -> None:
    matcher = constraint("(true|false)x{20}").start()
    assert wait(matcher, 3) == wait(matcher)


def test_forced_tokens_are_the_text_that_must_come() -> None:
    matcher = constraint('\\{"name": "[a-c]{1,5}", "ok": (true|false)\\}').start()
    text = b"".join(TOKENS[t] for t in matcher.forced() or ())
    # the quote could merge with nothing that may follow; "ab" could not begin before it
    assert text == b'{"name": "'
    for token in matcher.forced() or ():
        assert matcher.accept(token)
    assert matcher.forced() == ()
    matcher.accept(TOKENS.index(b"ab"))
    matcher.accept(TOKENS.index(b'"'))
    assert b"".join(TOKENS[t] for t in matcher.forced() or ()) == b', "ok": '


def test_numbers_are_never_cut_by_force() -> None:
    """12 and 123 are tokens: a forced 12 that 3 may follow is not taken."""
    assert constraint("12[34]").start().forced() == ()
    assert [TOKENS[t] for t in constraint("12[56]").start().forced() or ()] == [b"12"]
    assert [TOKENS[t] for t in constraint("12").start().forced() or ()] == [b"12"]
    assert constraint("12(3)?").start().forced() is not None  # it may end behind 12


def test_inside_a_character_nothing_is_divided() -> None:
    matcher = constraint("日x").start()
    assert matcher.accept("日".encode()[0])
    assert matcher.forced() == ()
    assert wait(matcher) == {"日".encode()[1]}


def test_rollback_and_fork() -> None:
    matcher = constraint("(ab|abc|bc)*").start()
    before = wait(matcher)
    matcher.accept(TOKENS.index(b"abc"))
    other = matcher.fork()
    assert other.accept(TOKENS.index(b"bc"))
    assert not matcher.accept(TOKENS.index(b"12"))
    matcher.rollback(1)
    assert wait(matcher) == before
    assert other.may_end
    other.rollback(2)
    assert wait(other) == before
    matcher.rollback(0)
    assert not matcher.accept(5000)
    assert not matcher.accept(-1)
    assert not matcher.accept(TOKENS.index(b""))


def test_without_a_token_for_each_byte_budgets_are_not_kept() -> None:
    few = Vocabulary(
        tokens=[b"a", b"b"], size=2, encode=lambda t: [0] * len(t), encode_forced=lambda *_: ()
    )
    shared = RegularConstraint(Automaton(build(parse("a*b"))), TokenTrie(few), few)
    assert allowed(shared.start().mask(1)) == {0, 1}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramet.constraints.regular.KEPT", 5)
    monkeypatch.setattr("ramet.constraints.regular.KEPT_WALKS", 2)
    shared = constraint('"[a-c]{0,60}"')
    rng = random.Random(3)
    for _ in range(20):
        matcher, left = shared.start(), 30
        while left and (may := wait(matcher, left)):
            matcher.accept(rng.choice(sorted(may)))
            left -= 1
        assert matcher.done
    assert max(map(len, (shared._facts, shared._completion, shared._enough, shared._walks))) <= 5
