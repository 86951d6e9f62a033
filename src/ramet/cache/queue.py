"""Which leaf was last used longest ago.

Knows ages of nodes. Refuses to know slots, and what happens to the node that it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from ramet.cache.node import Node

__all__ = ["LeafQueue"]


class LeafQueue:
    """A heap with at most one entry per node, which may be out of date: it is older than its node then,
    so it comes up too early, and is put back or forgotten. Ties go to the lower serial."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Node]] = []
        self._sweep_at = 64

    def push(self, node: Node) -> None:
        """`node` has become evictable, or already was."""
        if node.queued:
            return
        node.queued = True
        heappush(self._heap, (node.last_use, node.serial, node))
        if len(self._heap) > self._sweep_at:
            self._sweep()

    def pop(self) -> Node | None:
        """The evictable node that was last used longest ago; None if there is none."""
        while self._heap:
            last_use, _, node = heappop(self._heap)
            node.queued = False
            if node.evictable:
                if node.last_use == last_use:
                    return node
                self.push(node)
        return None

    def nodes(self) -> Iterator[Node]:
        return (entry[2] for entry in self._heap)

    def _sweep(self) -> None:
        """Nodes that left the tree may never come up; without them the heap is no longer than the tree
        is large. Sweeping at every doubling makes it free."""
        self._heap = [entry for entry in self._heap if entry[2].parent is not None]
        heapify(self._heap)
        self._sweep_at = 64 + 2 * len(self._heap)
