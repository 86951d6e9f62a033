"""Small engines on the hash model, for the engine's tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ramet.engine.loop import EngineCore
from ramet.engine.request import LogprobOptions, Request
from ramet.engine.schedule import Limits
from ramet.engine.simulate import HashRunner, PlainText, VirtualClock
from ramet.params import SamplingParams

VOCAB = 1000


def make_core(
    num_slots: int = 10_000,
    *,
    poison: Sequence[int] = (),
    limits: Limits | None = None,
    **options: Any,
) -> EngineCore:
    runner = HashRunner(num_slots, VOCAB, poison)
    return EngineCore(
        runner,
        num_slots=num_slots,
        max_context=options.pop("max_context", num_slots + 1),
        clock=VirtualClock(),
        limits=limits,
        audit_every_step=True,
        **options,
    )


_count = 0


def ask(prompt: Sequence[int], new: int = 1, start: int | None = None, **fields: Any) -> Request:
    global _count
    _count += 1
    return Request(
        rid=fields.pop("rid", f"r{_count}"),
        prompt_ids=np.array(prompt, np.int64),
        params=SamplingParams(max_new_tokens=new),
        text=PlainText(),
        logprobs=LogprobOptions(output=True, prompt_start=start),
        **fields,
    )


def run_all(core: EngineCore, requests: Sequence[Request] = (), max_steps: int = 10_000) -> int:
    """Add, step until nothing is left, return the number of steps."""
    for request in requests:
        core.add(request)
    steps = 0
    while core.has_work:
        core.step()
        steps += 1
        assert steps < max_steps, "the engine does not finish"
    return steps
