"""What is forced, against simulation; and the compressed graph, against the whole one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constraints.languages import Meaning, automaton_of, byte, nfas, text, texts

from ramet.constraints import compiled
from ramet.constraints.automaton import Automaton
from ramet.constraints.compressed import Edge, Graph, compress, forced_bytes, graph
from ramet.constraints.nfa import Nfa

NATIVE = [True, False] if compiled.why_not() is None else [False]
both = pytest.mark.parametrize("native", NATIVE, ids=lambda native: "C++" if native else "Python")

TEMPLATE = (
    "then", text('{"name": "'), ("times", byte("a", "z"), 1, None), text('", "age": '),
    ("times", byte("0", "9"), 1, 2), text("}"),
)  # fmt: skip


def forced_by(meaning: Meaning, before: bytes, most: int) -> bytes:
    found = b""
    while len(found) < most and not meaning.accepts(before + found):
        ways = [b for b in range(256) if meaning.alive(before + found + bytes([b]))]
        if len(ways) != 1:
            break
        found += bytes(ways)
    return found


def forced(automaton: Automaton, state: int, most: int) -> tuple[bytes, int]:
    found = forced_bytes(automaton, state, most)
    assert found is not None
    return found


@both
@settings(max_examples=60)
@given(nfas, texts, st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_what_is_forced(native: bool, nfa: Nfa, before: bytes, mosts: list[int]) -> None:
    """In any order of questions: what one has found serves the next."""
    automaton, meaning = Automaton(nfa, native=native), Meaning(nfa)
    state = automaton.step(automaton.start, before)
    if state < 0:
        return
    for most in mosts:
        data, after = forced(automaton, state, most)
        assert data == forced_by(meaning, before, most)
        assert after == automaton.step(state, data)


@both
def test_runs_stop_where_there_is_a_choice(native: bool) -> None:
    automaton = Automaton(automaton_of(TEMPLATE), native=native)
    data, state = forced(automaton, automaton.start, 1000)
    assert data == b'{"name": "'
    assert forced(automaton, state, 1000) == (b"", state)
    state = automaton.step(state, b'bo"')
    assert forced(automaton, state, 1000)[0] == b', "age": '
    assert forced(automaton, state, 3)[0] == b', "'
    state = automaton.step(state, b', "age": 12')
    data, end = forced(automaton, state, 1000)
    assert data == b"}"
    assert automaton.accepting(end)


@both
def test_where_the_text_may_end_nothing_is_forced(native: bool) -> None:
    automaton = Automaton(
        automaton_of(("then", text("ab"), ("times", text("cd"), 0, 1))), native=native
    )
    data, state = forced(automaton, automaton.start, 10)
    assert data == b"ab"
    assert forced(automaton, state, 10) == (b"", state)
    assert forced(automaton, automaton.step(state, b"c"), 10)[0] == b"d"


@both
def test_the_shortest_way(native: bool) -> None:
    automaton = Automaton(automaton_of(TEMPLATE), native=native)
    data, states = automaton.shortest(automaton.start) or (b"", [])
    assert len(data) == len(states) == automaton.distance(automaton.start)
    at = automaton.start
    for i, state in enumerate(states):
        assert automaton.distance(state) == automaton.distance(at) - 1
        at = automaton.step(at, data[i : i + 1])
        assert at == state
    assert automaton.accepting(at)
    assert automaton.shortest(at) == (b"", [])
    other = Automaton(automaton_of(TEMPLATE), native=not native)
    assert (other.shortest(other.start) or (b"", []))[0] == data


@both
def test_long_runs_need_work(native: bool) -> None:
    automaton = Automaton(automaton_of(text("ab" * 5000)), native=native)
    assert forced_bytes(automaton, automaton.start, 10_000, 0) is None
    assert automaton.shortest(automaton.start, 0) is None
    assert forced_bytes(automaton, automaton.start, 10_000) == (
        b"ab" * 5000,
        automaton.step(automaton.start, b"ab" * 5000),
    )


# ---- pictures ------------------------------------------------------------------------------------------


def accepts(drawn: Graph, data: bytes) -> bool:
    """Follow edges and the bytes of their runs. From a state at most one way fits."""
    state = drawn.start
    while data:
        for edge in drawn.edges:
            if edge.source != state:
                continue
            if edge.text and data.startswith(edge.text):
                break
            if any(low <= data[0] <= high for low, high in edge.ranges):
                break
        else:
            return False
        data, state = data[len(edge.text) or 1 :], edge.target
    return state in drawn.accepting


@both
@settings(max_examples=60)
@given(nfas, st.lists(texts, max_size=8))
def test_both_graphs_mean_the_language(native: bool, nfa: Nfa, tries: list[bytes]) -> None:
    meaning = Meaning(nfa)
    whole = graph(Automaton(nfa, native=native), 1000)
    assert whole is not None
    small = compress(whole)
    for data in tries:
        assert accepts(whole, data) == accepts(small, data) == meaning.accepts(data)
    for drawn in (whole, small):
        assert {e.source for e in drawn.edges} | {e.target for e in drawn.edges} <= {*drawn.states}
        assert drawn.start in drawn.states
        assert drawn.accepting <= {*drawn.states}
        assert all((len(e.text) > 1) != bool(e.ranges) for e in drawn.edges)
    # What is left inside no run: nothing more could be merged.
    assert compress(small) == small


@both
def test_the_graphs_of_a_template(native: bool) -> None:
    automaton = Automaton(automaton_of(TEMPLATE), native=native)
    whole = graph(automaton, 100)
    assert whole is not None
    small = compress(whole)
    runs = sorted(edge.text for edge in small.edges if edge.text)
    assert runs == [b'", "age": ', b'{"name": "'] or runs == [b', "age": ', b'{"name": "']
    assert len(small.states) < 9 < len(whole.states)
    letters = ((ord("a"), ord("z")),)
    assert sum(edge.ranges == letters for edge in small.edges) == 2


def test_a_run_is_not_entered_in_its_middle() -> None:
    """xabc | yc: the c belongs to two ways."""
    states, ends = (0, 1, 2, 3, 4), frozenset({4})
    edge = {name: ((ord(name), ord(name)),) for name in "xyabc"}
    whole = Graph(
        0, states, ends,
        (Edge(0, 1, edge["x"]), Edge(0, 3, edge["y"]), Edge(1, 2, edge["a"]),
         Edge(2, 3, edge["b"]), Edge(3, 4, edge["c"])),
    )  # fmt: skip
    small = compress(whole)
    assert small.states == (0, 1, 3, 4)
    assert Edge(1, 3, (), b"ab") in small.edges
    assert Edge(3, 4, edge["c"]) in small.edges


@both
def test_too_large_to_draw(native: bool) -> None:
    automaton = Automaton(automaton_of(text("abcdef")), native=native)
    assert graph(automaton, 6) is None
    assert graph(automaton, 7) is not None
