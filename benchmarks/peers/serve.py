"""One engine as a process: JSON lines in, JSON lines out.

    python -m benchmarks.peers.serve NAME

runs in the engine's own virtual environment, with the repository on PYTHONPATH. Requests are objects
with "do", answered by one object each with "ok":

- load: model, precision ("int8" or "fp32"), threads, options, capacity (tokens that must fit in the
  cache, and requests at once) -> seconds, about (versions and settings)
- run: workload, parameters, vocab, seed -> seconds, waves (seconds of each), first (seconds from the
  submission of a call to its first token, or null), tokens (generated per call), heads (the first token
  of each call of the first wave, which every engine is given the same prompts in)
- quit

Loading, conversion and building the workload are outside every timing. Knows the protocol and the clock;
refuses to know what an engine is beyond `Engine`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from benchmarks.peers.workloads import Wave, build, prompt_of

__all__ = ["ENGINES", "Answer", "Engine", "Settings", "answer_lines", "main", "run_waves"]

ENGINES = {
    "ramet": "ramet_engine",
    "vllm": "vllm_engine",
    "openvino": "openvino_engine",
    "llamacpp": "llamacpp_engine",
    "transformers": "transformers_engine",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is loaded with. `options` are its own (strings parsed as JSON where they can be).

    `cache_tokens` must fit in its KV cache, `requests` may run at once, `longest` is one request's size.
    """

    model: Path
    precision: str
    threads: int
    cache_tokens: int
    requests: int
    longest: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Generated ids; seconds from submission to the first of them, None where the engine does not say."""

    tokens: list[int]
    first: float | None


class Engine(Protocol):
    """A loaded engine. `generate` submits all prompts at once, decodes greedily past any end-of-text
    token, and returns when the last is done."""

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]: ...

    def forget(self) -> None: ...

    def about(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


def run_waves(
    engine: Engine, waves: Sequence[Wave], clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Ask for everything, wave by wave. Raises `RuntimeError` where an answer has a wrong length."""
    prompts: list[list[int]] = []
    answers: list[list[int]] = []
    first: list[float | None] = []
    seconds: list[float] = []
    began = clock()
    for wave in waves:
        start = clock()
        asked = [prompt_of(call, prompts, answers) for call in wave]
        got = engine.generate(asked, [call.out for call in wave])
        seconds.append(clock() - start)
        prompts += asked
        answers += [answer.tokens for answer in got]
        first += [answer.first for answer in got]
    total = clock() - began
    wanted = [call.out for wave in waves for call in wave]
    if (lengths := list(map(len, answers))) != wanted:
        wrong = next(i for i, pair in enumerate(zip(lengths, wanted)) if pair[0] != pair[1])
        raise RuntimeError(f"call {wrong} gave {lengths[wrong]} tokens, asked for {wanted[wrong]}")
    heads = [ids[0] for ids in answers[: len(waves[0])]]
    return {"seconds": total, "waves": seconds, "first": first, "tokens": lengths, "heads": heads}


def answer_lines(load: Callable[[Settings], Engine], lines: TextIO, reply: TextIO) -> None:
    """Serve requests until "quit" or the end of `lines`. An exception becomes an answer with ok=false."""
    engine: Engine | None = None
    try:
        for line in lines:
            request = json.loads(line)
            if request["do"] == "quit":
                break
            try:
                if request["do"] == "load":
                    start = time.perf_counter()
                    engine = load(_settings(request))
                    result = {"seconds": time.perf_counter() - start, "about": engine.about()}
                else:
                    result = _run(engine, request)
                answer = {"ok": True, **result}
            except Exception as error:
                traceback.print_exc()
                answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            reply.write(json.dumps(answer) + "\n")
            reply.flush()
    finally:
        if engine is not None:
            engine.close()


def _settings(request: dict[str, Any]) -> Settings:
    values = {key: value for key, value in request.items() if key != "do"}
    return Settings(**{**values, "model": Path(values["model"])})


def _run(engine: Engine | None, request: dict[str, Any]) -> dict[str, Any]:
    if engine is None:
        raise RuntimeError("nothing is loaded")
    waves = build(request["workload"], request["parameters"], request["vocab"], request["seed"])
    engine.forget()
    gc.collect()
    return run_waves(engine, waves)


def main(name: str) -> None:
    # Libraries print what they like; the answers get a channel of their own.
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = importlib.import_module(f"benchmarks.peers.{ENGINES[name]}")
    answer_lines(module.load, sys.stdin, reply)


if __name__ == "__main__":
    main(sys.argv[1])
