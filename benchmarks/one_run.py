"""One run of one workload on one engine: its programs, its times, its counters.

Knows the engine's counters and the recorder; refuses to know what is compared with what.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.others import Clock
from benchmarks.recorder import Recorder, TracedCall
from benchmarks.switches import Switch
from benchmarks.workloads import Load
from ramet import Engine
from ramet.engine.stats import EngineStats

__all__ = ["Measured", "run_once"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Times in seconds; `first_token` from a call to its first token, `program` from a program's
    beginning to its end; p95: the time that 95 % stay below. `hit_rate` counts what the model computed
    of prompts, announced prefixes too: 1 - computed prompt tokens / prompt tokens; `told_hit_rate` is
    the engine's own count, which leaves those out. `guessed_tokens` are drafts (the rows of wrong ones are
    in no other count). `busy_with_others`: the share of the processors that other processes had."""

    seconds: float
    programs: int
    programs_per_second: float
    first_token_mean: float | None
    first_token_p95: float | None
    program_mean: float
    program_p95: float
    calls: int
    prompt_tokens: int
    generated_tokens: int
    computed_tokens: int
    hit_rate: float
    told_hit_rate: float
    steps: int
    preemptions: int
    guessed_tokens: int
    rightly_guessed: int
    busy_with_others: float | None
    tokens_digest: str


def run_once(engine: Engine, load: Load, switch: Switch) -> tuple[Measured, list[TracedCall]]:
    """Run all programs of `load` on an empty cache. What fails in a program is raised."""
    recorder = Recorder(engine, hints=switch.hints, serial=switch.serial)
    engine.flush_cache()
    before, clock = engine.stats, Clock.read()
    start = time.perf_counter()
    latencies = _run_programs(recorder, load, switch)
    seconds = time.perf_counter() - start
    later, after = Clock.read(), engine.stats
    others = later.others_since(clock) if clock and later else None
    trace = recorder.trace()
    return _measured(seconds, latencies, trace, (before, after), others), trace


def _run_programs(recorder: Recorder, load: Load, switch: Switch) -> list[float]:
    def one(number: int) -> float:
        start = time.perf_counter()
        state = load.program.run(
            **load.items[number],
            backend=recorder.client(number),
            temperature=load.temperature,
            sampling_seed=number,
        )
        state.sync()
        return time.perf_counter() - start

    workers = 1 if switch.one_by_one else min(load.concurrency, len(load.items))
    with ThreadPoolExecutor(workers, thread_name_prefix="program") as pool:
        return list(pool.map(one, range(len(load.items))))


def _measured(
    seconds: float,
    latencies: list[float],
    trace: list[TracedCall],
    stats: tuple[EngineStats, EngineStats],
    others: float | None,
) -> Measured:
    before, after = stats
    prompt = sum(len(call.prompt) for call in trace)
    generated = sum(call.generated for call in trace)
    computed = after.num_computed_tokens - before.num_computed_tokens
    # A call that draws n tokens feeds n - 1 of them to the model.
    of_prompts = computed - sum(max(0, call.generated - 1) for call in trace)
    told = after.num_prompt_tokens - before.num_prompt_tokens
    firsts = [call.first_token for call in trace if call.first_token is not None]
    return Measured(
        seconds=seconds,
        programs=len(latencies),
        programs_per_second=len(latencies) / seconds,
        first_token_mean=statistics.fmean(firsts) if firsts else None,
        first_token_p95=_p95(firsts) if firsts else None,
        program_mean=statistics.fmean(latencies),
        program_p95=_p95(latencies),
        calls=len(trace),
        prompt_tokens=prompt,
        generated_tokens=generated,
        computed_tokens=computed,
        hit_rate=1 - of_prompts / prompt,
        told_hit_rate=(after.num_cached_tokens - before.num_cached_tokens) / max(1, told),
        steps=after.num_steps - before.num_steps,
        preemptions=after.num_preemptions - before.num_preemptions,
        guessed_tokens=after.num_draft_tokens - before.num_draft_tokens,
        rightly_guessed=after.num_accepted_tokens - before.num_accepted_tokens,
        busy_with_others=others,
        tokens_digest=_digest(trace),
    )


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _digest(trace: list[TracedCall]) -> str:
    """Of all tokens of all calls, whatever order they came in."""
    lines = sorted(
        f"{call.program}|{call.prompt.tolist()}|{call.output.tolist()}" for call in trace
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
