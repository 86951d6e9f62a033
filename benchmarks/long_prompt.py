"""What a long prompt costs those who continue it, outside of the model.

A program forks a prompt 64 ways and waits for all branches; then chats of 200 turns, in plain text and in
role blocks. Language, tokenizer, scheduler and cache are the real ones, the model costs nothing. A fork
of 32,000 tokens should cost what a fork of 100 tokens does, and the last turns of a chat what the first
ones do. What has to grow: a memory compare with the tree, one copy of the ids and one of the slots per
request; with role blocks also the rendering of the chat template, which sees every block.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

import torch

import ramet
from benchmarks.machine import describe
from benchmarks.step_overhead import FreeRunner
from ramet import Engine
from ramet.engine.loop import EngineCore

__all__ = ["main"]

NUM_FORKS = 64
NUM_TURNS = 200
ROUNDS = 7
LENGTHS = (100, 32_000)
HOW: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
SAID = "the of and to in a is that for it as was with be by on not he his but at are this"


def free_engine() -> Engine:
    """The embedded model's tokenizer in front of a model that costs nothing and sees any length."""
    engine = Engine("pocket", max_cache_tokens=131_072)

    def replace(core: EngineCore) -> None:
        core.runner = FreeRunner(vocab=engine.config.vocab_size)
        core.max_context = 1 << 20

    engine.host.call(replace)
    return engine


def text_of(engine: Engine, num_tokens: int, seed: int) -> str:
    rng = random.Random(seed)
    words = SAID.split()
    text = " ".join(rng.choice(words) for _ in range(num_tokens))
    return engine.tokenizer.decode(engine.tokenizer.encode(text)[:num_tokens])


@ramet.function
def forked(s: Any, text: str, tag: str) -> float:
    """Seconds from the fork to the last branch's answer."""
    s += text
    s += ramet.gen("start", max_tokens=1, **HOW)
    s.sync()
    start = time.perf_counter()
    branches = s.fork(NUM_FORKS)
    for i, branch in enumerate(branches):
        branch += f" {tag} {i} it was"
        branch += ramet.gen("answer", max_tokens=8, **HOW)
    for branch in branches:
        branch["answer"]
    return time.perf_counter() - start


@ramet.function
def chat(s: Any, blocks: bool) -> list[float]:
    """Seconds of each turn."""
    seconds = []
    for turn in range(NUM_TURNS):
        start = time.perf_counter()
        said = f"In turn {turn} {SAID}"
        answer = ramet.gen("answer", max_tokens=32, **HOW)
        if blocks:
            s += ramet.user(said) + ramet.assistant(answer)
        else:
            s += f"\nQ: {said}\nA:" + answer
        s["answer"]
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    torch.set_num_threads(1)
    print(f"machine: {describe()}")
    with free_engine() as engine:
        texts = {n: text_of(engine, n, n) for n in LENGTHS}
        found: dict[int, list[float]] = {n: [] for n in LENGTHS}
        for round_number in range(ROUNDS + 1):
            for n, text in texts.items():
                state = forked.run(text=text, tag=f"Round{round_number}", backend=engine)
                if round_number:
                    found[n].append(state.ret_value)
        best = {n: statistics.median(seconds) for n, seconds in found.items()}
        for n, seconds in best.items():
            print(f"{NUM_FORKS} forks of {n:6} tokens: {seconds * 1e3:7.2f} ms")
        short, long = best.values()
        print(f"ratio {long / short:.2f}; {(long - short) / NUM_FORKS * 1e6:.0f} us more per fork")
        for blocks in (False, True):
            turns = chat.run(blocks=blocks, backend=engine).ret_value
            early, late = statistics.median(turns[10:40]), statistics.median(turns[-30:])
            print(
                f"chat of {NUM_TURNS} turns in {'role blocks' if blocks else 'plain text'}: "
                f"turns 10-40 {early * 1e3:.2f} ms, the last 30 {late * 1e3:.2f} ms, "
                f"ratio {late / early:.2f}"
            )


if __name__ == "__main__":
    main()
