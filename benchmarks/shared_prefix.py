"""What sharing is worth: the same requests with the radix cache on and off, taken in turn.

Three shapes on the embedded model: many requests over one prefix, submitted cold at once; forks of one
text; a chat that grows turn by turn. The figures are medians of ratios of neighbouring runs, so that a
machine whose speed drifts does not decide them.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.machine import describe
from ramet import Engine

__all__ = ["main"]

ROUNDS = 3


@dataclass(frozen=True)
class Shape:
    name: str
    run: Callable[[Engine], None]


def words(rng: random.Random, count: int, vocab: int) -> list[int]:
    return [rng.randrange(256, vocab) for _ in range(count)]


def cold_burst(engine: Engine) -> None:
    """64 requests: 512 tokens that all share, 32 of their own, 8 generated."""
    rng = random.Random(1)
    shared = words(rng, 512, engine.config.vocab_size)
    prompts = [shared + words(rng, 32, engine.config.vocab_size) for _ in range(64)]
    params = {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}
    engine.generate(input_ids=prompts, sampling_params=params)


def forks(engine: Engine) -> None:
    """A text of 256 tokens, continued by 16; then 16 forks of that with 16 own tokens each."""
    rng = random.Random(2)
    params = {"max_new_tokens": 16, "temperature": 0, "ignore_eos": True}
    trunk = words(rng, 256, engine.config.vocab_size)
    trunk = trunk + engine.generate(input_ids=trunk, sampling_params=params)["output_ids"]
    tails = [trunk + words(rng, 16, engine.config.vocab_size) for _ in range(16)]
    engine.generate(input_ids=tails, sampling_params=params)


def chat(engine: Engine) -> None:
    """Eight turns of 64 tokens, each answered by 16, one after the other."""
    rng = random.Random(3)
    params = {"max_new_tokens": 16, "temperature": 0, "ignore_eos": True}
    history: list[int] = []
    for _ in range(8):
        history += words(rng, 64, engine.config.vocab_size)
        history += engine.generate(input_ids=history, sampling_params=params)["output_ids"]


SHAPES = [Shape("cold burst", cold_burst), Shape("forks", forks), Shape("chat", chat)]


def measure(engine: Engine, shape: Shape) -> tuple[float, int]:
    """Seconds and tokens computed for one run on an empty cache."""
    engine.flush_cache()
    before, start = engine.stats.num_computed_tokens, time.perf_counter()
    shape.run(engine)
    return time.perf_counter() - start, engine.stats.num_computed_tokens - before


def main() -> None:
    print(f"machine: {describe()}; model: pocket")
    with Engine("pocket") as on, Engine("pocket", disable_radix_cache=True) as off:
        print(
            f"{'shape':12} {'tokens on':>10} {'tokens off':>11} {'ms on':>8} {'ms off':>8} {'off/on':>7}"
        )
        for shape in SHAPES:
            measure(on, shape), measure(off, shape)  # warm up
            pairs = [(measure(on, shape), measure(off, shape)) for _ in range(ROUNDS)]
            ratio = statistics.median(b[0] / a[0] for a, b in pairs)
            seconds = [statistics.median(p[i][0] for p in pairs) * 1000 for i in (0, 1)]
            tokens = [pairs[0][i][1] for i in (0, 1)]
            print(
                f"{shape.name:12} {tokens[0]:10} {tokens[1]:11} {seconds[0]:8.0f} {seconds[1]:8.0f} {ratio:6.1f}x"
            )


if __name__ == "__main__":
    main()
