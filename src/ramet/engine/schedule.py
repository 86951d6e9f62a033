"""Which tokens the next step computes.

Owns the waiting and the running requests and every lease; asks the tree what is computed already, and
hands out a `Batch`. Torch-free, no clock, no model: the simulator drives the same object.

A plan takes requests in turn: match the tree, reserve slots for what this step computes, publish them at
once. The forward pass writes a layer's keys and values before any attention of that layer reads them,
so the next request in turn also matches what this same batch is about to compute.

Nothing is reserved for tokens that do not exist yet. When slots run out the youngest running request is
preempted: its tokens stay in the tree, evictable, and it resumes before anything new starts. The oldest
is never preempted and can evict everybody else's tokens, so it finishes; hence everyone does.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ramet.cache.lease import Lease
from ramet.cache.slots import SlotPool
from ramet.cache.tree import RadixTree, path_key
from ramet.engine.batch import Batch, Segment, Wanted, build_batch
from ramet.engine.drafts import Drafts
from ramet.engine.misses import Misses
from ramet.engine.policy import WaitingQueue
from ramet.engine.request import Request
from ramet.kernels.plan import IntArray

__all__ = ["Limits", "Scheduler"]

# Slots that an admission leaves free per running request, so that the newcomer's first steps do not
# preempt somebody at once.
HEADROOM = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_step_tokens` bounds the rows of a step (decoding rows always fit: one per running request,
    and no more than `max_step_tokens` requests run). `use_cache=False` computes every request on its
    own: the slow twin that sharing is compared with."""

    max_step_tokens: int = 1024
    max_running: int = 256
    use_cache: bool = True


class _Claims:
    """Which slots' tokens are rows of the batch in the making. The table is as long as the pool, so it is
    made once, and only what was marked is cleared."""

    def __init__(self, num_slots: int) -> None:
        self._marked: npt.NDArray[np.bool_] = np.zeros(num_slots, np.bool_)
        self._slots: list[IntArray] = []

    def add(self, slots: IntArray) -> None:
        self._marked[slots] = True
        self._slots.append(slots)

    def lacks(self, slots: IntArray) -> npt.NDArray[np.bool_]:
        """Which of `slots` are not marked."""
        return ~self._marked[slots]

    def clear(self) -> None:
        for slots in self._slots:
            self._marked[slots] = False
        self._slots.clear()


@dataclass(slots=True)
class _Making:
    """A batch in the making."""

    budget: int
    claims: _Claims
    segments: list[Segment] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    planned: list[tuple[Request, int]] = field(default_factory=list)

    def add(
        self, request: Request, start: int, stop: int, *, scratch: bool, slots: IntArray
    ) -> None:
        self.segments.append(Segment(request, start, stop, scratch))
        self.claims.add(slots)
        self.budget -= stop - start


class Scheduler:
    """`plan()` -> the next batch; then exactly one of `commit(batch)` and `rollback(batch)`."""

    def __init__(
        self,
        tree: RadixTree,
        slots: SlotPool,
        queue: WaitingQueue,
        limits: Limits | None = None,
        drafts: Drafts | None = None,
        misses: Misses | None = None,
    ) -> None:
        self.tree, self.slots, self.waiting = tree, slots, queue
        self.drafts = drafts
        self.limits = limits or Limits()
        self.misses = misses or Misses(remember=self.limits.use_cache)
        self.running: list[Request] = []  # in order of arrival
        self.num_preemptions = 0
        self._claims = _Claims(slots.num_slots)
        self._row_of_slot: IntArray = np.empty(slots.num_slots, np.int64)
        self._decoding_before: list[Request] = []
        self._in_order: list[Request] = []
        self._shape_before = -1

    @property
    def scratch_slot(self) -> int:
        return self.slots.num_slots

    # -- the plan --------------------------------------------------------------------------------

    def plan(self) -> Batch | None:
        """The next batch, or None if there is nothing to do now. Slots are reserved and published."""
        if not self.running and not len(self.waiting):
            return None
        self._make_room()
        self.tree.begin_step()
        self._claims.clear()
        making = _Making(self.limits.max_step_tokens, self._claims)
        suspect = next((r for r in self.running if r.alone and not r.parked), None)
        simple = False  # nobody but requests that decode
        if suspect is not None:
            self._continue([suspect], making)
        else:
            decoding, others = self._decoding()
            self._decode(decoding, making)
            simple = not (others or len(self.waiting))
            self._continue([r for r in others if r.num_todo <= 1], making)
            self._continue([r for r in others if r.num_todo > 1], making)
            self._admit(making)
        if not making.planned and any(r.parked for r in self.running):
            self.tree.commit_step()  # nobody can go on before a mask is found
            return None
        if not simple:
            order = {id(r): _place(r) for r, _ in making.planned}
            making.segments.sort(key=lambda s: (order[id(s.request)], s.start))
        return build_batch(
            making.segments, making.wanted, making.planned, self._row_of_slot, self.scratch_slot
        )

    def _make_room(self) -> None:
        """Preempt, youngest first, until every running request can have a slot. The oldest stays."""
        while len(self.running) > max(1, self.slots.num_free + self.tree.num_evictable_tokens):
            self.preempt(self.running[-1])

    def _decoding(self) -> tuple[list[Request], list[Request]]:
        """(those that only decode, in depth-first order; the other running requests)."""
        decoding: list[Request] = []
        others: list[Request] = []
        for request in self.running:
            if not request.parked:
                (decoding if request.is_decoding else others).append(request)
        room = self.slots.num_free + self.tree.num_evictable_tokens
        if room < len(decoding):
            others += decoding[room:]
            del decoding[room:]
        # They stay where they are in the tree, so the order of the last step mostly holds.
        if decoding != self._decoding_before or self._shape_before != self.tree.shape:
            self._decoding_before, self._shape_before = decoding, self.tree.shape
            self._in_order = sorted(decoding, key=_place)
        return self._in_order, others

    def _decode(self, requests: Sequence[Request], making: _Making) -> None:
        """`_take` for requests of which one row is to be computed and sampled: slots for all at once."""
        if not requests:
            return
        if self.drafts is not None and (room := self.drafts.room(len(requests))):
            self._decode_with_guesses(requests, room, self.drafts, making)
            return
        slots = self.tree.allocate(len(requests))
        for request, slot in zip(requests, slots.tolist()):
            lease = request.lease
            if lease is None:
                raise RuntimeError(f"request {request.rid} has no lease")
            held = lease.slots.size
            lease.take(slot)
            stop = held + 1
            making.planned.append((request, held))
            making.segments.append(Segment(request, held, stop, False))
            making.wanted.append(Wanted(request, held, stop, True))
        making.claims.add(slots)
        making.budget -= len(requests)

    def _decode_with_guesses(
        self, requests: Sequence[Request], room: int, drafts: Drafts, making: _Making
    ) -> None:
        """`_decode` with up to `room` guessed tokens behind each request's last one, never in a slot that
        another request of this step needs."""
        free = self.slots.num_free + self.tree.num_evictable_tokens - len(requests)
        for request in requests:
            lease = request.lease
            if lease is None:
                raise RuntimeError(f"request {request.rid} has no lease")
            held = len(lease)
            guess = drafts.propose(request, min(room, free)) if free > 0 else None
            count = 0 if guess is None else guess.size
            free -= count
            slots, stop = lease.reserve(1 + count), held + 1 + count
            making.planned.append((request, held))
            making.segments.append(Segment(request, held, stop, False, guess))
            tokens = () if guess is None else tuple(guess.tolist())
            making.wanted.append(Wanted(request, held, stop, True, tokens))
            making.claims.add(slots)
            making.budget -= 1 + count

    def _continue(self, requests: list[Request], making: _Making) -> None:
        for request in requests:
            if making.budget <= 0:
                return
            self._take(request, making)

    def _admit(self, making: _Making) -> None:
        room = min(self.limits.max_running, self.limits.max_step_tokens)
        if making.budget <= 0 or len(self.running) >= room or not len(self.waiting):
            return
        while making.budget > 0 and len(self.running) < room:
            request = self.waiting.next(self.tree.num_cuts, self._match)
            if request is None or not self._open(request):
                return
            self.waiting.admitted(request)
            if not request.num_preemptions:
                self.misses.admitted(request)
            bisect.insort(self.running, request, key=lambda r: r.arrival)
            self._take(request, making)

    def _match(self, request: Request) -> int:
        if not self.limits.use_cache:
            return 0
        return self.tree.match(request.known, request.salt, num_public=request.num_public)

    def _open(self, request: Request) -> bool:
        """Pin what the tree holds of `request`; False if the rest would not fit beside the others."""
        limit = None if self.limits.use_cache else 0
        lease = self.tree.open(request.known, request.salt, limit, request.num_public)
        need = request.num_known - len(lease)
        if self.running:
            need += sum(HEADROOM + max(0, r.num_todo) for r in self.running)
        if need > self.slots.num_free + self.tree.num_evictable_tokens:
            lease.close()
            return False
        request.lease = lease
        return True

    # -- one request's part of the plan -------------------------------------------------------------

    def _take(self, request: Request, making: _Making) -> None:
        """Give `request` its rows: first those whose KV is there but whose logits are wanted, then
        tokens that nobody has computed."""
        lease = request.lease
        if lease is None:
            raise RuntimeError(f"request {request.rid} has no lease")
        if self.limits.use_cache and not lease.num_reserved:
            lease.extend_match(request.known)
        before = len(lease)
        missing = self._missing(request, lease, making)
        count = self._reserve(request, making.budget - len(missing))
        if count and self.limits.use_cache and before < request.num_prompt:
            # Prompt tokens are published before they are computed; generated ones when they end.
            self._publish(request, lease)
        making.planned.append((request, before))
        cut = None if len(missing) <= making.budget else int(missing[making.budget])
        self._add_again(request, lease, missing[: making.budget], making)
        if count:
            own = lease.slots[before : before + count]
            making.add(request, before, before + count, scratch=False, slots=own)
        self._want(request, lease, making, cut)

    def _missing(self, request: Request, lease: Lease, making: _Making) -> IntArray:
        """Positions whose KV is held and whose logits are wanted, but that are no row of the batch."""
        held = len(lease)
        start = min(request.next_scored - 1, held)
        positions = np.arange(start, min(held, request.num_prompt - 1))
        if request.may_sample and held == request.num_known and held > start:
            positions = np.append(positions[positions < held - 1], held - 1)
        return positions[making.claims.lacks(lease.slots[positions])]

    def _add_again(
        self, request: Request, lease: Lease, positions: IntArray, making: _Making
    ) -> None:
        """Rows whose KV is there already, for their logits."""
        if not len(positions):
            return
        for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
            start, stop = int(run[0]), int(run[-1]) + 1
            making.add(request, start, stop, scratch=True, slots=lease.slots[start:stop])

    def _reserve(self, request: Request, budget: int) -> int:
        """Slots for up to `budget` tokens, or as many as there are. Returns how many."""
        lease = request.lease
        count = min(request.num_todo, budget)
        count = min(count, self.slots.num_free + self.tree.num_evictable_tokens)
        if lease is None or count <= 0:
            return 0
        lease.reserve(count)
        return count

    def _want(self, request: Request, lease: Lease, making: _Making, cut: int | None) -> None:
        """Note the logits that `request` reads this step; rows from position `cut` on did not fit."""
        stop = len(lease) if cut is None else cut
        start = request.next_scored - 1
        scored = min(stop, request.num_prompt - 1)
        if scored > start:
            making.wanted.append(Wanted(request, start, scored, sample=False))
        if request.may_sample and stop == request.num_known:
            guess = self._guess(request, lease, making) if cut is None else ()
            making.wanted.append(Wanted(request, stop - 1, stop + len(guess), True, guess))

    def _guess(self, request: Request, lease: Lease, making: _Making) -> tuple[int, ...]:
        """Rows for guessed tokens behind all that is known, for a request whose own last tokens are in
        the tree (others': `_decode_with_guesses`). The tree may hold the guessed tokens too: if they are
        right, their slots are freed when they are published."""
        if self.drafts is None or not request.output_ids:
            return ()
        free = self.slots.num_free + self.tree.num_evictable_tokens - len(self.running)
        room = min(self.drafts.room(len(self.running)), making.budget, free)
        guess = self.drafts.propose(request, room) if room > 0 else None
        if guess is None:
            return ()
        start = len(lease)
        slots, stop = lease.reserve(guess.size), start + guess.size
        making.segments.append(Segment(request, start, stop, False, guess))
        making.claims.add(slots)
        making.budget -= guess.size
        return tuple(guess.tolist())

    # -- what becomes of a batch --------------------------------------------------------------------

    def commit(self, batch: Batch) -> None:
        """The batch was computed: its slots hold what the tree says."""
        for request, _ in batch.planned:
            if request.lease is not None:
                request.lease.advance_all()
            request.alone = False
        self._count_prompt_rows(batch)
        self.tree.commit_step()

    def rollback(self, batch: Batch) -> list[Request]:
        """The batch failed: take back what it published. Returns the requests that were in it; each
        runs its next step without neighbours, so that only the one at fault fails."""
        self.tree.rollback_step()
        for request, before in batch.planned:
            if request.lease is not None:
                request.lease.truncate(min(before, len(request.lease)))
            request.alone = True
        return [request for request, _ in batch.planned]

    def _count_prompt_rows(self, batch: Batch) -> None:
        for segment in batch.segments:
            request = segment.request
            if not request.prompt_done and request.num_preemptions == 0:
                stop = min(segment.stop, request.num_prompt)
                request.num_prompt_rows += max(0, stop - segment.start)
                if not segment.scratch and stop > segment.start:
                    self.misses.computed(request, segment.start, stop)

    # -- coming and going ------------------------------------------------------------------------

    def preempt(self, request: Request) -> None:
        """Take the slots of a running request; what it computed stays in the tree, evictable."""
        self._release(request)
        self.running.remove(request)
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.add_preempted(request)

    def remove(self, request: Request) -> None:
        """The request ended, in whatever way: it owns nothing any more."""
        self._release(request)
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)

    def forget(self, request: Request) -> None:
        """`remove` where that failed: its lease is nobody's, for the repair to find."""
        request.lease = None
        if request in self.running:
            self.running.remove(request)
        self.waiting.remove(request)

    def _release(self, request: Request) -> None:
        lease, request.lease = request.lease, None
        if lease is None:
            return
        if len(lease) > request.num_known:  # it ended within a guess
            lease.truncate(request.num_known)
        if self.limits.use_cache and lease.num_reserved:
            self._publish(request, lease)
        lease.close()

    def _publish(self, request: Request, lease: Lease) -> None:
        """Put what the lease has into the tree, and tell those who wait and may share it."""
        start, tokens = lease.num_published, request.known[: len(lease)]
        lease.publish(tokens)
        self.waiting.published(request.scope, tokens, start)

    def open_leases(self) -> list[Lease]:
        return [r.lease for r in self.running if r.lease is not None]


def _place(request: Request) -> tuple[tuple[int, ...], int]:
    """By which requests are sorted in depth-first order."""
    if request.lease is None:
        raise RuntimeError(f"request {request.rid} has no lease")
    return path_key(request.lease), request.arrival
