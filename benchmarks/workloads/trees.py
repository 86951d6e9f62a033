"""Programs that branch again inside branches, or call other programs: tree and skeleton of thought."""

from __future__ import annotations

import random
from typing import Any

import ramet
from benchmarks.workloads.base import Load, Size, Workload
from benchmarks.workloads.words import Words
from ramet import assistant, gen, user

__all__ = ["WORKLOADS"]


@ramet.function
def tree_of_thought(s: Any, question: str, asks: list[str], lengths: list[Any], width: int) -> None:
    """Three levels (plan, answer, score), each forks what the one before wrote: 39 calls of width 3.
    `lengths[level]` holds a length for every branch of that level."""
    s += user(asks[0] + question)
    groups = []
    level = [s]
    for name, ask, caps in zip(("plan", "answer", "score"), (None, *asks[1:]), lengths):
        branches = []
        for state in level:
            if ask is not None:
                state += user(ask)
            groups.append(state.fork(width))
            branches += list(groups[-1])
        for branch, cap in zip(branches, caps):
            branch += assistant(gen(name, max_tokens=cap, ignore_eos=True))
        level = branches
    for group in reversed(groups):
        group.join()


def tot(words: Words, size: Size, rng: random.Random) -> Load:
    width, ranges = 3, ((50, 90), (80, 160), (60, 150))
    asks = [words.text(rng, size.tokens(count)) for count in (65, 45, 35)]
    items = []
    for number in size.programs(2):
        lengths = [
            [size.draw(rng, *outs) for _ in range(width ** (level + 1))]
            for level, outs in enumerate(ranges)
        ]
        question = "\n" + words.own(rng, number, size.tokens(90))
        items.append({"question": question, "asks": asks, "lengths": lengths, "width": width})
    return Load(tree_of_thought, items, concurrency=16, temperature=0.3)


@ramet.function
def expand(s: Any, examples: str, topic: str, tip: str, length: int) -> None:
    s += examples + topic + tip
    s += gen("paragraph", max_tokens=length, ignore_eos=True, temperature=0)


@ramet.function
def skeleton_of_thought(
    s: Any, topic: str, examples: str, tips: list[int], paragraphs: list[int]
) -> None:
    """Tips one after the other; each is expanded by a program of its own as soon as it is there, while
    the next tips are written. Then the paragraphs are put together."""
    s += topic
    for number, length in enumerate(tips):
        s += f"\n{number + 1}." + gen(f"tip{number}", max_tokens=length, ignore_eos=True)
    expanded = [
        expand.run(examples, topic, f"\n{number + 1}.{s[f'tip{number}']}", length, stream=True)
        for number, length in enumerate(paragraphs)
    ]
    for state in expanded:
        s += "\n" + state["paragraph"]


def skeleton(words: Words, size: Size, rng: random.Random) -> Load:
    examples = words.text(rng, size.tokens(330))
    items = []
    for number in size.programs(8):
        topic = "\n" + words.own(rng, number, size.tokens(55))
        tips = [size.draw(rng, 5, 12) for _ in range(5)]
        paragraphs = [size.draw(rng, 80, 128) for _ in range(5)]
        item = {"topic": topic, "examples": examples, "tips": tips, "paragraphs": paragraphs}
        items.append(item)
    return Load(skeleton_of_thought, items)


WORKLOADS = (
    Workload("tot", "tree of thought: 3 levels of 3 branches, 39 calls of 50-160 out", tot),
    Workload("skeleton", "skeleton of thought: 5 tips, 5 programs that expand them", skeleton),
)
