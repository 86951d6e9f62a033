"""Random schedules on a real model, and what each request gives alone on an empty cache.

The two must agree in every bit of every log-probability, and hence in every token.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from ramet.engine.drafts import Drafts
from ramet.engine.loop import EngineCore
from ramet.engine.request import LogprobOptions, Request
from ramet.engine.runner import ModelRunner
from ramet.engine.schedule import Limits
from ramet.engine.simulate import PlainText, VirtualClock
from ramet.models.decoder import Decoder
from ramet.params import SamplingParams


class ExactWorld:
    """One random run of `model`: what happens is drawn from `seed` alone. `run` compares."""

    def __init__(self, model: Decoder, seed: int, scale: int = 1) -> None:
        self.model, self.rng = model, random.Random(seed)
        self.vocab = model.config.vocab_size
        self.texts: list[list[int]] = [[]]
        self.requests: list[Request] = []
        self.slots = self.rng.choice([160, 220, 900]) * scale
        self.scale = scale
        self.num_tokens = 0
        self.num_preemptions = self.num_draft_tokens = self.num_accepted_tokens = 0

    def arrive(self, core: EngineCore) -> None:
        rng = self.rng
        base = rng.choice(self.texts)
        kept = rng.randint(0, len(base))
        tail = rng.choice([1, 5, 40, 70, 130]) * self.scale
        if rng.random() < 0.3:
            kept, tail = len(base), 3
        prompt = base[:kept] + [rng.randrange(self.vocab) for _ in range(rng.randint(1, tail))]
        prompt = prompt[: self.slots * 2 // 3]
        self.texts.append(prompt)
        new = rng.randint(1, min(40, self.slots - len(prompt)))
        request = self.request(f"{len(self.requests)}", prompt, new)
        self.requests.append(request)
        core.add(request)

    def request(self, rid: str, prompt: list[int], new: int) -> Request:
        rng = self.rng
        params = SamplingParams(
            max_new_tokens=new,
            temperature=rng.choice([0.0, 0.0, 1.0]),
            top_p=rng.choice([1.0, 0.8]),
            frequency_penalty=rng.choice([0.0, 0.0, 0.7]),
            # Few different tokens, so that what follows a few of them can be guessed now and then.
            logit_bias=tuple((t, 100.0) for t in range(3)) if rng.random() < 0.5 else (),
        )
        return Request(
            rid=rid,
            prompt_ids=np.array(prompt, np.int64),
            params=params,
            text=PlainText(),
            seed=rng.randrange(1000),
            logprobs=LogprobOptions(output=True, top=2, prompt_start=rng.choice([None, None, 0])),
        )

    def core(
        self, slots: int, limits: Limits, policy: str = "lpm", drafts: Drafts | None = None
    ) -> EngineCore:
        return EngineCore(
            ModelRunner(self.model, self.model.make_kv_pool(slots)),
            num_slots=slots,
            max_context=self.model.max_context,
            clock=VirtualClock(),
            limits=limits,
            policy=policy,  # type: ignore[arg-type]
            drafts=drafts,
        )

    def run(self) -> None:
        rng = self.rng
        core = self.core(
            self.slots,
            Limits(
                max_step_tokens=rng.choice([7, 33, 64, 1000]), max_running=rng.choice([2, 6, 50])
            ),
            rng.choice(["lpm", "fcfs", "random"]),
            Drafts() if rng.random() < 0.7 else None,
        )
        arrivals = rng.randint(4, 14)
        while arrivals or core.has_work:
            if arrivals and rng.random() < 0.5:
                self.arrive(core)
                arrivals -= 1
            core.step()
            for request in self.requests[-4:]:
                if request.finished and rng.random() < 0.3:
                    self.texts.append([int(t) for t in request.known])
        self.num_preemptions = core.stats().num_preemptions
        self.num_draft_tokens = core.stats().num_draft_tokens
        self.num_accepted_tokens = core.stats().num_accepted_tokens
        self.num_tokens = sum(len(r.known) for r in self.requests)
        for request in self.requests:
            self.compare(request)

    def alone(self, request: Request) -> Request:
        """The same request on an empty cache, nobody beside it, its prompt in one piece."""
        core = self.core(
            request.num_prompt + request.params.max_new_tokens + 1,
            Limits(max_step_tokens=100_000, use_cache=False),
        )
        again = Request(
            rid=request.rid,
            prompt_ids=request.prompt_ids,
            params=request.params,
            text=PlainText(),
            seed=request.seed,
            logprobs=request.logprobs,
        )
        core.add(again)
        while core.has_work:
            core.step()
        return again

    def compare(self, request: Request) -> None:
        assert request.error is None
        want = self.alone(request)
        assert request.output_ids == want.output_ids, f"request {request.rid}: other tokens"
        assert request.output_scores == want.output_scores, f"request {request.rid}: other bits"
        assert request.prompt_scores == want.prompt_scores, f"request {request.rid}: prompt bits"


def pocket_folder() -> Path:
    from ramet.pocket import model_path

    return model_path()
