"""Engine facts as the events of `GET /live`: what one viewer of the live page is told, and when.

Pure functions; the time and the rates (`live_rates.py`) are passed in. Refuses to know sockets, the engine
(`live_facts.py` looks it up) and who may see what: the server passes in what a salt looks like to this
viewer, and whether its texts are for these eyes.

    stream = LiveStream(hello, history.samples(since))     one per viewer
    while the viewer is there, every MIN_SECONDS:
        for frame in stream.frames(now, state, tree): send it
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ramet.server.live_facts import EngineFacts, NodeFacts, TreeFacts

__all__ = [
    "COUNTERS",
    "IDLE_SECONDS",
    "MIN_SECONDS",
    "Ages",
    "LiveStream",
    "Sight",
    "comment",
    "frame",
    "state_event",
    "tree_event",
]

MIN_SECONDS = 0.5  # between two events of one kind
IDLE_SECONDS = 10.0  # a viewer hears something at least so often
LABEL_CHARS = 60
RID_CHARS = 12

COUNTERS = (
    "num_prompt_tokens",
    "num_cached_tokens",
    "num_generated_tokens",
    "num_evicted_tokens",
    "num_preemptions",
    "num_steps",
    "num_draft_tokens",
    "num_accepted_tokens",
    "num_forced_tokens",
    "num_missed_never_seen",
    "num_missed_evicted",
    "num_missed_salt",
    "num_missed_boundary",
)


def frame(event: str, value: Any) -> bytes:
    """One server-sent event. JSON has no raw line breaks, so one `data` line holds it."""
    return b"event: %s\ndata: %s\n\n" % (event.encode("ascii"), msgspec.json.encode(value))


def comment(text: str = "") -> bytes:
    """A line that clients skip: the connection lives."""
    return b": %s\n\n" % text.encode("ascii")


@dataclass(frozen=True, slots=True)
class Sight:
    """What a viewer sees of salts and texts. `mark` is the short name of a salt's tenant ("" for none),
    `may_read` whether texts under that salt are for this viewer, `text` the text of token ids."""

    text: Callable[[Sequence[int]], str]
    mark: Callable[[str], str]
    may_read: Callable[[str], bool]


class Ages:
    """How long ago the times of the tree's clock were, which need not be seconds (by default it counts).

    `age(last_use)` in seconds is exact to the distance between two looks. What was last used before the
    first look is taken to be as old as that look."""

    def __init__(self, max_looks: int = 4096) -> None:
        self._looks: deque[tuple[float, float]] = deque(maxlen=max_looks)

    def looked(self, tree_now: float, now: float) -> None:
        """At `now`, in seconds, the latest use of any node was at `tree_now`."""
        if self._looks and tree_now < self._looks[-1][0]:
            self._looks.clear()  # another engine
        if not self._looks or tree_now > self._looks[-1][0]:
            self._looks.append((tree_now, now))

    def age(self, last_use: float, now: float) -> float:
        index = bisect.bisect_left(self._looks, (last_use, float("-inf")))
        return max(0.0, now - self._looks[index][1]) if index < len(self._looks) else 0.0


def tree_event(facts: TreeFacts, ages: Ages, now: float, sight: Sight) -> dict[str, Any]:
    ages.looked(facts.now, now)
    shown = sum(node.tokens for node in facts.nodes)
    hidden = {
        "nodes": max(0, facts.num_nodes - len(facts.nodes)),
        "tokens": max(0, facts.num_tokens - shown),
    }
    nodes = [_node(node, ages, now, sight) for node in facts.nodes]
    return {
        "version": facts.version,
        "num_nodes": facts.num_nodes,
        "hidden": hidden,
        "nodes": nodes,
    }


def _node(node: NodeFacts, ages: Ages, now: float, sight: Sight) -> dict[str, Any]:
    return {
        "id": node.id,
        "parent": node.parent,
        "tokens": node.tokens,
        "depth": node.depth,
        "pins": node.pins,
        "age_s": 0.0 if node.pins else round(ages.age(node.last_use, now), 1),
        "computed": node.computed,
        "salt": sight.mark(node.salt),
        "label": _label(sight.text(node.first)) if sight.may_read(node.salt) else "",
    }


def _label(text: str) -> str:
    """One line without what cannot be shown: a character may be cut at either end of an edge."""
    shown = "".join(c if c.isprintable() else " " for c in text.replace("\ufffd", ""))
    return " ".join(shown.split())[:LABEL_CHARS]


def state_event(
    facts: EngineFacts | None,
    now: float,
    rates: Mapping[str, float | None],
    engine: str = "ready",
    kind: Callable[[str], str] = lambda _rid: "generate",
    name: Callable[[str], str] = lambda rid: rid[:RID_CHARS],
) -> dict[str, Any]:
    """`engine`: "ready", "starting" or "stopped" (then there are no facts). `kind` says what a request id
    came as, `name` what the viewer reads of it. A counter that this engine does not have is left out."""
    stats = {} if facts is None else facts.stats
    requests = () if facts is None else facts.requests
    return {
        "time": round(now, 3),
        "engine": engine,
        "running": [
            {
                "id": name(request.rid),
                "kind": kind(request.rid),
                "prompt_tokens": request.prompt_tokens,
                "cached_tokens": request.cached_tokens,
                "output_tokens": request.output_tokens,
                "seconds": round(request.seconds, 1),
                "state": request.state,
            }
            for request in requests
        ],
        "num_running": stats.get("num_running", 0),
        "num_waiting": stats.get("num_waiting", 0),
        "counters": {counter: stats[counter] for counter in COUNTERS if counter in stats},
        "slots": {
            "total": stats.get("num_slots", 0),
            "free": stats.get("num_free_slots", 0),
            "tree": stats.get("num_tree_tokens", 0),
            "pinned": stats.get("num_pinned_tokens", 0),
        },
        "rates": dict(rates),
    }


class LiveStream:
    """What one viewer was told, so that it hears what is new and no more."""

    def __init__(
        self, hello: Mapping[str, Any], history: Iterable[Sequence[float | None]] = ()
    ) -> None:
        self._first = [frame("hello", hello), frame("history", {"samples": list(history)})]
        self._state: Any = None
        self._tree: Any = None
        self._told_at = float("-inf")

    def frames(
        self, now: float, state: Mapping[str, Any], tree: Mapping[str, Any] | None
    ) -> list[bytes]:
        """To be sent now; often nothing. `tree` is None where it is not known (the engine starts)."""
        frames, self._first = self._first, []
        if (news := {**state, "time": None}) != self._state:
            self._state = news
            frames.append(frame("state", state))
        if tree is not None and (news := _timeless_tree(tree)) != self._tree:
            self._tree = news
            frames.append(frame("tree", tree))
        if not frames and now - self._told_at >= IDLE_SECONDS:
            frames.append(comment())
        if frames:
            self._told_at = now
        return frames


def _timeless_tree(tree: Mapping[str, Any]) -> Any:
    """The tree without what changes while nothing happens."""
    return [{**node, "age_s": None} for node in tree["nodes"]], tree["hidden"]
