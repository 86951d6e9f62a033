"""What a step computes: sharing within a batch, chunks, order, preemption, failures."""

from __future__ import annotations

import numpy as np
import pytest

from ramet.engine.request import LogprobOptions
from ramet.engine.schedule import Limits
from ramet.engine.simulate import expected_scores, expected_tokens
from ramet.errors import BackendError, InvalidRequest
from tests.engine.worlds import VOCAB, ask, make_core, run_all


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


@pytest.mark.parametrize("max_step_tokens", [64, 100, 512, 1024, 10_000])
def test_a_prefix_that_cold_requests_share_is_computed_once(max_step_tokens: int) -> None:
    shared = tokens(1024)
    core = make_core(limits=Limits(max_step_tokens=max_step_tokens))
    requests = [ask([*shared, i, *tokens(63, i + 1)]) for i in range(64)]
    run_all(core, requests)
    stats = core.stats()
    assert stats.num_computed_tokens == 1024 + 64 * 64
    assert stats.num_cached_tokens == 63 * 1024
    assert stats.num_prompt_tokens == 64 * (1024 + 64)


def test_a_batch_that_fits_takes_one_forward_pass() -> None:
    shared = tokens(100)
    core = make_core(limits=Limits(max_step_tokens=10_000))
    steps = run_all(core, [ask([*shared, i]) for i in range(20)])
    assert steps == 1
    assert core.stats().num_computed_tokens == 120


def test_equal_prompts_share_every_row_and_their_logits() -> None:
    core = make_core()
    prompt = tokens(50)
    requests = [ask(prompt, seed=i) for i in range(10)]
    run_all(core, requests)
    assert core.stats().num_computed_tokens == 50
    assert [r.output_ids for r in requests] == [
        expected_tokens(prompt, 1, seed, VOCAB) for seed in range(10)
    ]
    assert [r.num_cached for r in requests] == [0] + [50] * 9


def test_a_warm_prompt_computes_its_last_token_only() -> None:
    core = make_core()
    prompt = tokens(50)
    run_all(core, [ask(prompt)])
    run_all(core, [ask(prompt)])
    assert core.stats().num_computed_tokens == 51


def test_eight_forks_of_a_generated_text_compute_only_their_own_tails() -> None:
    core = make_core()
    first = ask(tokens(100), new=20)
    run_all(core, [first])
    before = core.stats().num_computed_tokens
    trunk = first.known.tolist()
    run_all(core, [ask([*trunk, i, i, i]) for i in range(8)])
    # The trunk's last token was generated and never fed back: it is computed now, once.
    assert core.stats().num_computed_tokens - before == 1 + 8 * 3


def test_choices_of_a_select_share_the_prompt_and_the_row_before_them() -> None:
    core = make_core()
    prompt = tokens(30)
    choices = [[i, i + 1, i + 2] for i in range(5)]
    requests = [ask(prompt + c, new=0, start=30) for c in choices]
    run_all(core, requests)
    # No logits are wanted after a choice's last token, but its KV is computed all the same.
    assert core.stats().num_computed_tokens == 30 + 5 * 3
    for request, choice in zip(requests, choices, strict=True):
        assert [s.logprob for s in request.prompt_scores] == expected_scores(prompt + choice, 30)
    again = [ask(prompt + c, new=0, start=30) for c in choices]
    run_all(core, again)
    # Warm: the row before the choices once, then two rows of each choice for their logits.
    assert core.stats().num_computed_tokens == 30 + 5 * 3 + 1 + 5 * 2


@pytest.mark.parametrize("budget", [1, 2, 7, 1000])
def test_prompt_scores_do_not_depend_on_chunks_and_cache(budget: int) -> None:
    prompt = tokens(20)
    core = make_core(limits=Limits(max_step_tokens=budget))
    for _ in range(3):
        request = ask(prompt, start=3, new=2)
        run_all(core, [request])
        assert [s.logprob for s in request.prompt_scores] == expected_scores(prompt, 3)
        assert request.output_ids == expected_tokens(prompt, 2, 0, VOCAB)


def test_decoding_goes_on_while_a_long_prompt_is_computed_in_chunks() -> None:
    core = make_core(limits=Limits(max_step_tokens=16))
    short, long = ask(tokens(4, 1), new=30), ask(tokens(400, 2))
    core.add(short)
    core.step()
    core.add(long)
    for _ in range(10):
        core.step()
    assert len(short.output_ids) == 11
    assert long.num_computed == 10 * 15


def test_nobody_is_overtaken_by_more_than_the_bound() -> None:
    hot = tokens(100)
    core = make_core(limits=Limits(max_running=1), max_overtaken=5)
    run_all(core, [ask(hot)])
    cold = ask(tokens(30, 9), new=1)
    core.add(ask([*hot, 1]))
    core.add(cold)
    done_before = 0
    for i in range(200):
        later = ask([*hot, i])
        core.add(later)
        core.step()
        if cold.finished:
            break
        done_before += 1
    assert cold.finished
    assert cold.num_overtaken == 5
    assert done_before <= 5 + 2


def test_longest_cached_prefix_goes_first() -> None:
    core = make_core(limits=Limits(max_running=1))
    warm = tokens(50)
    run_all(core, [ask(warm)])
    order: list[str] = []
    requests = [
        ask(tokens(10, 3), rid="cold"),
        ask([*warm[:20], 1], rid="half"),
        ask([*warm, 2], rid="full"),
    ]
    for request in requests:
        request.on_update = lambda r: order.append(r.rid) if r.finished else None
    run_all(core, requests)
    assert order == ["full", "half", "cold"]


def test_memory_is_shared_out_by_preemption_and_all_finish() -> None:
    core = make_core(60)
    requests = [ask(tokens(10, i), new=40) for i in range(6)]
    run_all(core, requests)
    for i, request in enumerate(requests):
        assert request.output_ids == expected_tokens(tokens(10, i), 40, 0, VOCAB)
    stats = core.stats()
    assert stats.num_preemptions > 0
    assert requests[0].num_preemptions == 0, "the oldest is never preempted"
    assert stats.num_computed_tokens < 3 * 6 * 50, "preempted work is taken from the tree again"


def test_a_failing_step_ends_only_the_request_at_fault() -> None:
    core = make_core(poison=[VOCAB - 1])
    good = [ask(tokens(10, i), new=5) for i in range(4)]
    for request in good:
        request.prompt_ids[request.prompt_ids == VOCAB - 1] = 0
    bad = ask([1, 2, VOCAB - 1], new=5)
    run_all(core, [good[0], bad, *good[1:]])
    assert isinstance(bad.error, BackendError)
    assert "told to fail" in str(bad.error)
    for request in good:
        assert request.error is None
        assert request.output_ids == expected_tokens(request.prompt_ids.tolist(), 5, 0, VOCAB)
    assert core.stats().num_failed == 1


def test_abort_frees_everything_at_once() -> None:
    core = make_core()
    request = ask(tokens(10), new=1000)
    core.add(request)
    for _ in range(5):
        core.step()
    assert core.abort(request.rid)
    assert not core.abort(request.rid)
    stats = core.stats()
    assert stats.num_pinned_tokens == stats.num_running == 0
    assert request.finish_reason is not None
    assert request.finish_reason["type"] == "abort"
    run_all(core, [ask(tokens(10))])


def test_salts_keep_tenants_apart() -> None:
    core = make_core()
    prompt = tokens(40)
    run_all(core, [ask(prompt, salt="a")])
    run_all(core, [ask(prompt, salt="b")])
    assert core.stats().num_computed_tokens == 80
    run_all(core, [ask(prompt, salt="a")])
    assert core.stats().num_computed_tokens == 81


def test_tenants_share_what_is_public_and_nothing_behind_it() -> None:
    core = make_core()
    prompt = tokens(40)
    run_all(core, [ask(prompt, salt="a", num_public=30)])
    run_all(core, [ask(prompt, salt="b", num_public=30)])
    assert core.stats().num_computed_tokens == 40 + 10
    run_all(core, [ask([*prompt, 1], salt="a", num_public=30)])
    assert core.stats().num_computed_tokens == 40 + 10 + 1
    run_all(core, [ask([*prompt[:30], 1])])
    assert core.stats().num_computed_tokens == 40 + 10 + 1 + 1


def test_a_public_beginning_that_cold_tenants_share_is_computed_once() -> None:
    core = make_core(limits=Limits(max_step_tokens=10_000))
    prompt = tokens(100)
    requests = [ask(prompt, salt=f"tenant {i}", num_public=80) for i in range(5)]
    assert run_all(core, requests) == 1
    assert core.stats().num_computed_tokens == 80 + 5 * 20
    for request in requests:
        assert request.output_ids == expected_tokens(prompt, 1, 0, VOCAB)


def test_what_a_public_prompt_generates_is_its_tenants() -> None:
    core = make_core()
    first = ask(tokens(20), new=10, salt="a", num_public=20)
    run_all(core, [first])
    said = first.known.tolist()
    assert core.tree.match(said, "a", num_public=20) == 29
    assert core.tree.match(said, "b", num_public=20) == core.tree.match(said) == 20


def test_more_public_tokens_than_the_prompt_has_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="num_public"):
        ask([1, 2], salt="a", num_public=3)


def test_without_cache_everything_is_computed_for_everyone() -> None:
    core = make_core(limits=Limits(use_cache=False))
    prompt = tokens(40)
    requests = [ask(prompt, new=3) for _ in range(3)]
    run_all(core, requests)
    assert core.stats().num_computed_tokens == 3 * 42
    assert core.stats().num_tree_tokens == 0
    assert requests[0].output_ids == expected_tokens(prompt, 3, 0, VOCAB)


@pytest.mark.parametrize(
    ("prompt", "new", "what"),
    [([], 1, "no tokens"), ([1] * 90, 20, "context of 100"), ([1] * 55, 10, "KV slots")],
)
def test_what_can_never_run_is_refused_on_arrival(prompt: list[int], new: int, what: str) -> None:
    core = make_core(60, max_context=100)
    with pytest.raises(InvalidRequest, match=what):
        core.add(ask(prompt, new))
    assert not core.has_work


def test_a_running_id_cannot_be_used_twice() -> None:
    core = make_core()
    core.add(ask([1], rid="x"))
    with pytest.raises(InvalidRequest, match="rid"):
        core.add(ask([2], rid="x"))


def test_a_listener_that_raises_ends_its_own_request_only() -> None:
    core = make_core()
    bad, good = ask([1, 2], new=5), ask([3, 4], new=5)

    def listener(_request: object) -> None:
        raise ValueError("listener")

    bad.on_update = listener
    with pytest.warns(UserWarning, match="listener"):
        run_all(core, [bad, good])
    assert good.output_ids == expected_tokens([3, 4], 5, 0, VOCAB)
    assert core.stats().num_pinned_tokens == 0


def test_a_prefetch_computes_and_counts_for_nobody() -> None:
    core = make_core()
    hint = ask(tokens(64), new=0)
    hint.background = True
    hint.logprobs = LogprobOptions()
    run_all(core, [hint])
    assert core.stats().num_prompt_tokens == 0
    run_all(core, [ask([*tokens(64), 5])])
    assert core.stats().num_computed_tokens == 65
    assert core.stats().hit_rate == 64 / 65


def test_flush_waits_for_nobody() -> None:
    core = make_core()
    core.add(ask(tokens(5), new=3))
    core.step()
    assert not core.flush()
    run_all(core)
    assert core.flush()
    assert core.stats().num_tree_tokens == 0
