"""Fork, solve, merge: the LLM judge of many dimensions, and several chains of reasoning."""

from __future__ import annotations

import random
from typing import Any

import ramet
from benchmarks.workloads.base import Load, Size, Workload
from benchmarks.workloads.words import Words
from ramet import gen

__all__ = ["WORKLOADS"]


@ramet.function
def fork_and_merge(
    s: Any, shared: str, asks: list[str], lengths: list[int], closing: str, final: int
) -> None:
    """One branch per entry of `asks`; their texts are appended, and a last call sums up."""
    s += shared
    branches = s.fork(len(asks))
    for branch, ask, length in zip(branches, asks, lengths):
        branch += "\n" + ask + gen("part", max_tokens=length, ignore_eos=True)
    branches.join()
    for number, part in enumerate(s["part"]):
        s += f"\n{number + 1}:{part}"
    s += closing + gen("final", max_tokens=final, ignore_eos=True)


def judge(words: Words, size: Size, rng: random.Random) -> Load:
    """Six dimensions of an article, then a grade of two tokens."""
    system, closing = words.text(rng, size.tokens(30)), words.text(rng, size.tokens(20))
    instruction = words.text(rng, size.tokens(45))
    asks = [words.own(rng, i, size.draw(rng, 45, 75)) + instruction for i in range(6)]
    items = []
    for number in size.programs(4):
        article = "\n" + words.own(rng, number, size.draw(rng, 600, 900))
        lengths = [size.draw(rng, 90, 200) for _ in asks]
        items.append(_item(system + article, asks, lengths, closing, 2))
    return Load(fork_and_merge, items, concurrency=8)


def multi_chain(words: Words, size: Size, rng: random.Random) -> Load:
    """Five ways to begin to think about a question, then one answer from all."""
    asks = [words.own(rng, i, size.tokens(14)) for i in range(5)]
    closing = words.text(rng, size.tokens(20))
    items = []
    for number in size.programs(8):
        question = words.own(rng, number, size.draw(rng, 60, 90))
        lengths = [size.draw(rng, 80, 200) for _ in asks]
        items.append(_item(question, asks, lengths, closing, size.tokens(16)))
    return Load(fork_and_merge, items)


def _item(
    shared: str, asks: list[str], lengths: list[int], closing: str, final: int
) -> dict[str, Any]:
    closing = "\n" + closing
    return {
        "shared": shared,
        "asks": asks,
        "lengths": lengths,
        "closing": closing,
        "final": final,
    }


WORKLOADS = (
    Workload("judge", "article of 600-900, 6 branches of 90-200 out, merged, 2 out", judge),
    Workload(
        "multi_chain", "question of 75, 5 branches of 80-200 out, merged, 16 out", multi_chain
    ),
)
