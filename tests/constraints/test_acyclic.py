"""The smallest automaton of a finite set, against the set itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ramet.constraints import acyclic

words = st.sets(
    st.binary(min_size=1, max_size=5).map(lambda b: bytes(x % 4 for x in b)), min_size=1
)


def language(found: acyclic.Acyclic, state: int = 0) -> set[bytes]:
    texts = {b""} if state == 1 or state in found.ends else set()
    for source, low, high, target in zip(
        found.source, found.low, found.high, found.target, strict=True
    ):
        if source == state:
            rest = language(found, target)
            texts |= {bytes([b]) + text for b in range(low, high + 1) for text in rest}
    return texts


def of(texts: set[bytes]) -> acyclic.Acyclic:
    return acyclic.build([tuple(zip(t, t, strict=True)) for t in sorted(texts)])


@given(words)
def test_it_accepts_the_words_and_no_other(texts: set[bytes]) -> None:
    found = of(texts)
    assert language(found) == texts
    for state, distance in enumerate(found.distance):
        assert distance == min(map(len, language(found, state)))


@given(words)
def test_no_two_states_accept_the_same(texts: set[bytes]) -> None:
    found = of(texts)
    inner = [frozenset(language(found, 2 + i)) for i in range(found.num_inner)]
    assert len(set(inner)) == len(inner)


def test_common_beginnings_and_ends_are_shared() -> None:
    found = of({b"start-%d-end" % i for i in range(10)})
    assert found.num_inner == len(b"start-0-end") - 1
    assert found.shortest == len(b"start-0-end")
