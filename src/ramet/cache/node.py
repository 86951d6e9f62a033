"""One node of the radix tree, with the edge above it.

Knows its tokens, their slots and its place. Refuses to know pools, leases and policies: `tree.py` keeps
the sums and decides what is split, joined or cut.
"""

from __future__ import annotations

from collections.abc import Iterator

from ramet.cache.buffer import IntArray, IntBuffer, common_prefix
from ramet.cache.scope import Scope

__all__ = ["Key", "Node", "edges"]

Key = int | tuple[str, int]
"""Under what a node hangs: the first token of its edge; where a salt begins, that salt and the token."""


class Node:
    """`tokens` and `slots` (int64, same length) are the edge from `parent`; a root has none.

    `salt`: who alone may share the edge's tokens. It is the parent's, unless that is "" (public): there
    any salt may begin. An edge has one salt.
    `pins`: open leases that end here or below. `last_use`: when a lease last let go of the node; a
    pinned node is in use now, whatever it says. `children`: those that no lease holds are in order of
    last use, the latest at the end. `serial`: unique, in order of creation. `depth`: tokens
    above the edge, `end` with the edge. `order`: the serials of the path, as `RadixTree.order_key` last
    made them for the tree's `shape` of then. `committed`: how many of the edge's tokens have their KV; the
    others were published in the running step. `queued`: has an entry in the `LeafQueue`.
    A node without parent is a root, or no longer in the tree.
    """

    __slots__ = (
        "_slots",
        "_tokens",
        "children",
        "committed",
        "depth",
        "last_use",
        "order",
        "parent",
        "pins",
        "queued",
        "salt",
        "serial",
    )

    def __init__(
        self,
        serial: int,
        salt: str,
        parent: Node | None,
        tokens: IntArray,
        slots: IntArray,
        last_use: float,
    ) -> None:
        self.serial = serial
        self.salt = salt
        self.parent: Node | None = None
        self._tokens = IntBuffer(tokens)
        self._slots = IntBuffer(slots)
        self.depth = 0
        self.children: dict[Key, Node] = {}
        self.committed = 0
        self.pins = 0
        self.last_use = last_use
        self.queued = False
        self.order: tuple[int, tuple[int, ...]] = (-1, ())
        if parent is not None:
            self.hang(parent)

    def __len__(self) -> int:
        return self._tokens.view.size

    def __bool__(self) -> bool:
        return True  # a root has no tokens and is a node all the same

    @property
    def tokens(self) -> IntArray:
        return self._tokens.view

    @property
    def slots(self) -> IntArray:
        return self._slots.view

    @property
    def end(self) -> int:
        return self.depth + self._tokens.view.size

    @property
    def key(self) -> Key:
        """Under which key the parent has this node."""
        token: int = self._tokens.view.item(0)
        parent = self.parent
        return token if parent is None or parent.salt == self.salt else (self.salt, token)

    @property
    def pending(self) -> bool:
        """Whether tokens of the edge still wait for the running step."""
        return self.committed < self._tokens.view.size

    @property
    def evictable(self) -> bool:
        """Whether it is a leaf of the tree that no lease holds."""
        return self.parent is not None and not self.pins and not self.children

    def path(self) -> list[Node]:
        """The nodes from the root to this one."""
        path = [self]
        while path[-1].parent is not None:
            path.append(path[-1].parent)
        path.reverse()
        return path

    def used(self, now: float) -> None:
        """A lease let go of it: the latest of its siblings."""
        self.last_use = now
        if self.parent is not None and len(self):
            siblings, key = self.parent.children, self.key
            if siblings.get(key) is self:
                siblings[key] = siblings.pop(key)

    def append(self, tokens: IntArray, slots: IntArray) -> None:
        self._tokens.append(tokens)
        self._slots.append(slots)

    def cut(self, length: int) -> None:
        self._tokens.cut(length)
        self._slots.cut(length)
        self.committed = min(self.committed, length)

    def split(self, length: int, serial: int) -> Node:
        """Put a new node, which it returns, above this one; it takes the first `length` tokens."""
        assert self.parent is not None
        upper = Node(
            serial,
            self.salt,
            self.parent,
            self.tokens[:length],
            self.slots[:length],
            self.last_use,
        )
        upper.pins = self.pins
        upper.committed = min(length, self.committed)
        # Copies on both sides: a view would keep the memory of the other half alive.
        self._tokens = IntBuffer(self.tokens[length:])
        self._slots = IntBuffer(self.slots[length:])
        self.committed -= upper.committed
        self.hang(upper)
        return upper

    def join(self) -> None:
        """Take over the edge of the parent, whose only child this is, and its place."""
        upper = self.parent
        assert upper is not None
        assert upper.parent is not None
        upper.append(self.tokens, self.slots)
        self._tokens, self._slots = upper._tokens, upper._slots
        self.committed += upper.committed
        self.last_use = upper.last_use
        self.hang(upper.parent)
        upper.parent = None

    def hang(self, parent: Node) -> None:
        """Be the child of `parent` for its key, in the place of any other."""
        self.parent = parent
        self.depth = parent.end
        parent.children[self.key] = self

    def drop(self) -> None:
        """Leave the tree."""
        assert self.parent is not None
        del self.parent.children[self.key]
        self.parent = None

    def __repr__(self) -> str:
        return (
            f"Node({self.serial}, tokens {self.depth}..{self.end}, {len(self.children)} children, "
            f"{self.pins} pins)"
        )


def edges(node: Node, tokens: IntArray, stop: int, scope: Scope) -> Iterator[tuple[Node, int]]:
    """The nodes below `node` along `tokens[node.end:stop]`, each with how many tokens of its edge agree.

    `tokens` starts at the root. Only the last node may agree in part; the caller may split it.
    """
    position = node.end
    while position < stop:
        salt, token = scope.at(position), tokens.item(position)
        child = node.children.get(token if salt == node.salt else (salt, token))
        if child is None:
            return
        shared = common_prefix(child.tokens, tokens[position : scope.reach(position, stop)])
        whole = shared == len(child)
        yield child, shared
        if not whole:
            return
        node = child
        position += shared
