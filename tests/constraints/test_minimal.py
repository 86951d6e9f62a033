"""Minimal automata: the same language, no two states alike, one form, and files that can be trusted."""

from __future__ import annotations

import dataclasses
import io
import itertools
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constraints.languages import (
    Meaning,
    automaton_of,
    byte,
    nfas,
    text,
    vocabularies,
)

from ramet.constraints import budget, compiled, minimal
from ramet.constraints.automaton import Automaton
from ramet.constraints.limits import DEFAULT
from ramet.constraints.minimal import load, minimise, save
from ramet.constraints.nfa import Nfa
from ramet.constraints.table import Table
from ramet.constraints.trie import TokenTrie
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import InvalidRequest

NATIVE = [True, False] if compiled.why_not() is None else [False]
both = pytest.mark.parametrize("native", NATIVE, ids=lambda native: "C++" if native else "Python")


def minimal_of(nfa: Nfa, native: bool) -> Automaton:
    found = minimise(Automaton(nfa, native=native))
    assert found is not None
    return found


def columns(automaton: Automaton) -> np.ndarray:
    """[states, 256]"""
    table = automaton.core.export()
    return table.to[:, table.class_of.astype(int)]


def different_states(automaton: Automaton) -> int:
    """By Moore's rounds, over all 256 bytes and with the dead state."""
    table = automaton.core.export()
    label = np.append(table.accepting.astype(int), 2)
    while True:
        rows = np.column_stack([label[:-1], label[columns(automaton)]])
        _, found = np.unique(rows, axis=0, return_inverse=True)
        found = np.append(found.reshape(-1), found.max() + 1)
        if len(np.unique(found)) == len(np.unique(label)):
            return int(found.max())
        label = found


@both
@settings(max_examples=60)
@given(nfas, st.data())
def test_the_same_language_with_the_fewest_states(
    native: bool, nfa: Nfa, data: st.DataObject
) -> None:
    whole, small = Automaton(nfa, native=native), minimal_of(nfa, native)
    assert different_states(small) == small.num_states
    # Every pair of states that the same text leads to agrees in everything: so do the languages.
    pairs, todo = {(whole.start, small.start)}, [(whole.start, small.start)]
    while todo:
        a, b = todo.pop()
        assert whole.accepting(a) == small.accepting(b)
        assert whole.distance(a) == small.distance(b)
        assert whole.next_bytes(a) == small.next_bytes(b)
        for b_ in whole.next_bytes(a):
            after = whole.step(a, bytes([b_])), small.step(b, bytes([b_]))
            if after not in pairs:
                pairs.add(after)
                todo.append(after)
    tokens = data.draw(vocabularies)
    trie, meaning = TokenTrie(tokens), Meaning(nfa)
    assert np.array_equal(whole.mask(whole.start, trie), small.mask(small.start, trie))
    following = small.distances(small.next_states(small.start, trie))
    for token, distance in zip(tokens.tokens, following.tolist(), strict=False):
        if token and meaning.alive(token):
            assert distance == meaning.distance(token)


@pytest.mark.skipif(True not in NATIVE, reason=f"no native automata: {compiled.why_not()}")
@settings(max_examples=60)
@given(nfas)
def test_both_give_the_same_table(nfa: Nfa) -> None:
    one, other = (minimal_of(nfa, native).core.export() for native in (True, False))
    # The Python core shows a class for each byte: the numbers of states are what has one form.
    assert np.array_equal(
        one.to[:, one.class_of.astype(int)], other.to[:, other.class_of.astype(int)]
    )
    assert np.array_equal(one.accepting, other.accepting)
    assert np.array_equal(one.distance, other.distance)


@both
def test_equal_languages_have_equal_tables(native: bool) -> None:
    a, b = byte("a"), byte("b")
    one = ("then", ("times", ("or", a, b), 0, None), a)
    other = (
        "then",
        ("times", ("then", ("times", b, 0, None), a), 0, None),
        ("times", b, 0, None),
        a,
    )
    first, second = (minimal_of(automaton_of(tree), native) for tree in (one, other))
    assert first.num_states == 2
    assert np.array_equal(columns(first), columns(second))


@both
@pytest.mark.parametrize(
    ("tree", "states"),
    [
        (text("abc"), 4),
        (("or", text("abc"), text("abd"), text("xbc"), text("xbd")), 4),
        (("times", byte(0, 255), 0, 300), 301),
        (("times", byte("a"), 0, None), 1),
        (
            (
                "then",
                ("times", byte("a", "b"), 0, None),
                byte("a"),
                ("times", byte("a", "b"), 5, 5),
            ),
            64,
        ),
    ],
)
def test_sizes_that_are_known(native: bool, tree: tuple, states: int) -> None:
    assert minimal_of(automaton_of(tree), native).num_states == states


@both
def test_too_large_or_too_long_is_left_as_it_is(native: bool) -> None:
    nfa = automaton_of(("times", byte(0, 255), 0, 300))
    limits = dataclasses.replace(DEFAULT, minimal_states=100)
    assert minimise(Automaton(nfa, limits, native=native)) is None
    assert minimise(Automaton(nfa, native=native), max_work=1) is None
    exact = dataclasses.replace(DEFAULT, minimal_states=301)
    assert minimise(Automaton(nfa, exact, native=native)) is not None


@both
def test_too_large_leaves_room_to_be_used(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MEMORY", 300_000)
    anything = ("times", byte("a", "b"), 0, None)
    nfa = automaton_of(("then", anything, byte("a"), ("times", byte("a", "b"), 11, 11)))
    automaton = Automaton(nfa, native=native)
    assert minimise(automaton) is None
    assert automaton.num_bytes <= 200_000
    assert automaton.step(automaton.start, b"ab" * 100) >= 0


# ---- files -----------------------------------------------------------------------------------------


SMALL = automaton_of(("then", ("times", text("ab"), 0, None), byte("c", "z")))


@both
@settings(max_examples=20)
@given(nfa=nfas, tokens=vocabularies)
def test_what_was_saved_comes_back(
    native: bool, nfa: Nfa, tokens: Vocabulary, tmp_path_factory: pytest.TempPathFactory
) -> None:
    small = minimal_of(nfa, native)
    path = tmp_path_factory.mktemp("saved") / "folder" / "a.npz"
    save(small, path)
    back = load(path, native=native, field="regex", value="x")
    assert back is not None
    assert np.array_equal(columns(back), columns(small))
    trie = TokenTrie(tokens)
    assert np.array_equal(back.mask(back.start, trie), small.mask(small.start, trie))
    assert back.max_distance == small.max_distance
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]
    with pytest.raises(InvalidRequest, match="is no state"):
        back.step(small.num_states, b"a")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert load(tmp_path / "none.npz") is None
    assert load(tmp_path) is None


@settings(max_examples=60)
@given(data=st.data())
def test_a_broken_file_is_no_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever was cut off or changed: None, or what was saved."""
    path = tmp_path_factory.getbasetemp() / "broken.npz"
    small = minimal_of(SMALL, NATIVE[0])
    save(small, path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load(path)
    if found is not None:
        assert np.array_equal(columns(found), columns(small))


GOOD = {
    "version": np.int64(minimal.VERSION),
    "to": np.array([[1, -1], [-1, -1]], np.int32),
    "class_of": np.array([0] * 100 + [1] * 156, np.uint8),
    "accepting": np.array([0, 1], np.uint8),
}


@pytest.mark.parametrize(
    "change",
    [
        {"version": np.int64(minimal.VERSION + 1)},
        {"version": np.zeros(1, np.int64)},
        {"version": np.float64(minimal.VERSION)},
        {"to": np.array([[2, -1], [-1, -1]], np.int32)},
        {"to": np.array([[1, -2], [-1, -1]], np.int32)},
        {
            "to": np.array([[-1, -1], [-1, -1]], np.int32)
        },  # from the start there is no way to the end
        {"to": GOOD["to"].astype(np.int64)},
        {"to": np.zeros((0, 2), np.int32)},
        {"to": np.zeros((2, 0), np.int32)},
        {"to": np.array([1, -1], np.int32)},
        {"class_of": np.full(256, 2, np.uint8)},
        {"class_of": np.zeros(255, np.uint8)},
        {"accepting": np.array([0, 2], np.uint8)},
        {"accepting": np.array([0, 1, 1], np.uint8)},
        {"accepting": np.array([b"0", b"1"])},
        {"more": np.zeros(3)},
        {"to": np.array([[None, 1]])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_file_with_other_content_is_no_file(change: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    assert load(path) is not None
    np.savez(path, **{**GOOD, **change})
    assert load(path) is None


def test_a_file_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **{**GOOD, "to": np.zeros((4096, 4096), np.int32)})
    assert load(path) is None
    np.savez(path, **{**GOOD, "to": np.zeros((5000, 256), np.int32)})
    assert load(path) is None
    np.savez(path, **{k: v for k, v in GOOD.items() if k != "to"})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i4", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("to.npy", header.getvalue())
    assert load(path) is None


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, small = tmp_path / "a.npz", minimal_of(SMALL, NATIVE[0])
    save(small, path)
    before = path.read_bytes()

    def full(*_args: object, **_arrays: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        save(small, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_table_has_one_form() -> None:
    """Whatever the numbers of its states and classes were."""
    to = np.array([[1, 2, -1], [2, 1, -1], [0, 0, -1], [3, 3, 3]], np.int32)
    class_of = np.array([0, 1] * 50 + [2] * 156, np.uint8)
    accepting = np.array([0, 0, 1, 1], np.uint8)
    wanted = Table.of(to, class_of, accepting)
    assert wanted.states == 3, "a state that cannot be reached"
    for states in itertools.permutations([1, 2, 3]):
        for classes in itertools.permutations(range(3)):
            old = np.array([0, *states])
            new = np.append(np.argsort(old), -1)
            moved = np.empty_like(to)
            moved[:, list(classes)] = new[to[old]]
            found = Table.of(moved, np.array(classes, np.uint8)[class_of], accepting[old])
            assert np.array_equal(found.to, wanted.to)
            assert np.array_equal(found.class_of, wanted.class_of)
            assert np.array_equal(found.accepting, wanted.accepting)
