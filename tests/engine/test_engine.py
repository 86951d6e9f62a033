"""The whole engine on tiny random checkpoints: the native protocol, and that sharing changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from ramet.backends.local import Engine
from ramet.engine.request import LogprobOptions
from ramet.errors import (
    CheckpointError,
    EngineClosed,
    InvalidRequest,
    RametError,
)
from ramet.params import SamplingParams
from tests.models.checkpoints import CHATML, make_checkpoint
from tests.models.oracle import transformers_logprobs

GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        "llama", tmp_path_factory.mktemp("engine") / "llama", chat_template=CHATML
    )


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    with Engine(checkpoint, dtype="float32", max_cache_tokens=4000, audit=True, seed=1) as engine:
        yield engine


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts of different lengths, most of which share beginnings."""
    rng = random.Random(seed)
    trunk = [rng.randrange(4, 600) for _ in range(60)]
    found = []
    for _ in range(count):
        keep = rng.choice([0, 10, 33, 60])
        found.append(trunk[:keep] + [rng.randrange(4, 600) for _ in range(rng.randint(1, 40))])
    return found


def outputs(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [a["output_ids"] for a in answers]


# -- sharing changes nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"disable_radix_cache": True},
        {"max_step_tokens": 7},
        {"max_cache_tokens": 160},
        {"max_running": 2, "schedule_policy": "fcfs"},
        {"max_step_tokens": 33, "max_cache_tokens": 200, "schedule_policy": "random"},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_greedy_tokens_are_the_same_however_they_are_computed(
    engine: Engine, checkpoint: Path, options: dict[str, Any]
) -> None:
    asked = prompts(24)
    alone = [engine.generate(input_ids=p, sampling_params=GREEDY) for p in asked]
    engine.flush_cache()
    with Engine(checkpoint, dtype="float32", audit=True, **options) as other:
        cold = other.generate(input_ids=asked, sampling_params=GREEDY)
        warm = other.generate(input_ids=asked, sampling_params=GREEDY)
        if "max_cache_tokens" in options:
            assert other.stats.num_preemptions > 0
    assert outputs(cold) == outputs(alone)
    assert outputs(warm) == outputs(alone)


def test_a_seed_gives_the_same_text_alone_and_in_any_batch(engine: Engine) -> None:
    params = {"temperature": 1.2, "top_p": 0.9, "max_new_tokens": 15, "ignore_eos": True}
    asked = prompts(12, seed=3)
    seeded = [{**params, "sampling_seed": i} for i in range(len(asked))]
    together = engine.generate(input_ids=asked, sampling_params=seeded)
    alone = [
        engine.generate(input_ids=p, sampling_params=s) for p, s in zip(asked, seeded, strict=True)
    ]
    assert outputs(together) == outputs(alone)
    drawn = engine.generate(input_ids=asked[0], sampling_params=params)
    again = engine.generate(
        input_ids=asked[0], sampling_params={**params, "sampling_seed": drawn["meta_info"]["seed"]}
    )
    assert again["output_ids"] == drawn["output_ids"]


@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3"])
@pytest.mark.parametrize("step", [1000, 9])
def test_log_probabilities_against_transformers_with_everything_on(
    tmp_path: Path, family: str, step: int
) -> None:
    folder = make_checkpoint(family, tmp_path / family)
    asked = prompts(8, seed=5)
    with Engine(
        folder, dtype="float32", max_cache_tokens=220, max_step_tokens=step, audit=True
    ) as e:
        answers = []
        for _ in range(2):  # cold, then with whatever the cache kept
            answers = e.generate(
                input_ids=asked, sampling_params=GREEDY, return_logprob=True, logprob_start_len=0
            )
        assert step == 9 or e.stats.num_preemptions > 0
    for prompt, answer in zip(asked, answers, strict=True):
        known = prompt + answer["output_ids"]
        oracle = transformers_logprobs(folder, known)
        meta = answer["meta_info"]
        scored = meta["input_token_logprobs"] + meta["output_token_logprobs"]
        assert [t for _, t, _ in scored] == known
        assert scored[0][0] is None
        for position in range(1, len(known)):
            want = float(oracle[position - 1, known[position]])
            assert abs(scored[position][0] - want) <= 1e-4


def test_sixty_four_cold_requests_compute_their_common_prefix_once(checkpoint: Path) -> None:
    rng = random.Random(8)
    shared = [rng.randrange(4, 600) for _ in range(300)]
    asked = [[*shared, 4 + i, *(rng.randrange(4, 600) for _ in range(63))] for i in range(64)]
    with Engine(checkpoint, max_cache_tokens=6000) as e:
        e.generate(input_ids=asked, sampling_params={"max_new_tokens": 1})
        assert e.stats.num_computed_tokens == 300 + 64 * 64
        assert e.stats.num_cached_tokens == 63 * 300


# -- the protocol --------------------------------------------------------------------------------------


def test_one_prompt_gives_a_dictionary_and_a_list_a_list(engine: Engine) -> None:
    one = engine.generate("the time", GREEDY)
    assert set(one) == {"text", "output_ids", "meta_info"}
    assert one["meta_info"]["finish_reason"] == {"type": "length", "length": 12}
    assert one["meta_info"]["completion_tokens"] == len(one["output_ids"]) == 12
    many = engine.generate(["the time", "to be"], [GREEDY, {**GREEDY, "n": 3}])
    assert len(many) == 4
    assert many[0]["text"] == one["text"]
    assert engine.generate(["the time"], GREEDY)[0]["text"] == one["text"]
    assert engine.generate([], GREEDY) == []


def test_a_stream_grows_to_the_whole_answer(engine: Engine) -> None:
    whole = engine.generate("they were", GREEDY)
    pieces = list(engine.generate("they were", GREEDY, stream=True))
    assert pieces[-1]["text"] == whole["text"]
    assert pieces[-1]["output_ids"] == whole["output_ids"]
    assert [len(p["output_ids"]) for p in pieces] == list(range(1, 13))
    for before, after in itertools.pairwise(pieces):
        assert after["text"].startswith(before["text"])
        assert before["meta_info"]["finish_reason"] is None
    batch = list(engine.generate(["a", "b"], GREEDY, stream=True))
    assert {p["index"] for p in batch} == {0, 1}


def test_leaving_a_stream_aborts_the_request(engine: Engine) -> None:
    for _ in engine.generate("to", {"max_new_tokens": 400, "ignore_eos": True}, stream=True):
        break
    stats = engine.stats
    assert stats.num_running == stats.num_waiting == stats.num_pinned_tokens == 0


def test_async_calls_share_batches_and_cancelling_aborts(engine: Engine) -> None:
    async def main() -> None:
        asked = prompts(6, seed=9)
        answers = await asyncio.gather(
            *(engine.async_generate(input_ids=p, sampling_params=GREEDY) for p in asked)
        )
        assert outputs(answers) == outputs(engine.generate(input_ids=asked, sampling_params=GREEDY))
        pieces = [p async for p in await engine.async_generate("be", GREEDY, stream=True)]
        assert pieces[-1]["meta_info"]["finish_reason"]["type"] == "length"
        endless = asyncio.create_task(
            engine.async_generate("at", {"max_new_tokens": 450, "ignore_eos": True})
        )
        await asyncio.sleep(0.05)
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        assert engine.stats.num_running == 0

    asyncio.run(main())


def test_abort_from_another_thread_ends_the_call_with_its_text(engine: Engine) -> None:
    timer = threading.Timer(0.1, engine.abort_request, kwargs={"rid": "victim"})
    timer.start()
    answer = engine.generate("in", {"max_new_tokens": 490, "ignore_eos": True}, rid="victim")
    assert answer["meta_info"]["finish_reason"]["type"] in ("abort", "length")
    timer.join()
    assert engine.stats.num_running == 0


def test_stop_strings_are_cut_and_named(engine: Engine) -> None:
    whole = engine.generate("they were", {**GREEDY, "max_new_tokens": 30})["text"]
    stop = whole[8:11]
    cut = engine.generate("they were", {**GREEDY, "max_new_tokens": 30, "stop": ["zzzz", stop]})
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    kept = engine.generate(
        "they were", {**GREEDY, "max_new_tokens": 30, "stop": stop, "no_stop_trim": True}
    )
    assert kept["text"] == whole[: whole.index(stop) + len(stop)]


def test_a_stop_token_ends_the_text_and_waits_for_min_new_tokens(engine: Engine) -> None:
    ids = engine.generate("they were", GREEDY)["output_ids"]
    stopped = engine.generate("they were", {**GREEDY, "stop_token_ids": [ids[4]]})
    first = ids.index(ids[4])
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": ids[4]}
    assert stopped["output_ids"] == ids[: first + 1]
    assert stopped["text"] == engine.tokenizer.decode(ids[:first])
    later = engine.generate(
        "they were", {**GREEDY, "stop_token_ids": [ids[4]], "min_new_tokens": first + 3}
    )
    assert len(later["output_ids"]) >= first + 3
    assert ids[4] not in later["output_ids"][: first + 3]


def test_prompt_scores_start_where_they_are_asked_to(engine: Engine) -> None:
    ids = prompts(1, seed=2)[0]
    meta = engine.generate(
        input_ids=ids,
        sampling_params={"max_new_tokens": 1},
        return_logprob=True,
        logprob_start_len=2,
        top_logprobs_num=3,
        token_ids_logprob=[5, 6],
    )["meta_info"]
    assert [t for _, t, _ in meta["input_token_logprobs"]] == ids[2:]
    assert all(lp is not None for lp, _, _ in meta["input_token_logprobs"])
    assert all(len(top) == 3 for top in meta["input_top_logprobs"])
    assert [t for _, t, _ in meta["output_token_ids_logprobs"][0]] == [5, 6]
    whole = engine.generate(
        input_ids=ids, sampling_params={"max_new_tokens": 0}, return_logprob=True
    )
    assert whole["text"] == ""
    assert whole["meta_info"]["input_token_logprobs"][2:] == meta["input_token_logprobs"]
    assert whole["meta_info"]["input_token_logprobs"][0][0] is None


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "input_ids": [1]}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": ["a", 3]}, "prompt"),
        ({"input_ids": [-1]}, "input_ids"),
        ({"input_ids": [10**6]}, "input_ids"),
        ({"input_ids": [1.5]}, "input_ids"),
        ({"input_ids": [5] * 600}, "context"),
        ({"prompt": "a", "sampling_params": {"temperature": float("nan")}}, "temperature"),
        ({"prompt": "a", "sampling_params": {"max_new_tokens": -1}}, "max_new_tokens"),
        ({"prompt": "a", "sampling_params": {"max_new_tokens": 5000}}, "context"),
        ({"prompt": "a", "sampling_params": {"top_p": 0}}, "top_p"),
        ({"prompt": "a", "sampling_params": {"surprise": 1}}, "surprise"),
        ({"prompt": "a", "sampling_params": {"stop": [1]}}, "stop"),
        ({"prompt": "a", "sampling_params": {"stop_regex": "("}}, "stop_regex"),
        ({"prompt": "a", "sampling_params": {"logit_bias": {"99999": 1}}}, "logit_bias"),
        ({"prompt": "a", "sampling_params": [{}, {}]}, "sampling_params"),
        ({"prompt": ["a", "b"], "rid": ["x", "x"]}, "rid"),
        ({"prompt": "a", "return_logprob": True, "logprob_start_len": 99}, "logprob_start_len"),
        ({"prompt": "a", "return_logprob": True, "top_logprobs_num": -2}, "top_logprobs_num"),
    ],
)
def test_what_is_wrong_is_named_and_the_engine_goes_on(
    engine: Engine, call: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest, match=field):
        engine.generate(**call)
    assert engine.generate("the", GREEDY)["meta_info"]["completion_tokens"] == 12


def test_memory_that_is_too_small_is_said_on_arrival(checkpoint: Path) -> None:
    with Engine(checkpoint, max_cache_tokens=50) as e:
        with pytest.raises(InvalidRequest, match="max_cache_tokens"):
            e.generate(input_ids=[5] * 45, sampling_params={"max_new_tokens": 10})
        assert (
            len(
                e.generate(input_ids=[5] * 41, sampling_params=GREEDY | {"max_new_tokens": 10})[
                    "output_ids"
                ]
            )
            == 10
        )


@pytest.mark.parametrize("path", ["/nowhere/at/all", "no-such-model"])
def test_an_unknown_model_path_is_explained(path: str) -> None:
    with pytest.raises(CheckpointError, match="model_path"):
        Engine(path)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "abacus"},
        {"dtype": "int3"},
        {"max_cache_tokens": 0},
        {"max_step_tokens": -4},
        {"schedule_policy": "luck"},
        {"no_such_option": 1},
        {"max_running": 3, "max_running_requests": 4},
    ],
    ids=str,
)
def test_wrong_options_are_refused_by_name(checkpoint: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RametError, match=next(iter(options))):
        Engine(checkpoint, **options)


def test_two_engines_live_side_by_side_and_a_closed_one_says_so(checkpoint: Path) -> None:
    first, second = Engine(checkpoint), Engine(checkpoint)
    want = second.generate("the", GREEDY)["text"]
    first.shutdown()
    first.shutdown()
    with pytest.raises(EngineClosed):
        first.generate("the", GREEDY)
    assert second.generate("the", GREEDY)["text"] == want
    second.shutdown()


def test_shutdown_ends_what_runs(checkpoint: Path) -> None:
    e = Engine(checkpoint)
    ends: list[object] = []

    def call() -> None:
        try:
            ends.append(e.generate("the", {"max_new_tokens": 500, "ignore_eos": True}))
        except RametError as error:
            ends.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    e.shutdown()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a caller hangs on a closed engine"
    assert len(ends) == 4


def test_many_threads_call_at_once(engine: Engine) -> None:
    asked = prompts(16, seed=12)
    want = outputs(engine.generate(input_ids=asked, sampling_params=GREEDY))
    got: dict[int, list[int]] = {}

    def call(i: int) -> None:
        got[i] = engine.generate(input_ids=asked[i], sampling_params=GREEDY)["output_ids"]

    threads = [threading.Thread(target=call, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(16)] == want


def test_tenants_share_the_public_beginning_and_get_the_same_answers(engine: Engine) -> None:
    engine.flush_cache()
    ids = [random.Random(9).randrange(4, 600) for _ in range(50)]
    params = SamplingParams(**{**GREEDY, "n": 2})
    found = []
    for salt, num_public in (("", 0), ("a", 40), ("b", 40), ("c", 0)):
        before = engine.stats
        requests = engine.samples(
            None, ids, params, LogprobOptions(), salt=salt, num_public=num_public
        )
        found += engine.host.submit(requests).result()
        after = engine.stats
        found_salt = after.num_missed_salt - before.num_missed_salt
        assert found_salt == {"": 0, "a": 10, "b": 10, "c": 50}[salt]
    assert all(request.output_ids == found[0].output_ids for request in found)
    assert [request.num_cached for request in found[2::2]] == [40, 40, 0]
    with pytest.raises(InvalidRequest, match="num_public"):
        engine.samples(None, ids, params, LogprobOptions(), salt="a", num_public=51)


def test_server_info_and_flush(engine: Engine) -> None:
    info = engine.get_server_info()
    assert info["max_total_num_tokens"] == 4000
    assert info["internal_states"][0]["num_slots"] == 4000
    assert engine.flush_cache()
    assert engine.stats.num_tree_tokens == 0
    assert engine.get_model_info()["max_model_len"] == 512
