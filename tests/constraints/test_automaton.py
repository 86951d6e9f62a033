"""The automaton in C++ and the one in Python against plain simulation of the Nfa, and against each other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constraints.languages import (
    ALPHABET,
    Meaning,
    automaton_of,
    byte,
    larger,
    nfas,
    text,
    texts,
    trees,
    vocabularies,
    vocabulary,
)

from ramet.constraints import budget, compiled, syntax
from ramet.constraints import nfa as building
from ramet.constraints.automaton import NEVER, Automaton
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.masks import MaskCache
from ramet.constraints.nfa import Nfa
from ramet.constraints.trie import TokenTrie
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import Aborted, InvalidRequest

ROOT = Path(__file__).parents[2]
NATIVE = [True, False] if compiled.why_not() is None else [False]
both = pytest.mark.parametrize("native", NATIVE, ids=lambda native: "C++" if native else "Python")

ANY = byte(0, 255)
# As many states as there are sets of 31 places: [ab]*a[ab]{30}.
EXPLOSIVE = (
    "then",
    ("times", byte("a", "b"), 0, None),
    byte("a"),
    ("times", byte("a", "b"), 30, 30),
)
AB = vocabulary(bytes(t) for n in range(1, 12) for t in itertools.product(b"ab", repeat=n))


def allowed(mask: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def from_pattern(pattern: str) -> Nfa:
    return building.build(syntax.parse(pattern), DEFAULT, "regex", pattern)


def check(nfa: Nfa, vocabulary: Vocabulary, before: bytes, native: bool) -> None:
    """Everything that can be asked behind `before`, against simulation."""
    meaning, trie = Meaning(nfa), TokenTrie(vocabulary)
    automaton = Automaton(nfa, native=native)
    state = automaton.step(automaton.start, before)
    assert (state >= 0) == meaning.alive(before)
    if state < 0:
        return
    assert automaton.accepting(state) == meaning.accepts(before)
    assert automaton.distance(state) == meaning.distance(before) <= automaton.max_distance
    assert automaton.next_bytes(state) == {
        b for b in range(256) if meaning.alive(before + bytes([b]))
    }
    mask = automaton.mask(state, trie)
    assert mask is not None
    legal = {i for i, t in enumerate(vocabulary.tokens) if t and meaning.alive(before + t)}
    assert allowed(mask) == legal
    following = automaton.next_states(state, trie)
    assert {i for i, s in enumerate(following.tolist()) if s >= 0} == legal
    distances = automaton.distances(following)
    for i, token in enumerate(vocabulary.tokens):
        if i in legal:
            assert following[i] == automaton.step(state, token)
            assert distances[i] == meaning.distance(before + token)
        else:
            assert distances[i] == NEVER


# ---- what it means ---------------------------------------------------------------------------------


@both
@settings(max_examples=60)
@given(nfa=nfas, tokens=vocabularies, before=texts)
def test_it_means_what_the_nfa_means(
    native: bool, nfa: Nfa, tokens: Vocabulary, before: bytes
) -> None:
    check(nfa, tokens, before, native)


# Deep and bushy enough that whole subtrees are left out.
BUSHY = vocabulary(bytes(t) for n in range(1, 5) for t in itertools.product(b'ab"\xc3', repeat=n))


@both
@settings(max_examples=15)
@given(tree=trees, before=texts)
def test_loops_are_taken_as_a_whole(native: bool, tree: tuple, before: bytes) -> None:
    loop = ("then", tree, ("times", ("or", byte("a", "b"), byte(0xC3)), 0, None), byte('"'))
    check(automaton_of(loop), BUSHY, before, native)


# Large subtrees of one of the trie's groups of bytes, and of several, behind all kinds of beginnings: what a
# counted repeat can be sure of, and what not.
WORDS = [bytes(t) for n in range(1, 5) for t in itertools.product(b"amz", repeat=n)]
MIXED = [bytes(t) for n in range(1, 4) for t in itertools.product(b'a0"', repeat=n)]
PREFIXES = (b"", b'"', b"0", b'a"', b"0a")
COUNTED = vocabulary(sorted({*MIXED, *(b + w for b in PREFIXES for w in WORDS)}))
LETTERS, DIGITS, QUOTE = byte("a", "z"), byte("0", "9"), byte('"')


@both
@pytest.mark.parametrize(
    "tree",
    [
        ("then", ("times", LETTERS, 0, 7), QUOTE),
        ("then", ("times", ("or", LETTERS, DIGITS), 3, 40), QUOTE),
        ("times", ("or", LETTERS, DIGITS, QUOTE), 0, 6),
        ("then", ("times", LETTERS, 2, 3), ("times", ("or", LETTERS, DIGITS), 0, 4)),
        ("then", ("times", LETTERS, 0, 3), ("or", QUOTE, ("times", LETTERS, 0, None))),
        ("then", ("times", ("then", LETTERS, LETTERS, DIGITS), 0, None), QUOTE),
        ("times", ("or", byte("a", "y"), DIGITS), 0, 5),  # not the whole group
        ("then", ("times", LETTERS, 0, 9), QUOTE, ("times", LETTERS, 0, 2)),
        ("then", ("times", LETTERS, 0, 9), ("times", DIGITS, 0, 1), ("times", LETTERS, 0, 2)),
        ("then", ("times", ("or", LETTERS, DIGITS), 0, None), byte("0"), ("times", LETTERS, 4, 4)),
    ],
)
def test_counted_repeats(native: bool, tree: tuple) -> None:
    """Near their limits, too, where what is sure ends."""
    nfa = automaton_of(tree)
    for before in (b"", b"a", b"az0", b"aa", b"a0az0", b"a" * 36):
        check(nfa, COUNTED, before, native)


@pytest.mark.skipif(True not in NATIVE, reason=f"no native automata: {compiled.why_not()}")
@settings(max_examples=40)
@given(
    st.recursive(st.sampled_from([LETTERS, DIGITS, QUOTE]), larger, max_leaves=6), st.integers(0, 5)
)
def test_both_leave_out_the_same(tree: tuple, count: int) -> None:
    nfa, trie = automaton_of(tree), TokenTrie(COUNTED)
    fast, slow = Automaton(nfa, native=True), Automaton(nfa, native=False)
    for before in (b"", b"a" * count, b"a0" * count):
        a, b = fast.step(fast.start, before), slow.step(slow.start, before)
        assert (a < 0) == (b < 0)
        if a >= 0:
            assert np.array_equal(fast.mask(a, trie), slow.mask(b, trie))


@both
@pytest.mark.parametrize(
    ("pattern", "before"),
    [
        ("[0-9]{1,9}", ""),
        ("[0-9]{1,9}", "1234567"),
        (r'"[^"\\\x00-\x1f]*"', '"é'),
        (r"[\w\d\s]{1,16}", "a b"),
        (".{0,20}", "x" * 17),
        ('[{]"name": "[a-z]+", "age": [1-9][0-9]?[}]', '{"name": "b'),
    ],
)
def test_patterns(native: bool, pattern: str, before: str) -> None:
    words = ["a", "ab", " a", '"', '":', "é", "日本", "1", "12", "123", "\n", ", ", '", "age": 9']
    tokens = [
        *(w.encode() for w in words),
        *(bytes([b]) for b in range(256)),
        b"\xe6\x97",
        b"\xa5a",
    ]
    check(from_pattern(pattern), vocabulary(tokens), before.encode(), native)


@pytest.mark.skipif(True not in NATIVE, reason=f"no native automata: {compiled.why_not()}")
@settings(max_examples=40)
@given(nfas, vocabularies, st.lists(texts, max_size=4))
def test_both_give_the_same_in_any_order(
    nfa: Nfa, tokens: Vocabulary, befores: list[bytes]
) -> None:
    trie = TokenTrie(tokens)
    fast, slow = Automaton(nfa, native=True), Automaton(nfa, native=False)
    for before in befores:
        a, b = fast.step(fast.start, before), slow.step(slow.start, before)
        assert (a < 0) == (b < 0)
        if a < 0:
            continue
        assert np.array_equal(fast.mask(a, trie), slow.mask(b, trie))
        one, other = fast.next_states(a, trie), slow.next_states(b, trie)
        assert np.array_equal(fast.distances(one), slow.distances(other))


@both
def test_bytes_that_do_the_same_are_one_class(native: bool) -> None:
    """Apart from each other, too; and what differs in one state only is kept apart."""
    nfa = automaton_of(
        ("then", ("or", byte("a"), byte("x", "z")), byte("a", "y"), ("times", ANY, 0, 2))
    )
    check(nfa, vocabulary(bytes(t) for t in itertools.product(b"abxyz", repeat=2)), b"", native)
    if native:
        assert Automaton(nfa, native=True).core.numbers()[2] == 5  # a, b-w, x y, z, the rest


@both
def test_empty_transitions_may_go_in_circles(native: bool) -> None:
    tree = ("times", ("times", ("times", byte("a"), 0, None), 0, None), 0, None)
    check(automaton_of(tree), vocabulary([b"a", b"aa", b"b"]), b"a", native)


@both
def test_a_state_that_is_none(native: bool) -> None:
    automaton = Automaton(automaton_of(text("ab")), native=native)
    trie = TokenTrie(AB)
    for state in (-1, -2, 1000, 2**31 - 1):
        for ask in (
            lambda s: automaton.step(s, b"a"),
            automaton.accepting,
            lambda s: automaton.mask(s, trie),
            lambda s: automaton.next_states(s, trie),
            lambda s: automaton.distances(np.array([0, s] if s >= 0 else [s - 5], np.int32)),
        ):
            with pytest.raises(InvalidRequest, match="is no state of this automaton"):
                ask(state)


@both
def test_tokens_without_bytes_and_ids_behind_the_last_one(native: bool) -> None:
    automaton = Automaton(automaton_of(("times", ANY, 0, None)), native=native)
    trie = TokenTrie(vocabulary([b"", b"a", b"", b"a"], size=100))
    mask = automaton.mask(automaton.start, trie)
    assert allowed(mask) == {1, 3}
    assert mask.shape == (4,)
    assert automaton.next_states(automaton.start, trie).shape == (100,)
    nothing = TokenTrie(vocabulary([], size=40))
    assert automaton.mask(automaton.start, nothing).tolist() == [0, 0]


# ---- budgets ---------------------------------------------------------------------------------------


@both
def test_too_many_states(native: bool) -> None:
    limits = dataclasses.replace(DEFAULT, dfa_states=300)
    automaton = Automaton(
        automaton_of(EXPLOSIVE), limits, field="regex", value="[ab]*a[ab]{30}", native=native
    )
    with pytest.raises(
        InvalidRequest, match=r"^regex: '\[ab\].*' needs more than 300 states of an automaton"
    ):
        automaton.mask(automaton.start, TokenTrie(AB))
    assert automaton.num_states == 300
    state = automaton.step(automaton.start, b"a")
    assert automaton.next_bytes(state) == {ord("a"), ord("b")}, "what is known stays"


@both
def test_too_much_memory(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MEMORY", 300_000)
    automaton = Automaton(automaton_of(EXPLOSIVE), native=native)
    with pytest.raises(InvalidRequest, match="needs more than 300000 bytes of memory"):
        automaton.complete(10**7)
    assert automaton.num_bytes <= 300_000


@both
def test_too_much_work(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "LIFE", 20_000)
    automaton = Automaton(automaton_of(EXPLOSIVE), native=native)
    begin = time.perf_counter()
    with pytest.raises(InvalidRequest, match=r"needs more than about 0\.02 s for its automaton"):
        automaton.complete(10**7)
    assert time.perf_counter() - begin < 2


@both
@pytest.mark.parametrize(
    "pattern", ["(.*a.{1000})", "[ab]*a[ab]{30}", "(a?){2000}b", "((a|b)*c){0,300}"]
)
def test_hostile_patterns_end(native: bool, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused or done, in bounded time, whatever they are."""
    monkeypatch.setattr(budget, "LIFE", 200_000)
    automaton = Automaton(from_pattern(pattern), native=native)
    begin = time.perf_counter()
    with contextlib.suppress(InvalidRequest):
        automaton.complete(DEFAULT.dfa_states)
    assert time.perf_counter() - begin < 5
    assert automaton.num_bytes <= budget.MEMORY


@both
def test_a_mask_that_takes_too_long_comes_in_the_end(native: bool) -> None:
    """Each try finds states that the next one has already."""
    automaton, trie = Automaton(automaton_of(EXPLOSIVE), native=native), TokenTrie(AB)
    tries = 1
    while (found := automaton.mask(automaton.start, trie, max_work=15 if native else 3000)) is None:
        tries += 1
        assert tries < 5000
    assert tries > 1, "the whole walk was within the budget: this test shows nothing"
    assert allowed(found) == set(range(len(AB.tokens)))


@both
def test_cancel(native: bool) -> None:
    automaton = Automaton(automaton_of(EXPLOSIVE), field="regex", native=native)
    known = automaton.step(automaton.start, b"a")
    automaton.cancel()
    with pytest.raises(Aborted, match="regex: its compilation was cancelled"):
        automaton.complete(10**7)
    assert automaton.step(automaton.start, b"a") == known


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> ConstraintLimits:
    """Seconds of determinizing."""
    monkeypatch.setattr(budget, "MEMORY", 1 << 30)
    return dataclasses.replace(DEFAULT, dfa_states=10**7)


@both
def test_cancel_from_another_thread(native: bool, endless: ConstraintLimits) -> None:
    automaton = Automaton(automaton_of(EXPLOSIVE), endless, native=native)
    timer = threading.Timer(0.03, automaton.cancel)
    timer.start()
    begin = time.perf_counter()
    with pytest.raises(Aborted):
        automaton.complete(10**7)
    assert time.perf_counter() - begin < 2
    timer.join()


# ---- threads ---------------------------------------------------------------------------------------


@both
def test_any_threads_at_the_same_time(native: bool) -> None:
    tree = ("then", ("times", byte("a", "b"), 0, None), byte("a"), ("times", byte("a", "b"), 6, 6))
    nfa, trie = automaton_of(tree), TokenTrie(AB)
    automaton, alone = Automaton(nfa, native=native), Automaton(nfa, native=native)
    befores = [bytes(t) for t in itertools.product(b"ab", repeat=4)]
    wrong: list[bytes] = []

    def ask(shift: int) -> None:
        for before in befores[shift:] + befores[:shift]:
            state = automaton.step(automaton.start, before)
            ends = automaton.distances(automaton.next_states(state, trie))
            if not np.array_equal(ends, wanted[before]):
                wrong.append(before)

    wanted = {}
    for before in befores:
        state = alone.step(alone.start, before)
        wanted[before] = alone.distances(alone.next_states(state, trie))
    threads = [threading.Thread(target=ask, args=(4 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert automaton.num_states == alone.num_states


@pytest.mark.skipif(True not in NATIVE, reason=f"no native automata: {compiled.why_not()}")
def test_a_long_walk_lets_a_short_step_through(endless: ConstraintLimits) -> None:
    automaton = Automaton(automaton_of(EXPLOSIVE), endless, native=True)
    done = threading.Event()

    def explore() -> None:
        with pytest.raises((InvalidRequest, Aborted)):
            automaton.complete(10**7)
        done.set()

    thread = threading.Thread(target=explore)
    thread.start()
    count = 0
    while not done.is_set():
        automaton.step(automaton.start, b"ab")
        count += 1
        if count == 50:
            automaton.cancel()
    thread.join()
    assert count >= 50, "steps waited until the walk was over"


# ---- masks that were found ---------------------------------------------------------------------------


@both
def test_equal_masks_are_one(native: bool) -> None:
    automaton = Automaton(automaton_of(("times", ANY, 0, 50)), native=native)
    trie = TokenTrie(vocabulary([b"a", b"bc"]))
    states = [automaton.step(automaton.start, b"a" * n) for n in range(51)]
    masks = [automaton.mask(state, trie) for state in states]
    assert len({id(mask) for mask in masks}) == automaton.masks.num_masks == 3
    assert [allowed(m) for m in masks[-3:]] == [{0, 1}, {0}, set()]
    with pytest.raises(ValueError, match="read-only"):
        masks[0][0] = 0
    assert automaton.mask(states[7], trie) is masks[7]
    other = TokenTrie(vocabulary([b"bc", b"cde"]))
    assert allowed(automaton.mask(states[48], other)) == {0}, "another vocabulary's mask"


def test_masks_that_were_not_asked_for_go_first() -> None:
    size = np.zeros(256, np.uint32).nbytes
    cache = MaskCache(3 * (size + 256))
    masks = {key: np.full(256, key, np.uint32) for key in range(4)}
    for key in range(3):
        assert cache.put(key, masks[key]) is masks[key]
    assert cache.get(0) is masks[0]
    cache.put(3, masks[3])
    assert [cache.get(key) is not None for key in range(4)] == [True, False, True, True]
    assert cache.num_bytes == 3 * (size + 256)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5))), st.integers(0, 5000))
def test_a_cache_counts_what_it_holds(puts: list[tuple[int, int]], most: int) -> None:
    cache = MaskCache(most)
    for key, content in puts:
        got = cache.put(key, np.full(100, content, np.uint32))
        assert got[0] == content or cache.get(key) is got, "a key has one content"
        assert cache.num_bytes <= most
    held = [mask for key in range(21) if (mask := cache.get(key)) is not None]
    assert cache.num_masks == len({id(mask) for mask in held})
    assert cache.num_bytes == 256 * len(held) + 400 * cache.num_masks


# ---- without a compiler --------------------------------------------------------------------------------


def test_it_works_without_a_compiler_and_says_so_once(tmp_path: Path) -> None:
    program = (
        "from tests.constraints.languages import automaton_of, text\n"
        "from ramet.constraints.automaton import Automaton\n"
        "made = [Automaton(automaton_of(text('ab'))) for _ in range(3)]\n"
        "print([a.native for a in made], made[0].next_bytes(0))\n"
    )
    environment = {"PATH": str(tmp_path), "RAMET_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, env=environment, timeout=50, check=False,
    )  # fmt: skip
    assert done.stdout == "[False, False, False] frozenset({97})\n", done.stderr
    assert done.stderr.count("no native automata: there is no C++ compiler") == 1


def test_the_alphabet_of_these_tests_has_the_ends_of_the_bytes() -> None:
    assert {0, 255} <= set(ALPHABET)
