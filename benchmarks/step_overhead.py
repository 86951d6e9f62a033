"""What a step costs outside of the model: plan, batch, sampling, text and delivery to who waits.

The real scheduler, cache, sampler, tokenizer and host drive a model that costs nothing: its logits lie
ready. Every request decodes; nearly all of its context is shared, as in a program's forks. Per
case: `step` is the time of `EngineCore.step`, `host` what a step takes with the engine's thread and
callers that wait for the end, `draw` the part of either that is the drawing kernel. The aim, without that,
is 0.3 ms + 5 us per running request.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from ramet.engine.batch import Batch
from ramet.engine.host import EngineHost
from ramet.engine.loop import EngineCore
from ramet.engine.request import LogprobOptions, Request
from ramet.engine.runner import ModelRunner
from ramet.engine.sampler import Plain, draw
from ramet.engine.text import GenerationText
from ramet.engine.tokenizer import Tokenizer
from ramet.params import SamplingParams
from ramet.pocket import model_path

__all__ = ["FreeRunner", "main"]

NUM_SLOTS = 131_072
VOCAB = 512  # the sampler's own arithmetic is measured by `sampling`
OWN_TOKENS = 16
STEPS = 60


class FreeRunner(ModelRunner):
    """Sampling as it is, on logits that were made before."""

    def __init__(self, vocab: int = VOCAB, rows: int = 256) -> None:
        generator = torch.Generator().manual_seed(1)
        self._logits = torch.randn(rows, vocab, generator=generator)

    def run(self, batch: Batch) -> torch.Tensor:
        return self._logits[: len(batch.logit_rows)]


def make_core() -> EngineCore:
    return EngineCore(
        FreeRunner(), num_slots=NUM_SLOTS, max_context=1 << 20, clock=time.perf_counter
    )


def ask(tokenizer: Tokenizer, count: int, context: int, new: int, **params: Any) -> list[Request]:
    rng = np.random.default_rng(0)
    shared = rng.integers(256, VOCAB, max(0, context - OWN_TOKENS))
    found = []
    for i in range(count):
        ids = np.concatenate([shared, rng.integers(256, VOCAB, min(OWN_TOKENS, context))])
        how = SamplingParams(max_new_tokens=new, ignore_eos=True, **params)
        text = GenerationText(tokenizer, ids, how)
        found.append(
            Request(
                rid=str(i),
                prompt_ids=ids,
                params=how,
                text=text,
                seed=i,
                logprobs=LogprobOptions(),
            )
        )
    return found


def step_seconds(tokenizer: Tokenizer, count: int, context: int, **params: Any) -> float:
    """Median time of a step in which `count` requests decode."""
    core = make_core()
    for request in ask(tokenizer, count, context, STEPS + 50, **params):
        core.add(request)
    while any(not r.output_ids for r in core.requests()):
        core.step()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        core.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def host_seconds(tokenizer: Tokenizer, count: int, context: int, **params: Any) -> float:
    """Time per step of requests that another thread waits for, from submission to the last answer, less
    that of the same requests with a single token."""
    host = EngineHost(make_core())

    def run(new: int) -> float:
        requests = ask(tokenizer, count, context, new, **params)
        start = time.perf_counter()
        host.submit(requests).result()
        return time.perf_counter() - start

    run(1)
    few = min(run(1) for _ in range(3))
    many = min(run(STEPS + 1) for _ in range(3))
    host.close()
    return (many - few) / STEPS


def drawing_seconds(rows: int, **params: Any) -> float:
    """Median time that the kernel takes to draw a token for each of `rows`: the part of a step's time
    that is arithmetic."""
    logits = FreeRunner(rows=rows)._logits
    hows = [Plain(SamplingParams(**params), seed) for seed in range(rows)]
    times = []
    for step in range(STEPS):
        start = time.perf_counter()
        draw(logits, range(rows), hows, [step] * rows)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def sampling(rows: int, vocab: int, **params: Any) -> float:
    """Seconds to draw a token for each of `rows`."""
    runner = FreeRunner(vocab, rows)
    requests = ask(Tokenizer.load(model_path()), rows, 4, 1, **params)
    logits = runner._logits * 4  # about as peaked as a model's
    batch = _drawing(requests)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        runner.sample(batch, logits)
        times.append(time.perf_counter() - start)
    return min(times)


def _drawing(requests: list[Request]) -> Any:
    """As much of a batch as sampling reads."""
    from types import SimpleNamespace

    from ramet.engine.batch import SampleQuery

    queries = tuple(
        SampleQuery(request, i, len(request.output_ids)) for i, request in enumerate(requests)
    )
    return SimpleNamespace(samples=queries, scores=())


def main() -> None:
    torch.set_num_threads(1)
    print(f"machine: {describe()}")
    tokenizer = Tokenizer.load(model_path())
    kinds: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0.0},
        "sampled": {"temperature": 0.8, "top_p": 0.9},
    }
    names = ("running", "context", "step ms", "host ms", "draw ms", "aim ms")
    print(f"{'':8}" + "".join(f" {name:>9}" for name in names))
    for name, params in kinds.items():
        for context in (100, 4000):
            for count in (1, 8, 64, 256):
                step = step_seconds(tokenizer, count, context, **params) * 1e3
                host = host_seconds(tokenizer, count, context, **params) * 1e3
                drawing = drawing_seconds(count, **params) * 1e3
                aim = 0.3 + 0.005 * count
                print(
                    f"{name:8} {count:9} {context:9} {step:9.3f} {host:9.3f} {drawing:9.3f} {aim:9.3f}"
                )
    data = torch.zeros(64, 49_152)
    start = time.perf_counter()
    data.numpy().max()
    one_pass = (time.perf_counter() - start) * 1e3
    print(f"64 rows x 49,152: one pass over memory {one_pass:.2f} ms")
    for name, params in {**kinds, "unlimited": {"temperature": 0.8}}.items():
        print(f"  {name}: {sampling(64, 49_152, **params) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
