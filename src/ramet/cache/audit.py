"""What must hold of tree, pool and leases at any time, as one function that lists what does not.

Knows the truth by walking all of it: the cost is that of the whole tree, so tests call it after every
operation and a service when it is idle. Changes nothing; `repair.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ramet.cache.buffer import IntArray
from ramet.cache.lease import Lease
from ramet.cache.node import Node
from ramet.cache.scope import Scope
from ramet.cache.tree import RadixTree
from ramet.errors import RametError

__all__ = ["AuditError", "PrefixOf", "audit", "prefix_hashes", "violations"]

PrefixOf = Callable[[IntArray], npt.NDArray[Any]]


class AuditError(RametError, RuntimeError):
    """Broken invariants of the cache; `violations` lists each in words."""

    def __init__(self, violations: list[str]) -> None:
        self.violations = violations
        super().__init__("\n".join([f"{len(violations)} broken invariants:", *violations]))


def audit(
    tree: RadixTree,
    leases: Iterable[Lease],
    kv_prefix: PrefixOf | None = None,
    expected: PrefixOf | None = None,
) -> None:
    """Raise `AuditError` with every violation. `leases` are those that somebody still means to close.

    `kv_prefix(slots)` tells, per slot, of which prefix it holds the KV, as a number; `expected(tokens)`
    gives that number for each prefix of `tokens`, the first one being `tokens[:1]` (default:
    `prefix_hashes`). What the running step has yet to compute is not compared.
    """
    found = violations(tree, leases, kv_prefix, expected)
    if found:
        raise AuditError(found)


def prefix_hashes(tokens: IntArray) -> npt.NDArray[np.uint64]:
    """One number per prefix of `tokens`, uint64 [len(tokens)]: what a fake KV stores in its slots.

    A polynomial modulo 2**64 of mixed tokens: good against accidents, not against malice.
    """
    # The offset keeps any real token, negative ones too, from becoming zero, which would add nothing.
    mixed = (tokens.astype(np.uint64) + np.uint64(1 << 62)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    base = np.full(tokens.size, 0xD1342543DE82EF95, np.uint64)
    return np.cumsum(mixed * np.cumprod(base), dtype=np.uint64)


def violations(
    tree: RadixTree,
    leases: Iterable[Lease],
    kv_prefix: PrefixOf | None = None,
    expected: PrefixOf | None = None,
) -> list[str]:
    """All that `audit` would complain about, one line each."""
    leases = list(leases)
    nodes = list(walk(tree))
    found = [*_shape(nodes), *_leases(tree, leases, {id(node) for node in nodes})]
    found += _slots(tree, nodes, leases)
    found += _pins_and_sums(tree, nodes, leases)
    if kv_prefix is not None and not found:
        found += _contents(nodes, kv_prefix, expected or prefix_hashes)
    return found


def walk(tree: RadixTree) -> Iterator[Node]:
    """Every node once, parents first, even where a broken tree leads to it twice."""
    seen: set[int] = set()
    rest = list(tree.roots.values())
    while rest:
        node = rest.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            rest.extend(node.children.values())


def _shape(nodes: list[Node]) -> Iterator[str]:
    serials: dict[int, Node] = {}
    for node in nodes:
        if serials.setdefault(node.serial, node) is not node:
            yield f"{node}: the serial is that of another node"
        if node.tokens.size != node.slots.size:
            yield f"{node}: {node.tokens.size} tokens but {node.slots.size} slots"
        if not 0 <= node.committed <= len(node):
            yield f"{node}: {node.committed} tokens are committed"
        if node.pending and not node.pins:
            yield f"{node}: waits for a step, but nothing pins it"
        for key, child in node.children.items():
            if not len(child):
                yield f"{child}: the edge is empty"
            elif (key[1] if isinstance(key, tuple) else key) != child.tokens.item(0):
                yield f"{child}: under the key {key}, but the edge starts with {child.tokens[0]}"
            elif not isinstance(key, tuple) and child.salt != node.salt:
                yield f"{child}: has another salt than its parent"
            elif isinstance(key, tuple) and (node.salt or key[0] != child.salt or not key[0]):
                yield f"{child}: hangs under the salt of {key}, where none or another begins"
            if child.parent is not node:
                yield f"{child}: the parent is {child.parent}, not {node}"
            if child.depth != node.end:
                yield f"{child}: starts at {child.depth}, the parent ends at {node.end}"
            if child.last_use > node.last_use:
                yield f"{child}: used at {child.last_use}, after its parent ({node.last_use})"
            if node.pending and child.committed:
                yield f"{child}: committed, below tokens that are not"


def _leases(tree: RadixTree, leases: list[Lease], alive: set[int]) -> Iterator[str]:
    for lease in leases:
        if lease.closed:
            yield f"{lease}: closed, but somebody still holds it"
        elif lease not in tree.leases:
            yield f"{lease}: unknown to the tree"
        elif id(lease.node) not in alive:
            yield f"{lease}: ends at {lease.node}, which is not in the tree"
        else:
            path = np.concatenate([node.slots for node in lease.node.path()])
            if not np.array_equal(path, lease.slots[: lease.num_published]):
                yield f"{lease}: its slots are not those of its path"
            if not may_end(lease.scope, lease.node):
                yield f"{lease}: its path is not of its salt"
            if not lease.num_published <= lease.num_computed <= len(lease):
                yield f"{lease}: the lengths are not in order"
    for lease in set(tree.leases).difference(leases):
        yield f"{lease}: open, but nobody holds it"


def may_end(scope: Scope, node: Node) -> bool:
    """Whether every token of the path to `node` is of the salt that a key of this scope has there."""
    return all(
        above.salt == scope.at(above.depth) and scope.reach(above.depth, above.end) == above.end
        for above in node.path()
    )


def _slots(tree: RadixTree, nodes: list[Node], leases: list[Lease]) -> Iterator[str]:
    claims = [("the free list", tree.pool.free_slots)]
    claims += [(str(node), node.slots) for node in nodes]
    claims += [(f"the tail of {lease}", lease.tail) for lease in leases if not lease.closed]
    times = np.zeros(tree.pool.num_slots, np.int64)
    for owner, slots in claims:
        strange = slots[(slots < 0) | (slots >= times.size)]
        if strange.size:
            yield f"{owner}: slots {strange.tolist()} do not exist"
        np.add.at(times, slots[(slots >= 0) & (slots < times.size)], 1)
    lost = np.flatnonzero(times == 0)
    if lost.size:
        yield f"{lost.size} slots are lost: {lost[:16].tolist()}"
    if (times > 1).any():
        for owner, slots in claims:
            shared = [slot for slot in slots.tolist() if 0 <= slot < times.size and times[slot] > 1]
            if shared:
                yield f"{owner}: slots {shared[:16]} have several owners"


def _pins_and_sums(tree: RadixTree, nodes: list[Node], leases: list[Lease]) -> Iterator[str]:
    pins = count_pins([lease.node for lease in leases if not lease.closed] + tree.closing)
    for node in nodes:
        if node.pins != pins.get(id(node), 0):
            yield f"{node}: {pins.get(id(node), 0)} leases hold it"
        if not node.children and not node.pins:
            if node.parent is None:
                yield f"{node}: an empty root that nobody holds"
            elif not node.queued:
                yield f"{node}: evictable, but not in the queue"
    queued = {id(node) for node in tree.leaves.nodes()}
    for node in nodes:
        if node.queued != (id(node) in queued):
            yield f"{node}: the eviction queue and it disagree"
    sums = {
        "num_nodes": sum(node.parent is not None for node in nodes),
        "num_tree_tokens": sum(len(node) for node in nodes),
        "num_pinned_tokens": sum(len(node) for node in nodes if node.pins),
    }
    for name, value in sums.items():
        if getattr(tree, name) != value:
            yield f"{name} is {getattr(tree, name)}, should be {value}"


def count_pins(ends: list[Node]) -> dict[int, int]:
    """How many of `ends` lie at or below each node, by the node's id."""
    pins: dict[int, int] = {}
    for end in ends:
        for node in end.path():
            pins[id(node)] = pins.get(id(node), 0) + 1
    return pins


def _contents(nodes: list[Node], kv_prefix: PrefixOf, expected: PrefixOf) -> Iterator[str]:
    for node in nodes:
        if not node.committed:
            continue
        tokens = np.concatenate([above.tokens for above in node.path()])
        want = expected(tokens)[node.depth : node.depth + node.committed]
        wrong = np.flatnonzero(kv_prefix(node.slots[: node.committed]) != want)
        if wrong.size:
            yield (
                f"{node}: slots {node.slots[wrong[:16]].tolist()} hold the KV of another prefix, "
                f"from position {node.depth + int(wrong[0])} on"
            )
