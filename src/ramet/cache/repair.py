"""Puts a broken cache right, so that a bug costs recomputation and not the process.

Knows which parts of a broken tree can still be believed: edges and tails whose slots nobody else
claims. What is in doubt is forgotten, because a wrong key or value would be read silently. Refuses to
guess how it came to this; the report says what was wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ramet.cache.audit import may_end, violations, walk
from ramet.cache.buffer import IntArray
from ramet.cache.lease import Lease
from ramet.cache.node import Key, Node
from ramet.cache.tree import RadixTree

__all__ = ["RepairReport", "repair"]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """`violations`: what `audit` found before. `shortened`: leases that lost tokens, whose requests
    must compute from `num_computed` on again. `num_forgotten_tokens`: what the tree lost."""

    violations: tuple[str, ...]
    shortened: tuple[Lease, ...]
    num_forgotten_tokens: int


def repair(tree: RadixTree, leases: Iterable[Lease]) -> RepairReport:
    """Rebuild pins, sums, the eviction queue and the free list from the nodes and from `leases`, which
    are those that somebody still means to close; the tree's other ones are closed.

    A running step goes on, but what it has published so far is forgotten. Does nothing to a cache
    without violations.
    """
    leases = list(dict.fromkeys(leases))
    found = violations(tree, leases)
    held = [lease for lease in leases if not lease.closed]
    if not found:
        return RepairReport((), (), 0)
    for lease in set(tree.leases).difference(held):
        lease.closed = True
    lengths = {lease: (lease.num_published, len(lease)) for lease in held}
    sound = _sound_slots(tree, held)
    before = sum(len(node) for node in walk(tree))
    alive = _rebuild(tree, sound)
    for lease in held:
        _put_back(tree, lease, lengths[lease][0], alive, sound)
    tree.recount(held)
    return RepairReport(
        tuple(found),
        tuple(lease for lease in held if len(lease) < lengths[lease][1]),
        before - tree.num_tree_tokens,
    )


class _Sound:
    """The slots that exist and have exactly one owner."""

    def __init__(self, num_slots: int, claims: list[IntArray]) -> None:
        times = np.zeros(num_slots + 1, np.int64)  # the last one stands for all that do not exist
        for slots in claims:
            np.add.at(times, self._clip(slots, num_slots), 1)
        times[num_slots] = 2
        self._num_slots = num_slots
        self._is_sound = times == 1

    def leading(self, slots: IntArray) -> int:
        """How many of the first ones are sound."""
        unsound = ~self._is_sound[self._clip(slots, self._num_slots)]
        return int(unsound.argmax()) if unsound.any() else slots.size

    @staticmethod
    def _clip(slots: IntArray, num_slots: int) -> IntArray:
        return np.where((slots < 0) | (slots > num_slots), num_slots, slots)


def _sound_slots(tree: RadixTree, held: list[Lease]) -> _Sound:
    owned = [node.slots for node in walk(tree)] + [lease.tail for lease in held]
    # A slot that is also free may have been written by a third one meanwhile.
    return _Sound(tree.pool.num_slots, [tree.pool.free_slots, *owned])


def _rebuild(tree: RadixTree, sound: _Sound) -> set[int]:
    """Cut every node where it is in doubt; returns the ids of those that stay."""
    alive: set[int] = set()
    rest = list(tree.roots.values())
    while rest:
        node = rest.pop()
        alive.add(id(node))
        children, node.children = node.children, {}
        for key, child in children.items():
            length = min(child.committed, child.tokens.size, sound.leading(child.slots))
            if length > 0 and _follows(node, key, child):
                if length < max(child.tokens.size, child.slots.size):
                    child.cut(length)  # what hangs below does not follow any more
                child.hang(node)
                rest.append(child)
    return alive


def _follows(node: Node, key: Key, child: Node) -> bool:
    """Whether the tokens that the child was computed behind are those above `node` and its own, and the
    salt is `node`'s or begins here."""
    return (
        child.parent is node
        and child.depth == node.end
        and child.key == key
        and (child.salt == node.salt or not node.salt)
    )


def _put_back(
    tree: RadixTree, lease: Lease, published: int, alive: set[int], sound: _Sound
) -> None:
    """Let the lease end at the last node of its path that can be believed."""
    node: Node | None = lease.node
    while node is not None and not (
        id(node) in alive and may_end(lease.scope, node) and _leads_to(node, lease.slots)
    ):
        node = node.parent
    if node is None:
        node = tree.root(lease.scope)
    length = node.end
    if length == published:
        length += sound.leading(lease.slots[published:])
    lease.reset(node, length)


def _leads_to(node: Node, slots: IntArray) -> bool:
    path = np.concatenate([above.slots for above in node.path()])
    return np.array_equal(path, slots[: path.size])
