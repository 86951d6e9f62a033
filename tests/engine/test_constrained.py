"""Constrained requests in the step loop: every text is one that the constraint has, and the same one
whether forced tokens are taken or asked for, alone or among others, with guesses, preemptions, failing
steps and masks that come late."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ramet.cache.audit import audit
from ramet.constraints.matcher import Mask
from ramet.engine.constrained import Constrained
from ramet.engine.drafts import Drafts
from ramet.engine.loop import EngineCore
from ramet.engine.request import LogprobOptions, Request
from ramet.engine.schedule import Limits
from ramet.engine.simulate import HashRunner, PlainText, VirtualClock, _mix, prefix_hash
from ramet.errors import BackendError, InvalidRequest
from ramet.params import SamplingParams

VOCAB = 40
EOS = 39


class Toy:
    """A random automaton over tokens from which a legal end can always be reached. `slow` states have no
    mask before somebody prepared it, `broken` ones fail."""

    def __init__(self, rng: random.Random, slow: float = 0.0) -> None:
        count = rng.randint(2, 12)
        self.next: list[dict[int, int]] = []
        for state in range(count):
            width = rng.choice([1, 1, 1, 2, 5])
            edges = {rng.randrange(EOS): rng.randrange(count) for _ in range(width)}
            if state < count - 1:
                edges[rng.randrange(EOS)] = state + 1  # a way to the end
            self.next.append(edges)
        self.accepting = [rng.random() < 0.2 for _ in range(count)]
        self.accepting[-1] = True
        if rng.random() < 0.5:
            self.next[-1] = {}
        self.slow = {s for s in range(count) if rng.random() < slow}
        self.broken: set[int] = set()

    def distance(self, state: int) -> int:
        seen, border, steps = {state}, {state}, 0
        while not any(self.accepting[s] for s in border):
            border = {t for s in border for t in self.next[s].values()} - seen
            seen |= border
            steps += 1
        return steps

    def place(self, budget: int, jump: bool = True, steer: bool = True, **how: Any) -> Constrained:
        matcher = ToyMatcher(self)
        return Constrained(
            matcher,
            vocab_size=VOCAB,
            end_ids=frozenset({EOS}),
            budget=budget,
            jump=jump,
            steer=steer,
            **how,
        )


class ToyMatcher:
    def __init__(self, toy: Toy, states: Sequence[int] = (0,)) -> None:
        self.toy, self.states = toy, list(states)
        self.found = set(range(len(toy.next))) - toy.slow

    @property
    def state(self) -> int:
        return self.states[-1]

    @property
    def may_end(self) -> bool:
        return self.toy.accepting[self.state]

    @property
    def done(self) -> bool:
        return self.may_end and not self.toy.next[self.state]

    def mask(self, budget: int | None = None) -> Mask | None:
        if self.state in self.toy.broken:
            raise InvalidRequest("regex", "toy", "is too much")
        if self.state not in self.found:
            return None
        edges = self.toy.next[self.state]
        short = [t for t, s in edges.items() if budget and self.toy.distance(s) < budget]
        return pack(short or edges)

    def prepare(self, budget: int | None = None) -> None:
        del budget
        self.found.add(self.state)

    def accept(self, token_id: int) -> bool:
        if token_id not in self.toy.next[self.state]:
            return False
        self.states.append(self.toy.next[self.state][token_id])
        return True

    def rollback(self, count: int) -> None:
        if count:
            del self.states[-count:]

    def forced(self) -> Sequence[int] | None:
        if self.state not in self.found:
            return None
        found: list[int] = []
        state = self.state
        while len(self.toy.next[state]) == 1 and not self.toy.accepting[state] and len(found) < 9:
            ((token, state),) = self.toy.next[state].items()
            found.append(token)
        return found

    def fork(self) -> ToyMatcher:
        return ToyMatcher(self.toy, self.states)


def pack(tokens: Any) -> Mask:
    bits = np.zeros((VOCAB + 31) // 32 * 32, np.bool_)
    bits[list(tokens)] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)


def alone(prompt: Sequence[int], seed: int, place: Constrained, most: int) -> list[int]:
    """What the request generates with nobody around, forced tokens taken."""
    known, count = list(prompt), 0

    def take(token: int) -> bool:
        nonlocal count
        known.append(token)
        count += 1
        return not place.accept(token) or place.done or count == most

    if place.done:
        return []
    while True:
        forced = place.forced()
        if place.must_jump:
            place.prepare()
            forced = place.forced()
        for token in forced:
            if take(token):
                return known[len(prompt) :]
        if forced:
            continue
        if not place.ready():
            place.prepare()
            assert place.ready()
        bits = np.unpackbits(place.masks[0].view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits)
        token = int(allowed[_mix(prefix_hash(known), seed) % len(allowed)])
        if token == EOS:
            return [*known[len(prompt) :], EOS]
        if take(token):
            return known[len(prompt) :]


class Late:
    """A background that is done when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], None], Callable[[], None]]] = []

    def __call__(self, function: Callable[[], None], then: Callable[[], None]) -> None:
        self.jobs.append((function, then))

    def work(self) -> None:
        while self.jobs:
            function, then = self.jobs.pop()
            function()
            then()


def request_of(
    number: int, prompt: list[int], most: int, seed: int, place: Constrained | None, scored: bool
) -> Request:
    return Request(
        rid=f"r{number}",
        prompt_ids=np.array(prompt, np.int64),
        params=SamplingParams(max_new_tokens=most),
        text=PlainText(),
        seed=seed,
        logprobs=LogprobOptions(output=scored),
        constrained=place,
        stop_token_ids=frozenset({EOS}),
    )


@pytest.mark.parametrize("seed", range(400))
def test_any_schedule_gives_what_the_request_gives_alone(seed: int) -> None:
    rng = random.Random(seed)
    slots = rng.choice([40, 64, 300])
    late = Late() if rng.random() < 0.5 else None
    runner = HashRunner(slots, VOCAB)
    core = EngineCore(
        runner,
        num_slots=slots,
        max_context=slots + 1,
        clock=VirtualClock(),
        limits=Limits(max_step_tokens=rng.choice([2, 8, 64]), max_running=rng.choice([1, 3, 20])),
        audit_every_step=True,
        drafts=Drafts() if rng.random() < 0.6 else None,
        **({"background": late} if late else {}),
    )
    toys = [Toy(rng, slow=0.3 if late else 0.0) for _ in range(rng.choice([1, 3]))]
    system = [rng.randrange(EOS) for _ in range(rng.randint(1, 10))]
    expected: dict[str, list[int] | None] = {}
    requests = []
    for number in range(rng.randint(1, 8)):
        prompt = system + [rng.randrange(EOS) for _ in range(rng.randint(0, 3))]
        most, own = rng.randint(1, 18), rng.randrange(3)
        scored, free = rng.random() < 0.3, rng.random() < 0.2
        toy = rng.choice(toys)
        place = None if free else toy.place(most, not scored)
        requests.append(request_of(number, prompt, most, own, place, scored))
        expected[f"r{number}"] = None if free else alone(prompt, own, toy.place(most), most)
    waiting, steps, fails = list(requests), 0, rng.random() < 0.3
    while waiting or core.has_work:
        if waiting and (rng.random() < 0.4 or not core.has_work):
            core.add(waiting.pop())
        if fails and rng.random() < 0.1:
            runner.fail_next = True
        stepped = core.step()
        if late and (not stepped or rng.random() < 0.3):
            late.work()
        steps += 1
        assert steps < 3000
    for request in requests:
        wanted = expected[request.rid]
        if fails and isinstance(request.error, BackendError):
            continue  # it was alone in a step that was told to fail
        assert request.error is None
        assert wanted is None or request.output_ids == wanted
        if request.logprobs.output:
            assert [s.token_id for s in request.output_scores] == request.output_ids
    audit(core.tree, [])
    assert core.slots.num_free + core.tree.num_tree_tokens == slots


def test_forced_tokens_are_computed_together() -> None:
    toy = Toy(random.Random(1))
    toy.next = [{5: 1}, {6: 2}, {7: 3}, {8: 4, 9: 4}, {}]
    toy.accepting = [False] * 4 + [True]
    core = EngineCore(HashRunner(100, VOCAB), num_slots=100, max_context=101, clock=VirtualClock())
    request = request_of(0, [1, 2], 9, 0, toy.place(9), False)
    core.add(request)
    assert request.output_ids == [5, 6, 7]  # before anything was computed
    while core.has_work:
        core.step()
    assert core.stats().num_steps == 1
    assert core.stats().num_forced_tokens == 3
    assert core.stats().num_generated_tokens == 1
    assert request.output_ids[:3] == [5, 6, 7]
    assert request.output_ids[3] in (8, 9)
    assert request.finish_reason == {"type": "stop", "matched": None}
    assert request.num_prompt_rows == 2
    assert request.constrained is not None
    assert request.constrained.num_forced == 3


def test_nothing_is_left_to_ask() -> None:
    toy = Toy(random.Random(1))
    toy.next, toy.accepting = [{5: 1}, {6: 2}, {}], [False, False, True]
    core = EngineCore(HashRunner(9, VOCAB), num_slots=9, max_context=10, clock=VirtualClock())
    ended: list[Request] = []
    request = request_of(0, [1], 5, 0, toy.place(5), False)
    request.on_update = ended.append
    core.add(request)
    assert ended == [request]
    assert request.output_ids == [5, 6]
    assert not core.has_work


def test_the_budget_ends_a_text_legally_or_says_so() -> None:
    toy = Toy(random.Random(1))
    # a loop that never needs to end, and a way out of three tokens
    toy.next, toy.accepting = [{1: 0, 2: 1}, {3: 2}, {4: 3}, {}], [False] * 3 + [True]
    for most in range(1, 12):
        for steer in (True, False):
            core = EngineCore(
                HashRunner(99, VOCAB), num_slots=99, max_context=100, clock=VirtualClock()
            )
            request = request_of(0, [1], most, 3, toy.place(most, steer=steer), False)
            core.add(request)
            while core.has_work:
                core.step()
            reason = request.finish_reason or {}
            complete = request.output_ids[-3:] == [2, 3, 4]
            assert complete == (reason == {"type": "stop", "matched": None})
            assert reason["type"] == "stop" or reason == {
                "type": "length", "length": most, "incomplete": True
            }  # fmt: skip
            assert complete or not steer or most < 3


def test_a_constraint_beyond_its_limits_ends_its_own_request_only() -> None:
    broken = Toy(random.Random(3))
    broken.next, broken.accepting, broken.broken = [{1: 1, 2: 1}, {3: 1, 4: 1}], [False, True], {1}
    core = EngineCore(HashRunner(99, VOCAB), num_slots=99, max_context=100, clock=VirtualClock())
    bad = request_of(0, [1], 9, 0, broken.place(9), False)
    good = request_of(1, [1], 9, 0, None, False)
    core.add(bad)
    core.add(good)
    while core.has_work:
        core.step()
    assert isinstance(bad.error, InvalidRequest)
    assert (bad.finish_reason or {})["status_code"] == 400
    assert good.error is None
    assert len(good.output_ids) > 0
    audit(core.tree, [])


def test_a_late_mask_delays_nobody_else() -> None:
    toy = Toy(random.Random(5))
    toy.next, toy.accepting = [{1: 0, 2: 1}, {}], [False, True]
    toy.slow = {0}
    late = Late()
    core = EngineCore(
        HashRunner(99, VOCAB),
        num_slots=99,
        max_context=100,
        clock=VirtualClock(),
        audit_every_step=True,
        background=late,
    )
    slow = request_of(0, [1, 2, 3], 9, 0, toy.place(9), False)
    free = request_of(1, [1, 2, 4], 9, 0, None, False)
    core.add(slow)
    core.add(free)
    while not free.finished:
        assert core.step()
    assert slow.num_computed >= 2
    assert not slow.output_ids
    assert not core.step()  # and now there is nothing to do but wait
    late.work()
    while core.has_work:
        core.step()
    assert slow.output_ids[-1] == 2


def test_nobody_spins_while_a_mask_is_looked_for() -> None:
    """Also not where others wait for the only place there is."""
    toy = Toy(random.Random(5))
    toy.next, toy.accepting, toy.slow = [{1: 0, 2: 1}, {}], [False, True], {0}
    late = Late()
    core = EngineCore(
        HashRunner(99, VOCAB),
        num_slots=99,
        max_context=100,
        clock=VirtualClock(),
        limits=Limits(max_running=1),
        background=late,
    )
    requests = [request_of(i, [1, 2, i], 9, i, toy.place(9), False) for i in range(3)]
    for request in requests:
        core.add(request)
    while core.has_work:
        steps = core.stats().num_steps
        while core.step():
            steps += 1
        assert not core.step()
        assert core.stats().num_steps == steps
        late.work()
    assert all(request.output_ids[-1] == 2 for request in requests)


def test_tokens_that_end_a_text_come_where_it_may_end() -> None:
    toy = Toy(random.Random(1))
    toy.next, toy.accepting = [{1: 1, 2: 1}, {3: 0, 4: 0}], [False, True]

    def holds(place: Constrained, token: int) -> bool:
        place.forced()
        assert place.ready()
        return bool(place.masks[0][token >> 5] >> np.uint32(token & 31) & np.uint32(1))

    place = toy.place(9)
    assert not holds(place, EOS)
    place.accept(1)
    assert holds(place, EOS)
    assert holds(place, 3)
    later = toy.place(9, least=5)
    later.accept(1)
    assert not holds(later, EOS)
    # a text token that ends the generation may not cut the text short
    stopping = Constrained(ToyMatcher(toy), vocab_size=VOCAB, end_ids=frozenset({2}), budget=9)
    assert not holds(stopping, 2)
    assert holds(stopping, 1)
    first = toy.place(9, not_first=pack([1]))
    assert not holds(first, 1)
    assert holds(first, 2)
