"""Smaller trees mean the same."""

from __future__ import annotations

import pytest

from ramet.constraints.nodes import EMPTY, NOTHING, Chars, Choice, Node, Repeat, Sequence, Text
from ramet.constraints.simplify import post_order, simplify

A, B, AB = Text("a"), Text("b"), Text("ab")
AZ = Chars(((97, 122),))


def of(node: Node) -> Node:
    return simplify(node, 100).root


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Sequence(()), EMPTY),
        (Choice(()), NOTHING),
        (Chars(()), NOTHING),
        (Chars(((97, 97),)), A),
        (Sequence((A, EMPTY, B)), AB),
        (Sequence((A, Sequence((B,)), AZ)), Sequence((AB, AZ))),
        (Sequence((A, NOTHING)), NOTHING),
        (Choice((NOTHING, A)), A),
        (Choice((A, Choice((A, B)))), Choice((A, B))),
        (Choice((A, EMPTY)), Repeat(A, 0, 1)),
        (Choice((EMPTY, EMPTY)), EMPTY),
        (Choice((A, EMPTY, B)), Repeat(Choice((A, B)), 0, 1)),
        (Choice((Repeat(A, 0, None), EMPTY)), Repeat(A, 0, None)),
        (Choice((A, Chars(((98, 122),)), AB)), Choice((AZ, AB))),
        (Repeat(NOTHING, 0, None), EMPTY),
        (Repeat(NOTHING, 1, 2), NOTHING),
        (Repeat(A, 0, 0), EMPTY),
        (Repeat(EMPTY, 5, None), EMPTY),
        (Repeat(AZ, 1, 1), AZ),
        (Repeat(AB, 3, 3), Text("ababab")),
        (Repeat(Repeat(AZ, 0, None), 2, 5), Repeat(AZ, 0, None)),
        (Repeat(Repeat(AZ, 0, 1), 3, 5), Repeat(AZ, 0, 5)),
        (Repeat(Repeat(AZ, 2, 2), 3, 3), Repeat(AZ, 6, 6)),
        (Repeat(Repeat(AZ, 2, 3), 2, 4), Repeat(AZ, 4, 12)),
        (Repeat(Repeat(AZ, 1, None), 0, None), Repeat(AZ, 0, None)),
        (Repeat(Repeat(AZ, 3, 3), 1, 2), Repeat(Repeat(AZ, 3, 3), 1, 2)),
        (Repeat(Repeat(AZ, 2, None), 0, 2), Repeat(Repeat(AZ, 2, None), 0, 2)),
    ],
)
def test_equal_trees(node: Node, expected: Node) -> None:
    assert of(node) == expected


def test_equal_parts_become_one_object() -> None:
    pair = of(
        Sequence(
            (Choice((Sequence((AZ, A)), AB)), AZ, Choice((AB, Sequence((Chars(AZ.ranges), A)))))
        )
    )
    assert isinstance(pair, Sequence)
    assert pair.parts[0] is pair.parts[2]


def test_shared_parts_are_seen_once() -> None:
    """2 ** 200 paths lead through these trees."""
    choice: Node = Choice((Sequence((AZ, A)), B))
    text: Node = A
    for _ in range(200):
        choice = Choice((choice, choice))
        text = Sequence((text, text))
    assert len(post_order(choice)) < 210
    assert of(choice) == Choice((Sequence((AZ, A)), B))
    assert len(post_order(of(text))) < 210


def test_the_largest_repeat_is_remembered() -> None:
    assert simplify(Repeat(Repeat(A, 2, 7), 3, None), 100).largest_repeat == 7


def test_a_repeat_that_ends_before_it_begins() -> None:
    with pytest.raises(ValueError, match="from 3 to 2"):
        of(Repeat(A, 3, 2))
