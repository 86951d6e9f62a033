"""What the live page shows of an engine, looked up between two of its steps.

Knows the engine's core: tree, leases, requests, counters. Refuses to know viewers, texts and clocks on
walls (`live.py`). A look costs time in what it returns, never in the size of the tree: it walks from the
roots to what is in use and what was used last, and counts the rest.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

import msgspec

from ramet.cache.node import Node
from ramet.cache.tree import RadixTree
from ramet.engine.loop import EngineCore
from ramet.engine.request import Request

__all__ = ["EngineFacts", "NodeFacts", "RequestFacts", "TreeFacts", "look", "look_at_tree"]

MAX_NODES = 300
MAX_REQUESTS = 50
LABEL_TOKENS = 16  # of each edge: enough for a label
_MAX_LOOKED_AT = (
    16  # nodes looked at for each one shown, so that a node of a million children is cheap
)


class NodeFacts(msgspec.Struct, frozen=True, array_like=True):
    """`id` is the node's serial number, or negative for what a running request computed behind the tree
    (its private tail, which the tree gets when the request ends). `depth`: tokens above the edge.
    `last_use` is a time of the tree's own clock. `computed` of the `tokens` have their KV. `first`: ids of
    the edge's first tokens."""

    id: int
    parent: int | None
    tokens: int
    depth: int
    pins: int
    last_use: float
    computed: int
    salt: str
    first: list[int]


class TreeFacts(msgspec.Struct, frozen=True):
    """`nodes`: parents come before their children. `num_nodes` and `num_tokens` count hidden ones, too;
    roots count as nodes. `now`: the latest `last_use` of all nodes."""

    version: int
    num_nodes: int
    num_tokens: int
    now: float
    nodes: list[NodeFacts]


class RequestFacts(msgspec.Struct, frozen=True, array_like=True):
    """`state`: "waiting", "prefill" or "decoding". `seconds` since it arrived."""

    rid: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    seconds: float
    state: str


class EngineFacts(msgspec.Struct, frozen=True):
    """`stats`: `EngineStats.to_dict()`. `requests`: the oldest ones."""

    stats: dict[str, int]
    requests: list[RequestFacts]
    tree: TreeFacts


def look(
    core: EngineCore, max_nodes: int = MAX_NODES, max_requests: int = MAX_REQUESTS
) -> EngineFacts:
    """To be called between two steps, on the engine's thread."""
    requests = core.requests()
    now = core.clock()
    shown = [_request(request, now) for request in itertools.islice(requests, max_requests)]
    return EngineFacts(core.stats().to_dict(), shown, look_at_tree(core.tree, requests, max_nodes))


def look_at_tree(
    tree: RadixTree, requests: Sequence[Request] = (), max_nodes: int = MAX_NODES
) -> TreeFacts:
    """At most `max_nodes` nodes and private tails: what is in use first, then what was used last."""
    nodes = _foremost(tree, max_nodes)
    facts = [_node(node) for node in nodes]
    shown = {node.serial for node in nodes}
    tails = [
        tail
        for request in requests
        if (tail := _tail(request)) is not None and tail.parent in shown
    ][: max(0, max_nodes - len(facts))]
    now = max((root.last_use for root in tree.roots.values()), default=0.0)
    return TreeFacts(
        tree.version,
        tree.num_nodes + len(tree.roots) + len(tails),
        tree.num_tree_tokens + sum(tail.tokens for tail in tails),
        now,
        facts + tails,
    )


def _foremost(tree: RadixTree, max_nodes: int) -> list[Node]:
    """Best first from the roots. A parent is used by whoever uses its children, and not before them, so
    it comes before them here."""
    looked_at = 0
    queue: list[tuple[bool, float, int, Node]] = []
    found: list[Node] = []
    children: list[Node] = list(itertools.islice(reversed(tree.roots.values()), max_nodes))
    while True:
        for node in children:
            heapq.heappush(queue, (not node.pins, -node.last_use, node.serial, node))
        if not queue or len(found) >= max_nodes:
            return found
        node = heapq.heappop(queue)[-1]
        found.append(node)
        room = max(max_nodes, max_nodes * _MAX_LOOKED_AT - looked_at)
        children = list(itertools.islice(reversed(node.children.values()), room))
        looked_at += len(children)


def _node(node: Node) -> NodeFacts:
    return NodeFacts(
        node.serial,
        None if node.parent is None else node.parent.serial,
        len(node),
        node.depth,
        node.pins,
        float(node.last_use),
        node.committed,
        node.salt,
        node.tokens[:LABEL_TOKENS].tolist(),
    )


def _tail(request: Request) -> NodeFacts | None:
    lease = request.lease
    if lease is None or lease.num_reserved <= 0:
        return None
    end = lease.node.end
    return NodeFacts(
        -1 - request.arrival,
        lease.node.serial,
        lease.num_reserved,
        end,
        1,
        float(lease.node.last_use),
        max(0, lease.num_computed - end),
        lease.node.salt,
        request.known[end : end + LABEL_TOKENS].tolist(),
    )


def _request(request: Request, now: float) -> RequestFacts:
    state = "prefill"
    if request.lease is None:
        state = "waiting"
    elif request.prompt_done:
        state = "decoding"
    cached = request.num_cached if request.prompt_done else 0
    return RequestFacts(
        request.rid,
        request.num_prompt,
        cached,
        len(request.output_ids),
        max(0.0, now - request.arrival_time),
        state,
    )
