"""Small caches in few words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ramet.cache import Lease, RadixTree, SlotPool, prefix_hashes
from ramet.cache.buffer import IntArray


class SmallCache:
    """A tree whose fake KV remembers, per slot, for which prefix it was written."""

    def __init__(self, num_slots: int = 64) -> None:
        self.pool = SlotPool(num_slots)
        self.tree = RadixTree(self.pool)
        self.kv = np.zeros(num_slots, np.uint64)

    def kv_prefix(self, slots: IntArray) -> np.typing.NDArray[np.uint64]:
        return self.kv[slots]

    def write(self, lease: Lease, tokens: Sequence[int]) -> None:
        """The KV of all slots of the lease, as a forward pass would write it."""
        self.kv[lease.slots] = prefix_hashes(np.array(tokens, np.int64)[: len(lease)])

    def extend(self, lease: Lease, tokens: Sequence[int]) -> int:
        """Compute and publish the rest of `tokens`; returns how many were adopted."""
        n = len(tokens) - len(lease)
        lease.reserve(n)
        if not self.tree.in_step:
            self.write(lease, tokens)
            lease.advance(n)
        return lease.publish(tokens)

    def put(self, tokens: Sequence[int], salt: str = "", num_public: int = 0) -> Lease:
        """An open lease on all of `tokens`, computed and published."""
        lease = self.tree.open(tokens, salt, num_public=num_public)
        self.extend(lease, tokens)
        return lease

    def keep(self, tokens: Sequence[int], salt: str = "", num_public: int = 0) -> None:
        """`tokens` cached, held by nobody."""
        self.put(tokens, salt, num_public).close()

    def edges(self) -> list[list[int]]:
        """The tokens of all edges, depth first, in order of first tokens, public ones before others."""
        found: list[list[int]] = []
        rest = [root for _, root in sorted(self.tree.roots.items(), reverse=True)]
        while rest:
            node = rest.pop()
            if node.parent is not None:
                found.append(node.tokens.tolist())
            rest += sorted(
                node.children.values(), key=lambda n: (n.tokens.item(0), n.salt), reverse=True
            )
        return found
