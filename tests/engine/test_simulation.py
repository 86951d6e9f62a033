"""The real scheduler and cache on a model made of hashes: nothing lost, nothing doubled, all finish.

Each seed is one deterministic run: random arrivals, shared prefixes, forks of finished texts, scoring,
tenants with public beginnings, aborts, failing steps, tiny memory. Every output is compared with what the request would give alone.
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from ramet.cache.audit import audit
from ramet.engine.loop import EngineCore
from ramet.engine.misses import CAUSES
from ramet.engine.request import LogprobOptions, Request
from ramet.engine.schedule import Limits
from ramet.engine.simulate import (
    HashRunner,
    PlainText,
    VirtualClock,
    expected_scores,
    expected_tokens,
    prefix_hash,
)
from ramet.params import SamplingParams

VOCAB = 50
SEEDS = range(int(os.environ.get("RAMET_SIM_SEEDS", "1500")))


class World:
    """One random run. What happens is drawn from `seed` alone."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.slots = rng.choice([24, 40, 64, 200])
        self.clock = VirtualClock()
        self.runner = HashRunner(self.slots, VOCAB)
        self.core = EngineCore(
            self.runner,
            num_slots=self.slots,
            max_context=self.slots + 1,
            clock=self.clock,
            limits=Limits(
                max_step_tokens=rng.choice([1, 3, 8, 64]),
                max_running=rng.choice([1, 2, 5, 50]),
                use_cache=rng.random() < 0.9,
            ),
            policy=rng.choice(["lpm", "lpm", "fcfs", "random"]),
            max_overtaken=rng.choice([1, 3, 64]),
            seed=seed,
            token_bytes=lambda token: [b"a", b"aa", b"ab", b""][token % 4],
        )
        self.texts: list[list[int]] = [[]]
        self.requests: list[Request] = []
        self.fails = rng.random() < 0.3
        self.aborts = rng.random() < 0.5
        self.salts = rng.choice([[""], ["", "a", "b"]])

    def arrive(self) -> None:
        rng = self.rng
        base = rng.choice(self.texts)
        prompt = base[: rng.randint(0, len(base))] + [
            rng.randrange(3) for _ in range(rng.randint(0 if base else 1, 12))
        ]
        prompt = prompt[: self.slots // 2] or [1]
        longest = self.slots - len(prompt)
        new = rng.randint(0, max(0, min(rng.choice([10, 60]), longest)))
        start = rng.choice([None, None, 0, rng.randint(0, len(prompt))])
        request = Request(
            rid=str(len(self.requests)),
            prompt_ids=np.array(prompt, np.int64),
            params=SamplingParams(max_new_tokens=new),
            text=PlainText(),
            seed=rng.randrange(3),
            salt=rng.choice(self.salts),
            num_public=min(len(prompt), rng.choice([0, 2, 5, 100])),
            logprobs=LogprobOptions(output=True, prompt_start=start),
        )
        self.requests.append(request)
        self.texts.append(prompt)
        self.core.add(request)

    def step(self) -> None:
        rng = self.rng
        self.runner.fail_next = self.fails and rng.random() < 0.1
        before = self.progress()
        busy = self.core.step()
        assert not busy or self.progress() > before, "a step that did nothing"
        self.clock.advance(rng.random())
        if self.aborts and rng.random() < 0.05 and self.core.requests():
            self.core.abort(rng.choice(self.core.requests()).rid)
        self.check()
        for request in self.requests[-5:]:
            if request.finished and rng.random() < 0.2:
                self.texts.append([int(t) for t in request.known])

    def progress(self) -> int:
        stats = self.core.stats()
        done = stats.num_finished + stats.num_aborted + stats.num_failed
        return stats.num_computed_tokens + done + stats.num_failed_steps

    def check(self) -> None:
        kv = self.runner.kv
        audit(
            self.core.tree,
            self.core.scheduler.open_leases(),
            lambda slots: np.array([kv[int(s)] for s in slots], np.uint64),
            lambda tokens: np.array(
                [prefix_hash(tokens[: i + 1].tolist()) for i in range(len(tokens))], np.uint64
            ),
        )
        for request in self.requests:
            assert not (request.finished and request.lease is not None), (
                "a finished request owns slots"
            )

    def run(self) -> None:
        arrivals = self.rng.randint(1, 14)
        for _ in range(4000):
            while arrivals and self.rng.random() < 0.6:
                self.arrive()
                arrivals -= 1
            if not arrivals and not self.core.has_work:
                break
            self.step()
        assert not arrivals
        assert not self.core.has_work, "somebody waits for ever"
        self.check()

    def verify(self) -> None:
        for request in self.requests:
            assert request.finish_reason is not None
            if request.error is not None:
                assert self.fails
                continue
            prompt = request.prompt_ids.tolist()
            want = expected_tokens(prompt, request.params.max_new_tokens, request.seed, VOCAB)
            if request.finish_reason["type"] == "abort":
                assert request.output_ids == want[: len(request.output_ids)]
                continue
            assert request.finish_reason["type"] == "length"
            assert request.output_ids == want
            if request.logprobs.prompt_start is not None:
                scores = [s.logprob for s in request.prompt_scores]
                assert scores == expected_scores(prompt, request.logprobs.prompt_start)
        stats = self.core.stats()
        assert stats.num_finished + stats.num_aborted + stats.num_failed == len(self.requests)
        assert stats.num_running == stats.num_waiting == stats.num_pinned_tokens == 0
        assert stats.num_free_slots + stats.num_tree_tokens == self.slots
        missed = [getattr(stats, f"num_missed_{cause}") for cause in (*CAUSES, "logits")]
        assert min(missed) >= 0
        assert sum(missed) == stats.num_prompt_tokens - stats.num_cached_tokens
        assert self.core.flush()
        assert self.core.stats().num_free_slots == self.slots


@pytest.mark.parametrize("block", range(10))
def test_nothing_lost_nothing_doubled_everyone_finishes(block: int) -> None:
    num_preemptions = num_failed_steps = 0
    for seed in SEEDS[block::10]:
        world = World(seed)
        try:
            world.run()
            world.verify()
        except BaseException:
            print(f"seed {seed}")
            raise
        num_preemptions += world.core.stats().num_preemptions
        num_failed_steps += world.core.stats().num_failed_steps
    assert num_preemptions or len(SEEDS) < 1000, "the worlds are too easy"
    assert num_failed_steps or len(SEEDS) < 1000
