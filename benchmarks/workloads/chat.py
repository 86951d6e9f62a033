"""Conversations: four turns, everything said so far is the prompt of the next; nothing between them."""

from __future__ import annotations

import random
from typing import Any

import ramet
from benchmarks.workloads.base import Load, Size, Workload
from benchmarks.workloads.words import Words
from ramet import gen

__all__ = ["WORKLOADS"]


@ramet.function
def converse(s: Any, turns: list[tuple[str, int]]) -> None:
    for text, length in turns:
        s += text + gen("answer", max_tokens=length, ignore_eos=True)


def conversations(
    words: Words, size: Size, rng: random.Random, count: int, out: tuple[int, int]
) -> Load:
    items = []
    for number in size.programs(count):
        turns = [
            ("\n" + words.own(rng, number, size.draw(rng, 256, 512)), size.draw(rng, *out))
            for _ in range(4)
        ]
        items.append({"turns": turns})
    return Load(converse, items)


def short(words: Words, size: Size, rng: random.Random) -> Load:
    return conversations(words, size, rng, 6, (4, 8))


def long(words: Words, size: Size, rng: random.Random) -> Load:
    return conversations(words, size, rng, 4, (256, 512))


WORKLOADS = (
    Workload("chat_short", "4 turns of 256-512, 4-8 out", short),
    Workload("chat_long", "4 turns of 256-512, 256-512 out", long),
)
