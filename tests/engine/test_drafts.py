"""Guesses are what really followed, never more, and never from the neighbour's sequence."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ramet.engine.drafts import DraftIndex, Drafts
from ramet.engine.loop import EngineCore
from ramet.engine.request import Request
from ramet.engine.schedule import Limits
from ramet.engine.simulate import HashRunner, PlainText, VirtualClock, expected_tokens
from ramet.params import SamplingParams


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


def test_what_followed_the_last_time() -> None:
    index = DraftIndex(64)
    index.add(ids(1, 2, 3, 4, 5, 6))
    assert index.guess(ids(9, 9, 1, 2, 3), 2).tolist() == [4, 5]
    assert index.guess(ids(2, 3, 4), 9).tolist() == [5, 6]
    index.add(ids(7, 2, 3, 4, 8))
    assert index.guess(ids(2, 3, 4), 9).tolist() == [8]
    assert index.guess(ids(4, 5, 6), 9).tolist() == []


def test_nothing_to_go_by() -> None:
    index = DraftIndex(64)
    assert index.guess(ids(1, 2, 3), 4).tolist() == []
    index.add(ids(1, 2, 3))
    assert index.guess(ids(1, 2, 3), 4).tolist() == []
    assert index.guess(ids(2, 3), 4).tolist() == []
    index.add(ids(1, 2, 3, 4))
    assert index.guess(ids(1, 2, 3), 0).tolist() == []


def test_sizes() -> None:
    with pytest.raises(ValueError, match="power of two"):
        DraftIndex(100)
    index = DraftIndex(16)
    index.add(np.arange(100, dtype=np.int64))
    assert index.guess(ids(96, 97, 98), 5).tolist() == [99]


def test_a_ring_that_overflows_forgets_and_never_mixes() -> None:
    rng = random.Random(1)
    index, added = DraftIndex(64), []
    for _ in range(300):
        sequence = [rng.randrange(6) for _ in range(rng.randint(1, 20))]
        index.add(np.array(sequence, np.int64))
        added.append(sequence)
        probe = [rng.randrange(6) for _ in range(3)]
        found = index.guess(np.array(probe, np.int64), 4).tolist()
        if found:
            runs = [s[i : i + 3 + len(found)] for s in added[-64:] for i in range(len(s))]
            assert probe + found in runs


VOCAB = 3  # of which a third of all guesses is right


def a_request(
    rid: str,
    prompt: list[int],
    count: int,
    salt: str | None = None,
    stop_token_ids: frozenset[int] = frozenset(),
) -> Request:
    return Request(
        rid=rid,
        prompt_ids=np.array(prompt, np.int64),
        params=SamplingParams(max_new_tokens=count),
        text=PlainText(),
        seed=len(prompt),
        salt=salt,
        stop_token_ids=stop_token_ids,
    )


def an_engine(
    drafts: Drafts | None, slots: int = 400, limits: Limits | None = None, vocab: int = VOCAB
) -> EngineCore:
    return EngineCore(
        HashRunner(slots, vocab),
        num_slots=slots,
        max_context=1000,
        clock=VirtualClock(),
        limits=limits,
        drafts=drafts,
        audit_every_step=True,
    )


def finish(core: EngineCore) -> None:
    while core.has_work:
        core.step()


@pytest.mark.parametrize("seed", range(20))
def test_the_tokens_of_an_engine_without_drafts(seed: int) -> None:
    rng = random.Random(seed)
    limits = Limits(max_step_tokens=rng.choice([5, 100]), max_running=rng.choice([3, 50]))
    core = an_engine(Drafts(size=256), rng.choice([80, 150, 400]), limits)
    requests = []
    for number in range(12):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))]
        stops = frozenset({rng.randrange(VOCAB)} if rng.random() < 0.2 else ())
        requests.append(a_request(f"{number}", prompt, rng.randint(1, 40), None, stops))
        core.add(requests[-1])
        for _ in range(rng.randint(0, 4)):
            core.step()
        if rng.random() < 0.1:
            core.abort(rng.choice(requests).rid)
    finish(core)
    for request in requests:
        want = expected_tokens(request.prompt_ids.tolist(), 40, request.seed, VOCAB)
        count = len(request.output_ids)
        assert request.output_ids == want[:count]
        if request.finish_reason == {"type": "length", "length": request.params.max_new_tokens}:
            assert count == request.params.max_new_tokens
        assert not set(request.output_ids[:-1]) & request.stop_token_ids
    stats = core.stats()
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens
    assert stats.num_free_slots + stats.num_tree_tokens == stats.num_slots


def test_fewer_steps_and_the_same_count_of_computed_tokens() -> None:
    counts = []
    for drafts in (None, Drafts(size=256)):
        core = an_engine(drafts, vocab=1000)
        for number in range(2):  # the second finds what the first generated
            core.add(a_request(f"{number}", [0, 1, 2, 1], 60))
            finish(core)
        counts.append(core.stats())
    without, with_drafts = counts
    assert with_drafts.num_computed_tokens == without.num_computed_tokens
    assert with_drafts.num_generated_tokens == without.num_generated_tokens == 120
    assert with_drafts.num_accepted_tokens > 40
    assert with_drafts.num_steps == without.num_steps - with_drafts.num_accepted_tokens


def test_another_salt_is_no_source() -> None:
    drafts = Drafts(size=256)
    core = an_engine(drafts)
    core.add(a_request("a", [0, 1, 2, 1], 20, salt="a"))
    finish(core)
    before = core.stats().num_draft_tokens
    index = drafts._indices["a"]
    core.add(a_request("b", [0, 1, 2, 1], 3, salt="b"))
    finish(core)
    assert core.stats().num_draft_tokens == before
    assert drafts._indices["a"] is index
    assert drafts._indices["b"] is not index


def test_many_running_requests_leave_no_room_for_guesses() -> None:
    drafts = Drafts(max_rows=16)
    assert [drafts.room(n) for n in (0, 1, 5, 8, 9, 100)] == [0, 15, 2, 1, 0, 0]


def test_a_request_whose_guesses_are_wrong_pauses() -> None:
    drafts = Drafts(size=256)
    request = a_request("a", [0, 1, 2], 50)
    drafts.prompt_computed(request)
    drafts._indices[None].add(ids(0, 1, 2, 5, 5, 5, 5))
    guess = drafts.propose(request, 15)
    assert guess is not None
    assert guess.tolist() == [5, 5, 5, 5]
    drafts.verified(request, 4, 0)
    assert [drafts.propose(request, 15) is None for _ in range(3)] == [True, True, False]
    drafts.verified(request, 2, 2)
    guess = drafts.propose(request, 15)
    assert guess is not None
    assert len(guess) == 4
