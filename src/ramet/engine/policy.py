"""In which order waiting requests are admitted.

Knows the waiting requests, their age and how much of each the tree holds. `longest prefix first` is
depth-first order over the tree, which is optimal for one batch (Zheng et al., arXiv 2312.07104,
theorem 3.1), but has no term for age. The rule here: a request is next once it was overtaken by as many
later arrivals as were waiting when it came, or by `max_overtaken` if those were fewer. So whoever came
when n were waiting is admitted at the latest after n + max(n, max_overtaken) others: after twice as many
as first come, first served lets go before it, and after a few where nearly nobody waits. A bound in
proportion to the queue, because where everybody waits long a fixed one is soon reached by all, and what
is left is the order of arrival. Preempted requests resume before anything else, oldest first, and are
not counted.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Literal

from ramet.cache.buffer import common_prefix
from ramet.cache.scope import Scope
from ramet.engine.request import Request
from ramet.kernels.plan import IntArray

__all__ = ["MAX_OVERTAKEN", "POLICIES", "PolicyName", "WaitingQueue"]

PolicyName = Literal["lpm", "fcfs", "random"]
POLICIES: tuple[PolicyName, ...] = ("lpm", "fcfs", "random")

# Where few wait. With 64, first answers for who shares nothing come more than twice as late at light load as
# first come, first served; with 16, a small cache finds 2 % fewer prefixes (`benchmarks/fairness.py`).
MAX_OVERTAKEN = 24

Match = Callable[[Request], int]
"""How many leading tokens of a request the tree holds."""


class WaitingQueue:
    """Waiting requests in order of arrival, and who is next."""

    # Matching costs a memory compare per request, so only so many of the oldest compete for the next place.
    WINDOW = 256

    def __init__(
        self, policy: PolicyName = "lpm", max_overtaken: int = MAX_OVERTAKEN, seed: int = 0
    ) -> None:
        self.policy = policy
        self.max_overtaken = max_overtaken
        self._resumed: list[Request] = []
        self._waiting: list[Request] = []
        self._due: list[Request] = []  # waiting requests that nobody may overtake any more
        self._competing = _Competition()
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return len(self._resumed) + len(self._waiting)

    def requests(self) -> list[Request]:
        return [*self._resumed, *self._waiting]

    def add(self, request: Request) -> None:
        request.max_overtaken = self.patience(len(self))
        self._waiting.append(request)

    def patience(self, num_ahead: int) -> int:
        """How many later arrivals may overtake a request that comes when `num_ahead` are waiting."""
        return max(self.max_overtaken, num_ahead)

    def add_preempted(self, request: Request) -> None:
        bisect.insort(self._resumed, request, key=lambda r: r.arrival)

    def remove(self, request: Request) -> bool:
        if request in self._due:
            self._due.remove(request)
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
                if older.num_overtaken == older.max_overtaken:
                    bisect.insort(self._due, older, key=lambda r: r.arrival)
        self.remove(request)

    def published(self, scope: Scope, tokens: IntArray, start: int) -> None:
        """The tree holds `tokens` now; before, it was sure to hold only the first `start`."""
        self._competing.published(scope, tokens, start)

    def next(self, num_cuts: int, match: Match) -> Request | None:
        """Who is to be admitted next. `num_cuts` counts how often the tree has forgotten something."""
        if self._resumed:
            return self._resumed[0]
        if not self._waiting:
            return None
        oldest = self._waiting[0]
        if self.policy == "fcfs":
            return oldest
        if self._due:
            return self._due[0]
        window = self._waiting[: self.WINDOW]
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

    def published(self, scope: Scope, tokens: IntArray, start: int) -> None:
        for length in [n for n in self._ends if start <= n < len(tokens)]:
            for request in list(self._ends[length].get(int(tokens[length]), ())):
                if length < (stop := request.scope.agrees(scope)):
                    more = common_prefix(tokens[length:stop], request.known[length:])
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
