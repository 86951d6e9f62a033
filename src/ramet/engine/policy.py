"""In which order waiting requests are admitted.

Knows the waiting requests, their age and how much of each the tree holds. `longest prefix first` is
depth-first order over the tree, which is optimal for one batch (Zheng et al., arXiv 2312.07104,
theorem 3.1), but has no term for age. Here a waiting request is overtaken by at most `max_overtaken`
later arrivals; from then on nobody who came later is admitted before it. Preempted requests resume
before anything else, oldest first.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from ramet.engine.request import Request

__all__ = ["POLICIES", "PolicyName", "WaitingQueue"]

PolicyName = Literal["lpm", "fcfs", "random"]
POLICIES: tuple[PolicyName, ...] = ("lpm", "fcfs", "random")

# Matching costs a tree walk per request, so only this many of the oldest compete for the next place.
WINDOW = 256


class WaitingQueue:
    """Waiting requests in order of arrival, and who is next."""

    def __init__(self, policy: PolicyName = "lpm", max_overtaken: int = 64, seed: int = 0) -> None:
        self.policy = policy
        self.max_overtaken = max_overtaken
        self._resumed: list[Request] = []
        self._waiting: list[Request] = []
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return len(self._resumed) + len(self._waiting)

    def __iter__(self) -> object:
        return iter([*self._resumed, *self._waiting])

    def requests(self) -> list[Request]:
        return [*self._resumed, *self._waiting]

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def add_preempted(self, request: Request) -> None:
        self._resumed.append(request)
        self._resumed.sort(key=lambda r: r.arrival)

    def remove(self, request: Request) -> bool:
        for queue in (self._resumed, self._waiting):
            if request in queue:
                queue.remove(request)
                return True
        return False

    def admitted(self, request: Request) -> None:
        """`request` got a place: take it out and count whom it overtook."""
        if request in self._resumed:
            self._resumed.remove(request)
            return
        for older in self._waiting:
            if older.arrival >= request.arrival:
                break
            older.num_overtaken += 1
        self._waiting.remove(request)

    def refresh(self, version: int, match: Callable[[Request], int]) -> None:
        """Ask the tree again about the competing requests if its contents changed."""
        if self.policy != "lpm":
            return
        for request in self._waiting[:WINDOW]:
            if request.match_version != version:
                request.match_length = match(request)
                request.match_version = version

    def published(self, newcomer: Request, match: Callable[[Request], int]) -> None:
        """`newcomer` was admitted and its tokens are in the tree: those that share more with it than
        with anything before have a longer match now."""
        if self.policy != "lpm":
            return
        tokens = newcomer.known[: newcomer.num_computed]
        for request in self._waiting[:WINDOW]:
            at = request.match_length
            if at < len(tokens) and at < request.num_known and request.known[at] == tokens[at]:
                request.match_length = match(request)

    def next(self) -> Request | None:
        if self._resumed:
            return self._resumed[0]
        if not self._waiting:
            return None
        oldest = self._waiting[0]
        if self.policy == "fcfs" or oldest.num_overtaken >= self.max_overtaken:
            return oldest
        window = self._waiting[:WINDOW]
        if self.policy == "random":
            return self._random.choice(window)
        return max(window, key=lambda r: (r.match_length, -r.arrival))
