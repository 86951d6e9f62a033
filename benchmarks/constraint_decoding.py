"""Objects decoded under a constraint by Ramet's engine: with forced text taken as it is (jump-forward),
with every token asked for, and free text of as many tokens.

`character` and `city` are whole objects by one regular expression (a prompt of 25 tokens; a document of
3,000), `schemas` brings a JSON Schema of its own with every request. The regular expressions are compiled by a
warm-up, the schemas are new in every run. Modes take turns: A B C, C B A. Every run begins with an empty
cache, so times include prompts. Random weights draw any token that may come, a trained model's texts are
closer to real ones. No drafts: random weights repeat themselves, and right guesses would hide what is
measured. Knows the engine; refuses to know how constraints work.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.constraint_cases import CHARACTER, CITY
from benchmarks.constraint_schemas import NUM_SHAPES, of_request
from benchmarks.others import MUCH, Clock
from benchmarks.weights import SHAPES, checkpoint
from benchmarks.workloads import Words
from ramet import Engine

__all__ = ["BATCHES", "MODES", "WORKLOADS", "measure"]

WORKLOADS = {"character": 50, "city": 20, "schemas": 24}  # objects at scale 1
BATCHES = (1, 16)
MODES = ("jump", "ask", "free")
MOST_NEW = 256
_PROMPT, _DOCUMENT = 25, 3000  # tokens


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `counts`: tokens of each object; `forced` of them not asked for; `whole`: objects that
    satisfy their constraint."""

    seconds: float
    steps: int
    counts: list[int]
    forced: int
    whole: int
    others: float | None


def measure(
    model: str,
    names: Sequence[str],
    *,
    scale: float,
    rounds: int,
    options: dict[str, Any],
    patience: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """A row per workload and batch: modes with medians over the rounds and ratios of neighbouring runs.
    `patience`: seconds for repeating a run while others disturb it."""
    path: Path | str = checkpoint(model) if model in SHAPES else model
    for batch in BATCHES:
        with ExitStack() as stack:
            settings = {"drafts": False, "max_running": batch, **options}
            engines = {
                mode: stack.enter_context(Engine(path, jump_forward=mode == "jump", **settings))
                for mode in MODES[:2]
            }
            for name in names:
                count = max(batch, round(WORKLOADS[name] * scale))
                yield {
                    **_measure(engines, model, name, batch, count, rounds, patience),
                    "options": options,
                    "rounds": rounds,
                }


def _measure(
    engines: dict[str, Engine],
    model: str,
    name: str,
    batch: int,
    count: int,
    rounds: int,
    patience: float,
) -> dict[str, Any]:
    prompts = _prompts(engines["jump"], name, count)
    runs: dict[str, list[Run]] = {mode: [] for mode in MODES}
    for engine in engines.values():
        _run(engine, prompts[:2], _constrained(name, 2, 0))
    asked = _constrained(name, count, 1)
    counts = [len(ids) for ids in _generate(engines["jump"], prompts, asked)]
    for number in range(rounds):
        for mode in MODES[:: 1 if number % 2 == 0 else -1]:
            if mode == "free":
                asked, engine = _free(counts), engines["ask"]
            else:
                asked, engine = _constrained(name, count, number + 2), engines[mode]
            runs[mode].append(_undisturbed(engine, prompts, asked, name == "schemas", patience))
    return {
        "model": model,
        "workload": name,
        "batch": batch,
        "objects": count,
        "prompt_tokens": len(prompts[0]),
        "modes": {mode: _figures(runs, mode) for mode in MODES},
    }


# -- requests ------------------------------------------------------------------------------------


def _prompts(engine: Engine, name: str, count: int) -> list[list[int]]:
    words, rng = Words(engine.tokenizer, engine.config.vocab_size), random.Random(name)
    length = _PROMPT
    if name == "city":
        room = engine.host.call(lambda core: core.max_context) - MOST_NEW - 8
        length = min(_DOCUMENT, room)
    texts = [words.own(rng, number, length) for number in range(count)]
    return [engine.tokenizer.encode(text) for text in texts]


def _constrained(name: str, count: int, series: int) -> list[dict[str, Any]]:
    """Requests with the same numbers have schemas of the same form in each `series`, but not the same."""
    found = []
    for number in range(count):
        if name == "schemas":
            constraint = {"json_schema": of_request(1000 * NUM_SHAPES * series + number)}
        else:
            constraint = {"regex": CHARACTER if name == "character" else CITY}
        how = {"max_new_tokens": MOST_NEW, "temperature": 1.0, "sampling_seed": number}
        found.append({**how, **constraint})
    return found


def _free(counts: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"max_new_tokens": count, "temperature": 1.0, "sampling_seed": number, "ignore_eos": True}
        for number, count in enumerate(counts)
    ]


def _generate(
    engine: Engine, prompts: Sequence[Sequence[int]], asked: Sequence[dict[str, Any]]
) -> list[list[int]]:
    answers = engine.generate(input_ids=prompts, sampling_params=asked)
    return [answer["output_ids"] for answer in answers]


def _undisturbed(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    asked: Sequence[dict[str, Any]],
    once: bool,
    patience: float,
) -> Run:
    """`_run`, again while others took too much of the processors and for at most `patience` seconds; of
    several the least disturbed. `once`: a second run would find its schemas compiled."""
    end = time.perf_counter() + patience
    runs = [_run(engine, prompts, asked)]
    while not once and (runs[-1].others or 0) > MUCH and time.perf_counter() < end:
        runs.append(_run(engine, prompts, asked))
    return min(runs, key=lambda run: run.others or 0)


def _run(engine: Engine, prompts: Sequence[Sequence[int]], asked: Sequence[dict[str, Any]]) -> Run:
    engine.flush_cache()
    before, clock = engine.stats, Clock.read()
    start = time.perf_counter()
    answers = engine.generate(input_ids=prompts, sampling_params=asked)
    seconds = time.perf_counter() - start
    later, after = Clock.read(), engine.stats
    metas = [answer["meta_info"] for answer in answers]
    return Run(
        seconds=seconds,
        steps=after.num_steps - before.num_steps,
        counts=[meta["completion_tokens"] for meta in metas],
        forced=sum(meta.get("forced_tokens", 0) for meta in metas),
        whole=sum(not meta["finish_reason"].get("incomplete", False) for meta in metas),
        others=later.others_since(clock) if clock and later else None,
    )


# -- figures -------------------------------------------------------------------------------------


def _figures(runs: dict[str, list[Run]], mode: str) -> dict[str, Any]:
    """`of_free`: objects per second over those of free text of as many tokens, in the same round;
    `step_of_free` the same for seconds per step. A pass is a step of the model, for one object or several."""
    own, free = runs[mode], runs["free"]
    steps = [run.seconds / run.steps for run in own]
    tokens = [sum(run.counts) for run in own]
    objects = len(own[0].counts)
    others = [run.others for run in own if run.others is not None]
    return {
        "seconds": statistics.median(run.seconds for run in own),
        "objects_per_second": statistics.median(objects / run.seconds for run in own),
        "tokens_per_second": statistics.median(t / run.seconds for t, run in zip(tokens, own)),
        "passes_per_object": statistics.median(run.steps / objects for run in own),
        "tokens_per_pass": statistics.median(t / run.steps for t, run in zip(tokens, own)),
        "tokens_per_object": statistics.median(t / objects for t in tokens),
        "forced": statistics.median(run.forced / max(1, t) for t, run in zip(tokens, own)),
        "whole": min(run.whole / objects for run in own),
        "seconds_per_step": statistics.median(steps),
        "of_free": statistics.median(b.seconds / a.seconds for a, b in zip(own, free)),
        "step_of_free": statistics.median(
            step / (b.seconds / b.steps) for step, b in zip(steps, free)
        ),
        "busy_with_others": max(others) if others else None,
        "rounds": [run.seconds for run in own],
    }
