"""The radix tree: which token prefixes have KV, in which slots, and what is evicted first.

Knows prefixes, pins and ages, one slot per token. Refuses to know requests, tensors and who computes
KV. Whoever wants to hold KV opens a lease (`lease.py`); whatever no lease holds may be evicted.

Nodes split where a lease ends inside an edge, and join again with an only child that the same leases
hold, so that a long generation stays one edge. (After the radix tree of SGLang, arXiv 2312.07104.)

A key may begin with public tokens: those lie below the root of the empty salt, where everybody shares
them, and the key's salt begins at a node of its own below (`scope.py`). Behind it there is no way to
what hangs beside it.

A *step* publishes prefixes before their KV is written, so that later requests of the same batch match
them. `commit_step` says that it was written; `rollback_step` takes them back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ramet.cache.buffer import IntArray, TokenLike, as_tokens
from ramet.cache.lease import Lease
from ramet.cache.node import Node, edges
from ramet.cache.queue import LeafQueue
from ramet.cache.scope import Scope
from ramet.cache.slots import CacheMisuse, OutOfSlots, SlotPool

__all__ = ["RadixTree", "depth_first_key", "path_key"]

_NOTHING = np.empty(0, np.int64)


class RadixTree:
    """Prefixes by salt; keys of different salts share nothing but leading tokens that both call public.

    Those are the first `num_public` of a key with a salt, and all of a key with the salt "".
    `clock` gives the times for least-recently-used eviction (default: a counter); it may stand still.
    `version` increases whenever the set of held prefixes changes, `num_cuts` when one of them is
    forgotten, `shape` when nodes split or join. Counters are in tokens, one slot each.
    """

    def __init__(self, slots: SlotPool, clock: Callable[[], float] | None = None) -> None:
        self.pool = slots
        self.version = 0
        self.num_cuts = 0
        self.num_evicted_tokens = 0
        self.shape = 0
        self.num_tree_tokens = 0
        self.num_pinned_tokens = 0
        self.num_nodes = 0  # without roots
        self.roots: dict[str, Node] = {}
        self.leases: dict[Lease, None] = {}  # the open ones, in order of opening
        self.closing: list[Node] = []  # ends of leases closed in this step, pinned until its end
        self._journal: dict[Node, None] | None = None  # in a step: the nodes with pending tokens
        self.leaves = LeafQueue()
        self._clock = clock if clock is not None else itertools.count(1).__next__
        self._now: float = 0
        self._serials = itertools.count()

    # What is held

    @property
    def num_evictable_tokens(self) -> int:
        return self.num_tree_tokens - self.num_pinned_tokens

    @property
    def in_step(self) -> bool:
        return self._journal is not None

    def match(
        self, tokens: TokenLike, salt: str = "", limit: int | None = None, num_public: int = 0
    ) -> int:
        """How many leading tokens, at most `limit`, are held. Changes nothing."""
        scope = Scope.of(salt, num_public)
        root = self.roots.get(scope.at(0))
        if root is None:
            return 0
        tokens = as_tokens(tokens)
        return sum(shared for _, shared in edges(root, tokens, _stop(tokens, limit), scope))

    def open(
        self, tokens: TokenLike, salt: str = "", limit: int | None = None, num_public: int = 0
    ) -> Lease:
        """A lease on the longest held prefix of `tokens`, at most `limit` of them."""
        tokens, scope = as_tokens(tokens), Scope.of(salt, num_public)
        lease = self.hold(self.root(scope), _NOTHING, scope)
        lease.extend_match(tokens, limit)
        return lease

    def order_key(self, node: Node) -> tuple[int, ...]:
        """`depth_first_key(node)`, remembered until the path to the node changes."""
        shape, key = node.order
        if shape == self.shape:
            return key
        above = () if node.parent is None else self.order_key(node.parent)
        key = (*above, node.serial)
        node.order = (self.shape, key)
        return key

    def nodes(self) -> Iterator[Node]:
        """All nodes, roots too, depth first."""
        rest = list(reversed(self.roots.values()))
        while rest:
            node = rest.pop()
            yield node
            rest.extend(reversed(node.children.values()))

    # Eviction

    def evict(self, n: int) -> int:
        """Free at least `n` slots, or as many as no lease holds; returns how many.

        Leaves first, least recently used first; the last one is cut from its end.
        """
        freed = 0
        while freed < n and (node := self.leaves.pop()) is not None:
            taken = min(len(node), n - freed)
            self._cut(node, len(node) - taken)
            freed += taken
        self.num_evicted_tokens += freed
        return freed

    def flush(self) -> int:
        """Drop all that no lease holds; returns how many tokens that were."""
        return self.evict(self.num_evictable_tokens)

    # Steps

    def begin_step(self) -> None:
        """From now on, leases may publish what this step computes. It must compute all of that, also
        for a lease that is closed before the step ends, because others may have matched it."""
        if self._journal is not None:
            raise CacheMisuse("a step is running; commit it or roll it back first")
        self._journal = {}

    def commit_step(self) -> None:
        """All that was published has its KV now."""
        for node in self._end_step():
            node.committed = len(node)

    def rollback_step(self) -> None:
        """Take back what was published without KV since `begin_step`.

        A lease that ends in it moves up to the last token that has KV, and gives back the slots behind
        that. Leases that end elsewhere keep their tails, whatever was reserved in the step; they are
        the caller's to truncate.
        """
        journal = self._end_step()
        for lease in self.leases:
            lease.retreat()
        for node in sorted(journal, key=lambda node: -node.depth):  # leaves first
            if node.parent is not None and node.pending:
                self._cut(node, node.committed)

    def _end_step(self) -> dict[Node, None]:
        if self._journal is None:
            raise CacheMisuse("no step is running; call begin_step first")
        journal, self._journal = self._journal, None
        closing, self.closing = self.closing, []
        for node in closing:
            self.release(node)
        return journal

    # For leases and `repair` only

    def root(self, scope: Scope) -> Node:
        """Where keys of this scope begin. It goes when nothing is below and no lease holds it."""
        salt = scope.at(0)
        root = self.roots.get(salt)
        if root is None:
            root = Node(next(self._serials), salt, None, _NOTHING, _NOTHING, self._now)
            self.roots[salt] = root
        return root

    def allocate(self, n: int) -> IntArray:
        """`n` slots that nobody owns, after evicting what that takes. Raises `OutOfSlots` and changes
        nothing where even that is not enough."""
        short = n - self.pool.num_free
        if short > self.num_evictable_tokens:
            raise OutOfSlots(n, self.pool.num_free + self.num_evictable_tokens)
        if short > 0:
            self.evict(short)
        return self.pool.alloc(n)

    def hold(self, node: Node, slots: IntArray, scope: Scope) -> Lease:
        """A new lease that ends at `node`; `slots` are those of the path."""
        for above in node.path():
            self._pin(above)
        lease = Lease(self, node, slots, scope)
        self.leases[lease] = None
        return lease

    def forget(self, lease: Lease, end: Node) -> None:
        """A lease that ended at `end` is closed. What the running step published stays pinned until
        the step ends: its rows write their KV all the same."""
        self.leases.pop(lease, None)
        if end.pending:
            self.closing.append(end)
        else:
            self.release(end)

    def follow(
        self, node: Node, tokens: IntArray, limit: int | None, scope: Scope
    ) -> tuple[Node, IntArray]:
        """Move a pin from `node` as far down along `tokens` as they are held; returns its new place
        and the slots in between."""
        gained: list[IntArray] = []
        end = node
        for child, shared in edges(node, tokens, _stop(tokens, limit), scope):
            end = child if shared == len(child) else self._split(child, shared)
            self._pin(end)
            gained.append(end.slots)
        if not gained:
            return node, _NOTHING
        self._settle(node)
        return end, gained[0] if len(gained) == 1 else np.concatenate(gained)

    def attach(
        self, node: Node, tokens: IntArray, slots: IntArray, num_computed: int, scope: Scope
    ) -> Node:
        """Put new tokens below `node`, where a lease ends that moves with them; returns its new place.
        Nothing below `node` has the key of `tokens[0]`. The first `num_computed` have their KV."""
        start = node.end
        public = scope.reach(start, start + tokens.size) - start
        if public < tokens.size:
            node = self._attach(node, tokens[:public], slots[:public], num_computed, "")
            tokens, slots = tokens[public:], slots[public:]
            num_computed = max(0, num_computed - public)
        return self._attach(node, tokens, slots, num_computed, scope.at(node.end))

    def _attach(
        self, node: Node, tokens: IntArray, slots: IntArray, num_computed: int, salt: str
    ) -> Node:
        committed = 0 if node.pending else min(num_computed, tokens.size)
        only_here = node.pins == 1 and not node.children and node.parent is not None
        if only_here and node.salt == salt:
            node.append(tokens, slots)  # nobody else is here: the edge grows
        else:
            node = Node(next(self._serials), salt, node, tokens, slots, node.last_use)
            node.pins = 1
            self.num_nodes += 1
        node.committed += committed
        self._note_pending(node)
        self.num_tree_tokens += tokens.size
        self.num_pinned_tokens += tokens.size
        self.version += 1
        return node

    def retreat(self, node: Node) -> Node:
        """Move a pin from `node` up to the last node with a committed token; returns that."""
        while node.parent is not None and not node.committed:
            self._unpin(node)
            node = node.parent
        return node

    def release(self, node: Node) -> None:
        """A lease that ended at `node` lets go: of all nodes on its path, which were in use until now."""
        self._now = max(self._now, self._clock())
        path = node.path()
        for above in path:
            self._unpin(above)
            above.used(self._now)
        for above in path:  # from the root on, so that joining a chain costs time in its tokens
            self._settle(above)

    def recount(self, leases: Iterable[Lease]) -> None:
        """Derive all that follows from the nodes and from `leases`, the open ones: pins, ages, sums,
        queue and free list. A running step has published nothing."""
        nodes = list(self.nodes())
        for node in nodes:
            node.serial = next(self._serials)
            node.committed, node.pins, node.queued = len(node), 0, False
        for node in reversed(nodes):
            if node.parent is not None:
                node.parent.last_use = max(node.parent.last_use, node.last_use)
        self.leases = dict.fromkeys(leases)
        self.closing = []
        if self._journal is not None:
            self._journal = {}
        self.num_nodes = sum(node.parent is not None for node in nodes)
        self.num_tree_tokens = sum(len(node) for node in nodes)
        self.num_pinned_tokens = 0
        for lease in self.leases:
            for node in lease.node.path():
                self._pin(node)
        self.leaves = LeafQueue()
        for node in nodes:
            self._settle(node)
        owned = [node.slots for node in nodes] + [lease.tail for lease in self.leases]
        self.pool.reset(np.setdiff1d(np.arange(self.pool.num_slots), np.concatenate(owned)))
        self.version += 1
        self.num_cuts += 1
        self.shape += 1

    # Nodes and sums

    def _pin(self, node: Node) -> None:
        if not node.pins:
            self.num_pinned_tokens += len(node)
        node.pins += 1

    def _unpin(self, node: Node) -> None:
        node.pins -= 1
        if not node.pins:
            self.num_pinned_tokens -= len(node)

    def _split(self, node: Node, length: int) -> Node:
        upper = node.split(length, next(self._serials))
        self.num_nodes += 1
        self.shape += 1
        self._note_pending(upper)
        return upper

    def _note_pending(self, node: Node) -> None:
        if self._journal is not None and node.pending:
            self._journal[node] = None

    def _cut(self, node: Node, length: int) -> None:
        """Forget the edge's tokens behind the first `length`; without any left, the node."""
        slots = node.slots[length:]
        self.num_tree_tokens -= slots.size
        if node.pins:
            self.num_pinned_tokens -= slots.size
        self.version += 1
        self.num_cuts += 1
        self.pool.free(slots)
        if length:
            node.cut(length)
            self._settle(node)
        else:
            parent = node.parent
            assert parent is not None
            node.drop()
            self.num_nodes -= 1
            self._settle(parent)

    def _settle(self, node: Node) -> None:
        """After a node lost a pin, a lease's end or a child: join, queue or drop it where that is due."""
        if len(node.children) == 1 and node.parent is not None:
            (child,) = node.children.values()
            # Only where nothing is lost: no lease ends at the node, no salt begins behind it, and both
            # have the same age.
            same = node.pins == child.pins and node.salt == child.salt
            if same and (node.pins or node.last_use == child.last_use):
                child.join()
                self.num_nodes -= 1
                self.shape += 1
        elif node.evictable:
            self.leaves.push(node)
        elif not node.children and not node.pins:
            del self.roots[node.salt]


def depth_first_key(node: Node) -> tuple[int, ...]:
    """Sorting by it puts all nodes at or below any node next to each other. Valid until the tree
    changes."""
    return tuple(above.serial for above in node.path())


def path_key(lease: Lease) -> tuple[int, ...]:
    """`depth_first_key` of where a lease ends."""
    return lease.tree.order_key(lease.node)


def _stop(tokens: IntArray, limit: int | None) -> int:
    return tokens.size if limit is None else min(limit, tokens.size)
