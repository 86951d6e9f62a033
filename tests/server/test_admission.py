"""Who is taken, who is told to come again, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.server.admission import Admission, Place
from ramet.server.exchange import Failure
from ramet.server.generation import Refused


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(admission: Admission, num_samples: int = 1, num_tokens: int = 1) -> Failure:
    with pytest.raises(Refused) as refused:
        admission.place(num_samples, num_tokens)
    return refused.value.failure


def test_full_by_samples() -> None:
    admission = Admission(3, 1000)
    places = [admission.place(1, 10), admission.place(2, 10)]
    assert admission.is_full
    failure = refusal(admission)
    assert (failure.status, failure.code) == (429, "too_many_requests")
    assert "3 requests" in failure.message
    with pytest.raises(Refused):
        admission.refuse_if_full()
    places[0].release()
    places[0].release()  # once counts
    assert (admission.num_held, admission.num_tokens) == (2, 10)
    admission.refuse_if_full()
    assert refusal(admission, 2).status == 429
    admission.place(1, 10)
    assert admission.num_refused == 3


def test_full_by_tokens() -> None:
    admission = Admission(100, 50)
    place = admission.place(1, 40)
    assert not admission.is_full
    assert refusal(admission, 1, 11).status == 429
    admission.place(1, 10)
    assert admission.is_full
    place.release()
    admission.place(1, 40)


def test_one_that_is_alone_is_always_taken() -> None:
    admission = Admission(3, 50)
    place = admission.place(500, 5000)
    assert refusal(admission).status == 429
    place.release()
    assert (admission.num_held, admission.num_tokens) == (0, 0)
    admission.place(1, 1)
    assert refusal(admission, 500, 1).status == 429


def test_a_server_that_stops_takes_nobody() -> None:
    admission = Admission(3, 50)
    admission.draining = True
    failure = refusal(admission)
    assert failure.status == 503
    assert failure.retry_after
    with pytest.raises(Refused) as refused:
        admission.refuse_if_full()
    assert refused.value.failure.status == 503


def test_when_to_come_again() -> None:
    clock = Clock()
    admission = Admission(40, 10_000, clock=clock)
    assert admission.seconds_to_wait() == 1.0  # nobody knows
    places = [admission.place(1, 1) for _ in range(40)]
    for place in places[:10]:
        clock.now += 1.0
        place.release()
    # 30 are here, one ends in a second: half of them are gone in about 15 s.
    assert 13 <= admission.seconds_to_wait() <= 15
    assert refusal(admission, 40).retry_after == admission.seconds_to_wait()
    for place in places[10:]:
        clock.now += 0.001
        place.release()
    assert admission.seconds_to_wait() == 1.0
    clock.now += 3600  # what was an hour ago says nothing about now
    places = [admission.place(1, 1) for _ in range(40)]
    clock.now += 0.1
    places[0].release()
    places[1].release()
    clock.now += 0.1
    assert admission.seconds_to_wait() <= 3.0
    for place in places[2:]:
        clock.now += 500.0
        place.release()
        assert 1.0 <= admission.seconds_to_wait() <= 60.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 60)), max_size=60))
def test_counts_are_those_of_the_places(moves: list[tuple[bool, int, int]]) -> None:
    admission, places = Admission(8, 100), list[Place]()
    for enters, samples, tokens in moves:
        if enters:
            try:
                places.append(admission.place(samples, tokens))
            except Refused:
                held = sum(p.num_samples for p in places)
                assert held
                assert held + samples >= 8 or sum(p.num_tokens for p in places) + tokens >= 100
        elif places:
            places.pop(samples % len(places)).release()
        assert admission.num_held == sum(p.num_samples for p in places)
        assert admission.num_tokens == sum(p.num_tokens for p in places)
        assert admission.num_held <= 8 or len([p for p in places if p.num_samples]) == 1


def served(
    admission: Admission, clock: Clock, seconds: float, arrivals: int
) -> tuple[int, list[float]]:
    """A server that begins ten requests a second, one after the other, each of them short; `arrivals` come
    in a second. How many were refused, and how long the others waited."""
    waiting: list[tuple[float, Place]] = []
    refused, waits = 0, list[float]()
    for tick in range(int(seconds * 1000)):
        clock.now += 0.001
        if tick % max(1, 1000 // arrivals) == 0:
            try:
                waiting.append((clock.now, admission.place(1, 1)))
            except Refused as error:
                refused += error.failure.status == 429 and bool(error.failure.retry_after)
        if tick % 100 == 0 and waiting:
            came, place = waiting.pop(0)
            place.begun()
            place.release()
            waits.append(clock.now - came)
    for _, place in waiting:
        place.release()
    return refused, waits


def test_who_would_wait_too_long_is_refused() -> None:
    clock = Clock()
    admission = Admission(10_000, 10_000, 1.0, clock)
    refused, waits = served(admission, clock, 20, 100)
    assert len(waits) >= 195  # nothing was lost of what the server can do
    assert 1700 <= refused <= 1900
    assert max(waits) <= 1.6
    assert sorted(waits)[len(waits) // 2] >= 0.4  # and the queue is no shorter than it may be
    refused, waits = served(admission, clock, 20, 5)  # half of what it can do
    assert refused == 0
    assert max(waits[20:]) <= 0.3


def test_without_a_longest_wait_deadlines_count() -> None:
    clock = Clock()
    admission = Admission(10_000, 10_000, clock=clock)
    assert served(admission, clock, 20, 100)[0] == 0
    for _ in range(50):  # ten in a second begin, and 50 wait
        admission.place(1, 1)
    for _ in range(100):
        place = admission.place(1, 1)
        clock.now += 0.1
        place.begun()
        place.release()
    assert 4 <= admission.expected_wait() <= 7
    admission.place(1, 1, 600.0)
    with pytest.raises(Refused) as refused:
        admission.place(1, 1, 3.0)
    assert refused.value.failure.status == 429


def test_a_burst_is_no_queue() -> None:
    clock = Clock()
    admission = Admission(10_000, 10_000, 1.0, clock)
    for _ in range(20):  # alone, each begins after half a second
        place = admission.place(1, 1)
        clock.now += 0.5
        place.begun()
        place.release()
        clock.now += 5.0
    places = [admission.place(1, 1) for _ in range(500)]  # all at once: they may share a step
    clock.now += 0.5
    assert refusal(admission, 1).status == 429  # but then they wait
    for place in places:
        place.begun()
    clock.now += 0.1
    admission.place(1, 1)


def test_waits_end_with_places() -> None:
    admission = Admission(100, 100, 1.0)
    place = admission.place(3, 1)
    place.begun()
    assert admission.num_waiting == 2
    place.release()
    place.begun()
    assert admission.num_waiting == 0
    assert admission.expected_wait() == 0.0


def test_requests_without_samples_say_nothing_of_the_rate() -> None:
    admission = Admission(3, 50)
    for _ in range(4):
        admission.place(0, 1).release()
    assert admission.seconds_to_wait() == 1.0
