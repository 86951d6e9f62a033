"""The prefix tree as plain data, for a page that shows it live.

Knows which nodes are worth showing where there are too many: those that leases hold, then the most recently
used ones. A node is never used later than what is above it, so the ancestors of a shown node are shown.
Runs between two steps on the engine's thread (`EngineHost.call`), so its time is bounded by the number of
nodes that are shown, whatever the size of the tree. Changes nothing, and refuses to know how it is drawn.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ramet.cache.node import Node
from ramet.cache.tree import RadixTree
from ramet.engine.loop import EngineCore

__all__ = ["tree_picture"]

LABEL_TOKENS = 10


def tree_picture(
    core: EngineCore,
    *,
    most_nodes: int = 300,
    texts: Callable[[list[int]], str] | None = None,
) -> dict[str, Any]:
    """What the cache holds now, as dictionaries, lists, texts and numbers.

    `num_slots`, `num_free`, `num_tree_tokens`, `num_pinned_tokens`, `num_nodes` count all of it; `version`
    changes whenever the set of held prefixes does. `nodes`, parents before children, have
    - `id`: a number, and `parent`: the id of the node above, None at the top. A node keeps its id while it
      lives; where an edge splits, the lower part keeps it, where two join, so does the lower one. (After
      the repair of a broken cache all ids are new.)
    - `tokens` of its edge, `depth`: tokens above that, `computed`: tokens whose KV is there (the others
      are computed by the running step);
    - `pins`: the requests that hold it, `age_s`: seconds since the last of them let go, 0 when held;
    - `salt`: "" for what is public, else a name for the salt that tells nothing of it;
    - `label`: what `texts(ids)` makes of the first tokens of the edge ("" without `texts`).
    `shown` is the length of `nodes`, `hidden` sums up the others: {"nodes", "tokens"}.
    """
    tree, now = core.tree, core.clock()
    chosen = list(itertools.islice(_most_used(tree), most_nodes))
    aliases = {salt: core.alias(salt) for salt in {node.salt for node in chosen}}
    nodes = [_entry(node, aliases[node.salt], now, texts) for node in chosen]
    return {
        "version": tree.version,
        "num_slots": core.slots.num_slots,
        "num_free": core.slots.num_free,
        "num_tree_tokens": tree.num_tree_tokens,
        "num_pinned_tokens": tree.num_pinned_tokens,
        "num_nodes": tree.num_nodes,
        "shown": len(nodes),
        "nodes": nodes,
        "hidden": {
            "nodes": tree.num_nodes - len(nodes),
            "tokens": tree.num_tree_tokens - sum(entry["tokens"] for entry in nodes),
        },
    }


def _entry(
    node: Node, salt: str, now: float, texts: Callable[[list[int]], str] | None
) -> dict[str, Any]:
    above = node.parent
    return {
        "id": node.serial,
        "parent": None if above is None or above.parent is None else above.serial,
        "tokens": len(node),
        "depth": node.depth,
        "pins": node.pins,
        "age_s": 0.0 if node.pins else round(max(0.0, now - node.last_use), 3),
        "computed": node.committed,
        "salt": salt,
        "label": "" if texts is None else texts(node.tokens[:LABEL_TOKENS].tolist()),
    }


def _most_used(tree: RadixTree) -> Iterator[Node]:
    """All nodes but roots, parents before children: held ones, then the others by last use, latest first."""
    held: set[Node] = set(tree.roots.values())
    for lease in tree.leases:
        for node in _new_on_path(lease.node, held):
            held.add(node)
            yield node
    heap: list[tuple[float, int, Node, Iterator[Node]]] = []
    for above in held:
        _push(heap, (child for child in _latest_first(above) if child not in held))
    while heap:
        _, _, node, siblings = heapq.heappop(heap)
        yield node
        _push(heap, siblings)
        _push(heap, _latest_first(node))


def _new_on_path(node: Node | None, known: set[Node]) -> list[Node]:
    """The nodes from the root to `node` that are not among `known`, to which with a node all above belong."""
    path: list[Node] = []
    while node is not None and node not in known:
        path.append(node)
        node = node.parent
    path.reverse()
    return path


def _latest_first(node: Node) -> Iterator[Node]:
    return reversed(node.children.values())


def _push(heap: list[tuple[float, int, Node, Iterator[Node]]], siblings: Iterator[Node]) -> None:
    """The next of `siblings`, which are in order of last use."""
    node = next(siblings, None)
    if node is not None:
        heapq.heappush(heap, (-node.last_use, node.serial, node, siblings))
