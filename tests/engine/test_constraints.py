"""Constraints on real engines: a tiny random model, which says anything that it may, and the embedded one."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from ramet.backends.local import Engine
from ramet.errors import InvalidRequest
from tests.models.checkpoints import make_checkpoint

CHARACTER = r"""\{
    "name": "[\w\d\s]{1,16}",
    "guild": "(Smiths|Weavers|Bakers|Masons)",
    "tool": \{
        "wood": "[a-z ]{1,12}",
        "length": [0-9]{1,2}\.[0-9]{0,2}
    \},
    "alive": (true|false)
\}"""
PATTERNS = [
    "[0-9]{1,7}",
    r"[-+]?[0-9]*\.?[0-9]+[\n ]*",
    "(yes|no|perhaps)",
    r'"[^"\\\x00-\x1f]*"',
    r"(Mon|Tues)day, [0-3][0-9] (May|June) 20[0-9]{2}",
    r"(äpfel|birnen|日本語|😀){1,3}",
    r"[\w ]{5,30}",
    r"(?i:ramet)[.!]?",
    CHARACTER,
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("constraints") / "llama")


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    with Engine(checkpoint, max_cache_tokens=6000, audit=True, seed=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def pocket() -> Iterator[Engine]:
    with Engine("pocket", max_cache_tokens=8000) as engine:
        yield engine


def ask(pattern: str, seed: int, **more: Any) -> dict[str, Any]:
    return {"regex": pattern, "max_new_tokens": 200, "sampling_seed": seed, **more}


def check(pattern: str, answer: dict[str, Any]) -> None:
    assert answer["meta_info"]["finish_reason"]["type"] == "stop"
    assert re.fullmatch(pattern, answer["text"]), answer["text"]


def test_random_models_say_what_they_may(engine: Engine) -> None:
    """A batch of constrained and free requests: each text matches, and is what the request gives alone."""
    calls = [(f"It is {i}: ", ask(p, i)) for i, p in enumerate(PATTERNS * 3)]
    calls += [(f"free {i}", {"max_new_tokens": 30, "sampling_seed": i}) for i in range(5)]
    random.Random(1).shuffle(calls)
    answers = engine.generate([c[0] for c in calls], [c[1] for c in calls])
    for (prompt, params), answer in zip(calls, answers, strict=True):
        if "regex" in params:
            check(params["regex"], answer)
        engine.flush_cache()
        assert engine.generate(prompt, params)["output_ids"] == answer["output_ids"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_jumping_changes_nothing(pocket: Engine, pattern: str) -> None:
    """Not the tokens, whether they are taken or asked for, with guesses or without."""
    with Engine("pocket", max_cache_tokens=8000, jump_forward=False) as asked:
        with Engine("pocket", max_cache_tokens=8000, drafts=False) as plain:
            for seed in range(4):
                params = ask(pattern, seed, temperature=0.0 if seed < 2 else 0.8)
                prompt = f"Question {seed}. Answer: "
                answer = pocket.generate(prompt, params)
                check(pattern, answer)
                scored = pocket.generate(prompt, params, return_logprob=True)
                others = [asked.generate(prompt, params), plain.generate(prompt, params), scored]
                for other in others:
                    assert other["output_ids"] == answer["output_ids"]
                assert scored["meta_info"]["output_token_logprobs_length"] == len(
                    answer["output_ids"]
                )
                assert others[0]["meta_info"]["forced_tokens"] == 0


def test_forced_tokens_are_the_tokenizers_own(pocket: Engine) -> None:
    answer = pocket.generate("A person: ", ask(CHARACTER, 1, temperature=0))
    meta = answer["meta_info"]
    assert meta["forced_tokens"] > meta["completion_tokens"] / 2
    head = '{\n    "name":'
    assert answer["output_ids"][: len(pocket.tokenizer.encode_continuation(head))] == (
        pocket.tokenizer.encode_continuation(head)
    )


def test_many_samples_streams_and_scores(pocket: Engine) -> None:
    params = ask(CHARACTER, 3, n=3, temperature=1.0)
    many = pocket.generate("One more: ", params)
    for answer in many:
        check(CHARACTER, answer)
    assert len({answer["text"] for answer in many}) > 1
    *before, last = pocket.generate("One more: ", ask(CHARACTER, 3), stream=True)
    check(CHARACTER, last)
    assert all(last["text"].startswith(r["text"]) for r in before)
    assert pocket.generate("One more: ", ask(CHARACTER, 3))["text"] == last["text"]


def test_preempted_requests_go_on_where_they_were(checkpoint: Path) -> None:
    calls = [ask(CHARACTER, i, max_new_tokens=130) for i in range(6)]
    with Engine(checkpoint, max_cache_tokens=320, audit=True) as small:
        first = small.generate([f"{i} " for i in range(6)], calls)
        small.flush_cache()
        # Masks are known by now, so that the requests keep pace and all want memory at once.
        answers = small.generate([f"{i} " for i in range(6)], calls)
        assert small.stats.num_preemptions > 0
        assert [a["output_ids"] for a in first] == [a["output_ids"] for a in answers]
    with Engine(checkpoint, max_cache_tokens=6000) as large:
        wanted = large.generate([f"{i} " for i in range(6)], calls)
    assert [a["output_ids"] for a in answers] == [a["output_ids"] for a in wanted]
    for answer in answers:
        check(CHARACTER, answer)


@pytest.mark.parametrize("most", range(1, 16))
def test_a_small_budget_gives_the_shortest_text_or_says_incomplete(
    engine: Engine, most: int
) -> None:
    pattern = r'"[a-z]{2,}" is (small|large)'
    for seed in range(6):
        answer = engine.generate("x", ask(pattern, seed, max_new_tokens=most))
        reason = answer["meta_info"]["finish_reason"]
        if re.fullmatch(pattern, answer["text"]):
            assert reason == {"type": "stop", "matched": None}
        else:
            assert reason == {"type": "length", "length": most, "incomplete": True}
            # one of the ends that are shortest in bytes, each byte-wise division aside
            shortest = [
                len(engine.tokenizer.encode_continuation(f'"aa" is {word}'))
                for word in ("small", "large")
            ]
            assert most < max(shortest)


def test_without_steering_a_text_may_be_cut(checkpoint: Path) -> None:
    with Engine(checkpoint, max_cache_tokens=1000, complete_constraints=False) as cut:
        answer = cut.generate("x", ask('"[a-z]{90,}"', 1, max_new_tokens=5))
    assert answer["meta_info"]["finish_reason"] == {
        "type": "length", "length": 5, "incomplete": True
    }  # fmt: skip


def test_a_text_that_may_end_is_complete_where_it_is_cut(engine: Engine) -> None:
    answer = engine.generate("x", ask("[ab]*", 1, max_new_tokens=3, ignore_eos=True))
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 3}


def test_stop_strings_and_end_tokens(engine: Engine) -> None:
    answer = engine.generate("x", ask("[0-9]+[ \n]*", 2, stop=[" ", "\n"], temperature=2.0))
    assert re.fullmatch("[0-9]+", answer["text"]) or (
        answer["meta_info"]["finish_reason"]["type"] == "length"
    )
    eos = sorted(engine.tokenizer.eos_token_ids)
    told = {"logit_bias": dict.fromkeys(eos, 100.0)}
    answer = engine.generate("x", ask("[0-9]{3}[a-z]*", 2, **told))
    assert re.fullmatch("[0-9]{3}", answer["text"])  # as soon as it may, and not before
    assert answer["meta_info"]["finish_reason"]["matched"] in eos
    answer = engine.generate("x", ask("[0-9]{3}[a-z]*", 2, min_new_tokens=12, **told))
    assert answer["meta_info"]["completion_tokens"] >= 12


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"regex": "(a"}, "regex"),
        ({"regex": r"(a)\1"}, "regex"),
        ({"regex": "(?=a)b"}, "regex"),
        ({"regex": "(" * 60_000 + "a" + ")" * 60_000}, "regex"),
        ({"regex": "(a{1000}){1000}"}, "regex"),
        ({"regex": "[^\\s\\S]"}, "matches no text"),
        ({"regex": "a", "json_schema": "{}"}, "cannot be combined"),
    ],
)
def test_what_is_wrong_is_named_and_the_engine_goes_on(
    engine: Engine, params: dict[str, Any], message: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=message):
            engine.generate("x", params)
    with pytest.raises(InvalidRequest, match=message):
        asyncio.run(engine.async_generate("x", params))
    check("[0-9]{3}", engine.generate("x", ask("[0-9]{3}", 1)))


def test_a_constraint_that_grows_without_end_fails_alone(engine: Engine) -> None:
    """2^30 states: refused where it is met, while others go on."""
    hostile = "[ab]*a[ab]{29}c"
    calls = [ask(hostile, 1, max_new_tokens=400), ask(CHARACTER, 1)]
    job = asyncio.run(_gather(engine, calls))
    check(CHARACTER, job[1])
    if isinstance(job[0], Exception):
        assert "regex" in str(job[0])
    else:
        check(hostile, job[0])


async def _gather(engine: Engine, calls: list[dict[str, Any]]) -> list[Any]:
    tasks = [engine.async_generate("x", params) for params in calls]
    return await asyncio.gather(*tasks, return_exceptions=True)
