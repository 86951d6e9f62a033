"""Triton's attention on a GPU: is it right, how far is it from the card's limits, and the engine on it.

    python -m benchmarks.triton_attention [--model pocket] [--json FILE]

The card's limits are measured in the same run: bandwidth by copying a tensor, the matrix rate by a large
product in the same dtype. A plan's floor is

    max(4 x heads x d x sum of contexts / matrix rate, (each key and value once + queries + results) / bandwidth)

so what rows share counts once, and what a kernel reads again counts against it. Every plan is also
computed by the reference in float32 on the same device (largest difference), and its last row alone (equal
bits or not). Without a GPU the reason is printed and nothing is measured.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.attention_plans import (
    CASES,
    DTYPES,
    MODELS,
    Card,
    Case,
    Heads,
    floor_seconds,
    num_bytes,
    num_keys,
    operations,
)
from ramet import Engine
from ramet.kernels import reference
from ramet.kernels.plan import AttentionPlan, IntArray

__all__ = ["main", "measure", "measure_card", "measure_engine", "why_not"]

_COLD_BYTES = (
    512 << 20
)  # keys and values of as many layers, so that none is still in the card's cache
_COPY_BYTES = 1 << 30
_SIDE = 8192  # of the matrices whose product is the card's rate


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds per layer; `host`: of cutting the plan, once for all layers. `error`: largest difference
    to the reference in float32."""

    heads: str
    case: str
    rows: int
    keys: int
    seconds: float
    reference: float
    host: float
    floor: float
    bytes_per_second: float
    operations_per_second: float
    error: float
    same_bits: bool


# -- measuring -------------------------------------------------------------------------------------


def seconds_per_call(run: Callable[[int], object], device: torch.device, budget: float) -> float:
    """The fastest of five rounds of calls one after the other; `run` is given the number of its call."""
    run(0)
    _wait(device)
    start = time.perf_counter()
    run(1)
    _wait(device)
    count = max(1, min(1000, int(budget / 5 / max(time.perf_counter() - start, 1e-6))))
    return min(_round(run, device, count) for _ in range(5))


def _round(run: Callable[[int], object], device: torch.device, count: int) -> float:
    start = time.perf_counter()
    for number in range(count):
        run(number)
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_card(device: torch.device, budget: float = 0.5, scale: float = 1.0) -> Card:
    source = torch.ones(int(_COPY_BYTES * scale) // 4, device=device)
    target = torch.empty_like(source)
    copy = seconds_per_call(lambda _: target.copy_(source), device, budget)
    rates = {}
    side = max(64, int(_SIDE * scale))
    for name, dtype in DTYPES.items():
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        time_each = seconds_per_call(functools.partial(_product, a, b), device, budget)
        rates[name] = 2 * side**3 / time_each
    called = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Card(called, 2 * source.numel() * 4 / copy, rates)


def _product(a: torch.Tensor, b: torch.Tensor, _number: int) -> torch.Tensor:
    return a @ b


def measure(
    case: Case,
    heads: Heads,
    card: Card,
    device: torch.device,
    *,
    scale: float = 1.0,
    budget: float = 0.5,
    cold_bytes: int = _COLD_BYTES,
) -> Figures:
    from ramet.kernels.triton import attention as kernel

    plan = case.plan(scale)
    q, layers = _tensors(plan, heads, device, cold_bytes)
    prepared = kernel.prepare(plan, device)

    def run(number: int) -> torch.Tensor:
        return kernel.attention(q, *layers[number % len(layers)], prepared)

    time_each = seconds_per_call(run, device, budget)
    slow = reference.prepare(plan, device)
    reference_each = seconds_per_call(
        lambda n: reference.attention(q, *layers[n % len(layers)], slow), device, budget / 5
    )
    got = run(0)
    wide = reference.attention(q.float(), *(t.float() for t in layers[0]), slow)
    return Figures(
        heads=heads.name,
        case=case.name,
        rows=plan.num_rows,
        keys=num_keys(plan),
        seconds=time_each,
        reference=reference_each,
        host=_host_seconds(plan, heads, kernel, q, layers[0]),
        floor=floor_seconds(plan, heads, card),
        bytes_per_second=num_bytes(plan, heads) / time_each,
        operations_per_second=operations(plan, heads) / time_each,
        error=float((got.float() - wide).abs().max()),
        same_bits=torch.equal(got[-1:], _last_row_alone(plan, kernel, q, layers[0])),
    )


def _tensors(
    plan: AttentionPlan, heads: Heads, device: torch.device, cold_bytes: int
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """q and the (keys, values) of as many layers as exceed `cold_bytes`."""
    dtype, slots = DTYPES[heads.dtype], num_keys(plan) + 1
    generator = torch.Generator(device).manual_seed(0)
    q = torch.randn(plan.num_rows, heads.num_heads, heads.d, generator=generator, device=device)
    shape = (2, slots, heads.num_kv_heads, heads.d)
    layer_bytes = 2 * slots * heads.num_kv_heads * heads.d * dtype.itemsize
    layers = []
    for _ in range(max(1, -(-cold_bytes // layer_bytes))):
        both = torch.randn(shape, generator=generator, device=device).to(dtype)
        layers.append((both[0], both[1]))
    return q.to(dtype), layers


def _host_seconds(
    plan: AttentionPlan,
    heads: Heads,
    kernel: Any,
    q: torch.Tensor,
    layer: tuple[torch.Tensor, torch.Tensor],
) -> float:
    """What the first layer costs more than the others: cutting the plan and sending it."""
    times = []
    for _ in range(3):
        prepared = kernel.prepare(plan, q.device)
        shape = heads.num_heads, heads.num_kv_heads, heads.d
        rows = kernel._shape(heads.num_heads // heads.num_kv_heads, heads.d, q.dtype)[0]
        start = time.perf_counter()
        kernel._work(prepared, *shape, rows // (heads.num_heads // heads.num_kv_heads))
        times.append(time.perf_counter() - start)
    _wait(layer[0].device)
    return min(times)


def _last_row_alone(
    plan: AttentionPlan, kernel: Any, q: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    path: IntArray = plan.paths[-1]
    alone = AttentionPlan(np.array([0, 1]), np.array([len(path) - 1]), (path,))
    result: torch.Tensor = kernel.attention(q[-1:], *layer, kernel.prepare(alone, q.device))
    return result


# -- the engine ------------------------------------------------------------------------------------


def few_shot(vocab: int, scale: float = 1.0) -> list[list[int]]:
    """64 prompts: 512 tokens that all share and 32 of their own."""
    rng = random.Random(1)
    size = max(1, round(512 * scale)), max(1, round(32 * scale))
    shared = [rng.randrange(256, vocab) for _ in range(size[0])]
    return [shared + [rng.randrange(256, vocab) for _ in range(size[1])] for _ in range(64)]


def measure_engine(engine: Any, scale: float = 1.0) -> dict[str, Any]:
    """Cold and warm seconds of the batch, and how many of its log-probabilities have other bits when it
    runs on a warm cache, and when the first eight run alone. The latter also counts other tokens."""
    prompts = few_shot(engine.config.vocab_size, scale)
    how = {"max_new_tokens": max(2, round(32 * scale)), "temperature": 0, "ignore_eos": True}
    _ask(engine, prompts, how)  # compiles and warms up
    answers, seconds = [], []
    for _ in range(2):
        if not answers:
            engine.flush_cache()
        start = time.perf_counter()
        answers.append(_ask(engine, prompts, how))
        seconds.append(time.perf_counter() - start)
    alone = []
    for prompt in prompts[:8]:
        engine.flush_cache()
        alone += _ask(engine, [prompt], how)
    cold, warm = answers
    return {
        "cold_seconds": seconds[0],
        "warm_seconds": seconds[1],
        "new_tokens": sum(len(answer) for answer in cold),
        "warm_other_bits": _differing(cold, warm),
        "warm_other_tokens": _differing(_tokens(cold), _tokens(warm)),
        "alone_other_bits": _differing(cold[:8], alone),
        "alone_other_tokens": _differing(_tokens(cold[:8]), _tokens(alone)),
    }


def _ask(engine: Any, prompts: list[list[int]], how: dict[str, Any]) -> list[list[Any]]:
    """(log-probability, token) of every new token of every prompt."""
    found = engine.generate(input_ids=prompts, sampling_params=how, return_logprob=True)
    return [[pair[:2] for pair in one["meta_info"]["output_token_logprobs"]] for one in found]


def _tokens(answers: list[list[Any]]) -> list[list[Any]]:
    return [[token for _, token in answer] for answer in answers]


def _differing(left: list[list[Any]], right: list[list[Any]]) -> int:
    return sum(a != b for x, y in zip(left, right) for a, b in zip(x, y))


# -- reporting -------------------------------------------------------------------------------------


def why_not() -> str | None:
    """None where there is something to measure."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA GPU"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None


def _print_card(card: Card) -> None:
    rates = ", ".join(f"{name} {rate / 1e12:.1f}" for name, rate in card.rates.items())
    print(f"{card.name}; copy {card.bandwidth / 1e9:.0f} GB/s; matrix product, TFLOP/s: {rates}")


def _print_head() -> None:
    print(
        f"{'heads':10} {'plan':24} {'rows':>6} {'keys':>7} {'us':>8} {'ref us':>9} {'cut us':>7} "
        f"{'GB/s':>6} {'TFLOP/s':>8} {'x floor':>8} {'error':>8}  bits alone"
    )


def _print_line(f: Figures) -> None:
    print(
        f"{f.heads:10} {f.case:24} {f.rows:6} {f.keys:7} {1e6 * f.seconds:8.1f} "
        f"{1e6 * f.reference:9.0f} {1e6 * f.host:7.0f} {f.bytes_per_second / 1e9:6.0f} "
        f"{f.operations_per_second / 1e12:8.2f} {f.seconds / f.floor:8.2f} {f.error:8.1e}  "
        f"{'equal' if f.same_bits else 'DIFFER'}",
        flush=True,
    )


def _print_engine(dtype: str, kernel: str, found: dict[str, Any]) -> None:
    bits = ", ".join(
        f"{when} {found[f'{when}_other_bits']} (tokens {found[f'{when}_other_tokens']})"
        for when in ("warm", "alone")
    )
    print(
        f"engine {dtype}, {kernel}: 64 prompts of 512 shared + 32, {found['new_tokens']} new tokens: "
        f"cold {found['cold_seconds']:.2f} s, warm {found['warm_seconds']:.2f} s; "
        f"log-probabilities with other bits: {bits}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triton_attention")
    parser.add_argument("--model", default="pocket", help="checkpoint folder for the engine")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args([] if arguments is None else arguments)
    reason = why_not()
    if reason is not None:
        print(f"nothing to measure: {reason}")
        return 0
    device = torch.device("cuda", torch.cuda.current_device())
    card = measure_card(device)
    _print_card(card)
    _print_head()
    figures = []
    for heads in MODELS:
        for case in CASES:
            figures.append(measure(case, heads, card, device))
            _print_line(figures[-1])
    engines = {}
    for dtype in ("float16", "float32"):
        with Engine(options.model, device="cuda", dtype=dtype) as engine:
            kernel = "Triton" if _has_triton(engine) else "reference"
            engines[dtype] = {"attention": kernel, **measure_engine(engine)}
            _print_engine(dtype, kernel, engines[dtype])
    if options.json is not None:
        data = {"card": asdict(card), "plans": [asdict(f) for f in figures], "engine": engines}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return 0


def _has_triton(engine: Any) -> bool:
    model = engine.host.call(lambda core: core.runner.model)
    return model._attention is not reference


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
