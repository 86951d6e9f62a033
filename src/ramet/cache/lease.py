"""Lease: the only way to hold KV.

Knows a pinned place in the tree, a private tail of slots behind it, and the slots of the whole path.
Refuses to know what a request is, and its tokens: the caller gives them.

    root ──────── node │ reserved slots
    0        published │ computed │ len(lease)
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from ramet.cache.buffer import IntArray, IntBuffer, TokenLike, as_tokens
from ramet.cache.node import Node
from ramet.cache.scope import Scope
from ramet.cache.slots import CacheMisuse
from ramet.errors import InvalidRequest

if TYPE_CHECKING:
    from ramet.cache.tree import RadixTree

__all__ = ["Lease"]


class Lease:
    """Opened by `RadixTree.open` and `fork`. `len(lease)` counts all its slots. `scope` says which of the
    path's tokens are public and whose the others are.

    Lengths count tokens from the start of the path. What is published is computed: outside of a step
    because `publish` insists, in a step because the step computes it or takes it back.
    """

    __slots__ = ("_num_tail_computed", "_slots", "closed", "node", "scope", "tree")

    def __init__(self, tree: RadixTree, node: Node, slots: IntArray, scope: Scope) -> None:
        self.tree = tree
        self.node = node
        self.scope = scope
        self.closed = False
        self._slots = IntBuffer(slots)
        self._num_tail_computed = 0

    def __len__(self) -> int:
        return self._slots.view.size

    def __bool__(self) -> bool:
        return True  # an empty lease is a lease

    @property
    def slots(self) -> IntArray:
        """The slots of the whole path, int64 [len(lease)], read-only; good until the lease changes."""
        return self._slots.view

    @property
    def num_published(self) -> int:
        return self.node.end

    @property
    def num_computed(self) -> int:
        """Tokens that have KV: the published ones, and what `advance` counted behind them."""
        return self.node.end + self._num_tail_computed

    @property
    def num_reserved(self) -> int:
        """Length of the private tail."""
        return len(self) - self.node.end

    @property
    def tail(self) -> IntArray:
        """The slots of the private tail, read-only."""
        return self._slots.view[self.node.end :]

    def extend_match(self, tokens: TokenLike, limit: int | None = None) -> int:
        """Follow the tree further along `tokens` (from the start of the path, at most the first
        `limit`): others may have published them meanwhile. Returns how many tokens that gained.
        Raises `CacheMisuse` while there is a private tail."""
        self._check_published("extend_match")
        self.node, gained = self.tree.follow(self.node, as_tokens(tokens), limit, self.scope)
        if gained.size:
            self._slots.append(gained)
        return gained.size

    def reserve(self, n: int) -> IntArray:
        """`n` new slots at the end of the private tail; returns them. Evicts what no lease holds where
        the pool is short; raises `OutOfSlots` and changes nothing where that is not enough."""
        self._check_open("reserve")
        slots = self.tree.allocate(n)
        self._slots.append(slots)
        return slots

    def take(self, slot: int) -> None:
        """One more slot at the end of the private tail, from `RadixTree.allocate`: `reserve(1)` for
        who reserves for many leases at once."""
        self._slots.push(slot)

    def advance_all(self) -> None:
        """All reserved slots hold KV now."""
        self._num_tail_computed = self._slots.view.size - self.node.end

    def advance(self, n: int) -> None:
        """The next `n` reserved slots hold KV now."""
        self._check_open("advance")
        if not 0 <= n <= len(self) - self.num_computed:
            raise InvalidRequest(
                "n", n, f"is not between 0 and {len(self) - self.num_computed}, what is reserved"
            )
        self._num_tail_computed += n

    def publish(self, tokens: TokenLike) -> int:
        """Move the private tail into the tree; `tokens` are those of the whole path.

        Where the tree holds some of them already, the lease adopts the tree's slots and frees its own;
        it returns how many. Read `slots` again afterwards. In a step, tokens may be published that the
        step will compute, also where it has adopted their slots: equal rows write equal KV. Outside of
        a step all must be computed.
        """
        self._check_open("publish")
        tokens = as_tokens(tokens)
        self._check_publishable(tokens.size)
        start, num_computed = self.num_published, self.num_computed
        own = self._slots.view[start:].copy()
        self.node, adopted = self.tree.follow(self.node, tokens, None, self.scope)
        if adopted.size:
            self._slots.write(start, adopted)
            self.tree.pool.free(own[: adopted.size])
        new = start + adopted.size
        if new < tokens.size:
            self.node = self.tree.attach(
                self.node,
                tokens[new:],
                own[adopted.size :],
                max(0, num_computed - new),
                self.scope,
            )
        self._num_tail_computed = 0
        return adopted.size

    def fork(self) -> Lease:
        """Another lease at the same place. Raises `CacheMisuse` while there is a private tail."""
        self._check_published("fork")
        return self.tree.hold(self.node, self._slots.view, self.scope)

    def truncate(self, length: int) -> None:
        """Give back the private tail behind `length`. What is published stays."""
        self._check_open("truncate")
        if not self.num_published <= length <= len(self):
            raise InvalidRequest(
                "length", length, f"is not between {self.num_published} (published) and {len(self)}"
            )
        self._give_back(length)

    def close(self) -> None:
        """Give back the tail and let go of the path. Legal at any time; a second time does nothing."""
        if self.closed:
            return
        self.closed = True
        self._give_back(self.num_published)
        end, self.node = self.node, self.node.path()[0]
        self._slots.cut(0)
        self.tree.forget(self, end)

    def retreat(self) -> None:
        """For `RadixTree.rollback_step`: leave what this step published, and what lies behind it."""
        node = self.tree.retreat(self.node)
        if node is not self.node or node.pending:
            self._give_back(self.num_published)
            self.node = node
            self._slots.cut(node.depth + node.committed)

    def reset(self, node: Node, length: int) -> None:
        """For `repair`: end at `node`, with a tail up to `length`, and free nothing."""
        self.node = node
        self._slots.cut(length)
        self._num_tail_computed = min(self._num_tail_computed, length - node.end)

    def _give_back(self, length: int) -> None:
        self.tree.pool.free(self._slots.view[length:])
        self._slots.cut(length)
        self._num_tail_computed = min(self._num_tail_computed, length - self.num_published)

    def _check_publishable(self, num_tokens: int) -> None:
        if num_tokens != len(self):
            raise InvalidRequest(
                "len(tokens)", num_tokens, f"is not the length of the lease, {len(self)}"
            )
        missing = len(self) - self.num_computed
        if missing and not self.tree.in_step:
            raise CacheMisuse(
                f"publish: {missing} tokens are not computed; advance or truncate first, or publish "
                "in a step"
            )

    def _check_open(self, operation: str) -> None:
        if self.closed:
            raise CacheMisuse(f"{operation}: the lease is closed; open another")

    def _check_published(self, operation: str) -> None:
        self._check_open(operation)
        if self.num_reserved:
            raise CacheMisuse(
                f"{operation}: {self.num_reserved} slots are private; publish or truncate them first"
            )

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "Lease(closed)"
        return (
            f"Lease({len(self)} tokens, {self.num_published} published, "
            f"{self.num_computed} computed)"
        )
