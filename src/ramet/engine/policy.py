"""In which order waiting requests are admitted.

Knows the waiting requests, their age and how much of each the tree holds. `longest prefix first` is
depth-first order over the tree, which is optimal for one batch (Zheng et al., arXiv 2312.07104,
theorem 3.1), but has no term for age. Here a waiting request is overtaken by at most `max_overtaken`
later arrivals; from then on nobody who came later is admitted before it. Preempted requests resume
before anything else, oldest first.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Literal

from ramet.cache.buffer import common_prefix
from ramet.engine.request import Request
from ramet.kernels.plan import IntArray

__all__ = ["POLICIES", "PolicyName", "WaitingQueue"]

PolicyName = Literal["lpm", "fcfs", "random"]
POLICIES: tuple[PolicyName, ...] = ("lpm", "fcfs", "random")

# Matching costs a memory compare per request, so only this many of the oldest compete for the next place.
WINDOW = 256

Match = Callable[[Request], int]
"""How many leading tokens of a request the tree holds."""


class WaitingQueue:
    """Waiting requests in order of arrival, and who is next."""

    def __init__(self, policy: PolicyName = "lpm", max_overtaken: int = 64, seed: int = 0) -> None:
        self.policy = policy
        self.max_overtaken = max_overtaken
        self._resumed: list[Request] = []
        self._waiting: list[Request] = []
        self._competing = _Competition()
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return len(self._resumed) + len(self._waiting)

    def requests(self) -> list[Request]:
        return [*self._resumed, *self._waiting]

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def add_preempted(self, request: Request) -> None:
        bisect.insort(self._resumed, request, key=lambda r: r.arrival)

    def remove(self, request: Request) -> bool:
        for queue in (self._resumed, self._waiting):
            if request in queue:
                queue.remove(request)
                self._competing.remove(request)
                return True
        return False

    def admitted(self, request: Request) -> None:
        """`request` got a place: take it out and count whom it overtook."""
        if request not in self._resumed:
            for older in self._waiting:
                if older.arrival >= request.arrival:
                    break
                older.num_overtaken += 1
        self.remove(request)

    def published(self, salt: str, tokens: IntArray, start: int) -> None:
        """The tree holds `tokens` now; before, it was sure to hold only the first `start`."""
        self._competing.published(salt, tokens, start)

    def next(self, num_cuts: int, match: Match) -> Request | None:
        """Who is to be admitted next. `num_cuts` counts how often the tree has forgotten something."""
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
        return oldest if len(window) == 1 else self._competing.best(window, num_cuts, match)


class _Competition:
    """Which of some requests has the longest match in the tree, the oldest of equals.

    Nobody is matched again because the tree changed: what is known of a request is an upper bound.
    Forgetting leaves the bound true. Publishing raises it for those alone that ended where the published
    tokens go on. Only a bound that has come to the top is checked, by matching again.
    """

    def __init__(self) -> None:
        self._members: set[Request] = set()
        self._heap: list[
            tuple[int, int, Request]
        ] = []  # (-bound, arrival, _); old bounds stay in it
        # By bound and by the token that would make the match longer.
        self._ends: dict[int, dict[int, set[Request]]] = {}

    def best(self, window: Sequence[Request], num_cuts: int, match: Match) -> Request:
        """`window` holds all members that were not removed, and maybe others: they join."""
        for request in itertools.islice(window, len(self._members), None):
            self._members.add(request)
            self._put(request, match(request), num_cuts)
        while True:
            bound, _, request = self._heap[0]
            if request not in self._members or request.match_length != -bound:
                heapq.heappop(self._heap)
            elif request.match_cuts == num_cuts:
                return request
            else:
                self._move(request, match(request), num_cuts)

    def published(self, salt: str, tokens: IntArray, start: int) -> None:
        for length in [n for n in self._ends if start <= n < len(tokens)]:
            for request in list(self._ends[length].get(int(tokens[length]), ())):
                if request.salt == salt:
                    more = common_prefix(tokens[length:], request.known[length:])
                    self._move(request, length + more, -1)

    def remove(self, request: Request) -> None:
        if request in self._members:
            self._members.remove(request)
            self._take(request)
        if not self._members:
            self._heap.clear()

    def _move(self, request: Request, bound: int, num_cuts: int) -> None:
        self._take(request)
        self._put(request, bound, num_cuts)

    def _put(self, request: Request, bound: int, num_cuts: int) -> None:
        request.match_length, request.match_cuts = bound, num_cuts
        heapq.heappush(self._heap, (-bound, request.arrival, request))
        if bound < request.num_known:
            by_token = self._ends.setdefault(bound, {})
            by_token.setdefault(int(request.known[bound]), set()).add(request)

    def _take(self, request: Request) -> None:
        bound = request.match_length
        if bound < request.num_known:
            token = int(request.known[bound])
            by_token = self._ends[bound]
            by_token[token].remove(request)
            if not by_token[token]:
                del by_token[token]
            if not by_token:
                del self._ends[bound]
