"""The order of admission: who is next, how long anybody waits at most, and what that costs."""

from __future__ import annotations

import math
import random

import hypothesis.strategies as st
import numpy as np
import pytest
from benchmarks.fairness import (
    LEAST_HITS,
    MOST_LATER,
    ORDERS,
    Figures,
    PureOrder,
    Work,
    arrivals,
    serve,
    sustained,
)
from hypothesis import given, settings

from ramet.engine.policy import WaitingQueue
from ramet.engine.request import Request
from ramet.engine.schedule import Limits
from tests.engine.worlds import ask, make_core, run_all

# What happens to a queue: a request comes whose match is so long, one is admitted, one is aborted, or one
# that ran is preempted and resumes at once.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9)),
        st.tuples(st.just("admit"), st.just(0)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("resume"), st.just(0)),
    ),
    max_size=300,
)


class Line:
    """A queue, and who was admitted while whom waited."""

    def __init__(self, queue: WaitingQueue) -> None:
        self.queue = queue
        self.lengths: dict[Request, int] = {}
        self.ahead: dict[Request, int] = {}
        self.before: dict[Request, int] = {}  # admissions since it came

    def add(self, length: int) -> None:
        request = ask([0] * 10)
        request.arrival = len(self.lengths)
        self.lengths[request] = length
        self.ahead[request] = len(self.queue)
        self.before[request] = 0
        self.queue.add(request)

    def admit(self) -> Request | None:
        chosen = self.queue.next(0, self.lengths.__getitem__)
        if chosen is not None:
            self.queue.admitted(chosen)
            for waiting in self.queue.requests():
                self.before[waiting] += 1
        return chosen

    def abort(self, number: int) -> None:
        waiting = self.queue.requests()
        if waiting:
            assert self.queue.remove(waiting[number % len(waiting)])

    def resume(self) -> None:
        """Whoever resumes goes first and counts for nobody."""
        request = self.admit()
        if request is not None:
            self.queue.add_preempted(request)
            overtaken = {r: r.num_overtaken for r in self.queue.requests()}
            assert self.queue.next(0, self.lengths.__getitem__) is request
            self.queue.admitted(request)
            assert overtaken == {r: r.num_overtaken for r in (request, *self.queue.requests())}


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.sampled_from([1, 2, 8]), st.sampled_from(["lpm", "random"]))
def test_nobody_waits_for_more_admissions_than_stated(
    events: list[tuple[str, int]], least: int, policy: str
) -> None:
    line = Line(WaitingQueue(policy, least))  # type: ignore[arg-type]
    for name, number in [*events, *[("admit", 0)] * len(events)]:
        if name in ("add", "abort"):
            getattr(line, name)(number)
        else:
            getattr(line, name)()
    assert not len(line.queue)
    for request, count in line.before.items():
        ahead = line.ahead[request]
        assert count <= ahead + max(ahead, least)
        assert request.num_overtaken <= max(ahead, least)


def test_the_bound_is_reached_and_not_passed() -> None:
    line = Line(WaitingQueue("lpm", 3))
    for _ in range(5):
        line.add(9)
    line.add(0)  # shares nothing; five are ahead
    cold = line.queue.requests()[-1]
    order = []
    while cold in line.queue.requests():
        line.add(9)
        order.append(line.admit())
    assert order[-1] is cold
    assert line.before[cold] == 5 + 5


def test_at_light_load_a_few_may_go_first() -> None:
    line = Line(WaitingQueue("lpm", 3))
    line.add(0)
    cold = line.queue.requests()[0]
    count = 0
    while cold in line.queue.requests():
        line.add(9)
        line.admit()
        count += 1
    assert count == 3 + 1


def test_several_that_waited_enough_go_in_order_of_arrival() -> None:
    line = Line(WaitingQueue("lpm", 2))
    for _ in range(3):
        line.add(0)
    cold = line.queue.requests()
    for _ in range(2):
        line.add(9)
        line.admit()
    for expected in cold:
        line.add(9)
        assert line.admit() is expected


def test_an_aborted_request_that_waited_enough_is_gone() -> None:
    line = Line(WaitingQueue("lpm", 1))
    line.add(0)
    cold = line.queue.requests()[0]
    line.add(9)
    line.admit()
    line.queue.remove(cold)
    line.add(9)
    assert line.admit() is not cold
    assert line.admit() is None


def test_first_come_first_served() -> None:
    line = Line(WaitingQueue("fcfs"))
    for length in (0, 9, 3):
        line.add(length)
    waiting = line.queue.requests()
    assert [line.admit() for _ in waiting] == waiting


@pytest.mark.parametrize("seed", range(10))
def test_the_longest_match_is_found_whatever_the_tree_does(seed: int) -> None:
    """Bounds that are kept up to date, against asking the tree for everybody every time."""
    rng = random.Random(seed)
    core = make_core(
        rng.choice([100, 300]), limits=Limits(max_running=3, max_step_tokens=rng.choice([5, 40]))
    )
    core.scheduler.waiting = queue = PureOrder()
    num_checked = 0
    choose = queue.next

    def next_one(num_cuts: int, _match: object) -> Request | None:
        nonlocal num_checked
        chosen = choose(num_cuts, core.scheduler._match)
        if chosen is not None and not chosen.num_preemptions:
            found = {r: core.scheduler._match(r) for r in queue.requests()}
            assert found[chosen] == max(found.values())
            num_checked += len(found) > 1
        return chosen

    queue.next = next_one  # type: ignore[method-assign]
    texts: list[list[int]] = [[]]
    for _ in range(80):
        base = rng.choice(texts)
        prompt = (base[: rng.randint(0, len(base))] + [rng.randint(0, 2) for _ in range(6)])[:40]
        texts.append(prompt)
        core.add(
            ask(
                prompt,
                new=rng.randint(1, 5),
                salt=rng.choice(["", "a", "b"]),
                num_public=rng.choice([0, 3, len(prompt)]),
            )
        )
        if rng.random() < 0.4:
            core.step()
    run_all(core)
    assert num_checked > 20


# In simulation, against the two pure orders


def served(num_hot: int, num_slots: int, of: str, load: float) -> dict[str, Figures]:
    """By order, for the same arrivals."""
    work = Work(num_requests=700, num_hot=num_hot, num_slots=num_slots)
    coming = arrivals(work, load * sustained(work, of), seed=0)
    return {name: serve(work, make(), coming) for name, make in ORDERS.items()}


def test_who_shares_nothing_waits_at_most_twice_as_long_as_first_come_first_served() -> None:
    found = served(3, 4000, "fcfs", 1.2)
    fcfs, pure, ours = (found[name] for name in ("fcfs", "pure", "engine"))
    assert pure.cold_p99 > MOST_LATER * fcfs.cold_p99, "the pure order would not do"
    assert ours.cold_p99 <= MOST_LATER * fcfs.cold_p99
    assert ours.hit_rate >= LEAST_HITS * pure.hit_rate


def test_nearly_as_much_is_found_in_the_cache_as_in_the_pure_order() -> None:
    found = served(8, 2500, "pure", 1.0)
    fcfs, pure, ours = (found[name] for name in ("fcfs", "pure", "engine"))
    assert fcfs.hit_rate < LEAST_HITS * pure.hit_rate, "the order of arrival would not do"
    assert ours.cold_p99 <= MOST_LATER * fcfs.cold_p99
    assert ours.hit_rate >= LEAST_HITS * pure.hit_rate


def test_the_simulated_arrivals_are_what_they_say() -> None:
    work = Work(num_requests=2000, num_hot=4)
    coming = arrivals(work, 10.0, seed=1)
    assert 0.03 < np.mean([a.cold for a in coming]) < 0.07
    assert coming[-1].time == pytest.approx(200, rel=0.1)
    heads = {a.prompt[: work.prefix].tobytes() for a in coming if not a.cold}
    assert len(heads) == 4
    assert arrivals(work, math.inf, 1)[-1].time == 0
